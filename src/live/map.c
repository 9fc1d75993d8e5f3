/*
 * map.c
 *		map_swarm() and what ends or prolongs handles; map.h for its siblings.
 *
 * Readers of a version share one region, writers of a swarm another. Who finds
 * no region to join takes the lock of ga_region_exclude, looks again under a new
 * snapshot, and loads. A region of a version that its own transaction wrote is
 * private until the commit; a writable one keeps the lock until then, so that
 * there is one writable region of a swarm at any time.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/guc.h"
#include "base/names.h"
#include "base/shared.h"
#include "base/workers.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "device/mapping.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "live/live.h"
#include "live/map.h"
#include "store/plan.h"
#include "tensor/tensor.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* What the tables say of a swarm and the version asked for. */
typedef struct SwarmVersion
{
	int64		current;
	int64		version;
	GaHash		tensor;
	bool		own;			/* written by this transaction */
} SwarmVersion;

typedef struct MapSwarm
{
	Datum		swarm;
	const char *name;
	char		object[GA_OBJECT_MAX];
	bool		writable;
	bool		autosync;
	int64		version;		/* -1: the newest */
	GaMapPlace	place;
} MapSwarm;

/* ---- arguments ---- */

static void
report_null(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be NULL", what)));
}

/* When a lease ends that begins now. */
static TimestampTz
lease_end(const Interval *lease)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
															  IntervalPGetDatum(lease)));

	if (end <= now || TIMESTAMP_NOT_FINITE(end))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be positive and finite"),
				 errhint("Take some minutes, and renew the handle with gpuagent.renew_handle().")));
	return end;
}

static const Interval *
lease_argument(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		report_null("lease");
	(void) lease_end(PG_GETARG_INTERVAL_P(arg));
	return PG_GETARG_INTERVAL_P(arg);
}

void
ga_map_place(FunctionCallInfo fcinfo, int device_arg, int lease_arg, GaMapPlace *place)
{
	char	   *name = PG_ARGISNULL(device_arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(device_arg));
	char	   *suffix = name != NULL ? strchr(name, '/') : NULL;

	place->ipc = suffix != NULL && strcmp(suffix, "/ipc") == 0 && strncmp(name, "cuda", 4) == 0;
	if (place->ipc)
		*suffix = '\0';
	place->any = name == NULL || strcmp(name, "auto") == 0;
	if (place->ipc && !ga_allow_ipc_handles)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("handles of kind cuda_ipc are switched off"),
				 errdetail("Whoever has such a handle can read and write the memory, whatever its mode, until it is freed."),
				 errhint("Leave out \"/ipc\", or set gpuagent.allow_ipc_handles.")));
	place->device = ga_device_choose(name);
	place->lease = lease_argument(fcinfo, lease_arg);
}

/* map_swarm(swarm, mode, version, device, autosync, lease) */
static void
read_arguments(FunctionCallInfo fcinfo, MapSwarm *map)
{
	const char *mode;

	if (PG_ARGISNULL(0))
		report_null("swarm");
	if (PG_ARGISNULL(1))
		report_null("mode");
	map->swarm = PG_GETARG_DATUM(0);
	map->name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ga_name_check("swarm", map->name, strlen(map->name));
	snprintf(map->object, sizeof map->object, "swarm:%s", map->name);
	mode = text_to_cstring(PG_GETARG_TEXT_PP(1));
	map->writable = strcmp(mode, "r+") == 0;
	if (!map->writable && strcmp(mode, "r") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"%s\"", mode),
				 errhint("Use r to read or r+ to write.")));
	map->version = PG_ARGISNULL(2) ? -1 : PG_GETARG_INT64(2);
	map->autosync = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	if (map->autosync && !map->writable)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("autosync needs mode r+")));
	if (map->writable && RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot map a swarm for writing during recovery"),
				 errhint("Use mode r, or the primary server.")));
	ga_map_place(fcinfo, 3, 5, &map->place);
}

/* ---- the tables ---- */

