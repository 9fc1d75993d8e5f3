/*
 * knn_device.c
 *		Takes from a prepared query what a GPU needs; knn_device.h.
 */
#include "knn_device.h"
#include "knn_impl.h"

_Static_assert((int) GA_DEVICE_L2 == (int) GA_METRIC_L2 && (int) GA_DEVICE_IP == (int) GA_METRIC_IP &&
			   (int) GA_DEVICE_COSINE == (int) GA_METRIC_COSINE && (int) GA_DEVICE_L1 == (int) GA_METRIC_L1, "metrics");
_Static_assert((int) GA_DEVICE_F32 == (int) GA_KNN_F32 && (int) GA_DEVICE_F16 == (int) GA_KNN_F16 &&
			   (int) GA_DEVICE_INT8 == (int) GA_KNN_INT8, "storages");
_Static_assert(GA_DEVICE_INDEX_FLAGS == GA_KNN_INDEX_FLAGS && GA_DEVICE_NAN == GA_KNN_NAN &&
			   GA_DEVICE_EXPONENT_SHIFT == GA_KNN_EXPONENT_SHIFT && GA_DEVICE_EXPONENT_BIAS == GA_KNN_EXPONENT_BIAS, "flags");
_Static_assert(sizeof(GaKnnRow) == 16 && offsetof(GaKnnRow, flags) == 6 && offsetof(GaKnnRow, loss) == 8 &&
			   offsetof(GaKnnRow, norm) == 12, "header of a record");

/* g(k, w) of knn_bounds.c. */
static double
gamma_of(double k, double w)
{
	return k * w < 0.5 ? k * w / (1 - k * w) * GA_KNN_UP : HUGE_VAL;
}

/* Steps 1 and 3 of knn_bounds.c with the roundings of a device. */
static void
fill_errors(GaKnnDeviceQuery *query)
{
	double		n = query->dim;
	double		kernel = gamma_of(GA_KNN_DEVICE_ROUNDINGS(n) + 3, 0x1p-24) + n * 0x1p-48 + 0x1p-48;
	double		canonical = gamma_of(n / GA_LANES + 16, 0x1p-53);
	double		operator_sum = query->f32_sums ? gamma_of(n + 4, 0x1p-24) : canonical;

	query->sum_factor = 1 - kernel;
	query->value_factor = 1 - (query->f32_sums ? operator_sum : 0x1p-24) - canonical - 0x1p-48;
	query->value_tiny = query->f32_sums ? sqrt(n) * 0x1p-74 : n * 0x1p-530;
	query->slack = kernel + (query->metric == GA_DEVICE_COSINE ? 3 : 1) * operator_sum + 0x1p-48;
}

void
ga_knn_device_query(const void *prepared, GaKnnDeviceQuery *query)
{
	const GaKnnQuery *from = prepared;

	memset(query, 0, sizeof(*query));
	query->metric = (int) from->metric;
	query->storage = (int) from->storage;
	query->f32_sums = from->sums == GA_KNN_SUMS_F32;
	query->nowhere = from->reach == GA_KNN_NOWHERE;
	query->ordinary = from->reach == GA_KNN_ORDINARY;
	query->dim = (uint32_t) from->dim;
	query->unit = from->unit;
	query->norm = from->norm;
	query->length = from->length;
	query->loss = from->loss;
	query->rounded = from->codes != NULL;
	query->prepared = prepared;
	fill_errors(query);
}

void
ga_knn_device_values(const void *prepared, float *values)
{
	const GaKnnQuery *from = prepared;

	for (size_t i = 0; i < from->dim; i++)
		values[i] = from->codes != NULL ? (float) from->codes[i] : from->values[i];
}
