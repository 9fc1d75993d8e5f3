-- MAPPED MEMORY
CREATE TYPE gpuagent.handle AS (
    handle uuid, object text, version bigint, mode text, device text, dtype text, shape bigint[], nbytes bigint,
    size_bytes bigint, data_offset bigint, control_offset bigint, kind text, path text, token bytea, expires_at timestamptz);
COMMENT ON TYPE gpuagent.handle IS
    'what a client opens to use mapped memory (doc/formats.md): kind shm: the file path, data at data_offset; cuda_fd: fds from the socket path by the one-time token; cuda_ipc: token is a handle of cudaIpcOpenMemHandle';

CREATE FUNCTION gpuagent.map_swarm(swarm text, mode text DEFAULT 'r', version bigint DEFAULT NULL, device text DEFAULT NULL,
    autosync boolean DEFAULT false, lease interval DEFAULT '5 min') RETURNS gpuagent.handle
    AS 'MODULE_PATHNAME', 'ga_map_swarm' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.map_swarm(text, text, bigint, text, boolean, interval) IS
    'brings a swarm to a device, unless it is there, and returns a handle on its memory. mode r: a version, shared by its readers, never changed; r+: the newest version, shared by writers, who need the rights to store one, written back by sync_swarm or autosync. device: host, cuda, cuda:N, NULL for any; cuda:N/ipc for a legacy IPC handle. The handle lasts until its lease ends, whatever becomes of transaction and connection';

CREATE FUNCTION gpuagent.map_agents(ids text[] DEFAULT NULL, generation bigint DEFAULT NULL, prefix text DEFAULT NULL,
    best bigint DEFAULT NULL, column_name text DEFAULT 'state', device text DEFAULT NULL, lease interval DEFAULT '5 min')
    RETURNS gpuagent.handle
    AS 'MODULE_PATHNAME', 'ga_map_agents' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.map_agents(text[], bigint, text, bigint, text, text, interval) IS
    'copies states, or memories, of the agents that retrieve_agents would give, in its order, to a device as one matrix. An id without agent: 42704; a value that is NULL: 22004; mixed shapes: 22000';

CREATE FUNCTION gpuagent.map_query(query text, device text DEFAULT NULL, lease interval DEFAULT '5 min') RETURNS gpuagent.handle
    AS 'MODULE_PATHNAME', 'ga_map_query' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.map_query(text, text, interval) IS
    'copies the last column of a SELECT, vectors of one shape, to a device as one matrix, in the order of its rows; runs with the rights of the caller and changes nothing. NULL: 22004; mixed shapes: 22000; no rows: a matrix of none';

CREATE FUNCTION gpuagent.renew_handle(handle uuid, lease interval DEFAULT '5 min') RETURNS timestamptz
    AS 'MODULE_PATHNAME', 'ga_renew_handle' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.renew_handle(uuid, interval) IS
    'lets the lease of an own handle end that much later than now; returns when; 42704 when it has run out';

CREATE FUNCTION gpuagent.unmap_handle(handle uuid) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_unmap_handle' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.unmap_handle(uuid) IS
    'ends the lease of an own handle; false when there is none. Memory that nobody leases is freed as soon as no client holds it; what was not synced is gone with it';

CREATE FUNCTION gpuagent.unmap_swarm(swarm text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_unmap_swarm' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.unmap_swarm(text) IS 'ends the own leases on a swarm, of every mode and version; returns their number';

CREATE FUNCTION gpuagent_store.mapped_tensor(handle uuid) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'ga_mapped_tensor' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.mapped_tensor(uuid) IS
    'what the memory of an own handle holds at the moment, as a client would read it; 54000 above 256 MiB';

CREATE FUNCTION gpuagent_store.mapped_write(handle uuid, "position" bigint, data bytea) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_mapped_write' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.mapped_write(uuid, bigint, bytea) IS
    'writes bytes from 0-based position into the memory of an own handle of mode r+, as one step of a client; returns the number of steps so far. Not undone by a rollback';

CREATE FUNCTION gpuagent_store.handles() RETURNS TABLE (handle uuid, object text, version bigint, mode text, device text,
    kind text, size_bytes bigint, owner text, client_pid bigint, epoch bigint, step bigint, autosync boolean,
    last_sync_at timestamptz, last_sync_error text, expires_at timestamptz)
    AS 'MODULE_PATHNAME', 'ga_handles' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION gpuagent_store.handles() IS 'rows of stat_handle';

CREATE VIEW gpuagent.stat_handle AS
    SELECT h.handle, h.object, h.version, h.mode, h.device, h.kind, h.size_bytes, h.owner, h.client_pid, h.epoch, h.step,
        h.autosync, h.last_sync_at, h.last_sync_error, h.expires_at
    FROM gpuagent_store.handles() h;
COMMENT ON VIEW gpuagent.stat_handle IS
    'leases on mapped memory of this database; of other roles only that they are there, unless the reader is a member of pg_read_all_stats';

CREATE FUNCTION gpuagent_store.memory() RETURNS TABLE (device text, kind text, object text, database text, used_bytes bigint,
    resident_since timestamptz, last_used_at timestamptz, leases bigint)
    AS 'MODULE_PATHNAME', 'ga_memory' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION gpuagent_store.memory() IS 'rows of stat_memory';

CREATE VIEW gpuagent.stat_memory AS
    SELECT m.device, m.kind, m.object, m.database, m.used_bytes, m.resident_since, m.last_used_at, m.leases
    FROM gpuagent_store.memory() m
    UNION ALL
    SELECT m.device, 'mirror', m.object, m.database, m.used_bytes, m.resident_since, m.last_used_at, 0
    FROM gpuagent_store.mirrors() m;
COMMENT ON VIEW gpuagent.stat_memory IS
    'who holds memory of devices: mapped swarms, agents and queries of the whole server, the arena, the agent cache, copies of gpuknn indexes (mirror), contexts of GPUs, and what clients still hold of memory that was given up (lost)';
