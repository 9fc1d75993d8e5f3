/*
 * knn_bytes_avx2.c
 *		Kernels for int8 rows for AVX2, and with AVX-VNNI.
 */
#include "knn_impl.h"

#ifdef GA_X86_KERNELS

#include <immintrin.h>

#define BASE_TARGET __attribute__((target("avx2")))
#define STEP 16
#define TILE_PART 3

typedef __m256i Whole;

static GA_FORCE_INLINE BASE_TARGET Whole
whole_zero(void)
{
	return _mm256_setzero_si256();
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_query(const int16_t *p)
{
	return _mm256_loadu_si256((const __m256i *) p);
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_row(const int8_t *p)
{
	return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) p));
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_row_some(const int8_t *p, size_t n)
{
	int8_t		some[STEP] = {0};

	memcpy(some, p, n);
	return whole_row(some);
}

static GA_FORCE_INLINE BASE_TARGET Whole
whole_add(Whole x, Whole y)
{
	return _mm256_add_epi32(x, y);
}

static GA_FORCE_INLINE BASE_TARGET int64_t
whole_reduce(Whole x)
{
	__m128i		four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
	__m128i		two = _mm_cvtepi32_epi64(_mm_add_epi32(four, _mm_unpackhi_epi64(four, four)));

	return _mm_cvtsi128_si64(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
}

static GA_FORCE_INLINE BASE_TARGET void
whole_reduce_rows(const Whole *acc, double *sums)
{
	Whole		ab = whole_add(_mm256_unpacklo_epi32(acc[0], acc[1]), _mm256_unpackhi_epi32(acc[0], acc[1]));
	Whole		cd = whole_add(_mm256_unpacklo_epi32(acc[2], acc[3]), _mm256_unpackhi_epi32(acc[2], acc[3]));
	Whole		abcd = whole_add(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
	__m256d		one = _mm256_add_pd(_mm256_cvtepi32_pd(_mm256_castsi256_si128(abcd)),
									_mm256_cvtepi32_pd(_mm256_extracti128_si256(abcd, 1)));

	_mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), one));
}

#define TARGET BASE_TARGET
#define NAME(x) x##_avx2
#define whole_multiply_add(acc, x, y) _mm256_add_epi32(acc, _mm256_madd_epi16(x, y))
#include "knn_bytes.h"

#ifdef GA_AVX_VNNI

#undef TARGET
#undef NAME
#undef whole_multiply_add

#define TARGET __attribute__((target("avx2,avxvnni")))
#define NAME(x) x##_avx_vnni
#define whole_multiply_add(acc, x, y) _mm256_dpwssd_avx_epi32(acc, x, y)
#include "knn_bytes.h"

#endif							/* GA_AVX_VNNI */
#endif							/* GA_X86_KERNELS */
