/*
 * memory.cu
 *		Memory of regions: exportable by descriptor (cuMemCreate), or by the
 *		handle of cudaIpcGetMemHandle for programs that know no other.
 */
#include "device.cuh"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define HANDLE_TYPE CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

static bool
find_entry(const char *name, void **function, char *error)
{
	cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
	cudaError_t status;

#if CUDART_VERSION >= 12050
	status = cudaGetDriverEntryPointByVersion(name, function, 12000, cudaEnableDefault, &result);
#else
	status = cudaGetDriverEntryPoint(name, function, cudaEnableDefault, &result);
#endif
	if (status == cudaSuccess && result == cudaDriverEntryPointSuccess && *function != NULL)
		return true;
	snprintf(error, GA_ERROR_LEN, "the driver has no %s", name);
	return false;
}

bool
ga_cuda_load_driver(char *error)
{
	struct
	{
		const char *name;
		void	  **function;
	}			entries[] = {
		{"cuMemCreate", (void **) &ga_driver.MemCreate},
		{"cuMemRelease", (void **) &ga_driver.MemRelease},
		{"cuMemAddressReserve", (void **) &ga_driver.MemAddressReserve},
		{"cuMemAddressFree", (void **) &ga_driver.MemAddressFree},
		{"cuMemMap", (void **) &ga_driver.MemMap},
		{"cuMemUnmap", (void **) &ga_driver.MemUnmap},
		{"cuMemSetAccess", (void **) &ga_driver.MemSetAccess},
		{"cuMemGetAllocationGranularity", (void **) &ga_driver.MemGetAllocationGranularity},
		{"cuMemExportToShareableHandle", (void **) &ga_driver.MemExportToShareableHandle},
		{"cuMemImportFromShareableHandle", (void **) &ga_driver.MemImportFromShareableHandle},
		{"cuGetErrorString", (void **) &ga_driver.GetErrorString},
	};

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++)
		if (!find_entry(entries[i].name, entries[i].function, error))
			return false;
	return true;
}

/* As ga_cuda_check, for results of the driver. */
static GaStatus
check(GaWorker *worker, CUresult result, const char *what)
{
	const char *words = NULL;

	if (result == CUDA_SUCCESS)
		return GA_STATUS_OK;
	if (ga_driver.GetErrorString(result, &words) != CUDA_SUCCESS || words == NULL)
		words = "unknown error";
	if (result == CUDA_ERROR_OUT_OF_MEMORY)
	{
		snprintf(worker->error, sizeof(worker->error), "%s: %s", what, words);
		return GA_STATUS_BUDGET;
	}

	/* Sets `broken` when the context is. */
	ga_cuda_check(worker, cudaErrorUnknown, what);
	snprintf(worker->error, sizeof(worker->error), "%s: %s", what, words);
	return GA_STATUS_FAILED;
}

static CUmemAllocationProp
properties(int device)
{
	CUmemAllocationProp p;

	memset(&p, 0, sizeof(p));
	p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	p.location.id = device;
	p.requestedHandleTypes = HANDLE_TYPE;
	return p;
}

uint64_t
ga_backend_granularity(int device)
{
	static size_t known[GA_MAX_DEVICES];

	if (known[device] == 0)
	{
		CUmemAllocationProp p = properties(device);
		size_t		size = 0;

		if (ga_driver.MemGetAllocationGranularity(&size, &p, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) != CUDA_SUCCESS || size == 0)
			size = (size_t) 2 << 20;
		known[device] = size;
	}
	return known[device];
}

