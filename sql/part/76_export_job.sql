-- FILES: exports, in this session or by a background worker
CREATE FUNCTION gpuagent_store.run_export(job bigint, arguments jsonb, carry jsonb) RETURNS jsonb
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('done', true, 'state', x.state, 'path', x.path, 'files', x.files, 'nbytes', x.nbytes)
    FROM gpuagent_store.export_now((arguments ->> 'checkpoint')::bigint) x
$$;
COMMENT ON FUNCTION gpuagent_store.run_export(bigint, jsonb, jsonb) IS 'job of kind export: {"checkpoint": id}; the result is that of export_now()';

-- What would make the job fail is said at once.
CREATE FUNCTION gpuagent_store.queue_export(checkpoint bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_status text;
BEGIN
    PERFORM gpuagent_store.require_in_checkpoint(checkpoint);
    SELECT k.status INTO found_status FROM gpuagent.checkpoint k WHERE k.id = checkpoint;
    IF found_status <> 'valid' THEN
        RAISE EXCEPTION 'checkpoint % is %', checkpoint, found_status USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF NOT pg_has_role('pg_write_server_files', 'USAGE') OR NOT pg_has_role('pg_read_server_files', 'USAGE') THEN
        RAISE EXCEPTION 'permission denied to use files of the server'
            USING ERRCODE = 'insufficient_privilege',
                DETAIL = 'Only roles with privileges of the "pg_write_server_files" and "pg_read_server_files" roles may do this.';
    END IF;
    RETURN gpuagent_store.queue_job('export', checkpoint::text, jsonb_build_object('checkpoint', checkpoint));
END
$$;
COMMENT ON FUNCTION gpuagent_store.queue_export(bigint) IS 'queues the export of a checkpoint for a background worker; the job';

CREATE FUNCTION gpuagent.export_checkpoint(checkpoint bigint DEFAULT NULL, wait boolean DEFAULT true)
    RETURNS TABLE (job bigint, state text, path text, files bigint, nbytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
#variable_conflict use_column
BEGIN
    PERFORM gpuagent_store.require_setup();
    checkpoint := coalesce(checkpoint, gpuagent_store.newest_valid(NULL));
    IF NOT wait THEN
        RETURN QUERY SELECT gpuagent_store.queue_export($1), 'queued', NULL::text, NULL::bigint, NULL::bigint;
        RETURN;
    END IF;
    PERFORM gpuagent_store.progress_begin('export_checkpoint', $1::text);
    RETURN QUERY SELECT NULL::bigint, x.state, x.path, x.files, x.nbytes FROM gpuagent_store.export_now($1) x;
    PERFORM gpuagent_store.progress_end();
END
$$;
COMMENT ON FUNCTION gpuagent.export_checkpoint(bigint, boolean) IS
    'writes a checkpoint (NULL: the newest valid one) as a folder of safetensors files, lines of JSON and a manifest below gpuagent.storage_path; state done, or present when a whole export was there. wait => false: a background worker does it after the commit; state is queued, job its job. Needs pg_write_server_files and pg_read_server_files; 42704: no such checkpoint; 55000: no background workers; a folder appears complete or not at all';
