-- Knowledge graphs: store, retrieve, walk; every error
\set VERBOSITY terse
SET client_min_messages = warning;
SET search_path = public, gpuagent;
SELECT gpuagent.setup();
DELETE FROM gpuagent.graph;
CREATE FUNCTION pg_temp.fails(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    d text; h text;
BEGIN
    EXECUTE sql;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(d, ''), nullif(h, ''));
END
$$;

-- nodes: rows belong to ids by position; what is left out stays
SELECT store_nodes('g', '{c,a,b}', '[[3,0],[1,0],[0,2]]', '[{"n": 3}, null, {"n": 2}]');
SELECT graph, dim, metric, metadata FROM graph;
SELECT id, embedding, metadata FROM graph_node ORDER BY id;
SELECT store_nodes('g', '{b,d}', metadata => '{"all": true}'), store_nodes('g', '{a}', '[[1,1]]'), store_nodes('g', '{a,e}');
SELECT id, embedding, metadata FROM graph_node ORDER BY id;
SELECT pg_temp.fails($$SELECT store_nodes('g', '{a}', '[[1,2,3]]')$$);
SELECT pg_temp.fails($$SELECT store_nodes('g', '{a}', '[1]')$$);
SELECT pg_temp.fails($$SELECT store_nodes('g', '{a}', '[[1,2],[3,4]]')$$);
SELECT pg_temp.fails($$SELECT store_nodes('g', '{a}', '[[1,NaN]]')$$);
SELECT pg_temp.fails($$SELECT store_nodes('g', '{a,a}')$$);
SELECT pg_temp.fails($$SELECT store_nodes('g', '{a,NULL}')$$);
SELECT pg_temp.fails($$SELECT store_nodes('g', NULL)$$);
SELECT pg_temp.fails($$SELECT store_nodes(NULL, '{a}')$$);
SELECT pg_temp.fails($$SELECT store_nodes('', '{a}')$$);
SELECT pg_temp.fails($$SELECT store_nodes('g', '{a}', metadata => '[1]')$$);

-- edges
SELECT store_edges('g', '{a,b,a}', '{b,c,c}', '{x,x,y}', '{1,2,5}', '[{"e": 1}, {}, null]');
SELECT store_edges('g', '{c}', '{d}');
SELECT source, target, edge_type, weight, metadata FROM graph_edge ORDER BY 1, 2, 3;
SELECT store_edges('g', '{a}', '{b}', '{x}', '{1.5}'), store_edges('g', '{b,a}', '{c,b}', '{x,x}', metadata => '{"m": 1}'),
       store_edges('g', '{c,d}', '{d,d}');
SELECT source, target, edge_type, weight, metadata FROM graph_edge ORDER BY 1, 2, 3;
SELECT pg_temp.fails($$SELECT store_edges('nope', '{a}', '{b}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a,zz}', '{yy,b}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a,b}', '{b}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a,NULL}', '{b,a}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a}', '{b}', '{x,y}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a}', '{b}', '{NULL}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a}', '{b}', ARRAY[E'x\n'])$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a}', '{b}', weights => '{NaN}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a}', '{b}', '{t}', weights => '{Infinity}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a}', '{b}', weights => '{NULL}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', '{a,a}', '{b,b}', '{x,x}')$$);
SELECT pg_temp.fails($$SELECT store_edges('g', NULL, '{b}')$$);

