/*
 * upload.c
 *		SQL functions of the store: whole tensors in and out of it, and the
 *		multi-part path for tensors that no value can hold.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/delta.h"
#include "store/doom.h"
#include "store/store.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

/* Bytes of a piece that swarm_chunks() aims at. */
#define PIECE_SIZE (8 * 1024 * 1024)

static void
connect_spi(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

/* For volatile functions that read: they see what the calling statement stored before them. */
static void
connect_spi_fresh(void)
{
	connect_spi();
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
finish_spi_fresh(void)
{
	PopActiveSnapshot();
	SPI_finish();
}

/* A result that outlives SPI_finish. */
static Datum
finish_with_hash(const GaHash *hash)
{
	SPI_finish();
	return ga_hash_to_datum(hash);
}

/* A tensor's hash as an argument that may be NULL. */
static void
previous_argument(FunctionCallInfo fcinfo, int n, GaWriter *writer)
{
	GaHash		previous;

	if (PG_ARGISNULL(n))
		return;
	ga_hash_from_datum(PG_GETARG_DATUM(n), &previous);
	ga_writer_previous(writer, &previous);
}

/* put_tensor(data swarm_tensor, previous bytea) bytea */
PG_FUNCTION_INFO_V1(ga_put_tensor);
Datum
ga_put_tensor(PG_FUNCTION_ARGS)
{
	GaView		view;
	GaWriter   *writer;
	GaHash		hash;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	GA_GETARG_VIEW(0, &view);
	connect_spi();
	writer = ga_writer_begin(view.dtype, view.ndim, view.dims);
	previous_argument(fcinfo, 1, writer);
	ga_writer_write(writer, view.data, view.nbytes);
	ga_writer_finish(writer, &hash);
	PG_RETURN_DATUM(finish_with_hash(&hash));
}

/* Bytes of a row of dimension 0; 0A000 when rows of a packed dtype do not fill whole bytes. */
static uint64
row_bytes(int dtype, int ndim, const int64 *dims)
{
	uint64		nelem,
				nbytes;
	int64		row[GA_MAX_RANK];

	if (ndim == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("a tensor of rank 0 has no rows")));
	memcpy(row, dims, sizeof(int64) * ndim);
	row[0] = 1;
	if (!ga_shape_size(dtype, ndim, row, &nelem, &nbytes))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows of packed dtype %s do not fill whole bytes here", ga_dtype_name(dtype))));
	return nbytes;
}

/* Throws 22000 unless data has the dtype and the row shape of a stored tensor. */
static void
require_same_rows(const GaReader *reader, const GaView *data)
{
	if (data->dtype != reader->dtype || data->ndim != reader->ndim || data->ndim == 0 ||
		memcmp(data->dims + 1, reader->dims + 1, sizeof(int64) * (data->ndim - 1)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("rows of %s%s do not fit %s%s", ga_dtype_name(data->dtype), ga_shape_text(data->ndim, data->dims),
						ga_dtype_name(reader->dtype), ga_shape_text(reader->ndim, reader->dims))));
}

/* Continues a stored tensor with rows that must fit it. */
static GaWriter *
begin_append(Datum tensor, const GaView *rows)
{
	GaHash		base;
	GaReader   *reader;
	int64		dims[GA_MAX_RANK];

	ga_hash_from_datum(tensor, &base);
	reader = ga_reader_open(&base);
	require_same_rows(reader, rows);
	memcpy(dims, reader->dims, sizeof dims);
	if (__builtin_add_overflow(dims[0], rows->dims[0], &dims[0]))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many rows")));
	ga_reader_close(reader);
	return ga_writer_append(&base, dims);
}

/* append_tensor(base bytea, data swarm_tensor, previous bytea) bytea: base NULL begins a tensor. */
PG_FUNCTION_INFO_V1(ga_append_tensor);
Datum
ga_append_tensor(PG_FUNCTION_ARGS)
{
	GaView		view;
	GaHash		hash;
	GaWriter   *writer;

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	GA_GETARG_VIEW(1, &view);
	row_bytes(view.dtype, view.ndim, view.dims);
	connect_spi_fresh();
	if (PG_ARGISNULL(0))
		writer = ga_writer_begin(view.dtype, view.ndim, view.dims);
	else
		writer = begin_append(PG_GETARG_DATUM(0), &view);
	previous_argument(fcinfo, 2, writer);
	ga_writer_write(writer, view.data, view.nbytes);
	ga_writer_finish(writer, &hash);
	finish_spi_fresh();
	PG_RETURN_DATUM(ga_hash_to_datum(&hash));
}

/* patch_tensor(base bytea, start bigint, data swarm_tensor) bytea: replaces rows from 1-based start. */
PG_FUNCTION_INFO_V1(ga_patch_tensor);
Datum
ga_patch_tensor(PG_FUNCTION_ARGS)
{
	int64		start = PG_GETARG_INT64(1);
	GaView		view;
	GaHash		base,
				hash;
	GaReader   *reader;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &base);
	GA_GETARG_VIEW(2, &view);
	connect_spi_fresh();
	reader = ga_reader_open(&base);
	require_same_rows(reader, &view);
	if (start < 1 || view.dims[0] > reader->dims[0] || start - 1 > reader->dims[0] - view.dims[0])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(INT64_FORMAT " rows from row " INT64_FORMAT " on are outside a tensor of " INT64_FORMAT " rows",
						view.dims[0], start, reader->dims[0])));
	ga_reader_close(reader);
	ga_store_patch(&base, (start - 1) * row_bytes(view.dtype, view.ndim, view.dims), view.data, view.nbytes, &hash);
	finish_spi_fresh();
	PG_RETURN_DATUM(ga_hash_to_datum(&hash));
}

