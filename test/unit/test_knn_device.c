/*
 * test_knn_device.c
 *		The bounds that a GPU makes (math/knn_device.h), with sums as its kernels
 *		form them: F32, fused, in 32 lanes. Never above the operator's value, hardly
 *		below the CPU's bound.
 */
#include "unit.h"

#include "math/knn.h"
#include "math/knn_device.h"

#define LANES 32

/* An element as it is stored, and what elements are to be multiplied by. */
static float
element(GaKnnStorage storage, const GaKnnRow *row, size_t i)
{
	const char *p = (const char *) (row + 1);

	if (storage == GA_KNN_F32)
		return ((const float *) p)[i];
	return storage == GA_KNN_F16 ? ga_half_to_float(((const uint16_t *) p)[i]) : ((const int8_t *) (p + 4))[i];
}

static double
scale_of(GaKnnStorage storage, const GaKnnRow *row)
{
	if (storage == GA_KNN_INT8)
		return *(const float *) (row + 1);
	return storage == GA_KNN_F16 ? ldexp(1, (row->flags >> 8) - 126) : 1;
}

/* One lane after the other; each takes every 32nd group of elements. */
static double
sum_in_lanes(const GaKnnDeviceQuery *q, const GaKnnRow *row, const float *values, float ratio, int group)
{
	float		lane[LANES] = {0};

	for (size_t i = 0; i < q->dim; i++)
	{
		float	   *sum = &lane[i / group % LANES];
		float		x = element((GaKnnStorage) q->storage, row, i);
		float		difference = fmaf(x, ratio, -values[i]);

		if (q->metric == GA_DEVICE_L2)
			*sum = fmaf(difference, difference, *sum);
		else if (q->metric == GA_DEVICE_L1)
			*sum += fabsf(difference);
		else
			*sum = fmaf(x, values[i], *sum);
	}
	for (int step = LANES / 2; step > 0; step /= 2)
		for (int i = 0; i < step; i++)
			lane[i] += lane[i + step];
	return lane[0];
}

static double
sum_wide(const GaKnnDeviceQuery *q, const GaKnnRow *row, const float *values, double ratio)
{
	double		sum = 0;

	for (size_t i = 0; i < q->dim; i++)
	{
		double		x = element((GaKnnStorage) q->storage, row, i);
		double		difference = x * ratio - values[i];

		if (q->metric == GA_DEVICE_L2)
			sum += difference * difference;
		else
			sum += q->metric == GA_DEVICE_L1 ? fabs(difference) : x * values[i];
	}
	return sum;
}

static double
device_bound(const GaKnnDeviceQuery *q, const GaKnnRow *row, const float *values)
{
	static const int groups[] = {4, 8, 16};
	double		scale = scale_of((GaKnnStorage) q->storage, row);
	bool		differences = q->metric == GA_DEVICE_L2 || q->metric == GA_DEVICE_L1;
	double		ratio = differences ? scale / q->unit : 1;
	double		sum = sum_in_lanes(q, row, values, (float) ratio, groups[q->storage]);
	bool		fine;

	if (differences)
		fine = ratio >= FLT_MIN && ratio <= FLT_MAX && ga_knn_device_sum_is_fine(sum);
	else
		fine = ga_knn_device_row_is_fine(q->storage, row->norm);
	if (!fine)
		sum = sum_wide(q, row, values, ratio);
	return ga_knn_device_bound(q, row->flags, row->loss, row->norm, scale, sum);
}

/* A value of one of several kinds: ordinary, few, denormal, huge, of all sizes, near ties, infinite now and then. */
static float
value_of(int kind)
{
	double		x = (double) (int64_t) next_random() * 0x1p-63 + (double) (int64_t) next_random() * 0x1p-63;

	switch (kind)
	{
		case 0:
			return (float) x;
		case 1:
			return (float) (next_random() % 3) - 1;
		case 2:
			return (float) (x * 0x1p-135);
		case 3:
			return (float) (x * 0x1p119);
		case 4:
			return (float) ldexp(x, (int) (next_random() % 200) - 100);
		case 5:
			return (float) (1000 + x * 0x1p-10);
		default:
			return next_random() % 3000 == 0 ? INFINITY : (float) x;
	}
}

