/*
 * cache_device.c
 *		The device tier of the agent cache (cache_device.h): matrices in the memory
 *		of GPUs, and the table in main shared memory that tells what is in their rows.
 *
 * A block is a region of rows of one dtype and shape, of one database; a slot is
 * a row of it. Slots are found by the hash of the agent's id and believed only
 * when the row version is the same to the last bit. An agent has one slot on a
 * device.
 *
 * Who finds a slot pins its block, under the lock in shared mode, until the
 * device has copied the row. Memory is written only in slots that were never in
 * use, or, of blocks that nobody has pinned, in those that were freed; a slot can
 * be found only after its bytes are there. When a transfer fails it may still be
 * going on, so that the block is given up as a whole: blocks that are doomed are
 * found by nobody, and go when the last pin does. Region ids do not come again.
 *
 * The lock is an LWLock: nothing that throws, waits or does I/O happens under it.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/guc.h"
#include "base/shared.h"
#include "device/device.h"
#include "device/mapping.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "cache/cache_device_shared.h"

void	   *ga_device_cache = NULL;
LWLockPadded *ga_device_cache_locks = NULL;

/* What this process has pinned, and the block that it fills. */
static bool pinned[MAX_BLOCKS];
static int	npinned = 0;
int			ga_device_cache_loading = -1;

/* ---- memory ---- */

static int
block_count(void)
{
	if (ga_devices == GA_DEVICES_HOST)
		return 0;
	return (int) Min(Max(ga_device_budget() / SMALLEST_BLOCK, 1), MAX_BLOCKS);
}

static uint32
bucket_count(void)
{
	return pg_nextpower2_32(block_count() * BLOCK_SLOTS + 1);
}

static Size
area_size(void)
{
	return buckets_offset(block_count()) + sizeof(uint32) * bucket_count();
}

static int
area_locks(void)
{
	return 1;
}

static void
area_init(void *fresh)
{
	Shared	   *table = fresh;

	table->nblocks = block_count();
	table->mask = bucket_count() - 1;
	pg_atomic_init_u64(&table->hits, 0);
	pg_atomic_init_u64(&table->misses, 0);
	for (int i = 0; i < table->nblocks; i++)
		pg_atomic_init_u32(&table->blocks[i].pins, 0);
}

void
ga_cache_device_register(void)
{
	static const GaSharedArea table = {
		"gpuagent device cache", area_size, area_locks, area_init, &ga_device_cache, &ga_device_cache_locks
	};

	ga_shared_register(&table);
	ga_device_make_room = ga_device_cache_make_room;
}

bool
ga_cache_device_serves(int device)
{
	return device >= 0 && shared != NULL && shared->nblocks > 0 && ga_device_serves() &&
		device < (int) ga_mapping()->ndevices;
}

bool
ga_cache_device_may(TransactionId xmin)
{
	return TransactionIdIsNormal(xmin) && !TransactionIdIsCurrentTransactionId(xmin) && !IsInParallelMode();
}

/* ---- slots; the lock is held exclusively ---- */

void
ga_device_cache_unlink_slot(uint32 position)
{
	Slot	   *slot = slot_at(position);
	uint32	   *link = bucket_of(slot->row.hash);

	while (*link != position + 1)
		link = &slot_at(*link - 1)->next;
	*link = slot->next;
	slot->state = SLOT_FREE;
	block_of(position)->valid--;
	block_of(position)->live--;
}

/* Frees the slots of an agent, on one device or (device < 0) on all. */
void
ga_device_cache_unlink_agent(uint64 hash, Oid database, int device)
{
	uint32		next = *bucket_of(hash);

	while (next != 0)
	{
		uint32		position = next - 1;
		const Block *block = block_of(position);

		next = slot_at(position)->next;
		if (slot_at(position)->row.hash == hash && block->database == database && (device < 0 || block->device == device))
			ga_device_cache_unlink_slot(position);
	}
}

/* Nobody finds its slots any more. */
void
ga_device_cache_doom(Block *block)
{
	uint32		first = (uint32) (block - shared->blocks) * BLOCK_SLOTS;

	for (uint32 i = 0; i < block->touched; i++)
		if (slot_at(first + i)->state == SLOT_VALID)
			ga_device_cache_unlink_slot(first + i);
	block->doomed = true;
}

