/*
 * agent_query.c
 *		Selecting agents: rows, aligned populations, deletion. Which conditions are
 *		given decides the statement, so that each has a plan of its own and no
 *		"$1 IS NULL OR .." keeps an index from being used.
 */
#include "base/compat.h"

#include "base/names.h"
#include "catalog/pg_type.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/agent_query.h"
#include "store/plan.h"
#include "store/population.h"
#include "store/rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

/* Parameters of every statement here; those that are not given are not used by it. */
enum
{
	BY_IDS,
	BY_GENERATION,
	BY_PREFIX,
	BY_BEST,
	BY_CHECKPOINT,
	N_CONDITIONS,
	PREFIXES = N_CONDITIONS,	/* of the ids that the checkpoint covers */
	N_PARAMS
};

#define GIVEN(given, condition) (((given) & (1 << (condition))) != 0)

static const Oid param_types[N_PARAMS] = {TEXTARRAYOID, INT8OID, TEXTOID, INT8OID, INT8OID, TEXTARRAYOID};

typedef struct AgentQuery
{
	int			given;
	Datum		values[N_PARAMS];
	bool		nulls[N_PARAMS];
} AgentQuery;

/* The first n arguments are conditions in the order of the enum. */
static void
read_conditions(FunctionCallInfo fcinfo, int n, AgentQuery *query)
{
	memset(query, 0, sizeof(*query));
	for (int i = 0; i < N_PARAMS; i++)
		query->nulls[i] = true;
	for (int i = 0; i < n; i++)
	{
		if (PG_ARGISNULL(i))
			continue;
		query->given |= 1 << i;
		query->values[i] = PG_GETARG_DATUM(i);
		query->nulls[i] = false;
	}
	if (GIVEN(query->given, BY_IDS) && ARR_NDIM(DatumGetArrayTypeP(query->values[BY_IDS])) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ids must be a one-dimensional array")));
	if (GIVEN(query->given, BY_BEST) && DatumGetInt64(query->values[BY_BEST]) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("best must not be negative")));
}

static void
append_where(StringInfo sql, int given)
{
	const char *word = " WHERE ";

	if (GIVEN(given, BY_GENERATION))
	{
		appendStringInfo(sql, "%sa.generation OPERATOR(pg_catalog.=) $%d", word, BY_GENERATION + 1);
		word = " AND ";
	}
	if (GIVEN(given, BY_PREFIX))
	{
		appendStringInfo(sql, "%spg_catalog.starts_with(a.id, $%d)", word, BY_PREFIX + 1);
		word = " AND ";
	}
	if (GIVEN(given, BY_CHECKPOINT))
		appendStringInfo(sql, "%sa.from_seq OPERATOR(pg_catalog.<=) $%d"
						 " AND (a.to_seq IS NULL OR $%d OPERATOR(pg_catalog.<) a.to_seq)"
						 " AND EXISTS (SELECT FROM pg_catalog.unnest($%d) p(prefix)"
						 " WHERE pg_catalog.starts_with(a.id, p.prefix))",
						 word, BY_CHECKPOINT + 1, BY_CHECKPOINT + 1, PREFIXES + 1);
}

static void
append_from(StringInfo sql, int given)
{
	appendStringInfo(sql, " FROM %s a",
					 GIVEN(given, BY_CHECKPOINT) ? "gpuagent_store.checkpoint_agent" : "gpuagent.agent");
	if (GIVEN(given, BY_IDS))
		appendStringInfo(sql, " JOIN ROWS FROM (pg_catalog.unnest($%d)) WITH ORDINALITY u(id, ordinal)"
						 " ON a.id OPERATOR(pg_catalog.=) u.id", BY_IDS + 1);
	append_where(sql, given);
}

/* A known prefix becomes an index range, so such statements are planned with their parameters. */
static void
prepare(GaPlan *plan, const char *sql, int given)
{
	ga_plan_prepare(plan, sql, N_PARAMS, param_types, GIVEN(given, BY_PREFIX) ? CURSOR_OPT_CUSTOM_PLAN : 0);
}

