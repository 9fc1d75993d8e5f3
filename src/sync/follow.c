/*
 * follow.c
 *		Users' tables follow the winners: the maintenance worker's task, and the
 *		merge of a key's facts for SQL.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "base/workers.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/table.h"
#include "sync/merge.h"
#include "sync/sync.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Facts arrived, or the interval passed, since they were last followed; or sessions had rows locked. */
static bool pending = true;
static bool locked = false;
static TimestampTz followed_at = 0;

bool
ga_sync_wanted(void)
{
	if (ga_worker_take_facts() ||
		TimestampDifferenceExceeds(followed_at, GetCurrentTimestamp(), ga_peer_sync_interval * 1000))
	{
		pending = true;
		ga_beat_look_again();
		ga_prune_look_again();
	}
	return pending;
}

/* What arrived meanwhile is followed at once; who has a row locked may take his time. */
int
ga_sync_pause(void)
{
	return locked ? 500 : 20;
}

/* follow_peers(): as the owner of the tables; returns the number of keys that wait because sessions have their rows locked. */
PG_FUNCTION_INFO_V1(ga_follow_peers);
Datum
ga_follow_peers(PG_FUNCTION_ARGS)
{
	bool		before = ga_sync_following;
	GaTableUser owner;
	volatile int64 waiting = 0;

	followed_at = GetCurrentTimestamp();
	pending = false;
	SPI_connect();
	owner = ga_table_enter_owner("site");
	ga_sync_following = true;
	PG_TRY();
	{
		bool		isnull;

		if (SPI_execute("SELECT gpuagent_store.follow_facts()", false, 1) != SPI_OK_SELECT || SPI_processed != 1)
			elog(ERROR, "facts cannot be followed");
		waiting = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
	PG_FINALLY();
	{
		ga_sync_following = before;
	}
	PG_END_TRY();
	ga_table_leave_owner(owner);
	SPI_finish();
	pending = locked = waiting > 0;
	PG_RETURN_INT64(waiting);
}

/* Column n of row i, which is not NULL. */
static Datum
column(uint64 i, int n)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, n, &isnull);

	if (isnull)
		elog(ERROR, "a fact without column %d", n);
	return value;
}

/* 24 bytes each: origin, and number with its first byte first. */
static void
read_parents(GaFact *fact, Datum value)
{
	bytea	   *list = DatumGetByteaPP(value);
	int			n = VARSIZE_ANY_EXHDR(list) / (GA_ORIGIN_LEN + 8);
	const uint8 *bytes = (const uint8 *) VARDATA_ANY(list);
	GaFactId   *ids = palloc0(Max(n, 1) * sizeof(GaFactId));

	for (int i = 0; i < n; i++, bytes += GA_ORIGIN_LEN + 8)
	{
		uint64		seq = 0;

		memcpy(ids[i].origin, bytes, GA_ORIGIN_LEN);
		for (int b = 0; b < 8; b++)
			seq = seq << 8 | bytes[GA_ORIGIN_LEN + b];
		ids[i].seq = (int64) seq;
	}
	fact->parents = ids;
	fact->nparents = n;
}

static GaFact *
read_facts(Datum *args, int *count)
{
	static const char query[] =
	"SELECT c.origin, c.seq, c.hlc, COALESCE(c.version, 0), COALESCE(c.fitness, 'NaN'), "
	"-COALESCE(pg_catalog.array_position($5, c.origin), 2147483647)::bigint, c.parents FROM gpuagent_store.change c "
	"WHERE c.class OPERATOR(pg_catalog.=) $1 AND c.object OPERATOR(pg_catalog.=) $2 AND c.part OPERATOR(pg_catalog.=) $3 "
	"AND c.hlc OPERATOR(pg_catalog.>=) $4";
	Oid			types[5] = {TEXTOID, TEXTOID, TEXTOID, INT8OID, UUIDARRAYOID};
	GaFact	   *facts;

	/* Not read-only: what this transaction has written a moment ago counts. */
	if (SPI_execute_with_args(query, 5, types, args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "facts cannot be read");
	*count = (int) SPI_processed;
	facts = palloc0_array(GaFact, Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		memcpy(facts[i].id.origin, DatumGetUUIDP(column(i, 1))->data, GA_ORIGIN_LEN);
		facts[i].id.seq = DatumGetInt64(column(i, 2));
		facts[i].hlc = DatumGetInt64(column(i, 3));
		facts[i].version = DatumGetInt64(column(i, 4));
		facts[i].fitness = DatumGetFloat8(column(i, 5));
		facts[i].priority = DatumGetInt64(column(i, 6));
		read_parents(&facts[i], column(i, 7));
	}
	return facts;
}

/* merge_facts(class, object, part, least hlc, strategy, priority): the heads of a key, one of them the winner. */
PG_FUNCTION_INFO_V1(ga_merge_facts);
Datum
ga_merge_facts(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *name = PG_GETARG_TEXT_PP(4);
	Datum		args[5] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), PG_GETARG_DATUM(3), PG_GETARG_DATUM(5)};
	GaStrategy	strategy;
	GaFact	   *facts;
	int			n;
	int			winner;

	if (!ga_strategy_parse(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), &strategy))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown strategy \"%s\"", text_to_cstring(name)),
				 errhint("Use latest_timestamp, highest_version, highest_fitness, origin_priority, keep_both or manual.")));
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	facts = read_facts(args, &n);
	winner = ga_merge(strategy, facts, n);
	for (int i = 0; i < n; i++)
	{
		Datum		values[4] = {UUIDPGetDatum((pg_uuid_t *) facts[i].id.origin), Int64GetDatum(facts[i].id.seq),
		Int64GetDatum(facts[i].hlc), BoolGetDatum(i == winner)};
		bool		nulls[4] = {false, false, false, false};

		if (!facts[i].superseded)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}
