-- The content-addressed store: tensors of every size come back bit for bit, equal content is stored once, damage is found.
-- Hashes are compared with an independent implementation in test/python/test_store_hash.py.

-- n bytes of which no 1 MiB piece equals another (251 does not divide 1 MiB), seed varies them.
CREATE FUNCTION store_bytes(n bigint, seed integer) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT substring(convert_to(repeat((SELECT string_agg(chr(33 + (i * i + seed) % 90), '') FROM generate_series(1, 251) i),
                                       (n / 251 + 1)::integer), 'UTF8') FROM 1 FOR n::integer)
$$;
CREATE VIEW store_count AS
    SELECT (SELECT count(*) FROM gpuagent_store.chunk) AS chunks, (SELECT count(*) FROM gpuagent_store.node) AS nodes,
        (SELECT count(*) FROM gpuagent_store.tensor) AS tensors;

-- Sizes around the borders of leaves, chunks and levels of the tree.
CREATE TABLE store_case (nbytes bigint PRIMARY KEY, value swarm_tensor, hash bytea);
ALTER TABLE store_case ALTER value SET STORAGE EXTERNAL;
INSERT INTO store_case SELECT n, tensor('U8', ARRAY[n], store_bytes(n, 1))
    FROM unnest(ARRAY[0, 1, 63, 65535, 65536, 65537, 1048575, 1048576, 1048577, 2097152, 67108864, 67108865]) n;
UPDATE store_case SET hash = gpuagent_store.put_tensor(value);
SELECT c.nbytes, hash = tensor_hash(value) AS hash, gpuagent_store.get_tensor(hash) = value AS value,
    gpuagent_store.tensor_problem(hash) AS problem, t.dtype, t.shape, t.nbytes
FROM store_case c JOIN gpuagent_store.tensor t USING (hash) ORDER BY 1;

-- What lies below the largest: 65 chunks in 2 nodes below a third.
WITH RECURSIVE tree AS (
    SELECT t.root AS hash, 0 AS depth FROM store_case c JOIN gpuagent_store.tensor t USING (hash) WHERE c.nbytes = 67108865
    UNION ALL
    SELECT substring(n.children FROM i FOR 32), depth + 1
    FROM tree JOIN gpuagent_store.node n USING (hash), generate_series(1, octet_length(n.children), 32) i)
SELECT depth, count(*), count(n.hash) AS nodes, count(c.hash) AS chunks, sum(n.nbytes) AS below, sum(c.nbytes) AS raw
FROM tree LEFT JOIN gpuagent_store.node n USING (hash) LEFT JOIN gpuagent_store.chunk c USING (hash) GROUP BY depth ORDER BY depth;
-- A tensor of up to 1 MiB has its chunk as root, an empty one nothing at all.
SELECT c.nbytes, EXISTS (SELECT FROM gpuagent_store.chunk k WHERE k.hash = t.root) AS chunk,
    EXISTS (SELECT FROM gpuagent_store.node n WHERE n.hash = t.root) AS node
FROM store_case c JOIN gpuagent_store.tensor t USING (hash) WHERE c.nbytes IN (0, 1048576, 1048577) ORDER BY 1;

-- Equal content is stored once, whatever its shape and dtype.
CREATE TEMP TABLE before AS SELECT * FROM store_count;
SELECT count(gpuagent_store.put_tensor(value)) FROM store_case;
SELECT a.chunks - b.chunks AS chunks, a.nodes - b.nodes AS nodes, a.tensors - b.tensors AS tensors FROM store_count a, before b;
SELECT gpuagent_store.put_tensor(tensor('U8', '{1024,2048}', tensor_bytes(value))) <> hash AS other_shape,
    gpuagent_store.put_tensor(tensor('I8', ARRAY[nbytes], tensor_bytes(value))) <> hash AS other_dtype,
    gpuagent_store.put_tensor(tensor('F32', ARRAY[nbytes / 4], tensor_bytes(value))) <> hash AS other_width
FROM store_case WHERE nbytes = 2097152;
SELECT a.chunks - b.chunks AS chunks, a.nodes - b.nodes AS nodes, a.tensors - b.tensors AS tensors FROM store_count a, before b;
-- within one statement, too: one piece twice
UPDATE before SET (chunks, nodes, tensors) = (SELECT * FROM store_count);
SELECT gpuagent_store.tensor_problem(gpuagent_store.put_tensor(tensor('U8', '{3145728}', p || p || p)))
    FROM substring(store_bytes(1048576, 2) FROM 1) p;
