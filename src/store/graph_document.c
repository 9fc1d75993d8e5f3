/*
 * graph_document.c
 *		The nodes and edges of a JSON document of a knowledge graph as rows.
 */
#include "base/compat.h"

#include "base/names.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tensor/tensor.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

/* Keys of an element; a value that is not there has type jbvNull and is_given false. */
#define MAX_KEYS 5

typedef struct Part
{
	const char *name;			/* key of the document */
	int			nkeys;
	const char *keys[MAX_KEYS];
} Part;

static const Part node_part = {"nodes", 3, {"id", "embedding", "metadata"}};
static const Part edge_part = {"edges", 5, {"source", "target", "edge_type", "weight", "metadata"}};

typedef struct Element
{
	const Part *part;
	int			ordinal;		/* 1-based, for messages */
	JsonbValue	values[MAX_KEYS];
	bool		given[MAX_KEYS];
} Element;

/* The array under the part's key, NULL when the document has none; 22023 for something else. */
static JsonbContainer *
find_part(Jsonb *document, const Part *part)
{
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(document))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("document must be a JSON object")));
	if (getKeyJsonValueFromContainer(&document->root, part->name, strlen(part->name), &value) == NULL ||
		value.type == jbvNull)
		return NULL;
	if (value.type != jbvBinary || !JsonContainerIsArray(value.val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of the document must be an array", part->name)));
	return value.val.binary.data;
}

static int
key_index(const Part *part, const JsonbValue *key)
{
	for (int i = 0; i < part->nkeys; i++)
		if (strlen(part->keys[i]) == key->val.string.len &&
			memcmp(part->keys[i], key->val.string.val, key->val.string.len) == 0)
			return i;
	return -1;
}

static void
report_element(const Element *element, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("element %d of \"%s\" must %s", element->ordinal, element->part->name, what)));
}

/* Takes an element apart; 22023 unless it is an object of known keys. */
static void
read_element(const Part *part, JsonbContainer *array, int ordinal, Element *element)
{
	JsonbValue *value = getIthJsonbValueFromContainer(array, ordinal - 1);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	item;
	int			index = -1;

	memset(element, 0, sizeof(*element));
	element->part = part;
	element->ordinal = ordinal;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		report_element(element, "be an object");
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			index = key_index(part, &item);
			if (index < 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("element %d of \"%s\" has an unknown key \"%.*s\"", ordinal, part->name,
								Min(item.val.string.len, 64), item.val.string.val),
						 errhint("Other data belong into \"metadata\".")));
		}
		else if (token == WJB_VALUE)
		{
			element->values[index] = item;
			element->given[index] = true;
		}
	}
}

/* A name, or with empty_allowed the empty one also for a missing key and null. */
static Datum
take_name(const Element *element, int key, const char *what, bool empty_allowed)
{
	const JsonbValue *value = &element->values[key];

	if (empty_allowed && (value->type == jbvNull || (value->type == jbvString && value->val.string.len == 0)))
		return CStringGetTextDatum("");
	if (value->type != jbvString)
		report_element(element, psprintf("have a string \"%s\"", element->part->keys[key]));
	ga_name_check(what, value->val.string.val, value->val.string.len);
	return PointerGetDatum(cstring_to_text_with_len(value->val.string.val, value->val.string.len));
}

/* The object, empty for a missing key and null. */
static Datum
take_object(const Element *element, int key)
{
	JsonbValue	value = element->values[key];

	if (value.type == jbvNull)
	{
		value.type = jbvObject;
		value.val.object.nPairs = 0;
		value.val.object.pairs = NULL;
	}
	else if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
		report_element(element, psprintf("have an object as \"%s\"", element->part->keys[key]));
	return JsonbPGetDatum(JsonbValueToJsonb(&value));
}

/* An array of numbers, or a string in the text form of the type. */
static Datum
take_embedding(const Element *element, int key, bool *isnull)
{
	const JsonbValue *value = &element->values[key];
	char	   *text = NULL;

	*isnull = value->type == jbvNull;
	if (*isnull)
		return (Datum) 0;
	if (value->type == jbvString)
		text = pnstrdup(value->val.string.val, value->val.string.len);
	else if (value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data))
		text = JsonbToCString(NULL, value->val.binary.data, value->val.binary.len);
	else
		report_element(element, "have an array or null as \"embedding\"");
	return PointerGetDatum(ga_tensor_parse(&ga_kind_embedding, text, -1, NULL));
}

static Datum
take_weight(const Element *element, int key, bool *isnull)
{
	const JsonbValue *value = &element->values[key];

	*isnull = !element->given[key];
	if (*isnull)
		return (Datum) 0;
	if (value->type != jbvNumeric)
		report_element(element, "have a number as \"weight\"");
	return DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric));
}

/* The value-per-call frame of both functions: the next element, or NULL at the end. */
static FuncCallContext *
next_element(FunctionCallInfo fcinfo, const Part *part, Element *element)
{
	FuncCallContext *funcctx;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		TupleDesc	tupdesc;
		JsonbContainer *array;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		funcctx->tuple_desc = BlessTupleDesc(tupdesc);
		array = find_part(PG_GETARG_JSONB_P(0), part);
		funcctx->user_fctx = array;
		funcctx->max_calls = array == NULL ? 0 : JsonContainerSize(array);
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	if (funcctx->call_cntr < funcctx->max_calls)
	{
		CHECK_FOR_INTERRUPTS();
		read_element(part, funcctx->user_fctx, funcctx->call_cntr + 1, element);
	}
	return funcctx;
}

/*
 * document_nodes(document) TABLE(id, embedding, metadata, has_embedding, has_metadata)
 */
PG_FUNCTION_INFO_V1(ga_document_nodes);
Datum
ga_document_nodes(PG_FUNCTION_ARGS)
{
	Element		element;
	FuncCallContext *funcctx = next_element(fcinfo, &node_part, &element);
	Datum		values[5];
	bool		nulls[5] = {false};

	if (funcctx->call_cntr >= funcctx->max_calls)
		SRF_RETURN_DONE(funcctx);
	values[0] = take_name(&element, 0, "node id", false);
	values[1] = take_embedding(&element, 1, &nulls[1]);
	values[2] = take_object(&element, 2);
	values[3] = BoolGetDatum(element.given[1]);
	values[4] = BoolGetDatum(element.given[2]);
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}

/*
 * document_edges(document)
 * TABLE(source, target, edge_type, weight, metadata, has_weight, has_metadata)
 */
PG_FUNCTION_INFO_V1(ga_document_edges);
Datum
ga_document_edges(PG_FUNCTION_ARGS)
{
	Element		element;
	FuncCallContext *funcctx = next_element(fcinfo, &edge_part, &element);
	Datum		values[7];
	bool		nulls[7] = {false};

	if (funcctx->call_cntr >= funcctx->max_calls)
		SRF_RETURN_DONE(funcctx);
	values[0] = take_name(&element, 0, "edge source", false);
	values[1] = take_name(&element, 1, "edge target", false);
	values[2] = take_name(&element, 2, "edge type", true);
	values[3] = take_weight(&element, 3, &nulls[3]);
	values[4] = take_object(&element, 4);
	values[5] = BoolGetDatum(element.given[3]);
	values[6] = BoolGetDatum(element.given[4]);
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}
