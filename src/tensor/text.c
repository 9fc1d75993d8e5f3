/*
 * text.c
 *		Reading the text form of tensors; print.c writes it.
 *
 *	nested:		[1,2,3]   [[1,2],[3,4]]   3.5 (rank 0)   F16:[1,2]
 *	compact:	F32[1000,256]:zstd:<base64>   F32[2]:raw:<base64>
 *
 * Both are accepted everywhere and both are exact: floats print as the shortest
 * decimal that reads back to the same bits. What nested text cannot express
 * (empty inner dimensions, NaN payloads, opaque dtypes) prints compact.
 */
#include "base/compat.h"

#include <math.h>

#include "common/base64.h"
#include "mb/pg_wchar.h"
#include "tensor/tensor.h"

typedef struct Parser
{
	const GaKind *kind;
	const char *text;			/* whole input, for messages */
	const char *p;
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];	/* -1 until the first bracket of that depth closes */
	uint64		max_elements;
	uint64		count;
	StringInfoData data;
	Node	   *escontext;
} Parser;

#define SYNTAX_ERROR(ps, ret, ...) \
	ereturn((ps)->escontext, ret, \
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION), \
			 errmsg("invalid input syntax for type %s: \"%s\"", (ps)->kind->name, excerpt((ps)->text)), \
			 errdetail(__VA_ARGS__)))

/* Input may be hundreds of MB; a message quotes its beginning. */
static char *
excerpt(const char *text)
{
	size_t		len = strnlen(text, 61);

	return len <= 60 ? pstrdup(text) : psprintf("%.*s...", pg_mbcliplen(text, 60, 57), text);
}

/* ASCII only: the locale has no say in what a tensor is. */
static inline bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static inline bool
is_word(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static inline void
skip_space(Parser *ps)
{
	while (is_space(*ps->p))
		ps->p++;
}

/* Matches a word in any letter case that no further letter, digit or underscore follows. */
static bool
match_word(const char *p, const char *word, const char **end)
{
	size_t		len = strlen(word);

	if (pg_strncasecmp(p, word, len) != 0 || is_word(p[len]))
		return false;
	*end = p + len;
	return true;
}

static bool
out_of_range(Parser *ps, const char *number, size_t len)
{
	ereturn(ps->escontext, false,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("\"%.*s\" is out of range for %s in type %s",
					(int) Min(len, 40), number, ga_dtype_name(ps->dtype), ps->kind->name)));
}

/* Appends the bytes of one element. */
static inline void
append_element(Parser *ps, const void *element, int width)
{
	if (unlikely(ps->data.maxlen - ps->data.len <= width))
		enlargeStringInfo(&ps->data, width);
	memcpy(ps->data.data + ps->data.len, element, width);
	ps->data.len += width;
}

static const double exact_power_of_10[] = {
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22
};

#define MAX_EXACT_POWER 22

/*
 * Reads the unsigned decimals that one operation on doubles rounds correctly:
 * a significand below 2^53 times or through a power of ten that is exact.
 * False for all others and for what is no number: they are strtod's.
 */
static inline bool
read_short_decimal(const char *p, const char **end, double *value)
{
	const char *first = p;
	uint64		significand = 0;
	int			exponent = 0;

	for (; is_digit(*p) && p - first < 19; p++)
		significand = significand * 10 + (*p - '0');
	if (*p == '.')
	{
		for (p++; is_digit(*p) && p - first < 19; p++, exponent--)
			significand = significand * 10 + (*p - '0');
	}
	if (is_digit(*p) || !is_digit(*first))
		return false;
	if (*p == 'e' || *p == 'E')
	{
		const char *digits = p + 1 + (p[1] == '-' || p[1] == '+');
		int			written = 0;

		for (p = digits; is_digit(*p) && p - digits < 4; p++)
			written = written * 10 + (*p - '0');
		if (p == digits || is_digit(*p))
			return false;
		exponent += digits[-1] == '-' ? -written : written;
	}
	if (significand >> 53 || abs(exponent) > MAX_EXACT_POWER)
		return false;
	*value = exponent < 0 ? (double) significand / exact_power_of_10[-exponent] : (double) significand * exact_power_of_10[exponent];
	*end = p;
	return true;
}

/*
 * Reads a decimal at ps->p, rounded once: to F64 in *d, and for F32 to F32 in
 * *f. Sets *end behind it; reports what is no number or out of range.
 */
