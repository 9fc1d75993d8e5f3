/*
 * stream.c
 *		Stored tensors into a file of the tree, by several processes (stream.h).
 *
 * A ring in shared memory is a window onto the file, a few units of 1 MiB long.
 * Leader and workers take the chunks in the order in which they lie in the file
 * and decode each into its place; chunks and units need not begin together. Who
 * completes a unit writes it, so several writes are under way at once, each of
 * whole blocks. The leader feeds the units to the file's SHA-256 in order, which
 * cannot be divided and so has a process of its own where workers are. What was
 * hashed and written makes room. The file is never read again, and the ring is
 * small: what was decoded is still in the processor's cache when it is used.
 */
#include "base/compat.h"

#include "checkpoint/stream.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/spin.h"
#include "utils/wait_event.h"

#define UNIT GA_CHUNK_SIZE
#define UNITS_PER_PARTICIPANT 8
#define MAX_UNITS 64

/* A chunk of any place lies in two units at most; with them in the ring there is room for the next one. */
#define MIN_UNITS 2

typedef struct Stream
{
	char		path[MAXPGPATH];
	bool		direct;
	uint64		base;			/* place in the file of the ring's first byte, the beginning of a block */
	uint64		end;			/* of the tensors in the file */
	uint64		nunits;			/* from base to end; the last one may be shorter, and is left to the caller */
	uint64		size;			/* units that the ring has */
	pg_atomic_uint64 next;		/* first chunk that nobody has taken */
	pg_atomic_uint32 missing[MAX_UNITS];	/* bytes that the unit in each place of the ring still lacks */
	slock_t		mutex;			/* of the three that follow */
	uint64		hashed;			/* units */
	uint64		freed;			/* units that were hashed and written, as all before them */
	bool		written[MAX_UNITS];
	ConditionVariable ready;	/* the leader waits for a unit, or for room */
	ConditionVariable room;		/* workers wait */
	uint64		begin[FLEXIBLE_ARRAY_MEMBER];	/* of each tensor in the file; the ring lies behind */
} Stream;

extern PGDLLEXPORT void ga_stream_work(GaParallel *run);

static Size
stream_size(int ntensors)
{
	return add_size(offsetof(Stream, begin), mul_size(sizeof(uint64), ntensors));
}

static char *
ring_of(const GaParallel *run)
{
	return (char *) TYPEALIGN(GA_FILE_BLOCK, (char *) run->shared + stream_size(run->ntensors));
}

static uint32
unit_size(const Stream *stream, uint64 unit)
{
	return Min(UNIT, stream->end - stream->base - unit * UNIT);
}

static char *
unit_data(const GaParallel *run, uint64 unit)
{
	const Stream *stream = run->shared;

	return ring_of(run) + unit % stream->size * UNIT;
}

/* True once the ring reaches as far as the end of a chunk. */
static bool
has_room(Stream *stream, uint64 end)
{
	uint64		freed;

	SpinLockAcquire(&stream->mutex);
	freed = stream->freed;
	SpinLockRelease(&stream->mutex);
	return end <= stream->base + (freed + stream->size) * UNIT;
}

/* One more unit was hashed, or (written) a unit was written: frees those that were both. */
static void
account(Stream *stream, bool written, uint64 unit)
{
	uint64		before;
	uint64		freed;

	SpinLockAcquire(&stream->mutex);
	if (written)
		stream->written[unit % stream->size] = true;
	else
		stream->hashed = unit + 1;
	before = freed = stream->freed;
	while (freed < stream->hashed && stream->written[freed % stream->size])
	{
		stream->written[freed % stream->size] = false;
		if (freed + stream->size < stream->nunits)
			pg_atomic_write_u32(&stream->missing[freed % stream->size], unit_size(stream, freed + stream->size));
		freed++;
	}
	stream->freed = freed;
	SpinLockRelease(&stream->mutex);
	if (freed != before)
	{
		ConditionVariableBroadcast(&stream->room);
		ConditionVariableSignal(&stream->ready);
	}
}

