/*
 * gpuknn_device.c
 *		Passes of a scan by a device that has a mirror of the index, and how a scan
 *		leaves it for the pages.
 *
 * Bounds by the device have other bits than those of the host, so a scan that
 * changes over cannot go on after the last pair. It remembers the rows that it
 * handed out, reads the pages from the first one, and skips those. A row that was
 * not handed out had a bound by the device of at least the last one given, and
 * its value is at least that. So that is a bound of it, too, which keeps what is
 * given in order. Rows that no bound by the device was made for are no rows of
 * the scan's snapshot (gpuknn.h).
 */
#include "base/compat.h"

#include <math.h>

#include "index/gpuknn_mirror.h"
#include "index/gpuknn_scan.h"
#include "math/dtype.h"

bool
gpuknn_device_pass(IndexScanDesc scan, GpuknnScan *state, size_t limit, const GaKnnPair *after)
{
	size_t		query_bytes = state->vector.dim * ga_dtype_info(state->vector.dtype)->width;
	GaKnnDevicePair device_after;
	GaKnnDevicePair *found;
	GpuknnAsk	ask = {
		.shape = state->shape,
		.sums = state->class.sums,
		.length = state->length,
		.changes = state->changes,
		.incarnation = state->incarnation,
		.dtype = state->vector.dtype,
		.nqueries = 1,
		.limit = (uint32) Min(Min(limit, GA_KNN_MAX_LIMIT), state->length + 1),
	};
	uint64		count;
	bool		answered;

	if (!gpuknn_mirror_may(scan->indexRelation, state->shape.storage))
		return false;
	if (state->question == NULL)
	{
		state->question = MemoryContextAllocZero(state->context, TYPEALIGN(8, query_bytes));
		memcpy(state->question, state->vector.data, query_bytes);
	}
	ask.queries = state->question;
	if (after != NULL)
	{
		device_after = (GaKnnDevicePair) {.bound = after->bound,.tid = after->row};
		ask.after = &device_after;
	}
	found = MemoryContextAlloc(state->context, ask.limit * sizeof(GaKnnDevicePair));
	answered = gpuknn_mirror_ask(scan->indexRelation, &ask, found, &count, &state->fallback);
	if (answered)
	{
		GaKnnPair  *pairs = MemoryContextAlloc(state->context, ask.limit * sizeof(GaKnnPair));

		for (uint64 i = 0; i < count; i++)
			pairs[i] = (GaKnnPair) {found[i].bound, found[i].tid, isnan(found[i].bound)};
		ga_knn_top_init(&state->top, pairs, ask.limit, NULL);
		state->top.count = count;
		state->passes++;
		state->next = 0;
	}
	pfree(found);
	return answered;
}

void
gpuknn_device_give(GpuknnScan *state, const GaKnnPair *pair)
{
	if (state->ngiven == state->max_given)
	{
		state->max_given = Max(2 * state->max_given, 64);
		state->given = state->given == NULL ? MemoryContextAlloc(state->context, sizeof(uint64) * state->max_given) :
			repalloc(state->given, sizeof(uint64) * state->max_given);
	}
	state->given[state->ngiven++] = pair->row;
}

static int
compare(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

void
gpuknn_device_leave(GpuknnScan *state)
{
	if (state->ngiven > 0)
		qsort(state->given, state->ngiven, sizeof(uint64), compare);
	state->left = true;
	state->floor = state->any_handed ? state->handed.bound : -HUGE_VAL;

	/* What the scan asks about the last pair given is from here on about those of the pages. */
	state->any_handed = false;
}

bool
gpuknn_device_admit(const GpuknnScan *state, GaKnnPair *pair)
{
	uint64		row = pair->row;

	if (pair->bound > state->top.threshold ||
		(state->ngiven > 0 && bsearch(&row, state->given, state->ngiven, sizeof(uint64), compare) != NULL))
		return false;
	if (!isnan(pair->bound) && pair->bound < state->floor)
		pair->bound = state->floor;
	return true;
}
