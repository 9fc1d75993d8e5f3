/*
 * layout.c
 *		Building and reading values of the three tensor types (tensor.h).
 */
#include "base/compat.h"

#include <zstd.h>

#include "base/memory.h"
#include "catalog/pg_type.h"
#include "math/distance.h"
#include "mb/pg_wchar.h"
#include "tensor/tensor.h"
#include "utils/array.h"

#define MIB ((uint64) 1024 * 1024)

const GaKind ga_kind_embedding = {
	.name = "embedding",.min_rank = 1,.max_rank = 1,.max_dim = 65535,.max_bytes = 65535 * 4,
	.finite = true,.floats_only = true,.checked = false
};

const GaKind ga_kind_agent_state = {
	.name = "agent_state",.min_rank = 0,.max_rank = GA_MAX_RANK,.max_dim = 0,.max_bytes = 16 * MIB,
	.finite = false,.floats_only = false,.checked = false
};

const GaKind ga_kind_swarm_tensor = {
	.name = "swarm_tensor",.min_rank = 0,.max_rank = GA_MAX_RANK,.max_dim = 0,.max_bytes = 256 * MIB,
	.finite = false,.floats_only = false,.checked = true
};

#define HEADER_SIZE(ndim) (offsetof(GaTensor, dims) + sizeof(int64) * (ndim))
#define TENSOR_CHECK(tensor) ((GaCheck *) ((char *) (tensor) + HEADER_SIZE((tensor)->ndim)))

static void
report_damaged(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored tensor value is damaged"),
			 errdetail("%s", detail),
			 errhint("Restore the row from a checkpoint or a backup.")));
}

char *
ga_shape_text(int ndim, const int64 *dims)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '[');
	for (int i = 0; i < ndim; i++)
		appendStringInfo(&buf, "%s" INT64_FORMAT, i ? "," : "", dims[i]);
	appendStringInfoChar(&buf, ']');
	return buf.data;
}

int
ga_typmod_dtype(int32 typmod)
{
	int			dtype = typmod > 0 ? typmod >> 17 : 0;

	if (dtype != 0 && ga_dtype_info(dtype) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid type modifier %d", typmod)));
	return dtype;
}

bool
ga_kind_check(const GaKind *kind, int dtype, int ndim, const int64 *dims,
			  uint64 *nelem, uint64 *nbytes, Node *escontext)
{
	if (ndim < kind->min_rank || ndim > kind->max_rank)
	{
		if (kind->min_rank == kind->max_rank)
			ereturn(escontext, false,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("%s must have %d dimension, not %d", kind->name, kind->min_rank, ndim)));
		ereturn(escontext, false,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("number of dimensions (%d) exceeds the maximum of %s (%d)", ndim, kind->name, kind->max_rank)));
	}
	if (kind->floats_only && dtype != GA_F32 && dtype != GA_F16 && dtype != GA_BF16)
		ereturn(escontext, false,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s cannot hold dtype %s", kind->name, ga_dtype_name(dtype)),
				 errhint("Use F32, F16 or BF16.")));
	if (!ga_shape_size(dtype, ndim, dims, nelem, nbytes))
		ereturn(escontext, false,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid shape %s for dtype %s", ga_shape_text(ndim, dims), ga_dtype_name(dtype)),
				 errdetail("Dimensions must not be negative, and the size in bytes must be whole and fit 64 bits.")));
	for (int i = 0; kind->max_dim && i < ndim; i++)
	{
		if (dims[i] < 1)
			ereturn(escontext, false,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("%s must have at least 1 element", kind->name)));
		if (dims[i] > kind->max_dim)
			ereturn(escontext, false,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("%s cannot have more than " INT64_FORMAT " elements", kind->name, kind->max_dim),
					 errdetail("The value has " INT64_FORMAT ".", dims[i])));
	}
	if (*nbytes > kind->max_bytes)
		ereturn(escontext, false,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s of shape %s is too large", kind->name, ga_shape_text(ndim, dims)),
				 errdetail("It would take " UINT64_FORMAT " bytes, the limit is " UINT64_FORMAT ".",
						   *nbytes, kind->max_bytes),
				 errhint("Larger tensors go through gpuagent.store_chunk() and gpuagent.store_tensor(), "
						 "and are read with gpuagent.tensor_chunks() or gpuagent.swarm_chunks().")));
	return true;
}

