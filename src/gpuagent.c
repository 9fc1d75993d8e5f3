/*
 * gpuagent.c
 *		Module entry: _PG_init and nothing else.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "base/progress.h"
#include "base/shared.h"
#include "base/throttle.h"
#include "base/workers.h"
#include "device/device.h"
#include "device/mapping.h"
#include "device/region.h"
#include "index/gpuknn.h"
#include "index/gpuknn_mirror.h"
#include "math/distance.h"
#include "math/fingerprint.h"
#include "math/shuffle.h"
#include "miscadmin.h"
#include "cache/cache.h"
#include "checkpoint/tree.h"
#include "cache/cache_device.h"
#include "cache/cache_fill.h"
#include "worker/worker.h"

GA_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	ga_math_init();
	ga_fingerprint_init();
	ga_shuffle_init();
	ga_guc_init();
	ga_gpuknn_init();
	if (!process_shared_preload_libraries_in_progress)
		return;

	/* Areas in the order in which they are initialised, then workers. */
	ga_mapping_register();
	ga_region_register();
	ga_cache_register();
	ga_cache_device_register();
	ga_gpuknn_mirror_register();
	ga_workers_register();
	ga_progress_register();
	ga_throttle_register();
	ga_tree_claim_register();
	ga_shared_install();
	ga_cache_install();
	ga_supervisor_register();
	ga_launcher_register();
}
