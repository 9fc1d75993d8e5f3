
-- FILES: a checkpoint as a folder nvme_storage/ckpt-SEQ-ID. Each export_* function writes the files of one part into a
-- private folder and returns its section of the manifest: {"object", "files": [{"name", "nbytes", "sha256", "items"}],
-- "tensors": [{"name", "dtype", "shape", "hash"}], ...}.
CREATE FUNCTION gpuagent_store.tensor_json(data gpuagent.agent_state) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('dtype', gpuagent.dtype(data), 'shape', gpuagent.shape(data),
        'data', translate(encode(gpuagent.tensor_bytes(data), 'base64'), E'\n', ''))
$$;
COMMENT ON FUNCTION gpuagent_store.tensor_json(gpuagent.agent_state) IS
    'a tensor in a line of JSON: dtype, shape and its raw bytes in base64';

CREATE FUNCTION gpuagent_store.json_tensor(data jsonb) RETURNS gpuagent.agent_state
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT gpuagent.tensor(data ->> 'dtype', ARRAY(SELECT jsonb_array_elements_text(data -> 'shape')::bigint),
        decode(data ->> 'data', 'base64'))::gpuagent.agent_state
    WHERE jsonb_typeof(data) = 'object'
$$;
COMMENT ON FUNCTION gpuagent_store.json_tensor(jsonb) IS 'inverse of tensor_json; NULL for what is not an object';

CREATE FUNCTION gpuagent_store.within_checkpoint(checkpoint bigint) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('o.from_seq <= %1$s AND (o.to_seq IS NULL OR %1$s < o.to_seq)', checkpoint)
$$;
COMMENT ON FUNCTION gpuagent_store.within_checkpoint(bigint) IS
    'condition on rows o of checkpoint_agent and its sisters: they belong to the checkpoint if it covers them';

CREATE FUNCTION gpuagent_store.manifest_file(folder text, file text, items bigint, nbytes bigint, sha256 text) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('name', substr(file, length(folder) + 2), 'items', items, 'nbytes', nbytes, 'sha256', sha256)
$$;
COMMENT ON FUNCTION gpuagent_store.manifest_file(text, text, bigint, bigint, text) IS
    'a file''s entry in a manifest, its name without the folder';

CREATE FUNCTION gpuagent_store.export_lines(folder text, name text, query text) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT gpuagent_store.manifest_file(folder, w.file, w.items, w.nbytes, w.sha256)
    FROM gpuagent_store.write_lines(folder || '/' || name, query) w
$$;
COMMENT ON FUNCTION gpuagent_store.export_lines(text, text, text) IS 'write_lines, with the file''s entry in a manifest as result';

-- tensors: [{"name", "hash"}] of the store or [{"name", "dtype", "shape", "query"}].
CREATE FUNCTION gpuagent_store.export_queries(folder text, name text, tensors jsonb, metadata jsonb) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT gpuagent_store.manifest_file(folder, w.file, w.items, w.nbytes, w.sha256)
    FROM (SELECT array_agg(t ->> 'name' ORDER BY i) AS names, array_agg(decode(t ->> 'hash', 'hex') ORDER BY i) AS hashes,
              array_agg(t ->> 'dtype' ORDER BY i) AS dtypes,
              array_agg(translate(t ->> 'shape', '[] ', '{}') ORDER BY i) AS shapes, array_agg(t ->> 'query' ORDER BY i) AS queries
          FROM jsonb_array_elements(tensors) WITH ORDINALITY e (t, i)) a,
        gpuagent_store.safetensors_pairs('{}', metadata) p,
        gpuagent_store.write_safetensors(folder || '/' || name, a.names, a.hashes, a.dtypes, a.shapes, a.queries, p.keys, p.vals) w
$$;
COMMENT ON FUNCTION gpuagent_store.export_queries(text, text, jsonb, jsonb) IS
    'write_safetensors of tensors described in JSON, with the file''s entry in a manifest as result';

CREATE FUNCTION gpuagent_store.manifest_tensors(tensors jsonb) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(jsonb_agg(jsonb_build_object('name', e.t -> 'name', 'dtype', COALESCE(e.t -> 'dtype', to_jsonb(s.dtype)),
        'shape', COALESCE(e.t -> 'shape', to_jsonb(s.shape)), 'hash', e.t -> 'hash') ORDER BY e.i), '[]')
    FROM jsonb_array_elements(tensors) WITH ORDINALITY e (t, i)
    LEFT JOIN LATERAL (SELECT t.dtype, t.shape FROM gpuagent_store.tensor t WHERE t.hash = decode(e.t ->> 'hash', 'hex') LIMIT 1) s ON true