-- walks over a -> b -> c -> d, a -> c, d -> d
SELECT * FROM expand_knowledge_graph('g', '{a}', 2, direction => 'out');
SELECT * FROM expand_knowledge_graph('g', '{d}', 1);
SELECT * FROM expand_knowledge_graph('g', '{d}', 9, direction => 'in');
SELECT * FROM expand_knowledge_graph('g', '{a}', 9, edge_types => '{x}', direction => 'out');
SELECT * FROM expand_knowledge_graph('g', '{a}', 9, min_weight => 1.75, direction => 'out');
SELECT node, hop FROM expand_knowledge_graph('g', '{c,a,c}', 5, max_nodes => 3);
SELECT node, hop FROM expand_knowledge_graph('g', '{c,a}', 0);
SELECT node, hop FROM expand_knowledge_graph('g', '{}');
SELECT pg_temp.fails($$SELECT * FROM expand_knowledge_graph('nope', '{a}')$$);
SELECT pg_temp.fails($$SELECT * FROM expand_knowledge_graph('g', '{a,zz}')$$);
SELECT pg_temp.fails($$SELECT * FROM expand_knowledge_graph('g', NULL)$$);
SELECT pg_temp.fails($$SELECT * FROM expand_knowledge_graph('g', '{NULL}')$$);
SELECT pg_temp.fails($$SELECT * FROM expand_knowledge_graph('g', '{a}', -1)$$);
SELECT pg_temp.fails($$SELECT * FROM expand_knowledge_graph('g', '{a}', direction => 'up')$$);
SELECT pg_temp.fails($$SELECT * FROM expand_knowledge_graph('g', '{a}', max_nodes => 0)$$);
SELECT * FROM shortest_path('g', 'a', 'd');
SELECT * FROM shortest_path('g', 'a', 'd', weighted => true);
SELECT * FROM shortest_path('g', 'a', 'd', weighted => true, max_hops => 2);
SELECT * FROM shortest_path('g', 'b', 'b');
SELECT * FROM shortest_path('g', 'd', 'a');
SELECT * FROM shortest_path('g', 'a', 'd', max_hops => 1);
SELECT pg_temp.fails($$SELECT * FROM shortest_path('nope', 'a', 'b')$$);
SELECT pg_temp.fails($$SELECT * FROM shortest_path('g', 'a', 'zz')$$);
SELECT pg_temp.fails($$SELECT * FROM shortest_path('g', NULL, 'a')$$);
SELECT pg_temp.fails($$SELECT * FROM shortest_path('g', 'a', 'b', max_hops => -1)$$);
SELECT store_edges('g', '{b}', '{d}', '{bad}', '{-1}');
SELECT pg_temp.fails($$SELECT * FROM shortest_path('g', 'a', 'd', weighted => true)$$);
SELECT ordinal, node FROM shortest_path('g', 'a', 'd');
-- a hub with more neighbours than max_nodes gives those of the smallest ids
SELECT store_nodes('hub', array_agg('n' || lpad(i::text, 5, '0'))) FROM generate_series(0, 5000) i;
SELECT store_edges('hub', array_agg('n00000'::text), array_agg('n' || lpad(i::text, 5, '0'))) FROM generate_series(1, 5000) i;
SELECT count(*), min(node), max(node), max(hop) FROM expand_knowledge_graph('hub', '{n00000}', 3, max_nodes => 11);
SELECT count(*), count(DISTINCT node), max(hop) FROM expand_knowledge_graph('hub', '{n00007}', 2, max_nodes => 100000);

-- nearest nodes
SELECT node, hop, distance, metadata FROM search_knowledge_graph('g', '[1,0]', 2);
SELECT node, hop, round(distance::numeric, 6) AS distance, parent, edge_type, weight
FROM search_knowledge_graph('g', '[0,1]', 1, hops => 1, direction => 'out');
SELECT node FROM search_knowledge_graph('g', '[1,0]', 5, filter => '{"n": 3}');
SELECT node FROM search_knowledge_graph('g', '[1,0]', 5, max_distance => 0.5);
UPDATE graph SET metric = 'l2' WHERE graph = 'g';
SELECT node, distance FROM search_knowledge_graph('g', '[3,1]', 3);
SELECT pg_temp.fails($$SELECT * FROM search_knowledge_graph('g', '[1,2,3]')$$);
SELECT pg_temp.fails($$SELECT * FROM search_knowledge_graph('g', NULL)$$);
SELECT pg_temp.fails($$SELECT * FROM search_knowledge_graph('g', '[1,2]', -1)$$);
SELECT pg_temp.fails($$SELECT * FROM search_knowledge_graph('nope', '[1,2]')$$);
UPDATE graph SET metric = 'hamming' WHERE graph = 'g';
SELECT pg_temp.fails($$SELECT * FROM search_knowledge_graph('g', '[1,2]')$$);
UPDATE graph SET metric = NULL WHERE graph = 'g';

-- documents
SELECT jsonb_pretty(retrieve_knowledge_graph('g', '{a,b,zz}'));
SELECT * FROM store_knowledge_graph('copy', retrieve_knowledge_graph('g'));
SELECT retrieve_knowledge_graph('copy') = retrieve_knowledge_graph('g') AS same;
SELECT * FROM store_knowledge_graph('d', '{"dim": 2, "metric": "l2", "metadata": {"v": 1},
    "nodes": [{"id": "x", "embedding": [1e-45, -3.4028235e38]}, {"id": "y", "metadata": {"k": [1, null]}},
              {"id": "h", "embedding": "F16:[0.5,65504]"}],
    "edges": [{"source": "x", "target": "y", "weight": 0.1}, {"source": "y", "target": "x", "edge_type": "t"}]}');
