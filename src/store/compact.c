/*
 * compact.c
 *		Stores what is there in less room (compact_storage; policy is in
 *		sql/part/67_storage.sql).
 *
 * All of it keeps the content of every hash: what is inserted was decoded and
 * compared, what is deleted was replaced before, in the same transaction or an
 * earlier one. Callers hold lock_store_maintenance(), are READ COMMITTED, and
 * have taken their snapshot under the lock, so that nobody else deletes rows
 * that are seen here.
 *
 * A row of chunk that is replaced by another of the same hash is deleted in the
 * transaction that inserts that: whoever looks sees the one or the other.
 *
 * A row of chunk that becomes a delta may not go at once: a transaction that
 * saw the chunk without its delta may be making it the base of a delta of its
 * own, and bases must not be deltas. So
 *	1. the delta is inserted, and the hash into compact_pending; commit. Readers
 *	   go on with the row of chunk, which they look for first;
 *	2. the next transaction id is noted in compact_pending. Whoever chooses a base
 *	   takes a transaction id first and looks then, under a snapshot of now
 *	   (ga_delta_base_size): those that did not see the delta have a lower one;
 *	3. when all of those have ended, and no delta names the chunk as its base, the
 *	   delta is read and checked and the row deleted. When one does, the delta is
 *	   deleted instead.
 * Nobody's snapshot is waited for: one that does not see the delta does not see the deletion either, and goes on with
 * the row, which VACUUM leaves to it.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/guc.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/delta.h"
#include "store/plan.h"
#include "store/recode.h"
#include "store/table.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* A row is replaced by one of the same content when that is a fiftieth smaller. */
#define SMALLER(size, than) ((size) + (than) / 50 < (than) || ((size) < (than) && (than) < 50))

/* As in previous.c: a delta takes two reads. */
#define DELTA_PAYS(size, whole) ((size) <= (whole) - (whole) / 4)

typedef enum CompactQuery
{
	INSERT_CHUNK,
	DELETE_OTHERS,
	DELETE_ROWS,
	INSERT_DELTA,
	DELETE_DELTAS,
	IS_BASE,
	OWN_ROWS,
	ADD_PENDING,
	DROP_PENDING,
	SET_LEVEL
} CompactQuery;

static GaPlan plans[SET_LEVEL + 1];

#define OF_HASH " WHERE hash OPERATOR(pg_catalog.=) $1"

static const struct
{
	const char *sql;
	int			nargs;
	Oid			types[8];
}			queries[] = {
	[INSERT_CHUNK] = {"INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, crc, data, level) VALUES ($1, $2, $3, $4, $5, $6, $7) "
	"RETURNING ctid", 7, {BYTEAOID, INT4OID, INT2OID, INT2OID, INT4OID, BYTEAOID, INT2OID}},
	[DELETE_OTHERS] = {"DELETE FROM gpuagent_store.chunk" OF_HASH " AND ctid OPERATOR(pg_catalog.<>) $2 "
	"RETURNING pg_catalog.octet_length(data)", 2, {BYTEAOID, TIDOID}},
	[DELETE_ROWS] = {"DELETE FROM gpuagent_store.chunk" OF_HASH " RETURNING pg_catalog.octet_length(data)", 1, {BYTEAOID}},
	[INSERT_DELTA] = {"INSERT INTO gpuagent_store.chunk_delta (hash, nbytes, base, leaves, mode, codec, width, crc, data) "
		"SELECT hash, nbytes, $2, $3, 1, $4, width, $5, $6 FROM gpuagent_store.chunk" OF_HASH " LIMIT 1",
	6, {BYTEAOID, BYTEAOID, INT4OID, INT2OID, INT4OID, BYTEAOID}},
	[DELETE_DELTAS] = {"DELETE FROM gpuagent_store.chunk_delta" OF_HASH " RETURNING pg_catalog.octet_length(data)", 1, {BYTEAOID}},
	[IS_BASE] = {"SELECT FROM gpuagent_store.chunk_delta WHERE base OPERATOR(pg_catalog.=) $1 LIMIT 1", 1, {BYTEAOID}},
	[OWN_ROWS] = {"SELECT FROM gpuagent_store.chunk" OF_HASH, 1, {BYTEAOID}},
	[ADD_PENDING] = {"INSERT INTO gpuagent_store.compact_pending (hash) VALUES ($1) ON CONFLICT (hash) DO UPDATE SET below = NULL, "
	"xid_source = NULL, made_by = EXCLUDED.made_by", 1, {BYTEAOID}},
	[DROP_PENDING] = {"DELETE FROM gpuagent_store.compact_pending" OF_HASH, 1, {BYTEAOID}},
	[SET_LEVEL] = {"UPDATE gpuagent_store.chunk SET level = $2" OF_HASH, 2, {BYTEAOID, INT2OID}}
};

