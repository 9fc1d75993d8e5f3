/*
 * job.c
 *		What sessions and workers have in common about jobs (job.h).
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_control.h"
#include "catalog/pg_type.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "worker/job.h"

static void
add(pg_hmac_ctx *context, const void *data, size_t size)
{
	if (pg_hmac_update(context, data, size) < 0)
		elog(ERROR, "HMAC failed");
}

static void
add_number(pg_hmac_ctx *context, int64 number)
{
	add(context, &number, sizeof(number));
}

static void
add_text(pg_hmac_ctx *context, const char *text)
{
	add_number(context, text ? (int64) strlen(text) : -1);
	if (text)
		add(context, text, strlen(text));
}

/*
 * The key is one that the server has for hiding whether a user exists: random,
 * made by initdb, not readable by SQL, the same on standbys and after a base backup.
 */
bytea *
ga_job_sign(const GaJob *job)
{
	pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);
	bytea	   *result = palloc(VARHDRSZ + PG_SHA256_DIGEST_LENGTH);

	if (context == NULL || pg_hmac_init(context, (const uint8 *) GetMockAuthenticationNonce(), MOCK_AUTH_NONCE_LEN) < 0)
		elog(ERROR, "HMAC failed");
	add_text(context, "gpuagent job 1");
	add_number(context, MyDatabaseId);
	add_number(context, job->job);
	add_number(context, job->role_id);
	add_text(context, job->kind);
	add_text(context, job->object);
	add_text(context, job->arguments);
	add_text(context, job->carry);
	SET_VARSIZE(result, VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	if (pg_hmac_final(context, (uint8 *) VARDATA(result), PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "HMAC failed");
	pg_hmac_free(context);
	return result;
}

bool
ga_job_is_signed(const GaJob *job)
{
	bytea	   *expected = ga_job_sign(job);
	uint8		differ = 0;

	if (job->signature == NULL || VARSIZE(job->signature) != VARSIZE(expected))
		return false;
	for (size_t i = 0; i < PG_SHA256_DIGEST_LENGTH; i++)
		differ |= (uint8) (VARDATA(job->signature)[i] ^ VARDATA(expected)[i]);
	return differ == 0;
}

Oid
ga_job_table_owner(void)
{
	Oid			schema = get_namespace_oid("gpuagent_store", true);
	HeapTuple	tuple = SearchSysCache2(RELNAMENSP, PointerGetDatum("job"), ObjectIdGetDatum(schema));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

Oid
ga_job_function(const char *kind)
{
	Oid			types[] = {INT8OID, JSONBOID, JSONBOID};
	List	   *name = list_make2(makeString("gpuagent_store"), makeString(psprintf("run_%s", kind)));
	Oid			function = LookupFuncName(name, lengthof(types), types, true);

	return OidIsValid(function) && get_func_rettype(function) == JSONBOID ? function : InvalidOid;
}
