/*
 * test_knn.c
 *		Tests of src/math/knn*.c: no bound above ga_distance() of the originals,
 *		exact values bit for bit, and the collector against a sort.
 */
#include "unit.h"
#include "math/knn.h"

static const int widths[] = {0, 4, 2, 2, 8};
static const char *const storage_names[] = {"F32", "F16", "int8"};
static const char *const metric_names[] = {"L2", "IP", "COSINE", "L1"};

static double
uniform(void)
{
	return (double) (next_random() >> 11) * 0x1p-53;
}

static double
gauss(void)
{
	return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform());
}

/* How a row relates to the query. */
typedef enum Look
{
	LOOK_GAUSS,					/* independent */
	LOOK_NEAR,					/* the query and a little */
	LOOK_SAME,					/* the query, or a multiple of it */
	LOOK_TINY,					/* denormals of F32, and zeros */
	LOOK_HUGE,					/* near the largest F32 */
	LOOK_SPREAD,				/* magnitudes from 2^-149 to 2^127 in one vector */
	LOOK_SCALED,				/* each vector of a magnitude of its own */
	LOOK_ZERO,
	LOOK_BAD,					/* an infinity or a NaN somewhere */
	LOOK_WORST,					/* halfway between two F16: storing loses as much as it can */
	LOOK_LEVEL,					/* of one magnitude and mostly one sign: sums as large as they can be */
	LOOK_COUNT
} Look;

static double
look_element(Look look, double like, double scale)
{
	switch (look)
	{
		case LOOK_NEAR:
			return like * (1 + 1e-3 * gauss());
		case LOOK_SAME:
			return like * scale;
		case LOOK_TINY:
			return (double) (next_random() % 9) * 0x1p-149 * (next_random() % 2 ? 1 : -1);
		case LOOK_HUGE:
			return (uniform() < 0.5 ? -1 : 1) * FLT_MAX * (0.5 + 0.5 * uniform());
		case LOOK_SPREAD:
			return ldexp(uniform() - 0.5, (int) (next_random() % 277) - 149);
		case LOOK_ZERO:
			return next_random() % 2 ? 0.0 : -0.0;
		case LOOK_WORST:
			return (next_random() % 2 ? 1 : -1) * (1 + (double) (next_random() % 1024) * 0x1p-10 + 0x1p-11);
		case LOOK_LEVEL:
			return next_random() % 64 ? 1.5 : -1.5;
		default:
			return gauss() * (look == LOOK_SCALED ? scale : 1);
	}
}

static void
put(int dtype, void *data, size_t i, double x)
{
	if (dtype == GA_F64)
		((double *) data)[i] = x;
	else if (dtype == GA_F32)
		((float *) data)[i] = (float) x;
	else
		((uint16_t *) data)[i] = dtype == GA_F16 ? ga_double_to_half(x) : ga_double_to_bfloat(x);
}

static double
get(int dtype, const void *data, size_t i)
{
	double		x;

	ga_widen_f64(dtype, (const char *) data + i * widths[dtype], &x, 1);
	return x;
}

/* `like`: a vector of dtype `like_dtype`, for the looks that need one. */
static void
fill(int dtype, void *data, size_t n, Look look, int like_dtype, const void *like)
{
	double		scale = ldexp(1 + uniform(), (int) (next_random() % 200) - 100);

	if (look == LOOK_SAME && next_random() % 2)
		scale = next_random() % 2 ? 1 : ldexp(1, (int) (next_random() % 40) - 20);
	for (size_t i = 0; i < n; i++)
		put(dtype, data, i, look_element(look, get(like_dtype, like, i), scale));
	if (look == LOOK_BAD && n > 0)
	{
		static const double bad[] = {HUGE_VAL, -HUGE_VAL, NAN};

		put(dtype, data, next_random() % n, bad[next_random() % 3]);
	}
}

static double
operator_value(GaMetric metric, int da, const void *a, int db, const void *b, size_t n)
{
	double		value = ga_distance(metric, da, a, db, b, n);

	return metric == GA_METRIC_IP ? 0.0 - value : value;
}

