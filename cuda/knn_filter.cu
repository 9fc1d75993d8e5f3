/*
 * knn_filter.cu
 *		Many queries in one pass over F16 records: tensor cores multiply rows by
 *		queries, and the few rows that may be among those wanted are listed. Their
 *		bounds are then made as those of a single query are (knn_scores.cu), so the
 *		answers are the same, bit for bit.
 *
 * Products of a tensor core say where a bound lies, no more. With h the row as it
 * is stored, p the query's values * unit, r those values rounded to F16, and s
 * what the tensor core has for the product of h and r:
 *
 *		|s - h p| <= |h| |p - r| + gamma |h| |r|
 *
 * where gamma allows for two units in the last place for each product, in sums
 * that may be rounded anyhow: dim * 2^-22 + 2^-20. From this a row gets numbers
 * below and above its bound (knn_device.h); all here is F32, so what is below is
 * made smaller by some 2^-19 of the terms, and what is above larger.
 *
 * First, a sample of rows: of each query, the limit-th smallest number above
 * theirs is at least the last bound wanted. Then, all rows: those whose number
 * below is not greater than that are listed, some thousands; the limit-th smallest
 * number above of these is a better limit, which leaves hardly more than are
 * wanted. Where the list is too short the query goes the other way (knn.cu).
 * Anything odd about a row lists it.
 */
#include "knn.cuh"
#include "tensor_core.cuh"

#define THREADS 256
#define TILE_ROWS 256			/* 32 of each warp */
#define STEP 64					/* elements of a row that are loaded at once: 8 chunks of 16 bytes */
#define CHUNKS (STEP / 8)
#define STAGES 4
#define LIMIT_THREADS 1024
#define ALL 0xffffffffu

#define LEAST_SAMPLE UINT64_C(8192)
#define MOST_SAMPLE UINT64_C(131072)

/* Rows and queries outside of these are for others. */
#define MOST_NORM 0x1p60f
#define LEAST_DIRECTION 0x1p-40f

/* Of F32 arithmetic here, and of what underflows. */
#define SLOP 0x1p-19
#define TINY 0x1p-100f

/* Of a query, in F32; for L2 and, behind the slash, for products. */
struct GaKnnFilterQuery
{
	float		unit;			/* of the products */
	float		square;			/* |p|^2 / factor of a row's loss */
	float		below;			/* factor of |h|^2 + |p|^2 / of a row's length */
	float		above;
	float		limit;			/* rows whose number below is greater are not wanted */
	float		after;			/* with has_after: rows whose number below is greater come after that row */
	uint32_t	has_after;
	uint32_t	reserved;
	uint64_t	rows;
};

/* Whether a query may be filtered at all. */
bool
ga_knn_may_filter(const GaKnnDeviceQuery *q)
{
	if (q->storage != GA_DEVICE_F16 || q->metric == GA_DEVICE_L1 || q->nowhere || !q->ordinary || q->rows == 0 || q->rows > UINT32_MAX)
		return false;
	if (!(q->norm <= MOST_NORM) || !(q->value_factor > 0.5) || !(q->sum_factor > 0.5))
		return false;
	if (q->metric == GA_DEVICE_COSINE && q->f32_sums && !(q->length >= 0x1p-40 && q->length <= 0x1p60))
		return false;
	return q->limit * (q->rows / (double) ga_knn_sample(q->rows, q->limit)) <= GA_KNN_LISTED / 2;
}

/* ----- queries ----- */

/* What the number below a row's bound is compared with to see whether the bound is surely above `value`. */
static __device__ float
limit_of(const GaKnnDeviceQuery *q, double value)
{
	if (q->metric == GA_DEVICE_L2)
	{
		double		least = (value + q->value_tiny) / q->value_factor + q->loss * (1 + 0x1p-40);

		return (float) (least / (q->sum_factor * q->sum_factor) * (1 + SLOP));
	}
	if (q->metric == GA_DEVICE_COSINE)
		value -= 1;
	return (float) (value + SLOP * (fabs(value) + 1) + TINY);
}

/* Sums over a block's threads, in thread 0. */
static __device__ double
sum_block(double mine)
{
	__shared__ double sums[THREADS];

	sums[threadIdx.x] = mine;
	__syncthreads();
	for (int step = THREADS / 2; step > 0; step /= 2)
	{
		if ((int) threadIdx.x < step)
			sums[threadIdx.x] += sums[threadIdx.x + step];
		__syncthreads();
	}
	mine = sums[0];
	__syncthreads();
	return mine;
}

