-- Agents: store, retrieve, delete; every error
\set VERBOSITY terse
SET client_min_messages = warning;
SET search_path = public, gpuagent;
SELECT gpuagent.setup();
DELETE FROM gpuagent.agent;
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

-- one agent
SELECT gpuagent.store_agent('a', '[1,2,3]', '[[1],[2]]', 7, 0.5, '{"k": 1}');
SELECT id, state, memory, generation, fitness, metadata, version, origin FROM gpuagent.retrieve_agent('a');
-- what is left out stays, and so does created_at
SELECT gpuagent.store_agent('a', fitness => '-Infinity');
SELECT id, state, memory, generation, fitness, metadata, version FROM gpuagent.retrieve_agent('a');
SELECT gpuagent.store_agent('a', 'F16:[5]', generation => 8);
SELECT id, state, memory, generation, fitness, metadata, version FROM gpuagent.retrieve_agent('a');
-- a new agent takes the defaults of the table
SELECT gpuagent.store_agent('b');
SELECT id, state, memory, generation, fitness, metadata, version, updated_at = now() AS now FROM gpuagent.agent WHERE id = 'b';
SELECT count(*) FROM gpuagent.retrieve_agent('absent');
SELECT count(*) FROM gpuagent.retrieve_agent(NULL);
SELECT gpuagent.agent_exists('a'), gpuagent.agent_exists('A'), gpuagent.agent_exists(NULL);
-- compare and set
SELECT gpuagent.store_agent('a', fitness => 1, expected_version => 3);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('a', fitness => 2, expected_version => 3)$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('a', fitness => 2, expected_version => 0)$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('c', fitness => 2, expected_version => 1)$$);
SELECT gpuagent.store_agent('c', fitness => 2, expected_version => 0);
SELECT id, fitness, version FROM gpuagent.agent ORDER BY id;
-- errors
SELECT pg_temp.fails($$SELECT gpuagent.store_agent(NULL)$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent(repeat('x', 256))$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent(E'a\tb')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('a', fitness => 'NaN')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('a', metadata => '[1]')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('a', metadata => 'null')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agent('a', expected_version => -1)$$);
SELECT gpuagent.store_agent(repeat('x', 255));
SELECT gpuagent.delete_agent(repeat('x', 255)), gpuagent.delete_agent('absent'), gpuagent.delete_agent(NULL);
SELECT gpuagent.delete_agents(prefix => '');

-- many: rows belong to ids by position, whatever their order
SELECT gpuagent.store_agents('{r/3,r/1,r/2}', '[[3,33],[1,11],[2,22]]', '[30,10,20]', 5, '{0.3,NULL,0.2}',
                             '[{"n": 3}, null, {"n": 2}]');
SELECT id, state, memory, generation, fitness, metadata, version FROM gpuagent.retrieve_agents();
SELECT gpuagent.store_agents('{r/2,r/4}', fitness => '{NULL,-Infinity}', metadata => '{"all": true}');
SELECT id, state, memory, generation, fitness, metadata, version FROM gpuagent.retrieve_agents();
SELECT gpuagent.store_agents('{r/1,r/9}', '[[9,9],[8,8]]', expected_versions => '{1,0}');
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{r/1,r/9}', generation => 99, expected_versions => '{2,2}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{r/1,r/9}', generation => 99, expected_versions => '{0,1}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{r/1,q}', generation => 99, expected_versions => '{2,1}')$$);
SELECT gpuagent.store_agents('{r/9,r/1}', generation => 6, expected_versions => '{1,2}');
SELECT id, state, memory, generation, version FROM gpuagent.retrieve_agents(generation => 6);
SELECT gpuagent.store_agents('{}'), gpuagent.store_agents('{}', '[]', fitness => '{}', metadata => '[]', expected_versions => '{}');
-- errors of aligned arguments
SELECT pg_temp.fails($$SELECT gpuagent.store_agents(NULL)$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,NULL}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{{a},{b}}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b,a}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,""}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', '[[1],[2],[3]]')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', '7')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', memories => '[1]')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', fitness => '{1}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', fitness => '{1,NaN}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', metadata => '[{}]')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', metadata => '[{},1]')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', metadata => '1')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', expected_versions => '{1}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', expected_versions => '{1,NULL}')$$);
SELECT pg_temp.fails($$SELECT gpuagent.store_agents('{a,b}', expected_versions => '{1,-1}')$$);
SELECT count(*) FROM gpuagent.agent WHERE id IN ('a', 'b', 'q');

