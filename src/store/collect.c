/*
 * collect.c
 *		Garbage collection of the store: chunks, deltas, nodes and tensors that
 *		nothing refers to.
 *
 * What refers to a row names its hash: columns of tables outside the store
 * (gpuagent_store.tensor_references()), rows of upload, rows of tensor, node and
 * chunk_delta. There are no foreign keys, so that writers of common content do
 * not meet. This is what takes their place.
 *
 * Writers. Whoever will refer to rows that are there already, by storing
 * content again, by the hash of a tensor, or by a delta of a base, does three things,
 * in this order (doom.c):
 *	W1	get a transaction id;
 *	W2	look under the newest snapshot whether the hash is doomed;
 *	W3	look, under a snapshot that is no older, whether a row is there.
 * What is doomed counts as absent: a writer that has the content inserts a row of
 * its own, one that has the hash copies what is doomed below it. So a row may be there several
 * times; readers take any. A row of a doomed hash counts as present when its xmin is not below the writer's own
 * transaction id, or not below the doom's horizon, which is what the collector goes by, too.
 *
 * Collector. Each step is a transaction, holds lock_store_maintenance(), and is
 * READ COMMITTED (sql/part/66_collect.sql). A batch of hashes goes through it so:
 *	C1	Dooming: hashes that a walk from the references does not reach are
 *		inserted into doomed. Commit.
 *	C2	In a later transaction S = the next transaction id is noted.
 *	C3	When nobody's id or snapshot is older than S (horizon_passed), a statement
 *		that starts then looks for what is referred to: by a reference, or by any row of
 *		the store that stays, that is one of a hash that is not in a batch that has come as far,
 *		or of one that is but not older than S; and then what is below those, within
 *		the batch. It is spared: not doomed any more. S2 = the next transaction id
 *		is noted.
 *	C4	When nobody is older than S2, the same once more. The batch is condemned.
 *	C5	Rows of condemned hashes with xmin < S are deleted, a few at a time,
 *		tensors first, then nodes, then chunks and deltas; with the last of a hash goes its doom.
 *
 * Claim: at no time does a committed row that can be reached from a reference
 * name a hash of which every row is deleted.
 *
 * Let z be condemned, and let the rows that go be those with xmin < S; look at C,
 * the second check. Suppose that a writer W makes a row p that names z, and
 * commits. By induction p may be taken to stay, for p that go are unreachable themselves.
 *	(a) W looked at z before the doom of z was committed. Then its id is older
 *		than S, for W1 comes before W2 and C2 after C1. So W had ended before C, p
 *		was seen by C, and z was spared.
 *	(b) W saw z doomed and inserted a row of its own, or relied on one that is
 *		not older than itself or than S. A row that is not older than S stays. Else W
 *		is older than S and had ended before C, which saw p.
 *	(c) W looked at something above z only: at the tensor t that it refers to, or
 *		that it changes in part. t was there and not doomed. If t was visible to C, then either it was not
 *		in a batch that was as far, or has a row that is not older, and C kept all
 *		below it; or it was doomed after W looked: then W is older than the S
 *		of t, had ended before C, and C saw p. If t was not visible to C, its writer had not
 *		ended, so was not older than S, so saw z doomed, or relied on somebody
 *		of whom the same is true.
 *	(d) W saw z before it was doomed, z was doomed, deleted and its doom
 *		removed, and W looked then, with an old snapshot that still shows the row: W3 looks
 *		under a snapshot that is no older than W2's, in which the doom was gone,
 *		hence the row as well.
 *	(e) W did not look but copied a reference that it saw (SQL of somebody's own). While
 *		the snapshot with which it saw that is held, or if it had its id before, the
 *		deletion of what it copied is not older than W or its snapshot. C3 came after
 *		S; a reference that was there at C3 spared z; one that had been
 *		removed by then was removed by a transaction older than S2, which whoever still saw
 *		it is, too; C4 waits for those, and sees what they have made. (With one check
 *		only, a reference that came from (a) and went before C3 could have been copied by
 *		somebody younger than S.) What copies references within the extension, capture
 *		and restore, looks in addition (keep_items), so that chains of copies
 *		and deletions prove nothing against it.
 * The same holds for readers: who follows a reference under several snapshots holds, for
 * as long as the statement runs, the one with which it saw the reference; by (e) what it finds stays as long. A
 * transaction that keeps no snapshot between its statements may find nothing
 * any more, as with any row of which it remembers the key.
 *
 * Notes.
 *	- Aborted transactions and subtransactions refer to nothing. Prepared ones run.
 *	- Standbys replay deletions; their old snapshots are the server's business
 *	  (hot_standby_feedback holds the horizon back, as do replication slots).
 *	- A base is kept by its deltas through every rule above. Who keeps a doomed delta by its hash stores the chunk
 *	  whole (keep_chunk): that the base's hash has a row that stays does not say that it is one of chunk.
 *	- xmin is compared in 64 bits (ga_xid_changed_since): an old row may be taken for a young one, and is then
 *	  collected later; never the other way round. A row that was taken for a young one
 *	  stays so for 2^32 transactions.
 *	- Ids of another server or database (dump and restore, pg_upgrade, templates) mean nothing:
 *	  such batches keep their hashes doomed, which is harmless, and begin again at C1.
 *	- After a crash ids are given out from what the log knows: not below S, since
 *	  the transaction that noted S took its own id after it.
 *	- ERROR or kill -9 anywhere: a step has happened or has not.
 *	- pg_restore and new subscriptions fill tables in any order: tables_complete().
 *	- Young rows, those that were not committed collect_grace ago, are referred to by definition
 *	  (C1) and stay (C3, C5): a client uploads in several transactions. How old
 *	  rows are is told by their xmin and the horizons of some times in the past (collect_time).
 *	  A client that finds its chunks there leaves rows in upload instead.
 *
 * The walk is a query: hash joins and sorts within maintenance_work_mem that spill; only the set of live nodes, one in 64
 * hashes, is in memory.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "base/guc.h"
#include "base/names.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "store/collect.h"
#include "store/store.h"
#include "store/table.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

/*
 * The oldest transaction id that runs in this database, or that a snapshot of it, of a standby that gives feedback or of
 * a replication slot may take for running. Prepared transactions run. Transactions of other databases count in so far as
 * snapshots of this one take them for running.
 */
