/*
 * agent.c
 *		Storing agents. Every statement is plain SQL under the caller's rights, so
 *		triggers, row security, defaults, added columns and partitions of
 *		gpuagent.agent work as for any table.
 *
 * Only columns that are given are written, hence one statement per combination.
 * Rows are written in id order: concurrent stores cannot deadlock.
 */
#include "base/compat.h"

#include <math.h>

#include "base/names.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "store/plan.h"
#include "store/rows.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

/* Columns that a caller may leave out, in the order of the arguments of both store functions. */
#define N_COLUMNS 5
static const char *const column_names[N_COLUMNS] = {"state", "memory", "generation", "fitness", "metadata"};

enum
{
	ARG_ID,
	ARG_STATE,
	ARG_MEMORY,
	ARG_GENERATION,
	ARG_FITNESS,
	ARG_METADATA,
	ARG_EXPECTED,
	N_ARGS
};

/* Bit i: column i is given. */
static int
given_columns(FunctionCallInfo fcinfo)
{
	int			given = 0;

	for (int i = 0; i < N_COLUMNS; i++)
		if (!PG_ARGISNULL(ARG_STATE + i))
			given |= 1 << i;
	return given;
}

static void
append_columns(StringInfo sql, int given)
{
	for (int i = 0; i < N_COLUMNS; i++)
		if (given & (1 << i))
			appendStringInfo(sql, ", %s", column_names[i]);
}

/* "state = EXCLUDED.state, .., version = .., updated_at = now()", or of the parameters. */
static void
append_assignments(StringInfo sql, int given, bool excluded)
{
	for (int i = 0; i < N_COLUMNS; i++)
	{
		if (!(given & (1 << i)))
			continue;
		if (excluded)
			appendStringInfo(sql, "%s = EXCLUDED.%s, ", column_names[i], column_names[i]);
		else
			appendStringInfo(sql, "%s = $%d, ", column_names[i], ARG_STATE + i + 1);
	}
	appendStringInfoString(sql, "version = a.version OPERATOR(pg_catalog.+) 1, updated_at = pg_catalog.now()");
}

static void
arguments(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	for (int i = 0; i < N_ARGS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i);
	}
}

static void
check_fitness(double fitness, const char *id)
{
	if (isnan(fitness))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("fitness of agent \"%s\" is NaN", id),
				 errhint("Store NULL for an agent that was not evaluated, -Infinity for one that failed.")));
}

static void
check_expected(int64 expected)
{
	if (expected < 0 || expected == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid expected version " INT64_FORMAT, expected),
				 errhint("Use 0 for an agent that must not exist.")));
}

/* 40001; found < 0: the agent does not exist. */
static void
report_version(const char *id, int64 found, int64 expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 expected == 0 ? errmsg("agent \"%s\" already exists", id) :
			 errmsg("agent \"%s\" does not have version " INT64_FORMAT, id, expected),
			 found < 0 ? errdetail("There is no such agent.") :
			 errdetail("Its version is " INT64_FORMAT ".", found),
			 errhint("Read it again and retry.")));
}

/* ---- one agent ---- */

typedef enum StoreMode
{
	STORE_UPSERT,
	STORE_INSERT,				/* must not exist */
	STORE_UPDATE,				/* must have the expected version */
	N_MODES
} StoreMode;

static GaPlan one_plans[N_MODES][1 << N_COLUMNS];

static const char *
one_statement(StoreMode mode, int given)
{
	StringInfoData sql;

	initStringInfo(&sql);
	if (mode == STORE_UPDATE)
	{
		appendStringInfoString(&sql, "UPDATE gpuagent.agent AS a SET ");
		append_assignments(&sql, given, false);
		appendStringInfo(&sql, " WHERE a.id OPERATOR(pg_catalog.=) $1 AND a.version OPERATOR(pg_catalog.=) $%d",
						 ARG_EXPECTED + 1);
	}
	else
	{
		appendStringInfoString(&sql, "INSERT INTO gpuagent.agent AS a (id");
		append_columns(&sql, given);
		appendStringInfoString(&sql, ") VALUES ($1");
		for (int i = 0; i < N_COLUMNS; i++)
			if (given & (1 << i))
				appendStringInfo(&sql, ", $%d", ARG_STATE + i + 1);
		appendStringInfoString(&sql, ") ON CONFLICT (id) DO ");
		if (mode == STORE_INSERT)
			appendStringInfoString(&sql, "NOTHING");
		else
		{
			appendStringInfoString(&sql, "UPDATE SET ");
			append_assignments(&sql, given, true);
		}
	}
	appendStringInfoString(&sql, " RETURNING a.version");
	return sql.data;
}

