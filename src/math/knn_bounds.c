/*
 * knn_bounds.c
 *		Lower bounds of distances from records, and exact values where the record
 *		holds the original.
 *
 * Notation: x the original row, q the original query, both exact reals; h the
 * stored vector, elements * scale, p = values * unit the prepared query; u =
 * 2^-24 and v = 2^-53 the units of F32 and F64; g(k, w) = k w / (1 - k w) as in
 * Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., Lemma
 * 3.1 and (3.4): a product of k factors 1 + d, |d| <= w, or of their inverses,
 * is within 1 +- g(k, w).
 * Known: |x - h| <= row.loss and |q - p| <= query.loss in the norm of the
 * metric (L1 norm for L1, else L2; cosine: x and q mean the directions).
 *
 * 1. From the kernel's sum to the distance of h and p. A kernel (knn_impl.h)
 *    rounds each term at most R = GA_KNN_ROUNDINGS + 3 times in F32 (difference,
 *    twice for a square; fused product; the sums), and n times in F64. All terms
 *    of L2 and L1 are positive, so sum <= true (1 + g(R, u) + n v), whatever
 *    overflow does. Underflow adds at most n 2^-149 to a sum (a square) and
 *    2^-149 to a difference; a sum T is taken only where 2^-100 <= T <= 2^120,
 *    where both are below T n 2^-49; else the row is summed in F64, which can
 *    neither overflow nor underflow, as exponents are bounded. So
 *        true >= T (1 - g(R, u) - n 2^-48),  sqrt(true) >= sqrt(T) (1 - the same).
 *    For products |T - true| <= (g(R, u) + n v) sum |h p| <= ... |h| |p| by
 *    Cauchy and Schwarz, and underflow adds at most n 2^-149 in units of the
 *    stored elements.
 *    int8 rows but under L1: elements and the query's codes are whole numbers of
 *    7 and 15 bits and a sign, at most 65535 of each, so their product is exact
 *    in F64, and so is that of scale (16 bits) and unit (24 bits). What is left is
 *    what step 4 says; |h - p|^2 = |h|^2 + |p|^2 - 2 h p, where row.norm, within a part in
 *    2^24 of |h|, and query.square give less than the squares, by 2^-24 |h|^2 and
 *    2^-46 |p|^2 or more. That is above the roundings: five of 2^-53 of numbers
 *    whose magnitudes sum up to at most 2 (|h|^2 + |p|^2).
 * 2. From there to the distance of x and q: |x - q| >= |h - p| - |x - h| -
 *    |q - p| in any norm. For products
 *        x q = h p + (x - h) p + x (q - p) <= h p + row.loss |p| + |x| query.loss
 *    with |x| <= |h| + row.loss; directions have norm 1.
 * 3. From there to the operator's value. ga_distance() rounds a difference once
 *    (u, or v where an operand is F64; a difference that overflows gives an
 *    infinite value), a product or square at most once (v) and each sum at most
 *    n / 16 + 4 times: value >= distance (1 - u - (n / 16 + 8) v), and products
 *    are off by at most (n / 16 + 8) v |x| |q|. Cosine divides by norms that are
 *    off by as much: 3 times that and a few roundings, since |cos| <= 1. Squares
 *    and products of F64 elements may underflow: at most n 2^-1074, whose root
 *    is below n 2^-530.
 *    An operator that sums in F32 rounds each term at most n + 2 times, in
 *    whatever order: the same with g(n + 2, u); squares and products may
 *    underflow: n 2^-149, and sqrt(a^2 - b^2) >= a - b. Sums that overflow are
 *    infinite, which is above any bound for L2 and L1; a product of norms of
 *    2^126 or more, and norms beyond 2^-40 .. 2^60 for cosine, give no bound.
 * 4. The arithmetic here is F64. Each result takes a handful of roundings of
 *    terms that are all covered by factors with 2^-48 to spare; whatever is NaN
 *    or below the least value that the metric has becomes that value.
 */
#include "knn_impl.h"

const GaKnnKernels *ga_knn_kernels = &ga_knn_kernels_portable;
const GaKnnBytes *ga_knn_bytes = &ga_knn_bytes_portable;

static size_t
padded(size_t dim)
{
	return (dim + GA_KNN_PAD - 1) / GA_KNN_PAD * GA_KNN_PAD;
}

/* Bytes of the struct and of the values, each with room to align the next to 64. */
static size_t
values_offset(void)
{
	return sizeof(GaKnnQuery) + 64;
}

static size_t
data_bytes(int dtype, size_t dim)
{
	const GaDtypeInfo *info = ga_dtype_info(dtype);

	return info == NULL ? 0 : dim * info->width;
}

