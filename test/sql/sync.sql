-- Write-back of mapped swarms. Clients here are mapped_write, which does a step; test/python/test_sync.py has real ones.
\set VERBOSITY terse
SET client_min_messages = warning;

CREATE FUNCTION pg_temp.content(pattern text, nbytes bigint) RETURNS bytea LANGUAGE sql AS
    $$SELECT decode(repeat(pattern, (2 * nbytes / length(pattern))::int), 'hex')$$;
CREATE FUNCTION pg_temp.same(swarm text, handle uuid) RETURNS boolean LANGUAGE sql AS
    $$SELECT gpuagent.retrieve_swarm(swarm) = gpuagent_store.mapped_tensor(handle)$$;

-- What is not mapped for writing cannot be synced.
SELECT error_of($$SELECT sync_swarm(NULL)$$);
SELECT error_of($$SELECT sync_swarm('')$$);
SELECT error_of($$SELECT sync_swarm('live')$$);
SELECT error_of($$SELECT revert_swarm('live')$$);
SELECT store_swarm('live', tensor('F32', '{640,1024}', pg_temp.content('0011223344556677', 2621440)));
SELECT handle AS r FROM map_swarm('live') \gset
SELECT error_of($$SELECT sync_swarm('live')$$);
SELECT handle AS h FROM map_swarm('live', 'r+') \gset

-- Nothing changed: nothing written, not even a transaction id.
BEGIN;
SELECT * FROM sync_swarm('live');
SELECT pg_current_xact_id_if_assigned();
COMMIT;
SELECT gpuagent_store.mapped_write(:'h', 70000, '\x0102');
SELECT * FROM sync_swarm('live', '{"loss": 0.5}');
SELECT * FROM sync_swarm('live');
SELECT version, step, metadata FROM gpuagent.swarm_version WHERE swarm = 'live' ORDER BY version;
SELECT pg_temp.same('live', :'h');
SELECT pg_temp.same('live', :'r') AS readers_keep_theirs;

-- The same bytes again are no change; a step is.
SELECT gpuagent_store.mapped_write(:'h', 70000, '\x0102');
SELECT * FROM sync_swarm('live');

-- Few leaves are a delta: of three chunks one was written, as one leaf.
SELECT count(*), min(leaves), min(nbytes) FROM gpuagent_store.chunk_delta WHERE hash IN (
    SELECT substr(n.children, 33, 32) FROM gpuagent_store.node n JOIN gpuagent_store.tensor t ON t.root = n.hash
    JOIN gpuagent.swarm_version v ON v.tensor = t.hash WHERE v.swarm = 'live' UNION ALL
    SELECT substr(n.children, 1, 32) FROM gpuagent_store.node n JOIN gpuagent_store.tensor t ON t.root = n.hash
    JOIN gpuagent.swarm_version v ON v.tensor = t.hash WHERE v.swarm = 'live');

-- One version per transaction; a savepoint that is rolled back leaves what it synced dirty.
BEGIN;
SELECT gpuagent_store.mapped_write(:'h', 1048570, pg_temp.content('ff', 12));
SELECT * FROM sync_swarm('live');
SAVEPOINT a;
SELECT gpuagent_store.mapped_write(:'h', 0, '\xaa');
SELECT * FROM sync_swarm('live');
SELECT * FROM sync_swarm('live');
ROLLBACK TO a;
SELECT * FROM sync_swarm('live');
SELECT pg_temp.same('live', :'h');
COMMIT;
SELECT pg_temp.same('live', :'h');
BEGIN;
SELECT gpuagent_store.mapped_write(:'h', 0, '\xbb');
SELECT * FROM sync_swarm('live');
ROLLBACK;
SELECT current FROM gpuagent.swarm WHERE swarm = 'live';
SELECT * FROM sync_swarm('live');
SELECT pg_temp.same('live', :'h');

-- After a sync its transaction cannot be prepared.
BEGIN;
SELECT gpuagent_store.mapped_write(:'h', 0, '\xcc');
SELECT changed FROM sync_swarm('live');
PREPARE TRANSACTION 'sync';
BEGIN;
SELECT changed FROM sync_swarm('live');
ROLLBACK;
BEGIN;
SELECT store_swarm('other', '[1]');
PREPARE TRANSACTION 'sync';
ROLLBACK PREPARED 'sync';

