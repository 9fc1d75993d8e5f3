/*
 * knn.c
 *		Requests for nearest rows: what is asked for is copied and checked, queries
 *		are prepared, the backend goes over the rows.
 *
 * Several requests for rows of one region share a pass when their records are
 * of one kind; what else they ask for may differ.
 */
#include "server.h"

#include "math/knn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Ask
{
	GaKnnAsk	head;
	uint64_t	query_bytes;	/* each, padded to 8 */
	char	   *copy;			/* of all of it: malloc */
	const GaKnnDevicePair *after;
	const char *elements;
} Ask;

static bool
head_is_fine(const GaKnnAsk *head, uint64_t region_bytes)
{
	if (head->storage > GA_KNN_INT8 || head->metric > GA_METRIC_L1 || head->sums > GA_KNN_SUMS_F32 ||
		head->dtype < GA_F32 || head->dtype > GA_F64 || (head->flags & ~GA_KNN_AFTER) != 0)
		return false;
	if (head->nqueries < 1 || head->nqueries > GA_KNN_MAX_QUERIES || head->limit < 1 || head->limit > GA_KNN_MAX_LIMIT ||
		head->dim < 1 || head->dim > 65535 || head->stride % 16 != 0)
		return false;
	return head->stride >= ga_knn_record_bytes((GaKnnStorage) head->storage, head->dim) &&
		head->rows <= region_bytes / head->stride;
}

/* Copies what is asked for and checks it; false when it is nonsense or memory is short. The copy is the caller's to free. */
static bool
read_ask(const char *place, uint64_t nbytes, uint64_t region_bytes, Ask *ask)
{
	uint64_t	at = sizeof(GaKnnAsk);

	ask->copy = NULL;
	if (nbytes < sizeof(GaKnnAsk))
		return false;
	ask->copy = malloc(nbytes);
	if (ask->copy == NULL)
		return false;
	memcpy(ask->copy, place, nbytes);
	memcpy(&ask->head, ask->copy, sizeof(ask->head));
	if (!head_is_fine(&ask->head, region_bytes))
		return false;
	ask->query_bytes = ((uint64_t) ask->head.dim * ga_dtype_info(ask->head.dtype)->width + 7) / 8 * 8;
	ask->after = NULL;
	if (ask->head.flags & GA_KNN_AFTER)
	{
		ask->after = (const GaKnnDevicePair *) (ask->copy + at);
		at += ask->head.nqueries * sizeof(GaKnnDevicePair);
	}
	ask->elements = ask->copy + at;
	return at + ask->head.nqueries * ask->query_bytes <= nbytes;
}

static uint64_t
answer_bytes(uint32_t limit)
{
	return sizeof(GaKnnAnswer) + (uint64_t) limit * sizeof(GaKnnDevicePair);
}

/* What a pass needs of all its queries. */
typedef struct Queries
{
	uint32_t	n;
	char	  **memory;			/* of each, prepared: malloc */
	GaKnnDeviceQuery *query;
	GaKnnDevicePair **pairs;
	uint64_t   *counts;
} Queries;

static bool
make_queries(Queries *all, uint32_t most)
{
	all->n = 0;
	all->memory = calloc(most, sizeof(*all->memory));
	all->query = calloc(most, sizeof(*all->query));
	all->pairs = calloc(most, sizeof(*all->pairs));
	all->counts = calloc(most, sizeof(*all->counts));
	return all->memory != NULL && all->query != NULL && all->pairs != NULL && all->counts != NULL;
}

static void
free_queries(Queries *all)
{
	for (uint32_t i = 0; i < all->n; i++)
		free(all->memory[i]);
	free(all->memory);
	free(all->query);
	free(all->pairs);
	free(all->counts);
}

