
-- VERIFICATION
CREATE FUNCTION gpuagent_store.tensor_gap(tensor bytea) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_tensor_gap' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.tensor_gap(bytea) IS
    'looks up every row below a stored tensor without reading contents: NULL when all are there, else what is missing';

CREATE FUNCTION gpuagent_store.tensor_nonfinite(tensor bytea) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_tensor_nonfinite' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.tensor_nonfinite(bytea) IS
    'number of NaN and infinite values of a stored tensor; NULL for dtypes other than F64, F32, F16 and BF16';

CREATE FUNCTION gpuagent_store.tensor_references(objects text[], checkpoint bigint) RETURNS TABLE (object text, hash bytea)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT min(r.object), r.hash FROM (
        SELECT 'swarm:' || v.swarm AS address, format('swarm:%s version %s', v.swarm, v.version) AS object, v.tensor AS hash
        FROM gpuagent.swarm_version v WHERE $2 IS NULL
        UNION ALL
        SELECT 'expert:' || w.expert, format('expert:%s layer %s version %s', w.expert, w.layer, w.version), h
        FROM gpuagent.weight_version w, unnest(ARRAY[w.weights, w.biases]) h WHERE $2 IS NULL
        UNION ALL
        SELECT i.object, concat_ws(' ', i.object, nullif(i.part, ''), 'checkpoint ' || i.from_seq), h
        FROM gpuagent.checkpoint_item i, unnest(ARRAY[i.tensor, i.biases]) h
        WHERE $2 IS NULL OR (i.from_seq <= $2 AND (i.to_seq IS NULL OR $2 < i.to_seq))) r
    WHERE r.hash IS NOT NULL AND gpuagent_store.object_covered($1, r.address)
    GROUP BY r.hash ORDER BY 1
$$;
COMMENT ON FUNCTION gpuagent_store.tensor_references(text[], bigint) IS
    'tensors that swarms, experts and checkpoints, or one checkpoint, refer to, each once with one who does';