-- Revert: at once, whatever becomes of the transaction; not to what may be rolled back.
SELECT revert_swarm('live'), epoch FROM gpuagent.stat_handle WHERE handle = :'h' \gset before_
SELECT revert_swarm('live');
SELECT epoch > :before_epoch AS clients_see_it FROM gpuagent.stat_handle WHERE handle = :'h';
SELECT pg_temp.same('live', :'h');
SELECT changed FROM sync_swarm('live');
BEGIN;
SELECT gpuagent_store.mapped_write(:'h', 0, '\xdd');
SELECT changed FROM sync_swarm('live');
SELECT error_of($$SELECT revert_swarm('live')$$);
ROLLBACK;

-- What another stores makes the memory stale, and its clients see it; a rolled-back change does not.
SELECT epoch FROM gpuagent.stat_handle WHERE handle = :'h' \gset before_
BEGIN;
SELECT store_swarm_rows('live', 1, tensor('F32', '{1,1024}', pg_temp.content('00', 4096)));
SELECT error_of($$SELECT sync_swarm('live')$$);
ROLLBACK;
SELECT epoch - :before_epoch AS unchanged FROM gpuagent.stat_handle WHERE handle = :'h';
SELECT version, changed FROM sync_swarm('live');
SELECT store_swarm_rows('live', 1, tensor('F32', '{1,1024}', pg_temp.content('00', 4096)));
SELECT epoch > :before_epoch AS clients_see_it FROM gpuagent.stat_handle WHERE handle = :'h';
SELECT error_of($$SELECT sync_swarm('live')$$);
SELECT revert_swarm('live') = current AS reverted FROM gpuagent.swarm WHERE swarm = 'live';
SELECT pg_temp.same('live', :'h');
-- A sync whose version another replaces in the same transaction.
BEGIN;
SELECT gpuagent_store.mapped_write(:'h', 0, '\xee');
SELECT changed FROM sync_swarm('live');
SELECT store_swarm_rows('live', 1, tensor('F32', '{1,1024}', pg_temp.content('11', 4096))) = current AS same FROM gpuagent.swarm WHERE swarm = 'live';
COMMIT;
SELECT error_of($$SELECT sync_swarm('live')$$);
SELECT revert_swarm('live') = current AS reverted FROM gpuagent.swarm WHERE swarm = 'live';

-- Versions that nobody keeps go.
UPDATE gpuagent.swarm SET keep_versions = 2 WHERE swarm = 'live';
SELECT gpuagent_store.mapped_write(:'h', 0, '\x01');
SELECT changed FROM sync_swarm('live');
SELECT count(*) FROM gpuagent.swarm_version WHERE swarm = 'live';

-- A tensor without elements, and one of rank 0.
SELECT store_swarm('empty', 'F32[0,3]:raw:'), store_swarm('scalar', 'F64[]:raw:AAAAAAAA8D8=');
SELECT handle AS e FROM map_swarm('empty', 'r+') \gset
SELECT handle AS s FROM map_swarm('scalar', 'r+') \gset
SELECT * FROM sync_swarm('empty');
SELECT gpuagent_store.mapped_write(:'s', 6, '\x0840');
SELECT * FROM sync_swarm('scalar');
SELECT retrieve_swarm('scalar')::text = gpuagent_store.mapped_tensor(:'s')::text AS same;

-- The store finds all that it needs of what was synced.
SELECT status, found FROM verify_integrity('full', '{swarm:live,swarm:scalar,swarm:empty}');

-- Who syncs needs the rights of level map for the memory and those of level write for the version.
CREATE ROLE sync_map;
CREATE ROLE sync_both;
SELECT grant_access('sync_map', 'map'), grant_access('sync_both', 'map'), grant_access('sync_both', 'write');
SELECT gpuagent_store.mapped_write(:'h', 0, '\x02');
GRANT USAGE ON SCHEMA public TO sync_map, sync_both;
SET ROLE sync_map;
SELECT error_of($$SELECT sync_swarm('live')$$);
SELECT error_of($$SELECT revert_swarm('live')$$);
SET ROLE sync_both;
SELECT changed FROM sync_swarm('live');
SELECT error_of($$SELECT gpuagent_store.autosync()$$);
RESET ROLE;
DROP OWNED BY sync_map, sync_both;
DROP ROLE sync_map, sync_both;

-- A memory whose swarm is gone.
SELECT delete_swarm('live');
SELECT error_of($$SELECT sync_swarm('live')$$);
SELECT error_of($$SELECT revert_swarm('live')$$);
SELECT unmap_swarm('live'), unmap_swarm('empty'), unmap_swarm('scalar');
SELECT delete_swarm('empty'), delete_swarm('scalar');
