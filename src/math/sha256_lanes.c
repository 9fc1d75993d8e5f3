/*
 * sha256_lanes.c
 *		SHA-256 of 16 messages at once with AVX-512 (sha256_lanes.h).
 *
 * Word i of all 16 messages is one register, and so is each of the eight words of
 * state, so a round is the one of FIPS 180-4 written once for 16 messages.
 */
#include "math/sha256_lanes.h"

#include <string.h>

static bool available = false;

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw")))
#define INLINE TARGET inline __attribute__((always_inline))

#define BLOCK 64
#define XOR3 0x96				/* truth tables of three bits */
#define CHOOSE 0xCA
#define MAJORITY 0xE8

typedef __m512i Words[16];

static const uint32_t initial[8] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
};

static const uint32_t constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

static INLINE __m512i
big_sigma(__m512i x, int a, int b, int c)
{
	return _mm512_ternarylogic_epi32(_mm512_rorv_epi32(x, _mm512_set1_epi32(a)), _mm512_rorv_epi32(x, _mm512_set1_epi32(b)),
									 _mm512_rorv_epi32(x, _mm512_set1_epi32(c)), XOR3);
}

static INLINE __m512i
small_sigma(__m512i x, int a, int b, int shift)
{
	return _mm512_ternarylogic_epi32(_mm512_rorv_epi32(x, _mm512_set1_epi32(a)), _mm512_rorv_epi32(x, _mm512_set1_epi32(b)),
									 _mm512_srl_epi32(x, _mm_cvtsi32_si128(shift)), XOR3);
}

/* Sixteen messages' blocks to sixteen words of all messages: a transposition of 16 x 16, in big-endian words. */
static INLINE void
load_words(const uint8_t *const *lane, size_t at, Words w)
{
	const __m512i swap = _mm512_set4_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203);
	Words		t;

#pragma GCC unroll 16
	for (int i = 0; i < 16; i++)
		w[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(lane[i] + at), swap);
#pragma GCC unroll 16
	for (int i = 0; i < 16; i += 2)
	{
		t[i] = _mm512_unpacklo_epi32(w[i], w[i + 1]);
		t[i + 1] = _mm512_unpackhi_epi32(w[i], w[i + 1]);
	}
#pragma GCC unroll 16
	for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 16
		for (int j = 0; j < 2; j++)
		{
			w[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
			w[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
		}
#pragma GCC unroll 16
	for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 16
		for (int j = 0; j < 4; j++)
		{
			t[i + j] = _mm512_shuffle_i32x4(w[i + j], w[i + j + 4], 0x88);
			t[i + j + 4] = _mm512_shuffle_i32x4(w[i + j], w[i + j + 4], 0xDD);
		}
#pragma GCC unroll 16
	for (int j = 0; j < 8; j++)
	{
		w[j] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
		w[j + 8] = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xDD);
	}
}

/* One block of each message, whose words w are, into the state. */
static INLINE void
compress(__m512i *state, Words w)
{
	__m512i		a = state[0], b = state[1], c = state[2], d = state[3];
	__m512i		e = state[4], f = state[5], g = state[6], h = state[7];

#pragma GCC unroll 64
	for (int i = 0; i < 64; i++)
	{
		__m512i		t1, t2;

		if (i >= 16)
			w[i % 16] = _mm512_add_epi32(_mm512_add_epi32(w[i % 16], small_sigma(w[(i + 1) % 16], 7, 18, 3)),
										 _mm512_add_epi32(w[(i + 9) % 16], small_sigma(w[(i + 14) % 16], 17, 19, 10)));
		t1 = _mm512_add_epi32(_mm512_add_epi32(h, _mm512_add_epi32(w[i % 16], _mm512_set1_epi32((int) constants[i]))),
							  _mm512_add_epi32(big_sigma(e, 6, 11, 25), _mm512_ternarylogic_epi32(e, f, g, CHOOSE)));
		t2 = _mm512_add_epi32(big_sigma(a, 2, 13, 22), _mm512_ternarylogic_epi32(a, b, c, MAJORITY));
		h = g;
		g = f;
		f = e;
		e = _mm512_add_epi32(d, t1);
		d = c;
		c = b;
		b = a;
		a = _mm512_add_epi32(t1, t2);
	}
	state[0] = _mm512_add_epi32(state[0], a);
	state[1] = _mm512_add_epi32(state[1], b);
	state[2] = _mm512_add_epi32(state[2], c);
	state[3] = _mm512_add_epi32(state[3], d);
	state[4] = _mm512_add_epi32(state[4], e);
	state[5] = _mm512_add_epi32(state[5], f);
	state[6] = _mm512_add_epi32(state[6], g);
	state[7] = _mm512_add_epi32(state[7], h);
}

TARGET static void
hash_avx512(const uint8_t *const *lane, size_t nbytes, int count, uint8_t *out)
{
	__m512i		state[8];
	Words		w;
	uint32_t	words[8][16];

	for (int i = 0; i < 8; i++)
		state[i] = _mm512_set1_epi32((int) initial[i]);
	for (size_t at = 0; at < nbytes; at += BLOCK)
	{
		load_words(lane, at, w);
		compress(state, w);
	}
	/* The last block: a one bit, zeros, the length in bits. */
	for (int i = 0; i < 16; i++)
		w[i] = _mm512_setzero_si512();
	w[0] = _mm512_set1_epi32((int) 0x80000000);
	w[14] = _mm512_set1_epi32((int) ((uint64_t) nbytes >> 29));
	w[15] = _mm512_set1_epi32((int) ((uint64_t) nbytes << 3));
	compress(state, w);
	for (int i = 0; i < 8; i++)
		_mm512_storeu_si512(words[i], state[i]);
	for (int lane_no = 0; lane_no < count; lane_no++)
		for (int i = 0; i < 8; i++)
			for (int byte = 0; byte < 4; byte++)
				*out++ = (uint8_t) (words[i][lane_no] >> (24 - 8 * byte));
}

static bool
supported(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

#else

static void
hash_avx512(const uint8_t *const *lane, size_t nbytes, int count, uint8_t *out)
{
	(void) lane;
	(void) nbytes;
	(void) count;
	(void) out;
}

static bool
supported(void)
{
	return false;
}

#endif

bool
ga_sha256_lanes(const void *data, size_t stride, size_t nbytes, int count, uint8_t *out)
{
	const uint8_t *lane[GA_SHA256_LANES];

	if (!available)
		return false;
	/* Lanes that nobody asked for repeat the first one. */
	for (int i = 0; i < GA_SHA256_LANES; i++)
		lane[i] = (const uint8_t *) data + (i < count ? i : 0) * stride;
	hash_avx512(lane, nbytes, count, out);
	return true;
}

bool
ga_sha256_lanes_force_isa(const char *isa)
{
	available = strcmp(isa, "avx512") == 0 && supported();
	return available || strcmp(isa, "none") == 0;
}

void
ga_sha256_lanes_init(void)
{
	(void) ga_sha256_lanes_force_isa("avx512");
}