static bool
check_bound(const char *what, GaMetric metric, double bound, bool exact, double value, size_t n)
{
	bool		good = isnan(bound) ? exact && isnan(value) : isnan(value) || bound <= value;

	if (exact && double_bits(bound) != double_bits(value) && !(isnan(bound) && isnan(value)))
		good = false;
	if (metric != GA_METRIC_IP && bound < 0)
		good = false;
	return good || differ("%s %s n=%d: bound %a (%s), value %a", what, metric_names[metric], (int) n, bound,
						  exact ? "exact" : "lower", value);
}

/* Thresholds spare exact values, and only of rows above them. */
static bool
check_thresholds(const char *what, GaMetric metric, const GaKnnQuery *query, const GaKnnRow *record, double all,
				 double value, size_t n)
{
	const double thresholds[] = {-HUGE_VAL, 0, value * 0.99, value * (1 - 1e-6), value, value * 1.01, HUGE_VAL};
	bool		good = true;

	for (size_t i = 0; i < LENGTH(thresholds); i++)
	{
		double		bound;
		bool		exact;

		ga_knn_bounds(query, record, 0, 1, thresholds[i], &bound, &exact);
		good &= check_bound(what, metric, bound, exact, value, n);
		if (double_bits(bound) != double_bits(all) && !(bound > thresholds[i]))
			good = differ("%s %s n=%d: bound %a, not %a, for threshold %a", what, metric_names[metric], (int) n, bound, all,
						  thresholds[i]);
	}
	return good;
}

/* One row and query under every metric and storage. */
static bool
check_row(const char *isa, int da, const void *row, int db, const void *query_data, size_t n)
{
	GaKnnQuery *query = malloc(ga_knn_query_bytes(db, n));
	bool		good = true;

	for (int metric = GA_METRIC_L2; metric <= GA_METRIC_L1; metric++)
	{
		double		value = operator_value(metric, da, row, db, query_data, n);

		for (int storage = GA_KNN_F32; storage <= GA_KNN_INT8; storage++)
		{
			size_t		size = ga_knn_record_bytes(storage, n);
			char		what[80];
			GaKnnRow   *record = malloc(size);
			double		bound;
			bool		exact;

			snprintf(what, sizeof(what), "%s %s row %s query %s", isa, storage_names[storage], ga_dtype_info(da)->name,
					 ga_dtype_info(db)->name);
			memset(record, 0xa5, size);
			ga_knn_encode(metric, storage, da, row, n, record);
			ga_knn_prepare(query, metric, storage, GA_KNN_SUMS_CANONICAL, db, query_data, n);
			ga_knn_bounds(query, record, size, 1, NAN, &bound, &exact);
			good &= check_bound(what, metric, bound, exact, value, n);
			if (storage == GA_KNN_F32 && da != GA_F64 && !exact)
				good = differ("%s %s n=%d: not exact", what, metric_names[metric], (int) n);
			good &= check_thresholds(what, metric, query, record, bound, value, n);
			if (record->tid[0] != 0xa5 || record->tid[5] != 0xa5 || (record->flags & GA_KNN_INDEX_FLAGS))
				good = differ("%s: tid or flags of the index", what);
			free(record);
		}
	}
	free(query);
	return good;
}

/* All pairs of dtypes. */
static bool
check_pairs(const char *isa, size_t n, Look look)
{
	bool		good = true;

	for (int da = GA_F32; da <= GA_F64; da++)
		for (int db = GA_F32; db <= GA_F64; db++)
		{
			void	   *row = malloc(n * widths[da] + 1);
			void	   *query = malloc(n * widths[db] + 1);
			Look		query_look = look == LOOK_NEAR || look == LOOK_SAME ? LOOK_GAUSS : look;

			memset(query, 0, n * widths[db] + 1);
			fill(db, query, n, next_random() % 4 ? query_look : (Look) (next_random() % LOOK_COUNT), db, query);
			fill(da, row, n, look, db, query);
			good &= check_row(isa, da, row, db, query, n);
			free(row);
			free(query);
		}
	return good;
}

