/*
 * knn_top.c
 *		The smallest pairs (bound, row) of many: a binary heap, its root the
 *		greatest pair kept.
 */
#include "knn.h"

#include <math.h>

int
ga_knn_pair_compare(const GaKnnPair *a, const GaKnnPair *b)
{
	if (a->bound < b->bound)
		return -1;
	if (a->bound > b->bound)
		return 1;
	if (isnan(a->bound) != isnan(b->bound))
		return isnan(a->bound) ? 1 : -1;
	return a->row < b->row ? -1 : a->row > b->row;
}

/* Puts a pair at `hole` or below, where the heap pairs[0 .. count - 1] has room for it. */
static void
sift_down(GaKnnPair *pairs, size_t count, size_t hole, GaKnnPair pair)
{
	for (;;)
	{
		size_t		child = 2 * hole + 1;

		if (child >= count)
			break;
		if (child + 1 < count && ga_knn_pair_compare(&pairs[child + 1], &pairs[child]) > 0)
			child++;
		if (ga_knn_pair_compare(&pairs[child], &pair) <= 0)
			break;
		pairs[hole] = pairs[child];
		hole = child;
	}
	pairs[hole] = pair;
}

static void
sift_up(GaKnnPair *pairs, size_t hole, GaKnnPair pair)
{
	while (hole > 0)
	{
		size_t		parent = (hole - 1) / 2;

		if (ga_knn_pair_compare(&pairs[parent], &pair) >= 0)
			break;
		pairs[hole] = pairs[parent];
		hole = parent;
	}
	pairs[hole] = pair;
}

void
ga_knn_top_init(GaKnnTop *top, GaKnnPair *memory, size_t capacity, const GaKnnPair *after)
{
	top->pairs = memory;
	top->capacity = capacity;
	top->count = 0;
	top->threshold = NAN;
	top->has_after = after != NULL;
	if (after != NULL)
		top->after = *after;
}

void
ga_knn_top_enter(GaKnnTop *top, double bound, uint64_t row, bool exact)
{
	GaKnnPair	pair = {bound, row, exact};

	if (top->has_after && ga_knn_pair_compare(&pair, &top->after) <= 0)
		return;
	if (top->count < top->capacity)
		sift_up(top->pairs, top->count++, pair);
	else if (ga_knn_pair_compare(&pair, &top->pairs[0]) < 0)
		sift_down(top->pairs, top->count, 0, pair);
	if (top->count == top->capacity)
		top->threshold = top->pairs[0].bound;
}

void
ga_knn_top_push_many(GaKnnTop *top, const double *bounds, const bool *exact, int n, uint64_t first)
{
	for (int i = 0; i < n; i++)
		ga_knn_top_push(top, bounds[i], first + (uint64_t) i, exact != NULL && exact[i]);
}

size_t
ga_knn_top_sort(GaKnnTop *top, size_t end, size_t steps)
{
	for (; end > 1 && steps > 0; end--, steps--)
	{
		GaKnnPair	last = top->pairs[end - 1];

		top->pairs[end - 1] = top->pairs[0];
		sift_down(top->pairs, end - 1, 0, last);
	}
	return end;
}
