-- Exported checkpoints: the tree, the manifest, import into an empty database, damage. In databases of their own.
\set VERBOSITY terse
\pset format unaligned
SET client_min_messages = warning;
DROP DATABASE IF EXISTS ga_tree;
DROP DATABASE IF EXISTS ga_tree_copy;
CREATE DATABASE ga_tree;
CREATE DATABASE ga_tree_copy;
\c ga_tree
SET client_min_messages = warning;
CREATE EXTENSION gpuagent;
SELECT gpuagent.setup();
ALTER DATABASE ga_tree SET search_path = public, gpuagent;
SET search_path = public, gpuagent;
SELECT gpuagent_store.storage_path() AS base \gset
\set clean 'rm -rf ' :base '/nvme_storage'
COPY (SELECT 1 WHERE false) TO PROGRAM :'clean';

-- The error of a statement: SQLSTATE, message, detail, hint.
CREATE FUNCTION fails(sql text) RETURNS text LANGUAGE plpgsql AS $$
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

-- agents of two common shapes, one with each kind of oddity; graphs, swarms, experts, metrics
SELECT count(*) FROM generate_series(1, 40) i, store_agent('a/' || i, format('[%s,%s]', i, -i / 3.0)::agent_state, format('F16:[[%s]]', i)::agent_state, i % 3, i / 7.0::float8, jsonb_build_object('i', i));
SELECT store_agent('odd', 'F64:[NaN,-0,Infinity]', NULL, 2, '-Infinity');
SELECT store_agent('none');
SELECT store_agent('zero', 'F32:[]', 'I8:[[1,2],[3,4]]', fitness => '-0');
SELECT store_agent('deep', reshape('[7]'::agent_state, '{1,1,1,1,1,1,1,1}'));
SELECT store_agent('bits', tensor('F32', '{2}', '\x0100c07f0000807f')::agent_state);
UPDATE gpuagent.agent SET origin = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', updated_at = 'infinity', created_at = '2000-01-01 00:00:00.000001+00' WHERE id = 'none';
INSERT INTO gpuagent.graph (graph, metric, metadata) VALUES ('g/1', 'l2', '{"about": "all kinds"}'), ('empty', NULL, '{}');
INSERT INTO gpuagent.graph_node (graph, id, embedding, metadata) VALUES ('g/1', 'x', '[1,2]', '{"q": 1.50}'), ('g/1', 'y', '[3,4]', '{}'),
    ('g/1', 'z', NULL, '{}'), ('g/1', 'w', '[1,2,3]', '{}'), ('g/1', 'v', 'F16:[5,6]', '{}'), ('g/1', 'u', '[5,-0]', '{}');
INSERT INTO gpuagent.graph_edge (graph, source, target, edge_type, weight) VALUES ('g/1', 'x', 'y', 't', 0.1), ('g/1', 'y', 'x', '', -0.5),
    ('g/1', 'x', 'w', '', 'NaN'), ('g/1', 'x', 'w', 'u', '-0'), ('g/1', 'z', 'u', 't', 'Infinity');
SELECT store_swarm('pop/1', '[[1,2],[3,4]]', '{"generation": 1}');
SELECT store_swarm('scalar', tensor('I64', '{}', '\x0700000000000000'));
SELECT store_weights('net', 'fc', '[[1,2],[3,4]]', '[5,-0]'), store_weights('net', 'fc.bias', '[9]', 'F16:[7]');
SELECT store_expert_config('net', 'vision', 6, 0.1, '{"layers": [2]}', '{"epoch": 3}'), store_expert_config('bare');
INSERT INTO gpuagent.run (run) VALUES ('r');
INSERT INTO gpuagent.metric (run, key, step, value, object) VALUES ('r', 'loss', 1, 0.1, NULL), ('r', 'nan', 1, 'NaN', 'expert:net'), ('r', 'inf', 2, '-Infinity', NULL);

