/*
 * device.cu
 *		Devices, workers and transfers with CUDA.
 */
#include "knn.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPIN_NS 100000			/* a launch and a short kernel take 10 us */
#define SCRATCH_MIN (16u << 20)
#define STAGING_MIN (1u << 20)

CudaDriver	ga_driver;
int			ga_cuda_multiprocessors[GA_MAX_DEVICES];
bool		ga_cuda_filters[GA_MAX_DEVICES];
const uint4 *ga_cuda_key[GA_MAX_DEVICES];

static int	ndevices;
static uint64_t context_bytes[GA_MAX_DEVICES];

/* ----- errors and waiting ----- */

GaStatus
ga_cuda_check(GaWorker *worker, cudaError_t error, const char *what)
{
	cudaError_t rest;

	if (error == cudaSuccess)
		return GA_STATUS_OK;
	snprintf(worker->error, sizeof(worker->error), "%s: %s", what, cudaGetErrorString(error));

	/* What is still there after it was read is there for good. */
	cudaGetLastError();
	rest = ga_cuda(worker) != NULL ? cudaStreamQuery(ga_cuda(worker)->stream) : cudaPeekAtLastError();
	if (rest != cudaSuccess && rest != cudaErrorNotReady)
		worker->broken = true;
	return error == cudaErrorMemoryAllocation && !worker->broken ? GA_STATUS_BUDGET : GA_STATUS_FAILED;
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

GaStatus
ga_cuda_finish(GaWorker *worker, const char *what)
{
	CudaWorker *cuda = ga_cuda(worker);
	uint64_t	until = now_ns() + SPIN_NS;
	cudaError_t error = cudaGetLastError();	/* of launches */

	if (error == cudaSuccess)
		error = cudaEventRecord(cuda->done, cuda->stream);
	if (error == cudaSuccess)
	{
		do
			error = cudaEventQuery(cuda->done);
		while (error == cudaErrorNotReady && now_ns() < until);
		if (error == cudaErrorNotReady)
			error = cudaEventSynchronize(cuda->done);
	}
	return ga_cuda_check(worker, error, what);
}

/* ----- devices ----- */

int
ga_backend_start(char *error)
{
	cudaError_t status;
	int			n = 0;

	/* A kernel that is loaded on first use would wait for those that run. */
	setenv("CUDA_MODULE_LOADING", "EAGER", 0);
	status = cudaGetDeviceCount(&n);
	if (status != cudaSuccess || n == 0)
	{
		snprintf(error, GA_ERROR_LEN, "%s", status != cudaSuccess ? cudaGetErrorString(status) : "no GPU");
		return 0;
	}
	if (!ga_cuda_load_driver(error))
		return 0;
	if (n > GA_MAX_DEVICES)
		n = GA_MAX_DEVICES;
	for (int d = 0; d < n; d++)
	{
		size_t		available = 0;
		size_t		total = 0;
		int			shared = 0;

		status = cudaSetDevice(d);
		if (status == cudaSuccess)
			status = cudaDeviceGetAttribute(&ga_cuda_multiprocessors[d], cudaDevAttrMultiProcessorCount, d);
		if (status == cudaSuccess)
			status = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, d);
		ga_cuda_filters[d] = ga_knn_can_filter((size_t) shared);
		if (status == cudaSuccess)
			status = cudaMemGetInfo(&available, &total);
		if (status != cudaSuccess)
		{
			snprintf(error, GA_ERROR_LEN, "device %d: %s", d, cudaGetErrorString(status));
			return 0;
		}

		/* Right on a card that nobody else uses: the driver tells no more. */
		context_bytes[d] = total - available;
	}
	ndevices = n;
	return n;
}

void
ga_backend_info(int device, GaDeviceInfo *info)
{
	cudaDeviceProp properties;

	memset(info->name, 0, sizeof(info->name));
	if (cudaGetDeviceProperties(&properties, device) != cudaSuccess)
		return;
	snprintf(info->name, sizeof(info->name), "%.63s", properties.name);
	memcpy(info->uuid, &properties.uuid, sizeof(info->uuid));
	info->compute_major = properties.major;
	info->compute_minor = properties.minor;
	info->total_bytes = properties.totalGlobalMem;
	info->context_bytes = context_bytes[device];
}

bool
ga_backend_register(void *memory, size_t nbytes, char *error)
{
	cudaError_t status = cudaHostRegister(memory, nbytes, cudaHostRegisterPortable);

	if (status == cudaSuccess)
		return true;
	cudaGetLastError();
	snprintf(error, GA_ERROR_LEN, "cudaHostRegister of %zu bytes: %s", nbytes, cudaGetErrorString(status));
	return false;
}