size_t
ga_knn_query_bytes(int dtype, size_t dim)
{
	return values_offset() + padded(dim) * sizeof(float) + (data_bytes(dtype, dim) + 7) / 8 * 8;
}

/* g(k, w); infinite where it says nothing. */
static double
gamma_of(double k, double w)
{
	return k * w < 0.5 ? k * w / (1 - k * w) * GA_KNN_UP : HUGE_VAL;
}

/* What is known of the query, and the power of two that brings its largest element into [1/2, 1). */
static GaKnnReach
measure_query(GaKnnQuery *query, GaKnnSource *source)
{
	double		squares;
	double		max;
	int			exponent;

	query->unit = 1;
	if (query->dtype < GA_F32 || query->dtype > GA_F64)
		return GA_KNN_NOWHERE;

	squares = ga_sum_squares(query->dtype, query->data, query->dim);
	query->length = sqrt(squares);
	if (query->metric == GA_METRIC_COSINE)
	{
		if (!(squares > 0 && squares <= DBL_MAX))
			return GA_KNN_NOWHERE;
		return squares < 0x1p-900 ? GA_KNN_UNBOUNDED : GA_KNN_ORDINARY;
	}

	if (ga_knn_has_nan(source))
		return GA_KNN_NOWHERE;
	max = ga_knn_largest(source);
	if (max > FLT_MAX)
		return GA_KNN_UNBOUNDED;
	exponent = max > 0 ? ilogb(max) + 1 : 0;
	query->unit = ldexp(1.0, exponent < -200 ? -200 : exponent);
	return GA_KNN_ORDINARY;
}

/* What codes of up to 32767 are to be multiplied by to be near elements up to max. Rounding to F32 makes no 32768. */
static double
code_step(double max)
{
	double		step = (float) (max / 32767);

	return step > 0x1p-100 ? step : 0x1p-100;
}

/*
 * Writes the values or codes, and what rounding them lost; see loss_of() in
 * knn_encode.c for the factors. A code times the step is exact.
 */
static void
fill_values(GaKnnQuery *query, GaKnnSource *source, float *values, int16_t *codes)
{
	double		divisor = query->metric == GA_METRIC_COSINE ? query->length : query->unit;
	double		step = codes != NULL ? code_step(ga_knn_largest(source) / divisor) : 1;
	double		factor = query->unit;
	double		up = 1 + ((double) query->dim + 16) * 0x1p-53;
	double		squares = 0;
	double		lost_squares = 0;
	double		lost_sum = 0;

	ga_knn_rewind(source);
	while (ga_knn_next_block(source))
		for (size_t i = 0; i < source->count; i++)
		{
			double		x = source->block[i] / divisor;
			double		stored = codes != NULL ? (*codes++ = (int16_t) rint(x / step)) * step : (*values++ = (float) x);
			double		rest = x - stored;

			squares += stored * stored;
			lost_squares += rest * rest;
			lost_sum += fabs(rest);
		}
	query->loss = (query->metric == GA_METRIC_L1 ? lost_sum : sqrt(lost_squares)) * up * factor;
	if (query->metric == GA_METRIC_COSINE)
		query->loss += ((double) query->dim / GA_LANES + 16) * 0x1p-53;
	if (query->dtype == GA_F64)
		query->loss += 0x1p-500 * factor;	/* squares, or the quotient, may have underflowed */
	query->norm = sqrt(squares) * up * factor + query->loss;
	query->square = squares / up * factor * factor * (1 - 0x1p-46);
	query->unit *= step;
}

/* The errors of kernel and operator: steps 1 and 3 above. */
static void
fill_errors(GaKnnQuery *query)
{
	double		n = (double) query->dim;
	double		kernel = gamma_of(GA_KNN_ROUNDINGS + 3, 0x1p-24);
	double		canonical = gamma_of(n / GA_LANES + 16, 0x1p-53);
	bool		in_f32 = query->sums == GA_KNN_SUMS_F32;
	double		operator_sum = in_f32 ? gamma_of(n + 4, 0x1p-24) : canonical;
	double		quotient = query->metric == GA_METRIC_COSINE ? 3 : 1;
	double		tile = gamma_of(GA_KNN_TILE_ROUNDINGS + 3, 0x1p-24);

	kernel = (query->codes != NULL ? 0 : kernel + n * 0x1p-48) + 0x1p-48;
	query->sum_factor = 1 - kernel;
	query->value_factor = 1 - (in_f32 ? operator_sum : 0x1p-24) - canonical - 0x1p-48;
	query->value_tiny = in_f32 ? sqrt(n) * 0x1p-74 : n * 0x1p-530;
	query->slack = kernel + quotient * operator_sum + 0x1p-48;
	query->tile_error = (query->codes != NULL ? 0 : tile + n * 0x1p-48) + 0x1p-48;
	query->tile_slack = query->tile_error + quotient * operator_sum + 0x1p-48;
}

