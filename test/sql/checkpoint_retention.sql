-- Checkpoints: removal, retention, differences; what survives keeps its contents. In a database of its own.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE DATABASE ga_retention;
\c ga_retention
SET client_min_messages = warning;
CREATE EXTENSION gpuagent;
SELECT gpuagent.setup();
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
-- Contents of a checkpoint by the definition: rows whose interval has it and that it covers.
CREATE FUNCTION contents(c bigint) RETURNS bytea LANGUAGE sql AS $$
    SELECT sha256(coalesce(string_agg(r.d, '' ORDER BY r.d), '')) FROM (
        SELECT digest, 'agents:' || id, from_seq, to_seq FROM gpuagent_store.checkpoint_agent
        UNION ALL SELECT digest, 'graph:' || graph, from_seq, to_seq FROM gpuagent_store.checkpoint_node
        UNION ALL SELECT digest, 'graph:' || graph, from_seq, to_seq FROM gpuagent_store.checkpoint_edge
        UNION ALL SELECT digest, 'metrics', from_seq, to_seq FROM gpuagent_store.checkpoint_metric
        UNION ALL SELECT digest, object, from_seq, to_seq FROM gpuagent.checkpoint_item) r (d, object, from_seq, to_seq)
        JOIN gpuagent.checkpoint k ON k.id = c
    WHERE r.from_seq <= c AND (r.to_seq IS NULL OR c < r.to_seq) AND gpuagent_store.object_covered(k.objects, r.object)
$$;

-- Removing one checkpoint frees what only it had.
INSERT INTO gpuagent.agent (id, generation) SELECT 'a' || i, 0 FROM generate_series(1, 10) i;
SELECT gpuagent.create_checkpoint('one') AS c1, gpuagent.store_swarm('s', '[1,2,3]');
UPDATE gpuagent.agent SET generation = 1 WHERE id = 'a1';
SELECT gpuagent.create_checkpoint('two') AS c2 \gset
UPDATE gpuagent.agent SET generation = 2 WHERE id IN ('a1', 'a2');
DELETE FROM gpuagent.agent WHERE id = 'a3';
SELECT gpuagent.create_checkpoint('three') AS c3 \gset
SELECT count(*) FROM gpuagent_store.checkpoint_agent;
CREATE TABLE before AS SELECT id, contents(id) FROM gpuagent.checkpoint;
SELECT gpuagent.delete_checkpoint(:c2), gpuagent.delete_checkpoint(:c2), gpuagent.delete_checkpoint(4711);
SELECT count(*) FROM gpuagent_store.checkpoint_agent;
SELECT count(*) AS survivors, bool_and(contents(k.id) = b.contents) AS unchanged FROM before b JOIN gpuagent.checkpoint k USING (id);
-- the newest goes, too; what it had and the present still has is found again
SELECT gpuagent.delete_checkpoint(:c3);
SELECT gpuagent.create_checkpoint('four') AS c4 \gset
SELECT bool_and(b.contents = contents(:c4)) AS as_three FROM before b WHERE b.id = :c3;
SELECT ids, generations FROM gpuagent.retrieve_population(ids => '{a1,a2,a3,a4}', checkpoint => :c4);
SELECT ids, generations FROM gpuagent.retrieve_population(ids => '{a1,a2,a3,a4}', checkpoint => 1);

-- aliases pin
SELECT gpuagent.set_checkpoint_alias('release', 1), gpuagent.set_checkpoint_alias('best', 1);
SELECT fails('SELECT gpuagent.delete_checkpoint(1)');
SELECT fails('SELECT gpuagent.delete_checkpoint(NULL)');
SELECT checkpoint = 1 AS first, label, action, reason FROM gpuagent.prune_checkpoints(keep_last => 0);
SELECT gpuagent.set_checkpoint_alias('release', NULL), gpuagent.set_checkpoint_alias('best', NULL);
SELECT label, action, reason, freed_bytes > 0 AS freed FROM gpuagent.prune_checkpoints(keep_last => 0, dry_run => true);
SELECT label, action, reason, freed_bytes > 0 AS freed FROM gpuagent.prune_checkpoints(keep_last => 0);
SELECT label FROM gpuagent.checkpoint;
-- the last valid one stays, and a damaged one is no excuse
UPDATE gpuagent.agent SET generation = 5 WHERE id = 'a5';
SELECT gpuagent.create_checkpoint('bad') AS bad \gset
UPDATE gpuagent.checkpoint SET status = 'damaged' WHERE id = :bad;
SELECT label, action, reason FROM gpuagent.prune_checkpoints(keep_last => 0);

