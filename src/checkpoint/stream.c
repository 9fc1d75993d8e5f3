/*
 * stream.c
 *		Stored tensors into a file of the tree, by several processes (stream.h).
 *
 * Leader and workers take the chunks in the order in which they lie in the file
 * and decode each into a slot of a ring in shared memory, at an address that is
 * aligned as its place in the file is. Who decoded a chunk writes its whole blocks
 * there itself, so several writes are under way at once. The leader goes over
 * the ring in order: it hashes, writes what is left between the blocks, and gives
 * the slot back. So SHA-256, which cannot be divided, has a process of its own
 * where workers are, and the file is never read again. The ring is small: what
 * was decoded is still in the processor's cache when it is hashed and written.
 */
#include "base/compat.h"

#include "checkpoint/stream.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"
#include "utils/wait_event.h"

#define SLOTS_PER_PARTICIPANT 4
#define MAX_SLOTS 64

/* A chunk, wherever in a block it begins. */
#define SLOT_SIZE (GA_CHUNK_SIZE + GA_FILE_BLOCK)

typedef struct Stream
{
	char		path[MAXPGPATH];
	bool		direct;
	uint64		nslots;
	slock_t		mutex;			/* of the two numbers that follow */
	uint64		next;			/* first chunk that nobody has taken */
	uint64		done;			/* chunks that the leader is finished with */
	ConditionVariable filled;	/* the leader waits for a chunk */
	ConditionVariable emptied;	/* workers wait for a slot */
	pg_atomic_uint64 ready[MAX_SLOTS];	/* number of the chunk in a slot, + 1, once it is there */
	uint64		begin[FLEXIBLE_ARRAY_MEMBER];	/* of each tensor in the file; the ring lies behind */
} Stream;

/* What the leader keeps for itself. */
typedef struct Leader
{
	GaFile	   *file;
	const GaParallelTensor *tensors;
	int			tensor;			/* of the next chunk to be appended */
	uint64		offset;			/* of that chunk within it */
} Leader;

extern PGDLLEXPORT void ga_stream_work(GaParallel *run);

static Size
stream_size(int ntensors)
{
	return add_size(offsetof(Stream, begin), mul_size(sizeof(uint64), ntensors));
}

static char *
slot_of(const Stream *stream, int ntensors, uint64 chunk)
{
	char	   *ring = (char *) TYPEALIGN(GA_FILE_BLOCK, (char *) stream + stream_size(ntensors));

	return ring + (chunk % stream->nslots) * SLOT_SIZE;
}

/* Takes the next chunk when there is a slot for it; `left` tells whether there is one to wait for. */
static bool
take_chunk(GaParallel *run, uint64 *chunk, bool *left)
{
	Stream	   *stream = run->shared;
	bool		taken;

	SpinLockAcquire(&stream->mutex);
	*left = stream->next < run->nchunks;
	taken = *left && stream->next < stream->done + stream->nslots;
	if (taken)
		*chunk = stream->next++;
	SpinLockRelease(&stream->mutex);
	return taken;
}

/* Decodes a chunk into its slot and puts its whole blocks into the file. */
static void
fill_slot(GaParallel *run, GaFile *file, uint64 chunk)
{
	Stream	   *stream = run->shared;
	GaParallelRange range;
	uint64		offset;
	uint64		nbytes;
	uint64		begin;
	uint64		end;
	char	   *data;

	ga_parallel_find(run, chunk, &range);
	nbytes = ga_tree_span(range.reader->nbytes, 0, range.first);
	offset = stream->begin[range.tensor] + range.first * GA_CHUNK_SIZE;
	data = slot_of(stream, run->ntensors, chunk) + offset % GA_FILE_BLOCK;
	ga_reader_read(range.reader, range.first * GA_CHUNK_SIZE, nbytes, data, true);
	if (ga_file_inner_blocks(offset, nbytes, &begin, &end))
		ga_file_put(file, begin, data + (begin - offset), end - begin);
	pg_write_barrier();
	pg_atomic_write_u64(&stream->ready[chunk % stream->nslots], chunk + 1);
	if (!run->leader)
		ConditionVariableSignal(&stream->filled);
}

