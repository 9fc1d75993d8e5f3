/*
 * apply.c
 *		What arrives is taken in once: the trigger of change and payload in the
 *		apply and table synchronisation workers of logical replication.
 *
 * It turns their INSERT into "insert what is not there", so that a subscription
 * that is made again, copies that overlap, and a fact that comes on two ways are
 * never a duplicate key, which would stop the stream for good.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/workers.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "sync/sync.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

typedef struct Insertion
{
	Oid			relation;
	int			natts;
	SPIPlanPtr	plan;
} Insertion;

/* Of change and of payload. */
static Insertion insertions[2];

/* Set while the trigger's own INSERT runs. */
static bool inserting = false;

/* Whether the follower is told at the commit of this transaction. */
static bool arrived = false;

static void
tell_follower(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && arrived)
		ga_workers_notify_facts(MyDatabaseId);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		arrived = false;
}

void
ga_sync_notify_at_commit(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(tell_follower, NULL);
		registered = true;
	}
	arrived = true;
}

static SPIPlanPtr
insertion_plan(Relation rel, bool facts)
{
	Insertion  *insertion = &insertions[facts];
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData columns;
	StringInfoData values;
	Oid		   *types;

	if (insertion->plan && insertion->relation == RelationGetRelid(rel) && insertion->natts == desc->natts)
		return insertion->plan;
	if (insertion->plan)
		SPI_freeplan(insertion->plan);
	insertion->plan = NULL;

	types = palloc0(desc->natts * sizeof(Oid));
	initStringInfo(&columns);
	initStringInfo(&values);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		types[i] = attribute->attisdropped ? TEXTOID : attribute->atttypid;
		if (attribute->attisdropped || attribute->attgenerated)
			continue;
		appendStringInfo(&columns, "%s%s", columns.len ? ", " : "", quote_identifier(NameStr(attribute->attname)));
		appendStringInfo(&values, "%s$%d", values.len ? ", " : "", i + 1);
	}
	if (facts)
		appendStringInfoString(&values, " ON CONFLICT (origin, seq) DO NOTHING");
	else
	{
		int			hash = SPI_fnumber(desc, "hash");
		int			origin = SPI_fnumber(desc, "origin");

		appendStringInfo(&values, " WHERE NOT EXISTS (SELECT FROM gpuagent_store.payload p "
						 "WHERE p.hash OPERATOR(pg_catalog.=) $%d AND p.origin OPERATOR(pg_catalog.=) $%d)", hash, origin);
	}
	insertion->plan = SPI_prepare(psprintf("INSERT INTO gpuagent_store.%s (%s) SELECT %s", facts ? "change" : "payload",
										   columns.data, values.data), desc->natts, types);
	if (insertion->plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(insertion->plan);
	insertion->relation = RelationGetRelid(rel);
	insertion->natts = desc->natts;
	return insertion->plan;
}

PG_FUNCTION_INFO_V1(ga_apply_once);
Datum
ga_apply_once(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	rel;
	bool		facts;
	int			natts;
	Datum	   *values;
	bool	   *nulls;
	char	   *marks;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("apply_once() must be called by a trigger before a row is inserted")));
	if (inserting)
		return PointerGetDatum(trigger->tg_trigtuple);

	rel = trigger->tg_relation;
	facts = strcmp(RelationGetRelationName(rel), "change") == 0;
	natts = RelationGetDescr(rel)->natts;
	values = palloc(natts * sizeof(Datum));
	nulls = palloc(natts * sizeof(bool));
	marks = palloc(natts);
	heap_deform_tuple(trigger->tg_trigtuple, RelationGetDescr(rel), values, nulls);
	for (int i = 0; i < natts; i++)
		marks[i] = nulls[i] ? 'n' : ' ';

	SPI_connect();
	inserting = true;
	PG_TRY();
	{
		int			rc = SPI_execute_plan(insertion_plan(rel, facts), values, marks, false, 0);

		if (rc < 0)
			elog(ERROR, "a fact cannot be taken in: %s", SPI_result_code_string(rc));
		ga_sync_notify_at_commit();
	}
	PG_FINALLY();
	{
		inserting = false;
	}
	PG_END_TRY();
	SPI_finish();
	return PointerGetDatum(NULL);
}
