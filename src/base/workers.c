/*
 * workers.c
 *		The table of background workers in shared memory (workers.h).
 */
#include "base/compat.h"

#include <signal.h>

#include "base/guc.h"
#include "base/shared.h"
#include "base/workers.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

/* Longest wait for workers to go; then the statement that wants the database decides for itself. */
#define HOLD_WAIT_MS 10000

#define NOTICES 64

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_RESERVED,
	SLOT_RUNNING,
	SLOT_ENDED
} SlotState;

typedef struct WorkerSlot
{
	SlotState	state;
	GaWorkerKind kind;
	uint32		generation;		/* counts reservations, so that a late process does not take another's slot */
	Oid			database;
	int			pid;
	PGPROC	   *proc;
	bool		stop;
	bool		hurry;
	bool		look_again;
	bool		facts;			/* of peers arrived */
	GaFinding	finding;
	int64		job;			/* that it runs; 0: none */
	bool		cancel;			/* that job */
} WorkerSlot;

typedef struct WorkerTable
{
	PGPROC	   *launcher;
	ConditionVariable ended;	/* a process has ended its slot */
	int			shortage;
	bool		all;			/* more notices than remembered */
	bool		rescan;
	int			nnotices;
	Oid			notices[NOTICES];
	ConditionVariable job_ended;
	bool		all_queued;		/* jobs in more databases than remembered */
	int			nqueued;
	Oid			queued[NOTICES];
	int			nslots;
	WorkerSlot	slots[FLEXIBLE_ARRAY_MEMBER];	/* then Oid held[ga_process_slots()] */
} WorkerTable;

static WorkerTable *table = NULL;
static LWLockPadded *locks = NULL;
static int	my_slot = -1;
static bool release_at_exit = false;

#define table_lock (&locks[0].lock)

/* The first slot is the probe's (databases are looked at one after the other), then those of maintenance, then jobs. */
static int
first_slot(GaWorkerKind kind)
{
	return kind == GA_WORKER_PROBE ? 0 : kind == GA_WORKER_MAINTENANCE ? 1 : ga_max_databases + 1;
}

static int
slot_count(void)
{
	return first_slot(GA_WORKER_JOB) + ga_max_jobs;
}

static Size
slots_size(void)
{
	return add_size(offsetof(WorkerTable, slots), mul_size(slot_count(), sizeof(WorkerSlot)));
}

static Size
table_size(void)
{
	return add_size(slots_size(), mul_size(ga_process_slots(), sizeof(Oid)));
}

/* Database that each process number holds. */
static Oid *
held(void)
{
	return (Oid *) ((char *) table + slots_size());
}

static int
one_lock(void)
{
	return 1;
}

static void
init_table(void *area)
{
	WorkerTable *new_table = area;

	new_table->nslots = slot_count();
	ConditionVariableInit(&new_table->ended);
	ConditionVariableInit(&new_table->job_ended);
}

void
ga_workers_register(void)
{
	static const GaSharedArea area = {"gpuagent workers", table_size, one_lock, init_table, (void **) &table, &locks};

	ga_shared_register(&area);
}

/* The caller holds the lock. */
static void
wake_launcher(void)
{
	if (table->launcher)
		SetLatch(&table->launcher->procLatch);
}

static bool
is_held(Oid database)
{
	Oid		   *holds = held();

	for (int i = 0; i < ga_process_slots(); i++)
		if (holds[i] == database)
			return true;
	return false;
}

/* ---- the launcher ---- */

static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	if (table->launcher == MyProc)
		table->launcher = NULL;
	LWLockRelease(table_lock);
}

void
ga_workers_launch(void)
{
	before_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	table->launcher = MyProc;
	table->nnotices = 0;
	table->all = table->rescan = table->all_queued = true;
	table->shortage = 0;
	for (int i = 0; i < table->nslots; i++)
		if (table->slots[i].state == SLOT_RESERVED)
		{
			table->slots[i].generation++;
			table->slots[i].state = SLOT_FREE;
		}
	LWLockRelease(table_lock);
}

