"""Exact nearest neighbours by a sequential scan, one process: 100,000 x 384 F32, the ten nearest."""

from __future__ import annotations

import statistics

import numpy as np
from gpuagent import Tensor
from measure import Action, Bench, Row, milliseconds

DIM = 384


def distances(bench: Bench) -> None:
    conn = bench.database("bench_distances")
    rows = 100_000
    data = bench.normal(rows, DIM)
    conn.execute(f"CREATE TABLE ours (id bigint, e gpuagent.embedding({DIM}))")
    with conn.cursor().copy("COPY ours FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "gpuagent.embedding"])
        for i in range(rows):
            copy.write_row((i, data[i]))
    conn.execute("VACUUM (FREEZE, ANALYZE) ours")
    have_pgvector = conn.execute("SELECT FROM pg_available_extensions WHERE name = 'vector'").fetchone() is not None
    if have_pgvector:
        load_pgvector(conn, data)

    for operator, label in (("<->", "L2"), ("<=>", "cosine")):
        actions = {"ours": Action(lambda q, op=operator: nearest(conn, op, q), lambda: bench.normal(DIM))}
        if have_pgvector:
            actions["pgvector"] = Action(
                lambda q, op=operator: nearest_pgvector(conn, op, q), lambda: bench.normal(DIM)
            )
            query = bench.normal(DIM)
            assert nearest(conn, operator, query) == nearest_pgvector(conn, operator, query)
        t = bench.interleave(actions)
        name = f"10 nearest of 100,000 x {DIM} by scan, {label}"
        if have_pgvector:
            bench.compare(name, t["ours"], t["pgvector"], "pgvector")
        else:
            bench.enter(Row(name, milliseconds(t["ours"]), "no anchor here (pgvector)", "-", "none set", "-"), t)
    conn.close()


def load_pgvector(conn, data: np.ndarray) -> None:
    conn.execute("CREATE SCHEMA pgvector")
    conn.execute("CREATE EXTENSION vector SCHEMA pgvector")
    conn.execute(f"CREATE TABLE theirs (id bigint, e pgvector.vector({DIM}))")
    conn.execute("INSERT INTO theirs SELECT id, (e::real[])::pgvector.vector FROM ours ORDER BY id")
    conn.execute("VACUUM (FREEZE, ANALYZE) theirs")


def nearest(conn, operator: str, query: np.ndarray) -> list[int]:
    got = conn.execute(
        f"SELECT id FROM ours ORDER BY e OPERATOR(gpuagent.{operator}) %b LIMIT 10", (Tensor(query, type="embedding"),)
    )
    return [r[0] for r in got.fetchall()]


def nearest_pgvector(conn, operator: str, query: np.ndarray) -> list[int]:
    got = conn.execute(
        f"SELECT id FROM theirs ORDER BY e OPERATOR(pgvector.{operator}) %s::text::pgvector.vector LIMIT 10",
        (str(query.tolist()),),
    )
    return [r[0] for r in got.fetchall()]
