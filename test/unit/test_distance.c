/*
 * test_distance.c
 *		Tests of src/math/distance*.c. The reference adds lane by lane, and
 *		shares nothing with the kernels.
 */
#include "unit.h"

/* Element i as F64, through the reference decoding. */
static double
element(int dtype, const void *data, size_t i)
{
	switch (dtype)
	{
		case GA_F32:
			return ((const float *) data)[i];
		case GA_F64:
			return ((const double *) data)[i];
		default:
			return reference_widen(dtype == GA_F16 ? &half : &bfloat, ((const uint16_t *) data)[i]);
	}
}

static double
sum_lanes(const double *lane)
{
	double		eight[8];
	double		four[4];
	double		two[2];

	for (int i = 0; i < 8; i++)
		eight[i] = lane[i] + lane[i + 8];
	for (int i = 0; i < 4; i++)
		four[i] = eight[i] + eight[i + 4];
	for (int i = 0; i < 2; i++)
		two[i] = four[i] + four[i + 2];
	return two[0] + two[1];
}

static double
reference_distance(GaMetric metric, int dtype_a, const void *a, int dtype_b, const void *b, size_t n)
{
	double		ab[16] = {0};
	double		aa[16] = {0};
	double		bb[16] = {0};
	double		sum;
	double		sum_a;
	double		sum_b;

	for (size_t j = 0; j < n; j++)
	{
		double		x = element(dtype_a, a, j);
		double		y = element(dtype_b, b, j);
		volatile double difference = x - y;
		volatile double product = x * y;
		volatile double square_x = x * x;
		volatile double square_y = y * y;
		volatile double square;

		/* Rounding the F64 difference to F32 would round twice; the F32 subtraction rounds once. */
		if (dtype_a != GA_F64 && dtype_b != GA_F64)
			difference = (volatile float) ((float) x - (float) y);
		square = difference * difference;

		if (metric == GA_METRIC_L2)
			ab[j % 16] += square;
		else if (metric == GA_METRIC_L1)
			ab[j % 16] += fabs(difference);
		else
			ab[j % 16] += product;
		aa[j % 16] += square_x;
		bb[j % 16] += square_y;
	}

	sum = sum_lanes(ab);
	if (metric == GA_METRIC_L2)
		return sqrt(sum);
	if (metric != GA_METRIC_COSINE)
		return sum;

	sum_a = sum_lanes(aa);
	sum_b = sum_lanes(bb);
	if (isnan(sum_a) || isnan(sum_b) || isinf(sum_a) || isinf(sum_b) || sum_a == 0 || sum_b == 0)
		return NAN;
	if (isnormal(sum_a * sum_b))
		sum = 1 - sum / sqrt(sum_a * sum_b);
	else
		sum = 1 - sum / (sqrt(sum_a) * sqrt(sum_b));
	return sum < 0 ? 0 : sum > 2 ? 2 : sum;
}

/* How the elements of a test vector look. */
typedef enum Look
{
	LOOK_UNIT,					/* in [-1, 1] */
	LOOK_WIDE,					/* any finite value of the dtype */
	LOOK_TINY,					/* denormals and zeros of either sign */
	LOOK_HUGE,					/* near the largest finite value */
	LOOK_CANCEL,				/* large values that nearly cancel, with odd low bits */
	LOOK_INFINITE,				/* some infinities */
	LOOK_NAN,					/* some infinities and NaNs, signalling ones too */
	LOOK_COUNT
} Look;

