/*
 * cache_table.c
 *		The shared memory of the agent cache: rings of rows, and a hash directory
 *		that is read without locks.
 *
 * A partition has a ring of units of 64 bytes. New rows go to its head; room is
 * made at its tail. A row that is reached there and was used since (heat), and is
 * the newest of its agent, moves to the head: a clock whose hand moves the rows
 * instead of itself. So rows of any size lie in one piece and nothing fragments.
 *
 * A bucket of the directory is the head of a chain of rows and a sequence number,
 * odd while a writer changes the chain. Every removal and every move of a row
 * changes its bucket's sequence before the memory is used again. Readers take the
 * number, follow the chain, copy, and look whether the number is still the same;
 * until then they believe nothing but that pointers lead into the ring. Writers
 * hold the partition's lock exclusively and never throw while they do.
 */
#include "base/compat.h"

#include "access/transam.h"
#include "base/guc.h"
#include "base/shared.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/buf_internals.h"
#include "storage/bufmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/s_lock.h"
#include "device/mapping.h"
#include "cache/cache_shared.h"
#include "utils/timestamp.h"

#define PARTITION_BYTES ((uint64) 64 * 1024 * 1024)	/* smaller caches are not divided */
#define LARGEST_SHARE 4			/* a row takes at most this part of its partition */
#define MOVE_LIMIT 4096			/* units that are moved to make room for one row */
#define MAX_CHAIN 64			/* entries that a reader looks at */
#define MAX_RETRIES 1000
#define MAX_HEAT 3
#define PREFETCHED_LINES 20		/* of the first row of a chain */

/* Behind each ring: what a reader may touch when the entry it looks at is being overwritten. */
#define GUARD 1024

typedef GaCacheEntry Entry;
typedef struct GaCacheBucket Bucket;
typedef GaCachePartition Partition;

GaCacheShared *ga_cache_shared = NULL;
LWLockPadded *ga_cache_locks = NULL;

#define cache ga_cache_shared
#define UNIT GA_CACHE_UNIT
#define ROW(entry) GA_CACHE_ROW(entry)
#define MAX_PARTITIONS GA_CACHE_PARTITIONS
#define lock_of(p) ga_cache_lock(p)
#define bucket_of(p, hash) ga_cache_bucket((p), (hash))
#define entry_at(p, position) ga_cache_entry((p), (position))

/* ---- memory ---- */

static uint64
bucket_count(uint64 bytes)
{
	return pg_prevpower2_64(Max(bytes / 1024, MAX_PARTITIONS));
}

/* At least as many as bucket_count will give when the mapping is there. */
static Size
area_size(void)
{
	Size		size = CACHELINEALIGN(sizeof(GaCacheShared));

	size = add_size(size, mul_size(sizeof(GaCacheCounter), ga_process_slots()));
	return add_size(size, mul_size(sizeof(Bucket), bucket_count((uint64) ga_host_cache_size * 1024 * 1024)));
}

static int
area_locks(void)
{
	return GA_CACHE_BASE_LOCK + 1;
}

static void
area_init(void *area)
{
	char	   *memory = ga_mapping_at(ga_mapping()->cache_offset);
	uint64		bytes = ga_mapping()->cache_bytes;
	uint64		nbuckets = bucket_count(bytes);
	Bucket	   *buckets;

	cache = area;
	cache->counters = (GaCacheCounter *) ((char *) area + CACHELINEALIGN(sizeof(GaCacheShared)));
	buckets = (Bucket *) (cache->counters + ga_process_slots());

	cache->npartitions = (int) pg_prevpower2_64(Max(Min(bytes / PARTITION_BYTES, MAX_PARTITIONS), 1));
	for (int i = 0; i < cache->npartitions; i++)
	{
		Partition  *p = &cache->partitions[i];
		uint64		share = bytes / cache->npartitions;

		p->ring = memory + share * i;
		p->units = (uint32) Min((share - GUARD) / UNIT, PG_UINT32_MAX - 1);
		p->buckets = buckets + nbuckets / cache->npartitions * i;
		p->mask = (uint32) Min(nbuckets / cache->npartitions, (uint64) 1 << 31) - 1;
		cache->budget += (uint64) p->units * UNIT;
	}
	for (uint64 i = 0; i < nbuckets; i++)
		pg_atomic_init_u32(&buckets[i].sequence, 0);
	cache->base.reset_at = GetCurrentTimestamp();
}

