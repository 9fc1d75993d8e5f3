/*
 * graph.c
 *		Storing nodes and edges of knowledge graphs in bulk. As for agents, each
 *		statement is plain SQL under the caller's rights, writes only what is given
 *		and locks rows in key order.
 */
#include "base/compat.h"

#include <math.h>

#include "base/names.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/plan.h"
#include "store/rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

static void
require_argument(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what)));
}

/* First call of a set-returning function with OUT columns; the caller is in the long-lived context afterwards. */
static FuncCallContext *
begin_set(FunctionCallInfo fcinfo, MemoryContext *old)
{
	FuncCallContext *funcctx = SRF_FIRSTCALL_INIT();
	TupleDesc	tupdesc;

	*old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	funcctx->tuple_desc = BlessTupleDesc(tupdesc);
	return funcctx;
}

static void
arguments(FunctionCallInfo fcinfo, int n, Datum *values, bool *nulls)
{
	for (int i = 0; i < n; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i);
	}
}

/* Optional metadata of n rows; 0 when the argument is NULL. */
static Datum
take_metadata(FunctionCallInfo fcinfo, int arg, int n)
{
	Datum		metadata;

	if (PG_ARGISNULL(arg))
		return (Datum) 0;
	metadata = PointerGetDatum(PG_GETARG_JSONB_P(arg));
	ga_metadata_check(metadata, n);
	return metadata;
}

/* ---- nodes ---- */

typedef struct NodeRows
{
	GaIdRef    *ids;
	bool		has_embedding;
	GaSlices	embedding;
	Datum		metadata;
} NodeRows;

/* node_rows(ids, embeddings, metadata) TABLE(id, embedding, metadata): the arguments of store_nodes as rows in id order */
PG_FUNCTION_INFO_V1(ga_node_rows);
Datum
ga_node_rows(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	NodeRows   *rows;
	GaIdRef    *id;
	Datum		values[3] = {0};
	bool		nulls[3] = {false, true, true};

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		int			n;

		require_argument(fcinfo, 0, "ids");
		funcctx = begin_set(fcinfo, &old);
		rows = palloc0(sizeof(NodeRows));
		rows->ids = ga_sorted_ids(PG_GETARG_DATUM(0), "node id", &n);
		rows->has_embedding = !PG_ARGISNULL(1);
		if (rows->has_embedding)
			ga_slices_begin(&rows->embedding, PG_GETARG_DATUM(1), &ga_kind_embedding, "embeddings", n);
		rows->metadata = take_metadata(fcinfo, 2, n);
		funcctx->user_fctx = rows;
		funcctx->max_calls = n;
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	rows = funcctx->user_fctx;
	if (funcctx->call_cntr >= funcctx->max_calls)
		SRF_RETURN_DONE(funcctx);

	id = &rows->ids[funcctx->call_cntr];
	values[0] = id->datum;
	if (rows->has_embedding)
	{
		values[1] = ga_slices_row(&rows->embedding, id->row);
		nulls[1] = false;
	}
	if (rows->metadata)
	{
		values[2] = ga_metadata_row(rows->metadata, id->row);
		nulls[2] = false;
	}
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}

/* Creates the graph when it is missing and holds it to the dimension, 22000; dim 0: none to check. */
static void
require_graph_dim(Datum graph, int64 dim)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID, INT8OID};
	Datum		values[] = {graph, Int64GetDatum(dim)};
	bool		nulls[] = {false, dim == 0};

	if (!ga_plan_ready(&plan, 2, types))
		ga_plan_prepare(&plan, "SELECT gpuagent_store.require_graph_dim($1, $2)", 2, types, 0);
	ga_plan_run(&plan, values, nulls, false, NULL);
}

static const char *
nodes_statement(bool embedding, bool metadata)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO gpuagent.graph_node AS n (graph, id%s%s) SELECT $1, (r.x).id%s%s"
					 " FROM (SELECT gpuagent_store.node_rows($2, $3, $4) AS x) r ON CONFLICT (graph, id) DO ",
					 embedding ? ", embedding" : "", metadata ? ", metadata" : "",
					 embedding ? ", (r.x).embedding" : "", metadata ? ", (r.x).metadata" : "");
	if (!embedding && !metadata)
		appendStringInfoString(&sql, "NOTHING");
	else
		appendStringInfo(&sql, "UPDATE SET %s%s%s", embedding ? "embedding = EXCLUDED.embedding" : "",
						 embedding && metadata ? ", " : "", metadata ? "metadata = EXCLUDED.metadata" : "");
	return sql.data;
}

