-- Files: one expert out and in as safetensors, the path policy, rights, hostile files
SET search_path = public, gpuagent;
\pset format unaligned
SELECT gpuagent_store.storage_path() AS base \gset
\set clean 'rm -rf ' :base '/regress'
COPY (SELECT 1 WHERE false) TO PROGRAM :'clean';
SELECT count(*) >= 0 AS clean FROM (SELECT delete_expert(expert) FROM gpuagent.expert WHERE expert LIKE 'f.%') x;

-- an expert with all that a file must carry
BEGIN;
SELECT store_expert_config('f.model', 'vision', 12, 0.1, '{"layers": [2, 2]}', '{"format": "pt", "epoch": 3}');
SELECT store_weights('f.model', 'fc', '[[1,2],[3,4]]', '[5,-0]');
SELECT store_weights('f.model', 'fc.bias', 'F64:[0.1]', 'F16:[7]');
SELECT store_weights('f.model', 'step', tensor('I64', '{}', '\x0700000000000000'), metadata => '{"note": "rank 0"}');
SELECT store_weights('f.model', 'none', tensor('BF16', '{0,3}', ''));
COMMIT;
SELECT store_weights('f.model', 'fc', '[[9,9],[9,9]]');

-- out
SELECT file, tensors, nbytes, length(sha256) FROM export_safetensors('f.model', 'regress/f/model', 1, overwrite => true);
SELECT sha256 = encode(sha256(safetensors_bytes('f.model', 1)), 'hex') AS same_bytes,
    gpuagent_store.file_sha256(file) = sha256 AS as_said, gpuagent_store.file_size(file) = nbytes AS size
    FROM export_safetensors('f.model', 'regress/f/model.safetensors', 1, true);
SELECT * FROM gpuagent_store.safetensors_header('regress/f/model.safetensors', NULL);
SELECT convert_from(substring(b FROM 9 FOR position('\x20202020'::bytea IN b) - 9), 'UTF8')
    FROM safetensors_bytes('f.model', 1) b;
SELECT error_of($$SELECT * FROM export_safetensors('f.model', 'regress/f/model', 1)$$);
SELECT error_of($$SELECT * FROM export_safetensors('f.nobody', 'regress/f/x')$$);
SELECT error_of($$SELECT * FROM export_safetensors('f.model', 'regress/f/x', 3)$$);
SELECT error_of($$SELECT * FROM export_safetensors('f.model', 'regress/f/x', 0)$$);
SELECT error_of($$SELECT * FROM export_safetensors('f.model', NULL)$$);
SELECT error_of($$SELECT safetensors_bytes('f.nobody')$$);
SELECT * FROM gpuagent_store.list_folder('regress/f');

-- in: layers, biases, configuration and metadata come back; nothing is stored twice
SELECT * FROM import_safetensors('f.copy', path => 'regress/f/model');
SELECT a.layer, a.weights = b.weights AS weights, a.biases IS NOT DISTINCT FROM b.biases AS biases
    FROM load_weights('f.model', version => 1) a FULL JOIN load_weights('f.copy') b USING (layer) ORDER BY layer;
SELECT domain, parameter_count, learning_rate, architecture, metadata, version FROM retrieve_expert_config('f.copy');
SELECT layer, metadata FROM gpuagent.weight_version WHERE expert = 'f.copy' AND metadata <> '{}';
SELECT version, tensors, nbytes FROM import_safetensors('f.copy', data => safetensors_bytes('f.model'));
SELECT layer, version, weights FROM load_weights('f.copy', 'fc');
SELECT error_of($$SELECT * FROM import_safetensors('f.x')$$);
SELECT error_of($$SELECT * FROM import_safetensors('f.x', 'regress/f/model', '\x00')$$);
SELECT error_of($$SELECT * FROM import_safetensors('f.x', 'regress/f/absent')$$);
SELECT error_of($$SELECT * FROM import_safetensors(NULL, 'regress/f/model')$$);

-- shards: cut by bytes in order of names, found through the index, replaced as a whole
CREATE FUNCTION pg_temp.export(path text, shard_bytes bigint, overwrite boolean DEFAULT true)
    RETURNS TABLE (file text, items bigint, nbytes bigint) LANGUAGE sql AS $$
    SELECT x.file, x.items, x.nbytes FROM gpuagent_store.safetensors_plan('f.model', 1) p,
        gpuagent_store.export_tensors($1, p.names, p.tensors, p.keys, p.vals, $3, $2) x
