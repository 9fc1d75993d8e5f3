"""Walks over graphs of 100,000 nodes and a million edges, against a recursive query and against networkx in this process."""

from __future__ import annotations

import networkx as nx
import numpy as np
from gpuagent import Tensor
from measure import Action, Bench

NODES = 100_000
EDGES = 1_000_000
DIM = 128
TYPES = np.array(["", "cites", "part of", "similar"])

# What an expansion gives but parents, types and weights, which the query would have to carry and compare, too.
RECURSIVE = """
    WITH RECURSIVE walk (node, hop) AS (
        SELECT unnest(%s::text[]) COLLATE "C", 0
        UNION
        SELECT e.node, w.hop + 1
        FROM walk w CROSS JOIN LATERAL (
            SELECT o.target AS node FROM gpuagent.graph_edge o WHERE o.graph = %s AND o.source = w.node
            UNION ALL
            SELECT i.source FROM gpuagent.graph_edge i WHERE i.graph = %s AND i.target = w.node) e
        WHERE w.hop < %s)
    SELECT node, min(hop) AS hop FROM walk GROUP BY node"""


def graphs(bench: Bench) -> None:
    conn = bench.database("bench_graphs")
    ids = np.array([f"node/{i:07}" for i in range(NODES)])
    uniform = bench.rng.integers(NODES, size=(2, EDGES))
    # Few nodes have most of the edges: the largest has some 5 % of them.
    steep = (NODES * bench.rng.random((2, EDGES)) ** 4).astype(np.int64) * 7919 % NODES
    for graph, ends in (("random", uniform), ("power law", steep)):
        reference = load(bench, conn, graph, ids, ends)
        expansions(bench, conn, graph, reference, ids)
        paths(bench, conn, graph, reference, ids)
    searches(bench, conn, ids)
    conn.close()


def load(bench: Bench, conn, graph: str, ids: np.ndarray, ends: np.ndarray) -> nx.DiGraph:
    edges = {
        (int(s), int(t)): (str(kind), float(weight))
        for s, t, kind, weight in zip(*ends, TYPES[bench.rng.integers(4, size=EDGES)], 0.001 + bench.rng.random(EDGES))
    }
    conn.execute("INSERT INTO gpuagent.graph (graph) VALUES (%s)", (graph,))
    conn.execute("SET session_replication_role = replica")
    with conn.cursor().copy("COPY gpuagent.graph_node (graph, id) FROM STDIN") as copy:
        for name in ids:
            copy.write_row((graph, str(name)))
    with conn.cursor().copy("COPY gpuagent.graph_edge (graph, source, target, edge_type, weight) FROM STDIN") as copy:
        for (s, t), (kind, weight) in edges.items():
            copy.write_row((graph, str(ids[s]), str(ids[t]), kind, weight))
    conn.execute("RESET session_replication_role")
    conn.execute("VACUUM (ANALYZE) gpuagent.graph_edge")
    conn.execute("VACUUM (ANALYZE) gpuagent.graph_node")
    reference = nx.DiGraph()
    reference.add_nodes_from(str(name) for name in ids)
    reference.add_edges_from((str(ids[s]), str(ids[t]), {"weight": w}) for (s, t), (_, w) in edges.items())
    return reference


