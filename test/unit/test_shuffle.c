/*
 * test_shuffle.c
 *		Every kernel of the byte shuffle against the formula of shuffle.h, and XOR.
 */
#include "unit.h"

#include "math/shuffle.h"

#define ROOM 20000
#define GUARD 64

static char src[ROOM + 2 * GUARD];
static char dst[ROOM + 2 * GUARD];
static char back[ROOM + 2 * GUARD];

static void
fill(char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (char) (next_random() >> 24);
}

static bool
untouched(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != 77)
			return false;
	return true;
}

/* One size at one alignment: the formula, the way back, and nothing beside it. */
static bool
check(size_t n, int width, size_t offset)
{
	size_t		bytes = n * (size_t) width;
	char	   *from = src + GUARD + offset;
	char	   *to = dst + GUARD + offset / 2;
	char	   *again = back + GUARD + offset / 3;

	fill(from, bytes);
	memset(dst, 77, sizeof(dst));
	memset(back, 77, sizeof(back));
	ga_shuffle(from, to, n, width);
	for (size_t i = 0; i < n; i++)
		for (int k = 0; k < width; k++)
			if (to[(size_t) k * n + i] != from[i * (size_t) width + (size_t) k])
				return false;
	ga_unshuffle(to, again, n, width);
	return memcmp(again, from, bytes) == 0 && untouched(dst, (size_t) (to - dst)) && untouched(back, (size_t) (again - back)) &&
		untouched(to + bytes, GUARD / 2) && untouched(again + bytes, GUARD / 2);
}

static bool
check_all(int width)
{
	for (size_t n = 0; n < 200; n++)
		for (size_t offset = 0; offset < 4; offset++)
			if (!check(n, width, offset))
				return false;
	return check(ROOM / 16 - 1, width, 1);
}

static bool
check_xor(void)
{
	for (size_t n = 0; n < 100; n++)
	{
		fill(src, n);
		fill(dst, n);
		memcpy(back, dst, n);
		ga_xor(back, back, src, n);
		for (size_t i = 0; i < n; i++)
			if (back[i] != (char) (dst[i] ^ src[i]))
				return false;
	}
	return true;
}

int
main(void)
{
	static const char *const isas[] = {"portable", "avx2"};
	static const int widths[] = {1, 2, 3, 4, 8, 16};

	for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++)
	{
		if (!ga_shuffle_force_isa(isas[i]))
			continue;
		for (size_t w = 0; w < sizeof(widths) / sizeof(widths[0]); w++)
		{
			char		name[64];

			snprintf(name, sizeof(name), "%s, elements of %d bytes", isas[i], widths[w]);
			result(check_all(widths[w]), name);
		}
	}
	result(check_xor(), "xor");
	return finish();
}
