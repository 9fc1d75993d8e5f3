/*
 * leaves.cu
 *		Kernels over the leaves of a region: fingerprints, SHA-256, gathering.
 *
 * Regions begin at multiples of 2 MiB, so leaves are aligned for 16-byte loads.
 */
#include "device.cuh"

#include <string.h>

#define FULL 0xffffffffu
#define LENGTH_FACTOR 0x9E3779B97F4A7C15ull

static __device__ __forceinline__ uint64_t
leaf_bytes(uint64_t nbytes, uint64_t leaf)
{
	uint64_t	rest = nbytes - leaf * GA_LEAF;

	return rest < GA_LEAF ? rest : GA_LEAF;
}

/* 16 bytes at an offset of a piece of `size` bytes; what is past its end reads as zero. */
static __device__ uint4
load_padded(const char *piece, uint32_t offset, uint32_t size)
{
	uint32_t	word[4] = {0, 0, 0, 0};

	if (offset + 16 <= size)
		return __ldcs((const uint4 *) (piece + offset));
	for (uint32_t i = offset; i < size; i++)
		word[(i - offset) / 4] |= (uint32_t) (uint8_t) piece[i] << (8 * ((i - offset) % 4));
	return make_uint4(word[0], word[1], word[2], word[3]);
}

/* ----- fingerprints ----- */

/*
 * A warp goes over a leaf in steps of 1 KiB. Lane l loads the units (16 bytes)
 * l and 32 + (l ^ 8) of a step, both coalesced. An NH block is two neighbouring
 * units; neighbouring lanes exchange one each, and the even lane has block
 * l / 2, the odd one 16 + (l / 2 ^ 4). The key is in shared memory, even and odd
 * units apart: with the ^ 8, the lanes that read together meet no common bank.
 */
#define FP_THREADS 512
#define FP_WARPS (FP_THREADS / 32)
#define FP_STEP 1024
#define FP_UNROLL 4
#define FP_EVEN_UNITS (GA_LEAF / 32 + 1)
#define FP_ODD_UNITS (GA_LEAF / 32)
#define FP_SHARED ((FP_EVEN_UNITS + FP_ODD_UNITS) * 16)

typedef struct NhSum
{
	uint64_t	word[2];
} NhSum;

static __device__ __forceinline__ uint64_t
product(uint32_t a, uint32_t ka, uint32_t b, uint32_t kb)
{
	return (uint64_t) (a + ka) * (uint64_t) (b + kb);
}

static __device__ __forceinline__ void
add_block(NhSum *sum, uint4 low, uint4 high, uint4 k0, uint4 k1, uint4 k2)
{
	sum->word[0] += product(low.x, k0.x, high.x, k1.x) + product(low.y, k0.y, high.y, k1.y) +
		product(low.z, k0.z, high.z, k1.z) + product(low.w, k0.w, high.w, k1.w);
	sum->word[1] += product(low.x, k1.x, high.x, k2.x) + product(low.y, k1.y, high.y, k2.y) +
		product(low.z, k1.z, high.z, k2.z) + product(low.w, k1.w, high.w, k2.w);
}

/* From units a and b of this lane to the two halves of its block. */
static __device__ __forceinline__ void
exchange(bool odd, uint4 a, uint4 b, uint4 *low, uint4 *high)
{
	uint4		send = odd ? a : b;
	uint4		got;

	got.x = __shfl_xor_sync(FULL, send.x, 1);
	got.y = __shfl_xor_sync(FULL, send.y, 1);
	got.z = __shfl_xor_sync(FULL, send.z, 1);
	got.w = __shfl_xor_sync(FULL, send.w, 1);
	*low = odd ? got : a;
	*high = odd ? b : got;
}

