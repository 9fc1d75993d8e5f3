/*
 * knn_encode.c
 *		Rows as the index stores them.
 *
 * F16: the vector, for cosine its direction, times a power of two that brings
 * the largest element just below F16's largest value. So nothing overflows, an
 * F16 row is stored exactly whatever its magnitude, and elements down to 2^-30
 * of the largest keep full precision. The loss is measured, not estimated: it
 * is the norm of what remains when the stored value is taken from the original.
 */
#include "knn_impl.h"

#include <math.h>

/* Elements handled at a time. */
#define BLOCK 512

size_t
ga_knn_record_bytes(GaKnnStorage storage, size_t dim)
{
	return (sizeof(GaKnnRow) + dim * (storage == GA_KNN_F16 ? 2 : 4) + 7) / 8 * 8;
}

static size_t
width_of(int dtype)
{
	return dtype == GA_F64 ? 8 : dtype == GA_F32 ? 4 : 2;
}

/* The smallest F32 that is not below a nonnegative x. */
static float
round_up(double x)
{
	float		f = (float) x;

	return (double) f < x ? nextafterf(f, HUGE_VALF) : f;
}

/* The largest magnitude; NaN when an element is NaN. */
static double
largest(int dtype, const char *data, size_t dim)
{
	double		block[BLOCK];
	double		max = 0;
	bool		nan = false;

	for (size_t start = 0; start < dim; start += BLOCK)
	{
		size_t		n = dim - start < BLOCK ? dim - start : BLOCK;

		ga_widen_f64(dtype, data + start * width_of(dtype), block, n);
		for (size_t i = 0; i < n; i++)
		{
			double		x = fabs(block[i]);

			nan |= isnan(x);
			max = x > max ? x : max;
		}
	}
	return nan ? NAN : max;
}

/* What is known after all elements were stored. */
typedef struct Lost
{
	double		squares;		/* of what storing lost */
	double		sum;			/* its L1 norm */
	double		stored;			/* squares of what is stored */
	bool		any;
} Lost;

static void
add_lost(Lost *lost, double original, double stored)
{
	double		rest = original - stored;

	lost->squares += rest * rest;
	lost->sum += fabs(rest);
	lost->stored += stored * stored;
	lost->any |= rest != 0;
}

static void
store_f16(int dtype, const char *data, size_t dim, double divisor, int exponent, uint16_t *out, Lost *lost)
{
	double		block[BLOCK];
	double		up = ldexp(1.0, -exponent);
	double		down = ldexp(1.0, exponent);

	for (size_t start = 0; start < dim; start += BLOCK)
	{
		size_t		n = dim - start < BLOCK ? dim - start : BLOCK;

		ga_widen_f64(dtype, data + start * width_of(dtype), block, n);
		for (size_t i = 0; i < n; i++)
		{
			double		x = block[i] / divisor;
			uint16_t	half = ga_double_to_half(x * up);

			out[start + i] = half;
			add_lost(lost, x, ga_widen_half(half) * down);
		}
	}
}

static void
store_f32(int dtype, const char *data, size_t dim, float *out, Lost *lost)
{
	double		block[BLOCK];

	for (size_t start = 0; start < dim; start += BLOCK)
	{
		size_t		n = dim - start < BLOCK ? dim - start : BLOCK;

		ga_widen_f64(dtype, data + start * width_of(dtype), block, n);
		for (size_t i = 0; i < n; i++)
		{
			out[start + i] = (float) block[i];
			add_lost(lost, block[i], out[start + i]);
		}
	}
}

/* The exponent of the power of two that x * 2^-exponent <= 65504 after rounding, within the range that flags hold. */
static int
exponent_of(double max)
{
	int			exponent = max > 0 ? ilogb(max) - 15 : 0;

	/* From here on F16 rounds to infinity. */
	if (max > 0 && ldexp(max, -exponent) >= 65520)
		exponent++;
	if (exponent < -GA_KNN_EXPONENT_BIAS)
		exponent = -GA_KNN_EXPONENT_BIAS;
	return exponent;
}

