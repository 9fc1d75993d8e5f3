/*
 * import.c
 *		Safetensors files of anyone into the store, and tensors of files as rows. Files are
 *		treated as hostile: headers are checked in full before anything is
 *		allocated by them, and data streams into the store in pieces.
 */
#include "base/compat.h"

#include "checkpoint/safetensors.h"
#include "checkpoint/tree.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define PIECE (1024 * 1024)

/* A safetensors file: on disk or in memory. */
typedef struct Input
{
	GaFile	   *file;			/* NULL: data */
	const char *data;
	uint64		size;
	uint64		data_begin;
	GaStHeader *header;
} Input;

static void
input_read(Input *input, uint64 offset, char *dst, size_t nbytes)
{
	if (input->file != NULL)
		ga_file_read(input->file, offset, dst, nbytes);
	else
		memcpy(dst, input->data + offset, nbytes);
}

/* Reads and checks the header. */
static void
input_parse(Input *input)
{
	char		prefix[GA_ST_PREFIX] = {0};
	uint64		len;
	char	   *json;

	input_read(input, 0, prefix, Min(GA_ST_PREFIX, input->size));
	len = ga_st_header_length(prefix, input->size);
	input->data_begin = GA_ST_PREFIX + len;
	json = palloc(len + 1);
	input_read(input, GA_ST_PREFIX, json, len);
	json[len] = '\0';
	input->header = ga_st_parse(json, len, input->size - input->data_begin);
	pfree(json);
}

static void
input_open_file(Input *input, const char *path)
{
	memset(input, 0, sizeof(Input));
	input->file = ga_file_open(path);
	input->size = ga_file_size(input->file);
	input_parse(input);
}

static void
input_close(Input *input)
{
	ga_st_free(input->header);
	if (input->file != NULL)
		ga_file_close(input->file);
}

/* The file of arguments path text, data bytea, of which exactly one is given. */
static void
input_from_arguments(Input *input, FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0) == PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("exactly one of path and data must be given")));
	if (!PG_ARGISNULL(0))
	{
		ga_files_require_read();
		input_open_file(input, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	}
	else
	{
		bytea	   *data = PG_GETARG_BYTEA_PP(1);

		memset(input, 0, sizeof(Input));
		input->data = VARDATA_ANY(data);
		input->size = VARSIZE_ANY_EXHDR(data);
		input_parse(input);
	}
}

/* Streams one tensor of a file into the store. */
static void
store_tensor(Input *input, const GaStTensor *tensor, GaHash *hash, uint64 *new_bytes)
{
	GaWriter   *writer = ga_writer_begin(tensor->dtype, tensor->ndim, tensor->dims);
	char	   *buffer = palloc(PIECE);

	for (uint64 at = 0; at < tensor->nbytes; at += PIECE)
	{
		size_t		piece = Min(PIECE, tensor->nbytes - at);

		CHECK_FOR_INTERRUPTS();
		input_read(input, input->data_begin + tensor->begin + at, buffer, piece);
		ga_writer_write(writer, buffer, piece);
	}
	ga_writer_finish(writer, hash);
	*new_bytes = ga_writer_new_bytes(writer);
	pfree(buffer);
}

/*
 * load_safetensors(path, data) stores every tensor of a file. Rows: (kind
 * 'metadata', name, value) for __metadata__, then (kind 'tensor', name, NULL,
 * tensor, nbytes, new_bytes) in the order of the data.
 */
PG_FUNCTION_INFO_V1(ga_load_safetensors);
Datum
ga_load_safetensors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext scratch;
	Input		input;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	input_from_arguments(&input, fcinfo);
	for (int i = 0; i < input.header->npairs; i++)
	{
		Datum		values[6] = {
			CStringGetTextDatum("metadata"),
			CStringGetTextDatum(input.header->pairs[i].key),
			CStringGetTextDatum(input.header->pairs[i].value)
		};
		bool		nulls[6] = {false, false, false, true, true, true};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	scratch = AllocSetContextCreate(CurrentMemoryContext, "imported tensor", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < input.header->ntensors; i++)
	{
		GaStTensor *tensor = &input.header->tensors[i];
		MemoryContext previous = MemoryContextSwitchTo(scratch);
		GaHash		hash;
		uint64		new_bytes;
		Datum		values[6];
		bool		nulls[6] = {false, false, true, false, false, false};

		store_tensor(&input, tensor, &hash, &new_bytes);
		values[0] = CStringGetTextDatum("tensor");
		values[1] = CStringGetTextDatum(tensor->name);
		values[2] = (Datum) 0;
		values[3] = ga_hash_to_datum(&hash);
		values[4] = Int64GetDatum(tensor->nbytes);
		values[5] = Int64GetDatum(new_bytes);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextSwitchTo(previous);
		MemoryContextReset(scratch);
	}
	input_close(&input);
	SPI_finish();
	PG_RETURN_NULL();
}

