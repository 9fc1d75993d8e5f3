/*
 * knn_encode.c
 *		Rows as the index stores them.
 *
 * F16: the vector, for cosine its direction, over a power of two that brings the
 * largest element just below F16's largest value. So nothing overflows, an F16
 * row is stored exactly whatever its magnitude, and elements down to 2^-29 of
 * the largest keep full precision. int8: whole numbers times a 127th of the
 * largest element. The loss is measured, not estimated: it is
 * the norm of what remains when the stored value is taken from the original.
 */
#include "knn_impl.h"

size_t
ga_knn_record_bytes(GaKnnStorage storage, size_t dim)
{
	size_t		scale = storage == GA_KNN_INT8 ? sizeof(float) : 0;

	return (sizeof(GaKnnRow) + scale + dim * ga_knn_element_bytes(storage) + 7) / 8 * 8;
}

bool
ga_knn_next_block(GaKnnSource *source)
{
	size_t		width = ga_dtype_info(source->dtype)->width;

	source->count = source->dim - source->next < GA_KNN_BLOCK ? source->dim - source->next : GA_KNN_BLOCK;
	source->padded = (source->count + GA_LANES - 1) / GA_LANES * GA_LANES;
	if (source->count == 0)
		return false;
	ga_widen_f64(source->dtype, source->data + source->next * width, source->block, source->count);
	for (size_t i = source->count; i < source->padded; i++)
		source->block[i] = 0;
	source->next += source->count;
	return true;
}

bool
ga_knn_has_nan(GaKnnSource *source)
{
	bool		nan = false;

	if (!ga_has_nonfinite(source->dtype, source->data, source->dim))
		return false;
	ga_knn_rewind(source);
	while (ga_knn_next_block(source))
		for (size_t i = 0; i < source->count; i++)
			nan |= isnan(source->block[i]);
	return nan;
}

double
ga_knn_largest(GaKnnSource *source)
{
	double		max = 0;

	ga_knn_rewind(source);
	while (ga_knn_next_block(source))
	{
		double		x = ga_knn_kernels->largest(source->block, source->padded);

		max = x > max ? x : max;
	}
	return max;
}

static void
store_narrow(GaKnnSource *source, GaKnnStorage storage, const GaKnnScale *scale, char *out, GaKnnLost *lost)
{
	GaKnnStore	store = storage == GA_KNN_F16 ? ga_knn_kernels->store_half : ga_knn_kernels->store_bytes;
	uint16_t	elements[GA_KNN_BLOCK];

	ga_knn_rewind(source);
	while (ga_knn_next_block(source))
	{
		size_t		size = source->count * ga_knn_element_bytes(storage);

		store(source->block, source->padded, scale, elements, lost);
		memcpy(out, elements, size);
		out += size;
	}
}

/* Of F64. */
static void
store_f32(GaKnnSource *source, float *out, GaKnnLost *lost)
{
	ga_knn_rewind(source);
	while (ga_knn_next_block(source))
		for (size_t i = 0; i < source->count; i++)
		{
			float		stored = (float) source->block[i];
			double		rest = source->block[i] - stored;

			*out++ = stored;
			lost->squares[0] += rest * rest;
			lost->sum[0] += fabs(rest);
			lost->stored[0] += (double) stored * stored;
		}
}

static double
add_lanes(const double *lane)
{
	double		sum = 0;

	for (int i = 0; i < GA_LANES; i++)
		sum += lane[i];
	return sum;
}

/* The smallest F32 that is not below a nonnegative x. */
static float
round_up(double x)
{
	float		f = (float) x;

	return (double) f < x ? nextafterf(f, HUGE_VALF) : f;
}

/*
 * The loss, rounded up. A term has at most three roundings of 2^-53 and takes
 * part in less than dim + GA_LANES sums (Higham, Accuracy and Stability of
 * Numerical Algorithms, 2nd ed., section 4.2); the root halves that. Squares
 * below 2^-1074 vanish only of an F64 element that is far below F32's least; the
 * least F32 covers them. `more`: what the vector that was stored may itself be
 * off by.
 */
static float
loss_of(GaMetric metric, const GaKnnLost *lost, size_t dim, double more)
{
	double		sum = add_lanes(lost->sum);
	double		loss = metric == GA_METRIC_L1 ? sum : sqrt(add_lanes(lost->squares));

	loss = loss * (1 + ((double) dim + 32) * 0x1p-53) + more;
	return round_up(sum > 0 ? loss + 0x1p-149 : loss);
}