static void
test_bounds(const char *isa)
{
	static const char *const looks[LOOK_COUNT] = {
		"independent", "near the query", "multiples of the query", "denormals", "huge", "of all magnitudes",
		"each of a magnitude of its own", "zeros", "infinite or NaN", "halfway between F16",
		"of one magnitude"
	};
	static const size_t lengths[] = {127, 128, 129, 300, 384, 768, 1023, 1025, 2048, 4096};
	char		name[120];

	for (int look = 0; look < LOOK_COUNT; look++)
	{
		bool		good = true;

		for (size_t n = 0; n < 80; n++)
			good &= check_pairs(isa, n, look);
		for (size_t i = 0; i < LENGTH(lengths); i++)
			good &= check_pairs(isa, lengths[i], look);
		snprintf(name, sizeof(name), "%s: no bound above the value, exact where it says so: vectors %s", isa, looks[look]);
		result(good, name);
	}
	snprintf(name, sizeof(name), "%s: no bound above the value of vectors of 65535 elements", isa);
	result(check_pairs(isa, 65535, LOOK_GAUSS) && check_pairs(isa, 65535, LOOK_NEAR) && check_pairs(isa, 65535, LOOK_WORST) &&
		   check_pairs(isa, 65535, LOOK_LEVEL), name);
}

/* Rows of all looks against queries of most: batches of every size around those of tiles. */
static bool
check_batch(GaMetric metric, GaKnnStorage storage, GaKnnSums sums, int nq, int rows, size_t n)
{
	size_t		stride = ga_knn_record_bytes(storage, n) + next_random() % 3 * 8;
	char	   *records = calloc(rows + 1, stride);
	char	   *row_data = calloc(rows + 1, n * 8 + 8);
	char	   *query_data = calloc(nq, n * 8 + 8);
	int		   *row_dtype = calloc(rows + 1, sizeof(int));
	GaKnnQuery **queries = calloc(nq, sizeof(*queries));
	double	   *bounds = calloc((size_t) nq * rows + 1, sizeof(double));
	bool		good = true;

	for (int q = 0; q < nq; q++)
	{
		int			dtype = q % 5 == 4 ? GA_F64 : GA_F32;

		fill(dtype, query_data + q * (n * 8 + 8), n, q % 7 == 6 ? (Look) (next_random() % LOOK_COUNT) : LOOK_GAUSS, dtype,
			 query_data + q * (n * 8 + 8));
		queries[q] = malloc(ga_knn_query_bytes(dtype, n));
		ga_knn_prepare(queries[q], metric, storage, sums, dtype, query_data + q * (n * 8 + 8), n);
	}
	for (int i = 0; i < rows; i++)
	{
		row_dtype[i] = GA_F32 + (int) (next_random() % 4);
		fill(row_dtype[i], row_data + i * (n * 8 + 8), n, (Look) (next_random() % LOOK_COUNT), GA_F32, query_data);
		ga_knn_encode(metric, storage, row_dtype[i], row_data + i * (n * 8 + 8), n, (GaKnnRow *) (records + i * stride));
	}
	ga_knn_bounds_batch((const GaKnnQuery *const *) queries, nq, records, stride, rows, bounds);
	for (int q = 0; q < nq; q++)
		for (int i = 0; i < rows; i++)
		{
			double		value = operator_value(metric, row_dtype[i], row_data + i * (n * 8 + 8), q % 5 == 4 ? GA_F64 : GA_F32,
											   query_data + q * (n * 8 + 8), n);

			good &= check_bound(storage_names[storage], metric, bounds[(size_t) q * rows + i],
								isnan(bounds[(size_t) q * rows + i]), value, n);
		}
	for (int q = 0; q < nq; q++)
		free(queries[q]);
	free(records);
	free(row_data);
	free(query_data);
	free(row_dtype);
	free(queries);
	free(bounds);
	return good;
}

static void
test_batches(const char *isa)
{
	static const size_t lengths[] = {1, 7, 8, 15, 16, 17, 31, 33, 64, 100, 384, 1024, 1040, 2100};
	char		name[80];
	bool		good = true;

	for (int metric = GA_METRIC_L2; metric <= GA_METRIC_L1; metric++)
		for (int storage = GA_KNN_F32; storage <= GA_KNN_INT8; storage++)
			for (size_t i = 0; i < LENGTH(lengths); i++)
				for (int rows = 0; rows < 140; rows += 1 + (int) (next_random() % 60))
				{
					int			nq = 1 + (int) (next_random() % (next_random() % 8 == 0 ? 110 : 14));

					good &= check_batch(metric, storage, next_random() % 2, nq, rows, lengths[i]);
				}
	snprintf(name, sizeof(name), "%s: no bound of a batch above the value", isa);
	result(good, name);
}