-- scopes do not hold each other's contents: run A's checkpoints go although run B's lie between them
INSERT INTO gpuagent.agent (id) VALUES ('A/1'), ('B/1');
SELECT gpuagent.create_checkpoint('A', '{agents:A/}') AS x \gset
SELECT gpuagent.create_checkpoint('B', '{agents:B/}') AS y \gset
UPDATE gpuagent.agent SET generation = 7 WHERE id = 'A/1';
SELECT gpuagent.create_checkpoint('A', '{agents:A/}') AS z \gset
SELECT id, from_seq, to_seq FROM gpuagent_store.checkpoint_agent WHERE id ~ '/' ORDER BY 1, 2;
SELECT gpuagent.delete_checkpoint(:x);
SELECT id, from_seq = :z AS newest FROM gpuagent_store.checkpoint_agent WHERE id ^@ 'A/';
SELECT gpuagent.delete_checkpoint(:y), gpuagent.delete_checkpoint(:z);
SELECT count(*) FROM gpuagent_store.checkpoint_agent WHERE id ~ '/';

-- rules, with the clock set
DELETE FROM gpuagent.checkpoint;
TRUNCATE gpuagent.checkpoint_item, gpuagent_store.checkpoint_agent;
DO $$
BEGIN
    FOR i IN 1..12 LOOP
        UPDATE gpuagent.agent SET generation = 100 + i, metadata = jsonb_build_object('x', repeat('y', 1000)) WHERE id = 'a1';
        PERFORM gpuagent.create_checkpoint('day ' || (i + 1) / 2 || CASE i % 2 WHEN 1 THEN ' early' ELSE ' late' END);
    END LOOP;
    UPDATE gpuagent.checkpoint k SET created_at = date_trunc('day', now(), 'UTC') - interval '132 hours' + interval '12 hours' * (n / 2 * 2 + 0.1 * (n % 2))
    FROM (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM gpuagent.checkpoint) r WHERE r.id = k.id;
END
$$;
SELECT label, action, reason FROM gpuagent.prune_checkpoints(keep_last => 2, dry_run => true);
SELECT label, action, reason FROM gpuagent.prune_checkpoints(keep_last => 1, keep_daily => 3, dry_run => true) WHERE action = 'keep';
UPDATE gpuagent.checkpoint SET created_at = created_at - date_trunc('day', now(), 'UTC') + now();
SELECT label, action, reason FROM gpuagent.prune_checkpoints(min_age => '36 hours', dry_run => true) WHERE action = 'keep';
SELECT action, reason, count(*) FROM gpuagent.prune_checkpoints(dry_run => true) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT action, reason, count(*) FROM gpuagent.prune_checkpoints(max_bytes => 1000000000, dry_run => true) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT action, reason, count(*) FROM gpuagent.prune_checkpoints(max_bytes => 0, dry_run => true) GROUP BY 1, 2 ORDER BY 1, 2;
-- to a number of bytes exactly: five versions of an agent less
SELECT gpuagent_store.stored_bytes() AS stored, (SELECT freed_bytes FROM gpuagent.prune_checkpoints(keep_last => 11, dry_run => true) WHERE action = 'remove') AS one \gset
SELECT action, reason, count(*), sum(freed_bytes) = 5 * :one AS freed FROM gpuagent.prune_checkpoints(max_bytes => :stored - 5 * :one, dry_run => true) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT action, reason, count(*), sum(freed_bytes) = 6 * :one AS freed FROM gpuagent.prune_checkpoints(max_bytes => :stored - 5 * :one - 1, keep_last => 12) GROUP BY 1, 2 ORDER BY 1, 2;
SELECT gpuagent_store.stored_bytes() = :stored - 6 * :one AS exact;
SELECT fails('SELECT gpuagent.prune_checkpoints(keep_last => -1)'), fails('SELECT gpuagent.prune_checkpoints(min_age => ''-1 day'')');

-- Property: whatever is made and removed in whatever order and scope, a survivor keeps its contents, and no row is
-- left that no survivor has.
CREATE TABLE made (id bigint, contents bytea);
DO $$
DECLARE
    c bigint;
    scopes text[] := '{NULL,"{agents:A/}","{agents:A/,swarm:s}","{agents,graphs}","{swarms,metrics}",NULL}';