/* Clips 1-based rows as substring does; count < 0 stands for "to the end". */
static void
clip_rows(int64 start, int64 count, int64 n, int64 *first, int64 *length)
{
	int64		end;			/* 0-based, exclusive */

	if (count < 0 || __builtin_add_overflow(start, count - 1, &end))
		end = start > 0 || count < 0 ? n : 0;
	end = Min(end, n);
	*first = Max(start, 1) - 1;
	*length = Max(end - *first, 0);
}

static int64
count_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return -1;
	if (PG_GETARG_INT64(n) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("count must not be negative")));
	return PG_GETARG_INT64(n);
}

/* Reads rows [first, first + length) as a value that outlives SPI. */
static GaTensor *
read_rows(GaReader *reader, int64 first, int64 length, MemoryContext result)
{
	int64		dims[GA_MAX_RANK];
	uint64		stride = row_bytes(reader->dtype, reader->ndim, reader->dims);
	MemoryContext old = MemoryContextSwitchTo(result);
	GaTensor   *tensor;
	char	   *data;

	memcpy(dims, reader->dims, sizeof dims);
	dims[0] = length;
	tensor = ga_tensor_new(&ga_kind_swarm_tensor, reader->dtype, reader->ndim, dims, &data);
	MemoryContextSwitchTo(old);
	ga_reader_read(reader, first * stride, length * stride, data, false);
	return ga_tensor_seal(&ga_kind_swarm_tensor, tensor, NULL);
}

