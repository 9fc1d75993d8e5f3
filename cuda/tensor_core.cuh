/*
 * tensor_core.cuh
 *		Instructions of compute capability 8.0 that C++ has no words for: copies to
 *		shared memory that go on beside the thread, and products of small matrices.
 *
 * Shapes and who holds what: PTX ISA, mma.m16n8k16 and ldmatrix. Products of F16
 * are exact; their sums are F32, rounded in ways that are not documented.
 */
#ifndef GA_TENSOR_CORE_CUH
#define GA_TENSOR_CORE_CUH

#include <cuda_fp16.h>
#include <stdint.h>

/* Copies nbytes, 0 to 16, and zeros up to 16. Both places are aligned to 16 bytes. */
static __device__ __forceinline__ void
ga_copy_async(void *shared, const void *global, int nbytes)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
				 :: "r"((unsigned int) __cvta_generic_to_shared(shared)), "l"(global), "r"(nbytes) : "memory");
}

/* What the thread copied since the last call is a group. */
static __device__ __forceinline__ void
ga_copy_commit(void)
{
	asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until no more than the newest N groups of the thread are under way. */
template<int N>
static __device__ __forceinline__ void
ga_copy_wait(void)
{
	asm volatile("cp.async.wait_group %0;\n" :: "n"(N) : "memory");
}

/* Four matrices of 8 x 8 F16: lane l says where row l % 8 of matrix l / 8 is. */
static __device__ __forceinline__ void
ga_load_matrices(uint32_t *to, const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
				 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
				 : "r"((unsigned int) __cvta_generic_to_shared(row)) : "memory");
}

/* sums += a b, of 16 x 16 and 16 x 8 */
static __device__ __forceinline__ void
ga_multiply(float *sums, const uint32_t *a, const uint32_t *b)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
				 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
				 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif							/* GA_TENSOR_CORE_CUH */
