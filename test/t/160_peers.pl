# Peers: facts cross between nodes, conflicting writes converge to the same values everywhere, also when a node is killed
# in the middle; nodes with data join; what a rollback or drop_peer() leaves on the peer: nothing.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = "wal_level = logical\nmax_worker_processes = 24\nmax_logical_replication_workers = 8\nmax_wal_senders = 16\n"
	. "max_replication_slots = 16\nwal_retrieve_retry_interval = 200ms\ngpuagent.peer_sync_interval = 1s\ngpuagent.prune_interval = 0\nrestart_after_crash = on\n";
my @nodes = map { new_node($_, conf => $conf) } qw(a b c);
my ($a, $b, $c) = @nodes;

sub conninfo { return $_[0]->connstr('postgres') . ' user=' . (getpwuid($<))[0]; }

sub add_peer
{
	my ($node, $other) = @_;
	return $node->safe_psql('postgres', sprintf("SELECT gpuagent.add_peer('%s', \$\$%s\$\$)", $other->name, conninfo($other)));
}

# Until all that these nodes have committed is on all of them, and in their tables.
sub in_step
{
	my ($name, @these) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $timeout = $PostgreSQL::Test::Utils::timeout_default;
	my $good = 1;
	foreach my $round (1 .. 2)
	{
		$good &&= $_->safe_psql('postgres', "SELECT gpuagent.wait_for_sync(timeout => '$timeout s')") eq 't' foreach @these;
	}
	# What a session had locked when facts were followed is tried again by the worker.
	$good &&= wait_until(sub { $_->safe_psql('postgres', 'SELECT gpuagent_store.follow_peers(); SELECT count(*) FROM gpuagent_store.waiting') eq "0\n0" })
		foreach @these;
	return ok($good, $name);
}

# What has to be equal: facts and contents; heads and winners; values, without what each node counts by itself.
my %equal = (
	facts => q{SELECT origin, seq, hlc, class, object, part, deleted, version, fitness, parents, body, parts FROM gpuagent_store.change},
	contents => q{SELECT DISTINCT hash, origin, kind, nbytes, dtype, shape, md5(data) FROM gpuagent_store.payload},
	heads => q{SELECT * FROM gpuagent_store.head},
	conflicts => q{SELECT * FROM gpuagent.conflict},
	agents => q{SELECT id, gpuagent.tensor_bytes(state), gpuagent.shape(state), gpuagent.tensor_bytes(memory), generation, fitness, metadata FROM gpuagent.agent},
	experts => q{SELECT expert, domain, parameter_count, learning_rate, architecture, metadata FROM gpuagent.expert},
	weights => q{SELECT e.expert, l.layer, gpuagent.tensor_hash(l.weights), gpuagent.tensor_hash(l.biases) FROM gpuagent.expert e, gpuagent.load_weights(e.expert) l},
);

sub are_equal
{
	my ($name, @these) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	foreach my $what (sort keys %equal)
	{
		my @found = map { $_->safe_psql('postgres', "SELECT r::text FROM ($equal{$what}) r ORDER BY r::text COLLATE \"C\"") } @these;
		is($found[$_], $found[0], "$name: $what of $these[$_]->{_name} are those of the first") foreach 1 .. $#found;
	}
	return;
}

# Nobody pays for what he does not use.
is_value($a, q{SELECT count(*) FROM pg_trigger WHERE tgfoid = 'gpuagent_store.publish()'::regprocedure}, '0', 'without peers there are no triggers');
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('early', '[1,2]', fitness => 3, metadata => '{"of": "a"}')});
is_value($a, q{SELECT count(*) FROM gpuagent_store.change}, '0', 'and no facts');

# Both have data, some of it under the same keys.
$b->safe_psql('postgres', q{SELECT gpuagent.store_agent('early', '[3]', memory => 'F64:[0.1,-0,NaN]', metadata => '{"of": "b"}')});
$a->safe_psql('postgres', q{
	SELECT gpuagent.store_expert_config('e', 'words', 1000, 0.1, '{"layers": 2}', '{"x": 1}'), gpuagent.store_weights('e', 'w', '[[1,2],[3,4]]', '[0.5]');
	SELECT gpuagent.store_weights('big', 'w', gpuagent.tensor('U8', '{5000000}', convert_to(repeat('0123456789', 500000), 'UTF8')))});
$b->safe_psql('postgres', q{SELECT gpuagent.store_weights('e', 'v', '7'), gpuagent.store_weights('empty', 'w', gpuagent.tensor('F32', '{0,3}', ''))});

