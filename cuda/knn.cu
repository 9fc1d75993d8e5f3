/*
 * knn.cu
 *		Nearest rows with CUDA: queries go over the rows by groups, keys of all rows
 *		(or of those that tensor cores let pass) first, then the selection; what is
 *		found is sorted here.
 */
#include "knn.cuh"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Keys of so many bytes at most, but for a single query. */
#define KEYS_BYTES (UINT64_C(1) << 30)

/* From so many queries on, tensor cores are quicker. */
#define FEWEST_FILTERED 2

/* Parts of a group's memory on the device; offsets are multiples of 256. */
typedef struct Layout
{
	uint32_t	room;			/* queries that what is uploaded has room for */
	size_t		after;
	size_t		values;
	size_t		uploaded;		/* queries, after and values: bytes */
	size_t		selections;
	size_t		bins;
	size_t		zeroed;			/* end of selections and bins */
	size_t		candidates;
	size_t		keys;

	/* of a filtered pass */
	size_t		list;
	size_t		listed;
	size_t		halves;
	size_t		filters;
	size_t		above;
	size_t		total;
} Layout;

static size_t
aligned(size_t nbytes)
{
	return (nbytes + 255) / 256 * 256;
}

/* Floats from one query's values to the next: zeros for what is before the elements, and up to whole chunks behind them. */
static uint32_t
pitch_of(uint32_t dim)
{
	return (4 + dim + 15) / 16 * 16 + 16;
}

/* `slots` keys for each query; filtered by a sample of so many rows, 0: not filtered. */
static Layout
lay_out(uint32_t nqueries, uint32_t dim, uint64_t slots, uint64_t sample)
{
	bool		filtered = sample > 0;
	Layout		l;

	l.room = filtered ? GA_KNN_FILTERED : GA_KNN_SHARE;
	l.after = aligned(l.room * sizeof(GaKnnDeviceQuery));
	l.values = l.after + aligned(l.room * 2 * sizeof(GaKey));
	l.uploaded = l.values + aligned((size_t) l.room * pitch_of(dim) * sizeof(float));
	l.selections = l.uploaded;
	l.bins = l.selections + aligned(nqueries * sizeof(GaKnnSelection));
	l.zeroed = l.bins + nqueries * GA_KNN_BINS * sizeof(unsigned int);
	l.candidates = l.zeroed;
	l.keys = l.candidates + (size_t) nqueries * GA_KNN_CANDIDATES * sizeof(GaKnnCandidate);
	l.list = l.keys + aligned((size_t) nqueries * slots * sizeof(GaKey));
	l.listed = l.list + (filtered ? (size_t) nqueries * GA_KNN_LISTED * sizeof(uint32_t) : 0);
	l.halves = l.listed + (filtered ? (size_t) nqueries * GA_KNN_LISTED * sizeof(GaKnnListed) : 0);
	l.filters = l.halves + (filtered ? aligned((size_t) l.room * ga_knn_filter_pitch(dim) * 2) : 0);
	l.above = l.filters + (filtered ? aligned(l.room * ga_knn_filter_query_bytes()) : 0);
	l.total = l.above + (filtered ? nqueries * ga_knn_filter_numbers(sample) * sizeof(float) : 0);
	return l;
}

/* Queries of a pass that go over the rows together, and their memory. */
typedef struct Group
{
	GaWorker   *worker;
	const GaKnnPass *pass;
	uint32_t	n;
	int			number[GA_KNN_FILTERED];	/* which of the pass they are */
	bool		filtered;		/* by tensor cores; else there are up to GA_KNN_SHARE */
	uint64_t	sample;			/* of rows, for that */
	GaKnnSpace	space;
	Layout		layout;
	char	   *scratch;
	char	   *staging;		/* what is uploaded; then what is fetched */
} Group;

static const GaKnnDeviceQuery *
query_of(const Group *group, uint32_t i)
{
	return &group->pass->queries[group->number[i < group->n ? i : 0]];
}

