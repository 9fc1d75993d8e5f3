/*
 * gpuknn_scan.c
 *		ORDER BY column <operator> query. A pass over all pages keeps as many
 *		pairs of bound and tid as there is room for; they are handed out ascending,
 *		and the next pass goes on behind the last of them. A pair whose bound is
 *		not the operator's value is checked by the executor, which keeps its row
 *		back until no smaller bound can follow.
 *
 * The executor keeps whole rows back, in as much memory as it takes. So after
 * MAX_CHECKS of them the scan computes values itself (VALUES) and keeps pairs
 * back, in half of work_mem. When that does not do, because bounds are worth
 * little or very many rows are at one distance, each pass selects the next pairs
 * by value, computing it for all rows whose bound is small enough (SELECT).
 *
 * Order: by bound, NaN after all numbers as PostgreSQL has it, then by tid; rows
 * without a vector come last. Values that the scan computed are in that order,
 * too, so a pass of SELECT knows what was handed out: what is not greater than
 * the last value, and what the executor was given as a bound.
 */
#include "base/compat.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "index/gpuknn_mirror.h"
#include "index/gpuknn_scan.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Rows that the executor may have to keep back. */
#define MAX_CHECKS 10000

/* Pairs that are sorted without looking for a cancel: some 20 ms. */
#define SORT_STEPS 65536

IndexScanDesc
gpuknn_begin_scan(Relation index, int nkeys, int norderbys)
{
	IndexScanDesc scan = RelationGetIndexScan(index, nkeys, norderbys);
	GpuknnScan *state = palloc0(sizeof(*state));

	gpuknn_class(index, &state->class);
	state->context = AllocSetContextCreate(CurrentMemoryContext, "gpuknn scan", ALLOCSET_DEFAULT_SIZES);
	scan->opaque = state;
	/* The executor reads them of a scan with ORDER BY. */
	scan->xs_orderbyvals = palloc0(sizeof(Datum) * Max(norderbys, 1));
	scan->xs_orderbynulls = palloc0(sizeof(bool) * Max(norderbys, 1));
	return scan;
}

void
gpuknn_rescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys)
{
	GpuknnScan *state = (GpuknnScan *) scan->opaque;
	GpuknnClass class = state->class;
	MemoryContext context = state->context;

	gpuknn_close_table(state);
	MemoryContextReset(context);
	memset(state, 0, sizeof(*state));
	state->class = class;
	state->context = context;
	if (orderbys != NULL && scan->numberOfOrderBys > 0)
		memmove(scan->orderByData, orderbys, sizeof(ScanKeyData) * scan->numberOfOrderBys);
}

void
gpuknn_end_scan(IndexScanDesc scan)
{
	GpuknnScan *state = (GpuknnScan *) scan->opaque;

	gpuknn_close_table(state);
	MemoryContextDelete(state->context);
	pfree(state);
}

/* Notes what the index holds and makes ready for the query; false when its distance to all vectors is NULL. */
static bool
prepare(Relation index, GpuknnScan *state, ScanKey orderby)
{
	GpuknnMeta	meta;
	GpuknnVector query;
	size_t		of_page;

	state->shape = gpuknn_shape(index);
	gpuknn_read_meta(index, &meta);
	state->length = meta.length;
	state->vectors = meta.vectors;
	state->nulls = meta.nulls;
	state->changes = meta.changes;
	state->incarnation = meta.incarnation;
	if (orderby->sk_flags & SK_ISNULL)
		return false;

	state->class.vector(orderby->sk_argument, &query);
	if (query.dim != state->shape.dim)
	{
		/* The operator would not have been called for an empty table either. */
		if (state->vectors > 0)
			state->class.mismatch(state->shape.dim, query.dim);
		return true;
	}
	state->vector = query;
	state->query = palloc(ga_knn_query_bytes(query.dtype, query.dim));
	ga_knn_prepare(state->query, state->shape.metric, state->shape.storage, state->class.sums, query.dtype, query.data, query.dim);
	of_page = GPUKNN_PAGE_BYTES / state->shape.record_bytes + 1;
	state->assembled = palloc(state->shape.record_bytes);
	state->bounds = palloc(sizeof(double) * of_page);
	state->exact = palloc0(sizeof(bool) * of_page);
	state->found = palloc(sizeof(GaKnnPair) * of_page);
	return true;
}

static void
start_drain(GpuknnScan *state, bool all)
{
	state->phase = GPUKNN_DRAIN;
	state->all = all;
	state->block = 1;
	state->capacity = 256;
	state->tids = MemoryContextAlloc(state->context, sizeof(ItemPointerData) * state->capacity);
	state->ntids = state->next_tid = 0;
}