SELECT a.chunks - b.chunks AS chunks, a.nodes - b.nodes AS nodes, a.tensors - b.tensors AS tensors FROM store_count a, before b;

-- Compression does not change identities, and both forms are read with any setting.
SET gpuagent.compression = off;
SELECT encode(gpuagent_store.put_tensor(tensor('F32', '{65536}', store_bytes(262144, 3))), 'hex') AS raw \gset
SELECT codec, width, c.nbytes, octet_length(data) FROM gpuagent_store.chunk c JOIN gpuagent_store.tensor t ON t.root = c.hash
    WHERE t.hash = decode(:'raw', 'hex');
ALTER TABLE gpuagent_store.chunk RENAME TO chunk_raw;
CREATE TABLE gpuagent_store.chunk (LIKE gpuagent_store.chunk_raw INCLUDING ALL);
SET gpuagent.compression = on;
SELECT gpuagent_store.put_tensor(tensor('F32', '{65536}', store_bytes(262144, 3))) = decode(:'raw', 'hex') AS same_hash;
SELECT c.codec, c.width, c.nbytes, octet_length(c.data) < 20000 AS small, r.codec AS was
    FROM gpuagent_store.chunk c JOIN gpuagent_store.chunk_raw r USING (hash);
SELECT tensor_bytes(gpuagent_store.get_tensor(decode(:'raw', 'hex'))) = store_bytes(262144, 3) AS from_compressed;
DROP TABLE gpuagent_store.chunk;
ALTER TABLE gpuagent_store.chunk_raw RENAME TO chunk;
SELECT tensor_bytes(gpuagent_store.get_tensor(decode(:'raw', 'hex'))) = store_bytes(262144, 3) AS from_raw;
-- random bytes gain nothing and stay raw
SELECT encode(store_chunk(tensor('U8', '{8192}', (SELECT string_agg(sha256(int4send(i)), '') FROM generate_series(1, 256) i))), 'hex') AS c \gset
SELECT codec, nbytes = octet_length(data) AS raw FROM gpuagent_store.chunk WHERE hash = decode(:'c', 'hex');

-- Every dtype, rank 0, empty and packed ones.
CREATE TEMP TABLE kind AS
SELECT d, s, tensor(d, s, substring(store_bytes(64, 4) FROM 1 FOR n)) AS value
FROM (VALUES ('F64', '{3,2}'::bigint[], 48), ('F32', '{}', 4), ('F16', '{2,0,3}', 0), ('BF16', '{5}', 10), ('I64', '{1}', 8), ('I32', '{2,2}', 16),
    ('I16', '{3}', 6), ('I8', '{7}', 7), ('U64', '{2}', 16), ('U32', '{1,1,1,1,1,1,1,3}', 12), ('U16', '{}', 2), ('U8', '{0}', 0),
    ('C64', '{2}', 16), ('F8_E5M2', '{3}', 3), ('F8_E4M3', '{3}', 3), ('F8_E8M0', '{3}', 3), ('F8_E4M3FNUZ', '{1}', 1), ('F8_E5M2FNUZ', '{1}', 1),
    ('F4', '{2,2}', 2), ('F6_E2M3', '{4}', 3), ('F6_E3M2', '{2,2}', 3), ('F4', '{0}', 0)) v(d, s, n)
UNION ALL SELECT 'BOOL', '{2,1}', tensor('BOOL', '{2,1}', '\x0100');
ALTER TABLE kind ADD hash bytea;
UPDATE kind SET hash = gpuagent_store.put_tensor(value);
SELECT count(*), bool_and(hash = tensor_hash(value)) AS hash, bool_and(gpuagent_store.get_tensor(hash) = value) AS value,
    bool_and(dtype(gpuagent_store.get_tensor(hash)) = d) AS dtype, bool_and(shape(gpuagent_store.get_tensor(hash)) = s) AS shape,
    bool_and(gpuagent_store.tensor_problem(hash) IS NULL) AS whole FROM kind;
SELECT gpuagent_store.get_tensor(NULL) IS NULL, gpuagent_store.put_tensor(NULL) IS NULL, tensor_hash(NULL) IS NULL;

