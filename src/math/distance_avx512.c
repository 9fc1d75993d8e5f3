/*
 * distance_avx512.c
 *		Distance kernels for AVX-512 (F, BW, VL).
 */
#include "distance_impl.h"

#ifdef GA_X86_KERNELS

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx2,fma,f16c")))
#define WIDTH 8
#define KERNEL_TABLE const GaKernelTable ga_kernels_avx512

typedef __m512d Wide;
typedef __m256 Narrow;

static GA_FORCE_INLINE TARGET Narrow
narrow_load(int dtype, const char *p)
{
	if (dtype == GA_F32)
		return _mm256_loadu_ps((const float *) p);
	if (dtype == GA_F16)
		return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p)), 16));
}

static GA_FORCE_INLINE TARGET Narrow
narrow_sub(Narrow x, Narrow y)
{
	return _mm256_sub_ps(x, y);
}

static GA_FORCE_INLINE TARGET Wide
narrow_widen(Narrow x)
{
	return _mm512_cvtps_pd(x);
}

static GA_FORCE_INLINE TARGET Wide
wide_load(int dtype, const char *p)
{
	return dtype == GA_F64 ? _mm512_loadu_pd(p) : narrow_widen(narrow_load(dtype, p));
}

static GA_FORCE_INLINE TARGET Wide
wide_zero(void)
{
	return _mm512_setzero_pd();
}

static GA_FORCE_INLINE TARGET Wide
wide_sub(Wide x, Wide y)
{
	return _mm512_sub_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_add(Wide x, Wide y)
{
	return _mm512_add_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_abs(Wide x)
{
	return _mm512_castsi512_pd(_mm512_and_epi64(_mm512_castpd_si512(x), _mm512_set1_epi64(INT64_MAX)));
}

static GA_FORCE_INLINE TARGET Wide
wide_fma(Wide x, Wide y, Wide acc)
{
	return _mm512_fmadd_pd(x, y, acc);
}

static GA_FORCE_INLINE TARGET Wide
wide_mul_add(Wide x, Wide y, Wide acc)
{
	Wide		product = _mm512_mul_pd(x, y);

	GA_ROUNDED(product);
	return _mm512_add_pd(product, acc);
}

static GA_FORCE_INLINE TARGET double
reduce(const Wide *acc)
{
	__m512d		eight = _mm512_add_pd(acc[0], acc[1]);
	__m256d		four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
	__m128d		two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));

	return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#include "distance_kernels.h"

#endif							/* GA_X86_KERNELS */
