"""Mutated text and wire bytes for the three types: the server stays up, refuses with the right errors, and what it accepts round-trips.

	python fuzz_types.py [SECONDS [SEED]]		libpq's environment names the database
"""

import random
import struct
import sys
import time

import psycopg

import typewire as tw

REFUSALS = {"22P02", "22P03", "22003", "22000", "2202E", "22023", "54000"}

TEXTS = [
    "[1,2,3]", "[[1,2],[3,4]]", "[[[1],[2]],[[3],[4]]]", "3.5", "[]", "[[],[]]", "F16:[1,2.5]", "BF16:[0.1]", "F64:[1e300,-5e-324]", "[NaN,-inf,Infinity,-0]",
    "BOOL:[true,false]", "U8:[255]", "I8:[-128]", "U64:[18446744073709551615]", "I64:[-9223372036854775808]", "F32[1]:raw:AACAPw==", "F32[]:raw:AACAPw==",
    "F32[2,0]:raw:", "F4[2]:raw:IQ==", "F6_E2M3[4]:raw:AQID", "C64[1]:raw:AACAPwAAAEA=", "F16[2]:raw:AH4B/g==", " [ 1 , 2 ] ", "[[[[[[[[1]]]]]]]]",
    "F32[64]:zstd:KLUv/SAACQAAAAAAAA==",
]
PIECES = list("[],:.+-0123456789eEnaNfI \t\n=/AzQ_xé") + [
    "F32", "F16:", "BF16:", "I8:", "BOOL:", "F32[", "]:raw:", "]:zstd:", "nan", "inf", "1e999", "1e-999", "0x1", "[[", "]]", "18446744073709551616", "9223372036854775807", "-", "true"]
DIMS = [0, 1, 2, 3, 8, 255, 65535, 65536, 2 ** 22, 2 ** 28, 2 ** 31, 2 ** 32, 2 ** 62, 2 ** 63 - 1, -1, -2 ** 63]

# A refusal's SQLSTATE, "ok", or what went wrong.
TRY_TEXT = """CREATE OR REPLACE FUNCTION pg_temp.try_text(inputs text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    input text; type text; value gpuagent.swarm_tensor; same boolean;
BEGIN
    FOREACH input IN ARRAY inputs LOOP
        FOREACH type IN ARRAY '{embedding,agent_state,swarm_tensor}'::text[] LOOP
            BEGIN
                EXECUTE format('SELECT gpuagent.%1$s_send(v) = gpuagent.%1$s_send(v::text::gpuagent.%1$s) AND v::text = v::text::gpuagent.%1$s::text
                        AND v = v AND gpuagent.%1$s_cmp(v, v::text::gpuagent.%1$s) = 0 FROM (SELECT $1::gpuagent.%1$s) s (v)', type) INTO STRICT same USING input;
                RETURN NEXT CASE WHEN same THEN 'ok' ELSE type || ' does not round-trip: ' || input END;
            EXCEPTION WHEN OTHERS THEN
                RETURN NEXT CASE WHEN SQLSTATE = ANY (%s) THEN SQLSTATE ELSE type || ' ' || SQLSTATE || ' ' || SQLERRM || ': ' || input END;
            END;
        END LOOP;
    END LOOP;
END
$$"""

# Functions that walk over the elements of whatever was accepted.
WALKS = [
    "SELECT l2_distance(a, a), cosine_distance(a, a), l2_norm(a)", "SELECT a + a, a * a, l2_normalize(a)", "SELECT astype(a, 'F16')", "SELECT astype(a, 'I8')", "SELECT astype(a, 'U64')",
    "SELECT slice(a, 1, 2)", "SELECT reshape(a, '{-1}')", "SELECT a::float8[]", "SELECT a::bigint[]", "SELECT has_nonfinite(a)", "SELECT sum(a), avg(a)", "SELECT stack(a)",
    "SELECT count(*) FROM (SELECT (unstack(a::swarm_tensor)).state LIMIT 100) s", "SELECT compress(a::swarm_tensor)", "SELECT a::embedding", "SELECT element(a, VARIADIC shape(a))", "SELECT agent_state_hash(a)",
]