/* Version of an agent now, -1 when there is none that the caller sees. */
static int64
version_now(Datum id)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID};
	bool		isnull;

	if (!ga_plan_ready(&plan, 1, types))
		ga_plan_prepare(&plan, "SELECT a.version FROM gpuagent.agent a WHERE a.id OPERATOR(pg_catalog.=) $1",
						1, types, 0);
	if (ga_plan_run(&plan, &id, NULL, false, NULL) == 0)
		return -1;
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* The single-row store's arguments, 22004, 22023 and 22003. */
static void
check_one(FunctionCallInfo fcinfo)
{
	text	   *id;

	if (PG_ARGISNULL(ARG_ID))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("agent id must not be NULL")));
	id = PG_GETARG_TEXT_PP(ARG_ID);
	ga_name_check("agent id", VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	if (!PG_ARGISNULL(ARG_FITNESS))
		check_fitness(PG_GETARG_FLOAT8(ARG_FITNESS), text_to_cstring(id));
	if (!PG_ARGISNULL(ARG_EXPECTED))
		check_expected(PG_GETARG_INT64(ARG_EXPECTED));
	if (!PG_ARGISNULL(ARG_METADATA) && !JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(ARG_METADATA)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object")));
}

/*
 * store_agent(id, state, memory, generation, fitness, metadata, expected_version):
 * the new version; NULL when a trigger kept the row from being written.
 */
PG_FUNCTION_INFO_V1(ga_store_agent);
Datum
ga_store_agent(PG_FUNCTION_ARGS)
{
	Oid			types[N_ARGS] = {TEXTOID, InvalidOid, InvalidOid, INT8OID, FLOAT8OID, JSONBOID, INT8OID};
	Datum		values[N_ARGS];
	bool		nulls[N_ARGS];
	int			given = given_columns(fcinfo);
	StoreMode	mode = STORE_UPSERT;
	GaPlan	   *plan;
	int64		version = 0;
	bool		isnull = true;

	ga_setup_check();
	check_one(fcinfo);
	if (!PG_ARGISNULL(ARG_EXPECTED))
		mode = PG_GETARG_INT64(ARG_EXPECTED) == 0 ? STORE_INSERT : STORE_UPDATE;
	plan = &one_plans[mode][given];
	types[ARG_STATE] = types[ARG_MEMORY] = ga_type_oid("agent_state");

	SPI_connect();
	if (!ga_plan_ready(plan, N_ARGS, types))
		ga_plan_prepare(plan, one_statement(mode, given), N_ARGS, types, 0);
	arguments(fcinfo, values, nulls);
	if (ga_plan_run(plan, values, nulls, false, NULL) > 0)
		version = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	else if (mode != STORE_UPSERT)
		report_version(TextDatumGetCString(values[ARG_ID]), version_now(values[ARG_ID]), values[ARG_EXPECTED]);
	SPI_finish();
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_INT64(version);
}

/* ---- many agents ---- */

/*
 * agent_rows(ids, states, memories, fitness, metadata, expected_versions)
 * TABLE(id, state, memory, fitness, metadata, version): the aligned arguments as
 * rows in id order. version is what an insert of the row gives it.
 */
typedef struct AgentRows
{
	GaIdRef    *ids;
	bool		has_state;
	bool		has_memory;
	GaSlices	state;
	GaSlices	memory;
	Datum	   *fitness;
	bool	   *fitness_null;
	Datum		metadata;
	bool		one_metadata;	/* the same for all rows */
	Datum	   *expected;
} AgentRows;

enum
{
	ROWS_IDS,
	ROWS_STATES,
	ROWS_MEMORIES,
	ROWS_FITNESS,
	ROWS_METADATA,
	ROWS_EXPECTED
};

static void
take_fitness(AgentRows *rows, Datum array, int n)
{
	ga_aligned_array(array, FLOAT8OID, "fitness", n, &rows->fitness, &rows->fitness_null);
	for (int i = 0; i < n; i++)
		if (!rows->fitness_null[rows->ids[i].row])
			check_fitness(DatumGetFloat8(rows->fitness[rows->ids[i].row]), ga_id_text(&rows->ids[i]));
}

static Datum *
take_expected(Datum array, int n)
{
	Datum	   *expected;
	bool	   *nulls;

	ga_aligned_array(array, INT8OID, "expected_versions", n, &expected, &nulls);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("expected_versions must not have NULLs"),
					 errhint("Use 0 for an agent that must not exist.")));
		check_expected(DatumGetInt64(expected[i]));
	}
	return expected;
}