/* Writes queries, after and values; the room of those that the group lacks has the first one's. */
static void
fill_upload(const Group *group, uint32_t dim)
{
	GaKnnDeviceQuery *queries = (GaKnnDeviceQuery *) group->staging;
	GaKey	   *after = (GaKey *) (group->staging + group->layout.after);
	float	   *values = (float *) (group->staging + group->layout.values);
	uint32_t	before = query_of(group, 0)->storage == GA_DEVICE_INT8 ? 4 : 0;
	uint32_t	n = group->filtered ? group->n : group->layout.room;

	memset(group->staging, 0, group->layout.uploaded);
	for (uint32_t i = 0; i < n; i++)
	{
		queries[i] = *query_of(group, i);
		after[2 * i] = ga_knn_key(queries[i].after_bound);
		after[2 * i + 1] = queries[i].after_tid;
		ga_knn_device_values(queries[i].prepared, values + i * pitch_of(dim) + before);
	}
}

/* What the kernels of the group need; false with a status when memory is short. */
static bool
prepare(Group *group, GaStatus *status)
{
	const GaKnnPass *pass = group->pass;
	uint32_t	dim = query_of(group, 0)->dim;
	uint32_t	limit = 0;
	uint64_t	rows = 0;
	uint64_t	slots;
	size_t		fetched = group->n * (sizeof(GaKnnSelection) + GA_KNN_FETCHED * sizeof(GaKnnCandidate));

	for (uint32_t i = 0; i < group->n; i++)
	{
		rows = std::max(rows, query_of(group, i)->rows);
		limit = std::max(limit, query_of(group, i)->limit);
	}
	slots = group->filtered ? GA_KNN_LISTED : rows;
	group->sample = group->filtered ? ga_knn_sample(rows, limit) : 0;
	group->layout = lay_out(group->n, dim, slots, group->sample);
	*status = GA_STATUS_FAILED;
	group->scratch = ga_cuda_scratch(group->worker, group->layout.total);
	if (group->scratch == NULL)
		return false;
	group->staging = (char *) ga_backend_staging(group->worker, std::max(group->layout.uploaded, fetched));
	if (group->staging == NULL)
		return false;
	fill_upload(group, dim);
	group->space.records = pass->records;
	group->space.stride = pass->stride;
	group->space.rows = rows;
	group->space.nqueries = group->n;
	group->space.pitch = pitch_of(dim);
	group->space.queries = (const GaKnnDeviceQuery *) group->scratch;
	group->space.after = (const GaKey *) (group->scratch + group->layout.after);
	group->space.values = (const float *) (group->scratch + group->layout.values);
	group->space.selections = (GaKnnSelection *) (group->scratch + group->layout.selections);
	group->space.bins = (unsigned int *) (group->scratch + group->layout.bins);
	group->space.candidates = (GaKnnCandidate *) (group->scratch + group->layout.candidates);
	group->space.keys = (GaKey *) (group->scratch + group->layout.keys);
	group->space.slots = slots;
	group->space.list = group->filtered ? (uint32_t *) (group->scratch + group->layout.list) : NULL;
	return true;
}

/* The keys of all rows, or of those that the filter lists. */
static cudaError_t
launch_keys(const Group *group, cudaStream_t stream)
{
	int			multiprocessors = ga_cuda_multiprocessors[group->worker->device];
	const GaKnnDeviceQuery *query = query_of(group, 0);
	GaKnnFilter filter = {};
	cudaError_t error;

	if (!group->filtered)
	{
		ga_knn_launch_scores(&group->space, query->metric, query->storage, query->dim, multiprocessors, stream);
		return cudaSuccess;
	}
	filter.space = group->space;
	filter.metric = query->metric;
	filter.dim = query->dim;
	filter.pitch = ga_knn_filter_pitch(query->dim);
	filter.grow = (float) ((1 + 0x1p-19) / (query->sum_factor * query->sum_factor));
	filter.halves = (__half *) (group->scratch + group->layout.halves);
	filter.queries = (GaKnnFilterQuery *) (group->scratch + group->layout.filters);
	filter.listed = (GaKnnListed *) (group->scratch + group->layout.listed);
	filter.above = (float *) (group->scratch + group->layout.above);
	filter.sample = group->sample;
	error = ga_knn_launch_filter(&filter, multiprocessors, stream);
	if (error == cudaSuccess)
		ga_knn_launch_listed(&group->space, query->metric, query->dim, multiprocessors, stream);
	return error;
}

