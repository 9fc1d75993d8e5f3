-- CHECKPOINTS: create, resolve, alias, verify
CREATE FUNCTION gpuagent_store.lock_checkpoints(OUT last bigint, OUT last_import bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    SELECT h.last, h.last_import INTO last, last_import FROM gpuagent_store.checkpoint_head h FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO gpuagent_store.checkpoint_head AS h (last, last_import)
        SELECT coalesce(max(k.id), 0), coalesce(max(k.id) FILTER (WHERE k.kind = 'import'), 0) FROM gpuagent.checkpoint k
        RETURNING h.last, h.last_import INTO last, last_import;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.lock_checkpoints() IS
    'until the end of the transaction no other one makes or removes checkpoints; 40001 when one did since this one''s snapshot';

CREATE FUNCTION gpuagent_store.require_in_checkpoint(checkpoint bigint, objects text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_objects text[];
    missing text;
BEGIN
    IF checkpoint IS NULL THEN
        RAISE EXCEPTION 'checkpoint must not be NULL' USING ERRCODE = '22004';
    END IF;
    SELECT k.objects INTO found_objects FROM gpuagent.checkpoint k WHERE k.id = checkpoint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint % does not exist', checkpoint USING ERRCODE = '42704';
    END IF;
    SELECT o INTO missing FROM unnest(objects) o
    WHERE NOT gpuagent_store.object_covered(found_objects, o)
        OR (split_part(o, ':', 1) IN ('swarm', 'expert', 'graph') AND NOT EXISTS (
            SELECT FROM gpuagent.checkpoint_item i
            WHERE i.object = o AND i.from_seq <= checkpoint AND (i.to_seq IS NULL OR checkpoint < i.to_seq)))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'checkpoint % does not contain "%"', checkpoint, missing
            USING ERRCODE = '42704',
                DETAIL = 'It covers ' || coalesce(array_to_string(found_objects, ', '), 'everything') || '.';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_in_checkpoint(bigint, text[]) IS
    '42704 when the checkpoint does not exist or does not contain one of the object addresses';

CREATE FUNCTION gpuagent_store.require_live_objects(names text[]) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
BEGIN
    SELECT n INTO missing
    FROM (SELECT n, split_part(n, ':', 1) AS kind, substr(n, strpos(n, ':') + 1) AS name FROM unnest(names) n) w
    WHERE NOT CASE kind
        WHEN 'swarm' THEN EXISTS (SELECT FROM gpuagent.swarm s WHERE s.swarm = w.name)
        WHEN 'expert' THEN EXISTS (SELECT FROM gpuagent.expert e WHERE e.expert = w.name)
        ELSE EXISTS (SELECT FROM gpuagent.graph g WHERE g.graph = w.name)
    END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% "%" does not exist', split_part(missing, ':', 1), substr(missing, strpos(missing, ':') + 1)
            USING ERRCODE = '42704';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_live_objects(text[]) IS '42704 when one of the objects swarm:NAME, expert:NAME, graph:NAME does not exist';

CREATE FUNCTION gpuagent_store.checkpoint_raw_bytes(checkpoint bigint, objects text[]) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT coalesce(sum(gpuagent_store.agent_bytes(o.id, o.state, o.memory, o.metadata)), 0)::bigint
            FROM gpuagent_store.checkpoint_agent o
            WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
                AND (s.agents OR o.id ^@ ANY (s.prefixes)))
        + (SELECT coalesce(sum(gpuagent_store.node_bytes(o.graph, o.id, o.embedding, o.metadata)), 0)::bigint
            FROM gpuagent_store.checkpoint_node o
            WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
                AND ('graph' = ANY (s.kinds) OR 'graph:' || o.graph = ANY (s.names)))
        + (SELECT coalesce(sum(gpuagent_store.edge_bytes(o.graph, o.source, o.target, o.edge_type, o.metadata)), 0)::bigint
            FROM gpuagent_store.checkpoint_edge o
            WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
                AND ('graph' = ANY (s.kinds) OR 'graph:' || o.graph = ANY (s.names)))
        + (SELECT coalesce(sum(gpuagent_store.metric_bytes(o.run, o.key, o.object)), 0)::bigint
            FROM gpuagent_store.checkpoint_metric o
            WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
                AND 'metrics' = ANY (s.kinds))
        + (SELECT coalesce(sum(gpuagent_store.item_bytes(o.tensor, o.biases, o.body)), 0)::bigint
            FROM gpuagent.checkpoint_item o
            WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
                AND (split_part(o.object, ':', 1) = ANY (s.kinds) OR o.object = ANY (s.names)))
    FROM gpuagent_store.checkpoint_scope(objects) s
$$;
COMMENT ON FUNCTION gpuagent_store.checkpoint_raw_bytes(bigint, text[]) IS
    'bytes of the contents of a checkpoint within a scope: rows as stored, tensors without compression';

-- A table or partition that was put in place by DDL has rows older than the horizon that no checkpoint has seen: so
-- horizons hold for one set of tables only, and not for foreign ones, which have transaction ids of their own.
CREATE FUNCTION gpuagent_store.horizon_source() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
    WITH RECURSIVE part (oid) AS (
        SELECT to_regclass(name)::oid
        FROM unnest('{gpuagent.agent,gpuagent.graph_node,gpuagent.graph_edge,gpuagent.metric}'::text[]) t (name)
        UNION
        SELECT i.inhrelid FROM pg_inherits i JOIN part p ON i.inhparent = p.oid
    )
    SELECT CASE WHEN bool_or(c.relkind = 'f') THEN NULL
        ELSE gpuagent_store.xid_source() || '/' || string_agg(p.oid::text, ',' ORDER BY p.oid) END
    FROM part p JOIN pg_class c ON c.oid = p.oid);
