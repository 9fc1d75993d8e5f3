/*
 * shuffle_impl.h
 *		What the kernels of the byte shuffle share. Private to src/math.
 */
#ifndef GA_SHUFFLE_IMPL_H
#define GA_SHUFFLE_IMPL_H

#include "shuffle.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define GA_X86_SHUFFLE 1

/* Elements that a kernel takes at a time. */
#define GA_SHUFFLE_STEP 32

/* The first `steps` * 32 of n elements of width 2 or 4. */
extern void ga_shuffle_avx2(const char *src, char *dst, size_t n, size_t steps, int width);
extern void ga_unshuffle_avx2(const char *src, char *dst, size_t n, size_t steps, int width);
#endif

#endif							/* GA_SHUFFLE_IMPL_H */
