/*
 * cache_fill.c
 *		Filling the agent cache, and what is called to fill and to empty it.
 */
#include "base/compat.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/parallel.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "base/names.h"
#include "base/shared.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_database.h"
#include "catalog/pg_opfamily.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "cache/cache.h"
#include "cache/cache_device.h"
#include "cache/cache_fill.h"
#include "store/rows.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* ---- reading a row by its key ---- */

/* The primary key's index, open, when it finds an id by its bytes; else NULL. */
static Relation
open_key(Relation rel)
{
	Relation	index;
	Form_pg_index form;

	list_free(RelationGetIndexList(rel));
	if (!OidIsValid(rel->rd_pkindex))
		return NULL;
	index = index_open(rel->rd_pkindex, AccessShareLock);
	form = index->rd_index;
	if (index->rd_rel->relam == BTREE_AM_OID && form->indisvalid && form->indimmediate && !form->indcheckxmin &&
		form->indnkeyatts == 1 && form->indkey.values[0] == 1 && index->rd_indcollation[0] == C_COLLATION_OID &&
		index->rd_opfamily[0] == TEXT_BTREE_FAM_OID)
		return index;
	index_close(index, NoLock);
	return NULL;
}

/* True when a committed transaction has replaced or deleted the row. */
static bool
is_superseded(HeapTupleHeader row)
{
	TransactionId xmax;

	if ((row->t_infomask & HEAP_XMAX_INVALID) || HEAP_XMAX_IS_LOCKED_ONLY(row->t_infomask))
		return false;
	xmax = HeapTupleHeaderGetUpdateXid(row);
	return TransactionIdIsValid(xmax) && TransactionIdDidCommit(xmax);
}

/* Whether the version in the slot may be cached; see the top of cache.c. */
static bool
may_cache(TupleTableSlot *slot, GaCacheRow *row)
{
	Buffer		buffer = ((BufferHeapTupleTableSlot *) slot)->buffer;
	HeapTuple	tuple = ((BufferHeapTupleTableSlot *) slot)->base.tuple;
	union
	{
		HeapTupleHeaderData header;
		char		bytes[SizeofHeapTupleHeader];
	}			copy;

	/* Workers are not told which files their leader's transaction made. */
	if (IsParallelWorker())
		return false;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	memcpy(copy.bytes, tuple->t_data, SizeofHeapTupleHeader);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);

	row->buffer = buffer;
	row->place = (char *) tuple->t_data - (char *) BufferGetPage(buffer);
	row->xmin = HeapTupleHeaderGetRawXmin(&copy.header);
	row->tid = tuple->t_self;
	if (!TransactionIdIsNormal(row->xmin) || TransactionIdIsCurrentTransactionId(row->xmin))
		return false;
	if (!HeapTupleHeaderXminCommitted(&copy.header) && !TransactionIdDidCommit(row->xmin))
		return false;
	row->superseded = is_superseded(&copy.header);
	return true;
}

/* Bytes of a row of these values once they are decoded, about. */
static uint64
decoded_size(TupleDesc columns, const Datum *values, const bool *nulls)
{
	uint64		size = MAXALIGN(SizeofHeapTupleHeader + BITMAPLEN(GA_AGENT_COLUMNS));

	for (int i = 0; i < GA_AGENT_COLUMNS; i++)
		if (!nulls[i] && TupleDescAttr(columns, i)->attlen == -1)
			size += toast_raw_datum_size(values[i]) + MAXIMUM_ALIGNOF;
		else
			size += sizeof(Datum) * 2;
	return size;
}

/* The slot's columns as a row without compressed and out-of-line values. */
static HeapTuple
decode_row(TupleDesc columns, TupleTableSlot *slot, bool detoast)
{
	Datum		values[GA_AGENT_COLUMNS];
	bool		nulls[GA_AGENT_COLUMNS];
	bool		copied[GA_AGENT_COLUMNS] = {false};
	HeapTuple	row;

	memcpy(values, slot->tts_values, sizeof(values));
	memcpy(nulls, slot->tts_isnull, sizeof(nulls));
	for (int i = 0; i < GA_AGENT_COLUMNS && detoast; i++)
		if (!nulls[i] && TupleDescAttr(columns, i)->attlen == -1 &&
			(VARATT_IS_EXTERNAL(DatumGetPointer(values[i])) || VARATT_IS_COMPRESSED(DatumGetPointer(values[i]))))
		{
			values[i] = PointerGetDatum(detoast_attr((struct varlena *) DatumGetPointer(values[i])));
			copied[i] = true;
		}
	row = heap_form_tuple(columns, values, nulls);
	for (int i = 0; i < GA_AGENT_COLUMNS; i++)
		if (copied[i])
			pfree(DatumGetPointer(values[i]));
	return row;
}