/* What a record holds, as doc/formats.md describes it. */
static double
stored(GaKnnStorage storage, const GaKnnRow *record, size_t i)
{
	if (storage == GA_KNN_F32)
		return ((const float *) (record + 1))[i];
	if (storage == GA_KNN_INT8)
		return (double) ((const int8_t *) (record + 1))[4 + i] * *(const float *) (record + 1);
	return ldexp(reference_widen(&half, ((const uint16_t *) (record + 1))[i]), (record->flags >> 8) - 126);
}

/* Puts the norm of the metric of x[] - h[] into *loss, and x[] - h[] into rest. */
static long double
norm_of_rest(GaMetric metric, const long double *x, GaKnnStorage storage, const GaKnnRow *record, size_t n, double *rest)
{
	long double sum = 0;

	for (size_t i = 0; i < n; i++)
	{
		long double r = x[i] - stored(storage, record, i);

		rest[i] = (double) r;
		sum += metric == GA_METRIC_L1 ? fabsl(r) : r * r;
	}
	return metric == GA_METRIC_L1 ? sum : sqrtl(sum);
}

/*
 * The loss of a row is the norm of the rest and hardly more; and queries that lie
 * where the rest points, so that the bound is as near the value as it can be.
 */
static bool
check_worst(const char *isa, GaMetric metric, GaKnnStorage storage, int dtype, size_t n, Look look)
{
	GaKnnRow   *record = malloc(ga_knn_record_bytes(storage, n));
	GaKnnQuery *query = malloc(ga_knn_query_bytes(GA_F64, n));
	long double *x = malloc(n * sizeof(*x));
	double	   *rest = malloc(n * sizeof(*rest));
	double	   *q = malloc(n * sizeof(*q));
	void	   *row = malloc(n * 8);
	long double norm = 0;
	long double loss;
	bool		good = true;

	fill(dtype, row, n, look, dtype, row);
	for (size_t i = 0; i < n; i++)
	{
		x[i] = get(dtype, row, i);
		norm += x[i] * x[i];
	}
	for (size_t i = 0; i < n && metric == GA_METRIC_COSINE && storage != GA_KNN_F32; i++)
		x[i] /= sqrtl(norm);
	ga_knn_encode(metric, storage, dtype, row, n, record);
	loss = norm_of_rest(metric, x, storage, record, n, rest);
	if (!(record->loss >= loss * (1 - 0x1p-60L)) || record->loss > loss * (1 + 1e-6L) + 1e-14L)
		good = differ("%s %s n=%d: loss %a, not %La", isa, metric_names[metric], (int) n, record->loss, loss);

	for (int i = 0; i < 8; i++)
	{
		double		factor = ldexp(1 + uniform(), i * 3);
		int			query_dtype = i % 2 ? GA_F64 : GA_F32;
		double		bound;
		bool		exact;

		for (size_t j = 0; j < n; j++)
			put(query_dtype, q, j, (metric == GA_METRIC_L2 || metric == GA_METRIC_L1 ? stored(storage, record, j) : 0) +
				factor * rest[j]);
		ga_knn_prepare(query, metric, storage, GA_KNN_SUMS_CANONICAL, query_dtype, q, n);
		ga_knn_bounds(query, record, 0, 1, NAN, &bound, &exact);
		good &= check_bound(isa, metric, bound, exact, operator_value(metric, dtype, row, query_dtype, q, n), n);
		ga_knn_bounds_batch((const GaKnnQuery *const *) &query, 1, record, 0, 1, &bound);
		good &= check_bound(isa, metric, bound, isnan(bound), operator_value(metric, dtype, row, query_dtype, q, n), n);
	}
	free(record);
	free(query);
	free(x);
	free(rest);
	free(q);
	free(row);
	return good;
}

