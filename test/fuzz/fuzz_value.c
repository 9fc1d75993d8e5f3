/*
 * fuzz_value.c
 *		Tensors as text and on the wire, for the three types. The first byte of an
 *		input says which: its low bits the type, bit 7 text; the rest is the value.
 *
 * What is accepted must print and send as something that reads back to the same
 * bytes.
 */
#include "base/compat.h"

#include "fuzz.h"
#include "server.h"
#include "tensor/tensor.h"

const char	fuzz_name[] = "value";

const FuzzSeed fuzz_seeds[] = {
	SEED("\x80[1,2,3]"), SEED("\x81[[1,2],[3,4]]"), SEED("\x82[[[1],[2]],[[3],[4]]]"), SEED("\x81" "3.5"), SEED("\x81[]"), SEED("\x82[[],[]]"),
	SEED("\x81" "F16:[1,2.5]"), SEED("\x80" "BF16:[0.1]"), SEED("\x82" "F64:[1e300,-5e-324]"), SEED("\x81[NaN,-inf,Infinity,-0]"),
	SEED("\x81" "BOOL:[true,false]"), SEED("\x81" "U8:[255]"), SEED("\x81" "I8:[-128]"), SEED("\x81" "U64:[18446744073709551615]"),
	SEED("\x82" "I64:[-9223372036854775808]"), SEED("\x81" "F32[1]:raw:AACAPw=="), SEED("\x82" "F32[]:raw:AACAPw=="), SEED("\x81" "F32[2,0]:raw:"),
	SEED("\x81" "F4[2]:raw:IQ=="), SEED("\x82" "F6_E2M3[4]:raw:AQID"), SEED("\x81" "C64[1]:raw:AACAPwAAAEA="), SEED("\x81" "F16[2]:raw:AH4B/g=="),
	SEED("\x81 [ 1 , 2 ] "), SEED("\x82[[[[[[[[1]]]]]]]]"), SEED("\x81[1.0000000596046448,9.999999e-39,16777217,0.30000001192092896]"),
	SEED("\x01GA\x01\x01\x01\0\0\0\x02\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\0\x40"),
	SEED("\x00GA\x01\x02\x01\0\0\0\x01\0\0\0\0\0\0\0\0\x3c"),
	SEED("\x02GA\x01\x04\0\0\0\0\0\0\0\0\0\0\xf0\x3f"),
	SEED("\x02GA\x01\x14\x02\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x21"),
	SEED("\x01GA\x01\x0d\x02\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0"),
	{NULL, 0}
};

const FuzzSeed fuzz_tokens[] = {
	SEED("["), SEED("]"), SEED(","), SEED(":"), SEED("."), SEED("-"), SEED("+"), SEED("0"), SEED("9"), SEED("e"), SEED("E-40"), SEED("nan"), SEED("inf"), SEED("infinity"),
	SEED("F32"), SEED("F16:"), SEED("BF16:"), SEED("I8:"), SEED("BOOL:"), SEED("U64:"), SEED("F32["), SEED("]:raw:"), SEED("]:zstd:"), SEED("KLUv/SAACQAAAAAAAA=="),
	SEED("1e999"), SEED("1e-999"), SEED("0x1"), SEED("18446744073709551616"), SEED("9223372036854775807"), SEED("4294967296"), SEED("[["), SEED("[[[[[[[["), SEED("true"),
	SEED("\0\0\0\0\0\0\0\0"), SEED("\x01\0\0\0\0\0\0\0"), SEED("\xff\xff\xff\xff\xff\xff\xff\x7f"), SEED("\0\0\0\0\x01\0\0\0"), SEED("\x16"), SEED("\x08"), SEED("\x80"), SEED("GA\x01"),
	{NULL, 0}
};

static const GaKind *const kinds[] = {&ga_kind_embedding, &ga_kind_agent_state, &ga_kind_swarm_tensor};

static GaTensor *
receive(const GaKind *kind, const void *data, size_t size)
{
	StringInfoData buf = {.data = (char *) data,.len = size,.maxlen = size,.cursor = 0};

	return ga_tensor_recv(kind, &buf);
}

static GaTensor *
read_text(const GaKind *kind, const uint8_t *data, size_t size)
{
	char	   *text = fuzz_allocate(NULL, size + 1);

	memcpy(text, data, size);
	text[size] = '\0';
	return ga_tensor_parse(kind, text, -1, NULL);
}

static void
check_same(GaTensor *a, GaTensor *b)
{
	GaView		x,
				y;

	ga_view(PointerGetDatum(a), &x);
	ga_view(PointerGetDatum(b), &y);
	FUZZ_CHECK(x.dtype == y.dtype && x.ndim == y.ndim && memcmp(x.dims, y.dims, sizeof(int64) * x.ndim) == 0);
	FUZZ_CHECK(x.nbytes == y.nbytes && memcmp(x.data, y.data, x.nbytes) == 0);
}

static void
check_value(const GaKind *kind, GaTensor *value)
{
	GaView		view;
	bytea	   *wire;

	ga_view(PointerGetDatum(value), &view);
	FUZZ_CHECK(view.ndim >= kind->min_rank && view.ndim <= kind->max_rank && view.nbytes <= kind->max_bytes);
	check_same(value, ga_tensor_parse(kind, ga_tensor_print(kind, &view), -1, NULL));
	wire = ga_tensor_send(&view);
	check_same(value, receive(kind, VARDATA(wire), VARSIZE(wire) - VARHDRSZ));
}

bool
fuzz_run(const uint8_t *data, size_t size)
{
	const GaKind *kind = size > 0 ? kinds[(data[0] & 0x7F) % 3] : NULL;
	GaTensor   *volatile value = NULL;

	if (kind == NULL)
		return false;
	FUZZ_TRY
	{
		value = data[0] & 0x80 ? read_text(kind, data + 1, size - 1) : receive(kind, data + 1, size - 1);
	}
	FUZZ_CATCH
	{
		FUZZ_CHECK(fuzz_is_refusal("22P02 22P03 22003 22000 2202E 22023 54000"));
		return false;
	}
	FUZZ_END;
	/* No error may come from here on. */
	check_value(kind, value);
	return true;
}
