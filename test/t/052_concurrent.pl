# Sessions that store, delete, checkpoint, restore and prune at once, each call a transaction: no call fails but by a
# deadlock that is gone when it is tried again, and in the end every checkpoint that is left is whole.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('concurrent', conf => "fsync = off\ndeadlock_timeout = 100ms\nmax_connections = 20\n");
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_agents('{a/0}', '[[0,0]]'), gpuagent.create_checkpoint('first'), gpuagent.set_checkpoint_alias('first', 1);
	CREATE FUNCTION matrix(n bigint) RETURNS gpuagent.swarm_tensor LANGUAGE sql
		AS $$ SELECT gpuagent.stack(format('[%s,%s]', i, random())::gpuagent.agent_state) FROM generate_series(1, n) i $$;
	CREATE FUNCTION some_ids(n bigint) RETURNS text[] LANGUAGE sql
		AS $$ SELECT array_agg('a/' || i) FROM (SELECT i FROM generate_series(1, 40) i ORDER BY random() LIMIT n) x $$;
});

# What a session does, one of them at a time.
my @calls = (
	q{SELECT gpuagent.store_agents(some_ids(20), matrix(20), fitness => array_fill(random(), '{20}'))},
	q{SELECT gpuagent.store_agents(some_ids(5), matrix(5))},
	q{SELECT gpuagent.store_agent('a/:n', '[1,2]')},
	q{SELECT gpuagent.delete_agents(some_ids(5))},
	q{SELECT gpuagent.store_swarm('s:n', matrix(5))},
	q{SELECT gpuagent.append_swarm('t:n', matrix(2))},
	q{SELECT gpuagent.delete_swarm('s:n')},
	q{SELECT gpuagent.store_weights('e:n', 'w', matrix(2), matrix(1))},
	q{SELECT gpuagent.delete_weights('e:n')},
	q{SELECT gpuagent.delete_expert('e:n')},
	q{SELECT * FROM gpuagent.store_knowledge_graph('g:n', '{"nodes": [{"id": "x"}, {"id": "y:n"}], "edges": [{"source": "x", "target": "y:n"}]}')},
	q{SELECT gpuagent.delete_nodes('g:n', '{x}')},
	q{SELECT gpuagent.delete_knowledge_graph('g:n')},
	q{SELECT gpuagent.store_metrics('r:n', '{"loss": 1}')},
	q{SELECT gpuagent.create_checkpoint()},
	q{SELECT gpuagent.create_checkpoint(objects => '{agents:a/1,swarms,metrics}')},
	q{SELECT * FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('@first'), verify => 'quick')},
	q{SELECT * FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('@first'), '{agents}', verify => 'none')},
	q{SELECT * FROM gpuagent.prune_checkpoints(keep_last => 5)});
my $dir = PostgreSQL::Test::Utils::tempdir;
my @scripts;
foreach my $i (0 .. $#calls)
{
	my $file = "$dir/call$i.sql";
	append_to_file($file, "\\set n random(1, 3)\n$calls[$i];\n");
	push @scripts, '-f', $file;
}
my ($out, $err);
my $ok = IPC::Run::run(
	[ 'pgbench', '-n', '-c', 4, '-j', 1, '-t', 150, '--failures-detailed', '--max-tries=100', '-M', 'simple', @scripts,
		'-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$err);
ok($ok, 'no call fails') or diag($err);
like($out, qr/^number of failed transactions: 0 /m, 'none fails when it is tried again after a deadlock, as the reference asks for') or diag($err);
like($out, qr/transactions actually processed: 600\/600$/m, 'all were made');

is_value($node, q{SELECT string_agg(object || ' ' || status, ',') FROM gpuagent.verify_integrity('full')}, 'total ok', 'every checkpoint is whole');
is_value($node, q{
	SELECT count(*) FROM gpuagent_store.checkpoint_agent a JOIN gpuagent_store.checkpoint_agent b
	ON a.id = b.id AND a.from_seq < b.from_seq AND (a.to_seq IS NULL OR a.to_seq > b.from_seq)}, '0', 'intervals do not overlap');
$node->safe_psql('postgres', q{SELECT gpuagent.create_checkpoint('last')});
is_value($node, q{SELECT string_agg(DISTINCT action, ',') FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('last'), dry_run => true)}, 'keep',
	'the last checkpoint is what is there');
$node->safe_psql('postgres', q{SELECT * FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('@first'))});
is_value($node, q{SELECT string_agg(id || state, ',') FROM gpuagent.agent}, 'a/0[0,0]', 'the first one, kept by its alias, restores');
$node->stop;
done_testing();
