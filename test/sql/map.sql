-- Mapped memory: handles, what they show, who shares them, what they refuse. The same on every device.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT store_swarm('map/a', '[[1,2,3],[4,5,6]]');

-- What a handle says.
SELECT object, version, mode, dtype, shape, nbytes, size_bytes >= nbytes AS fits, expires_at > now() + '4 min' AS lease,
    handle IS NOT NULL AS handle, path LIKE '/%' AS path, control_offset
FROM map_swarm('map/a');
SELECT count(*), count(DISTINCT handle) FROM stat_handle WHERE object = 'swarm:map/a';
CREATE TEMP TABLE h (name text PRIMARY KEY, handle uuid);
INSERT INTO h SELECT 'reader', handle FROM map_swarm('map/a', 'r', 1);
SELECT count(*) AS regions, sum(leases) AS leases FROM stat_memory WHERE object = 'swarm:map/a';
SELECT gpuagent_store.mapped_tensor(handle)::float4[] FROM h WHERE name = 'reader';

-- Writers share one region; readers have another, which never changes.
INSERT INTO h SELECT 'writer', handle FROM map_swarm('map/a', 'r+');
INSERT INTO h SELECT 'writer 2', handle FROM map_swarm('map/a', mode => 'r+', version => 1);
SELECT gpuagent_store.mapped_write(handle, 4, '\x0000803f') FROM h WHERE name = 'writer';
SELECT name, gpuagent_store.mapped_tensor(handle)::float4[] FROM h ORDER BY name;
SELECT retrieve_swarm('map/a')::float4[];
SELECT mode, version, step, epoch, autosync, client_pid = pg_backend_pid() AS me, owner = current_user AS own FROM stat_handle
    WHERE object = 'swarm:map/a' ORDER BY mode, step;
SELECT count(*) AS regions, sum(leases) AS leases FROM stat_memory WHERE object = 'swarm:map/a';
SELECT gpuagent_store.mapped_write(handle, 0, '\x00') FROM h WHERE name = 'reader';
SELECT gpuagent_store.mapped_write(handle, 23, '\x0000') FROM h WHERE name = 'writer';

-- A version stored by somebody else: readers go on, writers cannot be joined any more.
SELECT store_swarm('map/a', '[[7]]');
SELECT version, shape FROM map_swarm('map/a');
SELECT version, shape FROM map_swarm('map/a', version => 1);
SELECT version FROM map_swarm('map/a', 'r+');
SELECT version FROM map_swarm('map/a', 'r+', version => 1);
SELECT unmap_swarm('map/a'), unmap_swarm('map/a');
SELECT count(*) FROM stat_memory WHERE object = 'swarm:map/a';
SELECT version, shape FROM map_swarm('map/a', 'r+');

-- A deleted swarm comes again with the same version and other contents.
SELECT delete_swarm('map/a'), store_swarm('map/a', '[[8]]'), store_swarm('map/b', '[[8]]');
SELECT delete_swarm('map/b');
SELECT store_swarm('map/b', '[[9]]');
SELECT count(*) FROM map_swarm('map/b', 'r+');
SELECT delete_swarm('map/b');
SELECT store_swarm('map/b', '[[10]]');
SELECT version FROM map_swarm('map/b', 'r+');
SELECT gpuagent_store.mapped_tensor((map_swarm('map/b')).handle)::float4[];

-- Arguments.
SELECT map_swarm(NULL);
SELECT map_swarm('');
SELECT map_swarm('map/none');
SELECT map_swarm('map/a', 'r', 77);
SELECT map_swarm('map/a', 'w');
SELECT map_swarm('map/a', NULL);
SELECT map_swarm('map/a', lease => NULL);
SELECT map_swarm('map/a', lease => '0');
SELECT map_swarm('map/a', lease => '-1 min');
SELECT map_swarm('map/a', device => 'tpu');
SELECT map_swarm('map/a', device => 'host/ipc');
SELECT map_swarm('map/a', device => 'cuda/ipc');
SELECT map_swarm('map/a', autosync => true);
SELECT unmap_swarm('map/a'), unmap_swarm('map/b'), unmap_swarm(NULL);

