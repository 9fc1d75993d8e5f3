"""storage_stats() against a count of our own: tables read row by row, trees walked in Python."""

import unittest

import numpy as np
import psycopg
from test_previous import step
from test_store_hash import CHUNK, LEAF

NODE = 64


class StorageStatsTest(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg.connect()
        self.addCleanup(self.conn.close)
        self.addCleanup(self.conn.rollback)
        self.rng = np.random.default_rng(2)
        self.conn.execute("TRUNCATE gpuagent_store.chunk, gpuagent_store.chunk_delta, gpuagent_store.node, gpuagent_store.tensor, gpuagent.swarm,"
                          " gpuagent.expert, gpuagent.checkpoint_item, gpuagent.agent, gpuagent.graph CASCADE")

    def rows(self, query, *args):
        return self.conn.execute(query, args, binary=True).fetchall()

    def fill(self):
        """Versions that share chunks, with deltas, nodes on two levels, a duplicate, garbage and a base that only a delta needs."""
        store = "SELECT gpuagent.store_swarm(%s, gpuagent.tensor('F32', ARRAY[%s::bigint], %b))"
        weights = "SELECT gpuagent.store_weights(%s, %s, gpuagent.tensor('F32', ARRAY[%s::bigint], %b), gpuagent.tensor('F32', ARRAY[%s::bigint], %b))"
        version = lambda: self.conn.execute("UPDATE gpuagent.swarm SET version_at = NULL")
        data = self.rng.standard_normal(3 * LEAF // 4).astype(np.float32).tobytes()
        for swarm in ("gone", "a", "b"):
            for _ in range(3):
                self.rows(store, swarm, len(data) // 4, data)
                version()
                data = step(data, 4, self.rng)
            data = data[4:] + data[:4]
        for swarm in ("large", "again"):
            self.rows("SELECT gpuagent.store_swarm(%s, gpuagent.tensor('U8', ARRAY[%s::bigint], decode(repeat('00', %s), 'hex') || %b))",
                      swarm, 65 * CHUNK + 8, 65 * CHUNK, data[:8])
        self.rows(store, "empty", 0, b"")
        for layer in ("x", "y"):
            self.rows(weights, "m", layer, len(data) // 4, data, 4, data[:16])
        self.rows("SELECT gpuagent.create_checkpoint()")
        # Only deltas need the first version's chunk; of a swarm that is gone, deltas need nothing.
        self.conn.execute("DELETE FROM gpuagent.swarm_version WHERE version = 1 AND swarm IN ('a', 'b')")
        self.conn.execute("DELETE FROM gpuagent.checkpoint_item WHERE object IN ('swarm:a', 'swarm:gone')")
        self.conn.execute("DELETE FROM gpuagent.swarm_version WHERE swarm = 'gone'")
        self.conn.execute("INSERT INTO gpuagent_store.chunk SELECT * FROM gpuagent_store.chunk LIMIT 1")
        self.rows("SELECT gpuagent.store_chunk(gpuagent.tensor('U8', '{999}', %b))", self.rng.bytes(999))
        self.rows("SELECT gpuagent.store_agents(ARRAY['p', 'q'], '[[1,2,3],[4,5,6]]', '[[1],[2]]')")
        self.rows("SELECT gpuagent.store_nodes('g', ARRAY['n', 'm'], '[[1,2],[3,4]]')")

    def count(self):
        """What storage_stats() should say, but for stored_bytes of tables."""
        chunks = {}
        for kind in ("chunk", "chunk_delta"):
            for digest, nbytes, size in self.rows(f"SELECT hash, nbytes, octet_length(data) FROM gpuagent_store.{kind}"):
                entry = chunks.setdefault(digest, {"raw": nbytes, "chunk": [], "chunk_delta": []})
                entry[kind].append(size)
        nodes = {d: [c[i:i + 32] for i in range(0, len(c), 32)] for d, c in self.rows("SELECT hash, children FROM gpuagent_store.node")}
        tensors = {d: (n, r) for d, n, r in self.rows("SELECT hash, nbytes, root FROM gpuagent_store.tensor")}
        deltas = self.rows("SELECT hash, base FROM gpuagent_store.chunk_delta")

        def reach(digest):
            return set().union(*map(reach, nodes[digest])) if digest in nodes else {digest}

        references = {
            "swarms": [(s, t) for s, t in self.rows("SELECT swarm, tensor FROM gpuagent.swarm_version")],
            "weights": [(e, t) for e, w, b in self.rows("SELECT expert, weights, biases FROM gpuagent.weight_version") for t in (w, b) if t],
            "checkpoints": [(o, t) for o, w, b in self.rows("SELECT object, tensor, biases FROM gpuagent.checkpoint_item") for t in (w, b) if t],
        }
        sizes = lambda found, *kinds: sum(sum(chunks[d][kind]) for d in found for kind in kinds)
        raw = lambda found: sum(chunks[d]["raw"] for d in found)
        lines, reached = {}, set()
        for kind, pairs in references.items():
            found = set().union(*(reach(tensors[t][1]) for _, t in pairs if tensors[t][0]))
            reached |= found
            total = sum(tensors[t][0] for _, t in pairs)
            lines[kind] = (len({o for o, _ in pairs}), len(pairs), total, sizes(found, "chunk", "chunk_delta"), total - raw(found), sizes(found, "chunk_delta"))
        rest = set(chunks) - reached
        bases = {base for digest, base in deltas if digest in reached}
        for kind, found in (("bases", {d for d in rest if d in bases}), ("garbage", {d for d in rest if d not in bases}), ("store", set(chunks))):
            rows = sum(len(chunks[d]["chunk"]) + len(chunks[d]["chunk_delta"]) for d in found)
            lines[kind] = (len(found), rows, raw(found), sizes(found, "chunk", "chunk_delta"),
                           sum(line[2] for k, line in lines.items() if k in references) - raw(reached) if kind == "store" else 0, sizes(found, "chunk_delta"))
        return lines

    def test_counts(self):
        self.fill()
        for source in ("gpuagent.storage_stats()", "gpuagent.stat_storage"):
            lines = {row[0]: row[1:] for row in self.rows(f"SELECT * FROM {source}")}
            self.assertEqual(list(lines), ["agents", "graphs", "swarms", "weights", "checkpoints", "bases", "garbage", "store"])
            for kind, expected in self.count().items():
                with self.subTest(kind=kind):
                    self.assertEqual(lines[kind][:6], expected)
                    if expected[2]:
                        self.assertAlmostEqual(lines[kind][6], expected[3] / expected[2])
            for kind in ("swarms", "weights", "checkpoints", "bases", "garbage", "store"):
                self.assertGreater(lines[kind][3], 0, kind)
                self.assertEqual(lines[kind][7], self.rows("SELECT pg_size_pretty(%s::bigint)", lines[kind][3])[0][0])
            self.assertEqual(lines["agents"][:3], (2, 2, self.rows("SELECT sum(gpuagent.nbytes(state) + gpuagent.nbytes(memory))::bigint FROM gpuagent.agent")[0][0]))
            self.assertEqual(lines["graphs"][:3], (1, 2, self.rows("SELECT sum(gpuagent.nbytes(embedding))::bigint FROM gpuagent.graph_node")[0][0]))
            self.assertEqual(lines["agents"][3], self.rows("SELECT pg_total_relation_size('gpuagent.agent')")[0][0])

    def test_sample(self):
        """An estimate from part of the chunks is near what all of them say."""
        n = 20000
        self.conn.execute("INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, crc, data)"
                          " SELECT sha256(int4send(i)), 1000 + i % 7, 0, 0, convert_to(repeat('x', 50 + i %% 11), 'UTF8') FROM generate_series(1, %s) i".replace("i % 7", "i %% 7"), (n,))
        (full,) = self.rows("SELECT objects, raw_bytes, stored_bytes FROM gpuagent_store.chunk_usage(decode(repeat('ff', 33), 'hex')) WHERE kind = 'store'")
        below = self.rows("SELECT gpuagent_store.sample_below(4000)")[0][0]
        self.assertEqual(len(below), 2)
        scale = 65536 / int.from_bytes(below, "big")
        self.assertGreater(scale, 4)
        (part,) = self.rows("SELECT objects, raw_bytes, stored_bytes FROM gpuagent_store.chunk_usage(%s) WHERE kind = 'store'", below)
        for a, b in zip(full, part):
            self.assertAlmostEqual(b * scale / a, 1, delta=0.1)


if __name__ == "__main__":
    unittest.main()