# What a rollback leaves.
$a->safe_psql('postgres', sprintf(q{BEGIN; SELECT gpuagent.add_peer('b', $$%s$$); ROLLBACK}, conninfo($b)));
is_value($b, 'SELECT count(*) FROM pg_replication_slots', '0', 'a rollback of add_peer leaves no slot on the peer');
is_value($a, 'SELECT (SELECT count(*) FROM pg_subscription) + (SELECT count(*) FROM gpuagent.peer) + (SELECT count(*) FROM gpuagent_store.site)',
	'0', 'and nothing here');
fails_with($a, q{SELECT gpuagent.add_peer('x', 'host=/nowhere dbname=postgres')}, '08001', 'nobody there');
fails_with($a, sprintf(q{SELECT gpuagent.add_peer('self', $$%s$$)}, conninfo($a)), '22023', 'a node is not its own peer');
fails_with($a, q{SELECT gpuagent.set_conflict_strategy('agent', 'highest_fitness')}, '55000', 'no strategy without peers');
fails_with($a, q{SELECT gpuagent.drop_peer('b')}, '42704', 'no such peer');
fails_with($a, q{BEGIN; SELECT gpuagent.add_peer('b', NULL)}, '22004', 'no connection');

add_peer($a, $b);
# With lost commits a crash would leave a copy that waits for a slot that is gone.
is_value($a, q{SELECT subsynccommit FROM pg_subscription}, 'local', 'what a copy says of itself is flushed');
fails_with($a, sprintf(q{SELECT gpuagent.add_peer('again', $$%s$$)}, conninfo($b)), '42710', 'a node is a peer once');
add_peer($b, $a);
in_step('two nodes with data are in step', $a, $b);
are_equal('join', $a, $b);
is_value($a, q{SELECT metadata ->> 'of', md5(gpuagent.tensor_bytes(memory)) = (SELECT md5(gpuagent.tensor_bytes('F64:[0.1,-0,NaN]'::gpuagent.agent_state)))
	FROM gpuagent.agent WHERE id = 'early'}, 'b|t', 'what was written later is the value, to the last bit');
is_value($a, q{SELECT class, object, heads FROM gpuagent.conflict}, 'agent|early|2', 'and a conflict it was');
is_value($b, q{SELECT md5(gpuagent.tensor_bytes(weights)) = md5(repeat('0123456789', 500000)), version FROM gpuagent.load_weights('big')}, 't|1', 'a tensor of several chunks crossed');
is_value($b, q{SELECT domain, parameter_count, learning_rate, architecture, metadata FROM gpuagent.expert WHERE expert = 'e'}, 'words|1000|0.1|{"layers": 2}|{"x": 1}', 'and a configuration');
is_value($b, q{SELECT count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor}, '0', 'all of it with its hashes');

# One changed chunk, under new roots; a version is one version there, too.
my $contents = q{SELECT string_agg(kind || ' ' || n, ', ' ORDER BY kind) FROM (SELECT kind, count(*) AS n FROM gpuagent_store.payload GROUP BY kind) k};
is_value($b, $contents, 'chunk 8, node 1, tensor 5', 'contents of all tensors');
$b->safe_psql('postgres', q{
	BEGIN;
	SELECT gpuagent.store_weights('big', 'w', gpuagent.tensor('U8', '{5000000}', convert_to(repeat('0123456789', 499999) || 'abcdefghij', 'UTF8')));
	SELECT gpuagent.store_weights('big', 'n', '[8]', '[9]');
	COMMIT});
in_step('the next version', $a, $b);
are_equal('next version', $a, $b);
is_value($a, q{SELECT layer, version FROM gpuagent.load_weights('big')}, "n|2\nw|2", 'layers of one transaction are one version');
is_value($a, q{SELECT version FROM gpuagent.expert WHERE expert = 'big'}, '2', 'with the number that its writer gave it');
is_value($a, q{SELECT count(*) FROM gpuagent.conflict WHERE class = 'weight'}, '0', 'who writes over what he knows is in no conflict');

