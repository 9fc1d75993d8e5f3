/*
 * region.c
 *		The registry of mapped regions and of the leases on them (region.h).
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
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

typedef struct Registry
{
	uint64		last_id;
	int			nregions;		/* entries that were ever used */
	int			nleases;
	GaRegion	regions[FLEXIBLE_ARRAY_MEMBER];
} Registry;

/* A region that the transaction at hand must finish or end. */
typedef struct Pending
{
	uint64		id;
	bool		leased;			/* it is private, and waits for the commit */
	SubTransactionId subid;
} Pending;

static void *area = NULL;
static LWLockPadded *locks = NULL;

static Pending *pending = NULL;
static int	npending = 0;
static int	maxpending = 0;

/* Database that the command at hand drops. */
static Oid	dropped = InvalidOid;
static object_access_hook_type previous_access = NULL;

#define registry ((Registry *) area)

/* ---- shared memory ---- */

static Size
leases_offset(void)
{
	return MAXALIGN(add_size(offsetof(Registry, regions), mul_size(sizeof(GaRegion), ga_max_handles)));
}

static GaLease *
lease_at(int i)
{
	return (GaLease *) ((char *) area + leases_offset()) + i;
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

static GaRegion *
find_region(uint64 id)
{
	for (int i = 0; i < registry->nregions; i++)
		if (registry->regions[i].state != GA_REGION_UNUSED && registry->regions[i].id == id)
			return &registry->regions[i];
	return NULL;
}

static GaLease *
find_lease(const pg_uuid_t *handle)
{
	for (int i = 0; i < registry->nleases; i++)
		if (lease_at(i)->used && memcmp(&lease_at(i)->handle, handle, sizeof(pg_uuid_t)) == 0)
			return lease_at(i);
	return NULL;
}

static void
drop_lease(GaLease *lease)
{
	GaRegion   *region = find_region(lease->region);

	lease->used = false;
	if (region != NULL)
		region->leases--;
}

/* No more leases, old or new. */
static void
expire_region(GaRegion *region)
{
	for (int i = 0; region->leases > 0 && i < registry->nleases; i++)
		if (lease_at(i)->used && lease_at(i)->region == region->id)
			drop_lease(lease_at(i));
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
	region = find_region(id);
	if (region != NULL && region->state == GA_REGION_EXPIRED)
		region->state = GA_REGION_UNUSED;
	LWLockRelease(ga_region_lock());
}

void
ga_regions_reap(Oid dropped_database)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;

	if (area == NULL)
		return;
	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	for (int i = 0; i < registry->nleases; i++)
		if (lease_at(i)->used && lease_at(i)->expires_at <= now)
			drop_lease(lease_at(i));
	for (int i = 0; i < registry->nregions; i++)
	{
		GaRegion   *region = &registry->regions[i];

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
		GaRegion   *region = &registry->regions[i];
		uint64		id = 0;
		int			device = GA_DEVICE_HOST;

		LWLockAcquire(ga_region_lock(), LW_SHARED);
		if (i >= registry->nregions)
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
	region = find_region(item->id);
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
	region = find_region(item->id);
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
		"gpuagent regions", area_size, area_locks, area_init, &area, &locks
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

static void
report_full(const char *what)
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
	for (int i = 0; i < registry->nregions && region == NULL; i++)
		if (registry->regions[i].state == GA_REGION_UNUSED)
			region = &registry->regions[i];
	if (region == NULL && registry->nregions < ga_max_handles)
		region = &registry->regions[registry->nregions++];
	if (region != NULL)
	{
		*region = *wanted;
		region->id = id = ++registry->last_id;
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
		report_full("regions");
	pending[npending++] = (Pending) {.id = id,.subid = GetCurrentSubTransactionId()};
	return id;
}

uint64
ga_region_new_id(void)
{
	uint64		id;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	id = ++registry->last_id;
	LWLockRelease(ga_region_lock());
	return id;
}

void
ga_region_ready(uint64 id, uint64 size_bytes, const uint8 *ipc_handle)
{
	GaRegion   *region;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = find_region(id);
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
	region = find_region(id);
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

	if (area == NULL)
		return false;
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	for (int i = 0; i < registry->nregions; i++)
	{
		const GaRegion *region = &registry->regions[i];

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
	if (area == NULL)
		return;
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	for (int i = 0; i < registry->nregions; i++)
		if (registry->regions[i].state != GA_REGION_UNUSED)
			each(&registry->regions[i], arg);
	LWLockRelease(ga_region_lock());
}

bool
ga_region_update(uint64 id, void (*change) (GaRegion *region, void *arg), void *arg)
{
	GaRegion   *region;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = find_region(id);
	if (region != NULL)
		change(region, arg);
	LWLockRelease(ga_region_lock());
	return region != NULL;
}

/* ---- leases ---- */

void
ga_leases_each(void (*each) (const GaLease *lease, const GaRegion *region, void *arg), void *arg)
{
	if (area == NULL)
		return;
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	for (int i = 0; i < registry->nleases; i++)
	{
		const GaLease *lease = lease_at(i);
		const GaRegion *region = lease->used ? find_region(lease->region) : NULL;

		if (region != NULL)
			each(lease, region, arg);
	}
	LWLockRelease(ga_region_lock());
}

/* The first lease of a region that this transaction made: it is not pending any more, unless it is private. */
static void
settle_pending(uint64 id, bool private)
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

static void
new_handle(pg_uuid_t *handle)
{
	if (!pg_strong_random(handle->data, UUID_LEN))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	handle->data[6] = (handle->data[6] & 0x0f) | 0x40;	/* version 4 */
	handle->data[8] = (handle->data[8] & 0x3f) | 0x80;
}

static GaLease *
free_lease(void)
{
	for (int i = 0; i < registry->nleases; i++)
		if (!lease_at(i)->used)
			return lease_at(i);
	return registry->nleases < ga_max_handles ? lease_at(registry->nleases++) : NULL;
}

bool
ga_lease_grant(uint64 id, bool write, TimestampTz expires_at, GaLease *lease)
{
	TimestampTz now = GetCurrentTimestamp();
	Oid			user = GetUserId();
	GaRegion   *region;
	GaLease    *slot = NULL;
	bool		there;
	bool		private = false;

	memset(lease, 0, sizeof *lease);
	new_handle(&lease->handle);
	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	region = find_region(id);
	there = region != NULL && region->state == GA_REGION_READY;
	if (there && (slot = free_lease()) != NULL)
	{
		lease->used = true;
		lease->region = id;
		lease->owner = user;
		lease->write = write;
		lease->client_pid = MyProcPid;
		lease->granted_at = now;
		lease->expires_at = expires_at;
		*slot = *lease;
		region->leases++;
		region->last_used_at = now;
		private = region->private_pid != 0;
		/* Others may come and go before the loader has its lease: it keeps the region until then. */
		if (region->loader_pid == MyProcPid)
			region->loader_pid = 0;
	}
	LWLockRelease(ga_region_lock());
	if (there && slot == NULL)
		report_full("handles");
	if (there)
		settle_pending(id, private);
	return there;
}

/* Owner of a lease on a region of this database; expired ones count as gone. */
static bool
lease_owner(const pg_uuid_t *handle, Oid *owner)
{
	TimestampTz now = GetCurrentTimestamp();
	const GaLease *lease;
	const GaRegion *region;

	ga_shared_require();
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	lease = find_lease(handle);
	region = lease != NULL ? find_region(lease->region) : NULL;
	if (region != NULL && (region->database != MyDatabaseId || lease->expires_at <= now))
		region = NULL;
	if (region != NULL)
		*owner = lease->owner;
	LWLockRelease(ga_region_lock());
	return region != NULL;
}

bool
ga_lease_renew(const pg_uuid_t *handle, TimestampTz expires_at)
{
	Oid			owner;
	GaLease    *lease;
	GaRegion   *region;

	if (!lease_owner(handle, &owner) || !has_privs_of_role(GetUserId(), owner))
		return false;
	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	lease = find_lease(handle);
	region = lease != NULL ? find_region(lease->region) : NULL;
	if (region != NULL)
	{
		lease->expires_at = expires_at;
		region->last_used_at = GetCurrentTimestamp();
	}
	LWLockRelease(ga_region_lock());
	return region != NULL;
}

static bool
end_lease(const pg_uuid_t *handle)
{
	GaLease    *lease;
	GaRegion   *region = NULL;
	int			device = GA_DEVICE_HOST;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	lease = find_lease(handle);
	if (lease != NULL)
	{
		region = find_region(lease->region);
		if (region != NULL && region->kind == GA_KIND_CUDA_FD)
			device = region->device;
		drop_lease(lease);
	}
	LWLockRelease(ga_region_lock());
	if (device != GA_DEVICE_HOST)
		ga_region_revoke(device, handle->data);
	return lease != NULL;
}

void
ga_lease_cancel(const pg_uuid_t *handle)
{
	GaLease    *lease;

	LWLockAcquire(ga_region_lock(), LW_EXCLUSIVE);
	lease = find_lease(handle);
	if (lease != NULL)
		drop_lease(lease);
	LWLockRelease(ga_region_lock());
}

bool
ga_lease_end(const pg_uuid_t *handle)
{
	Oid			owner;

	if (!lease_owner(handle, &owner) || !has_privs_of_role(GetUserId(), owner) || !end_lease(handle))
		return false;
	ga_regions_reap(InvalidOid);
	return true;
}

int64
ga_leases_end(const char *object)
{
	GaLease    *found;
	int			n = 0;
	int64		ended = 0;

	ga_shared_require();
	found = palloc(sizeof(GaLease) * ga_max_handles);
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	for (int i = 0; i < registry->nleases; i++)
	{
		const GaLease *lease = lease_at(i);
		const GaRegion *region = lease->used ? find_region(lease->region) : NULL;

		if (region != NULL && region->database == MyDatabaseId && strcmp(region->object, object) == 0)
			found[n++] = *lease;
	}
	LWLockRelease(ga_region_lock());
	for (int i = 0; i < n; i++)
		if (has_privs_of_role(GetUserId(), found[i].owner) && end_lease(&found[i].handle))
			ended++;
	pfree(found);
	if (ended > 0)
		ga_regions_reap(InvalidOid);
	return ended;
}