/* What a call did. */
typedef struct Outcome
{
	int64		changed;
	int64		freed;			/* bytes of rows deleted, less those inserted */
	int64		damaged;
} Outcome;

/*
 * Runs a query under a snapshot of its own, which sees what was done before. The result's rows are in SPI_tuptable, to be
 * freed by the caller.
 */
static uint64
query(CompactQuery q, const Datum *args)
{
	if (!ga_plan_ready(&plans[q], queries[q].nargs, queries[q].types))
		ga_plan_prepare(&plans[q], queries[q].sql, queries[q].nargs, queries[q].types, CURSOR_OPT_GENERIC_PLAN);
	return ga_plan_run(&plans[q], args, NULL, false, NULL);
}

/* The same for one whose rows do not matter. */
static uint64
run(CompactQuery q, const Datum *args)
{
	uint64		n = query(q, args);

	SPI_freetuptable(SPI_tuptable);
	return n;
}

/* Runs one that returns sizes; their sum. */
static int64
sum(CompactQuery q, const Datum *args)
{
	uint64		n = query(q, args);
	int64		total = 0;
	bool		isnull;

	for (uint64 i = 0; i < n; i++)
		total += DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return total;
}

/* ---- rows of chunk ---- */

/* Inserts a row with what was packed; *row is where it is. */
static void
insert_chunk(const GaRecode *task, Datum hash, ItemPointerData *row)
{
	Datum		args[7] = {
		hash,
		Int32GetDatum(task->nbytes),
		Int16GetDatum(task->codec),
		Int16GetDatum(task->width),
		Int32GetDatum((int32) task->crc),
		ga_table_bytea(task->packed, task->size),
		Int16GetDatum(ga_compression ? ga_compression_level : 0)
	};
	bool		isnull;

	(void) query(INSERT_CHUNK, args);
	*row = *(ItemPointer) DatumGetPointer(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	pfree(DatumGetPointer(args[5]));
}

/* Leaves one row: the one that was found good, or a smaller one of what it has. */
static void
keep_one_row(const GaRecode *task, Outcome *outcome)
{
	Datum		hash = ga_hash_to_datum(&task->hash);
	ItemPointerData row = task->row;
	Datum		args[2] = {hash, PointerGetDatum(&row)};
	int64		inserted = 0;
	int64		deleted;

	if (SMALLER(task->size, task->stored))
	{
		insert_chunk(task, hash, &row);
		inserted = task->size;
	}
	deleted = sum(DELETE_OTHERS, args);
	outcome->changed += deleted > 0;
	outcome->freed += deleted - inserted;
	if (inserted == 0 && ga_compression)
	{
		args[1] = Int16GetDatum(ga_compression_level);
		(void) run(SET_LEVEL, args);
	}
	pfree(DatumGetPointer(hash));
}

/* ---- deltas ---- */

/* Gives a chunk that is stored as a delta a row of its own again. */
static void
make_whole(const GaRecode *task, Outcome *outcome)
{
	Datum		hash = ga_hash_to_datum(&task->hash);
	ItemPointerData row;

	if (run(OWN_ROWS, &hash) == 0)
	{
		insert_chunk(task, hash, &row);
		outcome->freed -= task->size;
	}
	outcome->freed += sum(DELETE_DELTAS, &hash);
	(void) run(DROP_PENDING, &hash);
	outcome->changed++;
	pfree(DatumGetPointer(hash));
}

/* True when the difference is small enough, alone and in its chain (previous.c). */
static bool
delta_pays(const GaRecode *task, size_t base_size)
{
	uint64		chain;
	int			n = ga_delta_count(&task->base, &chain);

	return n < GA_DELTA_MAX && DELTA_PAYS(task->size, task->stored) && task->size <= (base_size + chain) / (n + 1);
}

static void
make_delta(const GaRecode *task, Outcome *outcome)
{
	size_t		base_size = ga_delta_base_size(&task->base, task->nbytes);
	Datum		args[6] = {ga_hash_to_datum(&task->hash), ga_hash_to_datum(&task->base)};

	/* Once more, now that others may have come: a base, or what is a delta already, must stay as it is. */
	if (base_size > 0 && delta_pays(task, base_size) && ga_delta_base_size(&task->hash, task->nbytes) > 0 &&
		run(IS_BASE, args) == 0)
	{
		args[2] = Int32GetDatum(task->leaves);
		args[3] = Int16GetDatum(task->codec);
		args[4] = Int32GetDatum((int32) task->crc);
		args[5] = ga_table_bytea(task->packed, task->size);
		(void) run(INSERT_DELTA, args);
		(void) run(ADD_PENDING, args);
		outcome->changed++;
		outcome->freed -= task->size;
		pfree(DatumGetPointer(args[5]));
	}
	pfree(DatumGetPointer(args[0]));
	pfree(DatumGetPointer(args[1]));
}

/* The last step of a chunk that became a delta. */
static void
drop_row(const GaRecode *task, Outcome *outcome)
{
	Datum		hash = ga_hash_to_datum(&task->hash);

	if (run(IS_BASE, &hash) > 0)
	{
		GaRecode	own = {.kind = GA_RECODE_ROW,.hash = task->hash};

		/* Which of the two goes is not which is damaged. */
		ga_recode(&own, 1);
		if (own.good)
			outcome->freed += sum(DELETE_DELTAS, &hash);
	}
	else
		outcome->freed += sum(DELETE_ROWS, &hash);
	outcome->changed++;
	(void) run(DROP_PENDING, &hash);
	pfree(DatumGetPointer(hash));
}

/* ---- SQL ---- */

static void
apply(const GaRecode *task, Outcome *outcome)
{
	if (!task->good)
	{
		outcome->damaged++;
		return;
	}
	switch (task->kind)
	{
		case GA_RECODE_ROW:
			keep_one_row(task, outcome);
			break;
		case GA_RECODE_WHOLE:
			make_whole(task, outcome);
			break;
		case GA_RECODE_DELTA:
			make_delta(task, outcome);
			break;
		case GA_RECODE_CHECK:
			drop_row(task, outcome);
			break;
	}
}

static void
refuse_old_snapshots(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("the store cannot be compacted in a transaction of isolation level REPEATABLE READ or SERIALIZABLE"),
				 errdetail("It would see rows that others have deleted, and rely on them."),
				 errhint("Use READ COMMITTED, or let a job do it: gpuagent.compact_storage(wait => false).")));
}

