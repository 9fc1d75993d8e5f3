/*
 * job_run.c
 *		The worker of jobs: takes one after the other until none is queued, and ends.
 *
 * Taking one up is a transaction, each part of it is one, and so is its end.
 * Which job a worker has is in the table of workers before the first of these is
 * committed, and until the last one is; a job whose row says that it runs, but
 * that no worker has, has lost its worker and is taken up again.
 *
 * SIGINT: the job is cancelled. SIGTERM: it is queued again, as if it had not been
 * taken up; a second one ends the process where it stands.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/guc.h"
#include "base/priority.h"
#include "base/progress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "worker/job.h"
#include "worker/worker.h"

/* Workers that have a job at a time in one database: more than there can be. */
#define MAX_RUNNING 1024

static MemoryContext of_job = NULL;	/* what a job needs from one transaction to the next */
static MemoryContext of_step = NULL;
static volatile sig_atomic_t in_step = false;

static void
terminate(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (ShutdownRequestPending)
		die(postgres_signal_arg);
	ShutdownRequestPending = true;
	if (in_step)
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

static void
begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	pgstat_report_activity(STATE_RUNNING, activity);
	MemoryContextSwitchTo(of_step);
}

static void
commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(of_step);
	MemoryContextReset(of_step);
}

/* As the owner of the table; NULL in nulls: none is. Rows are in SPI_tuptable. */
static uint64
execute(const char *sql, int n, Oid *types, Datum *values, const char *nulls, Snapshot snapshot)
{
	GaRoleScope scope = ga_worker_enter_role(ga_job_table_owner());
	SPIPlanPtr	plan = SPI_prepare(sql, n, types);
	int			result;

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	result = SPI_execute_snapshot(plan, values, nulls, snapshot, InvalidSnapshot, false, true, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(result));
	ga_worker_leave_role(scope);
	return SPI_processed;
}

/* ---- taking a job up ---- */

static char *
column_text(int n)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n);

	return value ? MemoryContextStrdup(of_job, value) : NULL;
}

static GaJob *
read_row(bool *more)
{
	GaJob	   *job = MemoryContextAllocZero(of_job, sizeof(GaJob));
	HeapTuple	row = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		value;

	job->job = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	job->kind = column_text(2);
	job->object = column_text(3);
	job->arguments = column_text(4);
	job->role = column_text(5);
	job->role_id = get_role_oid(job->role, true);
	job->carry = column_text(6);
	value = SPI_getbinval(row, desc, 7, &isnull);
	if (!isnull)
	{
		MemoryContext before = MemoryContextSwitchTo(of_job);

		job->signature = DatumGetByteaPCopy(value);
		MemoryContextSwitchTo(before);
	}
	job->attempts = DatumGetInt64(SPI_getbinval(row, desc, 8, &isnull));
	*more = DatumGetBool(SPI_getbinval(row, desc, 9, &isnull));
	return job;
}

static bool
is_listed(int64 job, const int64 *running, int n)
{
	for (int i = 0; i < n; i++)
		if (running[i] == job)
			return true;
	return false;
}

/*
 * Locks the first job that is queued or has lost its worker, and says in the row
 * that it runs; NULL when there is none. The list of running jobs may be older
 * than the row, so it is read again once the row is locked: who took the job up
 * was in the list before that was committed. *again: somebody was.
 */
