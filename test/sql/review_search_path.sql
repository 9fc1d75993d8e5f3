-- A hostile schema before pg_catalog in the caller's search_path, with an operator and a function for every one of
-- pg_catalog's that our SQL could mean, and hostile temporary tables: no function of ours is captured.
SET client_min_messages = error;
BEGIN;
SELECT FROM gpuagent.store_agents('{x,y}', '[[1,2],[3,4]]', fitness => '{1,2}');
SELECT FROM gpuagent.store_swarm('x', '[[1,2],[3,4]]');
SELECT FROM gpuagent.store_weights('x', 'x', '[[1,2]]', '[1]');
SELECT FROM gpuagent.store_metrics('x', '{"x": 1}');
SELECT FROM gpuagent.store_knowledge_graph('x', '{"nodes": [{"id": "x", "embedding": [1,2]}, {"id": "y"}], "edges": [{"source": "x", "target": "y"}]}');
SELECT FROM gpuagent.create_checkpoint('x');
SELECT FROM gpuagent.export_checkpoint(gpuagent.resolve_checkpoint('x'));
SELECT FROM gpuagent.store_agent('x', '[5,6]');
CREATE SCHEMA evil;
CREATE TABLE evil.call AS SELECT row_number() OVER () AS n, c AS call, NULL::text AS clean, NULL::text AS attacked FROM unnest(ARRAY[
    $$store_agent('z', '[1,2]', metadata => '{}', fitness => 3)$$, $$store_agent('x', '[1,2]', expected_version => 2)$$,
    $$store_agents('{z,y}', '[[1,2],[3,4]]', '[[1],[2]]', 1, '{1,2}', '[{},{}]')$$, $$store_agents('{y,x}', '[[1,2],[3,4]]', expected_versions => '{1,2}')$$,
    $$retrieve_agent('x')$$, $$retrieve_agents()$$, $$retrieve_agents('{x}', 0, 'x', 1)$$, $$retrieve_population()$$,
    $$retrieve_population('{x}', 0, 'x', 1, (SELECT pg_catalog.max(id) FROM gpuagent.checkpoint))$$, $$agent_exists('x')$$, $$delete_agent('x')$$, $$delete_agents('{x}', 0, 'x')$$,
    $$store_swarm('x', '[[1,2],[3,5]]', '{"a": 1}', 1)$$, $$append_swarm('w', '[[1,2]]')$$, $$retrieve_swarm('x', 1, 1, 1)$$, $$swarm_chunks('x')$$, $$delete_swarm('x')$$,
    $$prune_swarm('x', 1)$$, $$store_expert_config('x', 'd', 1, 1, '{}', '{}')$$, $$retrieve_expert_config('x')$$, $$store_expert_state('x', 1, 1, 1)$$,
    $$store_weights('x', 'y', '[1]', '[2]', '{}', 1)$$, $$load_weights('x')$$, $$load_weights('x', 'x', checkpoint => (SELECT pg_catalog.max(id) FROM gpuagent.checkpoint))$$,
    $$delete_weights('x')$$, $$delete_expert('x')$$, $$prune_weights('x', 1)$$, $$safetensors_bytes('x')$$,
    $$import_safetensors('v', data => gpuagent.safetensors_bytes('x'))$$, $$store_metrics('x', '{"a": 1, "b": "NaN"}', 2, 'expert:x')$$,
    $$store_chunk('[1]')$$, $$missing_chunks(ARRAY[gpuagent.store_chunk('[1]')])$$, $$store_tensor('F32', '{1}', ARRAY[gpuagent.store_chunk('[1]')])$$,
    $$store_nodes('x', '{z}', '[[1,2]]', '{}')$$, $$store_edges('x', '{x}', '{y}', '{a}', '{1}')$$, $$delete_nodes('x', '{x}')$$, $$delete_knowledge_graph('x')$$,
    $$store_knowledge_graph('x', '{"nodes": [{"id": "q", "metadata": {"a": 1}}], "edges": [{"source": "q", "target": "q", "weight": 2}], "metric": "l2"}', 'replace')$$,
    $$retrieve_knowledge_graph('x')$$, $$search_knowledge_graph('x', '[1,2]', 1, 2, '{}', 5)$$, $$expand_knowledge_graph('x', '{x}', 2)$$, $$shortest_path('x', 'x', 'y', true)$$,
    $$create_checkpoint('new', '{agents:x,swarm:x,experts,graphs,metrics}')$$, $$resolve_checkpoint('latest')$$, $$set_checkpoint_alias('a', gpuagent.resolve_checkpoint('x'))$$,
    $$restore_checkpoint(dry_run => true)$$, $$restore_checkpoint()$$, $$restore_checkpoint(new_prefix => 'copy/')$$, $$restore_latest_valid()$$,
    $$checkpoint_diff(gpuagent.resolve_checkpoint('x'))$$, $$prune_checkpoints(1, 1, '0 s', 1)$$, $$delete_checkpoint(gpuagent.resolve_checkpoint('x'))$$,
    $$verify_integrity('full')$$, $$verify_integrity('deep', '{agents,swarm:x}')$$, $$export_checkpoint(gpuagent.resolve_checkpoint('x'))$$,
    $$import_checkpoint()$$, $$export_safetensors('x', 'review-search-path', overwrite => true)$$, $$import_safetensors('u', 'review-search-path')$$, $$storage_stats()$$, $$check_setup()$$, $$setup()$$, $$grant_access('pg_monitor', 'admin')$$, $$version()$$,
    $$l2_distance('[1,2]'::gpuagent.embedding, '{1,2}'::real[])$$, $$cosine_distance('{1,2}'::float8[], '[1,2]'::gpuagent.embedding)$$, $$unstack('[[1,2]]')$$]) c;

