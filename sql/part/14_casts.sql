
-- Every cast from an array is by assignment. Implicit ones would make comparisons of ordinary arrays ambiguous
-- (integer[] = integer[] could be that of embedding) wherever this schema is in the search_path; operators that
-- take an array beside an embedding are in 23_array_operators.sql.
CREATE CAST (real[] AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(real[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (double precision[] AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(double precision[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (smallint[] AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(smallint[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (integer[] AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(integer[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (bigint[] AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(bigint[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (numeric[] AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(numeric[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (real[] AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(real[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (double precision[] AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(double precision[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (smallint[] AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(smallint[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (integer[] AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(integer[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (bigint[] AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(bigint[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (numeric[] AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(numeric[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (real[] AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(real[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (double precision[] AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(double precision[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (smallint[] AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(smallint[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (integer[] AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(integer[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (bigint[] AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(bigint[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (numeric[] AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(numeric[], integer, boolean) AS ASSIGNMENT;

-- Among the three types: same dtype and shape, checked against the target's limits.
CREATE FUNCTION gpuagent.to_embedding(gpuagent.agent_state, integer, boolean) RETURNS gpuagent.embedding
    AS 'MODULE_PATHNAME', 'embedding_from_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_embedding(gpuagent.agent_state, integer, boolean) IS 'cast from agent_state: same dtype and shape unless the type modifier says otherwise';
CREATE CAST (gpuagent.agent_state AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(gpuagent.agent_state, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_embedding(gpuagent.swarm_tensor, integer, boolean) RETURNS gpuagent.embedding
    AS 'MODULE_PATHNAME', 'embedding_from_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_embedding(gpuagent.swarm_tensor, integer, boolean) IS 'cast from swarm_tensor: same dtype and shape unless the type modifier says otherwise';
CREATE CAST (gpuagent.swarm_tensor AS gpuagent.embedding) WITH FUNCTION gpuagent.to_embedding(gpuagent.swarm_tensor, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_agent_state(gpuagent.embedding, integer, boolean) RETURNS gpuagent.agent_state
    AS 'MODULE_PATHNAME', 'agent_state_from_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_agent_state(gpuagent.embedding, integer, boolean) IS 'cast from embedding: same dtype and shape unless the type modifier says otherwise';
CREATE CAST (gpuagent.embedding AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(gpuagent.embedding, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_agent_state(gpuagent.swarm_tensor, integer, boolean) RETURNS gpuagent.agent_state
    AS 'MODULE_PATHNAME', 'agent_state_from_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_agent_state(gpuagent.swarm_tensor, integer, boolean) IS 'cast from swarm_tensor: same dtype and shape unless the type modifier says otherwise';
CREATE CAST (gpuagent.swarm_tensor AS gpuagent.agent_state) WITH FUNCTION gpuagent.to_agent_state(gpuagent.swarm_tensor, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_swarm_tensor(gpuagent.embedding, integer, boolean) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'swarm_tensor_from_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_swarm_tensor(gpuagent.embedding, integer, boolean) IS 'cast from embedding: same dtype and shape unless the type modifier says otherwise';
CREATE CAST (gpuagent.embedding AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(gpuagent.embedding, integer, boolean) AS ASSIGNMENT;
CREATE FUNCTION gpuagent.to_swarm_tensor(gpuagent.agent_state, integer, boolean) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'swarm_tensor_from_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_swarm_tensor(gpuagent.agent_state, integer, boolean) IS 'cast from agent_state: same dtype and shape unless the type modifier says otherwise';
CREATE CAST (gpuagent.agent_state AS gpuagent.swarm_tensor) WITH FUNCTION gpuagent.to_swarm_tensor(gpuagent.agent_state, integer, boolean) AS ASSIGNMENT;

CREATE FUNCTION gpuagent.tensor(dtype text, shape bigint[], data bytea) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'ga_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.tensor(text, bigint[], bytea) IS
    'tensor from raw little-endian elements; 22023 when data does not have the size of dtype and shape';
CREATE FUNCTION gpuagent.compress(tensor gpuagent.swarm_tensor) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'ga_compress_value' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.compress(gpuagent.swarm_tensor) IS
    'the same value held compressed (byte shuffle + zstd) when that saves 2 %; for columns of whole matrices, the store compresses by itself';
