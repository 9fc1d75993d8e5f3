/*
 * parallel.c
 *		Tensors of the store read by several processes at once (parallel.h).
 */
#include "base/compat.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "base/priority.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "store/parallel.h"

/* A worker is worth its start when it has at least so many chunks to decode. */
#define CHUNKS_PER_WORKER 16

#define KEY_RUN 1
#define KEY_MEMORY 2

/* What all participants share, beside the memory of the work itself. */
typedef struct SharedRun
{
	char		work[NAMEDATALEN];
	int			participants;
	int			lowered;		/* the leader's priority: workers take it over */
	int			given;			/* tensors */
	int			ntensors;		/* without those of no bytes */
	uint64		nchunks;
	uint64		claim;			/* chunks */
	pg_atomic_uint64 next;		/* first chunk that nobody has claimed */
	struct
	{
		GaHash		hash;
		uint64		nbytes;
		uint64		before;		/* chunks of the tensors before this one */
		int			index;		/* among the tensors that the caller gave */
	}			tensors[FLEXIBLE_ARRAY_MEMBER];
} SharedRun;

typedef struct GaParallelState
{
	SharedRun  *shared;
	ParallelContext *context;	/* of the leader, when there may be workers */
	GaReader   *reader;
	int			at;				/* tensor that the reader has open */
	uint64		claimed;		/* chunks of a claim that were not handed out */
	uint64		claimed_end;
} GaParallelState;

extern PGDLLEXPORT void ga_parallel_worker(dsm_segment *seg, shm_toc *toc);

