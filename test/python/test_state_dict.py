"""State dicts: what is saved is what is loaded, as one version, and chunks that the store has are not sent."""

import hashlib
import unittest
from unittest import mock

import numpy as np
import psycopg

import gpuagent
from gpuagent import Tensor, load_state_dict, save_state_dict

try:
    import torch
except ImportError:
    torch = None

MIB = 1024 * 1024


def model(seed=1):
    """Layers of many dtypes and ranks, some of them larger than a chunk and than a node of chunks."""
    rng = np.random.default_rng(seed)
    return {
        "embed.weight": rng.standard_normal((1000, 384)).astype("f4"),
        "attention.query.weight": rng.standard_normal((64, 64)).astype("f2"),
        "attention.query.bias": np.zeros(64, "f4"),
        "norm.num_batches_tracked": np.array(17),
        "step": np.float32(3),
        "mask": np.tri(5, dtype=bool),
        "empty": np.zeros((0, 3), "f8"),
        "brain": Tensor(rng.integers(0, 2**16, (300, 2000), dtype="u2"), "BF16"),
        "packed": Tensor(rng.integers(0, 256, 3 * MIB // 2, dtype="u1"), "F4", (3, MIB)),
        "large": rng.integers(0, 2**63, (9, MIB // 4), dtype="u8"),
        "not contiguous": np.arange(600_000, dtype="i4").reshape(600, 1000).T,
        "big-endian": np.arange(300_000, dtype=">f4"),
    }


def as_tensors(state_dict):
    return {name: Tensor(np.asarray(v) if isinstance(v, np.generic) else v) for name, v in state_dict.items()}


class StateDictTest(unittest.TestCase):
    expert = "python-state-dict"

    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)
        self.one("SELECT gpuagent.delete_expert(%s)", self.expert)
        self.addCleanup(self.one, "SELECT gpuagent.delete_expert(%s)", self.expert)

    def one(self, query, *params):
        return self.conn.execute(query, params).fetchone()[0]

    def assertSameModel(self, got, expected):
        self.assertEqual(sorted(got), sorted(expected))
        got, expected = as_tensors(got), as_tensors(expected)
        for name in expected:
            self.assertEqual(got[name], expected[name], name)

    def test_round_trip_in_either_way(self):
        for threshold in (0, MIB, 1 << 40):
            state_dict = model()
            version = save_state_dict(self.conn, self.expert, state_dict, part_threshold=threshold)
            got = load_state_dict(self.conn, self.expert)
            self.assertSameModel(got, state_dict)
            self.assertEqual(got["step"].shape, ())
            self.assertTrue(all(v.flags.writeable for v in got.values() if isinstance(v, np.ndarray)))
            self.assertIsInstance(got["packed"], Tensor)
            stored = self.one("SELECT version FROM gpuagent.expert WHERE expert = %s", self.expert)
            self.assertEqual(stored, version)
        self.assertEqual(version, 3)

    def test_large_tensors_are_read_in_chunks(self):
        packed = Tensor(np.frombuffer(np.random.default_rng(5).bytes(9 * MIB + 3), "u1"), "F6_E3M2", (4, 3 * MIB + 1))
        state_dict = {"a": np.arange(5 * MIB // 2 + 1, dtype="u4"), "b": packed}
        save_state_dict(self.conn, self.expert, state_dict)
        stream, queries = psycopg.Cursor.stream, []
        with mock.patch.object(psycopg.Cursor, "stream", lambda *a, **o: queries.append(a[1]) or stream(*a, **o)):
            self.assertSameModel(load_state_dict(self.conn, self.expert), state_dict)
        self.assertEqual(sum("tensor_chunks" in q for q in queries), 2)

    def test_hash_equals_the_servers(self):
        gpuagent.register(self.conn)
        for size in (1, 64 * 1024, 64 * 1024 + 1, MIB - 1, MIB):
            data = np.frombuffer(np.random.default_rng(size).bytes(size), "u1")
            with self.conn.transaction(force_rollback=True):
                stored = self.one("SELECT gpuagent.store_chunk(%s)", data)
            self.assertEqual(gpuagent._chunk_hash(memoryview(data)), stored)
        leaf = hashlib.sha256(b"abc").digest()
        expected = hashlib.sha256(b"gpuagent/chunk/1" + (3).to_bytes(8, "little") + leaf).digest()
        self.assertEqual(gpuagent._chunk_hash(memoryview(b"abc")), expected)

    def sent(self, state_dict):
        """Chunks that saving sends."""
        chunks = 0
        executemany = psycopg.Cursor.executemany

        def count(cur, query, rows, **options):
            nonlocal chunks
            if "store_chunk" in query:
                chunks += len(rows)
            return executemany(cur, query, rows, **options)

        with mock.patch.object(psycopg.Cursor, "executemany", count):
            save_state_dict(self.conn, self.expert, state_dict, part_threshold=MIB)
        return chunks

    def test_only_new_chunks_are_sent(self):
        rng = np.random.default_rng()
        same = np.full((70, MIB // 8), rng.random())
        state_dict = {"a": rng.integers(0, 2**32, (20, MIB // 4), dtype="u4"), "b": same}
        self.assertEqual(self.sent(state_dict), 20 + 1)
        self.assertEqual(self.sent(state_dict), 0)
        state_dict["a"][7, 5] += 1
        self.assertEqual(self.sent(state_dict), 1)
        state_dict["tied"] = state_dict["a"]
        self.assertEqual(self.sent(state_dict), 0)
        self.assertSameModel(load_state_dict(self.conn, self.expert), state_dict)
        state_dict["a"][7, 5] -= 1
        del state_dict["tied"]
        self.assertSameModel(load_state_dict(self.conn, self.expert, version=2), state_dict)

    def test_versions(self):
        first, second = {"a": np.zeros(3, "f4"), "b": np.ones(2)}, {"a": np.ones(3, "f4"), "c": np.ones(1)}
        self.assertEqual(save_state_dict(self.conn, self.expert, first), 1)
        self.assertEqual(save_state_dict(self.conn, self.expert, second), 2)
        self.assertSameModel(load_state_dict(self.conn, self.expert), second)
        self.assertSameModel(load_state_dict(self.conn, self.expert, version=1), first)
        self.assertEqual(save_state_dict(self.conn, self.expert, {"b": np.zeros(1)}, partial=True), 3)
        self.assertSameModel(load_state_dict(self.conn, self.expert), {**second, "b": np.zeros(1)})

    def test_one_transaction_is_one_version(self):
        with self.conn.transaction():
            self.assertEqual(save_state_dict(self.conn, self.expert, {"a": np.zeros(3)}), 1)
            self.assertEqual(save_state_dict(self.conn, self.expert, {"b": np.zeros(3)}, partial=True), 1)
        self.assertEqual(sorted(load_state_dict(self.conn, self.expert)), ["a", "b"])
        with self.conn.transaction(force_rollback=True):
            save_state_dict(self.conn, self.expert, {"c": np.zeros(3)})
        self.assertEqual(sorted(load_state_dict(self.conn, self.expert)), ["a", "b"])

    def test_expected_version(self):
        large = {"a": np.zeros(MIB, "u2")}
        self.assertEqual(save_state_dict(self.conn, self.expert, large, expected_version=0, part_threshold=0), 1)
        self.assertEqual(save_state_dict(self.conn, self.expert, large, expected_version=1, part_threshold=0), 2)
        with self.assertRaises(psycopg.errors.SerializationFailure):
            save_state_dict(self.conn, self.expert, {"a": np.ones(3)}, expected_version=1)
        self.assertSameModel(load_state_dict(self.conn, self.expert), large)

    def test_what_is_refused(self):
        for bad in (3, 0.5, [1.0], {"nested": np.zeros(2)}, None, "x", b"x"):
            with self.assertRaisesRegex(TypeError, "'lr' is a"):
                save_state_dict(self.conn, self.expert, {"a": np.zeros(3), "lr": bad})
        with self.assertRaisesRegex(TypeError, "not a string"):
            save_state_dict(self.conn, self.expert, {1: np.zeros(3)})
        with self.assertRaisesRegex(ValueError, "empty"):
            save_state_dict(self.conn, self.expert, {})
        with self.assertRaises(psycopg.DataError):
            save_state_dict(self.conn, self.expert, {"a": np.zeros(3), "b": np.zeros(3, "c16")})
        with self.assertRaises(LookupError):
            load_state_dict(self.conn, self.expert)
        with self.assertRaisesRegex(ValueError, "framework"):
            load_state_dict(self.conn, self.expert, framework="jax")
        with self.assertRaisesRegex(TypeError, "Connection"):
            save_state_dict(None, self.expert, {"a": np.zeros(3)})

    def test_layers_with_biases(self):
        gpuagent.register(self.conn)
        self.one("SELECT gpuagent.store_weights(%s, 'l1', %s, %s)", self.expert, np.ones((2, 2)), np.zeros(2))
        expected = {"l1.weight": np.ones((2, 2)), "l1.bias": np.zeros(2)}
        self.assertSameModel(load_state_dict(self.conn, self.expert), expected)

    def test_from_a_checkpoint(self):
        gpuagent.register(self.conn)
        first = {"a": np.zeros(3, "f4"), "large": np.arange(3 * MIB, dtype="f4")}
        save_state_dict(self.conn, self.expert, first)
        self.one("SELECT gpuagent.store_weights(%s, 'l1', %s, %s)", self.expert, np.ones((2, 2)), np.zeros(2))
        objects = ["expert:" + self.expert]
        with self.conn.transaction(force_rollback=True):
            checkpoint = self.one("SELECT gpuagent.create_checkpoint(objects => %s)", objects)
            save_state_dict(self.conn, self.expert, {"a": np.ones(3, "f4")})
            expected = {**first, "l1.weight": np.ones((2, 2)), "l1.bias": np.zeros(2)}
            self.assertSameModel(load_state_dict(self.conn, self.expert, checkpoint=checkpoint), expected)
            self.assertEqual(list(load_state_dict(self.conn, self.expert)), ["a"])
            with self.assertRaises(psycopg.errors.InvalidParameterValue):
                load_state_dict(self.conn, self.expert, version=1, checkpoint=checkpoint)

    def test_rights(self):
        state_dict = {"a": np.ones(3 * MIB, "u1"), "b": np.ones(2)}
        save_state_dict(self.conn, self.expert, state_dict, part_threshold=MIB)
        for level in ("read", "write"):
            role = f"python_state_dict_{level}"
            self.conn.execute(f"DROP ROLE IF EXISTS {role}")
            self.conn.execute(f"CREATE ROLE {role}")
            self.addCleanup(self.conn.execute, f"DROP OWNED BY {role}; DROP ROLE {role}")
            self.one("SELECT gpuagent.grant_access(%s, %s)", role, level)
            with psycopg.connect(options=f"-c role={role}") as conn:
                self.assertSameModel(load_state_dict(conn, self.expert), state_dict)
                if level == "read":
                    with self.assertRaises(psycopg.errors.InsufficientPrivilege):
                        save_state_dict(conn, self.expert, {"a": np.zeros(2)})
                else:
                    changed = {"b": np.zeros(2 * MIB + 5, "u1")}
                    save_state_dict(conn, self.expert, changed, part_threshold=MIB)
                    self.assertSameModel(load_state_dict(conn, self.expert), changed)

    def test_any_connection(self):
        state_dict = {"a": np.zeros(3 * MIB, "u1"), "b": np.ones(2)}
        for options in (
            {"row_factory": psycopg.rows.dict_row},
            {"cursor_factory": psycopg.ClientCursor, "autocommit": True},
            {"prepare_threshold": None},
        ):
            with psycopg.connect(**options) as conn:
                save_state_dict(conn, self.expert, state_dict, part_threshold=MIB)
                self.assertSameModel(load_state_dict(conn, self.expert), state_dict)

    if torch:

        def test_torch(self):
            layer = torch.nn.Sequential(torch.nn.Linear(300, 900), torch.nn.BatchNorm1d(900)).bfloat16()
            state_dict = layer.state_dict()
            save_state_dict(self.conn, self.expert, state_dict, part_threshold=100_000)
            got = load_state_dict(self.conn, self.expert, framework="torch")
            layer.load_state_dict(got)
            for name, tensor in state_dict.items():
                self.assertEqual((got[name].dtype, got[name].shape), (tensor.dtype, tensor.shape))
                self.assertEqual(Tensor(got[name]), Tensor(tensor))


class SwarmTest(unittest.TestCase):
    swarm = "python-swarm"

    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)
        gpuagent.register(self.conn)
        self.conn.execute("SELECT gpuagent.delete_swarm(%s)", [self.swarm])
        self.addCleanup(self.conn.execute, "SELECT gpuagent.delete_swarm(%s)", [self.swarm])

    def read(self, version):
        rows = self.conn.execute(
            "SELECT data FROM gpuagent.swarm_chunks(%s, %s)", [self.swarm, version], binary=True
        ).fetchall()
        return np.concatenate([data for (data,) in rows])

    def chunks(self):
        return self.conn.execute("SELECT count(*) FROM gpuagent_store.chunk").fetchone()[0]

    def test_versions_send_what_changed(self):
        first = np.random.default_rng(7).standard_normal((20_000, 256)).astype("f4")
        second = first.copy()
        second[12_345] = 0
        before = self.chunks()
        self.assertEqual(gpuagent.store_swarm(self.conn, self.swarm, first, metadata={"n": 1}, expected_version=0), 1)
        self.assertEqual(self.chunks(), before + 20)
        self.assertEqual(gpuagent.store_swarm(self.conn, self.swarm, second), 2)
        self.assertEqual(self.chunks(), before + 21)
        np.testing.assert_array_equal(self.read(1), first)
        np.testing.assert_array_equal(self.read(2), second)
        metadata = self.conn.execute(
            "SELECT metadata FROM gpuagent.swarm_version WHERE swarm = %s AND version = 1", [self.swarm]
        ).fetchone()[0]
        self.assertEqual(metadata, {"n": 1})
        with self.assertRaises(psycopg.errors.SerializationFailure):
            gpuagent.store_swarm(self.conn, self.swarm, first, expected_version=1)


if __name__ == "__main__":
    unittest.main()
