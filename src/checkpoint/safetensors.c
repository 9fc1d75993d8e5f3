/*
 * safetensors.c
 *		Headers of safetensors files. The parser refuses whatever the format's
 *		reference reader refuses, and duplicate keys and non-string metadata too.
 */
#include "base/compat.h"

#include "checkpoint/safetensors.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "tensor/tensor.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

#define MAX_NESTING 64			/* of values under keys that the format does not define */
#define SHOWN_NAME 100			/* bytes of a name in a message */

#define damaged(...) \
	ereport(ERROR, \
			(errcode(ERRCODE_DATA_CORRUPTED), \
			 errmsg("invalid safetensors file"), \
			 errdetail(__VA_ARGS__)))

/* What the value of the key at hand must be. */
typedef enum Field
{
	FIELD_UNKNOWN = 0,
	FIELD_DTYPE = 1,
	FIELD_SHAPE = 2,
	FIELD_OFFSETS = 4,
	FIELD_ALL = 7
} Field;

typedef struct ParseState
{
	GaStHeader *header;
	int			depth;			/* open objects and arrays */
	bool		in_metadata;
	bool		seen_metadata;
	int			seen;			/* Fields of the tensor at hand */
	Field		field;			/* key at hand, below a tensor */
	int			noffsets;
	uint64		offsets[2];
	int			max_tensors;
	int			max_pairs;
} ParseState;

/* A name cut to a length that suits a message. */
static char *
shown(const char *name)
{
	return pnstrdup(name, pg_mbcliplen(name, strlen(name), SHOWN_NAME));
}

static GaStTensor *
current_tensor(ParseState *state)
{
	return &state->header->tensors[state->header->ntensors - 1];
}

/* "tensor "x"" or a key of it, for messages. */
static char *
position(ParseState *state)
{
	if (state->depth < 2 && state->in_metadata)
		return pstrdup("\"__metadata__\"");
	if (state->in_metadata)
		return psprintf("\"__metadata__\" key \"%s\"", shown(state->header->pairs[state->header->npairs - 1].key));
	if (state->depth < 2)
		return psprintf("entry of tensor \"%s\"", shown(current_tensor(state)->name));
	return psprintf("\"%s\" of tensor \"%s\"",
					state->field == FIELD_DTYPE ? "dtype" :
					state->field == FIELD_SHAPE ? "shape" : "data_offsets",
					shown(current_tensor(state)->name));
}

/* Name of the kind of value that must stand here; NULL when any may. */
static const char *
expected_kind(ParseState *state)
{
	if (state->depth < 2)
		return "object";
	if (state->in_metadata)
		return "string";
	switch (state->field)
	{
		case FIELD_DTYPE:
			return "string";
		case FIELD_SHAPE:
		case FIELD_OFFSETS:
			return state->depth == 2 ? "array" : "non-negative integer";
		default:
			return NULL;
	}
}

static void
check_kind(ParseState *state, const char *kind)
{
	const char *expected = expected_kind(state);

	if (expected != NULL && strcmp(expected, kind) != 0)
		damaged("The %s is not %s %s.", position(state),
				strchr("aeiou", expected[0]) ? "an" : "a", expected);
}

static GaJsonStatus
object_start(void *arg)
{
	ParseState *state = arg;

	check_kind(state, "object");
	if (++state->depth > MAX_NESTING)
		damaged("The header is nested deeper than %d levels.", MAX_NESTING);
	if (state->depth == 2)
		state->seen = 0;
	GA_JSON_DONE;
}

