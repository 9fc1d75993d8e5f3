"""Swarms: store and read against rows of bytea of the same size, and the change of one row of a gigabyte."""

from __future__ import annotations

import statistics

import numpy as np
from measure import Action, Bench, Row, milliseconds, one, rate

MIB = 1 << 20
PIECE = 16_384  # rows of 1 kB: what is larger goes in pieces, as doc/performance.md advises


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


def store_and_read(bench: Bench) -> None:
    conn = bench.database("bench_swarms")
    conn.execute("CREATE TABLE plain (n bigint PRIMARY KEY, data bytea NOT NULL)")
    conn.execute("ALTER TABLE plain ALTER COLUMN data SET STORAGE EXTERNAL")
    for rows, size in ((10_000, "10 MB"), (100_000, "100 MB")):
        data = bench.normal(rows, 256)
        reps = bench.reps if rows == 10_000 else 5

        def ours():
            conn.execute(
                "TRUNCATE gpuagent.swarm, gpuagent.swarm_version, gpuagent_store.chunk, gpuagent_store.node,"
                " gpuagent_store.tensor"
            )
            return fresh(bench, data)

        def plain():
            conn.execute("TRUNCATE plain")
            return fresh(bench, data)

        def store(compression):
            def run(d):
                if len(d) <= PIECE:
                    conn.execute("SELECT gpuagent.store_swarm('pop', %b)", (d,))
                else:
                    with conn.transaction():
                        for at in range(0, len(d), PIECE):
                            conn.execute("SELECT gpuagent.append_swarm('pop', %b)", (d[at : at + PIECE],))

            def prepare():
                conn.execute(f"SET gpuagent.compression = {compression}")
                return ours()

            return Action(run, prepare)

        stores = {"off": store("off"), "on": store("on"), "plain": Action(lambda d: store_plain(conn, d), plain)}
        t = bench.interleave(stores, reps)
        for compression in ("off", "on"):
            bench.compare(
                f"store a swarm of {size}{', in pieces' if rows > PIECE else ''}, compression {compression}",
                t[compression], t["plain"], "1 MiB rows of bytea EXTERNAL", None, rate(data.nbytes),
            )  # fmt: skip

        store_plain_once = stores["plain"]
        store_plain_once.run(store_plain_once.prepare())
        for compression in ("off", "on"):
            stores[compression].run(stores[compression].prepare())

            def read_ours():
                if rows <= PIECE:
                    return one(conn, "SELECT gpuagent.retrieve_swarm('pop')")[0]
                got = conn.cursor(binary=True).execute("SELECT start, data FROM gpuagent.swarm_chunks('pop')")
                return np.concatenate([r[1] for r in got.fetchall()])

            assert np.array_equal(read_ours(), data)
            t = bench.interleave(
                {"ours": Action(lambda _: read_ours()), "plain": Action(lambda _: read_plain(conn, 256))}, reps
            )
            bench.compare(
                f"read a swarm of {size}{', in pieces' if rows > PIECE else ''}, compression {compression}",
                t["ours"], t["plain"], "1 MiB rows of bytea EXTERNAL", None, rate(data.nbytes),
            )  # fmt: skip
    whole_value(bench, conn, data, store_plain_once)
    conn.close()


def whole_value(bench: Bench, conn, data: np.ndarray, plain: Action) -> None:
    """The same 100 MB as one value, which a driver has to send and to receive at once."""
    conn.execute("SET gpuagent.compression = off")
    t = bench.interleave({"ours": Action(lambda d: conn.execute("SELECT gpuagent.store_swarm('pop', %b)", (d,)), lambda: fresh(bench, data)), "plain": plain}, 3)
    bench.compare("- 100 MB stored as one parameter", t["ours"], t["plain"], "1 MiB rows of bytea EXTERNAL", None, rate(data.nbytes))
    t = bench.interleave({"ours": Action(lambda _: one(conn, "SELECT gpuagent.retrieve_swarm('pop')")), "plain": Action(lambda _: read_plain(conn, 256))}, 3)
    bench.compare("- 100 MB read as one value", t["ours"], t["plain"], "1 MiB rows of bytea EXTERNAL", None, rate(data.nbytes))


def patch(bench: Bench) -> None:
    """One row of a swarm of 1.024 GB changes; the anchor is what storing one chunk of 1 MiB takes by itself."""
    conn = bench.database("bench_patch")
    rows, step = 1_000_000, 50_000
    with conn.transaction():
        for _ in range(0, rows, step):
            conn.execute("SELECT gpuagent.append_swarm('big', %b)", (bench.normal(step, 256),))

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
