"""Garbage collection against a model: several sessions store, refer, upload, delete, checkpoint, restore and roll back at
random, at every isolation level, while a collector without grace takes its steps between them. Whatever a session can
reach is as the model has it at all times; at the end exactly what can be reached is left.
"""

import os
import random
import time
import unittest

import psycopg

from test_store_hash import CHUNK

LONG = bool(os.environ.get("GA_TEST_LONG"))
STEPS = int(os.environ.get("GA_COLLECT_STEPS", 6000 if LONG else 220))
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
TABLES = {"tensor": (), "node": (), "chunk": (), "chunk_delta": ()}
# What a session may meet by the nature of its isolation level or of what it tries.
EXPECTED = (psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedObject,
            psycopg.errors.DeadlockDetected, psycopg.errors.ActiveSqlTransaction)


class Session:
    """One session: its swarms and checkpoints belong to it alone."""

    def __init__(self, model, name):
        self.model, self.name = model, name
        self.conn = model.connect()
        self.committed = {"swarms": {}, "checkpoints": {}}
        self.reset()

    def reset(self):
        self.state = {k: dict(v) for k, v in self.committed.items()}
        self.open = False
        self.saved = None

    def begin(self, level):
        self.conn.execute(f"BEGIN ISOLATION LEVEL {level}")
        self.open = True

    def end(self, commit):
        if commit:
            self.conn.execute("COMMIT")
            self.committed = self.state
        else:
            self.conn.execute("ROLLBACK")
        self.reset()

    def one(self, query, *args):
        return self.conn.execute(query, args).fetchone()[0]

    def attempt(self, operation):
        """Runs an operation; what is expected to fail ends the transaction."""
        try:
            operation()
        except EXPECTED as e:
            self.model.log.append(f"{self.name}: {type(e).__name__} {e.diag.message_primary}")
            self.end(False) if self.open else self.reset()
            return
        if not self.open:
            self.committed = self.state
            self.reset()

    # ---- what it does ----

    def store(self):
        swarm, content = self.model.name(self), self.model.content()
        self.one("SELECT gpuagent.store_swarm(%s, model_tensor(%s))", swarm, content)
        self.state["swarms"][swarm] = content

    def refer(self):
        """To a tensor that somebody once had."""
        swarm, content = self.model.name(self), self.model.rng.choice(self.model.seen)
        self.one("SELECT gpuagent.store_swarm_ref(%s, gpuagent.tensor_hash(model_tensor(%s)))", swarm, content)
        self.state["swarms"][swarm] = content

    def upload(self):
        swarm, content = self.model.name(self), self.model.content()
        pieces = self.one("SELECT model_chunks(%s)", content)
        missing = [r[0] for r in self.conn.execute("SELECT m FROM gpuagent.missing_chunks(%s) m", [pieces])]
        for hash_, letter in zip(pieces, content):
            if hash_ in missing:
                self.one("SELECT gpuagent.store_chunk(model_tensor(%s))", letter)
        tensor = self.one("SELECT gpuagent.store_tensor('U8', ARRAY[%s::bigint], %s)", len(content) * CHUNK, pieces)
        if not self.open and self.model.rng.random() < 0.5:
            self.model.collect()
        self.one("SELECT gpuagent.store_swarm_ref(%s, %s)", swarm, tensor)
        self.state["swarms"][swarm] = content

    def patch(self):
        swarm = self.model.name(self)
        content = self.state["swarms"].get(swarm)
        if content is None:
            return
        at, letter = self.model.rng.randrange(len(content)), self.model.rng.choice("abcdef")
        self.one("SELECT gpuagent.store_swarm_rows(%s, %s, model_tensor(%s))", swarm, at * CHUNK + 1, letter)
        self.state["swarms"][swarm] = content[:at] + letter + content[at + 1:]
        self.model.seen.append(self.state["swarms"][swarm])

    def leaf(self):
        """A small change, which is stored as a delta."""
        swarm = self.model.name(self)
        content = self.state["swarms"].get(swarm)
        if content is None:
            return
        changed = content[:-1] + content[-1].upper()
        self.one("SELECT gpuagent.store_swarm(%s, model_tensor(%s))", swarm, changed)
        self.state["swarms"][swarm] = changed
        self.model.seen.append(changed)

    def drop(self):
        swarm = self.model.name(self)
        self.one("SELECT gpuagent.delete_swarm(%s)", swarm)
        self.state["swarms"].pop(swarm, None)

    def checkpoint(self):
        swarms = sorted(self.state["swarms"])
        if swarms:
            id_ = self.one("SELECT gpuagent.create_checkpoint(%s, objects => %s)", self.model.label(), ["swarm:" + s for s in swarms])
            self.state["checkpoints"][id_] = dict(self.state["swarms"])

    def restore(self):
        if not self.state["checkpoints"]:
            return
        id_ = self.model.rng.choice(sorted(self.state["checkpoints"]))
        self.conn.execute("SELECT * FROM gpuagent.restore_checkpoint(%s, safety => false, verify => 'quick')", [id_]).fetchall()
        self.state["swarms"].update(self.state["checkpoints"][id_])

    def remove(self):
        if self.state["checkpoints"]:
            id_ = self.model.rng.choice(sorted(self.state["checkpoints"]))
            self.one("SELECT gpuagent.delete_checkpoint(%s)", id_)
            del self.state["checkpoints"][id_]

    def read(self):
        self.model.check(self.conn, self.state)

    def savepoint(self):
        if self.open and self.saved is None:
            self.conn.execute("SAVEPOINT s")
            self.saved = {k: dict(v) for k, v in self.state.items()}
        elif self.open:
            self.conn.execute("ROLLBACK TO s")
            self.state = {k: dict(v) for k, v in self.saved.items()}

    OPERATIONS = (store, store, store, refer, refer, upload, patch, leaf, drop, drop, checkpoint, restore, remove, read, savepoint)

    def act(self):
        rng = self.model.rng
        if not self.open and rng.random() < 0.5:
            self.begin(rng.choice(LEVELS))
        elif self.open and rng.random() < 0.3:
            self.attempt(lambda: self.end(rng.random() < 0.7))
        else:
            operation = rng.choice(self.OPERATIONS)
            self.model.log.append(f"{self.name}: {operation.__name__}{' in transaction' if self.open else ''}")
            self.attempt(lambda: operation(self))


