/*
 * sync_sql.c
 *		SQL functions of write-back: sync_swarm, revert_swarm, autosync.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "base/guc.h"
#include "base/names.h"
#include "base/shared.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "live/live.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A region whose sync failed is tried again after its next step, or after so long. */
#define RETRY_MS 5000

/* Others may hold a swarm for as long as they like; the next round comes soon. */
#define LOCK_TIMEOUT "100ms"

/* Volatile functions see what the calling statement did before them. */
static void
connect_fresh(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
finish_fresh(void)
{
	PopActiveSnapshot();
	SPI_finish();
}

/* sync_swarm(swarm text, metadata jsonb, force boolean) TABLE(version bigint, changed boolean, dirty_bytes bigint, step bigint) */
PG_FUNCTION_INFO_V1(ga_sync_swarm);
Datum
ga_sync_swarm(PG_FUNCTION_ARGS)
{
	GaSyncResult result;
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("swarm must not be NULL")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	ga_shared_require();
	connect_fresh();
	(void) ga_sync(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1),
				   !PG_ARGISNULL(1), !PG_ARGISNULL(2) && PG_GETARG_BOOL(2), false, &result);
	finish_fresh();
	values[0] = Int64GetDatum(result.version);
	values[1] = BoolGetDatum(result.changed);
	values[2] = Int64GetDatum(result.dirty_bytes);
	values[3] = Int64GetDatum(result.step);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* revert_swarm(swarm text) bigint */
PG_FUNCTION_INFO_V1(ga_revert_swarm);
Datum
ga_revert_swarm(PG_FUNCTION_ARGS)
{
	int64		version;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("swarm must not be NULL")));
	ga_shared_require();
	connect_fresh();
	version = ga_revert(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	finish_fresh();
	PG_RETURN_INT64(version);
}

/* ---- autosync ---- */

typedef struct Candidate
{
	uint64		id;
	char		swarm[GA_NAME_MAX + 1];
	int64		synced_step;
} Candidate;

typedef struct Candidates
{
	int			n;
	int			max;
	Candidate  *list;
} Candidates;

/* What failed in this process, so that it is not tried again in vain. */
typedef struct Failure
{
	uint64		region;
	uint64		step;
	TimestampTz at;
} Failure;

static Failure failures[64];

static void
collect(const GaRegion *region, void *arg)
{
	Candidates *c = arg;

	if (c->n < c->max && region->state == GA_REGION_READY && region->writable && region->autosync && region->private_pid == 0 &&
		region->database == MyDatabaseId && strncmp(region->object, "swarm:", 6) == 0)
	{
		c->list[c->n].id = region->id;
		c->list[c->n].synced_step = region->synced_step;
		strlcpy(c->list[c->n].swarm, region->object + 6, sizeof c->list[c->n].swarm);
		c->n++;
	}
}

static bool
failed_lately(uint64 region, uint64 step)
{
	Failure    *f = &failures[region % lengthof(failures)];

	return f->region == region && f->step == step &&
		!TimestampDifferenceExceeds(f->at, GetCurrentTimestamp(), RETRY_MS);
}

static void
note_failure(GaRegion *region, void *arg)
{
	const char *message = arg;
	int			length = pg_mbcliplen(message, strlen(message), sizeof region->last_sync_error - 1);

	memcpy(region->last_sync_error, message, length);
	region->last_sync_error[length] = '\0';
}

/* In a subtransaction, whose failure is noted and otherwise of no consequence. True when there is a new version. */
static bool
sync_candidate(const Candidate *candidate, uint64 step)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	GaSyncResult result = {.changed = false};

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		connect_fresh();
		if (!ga_sync(candidate->swarm, (Datum) 0, false, false, true, &result))
			result.changed = false;
		finish_fresh();
		ReleaseCurrentSubTransaction();
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
		/* A cancel, of the statement or at the server's end, is for the caller. */
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			ReThrowError(error);
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		{
			(void) ga_region_update(candidate->id, note_failure, error->message);
			failures[candidate->id % lengthof(failures)] =
				(Failure) {.region = candidate->id,.step = step,.at = GetCurrentTimestamp()};
		}
		FreeErrorData(error);
		result.changed = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return result.changed;
}

/* autosync() bigint: versions made. The maintenance worker calls it as the owner of the tables. */
PG_FUNCTION_INFO_V1(ga_autosync);
Datum
ga_autosync(PG_FUNCTION_ARGS)
{
	Candidates	candidates = {.max = ga_max_handles};
	int64		versions = 0;

	ga_setup_check();
	ga_shared_require();
	candidates.list = palloc(sizeof(Candidate) * candidates.max);
	ga_regions_each(collect, &candidates);
	if (candidates.n == 0)
		PG_RETURN_INT64(0);
	for (int i = 0; i < candidates.n; i++)
	{
		Candidate  *candidate = &candidates.list[i];
		GaControl  *control = ga_region_control(candidate->id);
		uint64		step;

		CHECK_FOR_INTERRUPTS();
		if (control == NULL || __atomic_load_n(&control->sequence, __ATOMIC_ACQUIRE) % 2 != 0)
			continue;
		step = control->step;
		if ((int64) step != candidate->synced_step && !failed_lately(candidate->id, step) &&
			sync_candidate(candidate, step))
			versions++;
	}
	PG_RETURN_INT64(versions);
}
