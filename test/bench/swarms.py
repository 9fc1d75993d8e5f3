"""Swarms: store and read against rows of bytea of the same size, and the change of one row of a gigabyte."""

from __future__ import annotations

import statistics

import numpy as np
from measure import Action, Bench, Row, milliseconds, one, rate

MIB = 1 << 20
PIECE = 8_192  # rows of 1 kB; doc/performance.md says why large swarms go in pieces


def fresh(bench: Bench, data: np.ndarray) -> np.ndarray:
    """Changes some values of every MiB, so that no chunk is in the store already."""
    data.reshape(-1)[::4096] = bench.normal(len(range(0, data.size, 4096)))
    return data


def store_plain(conn, data: np.ndarray) -> None:
    raw = memoryview(data).cast("B")
    with conn.transaction():
        conn.cursor().executemany(
            "INSERT INTO plain (n, data) VALUES (%s, %b)",
            [(n, raw[at : at + MIB]) for n, at in enumerate(range(0, len(raw), MIB))],
        )


def read_plain(conn, width: int) -> np.ndarray:
    rows = conn.cursor(binary=True).execute("SELECT data FROM plain ORDER BY n").fetchall()
    return np.frombuffer(b"".join(r[0] for r in rows), np.float32).reshape(-1, width)


class Swarm:
    """One matrix, stored and read by both sides; its data change before each store."""

    def __init__(self, bench: Bench, conn, rows: int, in_pieces: bool):
        self.bench, self.conn, self.in_pieces = bench, conn, in_pieces
        self.data = bench.normal(rows, 256)

    def prepare(self) -> np.ndarray:
        return fresh(self.bench, self.data)

    def store(self, compression: str) -> Action:
        def run(data):
            if self.in_pieces:
                append(self.conn, "pop", data)
            else:
                self.conn.execute("SELECT gpuagent.store_swarm('pop', %b)", (data,))

        def prepare():
            self.conn.execute(f"SET gpuagent.compression = {compression}")
            return self.prepare()

        return Action(run, prepare)

    def store_plain(self) -> Action:
        return Action(lambda data: store_plain(self.conn, data), self.prepare)

    def read(self) -> np.ndarray:
        if not self.in_pieces:
            return one(self.conn, "SELECT gpuagent.retrieve_swarm('pop')")[0]
        got = self.conn.cursor(binary=True).execute("SELECT data FROM gpuagent.swarm_chunks('pop')")
        return np.concatenate([r[0] for r in got.fetchall()])

    def measure(self, label: str, compressions: tuple[str, ...], reps: int) -> None:
        anchor, show = "1 MiB rows of bytea EXTERNAL", rate(self.data.nbytes)
        self.conn.execute(
            "TRUNCATE gpuagent.swarm, gpuagent.swarm_version, gpuagent_store.chunk, gpuagent_store.node,"
            " gpuagent_store.tensor, plain"
        )
        stores = {c: self.store(c) for c in compressions}
        t = self.bench.interleave({**stores, "plain": self.store_plain()}, reps)
        for c in compressions:
            self.bench.compare(f"store {label}, compression {c}", t[c], t["plain"], anchor, None, show)
        self.conn.execute("TRUNCATE plain")
        store_plain(self.conn, self.prepare())
        reads = {"ours": Action(lambda _: self.read()), "plain": Action(lambda _: read_plain(self.conn, 256))}
        for c in compressions:
            stores[c].run(stores[c].prepare())
            assert np.array_equal(self.read(), self.data)
            t = self.bench.interleave(reads, reps)
            self.bench.compare(f"read {label}, compression {c}", t["ours"], t["plain"], anchor, None, show)


def append(conn, swarm: str, data: np.ndarray) -> None:
    """A version of a swarm in pieces, in one transaction."""
    with conn.transaction():
        for at in range(0, len(data), PIECE):
            conn.execute("SELECT gpuagent.append_swarm(%s, %b)", (swarm, data[at : at + PIECE]))


def store_and_read(bench: Bench) -> None:
    conn = bench.database("bench_swarms")
    conn.execute("CREATE TABLE plain (n bigint NOT NULL, data bytea NOT NULL)")
    conn.execute("ALTER TABLE plain ALTER COLUMN data SET STORAGE EXTERNAL")
    conn.execute("CREATE INDEX ON plain (n)")
    Swarm(bench, conn, 10_000, False).measure("a swarm of 10 MB", ("off", "on"), bench.reps)
    Swarm(bench, conn, 100_000, True).measure("a swarm of 100 MB, in pieces of 8 MB", ("off", "on"), 5)
    Swarm(bench, conn, 100_000, False).measure("a swarm of 100 MB, as one value", ("off",), 3)
    conn.close()


def patch(bench: Bench) -> None:
    """One row of a swarm of 1.024 GB changes; the anchor is what storing one chunk of 1 MiB takes by itself."""
    conn = bench.database("bench_patch")
    rows = 1_000_000
    append(conn, "big", bench.normal(rows, 256))

    def change(at_row):
        at, row = at_row
        conn.execute("SELECT gpuagent.store_swarm_rows('big', %s, %b)", (at, row))

    t = bench.interleave(
        {
            "rows": Action(change, lambda: (int(bench.rng.integers(1, rows + 1)), bench.normal(1, 256))),
            "chunk": Action(
                lambda d: conn.execute("SELECT gpuagent.store_chunk(%b)", (d,)), lambda: bench.normal(MIB // 4)
            ),
        },
        20 if bench.quick else 40,
    )
    beyond = (statistics.median(t["rows"]) - statistics.median(t["chunk"])) * 1e3
    bench.enter(
        Row(
            "new version of a 1 GB swarm, one row changed",
            milliseconds(t["rows"]),
            f"{milliseconds(t['chunk'])} store_chunk of 1 MiB",
            f"{beyond:+.1f} ms",
            "<= +10 ms",
            "met" if beyond <= 10 else "missed",
        ),
        t,
    )
    conn.close()
