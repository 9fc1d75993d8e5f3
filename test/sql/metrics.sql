-- Metrics of runs
\set VERBOSITY terse
SET client_min_messages = warning;
SET search_path = public, gpuagent;
SELECT gpuagent.setup();
DELETE FROM gpuagent.run WHERE run LIKE 'm/%';
CREATE FUNCTION pg_temp.fails(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    d text; h text;
BEGIN
    EXECUTE sql;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(d, ''), nullif(h, ''));
END
$$;
SELECT store_metrics('m/1', '{"loss": 0.1, "acc": 5e-324, "big": 1.7976931348623157e308, "gone": null,
                              "nan": "NaN", "up": "Infinity", "down": "-Infinity"}', 3, 'expert:m', '2030-01-02 03:04:05+00');
SELECT run, key, step, value, object, recorded_at AT TIME ZONE 'UTC' AS at FROM metric WHERE run = 'm/1' ORDER BY key;
SELECT value = 0.1::float8 AS exact FROM metric WHERE run = 'm/1' AND key = 'loss';
SELECT run, metadata, status FROM run WHERE run = 'm/1';
SELECT store_metrics('m/1', '{"loss": 0.05}'), store_metrics('m/1', '{}'), store_metrics('m/2', '{"a": null}');
SELECT run, step, value, object, recorded_at = created_at AS now FROM metric WHERE run LIKE 'm/%' AND step = 0;
SELECT pg_temp.fails(format('SELECT store_metrics(%s)', a)) FROM (VALUES
    ($$NULL, '{}'$$), ($$'', '{}'$$), ($$'m/1', NULL$$), ($$'m/1', '{}', NULL$$), ($$'m/1', '[1]'$$), ($$'m/1', '1'$$),
    ($$'m/1', '{"a": "1"}'$$), ($$'m/1', '{"a": true}'$$), ($$'m/1', '{"a": {"b": 1}}'$$), ($$'m/1', '{"": 1}'$$),
    ($$'m/1', '{"a": "nan"}'$$), ($$'m/1', '{"a": 1}', object => ''$$)) v(a);
SELECT left(pg_temp.fails($$SELECT store_metrics('m/1', '{"a": 1e309}')$$), 30);
SELECT count(*) FROM metric WHERE run LIKE 'm/%';
DELETE FROM run WHERE run LIKE 'm/%';
SELECT count(*) FROM metric WHERE run LIKE 'm/%';
