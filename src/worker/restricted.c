/*
 * restricted.c
 *		How workers, which are the bootstrap superuser, do the work of others:
 *		as a role, restricted, and without anybody's settings.
 */
#include "base/compat.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "worker/worker.h"

GaRoleScope
ga_worker_enter_role(Oid role)
{
	GaRoleScope before;

	GetUserIdAndSecContext(&before.user, &before.context);
	SetUserIdAndSecContext(role, before.context | SECURITY_RESTRICTED_OPERATION);
	before.nest = NewGUCNestLevel();
	return before;
}

void
ga_worker_leave_role(GaRoleScope before)
{
	AtEOXact_GUC(false, before.nest);
	SetUserIdAndSecContext(before.user, before.context);
}

void
ga_worker_override_settings(const char *application_name)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"transaction_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		if (GetConfigOption(settings[i][0], true, false))
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", application_name, PGC_USERSET, PGC_S_SESSION);
}