END
$$;
COMMENT ON FUNCTION gpuagent_store.horizon_source() IS
    'what horizons that are stored with the same text hold for: this cluster, this database, these tables and partitions; NULL: none hold';

-- Checkpoints are made with the rights of the caller, who therefore may insert. Order and retention go by number and kind: a
-- row of a number that was never drawn would be the newest for ever, and automatic ones would neither be made nor pruned.
-- Whoever may update the table, as its owner and level admin, may do as pg_restore does.
CREATE FUNCTION gpuagent_store.check_new_checkpoint() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    drawn bigint;
BEGIN
    IF has_table_privilege(TG_RELID, 'UPDATE') THEN
        RETURN NEW;
    END IF;
    BEGIN
        drawn := currval(pg_get_serial_sequence(TG_RELID::regclass::text, 'id'));
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        drawn := NULL;
    END;
    IF NEW.id = drawn AND NEW.kind = 'manual' AND NEW.status = 'valid' AND NEW.exported_path IS NULL
        AND coalesce(NEW.horizon <= pg_snapshot_xmax(pg_current_snapshot()), true) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'permission denied to insert checkpoint %', NEW.id
        USING ERRCODE = '42501', DETAIL = 'Only administrators may write rows of checkpoints of other numbers and kinds than gpuagent.create_checkpoint() does.',
            HINT = 'Call gpuagent.create_checkpoint().';
END
$$;
COMMENT ON FUNCTION gpuagent_store.check_new_checkpoint() IS
    'trigger on gpuagent.checkpoint: 42501 for a row that create_checkpoint() would not write, unless the role may update the table';