-- selection: input order, repeated and absent ids, conditions combined
SELECT id FROM gpuagent.retrieve_agents('{r/4,zz,r/1,r/4,NULL}');
SELECT id FROM gpuagent.retrieve_agents('{r/4,r/3,r/1}', generation => 5);
SELECT id, fitness FROM gpuagent.retrieve_agents(best => 3);
SELECT id, fitness FROM gpuagent.retrieve_agents(best => 2, generation => 5);
SELECT id FROM gpuagent.retrieve_agents('{r/4,r/3}', best => 1);
SELECT id FROM gpuagent.retrieve_agents(best => 0);
SELECT id FROM gpuagent.retrieve_agents('{}');
SELECT gpuagent.store_agents('{r%,r_1,"r\\",rZ,s,ü1,üa}');
SELECT id FROM gpuagent.retrieve_agents(prefix => 'r%');
SELECT id FROM gpuagent.retrieve_agents(prefix => 'r\');
SELECT id FROM gpuagent.retrieve_agents(prefix => 'ü');
SELECT id FROM gpuagent.retrieve_agents(prefix => 'r/');
SELECT id FROM gpuagent.retrieve_agents(prefix => 'r/', generation => 6);
SELECT pg_temp.fails($$SELECT gpuagent.retrieve_agents(best => -1)$$);
SELECT pg_temp.fails($$SELECT gpuagent.retrieve_agents('{{a}}')$$);
DELETE FROM gpuagent.agent WHERE id NOT LIKE 'r/%';

-- populations
SELECT ids, states::gpuagent.agent_state, memories, generations, fitness, versions FROM gpuagent.retrieve_population('{r/3,r/1,r/2}')
    \gset
SELECT :'ids' AS ids, :'states' AS states, :'generations' AS generations, :'fitness' AS fitness, :'versions' AS versions;
SELECT :'memories'::gpuagent.swarm_tensor::gpuagent.agent_state AS memories;
SELECT ids, fitness, states IS NULL AS no_states FROM gpuagent.retrieve_population('{zz}');
SELECT gpuagent.store_agents('{n/1,n/2}', fitness => '{1,2}');
SELECT ids, states IS NULL AS no_states, memories IS NULL AS no_memories, fitness FROM gpuagent.retrieve_population(prefix => 'n/');
SELECT ids, fitness FROM gpuagent.retrieve_population(prefix => 'n/', best => 1);
SELECT pg_temp.fails($$SELECT * FROM gpuagent.retrieve_population('{r/1,n/2,r/2,n/1}')$$);
SELECT gpuagent.store_agents('{n/1,n/2}', states => '[[1,2,3],[1,2,3]]');
SELECT pg_temp.fails($$SELECT * FROM gpuagent.retrieve_population('{r/1,n/2}')$$);
SELECT pg_temp.fails($$SELECT * FROM gpuagent.retrieve_population(checkpoint => 999999)$$);
-- the rows and the matrices of 1,000 agents say the same
SELECT gpuagent.store_agents(array_agg('p/' || i ORDER BY i), gpuagent.stack(ARRAY[i, i * 0.5]::gpuagent.agent_state ORDER BY i),
                             fitness => array_agg(sin(i) ORDER BY i))
FROM generate_series(1, 1000) i;
SELECT count(*), bool_and(a.state = u.state), bool_and(a.fitness = p.fitness[u.ordinal]), bool_and(a.version = p.versions[u.ordinal])
FROM gpuagent.retrieve_population(prefix => 'p/') p, gpuagent.unstack(p.states) u, gpuagent.agent a
WHERE a.id = p.ids[u.ordinal];
SELECT ids = ARRAY(SELECT id FROM gpuagent.agent WHERE id LIKE 'p/%' ORDER BY id) AS by_id
FROM gpuagent.retrieve_population(prefix => 'p/');
SELECT ids = ARRAY(SELECT id FROM gpuagent.agent WHERE id LIKE 'p/%' ORDER BY fitness DESC, id LIMIT 50) AS best_first
FROM gpuagent.retrieve_population(prefix => 'p/', best => 50);

-- deletion
SELECT pg_temp.fails($$SELECT gpuagent.delete_agents()$$);
SELECT gpuagent.delete_agents('{p/1,p/2,zz,p/1,NULL}'), gpuagent.delete_agents(prefix => 'p/99'), gpuagent.delete_agents(generation => 6);
SELECT gpuagent.delete_agents('{p/3,p/4,r/2}', prefix => 'p/'), gpuagent.delete_agents('{r/3,p/5}', 5, 'r/');
SELECT gpuagent.delete_agents(prefix => 'p/'), gpuagent.delete_agents(prefix => '');
SELECT count(*) FROM gpuagent.agent;

-- populations of checkpoints: as they were then, within what the checkpoint covers
SELECT store_agents('{c/1,c/2,d/1}', '[[1],[2],[3]]', generation => 1, fitness => '{1,2,3}');
SELECT create_checkpoint() AS first \gset
SELECT store_agents('{c/1,c/3}', '[[10],[30]]', generation => 2, fitness => '{10,30}'), delete_agent('c/2');
SELECT create_checkpoint(objects => '{agents:c/}') AS second \gset
SELECT create_checkpoint(objects => '{metrics}') AS third \gset
SELECT delete_agents(prefix => '');
SELECT ids, states::agent_state, generations, fitness, versions FROM retrieve_population(checkpoint => :first);
SELECT ids, states::agent_state, generations, fitness, versions FROM retrieve_population(checkpoint => :second);
SELECT ids FROM retrieve_population('{c/2,d/1,zz,c/1}', checkpoint => :first);
SELECT ids FROM retrieve_population(best => 2, generation => 1, prefix => 'c/', checkpoint => :first);
SELECT regexp_replace(pg_temp.fails(format('SELECT * FROM retrieve_population(checkpoint => %s)', :third)), 'checkpoint \d+', 'checkpoint N');
SELECT delete_checkpoint(:third), delete_checkpoint(:second), delete_checkpoint(:first);
SELECT count(*) FROM gpuagent_store.checkpoint_agent WHERE id ~ '^[cd]/';
