-- Mapped memory under hostile clients, rights and transactions.
\set VERBOSITY terse
SET client_min_messages = warning;

-- A client that opens the file with mode w+ (np.memmap) shortens it under the server.
SELECT store_swarm('rm/a', tensor('U8', '{3000000}', decode(repeat('07', 3000000), 'hex')));
SELECT handle AS h, path AS p FROM map_swarm('rm/a', 'r+', device => 'host') \gset
\setenv REGION :p
SELECT gpuagent_store.mapped_write(:'h', 5, '\x01');
SELECT changed, dirty_bytes FROM sync_swarm('rm/a');
BEGIN;
SELECT gpuagent_store.mapped_write(:'h', 6, '\x01');
\! truncate -s 100000 "$REGION"
SELECT error_of($$SELECT sync_swarm('rm/a')$$);
SELECT error_of(format('SELECT gpuagent_store.mapped_tensor(%L)', :'h'));
ROLLBACK;
SELECT error_of(format('SELECT gpuagent_store.mapped_tensor(%L)', :'h'));
SELECT error_of($$SELECT sync_swarm('rm/a')$$);
SELECT error_of($$SELECT revert_swarm('rm/a')$$);
SELECT count(*) FROM stat_handle WHERE object = 'swarm:rm/a';

-- Who maps it now gets new memory. There the page that says what it is goes, too; then it is as large again, but of zeros.
SELECT handle AS h2, path AS p FROM map_swarm('rm/a', 'r+', device => 'host') \gset
\setenv REGION :p
SELECT gpuagent_store.mapped_write(:'h2', 7, '\x01');
SELECT step FROM stat_handle WHERE object = 'swarm:rm/a' ORDER BY step;
\! truncate -s 0 "$REGION"
SELECT step FROM stat_handle WHERE object = 'swarm:rm/a' ORDER BY step;
\! truncate -s 3004096 "$REGION"
SELECT step FROM stat_handle WHERE object = 'swarm:rm/a' ORDER BY step;
SELECT error_of(format('SELECT gpuagent_store.mapped_write(%L, 0, %L)', :'h2', '\x01'));
SELECT error_of($$SELECT revert_swarm('rm/a')$$);
SELECT error_of($$SELECT sync_swarm('rm/a', force => true)$$);
SELECT unmap_handle(:'h2');

-- Readers are not led to what one of them has destroyed.
SELECT path AS p FROM map_swarm('rm/a', device => 'host') \gset
\setenv REGION :p
SELECT path = :'p' AS same FROM map_swarm('rm/a', device => 'host');
\! truncate -s 5000 "$REGION"
SELECT path = :'p' AS same FROM map_swarm('rm/a', device => 'host');
SELECT unmap_swarm('rm/a');
SELECT store_swarm('rm/a', tensor('U8', '{3}', '\x010203'));
SELECT version, current FROM gpuagent.swarm_version JOIN gpuagent.swarm USING (swarm) WHERE swarm = 'rm/a' ORDER BY 1;
SELECT handle AS h FROM map_swarm('rm/a', 'r+') \gset
SELECT gpuagent_store.mapped_write(:'h', 0, '\xff');
SELECT changed, dirty_bytes FROM sync_swarm('rm/a');
SELECT retrieve_swarm('rm/a')::int[];

-- Memory takes no version that may still be rolled back, whoever made it.
SELECT create_checkpoint('rm', '{swarm:rm/a}') AS checkpoint \gset
SELECT store_swarm('rm/a', tensor('U8', '{3}', '\x090909'));
SELECT revert_swarm('rm/a');
BEGIN;
SELECT count(*) > 0 AS restored FROM restore_checkpoint(:checkpoint, '{swarm:rm/a}', safety => false);
SELECT error_of($$SELECT revert_swarm('rm/a')$$);
ROLLBACK;
SELECT gpuagent_store.mapped_tensor(:'h')::int[], retrieve_swarm('rm/a')::int[];

-- A trigger that catches an error of its own does not make a sync look like somebody else's version.
CREATE FUNCTION pg_temp.rm_catch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 / 0;
EXCEPTION WHEN division_by_zero THEN
    RETURN NEW;
END
$$;
CREATE TRIGGER rm BEFORE INSERT ON gpuagent.swarm_version FOR EACH ROW EXECUTE FUNCTION pg_temp.rm_catch();
SELECT epoch AS before FROM stat_handle WHERE handle = :'h' \gset
SELECT gpuagent_store.mapped_write(:'h', 1, '\xfe');
BEGIN;
SELECT changed FROM sync_swarm('rm/a');
SELECT changed FROM sync_swarm('rm/a');
COMMIT;
SELECT epoch - :before AS epochs FROM stat_handle WHERE handle = :'h';
DROP TRIGGER rm ON gpuagent.swarm_version;

-- Who may not store versions gets no memory whose contents become versions, by a sync of others or by autosync.
CREATE ROLE rm_map;
CREATE ROLE rm_write;
SELECT grant_access('rm_map', 'map'), grant_access('rm_write', 'map'), grant_access('rm_write', 'write');
SET ROLE rm_map;
SELECT mode FROM map_swarm('rm/a');
SELECT error_of($$SELECT map_swarm('rm/a', 'r+')$$);
SELECT error_of($$SELECT map_swarm('rm/a', 'r+', autosync => true)$$);
SET ROLE rm_write;
SELECT mode FROM map_swarm('rm/a', 'r+');
RESET ROLE;
ALTER TABLE gpuagent.swarm ENABLE ROW LEVEL SECURITY;
CREATE POLICY see ON gpuagent.swarm FOR SELECT USING (true);
CREATE POLICY change ON gpuagent.swarm FOR UPDATE USING (swarm <> 'rm/a');
SET ROLE rm_write;
SELECT mode FROM map_swarm('rm/a');
SELECT error_of($$SELECT map_swarm('rm/a', 'r+')$$);
RESET ROLE;
DROP POLICY see ON gpuagent.swarm;
DROP POLICY change ON gpuagent.swarm;
ALTER TABLE gpuagent.swarm DISABLE ROW LEVEL SECURITY;
SELECT count(unmap_handle(handle)) > 0 AS some FROM stat_handle;
DROP OWNED BY rm_map, rm_write;
DROP ROLE rm_map, rm_write;
SELECT delete_checkpoint(:checkpoint);
SELECT delete_swarm('rm/a');
