/*
 * names.c
 *		Names of objects (SQL.md D8), and the check that setup() ran.
 */
#include "base/compat.h"

#include "base/names.h"
#include "catalog/namespace.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

bool
ga_name_is_valid(const char *name, size_t len)
{
	if (len < 1 || len > GA_NAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) name[i] < 0x20 || name[i] == 0x7F)
			return false;
	return true;
}

void
ga_name_check(const char *kind, const char *name, size_t len)
{
	if (!ga_name_is_valid(name, len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s", kind),
				 errdetail("A name has 1 to %d bytes and no control characters; this one has %zu bytes.",
						   GA_NAME_MAX, len)));
}

void
ga_setup_check(void)
{
	Oid			schema = get_namespace_oid("gpuagent_store", true);

	if (!OidIsValid(schema) || !OidIsValid(get_relname_relid("setup_step", schema)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the tables of gpuagent do not exist in this database"),
				 errhint("Run SELECT gpuagent.setup().")));
}

PG_FUNCTION_INFO_V1(ga_valid_name);
Datum
ga_valid_name(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(ga_name_is_valid(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)));
}

/* require_name(kind text, name text): not strict, so that NULL gets its own error. */
PG_FUNCTION_INFO_V1(ga_require_name);
Datum
ga_require_name(PG_FUNCTION_ARGS)
{
	char	   *kind = PG_ARGISNULL(0) ? "name" : text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *name;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", kind)));
	name = PG_GETARG_TEXT_PP(1);
	ga_name_check(kind, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ga_require_setup);
Datum
ga_require_setup(PG_FUNCTION_ARGS)
{
	ga_setup_check();
	PG_RETURN_VOID();
}
