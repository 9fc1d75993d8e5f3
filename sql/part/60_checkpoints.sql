-- CHECKPOINTS: plumbing, scopes and capture. Restore is in 61, retention and differences in 62.
CREATE FUNCTION gpuagent_store.changed_since(xmin xid, horizon xid8) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_changed_since' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.changed_since(xid, xid8) IS
    'false only when a visible row with this xmin was certainly written by a transaction below the horizon';

CREATE FUNCTION gpuagent_store.xid_source() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_xid_source' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.xid_source() IS
    'system identifier and database: horizons of another source say nothing here';

CREATE FUNCTION gpuagent_store.digest(VARIADIC "any") RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_digest' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.digest("any") IS
    'SHA-256 over each argument: length of its wire format as int64 (-1 for NULL), then the wire format, text in the server''s encoding';

CREATE FUNCTION gpuagent_store.run_on_snapshot(steps text[], VARIADIC "any") RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'ga_run_on_snapshot' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.run_on_snapshot(text[], "any") IS
    'executes statements with the caller''s rights, all on one snapshot taken now; the other arguments are $1, $2, ...; two numbers a statement: what a SELECT returned, or rows and 0';

CREATE FUNCTION gpuagent_store.object_covered(objects text[], object text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT objects IS NULL OR EXISTS (
        SELECT FROM unnest(objects) o
        WHERE o = object
            OR (starts_with(o, 'agents:') AND starts_with(object, o))
            OR (o IN ('agents', 'swarms', 'experts', 'graphs') AND split_part(object, ':', 1) IN (o, left(o, -1))))
$$;
COMMENT ON FUNCTION gpuagent_store.object_covered(text[], text) IS
    'true when an address (agents:ID, swarm:NAME, ...) is among a checkpoint''s objects; objects NULL covers everything';

CREATE FUNCTION gpuagent_store.scope_covers(covering text[], covered text[]) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN covering IS NULL OR (covered IS NOT NULL AND NOT EXISTS (
        SELECT FROM unnest(covered) c WHERE NOT gpuagent_store.object_covered(covering, c)));
END
$$;
COMMENT ON FUNCTION gpuagent_store.scope_covers(text[], text[]) IS
    'true when every address of covered is among covering; NULL is everything';

CREATE FUNCTION gpuagent_store.checkpoint_scope(wanted text[],
    OUT objects text[], OUT agents boolean, OUT prefixes text[], OUT kinds text[], OUT names text[])
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    address text;
    kind text;
    name text;
BEGIN
    agents := wanted IS NULL;
    prefixes := '{}';
    names := '{}';
    kinds := CASE WHEN wanted IS NULL THEN '{expert,graph,metrics,swarm}' ELSE '{}' END;
    IF wanted IS NULL THEN
        RETURN;
    ELSIF cardinality(wanted) = 0 THEN
        RAISE EXCEPTION 'objects must not be empty'
            USING ERRCODE = '22023', HINT = 'Leave objects NULL for everything.';
    ELSIF array_position(wanted, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'objects must not contain NULL' USING ERRCODE = '22004';
    END IF;
    FOREACH address IN ARRAY wanted LOOP
        kind := split_part(address, ':', 1);
        name := substr(address, length(kind) + 2);
        IF address = 'agents' THEN
            agents := true;
        ELSIF address IN ('swarms', 'experts', 'graphs') THEN
            kinds := kinds || left(address, -1);
        ELSIF address = 'metrics' THEN
            kinds := kinds || address;
        ELSIF kind = 'agents' AND gpuagent_store.valid_name(name) THEN
            prefixes := prefixes || name;
        ELSIF kind IN ('swarm', 'expert', 'graph') AND gpuagent_store.valid_name(name) THEN
            names := names || address;
        ELSE
            RAISE EXCEPTION 'invalid object address "%"', address
                USING ERRCODE = '22023',
                    HINT = 'Addresses are agents, agents:PREFIX, swarm:NAME, swarms, expert:NAME, experts, graph:NAME, graphs and metrics.';
        END IF;
    END LOOP;
    -- Sorted, and without what a wider address covers.
    kinds := ARRAY(SELECT DISTINCT k COLLATE "C" FROM unnest(kinds) k ORDER BY 1);
    names := ARRAY(SELECT DISTINCT n COLLATE "C" FROM unnest(names) n
        WHERE split_part(n, ':', 1) <> ALL (kinds) ORDER BY 1);
    prefixes := ARRAY(SELECT DISTINCT p COLLATE "C" FROM unnest(prefixes) p
        WHERE NOT agents AND NOT EXISTS (SELECT FROM unnest(prefixes) q WHERE q <> p AND starts_with(p, q)) ORDER BY 1);
    IF NOT agents OR cardinality(kinds) < 4 THEN
        objects := ARRAY(
            SELECT o COLLATE "C" FROM (
                SELECT 'agents' WHERE agents
                UNION ALL SELECT 'agents:' || p FROM unnest(prefixes) p
                UNION ALL SELECT CASE k WHEN 'metrics' THEN k ELSE k || 's' END FROM unnest(kinds) k
                UNION ALL SELECT unnest(names)) u (o)
            ORDER BY 1);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.checkpoint_scope(text[]) IS
    'parses object addresses: objects is the canonical list (NULL: everything), then whether all agents, agents by prefix, whole kinds, single objects; 22023 or 22004 when invalid';

-- What is covered now, one row a swarm, graph, run, layer, expert configuration and expert state. Without SET clauses,
-- so that it inlines; callers set TimeZone and extra_float_digits, so that equal values have equal bodies.
CREATE FUNCTION gpuagent_store.live_items(kinds text[], names text[])
RETURNS TABLE (object text, part text, version bigint, tensor bytea, biases bytea, body jsonb)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT 'swarm:' OPERATOR(pg_catalog.||) s.swarm, '', s.current, v.tensor, NULL::pg_catalog.bytea, pg_catalog.jsonb_build_object(
        'keep_versions', s.keep_versions, 'metadata', s.metadata, 'created_at', s.created_at,
        'step', v.step, 'version_metadata', v.metadata, 'version_created_at', v.created_at)
    FROM gpuagent.swarm s LEFT JOIN gpuagent.swarm_version v ON v.swarm OPERATOR(pg_catalog.=) s.swarm AND v.version OPERATOR(pg_catalog.=) s.current
    WHERE 'swarm' OPERATOR(pg_catalog.=) ANY (kinds) OR 'swarm:' OPERATOR(pg_catalog.||) s.swarm OPERATOR(pg_catalog.=) ANY (names)
    UNION ALL
    SELECT 'expert:' OPERATOR(pg_catalog.||) e.expert, 'config', NULL, NULL, NULL, pg_catalog.jsonb_build_object(
        'domain', e.domain, 'parameter_count', e.parameter_count, 'learning_rate', e.learning_rate::pg_catalog.text,
        'metadata', e.metadata, 'created_at', e.created_at)
        OPERATOR(pg_catalog.||) CASE WHEN e.architecture IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object('architecture', e.architecture) END
    FROM gpuagent.expert e
    WHERE 'expert' OPERATOR(pg_catalog.=) ANY (kinds) OR 'expert:' OPERATOR(pg_catalog.||) e.expert OPERATOR(pg_catalog.=) ANY (names)
    UNION ALL
    SELECT 'expert:' OPERATOR(pg_catalog.||) e.expert, 'state', NULL, NULL, NULL, pg_catalog.jsonb_build_object(
        'activation_count', e.activation_count, 'success_rate', e.success_rate::pg_catalog.text,
        'memory_usage', e.memory_usage, 'updated_at', e.updated_at)
    FROM gpuagent.expert e
    WHERE 'expert' OPERATOR(pg_catalog.=) ANY (kinds) OR 'expert:' OPERATOR(pg_catalog.||) e.expert OPERATOR(pg_catalog.=) ANY (names)
    UNION ALL
    SELECT 'expert:' OPERATOR(pg_catalog.||) w.expert, 'layer:' OPERATOR(pg_catalog.||) w.layer, w.version, w.weights, w.biases,
        pg_catalog.jsonb_build_object('metadata', w.metadata, 'created_at', w.created_at, 'origin', w.origin)
    FROM (SELECT DISTINCT ON (x.expert, x.layer) x.* FROM gpuagent.weight_version x
        WHERE 'expert' OPERATOR(pg_catalog.=) ANY (kinds) OR 'expert:' OPERATOR(pg_catalog.||) x.expert OPERATOR(pg_catalog.=) ANY (names)
        ORDER BY x.expert, x.layer, x.version DESC) w
    WHERE NOT w.deleted
    UNION ALL
    SELECT 'graph:' OPERATOR(pg_catalog.||) g.graph, '', NULL, NULL, NULL, pg_catalog.jsonb_build_object(
        'dim', g.dim, 'metric', g.metric, 'metadata', g.metadata, 'created_at', g.created_at)
    FROM gpuagent.graph g
    WHERE 'graph' OPERATOR(pg_catalog.=) ANY (kinds) OR 'graph:' OPERATOR(pg_catalog.||) g.graph OPERATOR(pg_catalog.=) ANY (names)
    UNION ALL
    SELECT 'metrics', 'run:' OPERATOR(pg_catalog.||) r.run, NULL, NULL, NULL, pg_catalog.jsonb_build_object(
        'metadata', r.metadata, 'status', r.status, 'created_at', r.created_at)
    FROM gpuagent.run r
    WHERE 'metrics' OPERATOR(pg_catalog.=) ANY (kinds)
$$;
COMMENT ON FUNCTION gpuagent_store.live_items(text[], text[]) IS
    'contents of a scope as they are now, in the form of checkpoint_item; without agents, nodes, edges and metric values';

-- Bytes of rows, for raw_bytes, new_bytes and freed_bytes: columns as stored, and a constant for those of fixed size.
CREATE FUNCTION gpuagent_store.agent_bytes(id text, state gpuagent.agent_state, memory gpuagent.agent_state, metadata jsonb)
RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (pg_catalog.octet_length(id) OPERATOR(pg_catalog.+) 48
        OPERATOR(pg_catalog.+) COALESCE(pg_catalog.pg_column_size(state), 0)
        OPERATOR(pg_catalog.+) COALESCE(pg_catalog.pg_column_size(memory), 0)
        OPERATOR(pg_catalog.+) pg_catalog.pg_column_size(metadata))::pg_catalog.int8
$$;
COMMENT ON FUNCTION gpuagent_store.agent_bytes(text, gpuagent.agent_state, gpuagent.agent_state, jsonb) IS 'bytes that an agent counts for in a checkpoint';

CREATE FUNCTION gpuagent_store.node_bytes(graph text, id text, embedding gpuagent.embedding, metadata jsonb) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (pg_catalog.octet_length(graph) OPERATOR(pg_catalog.+) pg_catalog.octet_length(id) OPERATOR(pg_catalog.+) 8
        OPERATOR(pg_catalog.+) COALESCE(pg_catalog.pg_column_size(embedding), 0)
        OPERATOR(pg_catalog.+) pg_catalog.pg_column_size(metadata))::pg_catalog.int8
$$;
COMMENT ON FUNCTION gpuagent_store.node_bytes(text, text, gpuagent.embedding, jsonb) IS 'bytes that a node counts for in a checkpoint';

CREATE FUNCTION gpuagent_store.edge_bytes(graph text, source text, target text, edge_type text, metadata jsonb) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (pg_catalog.octet_length(graph) OPERATOR(pg_catalog.+) pg_catalog.octet_length(source)
        OPERATOR(pg_catalog.+) pg_catalog.octet_length(target) OPERATOR(pg_catalog.+) pg_catalog.octet_length(edge_type)
        OPERATOR(pg_catalog.+) 16 OPERATOR(pg_catalog.+) pg_catalog.pg_column_size(metadata))::pg_catalog.int8
$$;
COMMENT ON FUNCTION gpuagent_store.edge_bytes(text, text, text, text, jsonb) IS 'bytes that an edge counts for in a checkpoint';

CREATE FUNCTION gpuagent_store.metric_bytes(run text, key text, object text) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (pg_catalog.octet_length(run) OPERATOR(pg_catalog.+) pg_catalog.octet_length(key)
        OPERATOR(pg_catalog.+) COALESCE(pg_catalog.octet_length(object), 0) OPERATOR(pg_catalog.+) 40)::pg_catalog.int8
$$;
COMMENT ON FUNCTION gpuagent_store.metric_bytes(text, text, text) IS 'bytes that a metric value counts for in a checkpoint';

CREATE FUNCTION gpuagent_store.item_bytes(tensor bytea, biases bytea, body jsonb) RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT t.nbytes FROM gpuagent_store.tensor t WHERE t.hash = tensor LIMIT 1), 0)
        + coalesce((SELECT t.nbytes FROM gpuagent_store.tensor t WHERE t.hash = biases LIMIT 1), 0)
        + coalesce(octet_length(body::text), 0)