def expansions(bench: Bench, conn, graph: str, reference: nx.DiGraph, ids: np.ndarray) -> None:
    both = reference.to_undirected(as_view=False)

    def seeds() -> list[str]:
        return [str(name) for name in bench.rng.choice(ids, 3, replace=False)]

    def ours(start: list[str], hops: int, max_nodes: int = 10 * NODES) -> dict[str, int]:
        return dict(
            conn.execute(
                "SELECT node, hop FROM gpuagent.expand_knowledge_graph(%s, %s, %s, max_nodes => %s)",
                (graph, start, hops, max_nodes),
            ).fetchall()
        )

    def recursive(start: list[str], hops: int) -> dict[str, int]:
        return dict(conn.execute(RECURSIVE, (start, graph, graph, hops)).fetchall())

    def networkx(start: list[str], hops: int) -> dict[str, int]:
        found = dict.fromkeys(start, 0)
        frontier = start
        for hop in range(1, hops + 1):
            reached = {n for node in frontier for n in both.adj[node] if n not in found}
            found.update(dict.fromkeys(reached, hop))
            frontier = list(reached)
        return found

    for hops in (1, 2, 3):
        start = seeds()
        assert ours(start, hops) == recursive(start, hops) == networkx(start, hops)
        t = bench.interleave(
            {
                "ours": Action(lambda s, h=hops: ours(s, h), seeds),
                "recursive": Action(lambda s, h=hops: recursive(s, h), seeds),
                "networkx": Action(lambda s, h=hops: networkx(s, h), seeds),
                "first": Action(lambda s, h=hops: ours(s, h, 1000), seeds),
            }
        )
        name = f"{hops} hop{'s' * (hops > 1)} from 3 nodes, {graph}"
        bench.compare(name, t["ours"], t["recursive"], "WITH RECURSIVE, without parents")
        bench.compare("- the same", t["ours"], t["networkx"], "networkx, in this process")
        bench.compare("- the same, max_nodes 1000", t["first"], t["recursive"], "WITH RECURSIVE")


def paths(bench: Bench, conn, graph: str, reference: nx.DiGraph, ids: np.ndarray) -> None:
    component = sorted(max(nx.strongly_connected_components(reference), key=len))

    def pair() -> tuple[str, str]:
        source, target = bench.rng.choice(len(component), 2, replace=False)
        return component[source], component[target]

    def ours(ends: tuple[str, str], weighted: bool) -> list:
        return conn.execute(
            "SELECT weight FROM gpuagent.shortest_path(%s, %s, %s, %s, 100)", (graph, *ends, weighted)
        ).fetchall()

    for weighted in (False, True):
        search = nx.bidirectional_dijkstra if weighted else nx.bidirectional_shortest_path
        ends = pair()
        if weighted:
            assert abs(sum(w for (w,) in ours(ends, True)[1:]) - search(reference, *ends)[0]) < 1e-9
        else:
            assert len(ours(ends, False)) == len(search(reference, *ends))
        t = bench.interleave(
            {
                "ours": Action(lambda e, w=weighted: ours(e, w), pair),
                "networkx": Action(lambda e, s=search: s(reference, *e), pair),
            },
            3 * bench.reps,
        )
        name = f"shortest path, {'weighted' if weighted else 'fewest edges'}, {graph}"
        bench.compare(name, t["ours"], t["networkx"], "networkx, both ends, in this process")


def searches(bench: Bench, conn, ids: np.ndarray) -> None:
    graph = "random"
    for first in range(0, NODES, 10_000):
        part = [str(name) for name in ids[first : first + 10_000]]
        conn.execute("SELECT gpuagent.store_nodes(%s, %s, %b)", (graph, part, bench.normal(len(part), DIM)))
    conn.execute("SELECT gpuagent.index_knowledge_graph(%s)", (graph,))
    conn.execute("VACUUM (ANALYZE) gpuagent.graph_node")

    def ours(query: np.ndarray) -> list:
        return conn.execute(
            "SELECT node, distance FROM gpuagent.search_knowledge_graph(%s, %b, 10)",
            (graph, Tensor(query, type="embedding")),
        ).fetchall()

    def scan(query: np.ndarray) -> list:
        return conn.execute(
            "SELECT id, embedding OPERATOR(gpuagent.<=>) %b AS distance FROM gpuagent.graph_node"
            " WHERE graph = %s AND embedding IS NOT NULL ORDER BY 2, 1 LIMIT 10",
            (Tensor(query, type="embedding"), graph),
        ).fetchall()

    def query() -> np.ndarray:
        return bench.normal(DIM)

    one = query()
    assert ours(one) == scan(one)
    t = bench.interleave({"ours": Action(ours, query), "scan": Action(scan, query)})
    bench.compare(f"search_knowledge_graph, 10 of {NODES:,} x {DIM}", t["ours"], t["scan"], "scan and sort")
