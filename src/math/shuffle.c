/*
 * shuffle.c
 *		Choice of kernels, the portable one, and what is left over by the others.
 */
#include "shuffle_impl.h"

#include <string.h>

/* Elements [first, n). */
static void
shuffle_rest(const char *restrict src, char *restrict dst, size_t first, size_t n, int width)
{
	if (width == 4)
	{
		for (size_t i = first; i < n; i++)
		{
			dst[i] = src[4 * i];
			dst[n + i] = src[4 * i + 1];
			dst[2 * n + i] = src[4 * i + 2];
			dst[3 * n + i] = src[4 * i + 3];
		}
	}
	else if (width == 2)
	{
		for (size_t i = first; i < n; i++)
		{
			dst[i] = src[2 * i];
			dst[n + i] = src[2 * i + 1];
		}
	}
	else
	{
		for (int k = 0; k < width; k++)
			for (size_t i = first; i < n; i++)
				dst[k * n + i] = src[i * width + k];
	}
}

static void
unshuffle_rest(const char *restrict src, char *restrict dst, size_t first, size_t n, int width)
{
	if (width == 4)
	{
		for (size_t i = first; i < n; i++)
		{
			dst[4 * i] = src[i];
			dst[4 * i + 1] = src[n + i];
			dst[4 * i + 2] = src[2 * n + i];
			dst[4 * i + 3] = src[3 * n + i];
		}
	}
	else if (width == 2)
	{
		for (size_t i = first; i < n; i++)
		{
			dst[2 * i] = src[i];
			dst[2 * i + 1] = src[n + i];
		}
	}
	else
	{
		for (int k = 0; k < width; k++)
			for (size_t i = first; i < n; i++)
				dst[i * width + k] = src[k * n + i];
	}
}

static bool use_avx2;

void
ga_shuffle(const char *src, char *dst, size_t n, int width)
{
	size_t		done = 0;

	if (width == 1)
	{
		memcpy(dst, src, n);
		return;
	}
#ifdef GA_X86_SHUFFLE
	if (use_avx2 && (width == 2 || width == 4))
	{
		ga_shuffle_avx2(src, dst, n, n / GA_SHUFFLE_STEP, width);
		done = n / GA_SHUFFLE_STEP * GA_SHUFFLE_STEP;
	}
#endif
	shuffle_rest(src, dst, done, n, width);
}

void
ga_unshuffle(const char *src, char *dst, size_t n, int width)
{
	size_t		done = 0;

	if (width == 1)
	{
		memcpy(dst, src, n);
		return;
	}
#ifdef GA_X86_SHUFFLE
	if (use_avx2 && (width == 2 || width == 4))
	{
		ga_unshuffle_avx2(src, dst, n, n / GA_SHUFFLE_STEP, width);
		done = n / GA_SHUFFLE_STEP * GA_SHUFFLE_STEP;
	}
#endif
	unshuffle_rest(src, dst, done, n, width);
}

void
ga_xor(char *dst, const char *a, const char *b, size_t n)
{
	size_t		i = 0;

	for (; i + 8 <= n; i += 8)
	{
		unsigned long long x,
					y;

		memcpy(&x, a + i, 8);
		memcpy(&y, b + i, 8);
		x ^= y;
		memcpy(dst + i, &x, 8);
	}
	for (; i < n; i++)
		dst[i] = a[i] ^ b[i];
}

bool
ga_shuffle_force_isa(const char *isa)
{
	if (strcmp(isa, "portable") == 0)
	{
		use_avx2 = false;
		return true;
	}
#ifdef GA_X86_SHUFFLE
	if (strcmp(isa, "avx2") == 0 && __builtin_cpu_supports("avx2"))
	{
		use_avx2 = true;
		return true;
	}
#endif
	return false;
}

void
ga_shuffle_init(void)
{
	if (!ga_shuffle_force_isa("avx2"))
		(void) ga_shuffle_force_isa("portable");
}