/* A tensor's entry is complete: its keys, and shape against offsets. */
static void
finish_tensor(ParseState *state)
{
	GaStTensor *tensor = current_tensor(state);
	uint64		count = 1;
	uint64		nelem;
	uint64		nbytes;

	if (state->seen != FIELD_ALL)
		damaged("Tensor \"%s\" has no \"%s\".", shown(tensor->name),
				!(state->seen & FIELD_DTYPE) ? "dtype" : !(state->seen & FIELD_SHAPE) ? "shape" : "data_offsets");
	if (state->noffsets != 2)
		damaged("\"data_offsets\" of tensor \"%s\" has %d numbers instead of 2.", shown(tensor->name), state->noffsets);
	if (state->offsets[0] > state->offsets[1])
		damaged("Tensor \"%s\" ends at " UINT64_FORMAT ", before its begin at " UINT64_FORMAT ".",
				shown(tensor->name), state->offsets[1], state->offsets[0]);

	/* In the order of the dimensions, as the reference reader: an empty one does not excuse an overflow before it. */
	for (int i = 0; i < tensor->ndim; i++)
		if (__builtin_mul_overflow(count, (uint64) tensor->dims[i], &count))
			damaged("The shape of tensor \"%s\" overflows.", shown(tensor->name));
	if (count * ga_dtype_info(tensor->dtype)->bits % 8 != 0)
		damaged("The elements of tensor \"%s\" do not fill whole bytes.", shown(tensor->name));
	if (!ga_shape_size(tensor->dtype, tensor->ndim, tensor->dims, &nelem, &nbytes))
		damaged("The shape of tensor \"%s\" overflows.", shown(tensor->name));
	if (nbytes != state->offsets[1] - state->offsets[0])
		damaged("Tensor \"%s\" has " UINT64_FORMAT " bytes by its offsets, but " UINT64_FORMAT " by its dtype and shape.",
				shown(tensor->name), state->offsets[1] - state->offsets[0], nbytes);
	tensor->begin = state->offsets[0];
	tensor->nbytes = nbytes;
}

static GaJsonStatus
object_end(void *arg)
{
	ParseState *state = arg;

	if (--state->depth == 1 && !state->in_metadata)
		finish_tensor(state);
	GA_JSON_DONE;
}

static GaJsonStatus
array_start(void *arg)
{
	ParseState *state = arg;

	check_kind(state, "array");
	if (++state->depth > MAX_NESTING)
		damaged("The header is nested deeper than %d levels.", MAX_NESTING);
	GA_JSON_DONE;
}

static GaJsonStatus
array_end(void *arg)
{
	((ParseState *) arg)->depth--;
	GA_JSON_DONE;
}

static void
add_tensor(ParseState *state, char *name)
{
	GaStHeader *header = state->header;

	CHECK_FOR_INTERRUPTS();
	if (header->ntensors == state->max_tensors)
	{
		state->max_tensors *= 2;
		header->tensors = repalloc_huge(header->tensors, sizeof(GaStTensor) * state->max_tensors);
	}
	memset(&header->tensors[header->ntensors], 0, sizeof(GaStTensor));
	header->tensors[header->ntensors++].name = name;
}

static void
add_pair(ParseState *state, char *key)
{
	GaStHeader *header = state->header;

	if (header->npairs == state->max_pairs)
	{
		state->max_pairs *= 2;
		header->pairs = repalloc_huge(header->pairs, sizeof(GaStPair) * state->max_pairs);
	}
	header->pairs[header->npairs].value = NULL;
	header->pairs[header->npairs++].key = key;
}

static void
start_tensor_field(ParseState *state, const char *key)
{
	state->field = strcmp(key, "dtype") == 0 ? FIELD_DTYPE :
		strcmp(key, "shape") == 0 ? FIELD_SHAPE :
		strcmp(key, "data_offsets") == 0 ? FIELD_OFFSETS : FIELD_UNKNOWN;
	if (state->seen & state->field)
		damaged("Duplicate key: %s.", position(state));
	state->seen |= state->field;
	if (state->field == FIELD_OFFSETS)
		state->noffsets = 0;
}

static GaJsonStatus
field_start(void *arg, char *key, bool isnull)
{
	ParseState *state = arg;

	if (state->depth == 1)
	{
		state->in_metadata = strcmp(key, "__metadata__") == 0;
		if (state->in_metadata && state->seen_metadata)
			damaged("Duplicate key: \"__metadata__\".");
		state->seen_metadata |= state->in_metadata;
		if (!state->in_metadata)
			add_tensor(state, pg_any_to_server(key, strlen(key), PG_UTF8));
	}
	else if (state->depth == 2 && state->in_metadata)
		add_pair(state, pg_any_to_server(key, strlen(key), PG_UTF8));
	else if (state->depth == 2)
		start_tensor_field(state, key);
	GA_JSON_DONE;
}

