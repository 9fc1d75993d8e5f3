"""Imports, restores of backups and restores of checkpoints beside a collection without grace that never rests: what they
bring is, chunk by chunk, what the collector is about to delete, since the round before left it as garbage.
"""

import os
import random
import threading
import unittest

import psycopg

LONG = bool(os.environ.get("GA_TEST_LONG"))
ROUNDS = int(os.environ.get("GA_COLLECT_ROUNDS", 200 if LONG else 12))
SEED = os.environ.get("GA_TEST_SEED", "1")
DATABASE = "collect_restore"

# i: so many bytes that compression makes no smaller; the second version differs in some bytes, and is stored as deltas.
CONTENT = """
    CREATE FUNCTION content(i bigint, n bigint) RETURNS gpuagent.swarm_tensor LANGUAGE sql AS $$
        SELECT gpuagent.tensor('U8', ARRAY[n], substring(string_agg(sha512(int8send(i * 1000000 + k)), '' ORDER BY k) FROM 1 FOR n::int))
        FROM generate_series(1, n / 64 + 1) k $$;
    SELECT gpuagent.store_swarm('big', content(1, 3000000));
    SELECT gpuagent.store_swarm('small', content(2, 1000));
    SELECT gpuagent.store_weights('net', 'layer', '[[1,2],[3,4]]', '[5,6]');
    SELECT gpuagent.create_checkpoint('one')"""
# What there is to be seen afterwards, and what is wrong with it.
STATE = """
    SELECT array_agg(s.swarm || ' ' || encode(gpuagent.tensor_hash(gpuagent.retrieve_swarm(s.swarm)), 'hex') ORDER BY s.swarm)
        || (SELECT array_agg(encode(sha256(convert_to(w::text, 'UTF8')), 'hex')) FROM gpuagent.load_weights('net') w) FROM gpuagent.swarm s"""
PROBLEMS = "SELECT object, status, expected, found FROM gpuagent.verify_integrity('deep') WHERE NOT (object = 'total' AND status = 'ok')"


class Collector(threading.Thread):
    """Steps of a collection, as fast as they go, until told to stop."""

    def __init__(self, connect):
        super().__init__()
        self.conn, self.stopping, self.phases, self.error = connect(), threading.Event(), {}, None

    def run(self):
        try:
            while not self.stopping.is_set():
                phase = self.conn.execute("SELECT phase FROM gpuagent.collect_garbage()").fetchone()[0]
                self.phases[phase] = self.phases.get(phase, 0) + 1
        except Exception as error:      # told by the main thread
            self.error = error

    def end(self):
        self.stopping.set()
        self.join()


class CollectRestore(unittest.TestCase):
    def setUp(self):
        self.admin = psycopg.connect(autocommit=True)
        self.addCleanup(self.admin.close)
        self.admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        self.admin.execute(f"CREATE DATABASE {DATABASE}")
        self.addCleanup(self.admin.execute, f"DROP DATABASE {DATABASE} WITH (FORCE)")
        self.conn = self.connect()
        self.conn.execute("CREATE EXTENSION gpuagent; SELECT gpuagent.setup()")
        self.conn.execute(CONTENT)
        # A second version in a transaction of its own.
        self.conn.execute("SELECT gpuagent.store_swarm_rows('big', 1, gpuagent.tensor('U8', ARRAY[4], 'abcd'))")
        self.conn.execute("SELECT gpuagent.create_checkpoint('two')")
        self.exported = self.one("SELECT path FROM gpuagent.export_checkpoint(gpuagent.resolve_checkpoint('two'))")
        self.backup = f"backups/collect-restore-{os.getpid()}"
        self.one("SELECT gpuagent.create_backup(%s)", self.backup)
        self.expected = self.one(STATE)
        self.collector = Collector(self.connect)
        self.addCleanup(self.collector.conn.close)

    def connect(self):
        conn = psycopg.connect(dbname=DATABASE, autocommit=True)
        conn.execute("SET gpuagent.collect_grace = 0")
        self.addCleanup(conn.close)
        return conn

    def one(self, query, *args):
        return self.conn.execute(query, args).fetchone()[0]

    def empty(self):
        """Everything becomes garbage; checkpoints by hand, since their folders are to stay."""
        self.conn.execute("""
            SELECT gpuagent.delete_swarm(swarm) FROM gpuagent.swarm;
            SELECT gpuagent.delete_expert(expert) FROM gpuagent.expert;
            DELETE FROM gpuagent.checkpoint_item;
            DELETE FROM gpuagent.checkpoint""")

    # ---- ways for it to come back ----

    def by_import(self):
        self.one("SELECT gpuagent.import_checkpoint(%s, restore => true)", self.exported)

    def by_import_first(self):
        """The import's transaction ends before it is restored: its contents are a checkpoint's alone meanwhile."""
        id_ = self.one("SELECT gpuagent.import_checkpoint(%s)", self.exported)
        self.conn.execute("SELECT * FROM gpuagent.restore_checkpoint(%s, safety => false)", [id_])

    def by_backup(self):
        self.conn.execute("SELECT * FROM gpuagent.restore_backup(%s)", [self.backup])

    def by_rollback(self):
        """What was stored by who rolled back is garbage of another kind."""
        with self.assertRaises(psycopg.errors.DivisionByZero), self.conn.transaction():
            self.by_import()
            self.conn.execute("SELECT 1 / 0")
        self.by_backup()

    def by_checkpoint(self):
        self.by_backup()
        self.conn.execute("SELECT gpuagent.delete_swarm(swarm) FROM gpuagent.swarm; SELECT gpuagent.delete_expert('net')")
        self.conn.execute("SELECT * FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('two'), safety => false)")

    def test_rounds(self):
        rng = random.Random(SEED)
        ways = (self.by_import, self.by_import_first, self.by_backup, self.by_rollback, self.by_checkpoint)
        self.collector.start()
        self.addCleanup(self.collector.end)
        for number in range(ROUNDS):
            self.empty()
            # From before the garbage is noticed to when all of it is gone.
            self.conn.execute("SELECT pg_sleep(%s)", [rng.choice((0, 0, 0.01, 0.05, 0.2))])
            way = ways[number % len(ways)] if number < len(ways) else rng.choice(ways)
            way()
            self.assertIsNone(self.collector.error)
            self.assertEqual(self.one(STATE), self.expected, f"round {number} of seed {SEED}: {way.__name__}")
            self.assertEqual(self.conn.execute(PROBLEMS).fetchall(), [], f"round {number} of seed {SEED}: {way.__name__}")
        self.collector.end()
        self.assertIsNone(self.collector.error)
        for _ in range(2000):
            if self.one("SELECT phase FROM gpuagent.collect_garbage()") == "idle":
                break
        self.assertEqual(self.one(STATE), self.expected)
        self.assertEqual(self.conn.execute(PROBLEMS).fetchall(), [])
        self.assertGreater(self.collector.phases.get("deleting", 0) + self.collector.phases.get("marked", 0), 0, self.collector.phases)


if __name__ == "__main__":
    unittest.main()