/* A block for each query: rounds its values to F16 times 2^15, zeros behind them, and makes its terms. */
static __global__ void __launch_bounds__(THREADS)
prepare_kernel(const __grid_constant__ GaKnnFilter f)
{
	const GaKnnDeviceQuery *q = &f.space.queries[blockIdx.x];
	const float *values = f.space.values + (uint64_t) blockIdx.x * f.space.pitch;
	__half	   *halves = f.halves + (uint64_t) blockIdx.x * f.pitch;
	double		square = 0;
	double		lost = 0;

	for (uint32_t i = threadIdx.x; i < f.pitch; i += THREADS)
	{
		float		value = i < f.dim && blockIdx.x < f.space.nqueries ? values[i] : 0;
		__half		half = __float2half_rn(value * 0x1p15f);
		double		difference = value - (double) __half2float(half) * 0x1p-15;

		halves[i] = half;
		square += (double) value * value;
		lost += difference * difference;
	}
	square = sum_block(square);
	lost = sum_block(lost);
	if (threadIdx.x == 0 && blockIdx.x < f.space.nqueries)
	{
		GaKnnFilterQuery *to = &f.queries[blockIdx.x];
		double		norm = sqrt(square) * q->unit;
		double		off = (sqrt(lost) + (f.dim * 0x1p-22 + 0x1p-20) * (sqrt(square) + sqrt(lost))) * q->unit * (1 + SLOP);

		to->unit = (float) (q->unit * 0x1p-15);
		if (q->metric == GA_DEVICE_L2)
		{
			double		relative = (norm > 0 ? off / norm : 0) + SLOP;

			to->square = (float) (norm * norm);
			to->below = (float) (1 - relative);
			to->above = (float) (1 + relative);
		}
		else
		{
			to->square = (float) (q->norm * (1 + SLOP));
			to->below = (float) ((q->loss + 2 * q->slack * q->norm + off + SLOP * norm) * (1 + SLOP));
			to->above = (float) ((off + SLOP * norm) * (1 + SLOP));
		}
		to->limit = INFINITY;
		to->has_after = q->has_after;
		to->after = q->has_after ? limit_of(q, q->after_bound) : 0;
		to->rows = q->rows;
	}
}

/* ----- rows ----- */

/* Of a row, in F32; for L2 and, behind the slash, for products. */
typedef struct Terms
{
	float		scale;			/* of the products: twice the row's / the row's */
	float		square;			/* |h|^2 / at least |h| */
	float		loss;			/* below 0: the row does not count; infinite: it is to be listed */
} Terms;

template<bool ROOT>
static __device__ __forceinline__ Terms
terms_of(uint4 header, const GaKnnFilter &f)
{
	unsigned	flags = header.y >> 16;
	float		loss = __uint_as_float(header.z);
	float		norm = __uint_as_float(header.w);
	float		scale = scalbnf(1.0f, (int) (flags >> GA_DEVICE_EXPONENT_SHIFT) - GA_DEVICE_EXPONENT_BIAS);
	bool		cosine = f.metric == GA_DEVICE_COSINE;

	if (flags & GA_DEVICE_INDEX_FLAGS)
		return {0, 0, -1};
	if ((flags & GA_DEVICE_NAN) || !(norm <= MOST_NORM) || !(loss <= MOST_NORM) || (cosine && !(norm >= LEAST_DIRECTION)))
		return {0, 0, INFINITY};
	if (ROOT)
		return {2 * scale, norm * norm, loss * f.grow};
	return {scale, (cosine ? 1 : norm * (1 + 0x1p-20f)) + loss * (1 + 0x1p-20f) + (cosine ? 0x1p-20f : 0), loss};
}

/* Whether the row's bound is surely greater than what `limit` was made of. */
template<bool ROOT>
static __device__ __forceinline__ bool
is_above(const Terms &row, const GaKnnFilterQuery &q, float dot, float limit)
{
	float		product = row.scale * dot * q.unit;

	if (ROOT)
	{
		float		root = limit + row.loss;

		return fmaf(row.square + q.square, q.below, -product) > fmaf(root, root, TINY);
	}
	return -product > fmaf(row.loss, q.square, fmaf(row.square, q.below, limit));
}

