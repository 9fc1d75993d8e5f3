-- AGENTS

CREATE FUNCTION gpuagent_store.agent_rows(
    ids text[], states gpuagent.swarm_tensor, memories gpuagent.swarm_tensor, fitness double precision[],
    metadata jsonb, expected_versions bigint[])
    RETURNS TABLE (id text, state gpuagent.agent_state, memory gpuagent.agent_state, fitness double precision,
                   metadata jsonb, version bigint)
    AS 'MODULE_PATHNAME', 'ga_agent_rows' LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 1000;
COMMENT ON FUNCTION gpuagent_store.agent_rows(text[], gpuagent.swarm_tensor, gpuagent.swarm_tensor, double precision[], jsonb, bigint[]) IS
    'the aligned arguments of store_agents as rows in id order; checks them';

CREATE FUNCTION gpuagent.store_agent(
    id text, state gpuagent.agent_state DEFAULT NULL, memory gpuagent.agent_state DEFAULT NULL,
    generation bigint DEFAULT NULL, fitness double precision DEFAULT NULL, metadata jsonb DEFAULT NULL,
    expected_version bigint DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_store_agent' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.store_agent(text, gpuagent.agent_state, gpuagent.agent_state, bigint, double precision, jsonb, bigint) IS
    'inserts or updates one agent; returns its version. NULL keeps what is stored. expected_version: 40001 unless the agent has it, 0 unless it is new. NaN fitness: 22003';

CREATE FUNCTION gpuagent.store_agents(
    ids text[], states gpuagent.swarm_tensor DEFAULT NULL, memories gpuagent.swarm_tensor DEFAULT NULL,
    generation bigint DEFAULT NULL, fitness double precision[] DEFAULT NULL, metadata jsonb DEFAULT NULL,
    expected_versions bigint[] DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_store_agents' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.store_agents(text[], gpuagent.swarm_tensor, gpuagent.swarm_tensor, bigint, double precision[], jsonb, bigint[]) IS
    'inserts or updates agents; row i of states and memories and element i of fitness belong to ids[i]; metadata is an object for all or an array of n. Returns the rows written. NULL arguments keep what is stored, NULL elements set NULL. Duplicate ids: 21000; NaN fitness: 22003; expected_versions (0: must be new) that do not hold: 40001';

CREATE FUNCTION gpuagent.retrieve_agent(id text)
    RETURNS TABLE (id text, state gpuagent.agent_state, memory gpuagent.agent_state, generation bigint,
                   fitness double precision, metadata jsonb, version bigint, created_at timestamptz,
                   updated_at timestamptz, origin uuid)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS $$
    SELECT a.id, a.state, a.memory, a.generation, a.fitness, a.metadata, a.version, a.created_at, a.updated_at, a.origin
    FROM gpuagent.agent a WHERE a.id OPERATOR(pg_catalog.=) $1
$$;
COMMENT ON FUNCTION gpuagent.retrieve_agent(text) IS
    'the agent; zero rows when there is none. Plans as the SELECT by key that it is';

CREATE FUNCTION gpuagent.retrieve_agents(
    ids text[] DEFAULT NULL, generation bigint DEFAULT NULL, prefix text DEFAULT NULL, best bigint DEFAULT NULL)
    RETURNS TABLE (id text, state gpuagent.agent_state, memory gpuagent.agent_state, generation bigint,
                   fitness double precision, metadata jsonb, version bigint, created_at timestamptz,
                   updated_at timestamptz, origin uuid)
    AS 'MODULE_PATHNAME', 'ga_retrieve_agents' LANGUAGE C STABLE PARALLEL SAFE ROWS 1000;
COMMENT ON FUNCTION gpuagent.retrieve_agents(text[], bigint, text, bigint) IS
    'agents that meet every condition given (NULL: no condition); best is a number: the fittest, best first, NULL fitness last, ties by id. Else in the order of ids, else by id; ids that do not exist give no row';

CREATE FUNCTION gpuagent_store.population_row(
    ids text[], generation bigint, prefix text, best bigint, checkpoint bigint,
    OUT ids text[], OUT states gpuagent.swarm_tensor, OUT memories gpuagent.swarm_tensor,
    OUT generations bigint[], OUT fitness double precision[], OUT versions bigint[])
    AS 'MODULE_PATHNAME', 'ga_population_row' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.population_row(text[], bigint, text, bigint, bigint) IS
    'implementation of retrieve_population';

-- As with tensor_chunks: a function in FROM would be spooled, matrices and all; this wrapper is inlined.
CREATE FUNCTION gpuagent.retrieve_population(
    ids text[] DEFAULT NULL, generation bigint DEFAULT NULL, prefix text DEFAULT NULL, best bigint DEFAULT NULL,
    checkpoint bigint DEFAULT NULL)
    RETURNS TABLE (ids text[], states gpuagent.swarm_tensor, memories gpuagent.swarm_tensor,
                   generations bigint[], fitness double precision[], versions bigint[])
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS $$
    SELECT (s.p).ids, (s.p).states, (s.p).memories, (s.p).generations, (s.p).fitness, (s.p).versions
    FROM (SELECT gpuagent_store.population_row($1, $2, $3, $4, $5) AS p OFFSET 0) s
$$;
COMMENT ON FUNCTION gpuagent.retrieve_population(text[], bigint, text, bigint, bigint) IS
    'the agents of retrieve_agents as one row: ids, matrices whose row i belongs to ids[i], aligned arrays; with checkpoint, as they were then. A matrix is NULL when every value is, 22004 when only some are, 22000 for mixed shapes; no agents give empty arrays';

CREATE FUNCTION gpuagent.agent_exists(id text) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT EXISTS (SELECT FROM gpuagent.agent a WHERE a.id OPERATOR(pg_catalog.=) $1)
$$;
COMMENT ON FUNCTION gpuagent.agent_exists(text) IS 'true when the agent exists; false for NULL';

CREATE FUNCTION gpuagent.delete_agent(id text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    DELETE FROM gpuagent.agent a WHERE a.id = delete_agent.id;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION gpuagent.delete_agent(text) IS 'true when the agent existed';

CREATE FUNCTION gpuagent.delete_agents(ids text[] DEFAULT NULL, generation bigint DEFAULT NULL, prefix text DEFAULT NULL)
    RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_delete_agents' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.delete_agents(text[], bigint, text) IS
    'deletes the agents that meet every condition given; returns their number; 22023 without any condition';