/* Appends the chunk whose turn it is, and gives its slot back. */
static void
empty_slot(GaParallel *run, uint64 chunk)
{
	Stream	   *stream = run->shared;
	Leader	   *leader = run->arg;
	uint64		nbytes;

	while (leader->offset == leader->tensors[leader->tensor].nbytes)
	{
		leader->tensor++;
		leader->offset = 0;
	}
	nbytes = Min(GA_CHUNK_SIZE, leader->tensors[leader->tensor].nbytes - leader->offset);
	ga_file_append_written(leader->file, slot_of(stream, run->ntensors, chunk) +
						   (stream->begin[leader->tensor] + leader->offset) % GA_FILE_BLOCK, nbytes);
	leader->offset += nbytes;
	SpinLockAcquire(&stream->mutex);
	stream->done = chunk + 1;
	SpinLockRelease(&stream->mutex);
	ConditionVariableSignal(&stream->emptied);
}

static void
lead(GaParallel *run)
{
	Stream	   *stream = run->shared;
	Leader	   *leader = run->arg;
	uint32		event = ga_wait_event("GpuAgentExportChunk");
	uint64		chunk;
	bool		left;

	for (uint64 done = 0; done < run->nchunks;)
	{
		CHECK_FOR_INTERRUPTS();
		if (pg_atomic_read_u64(&stream->ready[done % stream->nslots]) == done + 1)
		{
			pg_read_barrier();
			empty_slot(run, done++);
		}
		else if (take_chunk(run, &chunk, &left))
			fill_slot(run, leader->file, chunk);
		else
		{
			ConditionVariablePrepareToSleep(&stream->filled);
			while (pg_atomic_read_u64(&stream->ready[done % stream->nslots]) != done + 1)
				ConditionVariableSleep(&stream->filled, event);
			ConditionVariableCancelSleep();
		}
	}
}

static void
follow(GaParallel *run)
{
	Stream	   *stream = run->shared;
	uint32		event = ga_wait_event("GpuAgentExportSlot");
	GaFile	   *file;
	uint64		chunk;
	bool		left;

	ga_temp_join(stream->path);
	file = ga_file_join(stream->path, stream->direct);
	ConditionVariablePrepareToSleep(&stream->emptied);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (take_chunk(run, &chunk, &left))
		{
			ConditionVariableCancelSleep();
			fill_slot(run, file, chunk);
			ConditionVariablePrepareToSleep(&stream->emptied);
		}
		else if (left)
			ConditionVariableSleep(&stream->emptied, event);
		else
			break;
	}
	ConditionVariableCancelSleep();
	/* Others may wait who do not know yet that nothing is left. */
	ConditionVariableBroadcast(&stream->emptied);
	ga_file_close(file);
}

void
ga_stream_work(GaParallel *run)
{
	if (run->leader)
		lead(run);
	else
		follow(run);
}

void
ga_stream_tensors(GaFile *file, const char *path, const GaParallelTensor *tensors, int ntensors)
{
	uint64		nchunks = 0;
	uint64		begin = ga_file_size(file);
	Leader		leader = {file, tensors};
	GaParallel *run;
	Stream	   *stream;
	int			workers;
	int			nslots;

	for (int i = 0; i < ntensors; i++)
		nchunks += (tensors[i].nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE;
	workers = ga_parallel_workers(nchunks);
	nslots = workers == 0 ? 1 : Min(SLOTS_PER_PARTICIPANT * (workers + 1), MAX_SLOTS);
	run = ga_parallel_prepare("ga_stream_work", workers, tensors, ntensors,
							  add_size(stream_size(ntensors), GA_FILE_BLOCK + nslots * SLOT_SIZE));
	stream = run->shared;
	memset(stream, 0, offsetof(Stream, begin));
	strlcpy(stream->path, path, MAXPGPATH);
	stream->direct = ga_file_is_direct(file);
	stream->nslots = nslots;
	SpinLockInit(&stream->mutex);
	ConditionVariableInit(&stream->filled);
	ConditionVariableInit(&stream->emptied);
	for (int i = 0; i < nslots; i++)
		pg_atomic_init_u64(&stream->ready[i], 0);
	for (int i = 0; i < ntensors; i++)
	{
		stream->begin[i] = begin;
		begin += tensors[i].nbytes;
	}
	run->arg = &leader;
	ga_parallel_execute(run);
	ga_parallel_end(run);
}
