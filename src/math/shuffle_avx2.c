/*
 * shuffle_avx2.c
 *		The byte shuffle with AVX2, 32 elements at a time.
 */
#include "shuffle_impl.h"

#ifdef GA_X86_SHUFFLE

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))

static inline TARGET __m256i
load(const char *p)
{
	return _mm256_loadu_si256((const __m256i *) p);
}

static inline TARGET void
store(char *p, __m256i v)
{
	_mm256_storeu_si256((__m256i *) p, v);
}

/* Of each half, the 4 x 4 bytes transposed; its own inverse. */
static inline TARGET __m256i
transpose4(__m256i v)
{
	return _mm256_shuffle_epi8(v, _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
												   0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
}

/* Eight elements become eight bytes of each plane, in order. */
static inline TARGET __m256i
planes4(const char *src)
{
	return _mm256_permutevar8x32_epi32(transpose4(load(src)), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline TARGET void
elements4(char *dst, __m256i planes)
{
	store(dst, transpose4(_mm256_permutevar8x32_epi32(planes, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7))));
}

static TARGET void
shuffle4(const char *src, char *dst, size_t n, size_t steps)
{
	for (; steps > 0; steps--, src += 128, dst += 32)
	{
		__m256i		a = planes4(src);
		__m256i		b = planes4(src + 32);
		__m256i		c = planes4(src + 64);
		__m256i		d = planes4(src + 96);
		__m256i		ab02 = _mm256_unpacklo_epi64(a, b);
		__m256i		ab13 = _mm256_unpackhi_epi64(a, b);
		__m256i		cd02 = _mm256_unpacklo_epi64(c, d);
		__m256i		cd13 = _mm256_unpackhi_epi64(c, d);

		store(dst, _mm256_permute2x128_si256(ab02, cd02, 0x20));
		store(dst + n, _mm256_permute2x128_si256(ab13, cd13, 0x20));
		store(dst + 2 * n, _mm256_permute2x128_si256(ab02, cd02, 0x31));
		store(dst + 3 * n, _mm256_permute2x128_si256(ab13, cd13, 0x31));
	}
}

static TARGET void
unshuffle4(const char *src, char *dst, size_t n, size_t steps)
{
	for (; steps > 0; steps--, src += 32, dst += 128)
	{
		__m256i		p0 = load(src);
		__m256i		p1 = load(src + n);
		__m256i		p2 = load(src + 2 * n);
		__m256i		p3 = load(src + 3 * n);
		__m256i		ab02 = _mm256_permute2x128_si256(p0, p2, 0x20);
		__m256i		ab13 = _mm256_permute2x128_si256(p1, p3, 0x20);
		__m256i		cd02 = _mm256_permute2x128_si256(p0, p2, 0x31);
		__m256i		cd13 = _mm256_permute2x128_si256(p1, p3, 0x31);

		elements4(dst, _mm256_unpacklo_epi64(ab02, ab13));
		elements4(dst + 32, _mm256_unpackhi_epi64(ab02, ab13));
		elements4(dst + 64, _mm256_unpacklo_epi64(cd02, cd13));
		elements4(dst + 96, _mm256_unpackhi_epi64(cd02, cd13));
	}
}

/* Sixteen elements become sixteen bytes of each of the two planes. */
static inline TARGET __m256i
planes2(const char *src)
{
	__m256i		v = _mm256_shuffle_epi8(load(src), _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15,
																	0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));

	return _mm256_permute4x64_epi64(v, 0xD8);
}

static TARGET void
shuffle2(const char *src, char *dst, size_t n, size_t steps)
{
	for (; steps > 0; steps--, src += 64, dst += 32)
	{
		__m256i		a = planes2(src);
		__m256i		b = planes2(src + 32);

		store(dst, _mm256_permute2x128_si256(a, b, 0x20));
		store(dst + n, _mm256_permute2x128_si256(a, b, 0x31));
	}
}

static TARGET void
unshuffle2(const char *src, char *dst, size_t n, size_t steps)
{
	for (; steps > 0; steps--, src += 32, dst += 64)
	{
		__m256i		p0 = load(src);
		__m256i		p1 = load(src + n);
		__m256i		low = _mm256_unpacklo_epi8(p0, p1);
		__m256i		high = _mm256_unpackhi_epi8(p0, p1);

		store(dst, _mm256_permute2x128_si256(low, high, 0x20));
		store(dst + 32, _mm256_permute2x128_si256(low, high, 0x31));
	}
}

void
ga_shuffle_avx2(const char *src, char *dst, size_t n, size_t steps, int width)
{
	if (width == 4)
		shuffle4(src, dst, n, steps);
	else
		shuffle2(src, dst, n, steps);
}

void
ga_unshuffle_avx2(const char *src, char *dst, size_t n, size_t steps, int width)
{
	if (width == 4)
		unshuffle4(src, dst, n, steps);
	else
		unshuffle2(src, dst, n, steps);
}

#endif							/* GA_X86_SHUFFLE */
