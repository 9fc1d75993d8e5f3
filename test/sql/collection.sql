-- Garbage collection: rights, errors, what is shown, damage. Its interleavings are in specs/collect.spec.
SET client_min_messages = warning;
SET gpuagent.collect_grace = 0;
CREATE PROCEDURE collect_all() LANGUAGE plpgsql AS $$
DECLARE
    reached text;
BEGIN
    FOR i IN 1 .. 10000 LOOP
        reached := (SELECT g.phase FROM gpuagent.collect_garbage() g);
        COMMIT;
        EXIT WHEN reached = 'idle';
        PERFORM pg_sleep(0.02) WHERE reached IN ('waiting', 'busy');
    END LOOP;
END
$$;
CALL collect_all();

-- what collection does not need to see, and what it may not do on an old snapshot
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT error_of('SELECT gpuagent.collect_garbage()');
ROLLBACK;
SELECT phase, doomed, waiting_for, waiting_for_pids FROM gpuagent.stat_collection;

-- children of nodes, all of them
SELECT array_agg(encode(h, 'escape')) FROM gpuagent_store.child_hashes(convert_to(repeat('a', 32) || repeat('b', 32) || repeat('c', 32), 'UTF8')) h;
SELECT count(*) FROM unnest('{"","\\x00"}'::bytea[]) c, gpuagent_store.child_hashes(c);

-- the smallest, an empty tensor, and one that is shared
SELECT store_swarm('gc/empty', tensor('F32', '{0}', '')), store_swarm('gc/one', '[7,8,9,10]'), store_weights('gc/e', 'w', '[7,8,9,10]', '[]');
SELECT delete_swarm('gc/one'), delete_swarm('gc/empty');
CALL collect_all();
SELECT weights, biases FROM load_weights('gc/e');
SELECT delete_expert('gc/e');
CALL collect_all();
SELECT count(*) FROM gpuagent_store.tensor WHERE hash IN (tensor_hash('[7,8,9,10]'), tensor_hash('[]'));
SELECT gpuagent_store.keep_tensor(tensor_hash('[7,8,9,10]')) AS kept, error_of('SELECT gpuagent_store.keep_tensor(''\x00'')');

-- what is kept while it is doomed is copied with all that compaction knows of it
SELECT store_swarm('gc/copy', '[501,502]'), delete_swarm('gc/copy');
DO $$ BEGIN
    FOR i IN 1 .. 400 LOOP
        PERFORM gpuagent.collect_garbage();
        COMMIT;
        EXIT WHEN EXISTS (SELECT FROM gpuagent_store.doomed d WHERE d.hash = gpuagent.tensor_hash('[501,502]'));
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
SELECT gpuagent_store.keep_tensor(tensor_hash('[501,502]')) AS kept;
SELECT count(*) AS rows, count(c.level) AS with_level, count(DISTINCT c.level) AS levels FROM gpuagent_store.chunk c
    WHERE c.hash IN (SELECT t.root FROM gpuagent_store.tensor t WHERE t.hash = tensor_hash('[501,502]'));
CALL collect_all();

-- a version that is patched, appended and rolled back leaves what its transaction does not need
DO $$ BEGIN
    PERFORM append_swarm('gc/rows', '[[1,2]]'), append_swarm('gc/rows', '[[3,4]]');
    PERFORM store_swarm_rows('gc/rows', 2, '[[5,6]]');
END $$;
CALL collect_all();
SELECT retrieve_swarm('gc/rows'), gpuagent_store.tensor_problem(tensor) FROM gpuagent.swarm_version WHERE swarm = 'gc/rows';
SELECT count(*) FROM gpuagent_store.tensor WHERE hash IN (tensor_hash('[[1,2]]'), tensor_hash('[[1,2],[3,4]]'), tensor_hash('[[1,2],[5,6]]'));
SELECT delete_swarm('gc/rows');

-- versions beyond keep_versions, and layers that prune_weights takes, are garbage; what a checkpoint has is not
INSERT INTO gpuagent.swarm (swarm, keep_versions) VALUES ('gc/k', 2);
DO $$ BEGIN PERFORM store_swarm('gc/k', '[101]'); END $$;
SELECT create_checkpoint('gc', objects => '{swarm:gc/k}') > 0 AS made;
DO $$ BEGIN PERFORM store_swarm('gc/k', '[102]'); END $$;
DO $$ BEGIN PERFORM store_swarm('gc/k', '[103]'); END $$;
DO $$ BEGIN PERFORM store_swarm('gc/k', '[104]'); END $$;
DO $$ BEGIN PERFORM store_weights('gc/e', 'w', '[201]'); END $$;
DO $$ BEGIN PERFORM store_weights('gc/e', 'w', '[202]'); END $$;
SELECT prune_weights('gc/e', 1);
CALL collect_all();
SELECT n FROM generate_series(101, 202) n WHERE EXISTS (SELECT FROM gpuagent_store.tensor t WHERE t.hash = tensor_hash(ARRAY[n]::real[]::swarm_tensor));
SELECT delete_swarm('gc/k'), delete_expert('gc/e'), delete_checkpoint(resolve_checkpoint('gc'));
CALL collect_all();
SELECT count(*) FROM generate_series(101, 202) n WHERE EXISTS (SELECT FROM gpuagent_store.tensor t WHERE t.hash = tensor_hash(ARRAY[n]::real[]::swarm_tensor));

