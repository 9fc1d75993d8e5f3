/*
 * math.c
 *		Distances, norms and element-wise arithmetic. Distances are those of
 *		math/distance.h: the same bits on every machine, hence IMMUTABLE.
 */
#include "base/compat.h"

#include <float.h>

#include "math/distance.h"
#include "type/type.h"

void
ga_same_length(const GaView *a, const GaView *b)
{
	if (a->nelem != b->nelem)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("different dimensions " UINT64_FORMAT " and " UINT64_FORMAT, a->nelem, b->nelem)));
}

void
ga_report_overflow(int dtype, uint64 i, double value)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("value out of range: overflow"),
			 errdetail("Element " UINT64_FORMAT " would be %g, which %s cannot hold.", i + 1, value, ga_dtype_name(dtype))));
}

/* The vectors are compared in row-major order: their lengths must agree, their shapes need not. */
static double
distance(FunctionCallInfo fcinfo, GaMetric metric)
{
	GaView		a,
				b;
	double		result;

	GA_GETARG_VIEW(0, &a);
	GA_GETARG_VIEW(1, &b);
	ga_require_float(a.dtype, "a distance");
	ga_require_float(b.dtype, "a distance");
	ga_same_length(&a, &b);
	result = ga_distance(metric, a.dtype, a.data, b.dtype, b.data, a.nelem);
	ga_view_release(&a);
	ga_view_release(&b);
	return result;
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
/* A difference, because a negation would make -0 of 0 and turn the sign of a NaN. */
DISTANCE(ga_negative_inner_product, 0.0 - distance(fcinfo, GA_METRIC_IP));
DISTANCE(ga_cosine_distance, distance(fcinfo, GA_METRIC_COSINE));
DISTANCE(ga_l1_distance, distance(fcinfo, GA_METRIC_L1));


/*
 * Euclidean norm times *scale. The scale is 1, except for F64 elements whose
 * squares leave the normal range although they themselves are finite; then it
 * is the power of two that brings the largest of them near 1.
 */
static double
scaled_norm(const GaView *view, double *scale)
{
	double		sum = ga_sum_squares(view->dtype, view->data, view->nelem);
	const double *elements = (const double *) view->data;
	double		largest = 0;
	int			exponent;

	*scale = 1;
	if (view->dtype != GA_F64 || (sum >= DBL_MIN && sum <= DBL_MAX) || isnan(sum))
		return sqrt(sum);
	for (uint64 i = 0; i < view->nelem; i++)
		largest = Max(largest, fabs(elements[i]));
	if (largest == 0 || isinf(largest))
		return sqrt(sum);

	/* 2^1074, for the smallest of all, is not a double. */
	frexp(largest, &exponent);
	*scale = ldexp(1, Max(Min(-exponent, 1000), -1000));
	sum = 0;
	for (uint64 i = 0; i < view->nelem; i++)
		sum += elements[i] * *scale * (elements[i] * *scale);
	return sqrt(sum);
}

PG_FUNCTION_INFO_V1(ga_l2_norm);
Datum
ga_l2_norm(PG_FUNCTION_ARGS)
{
	GaView		view;
	double		scale;
	double		norm;

	GA_GETARG_VIEW(0, &view);
	ga_require_float(view.dtype, "l2_norm");
	norm = scaled_norm(&view, &scale);
	ga_view_release(&view);
	PG_RETURN_FLOAT8(norm / scale);
}

/* A zero vector stays as it is, as in pgvector. */
static Datum
l2_normalize(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;
	GaTensor   *tensor;
	char	   *data;
	double		norm;
	double		scale;

	GA_GETARG_VIEW(0, &view);
	ga_require_float(view.dtype, "l2_normalize");
	norm = scaled_norm(&view, &scale);
	if (norm == 0)
		norm = 1;
	tensor = ga_tensor_new(kind, view.dtype, view.ndim, view.dims, &data);
	for (uint64 i = 0; i < view.nelem; i++)
	{
		GA_CHECK_INTERRUPTS(i);
		ga_store_float(view.dtype, data, i, ga_load_float(view.dtype, view.data, i) * scale / norm);
	}
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
		double		x = ga_load_float(a.dtype, a.data, i);
		double		y = ga_load_float(a.dtype, b.data, i);
		double		r = op == '+' ? x + y : op == '-' ? x - y : x * y;

		GA_CHECK_INTERRUPTS(i);
		ga_store_float(a.dtype, data, i, r);
		if (isinf(ga_load_float(a.dtype, data, i)) && isfinite(x) && isfinite(y))
			ga_report_overflow(a.dtype, i, r);
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