static void
test_worst(const char *isa)
{
	static const Look looks[] = {LOOK_GAUSS, LOOK_WORST, LOOK_SCALED};
	char		name[100];
	bool		good = true;

	for (int i = 0; i < 6000; i++)
		good &= check_worst(isa, next_random() % 4, i % 4 == 0 ? GA_KNN_F32 : i % 4 == 1 ? GA_KNN_INT8 : GA_KNN_F16, i % 3 ? GA_F32 : GA_F64,
							1 + next_random() % (i % 100 == 0 ? 4096 : 100), looks[next_random() % LENGTH(looks)]);
	snprintf(name, sizeof(name), "%s: the loss is what was lost, and bounds hold where it points", isa);
	result(good, name);
}

/* An operator that sums in F32: one after the other, in lanes, or backwards. */
static double
sum_in_f32(GaMetric metric, const float *a, const float *b, size_t n, int order)
{
	float		lane[8] = {0};
	float		aa = 0;
	float		bb = 0;
	double		sum;

	for (size_t i = 0; i < n; i++)
	{
		size_t		j = order == 2 ? n - 1 - i : i;
		float	   *to = &lane[order == 1 ? j % 8 : 0];
		float		d = a[j] - b[j];

		*to += metric == GA_METRIC_L2 ? d * d : metric == GA_METRIC_L1 ? fabsf(d) : a[j] * b[j];
		aa += a[j] * a[j];
		bb += b[j] * b[j];
	}
	for (int i = 1; i < 8; i++)
		lane[0] += lane[i];
	sum = lane[0];
	if (metric == GA_METRIC_L2)
		return sqrt(sum);
	if (metric == GA_METRIC_IP)
		return -sum;
	if (metric == GA_METRIC_L1)
		return sum;
	sum /= sqrt((double) aa * (double) bb);
	return 1 - (sum > 1 ? 1 : sum < -1 ? -1 : sum);
}

static void
test_sums_in_f32(const char *isa)
{
	char		name[100];
	bool		good = true;

	for (int i = 0; i < 8000; i++)
	{
		GaMetric	metric = next_random() % 4;
		GaKnnStorage storage = next_random() % 3;
		Look		look = (Look) (i % LOOK_COUNT);
		size_t		n = 1 + next_random() % (i % 100 == 0 ? 4000 : 200);
		float	   *a = calloc(n, sizeof(*a));
		float	   *b = calloc(n, sizeof(*b));
		GaKnnRow   *record = malloc(ga_knn_record_bytes(storage, n));
		GaKnnQuery *query = malloc(ga_knn_query_bytes(GA_F32, n));
		double		bound;
		double		batch_bound;
		bool		exact;

		fill(GA_F32, b, n, look == LOOK_NEAR || look == LOOK_SAME || look == LOOK_BAD ? LOOK_SCALED : look, GA_F32, b);
		fill(GA_F32, a, n, look == LOOK_BAD ? LOOK_GAUSS : look, GA_F32, b);
		ga_knn_encode(metric, storage, GA_F32, a, n, record);
		ga_knn_prepare(query, metric, storage, GA_KNN_SUMS_F32, GA_F32, b, n);
		ga_knn_bounds(query, record, 0, 1, NAN, &bound, &exact);
		ga_knn_bounds_batch((const GaKnnQuery *const *) &query, 1, record, 0, 1, &batch_bound);
		for (int order = 0; order < 3; order++)
		{
			double		value = sum_in_f32(metric, a, b, n, order);

			good &= check_bound("sums in F32", metric, bound, exact, value, n);
			good &= check_bound("sums in F32, batch", metric, batch_bound, isnan(batch_bound), value, n);
		}
		if (exact && !isnan(bound))
			good = differ("exact, although the operator sums in F32");
		free(a);
		free(b);
		free(record);
		free(query);
	}
	snprintf(name, sizeof(name), "%s: no bound above the value of an operator that sums in F32", isa);
	result(good, name);
}

