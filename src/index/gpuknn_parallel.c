/*
 * gpuknn_parallel.c
 *		The table's scan of a build by parallel workers. They fetch and encode rows,
 *		which is most of the work, and send them to the leader, which alone writes
 *		the pages: one stream, without holes.
 */
#include "base/compat.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "index/gpuknn_build.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/shm_mq.h"
#include "storage/spin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define KEY_SHARED 1
#define KEY_SCAN 2
#define KEY_QUEUES 3

#define QUEUE_SIZE (256 * 1024)

/* A worker sends so many bytes at once, or one record. */
#define BATCH_SIZE (64 * 1024)

typedef struct Shared
{
	Oid			heap;
	Oid			index;
	bool		concurrent;
	GpuknnShape shape;

	slock_t		mutex;			/* of what follows */
	double		heap_tuples;
	bool		broken_hot_chain;
} Shared;

/* In front of what a message holds. */
typedef enum Kind
{
	RECORDS,
	NULLS						/* tids of 8 bytes */
} Kind;

typedef struct Batch
{
	uint64		kind;
	char		bytes[FLEXIBLE_ARRAY_MEMBER];
} Batch;

/* A worker's own state. */
typedef struct Sender
{
	GpuknnClass class;
	GpuknnShape shape;
	shm_mq_handle *queue;
	Batch	   *batches[2];		/* by kind */
	size_t		used[2];
	size_t		capacity[2];
	MemoryContext row_context;
} Sender;

extern PGDLLEXPORT void gpuknn_build_worker(dsm_segment *seg, shm_toc *toc);

/* ----- workers ----- */

/* A leader that is gone ends the worker at the next interrupt. */
static void
send_batch(Sender *sender, Kind kind)
{
	if (sender->used[kind] == 0)
		return;
	shm_mq_send(sender->queue, offsetof(Batch, bytes) + sender->used[kind], sender->batches[kind], false, true);
	sender->used[kind] = 0;
}

/* Room for n bytes in the batch of a kind. */
static char *
reserve(Sender *sender, Kind kind, size_t n)
{
	char	   *bytes;

	if (sender->used[kind] + n > sender->capacity[kind])
		send_batch(sender, kind);
	bytes = sender->batches[kind]->bytes + sender->used[kind];
	sender->used[kind] += n;
	return bytes;
}

static void
send_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *state)
{
	Sender	   *sender = (Sender *) state;
	uint64		packed = gpuknn_pack_tid(tid);

	if (isnull[0])
		memcpy(reserve(sender, NULLS, sizeof(packed)), &packed, sizeof(packed));
	else
	{
		GaKnnRow   *record = (GaKnnRow *) reserve(sender, RECORDS, sender->shape.record_bytes);
		MemoryContext old = MemoryContextSwitchTo(sender->row_context);

		gpuknn_encode(&sender->class, &sender->shape, values[0], record);
		gpuknn_put48(record->tid, packed);
		MemoryContextSwitchTo(old);
		MemoryContextReset(sender->row_context);
	}
}

void
gpuknn_build_worker(dsm_segment *seg, shm_toc *toc)
{
	Shared	   *shared = shm_toc_lookup(toc, KEY_SHARED, false);
	char	   *queues = shm_toc_lookup(toc, KEY_QUEUES, false);
	shm_mq	   *queue = (shm_mq *) (queues + (Size) ParallelWorkerNumber * QUEUE_SIZE);
	LOCKMODE	heap_lock = shared->concurrent ? ShareUpdateExclusiveLock : ShareLock;
	LOCKMODE	index_lock = shared->concurrent ? RowExclusiveLock : AccessExclusiveLock;
	Relation	heap = table_open(shared->heap, heap_lock);
	Relation	index = index_open(shared->index, index_lock);
	IndexInfo  *info = BuildIndexInfo(index);
	Sender		sender = {.shape = shared->shape};
	double		heap_tuples;

	shm_mq_set_sender(queue, MyProc);
	sender.queue = shm_mq_attach(queue, seg, NULL);
	gpuknn_class(index, &sender.class);
	sender.capacity[RECORDS] = Max(BATCH_SIZE, shared->shape.record_bytes);
	sender.capacity[NULLS] = BATCH_SIZE;
	for (int kind = RECORDS; kind <= NULLS; kind++)
	{
		sender.batches[kind] = palloc0(offsetof(Batch, bytes) + sender.capacity[kind]);
		sender.batches[kind]->kind = kind;
	}
	sender.row_context = AllocSetContextCreate(CurrentMemoryContext, "gpuknn row of a build", ALLOCSET_DEFAULT_SIZES);

	info->ii_Concurrent = shared->concurrent;
	heap_tuples = table_index_build_scan(heap, index, info, true, false, send_row, &sender,
										 table_beginscan_parallel(heap, shm_toc_lookup(toc, KEY_SCAN, false)));
	send_batch(&sender, RECORDS);
	send_batch(&sender, NULLS);
	SpinLockAcquire(&shared->mutex);
	shared->heap_tuples += heap_tuples;
	shared->broken_hot_chain |= info->ii_BrokenHotChain;
	SpinLockRelease(&shared->mutex);
	shm_mq_detach(sender.queue);
	index_close(index, index_lock);
	table_close(heap, heap_lock);
}