void
ga_cache_register(void)
{
	static const GaSharedArea area = {"gpuagent cache", area_size, area_locks, area_init, (void **) &ga_cache_shared, &ga_cache_locks};

	ga_shared_register(&area);
}

bool
ga_cache_ready(void)
{
	return cache != NULL;
}

uint64
ga_cache_room(uint64 row_bytes)
{
	uint64		units = (sizeof(Entry) + row_bytes + UNIT - 1) / UNIT;

	return units <= cache->partitions[0].units / LARGEST_SHARE ? units * UNIT : 0;
}

/* ---- the directory ---- */

uint64
ga_cache_hash(Oid database, TransactionId incarnation, const char *id, int id_len)
{
	return hash_bytes_extended((const unsigned char *) id, id_len, (uint64) database << 32 | incarnation);
}

static inline Partition *
partition_of(uint64 hash)
{
	return &cache->partitions[(hash >> 58) & (cache->npartitions - 1)];
}

static inline bool
same_agent(const Entry *entry, const GaCacheKey *key)
{
	return entry->hash == key->hash && entry->database == key->database && entry->incarnation == key->incarnation &&
		entry->id != 0 && entry->id_len == key->id_len && memcmp(ROW(entry) + entry->id, key->id, key->id_len) == 0;
}

static inline bool
same_file(const Entry *entry, const GaCacheKey *key)
{
	return entry->file == key->file && entry->tablespace == key->tablespace;
}

/* Transaction ids come round: a row is forgotten long before its xmin can name another transaction. */
static inline bool
is_expired(const Entry *entry, uint64 now)
{
	return (int64) (now - entry->filled) >= ga_cache_max_age;
}

void
ga_cache_prefetch(uint64 hash)
{
	__builtin_prefetch(bucket_of(partition_of(hash), hash));
}

/* Brings what a lookup is going to read, most likely, on its way, all at once. Nothing here is believed. */
static inline void
prefetch_first(const Partition *p, const Bucket *bucket)
{
	uint32		head = *(const volatile uint32 *) &bucket->head;
	Buffer		buffer = *(const volatile Buffer *) &bucket->buffer;
	const char *first;

	if (head == 0 || head > p->units)
		return;
	first = (const char *) entry_at(p, head - 1);
	__builtin_prefetch(first);
	__builtin_prefetch(first + 64);
	if (buffer > 0 && buffer <= NBuffers)
	{
		const char *page = (const char *) BufferGetBlock(buffer);

		__builtin_prefetch(GetBufferDescriptor(buffer - 1));
		__builtin_prefetch(page + SizeOfPageHeaderData + sizeof(ItemIdData) * bucket->offset);
		__builtin_prefetch(page + bucket->place);
		__builtin_prefetch(page);
	}
	for (int line = 2; line < PREFETCHED_LINES; line++)
		__builtin_prefetch(first + line * 64);
}

int
ga_cache_find(const GaCacheKey *key, uint64 now, GaCacheVersion versions[GA_CACHE_VERSIONS])
{
	const Partition *p = partition_of(key->hash);
	Bucket	   *bucket = bucket_of(p, key->hash);

	prefetch_first(p, bucket);
	for (int attempt = 0; attempt < MAX_RETRIES; attempt++)
	{
		uint32		sequence = pg_atomic_read_u32(&bucket->sequence);
		uint32		next;
		int			n = 0;

		if (sequence & 1)
		{
			SPIN_DELAY();
			continue;
		}
		pg_read_barrier();
		next = *(volatile uint32 *) &bucket->head;
		for (int i = 0; i < MAX_CHAIN && next != 0 && next <= p->units && n < GA_CACHE_VERSIONS; i++)
		{
			const Entry *entry = entry_at(p, next - 1);

			if (same_agent(entry, key) && same_file(entry, key) && !is_expired(entry, now))
			{
				GaCacheVersion *version = &versions[n++];

				version->bucket = bucket;
				version->sequence = sequence;
				version->xmin = entry->xmin;
				version->tid = entry->tid;
				version->row = ROW(entry);
				version->bytes = entry->bytes;
				version->state = entry->state;
				version->place = entry->place;
				version->buffer = entry->buffer;
			}
			next = *(const volatile uint32 *) &entry->next;
		}
		pg_read_barrier();
		if (pg_atomic_read_u32(&bucket->sequence) == sequence)
			return n;
	}
	return 0;
}

