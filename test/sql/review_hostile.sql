-- Every function with NULL and with hostile values in each argument in turn, the others being sound or left to their
-- defaults: it returns, or fails with a class of error that tells the caller what to do. Never an internal error
-- (XX000), a broken constraint of our own tables from a function that users call, or a crash.
SET client_min_messages = warning;
BEGIN;
SELECT FROM gpuagent.store_agent('x', '[1,2]', '[3]', fitness => 1);
SELECT FROM gpuagent.store_swarm('x', '[[1,2],[3,4]]');
SELECT FROM gpuagent.store_weights('x', 'x', '[[1,2]]', '[1]');
SELECT FROM gpuagent.store_metrics('x', '{"x": 1}');
SELECT FROM gpuagent.store_knowledge_graph('x', '{"nodes": [{"id": "x", "embedding": [1,2]}, {"id": "y"}], "edges": [{"source": "x", "target": "y"}]}');
SELECT FROM gpuagent.create_checkpoint('x');
CREATE TEMP TABLE sound (type text, value text, hostile text[]);
INSERT INTO sound VALUES
    ('text', '''x''', ARRAY['''''', 'E''a\nb''', 'repeat(''y'', 255)', 'repeat(''y'', 256)', 'repeat(''é'', 128)', '''../../etc/passwd''',
        '''a"b''''c/d%s\\''', '''F16''', '''agents:''', '''expert:x''', '''latest''', '''12345678901234567890''']),
    ('bigint', '1', ARRAY['0', '-1', '2', '9223372036854775807', '(-9223372036854775808)']),
    ('integer', '1', ARRAY['0', '-1', '2147483647', '(-2147483648)', '131073', '4194304']),
    ('double precision', '1.5', ARRAY['0', '''NaN''', '''Infinity''', '''-Infinity''', '1e308', '5e-324']),
    ('boolean', 'true', ARRAY['false']),
    ('jsonb', '''{"a": 1}''', ARRAY['''{}''', '''[]''', '''null''', '''"s"''', '''[1, null]''', '''{"nodes": 5}''', '''{"nodes": [1], "edges": [null]}''',
        '''{"nodes": [{"id": "a", "embedding": [1e999]}]}''', '''{"nodes": [{"id": null}]}''', '''{"edges": [{"source": "x", "target": "zz"}]}''', '''{"a": 1e400}']),
    ('bytea', '''\x00''', ARRAY['''''', 'decode(repeat(''00'', 32), ''hex'')', '''\xffffffffffffffff''', 'convert_to(E''\x02'', ''UTF8'') || ''\x00000000000000'' || ''{}''']),
    ('interval', '''1 s''', ARRAY['''-1 day''', '''178000000 years''']),
    ('timestamp with time zone', 'now()', ARRAY['''infinity''']),
    ('regclass', '''pg_class''', ARRAY['0::oid']), ('regprocedure', '''now()''', ARRAY['0::oid']), ('regrole', 'current_user::regrole', ARRAY['0::oid']),
    ('uuid', '''00000000-0000-0000-0000-000000000000''', '{}'), ('xid', '''3''', ARRAY['''0''', '''4294967295''']),
    ('xid8', '''3''', ARRAY['''0''', '''18446744073709551615''']),
    ('text[]', '''{x}''', ARRAY['''{}''', '''{NULL}''', '''{{x},{y}}''', '''{x,x}''', '''[5:5]={x}''', '''{agents}''', '''{""}''']),
    ('bigint[]', '''{1}''', ARRAY['''{}''', '''{NULL}''', '''{{1},{2}}''', '''{-1}''', '''{9223372036854775807,9223372036854775807}''',
        '''{1,1,1,1,1,1,1,1,1}''', '''{0}''']),
    ('integer[]', '''{1}''', ARRAY['''{}''', '''{NULL}''', '''{{1},{2}}''']),
    ('double precision[]', '''{1}''', ARRAY['''{}''', '''{NULL}''', '''{NaN}''', '''{{1},{2}}''', '''{1e300}''']),
    ('real[]', '''{1}''', ARRAY['''{}''', '''{NULL}''', '''{NaN}''', '''{{1},{2}}''']),
    ('numeric[]', '''{1}''', ARRAY['''{}''', '''{NULL}''', '''{NaN}''', '''{1e400}''']),
    ('bytea[]', 'ARRAY[''\x00''::bytea]', ARRAY['''{}''', '''{NULL}''', 'ARRAY[decode(repeat(''00'', 32), ''hex'')]']),
    ('gpuagent.embedding', '''[1,2]''', ARRAY['''[0]''', '''F16:[1,2]''', '''[3e38,3e38]''']),
    ('gpuagent.agent_state', '''[1,2]''', ARRAY['''[]''', '''5''', '''[[1,2],[3,4]]''', '''I8:[1,2]''', '''[NaN,Infinity]''', '''F64:[1e308,1e308]''']),
    ('gpuagent.swarm_tensor', '''[[1,2]]''', ARRAY['''[]''', '''5''', '''[1,2,3]''', 'gpuagent.tensor(''U8'', ''{0,7}'', '''')', '''F16:[[1,2]]''', '''[NaN]''',
        'gpuagent.tensor(''BOOL'', ''{2}'', ''\x0100'')', 'gpuagent.tensor(''F4'', ''{2}'', ''\x01'')', 'gpuagent.tensor(''C64'', ''{1}'', ''\x0000000000000000'')']),
    ('"any"', '1::bigint', ARRAY['''u''', 'NULL::text']), ('anyarray', '''{1}''::real[]', ARRAY['''{}''::real[]', '''{NULL}''::real[]', '''{a}''::text[]']);

CREATE FUNCTION pg_temp.outcome(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line record;
BEGIN
    FOR line IN EXECUTE call LOOP NULL; END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

-- One call for each required argument (all of them sound) and one for each optional argument, by name.
CREATE TEMP TABLE tried AS
WITH f AS (
    SELECT p.oid, n.nspname, p.proname, p.pronargs - p.pronargdefaults AS required, p.provariadic,
        ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u (t, i) ORDER BY i) AS types, p.proargnames AS names
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname IN ('gpuagent', 'gpuagent_store') AND p.prokind = 'f'
        AND p.proname <> 'setup'
), arg AS (
    SELECT f.*, i.i, s.value, v.v FROM f CROSS JOIN LATERAL generate_series(1, cardinality(f.types)) i
    JOIN sound s ON s.type = f.types[i.i] CROSS JOIN LATERAL unnest(s.hostile || 'NULL'::text || s.value) v
    WHERE NOT EXISTS (SELECT FROM unnest(f.types) t WHERE t NOT IN (SELECT type FROM sound))
), call AS (
    SELECT format('SELECT * FROM %I.%I(%s%s)', a.nspname, a.proname,
        (SELECT string_agg(CASE WHEN j = cardinality(a.types) AND a.provariadic <> 0 AND a.types[j] <> '"any"' THEN 'VARIADIC ' ELSE '' END
                || CASE WHEN j = a.i THEN a.v ELSE s.value END || CASE WHEN a.types[j] LIKE '%any%' THEN '' ELSE '::' || a.types[j] END, ', ' ORDER BY j)
            FROM generate_series(1, a.required) j JOIN sound s ON s.type = a.types[j]),
        CASE WHEN a.i > a.required THEN CASE WHEN a.required > 0 THEN ', ' ELSE '' END || format('%I => %s::%s', a.names[a.i], a.v, a.types[a.i]) ELSE '' END) AS call
    FROM arg a)
SELECT call, pg_temp.outcome(call) AS outcome FROM (SELECT DISTINCT call FROM call) c;
SELECT count(*) > 2000 AS many, count(*) FILTER (WHERE outcome LIKE 'ZZ000%') > 500 AS some_succeed FROM tried;
SELECT call, outcome FROM tried
WHERE outcome !~ '^(ZZ000|0A000|21000|22...|40001|42501|42601|42704|42710|42809|42846|42P..|54000|55000|58P0[12])'
    AND NOT (call LIKE '%gpuagent_store.%' AND outcome ~ '^(23|XX001)') AND NOT (call LIKE '%import_safetensors%' AND outcome LIKE 'XX001%')
    AND NOT (call LIKE '%knowledge_graph%' AND outcome LIKE '23503%') AND NOT (call LIKE '%store_edges%' AND outcome LIKE '23503%')
    AND NOT (call ~ '(add|ask)_peer' AND outcome LIKE '08001%')
    AND NOT (call LIKE '%require_space%' AND outcome LIKE '53100%')
    AND NOT (call LIKE '%create_checkpoint(export%') AND NOT (call LIKE '%run_on_snapshot%') AND NOT (call ~ '(real|text)\[\]' AND outcome LIKE '42883%')
ORDER BY 1;
ROLLBACK;

-- Locks are none that any role can take by hand: who kept one would stop exports and the maintenance worker.
BEGIN;
SELECT FROM gpuagent.setup();
SELECT gpuagent_store.lock_store_maintenance();
SELECT FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('locked'));
SELECT FROM gpuagent_store.maintain_exports();
SELECT count(*) >= 4 AS locks, count(*) FILTER (WHERE objsubid IN (1, 2)) AS of_users FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT p.proname FROM pg_proc p WHERE p.pronamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace) AND p.prosrc ~ 'pg_(try_)?advisory';
ROLLBACK;

