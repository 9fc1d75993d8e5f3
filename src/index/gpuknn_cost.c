/*
 * gpuknn_cost.c
 *		What a scan costs: a pass over all pages before the first row, and another
 *		one each time that as many rows as memory holds have been read.
 *
 * Vectors of some hundred dimensions are toasted, and the planner charges a
 * sequential scan nothing for the pages of the TOAST table. A pass that paid for
 * all pages of the index would lose against a scan that reads more. So it pays
 * for no more pages than the table has, and per row a fraction of the operator,
 * which is what streaming a row costs against fetching, detoasting and calling.
 * Rows that are fetched and checked are charged by the planner as for any index.
 */
#include "base/compat.h"

#include <math.h>

#include "index/gpuknn_mirror.h"
#include "index/gpuknn_scan.h"
#include "nodes/pathnodes.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "utils/spccache.h"

/* For what it cannot answer. Finite: differences of infinities would be NaN in the costs of joins. */
#define COST_OF_NO_USE 1e100

/* A pass by a device that has a copy of the index costs so much less; a question to it costs as much as so many rows. */
#define DEVICE_SPEEDUP 32
#define DEVICE_QUESTION_ROWS 100

/* Elements that are streamed in the time of cpu_operator_cost. */
#define ELEMENTS_PER_OPERATOR 1024

void
gpuknn_cost_estimate(struct PlannerInfo *root, struct IndexPath *path, double loop_count,
					 Cost *startup_cost, Cost *total_cost, Selectivity *selectivity, double *correlation, double *pages)
{
	IndexOptInfo *index = path->indexinfo;
	double		page_cost;
	double		passes;
	double		rows = index->tuples;
	double		charged = Min(index->pages, Max(index->rel->pages, 2));

	*selectivity = 1;
	*correlation = 0;
	*pages = index->pages;
	if (list_length(path->indexorderbys) != 1)
	{
		/* Without an order it has nothing to give, and it knows one distance at a time. */
		*startup_cost = *total_cost = COST_OF_NO_USE;
		ga_disable_path(&path->path);
		return;
	}
	get_tablespace_page_costs(index->reltablespace, NULL, &page_cost);
	*startup_cost = charged * page_cost +
		cpu_operator_cost * (rows + (double) index->pages * BLCKSZ / 2 / ELEMENTS_PER_OPERATOR);
	if (gpuknn_mirror_is_resident(index->indexoid))
		*startup_cost = *startup_cost / DEVICE_SPEEDUP + DEVICE_QUESTION_ROWS * cpu_tuple_cost;
	/* A pass finds as many rows as memory holds; rows behind the first few take one pass after the other. */
	passes = rows > GPUKNN_FIRST_PAIRS ? ceil((rows - GPUKNN_FIRST_PAIRS) / gpuknn_pairs_of_memory()) : 0;
	*total_cost = *startup_cost * (1 + passes) + rows * cpu_index_tuple_cost;
}