CREATE FUNCTION evil.outcome(call text) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, evil AS $$
DECLARE
    line record;
    lines bigint := 0;
BEGIN
    PERFORM pg_catalog.set_config('search_path', pg_catalog.current_setting('evil.path'), true);
    FOR line IN EXECUTE pg_catalog.concat('SELECT * FROM gpuagent.', call) LOOP
        lines := lines OPERATOR(pg_catalog.+) 1;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', true);
    RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = lines;
EXCEPTION WHEN OTHERS THEN
    RETURN pg_catalog.concat_ws(' ', SQLSTATE, SQLERRM);
END
$$;
SET evil.path = 'pg_catalog';
UPDATE evil.call SET clean = pg_catalog.regexp_replace(evil.outcome(call), '\d{6,}|[0-9a-f-]{36}', 'N', 'g');

CREATE FUNCTION evil.trap() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'captured'; END $$;
DO $$
DECLARE
    o record;
BEGIN
    FOR o IN
        SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS args, format_type(p.prorettype, NULL) AS result, p.proretset
        FROM pg_proc p
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a') AND p.provariadic = 0 AND p.proname ~ '^[a-z_0-9]+$'
            AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'cstring'::regtype, 'internal'::regtype, 'record'::regtype)
            AND p.prorettype::regtype::text !~ '^"?(any|pg_ddl|.*handler)' AND p.proname !~ 'in$|out$|recv$|send$'
            AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) t WHERE t IN ('internal'::regtype, 'cstring'::regtype, '"any"'::regtype) OR t::regtype::text ~ '^any')
           
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L', o.proname, regexp_replace(o.args, 'OUT .*$', ''),
                CASE WHEN o.proretset THEN 'SETOF' ELSE '' END, o.result, 'BEGIN RAISE EXCEPTION ''captured function ' || o.proname || '''; END');
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    FOR o IN
        SELECT x.oprname, format_type(x.oprleft, NULL) AS l, format_type(x.oprright, NULL) AS r, format_type(x.oprresult, NULL) AS result, x.oid
        FROM pg_operator x
        WHERE x.oprnamespace = 'pg_catalog'::regnamespace AND x.oprkind = 'b' AND x.oprcode <> 0
            AND NOT (x.oprleft::regtype::text ~ '^"?(any|cstring|internal)' OR x.oprright::regtype::text ~ '^"?(any|cstring|internal)')
    LOOP
        EXECUTE format('CREATE FUNCTION evil.op_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', o.oid, o.l, o.r, o.result,
            'BEGIN RAISE EXCEPTION USING MESSAGE = ''captured operator ' || o.oprname || '''; END');
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.op_%s)', o.oprname, o.l, o.r, o.oid);
    END LOOP;
    -- Names of our own tables, of catalogs, and the operators of our types.
    FOR o IN SELECT relname FROM pg_class WHERE relnamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace) AND relkind = 'r'
        UNION SELECT unnest('{pg_class,pg_proc,pg_namespace,pg_depend,pg_extension,pg_roles,pg_settings,pg_type}'::name[])
    LOOP
        EXECUTE format('CREATE TEMP TABLE %I (captured text)', o.relname);
    END LOOP;
    FOR o IN SELECT x.oprname, format_type(x.oprleft, NULL) AS l, format_type(x.oprright, NULL) AS r, format_type(x.oprresult, NULL) AS result, x.oid
        FROM pg_operator x WHERE x.oprnamespace = 'gpuagent'::regnamespace AND x.oprleft::regtype::text !~ 'any' AND x.oprright::regtype::text !~ 'any'
    LOOP
        EXECUTE format('CREATE FUNCTION evil.op_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', o.oid, o.l, o.r, o.result,
            'BEGIN RAISE EXCEPTION USING MESSAGE = ''captured operator ' || o.oprname || '''; END');
        EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.op_%s)', o.oprname, o.l, o.r, o.oid);
    END LOOP;
END
$$;
SELECT count(*) > 700 AS operators FROM pg_catalog.pg_operator WHERE oprnamespace = 'evil'::regnamespace;
SELECT count(*) > 1500 AS functions FROM pg_catalog.pg_proc WHERE pronamespace = 'evil'::regnamespace;
SELECT evil.outcome($$version() WHERE 'a'::text = 'b'::text$$) FROM set_config('evil.path', 'evil, pg_temp, pg_catalog, public', true) AS the_trap_works;
UPDATE evil.call SET attacked = pg_catalog.regexp_replace(evil.outcome(call), '\d{6,}|[0-9a-f-]{36}', 'N', 'g');
SELECT call, clean, attacked FROM evil.call WHERE clean <> attacked ORDER BY n;
SELECT call, clean FROM evil.call WHERE clean NOT LIKE 'ZZ000%' ORDER BY n;
ROLLBACK;
