-- RUNS AND METRICS

CREATE FUNCTION gpuagent.store_metrics(
    run text, metrics jsonb, step bigint DEFAULT 0, object text DEFAULT NULL, recorded_at timestamptz DEFAULT now())
    RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
    written bigint;
BEGIN
    PERFORM gpuagent_store.require_setup();
    PERFORM gpuagent_store.require_name('run name', run);
    IF metrics IS NULL OR step IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'metrics and step must not be NULL';
    ELSIF jsonb_typeof(metrics) <> 'object' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'metrics must be a JSON object of numbers';
    ELSIF object IS NOT NULL THEN
        PERFORM gpuagent_store.require_name('object', object);
    END IF;
    FOR item IN
        SELECT m.key, m.value FROM jsonb_each(metrics) m
        WHERE jsonb_typeof(m.value) NOT IN ('number', 'null') AND m.value NOT IN ('"NaN"', '"Infinity"', '"-Infinity"')
            OR NOT gpuagent_store.valid_name(m.key)
        ORDER BY m.key LIMIT 1
    LOOP
        PERFORM gpuagent_store.require_name('metric key', item.key);
        RAISE invalid_parameter_value USING
            MESSAGE = format('metric "%s" is not a number', item.key),
            HINT = 'Values are numbers, null, or one of the strings NaN, Infinity and -Infinity.';
    END LOOP;
    -- The table before the row, for the sake of a restore; the row, so that nobody removes it before its values are in.
    LOCK TABLE gpuagent.run IN ROW EXCLUSIVE MODE;
    PERFORM FROM gpuagent.run r WHERE r.run = store_metrics.run FOR KEY SHARE;
    IF NOT FOUND THEN
        INSERT INTO gpuagent.run AS r (run) VALUES (run) ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO gpuagent.metric (run, key, step, value, object, recorded_at)
    SELECT store_metrics.run, m.key, store_metrics.step, m.value::double precision, store_metrics.object,
           coalesce(store_metrics.recorded_at, now())
    FROM jsonb_each_text(metrics) m WHERE m.value IS NOT NULL ORDER BY m.key;
    GET DIAGNOSTICS written = ROW_COUNT;
    RETURN written;
END
$$;
COMMENT ON FUNCTION gpuagent.store_metrics(text, jsonb, bigint, text, timestamptz) IS
    'stores {"key": number, ..} of a run, which is created when missing; null values are left out, the strings NaN, Infinity and -Infinity are values; object says what they measure, such as expert:m. Returns the rows written';
