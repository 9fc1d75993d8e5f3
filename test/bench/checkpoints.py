"""Checkpoints of 10,000 agents and a swarm: the first, one after 1 % of the agents changed, one after nothing did."""

from __future__ import annotations

import time

from agents import N, Generation, store_ours
from measure import Bench, Times, byte_count, milliseconds, one, wal_bytes


def checkpoints(bench: Bench) -> None:
    conn = bench.database("bench_checkpoints")
    g = Generation(bench)
    store_ours(conn, g)
    conn.execute("SELECT gpuagent.store_swarm('pop', %b)", (bench.normal(N, 256),))
    conn.execute("VACUUM (ANALYZE) gpuagent.agent")
    tables = ("gpuagent.checkpoint_item", *(f"gpuagent_store.checkpoint_{kind}" for kind in ("agent", "node", "edge", "metric")))
    stages = ("first", "changed", "unchanged")
    seconds = {s: Times() for s in stages}
    wal: dict[str, list[float]] = {s: [] for s in stages}
    rows: dict[str, list[float]] = {s: [] for s in stages}

    def contents() -> int:
        """Rows in the tables of contents; the checkpoint itself is one row in any case."""
        return sum(int(one(conn, f"SELECT count(*) FROM {t}")[0]) for t in tables)

    def remove_all() -> None:
        conn.execute("SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint ORDER BY id DESC")
        assert contents() == 0
        for table in tables:
            conn.execute(f"VACUUM {table}")

    def create(stage: str, keep: bool) -> None:
        rows_before, wal_before = contents(), wal_bytes(conn)
        cpu, start = bench.cpu(), time.perf_counter()
        conn.execute("SELECT gpuagent.create_checkpoint(%s)", (stage,))
        elapsed, cpu = time.perf_counter() - start, bench.cpu() - cpu
        if keep:
            seconds[stage].append(elapsed)
            seconds[stage].cpu.append(cpu)
            wal[stage].append(wal_bytes(conn) - wal_before)
            rows[stage].append(contents() - rows_before)

    for rep in range(bench.reps + 1):
        remove_all()
        create("first", rep > 0)
        some = sorted(bench.rng.choice(N, N // 100, replace=False).tolist())
        conn.execute(
            "SELECT gpuagent.store_agents(%b, %b, %b)",
            ([g.ids[i] for i in some], bench.normal(len(some), 256), bench.normal(len(some), 128)),
        )
        create("changed", rep > 0)
        create("unchanged", rep > 0)

    assert min(rows["first"]) > N and min(rows["changed"]) >= N // 100
    bench.compare(
        "checkpoint after 1 % of 10,000 agents changed, time",
        seconds["changed"], seconds["first"], "first checkpoint", 0.05,
    )  # fmt: skip
    bench.compare(
        "checkpoint after 1 % of 10,000 agents changed, WAL",
        wal["changed"], wal["first"], "first checkpoint", 0.05, byte_count,
    )  # fmt: skip
    bench.limit("checkpoint after nothing changed, time", seconds["unchanged"], 0.020, milliseconds, "< 20 ms")
    bench.limit(
        "checkpoint after nothing changed, rows of contents", rows["unchanged"], 0, lambda r: f"{max(r):.0f}", "0"
    )
    conn.close()
