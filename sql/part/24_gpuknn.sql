
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
