# A physical standby reads the same through every function that reads, while the primary goes on writing; what would
# write fails with the server's read-only error; after promotion it goes on from there.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', allows_streaming => 1, conf => "autovacuum = off\nhot_standby_feedback = on\n");

$primary->safe_psql('postgres', q{
	SELECT gpuagent.store_agents(ARRAY['a', 'b', 'c'], '[[1,2],[3,4],[5,6]]', generation => 1, fitness => '{3,1,2}');
	SELECT gpuagent.store_swarm('s', gpuagent.tensor('U8', '{3,1000000}', convert_to(repeat('0123456789', 300000), 'UTF8')));
	SELECT gpuagent.store_weights('e', 'w', '[[1,2],[3,4]]', '[0.5,0.25]');
	SELECT gpuagent.create_checkpoint('one');
});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# What the standby has to follow: a version in place, an appended one, a new layer, a checkpoint.
$primary->safe_psql('postgres', q{
	SELECT gpuagent.store_swarm_rows('s', 2, gpuagent.tensor('U8', '{1,1000000}', convert_to(repeat('abcdefghij', 100000), 'UTF8')));
	BEGIN;
	SELECT gpuagent.append_swarm('a', gpuagent.tensor('U8', '{700000}', convert_to(repeat('x' || i, 350000), 'UTF8'))) FROM generate_series(1, 9) i;
	COMMIT;
	SELECT gpuagent.store_weights('e', 'v', '7'), gpuagent.delete_weights('e', 'w'), gpuagent.store_agent('a', fitness => 9);
	SELECT gpuagent.create_checkpoint('two');
});
$primary->wait_for_catchup($standby);

my @reads = (
	q{SELECT * FROM gpuagent.retrieve_agent('a')},
	q{SELECT ids, states, fitness, versions FROM gpuagent.retrieve_population(best => 2)},
	q{SELECT version, gpuagent.tensor_hash(gpuagent.retrieve_swarm('s', version)) FROM generate_series(1, 2) version},
	q{SELECT gpuagent.tensor_hash(gpuagent.retrieve_swarm('s', checkpoint => c.id)) FROM gpuagent.checkpoint c ORDER BY c.id},
	q{SELECT start, md5(gpuagent.tensor_bytes(data)) FROM gpuagent.swarm_chunks('a')},
	q{SELECT gpuagent.retrieve_swarm('a', start => 1048570, count => 20)},
	q{SELECT c.ordinal, md5(gpuagent.tensor_bytes(c.data)) FROM gpuagent.swarm_version v, gpuagent.tensor_chunks(v.tensor) c WHERE v.swarm = 'a'},
	q{SELECT v, l.layer, l.version, l.weights, l.biases FROM generate_series(1, 2) v, gpuagent.load_weights('e', version => v) l},
	q{SELECT c.id, l.layer, l.weights FROM gpuagent.checkpoint c, gpuagent.load_weights('e', checkpoint => c.id) l ORDER BY 1, 2},
	q{SELECT * FROM gpuagent.retrieve_expert_config('e')},
	q{SELECT gpuagent.resolve_checkpoint('latest'), gpuagent.resolve_checkpoint('one')},
	q{SELECT count(*), count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor},
	q{SELECT count(m) FROM gpuagent_store.chunk, gpuagent.missing_chunks(ARRAY[hash, sha256(hash)]) m},
);
foreach my $read (@reads)
{
	my $expected = $primary->safe_psql('postgres', $read);
	isnt($expected, '', 'the primary has something to compare');
	is($standby->safe_psql('postgres', $read), $expected, "the standby reads the same: $read");
}
is_deeply(digest($standby), digest($primary), 'and every table is equal');

my @writes = (
	q{SELECT gpuagent.store_agent('a', fitness => 1)},
	q{SELECT gpuagent.store_agents(ARRAY['a'], fitness => '{1}')},
	q{SELECT gpuagent.delete_agent('a')},
	q{SELECT gpuagent.store_swarm('s', '[1]')},
	q{SELECT gpuagent.store_swarm('new', '[1]')},
	q{SELECT gpuagent.store_swarm_rows('s', 1, gpuagent.tensor('U8', '{0,1000000}', ''))},
	q{SELECT gpuagent.append_swarm('s', '[1]')},
	q{SELECT gpuagent.prune_swarm('s', 1)},
	q{SELECT gpuagent.delete_swarm('s')},
	q{SELECT gpuagent.store_chunk('[123,456]')},
	q{SELECT gpuagent.store_weights('e', 'w', '[1]')},
	q{SELECT gpuagent.delete_weights('e')},
	q{SELECT gpuagent.store_expert_config('e')},
	q{SELECT gpuagent.create_checkpoint()},
	q{SELECT * FROM gpuagent.restore_checkpoint(1)},
);
fails_with($standby, $_, '25006', "the standby refuses: $_") foreach @writes;
# One session that was refused goes on reading; what is there already needs no writing.
is($standby->safe_psql('postgres', q{
		SELECT gpuagent.store_chunk(gpuagent.tensor('U8', '{1048576}', convert_to(substr(repeat('0123456789', 104858), 1, 1048576), 'UTF8'))) IS NOT NULL;
		SELECT gpuagent_store.put_tensor('[[1,2],[3,4]]') = gpuagent.tensor_hash('[[1,2],[3,4]]')}), "t\nt", 'what is there needs no writing');
my ($rc, $out) = $standby->psql('postgres', q{
	SELECT gpuagent.store_chunk('[123,456]');
	SELECT gpuagent.retrieve_swarm('a', count => 3);}, on_error_stop => 0);
is($out, 'U8[3]:raw:eDF4', 'after an error the session goes on');

# It follows, and after promotion goes on from there.
$primary->safe_psql('postgres', q{SELECT gpuagent.store_swarm('s', '[1,2]')});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT gpuagent.retrieve_swarm('s')::real[]}), '{1,2}', 'it follows');

$standby->promote;
is($standby->safe_psql('postgres', q{
		SELECT gpuagent.store_swarm('s', '[4]'), gpuagent.store_weights('e', 'w', '[5]'), gpuagent.create_checkpoint('three') > 2;
		SELECT gpuagent.retrieve_swarm('s')::real[], (SELECT count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor)}),
	"4|3|t\n{4}|0", 'promoted, it goes on');

done_testing();
