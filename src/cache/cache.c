/*
 * cache.c
 *		The agent cache: who may be served from it, and lookups.
 *
 * Why a hit is never stale. An entry is named by a row version: database (with
 * the xmin of its row in pg_database, since an OID may be used again), tablespace,
 * relation file, tid and xmin. A hit has fetched that tid under the caller's
 * snapshot, as heap_fetch does, with the locks of SERIALIZABLE and without
 * following HOT chains, and found a visible row with that xmin. The name is
 * unique because
 *
 * - xmin is compared raw: the usual accessor gives 2 for every frozen row, and a
 *   tid is used again after VACUUM;
 * - neither fills nor hits happen for rows of the transaction tree that is still
 *   going on, or in a file that it made: TRUNCATE twice, or in the transaction of
 *   CREATE TABLE, empties the file in place, and tid and xmin come again. Once a
 *   transaction has ended it writes nothing more, so its (tid, xmin) are final;
 * - entries are forgotten after gpuagent.cache_max_age transactions, and those of
 *   rows that were frozen long ago before their xmin comes round.
 *
 * Columns are read by number, so a cached row means the same only while the
 * table's columns stand where setup() put them; with any other layout, as with
 * anything else that a plain scan of one heap under SELECT on the whole table
 * would not answer, SQL does the work.
 */
#include "base/compat.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/names.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "storage/proc.h"
#include "cache/cache.h"
#include "store/plan.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* Reads the clock of transaction ids again when a transaction has gone on for this long. */
#define NOW_LIFETIME (60 * USECS_PER_SEC)

/* What this session knows of gpuagent.agent; callbacks make it forget. */
typedef struct Session
{
	bool		registered;
	bool		valid;			/* the next five hold for `user` */
	bool		usable;
	Oid			user;
	Oid			relation;
	MemoryContext context;		/* of columns */
	TupleDesc	columns;

	TransactionId incarnation;	/* of the database */

	LocalTransactionId locked;	/* the transaction that has the table locked */
	uint64		now;
	TimestampTz now_at;
	Oid			file;			/* whose length ... */
	BlockNumber nblocks;		/* ... is at least this until the lock is released */
} Session;

static Session session;

/* ---- what this session knows ---- */

static void
relation_changed(Datum arg, Oid relation)
{
	if (relation == InvalidOid || relation == session.relation)
		session.valid = false;
}

static void
catalog_changed(Datum arg, int cacheid, uint32 hash)
{
	session.valid = false;
}

/* An aborted subtransaction gives back locks that it took. */
static void
subtransaction_ended(SubXactEvent event, SubTransactionId me, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		session.locked = InvalidLocalTransactionId;
}

static void
register_callbacks(void)
{
	HeapTuple	database;

	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, catalog_changed, (Datum) 0);
	RegisterSubXactCallback(subtransaction_ended, NULL);

	database = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	if (!HeapTupleIsValid(database))
		elog(ERROR, "cache lookup failed for database %u", MyDatabaseId);
	session.incarnation = HeapTupleHeaderGetRawXmin(database->t_data);
	ReleaseSysCache(database);
	session.context = AllocSetContextCreate(CacheMemoryContext, "gpuagent agent columns", ALLOCSET_SMALL_SIZES);
	session.registered = true;
}

TransactionId
ga_cache_incarnation(void)
{
	if (!session.registered)
		register_callbacks();
	return session.incarnation;
}

/* The columns that setup() made, where it put them. */
static bool
has_our_columns(TupleDesc desc)
{
	static const char *const names[GA_AGENT_COLUMNS] = {"id", "state", "memory", "generation", "fitness", "metadata",
	"version", "created_at", "updated_at", "origin"};
	Oid			state = ga_type_oid("agent_state");
	const Oid	types[GA_AGENT_COLUMNS] = {TEXTOID, state, state, INT8OID, FLOAT8OID, JSONBOID, INT8OID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, UUIDOID};

	if (desc->natts < GA_AGENT_COLUMNS)
		return false;
	for (int i = 0; i < GA_AGENT_COLUMNS; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (column->attisdropped || column->attgenerated != '\0' || column->atttypid != types[i] ||
			strcmp(NameStr(column->attname), names[i]) != 0)
			return false;
	}
	return TupleDescAttr(desc, 0)->attcollation == C_COLLATION_OID;
}

/* One heap that SELECT on the whole table reads, and nothing else. */
static bool
is_plain(Relation rel)
{
	Form_pg_class form = rel->rd_rel;

	return form->relkind == RELKIND_RELATION && rel->rd_tableam == GetHeapamTableAmRoutine() &&
		(form->relpersistence == RELPERSISTENCE_PERMANENT ||
		 (form->relpersistence == RELPERSISTENCE_UNLOGGED && !RecoveryInProgress())) &&
		!form->relrowsecurity && has_our_columns(RelationGetDescr(rel)) &&
		(!form->relhassubclass || find_inheritance_children(RelationGetRelid(rel), NoLock) == NIL);
}

