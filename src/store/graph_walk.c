/*
 * graph_walk.c
 *		Walks over knowledge graphs: expansion over hops and shortest paths, one
 *		query per hop under the caller's rights and snapshot.
 *
 * Results are deterministic: of several edges that lead to a node at the same
 * hop and cost, the one from the smallest node id counts, then the one of the
 * smallest type, then the lightest; ids compare bytewise.
 */
#include "base/compat.h"

#include <math.h>

#include "base/names.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/plan.h"
#include "store/rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

typedef struct Id
{
	const char *bytes;
	int			len;
} Id;

/* One way to reach a node; immutable once its round is over. */
typedef struct Label
{
	struct Label *parent;		/* NULL at a start */
	Id		node;
	Id		edge_type;
	double		weight;
	double		cost;
	int64		hop;
} Label;

typedef struct NodeEntry
{
	Id		node;
	char		status;
	Label	   *label;			/* best of the rounds before, NULL: none */
	Label	   *next;			/* best of this round, NULL: none */
} NodeEntry;

#define SH_PREFIX nodes
#define SH_ELEMENT_TYPE NodeEntry
#define SH_KEY_TYPE Id
#define SH_KEY node
#define SH_HASH_KEY(tb, key) hash_bytes((const unsigned char *) (key).bytes, (key).len)
#define SH_EQUAL(tb, a, b) ((a).len == (b).len && memcmp((a).bytes, (b).bytes, (a).len) == 0)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef enum Direction
{
	DIRECTION_OUT,
	DIRECTION_IN,
	DIRECTION_BOTH,
	N_DIRECTIONS
} Direction;

enum
{
	PARAM_GRAPH,
	PARAM_FRONTIER,
	PARAM_TYPES,
	PARAM_MIN_WEIGHT,
	N_PARAMS
};

static const Oid param_types[N_PARAMS] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, FLOAT8OID};

typedef struct Walk
{
	DestReceiver pub;			/* takes the edges of a round */
	MemoryContext context;
	nodes_hash *nodes;
	GaPlan	   *plan;
	Datum		values[N_PARAMS];
	bool		nulls[N_PARAMS];
	bool		weighted;		/* cost is the sum of weights; else the number of hops */
	double		bound;			/* labels that cost this much or more lead nowhere better */
	int64		hop;			/* of this round */
	Label	  **found;			/* labels improved in this round, in no order */
	int64		nfound;
	int64		capacity;
	int64		limit;			/* only so many labels of a round matter, those of the smallest ids; 0: all */
	bool		has_cutoff;		/* the limit was passed: nodes after this one do not matter */
	Id			cutoff;
} Walk;

static int
compare_ids(Id a, Id b)
{
	return ga_bytes_cmp(a.bytes, a.len, b.bytes, b.len);
}

static Id
copy_id(const Walk *walk, Id name)
{
	char	   *bytes = MemoryContextAlloc(walk->context, Max(name.len, 1));

	memcpy(bytes, name.bytes, name.len);
	return (Id) {bytes, name.len};
}

static Id
id_of(Datum value)
{
	text	   *t = DatumGetTextPP(value);

	return (Id) {VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)};
}

static char *
id_text(Id name)
{
	return pnstrdup(name.bytes, name.len);
}

static Datum
id_datum(Id name)
{
	return PointerGetDatum(cstring_to_text_with_len(name.bytes, name.len));
}

/* Edges out of (or into) the frontier as (from, to, edge_type, weight). */
static void
append_edges(StringInfo sql, const char *from, const char *to, bool types, bool min_weight)
{
	appendStringInfo(sql, "SELECT e.%s, e.%s, e.edge_type, e.weight FROM gpuagent.graph_edge e"
					 " WHERE e.graph OPERATOR(pg_catalog.=) $%d AND e.%s OPERATOR(pg_catalog.=) ANY ($%d)",
					 from, to, PARAM_GRAPH + 1, from, PARAM_FRONTIER + 1);
	if (types)
		appendStringInfo(sql, " AND e.edge_type OPERATOR(pg_catalog.=) ANY ($%d)", PARAM_TYPES + 1);
	if (min_weight)
		appendStringInfo(sql, " AND e.weight OPERATOR(pg_catalog.>=) $%d", PARAM_MIN_WEIGHT + 1);
}

