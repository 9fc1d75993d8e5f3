/*
 * cache_device_shared.h
 *		The shared table of the device tier of the agent cache; for the files
 *		cache_device*.c only. How it is used is told at the top of cache_device.c.
 */
#ifndef GA_CACHE_DEVICE_SHARED_H
#define GA_CACHE_DEVICE_SHARED_H

#include "device/mapping.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "cache/cache_device.h"

#define BLOCK_BYTES ((uint64) 16 * 1024 * 1024)
#define BLOCK_SLOTS 1024
#define MAX_BLOCKS (GA_DEVICE_CACHE_SLOTS / BLOCK_SLOTS)
#define SMALLEST_BLOCK ((uint64) 2 * 1024 * 1024)	/* what a GPU gives at least */

typedef enum SlotState
{
	SLOT_FREE = 0,
	SLOT_LOADING,
	SLOT_VALID
} SlotState;

typedef struct Slot
{
	GaDeviceRow row;
	uint64		filled;			/* next full transaction id when it was filled */
	uint32		next;			/* in the chain: position + 1 */
	uint8		state;
	uint8		used;			/* since the hand passed; readers write it under the lock in shared mode */
} Slot;

typedef struct Block
{
	uint64		region;			/* 0: not in use */
	uint64		size;
	Oid			database;
	int			device;
	uint32		epoch;			/* of the device process that made it */
	bool		doomed;
	pg_atomic_uint32 pins;
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];
	uint64		row_bytes;
	uint32		nslots;			/* 0: its memory is being made */
	uint32		touched;		/* slots that were ever in use */
	uint32		live;			/* slots that are not free */
	uint32		valid;
	uint32		hand;
} Block;

typedef struct Shared
{
	int			nblocks;
	uint32		mask;			/* buckets - 1 */
	int			hand;			/* of blocks */
	pg_atomic_uint64 hits;
	pg_atomic_uint64 misses;
	uint64		evictions;
	Block		blocks[FLEXIBLE_ARRAY_MEMBER];
} Shared;

extern void *ga_device_cache;
extern LWLockPadded *ga_device_cache_locks;

/* The block that this process fills; -1: none. */
extern int	ga_device_cache_loading;

#define shared ((Shared *) ga_device_cache)
#define table_lock (&ga_device_cache_locks[0].lock)

/* Where the slots and the heads of their chains begin. */
static inline Size
slots_offset(int nblocks)
{
	return MAXALIGN(offsetof(Shared, blocks) + sizeof(Block) * nblocks);
}

static inline Size
buckets_offset(int nblocks)
{
	return slots_offset(nblocks) + sizeof(Slot) * BLOCK_SLOTS * nblocks;
}

static inline Slot *
slot_at(uint32 position)
{
	return (Slot *) ((char *) ga_device_cache + slots_offset(shared->nblocks)) + position;
}

static inline uint32 *
bucket_of(uint64 hash)
{
	return (uint32 *) ((char *) ga_device_cache + buckets_offset(shared->nblocks)) + (hash & shared->mask);
}

static inline Block *
block_of(uint32 position)
{
	return &shared->blocks[position / BLOCK_SLOTS];
}

static inline uint32
device_epoch(void)
{
	return __atomic_load_n(&ga_mapping()->epoch, __ATOMIC_SEQ_CST);
}

/* Under the lock in exclusive mode. */
extern void ga_device_cache_unlink_slot(uint32 position);
extern void ga_device_cache_unlink_agent(uint64 hash, Oid database, int device);
extern void ga_device_cache_doom(Block *block);
extern int	ga_device_cache_doom_lost(void);

/* Gives the lock back, and removes the memory of what is doomed and not pinned. */
extern void ga_device_cache_unlock(void);

/* Under the lock in either mode. */
extern void ga_device_cache_pin(int block);
extern uint32 ga_device_cache_find_slot(int device, const GaDeviceRow *row, uint64 now);

/* Without the lock. */
extern void ga_device_cache_unpin(void);
extern void ga_device_cache_enter(void);	/* before the first pin of a process */
extern int	ga_device_cache_make_room(int device, uint64 nbytes);

#endif							/* GA_CACHE_DEVICE_SHARED_H */
