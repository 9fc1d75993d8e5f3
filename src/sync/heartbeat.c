/*
 * heartbeat.c
 *		Signs of life: a task of the maintenance worker.
 *
 * A beat is a row that logical replication carries in order with the facts. So who
 * has seen beat n has all that was visible to the transaction of beat n; each node
 * returns with its own beats which ones it has seen.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "executor/spi.h"
#include "store/table.h"
#include "sync/sync.h"

/* Whether this database was a node when it was last looked; true: not looked yet. */
static bool node = true;

void
ga_beat_look_again(void)
{
	node = true;
}

bool
ga_beat_wanted(void)
{
	return node;
}

int
ga_beat_interval(void)
{
	return ga_heartbeat_interval * 1000;
}

PG_FUNCTION_INFO_V1(ga_beat);
Datum
ga_beat(PG_FUNCTION_ARGS)
{
	bool		isnull;

	SPI_connect();
	if (SPI_execute("SELECT gpuagent_store.write_beat()", false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "a heartbeat cannot be written");
	node = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	PG_RETURN_VOID();
}
