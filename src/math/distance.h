/*
 * distance.h
 *		Distances with one canonical summation. Plain C: nothing here knows of
 *		PostgreSQL.
 *
 * Every kernel (AVX-512, AVX2, portable, and later the CUDA re-rank) returns
 * the same bits, or indexes, standbys, shards and peers would disagree:
 *   - F16 and BF16 widen to F32 (exact); two such operands give an F32
 *     difference, rounded once;
 *   - products and sums are formed in F64; the product of two F32 is exact
 *     there, so contraction to FMA cannot change it;
 *   - when an operand is F64, both widen to F64 and nothing is contracted;
 *   - element j goes to lane j % 16; the lanes, which start at +0, are then
 *     added as a tree: 16 -> 8 (i and i + 8) -> 4 -> 2 -> 1.
 *
 * Values beyond the finite ones, the same for every kernel:
 *   - an F32 difference that overflows is infinite, and so is the distance;
 *   - a NaN element, infinity - infinity and 0 * infinity give NaN; every NaN
 *     returned is the positive quiet one without payload;
 *   - cosine is NaN unless both sums of squares are finite and above zero (sums
 *     of F64 squares may overflow or underflow, others cannot);
 *   - no element at all: cosine is NaN, the others are 0; no result is -0;
 *   - denormals count in full: the caller leaves flush-to-zero off and rounding
 *     at nearest.
 * |a| |b| is sqrt(aa * bb), the sums of squares multiplied first, so that a
 * vector is at exactly 0 from itself; where aa * bb leaves the normal range of
 * F64 it is sqrt(aa) * sqrt(bb).
 */
#ifndef GA_DISTANCE_H
#define GA_DISTANCE_H

#include "dtype.h"

typedef enum GaMetric
{
	GA_METRIC_L2,		/* sqrt of the sum of squared differences */
	GA_METRIC_IP,		/* inner product (the operator <#> negates it) */
	GA_METRIC_COSINE,	/* 1 - a.b / (|a| |b|), clamped to [0, 2]; NaN when a norm is zero or infinite */
	GA_METRIC_L1		/* sum of absolute differences */
} GaMetric;

/* Picks kernels by what the CPU has. Called once at load; thread-safe afterwards. */
extern void ga_math_init(void);

/* "avx512_vnni", "avx512", "avx_vnni", "avx2" or "portable". VNNI is for int8 rows of neighbour indexes. */
extern const char *ga_math_isa(void);

/* For tests: use one instruction set; false when the CPU or the build lacks it. */
extern bool ga_math_force_isa(const char *isa);

/*
 * Distance of two vectors of n elements each; dtypes among F64 F32 F16 BF16, in
 * any combination (others give NaN). a and b are aligned to their element width.
 * Symmetric in all bits.
 */
extern double ga_distance(GaMetric metric, int dtype_a, const void *a, int dtype_b, const void *b, size_t n);

/* Canonical sum of squares of one vector. */
extern double ga_sum_squares(int dtype, const void *a, size_t n);

/* True when an element of a float dtype is NaN or infinite. */
extern bool ga_has_nonfinite(int dtype, const void *a, size_t n);

#endif							/* GA_DISTANCE_H */
