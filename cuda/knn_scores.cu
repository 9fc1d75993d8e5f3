/*
 * knn_scores.cu
 *		Lower bounds of the distances of all rows to up to eight queries: one pass
 *		over the records, bound by memory.
 *
 * A warp takes a few rows at a time, so that several loads of 16 bytes are under
 * way in each lane and what is loaded of the queries serves all of them. Sums are
 * F32 in any order, as knn_device.h allows for; rows whose F32 sum says nothing
 * are summed in F64 by the whole warp.
 */
#include "knn.cuh"

#include <cuda_fp16.h>

#define THREADS 256
#define WARPS (THREADS / 32)
#define ALL 0xffffffffu

enum {SUM_L2, SUM_L1, SUM_DOT};

template<int STORAGE> struct Chunk;		/* 16 bytes of a record */

template<> struct Chunk<GA_DEVICE_F32>
{
	static const int ELEMENTS = 4, ROWS = 4, BEFORE = 0;
	static __device__ __forceinline__ void
	unpack(uint4 raw, float *x)
	{
		x[0] = __uint_as_float(raw.x);
		x[1] = __uint_as_float(raw.y);
		x[2] = __uint_as_float(raw.z);
		x[3] = __uint_as_float(raw.w);
	}
};

template<> struct Chunk<GA_DEVICE_F16>
{
	static const int ELEMENTS = 8, ROWS = 4, BEFORE = 0;
	static __device__ __forceinline__ void
	unpack(uint4 raw, float *x)
	{
		const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};

#pragma unroll
		for (int i = 0; i < 4; i++)
		{
			float2		two = __half22float2(*(const __half2 *) &words[i]);

			x[2 * i] = two.x;
			x[2 * i + 1] = two.y;
		}
	}
};

/* The first four bytes are the row's scale. */
template<> struct Chunk<GA_DEVICE_INT8>
{
	static const int ELEMENTS = 16, ROWS = 2, BEFORE = 4;
	static __device__ __forceinline__ void
	unpack(uint4 raw, float *x)
	{
		const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};

#pragma unroll
		for (int i = 0; i < 16; i++)
			x[i] = (float) (signed char) (words[i / 4] >> i % 4 * 8);
	}
};

/* What a row's elements are to be multiplied by. */
template<int STORAGE>
static __device__ __forceinline__ double
scale_of(unsigned flags, const char *record)
{
	if (STORAGE == GA_DEVICE_F16)
		return scalbn(1.0, (int) (flags >> GA_DEVICE_EXPONENT_SHIFT) - GA_DEVICE_EXPONENT_BIAS);
	if (STORAGE == GA_DEVICE_INT8)
		return *(const float *) (record + GA_KNN_HEADER);
	return 1;
}

template<int STORAGE>
static __device__ __forceinline__ double
element(const char *record, uint32_t i)
{
	if (STORAGE == GA_DEVICE_F16)
		return __half2float(((const __half *) (record + GA_KNN_HEADER))[i]);
	if (STORAGE == GA_DEVICE_INT8)
		return ((const signed char *) (record + GA_KNN_HEADER + 4))[i];
	return ((const float *) (record + GA_KNN_HEADER))[i];
}

/* The sum of one row and query in F64, by all lanes. */
template<int STORAGE, int KIND>
static __device__ __noinline__ double
sum_wide(const char *record, const float *values, uint32_t dim, double ratio)
{
	double		sum = 0;

	for (uint32_t i = threadIdx.x % 32; i < dim; i += 32)
	{
		double		x = element<STORAGE>(record, i);
		double		difference = x * ratio - values[i];

		if (KIND == SUM_DOT)
			sum += x * values[i];
		else
			sum += KIND == SUM_L2 ? difference * difference : fabs(difference);
	}
	for (int step = 16; step > 0; step /= 2)
		sum += __shfl_xor_sync(ALL, sum, step);
	return sum;
}

template<int KIND>
static __device__ __forceinline__ float
add_term(float x, float ratio, float q, float sum)
{
	float		difference;

	if (KIND == SUM_DOT)
		return fmaf(x, q, sum);
	difference = fmaf(x, ratio, -q);
	return KIND == SUM_L2 ? fmaf(difference, difference, sum) : sum + fabsf(difference);
}

/* Adds the terms of what a lane has of the rows and of one query. */
template<int STORAGE, int KIND>
static __device__ __forceinline__ void
add_chunk(const float (*x)[Chunk<STORAGE>::ELEMENTS], const float *values, const float *ratio, float *sums)
{
	float		q[Chunk<STORAGE>::ELEMENTS];

#pragma unroll
	for (int i = 0; i < Chunk<STORAGE>::ELEMENTS; i += 4)
		*(float4 *) (q + i) = __ldg((const float4 *) (values + i));
#pragma unroll
	for (int r = 0; r < Chunk<STORAGE>::ROWS; r++)
#pragma unroll
		for (int i = 0; i < Chunk<STORAGE>::ELEMENTS; i++)
			sums[r] = add_term<KIND>(x[r][i], ratio[r], q[i], sums[r]);
}