static uint64_t
random_element(int dtype, Look look)
{
	static const int fraction_bits[] = {0, 23, 10, 7, 52};
	static const int total_bits[] = {0, 32, 16, 16, 64};
	int			fraction = fraction_bits[dtype];
	int			exponent_bits = total_bits[dtype] - 1 - fraction;
	uint64_t	top = (UINT64_C(1) << exponent_bits) - 1;
	uint64_t	bias = top / 2;
	uint64_t	sign = next_random() & 1;
	uint64_t	mantissa = next_random() & ((UINT64_C(1) << fraction) - 1);
	uint64_t	exponent = bias - 1 - next_random() % 4;
	uint64_t	dice = next_random() % 16;

	switch (look)
	{
		case LOOK_WIDE:
			exponent = next_random() % top;
			break;
		case LOOK_TINY:
			exponent = 0;
			mantissa = dice < 4 ? 0 : dice < 8 ? mantissa & 3 : mantissa;
			break;
		case LOOK_HUGE:
			exponent = top - 1;
			break;
		case LOOK_CANCEL:
			exponent = bias + 10 + dice % 2;
			mantissa = dice < 8 ? mantissa & 1 : mantissa;
			break;
		case LOOK_INFINITE:
			if (dice == 0)
				exponent = top, mantissa = 0;
			break;
		case LOOK_NAN:
			if (dice == 0)
				exponent = top, mantissa = next_random() % 2 ? 1 : mantissa;
			break;
		default:
			break;
	}
	return sign << (total_bits[dtype] - 1) | exponent << fraction | mantissa;
}

static void
fill_vector(int dtype, void *data, size_t n, Look look)
{
	for (size_t i = 0; i < n; i++)
	{
		uint64_t	bits = random_element(dtype, look);

		if (dtype == GA_F64)
			((uint64_t *) data)[i] = bits;
		else if (dtype == GA_F32)
			((uint32_t *) data)[i] = (uint32_t) bits;
		else
			((uint16_t *) data)[i] = (uint16_t) bits;
	}
}

static const int widths[] = {0, 4, 2, 2, 8};
static const char *const metric_names[] = {"L2", "IP", "COSINE", "L1"};

static bool
same(double x, double expected)
{
	return isnan(expected) ? double_bits(x) == 0x7ff8000000000000 : double_bits(x) == double_bits(expected);
}

static bool
check_distance(const char *isa, GaMetric metric, int da, const void *a, int db, const void *b, size_t n)
{
	double		expected = reference_distance(metric, da, a, db, b, n);
	double		got = ga_distance(metric, da, a, db, b, n);

	if (!same(got, expected))
		return differ("%s %s %s,%s n=%d: %a, not %a", isa, metric_names[metric], ga_dtype_info(da)->name,
					  ga_dtype_info(db)->name, (int) n, got, expected);
	return true;
}

/* All metrics and pairs of dtypes on n elements; both vectors end where their allocation ends. */
static bool
check_all_pairs(const char *isa, size_t n, Look look)
{
	bool		good = true;

	for (int da = GA_F32; da <= GA_F64; da++)
	{
		for (int db = GA_F32; db <= GA_F64; db++)
		{
			/* An odd element first, so that no vector starts on a multiple of 16 bytes. */
			char	   *a = malloc((n + 1) * widths[da]);
			char	   *b = malloc((n + 1) * widths[db]);

			fill_vector(da, a, n + 1, look);
			fill_vector(db, b, n + 1, look);
			for (int metric = GA_METRIC_L2; metric <= GA_METRIC_L1; metric++)
				good &= check_distance(isa, metric, da, a + widths[da], db, b + widths[db], n);
			if (!same(ga_sum_squares(da, a + widths[da], n),
					  reference_distance(GA_METRIC_IP, da, a + widths[da], da, a + widths[da], n)))
				good = differ("%s sum of squares %s n=%d", isa, ga_dtype_info(da)->name, (int) n);
			free(a);
			free(b);
		}
	}
	return good;
}

static void
test_distances(const char *isa)
{
	static const size_t lengths[] = {127, 128, 129, 255, 300, 384, 511, 768, 1000, 1024, 1025, 1536, 4099};
	static const char *const looks[LOOK_COUNT] = {
		"values in [-1, 1]", "any finite values", "denormals", "huge values", "cancelling values",
		"infinities", "NaNs"
	};
	char		name[80];

	for (int look = 0; look < LOOK_COUNT; look++)
	{
		bool		good = true;

		for (size_t n = 0; n <= 100; n++)
			good &= check_all_pairs(isa, n, look);
		for (size_t i = 0; i < LENGTH(lengths); i++)
			good &= check_all_pairs(isa, lengths[i], look);
		snprintf(name, sizeof(name), "%s: every metric, pair of dtypes and length: %s", isa, looks[look]);
		result(good, name);
	}
	snprintf(name, sizeof(name), "%s: long vectors", isa);
	result(check_all_pairs(isa, 70000, LOOK_UNIT) && check_all_pairs(isa, 69999, LOOK_CANCEL), name);
}

