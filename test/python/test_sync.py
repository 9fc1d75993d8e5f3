"""Write-back: what clients write into mapped memory, compared with what versions hold, after every kind of write."""

import os
import random
import unittest
from unittest import mock

import numpy as np
import psycopg

import gpuagent
from gpuagent import mapped
from test_mapped import EmulatedMemory
from test_store_hash import CHUNK, LEAF, tensor_hash

SIZES = (4, LEAF - 4, LEAF, LEAF + 4, 5 * LEAF + 8, CHUNK - 4, CHUNK, CHUNK + 4, 3 * CHUNK + LEAF + 12, 70 * CHUNK)


class SyncTest(unittest.TestCase):
    host = device = None

    def setUp(self):
        self.conn = psycopg.connect(**({"host": self.host} if self.host else {}), autocommit=True)
        self.addCleanup(self.conn.close)
        self.rng = np.random.default_rng()      # contents that no test before has stored
        self.random = random.Random(5)

    def value(self, query, *args):
        return self.conn.execute(query, args, binary=True).fetchone()[0]

    def mapped(self, swarm, data, dtype="F32"):
        """A swarm of these bytes, mapped for writing; the handle and its memory as bytes."""
        self.conn.execute("SELECT gpuagent.unmap_swarm(%s), gpuagent.delete_swarm(%s)", (swarm, swarm))
        self.value("SELECT gpuagent.store_swarm(%s, gpuagent.tensor(%s, ARRAY[%s::bigint], %b))", swarm, dtype,
                   len(data) // np.dtype(gpuagent_dtype(dtype)).itemsize, data)
        handle = gpuagent.map_swarm(self.conn, swarm, mode="r+", device=self.device)
        self.addCleanup(handle.close)
        return handle, handle.numpy(raw=True).reshape(-1).view(np.uint8)

    def stored(self, swarm, version=None):
        """All bytes of a version, with every hash checked."""
        tensor = self.value("SELECT gpuagent_store.swarm_tensor_hash(%s, %s, NULL)", swarm, version)
        self.assertIsNone(self.value("SELECT gpuagent_store.tensor_problem(%s)", tensor))
        return b"".join(r[0] for r in self.conn.execute(
            "SELECT gpuagent.tensor_bytes(data) FROM gpuagent.tensor_chunks(%s) ORDER BY ordinal", (tensor,), binary=True))

    def write(self, handle, view, leaves, kind):
        """Changes leaves in a step, so that nobody sees it half done."""
        with handle.step():
            for leaf in leaves:
                part = view[leaf * LEAF : (leaf + 1) * LEAF]
                if kind == "random":
                    part[:] = self.rng.integers(0, 256, len(part), np.uint8)
                elif kind == "little":          # the low bytes of floats, where XOR pays
                    part[::4] ^= self.rng.integers(0, 2, len(part[::4]), np.uint8)
                elif kind == "bit":
                    part[self.random.randrange(len(part))] ^= 1 << self.random.randrange(8)
                elif kind == "zero":
                    part[:] = 0

    def test_versions(self):
        """Random leaves of tensors of all sizes: each version is what the memory was, by content and by name."""
        for nbytes in SIZES:
            with self.subTest(nbytes=nbytes):
                data = self.rng.integers(0, 256, nbytes, np.uint8).tobytes()
                handle, view = self.mapped("sync/v", data)
                nleaves = -(-nbytes // LEAF)
                version = 1
                for kind in ("random", "little", "bit", "zero", "bit", "random"):
                    few = self.random.sample(range(nleaves), self.random.randint(1, min(nleaves, 12)))
                    before = view.copy()
                    self.write(handle, view, few, kind)
                    changed = [i for i in few if not np.array_equal(before[i * LEAF : (i + 1) * LEAF], view[i * LEAF : (i + 1) * LEAF])]
                    got = handle.sync()
                    version += bool(changed)
                    self.assertEqual(got, version)
                    self.assertEqual(handle.synced.changed, bool(changed))
                    self.assertEqual(handle.synced.dirty_bytes, sum(min(LEAF, nbytes - i * LEAF) for i in set(changed)))
                    self.assertEqual(handle.synced.step, handle.steps)
                    content = view.tobytes()
                    self.assertEqual(self.stored("sync/v"), content)
                    self.assertEqual(self.value("SELECT gpuagent_store.swarm_tensor_hash('sync/v', NULL, NULL)"),
                                     tensor_hash("F32", (nbytes // 4,), content))
                    self.assertFalse(handle.sync() != version or handle.synced.changed)
                self.assertEqual(self.stored("sync/v", 1), data)

    def test_scattered(self):
        """One leaf of a chunk costs about one leaf, again and again; many become a chunk of their own."""
        data = self.rng.integers(0, 256, 4 * CHUNK, np.uint8).tobytes()
        handle, view = self.mapped("sync/s", data)
        size = "SELECT coalesce(sum(octet_length(data)), 0)::bigint FROM gpuagent_store."
        for n, leaves in enumerate(([3], [3], [4], [3, 4, 5, 6], [7], [8, 9])):
            before = self.value(size + "chunk"), self.value(size + "chunk_delta")
            self.write(handle, view, leaves, "random")
            handle.sync()
            new = self.value(size + "chunk") - before[0], self.value(size + "chunk_delta") - before[1]
            changed = {3}, {3}, {3, 4}, {3, 4, 5, 6}, set(range(3, 8)), None
            with self.subTest(n=n):
                if changed[n] is None:
                    self.assertEqual(new, (CHUNK, 0))
                else:
                    self.assertEqual(new, (0, len(changed[n]) * LEAF))
                self.assertEqual(self.stored("sync/s"), view.tobytes())

    def test_rollback(self):
        """A sync that is rolled back, as a transaction or to a savepoint, leaves the memory as dirty as it was."""
        data = self.rng.integers(0, 256, 2 * CHUNK + 40, np.uint8).tobytes()
        handle, view = self.mapped("sync/r", data)
        self.write(handle, view, [1, 20], "random")
        with self.conn.transaction(force_rollback=True):
            self.assertEqual(handle.sync(), 2)
        self.assertEqual(self.value("SELECT current FROM gpuagent.swarm WHERE swarm = 'sync/r'"), 1)
        with self.conn.transaction():
            with self.conn.transaction(force_rollback=True):
                self.assertEqual(handle.sync(), 2)
                self.write(handle, view, [2], "random")
                self.assertEqual(handle.sync(), 2)
                with self.conn.transaction(force_rollback=True):
                    self.write(handle, view, [3, 20], "bit")
                    self.assertEqual(handle.sync(), 2)
                    self.assertFalse(handle.sync() and handle.synced.changed)
                self.assertEqual((handle.sync(), handle.synced.dirty_bytes), (2, 2 * LEAF))
            self.assertEqual((handle.sync(), handle.synced.dirty_bytes), (2, 4 * LEAF))
            self.write(handle, view, [20, 21], "random")
            self.assertEqual((handle.sync(), handle.synced.dirty_bytes), (2, 2 * LEAF))
        self.assertEqual(self.stored("sync/r"), view.tobytes())
        self.assertFalse(handle.sync() != 2 or handle.synced.changed)
        for i in range(3):
            self.write(handle, view, [1, 20, 32], "bit")
            self.assertEqual((handle.sync(), handle.synced.dirty_bytes), (3 + i, 2 * LEAF + 40))
            self.assertEqual(self.stored("sync/r"), view.tobytes())

    def test_changed_by_another(self):
        data = bytes(CHUNK + 8)
        for statement in ("SELECT gpuagent.store_swarm('sync/a', (gpuagent.retrieve_swarm('sync/a')))",
                          "SELECT gpuagent.store_swarm_rows('sync/a', 1, '[5]')",
                          "SELECT gpuagent.delete_swarm('sync/a')",
                          "SELECT gpuagent.delete_swarm('sync/a'); SELECT gpuagent.store_swarm('sync/a', '[1]')"):
            with self.subTest(statement=statement):
                handle, view = self.mapped("sync/a", data)
                self.write(handle, view, [0], "random")
                with self.conn.transaction(force_rollback=True):
                    self.conn.execute(statement)
                self.assertEqual(handle.sync(), 2)
                self.write(handle, view, [0], "random")
                self.conn.execute(statement)
                with self.assertRaises(gpuagent.StaleHandle):
                    handle.sync()
                with self.assertRaises(gpuagent.StaleHandle):
                    with handle.step():
                        pass
                with self.assertRaises(psycopg.errors.ObjectNotInPrerequisiteState):
                    self.conn.execute("SELECT gpuagent.sync_swarm('sync/a')")
                handle.close()

    def test_restore(self):
        handle, view = self.mapped("sync/c", bytes(CHUNK))
        checkpoint = self.value("SELECT gpuagent.create_checkpoint('sync', objects => '{swarm:sync/c}')")
        self.write(handle, view, [3], "random")
        self.assertEqual(handle.sync(), 2)
        self.conn.execute("SELECT gpuagent.restore_checkpoint(%s)", (checkpoint,))
        self.write_unchecked(view)
        with self.assertRaises(gpuagent.StaleHandle):
            handle.sync()
        self.assertEqual(handle.revert(), 3)
        self.assertEqual(view.tobytes(), bytes(CHUNK))
        self.write(handle, view, [3], "random")
        self.assertEqual(handle.sync(), 4)
        self.assertEqual(self.stored("sync/c"), view.tobytes())

    @staticmethod
    def write_unchecked(view):
        view[:100] = 77

    def test_revert(self):
        data = self.rng.integers(0, 256, 2 * CHUNK + 40, np.uint8).tobytes()
        handle, view = self.mapped("sync/b", data)
        self.write(handle, view, [1, 5, 32], "random")
        self.assertEqual(handle.revert(), 1)
        self.assertEqual(view.tobytes(), data)
        self.assertFalse(handle.sync() != 1 or handle.synced.changed)
        with self.conn.transaction(force_rollback=True):
            self.write(handle, view, [2], "random")
            handle.sync()
            with self.assertRaises(psycopg.errors.ObjectNotInPrerequisiteState):
                with self.conn.transaction():
                    handle.revert()
        self.conn.execute("SELECT gpuagent.store_swarm('sync/b', '[1]')")
        with self.assertRaisesRegex(psycopg.errors.ObjectNotInPrerequisiteState, "another shape"):
            self.conn.execute("SELECT gpuagent.revert_swarm('sync/b')")

    def test_torn(self):
        """A step that its writer did not finish is no version, unless somebody insists."""
        data = self.rng.integers(0, 256, 2 * CHUNK, np.uint8).tobytes()
        for way in ("force", "revert", "nothing written"):
            handle, view = self.mapped("sync/t", data)
            pid = os.fork()
            if pid == 0:
                with handle.step():
                    if way != "nothing written":
                        view[:3] = 1, 2, 3
                    os._exit(0)
            os.waitpid(pid, 0)
            with self.subTest(way=way):
                self.assertTrue(handle.torn)
                with self.assertRaises(gpuagent.Torn):
                    handle.sync()
                with self.assertRaisesRegex(psycopg.errors.ObjectNotInPrerequisiteState, "torn"):
                    self.conn.execute("SELECT gpuagent.sync_swarm('sync/t')")
                if way == "revert":
                    self.assertEqual(handle.revert(), 1)
                    self.assertEqual(view.tobytes(), data)
                elif way == "force":
                    with self.conn.transaction(force_rollback=True):
                        self.assertEqual(handle.sync(force=True), 2)
                    self.assertTrue(handle.torn)
                    self.assertEqual(handle.sync(force=True), 2)
                    self.assertEqual(self.stored("sync/t"), b"\1\2\3" + data[3:])
                else:
                    self.assertEqual(handle.sync(force=True), 1)
                self.assertFalse(handle.torn)
                self.write(handle, view, [7], "random")
                handle.sync()
                self.assertEqual(self.stored("sync/t"), view.tobytes())
            handle.close()

    def test_arguments(self):
        handle, view = self.mapped("sync/m", bytes(LEAF))
        self.write(handle, view, [0], "random")
        handle.sync({"loss": 0.5})
        row = self.conn.execute("SELECT metadata, step FROM gpuagent.swarm_version WHERE swarm = 'sync/m' AND version = 2").fetchone()
        self.assertEqual(row, ({"loss": 0.5}, 1))
        for query, error in (("SELECT gpuagent.sync_swarm(NULL)", psycopg.errors.NullValueNotAllowed),
                             ("SELECT gpuagent.sync_swarm('')", psycopg.errors.InvalidParameterValue),
                             ("SELECT gpuagent.sync_swarm('absent')", psycopg.errors.ObjectNotInPrerequisiteState),
                             ("SELECT gpuagent.revert_swarm('absent')", psycopg.errors.ObjectNotInPrerequisiteState)):
            with self.assertRaises(error):
                self.conn.execute(query)

    def test_prepare(self):
        handle, view = self.mapped("sync/p", bytes(LEAF))
        self.write(handle, view, [0], "random")
        with self.assertRaises(psycopg.errors.FeatureNotSupported):
            with self.conn.transaction():
                handle.sync()
                self.conn.execute("PREPARE TRANSACTION 'sync'")
        self.assertEqual((handle.sync(), handle.synced.changed), (2, True))

    def test_keep_versions(self):
        handle, view = self.mapped("sync/k", bytes(CHUNK))
        self.conn.execute("UPDATE gpuagent.swarm SET keep_versions = 3 WHERE swarm = 'sync/k'")
        contents = {}
        for i in range(8):
            self.write(handle, view, [i, 15], "random")
            contents[handle.sync()] = view.tobytes()
        versions = [r[0] for r in self.conn.execute("SELECT version FROM gpuagent.swarm_version WHERE swarm = 'sync/k' ORDER BY 1")]
        self.assertEqual(versions, [7, 8, 9])
        for version in versions:
            self.assertEqual(self.stored("sync/k", version), contents[version])


if "GA_DEVICE_PGHOST" in os.environ:

    class DeviceSyncTest(SyncTest):
        """The same of memory that belongs to a device process, the emulated one."""

        host = os.environ["GA_DEVICE_PGHOST"]
        device = "cuda"

        def setUp(self):
            super().setUp()
            patch = mock.patch.object(mapped, "_import_fd", EmulatedMemory)
            patch.start()
            self.addCleanup(patch.stop)


def gpuagent_dtype(name):
    return {"F32": "f4", "U8": "u1", "F64": "f8", "F16": "f2"}[name]


if __name__ == "__main__":
    unittest.main()
