/*
 * gpuknn_build.h
 *		What a build's scan of the table, by one process or several, gives to who
 *		writes the pages.
 */
#ifndef GA_GPUKNN_BUILD_H
#define GA_GPUKNN_BUILD_H

#include "index/gpuknn.h"
#include "nodes/execnodes.h"

typedef struct GpuknnSink
{
	void		(*record) (void *state, const GaKnnRow *record);
	void		(*null) (void *state, uint64 tid);
	void	   *state;
} GpuknnSink;

/* Scans the table with parallel workers: its rows; less than 0 when there are none to be had, and nothing was done. */
extern double gpuknn_parallel_scan(Relation heap, Relation index, IndexInfo *info, const GpuknnShape *shape,
								   const GpuknnSink *sink);

#endif							/* GA_GPUKNN_BUILD_H */
