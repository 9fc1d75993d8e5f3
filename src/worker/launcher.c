/*
 * launcher.c
 *		The launcher: a background worker on the shared catalogs that sees to it
 *		that each database with the extension has its maintenance worker.
 *
 * Whether a database has the extension can only be seen inside of it. A probe,
 * a process that lives for some milliseconds, looks into databases that are new
 * or where something changed (watch.c notices), one after the other.
 */
#include "base/compat.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/guc.h"
#include "checkpoint/tree.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
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
#include "utils/timestamp.h"
#include "worker/worker.h"

/* After failures a process is started again after 1 s, 2 s, ... up to this. */
#define LONGEST_DELAY_MS 300000

/* A database without the extension is probed again after. */
#define LOOK_STANDBY_MS 300000
#define LOOK_PRIMARY_MS 3600000

/* Jobs are looked for without anybody's notice after: some were committed by COMMIT PREPARED, and old ones are removed. */
#define LOOK_JOBS_MS 300000

/* A worker that ran this long does not count as failing. */
#define GOOD_RUN_MS 60000

typedef struct Known
{
	Oid			database;		/* hash key */
	char		name[NAMEDATALEN];
	bool		listed;			/* by the last scan */
	GaFinding	state;			/* GA_FOUND_NOTHING: to be probed */
	bool		noticed;		/* changed while a process looked at it */
	bool		waiting;		/* for others, until `due` or something is let go */
	TimestampTz due;			/* next probe or start; DT_NOEND: when something changes */
	int			delay;			/* ms after the last failure; 0: none */
	int			slot;			/* of its worker; -1: none */
	TimestampTz started;
	TimestampTz jobs_due;		/* next look for jobs; DT_NOEND: when one is queued */
	int			jobs_delay;		/* ms after the last failure; 0: none */
	bool		jobs_queued;	/* somebody said so; else it is only a look */
	bool		jobs_waiting;	/* no process was free for queued ones */
} Known;

static HTAB *known = NULL;
static int	probe_slot = -1;
static Oid	probed = InvalidOid;
static BackgroundWorkerHandle **handles = NULL; /* by slot; NULL: started by a predecessor */
static bool standby = false;
static int	lookers = 0;		/* workers of jobs that have none so far */
static int	told = 0;			/* shortages that the log knows of, GaShortage bits */

static Known *
lookup(Oid database)
{
	return hash_search(known, &database, HASH_FIND, NULL);
}

static void
due_after(Known *db, int milliseconds)
{
	db->due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
}

static void
back_off(Known *db)
{
	db->delay = Min(Max(db->delay * 2, 1000), LONGEST_DELAY_MS);
	due_after(db, db->delay);
}

/* Somebody queued jobs, or left some. A worker looks for them at once, unless one that failed is to be given a pause. */
static void
jobs_soon(Known *db)
{
	db->jobs_queued = true;
	if (db->jobs_delay == 0)
		db->jobs_due = 0;
}

static void
probe_soon(Known *db)
{
	db->state = GA_FOUND_NOTHING;
	db->noticed = false;
	db->due = 0;
	db->delay = 0;
}

/* Reads pg_database: those that allow connections and are not half dropped. */
static void
scan_databases(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	HASH_SEQ_STATUS all;
	Known	   *db;

	hash_seq_init(&all, known);
	while ((db = hash_seq_search(&all)) != NULL)
		db->listed = false;

	pgstat_report_activity(STATE_RUNNING, "looking for databases");
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database row = (Form_pg_database) GETSTRUCT(tuple);
		bool		found;

		/* A DROP DATABASE that was interrupted leaves -2. */
		if (!row->datallowconn || row->datconnlimit == -2)
			continue;
		db = hash_search(known, &row->oid, HASH_ENTER, &found);
		if (!found)
		{
			memset((char *) db + sizeof(Oid), 0, sizeof(Known) - sizeof(Oid));
			db->slot = -1;
		}
		strlcpy(db->name, NameStr(row->datname), NAMEDATALEN);
		db->listed = true;
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);

	hash_seq_init(&all, known);
	while ((db = hash_seq_search(&all)) != NULL)
		if (!db->listed && db->slot >= 0)
			ga_worker_stop(db->slot);
}