class CollectModel(unittest.TestCase):
    def setUp(self):
        self.admin = self.connect()
        self.collector = self.connect()
        self.prefix = f"collect/{os.urandom(6).hex()}"
        # One letter is a mebibyte of bytes that compression cannot make much smaller; in upper case one of its leaves differs.
        self.admin.execute("""
            CREATE OR REPLACE FUNCTION model_piece(letter text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
                WITH p AS (SELECT string_agg(sha512(convert_to(lower(letter) || i, 'UTF8')), '' ORDER BY i) AS data FROM generate_series(1, 1024) i)
                SELECT CASE WHEN letter = lower(letter) THEN r.data ELSE overlay(r.data PLACING sha512('x') FROM 70000) END
                FROM (SELECT string_agg(p.data, '') AS data FROM p, generate_series(1, 16)) r $$;
            CREATE TABLE IF NOT EXISTS model_pieces AS SELECT l AS letter, model_piece(l) AS data FROM unnest('{a,b,c,d,e,f,A,B,C,D,E,F}'::text[]) l;
            CREATE OR REPLACE FUNCTION model_tensor(content text) RETURNS gpuagent.swarm_tensor LANGUAGE sql AS $$
                SELECT gpuagent.tensor('U8', ARRAY[sum(octet_length(p.data))::bigint], string_agg(p.data, '' ORDER BY n))
                FROM regexp_split_to_table(content, '') WITH ORDINALITY c (letter, n) JOIN model_pieces p USING (letter) $$;
            CREATE TABLE IF NOT EXISTS model_hashes AS SELECT letter, gpuagent.store_chunk(model_tensor(letter)) AS hash FROM model_pieces;
            CREATE OR REPLACE FUNCTION model_chunks(content text) RETURNS bytea[] LANGUAGE sql AS $$
                SELECT array_agg(h.hash ORDER BY n)
                FROM regexp_split_to_table(content, '') WITH ORDINALITY c (letter, n) JOIN model_hashes h USING (letter) $$""")
        self.addCleanup(self.clean)

    def clean(self):
        self.admin.execute("DELETE FROM gpuagent.swarm WHERE starts_with(swarm, %s)", [self.prefix])
        self.admin.execute("SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint WHERE starts_with(label, %s)", [self.prefix])
        self.admin.execute("DROP TABLE model_pieces, model_hashes; DROP FUNCTION model_piece, model_tensor, model_chunks")

    def connect(self):
        conn = psycopg.connect(autocommit=True)
        self.addCleanup(conn.close)
        conn.execute("SET lock_timeout = '100ms'; SET statement_timeout = '60s'; SET gpuagent.collect_grace = 0")
        return conn

    # ---- the model ----

    def name(self, session):
        return f"{self.prefix}/{session.name}/{self.rng.randrange(3)}"

    def label(self):
        return f"{self.prefix}/{self.rng.random()}"

    def content(self):
        content = "".join(self.rng.choice("abcdef") for _ in range(self.rng.choice((1, 1, 2, 3))))
        self.seen.append(content)
        return content

    def collect(self):
        phase = self.collector.execute("SELECT phase FROM gpuagent.collect_garbage()").fetchone()[0]
        self.phases[phase] = self.phases.get(phase, 0) + 1
        self.log.append(f"collector: {phase}")
        return phase

    def check(self, conn, state, checkpoints=True):
        """All that a session can reach reads back as it was stored."""
        for swarm, content in state["swarms"].items():
            equal = conn.execute("SELECT gpuagent.retrieve_swarm(%s) OPERATOR(gpuagent.=) model_tensor(%s)", [swarm, content]).fetchone()[0]
            self.assertTrue(equal, f"{swarm} {content}")
        if checkpoints and state["checkpoints"]:
            id_ = self.rng.choice(sorted(state["checkpoints"]))
            for swarm, content in state["checkpoints"][id_].items():
                equal = conn.execute("SELECT gpuagent.retrieve_swarm(%s, checkpoint => %s) OPERATOR(gpuagent.=) model_tensor(%s)",
                                     [swarm, id_, content]).fetchone()[0]
                self.assertTrue(equal, f"checkpoint {id_}: {swarm} {content}")

    def reachable(self):
        """By table, the hashes that can be reached, as Python finds them."""
        rows = {t: {} for t in TABLES}
        for t, column in (("tensor", "root"), ("node", "children"), ("chunk", "NULL::bytea"), ("chunk_delta", "base")):
            for hash_, value in self.admin.execute(f"SELECT hash, {column} FROM gpuagent_store.{t}", binary=True):
                rows[t].setdefault(bytes(hash_), value and bytes(value))
        todo = [bytes(r[0]) for r in self.admin.execute("""
            SELECT tensor FROM gpuagent.swarm_version UNION SELECT weights FROM gpuagent.weight_version WHERE weights IS NOT NULL
            UNION SELECT biases FROM gpuagent.weight_version WHERE biases IS NOT NULL
            UNION SELECT tensor FROM gpuagent.checkpoint_item WHERE tensor IS NOT NULL
            UNION SELECT biases FROM gpuagent.checkpoint_item WHERE biases IS NOT NULL""", binary=True)]
        found = {t: set() for t in TABLES}
        seen = set()
        while todo:
            h = todo.pop()
            if h in seen:
                continue
            seen.add(h)
            for t in TABLES:
                if h in rows[t]:
                    found[t].add(h)
                    value = rows[t][h] or b""
                    todo.extend(value[i:i + 32] for i in range(0, len(value), 32))
        return found, {t: set(rows[t]) for t in TABLES}

    def run_model(self, seed):
        self.rng = random.Random(seed)
        self.seen, self.log, self.phases = ["a"], [f"seed {seed}"], {}
        sessions = [Session(self, f"s{i}") for i in range(4)]
        reader = self.connect()
        reading = None
        try:
            for _ in range(STEPS):
                r = self.rng.random()
                if r < 0.35:
                    self.collect()
                elif r < 0.40 and reading is None:
                    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM gpuagent.swarm LIMIT 1")
                    reading = [{k: dict(v) for k, v in s.committed.items()} for s in sessions]
                elif r < 0.45 and reading is not None:
                    for state in reading:
                        self.check(reader, state)
                    reader.execute("COMMIT")
                    reading = None
                else:
                    self.rng.choice(sessions).act()
            if reading is not None:
                reader.execute("COMMIT")
            for s in sessions:
                if s.open:
                    s.end(False)
            until = time.monotonic() + 180
            while (phase := self.collect()) != "idle" and time.monotonic() < until:
                if phase == "waiting":      # for autovacuum, say
                    time.sleep(0.01)
            for s in sessions:
                self.check(self.admin, s.committed)
            found, there = self.reachable()
            for t in TABLES:
                self.assertEqual(there[t] - found[t], set(), f"garbage is left in {t}")
            self.assertEqual(self.admin.execute("SELECT count(*) FROM gpuagent_store.doomed").fetchone()[0], 0)
            problems = self.admin.execute("SELECT count(gpuagent_store.tensor_problem(tensor)) FROM gpuagent.swarm_version"
                                          " WHERE starts_with(swarm, %s)", [self.prefix]).fetchone()[0]
            self.assertEqual(problems, 0)
        except BaseException:
            print("\n".join(self.log[-60:]))
            raise
        self.assertGreater(self.phases.get("marked", 0), 0, self.phases)
        self.assertGreater(self.phases.get("deleting", 0), 0, self.phases)

    def test_random(self):
        seeds = [int(os.environ["GA_TEST_SEED"])] if "GA_TEST_SEED" in os.environ else range(1, 2 if not LONG else 9)
        for seed in seeds:
            with self.subTest(seed=seed):
                self.run_model(seed)


if __name__ == "__main__":
    unittest.main()
