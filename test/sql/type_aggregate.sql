-- sum, avg, stack, unstack.

SELECT sum(e), avg(e) FROM (VALUES ('[1,2]'::embedding), ('[3,5]'), (NULL)) v (e);
SELECT sum(a), avg(a), sum(a) FILTER (WHERE false) AS none FROM (VALUES ('F16:[[1],[2]]'::agent_state), ('F16:[[0.5],[4]]')) v (a);
SELECT sum(s)::agent_state, avg(s)::agent_state FROM (VALUES ('1'::swarm_tensor), ('2')) v (s);
SELECT sum(e) IS NULL AS sum, avg(e) IS NULL AS avg, stack(e) IS NULL AS stack FROM (VALUES (NULL::embedding)) v (e);
-- accumulated in F64, rounded once: in F32 the 1 would be lost
SELECT sum(a) FROM (VALUES ('[16777216]'::agent_state), ('[1]'), ('[1]')) v (a);
SELECT avg(a) FROM (VALUES ('F16:[60000]'::agent_state), ('F16:[60000]'), ('F16:[30000]')) v (a);
SELECT sum(a), avg(a) FROM (VALUES ('[-0,NaN,inf,inf]'::agent_state)) v (a);
SELECT sum(a) FROM (VALUES ('[-0,NaN,inf,inf]'::agent_state), ('[-0,1,1,-inf]')) v (a);
SELECT sum(a) FROM (VALUES ('[]'::agent_state), ('[]')) v (a);
SELECT error_of($$SELECT sum(a) FROM (VALUES ('[3e38]'::agent_state), ('[3e38]')) v (a)$$), error_of($$SELECT sum(a) FROM (VALUES ('F16:[60000]'::embedding), ('F16:[60000]')) v (a)$$),
    error_of($$SELECT avg(a) FROM (VALUES ('F64:[1.7e308]'::agent_state), ('F64:[1.7e308]')) v (a)$$);
SELECT error_of($$SELECT sum(a) FROM (VALUES ('[1]'::agent_state), ('[1,2]')) v (a)$$), error_of($$SELECT avg(a) FROM (VALUES ('[1]'::agent_state), ('F16:[1]')) v (a)$$),
    error_of($$SELECT sum(a) FROM (VALUES ('[1,2]'::agent_state), ('[[1,2]]')) v (a)$$), error_of($$SELECT sum(a) FROM (VALUES ('I8:[1]'::agent_state)) v (a)$$);

-- grouped and over windows
SELECT i % 2 AS odd, sum(ARRAY[i, 1]::embedding), count(*) FROM generate_series(1, 10) i GROUP BY 1 ORDER BY 1;
SELECT i, avg(ARRAY[i]::embedding) OVER (ORDER BY i ROWS 1 PRECEDING), stack(ARRAY[i]::agent_state) OVER (ORDER BY i)::agent_state FROM generate_series(1, 3) i;

-- parallel: partial sums of workers; integers, so that the order does not matter
CREATE TABLE type_aggregate (id int, e embedding(4), h agent_state);
INSERT INTO type_aggregate SELECT i, ARRAY[i, -i, 1, i % 7], CASE WHEN i % 10 = 0 THEN ARRAY[i]::float8[] END FROM generate_series(1, 20000) i;
ANALYZE type_aggregate;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT sum(e), avg(e), sum(h) FROM type_aggregate;
SELECT sum(e), avg(e), sum(h), avg(h) FROM type_aggregate;
SELECT id % 4 AS part, sum(e), avg(h) FROM type_aggregate GROUP BY 1 ORDER BY 1;
SELECT sum(h) IS NULL AS all_null FROM type_aggregate WHERE id % 10 = 1;
SELECT count(*) FILTER (WHERE e <-> '[1,-1,1,1]' < 100) AS near FROM type_aggregate;
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET max_parallel_workers_per_gather;
SELECT sum(e) = (SELECT sum(e ORDER BY id DESC) FROM type_aggregate) AS serial_equals FROM type_aggregate;
DROP TABLE type_aggregate;

-- stack: rows in input order
SELECT stack(a ORDER BY i)::agent_state, stack(a ORDER BY i DESC)::agent_state, shape(stack(a)) FROM (VALUES (1, '[1,2]'::agent_state), (2, '[3,4]')) v (i, a);
SELECT stack(a)::agent_state AS scalars, shape(stack(b)) AS matrices, shape(stack(c)) AS empty FROM (VALUES ('1'::agent_state, '[[1,2]]'::agent_state, '[]'::agent_state), ('2', '[[3,4]]', '[]')) v (a, b, c);
SELECT dtype(stack(a)), tensor_bytes(stack(a)) FROM (VALUES ('F16:[1]'::embedding), ('F16:[2]')) v (a);
SELECT shape(stack(a)), tensor_bytes(stack(a)) FROM (VALUES ('F4[2]:raw:IQ=='::agent_state), ('F4[2]:raw:Qw==')) v (a);
SELECT shape(stack(a)), tensor_bytes(stack(a)) FROM (VALUES ('F6_E2M3[4]:raw:AQID'::agent_state), ('F6_E2M3[4]:raw:BAUG')) v (a);
SELECT error_of($$SELECT stack(a) FROM (VALUES ('[1]'::agent_state), (NULL)) v (a)$$), error_of($$SELECT stack(a) FROM (VALUES (NULL), ('[1]'::agent_state)) v (a)$$);
SELECT stack(a) FILTER (WHERE a IS NOT NULL)::agent_state FROM (VALUES ('[1]'::agent_state), (NULL)) v (a);
SELECT error_of($$SELECT stack(a) FROM (VALUES ('[1]'::agent_state), ('[1,2]')) v (a)$$), error_of($$SELECT stack(a) FROM (VALUES ('[1]'::agent_state), ('I32:[1]')) v (a)$$),
    error_of($$SELECT stack('[[[[[[[[1]]]]]]]]'::agent_state)$$);
SELECT error_of($$SELECT stack(t) FROM (SELECT tensor('U8', '{16000000}', decode(repeat('00', 16000000), 'hex'))) v (t), generate_series(1, 17)$$);

-- unstack: the inverse
SELECT * FROM unstack('[[1,2],[3,4]]');
SELECT * FROM unstack('[5,6]');
SELECT * FROM unstack('[]');
SELECT ordinal, shape(state) FROM unstack('F32[2,0]:raw:');
SELECT ordinal, state FROM unstack('F4[2,2]:raw:IUM=');
SELECT count(*), bool_and(state = ARRAY[ordinal, 2]::real[]::agent_state) FROM unstack((SELECT stack(ARRAY[i, 2]::real[]::agent_state ORDER BY i) FROM generate_series(1, 5000) i));
SELECT stack(state ORDER BY ordinal) = t AS inverse FROM (SELECT compress(array_fill(1::real, ARRAY[100, 8])::swarm_tensor)) v (t), unstack(t) GROUP BY t;
SELECT (unstack('[1,2]'::swarm_tensor)).*;
SELECT error_of($$SELECT * FROM unstack('1')$$), error_of($$SELECT * FROM unstack('F4[2,3]:raw:AQID')$$);
-- rows larger than an agent_state
SELECT error_of($$SELECT * FROM unstack(tensor('U8', '{1,16777217}', decode(repeat('00', 16777217), 'hex')))$$);
-- one row at a time
SELECT (row).ordinal FROM (SELECT unstack('U8[9223372036854775807,0]:raw:') AS row LIMIT 2) v;
