"""Walks over knowledge graphs equal networkx on random graphs; where networkx leaves a tie open, our rule decides."""

import os
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

    def test_hubs_and_many_edges(self):
        """Few nodes have most of the edges: expansions and paths of a graph that is larger in the long form."""
        nodes, edges, pairs = (2000, 20000, 30) if os.environ.get("GA_TEST_LONG") else (600, 6000, 40)
        rng = random.Random(7)
        graph = nx.MultiDiGraph()
        graph.add_nodes_from(f"n{i:05}" for i in range(nodes))
        names = list(graph.nodes)
        rng.shuffle(names)
        while graph.number_of_edges() < edges:
            a, b = (names[int(nodes * rng.random() ** 4)] for _ in range(2))
            if not graph.has_edge(a, b, kind := rng.choice(["", "a", "b"])):
                graph.add_edge(a, b, kind, weight=rng.choice([1.0, 2.0, 0.25, rng.random()]))
        self.store(graph)
        for direction, view in (("out", graph), ("in", graph.reverse()), ("both", nx.MultiDiGraph(graph.to_undirected(as_view=True)))):
            seed = rng.choice(names)
            distance = nx.single_source_shortest_path_length(view, seed, cutoff=3)
            rows = self.expand([seed], 3, direction=direction, max_nodes=nodes)
            self.assertEqual([(node, hop) for node, hop, *_ in rows], sorted(distance.items(), key=lambda item: (item[1], key(item[0]))))
            self.check_parents(graph, direction, distance, rows)
            for limit in (1, 10, 300):
                self.assertEqual(self.expand([seed], 3, direction=direction, max_nodes=limit), rows[:limit])
        for _ in range(pairs):
            source, target = rng.choice(names), rng.choice(names)
            rows, cheap = self.path(source, target, False, 100), self.path(source, target, True, 100)
            if not nx.has_path(graph, source, target):
                self.assertEqual((rows, cheap), ([], []))
                continue
            self.check_path(graph, rows, source, target)
            self.check_path(graph, cheap, source, target)
            self.assertEqual(len(rows) - 1, nx.shortest_path_length(graph, source, target))
            self.assertAlmostEqual(sum(w for _, _, w in cheap[1:]), nx.dijkstra_path_length(graph, source, target), delta=1e-12)

    def test_filters(self):
        for seed in range(4):
            graph = random_graph(300 + seed, 30, 80)
            self.store(graph)
            kept = nx.MultiDiGraph()
            kept.add_nodes_from(graph.nodes)
            kept.add_edges_from((a, b, k) for a, b, k, w in graph.edges(keys=True, data="weight") if k in ("", "b") and w >= 1)
            rows = self.expand(["n2"], 50, direction="out", edge_types=["", "b"], min_weight=1.0)
            self.assertEqual({row[0]: row[1] for row in rows}, dict(nx.single_source_shortest_path_length(kept, "n2")))

    def test_ties_of_paths(self):
        """Among the cheapest paths those of fewest edges, of these by id and type of the last edge, then of the one before."""
        for seed in range(5):
            graph = random_graph(400 + seed, 24, 90)
            rng = random.Random(seed)
            for _, _, data in graph.edges(data=True):
                data["weight"] = float(rng.choice([0, 1, 1, 2, 3]))
            self.store(graph)
            for weighted in (False, True):
                for source in rng.sample(sorted(graph.nodes), 3):
                    ways = self.walks(graph, source, weighted, 9)
                    for max_hops in (1, 3, 9):
                        for target in graph.nodes:
                            self.assertEqual(self.path(source, target, weighted, max_hops), self.best_walk(ways, target, max_hops))

    def walks(self, graph, source, weighted, max_hops):
        """ways[h][node]: cost, parent, type, weight of the cheapest walk of h edges, ties by parent and type."""
        ways = [{source: (0.0, None, None, None)}]
        for _ in range(max_hops):
            found = {}
            for a, b, kind, weight in graph.edges(keys=True, data="weight"):
                if a in ways[-1]:
                    way = (ways[-1][a][0] + (weight if weighted else 1), a, kind, weight)
                    if b not in found or (way[0], key(a), key(kind)) < (found[b][0], key(found[b][1]), key(found[b][2])):
                        found[b] = way
            ways.append(found)
        return ways

    def best_walk(self, ways, target, max_hops):
        hops = min((h for h in range(max_hops + 1) if target in ways[h]), key=lambda h: (ways[h][target][0], h), default=None)
        rows = []
        while hops is not None and hops >= 0:
            _, parent, kind, weight = ways[hops][target]
            rows.append((target, kind, weight))
            target, hops = parent, hops - 1
        return rows[::-1]

    def test_sql_and_index_scans_agree(self):
        """With row security the edges come from a query: the same rows, and none that the policy hides."""
        graph = random_graph(500, 60, 240)
        self.store(graph)
        nodes = sorted(graph.nodes)
        visible = nx.MultiDiGraph(graph)
        visible.remove_edges_from([(a, b, k) for a, b, k in graph.edges(keys=True) if k == "b"])
        everything = self.answers(nodes)
        self.assertGreater(len(everything), 300)
        role = self.conn.execute("SELECT 'networkx_' || pg_backend_pid()").fetchone()[0]
        self.conn.execute(f"CREATE ROLE {role}")
        self.addCleanup(self.conn.execute, f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}; ALTER TABLE gpuagent.graph_edge DISABLE ROW LEVEL SECURITY")
        self.conn.execute(f"SELECT gpuagent.grant_access('{role}', 'read')")
        self.conn.execute("ALTER TABLE gpuagent.graph_edge ENABLE ROW LEVEL SECURITY")
        self.conn.execute(f"CREATE POLICY everything ON gpuagent.graph_edge TO {role} USING (true)")
        self.conn.execute(f"SET ROLE {role}")
        self.assertEqual(self.answers(nodes), everything)
        self.conn.execute("RESET ROLE")
        self.conn.execute("DROP POLICY everything ON gpuagent.graph_edge")
        self.conn.execute(f"CREATE POLICY most ON gpuagent.graph_edge TO {role} USING (edge_type <> 'b')")
        self.conn.execute(f"SET ROLE {role}")
        hidden = self.answers(nodes)
        self.conn.execute("RESET ROLE")
        self.store(visible)
        self.conn.execute("ALTER TABLE gpuagent.graph_edge DISABLE ROW LEVEL SECURITY")
        self.assertEqual(hidden, self.answers(nodes))

    def answers(self, nodes):
        """Rows of many walks."""
        rows = []
        for i, node in enumerate(nodes):
            rows += self.expand([node, nodes[i // 2]], 3, direction=("out", "in", "both")[i % 3], max_nodes=20 + i,
                                edge_types=[None, ["", "b"], ["a"]][i % 3], min_weight=None if i % 2 else 0.5)
            rows += self.path(node, nodes[-i], i % 2 == 0, 4 + i % 5)
        return rows

    def test_versions_of_edges(self):
        """A walk sees what a query would: own changes, neither those of others nor what is deleted, before and after VACUUM."""
        graph = random_graph(600, 40, 160)
        self.store(graph)
        nodes = sorted(graph.nodes)
        before = self.answers(nodes)
        with psycopg.connect() as old, psycopg.connect(autocommit=True) as other:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            mine, self.conn = self.conn, old
            self.assertEqual(self.answers(nodes), before)
            other.execute("DELETE FROM gpuagent.graph_edge WHERE graph = %s AND edge_type = 'a'", [GRAPH])
            other.execute("UPDATE gpuagent.graph_edge SET weight = weight + 1 WHERE graph = %s AND edge_type = ''", [GRAPH])
            other.execute("INSERT INTO gpuagent.graph_edge (graph, source, target) VALUES (%s, 'n1', 'n2'), (%s, 'ü', 'N0') ON CONFLICT DO NOTHING",
                          [GRAPH, GRAPH])
            other.execute("VACUUM gpuagent.graph_edge")
            self.assertEqual(self.answers(nodes), before)
            self.conn = mine
        after = self.answers(nodes)
        self.conn.execute("VACUUM gpuagent.graph_edge")
        self.assertEqual(self.answers(nodes), after)
        self.store(self.stored())
        self.assertEqual(self.answers(nodes), after)
        with self.conn.transaction(force_rollback=True):
            self.conn.execute("DELETE FROM gpuagent.graph_edge WHERE graph = %s AND source <> 'n1'", [GRAPH])
            self.assertEqual({row[2] for row in self.expand(["n1"], 5, direction="out")[1:]}, {"n1"})
        self.assertEqual(self.answers(nodes), after)

    def stored(self):
        graph = nx.MultiDiGraph()
        graph.add_nodes_from(row[0] for row in self.conn.execute("SELECT id FROM gpuagent.graph_node WHERE graph = %s", [GRAPH]))
        for a, b, kind, weight in self.conn.execute("SELECT source, target, edge_type, weight FROM gpuagent.graph_edge WHERE graph = %s", [GRAPH]):
            graph.add_edge(a, b, kind, weight=weight)
        return graph

    def test_long_names(self):
        """Ids of one to 255 bytes that differ at any place, and hubs that are cut."""
        names = sorted({"x" * n for n in (1, 7, 8, 19, 20, 21, 22, 255)} | {"x" * 200 + c for c in "abc"} |
                       {"x" * n + "y" for n in (0, 18, 19, 20, 250)}, key=key)
        graph = nx.MultiDiGraph()
        graph.add_nodes_from(names)
        for i, name in enumerate(names):
            graph.add_edge("x", name, "t" * (1 + i), weight=1.0)
            graph.add_edge(name, names[i - 1], "back", weight=0.5)
        self.store(graph)
        rows = self.expand(["x"], 1, direction="out")
        self.assertEqual([r[0] for r in rows], ["x"] + [n for n in names if n != "x"])
        for limit in range(1, len(names)):
            self.assertEqual(self.expand(["x"], 1, direction="out", max_nodes=limit), rows[:limit])
        for target in names[1:]:
            self.check_path(graph, self.path("x", target, False, 1), "x", target)

    def test_hub(self):
        """A hub with many more neighbours than max_nodes: those of the smallest ids, in either direction."""
        ids = [f"n{i * 7919 % 20000:05}" for i in range(20000)]
        self.conn.execute("SELECT gpuagent.delete_knowledge_graph(%s)", [GRAPH])
        self.conn.execute("SELECT gpuagent.store_nodes(%s, %s)", [GRAPH, ids])
        self.conn.execute("SELECT gpuagent.store_edges(%s, %s, %s)", [GRAPH, ["n00000"] * 19999, ids[1:]])
        self.conn.execute("SELECT gpuagent.store_edges(%s, %s, %s)", [GRAPH, ids[10000:], ["n00001"] * 10000])
        for limit in (1, 2, 10, 1000):
            self.assertEqual([row[0] for row in self.expand(["n00000"], 1, direction="out", max_nodes=limit)], sorted(ids)[:limit])
        sources = sorted(set(ids[10000:]) - {"n00001"})
        self.assertEqual([row[0] for row in self.expand(["n00001"], 1, direction="in", edge_types=[""], max_nodes=500)],
                         ["n00001"] + sorted(set(sources) | {"n00000"})[:499])
        self.assertEqual([row[0] for row in self.path(sources[5], "n00001", False, 3)], [sources[5], "n00001"])

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
