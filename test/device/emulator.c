/*
 * emulator.c
 *		Devices without a GPU, for tests: memory in memfds, operations on the CPU.
 *
 * The environment may ask for another number of devices (GA_EMULATED_DEVICES,
 * default 1, 0 for a machine without any), their memory in bytes
 * (GA_EMULATED_MEMORY, default 16 GiB), and for the time that a GPU takes to make
 * or free memory (GA_EMULATED_DELAY, microseconds, default 0) and for a pass over
 * records (GA_EMULATED_PASS, the same).
 */
#define _GNU_SOURCE
#include "backend.h"
#include "math/knn.h"
#include "sha256.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define GRANULARITY (UINT64_C(2) << 20)

typedef struct Emulated
{
	uint64_t	total;
	uint64_t	used;			/* atomic */
	bool		broken;			/* atomic */
} Emulated;

static Emulated devices[GA_MAX_DEVICES];
static const uint8_t *key;

static uint64_t
setting(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value == NULL ? otherwise : strtoull(value, NULL, 10);
}

int
ga_backend_start(char *error)
{
	uint64_t	n = setting("GA_EMULATED_DEVICES", 1);

	ga_fingerprint_init();
	for (int d = 0; d < GA_MAX_DEVICES; d++)
		devices[d].total = setting("GA_EMULATED_MEMORY", UINT64_C(16) << 30);
	if (n == 0)
		snprintf(error, GA_ERROR_LEN, "none is emulated");
	return n > GA_MAX_DEVICES ? GA_MAX_DEVICES : (int) n;
}

void
ga_backend_info(int device, GaDeviceInfo *info)
{
	snprintf(info->name, sizeof(info->name), "Emulated device %d", device);
	memset(info->uuid, 0xe0 + device, sizeof(info->uuid));
	info->compute_major = 0;
	info->compute_minor = 0;
	info->total_bytes = devices[device].total;
	info->context_bytes = 0;
}

uint64_t
ga_backend_granularity(int device)
{
	(void) device;
	return GRANULARITY;
}

bool
ga_backend_register(void *memory, size_t nbytes, char *error)
{
	(void) memory;
	(void) nbytes;
	(void) error;
	return true;
}

void
ga_backend_key(const uint8_t *k)
{
	key = k;
}

GaStatus
ga_backend_worker(GaWorker *worker)
{
	worker->state = NULL;
	return GA_STATUS_OK;
}

void *
ga_backend_staging(GaWorker *worker, size_t nbytes)
{
	free(worker->state);
	worker->state = malloc(nbytes);
	if (worker->state == NULL)
		snprintf(worker->error, sizeof(worker->error), "out of memory");
	return worker->state;
}

/* After a sticky error nothing works, as with CUDA. */
static GaStatus
alive(GaWorker *worker)
{
	if (!__atomic_load_n(&devices[worker->device].broken, __ATOMIC_SEQ_CST))
		return GA_STATUS_OK;
	worker->broken = true;
	snprintf(worker->error, sizeof(worker->error), "an illegal memory access was encountered (emulated)");
	return GA_STATUS_FAILED;
}

static GaStatus
map(GaWorker *worker, GaBlock *block)
{
	Emulated   *device = &devices[worker->device];
	uint64_t	used = __atomic_add_fetch(&device->used, block->size, __ATOMIC_SEQ_CST);
	void	   *address = MAP_FAILED;

	if (used <= device->total)
		address = mmap(NULL, block->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, block->fd, 0);
	if (address == MAP_FAILED)
	{
		__atomic_sub_fetch(&device->used, block->size, __ATOMIC_SEQ_CST);
		close(block->fd);
		snprintf(worker->error, sizeof(worker->error), "out of memory (emulated)");
		return GA_STATUS_BUDGET;
	}
	block->address = address;
	return GA_STATUS_OK;
}

GaStatus
ga_backend_create(GaWorker *worker, bool by_handle, GaBlock *block)
{
	GaStatus	status = alive(worker);

	if (status != GA_STATUS_OK)
		return status;
	usleep((useconds_t) setting("GA_EMULATED_DELAY", 0));
	block->fd = memfd_create("gpuagent-emulated", MFD_CLOEXEC);
	if (block->fd < 0 || ftruncate(block->fd, (off_t) block->size) != 0)
	{
		snprintf(worker->error, sizeof(worker->error), "memfd: %s", strerror(errno));
		if (block->fd >= 0)
			close(block->fd);
		return GA_STATUS_FAILED;
	}
	status = map(worker, block);
	if (status == GA_STATUS_OK && by_handle)
	{
		memset(block->handle, 0, sizeof(block->handle));
		snprintf((char *) block->handle, sizeof(block->handle), "emulated %p", (void *) block->address);
		close(block->fd);
		block->fd = -1;
	}
	return status;
}

GaStatus
ga_backend_import(GaWorker *worker, GaBlock *block)
{
	struct stat st;
	GaStatus	status = alive(worker);

	if (status == GA_STATUS_OK && (fstat(block->fd, &st) != 0 || (uint64_t) st.st_size != block->size))
	{
		snprintf(worker->error, sizeof(worker->error), "the descriptor is not of its memory");
		status = GA_STATUS_INVALID;
	}
	if (status == GA_STATUS_OK)
		return map(worker, block);
	close(block->fd);
	return status;
}