static AgentRows *
begin_rows(FunctionCallInfo fcinfo, int *n)
{
	AgentRows  *rows = palloc0(sizeof(AgentRows));

	if (PG_ARGISNULL(ROWS_IDS))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ids must not be NULL")));
	rows->ids = ga_sorted_ids(PG_GETARG_DATUM(ROWS_IDS), "agent id", n);
	rows->has_state = !PG_ARGISNULL(ROWS_STATES);
	if (rows->has_state)
		ga_slices_begin(&rows->state, PG_GETARG_DATUM(ROWS_STATES), &ga_kind_agent_state, "states", *n);
	rows->has_memory = !PG_ARGISNULL(ROWS_MEMORIES);
	if (rows->has_memory)
		ga_slices_begin(&rows->memory, PG_GETARG_DATUM(ROWS_MEMORIES), &ga_kind_agent_state, "memories", *n);
	if (!PG_ARGISNULL(ROWS_FITNESS))
		take_fitness(rows, PG_GETARG_DATUM(ROWS_FITNESS), *n);
	if (!PG_ARGISNULL(ROWS_METADATA))
	{
		rows->metadata = PointerGetDatum(PG_GETARG_JSONB_P(ROWS_METADATA));
		ga_metadata_check(rows->metadata, *n);
		rows->one_metadata = JB_ROOT_IS_OBJECT(DatumGetJsonbP(rows->metadata));
	}
	if (!PG_ARGISNULL(ROWS_EXPECTED))
		rows->expected = take_expected(PG_GETARG_DATUM(ROWS_EXPECTED), *n);
	return rows;
}

PG_FUNCTION_INFO_V1(ga_agent_rows);
Datum
ga_agent_rows(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	AgentRows  *rows;
	GaIdRef    *id;
	Datum		values[6] = {0};
	bool		nulls[6] = {false, true, true, true, true, false};

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		TupleDesc	tupdesc;
		int			n;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		funcctx->tuple_desc = BlessTupleDesc(tupdesc);
		funcctx->user_fctx = begin_rows(fcinfo, &n);
		funcctx->max_calls = n;
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	rows = funcctx->user_fctx;
	if (funcctx->call_cntr >= funcctx->max_calls)
		SRF_RETURN_DONE(funcctx);

	id = &rows->ids[funcctx->call_cntr];
	values[0] = id->datum;
	if (rows->has_state)
	{
		values[1] = ga_slices_row(&rows->state, id->row);
		nulls[1] = false;
	}
	if (rows->has_memory)
	{
		values[2] = ga_slices_row(&rows->memory, id->row);
		nulls[2] = false;
	}
	if (rows->fitness && !rows->fitness_null[id->row])
	{
		values[3] = rows->fitness[id->row];
		nulls[3] = false;
	}
	if (rows->metadata)
	{
		values[4] = rows->one_metadata ? rows->metadata : ga_metadata_row(rows->metadata, id->row);
		nulls[4] = false;
	}
	values[5] = Int64GetDatum(rows->expected ? DatumGetInt64(rows->expected[id->row]) + 1 : 1);
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}

typedef enum ManyMode
{
	MANY_UPSERT,
	MANY_EXPECTED,				/* upsert of rows that lock_expected() has passed */
	MANY_UPDATE,				/* the agents that exist */
	MANY_REST,					/* upsert of those that do not */
	N_MANY_MODES
} ManyMode;

static GaPlan many_plans[N_MANY_MODES][1 << N_COLUMNS];