/* What a warp works on: ROWS rows, the last of which may be repeated. */
template<int STORAGE>
struct Rows
{
	const char *record[Chunk<STORAGE>::ROWS];
	uint4		header[Chunk<STORAGE>::ROWS];
};

/* F32 sums of ROWS rows and Q queries, in all lanes. */
template<int STORAGE, int KIND, int Q>
static __device__ __forceinline__ void
sum_rows(const GaKnnSpace &space, uint32_t dim, const Rows<STORAGE> &rows, float (*sums)[Chunk<STORAGE>::ROWS])
{
	const int	N = Chunk<STORAGE>::ELEMENTS;
	const int	BEFORE = Chunk<STORAGE>::BEFORE;
	const int	R = Chunk<STORAGE>::ROWS;
	uint32_t	chunks = (dim + BEFORE + N - 1) / N;
	float		ratio[Q][R];

#pragma unroll
	for (int q = 0; q < Q; q++)
#pragma unroll
		for (int r = 0; r < R; r++)
		{
			sums[q][r] = 0;
			ratio[q][r] = KIND == SUM_DOT ? 1
				: (float) (scale_of<STORAGE>(rows.header[r].y >> 16, rows.record[r]) / space.queries[q].unit);
		}
#pragma unroll (Q == 1 ? 2 : 1)
	for (uint32_t c = threadIdx.x % 32; c < chunks; c += 32)
	{
		float		x[R][N];

#pragma unroll
		for (int r = 0; r < R; r++)
			Chunk<STORAGE>::unpack(__ldcs((const uint4 *) (rows.record[r] + GA_KNN_HEADER) + c), x[r]);
		if (c == chunks - 1 || (BEFORE > 0 && c == 0))
#pragma unroll
			for (int i = 0; i < N; i++)
				if ((BEFORE > 0 && c == 0 && i < BEFORE) || c * N + i >= dim + BEFORE)
#pragma unroll
					for (int r = 0; r < R; r++)
						x[r][i] = 0;
#pragma unroll
		for (int q = 0; q < Q; q++)
			add_chunk<STORAGE, KIND>(x, space.values + q * space.pitch + c * N, ratio[q], sums[q]);
	}
#pragma unroll
	for (int q = 0; q < Q; q++)
#pragma unroll
		for (int r = 0; r < R; r++)
#pragma unroll
			for (int step = 16; step > 0; step /= 2)
				sums[q][r] += __shfl_xor_sync(ALL, sums[q][r], step);
}

/* Whether a lane's F32 sum, of this row and query, is one to make a bound from. */
template<int STORAGE, int KIND>
static __device__ __forceinline__ bool
is_fine(double sum, double ratio, float norm)
{
	if (KIND == SUM_DOT)
		return ga_knn_device_row_is_fine(STORAGE, norm);
	return ratio >= 0x1p-126 && ratio <= 0x1.fffffep127 && ga_knn_device_sum_is_fine(sum);
}

/* Sums in F64 again what the lanes of `needed` have. */
template<int STORAGE, int KIND>
static __device__ __noinline__ double
sum_again(const GaKnnSpace &space, uint32_t dim, unsigned needed, const char *record, uint32_t query, double ratio, double sum)
{
	for (; needed != 0; needed &= needed - 1)
	{
		int			lane = __ffs((int) needed) - 1;
		const char *whose = (const char *) __shfl_sync(ALL, (unsigned long long) record, lane);
		uint32_t	which = __shfl_sync(ALL, query, lane);
		double		by = __shfl_sync(ALL, ratio, lane);
		double		wide = sum_wide<STORAGE, KIND>(whose, space.values + which * space.pitch + Chunk<STORAGE>::BEFORE, dim, by);

		if ((int) threadIdx.x % 32 == lane)
			sum = wide;
	}
	return sum;
}

/* The key of a row and query; GA_KNN_KEY_NONE for a row that does not count. */
static __device__ __forceinline__ GaKey
key_of(const GaKnnSpace &space, uint32_t query, uint64_t row, const char *record, uint4 header, double scale, double sum)
{
	const GaKnnDeviceQuery *q = &space.queries[query];
	unsigned	flags = header.y >> 16;
	GaKey		key;

	if (row >= q->rows || (flags & GA_DEVICE_INDEX_FLAGS))
		return GA_KNN_KEY_NONE;
	key = ga_knn_key(ga_knn_device_bound(q, flags, __uint_as_float(header.z), __uint_as_float(header.w), scale, sum));
	if (q->has_after && (key < space.after[2 * query] ||
						 (key == space.after[2 * query] && ga_knn_tid(record) <= space.after[2 * query + 1])))
		return GA_KNN_KEY_NONE;
	return key;
}