static GaStatus
launch(Group *group)
{
	cudaStream_t stream = ga_cuda(group->worker)->stream;
	int			multiprocessors = ga_cuda_multiprocessors[group->worker->device];
	GaKnnSelection *selections = (GaKnnSelection *) group->staging;
	cudaError_t error;

	error = cudaMemcpyAsync(group->scratch, group->staging, group->layout.uploaded, cudaMemcpyHostToDevice, stream);
	if (error == cudaSuccess)
		error = cudaMemsetAsync(group->scratch + group->layout.selections, 0,
								group->layout.zeroed - group->layout.selections, stream);
	/* The least of no key at all is the greatest number. */
	if (error == cudaSuccess)
		error = cudaMemset2DAsync(group->space.selections, sizeof(GaKnnSelection), 0xff, sizeof(GaKey), group->n, stream);
	if (error == cudaSuccess)
		error = launch_keys(group, stream);
	if (error != cudaSuccess)
		return ga_cuda_check(group->worker, error, "upload of queries");
	ga_knn_launch_select(&group->space, multiprocessors, stream);
	error = cudaMemcpyAsync(selections, group->space.selections, group->n * sizeof(GaKnnSelection), cudaMemcpyDeviceToHost, stream);
	if (error == cudaSuccess)
		error = cudaMemcpy2DAsync(selections + group->n, GA_KNN_FETCHED * sizeof(GaKnnCandidate), group->space.candidates,
								  GA_KNN_CANDIDATES * sizeof(GaKnnCandidate), GA_KNN_FETCHED * sizeof(GaKnnCandidate),
								  group->n, cudaMemcpyDeviceToHost, stream);
	if (error != cudaSuccess)
		return ga_cuda_check(group->worker, error, "download of what was found");
	return ga_cuda_finish(group->worker, "nearest rows");
}

/* Copies of device memory to the host, now. */
static GaStatus
fetch(Group *group, void *to, const void *from, size_t nbytes)
{
	cudaError_t error = cudaMemcpyAsync(to, from, nbytes, cudaMemcpyDeviceToHost, ga_cuda(group->worker)->stream);

	if (error != cudaSuccess)
		return ga_cuda_check(group->worker, error, "download of what was found");
	return ga_cuda_finish(group->worker, "nearest rows");
}

/*
 * Divides the bin again and again until what lies up to its end are candidates that there is room for, and collects
 * them. Each division leaves a 4096th of the range, so twelve are enough for keys and tids.
 */
static GaStatus
refine(Group *group, uint32_t i, GaKnnSelection *selection)
{
	cudaStream_t stream = ga_cuda(group->worker)->stream;
	int			multiprocessors = ga_cuda_multiprocessors[group->worker->device];
	GaKey		wanted = query_of(group, i)->limit;
	GaKey		taken = 0;
	bool		ties = false;
	GaKey		key = 0;
	GaStatus	status = GA_STATUS_OK;

	while (taken + selection->below + selection->inside > GA_KNN_CANDIDATES && status == GA_STATUS_OK)
	{
		wanted -= selection->below;
		taken += selection->below;
		if (!ties && selection->low == selection->high)
		{
			ties = true;
			key = selection->low;
			selection->low = 0;
			selection->high = (GaKey) 1 << 48;
			cudaMemcpyAsync(&group->space.selections[i].low, &selection->low, 2 * sizeof(GaKey), cudaMemcpyHostToDevice, stream);
		}
		ga_knn_launch_refine(&group->space, i, wanted, ties, key, multiprocessors, stream);
		status = fetch(group, selection, &group->space.selections[i], sizeof(*selection));
	}
	if (status != GA_STATUS_OK)
		return status;
	ga_knn_launch_collect(&group->space, i, ties ? key : selection->high, ties ? selection->high : ~(GaKey) 0, multiprocessors,
						  stream);
	return fetch(group, selection, &group->space.selections[i], sizeof(*selection));
}

static bool
comes_before(const GaKnnCandidate &a, const GaKnnCandidate &b)
{
	return a.key < b.key || (a.key == b.key && a.tid < b.tid);
}

/* Sorts the candidates and writes as many as are wanted. */
static void
answer(const Group *group, uint32_t i, GaKnnCandidate *candidates, GaKey found)
{
	const GaKnnPass *pass = group->pass;
	int			number = group->number[i];
	GaKey		count = std::min(found, (GaKey) pass->queries[number].limit);

	std::partial_sort(candidates, candidates + count, candidates + found, comes_before);
	for (GaKey k = 0; k < count; k++)
	{
		pass->pairs[number][k].bound = ga_knn_bound_of(candidates[k].key);
		pass->pairs[number][k].tid = candidates[k].tid;
	}
	pass->counts[number] = count;
}

