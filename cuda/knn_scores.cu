/*
 * knn_scores.cu
 *		Lower bounds of the distances of all rows to up to eight queries: one pass
 *		over the records, bound by memory.
 *
 * A warp takes a few rows at a time, so that several loads of 16 bytes are under
 * way in each lane and what is loaded of the queries serves all of them; when it
 * has 32 sums of rows and queries, each lane makes the bound of one. Sums are F32
 * in an order that knn_device.h allows for, the same for any number of queries;
 * where an F32 sum says nothing, the whole warp sums in F64.
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

/*
 * Adds up N sums over the lanes of a warp, N a power of two; a lane gets number
 * lane % N. Lanes are added in pairs 16 apart, then 8, 4, 2, 1, whatever N is.
 */
template<int N>
static __device__ __forceinline__ float
sum_lanes(float *sums)
{
	int			lane = threadIdx.x % 32;
	int			step = 16;

#pragma unroll
	for (int n = N; n > 1; n /= 2, step /= 2)
	{
		bool		upper = lane & step;

#pragma unroll
		for (int i = 0; i < n / 2; i++)
		{
			float		kept = upper ? sums[n / 2 + i] : sums[i];
			float		given = upper ? sums[i] : sums[n / 2 + i];

			sums[i] = kept + __shfl_xor_sync(ALL, given, step);
		}
	}
#pragma unroll
	for (; step > 0; step /= 2)
		sums[0] += __shfl_xor_sync(ALL, sums[0], step);
	/* Number i is where the highest bits of the lane are i. */
	return __shfl_sync(ALL, sums[0], lane % N * (32 / N));
}

/*
 * The F32 sum of one of ROWS rows and Q queries: of query lane / ROWS % Q and row
 * lane % ROWS. `ratio` is that of this lane's row and query; the rows' is had
 * from the lanes that begin with `first`.
 */
