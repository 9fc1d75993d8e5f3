/*
 * fuzz_header.c
 *		Headers of safetensors files. An input is a file; when its first byte is
 *		"{" it is a header alone, and the data is as long as that asks for.
 *
 * What is accepted is checked by properties that the parser does not compute
 * that way: each shape against its bytes, the data without holes and overlaps,
 * unique names; and, written anew in a plain form, it reads as the same.
 */
#include "checkpoint/st_header.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

const char	fuzz_name[] = "header";

const FuzzSeed fuzz_seeds[] = {
	SEED("{}"),
	SEED("{}   "),
	SEED("{" ENTRY("a", "F32", "2,3", "0,24") "}"),
	SEED("{" ENTRY("a", "F32", "", "0,4") "," ENTRY("b", "F64", "0,7", "4,4") "," ENTRY("c", "F4", "2", "4,5") "}"),
	SEED("{\"__metadata__\":{\"format\":\"pt\",\"k\\u00e9y\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\ud83d\\ude00\"}," ENTRY("w", "BF16", "1,1,1,1,1,1,1,2", "0,4") "}"),
	SEED("{ \"w\" : { \"extra\" : [ 1 , -0.5e+3 , { \"x\" : [ ] , \"y\" : { } } , true , false , null , \"s\" ] , \"data_offsets\" : [ 0 , 1 ] , \"shape\" : [ ] , \"dtype\" : \"U8\" } }"),
	SEED("{" ENTRY("b", "U8", "1", "2,3") "," ENTRY("a", "U8", "2", "0,2") "}  "),
	SEED("\x39\0\0\0\0\0\0\0{" ENTRY("a", "U8", "2", "0,2") "}    xy"),
	SEED("\x02\0\0\0\0\0\0\0{}"),
	{NULL, 0}
};

const FuzzSeed fuzz_tokens[] = {
	SEED("{"), SEED("}"), SEED("["), SEED("]"), SEED(","), SEED(":"), SEED("\""), SEED("\\"), SEED("\\u0000"), SEED("\\ud800"), SEED("\\udc00"), SEED("\\u12"),
	SEED("0"), SEED("-1"), SEED("1.5"), SEED("1e3"), SEED("null"), SEED("true"), SEED("9223372036854775807"), SEED("18446744073709551616"), SEED("4294967296"),
	SEED("\"F32\""), SEED("\"f32\""), SEED("\"F6_E2M3\""), SEED("\"dtype\""), SEED("\"shape\""), SEED("\"data_offsets\""), SEED("\"__metadata__\""),
	SEED("\"a\":"), SEED("[[[[[[[["), SEED("{\"\":{\"\":"), SEED("\xff"), SEED("\xc0\x80"), SEED("\xed\xa0\x80"), SEED("\xf0\x9f\x98\x80"), SEED("\0"), SEED(" "), SEED("\n"),
	SEED(ENTRY("z", "U8", "", "0,1") ","), SEED(ENTRY("z", "F64", "0", "0,0") ","),
	/* What must not be accepted where it fits: a hole, an overlap, a wrong size, rank 9, 65 levels. */
	SEED(ENTRY("h", "U8", "1", "1,2")), SEED(ENTRY("o", "U8", "2", "0,2") "," ENTRY("p", "U8", "2", "1,3")), SEED(ENTRY("m", "F32", "2", "0,4")),
	SEED(ENTRY("r", "U8", "1,1,1,1,1,1,1,1,1", "0,1")), SEED(",1"), SEED("2,"),
	SEED("\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[" "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],"),
	{NULL, 0}
};

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static void
check_unique(char **names, int count)
{
	qsort(names, count, sizeof(char *), compare_names);
	for (int i = 1; i < count; i++)
		FUZZ_CHECK(strcmp(names[i - 1], names[i]) != 0);
}

static void
check_header(const GaStHeader *header)
{
	char	  **names = fuzz_allocate(NULL, sizeof(char *) * (header->ntensors + 1));
	char	  **keys = fuzz_allocate(NULL, sizeof(char *) * (header->npairs + 1));
	uint64_t	at = 0;

	for (int i = 0; i < header->ntensors; i++)
	{
		const GaStTensor *tensor = &header->tensors[i];
		unsigned __int128 bits = ga_dtype_info(tensor->dtype)->bits;

		FUZZ_CHECK(tensor->ndim >= 0 && tensor->ndim <= GA_MAX_RANK);
		for (int d = 0; d < tensor->ndim; d++)
		{
			FUZZ_CHECK(tensor->dims[d] >= 0);
			bits *= tensor->dims[d];
			FUZZ_CHECK(bits >> 100 == 0);
		}
		FUZZ_CHECK(bits == (unsigned __int128) tensor->nbytes * 8);
		FUZZ_CHECK(tensor->begin == at);
		at += tensor->nbytes;
		names[i] = tensor->name;
	}
	FUZZ_CHECK(at == header->data_bytes);
	check_unique(names, header->ntensors);
	for (int i = 0; i < header->npairs; i++)
	{
		FUZZ_CHECK(header->pairs[i].value != NULL);
		keys[i] = header->pairs[i].key;
	}
	check_unique(keys, header->npairs);
}

