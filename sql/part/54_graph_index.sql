-- INDEXES OF KNOWLEDGE GRAPHS: one partial index of gpuknn per graph, which setup() knows nothing of and pg_dump carries.

CREATE FUNCTION gpuagent_store.node_index_name(graph text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'graph_node_knn_' || left(encode(sha256(convert_to(graph, getdatabaseencoding())), 'hex'), 16)
$$;
COMMENT ON FUNCTION gpuagent_store.node_index_name(text) IS 'name of the index that index_knowledge_graph makes';

-- graph.node_index is for people: who may write there must not choose what is dropped.
CREATE FUNCTION gpuagent_store.node_index(
    graph text, OUT index regclass, OUT opclass text, OUT options text[], OUT valid boolean, OUT mine boolean)
    RETURNS SETOF record
LANGUAGE sql STABLE STRICT PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid::regclass, o.opcname::text, c.reloptions, i.indisvalid, pg_has_role(c.relowner, 'USAGE')
    FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam JOIN pg_opclass o ON o.oid = i.indclass[0]
    WHERE c.relnamespace = 'gpuagent'::regnamespace AND c.relname = gpuagent_store.node_index_name(graph)
        AND i.indrelid = 'gpuagent.graph_node'::regclass AND a.amname = 'gpuknn'
$$;
COMMENT ON FUNCTION gpuagent_store.node_index(text) IS
    'the index that index_knowledge_graph made for a graph; mine: the current user may drop it; zero rows without one';

CREATE FUNCTION gpuagent_store.drop_node_index(graph text, dim bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    have record;
BEGIN
    SELECT * INTO have FROM gpuagent_store.node_index(graph) n WHERE n.mine AND n.options @> ARRAY['dim=' || dim] IS NOT TRUE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    LOCK TABLE gpuagent.graph IN ROW EXCLUSIVE MODE;
    EXECUTE format('DROP INDEX %s', have.index);
    UPDATE gpuagent.graph g SET node_index = NULL WHERE g.graph = drop_node_index.graph AND g.node_index IS NOT NULL;
END
$$;
COMMENT ON FUNCTION gpuagent_store.drop_node_index(text, bigint) IS
    'drops the index of a graph if the caller owns it and it is not of this dimension';

CREATE FUNCTION gpuagent.index_knowledge_graph(graph text, metric text DEFAULT NULL, storage text DEFAULT 'f16') RETURNS regclass
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    space record;
    have record;
    same boolean;
    wanted_options text[];
BEGIN
    PERFORM gpuagent_store.require_graph(graph);
    PERFORM gpuagent_store.metric_operator(metric);
    IF storage IS NULL OR storage NOT IN ('f16', 'f32', 'int8') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('unknown storage "%s"', storage), HINT = 'Use f16, f32 or int8.';
    END IF;
    IF NOT pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = 'gpuagent.graph_node'::regclass), 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'must be owner of table graph_node', HINT = 'Who ran gpuagent.setup() owns it, and may create indexes.';
    END IF;
    LOCK TABLE gpuagent.graph IN ROW EXCLUSIVE MODE;
    -- Tables before rows. What is replaced needs more than SHARE, which is what CREATE INDEX takes.
    IF EXISTS (SELECT FROM gpuagent_store.node_index(graph)) THEN
        LOCK TABLE gpuagent.graph_node IN ACCESS EXCLUSIVE MODE;
    ELSE
        LOCK TABLE gpuagent.graph_node IN SHARE MODE;
    END IF;
    SELECT g.dim, coalesce(index_knowledge_graph.metric, g.metric, 'cosine') AS metric INTO space
    FROM gpuagent.graph g WHERE g.graph = index_knowledge_graph.graph FOR UPDATE;
    IF space.dim IS NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the dimension of graph "%s" is not known', graph), HINT = 'Store a node with an embedding first.';
    END IF;
    PERFORM gpuagent_store.metric_operator(space.metric);
    wanted_options := ARRAY['storage=' || storage, 'dim=' || space.dim];
    SELECT * INTO have FROM gpuagent_store.node_index(graph);
    same := FOUND AND have.valid AND have.opclass = format('embedding_%s_ops', space.metric) AND have.options = wanted_options;
    IF NOT same THEN
        IF FOUND THEN
            EXECUTE format('DROP INDEX %s', have.index);
        END IF;
        EXECUTE format(
            'CREATE INDEX %I ON gpuagent.graph_node USING gpuknn (embedding gpuagent.embedding_%s_ops)'
            ' WITH (storage = %L, dim = %L) WHERE graph = %L AND embedding IS NOT NULL',
            gpuagent_store.node_index_name(graph), space.metric, storage, space.dim, graph);
        SELECT * INTO have FROM gpuagent_store.node_index(graph);
        EXECUTE format('COMMENT ON INDEX %s IS %L', have.index, format('nearest nodes of graph "%s"', graph));
    END IF;
    UPDATE gpuagent.graph g SET metric = space.metric, node_index = have.index::text
    WHERE g.graph = index_knowledge_graph.graph AND (g.metric, g.node_index) IS DISTINCT FROM (space.metric, have.index::text);
    RETURN have.index;
END
$$;
COMMENT ON FUNCTION gpuagent.index_knowledge_graph(text, text, text) IS
    'makes the gpuknn index that search_knowledge_graph uses for a graph, or replaces one of another metric, storage or dimension; returns it. metric: l2, ip, cosine or l1, becomes that of the graph, NULL: the graph''s, cosine if it has none; storage: f16, f32 or int8. For the owner of graph_node; writers of nodes wait meanwhile. Unknown graph: 42704; no dimension yet: 55000';