static void
prepare_walk(Walk *walk, Direction direction)
{
	static GaPlan plans[N_DIRECTIONS][2][2];
	bool		types = !walk->nulls[PARAM_TYPES];
	bool		min_weight = !walk->nulls[PARAM_MIN_WEIGHT];
	StringInfoData sql;

	walk->plan = &plans[direction][types][min_weight];
	if (ga_plan_ready(walk->plan, N_PARAMS, param_types))
		return;
	initStringInfo(&sql);
	if (direction != DIRECTION_IN)
		append_edges(&sql, "source", "target", types, min_weight);
	if (direction == DIRECTION_BOTH)
		appendStringInfoString(&sql, " UNION ALL ");
	if (direction != DIRECTION_OUT)
		append_edges(&sql, "target", "source", types, min_weight);
	ga_plan_prepare(walk->plan, sql.data, N_PARAMS, param_types, 0);
}

/* Of two labels of a node in one round, the one that counts. */
static int
compare_labels(const Label *a, const Label *b)
{
	int			cmp;

	if (a->cost != b->cost)
		return a->cost < b->cost ? -1 : 1;
	cmp = compare_ids(a->parent->node, b->parent->node);
	if (cmp == 0)
		cmp = compare_ids(a->edge_type, b->edge_type);
	if (cmp == 0)
		cmp = (a->weight > b->weight) - (a->weight < b->weight);
	return cmp;
}

static void
add_found(Walk *walk, Label *label)
{
	if (walk->nfound == walk->capacity)
	{
		walk->capacity *= 2;
		walk->found = repalloc_huge(walk->found, sizeof(Label *) * walk->capacity);
	}
	walk->found[walk->nfound++] = label;
}

static int
compare_label_nodes(const void *a, const void *b)
{
	return compare_ids((*(Label *const *) a)->node, (*(Label *const *) b)->node);
}

/* Forgets the labels of this round beyond the limit, so that a hub with millions of neighbours does not fill memory. */
static void
forget_surplus(Walk *walk)
{
	qsort(walk->found, walk->nfound, sizeof(Label *), compare_label_nodes);
	for (int64 i = walk->limit; i < walk->nfound; i++)
	{
		Label	   *label = walk->found[i];
		Id			node = label->node;

		nodes_delete(walk->nodes, node);
		pfree(unconstify(char *, label->edge_type.bytes));
		pfree(unconstify(char *, node.bytes));
		pfree(label);
	}
	walk->nfound = walk->limit;
	walk->has_cutoff = true;
	walk->cutoff = walk->found[walk->limit - 1]->node;
}

/* The label replaces what the node has, if that is worse. */
static void
offer(Walk *walk, const Label *label)
{
	NodeEntry  *entry = nodes_lookup(walk->nodes, label->node);
	Label	   *copy;
	bool		known;

	if (entry == NULL)
	{
		Id			node;

		if (walk->has_cutoff && compare_ids(label->node, walk->cutoff) > 0)
			return;
		node = copy_id(walk, label->node);
		entry = nodes_insert(walk->nodes, node, &known);
		entry->label = entry->next = NULL;
	}
	if (entry->label != NULL && !(label->cost < entry->label->cost))
		return;
	if (entry->next != NULL && compare_labels(label, entry->next) >= 0)
		return;
	copy = entry->next;
	if (copy == NULL)
	{
		copy = MemoryContextAlloc(walk->context, sizeof(Label));
		add_found(walk, copy);
		entry->next = copy;
	}
	else
		pfree(unconstify(char *, copy->edge_type.bytes));
	*copy = *label;
	copy->node = entry->node;
	copy->edge_type = copy_id(walk, label->edge_type);
	if (walk->limit > 0 && walk->nfound >= 2 * walk->limit + 1024)
		forget_surplus(walk);
}

