/*
 * graph_expand.c
 *		expand_knowledge_graph: the nodes within some hops of others, level by level.
 *
 * Nodes have numbers in order of arrival, so those of a level follow each other.
 * A complete level is sorted by id, and put out; it is the list from which the
 * next one is found, in which the smaller of two parents stands first.
 */
#include "base/compat.h"

#include "base/names.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/graph_walk.h"
#include "store/rows.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

/* The best way to a node of the level that is being found. */
typedef struct Way
{
	uint32		parent;			/* position in the frontier */
	uint32		type;
	double		weight;
} Way;

typedef struct Expansion
{
	MemoryContext context;
	GaNames    *nodes;
	GaNames    *types;
	uint32	   *frontier;		/* the level before */
	uint32		nfrontier;
	uint32		first;			/* of this level's nodes */
	Way		   *ways;			/* to these */
	uint32		capacity;		/* of ways */
	uint32		limit;			/* of this level's nodes only so many matter, those of the smallest ids */
	bool		has_cutoff;		/* they were that many and more: the first of them stand in order, and ids after the last do not matter */

	/* between the wish for an edge and its row */
	uint32		number;
	uint32		hash;
} Expansion;

static Way *
way_to(const Expansion *expansion, uint32 number)
{
	return &expansion->ways[number - expansion->first];
}

/*
 * Of two ways to a node the one from the smaller parent counts, then that of the smaller type, then the lighter one;
 * negative when the edge is better, 0 also when that depends on its weight, which is not known.
 */
static int
compare_way(const Expansion *expansion, const GaEdge *edge, const Way *way, bool weight_known)
{
	int			cmp = (edge->from > way->parent) - (edge->from < way->parent);

	if (cmp == 0)
		cmp = ga_name_cmp(edge->type, ga_name(expansion->types, way->type));
	if (cmp == 0 && weight_known)
		cmp = (edge->weight > way->weight) - (edge->weight < way->weight);
	return cmp;
}

static GaEdgeWish
wish_edge(void *arg, const GaEdge *edge)
{
	Expansion  *expansion = arg;

	if (expansion->has_cutoff &&
		ga_name_cmp(edge->other, ga_name(expansion->nodes, expansion->first + expansion->limit - 1)) > 0)
		return GA_EDGE_ENOUGH;
	expansion->number = ga_names_find(expansion->nodes, edge->other, &expansion->hash);
	if (expansion->number == GA_NO_NAME)
		return GA_EDGE_TAKE;
	if (expansion->number < expansion->first ||
		compare_way(expansion, edge, way_to(expansion, expansion->number), false) > 0)
		return GA_EDGE_SKIP;
	return GA_EDGE_TAKE;
}

/* The numbers of this level's nodes by id, in the current context. */
static uint32 *
sorted_level(const Expansion *expansion, uint32 *count)
{
	uint32	   *numbers;

	*count = ga_names_count(expansion->nodes) - expansion->first;
	numbers = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(uint32) * (Size) Max(*count, 1));
	for (uint32 i = 0; i < *count; i++)
		numbers[i] = expansion->first + i;
	ga_names_sort(expansion->nodes, numbers, *count);
	return numbers;
}

