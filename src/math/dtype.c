/*
 * dtype.c
 *		Element types: names, sizes, conversions.
 */
#include "dtype.h"
#include "distance_impl.h"

#include <math.h>

#ifdef GA_X86_KERNELS
#include <immintrin.h>
#endif

static const GaDtypeInfo dtypes[GA_DTYPE_MAX + 1] = {
	[GA_F32] = {"F32", 32, 4, GA_CLASS_FLOAT},
	[GA_F16] = {"F16", 16, 2, GA_CLASS_FLOAT},
	[GA_BF16] = {"BF16", 16, 2, GA_CLASS_FLOAT},
	[GA_F64] = {"F64", 64, 8, GA_CLASS_FLOAT},
	[GA_BOOL] = {"BOOL", 8, 1, GA_CLASS_BOOL},
	[GA_U8] = {"U8", 8, 1, GA_CLASS_UNSIGNED},
	[GA_I8] = {"I8", 8, 1, GA_CLASS_SIGNED},
	[GA_U16] = {"U16", 16, 2, GA_CLASS_UNSIGNED},
	[GA_I16] = {"I16", 16, 2, GA_CLASS_SIGNED},
	[GA_U32] = {"U32", 32, 4, GA_CLASS_UNSIGNED},
	[GA_I32] = {"I32", 32, 4, GA_CLASS_SIGNED},
	[GA_U64] = {"U64", 64, 8, GA_CLASS_UNSIGNED},
	[GA_I64] = {"I64", 64, 8, GA_CLASS_SIGNED},
	[GA_C64] = {"C64", 64, 8, GA_CLASS_OPAQUE},
	[GA_F8_E5M2] = {"F8_E5M2", 8, 1, GA_CLASS_OPAQUE},
	[GA_F8_E4M3] = {"F8_E4M3", 8, 1, GA_CLASS_OPAQUE},
	[GA_F8_E8M0] = {"F8_E8M0", 8, 1, GA_CLASS_OPAQUE},
	[GA_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8, 1, GA_CLASS_OPAQUE},
	[GA_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8, 1, GA_CLASS_OPAQUE},
	[GA_F4] = {"F4", 4, 1, GA_CLASS_OPAQUE},
	[GA_F6_E2M3] = {"F6_E2M3", 6, 1, GA_CLASS_OPAQUE},
	[GA_F6_E3M2] = {"F6_E3M2", 6, 1, GA_CLASS_OPAQUE},
};

const GaDtypeInfo *
ga_dtype_info(int code)
{
	return code >= 1 && code <= GA_DTYPE_MAX ? &dtypes[code] : NULL;
}

static char
ascii_upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char) (c - 'a' + 'A') : c;
}

int
ga_dtype_lookup(const char *name, size_t len)
{
	for (int code = 1; code <= GA_DTYPE_MAX; code++)
	{
		const char *known = dtypes[code].name;
		size_t		i = 0;

		if (strlen(known) != len)
			continue;
		while (i < len && ascii_upper(name[i]) == known[i])
			i++;
		if (i == len)
			return code;
	}
	return 0;
}

bool
ga_shape_size(int dtype, int ndim, const int64_t *dims, uint64_t *nelem, uint64_t *nbytes)
{
	const GaDtypeInfo *info = ga_dtype_info(dtype);
	bool		empty = false;
	int64_t		count = 1;
	int64_t		size;

	if (info == NULL || ndim < 0 || ndim > GA_MAX_RANK)
		return false;
	for (int i = 0; i < ndim; i++)
	{
		if (dims[i] < 0)
			return false;
		empty |= dims[i] == 0;
	}
	for (int i = 0; i < ndim && !empty; i++)
		if (__builtin_mul_overflow(count, dims[i], &count))
			return false;
	if (empty)
		count = 0;

	/* Eight elements take info->bits bytes. */
	if (count % 8 * info->bits % 8 != 0 || __builtin_mul_overflow(count / 8, (int64_t) info->bits, &size) ||
		__builtin_add_overflow(size, count % 8 * info->bits / 8, &size))
		return false;

	*nelem = (uint64_t) count;
	*nbytes = (uint64_t) size;
	return true;
}

/*
 * Rounds a double once, to nearest even, to a 16-bit format with the given
 * number of fraction bits. Overflow gives infinity; a NaN keeps its sign and
 * the top of its payload and becomes quiet.
 */
