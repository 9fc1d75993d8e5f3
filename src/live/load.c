/*
 * load.c
 *		Brings a stored tensor into a region (live.h), with the help of parallel
 *		workers (store/parallel.h). Each participant decodes straight into the
 *		region's file or, for a GPU, into the arena and sends it from there while
 *		the others decode.
 */
#include "base/compat.h"

#include "device/device.h"
#include "device/mapping.h"
#include "live/live.h"
#include "store/parallel.h"

/* Bytes that pass through the arena at a time. */
#define MAX_PIECE ((uint64) 8 * GA_ARENA_BLOCK)

typedef struct Load
{
	uint64		region;
	int			device;
} Load;

extern PGDLLEXPORT void ga_load_work(GaParallel *run);

/* What a load takes of the arena; the rest is left to others. */
static uint64
arena_share(void)
{
	return ga_arena_limit() / 2;
}

/* What this process has for a piece: in the arena for a GPU, else of its own, so small that it stays in the cache. */
static char *
begin_piece(int device, int participants, uint64 *nbytes)
{
	uint64		share;

	if (device == GA_DEVICE_HOST)
	{
		*nbytes = GA_CHUNK_SIZE;
		return palloc(GA_CHUNK_SIZE);
	}
	share = arena_share() / participants;
	*nbytes = Max(TYPEALIGN_DOWN(GA_ARENA_BLOCK, Min(share, MAX_PIECE)), GA_ARENA_BLOCK);
	return ga_arena_alloc(*nbytes);
}

/* The share of this process. */
void
ga_load_work(GaParallel *run)
{
	Load	   *load = run->shared;
	uint64		piece_bytes;
	char	   *piece = begin_piece(load->device, run->participants, &piece_bytes);
	GaParallelRange range;

	while (ga_parallel_claim(run, &range))
	{
		uint64		end = Min((range.first + range.count) * GA_CHUNK_SIZE, range.reader->nbytes);

		for (uint64 offset = range.first * GA_CHUNK_SIZE; offset < end; offset += piece_bytes)
		{
			uint64		take = Min(end - offset, piece_bytes);

			ga_reader_read(range.reader, offset, take, piece, false);
			ga_region_upload(load->region, load->device, offset, piece, take);
		}
	}
	if (load->device == GA_DEVICE_HOST)
		pfree(piece);
	else
		ga_arena_free(piece);
}

void
ga_region_load(uint64 region, int device, const GaHash *tensor)
{
	GaReader   *reader = ga_reader_open(tensor);
	GaParallelTensor whole = {*tensor, reader->nbytes};
	int			workers = ga_parallel_workers(reader->nchunks);
	GaParallel *run;

	if (device != GA_DEVICE_HOST)
		workers = Min((uint64) workers, Max(arena_share() / GA_ARENA_BLOCK, 1) - 1);
	ga_reader_close(reader);
	if (whole.nbytes == 0)
		return;
	run = ga_parallel_prepare("ga_load_work", workers, &whole, 1, sizeof(Load));
	*(Load *) run->shared = (Load) {region, device};
	ga_parallel_execute(run);
	ga_parallel_end(run);
}
