/*
 * gpuknn_join.c
 *		knn_join(): the nearest rows of many queries. The pages are gone over once
 *		for as many queries as half of work_mem has room for, or a device does.
 *
 * A pass gives each query the pairs of bound and tid that are smallest, in order.
 * The operator's values of their rows are computed one after the other, until the
 * k-th smallest value is below the next bound: what follows is farther away. A
 * query whose pairs do not get there takes part in the next pass, behind them.
 *
 * Order: by value, NaN last, then by the tid of the row that the snapshot sees.
 * The index has the first tid of a chain of updates, so of rows with one bound
 * all must be looked at.
 */
#include "base/compat.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/index.h"
#include "funcapi.h"
#include "index/gpuknn_mirror.h"
#include "index/gpuknn_scan.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "pgstat.h"
#include "tensor/tensor.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

/* Queries of a block at most: those of one request to a device. */
#define MAX_QUERIES GA_KNN_MAX_QUERIES

/* Queries and rows whose bounds are computed at a time: a cancel waits for that. */
#define TILE_QUERIES 64
#define TILE_ROWS 64
#define PIECE_BYTES 131072
#define MAX_PIECE_BYTES 1048576

/* Pairs of the first pass beyond k, as many as rounding of near rows makes useful. */
#define SPARE(k) ((k) / 2 + 64)

typedef struct JoinQuery
{
	int64		number;			/* from 1 */
	Datum		value;			/* as the operator takes it */
	GpuknnVector vector;
	GaKnnQuery *prepared;
	GaKnnTop	top;			/* of this pass: bounds, tids of the index */
	GaKnnPair	after;			/* the last pair of the pass before */
	GaKnnTop	best;			/* values, tids of visible rows */
	bool		done;
} JoinQuery;

typedef struct KnnJoin
{
	IndexScanDesc scan;
	GpuknnScan *state;
	GaView		queries;
	int64		nqueries;
	size_t		query_bytes;	/* elements of one */
	size_t		k;				/* at most the slots of the index */
	bool		by_device;		/* as long as it answers */
	bool		later;			/* not the first pass of the block */
	size_t		capacity;		/* pairs of a query in this pass */
	JoinQuery **active;
	int			nactive;
	char	   *records;		/* a piece of the stream */
	size_t		records_size;
	double	   *bounds;
	MemoryContext pass;
} KnnJoin;

/* ----- the index, and who may ask ----- */

/* SELECT on what the index is of, and on what decides whether a row is in it. */
static void
check_rights(Relation heap, Relation index)
{
	Bitmapset  *columns = NULL;
	int			column = -1;

	if (check_enable_rls(RelationGetRelid(heap), InvalidOid, false) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("knn_join() does not apply row security"),
				 errdetail("Row security of table \"%s\" is in force for you.", RelationGetRelationName(heap)),
				 errhint("Use a LATERAL subquery with ORDER BY and LIMIT.")));
	if (pg_class_aclcheck(RelationGetRelid(heap), GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return;
	columns = bms_add_member(NULL, index->rd_index->indkey.values[0] - FirstLowInvalidHeapAttributeNumber);
	pull_varattnos((Node *) RelationGetIndexPredicate(index), 1, &columns);
	while ((column = bms_next_member(columns, column)) >= 0)
	{
		AttrNumber	attribute = column + FirstLowInvalidHeapAttributeNumber;

		if (attribute == InvalidAttrNumber ||
			pg_attribute_aclcheck(RelationGetRelid(heap), attribute, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(heap));
	}
}

static void
check_index(Relation heap, Relation index)
{
	const char *name = RelationGetRelationName(index);

	if (RELATION_IS_OTHER_TEMP(index))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" belongs to a temporary table of another session", name)));
	check_rights(heap, index);
	if (index->rd_index->indkey.values[0] == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" is on an expression", name),
				 errdetail("knn_join() takes indexes on columns."),
				 errhint("Use a LATERAL subquery with ORDER BY and LIMIT.")));
	if (!index->rd_index->indisvalid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is not valid", name),
				 errhint("Rebuild the index with REINDEX.")));
	/* As for the planner: rows updated in place before the build may not be where the index has them for old snapshots. */
	if (index->rd_index->indcheckxmin &&
		!TransactionIdPrecedes(HeapTupleHeaderGetXmin(index->rd_indextuple->t_data), TransactionXmin))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("index \"%s\" is too new for this transaction", name),
				 errdetail("Older transactions may see rows that were updated before it was built."),
				 errhint("Try again in a new transaction, once those have ended.")));
}

