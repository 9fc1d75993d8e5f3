-- The multi-part path: chunks up, a tensor made of them, chunks down; every error.

CREATE FUNCTION upload_bytes(n bigint, seed integer) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT substring(convert_to(repeat((SELECT string_agg(chr(33 + (i * i + seed) % 90), '') FROM generate_series(1, 251) i),
                                       (n / 251 + 1)::integer), 'UTF8') FROM 1 FOR n::integer)
$$;

-- A tensor of 2.5 MiB in three pieces, as a driver sends it.
CREATE TABLE upload_piece AS
SELECT i, tensor('F32', ARRAY[octet_length(piece) / 4], piece) AS data
FROM (SELECT i, substring(upload_bytes(2621440, 11) FROM (i - 1) * 1048576 + 1 FOR 1048576) AS piece FROM generate_series(1, 3) i) p;
CREATE TABLE upload_hash AS SELECT i, store_chunk(data) AS hash FROM upload_piece WHERE i <> 2;
INSERT INTO upload_hash SELECT i, sha256('absent') FROM upload_piece WHERE i = 2;
SELECT m = sha256('absent') AS missing FROM missing_chunks((SELECT array_agg(hash ORDER BY i) FROM upload_hash)) m;
SELECT replace(error_of(format('SELECT store_tensor(%L, %L, %L)', 'F32', '{5,131072}', (SELECT array_agg(hash ORDER BY i) FROM upload_hash))),
    encode(sha256('absent'), 'hex'), 'HASH');
UPDATE upload_hash SET hash = store_chunk(data) FROM upload_piece p WHERE p.i = upload_hash.i AND p.i = 2;
SELECT count(*) FROM missing_chunks((SELECT array_agg(hash) FROM upload_hash));
SELECT encode(store_tensor('f32', '{5,131072}', array_agg(hash ORDER BY i)), 'hex') AS t FROM upload_hash \gset
SELECT decode(:'t', 'hex') = tensor_hash(tensor('F32', '{5,131072}', upload_bytes(2621440, 11))) AS identity,
    gpuagent_store.tensor_problem(decode(:'t', 'hex')) IS NULL AS whole;

-- Down again, all or a range; vectors of its dtype.
SELECT ordinal, dtype(c.data), shape(c.data), c.data = p.data AS equal FROM tensor_chunks(decode(:'t', 'hex')) c JOIN upload_piece p ON p.i = ordinal;
SELECT ordinal, shape(data) FROM tensor_chunks(decode(:'t', 'hex'), 2, 1);
SELECT ordinal FROM tensor_chunks(decode(:'t', 'hex'), start => 3);
SELECT ordinal FROM tensor_chunks(decode(:'t', 'hex'), -1, 3);
SELECT ordinal FROM tensor_chunks(decode(:'t', 'hex'), 4);
SELECT ordinal FROM tensor_chunks(NULL);
SELECT error_of(format('SELECT * FROM tensor_chunks(%L, 1, -1)', '\x' || :'t'));
SELECT error_of($$SELECT * FROM tensor_chunks('\x0011')$$);
SELECT error_of($$SELECT * FROM tensor_chunks(sha256('no such'))$$) LIKE '42704 | tensor % does not exist | %' AS absent;
-- the wrapper streams: a cursor's first row reads one chunk
EXPLAIN (COSTS off, VERBOSE) SELECT * FROM tensor_chunks('\x00');

-- The name of a version.
SELECT store_swarm_ref('upload', decode(:'t', 'hex'), '{"from": "parts"}');
SELECT shape(retrieve_swarm('upload')), retrieve_swarm('upload') = tensor('F32', '{5,131072}', upload_bytes(2621440, 11)) AS equal;
SELECT version, metadata FROM gpuagent.swarm_version WHERE swarm = 'upload';
SELECT store_weights_ref('upload', 'w', decode(:'t', 'hex')), store_weights_ref('upload', 'v', decode(:'t', 'hex'), decode(:'t', 'hex'));
SELECT layer, version, weights = retrieve_swarm('upload') AS weights, biases = weights AS biases FROM load_weights('upload');

