/*
 * guc.h
 *		Settings (DESIGN §9). Each is declared and documented in guc.c.
 */
#ifndef GA_GUC_H
#define GA_GUC_H

#include "base/compat.h"

extern bool ga_compression;			/* gpuagent.compression */
extern int	ga_compression_level;	/* gpuagent.compression_level, zstd 1..19 */
extern int	ga_max_checkpoints;		/* gpuagent.max_checkpoints */

extern void ga_guc_init(void);

/* Base of the tree, absolute, no trailing slash, in the current context. */
extern char *ga_storage_path(void);

#endif							/* GA_GUC_H */
