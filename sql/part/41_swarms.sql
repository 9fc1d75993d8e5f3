
-- SWARMS
CREATE FUNCTION gpuagent_store.lock_swarm(swarm text, expected_version bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cur bigint;
    mine boolean;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('swarm', swarm);
    -- The table before the row: a restore locks the table and then its rows, and would otherwise wait in a circle.
    LOCK TABLE gpuagent.swarm IN ROW EXCLUSIVE MODE;
    -- More than one round only when another session creates or deletes it in between.
    FOR attempt IN 1 .. 10 LOOP
        SELECT s.current, COALESCE(s.version_xact = pg_current_xact_id() AND s.version_at = now(), false)
            INTO cur, mine FROM gpuagent.swarm s WHERE s.swarm = lock_swarm.swarm FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO gpuagent.swarm (swarm) VALUES (lock_swarm.swarm) ON CONFLICT DO NOTHING;
    END LOOP;
    IF cur IS NULL THEN
        RAISE EXCEPTION 'swarm "%" cannot be locked', swarm
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'It exists, but row security hides it.';
    END IF;
    IF cur IS DISTINCT FROM COALESCE(expected_version, cur) THEN
        RAISE EXCEPTION 'swarm "%" is at version %, not %', swarm, cur, expected_version
            USING ERRCODE = 'serialization_failure', HINT = 'Read the current version and try again.';
    END IF;
    IF mine THEN
        RETURN cur;
    END IF;
    UPDATE gpuagent.swarm s SET current = cur + 1, version_xact = pg_current_xact_id(), version_at = now()
        WHERE s.swarm = lock_swarm.swarm;
    RETURN cur + 1;
END
$$;
COMMENT ON FUNCTION gpuagent_store.lock_swarm(text, bigint) IS
    'locks the swarm''s row, creating it, and returns the version that this transaction writes: one per transaction; 40001 unless it stood at expected_version';

CREATE FUNCTION gpuagent_store.previous_swarm(swarm text, version bigint) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT v.tensor FROM gpuagent.swarm_version v WHERE v.swarm = $1 AND v.version <= $2 ORDER BY v.version DESC LIMIT 1
$$;
COMMENT ON FUNCTION gpuagent_store.previous_swarm(text, bigint) IS 'tensor of the newest version up to this one; NULL: none';

CREATE FUNCTION gpuagent_store.set_swarm_version(swarm text, version bigint, tensor bytea, metadata jsonb, step bigint DEFAULT NULL)
    RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO gpuagent.swarm_version AS v (swarm, version, tensor, metadata, step)
        VALUES (set_swarm_version.swarm, set_swarm_version.version, set_swarm_version.tensor,
                COALESCE(set_swarm_version.metadata, '{}'), set_swarm_version.step)
        ON CONFLICT ON CONSTRAINT swarm_version_pkey DO UPDATE
        SET tensor = excluded.tensor, metadata = COALESCE(set_swarm_version.metadata, v.metadata), step = excluded.step;
    PERFORM gpuagent_store.swarm_changed(set_swarm_version.swarm);
    -- Versions that a checkpoint holds stay, whatever their age. NOT IN is hashed: linear, whatever statistics say.
    DELETE FROM gpuagent.swarm_version v USING gpuagent.swarm s
        WHERE s.swarm = set_swarm_version.swarm AND v.swarm = s.swarm AND v.version <= s.current - s.keep_versions
        AND v.version NOT IN (SELECT i.version FROM gpuagent.checkpoint_item i
                              WHERE i.object = 'swarm:' || set_swarm_version.swarm AND i.part = '' AND i.version IS NOT NULL);
END
$$;
COMMENT ON FUNCTION gpuagent_store.set_swarm_version(text, bigint, bytea, jsonb, bigint) IS
    'writes a version row of a locked swarm and drops versions beyond keep_versions that no checkpoint holds';

-- Generic plans: a custom one would have a copy of the tensor as a constant, and the planner would copy that again.
CREATE FUNCTION gpuagent.store_swarm(swarm text, data gpuagent.swarm_tensor, metadata jsonb DEFAULT NULL,
    expected_version bigint DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v bigint;
BEGIN
    IF data IS NULL THEN
        RAISE EXCEPTION 'data of swarm "%" must not be NULL', swarm USING ERRCODE = 'null_value_not_allowed';
    END IF;
    v := gpuagent_store.lock_swarm(swarm, expected_version);
    PERFORM gpuagent_store.set_swarm_version(swarm, v,
        gpuagent_store.put_tensor(data, gpuagent_store.previous_swarm(swarm, v)), metadata);
    RETURN v;
END
$$;
COMMENT ON FUNCTION gpuagent.store_swarm(text, gpuagent.swarm_tensor, jsonb, bigint) IS
    'stores data as a new version of the swarm (one per transaction) and returns its number; metadata NULL: none; 40001 unless the swarm is at expected_version (0: does not exist)';

CREATE FUNCTION gpuagent.store_swarm_ref(swarm text, tensor bytea, metadata jsonb DEFAULT NULL,
    expected_version bigint DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v bigint;
BEGIN
    PERFORM gpuagent_store.require_tensor(tensor);
    v := gpuagent_store.lock_swarm(swarm, expected_version);
    PERFORM gpuagent_store.set_swarm_version(swarm, v, tensor, metadata);
    RETURN v;
END
$$;
COMMENT ON FUNCTION gpuagent.store_swarm_ref(text, bytea, jsonb, bigint) IS
    'makes a tensor that is in the store (store_tensor) a new version of the swarm; 42704 when it is not';

CREATE FUNCTION gpuagent.store_swarm_rows(swarm text, start bigint, data gpuagent.swarm_tensor, expected_version bigint DEFAULT NULL)
    RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v bigint;
    base bytea;
BEGIN
    IF data IS NULL OR start IS NULL THEN
        RAISE EXCEPTION 'start and data must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    base := gpuagent_store.swarm_tensor_hash(swarm, NULL, NULL);
    v := gpuagent_store.lock_swarm(swarm, expected_version);
    -- Read again under the lock: another session may have stored a version meanwhile.
    base := (SELECT w.tensor FROM gpuagent.swarm_version w WHERE w.swarm = store_swarm_rows.swarm
             ORDER BY w.version DESC LIMIT 1);
    IF base IS NULL THEN
        RAISE EXCEPTION 'swarm "%" does not exist', swarm
            USING ERRCODE = 'undefined_object', DETAIL = 'Another session has deleted it.';
    END IF;
    PERFORM gpuagent_store.set_swarm_version(swarm, v, gpuagent_store.patch_tensor(base, start, data), NULL);
    RETURN v;
END
$$;
COMMENT ON FUNCTION gpuagent.store_swarm_rows(text, bigint, gpuagent.swarm_tensor, bigint) IS
    'new version in which rows from 1-based start are those of data; costs what changed, whatever the size of the swarm; 22023 outside, 22000 for rows of another shape or dtype';

CREATE FUNCTION gpuagent.append_swarm(swarm text, data gpuagent.swarm_tensor) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v bigint;
    base bytea;
    appended bytea;
BEGIN
    IF data IS NULL THEN
        RAISE EXCEPTION 'data of swarm "%" must not be NULL', swarm USING ERRCODE = 'null_value_not_allowed';
    END IF;
    v := gpuagent_store.lock_swarm(swarm, NULL);
    base := (SELECT w.tensor FROM gpuagent.swarm_version w WHERE w.swarm = append_swarm.swarm AND w.version = v);
    appended := gpuagent_store.append_tensor(base, data, gpuagent_store.previous_swarm(swarm, v - 1));
    PERFORM gpuagent_store.set_swarm_version(swarm, v, appended, NULL);
    RETURN (SELECT t.shape[1] FROM gpuagent_store.tensor t WHERE t.hash = appended LIMIT 1);
END
$$;
COMMENT ON FUNCTION gpuagent.append_swarm(text, gpuagent.swarm_tensor) IS
    'adds rows to the version that this transaction writes; the first call of a transaction begins a new version with just these rows; returns its rows so far. Pieces of a multiple of 1 MiB cost least: a last chunk that is not full is written again by the next call';

CREATE FUNCTION gpuagent_store.require_checkpoint(checkpoint bigint, object text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    scope text[];
BEGIN
    SELECT c.objects INTO scope FROM gpuagent.checkpoint c WHERE c.id = require_checkpoint.checkpoint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'checkpoint % does not exist', checkpoint USING ERRCODE = 'undefined_object';
    END IF;
    IF NOT gpuagent_store.object_covered(scope, object) THEN
        RAISE EXCEPTION 'checkpoint % does not contain %', checkpoint, object
            USING ERRCODE = 'undefined_object', DETAIL = format('It was taken of %s.', array_to_string(scope, ', '));
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_checkpoint(bigint, text) IS
    '42704 unless the checkpoint exists and was taken of the object';

CREATE FUNCTION gpuagent_store.require_tensor(tensor bytea) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF tensor IS NULL THEN
        RAISE EXCEPTION 'tensor must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT gpuagent_store.keep_tensor(tensor) THEN
        RAISE EXCEPTION 'tensor % does not exist', encode(tensor, 'hex')
            USING ERRCODE = 'undefined_object', HINT = 'Store its chunks and then call gpuagent.store_tensor().';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.require_tensor(bytea) IS '42704 unless the store has the tensor, which this transaction may then refer to';

CREATE FUNCTION gpuagent_store.swarm_tensor_hash(swarm text, version bigint, checkpoint bigint) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hash bytea;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('swarm', swarm);
    IF version IS NOT NULL AND checkpoint IS NOT NULL THEN
        RAISE EXCEPTION 'version and checkpoint exclude each other' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF checkpoint IS NOT NULL THEN
        PERFORM gpuagent_store.require_checkpoint(checkpoint, 'swarm:' || swarm);
        SELECT i.tensor INTO hash FROM gpuagent.checkpoint_item i
            WHERE i.object = 'swarm:' || swarm_tensor_hash.swarm AND i.part = ''
            AND i.from_seq <= swarm_tensor_hash.checkpoint
            AND (i.to_seq IS NULL OR i.to_seq > swarm_tensor_hash.checkpoint);
    ELSIF version IS NOT NULL THEN
        SELECT v.tensor INTO hash FROM gpuagent.swarm_version v
            WHERE v.swarm = swarm_tensor_hash.swarm AND v.version = swarm_tensor_hash.version;
    ELSE
        SELECT v.tensor INTO hash FROM gpuagent.swarm s JOIN gpuagent.swarm_version v
            ON v.swarm = s.swarm AND v.version = s.current WHERE s.swarm = swarm_tensor_hash.swarm;
    END IF;
    IF hash IS NULL AND version IS NOT NULL AND EXISTS (SELECT FROM gpuagent.swarm s WHERE s.swarm = swarm_tensor_hash.swarm) THEN
        RAISE EXCEPTION 'swarm "%" has no version %', swarm, version
            USING ERRCODE = 'undefined_object',
                  DETAIL = (SELECT format('Its newest version is %s.', max(v.version))
                            FROM gpuagent.swarm_version v WHERE v.swarm = swarm_tensor_hash.swarm);
    ELSIF hash IS NULL THEN
        RAISE EXCEPTION 'swarm "%" does not exist', swarm
            USING ERRCODE = 'undefined_object',
                  DETAIL = CASE WHEN checkpoint IS NOT NULL THEN format('It is not in checkpoint %s.', checkpoint)
                                WHEN version IS NOT NULL THEN format('There is no version %s of it.', version)
                                ELSE 'There is no version of it.' END;
    END IF;
    RETURN hash;
END
$$;
COMMENT ON FUNCTION gpuagent_store.swarm_tensor_hash(text, bigint, bigint) IS
    'tensor of a swarm: the current one, that of a version, or that of a checkpoint; 42704 when absent';

-- Inlined into the caller's query: PL/pgSQL would copy the result once more.
CREATE FUNCTION gpuagent.retrieve_swarm(swarm text, version bigint DEFAULT NULL, start bigint DEFAULT 1, count bigint DEFAULT NULL,
    checkpoint bigint DEFAULT NULL) RETURNS gpuagent.swarm_tensor
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT gpuagent_store.get_tensor(gpuagent_store.swarm_tensor_hash($1, $2, $5), $3, $4)
$$;
COMMENT ON FUNCTION gpuagent.retrieve_swarm(text, bigint, bigint, bigint, bigint) IS
    'rows of a swarm from 1-based start (count NULL: to the end), of a version (NULL: current) or a checkpoint; 42704 when absent; 54000 above 256 MiB: use swarm_chunks';

CREATE FUNCTION gpuagent.swarm_chunks(swarm text, version bigint DEFAULT NULL, start bigint DEFAULT 1, count bigint DEFAULT NULL)
    RETURNS TABLE (start bigint, data gpuagent.swarm_tensor)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100 AS $$
    SELECT (s.piece).start_row, (s.piece).data
    FROM (SELECT gpuagent_store.tensor_pieces(gpuagent_store.swarm_tensor_hash($1, $2, NULL), $3, $4) AS piece OFFSET 0) s
$$;
COMMENT ON FUNCTION gpuagent.swarm_chunks(text, bigint, bigint, bigint) IS
    'rows of a swarm in pieces of about 8 MiB, each with the 1-based number of its first row; for swarms above 256 MiB';

CREATE FUNCTION gpuagent.delete_swarm(swarm text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.swarm_changed(delete_swarm.swarm);
    DELETE FROM gpuagent.swarm s WHERE s.swarm = delete_swarm.swarm;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION gpuagent.delete_swarm(text) IS
    'removes a swarm and its versions; false when absent; checkpoints keep what they hold';

CREATE FUNCTION gpuagent.prune_swarm(swarm text, keep_versions bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('swarm', swarm);
    IF keep_versions IS NULL OR keep_versions < 1 THEN
        RAISE EXCEPTION 'keep_versions must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE gpuagent.swarm IN ROW EXCLUSIVE MODE;
    PERFORM FROM gpuagent.swarm s WHERE s.swarm = prune_swarm.swarm FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'swarm "%" does not exist', swarm USING ERRCODE = 'undefined_object';
    END IF;
    DELETE FROM gpuagent.swarm_version v USING gpuagent.swarm s
        WHERE s.swarm = prune_swarm.swarm AND v.swarm = s.swarm AND v.version <= s.current - prune_swarm.keep_versions
        AND v.version NOT IN (SELECT i.version FROM gpuagent.checkpoint_item i
                              WHERE i.object = 'swarm:' || prune_swarm.swarm AND i.part = '' AND i.version IS NOT NULL);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;
COMMENT ON FUNCTION gpuagent.prune_swarm(text, bigint) IS
    'removes versions but the newest keep_versions and those that checkpoints hold; returns how many; the column swarm.keep_versions does the same at every store';
