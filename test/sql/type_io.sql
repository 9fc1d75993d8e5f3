-- Text and wire format of embedding, agent_state and swarm_tensor.

-- nested text of embedding
SELECT '[1,2,3]'::embedding;
SELECT '  [ 1 , +2.5,-3e1 ]  '::embedding;
SELECT '[.5,5.,1e-3,1E3,0.1,-0]'::embedding;
SELECT 'f16:[1,2]'::embedding, 'BF16:[1,2]'::embedding, 'F32:[1,2]'::embedding;

-- floats print as the shortest decimal that reads back: extremes of F32
SELECT '[3.4028235e38,1.17549435e-38,1e-45,16777216,16777217,1e15,123456.789]'::embedding;
-- of F16: 65519 is the largest that rounds to a finite one, 65500 the shortest text of it
SELECT 'F16:[65519,0.1,6e-8,2049,2051,0.333333,-6.1035e-05]'::embedding;
-- of BF16
SELECT 'BF16:[3.39e38,0.1,1.0039062,1e-40,256,257,259]'::embedding;
-- of F64
SELECT 'F64:[0.1,1.7976931348623157e308,5e-324,9007199254740993,1e22]'::agent_state;

-- rank 0 to 8, empty dimensions
SELECT '3.5'::agent_state, '-7'::agent_state, 'I32:-7'::agent_state;
SELECT '[[1,2],[3,4]]'::agent_state, '[[[1],[2]],[[3],[4]]]'::agent_state;
SELECT '[[[[[[[[1,2]]]]]]]]'::agent_state, shape('[[[[[[[[1,2]]]]]]]]'::agent_state);
SELECT '[]'::agent_state, shape('[]'::agent_state), '[[],[]]'::agent_state, shape('[[],[]]'::agent_state);
SELECT 'F32[0,3]:raw:'::agent_state, 'F32[2,0,9223372036854775807]:raw:'::agent_state;
SELECT 'F32[]:raw:AABAQA=='::agent_state;

-- NaN, infinities, -0; only the NaN that "NaN" reads back to prints as a word
SELECT '[NaN,inf,-Infinity,-0,0,nan,+INF]'::agent_state;
SELECT 'F32[3]:raw:AADAfwAAwP8BAMB/'::agent_state, 'F32[1]:raw:AADAfw=='::agent_state;
SELECT 'F16[2]:raw:AH4Afg=='::agent_state, 'F16[1]:raw:AP4='::agent_state, 'BF16[1]:raw:wX8='::agent_state;

-- every dtype's text
SELECT 'BOOL:[true,false,1,0,TRUE]'::agent_state, 'BOOL[2]:raw:AQI='::agent_state;
SELECT 'U8:[0,255]'::agent_state, 'I8:[-128,127]'::agent_state;
SELECT 'U16:[0,65535]'::agent_state, 'I16:[-32768,32767]'::agent_state;
SELECT 'U32:[0,4294967295]'::agent_state, 'I32:[-2147483648,2147483647]'::agent_state;
SELECT 'U64:[0,18446744073709551615]'::agent_state, 'I64:[-9223372036854775808,9223372036854775807]'::agent_state;
SELECT 'C64[1]:raw:AACAPwAAAEA='::agent_state;
SELECT 'F8_E5M2[1]:raw:PA=='::agent_state, 'F8_E4M3[1]:raw:OA=='::agent_state, 'F8_E8M0[1]:raw:fw=='::agent_state;
SELECT 'F8_E4M3FNUZ[1]:raw:QA=='::agent_state, 'F8_E5M2FNUZ[1]:raw:QA=='::agent_state;
SELECT 'F4[2]:raw:IQ=='::agent_state, 'F6_E2M3[4]:raw:AQID'::agent_state, 'F6_E3M2[2,2]:raw:AQID'::agent_state;

-- swarm_tensor prints compactly, compressed when that gains
SELECT '[1,2]'::swarm_tensor, '[[1,2],[3,4]]'::swarm_tensor, '1.5'::swarm_tensor, '[]'::swarm_tensor;
SET gpuagent.compression = off;
SELECT left(array_fill(1::real, ARRAY[100])::swarm_tensor::text, 25), length(array_fill(1::real, ARRAY[100])::swarm_tensor::text);
RESET gpuagent.compression;
SELECT array_fill(1::real, ARRAY[100])::swarm_tensor::text ~ '^F32\[100\]:zstd:[A-Za-z0-9+/=]{20,60}$' AS compressed;
SELECT ('F32[100]:zstd:' || split_part(array_fill(1::real, ARRAY[100])::swarm_tensor::text, ':', 3))::embedding
    = array_fill(1::real, ARRAY[100])::embedding AS read_by_embedding;

-- the wire format, byte by byte: "GA", version, dtype, rank, zeros, dims, elements
SELECT embedding_send('[1,2]'), embedding_send('F16:[1,2]');
SELECT agent_state_send('[[1],[2]]'), agent_state_send('I64:7'), agent_state_send('[]');
SELECT swarm_tensor_send('BF16:[1,-0]') = embedding_send('BF16:[1,-0]') AS one_format_for_all;