bool
ga_cache_read(const GaCacheVersion *version, uint32 offset, uint32 bytes, char *dst)
{
	Bucket	   *bucket = version->bucket;

	memcpy(dst, version->row + offset, bytes);
	pg_read_barrier();
	if (pg_atomic_read_u32(&bucket->sequence) != version->sequence)
		return false;
	if (bucket->heat < MAX_HEAT)
		bucket->heat++;
	return true;
}

/* Copies the whereabouts of a chain's first entry into its bucket. */
static void
remember_first(const Partition *p, Bucket *bucket)
{
	if (bucket->head != 0)
	{
		const Entry *entry = entry_at(p, bucket->head - 1);

		bucket->buffer = entry->buffer;
		bucket->place = entry->place;
		bucket->offset = ItemPointerGetOffsetNumberNoCheck(&entry->tid) <= PG_UINT8_MAX ? ItemPointerGetOffsetNumberNoCheck(&entry->tid) : 0;
	}
}

uint32
ga_cache_state_bytes(const GaCacheVersion *version)
{
	const char *state = version->row + version->state;
	uint32		bytes = VARSIZE_ANY(state);

	return bytes <= version->bytes - version->state ? bytes : 0;
}

void
ga_cache_hint(const GaCacheVersion *version, Buffer buffer, uint16 place)
{
	Entry	   *entry = (Entry *) (version->row - sizeof(Entry));
	Partition  *p = cache->partitions;

	while (version->bucket > p->buckets + p->mask || version->bucket < p->buckets)
		p++;
	if (!LWLockConditionalAcquire(lock_of(p), LW_EXCLUSIVE))
		return;
	if (pg_atomic_read_u32(&version->bucket->sequence) == version->sequence)
	{
		entry->buffer = buffer;
		entry->place = place;
		remember_first(p, version->bucket);
	}
	LWLockRelease(lock_of(p));
}

/* ---- changes, under the partition's lock ---- */

static inline void
change_begins(Bucket *bucket)
{
	pg_atomic_write_u32(&bucket->sequence, pg_atomic_read_u32(&bucket->sequence) + 1);
	pg_write_barrier();
}

static inline void
change_ends(Bucket *bucket)
{
	pg_write_barrier();
	pg_atomic_write_u32(&bucket->sequence, pg_atomic_read_u32(&bucket->sequence) + 1);
	pg_write_barrier();
}

bool
ga_cache_has_other(const Partition *p, const Bucket *bucket, const Entry *entry, bool before)
{
	GaCacheKey	key = {entry->hash, entry->database, entry->incarnation, 0, 0, ROW(entry) + entry->id, entry->id_len};

	for (uint32 next = bucket->head; next != 0;)
	{
		const Entry *other = entry_at(p, next - 1);

		if (other == entry)
		{
			if (before)
				return false;
		}
		else if (same_agent(other, &key))
			return true;
		next = other->next;
	}
	return false;
}

/* Takes the entry that *link leads to out of its chain; its memory stays in the ring until the tail gets there. */
static void
remove_entry(Partition *p, Bucket *bucket, uint32 *link)
{
	Entry	   *entry = entry_at(p, *link - 1);

	if (!ga_cache_has_other(p, bucket, entry, false))
		p->agents--;
	p->versions--;
	p->used -= entry->units;
	change_begins(bucket);
	*link = entry->next;
	remember_first(p, bucket);
	change_ends(bucket);
	entry->id = 0;
}

/* What leads to the entry at a position. */
static uint32 *
link_to(Partition *p, Bucket *bucket, uint32 position)
{
	uint32	   *link = &bucket->head;

	while (*link != position + 1)
		link = &entry_at(p, *link - 1)->next;
	return link;
}

/* Takes n units at the head, which are known to be free; gives their position. */
static uint32
place(Partition *p, uint32 n)
{
	uint32		position;

	if (n > p->units - p->head)
	{
		Entry	   *rest = entry_at(p, p->head);

		rest->id = 0;
		rest->units = p->units - p->head;
		p->filled += rest->units;
		p->head = 0;
	}
	position = p->head;
	p->filled += n;
	p->head = position + n == p->units ? 0 : position + n;
	return position;
}

