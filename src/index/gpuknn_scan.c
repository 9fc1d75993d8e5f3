/*
 * gpuknn_scan.c
 *		ORDER BY column <operator> query. A pass over all pages keeps as many
 *		pairs of bound and tid as there is room for; they are handed out ascending,
 *		and the next pass goes on behind the last of them. A pair whose bound is
 *		not the operator's value is checked by the executor, which keeps its row
 *		back until no smaller bound can follow.
 *
 * Order: by bound, NaN after all numbers as PostgreSQL has it, then by tid; rows
 * without a vector come last.
 */
#include "base/compat.h"

#include "access/relscan.h"
#include "catalog/pg_type.h"
#include "index/gpuknn_scan.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Pairs of the first pass: more than what a LIMIT usually asks for. Later ones use work_mem. */
#define FIRST_PAIRS 1000

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

	MemoryContextReset(state->context);
	state->phase = GPUKNN_START;
	state->pairs = NULL;
	state->tids = NULL;
	state->passes = 0;
	if (orderbys != NULL && scan->numberOfOrderBys > 0)
		memmove(scan->orderByData, orderbys, sizeof(ScanKeyData) * scan->numberOfOrderBys);
}

void
gpuknn_end_scan(IndexScanDesc scan)
{
	GpuknnScan *state = (GpuknnScan *) scan->opaque;

	MemoryContextDelete(state->context);
	pfree(state);
}

/* Notes what the index holds and makes ready for the query; false when its distance to all vectors is NULL. */
static bool
prepare(Relation index, GpuknnScan *scan, ScanKey orderby)
{
	GpuknnMeta	meta;
	GpuknnVector query;

	scan->shape = gpuknn_shape(index);
	gpuknn_read_meta(index, &meta);
	scan->length = meta.length;
	scan->vectors = meta.vectors;
	scan->nulls = meta.nulls;
	if (orderby->sk_flags & SK_ISNULL)
		return false;

	scan->class.vector(orderby->sk_argument, &query);
	if (query.dim != scan->shape.dim)
	{
		/* The operator would not have been called for an empty table either. */
		if (scan->vectors > 0)
			scan->class.mismatch(scan->shape.dim, query.dim);
		scan->vectors = 0;
		return true;
	}
	scan->query = palloc(ga_knn_query_bytes(query.dtype, query.dim));
	ga_knn_prepare(scan->query, scan->shape.metric, scan->shape.storage, scan->class.sums, query.dtype, query.data, query.dim);
	scan->assembled = palloc(scan->shape.record_bytes);
	scan->bounds = palloc(sizeof(double) * (GPUKNN_PAGE_BYTES / scan->shape.record_bytes + 1));
	scan->exact = palloc0(sizeof(bool) * (GPUKNN_PAGE_BYTES / scan->shape.record_bytes + 1));
	return true;
}

static void
start_drain(GpuknnScan *scan, bool all)
{
	scan->phase = GPUKNN_DRAIN;
	scan->all = all;
	scan->block = 1;
	scan->capacity = 256;
	scan->tids = palloc(sizeof(ItemPointerData) * scan->capacity);
	scan->ntids = scan->next_tid = 0;
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
	state->phase = GPUKNN_VECTORS;
	if (!prepare(scan->indexRelation, state, &scan->orderByData[0]))
		start_drain(state, true);
	MemoryContextSwitchTo(old);
}

/* The next pair; NULL when there is no other. */
static const GaKnnPair *
next_pair(IndexScanDesc scan, GpuknnScan *state)
{
	size_t		capacity = FIRST_PAIRS;
	GaKnnPair	last;

	if (state->passes > 0 && state->next < state->top.count)
		return &state->pairs[state->next++];
	/* A pass that did not fill its pairs found all there is. */
	if (state->vectors == 0 || (state->passes > 0 && state->top.count < state->top.capacity))
		return NULL;

	if (state->passes > 0)
	{
		last = state->pairs[state->top.count - 1];
		capacity = Max(FIRST_PAIRS, (size_t) work_mem * 1024 / sizeof(GaKnnPair));
		pfree(state->pairs);
	}
	/* Not more than there can be, with one to spare that tells the end. */
	capacity = Min(capacity, state->length + 1);
	state->pairs = MemoryContextAllocHuge(state->context, capacity * sizeof(GaKnnPair));
	ga_knn_top_init(&state->top, state->pairs, capacity, state->passes > 0 ? &last : NULL);
	gpuknn_pass(scan->indexRelation, state);
	ga_knn_top_sort(&state->top);
	state->passes++;
	state->next = 0;
	return state->next < state->top.count ? &state->pairs[state->next++] : NULL;
}

static bool
next_drained(IndexScanDesc scan, GpuknnScan *state)
{
	while (state->next_tid == state->ntids)
		if (!gpuknn_drain(scan->indexRelation, state))
			return false;
	scan->xs_heaptid = state->tids[state->next_tid++];
	return true;
}

bool
gpuknn_next(IndexScanDesc scan, ScanDirection direction)
{
	GpuknnScan *state = (GpuknnScan *) scan->opaque;
	const GaKnnPair *pair;

	/* The executor goes backwards only in a plan that was said to be able to. */
	Assert(ScanDirectionIsForward(direction));
	if (state->phase == GPUKNN_START)
		start(scan, state);
	scan->xs_recheck = false;
	if (state->phase == GPUKNN_VECTORS)
	{
		pair = next_pair(scan, state);
		if (pair != NULL)
		{
			gpuknn_unpack_tid(pair->row, &scan->xs_heaptid);
			scan->xs_orderbyvals[0] = Float8GetDatum(pair->bound);
			scan->xs_orderbynulls[0] = false;
			scan->xs_recheckorderby = !pair->exact;
			return true;
		}
		if (state->nulls > 0)
		{
			MemoryContext old = MemoryContextSwitchTo(state->context);

			start_drain(state, false);
			MemoryContextSwitchTo(old);
		}
		else
			state->phase = GPUKNN_DONE;
	}
	if (state->phase == GPUKNN_DRAIN)
	{
		scan->xs_orderbyvals[0] = (Datum) 0;
		scan->xs_orderbynulls[0] = true;
		scan->xs_recheckorderby = false;
		if (next_drained(scan, state))
			return true;
		state->phase = GPUKNN_DONE;
	}
	return false;
}
