/*
 * cast.c
 *		Casts: arrays and bytea to and from the three types, and among them.
 *
 * An array cast goes straight to the dtype of the typmod, with one rounding.
 * Without one real[] and numeric[] give F32, double precision[] F64, smallint[]
 * I16, integer[] I32, bigint[] I64; for embedding, which holds none of these, all give F32.
 * SQL calls each with (value, typmod, explicit).
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "type/type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

/* Doubles below this hold every integer exactly. */
#define MAX_EXACT_INTEGER 9007199254740992.0

/* The dtype that an array element type becomes; embedding takes floats of 32 bits at most. */
static int
array_dtype(const GaKind *kind, Oid elemtype)
{
	switch (elemtype)
	{
		case FLOAT4OID:
			return GA_F32;
		case FLOAT8OID:
			return kind->floats_only ? GA_F32 : GA_F64;
		case INT2OID:
			return kind->floats_only ? GA_F32 : GA_I16;
		case INT4OID:
			return kind->floats_only ? GA_F32 : GA_I32;
		case INT8OID:
			return kind->floats_only ? GA_F32 : GA_I64;
		case NUMERICOID:
			return GA_F32;
	}
	elog(ERROR, "unsupported array element type %u", elemtype);
}

/* Writes numeric elements, each rounded once; 22003 out of range. */
static void
convert_numerics(ArrayType *array, int dtype, char *data)
{
	GaDtypeClass cls = ga_dtype_info(dtype)->cls;
	Datum	   *elems;
	int			n;

	deconstruct_array(array, NUMERICOID, -1, false, TYPALIGN_INT, &elems, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *dst = data + (Size) i * ga_dtype_info(dtype)->width;
		double		value;

		GA_CHECK_INTERRUPTS(i);
		if (dtype == GA_F32)
		{
			*(float *) dst = DatumGetFloat4(DirectFunctionCall1(numeric_float4, elems[i]));
			continue;
		}
		value = DatumGetFloat8(DirectFunctionCall1(numeric_float8, elems[i]));
		if (cls != GA_CLASS_FLOAT && fabs(value) >= MAX_EXACT_INTEGER)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("numeric value %.17g at element %d is not converted to %s", value, i + 1, ga_dtype_name(dtype)),
					 errhint("Cast to bigint[] first.")));
		ga_convert(GA_F64, (char *) &value, dtype, dst, 1, NULL);
	}
}

static int
array_source_dtype(Oid elemtype)
{
	switch (elemtype)
	{
		case FLOAT4OID:
			return GA_F32;
		case FLOAT8OID:
			return GA_F64;
		case INT2OID:
			return GA_I16;
		case INT4OID:
			return GA_I32;
		default:
			Assert(elemtype == INT8OID);
			return GA_I64;
	}
}

static Datum
array_to_tensor(FunctionCallInfo fcinfo, const GaKind *kind)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	int32		typmod = PG_GETARG_INT32(1);
	int			dtype = ga_typmod_dtype(typmod) ? ga_typmod_dtype(typmod)
		: array_dtype(kind, ARR_ELEMTYPE(array));
	int64		dims[GA_MAX_RANK] = {0};
	int			ndim = ARR_NDIM(array);
	uint64		nelem,
				nbytes;
	GaTensor   *tensor;
	char	   *data;

	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("array must not contain NULLs")));
	for (int i = 0; i < ndim; i++)
		dims[i] = ARR_DIMS(array)[i];
	if (ndim == 0)
		ndim = 1;				/* '{}' is an empty vector */
	ga_check_dim(kind, ndim, dims, typmod, NULL);
	ga_kind_check(kind, dtype, ndim, dims, &nelem, &nbytes, NULL);
	if (ga_dtype_info(dtype)->cls == GA_CLASS_OPAQUE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an array cannot be converted to dtype %s", ga_dtype_name(dtype)),
				 errhint("Cast raw elements from bytea instead.")));
	tensor = ga_tensor_new(kind, dtype, ndim, dims, &data);
	if (ARR_ELEMTYPE(array) == NUMERICOID)
		convert_numerics(array, dtype, data);
	else
		ga_convert(array_source_dtype(ARR_ELEMTYPE(array)), ARR_DATA_PTR(array), dtype, data, nelem, NULL);
	GA_RETURN(kind, tensor);
}

GA_PER_KIND(from_array, array_to_tensor);

/* Shared by the two directions: dims of an SQL array; rank 0 becomes one element, empty becomes '{}'. */
static ArrayType *
make_array(const GaView *view, Oid elemtype, int dtype, int width)
{
	int			dims[GA_MAX_RANK];
	int			lbs[GA_MAX_RANK];
	int			ndim = Max(view->ndim, 1);
	ArrayType  *array;
	Size		overhead;
	Size		size;

	if (view->nelem == 0)
		return construct_empty_array(elemtype);
	if (ndim > MAXDIM || view->nelem > MaxArraySize || view->nelem * width > MaxAllocSize - ARR_OVERHEAD_NONULLS(MAXDIM))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("shape %s does not fit an array", ga_shape_text(view->ndim, view->dims)),
				 errdetail("Arrays have at most %d dimensions and less than 1 GB.", MAXDIM)));
	for (int i = 0; i < ndim; i++)
	{
		dims[i] = view->ndim == 0 ? 1 : (int) view->dims[i];
		lbs[i] = 1;
	}
	overhead = ARR_OVERHEAD_NONULLS(ndim);
	size = overhead + view->nelem * width;
	array = palloc0(size);
	SET_VARSIZE(array, size);
	array->ndim = ndim;
	array->dataoffset = 0;
	array->elemtype = elemtype;
	memcpy(ARR_DIMS(array), dims, ndim * sizeof(int));
	memcpy(ARR_LBOUND(array), lbs, ndim * sizeof(int));
	ga_convert(view->dtype, view->data, dtype, ARR_DATA_PTR(array), view->nelem, NULL);
	return array;
}