/* Maps an allocation for reading and writing; takes over the handle. */
static GaStatus
map(GaWorker *worker, GaBlock *block, CUmemGenericAllocationHandle handle)
{
	CUmemAccessDesc access;
	CUdeviceptr address = 0;
	bool		mapped = false;
	GaStatus	status;

	memset(&access, 0, sizeof(access));
	access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	access.location.id = worker->device;
	access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	status = check(worker, ga_driver.MemAddressReserve(&address, block->size, 0, 0, 0), "address space");
	if (status == GA_STATUS_OK)
	{
		status = check(worker, ga_driver.MemMap(address, block->size, 0, handle, 0), "map");
		mapped = status == GA_STATUS_OK;
	}
	if (status == GA_STATUS_OK)
		status = check(worker, ga_driver.MemSetAccess(address, block->size, &access, 1), "access");

	/* The mapping keeps the memory. */
	ga_driver.MemRelease(handle);
	if (status != GA_STATUS_OK)
	{
		if (mapped)
			ga_driver.MemUnmap(address, block->size);
		if (address != 0)
			ga_driver.MemAddressFree(address, block->size);
		return status;
	}
	block->address = (char *) address;
	return GA_STATUS_OK;
}

static GaStatus
create_exportable(GaWorker *worker, GaBlock *block)
{
	CUmemAllocationProp p = properties(worker->device);
	CUmemGenericAllocationHandle handle;
	GaStatus	status = check(worker, ga_driver.MemCreate(&handle, block->size, &p, 0), "allocation");
	int			fd = -1;

	if (status != GA_STATUS_OK)
		return status;
	status = check(worker, ga_driver.MemExportToShareableHandle(&fd, handle, HANDLE_TYPE, 0), "export");
	if (status != GA_STATUS_OK)
	{
		ga_driver.MemRelease(handle);
		return status;
	}
	block->fd = fd;
	status = map(worker, block, handle);
	if (status != GA_STATUS_OK)
	{
		close(fd);
		block->fd = -1;
	}
	return status;
}

static GaStatus
create_by_handle(GaWorker *worker, GaBlock *block)
{
	cudaIpcMemHandle_t handle;
	void	   *address;
	GaStatus	status = ga_cuda_check(worker, cudaMalloc(&address, block->size), "allocation");

	static_assert(sizeof(handle) == sizeof(block->handle), "CUDA has changed its handles");
	if (status != GA_STATUS_OK)
		return status;
	status = ga_cuda_check(worker, cudaIpcGetMemHandle(&handle, address), "handle");
	if (status != GA_STATUS_OK)
	{
		cudaFree(address);
		return status;
	}
	memcpy(block->handle, &handle, sizeof(handle));
	block->address = (char *) address;
	block->fd = -1;
	return GA_STATUS_OK;
}

GaStatus
ga_backend_create(GaWorker *worker, bool by_handle, GaBlock *block)
{
	GaStatus	status = by_handle ? create_by_handle(worker, block) : create_exportable(worker, block);

	if (status != GA_STATUS_OK)
		return status;
	status = ga_cuda_check(worker, cudaMemsetAsync(block->address, 0, block->size, ga_cuda(worker)->stream), "zeroing");
	if (status == GA_STATUS_OK)
		status = ga_cuda_finish(worker, "zeroing");
	if (status != GA_STATUS_OK)
		ga_backend_free(worker, block);
	return status;
}

GaStatus
ga_backend_import(GaWorker *worker, GaBlock *block)
{
	CUmemGenericAllocationHandle handle;

	/* One thread restores regions of several devices. */
	GaStatus	status = ga_cuda_check(worker, cudaSetDevice(worker->device), "import");

	if (status == GA_STATUS_OK)
		status = check(worker, ga_driver.MemImportFromShareableHandle(&handle, (void *) (uintptr_t) block->fd, HANDLE_TYPE),
					   "import");
	if (status == GA_STATUS_OK)
		status = map(worker, block, handle);
	if (status != GA_STATUS_OK)
		close(block->fd);
	return status;
}

void
ga_backend_free(GaWorker *worker, GaBlock *block)
{
	if (block->fd < 0)
	{
		ga_cuda_check(worker, cudaFree(block->address), "free");
		return;
	}
	if (check(worker, ga_driver.MemUnmap((CUdeviceptr) block->address, block->size), "unmap") == GA_STATUS_OK)
		ga_driver.MemAddressFree((CUdeviceptr) block->address, block->size);
	close(block->fd);
}