-- Leases.
INSERT INTO h SELECT 'lease', handle FROM map_swarm('map/a', lease => '10 s');
SELECT renew_handle(handle, '1 h') > now() + '59 min' FROM h WHERE name = 'lease';
SELECT expires_at > now() + '59 min' FROM stat_handle JOIN h USING (handle);
SELECT renew_handle(handle, '0') FROM h WHERE name = 'lease';
SELECT renew_handle(NULL);
SELECT renew_handle('00000000-0000-0000-0000-000000000000');
SELECT unmap_handle(handle) FROM h WHERE name = 'lease';
SELECT unmap_handle(handle) FROM h WHERE name = 'lease';
SELECT unmap_handle(NULL), unmap_handle('00000000-0000-0000-0000-000000000000');

-- A handle outlives a rollback, but not one of the version that it shows.
BEGIN;
SELECT count(*) FROM map_swarm('map/a', 'r+');
ROLLBACK;
SELECT mode, version FROM stat_handle WHERE object = 'swarm:map/a';
SELECT unmap_swarm('map/a');
BEGIN;
SELECT store_swarm('map/a', '[[11]]');
SELECT gpuagent_store.mapped_tensor(handle)::float4[], version, mode FROM map_swarm('map/a', 'r+');
SELECT gpuagent_store.mapped_tensor(handle)::float4[], version, mode FROM map_swarm('map/a');
-- still the same version of this transaction, with other contents
SELECT store_swarm('map/a', '[[12]]');
SELECT gpuagent_store.mapped_tensor(handle)::float4[], version, mode FROM map_swarm('map/a');
SELECT count(*) FROM stat_memory WHERE object = 'swarm:map/a';
ROLLBACK;
SELECT count(*) FROM stat_memory WHERE object = 'swarm:map/a';
BEGIN;
SAVEPOINT s;
SELECT store_swarm('map/a', '[[13]]');
SELECT version FROM map_swarm('map/a', 'r+');
ROLLBACK TO s;
SELECT count(*) FROM stat_memory WHERE object = 'swarm:map/a';
SELECT store_swarm('map/a', '[[14]]');
SAVEPOINT t;
SELECT version FROM map_swarm('map/a', 'r+');
RELEASE t;
COMMIT;
SELECT mode, version FROM stat_handle WHERE object = 'swarm:map/a';
BEGIN;
SELECT store_swarm('map/c', '[[15]]');
SELECT count(*) FROM map_swarm('map/c');
PREPARE TRANSACTION 'map';
SELECT count(*) FROM stat_memory WHERE object = 'swarm:map/c';
SELECT unmap_swarm('map/a');

-- Empty tensors, rank 0, one byte, packed dtypes.
CREATE FUNCTION map_and_compare(t swarm_tensor) RETURNS TABLE (dtype text, shape bigint[], nbytes bigint, same boolean)
LANGUAGE plpgsql AS $$
DECLARE
    m gpuagent.handle;
BEGIN
    PERFORM store_swarm('map/shape', t);
    m := map_swarm('map/shape', 'r+');
    RETURN QUERY SELECT m.dtype, m.shape, m.nbytes, gpuagent_store.mapped_tensor(m.handle) = t;
    PERFORM unmap_handle(m.handle);
END
$$;
SELECT m.* FROM (VALUES (1, tensor('F32', '{}', '\x0000803f')), (2, tensor('F32', '{0}', '')), (3, tensor('I64', '{3,0,2}', '')),
    (4, tensor('U8', '{1}', '\x07')), (5, tensor('F4', '{3,2}', '\x123456')), (6, tensor('BOOL', '{3}', '\x010001'))) v (i, t),
    map_and_compare(t) m ORDER BY i;
SELECT count(*) FROM stat_memory WHERE object = 'swarm:map/shape';

