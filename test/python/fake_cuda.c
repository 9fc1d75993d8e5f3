/*
 * fake_cuda.c
 *		A CUDA driver without a GPU, for test_cuda.py: "device memory" that is
 *		exported as an fd is a memfd, mapped here. Two devices; the second has the
 *		UUID of the emulated device process's first one.
 *
 * Signatures are those of cuda.h; with -DHAVE_CUDA_H they are checked against it.
 * fake_count has what is alive, so that leaks are seen; fake_fail names a call that
 * shall fail.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef HAVE_CUDA_H
#include <cuda.h>
#else
typedef int CUresult;
typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef int CUmemAllocationHandleType;
typedef int CUpointer_attribute;
typedef struct { char bytes[16]; } CUuuid;
typedef struct { char reserved[64]; } CUipcMemHandle;
typedef struct { struct { int type; int id; } location; int flags; } CUmemAccessDesc;
#define CUDA_SUCCESS 0
#define CUDA_ERROR_INVALID_VALUE 1
#endif

#define EXPORT __attribute__((visibility("default")))

EXPORT char fake_fail[64];
EXPORT int fake_count[4];		/* allocations, reserved ranges, mappings, IPC mappings */
EXPORT int fake_synchronized;
EXPORT int fake_access = -1;

static int current = -1;		/* device of the current context */
static int contexts[2];

#define MAY_FAIL() \
	do { if (strcmp(fake_fail, __func__) == 0) return CUDA_ERROR_INVALID_VALUE; } while (0)
#define REQUIRE(condition) \
	do { if (!(condition)) { fprintf(stderr, "%s: %s is false\n", __func__, #condition); return CUDA_ERROR_INVALID_VALUE; } } while (0)

EXPORT CUresult cuInit(unsigned int flags) { REQUIRE(flags == 0); return CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGetCount(int *count) { *count = 2; return CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return CUDA_SUCCESS; }

EXPORT CUresult
cuGetErrorString(CUresult error, const char **text)
{
	*text = error == CUDA_SUCCESS ? "no error" : "invalid argument";
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	memset(uuid, device == 1 ? 0xe0 : 0x11, sizeof(*uuid));
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
	REQUIRE(device == 0 || device == 1);
	*context = (CUcontext) &contexts[device];
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuCtxPushCurrent_v2(CUcontext context)
{
	REQUIRE(current < 0);
	current = (int) ((int *) context - contexts);
	REQUIRE(current == 0 || current == 1);
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuCtxPopCurrent_v2(CUcontext *context)
{
	REQUIRE(current >= 0);
	*context = (CUcontext) &contexts[current];
	current = -1;
	return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize(void) { REQUIRE(current >= 0); fake_synchronized++; return CUDA_SUCCESS; }

EXPORT CUresult
cuStreamSynchronize(CUstream stream)
{
	REQUIRE(stream == (CUstream) 0x5757 && current >= 0);
	fake_synchronized += 100;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *allocation, void *fd, CUmemAllocationHandleType type)
{
	MAY_FAIL();
	REQUIRE(type == 1 && current >= 0);
	*allocation = (CUmemGenericAllocationHandle) dup((int) (intptr_t) fd);
	fake_count[0]++;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuMemRelease(CUmemGenericAllocationHandle allocation)
{
	REQUIRE(close((int) allocation) == 0);
	fake_count[0]--;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuMemAddressReserve(CUdeviceptr *address, size_t size, size_t alignment, CUdeviceptr fixed, unsigned long long flags)
{
	void	   *range;

	MAY_FAIL();
	range = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(range != MAP_FAILED && alignment == 0 && fixed == 0 && flags == 0);
	*address = (CUdeviceptr) range;
	fake_count[1]++;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuMemAddressFree(CUdeviceptr address, size_t size)
{
	REQUIRE(munmap((void *) address, size) == 0);
	fake_count[1]--;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuMemMap(CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle allocation, unsigned long long flags)
{
	MAY_FAIL();
	REQUIRE(offset == 0 && flags == 0);
	REQUIRE(mmap((void *) address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, (int) allocation, 0) == (void *) address);
	fake_count[2]++;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuMemSetAccess(CUdeviceptr address, size_t size, const CUmemAccessDesc *access, size_t count)
{
	int			flags = (int) access->flags;

	MAY_FAIL();
	REQUIRE(count == 1 && (int) access->location.type == 1 && access->location.id == 1 && (flags == 1 || flags == 3));
	fake_access = flags;
	REQUIRE(mprotect((void *) address, size, flags == 3 ? PROT_READ | PROT_WRITE : PROT_READ) == 0);
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuMemUnmap(CUdeviceptr address, size_t size)
{
	REQUIRE(mmap((void *) address, size, PROT_NONE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0) == (void *) address);
	fake_count[2]--;
	return CUDA_SUCCESS;
}

/* The handle has the number of an fd, for the size of a page. */
EXPORT CUresult
cuIpcOpenMemHandle_v2(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags)
{
	int			fd;
	void	   *page;

	MAY_FAIL();
	REQUIRE(flags == 1 && current >= 0 && handle.reserved[63] == 63);
	memcpy(&fd, handle.reserved, sizeof(fd));
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	REQUIRE(page != MAP_FAILED);
	*address = (CUdeviceptr) page;
	fake_count[3]++;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuIpcCloseMemHandle(CUdeviceptr address)
{
	REQUIRE(current == 1 && munmap((void *) address, 4096) == 0);
	fake_count[3]--;
	return CUDA_SUCCESS;
}

EXPORT CUresult
cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address)
{
	REQUIRE((int) attribute == 9 && address != 0);
	*(int *) data = 1;
	return CUDA_SUCCESS;
}
