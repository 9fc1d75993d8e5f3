"""Measures gpuagent against plain PostgreSQL and prints the table: bench.py [--quick] [PART...] (run.sh sets it up)."""

from __future__ import annotations

import importlib
import os
import sys

import psycopg
from measure import Bench

# A part is imported when it runs: some need packages that a machine with a GPU may lack.
PARTS = {
    "agents": "agents.bulk",
    "points": "agents.points",
    "cache": "cache.inside",
    "cache_writers": "cache.writers",
    "swarms": "swarms.store_and_read",
    "patch": "swarms.patch",
    "map": "maps.maps",
    "sync": "sync.write_back",
    "checkpoints": "checkpoints.checkpoints",
    "export": "exports.export",
    "restore": "exports.restore",
    "compression": "compression.compression",
    "deltas": "deltas.deltas",
    "distances": "distances.distances",
    "knn": "knn.knn",
    "knn_device": "knn_device.knn_device",
    "graphs": "graphs.graphs",
    "clients": "clients.clients",
}


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if a != "--quick"] or list(PARTS)
    unknown = [n for n in names if n not in PARTS]
    if unknown:
        sys.exit(f"there is no benchmark {unknown[0]!r}; there are {', '.join(PARTS)}")
    bench = Bench("--quick" in arguments)
    for name in names:
        print(f"== {name}", file=sys.stderr, flush=True)
        module, function = PARTS[name].split(".")
        getattr(importlib.import_module(module), function)(bench)
        with psycopg.connect(dbname="postgres", autocommit=True) as conn:
            conn.execute(f"DROP DATABASE IF EXISTS bench_{name}")
    print("\nTimes are medians; ratio = ours / anchor in time or bytes, so smaller is better.\n")
    print(bench.table())
    for file, text in (("table.md", bench.table()), ("measurements.json", bench.json())):
        with open(os.path.join(os.environ["GA_BENCH_OUT"], file), "w") as f:
            f.write(text + "\n")


main(sys.argv[1:])