-- Large enough for parallel workers, which see what the transaction has just stored.
BEGIN;
SET LOCAL max_parallel_maintenance_workers = 2;
SELECT store_swarm('map/large', tensor('U8', ARRAY[1048577, 33], string_agg(sha256(i::text::bytea), '') || repeat('x', 1048577)::bytea))
    FROM generate_series(1, 1048577) i;
SELECT tensor_hash(gpuagent_store.mapped_tensor(handle)) = tensor AS same, shape FROM map_swarm('map/large', 'r+'), gpuagent.swarm_version WHERE swarm = 'map/large';
COMMIT;
SELECT unmap_swarm('map/large'), delete_swarm('map/large');
SELECT count(*) FROM map_swarm('map/a');

-- Queries.
CREATE TABLE vectors (id bigint, v embedding(2), s agent_state);
INSERT INTO vectors VALUES (2, '[3,4]', '[[1,2]]'), (1, '[1,2]', '[[3,4]]'), (3, NULL, 'I64:[1]');
SELECT object, version, mode, dtype, shape, nbytes, gpuagent_store.mapped_tensor(handle)::float4[] FROM map_query('SELECT id, v FROM vectors WHERE id < 3 ORDER BY id');
SELECT shape, gpuagent_store.mapped_tensor(handle)::float4[] FROM map_query('SELECT s FROM vectors WHERE id < 3 ORDER BY id DESC');
SELECT dtype, shape, nbytes FROM map_query('SELECT v FROM vectors WHERE false');
SELECT dtype, shape, nbytes FROM map_query('SELECT s FROM vectors WHERE false');
SELECT shape FROM map_query('WITH x AS (SELECT v FROM vectors WHERE id = 1) SELECT v FROM x');
SELECT shape, gpuagent_store.mapped_tensor(handle) = (SELECT tensor('U8', '{50000,1000}', string_agg(repeat(chr(65 + i % 26), 1000)::bytea, '' ORDER BY i)) FROM generate_series(1, 50000) i) AS same
    FROM map_query($$SELECT i, tensor('U8', '{1000}', repeat(chr(65 + i % 26), 1000)::bytea) FROM generate_series(1, 50000) i$$);
SELECT map_query('SELECT v FROM vectors');
SELECT map_query('SELECT s FROM vectors');
SELECT map_query('SELECT id FROM vectors');
SELECT map_query('SELECT v, id FROM vectors');
SELECT map_query('SELECT FROM vectors');
SELECT map_query('SELECT no FROM vectors');
SELECT map_query('INSERT INTO vectors VALUES (1) RETURNING v');
SELECT map_query('WITH x AS (DELETE FROM vectors RETURNING v) SELECT v FROM x');
SELECT map_query('SELECT v FROM vectors FOR UPDATE');
SELECT map_query('SELECT v INTO vectors2 FROM vectors');
SELECT map_query('SELECT v FROM vectors; SELECT v FROM vectors');
SELECT map_query('SHOW search_path');
SELECT map_query('TRUNCATE vectors');
SELECT map_query('');
SELECT map_query(NULL);
SELECT map_query('SELECT reshape(''[1]''::agent_state, ''{1,1,1,1,1,1,1,1}''::bigint[])');
SELECT map_query('SELECT v FROM vectors WHERE 1 / (id - id) > 0');
SELECT count(*) FROM vectors;

-- Agents.
SELECT store_agents('{map/1,map/2,map/3}', '[[1,2],[3,4],[5,6]]', generation => 1, fitness => '{0.5,0.9,NULL}');
SELECT store_agent('map/4', '[7]', '[8,9]', generation => 2);
SELECT object, shape, gpuagent_store.mapped_tensor(handle)::float4[] FROM map_agents('{map/3,map/1}');
SELECT shape, gpuagent_store.mapped_tensor(handle)::float4[] FROM map_agents(generation => 1, best => 2);
SELECT shape, gpuagent_store.mapped_tensor(handle)::float4[] FROM map_agents(prefix => 'map/', generation => 1);
SELECT shape, gpuagent_store.mapped_tensor(handle)::float4[] FROM map_agents(prefix => 'map/4', column_name => 'memory');
SELECT shape FROM map_agents('{}');
SELECT shape FROM map_agents(prefix => 'nobody/');
SELECT map_agents('{map/1,map/9}');
SELECT map_agents('{map/1,map/9}', best => 1);
SELECT map_agents('{map/1,NULL}');
SELECT map_agents(prefix => 'map/');
SELECT map_agents('{map/4,map/1}', column_name => 'memory');
SELECT map_agents(column_name => 'fitness');
SELECT map_agents(best => -1);
SELECT kind, count(*) FROM stat_memory WHERE kind IN ('agents', 'query') GROUP BY kind ORDER BY kind;
SELECT count(unmap_handle(handle)) FROM stat_handle WHERE object IN ('agents', 'query');
SELECT kind, count(*) FROM stat_memory WHERE kind IN ('agents', 'query') GROUP BY kind ORDER BY kind;

