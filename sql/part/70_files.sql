
-- FILES: internal functions. All paths are relative to gpuagent.storage_path; each checks pg_read_server_files or
-- pg_write_server_files itself.
CREATE FUNCTION gpuagent_store.path_encode(name text) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_path_encode_sql' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.path_encode(text) IS
    'a name of an object as one component of a path: bytes other than letters, digits, "." and "-" become _xx; what gets too long ends in _x and its SHA-256';

CREATE FUNCTION gpuagent_store.path_exists(path text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_path_exists_sql' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.path_exists(text) IS 'true when a file or folder has this path';

CREATE FUNCTION gpuagent_store.list_folder(path text) RETURNS SETOF text
    AS 'MODULE_PATHNAME', 'ga_list_folder' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION gpuagent_store.list_folder(text) IS
    'names in a folder, sorted, without those beginning with a dot; no rows when there is no such folder';

CREATE FUNCTION gpuagent_store.file_size(path text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_file_size_sql' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.file_size(text) IS 'bytes of a regular file; 58P01 when there is none, 42809 for a link';

CREATE FUNCTION gpuagent_store.require_space(path text, nbytes bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_require_space' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.require_space(text, bigint) IS '53100 when the file system of a folder has fewer bytes left';

CREATE FUNCTION gpuagent_store.file_sha256(path text) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_file_sha256' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.file_sha256(text) IS 'SHA-256 of the contents of a file, in lower-case hexadecimal';

CREATE FUNCTION gpuagent_store.read_text(path text) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_read_text' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.read_text(text) IS 'contents of a text file in UTF-8 of at most 256 MiB; XX001 when it is not';

CREATE FUNCTION gpuagent_store.read_lines(path text) RETURNS SETOF text
    AS 'MODULE_PATHNAME', 'ga_read_lines' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.read_lines(text) IS 'lines of a text file in UTF-8, in order; XX001 when the last one has no end';

CREATE FUNCTION gpuagent_store.read_states(path text, tensor text) RETURNS SETOF gpuagent.agent_state
    AS 'MODULE_PATHNAME', 'ga_read_states' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.read_states(text, text) IS
    'rows (entries of the first dimension) of a tensor of a safetensors file, in order';

CREATE FUNCTION gpuagent_store.read_floats(path text, tensor text) RETURNS SETOF double precision
    AS 'MODULE_PATHNAME', 'ga_read_floats' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.read_floats(text, text) IS 'numbers of an F64 vector of a safetensors file, in order';

CREATE FUNCTION gpuagent_store.read_integers(path text, tensor text) RETURNS SETOF bigint
    AS 'MODULE_PATHNAME', 'ga_read_integers' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.read_integers(text, text) IS 'numbers of an I64 vector of a safetensors file, in order';

CREATE FUNCTION gpuagent_store.temp_create(parent text) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_temp_create_sql' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.temp_create(text) IS
    'makes a private folder in folder parent ('''' = base) and returns its path; it is removed with the transaction, and those of dead processes are swept';

CREATE FUNCTION gpuagent_store.temp_keep(path text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_temp_keep_sql' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.temp_keep(text) IS
    'lets a private folder of this session outlive the commit of this transaction, until the end of the next one; false when it is none';

CREATE FUNCTION gpuagent_store.temp_publish(source text, target text) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_temp_publish_sql' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.temp_publish(text, text) IS
    'renames a private folder to its name, durably; 58P02 when that is taken';

CREATE FUNCTION gpuagent_store.path_rename(source text, target text) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_path_rename_sql' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.path_rename(text, text) IS 'renames a file or folder to a free name, durably; 58P02 when it is taken';

CREATE FUNCTION gpuagent_store.replace_text(path text, content text) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_replace_text' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.replace_text(text, text) IS 'writes a small text file and renames it over the old one, durably';

CREATE FUNCTION gpuagent_store.write_text(path text, content text,
    OUT file text, OUT items bigint, OUT nbytes bigint, OUT sha256 text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_write_text' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.write_text(text, text) IS 'writes a new text file in UTF-8';

CREATE FUNCTION gpuagent_store.write_lines(path text, query text,
    OUT file text, OUT items bigint, OUT nbytes bigint, OUT sha256 text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_write_lines' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.write_lines(text, text) IS
    'writes the rows of a query of one text column into a new file, a line each; runs the query with the rights and snapshot of its caller';

CREATE FUNCTION gpuagent_store.write_safetensors(path text, names text[], tensors bytea[], dtypes text[], shapes text[],
    queries text[], keys text[], vals text[],
    OUT file text, OUT items bigint, OUT nbytes bigint, OUT sha256 text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_write_safetensors' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.write_safetensors(text, text[], bytea[], text[], text[], text[], text[], text[]) IS
    'writes a new safetensors file: tensor i is tensors[i] of the store or, where that is NULL, the values of the one column of queries[i], whose bytes fill dtypes[i] of shapes[i] (text of a bigint[]); keys and vals become __metadata__';

CREATE FUNCTION gpuagent_store.export_tensors(path text, names text[], tensors bytea[], keys text[], vals text[],
    overwrite boolean, shard_bytes bigint,
    OUT file text, OUT items bigint, OUT nbytes bigint, OUT sha256 text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_export_tensors' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.export_tensors(text, text[], bytea[], text[], text[], boolean, bigint) IS
    'writes stored tensors as PATH.safetensors, or as shards of at most shard_bytes and their index; a row per file; 58P02 when it exists and overwrite is false';

CREATE FUNCTION gpuagent_store.pack_tensors(names text[], tensors bytea[], keys text[], vals text[]) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_pack_tensors' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.pack_tensors(text[], bytea[], text[], text[]) IS
    'a safetensors file of stored tensors as one value; 54000 from 1 GB on';

CREATE FUNCTION gpuagent_store.load_safetensors(path text, data bytea,
    OUT kind text, OUT name text, OUT value text, OUT tensor bytea, OUT nbytes bigint, OUT new_bytes bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_load_safetensors' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION gpuagent_store.load_safetensors(text, bytea) IS
    'stores the tensors of a safetensors file (path) or value (data): rows of kind metadata (name, value), then of kind tensor; nbytes raw, new_bytes added to the store; XX001 with the reason for what is not a valid file';

CREATE FUNCTION gpuagent_store.safetensors_header(path text, data bytea,
    OUT name text, OUT dtype text, OUT shape bigint[], OUT first bigint, OUT nbytes bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_safetensors_header' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION gpuagent_store.safetensors_header(text, bytea) IS
    'tensors of a safetensors file (path) or value (data) in the order of their data; first = their first byte in the file, from 0';

CREATE FUNCTION gpuagent_store.safetensors_metadata(path text, OUT key text, OUT value text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_safetensors_metadata' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION gpuagent_store.safetensors_metadata(text) IS 'entries of the __metadata__ of a safetensors file';

CREATE FUNCTION gpuagent_store.safetensors_hashes(path text, OUT name text, OUT tensor bytea) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_safetensors_hashes' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 100;
COMMENT ON FUNCTION gpuagent_store.safetensors_hashes(text) IS
    'tensors of a safetensors file with the hashes by which the store would name them, computed from their bytes; stores nothing';

-- FILES: one expert
CREATE FUNCTION gpuagent_store.layer_tensors(expert text, version bigint, checkpoint bigint,
    OUT names text[], OUT tensors bytea[], OUT biases jsonb, OUT layers jsonb)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH layer AS MATERIALIZED (
        SELECT h.layer_name AS name, h.weights, h.biases, h.metadata
        FROM gpuagent_store.weight_hashes($1, NULL, $2, $3) h WHERE h.weights IS NOT NULL
    ), bias AS (
        SELECT l.name AS layer, l.biases, CASE
            WHEN a.name IS NULL THEN l.name || '.bias'
            WHEN b.name IS NULL THEN l.name || '.biases'
            ELSE (SELECT c.name FROM (SELECT l.name || '.biases.' || i, i FROM generate_series(1, (SELECT count(*) + 1 FROM layer)) i)
                      c (name, i) WHERE NOT EXISTS (SELECT FROM layer o WHERE o.name = c.name) ORDER BY c.i LIMIT 1)
            END AS name
        FROM layer l LEFT JOIN layer a ON a.name = l.name || '.bias' LEFT JOIN layer b ON b.name = l.name || '.biases'
        WHERE l.biases IS NOT NULL
    ), entry AS (
        SELECT l.name, l.weights AS tensor FROM layer l UNION ALL SELECT b.name, b.biases FROM bias b
    )
    SELECT (SELECT array_agg(n.name ORDER BY n.name) FROM entry n), (SELECT array_agg(n.tensor ORDER BY n.name) FROM entry n),
        (SELECT jsonb_object_agg(b.name, b.layer) FROM bias b),
        (SELECT jsonb_object_agg(l.name, l.metadata) FROM layer l WHERE l.metadata <> '{}')
$$;
COMMENT ON FUNCTION gpuagent_store.layer_tensors(text, bigint, bigint) IS
    'tensors of an expert as of a version or a checkpoint under names that are unique: a layer''s name, its biases LAYER.bias unless a layer is called so; biases maps their names to layers, layers has metadata by layer; NULL when there are none';

CREATE FUNCTION gpuagent_store.safetensors_pairs(metadata jsonb, own jsonb, OUT keys text[], OUT vals text[])
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT array_agg(p.key ORDER BY p.key COLLATE "C"), array_agg(p.value ORDER BY p.key COLLATE "C")
    FROM (SELECT 'format' AS key, 'pt' AS value
          WHERE COALESCE(jsonb_typeof($1 -> 'format') <> 'string', true)
          UNION ALL
          SELECT m.key, m.value #>> '{}' FROM jsonb_each($1) m
          WHERE jsonb_typeof(m.value) = 'string' AND m.key NOT LIKE 'gpuagent.%'
          UNION ALL
          SELECT 'gpuagent.' || o.key, o.value #>> '{}' FROM jsonb_each($2) o WHERE jsonb_typeof(o.value) <> 'null') p
$$;
COMMENT ON FUNCTION gpuagent_store.safetensors_pairs(jsonb, jsonb) IS
    'the __metadata__ of a safetensors file, whose values are strings: strings of metadata as they are, then own under gpuagent.KEY, what is typed as JSON text';

CREATE FUNCTION gpuagent_store.safetensors_plan(expert text, version bigint,
    OUT names text[], OUT tensors bytea[], OUT keys text[], OUT vals text[])
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    e record;
    t record;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('expert', $1);
    SELECT * INTO e FROM gpuagent.expert x WHERE x.expert = $1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'expert "%" does not exist', $1 USING ERRCODE = 'undefined_object';
    END IF;
    IF $2 > e.version OR $2 < 1 THEN
        RAISE EXCEPTION 'expert "%" has no version %', $1, $2
            USING ERRCODE = 'undefined_object', DETAIL = format('Its newest version is %s.', e.version);
    END IF;
    SELECT * INTO t FROM gpuagent_store.layer_tensors($1, $2, NULL);
    IF t.names IS NULL THEN
        RAISE EXCEPTION 'expert "%" has no weights at version %', $1, COALESCE($2, e.version) USING ERRCODE = 'undefined_object';
    END IF;
    names := t.names;
    tensors := t.tensors;
    SELECT p.keys, p.vals INTO safetensors_plan.keys, safetensors_plan.vals
        FROM gpuagent_store.safetensors_pairs(e.metadata, jsonb_build_object('expert', $1, 'version', COALESCE($2, e.version),
            'metadata', e.metadata, 'config', jsonb_strip_nulls(jsonb_build_object('domain', e.domain, 'parameter_count', e.parameter_count,
            'learning_rate', e.learning_rate, 'architecture', e.architecture)), 'biases', t.biases, 'layers', t.layers)) p;
END
$$;
COMMENT ON FUNCTION gpuagent_store.safetensors_plan(text, bigint) IS
    'names and tensors of an expert as of a version (NULL: newest), and the metadata, for a safetensors file; 42704 when there is nothing';

CREATE FUNCTION gpuagent.export_safetensors(expert text, path text, version bigint DEFAULT NULL, overwrite boolean DEFAULT false)
    RETURNS TABLE (file text, tensors bigint, nbytes bigint, sha256 text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM gpuagent_store.require_name('path', $2);
    RETURN QUERY SELECT x.file, x.items, x.nbytes, x.sha256
        FROM gpuagent_store.safetensors_plan($1, $3) p,
             gpuagent_store.export_tensors($2, p.names, p.tensors, p.keys, p.vals, COALESCE($4, false), 5000000000) x;
END
$$;
COMMENT ON FUNCTION gpuagent.export_safetensors(text, text, bigint, boolean) IS
    'writes an expert as of a version (NULL: newest) to PATH.safetensors below gpuagent.storage_path, above 5 GB to shards with an index; a row per file; nbytes is the size of the file; needs pg_write_server_files; 58P02 when it exists and overwrite is false';

CREATE FUNCTION gpuagent.safetensors_bytes(expert text, version bigint DEFAULT NULL) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT gpuagent_store.pack_tensors(p.names, p.tensors, p.keys, p.vals) FROM gpuagent_store.safetensors_plan($1, $2) p
$$;
COMMENT ON FUNCTION gpuagent.safetensors_bytes(text, bigint) IS
    'the file that export_safetensors would write, as a value, for clients without rights on files; 54000 from 1 GB on';

CREATE FUNCTION gpuagent_store.safetensors_files(path text) RETURNS SETOF text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stem text := regexp_replace(path, '\.safetensors(\.index\.json)?$', '');
    index text := stem || '.safetensors.index.json';
    map jsonb;
    bad text;
BEGIN
    IF path <> index AND (gpuagent_store.path_exists(stem || '.safetensors') OR NOT gpuagent_store.path_exists(index)) THEN
        RETURN NEXT stem || '.safetensors';
        RETURN;
    END IF;
    BEGIN
        map := gpuagent_store.read_text(index)::jsonb -> 'weight_map';
    EXCEPTION WHEN invalid_text_representation THEN
        map := NULL;
    END;
    IF map IS NULL OR jsonb_typeof(map) <> 'object'
        OR EXISTS (SELECT FROM jsonb_each(map) m WHERE jsonb_typeof(m.value) <> 'string' OR m.value #>> '{}' !~ '^[^/]+\.safetensors$') THEN
        RAISE EXCEPTION 'invalid index of safetensors files'
            USING ERRCODE = 'data_corrupted', DETAIL = format('The weight_map of "%s" is not an object from tensors to files beside it.', index);
    END IF;
    SELECT min(format('Tensor "%s" is in %s by the index and in %s by the files.', COALESCE(m.key, h.name),
        COALESCE('"' || m.value || '"', 'none'), COALESCE('"' || h.file || '"', 'another or none'))) INTO bad
        FROM jsonb_each_text(map) m
        FULL JOIN (SELECT f.file, h.name FROM (SELECT DISTINCT value FROM jsonb_each_text(map)) f (file),
                       gpuagent_store.safetensors_header(regexp_replace(path, '[^/]*$', '') || f.file, NULL) h) h
            ON h.name = m.key AND h.file = m.value
        WHERE m.key IS NULL OR h.name IS NULL;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'invalid index of safetensors files' USING ERRCODE = 'data_corrupted', DETAIL = bad;
    END IF;
    RETURN QUERY SELECT DISTINCT regexp_replace(path, '[^/]*$', '') || m.value FROM jsonb_each_text(map) m ORDER BY 1;
END
$$;
COMMENT ON FUNCTION gpuagent_store.safetensors_files(text) IS
    'the files of a model: PATH.safetensors, or the shards that PATH.safetensors.index.json names, after checking that they hold what it says';

CREATE FUNCTION gpuagent_store.bias_layers(names text[], biases jsonb)
    RETURNS TABLE (layer text, weight bigint, bias bigint)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF (SELECT count(*) FROM jsonb_each($2) b LEFT JOIN unnest($1) t (name) ON t.name = b.key
            LEFT JOIN unnest($1) l (name) ON l.name = b.value #>> '{}'
            WHERE t.name IS NULL OR l.name IS NULL OR jsonb_typeof(b.value) <> 'string' OR $2 ? (b.value #>> '{}')) > 0
        OR EXISTS (SELECT FROM jsonb_each_text($2) b GROUP BY b.value HAVING count(*) > 1)
    THEN
        RAISE EXCEPTION 'invalid metadata of a safetensors file'
            USING ERRCODE = 'data_corrupted', DETAIL = '"gpuagent.biases" does not map tensors to other tensors, one each.';
    END IF;
    RETURN QUERY
        WITH entry AS (SELECT t.name, t.i FROM unnest($1) WITH ORDINALITY t (name, i)),
            bias AS (SELECT b.value AS layer, e.i FROM jsonb_each_text($2) b JOIN entry e ON e.name = b.key)
        SELECT e.name, e.i, b.i FROM entry e LEFT JOIN bias b ON b.layer = e.name
        WHERE NOT $2 ? e.name ORDER BY e.name COLLATE "C";
END
$$;
COMMENT ON FUNCTION gpuagent_store.bias_layers(text[], jsonb) IS
    'layers among tensors, with the places of weights and biases in names; biases is the object {"tensor of biases": "layer"}; XX001 when it does not fit';

CREATE FUNCTION gpuagent_store.json_of(pairs jsonb, key text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    value jsonb;
BEGIN
    value := COALESCE((pairs ->> key)::jsonb, '{}');
    IF jsonb_typeof(value) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_text_representation', MESSAGE = 'not an object';
    END IF;
    RETURN value;
EXCEPTION WHEN data_exception THEN
    RAISE EXCEPTION 'invalid metadata of a safetensors file'
        USING ERRCODE = 'data_corrupted', DETAIL = format('"%s" is not a JSON object.', key);
END
$$;
COMMENT ON FUNCTION gpuagent_store.json_of(jsonb, text) IS
    'the JSON object that a string of a safetensors file''s __metadata__ holds, {} when absent; XX001 when it is none';

CREATE FUNCTION gpuagent_store.restore_config(expert text, pairs jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    config jsonb;
    metadata jsonb;
BEGIN
    config := gpuagent_store.json_of(pairs, 'gpuagent.config');
    SELECT COALESCE((pairs ->> 'gpuagent.metadata')::jsonb, jsonb_object_agg(p.key, p.value), '{}') INTO metadata
        FROM jsonb_each(pairs) p WHERE p.key NOT LIKE 'gpuagent.%';
    PERFORM gpuagent.store_expert_config(expert, config ->> 'domain', (config ->> 'parameter_count')::bigint,
        (config ->> 'learning_rate')::float8, config -> 'architecture', metadata);
EXCEPTION WHEN data_exception THEN
    RAISE EXCEPTION 'invalid metadata of a safetensors file'
        USING ERRCODE = 'data_corrupted', DETAIL = '"gpuagent.config" or "gpuagent.metadata" is not what an export writes: ' || SQLERRM || '.';
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_config(text, jsonb) IS
    'configuration and metadata of an expert from the __metadata__ of a safetensors file';

CREATE FUNCTION gpuagent.import_safetensors(expert text, path text DEFAULT NULL, data bytea DEFAULT NULL)
    RETURNS TABLE (version bigint, tensors bigint, nbytes bigint, new_bytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    source text;
    r record;
    is_new boolean;
    pairs jsonb := '{}';
    names text[] := '{}';
    hashes bytea[] := '{}';
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('expert', $1);
    IF ($2 IS NULL) = ($3 IS NULL) THEN
        RAISE EXCEPTION 'exactly one of path and data must be given' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    is_new := NOT EXISTS (SELECT FROM gpuagent.expert e WHERE e.expert = $1);
    nbytes := 0;
    new_bytes := 0;
    FOR source IN SELECT f FROM gpuagent_store.safetensors_files($2) f WHERE $2 IS NOT NULL UNION ALL SELECT NULL WHERE $2 IS NULL LOOP
        FOR r IN SELECT * FROM gpuagent_store.load_safetensors(source, $3) LOOP
            IF r.kind = 'metadata' THEN
                pairs := jsonb_build_object(r.name, r.value) || pairs;
            ELSE
                names := names || r.name;
                hashes := hashes || r.tensor;
                nbytes := nbytes + r.nbytes;
                new_bytes := new_bytes + r.new_bytes;
            END IF;
        END LOOP;
    END LOOP;
    IF cardinality(names) = 0 THEN
        RAISE EXCEPTION 'the safetensors file has no tensors' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    IF is_new THEN
        PERFORM gpuagent_store.restore_config($1, pairs);
    END IF;
    FOR r IN SELECT * FROM gpuagent_store.bias_layers(names, gpuagent_store.json_of(pairs, 'gpuagent.biases')) LOOP
        version := gpuagent.store_weights_ref($1, r.layer, hashes[r.weight], hashes[r.bias]);
    END LOOP;
    UPDATE gpuagent.weight_version w SET metadata = m.value
        FROM jsonb_each(gpuagent_store.json_of(pairs, 'gpuagent.layers')) m
        WHERE w.expert = $1 AND w.layer = m.key AND w.version = import_safetensors.version;
    tensors := cardinality(names);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION gpuagent.import_safetensors(text, text, bytea) IS
    'stores every tensor of a safetensors file as a layer of an expert, all as one new version; exactly one of path (PATH.safetensors or PATH.safetensors.index.json below gpuagent.storage_path, needs pg_read_server_files) and data; a new expert gets the metadata too; new_bytes: added to the store; XX001 with the reason for an invalid file';