void
ga_knn_prepare(GaKnnQuery *query, GaMetric metric, GaKnnStorage storage, GaKnnSums sums, int dtype, const void *data,
			   size_t dim)
{
	uintptr_t	at = ((uintptr_t) query + values_offset()) / 64 * 64;
	void	   *values = (void *) at;
	size_t		bytes = data_bytes(dtype, dim);
	GaKnnSource source;

	memset(query, 0, sizeof(*query));
	query->metric = metric;
	query->storage = storage;
	query->sums = sums;
	query->dtype = dtype;
	query->dim = dim;
	if (storage == GA_KNN_INT8 && metric != GA_METRIC_L1)
		query->codes = values;
	else
		query->values = values;
	query->data = (float *) values + padded(dim);
	if (bytes > 0)
		memcpy((float *) values + padded(dim), data, bytes);
	memset(values, 0, padded(dim) * sizeof(float));

	ga_knn_source(&source, dtype, query->data, dim);
	query->reach = measure_query(query, &source);
	if (query->reach != GA_KNN_ORDINARY)
		return;
	fill_values(query, &source, values, query->codes != NULL ? values : NULL);
	fill_errors(query);
}

static double
stored_element(GaKnnStorage storage, const char *elements, size_t i)
{
	if (storage == GA_KNN_F16)
		return ga_widen_half(((const uint16_t *) elements)[i]);
	return storage == GA_KNN_F32 ? ((const float *) elements)[i] : ((const int8_t *) elements)[i];
}

/* A kernel's sum in F64: for rows whose F32 sum overflows or underflows. */
static double
sum_wide(const GaKnnQuery *query, GaKnnSum what, const char *elements, double ratio)
{
	double		sum = 0;

	for (size_t i = 0; i < query->dim; i++)
	{
		double		x = stored_element(query->storage, elements, i);
		double		difference = x * ratio - query->values[i];

		if (what == GA_KNN_SUM_DOT)
			sum += x * query->values[i];
		else
			sum += what == GA_KNN_SUM_L2 ? difference * difference : fabs(difference);
	}
	return sum;
}

/* Sum of squared or absolute differences in the query's unit. */
static double
sum_differences(const GaKnnQuery *query, GaKnnSum what, const GaKnnRow *row)
{
	const char *elements = ga_knn_elements(query->storage, row);
	double		ratio = ga_knn_scale(query->storage, row) / query->unit;

	if (ratio >= FLT_MIN && ratio <= FLT_MAX)
	{
		double		sum = ga_knn_kernels->sum[query->storage][what] (elements, query->values, (float) ratio, query->dim);

		if (sum >= 0x1p-100 && sum <= 0x1p120)
			return sum;
	}
	return sum_wide(query, what, elements, ratio);
}

/* Sum of products of elements and values, of which that of codes is exact; those of F32 rows may overflow. */
static double
sum_products(const GaKnnQuery *query, const GaKnnRow *row)
{
	const char *elements = ga_knn_elements(query->storage, row);
	double		sum;

	if (query->codes != NULL)
		return ga_knn_bytes->dot((const int8_t *) elements, query->codes, query->dim);
	if (query->storage == GA_KNN_F32 && !ga_knn_norm_in_range(row->norm))
		sum = sum_wide(query, GA_KNN_SUM_DOT, elements, 1);
	else
		sum = ga_knn_kernels->sum[query->storage][GA_KNN_SUM_DOT] (elements, query->values, 1.0f, query->dim);
	return sum + (double) query->dim * 0x1p-149;
}

/* At most |h - p|, but for a factor of query->sum_factor. */
static double
l2_distance(const GaKnnQuery *query, const GaKnnRow *row)
{
	double		square;

	if (query->codes == NULL)
		return sqrt(sum_differences(query, GA_KNN_SUM_L2, row)) * query->unit;
	square = ga_knn_square(row) + query->square -
		2 * ga_knn_scale(query->storage, row) * query->unit * sum_products(query, row);
	return square > 0 ? sqrt(square) : 0;
}

/* The value that no distance of the metric is below. */
static double
least_value(GaMetric metric)
{
	return metric == GA_METRIC_IP ? -HUGE_VAL : 0.0;
}

