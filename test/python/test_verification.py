"""verify_integrity at its three levels: each way of damage, done by hand, is found at the level that promises it, as rows that
name the object, what was expected and what was found; the last row counts them. Cancels come through, memory stays small.
"""
import json
import pathlib
import re
import shutil
import struct
import time
import unittest

import psycopg

import hostile_model as model
from shared import SharedConnection
from test_hostile import header_of, manifest_of, put_header, put_manifest, reseal

LEVELS = ("quick", "full", "deep")
HEX = "^[0-9a-f]{64}$"


def flip_byte(tree, name, at=-1):
    data = bytearray(tree[name])
    data[at] ^= 1
    tree[name] = bytes(data)


def resealed(change):
    def both(tree):
        change(tree)
        reseal(tree)
    return both


def break_header(tree):
    header, data = header_of(tree["swarm-v.swarm.safetensors"])
    header["data"]["shape"] = [2 ** 40, 2 ** 40]
    tree["swarm-v.swarm.safetensors"] = put_header(header, data)


def other_dtype(tree):
    header, data = header_of(tree["agents-1.safetensors"])
    header["state"]["dtype"] = "I32"
    tree["agents-1.safetensors"] = put_header(header, data)


def other_state(tree):
    """A bit of an agent's state, with the manifest made to fit: no hash of files tells."""
    header, _ = header_of(tree["agents-1.safetensors"])
    start = len(tree["agents-1.safetensors"]) - len(header_of(tree["agents-1.safetensors"])[1])
    flip_byte(tree, "agents-1.safetensors", start + header["state"]["data_offsets"][0])


def change_line(name, change):
    def both(tree):
        lines = [json.loads(line) for line in tree[name].splitlines()]
        change(lines)
        tree[name] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        reseal(tree)
    return both


def other_uid(tree):
    manifest = manifest_of(tree)
    manifest["checkpoint"]["uid"] = "00000000-0000-0000-0000-000000000001"
    put_manifest(tree, manifest)


# Damage of files: name, change, first level that finds it, (object, status, expected, found) of a row. A file that the manifest
# names is called by its path, which ends in its name.
FILES = [
    ("a file is missing", lambda t: t.pop("items.jsonl"), "quick", (r"/items\.jsonl$", "missing", r"^\d+ bytes$", None)),
    ("a file is cut", lambda t: t.update({"items.jsonl": t["items.jsonl"][:-1]}), "quick", (r"/items\.jsonl$", "damaged", r"^\d+ bytes$", r"^\d+ bytes$")),
    ("a file is longer", lambda t: t.update({"items.jsonl": t["items.jsonl"] + b" "}), "quick", (r"/items\.jsonl$", "damaged", r"^\d+ bytes$", r"^\d+ bytes$")),
    ("the manifest is missing", lambda t: t.pop("MANIFEST.json"), "quick", (r"ckpt-[^/]*$", "missing", "an exported checkpoint", "MANIFEST.json")),
    ("the manifest is cut", lambda t: t.update({"MANIFEST.json": t["MANIFEST.json"][:-5]}), "quick", (r"ckpt-[^/]*$", "damaged", "an exported checkpoint", "SHA-256|three lines")),
    ("a bit of the manifest", lambda t: flip_byte(t, "MANIFEST.json", 100), "quick", (r"ckpt-[^/]*$", "damaged", "an exported checkpoint", "SHA-256")),
    ("a bit of a tensor", lambda t: flip_byte(t, "swarm-v.swarm.safetensors"), "full", (r"/swarm-v\.swarm\.safetensors$", "damaged", HEX, HEX)),
    ("a bit of a line", lambda t: flip_byte(t, "agents-1.jsonl", 5), "full", (r"/agents-1\.jsonl$", "damaged", HEX, HEX)),
    ("a header that is none, sealed", resealed(break_header), "deep", (r"", "damaged", "an exported checkpoint", "invalid safetensors file: The shape of tensor \"data\" overflows")),
    ("another dtype, sealed", resealed(other_dtype), "deep", (r"^agents$", "damaged", r"state F32 \{3,2\}", None)),
    ("a bit of a state, sealed", resealed(other_state), "deep", (r"^agents:v/1$", "damaged", HEX, HEX)),
    ("a bit of a swarm, sealed", resealed(lambda t: flip_byte(t, "swarm-v.swarm.safetensors")), "deep", (r"^swarm:v\.swarm$", "unexpected", None, r"^[0-9a-f]{64} \(data\)$")),
    ("a bit of a layer, sealed", resealed(lambda t: flip_byte(t, "expert-v.net.safetensors")), "deep", (r"^expert:v\.net$", "missing", HEX, None)),
    ("a node's metadata, sealed", change_line("graph-v.graph.nodes.jsonl", lambda lines: lines[0].update(metadata={"evil": 1})), "deep", (r"^graph:v\.graph node a$", "damaged", HEX, HEX)),
    ("an edge less, sealed", change_line("graph-v.graph.edges.jsonl", lambda lines: lines.pop()), "deep", (r"^graph:v\.graph edge a b |^graph", "missing|damaged", None, None)),
    ("an agent more, sealed", change_line("agents-others.jsonl", lambda lines: lines.append({**lines[0], "id": "v/more"})), "deep", (r"^agents:v/more$", "unexpected", None, HEX)),
    ("a metric's run, sealed", change_line("metrics.jsonl", lambda lines: lines[0].update(run="other")), "deep", (r"^metrics \d+$", "damaged", HEX, HEX)),
    ("an item's body, sealed", change_line("items.jsonl", lambda lines: lines[0].update(body={})), "deep", (r"^(expert|swarm|graph|metrics)", "damaged", HEX, HEX)),
    ("lines that are no JSON, sealed", resealed(lambda t: t.update({"agents-1.jsonl": b"{\n"})), "deep", (r"ckpt-[^/]*$", "damaged", "an exported checkpoint", "json")),
    ("another checkpoint, sealed", other_uid, "deep", (r"ckpt-[^/]*$", "damaged", r"^[0-9a-f-]{36}$", "^00000000-")),
]