def mutate_text(rng):
    text = rng.choice(TEXTS)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        text = rng.choice((
            lambda: text[:at] + rng.choice(PIECES) + text[at:],
            lambda: text[:at] + rng.choice(PIECES) + text[at + 1:],
            lambda: text[:at] + text[at + 1:],
            lambda: text[:at] + text[end:],
            lambda: text[:end] + text[at:end] * rng.choice((1, 1, 2, 40)) + text[end:],
            lambda: text[:at] + rng.choice(TEXTS)[at:],
        ))()
    return text[:20000]


def random_wire(rng):
    dtype = rng.choice(list(tw.DTYPES))
    shape = tuple(rng.choice((0, 1, 2, 4, 8)) for _ in range(rng.randrange(9)))
    size = 1
    for d in shape:
        size *= d
    return tw.encode(dtype, shape, rng.randbytes(min(size, 4096) * tw.DTYPES[dtype][1] // 8))


def mutate_wire(rng):
    wire = bytearray(random_wire(rng))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        kind = rng.randrange(6)
        at = rng.randrange(len(wire) + 1)
        if kind == 0 and at < len(wire):
            wire[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < min(len(wire), 16):
            wire[at] = rng.choice((0, 1, 2, 8, 9, 22, 23, 127, 128, 255))
        elif kind == 2:
            del wire[at:]
        elif kind == 3:
            wire += rng.randbytes(rng.choice((1, 2, 7, 8, 64)))
        elif kind == 4 and len(wire) >= 16:
            struct.pack_into("<q", wire, 8 + 8 * rng.randrange((len(wire) - 8) // 8), rng.choice(DIMS))
        elif kind == 5:
            wire[at:at] = rng.randbytes(rng.choice((1, 8)))
    return bytes(wire)


def refused(error, query):
    """True when an error is one of those that the types may give; a distance of integers is 0A000."""
    return error.sqlstate in REFUSALS or (query in WALKS and error.sqlstate == "0A000")


def try_wire(conn, wire, type, walk):
    """Sends one value; returns whether it was accepted, raises AssertionError when something is wrong."""
    value = conn.wire[type](wire)
    try:
        row = tw.binary_row(conn, f"SELECT v, v::text::{type}, {type}_send(v) FROM (SELECT %s) s (v)", (value,))
    except psycopg.Error as error:
        assert refused(error, None), f"{type} {error.sqlstate} {error}: {wire.hex()}"
        return False
    assert row == (wire,) * 3, f"{type} does not round-trip: {wire.hex()}"
    if type == "agent_state":
        try:
            tw.binary_row(conn, walk + " FROM (SELECT %s) s (a)" if "FROM" not in walk else walk.replace("(a::", "(%s::"), (value,))
        except psycopg.Error as error:
            assert refused(error, walk), f"{walk} {error.sqlstate} {error}: {wire.hex()}"
    return True


def fuzz(seconds, seed):
    """For so long, and at least five hundred of each form: how many inputs were tried and how many accepted, by form."""
    rng = random.Random(seed)
    counts = {"text": [0, 0], "wire": [0, 0]}
    with tw.connect() as conn:
        started = conn.execute("SELECT pg_postmaster_start_time()").fetchone()
        refusals = "'{" + ",".join(sorted(REFUSALS)) + "}'"
        conn.execute(TRY_TEXT.replace("%s)", refusals + ")").replace("%1$s", "%1$s"))
        until = time.monotonic() + seconds
        while time.monotonic() < until or counts["wire"][0] < 500:
            inputs = [mutate_text(rng) for _ in range(100)]
            for outcome, in conn.execute("SELECT pg_temp.try_text(%s::text[])", (inputs,)):
                assert outcome == "ok" or outcome in REFUSALS, outcome
                counts["text"][0] += 1
                counts["text"][1] += outcome == "ok"
            for _ in range(100):
                accepted = try_wire(conn, mutate_wire(rng), rng.choice(tw.TYPES), rng.choice(WALKS))
                counts["wire"][0] += 1
                counts["wire"][1] += accepted
        assert conn.execute("SELECT pg_postmaster_start_time()").fetchone() == started
    return counts


if __name__ == "__main__":
    print(fuzz(float(sys.argv[1]) if len(sys.argv) > 1 else 10, int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2 ** 32)))
