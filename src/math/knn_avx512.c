/*
 * knn_avx512.c
 *		Nearest-neighbour kernels for AVX-512 (F, BW, VL).
 */
#include "knn_impl.h"

#ifdef GA_X86_KERNELS

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx2,fma,f16c")))
#define WIDTH 16
#define VECTORS 4
#define SEGMENT 1024
#define KERNEL_TABLE const GaKnnKernels ga_knn_kernels_avx512

typedef __m512 Vec;

static GA_FORCE_INLINE TARGET Vec
vec_zero(void)
{
	return _mm512_setzero_ps();
}

static GA_FORCE_INLINE TARGET Vec
vec_set(float x)
{
	return _mm512_set1_ps(x);
}

static GA_FORCE_INLINE TARGET Vec
vec_half(const uint16_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p));
}

static GA_FORCE_INLINE TARGET Vec
vec_half_some(const uint16_t *p, size_t n)
{
	return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16) ((1u << n) - 1), p));
}

static GA_FORCE_INLINE TARGET Vec
vec_load(const float *p)
{
	return _mm512_loadu_ps(p);
}

static GA_FORCE_INLINE TARGET Vec
vec_add(Vec x, Vec y)
{
	return _mm512_add_ps(x, y);
}

static GA_FORCE_INLINE TARGET Vec
vec_abs(Vec x)
{
	return _mm512_castsi512_ps(_mm512_and_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MAX)));
}

static GA_FORCE_INLINE TARGET Vec
vec_fma(Vec x, Vec y, Vec z)
{
	return _mm512_fmadd_ps(x, y, z);
}

static GA_FORCE_INLINE TARGET Vec
vec_fms(Vec x, Vec y, Vec z)
{
	return _mm512_fmsub_ps(x, y, z);
}

static GA_FORCE_INLINE TARGET double
vec_reduce(const Vec *acc)
{
	__m512		sixteen = _mm512_add_ps(_mm512_add_ps(acc[0], acc[2]), _mm512_add_ps(acc[1], acc[3]));
	__m256		high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sixteen), 1));
	__m256		eight = _mm256_add_ps(_mm512_castps512_ps256(sixteen), high);
	__m128		four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
	__m128		two = _mm_add_ps(four, _mm_movehl_ps(four, four));

	return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#include "knn_kernels.h"

#endif							/* GA_X86_KERNELS */
