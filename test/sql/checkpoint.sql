-- Checkpoints: create, restore, copies, aliases; contents compared bit for bit. In a database of its own.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE DATABASE ga_checkpoint;
\c ga_checkpoint
SET client_min_messages = warning;
CREATE EXTENSION gpuagent;
SELECT gpuagent.setup();

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

-- Everything a checkpoint restores, as one hash a kind. record_send() gives all bits; versions of swarms and weights
-- are left out, because a restore makes new ones.
CREATE VIEW fingerprint AS
SELECT 'agents' AS kind, count(*), sha256(string_agg(record_send(a), '' ORDER BY a.id)) AS hash FROM gpuagent.agent a
UNION ALL SELECT 'graphs', count(*), sha256(string_agg(record_send(ROW(g.graph, g.dim, g.metric, g.metadata, g.created_at)), '' ORDER BY g.graph)) FROM gpuagent.graph g
UNION ALL SELECT 'nodes', count(*), sha256(string_agg(record_send(n), '' ORDER BY n.graph, n.id)) FROM gpuagent.graph_node n
UNION ALL SELECT 'edges', count(*), sha256(string_agg(record_send(e), '' ORDER BY e.graph, e.source, e.target, e.edge_type)) FROM gpuagent.graph_edge e
UNION ALL SELECT 'swarms', count(*), sha256(string_agg(record_send(ROW(s.swarm, s.keep_versions, s.metadata, s.created_at, v.tensor, v.step, v.metadata)), '' ORDER BY s.swarm))
    FROM gpuagent.swarm s LEFT JOIN gpuagent.swarm_version v ON v.swarm = s.swarm AND v.version = s.current
UNION ALL SELECT 'experts', count(*), sha256(string_agg(record_send(ROW(e.expert, e.domain, e.parameter_count, e.learning_rate, e.architecture, e.metadata, e.activation_count, e.success_rate, e.memory_usage, e.created_at, e.updated_at)), '' ORDER BY e.expert)) FROM gpuagent.expert e
UNION ALL SELECT 'layers', count(*), sha256(string_agg(record_send(ROW(e.expert, w.layer, w.weights, w.biases)), '' ORDER BY e.expert, w.layer))
    FROM gpuagent.expert e CROSS JOIN LATERAL gpuagent.load_weights(e.expert) w
UNION ALL SELECT 'runs', count(*), sha256(string_agg(record_send(r), '' ORDER BY r.run)) FROM gpuagent.run r
UNION ALL SELECT 'metrics', count(*), sha256(string_agg(record_send(m), '' ORDER BY m.id)) FROM gpuagent.metric m;
CREATE TABLE kept (checkpoint text, kind text, count bigint, hash bytea);

-- Real edge values: -0, NaN payloads, denormals, infinities, odd names, jsonb that is equal but not the same.
INSERT INTO gpuagent.agent (id, state, memory, generation, fitness, metadata, version, created_at, updated_at, origin) VALUES
    ('run1/a', '[1,-0,3]', NULL, 3, '-0', '{"x": 1.0}', 7, '2020-01-01 00:00:00.123456+00', 'infinity', '00000000-0000-0000-0000-000000000001'),
    ('run1/b', 'F16:[[1,2],[3,4]]', '[NaN,1e-45,-Infinity]', 0, '-Infinity', '{}', 1, '-infinity', '2021-05-05', NULL),
    ('run2/ü "q''', NULL, '[]', -9223372036854775808, NULL, '{"ключ": null}', 1, now(), now(), NULL);
INSERT INTO gpuagent.graph (graph, dim, metric, metadata) VALUES ('g', 2, 'l2', '{"v": 1}'), ('empty', NULL, NULL, '{}');
INSERT INTO gpuagent.graph_node (graph, id, embedding, metadata) VALUES ('g', 'n1', '[1,-0]', '{}'), ('g', 'n2', NULL, '{"t": "x"}'), ('g', 'n3', '[0,2]', '{}');
INSERT INTO gpuagent.graph_edge (graph, source, target, edge_type, weight) VALUES ('g', 'n1', 'n2', 'near', '-0'), ('g', 'n2', 'n3', '', 'Infinity'), ('g', 'n1', 'n1', 'self', 'NaN');
SELECT gpuagent.store_swarm('pop', '[[1,2],[3,-0]]', '{"gen": 1}');
SELECT gpuagent.store_expert_config('net', 'language', 1000, 1e-323, 'null', '{"a": [1, 2.50]}');
SELECT gpuagent.store_expert_state('net', 5, 'NaN', 42);
SELECT gpuagent.store_weights('net', 'l1', '[[1,2],[3,4]]', '[0.5]'), gpuagent.store_weights('net', 'l2', '[9]');
SELECT gpuagent.store_expert_config('bare');
INSERT INTO gpuagent.run (run) VALUES ('r1');
INSERT INTO gpuagent.metric (run, key, step, value, object) VALUES ('r1', 'loss', 1, '-0', 'expert:net'), ('r1', 'loss', 2, 'NaN', NULL), ('r1', 'acc', 1, 0.1, NULL);

