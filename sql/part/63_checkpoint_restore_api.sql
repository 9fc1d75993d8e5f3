CREATE FUNCTION gpuagent.restore_checkpoint(checkpoint bigint DEFAULT NULL, objects text[] DEFAULT NULL,
    new_prefix text DEFAULT NULL, dry_run boolean DEFAULT false, verify text DEFAULT 'full', safety boolean DEFAULT true)
RETURNS TABLE (object text, action text, rows bigint, nbytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 20
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET extra_float_digits = 1
SET plan_cache_mode = force_custom_plan SET jit = off SET row_security = off AS $$
#variable_conflict use_variable
DECLARE
    source record;
    scope record;
    problem record;
    with_agents boolean;
    present text[];
    existing text[];
BEGIN
    PERFORM gpuagent_store.require_setup();
    SELECT * INTO scope FROM gpuagent_store.checkpoint_scope(objects);
    checkpoint := coalesce(checkpoint, gpuagent_store.newest_valid(scope.objects));
    PERFORM gpuagent_store.require_in_checkpoint(checkpoint, scope.objects);
    SELECT k.* INTO source FROM gpuagent.checkpoint k WHERE k.id = checkpoint;
    IF source.status = 'incomplete' THEN
        RAISE EXCEPTION 'checkpoint % is incomplete', checkpoint USING ERRCODE = '55000';
    ELSIF NOT coalesce(dry_run, false) AND current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'restore_checkpoint() must run in a READ COMMITTED transaction'
            USING ERRCODE = '25001',
                DETAIL = 'It has to see what others wrote until it held its locks.',
                HINT = 'Begin the transaction with BEGIN ISOLATION LEVEL READ COMMITTED, or use dry_run.';
    END IF;
    IF objects IS NULL THEN
        SELECT * INTO scope FROM gpuagent_store.checkpoint_scope(source.objects);
    END IF;
    with_agents := scope.agents OR scope.prefixes <> '{}';
    present := scope.kinds || ARRAY(SELECT split_part(n, ':', 1) FROM unnest(scope.names) n);

    PERFORM gpuagent_store.progress_begin('restore_checkpoint', checkpoint::text);
    PERFORM gpuagent_store.progress('verifying');
    SELECT * INTO problem FROM gpuagent_store.verify_checkpoint(checkpoint, verify, scope.objects) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'checkpoint % is damaged', checkpoint
            USING ERRCODE = 'XX001',
                DETAIL = format('%s: expected %s, found %s.', problem.object, problem.expected, problem.actual),
                HINT = 'gpuagent.restore_latest_valid() takes the newest checkpoint that is not; gpuagent.import_checkpoint() brings back an export.';
    END IF;
    IF new_prefix IS NOT NULL THEN
        PERFORM gpuagent_store.require_no_copies(checkpoint, scope.agents, scope.prefixes, scope.kinds, scope.names, new_prefix);
    END IF;
    IF dry_run THEN
        RETURN QUERY SELECT p.* FROM gpuagent_store.restore_plan(
            checkpoint, scope.agents, scope.prefixes, scope.kinds, scope.names, new_prefix) p;
        PERFORM gpuagent_store.progress_end();
        RETURN;
    END IF;

    PERFORM gpuagent_store.progress('waiting');
    PERFORM gpuagent_store.lock_for_restore(with_agents, scope.kinds, scope.names);
    PERFORM gpuagent_store.lock_checkpoints();
    PERFORM gpuagent_store.require_in_checkpoint(checkpoint, scope.objects);
    existing := gpuagent_store.existing_objects(scope.objects);
    IF coalesce(safety, true) AND new_prefix IS NULL AND (existing IS NULL OR existing <> '{}') THEN
        PERFORM gpuagent_store.make_checkpoint('safety', 'before restore of ' || checkpoint, existing, NULL, NULL, NULL);
    END IF;
    PERFORM gpuagent_store.progress('comparing');
    RETURN QUERY SELECT p.* FROM gpuagent_store.restore_plan(
        checkpoint, scope.agents, scope.prefixes, scope.kinds, scope.names, new_prefix) p;
    PERFORM gpuagent_store.progress('agents');
    IF with_agents THEN
        PERFORM gpuagent_store.restore_agents(checkpoint, scope.agents, scope.prefixes, new_prefix);
    END IF;
    -- Only what the scope has: other tables are not locked, and another restore may hold them.
    IF 'graph' = ANY (present) THEN
        PERFORM gpuagent_store.progress('graphs');
        PERFORM gpuagent_store.restore_graphs(checkpoint, scope.kinds, scope.names, new_prefix);
    END IF;
    IF 'swarm' = ANY (present) THEN
        PERFORM gpuagent_store.progress('swarms');
        PERFORM gpuagent_store.restore_swarms(checkpoint, scope.kinds, scope.names, new_prefix);
    END IF;
    IF 'expert' = ANY (present) THEN
        PERFORM gpuagent_store.progress('experts');
        PERFORM gpuagent_store.restore_experts(checkpoint, scope.kinds, scope.names, new_prefix);
    END IF;
    IF 'metrics' = ANY (present) THEN
        PERFORM gpuagent_store.progress('metrics');
        PERFORM gpuagent_store.restore_metrics(checkpoint, new_prefix);
    END IF;
    IF verify <> 'none' AND objects IS NULL THEN
        UPDATE gpuagent.checkpoint k SET verified_at = now(), verified_level = verify WHERE k.id = checkpoint;
    END IF;
    PERFORM gpuagent_store.progress_end();
END
$$;
COMMENT ON FUNCTION gpuagent.restore_checkpoint(bigint, text[], text, boolean, text, boolean) IS
    'makes everything that the checkpoint (NULL: the newest valid one, safety checkpoints aside) covers, or only objects, what it was then, in one transaction: agents and graphs bit for bit; swarms and experts get a new version where they differ; what was born later is deleted. new_prefix makes copies instead. verify: full, quick or none. safety: a checkpoint of the present first. dry_run only reports. Result: rows to insert, update, delete, keep by object. 42704 not contained, XX001 damaged, 42710 copy exists, 25001 not READ COMMITTED';

CREATE FUNCTION gpuagent.restore_latest_valid(dry_run boolean DEFAULT false)
RETURNS TABLE (object text, action text, rows bigint, nbytes bigint)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 20
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
DECLARE
    candidate bigint;
    problem record;
BEGIN
    PERFORM gpuagent_store.require_setup();
    FOR candidate IN
        SELECT k.id FROM gpuagent.checkpoint k WHERE k.status = 'valid' AND k.kind <> 'safety' ORDER BY k.id DESC
    LOOP
        SELECT * INTO problem FROM gpuagent_store.verify_checkpoint(candidate, 'full') LIMIT 1;
        IF NOT FOUND THEN
            RETURN QUERY SELECT r.* FROM gpuagent.restore_checkpoint(candidate, dry_run => dry_run, verify => 'none') r;
            IF NOT dry_run THEN
                UPDATE gpuagent.checkpoint k SET verified_at = now(), verified_level = 'full' WHERE k.id = candidate;
            END IF;
            RETURN;
        END IF;
        RAISE WARNING 'checkpoint % is damaged', candidate
            USING DETAIL = format('%s: expected %s, found %s.', problem.object, problem.expected, problem.actual);
        IF NOT dry_run THEN
            UPDATE gpuagent.checkpoint k SET status = 'damaged' WHERE k.id = candidate;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'there is no valid checkpoint' USING ERRCODE = '42704';
END
$$;
COMMENT ON FUNCTION gpuagent.restore_latest_valid(boolean) IS
    'restore_checkpoint() of the newest checkpoint that passes full verification; newer damaged ones are reported and marked; 42704 when there is none';