# Damage of tables: name, statement, first level, row.
TABLES = [
    ("a chunk is missing", "DELETE FROM gpuagent_store.chunk WHERE ctid = (SELECT min(ctid) FROM gpuagent_store.chunk)", "quick", (r"^(swarm|expert):", "damaged", HEX, "is missing|has no")),
    ("a tensor's row is missing", "DELETE FROM gpuagent_store.tensor WHERE shape = '{600,501}'", "quick", (r"^swarm:v\.swarm", "damaged", HEX, ".")),
    ("a node is missing", "DELETE FROM gpuagent_store.node", "quick", (r"^swarm:v\.swarm", "damaged", HEX, ".")),
    ("a bit of a chunk", "UPDATE gpuagent_store.chunk SET data = set_byte(data, octet_length(data) - 1, get_byte(data, octet_length(data) - 1) # 1)", "full", (r"^(swarm|expert):", "damaged", HEX, ".")),
    ("a chunk's checksum", "UPDATE gpuagent_store.chunk SET crc = crc # 1", "full", (r"^(swarm|expert):", "damaged", HEX, ".")),
    ("an agent of a checkpoint", "UPDATE gpuagent_store.checkpoint_agent SET fitness = 7", "full", None),
    ("an item's version", "UPDATE gpuagent.checkpoint_item SET version = version + 1 WHERE object = 'swarm:v.swarm'", "deep", (r"^swarm:v\.swarm$", "damaged", HEX, HEX)),
    ("an agent of a checkpoint less", "DELETE FROM gpuagent_store.checkpoint_agent WHERE id = 'v/1'", "deep", (r"^agents:v/1$", "unexpected", None, HEX)),
]