-- Everything, one hash a kind, bit for bit.
CREATE VIEW fingerprint AS
SELECT 'agents' AS kind, count(*), sha256(string_agg(gpuagent_store.digest(a.id, a.state, a.memory, a.generation, a.fitness, a.metadata, a.version, a.created_at, a.updated_at, a.origin), '' ORDER BY a.id)) AS hash FROM gpuagent.agent a
UNION ALL SELECT 'graphs', count(*), sha256(string_agg(gpuagent_store.digest(g.graph, g.dim, g.metric, g.metadata, g.created_at), '' ORDER BY g.graph)) FROM gpuagent.graph g
UNION ALL SELECT 'nodes', count(*), sha256(string_agg(gpuagent_store.digest(n.graph, n.id, n.embedding, n.metadata, n.created_at), '' ORDER BY n.graph, n.id)) FROM gpuagent.graph_node n
UNION ALL SELECT 'edges', count(*), sha256(string_agg(gpuagent_store.digest(e.graph, e.source, e.target, e.edge_type, e.weight, e.metadata, e.created_at), '' ORDER BY e.graph, e.source, e.target, e.edge_type)) FROM gpuagent.graph_edge e
UNION ALL SELECT 'swarms', count(*), sha256(string_agg(gpuagent_store.digest(s.swarm, s.keep_versions, s.current, s.metadata, s.created_at, v.tensor, v.step, v.metadata, v.created_at), '' ORDER BY s.swarm)) FROM gpuagent.swarm s JOIN gpuagent.swarm_version v ON v.swarm = s.swarm AND v.version = s.current
UNION ALL SELECT 'experts', count(*), sha256(string_agg(gpuagent_store.digest(e.expert, e.domain, e.parameter_count, e.learning_rate, e.architecture, e.metadata, e.version, e.activation_count, e.success_rate, e.memory_usage, e.created_at, e.updated_at), '' ORDER BY e.expert)) FROM gpuagent.expert e
UNION ALL SELECT 'layers', count(*), sha256(string_agg(gpuagent_store.digest(w.expert, w.layer, w.version, w.weights, w.biases, w.metadata, w.created_at), '' ORDER BY w.expert, w.layer, w.version)) FROM gpuagent.weight_version w
UNION ALL SELECT 'metrics', count(*), sha256(string_agg(gpuagent_store.digest(m.id, m.run, m.key, m.step, m.value, m.object, m.recorded_at, m.created_at), '' ORDER BY m.id)) FROM gpuagent.metric m
UNION ALL SELECT 'runs', count(*), sha256(string_agg(gpuagent_store.digest(r.run, r.metadata, r.status, r.created_at), '' ORDER BY r.run)) FROM gpuagent.run r;
SELECT string_agg(format('%s %s %s', kind, count, hash), E'\n' ORDER BY kind) AS before FROM fingerprint \gset

-- export: refusals, then the files
SELECT fails('SELECT * FROM export_checkpoint()');
SELECT create_checkpoint('first', metadata => '{"note": "exported"}', run => 'r', step => 7) AS c \gset
UPDATE gpuagent.checkpoint SET uid = '11111111-2222-3333-4444-555555555555' WHERE id = :c;
SELECT fails('SELECT * FROM export_checkpoint(99, wait => false)');
SELECT fails('SELECT * FROM export_checkpoint(99)');
SELECT job, state, path, files FROM export_checkpoint();
SELECT job, state, path, files FROM export_checkpoint(:c);
SELECT exported_path, exported_at IS NOT NULL AS dated FROM gpuagent.checkpoint WHERE id = :c;
SELECT * FROM gpuagent_store.list_folder('nvme_storage');
SELECT gpuagent_store.read_text('nvme_storage/latest');
\set folder 'nvme_storage/ckpt-0000000001-11111111'
SELECT * FROM gpuagent_store.list_folder(:'folder');
SELECT f.name AS file, h.name, h.dtype, h.shape FROM
    (SELECT name FROM gpuagent_store.list_folder(:'folder') name WHERE name LIKE '%.safetensors' OFFSET 0) f,
    gpuagent_store.safetensors_header(:'folder' || '/' || f.name, NULL) h;
