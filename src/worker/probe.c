/*
 * probe.c
 *		The probe: a process that looks whether a database has the extension,
 *		leaves the answer to the launcher, and ends.
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "access/genam.h"
#include "access/table.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "worker/worker.h"

GaFinding
ga_extension_state(void)
{
	GaFinding	result = GA_FOUND_NO_EXTENSION;
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("gpuagent"));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(relation), &isnull);

		result = !isnull && strcmp(TextDatumGetCString(version), GA_VERSION) == 0 ? GA_FOUND_EXTENSION : GA_FOUND_OTHER_VERSION;
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return result;
}

void
ga_probe_main(Datum argument)
{
	Oid			database;

	pqsignal(SIGTERM, die);
	if (!ga_worker_attach(argument, &database))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	pgstat_report_activity(STATE_RUNNING, "looking for the extension");
	StartTransactionCommand();
	ga_worker_leave(ga_extension_state());
	CommitTransactionCommand();
	proc_exit(0);
}