class VerificationTest(SharedConnection):
    @classmethod
    def setUpClass(cls):
        cls.admin = psycopg.connect(autocommit=True)
        cls.admin.execute("DROP DATABASE IF EXISTS verification")
        cls.admin.execute("CREATE DATABASE verification TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
        super().setUpClass()
        for statement in (
                "CREATE EXTENSION gpuagent", "SELECT gpuagent.setup()",
                "SELECT gpuagent.store_agents('{v/1,v/2,v/3}', '[[1,2],[3,4],[5,6]]', fitness => '{1,2,3}')",
                "SELECT gpuagent.store_agent('v/empty', 'F32[2,0]:raw:')",
                "SELECT gpuagent.store_nodes('v.graph', '{a,b}', '[[1,0],[0,1]]'), gpuagent.store_edges('v.graph', '{a}', '{b}')",
                "SELECT gpuagent.store_weights('v.net', 'layer.0', '[[1,2],[3,4]]', '[0.5,-0.5]')",
                "SELECT gpuagent.store_metrics('v', '{\"loss\": 0.5}')"):
            cls.conn.execute(statement)
        data = b"".join(struct.pack("<f", i * 0.37) for i in range(600 * 501))      # two chunks and a node
        cls.conn.execute("SELECT gpuagent.store_swarm('v.swarm', gpuagent.tensor('F32', '{600,501}', %b))", (data,))
        cls.checkpoint = cls.one("SELECT gpuagent.create_checkpoint('v')")
        cls.folder = pathlib.Path(cls.one("SELECT gpuagent_store.storage_path()")) / cls.one("SELECT path FROM gpuagent.export_checkpoint()")
        cls.original = {p.name: p.read_bytes() for p in sorted(cls.folder.iterdir())}

    @classmethod
    def connect(cls):
        return psycopg.connect(dbname="verification", autocommit=True)

    @classmethod
    def tearDownClass(cls):
        cls.admin.execute("DROP DATABASE verification WITH (FORCE)")
        cls.admin.close()
        shutil.rmtree(cls.folder, ignore_errors=True)

    def put(self, tree):
        for path in self.folder.iterdir():
            path.unlink()
        for name, data in tree.items():
            (self.folder / name).write_bytes(data)
            (self.folder / name).chmod(0o644)

    def problems(self, level, arguments=""):
        """Rows but the total and those of NaN, after checking that the total counts them."""
        *rows, total = self.conn.execute(f"SELECT * FROM gpuagent.verify_integrity(%s{arguments})", (level,)).fetchall()
        rows = [row for row in rows if row[1] != "nonfinite"]
        self.assertEqual((total[0], total[1], total[2]), ("total", "damaged" if rows else "ok", "0 problems"))
        self.assertTrue(total[3].startswith(f"{len(rows)} problems in "), total)
        return rows

    def check(self, name, first, wanted):
        for level in LEVELS:
            rows = self.problems(level)
            if LEVELS.index(level) < LEVELS.index(first):
                self.assertEqual(rows, [], f"{name}: {level} does not read that much")
                continue
            self.assertNotEqual(rows, [], f"{name} is found by {level}")
            if wanted is not None and (level == first or first != "quick"):
                self.assertTrue(any(all(pattern is None or re.search(pattern, value or "") for pattern, value in zip(wanted, row)) for row in rows), f"{name} {level}: {rows}")

    def test_nothing_wrong(self):
        for level in LEVELS:
            self.assertEqual(self.problems(level), [])
            self.assertEqual(self.problems(level, ", checkpoint => (SELECT max(id) FROM gpuagent.checkpoint)"), [])
        with self.assertRaises(psycopg.errors.InvalidParameterValue):
            self.problems("deeper")

    def test_files(self):
        for name, change, first, wanted in FILES:
            with self.subTest(name):
                tree = dict(self.original)
                change(tree)
                self.put(tree)
                try:
                    self.check(name, first, wanted)
                finally:
                    self.put(self.original)
        self.assertEqual(self.problems("deep"), [])

    def test_links(self):
        """A link instead of a file, and a folder that is gone."""
        path = self.folder / "items.jsonl"
        moved = self.folder.parent / "verification-moved"
        path.rename(moved)
        path.symlink_to(moved)
        try:
            for level in LEVELS:
                (name, status, _, found), = self.problems(level)
                self.assertEqual((name.endswith(self.folder.name), status), (True, "damaged"))
                self.assertRegex(found, "items.jsonl")
        finally:
            path.unlink()
            moved.rename(path)
        aside = self.folder.with_name("verification-aside")
        self.folder.rename(aside)
        try:
            for level in LEVELS:
                self.assertEqual([row[1] for row in self.problems(level)], ["missing"])
        finally:
            aside.rename(self.folder)
        self.assertEqual(self.problems("deep"), [])

    def test_tables(self):
        for name, statement, first, wanted in TABLES:
            with self.subTest(name):
                self.conn.execute("BEGIN")
                try:
                    self.assertGreater(self.conn.execute(statement).rowcount, 0)
                    # digest is a generated column: damage of a row goes around it.
                    self.check(name, first, wanted) if wanted else self.check_generated()
                finally:
                    self.conn.execute("ROLLBACK")
        self.assertEqual(self.problems("deep"), [])

    def check_generated(self):
        """Changed rows get new digests, so that only the export, whose rows have the old ones, tells."""
        self.assertEqual(self.problems("full"), [])
        self.assertEqual({row[1] for row in self.problems("deep")}, {"damaged"})

    def test_values(self):
        """Rows of values that are NaN or infinite, which are no problems."""
        self.conn.execute("BEGIN")
        self.conn.execute("SELECT gpuagent.store_swarm('v.bad', 'F16:[[1,NaN],[-inf,inf]]'), gpuagent.store_agent('v/bad', '[NaN]', 'F64:[-inf]')")
        *rows, total = self.conn.execute("SELECT * FROM gpuagent.verify_integrity('deep')").fetchall()
        self.conn.execute("ROLLBACK")
        self.assertEqual(rows, [("swarm:v.bad version 1", "nonfinite", "0 values", "3 values"), ("agents:v/bad", "nonfinite", "0 values", "some in state and some in memory")])
        self.assertEqual(total[1], "ok")

    def test_cancel_and_memory(self):
        """A tensor of 96 MB is verified in a few pieces of memory, and a cancel comes through at once."""
        self.conn.execute("BEGIN")
        self.conn.execute("SELECT gpuagent.append_swarm('v.big', gpuagent.tensor('F32', '{1024,1024}', decode(repeat(md5(i::text), 262144), 'hex'))) FROM generate_series(1, 24) i")
        pid = self.conn.info.backend_pid
        status = pathlib.Path(f"/proc/{pid}/status")

        def anonymous():
            return int(re.search(r"RssAnon:\s*(\d+)", status.read_text()).group(1))

        before = anonymous()
        self.assertEqual(self.problems("deep", ", objects => '{swarm:v.big}'"), [])
        self.assertLess(anonymous() - before, 32 * 1024)
        # A hundred times over, so that no machine is done before the time limit.
        self.conn.execute("SET LOCAL statement_timeout = '60ms'")
        started = time.monotonic()
        with self.assertRaises(psycopg.errors.QueryCanceled):
            self.conn.execute("""SELECT count(status) FROM generate_series(1, 100) i,
                gpuagent.verify_integrity(CASE WHEN i > 0 THEN 'deep' END, objects => '{swarm:v.big}')""")
        self.assertLess(time.monotonic() - started, 60)     # all of it takes minutes where this does


if __name__ == "__main__":
    unittest.main()