SELECT gpuagent.create_checkpoint('first', metadata => '{"why": "test"}', run => 'r1', step => 12) AS c1;
INSERT INTO kept SELECT 'first', * FROM fingerprint;
SELECT id, parent, label, kind, run, step, status, objects, metadata, raw_bytes > 0 AS raw, new_bytes = raw_bytes AS new, horizon IS NOT NULL AS horizon
FROM gpuagent.checkpoint;
SELECT object, part, version, tensor IS NOT NULL AS tensor, biases IS NOT NULL AS biases, from_seq, to_seq
FROM gpuagent.checkpoint_item ORDER BY object, part;

-- digests, against their definition: length (-1 for NULL) and wire format of each column
SELECT bool_and(digest = sha256(int8send(octet_length(id)) || convert_to(id, 'UTF8')
    || coalesce(int8send(octet_length(s)) || s, int8send(-1)) || coalesce(int8send(octet_length(m)) || m, int8send(-1))
    || int8send(8) || int8send(generation) || coalesce(int8send(8) || float8send(fitness), int8send(-1))
    || int8send(octet_length(j)) || j || int8send(8) || int8send(version) || int8send(8) || timestamptz_send(created_at)
    || int8send(8) || timestamptz_send(updated_at) || coalesce(int8send(16) || uuid_send(origin), int8send(-1)))) AS digests
FROM gpuagent_store.checkpoint_agent, LATERAL (SELECT gpuagent.agent_state_send(state), gpuagent.agent_state_send(memory), jsonb_send(metadata)) w (s, m, j);
SELECT gpuagent_store.digest(1::bigint, NULL::text) = sha256(int8send(8) || int8send(1) || int8send(-1)) AS one;


-- nothing changed: nothing is written, the newest checkpoint comes back; in other formats of dates and floats, too
SELECT gpuagent.create_checkpoint() = 1 AS same;
SET timezone = 'Asia/Kolkata'; SET datestyle = 'German'; SET extra_float_digits = -10;
SELECT gpuagent.create_checkpoint() = 1 AS same;
RESET timezone; RESET datestyle; RESET extra_float_digits;
SELECT (SELECT count(*) FROM gpuagent.checkpoint) AS checkpoints, (SELECT count(*) FROM gpuagent_store.checkpoint_agent) AS agents;
-- rewritten rows with the same contents are no change
UPDATE gpuagent.agent SET version = version;
UPDATE gpuagent.graph_node SET id = id;
SELECT gpuagent.create_checkpoint() = 1 AS same;
-- with a label it is a row, and nothing else
SELECT gpuagent.create_checkpoint('again') > 1 AS new;
SELECT label, new_bytes, raw_bytes = (SELECT raw_bytes FROM gpuagent.checkpoint WHERE id = 1) AS same_raw FROM gpuagent.checkpoint WHERE label = 'again';