static void
start(IndexScanDesc scan, GpuknnScan *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);

	if (scan->numberOfOrderBys != 1 || scan->numberOfKeys != 0)
		elog(ERROR, "a gpuknn index is scanned in the order of one distance");
	if (!IsMVCCSnapshot(scan->xs_snapshot))
		elog(ERROR, "a gpuknn index is scanned with MVCC snapshots only");
	pgstat_count_index_scan(scan->indexRelation);
	ga_count_search(scan);
	state->phase = GPUKNN_BOUNDS;
	if (!prepare(scan->indexRelation, state, &scan->orderByData[0]))
		start_drain(state, true);
	MemoryContextSwitchTo(old);
}

size_t
gpuknn_pairs_of_memory(void)
{
	return Max(GPUKNN_FIRST_PAIRS, (size_t) work_mem * 1024 / 2 / sizeof(GaKnnPair));
}

/* ----- pairs of passes ----- */

static void
next_pass(IndexScanDesc scan, GpuknnScan *state, size_t capacity, const GaKnnPair *after)
{
	GaKnnPair  *pairs;
	instr_time	start;
	instr_time	end_time;

	INSTR_TIME_SET_CURRENT(start);
	/* Not more than there can be, with one to spare that tells the end. */
	capacity = Min(capacity, state->length + 1);
	pairs = MemoryContextAllocHuge(state->context, capacity * sizeof(GaKnnPair));
	ga_knn_top_init(&state->top, pairs, capacity, after);
	gpuknn_pass(scan, state);
	for (size_t end = state->top.count; end > 1;)
	{
		CHECK_FOR_INTERRUPTS();
		end = ga_knn_top_sort(&state->top, end, SORT_STEPS);
	}
	state->passes++;
	state->next = 0;
	INSTR_TIME_SET_CURRENT(end_time);
	INSTR_TIME_SUBTRACT(end_time, start);
	ga_last_request = (GaLastRequest) {
		.device = GA_DEVICE_HOST,
		.rows = state->length,
		.batch = 1,
		.device_ms = INSTR_TIME_GET_MILLISEC(end_time),
		.fallback_reason = state->fallback,
		.index = RelationGetRelid(scan->indexRelation),
		.rechecks = state->checks,
	};
}

static void
first_pass(IndexScanDesc scan, GpuknnScan *state)
{
	state->by_device = gpuknn_device_pass(scan, state, GPUKNN_FIRST_DEVICE_PAIRS, NULL);
	gpuknn_mirror_count_scan(scan->indexRelation, state->by_device);
	if (!state->by_device)
		next_pass(scan, state, GPUKNN_FIRST_PAIRS, NULL);
}

/* The pairs after the last of those that there are. */
static void
following_pass(IndexScanDesc scan, GpuknnScan *state)
{
	GaKnnPair	last = state->top.pairs[state->top.count - 1];

	pfree(state->top.pairs);
	if (state->by_device && gpuknn_device_pass(scan, state, gpuknn_pairs_of_memory(), &last))
		return;
	if (state->by_device)
		gpuknn_device_leave(state);
	next_pass(scan, state, gpuknn_pairs_of_memory(), state->by_device ? NULL : &last);
	state->by_device = false;
}

/* Pages are read from the first one: bounds there are others than the device's, so that its last pair tells nothing. */
static void
leave_device(IndexScanDesc scan, GpuknnScan *state)
{
	pfree(state->top.pairs);
	gpuknn_device_leave(state);
	state->by_device = false;
	next_pass(scan, state, gpuknn_pairs_of_memory(), NULL);
}

/* The pair that comes next, which stays there until it is taken; NULL when there is no other. */
static const GaKnnPair *
peek(IndexScanDesc scan, GpuknnScan *state)
{
	if (state->passes == 0)
	{
		if (state->vectors == 0)
			return NULL;
		first_pass(scan, state);
	}
	else if (state->by_device && state->phase != GPUKNN_BOUNDS)
		leave_device(scan, state);
	else if (state->next == state->top.count && state->top.count == state->top.capacity)
		following_pass(scan, state);

	/* Of values that are NaN there may be many, and all that the device gave are remembered. */
	if (state->by_device && state->next < state->top.count && isnan(state->top.pairs[state->next].bound))
		leave_device(scan, state);
	/* A pass that did not fill its pairs found all there are. */
	return state->next < state->top.count ? &state->top.pairs[state->next] : NULL;
}

static void
emit(IndexScanDesc scan, const GaKnnPair *pair)
{
	gpuknn_row_tid(scan->indexRelation, pair->row, &scan->xs_heaptid);
	scan->xs_orderbyvals[0] = Float8GetDatum(pair->bound);
	scan->xs_orderbynulls[0] = false;
	scan->xs_recheckorderby = !pair->exact;
}