/* A unit has so many bytes more; who brings the last ones writes it, when it is a whole one. */
static void
fill_unit(GaParallel *run, GaFile *file, uint64 unit, uint32 nbytes)
{
	Stream	   *stream = run->shared;

	if (pg_atomic_sub_fetch_u32(&stream->missing[unit % stream->size], nbytes) != 0)
		return;
	ConditionVariableSignal(&stream->ready);
	if (unit_size(stream, unit) == UNIT)
		ga_file_put(file, stream->base + unit * UNIT, unit_data(run, unit), UNIT);
	account(stream, true, unit);
}

/* Place in the file of the end of a chunk. */
static uint64
chunk_end(GaParallel *run, uint64 chunk, GaParallelRange *range)
{
	const Stream *stream = run->shared;

	ga_parallel_find(run, chunk, range);
	return stream->begin[range->tensor] + Min((range->first + 1) * GA_CHUNK_SIZE, range->reader->nbytes);
}

/* Decodes a chunk, for which there is room, into its place. */
static void
decode(GaParallel *run, GaFile *file, const GaParallelRange *range)
{
	Stream	   *stream = run->shared;
	uint64		offset = stream->begin[range->tensor] + range->first * GA_CHUNK_SIZE - stream->base;
	uint64		nbytes = ga_tree_span(range->reader->nbytes, 0, range->first);
	uint64		ring = stream->size * UNIT;
	uint64		at = offset % ring;

	ga_reader_read(range->reader, range->first * GA_CHUNK_SIZE, nbytes, ring_of(run) + at, false);
	/* A chunk's worth of memory behind the ring takes what goes on at its beginning. */
	if (at + nbytes > ring)
		memcpy(ring_of(run), ring_of(run) + ring, at + nbytes - ring);
	while (nbytes > 0)
	{
		uint32		here = Min(nbytes, UNIT - offset % UNIT);

		fill_unit(run, file, offset / UNIT, here);
		offset += here;
		nbytes -= here;
	}
}

/* True when the next unit to be hashed is complete. */
static bool
can_hash(Stream *stream, uint64 unit)
{
	bool		here;

	SpinLockAcquire(&stream->mutex);
	here = unit < stream->freed + stream->size;
	SpinLockRelease(&stream->mutex);
	if (!here || pg_atomic_read_u32(&stream->missing[unit % stream->size]) != 0)
		return false;
	pg_read_barrier();
	return true;
}

static void
hash_unit(GaParallel *run, GaFile *file, uint64 unit)
{
	Stream	   *stream = run->shared;
	size_t		skip = unit == 0 ? stream->begin[0] - stream->base : 0;

	ga_file_hash_shared(file, unit_data(run, unit) + skip, unit_size(stream, unit) - skip);
	account(stream, false, unit);
}

/* Hashes what is complete, and decodes while nothing is. */
static void
lead(GaParallel *run)
{
	Stream	   *stream = run->shared;
	GaFile	   *file = run->arg;
	uint32		event = ga_wait_event("GpuAgentExportChunk");
	GaParallelRange range;
	bool		taken = false;
	uint64		end = 0;

	for (uint64 unit = 0; unit < stream->nunits;)
	{
		CHECK_FOR_INTERRUPTS();
		if (can_hash(stream, unit))
		{
			hash_unit(run, file, unit++);
			continue;
		}
		if (!taken)
		{
			uint64		chunk = pg_atomic_fetch_add_u64(&stream->next, 1);

			taken = chunk < run->nchunks;
			end = taken ? chunk_end(run, chunk, &range) : PG_UINT64_MAX;
		}
		if (taken && has_room(stream, end))
		{
			decode(run, file, &range);
			taken = false;
			continue;
		}
		ConditionVariablePrepareToSleep(&stream->ready);
		while (!can_hash(stream, unit) && !(taken && has_room(stream, end)))
			ConditionVariableSleep(&stream->ready, event);
		ConditionVariableCancelSleep();
	}
}

