/*
 * job_sql.c
 *		What sessions do about jobs: queue, cancel, wait.
 *
 * Rows are read and written as the owner of the table, restricted, so that no role
 * needs a right there and what the owner hangs on the table gains nothing; and under
 * the latest snapshot, so that a caller's long transaction sees what became of a job.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/guc.h"
#include "base/shared.h"
#include "base/workers.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker/job.h"
#include "worker/worker.h"

/* How long a wait goes without looking, should nobody say anything. */
#define LOOK_MS 1000

static bool queued = false;		/* by this transaction */
static bool cancelled = false;
static bool installed = false;

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (queued && event == XACT_EVENT_COMMIT)
		ga_workers_queue(MyDatabaseId);
	if (cancelled && event == XACT_EVENT_COMMIT)
		ga_jobs_ended();
	queued = cancelled = false;
}

static void
at_commit(bool *what)
{
	if (!installed)
		RegisterXactCallback(at_transaction_end, NULL);
	installed = true;
	*what = true;
}

static void
require_table(void)
{
	if (!OidIsValid(ga_job_table_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of jobs does not exist in this database"),
				 errhint("Run SELECT gpuagent.setup() to create or migrate the tables.")));
}

/* What to do so that there are workers; NULL when there are. */
static const char *
workers_hint(void)
{
	if (!ga_shared_ready())
		return "Add gpuagent to shared_preload_libraries and restart the server, or do the work in this session.";
	if (ga_max_databases == 0)
		return "Set \"gpuagent.max_databases\" above 0 and restart the server, or do the work in this session.";
	if (ga_max_jobs == 0)
		return "Set \"gpuagent.max_jobs\" above 0 and restart the server, or do the work in this session.";
	return NULL;
}

static void
require_workers(void)
{
	const char *hint = workers_hint();

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("jobs cannot be queued on a standby")));
	if (hint)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there are no background workers for jobs"),
				 errhint("%s", hint)));
}

PG_FUNCTION_INFO_V1(ga_has_job_workers);
Datum
ga_has_job_workers(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!RecoveryInProgress() && workers_hint() == NULL);
}

/* One statement as the owner of the table, under the latest snapshot; how many rows, in SPI_tuptable. */
static uint64
execute_as_owner(const char *sql, int n, Oid *types, Datum *values, const char *nulls, bool read_only)
{
	SPIPlanPtr	plan = SPI_prepare(sql, n, types);
	GaRoleScope scope = ga_worker_enter_role(ga_job_table_owner());
	int			result;

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	result = SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot, read_only, true, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(result));
	ga_worker_leave_role(scope);
	return SPI_processed;
}

static char *
text_or_null(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static void
require_kind(const char *kind)
{
	Oid			function;

	if (kind == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("kind of a job must not be NULL")));
	function = ga_job_function(kind);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown kind of job \"%s\"", kind),
				 errdetail("There is no function gpuagent_store.run_%s(bigint, jsonb, jsonb) that returns jsonb.", kind)));
	if (ga_function_aclcheck(function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
}

static int64
next_job(void)
{
	bool		isnull;

	if (execute_as_owner("SELECT pg_catalog.nextval(pg_catalog.pg_get_serial_sequence('gpuagent_store.job', 'job'))", 0, NULL, NULL, NULL, false) != 1)
		elog(ERROR, "no number for a job");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* queue_job(kind, object, arguments) */
PG_FUNCTION_INFO_V1(ga_queue_job);
Datum
ga_queue_job(PG_FUNCTION_ARGS)
{
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, BYTEAOID};
	Jsonb	   *arguments = PG_ARGISNULL(2) ? DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))) : PG_GETARG_JSONB_P(2);
	GaJob		job = {
		.kind = text_or_null(fcinfo, 0),
		.object = text_or_null(fcinfo, 1),
		.arguments = JsonbToCString(NULL, &arguments->root, VARSIZE(arguments)),
		.role = GetUserNameFromId(GetUserId(), false),
		.role_id = GetUserId(),
	};
	Datum		values[6];

	require_workers();
	require_table();
	require_kind(job.kind);
	if (job.object && strlen(job.object) > GA_JOB_OBJECT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("object of a job is longer than %d bytes", GA_JOB_OBJECT_MAX)));
	SPI_connect();
	job.job = next_job();
	values[0] = Int64GetDatum(job.job);
	values[1] = CStringGetTextDatum(job.kind);
	values[2] = job.object ? CStringGetTextDatum(job.object) : (Datum) 0;
	values[3] = JsonbPGetDatum(arguments);
	values[4] = CStringGetTextDatum(job.role);
	values[5] = PointerGetDatum(ga_job_sign(&job));
	if (execute_as_owner("INSERT INTO gpuagent_store.job (job, kind, object, arguments, role, signature)"
						 " OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6)",
						 lengthof(types), types, values, job.object ? NULL : "  n   ", false) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the job was not stored"),
				 errdetail("A trigger or rule of table gpuagent_store.job prevented it.")));
	SPI_finish();
	at_commit(&queued);
	PG_RETURN_INT64(job.job);
}

/* State, role and writer of a job's row; 42704 when there is none. */
typedef struct JobState
{
	char	   *state;
	char	   *role;
	TransactionId xmin;
} JobState;

