"""Versions that differ a little everywhere: their bytes and times beside whole versions, chains, and compaction."""

from __future__ import annotations

import statistics
import time
from typing import Iterator

import numpy as np
from compression import model_file
from measure import Action, Bench, Row, milliseconds, one
from safetensors import safe_open

TENSOR = "gpuagent.tensor(%s, ARRAY[%s::bigint], %b)"
STORE = f"SELECT gpuagent.store_weights(%s, 'layer', {TENSOR})"


def weights() -> np.ndarray:
    """32 MB of real F32 weights: of an extract the same ones again, each time times numbers near 1, so that none repeats."""
    with safe_open(model_file()[0], "numpy") as tensors:
        parts = [tensors.get_tensor(k).ravel() for k in tensors.keys()]
    flat = np.concatenate([p for p in parts if p.dtype == np.float32 and p.size > 100_000])
    rng = np.random.default_rng(1)
    copies = [flat] + [noise(flat, 0.05, rng) for _ in range((8 << 20) // flat.size)]
    return np.concatenate(copies)[: 8 << 20]


def training(steps: int, rate: float = 1e-4, warm: int = 40) -> Iterator[np.ndarray]:
    """Weights of an autoencoder of the model's word vectors after each step of Adam, once it has learned something."""
    rng = np.random.default_rng(4)
    with safe_open(model_file()[0], "numpy") as tensors:
        name = next(k for k in tensors.keys() if k.endswith("word_embeddings.weight"))
        words = tensors.get_tensor(name)[:4000].astype(np.float32)
    words /= words.std()
    width, hidden = words.shape[1], 1024
    flat = (rng.standard_normal(2 * width * hidden) * 0.05).astype(np.float32)
    momentum, square = np.zeros_like(flat), np.zeros_like(flat)
    for step in range(1, warm + steps + 1):
        first, second = flat[: width * hidden].reshape(width, hidden), flat[width * hidden :].reshape(hidden, width)
        x = words[rng.integers(len(words), size=128)]
        h = np.maximum(x @ first, 0)
        error = (h @ second - x) / x.size
        gradient = np.concatenate([(x.T @ ((error @ second.T) * (h > 0))).ravel(), (h.T @ error).ravel()])
        momentum += 0.1 * (gradient - momentum)
        square += 0.001 * (gradient * gradient - square)
        size = 1e-3 if step <= warm else rate
        flat = flat - size * (momentum / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        flat = flat.astype(np.float32)
        if step > warm:
            yield flat


def noise(data: np.ndarray, step: float, rng) -> np.ndarray:
    return (data * (1 + step * rng.standard_normal(data.size, dtype=np.float32))).astype(np.float32)


def encode(data: np.ndarray, dtype: str) -> bytes:
    """F32 as it is; BF16 rounded to the nearest even."""
    if dtype == "F32":
        return data.tobytes()
    bits = data.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()


class Store:
    def __init__(self, conn):
        self.conn = conn

    def clear(self) -> None:
        self.conn.execute("TRUNCATE gpuagent_store.chunk, gpuagent_store.chunk_delta, gpuagent_store.node, gpuagent_store.tensor,"
                          " gpuagent_store.compact_pending, gpuagent_store.compact_tensor, gpuagent.expert, gpuagent.swarm CASCADE")

    def put(self, expert: str, raw: bytes, dtype: str) -> None:
        self.conn.execute(STORE, (expert, dtype, len(raw) // (4 if dtype == "F32" else 2), raw))

    def bytes(self) -> int:
        return int(one(self.conn, "SELECT stored_bytes FROM gpuagent.storage_stats() WHERE kind = 'store'")[0])


def sizes(bench: Bench, store: Store, data: np.ndarray) -> None:
    steps = {f"noise of {s:g}": noise(data, s, bench.rng) for s in (1e-2, 1e-3, 1e-4)}
    sparse = data.copy()
    sparse.reshape(-1, 512)[::20] *= 1.001
    steps["5 % of rows"] = sparse
    trained = list(training(11))
    steps["one step of Adam"] = trained[1]
    steps["ten steps of Adam"] = trained[10]
    aims = {("BF16", "noise of 0.001"): 0.25, ("F32", "5 % of rows"): 0.04, ("BF16", "5 % of rows"): 0.04}
    for dtype in ("F32", "BF16"):
        for name, after in steps.items():
            before, after = (encode(v, dtype) for v in (trained[0] if "Adam" in name else data, after))
            store.clear()
            store.put("m", before, dtype)
            whole = store.bytes()
            store.put("m", after, dtype)
            ours = store.bytes() - whole
            aim = aims.get((dtype, name))
            bench.enter(Row(f"bytes of a {dtype} version after {name}", f"{ours / len(after):.1%} of raw", f"{whole / len(before):.1%} the one before, whole",
                            f"{ours / whole:.2f}", f"<= {aim:.0%} of raw" if aim else "none set", "-" if not aim else "met" if ours <= aim * len(after) else "missed"),
                        {"raw": len(after), "stored": ours, "whole": whole})


def times(bench: Bench, store: Store, data: np.ndarray) -> None:
    for dtype, step in (("F32", 1e-2), ("F32", 1e-3), ("BF16", 1e-3)):
        def prepare(version: bool):
            store.clear()
            base = noise(data, 1e-2, bench.rng)
            after = encode(noise(base, step, bench.rng), dtype)
            store.put("m", encode(base, dtype), dtype)
            store.conn.execute("CHECKPOINT")
            return "m" if version else "new", after

        def run(prepared):
            store.put(prepared[0], prepared[1], dtype)

        def read(prepared):
            store.conn.execute("SELECT gpuagent_store.tensor_problem(weights) FROM gpuagent.weight_version WHERE expert = %s ORDER BY version DESC LIMIT 1", (prepared[0],))

        def stored(version: bool):
            prepared = prepare(version)
            run(prepared)
            return prepared

        t = bench.interleave({"delta": Action(run, lambda: prepare(True)), "whole": Action(run, lambda: prepare(False))}, 3 if bench.quick else 7)
        bench.compare(f"store a version of {len(encode(data, dtype)) >> 20} MB, {dtype}, step of {step:g}", t["delta"], t["whole"], "without a version before", 1.1)
        t = bench.interleave({"delta": Action(read, lambda: stored(True)), "whole": Action(read, lambda: stored(False))}, 3 if bench.quick else 7)
        bench.compare(f"read and verify it, {dtype}, step of {step:g}", t["delta"], t["whole"], "stored whole")


def chain(bench: Bench, store: Store) -> None:
    versions = list(training(100))
    for dtype in ("F32", "BF16"):
        for keep in (100, 10):
            store.clear()
            store.conn.execute("INSERT INTO gpuagent.swarm (swarm, keep_versions) VALUES ('s', %s)", (keep,))
            for version in versions:
                raw = encode(version, dtype)
                store.conn.execute(f"SELECT gpuagent.store_swarm('s', {TENSOR})", (dtype, len(raw) // (4 if dtype == "F32" else 2), raw))
            # What a collector removes: all that no version reaches and no delta needs.
            kinds = dict(store.conn.execute("SELECT kind, stored_bytes FROM gpuagent.storage_stats()").fetchall())
            whole = int(one(store.conn, "SELECT count(*) FROM gpuagent_store.chunk")[0])
            total = kinds["store"] - kinds["garbage"]
            bench.enter(Row(f"bytes of {keep} versions of {len(raw) / 1e6:.1f} MB, {dtype}, a step of Adam each", f"{total / keep / len(raw):.1%} of raw",
                            f"{kinds['bases'] / keep / len(raw):.1%} in bases without a version", "-", "none set", "-"),
                        {"stored": total, "bases": kinds["bases"], "whole_chunks": whole, "raw": keep * len(raw)})


def codec(bench: Bench, conn, data: np.ndarray) -> None:
    """One core; what it takes to read the value, check its checksum and copy it is subtracted."""
    conn.execute("CREATE TABLE value (name text, raw gpuagent.swarm_tensor, packed gpuagent.swarm_tensor)")
    conn.execute("ALTER TABLE value ALTER raw SET STORAGE EXTERNAL, ALTER packed SET STORAGE EXTERNAL")
    for dtype in ("F32", "BF16"):
        raw = encode(data, dtype)
        conn.execute(f"INSERT INTO value SELECT %s, t, gpuagent.compress(t) FROM (SELECT {TENSOR} AS t) v", (dtype, dtype, len(raw) // (4 if dtype == "F32" else 2), raw))
        query = {
            "raw": "SELECT octet_length(gpuagent.tensor_bytes(raw)) FROM value WHERE name = %s",
            "compress": "SELECT pg_column_size(gpuagent.compress(raw)) FROM value WHERE name = %s",
            "decompress": "SELECT octet_length(gpuagent.tensor_bytes(packed)) FROM value WHERE name = %s",
        }
        t = bench.interleave({name: Action(lambda _, sql=sql: conn.execute(sql, (dtype,))) for name, sql in query.items()})
        for name, aim in (("compress", 300), ("decompress", 800)):
            speed = len(raw) / 1e6 / max(statistics.median(t[name].cpu) - statistics.median(t["raw"].cpu), 1e-9)
            bench.enter(Row(f"{name} {dtype}, one core", f"{speed:.0f} MB/s", f"{len(raw) / 1e6 / statistics.median(t['raw'].cpu):.0f} MB/s read and checked raw", "-",
                            f">= {aim} MB/s", "met" if speed >= aim else "missed"), t[name])


def compaction(bench: Bench, store: Store, data: np.ndarray) -> None:
    """Two versions of F32 that were stored raw, with and without a parallel worker: to rows and deltas, then without the rows."""
    base = encode(data, "F32")
    after = encode(noise(data, 1e-3, bench.rng), "F32")
    measured: dict[int, list[float]] = {0: [], 1: []}
    for rep in range(3 if bench.quick else 5):
        for workers in (0, 1) if rep % 2 else (1, 0):
            store.clear()
            store.conn.execute("SET gpuagent.compression = off")
            store.put("m", base, "F32")
            store.put("m", after, "F32")
            store.conn.execute("RESET gpuagent.compression")
            store.conn.execute("CHECKPOINT")
            store.conn.execute(f"SET max_parallel_maintenance_workers = {workers}")
            start = time.perf_counter()
            store.conn.execute("SELECT gpuagent.compact_storage()")
            measured[workers].append(time.perf_counter() - start)
    before = store.bytes()
    for _ in range(2):
        store.conn.execute("SELECT gpuagent.compact_storage()")
    megabytes = 2 * len(base) / 1e6
    bench.compare(f"compact {megabytes:.0f} MB of F32 stored raw, two versions, with a parallel worker", measured[1], measured[0], "by one process", None, milliseconds)
    bench.enter(Row(f"bytes after it, {before / megabytes / 1e6:.1%} of raw before its last step", f"{store.bytes() / megabytes / 1e6:.1%} of raw", "-", "-", "none set", "-"),
                {"megabytes_per_second": {w: megabytes / statistics.median(t) for w, t in measured.items()}})


def deltas(bench: Bench) -> None:
    conn = bench.database("bench_deltas")
    store = Store(conn)
    data = weights()
    codec(bench, conn, data)
    sizes(bench, store, data)
    times(bench, store, data[: 4 << 20])
    chain(bench, store)
    compaction(bench, store, data)
    conn.close()
