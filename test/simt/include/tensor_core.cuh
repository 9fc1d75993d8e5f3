/*
 * tensor_core.cuh
 *		In place of that of cuda/. What is copied arrives when it is waited for, and
 *		not before; sums of products are rounded towards zero after each product,
 *		which is at least as wrong as any tensor core.
 */
#ifndef GA_TENSOR_CORE_CUH
#define GA_TENSOR_CORE_CUH

#include <cuda_fp16.h>

/* Of the thread that runs. */
extern void simt_copy(void *shared, const void *global, int nbytes);
extern void simt_copy_commit(void);
extern void simt_copy_wait(int most);

static inline void
ga_copy_async(void *shared, const void *global, int nbytes)
{
	simt_copy(shared, global, nbytes);
}

static inline void
ga_copy_commit(void)
{
	simt_copy_commit();
}

template<int N>
static inline void
ga_copy_wait(void)
{
	simt_copy_wait(N);
}

static inline void
ga_load_matrices(uint32_t *to, const void *row)
{
	const uint64_t *rows = simt_exchange(0xffffffffu, (uint64_t) (uintptr_t) row);
	int			lane = (int) threadIdx.x % 32;

	for (int matrix = 0; matrix < 4; matrix++)
		memcpy(&to[matrix], (const char *) (uintptr_t) rows[matrix * 8 + lane / 4] + lane % 4 * 4, 4);
}

static inline float
simt_half(uint64_t word, int i)
{
	return ga_half_to_float((uint16_t) (word >> 16 * i));
}

static inline float
simt_towards_zero(double value)
{
	float		near = (float) value;

	return fabs((double) near) > fabs(value) ? nextafterf(near, 0) : near;
}

static inline void
ga_multiply(float *sums, const uint32_t *a, const uint32_t *b)
{
	uint64_t	rows[2][32];	/* of every lane: a[0], a[1], and a[2], a[3] */
	uint64_t	columns[32];
	int			lane = (int) threadIdx.x % 32;

	memcpy(rows[0], simt_exchange(0xffffffffu, (uint64_t) a[1] << 32 | a[0]), sizeof(rows[0]));
	memcpy(rows[1], simt_exchange(0xffffffffu, (uint64_t) a[3] << 32 | a[2]), sizeof(rows[1]));
	memcpy(columns, simt_exchange(0xffffffffu, (uint64_t) b[1] << 32 | b[0]), sizeof(columns));
	for (int i = 0; i < 4; i++)
	{
		int			row = lane / 4;
		int			column = lane % 4 * 2 + i % 2;
		double		sum = sums[i];

		for (int k = 0; k < 16; k++)
			sum = simt_towards_zero(sum + (double) simt_half(rows[k / 8][row * 4 + k % 8 / 2], k % 2 + i / 2 * 2) *
									simt_half(columns[column * 4 + k % 8 / 2], k % 2 + k / 8 * 2));
		sums[i] = (float) sum;
	}
}

#endif							/* GA_TENSOR_CORE_CUH */