-- bits that compare as equal are changes all the same
UPDATE gpuagent.agent SET fitness = 0 WHERE id = 'run1/a';
UPDATE gpuagent.agent SET metadata = '{"ключ": null, "n": 1}' WHERE id LIKE 'run2/%';
UPDATE gpuagent.graph_node SET embedding = '[1,0]' WHERE id = 'n1';
UPDATE gpuagent.graph_edge SET weight = 0 WHERE edge_type = 'near';
UPDATE gpuagent.agent SET metadata = '{"x": 1.00}' WHERE id = 'run1/a';
DELETE FROM gpuagent.agent WHERE id = 'run1/b';
INSERT INTO gpuagent.agent (id) VALUES ('run1/c');
DELETE FROM gpuagent.graph_node WHERE id = 'n2';
INSERT INTO gpuagent.graph_node (graph, id, embedding) VALUES ('g', 'n4', '[5,5]');
SELECT gpuagent.store_swarm('pop', '[[7]]');
SELECT gpuagent.store_swarm('later', '[1]');
SELECT gpuagent.store_weights('net', 'l1', '[[1,2],[3,5]]', '[0.5]');
SELECT gpuagent.delete_weights('net', 'l2');
SELECT gpuagent.store_weights('net', 'l3', '[1]');
SELECT gpuagent.delete_expert('bare');
UPDATE gpuagent.expert SET learning_rate = '-0', architecture = NULL WHERE expert = 'net';
INSERT INTO gpuagent.run (run) VALUES ('r2');
DELETE FROM gpuagent.metric WHERE key = 'acc';
UPDATE gpuagent.metric SET value = 0 WHERE value = 0;
SELECT gpuagent.create_checkpoint('second') AS c \gset
INSERT INTO kept SELECT 'second', * FROM fingerprint;
SELECT o.id, o.from_seq = 1 AS first, o.to_seq IS NOT NULL AS closed FROM gpuagent_store.checkpoint_agent o ORDER BY 1, o.from_seq;
SELECT count(*) FILTER (WHERE to_seq IS NULL) AS open, count(*) AS all FROM gpuagent_store.checkpoint_edge;

-- what a restore would do, and that it does not
SELECT object, action, rows, nbytes > 0 AS bytes FROM gpuagent.restore_checkpoint(1, dry_run => true) ORDER BY object, action;
SELECT count(*) FROM (SELECT kind, count, hash FROM kept WHERE checkpoint = 'second' EXCEPT SELECT * FROM fingerprint) d;
SELECT count(*) FROM gpuagent.checkpoint;

-- restore: every bit as it was, swarms and layers as new versions
SELECT object, action, rows FROM gpuagent.restore_checkpoint(1) WHERE action <> 'keep' ORDER BY object, action;
SELECT kind, f.count, f.hash = k.hash AS equal FROM fingerprint f JOIN kept k USING (kind) WHERE checkpoint = 'first' ORDER BY kind;
SELECT swarm, current FROM gpuagent.swarm;
SELECT layer, version, weights, biases FROM gpuagent.load_weights('net');
SELECT version FROM gpuagent.expert WHERE expert = 'net';
-- the safety checkpoint had nothing new to keep; the restored state is a change again; forth and back
SELECT max(id) = :c AS no_safety_row FROM gpuagent.checkpoint;
SELECT gpuagent.create_checkpoint('restored') AS r \gset
SELECT count(*) FROM gpuagent.restore_checkpoint(:c, verify => 'quick');
SELECT kind, f.count, f.hash = k.hash AS equal FROM fingerprint f JOIN kept k USING (kind) WHERE checkpoint = 'second' ORDER BY kind;
-- restoring what is there already keeps everything
SELECT DISTINCT action FROM gpuagent.restore_checkpoint(:c);

-- a change that no checkpoint has is saved by the safety checkpoint
UPDATE gpuagent.agent SET generation = 99 WHERE id = 'run1/c';
SELECT object, action, rows FROM gpuagent.restore_checkpoint(:c) WHERE action <> 'keep' ORDER BY 1;
SELECT kind, label = 'before restore of ' || :c AS labelled FROM gpuagent.checkpoint ORDER BY id DESC LIMIT 1;
SELECT generations FROM gpuagent.retrieve_population('{run1/c}', checkpoint => (SELECT max(id) FROM gpuagent.checkpoint));
-- ... which is not what NULL and latest mean
SELECT gpuagent.resolve_checkpoint('latest') = :r AS latest, gpuagent.resolve_checkpoint('latest-valid') = :r AS latest_valid;

-- parts
SELECT object, action, rows FROM gpuagent.restore_checkpoint(1, '{agents:run1/,swarm:pop}') WHERE action <> 'keep' ORDER BY 1, 2;
SELECT id, generation, fitness FROM gpuagent.agent ORDER BY id;
SELECT gpuagent.retrieve_swarm('pop');