/* An entry is forgotten this many transactions before its xmin names another one, since `now` may lag. */
#define WRAP_MARGIN (1 << 24)

/*
 * What the age of a row counts from, so that GA_CACHE_LONGEST after that its raw xmin has not come round. That is
 * now, unless the row was frozen so long ago that its xmin will be given out again before; 0 when that is soon.
 */
static uint64
count_age_from(TransactionId xmin, uint64 now)
{
	uint32		left = xmin - (TransactionId) now;

	/* So does the xmin of a row that is younger than `now` look. */
	if (left < GA_CACHE_LONGEST)
	{
		now = U64FromFullTransactionId(ReadNextFullTransactionId());
		left = xmin - (TransactionId) now;
	}
	if (left >= GA_CACHE_LONGEST)
		return now;
	return left > WRAP_MARGIN ? now - GA_CACHE_LONGEST + left - WRAP_MARGIN : 0;
}

static GaCacheOutcome
insert_row(const GaCacheKey *key, GaCacheRow *row, HeapTuple tuple, const GaCacheVersion *dead, int ndead, int flags)
{
	bool		isnull;
	char	   *id = DatumGetPointer(heap_getattr(tuple, 1, ga_cache_columns(), &isnull));
	char	   *state = DatumGetPointer(heap_getattr(tuple, 2, ga_cache_columns(), &isnull));

	row->row = tuple->t_data;
	row->bytes = tuple->t_len;
	row->state = isnull ? 0 : state - (char *) tuple->t_data;
	row->id = VARDATA_ANY(id) - (char *) tuple->t_data;
	row->now = ga_cache_now();
	row->filled = count_age_from(row->xmin, row->now);
	if (row->filled == 0)
		return GA_CACHE_REFUSED;
	return ga_cache_insert(key, row, dead, ndead, flags);
}

bool
ga_cache_fetch(Relation rel, const GaCacheKey *key, Snapshot snapshot, const GaCacheVersion *dead,
			   int ndead, int flags, HeapTuple *row, GaCacheOutcome *outcome, uint64 *room)
{
	Relation	index = open_key(rel);
	TupleDesc	columns = ga_cache_columns();
	GaCacheOutcome result = GA_CACHE_REFUSED;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData scan_key;
	text	   *id;

	if (index == NULL)
		return false;
	*row = NULL;
	id = cstring_to_text_with_len(key->id, key->id_len);
	ScanKeyEntryInitialize(&scan_key, 0, 1, BTEqualStrategyNumber, TEXTOID, C_COLLATION_OID, F_TEXTEQ,
						   PointerGetDatum(id));
	slot = table_slot_create(rel, NULL);
	scan = ga_index_beginscan(rel, index, snapshot, 1, 0);
	index_rescan(scan, &scan_key, 1, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		GaCacheRow	cached;
		uint64		size;

		slot_getsomeattrs(slot, GA_AGENT_COLUMNS);
		size = ga_cache_room(decoded_size(columns, slot->tts_values, slot->tts_isnull));
		*row = decode_row(columns, slot, size > 0);
		if (size > 0 && may_cache(slot, &cached))
			result = insert_row(key, &cached, *row, dead, ndead, flags);
		if (room != NULL)
			*room = size;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, NoLock);
	pfree(id);
	if (outcome != NULL)
		*outcome = result;
	return true;
}

/* ---- filling on demand ---- */

#define DEVICE_BATCH ((uint64) 4 * 1024 * 1024)

/* States of one dtype and shape on their way to the device tier. */
typedef struct DeviceBatch
{
	GaDeviceFill fill;
	int64		dims[GA_MAX_RANK];
	GaDeviceRow rows[1024];
	uint64		nbytes;
	char	   *data;
} DeviceBatch;

/* NULL where the device tier is not to be filled. */
static DeviceBatch *
begin_batch(void)
{
	DeviceBatch *batch;

	if (!ga_cache_device_serves(0))
		return NULL;
	batch = palloc0(sizeof(DeviceBatch));
	batch->data = palloc(DEVICE_BATCH);
	batch->fill.dims = batch->dims;
	batch->fill.data = batch->data;
	batch->fill.rows = batch->rows;
	return batch;
}

