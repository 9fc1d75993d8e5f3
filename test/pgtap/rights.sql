-- What each level of grant_access() opens, and what stays shut.
BEGIN;
SELECT plan(34);
SET LOCAL search_path = public, gpuagent;

CREATE ROLE ga_test_none;
CREATE ROLE ga_test_read;
CREATE ROLE ga_test_write;
CREATE ROLE ga_test_admin;
SELECT lives_ok($$SELECT gpuagent.grant_access('ga_test_read'), gpuagent.grant_access('ga_test_write', 'write'),
    gpuagent.grant_access('ga_test_admin', 'admin')$$, 'grant_access grants');
SELECT throws_ok($$SELECT gpuagent.grant_access('ga_test_read', 'all')$$, '22023', 'unknown level "all"', 'an unknown level is refused');
SELECT throws_ok($$SELECT gpuagent.grant_access(NULL)$$, '22004', NULL, 'role NULL is refused');
SELECT store_swarm('rights/pop', '[[1,2],[3,4]]');

-- PUBLIC: types and math
SET LOCAL ROLE ga_test_none;
SELECT is('[1,2]'::gpuagent.embedding OPERATOR(gpuagent.<->) '[1,3]', 1::float8, 'anybody may compute');
SELECT throws_ok('SELECT * FROM gpuagent.agent', '42501', NULL, 'but not read tables');
SELECT throws_ok($$SELECT gpuagent.retrieve_swarm('rights/pop')$$, '42501', NULL, 'nor read through functions');
SELECT throws_ok($$SELECT gpuagent.store_chunk('[1]')$$, '42501', NULL, 'nor store chunks');
SELECT throws_ok($$SELECT gpuagent.setup()$$, '42501', NULL, 'nor run setup()');
SELECT throws_ok($$SELECT gpuagent.grant_access('ga_test_none', 'admin')$$, '42501', NULL, 'nor grant');

SET LOCAL ROLE ga_test_read;
SELECT is(gpuagent.retrieve_swarm('rights/pop')::text, 'F32[2,2]:raw:AACAPwAAAEAAAEBAAACAQA==', 'read reads');
SELECT is((SELECT count(*) FROM gpuagent.check_setup() WHERE item = 'tables' AND status = 'ok'), 1::bigint, 'read checks the set-up');
SELECT throws_ok($$SELECT gpuagent.store_swarm('rights/pop', '[1]')$$, '42501', NULL, 'read does not store');
SELECT throws_ok($$DELETE FROM gpuagent.agent$$, '42501', NULL, 'read does not delete');
SELECT throws_ok($$SELECT gpuagent_store.storage_path()$$, '42501', NULL, 'read does not see the path');
SELECT is((SELECT count(*) FROM gpuagent.check_setup() WHERE item = 'storage_path' AND detail LIKE '%/%'), 0::bigint,
    'nor does check_setup show it');

SET LOCAL ROLE ga_test_write;
SELECT is(gpuagent.store_swarm('rights/pop2', '[[5]]'), 1::bigint, 'write stores, though it may not insert chunks itself');
SELECT throws_ok($$INSERT INTO gpuagent_store.chunk (hash, nbytes, data) VALUES (decode(repeat('00', 32), 'hex'), 1, 'x')$$,
    '42501', NULL, 'no role inserts a chunk under a hash that it claims');
SELECT throws_ok($$UPDATE gpuagent_store.node SET children = children$$, '42501', NULL, 'nor changes a node');
SELECT throws_ok($$DELETE FROM gpuagent_store.tensor$$, '42501', NULL, 'nor deletes a tensor');
SELECT throws_ok($$SELECT gpuagent.delete_swarm('rights/pop2')$$, '42501', NULL, 'removing a whole object is for admin');
SELECT lives_ok($$INSERT INTO gpuagent.agent (id) VALUES ('rights/a')$$, 'write inserts rows of user tables');

