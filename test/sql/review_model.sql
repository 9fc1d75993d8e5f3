-- A long random history of changes, checkpoints of several scopes, their removal, restores and rollbacks, against a
-- model: the fingerprint that the tables had when a checkpoint was made. At every turn any checkpoint that is left
-- restores exactly that within its scope and touches nothing outside of it; a dry run says what then happens.
SET client_min_messages = warning;
SELECT gpuagent.delete_agents(prefix => '') IS NOT NULL AS emptied;
DELETE FROM gpuagent.graph; DELETE FROM gpuagent.swarm; DELETE FROM gpuagent.expert; DELETE FROM gpuagent.run;
DELETE FROM gpuagent.checkpoint_alias;
SELECT count(gpuagent.delete_checkpoint(id)) >= 0 AS emptied FROM gpuagent.checkpoint;
SELECT (SELECT count(*) FROM gpuagent.checkpoint_item) AS items, (SELECT count(*) FROM gpuagent_store.checkpoint_agent) AS agents,
    (SELECT count(*) FROM gpuagent_store.checkpoint_node) AS nodes, (SELECT count(*) FROM gpuagent_store.checkpoint_metric) AS metrics;
CREATE TEMP TABLE model (checkpoint bigint, objects text[], inside text);
CREATE TEMP TABLE problem (step int, problem text);

-- All that is inside (or outside) of a scope, as text.
CREATE FUNCTION pg_temp.fingerprint(objects text[], inside boolean) RETURNS text LANGUAGE sql SET timezone = 'UTC' AS $$
    SELECT md5(coalesce(string_agg(address || ' ' || line, E'\n' ORDER BY address COLLATE "C", line COLLATE "C"), '')) FROM (
        SELECT 'agents:' || id, a::text FROM gpuagent.agent a
        UNION ALL SELECT 'swarm:' || swarm, concat_ws(' ', gpuagent.retrieve_swarm(swarm), keep_versions, metadata, created_at) FROM gpuagent.swarm
        UNION ALL SELECT 'expert:' || expert, concat_ws(' ', domain, parameter_count, learning_rate, architecture, metadata, activation_count, success_rate, memory_usage, created_at)
            FROM gpuagent.expert
        UNION ALL SELECT 'expert:' || expert, concat_ws(' ', l.layer, l.weights, l.biases) FROM gpuagent.expert, LATERAL gpuagent.load_weights(expert) l
        UNION ALL SELECT 'graph:' || graph, g::text FROM gpuagent.graph g
        UNION ALL SELECT 'graph:' || graph, n::text FROM gpuagent.graph_node n
        UNION ALL SELECT 'graph:' || graph, e::text FROM gpuagent.graph_edge e
        UNION ALL SELECT 'metrics', r::text FROM gpuagent.run r
        UNION ALL SELECT 'metrics', m::text FROM gpuagent.metric m) all_rows (address, line)
    WHERE (objects IS NULL OR EXISTS (SELECT FROM unnest(objects) o WHERE o = address OR o LIKE 'agents:%' AND starts_with(address, o)
        OR address LIKE rtrim(o, 's') || '%:%' AND o IN ('agents', 'swarms', 'experts', 'graphs'))) = inside
$$;

