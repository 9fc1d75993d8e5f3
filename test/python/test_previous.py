"""New versions stored as deltas of the one before: every dtype, hostile bit patterns, chains, damage."""

import os
import unittest

import numpy as np
import psycopg
from test_store_hash import CHUNK, LEAF, chunk_hash

# Bytes of an element, or of the smallest piece of a packed dtype.
DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4,
    "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}
FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def hostile(dtype, n, rng):
    """Bytes of n elements: quiet and signalling NaNs with payloads, both zeros, denormals, infinities, and normal values."""
    if dtype not in FLOATS:
        return rng.bytes(n * DTYPES[dtype])
    kind = np.dtype(FLOATS[dtype])
    bits = np.dtype(f"u{kind.itemsize}")
    info = np.finfo(kind)
    nan = np.array(np.inf, kind).view(bits)
    sign = bits.type(1) << bits.type(8 * kind.itemsize - 1)
    values = rng.standard_normal(n).astype(kind).view(bits)
    special = np.array([0, sign, nan, nan | sign, nan | 1, nan | sign | 5, np.array(np.nan, kind).view(bits), 1, sign | 3,
                        np.array(info.smallest_subnormal, kind).view(bits), np.array(info.tiny, kind).view(bits),
                        np.array(info.max, kind).view(bits)], bits)
    places = rng.random(n) < 0.1
    values[places] = rng.choice(special, int(places.sum()))
    return values.tobytes()


def step(data, width, rng, share=1.0):
    """As after a training step: the low byte of a share of the elements is another one."""
    elements = np.frombuffer(data, np.uint8).reshape(-1, width).copy()
    rows = rng.random(len(elements)) < share
    elements[rows, 0] ^= rng.integers(0, 4, int(rows.sum()), np.uint8)
    return elements.tobytes()


