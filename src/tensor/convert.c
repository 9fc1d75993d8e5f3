/*
 * convert.c
 *		Conversion between dtypes. Integers travel exactly (never through a
 *		double); narrowing floats rounds once, to nearest even.
 */
#include "base/compat.h"

#include <math.h>

#include "tensor/tensor.h"

/* One element on its way: a float, or an exact integer with its sign apart. */
typedef struct Scalar
{
	bool		is_float;
	bool		negative;		/* integers: the value is -magnitude */
	double		real;
	uint64		magnitude;
} Scalar;

static inline Scalar
signed_scalar(int64 v)
{
	return (Scalar) {.negative = v < 0,.magnitude = v < 0 ? -(uint64) v : (uint64) v};
}

static inline Scalar
load(int dtype, const char *src, uint64 i)
{
	switch (dtype)
	{
		case GA_F32:
			return (Scalar) {.is_float = true,.real = ((const float *) src)[i]};
		case GA_F64:
			return (Scalar) {.is_float = true,.real = ((const double *) src)[i]};
		case GA_F16:
			return (Scalar) {.is_float = true,.real = ga_half_to_float(((const uint16 *) src)[i])};
		case GA_BF16:
			return (Scalar) {.is_float = true,.real = ga_bfloat_to_float(((const uint16 *) src)[i])};
		case GA_BOOL:
			return (Scalar) {.magnitude = ((const uint8 *) src)[i] != 0};
		case GA_U8:
			return (Scalar) {.magnitude = ((const uint8 *) src)[i]};
		case GA_U16:
			return (Scalar) {.magnitude = ((const uint16 *) src)[i]};
		case GA_U32:
			return (Scalar) {.magnitude = ((const uint32 *) src)[i]};
		case GA_U64:
			return (Scalar) {.magnitude = ((const uint64 *) src)[i]};
		case GA_I8:
			return signed_scalar(((const int8 *) src)[i]);
		case GA_I16:
			return signed_scalar(((const int16 *) src)[i]);
		case GA_I32:
			return signed_scalar(((const int32 *) src)[i]);
		default:
			Assert(dtype == GA_I64);
			return signed_scalar(((const int64 *) src)[i]);
	}
}

static inline double
scalar_to_double(Scalar s)
{
	if (s.is_float)
		return s.real;
	return s.negative ? -(double) s.magnitude : (double) s.magnitude;
}

/*
 * Rounds an integer to a float once: a uint64 does not fit a double, so the
 * bits that a double would round away are folded into its last one (round to
 * odd), which no narrower rounding can then mistake for a tie.
 */
static inline double
scalar_to_odd_double(Scalar s)
{
	uint64		m = s.magnitude;
	double		d;

	if (s.is_float)
		return s.real;
	if (m >> 53)
	{
		int			shift = 64 - __builtin_clzll(m) - 53;
		uint64		lost = m & ((UINT64CONST(1) << shift) - 1);

		m = ((m >> shift) | (lost != 0)) << shift;
	}
	d = (double) m;
	return s.negative ? -d : d;
}

/* False when the value does not fit. */
static inline bool
store_integer(int dtype, Scalar s, char *dst, uint64 i)
{
	uint64		limit;

	if (s.is_float)
	{
		double		whole = fabs(s.real);

		if (!(whole < 18446744073709551616.0) || whole != floor(whole))
			return false;
		s.negative = s.real < 0;
		s.magnitude = (uint64) whole;
	}
	if (dtype == GA_BOOL)
	{
		if (s.magnitude > 1 || (s.negative && s.magnitude))
			return false;
		((uint8 *) dst)[i] = (uint8) s.magnitude;
		return true;
	}
	if (ga_dtype_info(dtype)->cls == GA_CLASS_UNSIGNED)
	{
		limit = ga_dtype_info(dtype)->bits == 64 ? PG_UINT64_MAX
			: (UINT64CONST(1) << ga_dtype_info(dtype)->bits) - 1;
		if (s.magnitude > limit || (s.negative && s.magnitude))
			return false;
	}
	else
	{
		limit = (UINT64CONST(1) << (ga_dtype_info(dtype)->bits - 1)) - 1 + (s.negative ? 1 : 0);
		if (s.magnitude > limit)
			return false;
		if (s.negative)
			s.magnitude = -s.magnitude;
	}
	switch (ga_dtype_info(dtype)->bits)
	{
		case 8:
			((uint8 *) dst)[i] = (uint8) s.magnitude;
			break;
		case 16:
			((uint16 *) dst)[i] = (uint16) s.magnitude;
			break;
		case 32:
			((uint32 *) dst)[i] = (uint32) s.magnitude;
			break;
		default:
			((uint64 *) dst)[i] = s.magnitude;
			break;
	}
	return true;
}

static inline bool
store_scalar(int dtype, Scalar s, char *dst, uint64 i)
{
	double		d;
	bool		finite;

	switch (dtype)
	{
		case GA_F64:
			((double *) dst)[i] = scalar_to_double(s);
			return true;
		case GA_F32:
			d = scalar_to_odd_double(s);
			((float *) dst)[i] = (float) d;
			return !(isfinite(d) && isinf(((float *) dst)[i]));
		case GA_F16:
			d = scalar_to_odd_double(s);
			finite = isfinite(d);
			((uint16 *) dst)[i] = ga_double_to_half(d);
			return !(finite && isinf(ga_half_to_float(((uint16 *) dst)[i])));
		case GA_BF16:
			d = scalar_to_odd_double(s);
			finite = isfinite(d);
			((uint16 *) dst)[i] = ga_double_to_bfloat(d);
			return !(finite && isinf(ga_bfloat_to_float(((uint16 *) dst)[i])));
		default:
			return store_integer(dtype, s, dst, i);
	}
}

bool
ga_convert(int from, const char *src, int to, char *dst, uint64 n, Node *escontext)
{
	if (from == to)
	{
		memcpy(dst, src, n * ga_dtype_info(from)->width);
		return true;
	}
	if (ga_dtype_info(from)->cls == GA_CLASS_OPAQUE || ga_dtype_info(to)->cls == GA_CLASS_OPAQUE)
		ereturn(escontext, false,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("conversion from %s to %s is not defined", ga_dtype_name(from), ga_dtype_name(to))));
	if (to == GA_F32 && (from == GA_F16 || from == GA_BF16))
	{
		ga_widen_f32(from, src, (float *) dst, n);
		return true;
	}
	for (uint64 i = 0; i < n; i++)
	{
		Scalar		s = load(from, src, i);

		GA_CHECK_INTERRUPTS(i);
		if (!store_scalar(to, s, dst, i))
			ereturn(escontext, false,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("value %.17g at element " UINT64_FORMAT " cannot be represented as %s",
							scalar_to_double(s), i + 1, ga_dtype_name(to))));
	}
	return true;
}

GaTensor *
ga_tensor_astype(const GaKind *kind, const GaView *view, int dtype)
{
	char	   *data;
	GaTensor   *tensor;

	if (dtype == view->dtype)
		return ga_tensor_from_view(kind, view);
	tensor = ga_tensor_new(kind, dtype, view->ndim, view->dims, &data);
	ga_convert(view->dtype, view->data, dtype, data, view->nelem, NULL);
	return ga_tensor_seal(kind, tensor, NULL);
}
