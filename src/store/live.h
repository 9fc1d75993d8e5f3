/*
 * live.h
 *		Swarms that are mapped for writing: what is known of the contents that
 *		their region was loaded with or last synced to.
 *
 * The leaf table of a region is the file <run directory>/region-<id>.leaves,
 * which no client opens and ga_region_remove removes: the tensor that it
 * describes, a fingerprint per leaf, and per chunk its hash, the chunk that it
 * is a delta of (if it is) and which leaves differ from that. A table that does
 * not describe the swarm's current version is never believed: then all leaves
 * are hashed.
 */
#ifndef GA_LIVE_H
#define GA_LIVE_H

#include "base/compat.h"
#include "store/store.h"

/* ---- load.c ---- */

/*
 * Reads a stored tensor into a region, with as many parallel workers as the
 * server grants (max_parallel_maintenance_workers), each decompressing into the
 * region or, for a GPU, into the arena while the copy of another piece runs.
 * Throws as ga_reader_read does. The caller is connected to SPI.
 */
extern void ga_region_load(uint64 region, int device, const GaHash *tensor);

/* ---- live.c ---- */

/* Makes the leaf table of a region that holds the tensor. The caller is connected to SPI. */
extern void ga_live_begin(uint64 region, int device, const GaHash *tensor);

#endif							/* GA_LIVE_H */
