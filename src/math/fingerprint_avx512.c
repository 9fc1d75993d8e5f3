/*
 * fingerprint_avx512.c
 *		The fingerprint with AVX-512F.
 */
#include "fingerprint_impl.h"

#ifdef GA_X86_FINGERPRINT

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f")))

static inline TARGET __m512i
load(const uint8_t *p)
{
	return _mm512_loadu_si512(p);
}

/* Adds the products of the even and of the odd words of (low + low key) and (high + high key). */
static inline TARGET __m512i
products(__m512i sum, __m512i low, __m512i high, __m512i low_key, __m512i high_key)
{
	__m512i		x = _mm512_add_epi32(low, low_key);
	__m512i		y = _mm512_add_epi32(high, high_key);

	sum = _mm512_add_epi64(sum, _mm512_mul_epu32(x, y));
	return _mm512_add_epi64(sum, _mm512_mul_epu32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(y, 32)));
}

/* Not _mm512_reduce_add_epi64(), whose sums are signed. */
static inline TARGET uint64_t
total(__m512i sum)
{
	uint64_t	word[8];

	_mm512_storeu_si512(word, sum);
	return word[0] + word[1] + word[2] + word[3] + word[4] + word[5] + word[6] + word[7];
}

/* Four blocks of 32 bytes at a time: first halves (0x88) in one register, second halves (0xDD) in another. */
TARGET void
ga_fingerprint_avx512(const uint8_t *key, const uint8_t *data, size_t steps, uint64_t *sum)
{
	__m512i		sum0 = _mm512_setzero_si512();
	__m512i		sum1 = _mm512_setzero_si512();

	for (; steps > 0; steps--)
	{
		__m512i		m0 = load(data);
		__m512i		m1 = load(data + 64);
		__m512i		k0 = load(key);
		__m512i		k1 = load(key + 64);
		__m512i		low = _mm512_shuffle_i64x2(m0, m1, 0x88);
		__m512i		high = _mm512_shuffle_i64x2(m0, m1, 0xDD);
		__m512i		middle_key = _mm512_shuffle_i64x2(k0, k1, 0xDD);
		__m512i		last_key = _mm512_shuffle_i64x2(load(key + 32), load(key + 96), 0x88);

		_mm_prefetch((const char *) data + 1024, _MM_HINT_T0);
		_mm_prefetch((const char *) data + 1088, _MM_HINT_T0);
		sum0 = products(sum0, low, high, _mm512_shuffle_i64x2(k0, k1, 0x88), middle_key);
		sum1 = products(sum1, low, high, middle_key, last_key);
		data += GA_FINGERPRINT_STEP;
		key += GA_FINGERPRINT_STEP;
	}
	sum[0] += total(sum0);
	sum[1] += total(sum1);
}

#endif							/* GA_X86_FINGERPRINT */
