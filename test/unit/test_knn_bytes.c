/*
 * test_knn_bytes.c
 *		Tests of int8 rows: products are exact whatever their size, bounds have the
 *		same bits on every machine, are no lower than what was lost explains, and
 *		hold where a query's rounding points.
 */
#include "unit.h"
#include "math/knn_impl.h"

static const char *const isas[] = {"portable", "avx2", "avx_vnni", "avx512", "avx512_vnni"};

static double
gauss(void)
{
	double		sum = -6;

	for (int i = 0; i < 12; i++)
		sum += (double) (next_random() >> 11) * 0x1p-53;
	return sum;
}

/* How products are chosen. */
typedef enum Size
{
	SIZE_ANY,
	SIZE_LARGEST,				/* of the largest magnitude and one sign */
	SIZE_LARGEST_NEGATIVE,
	SIZE_COUNT
} Size;

/* A row that ends with its memory, and a query padded with zeros; -128 is what only a damaged record holds. */
static void
fill_whole(Size size, int8_t *row, int16_t *query, size_t n)
{
	int			sign = size == SIZE_LARGEST ? -1 : 1;

	for (size_t i = 0; i < n; i++)
	{
		bool		any = size == SIZE_ANY;

		row[i] = any ? (int8_t) next_random() : -128;
		query[i] = any ? (int16_t) ((int) (next_random() % 65535) - 32767) : (int16_t) (sign * 32767);
	}
}

static int64_t
product(const int8_t *row, const int16_t *query, size_t n)
{
	int64_t		sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (int64_t) row[i] * query[i];
	return sum;
}

static bool
check_products(const char *isa, Size size, size_t n)
{
	size_t		padded = (n + GA_KNN_PAD - 1) / GA_KNN_PAD * GA_KNN_PAD;
	int8_t	   *row[GA_KNN_TILE_ROWS];
	int16_t    *query[GA_KNN_TILE_QUERIES];
	double		sums[GA_KNN_TILE_QUERIES][GA_KNN_TILE_ROWS];
	bool		good = true;

	for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
		row[r] = malloc(n > 0 ? n : 1);
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
	{
		query[q] = calloc(padded + 1, sizeof(int16_t));
		fill_whole(size, row[q % GA_KNN_TILE_ROWS], query[q], n);
	}
	ga_knn_bytes->tile((const int8_t *const *) row, (const int16_t *const *) query, n, sums);
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
		for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
		{
			double		expected = (double) product(row[r], query[q], n);
			double		dot = ga_knn_bytes->dot(row[r], query[q], n);

			if (dot != expected || sums[q][r] != expected)
				good = differ("%s n=%d query %d row %d: %.0f and %.0f, not %.0f", isa, (int) n, q, r, dot, sums[q][r], expected);
		}
	for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
		free(row[r]);
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
		free(query[q]);
	return good;
}

static void
test_products(const char *isa)
{
	static const size_t lengths[] = {255, 256, 257, 512, 768, 1023, 1024, 1025, 1056, 2047, 2048, 2049, 4096, 65535};
	char		name[100];
	bool		good = true;

	for (int size = 0; size < SIZE_COUNT; size++)
	{
		for (size_t n = 0; n < 200; n++)
			good &= check_products(isa, size, n);
		for (size_t i = 0; i < LENGTH(lengths); i++)
			good &= check_products(isa, size, lengths[i]);
	}
	snprintf(name, sizeof(name), "%s: products of int8 rows are exact, the largest included", isa);
	result(good, name);
}

static double
operator_value(GaMetric metric, const void *row, int dtype, const void *query, size_t n)
{
	double		value = ga_distance(metric, GA_F32, row, dtype, query, n);

	return metric == GA_METRIC_IP ? 0.0 - value : value;
}

/* A row, a query, and the bounds that one and many queries at a time give. */
typedef struct Case
{
	GaMetric	metric;
	size_t		n;
	float	   *row;
	float	   *query;
	GaKnnRow   *record;
	GaKnnQuery *prepared;
} Case;

static Case
make_case(GaMetric metric, size_t n)
{
	Case		c = {.metric = metric, .n = n};

	c.row = calloc(n, sizeof(float));
	c.query = calloc(n, sizeof(float));
	c.record = calloc(1, ga_knn_record_bytes(GA_KNN_INT8, n));
	c.prepared = malloc(ga_knn_query_bytes(GA_F32, n));
	return c;
}

static void
free_case(Case *c)
{
	free(c->row);
	free(c->query);
	free(c->record);
	free(c->prepared);
}

static void
bound_case(Case *c, double *bounds)
{
	size_t		stride = ga_knn_record_bytes(GA_KNN_INT8, c->n);

	ga_knn_encode(c->metric, GA_KNN_INT8, GA_F32, c->row, c->n, c->record);
	ga_knn_prepare(c->prepared, c->metric, GA_KNN_INT8, GA_KNN_SUMS_CANONICAL, GA_F32, c->query, c->n);
	ga_knn_bounds(c->prepared, c->record, stride, 1, NAN, &bounds[0], NULL);
	ga_knn_bounds_batch((const GaKnnQuery *const *) &c->prepared, 1, c->record, stride, 1, &bounds[1]);
}

