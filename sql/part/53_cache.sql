-- AGENT CACHE

CREATE FUNCTION gpuagent.cached_state(id text) RETURNS gpuagent.agent_state
    AS 'MODULE_PATHNAME', 'ga_cached_state' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.cached_state(text) IS
    'the agent''s state, from the cache when it has the row version that this statement sees, else from the table, and then cached; NULL when there is no such agent';

CREATE FUNCTION gpuagent.retrieve_agent_cached(id text)
    RETURNS TABLE (id text, state gpuagent.agent_state, memory gpuagent.agent_state, generation bigint,
                   fitness double precision, metadata jsonb, version bigint, created_at timestamptz,
                   updated_at timestamptz, origin uuid)
    AS 'MODULE_PATHNAME', 'ga_retrieve_agent_cached' LANGUAGE C STABLE STRICT PARALLEL SAFE ROWS 1;
COMMENT ON FUNCTION gpuagent.retrieve_agent_cached(text) IS
    'as retrieve_agent, through the cache; zero rows when there is no such agent';

CREATE FUNCTION gpuagent.cache_agent(id text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_cache_agent' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent.cache_agent(text) IS
    'true when the agent, as committed and seen by this statement, is in the cache now; 55000 when gpuagent was not preloaded';

CREATE FUNCTION gpuagent.cache_agents(
    ids text[] DEFAULT NULL, generation bigint DEFAULT NULL, prefix text DEFAULT NULL, best bigint DEFAULT NULL)
    RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_cache_agents' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent.cache_agents(text[], bigint, text, bigint) IS
    'caches the agents of retrieve_agents with the same arguments, in that order, as many as the cache holds; their number';

CREATE FUNCTION gpuagent.evict_agents(ids text[] DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_evict_agents' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent.evict_agents(text[]) IS
    'removes agents from the cache, all of this database without ids; how many were there';

CREATE FUNCTION gpuagent.cache_stats() RETURNS TABLE (tier text, agents bigint, hits bigint, misses bigint,
    evictions bigint, used_bytes bigint, budget_bytes bigint, stats_reset timestamptz)
    AS 'MODULE_PATHNAME', 'ga_cache_stats_sql' LANGUAGE C STABLE PARALLEL SAFE ROWS 2;
COMMENT ON FUNCTION gpuagent.cache_stats() IS
    'the agent cache of the server, all databases, by tier: hits and misses of cached_state and retrieve_agent_cached (host) and of the rows of map_agents on GPUs (device), evictions to make room, bytes in use and the most there may be';

CREATE VIEW gpuagent.stat_cache AS
    SELECT s.tier, s.agents, s.hits, s.misses, s.evictions, s.used_bytes, s.budget_bytes, s.stats_reset,
        s.hits::double precision / NULLIF(s.hits + s.misses, 0) AS hit_ratio
    FROM gpuagent.cache_stats() s;
COMMENT ON VIEW gpuagent.stat_cache IS 'cache_stats() and the share of hits among reads';

CREATE FUNCTION gpuagent_store.reset_cache_stats() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_cache_reset_stats_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.reset_cache_stats() IS 'the cache''s part of reset_stats()';

CREATE FUNCTION gpuagent_store.save_cache_keys() RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_save_cache_keys' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.save_cache_keys() IS
    'writes the ids of this database''s cached agents to the tree, hottest first; their number. Maintenance workers call it';

CREATE FUNCTION gpuagent_store.prewarm_cache() RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_prewarm_cache' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.prewarm_cache() IS
    'caches the agents whose ids save_cache_keys() wrote, as far as there is room; their number. Maintenance workers call it after the server was started';