static FullTransactionId
horizon(void)
{
	Oid			relid = get_relname_relid("chunk", get_namespace_oid("gpuagent_store", false));
	Relation	rel;
	TransactionId oldest;
	FullTransactionId next;
	uint32		behind;

	if (!OidIsValid(relid))
		ga_setup_check();
	rel = table_open(relid, AccessShareLock);
	oldest = GetOldestNonRemovableTransactionId(rel);
	table_close(rel, NoLock);
	next = ReadNextFullTransactionId();
	behind = XidFromFullTransactionId(next) - oldest;

	/* Servers before 15.3 let vacuum_defer_cleanup_age go back before the first id that there was. */
	if (behind > U64FromFullTransactionId(next) - FirstNormalTransactionId)
		return FullTransactionIdFromU64(FirstNormalTransactionId);
	return FullTransactionIdFromU64(U64FromFullTransactionId(next) - behind);
}

/* collection_horizon() xid8 */
PG_FUNCTION_INFO_V1(ga_collection_horizon);
Datum
ga_collection_horizon(PG_FUNCTION_ARGS)
{
	PG_RETURN_FULLTRANSACTIONID(horizon());
}

/* horizon_passed(xid xid8) boolean */
PG_FUNCTION_INFO_V1(ga_horizon_passed);
Datum
ga_horizon_passed(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!FullTransactionIdPrecedes(horizon(), PG_GETARG_FULLTRANSACTIONID(0)));
}

