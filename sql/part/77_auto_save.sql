-- AUTOMATIC CHECKPOINTS: a task of the maintenance worker looks whether anything changed, a job makes the checkpoint.
-- Writers pay nothing: what they did is in the server's statistics of tables. These count rolled back changes, too, and
-- are lost in a crash; so they only tell that it is time to look, and the capture finds what really changed. TRUNCATE is
-- not counted, but gives the table a new file.
CREATE FUNCTION gpuagent_store.change_mark() RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE covered (relid) AS (
        SELECT to_regclass('gpuagent.' || t)::oid
        FROM unnest('{agent,graph,graph_node,graph_edge,swarm,swarm_version,expert,weight_version,run,metric}'::text[]) t
        UNION
        SELECT i.inhrelid FROM covered c JOIN pg_inherits i ON i.inhparent = c.relid
    )
    SELECT CASE WHEN current_setting('track_counts')::boolean AND NOT EXISTS (
            SELECT FROM covered r JOIN pg_class c ON c.oid = r.relid WHERE c.relkind = 'f')
        THEN string_agg(concat_ws(' ', r.relid, pg_relation_filenode(r.relid), pg_stat_get_tuples_inserted(r.relid),
            pg_stat_get_tuples_updated(r.relid), pg_stat_get_tuples_deleted(r.relid)), ',' ORDER BY r.relid) END
    FROM covered r
$$;
COMMENT ON FUNCTION gpuagent_store.change_mark() IS
    'equal to an earlier one when nothing that checkpoints cover was changed in between, unless in the last seconds; NULL when the server does not count';

CREATE FUNCTION gpuagent_store.keep_note(note text) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_keep_note' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.keep_note(text) IS 'when this transaction commits, kept_note() of this session is note';

CREATE FUNCTION gpuagent_store.kept_note() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_kept_note' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.kept_note() IS 'what keep_note() left in this session; NULL at first';

CREATE FUNCTION gpuagent_store.prune_automatic() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    removed bigint[];
BEGIN
    PERFORM gpuagent_store.lock_checkpoints();
    removed := ARRAY(
        SELECT r.id FROM (
            SELECT k.id, row_number() OVER (ORDER BY k.id DESC) AS newer FROM gpuagent.checkpoint k WHERE k.kind = 'auto') r
        WHERE r.newer > current_setting('gpuagent.max_checkpoints')::bigint
            AND NOT EXISTS (SELECT FROM gpuagent.checkpoint_alias a WHERE a.checkpoint = r.id)
            AND EXISTS (SELECT FROM gpuagent.checkpoint k WHERE k.id > r.id AND k.status = 'valid' AND k.kind <> 'safety')
            AND r.id::text NOT IN (SELECT j.object FROM gpuagent_store.open_jobs() j WHERE j.kind = 'export'));
    removed := ARRAY(SELECT r FROM unnest(removed) r WHERE gpuagent_store.take_lock(gpuagent_store.export_key(r), false, false));
    PERFORM gpuagent_store.remove_contents(removed, false);
    PERFORM gpuagent_store.discard_export(r) FROM unnest(removed) r;
    DELETE FROM gpuagent.checkpoint k WHERE k.id = ANY (removed);
    RETURN cardinality(removed);
END
$$;
COMMENT ON FUNCTION gpuagent_store.prune_automatic() IS
    'removes the oldest automatic checkpoints beyond gpuagent.max_checkpoints, but those with an alias, those being exported, and the newest valid one; how many';

CREATE FUNCTION gpuagent_store.save_automatically() RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last bigint;
    result bigint;
BEGIN
    SELECT coalesce(max(k.id), 0) INTO last FROM gpuagent.checkpoint k;
    result := gpuagent_store.make_checkpoint('auto', NULL, NULL, NULL, NULL, NULL);
    IF result <= last OR NOT EXISTS (SELECT FROM gpuagent.checkpoint k WHERE k.id = result AND k.kind = 'auto') THEN
        RETURN NULL;
    END IF;
    PERFORM gpuagent_store.prune_automatic();
    RETURN result;
END
$$;
COMMENT ON FUNCTION gpuagent_store.save_automatically() IS
    'a checkpoint of kind auto of everything, and older ones of that kind pruned; NULL, and nothing written, when the newest checkpoint is what is there now';

