/*
 * fingerprint_impl.h
 *		What the fingerprint kernels share. Private to src/math.
 */
#ifndef GA_FINGERPRINT_IMPL_H
#define GA_FINGERPRINT_IMPL_H

#include "fingerprint.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define GA_X86_FINGERPRINT 1
#endif

/*
 * Adds the products of whole steps of GA_FINGERPRINT_STEP bytes to sum[0] and
 * sum[1]; the key begins at that of the first byte.
 */
typedef void (*GaFingerprintKernel) (const uint8_t *key, const uint8_t *data, size_t steps, uint64_t *sum);

#define GA_FINGERPRINT_STEP 128

#ifdef GA_X86_FINGERPRINT
extern void ga_fingerprint_avx2(const uint8_t *key, const uint8_t *data, size_t steps, uint64_t *sum);
extern void ga_fingerprint_avx512(const uint8_t *key, const uint8_t *data, size_t steps, uint64_t *sum);
#endif

#endif							/* GA_FINGERPRINT_IMPL_H */
