/*
 * gpuknn_scan.h
 *		A scan and its passes over the stream of slots.
 */
#ifndef GA_GPUKNN_SCAN_H
#define GA_GPUKNN_SCAN_H

#include "index/gpuknn.h"

typedef enum GpuknnPhase
{
	GPUKNN_START,
	GPUKNN_VECTORS,				/* pairs of one pass after the other, ascending */
	GPUKNN_DRAIN,				/* rows in any order: all for a NULL query, else those without a vector */
	GPUKNN_DONE
} GpuknnPhase;

typedef struct GpuknnScan
{
	GpuknnClass class;
	GpuknnShape shape;
	GpuknnPhase phase;

	/* what the index held when the scan began */
	uint64		length;
	uint64		vectors;
	uint64		nulls;

	/* VECTORS */
	GaKnnQuery *query;
	char	   *assembled;		/* a record that crosses pages */
	double	   *bounds;
	bool	   *exact;
	GaKnnTop	top;
	GaKnnPair  *pairs;
	size_t		next;			/* of top.count */
	uint64		passes;

	/* DRAIN */
	bool		all;			/* vectors, too */
	BlockNumber block;			/* to be read next */
	ItemPointerData *tids;
	int			ntids;
	int			capacity;
	int			next_tid;

	MemoryContext context;		/* of one rescan */
} GpuknnScan;

/* One pass: offers the bounds of all records to scan->top. */
extern void gpuknn_pass(Relation index, GpuknnScan *scan);

/* The tids of the slots that begin on the next page; false when there is none. */
extern bool gpuknn_drain(Relation index, GpuknnScan *scan);

#endif							/* GA_GPUKNN_SCAN_H */
