/*
 * pgvector.c
 *		Casts between our types and pgvector's, for the extension gpuagent_pgvector.
 */
#include "type/pgvector.h"

#include "math/distance.h"
#include "type/type.h"

const GaPgvectorKind ga_pgvector_vector = {"vector", GA_F32, sizeof(float)};
const GaPgvectorKind ga_pgvector_halfvec = {"halfvec", GA_F16, sizeof(uint16)};

const GaPgvector *
ga_pgvector_get(Datum value, const GaPgvectorKind *kind)
{
	const GaPgvector *vector = (const GaPgvector *) PG_DETOAST_DATUM(value);

	if (VARSIZE(vector) < offsetof(GaPgvector, elements) || vector->dim < 0 ||
		VARSIZE(vector) != offsetof(GaPgvector, elements) + (size_t) vector->dim * kind->width)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("value of type %s is damaged", kind->name),
				 errdetail("It has %d dimensions in %zu bytes.", vector->dim, (size_t) VARSIZE(vector))));
	return vector;
}

/* (value, typmod, explicit) */
static Datum
from_pgvector(FunctionCallInfo fcinfo, const GaKind *kind, const GaPgvectorKind *from)
{
	const GaPgvector *vector = ga_pgvector_get(PG_GETARG_DATUM(0), from);
	int32		typmod = PG_GETARG_INT32(1);
	int			dtype = ga_typmod_dtype(typmod) ? ga_typmod_dtype(typmod) : from->dtype;
	int64		dims[GA_MAX_RANK] = {vector->dim};
	GaTensor   *tensor;
	char	   *data;

	ga_check_dim(kind, 1, dims, typmod, NULL);
	if (ga_dtype_info(dtype)->cls == GA_CLASS_OPAQUE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a %s cannot be converted to dtype %s", from->name, ga_dtype_name(dtype))));
	tensor = ga_tensor_new(kind, dtype, 1, dims, &data);
	ga_convert(from->dtype, vector->elements, dtype, data, vector->dim, NULL);
	GA_RETURN(kind, tensor);
}

static Datum
from_vector(FunctionCallInfo fcinfo, const GaKind *kind)
{
	return from_pgvector(fcinfo, kind, &ga_pgvector_vector);
}

static Datum
from_halfvec(FunctionCallInfo fcinfo, const GaKind *kind)
{
	return from_pgvector(fcinfo, kind, &ga_pgvector_halfvec);
}

GA_PER_KIND(from_vector, from_vector);
GA_PER_KIND(from_halfvec, from_halfvec);

/* Elements in row-major order, whatever the shape; each rounded once, 22003 out of range. */
static Datum
to_pgvector(FunctionCallInfo fcinfo, const GaPgvectorKind *to)
{
	GaPgvector *vector;
	size_t		size;
	GaView		view;

	GA_GETARG_VIEW(0, &view);
	if (view.nelem < 1 || view.nelem > GA_PGVECTOR_MAX_DIM)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("shape %s does not fit type %s", ga_shape_text(view.ndim, view.dims), to->name),
				 errdetail("A %s has 1 to %d elements.", to->name, GA_PGVECTOR_MAX_DIM)));
	size = offsetof(GaPgvector, elements) + view.nelem * to->width;
	vector = palloc0(size);
	SET_VARSIZE(vector, size);
	vector->dim = (int16) view.nelem;
	ga_convert(view.dtype, view.data, to->dtype, vector->elements, view.nelem, NULL);
	if (ga_has_nonfinite(to->dtype, vector->elements, view.nelem))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("NaN and infinite values are not allowed in type %s", to->name)));
	PG_RETURN_POINTER(vector);
}

PG_FUNCTION_INFO_V1(ga_to_vector);
Datum
ga_to_vector(PG_FUNCTION_ARGS)
{
	return to_pgvector(fcinfo, &ga_pgvector_vector);
}

PG_FUNCTION_INFO_V1(ga_to_halfvec);
Datum
ga_to_halfvec(PG_FUNCTION_ARGS)
{
	return to_pgvector(fcinfo, &ga_pgvector_halfvec);
}
