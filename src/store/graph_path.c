/*
 * graph_path.c
 *		shortest_path: Dijkstra's search from both ends at once.
 *
 * A label is a way from the source to a node, or from a node to the target, of
 * some cost (the number of edges without weights) and some number of edges. A
 * side settles its open labels in order of (cost, edges). The answer is defined
 * by the forward side alone: of the cheapest paths one of fewest edges, and of
 * these the one whose last node has the smallest id, then whose edge has the
 * smallest type, and so back to the source. Costs are summed from the source.
 *
 * First both sides search in turns, the one with fewer open labels next, until
 * no path that is not known could be cheaper. When both have a way to a node,
 * `bound` is what the cheapest known path costs; weights have a slack in it for
 * sums that are rounded in another order. When the sum of the smallest open
 * costs of the two sides is larger, then each node of a path within the bound
 * has been settled forward, when the path up to it costs less than the smallest
 * open cost there, or else backward. So the forward side alone finishes: it
 * goes on only to nodes that have a way to the target that keeps within the
 * bound. It has then seen all that it would have seen of these paths by itself,
 * and nothing of the answer depends on where the sides met.
 *
 * Without weights all costs are whole numbers, and a label that is open has its
 * final cost, so that the sum of the smallest costs may equal the bound.
 *
 * How many edges a way has matters for weighted paths only if the cheapest path
 * has more than max_hops: then the search is made again, and a way that costs
 * more but has fewer edges is kept beside the other.
 */
#include "base/compat.h"

#include <float.h>
#include <math.h>

#include "base/names.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "store/graph_walk.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

typedef enum Side
{
	FORWARD,
	BACKWARD
} Side;

typedef struct Label
{
	pairingheap_node open;
	struct Label *parent;		/* nearer to the side's end; NULL there */
	struct Label *next;			/* of the same node and side */
	double		cost;
	double		weight;			/* of the edge from or to the parent */
	int64		hops;
	uint32		node;
	uint32		type;
	bool		settled;
} Label;

typedef struct Place
{
	Label	   *labels[2];
} Place;

#define LABELS_AT_ONCE 256

typedef struct Search
{
	MemoryContext context;
	GaEdges    *edges;
	GaNames    *names;
	GaNames    *types;
	Place	   *nodes;			/* by number */
	uint32		capacity;		/* of nodes */
	Label	   *spare;			/* memory for labels */
	int			nspare;
	int64		nlabels;
	pairingheap *open[2];
	int64		nopen[2];
	int64		max_hops;
	bool		weighted;
	bool		count_hops;		/* a way of more cost and fewer edges is worth keeping */
	bool		finishing;		/* the forward side goes on alone */
	double		best;			/* cost of the cheapest path known */

	/* between the wish for an edge and its row */
	Side		side;
	Label	   *from;
	uint32		number;
	uint32		hash;
} Search;

/* ---- labels ---- */

static int
compare_open(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const Label *x = pairingheap_const_container(Label, open, a);
	const Label *y = pairingheap_const_container(Label, open, b);

	/* The heap has the largest first. */
	if (x->cost != y->cost)
		return x->cost < y->cost ? 1 : -1;
	if (x->hops != y->hops)
		return x->hops < y->hops ? 1 : -1;
	return (x->node < y->node) - (x->node > y->node);
}

static Label *
new_label(Search *search)
{
	if (search->nspare == 0)
	{
		search->spare = MemoryContextAlloc(search->context, sizeof(Label) * LABELS_AT_ONCE);
		search->nspare = LABELS_AT_ONCE;
	}
	search->nlabels++;
	return &search->spare[--search->nspare];
}

static double
top_cost(const Search *search, Side side)
{
	if (pairingheap_is_empty(search->open[side]))
		return INFINITY;
	return pairingheap_container(Label, open, pairingheap_first(search->open[side]))->cost;
}

