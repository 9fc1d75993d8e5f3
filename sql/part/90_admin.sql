
-- ADMINISTRATION
CREATE FUNCTION gpuagent_store.storage_path() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_storage_path_sql' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.storage_path() IS
    'base directory of the tree as the settings give it; 42501 without the rights of pg_read_all_settings';

CREATE FUNCTION gpuagent_store.setup_findings() RETURNS TABLE (item text, status text, detail text, hint text)
    AS 'MODULE_PATHNAME', 'ga_setup_findings' LANGUAGE C STABLE PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION gpuagent_store.setup_findings() IS 'what check_setup() sees of the server process: library, preloading, tree';

CREATE FUNCTION gpuagent_store.worker_findings() RETURNS TABLE (item text, status text, detail text, hint text)
    AS 'MODULE_PATHNAME', 'ga_worker_findings' LANGUAGE C STABLE PARALLEL SAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.worker_findings() IS 'what check_setup() sees of background workers; no row without preloading';

CREATE FUNCTION gpuagent_store.device_findings() RETURNS TABLE (item text, status text, detail text, hint text)
    AS 'MODULE_PATHNAME', 'ga_device_findings' LANGUAGE C STABLE PARALLEL SAFE ROWS 2;
COMMENT ON FUNCTION gpuagent_store.device_findings() IS 'what check_setup() sees of devices and shared memory; no rows without preloading';

CREATE FUNCTION gpuagent.check_setup() RETURNS TABLE (item text, status text, detail text, hint text)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing bigint;
    extversion text;
    path text;
BEGIN
    RETURN QUERY SELECT f.item, f.status, f.detail, f.hint FROM gpuagent_store.setup_findings() f
        UNION ALL SELECT w.item, w.status, w.detail, w.hint FROM gpuagent_store.worker_findings() w
        UNION ALL SELECT a.item, a.status, a.detail, a.hint FROM gpuagent_store.auto_save_findings() a
        UNION ALL SELECT d.item, d.status, d.detail, d.hint FROM gpuagent_store.device_findings() d
        UNION ALL SELECT e.item, e.status, e.detail, e.hint FROM gpuagent_store.tree_findings() e;

    SELECT x.extversion INTO extversion FROM pg_extension x WHERE x.extname = 'gpuagent';
    RETURN QUERY SELECT 'extension'::text,
        CASE WHEN extversion = v.default_version THEN 'ok' ELSE 'warning' END,
        format('version %s in this database, %s installed', extversion, v.default_version),
        CASE WHEN extversion <> v.default_version THEN 'Run ALTER EXTENSION gpuagent UPDATE and SELECT gpuagent.setup().' END
        FROM pg_available_extensions v WHERE v.name = 'gpuagent';

    IF to_regclass('gpuagent_store.setup_step') IS NULL THEN
        RETURN QUERY SELECT 'tables'::text, 'error'::text, 'the tables do not exist in this database'::text,
            'Run SELECT gpuagent.setup().'::text;
    ELSE
        SELECT count(*) INTO missing FROM gpuagent_store.setup_steps() s
            WHERE NOT EXISTS (SELECT FROM gpuagent_store.setup_step d WHERE d.step = s.step);
        RETURN QUERY SELECT 'tables'::text, CASE WHEN missing = 0 THEN 'ok' ELSE 'error' END,
            format('%s of %s steps applied', (SELECT count(*) FROM gpuagent_store.setup_step),
                   (SELECT count(*) FROM gpuagent_store.setup_steps())),
            CASE WHEN missing > 0 THEN 'Run SELECT gpuagent.setup().' END;
    END IF;

    -- Not this function's own search_path but what a new session of this role and database gets.
    SELECT substr(c, length('search_path=') + 1) INTO path
        FROM pg_db_role_setting s, unnest(s.setconfig) c
        WHERE c LIKE 'search\_path=%'
        AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
        AND s.setrole IN (0, (SELECT r.oid FROM pg_roles r WHERE r.rolname = session_user))
        ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1;
    path := COALESCE(path, (SELECT s.reset_val FROM pg_settings s WHERE s.name = 'search_path'));
    RETURN QUERY SELECT 'search_path'::text,
        CASE WHEN path ~ '(^|,)\s*"?gpuagent"?\s*(,|$)' THEN 'ok' ELSE 'warning' END,
        format('new sessions get %s', path),
        CASE WHEN path !~ '(^|,)\s*"?gpuagent"?\s*(,|$)' THEN
            format('Operators need the schema in the path: ALTER DATABASE %I SET search_path = "$user", public, gpuagent.', current_database())
        END;