static bool
may_select(Oid schema, Oid relation)
{
	return ga_namespace_aclcheck(schema, GetUserId(), ACL_USAGE) == ACLCHECK_OK &&
		pg_class_aclcheck(relation, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

static void
keep_columns(TupleDesc desc)
{
	MemoryContext old;

	MemoryContextReset(session.context);
	old = MemoryContextSwitchTo(session.context);
	session.columns = CreateTemplateTupleDesc(GA_AGENT_COLUMNS);
	for (int i = 1; i <= GA_AGENT_COLUMNS; i++)
		TupleDescCopyEntry(session.columns, i, desc, i);
	MemoryContextSwitchTo(old);
}

/* Finds the table and decides. Invalidations that arrive meanwhile make `valid` false again. */
static void
resolve(void)
{
	Oid			schema;
	Relation	rel;

	if (!session.registered)
		register_callbacks();
	session.locked = InvalidLocalTransactionId;
	session.usable = false;
	session.user = GetUserId();
	session.valid = true;

	schema = get_namespace_oid("gpuagent", true);
	session.relation = OidIsValid(schema) ? get_relname_relid("agent", schema) : InvalidOid;
	if (!OidIsValid(session.relation))
	{
		session.valid = false;	/* nothing tells when it will be there */
		return;
	}
	if (!may_select(schema, session.relation))
		return;					/* SQL locks what it may read, or says what is missing */
	rel = try_relation_open(session.relation, AccessShareLock);
	if (rel == NULL)
	{
		session.valid = false;
		return;
	}
	if (is_plain(rel))
	{
		keep_columns(RelationGetDescr(rel));
		session.usable = true;
	}
	relation_close(rel, NoLock);
}

static void
begin_transaction(void)
{
	session.now = U64FromFullTransactionId(ReadNextFullTransactionId());
	session.now_at = GetCurrentStatementStartTimestamp();
	session.nblocks = 0;
	session.locked = ga_local_xid();
}

static bool
cache_serves(void)
{
	/* Whoever wants to see the permissions of every query, to check or to log them, gets queries. */
	return ga_cache_ready() && ExecutorCheckPerms_hook == NULL && ActiveSnapshotSet() &&
		GetActiveSnapshot()->snapshot_type == SNAPSHOT_MVCC;
}

Relation
ga_cache_open(void)
{
	Relation	rel;

	if (!cache_serves())
		return NULL;
	for (;;)
	{
		if (!session.valid || session.user != GetUserId())
		{
			CHECK_FOR_INTERRUPTS();
			resolve();
			if (!session.valid && OidIsValid(session.relation))
				continue;
		}
		if (!session.usable)
			return NULL;
		if (session.locked == ga_local_xid())
			break;
		LockRelationOid(session.relation, AccessShareLock);
		begin_transaction();
		if (session.valid)
			break;
	}
	rel = RelationIdGetRelation(session.relation);
	if (!RelationIsValid(rel))
		return NULL;
	if (rel->rd_createSubid != InvalidSubTransactionId || ga_rel_new_subid(rel) != InvalidSubTransactionId ||
		ga_rel_first_subid(rel) != InvalidSubTransactionId)
	{
		RelationClose(rel);
		return NULL;
	}
	return rel;
}

uint64
ga_cache_now(void)
{
	TimestampTz at = GetCurrentStatementStartTimestamp();

	if (at - session.now_at > NOW_LIFETIME)
	{
		session.now = U64FromFullTransactionId(ReadNextFullTransactionId());
		session.now_at = at;
	}
	return session.now;
}

TupleDesc
ga_cache_columns(void)
{
	return session.columns;
}

void
ga_cache_key(const char *id, int id_len, GaCacheKey *key)
{
	key->database = MyDatabaseId;
	key->incarnation = ga_cache_incarnation();
	key->tablespace = InvalidOid;
	key->file = InvalidOid;
	key->id = id;
	key->id_len = id_len;
	key->hash = ga_cache_hash(key->database, key->incarnation, id, id_len);
	if (ga_cache_ready())
		ga_cache_prefetch(key->hash);
}

void
ga_cache_key_file(Relation rel, GaCacheKey *key)
{
	key->tablespace = ga_rel_spc(rel);
	key->file = ga_rel_number(rel);
}

/* ---- lookups ---- */

/* VACUUM may have cut off the pages of an entry's tid, though not while this transaction has the table locked. */
static bool
block_exists(Relation rel, BlockNumber block)
{
	if (session.file != ga_rel_number(rel))
	{
		session.file = ga_rel_number(rel);
		session.nblocks = 0;
	}
	if (block >= session.nblocks)
		session.nblocks = RelationGetNumberOfBlocks(rel);
	return block < session.nblocks;
}

typedef enum Fetched
{
	FETCHED_VISIBLE,
	FETCHED_INVISIBLE,
	FETCHED_GONE				/* the tid holds no row, or another one */
} Fetched;

/*
 * The page of a version, pinned. A page that is where it was last seen need not
 * be searched; now and then it is, which tells the buffer manager that it is used.
 */
static Buffer
pin_page(Relation rel, const GaCacheVersion *version)
{
	static uint32 turn = 0;
	BlockNumber block = ItemPointerGetBlockNumber(&version->tid);

	if (BufferIsValid(version->buffer) && ++turn % 16 != 0 &&
		ReadRecentBuffer(ga_rel_locator(rel), MAIN_FORKNUM, block, version->buffer))
		return version->buffer;
	return ReadBuffer(rel, block);
}

/* As heap_fetch, which follows no chain either; afterwards the tuple is not looked at any more. */
static Fetched
fetch_version(Relation rel, Snapshot snapshot, const GaCacheVersion *version)
{
	Fetched		result = FETCHED_GONE;
	OffsetNumber offset = ItemPointerGetOffsetNumber(&version->tid);
	HeapTupleData tuple;
	Buffer		buffer;
	Page		page;
	uint16		place = 0;

	if (!block_exists(rel, ItemPointerGetBlockNumber(&version->tid)))
		return FETCHED_GONE;
	buffer = pin_page(rel, version);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	if (offset <= PageGetMaxOffsetNumber(page) && ItemIdIsNormal(PageGetItemId(page, offset)))
	{
		ItemId		item = PageGetItemId(page, offset);

		tuple.t_self = version->tid;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(rel);
		place = ItemIdGetOffset(item);
		if (HeapTupleHeaderGetRawXmin(tuple.t_data) == version->xmin)
		{
			bool		visible = HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer);

			if (visible)
				PredicateLockTID(rel, &tuple.t_self, snapshot, HeapTupleHeaderGetXmin(tuple.t_data));
			HeapCheckForSerializableConflictOut(visible, rel, &tuple, buffer, snapshot);
			/* The hint is missing until an asynchronous commit has reached the disk. */
			if (visible && !TransactionIdIsCurrentTransactionId(version->xmin) &&
				(HeapTupleHeaderXminCommitted(tuple.t_data) || TransactionIdDidCommit(version->xmin)))
				result = FETCHED_VISIBLE;
			else
				result = FETCHED_INVISIBLE;
		}
	}
	UnlockReleaseBuffer(buffer);
	if (result == FETCHED_VISIBLE && (buffer != version->buffer || place != version->place))
		ga_cache_hint(version, buffer, place);
	return result;
}

int
ga_cache_visible(Relation rel, const GaCacheKey *key, Snapshot snapshot,
				 GaCacheVersion *versions, GaCacheVersion *dead, int *ndead)
{
	int			n = ga_cache_find(key, ga_cache_now(), versions);

	*ndead = 0;
	for (int i = 0; i < n; i++)
	{
		switch (fetch_version(rel, snapshot, &versions[i]))
		{
			case FETCHED_VISIBLE:
				return i;
			case FETCHED_GONE:
				dead[(*ndead)++] = versions[i];
				break;
			case FETCHED_INVISIBLE:
				break;
		}
	}
	return -1;
}

/* A row that was found is read unless it moves or is evicted at that moment. */
#define READ_ATTEMPTS 3

/*
 * The cached row, or (state_only) the column state, in the current context. False when it is not
 * cached. *result is NULL for a state that is NULL.
 */
static bool
read_cached(Relation rel, const GaCacheKey *key, Snapshot snapshot, bool state_only, char **result, uint32 *bytes,
			GaCacheVersion *dead, int *ndead)
{
	for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++)
	{
		GaCacheVersion versions[GA_CACHE_VERSIONS];
		int			i = ga_cache_visible(rel, key, snapshot, versions, dead, ndead);
		GaCacheVersion *version = &versions[i];

		if (i < 0)
			return false;
		if (state_only && version->state == 0)
			*bytes = 0;
		else if (!state_only)
			*bytes = version->bytes;
		else if ((*bytes = ga_cache_state_bytes(version)) == 0)
			continue;
		*result = *bytes > 0 ? palloc(*bytes) : NULL;
		if (ga_cache_read(version, state_only ? version->state : 0, *bytes, *result))
			return true;
		if (*result != NULL)
			pfree(*result);
	}
	return false;
}

