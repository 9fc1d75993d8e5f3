/*
 * gpuknn_mirror_stat.c
 *		What is known of indexes and their mirrors: rows of stat_index, and those of
 *		stat_memory that are mirrors.
 */
#include "base/compat.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "index/gpuknn_mirror_shared.h"
#include "device/mapping.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#define STATUS_COLUMNS 12

PG_FUNCTION_INFO_V1(ga_index_status_sql);
PG_FUNCTION_INFO_V1(ga_mirrors_sql);
PG_FUNCTION_INFO_V1(ga_reset_index_stats_sql);

static const char *
metric_name(uint8 metric)
{
	static const char *const names[] = {"l2", "ip", "cosine", "l1"};

	StaticAssertStmt(GA_METRIC_L2 == 0 && GA_METRIC_IP == 1 && GA_METRIC_COSINE == 2 && GA_METRIC_L1 == 3, "names are in another order");
	return names[metric];
}

static const char *
storage_name(uint8 storage)
{
	static const char *const names[] = {"f32", "f16", "int8"};

	StaticAssertStmt(GA_KNN_F32 == 0 && GA_KNN_F16 == 1 && GA_KNN_INT8 == 2, "names are in another order");
	return names[storage];
}

/* What the index itself says; false when it cannot be read here, or now. */
static bool
read_index(Oid oid, GpuknnMeta *meta)
{
	Relation	index = try_relation_open(oid, AccessShareLock);
	bool		readable;

	if (index == NULL)
		return false;
	if (index->rd_rel->relkind != RELKIND_INDEX || index->rd_indam->ambuild != gpuknn_build)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a gpuknn index", RelationGetRelationName(index))));
	readable = !RELATION_IS_OTHER_TEMP(index) &&
		!(RecoveryInProgress() && index->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED) &&
		RelationGetNumberOfBlocks(index) > 0;
	if (readable)
		gpuknn_read_meta(index, meta);
	relation_close(index, AccessShareLock);
	return readable;
}

static void
put_mirror(const MirrorEntry *entry, const GpuknnMeta *meta, Datum *values, bool *nulls)
{
	bool		current = entry->ready && entry->incarnation == meta->incarnation && ga_device_serves() &&
		entry->epoch == __atomic_load_n(&ga_mapping()->epoch, __ATOMIC_SEQ_CST);

	values[4] = BoolGetDatum(current);
	if (current)
	{
		uint64		appended = meta->length > entry->length ? meta->length - entry->length : 0;
		uint64		changed = meta->changes > entry->changes ? meta->changes - entry->changes : 0;

		values[5] = CStringGetTextDatum(ga_device_name(entry->device));
		values[6] = Int64GetDatum(entry->size);
		values[7] = Int64GetDatum(appended + Min(changed, meta->length));
		nulls[5] = nulls[6] = nulls[7] = false;
	}
	values[8] = Int64GetDatum(pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &entry->scans_device)));
	values[9] = Int64GetDatum(pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &entry->scans_host)));
	values[10] = Int64GetDatum(pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &entry->fallbacks)));
	nulls[11] = entry->last_reason[0] == '\0';
	if (!nulls[11])
		values[11] = CStringGetTextDatum(entry->last_reason);
}

/* index_status(index): the part of a row of stat_index that the catalogs do not have; NULL when the index cannot be read. */
Datum
ga_index_status_sql(PG_FUNCTION_ARGS)
{
	Oid			oid = PG_GETARG_OID(0);
	GpuknnMeta	meta;
	MirrorEntry entry;
	bool		known = false;
	Datum		values[STATUS_COLUMNS] = {0};
	bool		nulls[STATUS_COLUMNS] = {false, false, false, false, false, true, true, true, false, false, false, true};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "index_status returns a row");
	if (!read_index(oid, &meta))
		PG_RETURN_NULL();
	if (mirrors != NULL)
	{
		const MirrorEntry *found;

		LWLockAcquire(mirrors_lock, LW_SHARED);
		found = gpuknn_mirror_find(MyDatabaseId, oid);
		known = found != NULL;
		if (known)
			entry = *found;
		LWLockRelease(mirrors_lock);
	}
	values[0] = CStringGetTextDatum(metric_name(meta.metric));
	values[1] = CStringGetTextDatum(storage_name(meta.storage));
	values[2] = Int64GetDatum(meta.dim);
	values[3] = Int64GetDatum(meta.vectors + meta.nulls);
	values[4] = BoolGetDatum(false);
	if (known)
		put_mirror(&entry, &meta, values, nulls);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* mirrors(): memory of mirrors of the whole server. Names of indexes of other databases are not known here. */
Datum
ga_mirrors_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MirrorEntry *copies;
	int			n = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (mirrors == NULL)
		return (Datum) 0;
	copies = palloc(sizeof(MirrorEntry) * MIRROR_ENTRIES);
	LWLockAcquire(mirrors_lock, LW_SHARED);
	for (int i = 0; i < mirrors->nentries; i++)
		if (mirrors->entries[i].region != 0)
			copies[n++] = mirrors->entries[i];
	LWLockRelease(mirrors_lock);
	for (int i = 0; i < n; i++)
	{
		const MirrorEntry *entry = &copies[i];
		Datum		values[6];
		bool		nulls[6] = {false};
		char	   *name = entry->database == MyDatabaseId ? get_rel_name(entry->index) : NULL;
		char	   *database = get_database_name(entry->database);
		uint64		last_used = pg_atomic_read_u64(unconstify(pg_atomic_uint64 *, &entry->last_used));

		values[0] = CStringGetTextDatum(ga_device_name(entry->device));
		nulls[1] = name == NULL;
		values[1] = name == NULL ? (Datum) 0 :
			CStringGetTextDatum(quote_qualified_identifier(get_namespace_name(get_rel_namespace(entry->index)), name));
		nulls[2] = database == NULL;
		values[2] = database == NULL ? (Datum) 0 : CStringGetTextDatum(database);
		values[3] = Int64GetDatum(entry->size);
		values[4] = TimestampTzGetDatum(entry->resident_since);
		nulls[5] = last_used == 0;
		values[5] = TimestampTzGetDatum((TimestampTz) last_used);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* reset_stats('index') */
Datum
ga_reset_index_stats_sql(PG_FUNCTION_ARGS)
{
	if (mirrors == NULL)
		PG_RETURN_VOID();
	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	for (int i = 0; i < mirrors->nentries; i++)
	{
		pg_atomic_write_u64(&mirrors->entries[i].scans_device, 0);
		pg_atomic_write_u64(&mirrors->entries[i].scans_host, 0);
		pg_atomic_write_u64(&mirrors->entries[i].fallbacks, 0);
		mirrors->entries[i].last_reason[0] = '\0';
	}
	LWLockRelease(mirrors_lock);
	PG_RETURN_VOID();
}
