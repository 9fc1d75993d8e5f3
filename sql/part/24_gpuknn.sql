
-- NEAREST NEIGHBOURS: the index access method gpuknn.
CREATE FUNCTION gpuagent_store.gpuknn_handler(internal) RETURNS index_am_handler
    AS 'MODULE_PATHNAME' LANGUAGE C;
COMMENT ON FUNCTION gpuagent_store.gpuknn_handler(internal) IS 'what the access method gpuknn is';
CREATE ACCESS METHOD gpuknn TYPE INDEX HANDLER gpuagent_store.gpuknn_handler;
COMMENT ON ACCESS METHOD gpuknn IS
    'exact nearest neighbours: ORDER BY column <operator> query, with the answer of a sequential scan; WITH (storage = f16 | f32, dim)';

-- What an operator class tells the method: its metric (1) and its type (2).
CREATE FUNCTION gpuagent_store.gpuknn_metric_l2(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_l2(internal) IS 'support function 1 of operator classes of gpuknn: <->';
CREATE FUNCTION gpuagent_store.gpuknn_metric_ip(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_ip(internal) IS 'support function 1 of operator classes of gpuknn: <#>';
CREATE FUNCTION gpuagent_store.gpuknn_metric_cosine(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_cosine(internal) IS 'support function 1 of operator classes of gpuknn: <=>';
CREATE FUNCTION gpuagent_store.gpuknn_metric_l1(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_l1(internal) IS 'support function 1 of operator classes of gpuknn: <+>';
CREATE FUNCTION gpuagent_store.gpuknn_type_embedding(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_type_embedding(internal) IS 'support function 2 of operator classes of gpuknn: embedding';
CREATE FUNCTION gpuagent_store.gpuknn_type_agent_state(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_type_agent_state(internal) IS 'support function 2 of operator classes of gpuknn: agent_state';

CREATE OPERATOR CLASS gpuagent.embedding_l2_ops FOR TYPE gpuagent.embedding USING gpuknn AS
    OPERATOR 1 gpuagent.<-> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l2(internal), FUNCTION 2 gpuagent_store.gpuknn_type_embedding(internal);
COMMENT ON OPERATOR CLASS gpuagent.embedding_l2_ops USING gpuknn IS 'nearest embedding by Euclidean distance, <->';
COMMENT ON OPERATOR FAMILY gpuagent.embedding_l2_ops USING gpuknn IS 'nearest embedding by Euclidean distance, <->';
CREATE OPERATOR CLASS gpuagent.embedding_ip_ops FOR TYPE gpuagent.embedding USING gpuknn AS
    OPERATOR 1 gpuagent.<#> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_ip(internal), FUNCTION 2 gpuagent_store.gpuknn_type_embedding(internal);
COMMENT ON OPERATOR CLASS gpuagent.embedding_ip_ops USING gpuknn IS 'nearest embedding by negative inner product, <#>';
COMMENT ON OPERATOR FAMILY gpuagent.embedding_ip_ops USING gpuknn IS 'nearest embedding by negative inner product, <#>';
CREATE OPERATOR CLASS gpuagent.embedding_cosine_ops FOR TYPE gpuagent.embedding USING gpuknn AS
    OPERATOR 1 gpuagent.<=> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_cosine(internal), FUNCTION 2 gpuagent_store.gpuknn_type_embedding(internal);
COMMENT ON OPERATOR CLASS gpuagent.embedding_cosine_ops USING gpuknn IS 'nearest embedding by cosine distance, <=>';
COMMENT ON OPERATOR FAMILY gpuagent.embedding_cosine_ops USING gpuknn IS 'nearest embedding by cosine distance, <=>';
CREATE OPERATOR CLASS gpuagent.embedding_l1_ops FOR TYPE gpuagent.embedding USING gpuknn AS
    OPERATOR 1 gpuagent.<+> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l1(internal), FUNCTION 2 gpuagent_store.gpuknn_type_embedding(internal);
COMMENT ON OPERATOR CLASS gpuagent.embedding_l1_ops USING gpuknn IS 'nearest embedding by L1 distance, <+>';
COMMENT ON OPERATOR FAMILY gpuagent.embedding_l1_ops USING gpuknn IS 'nearest embedding by L1 distance, <+>';
CREATE OPERATOR CLASS gpuagent.agent_state_l2_ops FOR TYPE gpuagent.agent_state USING gpuknn AS
    OPERATOR 1 gpuagent.<-> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l2(internal), FUNCTION 2 gpuagent_store.gpuknn_type_agent_state(internal);
COMMENT ON OPERATOR CLASS gpuagent.agent_state_l2_ops USING gpuknn IS 'nearest agent_state by Euclidean distance, <->';
COMMENT ON OPERATOR FAMILY gpuagent.agent_state_l2_ops USING gpuknn IS 'nearest agent_state by Euclidean distance, <->';
CREATE OPERATOR CLASS gpuagent.agent_state_ip_ops FOR TYPE gpuagent.agent_state USING gpuknn AS
    OPERATOR 1 gpuagent.<#> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_ip(internal), FUNCTION 2 gpuagent_store.gpuknn_type_agent_state(internal);
COMMENT ON OPERATOR CLASS gpuagent.agent_state_ip_ops USING gpuknn IS 'nearest agent_state by negative inner product, <#>';
COMMENT ON OPERATOR FAMILY gpuagent.agent_state_ip_ops USING gpuknn IS 'nearest agent_state by negative inner product, <#>';
CREATE OPERATOR CLASS gpuagent.agent_state_cosine_ops FOR TYPE gpuagent.agent_state USING gpuknn AS
    OPERATOR 1 gpuagent.<=> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_cosine(internal), FUNCTION 2 gpuagent_store.gpuknn_type_agent_state(internal);
COMMENT ON OPERATOR CLASS gpuagent.agent_state_cosine_ops USING gpuknn IS 'nearest agent_state by cosine distance, <=>';
COMMENT ON OPERATOR FAMILY gpuagent.agent_state_cosine_ops USING gpuknn IS 'nearest agent_state by cosine distance, <=>';
CREATE OPERATOR CLASS gpuagent.agent_state_l1_ops FOR TYPE gpuagent.agent_state USING gpuknn AS
    OPERATOR 1 gpuagent.<+> FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l1(internal), FUNCTION 2 gpuagent_store.gpuknn_type_agent_state(internal);
COMMENT ON OPERATOR CLASS gpuagent.agent_state_l1_ops USING gpuknn IS 'nearest agent_state by L1 distance, <+>';
COMMENT ON OPERATOR FAMILY gpuagent.agent_state_l1_ops USING gpuknn IS 'nearest agent_state by L1 distance, <+>';

CREATE FUNCTION gpuagent_store.check_gpuknn(index regclass) RETURNS bigint
    AS 'MODULE_PATHNAME', 'gpuknn_check' LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION gpuagent_store.check_gpuknn(regclass) IS
    'looks at all pages of a gpuknn index: rows that it holds; XX002 when they do not agree with each other';

CREATE FUNCTION gpuagent_store.index_status(index regclass, OUT metric text, OUT storage text, OUT dim bigint, OUT rows bigint,
    OUT resident boolean, OUT device text, OUT device_bytes bigint, OUT lag_rows bigint, OUT scans_device bigint,
    OUT scans_host bigint, OUT fallbacks bigint, OUT last_fallback_reason text)
    AS 'MODULE_PATHNAME', 'ga_index_status_sql' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.index_status(regclass) IS 'the part of a row of stat_index that the catalogs do not have';

CREATE VIEW gpuagent.stat_index AS
    SELECT c.oid::regclass AS index, i.indrelid::regclass AS "table", s.metric, s.storage, s.dim, s.rows,
        pg_relation_size(c.oid) AS index_bytes, s.resident, s.device, s.device_bytes, s.lag_rows,
        s.scans_device, s.scans_host, s.fallbacks, s.last_fallback_reason
    FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
        CROSS JOIN LATERAL gpuagent_store.index_status(c.oid) s
    WHERE c.relkind = 'i' AND a.amname = 'gpuknn';
COMMENT ON VIEW gpuagent.stat_index IS
    'gpuknn indexes of this database: what they hold, the copy of each on a device and how far it is behind, and where scans ran';

CREATE FUNCTION gpuagent_store.mirrors() RETURNS TABLE (device text, object text, database text, used_bytes bigint,
    resident_since timestamptz, last_used_at timestamptz)
    AS 'MODULE_PATHNAME', 'ga_mirrors_sql' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION gpuagent_store.mirrors() IS 'rows of stat_memory: copies of gpuknn indexes on devices';

CREATE FUNCTION gpuagent_store.reset_index_stats() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_reset_index_stats_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.reset_index_stats() IS 'reset_stats(''index'')';

CREATE FUNCTION gpuagent.knn_join(index regclass, queries gpuagent.swarm_tensor, k bigint DEFAULT 10)
    RETURNS TABLE (query bigint, tid tid, distance float8)
    AS 'MODULE_PATHNAME', 'gpuknn_join' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 1000;
COMMENT ON FUNCTION gpuagent.knn_join(regclass, gpuagent.swarm_tensor, bigint) IS
    'the k nearest rows of each of many queries by a gpuknn index: queries are counted from 1, rows by their ctid';
