/*
 * recode.c
 *		Reads chunks and packs them anew (recode.h).
 *
 * Leader and workers claim tasks from a counter until none is left. Workers read
 * under the leader's snapshot and as the owner of the tables. They leave what
 * they made in shared memory; the leader writes it when it has left parallel
 * mode. Damage that is met there ends the whole batch, since workers have no
 * subtransactions; the leader then goes through it alone, task by task.
 */
#include "base/compat.h"

#include "access/detoast.h"
#include "access/parallel.h"
#include "access/xact.h"
#include "base/guc.h"
#include "base/priority.h"
#include "base/progress.h"
#include "base/throttle.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "math/shuffle.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "store/delta.h"
#include "store/plan.h"
#include "store/recode.h"
#include "store/table.h"

/* A worker is worth its start when it has at least so many tasks. */
#define TASKS_PER_WORKER 8

#define KEY_SHARED 1

typedef struct SharedRecode
{
	int			n;
	int			lowered;		/* the leader's priority: workers take it over */
	pg_atomic_uint32 next;		/* first task that nobody has claimed */
	GaRecode	tasks[GA_RECODE_BATCH];
	char		slots[FLEXIBLE_ARRAY_MEMBER];	/* n of GA_CHUNK_SIZE */
} SharedRecode;

/* What a process needs to work. */
typedef struct Bench
{
	char	   *content;
	char	   *base;
	char	   *leaves;
	char	   *base_leaves;
} Bench;

extern PGDLLEXPORT void ga_recode_worker(dsm_segment *seg, shm_toc *toc);

static GaPlan rows_plan;
static const Oid rows_types[] = {BYTEAOID};

/* ---- one task ---- */

static void
bench_begin(Bench *b)
{
	b->content = palloc(GA_CHUNK_SIZE);
	b->base = palloc(GA_CHUNK_SIZE);
	b->leaves = palloc(GA_CHUNK_SIZE);
	b->base_leaves = palloc(GA_CHUNK_SIZE);
}

static void
bench_end(Bench *b)
{
	pfree(b->content);
	pfree(b->base);
	pfree(b->leaves);
	pfree(b->base_leaves);
}

static bool
has_hash(const char *data, size_t nbytes, const GaHash *hash)
{
	GaHash		found;

	ga_hash_chunk(data, nbytes, &found);
	return memcmp(&found, hash, sizeof found) == 0;
}

/* Decodes a row of the result into content; false when it is damaged. */
static bool
decode_result(uint64 i, GaRecode *task, char *content)
{
	HeapTuple	row = SPI_tuptable->vals[i];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	Datum		value[6];

	for (int c = 0; c < 6; c++)
	{
		bool		isnull;

		value[c] = SPI_getbinval(row, desc, c + 1, &isnull);
		if (isnull)
			return false;
	}
	task->nbytes = DatumGetInt32(value[1]);
	task->width = DatumGetInt16(value[3]);
	task->crc = (uint32) DatumGetInt32(value[5]);
	if (task->nbytes < 1 || task->nbytes > GA_CHUNK_SIZE)
		return false;
	task->row = *(ItemPointer) DatumGetPointer(value[0]);
	task->stored = toast_raw_datum_size(value[4]) - VARHDRSZ;
	return ga_chunk_unpack(value[4], DatumGetInt16(value[2]), task->width, content, task->nbytes) == NULL &&
		ga_crc32c(content, task->nbytes) == task->crc && has_hash(content, task->nbytes, &task->hash);
}

/* The smallest row of the chunk that is whole; false when there is none. */
static bool
read_rows(GaRecode *task, char *content)
{
	Datum		hash = ga_hash_to_datum(&task->hash);
	bool		found = false;
	uint64		n;

	if (!ga_plan_ready(&rows_plan, 1, rows_types))
		ga_plan_prepare(&rows_plan,
						"SELECT ctid, nbytes::pg_catalog.int4, codec::pg_catalog.int2, width::pg_catalog.int2, data::pg_catalog.bytea, "
						"crc::pg_catalog.int4 FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1 "
						"ORDER BY pg_catalog.octet_length(data), ctid", 1, rows_types, CURSOR_OPT_GENERIC_PLAN);
	n = ga_plan_run(&rows_plan, &hash, NULL, true, NULL);
	for (uint64 i = 0; i < n && !found; i++)
		found = decode_result(i, task, content);
	SPI_freetuptable(SPI_tuptable);
	pfree(DatumGetPointer(hash));
	return found;
}

/* Packs bytes into the slot, once it is known that they come out of it again. */
static void
pack(GaRecode *task, const char *data, size_t nbytes, char *slot, char *scratch)
{
	bytea	   *packed = ga_chunk_pack(data, nbytes, task->width, true, &task->codec);

	task->size = VARSIZE(packed) - VARHDRSZ;
	if (ga_chunk_unpack(PointerGetDatum(packed), task->codec, task->width, scratch, nbytes) != NULL ||
		memcmp(scratch, data, nbytes) != 0)
		elog(ERROR, "a chunk does not decode to what it was encoded from");
	memcpy(slot, VARDATA(packed), task->size);
	pfree(packed);
}

static bool
read_delta(GaRecode *task, char *content)
{
	GaHash		base;

	if (!ga_delta_find(&task->hash, &base, &task->leaves))
		return false;
	task->base = base;
	task->nbytes = ga_chunk_row_size(&base, NULL);
	return task->nbytes > 0 && task->nbytes <= GA_CHUNK_SIZE && ga_delta_load(&task->hash, task->nbytes, content) &&
		has_hash(content, task->nbytes, &task->hash);
}