-- What works without the right to files looks nothing up in its caller's search_path.
BEGIN;
SELECT FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('escape'));
CREATE ROLE regress_gpuagent_admin;
SELECT FROM gpuagent.grant_access('regress_gpuagent_admin', 'admin');
CREATE SCHEMA hostile AUTHORIZATION regress_gpuagent_admin;
SET LOCAL ROLE regress_gpuagent_admin;
CREATE TABLE hostile.loot (content pg_catalog.text);
CREATE FUNCTION hostile.pry(value pg_catalog.text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO hostile.loot SELECT gpuagent_store.list_folder('nvme_storage');
    RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN true;
END
$$;
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (hostile.pry(VALUE));
CREATE DOMAIN hostile.uuid AS pg_catalog.uuid CHECK (hostile.pry(VALUE::pg_catalog.text));
SET LOCAL search_path = hostile, pg_catalog;
SELECT name, gpuagent_store.point_latest(name, 'none') AS pointed, gpuagent_store.tend_export(name, NULL, 'full', 0) AS tended,
    gpuagent_store.own_export(name, uid) AS own, gpuagent_store.remove_export(name, uid) AS removed, gpuagent_store.latest_origin() IS NOT NULL AS origin
FROM (SELECT split_part(exported_path, '/', 2), uid FROM gpuagent.checkpoint WHERE label = 'escape') k (name, uid) \gset
SELECT :'pointed' AS pointed, :'own' AS own, :'removed' AS removed, :'origin' AS origin;
SELECT count(*) AS read FROM hostile.loot;
ROLLBACK;
