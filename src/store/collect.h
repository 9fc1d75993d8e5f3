/*
 * collect.h
 *		Garbage collection of the store, for the maintenance worker. The
 *		writers' side is doom.h; the protocol is at the top of collect.c.
 */
#ifndef GA_COLLECT_H
#define GA_COLLECT_H

#include "base/compat.h"

/* Milliseconds from the last step of this process to the next one. */
extern int	ga_collect_pause(void);
extern bool ga_collect_wanted(void);

#endif							/* GA_COLLECT_H */
