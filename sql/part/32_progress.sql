-- PROGRESS
CREATE FUNCTION gpuagent_store.progress_begin(command text, object text DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_progress_begin_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.progress_begin(text, text) IS
    'shows a command of this session in stat_progress until progress_end() or the end of the transaction; within another command nothing';

CREATE FUNCTION gpuagent_store.progress_end() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_progress_end_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.progress_end() IS 'ends what progress_begin() began';

CREATE FUNCTION gpuagent_store.progress(phase text, items_done bigint DEFAULT NULL, items_total bigint DEFAULT NULL,
    bytes_done bigint DEFAULT NULL, bytes_total bigint DEFAULT NULL) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_progress_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.progress(text, bigint, bigint, bigint, bigint) IS
    'how far this session''s command is: its phase (NULL: the same) and what of it is done; totals NULL are unknown. Nothing without progress_begin() or preloading';

CREATE FUNCTION gpuagent_store.progress_records() RETURNS TABLE (pid bigint, job bigint, command text, object text, phase text,
    items_done bigint, items_total bigint, bytes_done bigint, bytes_total bigint, bytes_per_s bigint, started_at timestamptz, eta timestamptz)
    AS 'MODULE_PATHNAME', 'ga_progress_records' LANGUAGE C STABLE PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION gpuagent_store.progress_records() IS 'what processes in this database are doing; no rows without preloading';

CREATE FUNCTION gpuagent_store.throttle(nbytes bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_throttle_sql' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION gpuagent_store.throttle(bigint) IS
    'sleeps as long as this session, with these bytes, is ahead of gpuagent.io_rate_limit';
