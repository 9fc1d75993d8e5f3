/*
 * repair.c
 *		Tables of a subscription are copied again.
 *
 * Facts are rows that are only ever added, and taken in once (apply.c), so a copy
 * of all that a peer has does no harm; what was missed while there was no slot
 * comes with it.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_subscription_rel.h"
#include "miscadmin.h"
#include "replication/origin.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/*
 * copy_again(subscription, table): the server begins with the first copy of the table again, when this transaction has
 * committed. False where it has not finished one. 55006 while the copying process is there.
 */
PG_FUNCTION_INFO_V1(ga_copy_again);
Datum
ga_copy_again(PG_FUNCTION_ARGS)
{
	Oid			subscription = PG_GETARG_OID(0);
	Oid			table = PG_GETARG_OID(1);
	Datum		values[Natts_pg_subscription_rel] = {0};
	bool		nulls[Natts_pg_subscription_rel] = {0};
	bool		replaces[Natts_pg_subscription_rel] = {0};
	char		origin[NAMEDATALEN];
	Relation	relation;
	HeapTuple	tuple;
	char		state;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to copy tables of subscriptions again")));
	LockSharedObject(SubscriptionRelationId, subscription, 0, AccessShareLock);
	relation = table_open(SubscriptionRelRelationId, RowExclusiveLock);
	tuple = SearchSysCacheCopy2(SUBSCRIPTIONRELMAP, ObjectIdGetDatum(table), ObjectIdGetDatum(subscription));
	state = HeapTupleIsValid(tuple) ? ((Form_pg_subscription_rel) GETSTRUCT(tuple))->srsubstate : SUBREL_STATE_UNKNOWN;
	if (state != SUBREL_STATE_FINISHEDCOPY && state != SUBREL_STATE_SYNCDONE && state != SUBREL_STATE_READY)
	{
		table_close(relation, RowExclusiveLock);
		PG_RETURN_BOOL(false);
	}
	/* The position that the copying process noted: with it, it would not begin again. */
	snprintf(origin, sizeof(origin), "pg_%u_%u", subscription, table);
	replorigin_drop_by_name(origin, true, true);
	replaces[Anum_pg_subscription_rel_srsubstate - 1] = true;
	values[Anum_pg_subscription_rel_srsubstate - 1] = CharGetDatum(SUBREL_STATE_INIT);
	replaces[Anum_pg_subscription_rel_srsublsn - 1] = true;
	nulls[Anum_pg_subscription_rel_srsublsn - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(relation), values, nulls, replaces);
	CatalogTupleUpdate(relation, &tuple->t_self, tuple);
	table_close(relation, NoLock);
	PG_RETURN_BOOL(true);
}