/* Fails as retrieve_swarm does for what is not there. */
static void
report_absent(const MapSwarm *map, const SwarmVersion *found)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID, INT8OID};
	Datum		values[] = {map->swarm, Int64GetDatum(map->version)};
	bool		nulls[] = {false, map->version < 0};

	if (!ga_plan_ready(&plan, 2, types))
		ga_plan_prepare(&plan, "SELECT gpuagent_store.swarm_tensor_hash($1, $2, NULL)", 2, types, 0);
	ga_plan_run(&plan, values, nulls, true, NULL);
	elog(ERROR, "version " INT64_FORMAT " of swarm \"%s\" is not there", map->version, map->name);
}

static Datum
column(int n, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n, isnull);
}

/* Reads the version asked for, or the newest, under the active snapshot and the caller's rights. */
static void
read_version(const MapSwarm *map, SwarmVersion *found)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID, INT8OID};
	Datum		values[] = {map->swarm, Int64GetDatum(map->version)};
	bool		nulls[] = {false, map->version < 0};
	bool		isnull = true;

	if (!ga_plan_ready(&plan, 2, types))
		ga_plan_prepare(&plan, "SELECT s.current::pg_catalog.int8, v.version::pg_catalog.int8, v.tensor::pg_catalog.bytea, v.xmin"
						" FROM gpuagent.swarm s JOIN gpuagent.swarm_version v ON v.swarm OPERATOR(pg_catalog.=) s.swarm"
						" AND v.version OPERATOR(pg_catalog.=) COALESCE($2, s.current)"
						" WHERE s.swarm OPERATOR(pg_catalog.=) $1", 2, types, CURSOR_OPT_GENERIC_PLAN);
	if (ga_plan_run(&plan, values, nulls, true, NULL) == 0)
		report_absent(map, found);
	found->current = DatumGetInt64(column(1, &isnull));
	found->version = DatumGetInt64(column(2, &isnull));
	ga_hash_from_datum(column(3, &isnull), &found->tensor);
	found->own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(column(4, &isnull)));
	SPI_freetuptable(SPI_tuptable);
	if (map->writable && found->version != found->current)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot map version " INT64_FORMAT " of swarm \"%s\" for writing", found->version, map->name),
				 errdetail("Its newest version is " INT64_FORMAT ".", found->current),
				 errhint("Map the newest version, or use mode r.")));
}

/* ---- regions ---- */

static const char *const kind_names[] = {"shm", "cuda_fd", "cuda_ipc"};

const char *
ga_map_kind(GaRegionKind kind)
{
	return kind_names[kind];
}

static void
make_region(GaRegion *wanted, GaMapFill fill, void *arg, GaRegion *region)
{
	uint64		size;
	GaControl  *control;

	*region = *wanted;
	region->id = ga_region_begin(wanted);
	ga_region_create_to_fill(region->id, region->device, region->nbytes, region->kind == GA_KIND_CUDA_IPC, region->ipc_handle, &size);
	control = ga_region_control(region->id);
	if (control == NULL)
		ga_map_report_lost();	/* a client has destroyed its file */
	control->base_version = region->version;
	fill(region, arg);
	region->size_bytes = size;
	ga_region_ready(region->id, size, region->ipc_handle);
}

/* False, after counting a fallback, when the GPU does not serve. */
static bool
make_on_gpu(GaRegion *wanted, GaMapFill fill, void *arg, GaRegion *region)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool made = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		make_region(wanted, fill, arg, region);
		ReleaseCurrentSubTransaction();
		made = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE && error->sqlerrcode != ERRCODE_SYSTEM_ERROR)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (!made)
		ga_device_fallback("the GPU could not take the mapped memory");
	return made;
}

void
ga_map_make(GaRegion *wanted, const GaMapPlace *place, GaMapFill fill, void *arg, GaRegion *region)
{
	wanted->device = place->device;
	wanted->kind = place->device == GA_DEVICE_HOST ? GA_KIND_SHM : place->ipc ? GA_KIND_CUDA_IPC : GA_KIND_CUDA_FD;
	if (wanted->device != GA_DEVICE_HOST && place->any)
	{
		if (make_on_gpu(wanted, fill, arg, region))
			return;
		wanted->device = GA_DEVICE_HOST;
		wanted->kind = GA_KIND_SHM;
	}
	make_region(wanted, fill, arg, region);
}

