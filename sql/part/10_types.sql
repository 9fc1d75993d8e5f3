-- Shell types first: the casts and cross-type functions below need all three names.
CREATE TYPE gpuagent.embedding;
CREATE TYPE gpuagent.agent_state;
CREATE TYPE gpuagent.swarm_tensor;

CREATE FUNCTION gpuagent.embedding_typmod_in(cstring[]) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.embedding_typmod_in(cstring[]) IS 'type modifier input of embedding(dim [, dtype])';
CREATE FUNCTION gpuagent.embedding_typmod_out(integer) RETURNS cstring
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.embedding_typmod_out(integer) IS 'type modifier output of embedding';
CREATE FUNCTION gpuagent.agent_state_typmod_in(cstring[]) RETURNS integer
    AS 'MODULE_PATHNAME', 'ga_dtype_typmod_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.agent_state_typmod_in(cstring[]) IS 'type modifier input of agent_state(dtype)';
CREATE FUNCTION gpuagent.agent_state_typmod_out(integer) RETURNS cstring
    AS 'MODULE_PATHNAME', 'ga_dtype_typmod_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.agent_state_typmod_out(integer) IS 'type modifier output of agent_state';
CREATE FUNCTION gpuagent.swarm_tensor_typmod_in(cstring[]) RETURNS integer
    AS 'MODULE_PATHNAME', 'ga_dtype_typmod_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.swarm_tensor_typmod_in(cstring[]) IS 'type modifier input of swarm_tensor(dtype)';
CREATE FUNCTION gpuagent.swarm_tensor_typmod_out(integer) RETURNS cstring
    AS 'MODULE_PATHNAME', 'ga_dtype_typmod_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.swarm_tensor_typmod_out(integer) IS 'type modifier output of swarm_tensor';
