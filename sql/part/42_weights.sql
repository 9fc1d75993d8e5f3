
-- EXPERTS AND WEIGHTS
CREATE FUNCTION gpuagent.store_expert_config(expert text, domain text DEFAULT NULL, parameter_count bigint DEFAULT NULL,
    learning_rate double precision DEFAULT NULL, architecture jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v bigint;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('expert', expert);
    INSERT INTO gpuagent.expert AS e (expert, domain, parameter_count, learning_rate, architecture, metadata)
        VALUES ($1, $2, $3, $4, $5, COALESCE($6, '{}'))
        ON CONFLICT ON CONSTRAINT expert_pkey DO UPDATE SET
            domain = COALESCE($2, e.domain), parameter_count = COALESCE($3, e.parameter_count),
            learning_rate = COALESCE($4, e.learning_rate), architecture = COALESCE($5, e.architecture),
            metadata = COALESCE($6, e.metadata), updated_at = now()
        RETURNING e.version INTO v;
    RETURN v;
END
$$;
COMMENT ON FUNCTION gpuagent.store_expert_config(text, text, bigint, double precision, jsonb, jsonb) IS
    'creates or changes an expert''s configuration; omitted (NULL) arguments keep the stored value; returns the version of its weights, 0 before the first';

CREATE FUNCTION gpuagent.retrieve_expert_config(expert text)
    RETURNS TABLE (expert text, domain text, parameter_count bigint, learning_rate double precision, architecture jsonb,
        metadata jsonb, version bigint, activation_count bigint, success_rate double precision, memory_usage bigint,
        created_at timestamptz, updated_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS $$
    SELECT e.expert, e.domain, e.parameter_count, e.learning_rate, e.architecture, e.metadata, e.version,
        e.activation_count, e.success_rate, e.memory_usage, e.created_at, e.updated_at
    FROM gpuagent.expert e WHERE e.expert OPERATOR(pg_catalog.=) $1
$$;
COMMENT ON FUNCTION gpuagent.retrieve_expert_config(text) IS 'configuration and state of an expert; no row when absent';

CREATE FUNCTION gpuagent.store_expert_state(expert text, activation_count bigint DEFAULT NULL,
    success_rate double precision DEFAULT NULL, memory_usage bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('expert', $1);
    UPDATE gpuagent.expert e SET activation_count = COALESCE($2, e.activation_count),
        success_rate = COALESCE($3, e.success_rate), memory_usage = COALESCE($4, e.memory_usage), updated_at = now()
        WHERE e.expert = $1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'expert "%" does not exist', $1
            USING ERRCODE = 'undefined_object', HINT = 'Create it with gpuagent.store_expert_config().';
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent.store_expert_state(text, bigint, double precision, bigint) IS
    'updates an expert''s running state; omitted (NULL) arguments keep the stored value; 42704 when absent';

CREATE FUNCTION gpuagent_store.lock_expert(expert text, expected_version bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    cur bigint;
    mine boolean;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('expert', expert);
    -- The table before the row: a restore locks the table and then its rows, and would otherwise wait in a circle.
    LOCK TABLE gpuagent.expert IN ROW EXCLUSIVE MODE;
    -- More than one round only when another session creates or deletes it in between.
    FOR attempt IN 1 .. 10 LOOP
        SELECT e.version, COALESCE(e.version_xact = pg_current_xact_id() AND e.version_at = now(), false)
            INTO cur, mine FROM gpuagent.expert e WHERE e.expert = lock_expert.expert FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO gpuagent.expert (expert) VALUES (lock_expert.expert) ON CONFLICT DO NOTHING;
    END LOOP;
    IF cur IS NULL THEN
        RAISE EXCEPTION 'expert "%" cannot be locked', expert
            USING ERRCODE = 'insufficient_privilege', DETAIL = 'It exists, but row security hides it.';
    END IF;
    -- A later layer of the same transaction meets the version that the first one began.
    IF expected_version IS NOT NULL AND cur <> expected_version + mine::integer AND cur <> expected_version THEN
        RAISE EXCEPTION 'expert "%" is at version %, not %', expert, cur, expected_version
            USING ERRCODE = 'serialization_failure', HINT = 'Load the current weights and try again.';
    END IF;
    IF mine THEN
        RETURN cur;
    END IF;
    UPDATE gpuagent.expert e SET version = cur + 1, version_xact = pg_current_xact_id(), version_at = now(), updated_at = now()
        WHERE e.expert = lock_expert.expert;
    RETURN cur + 1;
END
$$;
COMMENT ON FUNCTION gpuagent_store.lock_expert(text, bigint) IS
    'locks the expert''s row, creating it, and returns the version that this transaction writes: one per transaction; 40001 unless it stood at expected_version';

CREATE FUNCTION gpuagent_store.set_weight_version(expert text, layer text, version bigint, weights bytea, biases bytea, metadata jsonb)
    RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO gpuagent.weight_version AS w (expert, layer, version, weights, biases, deleted, metadata)
        VALUES ($1, $2, $3, $4, $5, $4 IS NULL, COALESCE($6, '{}'))
        ON CONFLICT ON CONSTRAINT weight_version_pkey DO UPDATE
        SET weights = excluded.weights, biases = excluded.biases, deleted = excluded.deleted,
            metadata = COALESCE($6, w.metadata)
$$;
COMMENT ON FUNCTION gpuagent_store.set_weight_version(text, text, bigint, bytea, bytea, jsonb) IS
    'writes a layer''s row of a version of a locked expert; weights NULL marks the layer deleted';

CREATE FUNCTION gpuagent.store_weights(expert text, layer text, weights gpuagent.swarm_tensor,
    biases gpuagent.swarm_tensor DEFAULT NULL, metadata jsonb DEFAULT NULL, expected_version bigint DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v bigint;
    previous record;
BEGIN
    IF weights IS NULL THEN
        RAISE EXCEPTION 'weights must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Remove a layer with gpuagent.delete_weights().';
    END IF;
    PERFORM gpuagent_store.require_name('layer', layer);
    v := gpuagent_store.lock_expert(expert, expected_version);
    SELECT w.weights, w.biases INTO previous FROM gpuagent.weight_version w
        WHERE w.expert = store_weights.expert AND w.layer = store_weights.layer ORDER BY w.version DESC LIMIT 1;
    PERFORM gpuagent_store.set_weight_version(expert, layer, v, gpuagent_store.put_tensor(weights, previous.weights),
        gpuagent_store.put_tensor(biases, previous.biases), metadata);
    RETURN v;
END
$$;
COMMENT ON FUNCTION gpuagent.store_weights(text, text, gpuagent.swarm_tensor, gpuagent.swarm_tensor, jsonb, bigint) IS
    'stores a layer of an expert, created when absent; all layers of one transaction are one version, whose number it returns; layers not written are inherited; 40001 unless the expert was at expected_version';

CREATE FUNCTION gpuagent.store_weights_ref(expert text, layer text, weights bytea, biases bytea DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v bigint;
BEGIN
    PERFORM gpuagent_store.require_name('layer', layer);
    PERFORM gpuagent_store.require_tensor(weights);
    IF biases IS NOT NULL THEN
        PERFORM gpuagent_store.require_tensor(biases);
    END IF;
    v := gpuagent_store.lock_expert(expert, NULL);
    PERFORM gpuagent_store.set_weight_version(expert, layer, v, weights, biases, NULL);
    RETURN v;
END
$$;
COMMENT ON FUNCTION gpuagent.store_weights_ref(text, text, bytea, bytea) IS
    'like store_weights for tensors that are in the store (store_tensor), of any size; 42704 when they are not';

CREATE FUNCTION gpuagent_store.weight_hashes(expert text, layer text, version bigint, checkpoint bigint)
    RETURNS TABLE (layer_name text, layer_version bigint, weights bytea, biases bytea, metadata jsonb)
LANGUAGE plpgsql STABLE PARALLEL SAFE ROWS 100 SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM gpuagent_store.require_setup();
    IF $3 IS NOT NULL AND $4 IS NOT NULL THEN
        RAISE EXCEPTION 'version and checkpoint exclude each other' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF $4 IS NOT NULL THEN
        PERFORM gpuagent_store.require_checkpoint($4, 'expert:' || $1);
        RETURN QUERY SELECT substr(i.part, 7), i.version, i.tensor, i.biases, i.body -> 'metadata'
            FROM gpuagent.checkpoint_item i
            WHERE i.object = 'expert:' || $1 AND i.from_seq <= $4 AND (i.to_seq IS NULL OR i.to_seq > $4)
            AND CASE WHEN $2 IS NULL THEN i.part >= 'layer:' AND i.part < 'layer;' ELSE i.part = 'layer:' || $2 END
            ORDER BY i.part;
    ELSE
        RETURN QUERY SELECT DISTINCT ON (w.layer) w.layer, w.version, w.weights, w.biases, w.metadata
            FROM gpuagent.weight_version w
            WHERE w.expert = $1 AND ($2 IS NULL OR w.layer = $2) AND ($3 IS NULL OR w.version <= $3)
            AND ($3 IS NULL OR $3 >= (SELECT e.oldest FROM gpuagent.expert e WHERE e.expert = $1))
            ORDER BY w.layer, w.version DESC;
    END IF;
END
$$;
COMMENT ON FUNCTION gpuagent_store.weight_hashes(text, text, bigint, bigint) IS
    'layers of an expert as of a version (NULL: newest) or a checkpoint, in order of layer; weights NULL where deleted';

CREATE FUNCTION gpuagent.load_weights(expert text, layer text DEFAULT NULL, version bigint DEFAULT NULL, checkpoint bigint DEFAULT NULL)
    RETURNS TABLE (layer text, version bigint, weights gpuagent.swarm_tensor, biases gpuagent.swarm_tensor)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100 AS $$
    SELECT h.layer_name, h.layer_version, gpuagent_store.get_tensor(h.weights), gpuagent_store.get_tensor(h.biases)
    FROM gpuagent_store.weight_hashes($1, $2, $3, $4) h WHERE h.weights IS NOT NULL
$$;
COMMENT ON FUNCTION gpuagent.load_weights(text, text, bigint, bigint) IS
    'layers of an expert (layer NULL: all, in order of name) as of a version (NULL: newest) or a checkpoint; no rows when absent; 54000 for a tensor above 256 MiB: use tensor_chunks';

CREATE FUNCTION gpuagent.delete_weights(expert text, layer text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v bigint;
    doomed text[];
BEGIN
    PERFORM gpuagent_store.require_setup();
    LOCK TABLE gpuagent.expert IN ROW EXCLUSIVE MODE;
    PERFORM FROM gpuagent.expert e WHERE e.expert = $1 FOR UPDATE;
    doomed := ARRAY(SELECT h.layer_name FROM gpuagent_store.weight_hashes($1, $2, NULL, NULL) h WHERE h.weights IS NOT NULL);
    IF cardinality(doomed) = 0 THEN
        RETURN 0;
    END IF;
    v := gpuagent_store.lock_expert($1, NULL);
    PERFORM gpuagent_store.set_weight_version($1, l, v, NULL, NULL, NULL) FROM unnest(doomed) l;
    RETURN cardinality(doomed);
END
$$;
COMMENT ON FUNCTION gpuagent.delete_weights(text, text) IS
    'ends a layer (NULL: all) of an expert from a new version on; older versions keep it; returns the number of layers';

CREATE FUNCTION gpuagent.delete_expert(expert text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM gpuagent_store.require_setup();
    DELETE FROM gpuagent.expert e WHERE e.expert = $1;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION gpuagent.delete_expert(text) IS
    'removes an expert with all versions of its weights; false when absent; checkpoints keep what they hold';

CREATE FUNCTION gpuagent.prune_weights(expert text, keep_versions bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    floor_version bigint;
    n bigint;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('expert', expert);
    IF keep_versions IS NULL OR keep_versions < 1 THEN
        RAISE EXCEPTION 'keep_versions must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOCK TABLE gpuagent.expert IN ROW EXCLUSIVE MODE;
    SELECT e.version - $2 + 1 INTO floor_version FROM gpuagent.expert e WHERE e.expert = $1 FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'expert "%" does not exist', $1 USING ERRCODE = 'undefined_object';
    END IF;
    -- A row goes when a newer one of its layer, or its own end, already serves every version that stays.
    DELETE FROM gpuagent.weight_version w
        WHERE w.expert = $1 AND w.version <= floor_version
        AND (EXISTS (SELECT FROM gpuagent.weight_version n
                     WHERE n.expert = w.expert AND n.layer = w.layer AND n.version > w.version AND n.version <= floor_version)
             OR (w.deleted AND w.version <= floor_version));
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n > 0 THEN
        UPDATE gpuagent.expert e SET oldest = greatest(e.oldest, floor_version) WHERE e.expert = $1;
    END IF;
    RETURN n;
END
$$;
COMMENT ON FUNCTION gpuagent.prune_weights(text, bigint) IS
    'removes rows that no version among the newest keep_versions needs; returns how many; older versions then have no layers at all; checkpoints keep what they hold';
