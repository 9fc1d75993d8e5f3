/*
 * revert.c
 *		revert_swarm: the newest version comes back into mapped memory.
 *
 * The sequence is odd, and the step lock held, while the contents are read: a
 * revert that fails in the middle leaves the region torn, which the next one
 * repairs.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/names.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "live/live.h"
#include "store/plan.h"
#include "utils/builtins.h"

typedef struct Reverted
{
	int64		version;
	GaHash		tensor;
	int64		step;
} Reverted;

static GaPlan lock_table;
static GaPlan lock_current;

static void
report_unmapped(const char *swarm)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("swarm \"%s\" is not mapped for writing", swarm),
			 errhint("Map it with gpuagent.map_swarm(.., mode => 'r+').")));
}

/* Locks the swarm's row; version and tensor that it has, of a transaction that is committed. */
static void
lock_version(const char *swarm, Reverted *to)
{
	static const Oid types[] = {TEXTOID};
	Datum		name = CStringGetTextDatum(swarm);
	bool		isnull[3];
	Datum		values[3];

	if (!ga_plan_ready(&lock_current, 1, types))
	{
		ga_plan_prepare(&lock_table, "LOCK TABLE gpuagent.swarm IN ROW EXCLUSIVE MODE", 0, types, 0);
		ga_plan_prepare(&lock_current,
						"SELECT s.current, (SELECT v.tensor FROM gpuagent.swarm_version v "
						"WHERE v.swarm OPERATOR(pg_catalog.=) s.swarm AND v.version OPERATOR(pg_catalog.=) s.current), "
						"(SELECT v.xmin FROM gpuagent.swarm_version v "
						"WHERE v.swarm OPERATOR(pg_catalog.=) s.swarm AND v.version OPERATOR(pg_catalog.=) s.current) "
						"FROM gpuagent.swarm s WHERE s.swarm OPERATOR(pg_catalog.=) $1 FOR UPDATE OF s", 1, types, 0);
	}
	(void) ga_plan_run(&lock_table, NULL, NULL, false, NULL);
	if (ga_plan_run(&lock_current, &name, NULL, false, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("swarm \"%s\" does not exist", swarm)));
	for (int i = 0; i < 3; i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &isnull[i]);
	if (isnull[0] || isnull[1])
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("swarm \"%s\" was changed at the same time", swarm),
				 errhint("Try again.")));
	if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(values[2])))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("swarm \"%s\" has a version of this transaction", swarm),
				 errdetail("Mapped memory cannot hold what may still be rolled back."),
				 errhint("Commit first.")));
	to->version = DatumGetInt64(values[0]);
	ga_hash_from_datum(values[1], &to->tensor);
	SPI_freetuptable(SPI_tuptable);
}

static void
require_same_shape(const char *swarm, const GaRegion *region, const GaHash *tensor)
{
	GaReader   *reader = ga_reader_open(tensor);

	if (reader->dtype != region->dtype || reader->ndim != region->ndim ||
		memcmp(reader->dims, region->dims, sizeof(int64) * reader->ndim) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the newest version of swarm \"%s\" has another shape than its mapped memory", swarm),
				 errdetail("The version is %s%s, the memory %s%s.",
						   ga_dtype_name(reader->dtype), ga_shape_text(reader->ndim, reader->dims),
						   ga_dtype_name(region->dtype), ga_shape_text(region->ndim, region->dims)),
				 errhint("Unmap the swarm and map it again.")));
	ga_reader_close(reader);
}

static void
note_reverted(GaRegion *region, void *arg)
{
	const Reverted *to = arg;

	region->version = to->version;
	memcpy(region->content, &to->tensor, sizeof region->content);
	region->synced_step = to->step;
	region->last_sync_error[0] = '\0';
}

int64
ga_revert(const char *swarm)
{
	char		object[GA_OBJECT_MAX];
	GaRegion	region;
	GaLive	   *live = NULL;
	Reverted	to;
	int			lock;

	ga_setup_check();
	ga_name_check("swarm", swarm, strlen(swarm));
	snprintf(object, sizeof object, "swarm:%s", swarm);
	ga_region_exclude(object, true);
	if (ga_region_find(object, true, -1, NULL, &region))
		live = ga_live_open(&region);
	if (live == NULL)
		report_unmapped(swarm);
	if (ga_live_lose(&region))
		ga_live_report_lost(swarm);
	lock_version(swarm, &to);
	ga_live_refresh();
	require_same_shape(swarm, &region, &to.tensor);

	lock = ga_step_lock(&region, live->control, true);
	__atomic_fetch_or(&live->control->sequence, 1, __ATOMIC_ACQ_REL);
	ga_leaves_close(&live->leaves);
	ga_region_load(region.id, region.device, &to.tensor);
	ga_live_begin(region.id, region.device, &to.tensor);
	to.step = (int64) live->control->step;
	(void) ga_region_update(region.id, note_reverted, &to);
	live->control->base_version = to.version;
	__atomic_fetch_add(&live->control->epoch, 1, __ATOMIC_ACQ_REL);
	__atomic_fetch_add(&live->control->sequence, 1, __ATOMIC_ACQ_REL);
	ga_step_unlock(lock);
	return to.version;
}
