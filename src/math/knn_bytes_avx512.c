/*
 * knn_bytes_avx512.c
 *		Kernels for int8 rows for AVX-512 (F, BW, VL), and with VNNI.
 */
#include "knn_impl.h"

#ifdef GA_X86_KERNELS

#include <immintrin.h>

#define BASE "avx512f,avx512vl,avx512bw,avx2"
#define BASE_TARGET __attribute__((target(BASE)))
#define STEP 32
#define TILE_PART 6

typedef __m512i Whole;

static GA_FORCE_INLINE BASE_TARGET Whole
whole_zero(void)
{
	return _mm512_setzero_si512();
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_query(const int16_t *p)
{
	return _mm512_loadu_si512(p);
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_row(const int8_t *p)
{
	return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *) p));
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_row_some(const int8_t *p, size_t n)
{
	return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8((__mmask32) ((1u << n) - 1), p));
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_add(Whole x, Whole y)
{
	return _mm512_add_epi32(x, y);
}

static GA_FORCE_INLINE BASE_TARGET __m256i
halves(Whole x)
{
	return _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
}

static GA_FORCE_INLINE BASE_TARGET int64_t
whole_reduce(Whole x)
{
	__m256i		eight = halves(x);
	__m128i		four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
	__m128i		two = _mm_cvtepi32_epi64(_mm_add_epi32(four, _mm_unpackhi_epi64(four, four)));

	return _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
}

static GA_FORCE_INLINE BASE_TARGET void
whole_reduce_rows(const Whole *acc, double *sums)
{
	Whole		ab = whole_add(_mm512_unpacklo_epi32(acc[0], acc[1]), _mm512_unpackhi_epi32(acc[0], acc[1]));
	Whole		cd = whole_add(_mm512_unpacklo_epi32(acc[2], acc[3]), _mm512_unpackhi_epi32(acc[2], acc[3]));
	Whole		abcd = whole_add(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
	__m512d		two = _mm512_cvtepi32_pd(halves(abcd));
	__m256d		one = _mm256_add_pd(_mm512_castpd512_pd256(two), _mm512_extractf64x4_pd(two, 1));

	_mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), one));
}

#define TARGET BASE_TARGET
#define NAME(x) x##_avx512
#define whole_multiply_add(acc, x, y) _mm512_add_epi32(acc, _mm512_madd_epi16(x, y))
#include "knn_bytes.h"
#undef TARGET
#undef NAME
#undef whole_multiply_add

#define TARGET __attribute__((target(BASE ",avx512vnni")))
#define NAME(x) x##_avx512_vnni
#define whole_multiply_add(acc, x, y) _mm512_dpwssd_epi32(acc, x, y)
#include "knn_bytes.h"

#endif							/* GA_X86_KERNELS */
