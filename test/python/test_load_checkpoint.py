"""doc/examples/load_checkpoint.py, and every file of an export through every reader there is: the package safetensors with
NumPy (and PyTorch, where it is installed), the demo's reader, the example's, and one of this file, which maps the data in
place and checks the layout that doc/formats.md promises.
"""
import fcntl
import importlib.util
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import numpy as np
import psycopg
import safetensors
import safetensors_reader

from shared import SharedConnection
from test_safetensors import BITS, all_dtypes, by_package, file_of

EXAMPLE = next(
    (p for p in pathlib.Path(__file__).resolve().parents if (p / "doc/examples/load_checkpoint.py").exists()), pathlib.Path("/")
) / "doc/examples/load_checkpoint.py"
spec = importlib.util.spec_from_file_location("load_checkpoint", EXAMPLE)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

try:
    import torch
except ImportError:
    torch = None


def map_strictly(path):
    """{name: (dtype, shape, bytes)} by struct, json and memmap alone, after checking what we promise of our files."""
    whole = np.memmap(path, np.uint8, "r")
    length, = struct.unpack("<Q", whole[:8].tobytes())
    start = 8 + length
    assert start % 4096 == 0, "data starts at a multiple of 4096"
    text = whole[8:start].tobytes()
    assert text.rstrip(b" ").endswith(b"}"), "nothing but spaces pads the header"
    pairs = json.loads(text, object_pairs_hook=list)
    header = dict(pairs)
    assert len(header) == len(pairs), "no name twice"
    order = [name for name, _ in pairs if name != "__metadata__"]
    entries = {name: dict(header[name]) for name in order}
    assert order == sorted(order, key=lambda n: (-BITS[entries[n]["dtype"]], n.encode())), "wide elements first, then by name"
    at = 0
    for name in order:
        begin, end = entries[name]["data_offsets"]
        assert begin == at, "no holes and overlaps"
        assert (start + begin) % max(BITS[entries[name]["dtype"]] // 8, 1) == 0, "aligned to its element"
        at = end
    assert start + at == len(whole), "and nothing behind"
    return {name: (e["dtype"], list(e["shape"]), whole[start + e["data_offsets"][0]:start + e["data_offsets"][1]].tobytes()) for name, e in entries.items()}


class LoadCheckpointTest(SharedConnection):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.storage = pathlib.Path(cls.one("SELECT gpuagent_store.storage_path()"))
        cls.forget()
        rng = np.random.default_rng(8)
        cls.states = rng.standard_normal((30, 6)).astype("f4")
        cls.swarm = rng.standard_normal((700, 501)).astype("f4")      # 1.4 MB: more than a chunk
        cls.tensors = all_dtypes(9)
        cls.ids = [f"lc/{i:02}" for i in range(30)]
        cls.conn.execute("SELECT gpuagent.store_agents(%s, gpuagent.tensor('F32', '{30,6}', %b), fitness => %s)",
                         (cls.ids, cls.states.tobytes(), [i / 7 for i in range(30)]))
        cls.conn.execute("SELECT gpuagent.store_swarm('lc.swarm', gpuagent.tensor('F32', '{700,501}', %b))", (cls.swarm.tobytes(),))
        cls.conn.execute("SELECT gpuagent.import_safetensors('lc.net', data => %b)", (file_of(cls.tensors),))
        cls.conn.execute("SELECT gpuagent.store_nodes('lc.graph', '{a,b,c}', '[[1,0],[0,1],[0.5,0.5]]')")
        cls.conn.execute("SELECT gpuagent.store_edges('lc.graph', '{a,b}', '{b,c}', weights => '{0.5,2}')")
        cls.conn.execute("SELECT gpuagent.store_metrics('lc', '{\"loss\": 0.5}', 3)")
        cls.folder = cls.export("first")

    @classmethod
    def tearDownClass(cls):
        cls.forget()

    @classmethod
    def forget(cls):
        cls.conn.execute("SELECT gpuagent.delete_agents(prefix => 'lc/'), gpuagent.delete_swarm('lc.swarm'), gpuagent.delete_expert('lc.net')")
        cls.conn.execute("DELETE FROM gpuagent.graph WHERE graph = 'lc.graph'; DELETE FROM gpuagent.run WHERE run = 'lc'")
        cls.conn.execute("SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint WHERE label LIKE 'lc %'")

    @classmethod
    def export(cls, label, conn=None):
        conn = conn or cls.conn
        checkpoint = conn.execute("SELECT gpuagent.create_checkpoint(%s, '{agents:lc/,swarm:lc.swarm,expert:lc.net,graph:lc.graph,metrics}', run => 'lc', step => 3)",
                                  (f"lc {label}",)).fetchone()[0]
        return cls.storage / conn.execute("SELECT path FROM gpuagent.export_checkpoint(%s)", (checkpoint,)).fetchone()[0]

    def check_readers(self, path):
        """All readers agree about a file; what they read."""
        mine = map_strictly(path)
        self.assertEqual(by_package(path.read_bytes()), mine, path.name)
        arrays, metadata = example.open_safetensors(path)
        self.assertEqual(set(arrays), set(mine))
        with safetensors.safe_open(path, "np") as theirs:
            self.assertEqual(set(theirs.keys()), set(mine))
            self.assertEqual(theirs.metadata() or {}, metadata)
            for name, (dtype, shape, data) in mine.items():
                self.assertEqual(arrays[name].tobytes(), data, name)
                if dtype in example.DTYPES:
                    self.assertEqual(list(arrays[name].shape), shape, name)
                    self.assertFalse(arrays[name].flags.owndata, "mapped, not copied")
                if dtype in ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"):
                    self.assertEqual(theirs.get_tensor(name).tobytes(), data, name)
        if all(dtype in safetensors_reader.DTYPES for dtype, _, _ in mine.values()):
            for name, (dtype, array) in safetensors_reader.load(path).items():
                self.assertEqual((dtype, list(array.shape), array.tobytes()), mine[name])
        if torch is not None:
            self.check_torch(path, mine)
        return mine

    def check_torch(self, path, mine):
        tensors, _ = example.open_safetensors(path, torch)
        with safetensors.safe_open(path, "pt") as theirs:
            for name, (dtype, shape, data) in mine.items():
                if dtype in ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"):
                    self.assertEqual(theirs.get_tensor(name).dtype, tensors[name].dtype, name)
                    for tensor in (theirs.get_tensor(name), tensors[name]):
                        self.assertEqual(list(tensor.shape), shape, name)
                        self.assertEqual(bytes(tensor.contiguous().flatten().view(torch.uint8).numpy()) if tensor.numel() else b"", data, name)

    def test_readers(self):
        """Files of a checkpoint, of an expert, and shards with their index."""
        files = {path.name: self.check_readers(path) for path in sorted(self.folder.glob("*.safetensors"))}
        self.assertEqual(sorted(files), ["agents-1.safetensors", "expert-lc.net.safetensors", "graph-lc.graph.safetensors", "metrics.safetensors", "swarm-lc.swarm.safetensors"])
        self.assertEqual(files["expert-lc.net.safetensors"], self.tensors)
        self.assertEqual(files["swarm-lc.swarm.safetensors"], {"data": ("F32", [700, 501], self.swarm.tobytes())})
        self.assertEqual(files["agents-1.safetensors"]["state"], ("F32", [30, 6], self.states.tobytes()))
        path, = self.conn.execute("SELECT file FROM gpuagent.export_safetensors('lc.net', 'python/lc', overwrite => true)").fetchone()
        self.assertEqual(self.check_readers(self.storage / path), self.tensors)

        names = [row[0] for row in self.conn.execute(
            "SELECT x.file FROM gpuagent_store.safetensors_plan('lc.net', NULL) p, gpuagent_store.export_tensors('python/lcs', p.names, p.tensors, p.keys, p.vals, true, 200) x")]
        index = json.loads((self.storage / "python/lcs.safetensors.index.json").read_text())
        shards = sorted(set(index["weight_map"].values()))
        self.assertGreater(len(shards), 3)
        self.assertEqual(shards, [f"lcs-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))])
        self.assertEqual(sorted(names), sorted([f"python/{s}" for s in shards] + ["python/lcs.safetensors.index.json"]))
        found = {}
        for shard in shards:
            part = self.check_readers(self.storage / "python" / shard)
            self.assertEqual(set(part), {n for n, s in index["weight_map"].items() if s == shard})
            found.update(part)
        self.assertEqual(found, self.tensors)
        self.assertEqual(index["metadata"]["total_size"], sum(len(t[2]) for t in self.tensors.values()))

    def test_load(self):
        manifest = example.verify(self.folder)
        self.assertEqual((manifest["checkpoint"]["label"], manifest["checkpoint"]["step"]), ("lc first", 3))
        objects = example.load(self.folder, manifest)
        self.assertEqual(set(objects), {"agents-1", "swarm:lc.swarm", "expert:lc.net", "graph:lc.graph", "metrics"})
        np.testing.assert_array_equal(objects["swarm:lc.swarm"]["data"], self.swarm)
        np.testing.assert_array_equal(objects["agents-1"]["state"], self.states)
        self.assertEqual(example.agent_ids(self.folder, "agents-1"), self.ids)
        # They are private: the file does not change, and may go.
        before = (self.folder / "swarm-lc.swarm.safetensors").read_bytes()
        objects["swarm:lc.swarm"]["data"][0, 0] = 77
        self.assertEqual((self.folder / "swarm-lc.swarm.safetensors").read_bytes(), before)
        if torch is not None:
            tensors = example.load(self.folder, manifest, torch)
            self.assertTrue(torch.equal(tensors["swarm:lc.swarm"]["data"], torch.from_numpy(self.swarm.copy())))

    def test_lease(self):
        """While it is held nobody gets the lock that removing the folder needs; a folder that is gone is told."""
        fd = os.open(self.folder, os.O_RDONLY)
        try:
            with example.lease(self.folder) as folder:
                example.verify(folder)
                with self.assertRaises(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        with self.assertRaises(example.Gone):
            with example.lease(self.folder.with_name("ckpt-0000000000-00000000")):
                pass

    def test_damage_is_found(self):
        with tempfile.TemporaryDirectory() as temp:
            copy = pathlib.Path(temp) / "nvme_storage" / self.folder.name
            shutil.copytree(self.folder, copy)
            example.verify(copy)
            for name in [p.name for p in sorted(copy.iterdir())]:
                data = (copy / name).read_bytes()
                for damaged in (data[:-1], data + b"\n", data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:]):
                    (copy / name).write_bytes(damaged)
                    with self.assertRaises(example.Damaged, msg=name):
                        example.verify(copy)
                (copy / name).unlink()
                with self.assertRaises((example.Damaged, FileNotFoundError), msg=name):
                    example.verify(copy)
                (copy / name).write_bytes(data)
            (copy.parent / "latest").write_text("../../etc\n")
            with self.assertRaises(example.Damaged):
                example.newest(temp)

    def follow_one(self, conninfo, poll):
        """Seconds until a new export is told; polling alone would take `poll`."""
        folders = example.follow(self.storage, conninfo, poll, timeout=180)
        self.assertEqual(next(folders), example.newest(self.storage))
        done = []

        def later():
            time.sleep(0.5)
            with psycopg.connect(autocommit=True) as conn:
                done.append(self.export("next", conn))
            done.append(time.monotonic())

        thread = threading.Thread(target=later)
        thread.start()
        try:
            self.assertEqual(next(folders), example.newest(self.storage))
            told = time.monotonic()
        finally:
            thread.join()
            folders.close()
        self.assertEqual(example.newest(self.storage), done[0])
        return told - done[1]

    def test_follow(self):
        self.assertLess(self.follow_one("dbname=" + self.conn.info.dbname, 120.0), 60)
        self.assertLess(self.follow_one(None, 0.1), 60)

    def test_program(self):
        newest = example.newest(self.storage)
        out = subprocess.run([sys.executable, str(EXAMPLE), str(self.storage)], capture_output=True, text=True, timeout=600)
        self.assertEqual((out.returncode, out.stderr), (0, ""))
        self.assertIn(newest.name, out.stdout)
        self.assertIn("swarm:lc.swarm data float32 [700, 501]", out.stdout)
        with tempfile.TemporaryDirectory() as temp:
            out = subprocess.run([sys.executable, str(EXAMPLE), temp], capture_output=True, text=True, timeout=600)
            self.assertEqual((out.returncode, out.stderr), (1, "there is no exported checkpoint\n"))


if __name__ == "__main__":
    unittest.main()
