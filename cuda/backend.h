/*
 * backend.h
 *		What the server of gpuagent_device asks of the hardware. device.cu,
 *		memory.cu and leaves.cu answer it with CUDA; test/device/emulator.c with
 *		the CPU, so that the server is tested on machines without a GPU.
 *
 * The server has checked all bounds before it calls. A function that returns a
 * status other than OK leaves a message in worker->error; it sets
 * worker->broken when nothing will work any more in this process.
 */
#ifndef GA_BACKEND_H
#define GA_BACKEND_H

#include "device/protocol.h"
#include "math/fingerprint.h"
#include "math/knn_device.h"

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A thread that works on one device. */
typedef struct GaWorker
{
	int			device;
	bool		broken;
	char		error[GA_ERROR_LEN];
	void	   *state;			/* the backend's: a stream, scratch memory */
	uint64_t	started_ns;		/* atomic, the server's: start of the running request, 0 when idle */
} GaWorker;

/* Memory of a region. */
typedef struct GaBlock
{
	char	   *address;		/* in the device's address space */
	uint64_t	size;
	int			fd;				/* that exports it, -1: by handle */
	uint8_t		handle[64];
} GaBlock;

/* Number of devices, with a context each; 0 and a reason when there are none. */
extern int	ga_backend_start(char *error);

/* Fills name, uuid, capability, total and context bytes. */
extern void ga_backend_info(int device, GaDeviceInfo *info);

/* Sizes of blocks are multiples of this. */
extern uint64_t ga_backend_granularity(int device);

/* Makes transfers to and from this memory fast; false with a reason when it cannot (they work all the same). */
extern bool ga_backend_register(void *memory, size_t nbytes, char *error);

/* The key of all fingerprints; GA_FINGERPRINT_KEY_BYTES that stay where they are. */
extern void ga_backend_key(const uint8_t *key);

/* In the thread itself, before anything else. */
extern GaStatus ga_backend_worker(GaWorker *worker);

/* Host memory for lists, valid until the worker asks again; NULL with an error. */
extern void *ga_backend_staging(GaWorker *worker, size_t nbytes);

/* Zeroed memory of block->size bytes, exported by handle or by fd; BUDGET when the device has too little. */
extern GaStatus ga_backend_create(GaWorker *worker, bool by_handle, GaBlock *block);

/* Memory that block->fd exports, of block->size bytes. */
extern GaStatus ga_backend_import(GaWorker *worker, GaBlock *block);

/* Unmaps and closes it, the fd too. Clients that mapped it keep theirs. */
extern void ga_backend_free(GaWorker *worker, GaBlock *block);

/* Each is complete when it returns. */
extern GaStatus ga_backend_upload(GaWorker *worker, char *to, const char *from, uint64_t nbytes);
extern GaStatus ga_backend_download(GaWorker *worker, char *to, const char *from, uint64_t nbytes);
extern GaStatus ga_backend_copy(GaWorker *worker, char *to, const char *from, uint64_t nbytes);

/* Fingerprints of leaves first .. first + n - 1 of the leaves of `nbytes` bytes. */
extern GaStatus ga_backend_fingerprint(GaWorker *worker, const char *data, uint64_t nbytes, uint64_t first, uint64_t n,
									   GaFingerprint *out);

/* Listed leaves, below the number of leaves of `nbytes` bytes; the list is in staging memory. */
extern GaStatus ga_backend_gather(GaWorker *worker, const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n,
								  char *out);
extern GaStatus ga_backend_sha256(GaWorker *worker, const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n,
								  uint8_t *out);

/* Pairs of offsets in source and target, in staging memory. */
extern GaStatus ga_backend_gather_rows(GaWorker *worker, const char *source, char *target, const uint64_t (*pairs)[2],
									   uint64_t n, uint64_t row_bytes);

/*
 * One pass over records, all of one storage, metric and dimension, for queries
 * whose `rows` and `limit` may differ. `counts` and `pairs` get what each finds,
 * ascending; pairs[i] has room for its limit.
 */
typedef struct GaKnnPass
{
	const char *records;
	uint32_t	stride;			/* a multiple of 16 */
	int			nqueries;
	const GaKnnDeviceQuery *queries;
	uint64_t   *counts;
	GaKnnDevicePair **pairs;
} GaKnnPass;

extern GaStatus ga_backend_knn(GaWorker *worker, const GaKnnPass *pass);

/* GA_FAULT_STICKY or GA_FAULT_HANG. */
extern GaStatus ga_backend_fault(GaWorker *worker, GaFault fault);

#ifdef __cplusplus
}
#endif

#endif							/* GA_BACKEND_H */