SELECT m - '{sections,creator,source,checkpoint}'::text[], m -> 'checkpoint' ->> 'label', m #> '{checkpoint,metadata}', m #>> '{checkpoint,uid}',
    m #>> '{checkpoint,run}', m #>> '{checkpoint,step}', m #> '{checkpoint,objects}'
    FROM (SELECT gpuagent_store.read_text(:'folder' || '/MANIFEST.json')::jsonb -> 'manifest' AS m) x;
SELECT s ->> 'object', f ->> 'name', f ->> 'items', (f ->> 'nbytes')::bigint = gpuagent_store.file_size(:'folder' || '/' || (f ->> 'name')) AS size,
    f ->> 'sha256' = gpuagent_store.file_sha256(:'folder' || '/' || (f ->> 'name')) AS hash
    FROM jsonb_array_elements(gpuagent_store.read_manifest(:'folder') -> 'sections') s, jsonb_array_elements(s -> 'files') f;
SELECT t FROM jsonb_array_elements(gpuagent_store.read_manifest(:'folder') -> 'sections') s, jsonb_array_elements(s -> 'tensors') t
    WHERE s ->> 'object' IN ('swarm:pop/1', 'expert:net');
-- the graph as compressed sparse rows: u v w x y z
SELECT 'row_offsets' AS tensor, array_agg(x) FROM gpuagent_store.read_integers(:'folder' || '/graph-g_2f1.safetensors', 'row_offsets') x
UNION ALL SELECT 'col_indices', array_agg(x) FROM gpuagent_store.read_integers(:'folder' || '/graph-g_2f1.safetensors', 'col_indices') x
UNION ALL SELECT 'edge_types', array_agg(x) FROM gpuagent_store.read_integers(:'folder' || '/graph-g_2f1.safetensors', 'edge_types') x
UNION ALL SELECT 'embedding_nodes', array_agg(x) FROM gpuagent_store.read_integers(:'folder' || '/graph-g_2f1.safetensors', 'embedding_nodes') x;
SELECT array_agg(x) FROM gpuagent_store.read_floats(:'folder' || '/graph-g_2f1.safetensors', 'weights') x;
SELECT array_agg(x) FROM gpuagent_store.read_states(:'folder' || '/graph-g_2f1.safetensors', 'embeddings') x;

-- a part only; latest follows the newest exported checkpoint; an older one does not move it back
SELECT store_swarm('pop/1', '[[9,9],[9,9]]');
SELECT create_checkpoint('part', '{expert:net,agents:a/1}') AS p \gset
SELECT create_checkpoint('third') AS t \gset
UPDATE gpuagent.checkpoint SET uid = '22222222-2222-3333-4444-555555555555' WHERE id = :p;
UPDATE gpuagent.checkpoint SET uid = '33333333-2222-3333-4444-555555555555' WHERE id = :t;
SELECT state, path, files FROM export_checkpoint(:t);
SELECT state, path, files FROM export_checkpoint(:p);
SELECT gpuagent_store.read_text('nvme_storage/latest');
SELECT s ->> 'object', f ->> 'name', f ->> 'items'
    FROM jsonb_array_elements(gpuagent_store.read_manifest('nvme_storage/ckpt-0000000002-22222222') -> 'sections') s, jsonb_array_elements(s -> 'files') f;
SELECT * FROM verify_integrity();
SELECT * FROM verify_integrity('full');
SELECT * FROM verify_integrity('deep', '{agents,swarms}');
SELECT * FROM verify_integrity('full', '{expert:net}', :c);
SELECT fails('SELECT * FROM verify_integrity(''some'')');
SELECT fails('SELECT * FROM verify_integrity(checkpoint => 99)');
SELECT fails('SELECT * FROM verify_integrity(objects => ''{cat}'')');