SELECT retrieve_knowledge_graph('d');
-- embeddings go through a document bit for bit
SELECT store_nodes('bits', array_agg(i::text ORDER BY i), tensor('F32', '{500,1}', string_agg(substr(sha256(i::text::bytea), 1, 3) || '\x3e'::bytea, ''::bytea ORDER BY i)))
FROM generate_series(1, 500) i;
SELECT * FROM store_knowledge_graph('bits2', retrieve_knowledge_graph('bits'));
SELECT count(*), bool_and(tensor_bytes(a.embedding) = tensor_bytes(b.embedding)) AS same
FROM graph_node a JOIN graph_node b USING (id) WHERE a.graph = 'bits' AND b.graph = 'bits2';
-- merge keeps what is not mentioned, null clears
SELECT * FROM store_knowledge_graph('d', '{"nodes": [{"id": "x", "metadata": {"new": true}}, {"id": "h", "embedding": null}, {"id": "y"}],
    "edges": [{"source": "x", "target": "y", "metadata": {"m": 1}}]}');
SELECT retrieve_knowledge_graph('d');
-- replace makes the graph equal to the document
SELECT * FROM store_knowledge_graph('d', '{"nodes": [{"id": "y"}, {"id": "z", "embedding": [1,2,3]}], "edges": [{"source": "y", "target": "z"}]}', 'replace');
SELECT retrieve_knowledge_graph('d');
SELECT * FROM store_knowledge_graph('d', '{}');
SELECT * FROM store_knowledge_graph('d', '{}', 'replace');
SELECT retrieve_knowledge_graph('d');
SELECT left(pg_temp.fails(format('SELECT store_knowledge_graph(%s)', a)), 120) AS fails FROM (VALUES
    ($$'d', NULL$$), ($$NULL, '{}'$$), ($$'d', '[]'$$), ($$'d', '{}', 'append'$$), ($$'d', '{"node": []}'$$),
    ($$'d', '{"nodes": {}}'$$), ($$'d', '{"nodes": [1]}'$$), ($$'d', '{"nodes": [{}]}'$$), ($$'d', '{"nodes": [{"id": 7}]}'$$),
    ($$'d', '{"nodes": [{"id": ""}]}'$$), ($$'d', '{"nodes": [{"id": "a", "label": 1}]}'$$),
    ($$'d', '{"nodes": [{"id": "a", "metadata": []}]}'$$), ($$'d', '{"nodes": [{"id": "a", "embedding": 1}]}'$$),
    ($$'d', '{"nodes": [{"id": "a", "embedding": ["x"]}]}'$$), ($$'d', '{"nodes": [{"id": "a", "embedding": [[1]]}]}'$$),
    ($$'d', '{"nodes": [{"id": "a", "embedding": [1e39]}]}'$$),
    ($$'d', '{"nodes": [{"id": "a"}, {"id": "a"}]}'$$), ($$'d', '{"dim": 2, "nodes": [{"id": "a", "embedding": [1]}]}'$$),
    ($$'d', '{"nodes": [{"id": "a", "embedding": [1]}, {"id": "b", "embedding": [1,2]}]}'$$),
    ($$'d', '{"dim": 0}'$$), ($$'d', '{"dim": "x"}'$$), ($$'d', '{"metric": "x"}'$$), ($$'d', '{"metadata": 1}'$$),
    ($$'d', '{"nodes": [{"id": "a"}], "edges": [{"source": "a", "target": "b"}]}'$$),
    ($$'d', '{"nodes": [{"id": "a"}], "edges": [{"source": "a"}]}'$$),
    ($$'d', '{"nodes": [{"id": "a"}], "edges": [{"source": "a", "target": "a", "weight": "1"}]}'$$),
    ($$'d', '{"nodes": [{"id": "a"}], "edges": [{"source": "a", "target": "a", "weight": 1e309}]}'$$),
    ($$'d', '{"nodes": [{"id": "a"}], "edges": [{"source": "a", "target": "a"}, {"source": "a", "target": "a", "edge_type": null}]}'$$)) v(a);
SELECT pg_temp.fails($$SELECT retrieve_knowledge_graph('nope')$$);

-- deletion
SELECT delete_nodes('g', '{a,zz,a}'), delete_nodes('nope', '{a}');
SELECT source, target FROM graph_edge WHERE graph = 'g' ORDER BY 1, 2;
SELECT delete_knowledge_graph('g'), delete_knowledge_graph('g'), delete_knowledge_graph('hub'), delete_knowledge_graph('copy'), delete_knowledge_graph('d');
SELECT delete_knowledge_graph('bits'), delete_knowledge_graph('bits2');
SELECT (SELECT count(*) FROM graph) AS graphs, (SELECT count(*) FROM graph_node) AS nodes, (SELECT count(*) FROM graph_edge) AS edges;