END
$$;
COMMENT ON FUNCTION gpuagent.check_setup() IS
    'what is set up in this server and database and what is not: item, status (ok, warning, error), detail, hint';

CREATE FUNCTION gpuagent_store.access_level(function regprocedure) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN p.proname = ANY ('{take_lock,lock_store_maintenance,collection_horizon,horizon_passed,next_xid,young_since,doom_garbage,
            spare_doomed,delete_condemned,collect_step,collect_garbage,collect}'::text[]) THEN 'admin'
        WHEN p.proname = ANY ('{create_backup,restore_backup,backup_now,run_backup,write_backup,write_backup_rows,write_tables,write_packs,
            load_backup,load_store,load_pack,load_node,load_tensor,load_table,check_restored,check_digests,previous_backup,backup_folder,
            backup_folders,read_backup_manifest,verify_backup}'::text[]) THEN 'admin'
        WHEN p.proname = ANY ('{add_peer,drop_peer,wait_for_sync,set_conflict_strategy,resolve_conflict,ask_peer,slot_at_commit,begin_node,end_node,
            drop_publication,make_node,open_link,close_link,peer_in_step,publish_existing,publish_fact,publish_again,keep_branches,apply_once,publish,load_chunk,take_up,
            lock_key,tidy_expert,merge_facts,take_beat,write_beat,beat,slots_there,copy_again,repair_peers,new_incarnation,set_publications,
            advance_stability,wake_follower,lose_fact,prune_keys,prune_facts,prune}'::text[]) OR p.proname LIKE 'follow\_%' THEN 'admin'
        WHEN p.proname LIKE 'compact\_%' OR p.proname LIKE 'export\_%' OR (p.proname LIKE 'import\_%' AND p.proname <> 'import_safetensors') THEN 'admin'
        WHEN p.proname = ANY ('{setup,grant_access,restore_checkpoint,
            restore_latest_valid,delete_checkpoint,prune_checkpoints,set_checkpoint_alias,delete_expert,delete_swarm,
            delete_knowledge_graph,index_knowledge_graph,run_compact,recode_chunks,merge_rows,without_doomed,prune_swarm,prune_weights,write_safetensors,write_lines,write_text,require_space,
            autosync,write_export,read_export,put_aside,publish_export,lease_folder,journal_intents,journal_close,
            tend_export,own_export,remove_export,latest_name,latest_origin,point_latest,list_exports,sweep_tree,becomes_latest,mend_latest,replay_orphan,
            replay_exports,discard_export,discard_exports,maintain_exports,check_exports,reset_cache_stats,save_cache_keys,prewarm_cache,replace_text,temp_create,
            temp_publish,temp_keep,path_rename,cancel_any_job,find_export,begin_export,finish_export,write_manifest,run_export,queue_export,
            change_mark,keep_note,kept_note,prune_automatic,save_automatically,run_auto_save,auto_save,reset_stats,reset_device_stats,reset_index_stats,device_ping,device_fault,check_device}'::text[]) THEN 'admin'
        WHEN p.proname LIKE 'map\_%' OR p.proname LIKE 'unmap\_%'
            OR p.proname = ANY ('{renew_handle,sync_swarm,revert_swarm,mapped_tensor,mapped_write}'::text[]) THEN 'map'
        WHEN p.provolatile IN ('i', 's') OR p.proname = ANY ('{cache_agent,cache_agents,missing_chunks,tensor_problem,tensor_problems,tensor_gap,tensor_nonfinite,
            verify_checkpoint,verify_integrity,integrity,verify_export,verify_contents,verify_files,read_manifest,read_text,read_lines,read_states,
            read_floats,read_integers,safetensors_hashes,safetensors_metadata,graph_problem,file_rows,path_exists,
            file_size,file_sha256,safetensors_header,last_query,wait_for_job,cancel_job,progress_begin,progress,progress_end,throttle,
            device_service,device_slots}'::text[]) THEN 'read'
        ELSE 'write'
    END
    FROM pg_proc p WHERE p.oid = $1
