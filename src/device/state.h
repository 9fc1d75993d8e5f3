/*
 * state.h
 *		What the processes of the server share about devices beyond the mapping;
 *		for the files of this room.
 */
#ifndef GA_STATE_H
#define GA_STATE_H

#include "base/compat.h"
#include "base/guc.h"
#include "device/mapping.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

/*
 * A region of a GPU whose memory is to be freed, but not before the request that
 * its remover gave up is over: that may be the one that makes it.
 */
typedef struct GaFreeRegion
{
	uint64		region;
	int			device;
	int			slot;			/* -1: none */
	uint32		generation;
} GaFreeRegion;

typedef struct GaDeviceState
{
	/* Regions removed so far: who keeps mappings looks at them again when it has changed. */
	pg_atomic_uint64 removals;

	/* The host's row of stat_device. */
	pg_atomic_uint64 host_bytes;
	pg_atomic_uint64 host_requests;
	pg_atomic_uint64 fallbacks;

	/*
	 * The supervisor frees the memory of removed regions of GPUs, one after the
	 * other: who removes one may be in an abort, where it cannot wait. Under the
	 * area's lock; the first stays in the queue until it is free.
	 */
	int			supervisor;		/* its process number + 1, for its latch; 0: none */
	int			nfree;
	GaFreeRegion free_queue[FLEXIBLE_ARRAY_MEMBER];
} GaDeviceState;

/* Room in the queue: each region may be removed twice, by who failed to make it and by its registry. */
#define GA_FREE_QUEUE (2 * ga_max_handles + 64)

/* NULL without preloading. */
extern GaDeviceState *ga_device_state(void);
extern LWLock *ga_device_state_lock(void);

/* Shared area of arena.c; registered by ga_mapping_register. */
extern void ga_arena_register(void);

/* True while the slot's abandoned request of this generation runs. */
extern bool ga_slot_is_abandoned(int slot, uint32 generation);

/* Sets the supervisor's latch. */
extern void ga_wake_supervisor(void);

/* Sets GA_EPOCH_EXPIRED in the control page of a region's file. Never throws. */
extern void ga_expire_region_file(const char *path);

#endif							/* GA_STATE_H */