void
ga_backend_free(GaWorker *worker, GaBlock *block)
{
	usleep((useconds_t) setting("GA_EMULATED_DELAY", 0));
	munmap(block->address, block->size);
	if (block->fd >= 0)
		close(block->fd);
	__atomic_sub_fetch(&devices[worker->device].used, block->size, __ATOMIC_SEQ_CST);
}

GaStatus
ga_backend_upload(GaWorker *worker, char *to, const char *from, uint64_t nbytes)
{
	memcpy(to, from, nbytes);
	return alive(worker);
}

GaStatus
ga_backend_download(GaWorker *worker, char *to, const char *from, uint64_t nbytes)
{
	memcpy(to, from, nbytes);
	return alive(worker);
}

GaStatus
ga_backend_copy(GaWorker *worker, char *to, const char *from, uint64_t nbytes)
{
	memcpy(to, from, nbytes);
	return alive(worker);
}

static uint64_t
leaf_bytes(uint64_t nbytes, uint64_t leaf)
{
	return nbytes - leaf * GA_LEAF < GA_LEAF ? nbytes - leaf * GA_LEAF : GA_LEAF;
}

GaStatus
ga_backend_fingerprint(GaWorker *worker, const char *data, uint64_t nbytes, uint64_t first, uint64_t n, GaFingerprint *out)
{
	uint64_t	end = first + n;
	uint64_t	stop = end * GA_LEAF < nbytes ? end * GA_LEAF : nbytes;

	ga_fingerprint(key, data + first * GA_LEAF, stop - first * GA_LEAF, out);
	return alive(worker);
}

GaStatus
ga_backend_gather(GaWorker *worker, const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n, char *out)
{
	for (uint64_t i = 0; i < n; i++)
	{
		uint64_t	size = leaf_bytes(nbytes, leaves[i]);

		memcpy(out + i * GA_LEAF, data + (uint64_t) leaves[i] * GA_LEAF, size);
		memset(out + i * GA_LEAF + size, 0, GA_LEAF - size);
	}
	return alive(worker);
}

GaStatus
ga_backend_sha256(GaWorker *worker, const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n, uint8_t *out)
{
	for (uint64_t i = 0; i < n; i++)
		sha256(data + (uint64_t) leaves[i] * GA_LEAF, leaf_bytes(nbytes, leaves[i]), out + 32 * i);
	return alive(worker);
}

GaStatus
ga_backend_gather_rows(GaWorker *worker, const char *source, char *target, const uint64_t (*pairs)[2], uint64_t n,
					   uint64_t row_bytes)
{
	for (uint64_t i = 0; i < n; i++)
		memmove(target + pairs[i][1], source + pairs[i][0], row_bytes);
	return alive(worker);
}

/* One query over all rows by the kernels of the CPU; false when memory is short. */
static bool
nearest(const GaKnnPass *pass, int i)
{
	const GaKnnDeviceQuery *query = &pass->queries[i];
	GaKnnPair  *pairs = malloc(query->limit * sizeof(*pairs));
	GaKnnPair	after = {query->after_bound, query->after_tid, 0};
	GaKnnTop	top;

	if (pairs == NULL)
		return false;
	ga_knn_top_init(&top, pairs, query->limit, query->has_after ? &after : NULL);
	for (uint64_t r = 0; r < query->rows; r++)
	{
		const GaKnnRow *row = (const GaKnnRow *) (pass->records + r * pass->stride);
		uint16_t	tid[3];
		double		bound;

		memcpy(tid, row->tid, sizeof(tid));
		ga_knn_bounds((const GaKnnQuery *) query->prepared, row, pass->stride, 1, -HUGE_VAL, &bound, NULL);
		if ((row->flags & GA_KNN_INDEX_FLAGS) == 0)
			ga_knn_top_push(&top, bound, (uint64_t) tid[0] << 32 | (uint64_t) tid[1] << 16 | tid[2], false);
	}
	ga_knn_top_sort(&top, top.count, SIZE_MAX);
	for (size_t k = 0; k < top.count; k++)
		pass->pairs[i][k] = (GaKnnDevicePair) {pairs[k].bound, pairs[k].row};
	pass->counts[i] = top.count;
	free(pairs);
	return true;
}

GaStatus
ga_backend_knn(GaWorker *worker, const GaKnnPass *pass)
{
	usleep((useconds_t) setting("GA_EMULATED_PASS", 0));
	for (int i = 0; i < pass->nqueries; i++)
		if (!nearest(pass, i))
		{
			snprintf(worker->error, sizeof(worker->error), "out of memory");
			return GA_STATUS_FAILED;
		}
	return alive(worker);
}

GaStatus
ga_backend_fault(GaWorker *worker, GaFault fault)
{
	if (fault == GA_FAULT_HANG)
		for (;;)
			pause();
	__atomic_store_n(&devices[worker->device].broken, true, __ATOMIC_SEQ_CST);
	return alive(worker);
}
