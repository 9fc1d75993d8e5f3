/*
 * verify.c
 *		Checks of stored tensors: whether all their rows are there, whether every
 *		chunk decodes and has its hash, and how many values are NaN or infinite.
 *
 * Contents of many tensors are checked by several processes (store/parallel.h).
 * Damage is rare, and an error in one process ends all: so tensors are checked in
 * batches, and only those of a batch that failed are looked at one by one.
 */
#include "base/compat.h"

#include <math.h>

#include "base/progress.h"
#include "base/throttle.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "store/parallel.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define BLOCK 4096				/* values widened at a time */

/* tensor_gap(tensor): NULL when every row of a tensor is there, with the size it should have; reads no contents. */
PG_FUNCTION_INFO_V1(ga_tensor_gap);
Datum
ga_tensor_gap(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	GaHash		hash;
	char	   *problem;
	text	   *result = NULL;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	SPI_connect();
	problem = ga_tensor_problem(&hash, false);
	if (problem != NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(caller);

		result = cstring_to_text(problem);
		MemoryContextSwitchTo(previous);
	}
	SPI_finish();
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* Values of a piece of a tensor that are NaN or infinite; none in dtypes that are not float. */
static uint64
count_nonfinite(int dtype, const char *data, size_t nbytes)
{
	size_t		width = ga_dtype_info(dtype)->width;
	uint64		count = 0;
	double		wide[BLOCK];

	if (ga_dtype_info(dtype)->cls != GA_CLASS_FLOAT)
		return 0;
	for (size_t at = 0; at < nbytes; at += BLOCK * width)
	{
		size_t		n = Min(BLOCK, (nbytes - at) / width);

		ga_widen_f64(dtype, data + at, wide, n);
		for (size_t i = 0; i < n; i++)
			count += !isfinite(wide[i]);
	}
	return count;
}

/* tensor_nonfinite(tensor): number of NaN and infinite values; NULL for a dtype that is not F64, F32, F16 or BF16. */
PG_FUNCTION_INFO_V1(ga_tensor_nonfinite);
Datum
ga_tensor_nonfinite(PG_FUNCTION_ARGS)
{
	GaHash		hash;
	GaReader   *reader;
	char	   *buffer;
	uint64		count = 0;
	bool		is_float;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	SPI_connect();
	reader = ga_reader_open(&hash);
	is_float = ga_dtype_info(reader->dtype)->cls == GA_CLASS_FLOAT;
	buffer = palloc(GA_CHUNK_SIZE);
	for (uint64 at = 0; is_float && at < reader->nbytes; at += GA_CHUNK_SIZE)
	{
		uint64		piece = Min(GA_CHUNK_SIZE, reader->nbytes - at);

		CHECK_FOR_INTERRUPTS();
		ga_reader_read(reader, at, piece, buffer, false);
		count += count_nonfinite(reader->dtype, buffer, piece);
	}
	ga_reader_close(reader);
	SPI_finish();
	if (!is_float)
		PG_RETURN_NULL();
	PG_RETURN_INT64(count);
}

/* ---- many tensors ---- */

/* A batch ends with the tensor that makes it as large as one of the two. */
#define BATCH_BYTES (UINT64CONST(1) << 30)
#define BATCH_TENSORS 1024

typedef struct Batch
{
	bool		deep;			/* count values that are NaN or infinite, too */
	int			count;
	GaParallelTensor *tensors;
	uint64	   *nonfinite;		/* result, of each tensor */
} Batch;

/* What the participants share. */
typedef struct Shared
{
	bool		deep;
	pg_atomic_uint64 nonfinite[FLEXIBLE_ARRAY_MEMBER];	/* of each tensor */
} Shared;

extern PGDLLEXPORT void ga_verify_work(GaParallel *run);

static void
verify_chunk(GaParallel *run, const GaParallelRange *range, uint64 chunk, char *data)
{
	Shared	   *shared = run->shared;
	size_t		nbytes = ga_tree_span(range->reader->nbytes, 0, chunk);

	CHECK_FOR_INTERRUPTS();
	ga_throttle(nbytes);
	ga_reader_read(range->reader, chunk * GA_CHUNK_SIZE, nbytes, data, true);
	if (shared->deep)
		pg_atomic_fetch_add_u64(&shared->nonfinite[range->tensor], count_nonfinite(range->reader->dtype, data, nbytes));
	ga_progress_add(0, nbytes);
}

void
ga_verify_work(GaParallel *run)
{
	char	   *data = palloc(GA_CHUNK_SIZE);
	GaParallelRange range;

	while (ga_parallel_claim(run, &range))
		for (uint64 i = 0; i < range.count; i++)
			verify_chunk(run, &range, range.first + i, data);
	pfree(data);
}

/* Throws when a tensor of the batch is damaged. */
static void
verify_batch(void *arg)
{
	Batch	   *batch = arg;
	uint64		nchunks = 0;
	GaParallel *run;
	Shared	   *shared;

	for (int i = 0; i < batch->count; i++)
	{
		/* Checks the row of a tensor of no bytes, too, which no participant meets. */
		GaReader   *reader = ga_reader_open(&batch->tensors[i].hash);

		batch->tensors[i].nbytes = reader->nbytes;
		ga_reader_close(reader);
		nchunks += (batch->tensors[i].nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE;
	}
	run = ga_parallel_prepare("ga_verify_work", ga_parallel_workers(nchunks), batch->tensors, batch->count,
							  offsetof(Shared, nonfinite) + sizeof(pg_atomic_uint64) * batch->count);
	shared = run->shared;
	shared->deep = batch->deep;
	for (int i = 0; i < batch->count; i++)
		pg_atomic_init_u64(&shared->nonfinite[i], 0);
	ga_parallel_execute(run);
	for (int i = 0; i < batch->count; i++)
		batch->nonfinite[i] = pg_atomic_read_u64(&shared->nonfinite[i]);
	ga_parallel_end(run);
}

static void
put_finding(ReturnSetInfo *rsinfo, const GaHash *tensor, const char *problem, uint64 nonfinite)
{
	Datum		values[3] = {ga_hash_to_datum(tensor), problem ? CStringGetTextDatum(problem) : (Datum) 0, Int64GetDatum(nonfinite)};
	bool		nulls[3] = {false, problem == NULL, false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Puts a row for each tensor of a batch that is damaged or has values that are not finite. */
static void
report_batch(ReturnSetInfo *rsinfo, Batch *batch)
{
	if (ga_store_attempt(verify_batch, batch) == NULL)
	{
		for (int i = 0; i < batch->count; i++)
			if (batch->nonfinite[i] > 0)
				put_finding(rsinfo, &batch->tensors[i].hash, NULL, batch->nonfinite[i]);
	}
	else
		for (int i = 0; i < batch->count; i++)
		{
			Batch		single = {batch->deep, 1, &batch->tensors[i], &batch->nonfinite[i]};
			char	   *problem = ga_store_attempt(verify_batch, &single);

			if (problem != NULL || batch->nonfinite[i] > 0)
				put_finding(rsinfo, &batch->tensors[i].hash, problem, problem ? 0 : batch->nonfinite[i]);
		}
	ga_progress_add(batch->count, 0);
}

/*
 * tensor_problems(tensors, nbytes, deep): a row (tensor, problem, nonfinite) for each tensor that is damaged or missing
 * (problem says how) or, with deep, has values that are NaN or infinite. nbytes are their raw bytes, 0 when unknown, by
 * which they are put together.
 */
PG_FUNCTION_INFO_V1(ga_tensor_problems);
Datum
ga_tensor_problems(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *hashes;
	Datum	   *sizes;
	bool	   *nulls;
	int			count;
	int			nsizes;
	uint64		total = 0;
	GaParallelTensor *tensors;
	uint64	   *nonfinite;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), BYTEAOID, -1, false, TYPALIGN_INT, &hashes, &nulls, &count);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &sizes, NULL, &nsizes);
	if (nsizes != count)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arrays have %d and %d elements", count, nsizes)));
	tensors = palloc_extended(sizeof(GaParallelTensor) * Max(count, 1), MCXT_ALLOC_HUGE);
	nonfinite = palloc_extended(sizeof(uint64) * Max(count, 1), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("array element %d must not be NULL", i + 1)));
		ga_hash_from_datum(hashes[i], &tensors[i].hash);
		tensors[i].nbytes = Max(DatumGetInt64(sizes[i]), 0);
		total += tensors[i].nbytes;
	}
	ga_progress_phase("verifying tensors", count, total);
	SPI_connect();
	for (int i = 0, next; i < count; i = next)
	{
		uint64		nbytes = 0;
		Batch		batch = {PG_GETARG_BOOL(2), 0, &tensors[i], &nonfinite[i]};

		for (next = i; next < count && next - i < BATCH_TENSORS && nbytes < BATCH_BYTES; next++)
			nbytes += tensors[next].nbytes;
		batch.count = next - i;
		report_batch(rsinfo, &batch);
	}
	SPI_finish();
	PG_RETURN_NULL();
}
