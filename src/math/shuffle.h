/*
 * shuffle.h
 *		The byte shuffle of the codec (doc/formats.md): byte k of element i goes to
 *		k * n + i, so that a plane holds the same byte of all elements. Every
 *		kernel gives the same bytes.
 */
#ifndef GA_SHUFFLE_H
#define GA_SHUFFLE_H

#include <stdbool.h>
#include <stddef.h>

/* Chooses the fastest kernel of this machine; the portable one before. */
extern void ga_shuffle_init(void);

/* For tests: "portable" or "avx2"; false when this machine lacks it. */
extern bool ga_shuffle_force_isa(const char *isa);

/* n elements of `width` bytes, 1 or more. src and dst do not overlap. */
extern void ga_shuffle(const char *src, char *dst, size_t n, int width);
extern void ga_unshuffle(const char *src, char *dst, size_t n, int width);

/* XOR of n bytes; dst may be a. */
extern void ga_xor(char *dst, const char *a, const char *b, size_t n);

#endif							/* GA_SHUFFLE_H */