/* Slots of a predecessor that was not there to see its workers end. */
static void
adopt(void)
{
	for (int slot = 0; slot < ga_worker_slots(); slot++)
	{
		GaWorkerKind kind;
		Oid			database;
		Known	   *db;

		if (!ga_worker_slot(slot, &kind, &database))
			continue;
		if (kind == GA_WORKER_PROBE)
		{
			probe_slot = slot;
			probed = database;
		}
		else if (kind == GA_WORKER_JOB)
			continue;
		else if ((db = lookup(database)) != NULL)
		{
			db->state = GA_FOUND_EXTENSION;
			db->slot = slot;
			db->started = GetCurrentTimestamp();
		}
		else
			ga_worker_stop(slot);
	}
}

static void
log_shortage(GaShortage shortage, const Known *db)
{
	if (told & shortage)
		return;
	told |= shortage;
	if (shortage == GA_SHORT_DATABASES)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("gpuagent: database \"%s\" gets no maintenance worker: %d databases have one", db->name, ga_max_databases),
				 errhint("Increase \"gpuagent.max_databases\".")));
	else
		ereport(LOG,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("gpuagent: no background worker is free for database \"%s\"", db->name),
				 errhint("Increase \"max_worker_processes\".")));
}

/* Asks the postmaster for a process; false when it has none to give. */
static bool
start_process(int slot, GaWorkerKind kind)
{
	static const char *const names[][2] = {
		[GA_WORKER_PROBE] = {"gpuagent probe", "ga_probe_main"},
		[GA_WORKER_MAINTENANCE] = {"gpuagent maintenance", "ga_maintenance_main"},
		[GA_WORKER_JOB] = {"gpuagent job", "ga_job_main"},
	};
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ga_worker_argument(slot);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "gpuagent", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, names[kind][1], BGW_MAXLEN);
	strlcpy(worker.bgw_name, names[kind][0], BGW_MAXLEN);
	strlcpy(worker.bgw_type, names[kind][0], BGW_MAXLEN);
	return RegisterDynamicBackgroundWorker(&worker, &handles[slot]);
}

/* Takes a slot and a process for a database; -1 when it has to wait. */
static int
start(Known *db, GaWorkerKind kind)
{
	bool		held;
	int			slot = ga_worker_reserve(kind, db->database, &held);
	GaFinding	finding;

	if (slot >= 0 && start_process(slot, kind))
	{
		db->waiting = false;
		return slot;
	}
	if (slot >= 0)
	{
		(void) ga_worker_harvest(slot, true, &finding);
		log_shortage(GA_SHORT_PROCESSES, db);
	}
	else if (!held)
		log_shortage(GA_SHORT_DATABASES, db);
	db->waiting = true;
	due_after(db, ga_launcher_interval * 1000);
	return -1;
}

/* True when the process of a slot has ended or will not come; the slot is free then. */
static bool
is_over(int slot, GaFinding *finding)
{
	pid_t		pid;
	bool		gone = handles[slot] && GetBackgroundWorkerPid(handles[slot], &pid) == BGWH_STOPPED;

	if (!ga_worker_harvest(slot, gone, finding))
		return false;
	if (handles[slot])
		pfree(handles[slot]);
	handles[slot] = NULL;
	return true;
}

/*
 * One more worker for jobs. Without a slot the database waits for the end of
 * another worker, or until it is let go: either wakes the launcher.
 */
static void
start_job_worker(Known *db)
{
	bool		held;
	int			slot = ga_worker_reserve(GA_WORKER_JOB, db->database, &held);
	GaFinding	finding;

	if (slot < 0)
		return;
	if (start_process(slot, GA_WORKER_JOB))
	{
		lookers++;
		db->jobs_queued = db->jobs_waiting = false;
		db->jobs_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_JOBS_MS);
		return;
	}
	(void) ga_worker_harvest(slot, true, &finding);
	db->jobs_waiting = db->jobs_queued;
	if (db->jobs_queued)
		log_shortage(GA_SHORT_PROCESSES, db);
	db->jobs_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ga_launcher_interval * 1000);
}

/* What is known of a database now holds until somebody notices a change. */
static void
settle(Known *db, GaFinding finding)
{
	db->state = finding;
	db->delay = 0;
	if (db->noticed)
		probe_soon(db);
	else if (finding == GA_FOUND_EXTENSION)
	{
		db->due = 0;
		db->jobs_due = 0;
	}
	else						/* nobody notices what is replayed on a standby, nor COMMIT PREPARED */
		due_after(db, standby ? LOOK_STANDBY_MS : LOOK_PRIMARY_MS);
}

