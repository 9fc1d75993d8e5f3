"""Answers of gpuknn indexes against those of sequential scans: the same distances in the same order, the same rows wherever the last
distance is not tied. Every metric, storage, kind of data; writes and vacuum in between; few and many rows, with and without WHERE.
"""

import os
import random
import struct
import unittest

import numpy as np
import psycopg

import gpuagent
from gpuagent import Tensor

LONG = bool(os.environ.get("GA_TEST_LONG"))
METRICS = {"l2": "<->", "ip": "<#>", "cosine": "<=>", "l1": "<+>"}
STORAGES = ("f16", "f32", "int8")
# Zeros, denormals of F32 and F16, neighbours, what F16 cannot hold, what overflows when it is squared or added.
EDGES = np.array([0, -0.0, 1e-45, -3e-42, 1.2e-38, 5.9e-8, 6.1e-5, 1, 1 + 2**-23, -1, 0.1, 2049, 65504, 65520, -1e5, 1e19, -1e25, 3e38, -3e38],
                 dtype=np.float32)


def normal(rng, rows, dim):
    return rng.standard_normal((rows, dim), dtype=np.float32)


def clustered(rng, rows, dim):
    centres = normal(rng, 8, dim) * 10
    return centres[rng.integers(8, size=rows)] + normal(rng, rows, dim) * np.float32(0.01)