BEGIN
    PERFORM setseed(0.42);
    INSERT INTO gpuagent.agent (id) SELECT 'A/x' || i FROM generate_series(1, 20) i;
    FOR round IN 1..150 LOOP
        CASE floor(random() * 12)
        WHEN 0 THEN UPDATE gpuagent.agent SET generation = round WHERE hashtext(id) % 7 = round % 7;
        WHEN 1 THEN DELETE FROM gpuagent.agent WHERE id = 'A/x' || round % 20;
        WHEN 2 THEN INSERT INTO gpuagent.agent (id, generation) VALUES ('A/x' || round % 20, round) ON CONFLICT DO NOTHING;
        WHEN 3 THEN INSERT INTO gpuagent.graph (graph) VALUES ('g') ON CONFLICT DO NOTHING;
            INSERT INTO gpuagent.graph_node (graph, id) VALUES ('g', 'n' || round);
            INSERT INTO gpuagent.graph_edge (graph, source, target) VALUES ('g', 'n' || round, 'n' || round);
        WHEN 4 THEN DELETE FROM gpuagent.graph_node WHERE right(id, 1) = right(round::text, 1);
        WHEN 5 THEN PERFORM gpuagent.store_swarm('s', format('[%s]', round % 5)::gpuagent.swarm_tensor);
        WHEN 6 THEN INSERT INTO gpuagent.run (run) VALUES ('r') ON CONFLICT DO NOTHING;
            INSERT INTO gpuagent.metric (run, key, value) VALUES ('r', 'k', round);
        WHEN 7 THEN
            FOR c IN SELECT k.id FROM gpuagent.checkpoint k ORDER BY random() LIMIT 1 LOOP
                PERFORM gpuagent.delete_checkpoint(c);
            END LOOP;
        WHEN 8 THEN
            IF random() < 0.3 THEN
                PERFORM gpuagent.prune_checkpoints(keep_last => 1 + floor(random() * 6)::bigint);
            ELSE
                PERFORM gpuagent.restore_checkpoint(k.id, verify => 'none') FROM gpuagent.checkpoint k ORDER BY random() LIMIT 1;
            END IF;
        ELSE
            PERFORM gpuagent.store_swarm('s', '[0]') WHERE NOT EXISTS (SELECT FROM gpuagent.swarm);
            c := gpuagent.create_checkpoint(objects => scopes[1 + floor(random() * 6)]::text[]);
            INSERT INTO made SELECT c, contents(c) WHERE NOT EXISTS (SELECT FROM made m WHERE m.id = c);
        END CASE;
        IF EXISTS (SELECT FROM made m JOIN gpuagent.checkpoint k USING (id) WHERE m.contents <> contents(k.id)) THEN
            RAISE EXCEPTION 'contents changed in round %', round;
        END IF;
    END LOOP;
END
$$;
SELECT count(*) > 20 AS made, count(k.id) > 2 AS survive FROM made m LEFT JOIN gpuagent.checkpoint k USING (id);
SELECT count(*) AS left_over FROM gpuagent_store.checkpoint_agent o WHERE NOT EXISTS (
    SELECT FROM gpuagent.checkpoint k WHERE o.from_seq <= k.id AND (o.to_seq IS NULL OR k.id < o.to_seq)
        AND gpuagent_store.object_covered(k.objects, 'agents:' || o.id));
SELECT count(*) AS left_over FROM gpuagent.checkpoint_item o WHERE NOT EXISTS (
    SELECT FROM gpuagent.checkpoint k WHERE o.from_seq <= k.id AND (o.to_seq IS NULL OR k.id < o.to_seq)
        AND gpuagent_store.object_covered(k.objects, o.object));
-- what a full checkpoint has is what is there
SELECT gpuagent.create_checkpoint('end') AS e \gset
SELECT count(*) FROM gpuagent.checkpoint_diff(:e);

-- a horizon of another cluster, as after a dump and restore, holds for nothing here; all is compared, nothing written
UPDATE gpuagent.checkpoint SET xid_source = 'elsewhere', horizon = '9000000000000000000';
UPDATE gpuagent.agent SET generation = generation;
SELECT gpuagent.create_checkpoint() = :e AS same;
UPDATE gpuagent.agent SET generation = 12345 WHERE id = 'A/1';
SELECT gpuagent.create_checkpoint('after a restore') AS f \gset
SELECT new_bytes > 0 AS found FROM gpuagent.checkpoint WHERE id = :f;
-- what was captured before counts of rows were kept is counted
UPDATE gpuagent.checkpoint SET agents = NULL, nodes = NULL, edges = NULL, metrics = NULL;
DELETE FROM gpuagent.agent WHERE id = 'A/1';
SELECT gpuagent.create_checkpoint('counted') AS n \gset
SELECT count(*) FROM gpuagent.checkpoint_diff(:n);
SELECT agents = (SELECT count(*) FROM gpuagent.agent) AS agents, metrics = (SELECT count(*) FROM gpuagent.metric) AS metrics FROM gpuagent.checkpoint WHERE id = :n;

