/*
 * sync.h
 *		Facts between nodes: what is shared by the files that write, take up and
 *		follow them. How they work together is in doc/architecture.md.
 */
#ifndef GA_SYNC_H
#define GA_SYNC_H

#include "base/compat.h"
#include "utils/uuid.h"

/*
 * True while this process writes into users' tables what facts say: such writes
 * are not facts themselves.
 */
extern bool ga_sync_following;

/* Whether the maintenance worker has facts to follow; cheap, without a transaction. */
extern bool ga_sync_wanted(void);

/* Pause between two times, ms. */
extern int	ga_sync_pause(void);

/* The maintenance worker's beats: whether this database may be a node, pause between two; and to look whether it became one. */
extern bool ga_beat_wanted(void);
extern int	ga_beat_interval(void);
extern void ga_beat_look_again(void);

/* The same of pruning; facts have arrived, so what blocked it may be gone. */
extern bool ga_prune_wanted(void);
extern int	ga_prune_pause(void);
extern void ga_prune_look_again(void);

/* The maintenance worker looks for facts, and whether this database is a node, once this transaction is committed. */
extern void ga_sync_notify_at_commit(void);

/* Throws unless a node with this problem (of gpuagent_store.site; NULL: none) may write. */
extern void ga_node_require_sound(const char *problem, const pg_uuid_t *origin);

#endif							/* GA_SYNC_H */
