/*
 * unit.h
 *		What the unit tests share: results in TAP, deterministic random numbers,
 *		and reference decoding of the 16-bit formats, by ldexp() and not by bits.
 */
#ifndef UNIT_H
#define UNIT_H

#include "math/distance.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

static int	tests = 0;
static int	failures = 0;

static inline void
result(bool good, const char *name)
{
	tests++;
	failures += !good;
	printf("%sok %d - %s\n", good ? "" : "not ", tests, name);
}

/* Prints the first few differences of a test; returns false, for use in "good &= differ(...)". */
static inline bool
differ(const char *format,...)
{
	static int	printed = 0;
	va_list		args;

	if (printed++ < 40)
	{
		printf("# ");
		va_start(args, format);
		vprintf(format, args);
		va_end(args);
		printf("\n");
	}
	return false;
}

static uint64_t random_state = 20240229;

static inline uint64_t
next_random(void)
{
	uint64_t	z = (random_state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static inline uint64_t
double_bits(double d)
{
	uint64_t	bits;

	memcpy(&bits, &d, sizeof(bits));
	return bits;
}

static inline double
double_of(uint64_t bits)
{
	double		d;

	memcpy(&d, &bits, sizeof(d));
	return d;
}

/* Prints the plan; returns the exit status. */
static inline int
finish(void)
{
	printf("1..%d\n", tests);
	return failures > 0;
}

/* Runs a test under every instruction set of this machine, each on the same random numbers. */
static inline void
for_each_isa(void (*test) (const char *isa))
{
	static const char *const isas[] = {"portable", "avx2", "avx_vnni", "avx512", "avx512_vnni"};

	for (size_t i = 0; i < LENGTH(isas); i++)
	{
		if (!ga_math_force_isa(isas[i]))
		{
			printf("# %s: not on this machine\n", isas[i]);
			continue;
		}
		random_state = 5000000029;
		test(isas[i]);
	}
}

/* A 16-bit float format; values[] holds its non-negative finite values and, after them, the next power of two. */
typedef struct Format
{
	const char *name;
	int			fraction_bits;
	uint16_t	infinity;
	double		values[0x8000];
	float		(*to_float) (uint16_t);
	uint16_t	(*from_float) (float);
	uint16_t	(*from_double) (double);
} Format;

static Format half __attribute__((unused)) = {"F16", 10, 0x7c00, {0}, ga_half_to_float, ga_float_to_half, ga_double_to_half};
static Format bfloat __attribute__((unused)) = {"BF16", 7, 0x7f80, {0}, ga_bfloat_to_float, ga_float_to_bfloat, ga_double_to_bfloat};

static inline void
fill_format(Format *format)
{
	int			bias = (1 << (14 - format->fraction_bits)) - 1;

	for (int code = 0; code <= format->infinity; code++)
	{
		int			exponent = code >> format->fraction_bits;
		int			fraction = code & ((1 << format->fraction_bits) - 1);

		if (exponent > 0)
			fraction += 1 << format->fraction_bits;
		else
			exponent = 1;
		format->values[code] = ldexp(fraction, exponent - bias - format->fraction_bits);
	}
}

static inline double
reference_widen(const Format *format, uint16_t code)
{
	double		value;

	if ((code & 0x7fff) > format->infinity)
		return NAN;
	value = (code & 0x7fff) == format->infinity ? HUGE_VAL : format->values[code & 0x7fff];
	return code & 0x8000 ? -value : value;
}

#endif							/* UNIT_H */