template<int STORAGE, int KIND, int Q>
static __device__ __forceinline__ float
sum_rows(const GaKnnSpace &space, uint32_t dim, const char *const *records, float my_ratio, int first)
{
	const int	N = Chunk<STORAGE>::ELEMENTS;
	const int	BEFORE = Chunk<STORAGE>::BEFORE;
	const int	R = Chunk<STORAGE>::ROWS;
	uint32_t	chunks = (dim + BEFORE + N - 1) / N;
	float		ratio[Q][R];
	float		sums[Q][R];

#pragma unroll
	for (int q = 0; q < Q; q++)
#pragma unroll
		for (int r = 0; r < R; r++)
		{
			sums[q][r] = 0;
			ratio[q][r] = KIND == SUM_DOT ? 1 : __shfl_sync(ALL, my_ratio, first + q * R + r);
		}
#pragma unroll (Q == 1 ? 2 : 1)
	for (uint32_t c = threadIdx.x % 32; c < chunks; c += 32)
	{
		float		x[R][N];

#pragma unroll
		for (int r = 0; r < R; r++)
			Chunk<STORAGE>::unpack(__ldcs((const uint4 *) (records[r] + GA_KNN_HEADER) + c), x[r]);
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
	return sum_lanes<Q * R>(&sums[0][0]);
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

/* A lane's row and query. */
typedef struct Mine
{
	uint64_t	row;			/* its number */
	uint32_t	query;
	const char *record;
	uint4		header;
	double		scale;
	double		ratio;
} Mine;

template<int STORAGE, int KIND>
static __device__ __forceinline__ Mine
take(const GaKnnSpace &space, uint64_t row, uint32_t query)
{
	Mine		mine;

	mine.row = row;
	mine.query = query;
	mine.record = space.records + row * space.stride;
	mine.header = __ldg((const uint4 *) mine.record);
	mine.scale = scale_of<STORAGE>(mine.header.y >> 16, mine.record);
	mine.ratio = KIND == SUM_DOT ? 1 : mine.scale / space.queries[query].unit;
	return mine;
}

/*
 * The key of each lane's row and query. Lanes go by groups of Q * ROWS, one of
 * ROWS rows each: in each, lane / ROWS % Q is the query and lane % ROWS the row.
 */
template<int STORAGE, int KIND, int Q>
static __device__ __forceinline__ GaKey
score(const GaKnnSpace &space, uint32_t dim, const Mine &mine)
{
	const int	R = Chunk<STORAGE>::ROWS;
	int			lane = threadIdx.x % 32;
	double		sum = 0;
	unsigned	again;

#pragma unroll 1
	for (int first = 0; first < 32; first += Q * R)
	{
		const char *records[R];
		float		sums;

#pragma unroll
		for (int r = 0; r < R; r++)
			records[r] = (const char *) __shfl_sync(ALL, (unsigned long long) mine.record, first + r);
		sums = sum_rows<STORAGE, KIND, Q>(space, dim, records, (float) mine.ratio, first);
		if (lane / (Q * R) == first / (Q * R))
			sum = sums;
	}
	again = __ballot_sync(ALL, space.queries[mine.query].ordinary &&
						  !is_fine<STORAGE, KIND>(sum, mine.ratio, __uint_as_float(mine.header.w)));
	if (again != 0)
		sum = sum_again<STORAGE, KIND>(space, dim, again, mine.record, mine.query, mine.ratio, sum);
	return key_of(space, mine.query, mine.row, mine.record, mine.header, mine.scale, sum);
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

/* Adds a key to what a lane's keys lie between; infinite ones and NaN do not count. */
static __device__ __forceinline__ void
add_key(GaKey key, GaKey *least, GaKey *most)
{
	if (key < ga_knn_key(HUGE_VAL) && key > ga_knn_key(-HUGE_VAL))
	{
		*least = key < *least ? key : *least;
		*most = key > *most ? key : *most;
	}
}

/* Rows that a warp has the bounds of at once; past the end, the last one again. */
#define AT_ONCE(Q) (32 / (Q))

template<int STORAGE, int KIND, int Q>
static __global__ void __launch_bounds__(THREADS, 2)
scores_kernel(const __grid_constant__ GaKnnSpace space, uint32_t dim)
{
	const int	R = Chunk<STORAGE>::ROWS;
	int			lane = threadIdx.x % 32;
	uint32_t	query = lane / R % Q;
	uint64_t	warp = (uint64_t) blockIdx.x * WARPS + threadIdx.x / 32;
	GaKey		least = GA_KNN_KEY_NONE;
	GaKey		most = 0;

	for (uint64_t first = warp * AT_ONCE(Q); first < space.rows; first += (uint64_t) gridDim.x * WARPS * AT_ONCE(Q))
	{
		uint64_t	row = first + lane / (Q * R) * R + lane % R;
		bool		there = row < space.rows;
		GaKey		key = score<STORAGE, KIND, Q>(space, dim, take<STORAGE, KIND>(space, there ? row : space.rows - 1, query));

		if (there && query < space.nqueries)
		{
			space.keys[(uint64_t) query * space.slots + row] = key;
			add_key(key, &least, &most);
		}
	}
	add_range(space, query, least, most);
}

/* Of the rows that are listed for the query blockIdx.y: the same keys. */
template<int STORAGE, int KIND>
static __global__ void __launch_bounds__(THREADS, 2)
listed_kernel(const __grid_constant__ GaKnnSpace space, uint32_t dim)
{
	uint32_t	query = blockIdx.y;
	uint64_t	slots = ga_knn_slots(space, query);
	uint64_t	warp = (uint64_t) blockIdx.x * WARPS + threadIdx.x / 32;
	GaKey		least = GA_KNN_KEY_NONE;
	GaKey		most = 0;
	GaKnnSpace	one = space;

	one.nqueries = 1;
	one.queries += query;
	one.values += (uint64_t) query * space.pitch;
	one.after += 2 * query;
	one.selections += query;
	for (uint64_t first = warp * AT_ONCE(1); first < slots; first += (uint64_t) gridDim.x * WARPS * AT_ONCE(1))
	{
		uint64_t	slot = first + threadIdx.x % 32;
		uint64_t	row = ga_knn_row(space, query, slot < slots ? slot : slots - 1);
		GaKey		key = score<STORAGE, KIND, 1>(one, dim, take<STORAGE, KIND>(one, row, 0));

		if (slot < slots)
		{
			space.keys[query * space.slots + slot] = key;
			add_key(key, &least, &most);
		}
	}
	add_range(one, 0, least, most);
}

/* ----- launching ----- */

template<int STORAGE, int KIND, int Q>
static void
launch(const GaKnnSpace *space, uint32_t dim, int multiprocessors, cudaStream_t stream)
{
	uint64_t	needed = (space->rows + WARPS * AT_ONCE(Q) - 1) / (WARPS * AT_ONCE(Q));
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
	dim3		grid((unsigned) (2 * multiprocessors / space->nqueries + 1), space->nqueries);

	if (metric == GA_DEVICE_L2)
		listed_kernel<GA_DEVICE_F16, SUM_L2><<<grid, THREADS, 0, stream>>>(*space, dim);
	else
		listed_kernel<GA_DEVICE_F16, SUM_DOT><<<grid, THREADS, 0, stream>>>(*space, dim);
}