static bool
receive_edge(TupleTableSlot *slot, DestReceiver *self)
{
	Walk	   *walk = (Walk *) self;
	Label		label;
	NodeEntry  *from;

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	from = nodes_lookup(walk->nodes, id_of(slot->tts_values[0]));
	if (from == NULL || from->label == NULL)
		return true;
	label.parent = from->label;
	label.node = id_of(slot->tts_values[1]);
	label.edge_type = id_of(slot->tts_values[2]);
	label.weight = DatumGetFloat8(slot->tts_values[3]);
	label.hop = walk->hop;
	if (walk->weighted && !(label.weight >= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weight %g of the edge from \"%s\" to \"%s\" is not a cost", label.weight,
						id_text(from->node), id_text(label.node)),
				 errhint("A weighted path needs weights that are not negative; or use weighted => false.")));
	label.cost = from->label->cost + (walk->weighted ? label.weight : 1);
	if (label.cost < walk->bound)
		offer(walk, &label);
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

static Walk *
begin_walk(Datum graph, Datum types, bool no_types, Datum min_weight, bool no_min_weight)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "gpuagent graph walk", ALLOCSET_DEFAULT_SIZES);
	Walk	   *walk = MemoryContextAllocZero(context, sizeof(Walk));

	walk->context = context;
	walk->nodes = nodes_create(context, 1024, NULL);
	walk->pub.receiveSlot = receive_edge;
	walk->pub.rStartup = startup_receiver;
	walk->pub.rShutdown = shutdown_receiver;
	walk->pub.rDestroy = shutdown_receiver;
	walk->pub.mydest = DestNone;
	walk->values[PARAM_GRAPH] = graph;
	walk->values[PARAM_TYPES] = types;
	walk->nulls[PARAM_TYPES] = no_types;
	walk->values[PARAM_MIN_WEIGHT] = min_weight;
	walk->nulls[PARAM_MIN_WEIGHT] = no_min_weight;
	walk->bound = INFINITY;
	walk->capacity = 64;
	walk->found = MemoryContextAlloc(context, sizeof(Label *) * walk->capacity);
	return walk;
}

/* A start of the walk; the same node again is ignored. */
static void
add_start(Walk *walk, Id node)
{
	bool		known;
	NodeEntry  *entry = nodes_insert(walk->nodes, node, &known);

	if (known)
		return;
	entry->node = copy_id(walk, node);
	entry->label = NULL;
	entry->next = MemoryContextAllocZero(walk->context, sizeof(Label));
	entry->next->node = entry->node;
	add_found(walk, entry->next);
}

/* What a round found becomes what its nodes have. */
static void
commit_label(Walk *walk, Label *label)
{
	NodeEntry  *entry = nodes_lookup(walk->nodes, label->node);

	entry->label = label;
	entry->next = NULL;
}

/* Finds the labels of the next hop from those of the frontier. */
static void
run_round(Walk *walk, Label **frontier, int64 count)
{
	Datum	   *ids = palloc(sizeof(Datum) * count);

	for (int64 i = 0; i < count; i++)
		ids[i] = id_datum(frontier[i]->node);
	walk->values[PARAM_FRONTIER] = PointerGetDatum(construct_array(ids, count, TEXTOID, -1, false, TYPALIGN_INT));
	for (int64 i = 0; i < count; i++)
		pfree(DatumGetPointer(ids[i]));
	pfree(ids);
	walk->hop++;
	walk->nfound = 0;
	walk->has_cutoff = false;
	ga_plan_run(walk->plan, walk->values, walk->nulls, true, &walk->pub);
	pfree(DatumGetPointer(walk->values[PARAM_FRONTIER]));
}