#define KINDS 7

static bool
check(GaMetric metric, GaKnnStorage storage, GaKnnSums sums, size_t dim, int kind)
{
	float	   *vector = malloc(dim * sizeof(float));
	float	   *query = malloc(dim * sizeof(float));
	float	   *values = malloc(dim * sizeof(float));
	GaKnnRow   *row = calloc(1, ga_knn_record_bytes(storage, dim));
	char	   *prepared = malloc(ga_knn_query_bytes(GA_F32, dim));
	GaKnnDeviceQuery q;
	bool		fine = true;

	for (size_t i = 0; i < dim; i++)
		query[i] = value_of(kind);
	ga_knn_prepare((GaKnnQuery *) prepared, metric, storage, sums, GA_F32, query, dim);
	ga_knn_device_query(prepared, &q);
	ga_knn_device_values(prepared, values);
	for (int r = 0; r < 8; r++)
	{
		double		value;
		double		bound;
		double		cpu;

		/* The first is the query itself, the next ones are near it or along it, one is zero. */
		for (size_t i = 0; i < dim; i++)
			vector[i] = r == 0 ? query[i] : r == 1 ? query[i] * (1 + (float) (next_random() % 8) * 0x1p-20f) : r == 2 ? query[i] * 3 :
				r == 3 ? 0 : value_of(kind);
		ga_knn_encode(metric, storage, GA_F32, vector, dim, row);
		value = ga_distance(metric, GA_F32, vector, GA_F32, query, dim);
		value = metric == GA_METRIC_IP ? 0.0 - value : value;
		bound = device_bound(&q, row, values);
		ga_knn_bounds((const GaKnnQuery *) prepared, row, ga_knn_record_bytes(storage, dim), 1, -HUGE_VAL, &cpu, NULL);
		if ((isnan(bound) && !isnan(value)) || bound > value)
			fine = differ("metric %d storage %d dim %zu kind %d row %d: bound %.17g, CPU %.17g, value %.17g", (int) metric, (int) storage,
						  dim, kind, r, bound, cpu, value);
		else if (!isnan(cpu) && bound < cpu - 2e-4 * (fabs(cpu) + (double) row->norm * q.norm + (metric == GA_METRIC_COSINE) + row->norm) - 0x1p-130 - q.norm * 0x1p-100)
			fine = differ("metric %d storage %d dim %zu kind %d row %d: bound %.17g far below the CPU's %.17g", (int) metric, (int) storage,
						  dim, kind, r, bound, cpu);
	}
	free(prepared);
	free(row);
	free(values);
	free(query);
	free(vector);
	return fine;
}

int
main(void)
{
	static const char *const metrics[] = {"L2", "inner product", "cosine", "L1"};
	static const char *const storages[] = {"F32", "F16", "int8"};
	static const size_t dims[] = {1, 2, 3, 7, 31, 64, 100, 768, 1536, 4096, 65535};
	char		name[100];

	ga_math_init();
	for (int metric = 0; metric < 4; metric++)
		for (int storage = 0; storage < 3; storage++)
		{
			bool		fine = true;

			for (size_t d = 0; d < LENGTH(dims); d++)
				for (int kind = 0; kind < KINDS; kind++)
					for (int again = 0; again < (dims[d] < 1000 ? 40 : dims[d] < 10000 ? 3 : 1); again++)
						for (int sums = 0; sums < 2; sums++)
							fine &= check((GaMetric) metric, (GaKnnStorage) storage, (GaKnnSums) sums, dims[d], kind);
			snprintf(name, sizeof(name), "a device's bounds of %s over %s", metrics[metric], storages[storage]);
			result(fine, name);
		}
	return finish();
}
