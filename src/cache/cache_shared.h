/*
 * cache_shared.h
 *		The shared structures of the agent cache; for the files cache_*.c only. How
 *		they are used is told at the top of cache_table.c.
 */
#ifndef GA_CACHE_SHARED_H
#define GA_CACHE_SHARED_H

#include "cache/cache.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

#define GA_CACHE_UNIT 64
#define GA_CACHE_PARTITIONS 16

typedef struct GaCacheEntry
{
	uint64		hash;
	uint64		filled;			/* next full transaction id when it was filled */
	Oid			database;
	TransactionId incarnation;
	Oid			tablespace;
	Oid			file;
	TransactionId xmin;
	ItemPointerData tid;
	uint8		id_len;
	uint8		id;				/* offset of the id in the row; 0: not in use */
	uint32		next;			/* in the chain: position + 1 */
	uint32		units;			/* with this header */
	uint32		bytes;
	Buffer		buffer;			/* with place: where in shared_buffers the tuple was last seen */
	uint16		state;
	uint16		place;
} GaCacheEntry;					/* the row follows */

StaticAssertDecl(sizeof(GaCacheEntry) == GA_CACHE_UNIT, "the header of an entry fills a unit");

/* Small, so that many of them stay in the processor's caches. */
struct GaCacheBucket
{
	pg_atomic_uint32 sequence;
	uint32		head;			/* position + 1 of the first entry */
	Buffer		buffer;			/* with the next two: where the tuple of the first entry was last seen */
	uint16		place;
	uint8		offset;			/* 0: beyond 255 */
	uint8		heat;			/* uses since the hand passed; readers write it without a lock */
};

StaticAssertDecl(sizeof(struct GaCacheBucket) == 16, "buckets do not straddle lines");

typedef struct GaCachePartition
{
	char	   *ring;
	struct GaCacheBucket *buckets;
	uint32		mask;			/* buckets - 1 */
	uint32		units;
	uint32		head;			/* where the next row goes */
	uint32		tail;			/* the oldest row */
	uint32		filled;			/* units from tail to head */
	uint64		used;			/* units of rows in use */
	uint64		agents;
	uint64		versions;
	uint64		evictions;
	char		pad[32];
} GaCachePartition;

/* One per process number, written by that process only. */
typedef struct GaCacheCounter
{
	uint64		hits;
	uint64		misses;
	char		pad[48];
} GaCacheCounter;

typedef struct GaCacheShared
{
	int			npartitions;
	uint64		budget;
	GaCacheCounter *counters;
	GaCacheStats base;			/* counters at the last reset */
	GaCachePartition partitions[GA_CACHE_PARTITIONS];
} GaCacheShared;

extern GaCacheShared *ga_cache_shared;

/* Lock i is that of partition i, the last one that of `base`. */
extern LWLockPadded *ga_cache_locks;

#define GA_CACHE_BASE_LOCK GA_CACHE_PARTITIONS

static inline LWLock *
ga_cache_lock(const GaCachePartition *p)
{
	return &ga_cache_locks[p - ga_cache_shared->partitions].lock;
}

static inline struct GaCacheBucket *
ga_cache_bucket(const GaCachePartition *p, uint64 hash)
{
	return &p->buckets[hash & p->mask];
}

static inline GaCacheEntry *
ga_cache_entry(const GaCachePartition *p, uint32 position)
{
	return (GaCacheEntry *) (p->ring + (uint64) position * GA_CACHE_UNIT);
}

#define GA_CACHE_ROW(entry) ((char *) (entry) + sizeof(GaCacheEntry))

/* The position after a block of the ring. */
static inline uint32
ga_cache_after(const GaCachePartition *p, uint32 position)
{
	uint32		next = position + ga_cache_entry(p, position)->units;

	return next == p->units ? 0 : next;
}

/* True when the chain has an entry of the same agent; before: only in front of `entry`. */
extern bool ga_cache_has_other(const GaCachePartition *p, const struct GaCacheBucket *bucket, const GaCacheEntry *entry,
							   bool before);

#endif							/* GA_CACHE_SHARED_H */