/* A row of any dtype and look has the same bytes whatever the instruction set. */
static void
test_encoding(void)
{
	static const char *const isas[] = {"portable", "avx2", "avx_vnni", "avx512", "avx512_vnni"};
	bool		good = true;

	for (int i = 0; i < 4000; i++)
	{
		GaMetric	metric = next_random() % 4;
		GaKnnStorage storage = next_random() % 3;
		int			dtype = GA_F32 + (int) (next_random() % 4);
		size_t		n = next_random() % (i % 50 == 0 ? 3000 : 100);
		size_t		size = ga_knn_record_bytes(storage, n);
		char	   *data = calloc(n + 1, 8);
		char	   *expected = calloc(1, size);
		char	   *record = calloc(1, size);

		fill(dtype, data, n, (Look) (next_random() % LOOK_COUNT), dtype, data);
		ga_math_force_isa("portable");
		ga_knn_encode(metric, storage, dtype, data, n, (GaKnnRow *) expected);
		for (size_t j = 0; j < LENGTH(isas); j++)
		{
			if (!ga_math_force_isa(isas[j]))
				continue;
			memset(record + 8, 0xa5, size - 8);
			ga_knn_encode(metric, storage, dtype, data, n, (GaKnnRow *) record);
			if (memcmp(record, expected, size) != 0)
				good = differ("%s: %s n=%d", isas[j], metric_names[metric], (int) n);
		}
		free(data);
		free(expected);
		free(record);
	}
	result(good, "a record has the same bytes on every machine");
}

static int
compare_pairs(const void *a, const void *b)
{
	return ga_knn_pair_compare(a, b);
}

/* Bounds with ties, infinities and NaNs, collected in passes of `capacity`, against all of them sorted. */
static bool
check_top(size_t n, size_t capacity)
{
	GaKnnPair  *all = malloc((n + 1) * sizeof(*all));
	GaKnnPair  *memory = malloc(capacity * sizeof(*memory));
	double	   *bounds = malloc((n + 1) * sizeof(*bounds));
	GaKnnPair	last;
	bool		good = true;
	size_t		done = 0;

	for (size_t i = 0; i < n; i++)
	{
		static const double odd[] = {0.0, -0.0, HUGE_VAL, -HUGE_VAL, NAN, NAN};
		uint64_t	dice = next_random() % 20;

		bounds[i] = dice < LENGTH(odd) ? odd[dice] : dice < 14 ? (double) (next_random() % 8) : gauss();
		all[i].bound = bounds[i];
		all[i].row = i;
		all[i].exact = 0;
	}
	qsort(all, n, sizeof(*all), compare_pairs);
	for (size_t i = 1; i < n; i++)
		good &= ga_knn_pair_compare(&all[i - 1], &all[i]) < 0 && (isnan(all[i].bound) || all[i - 1].bound <= all[i].bound);

	do
	{
		GaKnnTop	top;

		ga_knn_top_init(&top, memory, capacity, done > 0 ? &last : NULL);
		ga_knn_top_push_many(&top, bounds, NULL, (int) (n / 2), 0);
		for (size_t i = n / 2; i < n; i++)
			ga_knn_top_push(&top, bounds[i], i, false);
		for (size_t end = top.count; end > 1;)
			end = ga_knn_top_sort(&top, end, 7);
		if (top.count != (n - done < capacity ? n - done : capacity))
			good = differ("%d of %d in passes of %d: %d at %d", (int) top.count, (int) n, (int) capacity, (int) n, (int) done);
		for (size_t i = 0; i < top.count && good; i++)
			good &= memory[i].row == all[done + i].row;
		done += top.count;
		if (top.count > 0)
			last = memory[top.count - 1];
	}
	while (good && done < n);
	free(all);
	free(memory);
	free(bounds);
	return good;
}

static void
test_top(void)
{
	bool		good = true;

	for (size_t n = 0; n < 60; n++)
		for (size_t capacity = 1; capacity < 70; capacity += 1 + n / 10)
			good &= check_top(n, capacity);
	good &= check_top(20000, 1000) && check_top(5000, 5000) && check_top(3000, 7);
	result(good, "the smallest pairs, in passes, are those of a sort: ties, infinities and NaNs included");
}

int
main(void)
{
	fill_format(&half);
	fill_format(&bfloat);

	test_top();
	test_encoding();
	for_each_isa(test_bounds);
	for_each_isa(test_batches);
	for_each_isa(test_worst);
	for_each_isa(test_sums_in_f32);
	return finish();
}