static bool
read_decimal(Parser *ps, const char *digits, const char **end, double *d, float *f)
{
	const char *start = ps->p;
	bool		is_f32 = ps->dtype == GA_F32;
	char	   *stop;

	if (read_short_decimal(digits, end, d))
	{
		uint64		bits;

		memcpy(&bits, d, sizeof bits);
		if (*start == '-')
			*d = -*d;
		*f = (float) *d;
		/*
		 * The double rounds to the F32 that the decimal rounds to, unless it lies halfway between two: the decimal
		 * may be on either side of it. It is zero or in the normal range of F32, by the bounds above.
		 */
		if (!is_f32 || (bits & 0x1FFFFFFF) != 0x10000000)
			return true;
	}
	else if (!(is_digit(*digits) || *digits == '.') || (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X')))
		SYNTAX_ERROR(ps, false, "A number was expected at \"%s\".", excerpt(start));

	errno = 0;
	if (is_f32)
		*d = *f = strtof(start, &stop);
	else
		*d = strtod(start, &stop);
	if (stop == start)
		SYNTAX_ERROR(ps, false, "A number was expected at \"%s\".", excerpt(start));
	if (errno == ERANGE && (*d == 0 || isinf(*d)))
		return out_of_range(ps, start, stop - start);
	*end = stop;
	return true;
}

/* Appends a float element; F16 and BF16 are rounded once, from F64. */
static bool
parse_float(Parser *ps)
{
	const char *start = ps->p;
	const char *digits = start + (*start == '-' || *start == '+');
	const char *end = NULL;
	double		d;
	float		f = 0;
	uint16		h;

	if (is_digit(*digits))
	{
		if (!read_decimal(ps, digits, &end, &d, &f))
			return false;
	}
	else if (match_word(digits, "nan", &end))
		d = f = NAN;
	else if (match_word(digits, "infinity", &end) || match_word(digits, "inf", &end))
		d = f = *start == '-' ? -INFINITY : INFINITY;
	else if (!read_decimal(ps, digits, &end, &d, &f))
		return false;
	ps->p = end;

	switch (ps->dtype)
	{
		case GA_F32:
			append_element(ps, &f, sizeof f);
			return true;
		case GA_F64:
			append_element(ps, &d, sizeof d);
			return true;
		case GA_F16:
			h = ga_double_to_half(d);
			if (isfinite(d) && isinf(ga_half_to_float(h)))
				return out_of_range(ps, start, end - start);
			break;
		default:
			h = ga_double_to_bfloat(d);
			if (isfinite(d) && isinf(ga_bfloat_to_float(h)))
				return out_of_range(ps, start, end - start);
			break;
	}
	append_element(ps, &h, sizeof h);
	return true;
}

static bool
parse_integer(Parser *ps)
{
	const GaDtypeInfo *info = ga_dtype_info(ps->dtype);
	const char *start = ps->p;
	const char *end;
	uint64		magnitude = 0;
	uint64		limit;
	bool		negative = *start == '-';

	if (ps->dtype == GA_BOOL && (match_word(start, "true", &end) || match_word(start, "false", &end)))
	{
		appendStringInfoChar(&ps->data, *start == 't' || *start == 'T');
		ps->p = end;
		return true;
	}
	end = start + (negative || *start == '+');
	if (!is_digit(*end))
		SYNTAX_ERROR(ps, false, "An integer was expected at \"%s\".", excerpt(start));
	for (; is_digit(*end); end++)
	{
		uint64		digit = *end - '0';

		if (magnitude > (PG_UINT64_MAX - digit) / 10)
			return out_of_range(ps, start, end - start + 1);
		magnitude = magnitude * 10 + digit;
	}
	if (ps->dtype == GA_BOOL)
		limit = 1;
	else if (info->cls == GA_CLASS_UNSIGNED)
		limit = info->bits == 64 ? PG_UINT64_MAX : (UINT64CONST(1) << info->bits) - 1;
	else
		limit = (UINT64CONST(1) << (info->bits - 1)) - (negative ? 0 : 1);
	if (magnitude > limit || (negative && magnitude && info->cls != GA_CLASS_SIGNED))
		return out_of_range(ps, start, end - start);
	if (negative)
		magnitude = -magnitude;

	/* Storage is native and the payload little-endian by requirement of the build. */
	append_element(ps, &magnitude, info->width);
	ps->p = end;
	return true;
}

static bool
parse_scalar(Parser *ps)
{
	if (++ps->count > ps->max_elements)
		ereturn(ps->escontext, false,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s cannot have more than " UINT64_FORMAT " elements of dtype %s",
						ps->kind->name, ps->max_elements, ga_dtype_name(ps->dtype))));
	if (ga_dtype_info(ps->dtype)->cls == GA_CLASS_FLOAT)
		return parse_float(ps);
	return parse_integer(ps);
}

