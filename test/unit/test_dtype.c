/*
 * test_dtype.c
 *		Tests of src/math/dtype.c. The reference for narrowing is a search for
 *		the nearest value.
 */
#include "unit.h"

static uint32_t
float_bits(float f)
{
	uint32_t	bits;

	memcpy(&bits, &f, sizeof(bits));
	return bits;
}

static float
float_of(uint32_t bits)
{
	float		f;

	memcpy(&f, &bits, sizeof(f));
	return f;
}

/* ----- dtypes and shapes ----- */

static void
test_dtypes(void)
{
	static const struct
	{
		const char *name;
		int			code;
		int			bits;
		int			width;
		GaDtypeClass cls;
	}			expected[] = {
		{"F32", 1, 32, 4, GA_CLASS_FLOAT}, {"F16", 2, 16, 2, GA_CLASS_FLOAT},
		{"BF16", 3, 16, 2, GA_CLASS_FLOAT}, {"F64", 4, 64, 8, GA_CLASS_FLOAT},
		{"BOOL", 5, 8, 1, GA_CLASS_BOOL}, {"U8", 6, 8, 1, GA_CLASS_UNSIGNED},
		{"I8", 7, 8, 1, GA_CLASS_SIGNED}, {"U16", 8, 16, 2, GA_CLASS_UNSIGNED},
		{"I16", 9, 16, 2, GA_CLASS_SIGNED}, {"U32", 10, 32, 4, GA_CLASS_UNSIGNED},
		{"I32", 11, 32, 4, GA_CLASS_SIGNED}, {"U64", 12, 64, 8, GA_CLASS_UNSIGNED},
		{"I64", 13, 64, 8, GA_CLASS_SIGNED}, {"C64", 14, 64, 8, GA_CLASS_OPAQUE},
		{"F8_E5M2", 15, 8, 1, GA_CLASS_OPAQUE}, {"F8_E4M3", 16, 8, 1, GA_CLASS_OPAQUE},
		{"F8_E8M0", 17, 8, 1, GA_CLASS_OPAQUE}, {"F8_E4M3FNUZ", 18, 8, 1, GA_CLASS_OPAQUE},
		{"F8_E5M2FNUZ", 19, 8, 1, GA_CLASS_OPAQUE}, {"F4", 20, 4, 1, GA_CLASS_OPAQUE},
		{"F6_E2M3", 21, 6, 1, GA_CLASS_OPAQUE}, {"F6_E3M2", 22, 6, 1, GA_CLASS_OPAQUE},
	};
	bool		good = LENGTH(expected) == GA_DTYPE_MAX;

	for (size_t i = 0; i < LENGTH(expected); i++)
	{
		const GaDtypeInfo *info = ga_dtype_info(expected[i].code);

		if (info == NULL || strcmp(info->name, expected[i].name) != 0 || info->bits != expected[i].bits ||
			info->width != expected[i].width || info->cls != expected[i].cls ||
			ga_dtype_lookup(expected[i].name, strlen(expected[i].name)) != expected[i].code)
			good = differ("dtype %s", expected[i].name);
	}
	result(good, "every dtype has its code, name, size and class");

	result(ga_dtype_info(0) == NULL && ga_dtype_info(-1) == NULL && ga_dtype_info(23) == NULL,
		   "unknown codes have no description");
	result(ga_dtype_lookup("bf16", 4) == GA_BF16 && ga_dtype_lookup("f8_E4m3FnUz", 11) == GA_F8_E4M3FNUZ,
		   "names are found in any letter case");
	result(ga_dtype_lookup("F3", 2) == 0 && ga_dtype_lookup("F322", 4) == 0 && ga_dtype_lookup("", 0) == 0 &&
		   ga_dtype_lookup("F16\0", 4) == 0 && ga_dtype_lookup("F32xyz", 3) == GA_F32,
		   "a name counts exactly its length");
}

