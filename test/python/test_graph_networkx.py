"""Walks over knowledge graphs equal networkx on random graphs; where networkx leaves a tie open, our rule decides."""

import random
import unittest

import networkx as nx
import psycopg

GRAPH = "test/networkx"


def random_graph(seed, nodes, edges, types=("", "a", "b")):
    """A directed multigraph with self-loops, parallel edges, zero and equal weights, and nodes without edges."""
    rng = random.Random(seed)
    names = [f"n{i}" for i in range(nodes - 2)] + ["ü", "N0"]
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(names)
    while graph.number_of_edges() < edges:
        source, target, kind = rng.choice(names), rng.choice(names), rng.choice(types)
        if not graph.has_edge(source, target, kind):
            graph.add_edge(source, target, kind, weight=rng.choice([0.0, 0.5, 1.0, 1.0, 2.25, 7.0, rng.random()]))
    return graph


def key(name):
    """Our order of ids: bytewise."""
    return name.encode()


class Walks(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg.connect(autocommit=True)
        self.addCleanup(self.conn.close)
        self.addCleanup(self.conn.execute, "SELECT gpuagent.delete_knowledge_graph(%s)", [GRAPH])

    def store(self, graph):
        self.conn.execute("SELECT gpuagent.delete_knowledge_graph(%s)", [GRAPH])
        self.conn.execute("SELECT gpuagent.store_nodes(%s, %s)", [GRAPH, list(graph.nodes)])
        edges = list(graph.edges(keys=True, data="weight"))
        self.conn.execute("SELECT gpuagent.store_edges(%s, %s, %s, %s, %s)", [GRAPH, *(list(c) for c in zip(*edges))])

    def path(self, source, target, weighted, max_hops):
        return self.conn.execute("SELECT node, edge_type, weight FROM gpuagent.shortest_path(%s, %s, %s, %s, %s) ORDER BY ordinal",
                                 [GRAPH, source, target, weighted, max_hops]).fetchall()

    def expand(self, seeds, hops, **options):
        named = "".join(f", {name} => %s" for name in options)
        return self.conn.execute(f"SELECT * FROM gpuagent.expand_knowledge_graph(%s, %s, %s{named})",
                                 [GRAPH, seeds, hops, *options.values()]).fetchall()

    def check_path(self, graph, rows, source, target):
        """The rows are a path of the graph from source to target, with the weights of its edges."""
        self.assertEqual((rows[0], rows[-1][0]), ((source, None, None), target))
        for (a, _, _), (b, kind, weight) in zip(rows, rows[1:]):
            self.assertEqual(graph[a][b][kind]["weight"], weight)

    def test_shortest_paths(self):
        for seed in range(6):
            graph = random_graph(seed, 30, 70)
            self.store(graph)
            rng = random.Random(seed)
            for _ in range(40):
                source, target = rng.choice(list(graph.nodes)), rng.choice(list(graph.nodes))
                rows = self.path(source, target, False, 100)
                cheap = self.path(source, target, True, 100)
                if not nx.has_path(graph, source, target):
                    self.assertEqual((rows, cheap), ([], []))
                    continue
                self.check_path(graph, rows, source, target)
                self.assertEqual(len(rows) - 1, nx.shortest_path_length(graph, source, target))
                self.check_path(graph, cheap, source, target)
                self.assertAlmostEqual(sum(w for _, _, w in cheap[1:]),
                                       nx.dijkstra_path_length(graph, source, target), delta=1e-12)

    def test_hops_bound_both(self):
        """max_hops: the cheapest among the paths of so many edges, by dynamic programming over edges."""
        for seed in range(4):
            graph = random_graph(100 + seed, 20, 60)
            self.store(graph)
            source = "n0"
            for max_hops in range(0, 6):
                cost = {source: 0.0}
                for _ in range(max_hops):
                    better = dict(cost)
                    for a, b, weight in graph.edges(data="weight"):
                        if a in cost and cost[a] + weight < better.get(b, float("inf")):
                            better[b] = cost[a] + weight
                    cost = better
                for target in graph.nodes:
                    rows = self.path(source, target, True, max_hops)
                    if target not in cost:
                        self.assertEqual(rows, [])
                        continue
                    self.check_path(graph, rows, source, target)
                    self.assertLessEqual(len(rows) - 1, max_hops)
                    self.assertAlmostEqual(sum(w for _, _, w in rows[1:]), cost[target], delta=1e-12)
                    hops = self.path(source, target, False, max_hops)
                    self.assertEqual(len(hops) - 1, nx.shortest_path_length(graph, source, target))

    def test_expansion(self):
        for seed in range(6):
            graph = random_graph(200 + seed, 40, 60)
            self.store(graph)
            views = {"out": graph, "in": graph.reverse(), "both": nx.MultiDiGraph(graph.to_undirected(as_view=True))}
            for direction, view in views.items():
                for hops in (0, 1, 2, 5):
                    seeds = ["n1", "ü", "n5"]
                    distance = {}
                    for seed_node in seeds:
                        for node, d in nx.single_source_shortest_path_length(view, seed_node, cutoff=hops).items():
                            distance[node] = min(d, distance.get(node, d))
                    rows = self.expand(seeds, hops, direction=direction)
                    expected = sorted(distance.items(), key=lambda item: (item[1], key(item[0])))
                    self.assertEqual([(node, hop) for node, hop, *_ in rows], expected)
                    self.check_parents(graph, direction, distance, rows)
                    short = self.expand(seeds, hops, direction=direction, max_nodes=7)
                    self.assertEqual(short, rows[:7])

    def check_parents(self, graph, direction, distance, rows):
        """Of the edges from the hop before, the one of least (parent, type, weight)."""
        for node, hop, parent, kind, weight in rows:
            ways = []
            if direction != "in":
                ways += [(a, k, w) for a, _, k, w in graph.in_edges(node, keys=True, data="weight")]
            if direction != "out":
                ways += [(b, k, w) for _, b, k, w in graph.out_edges(node, keys=True, data="weight")]
            ways = [way for way in ways if distance.get(way[0]) == hop - 1]
            expected = min(ways, key=lambda way: (key(way[0]), key(way[1]), way[2])) if hop else (None, None, None)
            self.assertEqual((parent, kind, weight), expected)

    def test_filters(self):
        for seed in range(4):
            graph = random_graph(300 + seed, 30, 80)
            self.store(graph)
            kept = nx.MultiDiGraph()
            kept.add_nodes_from(graph.nodes)
            kept.add_edges_from((a, b, k) for a, b, k, w in graph.edges(keys=True, data="weight") if k in ("", "b") and w >= 1)
            rows = self.expand(["n2"], 50, direction="out", edge_types=["", "b"], min_weight=1.0)
            self.assertEqual({row[0]: row[1] for row in rows}, dict(nx.single_source_shortest_path_length(kept, "n2")))

    def test_nearest(self):
        """search_knowledge_graph: the k nearest by NumPy's cosine, then their neighbours."""
        import numpy as np
        rng = np.random.default_rng(5)
        vectors = rng.standard_normal((200, 16)).astype("f4")
        ids = [f"v{i:03}" for i in range(200)]
        self.conn.execute("SELECT gpuagent.store_nodes(%s, %s, %s::gpuagent.agent_state::gpuagent.swarm_tensor)",
                          [GRAPH, ids, str(vectors.tolist())])
        self.conn.execute("SELECT gpuagent.store_edges(%s, %s, %s)", [GRAPH, ids[:-1], ids[1:]])
        query = rng.standard_normal(16).astype("f4")
        cosine = 1 - vectors.astype("f8") @ query / np.linalg.norm(vectors.astype("f8"), axis=1) / np.linalg.norm(query.astype("f8"))
        order = np.argsort(cosine, kind="stable")[:5]
        rows = self.conn.execute("SELECT node, hop, distance FROM gpuagent.search_knowledge_graph(%s, %s, 5, 1, direction => 'out')",
                                 [GRAPH, str(query.tolist())]).fetchall()
        self.assertEqual([row[0] for row in rows if row[1] == 0], [ids[i] for i in order])
        neighbours = {ids[i + 1] for i in order if i + 1 < 200} - {ids[i] for i in order}
        self.assertEqual({row[0] for row in rows if row[1] == 1}, neighbours)
        for node, _, distance in rows:
            self.assertAlmostEqual(distance, cosine[ids.index(node)], places=6)


if __name__ == "__main__":
    unittest.main()
