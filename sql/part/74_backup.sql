
-- BACKUPS: the whole state as a tree of its own (doc/formats.md). PATH/backup-NUMBER-ID has the tables of one snapshot as
-- lines of JSON, PATH/data the chunks of all backups of PATH in packs, each chunk once. A backup is complete when it has its
-- name; nothing that has a name is ever changed.
CREATE FUNCTION gpuagent_store.write_tables(paths text[], queries text[],
    OUT file text, OUT items bigint, OUT nbytes bigint, OUT sha256 text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_write_tables' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 20;
COMMENT ON FUNCTION gpuagent_store.write_tables(text[], text[]) IS
    'write_lines of several queries, all on one snapshot that is taken now';

CREATE FUNCTION gpuagent_store.write_packs(temp text, folder text, index text, kept text, wanted text,
    OUT file text, OUT items bigint, OUT nbytes bigint, OUT sha256 text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_write_packs' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 20;
COMMENT ON FUNCTION gpuagent_store.write_packs(text, text, text, text, text) IS
    'puts the chunks whose hashes query wanted gives into new packs of folder, and where they are into a new file of lines, after the lines of query kept; a row per pack, then that of the index';

CREATE FUNCTION gpuagent_store.load_pack(path text, hashes bytea[], first bigint[], stored bigint[], nbytes bigint[],
    codecs bigint[], widths bigint[], store boolean) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_load_pack' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.load_pack(text, bytea[], bigint[], bigint[], bigint[], bigint[], bigint[], boolean) IS
    'checks chunks of a pack against their hashes and stores those that are missing; bytes stored; XX001 with the reason when one is damaged';

CREATE FUNCTION gpuagent_store.load_node(hash bytea, nbytes bigint, children bytea) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_load_node' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.load_node(bytea, bigint, bytea) IS 'stores a node of a tensor; XX001 when it does not have this hash';

CREATE FUNCTION gpuagent_store.load_tensor(hash bytea, dtype text, shape bigint[], root bytea) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_load_tensor' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.load_tensor(bytea, text, bigint[], bytea) IS
    'stores the row of a tensor; XX001 when it does not have this hash';

-- Tables in the order in which they can be loaded; rows in the order of their keys, so that equal states give equal files.
CREATE FUNCTION gpuagent_store.backup_tables() RETURNS TABLE (place bigint, name text, ordering text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 17 SET search_path = pg_catalog, pg_temp AS $$
    VALUES (1::bigint, 'gpuagent.agent', 'id'),
        (2, 'gpuagent.expert', 'expert'), (3, 'gpuagent.weight_version', 'expert, layer, version'),
        (4, 'gpuagent.graph', 'graph'), (5, 'gpuagent.graph_node', 'graph, id'), (6, 'gpuagent.graph_edge', 'graph, source, target, edge_type'),
        (7, 'gpuagent.run', 'run'), (8, 'gpuagent.metric', 'id'),
        (9, 'gpuagent.swarm', 'swarm'), (10, 'gpuagent.swarm_version', 'swarm, version'),
        (11, 'gpuagent.checkpoint', 'id'), (12, 'gpuagent.checkpoint_alias', 'alias'),
        (13, 'gpuagent.checkpoint_item', 'object, part, from_seq'), (14, 'gpuagent_store.checkpoint_agent', 'id, from_seq'),
        (15, 'gpuagent_store.checkpoint_node', 'graph, id, from_seq'),
        (16, 'gpuagent_store.checkpoint_edge', 'graph, source, target, edge_type, from_seq'),
        (17, 'gpuagent_store.checkpoint_metric', 'id, from_seq')
$$;
COMMENT ON FUNCTION gpuagent_store.backup_tables() IS 'tables whose rows are in a backup, in the order in which they are loaded';

-- Transactions of another server mean nothing, and its exports are not here.
CREATE FUNCTION gpuagent_store.backup_columns("table" text) RETURNS TABLE (name text, type text, generated boolean)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), a.attgenerated <> ''
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname = $1 AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attname <> ALL ('{version_xact,version_at,exported_path,exported_at}')
    ORDER BY a.attnum
$$;
COMMENT ON FUNCTION gpuagent_store.backup_columns(text) IS
    'columns of a table that a backup has, those that users added among them; generated ones are in it to be compared';

-- Everything as text, which its type reads again; tensors in their compact form, whose bits are those of the value.
CREATE FUNCTION gpuagent_store.backup_query("table" text, ordering text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('SELECT pg_catalog.row_to_json(x)::text FROM (SELECT %s FROM %s o ORDER BY %s) x',
        string_agg(format(CASE WHEN c.type ~ '^gpuagent\.(agent_state|embedding)\M' THEN 'o.%1$I::gpuagent.swarm_tensor::text AS %1$I'
            ELSE 'o.%1$I::text AS %1$I' END, c.name), ', '),
        $1, (SELECT string_agg(format('o.%I', trim(k)), ', ') FROM unnest(string_to_array($2, ',')) k))
    FROM gpuagent_store.backup_columns($1) c
$$;
COMMENT ON FUNCTION gpuagent_store.backup_query(text, text) IS 'query for the lines of a table in a backup';

CREATE FUNCTION gpuagent_store.backup_tensors_query() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT $ga$
        SELECT json_build_object('hash', encode(r.hash, 'hex'), 'dtype', t.dtype, 'shape', t.shape::text, 'nbytes', t.nbytes,
            'root', encode(t.root, 'hex'), 'object', r.object)::text
        FROM gpuagent_store.tensor_references(NULL, NULL) r
        LEFT JOIN LATERAL (SELECT * FROM gpuagent_store.tensor s WHERE s.hash = r.hash LIMIT 1) t ON true
        ORDER BY r.hash$ga$
$$;
COMMENT ON FUNCTION gpuagent_store.backup_tensors_query() IS 'query for the lines of all tensors that something refers to';

CREATE FUNCTION gpuagent_store.backup_nodes_query() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT $ga$
        WITH RECURSIVE entry (hash) AS (
            SELECT t.root FROM gpuagent_store.tensor_references(NULL, NULL) r
                CROSS JOIN LATERAL (SELECT * FROM gpuagent_store.tensor s WHERE s.hash = r.hash LIMIT 1) t
            WHERE t.nbytes > 1048576
            UNION
            SELECT substr(n.children, 32 * i + 1, 32)
            FROM entry e CROSS JOIN LATERAL (SELECT x.children FROM gpuagent_store.node x WHERE x.hash = e.hash LIMIT 1) n
                CROSS JOIN generate_series(0, octet_length(n.children) / 32 - 1) i)
        SELECT json_build_object('hash', encode(e.hash, 'hex'), 'nbytes', n.nbytes, 'children', encode(n.children, 'hex'))::text
        FROM entry e CROSS JOIN LATERAL (SELECT * FROM gpuagent_store.node x WHERE x.hash = e.hash LIMIT 1) n
        ORDER BY n.nbytes, e.hash$ga$
$$;
COMMENT ON FUNCTION gpuagent_store.backup_nodes_query() IS
    'query for the lines of all nodes below those tensors, children before parents';

-- What is in a database, by object. A restore ends with the same query, and compares.
CREATE FUNCTION gpuagent_store.backup_objects_query() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT $ga$
        SELECT json_build_object('object', u.object, 'rows', u.n, 'nbytes', u.nbytes)::text
        FROM (
            SELECT 'agents', count(*), coalesce(sum(gpuagent.nbytes(a.state)), 0) + coalesce(sum(gpuagent.nbytes(a.memory)), 0)
            FROM gpuagent.agent a
            UNION ALL
            SELECT 'graph:' || g.graph, 1 + (SELECT count(*) FROM gpuagent.graph_node n WHERE n.graph = g.graph)
                    + (SELECT count(*) FROM gpuagent.graph_edge e WHERE e.graph = g.graph),
                (SELECT coalesce(sum(gpuagent.nbytes(n.embedding)), 0) FROM gpuagent.graph_node n WHERE n.graph = g.graph)
            FROM gpuagent.graph g
            UNION ALL
            SELECT 'swarm:' || s.swarm, 1 + count(v.swarm), coalesce(sum(t.nbytes), 0)
            FROM gpuagent.swarm s LEFT JOIN gpuagent.swarm_version v ON v.swarm = s.swarm
                LEFT JOIN LATERAL (SELECT x.nbytes FROM gpuagent_store.tensor x WHERE x.hash = v.tensor LIMIT 1) t ON true
            GROUP BY s.swarm
            UNION ALL
            SELECT 'expert:' || e.expert, 1 + count(w.expert), coalesce(sum(t.nbytes), 0) + coalesce(sum(b.nbytes), 0)
            FROM gpuagent.expert e LEFT JOIN gpuagent.weight_version w ON w.expert = e.expert
                LEFT JOIN LATERAL (SELECT x.nbytes FROM gpuagent_store.tensor x WHERE x.hash = w.weights LIMIT 1) t ON true
                LEFT JOIN LATERAL (SELECT x.nbytes FROM gpuagent_store.tensor x WHERE x.hash = w.biases LIMIT 1) b ON true
            GROUP BY e.expert
            UNION ALL
            SELECT 'metrics', (SELECT count(*) FROM gpuagent.run) + count(*), 8 * count(*) FROM gpuagent.metric
            UNION ALL
            SELECT 'checkpoints', count(*) + (SELECT count(*) FROM gpuagent.checkpoint_alias) + (SELECT count(*) FROM gpuagent.checkpoint_item)
                    + (SELECT count(*) FROM gpuagent_store.checkpoint_agent) + (SELECT count(*) FROM gpuagent_store.checkpoint_node)
                    + (SELECT count(*) FROM gpuagent_store.checkpoint_edge) + (SELECT count(*) FROM gpuagent_store.checkpoint_metric),
                coalesce(sum(c.raw_bytes), 0)
            FROM gpuagent.checkpoint c) u (object, n, nbytes)
        WHERE u.n > 0 ORDER BY u.object COLLATE "C"$ga$
$$;
COMMENT ON FUNCTION gpuagent_store.backup_objects_query() IS
    'query for lines of all objects with their rows and raw bytes';

CREATE FUNCTION gpuagent_store.require_backup_path(path text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_name('path', path);
    -- Before names are added to it, so that the message has the path that was given.
    PERFORM gpuagent_store.path_exists(path);
    IF split_part(path, '/', 1) IN ('nvme_storage', 'cache', 'wal', 'agent', 'graph', 'swarm') THEN
        RAISE EXCEPTION 'invalid path "%"', path
            USING ERRCODE = 'invalid_parameter_value', DETAIL = format('Folder "%s" has another use.', split_part(path, '/', 1)),
                HINT = 'Choose another folder below gpuagent.storage_path, such as backups/nightly.';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_backup_path(text) IS
    '22023 for a path that cannot hold backups; 42501 without pg_read_server_files';

CREATE FUNCTION gpuagent_store.bad_backup(folder text, why text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the backup "%" is damaged', folder USING ERRCODE = 'data_corrupted', DETAIL = why;
END
$$;
COMMENT ON FUNCTION gpuagent_store.bad_backup(text, text) IS 'raises XX001 with a reason';

CREATE FUNCTION gpuagent_store.read_backup_manifest(folder text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lines text[] := string_to_array(gpuagent_store.read_text(folder || '/MANIFEST.json'), E'\n');
    content jsonb;
    missing text;
    files constant text := '^[a-z_]+(\.[a-z_]+)?\.jsonl$';
BEGIN
    IF cardinality(lines) <> 4 OR lines[1] <> '{"manifest":' OR lines[4] <> '' THEN
        PERFORM gpuagent_store.bad_backup(folder, 'Its manifest does not have the three lines of one.');
    ELSIF lines[3] <> ',"sha256":"' || encode(sha256(convert_to(lines[2], 'UTF8')), 'hex') || '"}' THEN
        PERFORM gpuagent_store.bad_backup(folder, 'Its manifest does not have the SHA-256 that it names.');
    END IF;
    BEGIN
        content := lines[2]::jsonb;
    EXCEPTION WHEN data_exception THEN
        PERFORM gpuagent_store.bad_backup(folder, 'Its manifest is not JSON.');
    END;
    IF content ->> 'format' IS DISTINCT FROM 'gpuagent backup' OR content ->> 'format_version' IS DISTINCT FROM '1' THEN
        PERFORM gpuagent_store.bad_backup(folder, format('Its format is "%s", version %s; this extension reads "gpuagent backup", version 1.',
            content ->> 'format', content ->> 'format_version'));
    ELSIF (jsonb_typeof(content -> 'files') = 'array' AND jsonb_typeof(content -> 'packs') = 'array' AND jsonb_typeof(content -> 'tables') = 'array'
            AND content ->> 'number' ~ '^[0-9]{1,10}$' AND content ->> 'uid' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$') IS NOT TRUE
        OR EXISTS (SELECT FROM jsonb_array_elements(content -> 'files') f
            WHERE (f ->> 'name' ~ files AND f ->> 'nbytes' ~ '^[0-9]{1,18}$' AND f ->> 'items' ~ '^[0-9]{1,18}$' AND f ->> 'sha256' ~ '^[0-9a-f]{64}$') IS NOT TRUE)
        OR EXISTS (SELECT FROM jsonb_array_elements(content -> 'packs') f
            WHERE (f ->> 'name' ~ '^[0-9a-f]{64}\.safetensors$' AND f ->> 'nbytes' ~ '^[0-9]{1,18}$') IS NOT TRUE)
        OR EXISTS (SELECT FROM jsonb_array_elements(content -> 'tables') t
            WHERE (t ->> 'name' ~ '^[a-z_]+\.[a-z_]+$' AND jsonb_typeof(t -> 'columns') = 'array') IS NOT TRUE)
    THEN
        PERFORM gpuagent_store.bad_backup(folder, 'Its manifest lacks number, uid, files, packs or tables, or one of them is not what it should be.');
    END IF;
    SELECT min(r.name) INTO missing
        FROM (SELECT b.name || '.jsonl' FROM gpuagent_store.backup_tables() b
              UNION ALL VALUES ('objects.jsonl'), ('tensor.jsonl'), ('node.jsonl'), ('chunk.jsonl')) r (name)
        WHERE (SELECT count(*) FROM jsonb_array_elements(content -> 'files') f WHERE f ->> 'name' = r.name) <> 1;
    IF missing IS NOT NULL THEN
        PERFORM gpuagent_store.bad_backup(folder, format('Its manifest does not have "%s" once.', missing));
    END IF;
    RETURN content;
END
$$;
COMMENT ON FUNCTION gpuagent_store.read_backup_manifest(text) IS 'content of the MANIFEST.json of a backup; XX001 with the reason when it is not whole';

-- quick: every file and pack is there with its size; full: with its SHA-256.
CREATE FUNCTION gpuagent_store.verify_backup(folder text, manifest jsonb, level text)
RETURNS TABLE (object text, status text, expected text, actual text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    entry record;
BEGIN
    FOR entry IN
        SELECT folder || '/' || (f ->> 'name') AS path, (f ->> 'nbytes')::bigint AS nbytes, f ->> 'sha256' AS sha256
        FROM jsonb_array_elements(manifest -> 'files') f
        UNION ALL
        SELECT regexp_replace(folder, '[^/]*$', 'data/') || (p ->> 'name'), (p ->> 'nbytes')::bigint, left(p ->> 'name', 64)
        FROM jsonb_array_elements(manifest -> 'packs') p
    LOOP
        object := entry.path;
        status := 'damaged';
        IF NOT gpuagent_store.path_exists(entry.path) THEN
            status := 'missing';
            expected := format('%s bytes', entry.nbytes);
            actual := NULL;
            RETURN NEXT;
        ELSIF gpuagent_store.file_size(entry.path) <> entry.nbytes THEN
            expected := format('%s bytes', entry.nbytes);
            actual := format('%s bytes', gpuagent_store.file_size(entry.path));
            RETURN NEXT;
        ELSIF level <> 'quick' THEN
            expected := entry.sha256;
            actual := gpuagent_store.file_sha256(entry.path);
            IF actual <> expected THEN
                RETURN NEXT;
            END IF;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.verify_backup(text, jsonb, text) IS
    'one row for each file of a backup that is missing or not what the manifest says: quick compares sizes, full SHA-256';

CREATE FUNCTION gpuagent_store.backup_folders(path text) RETURNS SETOF text
LANGUAGE sql VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    SELECT path || '/' || n FROM gpuagent_store.list_folder(path) n WHERE n ~ '^backup-[0-9]{10}-[0-9a-f]{8}$' ORDER BY n DESC
$$;
COMMENT ON FUNCTION gpuagent_store.backup_folders(text) IS 'complete backups of a path, newest first';

-- The newest backup whose chunks need not be written again: its index, and the packs that are there.
CREATE FUNCTION gpuagent_store.previous_backup(path text, OUT folder text, OUT packs text[])
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    manifest jsonb;
    entry jsonb;
    why text;
BEGIN
    FOR folder IN SELECT f FROM gpuagent_store.backup_folders(path) f LOOP
        BEGIN
            manifest := gpuagent_store.read_backup_manifest(folder);
            SELECT f INTO entry FROM jsonb_array_elements(manifest -> 'files') f WHERE f ->> 'name' = 'chunk.jsonl';
            IF gpuagent_store.file_sha256(folder || '/chunk.jsonl') IS DISTINCT FROM entry ->> 'sha256' THEN
                PERFORM gpuagent_store.bad_backup(folder, 'chunk.jsonl does not have the SHA-256 that the manifest names.');
            END IF;
            SELECT COALESCE(array_agg(p ->> 'name'), '{}') INTO packs FROM jsonb_array_elements(manifest -> 'packs') p
                WHERE gpuagent_store.path_exists(path || '/data/' || (p ->> 'name'))
                    AND gpuagent_store.file_size(path || '/data/' || (p ->> 'name')) = (p ->> 'nbytes')::bigint;
            RETURN;
        EXCEPTION WHEN data_corrupted OR undefined_file OR wrong_object_type THEN
            GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
            RAISE WARNING '%', SQLERRM USING DETAIL = why;
        END;
    END LOOP;
    folder := NULL;
    packs := '{}';
END
$$;
COMMENT ON FUNCTION gpuagent_store.previous_backup(text) IS
    'newest backup of a path whose manifest and index are whole (NULL: none), and those of its packs that are there';

CREATE FUNCTION gpuagent_store.write_backup_rows(temp text) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601'
    SET extra_float_digits = 1 SET bytea_output = 'hex' SET row_security = off SET gpuagent.compression = off SET jit = off AS $$
    SELECT jsonb_agg(gpuagent_store.manifest_file(temp, w.file, w.items, w.nbytes, w.sha256))
    FROM (SELECT array_agg(temp || '/' || q.name || '.jsonl' ORDER BY q.place) AS paths, array_agg(q.query ORDER BY q.place) AS queries
          FROM (SELECT b.place, b.name, gpuagent_store.backup_query(b.name, b.ordering) FROM gpuagent_store.backup_tables() b
                UNION ALL VALUES (100, 'objects', gpuagent_store.backup_objects_query()), (101, 'tensor', gpuagent_store.backup_tensors_query()),
                    (102, 'node', gpuagent_store.backup_nodes_query())) q (place, name, query)) a,
        gpuagent_store.write_tables(a.paths, a.queries) w
$$;
COMMENT ON FUNCTION gpuagent_store.write_backup_rows(text) IS
    'writes the tables of a backup, all on one snapshot, and returns the files'' entries in the manifest';

CREATE FUNCTION gpuagent_store.write_backup(path text, temp text, number bigint, uid uuid) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET row_security = off SET jit = off AS $$
DECLARE
    t record;
    previous record;
    files jsonb;
    wrong text;
    wanted text;
    kept text;
    n bigint;
    added bigint := 0;
BEGIN
    PERFORM gpuagent_store.progress('tables');
    files := gpuagent_store.write_backup_rows(temp);
    SELECT j ->> 'object' INTO wrong FROM gpuagent_store.read_lines(temp || '/tensor.jsonl') l, LATERAL (SELECT l::jsonb AS j) x
        WHERE j ->> 'root' IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the store is damaged' USING ERRCODE = 'data_corrupted', DETAIL = format('The tensor of %s is missing.', wrong),
            HINT = 'gpuagent.verify_integrity() lists all that is missing.';
    END IF;

    -- Chunks are the entries that are not nodes. A tensor of no bytes has none.
    wanted := format($q$
        SELECT decode(r.l::jsonb ->> 'root', 'hex') AS hash FROM gpuagent_store.read_lines(%1$L) r (l) WHERE (r.l::jsonb ->> 'nbytes')::bigint > 0
        UNION
        SELECT decode(substr(n.j ->> 'children', 64 * i + 1, 64), 'hex')
        FROM (SELECT l::jsonb AS j FROM gpuagent_store.read_lines(%2$L) l OFFSET 0) n, generate_series(0, length(n.j ->> 'children') / 64 - 1) i
        EXCEPT
        SELECT decode(l::jsonb ->> 'hash', 'hex') FROM gpuagent_store.read_lines(%2$L) l$q$, temp || '/tensor.jsonl', temp || '/node.jsonl');
    previous := gpuagent_store.previous_backup(path);
    kept := 'SELECT NULL::text WHERE false';
    IF previous.folder IS NOT NULL THEN
        kept := format($q$
            SELECT k.l FROM gpuagent_store.read_lines(%L) k (l)
            WHERE k.l::jsonb ->> 'file' = ANY (%L::text[]) AND decode(k.l::jsonb ->> 'hash', 'hex') IN (%s)$q$,
            previous.folder || '/chunk.jsonl', previous.packs, wanted);
        wanted := wanted || format($q$
            EXCEPT
            SELECT decode(k.l::jsonb ->> 'hash', 'hex') FROM gpuagent_store.read_lines(%L) k (l) WHERE k.l::jsonb ->> 'file' = ANY (%L::text[])$q$,
            previous.folder || '/chunk.jsonl', previous.packs);
    END IF;
    EXECUTE format('SELECT count(*) FROM (%s) x', wanted) INTO n;
    PERFORM gpuagent_store.progress('chunks', 0, n);
    FOR t IN SELECT * FROM gpuagent_store.write_packs(temp, path || '/data', temp || '/chunk.jsonl', kept, wanted || ' ORDER BY 1')
    LOOP
        IF t.file = temp || '/chunk.jsonl' THEN
            files := files || gpuagent_store.manifest_file(temp, t.file, t.items, t.nbytes, t.sha256);
        ELSE
            added := added + t.nbytes;
        END IF;
    END LOOP;

    PERFORM gpuagent_store.write_text(temp || '/MANIFEST.json', gpuagent_store.manifest_text(jsonb_build_object(
        'format', 'gpuagent backup', 'format_version', 1, 'number', number, 'uid', uid, 'previous', split_part(previous.folder, '/', -1),
        'creator', gpuagent.version(), 'source', gpuagent_store.xid_source(), 'server', current_setting('server_version'),
        'encoding', getdatabaseencoding(), 'created_at', now(), 'files', files, 'new_bytes', added,
        'last_import', (SELECT h.last_import FROM gpuagent_store.checkpoint_head h),
        'tables', (SELECT jsonb_agg(jsonb_build_object('name', b.name, 'columns',
                (SELECT jsonb_agg(c.name) FROM gpuagent_store.backup_columns(b.name) c)) ORDER BY b.place) FROM gpuagent_store.backup_tables() b),
        'packs', (SELECT COALESCE(jsonb_agg(jsonb_build_object('name', p.name, 'nbytes', gpuagent_store.file_size(path || '/data/' || p.name))), '[]')
            FROM (SELECT DISTINCT l::jsonb ->> 'file' AS name FROM gpuagent_store.read_lines(temp || '/chunk.jsonl') l ORDER BY 1) p))));
    RETURN number;
END
$$;
COMMENT ON FUNCTION gpuagent_store.write_backup(text, text, bigint, uuid) IS
    'writes a backup into a private folder, and packs of the chunks that the previous one does not have';

CREATE FUNCTION gpuagent_store.backup_now(path text) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number bigint;
    uid uuid := gen_random_uuid();
    temp text;
    folder text;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_backup_path(path);
    PERFORM gpuagent_store.progress_begin('create_backup', path);
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.backup ' || path, 0), true, false);
    temp := gpuagent_store.temp_create(path);
    SELECT 1 + COALESCE(max(split_part(split_part(f, '/', -1), '-', 2)::bigint), 0) INTO number FROM gpuagent_store.backup_folders(path) f;
    folder := format('backup-%s-%s', lpad(number::text, 10, '0'), left(uid::text, 8));
    PERFORM gpuagent_store.write_backup(path, temp, number, uid);
    PERFORM gpuagent_store.temp_publish(temp, path || '/' || folder);
    PERFORM gpuagent_store.replace_text(path || '/latest', folder || E'\n');
    PERFORM gpuagent_store.progress_end();
    RETURN number;
END
$$;
COMMENT ON FUNCTION gpuagent_store.backup_now(text) IS 'the work of create_backup';

CREATE FUNCTION gpuagent_store.run_backup(job bigint, arguments jsonb, carry jsonb) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('done', true, 'path', arguments -> 'path', 'number', gpuagent_store.backup_now(arguments ->> 'path'))
$$;
COMMENT ON FUNCTION gpuagent_store.run_backup(bigint, jsonb, jsonb) IS 'create_backup as a job';

CREATE FUNCTION gpuagent.create_backup(path text, wait boolean DEFAULT true) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF COALESCE(wait, true) THEN
        RETURN gpuagent_store.backup_now(path);
    END IF;
    -- What would fail at once should not wait for a worker to say so.
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_backup_path(path);
    RETURN gpuagent_store.queue_job('backup', path, jsonb_build_object('path', path));
END
$$;
COMMENT ON FUNCTION gpuagent.create_backup(text, boolean) IS
    'writes everything of this database, as of one snapshot, as a backup into folder PATH below gpuagent.storage_path, and returns its number there; wait => false: as a job, whose number it returns. Chunks that the previous backup in PATH has are not written again. Needs pg_write_server_files and pg_read_server_files; XX001 when the store is damaged; a backup appears complete or not at all';

-- RESTORING
CREATE FUNCTION gpuagent_store.backup_folder(path text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text;
BEGIN
    PERFORM gpuagent_store.require_backup_path(path);
    IF path ~ '(^|/)backup-[0-9]{10}-[0-9a-f]{8}$' THEN
        IF NOT gpuagent_store.path_exists(path) THEN
            RAISE EXCEPTION 'there is no backup "%"', path USING ERRCODE = 'undefined_file',
                HINT = 'Paths are below gpuagent.storage_path.';
        END IF;
        RETURN path;
    ELSIF NOT gpuagent_store.path_exists(path || '/latest') THEN
        RAISE EXCEPTION 'there is no backup in "%"', path USING ERRCODE = 'undefined_file',
            HINT = 'Put the folder of another server below gpuagent.storage_path, and name it, or a backup-* in it.';
    END IF;
    name := rtrim(gpuagent_store.read_text(path || '/latest'), E'\n');
    IF name !~ '^backup-[0-9]{10}-[0-9a-f]{8}$' THEN
        PERFORM gpuagent_store.bad_backup(path, 'File "latest" does not name a backup.');
    ELSIF NOT gpuagent_store.path_exists(path || '/' || name) THEN
        RAISE EXCEPTION 'there is no backup "%"', path || '/' || name USING ERRCODE = 'undefined_file',
            DETAIL = format('File "%s/latest" names it.', path), HINT = 'Name one of the backup-* that are in the folder.';
    END IF;
    RETURN path || '/' || name;
END
$$;
COMMENT ON FUNCTION gpuagent_store.backup_folder(text) IS 'folder of a backup: itself, or the latest one of a path';

CREATE FUNCTION gpuagent_store.load_table("table" text, file text, columns jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
    names text;
    vals text;
    n bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM gpuagent_store.backup_tables() b WHERE b.name = $1) THEN
        RAISE EXCEPTION 'a backup has no table "%"', $1 USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT min(c) INTO wrong FROM jsonb_array_elements_text(columns) c
        WHERE NOT EXISTS (SELECT FROM gpuagent_store.backup_columns($1) h WHERE h.name = c);
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'column "%" of table % does not exist', wrong, $1 USING ERRCODE = 'undefined_column',
            HINT = 'Add the columns that the original has, or restore into a newer version of the extension.';
    END IF;
    SELECT string_agg(format('%I', h.name), ', '), string_agg(format('(x.j ->> %L)::%s', h.name, h.type), ', ') INTO names, vals
        FROM gpuagent_store.backup_columns($1) h
        WHERE NOT h.generated AND h.name IN (SELECT jsonb_array_elements_text(columns));
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM gpuagent_store.read_lines(%L) l CROSS JOIN LATERAL (SELECT l::jsonb AS j OFFSET 0) x',
        $1, names, vals, file);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION gpuagent_store.load_table(text, text, jsonb) IS 'inserts the rows of a file of lines; returns their number';

CREATE FUNCTION gpuagent_store.load_store(folder text, manifest jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
BEGIN
    SELECT min(COALESCE(l::jsonb ->> 'file', 'null')) INTO wrong FROM gpuagent_store.read_lines(folder || '/chunk.jsonl') l
        WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(manifest -> 'packs') p WHERE p ->> 'name' = l::jsonb ->> 'file');
    IF wrong IS NOT NULL THEN
        PERFORM gpuagent_store.bad_backup(folder, format('A chunk is in "%s", which is no pack of the manifest.', wrong));
    END IF;
    PERFORM gpuagent_store.progress('chunks', 0, (SELECT (f ->> 'items')::bigint FROM jsonb_array_elements(manifest -> 'files') f WHERE f ->> 'name' = 'chunk.jsonl'));
    PERFORM gpuagent_store.load_pack(regexp_replace(folder, '[^/]*$', 'data/') || p.file, p.hashes, p.first, p.stored, p.nbytes, p.codecs, p.widths, true)
    FROM (SELECT j ->> 'file' AS file, array_agg(decode(j ->> 'hash', 'hex') ORDER BY (j ->> 'first')::bigint) AS hashes,
              array_agg((j ->> 'first')::bigint ORDER BY (j ->> 'first')::bigint) AS first,
              array_agg((j ->> 'stored')::bigint ORDER BY (j ->> 'first')::bigint) AS stored,
              array_agg((j ->> 'nbytes')::bigint ORDER BY (j ->> 'first')::bigint) AS nbytes,
              array_agg((j ->> 'codec')::bigint ORDER BY (j ->> 'first')::bigint) AS codecs,
              array_agg((j ->> 'width')::bigint ORDER BY (j ->> 'first')::bigint) AS widths
          FROM gpuagent_store.read_lines(folder || '/chunk.jsonl') l CROSS JOIN LATERAL (SELECT l::jsonb AS j OFFSET 0) x GROUP BY 1) p;
    PERFORM gpuagent_store.load_node(decode(x.j ->> 'hash', 'hex'), (x.j ->> 'nbytes')::bigint, decode(x.j ->> 'children', 'hex'))
        FROM gpuagent_store.read_lines(folder || '/node.jsonl') l CROSS JOIN LATERAL (SELECT l::jsonb AS j OFFSET 0) x;
    PERFORM gpuagent_store.load_tensor(decode(x.j ->> 'hash', 'hex'), x.j ->> 'dtype', (x.j ->> 'shape')::bigint[], decode(x.j ->> 'root', 'hex'))
        FROM gpuagent_store.read_lines(folder || '/tensor.jsonl') l CROSS JOIN LATERAL (SELECT l::jsonb AS j OFFSET 0) x;
END
$$;
COMMENT ON FUNCTION gpuagent_store.load_store(text, jsonb) IS 'chunks, nodes and tensors of a backup into the store, each checked against its hash';

-- Rows are what a transaction with the rights of the caller could have written; what no constraint says is checked here.
CREATE FUNCTION gpuagent_store.check_restored(folder text, manifest jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wrong text;
    now_there text[];
    damaged record;
BEGIN
    SELECT min(format('%s: %s', r.object, g.gap)) INTO wrong
        FROM gpuagent_store.tensor_references(NULL, NULL) r CROSS JOIN LATERAL (SELECT gpuagent_store.tensor_gap(r.hash) AS gap OFFSET 0) g
        WHERE g.gap IS NOT NULL;
    IF wrong IS NULL THEN
        SELECT min(format('swarm "%s" has version %s and no such row', s.swarm, s.current)) INTO wrong FROM gpuagent.swarm s
            WHERE s.current <> COALESCE((SELECT max(v.version) FROM gpuagent.swarm_version v WHERE v.swarm = s.swarm), s.current)
                OR s.current < 0;
    END IF;
    IF wrong IS NULL THEN
        SELECT min(format('expert "%s" has version %s and newer weights', e.expert, e.version)) INTO wrong FROM gpuagent.expert e
            WHERE e.version < (SELECT max(w.version) FROM gpuagent.weight_version w WHERE w.expert = e.expert) OR e.version < 0;
    END IF;
    IF wrong IS NULL THEN
        EXECUTE format('SELECT array_agg(l) FROM (%s) x (l)', gpuagent_store.backup_objects_query()) INTO now_there;
        SELECT min(l) INTO wrong FROM gpuagent_store.read_lines(folder || '/objects.jsonl') l WHERE l <> ALL (now_there);
        IF wrong IS NULL AND cardinality(now_there) <> (SELECT count(*) FROM gpuagent_store.read_lines(folder || '/objects.jsonl') l) THEN
            wrong := 'there are objects that objects.jsonl does not have';
        END IF;
    END IF;
    IF wrong IS NOT NULL THEN
        PERFORM gpuagent_store.bad_backup(folder, 'Its files do not fit together: ' || wrong || '.');
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.check_restored(text, jsonb) IS
    'XX001 when what was restored is not what the backup has: tensors that are referred to, newest versions, rows and bytes of objects';

-- A row of a checkpoint that was damaged in the original must not become whole by being written anew.
CREATE FUNCTION gpuagent_store.check_digests(folder text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    r record;
BEGIN
    FOR t IN SELECT b.name, string_agg(format('o.%1$I::text = x.j ->> %1$L', trim(k)), ' AND ') AS keys
        FROM gpuagent_store.backup_tables() b, unnest(string_to_array(b.ordering, ',')) k
        WHERE b.ordering LIKE '%from\_seq' GROUP BY b.name
    LOOP
        FOR r IN EXECUTE format($q$
            SELECT o.from_seq, o.to_seq FROM %1$s o JOIN (SELECT l::jsonb AS j FROM gpuagent_store.read_lines(%2$L) l OFFSET 0) x ON %3$s
            WHERE o.digest::text <> x.j ->> 'digest'$q$, t.name, format('%s/%s.jsonl', folder, t.name), t.keys)
        LOOP
            UPDATE gpuagent.checkpoint c SET status = 'damaged' WHERE c.id >= r.from_seq AND (r.to_seq IS NULL OR c.id < r.to_seq);
            RAISE WARNING 'a row of % that checkpoint % wrote was damaged before the backup', t.name, r.from_seq;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.check_digests(text) IS
    'compares digests of restored rows of checkpoints with those in a backup; checkpoints with damaged rows become damaged, with a warning';

CREATE FUNCTION gpuagent_store.require_empty() RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    found boolean;
BEGIN
    FOR t IN SELECT b.name FROM gpuagent_store.backup_tables() b ORDER BY b.place LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', t.name) INTO found;
        IF found THEN
            RAISE EXCEPTION 'a backup is restored into an empty database only'
                USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = format('Table %s has rows.', t.name),
                    HINT = 'Restore into a new database, with CREATE EXTENSION gpuagent and gpuagent.setup(), and move from there what you need.';
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_empty() IS '55000 when a table that a backup has is not empty';

CREATE FUNCTION gpuagent_store.load_backup(folder text, manifest jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601'
    SET extra_float_digits = 1 SET bytea_output = 'hex' SET row_security = off SET jit = off SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    t record;
BEGIN
    PERFORM gpuagent_store.load_store(folder, manifest);
    PERFORM gpuagent_store.progress('tables');
    FOR t IN SELECT b.name, (SELECT m -> 'columns' FROM jsonb_array_elements(manifest -> 'tables') m WHERE m ->> 'name' = b.name LIMIT 1) AS columns
        FROM gpuagent_store.backup_tables() b ORDER BY b.place
    LOOP
        IF t.columns IS NULL THEN
            PERFORM gpuagent_store.bad_backup(folder, format('Its manifest does not have table %s.', t.name));
        END IF;
        PERFORM gpuagent_store.load_table(t.name, format('%s/%s.jsonl', folder, t.name), t.columns);
    END LOOP;
    PERFORM setval(pg_get_serial_sequence('gpuagent.metric', 'id'), m.top) FROM (SELECT max(x.id) AS top FROM gpuagent.metric x) m WHERE m.top > 0;
    PERFORM setval(pg_get_serial_sequence('gpuagent.checkpoint', 'id'), m.top)
        FROM (SELECT GREATEST(max(x.id), (SELECT max(i.from_seq) FROM gpuagent.checkpoint_item i),
                (SELECT max(a.from_seq) FROM gpuagent_store.checkpoint_agent a)) AS top FROM gpuagent.checkpoint x) m WHERE m.top > 0;
    UPDATE gpuagent_store.checkpoint_head h
        SET last = COALESCE((SELECT max(c.id) FROM gpuagent.checkpoint c), 0), last_import = COALESCE((manifest ->> 'last_import')::bigint, 0);
    PERFORM gpuagent_store.check_restored(folder, manifest);
    IF manifest ->> 'encoding' = getdatabaseencoding() THEN
        PERFORM gpuagent_store.check_digests(folder);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.load_backup(text, jsonb) IS 'everything of a verified backup into empty tables, in one transaction';

CREATE FUNCTION gpuagent.restore_backup(path text, dry_run boolean DEFAULT false)
RETURNS TABLE (object text, action text, rows bigint, nbytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    folder text;
    manifest jsonb;
    problem record;
    why text;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF NOT COALESCE($2, false) AND current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'restore_backup() must run in a READ COMMITTED transaction'
            USING ERRCODE = 'active_sql_transaction', DETAIL = 'It has to see what others wrote until it held its locks.',
                HINT = 'Begin the transaction with BEGIN ISOLATION LEVEL READ COMMITTED, or use dry_run.';
    END IF;
    PERFORM gpuagent_store.progress_begin('restore_backup', $1);
    PERFORM gpuagent_store.progress('verifying');
    folder := gpuagent_store.backup_folder($1);
    manifest := gpuagent_store.read_backup_manifest(folder);
    SELECT * INTO problem FROM gpuagent_store.verify_backup(folder, manifest, 'full') LIMIT 1;
    IF FOUND THEN
        PERFORM gpuagent_store.bad_backup(folder, format('%s is %s: expected %s, found %s.', problem.object, problem.status,
            problem.expected, COALESCE(problem.actual, 'nothing')));
    END IF;
    BEGIN
        IF NOT COALESCE($2, false) THEN
            PERFORM gpuagent_store.lock_for_restore(true, '{expert,graph,metrics,swarm}', '{}');
            PERFORM gpuagent_store.lock_checkpoints();
            PERFORM gpuagent_store.require_empty();
            PERFORM gpuagent_store.load_backup(folder, manifest);
        END IF;
        RETURN QUERY SELECT l::jsonb ->> 'object', 'insert'::text, (l::jsonb ->> 'rows')::bigint, (l::jsonb ->> 'nbytes')::bigint
            FROM gpuagent_store.read_lines(folder || '/objects.jsonl') l;
        PERFORM gpuagent_store.progress_end();
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
        PERFORM gpuagent_store.bad_backup(folder, 'Its files do not fit together: ' || SQLERRM || '.');
    END;
END
$$;
COMMENT ON FUNCTION gpuagent.restore_backup(text, boolean) IS
    'restores a backup (PATH/backup-*, or the latest one of PATH, below gpuagent.storage_path) into a database without objects and checkpoints, in one transaction: every file is verified first, every hash when it is read; dry_run verifies and reports only. Result: rows and raw bytes by object. 55000 when the database is not empty, XX001 with the reason when the backup is damaged; needs pg_read_server_files';
