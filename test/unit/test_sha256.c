/*
 * test_sha256.c
 *		SHA-256 in lanes against one written from FIPS 180-4 here, which is itself
 *		held against the standard's examples.
 */
#include "unit.h"

#include "math/sha256_lanes.h"

#define LEAF 65536

static void
ok(bool good, const char *format,...)
{
	char		name[200];
	va_list		args;

	va_start(args, format);
	vsnprintf(name, sizeof(name), format, args);
	va_end(args);
	result(good, name);
}

static uint32_t
rotate(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

/* Fractional bits of the square (power 2) or cube (power 3) root of a prime, by bisection in whole numbers. */
static uint32_t
root_bits(unsigned prime, int power)
{
	unsigned __int128 low = 0;
	unsigned __int128 high = (unsigned __int128) 32 << 32;

	/* The largest r with r^power <= prime * 2^(32 * power). */
	while (high - low > 1)
	{
		unsigned __int128 middle = (low + high) / 2;
		unsigned __int128 limit = (unsigned __int128) prime << (power == 2 ? 64 : 96);

		if ((power == 2 ? middle * middle : middle * middle * middle) <= limit)
			low = middle;
		else
			high = middle;
	}
	return (uint32_t) low;
}

static uint32_t k[64];
static uint32_t start[8];

static void
make_constants(void)
{
	int			n = 0;

	for (unsigned p = 2; n < 64; p++)
	{
		bool		prime = true;

		for (unsigned d = 2; d * d <= p; d++)
			prime = prime && p % d != 0;
		if (!prime)
			continue;
		if (n < 8)
			start[n] = root_bits(p, 2);
		k[n++] = root_bits(p, 3);
	}
}

static void
block(uint32_t *h, const uint8_t *p)
{
	uint32_t	w[64];
	uint32_t	v[8];

	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t) p[4 * i] << 24 | (uint32_t) p[4 * i + 1] << 16 | (uint32_t) p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10) + w[i - 7] +
			(rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 16];
	memcpy(v, h, sizeof(v));
	for (int i = 0; i < 64; i++)
	{
		uint32_t	t1 = v[7] + (rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25)) +
			((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
		uint32_t	t2 = (rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22)) +
			((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

		memmove(v + 1, v, 7 * sizeof(v[0]));
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}

static void
sha256(const uint8_t *data, size_t n, uint8_t *out)
{
	uint32_t	h[8];
	uint8_t		last[128] = {0};
	size_t		rest = n % 64;
	size_t		end = rest < 56 ? 64 : 128;

	memcpy(h, start, sizeof(h));
	for (size_t at = 0; at + 64 <= n; at += 64)
		block(h, data + at);
	memcpy(last, data + n - rest, rest);
	last[rest] = 0x80;
	for (int i = 0; i < 8; i++)
		last[end - 1 - i] = (uint8_t) ((uint64_t) n * 8 >> (8 * i));
	for (size_t at = 0; at < end; at += 64)
		block(h, last + at);
	for (int i = 0; i < 32; i++)
		out[i] = (uint8_t) (h[i / 4] >> (24 - 8 * (i % 4)));
}

static bool
is_hex(const uint8_t *hash, const char *hex)
{
	char		text[65];

	for (int i = 0; i < 32; i++)
		sprintf(text + 2 * i, "%02x", hash[i]);
	return strcmp(text, hex) == 0;
}

static void
check_lanes(const uint8_t *data, size_t stride, size_t n, int count)
{
	uint8_t		got[GA_SHA256_LANES * 32 + 32];
	uint8_t		want[32];
	int			wrong = 0;

	memset(got, 0xAB, sizeof(got));
	if (!ga_sha256_lanes(data, stride, n, count, got))
	{
		ok(false, "lanes of %zu bytes", n);
		return;
	}
	for (int i = 0; i < count; i++)
	{
		sha256(data + i * stride, n, want);
		wrong += memcmp(want, got + 32 * i, 32) != 0;
	}
	for (size_t i = 32 * count; i < sizeof(got); i++)
		wrong += got[i] != 0xAB;
	ok(wrong == 0, "%d messages of %zu bytes, %zu apart, have their SHA-256", count, n, stride);
}

int
main(void)
{
	uint8_t    *data = malloc(GA_SHA256_LANES * LEAF + 1);
	uint8_t		hash[32];

	make_constants();
	sha256((const uint8_t *) "abc", 3, hash);
	ok(is_hex(hash, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "reference: abc");
	sha256((const uint8_t *) "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hash);
	ok(is_hex(hash, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"), "reference: two blocks");

	for (size_t i = 0; i < GA_SHA256_LANES * LEAF + 1; i++)
		data[i] = (uint8_t) (next_random() >> 24);
	ok(ga_sha256_lanes_force_isa("none"), "no kernel");
	memset(hash, 7, sizeof(hash));
	ok(!ga_sha256_lanes(data, 64, 64, 1, hash) && hash[0] == 7, "nothing is done without a kernel");
	ok(!ga_sha256_lanes_force_isa("sse9"), "an unknown kernel is refused");
	ga_sha256_lanes_init();
	if (ga_sha256_lanes_force_isa("avx512"))
	{
		for (int count = 1; count <= GA_SHA256_LANES; count++)
			check_lanes(data, 64, 64, count);
		check_lanes(data + 1, 192, 128, 16);
		check_lanes(data, 0, 0, 2);
		check_lanes(data, LEAF, LEAF, 16);
		check_lanes(data + 1, 4096, LEAF, 5);
	}
	free(data);
	return finish();
}