static void
settle_probe(void)
{
	GaFinding	finding;
	Known	   *db;

	if (probe_slot < 0 || !is_over(probe_slot, &finding))
		return;
	probe_slot = -1;
	db = lookup(probed);
	if (db == NULL)
		return;
	if (finding == GA_FOUND_STOP)
		probe_soon(db);
	else if (finding == GA_FOUND_NOTHING)
		back_off(db);
	else
		settle(db, finding);
}

/* True when a worker has ended. */
static bool
settle_worker(Known *db)
{
	GaFinding	finding;

	if (db->slot < 0 || !is_over(db->slot, &finding))
		return false;
	db->slot = -1;
	if (finding == GA_FOUND_STOP)
	{
		db->due = 0;
		db->delay = 0;
	}
	else if (finding != GA_FOUND_NOTHING)
		settle(db, finding);
	else
	{
		if (GetCurrentTimestamp() - db->started > GOOD_RUN_MS * INT64CONST(1000))
			db->delay = 0;
		back_off(db);
	}
	return true;
}

/* Workers of jobs that have ended, and those of databases that are not served any more; true when one has ended. */
static bool
settle_job_workers(void)
{
	bool		ended = false;

	lookers = 0;
	for (int slot = 0; slot < ga_worker_slots(); slot++)
	{
		GaWorkerKind kind;
		GaFinding	finding;
		Oid			database;
		Known	   *db;

		if (!ga_worker_slot(slot, &kind, &database) || kind != GA_WORKER_JOB)
			continue;
		db = lookup(database);
		if (!is_over(slot, &finding))
		{
			lookers += !ga_worker_has_job(slot);
			if (db == NULL || !db->listed)
				ga_worker_stop(slot);
			continue;
		}
		ended = true;
		if (db == NULL)
			continue;
		if (finding == GA_FOUND_NOTHING)	/* it failed */
		{
			db->jobs_delay = Min(Max(db->jobs_delay * 2, 1000), LONGEST_DELAY_MS);
			db->jobs_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), db->jobs_delay);
			continue;
		}
		db->jobs_delay = 0;
		if (finding == GA_FOUND_STOP)
			jobs_soon(db);
	}
	return ended;
}

static void
take_queued(void)
{
	bool		all = true;
	Oid			database;
	HASH_SEQ_STATUS each;
	Known	   *db;

	for (;;)
	{
		database = ga_workers_queued(&all);
		if (all)
		{
			hash_seq_init(&each, known);
			while ((db = hash_seq_search(&each)) != NULL)
				db->jobs_due = 0;
		}
		if (!OidIsValid(database))
			break;
		if ((db = lookup(database)) != NULL)
			jobs_soon(db);
	}
}

/* What sessions noticed. */
static bool
take_notices(void)
{
	Oid			changed[64];
	bool		all,
				rescan;
	int			n = ga_workers_noticed(changed, lengthof(changed), &all, &rescan);
	HASH_SEQ_STATUS each;
	Known	   *db;

	for (int i = 0; i < n; i++)
	{
		db = lookup(changed[i]);
		if (db == NULL)
			rescan = true;
		else if (db->slot >= 0 || (probe_slot >= 0 && probed == changed[i]))
			db->noticed = true;
		else
			probe_soon(db);
	}
	hash_seq_init(&each, known);
	while ((db = hash_seq_search(&each)) != NULL)
	{
		if (all && db->slot < 0)
			probe_soon(db);
		if (rescan && db->waiting)
			db->due = 0;
	}
	return rescan || all;
}

static bool
wants_worker(const Known *db)
{
	return db->listed && db->slot < 0 && db->state == GA_FOUND_EXTENSION;
}

static bool
wants_probe(const Known *db)
{
	return db->listed && db->slot < 0 && db->state != GA_FOUND_EXTENSION;
}

static bool
may_have_jobs(const Known *db)
{
	return ga_max_jobs > 0 && !standby && db->listed && db->state == GA_FOUND_EXTENSION;
}

/* Those who only look do so one after the other: processes are few. */
static bool
wants_job_worker(const Known *db)
{
	return may_have_jobs(db) && (db->jobs_queued || lookers == 0);
}

