/*
 * print.c
 *		Writing the text form of tensors; text.c reads it and shows the forms.
 */
#include "base/compat.h"

#include <math.h>

#include "base/guc.h"
#include "common/base64.h"
#include "common/shortest_dec.h"
#include "tensor/tensor.h"
#include "utils/builtins.h"

#define SCALAR_TEXT_MAX DOUBLE_SHORTEST_DECIMAL_LEN	/* a 64-bit integer is shorter */

/* A NaN other than the one that the text "NaN" reads back to. */
static bool
is_odd_nan(int dtype, const char *data, uint64 i)
{
	switch (dtype)
	{
		case GA_F32:
			{
				uint32		u = ((const uint32 *) data)[i];

				return (u & 0x7FFFFFFF) > 0x7F800000 && u != 0x7FC00000;
			}
		case GA_F64:
			{
				uint64		u = ((const uint64 *) data)[i];

				return (u & ~(UINT64CONST(1) << 63)) > UINT64CONST(0x7FF0000000000000) &&
					u != UINT64CONST(0x7FF8000000000000);
			}
		case GA_F16:
			{
				uint16		u = ((const uint16 *) data)[i];

				return (u & 0x7FFF) > 0x7C00 && u != 0x7E00;
			}
		case GA_BF16:
			{
				uint16		u = ((const uint16 *) data)[i];

				return (u & 0x7FFF) > 0x7F80 && u != 0x7FC0;
			}
	}
	return false;
}

static bool
needs_compact(const GaView *view)
{
	if (ga_dtype_info(view->dtype)->cls == GA_CLASS_OPAQUE)
		return true;
	/* "[]" has one empty dimension; deeper brackets inside an empty one cannot be written. */
	for (int i = 0; i + 1 < view->ndim; i++)
		if (view->dims[i] == 0)
			return true;
	if (view->nelem == 0 && view->ndim > 1)
		return true;
	for (uint64 i = 0; i < view->nelem; i++)
	{
		if (is_odd_nan(view->dtype, view->data, i))
			return true;
		/* A BOOL byte may hold anything; only 0 and 1 have a word. */
		if (view->dtype == GA_BOOL && ((const uint8 *) view->data)[i] > 1)
			return true;
	}
	return false;
}

static char *
print_compact(const GaView *view)
{
	const void *bytes = view->data;	/* char * or uint8 *, by version */
	size_t		nbytes = view->nbytes;
	const char *codec = "raw";
	char	   *packed = NULL;
	StringInfoData buf;
	int			len;

	if (ga_compression && nbytes > 0)
	{
		size_t		size;

		packed = palloc(nbytes);
		size = ga_compress(view->data, nbytes, ga_dtype_info(view->dtype)->width, ga_compression_level, packed);
		if (size > 0)
		{
			bytes = packed;
			nbytes = size;
			codec = "zstd";
		}
	}
	initStringInfo(&buf);
	appendStringInfo(&buf, "%s%s:%s:", ga_dtype_name(view->dtype), ga_shape_text(view->ndim, view->dims), codec);
	len = pg_b64_enc_len(nbytes);
	enlargeStringInfo(&buf, len + 1);
	len = pg_b64_encode((const void *) bytes, nbytes, buf.data + buf.len, len + 1);
	if (len < 0)
		elog(ERROR, "base64 encoding failed");
	buf.len += len;
	buf.data[buf.len] = '\0';
	if (packed)
		pfree(packed);
	return buf.data;
}

static const double power_of_10[] = {
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23,
	1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38, 1e39, 1e40, 1e41, 1e42, 1e43, 1e44, 1e45
};

/* Writes digits * 10^exponent as the server writes a real: 0.05, 1200, 1.2e+30. Returns the length. */
static int
decimal_text(char *out, uint32 digits, int exponent)
{
	char		text[MAXINT8LEN];
	int			n;
	int			lead;
	char	   *p = out;

	for (; digits % 10 == 0; digits /= 10)
		exponent++;
	n = pg_ultoa_n(digits, text);
	lead = n - 1 + exponent;
	if (lead < -4 || lead >= 6)
	{
		*p++ = text[0];
		if (n > 1)
			*p++ = '.';
		memcpy(p, text + 1, n - 1);
		p += n - 1;
		*p++ = 'e';
		*p++ = lead < 0 ? '-' : '+';
		*p++ = '0' + abs(lead) / 10;
		*p++ = '0' + abs(lead) % 10;
		return p - out;
	}
	for (int place = Max(lead, 0); place >= Min(exponent, 0); place--)
	{
		if (place == -1)
			*p++ = '.';
		*p++ = place > lead || place < exponent ? '0' : text[lead - place];
	}
	return p - out;
}

/* The power of ten of the leading digit: from the power of two it is known up to one. */
static int
decimal_magnitude(double value)
{
	int			exponent;
	int			low;

	frexp(value, &exponent);
	low = (int) floor((exponent - 1) * 0.30102999566398120);
	if (low + 1 >= 0 ? value >= power_of_10[low + 1] : value * power_of_10[-low - 1] >= 1)
		return low + 1;
	return low;
}

