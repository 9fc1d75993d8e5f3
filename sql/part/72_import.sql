
-- FILES: a checkpoint back from its folder. Lines carry the digest of their row, which the tables compute again. What is
-- wrong is looked for with min(), not LIMIT 1, which would have the planner join line by line.
CREATE FUNCTION gpuagent_store.require_digests(what text, wrong text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together'
            USING ERRCODE = 'data_corrupted', DETAIL = format('%s "%s" is not what its line and the manifest say.', what, wrong);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_digests(text, text) IS 'XX001 when wrong names a row that is not what its line says';

CREATE FUNCTION gpuagent_store.section_file(folder text, section jsonb, name text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jsonb_array_elements(section -> 'files') f WHERE f ->> 'name' = section_file.name) THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together'
            USING ERRCODE = 'data_corrupted', DETAIL = format('The manifest does not list file "%s" of "%s".', name, section ->> 'object');
    END IF;
    RETURN folder || '/' || name;
END
$$;
COMMENT ON FUNCTION gpuagent_store.section_file(text, jsonb, text) IS
    'path of a file of a section; XX001 when the manifest does not list it there, so that nothing is read that was not verified';

-- A set-returning call for the rows of a tensor, or none where the section does not have it.
CREATE FUNCTION gpuagent_store.rows_of(section jsonb, function text, path text, tensor text, type text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM jsonb_array_elements(section -> 'tensors') t WHERE t ->> 'name' = tensor)
        THEN format('gpuagent_store.%I(%L, %L)', function, path, tensor)
        ELSE format('unnest(NULL::%s[])', type) END
$$;
COMMENT ON FUNCTION gpuagent_store.rows_of(jsonb, text, text, text, text) IS
    'the call, as text, that gives the rows of a tensor of a section';

CREATE FUNCTION gpuagent_store.import_agents(checkpoint bigint, folder text, section jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stem text := regexp_replace(section #>> '{files,0,name}', '\.[a-z]+$', '');
    tensors text := CASE WHEN section -> 'tensors' <> '[]' THEN gpuagent_store.section_file(folder, section, stem || '.safetensors') END;
    wrong text;
BEGIN
    EXECUTE format($q$
        WITH line AS MATERIALIZED (
            SELECT j, COALESCE(r.state, gpuagent_store.json_tensor(j -> 'state')) AS state,
                COALESCE(r.memory, gpuagent_store.json_tensor(j -> 'memory')) AS memory,
                COALESCE(r.generation, (j ->> 'generation')::bigint) AS generation,
                COALESCE(NULLIF(r.fitness, 'NaN'), (j ->> 'fitness')::float8) AS fitness,
                COALESCE(r.version, (j ->> 'version')::bigint) AS version
            FROM ROWS FROM (gpuagent_store.read_lines(%1$L), %2$s, %3$s, %4$s, %5$s, %6$s)
                    r (line, state, memory, generation, fitness, version),
                LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x
        ), added AS (
            INSERT INTO gpuagent_store.checkpoint_agent AS a
                (id, from_seq, state, memory, generation, fitness, metadata, version, created_at, updated_at, origin)
            SELECT j ->> 'id', %7$s, state, memory, generation, fitness, j -> 'metadata', version, (j ->> 'created_at')::timestamptz,
                (j ->> 'updated_at')::timestamptz, (j ->> 'origin')::uuid
            FROM line
            RETURNING a.id, a.digest
        )
        SELECT min(line.j ->> 'id') FROM line LEFT JOIN added ON added.id = line.j ->> 'id'
        WHERE added.digest IS DISTINCT FROM decode(line.j ->> 'digest', 'hex')$q$,
        gpuagent_store.section_file(folder, section, stem || '.jsonl'),
        gpuagent_store.rows_of(section, 'read_states', tensors, 'state', 'gpuagent.agent_state'),
        gpuagent_store.rows_of(section, 'read_states', tensors, 'memory', 'gpuagent.agent_state'),
        gpuagent_store.rows_of(section, 'read_integers', tensors, 'generation', 'bigint'),
        gpuagent_store.rows_of(section, 'read_floats', tensors, 'fitness', 'float8'),
        gpuagent_store.rows_of(section, 'read_integers', tensors, 'version', 'bigint'), checkpoint) INTO wrong;
    PERFORM gpuagent_store.require_digests('Agent', wrong);
END
$$;
COMMENT ON FUNCTION gpuagent_store.import_agents(bigint, text, jsonb) IS 'adds the agents of a section to an import';

CREATE FUNCTION gpuagent_store.import_graph(checkpoint bigint, folder text, section jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    graph text := substr(section ->> 'object', 7);
    stem text := regexp_replace(section #>> '{files,0,name}', '\.[a-z]+$', '');
    tensors text := gpuagent_store.section_file(folder, section, stem || '.safetensors');
    rest bigint;
    wrong text;
BEGIN
    EXECUTE format($q$
        WITH line AS MATERIALIZED (
            SELECT j, j ->> 'id' AS id, count(*) FILTER (WHERE j -> 'embedding' = 'true') OVER (ORDER BY i) AS place
            FROM gpuagent_store.read_lines(%1$L) WITH ORDINALITY r (line, i), LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x
        ), added AS (
            INSERT INTO gpuagent_store.checkpoint_node AS n (graph, id, from_seq, embedding, metadata, created_at)
            SELECT %4$L, l.id, %3$s, COALESCE(e.state, gpuagent_store.json_tensor(l.j -> 'embedding'))::gpuagent.embedding,
                l.j -> 'metadata', (l.j ->> 'created_at')::timestamptz
            FROM line l LEFT JOIN %2$s WITH ORDINALITY e (state, i) ON l.j -> 'embedding' = 'true' AND e.i = l.place
            RETURNING n.id, n.digest
        )
        SELECT min(line.id) FILTER (WHERE added.digest IS DISTINCT FROM decode(line.j ->> 'digest', 'hex')),
            (SELECT count(*) FROM %2$s e) - count(*) FILTER (WHERE line.j -> 'embedding' = 'true')
        FROM line LEFT JOIN added ON added.id = line.id$q$,
        gpuagent_store.section_file(folder, section, stem || '.nodes.jsonl'),
        gpuagent_store.rows_of(section, 'read_states', tensors, 'embeddings', 'gpuagent.agent_state'),
        checkpoint, graph) INTO wrong, rest;
    PERFORM gpuagent_store.require_digests('Node', wrong);
    IF rest <> 0 THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together'
            USING ERRCODE = 'data_corrupted', DETAIL = format('Graph "%s" has %s embeddings more than nodes of them.', graph, rest);
    END IF;
    EXECUTE format($q$
        WITH line AS MATERIALIZED (
            SELECT j, j ->> 'source' AS source, j ->> 'target' AS target, j ->> 'edge_type' AS edge_type, r.weight
            FROM ROWS FROM (gpuagent_store.read_lines(%1$L), gpuagent_store.read_floats(%2$L, 'weights')) r (line, weight),
                LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x
        ), added AS (
            INSERT INTO gpuagent_store.checkpoint_edge AS e (graph, source, target, edge_type, from_seq, weight, metadata, created_at)
            SELECT %4$L, source, target, edge_type, %3$s, weight, j -> 'metadata', (j ->> 'created_at')::timestamptz FROM line
            RETURNING e.source, e.target, e.edge_type, e.digest
        )
        SELECT min(concat_ws(' ', source, target, edge_type)) FROM line LEFT JOIN added USING (source, target, edge_type)
        WHERE added.digest IS DISTINCT FROM decode(line.j ->> 'digest', 'hex')$q$,
        gpuagent_store.section_file(folder, section, stem || '.edges.jsonl'), tensors, checkpoint, graph) INTO wrong;
    PERFORM gpuagent_store.require_digests('Edge', wrong);
END
$$;
COMMENT ON FUNCTION gpuagent_store.import_graph(bigint, text, jsonb) IS 'adds the nodes and edges of a section to an import';

CREATE FUNCTION gpuagent_store.import_metrics(checkpoint bigint, folder text, section jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lines text := gpuagent_store.section_file(folder, section, 'metrics.jsonl');
    tensors text := gpuagent_store.section_file(folder, section, 'metrics.safetensors');
    wrong text;
BEGIN
    WITH line AS MATERIALIZED (
        SELECT x.j, r.id, r.step, r.value
        FROM ROWS FROM (gpuagent_store.read_lines(lines), gpuagent_store.read_integers(tensors, 'id'),
                gpuagent_store.read_integers(tensors, 'step'), gpuagent_store.read_floats(tensors, 'value')) r (line, id, step, value),
            LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x
    ), added AS (
        INSERT INTO gpuagent_store.checkpoint_metric AS m (id, from_seq, run, key, step, value, object, recorded_at, created_at)
        SELECT l.id, checkpoint, l.j ->> 'run', l.j ->> 'key', l.step, l.value, l.j ->> 'object',
            (l.j ->> 'recorded_at')::timestamptz, (l.j ->> 'created_at')::timestamptz FROM line l
        RETURNING m.id, m.digest
    )
    SELECT min(l.id)::text INTO wrong FROM line l LEFT JOIN added ON added.id = l.id
        WHERE added.digest IS DISTINCT FROM decode(l.j ->> 'digest', 'hex');
    PERFORM gpuagent_store.require_digests('Metric', wrong);
END
$$;
COMMENT ON FUNCTION gpuagent_store.import_metrics(bigint, text, jsonb) IS 'adds the metric values of a section to an import';

CREATE FUNCTION gpuagent_store.import_items(checkpoint bigint, folder text, section jsonb, scope text[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    WITH line AS MATERIALIZED (
        SELECT x.j, x.j ->> 'object' AS object, x.j ->> 'part' AS part
        FROM gpuagent_store.read_lines(gpuagent_store.section_file(folder, section, 'items.jsonl')) r (line), LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x
    ), added AS (
        INSERT INTO gpuagent.checkpoint_item AS i (object, part, from_seq, version, tensor, biases, body)
        SELECT l.object, l.part, checkpoint, (l.j ->> 'version')::bigint, decode(l.j ->> 'tensor', 'hex'),
            decode(l.j ->> 'biases', 'hex'), l.j -> 'body' FROM line l
        RETURNING i.object, i.part, i.digest
    )
    SELECT min(concat_ws(' ', l.object, nullif(l.part, ''))) INTO wrong
        FROM line l LEFT JOIN added a ON a.object = l.object AND a.part = l.part
        WHERE a.digest IS DISTINCT FROM decode(l.j ->> 'digest', 'hex')
            OR NOT gpuagent_store.object_covered(scope, l.object);
    PERFORM gpuagent_store.require_digests('Item', wrong);
    SELECT min(concat_ws(' ', i.object, nullif(i.part, ''))) INTO wrong
        FROM gpuagent.checkpoint_item i, unnest(ARRAY[i.tensor, i.biases]) h
        WHERE i.from_seq = import_items.checkpoint AND h IS NOT NULL AND NOT gpuagent_store.keep_tensor(h);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together'
            USING ERRCODE = 'data_corrupted', DETAIL = format('The tensor of "%s" is in none of them.', wrong);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.import_items(bigint, text, jsonb, text[]) IS
    'adds the items of a checkpoint to an import, after their tensors';

CREATE FUNCTION gpuagent_store.import_tensors(folder text, section jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    SELECT min(COALESCE(l.name, t ->> 'name')) INTO wrong
        FROM (SELECT x.name, encode(x.tensor, 'hex') AS hash
              FROM jsonb_array_elements(section -> 'files') f, gpuagent_store.load_safetensors(folder || '/' || (f ->> 'name'), NULL) x
              WHERE f ->> 'name' LIKE '%.safetensors' AND x.kind = 'tensor') l
        FULL JOIN jsonb_array_elements(section -> 'tensors') t ON t ->> 'name' = l.name AND t ->> 'hash' = l.hash
        WHERE l.name IS NULL OR t IS NULL;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together'
            USING ERRCODE = 'data_corrupted',
                DETAIL = format('Tensor "%s" of "%s" does not have the hash that the manifest names.', wrong, section ->> 'object');
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.import_tensors(text, jsonb) IS
    'stores the tensors of a swarm or an expert; XX001 when one does not have the hash that the manifest names';

-- What the rows of an import must be besides themselves, so that they can be restored. Rows of an import are those of its number.
CREATE FUNCTION gpuagent_store.check_import(checkpoint bigint, scope text[]) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s record;
    wrong text;
BEGIN
    SELECT * INTO s FROM gpuagent_store.checkpoint_scope(scope);
    SELECT min(w.what) INTO wrong FROM (
        SELECT format('Agent "%s" is not among the objects of the checkpoint.', a.id) AS what FROM gpuagent_store.checkpoint_agent a
        WHERE a.from_seq = $1 AND NOT (s.agents OR a.id ^@ ANY (s.prefixes))
        UNION ALL
        SELECT format('Agent "%s" does not have the name of an agent.', a.id) FROM gpuagent_store.checkpoint_agent a
        WHERE a.from_seq = $1 AND NOT gpuagent_store.valid_name(a.id)
        UNION ALL
        SELECT format('Node "%s" of graph "%s" does not have the name of a node.', n.id, n.graph) FROM gpuagent_store.checkpoint_node n
        WHERE n.from_seq = $1 AND NOT gpuagent_store.valid_name(n.id)
        UNION ALL
        SELECT format('Node "%s" is of graph "%s", which is not among the items.', n.id, n.graph) FROM gpuagent_store.checkpoint_node n
        WHERE n.from_seq = $1 AND NOT EXISTS (SELECT FROM gpuagent.checkpoint_item i WHERE i.object = 'graph:' || n.graph AND i.part = '' AND i.from_seq = $1)
        UNION ALL
        SELECT format('Edge "%s" to "%s" of graph "%s" has no such node.', e.source, e.target, e.graph) FROM gpuagent_store.checkpoint_edge e
        WHERE e.from_seq = $1
            AND (NOT EXISTS (SELECT FROM gpuagent_store.checkpoint_node n WHERE n.graph = e.graph AND n.id = e.source AND n.from_seq = $1)
                OR NOT EXISTS (SELECT FROM gpuagent_store.checkpoint_node n WHERE n.graph = e.graph AND n.id = e.target AND n.from_seq = $1))
        UNION ALL
        SELECT format('Metric %s is of run "%s", which is not among the items.', m.id, m.run) FROM gpuagent_store.checkpoint_metric m
        WHERE m.from_seq = $1
            AND NOT EXISTS (SELECT FROM gpuagent.checkpoint_item i WHERE i.object = 'metrics' AND i.part = 'run:' || m.run AND i.from_seq = $1)
        UNION ALL
        SELECT format('Item "%s" is not one of a checkpoint.', concat_ws(' ', i.object, nullif(i.part, ''))) FROM gpuagent.checkpoint_item i,
            LATERAL (SELECT split_part(i.object, ':', 1), substr(i.object, position(':' IN i.object) + 1), substr(i.part, position(':' IN i.part) + 1)) x (kind, name, rest)
        WHERE i.from_seq = $1 AND (CASE
            WHEN x.kind IN ('swarm', 'graph') THEN i.part = '' AND (x.kind = 'swarm' OR i.tensor IS NULL) AND i.biases IS NULL
            WHEN x.kind = 'expert' AND starts_with(i.part, 'layer:') THEN gpuagent_store.valid_name(x.rest) AND i.tensor IS NOT NULL
            WHEN x.kind = 'expert' THEN i.part IN ('config', 'state') AND i.tensor IS NULL AND i.biases IS NULL
            WHEN i.object = 'metrics' THEN starts_with(i.part, 'run:') AND gpuagent_store.valid_name(x.rest) AND i.tensor IS NULL AND i.biases IS NULL
            END AND (i.object = 'metrics' OR (position(':' IN i.object) > 0 AND gpuagent_store.valid_name(x.name))) AND jsonb_typeof(i.body) = 'object') IS NOT TRUE) w;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together' USING ERRCODE = 'data_corrupted', DETAIL = wrong;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.check_import(bigint, text[]) IS
    'XX001 for rows of an import that no checkpoint of these objects can have: names, kinds, and what they refer to';

CREATE FUNCTION gpuagent_store.import_folder(path text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := path;
BEGIN
    PERFORM gpuagent_store.require_name('path', path);
    IF path = 'latest' THEN
        name := gpuagent_store.latest_name();
        IF name IS NULL THEN
            RAISE EXCEPTION 'there is no exported checkpoint' USING ERRCODE = 'undefined_file',
                HINT = 'Put the tree of another server below gpuagent.storage_path, or name a folder.';
        END IF;
    END IF;
    RETURN CASE WHEN position('/' IN name) = 0 AND gpuagent_store.path_exists('nvme_storage/' || name) THEN 'nvme_storage/' ELSE '' END || name;
END
$$;
COMMENT ON FUNCTION gpuagent_store.import_folder(text) IS
    'folder of an exported checkpoint: latest, a name below nvme_storage, or a path below gpuagent.storage_path';

CREATE FUNCTION gpuagent_store.read_export(folder text, manifest jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 SET row_security = off AS $$
DECLARE
    k jsonb := manifest -> 'checkpoint';
    scope text[] := CASE WHEN jsonb_typeof(k -> 'objects') = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(k -> 'objects')) END;
    section jsonb;
    result bigint;
BEGIN
    result := gpuagent_store.begin_import(scope, (k ->> 'uid')::uuid, k ->> 'label', k -> 'metadata', k ->> 'run',
        (k ->> 'step')::bigint, (k ->> 'created_at')::timestamptz, (k ->> 'origin')::uuid);
    -- Items come after the tensors that they name.
    FOR section IN SELECT s FROM jsonb_array_elements(manifest -> 'sections') s ORDER BY s ->> 'object' = 'items' LOOP
        CASE split_part(section ->> 'object', ':', 1)
            WHEN 'agents' THEN PERFORM gpuagent_store.import_agents(result, folder, section);
            WHEN 'graph' THEN PERFORM gpuagent_store.import_graph(result, folder, section);
            WHEN 'metrics' THEN
                IF NOT gpuagent_store.object_covered(scope, 'metrics') THEN
                    RAISE EXCEPTION 'the files of the checkpoint do not fit together'
                        USING ERRCODE = 'data_corrupted', DETAIL = 'It has metrics, which are not among its objects.';
                END IF;
                PERFORM gpuagent_store.import_metrics(result, folder, section);
            WHEN 'items' THEN PERFORM gpuagent_store.import_items(result, folder, section, scope);
            WHEN 'swarm', 'expert' THEN PERFORM gpuagent_store.import_tensors(folder, section);
            ELSE
                RAISE EXCEPTION 'the manifest of "%" is not valid', folder
                    USING ERRCODE = 'data_corrupted', DETAIL = format('It has a section "%s".', section ->> 'object');
        END CASE;
    END LOOP;
    PERFORM gpuagent_store.check_import(result, scope);
    PERFORM gpuagent_store.finish_import(result);
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.read_export(text, jsonb) IS 'makes a checkpoint of kind import from the files of a manifest';

CREATE FUNCTION gpuagent.import_checkpoint(path text DEFAULT 'latest', restore boolean DEFAULT false, verify text DEFAULT 'full')
    RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    folder text;
    manifest jsonb;
    problem record;
    result bigint;
    is_new boolean;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF verify IS NULL OR verify NOT IN ('quick', 'full', 'deep') THEN
        RAISE EXCEPTION 'invalid verification level "%"', verify
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Levels are quick, full and deep.';
    END IF;
    folder := gpuagent_store.import_folder(path);
    IF NOT gpuagent_store.lease_folder(folder, false) AND gpuagent_store.path_exists(folder) THEN
        RAISE EXCEPTION 'the exported checkpoint "%" is being removed', folder USING ERRCODE = 'object_in_use';
    END IF;
    manifest := gpuagent_store.read_manifest(folder);
    IF manifest ->> 'encoding' IS DISTINCT FROM getdatabaseencoding() THEN
        RAISE EXCEPTION 'the exported checkpoint "%" comes from a database of encoding %', folder, manifest ->> 'encoding'
            USING ERRCODE = 'feature_not_supported', DETAIL = 'Digests of rows depend on the encoding.',
                HINT = 'Import it into a database of that encoding, and move that one with pg_dump.';
    END IF;
    SELECT * INTO problem FROM gpuagent_store.verify_files(folder, manifest, verify) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the exported checkpoint "%" is damaged', folder
            USING ERRCODE = 'data_corrupted',
                DETAIL = format('%s is %s: expected %s, found %s.', problem.object, problem.status,
                    COALESCE(problem.expected, 'nothing'),
                    COALESCE(problem.actual, 'nothing'));
    END IF;
    SELECT c.id INTO result FROM gpuagent.checkpoint c WHERE c.uid = (manifest #>> '{checkpoint,uid}')::uuid;
    is_new := NOT FOUND;
    IF is_new THEN
        BEGIN
            result := gpuagent_store.read_export(folder, manifest);
        EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            RAISE data_corrupted USING MESSAGE = 'the files of the checkpoint do not fit together', DETAIL = SQLERRM || '.';
        END;
        UPDATE gpuagent.checkpoint c SET exported_path = folder, exported_at = now(), verified_at = now(), verified_level = verify
            WHERE c.id = result;
    END IF;
    IF restore THEN
        PERFORM gpuagent.restore_checkpoint(result, verify => CASE WHEN is_new THEN 'none' WHEN verify = 'quick' THEN 'quick' ELSE 'full' END);
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent.import_checkpoint(text, boolean, text) IS
    'makes a checkpoint from an exported one (latest, a folder below nvme_storage, or a path below gpuagent.storage_path) and returns it; one that is there already is not read again; restore: restore_checkpoint() of it as well; verify, before anything is read: quick (sizes), full (SHA-256), deep (tensors too); needs pg_read_server_files; XX001 with the reason for damaged files';
