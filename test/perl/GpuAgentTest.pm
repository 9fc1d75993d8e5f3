# GpuAgentTest - helpers of the TAP tests, on top of PostgreSQL::Test::Cluster.
#
#   use lib 'test/perl';
#   use GpuAgentTest;
#   my $node = new_node('main');                        # started, extension and tables in place
#   my $node = new_node('main', preload => 0, allows_streaming => 1, conf => "wal_level = logical\n");
#   is_value($node, 'SELECT 1', '1', 'one');            # psql -At text of a query
#   my $digest = digest($node);                         # name => digest of each table of the extension
package GpuAgentTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_node is_value fails_with fill digest);

# Make and start a cluster with the extension and its tables in database postgres.  Options: preload (default 1),
# setup (default 1), conf (lines of postgresql.conf), and those of PostgreSQL::Test::Cluster's init.
sub new_node
{
	my ($name, %option) = @_;
	my $preload = delete $option{preload} // 1;
	my $setup = delete $option{setup} // 1;
	my $conf = delete $option{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%option);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'gpuagent'\n") if $preload;
	$node->append_conf('postgresql.conf', $conf) if $conf;
	$node->start;
	if ($setup)
	{
		$node->safe_psql('postgres', 'CREATE EXTENSION gpuagent');
		$node->safe_psql('postgres', 'SELECT gpuagent.setup()');
	}
	return $node;
}

# A query's text result is as expected.
sub is_value
{
	my ($node, $query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($node->safe_psql('postgres', $query), $expected, $name);
}

# A query fails with an SQLSTATE.
sub fails_with
{
	my ($node, $query, $sqlstate, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY sqlstate\n$query");
	return like($stderr, qr/ERROR:  \Q$sqlstate\E/, $name);
}

# Put something of everything into a database: agents with awkward bits, a graph, a swarm of two versions and several
# chunks, an expert with biases and rank 0, metrics, and a checkpoint between changes.
sub fill
{
	my ($node, $database) = @_;
	$node->safe_psql($database // 'postgres', q{
		SET search_path = gpuagent, public;
		SELECT store_agents(array_agg('a' || to_char(i, 'FM00000') ORDER BY i),
			stack(ARRAY[i, '-0'::real, 1.0::real / i, 'NaN'::real]::agent_state ORDER BY i),
			stack(ARRAY[i * 0.5]::real[]::agent_state ORDER BY i), 1, array_agg(sin(i) ORDER BY i))
		FROM generate_series(1, 1000) i;
		SELECT store_agent('halves', 'F16:[1,65504,6e-8]', NULL, 2, NULL, '{"kind": "odd"}');
		SELECT store_nodes('graph', ARRAY['x', 'y', 'z', 'alone'], '[[1,0,0],[0,1,0],[0.6,0.8,0],[0,0,1]]',
			'[{"n": 1}, {"n": 2}, {}, {}]');
		SELECT store_edges('graph', ARRAY['x', 'y'], ARRAY['y', 'z'], ARRAY['next', 'next'], ARRAY[0.5, 2.5]);
		SELECT store_swarm('swarm', (SELECT stack((ARRAY(SELECT (i * 0.001 + j)::real FROM generate_series(1, 256) j))::agent_state
			ORDER BY i) FROM generate_series(1, 3000) i), '{"note": "first"}');
		SELECT store_swarm('swarm', (SELECT stack((ARRAY(SELECT (i * 0.001 + j + (i > 2900)::int)::real FROM generate_series(1, 256) j))::agent_state
			ORDER BY i) FROM generate_series(1, 3000) i));
		SELECT store_weights('expert', 'layer.0', '[[1,2],[3,4]]', '[0.5,-0.5]');
		SELECT store_weights('expert', 'step', 'F64:7');
		SELECT store_expert_config('expert', 'testing', 6, 0.001, '{"layers": 1}');
		SELECT store_metrics('run', '{"loss": 0.25, "accuracy": 1}', 3);
		SELECT create_checkpoint('first');
		SELECT store_weights('expert', 'layer.0', '[[1,2],[3,5]]', '[0.5,-0.5]');
		SELECT store_agent('a00001', '[1,2,3]', expected_version => 1);
		SELECT delete_agent('a00002')});
	return;
}

# Digest each table of the extension as its owner sees it, in the order of its rows' text, so that two databases
# hold the same exactly when their digests are equal.  Returns a hash reference: table => "rows md5".
sub digest
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	my %result;
	my @tables = split /\n/, $node->safe_psql($database, q{
		SELECT c.oid::regclass FROM pg_class c
		WHERE c.relkind IN ('r', 'p') AND c.relnamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace)
		ORDER BY 1::text COLLATE "C"});
	foreach my $table (@tables)
	{
		$result{$table} = $node->safe_psql($database, qq{
			SELECT pg_catalog.count(*) || ' ' || pg_catalog.md5(pg_catalog.string_agg(pg_catalog.md5(t::text), '' ORDER BY pg_catalog.md5(t::text)))
			FROM $table t});
	}
	return \%result;
}

1;
