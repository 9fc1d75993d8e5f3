-- FILES: exports, in this session or by a background worker
-- Contents of checkpoints never change, so a job writes them in transactions of about a second, or of one object: it holds
-- no snapshot for long, whatever the rate. The private folder stays with the worker from one to the next; another worker
-- begins anew. Carry: {"temp", "path", "stage": agents, items or rest, "after": object, "sections": [...]}.
CREATE FUNCTION gpuagent_store.run_export(job bigint, arguments jsonb, carry jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1 SET row_security = off AS $$
DECLARE
    checkpoint CONSTANT bigint := (arguments ->> 'checkpoint')::bigint;
    scope CONSTANT text[] := (SELECT c.objects FROM gpuagent.checkpoint c WHERE c.id = checkpoint);
    sections jsonb := carry -> 'sections';
    temp text := carry ->> 'temp';
    until CONSTANT timestamptz := clock_timestamp() + interval '1 s' * (1 + octet_length(carry::text) / 262144);
    target record;
    last text;
    item jsonb;
    section jsonb;
BEGIN
    IF gpuagent_store.temp_keep(temp) IS NOT TRUE THEN
        -- The worker lets go of it when the job has ended.
        PERFORM gpuagent_store.take_lock(gpuagent_store.export_key(checkpoint), true, true);
        SELECT * INTO target FROM gpuagent_store.find_export(checkpoint);
        IF target.state = 'present' THEN
            RETURN (SELECT jsonb_build_object('done', true, 'state', 'present', 'path', target.path, 'files', f.files, 'nbytes', f.nbytes)
                FROM gpuagent_store.finish_export(checkpoint, target.path, NULL) f);
        END IF;
        temp := gpuagent_store.begin_export(checkpoint);
        PERFORM gpuagent_store.temp_keep(temp);
        RETURN jsonb_build_object('temp', temp, 'path', target.path, 'stage', 'agents', 'sections', '[]'::jsonb);
    ELSIF NOT EXISTS (SELECT FROM gpuagent.checkpoint c WHERE c.id = checkpoint) THEN
        PERFORM gpuagent_store.export_interrupted(checkpoint);
    ELSIF carry ->> 'stage' = 'agents' THEN
        SELECT coalesce(jsonb_agg(s), '[]') INTO sections FROM gpuagent_store.export_agents(checkpoint, temp, scope) s;
        RETURN carry || jsonb_build_object('stage', 'items', 'after', '', 'sections', sections);
    ELSIF carry ->> 'stage' = 'items' THEN
        FOR item IN SELECT gpuagent_store.exported_items(checkpoint, scope, carry ->> 'after') LOOP
            IF last IS NOT NULL AND clock_timestamp() > until THEN
                RETURN carry || jsonb_build_object('after', last, 'sections', sections);
            END IF;
            section := gpuagent_store.export_item(checkpoint, item, temp);
            sections := CASE WHEN section IS NULL THEN sections ELSE sections || section END;
            last := item ->> 'object';
        END LOOP;
        RETURN carry || jsonb_build_object('stage', 'rest', 'sections', sections || gpuagent_store.export_item_lines(checkpoint, temp, scope));
    END IF;
    SELECT sections || coalesce(jsonb_agg(s), '[]') INTO sections FROM gpuagent_store.export_metrics(checkpoint, temp, scope) s;
    PERFORM gpuagent_store.write_manifest(checkpoint, temp, sections);
    RETURN (SELECT jsonb_build_object('done', true, 'state', 'done', 'path', carry -> 'path', 'files', f.files, 'nbytes', f.nbytes)
        FROM gpuagent_store.finish_export(checkpoint, carry ->> 'path', temp) f);
END
$$;
COMMENT ON FUNCTION gpuagent_store.run_export(bigint, jsonb, jsonb) IS
    'job of kind export: {"checkpoint": id}; the result has state, path, files and nbytes, as those of export_now()';

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