int
ga_worker_reserve(GaWorkerKind kind, Oid database, bool *was_held)
{
	int			found = -1;
	int			first = first_slot(kind);
	int			end = kind == GA_WORKER_JOB ? table->nslots : first_slot(kind + 1);

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	*was_held = is_held(database);
	for (int i = first; i < end && !*was_held && found < 0; i++)
		if (table->slots[i].state == SLOT_FREE)
		{
			uint32		generation = table->slots[i].generation + 1;

			table->slots[i] = (WorkerSlot) {.state = SLOT_RESERVED, .kind = kind, .generation = generation, .database = database};
			found = i;
		}
	LWLockRelease(table_lock);
	return found;
}

Datum
ga_worker_argument(int slot)
{
	return UInt64GetDatum((uint64) table->slots[slot].generation << 32 | (uint32) slot);
}

bool
ga_worker_harvest(int number, bool gone, GaFinding *finding)
{
	WorkerSlot *slot = &table->slots[number];
	bool		over;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	over = slot->state == SLOT_ENDED || (gone && slot->state == SLOT_RESERVED);
	if (over)
	{
		*finding = slot->finding == GA_FOUND_NOTHING && slot->stop ? GA_FOUND_STOP : slot->finding;
		slot->generation++;
		slot->state = SLOT_FREE;
	}
	LWLockRelease(table_lock);
	return over;
}

bool
ga_worker_slot(int slot, GaWorkerKind *kind, Oid *database)
{
	bool		used;

	LWLockAcquire(table_lock, LW_SHARED);
	used = table->slots[slot].state != SLOT_FREE;
	*kind = table->slots[slot].kind;
	*database = table->slots[slot].database;
	LWLockRelease(table_lock);
	return used;
}

int
ga_worker_slots(void)
{
	return table->nslots;
}

bool
ga_worker_has_job(int slot)
{
	return table->slots[slot].job != 0;
}

/* The caller holds the lock. A pid belongs to its slot until the process has ended it. */
static void
stop_slot(WorkerSlot *slot, bool hurry)
{
	if (slot->state != SLOT_RESERVED && slot->state != SLOT_RUNNING)
		return;
	slot->stop = true;
	slot->hurry |= hurry;
	if (slot->state == SLOT_RUNNING)
		kill(slot->pid, SIGTERM);
}

void
ga_worker_stop(int slot)
{
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	stop_slot(&table->slots[slot], false);
	LWLockRelease(table_lock);
}

int
ga_workers_noticed(Oid *databases, int max, bool *all, bool *rescan)
{
	int			n;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	n = Min(table->nnotices, max);
	memcpy(databases, table->notices, n * sizeof(Oid));
	*all = table->all || table->nnotices > max;
	*rescan = table->rescan;
	table->nnotices = 0;
	table->all = table->rescan = false;
	LWLockRelease(table_lock);
	return n;
}

void
ga_workers_report(int shortage)
{
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	table->shortage = shortage;
	LWLockRelease(table_lock);
}

Oid
ga_workers_queued(bool *all)
{
	Oid			result = InvalidOid;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	*all = table->all_queued;
	table->all_queued = false;
	if (table->nqueued > 0)
		result = table->queued[--table->nqueued];
	LWLockRelease(table_lock);
	return result;
}

/* ---- the workers ---- */

/*
 * Runs after the process has left the list of the server's processes: callbacks
 * run in reverse order, and this one was registered before the connection was made.
 */
static void
worker_exit(int code, Datum arg)
{
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	table->slots[my_slot].state = SLOT_ENDED;
	table->slots[my_slot].pid = 0;
	table->slots[my_slot].proc = NULL;
	table->slots[my_slot].job = 0;
	wake_launcher();
	LWLockRelease(table_lock);
	ConditionVariableBroadcast(&table->ended);
}