static void
fill_from_store(const GaRegion *region, void *arg)
{
	ga_region_load(region->id, region->device, arg);
	if (region->writable)
		ga_live_begin(region->id, region->device, arg);
}

/* Loads the version into a region of its own. */
static void
load_version(const MapSwarm *map, SwarmVersion *found, GaRegion *region)
{
	GaReader   *reader = ga_reader_open(&found->tensor);
	GaRegion	wanted = {
		.version = found->version,
		.writable = map->writable,
		.private_pid = found->own ? MyProcPid : 0,
		.autosync = map->autosync,
		.dtype = reader->dtype,
		.ndim = reader->ndim,
		.nbytes = reader->nbytes,
	};

	strlcpy(wanted.object, map->object, sizeof wanted.object);
	memcpy(wanted.content, &found->tensor, GA_CONTENT_LEN);
	memcpy(wanted.dims, reader->dims, sizeof(int64) * reader->ndim);
	ga_reader_close(reader);
	ga_map_make(&wanted, &map->place, fill_from_store, &found->tensor, region);
}

static bool
is_writable(const MapSwarm *map, const SwarmVersion *found, const GaRegion *region)
{
	return region->version == found->version && memcmp(region->content, &found->tensor, GA_CONTENT_LEN) == 0 &&
		(map->place.any || (region->device == map->place.device && map->place.ipc == (region->kind == GA_KIND_CUDA_IPC)));
}

/* The writable region of a swarm must hold the version that the tables call newest. */
static void
check_writable(const MapSwarm *map, const SwarmVersion *found, const GaRegion *region)
{
	if (region->version != found->version || memcmp(region->content, &found->tensor, GA_CONTENT_LEN) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("swarm \"%s\" was changed since it was mapped for writing", map->name),
				 region->version == found->version ?
				 errdetail("Another version " INT64_FORMAT " has taken the place of the one that is mapped.", region->version) :
				 errdetail("Its mapped version is " INT64_FORMAT ", its newest is " INT64_FORMAT ".",
						   region->version, found->version),
				 errhint("Bring the newest version into the mapped memory with gpuagent.revert_swarm(), or let every client unmap it.")));
	if (!map->place.any && (region->device != map->place.device || map->place.ipc != (region->kind == GA_KIND_CUDA_IPC)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("swarm \"%s\" is mapped for writing on device \"%s\", kind %s", map->name,
						ga_device_name(region->device), ga_map_kind(region->kind)),
				 errhint("Leave out the device, or let every client unmap it first.")));
}

/* Who joins a region needs the rights of who loaded it. */
static void
check_rights(void)
{
	Oid			chunk = get_relname_relid("chunk", get_namespace_oid("gpuagent_store", false));
	AclResult	result = pg_class_aclcheck(chunk, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, "chunk");
}

static void
require_right(Oid schema, const char *table, AclMode right)
{
	AclResult	result = pg_class_aclcheck(get_relname_relid(table, schema), GetUserId(), right);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, table);
}

/* What policies for UPDATE say of the row, as a lock of it tells; the lock goes again. */
static bool
may_change_row(const MapSwarm *map)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID};
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	volatile bool found = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		Datum		value = map->swarm;

		if (!ga_plan_ready(&plan, 1, types))
			ga_plan_prepare(&plan, "SELECT FROM gpuagent.swarm s WHERE s.swarm OPERATOR(pg_catalog.=) $1 FOR KEY SHARE", 1, types, 0);
		found = ga_plan_run(&plan, &value, NULL, false, NULL) == 1;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	if (error != NULL)
		ReThrowError(error);
	return found;
}

/* What is written in mode r+ becomes a version when anybody syncs: it is for who may store one. */
static void
check_write_rights(const MapSwarm *map)
{
	Oid			schema = get_namespace_oid("gpuagent", false);

	require_right(schema, "swarm", ACL_UPDATE);
	require_right(schema, "swarm_version", ACL_INSERT);
	if (check_enable_rls(get_relname_relid("swarm", schema), InvalidOid, true) == RLS_ENABLED && !may_change_row(map))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to map swarm \"%s\" for writing", map->name),
				 errdetail("Row security does not let you change it."),
				 errhint("Use mode r.")));
}

