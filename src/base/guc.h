/*
 * guc.h
 *		Settings (DESIGN §9). Each is declared and documented in guc.c.
 */
#ifndef GA_GUC_H
#define GA_GUC_H

#include "base/compat.h"

extern bool ga_compression;			/* gpuagent.compression */
extern int	ga_compression_level;	/* gpuagent.compression_level, zstd 1..19 */
extern int	ga_auto_save_interval;	/* gpuagent.auto_save_interval, s; 0: off */
extern bool ga_auto_export;			/* gpuagent.auto_export */
extern int	ga_max_checkpoints;		/* gpuagent.max_checkpoints */
extern int	ga_discard_grace;		/* gpuagent.discard_grace, s */

typedef enum GaDevices
{
	GA_DEVICES_AUTO,
	GA_DEVICES_CUDA,
	GA_DEVICES_HOST
} GaDevices;

extern int	ga_devices;				/* gpuagent.device, a GaDevices */
extern int	ga_host_cache_size;		/* gpuagent.host_cache_size, MB */
extern int	ga_cache_max_age;		/* gpuagent.cache_max_age, transactions */
extern int	ga_sync_interval;		/* gpuagent.sync_interval, ms */
extern int	ga_device_timeout;		/* gpuagent.device_timeout, ms */
extern int	ga_max_handles;			/* gpuagent.max_handles */
extern int	ga_max_databases;		/* gpuagent.max_databases */
extern int	ga_max_jobs;			/* gpuagent.max_jobs */
extern int	ga_job_nice;			/* gpuagent.job_nice, steps; 0: off */
extern int	ga_io_rate_limit;		/* gpuagent.io_rate_limit, kB a second; 0: none */
extern int	ga_launcher_interval;	/* gpuagent.launcher_interval, s */
extern int	ga_collect_interval;	/* gpuagent.collect_interval, s */
extern int	ga_collect_grace;		/* gpuagent.collect_grace, s */
extern bool ga_enable_agent_sync;	/* gpuagent.enable_agent_sync */
extern bool ga_enable_config_sync;	/* gpuagent.enable_config_sync */
extern bool ga_enable_weight_sync;	/* gpuagent.enable_weight_sync */
extern int	ga_peer_sync_interval;	/* gpuagent.peer_sync_interval, s */
extern int	ga_heartbeat_interval;	/* gpuagent.heartbeat_interval, s */
extern int	ga_peer_timeout;		/* gpuagent.peer_timeout, s */
extern int	ga_prune_interval;		/* gpuagent.prune_interval, s; 0: never */
extern int	ga_tombstone_grace;		/* gpuagent.tombstone_grace, s */
extern int	ga_max_clock_offset;	/* gpuagent.max_clock_offset, ms; 0: any */
extern bool ga_allow_ipc_handles;	/* gpuagent.allow_ipc_handles */
extern bool ga_device_faults;		/* gpuagent.device_faults, for tests */
extern char *ga_shared_memory_dir;	/* gpuagent.shared_memory_dir */
extern char *ga_device_program;		/* gpuagent.device_program; "$libdir/" stands for the library's directory */

extern void ga_guc_init(void);

/* gpuagent.cache_size in bytes, with the profile's default. */
extern uint64 ga_device_budget(void);

/* Base of the tree, absolute, no trailing slash, in the current context. */
extern char *ga_storage_path(void);

#endif							/* GA_GUC_H */
