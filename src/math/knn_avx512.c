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
#define TILE_PART 6
#define DOUBLES 8
#define KERNEL_TABLE const GaKnnKernels ga_knn_kernels_avx512

typedef __m512 Vec;
typedef __m512d Wide;

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
vec_load_some(const float *p, size_t n)
{
	return _mm512_maskz_loadu_ps((__mmask16) ((1u << n) - 1), p);
}

static GA_FORCE_INLINE TARGET Vec
vec_byte(const int8_t *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p)));
}

static GA_FORCE_INLINE TARGET Vec
vec_byte_some(const int8_t *p, size_t n)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8((__mmask16) ((1u << n) - 1), p)));
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

static GA_FORCE_INLINE TARGET Wide
wide_set(double x)
{
	return _mm512_set1_pd(x);
}

static GA_FORCE_INLINE TARGET Wide
wide_load(const double *p)
{
	return _mm512_loadu_pd(p);
}

static GA_FORCE_INLINE TARGET void
wide_save(double *p, Wide x)
{
	_mm512_storeu_pd(p, x);
}

static GA_FORCE_INLINE TARGET Wide
wide_add(Wide x, Wide y)
{
	return _mm512_add_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_sub(Wide x, Wide y)
{
	return _mm512_sub_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_mul(Wide x, Wide y)
{
	return _mm512_mul_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_abs(Wide x)
{
	return _mm512_castsi512_pd(_mm512_and_epi64(_mm512_castpd_si512(x), _mm512_set1_epi64(INT64_MAX)));
}

static GA_FORCE_INLINE TARGET Wide
wide_max(Wide x, Wide y)
{
	return _mm512_max_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_to_half(Wide x, float up, uint16_t *out)
{
	__m128i		halves = _mm256_cvtps_ph(_mm256_mul_ps(_mm512_cvtpd_ps(x), _mm256_set1_ps(up)), _MM_FROUND_TO_NEAREST_INT);

	_mm_storeu_si128((__m128i *) out, halves);
	return _mm512_cvtps_pd(_mm256_cvtph_ps(halves));
}

static GA_FORCE_INLINE TARGET void
wide_to_byte(Wide x, int8_t *out)
{
	_mm_storel_epi64((__m128i *) out, _mm256_cvtepi32_epi8(_mm512_cvtpd_epi32(x)));
}

#include "knn_load.h"
#include "knn_store.h"

static GA_FORCE_INLINE TARGET Wide
wide_sqrt(Wide x)
{
	return _mm512_sqrt_pd(x);
}

static GA_FORCE_INLINE TARGET Wide
wide_min(Wide x, Wide y)
{
	return _mm512_min_pd(x, y);
}

/* Writes the sums of four vectors, each folded to four floats. */
static GA_FORCE_INLINE TARGET void
add_quads(__m128 a, __m128 b, __m128 c, __m128 d, double *sums)
{
	__m128		ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
	__m128		cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
	__m128		all = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));

	_mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), _mm256_cvtps_pd(all)));
}

static GA_FORCE_INLINE TARGET __m128
fold(Vec x)
{
	__m256		high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
	__m256		eight = _mm256_add_ps(_mm512_castps512_ps256(x), high);

	return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}

static GA_FORCE_INLINE TARGET void
vec_reduce_rows(const Vec *acc, double *sums)
{
	add_quads(fold(acc[0]), fold(acc[1]), fold(acc[2]), fold(acc[3]), sums);
}

#include "knn_tile.h"
#include "knn_kernels.h"

#endif							/* GA_X86_KERNELS */