/*
 * The rows come from the target list, not from FROM: there they stream, while a
 * function in FROM would first be spooled, beyond work_mem to disk.
 */
#define AGENT_ROWS "(SELECT gpuagent_store.agent_rows($1, $2, $3, $5, $6, $7) AS x) r"

/* What the rows r give column i. */
static const char *
row_value(int i)
{
	return ARG_STATE + i == ARG_GENERATION ? psprintf("$%d", ARG_GENERATION + 1) : psprintf("(r.x).%s", column_names[i]);
}

static void
append_many_insert(StringInfo sql, int given, ManyMode mode)
{
	bool		expected = mode == MANY_EXPECTED;

	appendStringInfoString(sql, "INSERT INTO gpuagent.agent AS a (id");
	append_columns(sql, given);
	appendStringInfo(sql, "%s) SELECT (r.x).id", expected ? ", version" : "");
	for (int i = 0; i < N_COLUMNS; i++)
		if (given & (1 << i))
			appendStringInfo(sql, ", %s", row_value(i));
	appendStringInfo(sql, "%s FROM " AGENT_ROWS, expected ? ", (r.x).version" : "");
	/* A scalar subquery, because a join need not keep the order of the rows. */
	if (mode == MANY_REST)
		appendStringInfoString(sql, " WHERE (SELECT e.version FROM gpuagent.agent e"
							   " WHERE e.id OPERATOR(pg_catalog.=) (r.x).id) IS NULL");
	appendStringInfoString(sql, " ON CONFLICT (id) DO UPDATE SET ");
	append_assignments(sql, given, true);
	if (expected)
		appendStringInfoString(sql,
							   " WHERE (a.version OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog.=) EXCLUDED.version"
							   " AND EXCLUDED.version OPERATOR(pg_catalog.>) 1");
}

static void
append_many_update(StringInfo sql, int given)
{
	appendStringInfoString(sql, "UPDATE gpuagent.agent AS a SET ");
	for (int i = 0; i < N_COLUMNS; i++)
		if (given & (1 << i))
			appendStringInfo(sql, "%s = %s, ", column_names[i], row_value(i));
	append_assignments(sql, 0, false);
	appendStringInfoString(sql, " FROM " AGENT_ROWS " WHERE a.id OPERATOR(pg_catalog.=) (r.x).id");
}

static uint64
run_many(ManyMode mode, int given, const Oid *types, const Datum *values, const bool *nulls)
{
	GaPlan	   *plan = &many_plans[mode][given];

	if (!ga_plan_ready(plan, N_ARGS, types))
	{
		StringInfoData sql;

		initStringInfo(&sql);
		if (mode == MANY_UPDATE)
			append_many_update(&sql, given);
		else
			append_many_insert(&sql, given, mode);
		/* Generic: as constants the matrices would be copied, by the planner, and again with the plan. */
		ga_plan_prepare(plan, sql.data, N_ARGS, types, CURSOR_OPT_GENERIC_PLAN);
	}
	if (mode == MANY_UPDATE)
		ga_plan_nested(plan);
	return ga_plan_run(plan, values, nulls, false, NULL);
}

