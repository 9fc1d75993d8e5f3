/*
 * gpuknn_mirror.c
 *		The table of mirrors (gpuknn_mirror_shared.h): entries, pins, and what is
 *		given up when.
 */
#include "base/compat.h"

#include <sys/stat.h>

#include "base/shared.h"
#include "cache/cache_device.h"
#include "device/mapping.h"
#include "index/gpuknn_mirror_shared.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

void	   *gpuknn_mirror_area = NULL;
LWLockPadded *gpuknn_mirror_locks = NULL;

bool		gpuknn_mirror_at_device = false;

static int	(*previous_make_room) (int device, uint64 nbytes) = NULL;

/* Of this process. */
static MirrorEntry *pinned = NULL;
static MirrorEntry *filling = NULL;

/* ----- entries; the lock is held ----- */

MirrorEntry *
gpuknn_mirror_find(Oid database, Oid index)
{
	static int	hint = 0;

	/* Scans of a session go to the same index most of the time. */
	if (mirrors->entries[hint].database == database && mirrors->entries[hint].index == index)
		return &mirrors->entries[hint];
	for (int i = 0; i < mirrors->nentries; i++)
		if (mirrors->entries[i].database == database && mirrors->entries[i].index == index)
		{
			hint = i;
			return &mirrors->entries[i];
		}
	return NULL;
}

void
gpuknn_mirror_doom(MirrorEntry *entry)
{
	if (entry->region == 0)
		return;
	entry->ready = false;
	entry->doomed = true;
}

static bool
is_in_use(MirrorEntry *entry)
{
	return entry->region != 0 || entry->filler != 0 || pg_atomic_read_u32(&entry->pins) > 0;
}

static void
init_entry(MirrorEntry *entry)
{
	pg_atomic_init_u64(&entry->scans_device, 0);
	pg_atomic_init_u64(&entry->scans_host, 0);
	pg_atomic_init_u64(&entry->fallbacks, 0);
	pg_atomic_init_u64(&entry->last_used, 0);
	pg_atomic_init_u32(&entry->pins, 0);
	pg_atomic_init_u32(&entry->asked, 0);
}

/* An entry for an index that has none: a free one, or that of the index that was not used for the longest time. */
static MirrorEntry *
new_entry(Oid index)
{
	MirrorEntry *entry = NULL;

	for (int i = 0; i < mirrors->nentries; i++)
	{
		MirrorEntry *other = &mirrors->entries[i];

		if (is_in_use(other))
			continue;
		if (entry == NULL || other->database == InvalidOid ||
			(entry->database != InvalidOid && pg_atomic_read_u64(&other->last_used) < pg_atomic_read_u64(&entry->last_used)))
			entry = other;
	}
	if ((entry == NULL || entry->database != InvalidOid) && mirrors->nentries < MIRROR_ENTRIES)
		entry = &mirrors->entries[mirrors->nentries++];
	if (entry == NULL)
		return NULL;
	memset(entry, 0, sizeof(*entry));
	init_entry(entry);
	entry->database = MyDatabaseId;
	entry->index = index;
	return entry;
}

MirrorEntry *
gpuknn_mirror_enter(Relation index)
{
	Oid			oid = RelationGetRelid(index);
	MirrorEntry *entry = gpuknn_mirror_find(MyDatabaseId, oid);
	GaRelLocator locator = ga_rel_locator(index);

	if (entry == NULL)
		entry = new_entry(oid);
	if (entry != NULL && memcmp(&entry->locator, &locator, sizeof(locator)) != 0)
	{
		gpuknn_mirror_doom(entry);
		entry->locator = locator;
		entry->failures = 0;
		entry->retry_at = 0;
	}
	return entry;
}

void
gpuknn_mirror_unlock(void)
{
	uint64		regions[MIRROR_ENTRIES];
	int			devices[MIRROR_ENTRIES];
	int			n = 0;

	/* Who ends a pin looks whether it is doomed after that. */
	pg_memory_barrier();
	for (int i = 0; i < mirrors->nentries; i++)
	{
		MirrorEntry *entry = &mirrors->entries[i];

		if (!entry->doomed || pg_atomic_read_u32(&entry->pins) > 0)
			continue;
		regions[n] = entry->region;
		devices[n++] = entry->device;
		entry->region = 0;
		entry->doomed = false;
		entry->size = 0;
	}
	LWLockRelease(mirrors_lock);
	for (int i = 0; i < n; i++)
		ga_region_remove(regions[i], devices[i]);
}

/* ----- what this process holds ----- */

static void
at_exit(int code, Datum arg)
{
	gpuknn_mirror_release(false);
}

void
gpuknn_mirror_pin(MirrorEntry *entry)
{
	static bool registered = false;

	Assert(pinned == NULL);
	if (!registered)
	{
		before_shmem_exit(at_exit, (Datum) 0);
		registered = true;
	}
	pg_atomic_fetch_add_u32(&entry->pins, 1);
	pinned = entry;
}

void
gpuknn_mirror_unpin(void)
{
	MirrorEntry *entry = pinned;

	if (entry == NULL)
		return;
	pinned = NULL;
	/* The last one of a doomed mirror removes it; who dooms it holds the lock. */
	if (pg_atomic_sub_fetch_u32(&entry->pins, 1) == 0 && entry->doomed)
	{
		LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
		gpuknn_mirror_unlock();
	}
}

void
gpuknn_mirror_begin_fill(MirrorEntry *entry)
{
	entry->filler = MyProcPid;
	filling = entry;
	gpuknn_mirror_pin(entry);
}

void
gpuknn_mirror_end_fill(void)
{
	filling->filler = 0;
	filling->filling_all = false;
	filling = NULL;
}