/*
 * The loss, rounded up: the sums have dim terms, each term at most three
 * roundings of 2^-53 and each sum dim of them (Higham, Accuracy and Stability
 * of Numerical Algorithms, 2nd ed., (4.4): gamma_n); the root halves that.
 * Squares of less than 2^-1074 vanish only where an F64 element is not stored
 * at all; the least F32 covers them. `more`: what the stored vector's original
 * itself may be off by.
 */
static float
loss_of(GaMetric metric, const Lost *lost, size_t dim, double more)
{
	double		loss = metric == GA_METRIC_L1 ? lost->sum : sqrt(lost->squares);

	loss = loss * (1 + ((double) dim + 16) * 0x1p-53) + more;
	return round_up(lost->any ? loss + 0x1p-149 : loss);
}

static void
encode_f16(GaMetric metric, int dtype, const char *data, size_t dim, double max, GaKnnRow *record)
{
	double		length = 1;
	double		more = 0;
	int			exponent;
	Lost		lost = {0};

	if (metric == GA_METRIC_COSINE)
	{
		double		squares = ga_sum_squares(dtype, data, dim);

		/* Smaller sums may have lost bits to underflow. The direction is off by the roundings of root and quotient. */
		if (squares < 0x1p-900)
			return;
		length = sqrt(squares);
		more = ((double) dim / GA_LANES + 16) * 0x1p-53;
	}
	else if (max > FLT_MAX)
		return;

	exponent = exponent_of(max / length);
	store_f16(dtype, data, dim, length, exponent, (uint16_t *) (record + 1), &lost);
	record->flags |= (uint16_t) ((exponent + GA_KNN_EXPONENT_BIAS) << GA_KNN_EXPONENT_SHIFT);
	if (metric != GA_METRIC_COSINE)
		length = sqrt(lost.stored);
	record->norm = length < FLT_MAX || metric != GA_METRIC_COSINE ? (float) length : FLT_MAX;
	record->loss = loss_of(metric, &lost, dim, more);
}

static void
encode_f32(GaMetric metric, int dtype, const char *data, size_t dim, double max, GaKnnRow *record)
{
	Lost		lost = {0};

	if (dtype == GA_F64 && !(max <= FLT_MAX))
		return;

	if (dtype == GA_F64)
		store_f32(dtype, data, dim, (float *) (record + 1), &lost);
	else
	{
		ga_widen_f32(dtype, data, (float *) (record + 1), dim);
		lost.stored = ga_sum_squares(dtype, data, dim);
	}
	record->norm = (float) sqrt(lost.stored);
	record->loss = loss_of(metric, &lost, dim, 0);
}

void
ga_knn_encode(GaMetric metric, GaKnnStorage storage, int dtype, const void *data, size_t dim, GaKnnRow *record)
{
	bool		is_float = dtype >= GA_F32 && dtype <= GA_F64;
	double		max = is_float ? largest(dtype, data, dim) : NAN;
	bool		nan = isnan(max);

	if (is_float && metric == GA_METRIC_COSINE)
	{
		double		squares = ga_sum_squares(dtype, data, dim);

		nan = !(squares > 0 && squares <= DBL_MAX);
	}

	/* Until something is known. */
	memset((char *) record + sizeof(record->tid), 0, ga_knn_record_bytes(storage, dim) - sizeof(record->tid));
	record->flags = (uint16_t) ((nan ? GA_KNN_NAN : 0) | (dtype == GA_F64 ? GA_KNN_WIDE : 0));
	record->loss = HUGE_VALF;
	if (nan)
		return;

	if (storage == GA_KNN_F16)
		encode_f16(metric, dtype, data, dim, max, record);
	else
		encode_f32(metric, dtype, data, dim, max, record);
}