static void
test_same_bits(void)
{
	bool		good = true;

	for (int i = 0; i < 2000; i++)
	{
		Case		c = make_case(next_random() % GA_METRIC_L1, 1 + next_random() % (i % 50 == 0 ? 5000 : 300));
		double		expected[2];
		double		bounds[2];

		for (size_t j = 0; j < c.n; j++)
		{
			c.query[j] = (float) gauss();
			c.row[j] = i % 3 == 0 ? c.query[j] + (float) gauss() * 0.01f : (float) gauss();
		}
		ga_math_force_isa("portable");
		bound_case(&c, expected);
		for (size_t j = 0; j < LENGTH(isas); j++)
		{
			if (!ga_math_force_isa(isas[j]))
				continue;
			bound_case(&c, bounds);
			if (memcmp(bounds, expected, sizeof(bounds)) != 0)
				good = differ("%s metric %d n=%d: %a %a, not %a %a", isas[j], c.metric, (int) c.n, bounds[0], bounds[1],
							  expected[0], expected[1]);
		}
		free_case(&c);
	}
	result(good, "bounds of int8 rows have the same bits on every machine");
}

/*
 * Bounds are below the value by little more than the loss: that of the row, and
 * what a query of 15 bits loses, both met twice.
 */
static void
test_tightness(void)
{
	bool		good = true;

	for (int i = 0; i < 1000; i++)
	{
		Case		c = make_case(next_random() % GA_METRIC_L1, 1 + next_random() % 1000);
		double		bounds[2];
		double		value;
		double		largest = 0;
		double		squares = 0;
		double		allowed;

		for (size_t j = 0; j < c.n; j++)
		{
			c.row[j] = (float) gauss();
			c.query[j] = (float) gauss();
			largest = fmax(largest, fabs(c.query[j]));
			squares += (double) c.query[j] * c.query[j];
		}
		ga_math_init();
		bound_case(&c, bounds);
		value = operator_value(c.metric, c.row, GA_F32, c.query, c.n);
		allowed = largest / 32767 * sqrt((double) c.n);
		if (c.metric == GA_METRIC_COSINE)
			allowed /= sqrt(squares);
		else if (c.metric == GA_METRIC_IP)
			allowed *= c.record->norm;
		allowed = 2.01 * (c.record->loss * (c.metric == GA_METRIC_IP ? sqrt(squares) : 1) + allowed) + 1e-3 * fabs(value);
		for (int j = 0; j < 2; j++)
			if (bounds[j] < value - allowed && (bounds[j] > 0 || value > allowed))
				good = differ("metric %d n=%d: bound %a, value %a, allowed %a", c.metric, (int) c.n, bounds[j], value, allowed);
		free_case(&c);
	}
	result(good, "bounds of int8 rows are as high as what was lost lets them be");
}

/*
 * Queries whose elements lie half a step from what is stored of them, all in the
 * direction that makes the distance smaller: toward a row that has lost nearly
 * nothing. One large element makes the step.
 */
static void
fill_worst_rounding(Case *c)
{
	float		large = (float) ldexp(1 + (double) (next_random() % 1000) / 1000, (int) (next_random() % 40) - 20);
	double		aside = c->metric == GA_METRIC_L2 ? -0.49 : 0.49;
	int			whole = 1 + (int) (next_random() % 20);

	for (size_t j = 0; j < c->n; j++)
	{
		double		sign = next_random() % 2 ? 1 : -1;

		c->query[j] = (float) (sign * large / 32767 * (whole + aside));
		c->row[j] = c->metric == GA_METRIC_L2 ? 0 : (float) sign;
	}
	c->query[0] = large;
	c->row[0] = c->metric == GA_METRIC_L2 ? large : 1;
}

static void
test_query_rounding(const char *isa)
{
	char		name[100];
	bool		good = true;

	for (int i = 0; i < 1500; i++)
	{
		Case		c = make_case(next_random() % GA_METRIC_L1, 2 + next_random() % (i % 10 == 0 ? 60000 : 3000));
		double		bounds[2];
		double		value;

		fill_worst_rounding(&c);
		bound_case(&c, bounds);
		value = operator_value(c.metric, c.row, GA_F32, c.query, c.n);
		for (int j = 0; j < 2; j++)
			if (!(bounds[j] <= value))
				good = differ("%s metric %d n=%d: bound %a, value %a", isa, c.metric, (int) c.n, bounds[j], value);
		free_case(&c);
	}
	snprintf(name, sizeof(name), "%s: bounds of int8 rows hold where a query's rounding points", isa);
	result(good, name);
}

int
main(void)
{
	for_each_isa(test_products);
	for_each_isa(test_query_rounding);
	test_same_bits();
	test_tightness();
	return finish();
}
