"""Chunks stored as deltas: rows that are made here, after doc/formats.md, read by the server."""

import ctypes
import ctypes.util
import os
import random
import struct
import unittest

import psycopg
from test_store_hash import CHUNK, LEAF, chunk_hash, tensor_of

SIZES = (1, 5, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF + 7, 8 * LEAF, CHUNK - 3, CHUNK)
DTYPES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8, "C64": 8, "F8_E4M3": 1, "BOOL": 1}


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(*parts):
    """Signed, as the column has it."""
    crc = 0xFFFFFFFF
    for part in parts:
        for byte in part:
            crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return struct.unpack("<i", struct.pack("<I", crc ^ 0xFFFFFFFF))[0]


def leaves_of(data, mask):
    return b"".join(data[i * LEAF : (i + 1) * LEAF] for i in range(16) if mask >> i & 1)


def shuffle(data, width):
    n = len(data) // width
    whole = data[: n * width]
    return b"".join(whole[k::width] for k in range(width)) + data[n * width :] if width > 1 else data


def zstd(data):
    library = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    room = ctypes.create_string_buffer(library.ZSTD_compressBound(ctypes.c_size_t(len(data))))
    size = library.ZSTD_compress(room, ctypes.c_size_t(len(room)), data, ctypes.c_size_t(len(data)), 1)
    return room.raw[:size]


def delta_row(base, data, mask, mode, codec, width):
    """The row of chunk_delta for data, which differs from base in the leaves of the mask."""
    leaves = leaves_of(data, mask)
    payload = bytes(a ^ b for a, b in zip(leaves, leaves_of(base, mask))) if mode else leaves
    if codec:
        payload = zstd(shuffle(payload, width))
    crc = crc32c(chunk_hash(base), struct.pack("<H", mask), leaves)
    return chunk_hash(data), len(data), chunk_hash(base), mask, mode, codec, width, crc, payload


def variant(base, mask, compressible, rng):
    """Base with other bytes in the leaves of the mask."""
    data = bytearray(base)
    for i in range(16):
        if mask >> i & 1:
            end = min((i + 1) * LEAF, len(base))
            n = end - i * LEAF
            data[i * LEAF : end] = rng.randbytes(1) * n if compressible else rng.randbytes(n)
    return bytes(data)


