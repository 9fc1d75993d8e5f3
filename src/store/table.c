/*
 * table.c
 *		Statements on the store's tables (table.h).
 */
#include "base/compat.h"

#include "base/names.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "store/table.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/*
 * Runs a statement; returns the number of rows, at most one, which are in SPI_tuptable.
 * 42P01 when the tables are not there, or not there any more.
 */
static uint64
execute(GaStatement *stmt, Datum *args, bool read_only)
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
	rc = SPI_execute_plan(stmt->plan, args, NULL, read_only, 1);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * The plan is made once, often while the table is empty and a scan of it looks cheap, and then serves a transaction
 * that fills it with a million rows no statistics know of. So scans of the whole table are not offered.
 */
bool
ga_table_fetch(GaStatement *stmt, const GaHash *hash, bool fresh)
{
	Datum		arg = ga_hash_to_datum(hash);
	int			level = NewGUCNestLevel();
	bool		found;

	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	found = execute(stmt, &arg, !fresh) > 0;
	AtEOXact_GUC(true, level);
	pfree(DatumGetPointer(arg));
	return found;
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

	if (probe != NULL)
	{
		found = ga_table_fetch(probe, hash, true);
		SPI_freetuptable(SPI_tuptable);
	}
	if (!found && args != NULL)
		execute(insert, args, false);
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
