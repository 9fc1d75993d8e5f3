/*
 * access.c
 *		Shape, elements and parts of a tensor. Positions are 1-based.
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "math/distance.h"
#include "type/type.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(ga_shape);
Datum
ga_shape(PG_FUNCTION_ARGS)
{
	GaView		view;

	ga_view_header(PG_GETARG_DATUM(0), &view);
	PG_RETURN_DATUM(ga_shape_to_array(view.ndim, view.dims));
}

PG_FUNCTION_INFO_V1(ga_ndim);
Datum
ga_ndim(PG_FUNCTION_ARGS)
{
	GaView		view;

	ga_view_header(PG_GETARG_DATUM(0), &view);
	PG_RETURN_INT64(view.ndim);
}

PG_FUNCTION_INFO_V1(ga_dtype);
Datum
ga_dtype(PG_FUNCTION_ARGS)
{
	GaView		view;

	ga_view_header(PG_GETARG_DATUM(0), &view);
	PG_RETURN_TEXT_P(cstring_to_text(ga_dtype_name(view.dtype)));
}

PG_FUNCTION_INFO_V1(ga_nbytes);
Datum
ga_nbytes(PG_FUNCTION_ARGS)
{
	GaView		view;

	ga_view_header(PG_GETARG_DATUM(0), &view);
	PG_RETURN_INT64(view.nbytes);
}

PG_FUNCTION_INFO_V1(ga_vector_dims);
Datum
ga_vector_dims(PG_FUNCTION_ARGS)
{
	GaView		view;

	ga_view_header(PG_GETARG_DATUM(0), &view);
	PG_RETURN_INT64(view.nelem);
}

/* NaN or infinity anywhere; false for dtypes that have neither. */
PG_FUNCTION_INFO_V1(ga_has_nonfinite_sql);
Datum
ga_has_nonfinite_sql(PG_FUNCTION_ARGS)
{
	GaView		view;

	GA_GETARG_VIEW(0, &view);
	if (ga_dtype_info(view.dtype)->cls == GA_CLASS_OPAQUE)
		ga_require_float(view.dtype, "has_nonfinite");
	PG_RETURN_BOOL(ga_dtype_info(view.dtype)->cls == GA_CLASS_FLOAT &&
				   ga_has_nonfinite(view.dtype, view.data, view.nelem));
}

/* element(T, VARIADIC position bigint[]) float8: one position per dimension; NULL outside, like an array. */
PG_FUNCTION_INFO_V1(ga_element);
Datum
ga_element(PG_FUNCTION_ARGS)
{
	ArrayType  *positions = PG_GETARG_ARRAYTYPE_P(1);
	GaView		view;
	uint64		index = 0;
	int			n = ARR_NDIM(positions) == 0 ? 0 : ARR_DIMS(positions)[0];
	double		result;

	GA_GETARG_VIEW(0, &view);
	if (ARR_NDIM(positions) > 1 || array_contains_nulls(positions) || n != view.ndim)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%d positions are needed for shape %s", view.ndim, ga_shape_text(view.ndim, view.dims))));
	for (int i = 0; i < n; i++)
	{
		int64		position = ((int64 *) ARR_DATA_PTR(positions))[i];

		if (position < 1 || position > view.dims[i])
			PG_RETURN_NULL();
		index = index * view.dims[i] + (position - 1);
	}
	if (ga_dtype_info(view.dtype)->cls == GA_CLASS_OPAQUE)
		ga_require_float(view.dtype, "element");
	ga_convert(view.dtype, view.data + index * ga_dtype_info(view.dtype)->width, GA_F64, (char *) &result, 1, NULL);
	PG_RETURN_FLOAT8(result);
}

/* Clips 1-based [start, start + count) to [1, n], as substring does; 22023 for a negative count. */
static void
clip_range(int64 start, int64 count, int64 n, int64 *first, int64 *length)
{
	int64		end;
	bool		unbounded;

	if (count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("count must not be negative")));
	unbounded = __builtin_add_overflow(start, count, &end);
	start = Max(start, 1);
	*first = Min(start - 1, n);
	*length = n - *first;
	if (!unbounded)
		*length = Min(*length, Max(end, start) - start);
}