/*
 * The n decimal digits, as an integer, that times 10^*exponent read back to the
 * bits of a positive 16-bit float; 0 when no n digits do.
 */
static uint32
digits_of_half(int dtype, uint16 bits, double value, int magnitude, int n, int *exponent)
{
	int			shift = n - 1 - magnitude;
	double		power = power_of_10[abs(shift)];
	double		scaled = shift >= 0 ? value * power : value / power;
	double		digits = rint(scaled);

	/* There is more room above a power of two than below: the nearest decimal may fail where the next does not. */
	int			tries = (bits & (dtype == GA_F16 ? 0x3FF : 0x7F)) == 0 ? 2 : 1;

	*exponent = -shift;
	for (; tries > 0; tries--)
	{
		double		rounded = shift >= 0 ? digits / power : digits * power;

		if ((dtype == GA_F16 ? ga_double_to_half(rounded) : ga_double_to_bfloat(rounded)) == bits)
			return (uint32) digits;
		digits += digits > scaled ? -1 : 1;
	}
	return 0;
}

/*
 * Writes an F16 or BF16 in as few decimal digits as read back to the same bits.
 * Five are always enough; BF16 denormals reach down to 10^-41.
 */
static int
half_text(char *out, int dtype, uint16 h)
{
	double		value = dtype == GA_F16 ? ga_half_to_float(h) : ga_bfloat_to_float(h);
	uint16		bits = h & 0x7FFF;
	bool		negative = bits != h;
	uint32		digits = 0;
	uint32		fewer;
	int			exponent,
				fewer_exponent;
	int			magnitude;
	int			n;

	if (bits == 0 || !isfinite(value))
		return float_to_shortest_decimal_bufn((float) value, out);
	value = fabs(value);
	magnitude = decimal_magnitude(value);

	/* Most take three or four digits. */
	for (n = 3; digits == 0 && n <= 5; n++)
		digits = digits_of_half(dtype, bits, value, magnitude, n, &exponent);
	if (digits == 0)
		elog(ERROR, "16-bit float %u has no short decimal", h);
	for (n = n == 4 ? 2 : 0; n > 0; n--)
	{
		fewer = digits_of_half(dtype, bits, value, magnitude, n, &fewer_exponent);
		if (fewer == 0)
			break;
		digits = fewer;
		exponent = fewer_exponent;
	}
	*out = '-';
	return decimal_text(out + negative, digits, exponent) + negative;
}

/* Writes element i without a terminating zero and returns the length, at most SCALAR_TEXT_MAX. */
static int
scalar_text(char *out, const GaView *view, uint64 i)
{
	const char *element = view->data + i * ga_dtype_info(view->dtype)->width;
	int64		v;

	switch (view->dtype)
	{
		case GA_F32:
			return float_to_shortest_decimal_bufn(*(const float *) element, out);
		case GA_F16:
		case GA_BF16:
			return half_text(out, view->dtype, *(const uint16 *) element);
		case GA_F64:
			return double_to_shortest_decimal_bufn(*(const double *) element, out);
		case GA_BOOL:
			strcpy(out, *element ? "true" : "false");
			return *element ? 4 : 5;
		case GA_U64:
			return pg_ulltoa_n(*(const uint64 *) element, out);
		default:
			ga_convert(view->dtype, element, GA_I64, (char *) &v, 1, NULL);
			return pg_lltoa(v, out);
	}
}

char *
ga_tensor_print(const GaKind *kind, const GaView *view)
{
	StringInfoData buf;
	int64		size[GA_MAX_RANK + 1];	/* elements below one step of each depth */

	if (kind->checked || needs_compact(view))
		return print_compact(view);

	initStringInfo(&buf);
	if (view->dtype != GA_F32)
		appendStringInfo(&buf, "%s:", ga_dtype_name(view->dtype));
	if (view->ndim == 0)
	{
		enlargeStringInfo(&buf, SCALAR_TEXT_MAX);
		buf.len += scalar_text(buf.data + buf.len, view, 0);
		buf.data[buf.len] = '\0';
		return buf.data;
	}
	if (view->nelem == 0)
	{
		appendStringInfoString(&buf, "[]");
		return buf.data;
	}
	size[view->ndim] = 1;
	for (int d = view->ndim - 1; d >= 0; d--)
		size[d] = size[d + 1] * view->dims[d];
	for (uint64 i = 0; i < view->nelem; i++)
	{
		GA_CHECK_INTERRUPTS(i);
		enlargeStringInfo(&buf, SCALAR_TEXT_MAX + 2 * GA_MAX_RANK + 1);
		if (i > 0)
			buf.data[buf.len++] = ',';
		/* Most elements neither begin nor end a list: the innermost one decides. */
		for (int d = view->ndim - 1; d >= 0 && i % size[d] == 0; d--)
			buf.data[buf.len++] = '[';
		buf.len += scalar_text(buf.data + buf.len, view, i);
		for (int d = view->ndim - 1; d >= 0 && (i + 1) % size[d] == 0; d--)
			buf.data[buf.len++] = ']';
	}
	buf.data[buf.len] = '\0';
	return buf.data;
}
