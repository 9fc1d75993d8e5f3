/*
 * findings.c
 *		What check_setup() can only learn inside the server process.
 */
#include "base/compat.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/findings.h"
#include "base/guc.h"
#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

void
ga_add_finding(ReturnSetInfo *rsinfo, const char *item, const char *status, const char *detail, const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, false, hint == NULL};

	values[0] = CStringGetTextDatum(item);
	values[1] = CStringGetTextDatum(status);
	values[2] = CStringGetTextDatum(detail);
	values[3] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* True when the library stands in shared_preload_libraries. */
static bool
is_preloaded(void)
{
	char	   *list = pstrdup(shared_preload_libraries_string);
	List	   *names;
	ListCell   *cell;

	if (!SplitDirectoriesString(list, ',', &names))
		return false;
	foreach(cell, names)
	{
		const char *name = last_dir_separator(lfirst(cell)) ? last_dir_separator(lfirst(cell)) + 1 : lfirst(cell);

		if (strcmp(name, "gpuagent") == 0 || strcmp(name, "gpuagent.so") == 0)
			return true;
	}
	return false;
}

/* The path itself is for those who may read settings. */
static bool
may_see_path(void)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_SETTINGS);
}

static void
add_storage_finding(ReturnSetInfo *rsinfo)
{
	char	   *path = ga_storage_path();
	char	   *shown = may_see_path() ? path : "the configured path";
	char	   *data = pstrdup(DataDir);
	struct stat st;

	canonicalize_path(data);
	if (path_is_prefix_of_path(data, path))
		ga_add_finding(rsinfo, "storage_path", "error", psprintf("%s lies inside the data directory", shown),
					"Base backups would copy it and pg_rewind would remove parts of it: set gpuagent.storage_path elsewhere.");
	else if (stat(path, &st) != 0 && errno == ENOENT)
		ga_add_finding(rsinfo, "storage_path", "ok", psprintf("%s does not exist; the first export creates it", shown), NULL);
	else if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode) || access(path, R_OK | W_OK | X_OK) != 0)
		ga_add_finding(rsinfo, "storage_path", "error", psprintf("the server cannot use %s", shown),
					"Make it a directory that belongs to the server's operating system user.");
	else
		ga_add_finding(rsinfo, "storage_path", "ok", shown, NULL);
}

PG_FUNCTION_INFO_V1(ga_setup_findings);
Datum
ga_setup_findings(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (is_preloaded())
		ga_add_finding(rsinfo, "preload", "ok", "gpuagent is in shared_preload_libraries", NULL);
	else
		ga_add_finding(rsinfo, "preload", "warning",
					"gpuagent is not in shared_preload_libraries: types, tables, store, checkpoints, files and search work; "
					"shared caches, background workers and the device do not",
					"Add gpuagent to shared_preload_libraries and restart the server.");
	ga_add_finding(rsinfo, "profile", "ok", GetConfigOption("gpuagent.profile", false, false), NULL);
	add_storage_finding(rsinfo);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ga_storage_path_sql);
Datum
ga_storage_path_sql(PG_FUNCTION_ARGS)
{
	if (!may_see_path())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser or have privileges of pg_read_all_settings to see the storage path")));
	PG_RETURN_TEXT_P(cstring_to_text(ga_storage_path()));
}
