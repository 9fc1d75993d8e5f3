
COMMENT ON TYPE gpuagent.embedding IS
    'vector for search: 1..65535 finite elements; embedding(dim) is F32, embedding(dim, F16 | BF16) narrower';
COMMENT ON TYPE gpuagent.agent_state IS
    'state or memory of an agent: tensor of rank 0..8, any dtype, up to 16 MiB; equality by dtype, shape and bits';
COMMENT ON TYPE gpuagent.swarm_tensor IS
    'whole matrix: tensor of rank 0..8, any dtype, up to 256 MiB, checksummed; larger ones live in the store in pieces';

-- The compact text form follows gpuagent.compression, its level and the version of zstd. embedding never prints it.
ALTER FUNCTION gpuagent.agent_state_out(gpuagent.agent_state) STABLE;
ALTER FUNCTION gpuagent.swarm_tensor_out(gpuagent.swarm_tensor) STABLE;
