/*
 * knn_kernels.h
 *		The body of the nearest-neighbour kernels, included once by each
 *		instruction set.
 *
 * The including file defines
 *		TARGET			the function attribute that enables the instructions
 *		WIDTH, VECTORS	elements in a vector, vectors that are summed side by side
 *		SEGMENT			elements that are added before a sum becomes F64: a multiple of WIDTH * VECTORS
 *		Vec				WIDTH floats
 *		vec_zero, vec_load, vec_set, vec_fms (x * y - z), vec_fma (x * y + z), vec_abs, vec_add
 *		vec_reduce		the sum of VECTORS vectors, pairwise
 *		KERNEL_TABLE	the declaration of the table it gets
 * and has included knn_load.h, knn_store.h and knn_tile.h.
 *
 * An element's term takes part in SEGMENT / WIDTH / VECTORS sums in its lane,
 * in up to VECTORS more of a rest, and in as many as a tree over WIDTH * VECTORS
 * lanes is high: together at most GA_KNN_ROUNDINGS.
 */

static GA_FORCE_INLINE TARGET Vec
step(GaKnnSum what, Vec row, const float *query, Vec ratio, Vec acc)
{
	Vec			difference;

	if (what == GA_KNN_SUM_DOT)
		return vec_fma(row, vec_load(query), acc);
	difference = vec_fms(row, ratio, vec_load(query));
	return what == GA_KNN_SUM_L2 ? vec_fma(difference, difference, acc) : vec_add(vec_abs(difference), acc);
}

/* Up to SEGMENT elements. */
static GA_FORCE_INLINE TARGET double
segment(GaKnnStorage storage, GaKnnSum what, const char *row, const float *query, Vec ratio, size_t n)
{
	size_t		size = ga_knn_element_bytes(storage);
	Vec			acc[VECTORS];

#pragma GCC unroll 16
	for (int v = 0; v < VECTORS; v++)
		acc[v] = vec_zero();
	for (; n >= WIDTH * VECTORS; n -= WIDTH * VECTORS)
	{
#pragma GCC unroll 16
		for (int v = 0; v < VECTORS; v++)
			acc[v] = step(what, load(storage, row + v * WIDTH * size), query + v * WIDTH, ratio, acc[v]);
		row += WIDTH * VECTORS * size;
		query += WIDTH * VECTORS;
	}
	for (; n >= WIDTH; n -= WIDTH)
	{
		acc[0] = step(what, load(storage, row), query, ratio, acc[0]);
		row += WIDTH * size;
		query += WIDTH;
	}
	if (n > 0)
		acc[0] = step(what, load_some(storage, row, n), query, ratio, acc[0]);
	return vec_reduce(acc);
}

static GA_FORCE_INLINE TARGET double
sum(GaKnnStorage storage, GaKnnSum what, const char *row, const float *query, float ratio, size_t n)
{
	Vec			wide_ratio = vec_set(ratio);
	double		total = 0;

	for (; n > SEGMENT; n -= SEGMENT)
	{
		total += segment(storage, what, row, query, wide_ratio, SEGMENT);
		row += SEGMENT * ga_knn_element_bytes(storage);
		query += SEGMENT;
	}
	return total + segment(storage, what, row, query, wide_ratio, n);
}

#define DEFINE_SUM(storage, what) \
	static TARGET double \
	sum_##storage##_##what(const void *row, const float *query, float ratio, size_t n) \
	{ \
		return sum(GA_KNN_##storage, GA_KNN_SUM_##what, row, query, ratio, n); \
	}

DEFINE_SUM(F32, L2)
DEFINE_SUM(F32, L1)
DEFINE_SUM(F32, DOT)
DEFINE_SUM(F16, L2)
DEFINE_SUM(F16, L1)
DEFINE_SUM(F16, DOT)
DEFINE_SUM(INT8, L1)

#define SUMS(storage) \
	[GA_KNN_##storage] = { \
		[GA_KNN_SUM_L2] = sum_##storage##_L2, \
		[GA_KNN_SUM_L1] = sum_##storage##_L1, \
		[GA_KNN_SUM_DOT] = sum_##storage##_DOT \
	}

KERNEL_TABLE = {
	.sum = {SUMS(F32), SUMS(F16), [GA_KNN_INT8] = {[GA_KNN_SUM_L1] = sum_INT8_L1}},
	.tile[GA_KNN_F32] = tile_F32,
#ifdef WIDEN_FIRST
	.widen_half = widen_half,
#else
	.tile[GA_KNN_F16] = tile_F16,
#endif
	.finish = finish,
	.largest = largest,
	.store_half = store_half,
	.store_bytes = store_bytes,
};