GaTensor *
ga_tensor_new(const GaKind *kind, int dtype, int ndim, const int64 *dims, char **data)
{
	uint64		nelem,
				nbytes;
	Size		size;
	GaTensor   *tensor;

	ga_kind_check(kind, dtype, ndim, dims, &nelem, &nbytes, NULL);

	size = HEADER_SIZE(ndim) + (kind->checked ? sizeof(GaCheck) : 0) + nbytes;
	tensor = ga_palloc_large(size);
	SET_VARSIZE(tensor, size);
	tensor->version = GA_TENSOR_VERSION;
	tensor->dtype = dtype;
	tensor->ndim = ndim;
	tensor->codec = kind->checked ? GA_CODEC_CHECKED : GA_CODEC_PLAIN;
	memcpy(tensor->dims, dims, sizeof(int64) * ndim);
	if (kind->checked)
	{
		GaCheck    *check = TENSOR_CHECK(tensor);

		check->nbytes = nbytes;
		check->crc = 0;
		check->reserved = 0;
	}
	*data = (char *) tensor + size - nbytes;
	return tensor;
}

GaTensor *
ga_tensor_set_rows(const GaKind *kind, GaTensor *tensor, int64 rows, char **data)
{
	int64		dims[GA_MAX_RANK];
	uint64		nelem,
				nbytes;
	Size		prefix = HEADER_SIZE(tensor->ndim) + (kind->checked ? sizeof(GaCheck) : 0);

	Assert(tensor->ndim > 0);
	memcpy(dims, tensor->dims, sizeof(int64) * tensor->ndim);
	dims[0] = rows;
	ga_kind_check(kind, tensor->dtype, tensor->ndim, dims, &nelem, &nbytes, NULL);
	if (prefix + nbytes > VARSIZE(tensor))
		tensor = ga_repalloc_large(tensor, prefix + nbytes);
	SET_VARSIZE(tensor, prefix + nbytes);
	tensor->dims[0] = rows;
	if (kind->checked)
		TENSOR_CHECK(tensor)->nbytes = nbytes;
	*data = (char *) tensor + prefix;
	return tensor;
}

GaTensor *
ga_tensor_seal(const GaKind *kind, GaTensor *tensor, Node *escontext)
{
	if (kind->finite)
	{
		char	   *data = (char *) tensor + HEADER_SIZE(tensor->ndim);

		if (ga_has_nonfinite(tensor->dtype, data, tensor->dims[0]))
			ereturn(escontext, NULL,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("NaN and infinity are not allowed in %s", kind->name),
					 errhint("Use agent_state for vectors that may hold them.")));
	}
	if (kind->checked)
	{
		GaCheck    *check = TENSOR_CHECK(tensor);

		check->crc = ga_crc32c((char *) (check + 1), check->nbytes);
	}
	return tensor;
}

GaTensor *
ga_tensor_from_view(const GaKind *kind, const GaView *view)
{
	char	   *data;
	GaTensor   *tensor = ga_tensor_new(kind, view->dtype, view->ndim, view->dims, &data);

	memcpy(data, view->data, view->nbytes);
	return ga_tensor_seal(kind, tensor, NULL);
}

GaTensor *
ga_tensor_compress(GaTensor *tensor, int level)
{
	const GaCheck *check = TENSOR_CHECK(tensor);
	Size		prefix = HEADER_SIZE(tensor->ndim) + sizeof(GaCheck);
	GaTensor   *packed;
	size_t		packed_size;

	if (tensor->codec != GA_CODEC_CHECKED)
		return tensor;
	packed = palloc(prefix + check->nbytes);
	packed_size = ga_compress((const char *) (check + 1), check->nbytes,
							  ga_dtype_info(tensor->dtype)->width, level, (char *) packed + prefix);
	if (packed_size == 0)
	{
		pfree(packed);
		return tensor;
	}
	memcpy(packed, tensor, prefix);
	packed->codec = GA_CODEC_ZSTD;
	SET_VARSIZE(packed, prefix + packed_size);
	return packed;
}

/* Shape and dtype of a value of which at least the header is there. */
static void
read_header(const GaTensor *tensor, GaView *view)
{
	Size		size = VARSIZE(tensor);

	if (size < HEADER_SIZE(0) || tensor->version != GA_TENSOR_VERSION || tensor->ndim > GA_MAX_RANK ||
		ga_dtype_info(tensor->dtype) == NULL || tensor->codec > GA_CODEC_ZSTD ||
		size < HEADER_SIZE(tensor->ndim))
		report_damaged("The header is not one that this version writes.");
	view->dtype = tensor->dtype;
	view->ndim = tensor->ndim;
	memcpy(view->dims, tensor->dims, sizeof(int64) * tensor->ndim);
	if (!ga_shape_size(view->dtype, view->ndim, view->dims, &view->nelem, &view->nbytes))
		report_damaged("The shape is not valid.");
}

