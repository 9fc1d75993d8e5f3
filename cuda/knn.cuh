/*
 * knn.cuh
 *		What the kernels of nearest rows share.
 */
#ifndef GA_KNN_CUH
#define GA_KNN_CUH

#include "device.cuh"

/* Queries that share a pass over the rows. */
#define GA_KNN_SHARE 8

/* Histogram of a selection; candidates that a selection may find; those that are fetched before their number is known. */
#define GA_KNN_BINS 4096
#define GA_KNN_CANDIDATES 65536
#define GA_KNN_FETCHED 1024

/* Queries that share a pass with tensor cores, and rows that it may list for each. */
#define GA_KNN_FILTERED 64
#define GA_KNN_LISTED 32768

typedef unsigned long long GaKey;

/* What sorts as (bound, tid) does. */
typedef struct GaKnnCandidate
{
	GaKey		key;
	uint64_t	tid;
} GaKnnCandidate;

/* On the device, one for each query of a pass. */
typedef struct GaKnnSelection
{
	/* of all rows that count, without infinite ones and NaN */
	GaKey		least;
	GaKey		most;

	/* the bin in which the last of those wanted is: bounds, inclusive */
	GaKey		low;
	GaKey		high;
	GaKey		below;			/* rows before it */
	GaKey		inside;			/* rows in it */
	GaKey		found;			/* candidates; there may be more than there is room for */
	GaKey		listed;			/* rows, with a list; there may be more than there is room for */
} GaKnnSelection;				/* 64 bytes */

/* Of a pass, on the device. */
typedef struct GaKnnSpace
{
	const char *records;
	uint64_t	stride;
	uint64_t	rows;			/* the most of any query */
	uint32_t	nqueries;		/* of this launch: up to GA_KNN_SHARE */
	uint32_t	pitch;			/* floats from one query's values to the next */
	const GaKnnDeviceQuery *queries;
	const float *values;		/* zeros before and behind each query's, up to whole 16 bytes of elements */
	const GaKey *after;			/* two each: key and tid; rows up to it do not count */
	GaKnnSelection *selections;
	unsigned int *bins;			/* GA_KNN_BINS each */
	GaKnnCandidate *candidates;	/* GA_KNN_CANDIDATES each */
	GaKey	   *keys;			/* `slots` each */
	uint64_t	slots;			/* without a list, `rows` */
	uint32_t   *list;			/* the rows that may be among those wanted, GA_KNN_LISTED each; NULL: any */
} GaKnnSpace;

typedef struct GaKnnFilterQuery GaKnnFilterQuery;

/* A row, and the tensor core's product of it and a query. */
typedef struct GaKnnListed
{
	uint32_t	row;
	float		dot;
} GaKnnListed;

/* What a pass with tensor cores needs beside it. */
typedef struct GaKnnFilter
{
	GaKnnSpace	space;
	int			metric;
	uint32_t	dim;
	uint32_t	pitch;			/* elements from one query to the next in `halves`: ga_knn_filter_pitch() */
	float		grow;			/* at least the true root over what was summed, with a row's loss */
	struct __half *halves;		/* of GA_KNN_FILTERED queries */
	GaKnnFilterQuery *queries;	/* GA_KNN_FILTERED */
	GaKnnListed *listed;		/* GA_KNN_LISTED each: what `list` is made of */
	float	   *above;			/* ga_knn_filter_numbers() each */
	uint64_t	sample;			/* rows: ga_knn_sample() of the greatest limit */

	/* the rows of a launch: each step-th */
	uint64_t	slots;
	uint64_t	step;
} GaKnnFilter;

/* Inclusive sums over a block's threads, of which there are N. */
template<int N>
static __device__ GaKey
ga_knn_sum_up_to(GaKey mine)
{
	__shared__ GaKey sums[N];

	sums[threadIdx.x] = mine;
	__syncthreads();
	for (int step = 1; step < N; step *= 2)
	{
		GaKey		before = (int) threadIdx.x >= step ? sums[threadIdx.x - step] : 0;

		__syncthreads();
		sums[threadIdx.x] += before;
		__syncthreads();
	}
	return sums[threadIdx.x];
}