-- In PL/pgSQL, which keeps its plans from one checkpoint to the next.
CREATE FUNCTION gpuagent_store.notify_checkpoint(checkpoint bigint, event text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('gpuagent_checkpoint', jsonb_build_object('checkpoint', k.id, 'uid', k.uid, 'kind', k.kind, 'label', k.label,
        'run', k.run, 'step', k.step, 'event', event, 'path', k.exported_path)::text)
    FROM gpuagent.checkpoint k WHERE k.id = checkpoint;
END
$$;
COMMENT ON FUNCTION gpuagent_store.notify_checkpoint(bigint, text) IS 'NOTIFY gpuagent_checkpoint: a checkpoint was created or exported';

-- The work of create_checkpoint, for its callers here: manual, safety and automatic checkpoints.
CREATE FUNCTION gpuagent_store.make_checkpoint(kind text, label text, objects text[], metadata jsonb, run text, step bigint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 SET row_security = off AS $$
#variable_conflict use_variable
DECLARE
    scope record;
    head record;
    source CONSTANT text := gpuagent_store.horizon_source();
    horizon xid8;
    same record;
    result bigint;
    steps text[];
    roles text[];
    numbers bigint[];
    changed record;
BEGIN
    SELECT * INTO scope FROM gpuagent_store.checkpoint_scope(objects);
    PERFORM gpuagent_store.progress('waiting');
    head := gpuagent_store.lock_checkpoints();
    IF scope.names <> '{}' THEN
        PERFORM gpuagent_store.require_live_objects(scope.names);
    END IF;

    SELECT k.horizon INTO horizon FROM gpuagent.checkpoint k
    WHERE k.horizon IS NOT NULL AND k.xid_source = source AND k.id > head.last_import
        AND (k.objects IS NULL OR gpuagent_store.scope_covers(k.objects, scope.objects))
    ORDER BY k.id DESC LIMIT 1;
    SELECT k.id, k.raw_bytes, ARRAY[k.agents, k.nodes, k.edges, k.metrics] AS counts INTO same FROM gpuagent.checkpoint k
    WHERE k.id = head.last AND k.status = 'valid' AND k.objects IS NOT DISTINCT FROM scope.objects;

    SELECT array_agg(s.step ORDER BY s.n), array_agg(s.role ORDER BY s.n) INTO steps, roles
    FROM gpuagent_store.capture_steps(
        scope.agents OR scope.prefixes <> '{}',
        'graph' = ANY (scope.kinds) OR EXISTS (SELECT FROM unnest(scope.names) n WHERE starts_with(n, 'graph:')),
        scope.kinds <> '{}' OR scope.names <> '{}',
        'metrics' = ANY (scope.kinds)) s;
    result := nextval(pg_get_serial_sequence('gpuagent.checkpoint', 'id'));
    numbers := gpuagent_store.run_on_snapshot(steps,
        result, horizon, scope.agents, scope.prefixes, scope.kinds, scope.names, same.counts);
    SELECT coalesce(sum(numbers[2 * r.n - 1]) FILTER (WHERE r.role = 'change'), 0) AS rows,
            coalesce(sum(greatest(numbers[2 * r.n], 0)) FILTER (WHERE r.role = 'change'), 0) AS gained,
            coalesce(sum(least(numbers[2 * r.n], 0)) FILTER (WHERE r.role = 'change'), 0) AS lost,
            sum(numbers[2 * r.n - 1]) FILTER (WHERE r.role = 'agents') AS agents,
            sum(numbers[2 * r.n - 1]) FILTER (WHERE r.role = 'nodes') AS nodes,
            sum(numbers[2 * r.n - 1]) FILTER (WHERE r.role = 'edges') AS edges,
            sum(numbers[2 * r.n - 1]) FILTER (WHERE r.role = 'metrics') AS metrics
        INTO changed FROM unnest(roles) WITH ORDINALITY r (role, n);
    IF changed.rows = 0 AND same.id IS NOT NULL
        AND (kind = 'safety' OR (label IS NULL AND metadata IS NULL AND run IS NULL AND step IS NULL)) THEN
        RETURN same.id;
    ELSIF changed.rows = 0 AND head.last = 0 AND kind = 'auto' THEN
        RETURN NULL;
    END IF;
    IF gpuagent_store.doom_pending() THEN
        PERFORM gpuagent_store.keep_tensor(t.hash)
        FROM gpuagent.checkpoint_item i CROSS JOIN LATERAL unnest(ARRAY[i.tensor, i.biases]) t (hash)
        WHERE i.from_seq = result AND t.hash IS NOT NULL;
    END IF;

    INSERT INTO gpuagent.checkpoint (id, parent, label, kind, run, step, objects, metadata,
        agents, nodes, edges, metrics, raw_bytes, new_bytes, horizon, xid_source)
    VALUES (result, (SELECT max(k.id) FROM gpuagent.checkpoint k), label, kind, run, step, scope.objects,
        coalesce(metadata, '{}'), changed.agents, changed.nodes, changed.edges, changed.metrics,
        CASE WHEN same.id IS NOT NULL THEN same.raw_bytes + changed.gained + changed.lost
            ELSE gpuagent_store.checkpoint_raw_bytes(result, scope.objects) END,
        changed.gained, numbers[1]::text::xid8, source);
    UPDATE gpuagent_store.checkpoint_head h SET last = result;
    PERFORM gpuagent_store.notify_checkpoint(result, 'created');
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.make_checkpoint(text, text, text[], jsonb, text, bigint) IS
    'create_checkpoint for a kind: manual, auto or safety; a safety checkpoint that would equal the newest one is not made, whatever its label; nor, NULL, a first automatic one of nothing';

CREATE FUNCTION gpuagent.create_checkpoint(label text DEFAULT NULL, objects text[] DEFAULT NULL, metadata jsonb DEFAULT NULL,
    run text DEFAULT NULL, step bigint DEFAULT NULL, export boolean DEFAULT false, quorum bigint DEFAULT 0)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    result bigint;
BEGIN
    IF quorum < 0 THEN
        RAISE EXCEPTION 'quorum must not be negative' USING ERRCODE = '22023';
    ELSIF quorum > 0 THEN
        RAISE EXCEPTION 'checkpoints cannot wait for peers'
            USING ERRCODE = '0A000', HINT = 'Leave quorum 0, and use synchronous replication to have copies elsewhere.';
    ELSIF label IS NOT NULL AND NOT gpuagent_store.valid_name(label) THEN
        PERFORM gpuagent_store.require_name('checkpoint label', label);
    ELSIF run IS NOT NULL AND NOT EXISTS (SELECT FROM gpuagent.run r WHERE r.run = run) THEN
        RAISE EXCEPTION 'run "%" does not exist', run
            USING ERRCODE = '42704', HINT = 'gpuagent.store_metrics() makes runs.';
    ELSIF export AND NOT has_function_privilege('gpuagent.export_checkpoint(bigint, boolean)', 'EXECUTE') THEN
        RAISE EXCEPTION 'permission denied to export checkpoints'
            USING ERRCODE = '42501', DETAIL = 'That needs level admin, and the rights of "pg_write_server_files" and "pg_read_server_files".',
                HINT = 'Leave export out, and let an administrator call gpuagent.export_checkpoint(), or set gpuagent.auto_export.';
    END IF;
    PERFORM gpuagent_store.progress_begin('create_checkpoint', label);
    result := gpuagent_store.make_checkpoint('manual', label, objects, metadata, run, step);
    PERFORM gpuagent_store.progress_end();
    IF export AND gpuagent_store.has_job_workers() THEN
        PERFORM gpuagent_store.queue_export(result);
    ELSIF export THEN
        PERFORM gpuagent.export_checkpoint(result);
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent.create_checkpoint(text, text[], jsonb, text, bigint, boolean, bigint) IS
    'records the objects (addresses such as agents, agents:run7/, swarm:NAME, swarms, expert:NAME, experts, graph:NAME, graphs, metrics; NULL: everything) as they are, all of one snapshot, and returns the checkpoint; writes only what changed since the previous one. When nothing did and label, metadata, run and step are NULL, returns the newest checkpoint and writes nothing. 42704: no such object or run; 22023: invalid address; export: a background worker then writes files, as export_checkpoint(wait => false) does, or, where there are none, this call';

CREATE FUNCTION gpuagent.resolve_checkpoint(reference text) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    result bigint;
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF reference IS NULL THEN
        RAISE EXCEPTION 'checkpoint reference must not be NULL' USING ERRCODE = '22004';
    ELSIF reference = 'latest' THEN
        SELECT max(k.id) INTO result FROM gpuagent.checkpoint k WHERE k.kind <> 'safety';
    ELSIF reference = 'latest-valid' THEN
        SELECT max(k.id) INTO result FROM gpuagent.checkpoint k WHERE k.kind <> 'safety' AND k.status = 'valid';
    ELSIF starts_with(reference, '@') THEN
        SELECT a.checkpoint INTO result FROM gpuagent.checkpoint_alias a WHERE a.alias = substr(reference, 2);
    ELSE
        IF reference ~ '^[0-9]{1,18}$' THEN
            SELECT k.id INTO result FROM gpuagent.checkpoint k WHERE k.id = reference::bigint;
        ELSIF reference ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
            SELECT k.id INTO result FROM gpuagent.checkpoint k WHERE k.uid = reference::uuid;
        END IF;
        IF result IS NULL THEN
            SELECT max(k.id) INTO result FROM gpuagent.checkpoint k WHERE k.label = reference;
        END IF;
    END IF;
    IF result IS NULL THEN
        RAISE EXCEPTION 'no checkpoint "%"', reference
            USING ERRCODE = '42704',
                HINT = 'A reference is latest, latest-valid, an id, @ALIAS, a uuid or a label.';
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent.resolve_checkpoint(text) IS
    'checkpoint by latest, latest-valid (safety checkpoints aside), id, @ALIAS, uuid or label (the newest with it); 42704 when there is none';

CREATE FUNCTION gpuagent.set_checkpoint_alias(alias text, checkpoint bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
BEGIN
    PERFORM gpuagent_store.require_name('checkpoint alias', alias);
    PERFORM gpuagent_store.lock_checkpoints();
    IF checkpoint IS NULL THEN
        DELETE FROM gpuagent.checkpoint_alias a WHERE a.alias = alias;
        RETURN;
    END IF;
    PERFORM gpuagent_store.require_in_checkpoint(checkpoint);
    INSERT INTO gpuagent.checkpoint_alias AS a (alias, checkpoint) VALUES (alias, checkpoint)
    ON CONFLICT ON CONSTRAINT checkpoint_alias_pkey DO UPDATE SET checkpoint = excluded.checkpoint;
END
$$;
COMMENT ON FUNCTION gpuagent.set_checkpoint_alias(text, bigint) IS
    'makes or moves an alias, which keeps its checkpoint from being removed; checkpoint NULL removes the alias; 42704: no such checkpoint';

-- Verification of what a checkpoint contains. quick: the tensors exist. full: they and the rows are intact.
CREATE FUNCTION gpuagent_store.verify_checkpoint(checkpoint bigint, level text, objects text[] DEFAULT NULL)
RETURNS TABLE (object text, status text, expected text, actual text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off SET row_security = off AS $$
#variable_conflict use_column
DECLARE
    scope record;
    item record;
BEGIN
    IF level NOT IN ('none', 'quick', 'full') OR level IS NULL THEN
        RAISE EXCEPTION 'invalid verification level "%"', level
            USING ERRCODE = '22023', HINT = 'Levels are none, quick and full.';
    ELSIF level = 'none' THEN
        RETURN;
    END IF;
    SELECT * INTO scope FROM gpuagent_store.checkpoint_scope(
        coalesce(objects, (SELECT k.objects FROM gpuagent.checkpoint k WHERE k.id = checkpoint)));
    FOR item IN
        WITH content AS MATERIALIZED (
            SELECT min(concat_ws(' ', i.object, nullif(i.part, ''))) AS address, t.hash,
                (SELECT s.nbytes FROM gpuagent_store.tensor s WHERE s.hash = t.hash LIMIT 1) AS nbytes
            FROM gpuagent.checkpoint_item i CROSS JOIN LATERAL unnest(ARRAY[i.tensor, i.biases]) t (hash)
            WHERE i.from_seq <= checkpoint AND (i.to_seq IS NULL OR checkpoint < i.to_seq) AND t.hash IS NOT NULL
                AND (split_part(i.object, ':', 1) = ANY (scope.kinds) OR i.object = ANY (scope.names))
            GROUP BY t.hash
        ), finding AS MATERIALIZED (
            SELECT p.tensor, p.problem FROM gpuagent_store.tensor_problems(
                ARRAY(SELECT c.hash FROM content c WHERE level = 'full' AND c.nbytes IS NOT NULL ORDER BY c.address, c.hash),
                ARRAY(SELECT c.nbytes FROM content c WHERE level = 'full' AND c.nbytes IS NOT NULL ORDER BY c.address, c.hash), false) p
        )
        SELECT c.address, c.hash, CASE WHEN c.nbytes IS NULL THEN 'missing' ELSE p.problem END AS problem
        FROM content c LEFT JOIN finding p ON p.tensor = c.hash ORDER BY c.address, c.hash
    LOOP
        actual := item.problem;
        IF actual IS NOT NULL THEN
            object := item.address;
            status := 'damaged';
            expected := encode(item.hash, 'hex');
            RETURN NEXT;
        END IF;
    END LOOP;
    IF level = 'full' THEN
        RETURN QUERY SELECT d.object, 'damaged', encode(d.expected, 'hex'), encode(d.found, 'hex')
            FROM gpuagent_store.damaged_rows(checkpoint, scope.agents, scope.prefixes, scope.kinds, scope.names) d;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.verify_checkpoint(bigint, text, text[]) IS
    'one row for each damaged or missing part of a checkpoint, none when all is well; level none, quick (tensors exist) or full (hashes of tensors and digests of rows are computed again)';

CREATE FUNCTION gpuagent_store.damaged_rows(checkpoint bigint, agents boolean, prefixes text[], kinds text[], names text[])
RETURNS TABLE (object text, expected bytea, found bytea)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'agents:' || o.id, o.digest, d.found
    FROM gpuagent_store.checkpoint_agent o CROSS JOIN LATERAL gpuagent_store.digest(
        o.id, o.state, o.memory, o.generation, o.fitness, o.metadata, o.version, o.created_at, o.updated_at, o.origin) d (found)
    WHERE (checkpoint IS NULL OR (o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)))
        AND (agents OR o.id ^@ ANY (prefixes)) AND d.found <> o.digest
    UNION ALL
    SELECT 'graph:' || o.graph || ' node ' || o.id, o.digest, d.found
    FROM gpuagent_store.checkpoint_node o CROSS JOIN LATERAL gpuagent_store.digest(
        o.graph, o.id, o.embedding, o.metadata, o.created_at) d (found)
    WHERE (checkpoint IS NULL OR (o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)))
        AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names)) AND d.found <> o.digest
    UNION ALL
    SELECT 'graph:' || o.graph || ' edge ' || o.source || ' ' || o.target, o.digest, d.found
    FROM gpuagent_store.checkpoint_edge o CROSS JOIN LATERAL gpuagent_store.digest(
        o.graph, o.source, o.target, o.edge_type, o.weight, o.metadata, o.created_at) d (found)
    WHERE (checkpoint IS NULL OR (o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)))
        AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names)) AND d.found <> o.digest
    UNION ALL
    SELECT 'metrics ' || o.id, o.digest, d.found
    FROM gpuagent_store.checkpoint_metric o CROSS JOIN LATERAL gpuagent_store.digest(
        o.id, o.run, o.key, o.step, o.value, o.object, o.recorded_at, o.created_at) d (found)
    WHERE (checkpoint IS NULL OR (o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)))
        AND 'metrics' = ANY (kinds) AND d.found <> o.digest
    UNION ALL
    SELECT concat_ws(' ', o.object, nullif(o.part, '')), o.digest, d.found
    FROM gpuagent.checkpoint_item o CROSS JOIN LATERAL gpuagent_store.digest(
        o.object, o.part, o.version, o.tensor, o.biases, o.body) d (found)
    WHERE (checkpoint IS NULL OR (o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)))
        AND (split_part(o.object, ':', 1) = ANY (kinds) OR o.object = ANY (names)) AND d.found <> o.digest
