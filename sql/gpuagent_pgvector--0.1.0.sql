\echo Use "CREATE EXTENSION gpuagent_pgvector" to load this file. \quit

-- While this runs, search_path is gpuagent and the schema of pgvector: its types are named without a schema, since
-- only 16 and later have @extschema:vector@. Operators and functions are found by the types of their arguments.

-- Casts, on assignment as those of arrays: no operator becomes ambiguous.
CREATE FUNCTION gpuagent.to_embedding(vector, integer, boolean) RETURNS gpuagent.embedding
    AS 'MODULE_PATHNAME', 'embedding_from_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_embedding(vector, integer, boolean) IS 'cast from vector: dtype F32 unless the type modifier says otherwise';
CREATE CAST (vector AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(vector, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_embedding(halfvec, integer, boolean) RETURNS gpuagent.embedding
    AS 'MODULE_PATHNAME', 'embedding_from_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_embedding(halfvec, integer, boolean) IS 'cast from halfvec: dtype F16 unless the type modifier says otherwise';
CREATE CAST (halfvec AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(halfvec, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_vector(gpuagent.embedding) RETURNS vector
    AS 'MODULE_PATHNAME', 'ga_to_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_vector(gpuagent.embedding) IS 'cast to vector: 1 to 16000 elements, row-major; 22003 for NaN, infinities and what is out of range';
CREATE CAST (gpuagent.embedding AS vector) WITH FUNCTION gpuagent.to_vector(gpuagent.embedding) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_halfvec(gpuagent.embedding) RETURNS halfvec
    AS 'MODULE_PATHNAME', 'ga_to_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_halfvec(gpuagent.embedding) IS 'cast to halfvec: 1 to 16000 elements, row-major; 22003 for NaN, infinities and what is out of range';
CREATE CAST (gpuagent.embedding AS halfvec) WITH FUNCTION gpuagent.to_halfvec(gpuagent.embedding) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_agent_state(vector, integer, boolean) RETURNS gpuagent.agent_state
    AS 'MODULE_PATHNAME', 'agent_state_from_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_agent_state(vector, integer, boolean) IS 'cast from vector: dtype F32 unless the type modifier says otherwise';
CREATE CAST (vector AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(vector, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_agent_state(halfvec, integer, boolean) RETURNS gpuagent.agent_state
    AS 'MODULE_PATHNAME', 'agent_state_from_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_agent_state(halfvec, integer, boolean) IS 'cast from halfvec: dtype F16 unless the type modifier says otherwise';
CREATE CAST (halfvec AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(halfvec, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_vector(gpuagent.agent_state) RETURNS vector
    AS 'MODULE_PATHNAME', 'ga_to_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_vector(gpuagent.agent_state) IS 'cast to vector: 1 to 16000 elements, row-major; 22003 for NaN, infinities and what is out of range';
CREATE CAST (gpuagent.agent_state AS vector) WITH FUNCTION gpuagent.to_vector(gpuagent.agent_state) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_halfvec(gpuagent.agent_state) RETURNS halfvec
    AS 'MODULE_PATHNAME', 'ga_to_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_halfvec(gpuagent.agent_state) IS 'cast to halfvec: 1 to 16000 elements, row-major; 22003 for NaN, infinities and what is out of range';
CREATE CAST (gpuagent.agent_state AS halfvec) WITH FUNCTION gpuagent.to_halfvec(gpuagent.agent_state) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_swarm_tensor(vector, integer, boolean) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'swarm_tensor_from_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_swarm_tensor(vector, integer, boolean) IS 'cast from vector: dtype F32 unless the type modifier says otherwise';
CREATE CAST (vector AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(vector, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_swarm_tensor(halfvec, integer, boolean) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'swarm_tensor_from_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_swarm_tensor(halfvec, integer, boolean) IS 'cast from halfvec: dtype F16 unless the type modifier says otherwise';
CREATE CAST (halfvec AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(halfvec, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_vector(gpuagent.swarm_tensor) RETURNS vector
    AS 'MODULE_PATHNAME', 'ga_to_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_vector(gpuagent.swarm_tensor) IS 'cast to vector: 1 to 16000 elements, row-major; 22003 for NaN, infinities and what is out of range';
CREATE CAST (gpuagent.swarm_tensor AS vector) WITH FUNCTION gpuagent.to_vector(gpuagent.swarm_tensor) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_halfvec(gpuagent.swarm_tensor) RETURNS halfvec
    AS 'MODULE_PATHNAME', 'ga_to_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_halfvec(gpuagent.swarm_tensor) IS 'cast to halfvec: 1 to 16000 elements, row-major; 22003 for NaN, infinities and what is out of range';
CREATE CAST (gpuagent.swarm_tensor AS halfvec) WITH FUNCTION gpuagent.to_halfvec(gpuagent.swarm_tensor) AS ASSIGNMENT;

-- What an operator class tells gpuknn: its metric (1), which pgvector sums in F32, and its type (2).
CREATE FUNCTION gpuagent_store.gpuknn_metric_l2_f32(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_l2_f32(internal) IS 'support function 1 of operator classes of gpuknn: <-> of pgvector';
CREATE FUNCTION gpuagent_store.gpuknn_metric_ip_f32(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_ip_f32(internal) IS 'support function 1 of operator classes of gpuknn: <#> of pgvector';
CREATE FUNCTION gpuagent_store.gpuknn_metric_cosine_f32(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_cosine_f32(internal) IS 'support function 1 of operator classes of gpuknn: <=> of pgvector';
CREATE FUNCTION gpuagent_store.gpuknn_metric_l1_f32(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_metric_l1_f32(internal) IS 'support function 1 of operator classes of gpuknn: <+> of pgvector';
CREATE FUNCTION gpuagent_store.gpuknn_type_vector(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_type_vector(internal) IS 'support function 2 of operator classes of gpuknn: vector';
CREATE FUNCTION gpuagent_store.gpuknn_type_halfvec(internal) RETURNS void AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.gpuknn_type_halfvec(internal) IS 'support function 2 of operator classes of gpuknn: halfvec';

CREATE OPERATOR CLASS gpuagent.vector_l2_ops FOR TYPE vector USING gpuknn AS
    OPERATOR 1 <-> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l2_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_vector(internal);
COMMENT ON OPERATOR CLASS gpuagent.vector_l2_ops USING gpuknn IS 'nearest vector by Euclidean distance, <->';
COMMENT ON OPERATOR FAMILY gpuagent.vector_l2_ops USING gpuknn IS 'nearest vector by Euclidean distance, <->';
CREATE OPERATOR CLASS gpuagent.vector_ip_ops FOR TYPE vector USING gpuknn AS
    OPERATOR 1 <#> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_ip_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_vector(internal);
COMMENT ON OPERATOR CLASS gpuagent.vector_ip_ops USING gpuknn IS 'nearest vector by negative inner product, <#>';
COMMENT ON OPERATOR FAMILY gpuagent.vector_ip_ops USING gpuknn IS 'nearest vector by negative inner product, <#>';
CREATE OPERATOR CLASS gpuagent.vector_cosine_ops FOR TYPE vector USING gpuknn AS
    OPERATOR 1 <=> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_cosine_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_vector(internal);
COMMENT ON OPERATOR CLASS gpuagent.vector_cosine_ops USING gpuknn IS 'nearest vector by cosine distance, <=>';
COMMENT ON OPERATOR FAMILY gpuagent.vector_cosine_ops USING gpuknn IS 'nearest vector by cosine distance, <=>';
CREATE OPERATOR CLASS gpuagent.vector_l1_ops FOR TYPE vector USING gpuknn AS
    OPERATOR 1 <+> (vector, vector) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l1_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_vector(internal);
COMMENT ON OPERATOR CLASS gpuagent.vector_l1_ops USING gpuknn IS 'nearest vector by L1 distance, <+>';
COMMENT ON OPERATOR FAMILY gpuagent.vector_l1_ops USING gpuknn IS 'nearest vector by L1 distance, <+>';
CREATE OPERATOR CLASS gpuagent.halfvec_l2_ops FOR TYPE halfvec USING gpuknn AS
    OPERATOR 1 <-> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l2_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_halfvec(internal);
COMMENT ON OPERATOR CLASS gpuagent.halfvec_l2_ops USING gpuknn IS 'nearest halfvec by Euclidean distance, <->';
COMMENT ON OPERATOR FAMILY gpuagent.halfvec_l2_ops USING gpuknn IS 'nearest halfvec by Euclidean distance, <->';
CREATE OPERATOR CLASS gpuagent.halfvec_ip_ops FOR TYPE halfvec USING gpuknn AS
    OPERATOR 1 <#> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_ip_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_halfvec(internal);
COMMENT ON OPERATOR CLASS gpuagent.halfvec_ip_ops USING gpuknn IS 'nearest halfvec by negative inner product, <#>';
COMMENT ON OPERATOR FAMILY gpuagent.halfvec_ip_ops USING gpuknn IS 'nearest halfvec by negative inner product, <#>';
CREATE OPERATOR CLASS gpuagent.halfvec_cosine_ops FOR TYPE halfvec USING gpuknn AS
    OPERATOR 1 <=> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_cosine_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_halfvec(internal);
COMMENT ON OPERATOR CLASS gpuagent.halfvec_cosine_ops USING gpuknn IS 'nearest halfvec by cosine distance, <=>';
COMMENT ON OPERATOR FAMILY gpuagent.halfvec_cosine_ops USING gpuknn IS 'nearest halfvec by cosine distance, <=>';
CREATE OPERATOR CLASS gpuagent.halfvec_l1_ops FOR TYPE halfvec USING gpuknn AS
    OPERATOR 1 <+> (halfvec, halfvec) FOR ORDER BY pg_catalog.float_ops,
    FUNCTION 1 gpuagent_store.gpuknn_metric_l1_f32(internal), FUNCTION 2 gpuagent_store.gpuknn_type_halfvec(internal);
COMMENT ON OPERATOR CLASS gpuagent.halfvec_l1_ops USING gpuknn IS 'nearest halfvec by L1 distance, <+>';
COMMENT ON OPERATOR FAMILY gpuagent.halfvec_l1_ops USING gpuknn IS 'nearest halfvec by L1 distance, <+>';
