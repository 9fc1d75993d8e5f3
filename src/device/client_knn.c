/*
 * client_knn.c
 *		Nearest rows of a region of a GPU, by requests to gpuagent_device. Question
 *		and answer pass through the arena, as many queries at a time as it holds.
 */
#include "base/compat.h"

#include "device/device.h"
#include "device/request.h"
#include "math/dtype.h"

/* What `n` queries take of the arena. */
typedef struct Layout
{
	uint64		query_bytes;
	uint64		answer_bytes;	/* of one query */
	uint64		asked;			/* all of the question, a multiple of 16 */
	uint64		answered;
} Layout;

static Layout
lay_out(const GaKnnAsk *ask, bool has_after, uint64 n)
{
	Layout		layout;

	layout.query_bytes = TYPEALIGN(8, (uint64) ask->dim * ga_dtype_info(ask->dtype)->width);
	layout.answer_bytes = sizeof(GaKnnAnswer) + (uint64) ask->limit * sizeof(GaKnnDevicePair);
	layout.asked = TYPEALIGN(16, sizeof(GaKnnAsk) + n * ((has_after ? sizeof(GaKnnDevicePair) : 0) + layout.query_bytes));
	layout.answered = n * layout.answer_bytes;
	return layout;
}

/* Writes the question of queries first .. first + n - 1 of those at `queries`, which lie as they will there. */
static void
write_question(char *to, const GaKnnAsk *ask, const GaKnnDevicePair *after, const char *queries, uint64 query_bytes,
			   uint64 first, uint64 n)
{
	GaKnnAsk	head = *ask;

	head.nqueries = (uint32) n;
	head.flags = after == NULL ? 0 : GA_KNN_AFTER;
	memcpy(to, &head, sizeof(head));
	to += sizeof(head);
	if (after != NULL)
	{
		memcpy(to, after + first, n * sizeof(*after));
		to += n * sizeof(*after);
	}
	memcpy(to, queries + first * query_bytes, n * query_bytes);
}

/* Takes the answers; a device that counts more than there is room for has lost its mind. */
static void
read_answers(const char *from, const Layout *layout, uint32 limit, uint64 n, GaKnnDevicePair *pairs, uint64 *counts)
{
	for (uint64 i = 0; i < n; i++)
	{
		GaKnnAnswer answer;

		memcpy(&answer, from + i * layout->answer_bytes, sizeof(answer));
		if (answer.count > limit)
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("the device process counts %llu rows where %u were asked for",
							(unsigned long long) answer.count, limit)));
		counts[i] = answer.count;
		memcpy(pairs + i * limit, from + i * layout->answer_bytes + sizeof(answer), answer.count * sizeof(*pairs));
	}
}

void
ga_region_knn(uint64 region, int device, const GaKnnAsk *ask, const GaKnnDevicePair *after, const void *queries,
			  GaKnnDevicePair *pairs, uint64 *counts)
{
	Layout		one = lay_out(ask, after != NULL, 1);
	uint64		most = Max(ga_arena_limit() / 4 / (one.asked + one.answered), 1);
	GaLastRequest total = {.device = device, .rows = ask->rows, .batch = 1};

	Assert(device >= 0);
	for (uint64 first = 0; first < ask->nqueries; first += most)
	{
		uint64		n = Min(most, ask->nqueries - first);
		Layout		layout = lay_out(ask, after != NULL, n);
		char	   *memory = ga_arena_alloc(layout.asked + layout.answered);
		GaSlot	   *slot = ga_request_begin(GA_OP_KNN, device);
		const GaSlot *answer;

		ga_last_request = (GaLastRequest) {.device = device, .rows = ask->rows, .batch = 1};
		write_question(memory, ask, after, queries, layout.query_bytes, first, n);
		slot->arg[0] = region;
		slot->arg[1] = ga_mapping_offset(memory);
		slot->arg[2] = layout.asked;
		slot->arg[3] = ga_mapping_offset(memory + layout.asked);
		slot->arg[4] = layout.answered;
		ga_request_submit();
		answer = ga_request_finish();
		total.batch = Max(total.batch, answer->result[1]);
		total.queue_ms += ga_last_request.queue_ms;
		total.device_ms += ga_last_request.device_ms;
		read_answers(memory + layout.asked, &layout, ask->limit, n, pairs + first * ask->limit, counts + first);
		ga_arena_free(memory);
	}
	ga_last_request = total;
}