/* At least the row's bound; infinite where nothing can be said, or it does not count. */
template<bool ROOT>
static __device__ __forceinline__ float
number_above(const Terms &row, const GaKnnFilterQuery &q, float dot, float one)
{
	float		product = row.scale * dot * q.unit;
	float		number;

	if (!(row.loss >= 0) || row.loss > MOST_NORM || (q.has_after && !is_above<ROOT>(row, q, dot, q.after)))
		return INFINITY;
	if (!ROOT)
		number = fmaf(row.square, q.above, one - product) + TINY;
	else
	{
		number = fmaf(row.square + q.square, q.above, -product) + TINY;
		if (number < INFINITY)
			number = sqrtf(number > 0 ? number : 0) * (1 + 0x1p-20f);
	}
	return number < INFINITY ? number : INFINITY;
}

/* ----- the pass ----- */

/* The part of the shared memory that a step's rows and queries are in: chunks of 16 bytes. */
template<int BLOCKS>
struct Stage
{
	uint4		rows[TILE_ROWS * CHUNKS];
	uint4		queries[BLOCKS * 8 * CHUNKS];
};

/* Chunks of a row are in an order of its own, so that those of one number in eight rows are in different banks. */
static __device__ __forceinline__ int
place(int row, int chunk)
{
	return row * CHUNKS + (chunk ^ (row & (CHUNKS - 1)));
}

static __device__ __forceinline__ const char *
record_of(const GaKnnFilter &f, uint64_t slot)
{
	return f.space.records + (slot < f.slots ? slot : f.slots - 1) * f.step * f.space.stride;
}

/* Begins to copy step k of a tile. Eight threads copy the chunks of one row. */
template<int BLOCKS>
static __device__ __forceinline__ void
copy_step(const GaKnnFilter &f, uint64_t tile, uint32_t k, Stage<BLOCKS> *to)
{
	int			chunk = threadIdx.x % CHUNKS;
	int			first = threadIdx.x / CHUNKS;
	int			nbytes = (int) (f.dim * 2) - (int) (k * STEP + chunk * 8) * 2;

	nbytes = nbytes < 0 ? 0 : nbytes > 16 ? 16 : nbytes;
#pragma unroll
	for (int row = first; row < TILE_ROWS; row += THREADS / CHUNKS)
	{
		const char *record = record_of(f, tile * TILE_ROWS + row);

		ga_copy_async(&to->rows[place(row, chunk)], record + (nbytes > 0 ? GA_KNN_HEADER + (k * STEP + chunk * 8) * 2 : 0), nbytes);
	}
	for (int query = first; query < BLOCKS * 8; query += THREADS / CHUNKS)
		ga_copy_async(&to->queries[place(query, chunk)], f.halves + (uint64_t) query * f.pitch + k * STEP + chunk * 8, 16);
}

/* Adds the products of a step: 32 rows of the warp and all queries. */
template<int BLOCKS>
static __device__ __forceinline__ void
multiply_step(const Stage<BLOCKS> *stage, float (*sums)[BLOCKS][4])
{
	int			lane = threadIdx.x % 32;
	int			first = threadIdx.x / 32 * 32;

#pragma unroll
	for (int k = 0; k < CHUNKS; k += 2)
	{
		uint32_t	a[2][4];

#pragma unroll
		for (int i = 0; i < 2; i++)
			ga_load_matrices(a[i], &stage->rows[place(first + i * 16 + lane % 16, k + lane / 16)]);
#pragma unroll
		for (int j = 0; j < BLOCKS; j += 2)
		{
			uint32_t	b[4];

			ga_load_matrices(b, &stage->queries[place((BLOCKS > 1 ? j * 8 + lane / 16 * 8 : 0) + lane % 8, k + lane / 8 % 2)]);
#pragma unroll
			for (int i = 0; i < 2; i++)
			{
				ga_multiply(sums[i][j], a[i], b);
				if (BLOCKS > 1)
					ga_multiply(sums[i][j + 1], a[i], b + 2);
			}
		}
	}
}

static __device__ __forceinline__ void
list_row(const GaKnnFilter &f, uint32_t query, uint64_t row, float dot)
{
	GaKey		at = atomicAdd(&f.space.selections[query].listed, (GaKey) 1);

	if (at < GA_KNN_LISTED)
		f.listed[(uint64_t) query * GA_KNN_LISTED + at] = {(uint32_t) row, dot};
}

static __device__ __forceinline__ float *
numbers_of(const GaKnnFilter &f, uint32_t query)
{
	return f.above + query * (f.sample > GA_KNN_LISTED ? f.sample : GA_KNN_LISTED);
}