bool
ga_worker_attach(Datum argument, Oid *database)
{
	uint64		value = DatumGetUInt64(argument);
	int			number = (int) (value & 0xffffffff);
	WorkerSlot *slot = &table->slots[number];
	bool		wanted;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	wanted = slot->state == SLOT_RESERVED && slot->generation == (uint32) (value >> 32) && !slot->stop && !is_held(slot->database);
	if (wanted)
	{
		slot->state = SLOT_RUNNING;
		slot->pid = MyProcPid;
		slot->proc = MyProc;
		*database = slot->database;
		my_slot = number;
	}
	LWLockRelease(table_lock);
	if (wanted)
		on_shmem_exit(worker_exit, (Datum) 0);
	return wanted;
}

void
ga_worker_leave(GaFinding finding)
{
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	table->slots[my_slot].finding = finding;
	LWLockRelease(table_lock);
}

bool
ga_worker_look_again(void)
{
	bool		result;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	result = table->slots[my_slot].look_again;
	table->slots[my_slot].look_again = false;
	LWLockRelease(table_lock);
	return result;
}

bool
ga_worker_take_facts(void)
{
	bool		result;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	result = table->slots[my_slot].facts;
	table->slots[my_slot].facts = false;
	LWLockRelease(table_lock);
	return result;
}

bool
ga_worker_hurry(void)
{
	return table->slots[my_slot].hurry;
}

void
ga_worker_set_job(int64 job)
{
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	table->slots[my_slot].job = job;
	table->slots[my_slot].cancel = false;
	wake_launcher();			/* another one may look now */
	LWLockRelease(table_lock);
}

bool
ga_worker_job_cancelled(void)
{
	return table->slots[my_slot].cancel;
}

int
ga_workers_jobs(Oid database, int64 *jobs, int max)
{
	int			n = 0;

	LWLockAcquire(table_lock, LW_SHARED);
	for (int i = first_slot(GA_WORKER_JOB); i < table->nslots && n < max; i++)
		if (table->slots[i].state == SLOT_RUNNING && table->slots[i].job != 0 && table->slots[i].database == database)
			jobs[n++] = table->slots[i].job;
	LWLockRelease(table_lock);
	return n;
}

bool
ga_workers_has_job(Oid database, int64 job)
{
	bool		found = false;

	if (table == NULL)
		return false;
	LWLockAcquire(table_lock, LW_SHARED);
	for (int i = first_slot(GA_WORKER_JOB); i < table->nslots; i++)
		found |= table->slots[i].state == SLOT_RUNNING && table->slots[i].job == job && table->slots[i].database == database;
	LWLockRelease(table_lock);
	return found;
}

/* ---- backends ---- */

void
ga_workers_release(void)
{
	Oid		   *mine;

	if (table == NULL || MyProc == NULL)
		return;
	mine = &held()[ga_process_number()];
	if (!OidIsValid(*mine))
		return;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	*mine = InvalidOid;
	table->rescan = true;
	wake_launcher();
	LWLockRelease(table_lock);
}

static void
release_on_exit(int code, Datum arg)
{
	ga_workers_release();
}

void
ga_workers_hold(Oid database)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HOLD_WAIT_MS);

	if (table == NULL)
		return;
	if (!release_at_exit)
	{
		before_shmem_exit(release_on_exit, (Datum) 0);
		release_at_exit = true;
	}
	ConditionVariablePrepareToSleep(&table->ended);
	for (;;)
	{
		bool		running = false;

		LWLockAcquire(table_lock, LW_EXCLUSIVE);
		held()[ga_process_number()] = database;
		for (int i = 0; i < table->nslots; i++)
			if (table->slots[i].database == database)
			{
				stop_slot(&table->slots[i], true);
				running |= table->slots[i].state == SLOT_RUNNING;
			}
		LWLockRelease(table_lock);
		if (!running || GetCurrentTimestamp() >= until)
			break;
		/* The signal is repeated: a second one breaks off what a worker still wanted to save. */
		(void) ConditionVariableTimedSleep(&table->ended, 100, ga_wait_event("GpuAgentWorkerExit"));
	}
	ConditionVariableCancelSleep();
}