static GaJob *
take_row(bool *more, bool *again)
{
	static const char sql[] =
		"WITH next AS MATERIALIZED (SELECT q.job FROM gpuagent_store.job q WHERE q.state IN ('queued', 'running') AND q.job <> ALL ($1)"
		" ORDER BY q.job LIMIT 1 FOR UPDATE SKIP LOCKED)"
		" UPDATE gpuagent_store.job j SET state = 'running', attempts = j.attempts + 1, started_at = pg_catalog.clock_timestamp()"
		" FROM next n WHERE j.job = n.job"
		" RETURNING j.job, j.kind, j.object, j.arguments, j.role, j.carry, j.signature, j.attempts,"
		" EXISTS (SELECT FROM gpuagent_store.job o WHERE o.state = 'queued' AND o.job > n.job)";
	Oid			types[] = {INT8ARRAYOID};
	int64	   *running = palloc(MAX_RUNNING * sizeof(int64));
	Datum	   *numbers = palloc(MAX_RUNNING * sizeof(Datum));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int			n = ga_workers_jobs(MyDatabaseId, running, MAX_RUNNING);
	Datum		value;
	GaJob	   *job = NULL;

	for (int i = 0; i < n; i++)
		numbers[i] = Int64GetDatum(running[i]);
	value = PointerGetDatum(construct_array(numbers, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (execute(sql, lengthof(types), types, &value, NULL, snapshot) > 0)
		job = read_row(more);
	UnregisterSnapshot(snapshot);
	if (job == NULL)
		return NULL;
	n = ga_workers_jobs(MyDatabaseId, running, MAX_RUNNING);
	*again = is_listed(job->job, running, n);
	return job;
}

static GaJob *
take(void)
{
	for (;;)
	{
		bool		more = false;
		bool		again = false;
		GaJob	   *job;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(of_job);
		begin("looking for jobs");
		if (ga_extension_state() != GA_FOUND_EXTENSION || !OidIsValid(ga_job_table_owner()))
		{
			commit();
			return NULL;
		}
		job = take_row(&more, &again);
		if (again)
		{
			SPI_finish();
			AbortCurrentTransaction();
			MemoryContextSwitchTo(of_step);
			MemoryContextReset(of_step);
			continue;
		}
		if (job)
			ga_worker_set_job(job->job);
		commit();
		if (more)
			ga_workers_queue(MyDatabaseId);
		return job;
	}
}

/* ---- its end ---- */

/*
 * The row's new state, in the current transaction; false when it does not run any more. error and result may be NULL;
 * carry is kept when the job is queued again.
 */
static bool
set_state(const GaJob *job, const char *state, const char *error, const char *result)
{
	static const char sql[] =
		"UPDATE gpuagent_store.job SET state = $2, error = $3, result = $4::pg_catalog.jsonb,"
		" carry = CASE WHEN $2 = 'queued' THEN carry END, signature = CASE WHEN $2 = 'queued' THEN signature END,"
		" attempts = attempts - CASE WHEN $2 = 'queued' AND $3 IS NULL THEN 1 ELSE 0 END,"
		" finished_at = CASE WHEN $2 <> 'queued' THEN pg_catalog.clock_timestamp() END"
		" WHERE job = $1 AND state = 'running' RETURNING " GA_JOB_PAYLOAD;
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {Int64GetDatum(job->job), CStringGetTextDatum(state), error ? CStringGetTextDatum(error) : (Datum) 0,
		result ? CStringGetTextDatum(result) : (Datum) 0};
	char		nulls[] = {' ', ' ', error ? ' ' : 'n', result ? ' ' : 'n'};

	if (execute(sql, lengthof(types), types, values, nulls, GetLatestSnapshot()) == 0)
		return false;
	if (strcmp(state, "queued") != 0)
		Async_Notify("gpuagent_job", SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	return true;
}

static void
end_job(const GaJob *job, const char *state, const char *error)
{
	begin("ending a job");
	(void) set_state(job, state, error, NULL);
	commit();
}

/* ---- its parts ---- */

static void
require_role(GaJob *job)
{
	if (!OidIsValid(job->role_id) || !SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(job->role_id)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", which queued the job, does not exist", job->role)));
	if (!job->verified && !ga_job_is_signed(job))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the job was not queued in this database by role \"%s\" as it is now", job->role),
				 errdetail("Its row was changed, came from another database, or the role was renamed or made anew."),
				 errhint("Queue it again.")));
	job->verified = true;
}

/* Calls the function of the job's kind with the rights of its role; text of what it returned. */
static char *
call(const GaJob *job)
{
	Oid			types[] = {INT8OID, TEXTOID, TEXTOID};
	Datum		values[] = {Int64GetDatum(job->job), CStringGetTextDatum(job->arguments), job->carry ? CStringGetTextDatum(job->carry) : (Datum) 0};
	char	   *sql = psprintf("SELECT gpuagent_store.%s($1, $2::pg_catalog.jsonb, $3::pg_catalog.jsonb)",
							   quote_identifier(psprintf("run_%s", job->kind)));
	GaRoleScope scope = ga_worker_enter_role(job->role_id);
	char	   *result;

	if (SPI_execute_with_args(sql, lengthof(types), types, values, job->carry ? NULL : "  n", false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "a part of a job of kind \"%s\" did not return a row", job->kind);
	result = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a part of a job of kind \"%s\" returned NULL", job->kind)));
	result = MemoryContextStrdup(of_step, result);
	ga_worker_leave_role(scope);
	return result;
}

/* Whether a part's result has a key that is true. */
static bool
says(const char *result, const char *key)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {CStringGetTextDatum(result), CStringGetTextDatum(key)};
	Datum		value;
	bool		isnull;

	if (SPI_execute_with_args("SELECT $1::pg_catalog.jsonb -> $2 = 'true'", lengthof(types), types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read what a job returned");
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	return !isnull && DatumGetBool(value);
}

static void
keep_carry(GaJob *job, const char *carry)
{
	Oid			types[] = {INT8OID, TEXTOID, BYTEAOID};
	Datum		values[3];
	char	   *old = job->carry;

	job->carry = MemoryContextStrdup(of_job, carry);
	values[0] = Int64GetDatum(job->job);
	values[1] = CStringGetTextDatum(carry);
	values[2] = PointerGetDatum(ga_job_sign(job));
	if (execute("UPDATE gpuagent_store.job SET carry = $2::pg_catalog.jsonb, signature = $3 WHERE job = $1 AND state = 'running'",
				lengthof(types), types, values, NULL, GetLatestSnapshot()) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("job %lld was cancelled or removed", (long long) job->job)));
	if (old)
		pfree(old);
}

