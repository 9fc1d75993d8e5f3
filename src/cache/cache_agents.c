/*
 * cache_agents.c
 *		cache_agents(): agents by the usual conditions, into the cache.
 */
#include "base/compat.h"

#include "base/shared.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "store/agent_query.h"
#include "cache/cache_fill.h"

/* Rows of an SPI result. */
typedef struct IdRows
{
	SPITupleTable *table;
	uint64		next;
} IdRows;

static bool
next_row(void *arg, const char **id, int *id_len)
{
	IdRows	   *rows = arg;
	text	   *value;
	bool		isnull;

	if (rows->next >= rows->table->numvals)
		return false;
	value = DatumGetTextPP(SPI_getbinval(rows->table->vals[rows->next++], rows->table->tupdesc, 1, &isnull));
	*id = VARDATA_ANY(value);
	*id_len = VARSIZE_ANY_EXHDR(value);
	return true;
}

/* cache_agents(ids, generation, prefix, best): those that are in the cache now */
PG_FUNCTION_INFO_V1(ga_cache_agents);
Datum
ga_cache_agents(PG_FUNCTION_ARGS)
{
	IdRows		rows = {0};
	uint64		cached;

	ga_shared_require();
	SPI_connect();
	rows.table = ga_agent_ids(fcinfo);
	cached = ga_cache_fill(next_row, &rows, true);
	SPI_finish();
	PG_RETURN_INT64(cached);
}