static JobState
look(int64 job, MemoryContext context)
{
	static const char sql[] = "SELECT j.state, j.role, j.xmin FROM gpuagent_store.job j WHERE j.job = $1";
	Oid			types[] = {INT8OID};
	Datum		value = Int64GetDatum(job);
	JobState	result;
	HeapTuple	tuple;
	bool		isnull;

	SPI_connect();
	if (execute_as_owner(sql, lengthof(types), types, &value, NULL, true) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job %lld does not exist", (long long) job),
				 errhint("Jobs are removed a week after they have ended.")));
	tuple = SPI_tuptable->vals[0];
	result.state = MemoryContextStrdup(context, SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1));
	result.role = MemoryContextStrdup(context, SPI_getvalue(tuple, SPI_tuptable->tupdesc, 2));
	result.xmin = DatumGetTransactionId(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &isnull));
	SPI_finish();
	return result;
}

static int64
job_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("job must not be NULL")));
	require_table();
	return PG_GETARG_INT64(0);
}

static bool
is_open(const char *state)
{
	return strcmp(state, "queued") == 0 || strcmp(state, "running") == 0;
}

/* ---- cancel ---- */

/*
 * A job that no worker has: true when it is cancelled now, unless the transaction is rolled back. A worker that takes it
 * up at this moment finds that its row does not run when it next writes there.
 */
static bool
cancel_row(int64 job)
{
	Oid			types[] = {INT8OID};
	Datum		value = Int64GetDatum(job);
	bool		found;

	SPI_connect();
	found = execute_as_owner("UPDATE gpuagent_store.job SET state = 'cancelled', finished_at = pg_catalog.clock_timestamp(), carry = NULL, signature = NULL"
							 " WHERE job = $1 AND state IN ('queued', 'running') RETURNING " GA_JOB_PAYLOAD,
							 lengthof(types), types, &value, NULL, false) > 0;
	if (found)
		Async_Notify("gpuagent_job", SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	if (found)
		at_commit(&cancelled);
	return found;
}

static bool
cancel(int64 job, const char *state)
{
	if (RecoveryInProgress())
		ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION), errmsg("jobs cannot be cancelled on a standby")));
	return is_open(state) && (ga_workers_cancel_job(MyDatabaseId, job) || cancel_row(job));
}

/* Whether the caller is, or is a member of, the role of that name. */
static bool
is_member(const char *role)
{
	Oid			id = get_role_oid(role, true);

	return OidIsValid(id) && is_member_of_role(GetUserId(), id);
}

/* cancel_job(job): of one's own. cancel_any_job, which is for administrators, lets its callers cancel all. */
PG_FUNCTION_INFO_V1(ga_cancel_job);
Datum
ga_cancel_job(PG_FUNCTION_ARGS)
{
	int64		job = job_argument(fcinfo);
	JobState	found = look(job, CurrentMemoryContext);
	Oid			types[] = {INT8OID};
	Oid			any = LookupFuncName(list_make2(makeString("gpuagent_store"), makeString("cancel_any_job")), 1, types, true);

	if (!is_member(found.role) && (!OidIsValid(any) || ga_function_aclcheck(any, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to cancel job %lld", (long long) job),
				 errdetail("It was queued by role \"%s\".", found.role),
				 errhint("Members of that role and of level admin may cancel it.")));
	PG_RETURN_BOOL(cancel(job, found.state));
}

PG_FUNCTION_INFO_V1(ga_cancel_any_job);
Datum
ga_cancel_any_job(PG_FUNCTION_ARGS)
{
	int64		job = job_argument(fcinfo);

	PG_RETURN_BOOL(cancel(job, look(job, CurrentMemoryContext).state));
}

/* ---- wait ---- */

/* End of a wait; DT_NOEND without limit. */
static TimestampTz
wait_end(FunctionCallInfo fcinfo)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz end;

	if (PG_ARGISNULL(1))
		return DT_NOEND;
	end = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), PG_GETARG_DATUM(1)));
	if (end < now)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("timeout must not be negative")));
	return end;
}

/* wait_for_job(job, timeout): its final state, NULL when the time was over before. */
PG_FUNCTION_INFO_V1(ga_wait_for_job);
Datum
ga_wait_for_job(PG_FUNCTION_ARGS)
{
	int64		job = job_argument(fcinfo);
	TimestampTz end = wait_end(fcinfo);
	JobState	found;
	long		left;
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "gpuagent wait", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);

	for (;;)
	{
		MemoryContextReset(scratch);
		ga_jobs_prepare_wait();
		found = look(job, scratch);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
		/* What a worker does when it has committed the end, as giving files their names, is done when it has let go. */
		if ((!is_open(found.state) && !ga_workers_has_job(MyDatabaseId, job)) || left <= 0)
			break;
		if (is_open(found.state) && TransactionIdIsCurrentTransactionId(found.xmin))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("job %lld was queued by this transaction", (long long) job),
					 errhint("Commit first: jobs start when the transaction that queued them has ended.")));
		ga_jobs_wait(Min(left, LOOK_MS));
	}
	ga_jobs_cancel_wait();
	MemoryContextSwitchTo(caller);
	if (is_open(found.state))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(found.state));
}