/* Nobody makes a mirror for a while; what many see at once is one failure. */
static void
note_failure(MirrorEntry *entry)
{
	TimestampTz now = GetCurrentTimestamp();

	if (entry->retry_at > now)
		return;
	entry->failures = Min(entry->failures + 1, MIRROR_MOST_FAILURES);
	entry->retry_at = TimestampTzPlusMilliseconds(now, MIRROR_RETRY_MS << (entry->failures - 1));
}

void
gpuknn_mirror_release(bool failed)
{
	if (failed && pinned != NULL && filling == NULL)
	{
		LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
		note_failure(pinned);
		LWLockRelease(mirrors_lock);
	}
	if (filling != NULL)
	{
		/* A transfer may still be going on. */
		LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
		gpuknn_mirror_doom(filling);
		note_failure(filling);
		gpuknn_mirror_end_fill();
		gpuknn_mirror_unlock();
		ConditionVariableBroadcast(&mirrors->filled);
	}
	gpuknn_mirror_unpin();
}

/* ----- giving up ----- */

typedef struct Candidate
{
	MirrorEntry *entry;
	uint64		last_used;
} Candidate;

static int
compare_candidates(const void *a, const void *b)
{
	uint64		x = ((const Candidate *) a)->last_used;
	uint64		y = ((const Candidate *) b)->last_used;

	return x < y ? -1 : x > y;
}

/* Dooms the longest unused mirrors of at least so many bytes; how many. Those in use lately stay, where only another mirror gains. */
static int
give_up(int device, uint64 nbytes, bool for_mirror)
{
	Candidate	candidates[MIRROR_ENTRIES];
	TimestampTz now = GetCurrentTimestamp();
	uint64		freed = 0;
	uint64		possible = 0;
	int			n = 0;
	int			given = 0;

	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	for (int i = 0; i < mirrors->nentries; i++)
	{
		MirrorEntry *entry = &mirrors->entries[i];
		uint64		last_used = pg_atomic_read_u64(&entry->last_used);

		if (entry->region == 0 || entry->doomed || entry->device != device || pg_atomic_read_u32(&entry->pins) > 0 ||
			(for_mirror && now - (TimestampTz) last_used < MIRROR_KEPT * entry->load_us))
			continue;
		candidates[n++] = (Candidate) {entry, last_used};
		possible += entry->size;
	}
	qsort(candidates, n, sizeof(Candidate), compare_candidates);
	for (int i = 0; i < n && freed < nbytes && (!for_mirror || possible >= nbytes); i++)
	{
		freed += candidates[i].entry->size;
		gpuknn_mirror_doom(candidates[i].entry);
		given++;
	}
	gpuknn_mirror_unlock();
	return given;
}

/* The cache first: its blocks are small, and soon filled again. */
static int
make_room(int device, uint64 nbytes)
{
	int			n = previous_make_room != NULL ? previous_make_room(device, nbytes) : 0;

	return n > 0 ? n : give_up(device, nbytes, false);
}

bool
gpuknn_mirror_make_way(int device, uint64 nbytes)
{
	const GaDeviceInfo *info = &ga_device_infos(ga_mapping())[device];
	uint64		taken = __atomic_load_n(&info->used_bytes, __ATOMIC_RELAXED) + __atomic_load_n(&info->lost_bytes, __ATOMIC_RELAXED);
	uint64		spare = info->budget_bytes > taken ? info->budget_bytes - taken : 0;

	if (nbytes > info->budget_bytes)
		return false;
	if (previous_make_room != NULL && previous_make_room(device, nbytes > spare ? nbytes - spare : 1) > 0)
		return true;
	return give_up(device, nbytes > spare ? nbytes - spare : 1, true) > 0;
}

/* Whether the file of an index is gone, or was cut to nothing until a checkpoint removes it. */
static bool
file_is_gone(GaRelLocator locator)
{
	char	   *path = ga_relation_path(locator, MAIN_FORKNUM);
	struct stat status;
	bool		gone = stat(path, &status) < 0 ? errno == ENOENT : status.st_size == 0;

	pfree(path);
	return gone;
}

/* Forgets indexes whose file is gone: dropped, rebuilt, never committed. For the supervisor. */
static void
sweep(void)
{
	for (int i = 0; i < MIRROR_ENTRIES; i++)
	{
		MirrorEntry *entry = &mirrors->entries[i];
		GaRelLocator locator = {0};
		bool		used;

		LWLockAcquire(mirrors_lock, LW_SHARED);
		used = i < mirrors->nentries && entry->database != InvalidOid;
		if (used)
			locator = entry->locator;
		LWLockRelease(mirrors_lock);
		if (!used || !file_is_gone(locator))
			continue;
		LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
		if (memcmp(&entry->locator, &locator, sizeof(locator)) == 0)
		{
			gpuknn_mirror_doom(entry);
			if (!is_in_use(entry))
				entry->database = InvalidOid;
		}
		gpuknn_mirror_unlock();
	}
}

/* ----- the shared area ----- */

static Size
area_size(void)
{
	return sizeof(MirrorTable);
}

static int
area_locks(void)
{
	return 1;
}

static void
area_init(void *fresh)
{
	MirrorTable *table = fresh;

	ConditionVariableInit(&table->filled);
	for (int i = 0; i < MIRROR_ENTRIES; i++)
		init_entry(&table->entries[i]);
}

void
ga_gpuknn_mirror_register(void)
{
	static const GaSharedArea table = {
		"gpuagent mirrors", area_size, area_locks, area_init, &gpuknn_mirror_area, &gpuknn_mirror_locks
	};

	ga_shared_register(&table);
	previous_make_room = ga_device_make_room;
	ga_device_make_room = make_room;
	ga_device_sweep = sweep;
}
