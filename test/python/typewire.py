"""The wire format and the number formats once more, written against doc/formats.md and IEEE 754, without the code under test."""

import math
import struct
from fractions import Fraction

import numpy as np
import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

TYPES = ("embedding", "agent_state", "swarm_tensor")

# name: code, bits of an element, NumPy dtype or None
DTYPES = {
    "F32": (1, 32, np.float32), "F16": (2, 16, np.float16), "BF16": (3, 16, None), "F64": (4, 64, np.float64),
    "BOOL": (5, 8, np.bool_), "U8": (6, 8, np.uint8), "I8": (7, 8, np.int8), "U16": (8, 16, np.uint16),
    "I16": (9, 16, np.int16), "U32": (10, 32, np.uint32), "I32": (11, 32, np.int32), "U64": (12, 64, np.uint64),
    "I64": (13, 64, np.int64), "C64": (14, 64, np.complex64), "F8_E5M2": (15, 8, None), "F8_E4M3": (16, 8, None),
    "F8_E8M0": (17, 8, None), "F8_E4M3FNUZ": (18, 8, None), "F8_E5M2FNUZ": (19, 8, None), "F4": (20, 4, None),
    "F6_E2M3": (21, 6, None), "F6_E3M2": (22, 6, None),
}
NAMES = {code: name for name, (code, _, _) in DTYPES.items()}


def encode(dtype, shape, payload):
    """Wire bytes of a tensor."""
    return b"GA" + bytes((1, DTYPES[dtype][0], len(shape), 0, 0, 0)) + struct.pack(f"<{len(shape)}q", *shape) + payload


def decode(wire):
    """dtype, shape and payload of wire bytes."""
    assert wire[:3] == b"GA\x01" and wire[5:8] == bytes(3), wire[:8]
    ndim = wire[4]
    return NAMES[wire[3]], struct.unpack_from(f"<{ndim}q", wire, 8), wire[8 + 8 * ndim:]


class Wire(bytes):
    """A parameter sent in binary; subclasses carry the type."""


def connect():
    """A connection whose parameters of class conn.wire[type] and whose binary results are wire bytes."""
    conn = psycopg.connect(autocommit=True, options="-c search_path=public,gpuagent")
    conn.wire = {}
    for name in TYPES:
        type_oid = conn.execute("SELECT %s::regtype::oid", (f"gpuagent.{name}",)).fetchone()[0]

        class Sent(Wire):
            pass

        class WireDumper(Dumper):
            format = Format.BINARY
            oid = type_oid

            def dump(self, obj):
                return bytes(obj)

        class WireLoader(Loader):
            format = Format.BINARY

            def load(self, data):
                return bytes(data)

        conn.wire[name] = Sent
        conn.adapters.register_dumper(Sent, WireDumper)
        conn.adapters.register_loader(type_oid, WireLoader)
    return conn


def binary_row(conn, query, params=()):
    """The first row of a query, results in binary."""
    with conn.cursor(binary=True) as cur:
        return cur.execute(query, params).fetchone()


# ---- number formats: fraction bits, exponent bits ----

FORMATS = {"F16": (10, 5), "BF16": (7, 8), "F32": (23, 8), "F64": (52, 11)}


def round_exact(dtype, value):
    """Bits of a Fraction (or finite float) rounded once, to nearest even; None when that overflows."""
    fraction_bits, exponent_bits = FORMATS[dtype]
    bias = (1 << (exponent_bits - 1)) - 1
    value = Fraction(value)
    sign, value = value < 0, abs(value)
    if value == 0:
        return 0
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    if Fraction(2) ** exponent > value:
        exponent -= 1
    exponent = max(exponent, 1 - bias)
    significand = round(value / Fraction(2) ** (exponent - fraction_bits))  # Python rounds halves to even
    bits = significand + ((exponent + bias - 1) << fraction_bits)  # a carry moves into the exponent by itself
    if bits >= ((1 << exponent_bits) - 1) << fraction_bits:
        return None
    return bits | sign << (fraction_bits + exponent_bits)


def float_of_bits(dtype, bits):
    """The double equal to some bits."""
    if dtype == "BF16":
        return float(np.uint32(bits << 16).view(np.float32))
    unsigned = {"F16": np.uint16, "F32": np.uint32, "F64": np.uint64}[dtype]
    return float(unsigned(bits).view(DTYPES[dtype][2]))


def widen(dtype, payload):
    """Elements of a float payload as float64, exact."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        if dtype == "BF16":
            return (np.frombuffer(payload, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return np.frombuffer(payload, np.dtype(DTYPES[dtype][2]).newbyteorder("<")).astype(np.float64)


# ---- distances: the canonical summation of src/math/distance.h, lane by lane ----


def lane_sum(terms):
    """16 lanes in order, then the tree 16, 8, 4, 2, 1."""
    lanes = np.zeros(16)
    for start in range(0, len(terms), 16):
        part = terms[start:start + 16]
        lanes[:len(part)] += part
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]


def distance(metric, dtype_a, a, dtype_b, b):
    """A distance of two float64 arrays that hold elements of these dtypes, in float64 or rounded as F32 differences are."""
    with np.errstate(all="ignore"):
        narrow = dtype_a != "F64" and dtype_b != "F64"
        difference = (a.astype(np.float32) - b.astype(np.float32)).astype(np.float64) if narrow else a - b
        if metric == "l2":
            result = np.sqrt(lane_sum(difference * difference))
        elif metric == "l1":
            result = lane_sum(np.abs(difference))
        elif metric == "ip":
            result = lane_sum(a * b)
        else:
            ab, aa, bb = lane_sum(a * b), lane_sum(a * a), lane_sum(b * b)
            if not (0 < aa < math.inf and 0 < bb < math.inf):
                return math.nan
            product = aa * bb
            normal = np.finfo(np.float64).tiny <= product < math.inf
            result = 1 - ab / (np.sqrt(product) if normal else np.sqrt(aa) * np.sqrt(bb))
            result = min(max(result, 0.0), 2.0) if not math.isnan(result) else result
    return math.nan if math.isnan(result) else float(result)
