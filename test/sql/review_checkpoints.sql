-- Checkpoints: options that are NULL, and what older systems got wrong.
SET client_min_messages = warning;
BEGIN;
SELECT gpuagent.delete_agents(prefix => '') >= 0 AS emptied;
SELECT gpuagent.store_agents('{a,b}', '[[1,2],[3,4]]', '[[5],[6]]', metadata => '{"goal": "x"}'), gpuagent.create_checkpoint('first', '{agents}') > 0;
SELECT gpuagent.store_agent('a', '[7,8]'), gpuagent.create_checkpoint('second', '{agents}') > 0;
-- NULL options are those left out: a NULL dry run is none, a NULL safety is the default.
SELECT label, action FROM gpuagent.prune_checkpoints(keep_last => 1, dry_run => true) WHERE label IN ('first', 'second');
SELECT ids, states::real[] FROM gpuagent.retrieve_population(checkpoint => gpuagent.resolve_checkpoint('first'));
SELECT gpuagent.store_agent('a', '[9,9]');
SELECT object, action, rows FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('first'), '{agents}', safety => NULL);
SELECT kind, ids, states::real[] FROM gpuagent.checkpoint k, gpuagent.retrieve_population(checkpoint => k.id)
WHERE k.id = (SELECT max(id) FROM gpuagent.checkpoint);
SELECT label, action FROM gpuagent.prune_checkpoints(keep_last => 2, dry_run => NULL) WHERE label IN ('first', 'second') ORDER BY label;
-- What was to be removed is gone, row and contents; nothing is left half removed.
SELECT label FROM gpuagent.checkpoint WHERE label IN ('first', 'second');
SELECT public.error_of('SELECT gpuagent.resolve_checkpoint(''first'')');
SELECT count(*) FROM gpuagent_store.checkpoint_agent o WHERE NOT EXISTS (
    SELECT FROM gpuagent.checkpoint k WHERE k.id >= o.from_seq AND (o.to_seq IS NULL OR k.id < o.to_seq));
-- A dry run writes nothing, so that it works where nothing can be written.
SET TRANSACTION READ ONLY;
SELECT count(*) >= 0 AS dry FROM gpuagent.prune_checkpoints(keep_last => 1, dry_run => true);
SELECT count(*) > 0 AS dry FROM gpuagent.restore_checkpoint(dry_run => true);
ROLLBACK;

-- A checkpoint made within a second of another is another; prune takes the oldest by number, whatever the clock or the uuid says.
BEGIN;
SELECT count(gpuagent.delete_checkpoint(id)) >= 0 AS emptied FROM gpuagent.checkpoint;
SELECT count(DISTINCT gpuagent.create_checkpoint('burst ' || i)) FROM generate_series(1, 20) i;
UPDATE gpuagent.checkpoint SET created_at = now() - id * interval '1 day', uid = md5(id::text)::uuid;
SELECT count(*) FROM gpuagent.prune_checkpoints(keep_last => 3);
SELECT label FROM gpuagent.checkpoint ORDER BY id;
ROLLBACK;

-- A restored swarm is the swarm, not one of its size: values, shape, dtype, constant ones included; a shorter value leaves no old tail.
BEGIN;
SELECT gpuagent.store_swarm('s', (SELECT gpuagent.stack(format('[%s,%s,NaN]', i, -i / 3.0)::gpuagent.agent_state ORDER BY i) FROM generate_series(1, 1000) i)) > 0;
SELECT gpuagent.store_swarm('constant', gpuagent.tensor('F16', '{500,3}', decode(repeat('003c', 1500), 'hex'))) > 0;
SELECT gpuagent.store_weights('m', 'w', gpuagent.retrieve_swarm('s'), gpuagent.retrieve_swarm('constant')) > 0;
CREATE TEMP TABLE original AS SELECT gpuagent.retrieve_swarm('s') AS s, gpuagent.retrieve_swarm('constant') AS c;
SELECT gpuagent.create_checkpoint('whole', '{swarms,experts}') > 0;
SELECT gpuagent.store_swarm('s', '[[1,2,3]]') > 0, gpuagent.store_swarm('constant', gpuagent.tensor('F16', '{0,3}', '')) > 0, gpuagent.store_weights('m', 'w', '5') > 0;
SELECT gpuagent.retrieve_swarm('s')::real[], gpuagent.shape(gpuagent.retrieve_swarm('constant')), weights, biases FROM gpuagent.load_weights('m');
SELECT object, action, rows FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('whole'));
SELECT gpuagent.retrieve_swarm('s') = s AS s, gpuagent.retrieve_swarm('constant') = c AS constant, w.weights = s AS weights, w.biases = c AS biases
FROM original, gpuagent.load_weights('m') w;
ROLLBACK;

-- A version of an expert is whole or not there: layers that outlive a pruned version do not stand for it, nor do those that a
-- restore brings back for older ones.
SELECT gpuagent.store_weights('whole', 'a', '[1]'), gpuagent.store_weights('whole', 'b', '[1]');
SELECT gpuagent.store_weights('whole', 'a', '[2]');
SELECT gpuagent.store_weights('whole', 'a', '[3]');
SELECT v, ARRAY(SELECT layer || weights::real[]::text FROM gpuagent.load_weights('whole', version => v)) FROM generate_series(1, 3) v;
SELECT gpuagent.prune_weights('whole', 5), gpuagent.prune_weights('whole', 2);
SELECT v, ARRAY(SELECT layer || weights::real[]::text FROM gpuagent.load_weights('whole', version => v)) FROM generate_series(1, 3) v;
SELECT gpuagent.create_checkpoint('whole expert', '{expert:whole}') > 0, public.error_of($$SELECT gpuagent.safetensors_bytes('whole', 1)$$);
SELECT gpuagent.delete_expert('whole');
SELECT object, action, rows FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('whole expert'));
SELECT v, ARRAY(SELECT layer || weights::real[]::text FROM gpuagent.load_weights('whole', version => v)) FROM generate_series(1, 3) v;
SELECT gpuagent.store_weights('whole', 'b', '[4]'), gpuagent.prune_weights('whole', 2);
SELECT v, ARRAY(SELECT layer || weights::real[]::text FROM gpuagent.load_weights('whole', version => v)) FROM generate_series(2, 4) v;
SELECT gpuagent.delete_expert('whole'), gpuagent.delete_checkpoint(gpuagent.resolve_checkpoint('whole expert'));