/* Columns of an argument for embeddings; 22000 unless it is a matrix. */
static int64
matrix_width(Datum matrix)
{
	GaTensor   *tensor = (GaTensor *) PG_DETOAST_DATUM(matrix);

	if (tensor->ndim != 2)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("embeddings must be a matrix with one row per node"),
				 errdetail("It has %d dimensions.", tensor->ndim)));
	return tensor->dims[1];
}

/* store_nodes(graph, ids, embeddings, metadata): rows written */
PG_FUNCTION_INFO_V1(ga_store_nodes);
Datum
ga_store_nodes(PG_FUNCTION_ARGS)
{
	static GaPlan plans[2][2];
	bool		embedding = !PG_ARGISNULL(2);
	bool		metadata = !PG_ARGISNULL(3);
	GaPlan	   *plan = &plans[embedding][metadata];
	Oid			types[] = {TEXTOID, TEXTARRAYOID, InvalidOid, JSONBOID};
	Datum		values[4];
	bool		nulls[4];
	uint64		written;

	ga_setup_check();
	require_argument(fcinfo, 0, "graph");
	require_argument(fcinfo, 1, "ids");
	types[2] = ga_type_oid("swarm_tensor");
	arguments(fcinfo, 4, values, nulls);
	if (embedding)
		values[2] = PointerGetDatum(PG_DETOAST_DATUM(values[2]));

	SPI_connect();
	require_graph_dim(values[0], embedding ? matrix_width(values[2]) : 0);
	if (!ga_plan_ready(plan, 4, types))
		ga_plan_prepare(plan, nodes_statement(embedding, metadata), 4, types, 0);
	written = ga_plan_run(plan, values, nulls, false, NULL);
	SPI_finish();
	PG_RETURN_INT64(written);
}

/* ---- edges ---- */

typedef struct EdgeRef
{
	GaIdRef		source;
	GaIdRef		target;
	GaIdRef		type;
} EdgeRef;

typedef struct EdgeRows
{
	EdgeRef    *edges;
	Datum	   *weights;
	Datum		metadata;
} EdgeRows;

static int
compare_refs(const GaIdRef *a, const GaIdRef *b)
{
	return ga_bytes_cmp(a->bytes, a->len, b->bytes, b->len);
}

static int
compare_edges(const void *a, const void *b)
{
	const EdgeRef *x = a;
	const EdgeRef *y = b;
	int			cmp = compare_refs(&x->source, &y->source);

	if (cmp == 0)
		cmp = compare_refs(&x->target, &y->target);
	return cmp != 0 ? cmp : compare_refs(&x->type, &y->type);
}

/* "a" -> "b" type "t", for messages. */
static char *
edge_text(const EdgeRef *edge)
{
	return psprintf("\"%s\" to \"%s\", type \"%s\"", ga_id_text(&edge->source), ga_id_text(&edge->target),
					ga_id_text(&edge->type));
}

/* Fills the types: a name each, or the empty one. */
static void
take_edge_types(Datum array, EdgeRef *edges, int n)
{
	Datum	   *types;
	bool	   *nulls;

	ga_aligned_array(array, TEXTOID, "edge_types", n, &types, &nulls);
	for (int i = 0; i < n; i++)
	{
		GaIdRef    *type = &edges[i].type;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("edge type must not be NULL"),
					 errhint("The empty string is the default type.")));
		type->bytes = VARDATA_ANY(DatumGetPointer(types[i]));
		type->len = VARSIZE_ANY_EXHDR(DatumGetPointer(types[i]));
		type->datum = types[i];
		if (type->len > 0)
			ga_name_check("edge type", type->bytes, type->len);
	}
}

static EdgeRef *
take_edges(FunctionCallInfo fcinfo, int *count)
{
	int			n,
				ntargets;
	GaIdRef    *sources = ga_ids(PG_GETARG_DATUM(0), "edge source", &n);
	GaIdRef    *targets = ga_ids(PG_GETARG_DATUM(1), "edge target", &ntargets);
	EdgeRef    *edges = palloc0(sizeof(EdgeRef) * Max(n, 1));
	Datum		no_type = CStringGetTextDatum("");

	if (ntargets != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("targets has %d elements for %d sources", ntargets, n)));
	for (int i = 0; i < n; i++)
	{
		edges[i].source = sources[i];
		edges[i].target = targets[i];
		edges[i].type.bytes = "";
		edges[i].type.datum = no_type;
	}
	if (!PG_ARGISNULL(2))
		take_edge_types(PG_GETARG_DATUM(2), edges, n);
	qsort(edges, n, sizeof(EdgeRef), compare_edges);
	for (int i = 1; i < n; i++)
		if (compare_edges(&edges[i - 1], &edges[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("edge from %s occurs more than once", edge_text(&edges[i])),
					 errhint("Give each edge only once in a call.")));
	*count = n;
	return edges;
}