/* What a path may cost to matter. Each addition of weights errs by at most half an ulp; a path has fewer edges than labels. */
static double
bound(const Search *search)
{
	if (!search->weighted)
		return Min(search->best, (double) search->max_hops);
	return search->best * (1 + 4 * DBL_EPSILON * (search->nlabels + 2));
}

/* Whether a way of this cost and length makes another label of its node and side pointless. */
static bool
dominates(const Search *search, double cost, int64 hops, const Label *label)
{
	if (search->count_hops)
		return cost <= label->cost && hops <= label->hops;
	return cost < label->cost || (cost == label->cost && hops <= label->hops);
}

static bool
is_dominated(const Search *search, double cost, int64 hops, const Label *label)
{
	if (search->count_hops)
		return label->cost <= cost && label->hops <= hops;
	return label->cost < cost || (label->cost == cost && label->hops <= hops);
}

/* Of two ways to a node that cost the same and are equally long, is the one over this edge to be preferred to the label's? */
static bool
is_preferred(const Search *search, const Label *parent, const GaEdge *edge, const Label *label)
{
	int			cmp;

	if (label->parent == NULL)
		return false;
	cmp = ga_name_cmp(ga_name(search->names, parent->node), ga_name(search->names, label->parent->node));
	if (cmp == 0)
		cmp = ga_name_cmp(edge->type, ga_name(search->types, label->type));
	return cmp < 0;
}

/* Whether a way from the other end to the node completes a path of this way within the bound. */
static bool
completes(const Search *search, uint32 number, Side side, double cost, int64 hops)
{
	for (Label *other = search->nodes[number].labels[!side]; other != NULL; other = other->next)
		if (cost + other->cost <= bound(search) && (!search->count_hops || hops + other->hops <= search->max_hops))
			return true;
	return false;
}

/* Can a path within the bound begin, or end, with such a way to a node? number may be GA_NO_NAME. */
static bool
is_promising(const Search *search, uint32 number, Side side, double cost, int64 hops)
{
	if (search->count_hops && hops > search->max_hops)
		return false;
	if (search->finishing)
		return number != GA_NO_NAME && completes(search, number, side, cost, hops);
	if (!search->weighted && cost > search->max_hops)
		return false;
	/* From a node that the other side has not reached, it is as far as the other side's smallest open cost at least. */
	return cost + top_cost(search, !side) <= bound(search) ||
		(number != GA_NO_NAME && completes(search, number, side, cost, hops));
}

static void
note_meeting(Search *search, const Label *label, Side side)
{
	for (Label *other = search->nodes[label->node].labels[!side]; other != NULL; other = other->next)
		if (!search->count_hops || label->hops + other->hops <= search->max_hops)
			search->best = Min(search->best, label->cost + other->cost);
}

/* Takes a label that a better one replaces out of the heap and of its node's list. */
static Label *
unlink_label(Search *search, Side side, Label **place)
{
	Label	   *label = *place;

	Assert(!label->settled);
	pairingheap_remove(search->open[side], &label->open);
	search->nopen[side]--;
	*place = label->next;
	return label;
}

static void
open_label(Search *search, Side side, Label *label)
{
	label->settled = false;
	label->next = search->nodes[label->node].labels[side];
	search->nodes[label->node].labels[side] = label;
	pairingheap_add(search->open[side], &label->open);
	search->nopen[side]++;
	note_meeting(search, label, side);
}

/* The way over an edge becomes a label of its node, unless the node has as good a one. */
static void
offer(Search *search, const GaEdge *edge, uint32 number, double cost)
{
	int64		hops = search->from->hops + 1;
	Label	   *label = NULL;
	Label	  **place = &search->nodes[number].labels[search->side];

	while (*place != NULL)
	{
		Label	   *have = *place;

		if (have->cost == cost && have->hops == hops && !have->settled &&
			is_preferred(search, search->from, edge, have))
		{
			have->parent = search->from;
			have->type = ga_names_number(search->types, edge->type);
			have->weight = edge->weight;
			return;
		}
		if (is_dominated(search, cost, hops, have))
			return;
		if (dominates(search, cost, hops, have))
			label = unlink_label(search, search->side, place);
		else
			place = &have->next;
	}
	if (label == NULL)
		label = new_label(search);
	label->parent = search->from;
	label->cost = cost;
	label->weight = edge->weight;
	label->hops = hops;
	label->node = number;
	label->type = ga_names_number(search->types, edge->type);
	open_label(search, search->side, label);
}

