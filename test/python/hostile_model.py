"""What the files of an exported checkpoint contain, read without gpuagent: written against doc/formats.md.

`read(folder, level, cast)` gives a Content, or raises Refused with the stage that must refuse it: "manifest", "encoding",
"files" (what the manifest says of them) or "content" (what is in them).
"""
import base64
import binascii
import hashlib
import json
import re
import stat
import struct
import sys
from decimal import Decimal

from test_safetensors import by_package, has_duplicates
from test_store_hash import tensor_hash
from typewire import DTYPES, encode


sys.setrecursionlimit(20_000)      # a server takes JSON of some ten thousand levels


class Refused(Exception):
    def __init__(self, stage, why):
        super().__init__(stage, why)
        self.stage = stage


# ---- JSON, as jsonb has it ----

def parse(text, stage):
    """A JSON value; numbers as Decimal."""
    def constant(name):
        raise ValueError(name)

    def number(text):
        value = Decimal(text)
        if abs(value.adjusted()) > 100_000:
            raise ValueError("number out of range")
        return value

    try:
        value = json.loads(text, parse_constant=constant, parse_float=number, parse_int=number)
        render(value)
        return value
    except (ValueError, RecursionError) as error:
        raise Refused(stage, f"no JSON: {error}") from None


def render_string(s):
    if "\0" in s or any(0xD800 <= ord(c) < 0xE000 for c in s):
        raise ValueError("no text")
    short = {"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(short.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in s) + '"'


def render(value):
    """The text of a jsonb."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return render_string(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(render, value)) + "]"
    if isinstance(value, dict):
        keys = sorted(value, key=lambda k: (len(k.encode("utf-8", "surrogatepass")), k.encode("utf-8", "surrogatepass")))
        return "{" + ", ".join(f"{render_string(k)}: {render(value[k])}" for k in keys) + "}"
    text = format(value, "f")
    return text.lstrip("-") if value == 0 else text


def as_text(value):
    """The operator ->>."""
    return value if value is None or isinstance(value, str) else render(value)


def is_name(text):
    """1 to 255 bytes without control characters."""
    return text is not None and 1 <= len(text.encode()) <= 255 and not any(c < " " or c == "\x7f" for c in text)


# ---- digests of rows ----

def digest(*columns):
    """SHA-256 over (type, value) pairs; a value is None, or what the type's wire format is made from."""
    parts = []
    for kind, value in columns:
        if value is None:
            parts.append(struct.pack(">q", -1))
            continue
        if kind == "jsonb":
            data = b"\x01" + render(value).encode()
        elif kind == "text":
            data = value.encode()
        elif kind == "bigint":
            data = struct.pack(">q", value)
        elif kind == "float8":
            data = struct.pack(">Q", value)     # its bits
        else:
            data = value                        # bytea, uuid and tensors are bytes
        parts.append(struct.pack(">q", len(data)) + data)
    return hashlib.sha256(b"".join(parts)).digest()


def header_depth(data):
    """How deep the header of a safetensors file is nested."""
    def depth(value):
        below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if below is None else 1 + max(map(depth, below), default=0)
    length, = struct.unpack("<Q", data[:8])
    return depth(json.loads(data[8:8 + length]))


class Content:
    def __init__(self):
        self.rows = {"agent": {}, "node": {}, "edge": {}, "metric": {}, "item": {}}    # key: digest
        self.tensors = set()                                                            # hashes
        self.checkpoint = {}

    def add(self, kind, key, row, line):
        """A row of a file, which must have the digest that its line says."""
        try:
            said = bytes.fromhex(as_text(line.get("digest")))      # spaces may stand between bytes, as for the server
        except (TypeError, ValueError):
            said = None
        if said != row:
            raise Refused("content", f"{kind} {key} does not have its digest")
        if key in self.rows[kind] or any(part is None for part in key):
            raise Refused("content", f"{kind} {key} is there twice, or has no name")
        self.rows[kind][key] = row


class Reader:
    def __init__(self, folder, cast):
        self.folder = folder
        self.cast_text = cast
        self.listed = set()
        self.content = Content()
        self.references = []
        self.runs = set()       # of metrics
        self.shapes = {}        # of items: tensor, biases, body

    # ---- primitives ----

    def cast(self, kind, value):
        """What a text means as a value of a type of the server: its wire bytes, or None."""
        text = as_text(value)
        if text is None:
            return None
        wire = self.cast_text(kind, text)
        if wire is None:
            raise Refused("content", f"{text[:50]!r} is no {kind}")
        return {"bigint": lambda: struct.unpack(">q", wire)[0], "timestamptz": lambda: struct.unpack(">q", wire)[0],
                "float8": lambda: struct.unpack(">Q", wire)[0]}.get(kind, lambda: wire)()

    def bytes_of(self, name, stage="content"):
        path = self.folder / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise Refused(stage, f"{name} is no regular file")
            return path.read_bytes()
        except OSError as error:
            raise Refused(stage, f"{name}: {error}") from None

    def listed_bytes(self, name):
        if name not in self.listed:
            raise Refused("content", f"the manifest does not list {name}")
        return self.bytes_of(name)

    def lines(self, name):
        data = self.listed_bytes(name)
        if data and not data.endswith(b"\n"):
            raise Refused("content", f"{name} ends in a line that is not complete")
        try:
            texts = data.decode().split("\n")[:-1]
        except UnicodeDecodeError:
            raise Refused("content", f"{name} is no UTF-8") from None
        result = []
        for text in texts:
            if "\0" in text:
                raise Refused("content", f"{name} holds a zero byte")
            line = parse(text, "content")
            result.append(line if isinstance(line, dict) else {})
        return result

    def safetensors(self, data, stage="content"):
        try:
            tensors = by_package(data)
        except Exception as error:      # the package has several kinds
            raise Refused(stage, f"no safetensors: {error}") from None
        if has_duplicates(data) or any(len(shape) > 8 for _, shape, _ in tensors.values()) or header_depth(data) > 64 or \
                not data[8:8 + struct.unpack("<Q", data[:8])[0]].rstrip(b" ").endswith(b"}"):
            raise Refused(stage, "safetensors that we do not take")
        return tensors

    def vector(self, tensors, name, dtype, count):
        """Elements of a vector of 64 bits as integers of their bits; None where the file has none."""
        if name not in tensors or tensors[name][0] != dtype or len(tensors[name][1]) != 1 or tensors[name][1][0] != count:
            raise Refused("content", f"tensor {name} is not {count} of {dtype}")
        return struct.unpack(f"<{count}{'q' if dtype == 'I64' else 'Q'}", tensors[name][2])

    def matrix(self, tensors, name, count):
        """Rows of a matrix as wire bytes."""
        dtype, shape, data = tensors[name]
        if not shape or shape[0] != count or (count > 0 and len(data) % count != 0) or (count > 0 and not data):
            raise Refused("content", f"tensor {name} does not have {count} rows")
        width = len(data) // count if count else 0
        if width * 8 != DTYPES[dtype][1] * (len(data) * 8 // DTYPES[dtype][1] // count if count else 0):
            raise Refused("content", f"rows of {name} do not fill whole bytes")
        return [encode(dtype, shape[1:], data[i * width:(i + 1) * width]) for i in range(count)]

    def tensor_of_json(self, value):
        if not isinstance(value, dict):
            return None
        try:
            if not isinstance(value["shape"], list):
                raise ValueError
            dtype, shape = value["dtype"], [int(d) for d in value["shape"]]
            data = base64.b64decode("".join(value["data"].split()), validate=True)
            code = dtype.upper()
            bits = DTYPES[code][1]
            count = 1
            for d in shape:
                count *= d
            if count * bits != len(data) * 8 or min(shape, default=0) < 0 or len(shape) > 8:
                raise ValueError
            return encode(code, shape, data)
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, struct.error):
            raise Refused("content", "no tensor in JSON") from None

    # ---- sections ----

    def agents(self, section):
        names = [f["name"] for f in section["files"]]
        stem = re.sub(r"\.[a-z]+$", "", names[0])
        lines = self.lines(stem + ".jsonl")
        present = {as_text(t.get("name")) for t in section["tensors"] if isinstance(t, dict)}
        tensors = self.safetensors(self.listed_bytes(stem + ".safetensors")) if section["tensors"] else {}
        n = len(lines)

        def column(name, dtype=None):
            if name not in present:
                return [None] * n
            if name not in tensors:
                raise Refused("content", f"no tensor {name}")
            return self.matrix(tensors, name, n) if dtype is None else self.vector(tensors, name, dtype, n)

        states, memories = column("state"), column("memory")
        generations, fitness, versions = column("generation", "I64"), column("fitness", "F64"), column("version", "I64")
        for i, line in enumerate(lines):
            score = fitness[i]
            if score is not None and score & 0x7FF << 52 == 0x7FF << 52 and score & (1 << 52) - 1:
                score = None
            state = states[i] if states[i] is not None else self.tensor_of_json(line.get("state"))
            memory = memories[i] if memories[i] is not None else self.tensor_of_json(line.get("memory"))
            generation = generations[i] if generations[i] is not None else self.cast("bigint", line.get("generation"))
            score = score if score is not None else self.cast("float8", line.get("fitness"))
            version = versions[i] if versions[i] is not None else self.cast("bigint", line.get("version"))
            key = (as_text(line.get("id")),)
            row = digest(("text", key[0]), ("tensor", state), ("tensor", memory), ("bigint", generation), ("float8", score),
                         ("jsonb", line.get("metadata", None)), ("bigint", version), ("bigint", self.cast("timestamptz", line.get("created_at"))),
                         ("bigint", self.cast("timestamptz", line.get("updated_at"))), ("uuid", self.cast("uuid", line.get("origin"))))
            self.content.add("agent", key, row, line)
            if not self.covers("agents", key[0]):
                raise Refused("content", f"agent {key} is beyond the checkpoint's objects")

    def graph(self, section):
        graph = section["object"][6:]
        stem = re.sub(r"\.[a-z]+$", "", section["files"][0]["name"])
        if not self.covers(section["object"]):
            raise Refused("content", "graph beyond the checkpoint's objects")
        tensors = self.safetensors(self.listed_bytes(stem + ".safetensors"))
        present = {as_text(t.get("name")) for t in section["tensors"] if isinstance(t, dict)}
        nodes = self.lines(stem + ".nodes.jsonl")
        places = [line.get("embedding") is True for line in nodes]
        rows = iter(())
        if "embeddings" in present:
            if "embeddings" not in tensors:
                raise Refused("content", "no tensor embeddings")
            rows = iter(self.matrix(tensors, "embeddings", sum(places)))
        for line, has_row in zip(nodes, places):
            embedding = next(rows, None) if has_row else self.tensor_of_json(line.get("embedding"))
            key = (graph, as_text(line.get("id")))
            self.content.add("node", key, digest(
                ("text", graph), ("text", key[1]), ("tensor", embedding), ("jsonb", line.get("metadata")),
                ("bigint", self.cast("timestamptz", line.get("created_at")))), line)
        edges = self.lines(stem + ".edges.jsonl")
        self.graph_arrays(self.listed_bytes(stem + ".safetensors"), tensors, nodes, edges, [i for i, flag in enumerate(places) if flag], present)
        for line, weight in zip(edges, self.vector(tensors, "weights", "F64", len(edges))):
            key = (graph, *(as_text(line.get(k)) for k in ("source", "target", "edge_type")))
            self.content.add("edge", key, digest(
                *(("text", k) for k in key), ("float8", weight), ("jsonb", line.get("metadata")),
                ("bigint", self.cast("timestamptz", line.get("created_at")))), line)

    def graph_arrays(self, data, tensors, nodes, edges, embedded, present):
        """What other readers take the structure of the graph from, against the lines."""
        try:
            length, = struct.unpack("<Q", data[:8])
            types = parse(json.loads(data[8:8 + length]).get("__metadata__", {}).get("gpuagent.edge_types", ""), "content")
            assert isinstance(types, list)
        except (AssertionError, Refused):
            raise Refused("content", "edge types are no list") from None
        types = [as_text(t) for t in types]
        place = {as_text(line.get("id")): i for i, line in enumerate(nodes)}
        ends = [[place.get(as_text(line.get(k))) for k in ("source", "target")] for line in edges]
        names = [as_text(line.get("edge_type")) for line in edges]
        if len(place) != len(nodes) or any(None in pair for pair in ends) or any(types.count(n) != 1 for n in names):
            raise Refused("content", "nodes or edges that cannot be numbered")
        sources = [source for source, _ in ends]
        offsets = [sum(s < i for s in sources) for i in range(len(nodes) + 1)]
        if sources != sorted(sources) \
                or list(self.vector(tensors, "row_offsets", "I64", len(nodes) + 1)) != offsets \
                or list(self.vector(tensors, "col_indices", "I64", len(edges))) != [target for _, target in ends] \
                or list(self.vector(tensors, "edge_types", "I64", len(edges))) != [types.index(n) for n in names] \
                or (list(self.vector(tensors, "embedding_nodes", "I64", len(embedded))) if "embedding_nodes" in present else []) != embedded \
                or ("embeddings" not in present and embedded):
            raise Refused("content", "arrays are not those of the lines")

    def metrics(self, section):
        lines = self.lines("metrics.jsonl")
        tensors = self.safetensors(self.listed_bytes("metrics.safetensors"))
        columns = [self.vector(tensors, name, dtype, len(lines)) for name, dtype in (("id", "I64"), ("step", "I64"), ("value", "F64"))]
        if not self.covers("metrics"):
            raise Refused("content", "metrics beyond the checkpoint's objects")
        for line, number, step, value in zip(lines, *columns):
            self.runs.add(as_text(line.get("run")))
            self.content.add("metric", (number,), digest(
                ("bigint", number), ("text", as_text(line.get("run"))), ("text", as_text(line.get("key"))), ("bigint", step),
                ("float8", value), ("text", as_text(line.get("object"))), ("bigint", self.cast("timestamptz", line.get("recorded_at"))),
                ("bigint", self.cast("timestamptz", line.get("created_at")))), line)

    def items(self, section):
        for line in self.lines("items.jsonl"):
            try:
                hashes = [None if line.get(k) is None else bytes.fromhex(as_text(line[k])) for k in ("tensor", "biases")]
            except ValueError:
                raise Refused("content", "no hash") from None
            key = (as_text(line.get("object")), as_text(line.get("part")))
            self.content.add("item", key, digest(
                ("text", key[0]), ("text", key[1]), ("bigint", self.cast("bigint", line.get("version"))), ("bytea", hashes[0]),
                ("bytea", hashes[1]), ("jsonb", line.get("body"))), line)
            if not self.covers(key[0]):
                raise Refused("content", f"item {key} is beyond the checkpoint's objects")
            self.references += [h for h in hashes if h is not None]
            self.shapes[key] = (*hashes, line.get("body"))

    def stored_tensors(self, section):
        said = sorted(((as_text(t.get("name")), as_text(t.get("hash"))) for t in section["tensors"] if isinstance(t, dict)), key=repr)
        found = []
        for file in section["files"]:
            if file["name"].endswith(".safetensors"):
                for name, (dtype, shape, data) in self.safetensors(self.listed_bytes(file["name"])).items():
                    value = tensor_hash(dtype, shape, data)
                    found.append((name, value.hex()))
                    self.content.tensors.add(value)
        if said != sorted(found, key=repr) or len(said) != len(section["tensors"]):
            raise Refused("content", "tensors do not have their hashes")

    def covers(self, address, agent=None):
        if self.objects is None:
            return True
        if address == "agents":
            return any(agent is not None and agent.startswith(o[7:]) for o in self.objects if o.startswith("agents:")) or "agents" in self.objects
        return any(o in (address, (address or "").split(":")[0] + "s") for o in self.objects)

    def check_references(self):
        """What rows must be so that they can be restored."""
        rows = self.content.rows
        nodes = rows["node"]
        good = all(is_name(i) for i, in rows["agent"]) and all(is_name(i) and (f"graph:{g}", "") in rows["item"] for g, i in nodes)
        good = good and all((g, s) in nodes and (g, t) in nodes for g, s, t, _ in rows["edge"])
        good = good and all(("metrics", f"run:{run}") in rows["item"] for run in self.runs)
        for (address, part), (tensor, biases, body) in self.shapes.items():
            kind, _, name = address.partition(":")
            what, _, rest = part.partition(":")
            if kind in ("swarm", "graph"):
                fits = part == "" and (kind == "swarm" or tensor is None) and biases is None
            elif kind == "expert" and part.startswith("layer:"):
                fits = is_name(rest) and tensor is not None
            elif kind == "expert":
                fits = part in ("config", "state") and tensor is None and biases is None
            else:
                fits = address == "metrics" and part.startswith("run:") and is_name(rest) and tensor is None and biases is None
            good = good and fits and (kind == "metrics" or is_name(name)) and isinstance(body, dict)
        if not good:
            raise Refused("content", "rows that no checkpoint can have")

    # ---- the whole ----

    def manifest(self):
        data = self.bytes_of("MANIFEST.json", "manifest")
        try:
            lines = data.decode().split("\n")
        except UnicodeDecodeError:
            raise Refused("manifest", "no UTF-8") from None
        if "\0" in data.decode() or len(lines) != 4 or lines[0] != '{"manifest":' or lines[3] != "":
            raise Refused("manifest", "not three lines")
        if lines[2] != ',"sha256":"' + hashlib.sha256(lines[1].encode()).hexdigest() + '"}':
            raise Refused("manifest", "its SHA-256")
        manifest = parse(lines[1], "manifest")

        def require(condition, why):
            if not condition:
                raise Refused("manifest", why)

        require(isinstance(manifest, dict), "no object")
        require(as_text(manifest.get("format")) == "gpuagent checkpoint" and as_text(manifest.get("format_version")) == "1", "format")
        sections, checkpoint = manifest.get("sections"), manifest.get("checkpoint")
        require(isinstance(sections, list) and isinstance(checkpoint, dict), "sections")
        require(re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", as_text(checkpoint.get("uid")) or ""), "uid")
        objects = checkpoint.get("objects")
        require(objects is None or (isinstance(objects, list) and all(isinstance(o, str) for o in objects)), "objects")
        require(isinstance(checkpoint.get("metadata", {}), (dict, type(None))), "metadata")
        require(all(is_name(as_text(checkpoint[k])) for k in ("label", "run") if checkpoint.get(k) is not None), "label")
        for section in sections:
            require(isinstance(section, dict) and isinstance(section.get("object"), str), "section")
            require(all(isinstance(section.get(k), list) for k in ("tensors", "files")) and section["files"], "files")
            for file in section["files"]:
                require(isinstance(file, dict) and all(isinstance(file.get(k), (str, Decimal, bool)) for k in ("name", "nbytes", "sha256")), "file")
                file["name"] = as_text(file["name"])
                require(re.fullmatch("[A-Za-z0-9_][A-Za-z0-9._-]{0,254}", file["name"]), "name")
                require(re.fullmatch("[0-9]{1,18}", as_text(file["nbytes"])) and re.fullmatch("[0-9a-f]{64}", as_text(file["sha256"])), "file")
        return manifest

    def files(self, manifest, level):
        for section in manifest["sections"]:
            for file in section["files"]:
                data = self.bytes_of(file["name"], "files")
                if len(data) != int(as_text(file["nbytes"])):
                    raise Refused("files", f"size of {file['name']}")
                if level != "quick" and hashlib.sha256(data).hexdigest() != file["sha256"]:
                    raise Refused("files", f"SHA-256 of {file['name']}")
            if level == "deep":
                found = [(n, d, [Decimal(x) for x in s]) for f in section["files"] if f["name"].endswith(".safetensors")
                         for n, (d, s, _) in self.safetensors(self.bytes_of(f["name"], "files"), "files").items()]
                said = [(t.get("name"), t.get("dtype"), t.get("shape")) for t in section["tensors"] if isinstance(t, dict)]
                if sorted(map(repr, found)) != sorted(map(repr, said)) or len(said) != len(section["tensors"]):
                    raise Refused("files", f"tensors of {section['object']}")

    def read(self, level):
        manifest = self.manifest()
        if as_text(manifest.get("encoding")) != "UTF8":
            raise Refused("encoding", "encoding")
        self.files(manifest, level)
        checkpoint = manifest["checkpoint"]
        self.objects = checkpoint.get("objects")
        for o in self.objects or ():
            if not re.fullmatch(r"(?s)agents|graphs|swarms|experts|metrics|(agents|graph|swarm|expert):.+", o) or \
                    (":" in o and not is_name(o.split(":", 1)[1])):
                raise Refused("content", "an address")
        parts = {"agents": self.agents, "graph": self.graph, "metrics": self.metrics, "items": self.items,
                 "swarm": self.stored_tensors, "expert": self.stored_tensors}
        for section in sorted(manifest["sections"], key=lambda s: s["object"] == "items"):
            kind = section["object"].split(":")[0]
            if kind not in parts:
                raise Refused("content", "an unknown section")
            self.listed = {f["name"] for f in section["files"]}
            parts[kind](section)
        if not set(self.references) <= self.content.tensors:
            raise Refused("content", "a tensor that is in no file")
        self.check_references()
        self.content.checkpoint = {
            "uid": checkpoint["uid"], "label": as_text(checkpoint.get("label")), "run": as_text(checkpoint.get("run")),
            "step": self.cast("bigint", checkpoint.get("step")), "metadata": render(checkpoint.get("metadata") or {}),
            "objects": self.objects, "created_at": self.cast("timestamptz", checkpoint.get("created_at")),
            "origin": self.cast("uuid", checkpoint.get("origin"))}
        return self.content


def read(folder, level, cast):
    return Reader(folder, cast).read(level)
