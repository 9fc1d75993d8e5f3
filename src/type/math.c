/*
 * math.c
 *		Distances, norms and element-wise arithmetic. Distances are those of
 *		math/distance.h: the same bits on every machine, hence IMMUTABLE.
 */
#include "base/compat.h"

#include <math.h>

#include "math/distance.h"
#include "miscadmin.h"
#include "type/type.h"

void
ga_same_length(const GaView *a, const GaView *b)
{
	if (a->nelem != b->nelem)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("different dimensions " UINT64_FORMAT " and " UINT64_FORMAT, a->nelem, b->nelem)));
}

static double
distance(FunctionCallInfo fcinfo, GaMetric metric)
{
	GaView		a,
				b;

	GA_GETARG_VIEW(0, &a);
	GA_GETARG_VIEW(1, &b);
	ga_require_float(a.dtype, "a distance");
	ga_require_float(b.dtype, "a distance");
	ga_same_length(&a, &b);
	return ga_distance(metric, a.dtype, a.data, b.dtype, b.data, a.nelem);
}

#define DISTANCE(name, expression) \
PG_FUNCTION_INFO_V1(name); \
Datum \
name(PG_FUNCTION_ARGS) \
{ \
	PG_RETURN_FLOAT8(expression); \
} \
extern int	ga_entry_dummy

DISTANCE(ga_l2_distance, distance(fcinfo, GA_METRIC_L2));
DISTANCE(ga_inner_product, distance(fcinfo, GA_METRIC_IP));
DISTANCE(ga_negative_inner_product, -distance(fcinfo, GA_METRIC_IP));
DISTANCE(ga_cosine_distance, distance(fcinfo, GA_METRIC_COSINE));
DISTANCE(ga_l1_distance, distance(fcinfo, GA_METRIC_L1));

PG_FUNCTION_INFO_V1(ga_l2_norm);
Datum
ga_l2_norm(PG_FUNCTION_ARGS)
{
	GaView		view;

	GA_GETARG_VIEW(0, &view);
	ga_require_float(view.dtype, "l2_norm");
	PG_RETURN_FLOAT8(sqrt(ga_sum_squares(view.dtype, view.data, view.nelem)));
}

/* Element as a double, for float dtypes. */
static inline double
load_float(int dtype, const char *data, uint64 i)
{
	switch (dtype)
	{
		case GA_F32:
			return ((const float *) data)[i];
		case GA_F64:
			return ((const double *) data)[i];
		case GA_F16:
			return ga_half_to_float(((const uint16 *) data)[i]);
		default:
			return ga_bfloat_to_float(((const uint16 *) data)[i]);
	}
}

static inline void
store_float(int dtype, char *data, uint64 i, double value)
{
	switch (dtype)
	{
		case GA_F32:
			((float *) data)[i] = (float) value;
			break;
		case GA_F64:
			((double *) data)[i] = value;
			break;
		case GA_F16:
			((uint16 *) data)[i] = ga_double_to_half(value);
			break;
		default:
			((uint16 *) data)[i] = ga_double_to_bfloat(value);
			break;
	}
}

/* A zero vector stays as it is, as in pgvector. */
static Datum
l2_normalize(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;
	GaTensor   *tensor;
	char	   *data;
	double		norm;

	GA_GETARG_VIEW(0, &view);
	ga_require_float(view.dtype, "l2_normalize");
	norm = sqrt(ga_sum_squares(view.dtype, view.data, view.nelem));
	tensor = ga_tensor_new(kind, view.dtype, view.ndim, view.dims, &data);
	for (uint64 i = 0; i < view.nelem; i++)
		store_float(view.dtype, data, i,
					norm > 0 ? load_float(view.dtype, view.data, i) / norm : load_float(view.dtype, view.data, i));
	GA_RETURN(kind, tensor);
}

GA_PER_KIND(l2_normalize, l2_normalize);

/*
 * Element-wise arithmetic of equal shapes and dtypes. F32 rounds once in F32;
 * F16 and BF16 are computed in F64, where the result of one operation is exact
 * or correctly rounded after narrowing. A finite result that overflows is 22003.
 */
static Datum
arithmetic(FunctionCallInfo fcinfo, const GaKind *kind, char op)
{
	GaView		a,
				b;
	GaTensor   *tensor;
	char	   *data;

	GA_GETARG_VIEW(0, &a);
	GA_GETARG_VIEW(1, &b);
	ga_require_float(a.dtype, "arithmetic");
	if (a.ndim != b.ndim || memcmp(a.dims, b.dims, sizeof(int64) * a.ndim) != 0)
	{
		if (a.ndim == 1 && b.ndim == 1)
			ga_same_length(&a, &b);
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("different shapes %s and %s", ga_shape_text(a.ndim, a.dims), ga_shape_text(b.ndim, b.dims))));
	}
	if (a.dtype != b.dtype)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("different dtypes %s and %s", ga_dtype_name(a.dtype), ga_dtype_name(b.dtype)),
				 errhint("Convert one of them with gpuagent.astype().")));
	tensor = ga_tensor_new(kind, a.dtype, a.ndim, a.dims, &data);
	for (uint64 i = 0; i < a.nelem; i++)
	{
		double		x = load_float(a.dtype, a.data, i);
		double		y = load_float(a.dtype, b.data, i);
		double		r = op == '+' ? x + y : op == '-' ? x - y : x * y;

		store_float(a.dtype, data, i, r);
		if (isinf(load_float(a.dtype, data, i)) && isfinite(x) && isfinite(y))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("value out of range: overflow"),
					 errdetail("Element " UINT64_FORMAT " would be %g, which %s cannot hold.",
							   i + 1, r, ga_dtype_name(a.dtype))));
	}
	GA_RETURN(kind, tensor);
}

static Datum
add(FunctionCallInfo fcinfo, const GaKind *kind)
{
	return arithmetic(fcinfo, kind, '+');
}

static Datum
subtract(FunctionCallInfo fcinfo, const GaKind *kind)
{
	return arithmetic(fcinfo, kind, '-');
}

static Datum
multiply(FunctionCallInfo fcinfo, const GaKind *kind)
{
	return arithmetic(fcinfo, kind, '*');
}

GA_PER_KIND(add, add);
GA_PER_KIND(sub, subtract);
GA_PER_KIND(mul, multiply);