/* Steps 2 and 3 for L2 and L1, from a lower bound of |h - p|. */
static double
bound_difference(const GaKnnQuery *query, const GaKnnRow *row, double distance)
{
	distance -= (row->loss + query->loss) * GA_KNN_UP;
	return distance * query->value_factor - query->value_tiny;
}

/* Steps 2 and 3 for the inner product, from h p as computed. */
static double
bound_product(const GaKnnQuery *query, const GaKnnRow *row, double product)
{
	double		length = row->norm * (1 + 0x1p-22) + 0x1p-149 + row->loss;
	double		off = row->loss * query->norm + length * (query->loss + query->slack * query->norm);

	if (query->sums == GA_KNN_SUMS_F32)
	{
		if (!(length * query->norm < 0x1p126))
			return -HUGE_VAL;
		off += (double) query->dim * 0x1p-148;
	}
	return -product - off * GA_KNN_UP - (double) query->dim * 0x1p-1000;
}

/* Steps 2 and 3 for cosine, from h p as computed; loss: of the row's direction. */
static double
bound_cosine(const GaKnnQuery *query, const GaKnnRow *row, double product, double loss)
{
	double		off = loss * query->norm + query->loss + (1 + loss) * query->slack * query->norm;
	double		bound = 1 - product - off * GA_KNN_UP - 0x1p-48;

	if (query->sums == GA_KNN_SUMS_F32 && !(ga_knn_norm_in_range(row->norm) && ga_knn_norm_in_range(query->length)))
		return 0;
	return bound < 2 ? bound : 2;
}

/* A lower bound, for a row and a query of which something is known. */
static double
lower_bound(const GaKnnQuery *query, const GaKnnRow *row)
{
	GaKnnStored stored;
	double		sum;
	double		scale;

	switch (query->metric)
	{
		case GA_METRIC_L2:
			return bound_difference(query, row, l2_distance(query, row) * query->sum_factor);
		case GA_METRIC_L1:
			sum = sum_differences(query, GA_KNN_SUM_L1, row);
			return bound_difference(query, row, sum * query->unit * query->sum_factor);
		case GA_METRIC_IP:
		case GA_METRIC_COSINE:
			break;
	}

	if (query->metric == GA_METRIC_COSINE && row->norm < FLT_MIN)
		return 0;
	stored = ga_knn_stored(query->metric, query->storage, row);
	scale = stored.scale * query->unit;
	sum = sum_products(query, row) * scale;
	if (query->metric == GA_METRIC_COSINE)
		return bound_cosine(query, row, sum, stored.loss);
	return bound_product(query, row, sum);
}

/* Whether the canonical value of what is stored is that of the original. */
static bool
is_exact(const GaKnnQuery *query, const GaKnnRow *row)
{
	if (query->sums != GA_KNN_SUMS_CANONICAL || row->loss != 0)
		return false;
	/* An F64 row has F64 differences and products, and so has an F64 query. */
	return !(row->flags & GA_KNN_WIDE) || query->dtype == GA_F64;
}

static double
operator_value(const GaKnnQuery *query, const GaKnnRow *row)
{
	double		value = ga_distance(query->metric, GA_F32, row + 1, query->dtype, query->data, query->dim);

	return query->metric == GA_METRIC_IP ? 0.0 - value : value;
}

double
ga_knn_bound_row(const GaKnnQuery *query, const GaKnnRow *row, double threshold, bool *exact)
{
	double		least = least_value(query->metric);
	double		bound = least;

	*exact = true;
	if (query->reach == GA_KNN_NOWHERE || (row->flags & GA_KNN_NAN))
		return NAN;

	*exact = query->storage == GA_KNN_F32 && is_exact(query, row);
	if (*exact && isnan(threshold))
		return operator_value(query, row);

	/* An infinite norm makes sums NaN or infinite of either sign. */
	if (query->reach == GA_KNN_ORDINARY && row->loss <= FLT_MAX && row->norm <= FLT_MAX)
		bound = lower_bound(query, row);
	if (!(bound > least))
		bound = least;
	if (!*exact)
		return bound;
	*exact = !(bound > threshold);
	return *exact ? operator_value(query, row) : bound;
}

void
ga_knn_bounds(const GaKnnQuery *query, const void *records, size_t stride, int n, double threshold, double *bounds,
			  bool *exact)
{
	for (int i = 0; i < n; i++)
	{
		const GaKnnRow *row = (const GaKnnRow *) ((const char *) records + (size_t) i * stride);
		bool		row_exact;

		bounds[i] = ga_knn_bound_row(query, row, threshold, &row_exact);
		if (exact != NULL)
			exact[i] = row_exact;
	}
}
