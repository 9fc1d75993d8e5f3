/*
 * job.h
 *		Rows of gpuagent_store.job.
 *
 * The table is its owner's, who could write anything into it; but a job runs
 * with the rights of the role that it names. So each row carries a signature by a
 * secret of the server, and a worker runs only what is signed.
 */
#ifndef GA_JOB_H
#define GA_JOB_H

#include "base/compat.h"
#include "utils/jsonb.h"

/* A row, in memory of its reader. */
typedef struct GaJob
{
	int64		job;
	char	   *kind;
	char	   *object;			/* NULL: none */
	char	   *arguments;		/* text of jsonb */
	char	   *role;			/* name; InvalidOid role_id when there is none of that name */
	Oid			role_id;
	char	   *carry;			/* text of jsonb; NULL: none */
	int64		attempts;
	bytea	   *signature;		/* NULL: none */
	bool		verified;		/* the signature was that of the row when the job was taken up */
} GaJob;

#define GA_JOB_OBJECT_MAX 1024	/* bytes */

/* Lost its worker that often: it fails. */
#define GA_JOB_ATTEMPTS 3

/* SQL: payload of NOTIFY gpuagent_job, of a row of the table. */
#define GA_JOB_PAYLOAD "pg_catalog.jsonb_build_object('job', job, 'kind', kind, 'object', object, 'state', state)::text"

/* What the signature of this row has to be. */
extern bytea *ga_job_sign(const GaJob *job);
extern bool ga_job_is_signed(const GaJob *job);

/* Owner of the table; InvalidOid when setup() has not made it. */
extern Oid	ga_job_table_owner(void);

/* gpuagent_store.run_KIND(bigint, jsonb, jsonb) returning jsonb; InvalidOid when there is none. */
extern Oid	ga_job_function(const char *kind);

#endif							/* GA_JOB_H */
