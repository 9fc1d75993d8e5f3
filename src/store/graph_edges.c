/*
 * graph_edges.c
 *		The edges at a set of nodes (graph_walk.h), from one of two sources.
 *
 * Direct: the keys (graph, source, target, edge_type) and (graph, target, source,
 * edge_type) are read by index scans. Most edges of a dense graph lead to nodes
 * that were reached before, so that it does not matter whether they are visible.
 * Of those that the walk wants, the visibility map or else the row tells, as in
 * an index-only scan, under the snapshot that a query of the walk would have;
 * predicate locks of SERIALIZABLE are those of such a scan.
 *
 * SQL: one prepared statement per set of nodes. It is the way whenever a query
 * would do more than read the table: row security, rights on columns only,
 * inheritance, a hook that checks or logs the rights of queries, columns or
 * indexes that are not those of setup(). So the direct way never shows what SQL
 * would hide; when rights are missing, SQL says which.
 */
#include "base/compat.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/itup.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/visibilitymap.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "store/graph_walk.h"
#include "store/plan.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/float.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

enum
{
	COL_GRAPH, COL_SOURCE, COL_TARGET, COL_TYPE, N_KEY_COLUMNS,
	COL_WEIGHT = N_KEY_COLUMNS, N_COLUMNS
};

static const char *const columns[N_COLUMNS] = {"graph", "source", "target", "edge_type", "weight"};

enum
{
	PARAM_GRAPH, PARAM_NODES, PARAM_TYPES, PARAM_MIN_WEIGHT, N_PARAMS
};

static const Oid param_types[N_PARAMS] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, FLOAT8OID};

/* One direction of the direct way; index NULL: there is none. */
typedef struct EdgeScan
{
	Relation	index;
	IndexScanDesc desc;
	int			weight;			/* its position in the index, -1: only the row has it */
} EdgeScan;

struct GaEdges
{
	DestReceiver pub;			/* takes the rows of a statement */
	Datum		values[N_PARAMS];
	bool		nulls[N_PARAMS];
	bool		any_type;
	GaName	   *types;			/* sorted */
	int			ntypes;
	double		min_weight;		/* when that is not NULL */

	Relation	table;			/* NULL: SQL */
	AttrNumber	weight_column;
	TupleTableSlot *slot;
	Buffer		map;			/* of the visibility map */
	EdgeScan	scans[2];		/* outward, inward */
	MemoryContext detoasted;

	/* of the visit under way */
	const GaEdgeVisitor *visitor;
	const GaNames *names;
	const uint32 *nodes;
	uint32		count;
	bool		inward;
};

/* ---- may a query's work be done here ---- */

/* The columns that setup() made; their numbers in the table go to `numbers`. */
static bool
has_our_columns(Oid table, AttrNumber *numbers)
{
	for (int i = 0; i < N_COLUMNS; i++)
	{
		Oid			type,
					collation;
		int32		typmod;

		numbers[i] = get_attnum(table, columns[i]);
		if (numbers[i] <= 0)
			return false;
		get_atttypetypmodcoll(table, numbers[i], &type, &typmod, &collation);
		if (i == COL_WEIGHT ? type != FLOAT8OID : type != TEXTOID || collation != C_COLLATION_OID)
			return false;
	}
	return true;
}

/* A table that a query of this user would read as it is. */
static bool
is_plain(Relation rel)
{
	Form_pg_class form = rel->rd_rel;

	return form->relkind == RELKIND_RELATION && !form->relhassubclass &&
		(form->relpersistence != RELPERSISTENCE_UNLOGGED || !RecoveryInProgress()) &&
		check_enable_rls(RelationGetRelid(rel), InvalidOid, true) != RLS_ENABLED;
}

/* As for the planner: complete, and without broken chains of versions that this snapshot could need. */
static bool
is_usable(Relation index)
{
	Form_pg_index form = index->rd_index;

	return form->indisvalid &&
		(!form->indcheckxmin ||
		 TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data), TransactionXmin)) &&
		RelationGetIndexExpressions(index) == NIL && RelationGetIndexPredicate(index) == NIL;
}

