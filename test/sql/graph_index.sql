-- Indexes of graphs: made, replaced and dropped; searches use them and find what a scan finds
\set VERBOSITY terse
SET client_min_messages = warning;
SET search_path = public, gpuagent;
SELECT gpuagent.setup();
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
-- 3000 vectors, of which three in a row are the same, so that ids decide; some nodes have none
CREATE FUNCTION pg_temp.vector(i int, dim int) RETURNS agent_state LANGUAGE sql AS
$$ SELECT astype(array_agg(sin(i * j + 0.1 * j * j))::agent_state, 'F32') FROM generate_series(1, dim) j $$;
CREATE PROCEDURE pg_temp.fill(name text, dim int) LANGUAGE sql AS $$
    SELECT store_nodes(name, array_agg('n' || i ORDER BY i), stack(pg_temp.vector(i / 3, dim) ORDER BY i), jsonb_agg(jsonb_build_object('m', i % 7) ORDER BY i))
    FROM generate_series(1, 3000) i;
    SELECT store_nodes(name, array_agg('none' || i)) FROM generate_series(1, 50) i
$$;
-- rows of a search, and how often it has scanned the index
CREATE FUNCTION pg_temp.search(name text, query embedding, k bigint, f jsonb DEFAULT NULL, d float8 DEFAULT NULL, scan boolean DEFAULT false)
    RETURNS TABLE (nodes text, scans bigint) LANGUAGE plpgsql AS $$
DECLARE
    index oid := (SELECT node_index FROM gpuagent.graph WHERE graph = name)::regclass;
    before bigint := pg_stat_get_xact_numscans(index);
BEGIN
    PERFORM set_config('enable_indexscan', (NOT scan)::text, true);
    nodes := (SELECT string_agg(node || ' ' || distance, ',' ORDER BY o)
              FROM search_knowledge_graph(name, query, k, filter => f, max_distance => d) WITH ORDINALITY s(node, hop, distance, p, e, w, m, o));
    PERFORM set_config('enable_indexscan', 'on', true);
    scans := pg_stat_get_xact_numscans(index) - before;
    RETURN NEXT;
END
$$;

SELECT pg_temp.fails($$SELECT index_knowledge_graph('index/a')$$);
SELECT pg_temp.fails($$SELECT index_knowledge_graph(NULL)$$);
SELECT store_nodes('index/empty', '{a}');
SELECT pg_temp.fails($$SELECT index_knowledge_graph('index/empty')$$);
CALL pg_temp.fill('index/a', 24);
CALL pg_temp.fill('index/b', 16);
SELECT pg_temp.fails($$SELECT index_knowledge_graph('index/a', 'hamming')$$);
SELECT pg_temp.fails($$SELECT index_knowledge_graph('index/a', storage => 'f8')$$);
SELECT pg_temp.fails($$SELECT index_knowledge_graph('index/a', storage => NULL)$$);

SELECT 'gpuagent.' || index_knowledge_graph('index/a') AS a \gset
SELECT graph, metric, node_index = :'a' AS named FROM graph WHERE graph LIKE 'index/%' ORDER BY 1;
SELECT pg_get_indexdef(:'a'::regclass), obj_description(:'a'::regclass);
-- the same again is the same index, another metric, storage or dimension a new one
SELECT :'a'::regclass::oid AS before \gset
SELECT index_knowledge_graph('index/a')::oid = :before AS same, index_knowledge_graph('index/a', 'cosine', 'f16')::oid = :before AS also;
SELECT index_knowledge_graph('index/a', 'l2', 'f32')::oid = :before AS same;
SELECT pg_get_indexdef(:'a'::regclass), (SELECT metric FROM graph WHERE graph = 'index/a');
SELECT index_knowledge_graph('index/a')::oid = :before AS same;
SELECT pg_get_indexdef(:'a'::regclass), (SELECT metric FROM graph WHERE graph = 'index/a');
SELECT index_knowledge_graph('index/b', 'ip') IS NOT NULL AS other;
ANALYZE graph_node;