-- imports: what is there is closed, the imported contents are open, and the next checkpoint compares everything
SELECT contents(:n) AS kept \gset
BEGIN;
SELECT gpuagent_store.begin_import('{agents}', '11111111-2222-3333-4444-555555555555', 'imported', NULL, NULL, NULL, '2020-01-01', NULL) AS i \gset
SELECT fails(format('SELECT gpuagent.restore_checkpoint(%s)', :i)) ~ '^55000.*is incomplete' AS incomplete;
INSERT INTO gpuagent_store.checkpoint_agent (id, from_seq, generation, metadata, version, created_at, updated_at)
    SELECT a.id, :i, a.generation, a.metadata, a.version, a.created_at, a.updated_at FROM gpuagent.agent a WHERE a.id NOT LIKE 'A/%';
INSERT INTO gpuagent_store.checkpoint_agent (id, from_seq, generation, metadata, version, created_at, updated_at)
    VALUES ('only there', :i, 1, '{}', 1, now(), now());
SELECT gpuagent_store.finish_import(:i);
COMMIT;
SELECT kind, status, objects, raw_bytes > 0 AS raw, created_at < '2020-01-03' AS created FROM gpuagent.checkpoint WHERE id = :i;
SELECT contents(:n) = :'kept'::bytea AS other_whole, count(*) FROM gpuagent.checkpoint_diff(:n, objects => '{swarms,graphs,experts,metrics}');
SELECT change, count(*) > 0 AS some FROM gpuagent.checkpoint_diff(:i) GROUP BY 1 ORDER BY 1;
SELECT gpuagent.create_checkpoint('after the import') AS m \gset
SELECT count(*) FROM gpuagent.checkpoint_diff(:m);
SELECT count(*) FROM gpuagent.checkpoint_diff(:n, :m);
SELECT count(*) AS rewritten FROM gpuagent_store.checkpoint_agent WHERE from_seq = :m AND id NOT LIKE 'A/%';
SELECT object, action, rows > 0 AS some FROM gpuagent.restore_checkpoint(:i) WHERE action <> 'keep' ORDER BY 1, 2;
SELECT count(*) FROM gpuagent.checkpoint_diff(:i);
SELECT fails(format('SELECT gpuagent_store.finish_import(%s)', :i)) ~ '^55000' AS once;
SELECT fails('SELECT gpuagent_store.begin_import(NULL, ''11111111-2222-3333-4444-555555555555'', NULL, NULL, NULL, NULL, NULL, NULL)');