-- Slices are clipped as substring does; every one equals the slice of the value.
SELECT encode(gpuagent_store.put_tensor(tensor('I16', '{1000,700}', store_bytes(1400000, 5))), 'hex') AS m \gset
SELECT start, count, shape(got), got = CASE WHEN n > 0 THEN tensor('I16', ARRAY[n, 700], substring(store_bytes(1400000, 5)
        FROM (greatest(start, 1) - 1)::integer * 1400 + 1 FOR n::integer * 1400)) ELSE got END AS equal
FROM (VALUES (1, NULL), (1, 1), (749, 2), (1000, 1), (1000, 100), (1001, 1), (0, 1), (0, 2), (-5, 10), (3, 0), (-9223372036854775808, 0),
    (-9223372036854775808, 9223372036854775807), (9223372036854775807, 9223372036854775807), (2, 9223372036854775807), (990, NULL), (-3, NULL)) v(start, count),
    LATERAL gpuagent_store.get_tensor(decode(:'m', 'hex'), start, count) got, LATERAL (SELECT (shape(got))[1] AS n) s;
SELECT error_of(format('SELECT gpuagent_store.get_tensor(%L, 1, -1)', '\x' || :'m'));
SELECT encode(gpuagent_store.put_tensor(tensor('F32', '{9223372036854775807,0}', '')), 'hex') AS endless \gset
SELECT shape(gpuagent_store.get_tensor(decode(:'endless', 'hex'), 5, 9223372036854775807));
SELECT start_row, shape(data) FROM gpuagent_store.tensor_pieces(decode(:'endless', 'hex'), 5);
-- a tensor of rank 0 has no rows; those of packed dtypes must fill bytes
SELECT count(gpuagent_store.put_tensor(t)) FROM unnest(ARRAY['7', tensor('F4', '{3,2}', '\x010203'), tensor('F4', '{2,3}', '\x010203')]) t;
SELECT error_of('SELECT gpuagent_store.get_tensor(tensor_hash(''7''), 1, 1)');
SELECT gpuagent_store.get_tensor(tensor_hash('7'));
SELECT tensor_bytes(gpuagent_store.get_tensor(tensor_hash(tensor('F4', '{3,2}', '\x010203')), 2, 1));
SELECT error_of($$SELECT gpuagent_store.get_tensor(tensor_hash(tensor('F4', '{2,3}', '\x010203')), 2, 1)$$);

-- Errors of identities.
SELECT error_of($$SELECT gpuagent_store.get_tensor('\x00')$$);
SELECT error_of($$SELECT gpuagent_store.get_tensor(decode(repeat('ab', 32), 'hex'))$$);
SELECT gpuagent_store.tensor_problem(decode(repeat('ab', 32), 'hex'));

-- Damage of every kind of row: what is read fails, or tensor_problem() says so.
CREATE FUNCTION damage(what text, change text) RETURNS TABLE (damaged text, read text, problem text) LANGUAGE plpgsql AS $$
DECLARE
    h bytea := (SELECT hash FROM store_case WHERE nbytes = 2097152);
BEGIN
    BEGIN
        EXECUTE change USING h;
        read := regexp_replace(error_of(format('SELECT gpuagent_store.get_tensor(%L)', h)), '[0-9a-f]{64}', 'HASH', 'g');
        problem := regexp_replace(gpuagent_store.tensor_problem(h), '[0-9a-f]{64}', 'HASH', 'g');
        RAISE EXCEPTION 'undo' USING ERRCODE = 'UNDO1';
    EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
    END;
    damaged := what;
    RETURN NEXT;
END
$$;
CREATE VIEW damage_chunk AS SELECT substring(children FROM 33 FOR 32) AS hash FROM store_case c
    JOIN gpuagent_store.tensor t USING (hash) JOIN gpuagent_store.node n ON n.hash = t.root WHERE c.nbytes = 2097152;
SELECT * FROM damage(
    'chunk missing',
    'DELETE FROM gpuagent_store.chunk WHERE hash = (SELECT hash FROM damage_chunk) AND $1 IS NOT NULL');
SELECT * FROM damage(
    'chunk with other content',
    'UPDATE gpuagent_store.chunk SET codec = 0, data = set_byte(tensor_bytes(gpuagent_store.get_tensor($1, 1048577)), 77, 0) WHERE hash = (SELECT hash FROM damage_chunk)');