static bool
ragged(Parser *ps)
{
	ereturn(ps->escontext, false,
			(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
			 errmsg("malformed %s: nested lists must have equal lengths", ps->kind->name),
			 errdetail("The list that ends or begins at \"%s\" differs from its neighbours.", excerpt(ps->p))));
}

/* Parses "[[1,2],[3,4]]" without recursion; fills ndim, dims and data. */
static bool
parse_nested(Parser *ps)
{
	int64		counts[GA_MAX_RANK + 1];
	int			depth = 0;
	int			leaf_depth = 0;	/* depth at which numbers stand, once known */
	bool		expect_item = true;
	uint64		tokens = 0;

	for (int i = 0; i < GA_MAX_RANK; i++)
		ps->dims[i] = -1;
	do
	{
		/* Counted by tokens and not by elements: lists may be empty. */
		GA_CHECK_INTERRUPTS(tokens);
		tokens++;
		skip_space(ps);
		if (expect_item && *ps->p == '[')
		{
			if (depth > 0 && depth == leaf_depth)
				return ragged(ps);
			if (depth > 0)
				counts[depth]++;
			if (++depth > GA_MAX_RANK)
				ereturn(ps->escontext, false,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("number of dimensions exceeds the maximum (%d)", GA_MAX_RANK)));
			counts[depth] = 0;
			ps->ndim = Max(ps->ndim, depth);
			ps->p++;
			skip_space(ps);
			expect_item = *ps->p != ']';
		}
		else if (!expect_item && *ps->p == ']')
		{
			if (ps->dims[depth - 1] == -1)
				ps->dims[depth - 1] = counts[depth];
			else if (ps->dims[depth - 1] != counts[depth])
				return ragged(ps);
			ps->p++;
			depth--;
		}
		else if (!expect_item && *ps->p == ',')
		{
			ps->p++;
			expect_item = true;
		}
		else if (*ps->p == '\0')
			SYNTAX_ERROR(ps, false, "The input ends inside a list.");
		else if (!expect_item)
			SYNTAX_ERROR(ps, false, "\",\" or \"]\" was expected at \"%s\".", excerpt(ps->p));
		else
		{
			if (leaf_depth == 0)
				leaf_depth = depth;
			if (depth != leaf_depth || ps->ndim != depth)
				return ragged(ps);
			if (!parse_scalar(ps))
				return false;
			counts[depth]++;
			expect_item = false;
		}
	} while (depth > 0);
	return true;
}

/* An unsigned decimal of a compact shape; false on overflow or no digits. */
static bool
parse_dim(const char **p, int64 *dim)
{
	const char *s = *p;
	int64		v = 0;

	if (!is_digit(*s))
		return false;
	for (; is_digit(*s); s++)
	{
		if (v > (PG_INT64_MAX - (*s - '0')) / 10)
			return false;
		v = v * 10 + (*s - '0');
	}
	*dim = v;
	*p = s;
	return true;
}