-- Roles: level map, for mode r+ write as well, and the tables' own rights; other roles' handles stay theirs.
CREATE ROLE ga_map_one;
CREATE ROLE ga_map_two;
CREATE ROLE ga_map_read;
SELECT grant_access('ga_map_one', 'map'), grant_access('ga_map_one', 'write'), grant_access('ga_map_two', 'map'),
    grant_access('ga_map_two', 'write'), grant_access('ga_map_read', 'read');
GRANT SELECT ON h TO PUBLIC;
GRANT INSERT ON h TO PUBLIC;
SET ROLE ga_map_read;
SELECT map_swarm('map/a');
SELECT count(object) FROM stat_handle;
SET ROLE ga_map_one;
INSERT INTO h SELECT 'one', handle FROM map_swarm('map/a', 'r+');
SELECT object FROM stat_handle WHERE mode = 'r+' ORDER BY 1;
SELECT map_query('SELECT v FROM vectors');
SET ROLE ga_map_two;
SELECT unmap_handle(handle) FROM h WHERE name = 'one';
SELECT unmap_swarm('map/a');
\set VERBOSITY sqlstate
SELECT renew_handle(handle) FROM h WHERE name = 'one';
SELECT gpuagent_store.mapped_tensor(handle) FROM h WHERE name = 'one';
\set VERBOSITY default
SELECT object, owner = 'ga_map_one' AS one, version, client_pid FROM stat_handle WHERE mode = 'r+' ORDER BY owner = 'ga_map_one';
SELECT count(*) FROM map_swarm('map/a', 'r+');
RESET ROLE;
SELECT count(*) FROM stat_handle WHERE mode = 'r+';
ALTER TABLE gpuagent.swarm ENABLE ROW LEVEL SECURITY;
CREATE POLICY map ON gpuagent.swarm USING (swarm = 'map/b');
SET ROLE ga_map_one;
SELECT map_swarm('map/a');
SELECT map_swarm('map/a', 'r+');
SELECT count(*) > 0 AS regions, count(object) AS names FROM stat_memory WHERE kind = 'swarm';
SELECT version FROM map_swarm('map/b');
SELECT unmap_swarm('map/a');
RESET ROLE;
DROP POLICY map ON gpuagent.swarm;
ALTER TABLE gpuagent.swarm DISABLE ROW LEVEL SECURITY;
REVOKE SELECT ON gpuagent_store.chunk FROM ga_map_one;
SET ROLE ga_map_one;
SELECT count(*) FROM map_swarm('map/a', version => 1);
SELECT count(*) FROM map_swarm('map/a', 'r+');
RESET ROLE;
SELECT count(unmap_handle(handle)) FROM stat_handle;
SELECT count(*) FROM stat_handle;
SELECT count(*) FROM stat_memory WHERE object IS NOT NULL;
DROP TABLE vectors, h;
DROP FUNCTION map_and_compare(swarm_tensor);
DROP OWNED BY ga_map_one, ga_map_two, ga_map_read;
DROP ROLE ga_map_one, ga_map_two, ga_map_read;
SELECT count(delete_swarm(swarm)) FROM gpuagent.swarm WHERE swarm LIKE 'map/%';
SELECT delete_agents('{map/1,map/2,map/3,map/4}');
