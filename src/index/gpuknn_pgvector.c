/*
 * gpuknn_pgvector.c
 *		Support functions of the operator classes for pgvector's vector and
 *		halfvec, which the extension gpuagent_pgvector makes. Its operators sum in
 *		F32 in whatever order its compiler chose, so what the index computes is
 *		always a bound, which the executor checks with pgvector's own function.
 */
#include "base/compat.h"

#include "index/gpuknn.h"
#include "type/pgvector.h"

#define METRIC_F32(name, value) \
PG_FUNCTION_INFO_V1(name); \
Datum \
name(PG_FUNCTION_ARGS) \
{ \
	GpuknnClass *class = (GpuknnClass *) PG_GETARG_POINTER(0); \
	class->metric = value; \
	class->sums = GA_KNN_SUMS_F32; \
	PG_RETURN_VOID(); \
} \
extern int	ga_entry_dummy

METRIC_F32(gpuknn_metric_l2_f32, GA_METRIC_L2);
METRIC_F32(gpuknn_metric_ip_f32, GA_METRIC_IP);
METRIC_F32(gpuknn_metric_cosine_f32, GA_METRIC_COSINE);
METRIC_F32(gpuknn_metric_l1_f32, GA_METRIC_L1);

/* Both types are aligned to 4 bytes only. */
static void
pgvector_vector(Datum value, const GaPgvectorKind *kind, GpuknnVector *vector)
{
	const GaPgvector *source = ga_pgvector_get(value, kind);

	vector->dtype = kind->dtype;
	vector->dim = source->dim;
	vector->data = source->elements;
	if ((uintptr_t) vector->data % 8 != 0)
		vector->data = memcpy(palloc(source->dim * kind->width + 1), source->elements, source->dim * kind->width);
}

static void
vector_vector(Datum value, GpuknnVector *vector)
{
	pgvector_vector(value, &ga_pgvector_vector, vector);
}

static void
halfvec_vector(Datum value, GpuknnVector *vector)
{
	pgvector_vector(value, &ga_pgvector_halfvec, vector);
}

/* In pgvector's words. */
static void
pgvector_mismatch(const GaPgvectorKind *kind, size_t column, size_t query)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_EXCEPTION),
			 errmsg("different %s dimensions %zu and %zu", kind->name, column, query)));
}

static void
vector_mismatch(size_t column, size_t query)
{
	pgvector_mismatch(&ga_pgvector_vector, column, query);
}

static void
halfvec_mismatch(size_t column, size_t query)
{
	pgvector_mismatch(&ga_pgvector_halfvec, column, query);
}

static int
pgvector_dim(int32 typmod)
{
	return typmod > 0 ? typmod : 0;
}

PG_FUNCTION_INFO_V1(gpuknn_type_vector);
Datum
gpuknn_type_vector(PG_FUNCTION_ARGS)
{
	GpuknnClass *class = (GpuknnClass *) PG_GETARG_POINTER(0);

	class->vector = vector_vector;
	class->typmod_dim = pgvector_dim;
	class->mismatch = vector_mismatch;
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(gpuknn_type_halfvec);
Datum
gpuknn_type_halfvec(PG_FUNCTION_ARGS)
{
	GpuknnClass *class = (GpuknnClass *) PG_GETARG_POINTER(0);

	class->vector = halfvec_vector;
	class->typmod_dim = pgvector_dim;
	class->mismatch = halfvec_mismatch;
	PG_RETURN_VOID();
}