-- First the checkpoint, then, in another transaction, its export: who may not write files has a checkpoint all the same.
CREATE FUNCTION gpuagent_store.run_auto_save(job bigint, arguments jsonb, carry jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made bigint;
BEGIN
    IF carry IS NOT NULL THEN
        RETURN carry || jsonb_build_object('done', true, 'export', gpuagent_store.queue_export((carry ->> 'checkpoint')::bigint));
    END IF;
    made := gpuagent_store.save_automatically();
    IF made IS NULL THEN
        RETURN '{"done": true, "forget": true}';
    END IF;
    RETURN jsonb_build_object('checkpoint', made, 'done', NOT current_setting('gpuagent.auto_export')::boolean);
END
$$;
COMMENT ON FUNCTION gpuagent_store.run_auto_save(bigint, jsonb, jsonb) IS
    'job of kind auto_save: an automatic checkpoint, and its export when gpuagent.auto_export is on; no trace when nothing changed';

CREATE FUNCTION gpuagent_store.auto_save() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mark CONSTANT text := gpuagent_store.change_mark();
    kept CONSTANT jsonb := gpuagent_store.kept_note()::jsonb;
    last text;
    made bigint;
BEGIN
    IF to_regclass('gpuagent_store.job') IS NOT NULL THEN
        SELECT j.state INTO last FROM gpuagent_store.job j WHERE j.job = (kept ->> 'job')::bigint;
    END IF;
    IF last = 'running' OR (kept ->> 'mark' = mark AND last IS DISTINCT FROM 'failed' AND last IS DISTINCT FROM 'cancelled'
            AND last IS DISTINCT FROM 'queued') THEN
        RETURN;
    END IF;
    -- A job that has found no worker for as long as an interval is not waited for.
    IF gpuagent_store.has_job_workers() AND to_regclass('gpuagent_store.job') IS NOT NULL AND last IS DISTINCT FROM 'queued' THEN
        PERFORM gpuagent_store.keep_note(jsonb_build_object('mark', mark, 'job', gpuagent_store.queue_job('auto_save', NULL, '{}'))::text);
        RETURN;
    END IF;
    made := gpuagent_store.save_automatically();
    PERFORM gpuagent_store.keep_note(jsonb_build_object('mark', mark)::text);
    IF made IS NOT NULL AND current_setting('gpuagent.auto_export')::boolean THEN
        BEGIN
            PERFORM gpuagent_store.export_now(made);
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'automatic checkpoint % was not exported', made USING DETAIL = SQLERRM;
        END;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.auto_save() IS
    'lets a job make an automatic checkpoint when something may have changed since the last one; without workers for jobs makes it here. Maintenance workers call it every gpuagent.auto_save_interval';

CREATE FUNCTION gpuagent_store.auto_save_findings() RETURNS TABLE (item text, status text, detail text, hint text)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seconds bigint;
    last record;
    error text;
BEGIN
    IF NOT EXISTS (SELECT FROM gpuagent_store.worker_findings()) THEN
        RETURN;
    END IF;
    seconds := extract(epoch FROM current_setting('gpuagent.auto_save_interval')::interval);
    item := 'auto_save';
    status := 'ok';
    detail := CASE
        WHEN seconds = 0 THEN 'automatic checkpoints are switched off'
        WHEN current_setting('gpuagent.max_databases') = '0' THEN 'no automatic checkpoints: maintenance workers are switched off'
        ELSE format('every %s s when something changed', seconds) END;
    IF seconds > 0 AND to_regclass('gpuagent_store.job') IS NOT NULL AND has_column_privilege('gpuagent_store.job', 'state', 'SELECT') THEN
        SELECT j.job, j.state, j.finished_at INTO last FROM gpuagent_store.job j WHERE j.kind = 'auto_save' ORDER BY j.job DESC LIMIT 1;
        IF last.state = 'failed' THEN
            IF has_column_privilege('gpuagent_store.job', 'error', 'SELECT') THEN
                SELECT j.error INTO error FROM gpuagent_store.job j WHERE j.job = last.job;
            END IF;
            status := 'warning';
            detail := format('the last automatic checkpoint failed at %s', last.finished_at) || coalesce(': ' || error, '');
            hint := format('It is tried again every %s s. The log says more.', seconds);
        END IF;
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION gpuagent_store.auto_save_findings() IS 'what check_setup() says of automatic checkpoints; no row without preloading';
