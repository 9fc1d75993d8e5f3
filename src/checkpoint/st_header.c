/*
 * st_header.c
 *		The parser of headers of safetensors files (st_header.h).
 *
 * JSON is read by hand and in one pass: nothing recurses, what must stand at a
 * place is known there, and every refusal names it. Strings are decoded into one
 * piece of memory as long as the header, which suffices, as none is longer
 * decoded than written.
 */
#include "checkpoint/st_header.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN(name) (int) ga_st_shown_bytes(name), (name)

/* Keys of a tensor. */
typedef enum Field
{
	FIELD_UNKNOWN = 0,
	FIELD_DTYPE = 1,
	FIELD_SHAPE = 2,
	FIELD_OFFSETS = 4,
	FIELD_ALL = 7
} Field;

typedef struct Parser
{
	const char *json;
	const char *p;				/* next byte */
	const char *end;
	char	   *free;			/* of the memory for strings */
	GaStHeader *header;
	GaStAllocate allocate;
	int			max_tensors;
	int			max_pairs;
	char	   *reason;
} Parser;

static const char *const field_names[] = {[FIELD_DTYPE] = "dtype",[FIELD_SHAPE] = "shape",[FIELD_OFFSETS] = "data_offsets"};

size_t
ga_st_shown_bytes(const char *name)
{
	size_t		n = strnlen(name, GA_ST_SHOWN_NAME + 1);

	if (n <= GA_ST_SHOWN_NAME)
		return n;
	for (n = GA_ST_SHOWN_NAME; n > 0 && ((unsigned char) name[n] & 0xC0) == 0x80;)
		n--;
	return n;
}

/* Says why the header is refused; false, for use in "return refuse(...)". */
static bool __attribute__((format(printf, 2, 3)))
refuse(char *reason, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(reason, GA_ST_REASON, format, args);
	va_end(args);
	return false;
}

#define REFUSE(ps, ...) return refuse((ps)->reason, __VA_ARGS__)

/* ---- JSON ---- */

static bool
unexpected(Parser *ps, const char *expected)
{
	unsigned char c = ps->p < ps->end ? *ps->p : 0;

	if (ps->p == ps->end)
		REFUSE(ps, "The header is not valid JSON: it ends where %s must stand.", expected);
	if (c > ' ' && c < 0x7F)
		REFUSE(ps, "The header is not valid JSON: byte %zu is \"%c\", where %s must stand.", (size_t) (ps->p - ps->json), c, expected);
	REFUSE(ps, "The header is not valid JSON: byte %zu is 0x%02X, where %s must stand.", (size_t) (ps->p - ps->json), c, expected);
}

static void
skip_space(Parser *ps)
{
	while (ps->p < ps->end && (*ps->p == ' ' || *ps->p == '\t' || *ps->p == '\n' || *ps->p == '\r'))
		ps->p++;
}

/* The next byte that is no space; 0 at the end. */
static char
peek(Parser *ps)
{
	skip_space(ps);
	return ps->p < ps->end ? *ps->p : 0;
}

/* Takes a byte that must be the next one. */
static bool
take(Parser *ps, char c, const char *name)
{
	if (peek(ps) != c || ps->p == ps->end)
		return unexpected(ps, name);
	ps->p++;
	return true;
}

static bool
hex4(Parser *ps, unsigned *value)
{
	*value = 0;
	for (int i = 0; i < 4; i++, ps->p++)
	{
		char		c = ps->p < ps->end ? *ps->p : 0;
		int			digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

		if (digit < 0)
			return unexpected(ps, "a hexadecimal digit");
		*value = *value << 4 | (unsigned) digit;
	}
	return true;
}

static void
put_utf8(Parser *ps, unsigned c)
{
	if (c < 0x80)
		*ps->free++ = (char) c;
	else if (c < 0x800)
	{
		*ps->free++ = (char) (0xC0 | c >> 6);
		*ps->free++ = (char) (0x80 | (c & 0x3F));
	}
	else
	{
		if (c < 0x10000)
			*ps->free++ = (char) (0xE0 | c >> 12);
		else
		{
			*ps->free++ = (char) (0xF0 | c >> 18);
			*ps->free++ = (char) (0x80 | (c >> 12 & 0x3F));
		}
		*ps->free++ = (char) (0x80 | (c >> 6 & 0x3F));
		*ps->free++ = (char) (0x80 | (c & 0x3F));
	}
}

