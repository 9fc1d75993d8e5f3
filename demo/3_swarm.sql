-- A swarm of 10,000 agents x 256 F32 learns the first 256 values of the model's query bias by selection and mutation.
-- It lives on ten islands of 1,000 agents; in each generation three of them breed: their worse half is replaced by
-- mutated means of two parents of the better half.  The other islands rest, so that versions differ partly.
\set QUIET on
\pset footer off
SELECT setseed(0.42) \g /dev/null

CREATE TEMP TABLE task AS
SELECT gpuagent.subvector(weights::gpuagent.agent_state, 1, 256) AS target
FROM gpuagent.load_weights('minilm', 'encoder.layer.0.attention.self.query.bias');

-- A vector of 256 normally distributed values; "seed" keeps the planner from computing it once for all.
CREATE FUNCTION pg_temp.noise(seed bigint, width float8) RETURNS agent_state
LANGUAGE sql VOLATILE AS $$
	SELECT array_agg((width * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()))::real)::gpuagent.agent_state
	FROM generate_series(1, 256) WHERE seed IS NOT NULL
$$;

SELECT gpuagent.store_swarm('evolution',
	(SELECT gpuagent.stack(pg_temp.noise(i, 0.5) ORDER BY i) FROM generate_series(1, 10000) i),
	'{"task": "query bias", "islands": 10}') AS first_version;

-- One generation: read the last version, select, breed, store the next one, let the table follow the best 100.
CREATE PROCEDURE pg_temp.evolve(generation bigint)
LANGUAGE plpgsql AS $$
DECLARE
	best float8;
	mean float8;
BEGIN
	CREATE TEMP TABLE pool ON COMMIT DROP AS
	SELECT ordinal, (ordinal - 1) / 1000 AS island, state AS genome, -(state <-> target) AS fitness
	FROM task, gpuagent.unstack(gpuagent.retrieve_swarm('evolution'));

	WITH ranked AS (
		SELECT ordinal, island, genome, row_number() OVER (PARTITION BY island ORDER BY fitness DESC, ordinal) AS rank
		FROM pool WHERE (island + generation * 3) % 10 < 3),
	pair AS (
		SELECT ordinal, island, 1 + floor(500 * random() ^ 2) AS mother, 1 + floor(500 * random() ^ 2) AS father
		FROM ranked WHERE rank > 500),
	child AS (
		SELECT pair.ordinal, ((m.genome + f.genome) * array_fill(0.5::real, ARRAY[256])::gpuagent.agent_state)
			+ pg_temp.noise(pair.ordinal, 0.02) AS genome
		FROM pair
		JOIN ranked m ON m.island = pair.island AND m.rank = pair.mother
		JOIN ranked f ON f.island = pair.island AND f.rank = pair.father)
	UPDATE pool SET genome = child.genome, fitness = -(child.genome <-> target)
	FROM child, task WHERE child.ordinal = pool.ordinal;

	PERFORM gpuagent.store_swarm('evolution', (SELECT gpuagent.stack(genome ORDER BY ordinal) FROM pool),
		jsonb_build_object('generation', generation));

	-- An agent's memory is what it has still to learn of the first 128 values.
	PERFORM gpuagent.store_agents(array_agg('best/' || to_char(place, 'FM000') ORDER BY place),
		gpuagent.stack(genome ORDER BY place)::gpuagent.swarm_tensor,
		gpuagent.stack(gpuagent.subvector(target - genome, 1, 128) ORDER BY place)::gpuagent.swarm_tensor,
		generation, array_agg(fitness ORDER BY place))
	FROM (SELECT genome, fitness, row_number() OVER (ORDER BY fitness DESC, ordinal) AS place FROM pool) ranking, task
	WHERE place <= 100;

	SELECT max(fitness), avg(fitness) INTO best, mean FROM pool;
	PERFORM gpuagent.store_metrics('evolution', jsonb_build_object('best', best, 'mean', mean), generation);
	RAISE NOTICE 'generation %: best fitness %, mean %', generation, round(best::numeric, 3), round(mean::numeric, 3);
END
$$;

\set VERBOSITY terse
\pset tuples_only on
SELECT format('CALL pg_temp.evolve(%s)', generation) FROM generate_series(1, 8) generation \gexec
\pset tuples_only off

SELECT v.version, gpuagent.shape(t.data), pg_size_pretty(gpuagent.nbytes(t.data)) AS size
FROM gpuagent.swarm_version v, LATERAL (SELECT gpuagent.retrieve_swarm(v.swarm, v.version) AS data) t
WHERE v.swarm = 'evolution' ORDER BY v.version;
SELECT id, generation, round(fitness::numeric, 3) AS fitness, gpuagent.shape(state) AS state, gpuagent.shape(memory) AS memory
FROM gpuagent.retrieve_agents(best => 3);