-- The deep level of an export: what its files hold against the catalogue, whatever the manifest says. Rows are told by their
-- digests, computed from the files; tensors of swarms and experts by their hashes, likewise.
CREATE FUNCTION gpuagent_store.verify_contents(path text, manifest jsonb, checkpoint bigint)
    RETURNS TABLE (object text, status text, expected text, actual text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    k record;
    s record;
    t record;
    kind text;
    files text;
BEGIN
    SELECT c.uid, c.objects INTO k FROM gpuagent.checkpoint c WHERE c.id = verify_contents.checkpoint;
    IF manifest #>> '{checkpoint,uid}' <> k.uid::text THEN
        RETURN QUERY SELECT path, 'damaged', k.uid::text, manifest #>> '{checkpoint,uid}';
        RETURN;
    END IF;
    SELECT * INTO s FROM gpuagent_store.checkpoint_scope(k.objects);
    FOREACH kind IN ARRAY '{agents,nodes,edges,metrics,items}'::text[] LOOP
        SELECT * INTO t FROM gpuagent_store.checkpoint_rows(kind);
        SELECT string_agg(gpuagent_store.file_rows(path, j, kind), ' UNION ALL ') INTO files
            FROM jsonb_array_elements(manifest -> 'sections') j
            WHERE split_part(j ->> 'object', ':', 1) = CASE WHEN kind IN ('nodes', 'edges') THEN 'graph' ELSE kind END;
        RETURN QUERY EXECUTE format($q$
            SELECT %1$s, CASE WHEN f.digest IS NULL THEN 'missing' WHEN o.digest IS NULL THEN 'unexpected' ELSE 'damaged' END,
                encode(o.digest, 'hex'), encode(f.digest, 'hex')
            FROM (SELECT %2$s, gpuagent_store.digest(%3$s) AS digest FROM (%4$s) r) f
            FULL JOIN (SELECT %2$s, o.digest FROM %5$s o WHERE %6$s AND %7$s) o USING (%2$s)
            WHERE f.digest IS DISTINCT FROM o.digest ORDER BY 1$q$,
            t.name, t.key, t.columns, COALESCE(files, 'SELECT ' || t.columns || ' FROM ' || t.relation || ' WHERE false'), t.relation,
            gpuagent_store.within_checkpoint(checkpoint),
            CASE kind WHEN 'agents' THEN format('(%L OR o.id ^@ ANY (%L::text[]))', s.agents, s.prefixes)
                WHEN 'items' THEN format('gpuagent_store.object_covered(%L::text[], o.object)', k.objects)
                WHEN 'metrics' THEN format('gpuagent_store.object_covered(%L::text[], ''metrics'')', k.objects)
                ELSE format('gpuagent_store.object_covered(%L::text[], ''graph:'' || o.graph)', k.objects) END);
    END LOOP;
    RETURN QUERY
        SELECT g.section ->> 'object', 'damaged', 'the arrays of its lines', g.problem
        FROM (SELECT j, gpuagent_store.graph_problem(path, j) FROM jsonb_array_elements(manifest -> 'sections') j
              WHERE starts_with(j ->> 'object', 'graph:') OFFSET 0) g (section, problem)
        WHERE g.problem IS NOT NULL ORDER BY 1;
    RETURN QUERY
        SELECT COALESCE(f.object, o.object), CASE WHEN f.hash IS NULL THEN 'missing' ELSE 'unexpected' END,
            encode(o.hash, 'hex'), encode(f.hash, 'hex') || ' (' || f.names || ')'
        FROM (SELECT j ->> 'object' AS object, h.tensor AS hash, string_agg(h.name, ', ' ORDER BY h.name) AS names
              FROM jsonb_array_elements(manifest -> 'sections') j, jsonb_array_elements(j -> 'files') e,
                  gpuagent_store.safetensors_hashes(path || '/' || (e ->> 'name')) h
              WHERE split_part(j ->> 'object', ':', 1) IN ('swarm', 'expert') AND e ->> 'name' LIKE '%.safetensors' GROUP BY 1, 2) f
        FULL JOIN (SELECT DISTINCT i.object, h AS hash FROM gpuagent.checkpoint_item i, unnest(ARRAY[i.tensor, i.biases]) h
              WHERE h IS NOT NULL AND i.from_seq <= verify_contents.checkpoint AND (i.to_seq IS NULL OR verify_contents.checkpoint < i.to_seq)
                  AND gpuagent_store.object_covered(k.objects, i.object)) o ON o.object = f.object AND o.hash = f.hash
        WHERE f.hash IS NULL OR o.hash IS NULL ORDER BY 1, 2;
END
$$;
COMMENT ON FUNCTION gpuagent_store.verify_contents(text, jsonb, bigint) IS
    'one row for each row or tensor of an export that is not the catalogue''s: missing from the files, unexpected in them, or damaged';

CREATE FUNCTION gpuagent_store.verify_export(path text, level text, checkpoint bigint) RETURNS TABLE (object text, status text, expected text, actual text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    manifest jsonb;
    why text;
BEGIN
    manifest := gpuagent_store.read_manifest(path);
    RETURN QUERY SELECT v.* FROM gpuagent_store.verify_files(path, manifest, level) v;
    IF NOT FOUND AND level = 'deep' THEN
        RETURN QUERY SELECT v.* FROM gpuagent_store.verify_contents(path, manifest, checkpoint) v;
    END IF;
EXCEPTION
    WHEN undefined_file THEN
        RETURN QUERY SELECT path, 'missing', 'an exported checkpoint', SQLERRM;
    WHEN data_corrupted OR wrong_object_type OR data_exception OR undefined_object OR program_limit_exceeded THEN
        GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
        RETURN QUERY SELECT path, 'damaged', 'an exported checkpoint', concat_ws(': ', SQLERRM, nullif(why, ''));
END
$$;
COMMENT ON FUNCTION gpuagent_store.verify_export(text, text, bigint) IS
    'verify_files, and deep verify_contents, of the folder of a checkpoint, whose manifest may be missing or damaged';

CREATE FUNCTION gpuagent_store.integrity(level text, objects text[], checkpoint bigint)
    RETURNS TABLE (object text, status text, expected text, actual text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
#variable_conflict use_variable
DECLARE
    scope record;
    r record;
    tensors bigint := 0;
    exports bigint := 0;
    problems bigint := 0;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF level IS NULL OR level NOT IN ('quick', 'full', 'deep') THEN
        RAISE EXCEPTION 'invalid verification level "%"', level
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Levels are quick, full and deep.';
    END IF;
    SELECT * INTO scope FROM gpuagent_store.checkpoint_scope(objects);
    IF checkpoint IS NOT NULL THEN
        PERFORM gpuagent_store.require_in_checkpoint(checkpoint, objects);
    END IF;

    PERFORM gpuagent_store.progress_begin('verify_integrity', level);
    FOR r IN
        WITH reference AS MATERIALIZED (
            SELECT t.object, t.hash, (SELECT s.nbytes FROM gpuagent_store.tensor s WHERE s.hash = t.hash LIMIT 1) AS nbytes
            FROM gpuagent_store.tensor_references(scope.objects, checkpoint) t
        ), finding AS MATERIALIZED (
            SELECT p.tensor, p.problem, p.nonfinite FROM gpuagent_store.tensor_problems(
                ARRAY(SELECT f.hash FROM reference f WHERE level <> 'quick' ORDER BY f.object, f.hash),
                ARRAY(SELECT COALESCE(f.nbytes, 0) FROM reference f WHERE level <> 'quick' ORDER BY f.object, f.hash), level = 'deep') p
        )
        SELECT f.object, f.hash, CASE WHEN level = 'quick' THEN gpuagent_store.tensor_gap(f.hash) ELSE p.problem END AS problem, p.nonfinite
        FROM reference f LEFT JOIN finding p ON p.tensor = f.hash ORDER BY f.object, f.hash
    LOOP
        tensors := tensors + 1;
        object := r.object;
        expected := encode(r.hash, 'hex');
        actual := r.problem;
        IF actual IS NOT NULL THEN
            problems := problems + 1;
            status := 'damaged';
            RETURN NEXT;
        ELSIF r.nonfinite > 0 THEN
            status := 'nonfinite';
            expected := '0 values';
            actual := r.nonfinite || ' values';
            RETURN NEXT;
        END IF;
    END LOOP;

    IF level <> 'quick' THEN
        PERFORM gpuagent_store.progress('verifying rows');
        FOR r IN SELECT * FROM gpuagent_store.damaged_rows(checkpoint, scope.agents, scope.prefixes, scope.kinds, scope.names) d LOOP
            problems := problems + 1;
            object := r.object;
            status := 'damaged';
            expected := encode(r.expected, 'hex');
            actual := encode(r.found, 'hex');
            RETURN NEXT;
        END LOOP;
    END IF;
    IF level = 'deep' AND checkpoint IS NULL THEN
        RETURN QUERY SELECT 'agents:' || a.id, 'nonfinite', '0 values', concat_ws(' and ',
                CASE WHEN s.bad THEN 'some in state' END, CASE WHEN m.bad THEN 'some in memory' END)
            FROM gpuagent.agent a,
                LATERAL (SELECT CASE WHEN gpuagent.dtype(a.state) IN ('F64', 'F32', 'F16', 'BF16') THEN gpuagent.has_nonfinite(a.state) END) s (bad),
                LATERAL (SELECT CASE WHEN gpuagent.dtype(a.memory) IN ('F64', 'F32', 'F16', 'BF16') THEN gpuagent.has_nonfinite(a.memory) END) m (bad)
            WHERE (s.bad OR m.bad) AND (scope.agents OR a.id ^@ ANY (scope.prefixes)) ORDER BY a.id;
    END IF;

    IF pg_has_role('pg_read_server_files', 'USAGE') THEN
        PERFORM gpuagent_store.progress('verifying files');
        FOR r IN SELECT k.exported_path AS path, k.id FROM gpuagent.checkpoint k
            WHERE k.exported_path IS NOT NULL AND (checkpoint IS NULL OR k.id = checkpoint)
                AND (objects IS NULL OR gpuagent_store.scope_covers(k.objects, scope.objects)) ORDER BY k.id
        LOOP
            exports := exports + 1;
            FOR object, status, expected, actual IN SELECT * FROM gpuagent_store.verify_export(r.path, level, r.id) LOOP
                problems := problems + 1;
                RETURN NEXT;
            END LOOP;
        END LOOP;
    END IF;
    PERFORM gpuagent_store.progress_end();
    object := 'total';
    status := CASE WHEN problems = 0 THEN 'ok' ELSE 'damaged' END;
    expected := '0 problems';
    actual := format('%s problems in %s tensors and %s exports', problems, tensors, exports);
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION gpuagent_store.integrity(text, text[], bigint) IS 'the work of verify_integrity';

CREATE FUNCTION gpuagent.verify_integrity(level text DEFAULT 'quick', objects text[] DEFAULT NULL, checkpoint bigint DEFAULT NULL)
    RETURNS TABLE (object text, status text, expected text, found text)
LANGUAGE sql VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.object, i.status, i.expected, i.actual FROM gpuagent_store.integrity($1, $2, $3) i
$$;
COMMENT ON FUNCTION gpuagent.verify_integrity(text, text[], bigint) IS
    'checks what swarms, experts and checkpoints (or one checkpoint; or only objects, addresses as in create_checkpoint) refer to, and exported files where the caller may read them. quick: all rows and files are there; full: every hash is computed again; deep: also exported files against the catalogue, row by row and tensor by tensor, and values that are NaN or infinite, as rows of status nonfinite. One row a problem (damaged, missing, unexpected), then the row total with status ok or damaged';
