"""Identities of the store: an independent implementation of doc/formats.md, compared with the server and with the
vectors printed there."""

import hashlib
import os
import pathlib
import re
import struct
import unittest

import psycopg

FORMATS = pathlib.Path(__file__).resolve().parents[2] / "doc" / "formats.md"

LEAF = 64 * 1024
CHUNK = 1024 * 1024
FANOUT = 64
ITEM = {"F64": 8, "F32": 4, "F16": 2, "U8": 1, "BF16": 2, "I64": 8, "C64": 8}


def u64(*values):
    return struct.pack(f"<{len(values)}Q", *values)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def chunk_hash(data):
    leaves = [sha(data[i : i + LEAF]) for i in range(0, len(data), LEAF)]
    return sha(b"gpuagent/chunk/1", u64(len(data)), *leaves)


def tree(data):
    """Root, and the hashes of all nodes by level, from the one above the chunks upwards."""
    return tree_of([(chunk_hash(data[i : i + CHUNK]), len(data[i : i + CHUNK])) for i in range(0, len(data), CHUNK)])


def tree_of(level):
    """The same, of chunks as pairs of hash and size."""
    level = level or [(chunk_hash(b""), 0)]
    nodes = []
    while len(level) > 1:
        groups = [level[i : i + FANOUT] for i in range(0, len(level), FANOUT)]
        level = [
            (sha(b"gpuagent/node/1", u64(sum(n for _, n in group)), *(h for h, _ in group)), sum(n for _, n in group))
            for group in groups
        ]
        nodes.append([h for h, _ in level])
    return level[0][0], nodes


def tensor_hash(dtype, shape, data):
    return tensor_of(dtype, shape, tree(data)[0])


def tensor_of(dtype, shape, root):
    return sha(b"gpuagent/tensor/1", dtype.encode().ljust(16, b"\0"), u64(len(shape)), u64(*shape), root)