class PreviousTest(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg.connect()
        self.addCleanup(self.conn.close)
        self.addCleanup(self.conn.rollback)
        self.rng = np.random.default_rng(5)

    def value(self, query, *args):
        row = self.conn.execute(query, args, binary=True).fetchone()
        return row[0] if row else None

    def put(self, data, dtype, previous=None):
        return self.value("SELECT gpuagent_store.put_tensor(gpuagent.tensor(%s, ARRAY[%s::bigint], %b), %b)",
                          dtype, len(data) // DTYPES[dtype], data, previous)

    def get(self, tensor):
        return self.value("SELECT gpuagent.tensor_bytes(gpuagent_store.get_tensor(%b))", tensor)

    def deltas(self):
        return self.value("SELECT count(*) FROM gpuagent_store.chunk_delta")

    def check_depth(self):
        """The base of every delta has a row of its own, of the same size, and is no delta."""
        self.assertEqual(self.value("""SELECT count(*) FROM gpuagent_store.chunk_delta d WHERE NOT EXISTS
            (SELECT FROM gpuagent_store.chunk c WHERE c.hash = d.base AND c.nbytes = d.nbytes)
            OR EXISTS (SELECT FROM gpuagent_store.chunk_delta e WHERE e.hash = d.base)"""), 0)

    def test_dtypes(self):
        """Whatever the bits, a version is read as it was stored, and a small step takes a delta."""
        for dtype, width in DTYPES.items():
            for nbytes in (64 * width, 3 * LEAF, CHUNK + 5 * width):
                with self.subTest(dtype=dtype, nbytes=nbytes):
                    first = hostile(dtype, nbytes // width, self.rng)
                    second = step(first, width, self.rng)
                    third = step(second, width, self.rng, 0.01)
                    before = self.deltas()
                    tensors = [self.put(first, dtype)]
                    for data in (second, third):
                        tensors.append(self.put(data, dtype, tensors[-1]))
                    for tensor, data in zip(tensors, (first, second, third)):
                        self.assertEqual(self.get(tensor), data)
                        self.assertIsNone(self.value("SELECT gpuagent_store.tensor_problem(%b)", tensor))
                    if width > 1 and nbytes > 64 * width:
                        self.assertGreater(self.deltas(), before)
        self.check_depth()

    def test_random(self):
        """Versions that have nothing to do with each other, of other sizes and dtypes, with other chunks equal or not."""
        tensors = [(self.put(b"", "U8"), b"")]
        for _ in range(60):
            dtype, width = list(DTYPES.items())[self.rng.integers(len(DTYPES))]
            tensor, data = tensors[self.rng.integers(len(tensors))]
            size = int(self.rng.choice([0, 8, LEAF, LEAF + 8, CHUNK, CHUNK + LEAF, 2 * CHUNK + 8])) if self.rng.random() < 0.4 else len(data) // 8 * 8
            new = (data + self.rng.bytes(max(size - len(data), 0)))[:size]
            choice = self.rng.integers(4)
            if choice == 0:
                new = self.rng.bytes(size)
            elif choice > 1 and size:
                new = step(new, width, self.rng, float(self.rng.choice([1, 0.1, 1 / (size // width + 1)])))
            tensors.append((self.put(new, dtype, tensor), new))
        for tensor, data in tensors:
            self.assertEqual(self.get(tensor), data)
        self.check_depth()

    def test_chain(self):
        """A chain of versions goes on from a new base when its deltas have grown; what it takes is far below whole versions."""
        data = hostile("F32", 4 * LEAF, self.rng)
        versions = [data]
        for _ in range(30):
            values = np.frombuffer(versions[-1], np.float32)
            with np.errstate(invalid="ignore", over="ignore"):
                versions.append((values * (1 + 1e-4 * self.rng.standard_normal(len(values)))).astype(np.float32).tobytes())
        for data in versions:
            self.value("SELECT gpuagent.store_weights('chain', 'l', gpuagent.tensor('F32', ARRAY[%s::bigint], %b))", len(data) // 4, data)
            self.conn.execute("UPDATE gpuagent.expert SET version_at = NULL WHERE expert = 'chain'")  # each a version of its own
        hashes = [chunk_hash(data) for data in versions]
        whole = self.value("SELECT count(*) FROM gpuagent_store.chunk WHERE hash = ANY (%s)", hashes)
        self.assertGreater(whole, 1)
        self.assertLess(whole, 10)
        self.assertEqual(whole + self.value("SELECT count(*) FROM gpuagent_store.chunk_delta WHERE hash = ANY (%s)", hashes), 31)
        for version, data in enumerate(versions, 1):
            self.assertEqual(self.value("SELECT gpuagent.tensor_bytes(weights) FROM gpuagent.load_weights('chain', 'l', %s)", version), data)
        self.check_depth()

    def test_swarms(self):
        """store_swarm, store_swarm_rows and append_swarm look at the version before."""
        rows = np.frombuffer(hostile("F32", 2 * CHUNK // 4, self.rng), np.float32).reshape(-1, 256)
        matrix = "gpuagent.tensor('F32', ARRAY[%s::bigint, 256], %b)"
        store = lambda f, data, *more: self.value(f"SELECT gpuagent.{f}({matrix})".replace("(gpuagent", f"('pop', {more[0]}, gpuagent" if more else "('pop', gpuagent"), len(data), data.tobytes())
        contents = [rows]
        store("store_swarm", rows)
        for name in ("store_swarm_rows", "store_swarm", "append_swarm"):
            self.conn.execute("UPDATE gpuagent.swarm SET version_at = NULL WHERE swarm = 'pop'")
            before = self.deltas()
            data = np.frombuffer(step(contents[-1].tobytes(), 4, self.rng), np.float32).reshape(-1, 256)
            if name == "store_swarm_rows":
                data = np.concatenate([contents[-1][:7], data[7:9], contents[-1][9:]])
                store(name, data[7:9], 8)
            elif name == "append_swarm":
                for half in np.split(data, 2):
                    store(name, half)
            else:
                store(name, data)
            contents.append(data)
            self.assertGreater(self.deltas(), before, name)
        for version, data in enumerate(contents, 1):
            self.assertEqual(self.value("SELECT gpuagent.tensor_bytes(gpuagent.retrieve_swarm('pop', %s))", version), data.tobytes())
        # Two rows of a chunk, of which the delta has the leaves they are in.
        self.assertLess(self.value("SELECT min(octet_length(data)) FROM gpuagent_store.chunk_delta"), 4096)
        self.check_depth()

    def test_damage(self):
        """A version is stored whatever has become of the one before, and is whole."""
        damages = [
            "DELETE FROM gpuagent_store.tensor WHERE hash = %b",
            "DELETE FROM gpuagent_store.node WHERE hash = (SELECT root FROM gpuagent_store.tensor WHERE hash = %b)",
            "UPDATE gpuagent_store.node SET children = sha256('') WHERE hash = (SELECT root FROM gpuagent_store.tensor WHERE hash = %b)",
            "DELETE FROM gpuagent_store.chunk WHERE %b <> ''",
            "UPDATE gpuagent_store.chunk SET crc = crc + 1 WHERE %b <> ''",
            "UPDATE gpuagent_store.chunk SET data = substr(data, 2) WHERE %b <> '' AND octet_length(data) > 1",
            "UPDATE gpuagent_store.chunk SET nbytes = nbytes - 1 WHERE %b <> '' AND nbytes > 1",
            "UPDATE gpuagent_store.chunk SET codec = 77 WHERE %b <> ''",
        ]
        for damage in damages:
            with self.subTest(damage=damage):
                self.conn.execute("SAVEPOINT a")
                first = os.urandom(CHUNK + LEAF)
                second = step(first, 4, self.rng)
                previous = self.put(first, "F32")
                self.conn.execute(damage, (previous,))
                tensor = self.put(second, "F32", previous)
                self.assertEqual(self.get(tensor), second)
                self.conn.execute("ROLLBACK TO a")

    def test_off(self):
        """Without compression nothing is read back and nothing stored as a delta."""
        self.conn.execute("SET LOCAL gpuagent.compression = off")
        first = os.urandom(CHUNK)
        second = step(first, 4, self.rng)
        before = self.deltas()
        self.assertEqual(self.get(self.put(second, "F32", self.put(first, "F32"))), second)
        self.assertEqual(self.deltas(), before)


if __name__ == "__main__":
    unittest.main()