/* Number of ids among those of the array that are agents' (a statement of (text[], bigint)). */
static int64
count_agents(GaPlan *plan, const char *sql, const Datum *values)
{
	static const Oid types[] = {TEXTARRAYOID, INT8OID};
	bool		isnull;

	if (!ga_plan_ready(plan, 2, types))
		ga_plan_prepare(plan, sql, 2, types, 0);
	ga_plan_run(plan, values, NULL, false, NULL);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* True when every id is that of an agent, as in the next generation. Looks at three before it looks at all. */
static bool
all_exist(Datum id_array, int n)
{
	static GaPlan some;
	static GaPlan all;
	Datum		values[] = {id_array, Int64GetDatum(n)};

	return count_agents(&some, "SELECT pg_catalog.count(*) FROM gpuagent.agent a WHERE a.id OPERATOR(pg_catalog.=) ANY"
						" (ARRAY[($1)[1], ($1)[($2 OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog./) 2], ($1)[$2]])",
						values) == 3 &&
		count_agents(&all, "SELECT pg_catalog.count(*) FROM gpuagent.agent a"
					 " WHERE a.id OPERATOR(pg_catalog.=) ANY ($1) AND $2 IS NOT NULL", values) == n;
}

/*
 * Inserts or updates. ON CONFLICT alone would do, but it locks and then updates
 * each agent that exists, for a third more work and WAL than UPDATE; so where
 * all exist, they are updated. Where some do not, updating first would lock rows
 * out of the order of ids, and stores of the same ids could deadlock; only
 * agents that are deleted meanwhile are left to insert behind an update.
 */
static uint64
upsert_many(int given, int n, const Oid *types, const Datum *values, const bool *nulls)
{
	uint64		written;

	if (n < 16 || !all_exist(values[ARG_ID], n))
		return run_many(MANY_UPSERT, given, types, values, nulls);
	written = run_many(MANY_UPDATE, given, types, values, nulls);
	if (written < n)
		written += run_many(MANY_REST, given, types, values, nulls);
	return written;
}

/*
 * Locks the agents that exist, in id order, and compares their versions; 40001
 * at the first that differs. Rows expected to be absent are caught by the
 * statement that follows.
 */
static void
lock_expected(Datum id_array, Datum expected_array)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTARRAYOID};
	int			n;
	GaIdRef    *ids = ga_sorted_ids(id_array, "agent id", &n);
	Datum	   *expected = take_expected(expected_array, n);
	uint64		found;
	uint64		next = 0;

	if (!ga_plan_ready(&plan, 1, types))
		ga_plan_prepare(&plan, "SELECT a.id, a.version FROM gpuagent.agent a"
						" WHERE a.id OPERATOR(pg_catalog.=) ANY ($1) ORDER BY a.id FOR NO KEY UPDATE",
						1, types, 0);
	/* The table before its rows: a restore locks the table and then the rows, and would otherwise wait in a circle. */
	(void) RangeVarGetRelid(makeRangeVar("gpuagent", "agent", -1), RowExclusiveLock, false);
	found = ga_plan_run(&plan, &id_array, NULL, false, NULL);
	for (int i = 0; i < n; i++)
	{
		int64		want = DatumGetInt64(expected[ids[i].row]);
		int64		have = -1;

		if (next < found)
		{
			bool		isnull;
			HeapTuple	row = SPI_tuptable->vals[next];
			text	   *id = DatumGetTextPP(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));

			if (ga_bytes_cmp(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), ids[i].bytes, ids[i].len) == 0)
			{
				have = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
				next++;
			}
		}
		if (want == 0 ? have >= 0 : have != want)
			report_version(ga_id_text(&ids[i]), have, want);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* store_agents(ids, states, memories, generation, fitness, metadata, expected_versions): rows written. */
PG_FUNCTION_INFO_V1(ga_store_agents);
Datum
ga_store_agents(PG_FUNCTION_ARGS)
{
	Oid			types[N_ARGS] = {TEXTARRAYOID, InvalidOid, InvalidOid, INT8OID, FLOAT8ARRAYOID, JSONBOID, INT8ARRAYOID};
	Datum		values[N_ARGS];
	bool		nulls[N_ARGS];
	int			given = given_columns(fcinfo);
	ArrayType  *ids;
	int			n;
	uint64		written;

	ga_setup_check();
	if (PG_ARGISNULL(ARG_ID))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("ids must not be NULL")));
	ids = PG_GETARG_ARRAYTYPE_P(ARG_ID);
	n = ArrayGetNItems(ARR_NDIM(ids), ARR_DIMS(ids));
	types[ARG_STATE] = types[ARG_MEMORY] = ga_type_oid("swarm_tensor");
	arguments(fcinfo, values, nulls);

	SPI_connect();
	if (nulls[ARG_EXPECTED])
		written = upsert_many(given, n, types, values, nulls);
	else
	{
		lock_expected(values[ARG_ID], values[ARG_EXPECTED]);
		written = run_many(MANY_EXPECTED, given, types, values, nulls);
		if (written < n)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("some agents do not have the expected version"),
					 errdetail("They were stored while this call ran, or a trigger kept them from being written."),
					 errhint("Read them again and retry.")));
	}
	SPI_finish();
	PG_RETURN_INT64(written);
}