/* Opens and locks the index and its table, for a scan with the caller's snapshot. */
static IndexScanDesc
open_scan(Oid oid)
{
	Oid			table = IndexGetRelation(oid, true);
	Relation	heap = OidIsValid(table) ? try_table_open(table, AccessShareLock) : NULL;
	Relation	index = heap != NULL ? try_relation_open(oid, AccessShareLock) : NULL;
	Oid			type;
	Oid			operator;
	ScanKeyData key;
	IndexScanDesc scan;

	if (index == NULL || index->rd_rel->relkind != RELKIND_INDEX || index->rd_indam->ambuild != gpuknn_build)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation %u is not a gpuknn index", oid)));
	check_index(heap, index);
	type = index->rd_opcintype[0];
	operator = get_opfamily_member(index->rd_opfamily[0], type, type, GPUKNN_STRATEGY_DISTANCE);
	if (!OidIsValid(operator))
		elog(ERROR, "no operator of index \"%s\"", RelationGetRelationName(index));
	ScanKeyEntryInitialize(&key, SK_ORDER_BY, 1, GPUKNN_STRATEGY_DISTANCE, type, index->rd_indcollation[0],
						   get_opcode(operator), (Datum) 0);
	scan = ga_index_beginscan(heap, index, GetActiveSnapshot(), 0, 1);
	index_rescan(scan, NULL, 0, &key, 1);
	return scan;
}

static void
close_scan(IndexScanDesc scan)
{
	Relation	heap = scan->heapRelation;
	Relation	index = scan->indexRelation;

	index_endscan(scan);
	relation_close(index, NoLock);
	table_close(heap, NoLock);
}

/* ----- queries ----- */

/* A query as the operator takes it: types of ours have one layout, and the operator looks at no more. */
static JoinQuery *
make_query(KnnJoin *join, int64 number)
{
	GpuknnScan *state = join->state;
	JoinQuery  *query = palloc0(sizeof(*query));
	int64		dim = join->queries.nelem / join->nqueries;
	char	   *data;
	GaTensor   *tensor = ga_tensor_new(&ga_kind_agent_state, join->queries.dtype, 1, &dim, &data);

	memcpy(data, join->queries.data + (number - 1) * join->query_bytes, join->query_bytes);
	query->number = number;
	query->value = PointerGetDatum(ga_tensor_seal(&ga_kind_agent_state, tensor, NULL));
	state->class.vector(query->value, &query->vector);
	query->prepared = palloc(ga_knn_query_bytes(query->vector.dtype, query->vector.dim));
	ga_knn_prepare(query->prepared, state->shape.metric, state->shape.storage, state->class.sums,
				   query->vector.dtype, query->vector.data, query->vector.dim);
	ga_knn_top_init(&query->best, MemoryContextAllocHuge(CurrentMemoryContext, join->k * sizeof(GaKnnPair)), join->k, NULL);
	return query;
}

static int
queries_of_memory(const KnnJoin *join)
{
	size_t		bytes = (2 * join->k + SPARE(join->k)) * sizeof(GaKnnPair) +
		ga_knn_query_bytes(join->queries.dtype, join->state->shape.dim) + join->query_bytes + sizeof(JoinQuery);

	return (int) Min(Max((size_t) work_mem * 1024 / 2 / bytes, 1), MAX_QUERIES);
}

/* ----- a pass over the pages ----- */

static void
offer(KnnJoin *join, JoinQuery *query, const char *records, int n, const double *bounds)
{
	size_t		stride = join->state->shape.record_bytes;

	for (int i = 0; i < n; i++)
	{
		const GaKnnRow *row;

		if (bounds[i] > query->top.threshold || bounds[i] > query->best.threshold)
			continue;
		row = (const GaKnnRow *) (records + i * stride);
		if ((row->flags & GA_KNN_INDEX_FLAGS) == 0)
			ga_knn_top_push(&query->top, bounds[i], gpuknn_get48(row->tid), false);
	}
}

