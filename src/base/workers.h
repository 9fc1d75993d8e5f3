/*
 * workers.h
 *		The table of this extension's background workers in shared memory: which
 *		process serves which database, who keeps them out of a database, and what
 *		the launcher has to look at again. src/worker/ holds the workers.
 *
 * A slot is reserved by the launcher, attached to by the process that it asked
 * the postmaster for (before that connects to the database), and ended by that
 * process after it has left the list of the server's processes. Who wants a
 * database for itself holds it: no slot of it is reserved or attached to
 * meanwhile, and the processes that are attached are told to go.
 *
 * One LWLock protects all of it; nothing that throws, waits or does I/O happens
 * under it.
 */
#ifndef GA_WORKERS_H
#define GA_WORKERS_H

#include "base/compat.h"

typedef enum GaWorkerKind
{
	GA_WORKER_PROBE,			/* looks whether the database has the extension */
	GA_WORKER_MAINTENANCE,
	GA_WORKER_JOB				/* runs jobs until none is queued */
} GaWorkerKind;

/* What a probe found, or why a maintenance worker went. */
typedef enum GaFinding
{
	GA_FOUND_NOTHING,			/* the process ended without saying */
	GA_FOUND_NO_EXTENSION,
	GA_FOUND_OTHER_VERSION,		/* of the extension's SQL; ALTER EXTENSION gpuagent UPDATE is due */
	GA_FOUND_EXTENSION,
	GA_FOUND_STOP				/* it was told to go */
} GaFinding;

/* Why the launcher leaves databases without a worker; for check_setup(). */
typedef enum GaShortage
{
	GA_SHORT_DATABASES = 1,		/* gpuagent.max_databases */
	GA_SHORT_PROCESSES = 2		/* max_worker_processes */
} GaShortage;

extern void ga_workers_register(void);	/* shared area */

/* ---- the launcher ---- */

/* The caller is the launcher until it exits. Slots that its predecessor reserved are free again. */
extern void ga_workers_launch(void);

/* A free slot for this database; -1 when it is held or all are taken. *held tells which. */
extern int	ga_worker_reserve(GaWorkerKind kind, Oid database, bool *held);

/* Argument of the background worker that is to attach to a reserved slot. */
extern Datum ga_worker_argument(int slot);

/*
 * True when the slot's process has ended, or has not attached and never will
 * (gone: the caller knows that). Then the slot is free and *finding what it left.
 */
extern bool ga_worker_harvest(int slot, bool gone, GaFinding *finding);

/* Database and kind of a slot; false when it is free. */
extern bool ga_worker_slot(int slot, GaWorkerKind *kind, Oid *database);
extern int	ga_worker_slots(void);

/* Whether the process of a slot has a job. */
extern bool ga_worker_has_job(int slot);

/* Takes a database where jobs may be queued; InvalidOid when there is none; *all: look into each. */
extern Oid	ga_workers_queued(bool *all);

/* Tells the process of a slot to go. */
extern void ga_worker_stop(int slot);

/*
 * What was noticed since the last call: up to max databases; *all when more
 * changed than were remembered, *rescan when databases came, went or were let go.
 */
extern int	ga_workers_noticed(Oid *databases, int max, bool *all, bool *rescan);

extern void ga_workers_report(int shortage);	/* GaShortage bits */

/* ---- the workers ---- */

/* Attaches the caller to the slot of its argument and gives the database; false: it is not wanted any more. */
extern bool ga_worker_attach(Datum argument, Oid *database);

/* What this process leaves to the launcher; true once when the database's objects are to be looked at again. */
extern void ga_worker_leave(GaFinding finding);
extern bool ga_worker_look_again(void);

/* True once after facts of peers were taken in. */
extern bool ga_worker_take_facts(void);

/* True when somebody wants the database for itself: go at once. */
extern bool ga_worker_hurry(void);

/*
 * The job that the caller, a worker, is about to run; 0: none. Set before it is
 * committed that the job runs, and reset after it is committed that it does not.
 */
extern void ga_worker_set_job(int64 job);

/* Whether ga_workers_cancel_job() named the caller's job. */
extern bool ga_worker_job_cancelled(void);

/* Jobs of a database that workers run, or have just ended; at most max of them. */
extern int	ga_workers_jobs(Oid database, int64 *jobs, int max);
extern bool ga_workers_has_job(Oid database, int64 job);

/* ---- backends; no-ops without preloading ---- */

/*
 * Keeps workers out of a database until ga_workers_release (which is called at
 * the end of each transaction) or the end of this process, and waits, interruptibly
 * and at most some seconds, until they are gone. A process holds one database at
 * a time; a second one replaces the first.
 */
extern void ga_workers_hold(Oid database);
extern void ga_workers_release(void);

/* Extension or tables of this database changed: worker and launcher look again. After the change is visible. */
extern void ga_workers_notice(Oid database);

/*
 * Lets the maintenance worker of a database look at its tasks now: call it when
 * there is something to do that was not there before, as a region with autosync.
 */
extern void ga_workers_wake(Oid database);

/* Facts of peers were taken in, and that is committed. The worker takes the note with ga_worker_take_facts(). */
extern void ga_workers_notify_facts(Oid database);

/* Jobs were queued, and that is committed: one more worker looks for them, if there may be one. */
extern void ga_workers_queue(Oid database);

/* Interrupts the worker that runs a job; false when none does. */
extern bool ga_workers_cancel_job(Oid database, int64 job);

/*
 * Waiting for the end of jobs: prepare, look at the job, sleep, look again, ..., cancel.
 * Interruptible; who has ended a job and committed that says so.
 */
extern void ga_jobs_prepare_wait(void);
extern void ga_jobs_wait(long milliseconds);
extern void ga_jobs_cancel_wait(void);
extern void ga_jobs_ended(void);

/* For check_setup(): does the launcher run, does this database have a worker, what is short. */
extern void ga_workers_state(Oid database, bool *launcher, bool *served, int *shortage);

#endif							/* GA_WORKERS_H */
