/*
 * maintenance.c
 *		The maintenance worker of a database: runs the tasks of tasks.c when they
 *		are due, and sleeps without a snapshot or transaction between them.
 *
 * It runs as the bootstrap superuser, but no task does: see GaTask.
 *
 * SIGTERM: a task that runs is cancelled, then what is to be saved at exit is
 * saved, and the process ends; at once when somebody waits for the database, and
 * nobody else's second SIGTERM breaks the saving off.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/guc.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker/worker.h"

#define LONGEST_DELAY_MS 300000

#define MAX_TASKS 16

typedef struct Schedule
{
	TimestampTz due;
	int			delay;			/* ms after the last failure; 0: none */
	bool		done;			/* of those that run once */
} Schedule;

static Schedule schedule[MAX_TASKS];

/* What a signal to end breaks off. In between it waits for the end of the loop. */
enum
{
	BREAKS_NOTHING, BREAKS_TASK, BREAKS_PROCESS
};

static volatile sig_atomic_t breakable = BREAKS_PROCESS;
static volatile sig_atomic_t at_exit = false;	/* saves what is to be saved at exit */

/* The postmaster signals a child and then its process group, so whoever is quick gets the same SIGTERM twice. */

static void
terminate(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (at_exit && !ga_worker_hurry())
		return;
	ShutdownRequestPending = true;
	if (breakable == BREAKS_PROCESS)
		die(postgres_signal_arg);
	else if (breakable == BREAKS_TASK)
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/* The owner of the task's tables; InvalidOid when one does not exist. */
static Oid
tables_owner(const GaTask *task)
{
	Oid			schema = get_namespace_oid("gpuagent", true);
	Oid			owner = InvalidOid;

	for (int i = 0; i < GA_TASK_TABLES && task->tables[i]; i++)
	{
		HeapTuple	tuple = SearchSysCache2(RELNAMENSP, PointerGetDatum(task->tables[i]), ObjectIdGetDatum(schema));
		Oid			of_table;

		if (!HeapTupleIsValid(tuple))
			return InvalidOid;
		of_table = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
		if (OidIsValid(owner) && owner != of_table)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("tables \"%s\" and \"%s\" have different owners", task->tables[0], task->tables[i]),
					 errdetail("Maintenance runs as the owner of both."),
					 errhint("Give them one owner with ALTER TABLE ... OWNER TO.")));
		owner = of_table;
	}
	return owner;
}

static bool
function_exists(const char *name)
{
	List	   *parts = list_make2(makeString("gpuagent_store"), makeString(pstrdup(name)));

	return OidIsValid(LookupFuncName(parts, 0, NULL, true));
}

/* Calls the function as the tables' owner, in the current transaction. */
static void
call(const char *query, Oid owner)
{
	GaRoleScope scope = ga_worker_enter_role(owner);
	int			result;

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	result = SPI_execute(query, false, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(result));
	PopActiveSnapshot();
	SPI_finish();
	ga_worker_leave_role(scope);
}

static void
run_in_transaction(const GaTask *task, const char *query)
{
	Oid			owner;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	owner = tables_owner(task);
	if (OidIsValid(owner) && function_exists(task->function))
	{
		pgstat_report_activity(STATE_RUNNING, query);
		call(query, owner);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
}

static void
set_due(int number, bool failed)
{
	const GaTask *task = &ga_tasks[number];
	Schedule   *s = &schedule[number];
	int			interval = task->interval();

	s->delay = failed ? Min(Max(s->delay * 2, Max(interval, 1000)), LONGEST_DELAY_MS) : 0;
	s->due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), failed ? s->delay : interval);
}

/* Logs what made a task fail, unless it was the signal to end, and ends its transaction. */
static void
give_up(const GaTask *task)
{
	HOLD_INTERRUPTS();
	if (!ShutdownRequestPending || geterrcode() != ERRCODE_QUERY_CANCELED)
	{
		errcontext("maintenance task \"%s\"", task->function);
		EmitErrorReport();
	}
	AbortCurrentTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
}

/* A failure is logged and costs this task a pause. */
static void
run(int number)
{
	const GaTask *task = &ga_tasks[number];
	MemoryContext context = CurrentMemoryContext;
	char		query[NAMEDATALEN * 3];
	volatile bool failed = false;

	snprintf(query, sizeof(query), "SELECT gpuagent_store.%s()", task->function);
	breakable = BREAKS_TASK;
	if (!ShutdownRequestPending || task->at_exit)
	{
		PG_TRY();
		{
			run_in_transaction(task, query);
		}
		PG_CATCH();
		{
			give_up(task);
			failed = true;
		}
		PG_END_TRY();
	}
	breakable = BREAKS_NOTHING;
	QueryCancelPending = false;
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(context);
	MemoryContextReset(context);
	set_due(number, failed);
	schedule[number].done = task->interval() == 0 && !failed;
}

/* Runs what is due; the time until something is due next. */
static long
run_due(void)
{
	long		wait = ga_launcher_interval * 1000L;

	for (int i = 0; i < ga_ntasks && !ShutdownRequestPending; i++)
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		standby = RecoveryInProgress();

		if (schedule[i].done || (standby && !ga_tasks[i].on_standby))
			continue;
		if (ga_tasks[i].wanted && !ga_tasks[i].wanted())
			continue;
		if (schedule[i].due <= now)
			run(i);
		if (!schedule[i].done)
			wait = Min(wait, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), schedule[i].due));
	}
	return wait;
}

/* What is saved when the worker ends and nobody waits for it. */
static void
run_at_exit(void)
{
	at_exit = true;
	ShutdownRequestPending = false;	/* who waits for the database breaks it off */
	for (int i = 0; i < ga_ntasks && !ShutdownRequestPending && !ga_worker_hurry(); i++)
		if (ga_tasks[i].at_exit && !RecoveryInProgress())
			run(i);
}

/* Ends the process when the extension is gone or was updated beyond this library. */
static void
look_again(void)
{
	MemoryContext context = CurrentMemoryContext;
	GaFinding	finding;

	breakable = BREAKS_PROCESS;
	StartTransactionCommand();
	finding = ga_extension_state();
	CommitTransactionCommand();
	breakable = BREAKS_NOTHING;
	MemoryContextSwitchTo(context);
	if (finding == GA_FOUND_EXTENSION)
		return;
	ga_worker_leave(finding);
	proc_exit(0);
}

static void
prepare(Datum argument)
{
	Oid			database;

	Assert(ga_ntasks <= MAX_TASKS);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, terminate);
	if (!ga_worker_attach(argument, &database))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	ga_worker_override_settings("gpuagent maintenance");
	for (int i = 0; i < ga_ntasks; i++)
		set_due(i, false);
	MemoryContextSwitchTo(AllocSetContextCreate(TopMemoryContext, "gpuagent maintenance", ALLOCSET_DEFAULT_SIZES));
	pgstat_report_activity(STATE_IDLE, NULL);
	look_again();
}

void
ga_maintenance_main(Datum argument)
{
	uint32		wait_event;

	prepare(argument);
	wait_event = ga_wait_event("GpuAgentMaintenanceMain");
	while (!ShutdownRequestPending)
	{
		long		wait;

		CHECK_FOR_INTERRUPTS();
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			for (int i = 0; i < ga_ntasks; i++)
				if (schedule[i].delay == 0 && !schedule[i].done)
					set_due(i, false);
		}
		if (ga_worker_look_again())
			look_again();
		wait = run_due();
		if (ShutdownRequestPending)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, wait, wait_event);
		ResetLatch(MyLatch);
	}
	if (!ga_worker_hurry())
		run_at_exit();
	proc_exit(0);
}