/* Prepares query i of what is asked for, to be answered at `out`; false when memory is short. */
static bool
add_query(Queries *all, const Ask *ask, uint32_t i, char *out)
{
	const GaKnnAsk *head = &ask->head;
	GaKnnDeviceQuery *query = &all->query[all->n];
	char	   *memory = malloc(ga_knn_query_bytes(head->dtype, head->dim));

	if (memory == NULL)
		return false;
	ga_knn_prepare((GaKnnQuery *) memory, (GaMetric) head->metric, (GaKnnStorage) head->storage, (GaKnnSums) head->sums,
				   head->dtype, ask->elements + i * ask->query_bytes, head->dim);
	ga_knn_device_query(memory, query);
	query->rows = head->rows;
	query->limit = head->limit;
	if (ask->after != NULL)
	{
		query->has_after = 1;
		query->after_bound = ask->after[i].bound;
		query->after_tid = ask->after[i].tid;
	}
	all->memory[all->n] = memory;
	all->pairs[all->n] = (GaKnnDevicePair *) (out + i * answer_bytes(head->limit) + sizeof(GaKnnAnswer));
	all->n++;
	return true;
}

static bool
same_records(const GaKnnAsk *a, const GaKnnAsk *b)
{
	return a->stride == b->stride && a->dim == b->dim && a->storage == b->storage && a->metric == b->metric;
}

/* Jobs of one kind of records: those whose `share` is the given one. */
static void
run_pass(GaKnnJob *jobs, const Ask *asks, int n, int share, GaWorker *worker, const char *records)
{
	GaStatus	status = GA_STATUS_FAILED;
	uint64_t	together = 0;
	uint32_t	nqueries = 0;
	uint32_t	next = 0;
	Queries		all;
	bool		fine;

	for (int j = 0; j < n; j++)
		if (jobs[j].share == share)
		{
			nqueries += asks[j].head.nqueries;
			together++;
		}
	fine = make_queries(&all, nqueries);
	for (int j = 0; j < n && fine; j++)
		for (uint32_t i = 0; jobs[j].share == share && i < asks[j].head.nqueries && fine; i++)
			fine = add_query(&all, &asks[j], i, jobs[j].out);
	if (fine)
	{
		GaKnnPass	pass = {records, asks[share].head.stride, (int) nqueries, all.query, all.counts, all.pairs};

		status = ga_backend_knn(worker, &pass);
	}
	else
		snprintf(worker->error, sizeof(worker->error), "out of memory");
	for (int j = 0; j < n; j++)
	{
		if (jobs[j].share != share)
			continue;
		jobs[j].status = status;
		jobs[j].request->result[0] = asks[j].head.rows;
		jobs[j].request->result[1] = together;
		for (uint32_t i = 0; i < asks[j].head.nqueries && status == GA_STATUS_OK; i++)
		{
			GaKnnAnswer answer = {all.counts[next++], 0};

			memcpy(jobs[j].out + i * answer_bytes(asks[j].head.limit), &answer, sizeof(answer));
		}
	}
	free_queries(&all);
}

void
ga_knn_run(GaKnnJob *jobs, int n, GaWorker *worker, const GaServerRegion *region)
{
	Ask			asks[GA_KNN_TOGETHER];

	for (int j = 0; j < n; j++)
	{
		const GaRequest *request = jobs[j].request;

		jobs[j].share = -1;
		jobs[j].status = GA_STATUS_INVALID;
		if (!read_ask(jobs[j].asked, request->arg[2], region->bytes, &asks[j]) ||
			asks[j].head.nqueries * answer_bytes(asks[j].head.limit) > request->arg[4])
			continue;
		jobs[j].share = j;
		for (int k = j - 1; k >= 0; k--)
			if (jobs[k].share == k && same_records(&asks[j].head, &asks[k].head))
				jobs[j].share = k;
	}
	for (int j = 0; j < n; j++)
		if (jobs[j].share == j)
			run_pass(jobs, asks, n, j, worker, region->block.address);
	for (int j = 0; j < n; j++)
		free(asks[j].copy);
}
