/*
 * fuzz.h
 *		What a fuzz target is. The same target runs under libFuzzer (make fuzz) and,
 *		with mutations that depend on nothing but a seed, in every test run (driver.c).
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct FuzzSeed
{
	const void *data;
	size_t		size;
} FuzzSeed;

#define SEED(text) {(text), sizeof(text) - 1}

/* ---- of a target ---- */

extern const char fuzz_name[];
extern const FuzzSeed fuzz_seeds[];		/* valid inputs, ended by one of NULL */
extern const FuzzSeed fuzz_tokens[];	/* what mutations put in, likewise */

/* True when the input was accepted, which then must hold what the target checks (FUZZ_CHECK). */
extern bool fuzz_run(const uint8_t *data, size_t size);

/* ---- for targets ---- */

#define FUZZ_CHECK(condition) \
	do { if (!(condition)) fuzz_failed(__FILE__, __LINE__, #condition); } while (0)

extern void fuzz_failed(const char *file, int line, const char *condition) __attribute__((noreturn));

/* Memory that goes at the end of the run; as realloc(). */
extern void *fuzz_allocate(void *pointer, size_t size);
extern void fuzz_free(void *pointer);
extern void fuzz_free_all(void);

#endif							/* FUZZ_H */