# Pruning is no news, deleting is.
$a->safe_psql('postgres', q{SELECT gpuagent.prune_weights('big', 1), gpuagent.delete_weights('e', 'v'), gpuagent.delete_agent('early')});
$b->safe_psql('postgres', q{SELECT gpuagent.store_agent('late', generation => 4)});
in_step('deleted', $a, $b);
are_equal('deleted', $a, $b);
is_value($b, q{SELECT (SELECT string_agg(id, ' ') FROM gpuagent.agent), (SELECT string_agg(layer, ' ') FROM gpuagent.load_weights('e')),
	(SELECT count(*) FROM gpuagent.load_weights('big', version => 1)), (SELECT count(*) FROM gpuagent.conflict)}, 'late|w|1|0', 'deleted there, too, and not pruned');
$b->safe_psql('postgres', q{SELECT gpuagent.delete_expert('big')});
in_step('an expert is deleted', $a, $b);
are_equal('expert deleted', $a, $b);
is_value($a, q{SELECT string_agg(expert, ' ' ORDER BY expert) FROM gpuagent.expert}, 'e empty', 'an expert goes with its layers');

# Who may write publishes; peers are for superusers.
$a->safe_psql('postgres', q{CREATE ROLE writer LOGIN; SELECT gpuagent.grant_access('writer', 'write')});
$a->safe_psql('postgres', q{SET ROLE writer; SET search_path = ''; SET extra_float_digits = -10;
	SELECT gpuagent.store_expert_config('e', learning_rate => 0.123456789012345678), gpuagent.store_weights('e', 'x', '[1]'), gpuagent.store_agent('writer', '[1]')});
fails_with($a, q{SET ROLE writer; SELECT gpuagent.add_peer('z', 'host=/nowhere')}, '42501', 'a writer adds no peer');
fails_with($a, q{SET ROLE writer; INSERT INTO gpuagent_store.change (origin, seq, hlc, class, object) VALUES (gen_random_uuid(), 1, 1, 'agent', 'x')}, '42501', 'nor a fact');
in_step('a writer', $a, $b);
are_equal('writer', $a, $b);

# Many rows at once, and any SQL: renamed, copied, restored.
$a->safe_psql('postgres', q{
	SELECT gpuagent.store_agents(ARRAY(SELECT 'many' || i FROM generate_series(1, 2000) i), gpuagent.tensor('F32', '{2000,2}', decode(repeat('0000803f00000040', 2000), 'hex')), generation => 1);
	SELECT gpuagent.create_checkpoint('before');
	SELECT gpuagent.store_agents(ARRAY(SELECT 'many' || i FROM generate_series(1, 2000) i), fitness => ARRAY(SELECT i::float8 FROM generate_series(1, 2000) i));
	UPDATE gpuagent.agent SET id = 'renamed' WHERE id = 'many7';
	COPY gpuagent.agent (id, fitness) FROM PROGRAM 'echo copied,-Infinity' (FORMAT csv);
	DELETE FROM gpuagent.agent WHERE id LIKE 'many1%'});
in_step('many rows', $a, $b);
are_equal('many rows', $a, $b);
is_value($b, q{SELECT count(*), sum(fitness) FILTER (WHERE id LIKE 'many%') = (SELECT sum(i) FROM generate_series(1, 2000) i WHERE i::text NOT LIKE '1%' AND i <> 7),
	count(*) FILTER (WHERE id IN ('renamed', 'copied')), count(*) FILTER (WHERE id = 'many7') FROM gpuagent.agent WHERE id <> 'late' AND id <> 'writer'},
	'890|t|2|0', 'they are there');
$a->safe_psql('postgres', q{SELECT * FROM gpuagent.restore_checkpoint((SELECT id FROM gpuagent.checkpoint WHERE label = 'before'))});
in_step('a restore', $a, $b);
are_equal('restore', $a, $b);
is_value($b, q{SELECT count(*) FROM gpuagent.agent WHERE id LIKE 'many%' AND fitness IS NULL}, '2000', 'a restore is a write like others');

# What the table refuses waits, and so does what a session has locked; the rest goes on.
$b->safe_psql('postgres', q{ALTER TABLE gpuagent.agent ADD CONSTRAINT mine CHECK (generation <> 77)});
my $holder = IPC::Run::start([ 'psql', '-XAtq', '-h', $b->host, '-p', $b->port, 'postgres' ], '<', \my $holder_in, '>', \my $holder_out);
$holder_in = "BEGIN; SELECT 'held' FROM gpuagent.agent WHERE id = 'many2' FOR UPDATE;\n";
$holder->pump until $holder_out =~ /held/;
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('many3', generation => 77), gpuagent.store_agent('many2', generation => 5), gpuagent.store_agent('many4', generation => 6)});
ok($a->safe_psql('postgres', 'SELECT gpuagent.wait_for_sync()') eq 't', 'facts arrive');
becomes_true(sub { $b->safe_psql('postgres', q{SELECT generation FROM gpuagent.agent WHERE id = 'many4'}) eq '6' }, 'one that nobody holds is followed');
is_value($b, q{SELECT string_agg(object || ': ' || problem, ', ' ORDER BY object) FROM gpuagent_store.waiting},
	'many2: a session has the row locked, many3: new row for relation "agent" violates check constraint "mine"', 'the others wait');
