"""Safetensors files against two other readers: the package of that name, and demo/safetensors_reader.py.

What we write both read, byte for byte; what the package writes we read; of damaged files we accept only what the
package accepts too, and then as the same tensors.
"""
import hashlib
import json
import os
import pathlib
import random
import struct
import unittest

import numpy as np
import psycopg
import safetensors
import safetensors.numpy
import safetensors_reader

from shared import SharedConnection

MIB = 1024 * 1024
MUTANTS = 10_000 if os.environ.get("GA_TEST_LONG") else 400

# Bits of an element.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16, "BF16": 16,
    "F32": 32, "F64": 64, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}


def file_of(tensors, metadata=None, trailing=0):
    """Bytes of a file from {name: (dtype, shape, bytes)}, in that order, written as simply as the format allows."""
    header, position = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    text = json.dumps(header).encode() + b" " * trailing
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def by_package(data):
    """{name: (dtype, shape, bytes)} of a file, as the package reads it."""
    return {name: (t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in safetensors.deserialize(data)}


def all_dtypes(seed=1):
    rng = random.Random(seed)
    tensors = {}
    for dtype, bits in BITS.items():
        for shape in ([], [8], [2, 3, 4], [0], [4, 0, 2], [1] * 7 + [8]):
            count = int(np.prod(shape, dtype=object))
            if count * bits % 8 == 0:
                tensors[f"{dtype}.{'x'.join(map(str, shape)) or 'scalar'}"] = (dtype, shape, rng.randbytes(count * bits // 8))
    return tensors

# Reasons to refuse what the package accepts, and what the header of such a file may have.
STRICTER = r'^Duplicate key|"__metadata__" is not an object|more than 8 dimensions|\\u0000, which no name|"}" and spaces|deeper than 64 levels'


def has_duplicates(data):
    """True when some object of a file's header has a key twice: the package takes the last one."""
    found = []

    def pairs(items):
        found.append(len(dict(items)) != len(items))
        return dict(items)

    length, = struct.unpack("<Q", data[:8])
    json.loads(data[8:8 + length], object_pairs_hook=pairs)
    return any(found)


class SafetensorsTest(SharedConnection):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.base = pathlib.Path(cls.one("SELECT gpuagent_store.storage_path()"))
        cls.forget()

    @classmethod
    def tearDownClass(cls):
        cls.forget()

    @classmethod
    def forget(cls):
        cls.conn.execute("SELECT gpuagent.delete_expert(expert) FROM gpuagent.expert WHERE expert LIKE 'st.%'")

    def load(self, expert):
        """{name: (dtype, shape, bytes)} of the layers of an expert."""
        rows = self.conn.execute(
            "SELECT layer, gpuagent.dtype(weights), gpuagent.shape(weights), gpuagent.tensor_bytes(weights)"
            " FROM gpuagent.load_weights(%s)", (expert,), binary=True)
        return {layer: (dtype, shape, data) for layer, dtype, shape, data in rows}

    def server_writes(self, path, data):
        """A file below the base, owned by the server."""
        oid = self.one("SELECT lo_from_bytea(0, %b)", data)
        self.conn.execute("SELECT lo_export(%s, %s)", (oid, str(self.base / path)))
        self.conn.execute("SELECT lo_unlink(%s)", (oid,))

    def import_data(self, expert, data):
        return self.conn.execute("SELECT * FROM gpuagent.import_safetensors(%s, data => %b)", (expert, data)).fetchone()

    def test_every_dtype_in_and_out(self):
        tensors = all_dtypes()
        data = file_of(tensors, {"plain": "text", "Zoë": "ü\n\"\\"})
        self.assertEqual(by_package(data), tensors)
        version, count, nbytes, _ = self.import_data("st.dtypes", data)
        self.assertEqual((version, count, nbytes), (1, len(tensors), sum(len(t[2]) for t in tensors.values())))
        self.assertEqual(self.load("st.dtypes"), tensors)
        self.assertEqual(self.one("SELECT metadata FROM gpuagent.expert WHERE expert = 'st.dtypes'"),
                         {"plain": "text", "Zoë": "ü\n\"\\"})
        written = self.one("SELECT gpuagent.safetensors_bytes('st.dtypes')")
        self.assertEqual(by_package(written), tensors)

    def test_layout_of_what_is_written(self):
        self.import_data("st.layout", file_of(all_dtypes(2)))
        path, _, size, sha256 = self.conn.execute(
            "SELECT * FROM gpuagent.export_safetensors('st.layout', 'python/layout', overwrite => true)").fetchone()
        data = (self.base / path).read_bytes()
        self.assertEqual((len(data), hashlib.sha256(data).hexdigest()), (size, sha256))
        self.assertEqual(data, self.one("SELECT gpuagent.safetensors_bytes('st.layout')"))
        length, = struct.unpack("<Q", data[:8])
        self.assertEqual((8 + length) % 4096, 0)
        entries = json.loads(data[8:8 + length])
        metadata = entries.pop("__metadata__")
        self.assertEqual(metadata["format"], "pt")
        self.assertTrue(all(isinstance(v, str) for v in metadata.values()))
        self.assertEqual(list(entries), sorted(entries, key=lambda n: (-BITS[entries[n]["dtype"]], n.encode())))
        for name, entry in entries.items():
            width = max(BITS[entry["dtype"]] // 8, 1)
            self.assertEqual((8 + length + entry["data_offsets"][0]) % width, 0, name)

    def test_readers_agree_about_an_export(self):
        rng = np.random.default_rng(3)
        state = {
            "big": rng.standard_normal((700, 1001)).astype("f4"),       # 2.7 MB, no multiple of a piece
            "half": rng.standard_normal((3 * MIB // 2 + 1,)).astype("f2"),
            "exact": rng.integers(0, 255, 2 * MIB, dtype="u1"),
            "one.weight": np.float64([[np.nan, -0.0], [np.inf, 5e-324]]),
            "steps": np.array(7),
            "mask": np.tri(9, dtype=bool),
            "none": np.zeros((0, 5), "i2"),
        }
        data = safetensors.numpy.save(state, metadata={"format": "np"})
        self.import_data("st.agree", data)
        rows = self.conn.execute("SELECT * FROM gpuagent.export_safetensors('st.agree', 'python/agree', overwrite => true)").fetchall()
        self.assertEqual(len(rows), 1)
        path = self.base / rows[0][0]
        mine = safetensors_reader.load(path)
        with safetensors.safe_open(path, "np") as theirs:
            self.assertEqual(theirs.metadata()["format"], "np")
            self.assertEqual(set(theirs.keys()), set(state))
            self.assertEqual(set(mine), set(state))
            for name, array in state.items():
                self.assertEqual(theirs.get_tensor(name).tobytes(), array.tobytes(), name)
                self.assertEqual(theirs.get_tensor(name).shape, array.shape, name)
                self.assertEqual(mine[name][1].tobytes(), array.tobytes(), name)
                self.assertEqual(mine[name][1].shape, array.shape, name)
        self.assertEqual(by_package(path.read_bytes()), by_package(data))

    def test_shards_of_others(self):
        tensors = all_dtypes(4)
        names = list(tensors)
        parts = {f"model-{i + 1:05}-of-00003.safetensors": names[i::3] for i in range(3)}
        self.conn.execute("SELECT gpuagent_store.replace_text('python/hub/model.safetensors.index.json', %s)", (json.dumps(
            {"metadata": {"total_size": 1}, "weight_map": {n: f for f, part in parts.items() for n in part}}),))
        for file, part in parts.items():
            self.server_writes(f"python/hub/{file}", file_of({n: tensors[n] for n in part}, {"format": "pt"}))
        self.conn.execute("SELECT gpuagent.import_safetensors('st.hub', 'python/hub/model')")
        self.assertEqual(self.load("st.hub"), tensors)
        # A shard that has a tensor too few, and one that has another's.
        self.server_writes(f"python/hub/{file}", file_of({n: tensors[n] for n in part[1:]}))
        with self.assertRaisesRegex(psycopg.errors.DataCorrupted, "index"):
            self.conn.execute("SELECT gpuagent.import_safetensors('st.hub', 'python/hub/model')")
        self.server_writes(f"python/hub/{file}", file_of({n: tensors[n] for n in part + [names[0]]}))
        with self.assertRaisesRegex(psycopg.errors.DataCorrupted, "index"):
            self.conn.execute("SELECT gpuagent.import_safetensors('st.hub', 'python/hub/model.safetensors.index.json')")

    def test_truncated_file(self):
        data = file_of(all_dtypes(5))
        for cut in (0, 7, 8, 100, len(data) - 1):
            self.server_writes("python/cut.safetensors", data[:cut])
            with self.assertRaises(psycopg.errors.DataCorrupted, msg=str(cut)):
                self.conn.execute("SELECT gpuagent.import_safetensors('st.cut', 'python/cut.safetensors')")
        self.server_writes("python/cut.safetensors", data + b"\0")
        with self.assertRaises(psycopg.errors.DataCorrupted):
            self.conn.execute("SELECT gpuagent.import_safetensors('st.cut', 'python/cut.safetensors')")
        self.assertEqual(self.one("SELECT count(*) FROM gpuagent.expert WHERE expert = 'st.cut'"), 0)

    def test_exported_checkpoint(self):
        """A program that knows only safetensors, JSON and NumPy reads a whole checkpoint."""
        rng = np.random.default_rng(6)
        states = rng.standard_normal((50, 8)).astype("f4")
        swarm = rng.standard_normal((300, 1000)).astype("f4")
        ids = [f"st/{i:03}" for i in range(50)]
        with self.conn.transaction():
            self.conn.execute(
                "SELECT gpuagent.store_agents(%s, gpuagent.tensor('F32', '{50,8}', %b), generation => 3, fitness => %s)",
                (ids, states.tobytes(), [None if i == 7 else i / 3 for i in range(50)]))
            self.conn.execute("SELECT gpuagent.store_swarm('st.swarm', gpuagent.tensor('F32', '{300,1000}', %b))", (swarm.tobytes(),))
            self.import_data("st.net", file_of(all_dtypes(7)))
            self.conn.execute("INSERT INTO gpuagent.graph (graph) VALUES ('st.graph')")
            self.conn.execute("INSERT INTO gpuagent.graph_node (graph, id, embedding) SELECT 'st.graph', 'n' || i, format('[%s,%s]', i, -i)::gpuagent.embedding"
                              " FROM generate_series(0, 9) i")
            self.conn.execute("INSERT INTO gpuagent.graph_edge (graph, source, target, weight)"
                              " SELECT 'st.graph', 'n' || i, 'n' || (i * 7 + 1) % 10, i / 4.0 FROM generate_series(0, 9, 2) i")
            checkpoint = self.one("SELECT gpuagent.create_checkpoint('python', '{agents:st/,swarm:st.swarm,expert:st.net,graph:st.graph}')")
        folder = self.base / self.one("SELECT path FROM gpuagent.export_checkpoint(%s)", checkpoint)

        lines = (folder / "MANIFEST.json").read_bytes().split(b"\n")
        whole = json.loads(b"\n".join(lines))
        self.assertEqual(whole["sha256"], hashlib.sha256(lines[1]).hexdigest())
        manifest = whole["manifest"]
        self.assertEqual((manifest["format"], manifest["format_version"]), ("gpuagent checkpoint", 1))
        listed = {}
        for section in manifest["sections"]:
            for file in section["files"]:
                data = (folder / file["name"]).read_bytes()
                self.assertEqual((len(data), hashlib.sha256(data).hexdigest()), (file["nbytes"], file["sha256"]), file["name"])
                listed[file["name"]] = section
        self.assertEqual(set(listed) | {"MANIFEST.json"}, {p.name for p in folder.iterdir()})
        for path in folder.glob("*.safetensors"):
            theirs = by_package(path.read_bytes())
            self.assertEqual({(n, d, tuple(s)) for n, (d, s, _) in theirs.items()},
                             {(t["name"], t["dtype"], tuple(t["shape"])) for t in listed[path.name]["tensors"]})

        agents = safetensors_reader.load(folder / "agents-1.safetensors")
        self.assertEqual([json.loads(line)["id"] for line in (folder / "agents-1.jsonl").read_text().splitlines()], ids)
        np.testing.assert_array_equal(agents["state"][1], states)
        np.testing.assert_array_equal(agents["fitness"][1], [np.nan if i == 7 else i / 3 for i in range(50)])
        np.testing.assert_array_equal(agents["generation"][1], [3] * 50)
        np.testing.assert_array_equal(safetensors_reader.load(folder / "swarm-st.swarm.safetensors")["data"][1], swarm)
        self.assertEqual(by_package((folder / "expert-st.net.safetensors").read_bytes()), all_dtypes(7))
        graph = {name: array for name, (_, array) in safetensors_reader.load(folder / "graph-st.graph.safetensors").items()}
        edges = [(int(r), int(c), float(w)) for r in range(10)
                 for c, w in zip(graph["col_indices"][graph["row_offsets"][r]:graph["row_offsets"][r + 1]],
                                 graph["weights"][graph["row_offsets"][r]:graph["row_offsets"][r + 1]])]
        self.assertEqual(edges, [(i, (i * 7 + 1) % 10, i / 4) for i in range(0, 10, 2)])
        np.testing.assert_array_equal(graph["embeddings"], [[i, -i] for i in range(10)])
        self.conn.execute("SELECT gpuagent.delete_checkpoint(%s)", (checkpoint,))
        self.conn.execute("SELECT gpuagent.delete_agents(prefix => 'st/'), gpuagent.delete_swarm('st.swarm')")
        self.conn.execute("DELETE FROM gpuagent.graph WHERE graph = 'st.graph'")

    def accepts(self, data):
        """Tensors of a file as the server reads its header, {name: (dtype, shape, bytes)}; None when it is refused."""
        try:
            rows = self.conn.execute("SELECT * FROM gpuagent_store.safetensors_header(NULL, %b)", (data,), binary=True).fetchall()
        except psycopg.errors.DataCorrupted as error:
            self.assertEqual(error.diag.message_primary, "invalid safetensors file")
            self.reason = error.diag.message_detail
            return None
        return {name: (dtype, shape, data[first:first + nbytes]) for name, dtype, shape, first, nbytes in rows}

    def test_mutants(self):
        rng = random.Random(20)
        accepted = refused = 0
        for i in range(MUTANTS):
            data = mutant(rng)
            ours = self.accepts(data)
            if ours is None:
                refused += 1
                try:
                    by_package(data)
                except safetensors.SafetensorError:
                    continue
                if not has_duplicates(data):
                    self.assertRegex(self.reason, STRICTER, f"mutant {i}: {data[:300]!r}")
                continue
            accepted += 1
            try:
                theirs = by_package(data)
            except safetensors.SafetensorError as error:
                self.fail(f"mutant {i} is accepted, but the package says {error}: {data[:300]!r}")
            self.assertEqual(ours, theirs, f"mutant {i}: {data[:300]!r}")
        self.assertGreater(refused, MUTANTS // 2)
        self.assertGreater(accepted, 0)


TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"0", b"1", b"-1", b"1.5", b"1e3", b"null", b"true", b"18446744073709551616",
          b"9223372036854775807", b"4294967296", b'"F32"', b'"f32"', b'"F4"', b"\\", b"\\u0000", b"\\ud800", b"\xff", b"\xc0\x80", b"\x00", b" ", b"\n",
          b'"a"', b'"b"', b'"__metadata__"', b'"dtype"', b'"shape"', b'"data_offsets"', b'{"dtype":"U8","shape":[],"data_offsets":[0,1]}']


def mutant(rng):
    """A valid small file with one to three changes to its header, its length field or its end."""
    names = rng.sample(["a", "b", "weight", "Zoë", "with \"quotes\""], rng.randint(1, 3))
    tensors = {}
    for name in names:
        dtype = rng.choice(list(BITS))
        shape = [rng.choice([0, 1, 2, 4, 8]) for _ in range(rng.randint(0, 3))]
        count = int(np.prod(shape, dtype=object))
        if count * BITS[dtype] % 8 == 0:
            tensors[name] = (dtype, shape, rng.randbytes(count * BITS[dtype] // 8))
    data = file_of(tensors, {"k": "v"} if rng.random() < 0.5 else None, rng.choice([0, 0, 5]))
    length, = struct.unpack("<Q", data[:8])
    header, rest = bytearray(data[8:8 + length]), data[8 + length:]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(header)) if header else 0
        kind = rng.randrange(8)
        if kind == 0 and header:
            header[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del header[at:at + rng.randint(1, 6)]
        elif kind == 2:
            header[at:at] = rng.choice(TOKENS)
        elif kind == 3 and header:
            end = rng.randrange(len(header))
            header[at:at] = header[min(at, end):max(at, end)]
        elif kind == 4:
            digits = [i for i, c in enumerate(header) if chr(c).isdigit()]
            if digits:
                header[rng.choice(digits)] = ord(rng.choice("0123456789"))
        elif kind == 5:
            rest = rest[:-1] if rng.random() < 0.5 else rest + b"\0"
        elif kind == 6:
            length = None if length is None else rng.choice([0, 1, len(header) - 1, len(header) + 1, 2**32, 2**63, 100_000_001])
        else:
            text = bytes(header)
            old, new = rng.choice([(b'"F', b'"U'), (b"16", b"32"), (b",", b", "), (b"[", b"[0,"), (b"8", b"4"), (b"}}", b"}"), (b'"a"', b'"b"')])
            header = bytearray(text.replace(old, new, 1))
    prefix = len(header) if length is None or length == struct.unpack("<Q", data[:8])[0] else length
    return struct.pack("<Q", max(prefix, 0)) + bytes(header) + rest


if __name__ == "__main__":
    unittest.main()
