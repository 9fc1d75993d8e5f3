/*
 * map_stat.c
 *		Who has mapped what, and who holds memory: rows of the views stat_handle and
 *		stat_memory.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "base/guc.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "device/mapping.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "cache/cache_device.h"
#include "live/map.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

/* Entries copied under the registry's lock, to be looked at without it. */
typedef struct Copies
{
	int			n;
	GaRegion   *regions;
	GaLease    *leases;			/* leases[i] is on regions[i]; NULL: regions alone */
} Copies;

static void
copy_lease(const GaLease *lease, const GaRegion *region, void *arg)
{
	Copies	   *copies = arg;

	if (region->database != MyDatabaseId)
		return;
	copies->regions[copies->n] = *region;
	copies->leases[copies->n++] = *lease;
}

static void
copy_region(const GaRegion *region, void *arg)
{
	Copies	   *copies = arg;

	copies->regions[copies->n++] = *region;
}

/* What an unprivileged role sees of others is that they are there, as in pg_stat_activity. */
static bool
may_see(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) || has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

static void
put_handle(ReturnSetInfo *rsinfo, const GaLease *lease, const GaRegion *region)
{
	Datum		values[15];
	bool		nulls[15] = {false};
	char	   *owner = GetUserNameFromId(lease->owner, true);
	GaControl  *control = may_see(lease->owner) && region->state == GA_REGION_READY ? ga_region_control(region->id) : NULL;

	values[0] = UUIDPGetDatum(&lease->handle);
	values[1] = CStringGetTextDatum(region->object);
	values[2] = Int64GetDatum(region->version);
	nulls[2] = region->version == 0;
	values[3] = CStringGetTextDatum(lease->write ? "r+" : "r");
	values[4] = CStringGetTextDatum(ga_device_name(region->device));
	values[5] = CStringGetTextDatum(ga_map_kind(region->kind));
	values[6] = Int64GetDatum(region->size_bytes);
	nulls[7] = owner == NULL;
	values[7] = owner == NULL ? (Datum) 0 : CStringGetTextDatum(owner);
	values[8] = Int64GetDatum(lease->client_pid);
	nulls[9] = nulls[10] = control == NULL;
	values[9] = Int64GetDatum(control ? __atomic_load_n(&control->epoch, __ATOMIC_RELAXED) : 0);
	values[10] = Int64GetDatum(control ? __atomic_load_n(&control->step, __ATOMIC_RELAXED) : 0);
	values[11] = BoolGetDatum(region->autosync && lease->write);
	nulls[12] = region->last_sync_at == 0;
	values[12] = TimestampTzGetDatum(region->last_sync_at);
	nulls[13] = region->last_sync_error[0] == '\0';
	values[13] = CStringGetTextDatum(region->last_sync_error);
	values[14] = TimestampTzGetDatum(lease->expires_at);
	if (!may_see(lease->owner))
		nulls[0] = nulls[1] = nulls[2] = nulls[8] = nulls[13] = true;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* handles(): leases on regions of this database */
PG_FUNCTION_INFO_V1(ga_handles);
Datum
ga_handles(PG_FUNCTION_ARGS)
{
	Copies		copies = {0};

	InitMaterializedSRF(fcinfo, 0);
	copies.regions = palloc_extended(sizeof(GaRegion) * ga_max_handles, MCXT_ALLOC_HUGE);
	copies.leases = palloc(sizeof(GaLease) * ga_max_handles);
	ga_leases_each(copy_lease, &copies);
	for (int i = 0; i < copies.n; i++)
		put_handle((ReturnSetInfo *) fcinfo->resultinfo, &copies.leases[i], &copies.regions[i]);
	return (Datum) 0;
}

/* ---- memory ---- */

/* "swarm" of "swarm:pop"; an object without a name is its kind. */
static text *
kind_of(const char *object)
{
	return cstring_to_text_with_len(object, strcspn(object, ":"));
}

/* Names of swarms are for who may see every row of their table. */
static bool
may_see_names(void)
{
	Oid			schema = get_namespace_oid("gpuagent", true);
	Oid			swarm = OidIsValid(schema) ? get_relname_relid("swarm", schema) : InvalidOid;

	return OidIsValid(swarm) && pg_class_aclcheck(swarm, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(swarm, InvalidOid, true) != RLS_ENABLED;
}

static void
put_memory(ReturnSetInfo *rsinfo, int device, text *kind, const GaRegion *region, uint64 used)
{
	Datum		values[8];
	bool		nulls[8] = {false};
	char	   *database = region != NULL ? get_database_name(region->database) : NULL;

	values[0] = CStringGetTextDatum(ga_device_name(device));
	values[1] = PointerGetDatum(kind);
	nulls[2] = nulls[5] = nulls[6] = region == NULL;
	nulls[3] = database == NULL;
	values[4] = Int64GetDatum(used);
	values[7] = Int64GetDatum(region != NULL ? region->leases : 0);
	if (region != NULL)
	{
		/* Names of another database are its own. */
		nulls[2] = !may_see(InvalidOid) && (region->database != MyDatabaseId || !may_see_names());
		values[2] = CStringGetTextDatum(region->object);
		values[5] = TimestampTzGetDatum(region->resident_since);
		values[6] = TimestampTzGetDatum(region->last_used_at);
	}
	if (database != NULL)
		values[3] = CStringGetTextDatum(database);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* memory(): regions, the arena, the agent cache, contexts of GPUs, and what clients hold of regions that are gone */
PG_FUNCTION_INFO_V1(ga_memory);
Datum
ga_memory(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	GaHeader   *mapping = ga_mapping();
	Copies		copies = {0};
	GaCacheStats cached;

	InitMaterializedSRF(fcinfo, 0);
	if (mapping == NULL)
		return (Datum) 0;
	copies.regions = palloc_extended(sizeof(GaRegion) * ga_max_handles, MCXT_ALLOC_HUGE);
	ga_regions_each(copy_region, &copies);
	for (int i = 0; i < copies.n; i++)
		put_memory(rsinfo, copies.regions[i].device, kind_of(copies.regions[i].object), &copies.regions[i],
				   copies.regions[i].size_bytes);
	put_memory(rsinfo, GA_DEVICE_HOST, cstring_to_text("arena"), NULL, ga_arena_used());
	ga_cache_stats(&cached);
	put_memory(rsinfo, GA_DEVICE_HOST, cstring_to_text("cache"), NULL, cached.used);
	if (ga_device_serves())
	{
		for (int i = 0; i < mapping->ndevices; i++)
		{
			GaDeviceInfo *info = &ga_device_infos(mapping)[i];
			GaCacheStats tier = {0};

			ga_cache_device_stats(i, &tier);
			put_memory(rsinfo, i, cstring_to_text("cache"), NULL, tier.used);
			put_memory(rsinfo, i, cstring_to_text("context"), NULL, info->context_bytes);
			put_memory(rsinfo, i, cstring_to_text("lost"), NULL, __atomic_load_n(&info->lost_bytes, __ATOMIC_RELAXED));
		}
	}
	return (Datum) 0;
}