$$;
COMMENT ON FUNCTION gpuagent_store.item_bytes(bytea, bytea, jsonb) IS 'raw bytes of a checkpoint item and its tensors';

-- What a checkpoint does, as statements for run_on_snapshot. Parameters: $1 the checkpoint, $2 the horizon (NULL: every
-- row is a candidate), $3 all agents, $4 prefixes of agents, $5 whole kinds, $6 single objects, $7 open rows before by
-- table (NULL: unknown), $8 and $9 what run_on_snapshot adds: numbers since a table's first statement, its candidates.
-- For each table the first statement counts its rows and finds the candidates, rows that may have been written since the
-- horizon (6 bytes of memory each). The second closes open rows that differ from them bit by bit (*<> on records), the
-- third writes candidates that have no open row; both are left out when there are no candidates. The fourth closes open
-- rows of what is gone; it is left out when the counts say that nothing is. OFFSET 0 keeps a comparison a look-up.
CREATE FUNCTION gpuagent_store.capture_steps(with_agents boolean, with_graphs boolean, with_items boolean, with_metrics boolean)
RETURNS TABLE (n bigint, role text, step text)
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 20 SET search_path = pg_catalog, pg_temp AS $steps$
BEGIN
    RETURN QUERY SELECT v.n, v.role, v.step
    FROM (VALUES
        (1::bigint, 'horizon', true,
$ga$SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, 0::bigint$ga$),
        (2, 'agents', with_agents,
$ga$SELECT count(*), array_agg(a.ctid) FILTER (WHERE $2 IS NULL OR gpuagent_store.changed_since(a.xmin, $2)),
    $7[1]
FROM gpuagent.agent a
WHERE ($3 OR a.id ^@ ANY ($4))$ga$),
        (3, 'change', with_agents,
$ga$/* candidates */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_agent o SET to_seq = $1
    WHERE o.ctid = ANY (ARRAY(
        SELECT p.place
        FROM gpuagent.agent a CROSS JOIN LATERAL (
            SELECT q.*, q.ctid AS place FROM gpuagent_store.checkpoint_agent q
            WHERE q.id = a.id AND q.to_seq IS NULL OFFSET 0) p
        WHERE ($3 OR a.id ^@ ANY ($4)) AND a.ctid = ANY ($9)
            AND ROW(a.id, a.state, a.memory, a.generation, a.fitness,
                    a.metadata, a.version, a.created_at, a.updated_at, a.origin)::record
                *<> ROW(p.id, p.state, p.memory, p.generation, p.fitness,
                    p.metadata, p.version, p.created_at, p.updated_at, p.origin)::record))
    RETURNING gpuagent_store.agent_bytes(o.id, o.state, o.memory, o.metadata) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (4, 'change', with_agents,
$ga$/* candidates */ WITH added AS (
    INSERT INTO gpuagent_store.checkpoint_agent AS o (id, from_seq,
        state, memory, generation, fitness, metadata, version, created_at, updated_at, origin)
    SELECT a.id, $1,
        a.state, a.memory, a.generation, a.fitness, a.metadata, a.version, a.created_at, a.updated_at, a.origin
    FROM gpuagent.agent a
    WHERE ($3 OR a.id ^@ ANY ($4)) AND a.ctid = ANY ($9)
        AND NOT EXISTS (SELECT FROM gpuagent_store.checkpoint_agent q
            WHERE q.id = a.id AND q.to_seq IS NULL OFFSET 0)
    RETURNING gpuagent_store.agent_bytes(o.id, o.state, o.memory, o.metadata) AS nbytes)
SELECT count(*), coalesce(sum(nbytes), 0)::bigint FROM added$ga$),
        (5, 'change', with_agents,
$ga$/* gone */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_agent o SET to_seq = $1
    WHERE o.to_seq IS NULL AND ($3 OR o.id ^@ ANY ($4))
        AND ($7[1] IS NOT NULL OR $8[1] <> (SELECT count(*) FROM gpuagent_store.checkpoint_agent q
            WHERE q.to_seq IS NULL AND ($3 OR q.id ^@ ANY ($4))))
        AND NOT EXISTS (SELECT FROM gpuagent.agent a WHERE a.id = o.id)
    RETURNING gpuagent_store.agent_bytes(o.id, o.state, o.memory, o.metadata) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (6, 'nodes', with_graphs,
$ga$SELECT count(*), array_agg(a.ctid) FILTER (WHERE $2 IS NULL OR gpuagent_store.changed_since(a.xmin, $2)),
    $7[2]
FROM gpuagent.graph_node a
WHERE ('graph' = ANY ($5) OR 'graph:' || a.graph = ANY ($6))$ga$),
        (7, 'change', with_graphs,
$ga$/* candidates */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_node o SET to_seq = $1
    WHERE o.ctid = ANY (ARRAY(
        SELECT p.place
        FROM gpuagent.graph_node a CROSS JOIN LATERAL (
            SELECT q.*, q.ctid AS place FROM gpuagent_store.checkpoint_node q
            WHERE q.graph = a.graph AND q.id = a.id AND q.to_seq IS NULL OFFSET 0) p
        WHERE ('graph' = ANY ($5) OR 'graph:' || a.graph = ANY ($6)) AND a.ctid = ANY ($9)
            AND ROW(a.graph, a.id, a.embedding, a.metadata, a.created_at)::record
                *<> ROW(p.graph, p.id, p.embedding, p.metadata, p.created_at)::record))
    RETURNING gpuagent_store.node_bytes(o.graph, o.id, o.embedding, o.metadata) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (8, 'change', with_graphs,
$ga$/* candidates */ WITH added AS (
    INSERT INTO gpuagent_store.checkpoint_node AS o (graph, id, from_seq,
        embedding, metadata, created_at)
    SELECT a.graph, a.id, $1,
        a.embedding, a.metadata, a.created_at
    FROM gpuagent.graph_node a
    WHERE ('graph' = ANY ($5) OR 'graph:' || a.graph = ANY ($6)) AND a.ctid = ANY ($9)
        AND NOT EXISTS (SELECT FROM gpuagent_store.checkpoint_node q
            WHERE q.graph = a.graph AND q.id = a.id AND q.to_seq IS NULL OFFSET 0)
    RETURNING gpuagent_store.node_bytes(o.graph, o.id, o.embedding, o.metadata) AS nbytes)
SELECT count(*), coalesce(sum(nbytes), 0)::bigint FROM added$ga$),
        (9, 'change', with_graphs,
$ga$/* gone */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_node o SET to_seq = $1
    WHERE o.to_seq IS NULL AND ('graph' = ANY ($5) OR 'graph:' || o.graph = ANY ($6))
        AND ($7[2] IS NOT NULL OR $8[1] <> (SELECT count(*) FROM gpuagent_store.checkpoint_node q
            WHERE q.to_seq IS NULL AND ('graph' = ANY ($5) OR 'graph:' || q.graph = ANY ($6))))
        AND NOT EXISTS (SELECT FROM gpuagent.graph_node a WHERE a.graph = o.graph AND a.id = o.id)
    RETURNING gpuagent_store.node_bytes(o.graph, o.id, o.embedding, o.metadata) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (10, 'edges', with_graphs,
$ga$SELECT count(*), array_agg(a.ctid) FILTER (WHERE $2 IS NULL OR gpuagent_store.changed_since(a.xmin, $2)),
    $7[3]
FROM gpuagent.graph_edge a
WHERE ('graph' = ANY ($5) OR 'graph:' || a.graph = ANY ($6))$ga$),
        (11, 'change', with_graphs,
$ga$/* candidates */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_edge o SET to_seq = $1
    WHERE o.ctid = ANY (ARRAY(
        SELECT p.place
        FROM gpuagent.graph_edge a CROSS JOIN LATERAL (
            SELECT q.*, q.ctid AS place FROM gpuagent_store.checkpoint_edge q
            WHERE q.graph = a.graph AND q.source = a.source AND q.target = a.target
                AND q.edge_type = a.edge_type AND q.to_seq IS NULL OFFSET 0) p
        WHERE ('graph' = ANY ($5) OR 'graph:' || a.graph = ANY ($6)) AND a.ctid = ANY ($9)
            AND ROW(a.graph, a.source, a.target, a.edge_type, a.weight, a.metadata, a.created_at)::record
                *<> ROW(p.graph, p.source, p.target, p.edge_type, p.weight, p.metadata, p.created_at)::record))
    RETURNING gpuagent_store.edge_bytes(o.graph, o.source, o.target, o.edge_type, o.metadata) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (12, 'change', with_graphs,
$ga$/* candidates */ WITH added AS (
    INSERT INTO gpuagent_store.checkpoint_edge AS o (graph, source, target, edge_type, from_seq,
        weight, metadata, created_at)
    SELECT a.graph, a.source, a.target, a.edge_type, $1,
        a.weight, a.metadata, a.created_at
    FROM gpuagent.graph_edge a
    WHERE ('graph' = ANY ($5) OR 'graph:' || a.graph = ANY ($6)) AND a.ctid = ANY ($9)
        AND NOT EXISTS (SELECT FROM gpuagent_store.checkpoint_edge q
            WHERE q.graph = a.graph AND q.source = a.source AND q.target = a.target
                AND q.edge_type = a.edge_type AND q.to_seq IS NULL OFFSET 0)
    RETURNING gpuagent_store.edge_bytes(o.graph, o.source, o.target, o.edge_type, o.metadata) AS nbytes)
SELECT count(*), coalesce(sum(nbytes), 0)::bigint FROM added$ga$),
        (13, 'change', with_graphs,
$ga$/* gone */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_edge o SET to_seq = $1
    WHERE o.to_seq IS NULL AND ('graph' = ANY ($5) OR 'graph:' || o.graph = ANY ($6))
        AND ($7[3] IS NOT NULL OR $8[1] <> (SELECT count(*) FROM gpuagent_store.checkpoint_edge q
            WHERE q.to_seq IS NULL AND ('graph' = ANY ($5) OR 'graph:' || q.graph = ANY ($6))))
        AND NOT EXISTS (SELECT FROM gpuagent.graph_edge a WHERE a.graph = o.graph AND a.source = o.source AND a.target = o.target AND a.edge_type = o.edge_type)
    RETURNING gpuagent_store.edge_bytes(o.graph, o.source, o.target, o.edge_type, o.metadata) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (14, 'metrics', with_metrics,
$ga$SELECT count(*), array_agg(a.ctid) FILTER (WHERE $2 IS NULL OR gpuagent_store.changed_since(a.xmin, $2)),
    $7[4]
FROM gpuagent.metric a
WHERE 'metrics' = ANY ($5)$ga$),
        (15, 'change', with_metrics,
$ga$/* candidates */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_metric o SET to_seq = $1
    WHERE o.ctid = ANY (ARRAY(
        SELECT p.place
        FROM gpuagent.metric a CROSS JOIN LATERAL (
            SELECT q.*, q.ctid AS place FROM gpuagent_store.checkpoint_metric q
            WHERE q.id = a.id AND q.to_seq IS NULL OFFSET 0) p
        WHERE 'metrics' = ANY ($5) AND a.ctid = ANY ($9)
            AND ROW(a.id, a.run, a.key, a.step, a.value, a.object, a.recorded_at, a.created_at)::record
                *<> ROW(p.id, p.run, p.key, p.step, p.value, p.object, p.recorded_at, p.created_at)::record))
    RETURNING gpuagent_store.metric_bytes(o.run, o.key, o.object) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (16, 'change', with_metrics,
$ga$/* candidates */ WITH added AS (
    INSERT INTO gpuagent_store.checkpoint_metric AS o (id, from_seq,
        run, key, step, value, object, recorded_at, created_at)
    SELECT a.id, $1,
        a.run, a.key, a.step, a.value, a.object, a.recorded_at, a.created_at
    FROM gpuagent.metric a
    WHERE 'metrics' = ANY ($5) AND a.ctid = ANY ($9)
        AND NOT EXISTS (SELECT FROM gpuagent_store.checkpoint_metric q
            WHERE q.id = a.id AND q.to_seq IS NULL OFFSET 0)
    RETURNING gpuagent_store.metric_bytes(o.run, o.key, o.object) AS nbytes)
SELECT count(*), coalesce(sum(nbytes), 0)::bigint FROM added$ga$),
        (17, 'change', with_metrics,
$ga$/* gone */ WITH closed AS (
    UPDATE gpuagent_store.checkpoint_metric o SET to_seq = $1
    WHERE o.to_seq IS NULL AND 'metrics' = ANY ($5)
        AND ($7[4] IS NOT NULL OR $8[1] <> (SELECT count(*) FROM gpuagent_store.checkpoint_metric q
            WHERE q.to_seq IS NULL AND 'metrics' = ANY ($5)))
        AND NOT EXISTS (SELECT FROM gpuagent.metric a WHERE a.id = o.id)
    RETURNING gpuagent_store.metric_bytes(o.run, o.key, o.object) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (18, 'change', with_items,
$ga$/* items */ WITH closed AS (
    UPDATE gpuagent.checkpoint_item o SET to_seq = $1
    WHERE o.to_seq IS NULL AND (split_part(o.object, ':', 1) = ANY ($5) OR o.object = ANY ($6))
        AND NOT EXISTS (
            SELECT FROM gpuagent_store.live_items($5, $6) l
            WHERE l.object = o.object AND l.part = o.part
                AND ROW(l.version, l.tensor, l.biases, l.body)::record *= ROW(o.version, o.tensor, o.biases, o.body)::record)
    RETURNING gpuagent_store.item_bytes(o.tensor, o.biases, o.body) AS nbytes)
SELECT count(*), -coalesce(sum(nbytes), 0)::bigint FROM closed$ga$),
        (19, 'change', with_items,
$ga$/* items */ WITH added AS (
    INSERT INTO gpuagent.checkpoint_item AS o (object, part, from_seq, version, tensor, biases, body)
    SELECT l.object, l.part, $1, l.version, l.tensor, l.biases, l.body
    FROM gpuagent_store.live_items($5, $6) l
    WHERE NOT EXISTS (SELECT FROM gpuagent.checkpoint_item q
        WHERE q.object = l.object AND q.part = l.part AND q.to_seq IS NULL)
    RETURNING gpuagent_store.item_bytes(o.tensor, o.biases, o.body) AS nbytes)
SELECT count(*), coalesce(sum(nbytes), 0)::bigint FROM added$ga$)) v (n, role, wanted, step)
    WHERE v.wanted
    ORDER BY v.n;
END
$steps$;
COMMENT ON FUNCTION gpuagent_store.capture_steps(boolean, boolean, boolean, boolean) IS
    'statements of a checkpoint, in order; role horizon returns that, agents, nodes, edges and metrics how many there are, change the rows and the change of bytes';