static void
test_shapes(void)
{
	static const struct
	{
		int			dtype;
		int			ndim;
		int64_t		dims[GA_MAX_RANK];
		bool		valid;
		uint64_t	nelem;
		uint64_t	nbytes;
	}			cases[] = {
		{GA_F32, 0, {0}, true, 1, 4},
		{GA_F4, 0, {0}, false, 0, 0},
		{GA_F32, 1, {0}, true, 0, 0},
		{GA_F32, 2, {3, 5}, true, 15, 60},
		{GA_F64, 8, {1, 2, 1, 2, 1, 2, 1, 2}, true, 16, 128},
		{GA_C64, 1, {7}, true, 7, 56},
		{GA_BOOL, 1, {7}, true, 7, 7},
		{GA_F32, 1, {-1}, false, 0, 0},
		{GA_F32, 2, {0, -1}, false, 0, 0},
		{GA_F32, 2, {-1, 0}, false, 0, 0},
		{GA_F32, 2, {-2, -2}, false, 0, 0},
		{GA_F32, 9, {1, 1, 1, 1, 1, 1, 1, 1}, false, 0, 0},
		{GA_F32, -1, {0}, false, 0, 0},
		{0, 1, {1}, false, 0, 0},
		{23, 1, {1}, false, 0, 0},
		{GA_U8, 1, {INT64_MAX}, true, INT64_MAX, INT64_MAX},
		{GA_U8, 2, {INT64_MAX, 2}, false, 0, 0},
		{GA_U8, 2, {INT64_C(1) << 32, INT64_C(1) << 32}, false, 0, 0},
		{GA_U8, 2, {INT64_C(1) << 32, INT64_C(1) << 31}, false, 0, 0},
		{GA_U8, 2, {INT64_C(1) << 31, INT64_C(1) << 31}, true, UINT64_C(1) << 62, UINT64_C(1) << 62},
		{GA_U8, 2, {3, INT64_C(6148914691236517205)}, false, 0, 0},
		{GA_F32, 1, {INT64_C(1) << 61}, false, 0, 0},
		{GA_F32, 1, {(INT64_C(1) << 61) - 1}, true, (UINT64_C(1) << 61) - 1, (UINT64_C(1) << 63) - 4},
		{GA_F64, 1, {INT64_C(1) << 60}, false, 0, 0},
		{GA_F64, 1, {INT64_C(1) << 59}, true, UINT64_C(1) << 59, UINT64_C(1) << 62},
		{GA_U8, 3, {0, INT64_MAX, INT64_MAX}, true, 0, 0},
		{GA_U8, 3, {INT64_MAX, INT64_MAX, 0}, true, 0, 0},
		{GA_F4, 1, {2}, true, 2, 1},
		{GA_F4, 1, {3}, false, 0, 0},
		{GA_F4, 2, {3, 2}, true, 6, 3},
		{GA_F4, 1, {INT64_MAX - 1}, true, INT64_MAX - 1, INT64_MAX / 2},
		{GA_F6_E2M3, 1, {4}, true, 4, 3},
		{GA_F6_E2M3, 1, {2}, false, 0, 0},
		{GA_F6_E3M2, 1, {12}, true, 12, 9},
		{GA_F6_E3M2, 1, {INT64_MAX - 3}, true, INT64_MAX - 3, UINT64_C(6917529027641081853)},
	};
	bool		good = true;

	for (size_t i = 0; i < LENGTH(cases); i++)
	{
		uint64_t	nelem = 0;
		uint64_t	nbytes = 0;
		bool		valid = ga_shape_size(cases[i].dtype, cases[i].ndim, cases[i].dims, &nelem, &nbytes);

		if (valid != cases[i].valid || nelem != cases[i].nelem || nbytes != cases[i].nbytes)
			good = differ("shape case %d: %d %llu %llu", (int) i, valid, (unsigned long long) nelem,
						  (unsigned long long) nbytes);
	}
	result(good, "shapes: sizes, overflow, packed and empty dimensions");
}

/* ----- conversions ----- */

/* The nearest code; of two, the even one. Not for NaN. */
static uint16_t
reference_narrow(const Format *format, double d)
{
	uint16_t	sign = signbit(d) ? 0x8000 : 0;
	double		x = fabs(d);
	int			low = 0;
	int			high = format->infinity;
	double		middle;

	if (x >= format->values[high])
		return sign | format->infinity;
	while (high - low > 1)
	{
		int			probe = (low + high) / 2;

		if (format->values[probe] <= x)
			low = probe;
		else
			high = probe;
	}
	middle = (format->values[low] + format->values[high]) / 2;
	if (x > middle || (x == middle && low % 2 == 1))
		low = high;
	return sign | (uint16_t) low;
}

static bool
check_narrow(const Format *format, double d)
{
	bool		good = true;
	uint16_t	expected = reference_narrow(format, d);

	if (format->from_double(d) != expected)
		good = differ("%s of double %a: %04x, not %04x", format->name, d, format->from_double(d), expected);
	if ((double) (float) d == d && format->from_float((float) d) != expected)
		good = differ("%s of float %a: %04x, not %04x", format->name, d, format->from_float((float) d), expected);
	return good;
}

/* A value, its neighbours as float and as double, and all that negated. */
static bool
check_around(const Format *format, double d)
{
	bool		good = true;

	for (int sign = 0; sign < 2; sign++, d = -d)
	{
		good &= check_narrow(format, d);
		good &= check_narrow(format, nextafter(d, HUGE_VAL));
		good &= check_narrow(format, nextafter(d, -HUGE_VAL));
		good &= check_narrow(format, nextafterf((float) d, HUGE_VALF));
		good &= check_narrow(format, nextafterf((float) d, -HUGE_VALF));
	}
	return good;
}