/* get_tensor(tensor bytea, start bigint, count bigint) swarm_tensor */
PG_FUNCTION_INFO_V1(ga_get_tensor);
Datum
ga_get_tensor(PG_FUNCTION_ARGS)
{
	MemoryContext result = CurrentMemoryContext;
	GaHash		hash;
	GaReader   *reader;
	GaTensor   *tensor;
	int64		start;
	int64		count;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	start = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT64(1);
	count = count_argument(fcinfo, 2);
	connect_spi();
	reader = ga_reader_open(&hash);
	if (start == 1 && count < 0)
	{
		char	   *data;
		MemoryContext old = MemoryContextSwitchTo(result);

		tensor = ga_tensor_new(&ga_kind_swarm_tensor, reader->dtype, reader->ndim, reader->dims, &data);
		MemoryContextSwitchTo(old);
		ga_reader_read(reader, 0, reader->nbytes, data, false);
		ga_tensor_seal(&ga_kind_swarm_tensor, tensor, NULL);
	}
	else
	{
		int64		first,
					length;

		row_bytes(reader->dtype, reader->ndim, reader->dims);
		clip_rows(start, count, reader->dims[0], &first, &length);
		tensor = read_rows(reader, first, length, result);
	}
	SPI_finish();
	PG_RETURN_POINTER(tensor);
}

/* ---- pieces: one call of the set-returning functions reads one piece ---- */

typedef struct Pieces
{
	GaHash		hash;
	int64		next;			/* 0-based row or chunk */
	int64		end;
	int64		step;
} Pieces;

/* tensor_pieces(tensor bytea, start bigint, count bigint) TABLE(start bigint, data swarm_tensor) */
PG_FUNCTION_INFO_V1(ga_tensor_pieces);
Datum
ga_tensor_pieces(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	MemoryContext result = CurrentMemoryContext;
	Pieces	   *p;
	GaReader   *reader;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int64		length;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		TupleDesc	desc;
		uint64		stride;
		int64		first;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		funcctx->tuple_desc = BlessTupleDesc(desc);
		p = funcctx->user_fctx = palloc0(sizeof(Pieces));
		MemoryContextSwitchTo(old);
		if (!PG_ARGISNULL(0))
		{
			ga_hash_from_datum(PG_GETARG_DATUM(0), &p->hash);
			connect_spi();
			reader = ga_reader_open(&p->hash);
			stride = row_bytes(reader->dtype, reader->ndim, reader->dims);
			clip_rows(PG_ARGISNULL(1) ? 1 : PG_GETARG_INT64(1), count_argument(fcinfo, 2), reader->dims[0],
					  &first, &length);
			p->next = first;
			p->end = first + length;
			p->step = stride == 0 ? PG_INT64_MAX : Max(PIECE_SIZE / stride, 1);
			SPI_finish();
		}
	}
	funcctx = SRF_PERCALL_SETUP();
	p = funcctx->user_fctx;
	if (p->next >= p->end)
		SRF_RETURN_DONE(funcctx);

	length = Min(p->step, p->end - p->next);
	connect_spi();
	reader = ga_reader_open(&p->hash);
	values[0] = Int64GetDatum(p->next + 1);
	values[1] = PointerGetDatum(read_rows(reader, p->next, length, result));
	SPI_finish();
	p->next += length;
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}

/* tensor_chunks(tensor bytea, start bigint, count bigint) TABLE(ordinal bigint, data swarm_tensor) */
PG_FUNCTION_INFO_V1(ga_tensor_chunks);
Datum
ga_tensor_chunks(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	MemoryContext result = CurrentMemoryContext;
	MemoryContext old;
	Pieces	   *p;
	GaReader   *reader;
	GaTensor   *tensor;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int64		length;
	char	   *data;
	int			dtype;

	if (SRF_IS_FIRSTCALL())
	{
		TupleDesc	desc;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		funcctx->tuple_desc = BlessTupleDesc(desc);
		p = funcctx->user_fctx = palloc0(sizeof(Pieces));
		MemoryContextSwitchTo(old);
		if (!PG_ARGISNULL(0))
		{
			ga_hash_from_datum(PG_GETARG_DATUM(0), &p->hash);
			connect_spi();
			reader = ga_reader_open(&p->hash);
			clip_rows(PG_ARGISNULL(1) ? 1 : PG_GETARG_INT64(1), count_argument(fcinfo, 2), reader->nchunks,
					  &p->next, &length);
			p->end = p->next + length;
			SPI_finish();
		}
	}
	funcctx = SRF_PERCALL_SETUP();
	p = funcctx->user_fctx;
	if (p->next >= p->end)
		SRF_RETURN_DONE(funcctx);

	connect_spi();
	reader = ga_reader_open(&p->hash);
	length = ga_tree_span(reader->nbytes, 0, p->next);
	/* Elements of 1, 2, 4 or 8 bytes never straddle a chunk; packed ones come as bytes. */
	dtype = ga_dtype_info(reader->dtype)->bits % 8 == 0 ? reader->dtype : GA_U8;
	length /= ga_dtype_info(dtype)->width;
	old = MemoryContextSwitchTo(result);
	tensor = ga_tensor_new(&ga_kind_swarm_tensor, dtype, 1, &length, &data);
	MemoryContextSwitchTo(old);
	ga_reader_read(reader, p->next * GA_CHUNK_SIZE, length * ga_dtype_info(dtype)->width, data, false);
	SPI_finish();
	values[0] = Int64GetDatum(++p->next);
	values[1] = PointerGetDatum(ga_tensor_seal(&ga_kind_swarm_tensor, tensor, NULL));
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}