static bool
have_doomed(void)
{
	Oid			schema = get_namespace_oid("gpuagent_store", true);

	return OidIsValid(schema) && OidIsValid(get_relname_relid("doomed", schema));
}

static GaRecodeKind
kind_argument(text *name)
{
	static const char *const names[] = {"row", "whole", "delta", "check"};
	char	   *kind = text_to_cstring(name);

	for (int i = 0; i < lengthof(names); i++)
		if (strcmp(kind, names[i]) == 0)
			return (GaRecodeKind) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown kind \"%s\"", kind),
			 errhint("Use row, whole, delta or check.")));
	return GA_RECODE_ROW;
}

static Datum *
hashes_argument(ArrayType *array, int *n)
{
	Datum	   *elements;
	bool	   *nulls;

	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, &elements, &nulls, n);
	for (int i = 0; i < *n; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("hashes must not contain NULLs")));
	return elements;
}

/* Reads and packs some, then writes. */
static void
recode(GaRecode *tasks, int n, Outcome *outcome)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "gpuagent recode", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	GaTableUser user;

	ga_recode(tasks, n);
	user = ga_table_enter_owner("chunk");
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		apply(&tasks[i], outcome);
	}
	ga_table_leave_owner(user);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* recode_chunks(kind text, hashes bytea[], bases bytea[]) record: (changed, freed, damaged) */