static bool
fits(const Partition *p, uint32 n)
{
	uint32		free = p->units - p->filled;
	uint32		rest = p->units - p->head;

	return n <= rest ? n <= free : (uint64) rest + n <= free;
}

/* Moves the entry that was just dropped from the tail to the head. Its own place is free, so there is room. */
static void
move_entry(Partition *p, Bucket *bucket, uint32 from)
{
	uint32	   *link = link_to(p, bucket, from);
	uint32		units = entry_at(p, from)->units;
	uint32		to;

	change_begins(bucket);
	to = place(p, units);
	memmove(entry_at(p, to), entry_at(p, from), (uint64) units * UNIT);
	*link = to + 1;
	change_ends(bucket);
}

/* Frees the units at the tail, or moves their row to the head; false when they hold a row that must stay. */
static bool
free_tail(Partition *p, bool evict, uint32 *moved)
{
	uint32		position = p->tail;
	Entry	   *entry = entry_at(p, position);
	uint32		units = entry->units;
	Bucket	   *bucket = bucket_of(p, entry->hash);
	bool		live = entry->id != 0;
	bool		keep = live && bucket->heat > 0 && *moved + units <= MOVE_LIMIT && !ga_cache_has_other(p, bucket, entry, true);

	if (live && !evict)
		return false;
	if (live && !keep)
	{
		remove_entry(p, bucket, link_to(p, bucket, position));
		p->evictions++;
	}
	p->filled -= units;
	p->tail = position + units == p->units ? 0 : position + units;
	if (keep)
	{
		bucket->heat--;
		*moved += units;
		move_entry(p, bucket, position);
	}
	return true;
}

/* Position of n free units, taken; false when that needs evictions and they are not wanted. */
static bool
allocate(Partition *p, uint32 n, bool evict, uint32 *position)
{
	uint32		moved = 0;

	if (p->filled == 0)
		p->head = p->tail = 0;
	while (!fits(p, n))
		if (!free_tail(p, evict, &moved))
			return false;
	*position = place(p, n);
	return true;
}

static bool
is_dead(const Entry *entry, const GaCacheVersion *dead, int ndead)
{
	for (int i = 0; i < ndead; i++)
		if (dead[i].xmin == entry->xmin && ItemPointerEquals(unconstify(ItemPointerData *, &dead[i].tid), unconstify(ItemPointerData *, &entry->tid)))
			return true;
	return false;
}

/* Removes what is useless of an agent; true when the row is there already. *n gets how many versions are left. */
static bool
tidy_agent(Partition *p, Bucket *bucket, const GaCacheKey *key, const GaCacheRow *row,
		   const GaCacheVersion *dead, int ndead, int *n)
{
	uint32	   *link = &bucket->head;

	*n = 0;
	while (*link != 0)
	{
		Entry	   *entry = entry_at(p, *link - 1);

		if (same_agent(entry, key))
		{
			if (!same_file(entry, key) || is_expired(entry, row->now) || is_dead(entry, dead, ndead))
			{
				remove_entry(p, bucket, link);
				continue;
			}
			if (entry->xmin == row->xmin && ItemPointerEquals(&entry->tid, unconstify(ItemPointerData *, &row->tid)))
				return true;
			++*n;
		}
		link = &entry->next;
	}
	return false;
}

/* What leads to the last version of an agent, or (after) what follows it; NULL when it has none. */
static uint32 *
last_version(Partition *p, Bucket *bucket, const GaCacheKey *key, bool after)
{
	uint32	   *found = NULL;

	for (uint32 *link = &bucket->head; *link != 0; link = &entry_at(p, *link - 1)->next)
		if (same_agent(entry_at(p, *link - 1), key))
			found = after ? &entry_at(p, *link - 1)->next : link;
	return found;
}