/* ---- cached_state ---- */

/* The state by plain SQL under the caller's rights; false for NULL. */
static bool
state_by_sql(Datum id, Datum *state)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID};
	bool		isnull = true;

	ga_setup_check();
	SPI_connect();
	if (!ga_plan_ready(&plan, 1, types))
		ga_plan_prepare(&plan, "SELECT a.state FROM gpuagent.agent a WHERE a.id OPERATOR(pg_catalog.=) $1", 1, types, 0);
	if (ga_plan_run(&plan, &id, NULL, true, NULL) > 0)
	{
		*state = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
		if (!isnull)
			*state = SPI_datumTransfer(*state, false, -1);
	}
	SPI_finish();
	return !isnull;
}

/* cached_state(id): the agent's state, NULL when there is none */
PG_FUNCTION_INFO_V1(ga_cached_state);
Datum
ga_cached_state(PG_FUNCTION_ARGS)
{
	text	   *id = PG_GETARG_TEXT_PP(0);
	Relation	rel;
	GaCacheKey	key;
	Datum		state = (Datum) 0;
	bool		isnull;

	ga_cache_key(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), &key);
	rel = ga_cache_open();
	if (rel != NULL)
	{
		Snapshot	snapshot = GetActiveSnapshot();
		GaCacheVersion dead[GA_CACHE_VERSIONS];
		int			ndead;
		uint32		bytes;
		char	   *cached;
		HeapTuple	row;
		bool		known;

		ga_cache_key_file(rel, &key);
		if (read_cached(rel, &key, snapshot, true, &cached, &bytes, dead, &ndead))
		{
			RelationClose(rel);
			ga_cache_count(true);
			if (cached == NULL)
				PG_RETURN_NULL();
			PG_RETURN_POINTER(cached);
		}
		known = ga_cache_fetch(rel, &key, snapshot, dead, ndead, 0, &row, NULL, NULL);
		RelationClose(rel);
		if (known)
		{
			ga_cache_count(false);
			if (row == NULL)
				PG_RETURN_NULL();
			state = heap_getattr(row, 2, ga_cache_columns(), &isnull);
			if (isnull)
				PG_RETURN_NULL();
			PG_RETURN_DATUM(state);
		}
	}
	isnull = !state_by_sql(PointerGetDatum(id), &state);
	ga_cache_count(false);
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(state);
}

