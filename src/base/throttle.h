/*
 * throttle.h
 *		Keeps bulk work to gpuagent.io_rate_limit.
 */
#ifndef GA_THROTTLE_H
#define GA_THROTTLE_H

#include "base/compat.h"

extern void ga_throttle_register(void);	/* shared area; only while preloading */

/*
 * Call it for bytes that are about to be, or have been, read or written; sleeps,
 * interruptibly, as long as this process is ahead of the rate. A parallel worker and
 * its leader share one rate (without preloading each has its own). Bytes of up to a tenth of a
 * second pass at once. Bulk work that has lowered its priority settles it here
 * (priority.h). Not while holding a lock that others wait for.
 */
extern void ga_throttle(uint64 bytes);

#endif							/* GA_THROTTLE_H */