$$;
SELECT * FROM pg_temp.export('regress/f/sharded', 16);
SELECT gpuagent_store.read_text('regress/f/sharded.safetensors.index.json');
SELECT version, tensors, nbytes FROM import_safetensors('f.sharded', 'regress/f/sharded');
SELECT count(*) FROM load_weights('f.model', version => 1) a JOIN load_weights('f.sharded') b USING (layer, weights);
SELECT error_of($$SELECT * FROM pg_temp.export('regress/f/sharded', 1000000, false)$$);
SELECT * FROM pg_temp.export('regress/f/sharded', 20);
SELECT * FROM pg_temp.export('regress/f/sharded', 1000000);
SELECT * FROM gpuagent_store.list_folder('regress/f');
-- an index that lies
SELECT gpuagent_store.replace_text('regress/f/lie.safetensors.index.json', x) FROM (VALUES ('{"weight_map": {"fc": "model.safetensors"}}')) v (x);
SELECT error_of($$SELECT * FROM import_safetensors('f.x', 'regress/f/lie')$$);
SELECT gpuagent_store.replace_text('regress/f/lie.safetensors.index.json', '{"weight_map": {"fc": "../../model.safetensors"}}');
SELECT error_of($$SELECT * FROM import_safetensors('f.x', 'regress/f/lie.safetensors.index.json')$$);
SELECT gpuagent_store.replace_text('regress/f/lie.safetensors.index.json', '{"weight_map": {"fc": "..safetensors"}}');
SELECT error_of($$SELECT * FROM import_safetensors('f.x', 'regress/f/lie.safetensors.index.json')$$);
SELECT gpuagent_store.replace_text('regress/f/lie.safetensors.index.json', 'not json');
SELECT error_of($$SELECT * FROM import_safetensors('f.x', 'regress/f/lie.safetensors.index.json')$$);

-- paths
SELECT p AS path, error_of(format('SELECT * FROM export_safetensors(%L, %L)', 'f.model', p))
    FROM unnest(ARRAY['/etc/passwd', '../x', 'a/../../x', 'a//x', 'a/', '', '.', '.hidden', 'a/.tmp-1/x', 'a b', 'a;b', E'a\\b', 'a~', repeat('x', 256)]) p;
SELECT error_of($$SELECT gpuagent_store.read_text('../postgresql.conf')$$);
SELECT error_of($$SELECT gpuagent_store.write_text('.tmp-0123456789abcdef/x', 'x')$$);
SELECT gpuagent_store.path_encode(n) FROM unnest(ARRAY['plain-1.2', 'run7/0001', 'a_b', '.hidden', '%', 'a b', '..', repeat('x', 255)]) n;

-- links are not followed, and only regular files are read
\set link 'ln -sfn /etc ' :base '/regress/link; ln -sf /etc/hostname ' :base '/regress/f/link.safetensors; mkfifo ' :base '/regress/f/pipe.safetensors 2>/dev/null; true'
COPY (SELECT 1 WHERE false) TO PROGRAM :'link';
SELECT error_of($$SELECT * FROM import_safetensors('f.x', 'regress/f/link')$$);
SELECT error_of($$SELECT gpuagent_store.read_text('regress/link/hostname')$$);
SELECT error_of($$SELECT * FROM export_safetensors('f.model', 'regress/link/x')$$);
SELECT error_of($$SELECT gpuagent_store.read_text('regress/f/pipe.safetensors')$$);
SELECT error_of($$SELECT gpuagent_store.read_text('regress')$$);
-- a link in the place of a file is replaced, not written through
SELECT tensors FROM export_safetensors('f.model', 'regress/f/link', overwrite => true);
SELECT gpuagent_store.file_size('regress/f/link.safetensors') > 4096 AS regular;
\set unlink 'rm ' :base '/regress/link ' :base '/regress/f/pipe.safetensors'
COPY (SELECT 1 WHERE false) TO PROGRAM :'unlink';

-- modes, and nothing left behind by what failed
BEGIN;
SELECT gpuagent_store.temp_create('regress/f') AS temp \gset
SELECT items, nbytes FROM gpuagent_store.write_text(:'temp' || '/x', 'abc');
\set look 'stat -c %a ' :base '/regress ' :base '/' :temp ' ' :base '/' :temp '/x > ' :base '/regress/modes.txt'
COPY (SELECT 1 WHERE false) TO PROGRAM :'look';
SAVEPOINT s;
SELECT gpuagent_store.temp_create('regress/f') AS inner_temp \gset
ROLLBACK TO s;
SELECT error_of(format('SELECT gpuagent_store.write_text(%L, %L)', :'inner_temp' || '/x', 'abc')) LIKE '22023%' AS forgotten;
ROLLBACK TO s;
SELECT error_of(format('SELECT gpuagent_store.write_text(%L, %L)', :'temp' || '/x', 'abc')) LIKE '58P02%' AS exclusive;
COMMIT;
SELECT gpuagent_store.read_text('regress/modes.txt');
SELECT error_of($$SELECT x.* FROM gpuagent_store.safetensors_plan('f.model', 1) p,
    gpuagent_store.export_tensors('regress/f/failed', array_replace(p.names, 'none', '__metadata__'), p.tensors, p.keys, p.vals, true, 100) x$$);
