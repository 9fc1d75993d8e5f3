"""The index gpuknn against exact scans of pgvector, one session, the ten nearest: 100,000 x 768 and 200,000 x 384 F32, normal.

pgvector's anchors are those at which its exact scan is fastest: halfvec, and vector with STORAGE PLAIN. Its vector as it
is stored by default (TOAST, from 500 dimensions on) is shown, too.
"""

from __future__ import annotations

import statistics

import numpy as np
from gpuagent import Tensor
from measure import Action, Bench, Row, milliseconds

ANCHORS = {"halfvec": ("halfvec", "external"), "vector PLAIN": ("vector", "plain"), "vector": ("vector", "external")}


def knn(bench: Bench) -> None:
    conn = bench.database("bench_knn")
    available = conn.execute("SELECT FROM pg_available_extensions WHERE name = 'vector'").fetchone() is not None
    anchors = ANCHORS if available else {}
    if anchors:
        conn.execute("CREATE SCHEMA pgvector; CREATE EXTENSION vector SCHEMA pgvector")
    for rows, dim in ((100_000, 768), (200_000, 384)):
        load(bench, conn, anchors, rows, dim)
        search(bench, conn, anchors, rows, dim)
        join(bench, conn, anchors, rows, dim)
        build(bench, conn, rows, dim)
        conn.execute("DROP TABLE ours")
        for name in anchors:
            conn.execute(f'DROP TABLE "{name}"')
    conn.close()


def load(bench: Bench, conn, anchors, rows: int, dim: int) -> None:
    conn.execute(f"CREATE TABLE ours (id bigint, e embedding({dim}))")
    with conn.cursor().copy("COPY ours FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "gpuagent.embedding"])
        for i in range(rows):
            copy.write_row((i, bench.normal(dim)))
    for name, (type_, storage) in anchors.items():
        conn.execute(f'CREATE TABLE "{name}" (id bigint, e pgvector.{type_}({dim}))')
        conn.execute(f'ALTER TABLE "{name}" ALTER e SET STORAGE {storage}')
        conn.execute(f'INSERT INTO "{name}" SELECT id, (e::real[])::pgvector.vector FROM ours ORDER BY id')
        conn.execute(f'VACUUM (FREEZE, ANALYZE) "{name}"')
    conn.execute("CREATE INDEX ours_e ON ours USING gpuknn (e embedding_l2_ops)")
    conn.execute("VACUUM (FREEZE, ANALYZE) ours")


def search(bench: Bench, conn, anchors, rows: int, dim: int) -> None:
    def query() -> np.ndarray:
        return bench.normal(dim)

    actions = {"ours": Action(lambda q: nearest(conn, q), query)}
    for name, (type_, _) in anchors.items():
        actions[name] = Action(lambda q, n=name, t=type_: nearest_pgvector(conn, n, t, q), query)
        # F16 may tell near rows apart in another order; F32 sums may, too, but not here.
        if type_ == "vector":
            q = query()
            assert nearest(conn, q) == nearest_pgvector(conn, name, type_, q)
    plan = str(conn.execute("EXPLAIN SELECT id FROM ours ORDER BY e <-> %b LIMIT 10", (Tensor(query(), type="embedding"),)).fetchall())
    assert "ours_e" in plan
    t = bench.interleave(actions)
    name = f"10 nearest of {rows:,} x {dim}, gpuknn F16"
    if not anchors:
        bench.enter(Row(name, milliseconds(t["ours"]), "no anchor here (pgvector)", "-", "none set", "-"), t)
        return
    best = min(("halfvec", "vector PLAIN"), key=lambda n: statistics.median(t[n]))
    bench.compare(name, t["ours"], t[best], f"pgvector {best}", 1 / 3)
    for other in anchors:
        if other != best:
            bench.compare(name, t["ours"], t[other], f"pgvector {other}", 0.1 if other == "vector" and dim > 500 else None)


def join(bench: Bench, conn, anchors, rows: int, dim: int) -> None:
    """Many queries at a time, against as many single ones."""
    queries = 64

    def ask() -> np.ndarray:
        return bench.normal(queries, dim)

    def joined(q: np.ndarray) -> list[list[int]]:
        got = conn.execute(
            "SELECT array_agg(i.id ORDER BY n.distance) FROM knn_join('ours_e', %b, 10) n JOIN ours i ON i.ctid = n.tid GROUP BY n.query ORDER BY n.query",
            (Tensor(q, type="swarm_tensor"),),
        )
        return [r[0] for r in got.fetchall()]

    q = ask()
    assert joined(q) == [nearest(conn, v) for v in q]
    actions = {"ours": Action(joined, ask), "single": Action(lambda q: [nearest(conn, v) for v in q], ask)}
    if anchors:
        actions["halfvec"] = Action(lambda q: [nearest_pgvector(conn, "halfvec", "halfvec", v) for v in q], ask)
    t = bench.interleave(actions, reps=3)
    name = f"{queries} x 10 nearest of {rows:,} x {dim}, knn_join"
    bench.compare(name, t["ours"], t["single"], f"{queries} scans of gpuknn")
    if anchors:
        bench.compare(name, t["ours"], t["halfvec"], f"{queries} scans of pgvector halfvec", 0.1)


def build(bench: Bench, conn, rows: int, dim: int) -> None:
    def again(_=None):
        conn.execute("REINDEX INDEX ours_e")

    def copies(_=None):
        conn.execute("CREATE TABLE copy AS SELECT e FROM ours; CREATE TABLE copy_2 AS SELECT e FROM ours")

    t = bench.interleave({
        "build": Action(again),
        "copies": Action(copies, lambda: conn.execute("DROP TABLE IF EXISTS copy, copy_2")),
    }, reps=3)
    conn.execute("DROP TABLE copy, copy_2")
    bench.compare(f"build of gpuknn, {rows:,} x {dim}", t["build"], t["copies"], "two copies of the column", 1.0)
    size = conn.execute("SELECT pg_relation_size('ours_e')").fetchone()[0]
    bench.limit(f"index bytes / bytes of F16 vectors, {rows:,} x {dim}", [size / (rows * dim * 2)], 1.15,
                lambda v: f"{v[0]:.3f}", "<= 1.15")


def nearest(conn, query: np.ndarray) -> list[int]:
    got = conn.execute("SELECT id FROM ours ORDER BY e <-> %b LIMIT 10", (Tensor(query, type="embedding"),))
    return [r[0] for r in got.fetchall()]


def nearest_pgvector(conn, table: str, type_: str, query: np.ndarray) -> list[int]:
    got = conn.execute(
        f'SELECT id FROM "{table}" ORDER BY e OPERATOR(pgvector.<->) %s::text::pgvector.{type_} LIMIT 10', (str(query.tolist()),)
    )
    return [r[0] for r in got.fetchall()]
