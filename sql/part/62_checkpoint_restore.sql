-- CHECKPOINTS: restore. A function for each kind compares what is with what a checkpoint has and writes the difference:
-- upserts and deletes, never TRUNCATE, so that older snapshots keep seeing what they saw. prefix NULL restores in
-- place; a prefix makes copies with it before their names, and nothing else is touched.
CREATE FUNCTION gpuagent_store.item_content(part text, body jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT body - CASE WHEN starts_with(part, 'layer:') THEN '{created_at,origin}'::text[] ELSE '{version_created_at}' END
$$;
COMMENT ON FUNCTION gpuagent_store.item_content(text, jsonb) IS
    'body of a checkpoint item without what a new version of the same content gets anew';

CREATE FUNCTION gpuagent_store.agents_address(id text, agents boolean, prefixes text[], prefix text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN agents AND prefix IS NULL THEN 'agents'
        WHEN agents THEN 'agents:' || prefix
        ELSE (SELECT 'agents:' || coalesce(prefix, '') || p FROM unnest(prefixes) p WHERE starts_with(id, p)) END
$$;
COMMENT ON FUNCTION gpuagent_store.agents_address(text, boolean, text[], text) IS
    'address under which a restore reports an agent of the checkpoint';

CREATE FUNCTION gpuagent_store.restore_plan(checkpoint bigint, agents boolean, prefixes text[], kinds text[], names text[], prefix text)
RETURNS TABLE (object text, action text, rows bigint, nbytes bigint)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT d.address, d.act, count(*), coalesce(sum(d.size), 0)::bigint
    FROM (
        SELECT gpuagent_store.agents_address(coalesce(o.id, a.id), agents, prefixes, prefix) AS address,
            CASE WHEN o.id IS NULL THEN 'delete' WHEN a.id IS NULL THEN 'insert'
                WHEN ROW(a.state, a.memory, a.generation, a.fitness, a.metadata, a.version, a.created_at, a.updated_at, a.origin)::record
                    *= ROW(o.state, o.memory, o.generation, o.fitness, o.metadata, o.version, o.created_at, o.updated_at, o.origin)::record
                THEN 'keep' ELSE 'update' END AS act,
            CASE WHEN o.id IS NULL THEN coalesce(pg_column_size(a.state), 0) + coalesce(pg_column_size(a.memory), 0) + pg_column_size(a.metadata)
                ELSE coalesce(pg_column_size(o.state), 0) + coalesce(pg_column_size(o.memory), 0) + pg_column_size(o.metadata) END AS size
        FROM (SELECT * FROM gpuagent_store.checkpoint_agent q
                WHERE q.from_seq <= checkpoint AND (q.to_seq IS NULL OR checkpoint < q.to_seq)
                    AND (agents OR q.id ^@ ANY (prefixes))) o
            FULL JOIN (SELECT * FROM gpuagent.agent l
                WHERE prefix IS NULL AND (agents OR l.id ^@ ANY (prefixes))) a ON a.id = o.id
        UNION ALL
        SELECT 'graph:' || coalesce(prefix, '') || coalesce(o.graph, a.graph),
            CASE WHEN o.id IS NULL THEN 'delete' WHEN a.id IS NULL THEN 'insert'
                WHEN ROW(a.embedding, a.metadata, a.created_at)::record *= ROW(o.embedding, o.metadata, o.created_at)::record
                THEN 'keep' ELSE 'update' END,
            coalesce(pg_column_size(CASE WHEN o.id IS NULL THEN a.embedding ELSE o.embedding END), 0)
                + pg_column_size(CASE WHEN o.id IS NULL THEN a.metadata ELSE o.metadata END)
        FROM (SELECT * FROM gpuagent_store.checkpoint_node q
                WHERE q.from_seq <= checkpoint AND (q.to_seq IS NULL OR checkpoint < q.to_seq)
                    AND ('graph' = ANY (kinds) OR 'graph:' || q.graph = ANY (names))) o
            FULL JOIN (SELECT * FROM gpuagent.graph_node l
                WHERE prefix IS NULL AND ('graph' = ANY (kinds) OR 'graph:' || l.graph = ANY (names))) a
            ON a.graph = o.graph AND a.id = o.id
        UNION ALL
        SELECT 'graph:' || coalesce(prefix, '') || coalesce(o.graph, a.graph),
            CASE WHEN o.graph IS NULL THEN 'delete' WHEN a.graph IS NULL THEN 'insert'
                WHEN ROW(a.weight, a.metadata, a.created_at)::record *= ROW(o.weight, o.metadata, o.created_at)::record
                THEN 'keep' ELSE 'update' END,
            8 + pg_column_size(CASE WHEN o.graph IS NULL THEN a.metadata ELSE o.metadata END)
        FROM (SELECT * FROM gpuagent_store.checkpoint_edge q
                WHERE q.from_seq <= checkpoint AND (q.to_seq IS NULL OR checkpoint < q.to_seq)
                    AND ('graph' = ANY (kinds) OR 'graph:' || q.graph = ANY (names))) o
            FULL JOIN (SELECT * FROM gpuagent.graph_edge l
                WHERE prefix IS NULL AND ('graph' = ANY (kinds) OR 'graph:' || l.graph = ANY (names))) a
            ON a.graph = o.graph AND a.source = o.source AND a.target = o.target AND a.edge_type = o.edge_type
        UNION ALL
        SELECT 'metrics',
            CASE WHEN o.id IS NULL THEN 'delete' WHEN a.id IS NULL THEN 'insert'
                WHEN ROW(a.run, a.key, a.step, a.value, a.object, a.recorded_at, a.created_at)::record
                    *= ROW(o.run, o.key, o.step, o.value, o.object, o.recorded_at, o.created_at)::record
                THEN 'keep' ELSE 'update' END, 8
        FROM (SELECT * FROM gpuagent_store.checkpoint_metric q
                WHERE q.from_seq <= checkpoint AND (q.to_seq IS NULL OR checkpoint < q.to_seq)
                    AND 'metrics' = ANY (kinds)) o
            FULL JOIN (SELECT * FROM gpuagent.metric l WHERE prefix IS NULL AND 'metrics' = ANY (kinds)) a ON a.id = o.id
        UNION ALL
        SELECT CASE WHEN prefix IS NULL OR coalesce(o.object, a.object) = 'metrics' THEN coalesce(o.object, a.object)
                ELSE regexp_replace(o.object, '^([a-z]+:)', '\1' || replace(prefix, '\', '\\')) END,
            CASE WHEN o.object IS NULL THEN 'delete' WHEN a.object IS NULL THEN 'insert'
                WHEN ROW(a.tensor, a.biases, gpuagent_store.item_content(a.part, a.body))::record
                    *= ROW(o.tensor, o.biases, gpuagent_store.item_content(o.part, o.body))::record
                THEN 'keep' ELSE 'update' END,
            gpuagent_store.item_bytes(coalesce(o.tensor, a.tensor), coalesce(o.biases, a.biases), coalesce(o.body, a.body))
        FROM (SELECT * FROM gpuagent.checkpoint_item q
                WHERE q.from_seq <= checkpoint AND (q.to_seq IS NULL OR checkpoint < q.to_seq)
                    AND (split_part(q.object, ':', 1) = ANY (kinds) OR q.object = ANY (names))) o
            FULL JOIN (SELECT * FROM gpuagent_store.live_items(kinds, names) l WHERE prefix IS NULL) a
            ON a.object = o.object AND a.part = o.part
    ) d (address, act, size)
    GROUP BY d.address, d.act
    ORDER BY d.address, d.act;
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_plan(bigint, boolean, text[], text[], text[], text) IS
    'what a restore of a scope would do: rows to insert, update, delete and keep, by object; a part of an expert is a row';

CREATE FUNCTION gpuagent_store.require_no_copies(checkpoint bigint, agents boolean, prefixes text[], kinds text[], names text[], prefix text)
RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    taken text;
BEGIN
    PERFORM gpuagent_store.require_name('prefix', prefix);
    SELECT n.address INTO taken FROM (
        SELECT 'agents:' || prefix || o.id, prefix || o.id,
            EXISTS (SELECT FROM gpuagent.agent a WHERE a.id = prefix || o.id)
        FROM gpuagent_store.checkpoint_agent o
        WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq) AND (agents OR o.id ^@ ANY (prefixes))
        UNION ALL
        SELECT i.kind || ':' || prefix || i.name, prefix || i.name,
            CASE i.kind
            WHEN 'swarm' THEN EXISTS (SELECT FROM gpuagent.swarm s WHERE s.swarm = prefix || i.name)
            WHEN 'expert' THEN EXISTS (SELECT FROM gpuagent.expert e WHERE e.expert = prefix || i.name)
            WHEN 'graph' THEN EXISTS (SELECT FROM gpuagent.graph g WHERE g.graph = prefix || i.name)
            ELSE EXISTS (SELECT FROM gpuagent.run r WHERE r.run = prefix || i.name) END
        FROM (SELECT DISTINCT CASE WHEN o.object = 'metrics' THEN 'run' ELSE split_part(o.object, ':', 1) END,
                CASE WHEN o.object = 'metrics' THEN substr(o.part, 5) ELSE substr(o.object, strpos(o.object, ':') + 1) END
            FROM gpuagent.checkpoint_item o
            WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
                AND (split_part(o.object, ':', 1) = ANY (kinds) OR o.object = ANY (names))) i (kind, name)
    ) n (address, name, exists)
    WHERE n.exists OR NOT gpuagent_store.valid_name(n.name)
    ORDER BY n.exists, n.address LIMIT 1;
    IF FOUND THEN
        PERFORM gpuagent_store.require_name('name of a copy', substr(taken, strpos(taken, ':') + 1));
        RAISE EXCEPTION '"%" exists already', taken
            USING ERRCODE = '42710', HINT = 'Choose another new_prefix, or delete the earlier copies.';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_no_copies(bigint, boolean, text[], text[], text[], text) IS
    '42710 when an object exists under the name that a copy would get; 22023 when such a name would be invalid';

CREATE FUNCTION gpuagent_store.restore_agents(checkpoint bigint, agents boolean, prefixes text[], prefix text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF prefix IS NULL THEN
        DELETE FROM gpuagent.agent a
        WHERE (agents OR a.id ^@ ANY (prefixes)) AND NOT EXISTS (
            SELECT FROM gpuagent_store.checkpoint_agent o
            WHERE o.id = a.id AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq));
        UPDATE gpuagent.agent a
        SET state = o.state, memory = o.memory, generation = o.generation, fitness = o.fitness, metadata = o.metadata,
            version = o.version, created_at = o.created_at, updated_at = o.updated_at, origin = o.origin
        FROM gpuagent_store.checkpoint_agent o
        WHERE o.id = a.id AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
            AND (agents OR o.id ^@ ANY (prefixes))
            AND ROW(a.state, a.memory, a.generation, a.fitness, a.metadata, a.version, a.created_at, a.updated_at, a.origin)::record
                *<> ROW(o.state, o.memory, o.generation, o.fitness, o.metadata, o.version, o.created_at, o.updated_at, o.origin)::record;
    END IF;
    INSERT INTO gpuagent.agent (id, state, memory, generation, fitness, metadata, version, created_at, updated_at, origin)
    SELECT coalesce(prefix, '') || o.id, o.state, o.memory, o.generation, o.fitness, o.metadata, o.version, o.created_at,
        o.updated_at, o.origin
    FROM gpuagent_store.checkpoint_agent o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq) AND (agents OR o.id ^@ ANY (prefixes))
        AND NOT EXISTS (SELECT FROM gpuagent.agent a WHERE a.id = coalesce(prefix, '') || o.id)
    ORDER BY o.id;
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_agents(bigint, boolean, text[], text) IS
    'makes agents what a checkpoint has, bit for bit, or copies them under a prefix; the table is locked';

CREATE FUNCTION gpuagent_store.restore_graphs(checkpoint bigint, kinds text[], names text[], prefix text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF prefix IS NULL THEN
        DELETE FROM gpuagent.graph g
        WHERE ('graph' = ANY (kinds) OR 'graph:' || g.graph = ANY (names)) AND NOT EXISTS (
            SELECT FROM gpuagent.checkpoint_item o
            WHERE o.object = 'graph:' || g.graph AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq));
        DELETE FROM gpuagent.graph_edge a
        WHERE ('graph' = ANY (kinds) OR 'graph:' || a.graph = ANY (names)) AND NOT EXISTS (
            SELECT FROM gpuagent_store.checkpoint_edge o
            WHERE o.graph = a.graph AND o.source = a.source AND o.target = a.target AND o.edge_type = a.edge_type
                AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq));
        DELETE FROM gpuagent.graph_node a
        WHERE ('graph' = ANY (kinds) OR 'graph:' || a.graph = ANY (names)) AND NOT EXISTS (
            SELECT FROM gpuagent_store.checkpoint_node o
            WHERE o.graph = a.graph AND o.id = a.id
                AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq));
        UPDATE gpuagent.graph a
        SET dim = (o.body ->> 'dim')::bigint, metric = o.body ->> 'metric', metadata = o.body -> 'metadata',
            created_at = (o.body ->> 'created_at')::timestamptz
        FROM gpuagent.checkpoint_item o
        WHERE o.object = 'graph:' || a.graph AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
            AND ('graph' = ANY (kinds) OR o.object = ANY (names))
            AND ROW(a.dim, a.metric, a.metadata, a.created_at)::record *<> ROW((o.body ->> 'dim')::bigint,
                o.body ->> 'metric', o.body -> 'metadata', (o.body ->> 'created_at')::timestamptz)::record;
        UPDATE gpuagent.graph_node a
        SET embedding = o.embedding, metadata = o.metadata, created_at = o.created_at
        FROM gpuagent_store.checkpoint_node o
        WHERE o.graph = a.graph AND o.id = a.id AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
            AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names))
            AND ROW(a.embedding, a.metadata, a.created_at)::record *<> ROW(o.embedding, o.metadata, o.created_at)::record;
        UPDATE gpuagent.graph_edge a
        SET weight = o.weight, metadata = o.metadata, created_at = o.created_at
        FROM gpuagent_store.checkpoint_edge o
        WHERE o.graph = a.graph AND o.source = a.source AND o.target = a.target AND o.edge_type = a.edge_type
            AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
            AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names))
            AND ROW(a.weight, a.metadata, a.created_at)::record *<> ROW(o.weight, o.metadata, o.created_at)::record;
    END IF;
    INSERT INTO gpuagent.graph (graph, dim, metric, metadata, created_at)
    SELECT coalesce(prefix, '') || substr(o.object, 7), (o.body ->> 'dim')::bigint, o.body ->> 'metric',
        o.body -> 'metadata', (o.body ->> 'created_at')::timestamptz
    FROM gpuagent.checkpoint_item o
    WHERE starts_with(o.object, 'graph:') AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
        AND ('graph' = ANY (kinds) OR o.object = ANY (names))
        AND NOT EXISTS (SELECT FROM gpuagent.graph a WHERE a.graph = coalesce(prefix, '') || substr(o.object, 7));
    INSERT INTO gpuagent.graph_node (graph, id, embedding, metadata, created_at)
    SELECT coalesce(prefix, '') || o.graph, o.id, o.embedding, o.metadata, o.created_at
    FROM gpuagent_store.checkpoint_node o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
        AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names))
        AND NOT EXISTS (SELECT FROM gpuagent.graph_node a WHERE a.graph = coalesce(prefix, '') || o.graph AND a.id = o.id)
    ORDER BY o.graph, o.id;
    INSERT INTO gpuagent.graph_edge (graph, source, target, edge_type, weight, metadata, created_at)
    SELECT coalesce(prefix, '') || o.graph, o.source, o.target, o.edge_type, o.weight, o.metadata, o.created_at
    FROM gpuagent_store.checkpoint_edge o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
        AND ('graph' = ANY (kinds) OR 'graph:' || o.graph = ANY (names))
        AND NOT EXISTS (SELECT FROM gpuagent.graph_edge a
            WHERE a.graph = coalesce(prefix, '') || o.graph AND a.source = o.source AND a.target = o.target
                AND a.edge_type = o.edge_type)
    ORDER BY o.graph, o.source, o.target, o.edge_type;
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_graphs(bigint, text[], text[], text) IS
    'makes graphs what a checkpoint has, bit for bit (node_index, a name of this database, aside), or copies them; the tables are locked';