-- differences
SELECT gpuagent.store_expert_config('net', learning_rate => 0.1), gpuagent.store_weights('net', 'l1', '[1,2]', '[3]'), gpuagent.store_weights('net', 'l2', '[1]');
SELECT gpuagent.store_swarm('pop', '[[1,2],[3,4]]');
DELETE FROM gpuagent.agent; DELETE FROM gpuagent.graph; DELETE FROM gpuagent.run; SELECT gpuagent.delete_swarm('s');
INSERT INTO gpuagent.agent (id, state) VALUES ('kept', '[1]'), ('changed', '[1]'), ('removed', '[1]');
INSERT INTO gpuagent.graph (graph) VALUES ('g');
INSERT INTO gpuagent.graph_node (graph, id, embedding) VALUES ('g', 'n1', '[1]'), ('g', 'n2', '[2]');
INSERT INTO gpuagent.graph_edge (graph, source, target, weight) VALUES ('g', 'n1', 'n2', 1);
INSERT INTO gpuagent.run (run) VALUES ('r');
SELECT gpuagent.create_checkpoint('a') AS a \gset
UPDATE gpuagent.agent SET state = '[2]' WHERE id = 'changed';
DELETE FROM gpuagent.agent WHERE id = 'removed';
INSERT INTO gpuagent.agent (id) VALUES ('added');
UPDATE gpuagent.graph_edge SET weight = 2;
UPDATE gpuagent.graph_node SET metadata = '{"k": 1}' WHERE id = 'n2';
SELECT gpuagent.store_weights('net', 'l1', '[1,2]', '[4]'), gpuagent.store_weights('net', 'l2', '[5]'), gpuagent.store_swarm('pop', '[[1,2],[3,4]]');
UPDATE gpuagent.expert SET learning_rate = 0.2;
INSERT INTO gpuagent.metric (run, key, value) VALUES ('r', 'loss', 1);
SELECT object, regexp_replace(part, '\d{2,}', 'N') AS part, change, a_hash IS NULL AS no_a, b_hash IS NULL AS no_b, a_hash = b_hash AS same, changed_bytes > 0 AS bytes
FROM gpuagent.checkpoint_diff(:a) WHERE part <> 'state';
SELECT d.part, d.a_hash = gpuagent.tensor_hash('[1]') AS a, d.b_hash = gpuagent.tensor_hash('[5]') AS b, d.changed_bytes >= 4 AS bytes FROM gpuagent.checkpoint_diff(:a, objects => '{expert:net}') d WHERE part = 'layer:l2';
SELECT gpuagent.create_checkpoint('b') AS b \gset
-- the present and a checkpoint of it are the same to a third; turned around, added and removed change places
SELECT count(*) FROM (SELECT * FROM gpuagent.checkpoint_diff(:a) EXCEPT SELECT * FROM gpuagent.checkpoint_diff(:a, :b)) d;
SELECT count(*) FROM gpuagent.checkpoint_diff(:a, :b) x FULL JOIN gpuagent.checkpoint_diff(:b, :a) y USING (object, part)
WHERE (x.change, x.a_hash, x.b_hash) IS DISTINCT FROM (CASE y.change WHEN 'added' THEN 'removed' WHEN 'removed' THEN 'added' ELSE 'changed' END, y.b_hash, y.a_hash);
-- of large tensors, the chunks that differ: of 70 MiB one row changed, then rows appended, then another height of the tree
SELECT gpuagent.store_swarm('big', (SELECT gpuagent.tensor('U8', '{70,1048576}', string_agg(decode(repeat(lpad(to_hex(i), 2, '0'), 1048576), 'hex'), '' ORDER BY i)) FROM generate_series(1, 70) i));
SELECT gpuagent.create_checkpoint('big', '{swarm:big}') AS g \gset
SELECT gpuagent.store_swarm_rows('big', 65, gpuagent.tensor('U8', '{1,1048576}', decode(repeat('ff', 1048576), 'hex')));
SELECT object, change, changed_bytes - length((SELECT body FROM gpuagent_store.live_items('{}', '{swarm:big}'))::text) AS tensor_bytes FROM gpuagent.checkpoint_diff(:g);
SELECT gpuagent.create_checkpoint('big', '{swarm:big}') AS g \gset
SELECT gpuagent.store_swarm_ref('big', gpuagent_store.append_tensor((SELECT tensor FROM gpuagent.swarm_version WHERE swarm = 'big' ORDER BY version DESC LIMIT 1), gpuagent.tensor('U8', '{2,1048576}', decode(repeat('ee', 2097152), 'hex'))));
SELECT change, changed_bytes - length((SELECT body FROM gpuagent_store.live_items('{}', '{swarm:big}'))::text) AS tensor_bytes FROM gpuagent.checkpoint_diff(:g);
SELECT gpuagent.store_swarm('big', '[1,2]');
SELECT change, changed_bytes - length((SELECT body FROM gpuagent_store.live_items('{}', '{swarm:big}'))::text) AS tensor_bytes FROM gpuagent.checkpoint_diff(:g);
SELECT part, change FROM gpuagent.checkpoint_diff(:a, :b, '{agents:ch}');
SELECT count(*) FROM gpuagent.checkpoint_diff(:a, :a);
SELECT gpuagent.create_checkpoint('s', '{swarms}') AS s, gpuagent.create_checkpoint('e', '{experts}') AS e \gset
SELECT regexp_replace(fails(format('SELECT * FROM gpuagent.checkpoint_diff(%s, %s)', :s, :e)), '\d{2,}', 'N', 'g');
SELECT regexp_replace(fails(format('SELECT * FROM gpuagent.checkpoint_diff(%s, %s, ''{agents}'')', :a, :e)), '\d{2,}', 'N', 'g');
SELECT fails('SELECT * FROM gpuagent.checkpoint_diff(987654)');
SELECT count(*) FROM gpuagent.checkpoint_diff(:s);

\c postgres
DROP DATABASE ga_retention;
