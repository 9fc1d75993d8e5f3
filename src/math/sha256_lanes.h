/*
 * sha256_lanes.h
 *		SHA-256 of several messages of one length at once, a lane of a vector each.
 *
 * A single SHA-256 is one long chain of dependent steps, in which even a
 * processor with instructions for it mostly waits; 16 chains side by side do not.
 */
#ifndef GA_SHA256_LANES_H
#define GA_SHA256_LANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GA_SHA256_LANES 16

/*
 * SHA-256 of count (1 to 16) messages of nbytes each, a multiple of 64, the first at data, each one stride bytes after
 * the one before; 32 bytes of out for each. False, and nothing done, where the processor has no kernel for it.
 */
extern bool ga_sha256_lanes(const void *data, size_t stride, size_t nbytes, int count, uint8_t *out);

/* Whether there is a kernel, so that it is worth asking; for tests: "none" turns it off, "avx512" on where there is one. */
extern bool ga_sha256_lanes_force_isa(const char *isa);
extern void ga_sha256_lanes_init(void);

#endif							/* GA_SHA256_LANES_H */
