/*
 * link.c
 *		What a node asks of another one, through the server's own client of logical
 *		replication: with the connection string of the subscription, so that what
 *		works here works there.
 *
 * CREATE SUBSCRIPTION cannot make its slot in a transaction, nor DROP remove it. So
 * the slot is made, or removed, on the peer when the local transaction is about to
 * commit: a rollback leaves nothing there, and a peer that refuses makes the
 * transaction fail. Only a crash between the two can leave a slot, which the next
 * add_peer() or drop_peer() for that node removes.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "storage/latch.h"
#include "sync/sync.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

/* Longest wait for a slot that its last user has not left. */
#define SLOT_WAIT_MS 30000

static void
require_superuser(void)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to connect to peers")));
}

/* NULL when it cannot, with *problem. */
static WalReceiverConn *
connect_peer(const char *conninfo, char **problem)
{
	WalReceiverConn *connection;

	load_file("libpqwalreceiver", false);
	*problem = NULL;
	connection = ga_walrcv_connect(conninfo, "gpuagent", problem);
	if (connection == NULL && *problem == NULL)
		*problem = "out of memory";
	return connection;
}

static void
connection_failed(const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
			 errmsg("could not connect to the peer"),
			 errdetail_internal("%s", problem),
			 errhint("The connection string is that of a subscription: the peer's pg_hba.conf lets its role into the database, and the role has REPLICATION.")));
}

/* First column of the first row of a query, as text; NULL: no row, or NULL. false: it failed, with *sqlstate and *problem. */
static bool
ask(WalReceiverConn *connection, const char *query, char **answer, int *sqlstate, char **problem)
{
	Oid			types[1] = {TEXTOID};
	WalRcvExecResult *result = walrcv_exec(connection, query, 1, types);
	bool		good = result->status == WALRCV_OK_TUPLES;

	*answer = NULL;
	if (good)
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(result->tupledesc, &TTSOpsMinimalTuple);

		if (tuplestore_gettupleslot(result->tuplestore, true, false, slot))
		{
			bool		isnull;
			Datum		value = slot_getattr(slot, 1, &isnull);

			if (!isnull)
				*answer = TextDatumGetCString(value);
		}
		ExecDropSingleTupleTableSlot(slot);
	}
	else
	{
		*sqlstate = result->sqlstate;
		*problem = pstrdup(result->err ? result->err : "");
	}
	walrcv_clear_result(result);
	return good;
}

static void
peer_failed(int sqlstate, const char *problem)
{
	ereport(ERROR,
			(errcode(sqlstate ? sqlstate : ERRCODE_CONNECTION_FAILURE),
			 errmsg("the peer failed: %s", problem)));
}

/* ask_peer(conninfo, query): first column of its first row, which is text. */
PG_FUNCTION_INFO_V1(ga_ask_peer);
Datum
ga_ask_peer(PG_FUNCTION_ARGS)
{
	char	   *conninfo = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *query = text_to_cstring(PG_GETARG_TEXT_PP(1));
	WalReceiverConn *connection;
	char	   *answer = NULL;
	char	   *problem = NULL;
	int			sqlstate = 0;
	bool		good = false;

	require_superuser();
	connection = connect_peer(conninfo, &problem);
	if (connection == NULL)
		connection_failed(problem);
	PG_TRY();
	{
		good = ask(connection, query, &answer, &sqlstate, &problem);
	}
	PG_FINALLY();
	{
		walrcv_disconnect(connection);
	}
	PG_END_TRY();
	if (!good)
		peer_failed(sqlstate, problem);
	if (answer == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(answer));
}

/* ---- at the commit ---- */

typedef struct SlotAction
{
	bool		create;
	bool		force;			/* what fails is a warning */
	char	   *conninfo;
	char	   *slot;
	SubTransactionId subid;
} SlotAction;

static List *actions = NIL;
static bool registered = false;

