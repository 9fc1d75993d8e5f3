/*
 * tasks.c
 *		What maintenance workers do.
 */
#include "base/compat.h"

#include "base/guc.h"
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

const GaTask ga_tasks[] = {
	{.function = "prewarm_cache", .interval = at_start, .on_standby = true},
	{.function = "save_cache_keys", .interval = five_minutes, .at_exit = true},
};
const int	ga_ntasks = lengthof(ga_tasks);