static bool
make_delta(GaRecode *task, Bench *b, char *slot)
{
	size_t		size;

	if (!read_rows(task, b->content) || !ga_chunk_load_row(&task->base, task->nbytes, b->base))
		return false;
	task->leaves = ga_delta_mask(b->content, b->base, task->nbytes);
	if (task->leaves == 0 || !has_hash(b->base, task->nbytes, &task->base))
		return false;
	size = ga_delta_leaves(b->content, task->nbytes, task->leaves, b->leaves);
	task->crc = ga_delta_checksum(&task->base, task->leaves, b->leaves, size);
	(void) ga_delta_leaves(b->base, task->nbytes, task->leaves, b->base_leaves);
	ga_xor(b->leaves, b->leaves, b->base_leaves, size);
	pack(task, b->leaves, size, slot, b->base_leaves);
	return true;
}

static void
do_task(GaRecode *task, Bench *b, char *slot)
{
	GaTableUser user = ga_table_enter_owner("chunk");

	CHECK_FOR_INTERRUPTS();
	task->size = 0;
	switch (task->kind)
	{
		case GA_RECODE_ROW:
			task->good = read_rows(task, b->content);
			break;
		case GA_RECODE_DELTA:
			task->good = make_delta(task, b, slot);
			break;
		case GA_RECODE_WHOLE:
		case GA_RECODE_CHECK:
			task->good = read_delta(task, b->content);
			break;
	}
	if (task->good && (task->kind == GA_RECODE_ROW || task->kind == GA_RECODE_WHOLE))
	{
		pack(task, b->content, task->nbytes, slot, b->base);
		task->crc = ga_crc32c(b->content, task->nbytes);
	}
	ga_table_leave_owner(user);
	ga_progress_add(1, task->good ? task->nbytes : 0);
	ga_throttle(task->good ? (uint64) task->nbytes + task->size : 0);
}

/* ---- all of a batch ---- */

static void
do_tasks(SharedRecode *shared)
{
	Bench		b;
	uint32		i;

	bench_begin(&b);
	while ((i = pg_atomic_fetch_add_u32(&shared->next, 1)) < shared->n)
		do_task(&shared->tasks[i], &b, shared->slots + (Size) i * GA_CHUNK_SIZE);
	bench_end(&b);
}

void
ga_recode_worker(dsm_segment *seg, shm_toc *toc)
{
	SharedRecode *shared = shm_toc_lookup(toc, KEY_SHARED, false);

	ga_priority_lower(shared->lowered);
	SPI_connect();
	do_tasks(shared);
	SPI_finish();
}

/* The tasks come back with copies of what was packed, in the caller's memory. */
static void
take_results(const SharedRecode *shared, GaRecode *tasks, MemoryContext context)
{
	for (int i = 0; i < shared->n; i++)
	{
		tasks[i] = shared->tasks[i];
		tasks[i].packed = NULL;
		if (!tasks[i].good || tasks[i].kind == GA_RECODE_CHECK)
			continue;
		tasks[i].packed = MemoryContextAlloc(context, Max(tasks[i].size, 1));
		memcpy(tasks[i].packed, shared->slots + (Size) i * GA_CHUNK_SIZE, tasks[i].size);
	}
}

typedef struct Batch
{
	GaRecode   *tasks;
	int			n;
	int			workers;
	MemoryContext context;		/* for results */
} Batch;

static void
begin_shared(SharedRecode *shared, const Batch *batch)
{
	shared->n = batch->n;
	shared->lowered = ga_priority_lowered();
	pg_atomic_init_u32(&shared->next, 0);
	memcpy(shared->tasks, batch->tasks, sizeof(GaRecode) * batch->n);
}

static Size
shared_size(int n)
{
	return offsetof(SharedRecode, slots) + (Size) n * GA_CHUNK_SIZE;
}

static void
run_parallel(const Batch *batch)
{
	ParallelContext *context;
	SharedRecode *shared;

	EnterParallelMode();
	context = CreateParallelContext("gpuagent", "ga_recode_worker", batch->workers);
	shm_toc_estimate_chunk(&context->estimator, shared_size(batch->n));
	shm_toc_estimate_keys(&context->estimator, 1);
	InitializeParallelDSM(context);
	shared = shm_toc_allocate(context->toc, shared_size(batch->n));
	begin_shared(shared, batch);
	shm_toc_insert(context->toc, KEY_SHARED, shared);
	LaunchParallelWorkers(context);
	do_tasks(shared);
	WaitForParallelWorkersToFinish(context);
	take_results(shared, batch->tasks, batch->context);
	DestroyParallelContext(context);
	ExitParallelMode();
}

static void
run_serial(const Batch *batch)
{
	SharedRecode *shared = palloc(shared_size(batch->n));

	begin_shared(shared, batch);
	do_tasks(shared);
	take_results(shared, batch->tasks, batch->context);
	pfree(shared);
}

static void
run_batch(void *arg)
{
	const Batch *batch = arg;

	if (batch->workers > 0)
		run_parallel(batch);
	else
		run_serial(batch);
}

void
ga_recode(GaRecode *tasks, int n)
{
	Batch		batch = {.tasks = tasks,.n = n,.context = CurrentMemoryContext};

	Assert(n <= GA_RECODE_BATCH);
	if (n == 0)
		return;
	if (!IsInParallelMode())
		batch.workers = Min(max_parallel_maintenance_workers, n / TASKS_PER_WORKER);
	if (ga_store_attempt(run_batch, &batch) == NULL)
		return;

	/* Something is damaged: alone, so that it is known what. */
	for (int i = 0; i < n; i++)
	{
		Batch		single = {.tasks = &tasks[i],.n = 1,.context = batch.context};

		if (ga_store_attempt(run_batch, &single) != NULL)
			tasks[i].good = false;
	}
}
