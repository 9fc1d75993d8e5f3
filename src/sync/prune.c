/*
 * prune.c
 *		Facts that are of no use any more go: a task of the maintenance worker.
 *
 * A node removes facts of its own, and its peers take that in like facts. A chain
 * of facts that two nodes wrote in turn goes from its oldest end, each removing
 * what the other has left; so while some are there that wait for a peer, whatever
 * arrives makes this node look again.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "executor/spi.h"
#include "sync/sync.h"
#include "utils/timestamp.h"

/* Pause between two times: at least this, and so much that pruning takes a tenth of the worker's time. */
#define LEAST_PAUSE_MS 100

static TimestampTz pruned_at = 0;
static int	took = 0;			/* ms, the last time */
static bool again = false;		/* something was removed, or arrived while keys were left */
static bool left = true;

void
ga_prune_look_again(void)
{
	again |= left;
}

bool
ga_prune_wanted(void)
{
	return ga_prune_interval > 0 && ga_beat_wanted() &&
		(again || TimestampDifferenceExceeds(pruned_at, GetCurrentTimestamp(), ga_prune_interval * 1000));
}

int
ga_prune_pause(void)
{
	return Max(LEAST_PAUSE_MS, 9 * took);
}

PG_FUNCTION_INFO_V1(ga_prune);
Datum
ga_prune(PG_FUNCTION_ARGS)
{
	bool		isnull[2];

	pruned_at = GetCurrentTimestamp();
	again = left = false;
	SPI_connect();
	if (SPI_execute("SELECT p.removed, p.remaining FROM gpuagent_store.prune_facts() p", false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "facts cannot be pruned");
	again = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull[0])) > 0;
	left = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull[1]));
	SPI_finish();
	took = (int) TimestampDifferenceMilliseconds(pruned_at, GetCurrentTimestamp());
	PG_RETURN_VOID();
}

/* wake_follower(): the maintenance worker looks for facts once this transaction is committed. */
PG_FUNCTION_INFO_V1(ga_wake_follower);
Datum
ga_wake_follower(PG_FUNCTION_ARGS)
{
	ga_sync_notify_at_commit();
	PG_RETURN_VOID();
}