void
ga_workers_notice(Oid database)
{
	bool		known = false;

	if (table == NULL)
		return;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	for (int i = 0; i < table->nslots; i++)
	{
		WorkerSlot *slot = &table->slots[i];

		if (slot->state == SLOT_RUNNING && slot->kind == GA_WORKER_MAINTENANCE && slot->database == database)
		{
			slot->look_again = true;
			SetLatch(&slot->proc->procLatch);
		}
	}
	for (int i = 0; i < table->nnotices; i++)
		known |= table->notices[i] == database;
	if (!known && table->nnotices < NOTICES)
		table->notices[table->nnotices++] = database;
	else if (!known)
		table->all = true;
	wake_launcher();
	LWLockRelease(table_lock);
}

static void
wake_maintenance(Oid database, bool facts)
{
	if (table == NULL)
		return;
	LWLockAcquire(table_lock, facts ? LW_EXCLUSIVE : LW_SHARED);
	for (int i = 0; i < table->nslots; i++)
	{
		WorkerSlot *slot = &table->slots[i];

		if (slot->state == SLOT_RUNNING && slot->kind == GA_WORKER_MAINTENANCE && slot->database == database)
		{
			if (facts)
				slot->facts = true;
			SetLatch(&slot->proc->procLatch);
		}
	}
	LWLockRelease(table_lock);
}

void
ga_workers_wake(Oid database)
{
	wake_maintenance(database, false);
}

void
ga_workers_notify_facts(Oid database)
{
	wake_maintenance(database, true);
}

void
ga_workers_queue(Oid database)
{
	bool		known = false;

	if (table == NULL)
		return;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	for (int i = 0; i < table->nqueued; i++)
		known |= table->queued[i] == database;
	if (!known && table->nqueued < NOTICES)
		table->queued[table->nqueued++] = database;
	else if (!known)
		table->all_queued = true;
	wake_launcher();
	LWLockRelease(table_lock);
}

bool
ga_workers_cancel_job(Oid database, int64 job)
{
	bool		found = false;

	if (table == NULL)
		return false;
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	for (int i = first_slot(GA_WORKER_JOB); i < table->nslots && !found; i++)
	{
		WorkerSlot *slot = &table->slots[i];

		found = slot->state == SLOT_RUNNING && slot->database == database && slot->job == job;
		if (found)
		{
			slot->cancel = true;
			kill(slot->pid, SIGINT);
		}
	}
	LWLockRelease(table_lock);
	return found;
}

void
ga_jobs_prepare_wait(void)
{
	if (table != NULL)
		ConditionVariablePrepareToSleep(&table->job_ended);
}

void
ga_jobs_wait(long milliseconds)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = ga_wait_event("GpuAgentJob");
	if (table != NULL)
		(void) ConditionVariableTimedSleep(&table->job_ended, milliseconds, wait_event);
	else
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
ga_jobs_cancel_wait(void)
{
	if (table != NULL)
		ConditionVariableCancelSleep();
}

void
ga_jobs_ended(void)
{
	if (table != NULL)
		ConditionVariableBroadcast(&table->job_ended);
}

void
ga_workers_state(Oid database, bool *launcher, bool *served, int *shortage)
{
	*launcher = *served = false;
	*shortage = 0;
	if (table == NULL)
		return;
	LWLockAcquire(table_lock, LW_SHARED);
	*launcher = table->launcher != NULL;
	*shortage = table->shortage;
	for (int i = 0; i < table->nslots; i++)
		*served |= table->slots[i].state == SLOT_RUNNING && table->slots[i].kind == GA_WORKER_MAINTENANCE &&
			table->slots[i].database == database;
	LWLockRelease(table_lock);
}
