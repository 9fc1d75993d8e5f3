"""Backups, read without the server after doc/formats.md: every tensor from its chunks, every row from its line."""

import base64
import ctypes
import ctypes.util
import hashlib
import json
import os
import pathlib
import unittest

import numpy as np
import psycopg
from safetensors import safe_open
from shared import SharedConnection
from test_store_hash import CHUNK, chunk_hash, tensor_of, tree_of

NUMPY = {"F32": np.float32, "F64": np.float64, "U8": np.uint8, "I64": np.int64, "F16": np.float16}


def unzstd(data, size):
    library = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
    library.ZSTD_decompress.restype = ctypes.c_size_t
    room = ctypes.create_string_buffer(max(size, 1))
    got = library.ZSTD_decompress(room, ctypes.c_size_t(size), data, ctypes.c_size_t(len(data)))
    assert got == size, got
    return room.raw[:size]


def unshuffle(data, width):
    n = len(data) // width
    if width <= 1 or n == 0:
        return data
    planes = np.frombuffer(data, np.uint8, n * width).reshape(width, n)
    return planes.T.tobytes() + data[n * width :]


class Backup:
    """A backup of a path: rows by table, tensors by hash."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.folder = self.path / (self.path / "latest").read_text().strip()
        first, content, last = (self.folder / "MANIFEST.json").read_bytes().splitlines()
        assert json.loads(b"\n".join([first, content, last]))["sha256"] == hashlib.sha256(content).hexdigest()
        self.manifest = json.loads(content)
        for entry in self.manifest["files"]:
            data = (self.folder / entry["name"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest(), data.count(b"\n")) == (
                entry["nbytes"],
                entry["sha256"],
                entry["items"],
            ), entry
        for entry in self.manifest["packs"]:
            data = (self.path / "data" / entry["name"]).read_bytes()
            assert len(data) == entry["nbytes"] and hashlib.sha256(data).hexdigest() + ".safetensors" == entry["name"]
        self.chunks = {line["hash"]: line for line in self.rows("chunk")}
        self.nodes = {line["hash"]: line for line in self.rows("node")}
        self.tensors = {line["hash"]: line for line in self.rows("tensor")}

    def rows(self, name):
        with open(self.folder / f"{name}.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def chunk(self, name):
        line = self.chunks[name]
        with open(self.path / "data" / line["file"], "rb") as pack:
            pack.seek(line["first"])
            data = pack.read(line["stored"])
        if line["codec"] == 1:
            data = unshuffle(unzstd(data, line["nbytes"]), line["width"])
        assert len(data) == line["nbytes"] and chunk_hash(data).hex() == name
        return data

    def below(self, entry):
        if entry not in self.nodes:
            return [entry]
        children = self.nodes[entry]["children"]
        return [leaf for i in range(0, len(children), 64) for leaf in self.below(children[i : i + 64])]

    def tensor(self, name):
        """dtype, shape and bytes, checked up to the tensor's own hash."""
        line = self.tensors[name]
        shape = [int(n) for n in line["shape"].strip("{}").split(",") if n]
        chunks = self.below(line["root"]) if line["nbytes"] else []
        data = b"".join(self.chunk(c) for c in chunks)
        root, _ = tree_of([(bytes.fromhex(c), self.chunks[c]["nbytes"]) for c in chunks])
        assert len(data) == line["nbytes"] and tensor_of(line["dtype"], shape, root).hex() == name
        return line["dtype"], shape, data


class BackupTest(SharedConnection):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.base = pathlib.Path(cls.one("SELECT gpuagent_store.storage_path()"))

    @classmethod
    def tearDownClass(cls):
        for name in ("backup/a", "backup/b", "backup/c"):
            cls.conn.execute("SELECT delete_swarm(%s)", (name,))
        cls.conn.execute("SELECT delete_expert('backup/e'), delete_agent('backup/x')")

    @classmethod
    def connect(cls):
        return psycopg.connect(autocommit=True, options="-c search_path=public,gpuagent")

    def test_read_back(self):
        rng = np.random.default_rng(7)
        path = f"backups/python-{os.getpid()}"
        a = rng.standard_normal((700, 1024)).astype(np.float32)
        b = np.arange(3 * CHUNK // 8, dtype=np.float64)
        changed = a.copy()
        changed[300] = -0.0
        weights = rng.integers(0, 255, 5000, np.uint8)
        state = np.array([0.0, -0.0, np.nan, 1e-45, np.inf], np.float32)
        new = "SELECT store_swarm(%s, tensor(%s, %s, %s))"
        self.one(new, "backup/a", "F32", list(a.shape), a.tobytes())
        self.one(new, "backup/b", "F64", list(b.shape), b.tobytes())
        self.one("SELECT store_weights('backup/e', 'w', tensor('U8', '{5000}', %s), '[1,2]')", weights.tobytes())
        self.one("SELECT store_agent('backup/x', tensor('F32', '{5}', %s)::agent_state)", state.tobytes())
        self.assertEqual(self.one("SELECT create_backup(%s)", path), 1)
        first = Backup(self.base / path)
        self.one(new, "backup/a", "F32", list(a.shape), changed.tobytes())
        self.one("SELECT create_backup(%s)", path)
        second = Backup(self.base / path)
        self.assertLess(second.manifest["new_bytes"], CHUNK)
        self.assertEqual(second.manifest["previous"], first.folder.name)

        for backup, expected in (first, {1: a}), (second, {1: a, 2: changed}):
            rows = {(r["swarm"], int(r["version"])): r["tensor"] for r in backup.rows("gpuagent.swarm_version")}
            for version, array in expected.items():
                dtype, shape, data = backup.tensor(rows["backup/a", version][2:])
                self.assertEqual((dtype, shape), ("F32", [700, 1024]))
                self.assertTrue(data == array.tobytes(), version)
            self.assertTrue(backup.tensor(rows["backup/b", 1][2:]) == ("F64", [len(b)], b.tobytes()))
            layer = next(r for r in backup.rows("gpuagent.weight_version") if r["expert"] == "backup/e")
            self.assertTrue(backup.tensor(layer["weights"][2:])[2] == weights.tobytes())
            self.assertEqual(np.frombuffer(backup.tensor(layer["biases"][2:])[2], np.float32).tolist(), [1, 2])
            agent = next(r for r in backup.rows("gpuagent.agent") if r["id"] == "backup/x")
            head, kind, data = agent["state"].split(":")
            self.assertEqual((head, kind, base64.b64decode(data)), ("F32[5]", "raw", state.tobytes()))
            # Every tensor of the state, whatever else the database has.
            for name in backup.tensors:
                backup.tensor(name)

    def test_packs_are_safetensors(self):
        path = f"backups/packs-{os.getpid()}"
        self.one("SELECT store_swarm('backup/c', tensor('U8', '{2000000}', %s))", os.urandom(2_000_000))
        self.one("SELECT create_backup(%s)", path)
        backup = Backup(self.base / path)
        seen = set()
        for entry in backup.manifest["packs"]:
            with safe_open(backup.path / "data" / entry["name"], "numpy") as pack:
                for name in pack.keys():
                    line = backup.chunks.get(name)
                    nbytes, codec, width = map(int, pack.metadata()[name].split())
                    self.assertEqual((nbytes, codec, width), (line["nbytes"], line["codec"], line["width"]))
                    data = pack.get_tensor(name).tobytes()
                    data = unshuffle(unzstd(data, nbytes), width) if codec else data
                    self.assertEqual(chunk_hash(data).hex(), name)
                    seen.add(name)
        self.assertEqual(seen, set(backup.chunks))


if __name__ == "__main__":
    unittest.main()