CREATE FUNCTION pg_temp.change(kind int, a int, b int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id text := chr(97 + a % 3) || '/' || b;
    name text := chr(97 + a % 3);
    m gpuagent.swarm_tensor := format('[[%s,%s],[%s,NaN]]', a, b, a * b)::gpuagent.swarm_tensor;
BEGIN
    CASE kind
    WHEN 0 THEN PERFORM gpuagent.store_agent(id, format('[%s,-0]', a)::gpuagent.agent_state, fitness => b);
    WHEN 1 THEN PERFORM gpuagent.store_agents(ARRAY[id, id || 'x'], m, m, b, metadata => '{"k": 1}');
    WHEN 2 THEN PERFORM gpuagent.delete_agent(id);
    WHEN 3 THEN DELETE FROM gpuagent.agent WHERE agent.id LIKE '%x'; INSERT INTO gpuagent.agent (id) VALUES (name || 'x') ON CONFLICT DO NOTHING;
    WHEN 4 THEN PERFORM gpuagent.store_swarm(name, m, jsonb_build_object('n', b));
    WHEN 5 THEN PERFORM gpuagent.append_swarm(name || 'x', m);
    WHEN 6 THEN PERFORM gpuagent.delete_swarm(name);
    WHEN 7 THEN PERFORM gpuagent.store_weights(name, 'layer' || b % 3, m, CASE WHEN b % 2 = 0 THEN m END);
    WHEN 8 THEN PERFORM gpuagent.delete_weights(name, CASE WHEN b % 2 = 0 THEN 'layer1' END);
    WHEN 9 THEN PERFORM gpuagent.delete_expert(name);
    WHEN 10 THEN PERFORM gpuagent.store_expert_config(name, 'd' || b, b, b / 3.0), gpuagent.store_expert_state(name, b, 0.1, b);
    WHEN 11 THEN PERFORM gpuagent.store_knowledge_graph(name, jsonb_build_object('nodes', jsonb_build_array(
            jsonb_build_object('id', b::text, 'embedding', '[1,2]'::jsonb), jsonb_build_object('id', 'hub')),
            'edges', jsonb_build_array(jsonb_build_object('source', b::text, 'target', 'hub', 'weight', a))));
    WHEN 12 THEN PERFORM gpuagent.delete_nodes(name, ARRAY[b::text]) FROM gpuagent.graph g WHERE g.graph = name;
    WHEN 13 THEN PERFORM gpuagent.delete_knowledge_graph(name);
    WHEN 14 THEN PERFORM gpuagent.store_metrics('run' || name, jsonb_build_object('loss', a, 'nan', 'NaN'), b);
    WHEN 15 THEN DELETE FROM gpuagent.run r WHERE r.run = 'run' || name;
    WHEN 16 THEN PERFORM gpuagent.prune_weights(name, 1) FROM gpuagent.expert e WHERE e.expert = name;
    WHEN 17 THEN PERFORM gpuagent.prune_swarm(name, 1) FROM gpuagent.swarm s WHERE s.swarm = name;
    END CASE;
END
$$;

-- What is wrong with restoring a checkpoint, NULL when nothing is; changes nothing.
CREATE FUNCTION pg_temp.wrong(c bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    want model;
    outside text;
    plan text;
    done text;
    again text;
BEGIN
    SELECT * INTO want FROM model WHERE checkpoint = c;
    outside := pg_temp.fingerprint(want.objects, false);
    SELECT string_agg(r::text, ',' ORDER BY r::text) INTO plan FROM gpuagent.restore_checkpoint(c, dry_run => true) r;
    SELECT string_agg(r::text, ',' ORDER BY r::text) INTO done FROM gpuagent.restore_checkpoint(c, safety => c % 2 = 0) r;
    SELECT string_agg(DISTINCT r.action, ',') INTO again FROM gpuagent.restore_checkpoint(c, dry_run => true) r;
    RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = coalesce(nullif(concat_ws(', ',
        CASE WHEN pg_temp.fingerprint(want.objects, true) <> want.inside THEN 'content' END,
        CASE WHEN pg_temp.fingerprint(want.objects, false) <> outside THEN 'touched others' END,
        CASE WHEN plan IS DISTINCT FROM done THEN format('said %s did %s', plan, done) END,
        CASE WHEN again <> 'keep' THEN 'not finished: ' || again END), ''), 'fine');
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
    RETURN nullif(SQLERRM, 'fine');
END
$$;

-- Every step is a transaction of its own: only then are rows told from changed ones by their transaction ids.
CREATE PROCEDURE pg_temp.history(steps int) LANGUAGE plpgsql AS $$
DECLARE
    scopes CONSTANT text[] := '{NULL,NULL,agents,agents:a/,swarms,swarm:a,experts,expert:b,graphs,graph:c,metrics,"agents:b/ swarm:b expert:b graph:b","agents swarms"}';
    scope text[];
    c bigint;
    r int;
BEGIN
    FOR i IN 1 .. steps LOOP
        FOR j IN 0 .. (random() * 5)::int LOOP
            BEGIN
                PERFORM pg_temp.change((random() * 17)::int, (random() * 100)::int, (random() * 6)::int);
                IF random() < 0.1 THEN
                    RAISE EXCEPTION USING ERRCODE = 'ZZ001';
                END IF;
            EXCEPTION WHEN SQLSTATE 'ZZ001' THEN NULL;
            END;
        END LOOP;
        r := (random() * 9)::int;
        scope := string_to_array(scopes[1 + (random() * 12)::int], ' ');
        scope := ARRAY(SELECT s FROM unnest(scope) s WHERE s !~ '^(swarm|expert|graph):' OR s = ANY (gpuagent_store.existing_objects(scope)));
        scope := CASE WHEN scope <> '{}' THEN scope END;
        IF r < 5 THEN
            BEGIN
                c := gpuagent.create_checkpoint(objects => scope, label => CASE WHEN random() < 0.3 THEN 'l' END);
                IF random() < 0.15 THEN
                    RAISE EXCEPTION USING ERRCODE = 'ZZ001';
                END IF;
                IF NOT EXISTS (SELECT FROM model m WHERE m.checkpoint = c) THEN
                    INSERT INTO model SELECT k.id, k.objects, pg_temp.fingerprint(k.objects, true) FROM gpuagent.checkpoint k WHERE k.id = c;
                END IF;
            EXCEPTION WHEN SQLSTATE 'ZZ001' THEN NULL;
            END;
        ELSIF r = 5 THEN
            DELETE FROM model WHERE checkpoint = (SELECT m.checkpoint FROM model m ORDER BY random() LIMIT 1) RETURNING checkpoint INTO c;
            PERFORM gpuagent.delete_checkpoint(c) WHERE c IS NOT NULL;
        ELSIF r = 6 AND random() < 0.3 THEN
            PERFORM FROM gpuagent.prune_checkpoints(keep_last => 4);
            DELETE FROM model m WHERE NOT EXISTS (SELECT FROM gpuagent.checkpoint k WHERE k.id = m.checkpoint);
        ELSIF r = 7 THEN
            PERFORM gpuagent.restore_checkpoint(m.checkpoint, safety => false) FROM (SELECT * FROM model ORDER BY random() LIMIT 1) m;
        END IF;
        COMMIT;
        INSERT INTO problem SELECT i, format('checkpoint of %s: %s', m.objects, w)
            FROM (SELECT * FROM model ORDER BY random() LIMIT 1) m, pg_temp.wrong(m.checkpoint) w WHERE w IS NOT NULL;
        COMMIT;
    END LOOP;
    INSERT INTO problem SELECT steps + 1, format('checkpoint of %s: %s', m.objects, w) FROM model m, pg_temp.wrong(m.checkpoint) w WHERE w IS NOT NULL;
END
$$;
SELECT setseed(0.42);
CALL pg_temp.history(100);
SELECT * FROM problem;
SELECT count(*) > 5 AS some_checkpoints FROM model;
-- Every byte is accounted for: without checkpoints nothing is left of their contents.
SELECT count(gpuagent.delete_checkpoint(id)) > 5 AS removed FROM gpuagent.checkpoint;
SELECT (SELECT count(*) FROM gpuagent.checkpoint_item) AS items, (SELECT count(*) FROM gpuagent_store.checkpoint_agent) AS agents,
    (SELECT count(*) FROM gpuagent_store.checkpoint_node) AS nodes, (SELECT count(*) FROM gpuagent_store.checkpoint_edge) AS edges,
    (SELECT count(*) FROM gpuagent_store.checkpoint_metric) AS metrics;
DELETE FROM gpuagent.agent; DELETE FROM gpuagent.graph; DELETE FROM gpuagent.swarm; DELETE FROM gpuagent.expert; DELETE FROM gpuagent.run;
