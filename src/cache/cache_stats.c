/*
 * cache_stats.c
 *		What the agent cache counts, and which agents it holds.
 */
#include "base/compat.h"

#include "base/shared.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "cache/cache_shared.h"
#include "utils/timestamp.h"

/* ---- statistics ---- */

void
ga_cache_count(bool hit)
{
	GaCacheCounter *counter;

	if (ga_cache_shared == NULL)
		return;
	counter = &ga_cache_shared->counters[ga_process_number()];
	if (hit)
		counter->hits++;
	else
		counter->misses++;
}

/* Sums since the server was started. */
static void
sum_counters(GaCacheStats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (int i = 0; i < ga_process_slots(); i++)
	{
		stats->hits += *(volatile uint64 *) &ga_cache_shared->counters[i].hits;
		stats->misses += *(volatile uint64 *) &ga_cache_shared->counters[i].misses;
	}
	for (int i = 0; i < ga_cache_shared->npartitions; i++)
	{
		GaCachePartition *p = &ga_cache_shared->partitions[i];

		LWLockAcquire(ga_cache_lock(p), LW_SHARED);
		stats->agents += p->agents;
		stats->versions += p->versions;
		stats->evictions += p->evictions;
		stats->used += p->used * GA_CACHE_UNIT;
		LWLockRelease(ga_cache_lock(p));
	}
	stats->budget = ga_cache_shared->budget;
}

void
ga_cache_stats(GaCacheStats *stats)
{
	LWLockAcquire(&ga_cache_locks[GA_CACHE_BASE_LOCK].lock, LW_SHARED);
	sum_counters(stats);
	stats->hits -= ga_cache_shared->base.hits;
	stats->misses -= ga_cache_shared->base.misses;
	stats->evictions -= ga_cache_shared->base.evictions;
	stats->reset_at = ga_cache_shared->base.reset_at;
	LWLockRelease(&ga_cache_locks[GA_CACHE_BASE_LOCK].lock);
}

void
ga_cache_reset_stats(void)
{
	GaCacheStats stats;

	if (ga_cache_shared == NULL)
		return;
	LWLockAcquire(&ga_cache_locks[GA_CACHE_BASE_LOCK].lock, LW_EXCLUSIVE);
	sum_counters(&stats);
	stats.reset_at = GetCurrentTimestamp();
	ga_cache_shared->base = stats;
	LWLockRelease(&ga_cache_locks[GA_CACHE_BASE_LOCK].lock);
}

/* ---- ids, for pre-warming ---- */

typedef struct Hot
{
	uint32		at;				/* in the ids */
	uint32		order;			/* in the rings: later is newer */
	uint8		heat;
} Hot;

static int
compare_hot(const void *a, const void *b)
{
	const Hot  *x = a;
	const Hot  *y = b;

	if (x->heat != y->heat)
		return x->heat > y->heat ? -1 : 1;
	return x->order > y->order ? -1 : x->order < y->order;
}

/* Appends the ids of a partition to *ids, as far as there is room. */
static void
collect_ids(GaCachePartition *p, Oid database, TransactionId incarnation, char *ids, uint64 room, uint64 *nbytes,
			Hot *hot, uint64 most, uint64 *count)
{
	uint32		passed = 0;

	for (uint32 position = p->tail; passed < p->filled; position = ga_cache_after(p, position))
	{
		const GaCacheEntry *entry = ga_cache_entry(p, position);
		const struct GaCacheBucket *bucket = ga_cache_bucket(p, entry->hash);

		passed += entry->units;
		if (entry->id == 0 || entry->database != database || entry->incarnation != incarnation ||
			ga_cache_has_other(p, bucket, entry, true))
			continue;
		if (*count == most || *nbytes + 1 + entry->id_len > room)
			return;
		hot[*count].at = (uint32) *nbytes;
		hot[*count].order = (uint32) *count;
		hot[*count].heat = bucket->heat;
		++*count;
		ids[(*nbytes)++] = (char) entry->id_len;
		memcpy(ids + *nbytes, GA_CACHE_ROW(entry) + entry->id, entry->id_len);
		*nbytes += entry->id_len;
	}
}

char *
ga_cache_ids(Oid database, TransactionId incarnation, uint64 *nbytes, uint64 *count)
{
	GaCacheStats stats;
	uint64		most;
	uint64		room;
	char	   *ids;
	char	   *sorted;
	Hot		   *hot;

	ga_cache_stats(&stats);
	most = stats.agents + 1024;
	room = Min(most * 256, (uint64) 1 << 31);
	ids = palloc_extended(room, MCXT_ALLOC_HUGE);
	hot = palloc_extended(most * sizeof(Hot), MCXT_ALLOC_HUGE);
	*nbytes = *count = 0;
	for (int i = 0; i < ga_cache_shared->npartitions; i++)
	{
		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(&ga_cache_locks[i].lock, LW_SHARED);
		collect_ids(&ga_cache_shared->partitions[i], database, incarnation, ids, room, nbytes, hot, most, count);
		LWLockRelease(&ga_cache_locks[i].lock);
	}
	qsort(hot, *count, sizeof(Hot), compare_hot);
	sorted = palloc_extended(Max(*nbytes, 1), MCXT_ALLOC_HUGE);
	for (uint64 i = 0, at = 0; i < *count; i++)
	{
		const char *id = ids + hot[i].at;

		memcpy(sorted + at, id, 1 + (uint8) *id);
		at += 1 + (uint8) *id;
	}
	pfree(ids);
	pfree(hot);
	return sorted;
}