/* Whether a btree begins with these columns, ascending and bytewise. */
static bool
has_key(Relation index, const AttrNumber *numbers, bool inward)
{
	const int	key[N_KEY_COLUMNS] = {COL_GRAPH, inward ? COL_TARGET : COL_SOURCE, inward ? COL_SOURCE : COL_TARGET, COL_TYPE};

	if (index->rd_rel->relam != BTREE_AM_OID || IndexRelationGetNumberOfKeyAttributes(index) < N_KEY_COLUMNS)
		return false;
	for (int i = 0; i < N_KEY_COLUMNS; i++)
		if (index->rd_index->indkey.values[i] != numbers[key[i]] || index->rd_opfamily[i] != TEXT_BTREE_FAM_OID ||
			index->rd_indcollation[i] != C_COLLATION_OID || index->rd_indoption[i] != 0)
			return false;
	return true;
}

static int
position_in(Relation index, AttrNumber column)
{
	for (int i = 0; i < IndexRelationGetNumberOfAttributes(index); i++)
		if (index->rd_index->indkey.values[i] == column)
			return i;
	return -1;
}

static void
find_indexes(GaEdges *edges, const AttrNumber *numbers)
{
	List	   *list = RelationGetIndexList(edges->table);
	ListCell   *cell;

	foreach(cell, list)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		bool		kept = false;

		for (int inward = 0; inward < 2 && !kept; inward++)
			if (edges->scans[inward].index == NULL && is_usable(index) && has_key(index, numbers, inward))
			{
				edges->scans[inward].index = index;
				edges->scans[inward].weight = position_in(index, numbers[COL_WEIGHT]);
				kept = true;
			}
		if (!kept)
			index_close(index, AccessShareLock);
	}
	list_free(list);
}

