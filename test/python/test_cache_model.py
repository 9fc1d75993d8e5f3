"""The agent cache against plain SELECT: sessions interleave writes, savepoints, snapshots, two-phase commits, VACUUM,
rewrites, truncations and changes of rights; after each step every session compares both under one snapshot.
"""

import os
import random
import unittest

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

STEPS = 12000 if os.environ.get("GA_TEST_LONG") else 900
SESSIONS = 4
IDS = [f"cachemodel/{i}" for i in range(8)]
FLOOD = [f"cachemodel/flood/{i}" for i in range(12)]
ROLES = ("cachemodel_a", "cachemodel_b")

COLUMNS = "id, state, memory, generation, fitness, metadata, version, created_at, updated_at, origin"
# A snapshot may see two rows of one id: one that another has deleted since and one that it then inserted itself.
COMPARE = """
SELECT i.id, r.version
FROM unnest(%s::text[]) i(id) LEFT JOIN LATERAL gpuagent.retrieve_agent_cached(i.id) r ON true
WHERE CASE WHEN EXISTS (SELECT FROM gpuagent.agent a WHERE a.id = i.id) THEN
        NOT EXISTS (SELECT FROM gpuagent.agent a WHERE a.id = i.id AND ROW({a})::record *= ROW({r})::record) OR
        NOT EXISTS (SELECT FROM gpuagent.agent a WHERE a.id = i.id AND ROW(a.state)::record *= ROW(gpuagent.cached_state(i.id))::record)
    ELSE r.id IS NOT NULL OR gpuagent.cached_state(i.id) IS NOT NULL END""".format(
    a=", ".join(f"a.{c}" for c in COLUMNS.split(", ")), r=", ".join(f"r.{c}" for c in COLUMNS.split(", ")))

# What a step may meet: it waits for nobody, loses against others, or has not got the right.
REFUSALS = (errors.LockNotAvailable, errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation,
            errors.InsufficientPrivilege, errors.ObjectInUse, errors.ObjectNotInPrerequisiteState,
            errors.ConfigurationLimitExceeded, errors.FeatureNotSupported, errors.DuplicateObject, errors.QueryCanceled)


