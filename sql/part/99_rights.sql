
-- RIGHTS: nothing to PUBLIC but types, math and version(); grant_access() opens the rest.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA gpuagent, gpuagent_store FROM PUBLIC;
GRANT USAGE ON SCHEMA gpuagent TO PUBLIC;
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure AS signature FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.pronamespace = 'gpuagent'::regnamespace
            AND (p.provolatile = 'i' AND (l.lanname IN ('c', 'internal') OR 'anyarray'::regtype = ANY (p.proargtypes))
                OR p.oid IN (SELECT t.typoutput FROM pg_type t WHERE t.typnamespace = 'gpuagent'::regnamespace))
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', f.signature);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION gpuagent.version() TO PUBLIC;
-- Check constraints of the tables call it as whoever writes a row.
GRANT EXECUTE ON FUNCTION gpuagent_store.valid_name(text) TO PUBLIC;