/* Opens the table for the direct way, if a query of this user would do nothing else. */
static void
open_table(GaEdges *edges)
{
	Oid			schema = get_namespace_oid("gpuagent", true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid("graph_edge", schema) : InvalidOid;
	AttrNumber	numbers[N_COLUMNS];
	Relation	rel;

	if (!OidIsValid(relid) || ExecutorCheckPerms_hook != NULL || !IsMVCCSnapshot(GetActiveSnapshot()) ||
		ga_namespace_aclcheck(schema, GetUserId(), ACL_USAGE) != ACLCHECK_OK ||
		pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		return;
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		return;
	if (!is_plain(rel) || !has_our_columns(relid, numbers))
	{
		relation_close(rel, AccessShareLock);
		return;
	}
	edges->table = rel;
	edges->weight_column = numbers[COL_WEIGHT];
	edges->slot = table_slot_create(rel, NULL);
	find_indexes(edges, numbers);
}

/* ---- the accepted types ---- */

static int
compare_names(const void *a, const void *b)
{
	return ga_name_cmp(*(const GaName *) a, *(const GaName *) b);
}

static void
take_types(GaEdges *edges, Datum array)
{
	Datum	   *values;
	bool	   *nulls;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
	edges->types = palloc(sizeof(GaName) * Max(count, 1));
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			edges->types[edges->ntypes++] = ga_name_of(values[i]);
	qsort(edges->types, edges->ntypes, sizeof(GaName), compare_names);
}

static bool
accepts_type(const GaEdges *edges, GaName type)
{
	return edges->any_type ||
		bsearch(&type, edges->types, edges->ntypes, sizeof(GaName), compare_names) != NULL;
}

/* ---- direct ---- */

/* A column of an index; one that the table holds compressed is decompressed into a context that the next edge resets. */
static GaName
key_name(GaEdges *edges, Datum value)
{
	MemoryContext old;
	GaName		name;

	if (!VARATT_IS_EXTENDED(DatumGetPointer(value)) || VARATT_IS_SHORT(DatumGetPointer(value)))
		return (GaName) {VARDATA_ANY(DatumGetPointer(value)), VARSIZE_ANY_EXHDR(DatumGetPointer(value))};
	old = MemoryContextSwitchTo(edges->detoasted);
	name = ga_name_of(value);
	MemoryContextSwitchTo(old);
	return name;
}

static bool
is_heavy_enough(const GaEdges *edges, const GaEdge *edge)
{
	return edges->nulls[PARAM_MIN_WEIGHT] || float8_ge(edge->weight, edges->min_weight);
}

/* True when the edge is visible; then it has its weight. */
static bool
fetch_edge(GaEdges *edges, IndexScanDesc desc, GaEdge *edge)
{
	BlockNumber block = ItemPointerGetBlockNumber(&desc->xs_heaptid);
	bool		isnull;

	if (edge->has_weight && VM_ALL_VISIBLE(edges->table, block, &edges->map))
	{
		PredicateLockPage(edges->table, block, desc->xs_snapshot);
		return true;
	}
	if (!index_fetch_heap(desc, edges->slot))
		return false;
	edge->weight = DatumGetFloat8(slot_getattr(edges->slot, edges->weight_column, &isnull));
	ExecClearTuple(edges->slot);
	return !isnull;
}

/* What the index tells of an edge; false when that is enough to leave it out. */
static bool
read_key(GaEdges *edges, IndexScanDesc desc, int weight, GaEdge *edge)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	index_deform_tuple(desc->xs_itup, desc->xs_itupdesc, values, nulls);
	if (nulls[2] || nulls[3])
		return false;
	edge->type = key_name(edges, values[3]);
	if (!accepts_type(edges, edge->type))
		return false;
	edge->other = key_name(edges, values[2]);
	edge->has_weight = weight >= 0 && !nulls[weight];
	if (edge->has_weight)
		edge->weight = DatumGetFloat8(values[weight]);
	return !edge->has_weight || is_heavy_enough(edges, edge);
}

/* The edges at one node, in order of their other ends. */
static void
read_node(GaEdges *edges, IndexScanDesc desc, int weight, uint32 from)
{
	GaEdge		edge = {.from = from,.inward = edges->inward};

	while (index_getnext_tid(desc, ForwardScanDirection) != NULL)
	{
		GaEdgeWish	wish;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(edges->detoasted);
		if (!read_key(edges, desc, weight, &edge))
			continue;
		wish = edges->visitor->wish(edges->visitor->arg, &edge);
		if (wish == GA_EDGE_ENOUGH)
			break;
		if (wish == GA_EDGE_TAKE && fetch_edge(edges, desc, &edge) && is_heavy_enough(edges, &edge))
			edges->visitor->take(edges->visitor->arg, &edge);
	}
}

static IndexScanDesc
scan_of(GaEdges *edges, EdgeScan *scan)
{
	if (scan->desc == NULL)
	{
		scan->desc = ga_index_beginscan(edges->table, scan->index, GetActiveSnapshot(), 2, 0);
		scan->desc->xs_want_itup = true;
	}
	return scan->desc;
}

static void
visit_directly(GaEdges *edges)
{
	EdgeScan   *scan = &edges->scans[edges->inward];
	IndexScanDesc desc = scan_of(edges, scan);
	ScanKeyData keys[2];

	for (int i = 0; i < 2; i++)
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, TEXTOID, C_COLLATION_OID, F_TEXTEQ,
							   edges->values[PARAM_GRAPH]);
	for (uint32 i = 0; i < edges->count; i++)
	{
		keys[1].sk_argument = ga_name_datum(ga_name(edges->names, edges->nodes[i]));
		index_rescan(desc, keys, 2, NULL, 0);
		read_node(edges, desc, scan->weight, i);
		pfree(DatumGetPointer(keys[1].sk_argument));
	}
}

/* ---- SQL ---- */

