/*
 * gpuknn_values.c
 *		The operator's value for a row of the table, as the executor would compute
 *		it: the row that the scan's snapshot sees, the index's column or
 *		expression, the function of the ORDER BY operator.
 */
#include "base/compat.h"

#include "access/tableam.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "index/gpuknn_scan.h"
#include "utils/memutils.h"

struct GpuknnTable
{
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	EState	   *estate;
	struct IndexInfo *info;
};

static GpuknnTable *
open_table(IndexScanDesc scan, GpuknnScan *state)
{
	MemoryContext old = MemoryContextSwitchTo(state->context);
	GpuknnTable *table = palloc0(sizeof(*table));

	table->fetch = table_index_fetch_begin(scan->heapRelation);
	table->slot = table_slot_create(scan->heapRelation, NULL);
	table->estate = CreateExecutorState();
	table->info = BuildIndexInfo(scan->indexRelation);
	GetPerTupleExprContext(table->estate)->ecxt_scantuple = table->slot;
	MemoryContextSwitchTo(old);
	return table;
}

void
gpuknn_close_table(GpuknnScan *state)
{
	if (state->table == NULL)
		return;
	ExecDropSingleTupleTableSlot(state->table->slot);
	table_index_fetch_end(state->table->fetch);
	FreeExecutorState(state->table->estate);
	state->table = NULL;
}

bool
gpuknn_value(IndexScanDesc scan, GpuknnScan *state, GaKnnPair *pair)
{
	ItemPointerData tid;

	return pair->exact || gpuknn_visible_value(scan, state, pair, &tid);
}

bool
gpuknn_visible_value(IndexScanDesc scan, GpuknnScan *state, GaKnnPair *pair, ItemPointer tid)
{
	ScanKey		orderby = &scan->orderByData[0];
	GpuknnTable *table;
	ExprContext *econtext;
	MemoryContext old;
	Datum		value;
	bool		isnull;
	bool		again = false;
	bool		dead = false;

	if (state->table == NULL)
		state->table = open_table(scan, state);
	table = state->table;
	gpuknn_row_tid(scan->indexRelation, pair->row, tid);
	if (!table_index_fetch_tuple(table->fetch, tid, scan->xs_snapshot, table->slot, &again, &dead))
		return false;

	econtext = GetPerTupleExprContext(table->estate);
	ResetExprContext(econtext);
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	FormIndexDatum(table->info, table->slot, table->estate, &value, &isnull);
	if (!isnull)
	{
		pair->bound = DatumGetFloat8(FunctionCall2Coll(&orderby->sk_func, orderby->sk_collation, value, orderby->sk_argument));
		pair->exact = true;
	}
	MemoryContextSwitchTo(old);
	ExecClearTuple(table->slot);
	return !isnull;
}
