/*
 * knn_batch.c
 *		Bounds of many queries at a time: products in tiles of queries by rows.
 *
 * A row that is loaded serves all queries of a tile, so that arithmetic and not
 * memory is the limit. The squared distance of L2 is |h|^2 + |p|^2 - 2 h p
 * (notation and steps as in knn_bounds.c), of which each summand is bounded from
 * below; that loses more than summing squared differences, in relation to the
 * distance: 2^-15 |h| |p| of its square at most, which is less than what F16 lost
 * but between vectors nearer to each other than a twentieth of their norm. L1 has no such
 * form and goes row by row, as do rows and queries of extreme norm.
 */
#include "knn_impl.h"

/* Queries that rows are widened for at a time, and the elements of a row that are. */
#define GROUP (8 * GA_KNN_TILE_QUERIES)
#define SLICE 512

/* Rows of which some are left to ga_knn_bound_row(). */
typedef struct Chunk
{
	int			n;
	const GaKnnRow *row[GA_KNN_TERMS];
	bool		odd[GA_KNN_TERMS];
	bool		any_odd;
	GaKnnTerms	terms;
} Chunk;

/* What tiles serve. */
static bool
row_is_odd(const GaKnnRow *row)
{
	return (row->flags & GA_KNN_NAN) || !(row->loss <= 0x1p60f) || !ga_knn_norm_in_range(row->norm);
}

static bool
query_is_odd(const GaKnnQuery *query)
{
	return query->metric == GA_METRIC_L1 || query->reach != GA_KNN_ORDINARY || !ga_knn_norm_in_range(query->norm) ||
		(query->metric == GA_METRIC_COSINE && query->sums == GA_KNN_SUMS_F32 && !ga_knn_norm_in_range(query->length));
}

/* norm is within a part in 2^24 of |h| or, for cosine, |x|. */
static void
fill_term(Chunk *chunk, int i, GaMetric metric, GaKnnStorage storage)
{
	const GaKnnRow *row = chunk->row[i];
	GaKnnTerms *terms = &chunk->terms;
	GaKnnStored stored = ga_knn_stored(metric, storage, row);

	terms->scale[i] = stored.scale;
	terms->loss[i] = stored.loss;
	terms->square[i] = ga_knn_square(row);
	if (metric == GA_METRIC_COSINE)
		terms->length[i] = 1 + stored.loss;
	else
		terms->length[i] = row->norm * (1 + 0x1p-22) + (metric == GA_METRIC_IP ? row->loss : 0);
}

static void
fill_chunk(Chunk *chunk, const GaKnnQuery *query, const char *records, size_t stride, int n)
{
	chunk->n = n;
	chunk->any_odd = false;
	memset(&chunk->terms, 0, sizeof(chunk->terms));
	for (int i = 0; i < GA_KNN_TERMS; i++)
	{
		chunk->row[i] = (const GaKnnRow *) (records + (size_t) (i < n ? i : 0) * stride);
		chunk->odd[i] = row_is_odd(chunk->row[i]);
		chunk->any_odd |= chunk->odd[i];
		if (i < n && !chunk->odd[i])
			fill_term(chunk, i, query->metric, query->storage);
	}
}

/* How products become bounds; see GaKnnFinish. */
static GaKnnFinish
how_to_finish(const GaKnnQuery *query)
{
	double		n = (double) query->dim;
	GaKnnFinish how = {0};

	how.product = query->unit;
	how.scale = n * 0x1p-149 * query->unit;
	how.most = HUGE_VAL;
	switch (query->metric)
	{
		case GA_METRIC_L2:
			how.root = true;
			how.start = query->square;
			how.product *= 2;
			how.scale *= 2;
			how.length = 2 * query->tile_error * query->norm * GA_KNN_UP;
			how.factor = query->value_factor * (1 - 0x1p-48);
			how.loss = GA_KNN_UP;
			how.rest = query->loss * GA_KNN_UP + query->value_tiny;
			break;
		case GA_METRIC_COSINE:
			how.start = 1 - 0x1p-48;
			how.most = 2;
			break;
		case GA_METRIC_IP:
			how.least = -HUGE_VAL;
			how.start = query->sums == GA_KNN_SUMS_F32 ? -n * 0x1p-148 : 0;
			how.rest = n * 0x1p-1000;
			break;
		case GA_METRIC_L1:
			break;
	}
	if (!how.root)
	{
		how.length = (query->loss + query->tile_slack * query->norm) * GA_KNN_UP;
		how.loss = query->norm * GA_KNN_UP;
	}
	return how;
}

/* The elements of the rows of a tile, from row i of the chunk on. */
static void
tile_rows(const Chunk *chunk, int i, GaKnnStorage storage, const char **rows)
{
	for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
		rows[r] = ga_knn_elements(storage, chunk->row[i + r]);
}

/* Products of the rows and queries of one tile. */
static void
multiply_tile(const Chunk *chunk, int i, const GaKnnQuery *const *queries, double (*products)[GA_KNN_TERMS])
{
	GaKnnStorage storage = queries[0]->storage;
	const char *rows[GA_KNN_TILE_ROWS];
	const float *values[GA_KNN_TILE_QUERIES];
	const int16_t *codes[GA_KNN_TILE_QUERIES];
	double		sums[GA_KNN_TILE_QUERIES][GA_KNN_TILE_ROWS];

	tile_rows(chunk, i, storage, rows);
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
	{
		values[q] = queries[q]->values;
		codes[q] = queries[q]->codes;
	}
	if (storage == GA_KNN_INT8)
		ga_knn_bytes->tile((const int8_t *const *) rows, codes, queries[0]->dim, sums);
	else
		ga_knn_kernels->tile[storage] (rows, values, queries[0]->dim, sums);
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
		memcpy(products[q] + i, sums[q], sizeof(sums[q]));
}

