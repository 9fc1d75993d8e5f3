-- JOBS
CREATE FUNCTION gpuagent_store.queue_job(kind text, object text, arguments jsonb) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_queue_job' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.queue_job(text, text, jsonb) IS
    'queues work for a background worker and returns the job: at commit gpuagent_store.run_KIND(job, arguments, carry) is called again and again with the rights of the caller, each time in a transaction of its own, carry being what the last call returned, until that has "done": true (and "forget": true: then its row goes at once); 55000 when there are no workers';

CREATE FUNCTION gpuagent_store.has_job_workers() RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_has_job_workers' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.has_job_workers() IS 'whether queue_job() finds background workers: gpuagent is preloaded, and gpuagent.max_databases and gpuagent.max_jobs are above 0';

CREATE FUNCTION gpuagent.cancel_job(job bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_cancel_job' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent.cancel_job(bigint) IS
    'cancels a queued job, or interrupts the worker that runs it: true; false when it has ended. For the role that queued it, members of that role, and level admin (42501); 42704: no such job';

CREATE FUNCTION gpuagent_store.cancel_any_job(job bigint) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_cancel_any_job' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent_store.cancel_any_job(bigint) IS 'cancel_job() for jobs of all roles; who may execute it may also cancel them with cancel_job()';

CREATE FUNCTION gpuagent.wait_for_job(job bigint, timeout interval DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_wait_for_job' LANGUAGE C VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION gpuagent.wait_for_job(bigint, interval) IS
    'waits for the end of a job and returns its state: done, failed or cancelled; NULL when the timeout was over before. 42704: no such job; 55000: this transaction queued it and has to commit first';

CREATE FUNCTION gpuagent_store.open_jobs() RETURNS TABLE (job bigint, kind text, object text, created_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('gpuagent_store.job') IS NOT NULL THEN
        RETURN QUERY SELECT j.job, j.kind, j.object, j.created_at FROM gpuagent_store.job j
            WHERE j.state IN ('queued', 'running') ORDER BY j.job;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.open_jobs() IS 'jobs that have not ended; none where setup() has not made their table';

CREATE VIEW gpuagent.stat_progress AS
    WITH shown AS MATERIALIZED (SELECT * FROM gpuagent_store.progress_records())
    SELECT p.pid::integer AS pid, p.job, p.command, p.object, p.phase, p.items_done, p.items_total, p.bytes_done, p.bytes_total, p.bytes_per_s,
        p.started_at, p.eta
    FROM shown p
    UNION ALL
    SELECT NULL, j.job, j.kind, j.object, 'queued', 0, NULL, 0, NULL, NULL, NULL, NULL
    FROM gpuagent_store.open_jobs() j
    WHERE NOT EXISTS (SELECT FROM shown p WHERE p.job = j.job);
COMMENT ON VIEW gpuagent.stat_progress IS
    'long work of this database as it runs, and jobs that wait for a worker (phase queued): counters are those of the phase, totals NULL when unknown, eta by the phase''s rate so far';
