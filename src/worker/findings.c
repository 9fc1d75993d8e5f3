/*
 * findings.c
 *		What check_setup() says of background workers.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "base/findings.h"
#include "base/shared.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "worker/worker.h"

typedef struct Finding
{
	const char *status;
	const char *detail;
	const char *hint;
} Finding;

/*
 * A worker that is not there although nothing is short is not worth a warning:
 * it was just asked for, or failed and is started again after a pause.
 */
static Finding
find(void)
{
	bool		launcher;
	bool		served;
	int			shortage;

	ga_workers_state(MyDatabaseId, &launcher, &served, &shortage);
	if (served)
		return (Finding) {"ok", "a maintenance worker serves this database"};
	if (ga_max_databases == 0)
		return (Finding) {"ok", "maintenance workers are switched off"};
	if (!launcher)
		return (Finding) {"warning", "the launcher of maintenance workers does not run",
			"Increase max_worker_processes and restart the server; its log says why the launcher does not run."};
	if (shortage & GA_SHORT_DATABASES)
		return (Finding) {"warning", psprintf("this database has no maintenance worker: gpuagent.max_databases is %d", ga_max_databases),
			"Increase gpuagent.max_databases and restart the server."};
	if (shortage & GA_SHORT_PROCESSES)
		return (Finding) {"warning", "this database has no maintenance worker: no background worker is free",
			"Increase max_worker_processes and restart the server."};
	return (Finding) {"ok", "a maintenance worker is about to be started for this database"};
}

PG_FUNCTION_INFO_V1(ga_worker_findings);
Datum
ga_worker_findings(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Finding		finding;

	InitMaterializedSRF(fcinfo, 0);
	if (!ga_shared_ready())
		return (Datum) 0;
	finding = find();
	ga_add_finding(rsinfo, "workers", finding.status, finding.detail, finding.hint);
	return (Datum) 0;
}