static uint64
chunks_of(uint64 nbytes)
{
	return (nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE;
}

int
ga_parallel_workers(uint64 nchunks)
{
	if (IsInParallelMode())
		return 0;
	return Min((uint64) max_parallel_maintenance_workers, nchunks / CHUNKS_PER_WORKER);
}

static Size
shared_size(int ntensors)
{
	return add_size(offsetof(SharedRun, tensors), mul_size(sizeof(((SharedRun *) 0)->tensors[0]), ntensors));
}

static void
init_shared(SharedRun *shared, const char *work, int participants, const GaParallelTensor *tensors, int ntensors)
{
	memset(shared, 0, offsetof(SharedRun, tensors));
	strlcpy(shared->work, work, NAMEDATALEN);
	shared->participants = participants;
	shared->lowered = ga_priority_lowered();
	shared->given = ntensors;
	for (int i = 0; i < ntensors; i++)
	{
		if (tensors[i].nbytes == 0)
			continue;
		shared->tensors[shared->ntensors].hash = tensors[i].hash;
		shared->tensors[shared->ntensors].nbytes = tensors[i].nbytes;
		shared->tensors[shared->ntensors].before = shared->nchunks;
		shared->tensors[shared->ntensors++].index = i;
		shared->nchunks += chunks_of(tensors[i].nbytes);
	}
	/* A node of the tree is read once for all chunks of a claim. */
	shared->claim = Max(Min(shared->nchunks / (participants * 4), GA_NODE_FANOUT), 1);
	pg_atomic_init_u64(&shared->next, 0);
}

static GaParallel *
new_run(SharedRun *shared, void *memory, bool leader)
{
	GaParallel *run = palloc0(sizeof(GaParallel));

	run->leader = leader;
	run->participants = shared->participants;
	run->ntensors = shared->given;
	run->nchunks = shared->nchunks;
	run->shared = memory;
	run->state = palloc0(sizeof(GaParallelState));
	run->state->shared = shared;
	return run;
}

GaParallel *
ga_parallel_prepare(const char *work, int workers, const GaParallelTensor *tensors, int ntensors, Size size)
{
	ParallelContext *context = NULL;
	SharedRun  *shared;
	void	   *memory;
	GaParallel *run;

	if (workers > 0)
	{
		EnterParallelMode();
		context = CreateParallelContext("gpuagent", "ga_parallel_worker", workers);
		shm_toc_estimate_chunk(&context->estimator, shared_size(ntensors));
		shm_toc_estimate_chunk(&context->estimator, size);
		shm_toc_estimate_keys(&context->estimator, 2);
		InitializeParallelDSM(context);
		shared = shm_toc_allocate(context->toc, shared_size(ntensors));
		memory = shm_toc_allocate(context->toc, size);
		shm_toc_insert(context->toc, KEY_RUN, shared);
		shm_toc_insert(context->toc, KEY_MEMORY, memory);
	}
	else
	{
		shared = palloc_extended(shared_size(ntensors), MCXT_ALLOC_HUGE);
		memory = palloc_extended(size, MCXT_ALLOC_HUGE);
	}
	init_shared(shared, work, workers + 1, tensors, ntensors);
	run = new_run(shared, memory, true);
	run->state->context = context;
	return run;
}

static void
do_work(GaParallel *run)
{
	GaParallelWork work = (GaParallelWork) load_external_function("gpuagent", run->state->shared->work, true, NULL);

	work(run);
	if (run->state->reader != NULL)
		ga_reader_close(run->state->reader);
	run->state->reader = NULL;
}

void
ga_parallel_worker(dsm_segment *seg, shm_toc *toc)
{
	SharedRun  *shared = shm_toc_lookup(toc, KEY_RUN, false);

	ga_priority_lower(shared->lowered);
	SPI_connect();
	do_work(new_run(shared, shm_toc_lookup(toc, KEY_MEMORY, false), false));
	SPI_finish();
}

void
ga_parallel_execute(GaParallel *run)
{
	ParallelContext *context = run->state->context;

	if (context != NULL)
		LaunchParallelWorkers(context);
	do_work(run);
	if (context != NULL)
		WaitForParallelWorkersToFinish(context);
}

void
ga_parallel_end(GaParallel *run)
{
	GaParallelState *state = run->state;

	if (state->context != NULL)
	{
		DestroyParallelContext(state->context);
		ExitParallelMode();
	}
	else
	{
		pfree(state->shared);
		pfree(run->shared);
	}
	pfree(state);
	pfree(run);
}

/* The tensor that has chunk number n. */
static int
tensor_of(const SharedRun *shared, uint64 n)
{
	int			low = 0;
	int			high = shared->ntensors - 1;

	while (low < high)
	{
		int			middle = (low + high + 1) / 2;

		if (shared->tensors[middle].before <= n)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

void
ga_parallel_find(GaParallel *run, uint64 n, GaParallelRange *range)
{
	GaParallelState *state = run->state;
	SharedRun  *shared = state->shared;
	int			tensor = tensor_of(shared, n);

	Assert(n < shared->nchunks);
	if (state->reader == NULL || state->at != tensor)
	{
		if (state->reader != NULL)
			ga_reader_close(state->reader);
		state->reader = NULL;
		state->reader = ga_reader_open(&shared->tensors[tensor].hash);
		state->at = tensor;
		if (state->reader->nbytes != shared->tensors[tensor].nbytes)
			elog(ERROR, "tensor %s does not have the size that was said", ga_hash_text(&shared->tensors[tensor].hash));
	}
	range->tensor = shared->tensors[tensor].index;
	range->first = n - shared->tensors[tensor].before;
	range->count = 1;
	range->reader = state->reader;
}

bool
ga_parallel_claim(GaParallel *run, GaParallelRange *range)
{
	GaParallelState *state = run->state;
	SharedRun  *shared = state->shared;

	if (state->claimed == state->claimed_end)
	{
		state->claimed = pg_atomic_fetch_add_u64(&shared->next, shared->claim);
		state->claimed = Min(state->claimed, shared->nchunks);
		state->claimed_end = Min(state->claimed + shared->claim, shared->nchunks);
		if (state->claimed == state->claimed_end)
			return false;
	}
	/* A claim may reach over several tensors. */
	ga_parallel_find(run, state->claimed, range);
	range->count = Min(state->claimed_end - state->claimed, range->reader->nchunks - range->first);
	state->claimed += range->count;
	return true;
}