CREATE FUNCTION gpuagent_store.restore_swarms(checkpoint bigint, kinds text[], names text[], prefix text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    item record;
    changed bigint;
BEGIN
    PERFORM gpuagent_store.keep_items(checkpoint, kinds, names);
    IF prefix IS NULL THEN
        WITH gone AS (
            DELETE FROM gpuagent.swarm s
            WHERE ('swarm' = ANY (kinds) OR 'swarm:' || s.swarm = ANY (names)) AND NOT EXISTS (
                SELECT FROM gpuagent.checkpoint_item o
                WHERE o.object = 'swarm:' || s.swarm AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq))
            RETURNING s.swarm)
        SELECT count(gpuagent_store.swarm_changed(g.swarm)) INTO changed FROM gone g;
    END IF;
    FOR item IN
        SELECT coalesce(prefix, '') || substr(o.object, 7) AS swarm, o.version, o.tensor, (o.body ->> 'keep_versions')::bigint AS keep,
            o.body -> 'metadata' AS metadata, (o.body ->> 'created_at')::timestamptz AS created_at,
            (o.body ->> 'step')::bigint AS step, o.body -> 'version_metadata' AS version_metadata,
            (o.body ->> 'version_created_at')::timestamptz AS version_created_at,
            s.swarm IS NULL AS absent, s.current, v.tensor AS live_tensor, v.step AS live_step, v.metadata AS live_metadata
        FROM gpuagent.checkpoint_item o
            LEFT JOIN gpuagent.swarm s ON s.swarm = coalesce(prefix, '') || substr(o.object, 7)
            LEFT JOIN gpuagent.swarm_version v ON v.swarm = s.swarm AND v.version = s.current
        WHERE starts_with(o.object, 'swarm:') AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
            AND ('swarm' = ANY (kinds) OR o.object = ANY (names))
        ORDER BY o.object
    LOOP
        IF item.absent THEN
            INSERT INTO gpuagent.swarm (swarm, keep_versions, current, metadata, created_at)
            VALUES (item.swarm, item.keep, item.version, item.metadata, item.created_at);
            INSERT INTO gpuagent.swarm_version (swarm, version, tensor, step, metadata, created_at)
            SELECT item.swarm, item.version, item.tensor, item.step, item.version_metadata, item.version_created_at
            WHERE item.tensor IS NOT NULL;
            CONTINUE;
        END IF;
        IF item.tensor IS NULL THEN
            PERFORM gpuagent_store.swarm_changed(item.swarm);
            DELETE FROM gpuagent.swarm_version v WHERE v.swarm = item.swarm;
            item.current := 0;
        ELSIF ROW(item.tensor, item.step, item.version_metadata)::record
            *<> ROW(item.live_tensor, item.live_step, item.live_metadata)::record THEN
            item.current := item.current + 1;
            INSERT INTO gpuagent.swarm_version (swarm, version, tensor, step, metadata)
            VALUES (item.swarm, item.current, item.tensor, item.step, item.version_metadata);
            PERFORM gpuagent_store.swarm_changed(item.swarm);
        END IF;
        UPDATE gpuagent.swarm s
        SET keep_versions = item.keep, current = item.current, metadata = item.metadata, created_at = item.created_at,
            version_xact = NULL, version_at = NULL
        WHERE s.swarm = item.swarm
            AND ROW(s.keep_versions, s.current, s.metadata, s.created_at)::record
                *<> ROW(item.keep, item.current, item.metadata, item.created_at)::record;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_swarms(bigint, text[], text[], text) IS
    'gives swarms that differ from a checkpoint a new version with its tensor, or copies them; the tables are locked';

