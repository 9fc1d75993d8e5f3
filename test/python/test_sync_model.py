"""Write-back against a model: random writes, syncs, rollbacks, reverts, stores by others, checkpoints and new maps; then
every version that is kept, and every checkpoint, has the bytes that the model has.
"""

import os
import pathlib
import random
import shutil
import unittest
from unittest import mock

import numpy as np
import psycopg
import safetensors

import gpuagent
from gpuagent import mapped
from test_mapped import EmulatedMemory
from test_store_hash import CHUNK, LEAF
from typewire import DTYPES

LONG = bool(os.environ.get("GA_TEST_LONG"))
TABLES = ("gpuagent_store.chunk", "gpuagent_store.chunk_delta", "gpuagent_store.node", "gpuagent_store.tensor", "gpuagent.swarm_version")
# Bytes, about; each becomes a whole number of elements.
SIZES = (0, 1, 24, LEAF - 8, LEAF, LEAF + 24, 3 * LEAF + 48, CHUNK - LEAF, CHUNK, CHUNK + 8, 2 * CHUNK + 5 * LEAF + 72)


class SyncModel(unittest.TestCase):
    host = device = None

    def setUp(self):
        self.conn = self.connect()
        self.other = self.connect()

    def connect(self):
        conn = psycopg.connect(**({"host": self.host} if self.host else {}), autocommit=True)
        self.addCleanup(conn.close)
        conn.execute("SET lock_timeout = '5s'; SET statement_timeout = '30s'")
        return conn

    def value(self, query, *args):
        return self.conn.execute(query, args, binary=True).fetchone()[0]

    def counts(self):
        return self.conn.execute("SELECT " + ", ".join(f"(SELECT count(*) FROM {t})" for t in TABLES)).fetchone()

    # ---- the model ----

    def start(self, seed):
        self.rng = random.Random(seed)
        self.bytes = np.random.default_rng(seed + int.from_bytes(os.urandom(4), "little") * 1000)
        self.dtype = self.rng.choice(sorted(DTYPES))
        bits = DTYPES[self.dtype][1]
        if self.rng.random() < 0.1:
            self.shape = [8] if bits < 8 else []
        else:
            n = self.rng.choice(SIZES) * 8 // bits
            n -= n % 8 if bits < 8 else 0
            self.shape = [n] if n % 2 or bits < 8 or self.rng.random() < 0.5 else [2, n // 2]
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * bits // 8
        self.swarm = f"syncmodel/{os.urandom(8).hex()}"     # checkpoints of a swarm hold versions of its name
        memory = self.random_bytes(self.nbytes)
        self.store(self.conn, memory)
        self.kept = {1: memory}
        self.current = 1
        self.keep = 10
        self.checkpoints = {}
        self.base = memory              # what the region was last in step with
        self.map()
        self.log = [f"seed {seed}: {self.dtype} {self.shape}"]

    def random_bytes(self, n):
        data = self.bytes.integers(0, 256, n, np.uint8)
        return (data & 1 if self.dtype == "BOOL" else data).tobytes()

    def store(self, conn, data):
        conn.execute("SELECT gpuagent.store_swarm(%s, gpuagent.tensor(%s, %s::bigint[], %b))", (self.swarm, self.dtype, self.shape, data))

    def map(self):
        self.handle = gpuagent.map_swarm(self.conn, self.swarm, mode="r+", device=self.device)
        self.addCleanup(self.handle.close)
        self.view = self.handle.numpy(raw=True).reshape(-1).view(np.uint8)
        self.stale = False

    def memory(self):
        return self.view.tobytes()

    def dirty(self, base):
        """Leaves that differ, and their bytes."""
        now = self.memory()
        leaves = [i for i in range(0, self.nbytes, LEAF) if now[i:i + LEAF] != base[i:i + LEAF]]
        return leaves, sum(min(LEAF, self.nbytes - i) for i in leaves)

    def version_made(self, data):
        self.current += 1
        self.kept[self.current] = data
        held = {v for v, _, _ in self.checkpoints.values()}
        self.kept = {v: d for v, d in self.kept.items() if v > self.current - self.keep or v in held}

    # ---- steps ----

    def write(self):
        if self.nbytes == 0 or self.stale:
            return
        with self.handle.step():
            for _ in range(self.rng.randint(1, 4)):
                at = self.rng.randrange(self.nbytes)
                n = self.rng.choice((1, 1, 100, LEAF, 3 * LEAF))
                part = self.view[at:at + n]
                how = self.rng.random()
                if self.dtype == "BOOL":
                    part[:] = self.bytes.integers(0, 2, len(part), np.uint8)
                elif how < 0.5:
                    part[:] = self.bytes.integers(0, 256, len(part), np.uint8)
                elif how < 0.7:
                    part[:] = 0
                elif how < 0.85 and self.kept:      # back to what a version had
                    old = np.frombuffer(self.rng.choice(list(self.kept.values())), np.uint8)
                    part[:] = old[at:at + n]
                else:
                    part[0] ^= 1

    def sync_once(self, base):
        before = self.counts()
        leaves, nbytes = self.dirty(base)
        version = self.handle.sync()
        self.assertEqual((self.handle.synced.changed, self.handle.synced.dirty_bytes), (bool(leaves), nbytes))
        after = self.counts()
        if not leaves:
            self.assertEqual(after, before)
        return version, bool(leaves)

    def sync(self):
        if self.stale:
            with self.assertRaises(gpuagent.StaleHandle):
                self.handle.sync()
            return
        version, changed = self.sync_once(self.base)
        if changed:
            self.version_made(self.memory())
        self.assertEqual(version, self.current)
        self.base = self.memory()
        self.assertEqual(self.sync_once(self.base), (self.current, False))

    def sync_back(self):
        """Syncs in a transaction with savepoints; any part may be rolled back."""
        if self.stale:
            return
        outer = self.rng.random() < 0.6
        base, last, made = self.base, None, False
        before = self.counts()
        with self.conn.transaction(force_rollback=outer):
            for _ in range(self.rng.randint(1, 4)):
                inner = self.rng.random() < 0.5
                with self.conn.transaction(force_rollback=inner):
                    self.write()
                    version, changed = self.sync_once(base)
                    self.assertEqual(version, self.current + (changed or made))
                    now = self.memory()
                    if self.rng.random() < 0.3:     # a subtransaction below that never happened
                        with self.conn.transaction(force_rollback=True):
                            self.write()
                            self.sync_once(now)
                if not inner:
                    base, last, made = now, now, made or changed
        if outer:
            self.assertEqual(self.counts(), before)
        else:
            if made:
                self.version_made(last)
            self.base = base

    def revert(self):
        if self.current not in self.kept:
            return
        self.assertEqual(self.handle.revert(), self.current)
        self.assertEqual(self.memory(), self.kept[self.current])
        self.base, self.stale = self.kept[self.current], False

    def store_by_other(self):
        data = bytearray(self.kept[self.current])
        for i in range(self.rng.randint(0, 3) if data else 0):
            data[self.rng.randrange(len(data))] ^= 1
        before = self.current
        self.store(self.other, bytes(data))
        current = self.value("SELECT current FROM gpuagent.swarm WHERE swarm = %s", self.swarm)
        if current != before:
            self.assertEqual(current, before + 1)
            self.version_made(bytes(data))
            self.stale = True

    def checkpoint(self):
        made = self.value("SELECT gpuagent.create_checkpoint('syncmodel', objects => ARRAY['swarm:' || %s])", self.swarm)
        self.checkpoints[made] = (self.current, self.kept[self.current], self.keep)

    def restore(self):
        if not self.checkpoints:
            return
        made = self.rng.choice(list(self.checkpoints))
        newest, present = max(self.checkpoints), (self.current, self.kept[self.current], self.keep)
        self.conn.execute("SELECT gpuagent.restore_checkpoint(%s, safety => %s)", (made, self.rng.random() < 0.5))
        for safety, in self.conn.execute("SELECT id FROM gpuagent.checkpoint WHERE id > %s AND kind = 'safety'", (newest,)).fetchall():
            self.checkpoints[safety] = present
        self.keep = self.checkpoints[made][2]
        current = self.value("SELECT current FROM gpuagent.swarm WHERE swarm = %s", self.swarm)
        if current != self.current:
            self.assertEqual(current, self.current + 1)
            self.current = current                  # only stores drop old versions
            self.kept[current] = self.checkpoints[made][1]
            self.stale = True
        else:
            self.assertEqual(self.kept[current], self.checkpoints[made][1])

    def remap(self):
        """Away and back: what was not synced is lost."""
        self.handle.close()
        self.conn.execute("SELECT gpuagent.unmap_swarm(%s)", (self.swarm,))
        self.map()
        self.assertEqual(self.memory(), self.kept[self.current])
        self.base = self.kept[self.current]

    def keep_few(self):
        self.keep = self.rng.choice((1, 2, 5, 30))
        self.conn.execute("UPDATE gpuagent.swarm SET keep_versions = %s WHERE swarm = %s", (self.keep, self.swarm))

    # ---- the comparison ----

    def check(self):
        rows = self.conn.execute("SELECT version FROM gpuagent.swarm_version WHERE swarm = %s ORDER BY 1", (self.swarm,)).fetchall()
        self.assertEqual([r[0] for r in rows], sorted(self.kept))
        for version, data in self.kept.items():
            got = self.value("SELECT gpuagent.tensor_bytes(gpuagent.retrieve_swarm(%s, %s))", self.swarm, version)
            self.assertTrue(got == data, f"version {version} differs")

    def deep_check(self):
        found = self.conn.execute("SELECT * FROM gpuagent.verify_integrity('full', ARRAY['swarm:' || %s])", (self.swarm,)).fetchall()
        self.assertEqual([row for row in found if row[1] != "ok"], [])
        for made, (_, data, _) in self.checkpoints.items():
            with self.conn.transaction(force_rollback=True):
                self.conn.execute("SELECT gpuagent.restore_checkpoint(%s)", (made,))
                self.assertTrue(self.value("SELECT gpuagent.tensor_bytes(gpuagent.retrieve_swarm(%s))", self.swarm) == data, f"checkpoint {made} differs")

    def run_steps(self, seed, steps):
        self.start(seed)
        weighted = ((self.write, 30), (self.sync, 30), (self.sync_back, 12), (self.revert, 6), (self.store_by_other, 4),
                    (self.checkpoint, 4), (self.restore, 4), (self.remap, 4), (self.keep_few, 2))
        kinds, weights = zip(*weighted)
        for n in range(steps):
            step = self.rng.choices(kinds, weights)[0]
            self.log.append(step.__name__)
            try:
                step()
                self.check()
                if n % 20 == 19:
                    self.deep_check()
            except Exception as e:
                e.add_note(" ".join(self.log))
                raise
        self.deep_check()
        self.handle.close()
        self.conn.execute("SELECT gpuagent.unmap_swarm(%s), gpuagent.delete_swarm(%s)", (self.swarm, self.swarm))
        for made in self.checkpoints:
            self.conn.execute("SELECT gpuagent.delete_checkpoint(%s)", (made,))

    def test_model(self):
        seeds = [int(os.environ["GA_TEST_SEED"])] if "GA_TEST_SEED" in os.environ else range(1, 31 if LONG else 7)
        for seed in seeds:
            self.run_steps(seed, 120 if LONG else 30)

    def test_long_chain(self):
        """More than 50 versions of a few leaves; all are there, and the safetensors package reads the last one out of an export."""
        self.dtype, self.shape = "F32", [(CHUNK + 3 * LEAF) // 4]
        self.rng, self.bytes = random.Random(1), np.random.default_rng()
        self.nbytes = CHUNK + 3 * LEAF
        self.swarm = f"syncmodel/{os.urandom(8).hex()}"     # checkpoints of a swarm hold versions of its name
        first = self.random_bytes(self.nbytes)
        self.store(self.conn, first)
        self.kept, self.current, self.keep, self.checkpoints, self.base = {1: first}, 1, 100, {}, first
        self.conn.execute("UPDATE gpuagent.swarm SET keep_versions = 100 WHERE swarm = %s", (self.swarm,))
        self.map()
        before = self.counts()
        for _ in range(60):
            with self.handle.step():
                self.view[self.rng.randrange(self.nbytes)] ^= 1 + self.rng.randrange(255)
            self.sync()
        self.assertEqual(self.current, 61)
        self.assertGreater(self.counts()[1] - before[1], 30)     # deltas
        self.check()
        self.checkpoint()
        self.deep_check()
        checkpoint, memory = max(self.checkpoints), self.memory()
        try:
            folder = self.value("SELECT gpuagent_store.storage_path() || '/' || path FROM gpuagent.export_checkpoint(%s)", checkpoint)
            content = next(pathlib.Path(folder).glob("swarm-*.safetensors")).read_bytes()
            for name, tensor in safetensors.deserialize(content):
                self.assertEqual((name, tensor["dtype"], list(tensor["shape"])), ("data", "F32", self.shape))
                self.assertTrue(bytes(tensor["data"]) == memory)
            self.handle.close()
            self.conn.execute("SELECT gpuagent.unmap_swarm(%s), gpuagent.delete_swarm(%s), gpuagent.delete_checkpoint(%s)", (self.swarm, self.swarm, checkpoint))
            path = os.path.relpath(folder, self.value("SELECT gpuagent_store.storage_path()"))
            imported = self.value("SELECT gpuagent.import_checkpoint(%s, restore => true)", path)
            self.assertTrue(self.value("SELECT gpuagent.tensor_bytes(gpuagent.retrieve_swarm(%s))", self.swarm) == memory)
            self.conn.execute("SELECT gpuagent.delete_swarm(%s), gpuagent.delete_checkpoint(%s)", (self.swarm, imported))
        finally:
            shutil.rmtree(folder)


if "GA_DEVICE_PGHOST" in os.environ:

    class DeviceSyncModel(SyncModel):
        """The same of memory that belongs to a device process, the emulated one."""

        host = os.environ["GA_DEVICE_PGHOST"]
        device = "cuda"

        def setUp(self):
            super().setUp()
            patch = mock.patch.object(mapped, "_import_fd", EmulatedMemory)
            patch.start()
            self.addCleanup(patch.stop)


if __name__ == "__main__":
    unittest.main()