is_value($b, q{SELECT waiting FROM gpuagent.stat_peer}, '2', 'which is shown');
$holder_in = "COMMIT;\n\\q\n";
$holder->finish;
$b->safe_psql('postgres', q{ALTER TABLE gpuagent.agent DROP CONSTRAINT mine});
in_step('after waiting', $a, $b);
are_equal('after waiting', $a, $b);

# A class that is off is not published; facts of classes that nobody knows, and broken ones, do no harm.
$a->safe_psql('postgres', q{ALTER SYSTEM SET gpuagent.enable_config_sync = off; SELECT pg_reload_conf()});
wait_until(sub { $a->safe_psql('postgres', 'SHOW gpuagent.enable_config_sync') eq 'off' });
$a->safe_psql('postgres', q{SELECT gpuagent.store_expert_config('e', 'private')});
$a->safe_psql('postgres', q{INSERT INTO gpuagent_store.change (origin, seq, hlc, class, object, body, parts) SELECT gpuagent_store.this_node(), -i, 1, c, 'x', b, p
	FROM (VALUES (1, 'future', '{}'::jsonb, NULL), (2, 'agent', '[]', '{}'), (3, 'weight', '{}', ARRAY['\\x00'::bytea, NULL]), (4, 'config', '{"parameter_count": "x"}', NULL)) v(i, c, b, p)});
ok($a->safe_psql('postgres', 'SELECT gpuagent.wait_for_sync()') eq 't' && $b->safe_psql('postgres', 'SELECT gpuagent.wait_for_sync()') eq 't', 'broken facts arrive');
is_value($b, q{SELECT string_agg(class, ' ' ORDER BY class) FROM gpuagent_store.waiting}, 'agent config weight', 'and wait for ever');
is_value($b, q{SELECT domain, (SELECT count(*) FROM gpuagent.agent WHERE id = 'x') FROM gpuagent.expert WHERE expert = 'e'}, 'words|0', 'without harm; what is off stays at home');
$a->safe_psql('postgres', q{ALTER SYSTEM RESET gpuagent.enable_config_sync; SELECT pg_reload_conf()});
wait_until(sub { $a->safe_psql('postgres', 'SHOW gpuagent.enable_config_sync') eq 'on' });
$a->safe_psql('postgres', q{SELECT gpuagent.store_expert_config('e', 'public')});
foreach my $node ($a, $b)
{
	$node->safe_psql('postgres', q{DELETE FROM gpuagent_store.change WHERE seq < 0; DELETE FROM gpuagent_store.head WHERE seq < 0; DELETE FROM gpuagent_store.waiting});
}
in_step('and on again', $a, $b);
are_equal('on again', $a, $b);

# Contents may arrive while they are taken up: all of them is there then, or not yet.
$a->safe_psql('postgres', 'CREATE DATABASE race');
$a->safe_psql('race', q{CREATE EXTENSION gpuagent; SELECT gpuagent.setup()});
$a->safe_psql('race', q{
	SELECT gpuagent.store_weights('r', 'layer' || i, ('[' || i || ']')::gpuagent.swarm_tensor) FROM generate_series(1, 300) i;
	CREATE TABLE stage AS SELECT row_number() OVER () AS n, t.hash, t.dtype, t.shape, t.nbytes, t.root, gpuagent_store.chunk_bytes(t.root) AS data FROM gpuagent_store.tensor t;
	TRUNCATE gpuagent_store.tensor, gpuagent_store.chunk, gpuagent.weight_version});
my $sender = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-h', $a->host, '-p', $a->port, '-d', 'race', '-c', q{
	DO $$BEGIN
		FOR i IN 1 .. 300 LOOP
			INSERT INTO gpuagent_store.payload (hash, origin, kind, nbytes, dtype, shape, data)
				SELECT root, gen_random_uuid(), 'chunk', nbytes, dtype, NULL, data FROM stage WHERE n = i
				UNION ALL SELECT hash, gen_random_uuid(), 'tensor', nbytes, dtype, shape, root FROM stage WHERE n = i;
			COMMIT;
			PERFORM pg_sleep(0.004 * random());
		END LOOP;
	END$$} ]);