CREATE FUNCTION gpuagent_store.restore_layers(checkpoint bigint, source text, expert text, current bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    written bigint;
BEGIN
    WITH live AS (
        SELECT DISTINCT ON (w.layer) w.* FROM gpuagent.weight_version w
        WHERE w.expert = expert ORDER BY w.layer, w.version DESC
    ), wanted AS (
        SELECT substr(o.part, 7) AS layer, o.tensor AS weights, o.biases, o.body -> 'metadata' AS metadata,
            (o.body ->> 'origin')::uuid AS origin
        FROM gpuagent.checkpoint_item o
        WHERE o.object = source AND starts_with(o.part, 'layer:')
            AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
    )
    INSERT INTO gpuagent.weight_version (expert, layer, version, weights, biases, deleted, metadata, origin)
    SELECT expert, w.layer, current + 1, w.weights, w.biases, false, w.metadata, w.origin
    FROM wanted w LEFT JOIN live l ON l.layer = w.layer AND NOT l.deleted
    WHERE l.layer IS NULL
        OR ROW(l.weights, l.biases, l.metadata)::record *<> ROW(w.weights, w.biases, w.metadata)::record
    UNION ALL
    SELECT expert, l.layer, current + 1, NULL, NULL, true, '{}', NULL
    FROM live l
    WHERE NOT l.deleted AND NOT EXISTS (SELECT FROM wanted w WHERE w.layer = l.layer);
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN CASE WHEN written > 0 THEN current + 1 ELSE current END;
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_layers(bigint, text, text, bigint) IS
    'writes the layers of an expert that differ from a checkpoint as one new version; returns the newest version';

CREATE FUNCTION gpuagent_store.restore_experts(checkpoint bigint, kinds text[], names text[], prefix text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    item record;
    newest bigint;
BEGIN
    PERFORM gpuagent_store.keep_items(checkpoint, kinds, names);
    IF prefix IS NULL THEN
        DELETE FROM gpuagent.expert e
        WHERE ('expert' = ANY (kinds) OR 'expert:' || e.expert = ANY (names)) AND NOT EXISTS (
            SELECT FROM gpuagent.checkpoint_item o
            WHERE o.object = 'expert:' || e.expert AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq));
    END IF;
    FOR item IN
        SELECT c.object, coalesce(prefix, '') || substr(c.object, 8) AS expert, c.body AS config, s.body AS state,
            e.expert IS NULL AS absent, e.version AS current
        FROM gpuagent.checkpoint_item c
            JOIN gpuagent.checkpoint_item s ON s.object = c.object AND s.part = 'state'
                AND s.from_seq <= checkpoint AND (s.to_seq IS NULL OR checkpoint < s.to_seq)
            LEFT JOIN gpuagent.expert e ON e.expert = coalesce(prefix, '') || substr(c.object, 8)
        WHERE starts_with(c.object, 'expert:') AND c.part = 'config'
            AND c.from_seq <= checkpoint AND (c.to_seq IS NULL OR checkpoint < c.to_seq)
            AND ('expert' = ANY (kinds) OR c.object = ANY (names))
        ORDER BY c.object
    LOOP
        IF item.absent THEN
            INSERT INTO gpuagent.expert (expert) VALUES (item.expert);
            INSERT INTO gpuagent.weight_version (expert, layer, version, weights, biases, metadata, created_at, origin)
            SELECT item.expert, substr(o.part, 7), o.version, o.tensor, o.biases, o.body -> 'metadata',
                (o.body ->> 'created_at')::timestamptz, (o.body ->> 'origin')::uuid
            FROM gpuagent.checkpoint_item o
            WHERE o.object = item.object AND starts_with(o.part, 'layer:')
                AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq);
            SELECT coalesce(max(w.version), 0) INTO newest FROM gpuagent.weight_version w WHERE w.expert = item.expert;
            UPDATE gpuagent.expert e SET oldest = greatest(newest, 1) WHERE e.expert = item.expert;
        ELSE
            newest := gpuagent_store.restore_layers(checkpoint, item.object, item.expert, item.current);
        END IF;
        UPDATE gpuagent.expert e
        SET domain = w.domain, parameter_count = w.parameter_count, learning_rate = w.learning_rate,
            architecture = w.architecture, metadata = w.metadata, version = newest, version_xact = NULL, version_at = NULL,
            activation_count = w.activation_count, success_rate = w.success_rate, memory_usage = w.memory_usage,
            created_at = w.created_at, updated_at = w.updated_at
        FROM (SELECT item.config ->> 'domain', (item.config ->> 'parameter_count')::bigint,
                (item.config ->> 'learning_rate')::double precision, item.config -> 'architecture', item.config -> 'metadata',
                (item.state ->> 'activation_count')::bigint, (item.state ->> 'success_rate')::double precision,
                (item.state ->> 'memory_usage')::bigint, (item.config ->> 'created_at')::timestamptz,
                (item.state ->> 'updated_at')::timestamptz
            ) w (domain, parameter_count, learning_rate, architecture, metadata, activation_count, success_rate,
                memory_usage, created_at, updated_at)
        WHERE e.expert = item.expert
            AND ROW(e.domain, e.parameter_count, e.learning_rate, e.architecture, e.metadata, e.version, e.activation_count,
                e.success_rate, e.memory_usage, e.created_at, e.updated_at)::record
                *<> ROW(w.domain, w.parameter_count, w.learning_rate, w.architecture, w.metadata, newest, w.activation_count,
                w.success_rate, w.memory_usage, w.created_at, w.updated_at)::record;
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_experts(bigint, text[], text[], text) IS
    'restores configuration and state of experts, and their layers that differ as one new version, or copies them; the tables are locked';

