/*
 * knn_tile.h
 *		The body of the kernels for many queries, included once by each
 *		instruction set after knn_store.h.
 *
 * The including file defines
 *		TILE_PART		queries whose sums, with those of GA_KNN_TILE_ROWS rows, fit the registers: a divisor of
 *						GA_KNN_TILE_QUERIES
 *		vec_reduce_rows	the sums of GA_KNN_TILE_ROWS vectors, each pairwise, added to as many doubles
 *		WIDEN_FIRST		where vec_half takes long, so that rows of F16 are to be widened once for all queries; and vec_save
 *		wide_sqrt
 * and what knn_load.h, knn_kernels.h and knn_store.h ask for.
 */

/* Up to WIDTH elements: each row that is loaded serves TILE_PART queries. */
static GA_FORCE_INLINE TARGET void
tile_step(GaKnnStorage storage, const char *const *rows, const float *const *queries, size_t i, size_t n,
		  Vec (*acc)[GA_KNN_TILE_ROWS])
{
	Vec			query[TILE_PART];

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
		query[q] = vec_load(queries[q] + i);
#pragma GCC unroll 4
	for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
	{
		const char *p = rows[r] + i * ga_knn_element_bytes(storage);
		Vec			row = n == WIDTH ? load(storage, p) : load_some(storage, p, n);

#pragma GCC unroll 6
		for (int q = 0; q < TILE_PART; q++)
			acc[q][r] = vec_fma(row, query[q], acc[q][r]);
	}
}

/* Adds products of n elements from start on: up to SEGMENT, by whole steps, or fewer than one. */
static GA_FORCE_INLINE TARGET void
tile_segment(GaKnnStorage storage, const char *const *rows, const float *const *queries, size_t start, size_t n,
			 bool rest, double (*sums)[GA_KNN_TILE_ROWS])
{
	Vec			acc[TILE_PART][GA_KNN_TILE_ROWS];

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
#pragma GCC unroll 4
		for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
			acc[q][r] = vec_zero();

	if (rest)
		tile_step(storage, rows, queries, start, n, acc);
	else
		for (size_t i = start; i < start + n; i += WIDTH)
			tile_step(storage, rows, queries, i, WIDTH, acc);

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
		vec_reduce_rows(acc[q], sums[q]);
}

static GA_FORCE_INLINE TARGET void
tile(GaKnnStorage storage, const char *const *rows, const float *const *queries, size_t n,
	 double (*sums)[GA_KNN_TILE_ROWS])
{
	size_t		rest = n % WIDTH;
	size_t		end = n - rest;

	memset(sums, 0, sizeof(*sums) * GA_KNN_TILE_QUERIES);
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q += TILE_PART)
	{
		for (size_t start = 0; start < end; start += SEGMENT)
			tile_segment(storage, rows, queries + q, start, end - start < SEGMENT ? end - start : SEGMENT, false, sums + q);
		if (rest > 0)
			tile_segment(storage, rows, queries + q, end, rest, true, sums + q);
	}
}

#define DEFINE_TILE(storage) \
	static TARGET void \
	tile_##storage(const char *const *rows, const float *const *queries, size_t n, double (*sums)[GA_KNN_TILE_ROWS]) \
	{ \
		tile(GA_KNN_##storage, rows, queries, n, sums); \
	}

DEFINE_TILE(F32)

#ifdef WIDEN_FIRST

static TARGET void
widen_half(const uint16_t *p, size_t n, float *out)
{
	for (; n >= WIDTH; n -= WIDTH)
	{
		vec_save(out, vec_half(p));
		p += WIDTH;
		out += WIDTH;
	}
	for (; n > 0; n--)
		*out++ = ga_widen_half(*p++);
}

#else

DEFINE_TILE(F16)

#endif							/* WIDEN_FIRST */

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
