/*
 * rows.c
 *		Aligned array arguments of the bulk functions (rows.h).
 */
#include "base/compat.h"

#include "base/names.h"
#include "catalog/pg_type.h"
#include "store/rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

int
ga_bytes_cmp(const char *a, int alen, const char *b, int blen)
{
	int			cmp = memcmp(a, b, Min(alen, blen));

	return cmp != 0 ? cmp : (alen > blen) - (alen < blen);
}

static int
compare_ids(const void *a, const void *b)
{
	const GaIdRef *x = a;
	const GaIdRef *y = b;

	return ga_bytes_cmp(x->bytes, x->len, y->bytes, y->len);
}

char *
ga_id_text(const GaIdRef *id)
{
	return pnstrdup(id->bytes, id->len);
}

/* One-dimensional or empty, else 22023. */
static ArrayType *
flat_array(Datum array, const char *what)
{
	ArrayType  *arr = DatumGetArrayTypeP(array);

	if (ARR_NDIM(arr) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a one-dimensional array", what)));
	return arr;
}

GaIdRef *
ga_ids(Datum array, const char *what, int *count)
{
	Datum	   *values;
	bool	   *nulls;
	GaIdRef    *ids;

	deconstruct_array(flat_array(array, what), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, count);
	ids = palloc(sizeof(GaIdRef) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be NULL", what),
					 errdetail("Element %d of the array is NULL.", i + 1)));
		ids[i].bytes = VARDATA_ANY(DatumGetPointer(values[i]));
		ids[i].len = VARSIZE_ANY_EXHDR(DatumGetPointer(values[i]));
		ids[i].row = i;
		ids[i].datum = values[i];
		ga_name_check(what, ids[i].bytes, ids[i].len);
	}
	pfree(values);
	pfree(nulls);
	return ids;
}

GaIdRef *
ga_sorted_ids(Datum array, const char *what, int *count)
{
	GaIdRef    *ids = ga_ids(array, what, count);

	qsort(ids, *count, sizeof(GaIdRef), compare_ids);
	for (int i = 1; i < *count; i++)
		if (compare_ids(&ids[i - 1], &ids[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 errmsg("%s \"%s\" occurs more than once", what, ga_id_text(&ids[i])),
					 errhint("Give each only once in a call.")));
	return ids;
}

void
ga_aligned_array(Datum array, Oid type, const char *what, int n, Datum **values, bool **nulls)
{
	ArrayType  *arr = flat_array(array, what);
	int16		len;
	bool		byval;
	char		align;
	int			count;

	get_typlenbyvalalign(type, &len, &byval, &align);
	deconstruct_array(arr, type, len, byval, align, values, nulls, &count);
	if (count != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s has %d elements for %d rows", what, count, n)));
}

void
ga_metadata_check(Datum metadata, int n)
{
	Jsonb	   *json = DatumGetJsonbP(metadata);
	bool		scalar = JB_ROOT_IS_SCALAR(json);

	if (scalar || !JB_ROOT_IS_ARRAY(json))
	{
		if (scalar)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata must be a JSON object, or an array with one object per row")));
		return;
	}
	if (JB_ROOT_COUNT(json) != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata has %d elements for %d rows", (int) JB_ROOT_COUNT(json), n)));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(&json->root, i);

		if (value->type != jbvNull && !(value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data)))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("metadata must be a JSON object, or an array with one object per row"),
					 errdetail("Element %d is not an object.", i + 1)));
		pfree(value);
	}
}

Datum
ga_metadata_row(Datum metadata, int row)
{
	Jsonb	   *json = DatumGetJsonbP(metadata);
	JsonbValue *value;

	if (JB_ROOT_IS_OBJECT(json))
		return metadata;
	value = getIthJsonbValueFromContainer(&json->root, row);
	if (value->type == jbvNull)
	{
		value->type = jbvObject;
		value->val.object.nPairs = 0;
		value->val.object.pairs = NULL;
	}
	return JsonbPGetDatum(JsonbValueToJsonb(value));
}

void
ga_slices_begin(GaSlices *slices, Datum matrix, const GaKind *kind, const char *what, int n)
{
	GaView	   *view = &slices->view;

	ga_view(matrix, view);
	if (view->ndim == 0 || view->dims[0] != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must have one row for each of %d ids", what, n),
				 errdetail("Its shape is %s.", ga_shape_text(view->ndim, view->dims))));
	slices->kind = kind;
	if (n == 0)
		return;
	slices->row_bytes = view->nbytes / n;
	if (view->nelem / n * ga_dtype_info(view->dtype)->bits % 8 != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows of packed dtype %s do not fill whole bytes here", ga_dtype_name(view->dtype))));
	slices->row = ga_tensor_new(kind, view->dtype, view->ndim - 1, view->dims + 1, &slices->data);
}

Datum
ga_slices_row(GaSlices *slices, int row)
{
	memcpy(slices->data, slices->view.data + slices->row_bytes * row, slices->row_bytes);
	return PointerGetDatum(ga_tensor_seal(slices->kind, slices->row, NULL));
}
