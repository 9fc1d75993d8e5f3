/*
 * knn_select.cu
 *		The rows with the smallest keys: a histogram over the range of the keys finds
 *		the bin that the last of them is in, and what lies up to its end is collected.
 *
 * Where that is too much, the bin is divided again, and where all of it is one
 * key, by tids. Which rows are collected depends on keys and tids alone.
 */
#include "knn.cuh"

#define THREADS 1024

/* A range of keys, or of the tids of rows with one key, in GA_KNN_BINS bins. What is above falls into the last. */
typedef struct Range
{
	GaKey		low;
	GaKey		high;			/* of the last bin, at least */
	int			shift;
	bool		first;			/* what is below falls into the first bin, too */
	bool		ties;
	GaKey		key;			/* whose tids are counted */
} Range;

static __host__ __device__ __forceinline__ Range
range_of(GaKey low, GaKey most, GaKey high, bool first, bool ties, GaKey key)
{
	Range		range = {low, high, 0, first, ties, key};

	while ((most - low) >> range.shift >= GA_KNN_BINS)
		range.shift++;
	return range;
}

/* The first division: between the least and the greatest finite bound; infinite ones of either sign are in the end bins. */
static __device__ __forceinline__ Range
first_range(const GaKnnSelection *selection)
{
	if (selection->least > selection->most)
		return range_of(0, GA_KNN_KEY_NAN, GA_KNN_KEY_NAN, true, false, 0);
	return range_of(selection->least, selection->most, GA_KNN_KEY_NAN, true, false, 0);
}

/* The bin of a key, -1 when it is in none. */
static __device__ __forceinline__ int
bin_of(const GaKnnSpace &space, uint32_t query, const Range &range, uint64_t slot, GaKey key)
{
	GaKey		value = key;

	if (range.ties)
	{
		if (key != range.key)
			return -1;
		value = ga_knn_tid(space.records + ga_knn_row(space, query, slot) * space.stride);
	}
	if (value > range.high)
		return -1;
	if (value < range.low)
		return range.first ? 0 : -1;
	value = (value - range.low) >> range.shift;
	return value < GA_KNN_BINS ? (int) value : GA_KNN_BINS - 1;
}

static __device__ void
count_rows(const GaKnnSpace &space, uint32_t query, const Range &range)
{
	__shared__ unsigned int count[GA_KNN_BINS];
	const GaKey *keys = space.keys + (uint64_t) query * space.slots;
	uint64_t	slots = ga_knn_slots(space, query);
	unsigned int *bins = space.bins + (size_t) query * GA_KNN_BINS;

	for (int i = threadIdx.x; i < GA_KNN_BINS; i += THREADS)
		count[i] = 0;
	__syncthreads();
	for (uint64_t slot = (uint64_t) blockIdx.x * THREADS + threadIdx.x; slot < slots; slot += (uint64_t) gridDim.x * THREADS)
	{
		GaKey		key = keys[slot];
		int			bin = key == GA_KNN_KEY_NONE ? -1 : bin_of(space, query, range, slot, key);

		if (bin >= 0)
			atomicAdd(&count[bin], 1u);
	}
	__syncthreads();
	for (int i = threadIdx.x; i < GA_KNN_BINS; i += THREADS)
		if (count[i] != 0)
			atomicAdd(&bins[i], count[i]);
}

/*
 * The bin that has row number `wanted` of those counted; all of the range when
 * there are not so many. One block. The first and the last bin reach to the ends
 * of what falls into them.
 */
static __device__ void
pick(GaKnnSelection *selection, const unsigned int *bins, const Range &range, GaKey wanted)
{
	const int	EACH = GA_KNN_BINS / THREADS;
	unsigned int mine[EACH];
	GaKey		total = 0;
	GaKey		before;

	for (int i = 0; i < EACH; i++)
		total += mine[i] = bins[threadIdx.x * EACH + i];
	before = ga_knn_sum_up_to<THREADS>(total) - total;
	if (threadIdx.x == THREADS - 1 && before + total < wanted)
	{
		selection->low = range.first ? 0 : range.low;
		selection->high = range.high;
		selection->below = 0;
		selection->inside = before + total;
	}
	if (before >= wanted || before + total < wanted)
		return;
	for (int i = 0; i < EACH; i++)
	{
		int			bin = (int) threadIdx.x * EACH + i;

		if (before + mine[i] >= wanted)
		{
			selection->low = bin == 0 && range.first ? 0 : range.low + ((GaKey) bin << range.shift);
			selection->high = bin == GA_KNN_BINS - 1 ? range.high : range.low + ((GaKey) (bin + 1) << range.shift) - 1;
			selection->below = before;
			selection->inside = mine[i];
			return;
		}
		before += mine[i];
	}
}

