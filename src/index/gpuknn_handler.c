/*
 * gpuknn_handler.c
 *		What the access method is, and what its operator classes tell it.
 */
#include "base/compat.h"

#include "commands/progress.h"
#include "commands/vacuum.h"
#include "index/gpuknn.h"
#include "tensor/tensor.h"
#include "type/type.h"

static char *
build_phase_name(int64 phase)
{
	switch (phase)
	{
		case PROGRESS_CREATEIDX_SUBPHASE_INITIALIZE:
			return "initializing";
		case GPUKNN_PHASE_SCAN:
			return "scanning table";
		default:
			return NULL;
	}
}

static bool
property(Oid index, int attribute, IndexAMProperty property, const char *name, bool *result, bool *isnull)
{
	if (property != AMPROP_DISTANCE_ORDERABLE || attribute == 0)
		return false;
	*result = true;
	return true;
}

PG_FUNCTION_INFO_V1(gpuknn_handler);
Datum
gpuknn_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am = makeNode(IndexAmRoutine);

	am->amstrategies = 1;
	am->amsupport = GPUKNN_NPROCS;
	am->amcanorderbyop = true;
	am->amoptionalkey = true;
	ga_am_builds_in_parallel(am);
	am->amparallelvacuumoptions = VACUUM_OPTION_PARALLEL_BULKDEL;
	am->amkeytype = InvalidOid;

	am->ambuild = gpuknn_build;
	am->ambuildempty = gpuknn_build_empty;
	am->aminsert = gpuknn_insert;
	am->ambulkdelete = gpuknn_bulk_delete;
	am->amvacuumcleanup = gpuknn_vacuum_cleanup;
	am->amcostestimate = gpuknn_cost_estimate;
	am->amoptions = gpuknn_options;
	am->amproperty = property;
	am->ambuildphasename = build_phase_name;
	am->amvalidate = gpuknn_validate;
	am->ambeginscan = gpuknn_begin_scan;
	am->amrescan = gpuknn_rescan;
	am->amgettuple = gpuknn_next;
	am->amendscan = gpuknn_end_scan;
	PG_RETURN_POINTER(am);
}

void
gpuknn_class(Relation index, GpuknnClass *class)
{
	memset(class, 0, sizeof(*class));
	for (int proc = 1; proc <= GPUKNN_NPROCS; proc++)
		FunctionCall1(index_getprocinfo(index, 1, proc), PointerGetDatum(class));
}

void
gpuknn_encode(const GpuknnClass *class, const GpuknnShape *shape, Datum value, GaKnnRow *record)
{
	GpuknnVector vector;

	class->vector(value, &vector);
	if (vector.dim != shape->dim)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected %zu dimensions, not %zu", shape->dim, vector.dim),
				 errdetail("All vectors of a gpuknn index have the same number of dimensions.")));
	ga_knn_encode(shape->metric, shape->storage, vector.dtype, vector.data, vector.dim, record);
}

/* ----- support functions of our own operator classes ----- */

#define METRIC(name, value) \
PG_FUNCTION_INFO_V1(name); \
Datum \
name(PG_FUNCTION_ARGS) \
{ \
	GpuknnClass *class = (GpuknnClass *) PG_GETARG_POINTER(0); \
	class->metric = value; \
	class->sums = GA_KNN_SUMS_CANONICAL; \
	PG_RETURN_VOID(); \
} \
extern int	ga_entry_dummy

METRIC(gpuknn_metric_l2, GA_METRIC_L2);
METRIC(gpuknn_metric_ip, GA_METRIC_IP);
METRIC(gpuknn_metric_cosine, GA_METRIC_COSINE);
METRIC(gpuknn_metric_l1, GA_METRIC_L1);

/* A value of ours is its elements in row-major order, as for the operators. */
static void
tensor_vector(Datum value, GpuknnVector *vector)
{
	GaView		view;

	ga_view(value, &view);
	ga_require_float(view.dtype, "a distance");
	vector->dtype = view.dtype;
	vector->dim = view.nelem;
	vector->data = view.data;
}

static void
tensor_mismatch(size_t column, size_t query)
{
	GaView		a = {.nelem = column};
	GaView		b = {.nelem = query};

	ga_same_length(&a, &b);
}

static int
embedding_dim(int32 typmod)
{
	return typmod > 0 ? GA_TYPMOD_DIM(typmod) : 0;
}

static int
no_dim(int32 typmod)
{
	return 0;
}

static Datum
tensor_type(FunctionCallInfo fcinfo, int (*typmod_dim) (int32 typmod))
{
	GpuknnClass *class = (GpuknnClass *) PG_GETARG_POINTER(0);

	class->vector = tensor_vector;
	class->typmod_dim = typmod_dim;
	class->mismatch = tensor_mismatch;
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(gpuknn_type_embedding);
Datum
gpuknn_type_embedding(PG_FUNCTION_ARGS)
{
	return tensor_type(fcinfo, embedding_dim);
}

PG_FUNCTION_INFO_V1(gpuknn_type_agent_state);
Datum
gpuknn_type_agent_state(PG_FUNCTION_ARGS)
{
	return tensor_type(fcinfo, no_dim);
}