-- Order and retention of checkpoints go by number and kind.
SELECT throws_ok($$INSERT INTO gpuagent.checkpoint (id, kind) VALUES (9000000000000000000, 'auto')$$, '42501', NULL, 'nobody is the newest checkpoint for ever');
SELECT throws_ok($$INSERT INTO gpuagent.checkpoint (kind) VALUES ('auto')$$, '42501', NULL, 'nor seems automatic');
SELECT throws_ok($$INSERT INTO gpuagent.checkpoint (horizon) VALUES ('9000000000000000000')$$, '42501', NULL, 'nor ends the capture of changes');
SELECT throws_ok($$UPDATE gpuagent_store.checkpoint_head SET last_import = 9000000000000000000$$, '42501', NULL, 'nor does a row of the head');
SELECT lives_ok($$SELECT gpuagent.create_checkpoint('rights')$$, 'write makes checkpoints');
SELECT is((SELECT kind FROM gpuagent.checkpoint WHERE label = 'rights'), 'manual', 'of the kind that is its own');
SELECT throws_ok($$SELECT gpuagent.create_checkpoint('rights', export => true)$$, '42501', 'permission denied to export checkpoints', 'but no files');

SET LOCAL ROLE ga_test_admin;
SELECT lives_ok($$INSERT INTO gpuagent.checkpoint (id, kind) VALUES (9000000000000000000, 'auto')$$, 'admin may write what pg_restore does');
SELECT is(gpuagent.delete_swarm('rights/pop2'), true, 'admin removes');
SELECT throws_ok($$INSERT INTO gpuagent_store.chunk (hash, nbytes, data) VALUES (decode(repeat('00', 32), 'hex'), 1, 'x')$$,
    '42501', NULL, 'admin does not insert chunks either');

RESET ROLE;
-- A trigger on the store runs as the table's owner, never as the caller's superuser.
CREATE ROLE ga_test_owner;
CREATE TABLE public.ga_test_seen (who text);
GRANT INSERT ON public.ga_test_seen TO ga_test_owner;
CREATE FUNCTION public.ga_test_spy() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO public.ga_test_seen VALUES (current_user); RETURN NEW; END$$;
GRANT USAGE ON SCHEMA gpuagent_store TO ga_test_owner;
ALTER TABLE gpuagent_store.chunk OWNER TO ga_test_owner;
CREATE TRIGGER spy BEFORE INSERT ON gpuagent_store.chunk FOR EACH ROW EXECUTE FUNCTION public.ga_test_spy();
SELECT lives_ok($$SELECT gpuagent.store_chunk('[123456,654321]')$$, 'a store with a trigger on chunk works');
SELECT is((SELECT array_agg(DISTINCT who) FROM public.ga_test_seen), ARRAY['ga_test_owner'], 'and the trigger runs as the owner of the table');

-- No function calls one of a higher level, which would end in a bare error for who may call it but not that one.
-- create_checkpoint() asks first; setup() is named in hints, and its steps are run by whoever calls it.
SELECT is_empty($$
    WITH f AS (
        SELECT p.oid, p.pronamespace::regnamespace || '.' || p.proname AS name, p.prosrc, gpuagent_store.access_level(p.oid) AS level,
            CASE gpuagent_store.access_level(p.oid) WHEN 'read' THEN '{read}' WHEN 'write' THEN '{read,write}' WHEN 'map' THEN '{read,map}'
                ELSE '{read,write,map,admin}' END::text[] AS may
        FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        WHERE p.pronamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace))
    SELECT c.name, g.name FROM f c
        CROSS JOIN LATERAL regexp_matches(regexp_replace(c.prosrc, 'HINT = ''[^'']*''', '', 'g'), '(gpuagent|gpuagent_store)\.([a-z_]+)\s*\(', 'g') m
        JOIN f g ON g.name = m[1] || '.' || m[2]
    WHERE c.name NOT IN ('gpuagent.create_checkpoint', 'gpuagent_store.setup_steps') AND g.name <> 'gpuagent.setup'
    GROUP BY c.oid, c.name, g.name, c.may HAVING NOT bool_or(g.level = ANY (c.may))$$,
    'no function calls one of a higher level');

SELECT * FROM finish();
ROLLBACK;