static void
offer_all(KnnJoin *join, const char *records, int n)
{
	const GaKnnQuery *prepared[TILE_QUERIES];

	for (int first = 0; first < join->nactive; first += TILE_QUERIES)
	{
		int			some = Min(TILE_QUERIES, join->nactive - first);

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < some; i++)
			prepared[i] = join->active[first + i]->prepared;
		ga_knn_bounds_batch(prepared, some, records, join->state->shape.record_bytes, n, join->bounds);
		for (int i = 0; i < some; i++)
			offer(join, join->active[first + i], records, n, join->bounds + (size_t) i * n);
	}
}

/* The stream of slots is copied out in pieces of whole tiles; a page is locked only while it is copied. */
static void
pass_of_pages(KnnJoin *join)
{
	Relation	index = join->scan->indexRelation;
	size_t		record_bytes = join->state->shape.record_bytes;
	uint64		left = join->state->length;
	BlockNumber end = gpuknn_end_block(record_bytes, left);
	BufferAccessStrategy strategy = end > NBuffers / 4 ? GetAccessStrategy(BAS_BULKREAD) : NULL;
	size_t		rows = (join->records_size - GPUKNN_PAGE_BYTES) / record_bytes;
	size_t		filled = 0;

	for (BlockNumber block = 1; block < end; block++)
	{
		Buffer		buffer = gpuknn_buffer(index, block, BUFFER_LOCK_SHARE, strategy);
		size_t		n;

		ga_test_old_snapshot(join->scan->xs_snapshot, index, BufferGetPage(buffer));
		memcpy(join->records + filled, gpuknn_bytes(BufferGetPage(buffer)), GPUKNN_PAGE_BYTES);
		UnlockReleaseBuffer(buffer);
		filled += GPUKNN_PAGE_BYTES;
		CHECK_FOR_INTERRUPTS();
		if (block + 1 < end && filled < rows * record_bytes)
			continue;
		for (size_t at = 0;; at += n * record_bytes)
		{
			n = Min(Min((filled - at) / record_bytes, rows), left);
			if (n == 0 || (n < rows && block + 1 < end))
			{
				memmove(join->records, join->records + at, filled - at);
				filled -= at;
				break;
			}
			offer_all(join, join->records + at, (int) n);
			left -= n;
		}
	}
	if (strategy != NULL)
		FreeAccessStrategy(strategy);
}

static void
read_pages(KnnJoin *join)
{
	for (int i = 0; i < join->nactive; i++)
	{
		JoinQuery  *query = join->active[i];
		GaKnnPair  *pairs = MemoryContextAllocHuge(join->pass, join->capacity * sizeof(GaKnnPair));

		ga_knn_top_init(&query->top, pairs, join->capacity, join->later ? &query->after : NULL);
	}
	pass_of_pages(join);
	for (int i = 0; i < join->nactive; i++)
	{
		for (size_t end = join->active[i]->top.count; end > 1;)
		{
			CHECK_FOR_INTERRUPTS();
			end = ga_knn_top_sort(&join->active[i]->top, end, 65536);
		}
	}
}

/* ----- a pass by a device ----- */

static bool
ask_device(KnnJoin *join)
{
	GpuknnScan *state = join->state;
	size_t		padded = TYPEALIGN(8, join->query_bytes);
	GaKnnDevicePair *after = MemoryContextAllocHuge(join->pass, join->nactive * sizeof(GaKnnDevicePair));
	GaKnnDevicePair *found;
	char	   *questions = MemoryContextAllocHuge(join->pass, join->nactive * padded);
	uint64	   *counts = palloc(join->nactive * sizeof(uint64));
	GpuknnAsk	ask = {
		.shape = state->shape,
		.sums = state->class.sums,
		.length = state->length,
		.changes = state->changes,
		.incarnation = state->incarnation,
		.dtype = join->queries.dtype,
		.nqueries = join->nactive,
		.queries = questions,
		.after = join->later ? after : NULL,
		.limit = (uint32) Min(join->capacity, GA_KNN_MAX_LIMIT),
	};

	join->capacity = ask.limit;
	found = MemoryContextAllocHuge(join->pass, (size_t) join->nactive * ask.limit * sizeof(GaKnnDevicePair));
	memset(questions, 0, join->nactive * padded);
	for (int i = 0; i < join->nactive; i++)
	{
		memcpy(questions + i * padded, join->active[i]->vector.data, join->query_bytes);
		after[i] = (GaKnnDevicePair) {.bound = join->active[i]->after.bound,.tid = join->active[i]->after.row};
	}
	if (!gpuknn_mirror_ask(join->scan->indexRelation, &ask, found, counts, &state->fallback))
		return false;
	for (int i = 0; i < join->nactive; i++)
	{
		GaKnnTop   *top = &join->active[i]->top;
		GaKnnPair  *pairs = MemoryContextAllocHuge(join->pass, ask.limit * sizeof(GaKnnPair));

		for (uint64 j = 0; j < counts[i]; j++)
			pairs[j] = (GaKnnPair) {found[i * (size_t) ask.limit + j].bound, found[i * (size_t) ask.limit + j].tid, false};
		ga_knn_top_init(top, pairs, ask.limit, NULL);
		top->count = counts[i];
	}
	return true;
}

