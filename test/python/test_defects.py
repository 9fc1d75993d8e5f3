"""Defects of earlier systems of this kind that no other test would have caught (test/DEFECTS.md has them all)."""
import os
import pathlib
import struct
import unittest

import numpy as np
import psycopg

from shared import SharedConnection
from test_safetensors import by_package, file_of


class DefectsTest(SharedConnection):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.storage = pathlib.Path(cls.one("SELECT gpuagent_store.storage_path()"))
        cls.forget()

    @classmethod
    def tearDownClass(cls):
        cls.forget()

    @classmethod
    def one(cls, query, *params):
        row = cls.conn.execute(query, params).fetchone()
        return row and row[0]

    @classmethod
    def forget(cls):
        cls.conn.execute("SELECT gpuagent.delete_agents(prefix => 'df/'), gpuagent.delete_swarm('df.swarm'), gpuagent.delete_expert('df.net')")
        cls.conn.execute("SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint WHERE label LIKE 'df %'")

    def store(self, array):
        return self.one("SELECT gpuagent.store_swarm('df.swarm', gpuagent.tensor('F32', %s, %b))", list(array.shape), array.tobytes())

    def swarm(self, version=None):
        return self.one("SELECT gpuagent.tensor_bytes(gpuagent.retrieve_swarm('df.swarm', %s))", version)

    def test_constant_tensors_and_long_chains_of_small_changes(self):
        """Deltas lose nothing: a constant vector does not come back as zeros, and 60 small steps do not drift."""
        array = np.full((300, 1000), 0.7071, "f4")
        rng = np.random.default_rng(1)
        versions = {}
        for step in range(60):
            versions[self.store(array)] = array.tobytes()
            array = array.copy()
            if step % 3 == 0:
                array *= np.float32(1 + 1e-6)
            else:
                array[rng.integers(300)] += np.float32(1e-7)
        for version in sorted(versions)[-10:]:
            self.assertEqual(self.swarm(version), versions[version], version)

    def test_ratios_are_of_bytes(self):
        """What a tensor takes is counted, not assumed: zeros take next to nothing, noise takes what it has."""
        taken = {}
        for name, data in (("zeros", bytes(1 << 20)), ("noise", os.urandom(1 << 20))):
            taken[name] = self.conn.execute("SELECT new_bytes, nbytes FROM gpuagent.import_safetensors('df.net', data => %b)",
                                            (file_of({name: ("U8", [1 << 20], data)}),)).fetchone()
        self.assertLess(taken["zeros"][0], 2000)
        self.assertGreaterEqual(taken["noise"][0], 1 << 20)

    def test_folders_are_made(self):
        """A path of several folders that are not there yet is written, and found again."""
        self.conn.execute("SELECT gpuagent.store_weights('df.net', 'a', '[1,2]')")
        name = f"agent/df/{os.getpid()}/deep/net"
        file = self.one("SELECT file FROM gpuagent.export_safetensors('df.net', %s)", name)
        self.assertEqual(file, name + ".safetensors")
        self.assertEqual(by_package((self.storage / file).read_bytes())["a"], ("F32", [2], struct.pack("<2f", 1, 2)))
        self.assertEqual(self.one("SELECT tensors FROM gpuagent.import_safetensors('df.net', %s)", name) > 0, True)

    def test_a_shorter_value_leaves_no_tail(self):
        """Neither in a file that is written over, nor in a row."""
        self.conn.execute("SELECT gpuagent.delete_expert('df.net')")
        self.conn.execute("SELECT gpuagent.store_weights('df.net', 'a', gpuagent.tensor('U8', '{1000000}', %b))", (bytes(1000000),))
        self.one("SELECT file FROM gpuagent.export_safetensors('df.net', 'python/df', overwrite => true)")
        before = np.memmap(self.storage / "python/df.safetensors", np.uint8, "r")
        kept = before.tobytes()
        self.conn.execute("SELECT gpuagent.store_weights('df.net', 'a', 'U8:[7]')")
        size = self.one("SELECT nbytes FROM gpuagent.export_safetensors('df.net', 'python/df', overwrite => true)")
        data = (self.storage / "python/df.safetensors").read_bytes()
        self.assertEqual((len(data), by_package(data)), (size, {"a": ("U8", [1], b"\x07")}))
        self.assertEqual(before.tobytes(), kept, "who has mapped the old file keeps it")
        self.conn.execute("SELECT gpuagent.store_agent('df/long', %s)", ("[" + ",".join("1" * 5000) + "]",))
        self.conn.execute("SELECT gpuagent.store_agent('df/long', '[2]')")
        self.assertEqual(self.one("SELECT gpuagent.tensor_bytes(state) FROM gpuagent.retrieve_agent('df/long')"), struct.pack("<f", 2))

    def test_names_below_names(self):
        """agent_exists() and prefixes at every depth; what is absent gives no rows, an error stays one."""
        for name in ("df/a", "df/a/b", "df/a/b/c"):
            self.conn.execute("SELECT gpuagent.store_agent(%s, '[1]')", (name,))
        self.assertEqual([self.one("SELECT gpuagent.agent_exists(%s)", n) for n in ("df/a", "df/a/b", "df/a/b/c", "df", "df/a/b/")], [True] * 3 + [False] * 2)
        self.assertEqual(self.one("SELECT count(*) FROM gpuagent.retrieve_agents(prefix => 'df/a/')"), 2)
        self.assertIsNone(self.one("SELECT id FROM gpuagent.retrieve_agent('df/none')"))
        with self.assertRaises(psycopg.errors.UndefinedObject):
            self.one("SELECT gpuagent.retrieve_swarm('df.none')")
        with self.conn.transaction(force_rollback=True):
            self.conn.execute("SELECT gpuagent.store_weights('df.bad', 'a', gpuagent.tensor('U8', '{100}', %b))", (bytes(100),))
            self.conn.execute("UPDATE gpuagent_store.chunk SET crc = crc # 1")
            with self.assertRaises(psycopg.errors.DataCorrupted):
                with self.conn.transaction():
                    self.conn.execute("SELECT * FROM gpuagent.load_weights('df.bad')").fetchall()

    def test_checkpoints_cost_what_changed(self):
        """1 % of the agents changed: the second checkpoint is not a copy of the first. None changed: nothing is written."""
        self.conn.execute("SELECT gpuagent.store_agents(array_agg('df/' || i ORDER BY i), gpuagent.stack(ARRAY[i, 1, 2, 3]::real[]::gpuagent.agent_state ORDER BY i))"
                          " FROM generate_series(1, 3000) i")

        def new_bytes(label):
            checkpoint = self.one("SELECT gpuagent.create_checkpoint(%s, '{agents:df/}')", label)
            return self.one("SELECT new_bytes FROM gpuagent.checkpoint WHERE id = %s", checkpoint)

        first = new_bytes("df 1")
        changed = self.conn.execute("UPDATE gpuagent.agent SET fitness = 1 WHERE id ~ '^df/[0-9]+00$'").rowcount
        self.assertEqual(changed, 30)
        second = new_bytes("df 2")
        self.assertLess(second, first * changed / 3000 * 1.5)
        self.assertEqual(new_bytes("df 3"), 0)

    def test_many_checkpoints_in_one_second(self):
        """Ids, uuids and folders differ however fast they come, and the newest stay, whatever their uuids."""
        for i in range(30):
            self.conn.execute("SELECT gpuagent.store_agent('df/fast', %s)", (f"[{i}]",))
            self.conn.execute("SELECT gpuagent.create_checkpoint(%s, '{agents:df/fast}')", (f"df fast {i:02}",))
        rows = self.conn.execute("SELECT id, uid, gpuagent_store.export_folder(id, uid), label FROM gpuagent.checkpoint WHERE label LIKE 'df fast%' ORDER BY id").fetchall()
        for column in range(3):
            self.assertEqual(len({row[column] for row in rows}), 30)
        self.assertEqual([row[3] for row in rows], [f"df fast {i:02}" for i in range(30)])
        with self.conn.transaction(force_rollback=True):
            self.conn.execute("SELECT gpuagent.prune_checkpoints(keep_last => 3)")
            kept = [row[0] for row in self.conn.execute("SELECT label FROM gpuagent.checkpoint WHERE label LIKE 'df fast%' ORDER BY id")]
        self.assertEqual(kept[-3:], ["df fast 27", "df fast 28", "df fast 29"])
        self.assertLess(len(kept), 30)

    def test_other_sessions_see_it(self):
        """Agents, graphs, weights and checkpoints of a session that has ended are there for others; a write that fails says so."""
        with psycopg.connect(autocommit=True) as other:
            other.execute("SELECT gpuagent.store_agent('df/seen', '[1,2]'), gpuagent.store_weights('df.net', 'seen', '[3]')")
            other.execute("SELECT gpuagent.store_nodes('df.graph', '{a,b}'), gpuagent.store_edges('df.graph', '{a}', '{b}')")
            checkpoint = other.execute("SELECT gpuagent.create_checkpoint('df seen', '{agents:df/seen}')").fetchone()[0]
        self.assertTrue(self.one("SELECT gpuagent.agent_exists('df/seen')"))
        self.assertEqual(self.one("SELECT count(*) FROM gpuagent.load_weights('df.net', 'seen')"), 1)
        self.assertEqual(self.one("SELECT count(*) FROM gpuagent.shortest_path('df.graph', 'a', 'b')"), 2)
        self.assertEqual(self.one("SELECT (SELECT count(*) FROM gpuagent.retrieve_population(prefix => 'df/seen', checkpoint => %s))", checkpoint), 1)
        self.conn.execute("SELECT gpuagent.delete_knowledge_graph('df.graph')")
        with self.assertRaises(psycopg.errors.ReadOnlySqlTransaction):
            with self.conn.transaction():
                self.conn.execute("SET TRANSACTION READ ONLY")
                self.conn.execute("SELECT gpuagent.store_agent('df/never', '[1]')")
        self.assertFalse(self.one("SELECT gpuagent.agent_exists('df/never')"))


if __name__ == "__main__":
    unittest.main()