/* What follows "\u". */
static bool
read_unicode_escape(Parser *ps)
{
	unsigned	c;
	unsigned	low;

	if (!hex4(ps, &c))
		return false;
	if (c == 0)
		REFUSE(ps, "A string holds \\u0000, which no name or text here can hold.");
	if (c >= 0xDC00 && c < 0xE000)
		REFUSE(ps, "The header is not valid JSON: a string holds half a surrogate pair.");
	if (c >= 0xD800 && c < 0xDC00)
	{
		if (ps->end - ps->p < 6 || ps->p[0] != '\\' || ps->p[1] != 'u')
			REFUSE(ps, "The header is not valid JSON: a string holds half a surrogate pair.");
		ps->p += 2;
		if (!hex4(ps, &low))
			return false;
		if (low < 0xDC00 || low >= 0xE000)
			REFUSE(ps, "The header is not valid JSON: a string holds half a surrogate pair.");
		c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
	}
	put_utf8(ps, c);
	return true;
}

/* What follows a backslash. */
static bool
read_escape(Parser *ps)
{
	static const char codes[] = "\"\\/bfnrt";
	static const char meanings[] = "\"\\/\b\f\n\r\t";
	const char *code;

	if (ps->p < ps->end && *ps->p == 'u')
	{
		ps->p++;
		return read_unicode_escape(ps);
	}
	code = ps->p < ps->end && *ps->p != '\0' ? strchr(codes, *ps->p) : NULL;
	if (code == NULL)
		return unexpected(ps, "the code of an escape");
	*ps->free++ = meanings[code - codes];
	ps->p++;
	return true;
}

/* Reads a string, ended by a zero byte. */
static bool
read_string(Parser *ps, char **value)
{
	if (!take(ps, '"', "a string"))
		return false;
	*value = ps->free;
	for (;;)
	{
		if (ps->p == ps->end || (unsigned char) *ps->p < ' ')
			return unexpected(ps, "the rest of a string");
		if (*ps->p == '"')
			break;
		if (*ps->p != '\\')
			*ps->free++ = *ps->p++;
		else
		{
			ps->p++;
			if (!read_escape(ps))
				return false;
		}
	}
	ps->p++;
	*ps->free++ = '\0';
	return true;
}