static void
write_entry(Entry *entry, const GaCacheKey *key, const GaCacheRow *row, uint32 units)
{
	entry->hash = key->hash;
	entry->filled = row->filled;
	entry->database = key->database;
	entry->incarnation = key->incarnation;
	entry->tablespace = key->tablespace;
	entry->file = key->file;
	entry->xmin = row->xmin;
	entry->tid = row->tid;
	entry->id_len = key->id_len;
	entry->id = row->id;
	entry->units = units;
	entry->bytes = row->bytes;
	entry->state = row->state;
	entry->place = row->place;
	entry->buffer = row->buffer;
	memcpy(ROW(entry), row->row, row->bytes);
}

static GaCacheOutcome
insert_locked(Partition *p, const GaCacheKey *key, const GaCacheRow *row, const GaCacheVersion *dead, int ndead, int flags)
{
	Bucket	   *bucket = bucket_of(p, key->hash);
	uint32		units = ga_cache_room(row->bytes) / UNIT;
	uint32		position;
	uint32	   *link;
	int			n;

	if (tidy_agent(p, bucket, key, row, dead, ndead, &n))
		return GA_CACHE_PRESENT;
	if (n >= GA_CACHE_VERSIONS && row->superseded)
		return GA_CACHE_REFUSED;
	if (!allocate(p, units, (flags & GA_CACHE_NO_EVICT) == 0, &position))
		return GA_CACHE_REFUSED;

	/* Making room may have evicted or moved versions of this agent. */
	if (n >= GA_CACHE_VERSIONS)
	{
		int			left = 0;

		for (uint32 next = bucket->head; next != 0; next = entry_at(p, next - 1)->next)
			left += same_agent(entry_at(p, next - 1), key);
		if (left >= GA_CACHE_VERSIONS)
			remove_entry(p, bucket, last_version(p, bucket, key, false));
	}
	link = last_version(p, bucket, key, true);
	if (link == NULL)
		p->agents++;
	if (link == NULL || !row->superseded)
		link = &bucket->head;
	p->versions++;
	p->used += units;
	write_entry(entry_at(p, position), key, row, units);
	entry_at(p, position)->next = *link;
	change_begins(bucket);
	*link = position + 1;
	remember_first(p, bucket);
	change_ends(bucket);

	/* What fills free room was in use before; let it not go before what is read for the first time. */
	if (flags & GA_CACHE_NO_EVICT)
		bucket->heat = Max(bucket->heat, 1);
	return GA_CACHE_STORED;
}

GaCacheOutcome
ga_cache_insert(const GaCacheKey *key, const GaCacheRow *row, const GaCacheVersion *dead, int ndead, int flags)
{
	Partition  *p = partition_of(key->hash);
	GaCacheOutcome outcome;

	if (ga_cache_room(row->bytes) == 0)
		return GA_CACHE_REFUSED;
	if (flags & GA_CACHE_WAIT)
		LWLockAcquire(lock_of(p), LW_EXCLUSIVE);
	else if (!LWLockConditionalAcquire(lock_of(p), LW_EXCLUSIVE))
		return GA_CACHE_REFUSED;
	outcome = insert_locked(p, key, row, dead, ndead, flags);
	LWLockRelease(lock_of(p));
	return outcome;
}

bool
ga_cache_remove(const GaCacheKey *key)
{
	Partition  *p = partition_of(key->hash);
	Bucket	   *bucket = bucket_of(p, key->hash);
	uint32	   *link;
	bool		found = false;

	LWLockAcquire(lock_of(p), LW_EXCLUSIVE);
	while ((link = last_version(p, bucket, key, false)) != NULL)
	{
		remove_entry(p, bucket, link);
		found = true;
	}
	LWLockRelease(lock_of(p));
	return found;
}

uint64
ga_cache_remove_database(Oid database)
{
	uint64		agents = 0;

	for (int i = 0; i < cache->npartitions; i++)
	{
		Partition  *p = &cache->partitions[i];
		uint32		passed = 0;

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(lock_of(p), LW_EXCLUSIVE);
		agents += p->agents;
		for (uint32 position = p->tail; passed < p->filled; position = ga_cache_after(p, position))
		{
			Entry	   *entry = entry_at(p, position);
			Bucket	   *bucket = bucket_of(p, entry->hash);

			if (entry->id != 0 && entry->database == database)
				remove_entry(p, bucket, link_to(p, bucket, position));
			passed += entry->units;
		}
		agents -= p->agents;
		LWLockRelease(lock_of(p));
	}
	return agents;
}
