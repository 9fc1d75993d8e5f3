/*
 * test_fingerprint.c
 *		Every kernel of the fingerprint against the formula of fingerprint.h,
 *		written anew here over an array of padded words.
 */
#include "unit.h"

#include "math/fingerprint.h"

static uint8_t key[GA_FINGERPRINT_KEY_BYTES];
static uint8_t *data;

#define LEAF GA_FINGERPRINT_LEAF
#define ROOM (3 * LEAF + 64)

static void
fill(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t) (next_random() >> 24);
}

/* The formula, for t = 0 and 1. */
static GaFingerprint
formula(const uint8_t *k8, const uint8_t *leaf, size_t n)
{
	static uint32_t m[LEAF / 4];
	static uint32_t k[GA_FINGERPRINT_KEY_BYTES / 4];
	GaFingerprint out;

	memset(m, 0, sizeof(m));
	memset(k, 0, sizeof(k));
	for (size_t i = 0; i < n; i++)
		m[i / 4] += (uint32_t) leaf[i] << (8 * (i % 4));
	for (size_t i = 0; i < sizeof(k); i++)
		k[i / 4] += (uint32_t) k8[i] << (8 * (i % 4));
	for (int t = 0; t < 2; t++)
	{
		out.word[t] = n * UINT64_C(0x9E3779B97F4A7C15);
		for (size_t i = 0; i < (n + 31) / 32 * 8; i += 8)
			for (size_t j = 0; j < 4; j++)
			{
				uint32_t	x = m[i + j] + k[4 * t + i + j];
				uint32_t	y = m[i + j + 4] + k[4 * t + i + j + 4];

				out.word[t] += (uint64_t) x * y;
			}
	}
	return out;
}

static bool
same(GaFingerprint a, GaFingerprint b)
{
	return a.word[0] == b.word[0] && a.word[1] == b.word[1];
}

static bool
check(const char *isa, size_t offset, size_t n)
{
	GaFingerprint got[4];
	GaFingerprint portable[4];
	size_t		leaves = (n + LEAF - 1) / LEAF;
	bool		good = true;

	memset(got, 0xa5, sizeof(got));
	ga_fingerprint(key, data + offset, n, got);
	ga_fingerprint_portable(key, data + offset, n, portable);
	for (size_t i = 0; i < leaves; i++)
	{
		size_t		bytes = n - i * LEAF < LEAF ? n - i * LEAF : LEAF;
		GaFingerprint expected = formula(key, data + offset + i * LEAF, bytes);

		if (!same(got[i], expected) || !same(portable[i], expected))
			good = differ("%s: offset %zu, %zu bytes, leaf %zu: %016llx, portable %016llx, expected %016llx", isa, offset, n, i,
						  (unsigned long long) got[i].word[0], (unsigned long long) portable[i].word[0],
						  (unsigned long long) expected.word[0]);
	}
	if (got[leaves].word[0] != UINT64_C(0xa5a5a5a5a5a5a5a5))
		good = differ("%s: wrote past leaf %zu", isa, leaves);
	return good;
}

static void
test_kernel(const char *isa)
{
	static const size_t sizes[] = {1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 127, 128, 129, 160, 255, 256, 257,
	LEAF - 129, LEAF - 128, LEAF - 33, LEAF - 1, LEAF, LEAF + 1, LEAF + 128, 2 * LEAF, 3 * LEAF - 7, 3 * LEAF};
	char		name[80];
	bool		good = true;

	if (!ga_fingerprint_force_isa(isa))
	{
		printf("# %s: not on this machine\n", isa);
		return;
	}
	fill(key, sizeof(key));
	fill(data, ROOM);
	for (size_t i = 0; i < LENGTH(sizes); i++)
		for (size_t offset = 0; offset < 5; offset++)
			good &= check(isa, offset * (offset + 3), sizes[i]);

	/* Words and keys near the ends of their ranges: additions wrap, products are largest. */
	memset(data, 0xff, ROOM);
	good &= check(isa, 0, 2 * LEAF + 77);
	memset(key, 0xff, sizeof(key));
	good &= check(isa, 0, 2 * LEAF + 77);
	memset(data, 0, ROOM);
	good &= check(isa, 0, 2 * LEAF + 77);
	snprintf(name, sizeof(name), "%s: fingerprints are those of the formula", isa);
	result(good, name);
}

/* One changed bit changes both words' sum, at every place of the leaf; so does one changed bit of the key. */
static void
test_changes(void)
{
	GaFingerprint before;
	GaFingerprint after;
	bool		good = true;

	fill(key, sizeof(key));
	fill(data, ROOM);
	ga_fingerprint(key, data, LEAF, &before);
	for (int i = 0; i < 2000; i++)
	{
		size_t		at = next_random() % LEAF;
		uint8_t		bit = (uint8_t) (1 << next_random() % 8);

		data[at] ^= bit;
		ga_fingerprint(key, data, LEAF, &after);
		data[at] ^= bit;
		if (before.word[0] == after.word[0] || before.word[1] == after.word[1])
			good = differ("a change of byte %zu is not seen", at);
	}
	result(good, "each single changed bit of the leaf changes both words");

	good = true;
	for (int i = 0; i < 500; i++)
	{
		size_t		at = next_random() % (LEAF + 16);

		key[at] ^= 4;
		ga_fingerprint(key, data, LEAF, &after);
		key[at] ^= 4;
		if (same(before, after))
			good = differ("a change of byte %zu of the key is not seen", at);
	}
	result(good, "each byte of the key matters");

	/* Swapped blocks and swapped halves of a block, which a plain sum would not see. */
	good = true;
	for (int i = 0; i < 500; i++)
	{
		size_t		a = next_random() % (LEAF / 16) * 16;
		size_t		b = next_random() % (LEAF / 16) * 16;
		uint8_t		saved[16];

		memcpy(saved, data + a, 16);
		memcpy(data + a, data + b, 16);
		memcpy(data + b, saved, 16);
		ga_fingerprint(key, data, LEAF, &after);
		if (a != b && same(before, after))
			good = differ("exchange of %zu and %zu is not seen", a, b);
		memcpy(saved, data + a, 16);
		memcpy(data + a, data + b, 16);
		memcpy(data + b, saved, 16);
	}
	result(good, "exchanged pieces are seen");

	memset(data, 0, ROOM);
	ga_fingerprint(key, data, 100, &before);
	ga_fingerprint(key, data, 101, &after);
	result(!same(before, after), "zeros of another length are another leaf");
}

/* Computed from the formula by a program in Python. */
static void
test_vector(void)
{
	GaFingerprint out;

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t) (i % 251);
	for (size_t i = 0; i < LEAF; i++)
		data[i] = (uint8_t) (i * 7 % 253);
	ga_fingerprint(key, data, 1000, &out);
	result(out.word[0] == UINT64_C(0x27a816b8ef996efb) && out.word[1] == UINT64_C(0x1b1d47d7447eab57), "the vector that another program computed");
}

int
main(void)
{
	data = malloc(ROOM);
	if (data == NULL)
		return 1;
	for_each_isa(test_kernel);
	ga_fingerprint_init();
	test_changes();
	test_vector();
	free(data);
	return finish();
}
