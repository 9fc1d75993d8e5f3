"""compact_storage(): whatever it does, and whatever happens in between, every tensor reads back as it was stored."""

import os
import random
import time
import unittest

import numpy as np
import psycopg
from test_previous import step
from test_store_hash import CHUNK, LEAF, chunk_hash


def smooth(n, rng):
    """Bytes of n floats that compress a little, as weights do."""
    return rng.standard_normal(n).astype(np.float32).tobytes()


class CompactTest(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)
        self.addCleanup(self.clear)
        self.clear()
        self.rng = np.random.default_rng(11)

    def clear(self):
        self.conn.execute("TRUNCATE gpuagent_store.chunk, gpuagent_store.chunk_delta, gpuagent_store.node, gpuagent_store.tensor,"
                          " gpuagent_store.compact_pending, gpuagent_store.compact_tensor, gpuagent.swarm, gpuagent.expert CASCADE")

    def value(self, query, *args, conn=None):
        row = (conn or self.conn).execute(query, args, binary=True).fetchone()
        return row[0] if row else None

    def store(self, swarm, data, conn=None):
        return self.value("SELECT gpuagent.store_swarm(%s, gpuagent.tensor('F32', ARRAY[%s::bigint], %b))", swarm, len(data) // 4, data, conn=conn)

    def upload(self, swarm, data, conn=None):
        """By chunks, which are stored whole whatever came before."""
        hashes = [self.value("SELECT gpuagent.store_chunk(gpuagent.tensor('F32', ARRAY[%s::bigint], %b))", len(piece) // 4, piece, conn=conn)
                  for piece in (data[i:i + CHUNK] for i in range(0, len(data), CHUNK))]
        return self.value("SELECT gpuagent.store_swarm_ref(%s, gpuagent.store_tensor('F32', ARRAY[%s::bigint], %s))", swarm, len(data) // 4, hashes, conn=conn)

    def contents(self):
        return dict(self.conn.execute("SELECT swarm || ':' || version, gpuagent.tensor_bytes(gpuagent_store.get_tensor(tensor)) FROM gpuagent.swarm_version", binary=True))

    def compact(self):
        return self.value("SELECT gpuagent.compact_storage()")

    def stored(self):
        return self.value("SELECT (SELECT coalesce(sum(octet_length(data)), 0) FROM gpuagent_store.chunk)"
                          " + (SELECT coalesce(sum(octet_length(data)), 0) FROM gpuagent_store.chunk_delta)")

    def count(self, table):
        return self.value(f"SELECT count(*) FROM gpuagent_store.{table}")

    def check_depth(self):
        """Every delta has a base with a row of its own; a base that is itself a delta keeps its row until that delta is gone."""
        self.assertEqual(self.value("SELECT count(*) FROM gpuagent_store.chunk_delta d WHERE NOT EXISTS"
                                    " (SELECT FROM gpuagent_store.chunk c WHERE c.hash = d.base AND c.nbytes = d.nbytes)"), 0)

    def test_raw(self):
        """What was stored without compression, or at another level, is stored anew; what does not compress is tried once."""
        self.conn.execute("SET gpuagent.compression = off")
        data = smooth(CHUNK // 2, self.rng)
        noise = os.urandom(CHUNK)
        self.store("a", data)
        self.store("b", noise)
        self.assertEqual(self.compact(), 0)
        self.conn.execute("RESET gpuagent.compression")
        before = self.stored()
        freed = self.compact()
        self.assertGreater(freed, len(data) // 20)
        self.assertEqual(before - self.stored(), freed)
        self.assertEqual(self.value("SELECT count(*) FROM gpuagent_store.chunk WHERE level IS NULL"), 0)
        rows = self.conn.execute("SELECT ctid FROM gpuagent_store.chunk").fetchall()
        self.assertEqual(self.compact(), 0)
        self.assertEqual(self.conn.execute("SELECT ctid FROM gpuagent_store.chunk").fetchall(), rows)
        self.conn.execute("SET gpuagent.compression_level = 9")
        self.compact()
        self.assertEqual(self.value("SELECT min(level) FROM gpuagent_store.chunk"), 9)
        self.conn.execute("RESET gpuagent.compression_level")
        self.assertEqual(self.contents(), {"a:1": data, "b:1": noise})

    def test_duplicates(self):
        """One row of each hash stays, a good one when there is one."""
        data = smooth(CHUNK // 2, self.rng)
        self.store("a", data)
        for table in ("chunk", "node", "tensor"):
            self.conn.execute(f"INSERT INTO gpuagent_store.{table} SELECT * FROM gpuagent_store.{table}")
        digest = chunk_hash(data[:CHUNK])
        self.conn.execute("UPDATE gpuagent_store.chunk SET data = '\\x00' WHERE ctid = (SELECT min(ctid) FROM gpuagent_store.chunk WHERE hash = %s)", (digest,))
        self.assertGreater(self.compact(), 0)
        self.assertEqual([self.count("chunk"), self.count("node"), self.count("tensor")], [2, 1, 1])
        self.assertEqual(self.contents(), {"a:1": data})

    def test_versions(self):
        """Versions that were uploaded become deltas; their rows go when older transactions have ended."""
        versions = [smooth(3 * LEAF, self.rng)]
        for _ in range(5):
            versions.append(step(versions[-1], 4, self.rng))
        for data in versions:
            self.upload("a", data)
        self.assertEqual([self.count("chunk"), self.count("chunk_delta")], [6, 0])
        with psycopg.connect() as old:
            self.value("SELECT pg_current_xact_id()::text", conn=old)
            self.compact()
            self.compact()
            self.assertEqual([self.count("chunk"), self.count("chunk_delta"), self.count("compact_pending")], [6, 5, 5])
        self.compact()
        self.assertEqual([self.count("chunk"), self.count("chunk_delta"), self.count("compact_pending")], [1, 5, 0])
        self.assertEqual(self.contents(), {f"a:{i}": data for i, data in enumerate(versions, 1)})
        self.check_depth()

    def test_base_meanwhile(self):
        """A transaction that has made a chunk the base of its own delta keeps the chunk's row, whenever it commits."""
        first = smooth(3 * LEAF, self.rng)
        second = step(first, 4, self.rng)
        third = step(second, 4, self.rng)
        self.upload("a", first)
        self.upload("a", second)
        with psycopg.connect() as writer:
            tensor = self.value("SELECT tensor FROM gpuagent.swarm_version WHERE version = 2")
            self.value("SELECT gpuagent_store.put_tensor(gpuagent.tensor('F32', ARRAY[%s::bigint], %b), %b)", len(third) // 4, third, tensor, conn=writer)
            self.store("b", third, conn=writer)
            self.compact()
            self.compact()
            self.assertEqual([self.count("chunk_delta"), self.count("compact_pending")], [1, 1])
        self.compact()
        self.assertEqual(self.count("compact_pending"), 0)
        self.assertEqual(self.contents(), {"a:1": first, "a:2": second, "b:1": third})
        self.check_depth()

    def test_orphans(self):
        """A delta whose base nothing else needs becomes whole again."""
        first = smooth(3 * LEAF, self.rng)
        second = step(first, 4, self.rng)
        self.store("a", first)
        self.store("a", second)
        self.assertEqual(self.count("chunk_delta"), 1)
        self.conn.execute("DELETE FROM gpuagent.swarm_version WHERE version = 1")
        self.compact()
        self.assertEqual(self.count("chunk_delta"), 1)  # the tensor is still there
        self.conn.execute("DELETE FROM gpuagent_store.tensor WHERE root = %s", (chunk_hash(first),))
        self.compact()
        self.assertEqual(self.count("chunk_delta"), 0)
        self.assertEqual(self.contents(), {"a:2": second})

    def test_damage(self):
        """Damaged rows are counted and left alone, and nothing else suffers."""
        self.conn.execute("SET gpuagent.compression = off")
        parts = [smooth(CHUNK // 4, self.rng) for _ in range(12)]
        self.store("a", b"".join(parts))
        self.conn.execute("RESET gpuagent.compression")
        digest = chunk_hash(parts[5])
        self.conn.execute("UPDATE gpuagent_store.chunk SET data = set_byte(data, 7, 255 - get_byte(data, 7)) WHERE hash = %s", (digest,))
        notices = []
        self.conn.add_notice_handler(lambda n: notices.append(n.message_primary))
        self.assertGreater(self.compact(), 0)
        self.assertIn("1 chunks are damaged and were left as they are", notices)
        self.assertEqual(self.value("SELECT count(*) FROM gpuagent_store.chunk WHERE codec = 0"), 1)
        self.assertEqual(self.value("SELECT octet_length(data) FROM gpuagent_store.chunk WHERE hash = %s", digest), CHUNK)

    def test_isolation_levels(self):
        with psycopg.connect() as conn:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with self.assertRaises(psycopg.errors.ActiveSqlTransaction):
                conn.execute("SELECT gpuagent.compact_storage()")

    def test_random(self):
        """Random versions, stored and uploaded, pruned, and compacted at any time beside open transactions."""
        chance = random.Random(3)
        truth = {}
        stored = {}
        other = psycopg.connect()
        self.addCleanup(other.close)
        open_truth = None
        for _ in range(int(os.environ.get("GA_COMPACT_STEPS", "40"))):
            swarm = chance.choice("ab")
            base = stored.get(swarm, smooth(int(chance.choice([LEAF, 5 * LEAF, CHUNK + LEAF])), self.rng))
            data = step(base, 4, self.rng, chance.choice([1, 0.01])) if chance.random() < 0.8 else smooth(len(base) // 4, self.rng)
            action = chance.random()
            if action < 0.35:
                truth[f"{swarm}:{(self.upload if chance.random() < 0.5 else self.store)(swarm, data)}"] = stored[swarm] = data
            elif action < 0.5 and open_truth is None:
                # A transaction of another session, which also keeps an old snapshot for its last look.
                name = "other"
                open_truth = (f"{name}:{self.store(name, data, conn=other)}", data)
            elif action < 0.6 and open_truth is not None:
                (other.commit if chance.random() < 0.7 else other.rollback)()
                if self.value("SELECT count(*) FROM gpuagent.swarm_version WHERE swarm || ':' || version = %s", open_truth[0]):
                    truth[open_truth[0]] = open_truth[1]
                open_truth = None
            elif action < 0.7 and truth:
                gone = chance.choice(sorted(truth))
                self.conn.execute("DELETE FROM gpuagent.swarm_version WHERE swarm || ':' || version = %s", (gone,))
                del truth[gone]
            elif action < 0.75:
                self.conn.execute("SET gpuagent.compression = " + chance.choice(["on", "off"]))
            else:
                self.compact()
            self.assertEqual(self.contents(), truth)
            self.check_depth()
        other.rollback()
        self.conn.execute("RESET gpuagent.compression")
        for _ in range(3):
            self.compact()
        self.assertEqual(self.count("compact_pending"), 0)
        self.assertEqual(self.contents(), truth)
        self.assertEqual(self.value("SELECT count(*) FROM gpuagent_store.chunk c JOIN gpuagent_store.chunk_delta d USING (hash)"), 0)

    def test_job(self):
        """A worker does it, in transactions of its own, and finishes what became deltas."""
        versions = [smooth(12 * CHUNK // 4, self.rng)]
        for _ in range(2):
            versions.append(step(versions[-1], 4, self.rng))
        for data in versions:
            self.upload("a", data)
        job = self.value("SELECT gpuagent.compact_storage(wait => false)")
        self.assertEqual(self.value("SELECT gpuagent.wait_for_job(%s, '180 s')", job), "done")
        result = self.value("SELECT result FROM gpuagent_store.job WHERE job = %s", job)
        self.assertGreater(result["freed"], 0)
        self.assertEqual([self.count("chunk"), self.count("chunk_delta"), self.count("compact_pending")], [12, 24, 0])
        self.assertEqual(self.contents(), {f"a:{i}": data for i, data in enumerate(versions, 1)})


if __name__ == "__main__":
    unittest.main()
