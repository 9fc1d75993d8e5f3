/*
 * cache_device.h
 *		The device tier of the agent cache: states in the memory of GPUs.
 *
 * It never says what a statement sees. Whoever looks up a row names the version
 * that its own statement has found (file, tid, raw xmin) and gets the bytes of
 * exactly that version, or nothing. What may be named is told in cache.c.
 */
#ifndef GA_CACHE_DEVICE_H
#define GA_CACHE_DEVICE_H

#include "base/compat.h"
#include "cache/cache.h"
#include "tensor/tensor.h"

/* A version, as the statement at hand sees it. */
typedef struct GaDeviceRow
{
	uint64		hash;			/* of database and id */
	TransactionId incarnation;
	Oid			tablespace;
	Oid			file;
	TransactionId xmin;			/* raw */
	ItemPointerData tid;
	uint64		at;				/* where its bytes are; see GaDeviceFill */
} GaDeviceRow;

/* Where a version is; good until ga_cache_device_release. */
typedef struct GaDeviceHit
{
	int			block;
	uint64		offset;			/* in the block */
	uint64		at;				/* the caller's: where the row is to go */
} GaDeviceHit;

/* States of one dtype and shape, to be cached. */
typedef struct GaDeviceFill
{
	int			device;
	int			dtype;
	int			ndim;
	const int64 *dims;
	uint64		row_bytes;
	uint64		source;			/* a region with the row's bytes at `at`; 0: they are in data */
	const char *data;
	const GaDeviceRow *rows;
	uint32		n;
	uint64		now;			/* ga_cache_now() */
} GaDeviceFill;

/* Most rows that it can ever hold. */
#define GA_DEVICE_CACHE_SLOTS 131072

extern void ga_cache_device_register(void);

/* True when there is such a tier and the GPU serves. */
extern bool ga_cache_device_serves(int device);

/* May this transaction use and fill it for a row that its statement sees? Not for what it wrote itself. */
extern bool ga_cache_device_may(TransactionId xmin);

/* Finds a version; its block is kept until ga_cache_device_release, or the end of the subtransaction by an error. */
extern bool ga_cache_device_find(int device, const GaDeviceRow *row, uint64 now, GaDeviceHit *hit, GaView *view);

/* Copies rows that were found into a region of the same device; sorts hits. */
extern void ga_cache_device_gather(int device, GaDeviceHit *hits, uint64 n, uint64 region, uint32 row_bytes);
extern void ga_cache_device_release(void);

/* Caches what there is room for. */
extern void ga_cache_device_fill(const GaDeviceFill *fill);

/* Whether so much memory can be had without giving up blocks. */
extern bool ga_cache_device_spares(int device, uint64 nbytes);

extern void ga_cache_device_remove(uint64 hash);
extern void ga_cache_device_remove_database(Oid database);

extern void ga_cache_device_count(uint64 hits, uint64 misses);
extern void ga_cache_device_reset_stats(void);

/* All zero where no GPU serves; device < 0: all of them. reset_at stays as it is. */
extern void ga_cache_device_stats(int device, GaCacheStats *stats);

#endif							/* GA_CACHE_DEVICE_H */
