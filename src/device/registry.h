/*
 * registry.h
 *		The table of regions and leases in shared memory, as region.c and lease.c
 *		share it. All of it belongs to ga_region_lock().
 */
#ifndef GA_REGISTRY_H
#define GA_REGISTRY_H

#include "device/region.h"

typedef struct GaRegistry
{
	uint64		last_id;
	int			nregions;		/* entries that were ever used */
	int			nleases;
	GaRegion	regions[FLEXIBLE_ARRAY_MEMBER];	/* gpuagent.max_handles of them, then as many leases */
} GaRegistry;

extern void *ga_registry_area;	/* NULL where there is no shared memory */
#define ga_registry ((GaRegistry *) ga_registry_area)

/* ---- the lock is held ---- */

/* NULL when there is none with this id. */
extern GaRegion *ga_registry_region(uint64 id);
extern GaLease *ga_registry_lease(int i);
extern void ga_registry_drop(GaLease *lease);

/* ---- it is not ---- */

/* 53400: all regions or handles are in use */
pg_noreturn extern void ga_registry_full(const char *what);

/* A region that this transaction made has its first lease: it is not the transaction's to end any more, unless it is private. */
extern void ga_region_settle(uint64 id, bool private);

#endif							/* GA_REGISTRY_H */