-- Other shapes: one chunk, none, packed elements (which come back as bytes), elements of 8 bytes.
SELECT store_tensor('U8', '{3}', ARRAY[store_chunk('U8:[1,2,3]')]) = tensor_hash('U8:[1,2,3]') AS one;
SELECT store_tensor('U8', '{}', ARRAY[store_chunk('U8:7')]) = tensor_hash('U8:7') AS rank_0;
SELECT store_tensor('F32', '{0,3}', '{}') = tensor_hash(tensor('F32', '{0,3}', '')) AS none;
SELECT count(*) FROM tensor_chunks(tensor_hash(tensor('F32', '{0,3}', '')));
SELECT store_tensor('F4', '{3,2}', ARRAY[store_chunk('U8:[16,32,48]')]) = tensor_hash(tensor('F4', '{3,2}', '\x102030')) AS packed;
SELECT * FROM tensor_chunks(tensor_hash(tensor('F4', '{3,2}', '\x102030')));
SELECT store_tensor('C64', '{1}', ARRAY[store_chunk('F32:[1,2]')]) = tensor_hash(tensor('C64', '{1}', '\x0000803f00000040')) AS wide;
SELECT dtype(data), shape(data) FROM tensor_chunks(tensor_hash(tensor('C64', '{1}', '\x0000803f00000040')));
-- the same chunk twice
SELECT store_tensor('U8', '{2097152}', ARRAY[c, c]) = tensor_hash(tensor('U8', '{2097152}', b || b)) AS twice
FROM (SELECT store_chunk(tensor('U8', '{1048576}', b)) AS c, b FROM upload_bytes(1048576, 12) b) s;

-- Chunks: 1 byte to 1 MiB; dtype and shape do not matter to the identity.
SELECT store_chunk('U8:[5]') = store_chunk('I8:[[[5]]]') AS same;
SELECT error_of($$SELECT store_chunk(tensor('U8', '{0}', ''))$$);
SELECT error_of($$SELECT store_chunk(tensor('U8', '{1048577}', upload_bytes(1048577, 1)))$$);
SELECT store_chunk(NULL) IS NULL AS strict;
-- and what is rolled back is missing again
BEGIN;
SELECT store_chunk('U8:[200,201,202]') IS NOT NULL AS stored \gset
SAVEPOINT s;
SELECT encode(store_chunk('U8:[203,204,205]'), 'hex') AS gone \gset
ROLLBACK TO s;
SELECT encode(m, 'hex') = :'gone' AS missing FROM missing_chunks(ARRAY[decode(:'gone', 'hex'), store_chunk('U8:[200,201,202]')]) m;
ROLLBACK;

-- Errors, before anything is stored.
SELECT error_of($$SELECT store_tensor('F31', '{1}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F32', '{-1}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F32', '{9223372036854775807,2}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F4', '{3}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F32', '{1,1,1,1,1,1,1,1,1}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F32', '{{1}}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F32', '{NULL}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F32', '{1}', '{}')$$);
SELECT error_of($$SELECT store_tensor('F32', '{4611686018427387904}', '{}')$$);
SELECT error_of($$SELECT store_tensor('U8', '{1}', ARRAY[sha256('a'), sha256('b')])$$);
SELECT error_of($$SELECT store_tensor('U8', '{1}', ARRAY['\x00'::bytea])$$);
SELECT error_of($$SELECT store_tensor('U8', '{1}', ARRAY[NULL::bytea])$$);
SELECT error_of($$SELECT store_tensor('U8', '{4}', ARRAY[store_chunk('U8:[1,2,3]')])$$);
SELECT error_of($$SELECT store_tensor('U8', '{1048577}', ARRAY[store_chunk('U8:[1,2,3]'), store_chunk('U8:[1]')])$$);
SELECT error_of($$SELECT missing_chunks(ARRAY['\x00'::bytea])$$);
SELECT error_of($$SELECT missing_chunks(ARRAY[NULL::bytea])$$);
SELECT count(*) FROM missing_chunks('{}');
SELECT count(*) FROM missing_chunks(NULL);
SELECT store_tensor(NULL, '{}', '{}') IS NULL, store_tensor('F32', NULL, '{}') IS NULL, store_tensor('F32', '{0}', NULL) IS NULL;
SELECT error_of($$SELECT store_swarm_ref('upload', NULL)$$);
SELECT error_of($$SELECT store_swarm_ref('upload', sha256('no such'))$$) LIKE '42704 | tensor % does not exist | Store its chunks and then call gpuagent.store_tensor().' AS absent;
SELECT error_of($$SELECT store_weights_ref('upload', 'w', NULL)$$);
SELECT error_of(format($$SELECT store_weights_ref('upload', 'w', %L, sha256('no such'))$$, '\x' || :'t')) LIKE '42704 | tensor %' AS absent;
SELECT error_of(format($$SELECT store_weights_ref('upload', NULL, %L)$$, '\x' || :'t'));
SELECT max(version) FROM gpuagent.weight_version WHERE expert = 'upload';

SELECT delete_swarm('upload'), delete_expert('upload');
DROP TABLE upload_piece, upload_hash;
DROP FUNCTION upload_bytes;
