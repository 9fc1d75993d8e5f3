-- The functions are plain SQL on the user's tables: rights, row security, triggers, defaults, added columns, partitions
\set VERBOSITY terse
SET client_min_messages = warning;
SET search_path = public, gpuagent;
SELECT gpuagent.setup();
DELETE FROM gpuagent.agent;
DELETE FROM gpuagent.graph;
CREATE FUNCTION public.fails(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE sql INTO result;
    RETURN 'no error: ' || coalesce(result, 'NULL');
EXCEPTION WHEN OTHERS THEN
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM);
END
$$;
CREATE ROLE regress_ga_none;
CREATE ROLE regress_ga_reader;
CREATE ROLE regress_ga_writer;
SELECT gpuagent.grant_access('regress_ga_reader', 'read'), gpuagent.grant_access('regress_ga_writer', 'write');
SELECT store_agents('{own/1,own/2,other/1}', '[[1],[2],[3]]', '[[1],[2],[3]]', 1, '{1,2,3}');
SELECT * FROM store_knowledge_graph('own', '{"nodes": [{"id": "a", "embedding": [1,0]}, {"id": "b", "embedding": [0,1]}],
    "edges": [{"source": "a", "target": "b"}]}');

-- rights: nothing without a grant, reading with read, storing with write
SET ROLE regress_ga_none;
SELECT fails(f) FROM unnest(ARRAY[
    $$SELECT gpuagent.store_agent('own/1')$$, $$SELECT gpuagent.store_agents('{own/1}')$$,
    $$SELECT id FROM gpuagent.retrieve_agent('own/1')$$, $$SELECT id FROM gpuagent.retrieve_agents()$$,
    $$SELECT ids FROM gpuagent.retrieve_population()$$, $$SELECT gpuagent.delete_agents('{own/1}')$$,
    $$SELECT gpuagent.store_nodes('own', '{x}')$$, $$SELECT gpuagent.retrieve_knowledge_graph('own')$$,
    $$SELECT node FROM gpuagent.expand_knowledge_graph('own', '{a}')$$, $$SELECT gpuagent.store_metrics('r', '{}')$$]) f;
SET ROLE regress_ga_reader;
SELECT fails(f) FROM unnest(ARRAY[
    $$SELECT gpuagent.store_agent('own/1')$$, $$SELECT gpuagent.store_agents('{own/1}')$$,
    $$SELECT gpuagent.delete_agent('own/1')$$, $$SELECT gpuagent.delete_agents('{own/1}')$$,
    $$SELECT gpuagent.store_nodes('own', '{x}')$$, $$SELECT gpuagent.store_metrics('r', '{}')$$]) f;
SELECT id FROM retrieve_agent('own/1');
SELECT id FROM retrieve_agents(best => 1);
SELECT ids, versions FROM retrieve_population();
SELECT agent_exists('own/1');
SELECT node, hop FROM expand_knowledge_graph('own', '{a}');
SELECT node, distance FROM search_knowledge_graph('own', '[1,0]', 1);
SELECT count(*) FROM shortest_path('own', 'a', 'b');
SELECT retrieve_knowledge_graph('own') -> 'dim' AS dim;
SET ROLE regress_ga_writer;
SELECT store_agent('own/1', fitness => 10), store_agents('{own/1,own/3}', '[[1],[4]]'), delete_agent('own/3');
SELECT store_nodes('own', '{c}', '[[1,1]]'), store_edges('own', '{b}', '{c}'), delete_nodes('own', '{c}');
SELECT store_metrics('ga_writer', '{"a": 1}');
RESET ROLE;
DELETE FROM run WHERE run = 'ga_writer';

-- row security is that of the table, in every function
ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON gpuagent.agent TO regress_ga_writer, regress_ga_reader USING (starts_with(id, 'own/'));
ALTER TABLE gpuagent.graph_node ENABLE ROW LEVEL SECURITY;
CREATE POLICY no_b ON gpuagent.graph_node TO regress_ga_reader USING (id <> 'b');
SET ROLE regress_ga_writer;
SELECT id FROM retrieve_agent('other/1');
SELECT id FROM retrieve_agents();
SELECT ids FROM retrieve_population(best => 9);
SELECT agent_exists('other/1'), delete_agent('other/1'), delete_agents(prefix => 'other');
SELECT fails(f) FROM unnest(ARRAY[
    $$SELECT gpuagent.store_agent('other/1', fitness => 0)$$, $$SELECT gpuagent.store_agent('other/2')$$,
    $$SELECT gpuagent.store_agents('{own/1,other/1}', fitness => '{0,0}')$$, $$SELECT gpuagent.store_agents('{own/9,other/9}')$$,
    $$SELECT gpuagent.store_agent('other/1', fitness => 0, expected_version => 1)$$,
    $$SELECT gpuagent.store_agent('other/1', fitness => 0, expected_version => 0)$$,
    $$SELECT gpuagent.store_agents('{other/1}', fitness => '{0}', expected_versions => '{1}')$$,
    $$SELECT gpuagent.store_agents('{own/1}', fitness => '{0}', expected_versions => '{3}')$$]) f;
