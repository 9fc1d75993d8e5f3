/*
 * leaves.h
 *		The leaf table of a region: what its contents were when it was loaded or
 *		last synced. A file beside that of the region, <region file>.leaves, which
 *		only the server reads and which goes with the region.
 *
 * It is written by whoever has excluded others from the region
 * (ga_region_exclude): facts about the contents that it describes at any time,
 * other contents when the transaction that stored them has committed.
 */
#ifndef GA_LEAVES_H
#define GA_LEAVES_H

#include "base/compat.h"
#include "math/fingerprint.h"
#include "store/store.h"

typedef struct GaLeafChunk
{
	GaHash		hash;
	GaHash		base;			/* when `known`: the chunk that it is stored as a delta of, or itself */
	uint16		differ;			/* leaves that the delta replaces; 0: it has a row of its own */
	uint16		hashed;			/* leaves whose SHA-256 is known */
	uint16		known;
	uint16		pad;
} GaLeafChunk;

typedef struct GaLeafHeader
{
	uint32		magic;
	uint32		valid;			/* 0 while the table is being written: it says nothing then */
	uint64		nbytes;			/* of the tensor */
	GaHash		tensor;
} GaLeafHeader;

typedef struct GaLeaves
{
	GaLeafHeader *header;		/* NULL: there is no table */
	GaFingerprint *prints;		/* per leaf */
	GaHash	   *hashes;			/* SHA-256 per leaf, where `hashed` says so */
	GaLeafChunk *chunks;
	uint64		nleaves;
	uint64		nchunks;
	size_t		bytes;			/* mapped */
} GaLeaves;

/* Makes the file, all zero, and maps it; replaces an older one. */
extern void ga_leaves_create(uint64 region, uint64 nbytes, GaLeaves *leaves);

/* Maps the file; no table when there is none or it is not one of a tensor of so many bytes. */
extern void ga_leaves_open(uint64 region, uint64 nbytes, GaLeaves *leaves);

/* A copy in memory of the current context. */
extern void ga_leaves_copy(const GaLeaves *from, GaLeaves *to);

extern void ga_leaves_close(GaLeaves *leaves);

/* Chunk hashes of the tensor; what else is known of the chunks is forgotten. */
extern void ga_leaves_set_tensor(GaLeaves *leaves, GaReader *reader);

#endif							/* GA_LEAVES_H */