static __global__ void
__launch_bounds__(FP_THREADS, 2)
fingerprint_kernel(const char *data, uint64_t nbytes, uint64_t first, uint64_t n, const uint4 *key, GaFingerprint *out)
{
	extern __shared__ uint4 shared[];
	uint4	   *even = shared;
	uint4	   *odd_units = shared + FP_EVEN_UNITS;
	uint32_t	lane = threadIdx.x % 32;
	bool		odd = lane & 1;
	uint32_t	unit_b = 32 + (lane ^ 8);
	uint32_t	block = odd ? 16 + (lane / 2 ^ 4) : lane / 2;

	for (uint32_t u = threadIdx.x; u < FP_EVEN_UNITS + FP_ODD_UNITS; u += FP_THREADS)
		(u & 1 ? odd_units : even)[u / 2] = key[u];
	__syncthreads();

	for (uint64_t i = blockIdx.x + (uint64_t) gridDim.x * (threadIdx.x / 32); i < n; i += (uint64_t) gridDim.x * FP_WARPS)
	{
		const char *leaf = data + (first + i) * GA_LEAF;
		uint32_t	size = (uint32_t) leaf_bytes(nbytes, first + i);
		NhSum		sum = {{0, 0}};

		if (size == GA_LEAF)
		{
			const uint4 *unit = (const uint4 *) leaf;

			for (uint32_t step = 0; step < GA_LEAF / FP_STEP; step += FP_UNROLL)
			{
				uint4		a[FP_UNROLL];
				uint4		b[FP_UNROLL];

#pragma unroll
				for (int s = 0; s < FP_UNROLL; s++)
				{
					a[s] = __ldcs(unit + (step + s) * 64 + lane);
					b[s] = __ldcs(unit + (step + s) * 64 + unit_b);
				}
#pragma unroll
				for (int s = 0; s < FP_UNROLL; s++)
				{
					uint32_t	k = (step + s) * 32 + block;
					uint4		low;
					uint4		high;

					exchange(odd, a[s], b[s], &low, &high);
					add_block(&sum, low, high, even[k], odd_units[k], even[k + 1]);
				}
			}
		}
		else
		{
			for (uint32_t step = 0; step * FP_STEP < size; step++)
			{
				uint32_t	k = step * 32 + block;
				uint4		low;
				uint4		high;

				exchange(odd, load_padded(leaf, step * FP_STEP + lane * 16, size),
						 load_padded(leaf, step * FP_STEP + unit_b * 16, size), &low, &high);
				if (k * 32 < size)
					add_block(&sum, low, high, even[k], odd_units[k], even[k + 1]);
			}
		}
		for (int distance = 16; distance > 0; distance /= 2)
		{
			sum.word[0] += __shfl_xor_sync(FULL, sum.word[0], distance);
			sum.word[1] += __shfl_xor_sync(FULL, sum.word[1], distance);
		}
		if (lane == 0)
		{
			out[i].word[0] = sum.word[0] + size * LENGTH_FACTOR;
			out[i].word[1] = sum.word[1] + size * LENGTH_FACTOR;
		}
	}
}

GaStatus
ga_backend_fingerprint(GaWorker *worker, const char *data, uint64_t nbytes, uint64_t first, uint64_t n, GaFingerprint *out)
{
	cudaStream_t stream = ga_cuda(worker)->stream;
	GaFingerprint *result = (GaFingerprint *) ga_cuda_scratch(worker, n * sizeof(GaFingerprint));
	uint64_t	grid = 2 * (uint64_t) ga_cuda_multiprocessors[worker->device];
	cudaError_t error;

	if (result == NULL)
		return GA_STATUS_FAILED;
	error = cudaFuncSetAttribute(fingerprint_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, FP_SHARED);
	if (error == cudaSuccess)
	{
		fingerprint_kernel<<<(unsigned) (n < grid ? n : grid), FP_THREADS, FP_SHARED, stream>>>
			(data, nbytes, first, n, ga_cuda_key[worker->device], result);
		error = cudaMemcpyAsync(out, result, n * sizeof(GaFingerprint), cudaMemcpyDeviceToHost, stream);
	}
	if (error != cudaSuccess)
		return ga_cuda_check(worker, error, "fingerprint");
	return ga_cuda_finish(worker, "fingerprint");
}

/* ----- SHA-256, a thread for each leaf ----- */

static __constant__ const uint32_t sha_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2
};

static __device__ __forceinline__ uint32_t
rotate(uint32_t x, int n)
{
	return __funnelshift_r(x, x, n);
}

static __device__ __forceinline__ uint32_t
swap_bytes(uint32_t x)
{
	return __byte_perm(x, 0, 0x0123);
}

/* w is used up. */
static __device__ __forceinline__ void
sha_block(uint32_t *h, uint32_t *w)
{
	uint32_t	a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], p = h[7];

#pragma unroll
	for (int t = 0; t < 64; t++)
	{
		uint32_t	t1;
		uint32_t	t2;

		if (t >= 16)
		{
			uint32_t	w2 = w[(t - 2) % 16];
			uint32_t	w15 = w[(t - 15) % 16];

			w[t % 16] += (rotate(w2, 17) ^ rotate(w2, 19) ^ w2 >> 10) + w[(t - 7) % 16] +
				(rotate(w15, 7) ^ rotate(w15, 18) ^ w15 >> 3);
		}
		t1 = p + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + sha_k[t] + w[t % 16];
		t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));
		p = g;
		g = f;
		f = e;
		e = d + t1;
		d = c;
		c = b;
		b = a;
		a = t1 + t2;
	}
	h[0] += a;
	h[1] += b;
	h[2] += c;
	h[3] += d;
	h[4] += e;
	h[5] += f;
	h[6] += g;
	h[7] += p;
}

