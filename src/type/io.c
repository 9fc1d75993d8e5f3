/*
 * io.c
 *		Input, output, wire and typmod functions of embedding, agent_state and
 *		swarm_tensor.
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "type/type.h"
#include "utils/array.h"
#include "utils/builtins.h"

bool
ga_check_dim(const GaKind *kind, int ndim, const int64 *dims, int32 typmod, Node *escontext)
{
	int			dim = typmod > 0 ? GA_TYPMOD_DIM(typmod) : 0;

	if (dim != 0 && ndim != 1)
		ereturn(escontext, false,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected a vector of %d dimensions, not shape %s", dim, ga_shape_text(ndim, dims))));
	if (dim != 0 && dims[0] != dim)
		ereturn(escontext, false,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("expected %d dimensions, not " INT64_FORMAT, dim, dims[0])));
	return true;
}

GaTensor *
ga_coerce(const GaKind *kind, const GaView *view, int32 typmod)
{
	int			dtype = ga_typmod_dtype(typmod);

	ga_check_dim(kind, view->ndim, view->dims, typmod, NULL);
	return ga_tensor_astype(kind, view, dtype ? dtype : view->dtype);
}

/* Applies the typmod to a fresh value: NULL after a soft error. */
static GaTensor *
apply_typmod(const GaKind *kind, GaTensor *tensor, int32 typmod, Node *escontext)
{
	int			dtype = ga_typmod_dtype(typmod);
	GaView		view;
	uint64		nelem,
				nbytes;
	GaTensor   *result;
	char	   *data;

	if (tensor == NULL || typmod <= 0)
		return tensor;
	if (!ga_check_dim(kind, tensor->ndim, tensor->dims, typmod, escontext))
		return NULL;
	if (dtype == 0 || tensor->dtype == dtype)
		return tensor;
	if (!ga_kind_check(kind, dtype, tensor->ndim, tensor->dims, &nelem, &nbytes, escontext))
		return NULL;
	ga_view(PointerGetDatum(tensor), &view);
	result = ga_tensor_new(kind, dtype, view.ndim, view.dims, &data);
	if (!ga_convert(view.dtype, view.data, dtype, data, view.nelem, escontext))
		return NULL;
	return ga_tensor_seal(kind, result, escontext);
}

static Datum
type_in(FunctionCallInfo fcinfo, const GaKind *kind)
{
	char	   *text = PG_GETARG_CSTRING(0);
	int32		typmod = PG_GETARG_INT32(2);
	Node	   *escontext = GA_ESCONTEXT(fcinfo);
	GaTensor   *tensor;

	tensor = apply_typmod(kind, ga_tensor_parse(kind, text, typmod, escontext), typmod, escontext);
	if (tensor == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(tensor);
}

static Datum
type_out(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;

	GA_GETARG_VIEW(0, &view);
	PG_RETURN_CSTRING(ga_tensor_print(kind, &view));
}

static Datum
type_recv(FunctionCallInfo fcinfo, const GaKind *kind)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int32		typmod = PG_GETARG_INT32(2);

	PG_RETURN_POINTER(apply_typmod(kind, ga_tensor_recv(kind, buf), typmod, NULL));
}

static Datum
type_send(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;

	GA_GETARG_VIEW(0, &view);
	PG_RETURN_BYTEA_P(ga_tensor_send(&view));
}

/* The length coercion cast: T -> T with a typmod. */
static Datum
type_coerce(FunctionCallInfo fcinfo, const GaKind *kind)
{
	int32		typmod = PG_GETARG_INT32(1);
	int			dtype = ga_typmod_dtype(typmod);
	GaView		view;

	if (typmod <= 0)
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	ga_view_header(PG_GETARG_DATUM(0), &view);
	ga_check_dim(kind, view.ndim, view.dims, typmod, NULL);
	if (dtype == 0 || dtype == view.dtype)
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	GA_GETARG_VIEW(0, &view);
	PG_RETURN_POINTER(ga_coerce(kind, &view, typmod));
}

GA_PER_KIND(in, type_in);
GA_PER_KIND(out, type_out);
GA_PER_KIND(recv, type_recv);
GA_PER_KIND(send, type_send);
GA_PER_KIND(coerce, type_coerce);

/* "(384)" and "(384,F16)" */
PG_FUNCTION_INFO_V1(embedding_typmod_in);
Datum
embedding_typmod_in(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	Datum	   *elems;
	int			n;
	char	   *dim_text;
	char	   *end;
	long		dim;
	int			dtype = GA_F32;

	deconstruct_array(array, CSTRINGOID, -2, false, TYPALIGN_CHAR, &elems, NULL, &n);
	if (n < 1 || n > 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid type modifier for embedding"),
				 errhint("Write embedding(dim) or embedding(dim, dtype).")));
	dim_text = DatumGetCString(elems[0]);
	errno = 0;
	dim = strtol(dim_text, &end, 10);
	if (errno || end == dim_text || *end != '\0' || dim < 1 || dim > ga_kind_embedding.max_dim)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dimension of embedding must be between 1 and %d, not \"%s\"",
						(int) ga_kind_embedding.max_dim, dim_text)));
	if (n == 2)
	{
		dtype = ga_dtype_from_text(DatumGetCString(elems[1]), strlen(DatumGetCString(elems[1])));
		if (dtype != GA_F32 && dtype != GA_F16 && dtype != GA_BF16)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("embedding cannot hold dtype %s", ga_dtype_name(dtype)),
					 errhint("Use F32, F16 or BF16.")));
	}
	PG_RETURN_INT32(dtype << 17 | (int32) dim);
}

PG_FUNCTION_INFO_V1(embedding_typmod_out);
Datum
embedding_typmod_out(PG_FUNCTION_ARGS)
{
	int32		typmod = PG_GETARG_INT32(0);
	int			dtype;

	if (typmod <= 0)
		PG_RETURN_CSTRING(pstrdup(""));
	dtype = ga_typmod_dtype(typmod);
	if (dtype == 0 || dtype == GA_F32)
		PG_RETURN_CSTRING(psprintf("(%d)", GA_TYPMOD_DIM(typmod)));
	PG_RETURN_CSTRING(psprintf("(%d,%s)", GA_TYPMOD_DIM(typmod), ga_dtype_name(dtype)));
}

/* "(F16)", for agent_state and swarm_tensor */
PG_FUNCTION_INFO_V1(ga_dtype_typmod_in);
Datum
ga_dtype_typmod_in(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	Datum	   *elems;
	int			n;

	deconstruct_array(array, CSTRINGOID, -2, false, TYPALIGN_CHAR, &elems, NULL, &n);
	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid type modifier"),
				 errhint("Write agent_state(dtype) or swarm_tensor(dtype).")));
	PG_RETURN_INT32(ga_dtype_from_text(DatumGetCString(elems[0]), strlen(DatumGetCString(elems[0]))) << 17);
}

PG_FUNCTION_INFO_V1(ga_dtype_typmod_out);
Datum
ga_dtype_typmod_out(PG_FUNCTION_ARGS)
{
	int32		typmod = PG_GETARG_INT32(0);

	if (ga_typmod_dtype(typmod) == 0)
		PG_RETURN_CSTRING(pstrdup(""));
	PG_RETURN_CSTRING(psprintf("(%s)", ga_dtype_name(ga_typmod_dtype(typmod))));
}