void
ga_backend_key(const uint8_t *key)
{
	for (int d = 0; d < ndevices; d++)
	{
		void	   *copy = NULL;

		if (cudaSetDevice(d) == cudaSuccess && cudaMalloc(&copy, GA_FINGERPRINT_KEY_BYTES) == cudaSuccess &&
			cudaMemcpy(copy, key, GA_FINGERPRINT_KEY_BYTES, cudaMemcpyHostToDevice) == cudaSuccess)
			ga_cuda_key[d] = (const uint4 *) copy;
		else
			cudaGetLastError();
	}
}

/* ----- workers ----- */

GaStatus
ga_backend_worker(GaWorker *worker)
{
	CudaWorker *cuda = (CudaWorker *) calloc(1, sizeof(CudaWorker));
	cudaError_t error = cuda == NULL ? cudaErrorMemoryAllocation : cudaSetDevice(worker->device);

	if (error == cudaSuccess)
		error = cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking);
	if (error == cudaSuccess)
		error = cudaEventCreateWithFlags(&cuda->done, cudaEventBlockingSync | cudaEventDisableTiming);
	if (error == cudaSuccess && ga_cuda_key[worker->device] == NULL)
		error = cudaErrorMemoryAllocation;
	if (error != cudaSuccess)
		return ga_cuda_check(worker, error, "start of a worker");
	worker->state = cuda;
	return GA_STATUS_OK;
}

static size_t
room_for(size_t nbytes, size_t least)
{
	while (least < nbytes)
		least *= 2;
	return least;
}

void *
ga_backend_staging(GaWorker *worker, size_t nbytes)
{
	CudaWorker *cuda = ga_cuda(worker);
	void	   *memory;

	if (nbytes > cuda->staging_bytes)
	{
		size_t		room = room_for(nbytes, STAGING_MIN);

		if (cuda->staging != NULL)
			cudaFreeHost(cuda->staging);
		cuda->staging = NULL;
		cuda->staging_bytes = 0;
		if (ga_cuda_check(worker, cudaHostAlloc(&memory, room, cudaHostAllocDefault), "pinned memory") != GA_STATUS_OK)
			return NULL;
		cuda->staging = (char *) memory;
		cuda->staging_bytes = room;
	}
	return cuda->staging;
}

char *
ga_cuda_scratch(GaWorker *worker, size_t nbytes)
{
	CudaWorker *cuda = ga_cuda(worker);
	void	   *memory;

	if (nbytes > cuda->scratch_bytes)
	{
		size_t		room = room_for(nbytes, SCRATCH_MIN);

		if (cuda->scratch != NULL)
			cudaFree(cuda->scratch);
		cuda->scratch = NULL;
		cuda->scratch_bytes = 0;
		if (ga_cuda_check(worker, cudaMalloc(&memory, room), "scratch memory") != GA_STATUS_OK)
			return NULL;
		cuda->scratch = (char *) memory;
		cuda->scratch_bytes = room;
	}
	return cuda->scratch;
}

/* ----- transfers ----- */

static GaStatus
transfer(GaWorker *worker, char *to, const char *from, uint64_t nbytes, cudaMemcpyKind kind, const char *what)
{
	cudaError_t error = cudaMemcpyAsync(to, from, nbytes, kind, ga_cuda(worker)->stream);

	if (error != cudaSuccess)
		return ga_cuda_check(worker, error, what);
	return ga_cuda_finish(worker, what);
}

GaStatus
ga_backend_upload(GaWorker *worker, char *to, const char *from, uint64_t nbytes)
{
	return transfer(worker, to, from, nbytes, cudaMemcpyHostToDevice, "upload");
}

GaStatus
ga_backend_download(GaWorker *worker, char *to, const char *from, uint64_t nbytes)
{
	return transfer(worker, to, from, nbytes, cudaMemcpyDeviceToHost, "download");
}

GaStatus
ga_backend_copy(GaWorker *worker, char *to, const char *from, uint64_t nbytes)
{
	return transfer(worker, to, from, nbytes, cudaMemcpyDeviceToDevice, "copy");
}

/* ----- faults, for tests ----- */

static __global__ void
write_nowhere(int *nowhere)
{
	*(volatile int *) nowhere = 1;
}

static __global__ void
spin_for_ever(volatile int *flag)
{
	while (*flag == 0)
		;
}

GaStatus
ga_backend_fault(GaWorker *worker, GaFault fault)
{
	if (fault == GA_FAULT_STICKY)
		write_nowhere<<<1, 1, 0, ga_cuda(worker)->stream>>>((int *) 16);
	else
	{
		char	   *flag = ga_cuda_scratch(worker, sizeof(int));

		if (flag == NULL)
			return GA_STATUS_FAILED;
		cudaMemsetAsync(flag, 0, sizeof(int), ga_cuda(worker)->stream);
		spin_for_ever<<<1, 1, 0, ga_cuda(worker)->stream>>>((volatile int *) flag);
	}
	return ga_cuda_finish(worker, "fault");
}