static GA_FORCE_INLINE uint16_t
narrow_double(double d, int fraction_bits)
{
	int			exponent_max = (1 << (15 - fraction_bits)) - 1;
	int			shift = 52 - fraction_bits;
	uint64_t	bits;
	uint64_t	fraction;
	uint64_t	half;
	uint64_t	rest;
	uint16_t	sign;
	uint16_t	result;
	int			exponent;

	memcpy(&bits, &d, sizeof(bits));
	sign = (uint16_t) (bits >> 63 << 15);
	exponent = (int) (bits >> 52 & 0x7ff);
	fraction = bits & 0x000fffffffffffff;

	if (exponent == 0x7ff && fraction != 0)
		return (uint16_t) (sign | exponent_max << fraction_bits | 1 << (fraction_bits - 1) | fraction >> shift);

	exponent += exponent_max / 2 - 1023;
	if (exponent >= exponent_max)
		return (uint16_t) (sign | exponent_max << fraction_bits);
	if (exponent <= 0)
	{
		/* Denormal in the result: the leading one becomes explicit and moves down. */
		fraction |= UINT64_C(1) << 52;
		shift += 1 - exponent;
		exponent = 0;
		if (shift > 53)
			return sign;
	}

	half = UINT64_C(1) << (shift - 1);
	rest = fraction & ((half << 1) - 1);
	result = (uint16_t) (exponent << fraction_bits | fraction >> shift);
	if (rest > half || (rest == half && (result & 1)))
		result++;				/* may carry into the exponent, up to infinity */
	return sign | result;
}

float
ga_half_to_float(uint16_t h)
{
	return ga_widen_half(h);
}

uint16_t
ga_float_to_half(float f)
{
	return narrow_double(f, 10);
}

uint16_t
ga_double_to_half(double d)
{
	return narrow_double(d, 10);
}

float
ga_bfloat_to_float(uint16_t b)
{
	return ga_widen_bfloat(b);
}

uint16_t
ga_float_to_bfloat(float f)
{
	return narrow_double(f, 7);
}

uint16_t
ga_double_to_bfloat(double d)
{
	return narrow_double(d, 7);
}

#ifdef GA_X86_KERNELS
static bool use_f16c = false;

/* Widens whole groups of eight halves; returns how many elements that were. */
static __attribute__((target("avx,f16c"))) size_t
widen_half_f32_f16c(const uint16_t *src, float *dst, size_t n)
{
	size_t		done = n - n % 8;

	for (size_t i = 0; i < done; i += 8)
		_mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (src + i))));
	return done;
}

static __attribute__((target("avx,f16c"))) size_t
widen_half_f64_f16c(const uint16_t *src, double *dst, size_t n)
{
	size_t		done = n - n % 8;

	for (size_t i = 0; i < done; i += 8)
	{
		__m256		eight = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (src + i)));

		_mm256_storeu_pd(dst + i, _mm256_cvtps_pd(_mm256_castps256_ps128(eight)));
		_mm256_storeu_pd(dst + i + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(eight, 1)));
	}
	return done;
}
#endif

void
ga_widen_use_f16c(bool on)
{
#ifdef GA_X86_KERNELS
	use_f16c = on;
#else
	(void) on;
#endif
}

void
ga_widen_f32(int dtype, const void *src, float *dst, size_t n)
{
	const uint16_t *half = src;
	size_t		i = 0;

	switch (dtype)
	{
		case GA_F32:
			if (n > 0)
				memcpy(dst, src, n * sizeof(float));
			break;
		case GA_F16:
#ifdef GA_X86_KERNELS
			if (use_f16c)
				i = widen_half_f32_f16c(half, dst, n);
#endif
			for (; i < n; i++)
				dst[i] = ga_widen_half(half[i]);
			break;
		case GA_BF16:
			for (; i < n; i++)
				dst[i] = ga_widen_bfloat(half[i]);
			break;
		default:
			for (; i < n; i++)
				dst[i] = NAN;
			break;
	}
}

void
ga_widen_f64(int dtype, const void *src, double *dst, size_t n)
{
	const uint16_t *half = src;
	const float *single = src;
	size_t		i = 0;

	switch (dtype)
	{
		case GA_F64:
			if (n > 0)
				memcpy(dst, src, n * sizeof(double));
			break;
		case GA_F32:
			for (; i < n; i++)
				dst[i] = single[i];
			break;
		case GA_F16:
#ifdef GA_X86_KERNELS
			if (use_f16c)
				i = widen_half_f64_f16c(half, dst, n);
#endif
			for (; i < n; i++)
				dst[i] = ga_widen_half(half[i]);
			break;
		case GA_BF16:
			for (; i < n; i++)
				dst[i] = ga_widen_bfloat(half[i]);
			break;
		default:
			for (; i < n; i++)
				dst[i] = NAN;
			break;
	}
}
