-- Swarms: versions, rows, append, prune, delete; every error.

-- Versions count from 1, each transaction makes one.
SELECT store_swarm('s', '[[1,2],[3,4],[5,6]]', '{"gen": 1}');
SELECT store_swarm('s', '[[1,2],[3,4],[5,7]]');
SELECT version, metadata FROM gpuagent.swarm_version WHERE swarm = 's' ORDER BY 1;
SELECT v, retrieve_swarm('s', v)::real[] FROM generate_series(1, 2) v;
SELECT retrieve_swarm('s')::real[] AS current;
SELECT swarm, keep_versions, current, metadata FROM gpuagent.swarm WHERE swarm = 's';
BEGIN;
SELECT store_swarm('s', '[1]', '{"a": 1}'), store_swarm('s', '[2]'), store_swarm('s', '[[3]]');
SELECT version, metadata FROM gpuagent.swarm_version WHERE swarm = 's' ORDER BY 1;
SELECT store_swarm('s', '[9]', '{"b": 2}');
SELECT metadata FROM gpuagent.swarm_version WHERE swarm = 's' AND version = 3;
COMMIT;
SELECT retrieve_swarm('s')::real[];
-- rolled back, as a whole or in part: the number is used by the next
BEGIN;
SELECT store_swarm('s', '[10]');
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT store_swarm('s', '[11]');
ROLLBACK TO a;
SELECT current FROM gpuagent.swarm WHERE swarm = 's';
SELECT store_swarm('s', '[12]');
SAVEPOINT b;
SELECT store_swarm('s', '[13]');
RELEASE b;
SAVEPOINT c;
SELECT store_swarm('s', '[14]');
ROLLBACK TO c;
COMMIT;
SELECT current, retrieve_swarm('s')::real[] FROM gpuagent.swarm WHERE swarm = 's';
SELECT count(*) FROM gpuagent.swarm_version WHERE swarm = 's';

-- Compare and set: 0 is "does not exist".
SELECT store_swarm('s', '[15]', expected_version => 4);
SELECT error_of($$SELECT store_swarm('s', '[16]', expected_version => 4)$$);
SELECT error_of($$SELECT store_swarm('s', '[16]', expected_version => 0)$$);
SELECT error_of($$SELECT store_swarm('absent', '[16]', expected_version => 1)$$);
SELECT count(*) FROM gpuagent.swarm WHERE swarm = 'absent';
SELECT store_swarm('cas', '[1]', expected_version => 0);
SELECT error_of($$SELECT store_swarm_ref('cas', tensor_hash('[1]'), expected_version => 7)$$);
SELECT error_of($$SELECT store_swarm_rows('cas', 1, '[1]', expected_version => 7)$$);
SELECT store_swarm_ref('cas', tensor_hash('[1]'), expected_version => 1), retrieve_swarm('cas')::real[];

-- keep_versions: 10 unless the column says otherwise.
SELECT count(store_swarm('k', ARRAY[i]::swarm_tensor(F32))) AS one_version FROM generate_series(1, 3) i;
DO $$ BEGIN FOR i IN 2 .. 14 LOOP PERFORM store_swarm('k', ARRAY[i]::swarm_tensor(F32)); COMMIT; END LOOP; END $$;
SELECT min(version), max(version), count(*) FROM gpuagent.swarm_version WHERE swarm = 'k';
UPDATE gpuagent.swarm SET keep_versions = 2 WHERE swarm = 'k';
SELECT store_swarm('k', '[15]');
SELECT array_agg(version ORDER BY version) FROM gpuagent.swarm_version WHERE swarm = 'k';
SELECT error_of($$SELECT retrieve_swarm('k', 13)$$);
SELECT error_of($$UPDATE gpuagent.swarm SET keep_versions = 0$$) LIKE '23514%' AS at_least_1;
UPDATE gpuagent.swarm SET keep_versions = 100 WHERE swarm = 'k';
DO $$ BEGIN FOR i IN 16 .. 20 LOOP PERFORM store_swarm('k', ARRAY[i]::swarm_tensor(F32)); COMMIT; END LOOP; END $$;
SELECT prune_swarm('k', 3);
SELECT array_agg(version ORDER BY version) FROM gpuagent.swarm_version WHERE swarm = 'k';
SELECT prune_swarm('k', 3), prune_swarm('k', 9223372036854775807), prune_swarm('k', 1);
SELECT retrieve_swarm('k')::real[];
SELECT error_of($$SELECT prune_swarm('k', 0)$$), error_of($$SELECT prune_swarm('k', NULL)$$);
SELECT error_of($$SELECT prune_swarm('absent', 1)$$), error_of($$SELECT prune_swarm(NULL, 1)$$);

