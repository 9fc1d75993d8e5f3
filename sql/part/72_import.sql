
-- FILES: a checkpoint back from its folder. Lines carry the digest of their row, which the tables compute again. What is
-- wrong is looked for with min(), not LIMIT 1, which would have the planner join line by line.
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

-- Rows of a section, as the text of a query, for imports and verification: the columns of the table of checkpoints that they
-- belong to, and said, the digest that the line names. kind: agents, nodes, edges, metrics or items.
CREATE FUNCTION gpuagent_store.file_rows(folder text, section jsonb, kind text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stem text := regexp_replace(section #>> '{files,0,name}', '\.[a-z]+$', '');
    name text := CASE kind WHEN 'nodes' THEN stem || '.nodes' WHEN 'edges' THEN stem || '.edges' WHEN 'agents' THEN stem ELSE kind END || '.jsonl';
    lines text := format('gpuagent_store.read_lines(%L)', gpuagent_store.section_file(folder, section, name));
    tensors text := CASE WHEN kind <> 'items' AND (kind <> 'agents' OR section -> 'tensors' <> '[]')
        THEN gpuagent_store.section_file(folder, section, CASE kind WHEN 'metrics' THEN kind ELSE stem END || '.safetensors') END;
BEGIN
    RETURN CASE kind
    WHEN 'agents' THEN format($q$
        SELECT j ->> 'id' AS id, COALESCE(r.state, gpuagent_store.json_tensor(j -> 'state')) AS state,
            COALESCE(r.memory, gpuagent_store.json_tensor(j -> 'memory')) AS memory,
            COALESCE(r.generation, (j ->> 'generation')::bigint) AS generation,
            COALESCE(NULLIF(r.fitness, 'NaN'), (j ->> 'fitness')::float8) AS fitness, j -> 'metadata' AS metadata,
            COALESCE(r.version, (j ->> 'version')::bigint) AS version, (j ->> 'created_at')::timestamptz AS created_at,
            (j ->> 'updated_at')::timestamptz AS updated_at, (j ->> 'origin')::uuid AS origin, decode(j ->> 'digest', 'hex') AS said
        FROM ROWS FROM (%s, %s, %s, %s, %s, %s) r (line, state, memory, generation, fitness, version),
            LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x$q$, lines,
        gpuagent_store.rows_of(section, 'read_states', tensors, 'state', 'gpuagent.agent_state'),
        gpuagent_store.rows_of(section, 'read_states', tensors, 'memory', 'gpuagent.agent_state'),
        gpuagent_store.rows_of(section, 'read_integers', tensors, 'generation', 'bigint'),
        gpuagent_store.rows_of(section, 'read_floats', tensors, 'fitness', 'float8'),
        gpuagent_store.rows_of(section, 'read_integers', tensors, 'version', 'bigint'))
    WHEN 'nodes' THEN format($q$
        SELECT %L::text AS graph, l.j ->> 'id' AS id, COALESCE(e.state, gpuagent_store.json_tensor(l.j -> 'embedding'))::gpuagent.embedding AS embedding,
            l.j -> 'metadata' AS metadata, (l.j ->> 'created_at')::timestamptz AS created_at, decode(l.j ->> 'digest', 'hex') AS said
        FROM (SELECT x.j, count(*) FILTER (WHERE x.j -> 'embedding' = 'true') OVER (ORDER BY r.i) AS place
              FROM %s WITH ORDINALITY r (line, i), LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x) l
        LEFT JOIN %s WITH ORDINALITY e (state, i) ON l.j -> 'embedding' = 'true' AND e.i = l.place$q$, substr(section ->> 'object', 7), lines,
        gpuagent_store.rows_of(section, 'read_states', tensors, 'embeddings', 'gpuagent.agent_state'))
    WHEN 'edges' THEN format($q$
        SELECT %L::text AS graph, j ->> 'source' AS source, j ->> 'target' AS target, j ->> 'edge_type' AS edge_type, r.weight,
            j -> 'metadata' AS metadata, (j ->> 'created_at')::timestamptz AS created_at, decode(j ->> 'digest', 'hex') AS said
        FROM ROWS FROM (%s, gpuagent_store.read_floats(%L, 'weights')) r (line, weight), LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x$q$,
        substr(section ->> 'object', 7), lines, tensors)
    WHEN 'metrics' THEN format($q$
        SELECT r.id, j ->> 'run' AS run, j ->> 'key' AS key, r.step, r.value, j ->> 'object' AS object,
            (j ->> 'recorded_at')::timestamptz AS recorded_at, (j ->> 'created_at')::timestamptz AS created_at, decode(j ->> 'digest', 'hex') AS said
        FROM ROWS FROM (%1$s, gpuagent_store.read_integers(%2$L, 'id'), gpuagent_store.read_integers(%2$L, 'step'), gpuagent_store.read_floats(%2$L, 'value'))
                r (line, id, step, value), LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x$q$, lines, tensors)
    ELSE format($q$
        SELECT j ->> 'object' AS object, j ->> 'part' AS part, (j ->> 'version')::bigint AS version, decode(j ->> 'tensor', 'hex') AS tensor,
            decode(j ->> 'biases', 'hex') AS biases, j -> 'body' AS body, decode(j ->> 'digest', 'hex') AS said
        FROM %s r (line), LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x$q$, lines)
    END;
END
$$;
COMMENT ON FUNCTION gpuagent_store.file_rows(text, jsonb, text) IS
    'query, as text, for the rows of a kind that a section holds; XX001 when the manifest does not list a file that it needs';

-- Where rows of a kind are in the tables: table, columns of its digest, key, and how a row is named.
CREATE FUNCTION gpuagent_store.checkpoint_rows(kind text, OUT relation text, OUT columns text, OUT key text, OUT name text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.relation, k.columns, k.key, k.name FROM (VALUES
        ('agents', 'gpuagent_store.checkpoint_agent', 'id,state,memory,generation,fitness,metadata,version,created_at,updated_at,origin', 'id',
            'format(''agents:%s'', id)'),
        ('nodes', 'gpuagent_store.checkpoint_node', 'graph,id,embedding,metadata,created_at', 'graph,id', 'format(''graph:%s node %s'', graph, id)'),
        ('edges', 'gpuagent_store.checkpoint_edge', 'graph,source,target,edge_type,weight,metadata,created_at', 'graph,source,target,edge_type',
            'format(''graph:%s edge %s %s %s'', graph, source, target, edge_type)'),
        ('metrics', 'gpuagent_store.checkpoint_metric', 'id,run,key,step,value,object,recorded_at,created_at', 'id', 'format(''metrics %s'', id)'),
        ('items', 'gpuagent.checkpoint_item', 'object,part,version,tensor,biases,body', 'object,part', 'concat_ws('' '', object, nullif(part, ''''))'))
        k (kind, relation, columns, key, name)
    WHERE k.kind = $1
$$;
COMMENT ON FUNCTION gpuagent_store.checkpoint_rows(text) IS
    'table, columns under the digest, key and the expression of an address for a kind of rows of checkpoints: agents, nodes, edges, metrics or items';

CREATE FUNCTION gpuagent_store.import_rows(checkpoint bigint, folder text, section jsonb, kind text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    wrong text;
BEGIN
    SELECT * INTO t FROM gpuagent_store.checkpoint_rows(kind);
    EXECUTE format($q$
        WITH line AS MATERIALIZED (%1$s), added AS (
            INSERT INTO %2$s AS a (from_seq,%3$s) SELECT %4$s,%3$s FROM line RETURNING %5$s, a.digest
        )
        SELECT min(%6$s) FROM line LEFT JOIN added USING (%7$s) WHERE added.digest IS DISTINCT FROM line.said$q$,
        gpuagent_store.file_rows(folder, section, kind), t.relation, t.columns, checkpoint,
        regexp_replace(t.key, '(\w+)', 'a.\1', 'g'), t.name, t.key) INTO wrong;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together'
            USING ERRCODE = 'data_corrupted', DETAIL = format('"%s" is not what its line and the manifest say.', wrong);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.import_rows(bigint, text, jsonb, text) IS
    'adds rows of a section to an import; XX001 when one does not have the digest that its line names';

-- Nodes are numbered, from 0, by the order of their lines. An edge stands in the row of its source: with offsets that are
-- the counts, that is the order of the lines by source.
CREATE FUNCTION gpuagent_store.graph_problem(folder text, section jsonb) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    stem CONSTANT text := regexp_replace(section #>> '{files,0,name}', '\.[a-z]+$', '');
    path CONSTANT text := gpuagent_store.section_file(folder, section, stem || '.safetensors');
    types jsonb;
    wrong record;
BEGIN
    BEGIN
        types := (SELECT m.value::jsonb FROM gpuagent_store.safetensors_metadata(path) m WHERE m.key = 'gpuagent.edge_types');
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
        types := NULL;
    END;
    IF jsonb_typeof(types) IS DISTINCT FROM 'array' THEN
        RETURN format('Metadata "gpuagent.edge_types" of "%s" is not a list.', section ->> 'object');
    END IF;
    EXECUTE format($q$
        WITH node AS MATERIALIZED (
            SELECT x.j ->> 'id' AS id, r.i, x.j -> 'embedding' = 'true' AS embedded
            FROM gpuagent_store.read_lines(%1$L) WITH ORDINALITY r (line, i), LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x
        ), edge AS MATERIALIZED (
            SELECT r.i, s.i AS source, t.i AS target, x.j ->> 'edge_type' AS edge_type
            FROM gpuagent_store.read_lines(%2$L) WITH ORDINALITY r (line, i) CROSS JOIN LATERAL (SELECT r.line::jsonb AS j OFFSET 0) x
                LEFT JOIN node s ON s.id = x.j ->> 'source' LEFT JOIN node t ON t.id = x.j ->> 'target'
        ), said (tensor, i, value) AS (
            SELECT 'row_offsets', i, value FROM gpuagent_store.read_integers(%3$L, 'row_offsets') WITH ORDINALITY r (value, i)
            UNION ALL SELECT 'col_indices', i, value FROM gpuagent_store.read_integers(%3$L, 'col_indices') WITH ORDINALITY r (value, i)
            UNION ALL SELECT 'edge_types', i, value FROM gpuagent_store.read_integers(%3$L, 'edge_types') WITH ORDINALITY r (value, i)
            UNION ALL SELECT 'embedding_nodes', i, value FROM %4$s WITH ORDINALITY r (value, i)
            UNION ALL SELECT 'embeddings', count(*) + 1, NULL FROM %5$s r
        ), expected (tensor, i, value) AS (
            SELECT 'row_offsets', 1, 0
            UNION ALL SELECT 'row_offsets', n.i + 1, sum(count(e.i)) OVER (ORDER BY n.i)::bigint FROM node n LEFT JOIN edge e ON e.source = n.i GROUP BY n.i
            UNION ALL SELECT 'col_indices', e.i, e.target - 1 FROM edge e
            UNION ALL SELECT 'edge_types', e.i, k.i - 1 FROM edge e LEFT JOIN jsonb_array_elements_text(%6$L::jsonb) WITH ORDINALITY k (name, i) ON k.name = e.edge_type
            UNION ALL SELECT 'embedding_nodes', row_number() OVER (ORDER BY n.i), n.i - 1 FROM node n WHERE n.embedded
            UNION ALL SELECT 'embeddings', count(*) + 1, NULL FROM node n WHERE n.embedded
        )
        SELECT tensor, i, s.value AS said, e.value AS expected FROM said s FULL JOIN expected e USING (tensor, i)
        WHERE s.i IS NULL OR e.i IS NULL OR s.value IS DISTINCT FROM e.value
        UNION ALL
        SELECT 'row_offsets', o.i, o.source - 1, o.before - 1 FROM (SELECT e.i, e.source, max(e.source) OVER (ORDER BY e.i) AS before FROM edge e) o WHERE o.source < o.before
        ORDER BY 1, 2 LIMIT 1$q$,
        gpuagent_store.section_file(folder, section, stem || '.nodes.jsonl'), gpuagent_store.section_file(folder, section, stem || '.edges.jsonl'), path,
        gpuagent_store.rows_of(section, 'read_integers', path, 'embedding_nodes', 'bigint'),
        gpuagent_store.rows_of(section, 'read_states', path, 'embeddings', 'gpuagent.agent_state'), types) INTO wrong;
    IF wrong.tensor = 'embeddings' THEN
        RETURN format('Tensor "embeddings" of "%s" does not have a row for each node with an embedding.', section ->> 'object');
    ELSIF wrong.tensor IS NOT NULL THEN
        RETURN format('Tensor "%s" of "%s" is not what the lines say: place %s has %s, not %s.', wrong.tensor, section ->> 'object',
            wrong.i - 1, coalesce(wrong.said::text, 'nothing'), coalesce(wrong.expected::text, 'nothing'));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.graph_problem(text, jsonb) IS
    'first difference of the arrays of a graph''s section, which number nodes and edges for other readers, from its lines, which are what is imported; NULL when there is none';

CREATE FUNCTION gpuagent_store.require_graph_arrays(folder text, section jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong CONSTANT text := gpuagent_store.graph_problem(folder, section);
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together' USING ERRCODE = 'data_corrupted', DETAIL = wrong;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_graph_arrays(text, jsonb) IS 'XX001 when the arrays of a graph''s section are not those of its lines';

CREATE FUNCTION gpuagent_store.require_tensors(checkpoint bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    SELECT min(concat_ws(' ', i.object, nullif(i.part, ''))) INTO wrong
        FROM gpuagent.checkpoint_item i, unnest(ARRAY[i.tensor, i.biases]) h
        WHERE i.from_seq = require_tensors.checkpoint AND h IS NOT NULL
            AND NOT EXISTS (SELECT FROM gpuagent_store.tensor t WHERE t.hash = h);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the files of the checkpoint do not fit together'
            USING ERRCODE = 'data_corrupted', DETAIL = format('The tensor of "%s" is in none of them.', wrong);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_tensors(bigint) IS 'XX001 when an item of an import names a tensor that is not in the store';

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
        SELECT format('Item "%s" is not among the objects of the checkpoint.', concat_ws(' ', i.object, nullif(i.part, ''))) FROM gpuagent.checkpoint_item i
        WHERE i.from_seq = $1 AND NOT gpuagent_store.object_covered(scope, i.object)
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
            WHEN 'agents' THEN PERFORM gpuagent_store.import_rows(result, folder, section, 'agents');
            WHEN 'graph' THEN
                PERFORM gpuagent_store.import_rows(result, folder, section, 'nodes');
                PERFORM gpuagent_store.import_rows(result, folder, section, 'edges');
                PERFORM gpuagent_store.require_graph_arrays(folder, section);
            WHEN 'metrics' THEN
                IF NOT gpuagent_store.object_covered(scope, 'metrics') THEN
                    RAISE EXCEPTION 'the files of the checkpoint do not fit together'
                        USING ERRCODE = 'data_corrupted', DETAIL = 'It has metrics, which are not among its objects.';
                END IF;
                PERFORM gpuagent_store.import_rows(result, folder, section, 'metrics');
            WHEN 'items' THEN
                PERFORM gpuagent_store.import_rows(result, folder, section, 'items');
                PERFORM gpuagent_store.require_tensors(result);
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