static Datum *
take_weights(Datum array, const EdgeRef *edges, int n)
{
	Datum	   *weights;
	bool	   *nulls;

	ga_aligned_array(array, FLOAT8OID, "weights", n, &weights, &nulls);
	for (int i = 0; i < n; i++)
	{
		int			row = edges[i].source.row;

		if (nulls[row])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("weight of the edge from %s must not be NULL", edge_text(&edges[i]))));
		if (!isfinite(DatumGetFloat8(weights[row])))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("weight of the edge from %s is not finite", edge_text(&edges[i]))));
	}
	return weights;
}

/*
 * edge_rows(sources, targets, edge_types, weights, metadata)
 * TABLE(source, target, edge_type, weight, metadata): the arguments of store_edges as rows in key order
 */
PG_FUNCTION_INFO_V1(ga_edge_rows);
Datum
ga_edge_rows(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	EdgeRows   *rows;
	EdgeRef    *edge;
	Datum		values[5] = {0};
	bool		nulls[5] = {false, false, false, true, true};

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		int			n;

		require_argument(fcinfo, 0, "sources");
		require_argument(fcinfo, 1, "targets");
		funcctx = begin_set(fcinfo, &old);
		rows = palloc0(sizeof(EdgeRows));
		rows->edges = take_edges(fcinfo, &n);
		if (!PG_ARGISNULL(3))
			rows->weights = take_weights(PG_GETARG_DATUM(3), rows->edges, n);
		rows->metadata = take_metadata(fcinfo, 4, n);
		funcctx->user_fctx = rows;
		funcctx->max_calls = n;
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	rows = funcctx->user_fctx;
	if (funcctx->call_cntr >= funcctx->max_calls)
		SRF_RETURN_DONE(funcctx);

	edge = &rows->edges[funcctx->call_cntr];
	values[0] = edge->source.datum;
	values[1] = edge->target.datum;
	values[2] = edge->type.datum;
	if (rows->weights)
	{
		values[3] = rows->weights[edge->source.row];
		nulls[3] = false;
	}
	if (rows->metadata)
	{
		values[4] = ga_metadata_row(rows->metadata, edge->source.row);
		nulls[4] = false;
	}
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}

static const char *
edges_statement(bool weights, bool metadata)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO gpuagent.graph_edge AS e (graph, source, target, edge_type%s%s)"
					 " SELECT $1, (r.x).source, (r.x).target, (r.x).edge_type%s%s"
					 " FROM (SELECT gpuagent_store.edge_rows($2, $3, $4, $5, $6) AS x) r"
					 " ON CONFLICT (graph, source, target, edge_type) DO ",
					 weights ? ", weight" : "", metadata ? ", metadata" : "",
					 weights ? ", (r.x).weight" : "", metadata ? ", (r.x).metadata" : "");
	if (!weights && !metadata)
		appendStringInfoString(&sql, "NOTHING");
	else
		appendStringInfo(&sql, "UPDATE SET %s%s%s", weights ? "weight = EXCLUDED.weight" : "",
						 weights && metadata ? ", " : "", metadata ? "metadata = EXCLUDED.metadata" : "");
	return sql.data;
}

/* store_edges(graph, sources, targets, edge_types, weights, metadata): rows written */
PG_FUNCTION_INFO_V1(ga_store_edges);
Datum
ga_store_edges(PG_FUNCTION_ARGS)
{
	static GaPlan check;
	static GaPlan plans[2][2];
	static const Oid types[] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID, JSONBOID};
	bool		weights = !PG_ARGISNULL(4);
	bool		metadata = !PG_ARGISNULL(5);
	GaPlan	   *plan = &plans[weights][metadata];
	Datum		values[6];
	bool		nulls[6];
	uint64		written;

	ga_setup_check();
	require_argument(fcinfo, 0, "graph");
	require_argument(fcinfo, 1, "sources");
	require_argument(fcinfo, 2, "targets");
	arguments(fcinfo, 6, values, nulls);

	SPI_connect();
	if (!ga_plan_ready(&check, 3, types))
		ga_plan_prepare(&check, "SELECT gpuagent_store.require_nodes($1, $2 OPERATOR(pg_catalog.||) $3)", 3, types, 0);
	ga_plan_run(&check, values, nulls, false, NULL);
	if (!ga_plan_ready(plan, 6, types))
		ga_plan_prepare(plan, edges_statement(weights, metadata), 6, types, 0);
	written = ga_plan_run(plan, values, nulls, false, NULL);
	SPI_finish();
	PG_RETURN_INT64(written);
}