$$;
COMMENT ON FUNCTION gpuagent_store.manifest_tensors(jsonb) IS
    'tensors of a section of a manifest: name, dtype, shape, and hash where the store has it';

CREATE FUNCTION gpuagent_store.export_agents(checkpoint bigint, folder text, scope text[]) RETURNS SETOF jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s record;
    g record;
    here text;
    belongs text;
    others text := 'true';
    n bigint;
    tensors jsonb;
    files jsonb;
BEGIN
    SELECT * INTO s FROM gpuagent_store.checkpoint_scope(scope);
    IF NOT s.agents AND s.prefixes = '{}' THEN
        RETURN;
    END IF;
    here := format('%s AND (%L OR o.id ^@ ANY (%L::text[]))', gpuagent_store.within_checkpoint(checkpoint), s.agents, s.prefixes);
    EXECUTE format('SELECT count(*) FROM gpuagent_store.checkpoint_agent o WHERE %s', here) INTO n;
    -- Agents of one shape are the rows of one matrix; the most frequent shapes get files of their own.
    FOR g IN EXECUTE format($q$
        SELECT row_number() OVER (ORDER BY count(*) DESC, min(o.id)) AS k, count(*) AS n, t.*
        FROM gpuagent_store.checkpoint_agent o, LATERAL (SELECT gpuagent.dtype(o.state), gpuagent.shape(o.state),
            gpuagent.dtype(o.memory), gpuagent.shape(o.memory)) t (sd, ss, md, ms)
        WHERE %s AND cardinality(COALESCE(ss, '{}')) < 8 AND cardinality(COALESCE(ms, '{}')) < 8
            AND COALESCE(0 <> ALL (ss), true) AND COALESCE(0 <> ALL (ms), true)
        GROUP BY sd, ss, md, ms ORDER BY k LIMIT 16$q$, here)
    LOOP
        belongs := format('ROW(gpuagent.dtype(o.state), gpuagent.shape(o.state), gpuagent.dtype(o.memory), gpuagent.shape(o.memory))'
            ' IS NOT DISTINCT FROM ROW(%L::text, %L::bigint[], %L::text, %L::bigint[])', g.sd, g.ss, g.md, g.ms);
        SELECT jsonb_agg(jsonb_build_object('name', c.name, 'dtype', c.dtype, 'shape', c.shape, 'query',
                format('SELECT o.%I FROM gpuagent_store.checkpoint_agent o WHERE %s AND %s ORDER BY o.id', c.name, here, belongs)))
            INTO tensors
            FROM (VALUES ('state', g.sd, g.n || g.ss), ('memory', g.md, g.n || g.ms), ('generation', 'I64', ARRAY[g.n]),
                      ('fitness', 'F64', ARRAY[g.n]), ('version', 'I64', ARRAY[g.n])) c (name, dtype, shape)
            WHERE c.dtype IS NOT NULL;
        files := jsonb_build_array(
            gpuagent_store.export_queries(folder, format('agents-%s.safetensors', g.k), tensors, '{"rows": "agents"}'),
            gpuagent_store.export_lines(folder, format('agents-%s.jsonl', g.k), format($q$
                SELECT jsonb_build_object('id', o.id, 'metadata', o.metadata, 'created_at', o.created_at, 'updated_at', o.updated_at,
                    'origin', o.origin, 'digest', encode(o.digest, 'hex'))::text
                FROM gpuagent_store.checkpoint_agent o WHERE %s AND %s ORDER BY o.id$q$, here, belongs)));
        RETURN NEXT jsonb_build_object('object', 'agents', 'files', files, 'tensors', gpuagent_store.manifest_tensors(tensors));
        others := others || ' AND NOT ' || belongs;
        n := n - g.n;
    END LOOP;
    IF n = 0 THEN
        RETURN;
    END IF;
    files := jsonb_build_array(gpuagent_store.export_lines(folder, 'agents-others.jsonl', format($q$
        SELECT jsonb_build_object('id', o.id, 'metadata', o.metadata, 'created_at', o.created_at, 'updated_at', o.updated_at,
            'origin', o.origin, 'digest', encode(o.digest, 'hex'), 'generation', o.generation, 'fitness', o.fitness::text,
            'version', o.version, 'state', gpuagent_store.tensor_json(o.state), 'memory', gpuagent_store.tensor_json(o.memory))::text
        FROM gpuagent_store.checkpoint_agent o WHERE %s AND %s ORDER BY o.id$q$, here, others)));
    RETURN NEXT jsonb_build_object('object', 'agents', 'files', files, 'tensors', '[]'::jsonb);
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_agents(bigint, text, text[]) IS
    'writes the agents of a checkpoint: a pair of files for each of the 16 most frequent shapes, the others as lines';