$a->safe_psql('race', q{
	DO $$BEGIN
		FOR i IN 1 .. 300 LOOP
			WHILE NOT (SELECT gpuagent_store.take_up(hash) FROM stage WHERE n = i) LOOP END LOOP;
		END LOOP;
	END$$});
$sender->finish;
is($a->safe_psql('race', q{SELECT count(*), count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor}), '300|0', 'what was taken up while it arrived is whole');
$a->safe_psql('postgres', 'DROP DATABASE race');

# A third node with data of its own joins under load, all write the same keys, and one dies.
$c->safe_psql('postgres', q{SELECT gpuagent.store_agent('of c', '[1]'), gpuagent.store_agent('late', generation => 9), gpuagent.store_weights('e', 'c', '[1,2]')});
my $script = $PostgreSQL::Test::Utils::tmp_check . '/conflicts.sql';
append_to_file($script, q{
	\set k random(1, 6)
	\set f random(1, 1000)
	\set d random(1, 10)
	BEGIN;
	SELECT gpuagent.store_agent('k' || :k, ('[' || :f || ']')::gpuagent.agent_state, fitness => :f, metadata => jsonb_build_object('f', :f));
	SELECT gpuagent.delete_agent('k' || (:k + 1)) WHERE :d = 1;
	COMMIT;
	BEGIN;
	SELECT gpuagent.store_weights('shared', 'one', ('[' || :f || ',1]')::gpuagent.swarm_tensor);
	SELECT gpuagent.store_weights('shared', 'two', ('[' || :f || ',2]')::gpuagent.swarm_tensor);
	COMMIT;
	SELECT gpuagent.store_expert_config('shared', 'd' || :f);
});
my %load;
foreach my $node (@nodes)
{
	my $out = '';
	$load{ $node->name } = {
		out => \$out,
		run => IPC::Run::start([ 'pgbench', '-n', '-c', '2', '-t', '60', '--max-tries=100', '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
			'>', \$out, '2>&1')
	};
}
add_peer($c, $a);
add_peer($a, $c);
add_peer($b, $c);
# A kill of one process is a crash of all of them; then the whole node goes, without a checkpoint.
kill_and_recover($b, $b->safe_psql('postgres', q{SELECT pid FROM pg_stat_subscription WHERE relid IS NULL AND pid IS NOT NULL LIMIT 1})
	|| $b->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'}));
$b->stop('immediate');
$b->start;
add_peer($c, $b);
foreach my $name (sort keys %load)
{
	$load{$name}{run}->finish;
	next if $name eq 'b';
	like(${ $load{$name}{out} }, qr/transactions actually processed: 120\/120/, "$name has done its writes");
}
in_step('three nodes', @nodes);
are_equal('conflicts', @nodes);
isnt($a->safe_psql('postgres', 'SELECT count(*) FROM gpuagent.conflict'), '0', 'there are conflicts');
is_value($_, q{SELECT count(DISTINCT gpuagent.element(weights, 1)) FROM gpuagent.load_weights('shared')}, '1', 'the layers of one transaction won together') foreach @nodes;
is_value($_, q{SELECT COALESCE(sum(apply_errors), 0) FROM gpuagent.stat_peer WHERE state NOT IN ('active', 'late')}, '0', 'all peers are there') foreach @nodes;
is_value($_, q{SELECT count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor}, '0', 'all contents have their hashes') foreach @nodes;

# A strategy is one for all nodes; resolving is a write.
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('k1', fitness => 5)});
in_step('before the split', @nodes);
$_->safe_psql('postgres', 'ALTER SUBSCRIPTION ' . $_->safe_psql('postgres', "SELECT subscription FROM gpuagent.peer WHERE peer = 'a'") . ' DISABLE') foreach ($b, $c);
$a->safe_psql('postgres', q{ALTER SUBSCRIPTION } . $a->safe_psql('postgres', "SELECT subscription FROM gpuagent.peer WHERE peer = 'b'") . ' DISABLE');
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('k1', fitness => 90)});
$b->safe_psql('postgres', q{SELECT gpuagent.store_agent('k1', fitness => 10)});
$_->safe_psql('postgres', 'ALTER SUBSCRIPTION ' . $_->safe_psql('postgres', "SELECT subscription FROM gpuagent.peer WHERE peer = 'a'") . ' ENABLE') foreach ($b, $c);
$a->safe_psql('postgres', q{ALTER SUBSCRIPTION } . $a->safe_psql('postgres', "SELECT subscription FROM gpuagent.peer WHERE peer = 'b'") . ' ENABLE');
in_step('after the split', @nodes);
are_equal('split', @nodes);
is_value($_, q{SELECT fitness FROM gpuagent.agent WHERE id = 'k1'}, '10', 'the later write is the value') foreach @nodes;
$b->safe_psql('postgres', q{SELECT gpuagent.set_conflict_strategy('agent', 'highest_fitness')});
in_step('a strategy', @nodes);
are_equal('strategy', @nodes);
is_value($_, q{SELECT fitness, (SELECT strategy FROM gpuagent.conflict WHERE object = 'k1') FROM gpuagent.agent WHERE id = 'k1'}, '90|highest_fitness', 'the fittest is the value') foreach @nodes;
$c->safe_psql('postgres', q{SELECT gpuagent.resolve_conflict(h.origin, h.seq) FROM gpuagent_store.head h JOIN gpuagent_store.change c USING (origin, seq) WHERE h.object = 'k1' AND c.fitness = 10});
in_step('resolved', @nodes);
are_equal('resolved', @nodes);
is_value($_, q{SELECT fitness, (SELECT count(*) FROM gpuagent.conflict WHERE object = 'k1') FROM gpuagent.agent WHERE id = 'k1'}, '10|0', 'resolved') foreach @nodes;

