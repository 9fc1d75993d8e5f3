/*
 * priority.h
 *		Lets background work give way to sessions: it lowers its own priority on
 *		the processor (gpuagent.job_nice).
 *
 * Who is not a superuser of the operating system cannot take that back, so it is
 * for processes that end with their work: workers of jobs, and the parallel
 * workers that these start. Never for a session.
 */
#ifndef GA_PRIORITY_H
#define GA_PRIORITY_H

#include "base/compat.h"

/* Lowers this process by so many steps below what it had when it began, unless it is as low already. */
extern void ga_priority_lower(int steps);

/* Steps that this process has been lowered, for those whom it starts; 0 in a session. */
extern int	ga_priority_lowered(void);

/* Tries again what the kernel takes only so often; ga_throttle(), which all bulk work calls, calls it. */
extern void ga_priority_settle(void);

#endif							/* GA_PRIORITY_H */
