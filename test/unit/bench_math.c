/*
 * bench_math.c
 *		Speed of the distance kernels: one query of 768 elements against rows
 *		that fit the first-level cache, and against rows that do not fit any.
 *		Speed of fingerprints, beside that of a sum and of memcpy over the same bytes.
 */
#include "math/distance.h"
#include "math/fingerprint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DIMENSIONS 768

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

/* Prints GB/s of row bytes and ns for a row; the best of five runs. */
static void
measure(const char *isa, GaMetric metric, int dtype, const char *rows, size_t count, const char *place)
{
	static const char *const names[] = {"L2", "IP", "COSINE", "L1"};
	size_t		size = DIMENSIONS * (size_t) ga_dtype_info(dtype)->width;
	size_t		repeats = 100000 / count + 1;
	double		best = 1e9;
	volatile double sink = 0;

	for (int run = 0; run < 5; run++)
	{
		double		start = now();

		for (size_t r = 0; r < repeats; r++)
			for (size_t i = 0; i < count; i++)
				sink += ga_distance(metric, dtype, rows, dtype, rows + i * size, DIMENSIONS);
		start = (now() - start) / (double) (repeats * count);
		best = start < best ? start : best;
	}
	printf("%-8s %-6s %-4s %-6s %8.1f ns %8.2f GB/s\n", isa, names[metric], ga_dtype_info(dtype)->name, place,
		   best * 1e9, (double) size / best / 1e9);
}

static uint64_t
sum_words(const char *data, size_t size)
{
	uint64_t	sum[8] = {0};

	for (size_t at = 0; at < size; at += sizeof(sum))
		for (int i = 0; i < 8; i++)
		{
			uint64_t	word;

			memcpy(&word, data + at + 8 * i, sizeof(word));
			sum[i] += word;
		}
	return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static double
fastest(double best, double start)
{
	double		seconds = now() - start;

	return seconds < best ? seconds : best;
}

/* GB/s over `size` bytes, the best of five runs. */
static void
measure_fingerprints(const char *data, size_t size, const char *place)
{
	static const char *const isas[] = {"portable", "avx2", "avx512"};
	static uint8_t key[GA_FINGERPRINT_KEY_BYTES];
	size_t		repeats = ((size_t) 256 << 20) / size;
	GaFingerprint *out = malloc((size / GA_FINGERPRINT_LEAF + 1) * sizeof(*out));
	char	   *copy = malloc(size);
	volatile uint64_t sink = 0;
	double		best_sum = 1e9;
	double		best_copy = 1e9;

	if (out == NULL || copy == NULL)
		exit(1);
	memset(key, 0x5a, sizeof(key));
	memset(copy, 1, size);
	for (int run = 0; run < 5; run++)
	{
		double		start = now();

		for (size_t r = 0; r < repeats; r++)
			sink += sum_words(data, size);
		best_sum = fastest(best_sum, start);
		start = now();
		for (size_t r = 0; r < repeats; r++)
		{
			memcpy(copy, data, size);
			sink += (uint64_t) copy[r % size];
		}
		best_copy = fastest(best_copy, start);
	}
	printf("%-8s %-11s %-6s %8.2f GB/s\n", "", "sum", place, (double) (size * repeats) / best_sum / 1e9);
	printf("%-8s %-11s %-6s %8.2f GB/s\n", "", "memcpy", place, (double) (size * repeats) / best_copy / 1e9);
	for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++)
	{
		double		best = 1e9;

		if (!ga_fingerprint_force_isa(isas[i]))
			continue;
		for (int run = 0; run < 5; run++)
		{
			double		start = now();

			for (size_t r = 0; r < repeats; r++)
				ga_fingerprint(key, data, size, out);
			sink += out[0].word[0];
			best = fastest(best, start);
		}
		printf("%-8s %-11s %-6s %8.2f GB/s\n", isas[i], "fingerprint", place, (double) (size * repeats) / best / 1e9);
	}
	free(out);
	free(copy);
}

int
main(void)
{
	static const char *const isas[] = {"portable", "avx2", "avx512"};
	static const int dtypes[] = {GA_F32, GA_F16, GA_BF16, GA_F64};
	size_t		size = (size_t) 64 << 20;
	char	   *rows = malloc(size);

	if (rows == NULL)
		return 1;

	/* Bytes 0x3c read as a small positive number in every dtype. */
	memset(rows, 0x3c, size);
	measure_fingerprints(rows, (size_t) 256 << 10, "cache");
	measure_fingerprints(rows, size, "memory");
	for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++)
	{
		if (!ga_math_force_isa(isas[i]))
			continue;
		for (size_t d = 0; d < sizeof(dtypes) / sizeof(dtypes[0]); d++)
			measure(isas[i], GA_METRIC_L2, dtypes[d], rows, 4, "cache");
		measure(isas[i], GA_METRIC_COSINE, GA_F32, rows, 4, "cache");
		measure(isas[i], GA_METRIC_COSINE, GA_F16, rows, 4, "cache");
		measure(isas[i], GA_METRIC_L2, GA_F32, rows, size / (4 * DIMENSIONS), "memory");
		measure(isas[i], GA_METRIC_L2, GA_F16, rows, size / (2 * DIMENSIONS), "memory");
	}
	free(rows);
	return 0;
}