typedef struct Doomed
{
	int			n;
	uint64		regions[MAX_BLOCKS];
	int			devices[MAX_BLOCKS];
} Doomed;

/* Takes doomed blocks that nobody has pinned out of the table. */
static void
collect_doomed(Doomed *doomed)
{
	doomed->n = 0;
	for (int i = 0; i < shared->nblocks; i++)
	{
		Block	   *block = &shared->blocks[i];

		if (block->region == 0 || !block->doomed || pg_atomic_read_u32(&block->pins) > 0)
			continue;
		for (uint32 s = 0; s < block->touched; s++)
			slot_at(i * BLOCK_SLOTS + s)->state = SLOT_FREE;
		doomed->regions[doomed->n] = block->region;
		doomed->devices[doomed->n++] = block->device;
		block->region = 0;
	}
}

/* Without the lock; never throws. */
static void
remove_doomed(const Doomed *doomed)
{
	for (int i = 0; i < doomed->n; i++)
		ga_region_remove(doomed->regions[i], doomed->devices[i]);
}

/* What an earlier device process held is not used any more; the number of such blocks. */
int
ga_device_cache_doom_lost(void)
{
	int			n = 0;
	uint32		epoch = device_epoch();

	for (int i = 0; i < shared->nblocks; i++)
		if (shared->blocks[i].region != 0 && !shared->blocks[i].doomed && shared->blocks[i].epoch != epoch)
		{
			ga_device_cache_doom(&shared->blocks[i]);
			n++;
		}
	return n;
}

void
ga_device_cache_unlock(void)
{
	Doomed		doomed;

	collect_doomed(&doomed);
	LWLockRelease(table_lock);
	remove_doomed(&doomed);
}

/* ---- pins ---- */

void
ga_device_cache_pin(int block)
{
	if (!pinned[block])
	{
		pg_atomic_fetch_add_u32(&shared->blocks[block].pins, 1);
		pinned[block] = true;
		npinned++;
	}
}

/* Ends this process's pins; a block that it was filling is given up. Never throws. */
void
ga_device_cache_unpin(void)
{
	if (npinned == 0)
		return;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	if (ga_device_cache_loading >= 0)
		ga_device_cache_doom(&shared->blocks[ga_device_cache_loading]);
	ga_device_cache_loading = -1;
	for (int i = 0; npinned > 0 && i < shared->nblocks; i++)
		if (pinned[i])
		{
			pg_atomic_fetch_sub_u32(&shared->blocks[i].pins, 1);
			pinned[i] = false;
			npinned--;
		}
	ga_device_cache_unlock();
}

static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		ga_device_cache_unpin();
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		ga_device_cache_unpin();
}

void
ga_device_cache_enter(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(at_xact_end, NULL);
	RegisterSubXactCallback(at_subxact_end, NULL);
	registered = true;
}

void
ga_cache_device_release(void)
{
	ga_device_cache_unpin();
}

/* ---- lookups ---- */

static bool
same_version(const GaDeviceRow *a, const GaDeviceRow *b)
{
	return a->hash == b->hash && a->incarnation == b->incarnation && a->tablespace == b->tablespace &&
		a->file == b->file && a->xmin == b->xmin &&
		memcmp(&a->tid, &b->tid, sizeof(ItemPointerData)) == 0;
}

/* Position + 1 of the slot with a version; 0 when there is none. The lock is held. */
uint32
ga_device_cache_find_slot(int device, const GaDeviceRow *row, uint64 now)
{
	uint32		epoch = device_epoch();

	for (uint32 next = *bucket_of(row->hash); next != 0; next = slot_at(next - 1)->next)
	{
		const Slot *slot = slot_at(next - 1);
		const Block *block = block_of(next - 1);

		if (same_version(&slot->row, row) && (int64) (now - slot->filled) < ga_cache_max_age &&
			block->database == MyDatabaseId && block->device == device && block->epoch == epoch)
			return next;
	}
	return 0;
}