/* A JSON number without sign, fraction and exponent that fits int64. */
static bool
parse_count(const char *token, uint64 *value)
{
	*value = 0;
	for (; *token != '\0'; token++)
	{
		if (*token < '0' || *token > '9' ||
			__builtin_mul_overflow(*value, (uint64) 10, value) ||
			__builtin_add_overflow(*value, (uint64) (*token - '0'), value))
			return false;
	}
	return *value <= PG_INT64_MAX;
}

static void
add_number(ParseState *state, const char *token)
{
	GaStTensor *tensor = current_tensor(state);
	uint64		value;

	if (!parse_count(token, &value))
		damaged("The %s holds %s, which is not a non-negative integer of 63 bits.", position(state), shown(token));
	if (state->field == FIELD_SHAPE)
	{
		if (tensor->ndim == GA_MAX_RANK)
			damaged("Tensor \"%s\" has more than %d dimensions, the most that can be stored.",
					shown(tensor->name), GA_MAX_RANK);
		tensor->dims[tensor->ndim++] = (int64) value;
	}
	else if (state->noffsets++ < 2)
		state->offsets[state->noffsets - 1] = value;
}

static void
set_dtype(ParseState *state, const char *token)
{
	GaStTensor *tensor = current_tensor(state);

	/* The format's names are upper case; our look-up takes any. */
	tensor->dtype = ga_dtype_lookup(token, strlen(token));
	if (tensor->dtype == 0 || strcmp(ga_dtype_name(tensor->dtype), token) != 0)
		damaged("Tensor \"%s\" has the unknown dtype \"%s\".", shown(tensor->name),
				shown(pg_any_to_server(token, strlen(token), PG_UTF8)));
}

static GaJsonStatus
scalar(void *arg, char *token, JsonTokenType type)
{
	ParseState *state = arg;

	check_kind(state, type == JSON_TOKEN_STRING ? "string" :
			   type == JSON_TOKEN_NUMBER ? "non-negative integer" : "literal");
	if (state->in_metadata)
		state->header->pairs[state->header->npairs - 1].value = pg_any_to_server(token, strlen(token), PG_UTF8);
	else if (state->field == FIELD_DTYPE)
		set_dtype(state, token);
	else if (state->field != FIELD_UNKNOWN)
		add_number(state, token);
	GA_JSON_DONE;
}

static int
compare_offsets(const void *a, const void *b)
{
	const GaStTensor *x = a;
	const GaStTensor *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	if (x->nbytes != y->nbytes)
		return x->nbytes < y->nbytes ? -1 : 1;
	return strcmp(x->name, y->name);
}