static void
flush_batch(DeviceBatch *batch)
{
	batch->fill.now = ga_cache_now();
	ga_cache_device_fill(&batch->fill);
	batch->fill.n = 0;
	batch->nbytes = 0;
}

static void
add_to_batch(DeviceBatch *batch, const GaCacheKey *key, const GaCacheVersion *version, const GaView *view)
{
	GaDeviceFill *fill = &batch->fill;
	GaDeviceRow *row;

	if (view->nbytes == 0 || view->nbytes > DEVICE_BATCH || !ga_cache_device_may(version->xmin) ||
		view->nbytes * 8 != view->nelem * ga_dtype_info(view->dtype)->bits)
		return;
	if (fill->n == lengthof(batch->rows) || batch->nbytes + view->nbytes > DEVICE_BATCH || view->dtype != fill->dtype ||
		view->ndim != fill->ndim || memcmp(view->dims, batch->dims, sizeof(int64) * view->ndim) != 0)
		flush_batch(batch);
	fill->dtype = view->dtype;
	fill->ndim = view->ndim;
	memcpy(batch->dims, view->dims, sizeof(int64) * view->ndim);
	fill->row_bytes = view->nbytes;
	row = &batch->rows[fill->n++];
	*row = (GaDeviceRow) {
		.hash = key->hash,
		.incarnation = key->incarnation,
		.tablespace = key->tablespace,
		.file = key->file,
		.xmin = version->xmin,
		.tid = version->tid,
		.at = batch->nbytes,
	};
	memcpy(batch->data + batch->nbytes, view->data, view->nbytes);
	batch->nbytes += view->nbytes;
}

/* The device tier gets what the host tier holds of the version that the snapshot sees. */
static void
offer(DeviceBatch *batch, Relation rel, const char *id, int id_len, Snapshot snapshot)
{
	GaCacheVersion versions[GA_CACHE_VERSIONS];
	GaCacheVersion dead[GA_CACHE_VERSIONS];
	int			ndead;
	GaCacheKey	key;
	uint32		bytes;
	char	   *state;
	GaView		view;
	int			i;

	ga_cache_key(id, id_len, &key);
	ga_cache_key_file(rel, &key);
	i = ga_cache_visible(rel, &key, snapshot, versions, dead, &ndead);
	if (i < 0 || versions[i].state == 0 || (bytes = ga_cache_state_bytes(&versions[i])) == 0)
		return;
	state = palloc(bytes);
	if (!ga_cache_read(&versions[i], versions[i].state, bytes, state))
		return;
	ga_view(PointerGetDatum(state), &view);
	add_to_batch(batch, &key, &versions[i], &view);
}

/* Caches the version that the snapshot sees. True when it is in the cache; *room gets what it takes there. */
static bool
cache_one(Relation rel, const char *id, int id_len, Snapshot snapshot, int flags, uint64 *room)
{
	GaCacheVersion versions[GA_CACHE_VERSIONS];
	GaCacheVersion dead[GA_CACHE_VERSIONS];
	int			ndead;
	GaCacheKey	key;
	GaCacheOutcome outcome;
	HeapTuple	row;
	int			i;

	ga_cache_key(id, id_len, &key);
	ga_cache_key_file(rel, &key);
	i = ga_cache_visible(rel, &key, snapshot, versions, dead, &ndead);
	if (i >= 0)
	{
		*room = ga_cache_room(versions[i].bytes);
		return true;
	}
	*room = 0;
	if (!ga_cache_fetch(rel, &key, snapshot, dead, ndead, GA_CACHE_WAIT | flags, &row, &outcome, room))
		return false;
	if (row != NULL)
		heap_freetuple(row);
	return outcome != GA_CACHE_REFUSED;
}

uint64
ga_cache_fill(GaCacheNextId next, void *arg, bool evict)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "gpuagent cache fill", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	GaCacheStats stats;
	uint64		cached = 0;
	uint64		filled = 0;
	const char *id;
	int			id_len;
	MemoryContext row_context;
	DeviceBatch *batch = evict ? begin_batch() : NULL;

	row_context = AllocSetContextCreate(context, "gpuagent cache row", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(row_context);
	ga_cache_stats(&stats);
	while (filled < stats.budget && next(arg, &id, &id_len))
	{
		Relation	rel;
		uint64		room;

		CHECK_FOR_INTERRUPTS();
		rel = ga_cache_open();
		if (rel == NULL)
			break;
		if (cache_one(rel, id, id_len, GetActiveSnapshot(), evict ? 0 : GA_CACHE_NO_EVICT, &room))
		{
			cached++;
			filled += room;
			if (batch != NULL)
				offer(batch, rel, id, id_len, GetActiveSnapshot());
		}
		else if (!evict && room > 0)
			filled = stats.budget;
		RelationClose(rel);
		MemoryContextReset(row_context);
	}
	if (batch != NULL)
		flush_batch(batch);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return cached;
}

