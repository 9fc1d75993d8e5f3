# Garbage collection by the maintenance worker: beside prepared transactions, crashes, dumps and standbys; what retention
# leaves is collected, as an independent count says; storage stays bounded under saves in a loop.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('collect', allows_streaming => 1, has_archiving => 0, conf =>
	"max_prepared_transactions = 5\nrestart_after_crash = on\ngpuagent.collect_interval = 0\ngpuagent.collect_grace = 0\nautovacuum_naptime = 1s\n");

# Content i: so many bytes that compression makes no smaller; and what must hold at any time.
$node->safe_psql('postgres', q{
	CREATE FUNCTION content(i bigint, n bigint DEFAULT 2097152) RETURNS gpuagent.swarm_tensor LANGUAGE sql AS $$
		SELECT gpuagent.tensor('U8', ARRAY[n], substring(string_agg(sha512(int8send(i * 1000000 + k)), '' ORDER BY k) FROM 1 FOR n::int))
		FROM generate_series(1, n / 64 + 1) k
	$$;
	CREATE VIEW store AS SELECT (SELECT count(*) FROM gpuagent_store.tensor) AS tensors, (SELECT count(*) FROM gpuagent_store.node) AS nodes,
		(SELECT count(*) FROM gpuagent_store.chunk) AS chunks, (SELECT count(*) FROM gpuagent_store.doomed) AS doomed;
	CREATE VIEW problems AS SELECT count(gpuagent_store.tensor_problem(t)) AS problems FROM (
		SELECT tensor AS t FROM gpuagent.swarm_version UNION SELECT tensor FROM gpuagent.checkpoint_item WHERE tensor IS NOT NULL
		UNION SELECT weights FROM gpuagent.weight_version WHERE weights IS NOT NULL) x;
	CREATE PROCEDURE steps(n int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. n LOOP
			PERFORM gpuagent.collect_garbage();
			COMMIT;
		END LOOP;
	END $$;
	-- Until a condition holds; others, autovacuum for one, may have to be waited for.
	CREATE PROCEDURE collect_until(condition text) LANGUAGE plpgsql AS $$
	DECLARE
		reached text;
		holds boolean;
	BEGIN
		FOR i IN 1 .. 10000 LOOP
			reached := (SELECT phase FROM gpuagent.collect_garbage());
			COMMIT;
			EXECUTE format('SELECT %s FROM store, (SELECT %L AS phase) p', condition, reached) INTO holds;
			EXIT WHEN holds;
			PERFORM pg_sleep(0.02) WHERE reached = 'waiting';
			COMMIT;
		END LOOP;
	END $$;
});

# The worker does it, by itself and only then.
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_swarm('a', content(1)); SELECT gpuagent.store_swarm('b', content(2)); SELECT gpuagent.delete_swarm('a')});
is_value($node, 'TABLE store', '2|2|4|0', 'nothing is deleted while collection is off');
$node->append_conf('postgresql.conf', "gpuagent.collect_interval = 1\n");
$node->reload;
ok($node->poll_query_until('postgres', q{SELECT s = '(1,1,2,0)' FROM (SELECT store::text AS s FROM store) x}), 'the worker collects');
is_value($node, 'TABLE problems', '0', 'and nothing else');
is_value($node, q{SELECT deleted_rows, deleted_bytes > 2000000, spared FROM gpuagent.stat_collection}, '4|t|0', 'and says so');

# An idle database is not searched.
ok($node->poll_query_until('postgres', q{SELECT phase = 'idle' FROM gpuagent.stat_collection}), 'it rests');
becomes_true(sub {
	my $look = q{SELECT marks, gpuagent_store.next_xid() FROM gpuagent_store.collection};
	my ($marks, $xid) = split /\|/, $node->safe_psql('postgres', $look);
	sleep 4;
	my ($more_marks, $more_xid) = split /\|/, $node->safe_psql('postgres', $look);
	return $more_marks == $marks && $more_xid - $xid <= 20;
}, 'an idle database is not searched, and hardly written to');

# A prepared transaction is a writer: it holds collection up, also across a restart.
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_swarm('c', content(3)); SELECT gpuagent.delete_swarm('c');
	BEGIN; SELECT gpuagent.store_swarm('d', content(3)); PREPARE TRANSACTION 'writer'});
ok($node->poll_query_until('postgres', q{SELECT phase = 'waiting' FROM gpuagent.stat_collection}), 'a prepared transaction is waited for');
$node->restart;
$node->safe_psql('postgres', 'CALL steps(5)');
is_value($node, 'SELECT tensors, chunks, doomed > 0 FROM store', '2|4|t', 'also after a restart');
$node->safe_psql('postgres', q{COMMIT PREPARED 'writer'});
ok($node->poll_query_until('postgres', q{SELECT doomed = 0 FROM store}), 'then it goes on');
is_value($node, 'SELECT * FROM store, problems', '2|2|4|0|0', 'what the writer referred to is spared');