static void
follow(GaParallel *run)
{
	Stream	   *stream = run->shared;
	uint32		event = ga_wait_event("GpuAgentExportSlot");
	GaFile	   *file;
	uint64		chunk;

	ga_temp_join(stream->path);
	file = ga_file_join(stream->path, stream->direct);
	while ((chunk = pg_atomic_fetch_add_u64(&stream->next, 1)) < run->nchunks)
	{
		GaParallelRange range;
		uint64		end = chunk_end(run, chunk, &range);

		CHECK_FOR_INTERRUPTS();
		if (!has_room(stream, end))
		{
			ConditionVariablePrepareToSleep(&stream->room);
			while (!has_room(stream, end))
				ConditionVariableSleep(&stream->room, event);
			ConditionVariableCancelSleep();
		}
		decode(run, file, &range);
	}
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

/* Fills in what is shared, but for the beginnings of the tensors, and puts the file's last bytes before them. */
static void
init_stream(GaParallel *run, GaFile *file, const char *path, uint64 nbytes, uint64 size)
{
	Stream	   *stream = run->shared;
	size_t		head = ga_file_share(file, ring_of(run));

	memset(stream, 0, offsetof(Stream, begin));
	strlcpy(stream->path, path, MAXPGPATH);
	stream->direct = ga_file_is_direct(file);
	stream->base = ga_file_size(file) - head;
	stream->end = ga_file_size(file) + nbytes;
	stream->nunits = (head + nbytes + UNIT - 1) / UNIT;
	stream->size = size;
	pg_atomic_init_u64(&stream->next, 0);
	for (uint64 i = 0; i < size; i++)
		pg_atomic_init_u32(&stream->missing[i], i < stream->nunits ? unit_size(stream, i) - (i == 0 ? head : 0) : 0);
	SpinLockInit(&stream->mutex);
	ConditionVariableInit(&stream->ready);
	ConditionVariableInit(&stream->room);
}

/* Less than a unit is not worth the ring. */
static void
append_tensors(GaFile *file, const GaParallelTensor *tensors, int ntensors, uint64 nbytes)
{
	char	   *buffer = palloc(nbytes);

	for (int i = 0; i < ntensors; i++)
	{
		GaReader   *reader = ga_reader_open(&tensors[i].hash);

		ga_reader_read(reader, 0, tensors[i].nbytes, buffer, false);
		ga_file_write(file, buffer, tensors[i].nbytes);
		ga_reader_close(reader);
	}
	pfree(buffer);
}

void
ga_stream_tensors(GaFile *file, const char *path, const GaParallelTensor *tensors, int ntensors)
{
	uint64		nchunks = 0;
	uint64		nbytes = 0;
	uint64		begin = ga_file_size(file);
	GaParallel *run;
	Stream	   *stream;
	uint64		last;
	int			workers;
	int			size;

	for (int i = 0; i < ntensors; i++)
	{
		nchunks += (tensors[i].nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE;
		nbytes += tensors[i].nbytes;
	}
	if (nbytes < UNIT)
	{
		append_tensors(file, tensors, ntensors, nbytes);
		return;
	}
	workers = ga_parallel_workers(nchunks);
	size = workers == 0 ? MIN_UNITS : Min(UNITS_PER_PARTICIPANT * (workers + 1), MAX_UNITS);
	run = ga_parallel_prepare("ga_stream_work", workers, tensors, ntensors,
							  add_size(stream_size(ntensors), GA_FILE_BLOCK + size * UNIT + GA_CHUNK_SIZE));
	init_stream(run, file, path, nbytes, size);
	stream = run->shared;
	for (int i = 0; i < ntensors; i++)
	{
		stream->begin[i] = begin;
		begin += tensors[i].nbytes;
	}
	run->arg = file;
	ga_parallel_execute(run);
	last = stream->nunits - 1;
	if (unit_size(stream, last) == UNIT)
		ga_file_unshare(file, stream->end, NULL, 0);
	else
		ga_file_unshare(file, stream->end, unit_data(run, last), unit_size(stream, last));
	ga_parallel_end(run);
}