static bool
next_bound(IndexScanDesc scan, GpuknnScan *state)
{
	const GaKnnPair *pair = peek(scan, state);

	if (pair == NULL)
		return false;
	state->next++;
	state->handed = *pair;
	state->any_handed = true;
	if (state->by_device)
		gpuknn_device_give(state, pair);
	emit(scan, pair);
	if (!pair->exact)
		state->checks++;
	if (ga_last_request.index == RelationGetRelid(scan->indexRelation))
		ga_last_request.rechecks = state->checks;
	if (state->checks >= MAX_CHECKS)
	{
		state->phase = GPUKNN_VALUES;
		state->max_kept = gpuknn_pairs_of_memory();
		state->kept = MemoryContextAllocHuge(state->context, sizeof(GaKnnPair) * state->max_kept);
	}
	return true;
}

/* ----- values kept back: a heap ----- */

static void
keep(GpuknnScan *state, GaKnnPair pair)
{
	size_t		hole = state->nkept++;

	while (hole > 0 && ga_knn_pair_compare(&pair, &state->kept[(hole - 1) / 2]) < 0)
	{
		state->kept[hole] = state->kept[(hole - 1) / 2];
		hole = (hole - 1) / 2;
	}
	state->kept[hole] = pair;
}

static GaKnnPair
take(GpuknnScan *state)
{
	GaKnnPair	first = state->kept[0];
	GaKnnPair	last = state->kept[--state->nkept];
	size_t		hole = 0;

	for (;;)
	{
		size_t		child = 2 * hole + 1;

		if (child + 1 < state->nkept && ga_knn_pair_compare(&state->kept[child + 1], &state->kept[child]) < 0)
			child++;
		if (child >= state->nkept || ga_knn_pair_compare(&last, &state->kept[child]) <= 0)
			break;
		state->kept[hole] = state->kept[child];
		hole = child;
	}
	state->kept[hole] = last;
	return first;
}

static void
emit_value(IndexScanDesc scan, GpuknnScan *state, const GaKnnPair *pair)
{
	state->emitted = *pair;
	state->any_emitted = true;
	emit(scan, pair);
}

/*
 * The smallest value kept back goes out when it comes before all pairs that
 * follow, whose values are at least their bounds.
 */
static bool
next_value(IndexScanDesc scan, GpuknnScan *state)
{
	for (;;)
	{
		const GaKnnPair *bound = peek(scan, state);
		GaKnnPair	pair;

		CHECK_FOR_INTERRUPTS();
		if (state->nkept > 0 && (bound == NULL || ga_knn_pair_compare(&state->kept[0], bound) < 0))
		{
			pair = take(state);
			emit_value(scan, state, &pair);
			return true;
		}
		if (bound == NULL)
			return false;
		if (state->nkept == state->max_kept)
		{
			pfree(state->kept);
			pfree(state->top.pairs);
			state->phase = GPUKNN_SELECT;
			next_pass(scan, state, 2 * gpuknn_pairs_of_memory(), state->any_emitted ? &state->emitted : NULL);
			return false;
		}
		state->next++;
		pair = *bound;
		if (gpuknn_value(scan, state, &pair))
			keep(state, pair);
	}
}

static bool
next_selected(IndexScanDesc scan, GpuknnScan *state)
{
	if (state->next == state->top.count && state->top.count == state->top.capacity)
	{
		pfree(state->top.pairs);
		next_pass(scan, state, 2 * gpuknn_pairs_of_memory(), &state->emitted);
	}
	if (state->next == state->top.count)
		return false;
	emit_value(scan, state, &state->top.pairs[state->next++]);
	return true;
}

static bool
next_drained(IndexScanDesc scan, GpuknnScan *state)
{
	while (state->next_tid == state->ntids)
		if (!gpuknn_drain(scan, state))
			return false;
	scan->xs_heaptid = state->tids[state->next_tid++];
	scan->xs_orderbyvals[0] = (Datum) 0;
	scan->xs_orderbynulls[0] = true;
	scan->xs_recheckorderby = false;
	return true;
}

bool
gpuknn_next(IndexScanDesc scan, ScanDirection direction)
{
	GpuknnScan *state = (GpuknnScan *) scan->opaque;

	/* The executor goes backwards only in a plan that was said to be able to. */
	Assert(ScanDirectionIsForward(direction));
	if (state->phase == GPUKNN_START)
		start(scan, state);
	scan->xs_recheck = false;

	if (state->phase == GPUKNN_BOUNDS && next_bound(scan, state))
		return true;
	if (state->phase == GPUKNN_VALUES && next_value(scan, state))
		return true;
	if (state->phase == GPUKNN_SELECT && next_selected(scan, state))
		return true;
	if (state->phase != GPUKNN_DRAIN && state->phase != GPUKNN_DONE)
	{
		if (state->nulls > 0)
			start_drain(state, false);
		else
			state->phase = GPUKNN_DONE;
	}
	if (state->phase == GPUKNN_DRAIN)
	{
		if (next_drained(scan, state))
			return true;
		state->phase = GPUKNN_DONE;
	}
	return false;
}
