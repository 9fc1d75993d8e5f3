/*
 * knn_device.h
 *		What a GPU needs of a prepared query to make lower bounds: numbers, and the
 *		arithmetic from a sum to a bound. Plain C that C++ and CUDA read, too.
 *
 * The arithmetic is that of knn_bounds.c, where it is derived. The sums are
 * others: F32, with fused products, in whatever order, each term rounded at most
 * GA_KNN_DEVICE_ROUNDINGS(n) + 3 times.
 */
#ifndef GA_KNN_DEVICE_H
#define GA_KNN_DEVICE_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define GA_KNN_FN static inline __host__ __device__
#else
#define GA_KNN_FN static inline
#endif

/* 32 lanes take turns with up to 16 elements each; then they are added. */
#define GA_KNN_DEVICE_ROUNDINGS(n) ((double) (n) / 32 + 40)

/* GaMetric, GaKnnStorage, and flags and header of records, as distance.h and knn.h have them: knn_device.c checks that. */
enum {GA_DEVICE_L2, GA_DEVICE_IP, GA_DEVICE_COSINE, GA_DEVICE_L1};
enum {GA_DEVICE_F32, GA_DEVICE_F16, GA_DEVICE_INT8};
#define GA_DEVICE_INDEX_FLAGS 0x000f
#define GA_DEVICE_NAN 0x0010
#define GA_DEVICE_EXPONENT_SHIFT 8
#define GA_DEVICE_EXPONENT_BIAS 126

typedef struct GaKnnDeviceQuery
{
	int			metric;
	int			storage;
	int			f32_sums;		/* the operator sums in F32 */
	int			nowhere;		/* every distance is NaN */
	int			ordinary;		/* bounds can be had */
	uint32_t	dim;
	int			rounded;		/* unit is no power of two: what rows are multiplied by to come to it is rounded to F32 */
	double		unit;			/* these as in struct GaKnnQuery */
	double		norm;
	double		length;
	double		loss;
	double		sum_factor;
	double		value_factor;
	double		value_tiny;
	double		slack;
	const void *prepared;		/* the GaKnnQuery */

	/* of the request */
	uint64_t	rows;
	uint32_t	limit;
	uint32_t	has_after;
	double		after_bound;
	uint64_t	after_tid;
} GaKnnDeviceQuery;

/* Whether the F32 sum of squared or absolute differences is one that bounds may be made from; else it is to be summed in F64. */
GA_KNN_FN int
ga_knn_device_sum_is_fine(double sum)
{
	return sum >= 0x1p-100 && sum <= 0x1p120;
}

/* The same of products, by the row's norm: only those of F32 rows can overflow. */
GA_KNN_FN int
ga_knn_device_row_is_fine(int storage, float norm)
{
	return storage != GA_DEVICE_F32 || (norm >= 0x1p-40 && norm <= 0x1p60);
}

GA_KNN_FN double
ga_knn_device_product(const GaKnnDeviceQuery *q, float row_loss, float norm, double product)
{
	double		length = norm * (1 + 0x1p-22) + 0x1p-149 + row_loss;
	double		off = row_loss * q->norm + length * (q->loss + q->slack * q->norm);

	if (q->f32_sums)
	{
		if (!(length * q->norm < 0x1p126))
			return -HUGE_VAL;
		off += (double) q->dim * 0x1p-148;
	}
	return -product - off * (1.0 + 0x1p-48) - (double) q->dim * 0x1p-1000;
}

GA_KNN_FN double
ga_knn_device_cosine(const GaKnnDeviceQuery *q, double loss, float norm, double product)
{
	double		off = loss * q->norm + q->loss + (1 + loss) * q->slack * q->norm;
	double		bound = 1 - product - off * (1.0 + 0x1p-48) - 0x1p-48;

	if (q->f32_sums && !(norm >= 0x1p-40 && norm <= 0x1p60 && q->length >= 0x1p-40 && q->length <= 0x1p60))
		return 0;
	return bound < 2 ? bound : 2;
}

/*
 * The lower bound from a row's header, its scale (elements * scale is what is
 * stored) and the sum: of squared or absolute differences in the query's unit,
 * or of products of elements and values.
 */
GA_KNN_FN double
ga_knn_device_bound(const GaKnnDeviceQuery *q, unsigned flags, float row_loss, float norm, double scale, double sum)
{
	double		least = q->metric == GA_DEVICE_IP ? -HUGE_VAL : 0.0;
	double		loss = row_loss;
	double		bound;

	if (q->nowhere || (flags & GA_DEVICE_NAN))
		return NAN;
	if (!q->ordinary || !(row_loss <= 0x1.fffffep127f) || !(norm <= 0x1.fffffep127f))
		return least;
	if (q->metric == GA_DEVICE_L2 || q->metric == GA_DEVICE_L1)
	{
		/* The row that was summed is not h but h (1 + d), |d| <= 2^-24 and a little. */
		if (q->rounded)
			loss += (norm * (1 + 0x1p-22) + 0x1p-149) * 0x1p-23;
		bound = (q->metric == GA_DEVICE_L2 ? sqrt(sum) : sum) * q->unit * q->sum_factor;
		bound = (bound - (loss + q->loss) * (1.0 + 0x1p-48)) * q->value_factor - q->value_tiny;
	}
	else if (q->metric == GA_DEVICE_COSINE)
	{
		if (norm < 0x1p-126f)
			return 0;
		if (q->storage == GA_DEVICE_F32)
		{
			scale = 1.0 / norm;
			loss = 2.0 * loss / norm * (1 + 0x1p-22) + 0x1p-22;
		}
		bound = ga_knn_device_cosine(q, loss, norm, (sum + (double) q->dim * 0x1p-149) * scale * q->unit);
	}
	else
		bound = ga_knn_device_product(q, row_loss, norm, (sum + (double) q->dim * 0x1p-149) * scale * q->unit);
	return bound > least ? bound : least;
}

/* A bound as a number that sorts like it, NaN last; ~0 is left for rows that do not count. */
#define GA_KNN_KEY_NAN (~UINT64_C(0) - 1)
#define GA_KNN_KEY_NONE (~UINT64_C(0))

#ifdef __cplusplus
extern "C" {
#endif

/* From a GaKnnQuery, which must stay. */
extern void ga_knn_device_query(const void *prepared, GaKnnDeviceQuery *query);

/* Its dim elements, in the query's unit. */
extern void ga_knn_device_values(const void *prepared, float *values);

#ifdef __cplusplus
}
#endif

#endif							/* GA_KNN_DEVICE_H */