CREATE FUNCTION gpuagent_store.export_graph(checkpoint bigint, folder text, graph text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stem text := 'graph-' || gpuagent_store.path_encode(graph);
    here text := format('%s AND o.graph = %L', gpuagent_store.within_checkpoint(checkpoint), graph);
    numbered text := format('(SELECT o.id, row_number() OVER (ORDER BY o.id) - 1 AS i, o.embedding FROM gpuagent_store.checkpoint_node o WHERE %s)', here);
    nodes bigint;
    edges bigint;
    types jsonb;
    main record;
    is_main text;
    tensors jsonb;
BEGIN
    EXECUTE format('SELECT count(*) FROM gpuagent_store.checkpoint_node o WHERE %s', here) INTO nodes;
    EXECUTE format('SELECT count(*), COALESCE(jsonb_agg(DISTINCT o.edge_type), ''[]'') FROM gpuagent_store.checkpoint_edge o WHERE %s', here)
        INTO edges, types;
    EXECUTE format('SELECT gpuagent.dtype(o.embedding) AS dtype, gpuagent.vector_dims(o.embedding) AS dim, count(*) AS n
        FROM gpuagent_store.checkpoint_node o WHERE %s AND o.embedding IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 1', here)
        INTO main;
    is_main := format('COALESCE(gpuagent.dtype(o.embedding) = %L AND gpuagent.vector_dims(o.embedding) = %L, false)', main.dtype, main.dim);
    SELECT jsonb_agg(jsonb_build_object('name', t.name, 'dtype', t.dtype, 'shape', t.shape, 'query', t.query)) INTO tensors FROM (VALUES
        ('row_offsets', 'I64', ARRAY[nodes + 1], format(
            'SELECT 0::bigint AS x, NULL::text COLLATE "C" AS id UNION ALL
             SELECT sum(count(o.source)) OVER (ORDER BY n.id)::bigint, n.id
             FROM %s n LEFT JOIN (SELECT o.source FROM gpuagent_store.checkpoint_edge o WHERE %s) o ON o.source = n.id
             GROUP BY n.id ORDER BY id NULLS FIRST', numbered, here)),
        ('col_indices', 'I64', ARRAY[edges], format(
            'SELECT n.i FROM gpuagent_store.checkpoint_edge o JOIN %s n ON n.id = o.target WHERE %s
             ORDER BY o.source, o.target, o.edge_type', numbered, here)),
        ('weights', 'F64', ARRAY[edges], format(
            'SELECT o.weight FROM gpuagent_store.checkpoint_edge o WHERE %s ORDER BY o.source, o.target, o.edge_type', here)),
        ('edge_types', 'I64', ARRAY[edges], format(
            'SELECT dense_rank() OVER (ORDER BY o.edge_type) - 1 FROM gpuagent_store.checkpoint_edge o WHERE %s
             ORDER BY o.source, o.target, o.edge_type', here)),
        ('embeddings', main.dtype, ARRAY[main.n, main.dim], format(
            'SELECT o.embedding FROM gpuagent_store.checkpoint_node o WHERE %s AND %s ORDER BY o.id', here, is_main)),
        ('embedding_nodes', CASE WHEN main.n IS NOT NULL THEN 'I64' END, ARRAY[main.n], format(
            'SELECT o.i FROM %s o WHERE %s ORDER BY o.id', numbered, is_main))) t (name, dtype, shape, query)
        WHERE t.dtype IS NOT NULL;
    RETURN jsonb_build_object('object', 'graph:' || graph, 'tensors', gpuagent_store.manifest_tensors(tensors), 'files', jsonb_build_array(
        gpuagent_store.export_queries(folder, stem || '.safetensors', tensors, jsonb_build_object('graph', graph, 'edge_types', types)),
        gpuagent_store.export_lines(folder, stem || '.nodes.jsonl', format($q$
            SELECT jsonb_build_object('id', o.id, 'metadata', o.metadata, 'created_at', o.created_at, 'digest', encode(o.digest, 'hex'),
                'embedding', CASE WHEN %s THEN to_jsonb(true) ELSE gpuagent_store.tensor_json(o.embedding::gpuagent.agent_state) END)::text
            FROM gpuagent_store.checkpoint_node o WHERE %s ORDER BY o.id$q$, is_main, here)),
        gpuagent_store.export_lines(folder, stem || '.edges.jsonl', format($q$
            SELECT jsonb_build_object('source', o.source, 'target', o.target, 'edge_type', o.edge_type, 'metadata', o.metadata,
                'created_at', o.created_at, 'digest', encode(o.digest, 'hex'))::text
            FROM gpuagent_store.checkpoint_edge o WHERE %s ORDER BY o.source, o.target, o.edge_type$q$, here))));
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_graph(bigint, text, text) IS
    'writes a graph of a checkpoint: compressed sparse rows, weights, codes of edge types and embeddings as tensors, the rest as lines';

CREATE FUNCTION gpuagent_store.export_swarm(item jsonb, folder text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    swarm text := substr(item ->> 'object', 7);
    tensors jsonb := jsonb_build_array(jsonb_build_object('name', 'data', 'hash', item ->> 'tensor'));
BEGIN
    RETURN jsonb_build_object('object', item -> 'object', 'tensors', gpuagent_store.manifest_tensors(tensors), 'files', jsonb_build_array(
        gpuagent_store.export_queries(folder, 'swarm-' || gpuagent_store.path_encode(swarm) || '.safetensors', tensors,
            jsonb_build_object('swarm', swarm, 'version', item -> 'version', 'metadata', item #> '{body,version_metadata}'))));
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_swarm(jsonb, text) IS
    'writes a swarm of a checkpoint as a file of one tensor, data';

CREATE FUNCTION gpuagent_store.export_expert(checkpoint bigint, item jsonb, folder text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expert text := substr(item ->> 'object', 8);
    config jsonb := item -> 'body';
    t record;
    files jsonb;
    entries jsonb;
BEGIN
    SELECT * INTO t FROM gpuagent_store.layer_tensors(expert, NULL, checkpoint);
    IF t.names IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT jsonb_agg(gpuagent_store.manifest_file(folder, x.file, x.items, x.nbytes, x.sha256)) INTO files
        FROM gpuagent_store.safetensors_pairs(config -> 'metadata', jsonb_build_object('expert', expert,
                'metadata', config -> 'metadata', 'config', jsonb_strip_nulls(config - '{metadata,created_at}'::text[]),
                'biases', t.biases, 'layers', t.layers)) p,
            gpuagent_store.export_tensors(folder || '/expert-' || gpuagent_store.path_encode(expert), t.names, t.tensors,
                p.keys, p.vals, false, 5000000000) x;
    SELECT jsonb_agg(jsonb_build_object('name', n, 'hash', encode(h, 'hex'))) INTO entries FROM unnest(t.names, t.tensors) u (n, h);
    RETURN jsonb_build_object('object', item -> 'object', 'files', files, 'tensors', gpuagent_store.manifest_tensors(entries));
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_expert(bigint, jsonb, text) IS
    'writes the layers of an expert of a checkpoint as export_safetensors would; NULL when it has none';

CREATE FUNCTION gpuagent_store.exported_items(checkpoint bigint, scope text[], after text) RETURNS SETOF jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY EXECUTE format($q$
        SELECT jsonb_build_object('object', o.object, 'version', o.version, 'tensor', encode(o.tensor, 'hex'), 'body', o.body)
        FROM gpuagent.checkpoint_item o WHERE %s AND gpuagent_store.object_covered(%L::text[], o.object) AND o.part IN ('', 'config')
            AND o.object COLLATE "C" > %L ORDER BY o.object COLLATE "C"$q$, gpuagent_store.within_checkpoint(checkpoint), scope, after);
END
$$;
COMMENT ON FUNCTION gpuagent_store.exported_items(bigint, text[], text) IS
    'graphs, swarms and experts of a checkpoint, those after an address, as export_item() takes them, in order';

CREATE FUNCTION gpuagent_store.export_item(checkpoint bigint, item jsonb, folder text) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN starts_with(item ->> 'object', 'graph:') THEN gpuagent_store.export_graph(checkpoint, folder, substr(item ->> 'object', 7))
        WHEN starts_with(item ->> 'object', 'expert:') THEN gpuagent_store.export_expert(checkpoint, item, folder)
        WHEN item ->> 'tensor' IS NOT NULL THEN gpuagent_store.export_swarm(item, folder) END
$$;
COMMENT ON FUNCTION gpuagent_store.export_item(bigint, jsonb, text) IS
    'writes the files of a graph, swarm or expert of a checkpoint; NULL when it has none';

CREATE FUNCTION gpuagent_store.export_item_lines(checkpoint bigint, folder text, scope text[]) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('object', 'items', 'tensors', '[]'::jsonb, 'files', jsonb_build_array(
        gpuagent_store.export_lines(folder, 'items.jsonl', format($q$
            SELECT jsonb_build_object('object', o.object, 'part', o.part, 'version', o.version, 'tensor', encode(o.tensor, 'hex'),
                'biases', encode(o.biases, 'hex'), 'body', o.body, 'digest', encode(o.digest, 'hex'))::text
            FROM gpuagent.checkpoint_item o WHERE %s AND gpuagent_store.object_covered(%L::text[], o.object)
            ORDER BY o.object, o.part$q$, gpuagent_store.within_checkpoint(checkpoint), scope))))
$$;
COMMENT ON FUNCTION gpuagent_store.export_item_lines(bigint, text, text[]) IS 'writes the items of a checkpoint as lines';

CREATE FUNCTION gpuagent_store.export_items(checkpoint bigint, folder text, scope text[]) RETURNS SETOF jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item jsonb;
    section jsonb;
BEGIN
    FOR item IN SELECT gpuagent_store.exported_items(checkpoint, scope, '') LOOP
        section := gpuagent_store.export_item(checkpoint, item, folder);
        IF section IS NOT NULL THEN
            RETURN NEXT section;
        END IF;
    END LOOP;
    RETURN NEXT gpuagent_store.export_item_lines(checkpoint, folder, scope);
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_items(bigint, text, text[]) IS
    'writes the graphs, swarms and experts of a checkpoint, and its items as lines';

CREATE FUNCTION gpuagent_store.export_metrics(checkpoint bigint, folder text, scope text[]) RETURNS SETOF jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    here text := gpuagent_store.within_checkpoint(checkpoint);
    n bigint;
    tensors jsonb;
BEGIN
    IF NOT gpuagent_store.object_covered(scope, 'metrics') THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT count(*) FROM gpuagent_store.checkpoint_metric o WHERE %s', here) INTO n;
    SELECT jsonb_agg(jsonb_build_object('name', c.name, 'dtype', c.dtype, 'shape', ARRAY[n], 'query',
            format('SELECT o.%I FROM gpuagent_store.checkpoint_metric o WHERE %s ORDER BY o.id', c.name, here)))
        INTO tensors FROM (VALUES ('id', 'I64'), ('step', 'I64'), ('value', 'F64')) c (name, dtype);
    RETURN NEXT jsonb_build_object('object', 'metrics', 'tensors', gpuagent_store.manifest_tensors(tensors), 'files', jsonb_build_array(
        gpuagent_store.export_queries(folder, 'metrics.safetensors', tensors, '{"rows": "metrics"}'),
        gpuagent_store.export_lines(folder, 'metrics.jsonl', format($q$
            SELECT jsonb_build_object('run', o.run, 'key', o.key, 'object', o.object, 'recorded_at', o.recorded_at,
                'created_at', o.created_at, 'digest', encode(o.digest, 'hex'))::text
            FROM gpuagent_store.checkpoint_metric o WHERE %s ORDER BY o.id$q$, here))));
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_metrics(bigint, text, text[]) IS 'writes the metric values of a checkpoint';

-- A manifest is three lines that together are JSON: the second is the content, the third has its SHA-256.
CREATE FUNCTION gpuagent_store.manifest_text(content jsonb) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT E'{"manifest":\n' || content::text || E'\n,"sha256":"' || encode(sha256(convert_to(content::text, 'UTF8')), 'hex') || E'"}\n'
$$;
COMMENT ON FUNCTION gpuagent_store.manifest_text(jsonb) IS 'text of a MANIFEST.json';

CREATE FUNCTION gpuagent_store.read_manifest(folder text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lines text[] := string_to_array(gpuagent_store.read_text(folder || '/MANIFEST.json'), E'\n');
    content jsonb;
    why text;
BEGIN
    IF cardinality(lines) <> 4 OR lines[1] <> '{"manifest":' OR lines[4] <> '' THEN
        why := 'It does not have the three lines of a manifest.';
    ELSIF lines[3] <> ',"sha256":"' || encode(sha256(convert_to(lines[2], 'UTF8')), 'hex') || '"}' THEN
        why := 'Its content does not have the SHA-256 that it names.';
    ELSE
        BEGIN
            content := lines[2]::jsonb;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            RAISE EXCEPTION 'the manifest of "%" is not valid', folder
                USING ERRCODE = 'data_corrupted', DETAIL = format('Its content is not JSON: %s.', SQLERRM);
        END;
        IF content ->> 'format' IS DISTINCT FROM 'gpuagent checkpoint' OR content ->> 'format_version' IS DISTINCT FROM '1' THEN
            why := format('Its format is "%s", version %s; this extension reads "gpuagent checkpoint", version 1.',
                content ->> 'format', content ->> 'format_version');
        ELSIF COALESCE(jsonb_typeof(content -> 'sections'), '') <> 'array' OR COALESCE(jsonb_typeof(content -> 'checkpoint'), '') <> 'object' THEN
            why := 'It has no sections or no checkpoint.';
        ELSIF (content #>> '{checkpoint,uid}' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$') IS NOT TRUE
            OR EXISTS (SELECT FROM jsonb_array_elements(content -> 'sections') s
                WHERE (jsonb_typeof(s -> 'object') = 'string' AND jsonb_typeof(s -> 'tensors') = 'array'
                    AND jsonb_typeof(s -> 'files') = 'array' AND s #>> '{files,0,name}' <> '') IS NOT TRUE)
            OR EXISTS (SELECT FROM jsonb_path_query(content, '$.sections[*].files[*]', silent => true) f
                WHERE (f ->> 'name' ~ '^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$' AND f ->> 'nbytes' ~ '^[0-9]{1,18}$' AND f ->> 'sha256' ~ '^[0-9a-f]{64}$') IS NOT TRUE)
        THEN
            why := 'Its checkpoint has no uid, or a section lacks its object, tensors or files with name, nbytes and sha256.';
        ELSIF COALESCE(jsonb_typeof(content #> '{checkpoint,objects}'), 'null') NOT IN ('array', 'null')
            OR jsonb_path_exists(content, 'strict $.checkpoint.objects[*] ? (@.type() != "string")', silent => true)
            OR COALESCE(jsonb_typeof(content #> '{checkpoint,metadata}'), 'null') NOT IN ('object', 'null')
            OR NOT gpuagent_store.valid_name(content #>> '{checkpoint,label}') OR NOT gpuagent_store.valid_name(content #>> '{checkpoint,run}')
        THEN
            why := 'Its checkpoint''s objects are not a list of addresses, its metadata not an object, or its label or run not a name.';
        END IF;
    END IF;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'the manifest of "%" is not valid', folder USING ERRCODE = 'data_corrupted', DETAIL = why;
    END IF;
    RETURN content;
END
$$;
COMMENT ON FUNCTION gpuagent_store.read_manifest(text) IS 'content of the MANIFEST.json of a folder; XX001 when it is not whole';

-- What the manifest says of each file against the file: quick its size, full its SHA-256, deep its tensors too.
CREATE FUNCTION gpuagent_store.verify_files(folder text, manifest jsonb, level text)
    RETURNS TABLE (object text, status text, expected text, actual text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    section jsonb;
    entry jsonb;
    path text;
BEGIN
    FOR section IN SELECT jsonb_array_elements(manifest -> 'sections') LOOP
        FOR entry IN SELECT jsonb_array_elements(section -> 'files') LOOP
            path := folder || '/' || (entry ->> 'name');
            object := path;
            status := 'damaged';
            IF entry ->> 'name' ~ '/' OR NOT gpuagent_store.path_exists(path) THEN
                status := 'missing';
                expected := format('%s bytes', entry ->> 'nbytes');
                actual := NULL;
                RETURN NEXT;
            ELSIF gpuagent_store.file_size(path) <> (entry ->> 'nbytes')::bigint THEN
                expected := format('%s bytes', entry ->> 'nbytes');
                actual := format('%s bytes', gpuagent_store.file_size(path));
                RETURN NEXT;
            ELSIF level IN ('full', 'deep') THEN
                expected := entry ->> 'sha256';
                actual := gpuagent_store.file_sha256(path);
                IF actual IS DISTINCT FROM expected THEN
                    RETURN NEXT;
                END IF;
            END IF;
        END LOOP;
        IF level = 'deep' THEN
            RETURN QUERY SELECT section ->> 'object', 'damaged', e.t, h.t
                FROM (SELECT concat_ws(' ', t ->> 'name', t ->> 'dtype', translate(t ->> 'shape', '[] ', '{}'))
                      FROM jsonb_array_elements(section -> 'tensors') t) e (t)
                FULL JOIN (SELECT concat_ws(' ', h.name, h.dtype, h.shape::text)
                    FROM jsonb_array_elements(section -> 'files') f,
                        gpuagent_store.safetensors_header(folder || '/' || (f ->> 'name'), NULL) h
                    WHERE f ->> 'name' LIKE '%.safetensors' AND gpuagent_store.path_exists(folder || '/' || (f ->> 'name'))) h (t) ON h.t = e.t
                WHERE e.t IS NULL OR h.t IS NULL;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.verify_files(text, jsonb, text) IS
    'one row for each file that is not what the manifest says: quick compares sizes, full SHA-256, deep the tensors'' names, dtypes and shapes as well';

CREATE FUNCTION gpuagent_store.export_folder(id bigint, uid uuid) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('nvme_storage/ckpt-%s-%s', lpad(id::text, 10, '0'), left(uid::text, 8))
$$;
COMMENT ON FUNCTION gpuagent_store.export_folder(bigint, uuid) IS 'folder of a checkpoint''s export';

CREATE FUNCTION gpuagent_store.export_problem(folder text, uid uuid, level text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    manifest jsonb;
    why text;
BEGIN
    manifest := gpuagent_store.read_manifest(folder);
    IF uid IS NOT NULL AND manifest #>> '{checkpoint,uid}' <> uid::text THEN
        RETURN 'It holds another checkpoint.';
    END IF;
    SELECT format('%s is %s.', f.object, f.status) INTO why FROM gpuagent_store.verify_files(folder, manifest, level) f LIMIT 1;
    RETURN why;
EXCEPTION WHEN data_corrupted OR undefined_file OR wrong_object_type OR data_exception THEN
    GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(': ', SQLERRM, nullif(why, ''));
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_problem(text, uuid, text) IS
    'NULL when the folder is a whole export, by that level of verification, and of that checkpoint (NULL: of any); else why not';

CREATE FUNCTION gpuagent_store.put_aside(folder text, why text) RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    aside text := format('nvme_storage/quarantine-%s-%s', split_part(folder, '/', 2), gen_random_uuid());
BEGIN
    IF folder !~ '^nvme_storage/ckpt-[^/]+$' THEN
        RAISE EXCEPTION '"%" is not the path of an export', folder USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM gpuagent_store.path_rename(folder, aside);
    RAISE WARNING 'put "%" aside as "%"', folder, aside USING DETAIL = why;
    RETURN aside;
END
$$;
COMMENT ON FUNCTION gpuagent_store.put_aside(text, text) IS
    'renames an export that is not whole to quarantine-*, with a warning that says why; nothing of it is removed';

CREATE FUNCTION gpuagent_store.write_manifest(checkpoint bigint, folder text, sections jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
DECLARE
    k record;
BEGIN
    SELECT c.id, c.uid, p.uid AS parent, c.label, c.kind, c.run, c.step, c.objects, c.metadata, c.raw_bytes, c.created_at, c.origin
        INTO k FROM gpuagent.checkpoint c LEFT JOIN gpuagent.checkpoint p ON p.id = c.parent WHERE c.id = write_manifest.checkpoint;
    PERFORM gpuagent_store.write_text(folder || '/MANIFEST.json', gpuagent_store.manifest_text(jsonb_build_object(
        'format', 'gpuagent checkpoint', 'format_version', 1, 'creator', gpuagent.version(), 'source', gpuagent_store.xid_source(),
        'encoding', getdatabaseencoding(),
        'checkpoint', to_jsonb(k), 'sections', sections)));
END
$$;
COMMENT ON FUNCTION gpuagent_store.write_manifest(bigint, text, jsonb) IS 'writes the manifest of a checkpoint''s export into its private folder';

CREATE FUNCTION gpuagent_store.begin_export(checkpoint bigint) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    nbytes CONSTANT bigint := (SELECT c.raw_bytes FROM gpuagent.checkpoint c WHERE c.id = begin_export.checkpoint);
    temp CONSTANT text := gpuagent_store.temp_create('nvme_storage');
BEGIN
    -- Files have some more bytes than this; each reserves its own before it is written.
    PERFORM gpuagent_store.require_space(temp, nbytes);
    PERFORM gpuagent_store.progress('writing', 0, NULL, 0, nbytes);
    RETURN temp;
END
$$;
COMMENT ON FUNCTION gpuagent_store.begin_export(bigint) IS 'a private folder for the export of a checkpoint; 53100 when the disk has no room for it';

CREATE FUNCTION gpuagent_store.write_export(checkpoint bigint) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
DECLARE
    scope CONSTANT text[] := (SELECT c.objects FROM gpuagent.checkpoint c WHERE c.id = write_export.checkpoint);
    temp CONSTANT text := gpuagent_store.begin_export(checkpoint);
    sections jsonb;
BEGIN
    SELECT jsonb_agg(s) INTO sections FROM (
        SELECT gpuagent_store.export_agents(checkpoint, temp, scope)
        UNION ALL SELECT gpuagent_store.export_items(checkpoint, temp, scope)
        UNION ALL SELECT gpuagent_store.export_metrics(checkpoint, temp, scope)) x (s);
    PERFORM gpuagent_store.write_manifest(checkpoint, temp, sections);
    RETURN temp;
END
$$;
COMMENT ON FUNCTION gpuagent_store.write_export(bigint) IS
    'writes all files of a checkpoint into a private folder, the manifest last, and returns its path';

-- Nobody removes a checkpoint while it is written, nobody writes it twice at once; who would wait for gigabytes asks
-- without waiting.
CREATE FUNCTION gpuagent_store.export_key(checkpoint bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT hashtextextended('gpuagent.export:' || checkpoint, 0)
$$;
COMMENT ON FUNCTION gpuagent_store.export_key(bigint) IS
    'key of the lock (take_lock()) that an export of the checkpoint holds until its transaction ends';

CREATE FUNCTION gpuagent_store.find_export(checkpoint bigint, OUT path text, OUT state text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    k record;
    problem text;
BEGIN
    SELECT c.id, c.uid, c.status INTO k FROM gpuagent.checkpoint c WHERE c.id = $1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint % does not exist', $1 USING ERRCODE = 'undefined_object';
    ELSIF k.status <> 'valid' THEN
        RAISE EXCEPTION 'checkpoint % is %', k.id, k.status USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    path := gpuagent_store.export_folder(k.id, k.uid);
    state := 'done';
    IF gpuagent_store.path_exists(path) THEN
        problem := gpuagent_store.export_problem(path, k.uid, 'full');
        IF problem IS NULL THEN
            state := 'present';
        ELSIF gpuagent_store.export_problem(path, NULL, 'full') IS NULL THEN
            -- A whole one of another database that shares the tree.
            path := format('nvme_storage/ckpt-%s-%s', lpad(k.id::text, 10, '0'), k.uid);
        ELSE
            PERFORM gpuagent_store.put_aside(path, problem);
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.find_export(bigint) IS
    'where a checkpoint is or is to be exported: state present when a whole export is there, else done; what is not whole is put aside. Under the lock of export_key()';

-- delete_checkpoint() and retention do not touch what is being exported; a DELETE of the row by hand asks nobody.
CREATE FUNCTION gpuagent_store.export_interrupted(checkpoint bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'checkpoint % was deleted while it was exported', checkpoint USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_interrupted(bigint) IS '55000: the checkpoint of an export is gone';

CREATE FUNCTION gpuagent_store.finish_export(checkpoint bigint, path text, temp text, OUT files bigint, OUT nbytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    k record;
    to_latest boolean;
BEGIN
    -- Short; latest never goes back to an older one of two that end at the same time.
    PERFORM gpuagent_store.take_lock(gpuagent_store.publish_key(), true, false);
    PERFORM gpuagent_store.replay_exports();
    SELECT c.id, c.uid, c.exported_path INTO k FROM gpuagent.checkpoint c WHERE c.id = $1;
    UPDATE gpuagent.checkpoint c SET exported_path = $2, exported_at = now() WHERE c.id = $1;
    IF NOT FOUND THEN
        PERFORM gpuagent_store.export_interrupted($1);
    END IF;
    IF temp IS NOT NULL OR k.exported_path IS NULL THEN
        PERFORM gpuagent_store.notify_checkpoint(k.id, 'exported');
    END IF;
    to_latest := gpuagent_store.latest_name() IS DISTINCT FROM split_part(path, '/', 2) AND gpuagent_store.becomes_latest(k.id);
    IF temp IS NOT NULL OR to_latest THEN
        PERFORM gpuagent_store.publish_export(temp, split_part(path, '/', 2), k.id, k.uid, to_latest);
    END IF;
    SELECT count(*) + 1, sum((f ->> 'nbytes')::bigint) + gpuagent_store.file_size(path || '/MANIFEST.json')
        INTO files, nbytes
        FROM jsonb_array_elements(gpuagent_store.read_manifest(path) -> 'sections') s, jsonb_array_elements(s -> 'files') f;
END
$$;
COMMENT ON FUNCTION gpuagent_store.finish_export(bigint, text, text) IS
    'gives an export its name when this transaction commits (temp NULL: it is there already) and enters it; how many files and bytes it has, with the manifest';

CREATE FUNCTION gpuagent_store.export_now(checkpoint bigint)
    RETURNS TABLE (path text, state text, files bigint, nbytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    temp text;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.take_lock(gpuagent_store.export_key($1), true, false);
    SELECT f.path, f.state INTO path, state FROM gpuagent_store.find_export($1) f;
    IF state = 'done' THEN
        temp := gpuagent_store.write_export($1);
    END IF;
    SELECT f.files, f.nbytes INTO files, nbytes FROM gpuagent_store.finish_export($1, export_now.path, temp) f;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION gpuagent_store.export_now(bigint) IS
    'writes a checkpoint as a folder of files, which gets its name when this transaction commits; while it writes, it holds no lock on rows and nobody waits for it but another export of the same checkpoint; files and nbytes count the manifest too';