/*
 * A region that others have loaded; false when there is none. Outside of the lock a version that the region does not
 * have may be that of a sync which is just being committed, on one side or the other: under the lock it is for good.
 */
static bool
find_loaded(const MapSwarm *map, const SwarmVersion *found, bool locked, GaRegion *region)
{
	if (map->writable)
	{
		if (!ga_region_find(map->object, true, found->version, found->tensor.bytes, region) &&
			!ga_region_find(map->object, true, -1, NULL, region))
			return false;
		if (ga_live_lose(region) || (!locked && !found->own && !is_writable(map, found, region)))
			return false;
		check_writable(map, found, region);
		return true;
	}
	/* Memory of kind cuda_ipc can be written by whoever has it: no reader shares that. */
	if (map->place.ipc)
		return false;
	/* What is on a GPU that does not serve is out of reach for who comes now. */
	return ga_region_find_on(map->place.any && ga_device_serves() ? GA_DEVICE_ANY : map->place.device, false, map->object, false,
							 found->version, found->tensor.bytes, region) &&
		region->kind != GA_KIND_CUDA_IPC && !ga_live_lose(region);
}

/* ---- handles ---- */

void
ga_map_report_lost(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the device lost the memory while it was mapped"),
			 errhint("Map the object again.")));
}

static Datum
handle_row(FunctionCallInfo fcinfo, const GaRegion *region, const GaLease *lease, const uint8 *token)
{
	TupleDesc	tupdesc;
	Datum		values[15];
	bool		nulls[15] = {false};
	const char *path;
	bytea	   *bytes = NULL;
	size_t		len = region->kind == GA_KIND_CUDA_IPC ? sizeof region->ipc_handle : GA_TOKEN_LEN;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE || tupdesc->natts != lengthof(values))
		elog(ERROR, "type gpuagent.handle does not have the columns of this version");
	if (region->kind == GA_KIND_CUDA_FD)
		path = psprintf("%s/%s", ga_run_directory(), GA_SOCKET_NAME);
	else
		path = psprintf("%s/%s" UINT64_FORMAT, ga_run_directory(), GA_REGION_PREFIX, region->id);
	if (region->kind != GA_KIND_SHM)
	{
		bytes = palloc(VARHDRSZ + len);
		SET_VARSIZE(bytes, VARHDRSZ + len);
		memcpy(VARDATA(bytes), region->kind == GA_KIND_CUDA_IPC ? region->ipc_handle : token, len);
	}
	values[0] = UUIDPGetDatum(&lease->handle);
	values[1] = CStringGetTextDatum(region->object);
	values[2] = Int64GetDatum(region->version);
	values[3] = CStringGetTextDatum(lease->write ? "r+" : "r");
	values[4] = CStringGetTextDatum(ga_device_name(region->device));
	values[5] = CStringGetTextDatum(ga_dtype_name(region->dtype));
	values[6] = ga_shape_to_array(region->ndim, region->dims);
	values[7] = Int64GetDatum(region->nbytes);
	values[8] = Int64GetDatum(region->size_bytes);
	values[9] = Int64GetDatum(region->kind == GA_KIND_SHM ? GA_REGION_DATA_OFFSET : 0);
	values[10] = Int64GetDatum(0);
	values[11] = CStringGetTextDatum(ga_map_kind(region->kind));
	values[12] = CStringGetTextDatum(path);
	nulls[13] = bytes == NULL;
	values[13] = PointerGetDatum(bytes);
	values[14] = TimestampTzGetDatum(lease->expires_at);
	nulls[2] = region->version == 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