/* What the products of a tile's rows say; `mine` are the terms of the warp's row that has the lane's number. */
template<int BLOCKS, bool SAMPLE, bool ROOT>
static __device__ __forceinline__ void
judge(const GaKnnFilter &f, const GaKnnFilterQuery *queries, uint64_t tile, const Terms &mine, float (*sums)[BLOCKS][4])
{
	int			lane = threadIdx.x % 32;
	float		one = f.metric == GA_DEVICE_COSINE ? 1 : 0;

#pragma unroll
	for (int part = 0; part < 4; part++)
	{
		int			number = part * 8 + lane / 4;
		uint64_t	slot = tile * TILE_ROWS + threadIdx.x / 32 * 32 + number;
		uint64_t	row = slot * f.step;
		Terms		terms;

		terms.scale = __shfl_sync(ALL, mine.scale, number);
		terms.square = __shfl_sync(ALL, mine.square, number);
		terms.loss = __shfl_sync(ALL, mine.loss, number);
		if (slot >= f.slots || (!SAMPLE && terms.loss < 0))
			continue;
#pragma unroll
		for (int j = 0; j < BLOCKS; j++)
#pragma unroll
			for (int i = 0; i < 2; i++)
			{
				uint32_t	query = j * 8 + lane % 4 * 2 + i;
				float		dot = sums[part / 2][j][part % 2 * 2 + i];

				if (query >= f.space.nqueries)
					continue;
				if (SAMPLE)
					numbers_of(f, query)[slot] = row < queries[query].rows ? number_above<ROOT>(terms, queries[query], dot, one) : INFINITY;
				else if (row < queries[query].rows && !is_above<ROOT>(terms, queries[query], dot, queries[query].limit))
					list_row(f, query, row, dot);
			}
	}
}

/* Blocks take tiles in turn; copies of the next steps, also of the next tile, go on beside the work on one. */
template<int BLOCKS, bool SAMPLE, bool ROOT>
static __global__ void __launch_bounds__(THREADS, 1)
filter_kernel(const __grid_constant__ GaKnnFilter f)
{
	extern __shared__ uint4 shared[];
	Stage<BLOCKS> *stages = (Stage<BLOCKS> *) shared;
	GaKnnFilterQuery *queries = (GaKnnFilterQuery *) (stages + STAGES);
	uint32_t	steps = f.pitch / STEP;
	uint64_t	tiles = (f.slots + TILE_ROWS - 1) / TILE_ROWS;
	uint64_t	tile = blockIdx.x;
	uint64_t	next_tile = blockIdx.x;
	uint32_t	next = 0;
	int			stage = 0;
	Terms		mine = {0, 0, -1};

	if (threadIdx.x < f.space.nqueries)
		queries[threadIdx.x] = f.queries[threadIdx.x];
	for (int i = 0; i < STAGES - 1; i++)
	{
		if (next_tile < tiles)
			copy_step<BLOCKS>(f, next_tile, next, &stages[i]);
		ga_copy_commit();
		if (++next == steps)
		{
			next = 0;
			next_tile += gridDim.x;
		}
	}
	for (; tile < tiles; tile += gridDim.x)
	{
		uint4		header = __ldg((const uint4 *) record_of(f, tile * TILE_ROWS + threadIdx.x));
		float		sums[2][BLOCKS][4] = {};

		for (uint32_t k = 0; k < steps; k++)
		{
			/* The step is there, for all threads; and all have done with the one before, whose place the next copy takes. */
			ga_copy_wait<STAGES - 2>();
			__syncthreads();
			if (next_tile < tiles)
				copy_step<BLOCKS>(f, next_tile, next, &stages[(stage + STAGES - 1) % STAGES]);
			ga_copy_commit();
			if (++next == steps)
			{
				next = 0;
				next_tile += gridDim.x;
			}
			multiply_step<BLOCKS>(&stages[stage], sums);
			stage = (stage + 1) % STAGES;
		}
		mine = terms_of<ROOT>(header, f);
		judge<BLOCKS, SAMPLE, ROOT>(f, queries, tile, mine, sums);
	}
	ga_copy_wait<0>();
}

/* ----- limits ----- */

