/*
 * knn_store.h
 *		The body of what encodes rows, included once by each instruction set.
 *
 * The including file defines
 *		TARGET			the function attribute that enables the instructions
 *		DOUBLES			elements in a Wide: a divisor of GA_LANES
 *		Wide			DOUBLES doubles
 *		wide_set, wide_load, wide_save, wide_add, wide_sub, wide_mul, wide_abs, wide_max
 *		wide_to_half	rounds x to F32, multiplies by an F32, rounds to F16, writes that, and returns it as F64
 *		wide_to_byte	writes whole numbers of -127 .. 127
 *
 * Element j is summed in lane j % GA_LANES, by the same operations everywhere:
 * a row has the same bytes on every machine.
 */

/* The largest magnitude of n elements, a multiple of GA_LANES, none of them NaN. */
static TARGET double
largest(const double *x, size_t n)
{
	double		lane[DOUBLES];
	Wide		max = wide_set(0);
	double		result = 0;

	for (size_t i = 0; i < n; i += DOUBLES)
		max = wide_max(max, wide_abs(wide_load(x + i)));
	wide_save(lane, max);
	for (int i = 0; i < DOUBLES; i++)
		result = lane[i] > result ? lane[i] : result;
	return result;
}

static GA_FORCE_INLINE TARGET void
add_lost(GaKnnLost *lost, size_t lane, Wide original, Wide stored)
{
	Wide		rest = wide_sub(original, stored);

	wide_save(lost->squares + lane, wide_add(wide_load(lost->squares + lane), wide_mul(rest, rest)));
	wide_save(lost->sum + lane, wide_add(wide_load(lost->sum + lane), wide_abs(rest)));
	wide_save(lost->stored + lane, wide_add(wide_load(lost->stored + lane), wide_mul(stored, stored)));
}

/* n is a multiple of GA_LANES. */
static TARGET void
store_half(const double *x, size_t n, const GaKnnScale *scale, void *out, GaKnnLost *lost)
{
	Wide		factor = wide_set(scale->factor);
	Wide		unit = wide_set(scale->unit);

	for (size_t i = 0; i < n; i += DOUBLES)
	{
		Wide		original = wide_mul(wide_load(x + i), factor);
		Wide		stored = wide_mul(wide_to_half(original, (float) scale->up, (uint16_t *) out + i), unit);

		add_lost(lost, i % GA_LANES, original, stored);
	}
}

/* Adding and taking away 1.5 * 2^52 rounds a smaller number to the nearest whole one. */
static TARGET void
store_bytes(const double *x, size_t n, const GaKnnScale *scale, void *out, GaKnnLost *lost)
{
	Wide		factor = wide_set(scale->factor);
	Wide		unit = wide_set(scale->unit);
	Wide		up = wide_set(scale->up);
	Wide		whole = wide_set(0x1.8p52);

	for (size_t i = 0; i < n; i += DOUBLES)
	{
		Wide		original = wide_mul(wide_load(x + i), factor);
		Wide		code = wide_sub(wide_add(wide_mul(original, up), whole), whole);

		wide_to_byte(code, (int8_t *) out + i);
		add_lost(lost, i % GA_LANES, original, wide_mul(code, unit));
	}
}
