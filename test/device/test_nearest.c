/*
 * test_nearest.c
 *		The operation that finds nearest rows, through the protocol: against a sort
 *		of the distances, and what is refused.
 */
#include "driver.h"

#include "../unit/unit.h"
#include "math/knn.h"

#define ROWS 500
#define DIM 20
#define QUERIES 3
#define LIMIT 40

static Rig rig;
static Owner owner;
static float vectors[ROWS][DIM];
static float queries[QUERIES][DIM];
static uint32_t stride;

/* Where question and answer are in the arena. */
#define ASK_AT (UINT64_C(8) << 20)
#define ANSWER_AT (UINT64_C(16) << 20)

static void
upload_rows(void)
{
	char	   *arena = rig_arena(&rig);
	bool		good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 1, ROWS * stride, 0) == GA_STATUS_OK;

	for (uint32_t i = 0; i < ROWS; i++)
	{
		GaKnnRow   *row = (GaKnnRow *) (arena + i * stride);
		uint16_t	tid[3] = {0, (uint16_t) (ROWS - i), 1};

		for (int j = 0; j < DIM; j++)
			vectors[i][j] = (float) (int) (next_random() % 2001) / 1000 - 1;
		ga_knn_encode(GA_METRIC_L2, GA_KNN_F16, GA_F32, vectors[i], DIM, row);
		memcpy(row->tid, tid, sizeof(tid));
		row->flags |= i % 10 == 3;
	}
	good &= REQUEST(&owner, GA_OP_UPLOAD, 0, 1, 0, rig.header->arena_offset, ROWS * stride) == GA_STATUS_OK;
	result(good, "rows are uploaded");
}

static GaKnnAsk
question(void)
{
	return (GaKnnAsk) {.rows = ROWS, .stride = stride, .dim = DIM, .storage = GA_KNN_F16, .metric = GA_METRIC_L2,
		.dtype = GA_F32, .nqueries = QUERIES, .limit = LIMIT};
}

static int
ask(const GaKnnAsk *head, const GaKnnDevicePair *after, uint64_t ask_bytes, uint64_t answer_bytes)
{
	char	   *to = rig_arena(&rig) + ASK_AT;

	memcpy(to, head, sizeof(*head));
	to += sizeof(*head);
	if (after != NULL)
		memcpy(to, after, QUERIES * sizeof(*after));
	memcpy(to + (after != NULL ? QUERIES * sizeof(*after) : 0), queries, sizeof(queries));
	memset(rig_arena(&rig) + ANSWER_AT, 0x55, 1 << 20);
	return REQUEST(&owner, GA_OP_KNN, 0, 1, rig.header->arena_offset + ASK_AT, ask_bytes,
				   rig.header->arena_offset + ANSWER_AT, answer_bytes);
}

#define ASK_BYTES(after) (sizeof(GaKnnAsk) + ((after) ? QUERIES * sizeof(GaKnnDevicePair) : 0) + sizeof(queries))
#define ANSWER_BYTES(limit) (QUERIES * (sizeof(GaKnnAnswer) + (limit) * sizeof(GaKnnDevicePair)))

static const GaKnnAnswer *
answer_of(int q, uint32_t limit)
{
	return (const GaKnnAnswer *) (rig_arena(&rig) + ANSWER_AT + (size_t) q * (sizeof(GaKnnAnswer) + limit * sizeof(GaKnnDevicePair)));
}

static double
distance(int q, uint32_t row)
{
	return ga_distance(GA_METRIC_L2, GA_F32, vectors[row], GA_F32, queries[q], DIM);
}

/* Every bound is below the distance by as little as F16 loses, and no row that is nearer than that is missing. */
static bool
check(int q, uint32_t limit, uint32_t rows)
{
	const GaKnnAnswer *answer = answer_of(q, limit);
	const GaKnnDevicePair *pairs = (const GaKnnDevicePair *) (answer + 1);
	bool		listed[ROWS] = {false};

	if (answer->count != limit)
		return differ("query %d: %lu rows", q, answer->count);
	for (uint32_t k = 0; k < limit; k++)
	{
		uint32_t	row = ROWS - (uint32_t) (pairs[k].tid >> 16);

		if (pairs[k].tid % 65536 != 1 || row >= rows || row % 10 == 3 || listed[row])
			return differ("query %d: tid %lx", q, pairs[k].tid);
		listed[row] = true;
		if (pairs[k].bound > distance(q, row) || pairs[k].bound < distance(q, row) - 0.01 ||
			(k > 0 && pairs[k].bound < pairs[k - 1].bound))
			return differ("query %d: bound %g of distance %g", q, pairs[k].bound, distance(q, row));
	}
	for (uint32_t row = 0; row < rows; row++)
		if (!listed[row] && row % 10 != 3 && distance(q, row) < pairs[limit - 1].bound)
			return differ("query %d: row %u is missing", q, row);
	return true;
}