/* ---- rows ---- */

static const char *
rows_statement(int given)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT a.id, a.state, a.memory, a.generation, a.fitness, a.metadata, a.version,"
						   " a.created_at, a.updated_at, a.origin");
	append_from(&sql, given);
	if (GIVEN(given, BY_BEST))
		appendStringInfo(&sql, " ORDER BY a.fitness DESC NULLS LAST, a.id LIMIT $%d", BY_BEST + 1);
	else
		appendStringInfoString(&sql, GIVEN(given, BY_IDS) ? " ORDER BY u.ordinal" : " ORDER BY a.id");
	return sql.data;
}

/* retrieve_agents(ids, generation, prefix, best) SETOF agent */
PG_FUNCTION_INFO_V1(ga_retrieve_agents);
Datum
ga_retrieve_agents(PG_FUNCTION_ARGS)
{
	static GaPlan plans[1 << BY_CHECKPOINT];
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	AgentQuery	query;
	GaPlan	   *plan;
	DestReceiver *dest;

	ga_setup_check();
	read_conditions(fcinfo, BY_CHECKPOINT, &query);
	InitMaterializedSRF(fcinfo, 0);
	plan = &plans[query.given];

	SPI_connect();
	if (!ga_plan_ready(plan, N_PARAMS, param_types))
		prepare(plan, rows_statement(query.given), query.given);
	dest = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(dest, rsinfo->setResult, rsinfo->econtext->ecxt_per_query_memory, false,
									rsinfo->setDesc, "table gpuagent.agent does not have the columns of this version");
	ga_plan_run(plan, query.values, query.nulls, true, dest);
	SPI_finish();
	return (Datum) 0;
}

/* ---- populations ---- */

static const char *
population_statement(int given)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT a.id, a.state, a.memory, a.generation, a.fitness, a.version, %s",
					 GIVEN(given, BY_IDS) ? "u.ordinal" : "0::pg_catalog.int8");
	append_from(&sql, given);
	if (GIVEN(given, BY_BEST))
		appendStringInfo(&sql, " ORDER BY a.fitness DESC NULLS LAST, a.id LIMIT $%d", BY_BEST + 1);
	return sql.data;
}

/* Prefixes of the agents that a checkpoint covers; 42704 without the checkpoint or when it covers none. */
static Datum
checkpoint_prefixes(Datum checkpoint)
{
	static GaPlan plan;
	static const Oid types[] = {INT8OID};
	Datum		prefixes;
	bool		isnull;

	if (!ga_plan_ready(&plan, 1, types))
		ga_plan_prepare(&plan, "SELECT CASE WHEN c.objects IS NULL THEN ARRAY[''::pg_catalog.text] ELSE ARRAY("
						"SELECT pg_catalog.substr(o.object, 8) FROM pg_catalog.unnest(c.objects) o(object)"
						" WHERE o.object OPERATOR(pg_catalog.=) 'agents'"
						" OR pg_catalog.starts_with(o.object, 'agents:')) END"
						" FROM gpuagent.checkpoint c WHERE c.id OPERATOR(pg_catalog.=) $1", 1, types, 0);
	if (ga_plan_run(&plan, &checkpoint, NULL, true, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("checkpoint " INT64_FORMAT " does not exist", DatumGetInt64(checkpoint))));
	prefixes = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (ArrayGetNItems(ARR_NDIM(DatumGetArrayTypeP(prefixes)), ARR_DIMS(DatumGetArrayTypeP(prefixes))) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("checkpoint " INT64_FORMAT " does not contain agents", DatumGetInt64(checkpoint)),
				 errhint("Column objects of gpuagent.checkpoint says what a checkpoint contains.")));
	return prefixes;
}

