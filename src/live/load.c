/*
 * load.c
 *		Brings a stored tensor into a region (live.h), with the help of parallel
 *		workers. Leader and workers claim ranges of chunks from a counter until none
 *		is left; each decodes straight into the region's file or, for a GPU, into
 *		the arena and sends it from there while the others decode.
 *
 * Workers run under the leader's snapshot and transaction, so they also see
 * what it has not committed yet, and with its rights. What a worker throws is
 * thrown by the leader.
 */
#include "base/compat.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "device/device.h"
#include "device/mapping.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "live/live.h"
#include "utils/snapmgr.h"

/* A worker is worth its start when it has at least so many chunks to decode. */
#define CHUNKS_PER_WORKER 16

/* Chunks claimed at a time; a node of the tree is read once for all of them. */
#define MAX_CLAIM GA_NODE_FANOUT

/* Bytes that pass through the arena at a time. */
#define MAX_PIECE ((uint64) 8 * GA_ARENA_BLOCK)

#define KEY_SHARED 1

typedef struct SharedLoad
{
	uint64		region;
	int			device;
	int			participants;
	uint64		claim;			/* chunks */
	GaHash		tensor;
	pg_atomic_uint64 next;		/* first chunk that nobody has claimed */
} SharedLoad;

extern PGDLLEXPORT void ga_load_worker(dsm_segment *seg, shm_toc *toc);

/* What a load takes of the arena; the rest is left to others. */
static uint64
arena_share(void)
{
	return ga_arena_limit() / 2;
}

/* What this process has for a piece: in the arena for a GPU, else of its own, so small that it stays in the cache. */
static char *
begin_piece(const SharedLoad *load, uint64 *nbytes)
{
	uint64		share;

	if (load->device == GA_DEVICE_HOST)
	{
		*nbytes = GA_CHUNK_SIZE;
		return palloc(GA_CHUNK_SIZE);
	}
	share = arena_share() / load->participants;
	*nbytes = Max(TYPEALIGN_DOWN(GA_ARENA_BLOCK, Min(share, MAX_PIECE)), GA_ARENA_BLOCK);
	return ga_arena_alloc(*nbytes);
}

/* The share of this process. */
static void
load_chunks(SharedLoad *load)
{
	GaReader   *reader = ga_reader_open(&load->tensor);
	uint64		piece_bytes;
	char	   *piece = begin_piece(load, &piece_bytes);
	uint64		first;

	while ((first = pg_atomic_fetch_add_u64(&load->next, load->claim)) < reader->nchunks)
	{
		uint64		end = Min((first + load->claim) * GA_CHUNK_SIZE, reader->nbytes);

		for (uint64 offset = first * GA_CHUNK_SIZE; offset < end; offset += piece_bytes)
		{
			uint64		take = Min(end - offset, piece_bytes);

			ga_reader_read(reader, offset, take, piece, false);
			ga_region_upload(load->region, load->device, offset, piece, take);
		}
	}
	if (load->device == GA_DEVICE_HOST)
		pfree(piece);
	else
		ga_arena_free(piece);
	ga_reader_close(reader);
}

void
ga_load_worker(dsm_segment *seg, shm_toc *toc)
{
	SharedLoad *load = shm_toc_lookup(toc, KEY_SHARED, false);

	SPI_connect();
	load_chunks(load);
	SPI_finish();
}

static void
init_load(SharedLoad *load, uint64 region, int device, const GaHash *tensor, uint64 nchunks, int participants)
{
	load->region = region;
	load->device = device;
	load->tensor = *tensor;
	load->participants = participants;
	load->claim = Max(Min(nchunks / (participants * 4), MAX_CLAIM), 1);
	pg_atomic_init_u64(&load->next, 0);
}

static void
load_parallel(uint64 region, int device, const GaHash *tensor, uint64 nchunks, int workers)
{
	ParallelContext *context;
	SharedLoad *load;

	EnterParallelMode();
	context = CreateParallelContext("gpuagent", "ga_load_worker", workers);
	shm_toc_estimate_chunk(&context->estimator, sizeof(SharedLoad));
	shm_toc_estimate_keys(&context->estimator, 1);
	InitializeParallelDSM(context);
	load = shm_toc_allocate(context->toc, sizeof(SharedLoad));
	init_load(load, region, device, tensor, nchunks, workers + 1);
	shm_toc_insert(context->toc, KEY_SHARED, load);
	LaunchParallelWorkers(context);
	load_chunks(load);
	WaitForParallelWorkersToFinish(context);
	DestroyParallelContext(context);
	ExitParallelMode();
}

void
ga_region_load(uint64 region, int device, const GaHash *tensor)
{
	GaReader   *reader = ga_reader_open(tensor);
	uint64		nchunks = reader->nchunks;
	int			workers = Min((uint64) max_parallel_maintenance_workers, nchunks / CHUNKS_PER_WORKER);
	SharedLoad	load;

	if (device != GA_DEVICE_HOST)
		workers = Min((uint64) workers, Max(arena_share() / GA_ARENA_BLOCK, 1) - 1);
	ga_reader_close(reader);
	if (nchunks == 0)
		return;
	if (workers > 0 && !IsInParallelMode())
		load_parallel(region, device, tensor, nchunks, workers);
	else
	{
		init_load(&load, region, device, tensor, nchunks, 1);
		load_chunks(&load);
	}
}