class DeltaTest(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg.connect()
        self.addCleanup(self.conn.close)
        self.addCleanup(self.conn.rollback)
        self.rng = random.Random(7)

    def value(self, query, *args):
        return self.conn.execute(query, args, binary=True).fetchone()[0]

    def store_chunk(self, data):
        return self.value("SELECT gpuagent.store_chunk(gpuagent.tensor('U8', ARRAY[%s::bigint], %b))", len(data), data)

    def insert(self, row):
        self.conn.execute(
            "INSERT INTO gpuagent_store.chunk_delta (hash, nbytes, base, leaves, mode, codec, width, crc, data)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)", row)

    def random_mask(self, nbytes):
        return self.rng.randrange(1, 1 << (nbytes + LEAF - 1) // LEAF)

    def test_read(self):
        """Whatever the size, mask, mode, codec and dtype, what is read is the content."""
        for nbytes in SIZES:
            base = self.rng.randbytes(nbytes)
            self.store_chunk(base)
            for mode, codec in ((0, 0), (0, 1), (1, 0), (1, 1)):
                mask = self.random_mask(nbytes)
                data = variant(base, mask, codec, self.rng)
                if data == base:
                    continue
                dtype = self.rng.choice([d for d, width in DTYPES.items() if nbytes % width == 0])
                shape = [nbytes // DTYPES[dtype]]
                with self.subTest(nbytes=nbytes, mask=hex(mask), mode=mode, codec=codec, dtype=dtype):
                    digest = chunk_hash(data)
                    self.assertEqual(self.value("SELECT array_agg(h) FROM gpuagent.missing_chunks(ARRAY[%s::bytea]) h", digest), [digest])
                    self.insert(delta_row(base, data, mask, mode, codec, DTYPES[dtype]))
                    self.assertIsNone(self.value("SELECT array_agg(h) FROM gpuagent.missing_chunks(ARRAY[%s::bytea]) h", digest))
                    tensor = self.value("SELECT gpuagent.store_tensor(%s, %s, ARRAY[%s::bytea])", dtype, shape, digest)
                    self.assertEqual(tensor, tensor_of(dtype, shape, digest))
                    self.assertEqual(self.value("SELECT gpuagent.tensor_bytes(gpuagent_store.get_tensor(%s))", tensor), data)
                    self.assertIsNone(self.value("SELECT gpuagent_store.tensor_problem(%s)", tensor))
                    self.assertIsNone(self.value("SELECT gpuagent_store.tensor_gap(%s)", tensor))
                    # The content is there: storing it again inserts nothing.
                    before = self.value("SELECT count(*) FROM gpuagent_store.chunk")
                    self.assertEqual(self.store_chunk(data), digest)
                    self.assertEqual(self.value("SELECT count(*) FROM gpuagent_store.chunk"), before)

    def test_damage(self):
        """Any change of a row, or of its base, is found by a plain read."""
        base = self.rng.randbytes(3 * LEAF + 8)
        mask = 0b0101
        data = variant(base, mask, False, self.rng)
        other = self.rng.randbytes(len(base))
        self.store_chunk(base)
        self.store_chunk(other)
        for mode, codec in ((0, 0), (1, 0), (1, 1)):
            self.conn.execute("SAVEPOINT a")
            row = delta_row(base, data, mask, mode, codec, 4)
            self.insert(row)
            tensor = self.value("SELECT gpuagent.store_tensor('F32', %s, ARRAY[%s::bytea])", [len(data) // 4], row[0])
            changes = ["crc = crc + 1", "leaves = 3", "leaves = 9", "leaves = 7", "leaves = 32768", "mode = 1 - mode", "mode = 2", "codec = 1 - codec", "codec = 7",
                       "nbytes = nbytes - 1", "data = '\\x00'", "data = set_byte(data, 99, 255 - get_byte(data, 99))",
                       "data = data || '\\x00'", "base = '\\x%s'" % chunk_hash(other).hex(), "base = sha256('')"]
            if codec:
                changes.append("width = 1")
            for change in changes:
                with self.subTest(mode=mode, codec=codec, change=change):
                    self.conn.execute("SAVEPOINT b")
                    self.conn.execute("UPDATE gpuagent_store.chunk_delta SET " + change + " WHERE hash = %s", (row[0],))
                    with self.assertRaises(psycopg.errors.DataCorrupted):
                        self.value("SELECT gpuagent_store.get_tensor(%s)", tensor)
                    self.conn.execute("ROLLBACK TO b")
                    self.conn.execute("UPDATE gpuagent_store.chunk_delta SET " + change + " WHERE hash = %s", (row[0],))
                    self.assertIsNotNone(self.value("SELECT gpuagent_store.tensor_problem(%s)", tensor))
                    self.conn.execute("ROLLBACK TO b")
            for change in ("DELETE FROM gpuagent_store.chunk WHERE hash = %s", "UPDATE gpuagent_store.chunk SET crc = crc + 1 WHERE hash = %s"):
                self.conn.execute("SAVEPOINT b")
                self.conn.execute(change, (row[2],))
                with self.assertRaises(psycopg.errors.DataCorrupted):
                    self.value("SELECT gpuagent_store.get_tensor(%s)", tensor)
                self.conn.execute("ROLLBACK TO b")
            self.conn.execute("ROLLBACK TO a")

    def test_missing_base(self):
        """Without its base a delta does not count as stored: the content can be stored again, and heals what needs it."""
        base = self.rng.randbytes(2 * LEAF)
        data = variant(base, 2, False, self.rng)
        self.store_chunk(base)
        self.insert(delta_row(base, data, 2, 0, 0, 1))
        digest = chunk_hash(data)
        tensor = self.value("SELECT gpuagent.store_tensor('U8', %s, ARRAY[%s::bytea])", [len(data)], digest)
        self.conn.execute("DELETE FROM gpuagent_store.chunk WHERE hash = %s", (chunk_hash(base),))
        self.assertIn("missing", self.value("SELECT gpuagent_store.tensor_gap(%s)", tensor))
        self.assertIn("delta", self.value("SELECT gpuagent_store.tensor_problem(%s)", tensor))
        self.assertEqual(self.value("SELECT array_agg(h) FROM gpuagent.missing_chunks(ARRAY[%s::bytea]) h", digest), [digest])
        self.store_chunk(data)
        self.assertIsNone(self.value("SELECT gpuagent_store.tensor_problem(%s)", tensor))
        self.assertEqual(self.value("SELECT gpuagent.tensor_bytes(gpuagent_store.get_tensor(%s))", tensor), data)

    def test_statistics(self):
        """Statistics count them."""
        base = os.urandom(2 * LEAF)
        data = base[:LEAF] + os.urandom(LEAF)
        self.store_chunk(base)
        before = self.conn.execute("SELECT raw_bytes, stored_bytes, delta_bytes FROM gpuagent.storage_stats() WHERE kind = 'store'").fetchone()
        self.insert(delta_row(base, data, 2, 0, 0, 1))
        after = self.conn.execute("SELECT raw_bytes, stored_bytes, delta_bytes FROM gpuagent.storage_stats() WHERE kind = 'store'").fetchone()
        self.assertEqual([b - a for a, b in zip(before, after)], [2 * LEAF, LEAF, LEAF])


if __name__ == "__main__":
    unittest.main()
