/*
 * server.c
 *		As much of a server as the fuzzed files need (server.h). Messages are
 *		formatted, so that a sanitizer sees what they read.
 */
#include "base/compat.h"

#include <math.h>

#include "fuzz.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "math/distance.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "server.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

jmp_buf    *fuzz_escape;

bool		ga_compression = true;
int			ga_compression_level = 1;

volatile sig_atomic_t InterruptPending = false;
volatile uint32 InterruptHoldoffCount = 0;
volatile uint32 CritSectionCount = 0;

static int	error_level;
static int	error_code;
static char error_text[8192];

/* ---- errors ---- */

bool
errstart(int elevel, const char *domain)
{
	(void) domain;
	error_level = elevel;
	error_code = ERRCODE_INTERNAL_ERROR;
	return elevel >= ERROR;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return errstart(elevel, domain);
}

void
errfinish(const char *filename, int lineno, const char *funcname)
{
	(void) funcname;
	if (error_level < ERROR)
		return;
	if (fuzz_escape == NULL)
		fuzz_failed(filename, lineno, error_text);
	longjmp(*fuzz_escape, 1);
}

int
errcode(int sqlerrcode)
{
	error_code = sqlerrcode;
	return 0;
}

#define FORMAT(format) \
	do { \
		va_list		args; \
		va_start(args, format); \
		vsnprintf(error_text, sizeof error_text, format, args); \
		va_end(args); \
	} while (0)

int
errmsg(const char *fmt,...)
{
	FORMAT(fmt);
	return 0;
}

int
errmsg_internal(const char *fmt,...)
{
	FORMAT(fmt);
	return 0;
}

int
errdetail(const char *fmt,...)
{
	FORMAT(fmt);
	return 0;
}

int
errhint(const char *fmt,...)
{
	FORMAT(fmt);
	return 0;
}

bool
fuzz_is_refusal(const char *sqlstates)
{
	char		code[6];

	for (int i = 0; i < 5; i++)
		code[i] = PGUNSIXBIT(error_code >> 6 * i);
	code[5] = '\0';
	if (strstr(sqlstates, code) == NULL)
		fprintf(stderr, "%s: %s\n", code, error_text);
	return strstr(sqlstates, code) != NULL;
}

void
ProcessInterrupts(void)
{
}

/* ---- memory ---- */

static Size
checked(Size size)
{
	if (!AllocSizeIsValid(size))
		elog(ERROR, "invalid memory alloc request size %zu", size);
	return size;
}

void *
palloc(Size size)
{
	return fuzz_allocate(NULL, checked(size));
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
repalloc(void *pointer, Size size)
{
	return fuzz_allocate(pointer, checked(size));
}

void
pfree(void *pointer)
{
	fuzz_free(pointer);
}

char *
pnstrdup(const char *in, Size len)
{
	Size		n = strnlen(in, len);
	char	   *out = palloc(n + 1);

	memcpy(out, in, n);
	out[n] = '\0';
	return out;
}

char *
pstrdup(const char *in)
{
	return pnstrdup(in, strlen(in));
}

char *
psprintf(const char *fmt,...)
{
	FORMAT(fmt);
	return pstrdup(error_text);
}

/* ---- strings ---- */

void
initStringInfo(StringInfo str)
{
	str->maxlen = 1024;
	str->data = palloc(str->maxlen);
	str->len = str->cursor = 0;
	str->data[0] = '\0';
}

void
enlargeStringInfo(StringInfo str, int needed)
{
	Size		wanted = (Size) str->len + needed + 1;

	if (needed < 0 || wanted > MaxAllocSize)
		elog(ERROR, "a string gets too long");
	if (wanted > (Size) str->maxlen)
	{
		str->maxlen = Min(Max(wanted, (Size) 2 * str->maxlen), MaxAllocSize);
		str->data = repalloc(str->data, str->maxlen);
	}
}

void
appendStringInfoString(StringInfo str, const char *s)
{
	int			n = strlen(s);

	enlargeStringInfo(str, n);
	memcpy(str->data + str->len, s, n + 1);
	str->len += n;
}

void
appendStringInfoChar(StringInfo str, char ch)
{
	char		s[2] = {ch, '\0'};

	enlargeStringInfo(str, 1);
	memcpy(str->data + str->len++, s, 2);
}

void
appendStringInfo(StringInfo str, const char *fmt,...)
{
	FORMAT(fmt);
	appendStringInfoString(str, error_text);
}

const char *
pq_getmsgbytes(StringInfo msg, int datalen)
{
	const char *result = &msg->data[msg->cursor];

	if (datalen < 0 || datalen > msg->len - msg->cursor)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("insufficient data left in message")));
	msg->cursor += datalen;
	return result;
}

int
pg_mbcliplen(const char *mbstr, int len, int limit)
{
	int			n = Min(len, limit);

	while (n > 0 && n < len && ((unsigned char) mbstr[n] & 0xC0) == 0x80)
		n--;
	return n;
}

int
pg_lltoa(int64 ll, char *a)
{
	return sprintf(a, INT64_FORMAT, ll);
}

int
pg_ulltoa_n(uint64 l, char *a)
{
	char		digits[32];
	int			n = sprintf(digits, UINT64_FORMAT, l);

	memcpy(a, digits, n);		/* no zero at the end */
	return n;
}

int
pg_ultoa_n(uint32 l, char *a)
{
	return pg_ulltoa_n(l, a);
}

/* ---- values: none is toasted ---- */

struct varlena *
pg_detoast_datum(struct varlena *datum)
{
	return datum;
}

struct varlena *
pg_detoast_datum_packed(struct varlena *datum)
{
	return datum;
}

/* As distance.c, whose kernels take longer to build than all else here. */
bool
ga_has_nonfinite(int dtype, const void *a, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		double		value;

		ga_widen_f64(dtype, (const char *) a + i * ga_dtype_info(dtype)->width, &value, 1);
		if (!isfinite(value))
			return true;
	}
	return false;
}