/* ---- edges ---- */

static GaEdgeWish
wish_edge(void *arg, const GaEdge *edge)
{
	Search	   *search = arg;
	double		cost = search->from->cost + (!search->weighted ? 1 : edge->has_weight ? Max(edge->weight, 0) : 0);
	int64		hops = search->from->hops + 1;

	search->number = ga_names_find(search->names, edge->other, &search->hash);
	if (!is_promising(search, search->number, search->side, cost, hops))
		return GA_EDGE_SKIP;
	if (search->number != GA_NO_NAME)
		for (Label *label = search->nodes[search->number].labels[search->side]; label != NULL; label = label->next)
			if (label->settled ? is_dominated(search, cost, hops, label) :
				!search->weighted && (label->cost < cost || !is_preferred(search, search->from, edge, label)))
				return GA_EDGE_SKIP;
	return GA_EDGE_TAKE;
}

static uint32
add_node(Search *search, GaName name, uint32 hash)
{
	uint32		number = ga_names_add(search->names, name, hash);

	if (number == search->capacity)
	{
		search->capacity *= 2;
		search->nodes = repalloc_huge(search->nodes, sizeof(Place) * (Size) search->capacity);
	}
	search->nodes[number] = (Place) {{NULL, NULL}};
	return number;
}

static void
take_edge(void *arg, const GaEdge *edge)
{
	Search	   *search = arg;
	GaName		from = ga_name(search->names, search->from->node);
	double		cost;

	if (search->weighted && !(edge->weight >= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("weight %g of the edge from \"%s\" to \"%s\" is not a cost", edge->weight,
						ga_name_text(edge->inward ? edge->other : from), ga_name_text(edge->inward ? from : edge->other)),
				 errhint("A weighted path needs weights that are not negative; or use weighted => false.")));
	cost = search->from->cost + (search->weighted ? edge->weight : 1);
	if (!is_promising(search, search->number, search->side, cost, search->from->hops + 1))
		return;
	if (search->number == GA_NO_NAME)
		search->number = add_node(search, edge->other, search->hash);
	offer(search, edge, search->number, cost);
}

/* The first open label of a side, settled. */
static Label *
settle(Search *search, Side side)
{
	Label	   *label = pairingheap_container(Label, open, pairingheap_remove_first(search->open[side]));

	search->nopen[side]--;
	label->settled = true;
	return label;
}

/* Goes on from a label that was settled. */
static void
follow(Search *search, Side side, Label *label)
{
	GaEdgeVisitor visitor = {wish_edge, take_edge, search};

	CHECK_FOR_INTERRUPTS();
	if (!is_promising(search, label->node, side, label->cost, label->hops))
		return;
	search->side = side;
	search->from = label;
	ga_edges_visit(search->edges, side == BACKWARD, search->names, &label->node, 1, &visitor);
}

/* ---- the search ---- */

static void
add_end(Search *search, GaName name, Side side)
{
	uint32		hash;
	uint32		number = ga_names_find(search->names, name, &hash);
	Label	   *label = new_label(search);

	if (number == GA_NO_NAME)
		number = add_node(search, name, hash);
	memset(label, 0, sizeof(Label));
	label->node = number;
	open_label(search, side, label);
}

static bool
sides_are_done(const Search *search)
{
	double		sum = top_cost(search, FORWARD) + top_cost(search, BACKWARD);

	return search->weighted ? sum > bound(search) : sum >= bound(search);
}

