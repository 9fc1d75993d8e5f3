"""Mapped swarms: a handle on memory that is there, and bringing a gigabyte of stored chunks to the device."""

from __future__ import annotations

import os
import sys
import threading
import time

import gpuagent
import psycopg
from measure import Action, Bench, milliseconds, one, rate
from swarms import append


class Readers:
    """As many sessions as there are cores; together they read and decode every chunk of a tensor once."""

    def __init__(self, database: str, tensor: bytes, chunks: int):
        cores = len(os.sched_getaffinity(0))
        share = -(-chunks // (cores * 4))
        self.tensor = tensor
        self.slices = [(at, share) for at in range(1, chunks + 1, share)]
        self.sessions = [psycopg.connect(dbname=database, autocommit=True) for _ in range(cores)]

    def work(self, conn: psycopg.Connection, left: list[tuple[int, int]]) -> None:
        while left:
            try:
                start, count = left.pop()
            except IndexError:
                return
            one(
                conn,
                "SELECT count(s.piece) FROM (SELECT gpuagent_store.tensor_chunk_rows(%s, %s, %s) AS piece OFFSET 0) s",
                (self.tensor, start, count),
            )

    def run(self, _: None) -> None:
        left = list(self.slices)
        threads = [threading.Thread(target=self.work, args=(conn, left)) for conn in self.sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        for conn in self.sessions:
            conn.close()


def joins(conn: psycopg.Connection, swarm: str, n: int) -> list[float]:
    """Seconds of each call that gets a handle on a swarm that is mapped already; each handle is given back."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        handle = one(conn, "SELECT handle FROM gpuagent.map_swarm(%s, 'r+')", (swarm,))[0]
        times.append(time.perf_counter() - start)
        conn.execute("SELECT gpuagent.unmap_handle(%s)", (handle,))
    return times[n // 10 :]


def cached_agents(bench: Bench) -> None:
    """10,000 states of 16 kB to a GPU: copied there from the device tier of the agent cache against sent, and cached."""
    conn = bench.database("bench_map_agents")
    if one(conn, "SELECT budget_bytes FROM gpuagent.cache_stats() WHERE tier = 'device'")[0] == 0:
        print("no GPU serves: no agents are mapped from the device tier of the cache", file=sys.stderr)
        conn.close()
        return
    conn.execute(
        "INSERT INTO gpuagent.agent (id, state) SELECT 'agent/' || i, gpuagent.tensor('F32', '{4096}',"
        " (SELECT string_agg(decode(md5(i || '/' || j), 'hex'), '') FROM generate_series(1, 1024) j))::gpuagent.agent_state"
        " FROM generate_series(1, 10000) i"
    )
    conn.execute("VACUUM (ANALYZE) gpuagent.agent")

    def run(_: None) -> None:
        conn.execute("SELECT gpuagent.unmap_handle(handle) FROM gpuagent.map_agents(device => 'cuda')")

    t = bench.interleave(
        {
            "cached": Action(run, lambda: run(None)),
            "sent": Action(run, lambda: conn.execute("SELECT gpuagent.evict_agents()") and None),
        },
        bench.reps,
    )
    bench.compare("map_agents of 10,000 cached states of 16 kB", list(t["cached"]), list(t["sent"]), "not cached")
    conn.close()


def maps(bench: Bench) -> None:
    cached_agents(bench)
    conn = bench.database("bench_map")
    gpuagent.register(conn)
    cores = len(os.sched_getaffinity(0))
    append(conn, "big", bench.normal(1_000_000, 256))
    append(conn, "small", bench.normal(8, 256))
    conn.execute("VACUUM ANALYZE gpuagent_store.chunk")
    conn.execute(f"SET max_parallel_maintenance_workers = {cores - 1}")
    for swarm, label in (("small", "8 kB"), ("big", "1 GB")):
        conn.execute("SELECT gpuagent.map_swarm(%s, 'r+', lease => '1 h')", (swarm,))
        times = joins(conn, swarm, 220 if bench.quick else 1100)
        bench.limit(f"handle on a swarm of {label} that is mapped", times, 1e-3, milliseconds, "< 1 ms")
        conn.execute("SELECT gpuagent.unmap_swarm(%s)", (swarm,))
    tensor, nbytes = one(
        conn,
        "SELECT t.hash, t.nbytes FROM gpuagent.swarm_version v JOIN gpuagent_store.tensor t ON t.hash = v.tensor"
        " WHERE v.swarm = 'big'",
    )
    readers = Readers("bench_map", bytes(tensor), -(-nbytes // (1 << 20)))
    t = bench.interleave(
        {
            "map": Action(
                lambda _: conn.execute("SELECT gpuagent.map_swarm('big')"),
                lambda: conn.execute("SELECT gpuagent.unmap_swarm('big')") and None,
            ),
            "read": Action(readers.run),
        },
        bench.reps,
    )
    device = one(conn, "SELECT device FROM gpuagent.stat_handle LIMIT 1")[0]
    # The processor time of other sessions and of workers is not known: plain lists show none.
    bench.compare(
        f"1 GB of chunks to {device}, {cores} cores",
        list(t["map"]),
        list(t["read"]),
        "decoded by a session per core",
        2,
        rate(nbytes),
    )
    readers.close()
    conn.close()