/* Keeps the limit of this level's nodes, so that a hub with millions of neighbours does not fill memory. */
static void
forget_surplus(Expansion *expansion)
{
	MemoryContext work = AllocSetContextCreate(expansion->context, "gpuagent graph level", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(work);
	uint32		count;
	uint32	   *numbers = sorted_level(expansion, &count);
	GaNames    *kept = ga_names_create();
	Way		   *ways = MemoryContextAllocHuge(work, sizeof(Way) * (Size) expansion->limit);

	for (uint32 i = 0; i < expansion->limit; i++)
	{
		ways[i] = *way_to(expansion, numbers[i]);
		(void) ga_names_number(kept, ga_name(expansion->nodes, numbers[i]));
	}
	ga_names_truncate(expansion->nodes, expansion->first);
	for (uint32 i = 0; i < expansion->limit; i++)
		(void) ga_names_number(expansion->nodes, ga_name(kept, i));
	memcpy(expansion->ways, ways, sizeof(Way) * (Size) expansion->limit);
	expansion->has_cutoff = true;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
}

static void
take_edge(void *arg, const GaEdge *edge)
{
	Expansion  *expansion = arg;
	uint32		count;
	Way		   *way;

	if (expansion->number != GA_NO_NAME)
	{
		way = way_to(expansion, expansion->number);
		if (compare_way(expansion, edge, way, true) >= 0)
			return;
	}
	else
	{
		expansion->number = ga_names_add(expansion->nodes, edge->other, expansion->hash);
		count = expansion->number - expansion->first;
		if (count == expansion->capacity)
		{
			expansion->capacity *= 2;
			expansion->ways = repalloc_huge(expansion->ways, sizeof(Way) * (Size) expansion->capacity);
		}
		way = way_to(expansion, expansion->number);
	}
	way->parent = edge->from;
	way->type = ga_names_number(expansion->types, edge->type);
	way->weight = edge->weight;
	if (ga_names_count(expansion->nodes) - expansion->first >= 2 * (uint64) expansion->limit + 1024)
		forget_surplus(expansion);
}

static void
put_row(const Expansion *expansion, uint32 number, int64 hop, ReturnSetInfo *rsinfo)
{
	Datum		values[5] = {ga_name_datum(ga_name(expansion->nodes, number)), Int64GetDatum(hop)};
	bool		nulls[5] = {false, false, hop == 0, hop == 0, hop == 0};

	if (hop > 0)
	{
		const Way  *way = way_to(expansion, number);

		values[2] = ga_name_datum(ga_name(expansion->nodes, expansion->frontier[way->parent]));
		values[3] = ga_name_datum(ga_name(expansion->types, way->type));
		values[4] = Float8GetDatum(way->weight);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	for (int i = 0; i < 4; i++)
		if (i != 1 && !nulls[i])
			pfree(DatumGetPointer(values[i]));
}

/* Puts out the limit of this level's nodes, smallest ids first; they are the frontier then. */
static void
finish_level(Expansion *expansion, int64 hop, ReturnSetInfo *rsinfo)
{
	uint32		count;
	uint32	   *numbers = sorted_level(expansion, &count);

	count = Min(count, expansion->limit);
	for (uint32 i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		put_row(expansion, numbers[i], hop, rsinfo);
	}
	if (expansion->frontier != NULL)
		pfree(expansion->frontier);
	expansion->frontier = numbers;
	expansion->nfrontier = count;
	expansion->limit -= count;
	expansion->first = ga_names_count(expansion->nodes);
	expansion->has_cutoff = false;
}

static bool
directions(FunctionCallInfo fcinfo, int arg, bool *inward)
{
	char	   *name = PG_ARGISNULL(arg) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(arg));
	bool		both = strcmp(name, "both") == 0;

	*inward = both || strcmp(name, "in") == 0;
	if (!*inward && strcmp(name, "out") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid direction \"%s\"", name),
				 errhint("Use out, in or both.")));
	return both || !*inward;
}

static Expansion *
begin_expansion(const GaIdRef *seeds, int nseeds, int64 max_nodes)
{
	Expansion  *expansion = palloc0(sizeof(Expansion));

	expansion->context = CurrentMemoryContext;
	expansion->nodes = ga_names_create();
	expansion->types = ga_names_create();
	expansion->capacity = 64;
	expansion->ways = palloc(sizeof(Way) * expansion->capacity);
	expansion->limit = (uint32) Min(max_nodes, PG_INT32_MAX);
	for (int i = 0; i < nseeds; i++)
		(void) ga_names_number(expansion->nodes, (GaName) {seeds[i].bytes, seeds[i].len});
	return expansion;
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
	int64		hops,
				max_nodes;
	bool		outward,
				inward;
	GaIdRef    *seeds;
	int			nseeds;
	Expansion  *expansion;
	GaEdges    *edges;

	ga_setup_check();
	ga_walk_argument(fcinfo, 0, "graph");
	ga_walk_argument(fcinfo, 1, "seeds");
	hops = ga_walk_bounded(fcinfo, 2, "hops", 0);
	outward = directions(fcinfo, 5, &inward);
	max_nodes = ga_walk_bounded(fcinfo, 6, "max_nodes", 1);
	seeds = ga_ids(PG_GETARG_DATUM(1), "seed", &nseeds);
	InitMaterializedSRF(fcinfo, 0);

	SPI_connect();
	ga_walk_require_nodes(PG_GETARG_DATUM(0), PG_GETARG_DATUM(1));
	edges = ga_edges_open(PG_GETARG_DATUM(0), fcinfo->args[3], fcinfo->args[4]);
	expansion = begin_expansion(seeds, nseeds, max_nodes);
	finish_level(expansion, 0, rsinfo);
	for (int64 hop = 1; hop <= hops && expansion->nfrontier > 0 && expansion->limit > 0; hop++)
	{
		GaEdgeVisitor visitor = {wish_edge, take_edge, expansion};

		if (outward)
			ga_edges_visit(edges, false, expansion->nodes, expansion->frontier, expansion->nfrontier, &visitor);
		if (inward)
			ga_edges_visit(edges, true, expansion->nodes, expansion->frontier, expansion->nfrontier, &visitor);
		finish_level(expansion, hop, rsinfo);
	}
	ga_edges_close(edges);
	SPI_finish();
	return (Datum) 0;
}