/* Position of a node in the sorted list; it is there. */
static uint32
position_of(const GaEdges *edges, GaName node)
{
	uint32		low = 0,
				high = edges->count;

	while (high - low > 1)
	{
		uint32		middle = low + (high - low) / 2;

		if (ga_name_cmp(ga_name(edges->names, edges->nodes[middle]), node) <= 0)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	GaEdges    *edges = (GaEdges *) self;
	GaEdge		edge = {.inward = edges->inward,.has_weight = true};

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	edge.from = position_of(edges, ga_name_of(slot->tts_values[0]));
	edge.other = ga_name_of(slot->tts_values[1]);
	edge.type = ga_name_of(slot->tts_values[2]);
	edge.weight = DatumGetFloat8(slot->tts_values[3]);
	if (edges->visitor->wish(edges->visitor->arg, &edge) == GA_EDGE_TAKE)
		edges->visitor->take(edges->visitor->arg, &edge);
	return true;
}

static void
startup_receiver(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	Assert(typeinfo->natts == 4);
}

static void
shutdown_receiver(DestReceiver *self)
{
}

static const GaPlan *
statement_of(const GaEdges *edges)
{
	static GaPlan plans[2][2][2];
	bool		types = !edges->nulls[PARAM_TYPES];
	bool		min_weight = !edges->nulls[PARAM_MIN_WEIGHT];
	GaPlan	   *plan = &plans[edges->inward][types][min_weight];
	const char *from = columns[edges->inward ? COL_TARGET : COL_SOURCE];
	const char *other = columns[edges->inward ? COL_SOURCE : COL_TARGET];
	StringInfoData sql;

	if (ga_plan_ready(plan, N_PARAMS, param_types))
		return plan;
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT e.%s, e.%s, e.edge_type, e.weight FROM gpuagent.graph_edge e"
					 " WHERE e.graph OPERATOR(pg_catalog.=) $%d AND e.%s OPERATOR(pg_catalog.=) ANY ($%d)",
					 from, other, PARAM_GRAPH + 1, from, PARAM_NODES + 1);
	if (types)
		appendStringInfo(&sql, " AND e.edge_type OPERATOR(pg_catalog.=) ANY ($%d)", PARAM_TYPES + 1);
	if (min_weight)
		appendStringInfo(&sql, " AND e.weight OPERATOR(pg_catalog.>=) $%d", PARAM_MIN_WEIGHT + 1);
	ga_plan_prepare(plan, sql.data, N_PARAMS, param_types, 0);
	return plan;
}

static void
visit_by_statement(GaEdges *edges)
{
	Datum	   *ids = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Datum) * (Size) edges->count);

	for (uint32 i = 0; i < edges->count; i++)
		ids[i] = ga_name_datum(ga_name(edges->names, edges->nodes[i]));
	edges->values[PARAM_NODES] = PointerGetDatum(construct_array(ids, edges->count, TEXTOID, -1, false, TYPALIGN_INT));
	for (uint32 i = 0; i < edges->count; i++)
		pfree(DatumGetPointer(ids[i]));
	pfree(ids);
	ga_plan_run(statement_of(edges), edges->values, edges->nulls, true, &edges->pub);
	pfree(DatumGetPointer(edges->values[PARAM_NODES]));
}

/* ---- both ---- */

GaEdges *
ga_edges_open(Datum graph, NullableDatum types, NullableDatum min_weight)
{
	GaEdges    *edges = palloc0(sizeof(GaEdges));

	edges->pub.receiveSlot = receive_row;
	edges->pub.rStartup = startup_receiver;
	edges->pub.rShutdown = shutdown_receiver;
	edges->pub.rDestroy = shutdown_receiver;
	edges->pub.mydest = DestNone;
	edges->values[PARAM_GRAPH] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(graph));
	edges->values[PARAM_TYPES] = types.value;
	edges->nulls[PARAM_TYPES] = edges->any_type = types.isnull;
	if (!types.isnull)
		take_types(edges, types.value);
	edges->values[PARAM_MIN_WEIGHT] = min_weight.value;
	edges->nulls[PARAM_MIN_WEIGHT] = min_weight.isnull;
	edges->min_weight = min_weight.isnull ? 0 : DatumGetFloat8(min_weight.value);
	edges->detoasted = AllocSetContextCreate(CurrentMemoryContext, "gpuagent graph edge", ALLOCSET_SMALL_SIZES);
	open_table(edges);
	return edges;
}

void
ga_edges_visit(GaEdges *edges, bool inward, const GaNames *names, const uint32 *nodes, uint32 count,
			   const GaEdgeVisitor *visitor)
{
	edges->visitor = visitor;
	edges->names = names;
	edges->nodes = nodes;
	edges->count = count;
	edges->inward = inward;
	if (edges->scans[inward].index != NULL)
		visit_directly(edges);
	else
		visit_by_statement(edges);
}

/* Locks stay to the end of the transaction, as a query's do. */
void
ga_edges_close(GaEdges *edges)
{
	for (int i = 0; i < 2; i++)
	{
		if (edges->scans[i].desc != NULL)
			index_endscan(edges->scans[i].desc);
		if (edges->scans[i].index != NULL)
			index_close(edges->scans[i].index, NoLock);
	}
	if (BufferIsValid(edges->map))
		ReleaseBuffer(edges->map);
	if (edges->table != NULL)
	{
		ExecDropSingleTupleTableSlot(edges->slot);
		relation_close(edges->table, NoLock);
	}
}