/* ---- retrieve_agent_cached ---- */

static void
row_by_sql(Datum id, ReturnSetInfo *rsinfo)
{
	static GaPlan plan;
	static const Oid types[] = {TEXTOID};
	DestReceiver *dest;

	ga_setup_check();
	SPI_connect();
	if (!ga_plan_ready(&plan, 1, types))
		ga_plan_prepare(&plan, "SELECT a.id, a.state, a.memory, a.generation, a.fitness, a.metadata, a.version,"
						" a.created_at, a.updated_at, a.origin"
						" FROM gpuagent.agent a WHERE a.id OPERATOR(pg_catalog.=) $1", 1, types, 0);
	dest = CreateTuplestoreDestReceiver();
	SetTuplestoreDestReceiverParams(dest, rsinfo->setResult, rsinfo->econtext->ecxt_per_query_memory, false,
									rsinfo->setDesc, "table gpuagent.agent does not have the columns of this version");
	ga_plan_run(&plan, &id, NULL, true, dest);
	SPI_finish();
}

/* retrieve_agent_cached(id) SETOF agent */
PG_FUNCTION_INFO_V1(ga_retrieve_agent_cached);
Datum
ga_retrieve_agent_cached(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *id = PG_GETARG_TEXT_PP(0);
	Relation	rel;
	GaCacheKey	key;

	InitMaterializedSRF(fcinfo, 0);
	ga_cache_key(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id), &key);
	rel = ga_cache_open();
	if (rel != NULL)
	{
		Snapshot	snapshot = GetActiveSnapshot();
		GaCacheVersion dead[GA_CACHE_VERSIONS];
		int			ndead;
		uint32		bytes;
		char	   *cached;
		HeapTuple	row;
		bool		known;

		ga_cache_key_file(rel, &key);
		if (read_cached(rel, &key, snapshot, false, &cached, &bytes, dead, &ndead))
		{
			HeapTupleData tuple = {.t_len = bytes,.t_data = (HeapTupleHeader) cached};

			RelationClose(rel);
			ga_cache_count(true);
			tuplestore_puttuple(rsinfo->setResult, &tuple);
			return (Datum) 0;
		}
		known = ga_cache_fetch(rel, &key, snapshot, dead, ndead, 0, &row, NULL, NULL);
		RelationClose(rel);
		if (known)
		{
			ga_cache_count(false);
			if (row != NULL)
				tuplestore_puttuple(rsinfo->setResult, row);
			return (Datum) 0;
		}
	}
	row_by_sql(PointerGetDatum(id), rsinfo);
	ga_cache_count(false);
	return (Datum) 0;
}