SELECT * FROM damage(
    'chunk of another size',
    'UPDATE gpuagent_store.chunk SET nbytes = 5 WHERE hash = (SELECT hash FROM damage_chunk) AND $1 IS NOT NULL');
SELECT * FROM damage(
    'chunk cut short',
    'UPDATE gpuagent_store.chunk SET data = substring(data FROM 1 FOR octet_length(data) - 1) WHERE hash = (SELECT hash FROM damage_chunk) AND $1 IS NOT NULL');
SELECT * FROM damage(
    'raw chunk cut short',
    'UPDATE gpuagent_store.chunk SET codec = 0, data = ''\x00'' WHERE hash = (SELECT hash FROM damage_chunk) AND $1 IS NOT NULL');
SELECT * FROM damage(
    'chunk of an unknown codec',
    'UPDATE gpuagent_store.chunk SET codec = 9 WHERE hash = (SELECT hash FROM damage_chunk) AND $1 IS NOT NULL');
SELECT * FROM damage(
    'chunk shuffled by another width',
    'UPDATE gpuagent_store.chunk SET width = 4 WHERE hash = (SELECT hash FROM damage_chunk) AND $1 IS NOT NULL');
SELECT * FROM damage(
    'chunk with another checksum',
    'UPDATE gpuagent_store.chunk SET crc = 0 WHERE hash = (SELECT hash FROM damage_chunk) AND $1 IS NOT NULL');
SELECT * FROM damage(
    'node missing',
    'DELETE FROM gpuagent_store.node n USING gpuagent_store.tensor t WHERE t.hash = $1 AND n.hash = t.root');
SELECT * FROM damage(
    'node with its children swapped',
    'UPDATE gpuagent_store.node n SET children = substring(children FROM 33) || substring(children FROM 1 FOR 32) FROM gpuagent_store.tensor t WHERE t.hash = $1 AND n.hash = t.root');
SELECT * FROM damage(
    'node with a child too few',
    'UPDATE gpuagent_store.node n SET children = substring(children FROM 33) FROM gpuagent_store.tensor t WHERE t.hash = $1 AND n.hash = t.root');
SELECT * FROM damage(
    'tensor missing',
    'DELETE FROM gpuagent_store.tensor t WHERE t.hash = $1');
SELECT * FROM damage(
    'tensor of another shape',
    'UPDATE gpuagent_store.tensor t SET shape = ''{2,1048576}'' WHERE t.hash = $1');
SELECT * FROM damage(
    'tensor of another size',
    'UPDATE gpuagent_store.tensor t SET nbytes = 7 WHERE t.hash = $1');
SELECT * FROM damage(
    'tensor of another dtype',
    'UPDATE gpuagent_store.tensor t SET dtype = ''I8'' WHERE t.hash = $1');
SELECT * FROM damage(
    'tensor of an unknown dtype',
    'UPDATE gpuagent_store.tensor t SET dtype = ''I9'' WHERE t.hash = $1');
SELECT * FROM damage(
    'tensor with another root',
    'UPDATE gpuagent_store.tensor t SET root = (SELECT hash FROM damage_chunk) WHERE t.hash = $1');
SELECT * FROM damage(
    'tensor with an absurd shape',
    'UPDATE gpuagent_store.tensor t SET shape = ''{9223372036854775807}'', nbytes = 9223372036854775807 WHERE t.hash = $1');
-- No flipped bit gets past a reader, whichever it is, in raw bytes and in compressed ones.
CREATE FUNCTION flips(codec smallint, n integer) RETURNS TABLE (caught bigint, harmless boolean) LANGUAGE plpgsql AS $$
DECLARE
    bytes bytea := CASE codec WHEN 1 THEN store_bytes(70000, 6) ELSE (SELECT string_agg(sha256(int4send(i)), '') FROM generate_series(1, 2200) i) END;
    h bytea := gpuagent_store.put_tensor(gpuagent.tensor('F32', ARRAY[octet_length(bytes) / 4], bytes));
    c bytea := (SELECT root FROM gpuagent_store.tensor WHERE hash = h LIMIT 1);
    bits bigint := (SELECT octet_length(data) * 8 FROM gpuagent_store.chunk k WHERE k.hash = c AND k.codec = flips.codec);
    bit bigint;