static void
put(char **out, const char *format, const char *string, long long a, long long b)
{
	/* Strings as \u escapes of their bytes would not be UTF-8: only what JSON forbids is escaped. */
	*out += sprintf(*out, format, a, b);
	if (string == NULL)
		return;
	for (*(*out)++ = '"'; *string != '\0'; string++)
	{
		if (*string == '"' || *string == '\\' || (unsigned char) *string < ' ')
			*out += sprintf(*out, "\\u%04x", (unsigned char) *string);
		else
			*(*out)++ = *string;
	}
	*(*out)++ = '"';
}

/* The header in a plain form; its length. */
static size_t
write_plainly(const GaStHeader *header, char *out)
{
	char	   *start = out;

	put(&out, "{", "__metadata__", 0, 0);
	put(&out, ":{", NULL, 0, 0);
	for (int i = 0; i < header->npairs; i++)
	{
		put(&out, i ? "," : "", header->pairs[i].key, 0, 0);
		put(&out, ":", header->pairs[i].value, 0, 0);
	}
	put(&out, "}", NULL, 0, 0);
	for (int i = header->ntensors - 1; i >= 0; i--)
	{
		const GaStTensor *tensor = &header->tensors[i];

		put(&out, ",", tensor->name, 0, 0);
		put(&out, ":{\"data_offsets\":[%lld,%lld],\"dtype\":", ga_dtype_info(tensor->dtype)->name,
			tensor->begin, tensor->begin + tensor->nbytes);
		put(&out, ",\"shape\":[", NULL, 0, 0);
		for (int d = 0; d < tensor->ndim; d++)
			put(&out, d ? ",%lld" : "%lld", NULL, tensor->dims[d], 0);
		put(&out, "]}", NULL, 0, 0);
	}
	put(&out, "}", NULL, 0, 0);
	return out - start;
}

static void
check_written(const GaStHeader *header, size_t len)
{
	char	   *text = fuzz_allocate(NULL, 6 * len + 400 * (size_t) (header->ntensors + 1));
	size_t		size = write_plainly(header, text);
	GaStHeader	again = {NULL};
	char		reason[GA_ST_REASON];

	FUZZ_CHECK(ga_st_read_header(text, size, header->data_bytes, fuzz_allocate, &again, reason));
	FUZZ_CHECK(again.ntensors == header->ntensors && again.npairs == header->npairs);
	for (int i = 0; i < header->ntensors; i++)
	{
		const GaStTensor *a = &header->tensors[i];
		const GaStTensor *b = &again.tensors[i];

		FUZZ_CHECK(strcmp(a->name, b->name) == 0 && a->dtype == b->dtype && a->begin == b->begin && a->nbytes == b->nbytes);
		FUZZ_CHECK(a->ndim == b->ndim && memcmp(a->dims, b->dims, sizeof(int64_t) * a->ndim) == 0);
	}
	for (int i = 0; i < header->npairs; i++)
		FUZZ_CHECK(strcmp(header->pairs[i].key, again.pairs[i].key) == 0 && strcmp(header->pairs[i].value, again.pairs[i].value) == 0);
}

static bool
parse(const char *json, size_t len, uint64_t data_bytes, char *reason)
{
	GaStHeader	header = {NULL};

	if (!ga_st_read_header(json, len, data_bytes, fuzz_allocate, &header, reason))
	{
		FUZZ_CHECK(strlen(reason) > 10 && strlen(reason) < GA_ST_REASON);
		return false;
	}
	check_header(&header);
	check_written(&header, len);
	return true;
}

bool
fuzz_run(const uint8_t *data, size_t size)
{
	const char *bytes = (const char *) data;
	char		reason[GA_ST_REASON] = "";
	unsigned long long wanted;
	uint64_t	length;

	if (size == 0 || bytes[0] != '{')
		return ga_st_read_length(bytes, size, &length, reason) &&
			parse(bytes + GA_ST_PREFIX, length, size - GA_ST_PREFIX - length, reason);
	if (parse(bytes, size, 0, reason))
		return true;
	if (sscanf(reason, "The tensors end at %llu, but", &wanted) != 1)
		return false;
	FUZZ_CHECK(parse(bytes, size, wanted, reason));
	return true;
}
