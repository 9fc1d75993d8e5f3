"""Mutants of an exported checkpoint: each is refused with its reason, or becomes exactly what the files contain.

What files contain is told by hostile_model.py, which reads them without gpuagent. "Accepted wrongly" is: a checkpoint from
files that the model refuses, or with other rows, tensors or attributes than the model finds. "Refused wrongly" is the
opposite and fails as well. An attacker who knows the format may write other content and fit all hashes to it
("resealed" files, manifests and digests): then that content is what must come out.

A refusal leaves nothing in the tables or the tree; no mutant costs the server much memory or time.
"""
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import struct
import unittest

import psycopg
from psycopg import sql

import hostile_model as model
from test_safetensors import TOKENS, all_dtypes, file_of

MUTANTS = int(os.environ.get("GA_TEST_MUTANTS", 10_000 if os.environ.get("GA_TEST_LONG") else 300))
SEED = int(os.environ.get("GA_TEST_SEED", "4"))
MAX_MEMORY = 256 * 1024         # kB by which a backend may grow, shared memory that it touches included

# SQLSTATE, message and detail of a refusal, by the stage of the model.
REASONS = {
    "manifest": [("XX001", r'^the manifest of ".*" is not valid$', r"^(It does not have the three lines|Its content does not have the SHA-256|Its content is not JSON: |"
                           r"Its format is |It has no sections|Its checkpoint has no uid|Its checkpoint's objects are not)"),
                 ("XX001", r'^file ".*MANIFEST.json" is not text in UTF-8$', None), ("58P01", "MANIFEST.json", None), ("42809", "MANIFEST.json", None)],
    "encoding": [("0A000", r'^the exported checkpoint ".*" comes from a database of encoding', "Digests")],
    "files": [("XX001", r'^the exported checkpoint ".*" is damaged$', r"^.+ is (missing|damaged): expected .+, found .+\.$"),
              ("XX001", "^invalid safetensors file$", r".{20}"), ("42809", r'^".*" is not a regular file$|link', None)],
    "content": [("XX001", "^the files of the checkpoint do not fit together$", r".{15}"), ("XX001", "^invalid safetensors file$", r".{20}"),
                ("XX001", r'^file ".*" is not text in UTF-8$|^the last line of file ".*" is not complete$', None),
                ("XX001", r'^(rows of )?tensor ".*" of file ".*" (is|have) ', None), ("42704", r'^file ".*" has no tensor ".*"$', None),
                ("XX001", r'^the manifest of ".*" is not valid$', r"^It has a section")],
}


# ---- changing files; a tree is {name: bytes, or ("link", target), ("folder",)} ----

def manifest_of(tree):
    return json.loads(tree["MANIFEST.json"].split(b"\n")[1])


def put_manifest(tree, manifest):
    text = (manifest if isinstance(manifest, str) else json.dumps(manifest)).encode("utf-8", "surrogatepass")
    tree["MANIFEST.json"] = b'{"manifest":\n' + text + b'\n,"sha256":"' + hashlib.sha256(text).hexdigest().encode() + b'"}\n'


def reseal(tree):
    """Fits sizes and hashes in the manifest to the files."""
    try:
        manifest = manifest_of(tree)
        for section in manifest["sections"]:
            for file in section["files"]:
                data = tree.get(file["name"])
                if isinstance(data, bytes):
                    file.update(nbytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return
    put_manifest(tree, manifest)


def header_of(data):
    length, = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + length]), data[8 + length:]


def put_header(header, data, pad=4096):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % pad)
    return struct.pack("<Q", len(text)) + text + data


def pick(rng, tree, ending=""):
    return rng.choice([n for n in sorted(tree) if n.endswith(ending) and isinstance(tree[n], bytes)])


def with_lines(rng, tree, change, ending=".jsonl"):
    name = pick(rng, tree, ending)
    lines = tree[name].split(b"\n")[:-1]
    tree[name] = b"".join(line + b"\n" for line in change(lines))


def with_header(rng, tree, change):
    name = pick(rng, tree, ".safetensors")
    header, data = header_of(tree[name])
    names = [n for n in header if n != "__metadata__"]
    header, data = change(header, data, rng.choice(names)) or (header, data)
    tree[name] = put_header(header, data)


