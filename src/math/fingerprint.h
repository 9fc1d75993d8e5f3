/*
 * fingerprint.h
 *		A keyed 128-bit fingerprint of a leaf (64 KiB, the last of a tensor may be
 *		shorter), to find out at memory speed which leaves changed. It never leaves
 *		the node and is not an identity: identities are SHA-256 (store/store.h).
 *
 * NH of UMAC (RFC 4418, section 5.2.2) with two keys, the second shifted by 16
 * bytes (Toeplitz). With m[] the leaf and k[] the key as little-endian uint32,
 * the leaf padded with zeros to a multiple of 32 bytes:
 *
 *		out[t] = n + sum over i = 0, 8, 16, .. and j = 0..3 of
 *				 (uint64) (m[i+j] + k[4t+i+j]) * (uint64) (m[i+j+4] + k[4t+i+j+4])		mod 2^64, t = 0, 1
 *
 * inner additions mod 2^32; n = bytes of the leaf * 0x9E3779B97F4A7C15. With a
 * random key two different leaves of one length agree with probability 2^-64.
 * CPU kernels and the CUDA kernel give the same bits.
 */
#ifndef GA_FINGERPRINT_H
#define GA_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GA_FINGERPRINT_LEAF 65536
#define GA_FINGERPRINT_KEY_BYTES (GA_FINGERPRINT_LEAF + 32)

typedef struct GaFingerprint
{
	uint64_t	word[2];
} GaFingerprint;

/* Chooses the fastest kernel of this machine; the portable one before. */
extern void ga_fingerprint_init(void);

/* For tests: "portable", "avx2" or "avx512"; false when this machine lacks it. */
extern bool ga_fingerprint_force_isa(const char *isa);

/* Fingerprints of consecutive leaves of data; the last may be short. out takes one per leaf. key: GA_FINGERPRINT_KEY_BYTES. */
extern void ga_fingerprint(const uint8_t *key, const void *data, size_t nbytes, GaFingerprint *out);

/* The definition above, word by word; tests compare kernels with it. */
extern void ga_fingerprint_portable(const uint8_t *key, const void *data, size_t nbytes, GaFingerprint *out);

#ifdef __cplusplus
}
#endif

#endif							/* GA_FINGERPRINT_H */
