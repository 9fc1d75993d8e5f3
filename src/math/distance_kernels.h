/*
 * distance_kernels.h
 *		The body of the distance kernels, included once by each instruction set.
 *
 * The including file defines
 *		TARGET			the function attribute that enables the instructions
 *		WIDTH			elements in a vector: a divisor of GA_LANES
 *		Wide, Narrow	WIDTH doubles, WIDTH floats
 *		wide_zero, wide_load, wide_sub, wide_abs, wide_add
 *		wide_mul_add	x * y + acc in two roundings
 *		wide_fma		x * y + acc where x * y is exact: fused or not
 *		narrow_load, narrow_sub, narrow_widen
 *		reduce			the tree over all GA_LANES / WIDTH vectors
 *		KERNEL_TABLE	the declaration of the table it gets
 */

#define VECTORS (GA_LANES / WIDTH)

/* Running sums of one kernel call; all but COSINE use only the first. */
typedef struct Sums
{
	Wide		ab[VECTORS];
	Wide		aa[VECTORS];
	Wide		bb[VECTORS];
} Sums;

static GA_FORCE_INLINE size_t
elem_size(int dtype)
{
	return dtype == GA_F64 ? 8 : dtype == GA_F32 ? 4 : 2;
}

/* Adds WIDTH elements to vector v where no operand is F64: products are exact. */
static GA_FORCE_INLINE TARGET void
step_narrow(GaMetric metric, int dtype_a, const char *a, int dtype_b, const char *b, Sums *s, int v)
{
	Narrow		x = narrow_load(dtype_a, a);
	Narrow		y = narrow_load(dtype_b, b);

	if (metric == GA_METRIC_L2 || metric == GA_METRIC_L1)
	{
		Wide		d = narrow_widen(narrow_sub(x, y));

		s->ab[v] = metric == GA_METRIC_L2 ? wide_fma(d, d, s->ab[v]) : wide_add(wide_abs(d), s->ab[v]);
	}
	else
	{
		Wide		xw = narrow_widen(x);
		Wide		yw = narrow_widen(y);

		s->ab[v] = wide_fma(xw, yw, s->ab[v]);
		if (metric == GA_METRIC_COSINE)
		{
			s->aa[v] = wide_fma(xw, xw, s->aa[v]);
			s->bb[v] = wide_fma(yw, yw, s->bb[v]);
		}
	}
}

/* Adds WIDTH elements to vector v where an operand is F64: every operation rounds. */
static GA_FORCE_INLINE TARGET void
step_wide(GaMetric metric, int dtype_a, const char *a, int dtype_b, const char *b, Sums *s, int v)
{
	Wide		x = wide_load(dtype_a, a);
	Wide		y = wide_load(dtype_b, b);

	if (metric == GA_METRIC_L2 || metric == GA_METRIC_L1)
	{
		Wide		d = wide_sub(x, y);

		s->ab[v] = metric == GA_METRIC_L2 ? wide_mul_add(d, d, s->ab[v]) : wide_add(wide_abs(d), s->ab[v]);
	}
	else
	{
		s->ab[v] = wide_mul_add(x, y, s->ab[v]);
		if (metric == GA_METRIC_COSINE)
		{
			s->aa[v] = wide_mul_add(x, x, s->aa[v]);
			s->bb[v] = wide_mul_add(y, y, s->bb[v]);
		}
	}
}

/* Adds GA_LANES elements, one to each lane. */
static GA_FORCE_INLINE TARGET void
step(GaMetric metric, int dtype_a, const char *a, int dtype_b, const char *b, Sums *s)
{
#pragma GCC unroll 4
	for (int v = 0; v < VECTORS; v++)
	{
		const char *x = a + v * WIDTH * elem_size(dtype_a);
		const char *y = b + v * WIDTH * elem_size(dtype_b);

		if (dtype_a == GA_F64 || dtype_b == GA_F64)
			step_wide(metric, dtype_a, x, dtype_b, y, s, v);
		else
			step_narrow(metric, dtype_a, x, dtype_b, y, s, v);
	}
}

/*
 * One kernel; metric and dtypes are constants in every caller. The last
 * n % GA_LANES elements are padded with zeros: each pad adds +0 to its lane,
 * which changes no bit, as a lane starts at +0 and so is never -0.
 */
static GA_FORCE_INLINE TARGET void
kernel(GaMetric metric, int dtype_a, const char *a, int dtype_b, const char *b, size_t n, double *sums)
{
	size_t		size_a = elem_size(dtype_a);
	size_t		size_b = elem_size(dtype_b);
	size_t		rest = n % GA_LANES;
	Sums		s;

#pragma GCC unroll 4
	for (int v = 0; v < VECTORS; v++)
		s.ab[v] = s.aa[v] = s.bb[v] = wide_zero();

	for (size_t blocks = n / GA_LANES; blocks > 0; blocks--)
	{
		step(metric, dtype_a, a, dtype_b, b, &s);
		a += GA_LANES * size_a;
		b += GA_LANES * size_b;
	}

	if (rest > 0)
	{
		double		pad_a[GA_LANES] = {0};
		double		pad_b[GA_LANES] = {0};

		memcpy(pad_a, a, rest * size_a);
		memcpy(pad_b, b, rest * size_b);
		step(metric, dtype_a, (const char *) pad_a, dtype_b, (const char *) pad_b, &s);
	}

	sums[0] = reduce(s.ab);
	if (metric == GA_METRIC_COSINE)
	{
		sums[1] = reduce(s.aa);
		sums[2] = reduce(s.bb);
	}
}

#define DEFINE_KERNEL(metric, x, y) \
	static TARGET void \
	metric##_##x##_##y(const void *a, const void *b, size_t n, double *sums) \
	{ \
		kernel(GA_METRIC_##metric, GA_##x, a, GA_##y, b, n, sums); \
	}

GA_EACH_KERNEL(DEFINE_KERNEL)

#define KERNEL_ENTRY(metric, x, y) [GA_METRIC_##metric][GA_##x - 1][GA_##y - 1] = metric##_##x##_##y,

KERNEL_TABLE = {GA_EACH_KERNEL(KERNEL_ENTRY)};
