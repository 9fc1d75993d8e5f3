/*
 * collect.c
 *		Garbage collection of the store.
 */
#include "base/compat.h"

#include "access/table.h"
#include "access/transam.h"
#include "base/names.h"
#include "catalog/namespace.h"
#include "storage/procarray.h"
#include "store/store.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
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
