/*
 * distance_impl.h
 *		What the kernel files share. Private to src/math.
 */
#ifndef GA_DISTANCE_IMPL_H
#define GA_DISTANCE_IMPL_H

#include "distance.h"

#include <float.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "src/math must not be compiled with -ffast-math: results would differ between machines"
#endif
#if FLT_EVAL_METHOD != 0
#error "src/math needs float and double arithmetic without excess precision"
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define GA_X86_KERNELS 1
#endif

/* Compilers of 2020 and before have AVX-512's VNNI, but not AVX's. */
#if defined(GA_X86_KERNELS) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define GA_AVX_VNNI 1
#endif

#define GA_LANES 16

#define GA_FORCE_INLINE inline __attribute__((always_inline))

/*
 * Hides from the compiler that a value is a product, so that no setting of
 * -ffp-contract joins it with the following sum. Other machines rely on the
 * -ffp-contract=off that src/math is compiled with.
 */
#if defined(__x86_64__) && defined(__GNUC__)
#define GA_ROUNDED(x) __asm__("" : "+v"(x))
#elif defined(__aarch64__) && defined(__GNUC__)
#define GA_ROUNDED(x) __asm__("" : "+w"(x))
#else
#define GA_ROUNDED(x) ((void) 0)
#endif

/*
 * Writes the canonical sums of n elements. L2: squared differences; L1:
 * absolute differences; IP: products; COSINE: products, squares of a, squares
 * of b. Infinite and NaN sums are left as the arithmetic gives them.
 */
typedef void (*GaKernel) (const void *a, const void *b, size_t n, double *sums);

/* [metric][dtype_a - 1][dtype_b - 1]; only the half where dtype_a <= dtype_b is filled. */
typedef GaKernel GaKernelTable[4][4][4];

#ifdef GA_X86_KERNELS
extern const GaKernelTable ga_kernels_avx2;
extern const GaKernelTable ga_kernels_avx512;
#endif

/* Whether ga_widen_* use the F16C instructions; off until ga_math_init(). Same bits either way. */
extern void ga_widen_use_f16c(bool on);

/* Exact; a NaN keeps its payload and becomes quiet, as VCVTPH2PS does it. */
static GA_FORCE_INLINE float
ga_widen_half(uint16_t h)
{
	uint32_t	bits = (uint32_t) (h & 0x7fff) << 13;
	float		f;

	/* The exponent bias differs by 112; the product is exact, also from a denormal. */
	memcpy(&f, &bits, sizeof(f));
	f *= 0x1p112f;
	memcpy(&bits, &f, sizeof(f));

	bits |= (h & 0x7fff) >= 0x7c00 ? 0x7f800000 : 0;
	bits |= (h & 0x7fff) > 0x7c00 ? 0x00400000 : 0;
	bits |= (uint32_t) (h & 0x8000) << 16;
	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* Exact, bit for bit. */
static GA_FORCE_INLINE float
ga_widen_bfloat(uint16_t b)
{
	uint32_t	bits = (uint32_t) b << 16;
	float		f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

#define GA_EACH_PAIR(X, metric) \
	X(metric, F32, F32) X(metric, F32, F16) X(metric, F32, BF16) X(metric, F32, F64) \
	X(metric, F16, F16) X(metric, F16, BF16) X(metric, F16, F64) \
	X(metric, BF16, BF16) X(metric, BF16, F64) \
	X(metric, F64, F64)

#define GA_EACH_KERNEL(X) GA_EACH_PAIR(X, L2) GA_EACH_PAIR(X, IP) GA_EACH_PAIR(X, COSINE) GA_EACH_PAIR(X, L1)

#endif							/* GA_DISTANCE_IMPL_H */
