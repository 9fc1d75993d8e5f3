-- Equality, order, hash; indexes, joins and grouping over the types.

-- embedding compares numerically, over its dtypes
SELECT '[1,2]'::embedding = 'F16:[1,2]' AS dtypes, '[0]'::embedding = '[-0]' AS zeros, 'F16:[0.1]'::embedding = '[0.1]' AS rounded_differ, '[1,2]'::embedding = '[1,2,3]' AS length;
SELECT '[1,2]'::embedding < '[1,3]' AS lt, '[1,2]'::embedding < '[1,2,0]' AS prefix, '[2]'::embedding > '[1,9]' AS gt, '[1]'::embedding <= 'BF16:[1]' AS le, '[1]'::embedding >= '[2]' AS ge, '[1]'::embedding <> '[1]' AS ne;
SELECT embedding_cmp('[1]', '[2]'), embedding_cmp('[2]', '[1]'), embedding_cmp('[0]', '[-0]'), embedding_cmp('[-1]', '[1]');
SELECT embedding_hash('[1,2]') = embedding_hash('F16:[1,2]') AS dtypes, embedding_hash('[0,-0]') = embedding_hash('[-0,0]') AS zeros, embedding_hash('[1,2]') <> embedding_hash('[2,1]') AS order;

-- agent_state and swarm_tensor compare dtype, shape and bits
SELECT '[1,2]'::agent_state = '[1,2]' AS same, '[1]'::agent_state = 'F16:[1]' AS dtype, '[1,2]'::agent_state = '[[1,2]]' AS shape, '[0]'::agent_state = '[-0]' AS zeros, '[NaN]'::agent_state = '[NaN]' AS nan,
    '[NaN]'::agent_state = 'F32[1]:raw:AADA/w==' AS other_nan, '[]'::agent_state = '[[]]' AS empties, 'F32[0,2]:raw:'::agent_state = 'F32[0,3]:raw:' AS empty_shapes;
SELECT compress(t) = t AS held_differently, swarm_tensor_hash(compress(t)) = swarm_tensor_hash(t) AS hash, swarm_tensor_cmp(compress(t), t) AS cmp FROM (SELECT array_fill(1::real, ARRAY[1000])::swarm_tensor) v (t);
SELECT agent_state_hash('[0]') <> agent_state_hash('[-0]') AS zeros, agent_state_hash('[1,2]') <> agent_state_hash('[[1,2]]') AS shape, agent_state_hash('I32:[1]') <> agent_state_hash('U32:[1]') AS dtype;

-- the order is total, and the operators agree with it and with the hash
CREATE TEMP TABLE pool (id int, v agent_state);
INSERT INTO pool SELECT row_number() OVER (), s FROM unnest(ARRAY['[1]', '[-1]', '[0]', '[-0]', '[NaN]', '[inf]', '[1,2]', '[[1,2]]', '5', '[]', 'F32[2,0]:raw:', 'F16:[1]', 'I8:[1]', 'U8:[1]', 'F64:[1]', 'BOOL:[1]', 'F32[1]:raw:AADA/w==']::agent_state[]) s;
SELECT count(*) FILTER (WHERE (a.v < b.v)::int + (a.v = b.v)::int + (a.v > b.v)::int <> 1) AS not_one_of_three, count(*) FILTER (WHERE (a.v <= b.v) <> (a.v < b.v OR a.v = b.v)) AS le, count(*) FILTER (WHERE (a.v >= b.v) <> (b.v <= a.v)) AS ge,
    count(*) FILTER (WHERE sign(agent_state_cmp(a.v, b.v)) <> -sign(agent_state_cmp(b.v, a.v))) AS antisymmetry, count(*) FILTER (WHERE (a.v = b.v) <> (a.id = b.id)) AS equality, count(*) FILTER (WHERE (a.v <> b.v) <> (a.id <> b.id)) AS inequality
FROM pool a, pool b;
SELECT count(*) AS intransitive FROM pool a, pool b, pool c WHERE a.v <= b.v AND b.v <= c.v AND NOT a.v <= c.v;

-- the 32-bit hash is the low half of the extended one with seed 0; seeds matter
SELECT bool_and(embedding_hash(e) = (embedding_hash_extended(e, 0) & 4294967295)::bit(32)::int) AS embedding, bool_and(embedding_hash_extended(e, 1) <> embedding_hash_extended(e, 2)) AS seed,
    bool_and(agent_state_hash(e::agent_state) = (agent_state_hash_extended(e::agent_state, 0) & 4294967295)::bit(32)::int) AS agent_state, bool_and(agent_state_hash_extended(e::agent_state, 1) <> agent_state_hash_extended(e::agent_state, 2)) AS seed
FROM (SELECT array_agg(i * n)::embedding FROM generate_series(1, 300) i, generate_series(1, 20) n GROUP BY n) v (e);
SELECT bool_and(swarm_tensor_hash(t) = (swarm_tensor_hash_extended(t, 0) & 4294967295)::bit(32)::int) AS low_half,
    bool_and(swarm_tensor_hash_extended(t, 1) <> swarm_tensor_hash_extended(t, 2)) AS seed, count(DISTINCT swarm_tensor_hash_extended(t, 1)) AS hashes
