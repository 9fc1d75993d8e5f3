/*
 * region.c
 *		The registry of mapped regions (region.h); its leases are lease.c's.
 *
 * What a transaction has begun and not finished is remembered here: its LOADING
 * regions, which end with it, and its private ones, which become everybody's
 * when it commits. Memory is freed outside of the lock, after the region was
 * made EXPIRED under it, so that nobody joins what is going away; freeing twice
 * does no harm, as ids do not come again.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "base/guc.h"
#include "base/shared.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "common/hashfn.h"
#include "device/mapping.h"
#include "device/ops.h"
#include "device/region.h"
#include "device/registry.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A region that the transaction at hand must finish or end. */
typedef struct Pending
{
	uint64		id;
	bool		leased;			/* it is private, and waits for the commit */
	SubTransactionId subid;
} Pending;

void	   *ga_registry_area = NULL;
static LWLockPadded *locks = NULL;

static Pending *pending = NULL;
static int	npending = 0;
static int	maxpending = 0;

/* Database that the command at hand drops. */
static Oid	dropped = InvalidOid;
static object_access_hook_type previous_access = NULL;

/* ---- shared memory ---- */

static Size
leases_offset(void)
{
	return MAXALIGN(add_size(offsetof(GaRegistry, regions), mul_size(sizeof(GaRegion), ga_max_handles)));
}

GaLease *
ga_registry_lease(int i)
{
	return (GaLease *) ((char *) ga_registry_area + leases_offset()) + i;
}

static Size
area_size(void)
{
	return add_size(leases_offset(), mul_size(sizeof(GaLease), ga_max_handles));
}

static int
area_locks(void)
{
	return 1;
}

static void
area_init(void *fresh)
{
	/* Zeros are an empty registry. */
}

LWLock *
ga_region_lock(void)
{
	return &locks[0].lock;
}

/* ---- entries; the lock is held ---- */

GaRegion *
ga_registry_region(uint64 id)
{
	for (int i = 0; i < ga_registry->nregions; i++)
		if (ga_registry->regions[i].state != GA_REGION_UNUSED && ga_registry->regions[i].id == id)
			return &ga_registry->regions[i];
	return NULL;
}

void
ga_registry_drop(GaLease *lease)
{
	GaRegion   *region = ga_registry_region(lease->region);

	lease->used = false;
	if (region != NULL)
		region->leases--;
}

/* No more leases, old or new. */
static void
expire_region(GaRegion *region)
{
	for (int i = 0; region->leases > 0 && i < ga_registry->nleases; i++)
		if (ga_registry_lease(i)->used && ga_registry_lease(i)->region == region->id)
			ga_registry_drop(ga_registry_lease(i));
	region->state = GA_REGION_EXPIRED;
	region->loader_pid = 0;
}

/* A region that its loader still has to finish. */
static bool
is_being_made(const GaRegion *region)
{
	return region->loader_pid != 0 && (kill(region->loader_pid, 0) == 0 || errno != ESRCH);
}

/* ---- freeing ---- */

/* Tells who holds a region that it is nobody's any more. */
static void
mark_expired(uint64 id)
{
	char		path[MAXPGPATH];
	uint32		epoch;
	int			fd;

	ga_region_path(path, sizeof path, id, "");
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	if (pread(fd, &epoch, sizeof epoch, offsetof(GaControl, epoch)) == sizeof epoch && (epoch & GA_EPOCH_EXPIRED) == 0)
	{
		epoch |= GA_EPOCH_EXPIRED;
		(void) !pwrite(fd, &epoch, sizeof epoch, offsetof(GaControl, epoch));
	}
	close(fd);
}

/* Frees the memory of an EXPIRED region unless a client holds it. */
static void
free_region(uint64 id, int device)
{
	GaRegion   *region;

	if (ga_region_is_held(id))
	{
		mark_expired(id);
		return;
	}
	ga_region_remove(id, device);
	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = ga_registry_region(id);
	if (region != NULL && region->state == GA_REGION_EXPIRED)
		region->state = GA_REGION_UNUSED;
	LWLockRelease(ga_region_lock());
}

