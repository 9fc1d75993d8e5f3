
-- DEVICES
CREATE FUNCTION gpuagent_store.device_status() RETURNS TABLE (device text, name text, memory_total_bytes bigint,
    memory_used_bytes bigint, service_pid integer, started_at timestamptz, restarts bigint, requests bigint, fallbacks bigint,
    last_error text, last_error_at timestamptz)
    AS 'MODULE_PATHNAME', 'ga_device_status_sql' LANGUAGE C STABLE PARALLEL SAFE ROWS 2;
COMMENT ON FUNCTION gpuagent_store.device_status() IS 'rows of stat_device';

CREATE VIEW gpuagent.stat_device AS
    SELECT d.device, d.name, d.memory_total_bytes, d.memory_used_bytes, d.service_pid, d.started_at, d.restarts, d.requests,
        d.fallbacks, d.last_error, d.last_error_at
    FROM gpuagent_store.device_status() d;
COMMENT ON VIEW gpuagent.stat_device IS
    'a row for each GPU of gpuagent_device, and one for the host; fallbacks: requests for a GPU that ran on the host';

CREATE FUNCTION gpuagent.last_query() RETURNS TABLE (index regclass, device text, rows bigint, batch bigint,
    queue_ms double precision, catchup_ms double precision, device_ms double precision, rechecks bigint, fallback_reason text)
    AS 'MODULE_PATHNAME', 'ga_last_query_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION gpuagent.last_query() IS
    'where the last operation on device memory, or pass of a gpuknn index, of this session ran and how long it took; no row before the first';

CREATE FUNCTION gpuagent_store.reset_device_stats() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_reset_device_stats_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.reset_device_stats() IS 'reset_stats(''device'')';

CREATE FUNCTION gpuagent.reset_stats(what text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF what <> ALL ('{cache,device,index}') THEN
        RAISE EXCEPTION 'unknown statistics "%"', what
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use cache, device, index, or NULL for all.';
    END IF;
    IF what IS NULL OR what = 'device' THEN
        PERFORM gpuagent_store.reset_device_stats();
    END IF;
    IF what IS NULL OR what = 'cache' THEN
        PERFORM gpuagent_store.reset_cache_stats();
    END IF;
    IF what IS NULL OR what = 'index' THEN
        PERFORM gpuagent_store.reset_index_stats();
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent.reset_stats(text) IS 'sets counters to zero: of the cache, of the devices, of gpuknn indexes, or with NULL of all';

-- Of the server, for developers and tests
CREATE FUNCTION gpuagent_store.device_service() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_device_service_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.device_service() IS
    'what gpuagent_device is: ready, starting, backoff (died, will be started again), no_device or stopped; NULL without preloading';

CREATE FUNCTION gpuagent_store.device_slots() RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_device_slots_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.device_slots() IS 'requests to gpuagent_device at this moment';

CREATE FUNCTION gpuagent_store.device_ping(n bigint DEFAULT 1, device bigint DEFAULT 0) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_device_ping_sql' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.device_ping(bigint, bigint) IS
    'microseconds that n empty requests to a GPU take together';

CREATE FUNCTION gpuagent_store.device_fault(fault text, microseconds bigint DEFAULT 0, device bigint DEFAULT 0) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_device_fault_sql' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.device_fault(text, bigint, bigint) IS
    'makes gpuagent_device fail (sticky, hang, exit) or take its time (slow); for superusers, with gpuagent.device_faults';

CREATE FUNCTION gpuagent_store.check_device(device text DEFAULT NULL, nbytes bigint DEFAULT 1000000, pause double precision DEFAULT 0)
    RETURNS void AS 'MODULE_PATHNAME', 'ga_check_device_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.check_device(text, bigint, double precision) IS
    'does every operation of a device on so many random bytes and compares with plain loops, after a pause of so many seconds; XX001 when it computes wrong';