def duplicates(rng, rows, dim):
    return normal(rng, max(rows // 20, 2), dim)[rng.integers(max(rows // 20, 2), size=rows)]


def edges(rng, rows, dim):
    data = rng.choice(EDGES, (rows, dim))
    data[rng.random(rows) < 0.05] = 0
    return data


def scales(rng, rows, dim):
    return (normal(rng, rows, dim).astype(np.float64) * 10.0 ** rng.integers(-44, 37, size=(rows, 1))).astype(np.float32)


def near_ties(rng, rows, dim):
    data = np.tile(normal(rng, 1, dim), (rows, 1))
    for row in data:
        where = rng.integers(dim, size=2)
        row[where] = np.nextafter(row[where], np.float32(rng.choice([-9, 9])), dtype=np.float32)
    return data


KINDS = (normal, clustered, duplicates, edges, scales, near_ties)


def bits(distance):
    """What orders and tells apart distances: NaN last, NULL after it."""
    return (2, b"") if distance is None else (1, b"") if distance != distance else (0, struct.pack(">d", distance))


class Knn(unittest.TestCase):
    def setUp(self):
        self.seed = random.randrange(10**9) if LONG else 5
        self.rng = np.random.default_rng(self.seed)
        self.conn = psycopg.connect(autocommit=True, options="-c search_path=public,gpuagent -c client_min_messages=warning")
        self.addCleanup(self.conn.close)
        gpuagent.register(self.conn)
        self.conn.execute("DROP TABLE IF EXISTS knn")
        self.addCleanup(self.conn.execute, "DROP TABLE IF EXISTS knn")
        self.ids = 0

    def table(self, type_, rows, name="embedding"):
        self.conn.execute(f"DROP TABLE IF EXISTS knn; CREATE TABLE knn (id bigint, e {type_}, part int)")
        self.name = name
        self.insert(rows)

    def insert(self, rows):
        with self.conn.cursor().copy("COPY knn FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", f"gpuagent.{self.name}", "int4"])
            for row in rows:
                copy.write_row((self.ids, None if row is None else Tensor(row), int(self.rng.integers(4))))
                self.ids += 1

    def query(self, operator, vector, where="true", limit=None):
        """(distance, id) of the rows as the plan of the session gives them."""
        order = f"e OPERATOR(gpuagent.{operator}) %b::gpuagent.{self.name}"
        sql = f"SELECT id, {order} FROM knn WHERE {where} ORDER BY {order}" + (f" LIMIT {limit}" if limit else "")
        value = None if vector is None else Tensor(vector)
        return [(d, i) for i, d in self.conn.execute(sql, (value, value)).fetchall()], sql, (value, value)

    def check(self, metric, vectors, where="true", limits=(1, 10, 333, None)):
        operator = METRICS[metric]
        for vector in vectors:
            self.conn.execute("SET enable_indexscan = off; RESET enable_seqscan; RESET enable_sort")
            expected = sorted(self.query(operator, vector, where)[0], key=lambda r: bits(r[0])[0])
            values = dict((i, d) for d, i in expected)
            self.conn.execute("SET enable_indexscan = on; SET enable_seqscan = off; SET enable_sort = off")
            for limit in limits:
                with self.subTest(seed=self.seed, metric=metric, where=where, limit=limit):
                    got, sql, args = self.query(operator, vector, where, limit)
                    plan = "".join(r[0] for r in self.conn.execute("EXPLAIN (COSTS OFF) " + sql, args).fetchall())
                    self.assertIn("Index Scan using knn_index", plan)
                    self.same(expected, values, got, limit)

    def same(self, expected, values, got, limit):
        want = [bits(d) for d, _ in expected[:limit]]
        self.assertEqual([bits(d) for d, _ in got], want)
        self.assertEqual(len({i for _, i in got}), len(got), "a row came twice")
        for d, i in got:
            self.assertEqual(bits(values[i]), bits(d))
        if want:
            # Rows nearer than the last distance.
            self.assertEqual({i for d, i in got if bits(d) != want[-1]}, {i for d, i in expected[:limit] if bits(d) != want[-1]})

    def index(self, name, metric, storage, options=""):
        self.conn.execute(f"CREATE INDEX knn_index ON knn USING gpuknn (e {name}_{metric}_ops) WITH (storage = {storage}{options})")

    def sound(self):
        rows = self.conn.execute("SELECT gpuagent_store.check_gpuknn('knn_index')").fetchone()[0]
        self.assertGreaterEqual(rows, self.conn.execute("SELECT count(*) FROM knn").fetchone()[0])

    def change(self, kind, dim):
        """Some of everything, some vacuumed."""
        self.insert(kind(self.rng, 20, dim))
        self.insert([None] * 5)
        self.conn.execute("DELETE FROM knn WHERE id %% 7 = %s", [int(self.rng.integers(7))])
        self.conn.execute("UPDATE knn SET e = other.e FROM (SELECT e FROM knn ORDER BY id LIMIT 1) other WHERE id %% 11 = %s", [int(self.rng.integers(11))])
        self.conn.execute("UPDATE knn SET e = NULL WHERE id %% 13 = %s", [int(self.rng.integers(13))])
        if self.rng.random() < 0.7:
            self.vacuum()
        self.insert(kind(self.rng, 30, dim))
        self.insert([None] * 3)

    def vacuum(self):
        self.conn.execute("VACUUM (INDEX_CLEANUP on) knn")

    def run_case(self, dim, kind, metric, storage, dtype="F32", rounds=2):
        rows = max(min(600, 150_000 // dim), 4)
        self.table(f"embedding({dim}, {dtype})" if dtype != "F32" else f"embedding({dim})", kind(self.rng, rows, dim))
        self.index("embedding", metric, storage)
        for _ in range(rounds):
            queries = [kind(self.rng, 1, dim)[0], normal(self.rng, 1, dim)[0]]
            self.check(metric, queries)
            self.check(metric, queries[:1], where="part = 1", limits=(5, None))
            self.change(kind, dim)
        self.check(metric, [np.zeros(dim, dtype=np.float32), kind(self.rng, 1, dim)[0]])
        self.sound()

    def test_metrics_storages_and_data(self):
        for metric in METRICS:
            for storage in STORAGES:
                for kind in KINDS:
                    for dim in (1, 2, 5, 33, 384) if LONG else (int(self.rng.integers(1, 40)),):
                        with self.subTest(seed=self.seed, metric=metric, storage=storage, kind=kind.__name__, dim=dim):
                            self.run_case(dim, kind, metric, storage, rounds=2 if LONG else 1)

    def test_dimensions(self):
        """Slots that fill pages, cross one border, many, and those whose WAL takes several records."""
        dims = (1, 3, 4, 8, 255, 384, 768, 1024, 2032, 2040, 3000, 4072, 4096, 8170, 16384)
        for dim in dims:
            for storage in STORAGES:
                metric = self.rng.choice(list(METRICS))
                kind = KINDS[self.rng.integers(len(KINDS))]
                with self.subTest(seed=self.seed, metric=metric, storage=storage, kind=kind.__name__, dim=dim):
                    self.run_case(dim, kind, metric, storage, rounds=2 if LONG else 1)

    def test_largest_dimension(self):
        for storage in STORAGES:
            self.run_case(65535, normal, "l2", storage, rounds=1)

    def test_narrow_columns(self):
        for dtype in ("F16", "BF16"):
            for metric in METRICS:
                for storage in STORAGES:
                    self.run_case(24, clustered if dtype == "F16" else near_ties, metric, storage, dtype, rounds=1)

    def test_agent_state(self):
        """Every float dtype in one column, beyond the range of F32, infinities and NaN; shapes do not matter."""
        edge = np.array([0, 1, -2.5, 1e-320, 1e-200, 1e300, -1e308, np.inf, -np.inf, np.nan, 3e38, 0.1])
        for metric in METRICS:
            for storage in STORAGES:
                dim = 6
                wide = [self.rng.choice(edge, dim) if i % 3 else self.rng.standard_normal(dim) * 10.0 ** self.rng.integers(-300, 300) for i in range(150)]
                rows = wide + list(normal(self.rng, 150, dim)) + [r.astype(np.float16).reshape(2, 3) for r in normal(self.rng, 100, dim)] + [None] * 4
                self.table("agent_state", rows, name="agent_state")
                self.index("agent_state", metric, storage, f", dim = {dim}")
                self.check(metric, [wide[0], wide[1], rows[200], rows[350], np.zeros(dim)])
                self.insert(wide[:30])
                self.conn.execute("DELETE FROM knn WHERE id % 5 = 0")
                self.vacuum()
                self.insert(wide[30:60])
                self.check(metric, [wide[2], rows[201]])
                self.sound()

    def test_many_passes(self):
        """Little memory: pairs of several passes, one after the other."""
        self.conn.execute("SET work_mem = '64kB'")
        for kind in (normal, duplicates, near_ties):
            for storage in STORAGES:
                self.table("embedding(2)", kind(self.rng, 7000, 2))
                self.index("embedding", "l2", storage)
                self.check("l2", [normal(self.rng, 1, 2)[0]], limits=(999, 1000, 1001, 3048, 3049, None))
                self.check("l2", [normal(self.rng, 1, 2)[0]], where="part = 2", limits=(1000, None))

    def test_bounds_of_little_worth(self):
        """More rows than the executor may keep back: the scan computes values, and selects by value when these are too many."""
        for work_mem in ("64kB", "4MB"):
            self.conn.execute(f"SET work_mem = '{work_mem}'")
            for case in ("nothing is known", "one distance", "two"):
                rows = 14_000
                if case == "nothing is known":
                    data = [np.array([v]) for v in self.rng.standard_normal(rows) * 1e300]
                elif case == "one distance":
                    data = [np.array([0.1])] * rows
                else:
                    data = [np.array([v]) for v in self.rng.choice([0.1, 0.7], rows)]
                self.table("agent_state", data, name="agent_state")
                self.index("agent_state", "l2", "f16", ", dim = 1")
                self.check("l2", [np.array([1e299 if case == "nothing is known" else 0.3])], limits=(9_999, 10_001, 12_500, None))

    def test_null_query(self):
        self.table("embedding(3)", list(normal(self.rng, 500, 3)) + [None] * 300)
        self.index("embedding", "l2", "f16")
        self.conn.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        got, _, _ = self.query("<->", None)
        self.assertEqual(sorted(i for _, i in got), list(range(800)))
        self.assertEqual({d for d, _ in got}, {None})

    def test_nulls_come_and_go(self):
        """Slots of tids: filled, emptied, filled again, given back."""
        self.table("embedding(16)", [None] * 1000)
        self.index("embedding", "l2", "f32")
        size = "SELECT pg_relation_size('knn_index')"
        before = self.conn.execute(size).fetchone()[0]
        for _ in range(4):
            self.conn.execute("DELETE FROM knn WHERE id % 3 <> 0")
            self.vacuum()
            self.sound()
            self.insert([None] * (1000 - self.conn.execute("SELECT count(*) FROM knn").fetchone()[0]))
            self.sound()
        self.assertEqual(self.conn.execute(size).fetchone()[0], before)
        self.conn.execute("DELETE FROM knn")
        self.vacuum()
        self.insert(normal(self.rng, 50, 16))
        self.sound()
        self.assertEqual(self.conn.execute(size).fetchone()[0], before)
        self.check("l2", [normal(self.rng, 1, 16)[0]])

    def test_parallel_build(self):
        """Workers scan and encode: all rows are there once, an error of theirs is the build's."""
        self.table("embedding", list(normal(self.rng, 5000, 90)) + [None] * 700)
        self.conn.execute("ALTER TABLE knn SET (parallel_workers = 2); SET max_parallel_maintenance_workers = 2")
        for concurrently in ("", "CONCURRENTLY"):
            for storage in STORAGES:
                self.conn.execute("DROP INDEX IF EXISTS knn_index")
                self.conn.execute(f"CREATE INDEX {concurrently} knn_index ON knn USING gpuknn (e embedding_l2_ops) WITH (dim = 90, storage = {storage})")
                self.assertEqual(self.conn.execute("SELECT gpuagent_store.check_gpuknn('knn_index')").fetchone()[0], 5700)
                self.check("l2", [normal(self.rng, 1, 90)[0]], limits=(10, None))
        self.conn.execute("DROP INDEX knn_index")
        self.insert([np.zeros(91, dtype=np.float32)])
        with self.assertRaises(psycopg.errors.DataException):
            self.index("embedding", "l2", "f16", ", dim = 90")

    def test_rescans_and_cursors(self):
        self.table("embedding(4)", normal(self.rng, 2000, 4))
        self.index("embedding", "l2", "f16")
        sql = ("SELECT q.id, array_agg(n.d) FROM (SELECT id, e FROM knn WHERE id < 20) q, LATERAL "
               "(SELECT q.e <-> knn.e AS d FROM knn ORDER BY knn.e <-> q.e LIMIT 7) n GROUP BY 1 ORDER BY 1")
        self.conn.execute("SET enable_indexscan = off")
        expected = self.conn.execute(sql).fetchall()
        self.conn.execute("SET enable_indexscan = on; SET enable_seqscan = off; SET enable_sort = off")
        self.assertIn("knn_index", str(self.conn.execute("EXPLAIN " + sql).fetchall()))
        self.assertEqual(self.conn.execute(sql).fetchall(), expected)

        # A cursor sees what was there when it was opened, whatever others do and vacuum removes.
        with self.conn.transaction():
            self.conn.execute("DECLARE c CURSOR FOR SELECT id FROM knn ORDER BY e <-> '[0,0,0,0]'")
            first = [r[0] for r in self.conn.execute("FETCH 500 FROM c").fetchall()]
            with psycopg.connect(autocommit=True) as other:
                other.execute("DELETE FROM knn WHERE id % 2 = 0")
                other.execute("VACUUM (INDEX_CLEANUP on) knn")
                other.execute("INSERT INTO knn SELECT id + 10000, e FROM knn")
            rest = [r[0] for r in self.conn.execute("FETCH ALL FROM c").fetchall()]
        self.assertEqual(sorted(first + rest), list(range(2000)))
        self.check("l2", [np.zeros(4, dtype=np.float32)])
        self.sound()


if __name__ == "__main__":
    unittest.main()
