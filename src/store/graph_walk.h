/*
 * graph_walk.h
 *		What walks over knowledge graphs share: numbered names, and the edges at a
 *		set of nodes under the caller's snapshot, rights and row security.
 */
#ifndef GA_GRAPH_WALK_H
#define GA_GRAPH_WALK_H

#include "base/compat.h"

/* ---- names: distinct byte strings, numbered from 0 in order of arrival ---- */

typedef struct GaName
{
	const char *bytes;			/* not terminated; valid until the next name is added */
	int			len;
} GaName;

#define GA_NO_NAME UINT32_MAX

typedef struct GaNames GaNames;

/* In the current context; costs about 40 bytes a name and its bytes. */
extern GaNames *ga_names_create(void);
extern uint32 ga_names_count(const GaNames *names);
extern GaName ga_name(const GaNames *names, uint32 number);

/* GA_NO_NAME when it is not there; *hash is for ga_names_add. */
extern uint32 ga_names_find(GaNames *names, GaName name, uint32 *hash);

/* The number of a name that ga_names_find has not found; 54000 at 2^31 names. */
extern uint32 ga_names_add(GaNames *names, GaName name, uint32 hash);

/* Finds or adds. */
extern uint32 ga_names_number(GaNames *names, GaName name);

/* Forgets the names from this number on. */
extern void ga_names_truncate(GaNames *names, uint32 count);

/* Bytewise order. */
extern int	ga_name_cmp(GaName a, GaName b);
extern void ga_names_sort(const GaNames *names, uint32 *numbers, uint32 count);

extern GaName ga_name_of(Datum text_value);
extern Datum ga_name_datum(GaName name);
extern char *ga_name_text(GaName name);

/* ---- edges ---- */

typedef struct GaEdge
{
	uint32		from;			/* position in the list of nodes */
	GaName		other;
	GaName		type;
	double		weight;
	bool		has_weight;		/* for `wish` it may not be known yet */
	bool		inward;
} GaEdge;

typedef enum GaEdgeWish
{
	GA_EDGE_SKIP,				/* whether it is visible does not matter */
	GA_EDGE_TAKE,
	GA_EDGE_ENOUGH				/* nor do the edges of this node and direction to larger ids */
} GaEdgeWish;

/*
 * `wish` sees an edge of an accepted type that may be invisible or too light;
 * `take` is called right after it for those that it wished and that are neither.
 */
typedef struct GaEdgeVisitor
{
	GaEdgeWish	(*wish) (void *arg, const GaEdge *edge);
	void		(*take) (void *arg, const GaEdge *edge);
	void	   *arg;
} GaEdgeVisitor;

typedef struct GaEdges GaEdges;

/* Inside of SPI_connect, under the active snapshot; types and min_weight are SQL arguments, NULL: any. */
extern GaEdges *ga_edges_open(Datum graph, NullableDatum types, NullableDatum min_weight);

/*
 * The edges out of (or into) the nodes, which are numbers of names in order of
 * these. An edge may be met in any order of nodes and ends.
 */
extern void ga_edges_visit(GaEdges *edges, bool inward, const GaNames *names, const uint32 *nodes, uint32 count,
						   const GaEdgeVisitor *visitor);

extern void ga_edges_close(GaEdges *edges);

/* ---- arguments ---- */

/* 22004, 22023, and 42704 unless the graph has all the nodes (text[]); the last inside of SPI_connect. */
extern void ga_walk_argument(FunctionCallInfo fcinfo, int arg, const char *what);
extern int64 ga_walk_bounded(FunctionCallInfo fcinfo, int arg, const char *what, int64 least);
extern void ga_walk_require_nodes(Datum graph, Datum ids);

#endif							/* GA_GRAPH_WALK_H */
