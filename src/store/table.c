/*
 * table.c
 *		Statements on the store's tables (table.h).
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/names.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "store/doom.h"
#include "store/table.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/*
 * Runs a statement; returns the number of rows, at most one, which are in SPI_tuptable. snapshot: on that one, else the
 * usual one. 42P01 when the tables are not there, or not there any more.
 */
static uint64
execute(GaStatement *stmt, Datum *args, bool read_only, Snapshot snapshot)
{
	int			rc;

	ga_setup_check();
	if (stmt->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(stmt->sql, stmt->nargs, stmt->argtypes, CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		stmt->plan = plan;
	}
	if (snapshot != InvalidSnapshot)
		rc = SPI_execute_snapshot(stmt->plan, args, NULL, snapshot, InvalidSnapshot, read_only, true, 1);
	else
		rc = SPI_execute_plan(stmt->plan, args, NULL, read_only, 1);
	if (rc < 0)
		elog(ERROR, "a statement on the store failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * The plan is made once, often while the table is empty and a scan of it looks cheap, and then serves a transaction
 * that fills it with a million rows no statistics know of. So scans of the whole table are not offered.
 */
static uint64
execute_by_hash(GaStatement *stmt, const GaHash *hash, bool read_only, Snapshot snapshot)
{
	Datum		arg = ga_hash_to_datum(hash);
	int			level = NewGUCNestLevel();
	uint64		rows;

	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	rows = execute(stmt, &arg, read_only, snapshot);
	AtEOXact_GUC(true, level);
	pfree(DatumGetPointer(arg));
	return rows;
}

bool
ga_table_fetch(GaStatement *stmt, const GaHash *hash, bool fresh)
{
	return execute_by_hash(stmt, hash, !fresh, InvalidSnapshot) > 0;
}

bool
ga_table_fetch_latest(GaStatement *stmt, const GaHash *hash)
{
	return execute_by_hash(stmt, hash, true, GetLatestSnapshot()) > 0;
}

bool
ga_table_present(GaStatement *stmt, const GaHash *hash)
{
	bool		found = ga_table_fetch(stmt, hash, true);

	if (found && IsolationUsesXactSnapshot())
	{
		SPI_freetuptable(SPI_tuptable);
		found = ga_table_fetch_latest(stmt, hash);
	}
	return found;
}

bool
ga_table_run_latest(GaStatement *stmt, const GaHash *hash)
{
	return execute_by_hash(stmt, hash, false, GetLatestSnapshot()) > 0;
}

void
ga_table_damaged(const char *what, const GaHash *hash, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("%s %s of the store is damaged", what, ga_hash_text(hash)),
			 errdetail("%s", detail),
			 errhint("Store or import the same content again, after deleting a damaged row; "
					 "gpuagent.verify_integrity('full') finds all damage.")));
}

Datum
ga_table_column(int n, const char *what, const GaHash *hash)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n, &isnull);

	if (isnull)
		ga_table_damaged(what, hash, "Its row has a NULL.");
	return value;
}

bool
ga_table_has_column(const char *table, const char *column)
{
	Oid			schema = get_namespace_oid("gpuagent_store", true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(table, schema) : InvalidOid;

	return OidIsValid(relid) && get_attnum(relid, column) != InvalidAttrNumber;
}

static Oid
table_owner(const char *table)
{
	Oid			relid = get_relname_relid(table, get_namespace_oid("gpuagent_store", false));
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ga_setup_check();
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "table gpuagent_store.%s does not exist", table);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

GaTableUser
ga_table_enter_owner(const char *table)
{
	GaTableUser before;

	GetUserIdAndSecContext(&before.user, &before.context);
	SetUserIdAndSecContext(table_owner(table),
						   before.context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	return before;
}

/* An ERROR in between leaves the user id to the (sub)transaction's abort, which restores it. */
void
ga_table_leave_owner(GaTableUser before)
{
	SetUserIdAndSecContext(before.user, before.context);
}

bool
ga_table_insert(const char *table, GaStatement *probe, GaStatement *insert, const GaHash *hash, Datum *args)
{
	GaTableUser before = ga_table_enter_owner(table);
	bool		found = false;

	if (probe != NULL && !ga_doomed(hash))
	{
		found = ga_table_present(probe, hash);
		SPI_freetuptable(SPI_tuptable);
	}
	if (!found && args != NULL)
		execute(insert, args, false, InvalidSnapshot);
	ga_table_leave_owner(before);
	return !found;
}

Datum
ga_table_bytea(const void *data, size_t len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), data, len);
	return PointerGetDatum(result);
}
