/*
 * knn_tile.h
 *		The body of the kernels for many queries, included once by each
 *		instruction set after knn_store.h.
 *
 * The including file defines
 *		TILE_PART		queries whose sums, with those of GA_KNN_TILE_ROWS rows, fit the registers: a divisor of
 *						GA_KNN_TILE_QUERIES
 *		vec_reduce_rows	the sums of GA_KNN_TILE_ROWS vectors, each pairwise, added to as many doubles
 *		wide_sqrt
 * and what knn_load.h, knn_kernels.h and knn_store.h ask for.
 */

/* Adds products of up to SEGMENT elements; each row that is loaded serves TILE_PART queries. */
static GA_FORCE_INLINE TARGET void
tile_segment(GaKnnStorage storage, const char *const *rows, const float *const *queries, size_t start, size_t n,
			 double (*sums)[GA_KNN_TILE_ROWS])
{
	Vec			acc[TILE_PART][GA_KNN_TILE_ROWS];
	size_t		end = start + n;

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
#pragma GCC unroll 4
		for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
			acc[q][r] = vec_zero();

	for (size_t i = start; i < end; i += WIDTH)
	{
		Vec			query[TILE_PART];

#pragma GCC unroll 6
		for (int q = 0; q < TILE_PART; q++)
			query[q] = vec_load(queries[q] + i);
#pragma GCC unroll 4
		for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
		{
			const char *p = rows[r] + i * ga_knn_element_bytes(storage);
			Vec			row = end - i >= WIDTH ? load(storage, p) : load_some(storage, p, end - i);

#pragma GCC unroll 6
			for (int q = 0; q < TILE_PART; q++)
				acc[q][r] = vec_fma(row, query[q], acc[q][r]);
		}
	}

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
		vec_reduce_rows(acc[q], sums[q]);
}

static GA_FORCE_INLINE TARGET void
tile(GaKnnStorage storage, const char *const *rows, const float *const *queries, size_t n,
	 double (*sums)[GA_KNN_TILE_ROWS])
{
	memset(sums, 0, sizeof(*sums) * GA_KNN_TILE_QUERIES);
	for (size_t start = 0; start < n; start += SEGMENT)
		for (int q = 0; q < GA_KNN_TILE_QUERIES; q += TILE_PART)
			tile_segment(storage, rows, queries + q, start, n - start < SEGMENT ? n - start : SEGMENT,
						 sums + q);
}

#define DEFINE_TILE(storage) \
	static TARGET void \
	tile_##storage(const char *const *rows, const float *const *queries, size_t n, double (*sums)[GA_KNN_TILE_ROWS]) \
	{ \
		tile(GA_KNN_##storage, rows, queries, n, sums); \
	}

DEFINE_TILE(F32)
DEFINE_TILE(F16)

/* The bounds of GA_KNN_TERMS rows from their products with a query. */
static TARGET void
finish(const GaKnnTerms *terms, const GaKnnFinish *how, double *bounds)
{
	for (int i = 0; i < GA_KNN_TERMS; i += DOUBLES)
	{
		Wide		scale = wide_load(terms->scale + i);
		Wide		loss = wide_load(terms->loss + i);
		Wide		product = wide_mul(scale, wide_load(bounds + i));
		Wide		bound = wide_sub(wide_set(how->start), wide_mul(wide_set(how->product), product));

		bound = wide_sub(bound, wide_mul(wide_set(how->length), wide_load(terms->length + i)));
		bound = wide_sub(bound, wide_mul(wide_set(how->scale), scale));
		if (how->root)
		{
			bound = wide_sqrt(wide_max(wide_add(bound, wide_load(terms->square + i)), wide_set(0)));
			bound = wide_mul(bound, wide_set(how->factor));
		}
		bound = wide_sub(wide_sub(bound, wide_mul(loss, wide_set(how->loss))), wide_set(how->rest));
		wide_save(bounds + i, wide_min(wide_max(bound, wide_set(how->least)), wide_set(how->most)));
	}
}