/* The exponent of the power of two that F16 can hold max over, after rounding. At least what flags can hold. */
static int
exponent_of(double max)
{
	int			exponent = max > 0 ? ilogb(max) - 15 : 0;

	/* From here on F16 rounds to infinity; a little less, because F32 may round up before. */
	if (max > 0 && ldexp(max, -exponent) >= 65519)
		exponent++;
	return exponent < -GA_KNN_EXPONENT_BIAS ? -GA_KNN_EXPONENT_BIAS : exponent;
}

/*
 * A 127th of max, rounded up to 16 bits, so that its products with elements are
 * exact in F32; far above F32's denormals.
 */
static float
byte_scale(double max)
{
	float		scale = (float) (max / 127 * (1 + 0x1p-15));
	uint32_t	bits;

	memcpy(&bits, &scale, sizeof(bits));
	bits &= ~(uint32_t) 0xff;
	memcpy(&scale, &bits, sizeof(scale));
	return scale > 0x1p-100f ? scale : 0x1p-100f;
}

/* Chooses the unit of the elements and notes it in the record. */
static double
choose_unit(GaKnnStorage storage, double max, GaKnnRow *record)
{
	float		scale;
	int			exponent;

	if (storage == GA_KNN_INT8)
	{
		scale = byte_scale(max);
		memcpy(record + 1, &scale, sizeof(scale));
		return scale;
	}
	exponent = exponent_of(max);
	record->flags |= (uint16_t) ((exponent + GA_KNN_EXPONENT_BIAS) << GA_KNN_EXPONENT_SHIFT);
	return ldexp(1.0, exponent);
}

static void
encode_narrow(GaMetric metric, GaKnnStorage storage, GaKnnSource *source, GaKnnRow *record)
{
	double		max = ga_knn_largest(source);
	double		length = 1;
	double		more = 0;
	GaKnnScale	scale;
	GaKnnLost	lost;

	memset(&lost, 0, sizeof(lost));
	if (metric == GA_METRIC_COSINE)
	{
		double		squares = ga_sum_squares(source->dtype, source->data, source->dim);

		/* Smaller sums may have lost bits to underflow. The direction is off by the roundings of root and quotient. */
		if (squares < 0x1p-900)
			return;
		length = sqrt(squares);
		more = ((double) source->dim / GA_LANES + 16) * 0x1p-53;
	}
	else if (max > FLT_MAX)
		return;

	scale.factor = 1 / length;
	scale.unit = choose_unit(storage, max * scale.factor, record);
	scale.up = 1 / scale.unit;
	store_narrow(source, storage, &scale, (char *) ga_knn_elements(storage, record), &lost);
	record->loss = loss_of(metric, &lost, source->dim, more);
	if (metric != GA_METRIC_COSINE)
		record->norm = (float) sqrt(add_lanes(lost.stored));
	else
		record->norm = length < FLT_MAX ? (float) length : FLT_MAX;
}

static void
encode_f32(GaMetric metric, GaKnnSource *source, GaKnnRow *record)
{
	GaKnnLost	lost;

	memset(&lost, 0, sizeof(lost));
	if (source->dtype != GA_F64)
	{
		ga_widen_f32(source->dtype, source->data, (float *) (record + 1), source->dim);
		lost.stored[0] = ga_sum_squares(source->dtype, source->data, source->dim);
	}
	else if (ga_knn_largest(source) <= FLT_MAX)
		store_f32(source, (float *) (record + 1), &lost);
	else
		return;
	record->norm = (float) sqrt(add_lanes(lost.stored));
	record->loss = loss_of(metric, &lost, source->dim, 0);
}

/* Whether the distance to every vector is NaN. */
static bool
is_nowhere(GaMetric metric, GaKnnSource *source)
{
	double		squares;

	if (source->dtype < GA_F32 || source->dtype > GA_F64)
		return true;
	if (metric != GA_METRIC_COSINE)
		return ga_knn_has_nan(source);
	squares = ga_sum_squares(source->dtype, source->data, source->dim);
	return !(squares > 0 && squares <= DBL_MAX);
}

void
ga_knn_encode(GaMetric metric, GaKnnStorage storage, int dtype, const void *data, size_t dim, GaKnnRow *record)
{
	GaKnnSource source;

	ga_knn_source(&source, dtype, data, dim);

	/* Until something is known. */
	memset((char *) record + sizeof(record->tid), 0, ga_knn_record_bytes(storage, dim) - sizeof(record->tid));
	record->flags = dtype == GA_F64 ? GA_KNN_WIDE : 0;
	record->loss = HUGE_VALF;

	if (is_nowhere(metric, &source))
		record->flags |= GA_KNN_NAN;
	else if (storage == GA_KNN_F32)
		encode_f32(metric, &source, record);
	else
		encode_narrow(metric, storage, &source, record);
}