BEGIN
    caught := 0;
    harmless := true;
    FOR i IN 1 .. n LOOP
        bit := floor(random() * bits);
        BEGIN
            UPDATE gpuagent_store.chunk SET data = set_bit(data, bit, 1 - get_bit(data, bit)) WHERE hash = c;
            IF gpuagent.tensor_bytes(gpuagent_store.get_tensor(h)) <> bytes THEN
                harmless := false;
            END IF;
            RAISE EXCEPTION 'undo' USING ERRCODE = 'UNDO1';
        EXCEPTION WHEN data_corrupted THEN
            caught := caught + 1;
        WHEN SQLSTATE 'UNDO1' THEN
        END;
    END LOOP;
    RETURN NEXT;
END
$$;
SELECT setseed(0.5);
SELECT caught = 100 AS all_caught, harmless FROM flips(0::smallint, 100);
SELECT caught > 290 AS nearly_all_caught, harmless AS rest_harmless FROM flips(1::smallint, 300);
DROP FUNCTION flips;

-- The tables are their owner's to alter; that fails, and does not crash.
SELECT * FROM damage(
    'chunk with a NULL',
    'ALTER TABLE gpuagent_store.chunk ALTER data DROP NOT NULL; UPDATE gpuagent_store.chunk SET data = NULL');
SELECT * FROM damage(
    'tensor with a NULL',
    'ALTER TABLE gpuagent_store.tensor ALTER shape DROP NOT NULL; UPDATE gpuagent_store.tensor SET shape = NULL');
SELECT * FROM damage(
    'chunk of wider columns',
    'ALTER TABLE gpuagent_store.chunk ALTER nbytes TYPE bigint, ALTER codec TYPE bigint, ALTER width TYPE integer, ALTER crc TYPE bigint');
-- and all is whole again
SELECT gpuagent_store.tensor_problem(hash) IS NULL AS whole FROM store_case WHERE nbytes = 2097152;
-- the tables refuse what could never be right
SELECT error_of($$INSERT INTO gpuagent_store.chunk (hash, nbytes, crc, data) VALUES ('\x00', 1, 0, '\x00')$$);
SELECT error_of($$INSERT INTO gpuagent_store.chunk (hash, nbytes, crc, data) VALUES (sha256(''), 1048577, 0, '\x00')$$) ~ '^23514' AS nbytes;
SELECT error_of($$INSERT INTO gpuagent_store.node (hash, nbytes, children) VALUES (sha256(''), 1, '\x00')$$) ~ '^23514' AS children;

BEGIN;
ALTER TABLE gpuagent_store.chunk DROP CONSTRAINT chunk_data_check, ALTER data TYPE integer USING 0;
SELECT error_of(format('SELECT gpuagent_store.get_tensor(%L)', hash)) <> 'no error' AS fails FROM store_case WHERE nbytes = 2097152;
ROLLBACK;

-- A damaged row is replaced by storing what it held: whatever refers to it is whole again.
BEGIN;
UPDATE gpuagent_store.chunk SET crc = crc + 1 WHERE hash = (SELECT hash FROM damage_chunk);
SELECT gpuagent_store.put_tensor(value) = hash AS stored, gpuagent_store.tensor_problem(hash) IS NULL AS whole FROM store_case WHERE nbytes = 2097152;
DELETE FROM gpuagent_store.chunk WHERE hash = (SELECT hash FROM damage_chunk);
SELECT gpuagent_store.put_tensor(value) = hash AS stored, gpuagent_store.tensor_problem(hash) IS NULL AS whole FROM store_case WHERE nbytes = 2097152;
ROLLBACK;

-- tensor_problem() inside blocks that catch errors
DO $$
DECLARE
    h bytea := (SELECT hash FROM store_case WHERE nbytes = 67108865);
BEGIN
    FOR i IN 1 .. 3 LOOP
        BEGIN
            PERFORM 1 / 0;
        EXCEPTION WHEN division_by_zero THEN
            IF gpuagent_store.tensor_problem(h) IS NOT NULL OR gpuagent_store.tensor_problem(sha256(h)) IS NULL THEN
                RAISE EXCEPTION 'wrong answer';
            END IF;
        END;
    END LOOP;