/* Takes what a query found, in the memory that was fetched; `selections` and `fetched` are what was fetched of all. */
static GaStatus
take(Group *group, uint32_t i, GaKnnSelection *selections, GaKnnCandidate *fetched)
{
	GaKnnSelection *selection = &selections[i];
	GaKnnCandidate *candidates;
	GaStatus	status = GA_STATUS_OK;

	if (selection->found <= GA_KNN_FETCHED)
	{
		answer(group, i, fetched + (size_t) i * GA_KNN_FETCHED, selection->found);
		return GA_STATUS_OK;
	}
	if (selection->found > GA_KNN_CANDIDATES)
		status = refine(group, i, selection);
	if (status != GA_STATUS_OK)
		return status;
	selection->found = std::min(selection->found, (GaKey) GA_KNN_CANDIDATES);
	candidates = (GaKnnCandidate *) malloc(selection->found * sizeof(GaKnnCandidate));
	if (candidates == NULL)
	{
		snprintf(group->worker->error, sizeof(group->worker->error), "out of memory");
		return GA_STATUS_FAILED;
	}
	status = fetch(group, candidates, group->space.candidates + (size_t) i * GA_KNN_CANDIDATES,
				   selection->found * sizeof(GaKnnCandidate));
	if (status == GA_STATUS_OK)
		answer(group, i, candidates, selection->found);
	free(candidates);
	return status;
}

/* Answers the queries of a group but for those whose list was too short: their numbers go to `left`. */
static GaStatus
run_group(Group *group, int *left, int *nleft)
{
	GaKnnSelection *selections;
	GaStatus	status;

	if (!prepare(group, &status))
		return status;
	if (group->space.rows == 0)
	{
		for (uint32_t i = 0; i < group->n; i++)
			group->pass->counts[group->number[i]] = 0;
		return GA_STATUS_OK;
	}
	status = launch(group);
	selections = (GaKnnSelection *) group->staging;
	for (uint32_t i = 0; i < group->n && status == GA_STATUS_OK; i++)
	{
		if (selections[i].listed > GA_KNN_LISTED)
			left[(*nleft)++] = group->number[i];
		else
			status = take(group, i, selections, (GaKnnCandidate *) (selections + group->n));
	}
	return status;
}

/* Runs n queries of a pass in groups. */
static GaStatus
run_groups(GaWorker *worker, const GaKnnPass *pass, const int *numbers, int n, bool filtered, int *left, int *nleft)
{
	GaStatus	status = GA_STATUS_OK;

	for (int done = 0; done < n && status == GA_STATUS_OK;)
	{
		uint64_t	most = GA_KNN_FILTERED;
		Group		group = {};

		if (!filtered)
			most = std::clamp(KEYS_BYTES / sizeof(GaKey) / std::max(pass->queries[numbers[done]].rows, UINT64_C(1)),
							  UINT64_C(1), (uint64_t) GA_KNN_SHARE);
		group.worker = worker;
		group.pass = pass;
		group.filtered = filtered;
		group.n = (uint32_t) std::min((uint64_t) (n - done), most);
		memcpy(group.number, numbers + done, group.n * sizeof(int));
		done += (int) group.n;
		status = run_group(&group, left, nleft);
	}
	return status;
}

/* Queries that may be filtered, if there are enough of them; then the others and those whose list was too short. */
GaStatus
ga_backend_knn(GaWorker *worker, const GaKnnPass *pass)
{
	int		   *filtered = (int *) malloc(2 * (size_t) pass->nqueries * sizeof(int));
	int		   *others = filtered + pass->nqueries;
	int			nfiltered = 0;
	int			nothers = 0;
	GaStatus	status;

	if (filtered == NULL)
	{
		snprintf(worker->error, sizeof(worker->error), "out of memory");
		return GA_STATUS_FAILED;
	}
	for (int i = 0; i < pass->nqueries; i++)
		if (ga_cuda_filters[worker->device] && ga_knn_may_filter(&pass->queries[i]))
			filtered[nfiltered++] = i;
		else
			others[nothers++] = i;
	if (nfiltered < FEWEST_FILTERED)
		for (; nfiltered > 0; nothers++)
			others[nothers] = filtered[--nfiltered];
	status = run_groups(worker, pass, filtered, nfiltered, true, others, &nothers);
	if (status == GA_STATUS_OK)
		status = run_groups(worker, pass, others, nothers, false, NULL, NULL);
	free(filtered);
	return status;
}