/* Bounds of a warp's rows, one for each lane: lane = query * ROWS + row; that row has the number `row`. */
template<int STORAGE, int KIND, int Q>
static __device__ __forceinline__ GaKey
score(const GaKnnSpace &space, uint32_t dim, uint64_t row, const Rows<STORAGE> &rows)
{
	const int	R = Chunk<STORAGE>::ROWS;
	int			lane = threadIdx.x % 32;
	uint32_t	query = lane / R < Q ? lane / R : 0;
	const char *record = rows.record[0];
	uint4		header = rows.header[0];
	float		sums[Q][R];
	double		sum = 0;
	double		scale;
	double		ratio;
	unsigned	again;

	sum_rows<STORAGE, KIND, Q>(space, dim, rows, sums);
#pragma unroll
	for (int q = 0; q < Q; q++)
#pragma unroll
		for (int r = 0; r < R; r++)
			if (lane == q * R + r)
			{
				sum = sums[q][r];
				record = rows.record[r];
				header = rows.header[r];
			}
	scale = scale_of<STORAGE>(header.y >> 16, record);
	ratio = KIND == SUM_DOT ? 1 : scale / space.queries[query].unit;
	again = __ballot_sync(ALL, lane < Q * R && space.queries[query].ordinary && !is_fine<STORAGE, KIND>(sum, ratio, __uint_as_float(header.w)));
	if (again != 0)
		sum = sum_again<STORAGE, KIND>(space, dim, again, record, query, ratio, sum);
	return key_of(space, query, row, record, header, scale, sum);
}

/* Adds to what the keys of each query lie between: a lane's, then the block's. */
static __device__ void
add_range(const GaKnnSpace &space, uint32_t query, GaKey least, GaKey most)
{
	__shared__ GaKey range[2][GA_KNN_SHARE];

	if (threadIdx.x < GA_KNN_SHARE)
	{
		range[0][threadIdx.x] = GA_KNN_KEY_NONE;
		range[1][threadIdx.x] = 0;
	}
	__syncthreads();
	if (query < space.nqueries && least <= most)
	{
		atomicMin(&range[0][query], least);
		atomicMax(&range[1][query], most);
	}
	__syncthreads();
	if (threadIdx.x < space.nqueries && range[0][threadIdx.x] <= range[1][threadIdx.x])
	{
		atomicMin(&space.selections[threadIdx.x].least, range[0][threadIdx.x]);
		atomicMax(&space.selections[threadIdx.x].most, range[1][threadIdx.x]);
	}
}

template<int STORAGE, int KIND, int Q>
static __global__ void __launch_bounds__(THREADS, 2)
scores_kernel(const __grid_constant__ GaKnnSpace space, uint32_t dim)
{
	const int	R = Chunk<STORAGE>::ROWS;
	int			lane = threadIdx.x % 32;
	uint64_t	warp = (uint64_t) blockIdx.x * WARPS + threadIdx.x / 32;
	uint64_t	step = (uint64_t) gridDim.x * WARPS * R;
	const GaKey first_infinite = ga_knn_key(HUGE_VAL);
	const GaKey last_infinite = ga_knn_key(-HUGE_VAL);
	GaKey		least = GA_KNN_KEY_NONE;
	GaKey		most = 0;

	for (uint64_t first = warp * R; first < space.rows; first += step)
	{
		Rows<STORAGE> rows;
		GaKey		key;

#pragma unroll
		for (int r = 0; r < R; r++)
		{
			rows.record[r] = space.records + (first + r < space.rows ? first + r : first) * space.stride;
			rows.header[r] = __ldg((const uint4 *) rows.record[r]);
		}
		key = score<STORAGE, KIND, Q>(space, dim, first + lane % R, rows);
		if (lane < Q * R && lane / R < space.nqueries && first + lane % R < space.rows)
		{
			space.keys[(uint64_t) (lane / R) * space.slots + first + lane % R] = key;
			if (key < first_infinite && key > last_infinite)
			{
				least = key < least ? key : least;
				most = key > most ? key : most;
			}
		}
	}
	add_range(space, lane / R, least, most);
}

