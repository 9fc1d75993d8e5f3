/*
 * plan.c
 *		Saved SPI statements (plan.h).
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "nodes/params.h"
#include "store/plan.h"
#include "utils/guc.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

bool
ga_plan_ready(const GaPlan *plan, int nparams, const Oid *types)
{
	return plan->plan != NULL && plan->nparams == nparams &&
		memcmp(plan->types, types, sizeof(Oid) * nparams) == 0;
}

void
ga_plan_prepare(GaPlan *plan, const char *sql, int nparams, const Oid *types, int cursor_options)
{
	SPIPlanPtr	fresh;

	Assert(nparams <= GA_PLAN_MAX_PARAMS);
	fresh = SPI_prepare_cursor(sql, nparams, unconstify(Oid *, types), cursor_options);
	if (fresh == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(fresh) != 0)
		elog(ERROR, "could not save a plan");
	if (plan->plan != NULL)
		SPI_freeplan(plan->plan);
	plan->plan = fresh;
	plan->nparams = nparams;
	memcpy(plan->types, types, sizeof(Oid) * nparams);
}

uint64
ga_plan_run(const GaPlan *plan, const Datum *values, const bool *nulls, bool read_only, DestReceiver *dest)
{
	ParamListInfo params = makeParamList(plan->nparams);
	SPIExecuteOptions options = {.params = params,.read_only = read_only,.dest = dest};
	int			rc;

	for (int i = 0; i < plan->nparams; i++)
	{
		params->params[i].value = values[i];
		params->params[i].isnull = nulls != NULL && nulls[i];
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = plan->types[i];
	}
	rc = SPI_execute_plan_extended(plan->plan, &options);
	if (rc < 0)
		elog(ERROR, "could not run a saved statement: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

void
ga_plan_nested(const GaPlan *plan)
{
	static const char *const off[] = {"enable_hashjoin", "enable_mergejoin", "enable_seqscan", "enable_material"};
	int			level = NewGUCNestLevel();
	CachedPlan *cached;

	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	cached = SPI_plan_get_cached_plan(plan->plan);
	if (cached != NULL)
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	AtEOXact_GUC(true, level);
}

Oid
ga_type_oid(const char *name)
{
	Oid			schema = get_namespace_oid("gpuagent", false);
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(name), ObjectIdGetDatum(schema));

	if (!OidIsValid(type))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type gpuagent.%s does not exist", name)));
	return type;
}