CREATE FUNCTION gpuagent_store.restore_metrics(checkpoint bigint, prefix text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    numbers CONSTANT text := pg_get_serial_sequence('gpuagent.metric', 'id');
    greatest_id bigint;
BEGIN
    IF prefix IS NULL THEN
        DELETE FROM gpuagent.metric a
        WHERE NOT EXISTS (SELECT FROM gpuagent_store.checkpoint_metric o
            WHERE o.id = a.id AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq));
    END IF;
    INSERT INTO gpuagent.run (run, metadata, status, created_at)
    SELECT coalesce(prefix, '') || substr(o.part, 5), o.body -> 'metadata', o.body ->> 'status', (o.body ->> 'created_at')::timestamptz
    FROM gpuagent.checkpoint_item o
    WHERE o.object = 'metrics' AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
    ON CONFLICT (run) DO UPDATE
        SET metadata = excluded.metadata, status = excluded.status, created_at = excluded.created_at
        WHERE ROW(run.metadata, run.status, run.created_at)::record
            *<> ROW(excluded.metadata, excluded.status, excluded.created_at)::record;
    IF prefix IS NOT NULL THEN
        INSERT INTO gpuagent.metric (run, key, step, value, object, recorded_at, created_at)
        SELECT prefix || o.run, o.key, o.step, o.value, o.object, o.recorded_at, o.created_at
        FROM gpuagent_store.checkpoint_metric o
        WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
        ORDER BY o.id;
        RETURN;
    END IF;
    INSERT INTO gpuagent.metric (id, run, key, step, value, object, recorded_at, created_at)
    SELECT o.id, o.run, o.key, o.step, o.value, o.object, o.recorded_at, o.created_at
    FROM gpuagent_store.checkpoint_metric o
    WHERE o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq)
    ORDER BY o.id
    ON CONFLICT (id) DO UPDATE
        SET run = excluded.run, key = excluded.key, step = excluded.step, value = excluded.value, object = excluded.object,
            recorded_at = excluded.recorded_at, created_at = excluded.created_at
        WHERE ROW(metric.run, metric.key, metric.step, metric.value, metric.object, metric.recorded_at, metric.created_at)::record
            *<> ROW(excluded.run, excluded.key, excluded.step, excluded.value, excluded.object, excluded.recorded_at,
                excluded.created_at)::record;
    DELETE FROM gpuagent.run r
    WHERE NOT EXISTS (SELECT FROM gpuagent.checkpoint_item o
        WHERE o.object = 'metrics' AND o.part = 'run:' || r.run
            AND o.from_seq <= checkpoint AND (o.to_seq IS NULL OR checkpoint < o.to_seq));
    -- An imported checkpoint may have ids that this database has not given out yet.
    SELECT max(m.id) INTO greatest_id FROM gpuagent.metric m;
    IF greatest_id > coalesce(pg_sequence_last_value(numbers), 0) THEN
        PERFORM setval(numbers, greatest_id);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.restore_metrics(bigint, text) IS
    'makes runs and metric values what a checkpoint has, or copies them under a prefix with new ids; the tables are locked';