bool
ga_map_handle(FunctionCallInfo fcinfo, const GaRegion *region, bool write, const Interval *lease_time, Datum *handle)
{
	TimestampTz expires_at = lease_end(lease_time);
	uint8		token[GA_TOKEN_LEN] = {0};
	GaLease		lease;

	if (region->kind == GA_KIND_CUDA_FD && !pg_strong_random(token, sizeof token))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));

	/* The lease first: it keeps the region, which nobody else may have. */
	if (!ga_lease_grant(region->id, write, expires_at, &lease))
		return false;
	if (region->kind == GA_KIND_CUDA_FD)
	{
		PG_TRY();
		{
			ga_region_grant(region->id, region->device, write, lease.handle.data, token, expires_at);
		}
		PG_CATCH();
		{
			ga_lease_cancel(&lease.handle);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	*handle = handle_row(fcinfo, region, &lease, token);
	return true;
}

static void
set_autosync(GaRegion *region, void *arg)
{
	region->autosync = true;
}

static bool
join_region(FunctionCallInfo fcinfo, const MapSwarm *map, const SwarmVersion *found, bool locked, Datum *handle)
{
	GaRegion	region;

	check_rights();
	if (!find_loaded(map, found, locked, &region) || !ga_map_handle(fcinfo, &region, map->writable, map->place.lease, handle))
		return false;
	if (map->autosync && !region.autosync)
		ga_region_update(region.id, set_autosync, NULL);
	return true;
}

/* Loads, unless another session has meanwhile. The active snapshot is one of after the lock. */
static void
load_region(FunctionCallInfo fcinfo, const MapSwarm *map, SwarmVersion *found, Datum *handle)
{
	GaRegion	region;

	if (join_region(fcinfo, map, found, true, handle))
		return;
	load_version(map, found, &region);
	if (!ga_map_handle(fcinfo, &region, map->writable, map->place.lease, handle))
		ga_map_report_lost();
}

/* Of what is mapped for writing the newest version is what counts for all, whatever a transaction has seen before. */
static Snapshot
take_snapshot(const MapSwarm *map)
{
	return map->writable ? GetLatestSnapshot() : GetTransactionSnapshot();
}

/* map_swarm(swarm text, mode text, version bigint, device text, autosync boolean, lease interval) handle */
PG_FUNCTION_INFO_V1(ga_map_swarm);
Datum
ga_map_swarm(PG_FUNCTION_ARGS)
{
	MapSwarm	map;
	SwarmVersion found;
	Datum		handle;

	ga_shared_require();
	ga_setup_check();
	read_arguments(fcinfo, &map);
	SPI_connect();
	PushActiveSnapshot(take_snapshot(&map));
	read_version(&map, &found);
	if (map.writable)
		check_write_rights(&map);
	if (!join_region(fcinfo, &map, &found, false, &handle))
	{
		ga_region_exclude(map.object, map.writable);
		PopActiveSnapshot();
		PushActiveSnapshot(take_snapshot(&map));
		read_version(&map, &found);
		load_region(fcinfo, &map, &found, &handle);
		if (!(map.writable && found.own))
			ga_region_admit(map.object, map.writable);
	}
	PopActiveSnapshot();
	handle = SPI_datumTransfer(handle, false, -1);
	SPI_finish();
	if (map.autosync)
		ga_workers_wake(MyDatabaseId);
	PG_RETURN_DATUM(handle);
}

void
ga_map_report_unknown(Datum handle)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("handle \"%s\" does not exist", DatumGetCString(DirectFunctionCall1(uuid_out, handle))),
			 errdetail("It was never yours, was unmapped, or its lease has run out."),
			 errhint("Map the object again.")));
}

/* renew_handle(handle uuid, lease interval) timestamptz */
PG_FUNCTION_INFO_V1(ga_renew_handle);
Datum
ga_renew_handle(PG_FUNCTION_ARGS)
{
	TimestampTz expires_at = lease_end(lease_argument(fcinfo, 1));

	ga_shared_require();
	if (PG_ARGISNULL(0))
		report_null("handle");
	if (!ga_lease_renew(PG_GETARG_UUID_P(0), expires_at))
		ga_map_report_unknown(PG_GETARG_DATUM(0));
	PG_RETURN_TIMESTAMPTZ(expires_at);
}

/* unmap_handle(handle uuid) boolean */
PG_FUNCTION_INFO_V1(ga_unmap_handle);
Datum
ga_unmap_handle(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(ga_lease_end(PG_GETARG_UUID_P(0)));
}

/* unmap_swarm(swarm text) bigint */
PG_FUNCTION_INFO_V1(ga_unmap_swarm);
Datum
ga_unmap_swarm(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char		object[GA_OBJECT_MAX];

	ga_name_check("swarm", name, strlen(name));
	snprintf(object, sizeof object, "swarm:%s", name);
	PG_RETURN_INT64(ga_leases_end(object));
}
