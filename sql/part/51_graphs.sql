-- KNOWLEDGE GRAPHS

CREATE FUNCTION gpuagent_store.node_rows(ids text[], embeddings gpuagent.swarm_tensor, metadata jsonb)
    RETURNS TABLE (id text, embedding gpuagent.embedding, metadata jsonb)
    AS 'MODULE_PATHNAME', 'ga_node_rows' LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 1000;
COMMENT ON FUNCTION gpuagent_store.node_rows(text[], gpuagent.swarm_tensor, jsonb) IS
    'the aligned arguments of store_nodes as rows in id order; checks them';

CREATE FUNCTION gpuagent_store.edge_rows(
    sources text[], targets text[], edge_types text[], weights double precision[], metadata jsonb)
    RETURNS TABLE (source text, target text, edge_type text, weight double precision, metadata jsonb)
    AS 'MODULE_PATHNAME', 'ga_edge_rows' LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 1000;
COMMENT ON FUNCTION gpuagent_store.edge_rows(text[], text[], text[], double precision[], jsonb) IS
    'the aligned arguments of store_edges as rows in key order; checks them';

CREATE FUNCTION gpuagent_store.require_graph(graph text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('graph name', graph);
    IF NOT EXISTS (SELECT FROM gpuagent.graph g WHERE g.graph = require_graph.graph) THEN
        RAISE undefined_object USING MESSAGE = format('graph "%s" does not exist', graph);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_graph(text) IS '42704 when there is no such graph';

CREATE FUNCTION gpuagent_store.require_graph_dim(graph text, dim bigint) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    have bigint;
BEGIN
    PERFORM gpuagent_store.require_name('graph name', graph);
    SELECT g.dim INTO have FROM gpuagent.graph g WHERE g.graph = require_graph_dim.graph;
    IF NOT FOUND THEN
        INSERT INTO gpuagent.graph AS g (graph) VALUES (graph) ON CONFLICT DO NOTHING;
        SELECT g.dim INTO have FROM gpuagent.graph g WHERE g.graph = require_graph_dim.graph;
    END IF;
    IF have IS NULL AND dim IS NOT NULL THEN
        -- Of an earlier graph of this name, or of this one before it was replaced.
        PERFORM gpuagent_store.drop_node_index(graph, dim);
        UPDATE gpuagent.graph g SET dim = require_graph_dim.dim WHERE g.graph = require_graph_dim.graph AND g.dim IS NULL;
        SELECT g.dim INTO have FROM gpuagent.graph g WHERE g.graph = require_graph_dim.graph;
    END IF;
    IF have <> dim THEN
        RAISE data_exception USING
            MESSAGE = format('embeddings of graph "%s" have dimension %s, not %s', graph, have, dim);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_graph_dim(text, bigint) IS
    'creates the graph when it is missing; the first dimension given becomes that of the graph, another is 22000; NULL: none to check';

CREATE FUNCTION gpuagent_store.require_nodes(graph text, ids text[]) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text[];
BEGIN
    PERFORM gpuagent_store.require_graph(graph);
    missing := ARRAY(
        SELECT DISTINCT u.id COLLATE "C" FROM unnest(ids) u(id)
        WHERE u.id IS NOT NULL
            AND NOT EXISTS (SELECT FROM gpuagent.graph_node n WHERE n.graph = require_nodes.graph AND n.id = u.id)
        ORDER BY 1 LIMIT 6);
    IF cardinality(missing) > 0 THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('graph "%s" does not have all nodes of the edges', graph),
            DETAIL = format('Missing: %s%s.', array_to_string(missing[:5], ', '),
                            CASE WHEN cardinality(missing) > 5 THEN ', ..' ELSE '' END),
            HINT = 'Store the nodes before their edges.';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_nodes(text, text[]) IS
    '42704 without the graph, 23503 naming nodes that it does not have';

CREATE FUNCTION gpuagent.store_nodes(
    graph text, ids text[], embeddings gpuagent.swarm_tensor DEFAULT NULL, metadata jsonb DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_store_nodes' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.store_nodes(text, text[], gpuagent.swarm_tensor, jsonb) IS
    'inserts or updates nodes, and the graph when it is new; row i of embeddings (n x dim) belongs to ids[i]; metadata is an object for all or an array of n. Returns the rows written. NULL arguments keep what is stored. Another dim than the graph''s: 22000; duplicate ids: 21000';

CREATE FUNCTION gpuagent.store_edges(
    graph text, sources text[], targets text[], edge_types text[] DEFAULT NULL, weights double precision[] DEFAULT NULL,
    metadata jsonb DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_store_edges' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.store_edges(text, text[], text[], text[], double precision[], jsonb) IS
    'inserts or updates directed edges between nodes of the graph; element i of each array belongs to one edge. edge_types NULL: the empty type. Returns the rows written. NULL weights or metadata keep what is stored. Missing nodes: 23503; weights must be finite: 22003; duplicates: 21000';

CREATE FUNCTION gpuagent.delete_nodes(graph text, ids text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted bigint;
BEGIN
    PERFORM gpuagent_store.require_setup();
    -- As documents of the graph do, and the table before the row.
    LOCK TABLE gpuagent.graph IN ROW EXCLUSIVE MODE;
    PERFORM FROM gpuagent.graph g WHERE g.graph = delete_nodes.graph FOR NO KEY UPDATE;
    DELETE FROM gpuagent.graph_node n WHERE n.graph = delete_nodes.graph AND n.id = ANY (delete_nodes.ids);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END
$$;
COMMENT ON FUNCTION gpuagent.delete_nodes(text, text[]) IS 'deletes nodes and their edges; returns the number of nodes';

CREATE FUNCTION gpuagent.delete_knowledge_graph(graph text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.drop_node_index(graph);
    DELETE FROM gpuagent.graph g WHERE g.graph = delete_knowledge_graph.graph;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION gpuagent.delete_knowledge_graph(text) IS 'deletes a graph with its nodes, edges and, when the caller owns it, index; true when it existed';

CREATE FUNCTION gpuagent_store.require_walk(graph text, ids text[]) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
BEGIN
    PERFORM gpuagent_store.require_graph(graph);
    SELECT u.id INTO missing FROM unnest(ids) WITH ORDINALITY u(id, ordinal)
    WHERE NOT EXISTS (SELECT FROM gpuagent.graph_node n WHERE n.graph = require_walk.graph AND n.id = u.id)
    ORDER BY u.ordinal LIMIT 1;
    IF FOUND THEN
        RAISE undefined_object USING MESSAGE = format('graph "%s" does not have a node "%s"', graph, missing);
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_walk(text, text[]) IS '42704 without the graph or one of the nodes';

CREATE FUNCTION gpuagent.expand_knowledge_graph(
    graph text, seeds text[], hops bigint DEFAULT 1, edge_types text[] DEFAULT NULL,
    min_weight double precision DEFAULT NULL, direction text DEFAULT 'both', max_nodes bigint DEFAULT 1000)
    RETURNS TABLE (node text, hop bigint, parent text, edge_type text, weight double precision)
    AS 'MODULE_PATHNAME', 'ga_expand_knowledge_graph' LANGUAGE C STABLE PARALLEL SAFE ROWS 100;
COMMENT ON FUNCTION gpuagent.expand_knowledge_graph(text, text[], bigint, text[], double precision, text, bigint) IS
    'the seeds (hop 0) and the nodes within hops edges of them, nearest first, then by id, at most max_nodes with the seeds; each node once, with the edge that first led to it (from the smallest parent id, then of the smallest type). direction: out, in or both. Unknown graph or seed: 42704';

CREATE FUNCTION gpuagent.shortest_path(
    graph text, source text, target text, weighted boolean DEFAULT false, max_hops bigint DEFAULT 16)
    RETURNS TABLE (ordinal bigint, node text, edge_type text, weight double precision)
    AS 'MODULE_PATHNAME', 'ga_shortest_path' LANGUAGE C STABLE PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION gpuagent.shortest_path(text, text, text, boolean, bigint) IS
    'the path of fewest edges, or with weighted of the least sum of weights, along the direction of edges and of at most max_hops edges; row 1 is the source, each later row has the edge that leads to it. Zero rows when there is none. Unknown graph or node: 42704; a negative weight met: 22023';

CREATE FUNCTION gpuagent.search_knowledge_graph(
    graph text, query gpuagent.embedding, k bigint DEFAULT 10, hops bigint DEFAULT 0, filter jsonb DEFAULT NULL,
    max_distance double precision DEFAULT NULL, edge_types text[] DEFAULT NULL, min_weight double precision DEFAULT NULL,
    direction text DEFAULT 'both', max_nodes bigint DEFAULT 1000)
    RETURNS TABLE (node text, hop bigint, distance double precision, parent text, edge_type text,
                   weight double precision, metadata jsonb)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    space record;
    nearest text;
BEGIN
    PERFORM gpuagent_store.require_graph(graph);
    IF query IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'query must not be NULL';
    END IF;
    IF k IS NULL OR k < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'k must not be negative';
    END IF;
    SELECT g.dim, coalesce(g.metric, 'cosine') AS metric INTO space
    FROM gpuagent.graph g WHERE g.graph = search_knowledge_graph.graph;
    IF space.dim <> gpuagent.vector_dims(query) THEN
        RAISE data_exception USING
            MESSAGE = format('embeddings of graph "%s" have dimension %s, not %s', graph, space.dim, gpuagent.vector_dims(query));
    END IF;
    -- The graph is a constant of the statement, so that a partial index can serve it; ids, which it does not have, then
    -- decide among all that are as far as the k-th.
    nearest := format(
        'SELECT t.id, t.distance FROM (SELECT n.id, n.embedding OPERATOR(gpuagent.%s) $1 AS distance FROM gpuagent.graph_node n'
        ' WHERE n.graph = %L AND n.embedding IS NOT NULL %s ORDER BY distance FETCH FIRST ($2) ROWS WITH TIES) t'
        ' ORDER BY t.distance, t.id LIMIT $2',
        gpuagent_store.metric_operator(space.metric), graph, CASE WHEN filter IS NOT NULL THEN 'AND n.metadata @> $3' ELSE '' END);
    RETURN QUERY EXECUTE format(
        'WITH seed AS MATERIALIZED (SELECT s.id, s.distance FROM (%s) s WHERE $4 IS NULL OR s.distance <= $4)'
        ' SELECT e.node, e.hop, coalesce(s.distance, n.embedding OPERATOR(gpuagent.%s) $1), e.parent, e.edge_type, e.weight, n.metadata'
        ' FROM gpuagent.expand_knowledge_graph($5, ARRAY(SELECT id FROM seed ORDER BY distance, id), $6, $7, $8, $9, $10) e'
        ' JOIN gpuagent.graph_node n ON n.graph = $5 AND n.id = e.node LEFT JOIN seed s ON s.id = e.node'
        ' ORDER BY e.hop, 3, e.node',
        nearest, gpuagent_store.metric_operator(space.metric))
    USING query, k, filter, max_distance, graph, hops, edge_types, min_weight, direction, max_nodes;
END
$$;
COMMENT ON FUNCTION gpuagent.search_knowledge_graph(text, gpuagent.embedding, bigint, bigint, jsonb, double precision, text[], double precision, text, bigint) IS
    'the k nearest nodes whose metadata contain filter and that are within max_distance (hop 0), then their neighbours as of expand_knowledge_graph, each with its own distance to query; ordered by hop, distance, id. The metric is that of the graph, cosine by default';

CREATE FUNCTION gpuagent_store.metric_operator(metric text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    operator text := CASE metric WHEN 'l2' THEN '<->' WHEN 'ip' THEN '<#>' WHEN 'cosine' THEN '<=>' WHEN 'l1' THEN '<+>' END;
BEGIN
    IF operator IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown metric "%s"', metric), HINT = 'Use l2, ip, cosine or l1.';
    END IF;
    RETURN operator;
END
$$;
COMMENT ON FUNCTION gpuagent_store.metric_operator(text) IS 'distance operator of a metric: l2, ip, cosine, l1';

CREATE FUNCTION gpuagent_store.embedding_json(embedding gpuagent.embedding) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE gpuagent.dtype(embedding) WHEN 'F32' THEN embedding::text::jsonb ELSE to_jsonb(embedding::text) END
$$;
COMMENT ON FUNCTION gpuagent_store.embedding_json(gpuagent.embedding) IS
    'exact JSON form: an array of numbers for F32, a string with the dtype for others';

CREATE FUNCTION gpuagent.retrieve_knowledge_graph(graph text, nodes text[] DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_graph(graph);
    RETURN (
        SELECT jsonb_build_object(
            'dim', g.dim, 'metric', g.metric, 'metadata', g.metadata,
            'nodes', coalesce((
                SELECT jsonb_agg(jsonb_build_object('id', n.id, 'embedding', gpuagent_store.embedding_json(n.embedding),
                                                    'metadata', n.metadata) ORDER BY n.id)
                FROM gpuagent.graph_node n
                WHERE n.graph = g.graph AND (nodes IS NULL OR n.id = ANY (nodes))), '[]'),
            'edges', coalesce((
                SELECT jsonb_agg(jsonb_build_object('source', e.source, 'target', e.target, 'edge_type', e.edge_type,
                                                    'weight', e.weight, 'metadata', e.metadata)
                                 ORDER BY e.source, e.target, e.edge_type)
                FROM gpuagent.graph_edge e
                WHERE e.graph = g.graph AND (nodes IS NULL OR e.source = ANY (nodes) AND e.target = ANY (nodes))), '[]'))
        FROM gpuagent.graph g WHERE g.graph = retrieve_knowledge_graph.graph);
END
$$;
COMMENT ON FUNCTION gpuagent.retrieve_knowledge_graph(text, text[]) IS
    'the graph as the document that store_knowledge_graph takes, nodes and edges in key order, embeddings exact; with nodes, those and the edges among them. Unknown graph: 42704';

CREATE FUNCTION gpuagent_store.document_nodes(document jsonb)
    RETURNS TABLE (id text, embedding gpuagent.embedding, metadata jsonb, has_embedding boolean, has_metadata boolean)
    AS 'MODULE_PATHNAME', 'ga_document_nodes' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 1000;
COMMENT ON FUNCTION gpuagent_store.document_nodes(jsonb) IS 'the nodes of a document of a graph; 22023 for what it must not hold';

CREATE FUNCTION gpuagent_store.document_edges(document jsonb)
    RETURNS TABLE (source text, target text, edge_type text, weight double precision, metadata jsonb,
                   has_weight boolean, has_metadata boolean)
    AS 'MODULE_PATHNAME', 'ga_document_edges' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 1000;
COMMENT ON FUNCTION gpuagent_store.document_edges(jsonb) IS 'the edges of a document of a graph; 22023 for what it must not hold';

-- The graph's own row: created or updated from the document, and locked, so that documents of one graph go one by one.
CREATE FUNCTION gpuagent_store.store_graph_row(graph text, document jsonb, replace boolean) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    unknown text := (SELECT k FROM jsonb_object_keys(document) k
                     WHERE k <> ALL ('{nodes,edges,dim,metric,metadata}') ORDER BY k LIMIT 1);
    new_dim bigint := document ->> 'dim';
    new_metric text := document ->> 'metric';
    new_metadata jsonb := nullif(document -> 'metadata', 'null');
BEGIN
    IF unknown IS NOT NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('the document has an unknown key "%s"', unknown),
            HINT = 'Known are nodes, edges, dim, metric and metadata.';
    END IF;
    IF jsonb_typeof(new_metadata) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = '"metadata" of the document must be an object';
    END IF;
    IF new_dim NOT BETWEEN 1 AND 65535 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('"dim" must be 1 to 65535, not %s', new_dim);
    END IF;
    PERFORM gpuagent_store.metric_operator(new_metric);
    IF new_dim IS NOT NULL THEN
        PERFORM gpuagent_store.drop_node_index(graph, new_dim);
    END IF;
    INSERT INTO gpuagent.graph AS g (graph, dim, metric, metadata) VALUES (graph, new_dim, new_metric, coalesce(new_metadata, '{}'))
    ON CONFLICT (graph) DO UPDATE SET
        dim = CASE WHEN replace THEN EXCLUDED.dim ELSE coalesce(g.dim, EXCLUDED.dim) END,
        metric = CASE WHEN replace THEN EXCLUDED.metric ELSE coalesce(EXCLUDED.metric, g.metric) END,
        metadata = CASE WHEN replace OR new_metadata IS NOT NULL THEN EXCLUDED.metadata ELSE g.metadata END;
    PERFORM gpuagent_store.require_graph_dim(graph, new_dim);
END
$$;
COMMENT ON FUNCTION gpuagent_store.store_graph_row(text, jsonb, boolean) IS
    'creates, updates and locks the row of a graph from a document; missing keys keep what is stored unless replace';

CREATE FUNCTION gpuagent_store.store_document_nodes(graph text, document jsonb, replace boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    groups record;
    duplicate text;
    affected bigint;
    written bigint := 0;
BEGIN
    SELECT d.id INTO duplicate FROM gpuagent_store.document_nodes(document) d
    GROUP BY d.id HAVING count(*) > 1 ORDER BY d.id COLLATE "C" LIMIT 1;
    IF FOUND THEN
        RAISE cardinality_violation USING MESSAGE = format('node id "%s" occurs more than once', duplicate);
    END IF;
    IF replace THEN
        DELETE FROM gpuagent.graph_node n
        WHERE n.graph = store_document_nodes.graph AND n.id NOT IN (SELECT d.id FROM gpuagent_store.document_nodes(document) d);
    END IF;
    FOR groups IN
        SELECT d.has_embedding OR replace AS embedding, d.has_metadata OR replace AS metadata,
               min(gpuagent.vector_dims(d.embedding)) AS min_dim, max(gpuagent.vector_dims(d.embedding)) AS max_dim
        FROM gpuagent_store.document_nodes(document) d GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        PERFORM gpuagent_store.require_graph_dim(graph, groups.min_dim);
        PERFORM gpuagent_store.require_graph_dim(graph, groups.max_dim);
        EXECUTE format(
            'INSERT INTO gpuagent.graph_node (graph, id%s%s) SELECT $1, d.id%s%s FROM gpuagent_store.document_nodes($2) d'
            ' WHERE (d.has_embedding OR $3) = $4 AND (d.has_metadata OR $3) = $5 ORDER BY d.id COLLATE "C"'
            ' ON CONFLICT (graph, id) DO %s',
            CASE WHEN groups.embedding THEN ', embedding' END, CASE WHEN groups.metadata THEN ', metadata' END,
            CASE WHEN groups.embedding THEN ', d.embedding' END, CASE WHEN groups.metadata THEN ', d.metadata' END,
            coalesce('UPDATE SET ' || nullif(concat_ws(', ', CASE WHEN groups.embedding THEN 'embedding = EXCLUDED.embedding' END,
                                                       CASE WHEN groups.metadata THEN 'metadata = EXCLUDED.metadata' END), ''),
                     'NOTHING'))
        USING graph, document, replace, groups.embedding, groups.metadata;
        GET DIAGNOSTICS affected = ROW_COUNT;
        written := written + affected;
    END LOOP;
    RETURN written;
END
$$;
COMMENT ON FUNCTION gpuagent_store.store_document_nodes(text, jsonb, boolean) IS
    'inserts or updates the nodes of a document; a key that a node lacks keeps what is stored, unless replace';

CREATE FUNCTION gpuagent_store.store_document_edges(graph text, document jsonb, replace boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    groups record;
    affected bigint;
    written bigint := 0;
BEGIN
    SELECT d.source, d.target, d.edge_type INTO groups FROM gpuagent_store.document_edges(document) d
    GROUP BY 1, 2, 3 HAVING count(*) > 1 ORDER BY d.source COLLATE "C", d.target COLLATE "C", d.edge_type COLLATE "C" LIMIT 1;
    IF FOUND THEN
        RAISE cardinality_violation USING
            MESSAGE = format('edge from "%s" to "%s", type "%s" occurs more than once', groups.source, groups.target, groups.edge_type);
    END IF;
    PERFORM gpuagent_store.require_nodes(graph, ARRAY(
        SELECT d.source FROM gpuagent_store.document_edges(document) d
        UNION SELECT d.target FROM gpuagent_store.document_edges(document) d));
    IF replace THEN
        DELETE FROM gpuagent.graph_edge e
        WHERE e.graph = store_document_edges.graph AND NOT EXISTS (
            SELECT FROM gpuagent_store.document_edges(document) d
            WHERE d.source = e.source AND d.target = e.target AND d.edge_type = e.edge_type);
    END IF;
    FOR groups IN
        SELECT DISTINCT d.has_weight AS weight, d.has_metadata OR replace AS metadata
        FROM gpuagent_store.document_edges(document) d ORDER BY 1, 2
    LOOP
        EXECUTE format(
            'INSERT INTO gpuagent.graph_edge (graph, source, target, edge_type%s%s) SELECT $1, d.source, d.target, d.edge_type%s%s'
            ' FROM gpuagent_store.document_edges($2) d WHERE d.has_weight = $4 AND (d.has_metadata OR $3) = $5'
            ' ORDER BY d.source COLLATE "C", d.target COLLATE "C", d.edge_type COLLATE "C"'
            ' ON CONFLICT (graph, source, target, edge_type) DO %s',
            CASE WHEN groups.weight THEN ', weight' END, CASE WHEN groups.metadata THEN ', metadata' END,
            CASE WHEN groups.weight THEN ', d.weight' END, CASE WHEN groups.metadata THEN ', d.metadata' END,
            coalesce('UPDATE SET ' || nullif(concat_ws(', ', CASE WHEN groups.weight THEN 'weight = EXCLUDED.weight'
                                                                  WHEN replace THEN 'weight = DEFAULT' END,
                                                       CASE WHEN groups.metadata THEN 'metadata = EXCLUDED.metadata' END), ''),
                     'NOTHING'))
        USING graph, document, replace, groups.weight, groups.metadata;
        GET DIAGNOSTICS affected = ROW_COUNT;
        written := written + affected;
    END LOOP;
    RETURN written;
END
$$;
COMMENT ON FUNCTION gpuagent_store.store_document_edges(text, jsonb, boolean) IS
    'inserts or updates the edges of a document; a key that an edge lacks keeps what is stored, unless replace';

CREATE FUNCTION gpuagent.store_knowledge_graph(graph text, document jsonb, mode text DEFAULT 'merge')
    RETURNS TABLE (nodes bigint, edges bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('graph name', graph);
    IF document IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'document must not be NULL';
    ELSIF jsonb_typeof(document) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'document must be a JSON object';
    ELSIF mode IS NULL OR mode NOT IN ('merge', 'replace') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('invalid mode "%s"', mode), HINT = 'Use merge or replace.';
    END IF;
    PERFORM gpuagent_store.store_graph_row(graph, document, mode = 'replace');
    nodes := gpuagent_store.store_document_nodes(graph, document, mode = 'replace');
    edges := gpuagent_store.store_document_edges(graph, document, mode = 'replace');
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION gpuagent.store_knowledge_graph(text, jsonb, text) IS
    'stores {"nodes": [{"id", "embedding", "metadata"}], "edges": [{"source", "target", "edge_type", "weight", "metadata"}], "dim", "metric", "metadata"}; returns the nodes and edges written. merge keeps what the document does not mention, replace makes the graph equal to it. Unknown keys: 22023; missing nodes: 23503; another dim: 22000';
