/*
 * fingerprint_avx2.c
 *		The fingerprint with AVX2.
 */
#include "fingerprint_impl.h"

#ifdef GA_X86_FINGERPRINT

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))

static inline TARGET __m256i
load(const uint8_t *p)
{
	return _mm256_loadu_si256((const __m256i *) p);
}

/* Adds the products of the even and of the odd words of (low + low key) and (high + high key). */
static inline TARGET __m256i
products(__m256i sum, __m256i low, __m256i high, __m256i low_key, __m256i high_key)
{
	__m256i		x = _mm256_add_epi32(low, low_key);
	__m256i		y = _mm256_add_epi32(high, high_key);

	sum = _mm256_add_epi64(sum, _mm256_mul_epu32(x, y));
	return _mm256_add_epi64(sum, _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(y, 32)));
}

static inline TARGET uint64_t
total(__m256i sum)
{
	uint64_t	word[4];

	_mm256_storeu_si256((__m256i *) word, sum);
	return word[0] + word[1] + word[2] + word[3];
}

/* Two blocks of 32 bytes at a time: first halves in one register, second halves in another. */
TARGET void
ga_fingerprint_avx2(const uint8_t *key, const uint8_t *data, size_t steps, uint64_t *sum)
{
	__m256i		sum0 = _mm256_setzero_si256();
	__m256i		sum1 = _mm256_setzero_si256();

	for (size_t pairs = steps * (GA_FINGERPRINT_STEP / 64); pairs > 0; pairs--)
	{
		__m256i		m0 = load(data);
		__m256i		m1 = load(data + 32);
		__m256i		k0 = load(key);
		__m256i		k1 = load(key + 32);
		__m256i		k2 = load(key + 64);
		__m256i		low = _mm256_permute2x128_si256(m0, m1, 0x20);
		__m256i		high = _mm256_permute2x128_si256(m0, m1, 0x31);
		__m256i		middle_key = _mm256_permute2x128_si256(k0, k1, 0x31);

		sum0 = products(sum0, low, high, _mm256_permute2x128_si256(k0, k1, 0x20), middle_key);
		sum1 = products(sum1, low, high, middle_key, _mm256_permute2x128_si256(k1, k2, 0x20));
		data += 64;
		key += 64;
	}
	sum[0] += total(sum0);
	sum[1] += total(sum1);
}

#endif							/* GA_X86_FINGERPRINT */
