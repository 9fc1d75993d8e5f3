/*
 * state.h
 *		What the processes of the server share about devices beyond the mapping;
 *		for the files of this room.
 */
#ifndef GA_STATE_H
#define GA_STATE_H

#include "base/compat.h"
#include "device/mapping.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#define GA_FREE_QUEUE 1024

typedef struct GaDeviceState
{
	/* Regions removed so far: who keeps mappings looks at them again when it has changed. */
	pg_atomic_uint64 removals;

	/* The host's row of stat_device. */
	pg_atomic_uint64 host_bytes;
	pg_atomic_uint64 host_requests;
	pg_atomic_uint64 fallbacks;

	/* Regions of GPUs that their remover could not free itself; the supervisor does. Under the area's lock. */
	int			nfree;
	uint64		free_regions[GA_FREE_QUEUE];
	int			supervisor;		/* its process number + 1, for its latch; 0: none */
} GaDeviceState;

/* NULL without preloading. */
extern GaDeviceState *ga_device_state(void);
extern LWLock *ga_device_state_lock(void);

/* Shared area of arena.c; registered by ga_mapping_register. */
extern void ga_arena_register(void);

/* Tells who has a region's file open that it is gone, and removes it; true when there was one. Never throws. */
extern bool ga_remove_region_file(const char *path);



#endif							/* GA_STATE_H */