# A link that is made again brings everything again, and nothing twice.
$b->safe_psql('postgres', q{SELECT gpuagent.drop_peer('a')});
is_value($a, qq{SELECT count(*) FROM pg_replication_slots s WHERE s.slot_name = gpuagent_store.link_name('@{[$b->safe_psql('postgres', 'SELECT gpuagent_store.this_node()')]}', gpuagent_store.this_node())},
	'0', 'drop_peer leaves no slot');
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('between', '[1]')});
add_peer($b, $a);
in_step('linked again', @nodes);
are_equal('linked again', @nodes);

# A copy is no node.
$c->safe_psql('postgres', 'CREATE DATABASE copy');
$c->safe_psql('copy', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
$c->safe_psql('postgres', 'SELECT 1');
is($c->safe_psql('copy', q{SELECT gpuagent_store.this_node() IS NULL;
	INSERT INTO gpuagent_store.site (origin, system_identifier, database, files) VALUES (gen_random_uuid(), 1, 2, 'x');
	SELECT gpuagent_store.this_node() IS NULL}), "t\nt", 'a node of another server or database is none');

# A peer that is gone, and then all.
$c->stop('fast');
fails_with($a, q{SELECT gpuagent.drop_peer('c')}, '08001', 'a peer that cannot be reached is not dropped');
is_value($a, q{SELECT count(*) FROM gpuagent.peer}, '2', 'and is still a peer');
my ($rc, $stdout, $stderr) = $a->psql('postgres', q{SELECT gpuagent.drop_peer('c', force => true)});
like($stderr, qr/WARNING:  slot "gpuagent_\w+" may be left on the peer/, 'unless it is forced');
$c->start;
$c->safe_psql('postgres', q{SELECT gpuagent.drop_peer('a'), gpuagent.drop_peer('b')});
$a->safe_psql('postgres', q{SELECT gpuagent.drop_peer('b')});
$b->safe_psql('postgres', q{SELECT gpuagent.drop_peer('a'), gpuagent.drop_peer('c')});
is_value($_, 'SELECT count(*) FROM pg_subscription', '0', 'no subscription is left') foreach @nodes;
is_value($_, 'SELECT count(*) FROM pg_replication_slots', '0', 'no slot is left') foreach ($a, $b);
is_value($c, 'SELECT count(*) FROM pg_replication_slots', '1', 'but the one that was told of');
is_value($_, q{SELECT (SELECT count(*) FROM pg_trigger WHERE tgfoid = 'gpuagent_store.publish()'::regprocedure) + (SELECT count(*) FROM gpuagent_store.change)
	+ (SELECT count(*) FROM pg_publication)}, '0', 'who has no peer left is no node') foreach ($a, $b);
is_value($a, q{SELECT fitness FROM gpuagent.agent WHERE id = 'k1'}, '10', 'what has come stays');

done_testing();
