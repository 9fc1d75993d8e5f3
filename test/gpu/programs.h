/*
 * programs.h
 *		What the programs over the functions of cuda/backend.h share: a worker,
 *		memory, time.
 */
#ifndef PROGRAMS_H
#define PROGRAMS_H

#include "backend.h"

#include "../unit/unit.h"

#include <sys/mman.h>
#include <time.h>

static GaWorker worker;

static inline double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static inline bool
good(GaStatus status)
{
	return status == GA_STATUS_OK || differ("status %d: %s", status, worker.error);
}

static inline void *
host_memory(size_t n)
{
	char		error[GA_ERROR_LEN];
	void	   *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || !ga_backend_register(p, n, error))
	{
		printf("Bail out! %zu bytes of host memory\n", n);
		exit(1);
	}
	return p;
}

static inline void
fill(uint8_t *p, size_t n)
{
	for (size_t i = 0; i + 8 <= n; i += 8)
	{
		uint64_t	r = next_random();

		memcpy(p + i, &r, 8);
	}
}

static inline GaBlock
block_of(uint64_t nbytes)
{
	uint64_t	unit = ga_backend_granularity(worker.device);
	GaBlock		block = {.size = (nbytes + unit - 1) / unit * unit, .fd = -1};

	if (!good(ga_backend_create(&worker, false, &block)))
	{
		printf("Bail out! no memory\n");
		exit(1);
	}
	return block;
}

/* Starts the backend, or ends the program; returns the key of fingerprints. */
static inline uint8_t *
start_backend(void)
{
	char		error[GA_ERROR_LEN] = "";
	uint8_t    *key;

	if (ga_backend_start(error) < 1)
	{
		printf("Bail out! no device: %s\n", error);
		exit(1);
	}
	key = host_memory((GA_FINGERPRINT_KEY_BYTES + GA_PAGE - 1) / GA_PAGE * GA_PAGE);
	fill(key, GA_FINGERPRINT_KEY_BYTES);
	ga_backend_key(key);
	result(good(ga_backend_worker(&worker)), "a worker");
	return key;
}

/* ----- speed ----- */

static double started;
static double best;

/* for (BEST_OF(n)) { work } */
#define BEST_OF(n) int run_ = (best = 1e9, 0); run_ < (n) && (started = now()) > 0; best = now() - started < best ? now() - started : best, run_++

static inline void
say(const char *what, double nbytes)
{
	printf("# %-44s %9.3f ms %9.1f GB/s\n", what, best * 1e3, nbytes / best / 1e9);
}

#endif							/* PROGRAMS_H */