-- What a checkpoint holds stays, until the checkpoint goes.
SELECT store_swarm('held', '[1]');
UPDATE gpuagent.swarm SET keep_versions = 1 WHERE swarm = 'held';
SELECT create_checkpoint('held', objects => '{swarm:held}') AS held \gset
SELECT store_swarm('held', '[2]');
SELECT store_swarm('held', '[3]');
SELECT array_agg(version ORDER BY version) FROM gpuagent.swarm_version WHERE swarm = 'held';
SELECT retrieve_swarm('held', 1)::real[], retrieve_swarm('held', checkpoint => :held)::real[], prune_swarm('held', 1);
SELECT error_of(format('SELECT retrieve_swarm(''s'', checkpoint => %s)', :held)) ~ '^42704 .* checkpoint \d+ does not contain swarm:s .* It was taken of swarm:held' AS scope;
SELECT delete_checkpoint(:held);
SELECT prune_swarm('held', 1), delete_swarm('held');

-- Rows: a slice, clipped as substring does.
SELECT store_swarm('m', '[[1,2],[3,4],[5,6],[7,8]]');
SELECT retrieve_swarm('m', start => 2, count => 2)::real[], retrieve_swarm('m', start => 4)::real[],
    retrieve_swarm('m', start => 0, count => 2)::real[], shape(retrieve_swarm('m', start => 5)), shape(retrieve_swarm('m', count => 0));
SELECT retrieve_swarm('m', start => NULL, count => NULL)::real[];
SELECT error_of($$SELECT retrieve_swarm('m', count => -1)$$);
SELECT start, data::real[] FROM swarm_chunks('m', start => 2);
SELECT start, data::real[] FROM swarm_chunks('m', 1, 2, 1);
SELECT error_of($$SELECT * FROM swarm_chunks('m', 7)$$);
SELECT error_of($$SELECT * FROM swarm_chunks('absent')$$);
SELECT error_of($$SELECT * FROM swarm_chunks('m', count => -1)$$);

-- Pieces of about 8 MiB: 5 MiB rows come one by one, small rows many at once, each once and in order.
SELECT store_swarm('big', tensor('F32', '{5,1310720}', convert_to(repeat('0123456789abcdef', 1638400), 'UTF8')));
SELECT start, shape(data) FROM swarm_chunks('big');
SELECT store_swarm('big', tensor('U8', '{26214400}', convert_to(repeat('0123456789abcdef', 1638400), 'UTF8')));
SELECT start, shape(data) FROM swarm_chunks('big');
SELECT string_agg(tensor_bytes(data), '' ORDER BY start) = tensor_bytes(retrieve_swarm('big')) AS equal FROM swarm_chunks('big');
EXPLAIN (COSTS off, VERBOSE) SELECT * FROM swarm_chunks('big');

-- store_swarm_rows: a new version in which some rows differ; only what changed is written.
SELECT store_swarm_rows('m', 2, '[[30,40],[50,60]]');
SELECT retrieve_swarm('m')::real[], retrieve_swarm('m', 1)::real[];
SELECT store_swarm_rows('m', 1, tensor('F32', '{0,2}', ''));
SELECT retrieve_swarm('m')::real[];
SELECT error_of($$SELECT store_swarm_rows('m', 0, '[[1,2]]')$$);
SELECT error_of($$SELECT store_swarm_rows('m', 5, '[[1,2]]')$$);
SELECT error_of($$SELECT store_swarm_rows('m', 4, '[[1,2],[3,4]]')$$);
SELECT error_of($$SELECT store_swarm_rows('m', 9223372036854775807, '[[1,2]]')$$);
SELECT error_of($$SELECT store_swarm_rows('m', 1, '[[1,2,3]]')$$);
SELECT error_of($$SELECT store_swarm_rows('m', 1, 'F16:[[1,2]]')$$);
SELECT error_of($$SELECT store_swarm_rows('m', 1, '[1,2]')$$);
SELECT error_of($$SELECT store_swarm_rows('m', 1, '7')$$);
SELECT error_of($$SELECT store_swarm_rows('m', NULL, '[[1,2]]')$$), error_of($$SELECT store_swarm_rows('m', 1, NULL)$$);
SELECT error_of($$SELECT store_swarm_rows('absent', 1, '[[1,2]]')$$), error_of($$SELECT store_swarm_rows(NULL, 1, '[[1,2]]')$$);
SELECT max(version) AS unchanged FROM gpuagent.swarm_version WHERE swarm = 'm';
-- at the borders of chunks: rows of 3000 bytes, of which one straddles each border
SELECT store_swarm('p', tensor('U8', '{1400,3000}', decode(repeat('00', 4200000), 'hex')));
CREATE FUNCTION patched(start bigint, n bigint) RETURNS TABLE (version bigint, equal boolean, new_chunks bigint, new_nodes bigint, whole boolean)
LANGUAGE plpgsql AS $$
DECLARE
    old bytea := tensor_bytes(retrieve_swarm('p'));
    rows bytea := convert_to(repeat(chr(40 + start::integer % 80), (n * 3000)::integer), 'UTF8');
    chunks bigint := (SELECT count(*) FROM gpuagent_store.chunk) + (SELECT count(*) FROM gpuagent_store.chunk_delta);
    nodes bigint := (SELECT count(*) FROM gpuagent_store.node);