/* ----- the leader ----- */

static void
take_batch(const GpuknnSink *sink, const GpuknnShape *shape, const Batch *batch, Size size)
{
	size_t		step = batch->kind == RECORDS ? shape->record_bytes : sizeof(uint64);

	for (const char *at = batch->bytes; at < (const char *) batch + size; at += step)
	{
		if (batch->kind == RECORDS)
			sink->record(sink->state, (const GaKnnRow *) at);
		else
			sink->null(sink->state, *(const uint64 *) at);
	}
}

/* Takes what the workers send until all have detached. */
static void
receive(const GpuknnSink *sink, const GpuknnShape *shape, shm_mq_handle **queues, int n)
{
	while (n > 0)
	{
		bool		idle = true;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < n; i++)
		{
			Size		size;
			void	   *data;
			shm_mq_result result = shm_mq_receive(queues[i], &size, &data, true);

			if (result == SHM_MQ_WOULD_BLOCK)
				continue;
			idle = false;
			if (result == SHM_MQ_SUCCESS)
				take_batch(sink, shape, (const Batch *) data, size);
			else
				queues[i--] = queues[--n];
		}
		if (idle)
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, WAIT_EVENT_PARALLEL_CREATE_INDEX_SCAN);
			ResetLatch(MyLatch);
		}
	}
}

static ParallelContext *
make_context(Relation heap, Relation index, IndexInfo *info, const GpuknnShape *shape, int workers, Snapshot snapshot)
{
	ParallelContext *context = CreateParallelContext("gpuagent", "gpuknn_build_worker", workers);
	Size		scan_size = table_parallelscan_estimate(heap, snapshot);
	Shared	   *shared;
	void	   *scan;
	char	   *queues;

	shm_toc_estimate_chunk(&context->estimator, sizeof(Shared));
	shm_toc_estimate_chunk(&context->estimator, scan_size);
	shm_toc_estimate_chunk(&context->estimator, mul_size(QUEUE_SIZE, workers));
	shm_toc_estimate_keys(&context->estimator, 3);
	InitializeParallelDSM(context);
	if (context->seg == NULL)
		return context;

	shared = shm_toc_allocate(context->toc, sizeof(Shared));
	memset(shared, 0, sizeof(*shared));
	shared->heap = RelationGetRelid(heap);
	shared->index = RelationGetRelid(index);
	shared->concurrent = info->ii_Concurrent;
	shared->shape = *shape;
	SpinLockInit(&shared->mutex);
	shm_toc_insert(context->toc, KEY_SHARED, shared);
	scan = shm_toc_allocate(context->toc, scan_size);
	table_parallelscan_initialize(heap, scan, snapshot);
	shm_toc_insert(context->toc, KEY_SCAN, scan);
	queues = shm_toc_allocate(context->toc, mul_size(QUEUE_SIZE, workers));
	for (int i = 0; i < workers; i++)
		shm_mq_set_receiver(shm_mq_create(queues + (Size) i * QUEUE_SIZE, QUEUE_SIZE), MyProc);
	shm_toc_insert(context->toc, KEY_QUEUES, queues);
	return context;
}

double
gpuknn_parallel_scan(Relation heap, Relation index, IndexInfo *info, const GpuknnShape *shape, const GpuknnSink *sink)
{
	int			workers = ga_build_workers(heap, index, info);
	Snapshot	snapshot;
	ParallelContext *context;
	double		heap_tuples = -1;

	if (workers <= 0)
		return -1;
	EnterParallelMode();
	snapshot = info->ii_Concurrent ? RegisterSnapshot(GetTransactionSnapshot()) : SnapshotAny;
	context = make_context(heap, index, info, shape, workers, snapshot);
	if (context->seg != NULL)
		LaunchParallelWorkers(context);
	if (context->nworkers_launched > 0)
	{
		Shared	   *shared = shm_toc_lookup(context->toc, KEY_SHARED, false);
		char	   *queues = shm_toc_lookup(context->toc, KEY_QUEUES, false);
		shm_mq_handle **handles = palloc(sizeof(shm_mq_handle *) * context->nworkers_launched);

		for (int i = 0; i < context->nworkers_launched; i++)
			handles[i] = shm_mq_attach((shm_mq *) (queues + (Size) i * QUEUE_SIZE), context->seg, context->worker[i].bgwhandle);
		WaitForParallelWorkersToAttach(context);
		receive(sink, shape, handles, context->nworkers_launched);
		WaitForParallelWorkersToFinish(context);
		heap_tuples = shared->heap_tuples;
		info->ii_BrokenHotChain |= shared->broken_hot_chain;
	}
	DestroyParallelContext(context);
	if (IsMVCCSnapshot(snapshot))
		UnregisterSnapshot(snapshot);
	ExitParallelMode();
	return heap_tuples;
}