/* Bytes of a record before its vector. */
#define GA_KNN_HEADER 16

/* ---- knn_scores.cu: a key for each row and query, and what they lie between ---- */
extern void ga_knn_launch_scores(const GaKnnSpace *space, int metric, int storage, uint32_t dim, int multiprocessors,
								 cudaStream_t stream);

/* The same for the rows that are listed, one query after the other. */
extern void ga_knn_launch_listed(const GaKnnSpace *space, int metric, uint32_t dim, int multiprocessors, cudaStream_t stream);

/* ---- knn_filter.cu: lists, of each query, the rows that may be among those wanted ---- */
extern bool ga_knn_can_filter(size_t shared_bytes);
extern bool ga_knn_may_filter(const GaKnnDeviceQuery *q);
extern uint64_t ga_knn_sample(uint64_t rows, uint32_t limit);
extern uint64_t ga_knn_filter_numbers(uint64_t sample);
extern uint32_t ga_knn_filter_pitch(uint32_t dim);
extern size_t ga_knn_filter_query_bytes(void);
extern cudaError_t ga_knn_launch_filter(GaKnnFilter *filter, int multiprocessors, cudaStream_t stream);

/* ---- knn_select.cu ---- */

/* Counts the keys of each query by bins and picks the bin; then collects the candidates up to it. */
extern void ga_knn_launch_select(const GaKnnSpace *space, int multiprocessors, cudaStream_t stream);

/*
 * The same for one query within the bin that was picked before, `wanted` rows of it. In `ties`, all rows of the
 * bin have the key `key`, and it is their tids that are counted.
 */
extern void ga_knn_launch_refine(const GaKnnSpace *space, uint32_t query, GaKey wanted, bool ties, GaKey key,
								 int multiprocessors, cudaStream_t stream);

/* Collects the rows below `key`, and those at it up to `tid`. */
extern void ga_knn_launch_collect(const GaKnnSpace *space, uint32_t query, GaKey key, GaKey tid, int multiprocessors,
								  cudaStream_t stream);

/* The number of keys of a query, none where the list is too short; and the row that one of them is of. */
static __device__ __forceinline__ uint64_t
ga_knn_slots(const GaKnnSpace &space, uint32_t query)
{
	if (space.list == NULL)
		return space.rows;
	return space.selections[query].listed > GA_KNN_LISTED ? 0 : space.selections[query].listed;
}

static __device__ __forceinline__ uint64_t
ga_knn_row(const GaKnnSpace &space, uint32_t query, uint64_t slot)
{
	return space.list == NULL ? slot : space.list[(uint64_t) query * GA_KNN_LISTED + slot];
}

/* The tid of a record, as one number. */
static __device__ __forceinline__ uint64_t
ga_knn_tid(const char *record)
{
	const uint16_t *part = (const uint16_t *) record;

	return (uint64_t) part[0] << 32 | (uint64_t) part[1] << 16 | part[2];
}

/* A bound as a number of the same order; -0 is 0. */
static __host__ __device__ __forceinline__ GaKey
ga_knn_key(double bound)
{
	union
	{
		double		value;
		GaKey		bits;
	}			u;

	if (bound != bound)
		return GA_KNN_KEY_NAN;
	u.value = bound + 0.0;
	return u.bits >> 63 ? ~u.bits : u.bits | (GaKey) 1 << 63;
}

static inline double
ga_knn_bound_of(GaKey key)
{
	union
	{
		double		value;
		GaKey		bits;
	}			u;

	if (key >= GA_KNN_KEY_NAN)
		return NAN;
	u.bits = key >> 63 ? key & ~((GaKey) 1 << 63) : ~key;
	return u.value;
}

#endif							/* GA_KNN_CUH */