/* Of the rows that are listed for the query blockIdx.y: the same keys. */
template<int STORAGE, int KIND>
static __global__ void __launch_bounds__(THREADS, 2)
listed_kernel(const __grid_constant__ GaKnnSpace space, uint32_t dim)
{
	const int	R = Chunk<STORAGE>::ROWS;
	uint32_t	query = blockIdx.y;
	int			lane = threadIdx.x % 32;
	uint64_t	slots = ga_knn_slots(space, query);
	const GaKey first_infinite = ga_knn_key(HUGE_VAL);
	const GaKey last_infinite = ga_knn_key(-HUGE_VAL);
	GaKey		least = GA_KNN_KEY_NONE;
	GaKey		most = 0;
	GaKnnSpace	one = space;

	one.nqueries = 1;
	one.queries += query;
	one.values += (uint64_t) query * space.pitch;
	one.after += 2 * query;
	one.selections += query;
	for (uint64_t first = ((uint64_t) blockIdx.x * WARPS + threadIdx.x / 32) * R; first < slots; first += (uint64_t) gridDim.x * WARPS * R)
	{
		Rows<STORAGE> rows;
		uint64_t	row = 0;
		GaKey		key;

#pragma unroll
		for (int r = 0; r < R; r++)
		{
			uint64_t	number = ga_knn_row(space, query, first + r < slots ? first + r : first);

			rows.record[r] = space.records + number * space.stride;
			rows.header[r] = __ldg((const uint4 *) rows.record[r]);
			row = lane == r ? number : row;
		}
		key = score<STORAGE, KIND, 1>(one, dim, row, rows);
		if (lane < R && first + lane < slots)
		{
			space.keys[query * space.slots + first + lane] = key;
			if (key < first_infinite && key > last_infinite)
			{
				least = key < least ? key : least;
				most = key > most ? key : most;
			}
		}
	}
	add_range(one, 0, least, most);
}

/* ----- launching ----- */

template<int STORAGE, int KIND, int Q>
static void
launch(const GaKnnSpace *space, uint32_t dim, int multiprocessors, cudaStream_t stream)
{
	uint64_t	needed = (space->rows + WARPS * Chunk<STORAGE>::ROWS - 1) / (WARPS * Chunk<STORAGE>::ROWS);
	uint64_t	most = (uint64_t) multiprocessors * 2;

	scores_kernel<STORAGE, KIND, Q><<<(unsigned) (needed < most ? needed : most), THREADS, 0, stream>>>(*space, dim);
}

template<int STORAGE, int KIND>
static void
launch_queries(const GaKnnSpace *space, uint32_t dim, int multiprocessors, cudaStream_t stream)
{
	if (space->nqueries == 1)
		launch<STORAGE, KIND, 1>(space, dim, multiprocessors, stream);
	else if (space->nqueries == 2)
		launch<STORAGE, KIND, 2>(space, dim, multiprocessors, stream);
	else if (space->nqueries <= 4)
		launch<STORAGE, KIND, 4>(space, dim, multiprocessors, stream);
	else
		launch<STORAGE, KIND, 8>(space, dim, multiprocessors, stream);
}

template<int STORAGE>
static void
launch_metric(const GaKnnSpace *space, int metric, uint32_t dim, int multiprocessors, cudaStream_t stream)
{
	if (metric == GA_DEVICE_L2)
		launch_queries<STORAGE, SUM_L2>(space, dim, multiprocessors, stream);
	else if (metric == GA_DEVICE_L1)
		launch_queries<STORAGE, SUM_L1>(space, dim, multiprocessors, stream);
	else
		launch_queries<STORAGE, SUM_DOT>(space, dim, multiprocessors, stream);
}

void
ga_knn_launch_scores(const GaKnnSpace *space, int metric, int storage, uint32_t dim, int multiprocessors, cudaStream_t stream)
{
	if (storage == GA_DEVICE_F32)
		launch_metric<GA_DEVICE_F32>(space, metric, dim, multiprocessors, stream);
	else if (storage == GA_DEVICE_F16)
		launch_metric<GA_DEVICE_F16>(space, metric, dim, multiprocessors, stream);
	else
		launch_metric<GA_DEVICE_INT8>(space, metric, dim, multiprocessors, stream);
}

/* A pass that lists rows is one of F16 records, and not under L1. */
void
ga_knn_launch_listed(const GaKnnSpace *space, int metric, uint32_t dim, int multiprocessors, cudaStream_t stream)
{
	dim3		grid((unsigned) (4 * multiprocessors / space->nqueries + 1), space->nqueries);

	if (metric == GA_DEVICE_L2)
		listed_kernel<GA_DEVICE_F16, SUM_L2><<<grid, THREADS, 0, stream>>>(*space, dim);
	else
		listed_kernel<GA_DEVICE_F16, SUM_DOT><<<grid, THREADS, 0, stream>>>(*space, dim);
}