/* Values worked out by hand, and the rules of distance.h. */
static void
test_distance_rules(const char *isa)
{
	static const float zero[3] = {0, 0, 0};
	static const float a[3] = {1, 2, 3};
	static const float b[3] = {4, 6, 3};
	static const float opposite[3] = {-1, -2, -3};
	static const float big[1] = {FLT_MAX};
	static const float minus_big[1] = {-FLT_MAX};
	static const float least[1] = {0x1p-149f};
	static const double wide_big[2] = {1e200, 0};
	static const double wide_small[2] = {1e-200, 0};
	static const double fine[2] = {1e120, 3e120};
	static const double coarse[2] = {1e-120, 3e-120};
	static const double minus_one[17] = {[0] = -1, [16] = 1 + 0x1p-30};
	static const double plus_one[17] = {[0] = 1, [16] = 1 + 0x1p-30};
	static const float rounded[1] = {0x1p24f};
	static const float small[1] = {0x1p-1f};
	static float random_vector[769];
	char		name[80];
	bool		good = true;
	double		nan = ga_distance(GA_METRIC_COSINE, GA_F32, zero, GA_F32, a, 3);

#define D(metric, x, y, n) ga_distance(GA_METRIC_##metric, GA_F32, x, GA_F32, y, n)
#define DD(metric, x, y, n) ga_distance(GA_METRIC_##metric, GA_F64, x, GA_F64, y, n)

	good = D(L2, a, b, 3) == 5 && D(L1, a, b, 3) == 7 && D(IP, a, b, 3) == 25 && ga_sum_squares(GA_F32, a, 3) == 14 &&
		D(COSINE, a, a, 3) == 0 && D(COSINE, a, opposite, 3) == 2;
	snprintf(name, sizeof(name), "%s: small distances by hand", isa);
	result(good, name);

	good = double_bits(D(L2, a, b, 0)) == 0 && double_bits(D(L1, a, b, 0)) == 0 && double_bits(D(IP, a, b, 0)) == 0 &&
		isnan(D(COSINE, a, b, 0)) && double_bits(D(IP, zero, opposite, 3)) == 0;
	snprintf(name, sizeof(name), "%s: no elements, and no negative zero", isa);
	result(good, name);

	good = double_bits(nan) == 0x7ff8000000000000 && isnan(D(COSINE, a, zero, 3)) && isnan(D(COSINE, zero, zero, 3)) &&
		isnan(DD(COSINE, wide_small, fine, 2)) && isnan(DD(COSINE, wide_big, fine, 2)) &&
		isnan(DD(COSINE, fine, wide_big, 2));
	snprintf(name, sizeof(name), "%s: cosine with a zero or overflowing norm is NaN", isa);
	result(good, name);

	good = fabs(DD(COSINE, fine, fine, 2)) < 1e-15 && fabs(DD(COSINE, coarse, coarse, 2)) < 1e-15 &&
		fabs(DD(COSINE, coarse, fine, 2)) < 1e-15;
	snprintf(name, sizeof(name), "%s: cosine where the product of the norms leaves the range", isa);
	result(good, name);

	good = isinf(D(L2, big, minus_big, 1)) && isinf(D(L1, big, minus_big, 1)) &&
		D(IP, big, big, 1) == (double) FLT_MAX * FLT_MAX &&
		D(IP, least, least, 1) == 0x1p-298 && D(L2, least, zero, 1) == 0x1p-149 && D(COSINE, least, least, 1) == 0;
	snprintf(name, sizeof(name), "%s: F32 differences overflow, products neither overflow nor underflow", isa);
	result(good, name);

	/* 2^24 - 0.5 is a tie in F32 and becomes even; in F64 it stays. */
	good = D(L1, rounded, small, 1) == 0x1p24 &&
		ga_distance(GA_METRIC_L1, GA_F64, (double[]) {0x1p24}, GA_F32, small, 1) == 0x1p24 - 0.5;
	snprintf(name, sizeof(name), "%s: differences round to F32 unless an operand is F64", isa);
	result(good, name);

	/* Lane 0 gets -1, then (1 + 2^-30)^2, whose 2^-60 rounding drops and a fused sum would bring back. */
	good = DD(IP, minus_one, plus_one, 17) == 0x1p-29;
	snprintf(name, sizeof(name), "%s: F64 products are not contracted", isa);
	result(good, name);

	good = true;
	for (size_t n = 1; n <= LENGTH(random_vector); n++)
	{
		fill_vector(GA_F32, random_vector, n, n % 2 ? LOOK_UNIT : LOOK_WIDE);
		good &= D(COSINE, random_vector, random_vector, n) == 0 && D(L2, random_vector, random_vector, n) == 0;
	}
	snprintf(name, sizeof(name), "%s: a vector is at 0 from itself", isa);
	result(good, name);

	good = isnan(ga_distance(GA_METRIC_L2, GA_I8, a, GA_F32, a, 1)) && isnan(ga_distance(GA_METRIC_L2, GA_F32, a, 0, a, 1));
	snprintf(name, sizeof(name), "%s: other dtypes give NaN", isa);
	result(good, name);
}

