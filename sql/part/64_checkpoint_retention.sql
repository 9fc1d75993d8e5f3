-- CHECKPOINTS: removal, retention, differences
-- How rows of the interval tables are measured, and which checkpoints k cover a row o.
CREATE FUNCTION gpuagent_store.interval_tables() RETURNS TABLE (name text, size text, covered text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
VALUES
    ('gpuagent_store.checkpoint_agent',
     'gpuagent_store.agent_bytes(o.id, o.state, o.memory, o.metadata)',
     'k.agents OR o.id ^@ ANY (k.prefixes)'),
    ('gpuagent_store.checkpoint_node',
     'gpuagent_store.node_bytes(o.graph, o.id, o.embedding, o.metadata)',
     '''graph'' = ANY (k.kinds) OR ''graph:'' || o.graph = ANY (k.names)'),
    ('gpuagent_store.checkpoint_edge',
     'gpuagent_store.edge_bytes(o.graph, o.source, o.target, o.edge_type, o.metadata)',
     '''graph'' = ANY (k.kinds) OR ''graph:'' || o.graph = ANY (k.names)'),
    ('gpuagent_store.checkpoint_metric',
     'gpuagent_store.metric_bytes(o.run, o.key, o.object)',
     '''metrics'' = ANY (k.kinds)'),
    ('gpuagent.checkpoint_item',
     'gpuagent_store.item_bytes(o.tensor, o.biases, o.body)',
     'split_part(o.object, '':'', 1) = ANY (k.kinds) OR o.object = ANY (k.names)')
$$;
COMMENT ON FUNCTION gpuagent_store.interval_tables() IS
    'tables that hold contents of checkpoints: name, bytes of a row o, condition that a parsed scope k covers o';

CREATE FUNCTION gpuagent_store.remove_contents(removed bigint[], dry_run boolean)
RETURNS TABLE (checkpoint bigint, freed_bytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET row_security = off SET jit = off AS $$
#variable_conflict use_variable
DECLARE
    gone CONSTANT bigint[] := ARRAY(SELECT r FROM unnest(removed) r ORDER BY 1);
    whole bigint[];
    partial boolean;
    kind record;
    doomed text;
    answer text;
BEGIN
    IF gone = '{}' THEN
        RETURN;
    END IF;
    -- Checkpoints of everything are found by bisection; the others one by one, where there are any.
    whole := ARRAY(SELECT k.id FROM gpuagent.checkpoint k WHERE k.objects IS NULL AND k.id <> ALL (gone) ORDER BY 1);
    partial := EXISTS (SELECT FROM gpuagent.checkpoint k WHERE k.objects IS NOT NULL AND k.id <> ALL (gone));
    FOR kind IN SELECT t.name, t.size, t.covered FROM gpuagent_store.interval_tables() t LOOP
        doomed := '($2[width_bucket(o.from_seq - 1, $2) + 1] < o.to_seq
            OR (o.to_seq IS NULL AND $2[width_bucket(o.from_seq - 1, $2) + 1] IS NOT NULL)) IS NOT TRUE';
        IF partial THEN
            doomed := doomed || ' AND NOT EXISTS (
                SELECT FROM k WHERE k.id >= o.from_seq AND (o.to_seq IS NULL OR k.id < o.to_seq) AND (' || kind.covered || '))';
        END IF;
        answer := '$1[greatest(width_bucket(coalesce(o.to_seq - 1, 9223372036854775807), $1), 1)], (' || kind.size || ')::bigint';
        RETURN QUERY EXECUTE 'WITH k AS MATERIALIZED (
                SELECT c.id, s.agents, s.prefixes, s.kinds, s.names
                FROM gpuagent.checkpoint c CROSS JOIN LATERAL gpuagent_store.checkpoint_scope(c.objects) s
                WHERE c.objects IS NOT NULL AND c.id <> ALL ($1)
            ), rows (checkpoint, nbytes) AS ('
            || CASE WHEN dry_run THEN format('SELECT %s FROM %s o WHERE %s', answer, kind.name, doomed)
                ELSE format('DELETE FROM %s o WHERE %s RETURNING %s', kind.name, doomed, answer) END
            || ') SELECT r.checkpoint, sum(r.nbytes)::bigint FROM rows r GROUP BY 1' USING gone, whole;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.remove_contents(bigint[], boolean) IS
    'deletes (dry_run: only counts) the contents that no checkpoint but the named ones has; bytes by the newest of them that had it';

CREATE FUNCTION gpuagent.delete_checkpoint(checkpoint bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    aliases text;
BEGIN
    PERFORM gpuagent_store.lock_checkpoints();
    IF checkpoint IS NULL THEN
        RAISE EXCEPTION 'checkpoint must not be NULL' USING ERRCODE = '22004';
    END IF;
    PERFORM FROM gpuagent.checkpoint k WHERE k.id = checkpoint;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT string_agg(a.alias, ', ' ORDER BY a.alias) INTO aliases
        FROM gpuagent.checkpoint_alias a WHERE a.checkpoint = checkpoint;
    IF aliases IS NOT NULL THEN
        RAISE EXCEPTION 'checkpoint % has an alias', checkpoint
            USING ERRCODE = '2BP01', DETAIL = format('Aliases: %s.', aliases),
                HINT = 'Move them, or remove them with gpuagent.set_checkpoint_alias(alias, NULL).';
    END IF;
    IF NOT gpuagent_store.take_lock(gpuagent_store.export_key(checkpoint), false, false) THEN
        RAISE EXCEPTION 'checkpoint % is being exported', checkpoint
            USING ERRCODE = 'object_in_use', HINT = 'Try again when the export has ended, or cancel it.';
    END IF;
    PERFORM gpuagent_store.remove_contents(ARRAY[checkpoint], false);
    PERFORM gpuagent_store.discard_export(checkpoint);
    DELETE FROM gpuagent.checkpoint k WHERE k.id = checkpoint;
    RETURN true;
END
$$;
COMMENT ON FUNCTION gpuagent.delete_checkpoint(bigint) IS
    'removes a checkpoint and the contents that no other one has; its exported folder goes after gpuagent.discard_grace; false when absent; 2BP01 while an alias names it, 55006 while it is exported';

CREATE FUNCTION gpuagent_store.retention(keep_last bigint, keep_daily bigint, min_age interval, keep_rest boolean)
RETURNS TABLE (checkpoint bigint, label text, reason text, fixed boolean)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    WITH ranked AS (
        SELECT k.id, k.label, k.status, k.created_at, k.kind,
            row_number() OVER (PARTITION BY k.status = 'valid' ORDER BY k.id DESC) AS newer,
            row_number() OVER (PARTITION BY k.status = 'valid', k.created_at::date ORDER BY k.id DESC) AS newer_of_day,
            dense_rank() OVER (PARTITION BY k.status = 'valid' ORDER BY k.created_at::date DESC) AS days,
            row_number() OVER (PARTITION BY k.status = 'valid' ORDER BY k.kind = 'safety', k.id DESC) AS choice,
            (SELECT string_agg(a.alias, ', ' ORDER BY a.alias) FROM gpuagent.checkpoint_alias a WHERE a.checkpoint = k.id) AS aliases
        FROM gpuagent.checkpoint k
    ), judged AS (
        SELECT r.id, r.label, CASE
            WHEN r.aliases IS NOT NULL THEN 'alias ' || r.aliases
            WHEN r.status = 'valid' AND r.choice = 1 THEN 'newest valid'
            WHEN r.created_at > now() - min_age THEN 'min_age'
            WHEN r.status = 'valid' AND r.newer <= keep_last THEN 'keep_last'
            WHEN r.status = 'valid' AND r.newer_of_day = 1 AND r.days <= keep_daily THEN 'keep_daily'
            WHEN keep_rest THEN 'max_bytes' END AS reason
        FROM ranked r)
    SELECT j.id, j.label, j.reason, coalesce(j.reason NOT IN ('keep_last', 'keep_daily', 'max_bytes'), false) FROM judged j
$$;
COMMENT ON FUNCTION gpuagent_store.retention(bigint, bigint, interval, boolean) IS
    'why each checkpoint is kept (NULL: it is not); fixed: whatever max_bytes says';

CREATE FUNCTION gpuagent_store.stored_bytes() RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind record;
    part bigint;
    result bigint := 0;
BEGIN
    FOR kind IN SELECT t.name, t.size FROM gpuagent_store.interval_tables() t LOOP
        EXECUTE format('SELECT coalesce(sum((%s)::bigint), 0)::bigint FROM %s o', kind.size, kind.name) INTO part;
        result := result + part;
    END LOOP;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.stored_bytes() IS
    'bytes of the contents of all checkpoints, each version of an object once; tensors without compression';

CREATE FUNCTION gpuagent.prune_checkpoints(keep_last bigint DEFAULT NULL, keep_daily bigint DEFAULT NULL,
    min_age interval DEFAULT NULL, max_bytes bigint DEFAULT NULL, dry_run boolean DEFAULT false)
RETURNS TABLE (checkpoint bigint, label text, action text, reason text, freed_bytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 20
SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
#variable_conflict use_variable
DECLARE
    removed bigint[];
    candidates bigint[];
    over bigint[] := '{}';
    busy bigint[];
    freed jsonb;
    stored bigint;
    few int := 0;
    many int;
    middle int;
BEGIN
    IF least(keep_last, keep_daily, max_bytes) < 0 OR min_age < '0' THEN
        RAISE EXCEPTION 'rules must not be negative' USING ERRCODE = '22023';
    END IF;
    dry_run := coalesce(dry_run, false);
    IF dry_run THEN
        PERFORM gpuagent_store.require_setup();
    ELSE
        PERFORM gpuagent_store.lock_checkpoints();
    END IF;
    IF keep_last IS NULL AND keep_daily IS NULL AND min_age IS NULL AND max_bytes IS NULL THEN
        keep_last := current_setting('gpuagent.max_checkpoints')::bigint;
    END IF;
    SELECT coalesce(array_agg(r.checkpoint) FILTER (WHERE r.reason IS NULL), '{}'),
            coalesce(array_agg(r.checkpoint ORDER BY r.checkpoint) FILTER (WHERE r.reason IS NOT NULL AND NOT r.fixed), '{}')
        INTO removed, candidates
        FROM gpuagent_store.retention(keep_last, keep_daily, min_age,
            keep_last IS NULL AND keep_daily IS NULL AND min_age IS NULL) r;
    -- Nobody waits for an export, and none loses its checkpoint: what is being exported stays for this time.
    busy := ARRAY(SELECT x FROM unnest(removed || candidates) x WHERE NOT gpuagent_store.take_lock(gpuagent_store.export_key(x), false, false));
    removed := ARRAY(SELECT x FROM unnest(removed) x WHERE x <> ALL (busy));
    candidates := ARRAY(SELECT x FROM unnest(candidates) x WHERE x <> ALL (busy) ORDER BY 1);
    IF max_bytes IS NOT NULL THEN
        -- The fewest of the oldest without which the rest fits.
        stored := gpuagent_store.stored_bytes();
        many := cardinality(candidates);
        WHILE few < many LOOP
            middle := (few + many) / 2;
            IF stored - (SELECT coalesce(sum(f.freed_bytes), 0)
                    FROM gpuagent_store.remove_contents(removed || candidates[:middle], true) f) <= max_bytes THEN
                many := middle;
            ELSE
                few := middle + 1;
            END IF;
        END LOOP;
        over := candidates[:few];
        removed := removed || over;
    END IF;
    SELECT jsonb_object_agg(f.checkpoint, f.nbytes) INTO freed
        FROM (SELECT r.checkpoint, sum(r.freed_bytes) AS nbytes FROM gpuagent_store.remove_contents(removed, dry_run) r
            WHERE r.checkpoint IS NOT NULL GROUP BY 1) f;
    RETURN QUERY
        SELECT r.checkpoint, r.label, CASE WHEN r.checkpoint = ANY (removed) THEN 'remove' ELSE 'keep' END,
            CASE WHEN r.checkpoint = ANY (over) THEN 'over max_bytes' WHEN r.checkpoint = ANY (busy) AND r.reason IS NULL THEN 'being exported' ELSE coalesce(r.reason, 'no rule keeps it') END,
            coalesce((freed ->> r.checkpoint::text)::bigint, 0)
        FROM gpuagent_store.retention(keep_last, keep_daily, min_age,
            keep_last IS NULL AND keep_daily IS NULL AND min_age IS NULL) r
        ORDER BY r.checkpoint DESC;
    IF NOT dry_run THEN
        PERFORM gpuagent_store.discard_export(r) FROM unnest(removed) r;
        DELETE FROM gpuagent.checkpoint k WHERE k.id = ANY (removed);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent.prune_checkpoints(bigint, bigint, interval, bigint, boolean) IS
    'removes checkpoints that no rule keeps: the newest keep_last, the newest of each of the last keep_daily days (UTC) that have one, those younger than min_age; without any of these max_bytes alone decides, without any rule the newest gpuagent.max_checkpoints stay. Then the oldest go until the contents of the rest are at most max_bytes. Aliased, young and the newest valid checkpoint always stay; damaged ones count for no rule. Result: keep or remove, why, and bytes of contents that only removed ones had';

CREATE FUNCTION gpuagent_store.diff_scope(a bigint, b bigint, objects text[]) RETURNS text[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    of_a text[];
    of_b text[];
    missing text;
BEGIN
    PERFORM gpuagent_store.require_in_checkpoint(a);
    SELECT k.objects INTO of_a FROM gpuagent.checkpoint k WHERE k.id = a;
    IF b IS NOT NULL THEN
        PERFORM gpuagent_store.require_in_checkpoint(b);
        SELECT k.objects INTO of_b FROM gpuagent.checkpoint k WHERE k.id = b;
    END IF;
    IF objects IS NOT NULL THEN
        SELECT s.objects INTO objects FROM gpuagent_store.checkpoint_scope(objects) s;
    ELSIF gpuagent_store.scope_covers(of_a, of_b) THEN
        objects := of_b;
    ELSIF gpuagent_store.scope_covers(of_b, of_a) THEN
        objects := of_a;
    ELSE
        RAISE EXCEPTION 'checkpoints % and % cover different objects', a, b
            USING ERRCODE = '22023', HINT = 'Name objects that both cover.';
    END IF;
    IF NOT gpuagent_store.scope_covers(of_a, objects) OR NOT gpuagent_store.scope_covers(of_b, objects) THEN
        RAISE EXCEPTION 'checkpoint % does not contain "%"',
            CASE WHEN gpuagent_store.scope_covers(of_a, objects) THEN b ELSE a END, array_to_string(objects, ', ')
            USING ERRCODE = '42704';
    END IF;
    RETURN objects;
END
$$;
COMMENT ON FUNCTION gpuagent_store.diff_scope(bigint, bigint, text[]) IS
    'what a difference of two checkpoints (b NULL: the present) compares: objects, or what both cover';

CREATE FUNCTION gpuagent_store.contents(checkpoint bigint, but_not bigint, agents boolean, prefixes text[], kinds text[], names text[])
RETURNS TABLE (object text, part text, hash bytea, digest bytea, nbytes bigint, tensor bytea, biases bytea)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
    SELECT 'agents', o.id, o.digest, o.digest,
        coalesce(pg_column_size(o.state), 0)::bigint + coalesce(pg_column_size(o.memory), 0) + pg_column_size(o.metadata), NULL::bytea, NULL::bytea
    FROM gpuagent_store.checkpoint_agent o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq) AND (agents OR o.id ^@ ANY (prefixes))
        AND (o.from_seq <= but_not AND (o.to_seq IS NULL OR but_not < o.to_seq)) IS NOT TRUE
    UNION ALL
    SELECT 'graph:' || o.graph, 'node:' || o.id, o.digest, o.digest,
        coalesce(pg_column_size(o.embedding), 0) + pg_column_size(o.metadata), NULL, NULL
    FROM gpuagent_store.checkpoint_node o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
        AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names))
        AND (o.from_seq <= but_not AND (o.to_seq IS NULL OR but_not < o.to_seq)) IS NOT TRUE
    UNION ALL
    SELECT 'graph:' || o.graph, 'edge:' || jsonb_build_array(o.source, o.target, o.edge_type)::text, o.digest, o.digest,
        8 + pg_column_size(o.metadata), NULL, NULL
    FROM gpuagent_store.checkpoint_edge o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
        AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names))
        AND (o.from_seq <= but_not AND (o.to_seq IS NULL OR but_not < o.to_seq)) IS NOT TRUE
    UNION ALL
    SELECT 'metrics', 'metric:' || o.id, o.digest, o.digest, 8, NULL, NULL
    FROM gpuagent_store.checkpoint_metric o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq) AND 'metrics' = ANY (kinds)
        AND (o.from_seq <= but_not AND (o.to_seq IS NULL OR but_not < o.to_seq)) IS NOT TRUE
    UNION ALL
    SELECT o.object, o.part, coalesce(o.tensor, o.digest),
        gpuagent_store.digest(o.tensor, o.biases, gpuagent_store.item_content(o.part, o.body)),
        gpuagent_store.item_bytes(o.tensor, o.biases, o.body), o.tensor, o.biases
    FROM gpuagent.checkpoint_item o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
        AND (split_part(o.object, ':', 1) = ANY (kinds) OR o.object = ANY (names))
        AND (o.from_seq <= but_not AND (o.to_seq IS NULL OR but_not < o.to_seq)) IS NOT TRUE
$$;
COMMENT ON FUNCTION gpuagent_store.contents(bigint, bigint, boolean, text[], text[], text[]) IS
    'parts of a checkpoint within a scope, without the rows that another checkpoint has as well (NULL: all)';

CREATE FUNCTION gpuagent_store.live_contents(agents boolean, prefixes text[], kinds text[], names text[])
RETURNS TABLE (object text, part text, hash bytea, digest bytea, nbytes bigint, tensor bytea, biases bytea)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
    SELECT 'agents', o.id, d.digest, d.digest,
        coalesce(pg_column_size(o.state), 0)::bigint + coalesce(pg_column_size(o.memory), 0) + pg_column_size(o.metadata), NULL::bytea, NULL::bytea
    FROM gpuagent.agent o CROSS JOIN LATERAL gpuagent_store.digest(o.id, o.state, o.memory, o.generation, o.fitness,
        o.metadata, o.version, o.created_at, o.updated_at, o.origin) d (digest)
    WHERE agents OR o.id ^@ ANY (prefixes)
    UNION ALL
    SELECT 'graph:' || o.graph, 'node:' || o.id, d.digest, d.digest,
        coalesce(pg_column_size(o.embedding), 0) + pg_column_size(o.metadata), NULL, NULL
    FROM gpuagent.graph_node o
        CROSS JOIN LATERAL gpuagent_store.digest(o.graph, o.id, o.embedding, o.metadata, o.created_at) d (digest)
    WHERE 'graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names)
    UNION ALL
    SELECT 'graph:' || o.graph, 'edge:' || jsonb_build_array(o.source, o.target, o.edge_type)::text, d.digest, d.digest,
        8 + pg_column_size(o.metadata), NULL, NULL
    FROM gpuagent.graph_edge o CROSS JOIN LATERAL gpuagent_store.digest(o.graph, o.source, o.target, o.edge_type,
        o.weight, o.metadata, o.created_at) d (digest)
    WHERE 'graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names)
    UNION ALL
    SELECT 'metrics', 'metric:' || o.id, d.digest, d.digest, 8, NULL, NULL
    FROM gpuagent.metric o CROSS JOIN LATERAL gpuagent_store.digest(o.id, o.run, o.key, o.step, o.value, o.object,
        o.recorded_at, o.created_at) d (digest)
    WHERE 'metrics' = ANY (kinds)
    UNION ALL
    SELECT o.object, o.part,
        coalesce(o.tensor, gpuagent_store.digest(o.object, o.part, o.version, o.tensor, o.biases, o.body)),
        gpuagent_store.digest(o.tensor, o.biases, gpuagent_store.item_content(o.part, o.body)),
        gpuagent_store.item_bytes(o.tensor, o.biases, o.body), o.tensor, o.biases
    FROM gpuagent_store.live_items(kinds, names) o
$$;
COMMENT ON FUNCTION gpuagent_store.live_contents(boolean, text[], text[], text[]) IS
    'parts of a scope as they are now, in the form of contents()';

-- Walks both trees where they differ: the shape of a tree follows from the number of bytes, so equal pieces stand at
-- equal places, also when rows were appended.
CREATE FUNCTION gpuagent_store.tensor_common_bytes(a bytea, b bytea) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE pair (a, b) AS (
        SELECT x.root, y.root
        FROM (SELECT t.root FROM gpuagent_store.tensor t WHERE t.hash = a LIMIT 1) x,
            (SELECT t.root FROM gpuagent_store.tensor t WHERE t.hash = b LIMIT 1) y
        UNION ALL
        SELECT substr(x.children, 32 * i + 1, 32), substr(y.children, 32 * i + 1, 32)
        FROM pair p
            CROSS JOIN LATERAL (SELECT n.children FROM gpuagent_store.node n WHERE n.hash = p.a LIMIT 1) x
            CROSS JOIN LATERAL (SELECT n.children FROM gpuagent_store.node n WHERE n.hash = p.b LIMIT 1) y
            CROSS JOIN generate_series(0, least(octet_length(x.children), octet_length(y.children)) / 32 - 1) i
        WHERE p.a <> p.b
    )
    SELECT coalesce(sum(coalesce(
            (SELECT n.nbytes FROM gpuagent_store.node n WHERE n.hash = p.b LIMIT 1),
            (SELECT c.nbytes FROM gpuagent_store.chunk c WHERE c.hash = p.b LIMIT 1),
            (SELECT d.nbytes FROM gpuagent_store.chunk_delta d WHERE d.hash = p.b LIMIT 1), 0)), 0)::bigint
    FROM pair p WHERE p.a = p.b
$$;
COMMENT ON FUNCTION gpuagent_store.tensor_common_bytes(bytea, bytea) IS
    'bytes of chunks that two tensors have at the same place; 0 when one is NULL';

CREATE FUNCTION gpuagent.checkpoint_diff(a bigint, b bigint DEFAULT NULL, objects text[] DEFAULT NULL)
RETURNS TABLE (object text, part text, change text, a_hash bytea, b_hash bytea, changed_bytes bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 100
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    scope record;
BEGIN
    PERFORM gpuagent_store.require_setup();
    SELECT * INTO scope FROM gpuagent_store.checkpoint_scope(gpuagent_store.diff_scope($1, $2, $3));
    RETURN QUERY
        SELECT object, part, CASE WHEN x.digest IS NULL THEN 'added' WHEN y.digest IS NULL THEN 'removed' ELSE 'changed' END,
            x.hash, y.hash, coalesce(y.nbytes, x.nbytes)
                - gpuagent_store.tensor_common_bytes(x.tensor, y.tensor) - gpuagent_store.tensor_common_bytes(x.biases, y.biases)
        FROM gpuagent_store.contents($1, $2, scope.agents, scope.prefixes, scope.kinds, scope.names) x
            FULL JOIN (
                SELECT * FROM gpuagent_store.contents($2, $1, scope.agents, scope.prefixes, scope.kinds, scope.names)
                WHERE $2 IS NOT NULL
                UNION ALL
                SELECT * FROM gpuagent_store.live_contents(scope.agents, scope.prefixes, scope.kinds, scope.names)
                WHERE $2 IS NULL) y USING (object, part)
        WHERE x.digest IS DISTINCT FROM y.digest
        ORDER BY object COLLATE "C", part COLLATE "C";
END
$$;
COMMENT ON FUNCTION gpuagent.checkpoint_diff(bigint, bigint, text[]) IS
    'what differs between checkpoints a and b (NULL: the present): added, removed or changed parts. part: an agent''s id; node:ID, edge:[source, target, type] or empty of a graph; config, state or layer:NAME of an expert; run:NAME or metric:ID. Hashes: of the tensor for swarms and layers (equal when only metadata or biases differ), else SHA-256 of the row. changed_bytes: the part in b, or in a when removed, without chunks of 1 MiB that both have';
