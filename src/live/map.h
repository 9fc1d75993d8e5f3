/*
 * map.h
 *		What the functions that map share: their common arguments, loading, and the
 *		handle row.
 */
#ifndef GA_MAP_H
#define GA_MAP_H

#include "base/compat.h"
#include "device/region.h"

/* Arguments device and lease. */
typedef struct GaMapPlace
{
	bool		any;			/* the caller does not mind which device */
	int			device;
	bool		ipc;
	const Interval *lease;
} GaMapPlace;

/* 22023, 22004 and 55000 for what cannot be. */
extern void ga_map_place(FunctionCallInfo fcinfo, int device_arg, int lease_arg, GaMapPlace *place);

/*
 * Makes a region as `wanted` says at the place, fills its memory by the
 * callback, and makes it READY, still without a lease. When the caller did not
 * ask for the GPU that fails, it is made on the host. `region` gets a copy of it.
 */
typedef void (*GaMapFill) (const GaRegion *region, void *arg);
extern void ga_map_make(GaRegion *wanted, const GaMapPlace *place, GaMapFill fill, void *arg, GaRegion *region);

/* Grants a lease, which begins now, and makes the result of the function at hand; false when the region is gone. */
extern bool ga_map_handle(FunctionCallInfo fcinfo, const GaRegion *region, bool write, const Interval *lease, Datum *handle);

/* Throws 42704 for a handle that the caller does not have. */
pg_noreturn extern void ga_map_report_unknown(Datum handle);

/* Throws 55000 for a region that was gone before it had a lease. */
pg_noreturn extern void ga_map_report_lost(void);

/* "shm", .. */
extern const char *ga_map_kind(GaRegionKind kind);

#endif							/* GA_MAP_H */