-- copies
SELECT object, action, rows FROM gpuagent.restore_checkpoint(1, new_prefix => 'copy/') ORDER BY 1, 2;
SELECT id, state, memory, fitness, metadata, version FROM gpuagent.agent WHERE id ^@ 'copy/' ORDER BY id;
SELECT gpuagent.retrieve_swarm('copy/pop'), (SELECT current FROM gpuagent.swarm WHERE swarm = 'copy/pop');
SELECT layer, version, weights, biases FROM gpuagent.load_weights('copy/net');
SELECT graph, source, target, edge_type, weight FROM gpuagent.graph_edge WHERE graph = 'copy/g' ORDER BY 2, 3, 4;
SELECT run, key, step, value, id > 3 AS new_id FROM gpuagent.metric WHERE run = 'copy/r1' ORDER BY id;
SELECT fails('SELECT gpuagent.restore_checkpoint(1, new_prefix => ''copy/'')');
SELECT fails('SELECT gpuagent.restore_checkpoint(1, ''{expert:net}'', new_prefix => ''copy/'')');
SELECT fails('SELECT gpuagent.restore_checkpoint(1, new_prefix => repeat(''x'', 255))');
SELECT fails('SELECT gpuagent.restore_checkpoint(1, new_prefix => '''')');

-- reading without restoring
SELECT gpuagent.retrieve_swarm('pop', checkpoint => 1), gpuagent.retrieve_swarm('pop', checkpoint => :c);
SELECT layer, version, weights, biases FROM gpuagent.load_weights('net', checkpoint => 1);
SELECT ids, generations, fitness, versions FROM gpuagent.retrieve_population('{run1/a}', checkpoint => 1);
SELECT ids, generations, fitness, versions FROM gpuagent.retrieve_population('{run1/a}', checkpoint => :c);

-- references
SELECT gpuagent.set_checkpoint_alias('best', 1);
SELECT gpuagent.resolve_checkpoint('@best'), gpuagent.resolve_checkpoint('1'), gpuagent.resolve_checkpoint('first'),
    gpuagent.resolve_checkpoint((SELECT uid::text FROM gpuagent.checkpoint WHERE id = 1));
SELECT gpuagent.set_checkpoint_alias('best', :c);
SELECT gpuagent.resolve_checkpoint('@best') = :c AS moved;
SELECT gpuagent.set_checkpoint_alias('best', NULL);
SELECT fails('SELECT gpuagent.resolve_checkpoint(''@best'')');
SELECT fails('SELECT gpuagent.resolve_checkpoint(''no such label'')');
SELECT fails('SELECT gpuagent.resolve_checkpoint(''99999999999999999999'')');
SELECT fails('SELECT gpuagent.resolve_checkpoint(NULL)');
SELECT fails('SELECT gpuagent.set_checkpoint_alias(''x'', 12345)');
SELECT fails('SELECT gpuagent.set_checkpoint_alias(NULL, 1)');

-- scopes
SELECT objects FROM gpuagent_store.checkpoint_scope('{swarm:b,agents:x/,agents:x/y/,swarm:a,swarm:b,graphs,graph:g}');
SELECT objects FROM gpuagent_store.checkpoint_scope('{agents,agents:x/,swarms,swarm:a}');
SELECT objects IS NULL AS everything FROM gpuagent_store.checkpoint_scope('{metrics,agents,swarms,experts,graphs}');
SELECT gpuagent.create_checkpoint('part', '{agents:run1/,expert:net}') AS p \gset
SELECT objects FROM gpuagent.checkpoint WHERE id = :p;
SELECT ids FROM gpuagent.retrieve_population('{run1/a}', checkpoint => :p);
SELECT fails(format('SELECT gpuagent.restore_checkpoint(%s, ''{agents}'')', :p));
SELECT fails(format('SELECT gpuagent.restore_checkpoint(%s, ''{swarm:pop}'')', :p));
SELECT fails('SELECT gpuagent.restore_checkpoint(1, ''{swarm:later}'')');
SELECT fails(format('SELECT * FROM gpuagent.retrieve_population(''{run2/x}'', checkpoint => %s)', :p));
SELECT fails(format('SELECT gpuagent.retrieve_swarm(''pop'', checkpoint => %s)', :p));
DELETE FROM gpuagent.agent;
SELECT object, action, rows FROM gpuagent.restore_checkpoint(:p) WHERE action <> 'keep' ORDER BY 1, 2;
SELECT id FROM gpuagent.agent ORDER BY id;

-- what does not exist any more comes back, with no present to save
SELECT gpuagent.delete_swarm('pop'), (SELECT max(id) FROM gpuagent.checkpoint) AS newest \gset before_
SELECT object, action, rows FROM gpuagent.restore_checkpoint(1, '{swarm:pop}');
SELECT gpuagent.retrieve_swarm('pop'), (SELECT current FROM gpuagent.swarm WHERE swarm = 'pop'), (SELECT max(id) = :before_newest FROM gpuagent.checkpoint) AS no_safety;
-- a swarm without a version, an expert without layers
INSERT INTO gpuagent.swarm (swarm) VALUES ('none');
SELECT gpuagent.create_checkpoint('none', '{swarm:none}') AS none \gset
SELECT gpuagent.store_swarm('none', '[1]');
SELECT object, action FROM gpuagent.restore_checkpoint(:none);
SELECT current, (SELECT count(*) FROM gpuagent.swarm_version v WHERE v.swarm = s.swarm) AS versions FROM gpuagent.swarm s WHERE swarm = 'none';
SELECT gpuagent.delete_swarm('none');

-- errors
SELECT fails('SELECT gpuagent.create_checkpoint(quorum => 1)');
SELECT fails('SELECT gpuagent.create_checkpoint(quorum => -1)');
SELECT fails('SELECT gpuagent.create_checkpoint(run => ''no such run'')');
SELECT fails('SELECT gpuagent.create_checkpoint(objects => ''{}'')');
SELECT fails('SELECT gpuagent.create_checkpoint(objects => ''{agents,NULL}'')');
SELECT fails('SELECT gpuagent.create_checkpoint(objects => ''{swarm:nobody}'')');
SELECT fails('SELECT gpuagent.create_checkpoint(objects => ''{planet:mars}'')');
SELECT fails('SELECT gpuagent.create_checkpoint(objects => ''{"swarm:"}'')');
SELECT fails('SELECT gpuagent.create_checkpoint(E''bad\nlabel'')');
SELECT fails('SELECT gpuagent.restore_checkpoint(12345)');
SELECT fails('SELECT gpuagent.restore_checkpoint(1, verify => ''somewhat'')');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fails('SELECT gpuagent.restore_checkpoint(1)');
SELECT count(*) > 0 AS dry_run_may FROM gpuagent.restore_checkpoint(1, dry_run => true);
ROLLBACK;

-- rows that come with a partition are older than the last checkpoint, and found all the same
CREATE TABLE part_1 (LIKE gpuagent.agent INCLUDING ALL);
CREATE TABLE part_2 (LIKE gpuagent.agent INCLUDING ALL);
INSERT INTO part_1 (id, generation) VALUES ('run1/a', 1), ('run1/z', 1);
INSERT INTO part_2 (id, generation) VALUES ('run1/a', 2), ('run1/z', 2);
BEGIN;
ALTER TABLE gpuagent.agent RENAME TO agent_plain;
CREATE TABLE gpuagent.agent (LIKE gpuagent.agent_plain INCLUDING DEFAULTS) PARTITION BY RANGE (id);
ALTER TABLE gpuagent.agent ATTACH PARTITION part_1 DEFAULT;
SELECT gpuagent.create_checkpoint('part 1') AS p1 \gset
ALTER TABLE gpuagent.agent DETACH PARTITION part_1;
ALTER TABLE gpuagent.agent ATTACH PARTITION part_2 DEFAULT;
SELECT gpuagent.create_checkpoint('part 2') AS p2 \gset
SELECT ids, generations FROM gpuagent.retrieve_population(checkpoint => :p1);
SELECT ids, generations FROM gpuagent.retrieve_population(checkpoint => :p2);
SELECT object, action, rows FROM gpuagent.restore_checkpoint(:p1) WHERE action <> 'keep';
SELECT tableoid::regclass, id, generation FROM gpuagent.agent ORDER BY id;
ROLLBACK;

-- columns that the user added stay as they are
ALTER TABLE gpuagent.agent ADD COLUMN tenant text DEFAULT 'none';
UPDATE gpuagent.agent SET tenant = 'mine', generation = generation + 1 WHERE id = 'run1/a';
SELECT object, action, rows FROM gpuagent.restore_checkpoint(1, '{agents}') WHERE action = 'update';
SELECT id, tenant, generation FROM gpuagent.agent WHERE id = 'run1/a';
ALTER TABLE gpuagent.agent DROP COLUMN tenant;

-- a policy that hides rows makes an error, not half a checkpoint
CREATE ROLE regress_ga_checkpoint;
SELECT gpuagent.grant_access('regress_ga_checkpoint', 'admin');
ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON gpuagent.agent USING (id ^@ 'run1/');
SET ROLE regress_ga_checkpoint;
SELECT public.fails('SELECT gpuagent.create_checkpoint(''hidden'')');
SELECT public.fails('SELECT gpuagent.restore_checkpoint(1)');
SELECT gpuagent.create_checkpoint(objects => '{swarms}') > 0 AS not_agents;
RESET ROLE;
ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY;
SET ROLE regress_ga_checkpoint;
SELECT gpuagent.create_checkpoint('by another role') > 0 AS granted;
SELECT count(*) > 0 AS granted FROM gpuagent.restore_checkpoint(1);
RESET ROLE;
SELECT kind, f.count, f.hash = k.hash AS equal FROM fingerprint f JOIN kept k USING (kind) WHERE checkpoint = 'first' ORDER BY kind;
-- metric values with ids that this database has not given out, as of an import: new ones do not meet them
UPDATE gpuagent.metric SET id = id + 1000 WHERE value = 'NaN';
SELECT gpuagent.create_checkpoint('high ids', '{metrics}') AS high \gset
UPDATE gpuagent.metric SET id = id - 1000 WHERE value = 'NaN';
SELECT nextval(pg_get_serial_sequence('gpuagent.metric', 'id')) < 1000 AS low;
SET ROLE regress_ga_checkpoint;
SELECT object, action, rows FROM gpuagent.restore_checkpoint(:high);
SELECT gpuagent.store_metrics('r1', '{"loss": 3}', 9);
RESET ROLE;
SELECT id > 1000 AS higher FROM gpuagent.metric WHERE step = 9;
DROP OWNED BY regress_ga_checkpoint;
DROP ROLE regress_ga_checkpoint;

-- a client's encoding has no part in digests
SET client_encoding = 'LATIN1';
SELECT count(*) AS damaged FROM gpuagent_store.verify_checkpoint(1, 'full');
UPDATE gpuagent.agent SET version = version + 1;
SELECT gpuagent.create_checkpoint('from another encoding') AS enc \gset
RESET client_encoding;
SELECT count(*) AS damaged FROM gpuagent_store.verify_checkpoint(:enc, 'full');
SELECT metadata FROM gpuagent_store.checkpoint_agent WHERE from_seq = :enc AND id ^@ 'run2/';
UPDATE gpuagent.agent SET version = version - 1;

-- a damaged checkpoint is not restored, and passed over
SELECT gpuagent.create_checkpoint('sound') AS sound \gset
UPDATE gpuagent.agent SET generation = 1 WHERE id = 'run1/a';
SELECT gpuagent.create_checkpoint('damaged') AS d \gset
ALTER TABLE gpuagent_store.checkpoint_agent ALTER digest DROP EXPRESSION;
UPDATE gpuagent_store.checkpoint_agent SET generation = 2 WHERE id = 'run1/a' AND from_seq = :d;
SELECT object, status FROM gpuagent_store.verify_checkpoint(:d, 'full');
SELECT * FROM gpuagent_store.verify_checkpoint(:d, 'quick');
SELECT regexp_replace(fails(format('SELECT gpuagent.restore_checkpoint(%s)', :d)), 'checkpoint \d+|[0-9a-f]{64}', 'X', 'g');
SET client_min_messages = error;
SELECT object, action, rows FROM gpuagent.restore_latest_valid() WHERE action <> 'keep';
SET client_min_messages = warning;
SELECT label, status, verified_level FROM gpuagent.checkpoint WHERE id IN (:d, :sound) ORDER BY id;
SELECT generation FROM gpuagent.agent WHERE id = 'run1/a';
-- one that is named may be restored without verification, damage and all
SELECT object, action, rows FROM gpuagent.restore_checkpoint(:d, '{agents:run1/a}', verify => 'none', safety => false);
SELECT generation FROM gpuagent.agent WHERE id = 'run1/a';
UPDATE gpuagent_store.chunk SET data = data || '\x00';
SELECT object, status, actual <> 'missing' AS found FROM gpuagent_store.verify_checkpoint(1, 'full') ORDER BY 1;
DELETE FROM gpuagent_store.tensor;
SELECT object, status, actual FROM gpuagent_store.verify_checkpoint(1, 'quick') ORDER BY 1;

UPDATE gpuagent.checkpoint SET status = 'damaged' WHERE kind <> 'safety';
SELECT fails('SELECT gpuagent.restore_latest_valid()');
SELECT fails('SELECT gpuagent.restore_checkpoint()');
SELECT fails('SELECT gpuagent.restore_checkpoint(objects => ''{agents}'')');

\c postgres
DROP DATABASE ga_checkpoint;