/* Bounds of a device have other bits, so queries that leave it begin again. */
static void
leave_device(KnnJoin *join, size_t capacity)
{
	join->by_device = false;
	join->later = false;
	join->capacity = capacity;
	for (int i = 0; i < join->nactive; i++)
		ga_knn_top_init(&join->active[i]->best, join->active[i]->best.pairs, join->k, NULL);
}

/* ----- values ----- */

/* Looks at the rows of a pass; the query is done, or has its `after` for the next one. */
static void
look(KnnJoin *join, JoinQuery *query)
{
	GaKnnTop   *top = &query->top;

	join->scan->orderByData[0].sk_argument = query->value;
	for (size_t i = 0; i < top->count; i++)
	{
		GaKnnPair	pair = top->pairs[i];
		ItemPointerData tid;

		CHECK_FOR_INTERRUPTS();
		if (pair.bound > query->best.threshold)
		{
			query->done = true;
			return;
		}
		if (gpuknn_visible_value(join->scan, join->state, &pair, &tid))
			ga_knn_top_push(&query->best, pair.bound, gpuknn_pack_tid(&tid), true);
	}
	query->done = top->count < top->capacity;
	if (!query->done)
		query->after = top->pairs[top->count - 1];
}

/* Memory of the passes after the first: half of work_mem for all queries that are left. */
static void
next_capacity(KnnJoin *join, size_t first)
{
	size_t		capacity = (size_t) work_mem * 1024 / 2 / sizeof(GaKnnPair) / join->nactive;

	join->capacity = Min(Max(capacity, first), join->state->length + 1);
}

static void
join_block(KnnJoin *join)
{
	size_t		first = Min(join->k + SPARE(join->k), join->state->length + 1);

	join->capacity = first;
	join->later = false;
	while (join->nactive > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(join->pass);
		int			left = 0;

		if (join->by_device && !ask_device(join))
			leave_device(join, first);
		if (!join->by_device)
			read_pages(join);
		MemoryContextSwitchTo(old);
		for (int i = 0; i < join->nactive; i++)
		{
			look(join, join->active[i]);
			if (!join->active[i]->done)
				join->active[left++] = join->active[i];
		}
		join->nactive = left;
		join->later = true;
		MemoryContextReset(join->pass);
		if (left > 0)
			next_capacity(join, first);
	}
}