/* A job that found nothing to do leaves no row, and nobody is told. */
static void
forget(const GaJob *job)
{
	Oid			types[] = {INT8OID};
	Datum		value = Int64GetDatum(job->job);

	(void) execute("DELETE FROM gpuagent_store.job WHERE job = $1 AND state = 'running'", lengthof(types), types, &value, NULL, GetLatestSnapshot());
}

/* A part in a transaction of its own; true when it was the last one. */
static bool
step(GaJob *job)
{
	char	   *result;
	bool		done;

	ga_priority_settle();
	begin(psprintf("job %lld: gpuagent_store.run_%s", (long long) job->job, job->kind));
	require_role(job);
	result = call(job);
	done = says(result, "done");
	if (!done)
		keep_carry(job, result);
	else if (says(result, "forget"))
		forget(job);
	else if (!set_state(job, "done", NULL, result))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("job %lld was cancelled or removed", (long long) job->job)));
	commit();
	return done;
}

static char *
error_text(const ErrorData *error)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s: %s", unpack_sql_state(error->sqlerrcode), error->message ? error->message : "");
	if (error->detail)
		appendStringInfo(&text, "\nDETAIL:  %s", error->detail);
	if (error->hint)
		appendStringInfo(&text, "\nHINT:  %s", error->hint);
	return text.data;
}

/* What becomes of a job whose part ended with an error. */
static void
after_error(const GaJob *job, const ErrorData *error)
{
	bool		passing = error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;

	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED && ShutdownRequestPending && !ga_worker_job_cancelled())
		end_job(job, "queued", NULL);
	else if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		end_job(job, "cancelled", NULL);
	else if (passing && job->attempts < GA_JOB_ATTEMPTS)
	{
		end_job(job, "queued", error_text(error));
		ga_workers_queue(MyDatabaseId);
	}
	else
		end_job(job, "failed", error_text(error));
}

/* Runs a job to its end, whatever that is. */
static void
run(GaJob *job)
{
	ErrorData  *volatile error = NULL;
	volatile bool done = false;

	ga_priority_lower(ga_job_nice);
	ga_progress_begin_job(job->job, job->kind, job->object);
	PG_TRY();
	{
		in_step = true;
		while (!done)
		{
			if (ShutdownRequestPending || ga_worker_job_cancelled())
				ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("job %lld is broken off", (long long) job->job)));
			done = step(job);
		}
		in_step = false;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		in_step = false;
		errcontext("job %lld, kind \"%s\"", (long long) job->job, job->kind);
		MemoryContextSwitchTo(of_job);
		error = CopyErrorData();
		EmitErrorReport();
		AbortCurrentTransaction();
		FlushErrorState();
		QueryCancelPending = false;
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	QueryCancelPending = false;
	MemoryContextSwitchTo(of_step);
	MemoryContextReset(of_step);
	if (error)
		after_error(job, error);
	ga_progress_end_job();
	LockReleaseSession(USER_LOCKMETHOD);	/* what a part has taken for those after it */
	ga_worker_set_job(0);
	QueryCancelPending = false; /* of somebody who came too late; from now on nobody does */
	ga_jobs_ended();
}

/* ---- the worker ---- */

static void
remove_old(void)
{
	begin("removing old jobs");
	if (OidIsValid(ga_job_table_owner()))
		(void) execute("DELETE FROM gpuagent_store.job WHERE state NOT IN ('queued', 'running')"
					   " AND finished_at < pg_catalog.now() - interval '7 days'", 0, NULL, NULL, NULL, GetLatestSnapshot());
	commit();
}

static void
prepare(Datum argument)
{
	Oid			database;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, StatementCancelHandler);
	pqsignal(SIGTERM, terminate);
	if (!ga_worker_attach(argument, &database))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	ga_worker_override_settings("gpuagent job");
	of_job = AllocSetContextCreate(TopMemoryContext, "gpuagent job", ALLOCSET_DEFAULT_SIZES);
	of_step = AllocSetContextCreate(TopMemoryContext, "gpuagent job step", ALLOCSET_DEFAULT_SIZES);
}

void
ga_job_main(Datum argument)
{
	GaJob	   *job;

	prepare(argument);
	while (!ShutdownRequestPending && (job = take()) != NULL)
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (job->attempts > GA_JOB_ATTEMPTS)
		{
			end_job(job, "failed", psprintf("its worker ended %d times before the job did", GA_JOB_ATTEMPTS));
			ga_worker_set_job(0);
			ga_jobs_ended();
		}
		else
			run(job);
	}
	if (!ShutdownRequestPending)
		remove_old();
	ga_worker_leave(ShutdownRequestPending ? GA_FOUND_STOP : GA_FOUND_EXTENSION);
	proc_exit(0);
}
