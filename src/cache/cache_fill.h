/*
 * cache_fill.h
 *		Filling the agent cache from lists of ids.
 */
#ifndef GA_CACHE_FILL_H
#define GA_CACHE_FILL_H

#include "base/compat.h"

/* Gives the next id, valid until the next call; false at the end. */
typedef bool (*GaCacheNextId) (void *arg, const char **id, int *id_len);

/*
 * Caches agents as the active snapshot sees them, in the order given, until as
 * much is cached as the cache holds (evict), or until it is full. Returns the
 * number of those that are in the cache.
 */
extern uint64 ga_cache_fill(GaCacheNextId next, void *arg, bool evict);

/* Installs the hook that forgets dropped databases. Only while preloading. */
extern void ga_cache_install(void);

#endif							/* GA_CACHE_FILL_H */