END
$$;
-- An error that is not damage is passed on, and the session's subtransactions stay in order.
CREATE ROLE store_reader;
GRANT USAGE ON SCHEMA gpuagent_store TO store_reader;
GRANT EXECUTE ON FUNCTION gpuagent_store.tensor_problem(bytea) TO store_reader;
DO $$
DECLARE
    h bytea := (SELECT hash FROM store_case WHERE nbytes = 1);
    caught integer := 0;
BEGIN
    CREATE TEMP TABLE outer_work (n integer);
    SET LOCAL ROLE store_reader;
    BEGIN
        PERFORM gpuagent_store.tensor_problem(h);
    EXCEPTION WHEN insufficient_privilege THEN
        caught := caught + 1;
    END;
    RESET ROLE;
    INSERT INTO outer_work VALUES (caught);
END
$$;
SELECT * FROM outer_work;

-- A session outlives its tables: dropped ones are reported with the hint, new ones are used.
BEGIN;
ALTER SCHEMA gpuagent_store RENAME TO elsewhere;
CREATE SCHEMA gpuagent_store;
SELECT error_of('SELECT elsewhere.get_tensor(sha256(''''))');
ROLLBACK;
BEGIN;
ALTER TABLE gpuagent_store.chunk RENAME TO chunk_old;
CREATE TABLE gpuagent_store.chunk (LIKE gpuagent_store.chunk_old INCLUDING ALL);
SELECT gpuagent_store.put_tensor('[1,2,3,4,5]') = tensor_hash('[1,2,3,4,5]');
SELECT count(*) FROM gpuagent_store.chunk;
SELECT gpuagent_store.get_tensor(tensor_hash('[1,2,3,4,5]'));
ROLLBACK;
SELECT error_of('SELECT gpuagent_store.get_tensor(tensor_hash(''[1,2,3,4,5]''))') ~ '^42704' AS rolled_back;

BEGIN;
SET LOCAL client_min_messages = error;
DROP EXTENSION gpuagent CASCADE;
CREATE EXTENSION gpuagent;
SELECT gpuagent_store.put_tensor('[1]') IS NOT NULL;
ROLLBACK;
BEGIN;
SET LOCAL client_min_messages = error;
DROP EXTENSION gpuagent CASCADE;
DROP SCHEMA IF EXISTS gpuagent, gpuagent_store CASCADE;
CREATE EXTENSION gpuagent;
SELECT gpuagent.setup();
SELECT gpuagent_store.put_tensor('[1,2,3]') = gpuagent.tensor_hash('[1,2,3]') AS stored;
SELECT gpuagent_store.get_tensor(gpuagent.tensor_hash('[1,2,3]')), (SELECT count(*) FROM gpuagent_store.chunk) AS chunks;
ROLLBACK;
SELECT gpuagent_store.tensor_problem(hash) IS NULL AS whole FROM store_case WHERE nbytes = 2097152;

-- Cancelled in the middle: not an answer of tensor_problem(), and the session goes on.
\set VERBOSITY terse
SET statement_timeout = '30ms';
SELECT count(gpuagent_store.tensor_problem(hash)) FROM store_case, generate_series(1, 100) WHERE nbytes > 60000000;
SELECT count(gpuagent_store.put_tensor(tensor('U8', ARRAY[6000000], store_bytes(6000000, i)))) FROM generate_series(100, 300) i;
SELECT count(gpuagent_store.get_tensor(hash)) FROM store_case, generate_series(1, 100) WHERE nbytes > 60000000;
RESET statement_timeout;
\set VERBOSITY default
SELECT gpuagent_store.tensor_problem(hash) IS NULL AS whole FROM store_case WHERE nbytes = 1048577;

-- In a security-restricted operation, too.
CREATE MATERIALIZED VIEW store_view AS SELECT gpuagent_store.put_tensor('[5,5,5]') AS hash;
REFRESH MATERIALIZED VIEW store_view;
SELECT gpuagent_store.get_tensor(hash) FROM store_view;
DROP MATERIALIZED VIEW store_view;

-- A plan made while the table is empty does not read all of it later.
BEGIN;
CREATE TEMP TABLE plans AS SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = 'gpuagent_store.chunk'::regclass;
SELECT count(gpuagent_store.put_tensor(tensor('I32', '{1}', int4send(i)))) FROM generate_series(1, 200) i;
SELECT s.seq_scan - p.seq_scan AS scans FROM pg_stat_xact_user_tables s, plans p WHERE relid = 'gpuagent_store.chunk'::regclass;
ROLLBACK;

-- Parallel workers read, too.
CREATE TABLE store_parallel AS SELECT c.hash, c.nbytes FROM store_case c, generate_series(1, 50) WHERE c.nbytes BETWEEN 1 AND 70000;
ALTER TABLE store_parallel SET (parallel_workers = 2);
BEGIN;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL parallel_leader_participation = off;
EXPLAIN (COSTS off) SELECT count(*), sum(octet_length(tensor_bytes(gpuagent_store.get_tensor(hash)))) FROM store_parallel;
SELECT count(*), sum(octet_length(tensor_bytes(gpuagent_store.get_tensor(hash)))), sum(nbytes) FROM store_parallel;
SELECT count(*), count(DISTINCT m) AS missing FROM store_parallel LEFT JOIN LATERAL missing_chunks(ARRAY[hash]) m ON true;
ROLLBACK;

-- Rights: whoever may execute the functions and read the tables stores without any right to insert, and what lands was hashed here.
GRANT USAGE ON SCHEMA gpuagent TO store_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA gpuagent_store TO store_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gpuagent_store, gpuagent TO store_reader;
SET ROLE store_reader;
SELECT error_of($$INSERT INTO gpuagent_store.chunk (hash, nbytes, crc, data) VALUES (sha256(''), 1, 0, '\x00')$$);
SELECT gpuagent_store.put_tensor('[6,7]') IS NOT NULL AS stored;
SELECT gpuagent_store.get_tensor(tensor_hash('[6,7]'));
SELECT current_user;
RESET ROLE;
REVOKE SELECT ON gpuagent_store.chunk FROM store_reader;
SET ROLE store_reader;
SELECT gpuagent_store.put_tensor('[6,7,8]') IS NOT NULL AS stored;
SELECT error_of('SELECT gpuagent_store.get_tensor(tensor_hash(''[6,7,8]''))');
SELECT error_of('SELECT store_tensor(''F32'', ''{2}'', ARRAY[sha256('''')])');
SELECT current_user;
RESET ROLE;
-- Triggers of the store's owner run as its owner, not as the caller, who may be a superuser, and cannot change roles.
CREATE ROLE store_owner;
CREATE TABLE store_saw (who text, switched text);
GRANT INSERT, SELECT ON store_saw TO store_owner;
CREATE FUNCTION store_spy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.store_saw VALUES (current_user, public.error_of('SET ROLE NONE'));
    RETURN NEW;