# A crash at any step.
$node->safe_psql('postgres', q{ALTER SYSTEM SET gpuagent.collect_interval = 0; SELECT pg_reload_conf()});
$node->safe_psql('postgres', q{SELECT gpuagent.store_swarm('e', content(4, 3000000)); SELECT gpuagent.delete_swarm('e')});
for my $step (1 .. 5)
{
	my $session = $node->background_psql('postgres');
	$session->query_safe('BEGIN; SELECT gpuagent.collect_garbage()');
	$node->stop('immediate');
	$node->start;
	is_value($node, 'TABLE problems', '0', "a crash in step $step harms nothing");
	$node->safe_psql('postgres', 'CALL steps(1)');
	eval { $session->quit };
}
$node->safe_psql('postgres', q{CALL collect_until('phase = ''idle''')});
is_value($node, 'TABLE store', '2|2|4|0', 'and each step is taken after all');

# A dump in the middle: doomed in another database, it begins again there, and what is above what is gone is gone.
$node->safe_psql('postgres', q{SELECT gpuagent.store_swarm('f', content(5)); SELECT gpuagent.delete_swarm('f'); CALL collect_until('doomed > 0')});
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'dumped');
is_value($node, 'SELECT doomed > 0 FROM store', 't', 'in the middle of a collection');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-j2', '-d', $node->connstr('restored'), $dump ], 'restored');
is($node->safe_psql('restored', 'SELECT phase FROM gpuagent.collect_garbage()'), 'waiting', 'it begins again');
is($node->safe_psql('restored', 'SELECT count(*) FROM gpuagent_store.doom WHERE phase = \'doomed\' AND xid_source = gpuagent_store.xid_source()'), '1',
	'with what counts there');
$node->safe_psql('restored', q{CALL collect_until('phase = ''idle''')});
is($node->safe_psql('restored', 'SELECT * FROM store, problems'), '2|2|4|0|0', 'and ends');
$node->safe_psql('postgres', q{CALL collect_until('phase = ''idle''')});
is_value($node, 'SELECT * FROM store, problems', '2|2|4|0|0', 'as it does here');

# While pg_restore has not come to the keys, nothing is garbage.
$node->safe_psql('restored', q{ALTER TABLE gpuagent.checkpoint_item DROP CONSTRAINT checkpoint_item_pkey; DELETE FROM gpuagent.swarm});
is($node->safe_psql('restored', 'SELECT phase FROM gpuagent.collect_garbage()'), 'incomplete', 'tables without their keys are not complete');

# A standby reads what it has begun to read.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('collect_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1\n");
$standby->start;
$node->safe_psql('postgres', q{SELECT gpuagent.store_swarm('g', content(6))});
$node->wait_for_catchup($standby);
my $reader = $standby->background_psql('postgres');
$reader->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM gpuagent.swarm});
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_stat_replication WHERE backend_xmin IS NOT NULL'), 'it says what it reads');
$node->safe_psql('postgres', q{SELECT gpuagent.delete_swarm('g'); CALL steps(5)});
is_value($node, 'SELECT tensors FROM store', '3', 'a standby that gives feedback is waited for');
$node->wait_for_catchup($standby);
is($reader->query_safe(q{SELECT gpuagent.retrieve_swarm('g') OPERATOR(gpuagent.=) content(6)}), 't', 'and reads');
$reader->quit;
$standby->stop;
$node->safe_psql('postgres', 'SELECT pg_sleep(0.2); CALL steps(8)');

# Retention. gpu_agents pruned by sorting random UUIDs: which ones stay must follow the order of making alone.
$node->safe_psql('postgres', q{
	DELETE FROM gpuagent.swarm; DELETE FROM gpuagent.checkpoint;
	SELECT gpuagent.store_weights('x', 'w', content(i)), gpuagent.create_checkpoint('c' || i) FROM generate_series(10, 10) i});