def content(nbytes):
    """The content of the vectors: byte i is i mod 251."""
    period = bytes(range(251))
    return (period * (nbytes // 251 + 1))[:nbytes]


VECTORS = [
    ("F32", ()),
    ("F32", (0,)),
    ("U8", (1,)),
    ("F16", (3, 5)),
    ("U8", (65536,)),
    ("U8", (65537,)),
    ("F32", (512, 512)),
    ("U8", (1048577,)),
    ("BF16", (1024, 1024)),
    ("F64", (8, 1048576)),
    ("U8", (67108865,)),
]


def nbytes(dtype, shape):
    count = ITEM[dtype]
    for dim in shape:
        count *= dim
    return count


def vector_rows():
    """The table of doc/formats.md, as its lines."""
    for dtype, shape in VECTORS:
        data = content(nbytes(dtype, shape))
        yield f"| {dtype} | {list(shape)} | {tree(data)[0].hex()} | {tensor_hash(dtype, shape, data).hex()} |"


class StoreHashTest(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)

    def server(self, query, *args):
        return self.conn.execute(query, args).fetchone()[0]

    def test_document(self):
        """doc/formats.md shows exactly the vectors that this file computes."""
        shown = re.findall(r"^\| [A-Z0-9]+ \| \[[0-9, ]*\] \| [0-9a-f]{64} \| [0-9a-f]{64} \|$", FORMATS.read_text(), re.M)
        self.assertEqual(shown, list(vector_rows()))

    def test_vectors(self):
        for dtype, shape in VECTORS:
            with self.subTest(dtype=dtype, shape=shape):
                data = content(nbytes(dtype, shape))
                got = self.server(
                    "SELECT gpuagent.tensor_hash(gpuagent.tensor(%s, %s, %b))", dtype, list(shape), data
                )
                self.assertEqual(got.hex(), tensor_hash(dtype, shape, data).hex())

    def test_sizes(self):
        """Around every border, random content."""
        data = os.urandom(2 * CHUNK + LEAF + 9)
        sizes = {0, 1, 2, len(data)}
        for border in (LEAF, 2 * LEAF, CHUNK - LEAF, CHUNK, CHUNK + LEAF, 2 * CHUNK):
            sizes |= {border - 1, border, border + 1}
        for n in sorted(sizes):
            with self.subTest(nbytes=n):
                got = self.server("SELECT gpuagent.tensor_hash(gpuagent.tensor('U8', ARRAY[%s], %b))", n, data[:n])
                self.assertEqual(got, tensor_hash("U8", (n,), data[:n]))

    def test_rows(self):
        """What is stored has the names of its content: chunks, both levels of nodes, the tensor."""
        data = content(66 * CHUNK + 5)
        digest = self.server("SELECT gpuagent_store.put_tensor(gpuagent.tensor('U8', ARRAY[%s], %b))", len(data), data)
        self.assertEqual(digest, tensor_hash("U8", (len(data),), data))
        root, nodes = tree(data)
        self.assertEqual(self.server("SELECT root FROM gpuagent_store.tensor WHERE hash = %s", digest), root)
        self.assertEqual([len(level) for level in nodes], [2, 1])
        for level in nodes:
            for h in level:
                self.assertEqual(self.server("SELECT count(*) FROM gpuagent_store.node WHERE hash = %s", h), 1)
        children = [self.server("SELECT children FROM gpuagent_store.node WHERE hash = %s", h) for h in nodes[0]]
        chunks = [chunk_hash(data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)]
        self.assertEqual(b"".join(children), b"".join(chunks))
        self.assertEqual(
            self.server("SELECT count(*) FROM unnest(%s::bytea[]) h WHERE EXISTS (SELECT FROM gpuagent_store.chunk c WHERE c.hash = h)",
                        chunks), len(chunks))
        with self.conn.transaction(force_rollback=True):
            self.assertEqual(self.server("SELECT gpuagent.store_chunk(gpuagent.tensor('U8', '{5}', %b))", data[-5:]),
                             chunk_hash(data[-5:]))

    def test_deep_trees(self):
        """Tensors of up to three levels of nodes, from few chunks that repeat: made, appended to, changed in places."""
        bytes_a, bytes_b, tail = bytes(CHUNK), content(CHUNK), b"tail"
        a, b = (chunk_hash(bytes_a), CHUNK), (chunk_hash(bytes_b), CHUNK)
        t = (chunk_hash(tail), len(tail))
        for data in (bytes_a, bytes_b, tail):
            self.server("SELECT gpuagent.store_chunk(gpuagent.tensor('U8', ARRAY[%s], %b))", len(data), data)

        def named(chunks):
            return tensor_of("U8", (sum(n for _, n in chunks),), tree_of(chunks)[0])

        def stored(chunks):
            size = sum(n for _, n in chunks)
            got = self.server("SELECT gpuagent.store_tensor('U8', ARRAY[%s::bigint], %s)", size, [h for h, _ in chunks])
            self.assertEqual(got, named(chunks))
            return got

        for n in (1, 2, 63, 64, 65, 128, 4095, 4096, 4097, 4161, 8192):
            with self.subTest(chunks=n):
                chunks = [a if i % 3 else b for i in range(n)]
                whole = stored(chunks)
                with_tail = stored(chunks + [t])
                for added in (tail, bytes_b, bytes_b + tail, bytes_a + bytes_b + bytes_a):
                    got = self.server("SELECT gpuagent_store.append_tensor(%s, gpuagent.tensor('U8', ARRAY[%s], %b))",
                                      whole, len(added), added)
                    parts = [added[i : i + CHUNK] for i in range(0, len(added), CHUNK)]
                    self.assertEqual(got, named(chunks + [(chunk_hash(p), len(p)) for p in parts]))
                added = bytes_a[: CHUNK - len(tail)] + bytes_b + tail
                rest = tail + added
                got = self.server("SELECT gpuagent_store.append_tensor(%s, gpuagent.tensor('U8', ARRAY[%s], %b))",
                                  with_tail, len(added), added)
                parts = [rest[i : i + CHUNK] for i in range(0, len(rest), CHUNK)]
                self.assertEqual(got, named(chunks + [(chunk_hash(p), len(p)) for p in parts]))
                for i in sorted({0, n // 2, n - 1, min(n - 1, 63), min(n - 1, 64), min(n - 1, 4095), min(n - 1, 4096)}):
                    got = self.server("SELECT gpuagent_store.patch_tensor(%s, %s, gpuagent.tensor('U8', ARRAY[%s], %b))",
                                      whole, i * CHUNK + 1, CHUNK, bytes_a)
                    self.assertEqual(got, named(chunks[:i] + [a] + chunks[i + 1 :]))
                if n > 2:
                    got = self.server("SELECT gpuagent_store.patch_tensor(%s, %s, gpuagent.tensor('U8', ARRAY[%s], %b))",
                                      with_tail, (n - 2) * CHUNK + 1, 2 * CHUNK + 4, bytes_b + bytes_a + b"liat")
                    self.assertEqual(got, named(chunks[: n - 2] + [b, a, (chunk_hash(b"liat"), 4)]))
                row = self.server("SELECT gpuagent.tensor_bytes(gpuagent_store.get_tensor(%s, %s, 9))", with_tail, n * CHUNK - 4)
                self.assertEqual(row, (bytes_a if (n - 1) % 3 else bytes_b)[-5:] + tail)


if __name__ == "__main__":
    print("\n".join(vector_rows()))
