-- Set-up of the database that all tests of the schedule share.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS gpuagent;
SELECT gpuagent.setup();
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = "$user", public, gpuagent', current_database());
END $$;

-- What a statement fails with: SQLSTATE, message, detail and hint; "no error" when it does not.
CREATE FUNCTION public.error_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, message, nullif(detail, ''), nullif(hint, ''));
END
$$;

-- The error of casting a text to a type.
CREATE FUNCTION public.error_of(type regtype, input text) RETURNS text LANGUAGE sql AS $$
    SELECT public.error_of(format('SELECT %L::%s', input, type))
$$;