-- each metric and storage, with ties at the end, filters, distances; the scan is the reference
CREATE TABLE pg_temp.q AS
    SELECT m.metric, s.storage, c.* FROM unnest('{l2,ip,cosine,l1}'::text[]) m(metric), unnest('{f16,f32,int8}'::text[]) s(storage),
        (VALUES (1, 10, NULL::jsonb, NULL::float8), (77, 1, NULL, NULL), (500, 100, '{"m": 3}', NULL), (999, 20, NULL, 0.5), (3, 0, NULL, NULL), (8, 3, '{"m": 9}', NULL)) c(i, k, f, d);
CREATE TABLE pg_temp.r (metric text, storage text, i int, same boolean, rows int, scans bigint, scans_off bigint);
DO $$
DECLARE
    c record; a record; b record;
BEGIN
    FOR c IN SELECT * FROM pg_temp.q ORDER BY metric, storage, i LOOP
        PERFORM index_knowledge_graph('index/a', c.metric, c.storage);
        SELECT * INTO a FROM pg_temp.search('index/a', pg_temp.vector(c.i, 24)::embedding, c.k, c.f, c.d);
        SELECT * INTO b FROM pg_temp.search('index/a', pg_temp.vector(c.i, 24)::embedding, c.k, c.f, c.d, true);
        INSERT INTO pg_temp.r VALUES (c.metric, c.storage, c.i, a.nodes IS NOT DISTINCT FROM b.nodes, cardinality(string_to_array(a.nodes, ',')), a.scans, b.scans);
    END LOOP;
END
$$;
SELECT metric, storage, bool_and(same) AS same, sum(rows) AS rows, count(*) FILTER (WHERE scans = 1) AS by_index, sum(scans_off) AS off FROM pg_temp.r GROUP BY 1, 2 ORDER BY 1, 2;
SELECT node, hop FROM search_knowledge_graph('index/a', pg_temp.vector(5, 24)::embedding, 4);
-- rows that are stored later are found, deleted ones are not; the other graph is another
SELECT index_knowledge_graph('index/a', 'cosine') IS NOT NULL;
SELECT store_nodes('index/a', '{a new one}', stack(pg_temp.vector(5, 24))), delete_nodes('index/a', '{n15}');
SELECT node FROM search_knowledge_graph('index/a', pg_temp.vector(5, 24)::embedding, 3);
SELECT count(*) FROM search_knowledge_graph('index/b', pg_temp.vector(5, 16)::embedding, 3);
-- setup() again leaves it
SELECT setup();
SELECT to_regclass(:'a') IS NOT NULL AS there;

-- rights: the owner's; a name in node_index decides nothing
CREATE ROLE regress_graph_index;
SELECT grant_access('regress_graph_index', 'admin');
CREATE INDEX index_of_mine ON graph_node (created_at);
UPDATE graph SET node_index = 'gpuagent.index_of_mine' WHERE graph = 'index/b';
SET ROLE regress_graph_index;
SELECT pg_temp.fails($$SELECT index_knowledge_graph('index/a')$$);
SELECT delete_knowledge_graph('index/a');
RESET ROLE;
SELECT to_regclass(:'a') IS NOT NULL AS there;
-- an index that was left behind does not stand in the way of another dimension
CALL pg_temp.fill('index/a', 4);
SELECT to_regclass(:'a') IS NOT NULL AS there, node_index FROM graph WHERE graph = 'index/a';
SELECT index_knowledge_graph('index/a') IS NOT NULL;
SELECT nodes FROM store_knowledge_graph('index/a', '{"nodes": [{"id": "x", "embedding": [1, 2]}]}', 'replace');
SELECT to_regclass(:'a') IS NOT NULL AS there, dim, node_index FROM graph WHERE graph = 'index/a';
SELECT index_knowledge_graph('index/a') IS NOT NULL;
SELECT delete_knowledge_graph('index/a'), delete_knowledge_graph('index/b'), delete_knowledge_graph('index/empty');
SELECT relname FROM pg_class WHERE relname LIKE 'graph\_node\_knn%' OR relname = 'index_of_mine' ORDER BY 1;
DROP INDEX index_of_mine;
DROP OWNED BY regress_graph_index;
DROP ROLE regress_graph_index;