/* Numbers as they are sorted. */
static __device__ __forceinline__ unsigned int
ordered(float number)
{
	unsigned int bits = __float_as_uint(number);

	return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ float
number_of(unsigned int bits)
{
	return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

/*
 * Among numbers whose first 12 bits are `high`, or among all of them (shift 20),
 * the bin of 12 bits in which number `wanted` is; and how many are before it. One
 * block; false when there are not so many.
 */
static __device__ bool
find_bin(const float *numbers, uint32_t n, int shift, unsigned int high, uint32_t wanted, uint32_t *bin, uint32_t *before)
{
	const int	EACH = GA_KNN_BINS / LIMIT_THREADS;
	__shared__ unsigned int count[GA_KNN_BINS];
	__shared__ uint32_t found[3];
	uint32_t	sum = 0;
	bool		any;

	for (int i = 0; i < EACH; i++)
		count[i * LIMIT_THREADS + threadIdx.x] = 0;
	if (threadIdx.x == 0)
		found[0] = 0;
	__syncthreads();
#pragma unroll 4
	for (uint32_t i = threadIdx.x; i < n; i += LIMIT_THREADS)
	{
		float		number = numbers[i];
		unsigned int bits = ordered(number);

		if (number < INFINITY && (shift == 20 || bits >> 20 == high))
			atomicAdd(&count[bits >> shift & (GA_KNN_BINS - 1)], 1u);
	}
	__syncthreads();
	for (int i = 0; i < EACH; i++)
		sum += count[threadIdx.x * EACH + i];
	sum = (uint32_t) ga_knn_sum_up_to<LIMIT_THREADS>(sum) - sum;
	for (int i = 0; i < EACH; i++)
	{
		uint32_t	mine = count[threadIdx.x * EACH + i];

		if (sum < wanted && sum + mine >= wanted)
		{
			found[0] = 1;
			found[1] = threadIdx.x * EACH + i;
			found[2] = sum;
		}
		sum += mine;
	}
	__syncthreads();
	any = found[0] != 0;
	*bin = found[1];
	*before = found[2];
	__syncthreads();
	return any;
}

/* The end of the 2^-15 or so in which the wanted-th of n numbers is; false when there are not so many. */
static __device__ bool
find_number(const float *numbers, uint32_t n, uint32_t wanted, float *number)
{
	uint32_t	high;
	uint32_t	low;
	uint32_t	before;

	if (!find_bin(numbers, n, 20, 0, wanted, &high, &before) || !find_bin(numbers, n, 8, high, wanted - before, &low, &before))
		return false;
	*number = number_of(high << 20 | low << 8 | 0xff);
	return true;
}

/* A block for each query: the limit that the sample gives. */
static __global__ void __launch_bounds__(LIMIT_THREADS)
limit_kernel(const __grid_constant__ GaKnnFilter f)
{
	const GaKnnDeviceQuery *q = &f.space.queries[blockIdx.x];
	float		last;

	if (find_number(numbers_of(f, blockIdx.x), (uint32_t) f.sample, q->limit, &last))
	{
		if (threadIdx.x == 0)
			f.queries[blockIdx.x].limit = limit_of(q, last);
	}
	else if (threadIdx.x == 0 && f.space.rows > GA_KNN_LISTED)
	{
		/* Any row may be wanted, and the list is too short for them. */
		f.space.selections[blockIdx.x].listed = f.space.rows;
		f.queries[blockIdx.x].rows = 0;
	}
}

/* A block for each query: of the rows that are listed, those that the limit which they give leaves. */
template<bool ROOT>
static __global__ void __launch_bounds__(LIMIT_THREADS)
narrow_kernel(const __grid_constant__ GaKnnFilter f)
{
	__shared__ unsigned int kept;
	__shared__ GaKnnFilterQuery query;
	const GaKnnListed *listed = f.listed + (uint64_t) blockIdx.x * GA_KNN_LISTED;
	uint32_t   *list = f.space.list + (uint64_t) blockIdx.x * GA_KNN_LISTED;
	float	   *numbers = numbers_of(f, blockIdx.x);
	GaKey		n = f.space.selections[blockIdx.x].listed;
	float		one = f.metric == GA_DEVICE_COSINE ? 1 : 0;
	float		last;

	if (n > GA_KNN_LISTED)
		return;
	if (threadIdx.x == 0)
	{
		kept = 0;
		query = f.queries[blockIdx.x];
	}
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < n; i += LIMIT_THREADS)
	{
		uint4		header = __ldg((const uint4 *) (f.space.records + listed[i].row * f.space.stride));

		numbers[i] = number_above<ROOT>(terms_of<ROOT>(header, f), query, listed[i].dot, one);
	}
	__syncthreads();
	if (find_number(numbers, (uint32_t) n, f.space.queries[blockIdx.x].limit, &last) && threadIdx.x == 0)
		query.limit = limit_of(&f.space.queries[blockIdx.x], last);
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < n; i += LIMIT_THREADS)
	{
		uint4		header = __ldg((const uint4 *) (f.space.records + listed[i].row * f.space.stride));

		if (!is_above<ROOT>(terms_of<ROOT>(header, f), query, listed[i].dot, query.limit))
			list[atomicAdd(&kept, 1u)] = listed[i].row;
	}
	__syncthreads();
	if (threadIdx.x == 0)
		f.space.selections[blockIdx.x].listed = kept;
}