-- a rolled back export leaves nothing
SELECT create_checkpoint('fourth') AS f \gset
UPDATE gpuagent.checkpoint SET uid = '44444444-2222-3333-4444-555555555555' WHERE id = :f;
BEGIN;
SELECT state FROM export_checkpoint(:f);
ROLLBACK;
SELECT exported_path FROM gpuagent.checkpoint WHERE id = :f;
SELECT state FROM export_checkpoint(:f);
-- what is damaged is put aside, and an export that fails leaves nothing
\set damage 'printf X | dd of=' :base '/nvme_storage/ckpt-0000000004-44444444/swarm-scalar.safetensors bs=1 seek=4100 conv=notrunc 2>/dev/null'
COPY (SELECT 1 WHERE false) TO PROGRAM :'damage';
SELECT object, status FROM verify_integrity('full', checkpoint => :f);
SELECT regexp_replace(fails(format('SELECT import_checkpoint(%L)', 'ckpt-0000000004-44444444')), '[0-9a-f]{64}', 'HASH', 'g');
SELECT fails(format('SELECT import_checkpoint(%L, verify => %L)', 'ckpt-0000000004-44444444', 'quick'));
SET client_min_messages = error;
SELECT state FROM export_checkpoint(:f);
SET client_min_messages = warning;
SELECT regexp_replace(n, '-[0-9a-f]{8}-[0-9a-f]{4}-.*', '-UUID') FROM gpuagent_store.list_folder('nvme_storage') n;
SELECT create_checkpoint('fifth') AS e \gset
BEGIN;
UPDATE gpuagent_store.chunk c SET hash = sha256('gone') FROM gpuagent_store.tensor t, gpuagent.swarm_version v
    WHERE v.swarm = 'scalar' AND t.hash = v.tensor AND c.hash = t.root;
SELECT regexp_replace(fails('SELECT export_checkpoint(' || :e || ')'), '[0-9a-f]{64}', 'HASH', 'g');
SELECT object, status, regexp_replace(found, '[0-9a-f]{64}', 'HASH') FROM verify_integrity('quick') WHERE object !~ 'ckpt';
ROLLBACK;
\set look 'ls -A ' :base '/nvme_storage | grep -c tmp > ' :base '/count.txt; true'
COPY (SELECT 1 WHERE false) TO PROGRAM :'look';
SELECT gpuagent_store.read_text('count.txt');
-- contents that changed under their hash
BEGIN;
UPDATE gpuagent_store.chunk c SET data = '\x0800000000000000', codec = 0 FROM gpuagent_store.tensor t, gpuagent.swarm_version v
    WHERE v.swarm = 'scalar' AND t.hash = v.tensor AND c.hash = t.root;
SELECT * FROM verify_integrity('quick');
SELECT object, status, regexp_replace(found, '[0-9a-f]{64}', 'HASH', 'g') FROM verify_integrity('full');
SELECT regexp_replace(fails('SELECT export_checkpoint(' || :e || ')'), '[0-9a-f]{64}', 'HASH', 'g');
ROLLBACK;
SELECT status FROM verify_integrity('full');

-- an empty database
\c ga_tree_copy
SET client_min_messages = warning;
CREATE EXTENSION gpuagent;
SELECT gpuagent.setup();
ALTER DATABASE ga_tree_copy SET search_path = public, gpuagent;
SET search_path = public, gpuagent;
SELECT import_checkpoint(:'folder', restore => true, verify => 'deep') AS c \gset
SELECT kind, label, run, step, status, objects, metadata, uid, exported_path, verified_level FROM gpuagent.checkpoint WHERE id = :c;
\c ga_tree
SELECT pg_get_viewdef('fingerprint') AS definition \gset
SELECT prosrc AS body FROM pg_proc WHERE proname = 'fails' \gset
\c ga_tree_copy
SET client_min_messages = warning;
CREATE VIEW fingerprint AS :definition
CREATE FUNCTION fails(sql text) RETURNS text LANGUAGE plpgsql AS :'body';
SELECT string_agg(format('%s %s %s', kind, count, hash), E'\n' ORDER BY kind) AS after FROM fingerprint \gset
SELECT :'before' = :'after' AS bit_for_bit;
SELECT format('%s %s', kind, count) FROM fingerprint;
SELECT * FROM verify_integrity('full');
SELECT import_checkpoint(:'folder') = :c AS same;
SELECT import_checkpoint('ckpt-0000000001-11111111') = :c AS same;
-- more of them, one of a part, and the newest
SELECT import_checkpoint('ckpt-0000000002-22222222') AS p \gset
SELECT objects FROM gpuagent.checkpoint WHERE id = :p;
SELECT import_checkpoint() AS n \gset
SELECT label FROM gpuagent.checkpoint WHERE id = :n;
SELECT object, action, rows FROM restore_checkpoint(:p, dry_run => true) WHERE action <> 'keep';
SELECT swarm, retrieve_swarm(swarm, checkpoint => :c) FROM gpuagent.swarm ORDER BY swarm;

