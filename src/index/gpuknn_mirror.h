/*
 * gpuknn_mirror.h
 *		Mirrors: copies of the slots of gpuknn indexes in the memory of GPUs, which
 *		are good to have. Whoever asks one gets what the pages would have given,
 *		but for the bits of bounds; or is told to read the pages.
 *
 * Mirrored are permanent and unlogged indexes in storage f16 and int8 that are
 * worth a request to the device. The first scan that wants a mirror makes it;
 * scans bring it up to date, one at a time, with what the meta page says has
 * changed. It goes when its index does, when its memory is wanted for something
 * else, and with the device process.
 */
#ifndef GA_GPUKNN_MIRROR_H
#define GA_GPUKNN_MIRROR_H

#include "device/device.h"
#include "index/gpuknn.h"

/* Queries to an index as its meta page was at a time after the caller's snapshot was taken. */
typedef struct GpuknnAsk
{
	GpuknnShape shape;
	GaKnnSums	sums;
	uint64		length;
	uint64		changes;
	uint64		incarnation;
	int			dtype;			/* of the queries */
	uint32		nqueries;		/* at most GA_KNN_MAX_QUERIES */
	const void *queries;		/* their elements, each query padded to a multiple of 8 bytes */
	const GaKnnDevicePair *after;	/* of each query, or NULL: only pairs behind these */
	uint32		limit;			/* pairs for each query, at most GA_KNN_MAX_LIMIT */
} GpuknnAsk;

/*
 * The smallest bounds of each query, ascending, NaN last, then by tid: pairs[q *
 * limit + i] for i < counts[q]. Bounds are never above the operator's value, and
 * NaN only where that is. False: the device does not answer, read the pages;
 * then *reason tells why, or is NULL where no device was to be had from the
 * start. Never throws because of the device.
 */
extern bool gpuknn_mirror_ask(Relation index, const GpuknnAsk *ask, GaKnnDevicePair *pairs, uint64 *counts,
							  const char **reason);

/* Whether such an index could have a mirror at all. */
extern bool gpuknn_mirror_may(Relation index, GaKnnStorage storage);

/* Whether the index has one that is complete; for the planner. */
extern bool gpuknn_mirror_is_resident(Oid index);

/* Counts a scan, by where its first pass ran, and a fallback. */
extern void gpuknn_mirror_count_scan(Relation index, bool by_device);
extern void gpuknn_mirror_count_fallback(Relation index, const char *reason);

/* Only while preloading, after ga_cache_device_register(). */
extern void ga_gpuknn_mirror_register(void);

#endif							/* GA_GPUKNN_MIRROR_H */
