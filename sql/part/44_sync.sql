
-- WRITE-BACK
CREATE FUNCTION gpuagent.sync_swarm(swarm text, metadata jsonb DEFAULT NULL, force boolean DEFAULT false)
    RETURNS TABLE (version bigint, changed boolean, dirty_bytes bigint, step bigint)
    AS 'MODULE_PATHNAME', 'ga_sync_swarm' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION gpuagent.sync_swarm(text, jsonb, boolean) IS
    'makes what clients have written into the swarm''s mapped memory (map_swarm, mode r+) a new version, between two of their steps, at the price of what changed; nothing changed: nothing written, the current version. One version per transaction. 55000 when it is not mapped, when another has stored a version since, and when a client ended inside a step, unless force';

CREATE FUNCTION gpuagent.revert_swarm(swarm text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_revert_swarm' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.revert_swarm(text) IS
    'brings the newest version back into the swarm''s mapped memory, discarding what was not synced, and returns it; at once, not at commit; clients see that the epoch of the control page changed';

CREATE FUNCTION gpuagent_store.autosync() RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_autosync' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.autosync() IS
    'sync_swarm of each swarm that is mapped with autosync and had a step since its last sync, each by itself; returns the number of versions made; errors are in stat_handle';

CREATE FUNCTION gpuagent_store.swarm_changed(swarm text) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_swarm_changed' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.swarm_changed(text) IS
    'called when another than sync_swarm gives a swarm a version or deletes it: at commit, clients of its mapped memory learn that it is out of date';
