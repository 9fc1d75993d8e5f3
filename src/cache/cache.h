/*
 * cache.h
 *		The agent cache: decoded rows of gpuagent.agent in shared memory, named by
 *		row version (database, tablespace, relation file, tid, raw xmin).
 *
 * An entry is never believed: whoever uses it has fetched that tid under its own
 * snapshot and found a visible row with that xmin. So nothing has to be
 * invalidated; what makes the name of a version unique is in cache.c.
 */
#ifndef GA_CACHE_H
#define GA_CACHE_H

#include "base/compat.h"
#include "access/htup_details.h"
#include "storage/buf.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

#define GA_AGENT_COLUMNS 10

/* Versions of one agent that the cache holds, newest first. */
#define GA_CACHE_VERSIONS 4

/* The largest gpuagent.cache_max_age, transactions. */
#define GA_CACHE_LONGEST (1 << 30)

/* Whose row, in which file. */
typedef struct GaCacheKey
{
	uint64		hash;			/* of database and id */
	Oid			database;
	TransactionId incarnation;	/* raw xmin of the database's row: its OID may be used again */
	Oid			tablespace;
	Oid			file;			/* relfilenumber */
	const char *id;
	int			id_len;
} GaCacheKey;

/* Where a version was found; good until its bucket changes. */
typedef struct GaCacheVersion
{
	struct GaCacheBucket *bucket;
	uint32		sequence;
	TransactionId xmin;
	ItemPointerData tid;
	const char *row;			/* a HeapTupleHeader */
	uint32		bytes;			/* of the row */
	uint16		state;			/* offset of the column state in it; 0: NULL */
	uint16		place;			/* with buffer: where the tuple was last seen; no more than a hint */
	Buffer		buffer;
} GaCacheVersion;

/* ---- cache_table.c: the shared directory and its memory ---- */

/* Registers the shared area; after ga_mapping_register. Only while preloading. */
extern void ga_cache_register(void);

/* False without preloading. */
extern bool ga_cache_ready(void);

extern uint64 ga_cache_hash(Oid database, TransactionId incarnation, const char *id, int id_len);

/* Brings the place of an agent in the directory on its way. */
extern void ga_cache_prefetch(uint64 hash);

/* Versions of an agent, newest first; their number. Takes no lock. now: the next full transaction id, about. */
extern int	ga_cache_find(const GaCacheKey *key, uint64 now, GaCacheVersion versions[GA_CACHE_VERSIONS]);

/* Copies bytes of a row; false when the bucket changed, then dst holds anything. */
extern bool ga_cache_read(const GaCacheVersion *version, uint32 offset, uint32 bytes, char *dst);

/* Bytes of the column state; 0 when the bucket changed. */
extern uint32 ga_cache_state_bytes(const GaCacheVersion *version);

/* Remembers where the tuple is now. */
extern void ga_cache_hint(const GaCacheVersion *version, Buffer buffer, uint16 place);

typedef enum GaCacheOutcome
{
	GA_CACHE_STORED,
	GA_CACHE_PRESENT,			/* was there already */
	GA_CACHE_REFUSED			/* too large, older than all that is there, no room without evicting, or (not wait) locked */
} GaCacheOutcome;

typedef struct GaCacheRow
{
	HeapTupleHeader row;		/* GA_AGENT_COLUMNS decoded values */
	uint32		bytes;
	uint16		state;
	uint16		place;
	Buffer		buffer;
	uint8		id;				/* offset of the id's first byte */
	TransactionId xmin;
	ItemPointerData tid;
	uint64		now;
	uint64		filled;			/* what its age counts from: now, or before */
	bool		superseded;		/* a newer version is committed */
} GaCacheRow;

#define GA_CACHE_WAIT 1			/* for the lock */
#define GA_CACHE_NO_EVICT 2

/* dead: versions that no snapshot will see again, removed on the way. */
extern GaCacheOutcome ga_cache_insert(const GaCacheKey *key, const GaCacheRow *row,
									  const GaCacheVersion *dead, int ndead, int flags);

/* Bytes that a row takes in the cache, 0 when it is too large for it. */
extern uint64 ga_cache_room(uint64 row_bytes);

/* Removes the versions of an agent; whether there were any. */
extern bool ga_cache_remove(const GaCacheKey *key);

/* Removes everything of a database; the number of agents. */
extern uint64 ga_cache_remove_database(Oid database);

typedef struct GaCacheStats
{
	uint64		agents;
	uint64		versions;
	uint64		hits;
	uint64		misses;
	uint64		evictions;
	uint64		used;
	uint64		budget;
	int64		reset_at;		/* TimestampTz */
} GaCacheStats;

extern void ga_cache_stats(GaCacheStats *stats);
extern void ga_cache_reset_stats(void);
extern void ga_cache_count(bool hit);

/* Ids of the agents of a database, hottest first, as consecutive (length byte, bytes). */
extern char *ga_cache_ids(Oid database, TransactionId incarnation, uint64 *nbytes, uint64 *count);

/* ---- cache.c: who may use it, and lookups ---- */

/*
 * gpuagent.agent, opened and locked as a SELECT would, when the cache may serve
 * the caller from it under its active snapshot; else NULL. Closed by
 * RelationClose.
 */
extern Relation ga_cache_open(void);

/*
 * The key of an agent but for its file, which ga_cache_key_file adds. Apart,
 * because the first brings the directory on its way while the table is opened.
 */
extern void ga_cache_key(const char *id, int id_len, GaCacheKey *key);
extern void ga_cache_key_file(Relation rel, GaCacheKey *key);

/* The next full transaction id as of the beginning of this transaction, about. */
extern uint64 ga_cache_now(void);

/* Raw xmin of this database's row in pg_database. */
extern TransactionId ga_cache_incarnation(void);

/* Columns of a cached row. */
extern TupleDesc ga_cache_columns(void);

/*
 * The version that the snapshot sees; its index in versions, -1 when it is not
 * cached. dead gets those that nobody will see again.
 */
extern int	ga_cache_visible(Relation rel, const GaCacheKey *key, Snapshot snapshot,
							 GaCacheVersion *versions, GaCacheVersion *dead, int *ndead);

/* ---- cache_fill.c ---- */

/*
 * Reads the agent by the primary key and caches it when that is safe. *row gets
 * its columns, or NULL when the snapshot sees none. False when the table has no
 * such key: then only SQL can tell.
 */
extern bool ga_cache_fetch(Relation rel, const GaCacheKey *key, Snapshot snapshot, const GaCacheVersion *dead,
						   int ndead, int flags, HeapTuple *row, GaCacheOutcome *outcome, uint64 *room);

#endif							/* GA_CACHE_H */