/* Starts what is due and gives the time of what is due next. */
static TimestampTz
start_due(void)
{
	HASH_SEQ_STATUS each;
	Known	   *db;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	int			without = 0;

	hash_seq_init(&each, known);
	while ((db = hash_seq_search(&each)) != NULL)
	{
		if (wants_worker(db) && db->due <= now)
		{
			db->slot = start(db, GA_WORKER_MAINTENANCE);
			db->started = now;
		}
		else if (wants_probe(db) && db->due <= now && probe_slot < 0)
		{
			probe_slot = start(db, GA_WORKER_PROBE);
			probed = db->database;
		}
		without += db->jobs_waiting || wants_worker(db) || (wants_probe(db) && db->waiting);
		if (wants_worker(db) || (wants_probe(db) && probe_slot < 0))
			next = Min(next, db->due);
	}
	/* Jobs last: a look for them takes no process that a database needs to be served. */
	hash_seq_init(&each, known);
	while ((db = hash_seq_search(&each)) != NULL)
	{
		if (wants_job_worker(db) && db->jobs_due <= now)
			start_job_worker(db);
		if (may_have_jobs(db) && db->jobs_due > now)
			next = Min(next, db->jobs_due);
	}
	if (without == 0)
		told = 0;
	ga_workers_report(told);
	return next;
}

/* Settles what has ended, and starts what is due. */
static TimestampTz
work(void)
{
	HASH_SEQ_STATUS each;
	Known	   *db;
	bool		ended = false;
	bool		freed;

	settle_probe();
	take_queued();
	freed = settle_job_workers();
	hash_seq_init(&each, known);
	while ((db = hash_seq_search(&each)) != NULL)
	{
		ended |= settle_worker(db);
		if (!db->listed && db->slot < 0)
			hash_search(known, &db->database, HASH_REMOVE, NULL);
	}
	if (ended)
		scan_databases();		/* the worker may have gone because its database went */
	if (ended || freed)
	{
		hash_seq_init(&each, known);
		while ((db = hash_seq_search(&each)) != NULL)
			if (db->waiting)
				db->due = 0;
	}
	return start_due();
}

/* A standby that was promoted: what came by replay was noticed by nobody. */
static void
note_promotion(void)
{
	HASH_SEQ_STATUS each;
	Known	   *db;

	if (!standby || RecoveryInProgress())
		return;
	standby = false;
	hash_seq_init(&each, known);
	while ((db = hash_seq_search(&each)) != NULL)
	{
		db->jobs_due = 0;
		if (db->slot < 0)
			probe_soon(db);
	}
}

static void
prepare(void)
{
	HASHCTL		info = {.keysize = sizeof(Oid), .entrysize = sizeof(Known)};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	MemoryContextSwitchTo(TopMemoryContext);
	known = hash_create("gpuagent databases", 64, &info, HASH_ELEM | HASH_BLOBS);
	handles = palloc0(ga_worker_slots() * sizeof(*handles));
	standby = RecoveryInProgress();
	ga_workers_launch();
}

void
ga_launcher_main(Datum argument)
{
	TimestampTz next_scan = 0;
	uint32		wait_event;
	bool		adopted = false;

	prepare();
	wait_event = ga_wait_event("GpuAgentLauncherMain");
	while (!ShutdownRequestPending)
	{
		TimestampTz next;
		TimestampTz now;

		CHECK_FOR_INTERRUPTS();
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			next_scan = 0;
		}
		note_promotion();
		ga_tree_claim();
		if (take_notices() || GetCurrentTimestamp() >= next_scan)
		{
			scan_databases();
			next_scan = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ga_launcher_interval * INT64CONST(1000));
		}
		if (!adopted)
			adopt();
		adopted = true;
		next = Min(work(), next_scan);
		now = GetCurrentTimestamp();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 next <= now ? 0 : TimestampDifferenceMilliseconds(now, next) + 1, wait_event);
		ResetLatch(MyLatch);
	}
	proc_exit(1);				/* to be started again, unless the server stops */
}

void
ga_launcher_register(void)
{
	BackgroundWorker worker = {0};

	ga_watch_install();
	if (IsBinaryUpgrade || ga_max_databases == 0)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "gpuagent", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "ga_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "gpuagent launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "gpuagent launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