class CacheModel(unittest.TestCase):
    host = None

    def connect(self):
        conn = psycopg.connect(**({"host": self.host} if self.host else {}), autocommit=True)
        self.addCleanup(conn.close)
        conn.execute("SET lock_timeout = '2ms'; SET statement_timeout = '10s'")
        return conn

    def setUp(self):
        self.admin = self.connect()
        self.admin.execute("SET lock_timeout = 0")
        for role in ROLES:
            if self.admin.execute("SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", [role]).fetchone() is None:
                self.admin.execute(f"CREATE ROLE {role}")
            self.admin.execute(f"GRANT USAGE ON SCHEMA gpuagent TO {role}")
            self.admin.execute(f"GRANT EXECUTE ON FUNCTION gpuagent.cached_state(text), gpuagent.retrieve_agent_cached(text) TO {role}")
        self.addCleanup(self.clean)
        self.admin.execute("DELETE FROM gpuagent.agent")
        for name in FLOOD:      # a megabyte and more each once decoded, much less on disk
            self.admin.execute("INSERT INTO gpuagent.agent (id, state) VALUES (%s, gpuagent.tensor('U8', ARRAY[1500000], "
                               "convert_to(repeat(%s, 300000), 'UTF8'))::gpuagent.agent_state)", [name, name[-5:]])
        self.serial = 0

    def clean(self):
        admin = self.connect()
        for gid, in admin.execute("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE gid LIKE 'cachemodel%'").fetchall():
            admin.execute(f"ROLLBACK PREPARED '{gid}'")
        admin.execute("SET lock_timeout = '10s'")
        admin.execute("ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY")
        admin.execute("DROP POLICY IF EXISTS cachemodel ON gpuagent.agent")
        admin.execute("ALTER TABLE gpuagent.agent DROP COLUMN IF EXISTS cachemodel")
        admin.execute("DELETE FROM gpuagent.agent")
        for role in ROLES:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")

    # ---- the world ----

    def begin_run(self, seed):
        self.rng = random.Random(seed)
        self.sessions = [self.connect() for _ in range(SESSIONS)]
        self.savepoints = [[] for _ in range(SESSIONS)]
        self.log = []

    def status(self, i):
        return self.sessions[i].info.transaction_status

    def do(self, i, query, *args):
        """Runs a statement in a session; a refusal leaves it as PostgreSQL does."""
        conn = self.admin if i < 0 else self.sessions[i]
        try:
            cursor = conn.execute(query, args or None)
            self.log.append(f"{i}: {query}")
            return cursor
        except REFUSALS as e:
            self.log.append(f"{i}: {query}  -- {type(e).__name__}")
            return None
        finally:
            if i >= 0 and self.status(i) == TransactionStatus.IDLE:
                self.savepoints[i] = []

    def state(self):
        """A value that was never there before: small, long and out of line, or none."""
        self.serial += 1
        kind = self.rng.random()
        n = 4 if kind < 0.6 else 3000 if kind < 0.8 else 300
        if kind > 0.95:
            return "NULL::gpuagent.agent_state"
        data = (self.serial.to_bytes(4, "little") + self.rng.randbytes(n * 4 - 4)).hex()
        return f"gpuagent.tensor('I32', ARRAY[{n}], '\\x{data}')::gpuagent.agent_state"

    # ---- steps ----

    def write(self, i):
        name = self.rng.choice(IDS)
        self.serial += 1
        query = self.rng.choice((
            "INSERT INTO gpuagent.agent (id, state, memory) VALUES ('{id}', {state}, {state2})",
            "INSERT INTO gpuagent.agent (id, state) VALUES ('{id}', {state}) ON CONFLICT (id) DO UPDATE SET state = EXCLUDED.state, version = agent.version + 1",
            "INSERT INTO gpuagent.agent (id, state) VALUES ('{id}', {state}) ON CONFLICT DO NOTHING",
            "UPDATE gpuagent.agent SET state = {state} WHERE id = '{id}'",
            "UPDATE gpuagent.agent SET metadata = '{{\"n\": {n}}}' WHERE id = '{id}'",          # HOT
            "UPDATE gpuagent.agent SET metadata = '{{\"n\": {n}}}' WHERE id LIKE 'cachemodel/_'",
            "UPDATE gpuagent.agent SET fitness = {n}, generation = generation + 1 WHERE id = '{id}'",
            "UPDATE gpuagent.agent SET id = '{other}' WHERE id = '{id}'",
            "DELETE FROM gpuagent.agent WHERE id = '{id}'",
            "DELETE FROM gpuagent.agent WHERE id = '{id}'; INSERT INTO gpuagent.agent (id, state) VALUES ('{id}', {state})",
            "SELECT gpuagent.store_agent('{id}', {state})",
            "SELECT FROM gpuagent.agent WHERE id = '{id}' FOR UPDATE",
            "WITH d AS (DELETE FROM gpuagent.agent WHERE id = '{id}' RETURNING id) SELECT gpuagent.cached_state(id) FROM d"))
        self.do(i, query.format(id=name, other=self.rng.choice(IDS), state=self.state(), state2=self.state(), n=self.serial))

    def begin(self, i):
        if self.status(i) == TransactionStatus.IDLE:
            self.do(i, "BEGIN ISOLATION LEVEL " + self.rng.choice(("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "REPEATABLE READ")))
            self.savepoints[i] = []

    def end(self, i):
        if self.status(i) == TransactionStatus.IDLE:
            return
        gid = f"cachemodel{self.rng.randrange(3)}"
        self.do(i, self.rng.choice(("COMMIT", "COMMIT", "ROLLBACK", f"PREPARE TRANSACTION '{gid}'")))

    def prepared(self, i):
        if self.status(i) != TransactionStatus.IDLE:
            return
        for gid, in self.admin.execute("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE gid LIKE 'cachemodel%'").fetchall():
            self.do(i, self.rng.choice(("COMMIT", "ROLLBACK")) + f" PREPARED '{gid}'")

    def savepoint(self, i):
        if self.status(i) == TransactionStatus.INTRANS:
            name = f"s{len(self.savepoints[i])}"
            self.do(i, f"SAVEPOINT {name}")
            self.savepoints[i].append(name)

    def rollback_to(self, i):
        if self.status(i) != TransactionStatus.IDLE and self.savepoints[i]:
            at = self.rng.randrange(len(self.savepoints[i]))
            if self.rng.random() < 0.3 and self.status(i) == TransactionStatus.INTRANS:
                self.do(i, f"RELEASE {self.savepoints[i][at]}")
                del self.savepoints[i][at:]
            else:
                self.do(i, f"ROLLBACK TO {self.savepoints[i][at]}")
                del self.savepoints[i][at + 1:]

    def fill(self, i):
        self.do(i, self.rng.choice(("SELECT gpuagent.cache_agents(prefix => 'cachemodel/')", "SELECT gpuagent.evict_agents()",
                                    "SELECT gpuagent.evict_agents(ARRAY['cachemodel/1', 'cachemodel/2'])",
                                    "SELECT gpuagent.cache_agent('cachemodel/3')")))

    def flood(self, i):
        self.do(i, "SELECT count(gpuagent.cached_state(id)) FROM unnest(%s::text[]) id", FLOOD)

    def vacuum(self, _):
        options = self.rng.choice(("", "(FREEZE)", "(FREEZE, DISABLE_PAGE_SKIPPING)", "(TRUNCATE)"))
        # A scan that EXISTS broke off has its page pinned until the session's next statement: then VACUUM waits for it.
        self.do(-1, "SET lock_timeout = '2ms'; SET statement_timeout = '20ms'")
        self.do(-1, f"VACUUM {options} gpuagent.agent")
        self.do(-1, "SET statement_timeout = '10s'")

    def quiet(self, _):
        """Everybody ends, and what needs the table alone happens; sometimes in a transaction that then goes on or back."""
        for j in range(SESSIONS):
            self.end(j)
        for j in range(SESSIONS):
            self.prepared(j)
        statement = self.rng.choice(("VACUUM FULL gpuagent.agent", "CLUSTER gpuagent.agent USING agent_pkey", "VACUUM (FREEZE) gpuagent.agent"))
        self.do(-1, "SET lock_timeout = '2ms'")
        self.do(-1, statement)

    def change_table(self, i):
        """In one transaction: rewrites and truncations with writes between, with or without a savepoint that is rolled back."""
        if self.rng.random() < 0.7:
            for j in range(SESSIONS):
                self.end(j)
            self.prepared(i)
        if self.status(i) == TransactionStatus.IDLE:
            self.do(i, "RESET ROLE")
            self.do(i, "BEGIN")
        back = self.rng.random() < 0.4
        if back:
            self.do(i, "SAVEPOINT rewrite")
        for _ in range(self.rng.randint(1, 3)):
            if self.status(i) != TransactionStatus.INTRANS:
                break
            self.do(i, self.rng.choice((
                "TRUNCATE gpuagent.agent", "TRUNCATE gpuagent.agent",
                "ALTER TABLE gpuagent.agent ALTER COLUMN generation TYPE bigint USING generation + 1",
                "ALTER TABLE gpuagent.agent ADD COLUMN IF NOT EXISTS cachemodel float8 DEFAULT random()",
                "ALTER TABLE gpuagent.agent DROP COLUMN IF EXISTS cachemodel",
                "ALTER TABLE gpuagent.agent SET UNLOGGED", "ALTER TABLE gpuagent.agent SET LOGGED",
                "ALTER TABLE gpuagent.agent RENAME COLUMN fitness TO f; ALTER TABLE gpuagent.agent RENAME COLUMN f TO fitness")))
            if self.status(i) == TransactionStatus.INTRANS and self.rng.random() < 0.8:
                self.write(i)
            self.compare(i)
        if back and self.status(i) != TransactionStatus.IDLE:
            self.do(i, "ROLLBACK TO rewrite")
            self.compare(i)
        if self.status(i) != TransactionStatus.IDLE and self.rng.random() < 0.7:
            self.do(i, self.rng.choice(("COMMIT", "ROLLBACK")))

    def rights(self, i):
        role = self.rng.choice(ROLES)
        statement = self.rng.choice((
            f"GRANT SELECT ON gpuagent.agent TO {role}", f"GRANT SELECT ON gpuagent.agent TO {role}",
            f"REVOKE SELECT ON gpuagent.agent FROM {role}",
            f"GRANT SELECT ({COLUMNS}) ON gpuagent.agent TO {role}",
            f"REVOKE ALL ON gpuagent.agent FROM {role}",
            f"GRANT {ROLES[0]} TO {ROLES[1]}", f"REVOKE {ROLES[0]} FROM {ROLES[1]}",
            f"GRANT pg_read_all_data TO {role}", f"REVOKE pg_read_all_data FROM {role}",
            f"REVOKE USAGE ON SCHEMA gpuagent FROM {role}", f"GRANT USAGE ON SCHEMA gpuagent TO {role}",
            "ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY", "ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY",
            "CREATE POLICY cachemodel ON gpuagent.agent USING (id < 'cachemodel/4')", "DROP POLICY IF EXISTS cachemodel ON gpuagent.agent"))
        if self.rng.random() < 0.5:
            for j in range(SESSIONS):
                self.end(j)
        self.do(-1, "SET lock_timeout = '2ms'")
        try:
            self.do(-1, statement)
        except (errors.DuplicateObject, errors.InternalError):
            pass

    def role(self, i):
        if self.status(i) != TransactionStatus.INERROR:
            self.do(i, self.rng.choice((f"SET ROLE {ROLES[0]}", f"SET ROLE {ROLES[1]}", "RESET ROLE", "RESET ROLE")))

    # ---- the comparison ----

    def refused(self, i, query):
        """Whether a session may not run a query, leaving its transaction as it was."""
        conn = self.sessions[i]
        try:
            with conn.transaction():
                conn.execute(query, [IDS], prepare=False)
        except errors.InsufficientPrivilege:
            return True
        except REFUSALS:
            return None
        return False

    def compare(self, i):
        conn = self.sessions[i]
        if self.status(i) == TransactionStatus.INERROR:
            return
        # A user's rights first: both or none.
        if conn.execute("SELECT current_user <> session_user").fetchone()[0]:
            plain = self.refused(i, "SELECT id, state FROM gpuagent.agent WHERE id = ANY (%s)")
            for query in ("SELECT gpuagent.cached_state(id) FROM unnest(%s::text[]) id",
                          "SELECT r FROM unnest(%s::text[]) id, gpuagent.retrieve_agent_cached(id) r"):
                cached = self.refused(i, query)
                if None not in (plain, cached):
                    self.assertEqual(plain, cached, self.history(f"session {i} may: {query}"))
            if plain is not False:
                return
        try:
            wrong = conn.execute(COMPARE, [IDS]).fetchall()
        except REFUSALS:
            self.log.append(f"{i}: no comparison")
            return
        self.compared += 1
        self.assertEqual(wrong, [], self.history(f"session {i} sees something else"))

    def history(self, what):
        return f"seed {self.seed}: {what}\n" + "\n".join(line[:160] for line in self.log[-80:])

    def run_steps(self, seed, steps):
        self.seed = seed
        self.compared = 0
        self.begin_run(seed)
        weighted = ((self.write, 40), (self.begin, 16), (self.end, 14), (self.savepoint, 8), (self.rollback_to, 6),
                    (self.prepared, 4), (self.fill, 6), (self.flood, 1), (self.vacuum, 8), (self.quiet, 2),
                    (self.change_table, 2), (self.rights, 3), (self.role, 3))
        kinds, weights = zip(*weighted)
        for _ in range(steps):
            i = self.rng.randrange(SESSIONS)
            if self.status(i) == TransactionStatus.INERROR:
                self.rng.choice((self.end, self.rollback_to))(i)
            else:
                self.rng.choices(kinds, weights)[0](i)
            for j in range(SESSIONS):
                self.compare(j)
        for conn in self.sessions:
            conn.close()
        return self.compared

    def test_model(self):
        before = self.admin.execute("SELECT hits, evictions FROM gpuagent.cache_stats()").fetchone()
        seeds = [int(os.environ["GA_TEST_SEED"])] if "GA_TEST_SEED" in os.environ else range(1, 2 if STEPS < 1000 else 13)
        for seed in seeds:
            compared = self.run_steps(seed, STEPS // len(seeds) if STEPS > 1000 else STEPS)
            self.assertGreater(compared, STEPS // len(seeds))
        after = self.admin.execute("SELECT hits, evictions FROM gpuagent.cache_stats()").fetchone()
        self.assertGreater(after[0] - before[0], STEPS)     # it was the cache that was compared


if __name__ == "__main__":
    unittest.main()
