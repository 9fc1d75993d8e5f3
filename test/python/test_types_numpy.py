"""The three types against NumPy and the standard library: wire, text, conversions, distances, aggregates."""

import math
import os
import random
import struct
import time
import unittest
from decimal import Decimal
from fractions import Fraction

import numpy as np
import psycopg

import typewire as tw
from shared import SharedConnection

LONG = bool(os.environ.get("GA_TEST_LONG"))


def shapes(rng):
    """A random shape of rank 0 to 8 and at most some thousand elements, empty ones among them."""
    ndim = rng.choice((0, 1, 1, 1, 2, 2, 3, 4, 8))
    return tuple(rng.choice((0, 1, 2, 3, 5, 17)) if ndim < 4 else rng.choice((1, 1, 2, 3)) for _ in range(ndim))


class TypesTest(SharedConnection):
    @classmethod
    def connect(cls):
        return tw.connect()

    def setUp(self):
        super().setUp()
        self.rng = random.Random(20260101)
        self.np_rng = np.random.default_rng(20260101)

    def row(self, query, *params):
        return tw.binary_row(self.conn, query, params)

    def wire(self, dtype, array, type="agent_state"):
        return self.conn.wire[type](tw.encode(dtype, np.shape(array), np.asarray(array).tobytes()))

    # ---- wire and text ----

    def test_wire_and_text_of_random_bits(self):
        """Any bits of any dtype and shape come back, by wire and by text, as agent_state and as swarm_tensor."""
        for dtype, (_, bits, _) in tw.DTYPES.items():
            for _ in range(30 if LONG else 8):
                shape = shapes(self.rng)
                if math.prod(shape) * bits % 8:
                    shape += (8,) if len(shape) < 8 else ()
                if math.prod(shape) * bits % 8:
                    continue
                payload = self.rng.randbytes(math.prod(shape) * bits // 8)
                sent = tw.encode(dtype, shape, payload)
                row = self.row(
                    """SELECT a, a::text::agent_state, a::text::swarm_tensor, a::swarm_tensor, compress(a::swarm_tensor)::agent_state,
                        dtype(a), shape(a), ndim(a), nbytes(a), vector_dims(a), tensor_bytes(a), tensor(dtype(a), shape(a), tensor_bytes(a))
                    FROM (SELECT %s) v (a)""", self.conn.wire["agent_state"](sent))
                for value in (*row[:5], row[11]):
                    self.assertEqual(value, sent, (dtype, shape))
                self.assertEqual(row[5:11], (dtype, list(shape), len(shape), len(payload), math.prod(shape), payload))

    def test_compressible_values(self):
        for dtype, shape in (("F32", (300, 7)), ("F64", (1000,)), ("F16", (64, 64)), ("U8", (5000,)), ("BF16", (2, 3, 400)), ("F6_E3M2", (4000,))):
            bits = tw.DTYPES[dtype][1]
            payload = bytes(range(8)) * (math.prod(shape) * bits // 64)
            sent = tw.encode(dtype, shape, payload)
            row = self.row("SELECT a::text::swarm_tensor, compress(a), compress(a)::text::agent_state, length(a::text), pg_column_size(compress(a)) "
                           "FROM (SELECT %s) v (a)", self.conn.wire["swarm_tensor"](sent))
            self.assertEqual(row[:3], (sent,) * 3)
            self.assertLess(row[3], len(payload) / 4)
            self.assertLess(row[4], len(payload) / 4)

    def test_embedding_wire(self):
        for dtype in ("F32", "F16", "BF16"):
            for n in (1, 2, 31, 1536, 65535):
                bits = self.np_rng.integers(0, 2 ** 15 if dtype != "F32" else 2 ** 31, n, np.uint32)
                payload = bits.astype("<u4" if dtype == "F32" else "<u2").tobytes()
                finite = bool(np.isfinite(tw.widen(dtype, payload)).all())
                query = "SELECT e, e::text::embedding, e::agent_state::embedding FROM (SELECT %s) v (e)"
                sent = tw.encode(dtype, (n,), payload)
                if finite:
                    self.assertEqual(self.row(query, self.conn.wire["embedding"](sent)), (sent,) * 3)
                else:
                    with self.assertRaises(psycopg.errors.NumericValueOutOfRange):
                        self.row(query, self.conn.wire["embedding"](sent))

    def tokens(self, dtype, bits):
        """The numbers of the text of a vector given as unsigned integers, as strings."""
        payload = np.asarray(bits, {16: "<u2", 32: "<u4", 64: "<u8"}[tw.DTYPES[dtype][1]]).tobytes()
        text = self.row("SELECT %s::text", self.conn.wire["agent_state"](tw.encode(dtype, (len(bits),), payload)))[0]
        text = text.removeprefix(dtype + ":")
        self.assertEqual((text[0], text[-1]), ("[", "]"))
        return text[1:-1].split(",")

    def test_float_printing_is_short_and_exact(self):
        """F32 and F64 print what NumPy prints, but for a few where the server leaves out a decimal on the very edge of the interval."""
        for dtype, unsigned, native in (("F32", np.uint32, np.float32), ("F64", np.uint64, np.float64)):
            bits = self.np_rng.integers(0, np.iinfo(unsigned).max, 20000 if LONG else 4000, unsigned, endpoint=True)
            simple = (np.arange(-500, 500) / 100).astype(native).view(unsigned)
            powers = (native(2) ** np.arange(-126, 128).astype(native)).view(unsigned)
            values = np.concatenate([bits, simple, powers, np.arange(1, 50, dtype=unsigned)])
            values = values[np.isfinite(values.view(native))]
            longer = 0
            for bits, token in zip(values, self.tokens(dtype, values), strict=True):
                reference = Decimal(str(bits.view(native)))
                ours = Decimal(token)
                self.assertEqual(tw.round_exact(dtype, Fraction(token)), int(bits) & ~(1 << 63) if ours == 0 else int(bits), token)
                self.assertEqual(token[0] == "-", bool(np.signbit(bits.view(native))))
                if ours != reference:
                    longer += 1
                    self.assertLessEqual(len(ours.normalize().as_tuple().digits), 9 if dtype == "F32" else 17)
            self.assertLess(longer, len(values) / 100)

    def test_every_16_bit_float_prints_short_and_reads_back(self):
        for dtype in ("F16", "BF16"):
            # NaNs but the one of "NaN" need the compact form
            values = [b for b in range(65536) if not math.isnan(tw.float_of_bits(dtype, b))]
            tokens = self.tokens(dtype, values)
            for bits, token in zip(values, tokens, strict=True):
                value = tw.float_of_bits(dtype, bits)
                if math.isinf(value):
                    self.assertEqual(token, "Infinity" if value > 0 else "-Infinity")
                elif value == 0:
                    self.assertEqual(token, "-0" if bits else "0")
                else:
                    self.assertEqual(tw.round_exact(dtype, Fraction(token)), bits, token)
            # NumPy's shortest for F16; for BF16 no decimal with one digit less reads back
            for bits, token in self.rng.sample(list(zip(values, tokens)), 60000 if LONG else 4000):
                value = tw.float_of_bits(dtype, bits)
                if math.isinf(value) or value == 0:
                    continue
                digits = len(Decimal(token).normalize().as_tuple().digits)
                if dtype == "F16":
                    shortest = np.format_float_scientific(np.uint16(bits).view(np.float16), unique=True)
                    self.assertEqual(digits, len(Decimal(shortest).normalize().as_tuple().digits), (token, shortest))
                elif digits > 1:
                    self.assertNotEqual(tw.round_exact(dtype, Fraction(f"{value:.{digits - 2}e}")), bits, token)
            payload = np.asarray(values, "<u2").tobytes()
            sent = tw.encode(dtype, (len(values),), payload)
            self.assertEqual(self.row("SELECT %s::text::agent_state", self.conn.wire["agent_state"](sent))[0], sent)

    def decimals(self, dtype):
        """Decimal texts: ordinary, long, extreme, and next to the halfway points between two numbers of a format."""
        fraction_bits, exponent_bits = tw.FORMATS[dtype]
        for _ in range(300):
            yield f"{self.rng.uniform(-10, 10):.{self.rng.randrange(0, 25)}f}"
            yield f"{self.rng.choice('-+')}{self.rng.randrange(10 ** self.rng.randrange(1, 40))}e{self.rng.randrange(-20, 5)}"
        for _ in range(300):
            bits = self.rng.randrange(((1 << exponent_bits) - 2) << fraction_bits)
            low, high = (Fraction(tw.float_of_bits(dtype, b)) for b in (bits, bits + 1))
            middle = (low + high) / 2
            text = f"{Decimal(middle.numerator) / Decimal(middle.denominator):.60e}"
            yield text
            yield text.replace("e", "1e")
            yield f"{Decimal(text).next_minus() if Decimal(text) else 0}"

    def test_float_reading_rounds_once(self):
        """F32 and F64 are rounded from the decimal; F16 and BF16 from the F64 nearest to it."""
        from decimal import getcontext
        getcontext().prec = 400
        for dtype in ("F32", "F64", "F16", "BF16"):
            texts, expected = [], []
            for text in self.decimals(dtype):
                exact = Fraction(text)
                if dtype in ("F16", "BF16"):
                    exact = Fraction(float(exact)) if abs(exact) < Fraction(2) ** 1000 else exact
                bits = tw.round_exact(dtype, exact)
                if bits is None or (bits & ~(1 << (tw.DTYPES[dtype][1] - 1)) == 0 and exact != 0):
                    continue
                texts.append(text)
                width = tw.DTYPES[dtype][1]
                expected.append(bits | (1 << (width - 1) if text.startswith("-") and exact == 0 else 0))
            self.assertGreater(len(texts), 800)
            wire = self.row("SELECT %s::text::agent_state", f"{dtype}:[{','.join(texts)}]")[0]
            got = np.frombuffer(tw.decode(wire)[2], {16: "<u2", 32: "<u4", 64: "<u8"}[tw.DTYPES[dtype][1]])
            for text, want, have in zip(texts, expected, got, strict=True):
                self.assertEqual(want, int(have), (dtype, text))

    # ---- conversions ----

    def test_halves_against_numpy(self):
        """F64 and F32 to F16 as NumPy rounds, ties, denormals and overflow included; BF16 as exact arithmetic does."""
        every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
        ties = (every[:-1] + every[1:]) / 2
        doubles = np.concatenate([ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf), -ties[:100], 10.0 ** self.np_rng.uniform(-12, 4.8, 3000)])
        got = self.row("SELECT astype(%s, 'F16')", self.wire("F64", doubles))[0]
        np.testing.assert_array_equal(np.frombuffer(tw.decode(got)[2], "<u2"), doubles.astype(np.float16).view(np.uint16))
        singles = doubles.astype(np.float32)
        singles = singles[np.abs(singles) < 65520]
        got = self.row("SELECT astype(%s, 'F16')", self.wire("F32", singles))[0]
        np.testing.assert_array_equal(np.frombuffer(tw.decode(got)[2], "<u2"), singles.astype(np.float16).view(np.uint16))

        brain = [self.rng.uniform(-2, 2) * 2.0 ** self.rng.randrange(-135, 127) for _ in range(2000)]
        brain += [tw.float_of_bits("BF16", b) + tw.float_of_bits("BF16", b + 1) for b in self.rng.sample(range(0x7E00), 1000)]
        brain = [x / 2 for x in brain]
        got = self.row("SELECT astype(%s, 'BF16')", self.wire("F64", np.array(brain)))[0]
        for x, bits in zip(brain, np.frombuffer(tw.decode(got)[2], "<u2"), strict=True):
            self.assertEqual(tw.round_exact("BF16", x) | (0x8000 if x < 0 else 0), int(bits), x)
        for bad in (65520.0, -65520.0, 1e300):
            with self.assertRaises(psycopg.errors.NumericValueOutOfRange):
                self.row("SELECT astype(%s, 'F16')", self.wire("F64", np.array([bad])))

    def test_astype_against_numpy(self):
        """Every pair of dtypes that NumPy has, with values that fit; then one that does not."""
        names = [n for n, (_, _, native) in tw.DTYPES.items() if native is not None and n != "C64"]
        for source in names:
            native = np.dtype(tw.DTYPES[source][2])
            for target in names:
                wanted = np.dtype(tw.DTYPES[target][2])
                low, high = self.range_of(source), self.range_of(target)
                lower, upper = max(low[0], high[0]), min(low[1], high[1])
                integers = [v for v in (0, 1, lower, upper, lower + 1, upper - 1, lower // 3, upper // 7, 2 ** 24 + 1, 2 ** 53 + 1, 2 ** 63 + 2 ** 39 + 1)
                            if lower <= v <= upper and int(native.type(v)) == v and (native.kind != "b" or v in (0, 1))]
                array = np.array(integers, native)
                if native.kind == "f" and wanted.kind == "f":
                    array = np.append(array, native.type([0.1, -0.5, 1 / 3, np.inf, -np.inf, -0.0]))
                got = tw.decode(self.row("SELECT astype(%s, %s)", self.wire(source, array), target)[0])
                self.assertEqual(got[:2], (target, array.shape))
                if wanted.kind == "f" and native.kind in "iu":
                    expected = b"".join(
                        struct.pack({2: "<H", 4: "<I", 8: "<Q"}[wanted.itemsize], self.rounded(target, int(v))) for v in array)
                    self.assertEqual(got[2], expected, (source, target))
                else:
                    self.assertEqual(got[2], array.astype(wanted).tobytes(), (source, target, array))
                outside = [v for v in (high[0] - 1, high[1] + 1) if low[0] <= v <= low[1] and int(native.type(v)) == v]
                for value in outside if wanted.kind != "f" else []:
                    with self.assertRaises(psycopg.errors.NumericValueOutOfRange, msg=(source, target, value)):
                        self.row("SELECT astype(%s, %s)", self.wire(source, np.array([value], native)), target)

    @staticmethod
    def rounded(dtype, value):
        bits = tw.round_exact(dtype, abs(value))
        return bits | (1 << (tw.DTYPES[dtype][1] - 1) if value < 0 else 0)

    @staticmethod
    def range_of(dtype):
        native = np.dtype(tw.DTYPES[dtype][2])
        if native.kind == "f":
            return -int(np.finfo(native).max), int(np.finfo(native).max)
        return (0, 1) if native.kind == "b" else (int(np.iinfo(native).min), int(np.iinfo(native).max))

    def test_arrays(self):
        """SQL arrays of every element type, both ways, through several dimensions."""
        for sql, native, dtype in (("real", np.float32, "F32"), ("float8", np.float64, "F64"), ("int", np.int32, "I32"), ("bigint", np.int64, "I64")):
            for shape in ((1,), (7,), (2, 3), (2, 1, 3), (1, 2, 1, 2, 1, 3)):
                array = self.np_rng.integers(-1000, 1000, shape).astype(native)
                row = self.row(f"SELECT %s::{sql}[]::agent_state, %s::{sql}[]", array.tolist(), self.wire(dtype, array))
                self.assertEqual(row[0], tw.encode(dtype, shape, array.tobytes()))
                np.testing.assert_array_equal(np.array(row[1]), array)

    def test_lists_of_a_driver(self):
        """Python lists, as the driver sends them, beside an embedding and in the place of each type."""
        self.conn.execute("CREATE TEMP TABLE IF NOT EXISTS lists (e embedding(3), a agent_state, s swarm_tensor)")
        self.conn.execute("TRUNCATE lists")
        for numbers in ([1, 2, 3], [1.5, 2.0, 3.0], [70000, 2, 3], [2 ** 40, 2, 3], [Decimal("0.5"), Decimal(2), Decimal(3)]):
            self.conn.execute("INSERT INTO lists VALUES (%s, %s, %s)", (numbers, numbers, numbers))
            values = np.array([float(x) for x in numbers], np.float32).astype(np.float64)
            row = self.row("SELECT e <-> %s, %s <=> e, e <+> %s, element(a, 1), element(s, 3) FROM lists ORDER BY ctid DESC LIMIT 1", numbers, numbers, [1, 1, 1])
            self.assertEqual(row, (0, 0, tw.distance("l1", "F32", values, "F32", np.ones(3)), float(numbers[0]), 3))

    # ---- math ----

    def vector(self, dtype, n):
        """A random payload: mostly tame, at times of any finite bits."""
        width = tw.DTYPES[dtype][1]
        if self.rng.random() < 0.3:
            bits = self.np_rng.integers(0, 2 ** (width - 1), n, np.uint64) | (self.np_rng.integers(0, 2, n, np.uint64) << np.uint64(width - 1))
            values = tw.widen(dtype, bits.astype({16: "<u2", 32: "<u4", 64: "<u8"}[width]).tobytes())
            bits[~np.isfinite(values)] = 1
        else:
            values = self.np_rng.normal(0, 1, n)
            if dtype == "BF16":
                bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint64)
            else:
                bits = values.astype(tw.DTYPES[dtype][2]).view({16: np.uint16, 32: np.uint32, 64: np.uint64}[width]).astype(np.uint64)
        return bits.astype({16: "<u2", 32: "<u4", 64: "<u8"}[width]).tobytes()

    def test_distances_bit_for_bit(self):
        """All metrics, dtype pairs and lengths around the 16 lanes equal the canonical summation in every bit."""
        floats = ("F32", "F16", "BF16", "F64")
        lengths = list(range(0, 67)) + [128, 255, 256, 257, 384, 1000, 1536, 4099]
        for length in lengths * (5 if LONG else 1):
            for dtype_a in floats:
                dtype_b = self.rng.choice(floats)
                a, b = self.vector(dtype_a, length), self.vector(dtype_b, length)
                if self.rng.random() < 0.05 and length:
                    b = b[:-1] + b"\x7f"  # NaN, infinity or something large at the end
                row = self.row("SELECT l2_distance(a, b), inner_product(a, b), cosine_distance(a, b), l1_distance(a, b), a <-> b, a <#> b, a <=> b, a <+> b, "
                               "b <-> a, l2_norm(a), l2_norm(a::swarm_tensor) FROM (SELECT %s, %s) v (a, b)",
                               self.conn.wire["agent_state"](tw.encode(dtype_a, (length,), a)), self.conn.wire["agent_state"](tw.encode(dtype_b, (length,), b)))
                x, y = tw.widen(dtype_a, a), tw.widen(dtype_b, b)
                expected = [tw.distance(m, dtype_a, x, dtype_b, y) for m in ("l2", "ip", "cosine", "l1")]
                expected += [expected[0], 0.0 - expected[1], expected[2], expected[3], expected[0]]
                for have, want in zip(row, expected):
                    self.assertEqual(struct.pack("<d", have), struct.pack("<d", want), (dtype_a, dtype_b, length, have, want))
                norm = math.sqrt(tw.distance("ip", dtype_a, x, dtype_a, x)) if dtype_a != "F64" else None
                if norm is not None:
                    self.assertEqual(row[9:11], (norm, norm))

    def test_arithmetic_against_numpy(self):
        for dtype in ("F32", "F16", "F64"):
            native = tw.DTYPES[dtype][2]
            a = self.np_rng.normal(0, 10, (40, 5)).astype(native)
            b = self.np_rng.normal(0, 10, (40, 5)).astype(native)
            a[0], b[1] = native(np.finfo(native).smallest_subnormal), native(0)
            row = self.row("SELECT a + b, a - b, a * b FROM (SELECT %s, %s) v (a, b)", self.wire(dtype, a), self.wire(dtype, b))
            for have, want in zip(row, (a + b, a - b, a * b)):
                self.assertEqual(have, tw.encode(dtype, a.shape, want.tobytes()))
        a, b = ([tw.float_of_bits("BF16", x) for x in self.rng.sample(range(0x3000, 0x4000), 500)] for _ in range(2))
        wires = [self.conn.wire["agent_state"](tw.encode("BF16", (500,), struct.pack("<500H", *(tw.round_exact("BF16", x) for x in v)))) for v in (a, b)]
        row = self.row("SELECT a + b, a - b, a * b FROM (SELECT %s, %s) v (a, b)", *wires)
        for have, operation in zip(row, (Fraction.__add__, Fraction.__sub__, Fraction.__mul__)):
            want = [tw.round_exact("BF16", operation(Fraction(x), Fraction(y))) for x, y in zip(a, b)]
            self.assertEqual(list(struct.unpack("<500H", tw.decode(have)[2])), want)

    def test_aggregates_against_numpy(self):
        rows = self.np_rng.normal(0, 1, (200, 3, 4)).astype(np.float32)
        self.conn.execute("CREATE TEMP TABLE IF NOT EXISTS agg (id int, a agent_state)")
        self.conn.execute("TRUNCATE agg")
        with self.conn.cursor() as cur:
            cur.executemany("INSERT INTO agg VALUES (%s, %s)", [(i, self.wire("F32", r)) for i, r in enumerate(rows)])
        total = np.zeros(rows.shape[1:])
        for r in rows:
            total += r
        row = self.row("SELECT sum(a ORDER BY id), avg(a ORDER BY id), stack(a ORDER BY id) FROM agg")
        self.assertEqual(row[0], tw.encode("F32", (3, 4), total.astype(np.float32).tobytes()))
        self.assertEqual(row[1], tw.encode("F32", (3, 4), (total / 200).astype(np.float32).tobytes()))
        self.assertEqual(row[2], tw.encode("F32", rows.shape, rows.tobytes()))
        back = self.conn.cursor(binary=True).execute("SELECT ordinal, state FROM unstack(%s)", (self.conn.wire["swarm_tensor"](row[2]),)).fetchall()
        self.assertEqual(back, [(i + 1, tw.encode("F32", (3, 4), r.tobytes())) for i, r in enumerate(rows)])

    def test_slices_against_numpy(self):
        array = np.arange(60, dtype=np.int16).reshape(5, 3, 4)
        for start in range(-2, 8):
            for count in range(0, 8):
                rows = [i for i in range(start - 1, start - 1 + count) if 0 <= i < 5]
                got = self.row("SELECT slice(%s, %s::bigint, %s::bigint)", self.wire("I16", array), start, count)[0]
                self.assertEqual(got, tw.encode("I16", (len(rows), 3, 4), array[rows].tobytes()))
        for _ in range(30):
            i, j, k = self.rng.randrange(5), self.rng.randrange(3), self.rng.randrange(4)
            self.assertEqual(self.row("SELECT element(%s, %s, %s, %s)", self.wire("I16", array), i + 1, j + 1, k + 1)[0], array[i, j, k])

    def test_sizes_at_the_limits(self):
        """16 MiB of agent_state; with GA_TEST_LONG the 256 MiB of swarm_tensor and sums that do not fit."""
        state = bytes(16 * 2 ** 20)
        row = self.row("SELECT nbytes(%s), l2_norm(%s)", *(self.conn.wire["agent_state"](tw.encode("F32", (2 ** 22,), state)) for _ in range(2)))
        self.assertEqual(row, (2 ** 24, 0))
        with self.assertRaises(psycopg.errors.ProgramLimitExceeded):
            self.row("SELECT nbytes(%s)", self.conn.wire["agent_state"](tw.encode("U8", (2 ** 24 + 1,), state + b"\0")))
        if LONG:
            whole = self.conn.wire["swarm_tensor"](tw.encode("F16", (2 ** 27,), bytes(2 ** 28)))
            self.assertEqual(self.row("SELECT nbytes(%s)", whole)[0], 2 ** 28)
            with self.assertRaises(psycopg.errors.ProgramLimitExceeded):
                self.row("SELECT avg(%s)", whole)
            with self.assertRaises(psycopg.errors.ProgramLimitExceeded):
                self.row("SELECT astype(%s, 'F32')", whole)
            with self.assertRaises(psycopg.errors.ProgramLimitExceeded):
                self.row("SELECT astype(%s, 'U8')::float8[]", self.conn.wire["swarm_tensor"](tw.encode("F16", (2 ** 27 - 1,), bytes(2 ** 28 - 2))))

    def test_cancel_of_slow_compression(self):
        """A time limit ends the strongest compression of a large value, and the next one is right."""
        payload = self.np_rng.normal(0, 1, 2 ** 21).astype(np.float32).tobytes()
        sent = self.conn.wire["swarm_tensor"](tw.encode("F32", (2 ** 21,), payload))
        with tw.connect() as conn:
            conn.execute("SET gpuagent.compression_level = 19")
            conn.execute("SET statement_timeout = '500ms'")
            started = time.monotonic()
            with self.assertRaises(psycopg.errors.QueryCanceled):
                # A hundred times, so that no machine is done before; each takes seconds.
                tw.binary_row(conn, "SELECT sum(length(CASE WHEN i > 0 THEN v END::text)) FROM (SELECT %s) s (v), generate_series(1, 100) i",
                              (conn.wire["swarm_tensor"](sent),))
            self.assertLess(time.monotonic() - started, 60)
            conn.execute("RESET statement_timeout")
            conn.execute("SET gpuagent.compression_level = 1")
            small = tw.encode("F32", (1000,), bytes(4000))
            self.assertEqual(tw.binary_row(conn, "SELECT v::text::swarm_tensor, length(v::text) < 100 FROM (SELECT %s) s (v)", (conn.wire["swarm_tensor"](small),)), (small, True))
            row = tw.binary_row(conn, "SELECT v::text::swarm_tensor, v::text ~ '^F32.[0-9]+.:zstd:' FROM (SELECT %s) s (v)", (conn.wire["swarm_tensor"](sent),))
            self.assertEqual(row, (sent, True))

    def test_soft_errors(self):
        """From 16 on, what input refuses is refused softly, with the same SQLSTATE, by each of its ways to refuse."""
        texts = ["", "[1", "[1,,2]", "[[1],2]", "[1e999]", "[1e-999]", "[0x1]", "[NaN]", "[]", "F64:[1]", "F16:[65520]", "BF16:[3.4e38]", "F99:[1]", "[[[[[[[[[1]]]]]]]]]", "U8:[256]", "U8:[x]",
                 "BOOL:[2]", "C64:[1]", "F32[1]:raw:AAAA", "F32[1]:raw:AACAP*==", "F32[1", "F32[4194305]:zstd:AAAA", "F32[9223372036854775807]:raw:", "F32[16]:zstd:AAAA", "F32[1]:zip:", "1 2",
                 "[" + "1," * 65535 + "1]", "F32[1,1,1,1,1,1,1,1,1]:raw:", "F4[1]:raw:AA==", "F32[1]:raw:AADAfw=="]
        modified = [("embedding(2)", "[1]"), ("embedding(1,F16)", "F32:[65520]"), ("agent_state(I8)", "F32:[1.5]"), ("agent_state(F64)", "F4[2]:raw:IQ==")]
        cases = [(t, x) for t in tw.TYPES for x in texts] + modified
        soft = self.conn.info.server_version >= 160000
        refusals = 0
        for type, text in cases:
            try:
                self.conn.execute(f"SELECT %s::{type}", (text,))
                hard = None
            except psycopg.Error as error:
                hard = error.sqlstate
                refusals += 1
            if soft:
                row = self.conn.execute("SELECT sql_error_code FROM pg_input_error_info(%s, %s)", (text, type)).fetchone()
                self.assertEqual(row[0], hard, (type, text[:60]))
                self.assertEqual(self.conn.execute("SELECT pg_input_is_valid(%s, %s)", (text, type)).fetchone()[0], hard is None)
        self.assertGreater(refusals, 70)

    # ---- documentation ----

    def test_vectors_of_the_documentation(self):
        """The table of values in doc/formats.md says what the server says."""
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "doc", "formats.md")
        checked = 0
        with open(path, encoding="utf-8") as file:
            for line in file:
                cells = [c.strip().strip("`") for c in line.strip().strip("|").split("|")]
                if len(cells) == 3 and cells[2].startswith("4741 01"):
                    type, text, wire = cells[0], cells[1], bytes.fromhex(cells[2])
                    row = self.row(f"SELECT %s::{type}, %s::text", text, self.conn.wire[type](wire))
                    self.assertEqual(row[0], wire, text)
                    self.assertEqual(row[1], text)
                    self.assertEqual(tw.encode(*tw.decode(wire)), wire)
                    checked += 1
        self.assertGreaterEqual(checked, 10)


if __name__ == "__main__":
    unittest.main()