SET ROLE regress_ga_reader;
SELECT node FROM expand_knowledge_graph('own', '{a}', direction => 'out');
SELECT node FROM search_knowledge_graph('own', '[0,1]', 5);
SELECT fails($$SELECT count(*) FROM gpuagent.shortest_path('own', 'a', 'b')$$);
RESET ROLE;
-- the same saved statement follows the role and the policy
SELECT count(*) FROM retrieve_agents();
SELECT id, fitness, version FROM agent ORDER BY id;
DROP POLICY own ON gpuagent.agent;
ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY;
DROP POLICY no_b ON gpuagent.graph_node;
ALTER TABLE gpuagent.graph_node DISABLE ROW LEVEL SECURITY;

-- a column with a default, a generated one, triggers
ALTER TABLE gpuagent.agent ADD COLUMN tenant text DEFAULT 'acme', ADD COLUMN fit boolean GENERATED ALWAYS AS (fitness > 1) STORED;
CREATE FUNCTION public.ga_trace() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id = 'own/skip' THEN
        RETURN NULL;
    END IF;
    NEW.metadata := NEW.metadata || jsonb_build_object('by', lower(TG_OP));
    RETURN NEW;
END
$$;
CREATE TRIGGER trace BEFORE INSERT OR UPDATE ON gpuagent.agent FOR EACH ROW EXECUTE FUNCTION public.ga_trace();
SELECT store_agents('{own/1,own/5,own/skip}', fitness => '{2,0.5,1}'), store_agent('own/skip') IS NULL AS skipped,
       store_agent('own/5', generation => 3);
UPDATE gpuagent.agent SET tenant = 'other' WHERE id = 'own/5';
SELECT store_agents('{own/5,own/6}', '[[7],[8]]');
SELECT id, tenant, fit, metadata, version FROM agent ORDER BY id;
SELECT id, state FROM retrieve_agents('{own/5}');
SELECT ids, fitness FROM retrieve_population(prefix => 'own/5');
DROP TRIGGER trace ON gpuagent.agent;
DROP FUNCTION public.ga_trace();
ALTER TABLE gpuagent.agent DROP COLUMN tenant, DROP COLUMN fit;
-- dropped columns leave holes in rows that later calls must not fall into
SELECT store_agent('own/6', fitness => 6), store_agents('{own/7}', fitness => '{7}');
SELECT id, state, fitness, version FROM retrieve_agents('{own/6,own/7}');

-- a partitioned table in the place of the plain one
BEGIN;
ALTER TABLE gpuagent.agent RENAME TO agent_plain;
ALTER INDEX gpuagent.agent_pkey RENAME TO agent_plain_pkey;
CREATE TABLE gpuagent.agent (LIKE gpuagent.agent_plain INCLUDING ALL) PARTITION BY HASH (id);
CREATE TABLE gpuagent.agent_0 PARTITION OF gpuagent.agent FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE gpuagent.agent_1 PARTITION OF gpuagent.agent FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT store_agents(array_agg('part/' || i ORDER BY i), stack(ARRAY[i]::agent_state ORDER BY i), fitness => array_agg(i::float8 ORDER BY i))
FROM generate_series(1, 100) i;
SELECT store_agents(array_agg('part/' || i ORDER BY i), fitness => array_agg(-i::float8 ORDER BY i), expected_versions => array_agg((i <= 100)::int::bigint))
FROM generate_series(1, 101) i;
SELECT store_agent('part/1', generation => 1), store_agent('part/2', expected_version => 2), store_agent('part/102', expected_version => 0);
SELECT count(*) FILTER (WHERE tableoid = 'gpuagent.agent_0'::regclass) > 30 AS first, count(*) FILTER (WHERE tableoid = 'gpuagent.agent_1'::regclass) > 30 AS second,
       sum(version) AS versions, sum(fitness) AS fitness FROM agent;
SELECT id, state FROM retrieve_agents(best => 2);
SELECT cardinality(ids), shape(states) FROM retrieve_population(best => 50);
SELECT delete_agents(prefix => 'part/1'), delete_agent('part/2');
ROLLBACK;

-- without the tables: the hint
BEGIN;
DROP TABLE gpuagent_store.setup_step;
SELECT fails($$SELECT gpuagent.store_agents('{a}')$$), fails($$SELECT gpuagent.store_metrics('r', '{}')$$);
ROLLBACK;

SELECT delete_agents(prefix => ''), delete_knowledge_graph('own');
DROP OWNED BY regress_ga_none, regress_ga_reader, regress_ga_writer;
DROP ROLE regress_ga_none, regress_ga_reader, regress_ga_writer;
DROP FUNCTION public.fails(text);