/* Copies rows [first, first + length) of dimension 0. */
static GaTensor *
copy_rows(const GaKind *kind, const GaView *view, int64 first, int64 length)
{
	int64		dims[GA_MAX_RANK];
	uint64		nelem,
				nbytes;
	uint64		row_bits;
	GaTensor   *tensor;
	char	   *data;

	memcpy(dims, view->dims, sizeof(dims[0]) * view->ndim);
	dims[0] = length;
	row_bits = view->dims[0] == 0 ? 0 : view->nelem / view->dims[0] * ga_dtype_info(view->dtype)->bits;
	if (first * row_bits % 8 != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows of packed dtype %s do not begin on whole bytes here", ga_dtype_name(view->dtype))));
	ga_kind_check(kind, view->dtype, view->ndim, dims, &nelem, &nbytes, NULL);
	tensor = ga_tensor_new(kind, view->dtype, view->ndim, dims, &data);
	memcpy(data, view->data + first * row_bits / 8, nbytes);
	return ga_tensor_seal(kind, tensor, NULL);
}

/* slice(T, start, count) T: rows of dimension 0, clipped to what is there. */
static Datum
slice(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;
	int64		first,
				length;

	GA_GETARG_VIEW(0, &view);
	if (view.ndim == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("a tensor of rank 0 has no rows")));
	clip_range(PG_GETARG_INT64(1), PG_GETARG_INT64(2), view.dims[0], &first, &length);
	PG_RETURN_POINTER(copy_rows(kind, &view, first, length));
}

GA_PER_KIND(slice, slice);

/* subvector(T, start, count) T: a slice of a vector. */
static Datum
subvector(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;
	int64		first,
				length;

	GA_GETARG_VIEW(0, &view);
	if (view.ndim != 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("subvector needs a vector, not shape %s", ga_shape_text(view.ndim, view.dims)),
				 errhint("Use gpuagent.slice() for rows of a matrix.")));
	clip_range(PG_GETARG_INT64(1), PG_GETARG_INT64(2), view.dims[0], &first, &length);
	PG_RETURN_POINTER(copy_rows(kind, &view, first, length));
}

GA_PER_KIND(subvector, subvector);

static Datum
astype(FunctionCallInfo fcinfo, const GaKind *kind)
{
	text	   *name = PG_GETARG_TEXT_PP(1);
	GaView		view;

	GA_GETARG_VIEW(0, &view);
	PG_RETURN_POINTER(ga_tensor_astype(kind, &view, ga_dtype_from_text(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name))));
}

GA_PER_KIND(astype, astype);

/* reshape(T, shape) T: as many elements in another shape; one -1 is inferred, as in NumPy. */
static Datum
reshape(FunctionCallInfo fcinfo, const GaKind *kind)
{
	GaView		view;
	int64		dims[GA_MAX_RANK];
	int			ndim = ga_shape_from_array(PG_GETARG_DATUM(1), dims);
	int			inferred = -1;
	uint64		known = 1;
	uint64		nelem,
				nbytes;

	GA_GETARG_VIEW(0, &view);
	for (int i = 0; i < ndim; i++)
	{
		if (dims[i] == -1 && inferred < 0)
			inferred = i;
		else if (dims[i] < 0 || __builtin_mul_overflow(known, (uint64) dims[i], &known))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid shape %s", ga_shape_text(ndim, dims))));
	}
	if (inferred >= 0 && known != 0 && view.nelem % known == 0)
		dims[inferred] = view.nelem / known;
	if (!ga_shape_size(view.dtype, ndim, dims, &nelem, &nbytes) || nelem != view.nelem)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("cannot reshape %s to %s", ga_shape_text(view.ndim, view.dims), ga_shape_text(ndim, dims))));
	view.ndim = ndim;
	memcpy(view.dims, dims, sizeof(int64) * ndim);
	PG_RETURN_POINTER(ga_tensor_from_view(kind, &view));
}

GA_PER_KIND(reshape, reshape);