/* Parses "[2,3]:zstd:<base64>" after the dtype. */
static GaTensor *
parse_compact(Parser *ps)
{
	const char *p = ps->p;
	int64		dims[GA_MAX_RANK];
	int			ndim = 0;
	uint64		nelem,
				nbytes;
	bool		zstd;
	int			len,
				got;
	void	   *bytes;			/* char * or uint8 *, by version */
	char	   *data;
	GaTensor   *tensor;

	if (*p++ != '[')
		SYNTAX_ERROR(ps, NULL, "A shape was expected at \"%s\".", excerpt(ps->p));
	while (*p != ']')
	{
		if (ndim == GA_MAX_RANK)
			ereturn(ps->escontext, NULL,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("number of dimensions exceeds the maximum (%d)", GA_MAX_RANK)));
		if ((ndim > 0 && *p++ != ',') || !parse_dim(&p, &dims[ndim++]))
			SYNTAX_ERROR(ps, NULL, "The shape is not a list of non-negative integers.");
	}
	p++;
	if (!ga_kind_check(ps->kind, ps->dtype, ndim, dims, &nelem, &nbytes, ps->escontext))
		return NULL;

	if (strncmp(p, ":zstd:", 6) == 0)
	{
		zstd = true;
		p += 6;
	}
	else if (strncmp(p, ":raw:", 5) == 0)
	{
		zstd = false;
		p += 5;
	}
	else
		SYNTAX_ERROR(ps, NULL, "\":raw:\" or \":zstd:\" must follow the shape.");

	len = strlen(p);
	while (len > 0 && is_space(p[len - 1]))
		len--;
	/* Raw text has one right length, compressed text cannot be longer than it. */
	if ((uint64) len > (nbytes + 2) / 3 * 4 || (!zstd && (uint64) len != (nbytes + 2) / 3 * 4))
		SYNTAX_ERROR(ps, NULL, "The base64 text does not have the length that the shape asks for.");
	bytes = palloc(pg_b64_dec_len(len) + 4);
	got = pg_b64_decode(p, len, (void *) bytes, pg_b64_dec_len(len) + 4);
	if (got < 0)
		SYNTAX_ERROR(ps, NULL, "The base64 text is not valid.");

	tensor = ga_tensor_new(ps->kind, ps->dtype, ndim, dims, &data);
	if (zstd)
	{
		if (!ga_decompress(bytes, got, ga_dtype_info(ps->dtype)->width, data, nbytes))
			SYNTAX_ERROR(ps, NULL, "The compressed bytes do not decode to the size of the shape.");
	}
	else
	{
		if ((uint64) got != nbytes)
			SYNTAX_ERROR(ps, NULL, "The base64 text does not have the length that the shape asks for.");
		memcpy(data, bytes, nbytes);
	}
	pfree(bytes);
	return ga_tensor_seal(ps->kind, tensor, ps->escontext);
}

/* Reads "NAME" before ":" or "["; 0 when the text does not begin with a name, -1 when no dtype has it. */
static int
parse_prefix(const char *p, const char **end)
{
	int			dtype;

	const char *s = p;

	while (is_word(*s))
		s++;
	if (s == p || is_digit(*p) || (*s != ':' && *s != '['))
		return 0;
	*end = s;
	dtype = ga_dtype_lookup(p, s - p);
	return dtype ? dtype : -1;
}

GaTensor *
ga_tensor_parse(const GaKind *kind, const char *text, int32 typmod, Node *escontext)
{
	int			default_dtype = ga_typmod_dtype(typmod) ? ga_typmod_dtype(typmod) : GA_F32;
	Parser		ps = {.kind = kind,.text = text,.p = text,.escontext = escontext};
	const char *end;
	uint64		nelem,
				nbytes;
	char	   *data;
	GaTensor   *tensor;

	skip_space(&ps);
	ps.dtype = parse_prefix(ps.p, &end);
	if (ps.dtype < 0)
		SYNTAX_ERROR(&ps, NULL, "There is no dtype \"%s\".", excerpt(pnstrdup(ps.p, end - ps.p)));
	if (ps.dtype > 0)
	{
		ps.p = end;
		if (*ps.p == '[')
			return parse_compact(&ps);
		ps.p++;
	}
	else
		ps.dtype = default_dtype;

	/* A dtype that the kind does not hold is refused before its numbers are read. */
	if (kind->floats_only && !ga_kind_check(kind, ps.dtype, 1, (int64[]) {1}, &nelem, &nbytes, escontext))
		return NULL;
	if (ga_dtype_info(ps.dtype)->cls == GA_CLASS_OPAQUE)
		SYNTAX_ERROR(&ps, NULL, "Values of dtype %s have no numbers; use the form %s[..]:raw:<base64>.",
					 ga_dtype_name(ps.dtype), ga_dtype_name(ps.dtype));
	ps.max_elements = kind->max_bytes / ga_dtype_info(ps.dtype)->width;
	initStringInfo(&ps.data);
	skip_space(&ps);
	if (*ps.p == '[' ? !parse_nested(&ps) : !parse_scalar(&ps))
		return NULL;
	skip_space(&ps);
	if (*ps.p != '\0')
		SYNTAX_ERROR(&ps, NULL, "Junk after the value: \"%s\".", excerpt(ps.p));
	if (!ga_kind_check(kind, ps.dtype, ps.ndim, ps.dims, &nelem, &nbytes, escontext))
		return NULL;
	tensor = ga_tensor_new(kind, ps.dtype, ps.ndim, ps.dims, &data);
	memcpy(data, ps.data.data, nbytes);
	pfree(ps.data.data);
	return ga_tensor_seal(kind, tensor, escontext);
}