static bool
read_digits(Parser *ps)
{
	if (ps->p == ps->end || *ps->p < '0' || *ps->p > '9')
		return unexpected(ps, "a digit");
	while (ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9')
		ps->p++;
	return true;
}

/* Reads a number of any kind; *text .. ps->p is what it is written as. */
static bool
read_number(Parser *ps, const char **text)
{
	(void) peek(ps);
	*text = ps->p;
	if (ps->p < ps->end && *ps->p == '-')
		ps->p++;
	if (ps->p < ps->end && *ps->p == '0')
		ps->p++;				/* no digit may follow it: whatever reads on will not expect one */
	else if (!read_digits(ps))
		return false;
	if (ps->p < ps->end && *ps->p == '.')
	{
		ps->p++;
		if (!read_digits(ps))
			return false;
	}
	if (ps->p < ps->end && (*ps->p == 'e' || *ps->p == 'E'))
	{
		ps->p++;
		if (ps->p < ps->end && (*ps->p == '+' || *ps->p == '-'))
			ps->p++;
		return read_digits(ps);
	}
	return true;
}

static bool
read_literal(Parser *ps)
{
	static const char *const literals[] = {"true", "false", "null"};

	for (int i = 0; i < 3; i++)
	{
		size_t		n = strlen(literals[i]);

		if ((size_t) (ps->end - ps->p) >= n && memcmp(ps->p, literals[i], n) == 0)
		{
			ps->p += n;
			return true;
		}
	}
	return unexpected(ps, "a value");
}

/* A string, number or literal that nobody asks for. */
static bool
skip_scalar(Parser *ps)
{
	char	   *mark = ps->free;
	char	   *string;
	const char *number;
	char		c = peek(ps);

	if (c == '"')
	{
		if (!read_string(ps, &string))
			return false;
		ps->free = mark;
		return true;
	}
	if (c == '-' || (c >= '0' && c <= '9'))
		return read_number(ps, &number);
	return read_literal(ps);
}

/* A key that nobody asks for, and its colon. */
static bool
skip_key(Parser *ps)
{
	char	   *mark = ps->free;
	char	   *key;

	if (!read_string(ps, &key) || !take(ps, ':', "\":\""))
		return false;
	ps->free = mark;
	return true;
}

/* Any value at a depth of so many open objects and arrays. */
static bool
skip_value(Parser *ps, int depth)
{
	bool		is_object[GA_ST_MAX_NESTING + 1];
	int			base = depth;

	for (;;)
	{
		char		c = peek(ps);

		if (c == '{' || c == '[')
		{
			if (++depth > GA_ST_MAX_NESTING)
				REFUSE(ps, "The header is nested deeper than %d levels.", GA_ST_MAX_NESTING);
			ps->p++;
			is_object[depth] = c == '{';
			if (peek(ps) != (c == '{' ? '}' : ']'))
			{
				if (c == '{' && !skip_key(ps))
					return false;
				continue;
			}
			ps->p++;
			depth--;
		}
		else if (!skip_scalar(ps))
			return false;

		/* A value has ended: so may what it is in. */
		for (; depth > base; depth--)
		{
			c = peek(ps);
			if (c == ',')
				break;
			if (!take(ps, is_object[depth] ? '}' : ']', is_object[depth] ? "\",\" or \"}\"" : "\",\" or \"]\""))
				return false;
		}
		if (depth == base)
			return true;
		ps->p++;
		if (is_object[depth] && !skip_key(ps))
			return false;
	}
}

/* Goes to the next member of an object or array; *more: there is one. first: none was read yet. */
static bool
next_member(Parser *ps, char close, bool first, bool *more)
{
	char		c = peek(ps);

	*more = c != close || ps->p == ps->end;
	if (!*more)
		ps->p++;
	else if (!first)
		return take(ps, ',', close == '}' ? "\",\" or \"}\"" : "\",\" or \"]\"");
	return true;
}

/* ---- entries ---- */

static GaStTensor *
add_tensor(Parser *ps, char *name)
{
	GaStHeader *header = ps->header;
	GaStTensor *tensor;

	if (header->ntensors == ps->max_tensors)
	{
		ps->max_tensors = ps->max_tensors == 0 ? 64 : 2 * ps->max_tensors;
		header->tensors = ps->allocate(header->tensors, sizeof(GaStTensor) * ps->max_tensors);
	}
	tensor = &header->tensors[header->ntensors++];
	memset(tensor, 0, sizeof(GaStTensor));
	tensor->name = name;
	return tensor;
}

static GaStPair *
add_pair(Parser *ps, char *key)
{
	GaStHeader *header = ps->header;
	GaStPair   *pair;

	if (header->npairs == ps->max_pairs)
	{
		ps->max_pairs = ps->max_pairs == 0 ? 8 : 2 * ps->max_pairs;
		header->pairs = ps->allocate(header->pairs, sizeof(GaStPair) * ps->max_pairs);
	}
	pair = &header->pairs[header->npairs++];
	pair->key = key;
	pair->value = NULL;
	return pair;
}

static bool
read_metadata(Parser *ps)
{
	bool		more;

	if (peek(ps) != '{')
		REFUSE(ps, "The \"__metadata__\" is not an object.");
	ps->p++;
	for (bool first = true;; first = false)
	{
		char	   *key;
		GaStPair   *pair;

		if (!next_member(ps, '}', first, &more))
			return false;
		if (!more)
			return true;
		if (!read_string(ps, &key) || !take(ps, ':', "\":\""))
			return false;
		pair = add_pair(ps, key);
		if (peek(ps) != '"')
			REFUSE(ps, "The \"__metadata__\" key \"%.*s\" is not a string.", SHOWN(key));
		if (!read_string(ps, &pair->value))
			return false;
	}
}

/* A number that must be a non-negative integer of 63 bits. */
static bool
read_count(Parser *ps, Field field, const char *tensor, uint64_t *value)
{
	const char *text;
	char		c = peek(ps);

	if (c != '-' && (c < '0' || c > '9'))
		REFUSE(ps, "The \"%s\" of tensor \"%.*s\" is not a non-negative integer.", field_names[field], SHOWN(tensor));
	if (!read_number(ps, &text))
		return false;
	*value = 0;
	for (const char *p = text; p < ps->p; p++)
	{
		if (*p < '0' || *p > '9' ||
			__builtin_mul_overflow(*value, (uint64_t) 10, value) ||
			__builtin_add_overflow(*value, (uint64_t) (*p - '0'), value) || *value > INT64_MAX)
			REFUSE(ps, "The \"%s\" of tensor \"%.*s\" holds %.*s, which is not a non-negative integer of 63 bits.",
				   field_names[field], SHOWN(tensor), (int) (ps->p - text > 40 ? 40 : ps->p - text), text);
	}
	return true;
}

static bool
read_dtype(Parser *ps, GaStTensor *tensor)
{
	char	   *mark = ps->free;
	char	   *name;

	if (peek(ps) != '"')
		REFUSE(ps, "The \"dtype\" of tensor \"%.*s\" is not a string.", SHOWN(tensor->name));
	if (!read_string(ps, &name))
		return false;

	/* The format's names are upper case; our look-up takes any. */
	tensor->dtype = ga_dtype_lookup(name, strlen(name));
	if (tensor->dtype == 0 || strcmp(ga_dtype_info(tensor->dtype)->name, name) != 0)
		REFUSE(ps, "Tensor \"%.*s\" has the unknown dtype \"%.*s\".", SHOWN(tensor->name), SHOWN(name));
	ps->free = mark;
	return true;
}

/* An array of counts: those of the shape, or the two offsets. */
static bool
read_counts(Parser *ps, Field field, GaStTensor *tensor, uint64_t *offsets, int *noffsets)
{
	bool		more;

	if (peek(ps) != '[')
		REFUSE(ps, "The \"%s\" of tensor \"%.*s\" is not an array.", field_names[field], SHOWN(tensor->name));
	ps->p++;
	for (bool first = true;; first = false)
	{
		uint64_t	value = 0;

		if (!next_member(ps, ']', first, &more))
			return false;
		if (!more)
			return true;
		if (!read_count(ps, field, tensor->name, &value))
			return false;
		if (field == FIELD_OFFSETS)
		{
			if ((*noffsets)++ < 2)
				offsets[*noffsets - 1] = value;
		}
		else if (tensor->ndim == GA_MAX_RANK)
			REFUSE(ps, "Tensor \"%.*s\" has more than %d dimensions, the most that can be stored.", SHOWN(tensor->name), GA_MAX_RANK);
		else
			tensor->dims[tensor->ndim++] = (int64_t) value;
	}
}

/* A tensor's entry is complete: its keys, and shape against offsets. */
static bool
finish_tensor(Parser *ps, GaStTensor *tensor, int seen, const uint64_t *offsets, int noffsets)
{
	uint64_t	count = 1;
	uint64_t	nelem;
	uint64_t	nbytes;

	if (seen != FIELD_ALL)
		REFUSE(ps, "Tensor \"%.*s\" has no \"%s\".", SHOWN(tensor->name),
			   field_names[!(seen & FIELD_DTYPE) ? FIELD_DTYPE : !(seen & FIELD_SHAPE) ? FIELD_SHAPE : FIELD_OFFSETS]);
	if (noffsets != 2)
		REFUSE(ps, "\"data_offsets\" of tensor \"%.*s\" has %d numbers instead of 2.", SHOWN(tensor->name), noffsets);
	if (offsets[0] > offsets[1])
		REFUSE(ps, "Tensor \"%.*s\" ends at %llu, before its begin at %llu.",
			   SHOWN(tensor->name), (unsigned long long) offsets[1], (unsigned long long) offsets[0]);

	/* In the order of the dimensions, as the reference reader: an empty one does not excuse an overflow before it. */
	for (int i = 0; i < tensor->ndim; i++)
		if (__builtin_mul_overflow(count, (uint64_t) tensor->dims[i], &count))
			REFUSE(ps, "The shape of tensor \"%.*s\" overflows.", SHOWN(tensor->name));
	if (count % 8 * ga_dtype_info(tensor->dtype)->bits % 8 != 0)
		REFUSE(ps, "The elements of tensor \"%.*s\" do not fill whole bytes.", SHOWN(tensor->name));
	if (!ga_shape_size(tensor->dtype, tensor->ndim, tensor->dims, &nelem, &nbytes))
		REFUSE(ps, "The shape of tensor \"%.*s\" overflows.", SHOWN(tensor->name));
	if (nbytes != offsets[1] - offsets[0])
		REFUSE(ps, "Tensor \"%.*s\" has %llu bytes by its offsets, but %llu by its dtype and shape.", SHOWN(tensor->name),
			   (unsigned long long) (offsets[1] - offsets[0]), (unsigned long long) nbytes);
	tensor->begin = offsets[0];
	tensor->nbytes = nbytes;
	return true;
}

static Field
field_of_key(const char *key)
{
	for (int field = FIELD_DTYPE; field <= FIELD_OFFSETS; field *= 2)
		if (strcmp(key, field_names[field]) == 0)
			return field;
	return FIELD_UNKNOWN;
}

static bool
read_tensor(Parser *ps, char *name)
{
	GaStTensor *tensor = add_tensor(ps, name);
	uint64_t	offsets[2] = {0, 0};
	int			noffsets = 0;
	int			seen = 0;
	bool		more;

	if (peek(ps) != '{')
		REFUSE(ps, "The entry of tensor \"%.*s\" is not an object.", SHOWN(name));
	ps->p++;
	for (bool first = true;; first = false)
	{
		char	   *mark = ps->free;
		char	   *key;
		Field		field;

		if (!next_member(ps, '}', first, &more))
			return false;
		if (!more)
			return finish_tensor(ps, tensor, seen, offsets, noffsets);
		if (!read_string(ps, &key) || !take(ps, ':', "\":\""))
			return false;
		field = field_of_key(key);
		ps->free = mark;
		if (seen & field)
			REFUSE(ps, "Duplicate key: \"%s\" of tensor \"%.*s\".", field_names[field], SHOWN(name));
		seen |= field;
		if (field == FIELD_UNKNOWN ? !skip_value(ps, 2) :
			field == FIELD_DTYPE ? !read_dtype(ps, tensor) : !read_counts(ps, field, tensor, offsets, &noffsets))
			return false;
	}
}

static bool
read_entries(Parser *ps)
{
	bool		seen_metadata = false;
	bool		more;

	if (!take(ps, '{', "\"{\""))
		return false;
	for (bool first = true;; first = false)
	{
		char	   *name;

		if (!next_member(ps, '}', first, &more))
			return false;
		if (!more)
			break;
		if (!read_string(ps, &name) || !take(ps, ':', "\":\""))
			return false;
		if (strcmp(name, "__metadata__") == 0)
		{
			if (seen_metadata)
				REFUSE(ps, "Duplicate key: \"__metadata__\".");
			seen_metadata = true;
			if (!read_metadata(ps))
				return false;
		}
		else if (!read_tensor(ps, name))
			return false;
	}
	return ps->p == ps->end || unexpected(ps, "its end");
}

/* ---- the whole ---- */

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
static const char *
find_duplicate(const char **names, int count)
{
	qsort(names, count, sizeof(char *), compare_strings);
	for (int i = 1; i < count; i++)
		if (strcmp(names[i - 1], names[i]) == 0)
			return names[i];
	return NULL;
}

const char *
ga_st_duplicate_tensor(const GaStTensor *tensors, int count, GaStAllocate allocate)
{
	const char **names = allocate(NULL, sizeof(char *) * (count + 1));

	for (int i = 0; i < count; i++)
		names[i] = tensors[i].name;
	return find_duplicate(names, count);
}

const char *
ga_st_duplicate_pair(const GaStPair *pairs, int count, GaStAllocate allocate)
{
	const char **names = allocate(NULL, sizeof(char *) * (count + 1));

	for (int i = 0; i < count; i++)
		names[i] = pairs[i].key;
	return find_duplicate(names, count);
}

static bool
check_duplicates(Parser *ps)
{
	GaStHeader *header = ps->header;
	const char *twice = ga_st_duplicate_tensor(header->tensors, header->ntensors, ps->allocate);

	if (twice != NULL)
		REFUSE(ps, "Duplicate key: tensor \"%.*s\".", SHOWN(twice));
	twice = ga_st_duplicate_pair(header->pairs, header->npairs, ps->allocate);
	if (twice != NULL)
		REFUSE(ps, "Duplicate key: \"__metadata__\" key \"%.*s\".", SHOWN(twice));
	return true;
}

/* The data must be covered from its start to its end, without holes and overlaps. */
static bool
check_coverage(Parser *ps)
{
	GaStHeader *header = ps->header;
	unsigned long long end = 0;

	if (header->ntensors > 0)
		qsort(header->tensors, header->ntensors, sizeof(GaStTensor), compare_offsets);
	for (int i = 0; i < header->ntensors; i++)
	{
		GaStTensor *tensor = &header->tensors[i];

		if (tensor->begin > end)
			REFUSE(ps, "There is a hole before tensor \"%.*s\": it begins at %llu, but the data before it ends at %llu.",
				   SHOWN(tensor->name), (unsigned long long) tensor->begin, end);
		if (tensor->begin < end)
			REFUSE(ps, "Tensor \"%.*s\" overlaps another: it begins at %llu, but the data before it ends at %llu.",
				   SHOWN(tensor->name), (unsigned long long) tensor->begin, end);
		end += tensor->nbytes;
	}
	if (end != header->data_bytes)
		REFUSE(ps, "The tensors end at %llu, but the file has %llu bytes of data.", end, (unsigned long long) header->data_bytes);
	return true;
}

/* True for well-formed UTF-8: no overlong forms, surrogates or codes beyond U+10FFFF. */
static bool
is_utf8(const char *text, size_t len)
{
	const unsigned char *p = (const unsigned char *) text;
	const unsigned char *end = p + len;

	while (p < end)
	{
		int			more = *p < 0x80 ? 0 : *p >= 0xC2 && *p < 0xE0 ? 1 : *p >= 0xE0 && *p < 0xF0 ? 2 : *p >= 0xF0 && *p < 0xF5 ? 3 : -1;

		if (more < 0 || end - p <= more)
			return false;
		for (int i = 1; i <= more; i++)
			if ((p[i] & 0xC0) != 0x80)
				return false;
		if ((*p == 0xE0 && p[1] < 0xA0) || (*p == 0xED && p[1] >= 0xA0) || (*p == 0xF0 && p[1] < 0x90) || (*p == 0xF4 && p[1] >= 0x90))
			return false;
		p += more + 1;
	}
	return true;
}

bool
ga_st_read_length(const char *prefix, uint64_t file_bytes, uint64_t *length, char reason[GA_ST_REASON])
{
	uint64_t	len = 0;

	if (file_bytes < GA_ST_PREFIX)
		return refuse(reason, "The file has %llu bytes, less than the %d of a header length.", (unsigned long long) file_bytes, GA_ST_PREFIX);
	for (int i = GA_ST_PREFIX - 1; i >= 0; i--)
		len = len << 8 | (unsigned char) prefix[i];
	if (len > GA_ST_MAX_HEADER)
		return refuse(reason, "The header length is %llu, more than the %d allowed.", (unsigned long long) len, GA_ST_MAX_HEADER);
	if (len > file_bytes - GA_ST_PREFIX)
		return refuse(reason, "The header length is %llu, but only %llu bytes follow it.",
					  (unsigned long long) len, (unsigned long long) (file_bytes - GA_ST_PREFIX));
	*length = len;
	return true;
}

bool
ga_st_read_header(const char *json, size_t len, uint64_t data_bytes, GaStAllocate allocate,
				  GaStHeader *header, char reason[GA_ST_REASON])
{
	Parser		ps = {.json = json,.p = json,.header = header,.allocate = allocate,.reason = reason};

	if (len == 0 || json[0] != '{')
		return refuse(reason, "The header does not begin with \"{\".");
	while (json[len - 1] == ' ')
		len--;
	if (json[len - 1] != '}')
		return refuse(reason, "The header does not end with \"}\" and spaces.");
	if (!is_utf8(json, len))
		return refuse(reason, "The header is not valid UTF-8.");
	ps.end = json + len;
	header->ntensors = header->npairs = 0;
	header->tensors = NULL;
	header->pairs = NULL;
	header->data_bytes = data_bytes;
	header->strings = ps.free = allocate(NULL, len);
	return read_entries(&ps) && check_duplicates(&ps) && check_coverage(&ps);
}