$$;
COMMENT ON FUNCTION gpuagent_store.damaged_rows(bigint, boolean, text[], text[], text[]) IS
    'rows of a checkpoint (NULL: of any) whose digest is not that of their columns';

-- Imports. Between the two calls the importer inserts open rows (from_seq = the checkpoint, to_seq NULL) into
-- checkpoint_item, checkpoint_agent, checkpoint_node, checkpoint_edge and checkpoint_metric, in the same transaction.
CREATE FUNCTION gpuagent_store.begin_import(objects text[], uid uuid, label text, metadata jsonb, run text, step bigint,
    created_at timestamptz, origin uuid)
RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
#variable_conflict use_variable
DECLARE
    scope record;
    result bigint;
BEGIN
    SELECT * INTO scope FROM gpuagent_store.checkpoint_scope(objects);
    PERFORM gpuagent_store.lock_checkpoints();
    IF EXISTS (SELECT FROM gpuagent.checkpoint k WHERE k.uid = uid) THEN
        RAISE EXCEPTION 'checkpoint % exists already', uid USING ERRCODE = '42710';
    END IF;
    result := nextval(pg_get_serial_sequence('gpuagent.checkpoint', 'id'));
    UPDATE gpuagent_store.checkpoint_agent o SET to_seq = result
        WHERE o.to_seq IS NULL AND (scope.agents OR o.id ^@ ANY (scope.prefixes));
    UPDATE gpuagent_store.checkpoint_node o SET to_seq = result
        WHERE o.to_seq IS NULL AND ('graph' = ANY (scope.kinds) OR 'graph:' || o.graph = ANY (scope.names));
    UPDATE gpuagent_store.checkpoint_edge o SET to_seq = result
        WHERE o.to_seq IS NULL AND ('graph' = ANY (scope.kinds) OR 'graph:' || o.graph = ANY (scope.names));
    UPDATE gpuagent_store.checkpoint_metric o SET to_seq = result
        WHERE o.to_seq IS NULL AND 'metrics' = ANY (scope.kinds);
    UPDATE gpuagent.checkpoint_item o SET to_seq = result
        WHERE o.to_seq IS NULL AND (split_part(o.object, ':', 1) = ANY (scope.kinds) OR o.object = ANY (scope.names));
    INSERT INTO gpuagent.checkpoint (id, uid, parent, label, kind, run, step, status, objects, metadata, created_at, origin)
    VALUES (result, uid, (SELECT max(k.id) FROM gpuagent.checkpoint k), label, 'import', run, step, 'incomplete',
        scope.objects, coalesce(metadata, '{}'), coalesce(created_at, now()), origin);
    UPDATE gpuagent_store.checkpoint_head h SET last = result, last_import = result;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.begin_import(text[], uuid, text, jsonb, text, bigint, timestamptz, uuid) IS
    'makes a checkpoint of kind import with no contents and status incomplete; 42710 when there is one with this uid';