#define TO_ARRAY(name, oid, dtype, width) \
PG_FUNCTION_INFO_V1(name); \
Datum \
name(PG_FUNCTION_ARGS) \
{ \
	GaView		view; \
\
	GA_GETARG_VIEW(0, &view); \
	PG_RETURN_ARRAYTYPE_P(make_array(&view, oid, dtype, width)); \
} \
extern int	ga_entry_dummy

TO_ARRAY(ga_to_float4_array, FLOAT4OID, GA_F32, 4);
TO_ARRAY(ga_to_float8_array, FLOAT8OID, GA_F64, 8);
TO_ARRAY(ga_to_int4_array, INT4OID, GA_I32, 4);
TO_ARRAY(ga_to_int8_array, INT8OID, GA_I64, 8);

/* Raw little-endian elements as bytea; also tensor_bytes(). */
PG_FUNCTION_INFO_V1(ga_to_bytea);
Datum
ga_to_bytea(PG_FUNCTION_ARGS)
{
	GaView		view;
	bytea	   *result;

	GA_GETARG_VIEW(0, &view);
	result = palloc(VARHDRSZ + view.nbytes);
	SET_VARSIZE(result, VARHDRSZ + view.nbytes);
	memcpy(VARDATA(result), view.data, view.nbytes);
	PG_RETURN_BYTEA_P(result);
}

/* bytea -> T: raw elements of the typmod's dtype, F32 without one; one dimension. */
static Datum
bytea_to_tensor(FunctionCallInfo fcinfo, const GaKind *kind)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	int32		typmod = PG_GETARG_INT32(1);
	int			dtype = ga_typmod_dtype(typmod) ? ga_typmod_dtype(typmod) : GA_F32;
	Size		nbytes = VARSIZE_ANY_EXHDR(bytes);
	int			bits = ga_dtype_info(dtype)->bits;
	int64		dim = nbytes * 8 / bits;
	GaTensor   *tensor;
	char	   *data;

	if (nbytes * 8 % bits != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("%zu bytes are not a whole number of %s elements", nbytes, ga_dtype_name(dtype))));
	ga_check_dim(kind, 1, &dim, typmod, NULL);
	tensor = ga_tensor_new(kind, dtype, 1, &dim, &data);
	memcpy(data, VARDATA_ANY(bytes), nbytes);
	GA_RETURN(kind, tensor);
}

GA_PER_KIND(from_bytea, bytea_to_tensor);

/* Among the three types: same dtype and shape, checked against the target's limits. */
static Datum
tensor_to_tensor(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;

	GA_GETARG_VIEW(0, &view);
	PG_RETURN_POINTER(ga_coerce(kind, &view, PG_GETARG_INT32(1)));
}

GA_PER_KIND(from_tensor, tensor_to_tensor);

/* tensor(dtype text, shape bigint[], data bytea) swarm_tensor */
PG_FUNCTION_INFO_V1(ga_tensor);
Datum
ga_tensor(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);
	int			dtype = ga_dtype_from_text(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	int64		dims[GA_MAX_RANK];
	int			ndim = ga_shape_from_array(PG_GETARG_DATUM(1), dims);
	bytea	   *bytes = PG_GETARG_BYTEA_PP(2);
	uint64		nelem,
				nbytes;
	GaTensor   *tensor;
	char	   *data;

	ga_kind_check(&ga_kind_swarm_tensor, dtype, ndim, dims, &nelem, &nbytes, NULL);
	if (nbytes != VARSIZE_ANY_EXHDR(bytes))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("data has %zu bytes, %s%s takes " UINT64_FORMAT, VARSIZE_ANY_EXHDR(bytes),
						ga_dtype_name(dtype), ga_shape_text(ndim, dims), nbytes)));
	tensor = ga_tensor_new(&ga_kind_swarm_tensor, dtype, ndim, dims, &data);
	memcpy(data, VARDATA_ANY(bytes), nbytes);
	GA_RETURN(&ga_kind_swarm_tensor, tensor);
}

/* compress(swarm_tensor) swarm_tensor: the same value, stored smaller when that gains 2 %. */
PG_FUNCTION_INFO_V1(ga_compress_value);
Datum
ga_compress_value(PG_FUNCTION_ARGS)
{
	GaTensor   *tensor = (GaTensor *) PG_DETOAST_DATUM(PG_GETARG_DATUM(0));
	GaView		view;

	ga_view(PointerGetDatum(tensor), &view);	/* verifies before the copy is made */
	PG_RETURN_POINTER(ga_tensor_compress(tensor, 1));
}
