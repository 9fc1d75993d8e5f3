"""Agents against a model: random stores, deletions and reads give what a dictionary gives."""

import random
import unittest

import numpy as np
import psycopg

import gpuagent

PREFIX = "model/"
NAMES = [f"{PREFIX}{kind}/{i}" for kind in "ab" for i in range(60)]


class Model(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)
        gpuagent.register(self.conn)
        self.conn.execute("SELECT gpuagent.delete_agents(prefix => %s)", [PREFIX])
        self.addCleanup(self.conn.execute, "SELECT gpuagent.delete_agents(prefix => %s)", [PREFIX])
        self.agents = {}

    def one(self, query, *args):
        return self.conn.execute(query, args, binary=True).fetchone()

    def random_columns(self, rng, n):
        """Arguments of store_agents, and per column the values they stand for; a column that is left out is not there."""
        arguments, values = {}, {}
        for name, width in (("states", 4), ("memories", 2)):
            if rng.random() < 0.6:
                arguments[name] = np.array([[rng.random() for _ in range(width)] for _ in range(n)], "f4").reshape(n, width)
                values[name] = [row.tobytes() for row in arguments[name]]
        if rng.random() < 0.6:
            arguments["generation"] = rng.randrange(5)
            values["generation"] = [arguments["generation"]] * n
        if rng.random() < 0.6:
            arguments["fitness"] = [rng.choice([None, float("-inf"), rng.random(), 0.5]) for _ in range(n)]
            values["fitness"] = arguments["fitness"]
        if rng.random() < 0.4:
            many = [rng.choice([None, {"n": i}]) for i in range(n)]
            arguments["metadata"] = psycopg.types.json.Jsonb(many if rng.random() < 0.5 else {"all": n})
            values["metadata"] = [m or {} for m in many] if isinstance(arguments["metadata"].obj, list) else [{"all": n}] * n
        return arguments, values

    def expect(self, ids, values):
        fresh = {"states": None, "memories": None, "generation": 0, "fitness": None, "metadata": {}, "version": 0}
        for i, name in enumerate(ids):
            agent = self.agents.setdefault(name, dict(fresh))
            agent.update((column, column_values[i]) for column, column_values in values.items())
            agent["version"] += 1

    def store(self, rng):
        ids = rng.sample(NAMES, rng.choice([0, 1, 5, 15, 16, 17, 40, 120]))
        arguments, values = self.random_columns(rng, len(ids))
        wrong = False
        if rng.random() < 0.3:
            versions = [self.agents[name]["version"] if name in self.agents else 0 for name in ids]
            wrong = bool(ids) and rng.random() < 0.4
            if wrong:
                versions[rng.randrange(len(ids))] += 1
            arguments["expected_versions"] = versions
        named = "".join(f", {name} => %b" if name in ("states", "memories") else f", {name} => %s" for name in arguments)
        call = f"SELECT gpuagent.store_agents(%s{named})"
        if wrong:
            with self.assertRaises(psycopg.errors.SerializationFailure):
                self.one(call, ids, *arguments.values())
            return
        self.assertEqual(self.one(call, ids, *arguments.values()), (len(ids),))
        self.expect(ids, values)

    def store_one(self, rng):
        arguments, values = self.random_columns(rng, 1)
        name = rng.choice(NAMES)
        single = {"states": "state", "memories": "memory"}
        # Omitted and NULL are one for a single agent.
        values = {column: value for column, value in values.items() if value[0] is not None}
        if "metadata" in values:
            arguments["metadata"] = psycopg.types.json.Jsonb(values["metadata"][0])
        if "fitness" in arguments:
            arguments["fitness"] = arguments["fitness"][0]
        for column in single:
            if column in arguments:
                arguments[column] = arguments[column][0]
        named = "".join(f", {single.get(c, c)} => %b" if c in single else f", {c} => %s" for c in arguments)
        version = self.one(f"SELECT gpuagent.store_agent(%s{named})", name, *arguments.values())[0]
        self.expect([name], values)
        self.assertEqual(version, self.agents[name]["version"])

    def delete(self, rng):
        ids, generation, prefix = (rng.sample(NAMES, 20) if rng.random() < 0.5 else None,
                                   rng.randrange(5) if rng.random() < 0.3 else None, rng.choice([PREFIX, PREFIX + "a/1"]))
        gone = [name for name, agent in self.agents.items() if (ids is None or name in ids)
                and (generation is None or agent["generation"] == generation) and name.startswith(prefix)]
        if len(gone) == len(self.agents):
            return
        self.assertEqual(self.one("SELECT gpuagent.delete_agents(%s::text[], %s, %s)", ids, generation, prefix), (len(gone),))
        for name in gone:
            del self.agents[name]

    def selected(self, ids, generation, prefix, best):
        """Names that a selection gives, in its order."""
        def fits(name):
            return (name in self.agents and name.startswith(prefix)
                    and (generation is None or self.agents[name]["generation"] == generation))

        names = [name for name in (sorted(self.agents) if ids is None else ids) if fits(name)]
        if best is not None:
            def rank(name):
                fitness = self.agents[name]["fitness"]
                return (fitness is None, -fitness if fitness is not None else 0, name)
            names = sorted(names, key=rank)[:best]
        return names

    def read(self, rng):
        selection = (rng.sample(NAMES, 30) if rng.random() < 0.4 else None, rng.randrange(5) if rng.random() < 0.3 else None,
                     rng.choice([PREFIX, PREFIX + "b/"]), rng.choice([None, 0, 3, 50]))
        names = self.selected(*selection)
        rows = self.conn.execute("SELECT id, gpuagent.tensor_bytes(state), gpuagent.tensor_bytes(memory), generation, fitness,"
                                 " metadata, version FROM gpuagent.retrieve_agents(%s::text[], %s, %s, %s)",
                                 selection, binary=True).fetchall()
        self.assertEqual([tuple(row) for row in rows], [(name, *self.agents[name].values()) for name in names])
        wanted = [self.agents[name] for name in names]
        call = "SELECT * FROM gpuagent.retrieve_population(%s::text[], %s, %s, %s)"
        for column in ("states", "memories"):
            if len({agent[column] is None for agent in wanted}) == 2:
                with self.assertRaises(psycopg.errors.NullValueNotAllowed):
                    self.one(call, *selection)
                return
        ids, states, memories, generations, fitness, versions = self.one(call, *selection)
        self.assertEqual((ids, generations, fitness, versions), (names, *([agent[column] for agent in wanted]
                                                                for column in ("generation", "fitness", "version"))))
        for matrix, column in ((states, "states"), (memories, "memories")):
            self.assertEqual([row.tobytes() for row in matrix] if matrix is not None else [None] * len(names),
                             [agent[column] for agent in wanted])

    def test_random_history(self):
        for seed in range(4):
            rng = random.Random(seed)
            for _ in range(120):
                rng.choice([self.store, self.store, self.store_one, self.delete, self.read, self.read])(rng)


if __name__ == "__main__":
    unittest.main()
