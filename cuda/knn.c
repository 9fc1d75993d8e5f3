/*
 * knn.c
 *		Requests for nearest rows: what is asked for is copied and checked, queries
 *		are prepared, the backend goes over the rows.
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

/* Prepares query i in its part of `memory`. */
static void
prepare(const Ask *ask, uint32_t i, char *memory, GaKnnDeviceQuery *query)
{
	const GaKnnAsk *head = &ask->head;

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
}

static uint64_t
answer_bytes(uint32_t limit)
{
	return sizeof(GaKnnAnswer) + (uint64_t) limit * sizeof(GaKnnDevicePair);
}

/* Prepares all queries and has the backend answer them in the mapping. */
static GaStatus
run_pass(GaWorker *worker, const Ask *ask, const char *records, char *out)
{
	uint32_t	n = ask->head.nqueries;
	size_t		prepared_bytes = (ga_knn_query_bytes(ask->head.dtype, ask->head.dim) + 63) / 64 * 64;
	char	   *memory = aligned_alloc(64, n * prepared_bytes);
	GaKnnDeviceQuery *queries = calloc(n, sizeof(*queries));
	GaKnnDevicePair **pairs = calloc(n, sizeof(*pairs));
	uint64_t   *counts = calloc(n, sizeof(*counts));
	GaStatus	status = GA_STATUS_FAILED;

	if (memory == NULL || queries == NULL || pairs == NULL || counts == NULL)
		snprintf(worker->error, sizeof(worker->error), "out of memory");
	else
	{
		GaKnnPass	pass = {records, ask->head.stride, (int) n, queries, counts, pairs};

		for (uint32_t i = 0; i < n; i++)
		{
			prepare(ask, i, memory + i * prepared_bytes, &queries[i]);
			pairs[i] = (GaKnnDevicePair *) (out + i * answer_bytes(ask->head.limit) + sizeof(GaKnnAnswer));
		}
		status = ga_backend_knn(worker, &pass);
		for (uint32_t i = 0; i < n && status == GA_STATUS_OK; i++)
		{
			GaKnnAnswer answer = {counts[i], 0};

			memcpy(out + i * answer_bytes(ask->head.limit), &answer, sizeof(answer));
		}
	}
	free(counts);
	free(pairs);
	free(queries);
	free(memory);
	return status;
}

GaStatus
ga_knn_run(GaRequest *request, GaWorker *worker, const GaServerRegion *region, const char *asked, char *out)
{
	GaStatus	status = GA_STATUS_INVALID;
	Ask			ask;

	if (read_ask(asked, request->arg[2], region->bytes, &ask) &&
		ask.head.nqueries * answer_bytes(ask.head.limit) <= request->arg[4])
	{
		status = run_pass(worker, &ask, region->block.address, out);
		request->result[0] = ask.head.rows;
		request->result[1] = 1;
	}
	free(ask.copy);
	return status;
}