/* store_chunk(data swarm_tensor) bytea */
PG_FUNCTION_INFO_V1(ga_store_chunk);
Datum
ga_store_chunk(PG_FUNCTION_ARGS)
{
	GaView		view;
	GaHash		hash;

	GA_GETARG_VIEW(0, &view);
	if (view.nbytes < 1 || view.nbytes > GA_CHUNK_SIZE)
		ereport(ERROR,
				(errcode(view.nbytes < 1 ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a chunk has 1 to %d bytes, not " UINT64_FORMAT, GA_CHUNK_SIZE, view.nbytes),
				 errhint("Every chunk of a tensor has exactly %d bytes, except the last.", GA_CHUNK_SIZE)));
	connect_spi();
	ga_hash_chunk(view.data, view.nbytes, &hash);
	/* A new row is young; an old one may be about to become garbage. */
	if (ga_chunk_store(view.data, view.nbytes, ga_dtype_info(view.dtype)->width, &hash) == 0)
		ga_upload_note(&hash);
	PG_RETURN_DATUM(finish_with_hash(&hash));
}

/* Hashes of a bytea[]; 22004 for a NULL among them. */
static GaHash *
hashes_argument(ArrayType *array, int *n)
{
	Datum	   *elems;
	bool	   *nulls;
	GaHash	   *hashes;

	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, &elems, &nulls, n);
	hashes = palloc(sizeof(GaHash) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("hashes must not contain NULLs")));
		ga_hash_from_datum(elems[i], &hashes[i]);
	}
	return hashes;
}

/* True unless the caller may refer to the chunk. */
static bool
is_missing(const GaHash *chunk)
{
	size_t		nbytes;

	if (ga_doomed(chunk))
		return true;
	nbytes = ga_chunk_size(chunk);
	return nbytes == 0 || (IsolationUsesXactSnapshot() && !ga_chunk_exists(chunk, nbytes));
}

/* missing_chunks(hashes bytea[]) SETOF bytea */
PG_FUNCTION_INFO_V1(ga_missing_chunks);
Datum
ga_missing_chunks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			n;
	GaHash	   *hashes = hashes_argument(PG_GETARG_ARRAYTYPE_P(0), &n);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	connect_spi();
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_missing(&hashes[i]))
		{
			Datum		value = ga_hash_to_datum(&hashes[i]);
			bool		isnull = false;

			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
			pfree(DatumGetPointer(value));
		}
		else
			ga_upload_note(&hashes[i]);
	}
	SPI_finish();
	return (Datum) 0;
}