static __device__ __forceinline__ void
sha_words(uint32_t *w, const uint4 *unit)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
	{
		w[4 * i] = swap_bytes(unit[i].x);
		w[4 * i + 1] = swap_bytes(unit[i].y);
		w[4 * i + 2] = swap_bytes(unit[i].z);
		w[4 * i + 3] = swap_bytes(unit[i].w);
	}
}

/* The last block or two: what is left, a one, zeros, the length in bits. */
static __device__ void
sha_end(uint32_t *h, const char *leaf, uint32_t size)
{
	uint32_t	done = size / 64 * 64;

	for (;;)
	{
		uint4		unit[4];
		uint32_t	w[16];

		for (int i = 0; i < 4; i++)
			unit[i] = load_padded(leaf, done + 16 * i, size);
		sha_words(w, unit);
		for (int i = 0; i < 16; i++)
			if (done <= size && (size - done) / 4 == i)
				w[i] |= 0x80000000u >> (8 * (size % 4));
		if (done + 56 > size)
			w[15] = size * 8;
		sha_block(h, w);
		if (done + 56 > size)
			return;
		done += 64;
	}
}

static __global__ void
sha256_kernel(const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n, uint4 *out)
{
	uint64_t	i = blockIdx.x * (uint64_t) blockDim.x + threadIdx.x;
	uint32_t	h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	const char *leaf;
	uint32_t	size;
	uint32_t	blocks;

	if (i >= n)
		return;
	leaf = data + (uint64_t) leaves[i] * GA_LEAF;
	size = (uint32_t) leaf_bytes(nbytes, leaves[i]);
	blocks = size / 64;
	if (blocks > 0)
	{
		const uint4 *unit = (const uint4 *) leaf;
		uint4		next[4] = {unit[0], unit[1], unit[2], unit[3]};

		/* The next block is on its way while this one is hashed. */
		for (uint32_t b = 1; b <= blocks; b++)
		{
			uint32_t	w[16];

			sha_words(w, next);
			if (b < blocks)
			{
#pragma unroll
				for (int j = 0; j < 4; j++)
					next[j] = unit[4 * b + j];
			}
			sha_block(h, w);
		}
	}
	sha_end(h, leaf, size);
	out[2 * i] = make_uint4(swap_bytes(h[0]), swap_bytes(h[1]), swap_bytes(h[2]), swap_bytes(h[3]));
	out[2 * i + 1] = make_uint4(swap_bytes(h[4]), swap_bytes(h[5]), swap_bytes(h[6]), swap_bytes(h[7]));
}

/* Scratch memory with the list at its end; NULL with an error. */
static char *
scratch_with_list(GaWorker *worker, size_t nbytes, const void *list, size_t list_bytes, char **list_on_device)
{
	char	   *scratch = ga_cuda_scratch(worker, nbytes + list_bytes);
	cudaError_t error;

	if (scratch == NULL)
		return NULL;
	*list_on_device = scratch + nbytes;
	error = cudaMemcpyAsync(*list_on_device, list, list_bytes, cudaMemcpyHostToDevice, ga_cuda(worker)->stream);
	return ga_cuda_check(worker, error, "list") == GA_STATUS_OK ? scratch : NULL;
}

GaStatus
ga_backend_sha256(GaWorker *worker, const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n, uint8_t *out)
{
	cudaStream_t stream = ga_cuda(worker)->stream;
	unsigned	threads = n < 64 * (uint64_t) ga_cuda_multiprocessors[worker->device] ? 32 : 128;
	char	   *list;
	char	   *result = scratch_with_list(worker, n * 32, leaves, n * sizeof(uint32_t), &list);
	cudaError_t error;

	if (result == NULL)
		return GA_STATUS_FAILED;
	sha256_kernel<<<(unsigned) ((n + threads - 1) / threads), threads, 0, stream>>>
		(data, nbytes, (const uint32_t *) list, n, (uint4 *) result);
	error = cudaMemcpyAsync(out, result, n * 32, cudaMemcpyDeviceToHost, stream);
	if (error != cudaSuccess)
		return ga_cuda_check(worker, error, "sha256");
	return ga_cuda_finish(worker, "sha256");
}

/* ----- gathering ----- */

#define GATHER_THREADS 256
#define GATHER_LEAVES 512		/* of a piece: 32 MiB */

static __global__ void
gather_kernel(const char *data, uint64_t nbytes, const uint32_t *leaves, uint4 *out)
{
	uint64_t	number = leaves[blockIdx.x];
	const char *leaf = data + number * GA_LEAF;
	uint32_t	size = (uint32_t) leaf_bytes(nbytes, number);
	uint4	   *to = out + (uint64_t) blockIdx.x * (GA_LEAF / 16);

#pragma unroll 8
	for (uint32_t u = threadIdx.x; u < GA_LEAF / 16; u += GATHER_THREADS)
		to[u] = load_padded(leaf, u * 16, size);
}