PG_FUNCTION_INFO_V1(ga_recode_chunks);
Datum
ga_recode_chunks(PG_FUNCTION_ARGS)
{
	GaRecodeKind kind = kind_argument(PG_GETARG_TEXT_PP(0));
	int			n,
				nbases;
	Datum	   *hashes = hashes_argument(PG_GETARG_ARRAYTYPE_P(1), &n);
	Datum	   *bases = hashes_argument(PG_GETARG_ARRAYTYPE_P(2), &nbases);
	Outcome		outcome = {0};
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (nbases != (kind == GA_RECODE_DELTA ? n : 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%d bases were given for %d chunks", nbases, n)));
	refuse_old_snapshots();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int first = 0; first < n; first += GA_RECODE_BATCH)
	{
		GaRecode	tasks[GA_RECODE_BATCH];
		int			count = Min(n - first, GA_RECODE_BATCH);

		memset(tasks, 0, sizeof tasks);
		for (int i = 0; i < count; i++)
		{
			tasks[i].kind = kind;
			ga_hash_from_datum(hashes[first + i], &tasks[i].hash);
			if (kind == GA_RECODE_DELTA)
				ga_hash_from_datum(bases[first + i], &tasks[i].base);
		}
		UpdateActiveSnapshotCommandId();
		recode(tasks, count, &outcome);
	}
	PopActiveSnapshot();
	SPI_finish();
	values[0] = Int64GetDatum(outcome.changed);
	values[1] = Int64GetDatum(outcome.freed);
	values[2] = Int64GetDatum(outcome.damaged);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* merge_rows() bigint */
PG_FUNCTION_INFO_V1(ga_merge_rows);
Datum
ga_merge_rows(PG_FUNCTION_ARGS)
{
	static const struct
	{
		const char *table;
		const char *same;		/* beside the hash */
	}			merges[] = {
		{"node", "k.nbytes = r.nbytes AND k.children = r.children"},
		{"tensor", "k.dtype = r.dtype AND k.shape = r.shape AND k.nbytes = r.nbytes AND k.root = r.root"},
		{"chunk_delta", "(k.nbytes, k.base, k.leaves, k.mode, k.codec, k.width, k.crc) = "
		"(r.nbytes, r.base, r.leaves, r.mode, r.codec, r.width, r.crc) AND k.data = r.data"}
	};
	int64		total = 0;

	refuse_old_snapshots();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	for (int i = 0; i < lengthof(merges); i++)
	{
		GaTableUser user = ga_table_enter_owner(merges[i].table);
		char	   *sql = psprintf("DELETE FROM gpuagent_store.%s r WHERE r.ctid = ANY (ARRAY(SELECT e.ctid FROM gpuagent_store.%s e "
								   "JOIN (SELECT hash FROM gpuagent_store.%s GROUP BY hash HAVING pg_catalog.count(*) > 1 LIMIT 10000) d "
								   "ON d.hash = e.hash)) AND EXISTS (SELECT FROM gpuagent_store.%s k WHERE k.hash = r.hash AND k.ctid < r.ctid AND %s)%s",
								   merges[i].table, merges[i].table, merges[i].table, merges[i].table, merges[i].same,
								   have_doomed() ? " AND NOT EXISTS (SELECT FROM gpuagent_store.doomed m WHERE m.hash = r.hash)" : "");

		if (SPI_execute(sql, false, 0) != SPI_OK_DELETE)
			elog(ERROR, "could not merge rows of %s", merges[i].table);
		total += SPI_processed;
		ga_table_leave_owner(user);
	}
	SPI_finish();
	PG_RETURN_INT64(total);
}
