/*
 * tasks.c
 *		What maintenance workers do.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "checkpoint/tree.h"
#include "device/region.h"
#include "miscadmin.h"
#include "store/collect.h"
#include "sync/sync.h"
#include "worker/worker.h"

#define MINUTE 60000

static int
at_start(void)
{
	return 0;
}

static int
five_minutes(void)
{
	return 5 * MINUTE;
}

static int
two_seconds(void)
{
	return 2000;
}

static int
sync_interval(void)
{
	return ga_sync_interval;
}

/* Often enough for the grace of deleted checkpoints' exports, and for what a failed export left. */
static int
exports_interval(void)
{
	return Max(Min(ga_discard_grace, 60), 1) * 1000;
}

static int
auto_save_interval(void)
{
	return ga_auto_save_interval > 0 ? ga_auto_save_interval * 1000 : MINUTE;
}

static bool
has_auto_save(void)
{
	return ga_auto_save_interval > 0;
}

/* What looks after the tree of files leaves that of another server alone. */
static bool
has_tree(void)
{
	return !ga_tree_is_others();
}

static void
find_autosync(const GaRegion *region, void *found)
{
	if (region->database == MyDatabaseId && region->state == GA_REGION_READY && region->autosync)
		*(bool *) found = true;
}

static bool
has_autosync(void)
{
	bool		found = false;

	ga_regions_each(find_autosync, &found);
	return found;
}

const GaTask ga_tasks[] = {
	{.function = "autosync", .tables = {"swarm", "swarm_version"}, .interval = sync_interval, .wanted = has_autosync},
	{.function = "auto_save",
		.tables = {"agent", "graph", "graph_node", "graph_edge", "swarm", "swarm_version", "expert", "weight_version", "run", "metric",
	"checkpoint", "checkpoint_item", "checkpoint_alias"}, .interval = auto_save_interval, .wanted = has_auto_save},
	{.function = "check_exports", .tables = {"checkpoint"}, .interval = at_start, .wanted = has_tree},
	{.function = "maintain_exports", .tables = {"checkpoint"}, .interval = exports_interval, .wanted = has_tree},
	{.function = "collect", .tables = {"swarm_version", "weight_version", "checkpoint_item"},
	.interval = ga_collect_pause, .wanted = ga_collect_wanted},
	{.function = "follow_peers", .tables = {"agent", "expert", "weight_version"}, .interval = ga_sync_pause, .wanted = ga_sync_wanted},
	{.function = "beat", .tables = {"peer"}, .interval = ga_beat_interval, .wanted = ga_beat_wanted},
	{.function = "repair_peers", .tables = {"peer"}, .interval = two_seconds, .wanted = ga_beat_wanted},
	{.function = "prune", .tables = {"peer"}, .interval = ga_prune_pause, .wanted = ga_prune_wanted},
	{.function = "prewarm_cache", .tables = {"agent"}, .interval = at_start, .on_standby = true},
	{.function = "save_cache_keys", .tables = {"agent"}, .interval = five_minutes, .at_exit = true, .wanted = has_tree},
};
const int	ga_ntasks = lengthof(ga_tasks);