static void
test_answers(void)
{
	GaKnnAsk	head = question();
	GaKnnDevicePair after[QUERIES];
	GaKnnDevicePair expected[QUERIES][LIMIT / 2];
	bool		good = ask(&head, NULL, ASK_BYTES(false), ANSWER_BYTES(LIMIT)) == GA_STATUS_OK;

	for (int q = 0; q < QUERIES; q++)
		good &= check(q, LIMIT, ROWS);
	result(good && owner.slot->result[0] == ROWS && owner.slot->result[1] == 1, "the nearest rows of several queries");

	for (int q = 0; q < QUERIES; q++)
	{
		const GaKnnDevicePair *pairs = (const GaKnnDevicePair *) (answer_of(q, LIMIT) + 1);

		after[q] = pairs[LIMIT / 2 - 1];
		memcpy(expected[q], pairs + LIMIT / 2, sizeof(expected[q]));
	}
	head.flags = GA_KNN_AFTER;
	head.limit = LIMIT / 2;
	good = ask(&head, after, ASK_BYTES(true), ANSWER_BYTES(LIMIT / 2)) == GA_STATUS_OK;
	for (int q = 0; q < QUERIES; q++)
		good &= answer_of(q, LIMIT / 2)->count == LIMIT / 2 &&
			memcmp(answer_of(q, LIMIT / 2) + 1, expected[q], sizeof(expected[q])) == 0;
	result(good, "those after a given one");

	head = question();
	head.rows = 100;
	good = ask(&head, NULL, ASK_BYTES(false), ANSWER_BYTES(LIMIT)) == GA_STATUS_OK;
	for (int q = 0; q < QUERIES; q++)
		good &= check(q, LIMIT, 100);
	result(good, "of the first rows only");

	head.rows = 0;
	good = ask(&head, NULL, ASK_BYTES(false), ANSWER_BYTES(LIMIT)) == GA_STATUS_OK;
	for (int q = 0; q < QUERIES; q++)
		good &= answer_of(q, LIMIT)->count == 0;
	result(good, "of no row");
}