END
$$;
BEGIN;
GRANT USAGE, CREATE ON SCHEMA gpuagent_store TO store_owner;
GRANT USAGE ON SCHEMA public TO store_owner;
ALTER TABLE gpuagent_store.chunk OWNER TO store_owner;
CREATE TRIGGER spy BEFORE INSERT ON gpuagent_store.chunk FOR EACH ROW EXECUTE FUNCTION store_spy();
SELECT gpuagent_store.put_tensor('[9,9,9]') IS NOT NULL AS stored;
SELECT * FROM store_saw;
-- and an error in it leaves the caller who it was
CREATE OR REPLACE FUNCTION store_spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
SELECT error_of('SELECT gpuagent_store.put_tensor(''[9,9,9,9]'')'), current_user = session_user AS still_me;
ROLLBACK;
-- row security of the caller holds for reading
BEGIN;
ALTER TABLE gpuagent_store.chunk ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON gpuagent_store.chunk TO store_reader;
SET LOCAL ROLE store_reader;
SELECT error_of('SELECT gpuagent_store.get_tensor(tensor_hash(''[6,7]''))') ~ '^XX001.*missing' AS hidden;
SELECT gpuagent_store.put_tensor('[6,7,9]') IS NOT NULL AS stored;
RESET ROLE;
SELECT gpuagent_store.get_tensor(tensor_hash('[6,7,9]'));
ROLLBACK;

DROP VIEW damage_chunk, store_count;
DROP TABLE store_case, store_parallel, store_saw;
DROP FUNCTION damage, store_bytes, store_spy;
DROP OWNED BY store_reader, store_owner;
DROP ROLE store_reader, store_owner;
