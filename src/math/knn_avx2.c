/*
 * knn_avx2.c
 *		Nearest-neighbour kernels for AVX2 with FMA and F16C.
 */
#include "knn_impl.h"

#ifdef GA_X86_KERNELS

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define WIDTH 8
#define VECTORS 8
#define SEGMENT 1024
#define TILE_PART 3
#define DOUBLES 4
#define KERNEL_TABLE const GaKnnKernels ga_knn_kernels_avx2

typedef __m256 Vec;
typedef __m256d Wide;

static GA_FORCE_INLINE TARGET Vec
vec_zero(void)
{
	return _mm256_setzero_ps();
}

static GA_FORCE_INLINE TARGET Vec
vec_set(float x)
{
	return _mm256_set1_ps(x);
}

static GA_FORCE_INLINE TARGET Vec
vec_half(const uint16_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
}

static GA_FORCE_INLINE TARGET Vec
vec_half_some(const uint16_t *p, size_t n)
{
	uint16_t	some[WIDTH] = {0};

	memcpy(some, p, n * sizeof(*p));
	return vec_half(some);
}

static GA_FORCE_INLINE TARGET Vec
vec_load(const float *p)
{
	return _mm256_loadu_ps(p);
}

static GA_FORCE_INLINE TARGET Vec
vec_load_some(const float *p, size_t n)
{
	float		some[WIDTH] = {0};

	memcpy(some, p, n * sizeof(*p));
	return vec_load(some);
}

static GA_FORCE_INLINE TARGET Vec
vec_byte(const int8_t *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p)));
}

static GA_FORCE_INLINE TARGET Vec
vec_byte_some(const int8_t *p, size_t n)
{
	int8_t		some[WIDTH] = {0};

	memcpy(some, p, n);
	return vec_byte(some);
}

static GA_FORCE_INLINE TARGET Vec
vec_add(Vec x, Vec y)
{
	return _mm256_add_ps(x, y);
}

static GA_FORCE_INLINE TARGET Vec
vec_abs(Vec x)
{
	return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

static GA_FORCE_INLINE TARGET Vec
vec_fma(Vec x, Vec y, Vec z)
{
	return _mm256_fmadd_ps(x, y, z);
}

static GA_FORCE_INLINE TARGET Vec
vec_fms(Vec x, Vec y, Vec z)
{
	return _mm256_fmsub_ps(x, y, z);
}

static GA_FORCE_INLINE TARGET double
vec_reduce(const Vec *acc)
{
	__m256		eight = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(acc[0], acc[4]), _mm256_add_ps(acc[1], acc[5])),
									  _mm256_add_ps(_mm256_add_ps(acc[2], acc[6]), _mm256_add_ps(acc[3], acc[7])));
	__m128		four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
	__m128		two = _mm_add_ps(four, _mm_movehl_ps(four, four));

	return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static GA_FORCE_INLINE TARGET Wide
wide_set(double x)
{
	return _mm256_set1_pd(x);
}

static GA_FORCE_INLINE TARGET Wide
wide_load(const double *p)
{
	return _mm256_loadu_pd(p);
}

static GA_FORCE_INLINE TARGET void
wide_save(double *p, Wide x)
{
	_mm256_storeu_pd(p, x);
}

static GA_FORCE_INLINE TARGET Wide
wide_add(Wide x, Wide y)
{
	return _mm256_add_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_sub(Wide x, Wide y)
{
	return _mm256_sub_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_mul(Wide x, Wide y)
{
	return _mm256_mul_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_abs(Wide x)
{
	return _mm256_andnot_pd(_mm256_set1_pd(-0.0), x);
}

static GA_FORCE_INLINE TARGET Wide
wide_max(Wide x, Wide y)
{
	return _mm256_max_pd(x, y);
}

static GA_FORCE_INLINE TARGET Wide
wide_to_half(Wide x, float up, uint16_t *out)
{
	__m128i		halves = _mm_cvtps_ph(_mm_mul_ps(_mm256_cvtpd_ps(x), _mm_set1_ps(up)), _MM_FROUND_TO_NEAREST_INT);

	_mm_storel_epi64((__m128i *) out, halves);
	return _mm256_cvtps_pd(_mm_cvtph_ps(halves));
}

static GA_FORCE_INLINE TARGET void
wide_to_byte(Wide x, int8_t *out)
{
	__m128i		words = _mm_packs_epi32(_mm256_cvtpd_epi32(x), _mm_setzero_si128());
	int			bytes = _mm_cvtsi128_si32(_mm_packs_epi16(words, words));

	memcpy(out, &bytes, sizeof(bytes));
}

#include "knn_load.h"
#include "knn_store.h"

static GA_FORCE_INLINE TARGET Wide
wide_sqrt(Wide x)
{
	return _mm256_sqrt_pd(x);
}

static GA_FORCE_INLINE TARGET Wide
wide_min(Wide x, Wide y)
{
	return _mm256_min_pd(x, y);
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
	return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}

static GA_FORCE_INLINE TARGET void
vec_reduce_rows(const Vec *acc, double *sums)
{
	add_quads(fold(acc[0]), fold(acc[1]), fold(acc[2]), fold(acc[3]), sums);
}

#include "knn_tile.h"
#include "knn_kernels.h"

#endif							/* GA_X86_KERNELS */