def with_manifest(tree, change):
    manifest = manifest_of(tree)
    put_manifest(tree, change(manifest) or manifest)


def places(value, path=()):
    """Paths of all values within a JSON value."""
    yield path
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(below, path + (key,))


def replace_at(value, path, new):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


JUNK = [None, True, -1, 0, 1, 3.5, 10 ** 30, "", "x", "1", "a/b", "../x", "latest", ".", [], {}, [None], {"a": 1}, "\u0000", "\ud800", "é", "now", "infinity", "F32", "agents",
        "00000000-0000-0000-0000-000000000000", "x" * 300, "a\nb"]


# ---- the kinds of mutants: (tree, rng) changes the tree. Those in SEALED are made to fit the manifest half of the time. ----

def flip(tree, rng):
    name = pick(rng, tree)
    data = bytearray(tree[name])
    for _ in range(rng.choice((1, 1, 3))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    tree[name] = bytes(data)


def truncate(tree, rng):
    name = pick(rng, tree)
    tree[name] = tree[name][:rng.choice((0, 1, 8, rng.randrange(len(tree[name])), len(tree[name]) - 1))]


def extend(tree, rng):
    name = pick(rng, tree)
    tree[name] += rng.choice((b"\0", b" ", b"\n", b"{}\n", rng.randbytes(100), bytes(5000)))


def swap(tree, rng):
    ending = rng.choice((".safetensors", ".jsonl", ""))
    a, b = pick(rng, tree, ending), pick(rng, tree, ending)
    tree[a], tree[b] = tree[b], tree[a]


def remove(tree, rng):
    del tree[pick(rng, tree)]


def hole(tree, rng):
    def change(header, data, name):
        begin, end = header[name]["data_offsets"]
        for entry in header.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= begin:
                entry["data_offsets"] = [x + 8 for x in entry["data_offsets"]]
        return header, data[:begin] + bytes(8) + data[begin:]
    with_header(rng, tree, change)


def overlap(tree, rng):
    def change(header, data, name):
        header[name]["data_offsets"] = [max(0, x - rng.choice((1, 4, 8))) for x in header[name]["data_offsets"]]
    with_header(rng, tree, change)


def overflow(tree, rng):
    def change(header, data, name):
        header[name]["shape"] = rng.choice([[2 ** 62, 4], [2 ** 32, 2 ** 32], [2 ** 63 - 1, 2], [0, 2 ** 63 - 1, 2 ** 63 - 1], [2 ** 64], [-1], [1.5], [1] * 9, [2 ** 31, 2 ** 31, 4]])
    with_header(rng, tree, change)


def reshape(tree, rng):
    def change(header, data, name):
        header[name]["shape"] = rng.choice([header[name]["shape"][::-1], header[name]["shape"] + [1], [1] + header[name]["shape"], header[name]["shape"][1:]])
    with_header(rng, tree, change)


def duplicate_key(tree, rng):
    def change(header, data, name):
        text = json.dumps(header)
        if rng.random() < 0.5:
            return (text[:-1] + ", " + json.dumps({name: header[name]})[1:]).encode(), data
        return text.replace('"dtype"', '"dtype": "F32", "dtype"', 1).encode(), data
    with_header(rng, tree, change)


def giant_header(tree, rng):
    name = pick(rng, tree, ".safetensors")
    length = rng.choice((2 ** 63, 2 ** 64 - 1, 100_000_001, 100_000_000, len(tree[name]), 2 ** 40, 0, 1))
    tree[name] = struct.pack("<Q", length) + tree[name][8:]


def many_entries(tree, rng):
    def change(header, data, name):
        header.update({f"{'x' * rng.choice((1, 200))}{i}": {"dtype": "U8", "shape": [0], "data_offsets": [len(data)] * 2} for i in range(2000)})
    with_header(rng, tree, change)


def link(tree, rng):
    name = rng.choice((pick(rng, tree), pick(rng, tree), "MANIFEST.json"))
    tree[name] = rng.choice((("link", tree[name]), ("link", "/etc/passwd"), ("link", "/dev/zero"), ("folder",), ("pipe",)))


def traversal(tree, rng):
    def change(manifest):
        file = rng.choice(rng.choice(manifest["sections"])["files"])
        file["name"] = rng.choice(("../" + file["name"], "/etc/passwd", "./" + file["name"], ".hidden", "", "a/../" + file["name"], "..", "x\u0000", "-x",
                                   "nvme_storage/latest", "x" * 5000, "MANIFEST.json", file["name"] + "\n"))
    with_manifest(tree, change)


def dtype(tree, rng):
    def change(header, data, name):
        header[name]["dtype"] = rng.choice(("F32", "I32", "U32", "F64", "I64", "U64", "C64", "BF16", "U8", "F4", "f32", "F128", "", 3))
    with_header(rng, tree, change)


def nan_in_json(tree, rng):
    def change(lines):
        i = rng.randrange(len(lines))
        lines[i] = re.sub(rb": ([0-9]+|null|true|false)", b": " + rng.choice((b"NaN", b"Infinity", b"-Infinity", b"nan", b"1e999999", b"0x1")), lines[i], count=1)
        return lines
    with_lines(rng, tree, change)


def deep_json(tree, rng):
    n = rng.choice((65, 200, 5000, 300_000))
    deep = rng.choice((b"[" * n, b"[" * n + b"]" * n, b'{"a":' * n + b"1" + b"}" * n))
    where = rng.randrange(3)
    if where == 0:
        with_lines(rng, tree, lambda lines: [b'{"x": ' + deep + b"," + lines[0][1:]] + lines[1:])
    elif where == 1:
        name = pick(rng, tree, ".safetensors")
        header, data = header_of(tree[name])
        tree[name] = put_header(json.dumps(header).encode().replace(b'"dtype"', b'"x": ' + deep + b', "dtype"', 1), data)
    else:
        put_manifest(tree, '{"x": ' + deep.decode() + "," + json.dumps(manifest_of(tree))[1:])


def disorder(tree, rng):
    def change(lines):
        rng.shuffle(lines)
        return lines
    with_lines(rng, tree, change)


def duplicate_line(tree, rng):
    with_lines(rng, tree, lambda lines: lines[:1] + lines if rng.random() < 0.5 else lines + lines[-1:])


def drop_line(tree, rng):
    def change(lines):
        if lines:
            del lines[rng.randrange(len(lines))]
        return lines
    with_lines(rng, tree, change)


def junk_line(tree, rng):
    junk = rng.choice((b"", b"{}", b"null", b"[]", b"1", b'"x"', b"\xff\xfe", b"\x00", b'{"id": "\\u0000"}', b'{"id": "\xed\xa0\x80"}', b"{", b'{"id": 1, "digest": "00"}'))
    with_lines(rng, tree, lambda lines: lines + [junk] if rng.random() < 0.5 else [junk] + lines[1:])


def token(tree, rng):
    name = pick(rng, tree, rng.choice((".jsonl", ".safetensors")))
    end = len(tree[name]) if name.endswith(".jsonl") else 8 + struct.unpack("<Q", tree[name][:8])[0]
    at = rng.randrange(8 if name.endswith(".safetensors") else 0, end)
    word = rng.choice(TOKENS)
    data = tree[name][:at] + word + tree[name][at + rng.choice((0, len(word))):]
    tree[name] = data


def field(tree, rng):
    """A value of a line becomes another."""
    def change(lines):
        i = rng.randrange(len(lines))
        line = json.loads(lines[i])
        replace_at(line, rng.choice(list(places(line))[1:]), rng.choice(JUNK))
        lines[i] = json.dumps(line).encode()
        return lines
    with_lines(rng, tree, change)


def encoding(tree, rng):
    def change(manifest):
        manifest["encoding"] = rng.choice(("LATIN1", "SQL_ASCII", None, 6, "utf8", "", ["UTF8"]))
        if rng.random() < 0.3:
            del manifest["encoding"]
    with_manifest(tree, change)


def manifest_field(tree, rng):
    def change(manifest):
        path = rng.choice([p for p in places(manifest) if p and len(p) < 6])
        if rng.random() < 0.3:
            parent = manifest
            for key in path[:-1]:
                parent = parent[key]
            del parent[path[-1]]
        else:
            replace_at(manifest, path, rng.choice(JUNK))
    with_manifest(tree, change)


def manifest_form(tree, rng):
    text = tree["MANIFEST.json"]
    tree["MANIFEST.json"] = rng.choice((
        text.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text, text + b"\n", text[:-1], text.replace(b"\n", b" "), b"", b"\n\n\n", text.upper(),
        text.replace(b'"sha256":"', b'"sha256":"0', 1), text.replace(b"}\n,", b"} \n,", 1)))


def version(tree, rng):
    def change(manifest):
        manifest[rng.choice(("format", "format_version"))] = rng.choice((2, 0, "1", 1.0, None, "gpuagent", True))
    with_manifest(tree, change)


def unlisted(tree, rng):
    """A file that the manifest does not name is not read."""
    def change(manifest):
        section = rng.choice(manifest["sections"])
        if len(section["files"]) > 1:
            del section["files"][rng.randrange(len(section["files"]))]
        else:
            section["files"][0]["name"] = "MANIFEST.json"
    with_manifest(tree, change)


def sections(tree, rng):
    def change(manifest):
        which = rng.randrange(4)
        s = manifest["sections"]
        i = rng.randrange(len(s))
        if which == 0:
            del s[i]
        elif which == 1:
            s.append(s[i])
        elif which == 2:
            s[i]["object"] = rng.choice(("agents", "agents:x", "items", "metrics", "graph:other", "swarm:other", "expert:", "graph", "nothing", "", "Agents"))
        else:
            rng.shuffle(s)
    with_manifest(tree, change)


def scope(tree, rng):
    def change(manifest):
        manifest["checkpoint"]["objects"] = rng.choice((["agents"], ["agents:ho"], ["agents:hostile/"], ["swarms", "experts", "graphs", "metrics"], ["agents", "graphs"], [], "agents",
                                                        ["agents", "swarms", "experts", "graphs"], ["agents", "experts", "graphs", "metrics", "swarms"], ["nothing"], [None], [3], {"a": 1}))
    with_manifest(tree, change)


def said_tensor(tree, rng):
    """What the manifest says of a tensor is not so, or another tensor's hash stands in an item."""
    def change(manifest):
        section = rng.choice([s for s in manifest["sections"] if s["tensors"]])
        entry = rng.choice(section["tensors"])
        key = rng.choice(("name", "dtype", "shape", "hash"))
        entry[key] = rng.choice(("x", "state", "F32", [1], None, "00" * 32, entry.get("name")))
    if rng.random() < 0.6:
        return with_manifest(tree, change)
    lines = tree["items.jsonl"].split(b"\n")
    hashes = re.findall(rb'"tensor": "([0-9a-f]{64})"', tree["items.jsonl"])
    i = rng.choice([i for i, line in enumerate(lines) if b'"tensor": "' in line])
    lines[i] = re.sub(rb'"tensor": "[0-9a-f]{64}"', b'"tensor": "' + rng.choice(hashes + [b"00" * 32]) + b'"', lines[i])
    tree["items.jsonl"] = b"\n".join(lines)


def identity(tree, rng):
    """Not changed, or in ways that change nothing: the file order of tensors, a uid of its own, files that nobody names."""
    which = rng.randrange(4)
    if which == 1:
        with_manifest(tree, lambda manifest: manifest["checkpoint"].update(uid=f"00000000-0000-0000-0000-{rng.randrange(16 ** 12):012x}", label="other", step=7))
    elif which == 2:
        tree["unknown.txt"] = rng.randbytes(10)
    elif which == 3:
        with_manifest(tree, lambda manifest: json.dumps(manifest, ensure_ascii=rng.random() < 0.5, indent=None, separators=rng.choice(((",", ":"), (" , ", " : ")))))


def other_content(tree, rng):
    """An attacker changes a value and fits whatever holds hashes: other content, and right."""
    which = rng.randrange(3)
    if which == 0:      # a metric's value: its row's digest
        header, data = header_of(tree["metrics.safetensors"])
        at = header["value"]["data_offsets"][0]
        data = data[:at] + struct.pack("<d", rng.choice((float("nan"), -0.0, 1e300, rng.random()))) + data[at + 8:]
        tree["metrics.safetensors"] = put_header(header, data)
        lines = [json.loads(line) for line in tree["metrics.jsonl"].splitlines()]
        numbers = struct.unpack_from("<q", data, header["id"]["data_offsets"][0]) + struct.unpack_from("<q", data, header["step"]["data_offsets"][0])
        lines[0]["digest"] = model.digest(
            ("bigint", numbers[0]), ("text", lines[0]["run"]), ("text", lines[0]["key"]), ("bigint", numbers[1]),
            ("float8", struct.unpack_from("<Q", data, at)[0]), ("text", lines[0]["object"]),
            *(("bigint", micros(lines[0][k])) for k in ("recorded_at", "created_at"))).hex()
        tree["metrics.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    elif which == 1:    # bytes of the swarm: hash of the tensor, digest of its item
        name = "swarm-hostile.swarm.safetensors"
        header, data = header_of(tree[name])
        data = bytearray(data)
        data[rng.randrange(len(data))] ^= 0x40
        tree[name] = put_header(header, bytes(data))
        new = model.tensor_hash(header["data"]["dtype"], header["data"]["shape"], bytes(data))
        lines = [json.loads(line) for line in tree["items.jsonl"].splitlines()]
        item = next(line for line in lines if line["object"] == "swarm:hostile.swarm")
        item["tensor"] = new.hex()
        item["digest"] = model.digest(("text", item["object"]), ("text", item["part"]), ("bigint", item["version"]), ("bytea", new), ("bytea", None),
                                      ("jsonb", model.parse(json.dumps(item["body"]), ""))).hex()
        tree["items.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

        def change(manifest):
            next(s for s in manifest["sections"] if s["object"] == "swarm:hostile.swarm")["tensors"][0]["hash"] = new.hex()
        with_manifest(tree, change)
    else:               # a node's metadata, whose digest is kept
        with_lines(rng, tree, lambda lines: [lines[0].replace(b'"metadata": {', b'"metadata": {"evil": 1, ')] + lines[1:], ".nodes.jsonl")
    reseal(tree)


def graph_array(tree, rng):
    """The structure that other readers see of a graph, without the lines."""
    name = pick(rng, tree, "hostile.graph.safetensors")
    header, data = header_of(tree[name])
    array = rng.choice(("row_offsets", "col_indices", "edge_types", "embedding_nodes", "__metadata__"))
    if array == "__metadata__":
        types = json.loads(header[array]["gpuagent.edge_types"])
        header[array]["gpuagent.edge_types"] = json.dumps(rng.choice((types[::-1], types + types[:1], types[1:], {}, [t.upper() for t in types])))
    else:
        first, end = header[array]["data_offsets"]
        at = first + 8 * rng.randrange((end - first) // 8)
        value, = struct.unpack_from("<q", data, at)
        data = data[:at] + struct.pack("<q", rng.choice([v for v in (0, 1, 2, -1, value + 1, value - 1, 2 ** 62) if v != value])) + data[at + 8:]
    tree[name] = put_header(header, data)
    reseal(tree)


def micros(text):
    from datetime import datetime, timezone
    delta = datetime.fromisoformat(text) - datetime(2000, 1, 1, tzinfo=timezone.utc)
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds


SEALED = [flip, truncate, extend, swap, remove, hole, overlap, overflow, reshape, duplicate_key, giant_header, many_entries, dtype, nan_in_json, deep_json, disorder,
          duplicate_line, drop_line, junk_line, token, field, said_tensor, link]
KINDS = SEALED + [traversal, encoding, manifest_field, manifest_form, version, unlisted, sections, scope, identity, other_content, graph_array]


class HostileTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.admin = psycopg.connect(autocommit=True)
        for name in ("hostile_source", "hostile_target"):
            cls.admin.execute(f"DROP DATABASE IF EXISTS {name}")
            cls.admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
        cls.base = None
        cls.make_export()
        cls.conn = cls.connect("hostile_target")
        cls.helper = cls.connect("hostile_target", autocommit=True)
        cls.casts = {}

    @classmethod
    def tearDownClass(cls):
        for conn in (cls.conn, cls.helper):
            conn.close()
        for name in ("hostile_source", "hostile_target"):
            cls.admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        cls.admin.close()
        shutil.rmtree(cls.folder, ignore_errors=True)

    def tearDown(self):
        self.conn.rollback()

    @classmethod
    def connect(cls, database, autocommit=False):
        conn = psycopg.connect(dbname=database, autocommit=True)
        conn.execute("CREATE EXTENSION IF NOT EXISTS gpuagent")
        conn.execute("SELECT gpuagent.setup()")
        conn.execute("SET statement_timeout = '300s'")
        conn.execute("SET timezone = 'UTC'")
        conn.autocommit = autocommit
        return conn

    @classmethod
    def make_export(cls):
        """A checkpoint of something of everything, as {name: bytes}."""
        rng = random.Random(1)
        with cls.connect("hostile_source", autocommit=True) as conn:
            one = lambda query, *params: conn.execute(query, params).fetchone()[0]
            cls.storage = pathlib.Path(one("SELECT gpuagent_store.storage_path()"))
            conn.execute("""
                SELECT gpuagent.store_agents(array_agg('hostile/' || i ORDER BY i), gpuagent.stack(ARRAY[i, '-0'::real, 'NaN'::real]::gpuagent.agent_state ORDER BY i),
                    gpuagent.stack(ARRAY[i * 0.5]::real[]::gpuagent.agent_state ORDER BY i), 2, array_agg(nullif(sin(i), sin(3)) ORDER BY i)) FROM generate_series(1, 5) i;
                SELECT gpuagent.store_agent('hostile/half', 'F16:[1,65504,6e-8]', NULL, 2, NULL, '{"kind": "odd", "text": "Zoë \\"quoted\\"", "n": [1.50, -0.0, 1e3, null, true]}');
                SELECT gpuagent.store_agent('hostile/empty', 'F32[2,0]:raw:', 'F64:7', 3, 1.25);
                SELECT gpuagent.store_nodes('hostile.graph', '{x,y,z,alone}', '[[1,0,0],[0,1,0],[0.6,0.8,0],[0,0,1]]', '[{"n": 1}, {"n": 2}, {}, {}]');
                SELECT gpuagent.store_nodes('hostile.graph', '{odd}', 'F16:[[1,2,0.5]]'); SELECT gpuagent.store_nodes('hostile.graph', '{bare}');
                SELECT gpuagent.store_edges('hostile.graph', '{x,y,y}', '{y,z,x}', '{next,next,back}', '{0.5,2.5,-1}');
                SELECT gpuagent.store_expert_config('hostile.net', 'testing', 6, 0.001, '{"layers": 1}', '{"note": "first"}');
                SELECT gpuagent.store_metrics('hostile run', '{"loss": 0.25, "accuracy": 1}', 3);""")
            conn.execute("SELECT gpuagent.store_swarm('hostile.swarm', gpuagent.tensor('F32', '{40,50}', %b))", (rng.randbytes(8000),))
            conn.execute("SELECT gpuagent.import_safetensors('hostile.net', data => %b)", (file_of(dict(list(all_dtypes().items())[:9])),))
            conn.execute("SELECT gpuagent.store_weights('hostile.net', 'layer.0', '[[1,2],[3,4]]', '[0.5,-0.5]')")
            conn.execute("SELECT gpuagent.create_checkpoint('hostile', run => 'hostile run', step => 5, metadata => '{\"git\": \"abc\"}')")
            path = cls.storage / one("SELECT path FROM gpuagent.export_checkpoint()")
            cls.original = {p.name: p.read_bytes() for p in sorted(path.iterdir())}
        cls.name = "hostile-mutant"
        cls.folder = cls.storage / "nvme_storage" / cls.name

    def write(self, tree):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.folder.chmod(0o755)
        for name, data in tree.items():
            path = self.folder / name
            if isinstance(data, bytes):
                path.write_bytes(data)
                path.chmod(0o644)
            elif data[0] == "folder":
                path.mkdir()
            elif data[0] == "pipe":
                os.mkfifo(path, 0o644)
            else:
                target = data[1]
                if isinstance(target, bytes):
                    (self.folder / ("linked-" + name)).write_bytes(target)
                    target = "linked-" + name
                path.symlink_to(target)

    def cast(self, kind, text):
        """Wire bytes of a text as a type; None when it is none. What such texts mean is the server's to say."""
        if (kind, text) not in self.casts:
            try:
                with self.helper.cursor(binary=True) as cur:
                    send = {"bigint": "int8send", "float8": "float8send", "timestamptz": "timestamptz_send", "uuid": "uuid_send"}[kind]
                    self.casts[kind, text] = cur.execute(f"SELECT {send}(%s::text::{kind})", (text,)).fetchone()[0]
            except psycopg.DataError:
                self.casts[kind, text] = None
            if len(self.casts) > 20000:
                self.casts.clear()
                return self.cast(kind, text)
        return self.casts[kind, text]

    def expected(self, level):
        try:
            return model.read(self.folder, level, self.cast), None
        except model.Refused as refused:
            return None, refused

    def found(self, checkpoint):
        """The checkpoint as the tables have it, in the form of a model.Content."""
        content = model.Content()
        for kind, table, keys in (("agent", "gpuagent_store.checkpoint_agent", "id"), ("node", "gpuagent_store.checkpoint_node", "graph, id"),
                                  ("edge", "gpuagent_store.checkpoint_edge", "graph, source, target, edge_type"),
                                  ("metric", "gpuagent_store.checkpoint_metric", "id"), ("item", "gpuagent.checkpoint_item", "object, part")):
            for *key, row in self.conn.execute(f"SELECT {keys}, digest FROM {table} WHERE from_seq = %s AND to_seq IS NULL", (checkpoint,)):
                content.rows[kind][tuple(key)] = bytes(row)
        for hash, problem in self.conn.execute("SELECT hash, gpuagent_store.tensor_problem(hash) FROM gpuagent_store.tensor"):
            self.assertIsNone(problem)
            content.tensors.add(bytes(hash))
        row = self.conn.execute("SELECT uid::text, label, run, step, metadata::text, objects, created_at, origin, kind, status FROM gpuagent.checkpoint WHERE id = %s", (checkpoint,)).fetchone()
        self.assertEqual(row[8:], ("import", "valid"))
        content.checkpoint = dict(zip(("uid", "label", "run", "step", "metadata", "objects"), row))
        return content

    def memory(self):
        """The most memory, in kB, that the backend has had."""
        status = pathlib.Path(f"/proc/{self.conn.info.backend_pid}/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", status).group(1))

    def leftovers(self):
        tables = self.conn.execute("""SELECT (SELECT count(*) FROM gpuagent.checkpoint), (SELECT count(*) FROM gpuagent.checkpoint_item), (SELECT count(*) FROM gpuagent_store.checkpoint_agent),
            (SELECT count(*) FROM gpuagent_store.checkpoint_node), (SELECT count(*) FROM gpuagent_store.checkpoint_edge), (SELECT count(*) FROM gpuagent_store.checkpoint_metric),
            (SELECT count(*) FROM gpuagent_store.tensor), (SELECT count(*) FROM gpuagent_store.chunk), (SELECT count(*) FROM gpuagent.agent), (SELECT count(*) FROM gpuagent.expert)""").fetchone()
        self.conn.commit()
        self.assertEqual(set(tables), {0}, "tables are as before")
        self.assertEqual([p for p in self.storage.rglob(".tmp-*")], [], "nothing is left in the tree")

    def check_refusal(self, error, refused, what):
        self.assertIsNotNone(refused, f"{what}: the model accepts it, but {error.sqlstate} {error.diag.message_primary} {error.diag.message_detail}")
        for sqlstate, message, detail in REASONS[refused.stage]:
            if error.sqlstate == sqlstate and re.search(message, error.diag.message_primary, re.DOTALL) and \
                    (detail is None or re.search(detail, error.diag.message_detail or "", re.DOTALL)):
                return
        self.fail(f"{what}: {error.sqlstate} {error.diag.message_primary} ({error.diag.message_detail}) is not how {refused} is refused")

    def run_mutant(self, kind, number):
        rng = random.Random(f"{SEED} {kind.__name__} {number}")
        tree = dict(self.original)
        kind(tree, rng)
        sealed = kind in SEALED and rng.random() < 0.5
        if sealed:
            reseal(tree)
        level = rng.choice(("quick", "full", "deep"))
        what = f"{kind.__name__} {number} {'resealed' if sealed else 'as it is'}, {level}"
        self.write(tree)
        content, refused = self.expected(level)
        try:
            checkpoint = self.conn.execute("SELECT gpuagent.import_checkpoint(%s, verify => %s)", (self.name, level)).fetchone()[0]
        except psycopg.Error as error:
            self.assertFalse(self.conn.closed, f"{what}: the server is gone")
            self.conn.rollback()
            self.check_refusal(error, refused, what)
            return False
        if refused is not None:
            self.fail(f"{what}: accepted, but the model says {refused}")
        found = self.found(checkpoint)
        self.assertEqual(found.rows, content.rows, what)
        self.assertEqual(found.tensors, content.tensors, what)
        for key in ("uid", "label", "run", "step", "metadata"):
            self.assertEqual(found.checkpoint[key], content.checkpoint[key], f"{what} {key}")
        self.conn.rollback()
        return True

    def test_other_encodings(self):
        """A database of LATIN1: exports of UTF8 are refused, names that it has come in, others are told, and so are reasons that show them."""
        self.admin.execute("DROP DATABASE IF EXISTS hostile_latin1")
        self.admin.execute("CREATE DATABASE hostile_latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        self.write(self.original)
        conn = self.connect("hostile_latin1", autocommit=True)
        try:
            with self.assertRaises(psycopg.errors.FeatureNotSupported):
                conn.execute("SELECT gpuagent.import_checkpoint(%s)", (self.name,))
            load = "SELECT tensors FROM gpuagent.import_safetensors('x', data => %b)"
            self.assertEqual(conn.execute(load, (file_of({"Zo\u00eb": ("U8", [1], b"x")}),)).fetchone()[0], 1)
            self.assertEqual(conn.execute("SELECT layer FROM gpuagent.weight_version").fetchone()[0], "Zo\u00eb")
            with self.assertRaises(psycopg.errors.UntranslatableCharacter):
                conn.execute(load, (file_of({"\u65e5": ("U8", [1], b"x")}),))
            with self.assertRaises(psycopg.errors.DataCorrupted) as caught:
                conn.execute(load, (file_of({"\u65e5": ("U8", [2], b"x")}),))
            self.assertIn("has 1 bytes by its offsets, but 2", caught.exception.diag.message_detail)
        finally:
            conn.close()
            self.admin.execute("DROP DATABASE hostile_latin1 WITH (FORCE)")

    def test_mutants(self):
        rng = random.Random(SEED)
        started = self.helper.execute("SELECT pg_postmaster_start_time()").fetchone()
        before = self.memory()
        accepted, refused, failures = {}, {}, []
        order = [KINDS[i % len(KINDS)] for i in range(MUTANTS)]
        rng.shuffle(order)
        for number, kind in enumerate(order):
            try:
                good = self.run_mutant(kind, number)
            except Exception as failure:
                self.conn.rollback()
                failures.append(f"{number} {kind.__name__} {failure!r}"[:1000])
                continue
            counts = accepted if good else refused
            counts[kind.__name__] = counts.get(kind.__name__, 0) + 1
            if number % 100 == 99:
                self.leftovers()
        self.leftovers()
        self.assertFalse(failures, f"{len(failures)} of {MUTANTS} mutants with GA_TEST_SEED={SEED}:\n" + "\n".join(failures[:50]))
        self.assertEqual(self.helper.execute("SELECT pg_postmaster_start_time()").fetchone(), started)
        self.assertLess(self.memory() - before, MAX_MEMORY, "memory of the backend")
        self.assertGreater(sum(refused.values()), MUTANTS // 2)
        for kind in (identity, other_content) + ((swap, disorder) if MUTANTS > 1000 else ()):
            self.assertGreater(accepted.get(kind.__name__, 0), 0, kind.__name__)
        for kind in KINDS:
            if kind is not identity:
                self.assertGreater(refused.get(kind.__name__, 0), 0, kind.__name__)


if __name__ == "__main__":
    unittest.main()