static void
begin_search(Search *search)
{
	search->context = CurrentMemoryContext;
	search->names = ga_names_create();
	search->types = ga_names_create();
	search->capacity = 64;
	search->nodes = palloc(sizeof(Place) * search->capacity);
	search->nspare = 0;
	search->nlabels = 0;
	search->finishing = false;
	search->best = INFINITY;
	for (int side = 0; side < 2; side++)
	{
		search->open[side] = pairingheap_allocate(compare_open, NULL);
		search->nopen[side] = 0;
	}
}

/* The cheapest label of the target that the forward side has settled, or settles next; NULL: none. */
static Label *
finish(Search *search, uint32 target)
{
	Label	   *best = NULL;

	for (Label *label = search->nodes[target].labels[FORWARD]; label != NULL; label = label->next)
		if (label->settled && (best == NULL || label->cost < best->cost))
			best = label;
	search->finishing = true;
	while (best == NULL && search->nopen[FORWARD] > 0)
	{
		Label	   *label = settle(search, FORWARD);

		if (label->node == target)
			best = label;
		else
			follow(search, FORWARD, label);
	}
	return best;
}

/* The forward label of the target, or NULL; everything lies in the current context. */
static Label *
find_path(Search *search, GaName source, GaName target)
{
	begin_search(search);
	add_end(search, source, FORWARD);
	add_end(search, target, BACKWARD);
	while (search->nopen[FORWARD] > 0 && search->nopen[BACKWARD] > 0 && !sides_are_done(search))
	{
		Side		side = search->nopen[FORWARD] <= search->nopen[BACKWARD] ? FORWARD : BACKWARD;

		follow(search, side, settle(search, side));
	}
	return search->best < INFINITY ? finish(search, ga_names_number(search->names, target)) : NULL;
}

/* ---- shortest_path ---- */

static void
put_path(const Search *search, const Label *end, ReturnSetInfo *rsinfo)
{
	int64		length = end->hops;
	const Label **path = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Label *) * (length + 1));

	for (const Label *label = end; label != NULL; label = label->parent)
		path[label->hops] = label;
	for (int64 i = 0; i <= length; i++)
	{
		Datum		values[4] = {Int64GetDatum(i + 1), ga_name_datum(ga_name(search->names, path[i]->node))};
		bool		nulls[4] = {false, false, i == 0, i == 0};

		if (i > 0)
		{
			values[2] = ga_name_datum(ga_name(search->types, path[i]->type));
			values[3] = Float8GetDatum(path[i]->weight);
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* shortest_path(graph, source, target, weighted, max_hops) TABLE(ordinal, node, edge_type, weight) */
PG_FUNCTION_INFO_V1(ga_shortest_path);
Datum
ga_shortest_path(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const NullableDatum any = {0, true};
	Search		search = {0};
	Datum		ends[2];
	Label	   *end;

	ga_setup_check();
	ga_walk_argument(fcinfo, 0, "graph");
	ga_walk_argument(fcinfo, 1, "source");
	ga_walk_argument(fcinfo, 2, "target");
	ga_walk_argument(fcinfo, 3, "weighted");
	search.max_hops = ga_walk_bounded(fcinfo, 4, "max_hops", 0);
	search.weighted = PG_GETARG_BOOL(3);
	ends[0] = PG_GETARG_DATUM(1);
	ends[1] = PG_GETARG_DATUM(2);
	InitMaterializedSRF(fcinfo, 0);

	SPI_connect();
	ga_walk_require_nodes(PG_GETARG_DATUM(0), PointerGetDatum(construct_array(ends, 2, TEXTOID, -1, false, TYPALIGN_INT)));
	search.edges = ga_edges_open(PG_GETARG_DATUM(0), any, any);
	end = find_path(&search, ga_name_of(ends[0]), ga_name_of(ends[1]));
	if (end != NULL && end->hops > search.max_hops)
	{
		search.count_hops = true;
		end = find_path(&search, ga_name_of(ends[0]), ga_name_of(ends[1]));
	}
	if (end != NULL)
		put_path(&search, end, rsinfo);
	ga_edges_close(search.edges);
	SPI_finish();
	return (Datum) 0;
}