/* population_row(ids, generation, prefix, best, checkpoint): aligned arrays and matrices */
PG_FUNCTION_INFO_V1(ga_population_row);
Datum
ga_population_row(PG_FUNCTION_ARGS)
{
	static GaPlan plans[1 << N_CONDITIONS];
	AgentQuery	query;
	GaPlan	   *plan;
	TupleDesc	tupdesc;
	GaPopulation *population;
	GaPopulationOrder order = GA_POPULATION_BY_ID;

	ga_setup_check();
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	read_conditions(fcinfo, N_CONDITIONS, &query);
	if (GIVEN(query.given, BY_BEST))
		order = GA_POPULATION_AS_READ;
	else if (GIVEN(query.given, BY_IDS))
		order = GA_POPULATION_BY_ORDINAL;
	plan = &plans[query.given];

	population = ga_population_begin(order);
	SPI_connect();
	if (!ga_plan_ready(plan, N_PARAMS, param_types))
		prepare(plan, population_statement(query.given), query.given);
	if (GIVEN(query.given, BY_CHECKPOINT))
	{
		query.values[PREFIXES] = checkpoint_prefixes(query.values[BY_CHECKPOINT]);
		query.nulls[PREFIXES] = false;
	}
	ga_plan_run(plan, query.values, query.nulls, true, ga_population_receiver(population));
	SPI_finish();
	return ga_population_finish(population, BlessTupleDesc(tupdesc));
}

/* ---- deletion ---- */

static const char *
delete_statement(int given)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "DELETE FROM gpuagent.agent a");
	append_where(&sql, given);
	if (GIVEN(given, BY_IDS))
		appendStringInfo(&sql, " %s a.id OPERATOR(pg_catalog.=) ANY ($%d)",
						 given == 1 << BY_IDS ? "WHERE" : "AND", BY_IDS + 1);
	return sql.data;
}

/* delete_agents(ids, generation, prefix): rows deleted; 22023 without any condition */
PG_FUNCTION_INFO_V1(ga_delete_agents);
Datum
ga_delete_agents(PG_FUNCTION_ARGS)
{
	static GaPlan plans[1 << BY_BEST];
	AgentQuery	query;
	GaPlan	   *plan;
	uint64		deleted;

	ga_setup_check();
	read_conditions(fcinfo, BY_BEST, &query);
	if (query.given == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delete_agents needs ids, generation or prefix"),
				 errhint("To delete every agent, use DELETE FROM gpuagent.agent or prefix => ''.")));
	plan = &plans[query.given];
	SPI_connect();
	if (!ga_plan_ready(plan, N_PARAMS, param_types))
		prepare(plan, delete_statement(query.given), query.given);
	deleted = ga_plan_run(plan, query.values, query.nulls, false, NULL);
	SPI_finish();
	PG_RETURN_INT64(deleted);
}

/* ---- ids alone ---- */

static const char *
ids_statement(int given)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT a.id");
	append_from(&sql, given);
	if (GIVEN(given, BY_BEST))
		appendStringInfo(&sql, " ORDER BY a.fitness DESC NULLS LAST, a.id LIMIT $%d", BY_BEST + 1);
	else
		appendStringInfoString(&sql, GIVEN(given, BY_IDS) ? " ORDER BY u.ordinal" : " ORDER BY a.id");
	return sql.data;
}

SPITupleTable *
ga_agent_ids(FunctionCallInfo fcinfo)
{
	static GaPlan plans[1 << BY_CHECKPOINT];
	AgentQuery	query;
	GaPlan	   *plan;

	ga_setup_check();
	read_conditions(fcinfo, BY_CHECKPOINT, &query);
	plan = &plans[query.given];
	if (!ga_plan_ready(plan, N_PARAMS, param_types))
		prepare(plan, ids_statement(query.given), query.given);
	ga_plan_run(plan, query.values, query.nulls, true, NULL);
	return SPI_tuptable;
}
