/*
 * safetensors.c
 *		Headers of safetensors files, in the server's memory and encoding. The
 *		parser itself is in st_header.c.
 */
#include "base/compat.h"

#include "checkpoint/safetensors.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tensor/tensor.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

/* The reason is in UTF-8, like the names that it shows; what the server may have no characters for must not hide it. */
static void
report_invalid(char *reason)
{
	if (GetDatabaseEncoding() != PG_UTF8)
		for (char *p = reason; *p != '\0'; p++)
			if (IS_HIGHBIT_SET(*p))
				*p = '?';
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("invalid safetensors file"),
			 errdetail("%s", reason)));
}

/* A name cut to a length that suits a message. */
static char *
shown(const char *name)
{
	return pnstrdup(name, pg_mbcliplen(name, strlen(name), GA_ST_SHOWN_NAME));
}

/* The parser's memory; it asks now and then, and nothing of it needs to be released. */
static void *
allocate(void *pointer, size_t nbytes)
{
	CHECK_FOR_INTERRUPTS();
	if (pointer != NULL)
		return repalloc_huge(pointer, nbytes);
	return palloc_extended(Max(nbytes, 1), MCXT_ALLOC_HUGE);
}

uint64
ga_st_header_length(const char *prefix, uint64 file_bytes)
{
	char		reason[GA_ST_REASON];
	uint64_t	len = 0;

	if (!ga_st_read_length(prefix, file_bytes, &len, reason))
		report_invalid(reason);
	return len;
}

/* Names and metadata in the server's encoding; where that is UTF-8 too, nothing is done. */
static void
convert_strings(GaStHeader *header)
{
	if (GetDatabaseEncoding() == PG_UTF8)
		return;
	for (int i = 0; i < header->ntensors; i++)
		header->tensors[i].name = pg_any_to_server(header->tensors[i].name, strlen(header->tensors[i].name), PG_UTF8);
	for (int i = 0; i < header->npairs; i++)
	{
		GaStPair   *pair = &header->pairs[i];

		pair->key = pg_any_to_server(pair->key, strlen(pair->key), PG_UTF8);
		pair->value = pg_any_to_server(pair->value, strlen(pair->value), PG_UTF8);
	}
}

GaStHeader *
ga_st_parse(const char *json, size_t len, uint64 data_bytes)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "safetensors header", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	GaStHeader *header = palloc0(sizeof(GaStHeader));
	char		reason[GA_ST_REASON];

	header->context = context;
	if (!ga_st_read_header(json, len, data_bytes, allocate, header, reason))
		report_invalid(reason);
	convert_strings(header);
	MemoryContextSwitchTo(previous);
	return header;
}

void
ga_st_free(GaStHeader *header)
{
	MemoryContextDelete(header->context);
}

static int
compare_for_file(const void *a, const void *b)
{
	const GaStTensor *x = a;
	const GaStTensor *y = b;
	int			x_bits = ga_dtype_info(x->dtype)->bits;
	int			y_bits = ga_dtype_info(y->dtype)->bits;

	if (x_bits != y_bits)
		return x_bits > y_bits ? -1 : 1;
	return strcmp(x->name, y->name);
}

void
ga_st_append_string(StringInfo buf, const char *text)
{
	escape_json(buf, pg_server_to_any(text, strlen(text), PG_UTF8));
}

static void
append_tensor(StringInfo buf, const GaStTensor *tensor)
{
	ga_st_append_string(buf, tensor->name);
	appendStringInfo(buf, ":{\"dtype\":\"%s\",\"shape\":[", ga_dtype_name(tensor->dtype));
	for (int i = 0; i < tensor->ndim; i++)
		appendStringInfo(buf, i == 0 ? INT64_FORMAT : "," INT64_FORMAT, tensor->dims[i]);
	appendStringInfo(buf, "],\"data_offsets\":[" UINT64_FORMAT "," UINT64_FORMAT "]}",
					 tensor->begin, tensor->begin + tensor->nbytes);
}

static void
append_metadata(StringInfo buf, const GaStPair *pairs, int npairs)
{
	appendStringInfoString(buf, "\"__metadata__\":{");
	for (int i = 0; i < npairs; i++)
	{
		if (i > 0)
			appendStringInfoChar(buf, ',');
		ga_st_append_string(buf, pairs[i].key);
		appendStringInfoChar(buf, ':');
		ga_st_append_string(buf, pairs[i].value);
	}
	appendStringInfoChar(buf, '}');
}

/* Names that the file could not hold: a duplicate, and the key of the metadata. */
static void
check_names(const GaStTensor *tensors, int ntensors, const GaStPair *pairs, int npairs)
{
	const char *name = ga_st_duplicate_tensor(tensors, ntensors, allocate);

	if (name == NULL)
		name = ga_st_duplicate_pair(pairs, npairs, allocate);
	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("duplicate name \"%s\" in a safetensors file", shown(name))));
	for (int i = 0; i < ntensors; i++)
		if (strcmp(tensors[i].name, "__metadata__") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a tensor of a safetensors file cannot have the name \"__metadata__\"")));
}

uint64
ga_st_build(StringInfo buf, GaStTensor *tensors, int ntensors, const GaStPair *pairs, int npairs)
{
	int			start = buf->len;
	uint64		end = 0;
	uint64		len;

	check_names(tensors, ntensors, pairs, npairs);
	qsort(tensors, ntensors, sizeof(GaStTensor), compare_for_file);
	appendStringInfoSpaces(buf, GA_ST_PREFIX);
	appendStringInfoChar(buf, '{');
	if (npairs > 0)
		append_metadata(buf, pairs, npairs);
	for (int i = 0; i < ntensors; i++)
	{
		GaStTensor *tensor = &tensors[i];
		uint64		nelem;

		CHECK_FOR_INTERRUPTS();
		if (!ga_shape_size(tensor->dtype, tensor->ndim, tensor->dims, &nelem, &tensor->nbytes))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid shape %s of tensor \"%s\"", ga_shape_text(tensor->ndim, tensor->dims),
							shown(tensor->name))));
		tensor->begin = end;
		end += tensor->nbytes;
		if (i > 0 || npairs > 0)
			appendStringInfoChar(buf, ',');
		append_tensor(buf, tensor);
	}
	appendStringInfoChar(buf, '}');

	len = TYPEALIGN(GA_ST_ALIGN, buf->len - start) - GA_ST_PREFIX;
	appendStringInfoSpaces(buf, GA_ST_PREFIX + len - (buf->len - start));
	if (len > GA_ST_MAX_HEADER)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many tensors for one safetensors file"),
				 errdetail("The header would take " UINT64_FORMAT " bytes; readers accept %d.", len, GA_ST_MAX_HEADER)));
	for (int i = 0; i < GA_ST_PREFIX; i++)
		buf->data[start + i] = (char) (len >> 8 * i & 0xFF);
	return end;
}
