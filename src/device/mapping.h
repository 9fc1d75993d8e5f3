/*
 * mapping.h
 *		The server's side of the shared mapping (protocol.h): made by the
 *		postmaster, inherited by every process at the same address.
 */
#ifndef GA_MAPPING_H
#define GA_MAPPING_H

#include "base/compat.h"
#include "device/protocol.h"

/* Registers the shared area that makes the run directory and the mapping; before areas that use it. */
extern void ga_mapping_register(void);

/* NULL without preloading. */
extern GaHeader *ga_mapping(void);

/* <shared_memory_dir>/gpuagent-<hash of the data directory>, absolute; mode 0700. */
extern const char *ga_run_directory(void);

/* Address of an offset in the mapping, and back. */
#define ga_mapping_at(offset) ((char *) ga_mapping() + (offset))
#define ga_mapping_offset(pointer) ((uint64) ((char *) (pointer) - (char *) ga_mapping()))

/* Key of ga_fingerprint. */
extern const uint8 *ga_fingerprint_key(void);

/*
 * Memory of the arena: as many consecutive blocks of GA_ARENA_BLOCK as nbytes
 * need. Waits, interruptibly, while others use them; 53400 when the arena can
 * never hold so much (ga_arena_limit()). Freed by ga_arena_free, else when the
 * transaction ends or the process exits; blocks of a request that was abandoned
 * only when the device has let go of it. Blocks belong to the caller's process.
 */
extern char *ga_arena_alloc(uint64 nbytes);
extern void ga_arena_free(char *blocks);
extern uint64 ga_arena_limit(void);

/*
 * Blocks that this process holds, and giving all of them back as the end of the
 * transaction does: for who catches an error of an operation, and held none before.
 */
extern uint32 ga_arena_held(void);
extern void ga_arena_release(void);

/* Bytes in use, for stat_memory. */
extern uint64 ga_arena_used(void);

#endif							/* GA_MAPPING_H */