bool
ga_cache_device_find(int device, const GaDeviceRow *row, uint64 now, GaDeviceHit *hit, GaView *view)
{
	uint32		found;

	ga_device_cache_enter();
	LWLockAcquire(table_lock, LW_SHARED);
	found = ga_device_cache_find_slot(device, row, now);
	if (found != 0)
	{
		const Block *block = block_of(found - 1);

		slot_at(found - 1)->used = 1;
		ga_device_cache_pin((int) (block - shared->blocks));
		hit->block = (int) (block - shared->blocks);
		hit->offset = (found - 1) % BLOCK_SLOTS * block->row_bytes;
		memset(view, 0, sizeof *view);
		view->dtype = block->dtype;
		view->ndim = block->ndim;
		memcpy(view->dims, block->dims, sizeof view->dims);
		view->nbytes = block->row_bytes;
	}
	LWLockRelease(table_lock);
	return found != 0;
}

static int
compare_hits(const void *a, const void *b)
{
	const GaDeviceHit *x = a;
	const GaDeviceHit *y = b;

	if (x->block != y->block)
		return x->block - y->block;
	return x->at < y->at ? -1 : x->at > y->at;
}

void
ga_cache_device_gather(int device, GaDeviceHit *hits, uint64 n, uint64 region, uint32 row_bytes)
{
	uint64		(*pairs)[2];

	if (n == 0)
		return;
	pairs = palloc_extended(n * sizeof(*pairs), MCXT_ALLOC_HUGE);
	qsort(hits, n, sizeof(GaDeviceHit), compare_hits);
	for (uint64 i = 0; i < n; i++)
	{
		pairs[i][0] = hits[i].offset;
		pairs[i][1] = hits[i].at;
	}
	for (uint64 first = 0, next; first < n; first = next)
	{
		for (next = first; next < n && hits[next].block == hits[first].block;)
			next++;
		/* It stays this region's block while it is pinned. */
		ga_region_gather_rows(device, shared->blocks[hits[first].block].region, region,
							  (const uint64 (*)[2]) (pairs + first), (uint32) (next - first), row_bytes);
	}
	pfree(pairs);
}

/* ---- emptying and counting ---- */

void
ga_cache_device_remove(uint64 hash)
{
	if (shared == NULL || shared->nblocks == 0)
		return;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	ga_device_cache_unlink_agent(hash, MyDatabaseId, -1);
	LWLockRelease(table_lock);
}

void
ga_cache_device_remove_database(Oid database)
{
	if (shared == NULL || shared->nblocks == 0)
		return;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nblocks; i++)
		if (shared->blocks[i].region != 0 && !shared->blocks[i].doomed && shared->blocks[i].database == database)
			ga_device_cache_doom(&shared->blocks[i]);
	ga_device_cache_unlock();
}

void
ga_cache_device_count(uint64 hits, uint64 misses)
{
	pg_atomic_fetch_add_u64(&shared->hits, hits);
	pg_atomic_fetch_add_u64(&shared->misses, misses);
}

void
ga_cache_device_reset_stats(void)
{
	if (shared == NULL)
		return;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	pg_atomic_write_u64(&shared->hits, 0);
	pg_atomic_write_u64(&shared->misses, 0);
	shared->evictions = 0;
	LWLockRelease(table_lock);
}

void
ga_cache_device_stats(int device, GaCacheStats *stats)
{
	uint32		ndevices;

	if (shared == NULL || shared->nblocks == 0 || !ga_device_serves())
		return;
	LWLockAcquire(table_lock, LW_SHARED);
	for (int i = 0; i < shared->nblocks; i++)
	{
		const Block *block = &shared->blocks[i];

		if (block->region == 0 || (device >= 0 && block->device != device))
			continue;
		stats->used += block->size;
		if (block->epoch == device_epoch())
			stats->agents += block->valid;
	}
	stats->versions = stats->agents;
	stats->hits = pg_atomic_read_u64(&shared->hits);
	stats->misses = pg_atomic_read_u64(&shared->misses);
	stats->evictions = shared->evictions;
	LWLockRelease(table_lock);
	ndevices = ga_mapping()->ndevices;
	for (uint32 i = 0; i < ndevices && i < GA_MAX_DEVICES; i++)
		if (device < 0 || device == (int) i)
			stats->budget += ga_device_infos(ga_mapping())[i].budget_bytes;
}