$node->safe_psql('postgres', "SELECT gpuagent.store_weights('x', 'w', content($_)); SELECT gpuagent.create_checkpoint('c$_')") for 11 .. 17;
# As if a clock had been set back: order is that of id.
$node->safe_psql('postgres', q{UPDATE gpuagent.checkpoint SET created_at = now() - id * interval '1 day', uid = gen_random_uuid()});
$node->safe_psql('postgres', q{SELECT gpuagent.prune_weights('x', 1); SELECT gpuagent.set_checkpoint_alias('keep', gpuagent.resolve_checkpoint('c12'))});
$node->safe_psql('postgres', q{CALL collect_until('phase = ''idle''')});
is_value($node, 'SELECT tensors, chunks, problems FROM store, problems', '8|16|0', 'eight checkpoints of tensors of their own');
my $freed = $node->safe_psql('postgres', q{SELECT sum(freed_bytes) FROM gpuagent.prune_checkpoints(keep_last => 3)});
is_value($node, q{SELECT string_agg(label, ' ' ORDER BY id) FROM gpuagent.checkpoint}, 'c12 c15 c16 c17', 'pruned by order, aliases stay');
my $before = $node->safe_psql('postgres', q{SELECT sum(nbytes) FROM gpuagent_store.tensor});
$node->safe_psql('postgres', q{CALL collect_until('phase = ''idle''')});
my $after = $node->safe_psql('postgres', q{SELECT sum(nbytes) FROM gpuagent_store.tensor});
is_value($node, 'SELECT tensors, chunks, problems FROM store, problems', '4|8|0', 'their tensors are collected');
cmp_ok(abs($freed - ($before - $after)), '<', 10000, "freed_bytes is what collection frees ($freed, " . ($before - $after) . ')');
# fault-tolerance's checkpoints: the last valid one may not go, whatever the rules.
$node->safe_psql('postgres', q{UPDATE gpuagent.checkpoint SET status = 'damaged' WHERE label IN ('c17', 'c16')});
$node->safe_psql('postgres', q{SELECT gpuagent.set_checkpoint_alias('keep', NULL); SELECT * FROM gpuagent.prune_checkpoints(keep_last => 0, max_bytes => 0)});
is_value($node, q{SELECT string_agg(label, ' ') FROM gpuagent.checkpoint}, 'c15', 'the newest valid checkpoint stays');
$node->safe_psql('postgres', q{CALL collect_until('phase = ''idle''')});
is_value($node, q{SELECT status, problems FROM gpuagent.verify_integrity('full'), problems}, 'ok|0', 'and is whole after collection');

# LangGraph's delta channels: what is stored as a difference outlives whoever had its base.
$node->safe_psql('postgres', q{
	INSERT INTO gpuagent.swarm (swarm, keep_versions) VALUES ('delta', 1);
	SELECT gpuagent.store_swarm('delta', content(30))});
$node->safe_psql('postgres', "SELECT gpuagent.store_swarm_rows('delta', 5, gpuagent.tensor('U8', '{3}', 'x$_'::bytea || 'y'))") for 1 .. 3;
is_value($node, 'SELECT count(*) > 0 FROM gpuagent_store.chunk_delta', 't', 'stored as deltas');
$node->safe_psql('postgres', q{CALL collect_until('phase = ''idle''')});
is_value($node, q{SELECT count(*), (SELECT count(*) FROM gpuagent_store.chunk_delta), problems FROM gpuagent.swarm_version v, problems WHERE v.swarm = 'delta' GROUP BY problems},
	'1|1|0', 'the base of what is left stays, earlier deltas go');

# Storage under saves in a loop, with everything as it comes: worker, autovacuum, retention.
my $saves = $ENV{GA_TEST_LONG} ? 3000 : 300;
$node->safe_psql('postgres', q{DELETE FROM gpuagent.swarm; DELETE FROM gpuagent.expert; DELETE FROM gpuagent.checkpoint;
	ALTER SYSTEM SET gpuagent.collect_interval = 1; ALTER SYSTEM SET autovacuum_vacuum_cost_delay = 0; SELECT pg_reload_conf()});
sub size { return $node->safe_psql('postgres', q{SELECT sum(pg_total_relation_size('gpuagent_store.' || t))::bigint / 1048576
	FROM unnest('{chunk,chunk_delta,node,tensor}'::text[]) t}) }
# A loop that is faster than autovacuum would measure that: after each hundred it may catch up.
my $caught_up = q{SELECT (SELECT count(*) <= 6 FROM gpuagent_store.tensor) AND (SELECT n_dead_tup < 3000 FROM pg_stat_all_tables
	WHERE relid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'gpuagent_store.chunk'::regclass))};
my @sizes;
for my $i (1 .. $saves / 100)
{
	$node->safe_psql('postgres', qq{
		CREATE PROCEDURE pg_temp.save() LANGUAGE plpgsql AS \$\$
		BEGIN
			FOR k IN 1 .. 100 LOOP
				PERFORM gpuagent.store_weights('loop', 'w', content($i * 1000 + k, 400000));
				PERFORM gpuagent.prune_weights('loop', 1);
				PERFORM gpuagent.create_checkpoint();
				PERFORM count(*) FROM gpuagent.prune_checkpoints(keep_last => 5);
				COMMIT;
			END LOOP;
		END \$\$;
		CALL pg_temp.save()});
	ok($node->poll_query_until('postgres', $caught_up), "collection and autovacuum catch up after " . 100 * $i . ' saves');
	push @sizes, size();
}
note("MiB after each 100 saves of 0.4 MiB: @sizes");
cmp_ok($sizes[-1], '<', 2 * $sizes[0] + 10, 'storage stays bounded');
ok($node->poll_query_until('postgres', q{SELECT count(*) <= 6 FROM gpuagent_store.tensor}), 'what is left is what is kept');
is_value($node, 'TABLE problems', '0', 'and whole');

done_testing();