BEGIN
    version := store_swarm_rows('p', start, tensor('U8', ARRAY[n, 3000], rows));
    equal := tensor_bytes(retrieve_swarm('p')) =
        substring(old FROM 1 FOR (start::integer - 1) * 3000) || rows || substring(old FROM (start + n - 1)::integer * 3000 + 1);
    new_chunks := (SELECT count(*) FROM gpuagent_store.chunk) + (SELECT count(*) FROM gpuagent_store.chunk_delta) - chunks;
    new_nodes := (SELECT count(*) FROM gpuagent_store.node) - nodes;
    whole := gpuagent_store.tensor_problem((SELECT tensor FROM gpuagent.swarm_version v WHERE v.swarm = 'p' AND v.version = patched.version)) IS NULL;
    RETURN NEXT;
END
$$;
SELECT * FROM patched(1, 1);
SELECT * FROM patched(350, 1);
SELECT * FROM patched(349, 3);
SELECT * FROM patched(1400, 1);
SELECT * FROM patched(2, 1399);
SELECT * FROM patched(1, 1400);
DROP FUNCTION patched;

-- append_swarm: the first call of a transaction begins a version, later ones add to it.
SELECT append_swarm('a', '[[1,2]]');
SELECT append_swarm('a', '[[3,4]]');
SELECT current, retrieve_swarm('a')::real[] FROM gpuagent.swarm WHERE swarm = 'a';
BEGIN;
SELECT append_swarm('a', '[[1,2],[3,4]]'), append_swarm('a', '[[5,6]]');
SELECT append_swarm('a', tensor('F32', '{0,2}', ''));
SAVEPOINT s;
SELECT append_swarm('a', '[[0,0]]');
ROLLBACK TO s;
SELECT append_swarm('a', '[[7,8]]');
COMMIT;
SELECT current, retrieve_swarm('a')::real[] FROM gpuagent.swarm WHERE swarm = 'a';
BEGIN;
SELECT store_swarm('a', '[[9,9]]'), append_swarm('a', '[[8,8]]'), store_swarm_rows('a', 2, '[[7,7]]');
SELECT retrieve_swarm('a')::real[] AS of_all_three;
ROLLBACK;
SELECT error_of($$SELECT append_swarm('a', NULL)$$), error_of($$SELECT append_swarm('a', '7')$$), error_of($$SELECT append_swarm(NULL, '[7]')$$);
SELECT error_of($$SELECT append_swarm('a', '[1,2]'), append_swarm('a', '[[1,2]]')$$);
SELECT error_of($$SELECT append_swarm('a', '[1,2]'), append_swarm('a', 'F64:[1,2]')$$);
SELECT error_of($$SELECT append_swarm('a', '[[1,2]]'), append_swarm('a', '[[1,2,3]]')$$);
SELECT error_of($$SELECT append_swarm('a', tensor('F32', '{9223372036854775807,0}', '')), append_swarm('a', tensor('F32', '{1,0}', ''))$$);
-- pieces of every size give what one store gives
CREATE FUNCTION appended(sizes bigint[]) RETURNS TABLE (rows bigint, same boolean, whole boolean) LANGUAGE plpgsql AS $$
DECLARE
    n bigint := (SELECT sum(s) FROM unnest(sizes) s);
    bytes bytea := substring(convert_to(repeat('the quick brown fox jumps over the lazy dog 0123456789!', (n / 55 + 1)::integer), 'UTF8') FROM 1 FOR n::integer);
    at bigint := 1;
    s bigint;
    h bytea;
BEGIN
    DELETE FROM gpuagent.swarm WHERE swarm = 'pieces';
    FOREACH s IN ARRAY sizes LOOP
        rows := append_swarm('pieces', tensor('U8', ARRAY[s], substring(bytes FROM at::integer FOR s::integer)));
        at := at + s;
    END LOOP;
    h := (SELECT tensor FROM gpuagent.swarm_version v WHERE v.swarm = 'pieces');
    same := h = tensor_hash(tensor('U8', ARRAY[n], bytes));
    whole := gpuagent_store.tensor_problem(h) IS NULL;
    RETURN NEXT;