/* store_tensor(dtype text, shape bigint[], chunks bytea[]) bytea */
PG_FUNCTION_INFO_V1(ga_store_tensor);
Datum
ga_store_tensor(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);
	int			dtype = ga_dtype_from_text(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	int64		dims[GA_MAX_RANK];
	int			ndim = ga_shape_from_array(PG_GETARG_DATUM(1), dims);
	int			n;
	GaHash	   *chunks = hashes_argument(PG_GETARG_ARRAYTYPE_P(2), &n);
	GaSpine		spine;
	uint64		nelem,
				nbytes;
	GaHash		root,
				hash;

	if (!ga_shape_size(dtype, ndim, dims, &nelem, &nbytes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid shape %s for dtype %s", ga_shape_text(ndim, dims), ga_dtype_name(dtype))));
	if ((nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s%s has " UINT64_FORMAT " chunks, not %d", ga_dtype_name(dtype), ga_shape_text(ndim, dims),
						(nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE, n)));
	connect_spi();
	for (int i = 0; i < n; i++)
	{
		size_t		size = ga_chunk_keep(&chunks[i]);

		CHECK_FOR_INTERRUPTS();
		if (size == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("chunk %s does not exist", ga_hash_text(&chunks[i])),
					 errhint("Ask gpuagent.missing_chunks() and send those with gpuagent.store_chunk().")));
		if (size != ga_tree_span(nbytes, 0, i))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("chunk %d has %zu bytes, it should have " UINT64_FORMAT, i + 1, size,
							ga_tree_span(nbytes, 0, i))));
	}
	ga_spine_begin(&spine, nbytes, true);
	for (int i = 0; i < n; i++)
		ga_spine_push(&spine, &chunks[i]);
	ga_spine_finish(&spine, &root);
	ga_hash_tensor(dtype, ndim, dims, &root, &hash);
	if (!ga_tensor_row_store(dtype, ndim, dims, nbytes, &root, &hash))
		ga_upload_note(&hash);
	PG_RETURN_DATUM(finish_with_hash(&hash));
}

/* keep_tensor(tensor bytea) boolean: for whoever will refer to it (doom.h). */
PG_FUNCTION_INFO_V1(ga_keep_tensor);
Datum
ga_keep_tensor(PG_FUNCTION_ARGS)
{
	GaHash		hash;
	bool		kept;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	connect_spi();
	kept = ga_tensor_keep(&hash);
	SPI_finish();
	PG_RETURN_BOOL(kept);
}

/* doom_pending() boolean */
PG_FUNCTION_INFO_V1(ga_doom_pending_sql);
Datum
ga_doom_pending_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ga_doom_pending());
}

/* tensor_hash(data swarm_tensor) bytea: the identity without storing anything. */
PG_FUNCTION_INFO_V1(ga_tensor_hash);
Datum
ga_tensor_hash(PG_FUNCTION_ARGS)
{
	GaView		view;
	GaSpine		spine;
	GaHash		root,
				hash;

	GA_GETARG_VIEW(0, &view);
	ga_spine_begin(&spine, view.nbytes, false);
	for (uint64 offset = 0; offset < view.nbytes; offset += GA_CHUNK_SIZE)
	{
		CHECK_FOR_INTERRUPTS();
		ga_hash_chunk(view.data + offset, Min(GA_CHUNK_SIZE, view.nbytes - offset), &hash);
		ga_spine_push(&spine, &hash);
	}
	ga_spine_finish(&spine, &root);
	ga_hash_tensor(view.dtype, view.ndim, view.dims, &root, &hash);
	PG_RETURN_DATUM(ga_hash_to_datum(&hash));
}

/* tensor_problem(tensor bytea) text: NULL when it is whole. */
PG_FUNCTION_INFO_V1(ga_tensor_problem_sql);
Datum
ga_tensor_problem_sql(PG_FUNCTION_ARGS)
{
	GaHash		hash;
	char	   *problem;
	MemoryContext result = CurrentMemoryContext;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	connect_spi_fresh();
	problem = ga_tensor_problem(&hash, true);
	if (problem)
		problem = MemoryContextStrdup(result, problem);
	finish_spi_fresh();
	if (problem == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(problem));
}