/* Products of a tile's rows of F16 and all queries: a slice of the rows is widened once, and serves them all. */
static void
multiply_widened(const Chunk *chunk, int i, const GaKnnQuery *const *queries, int nq, double (*products)[GA_KNN_TERMS])
{
	float		wide[GA_KNN_TILE_ROWS][SLICE];
	const char *wide_rows[GA_KNN_TILE_ROWS];
	const char *rows[GA_KNN_TILE_ROWS];
	size_t		dim = queries[0]->dim;

	tile_rows(chunk, i, GA_KNN_F16, rows);
	for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
		wide_rows[r] = (const char *) wide[r];
	for (size_t start = 0; start < dim; start += SLICE)
	{
		size_t		n = dim - start < SLICE ? dim - start : SLICE;

		for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
			ga_knn_kernels->widen_half((const uint16_t *) rows[r] + start, n, wide[r]);
		for (int first = 0; first < nq; first += GA_KNN_TILE_QUERIES)
		{
			const float *values[GA_KNN_TILE_QUERIES];
			double		sums[GA_KNN_TILE_QUERIES][GA_KNN_TILE_ROWS];

			for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
				values[q] = queries[first + q]->values + start;
			ga_knn_kernels->tile[GA_KNN_F32] (wide_rows, values, n, sums);
			for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
				for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
					products[first + q][i + r] += sums[q][r];
		}
	}
}

/* Products of a chunk's rows and nq queries, a multiple of GA_KNN_TILE_QUERIES; products are zeros before. */
static void
multiply(const Chunk *chunk, const GaKnnQuery *const *queries, int nq, double (*products)[GA_KNN_TERMS])
{
	if (queries[0]->storage == GA_KNN_F16 && ga_knn_kernels->widen_half != NULL)
	{
		for (int i = 0; i < chunk->n; i += GA_KNN_TILE_ROWS)
			multiply_widened(chunk, i, queries, nq, products);
		return;
	}
	for (int first = 0; first < nq; first += GA_KNN_TILE_QUERIES)
		for (int i = 0; i < chunk->n; i += GA_KNN_TILE_ROWS)
			multiply_tile(chunk, i, queries + first, products + first);
}

static void
bound_odd(const GaKnnQuery *query, const Chunk *chunk, bool all, double *bounds)
{
	bool		exact;

	for (int i = 0; i < chunk->n; i++)
		if (all || chunk->odd[i])
			bounds[i] = ga_knn_bound_row(query, chunk->row[i], -HUGE_VAL, &exact);
}

/* Up to GROUP queries, all of them for tiles, the last of which may repeat a query. */
static void
bound_group(const GaKnnQuery *const *queries, int nq, const Chunk *chunk, double *const *bounds)
{
	const GaKnnQuery *padded[GROUP] = {queries[0]};
	double		products[GROUP][GA_KNN_TERMS];
	int			count = (nq + GA_KNN_TILE_QUERIES - 1) / GA_KNN_TILE_QUERIES * GA_KNN_TILE_QUERIES;

	memset(products, 0, (size_t) count * sizeof(products[0]));
	for (int q = 0; q < count; q++)
		padded[q] = queries[q < nq ? q : nq - 1];
	multiply(chunk, padded, count, products);
	for (int q = 0; q < nq; q++)
	{
		GaKnnFinish how = how_to_finish(queries[q]);

		ga_knn_kernels->finish(&chunk->terms, &how, products[q]);
		memcpy(bounds[q], products[q], (size_t) chunk->n * sizeof(double));
		if (chunk->any_odd)
			bound_odd(queries[q], chunk, false, bounds[q]);
	}
}

static void
bound_chunk(const GaKnnQuery *const *queries, int nq, const Chunk *chunk, double *bounds, int n)
{
	const GaKnnQuery *some[GROUP];
	double	   *to[GROUP];
	int			count = 0;

	for (int q = 0; q < nq; q++)
	{
		if (query_is_odd(queries[q]))
		{
			bound_odd(queries[q], chunk, true, bounds + (size_t) q * n);
			continue;
		}
		some[count] = queries[q];
		to[count++] = bounds + (size_t) q * n;
		if (count == GROUP)
		{
			bound_group(some, count, chunk, to);
			count = 0;
		}
	}
	if (count > 0)
		bound_group(some, count, chunk, to);
}

void
ga_knn_bounds_batch(const GaKnnQuery *const *queries, int nq, const void *records, size_t stride, int n, double *bounds)
{
	if (nq == 0)
		return;
	for (int start = 0; start < n; start += GA_KNN_TERMS)
	{
		Chunk		chunk;

		fill_chunk(&chunk, queries[0], (const char *) records + (size_t) start * stride, stride,
				   n - start < GA_KNN_TERMS ? n - start : GA_KNN_TERMS);
		bound_chunk(queries, nq, &chunk, bounds + start, n);
	}
}
