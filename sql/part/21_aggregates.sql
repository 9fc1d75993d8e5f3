
-- Support functions of the aggregates that do not depend on the type
CREATE FUNCTION gpuagent.sum_combine(internal, internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'ga_sum_combine' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.sum_combine(internal, internal) IS 'combines partial sums of parallel workers';
CREATE FUNCTION gpuagent.sum_serialize(internal) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_sum_serialize' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.sum_serialize(internal) IS 'serialises a partial sum';
CREATE FUNCTION gpuagent.sum_deserialize(bytea, internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'ga_sum_deserialize' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.sum_deserialize(bytea, internal) IS 'reads a serialised partial sum';
CREATE FUNCTION gpuagent.stack_final(internal) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'ga_stack_final' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.stack_final(internal) IS 'final function of stack';
CREATE FUNCTION gpuagent.unstack(data gpuagent.swarm_tensor) RETURNS TABLE (ordinal bigint, state gpuagent.agent_state)
    AS 'MODULE_PATHNAME', 'ga_unstack' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 1000;
COMMENT ON FUNCTION gpuagent.unstack(gpuagent.swarm_tensor) IS 'rows of dimension 0 with their 1-based number; inverse of stack';