static void
test_nonfinite(void)
{
	bool		good = true;

	for (int dtype = GA_F32; dtype <= GA_F64; dtype++)
	{
		for (size_t n = 0; n <= 300; n++)
		{
			char	   *data = malloc(n * widths[dtype] + 1);

			fill_vector(dtype, data, n, n % 2 ? LOOK_HUGE : LOOK_WIDE);
			if (ga_has_nonfinite(dtype, data, n))
				good = differ("%s n=%d: finite", ga_dtype_info(dtype)->name, (int) n);
			for (size_t i = 0; i < n; i += n < 40 ? 1 : 37)
			{
				uint64_t	saved = 0;
				static const double bad[] = {HUGE_VAL, -HUGE_VAL, NAN};
				float		f = (float) bad[i % 3];
				uint16_t	h = dtype == GA_F16 ? ga_float_to_half(f) : ga_float_to_bfloat(f);
				char	   *p = data + i * widths[dtype];

				memcpy(&saved, p, widths[dtype]);
				memcpy(p, dtype == GA_F64 ? (const void *) &bad[i % 3] : dtype == GA_F32 ? (const void *) &f : &h,
					   widths[dtype]);
				if (!ga_has_nonfinite(dtype, data, n))
					good = differ("%s n=%d: element %d not finite", ga_dtype_info(dtype)->name, (int) n, (int) i);
				memcpy(p, &saved, widths[dtype]);
			}
			free(data);
		}
	}
	for (int code = 0; code <= 0xffff; code++)
	{
		uint16_t	h = (uint16_t) code;

		good &= ga_has_nonfinite(GA_F16, &h, 1) == ((code & 0x7fff) >= 0x7c00);
		good &= ga_has_nonfinite(GA_BF16, &h, 1) == ((code & 0x7fff) >= 0x7f80);
	}
	result(good, "infinities and NaNs are found wherever they are, and nothing else");
}

/* The choice of kernels; before it the portable ones work. */
static void
test_choice(void)
{
	static const float a[2] = {3, 4};
	static const float zero[2] = {0, 0};
	static const char *const wider[] = {"avx2", "avx_vnni", "avx512", "avx512_vnni"};
	const char *best = "portable";

	result(strcmp(ga_math_isa(), "portable") == 0 && ga_distance(GA_METRIC_L2, GA_F32, a, GA_F32, zero, 2) == 5,
		   "portable before initialisation");
	for (size_t i = 0; i < LENGTH(wider); i++)
		if (ga_math_force_isa(wider[i]))
			best = wider[i];
	ga_math_init();
	result(strcmp(ga_math_isa(), best) == 0, "initialisation picks the widest instruction set");
	result(!ga_math_force_isa("sse9") && strcmp(ga_math_isa(), best) == 0, "an unknown instruction set is refused");
	result(ga_math_force_isa("portable") && strcmp(ga_math_isa(), "portable") == 0, "portable is always there");
}

int
main(void)
{
	fill_format(&half);
	fill_format(&bfloat);

	test_choice();
	test_nonfinite();
	for_each_isa(test_distance_rules);
	for_each_isa(test_distances);
	return finish();
}