CREATE FUNCTION gpuagent_store.finish_import(checkpoint bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
BEGIN
    UPDATE gpuagent.checkpoint k
    SET status = 'valid', raw_bytes = b.nbytes, new_bytes = b.nbytes
    FROM gpuagent_store.checkpoint_raw_bytes(finish_import.checkpoint,
        (SELECT c.objects FROM gpuagent.checkpoint c WHERE c.id = finish_import.checkpoint)) b (nbytes)
    WHERE k.id = finish_import.checkpoint AND k.kind = 'import' AND k.status = 'incomplete';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint % is not being imported', checkpoint USING ERRCODE = '55000';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.finish_import(bigint) IS 'marks an imported checkpoint valid, once its rows are in place';

CREATE FUNCTION gpuagent_store.newest_valid(objects text[]) RETURNS bigint
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    result bigint;
BEGIN
    SELECT k.id INTO result FROM gpuagent.checkpoint k
    WHERE k.status = 'valid' AND k.kind <> 'safety'
        AND (objects IS NULL OR gpuagent_store.scope_covers(k.objects, objects))
    ORDER BY k.id DESC LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no valid checkpoint%', coalesce(' of ' || array_to_string(objects, ', '), '')
            USING ERRCODE = '42704', HINT = 'Make one with gpuagent.create_checkpoint().';
    END IF;
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.newest_valid(text[]) IS
    'newest valid checkpoint that covers the objects (NULL: whatever it covers), safety checkpoints aside; 42704 when there is none';

CREATE FUNCTION gpuagent_store.existing_objects(objects text[]) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN objects IS NOT NULL THEN ARRAY(
        SELECT o FROM unnest(objects) o
        WHERE CASE split_part(o, ':', 1)
            WHEN 'swarm' THEN EXISTS (SELECT FROM gpuagent.swarm s WHERE 'swarm:' || s.swarm = o)
            WHEN 'expert' THEN EXISTS (SELECT FROM gpuagent.expert e WHERE 'expert:' || e.expert = o)
            WHEN 'graph' THEN EXISTS (SELECT FROM gpuagent.graph g WHERE 'graph:' || g.graph = o)
            ELSE true END) END
$$;
COMMENT ON FUNCTION gpuagent_store.existing_objects(text[]) IS
    'those of the addresses that exist now';