void
ga_view_header(Datum value, GaView *view)
{
	GaTensor   *tensor = (GaTensor *) PG_DETOAST_DATUM_SLICE(value, 0, HEADER_SIZE(GA_MAX_RANK) - VARHDRSZ);

	read_header(tensor, view);
	view->data = NULL;
	view->owned[0] = view->owned[1] = NULL;
	if ((Pointer) tensor != DatumGetPointer(value))
		pfree(tensor);
}

void
ga_view(Datum value, GaView *view)
{
	GaTensor   *tensor = (GaTensor *) PG_DETOAST_DATUM(value);
	Size		size = VARSIZE(tensor);
	Size		prefix;
	const GaCheck *check;
	char	   *raw;

	view->owned[0] = (Pointer) tensor == DatumGetPointer(value) ? NULL : tensor;
	view->owned[1] = NULL;
	read_header(tensor, view);
	prefix = HEADER_SIZE(tensor->ndim);
	if (tensor->codec == GA_CODEC_PLAIN)
	{
		if (size != prefix + view->nbytes)
			report_damaged("The size does not match the shape.");
		view->data = (char *) tensor + prefix;
		return;
	}

	check = (const GaCheck *) ((char *) tensor + prefix);
	prefix += sizeof(GaCheck);
	if (size < prefix || check->nbytes != view->nbytes || view->nbytes > ga_kind_swarm_tensor.max_bytes)
		report_damaged("The size does not match the shape.");
	if (tensor->codec == GA_CODEC_CHECKED)
	{
		if (size != prefix + view->nbytes)
			report_damaged("The size does not match the shape.");
		raw = (char *) tensor + prefix;
	}
	else
	{
		raw = ga_palloc_large(Max(view->nbytes, 1));
		view->owned[1] = raw;
		if (!ga_decompress((char *) tensor + prefix, size - prefix,
						   ga_dtype_info(view->dtype)->width, raw, view->nbytes))
			report_damaged("The compressed bytes do not decode.");
	}
	if (ga_crc32c(raw, view->nbytes) != check->crc)
		report_damaged("The checksum does not match.");
	view->data = raw;
}

void
ga_view_release(GaView *view)
{
	for (int i = 0; i < lengthof(view->owned); i++)
		if (view->owned[i])
			pfree(view->owned[i]);
}

int
ga_shape_from_array(Datum array, int64 *dims)
{
	ArrayType  *arr = DatumGetArrayTypeP(array);
	int			n;

	if (ARR_NDIM(arr) > 1 || array_contains_nulls(arr))
		ereport(ERROR,
				(errcode(ARR_NDIM(arr) > 1 ? ERRCODE_INVALID_PARAMETER_VALUE : ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("a shape must be a one-dimensional array without NULLs")));
	n = ARR_NDIM(arr) == 0 ? 0 : ARR_DIMS(arr)[0];
	if (n > GA_MAX_RANK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("number of dimensions (%d) exceeds the maximum (%d)", n, GA_MAX_RANK)));
	memcpy(dims, ARR_DATA_PTR(arr), sizeof(int64) * n);
	return n;
}

Datum
ga_shape_to_array(int ndim, const int64 *dims)
{
	Datum		elems[GA_MAX_RANK];

	for (int i = 0; i < ndim; i++)
		elems[i] = Int64GetDatum(dims[i]);
	return PointerGetDatum(construct_array(elems, ndim, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

int
ga_dtype_from_text(const char *name, size_t len)
{
	int			dtype = ga_dtype_lookup(name, len);

	if (dtype == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown dtype \"%.*s\"", pg_mbcliplen(name, len, 64), name),
				 errhint("Use one of F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL, C64, "
						 "F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, F4, F6_E2M3, F6_E3M2.")));
	return dtype;
}

void
ga_require_float(int dtype, const char *what)
{
	GaDtypeClass cls = ga_dtype_info(dtype)->cls;

	if (cls != GA_CLASS_FLOAT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is not defined for dtype %s", what, ga_dtype_name(dtype)),
				 cls == GA_CLASS_OPAQUE ? errdetail("Values of this dtype are stored and moved, never interpreted.") : 0,
				 cls == GA_CLASS_OPAQUE ? 0 : errhint("Convert with gpuagent.astype() to F64, F32, F16 or BF16 first.")));
}