/* next_xid() xid8: transactions that have an id have a smaller one. Not so of pg_snapshot_xmax(). */
PG_FUNCTION_INFO_V1(ga_next_xid);
Datum
ga_next_xid(PG_FUNCTION_ARGS)
{
	PG_RETURN_FULLTRANSACTIONID(ReadNextFullTransactionId());
}

/* child_hashes(children bytea) SETOF bytea */
PG_FUNCTION_INFO_V1(ga_child_hashes);
Datum
ga_child_hashes(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	bytea	   *children;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		children = PG_GETARG_BYTEA_P_COPY(0);
		funcctx->user_fctx = children;
		funcctx->max_calls = VARSIZE(children) - VARHDRSZ < GA_HASH_LEN ? 0 : (VARSIZE(children) - VARHDRSZ) / GA_HASH_LEN;
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	children = funcctx->user_fctx;
	if (funcctx->call_cntr < funcctx->max_calls)
	{
		/* Not within the macro, which counts before it looks at its argument. */
		Datum		child = ga_table_bytea(VARDATA(children) + funcctx->call_cntr * GA_HASH_LEN, GA_HASH_LEN);

		SRF_RETURN_NEXT(funcctx, child);
	}
	SRF_RETURN_DONE(funcctx);
}

/* ---- the step, as the owner of the store ---- */

#define FIRST_WAIT_MS 1000
#define LONGEST_WAIT_MS 60000
#define DELETE_PAUSE_MS 20

/* Until this process's task is due again. */
static int	pause_ms = 0;

int
ga_collect_pause(void)
{
	int			interval = ga_collect_interval * 1000;

	return Max(pause_ms > 0 ? Min(pause_ms, interval) : interval, 1);
}

bool
ga_collect_wanted(void)
{
	return ga_collect_interval > 0;
}

static void
note_pause(const char *phase, int before)
{
	if (strcmp(phase, "deleting") == 0)
		pause_ms = DELETE_PAUSE_MS;
	else if (strcmp(phase, "marked") == 0)
		pause_ms = FIRST_WAIT_MS;
	else if (strcmp(phase, "waiting") == 0)
		pause_ms = Min(Max(2 * before, FIRST_WAIT_MS), LONGEST_WAIT_MS);
	else
		pause_ms = 0;
}

/*
 * Runs a step and leaves its row in SPI_tuptable. As the owner of the tables, who alone may delete there, and restricted
 * as maintenance is: tables can carry triggers of others.
 */
static void
run_step(bool force)
{
	GaTableUser before;
	int			context;
	Oid			owner;
	int			level;
	Oid			types[1] = {BOOLOID};
	Datum		values[1] = {BoolGetDatum(force)};

	ga_setup_check();
	before = ga_table_enter_owner("chunk");
	GetUserIdAndSecContext(&owner, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	(void) set_config_option("work_mem", GetConfigOption("maintenance_work_mem", false, false),
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (SPI_execute_with_args("SELECT s.phase, s.doomed, s.deleted, s.freed_bytes, s.spared FROM gpuagent_store.collect_step($1) s",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "a step of garbage collection gave no result");
	AtEOXact_GUC(false, level);
	ga_table_leave_owner(before);
}

/* collect_garbage() record */
PG_FUNCTION_INFO_V1(ga_collect_garbage);
Datum
ga_collect_garbage(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	HeapTuple	row;
	Datum		values[5];
	bool		nulls[5];
	Datum		result;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run_step(true);
	for (int i = 0; i < lengthof(values); i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &nulls[i]);
	row = heap_form_tuple(desc, values, nulls);
	result = SPI_datumTransfer(HeapTupleGetDatum(row), false, -1);
	SPI_finish();
	PG_RETURN_DATUM(result);
}

/* collect() */
PG_FUNCTION_INFO_V1(ga_collect);
Datum
ga_collect(PG_FUNCTION_ARGS)
{
	int			before = pause_ms;

	pause_ms = 0;				/* after an error */
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run_step(false);
	note_pause(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), before);
	SPI_finish();
	PG_RETURN_VOID();
}
