-- What a database holds, one line a thing, with the digest of its bits: two databases hold the same when the lines are
-- equal.  Values are read through the functions that an application uses.
\set QUIET on
\pset tuples_only on
\pset format unaligned
\pset fieldsep ' '
CREATE FUNCTION pg_temp.bits(t gpuagent.swarm_tensor) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(gpuagent.dtype(t) || ' ' || gpuagent.shape(t)::text || ' '
		|| encode(sha256(gpuagent.tensor_bytes(t)), 'hex'), '-')
$$;

SELECT 'weights', layer, version, pg_temp.bits(weights), pg_temp.bits(biases)
FROM gpuagent.load_weights('minilm') ORDER BY layer COLLATE "C";

SELECT 'expert', expert, domain, parameter_count, architecture, activation_count, success_rate
FROM gpuagent.expert ORDER BY expert;

-- What a checkpoint holds of a swarm is its current version; older versions are the database's own history.
SELECT 'swarm', swarm, current, pg_temp.bits(gpuagent.retrieve_swarm(swarm)), metadata FROM gpuagent.swarm ORDER BY swarm;

SELECT 'agent', id, generation, version, encode(float8send(fitness), 'hex'), pg_temp.bits(state::gpuagent.swarm_tensor),
	pg_temp.bits(memory::gpuagent.swarm_tensor), metadata
FROM gpuagent.agent ORDER BY id;

SELECT 'node', graph, id, pg_temp.bits(embedding::gpuagent.swarm_tensor), metadata FROM gpuagent.graph_node ORDER BY graph, id;

SELECT 'edge', graph, source, target, edge_type, encode(float8send(weight), 'hex'), metadata
FROM gpuagent.graph_edge ORDER BY graph, source, target, edge_type;

SELECT 'metric', run, key, step, encode(float8send(value), 'hex') FROM gpuagent.metric ORDER BY run, key, step;
