/*
 * watch.c
 *		What sessions do for the workers: statements that need a database for
 *		themselves send its workers away first and keep them out until the
 *		transaction ends, and changes of extensions are noticed when they are committed.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "worker/worker.h"

static ProcessUtility_hook_type previous_utility = NULL;
static object_access_hook_type previous_access = NULL;
static bool extension_changed = false;	/* in this transaction */

/* Whether the caller may copy a database: the same question that CREATE DATABASE asks. */
static bool
may_copy(Oid database)
{
	HeapTuple	tuple;
	bool		result = superuser();

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result |= ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	if (!result || ga_owns_database(database))
		return result;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	result = HeapTupleIsValid(tuple) && ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/* A string option, or the default. */
static const char *
option(List *options, const char *name, const char *fallback)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *element = lfirst(cell);

		if (strcmp(element->defname, name) == 0)
			return element->arg ? defGetString(element) : fallback;
	}
	return fallback;
}

/*
 * The database that a statement needs without other sessions, if it is there and
 * the caller may; else the statement says what is wrong.
 */
static Oid
wanted_alone(Node *statement)
{
	const char *name = NULL;
	bool		copy = IsA(statement, CreatedbStmt);
	Oid			database;

	if (copy)
		name = option(((CreatedbStmt *) statement)->options, "template", "template1");
	else if (IsA(statement, DropdbStmt))
		name = ((DropdbStmt *) statement)->dbname;
	else if (IsA(statement, RenameStmt) && ((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) statement)->subname;
	else if (IsA(statement, AlterDatabaseStmt) && option(((AlterDatabaseStmt *) statement)->options, "tablespace", NULL))
		name = ((AlterDatabaseStmt *) statement)->dbname;
	if (name == NULL)
		return InvalidOid;
	database = get_database_oid(name, true);
	if (!OidIsValid(database) || !(copy ? may_copy(database) : ga_owns_database(database)))
		return InvalidOid;
	return database;
}

static void
utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context, ParamListInfo params,
		QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Oid			database = wanted_alone(pstmt->utilityStmt);

	if (OidIsValid(database))
		ga_workers_hold(database);	/* until at_transaction_end: only then it is seen what became of the database */
	if (previous_utility)
		previous_utility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, environment, dest, completion);
}

/* An extension came, went or was updated; the name does not matter, a look costs little. */
static void
object_access(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (previous_access)
		previous_access(access, class, object, sub, arg);
	if (class == ExtensionRelationId && (access == OAT_POST_CREATE || access == OAT_DROP || access == OAT_POST_ALTER))
		extension_changed = true;
}

/* What is prepared commits in some other session; the launcher's own looks find that. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	ga_workers_release();
	if (extension_changed && event == XACT_EVENT_COMMIT)
		ga_workers_notice(MyDatabaseId);
	extension_changed = false;
}

void
ga_watch_install(void)
{
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
	previous_access = object_access_hook;
	object_access_hook = object_access;
	RegisterXactCallback(at_transaction_end, NULL);
}