static void
test_widen_all(const Format *format)
{
	bool		good = true;
	bool		back = true;
	bool		nans = true;
	char		name[80];

	for (int code = 0; code <= 0xffff; code++)
	{
		float		wide = format->to_float((uint16_t) code);
		uint16_t	quiet = (uint16_t) (code | 1 << (format->fraction_bits - 1));
		uint32_t	bits;

		if ((code & 0x7fff) <= format->infinity)
		{
			float		expected = (float) reference_widen(format, (uint16_t) code);

			if (float_bits(wide) != float_bits(expected))
				good = differ("%s %04x widens to %a, not %a", format->name, code, wide, expected);
			if (format->from_float(wide) != code || format->from_double(wide) != code)
				back = differ("%s %04x returns as %04x", format->name, code, format->from_float(wide));
			continue;
		}

		bits = ((uint32_t) code & 0x8000) << 16 | 0x7f800000 |
			((uint32_t) code & ((1U << format->fraction_bits) - 1)) << (23 - format->fraction_bits);
		if (format->infinity == 0x7c00)
			bits |= 0x00400000;
		if (float_bits(wide) != bits)
			nans = differ("%s NaN %04x widens to %08x, not %08x", format->name, code, float_bits(wide), bits);
		if (format->from_float(wide) != quiet || format->from_double((double) wide) != quiet)
			nans = differ("%s NaN %04x returns as %04x", format->name, code, format->from_float(wide));
	}
	snprintf(name, sizeof(name), "%s: all 65536 patterns widen exactly", format->name);
	result(good, name);
	snprintf(name, sizeof(name), "%s: all patterns return to themselves", format->name);
	result(back, name);
	snprintf(name, sizeof(name), "%s: NaNs keep sign and payload and return quiet", format->name);
	result(nans, name);
}

static void
test_narrow_all(const Format *format)
{
	static const double extremes[] = {0, 5e-324, DBL_MIN, FLT_MIN, FLT_MAX, DBL_MAX, HUGE_VAL};
	bool		good = true;
	bool		nans = true;
	char		name[80];

	for (int code = 0; code < format->infinity; code++)
	{
		good &= check_around(format, format->values[code]);
		good &= check_around(format, (format->values[code] + format->values[code + 1]) / 2);
	}
	snprintf(name, sizeof(name), "%s: every value, every midpoint and their neighbours round to nearest even", format->name);
	result(good, name);

	good = true;
	for (size_t i = 0; i < LENGTH(extremes); i++)
		good &= check_narrow(format, extremes[i]) && check_narrow(format, -extremes[i]);
	for (int i = 0; i < 300000; i++)
	{
		float		f = float_of((uint32_t) next_random());
		uint64_t	exponent = 1023 - 160 + next_random() % 320;
		double		d = double_of((next_random() & 0x800fffffffffffff) | exponent << 52);

		if (!isnan(f))
			good &= check_narrow(format, f);
		good &= check_narrow(format, d);
	}
	snprintf(name, sizeof(name), "%s: random and extreme values round to nearest even", format->name);
	result(good, name);

	for (int i = 0; i < 52; i++)
	{
		uint64_t	bits = 0xfff0000000000000 | UINT64_C(1) << i;
		uint16_t	payload = (uint16_t) ((bits & 0x000fffffffffffff) >> (52 - format->fraction_bits));
		uint16_t	expected = (uint16_t) (0x8000 | format->infinity | 1 << (format->fraction_bits - 1) | payload);

		if (format->from_double(double_of(bits)) != expected)
			nans = differ("%s of NaN %016llx", format->name, (unsigned long long) bits);
		if (i < 23 && (format->from_float(float_of(0x7f800000 | 1U << i)) & 0x7fff) <= format->infinity)
			nans = differ("%s of float NaN with bit %d is no NaN", format->name, i);
	}
	snprintf(name, sizeof(name), "%s: no NaN narrows to infinity", format->name);
	result(nans, name);
}