/* One id. */
static bool
next_single(void *arg, const char **id, int *id_len)
{
	text	  **single = arg;

	if (*single == NULL)
		return false;
	*id = VARDATA_ANY(*single);
	*id_len = VARSIZE_ANY_EXHDR(*single);
	*single = NULL;
	return true;
}

/* cache_agent(id): true when the agent is in the cache now */
PG_FUNCTION_INFO_V1(ga_cache_agent);
Datum
ga_cache_agent(PG_FUNCTION_ARGS)
{
	text	   *id = PG_GETARG_TEXT_PP(0);

	ga_shared_require();
	ga_setup_check();
	PG_RETURN_BOOL(ga_cache_fill(next_single, &id, true) > 0);
}

/* ---- emptying ---- */

/* evict_agents(ids): agents that were in the cache; NULL: all of this database */
PG_FUNCTION_INFO_V1(ga_evict_agents);
Datum
ga_evict_agents(PG_FUNCTION_ARGS)
{
	uint64		evicted = 0;
	GaIdRef    *ids;
	int			n;

	ga_shared_require();
	if (PG_ARGISNULL(0))
	{
		ga_cache_device_remove_database(MyDatabaseId);
		PG_RETURN_INT64(ga_cache_remove_database(MyDatabaseId));
	}
	ids = ga_ids(PG_GETARG_DATUM(0), "agent id", &n);
	for (int i = 0; i < n; i++)
	{
		GaCacheKey	key;

		CHECK_FOR_INTERRUPTS();
		ga_cache_key(ids[i].bytes, ids[i].len, &key);
		ga_cache_device_remove(key.hash);
		evicted += ga_cache_remove(&key);
	}
	PG_RETURN_INT64(evicted);
}

static object_access_hook_type previous_object_access = NULL;

/*
 * The entries of a dropped database would never be found again, since a new one
 * has another incarnation; their memory may as well be free at once.
 */
static void
object_access(ObjectAccessType access, Oid class, Oid object, int subid, void *arg)
{
	if (previous_object_access)
		previous_object_access(access, class, object, subid, arg);
	if (access == OAT_DROP && class == DatabaseRelationId && ga_cache_ready())
	{
		ga_cache_remove_database(object);
		ga_cache_device_remove_database(object);
	}
}

void
ga_cache_install(void)
{
	previous_object_access = object_access_hook;
	object_access_hook = object_access;
}

/* ---- statistics ---- */

static void
put_tier(ReturnSetInfo *rsinfo, const char *tier, const GaCacheStats *stats)
{
	bool		nulls[8] = {false};
	Datum		values[8];

	values[0] = CStringGetTextDatum(tier);
	values[1] = Int64GetDatum(stats->agents);
	values[2] = Int64GetDatum(stats->hits);
	values[3] = Int64GetDatum(stats->misses);
	values[4] = Int64GetDatum(stats->evictions);
	values[5] = Int64GetDatum(stats->used);
	values[6] = Int64GetDatum(stats->budget);
	values[7] = TimestampTzGetDatum(stats->reset_at);
	nulls[7] = !ga_cache_ready();
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* cache_stats(): one row per tier */
PG_FUNCTION_INFO_V1(ga_cache_stats_sql);
Datum
ga_cache_stats_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	GaCacheStats host = {0};
	GaCacheStats device = {0};

	InitMaterializedSRF(fcinfo, 0);
	if (ga_cache_ready())
		ga_cache_stats(&host);
	device.reset_at = host.reset_at;
	ga_cache_device_stats(-1, &device);
	put_tier(rsinfo, "host", &host);
	put_tier(rsinfo, "device", &device);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ga_cache_reset_stats_sql);
Datum
ga_cache_reset_stats_sql(PG_FUNCTION_ARGS)
{
	ga_cache_reset_stats();
	ga_cache_device_reset_stats();
	PG_RETURN_VOID();
}
