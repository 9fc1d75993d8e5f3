"""knn_join() against LATERAL (... ORDER BY distance, ctid LIMIT k) over a sequential scan: the same rows, distances and order, bit for bit."""

import os
import random
import struct
import unittest

import numpy as np
import psycopg
from test_knn import KINDS, METRICS, STORAGES, normal

import gpuagent
from gpuagent import Tensor

LONG = bool(os.environ.get("GA_TEST_LONG"))


def bits(rows):
    return [(q, tid, b"NaN" if d != d else struct.pack(">d", d)) for q, tid, d in rows]


class KnnJoin(unittest.TestCase):
    def setUp(self):
        self.seed = random.randrange(10**9) if LONG else 11
        self.rng = np.random.default_rng(self.seed)
        self.conn = self.connect()
        self.conn.execute("DROP TABLE IF EXISTS near")
        self.addCleanup(self.conn.execute, "DROP TABLE IF EXISTS near")

    def connect(self):
        conn = psycopg.connect(autocommit=True, options="-c search_path=public,gpuagent -c client_min_messages=warning")
        self.addCleanup(conn.close)
        gpuagent.register(conn)
        return conn

    def table(self, type_, rows):
        self.conn.execute(f"DROP TABLE IF EXISTS near; CREATE TABLE near (id bigint, e {type_}, note text)")
        self.type = type_.split("(")[0]
        self.insert(rows)

    def insert(self, rows):
        with self.conn.cursor().copy("COPY near (id, e) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", f"gpuagent.{self.type}"])
            for i, row in enumerate(rows):
                copy.write_row((i, None if row is None else Tensor(row)))

    def index(self, metric, storage, more=""):
        self.conn.execute(f"DROP INDEX IF EXISTS near_e; CREATE INDEX near_e ON near USING gpuknn (e {self.type}_{metric}_ops) WITH (storage = {storage}{more}")

    def join(self, queries, k, conn=None):
        return (conn or self.conn).execute("SELECT query, tid::text, distance FROM knn_join('near_e', %b::swarm_tensor, %s)",
                                           (Tensor(queries, type="swarm_tensor"), k)).fetchall()

    def expected(self, metric, queries, k, where="true", conn=None):
        conn = conn or self.conn
        sql = (f"SELECT ctid::text, e OPERATOR(gpuagent.{METRICS[metric]}) %b::gpuagent.agent_state::gpuagent.{self.type} AS d FROM near "
               f"WHERE e IS NOT NULL AND {where} ORDER BY d, near.ctid LIMIT %s")
        found = []
        with conn.transaction():
            conn.execute("SET LOCAL enable_indexscan = off")
            for i, q in enumerate(queries):
                found += [(i + 1, tid, d) for tid, d in conn.execute(sql, (Tensor(q, type="agent_state"), k)).fetchall()]
        return found

    def check(self, metric, queries, ks=(1, 10, 97, 5000), **o):
        for k in ks:
            with self.subTest(seed=self.seed, metric=metric, k=k):
                self.assertEqual(bits(self.join(queries, k, o.get("conn"))), bits(self.expected(metric, queries, k, **o)))

    def test_metrics_storages_and_data(self):
        for metric in METRICS:
            for storage in STORAGES:
                for kind in KINDS:
                    dim = int(self.rng.integers(1, 40))
                    with self.subTest(seed=self.seed, metric=metric, storage=storage, kind=kind.__name__, dim=dim):
                        self.table(f"embedding({dim})", list(kind(self.rng, 500, dim)) + [None] * 7)
                        self.index(metric, storage, ")")
                        queries = np.concatenate([kind(self.rng, 4, dim), normal(self.rng, 3, dim), np.zeros((1, dim), np.float32)])
                        self.check(metric, queries, ks=(1, 10, 600))
                        # Tids of the table that are not those of the index, and slots used again.
                        self.conn.execute("UPDATE near SET note = 'moved' WHERE id % 3 = 0; DELETE FROM near WHERE id % 7 = 0")
                        self.check(metric, queries, ks=(10,))
                        self.conn.execute("VACUUM (INDEX_CLEANUP on) near")
                        self.insert(kind(self.rng, 60, dim))
                        self.conn.execute("UPDATE near SET e = (SELECT e FROM near WHERE e IS NOT NULL LIMIT 1) WHERE id % 11 = 0")
                        self.check(metric, queries, ks=(10, 600))

    def test_dimensions(self):
        """Records that fill pages, cross one border, cross many."""
        for dim in (1, 3, 8, 768, 2032, 4072, 8170, 65535):
            for storage in STORAGES:
                with self.subTest(dim=dim, storage=storage):
                    self.table(f"embedding({dim})", normal(self.rng, max(4, min(700, 200_000 // dim)), dim))
                    self.index("l2", storage, ")")
                    self.check("l2", normal(self.rng, 5, dim), ks=(3,))

    def test_dtypes_of_queries(self):
        data = normal(self.rng, 400, 6)
        for dtype in (np.float64, np.float32, np.float16):
            self.table("agent_state", data)
            self.index("cosine", "f16", ", dim = 6)")
            self.check("cosine", normal(self.rng, 9, 6).astype(dtype), ks=(5,))
        wide = self.rng.standard_normal((300, 4)) * 10.0 ** self.rng.integers(-300, 300, size=(300, 1))
        wide[5, 1], wide[6, 2], wide[7, 3] = np.nan, np.inf, -np.inf
        self.table("agent_state", list(wide))
        for metric in METRICS:
            for storage in STORAGES:
                self.index(metric, storage, ", dim = 4)")
                self.check(metric, wide[:12], ks=(10, 400))

    def test_one_query(self):
        self.table("embedding(5)", normal(self.rng, 100, 5))
        self.index("l2", "f16", ")")
        q = normal(self.rng, 1, 5)
        self.assertEqual(self.join(q[0], 7), self.join(q, 7))
        self.assertEqual(len(self.join(q, 7)), 7)

    def test_little_memory(self):
        """Many blocks of queries, many passes: bounds worth nothing, one distance."""
        self.conn.execute("SET work_mem = '64kB'")
        for case in ("ordinary", "nothing is known", "one distance"):
            rows = 3000
            data = self.rng.standard_normal((rows, 2)) * (1 if case == "ordinary" else 1e300)
            if case == "one distance":
                data = np.full((rows, 2), 0.1)
            self.table("agent_state", list(data))
            self.index("l2", "f16", ", dim = 2)")
            self.check("l2", data[:40] * 1.5, ks=(1, 200))

    def test_partial_index(self):
        self.table("embedding(8)", normal(self.rng, 500, 8))
        self.index("ip", "int8", ") WHERE id % 3 = 1")
        self.check("ip", normal(self.rng, 6, 8), ks=(10, 600), where="id %% 3 = 1")

    def test_nothing_to_find(self):
        self.table("embedding(3)", [])
        self.index("l2", "f16", ")")
        self.assertEqual(self.join(normal(self.rng, 3, 2), 5), [])
        self.insert([None, None])
        self.assertEqual(self.join(normal(self.rng, 3, 3), 5), [])
        self.insert(normal(self.rng, 5, 3))
        self.assertEqual(self.join(normal(self.rng, 3, 3), 0), [])
        self.assertEqual(self.join(np.zeros((0, 3), np.float32), 5), [])
        self.assertEqual(len(self.join(normal(self.rng, 2, 3), 2**62)), 10)

    def test_snapshot(self):
        self.table("embedding(4)", normal(self.rng, 800, 4))
        self.index("l2", "f16", ")")
        queries = normal(self.rng, 5, 4)
        other = self.connect()
        with self.conn.transaction():
            self.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            before = self.join(queries, 20)
            other.execute("DELETE FROM near WHERE id % 2 = 0; UPDATE near SET e = '[0,0,0,0]' WHERE id % 5 = 1")
            other.execute("VACUUM (INDEX_CLEANUP on) near")
            other.execute("INSERT INTO near SELECT id, e FROM near")
            self.assertEqual(self.join(queries, 20), before)
            self.check("l2", queries, ks=(20, 900))
        with self.conn.transaction(force_rollback=True):
            self.conn.execute("INSERT INTO near SELECT -1, '[0.1,0,0,0]' FROM generate_series(1, 9)")
            self.check("l2", queries, ks=(20,))
            self.check("l2", queries, ks=(20,), conn=other)
        self.check("l2", queries, ks=(20,))

    def fails(self, error, sql, args=()):
        with self.assertRaises(error):
            self.conn.execute(sql, args)

    def test_errors(self):
        self.table("embedding(3)", normal(self.rng, 50, 3))
        self.index("l2", "f16", ")")
        self.conn.execute("CREATE INDEX near_id ON near (id); CREATE INDEX near_x ON near USING gpuknn ((note::embedding(3)) embedding_l2_ops)")
        join = "SELECT * FROM knn_join(%s, '[[1,2,3]]', %s)"
        self.fails(psycopg.errors.DataException, "SELECT * FROM knn_join('near_e', '[[1,2]]')")
        self.fails(psycopg.errors.InvalidParameterValue, "SELECT * FROM knn_join('near_e', '[[[1,2,3]]]')")
        self.fails(psycopg.errors.InvalidParameterValue, join, ("near_e", -1))
        self.fails(psycopg.errors.NullValueNotAllowed, join, ("near_e", None))
        self.fails(psycopg.errors.NullValueNotAllowed, join, (None, 1))
        self.fails(psycopg.errors.WrongObjectType, join, ("near", 1))
        self.fails(psycopg.errors.WrongObjectType, join, ("near_id", 1))
        self.fails(psycopg.errors.FeatureNotSupported, join, ("near_x", 1))

    def test_rights(self):
        role = "knn_join_reader"
        self.table("embedding(3)", normal(self.rng, 50, 3))
        self.index("l2", "f16", ") WHERE id > 3")
        self.conn.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role}; GRANT EXECUTE ON FUNCTION knn_join TO {role}")
        self.addCleanup(self.conn.execute, f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        ask = "SELECT count(*) FROM knn_join('near_e', '[[1,2,3]]', 5)"

        def as_role(grants):
            self.conn.execute(f"RESET ROLE; {grants}; SET ROLE {role}")

        as_role("SELECT")
        self.fails(psycopg.errors.InsufficientPrivilege, ask)
        as_role(f"GRANT SELECT (e) ON near TO {role}")
        self.fails(psycopg.errors.InsufficientPrivilege, ask)
        as_role(f"GRANT SELECT (id) ON near TO {role}")
        self.assertEqual(self.conn.execute(ask).fetchone()[0], 5)
        as_role(f"REVOKE ALL ON near FROM {role}; GRANT SELECT ON near TO {role}")
        self.assertEqual(self.conn.execute(ask).fetchone()[0], 5)
        as_role("ALTER TABLE near ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON near USING (id > 10)")
        self.fails(psycopg.errors.FeatureNotSupported, ask)
        self.conn.execute("SET row_security = off")
        self.fails(psycopg.errors.InsufficientPrivilege, ask)
        self.conn.execute("RESET ROLE; RESET row_security")
        self.assertEqual(self.conn.execute(ask).fetchone()[0], 5)


if __name__ == "__main__":
    unittest.main()
