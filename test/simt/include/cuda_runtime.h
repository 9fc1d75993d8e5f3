/*
 * cuda_runtime.h
 *		In place of CUDA's: what the kernels of cuda/ and the functions that launch
 *		them use of the language and the runtime, on the CPU. simt.cpp runs them.
 */
#ifndef SIMT_CUDA_RUNTIME_H
#define SIMT_CUDA_RUNTIME_H

#include <functional>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* ----- the language ----- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __grid_constant__
#define __constant__
#define __launch_bounds__(...)
#define __shared__ static		/* blocks run one after the other */

struct alignas(16) uint4
{
	unsigned int x, y, z, w;
};
struct float2
{
	float		x, y;
};
struct alignas(16) float4
{
	float		x, y, z, w;
};
struct dim3
{
	unsigned int x, y, z;
	dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

static inline uint4
make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w)
{
	return {x, y, z, w};
}

/* Of the thread that runs. */
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
extern char *simt_dynamic_shared;

extern void simt_launch(dim3 grid, dim3 block, size_t shared, struct SimtStream *stream, const std::function<void()> &kernel);
extern void simt_sync_block(void);

/* What the lane of a warp passes to all of `mask`; where the values of all lanes are then, 8 bytes each. */
extern const uint64_t *simt_exchange(unsigned int mask, uint64_t value);

#define __syncthreads() simt_sync_block()

template<typename T>
static inline T
__shfl_sync(unsigned int mask, T value, int lane)
{
	uint64_t	word = 0;
	T			result;

	static_assert(sizeof(T) <= sizeof(word), "a lane passes 8 bytes");
	memcpy(&word, &value, sizeof(value));
	memcpy(&result, &simt_exchange(mask, word)[lane & 31], sizeof(result));
	return result;
}

template<typename T>
static inline T
__shfl_xor_sync(unsigned int mask, T value, int with)
{
	return __shfl_sync(mask, value, (int) (threadIdx.x % 32) ^ with);
}

static inline unsigned int
__ballot_sync(unsigned int mask, bool vote)
{
	const uint64_t *votes = simt_exchange(mask, vote);
	unsigned int result = 0;

	for (int lane = 0; lane < 32; lane++)
		if (mask >> lane & 1 && votes[lane])
			result |= 1u << lane;
	return result;
}

template<typename T, typename U>
static inline T
atomicAdd(T *at, U value)
{
	T			before = *at;

	*at += (T) value;
	return before;
}

template<typename T, typename U>
static inline T
atomicMin(T *at, U value)
{
	T			before = *at;

	*at = (T) value < before ? (T) value : before;
	return before;
}

template<typename T, typename U>
static inline T
atomicMax(T *at, U value)
{
	T			before = *at;

	*at = (T) value > before ? (T) value : before;
	return before;
}

template<typename T> static inline T __ldg(const T *p) { return *p; }
template<typename T> static inline T __ldcs(const T *p) { return *p; }

static inline float
__uint_as_float(unsigned int bits)
{
	float		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

static inline unsigned int
__float_as_uint(float value)
{
	unsigned int bits;

	memcpy(&bits, &value, sizeof(bits));
	return bits;
}

static inline void
__syncwarp(void)
{
	simt_exchange(0xffffffffu, 0);
}

static inline int
__ffs(int x)
{
	return __builtin_ffs(x);
}

static inline unsigned int
__funnelshift_r(unsigned int low, unsigned int high, unsigned int by)
{
	return (unsigned int) (((uint64_t) high << 32 | low) >> (by & 31));
}

/* Byte i of the result is that one of y:x which digit i of the selector names. */
static inline unsigned int
__byte_perm(unsigned int x, unsigned int y, unsigned int selector)
{
	uint64_t	bytes = (uint64_t) y << 32 | x;
	unsigned int result = 0;

	for (int i = 0; i < 4; i++)
		result |= (unsigned int) (bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
	return result;
}

/* ----- the runtime: everything happens at once ----- */

typedef struct SimtStream *cudaStream_t;
typedef struct SimtEvent *cudaEvent_t;
typedef enum cudaError_t
{
	cudaSuccess
} cudaError_t;
enum cudaMemcpyKind
{
	cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice
};
enum
{
	cudaFuncAttributeMaxDynamicSharedMemorySize
};

template<typename F>
static inline cudaError_t
cudaFuncSetAttribute(F, int, int)
{
	return cudaSuccess;
}

static inline cudaError_t
cudaMemcpyAsync(void *to, const void *from, size_t nbytes, cudaMemcpyKind, cudaStream_t)
{
	memcpy(to, from, nbytes);
	return cudaSuccess;
}

static inline cudaError_t
cudaMemsetAsync(void *to, int value, size_t nbytes, cudaStream_t)
{
	memset(to, value, nbytes);
	return cudaSuccess;
}

static inline cudaError_t
cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind, cudaStream_t)
{
	for (size_t i = 0; i < height; i++)
		memcpy((char *) to + i * to_pitch, (const char *) from + i * from_pitch, width);
	return cudaSuccess;
}

static inline cudaError_t
cudaMemset2DAsync(void *to, size_t pitch, int value, size_t width, size_t height, cudaStream_t)
{
	for (size_t i = 0; i < height; i++)
		memset((char *) to + i * pitch, value, width);
	return cudaSuccess;
}

#endif							/* SIMT_CUDA_RUNTIME_H */