END
$$;
SELECT * FROM appended('{1,1,1}');
SELECT * FROM appended('{0,5,0}');
SELECT * FROM appended('{1048575,1,1}');
SELECT * FROM appended('{1048576,1048576}');
SELECT * FROM appended('{1048577,2097151}');
SELECT * FROM appended('{700000,700000,700000,700000}');
SELECT * FROM appended('{66060288,1048575,1,1,2097152}');
DROP FUNCTION appended;

-- Any dtype and rank.
SELECT store_swarm('any', '7');
SELECT retrieve_swarm('any'), error_of($$SELECT retrieve_swarm('any', start => 1, count => 1)$$);
SELECT error_of($$SELECT * FROM swarm_chunks('any')$$);
SELECT store_swarm('any', tensor('F16', '{0,3}', '')), store_swarm('any2', tensor('F4', '{2,2}', '\x0102'));
SELECT retrieve_swarm('any'), shape(retrieve_swarm('any', start => 1, count => 5)), retrieve_swarm('any2', start => 2, count => 1);

-- Keys, absence, NULLs.
SELECT error_of($$SELECT store_swarm(NULL, '[1]')$$), error_of($$SELECT store_swarm('', '[1]')$$);
SELECT error_of($$SELECT store_swarm(repeat('x', 256), '[1]')$$);
SELECT error_of($$SELECT store_swarm(E'a\nb', '[1]')$$);
SELECT error_of($$SELECT store_swarm('s', NULL)$$);
SELECT store_swarm(repeat('é', 127) || 'x', '[1]'), delete_swarm(repeat('é', 127) || 'x');
SELECT error_of($$SELECT retrieve_swarm('absent')$$), error_of($$SELECT retrieve_swarm('s', 99)$$), error_of($$SELECT retrieve_swarm(NULL)$$);
SELECT error_of($$SELECT retrieve_swarm('s', 1, checkpoint => 1)$$);
SELECT error_of($$SELECT retrieve_swarm('s', checkpoint => 9223372036854775807)$$);
SELECT delete_swarm('s'), delete_swarm('s'), delete_swarm(NULL);
SELECT count(*) FROM gpuagent.swarm_version WHERE swarm = 's';
SELECT store_swarm('s', '[1]', expected_version => 0) AS counts_from_1_again;

-- Above 256 MiB: what holds a value refuses with the way around, the rest works.
BEGIN;
SET LOCAL client_min_messages = error;
SELECT count(append_swarm('huge', tensor('U8', '{67108864}', decode(repeat('00', 67108864), 'hex')))) FROM generate_series(1, 4);
SELECT append_swarm('huge', 'U8:[1]');
SELECT error_of($$SELECT retrieve_swarm('huge')$$);
SELECT retrieve_swarm('huge', start => 268435456)::bigint[];
SELECT store_swarm_rows('huge', 268435455, 'U8:[7,8,9]');
SELECT retrieve_swarm('huge', start => 268435454)::bigint[];
SELECT count(*), sum(nbytes(data)) FROM swarm_chunks('huge');
ROLLBACK;

-- What row security hides cannot be written, and nobody waits for ever.
CREATE ROLE swarm_writer;
BEGIN;
SELECT gpuagent.grant_access('swarm_writer', 'write');
ALTER TABLE gpuagent.swarm ENABLE ROW LEVEL SECURITY;
CREATE POLICY hidden ON gpuagent.swarm USING (swarm <> 'm') WITH CHECK (true);
ALTER TABLE gpuagent.expert ENABLE ROW LEVEL SECURITY;
CREATE POLICY hidden ON gpuagent.expert USING (expert <> 'm') WITH CHECK (true);
SELECT store_weights('m', 'w', '[1]');
SET LOCAL ROLE swarm_writer;
SELECT error_of($$SELECT store_swarm('m', '[1]')$$);
SELECT error_of($$SELECT store_weights('m', 'w', '[1]')$$);
SELECT store_swarm('mine', '[1]'), error_of($$SELECT retrieve_swarm('m')$$);
ROLLBACK;
DROP ROLE swarm_writer;

-- A current version without its row is absent.
BEGIN;
DELETE FROM gpuagent.swarm_version WHERE swarm = 'm' AND version = 3;
SELECT error_of($$SELECT retrieve_swarm('m')$$);
ROLLBACK;

SELECT count(delete_swarm(swarm)) FROM gpuagent.swarm WHERE swarm IN ('s', 'cas', 'k', 'm', 'big', 'p', 'a', 'pieces', 'any', 'any2');