-- refusals
SELECT fails($$SELECT import_checkpoint('nvme_storage/none')$$);
SELECT fails($$SELECT import_checkpoint('../nvme_storage')$$);
SELECT fails($$SELECT import_checkpoint(NULL)$$);
SELECT fails($$SELECT import_checkpoint(verify => 'none')$$);
SELECT encode(tensor, 'hex') AS swarm_hash FROM gpuagent.swarm_version WHERE swarm = 'pop/1' \gset
DELETE FROM gpuagent.swarm; DELETE FROM gpuagent.expert; DELETE FROM gpuagent_store.tensor; DELETE FROM gpuagent_store.chunk;
DELETE FROM gpuagent.checkpoint_item; DELETE FROM gpuagent_store.checkpoint_agent; DELETE FROM gpuagent_store.checkpoint_node;
DELETE FROM gpuagent_store.checkpoint_edge; DELETE FROM gpuagent_store.checkpoint_metric; DELETE FROM gpuagent.checkpoint;
\set copy 'cp -a ' :base '/' :folder ' ' :base '/nvme_storage/bad'
COPY (SELECT 1 WHERE false) TO PROGRAM :'copy';
-- Writes a manifest that is whole in itself.
CREATE FUNCTION lie(content jsonb) RETURNS void LANGUAGE sql AS $$
    SELECT gpuagent_store.replace_text('nvme_storage/bad/MANIFEST.json', gpuagent_store.manifest_text(content))
$$;
SELECT gpuagent_store.read_manifest('nvme_storage/bad') AS truth \gset
SELECT lie(jsonb_set(:'truth', '{format_version}', '2'));
SELECT fails($$SELECT import_checkpoint('bad')$$);
SELECT lie(jsonb_set(:'truth', '{sections,0,files,0,nbytes}', '1'));
SELECT fails($$SELECT import_checkpoint('bad', verify => 'quick')$$);
SELECT lie(jsonb_set(:'truth', '{sections,0,files,0,name}', '"../latest"'));
SELECT fails($$SELECT import_checkpoint('bad', verify => 'quick')$$);
SELECT lie(jsonb_set(:'truth', '{sections,0,object}', '"cats"'));
SELECT fails($$SELECT import_checkpoint('bad')$$);
SELECT lie(jsonb_set(:'truth', '{sections,0,tensors,0,shape}', '[1,2]'));
SELECT fails($$SELECT import_checkpoint('bad', verify => 'deep')$$);
SELECT lie(replace(:'truth', :'swarm_hash', repeat('0', 64))::jsonb);
SELECT fails($$SELECT import_checkpoint('bad')$$);
SELECT lie(jsonb_set(:'truth', '{sections}', (SELECT jsonb_agg(s) FROM jsonb_array_elements(:'truth'::jsonb -> 'sections') s WHERE s ->> 'object' NOT IN ('expert:net', 'swarm:pop/1'))));
SELECT fails($$SELECT import_checkpoint('bad')$$);
SELECT lie(jsonb_set(:'truth', '{checkpoint,objects}', '["agents"]'));
SELECT fails($$SELECT import_checkpoint('bad')$$);
-- values of wrong types, and a line twice
SELECT change, fails('SELECT import_checkpoint(''bad'')') FROM (VALUES ('{sections,0,files}', '7'), ('{sections,0}', '"x"'), ('{sections,0,files,0,nbytes}', '"x"'),
    ('{sections,0,tensors}', '{}'), ('{checkpoint,uid}', '"x"'), ('{checkpoint,step}', '[]'), ('{checkpoint,objects}', '["cats"]')) v (change, value),
    LATERAL (SELECT lie(jsonb_set(:'truth', change::text[], value::jsonb)) OFFSET 0) l;
