/*
 * device.cuh
 *		What the CUDA files share.
 */
#ifndef GA_DEVICE_CUH
#define GA_DEVICE_CUH

#include "backend.h"

#include <cuda.h>
#include <cuda_runtime.h>

/* Of a worker: everything it launches goes to its own stream. */
typedef struct CudaWorker
{
	cudaStream_t stream;
	cudaEvent_t done;			/* of what was launched; waiting for it sleeps */
	char	   *staging;		/* pinned */
	size_t		staging_bytes;
	char	   *scratch;		/* on the device */
	size_t		scratch_bytes;
} CudaWorker;

static inline CudaWorker *
ga_cuda(GaWorker *worker)
{
	return (CudaWorker *) worker->state;
}

/* Entry points of the driver: the program must start on machines without one. */
typedef struct CudaDriver
{
	decltype(&cuMemCreate) MemCreate;
	decltype(&cuMemRelease) MemRelease;
	decltype(&cuMemAddressReserve) MemAddressReserve;
	decltype(&cuMemAddressFree) MemAddressFree;
	decltype(&cuMemMap) MemMap;
	decltype(&cuMemUnmap) MemUnmap;
	decltype(&cuMemSetAccess) MemSetAccess;
	decltype(&cuMemGetAllocationGranularity) MemGetAllocationGranularity;
	decltype(&cuMemExportToShareableHandle) MemExportToShareableHandle;
	decltype(&cuMemImportFromShareableHandle) MemImportFromShareableHandle;
	decltype(&cuGetErrorString) GetErrorString;
} CudaDriver;

extern CudaDriver ga_driver;

/* Per device. */
extern int	ga_cuda_multiprocessors[GA_MAX_DEVICES];
extern bool ga_cuda_filters[GA_MAX_DEVICES];	/* what knn_filter.cu does is possible */
extern const uint4 *ga_cuda_key[GA_MAX_DEVICES];

/* Looks up ga_driver; false with a reason. */
extern bool ga_cuda_load_driver(char *error);

/* OK, or the words of an error and what it means for the process. */
extern GaStatus ga_cuda_check(GaWorker *worker, cudaError_t error, const char *what);

/* Waits for the worker's stream, briefly spinning, and checks. */
extern GaStatus ga_cuda_finish(GaWorker *worker, const char *what);

/* Device memory of at least that size, until the worker asks again; NULL with the error reported. */
extern char *ga_cuda_scratch(GaWorker *worker, size_t nbytes);

#endif							/* GA_DEVICE_CUH */