-- a policy that hides references stops collection: what is hidden is not garbage
CREATE ROLE gc_owner;
SELECT store_swarm('gc/hidden', '[301]');
ALTER TABLE gpuagent.swarm_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE gpuagent.swarm_version OWNER TO gc_owner;
CREATE ROLE gc_other;
GRANT USAGE ON SCHEMA gpuagent, gpuagent_store TO gc_other;
GRANT SELECT ON ALL TABLES IN SCHEMA gpuagent, gpuagent_store TO gc_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gpuagent, gpuagent_store TO gc_other;
GRANT INSERT, UPDATE, DELETE ON gpuagent_store.doom, gpuagent_store.doomed, gpuagent_store.upload, gpuagent_store.collection, gpuagent_store.collect_time TO gc_other;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA gpuagent_store TO gc_other;
ALTER TABLE gpuagent_store.chunk OWNER TO gc_other;
SELECT error_of('SELECT gpuagent.collect_garbage()') ~ '^42501 .* row-level security' AS refused;
SELECT retrieve_swarm('gc/hidden');
ALTER TABLE gpuagent_store.chunk OWNER TO CURRENT_USER;
ALTER TABLE gpuagent.swarm_version OWNER TO CURRENT_USER;
ALTER TABLE gpuagent.swarm_version DISABLE ROW LEVEL SECURITY;
DROP OWNED BY gc_other, gc_owner;
DROP ROLE gc_other, gc_owner;
SELECT delete_swarm('gc/hidden');

-- who may: level admin, as the owner of the tables
CREATE ROLE gc_writer;
CREATE ROLE gc_admin;
SELECT grant_access('gc_writer', 'write'), grant_access('gc_admin', 'admin');
SET ROLE gc_writer;
SELECT split_part(error_of('SELECT gpuagent.collect_garbage()'), ' | ', 1), split_part(error_of('DELETE FROM gpuagent_store.doomed'), ' | ', 1),
    split_part(error_of('SELECT gpuagent_store.delete_condemned(1)'), ' | ', 1), error_of('SELECT * FROM gpuagent.stat_collection');
SET ROLE gc_admin;
SELECT error_of('SELECT gpuagent.collect_garbage()'), split_part(error_of('SELECT gpuagent_store.collect_step(true)'), ' | ', 1);
SELECT error_of('SET gpuagent.collect_grace = 5');
RESET ROLE;
CALL collect_all();
DROP OWNED BY gc_writer, gc_admin;
DROP ROLE gc_writer, gc_admin;

-- a store that has not had the step of setup() goes on without collection
BEGIN;
DROP TABLE gpuagent_store.doomed, gpuagent_store.doom, gpuagent_store.upload, gpuagent_store.collection, gpuagent_store.collect_time;
SELECT store_swarm('gc/old', '[1,2,3]'), count(*) FROM missing_chunks(ARRAY[sha256('x')]);
SELECT store_chunk('[1,2,3]') IS NOT NULL AS stored;
SELECT split_part(error_of('SELECT gpuagent.collect_garbage()'), ' | ', 1);
ROLLBACK;

-- what a subscription brings was written by those who looked elsewhere at what is doomed
BEGIN;
SET LOCAL client_min_messages = error;
CREATE SUBSCRIPTION gc_subscription CONNECTION 'dbname=nowhere' PUBLICATION nothing WITH (connect = false, slot_name = NONE);
SELECT gpuagent_store.lock_store_maintenance();
SELECT phase <> 'incomplete' AS goes_on FROM collect_garbage();
INSERT INTO pg_subscription_rel SELECT oid, 'gpuagent_store.chunk'::regclass, 'r', NULL FROM pg_subscription WHERE subname = 'gc_subscription';
SELECT phase FROM collect_garbage();
SELECT split_part(error_of('SELECT gpuagent.compact_storage()'), ' | ', 1);
ROLLBACK;
DROP PROCEDURE collect_all;