static void
put(KnnJoin *join, JoinQuery *query, ReturnSetInfo *rsinfo)
{
	for (size_t end = query->best.count; end > 1;)
	{
		CHECK_FOR_INTERRUPTS();
		end = ga_knn_top_sort(&query->best, end, 65536);
	}
	for (size_t i = 0; i < query->best.count; i++)
	{
		const GaKnnPair *pair = &query->best.pairs[i];
		ItemPointerData tid;
		Datum		values[3] = {Int64GetDatum(query->number), PointerGetDatum(&tid), Float8GetDatum(pair->bound)};
		bool		nulls[3] = {false, false, false};

		CHECK_FOR_INTERRUPTS();
		gpuknn_unpack_tid(pair->row, &tid);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* Whole tiles of rows that stay in the CPU's caches; of wide rows one tile, of very wide ones a part of it. */
static size_t
rows_of_piece(size_t record_bytes)
{
	size_t		tiles = PIECE_BYTES / record_bytes / TILE_ROWS;

	return tiles > 0 ? tiles * TILE_ROWS : Max(Min(TILE_ROWS, MAX_PIECE_BYTES / record_bytes), 1);
}

static void
join_all(KnnJoin *join, ReturnSetInfo *rsinfo)
{
	size_t		record_bytes = join->state->shape.record_bytes;
	size_t		rows = rows_of_piece(record_bytes);
	int			block = queries_of_memory(join);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "knn_join", ALLOCSET_DEFAULT_SIZES);

	join->pass = AllocSetContextCreate(CurrentMemoryContext, "knn_join pass", ALLOCSET_DEFAULT_SIZES);
	join->records_size = rows * record_bytes + GPUKNN_PAGE_BYTES;
	join->records = palloc(join->records_size);
	join->bounds = palloc(sizeof(double) * TILE_QUERIES * rows);
	join->active = palloc(sizeof(JoinQuery *) * block);
	join->by_device = gpuknn_mirror_may(join->scan->indexRelation, join->state->shape.storage);
	for (int64 number = 1; number <= join->nqueries; number += block)
	{
		int			n = (int) Min(block, join->nqueries - number + 1);
		MemoryContext old = MemoryContextSwitchTo(context);
		JoinQuery **queries = palloc(sizeof(JoinQuery *) * n);

		for (int i = 0; i < n; i++)
			join->active[i] = queries[i] = make_query(join, number + i);
		join->nactive = n;
		join_block(join);
		for (int i = 0; i < n; i++)
			put(join, queries[i], rsinfo);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	gpuknn_mirror_count_scan(join->scan->indexRelation, join->by_device);
	if (!join->by_device && join->state->fallback != NULL)
		gpuknn_mirror_count_fallback(join->scan->indexRelation, join->state->fallback);
}

/* What the index holds, and whether the queries are of its dimension; false when there is nothing to find. */
static bool
prepare(KnnJoin *join, int64 k)
{
	GpuknnScan *state = join->state;
	Relation	index = join->scan->indexRelation;
	GpuknnMeta	meta;
	size_t		dim;

	state->shape = gpuknn_shape(index);
	gpuknn_read_meta(index, &meta);
	state->length = meta.length;
	state->changes = meta.changes;
	state->incarnation = meta.incarnation;
	if (meta.vectors == 0 || k == 0 || join->nqueries == 0)
		return false;
	dim = join->queries.nelem / join->nqueries;
	if (dim != state->shape.dim)
		state->class.mismatch(state->shape.dim, dim);
	join->query_bytes = dim * ga_dtype_info(join->queries.dtype)->width;
	join->k = Min((uint64) k, state->length);
	return true;
}

/* knn_join(index, queries, k) TABLE(query, tid, distance) */
PG_FUNCTION_INFO_V1(gpuknn_join);
Datum
gpuknn_join(PG_FUNCTION_ARGS)
{
	KnnJoin		join = {0};
	int64		k;

	for (int i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be NULL", i == 0 ? "index" : i == 1 ? "queries" : "k")));
	k = PG_GETARG_INT64(2);
	if (k < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("k must not be negative")));
	InitMaterializedSRF(fcinfo, 0);
	join.scan = open_scan(PG_GETARG_OID(0));
	join.state = (GpuknnScan *) join.scan->opaque;
	if (join.state->class.sums != GA_KNN_SUMS_CANONICAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("knn_join() takes indexes on embedding and agent_state"),
				 errhint("Use a LATERAL subquery with ORDER BY and LIMIT.")));
	GA_GETARG_VIEW(1, &join.queries);
	ga_require_float(join.queries.dtype, "a distance");
	if (join.queries.ndim < 1 || join.queries.ndim > 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("queries must have one or two dimensions, not %d", join.queries.ndim),
				 errdetail("A tensor of two dimensions is a query for each of its rows; of one, a single query.")));
	join.nqueries = join.queries.ndim == 1 ? 1 : join.queries.dims[0];
	pgstat_count_index_scan(join.scan->indexRelation);
	if (prepare(&join, k))
		join_all(&join, (ReturnSetInfo *) fcinfo->resultinfo);
	close_scan(join.scan);
	return (Datum) 0;
}
