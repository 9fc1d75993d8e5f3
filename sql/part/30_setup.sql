
-- SET-UP
CREATE FUNCTION gpuagent_store.valid_name(name text) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_valid_name' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.valid_name(text) IS 'true for 1..255 bytes without control characters';

CREATE FUNCTION gpuagent_store.require_name(kind text, name text) RETURNS void
    AS 'MODULE_PATHNAME', 'ga_require_name' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.require_name(text, text) IS
    '22004 when name is NULL, 22023 when it is not a valid name; kind is for the message';

CREATE FUNCTION gpuagent_store.require_setup() RETURNS void
    AS 'MODULE_PATHNAME', 'ga_require_setup' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.require_setup() IS '42P01 with a hint that names setup() when the tables are missing';

CREATE FUNCTION gpuagent_store.take_lock(key bigint, wait boolean, session boolean) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_take_lock' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.take_lock(bigint, boolean, boolean) IS
    'takes an advisory lock until the end of the transaction, or of the session, that is none of pg_advisory_lock(), which any role could keep; false when another session has it and wait is false';

CREATE FUNCTION gpuagent_store.setup_steps() RETURNS TABLE (step bigint, ddl text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $ga_steps$
VALUES
--@setup-steps
$ga_steps$;
COMMENT ON FUNCTION gpuagent_store.setup_steps() IS 'steps that setup() applies, in order';

CREATE FUNCTION gpuagent.setup() RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    todo record;
BEGIN
    PERFORM gpuagent_store.take_lock(hashtextextended('gpuagent.setup', 0), true, false);
    IF to_regclass('gpuagent_store.setup_step') IS NULL THEN
        CREATE TABLE gpuagent_store.setup_step (
            step bigint PRIMARY KEY,
            applied_at timestamptz NOT NULL DEFAULT now()
        );
        COMMENT ON TABLE gpuagent_store.setup_step IS 'steps of gpuagent.setup() that this database has had';
    END IF;
    FOR todo IN
        SELECT s.step, s.ddl FROM gpuagent_store.setup_steps() s
        WHERE NOT EXISTS (SELECT FROM gpuagent_store.setup_step d WHERE d.step = s.step)
        ORDER BY s.step
    LOOP
        BEGIN
            EXECUTE todo.ddl;
        EXCEPTION WHEN duplicate_table THEN
            RAISE duplicate_table USING MESSAGE = SQLERRM,
                DETAIL = 'DROP EXTENSION gpuagent CASCADE leaves tables in schema gpuagent, without the columns of its types.',
                HINT = 'Drop them or move them to another schema, then run gpuagent.setup() again.';
        END;
        INSERT INTO gpuagent_store.setup_step (step) VALUES (todo.step);
    END LOOP;
END
$$;
COMMENT ON FUNCTION gpuagent.setup() IS
    'creates the tables, or migrates them to this version; idempotent; the caller owns them and needs CREATE on both schemas';

CREATE FUNCTION gpuagent.version() RETURNS text
    AS 'MODULE_PATHNAME', 'ga_version' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.version() IS 'versions of the extension''s library, zstd and the instruction set in use';