FROM (VALUES ('[1,2]'::swarm_tensor), ('[-0,0]'), ('[0,0]'), ('[[1,2],[3,4]]')) v (t);
SELECT count(DISTINCT embedding_hash(ARRAY[i, j]::embedding)) > 9990 AS spread FROM generate_series(1, 100) i, generate_series(1, 100) j;

-- tables: values 0, 1 and 2 in two dtypes, with zeros of both signs
CREATE TEMP TABLE item (id int, e embedding(2, F16), f embedding, a agent_state);
INSERT INTO item SELECT i, ARRAY[i % 3, 0]::real[], format('[%s,%s]', i % 3, CASE WHEN i % 2 = 0 THEN '-0' ELSE '0' END)::embedding, ARRAY[i % 3]::real[]::agent_state FROM generate_series(1, 999) i;
CREATE INDEX item_btree ON item (f);
CREATE INDEX item_hash ON item USING hash (f);
CREATE INDEX item_state ON item (a);
ANALYZE item;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
DROP INDEX item_hash;
EXPLAIN (COSTS OFF) SELECT count(*) FROM item WHERE f = '[1,0]';
SELECT count(*) FROM item WHERE f = '[1,0]';
SELECT count(*) FROM item WHERE f > '[0,0]' AND f <= 'BF16:[1,-0]';
SELECT count(*) FROM item WHERE a = '[2]';
DROP INDEX item_btree;
CREATE INDEX item_hash ON item USING hash (f);
SET enable_seqscan = on;
SET enable_bitmapscan = on;
SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM item WHERE f = '[1,-0]';
SELECT count(*) FROM item WHERE f = '[1,-0]';
RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_material; RESET enable_bitmapscan;

SELECT f + '[0,0]' AS f, count(*) FROM item GROUP BY item.f ORDER BY item.f DESC;
SELECT DISTINCT a FROM item ORDER BY a;
SET enable_hashagg = off; SELECT count(*) FROM (SELECT DISTINCT f FROM item) d; RESET enable_hashagg;
SET enable_sort = off; SELECT count(*) FROM (SELECT DISTINCT f FROM item) d; RESET enable_sort;
-- 333 * 333 of each of the three values
SET enable_nestloop = off; SET enable_mergejoin = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM item i JOIN item j ON i.e = j.f;
SELECT count(*) FROM item i JOIN item j ON i.e = j.f;
RESET enable_mergejoin; SET enable_hashjoin = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM item i JOIN item j ON i.e = j.f;
SELECT count(*) FROM item i JOIN item j ON i.e = j.f;
RESET enable_nestloop; RESET enable_hashjoin;

-- keys, partitions by hash, IS DISTINCT FROM, IN, arrays
CREATE TEMP TABLE keyed (e embedding(1) PRIMARY KEY, n int);
INSERT INTO keyed VALUES ('[0]', 1);
SELECT error_of($$INSERT INTO keyed VALUES ('[-0]', 2)$$);
INSERT INTO keyed VALUES ('[-0]', 3) ON CONFLICT (e) DO UPDATE SET n = excluded.n;
SELECT * FROM keyed;
CREATE TEMP TABLE parts (e embedding) PARTITION BY HASH (e);
CREATE TEMP TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TEMP TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT ARRAY[i]::embedding FROM generate_series(1, 100) i;
SELECT count(*) = 100 AS all, count(DISTINCT tableoid) AS parts FROM parts;
SELECT count(*) FROM parts WHERE e = 'F16:[7]';
SELECT '[1]'::embedding IS DISTINCT FROM NULL AS dist, '[1]'::embedding IN ('[2]', '[1]') AS in, '[1]'::agent_state = ANY (ARRAY['[1]'::agent_state]) AS any, ARRAY['[1]'::embedding, '[2]'] = ARRAY['F16:[1]'::embedding, '[2]'] AS arrays;

-- hashing and sorting wide values leave nothing behind: 4000 rows of 4 kB out of line
CREATE TEMP TABLE wide (f embedding);
INSERT INTO wide SELECT array_fill(i::real, ARRAY[1000])::embedding FROM generate_series(1, 4000) i;
CREATE FUNCTION pg_temp.grown(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    used bigint;
BEGIN
    -- The high-water mark of memory, where the system tells it: 16 MB of leaks would show.
    SELECT (regexp_match(pg_read_file('/proc/self/status', 0, 10000, true), 'VmHWM:\s+(\d+)'))[1]::bigint INTO before;
    EXECUTE statement;
    SELECT (regexp_match(pg_read_file('/proc/self/status', 0, 10000, true), 'VmHWM:\s+(\d+)'))[1]::bigint INTO used;
    RETURN coalesce(used - before > 12000, false);
END
$$;
SET maintenance_work_mem = '1MB';
SELECT pg_temp.grown('CREATE INDEX ON wide USING hash (f)') AS hash_index_leaks;
SELECT count(*) FROM wide WHERE f = array_fill(17::real, ARRAY[1000])::embedding;

-- what the opclasses promise
SELECT a.amname, o.opcname, amvalidate(o.oid) FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
WHERE o.opcnamespace = 'gpuagent'::regnamespace AND a.amname IN ('btree', 'hash') ORDER BY 1, 2;