/* 42704 unless the graph has all the nodes. */
static void
require_nodes(Datum graph, Datum ids)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID, TEXTARRAYOID};
	Datum		values[] = {graph, ids};

	if (!ga_plan_ready(&plan, 2, types))
		ga_plan_prepare(&plan, "SELECT gpuagent_store.require_walk($1, $2)", 2, types, 0);
	ga_plan_run(&plan, values, NULL, true, NULL);
}

static Direction
direction_of(FunctionCallInfo fcinfo, int arg)
{
	char	   *name = PG_ARGISNULL(arg) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(arg));

	if (strcmp(name, "out") == 0)
		return DIRECTION_OUT;
	if (strcmp(name, "in") == 0)
		return DIRECTION_IN;
	if (strcmp(name, "both") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid direction \"%s\"", name),
				 errhint("Use out, in or both.")));
	return DIRECTION_BOTH;
}

static int64
bounded(FunctionCallInfo fcinfo, int arg, const char *what, int64 least)
{
	if (PG_ARGISNULL(arg) || PG_GETARG_INT64(arg) < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be at least " INT64_FORMAT, what, least)));
	return PG_GETARG_INT64(arg);
}

static void
require_argument(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what)));
}

/* ---- expand_knowledge_graph ---- */

static void
put_expanded(ReturnSetInfo *rsinfo, const Label *label)
{
	bool		start = label->parent == NULL;
	Datum		values[5] = {0};
	bool		nulls[5] = {false, false, start, start, start};

	values[0] = id_datum(label->node);
	values[1] = Int64GetDatum(label->hop);
	if (!start)
	{
		values[2] = id_datum(label->parent->node);
		values[3] = id_datum(label->edge_type);
		values[4] = Float8GetDatum(label->weight);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Takes up to max of the labels found, smallest ids first, into the walk and the result; the new frontier. */
static Label **
take_level(Walk *walk, int64 max, int64 *count, ReturnSetInfo *rsinfo)
{
	Label	  **frontier;

	*count = Min(walk->nfound, max);
	qsort(walk->found, walk->nfound, sizeof(Label *), compare_label_nodes);
	frontier = MemoryContextAllocHuge(walk->context, sizeof(Label *) * Max(*count, 1));
	memcpy(frontier, walk->found, sizeof(Label *) * *count);
	for (int64 i = 0; i < *count; i++)
	{
		commit_label(walk, frontier[i]);
		put_expanded(rsinfo, frontier[i]);
	}
	return frontier;
}

/*
 * expand_knowledge_graph(graph, seeds, hops, edge_types, min_weight, direction, max_nodes)
 * TABLE(node, hop, parent, edge_type, weight), ordered by hop and node
 */
PG_FUNCTION_INFO_V1(ga_expand_knowledge_graph);
Datum
ga_expand_knowledge_graph(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Walk	   *walk;
	Direction	direction;
	int64		hops,
				left,
				count;
	GaIdRef    *seeds;
	Label	  **frontier;
	int			nseeds;

	ga_setup_check();
	require_argument(fcinfo, 0, "graph");
	require_argument(fcinfo, 1, "seeds");
	hops = bounded(fcinfo, 2, "hops", 0);
	direction = direction_of(fcinfo, 5);
	left = bounded(fcinfo, 6, "max_nodes", 1);
	seeds = ga_ids(PG_GETARG_DATUM(1), "seed", &nseeds);
	InitMaterializedSRF(fcinfo, 0);

	SPI_connect();
	require_nodes(PG_GETARG_DATUM(0), PG_GETARG_DATUM(1));
	walk = begin_walk(PG_GETARG_DATUM(0), PG_GETARG_DATUM(3), PG_ARGISNULL(3), PG_GETARG_DATUM(4), PG_ARGISNULL(4));
	prepare_walk(walk, direction);
	for (int i = 0; i < nseeds; i++)
		add_start(walk, (Id) {seeds[i].bytes, seeds[i].len});
	frontier = take_level(walk, left, &count, rsinfo);
	while (hops-- > 0 && count > 0 && (left -= count) > 0)
	{
		Label	  **previous = frontier;

		walk->limit = left;
		run_round(walk, frontier, count);
		frontier = take_level(walk, left, &count, rsinfo);
		pfree(previous);
	}
	MemoryContextDelete(walk->context);
	SPI_finish();
	return (Datum) 0;
}

/* ---- shortest_path ---- */

static void
put_path(ReturnSetInfo *rsinfo, const Label *end)
{
	const Label **path = palloc(sizeof(Label *) * (end->hop + 1));

	for (const Label *label = end; label != NULL; label = label->parent)
		path[label->hop] = label;
	for (int64 i = 0; i <= end->hop; i++)
	{
		Datum		values[4] = {Int64GetDatum(i + 1), id_datum(path[i]->node)};
		bool		nulls[4] = {false, false, i == 0, i == 0};

		if (i > 0)
		{
			values[2] = id_datum(path[i]->edge_type);
			values[3] = Float8GetDatum(path[i]->weight);
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * Bellman and Ford's relaxation in rounds: after round h every node has the
 * cheapest way of at most h hops, so max_hops is exact, and one query serves a
 * whole round. Labels that cost as much as the best way to the target are not
 * followed; without weights this ends at the round that meets the target.
 */
static Label *
cheapest_path(Walk *walk, Id source, Id target, int64 max_hops)
{
	Label	   *best = NULL;
	Label	  **frontier;
	int64		count;

	add_start(walk, source);
	for (;;)
	{
		count = 0;
		frontier = MemoryContextAllocHuge(walk->context, sizeof(Label *) * Max(walk->nfound, 1));
		for (int64 i = 0; i < walk->nfound; i++)
		{
			Label	   *label = walk->found[i];

			commit_label(walk, label);
			if (compare_ids(label->node, target) == 0)
			{
				best = label;
				walk->bound = label->cost;
			}
		}
		for (int64 i = 0; i < walk->nfound; i++)
			if (walk->found[i]->cost < walk->bound)
				frontier[count++] = walk->found[i];
		if (count == 0 || walk->hop == max_hops)
			return best;
		run_round(walk, frontier, count);
		pfree(frontier);
	}
}

/* shortest_path(graph, source, target, weighted, max_hops) TABLE(ordinal, node, edge_type, weight) */
PG_FUNCTION_INFO_V1(ga_shortest_path);
Datum
ga_shortest_path(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		ends[2];
	int64		max_hops;
	Walk	   *walk;
	Label	   *end;

	ga_setup_check();
	require_argument(fcinfo, 0, "graph");
	require_argument(fcinfo, 1, "source");
	require_argument(fcinfo, 2, "target");
	require_argument(fcinfo, 3, "weighted");
	max_hops = bounded(fcinfo, 4, "max_hops", 0);
	ends[0] = PG_GETARG_DATUM(1);
	ends[1] = PG_GETARG_DATUM(2);
	InitMaterializedSRF(fcinfo, 0);

	SPI_connect();
	require_nodes(PG_GETARG_DATUM(0), PointerGetDatum(construct_array(ends, 2, TEXTOID, -1, false, TYPALIGN_INT)));
	walk = begin_walk(PG_GETARG_DATUM(0), (Datum) 0, true, (Datum) 0, true);
	walk->weighted = PG_GETARG_BOOL(3);
	prepare_walk(walk, DIRECTION_OUT);
	end = cheapest_path(walk, id_of(ends[0]), id_of(ends[1]), max_hops);
	if (end != NULL)
		put_path(rsinfo, end);
	MemoryContextDelete(walk->context);
	SPI_finish();
	return (Datum) 0;
}