/* A slot that somebody uses is waited for: the process that has just ended here is still to be noticed there. */
static bool
drop_slot(WalReceiverConn *connection, const char *slot, int *sqlstate, char **problem)
{
	char	   *query = psprintf("SELECT pg_catalog.pg_drop_replication_slot(s.slot_name)::pg_catalog.text "
								 "FROM pg_catalog.pg_replication_slots s WHERE s.slot_name OPERATOR(pg_catalog.=) %s", quote_literal_cstr(slot));
	char	   *answer;

	for (int waited = 0; !ask(connection, query, &answer, sqlstate, problem); waited += 50)
	{
		if (*sqlstate != ERRCODE_OBJECT_IN_USE || waited >= SLOT_WAIT_MS)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 50, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* Making a slot waits for transactions of the peer. One of these may wait for us, which nobody would notice. */
static bool
create_slot(WalReceiverConn *connection, const char *slot, int *sqlstate, char **problem)
{
	char	   *answer;

	return drop_slot(connection, slot, sqlstate, problem) &&
		ask(connection, psprintf("SELECT pg_catalog.set_config('statement_timeout', '%d', false)", SLOT_WAIT_MS), &answer, sqlstate, problem) &&
		ask(connection, psprintf("SELECT (pg_catalog.pg_create_logical_replication_slot(%s, 'pgoutput')).slot_name::pg_catalog.text",
								 quote_literal_cstr(slot)), &answer, sqlstate, problem);
}

static bool
perform(WalReceiverConn *connection, const SlotAction *action, int *sqlstate, char **problem)
{
	char	   *answer;

	if (action->create)
		return create_slot(connection, action->slot, sqlstate, problem);
	return drop_slot(connection, action->slot, sqlstate, problem) &&
		ask(connection, "SELECT gpuagent_store.close_link()", &answer, sqlstate, problem);
}

/* With force, what the peer refuses is told, and the transaction commits. */
static void
run_action(const SlotAction *action)
{
	int			sqlstate = 0;
	char	   *problem = NULL;
	volatile bool good = false;
	WalReceiverConn *connection = connect_peer(action->conninfo, &problem);

	if (connection != NULL)
	{
		PG_TRY();
		{
			good = perform(connection, action, &sqlstate, &problem);
		}
		PG_CATCH();
		{
			walrcv_disconnect(connection);
			PG_RE_THROW();
		}
		PG_END_TRY();
		walrcv_disconnect(connection);
	}
	if (good)
		return;
	if (action->force)
		ereport(WARNING,
				(errmsg("slot \"%s\" may be left on the peer", action->slot),
				 errdetail_internal("%s", problem),
				 errhint("Drop it there with pg_drop_replication_slot(), or it keeps write-ahead log.")));
	else if (connection == NULL)
		connection_failed(problem);
	else
		peer_failed(sqlstate, problem);
}

static void
at_commit(XactEvent event, void *arg)
{
	ListCell   *cell;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			foreach(cell, actions)
				run_action(lfirst(cell));
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (actions != NIL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has added or dropped peers")));
			break;
		default:
			actions = NIL;		/* in a context that ends with the transaction */
	}
}

static void
at_subxact(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	ListCell   *cell;

	foreach(cell, actions)
	{
		SlotAction *action = lfirst(cell);

		if (action->subid != mine)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			actions = foreach_delete_current(actions, cell);
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
			action->subid = parent;
	}
}

/* slot_at_commit(conninfo, slot, create, force) */
PG_FUNCTION_INFO_V1(ga_slot_at_commit);
Datum
ga_slot_at_commit(PG_FUNCTION_ARGS)
{
	MemoryContext old;
	SlotAction *action;

	require_superuser();
	if (!registered)
	{
		RegisterXactCallback(at_commit, NULL);
		RegisterSubXactCallback(at_subxact, NULL);
		registered = true;
	}
	old = MemoryContextSwitchTo(TopTransactionContext);
	action = palloc0_object(SlotAction);
	action->conninfo = text_to_cstring(PG_GETARG_TEXT_PP(0));
	action->slot = text_to_cstring(PG_GETARG_TEXT_PP(1));
	action->create = PG_GETARG_BOOL(2);
	action->force = PG_GETARG_BOOL(3);
	action->subid = GetCurrentSubTransactionId();
	actions = lappend(actions, action);
	MemoryContextSwitchTo(old);
	PG_RETURN_VOID();
}