CREATE FUNCTION gpuagent_store.lock_for_restore(with_agents boolean, kinds text[], names text[]) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present text[] := kinds || ARRAY(SELECT split_part(n, ':', 1) FROM unnest(names) n);
    tables text;
BEGIN
    -- The order in which writers come to them: what is referred to first.
    SELECT string_agg('gpuagent.' || t.name, ', ' ORDER BY t.place) INTO tables
    FROM (VALUES (1, 'agent', with_agents),
        (2, 'expert', 'expert' = ANY (present)), (3, 'weight_version', 'expert' = ANY (present)),
        (4, 'graph', 'graph' = ANY (present)), (5, 'graph_node', 'graph' = ANY (present)), (6, 'graph_edge', 'graph' = ANY (present)),
        (7, 'run', 'metrics' = ANY (present)), (8, 'metric', 'metrics' = ANY (present)),
        (9, 'swarm', 'swarm' = ANY (present)), (10, 'swarm_version', 'swarm' = ANY (present))) t (place, name, wanted)
    WHERE t.wanted;
    EXECUTE 'LOCK TABLE ' || tables || ' IN SHARE ROW EXCLUSIVE MODE';
END
$$;
COMMENT ON FUNCTION gpuagent_store.lock_for_restore(boolean, text[], text[]) IS
    'locks the tables of a scope, those referred to before those that refer: others read on, and wait to write';