void
ga_regions_reap(Oid dropped_database)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;

	if (ga_registry_area == NULL)
		return;
	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < ga_registry->nleases; i++)
		if (ga_registry_lease(i)->used && ga_registry_lease(i)->expires_at <= now)
			ga_registry_drop(ga_registry_lease(i));
	for (int i = 0; i < ga_registry->nregions; i++)
	{
		GaRegion   *region = &ga_registry->regions[i];

		if (region->state == GA_REGION_UNUSED)
			continue;
		if (OidIsValid(dropped_database) && region->database == dropped_database)
			expire_region(region);
		else if (region->leases == 0 && !is_being_made(region))
			expire_region(region);
		any |= region->state == GA_REGION_EXPIRED;
	}
	LWLockRelease(ga_region_lock());

	for (int i = 0; any && i < ga_max_handles; i++)
	{
		GaRegion   *region = &ga_registry->regions[i];
		uint64		id = 0;
		int			device = GA_DEVICE_HOST;

		LWLockAcquire(ga_region_lock(), LW_SHARED);
		if (i >= ga_registry->nregions)
			any = false;
		else if (region->state == GA_REGION_EXPIRED)
		{
			id = region->id;
			device = region->device;
		}
		LWLockRelease(ga_region_lock());
		if (id != 0)
			free_region(id, device);
	}
}

/* ---- ends of transactions ---- */

/*
 * Ends a region that its transaction did not finish. It is freed here also when the backend exits: only its own slot
 * tells whether a request that it gave up is still making the memory.
 */
static void
end_pending(const Pending *item)
{
	GaRegion   *region;
	int			device = GA_DEVICE_HOST;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = ga_registry_region(item->id);
	if (region != NULL && region->state == GA_REGION_READY && region->private_pid == 0 && region->leases > 0)
	{
		/* Complete, and others use it already. */
		region->loader_pid = 0;
		region = NULL;
	}
	if (region != NULL)
	{
		device = region->device;
		expire_region(region);
	}
	LWLockRelease(ga_region_lock());
	if (region != NULL)
		free_region(item->id, device);
}

static void
publish_pending(const Pending *item)
{
	GaRegion   *region;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = ga_registry_region(item->id);
	if (region != NULL)
	{
		region->private_pid = 0;
	}
	LWLockRelease(ga_region_lock());
}

static void
at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			for (int i = 0; i < npending; i++)
			{
				if (event == XACT_EVENT_COMMIT && pending[i].leased)
					publish_pending(&pending[i]);
				else
					end_pending(&pending[i]);
			}
			npending = 0;
			if (event == XACT_EVENT_COMMIT && OidIsValid(dropped))
				ga_regions_reap(dropped);
			dropped = InvalidOid;
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (npending > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has mapped what it wrote"),
						 errhint("Commit first, then map.")));
			break;
		default:
			break;
	}
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			kept = 0;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (int i = 0; i < npending; i++)
	{
		Pending		item = pending[i];

		if (item.subid == subid && event == SUBXACT_EVENT_ABORT_SUB)
		{
			end_pending(&item);
			continue;
		}
		if (item.subid == subid)
			item.subid = parent;
		pending[kept++] = item;
	}
	npending = kept;
}

/* Room for one more, before anything is to be undone. */
static void
reserve_pending(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(at_xact_end, NULL);
		RegisterSubXactCallback(at_subxact_end, NULL);
		registered = true;
	}
	if (pending == NULL)
	{
		pending = MemoryContextAlloc(TopMemoryContext, sizeof(Pending) * 8);
		maxpending = 8;
	}
	if (npending == maxpending)
	{
		pending = repalloc(pending, sizeof(Pending) * maxpending * 2);
		maxpending *= 2;
	}
}

void
ga_region_settle(uint64 id, bool private)
{
	for (int i = 0; i < npending; i++)
	{
		if (pending[i].id != id)
			continue;
		pending[i].leased = true;
		if (!private)
			pending[i] = pending[--npending];
		return;
	}
}

/* A database is being dropped: its regions go when that is committed. */
static void
object_access(ObjectAccessType access, Oid class, Oid object, int subid, void *arg)
{
	if (previous_access)
		previous_access(access, class, object, subid, arg);
	if (access == OAT_DROP && class == DatabaseRelationId)
	{
		reserve_pending();
		dropped = object;
	}
}

void
ga_region_register(void)
{
	static const GaSharedArea regions = {
		"gpuagent regions", area_size, area_locks, area_init, &ga_registry_area, &locks
	};

	ga_shared_register(&regions);
	previous_access = object_access_hook;
	object_access_hook = object_access;
}

/* ---- regions ---- */

static void
exclude_tag(const char *object, bool writable, LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, hash_bytes((const unsigned char *) object, strlen(object)), writable,
						 GA_LOCKTAG_REGION);
}

void
ga_region_exclude(const char *object, bool writable)
{
	LOCKTAG		tag;

	exclude_tag(object, writable, &tag);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

void
ga_region_admit(const char *object, bool writable)
{
	LOCKTAG		tag;

	exclude_tag(object, writable, &tag);
	(void) LockRelease(&tag, ExclusiveLock, false);
}

void
ga_registry_full(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("all %d %s are in use", ga_max_handles, what),
			 errhint("Unmap handles that are not needed, or increase gpuagent.max_handles.")));
}