/* safetensors_metadata(path): a row (key, value) per entry of __metadata__. */
PG_FUNCTION_INFO_V1(ga_safetensors_metadata);
Datum
ga_safetensors_metadata(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Input		input;

	InitMaterializedSRF(fcinfo, 0);
	ga_files_require_read();
	input_open_file(&input, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	for (int i = 0; i < input.header->npairs; i++)
	{
		Datum		values[2] = {
			CStringGetTextDatum(input.header->pairs[i].key),
			CStringGetTextDatum(input.header->pairs[i].value)
		};
		bool		nulls[2] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	input_close(&input);
	PG_RETURN_NULL();
}

/* safetensors_header(path, data): a row (name, dtype, shape, first, nbytes) per tensor, first = byte of the file, 0-based. */
PG_FUNCTION_INFO_V1(ga_safetensors_header);
Datum
ga_safetensors_header(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Input		input;

	InitMaterializedSRF(fcinfo, 0);
	input_from_arguments(&input, fcinfo);
	for (int i = 0; i < input.header->ntensors; i++)
	{
		GaStTensor *tensor = &input.header->tensors[i];
		Datum		values[5] = {
			CStringGetTextDatum(tensor->name),
			CStringGetTextDatum(ga_dtype_name(tensor->dtype)),
			ga_shape_to_array(tensor->ndim, tensor->dims),
			Int64GetDatum(input.data_begin + tensor->begin),
			Int64GetDatum(tensor->nbytes)
		};
		bool		nulls[5] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	input_close(&input);
	PG_RETURN_NULL();
}

/* The hash by which the store would name a tensor of a file; stores nothing. */
static void
hash_tensor(Input *input, const GaStTensor *tensor, GaHash *hash)
{
	GaSpine    *spine = palloc(sizeof(GaSpine));
	char	   *buffer = palloc(GA_CHUNK_SIZE);
	GaHash		entry;

	ga_spine_begin(spine, tensor->nbytes, false);
	for (uint64 at = 0; at < tensor->nbytes; at += GA_CHUNK_SIZE)
	{
		size_t		piece = Min(GA_CHUNK_SIZE, tensor->nbytes - at);

		CHECK_FOR_INTERRUPTS();
		input_read(input, input->data_begin + tensor->begin + at, buffer, piece);
		ga_hash_chunk(buffer, piece, &entry);
		ga_spine_push(spine, &entry);
	}
	ga_spine_finish(spine, &entry);
	ga_hash_tensor(tensor->dtype, tensor->ndim, tensor->dims, &entry, hash);
	pfree(buffer);
	pfree(spine);
}

/* safetensors_hashes(path): a row (name, tensor) per tensor, its hash computed from the file's data. */
PG_FUNCTION_INFO_V1(ga_safetensors_hashes);
Datum
ga_safetensors_hashes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Input		input;

	InitMaterializedSRF(fcinfo, 0);
	ga_files_require_read();
	input_open_file(&input, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	for (int i = 0; i < input.header->ntensors; i++)
	{
		GaStTensor *tensor = &input.header->tensors[i];
		GaHash		hash;
		Datum		values[2];
		bool		nulls[2] = {false};

		hash_tensor(&input, tensor, &hash);
		values[0] = CStringGetTextDatum(tensor->name);
		values[1] = ga_hash_to_datum(&hash);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	input_close(&input);
	PG_RETURN_NULL();
}

/* ---- rows of a tensor ---- */

static GaStTensor *
find_tensor(Input *input, const char *path, const char *name)
{
	for (int i = 0; i < input->header->ntensors; i++)
		if (strcmp(input->header->tensors[i].name, name) == 0)
			return &input->header->tensors[i];
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("file \"%s\" has no tensor \"%s\"", path, name)));
	return NULL;
}

typedef Datum (*RowMaker) (const GaStTensor *tensor, const char *bytes, uint64 nbytes);

static Datum
state_row(const GaStTensor *tensor, const char *bytes, uint64 nbytes)
{
	char	   *data;
	GaTensor   *state = ga_tensor_new(&ga_kind_agent_state, tensor->dtype, tensor->ndim - 1, tensor->dims + 1, &data);

	memcpy(data, bytes, nbytes);
	return PointerGetDatum(ga_tensor_seal(&ga_kind_agent_state, state, NULL));
}

static Datum
number_row(const GaStTensor *tensor, const char *bytes, uint64 nbytes)
{
	float8		f;
	int64		i;

	memcpy(&f, bytes, sizeof(f));
	memcpy(&i, bytes, sizeof(i));
	return tensor->dtype == GA_F64 ? Float8GetDatum(f) : Int64GetDatum(i);
}

/* Puts a row for each entry of a tensor's first dimension. dtype 0 = any; rank -1 = any of at least 1. */
static void
put_tensor_rows(FunctionCallInfo fcinfo, int dtype, int rank, RowMaker make)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	MemoryContext scratch;
	Input		input;
	GaStTensor *tensor;
	uint64		width;
	uint64		block;
	char	   *buffer;

	ga_files_require_read();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	input_open_file(&input, path);
	tensor = find_tensor(&input, path, name);
	if ((dtype != 0 && tensor->dtype != dtype) || tensor->ndim < 1 || (rank >= 0 && tensor->ndim != rank) ||
		(tensor->dims[0] > 0 && (tensor->nbytes * 8 / tensor->dims[0]) % 8 != 0))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("tensor \"%s\" of file \"%s\" is %s%s, which these rows are not made of", name, path,
						ga_dtype_name(tensor->dtype), ga_shape_text(tensor->ndim, tensor->dims))));
	width = tensor->dims[0] == 0 ? 0 : tensor->nbytes / tensor->dims[0];
	if (width == 0 && tensor->dims[0] > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("rows of tensor \"%s\" of file \"%s\" have no bytes", name, path)));
	if (width > ga_kind_agent_state.max_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("rows of tensor \"%s\" of file \"%s\" have " UINT64_FORMAT " bytes", name, path, width)));

	/* Whole rows, about a piece of them at a time. */
	block = width == 0 ? 1 : Max(1, PIECE / width);
	buffer = palloc(Max(1, block * width));
	scratch = AllocSetContextCreate(CurrentMemoryContext, "row of a tensor", ALLOCSET_DEFAULT_SIZES);
	for (int64 row = 0; row < tensor->dims[0]; row += block)
	{
		int64		n = Min(block, tensor->dims[0] - row);

		CHECK_FOR_INTERRUPTS();
		input_read(&input, input.data_begin + tensor->begin + row * width, buffer, n * width);
		for (int64 i = 0; i < n; i++)
		{
			MemoryContext previous = MemoryContextSwitchTo(scratch);
			Datum		value = make(tensor, buffer + i * width, width);
			bool		isnull = false;

			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
			MemoryContextSwitchTo(previous);
			MemoryContextReset(scratch);
		}
	}
	input_close(&input);
}

/* read_states(path, tensor): agent_state per row. */
PG_FUNCTION_INFO_V1(ga_read_states);
Datum
ga_read_states(PG_FUNCTION_ARGS)
{
	put_tensor_rows(fcinfo, 0, -1, state_row);
	PG_RETURN_NULL();
}

/* read_floats(path, tensor): the numbers of an F64 vector. */
PG_FUNCTION_INFO_V1(ga_read_floats);
Datum
ga_read_floats(PG_FUNCTION_ARGS)
{
	put_tensor_rows(fcinfo, GA_F64, 1, number_row);
	PG_RETURN_NULL();
}

/* read_integers(path, tensor): the numbers of an I64 vector. */
PG_FUNCTION_INFO_V1(ga_read_integers);
Datum
ga_read_integers(PG_FUNCTION_ARGS)
{
	put_tensor_rows(fcinfo, GA_I64, 1, number_row);
	PG_RETURN_NULL();
}