/* ----- launching ----- */

/* Rows of a sample: as many as make the list some 4,000 long. */
uint64_t
ga_knn_sample(uint64_t rows, uint32_t limit)
{
	uint64_t	wanted = rows * limit / 4096;

	wanted = wanted < LEAST_SAMPLE ? LEAST_SAMPLE : wanted > MOST_SAMPLE ? MOST_SAMPLE : wanted;
	return wanted < rows ? wanted : rows;
}

uint64_t
ga_knn_filter_numbers(uint64_t sample)
{
	return sample > GA_KNN_LISTED ? sample : GA_KNN_LISTED;
}

uint32_t
ga_knn_filter_pitch(uint32_t dim)
{
	return (dim + STEP - 1) / STEP * STEP;
}

size_t
ga_knn_filter_query_bytes(void)
{
	return sizeof(GaKnnFilterQuery);
}

/* Whether a device has the shared memory. */
bool
ga_knn_can_filter(size_t shared_bytes)
{
	return shared_bytes >= STAGES * sizeof(Stage<GA_KNN_FILTERED / 8>) + GA_KNN_FILTERED * sizeof(GaKnnFilterQuery);
}

template<int BLOCKS, bool SAMPLE, bool ROOT>
static cudaError_t
launch(const GaKnnFilter *f, int multiprocessors, cudaStream_t stream)
{
	const size_t shared = STAGES * sizeof(Stage<BLOCKS>) + BLOCKS * 8 * sizeof(GaKnnFilterQuery);
	uint64_t	tiles = (f->slots + TILE_ROWS - 1) / TILE_ROWS;
	cudaError_t error = cudaFuncSetAttribute(filter_kernel<BLOCKS, SAMPLE, ROOT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) shared);

	if (error != cudaSuccess)
		return error;
	filter_kernel<BLOCKS, SAMPLE, ROOT><<<(unsigned) (tiles < (uint64_t) multiprocessors ? tiles : multiprocessors), THREADS, shared, stream>>>(*f);
	return cudaSuccess;
}

template<int BLOCKS, bool SAMPLE>
static cudaError_t
launch_metric(const GaKnnFilter *f, int multiprocessors, cudaStream_t stream)
{
	if (f->metric == GA_DEVICE_L2)
		return launch<BLOCKS, SAMPLE, true>(f, multiprocessors, stream);
	return launch<BLOCKS, SAMPLE, false>(f, multiprocessors, stream);
}

template<bool SAMPLE>
static cudaError_t
launch_queries(const GaKnnFilter *f, int multiprocessors, cudaStream_t stream)
{
	if (f->space.nqueries <= 8)
		return launch_metric<1, SAMPLE>(f, multiprocessors, stream);
	if (f->space.nqueries <= 16)
		return launch_metric<2, SAMPLE>(f, multiprocessors, stream);
	if (f->space.nqueries <= 32)
		return launch_metric<4, SAMPLE>(f, multiprocessors, stream);
	return launch_metric<8, SAMPLE>(f, multiprocessors, stream);
}

cudaError_t
ga_knn_launch_filter(GaKnnFilter *f, int multiprocessors, cudaStream_t stream)
{
	cudaError_t error;

	prepare_kernel<<<GA_KNN_FILTERED, THREADS, 0, stream>>>(*f);
	f->slots = f->sample;
	f->step = f->space.rows / f->sample;
	error = launch_queries<true>(f, multiprocessors, stream);
	if (error != cudaSuccess)
		return error;
	limit_kernel<<<f->space.nqueries, LIMIT_THREADS, 0, stream>>>(*f);
	f->slots = f->space.rows;
	f->step = 1;
	error = launch_queries<false>(f, multiprocessors, stream);
	if (error != cudaSuccess)
		return error;
	if (f->metric == GA_DEVICE_L2)
		narrow_kernel<true><<<f->space.nqueries, LIMIT_THREADS, 0, stream>>>(*f);
	else
		narrow_kernel<false><<<f->space.nqueries, LIMIT_THREADS, 0, stream>>>(*f);
	return cudaSuccess;
}