-- a value of each dtype and kind survives text and wire, bit for bit
CREATE TEMP TABLE sample (n int, v swarm_tensor);
INSERT INTO sample
SELECT row_number() OVER (), s::swarm_tensor FROM unnest(ARRAY[
    '[1,-0,0,NaN,inf,-inf,1e-45,3.4028235e38]', '3', '[]', 'F32[2,0]:raw:', 'F32[3]:raw:AADAfwAAwP8BAMB/',
    'F16:[0.1,65504,6e-8,nan]', 'F16[1]:raw:AP4=', 'BF16:[0.1,1e-40,3.3895e38]', 'BF16[1]:raw:wX8=',
    'F64:[0.1,5e-324,-1e308,nan]', 'F64[1]:raw:AAAAAAAA+P8=', 'BOOL:[[true],[false]]', 'BOOL[2]:raw:AQI=', 'U8:[1,255]',
    'I8:[-128]', 'U16:[65535]', 'I16:[-1]', 'U32:[4294967295]', 'I32:[-1]', 'U64:[18446744073709551615]', 'I64:[-1]',
    'C64[1]:raw:AACAPwAAAEA=', 'F8_E5M2[1]:raw:PA==', 'F8_E4M3[1]:raw:OA==', 'F8_E8M0[1]:raw:fw==',
    'F8_E4M3FNUZ[1]:raw:QA==', 'F8_E5M2FNUZ[1]:raw:QA==', 'F4[2]:raw:IQ==', 'F6_E2M3[4]:raw:AQID', 'F6_E3M2[4]:raw:AQID']) s;
INSERT INTO sample SELECT 100, compress(array_fill(0.25::real, ARRAY[64, 64])::swarm_tensor);
SELECT count(*), count(DISTINCT dtype(v)) AS dtypes,
    bool_and(swarm_tensor_send(v) = swarm_tensor_send(v::text::swarm_tensor)) AS swarm_tensor_text,
    bool_and(swarm_tensor_send(v) = agent_state_send(v::agent_state::text::agent_state)) AS agent_state_text
FROM sample;

\getenv abs_builddir PG_ABS_BUILDDIR
\set file :abs_builddir '/results/type_io.copy'
COPY (SELECT n, v, v::agent_state FROM sample) TO :'file' (FORMAT binary);
CREATE TEMP TABLE back (n int, v swarm_tensor, a agent_state);
COPY back FROM :'file' (FORMAT binary);
SELECT count(*) AS lost_or_changed FROM sample FULL JOIN back USING (n)
WHERE swarm_tensor_send(sample.v) IS DISTINCT FROM swarm_tensor_send(back.v)
    OR swarm_tensor_send(sample.v) IS DISTINCT FROM agent_state_send(back.a);

CREATE TEMP TABLE vectors (e embedding, f embedding(3), h embedding(3, F16));
INSERT INTO vectors VALUES ('[1,2,3]', '[1.1,2.2,3.3]', '[1.1,2.2,3.3]'), ('BF16:[1,2]', 'BF16:[1,2,3.1]', NULL), (NULL, NULL, NULL);
COPY vectors TO :'file' (FORMAT binary);
CREATE TEMP TABLE vectors_back (LIKE vectors);
COPY vectors_back FROM :'file' (FORMAT binary);
SELECT * FROM vectors_back;
COPY vectors TO STDOUT;

-- storage: 1-byte headers of short values, values out of line, values stored compressed; all read back
CREATE TEMP TABLE stored (n int, pad text, a agent_state, s swarm_tensor);
INSERT INTO stored
SELECT n, repeat('x', n % 9),
    (SELECT array_agg(i + n) FROM generate_series(1, n % 30) i)::float8[]::agent_state,
    (SELECT array_agg(i::real) FROM generate_series(1, n * 10) i)::swarm_tensor
FROM generate_series(1, 100) n;
INSERT INTO stored VALUES (101, 'big', array_fill(1.5::float8, ARRAY[100, 100])::agent_state,
    compress(array_fill(1.5::real, ARRAY[100, 100])::swarm_tensor));
SELECT count(*) AS inline_short FROM stored WHERE pg_column_size(a) < 127;
SELECT pg_relation_size(reltoastrelid) > 100000 AS out_of_line FROM pg_class WHERE oid = 'stored'::regclass;
SELECT pg_column_size(s) < 200 AS held_compressed, nbytes(s), element(s, 100, 100) FROM stored WHERE n = 101;
SELECT count(*) AS wrong FROM stored
WHERE n <= 100 AND (a::float8[] IS DISTINCT FROM CASE WHEN n % 30 > 0 THEN (SELECT array_agg((i + n)::float8) FROM generate_series(1, n % 30) i) END
    OR s::int[] IS DISTINCT FROM (SELECT array_agg(i) FROM generate_series(1, n * 10) i));
-- l2_norm reads every element: sqrt of a sum of squares of small integers is exact
SELECT count(*) AS wrong FROM stored
WHERE n <= 100 AND n % 30 > 0 AND l2_norm(a) <> sqrt((SELECT sum((i + n)::float8 * (i + n)) FROM generate_series(1, n % 30) i));
-- pglz on top, where a column asks for it
ALTER TABLE stored ALTER a SET STORAGE extended;
UPDATE stored SET a = a::text::agent_state WHERE n = 101;
SELECT pg_column_size(a) < 10000 AS pglz, element(a, 50, 50), shape(a), nbytes(a) FROM stored WHERE n = 101;

-- values inside arrays, composites and sets
SELECT ARRAY['[1]'::embedding, '[2,3]'], (ARRAY['[1]'::embedding, '[2,3]'])[2] <-> '[2,4]' AS distance;
SELECT row('[1]'::embedding, 'F64:[1.5]'::agent_state);
SELECT (jsonb_build_object('e', '[1,2]'::embedding))->>'e' AS text_in_json;