/* Rows whose key is below `key`, or at it with a tid up to `tid`. */
static __device__ void
collect(const GaKnnSpace &space, uint32_t query, GaKey last, GaKey last_tid)
{
	const GaKey *keys = space.keys + (uint64_t) query * space.slots;
	uint64_t	slots = ga_knn_slots(space, query);
	GaKnnCandidate *candidates = space.candidates + (size_t) query * GA_KNN_CANDIDATES;

	for (uint64_t slot = (uint64_t) blockIdx.x * THREADS + threadIdx.x; slot < slots; slot += (uint64_t) gridDim.x * THREADS)
	{
		GaKey		key = keys[slot];
		GaKey		at;
		uint64_t	tid;

		if (key > last || key == GA_KNN_KEY_NONE)
			continue;
		tid = ga_knn_tid(space.records + ga_knn_row(space, query, slot) * space.stride);
		if (key == last && tid > last_tid)
			continue;
		at = atomicAdd(&space.selections[query].found, (GaKey) 1);
		if (at < GA_KNN_CANDIDATES)
			candidates[at] = {key, tid};
	}
}

static __global__ void __launch_bounds__(THREADS)
count_first(const __grid_constant__ GaKnnSpace space)
{
	count_rows(space, blockIdx.y, first_range(&space.selections[blockIdx.y]));
}

static __global__ void __launch_bounds__(THREADS)
pick_first(const __grid_constant__ GaKnnSpace space)
{
	GaKnnSelection *selection = &space.selections[blockIdx.x];

	pick(selection, space.bins + (size_t) blockIdx.x * GA_KNN_BINS, first_range(selection), space.queries[blockIdx.x].limit);
}

static __global__ void __launch_bounds__(THREADS)
collect_first(const __grid_constant__ GaKnnSpace space)
{
	collect(space, blockIdx.y, space.selections[blockIdx.y].high, ~(GaKey) 0);
}

static __global__ void __launch_bounds__(THREADS)
count_again(const __grid_constant__ GaKnnSpace space, uint32_t query, bool ties, GaKey key)
{
	const GaKnnSelection *selection = &space.selections[query];

	count_rows(space, query, range_of(selection->low, selection->high, selection->high, false, ties, key));
}

static __global__ void __launch_bounds__(THREADS)
pick_again(const __grid_constant__ GaKnnSpace space, uint32_t query, GaKey wanted, bool ties, GaKey key)
{
	GaKnnSelection *selection = &space.selections[query];
	Range		range = range_of(selection->low, selection->high, selection->high, false, ties, key);

	__syncthreads();			/* all have read the range before one of them writes it */
	pick(selection, space.bins + (size_t) query * GA_KNN_BINS, range, wanted);
}

static __global__ void __launch_bounds__(THREADS)
collect_again(const __grid_constant__ GaKnnSpace space, uint32_t query, GaKey key, GaKey tid)
{
	collect(space, query, key, tid);
}

/* ----- launching ----- */

static unsigned
blocks_for(const GaKnnSpace *space, int multiprocessors)
{
	uint64_t	needed = (space->slots + THREADS - 1) / THREADS;

	/* Of listed rows there are few. */
	if (space->list != NULL)
		needed = needed / 16 + 1;
	return (unsigned) (needed < (uint64_t) multiprocessors ? needed : (uint64_t) multiprocessors);
}

void
ga_knn_launch_select(const GaKnnSpace *space, int multiprocessors, cudaStream_t stream)
{
	dim3		grid(blocks_for(space, multiprocessors), space->nqueries);

	count_first<<<grid, THREADS, 0, stream>>>(*space);
	pick_first<<<space->nqueries, THREADS, 0, stream>>>(*space);
	collect_first<<<grid, THREADS, 0, stream>>>(*space);
}

void
ga_knn_launch_refine(const GaKnnSpace *space, uint32_t query, GaKey wanted, bool ties, GaKey key, int multiprocessors,
					 cudaStream_t stream)
{
	cudaMemsetAsync(space->bins + (size_t) query * GA_KNN_BINS, 0, GA_KNN_BINS * sizeof(unsigned int), stream);
	count_again<<<blocks_for(space, multiprocessors), THREADS, 0, stream>>>(*space, query, ties, key);
	pick_again<<<1, THREADS, 0, stream>>>(*space, query, wanted, ties, key);
}

void
ga_knn_launch_collect(const GaKnnSpace *space, uint32_t query, GaKey key, GaKey tid, int multiprocessors, cudaStream_t stream)
{
	cudaMemsetAsync(&space->selections[query].found, 0, sizeof(GaKey), stream);
	collect_again<<<blocks_for(space, multiprocessors), THREADS, 0, stream>>>(*space, query, key, tid);
}
