/*
 * collect.c
 *		Garbage collection of the store.
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