\set look 'ls -A ' :base '/regress/f > ' :base '/regress/names.txt'
COPY (SELECT 1 WHERE false) TO PROGRAM :'look';
SELECT gpuagent_store.read_text('regress/names.txt');

-- queries and stored tensors into one file, and its rows back
BEGIN;
SELECT gpuagent_store.temp_create('regress') AS temp \gset
SELECT items, nbytes FROM gpuagent_store.write_safetensors(:'temp' || '/x.safetensors', '{state,fitness,generation,raw,stored}',
    ARRAY[NULL, NULL, NULL, NULL, (SELECT weights FROM gpuagent.weight_version WHERE expert = 'f.model' AND layer = 'fc.bias')],
    '{F32,F64,I64,U8,NULL}', '{"{3,2}","{3}","{3}","{3,1}",NULL}',
    ARRAY['SELECT format(''[%s,%s]'', i, -i)::gpuagent.agent_state FROM generate_series(1,3) i',
          'SELECT nullif(i, 2)::float8 / 10 FROM generate_series(1,3) i', 'SELECT -i::bigint FROM generate_series(1,3) i',
          'SELECT ''\xff''::bytea FROM generate_series(1,3) i', NULL], '{a}', '{b}');
SELECT * FROM gpuagent_store.read_states(:'temp' || '/x.safetensors', 'state');
SELECT * FROM gpuagent_store.read_floats(:'temp' || '/x.safetensors', 'fitness');
SELECT * FROM gpuagent_store.read_integers(:'temp' || '/x.safetensors', 'generation');
SELECT * FROM gpuagent_store.read_states(:'temp' || '/x.safetensors', 'raw');
SELECT error_of(format('SELECT * FROM gpuagent_store.read_integers(%L, %L)', :'temp' || '/x.safetensors', 'fitness')) LIKE 'XX001%' AS refused;
SELECT error_of(format('SELECT * FROM gpuagent_store.read_floats(%L, %L)', :'temp' || '/x.safetensors', 'none')) LIKE '42704%' AS absent;
SELECT items, nbytes FROM gpuagent_store.write_lines(:'temp' || '/x.jsonl', 'SELECT jsonb_build_object(''id'', i)::text FROM generate_series(1, 200) i');
SELECT count(*), min(l), max(l::jsonb ->> 'id') FROM gpuagent_store.read_lines(:'temp' || '/x.jsonl') l;
SELECT gpuagent_store.write_text(:'temp' || '/cut.jsonl', E'one\ntwo') IS NOT NULL;
SELECT error_of(format('SELECT * FROM gpuagent_store.read_lines(%L)', :'temp' || '/cut.jsonl')) LIKE 'XX001%' AS incomplete;
CREATE FUNCTION pg_temp.one(dtype text, shape text, query text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(error_of(format('SELECT gpuagent_store.write_safetensors(gpuagent_store.temp_create(%L) || %L, %L, %L, %L, ARRAY[%L], ARRAY[%L], %L, %L)',
        'regress', '/y.safetensors', '{t}', '{NULL}', ARRAY[$1], $2, $3, '{}', '{}')), '"regress[^"]*"', 'FILE')
$$;
SELECT pg_temp.one('F64', '{2}', 'SELECT 1::float8');
SELECT pg_temp.one('F64', '{2}', 'SELECT 1::float8 FROM generate_series(1, 1000)');
SELECT pg_temp.one('F32', '{2}', 'SELECT ''F16:[1,2,3,4]''::gpuagent.agent_state');
SELECT pg_temp.one('F32', '{1}', 'SELECT NULL::gpuagent.agent_state');
SELECT pg_temp.one('F32', '{1}', 'SELECT 1');
SELECT pg_temp.one('F33', '{1}', 'SELECT 1::float8');
SELECT pg_temp.one('F64', '{-1}', 'SELECT 1::float8');
SELECT pg_temp.one('F64', '{4611686018427387904,4}', 'SELECT 1::float8');
SELECT pg_temp.one('F64', '{1152921504606846}', 'SELECT 1::float8') LIKE '5%reserve%' AS no_room;
COMMIT;

-- hostile files: the reason of each refusal
CREATE FUNCTION pg_temp.try(header text, data bytea DEFAULT '', size bigint DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT error_of(format('SELECT version FROM import_safetensors(%L, data => %L)', 'f.hostile',
        (SELECT string_agg(set_byte('\x00', 0, ((COALESCE($3, octet_length($1)) >> (8 * i)) & 255)::int), '' ORDER BY i) FROM generate_series(0, 7) i)
        || convert_to($1, 'UTF8') || $2))
$$;
SELECT error_of($$SELECT import_safetensors('f.hostile', data => '\x0000')$$);
SELECT error_of($$SELECT import_safetensors('f.hostile', data => '\xffffffffffffffff7b7d')$$);
SELECT error_of($$SELECT import_safetensors('f.hostile', data => '\x03000000000000007bff7d')$$);
SELECT row_number() OVER () AS n, pg_temp.try(h, d) FROM (VALUES
    ('', ''::bytea),
    ('[]', ''),
    (' {}', ''),
    ('{}x', ''),
    (E'{}\n', ''),
    ('{', ''),
    ('{}', '\x00'),
    ('{}   ', ''),
    ('{"a":1}', ''),
    ('{"a":[]}', ''),
    ('{"a":{}}', ''),
    ('{"a":{"dtype":"U8","shape":[1]}}', '\x01'),
    ('{"a":{"dtype":"U8","data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U9","shape":[1],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"u8","shape":[1],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":1,"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[null],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', ''),
    ('{"a":{"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}', ''),
    ('{"a":{"dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,0]}}', ''),
    ('{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}', ''),
    ('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', '\x0000'),
    ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', '\x0101'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}', '\x010101'),
    ('{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}', '\x010101'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', '\x01'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', '\x0101'),
    ('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', ''),
    ('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"__metadata__":{},"__metadata__":{}}', ''),
    ('{"__metadata__":{"a":"1","a":"2"}}', ''),
    ('{"__metadata__":{"a":1}}', ''),
    ('{"__metadata__":{"a":{}}}', ''),
    ('{"__metadata__":{"a":null}}', ''),
    ('{"__metadata__":null}', ''),
    ('{"__metadata__":"x"}', ''),
    ('{"a\u0000":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"a' || chr(1) || '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":' || repeat('[', 70) || repeat(']', 70) || '}}', ''),
    ('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":' || repeat('[', 100000) || '}}', ''),
    ('{"__metadata__":{"gpuagent.biases":"[]"},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"__metadata__":{"gpuagent.biases":"{"},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"__metadata__":{"gpuagent.biases":"{\"b\":\"a\"}"},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"__metadata__":{"gpuagent.biases":"{\"a\":\"a\"}"},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ''),
    ('{"__metadata__":{"gpuagent.config":"{\"parameter_count\":\"x\"}"},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', '')) v (h, d);
SELECT pg_temp.try('{}', '', 100000001), pg_temp.try('{}', '', 3);
SELECT count(*) FROM gpuagent.expert WHERE expert = 'f.hostile';
-- legal, if unusual
SELECT pg_temp.try('{"__metadata__":{},"a":{"data_offsets":[0,3],"shape":[1,4],"dtype":"F6_E2M3"},"b":{"dtype":"U8","shape":[],"data_offsets":[6,7]},"c":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[3,6],"x":{"y":[1,null]}}}      ',
    '\x01020304050607');
SELECT layer, dtype(weights), shape(weights), tensor_bytes(weights) FROM load_weights('f.hostile');

-- rights: files need the server's roles on top of ours, values do not
CREATE ROLE f_reader;
SELECT grant_access('f_reader', 'write');
GRANT EXECUTE ON FUNCTION gpuagent.export_safetensors, gpuagent_store.export_tensors TO f_reader;
SET ROLE f_reader;
SELECT public.error_of($$SELECT * FROM export_safetensors('f.model', 'regress/f/mine')$$);
SELECT public.error_of($$SELECT * FROM import_safetensors('f.mine', 'regress/f/model')$$);
SELECT public.error_of($$SELECT gpuagent_store.read_text('regress/modes.txt')$$);
SELECT public.error_of($$SELECT gpuagent_store.temp_create('regress')$$);
SELECT tensors, nbytes FROM import_safetensors('f.mine', data => safetensors_bytes('f.model', 1));
RESET ROLE;
GRANT pg_read_server_files, pg_write_server_files TO f_reader;
SET ROLE f_reader;
SELECT file, tensors FROM export_safetensors('f.mine', 'regress/f/mine', overwrite => true);
SELECT version, tensors FROM import_safetensors('f.mine', 'regress/f/mine');
RESET ROLE;
SELECT count(*) FROM (SELECT delete_expert(expert) FROM gpuagent.expert WHERE expert LIKE 'f.%') x;
DROP OWNED BY f_reader;
DROP ROLE f_reader;
