/*
 * gpuknn_mirror_shared.h
 *		The table of indexes and their mirrors in main shared memory; for the files
 *		gpuknn_mirror*.c only.
 *
 * An entry tells what is known of an index, and has at most one mirror. Its lock
 * is an LWLock: nothing that throws, waits or does I/O happens under it. Who asks
 * the device pins the mirror meanwhile; one process at a time fills it, pinned.
 * A doomed mirror is found by nobody, and goes when the last pin does.
 */
#ifndef GA_GPUKNN_MIRROR_SHARED_H
#define GA_GPUKNN_MIRROR_SHARED_H

#include "datatype/timestamp.h"
#include "index/gpuknn_mirror.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"

/* Indexes that are known at once: the longest unused gives way. */
#define MIRROR_ENTRIES 256

/* Another mirror may take the memory of one that was not used for so many times as long as loading it took. */
#define MIRROR_KEPT 10

/* So many unanswered questions, more than can be on their way at once, and it is made anew. */
#define MIRROR_FAILURES (MaxBackends + 8)

/* After a failure, and twice as long after each of a few more. */
#define MIRROR_RETRY_MS 500
#define MIRROR_MOST_FAILURES 7

#define MIRROR_REASON_LEN 64

typedef struct MirrorEntry
{
	/* the key; database 0: not in use */
	Oid			database;
	Oid			index;

	GaRelLocator locator;		/* the file, as last seen */
	pg_atomic_uint64 scans_device;
	pg_atomic_uint64 scans_host;
	pg_atomic_uint64 fallbacks;
	pg_atomic_uint64 last_used; /* TimestampTz */
	char		last_reason[MIRROR_REASON_LEN]; /* of a fallback */

	/* after a failure, nobody tries to make a mirror before retry_at */
	TimestampTz retry_at;
	int			failures;		/* since the last answer; who resets it has no lock */

	/* the mirror; region 0: none */
	uint64		region;
	uint64		size;
	int			device;
	uint32		epoch;			/* of the device process that made it */
	bool		doomed;
	pg_atomic_uint32 pins;
	uint64		incarnation;
	uint64		record_bytes;
	uint64		capacity;		/* slots */
	bool		ready;			/* it holds the first `length` slots, as of `changes` or later */
	uint64		length;
	uint64		changes;
	int			filler;			/* process that makes it or brings it up to date; 0: none */
	bool		filling_all;	/* which takes long */
	pg_atomic_uint32 asked;		/* questions since the last one that was answered */
	int64		load_us;
	TimestampTz resident_since;
} MirrorEntry;

typedef struct MirrorTable
{
	ConditionVariable filled;
	int			nentries;		/* that were ever in use */
	MirrorEntry entries[MIRROR_ENTRIES];
} MirrorTable;

extern void *gpuknn_mirror_area;
extern LWLockPadded *gpuknn_mirror_locks;

/* True while an error is one of the device, after which the pages can be read. */
extern bool gpuknn_mirror_at_device;

#define mirrors ((MirrorTable *) gpuknn_mirror_area)
#define mirrors_lock (&gpuknn_mirror_locks[0].lock)

/* Bytes from slot to slot on the device. */
static inline uint32
mirror_stride(size_t record_bytes)
{
	return (uint32) TYPEALIGN(16, record_bytes);
}

/* Under the lock. */
extern MirrorEntry *gpuknn_mirror_find(Oid database, Oid index);

/* Under the lock in exclusive mode. The entry of an index, a new one if need be; NULL when all are in use. */
extern MirrorEntry *gpuknn_mirror_enter(Relation index);
extern void gpuknn_mirror_doom(MirrorEntry *entry);

/* Gives the lock back, and removes the memory of what is doomed and not pinned. */
extern void gpuknn_mirror_unlock(void);

/* One pin of this process at a time: under the lock, and without it. */
extern void gpuknn_mirror_pin(MirrorEntry *entry);
extern void gpuknn_mirror_unpin(void);

/* Under the lock in exclusive mode: this process fills the mirror, which is pinned; and does so no more, though it is still pinned. */
extern void gpuknn_mirror_begin_fill(MirrorEntry *entry);
extern void gpuknn_mirror_end_fill(void);

/* After an error, of the device or not: ends both; what was being filled is given up. Never throws. */
extern void gpuknn_mirror_release(bool failed);

/* Gives up mirrors for one of so many bytes; whether there were any. */
extern bool gpuknn_mirror_make_way(int device, uint64 nbytes);

/* Makes the mirror of the entry, which this process fills and has pinned, complete; NULL, or why it cannot. */
extern const char *gpuknn_mirror_fill(Relation index, MirrorEntry *entry);

#endif							/* GA_GPUKNN_MIRROR_SHARED_H */
