/*
 * progress.h
 *		What this process is doing, for stat_progress: one record a process in
 *		shared memory. Without preloading all of it does nothing.
 *
 * A command names itself with ga_progress_begin, its phases with
 * ga_progress_phase, and counts with ga_progress_add. Commands call each other:
 * only the outermost one's name is shown, with the phases of whoever works. The
 * record goes with ga_progress_end or the end of the transaction, and when a
 * subtransaction that has begun it is rolled back.
 */
#ifndef GA_PROGRESS_H
#define GA_PROGRESS_H

#include "base/compat.h"

extern void ga_progress_register(void);	/* shared area; only while preloading */

/* command: name of the function; object: what it works on, may be NULL. Longer ones are cut. In a transaction. */
extern void ga_progress_begin(const char *command, const char *object);
extern void ga_progress_end(void);

/* A new phase with nothing done; totals of 0 are unknown. Nothing unless a command has begun. */
extern void ga_progress_phase(const char *phase, uint64 items_total, uint64 bytes_total);

/* Cheap enough for each chunk. In a parallel worker it counts for the leader. */
extern void ga_progress_add(uint64 items, uint64 bytes);

/*
 * The same for a job: the record stays from transaction to transaction until
 * ga_progress_end_job or the end of the process, and commands within count as inner ones.
 */
extern void ga_progress_begin_job(int64 job, const char *kind, const char *object);
extern void ga_progress_end_job(void);

#endif							/* GA_PROGRESS_H */
