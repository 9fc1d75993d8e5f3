/*
 * fingerprint.c
 *		Choice of kernels, the portable one, and the ends of leaves.
 */
#include "fingerprint_impl.h"

#include <string.h>

#define LENGTH_FACTOR UINT64_C(0x9E3779B97F4A7C15)
#define BLOCK 32

static inline uint32_t
load32(const uint8_t *p)
{
	return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
}

/* Adds blocks of 32 bytes. */
static void
add_blocks(const uint8_t *key, const uint8_t *data, size_t blocks, uint64_t *sum)
{
	for (; blocks > 0; blocks--, key += BLOCK, data += BLOCK)
		for (int j = 0; j < 4; j++)
		{
			uint32_t	low = load32(data + 4 * j);
			uint32_t	high = load32(data + 4 * j + 16);

			sum[0] += (uint64_t) (uint32_t) (low + load32(key + 4 * j)) *
				(uint32_t) (high + load32(key + 4 * j + 16));
			sum[1] += (uint64_t) (uint32_t) (low + load32(key + 4 * j + 16)) *
				(uint32_t) (high + load32(key + 4 * j + 32));
		}
}

static void
add_steps_portable(const uint8_t *key, const uint8_t *data, size_t steps, uint64_t *sum)
{
	add_blocks(key, data, steps * (GA_FINGERPRINT_STEP / BLOCK), sum);
}

static void
leaf(GaFingerprintKernel kernel, const uint8_t *key, const uint8_t *data, size_t n, GaFingerprint *out)
{
	uint64_t	sum[2] = {n * LENGTH_FACTOR, n * LENGTH_FACTOR};
	size_t		done = n / GA_FINGERPRINT_STEP * GA_FINGERPRINT_STEP;
	size_t		blocks = (n - done) / BLOCK;

	kernel(key, data, n / GA_FINGERPRINT_STEP, sum);
	add_blocks(key + done, data + done, blocks, sum);
	done += blocks * BLOCK;
	if (done < n)
	{
		uint8_t		last[BLOCK] = {0};

		memcpy(last, data + done, n - done);
		add_blocks(key + done, last, 1, sum);
	}
	out->word[0] = sum[0];
	out->word[1] = sum[1];
}

static void
leaves(GaFingerprintKernel kernel, const uint8_t *key, const uint8_t *data, size_t nbytes, GaFingerprint *out)
{
	for (size_t at = 0; at < nbytes; at += GA_FINGERPRINT_LEAF)
		leaf(kernel, key, data + at, nbytes - at < GA_FINGERPRINT_LEAF ? nbytes - at : GA_FINGERPRINT_LEAF, out++);
}

void
ga_fingerprint_portable(const uint8_t *key, const void *data, size_t nbytes, GaFingerprint *out)
{
	leaves(add_steps_portable, key, data, nbytes, out);
}

static GaFingerprintKernel chosen = add_steps_portable;

void
ga_fingerprint(const uint8_t *key, const void *data, size_t nbytes, GaFingerprint *out)
{
	leaves(chosen, key, data, nbytes, out);
}

bool
ga_fingerprint_force_isa(const char *isa)
{
	if (strcmp(isa, "portable") == 0)
	{
		chosen = add_steps_portable;
		return true;
	}
#ifdef GA_X86_FINGERPRINT
	if (strcmp(isa, "avx2") == 0 && __builtin_cpu_supports("avx2"))
	{
		chosen = ga_fingerprint_avx2;
		return true;
	}
	if (strcmp(isa, "avx512") == 0 && __builtin_cpu_supports("avx512f"))
	{
		chosen = ga_fingerprint_avx512;
		return true;
	}
#endif
	return false;
}

void
ga_fingerprint_init(void)
{
	if (!ga_fingerprint_force_isa("avx512") && !ga_fingerprint_force_isa("avx2"))
		(void) ga_fingerprint_force_isa("portable");
}