/* Leaves that follow each other, from the i-th of the list on. */
static uint64_t
run_length(const uint32_t *leaves, uint64_t i, uint64_t n)
{
	uint64_t	length = 1;

	while (i + length < n && leaves[i + length] == leaves[i] + length)
		length++;
	return length;
}

/* One transfer for each run of leaves. */
static GaStatus
gather_runs(GaWorker *worker, const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n, char *out)
{
	uint64_t	length;
	GaStatus	status;

	for (uint64_t i = 0; i < n; i += length)
	{
		uint64_t	begin = (uint64_t) leaves[i] * GA_LEAF;
		uint64_t	size;
		cudaError_t error;

		length = run_length(leaves, i, n);
		size = length * GA_LEAF < nbytes - begin ? length * GA_LEAF : nbytes - begin;
		error = cudaMemcpyAsync(out + i * GA_LEAF, data + begin, size, cudaMemcpyDeviceToHost, ga_cuda(worker)->stream);
		if (error != cudaSuccess)
			return ga_cuda_check(worker, error, "gather");
		memset(out + i * GA_LEAF + size, 0, length * GA_LEAF - size);
	}
	status = ga_cuda_finish(worker, "gather");
	return status;
}

GaStatus
ga_backend_gather(GaWorker *worker, const char *data, uint64_t nbytes, const uint32_t *leaves, uint64_t n, char *out)
{
	cudaStream_t stream = ga_cuda(worker)->stream;
	uint64_t	runs = 0;
	uint64_t	piece = n < GATHER_LEAVES ? n : GATHER_LEAVES;
	char	   *list;
	char	   *scratch;

	for (uint64_t i = 0; i < n; i += run_length(leaves, i, n))
		runs++;
	if (runs == 1 || n / runs >= 16)
		return gather_runs(worker, data, nbytes, leaves, n, out);

	scratch = scratch_with_list(worker, piece * GA_LEAF, leaves, n * sizeof(uint32_t), &list);
	if (scratch == NULL)
		return GA_STATUS_FAILED;
	for (uint64_t i = 0; i < n; i += piece)
	{
		uint64_t	count = n - i < piece ? n - i : piece;
		cudaError_t error;

		gather_kernel<<<(unsigned) count, GATHER_THREADS, 0, stream>>>
			(data, nbytes, (const uint32_t *) list + i, (uint4 *) scratch);
		error = cudaMemcpyAsync(out + i * GA_LEAF, scratch, count * GA_LEAF, cudaMemcpyDeviceToHost, stream);
		if (error != cudaSuccess)
			return ga_cuda_check(worker, error, "gather");
	}
	return ga_cuda_finish(worker, "gather");
}

/* ----- rows ----- */

template<typename T>
static __device__ __forceinline__ void
copy_row(char *to, const char *from, uint64_t nbytes, uint32_t lane)
{
	for (uint64_t i = lane; i < nbytes / sizeof(T); i += 32)
		((T *) to)[i] = ((const T *) from)[i];
}

/* A warp for each row, in the largest units that its place allows. */
static __global__ void
rows_kernel(const char *source, char *target, const uint64_t *pairs, uint64_t n, uint64_t row_bytes)
{
	uint32_t	lane = threadIdx.x % 32;

	for (uint64_t row = (blockIdx.x * (uint64_t) blockDim.x + threadIdx.x) / 32; row < n;
		 row += (uint64_t) gridDim.x * blockDim.x / 32)
	{
		const char *from = source + pairs[2 * row];
		char	   *to = target + pairs[2 * row + 1];
		uint64_t	places = pairs[2 * row] | pairs[2 * row + 1] | row_bytes;

		if (places % 16 == 0)
			copy_row<uint4>(to, from, row_bytes, lane);
		else if (places % 4 == 0)
			copy_row<uint32_t>(to, from, row_bytes, lane);
		else
			copy_row<char>(to, from, row_bytes, lane);
	}
}

GaStatus
ga_backend_gather_rows(GaWorker *worker, const char *source, char *target, const uint64_t (*pairs)[2], uint64_t n,
					   uint64_t row_bytes)
{
	uint64_t	grid = 16 * (uint64_t) ga_cuda_multiprocessors[worker->device];
	uint64_t	blocks = (n + 7) / 8;
	char	   *list;

	if (scratch_with_list(worker, 0, pairs, n * sizeof(*pairs), &list) == NULL)
		return GA_STATUS_FAILED;
	rows_kernel<<<(unsigned) (blocks < grid ? blocks : grid), 256, 0, ga_cuda(worker)->stream>>>
		(source, target, (const uint64_t *) list, n, row_bytes);
	return ga_cuda_finish(worker, "rows");
}
