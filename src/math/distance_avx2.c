/*
 * distance_avx2.c
 *		Distance kernels for AVX2 with FMA and F16C.
 */
#include "distance_impl.h"

#ifdef GA_X86_KERNELS

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define WIDTH 4
#define KERNEL_TABLE const GaKernelTable ga_kernels_avx2

typedef __m256d Wide;
typedef __m128 Narrow;

static GA_FORCE_INLINE TARGET Narrow
narrow_load(int dtype, const char *p)
{
	if (dtype == GA_F32)
		return _mm_loadu_ps((const float *) p);
	if (dtype == GA_F16)
		return _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *) p));
	return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *) p)), 16));
}

static GA_FORCE_INLINE TARGET Narrow
narrow_sub(Narrow x, Narrow y)
{
	return _mm_sub_ps(x, y);
}

static GA_FORCE_INLINE TARGET Wide
narrow_widen(Narrow x)
{
	return _mm256_cvtps_pd(x);
}

static GA_FORCE_INLINE TARGET Wide
wide_load(int dtype, const char *p)
{
	return dtype == GA_F64 ? _mm256_loadu_pd((const double *) p) : narrow_widen(narrow_load(dtype, p));
}

static GA_FORCE_INLINE TARGET Wide
wide_zero(void)
{
	return _mm256_setzero_pd();
}

static GA_FORCE_INLINE TARGET Wide
wide_sub(Wide x, Wide y)
{
	return _mm256_sub_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_add(Wide x, Wide y)
{
	return _mm256_add_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_abs(Wide x)
{
	return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x);
}

static GA_FORCE_INLINE TARGET Wide
wide_fma(Wide x, Wide y, Wide acc)
{
	return _mm256_fmadd_pd(x, y, acc);
}

static GA_FORCE_INLINE TARGET Wide
wide_mul_add(Wide x, Wide y, Wide acc)
{
	Wide		product = _mm256_mul_pd(x, y);

	GA_ROUNDED(product);
	return _mm256_add_pd(product, acc);
}

static GA_FORCE_INLINE TARGET double
reduce(const Wide *acc)
{
	__m256d		four = _mm256_add_pd(_mm256_add_pd(acc[0], acc[2]), _mm256_add_pd(acc[1], acc[3]));
	__m128d		two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));

	return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#include "distance_kernels.h"

#endif							/* GA_X86_KERNELS */
