"""Files that several processes write at once, byte for byte as the safetensors package and hashlib see them."""

import hashlib
import json
import pathlib
import random
import struct
import unittest

import numpy as np
import psycopg
import safetensors

from shared import SharedConnection

MIB = 1 << 20
BLOCK = 4096
PIECE = 128 << 10  # a participant writes its own blocks when they are so many

# Around everything that has an edge: blocks, what a participant writes itself, leaves, chunks, and claims of several.
SIZES = (0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, PIECE - 1, PIECE, PIECE + BLOCK, PIECE + 2 * BLOCK + 5, MIB - BLOCK - 1, MIB - 1,
         MIB, MIB + 1, MIB + BLOCK, 2 * MIB - 1, 3 * MIB + PIECE + 77, 5 * MIB, 9 * MIB + 12345)


class ExportTest(SharedConnection):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.base = pathlib.Path(cls.one("SELECT gpuagent_store.storage_path()"))
        cls.random = random.Random(1)

    @classmethod
    def tearDownClass(cls):
        cls.conn.execute("SELECT gpuagent.delete_expert(expert) FROM gpuagent.expert WHERE expert LIKE 'ex.%'")

    def store(self, expert, tensors, compression="on"):
        """Bytes as U8 layers, real numbers as F32: {layer: bytes or array}."""
        with self.conn.transaction():
            self.conn.execute(f"SET LOCAL gpuagent.compression = {compression}")
            for layer, data in tensors.items():
                dtype, shape = ("U8", [len(data)]) if isinstance(data, bytes) else ("F32", list(data.shape))
                raw = data if isinstance(data, bytes) else data.tobytes()
                self.conn.execute("SELECT gpuagent.store_weights(%s, %s, gpuagent.tensor(%s, %s::bigint[], %b))",
                                  (expert, layer, dtype, shape, raw))

    def hashes(self, expert):
        return dict(self.conn.execute(
            "SELECT DISTINCT ON (layer) layer, weights FROM gpuagent.weight_version WHERE expert = %s ORDER BY layer, version DESC",
            (expert,)).fetchall())

    def export(self, expert, workers, shard_bytes=5_000_000_000):
        """Exports with so many workers wanted; returns the rows."""
        hashes = self.hashes(expert)
        with self.conn.transaction():
            self.conn.execute(f"SET LOCAL max_parallel_maintenance_workers = {workers}")
            return self.conn.execute(
                "SELECT file, items, nbytes, sha256 FROM gpuagent_store.export_tensors(%s, %s, %s, '{}', '{}', true, %s)",
                (f"python/{expert}", list(hashes), list(hashes.values()), shard_bytes)).fetchall()

    def check(self, rows, tensors):
        """The files hold exactly these tensors; each has the size and the SHA-256 that its row says."""
        seen = {}
        for file, items, nbytes, sha256 in rows:
            data = (self.base / file).read_bytes()
            self.assertEqual((len(data), hashlib.sha256(data).hexdigest()), (nbytes, sha256), file)
            if file.endswith(".json"):
                index = json.loads(data)["weight_map"]
                continue
            length, = struct.unpack("<Q", data[:8])
            self.assertEqual((8 + length) % BLOCK, 0)
            with safetensors.safe_open(self.base / file, "np") as f:
                self.assertEqual(len(f.keys()), items)
                for name in f.keys():
                    want = tensors[name]
                    got = f.get_tensor(name)
                    if not isinstance(want, bytes):
                        self.assertEqual(got.shape, want.shape)
                        want = want.tobytes()
                    self.assertTrue(got.tobytes() == want, f"{name} of {file}")
                    seen[name] = file.rsplit("/", 1)[1]
        self.assertEqual(set(seen), set(tensors))
        if len(rows) > 1:
            self.assertEqual(index, seen)

    def test_sizes_around_blocks_and_chunks(self):
        tensors = {f"t{i:02}.{size}": self.random.randbytes(size) for i, size in enumerate(SIZES)}
        self.store("ex.sizes", tensors)
        for workers in (0, 1, 3):
            self.check(self.export("ex.sizes", workers), tensors)

    def test_shards(self):
        tensors = {f"t{i:02}.{size}": self.random.randbytes(size) for i, size in enumerate(SIZES)}
        self.store("ex.shards", tensors, "off")
        for workers, limit in ((0, 5 * MIB), (2, 5 * MIB - 1), (2, 9 * MIB + 12345), (2, 20 * MIB), (2, 1)):
            rows = self.export("ex.shards", workers, limit)
            self.check(rows, tensors)
            self.assertGreater(len(rows), 2)
            # A shard has more than the limit only when it is a single tensor (and empty ones).
            for file, items, nbytes, _ in rows[:-1]:
                sizes = [len(tensors[n]) for n, f in self.index(rows).items() if file.endswith("/" + f)]
                self.assertTrue(sum(sizes) <= limit or sum(s > 0 for s in sizes) == 1, file)

    def index(self, rows):
        return json.loads((self.base / rows[-1][0]).read_bytes())["weight_map"]

    def test_deltas_raw_and_compressed(self):
        rng = np.random.default_rng(5)
        tensors = {f"layer.{i}": rng.standard_normal((1300 + i, 1024), dtype=np.float32) for i in range(6)}
        self.store("ex.delta", tensors)
        before = self.one("SELECT count(*) FROM gpuagent_store.chunk_delta")
        for data in tensors.values():
            data[rng.integers(0, len(data), 4), 5] += 1  # some rows: few leaves of few chunks
        self.store("ex.delta", tensors)
        self.assertGreater(self.one("SELECT count(*) FROM gpuagent_store.chunk_delta"), before)
        tensors["raw"] = rng.standard_normal((900, 1024), dtype=np.float32)
        self.store("ex.delta", {"raw": tensors["raw"]}, "off")
        for workers in (0, 2):
            self.check(self.export("ex.delta", workers), tensors)

    def test_many_small_tensors(self):
        tensors = {f"t{i:04}": self.random.randbytes(self.random.randrange(0, 20000)) for i in range(1200)}
        self.store("ex.many", tensors)
        for workers in (0, 2):
            self.check(self.export("ex.many", workers), tensors)

    def test_what_the_transaction_has_not_committed(self):
        """Workers see what their leader has stored; more workers than there are change nothing."""
        tensors = {"a": self.random.randbytes(30 * MIB + 99)}
        with self.conn.transaction():
            self.store("ex.own", tensors)
            self.check(self.export("ex.own", 64), tensors)

    def test_a_checkpoint_of_a_swarm(self):
        data = self.random.randbytes(17 * MIB + 3)
        self.conn.execute("SELECT gpuagent.store_swarm('ex.swarm', gpuagent.tensor('U8', %s::bigint[], %b))", ([len(data)], data))
        checkpoint = self.one("SELECT gpuagent.create_checkpoint(objects => '{swarm:ex.swarm}')")
        path = self.one("SELECT path FROM gpuagent.export_checkpoint(%s)", checkpoint)
        with safetensors.safe_open(self.base / path / "swarm-ex.swarm.safetensors", "np") as f:
            self.assertTrue(f.get_tensor("data").tobytes() == data)
        self.conn.execute("SELECT gpuagent.delete_checkpoint(%s)", (checkpoint,))
        self.conn.execute("SELECT gpuagent.delete_swarm('ex.swarm')")


if __name__ == "__main__":
    unittest.main()