$$;
COMMENT ON FUNCTION gpuagent_store.access_level(regprocedure) IS
    'level of grant_access() that a function belongs to: read, write, map or admin';

CREATE FUNCTION gpuagent.grant_access(role regrole, level text DEFAULT 'read') RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    levels text[] := CASE level WHEN 'read' THEN '{read}' WHEN 'map' THEN '{read,map}' WHEN 'write' THEN '{read,write}'
                     WHEN 'admin' THEN '{read,write,map,admin}' END;
    f record;
    t record;
BEGIN
    IF role IS NULL THEN
        RAISE EXCEPTION 'role must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF levels IS NULL THEN
        RAISE EXCEPTION 'unknown level "%"', level
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use read, write, map or admin.';
    END IF;
    PERFORM gpuagent_store.require_setup();
    IF NOT has_function_privilege('gpuagent.setup()', 'EXECUTE WITH GRANT OPTION') THEN
        RAISE EXCEPTION 'permission denied to grant access'
            USING ERRCODE = 'insufficient_privilege',
                DETAIL = 'The functions belong to the role that created the extension.', HINT = 'Let that role call gpuagent.grant_access().';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA gpuagent, gpuagent_store TO %s', role);
    FOR f IN
        SELECT p.oid::regprocedure AS signature FROM pg_proc p
        JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension x ON x.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
        WHERE x.extname = 'gpuagent' AND gpuagent_store.access_level(p.oid) = ANY (levels)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', f.signature, role);
    END LOOP;
    FOR t IN
        SELECT c.oid::regclass AS name, c.relkind, CASE
            WHEN c.relkind = 'S' THEN CASE level WHEN 'admin' THEN 'USAGE, UPDATE' ELSE 'USAGE' END
            WHEN n.nspname = 'gpuagent_store' AND c.relname IN ('doom', 'doomed', 'upload', 'collection', 'collect_time') THEN 'SELECT'
            -- Facts are written by triggers and the server's own workers, as the tables' owner.
            WHEN n.nspname = 'gpuagent_store' AND c.relname IN ('change', 'payload', 'heartbeat', 'stability', 'prunable', 'site', 'head', 'waiting', 'strategy') OR c.relname = 'peer' THEN 'SELECT'
            -- Written by queue_job() and the workers alone; what jobs are given and leave is for administrators.
            WHEN n.nspname = 'gpuagent_store' AND c.relname = 'job' THEN CASE level WHEN 'admin' THEN 'SELECT'
                ELSE 'SELECT (job, kind, object, role, state, attempts, created_at, started_at, finished_at)' END
            WHEN c.relkind = 'v' OR level IN ('read', 'map') OR (n.nspname = 'gpuagent_store' AND c.relname IN ('chunk', 'chunk_delta', 'node', 'tensor', 'setup_step'))
                    OR (n.nspname = 'gpuagent_store' AND c.relname IN ('discard', 'compact_pending', 'compact_tensor') AND level <> 'admin')
                THEN 'SELECT'
            WHEN level = 'admin' THEN 'SELECT, INSERT, UPDATE, DELETE'
            -- Whole objects and checkpoints are removed, and checkpoints restored and named, by admin only.
            WHEN c.relname = 'checkpoint_alias' THEN 'SELECT'
            WHEN c.relname = 'checkpoint' THEN 'SELECT, INSERT'
            WHEN c.relname = 'checkpoint_head' THEN 'SELECT, INSERT, UPDATE (last)'
            WHEN c.relname LIKE 'checkpoint\_%' THEN 'SELECT, INSERT, UPDATE (to_seq)'
            WHEN c.relname IN ('swarm', 'expert', 'graph', 'run') THEN 'SELECT, INSERT, UPDATE'
            ELSE 'SELECT, INSERT, UPDATE, DELETE' END AS rights
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('gpuagent', 'gpuagent_store') AND c.relkind IN ('r', 'p', 'v', 'S')
            AND (c.relkind <> 'S' OR level IN ('write', 'admin'))
    LOOP
        EXECUTE format('GRANT %s ON %s %s TO %s', t.rights, CASE t.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, t.name, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent.grant_access(regrole, text) IS
    'grants a role what a level needs on functions, tables and views: read; write: read, storing and making checkpoints, not removing whole objects or checkpoints; map: read and device memory; admin: all. Files also need pg_read_server_files or pg_write_server_files. Call it again after an update';
