/*
 * lease.c
 *		Leases on mapped regions (region.h): who may use one, and until when.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "base/shared.h"
#include "device/ops.h"
#include "device/region.h"
#include "device/registry.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/timestamp.h"

/* The lock is held. */
static GaLease *
find_lease(const pg_uuid_t *handle)
{
	for (int i = 0; i < ga_registry->nleases; i++)
		if (ga_registry_lease(i)->used && memcmp(&ga_registry_lease(i)->handle, handle, sizeof(pg_uuid_t)) == 0)
			return ga_registry_lease(i);
	return NULL;
}

void
ga_leases_each(void (*each) (const GaLease *lease, const GaRegion *region, void *arg), void *arg)
{
	if (ga_registry_area == NULL)
		return;
	LWLockAcquire(ga_region_lock(), LW_SHARED);
	for (int i = 0; i < ga_registry->nleases; i++)
	{
		const GaLease *lease = ga_registry_lease(i);
		const GaRegion *region = lease->used ? ga_registry_region(lease->region) : NULL;

		if (region != NULL)
			each(lease, region, arg);
	}
	LWLockRelease(ga_region_lock());
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
	for (int i = 0; i < ga_registry->nleases; i++)
		if (!ga_registry_lease(i)->used)
			return ga_registry_lease(i);
	return ga_registry->nleases < ga_max_handles ? ga_registry_lease(ga_registry->nleases++) : NULL;
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
	region = ga_registry_region(id);
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
		ga_registry_full("handles");
	if (there)
		ga_region_settle(id, private);
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
	region = lease != NULL ? ga_registry_region(lease->region) : NULL;
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
	region = lease != NULL ? ga_registry_region(lease->region) : NULL;
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
		region = ga_registry_region(lease->region);
		if (region != NULL && region->kind == GA_KIND_CUDA_FD)
			device = region->device;
		ga_registry_drop(lease);
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
		ga_registry_drop(lease);
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
	for (int i = 0; i < ga_registry->nleases; i++)
	{
		const GaLease *lease = ga_registry_lease(i);
		const GaRegion *region = lease->used ? ga_registry_region(lease->region) : NULL;

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