/* Values that two roundings, through float, would get wrong. */
static void
test_single_rounding(void)
{
	static const struct
	{
		double		d;
		uint16_t	half;
		uint16_t	bfloat;
	}			cases[] = {
		/* just above, and just below, the midpoint after 1 */
		{1 + 0x1p-11 + 0x1p-40, 0x3c01, 0x3f80},
		{1 + 0x1p-10 + 0x1p-11 - 0x1p-40, 0x3c01, 0x3f80},
		{1 + 0x1p-8 + 0x1p-40, 0x3c04, 0x3f81},
		{1 + 0x1p-7 + 0x1p-8 - 0x1p-40, 0x3c0c, 0x3f81},
		/* above half of the least denormal */
		{0x1p-25 + 0x1p-70, 0x0001, 0x3300},
		{0x1p-134 + 0x1p-180, 0x0000, 0x0001},
		/* below the midpoint to infinity */
		{65520 - 0x1p-30, 0x7bff, 0x4780},
		{0x1.ffp127 - 0x1p80, 0x7c00, 0x7f7f},
	};
	bool		good = true;
	bool		trapped = false;

	for (size_t i = 0; i < LENGTH(cases); i++)
	{
		float		once = (float) cases[i].d;

		if (ga_double_to_half(cases[i].d) != cases[i].half || ga_double_to_bfloat(cases[i].d) != cases[i].bfloat)
			good = differ("case %d: %04x %04x", (int) i, ga_double_to_half(cases[i].d), ga_double_to_bfloat(cases[i].d));
		trapped |= ga_float_to_half(once) != cases[i].half || ga_float_to_bfloat(once) != cases[i].bfloat;
	}
	result(good && trapped, "doubles round once where two roundings would differ");
}

static void
test_compiler_half(void)
{
#ifdef __FLT16_MAX__
	bool		good = true;

	for (int i = 0; i < 500000; i++)
	{
		float		f = float_of((uint32_t) next_random());
		double		d = double_of((next_random() & 0x800fffffffffffff) | (1023 - 30 + next_random() % 50) << 52);
		_Float16	of_f = (_Float16) f;
		_Float16	of_d = (_Float16) d;
		uint16_t	code_f;
		uint16_t	code_d;

		memcpy(&code_f, &of_f, 2);
		memcpy(&code_d, &of_d, 2);
		if (!isnan(f) && ga_float_to_half(f) != code_f)
			good = differ("half of %a: %04x, compiler %04x", f, ga_float_to_half(f), code_f);
		if (ga_double_to_half(d) != code_d)
			good = differ("half of %a: %04x, compiler %04x", d, ga_double_to_half(d), code_d);
	}
	result(good, "F16 narrowing agrees with the compiler's _Float16");
#else
	result(true, "F16 narrowing agrees with _Float16 # SKIP the compiler has none");
#endif
}

static void
test_widen_arrays(const char *isa)
{
	static uint16_t codes[0x10000 + 3];
	static float narrow[0x10000 + 3];
	static double wide[0x10000 + 3];
	bool		good = true;
	char		name[80];

	for (size_t i = 0; i < LENGTH(codes); i++)
		codes[i] = (uint16_t) i;
	for (int dtype = GA_F16; dtype <= GA_BF16; dtype++)
	{
		const Format *format = dtype == GA_F16 ? &half : &bfloat;

		for (size_t start = 0; start < 4; start += 3)
		{
			size_t		n = LENGTH(codes) - start;

			ga_widen_f32(dtype, codes + start, narrow, n);
			ga_widen_f64(dtype, codes + start, wide, n);
			for (size_t i = 0; i < n; i++)
			{
				float		one = format->to_float(codes[start + i]);

				if (float_bits(narrow[i]) != float_bits(one) || double_bits(wide[i]) != double_bits((double) one))
					good = differ("%s %04x widens to %a, %a", format->name, codes[start + i], narrow[i], wide[i]);
			}
		}
	}

	for (size_t n = 0; n < 40; n++)
	{
		narrow[n] = -1;
		wide[n] = -1;
		ga_widen_f32(GA_F16, codes + 1, narrow, n);
		ga_widen_f64(GA_F16, codes + 1, wide, n);
		if (narrow[n] != -1 || wide[n] != -1)
			good = differ("widening %d elements writes more", (int) n);
	}

	ga_widen_f32(GA_F32, (float[]) {1.5f, -0.0f, HUGE_VALF}, narrow, 3);
	ga_widen_f64(GA_F32, (float[]) {1.5f, -0.0f, HUGE_VALF}, wide, 3);
	good &= narrow[0] == 1.5f && signbit(narrow[1]) && narrow[2] == HUGE_VALF;
	good &= wide[0] == 1.5 && signbit(wide[1]) && wide[2] == HUGE_VAL;
	ga_widen_f64(GA_F64, (double[]) {0.1, 5e-324}, wide, 2);
	good &= wide[0] == 0.1 && wide[1] == 5e-324;
	snprintf(name, sizeof(name), "%s: arrays widen as single elements do", isa);
	result(good, name);
}

int
main(void)
{
	fill_format(&half);
	fill_format(&bfloat);

	test_dtypes();
	test_shapes();
	test_widen_all(&half);
	test_widen_all(&bfloat);
	test_narrow_all(&half);
	test_narrow_all(&bfloat);
	test_single_rounding();
	test_compiler_half();
	for_each_isa(test_widen_arrays);
	return finish();
}