\set damage 'head -n 1 ' :base '/nvme_storage/bad/metrics.jsonl >> ' :base '/nvme_storage/bad/metrics.jsonl'
COPY (SELECT 1 WHERE false) TO PROGRAM :'damage';
SELECT lie(:'truth');
SELECT fails($$SELECT import_checkpoint('bad', verify => 'full')$$) LIKE 'XX001%';
SELECT lie(jsonb_set(:'truth', '{sections}', (SELECT jsonb_agg(CASE s ->> 'object' WHEN 'metrics' THEN jsonb_set(s, '{files,1,nbytes}',
    to_jsonb(gpuagent_store.file_size('nvme_storage/bad/metrics.jsonl'))) ELSE s END) FROM jsonb_array_elements(:'truth'::jsonb -> 'sections') s)));
SELECT fails($$SELECT import_checkpoint('bad', verify => 'quick')$$);
\set damage 'cp ' :base '/' :folder '/metrics.jsonl ' :base '/nvme_storage/bad/'
COPY (SELECT 1 WHERE false) TO PROGRAM :'damage';
-- a line that is not what its digest says
SELECT lie(:'truth');
\set damage 'sed -i s/\\"i\\":\\ 1}/\\"i\\":\\ 2}/ ' :base '/nvme_storage/bad/agents-1.jsonl'
COPY (SELECT 1 WHERE false) TO PROGRAM :'damage';
SELECT fails($$SELECT import_checkpoint('bad', verify => 'quick')$$);
SELECT gpuagent_store.replace_text('nvme_storage/bad/MANIFEST.json', '{}');
SELECT fails($$SELECT import_checkpoint('bad')$$);
SELECT gpuagent_store.replace_text('nvme_storage/bad/MANIFEST.json', replace(gpuagent_store.manifest_text(:'truth'), 'first', 'First'));
SELECT fails($$SELECT import_checkpoint('bad')$$);
SELECT count(*) FROM gpuagent.checkpoint;

-- rights
CREATE ROLE tree_user;
SELECT grant_access('tree_user', 'admin');
SET ROLE tree_user;
SELECT fails('SELECT import_checkpoint()');
SELECT fails('SELECT gpuagent_store.write_export(1)');
RESET ROLE;
GRANT pg_read_server_files TO tree_user;
SET ROLE tree_user;
SELECT import_checkpoint('ckpt-0000000001-11111111') AS c \gset
SELECT fails(format('SELECT export_checkpoint(%s)', :c));
SELECT * FROM verify_integrity('full');
RESET ROLE;
DROP OWNED BY tree_user;
DROP ROLE tree_user;

-- a checkpoint that somebody deletes by hand while a job writes it; the folder goes with the transaction
SELECT create_checkpoint('by hand') AS h \gset
BEGIN;
SELECT gpuagent_store.run_export(0, jsonb_build_object('checkpoint', :h), NULL) AS carry \gset
SELECT gpuagent_store.run_export(0, jsonb_build_object('checkpoint', :h), :'carry') AS carry \gset
DELETE FROM gpuagent.checkpoint WHERE id = :h;
SELECT regexp_replace(fails(format('SELECT gpuagent_store.run_export(0, jsonb_build_object(''checkpoint'', %s), %L)', :h, :'carry')), 'checkpoint \d+', 'checkpoint N');
ROLLBACK;
SELECT delete_checkpoint(:h);
COPY (SELECT 1 WHERE false) TO PROGRAM :'clean';
\c postgres
DROP DATABASE ga_tree;
DROP DATABASE ga_tree_copy;