static void
test_refusals(void)
{
	GaKnnAsk	fine = question();
	uint64_t	asked = ASK_BYTES(false);
	uint64_t	answered = ANSWER_BYTES(LIMIT);
	GaKnnAsk	bad;
	bool		good = true;

#define REFUSES(field, value) \
	(bad = fine, bad.field = (value), ask(&bad, NULL, asked, answered) == GA_STATUS_INVALID || differ(#field " = " #value))

	good &= REFUSES(rows, ROWS + 1000000);
	good &= REFUSES(rows, UINT64_MAX);
	good &= REFUSES(stride, 0);
	good &= REFUSES(stride, stride - 16);
	good &= REFUSES(stride, stride + 8);
	good &= REFUSES(stride, UINT32_MAX / 16 * 16);
	good &= REFUSES(dim, 0);
	good &= REFUSES(dim, DIM + 20);
	good &= REFUSES(dim, 65536);
	good &= REFUSES(dim, UINT32_MAX);
	good &= REFUSES(storage, 3);
	good &= REFUSES(metric, 4);
	good &= REFUSES(sums, 2);
	good &= REFUSES(dtype, 0);
	good &= REFUSES(dtype, GA_BOOL);
	good &= REFUSES(dtype, 255);
	good &= REFUSES(nqueries, 0);
	good &= REFUSES(nqueries, QUERIES + 1);
	good &= REFUSES(nqueries, GA_KNN_MAX_QUERIES + 1);
	good &= REFUSES(nqueries, UINT32_MAX);
	good &= REFUSES(limit, 0);
	good &= REFUSES(limit, LIMIT + 1);
	good &= REFUSES(limit, UINT32_MAX);
	good &= REFUSES(flags, 2);
	good &= REFUSES(flags, GA_KNN_AFTER);
	result(good, "nonsense is refused");

	good = ask(&fine, NULL, asked - 1, answered) == GA_STATUS_INVALID;
	good &= ask(&fine, NULL, 63, answered) == GA_STATUS_INVALID;
	good &= ask(&fine, NULL, 0, answered) == GA_STATUS_INVALID;
	good &= ask(&fine, NULL, RIG_ARENA, answered) == GA_STATUS_INVALID;
	good &= ask(&fine, NULL, UINT64_MAX, answered) == GA_STATUS_INVALID;
	good &= ask(&fine, NULL, asked, answered - 1) == GA_STATUS_INVALID;
	good &= ask(&fine, NULL, asked, UINT64_MAX) == GA_STATUS_INVALID;
	good &= REQUEST(&owner, GA_OP_KNN, 0, 1, 0, asked, rig.header->arena_offset + ANSWER_AT, answered) == GA_STATUS_INVALID;
	good &= REQUEST(&owner, GA_OP_KNN, 0, 1, rig.header->arena_offset + ASK_AT, asked, 64, answered) == GA_STATUS_INVALID;
	good &= REQUEST(&owner, GA_OP_KNN, 0, 1, rig.header->arena_offset + ASK_AT, asked, rig.header->arena_offset + ANSWER_AT + 4,
					answered) == GA_STATUS_INVALID;
	good &= REQUEST(&owner, GA_OP_KNN, 0, 77, rig.header->arena_offset + ASK_AT, asked, rig.header->arena_offset + ANSWER_AT,
					answered) == GA_STATUS_UNKNOWN;
	result(good && rig_canaries_live(&rig), "so are places outside of the arena and regions that are not there");

	good = ask(&fine, NULL, asked, answered) == GA_STATUS_OK && check(0, LIMIT, ROWS);
	result(good, "the process goes on");
}

#define CLIENTS 12

/*
 * Many at once, while a pass takes a while: those that come meanwhile share the next one, whatever else they ask
 * for. Each has its own part of the arena.
 */
static void
test_sharing(void)
{
	Owner		clients[CLIENTS];
	GaKnnAsk	head[CLIENTS];
	uint64_t	shared = 0;
	bool		good = REQUEST(&owner, GA_OP_REGION_FREE, 0, 1) == GA_STATUS_OK;

	rig_listen(&rig);
	setenv("GA_EMULATED_PASS", "300000", 1);
	rig_kill(&rig, 9);
	good &= rig_start(&rig, (const char *const[]) {NULL});
	unsetenv("GA_EMULATED_PASS");
	owner_close(&owner);
	good &= owner_open(&owner, &rig, 5);
	upload_rows();
	for (int c = 0; c < CLIENTS; c++)
	{
		uint64_t	at = rig.header->arena_offset + ASK_AT + (uint64_t) c * 65536;
		char	   *to = (char *) rig.header + at;

		head[c] = question();
		head[c].limit = 10 + (uint32_t) c;
		head[c].rows = ROWS - 10 * (uint32_t) c;
		head[c].nqueries = 1 + (uint32_t) c % QUERIES;
		if (c == 7)
			head[c].stride = 8;
		memcpy(to, &head[c], sizeof(head[c]));
		memcpy(to + sizeof(head[c]), queries, sizeof(queries));
		good &= owner_open(&clients[c], &rig, 10 + (uint32_t) c);
		SUBMIT(&clients[c], GA_OP_KNN, 0, 1, at, ASK_BYTES(false), at + 32768, 32768);
	}
	for (int c = 0; c < CLIENTS; c++)
	{
		good &= owner_wait(&clients[c], 30);
		if (c == 7)
		{
			good &= clients[c].slot->status == GA_STATUS_INVALID;
			continue;
		}
		good &= clients[c].slot->status == GA_STATUS_OK;
		memcpy(rig_arena(&rig) + ANSWER_AT, rig_arena(&rig) + ASK_AT + (uint64_t) c * 65536 + 32768, 32768);
		for (uint32_t q = 0; q < head[c].nqueries; q++)
			good &= check((int) q, head[c].limit, (uint32_t) head[c].rows);
		shared = clients[c].slot->result[1] > shared ? clients[c].slot->result[1] : shared;
	}
	result(good, "many clients at once, each with its own answer");
	result((shared > 1 || !rig_is_emulated()) && shared < CLIENTS, "some of them shared a pass");
	printf("# up to %lu at once\n", shared);
	for (int c = 0; c < CLIENTS; c++)
		owner_close(&clients[c]);
}

int
main(void)
{
	ga_math_init();
	stride = (uint32_t) (ga_knn_record_bytes(GA_KNN_F16, DIM) + 15) / 16 * 16;
	for (int q = 0; q < QUERIES; q++)
		for (int j = 0; j < DIM; j++)
			queries[q][j] = (float) (int) (next_random() % 2001) / 1000 - 1;
	rig_make(&rig);
	result(rig_start(&rig, (const char *const[]) {NULL}) && owner_open(&owner, &rig, 5), "the process starts");
	upload_rows();
	test_answers();
	test_refusals();
	test_sharing();
	owner_close(&owner);
	rig_kill(&rig, 9);
	rig_remove(&rig);
	return finish();
}