/* Enters a LOADING region; its id, 0 when all are taken. */
static uint64
enter_region(const GaRegion *wanted)
{
	GaRegion   *region = NULL;
	uint64		id = 0;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < ga_registry->nregions && region == NULL; i++)
		if (ga_registry->regions[i].state == GA_REGION_UNUSED)
			region = &ga_registry->regions[i];
	if (region == NULL && ga_registry->nregions < ga_max_handles)
		region = &ga_registry->regions[ga_registry->nregions++];
	if (region != NULL)
	{
		*region = *wanted;
		region->id = id = ++ga_registry->last_id;
		region->state = GA_REGION_LOADING;
		region->database = MyDatabaseId;
		region->loader_pid = MyProcPid;
		region->leases = 0;
		region->device_epoch = ga_mapping()->epoch;
		region->resident_since = region->last_used_at = GetCurrentTimestamp();
	}
	LWLockRelease(ga_region_lock());
	return id;
}

uint64
ga_region_begin(const GaRegion *wanted)
{
	uint64		id;

	ga_shared_require();
	reserve_pending();
	id = enter_region(wanted);
	if (id == 0)
	{
		ga_regions_reap(InvalidOid);
		id = enter_region(wanted);
	}
	if (id == 0)
		ga_registry_full("regions");
	pending[npending++] = (Pending) {.id = id,.subid = GetCurrentSubTransactionId()};
	return id;
}

uint64
ga_region_new_id(void)
{
	uint64		id;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	id = ++ga_registry->last_id;
	LWLockRelease(ga_region_lock());
	return id;
}

void
ga_region_ready(uint64 id, uint64 size_bytes, const uint8 *ipc_handle)
{
	GaRegion   *region;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = ga_registry_region(id);
	if (region != NULL && region->state == GA_REGION_LOADING)
	{
		region->state = GA_REGION_READY;
		region->size_bytes = size_bytes;
		if (ipc_handle != NULL)
			memcpy(region->ipc_handle, ipc_handle, sizeof region->ipc_handle);
	}
	LWLockRelease(ga_region_lock());
}

bool
ga_region_get(uint64 id, GaRegion *copy)
{
	const GaRegion *region;

	LWLockAcquire(ga_region_lock(), LW_SHARED);
	region = ga_registry_region(id);
	if (region != NULL)
		*copy = *region;
	LWLockRelease(ga_region_lock());
	return region != NULL;
}

bool
ga_region_find_on(int device, bool ipc, const char *object, bool writable, int64 version, const uint8 *content,
				  GaRegion *copy)
{
	const GaRegion *found = NULL;

	if (ga_registry_area == NULL)
		return false;
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	for (int i = 0; i < ga_registry->nregions; i++)
	{
		const GaRegion *region = &ga_registry->regions[i];

		if (region->state == GA_REGION_READY && region->database == MyDatabaseId && region->writable == writable &&
			(region->private_pid == 0 || region->private_pid == MyProcPid) &&
			(device == GA_DEVICE_ANY || (region->device == device && ipc == (region->kind == GA_KIND_CUDA_IPC))) &&
			(version < 0 || region->version == version) && strcmp(region->object, object) == 0 &&
			(content == NULL || memcmp(region->content, content, GA_CONTENT_LEN) == 0) &&
			(found == NULL || region->version > found->version))
			found = region;
	}
	if (found != NULL)
		*copy = *found;
	LWLockRelease(ga_region_lock());
	return found != NULL;
}

bool
ga_region_find(const char *object, bool writable, int64 version, const uint8 *content, GaRegion *copy)
{
	return ga_region_find_on(GA_DEVICE_ANY, false, object, writable, version, content, copy);
}

void
ga_regions_each(void (*each) (const GaRegion *region, void *arg), void *arg)
{
	if (ga_registry_area == NULL)
		return;
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	for (int i = 0; i < ga_registry->nregions; i++)
		if (ga_registry->regions[i].state != GA_REGION_UNUSED)
			each(&ga_registry->regions[i], arg);
	LWLockRelease(ga_region_lock());
}

bool
ga_region_update(uint64 id, void (*change) (GaRegion *region, void *arg), void *arg)
{
	GaRegion   *region;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = ga_registry_region(id);
	if (region != NULL)
		change(region, arg);
	LWLockRelease(ga_region_lock());
	return region != NULL;
}