static int
compare_strings(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* A name that occurs twice, or NULL. */
static char *
find_duplicate(char **names, size_t count)
{
	qsort(names, count, sizeof(char *), compare_strings);
	for (size_t i = 1; i < count; i++)
		if (strcmp(names[i - 1], names[i]) == 0)
			return names[i];
	return NULL;
}

/* The data must be covered from its start to its end, without holes and overlaps. */
static void
check_coverage(GaStHeader *header)
{
	uint64		end = 0;

	qsort(header->tensors, header->ntensors, sizeof(GaStTensor), compare_offsets);
	for (int i = 0; i < header->ntensors; i++)
	{
		GaStTensor *tensor = &header->tensors[i];

		if (tensor->begin != end)
			damaged(tensor->begin > end ?
					"There is a hole before tensor \"%s\": it begins at " UINT64_FORMAT ", but the data before it ends at " UINT64_FORMAT "." :
					"Tensor \"%s\" overlaps another: it begins at " UINT64_FORMAT ", but the data before it ends at " UINT64_FORMAT ".",
					shown(tensor->name), tensor->begin, end);
		end += tensor->nbytes;
	}
	if (end != header->data_bytes)
		damaged("The tensors end at " UINT64_FORMAT ", but the file has " UINT64_FORMAT " bytes of data.",
				end, header->data_bytes);
}

/* A name that two tensors share, or NULL. */
static char *
find_duplicate_tensor(const GaStTensor *tensors, int count)
{
	char	  **names = palloc_extended(sizeof(char *) * Max(count, 1), MCXT_ALLOC_HUGE);

	for (int i = 0; i < count; i++)
		names[i] = tensors[i].name;
	return find_duplicate(names, count);
}

/* A key that occurs twice in the metadata, or NULL. */
static char *
find_duplicate_pair(const GaStPair *pairs, int count)
{
	char	  **names = palloc_extended(sizeof(char *) * Max(count, 1), MCXT_ALLOC_HUGE);

	for (int i = 0; i < count; i++)
		names[i] = pairs[i].key;
	return find_duplicate(names, count);
}

static void
check_duplicates(GaStHeader *header)
{
	char	   *twice;

	if ((twice = find_duplicate_tensor(header->tensors, header->ntensors)) != NULL)
		damaged("Duplicate key: tensor \"%s\".", shown(twice));
	if ((twice = find_duplicate_pair(header->pairs, header->npairs)) != NULL)
		damaged("Duplicate key: \"__metadata__\" key \"%s\".", shown(twice));
}

uint64
ga_st_header_length(const char *prefix, uint64 file_bytes)
{
	uint64		len = 0;

	if (file_bytes < GA_ST_PREFIX)
		damaged("The file has " UINT64_FORMAT " bytes, less than the %d of a header length.", file_bytes, GA_ST_PREFIX);
	for (int i = GA_ST_PREFIX - 1; i >= 0; i--)
		len = len << 8 | (unsigned char) prefix[i];
	if (len > GA_ST_MAX_HEADER)
		damaged("The header length is " UINT64_FORMAT ", more than the %d allowed.", len, GA_ST_MAX_HEADER);
	if (len > file_bytes - GA_ST_PREFIX)
		damaged("The header length is " UINT64_FORMAT ", but only " UINT64_FORMAT " bytes follow it.",
				len, file_bytes - GA_ST_PREFIX);
	return len;
}

/* Runs the server's JSON parser over the header with our callbacks. */
static void
parse_json(ParseState *state, const char *json, size_t len)
{
	JsonSemAction actions = {
		.semstate = state,
		.object_start = object_start,
		.object_end = object_end,
		.array_start = array_start,
		.array_end = array_end,
		.object_field_start = field_start,
		.scalar = scalar,
	};
	JsonLexContext *lexer = ga_json_lexer(json, len, PG_UTF8);
	JsonParseErrorType status = pg_parse_json(lexer, &actions);

	if (status != JSON_SUCCESS)
		damaged("The header is not valid JSON: %s", json_errdetail(status, lexer));
}

GaStHeader *
ga_st_parse(const char *json, size_t len, uint64 data_bytes)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "safetensors header", ALLOCSET_DEFAULT_SIZES);
	MemoryContext previous = MemoryContextSwitchTo(context);
	ParseState	state = {.max_tensors = 64, .max_pairs = 8};
	GaStHeader *header = palloc0(sizeof(GaStHeader));

	header->context = context;
	header->data_bytes = data_bytes;
	header->tensors = palloc(sizeof(GaStTensor) * state.max_tensors);
	header->pairs = palloc(sizeof(GaStPair) * state.max_pairs);
	state.header = header;

	if (len == 0 || json[0] != '{')
		damaged("The header does not begin with \"{\".");
	while (json[len - 1] == ' ')
		len--;
	if (json[len - 1] != '}')
		damaged("The header does not end with \"}\" and spaces.");
	if (pg_encoding_verifymbstr(PG_UTF8, json, len) != len)
		damaged("The header is not valid UTF-8.");
	parse_json(&state, json, len);
	check_duplicates(header);
	check_coverage(header);
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
	char	   *name = find_duplicate_tensor(tensors, ntensors);

	if (name == NULL)
		name = find_duplicate_pair(pairs, npairs);
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
