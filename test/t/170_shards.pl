# A table over three servers by declarative partitioning and postgres_fdw (doc/shards.md, set up by its example): the order
# and the limit of a search travel to the shards, which answer from their indexes, and every server gives the same rows.
use strict;
use warnings;

use FindBin;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @nodes = map { new_node("shard$_", setup => 0) } 0 .. 2;
my @where = map { ('-v', "host_$_=" . $nodes[$_]->host, '-v', "port_$_=" . $nodes[$_]->port) } 0 .. 2;
my $user = getpwuid($<);

foreach my $n (0 .. 2)
{
	$nodes[$n]->command_ok([ 'psql', '-X', '-q', '-d', $nodes[$n]->connstr('postgres'), '-v', "shard=$n", '-v', 'dbname=postgres',
		'-v', "user=$user", @where, '-f', "$FindBin::Bin/../../doc/examples/shards.sql" ], "the example sets up shard $n");
	$nodes[$n]->safe_psql('postgres', q{
		CREATE FUNCTION vector(i bigint) RETURNS gpuagent.embedding LANGUAGE sql IMMUTABLE AS $$
			SELECT array_agg(hashint8extended(i * 10000 + k, 7) / 9223372036854775808.0)::real[]::gpuagent.embedding FROM generate_series(1, 64) k
		$$});
}

# Written through one server, and found where its hash says; the same rows in one table are the reference.
$nodes[0]->safe_psql('postgres', q{
	INSERT INTO sharded_agent SELECT i, i % 7, ARRAY[i, i + 1]::real[]::gpuagent.agent_state, vector(i) FROM generate_series(1, 3000) i;
	CREATE TABLE reference AS SELECT i AS id, vector(i) AS e FROM generate_series(1, 3000) i});
my @counts = map { $nodes[$_]->safe_psql('postgres', "SELECT count(*) FROM ONLY sharded_agent_$_") } 0 .. 2;
is($counts[0] + $counts[1] + $counts[2], 3000, 'each row is on one shard');
is(scalar(grep { $_ > 800 } @counts), 3, "rows are spread: @counts");
$_->safe_psql('postgres', 'ANALYZE sharded_agent') foreach @nodes;

my $query = $nodes[0]->safe_psql('postgres', 'SELECT vector(77777)');
my $order = "e OPERATOR(gpuagent.<->) '$query'::gpuagent.embedding";
my $ask = "SELECT id, $order FROM sharded_agent ORDER BY $order LIMIT 10";
my $expected = $nodes[0]->safe_psql('postgres', "SELECT id, $order FROM reference ORDER BY $order LIMIT 10");

foreach my $node (@nodes)
{
	my $name = $node->name;
	is($node->safe_psql('postgres', $ask), $expected, "$name: the table gives the nearest rows");
	is($node->safe_psql('postgres', "SELECT * FROM nearest_agents('$query', 10)"), $expected, "$name: so does the function");
}

# The plans that prove it, for the table and for one shard: the order is the shard's, and so is the limit.
my $plan = $nodes[0]->safe_psql('postgres', "EXPLAIN (VERBOSE, COSTS OFF) $ask");
like($plan, qr/Merge Append/, 'the table: sorted streams are merged');
is(scalar(() = $plan =~ /Remote SQL: .* ORDER BY \(e OPERATOR\(gpuagent\.<->\)/g), 2, 'the table: both foreign shards order by distance');
unlike($plan, qr/^\s*(?:->\s+)?Sort\s*$/m, 'the table: nothing is sorted here') or diag($plan);

my $body = $nodes[0]->safe_psql('postgres', "SELECT prosrc FROM pg_proc WHERE proname = 'nearest_agents'");
$body =~ s/\bquery\b/'$query'::gpuagent.embedding/g;
$body =~ s/\bLIMIT k\b/LIMIT 10/g;
$plan = $nodes[0]->safe_psql('postgres', "EXPLAIN (VERBOSE, COSTS OFF) $body");
is(scalar(() = $plan =~ /Remote SQL: .* ORDER BY \(e OPERATOR\(gpuagent\.<->\).* LIMIT 10::bigint/g), 2, 'the function: LIMIT travels, too') or diag($plan);

# What a shard does with what it is sent.
$plan = $nodes[1]->safe_psql('postgres', "EXPLAIN (VERBOSE, COSTS OFF) SELECT id, e FROM public.sharded_agent_1 ORDER BY $order LIMIT 10");
like($plan, qr/Index Scan using sharded_agent_1_e_idx/, 'a shard answers from its index');

# Conditions travel, a key goes to one shard, and writes go through any server.
my $filtered = $nodes[2]->safe_psql('postgres', "SELECT id FROM sharded_agent WHERE id % 7 = 3 ORDER BY $order LIMIT 5");
is($filtered, $nodes[0]->safe_psql('postgres', "SELECT id FROM reference WHERE id % 7 = 3 ORDER BY $order LIMIT 5"), 'with a condition');
$plan = $nodes[0]->safe_psql('postgres', 'EXPLAIN (VERBOSE, COSTS OFF) SELECT state FROM sharded_agent WHERE id = 42');
is(scalar(() = $plan =~ /Scan (?:on|using)/g), 1, 'a key is looked up on one shard');
$nodes[2]->safe_psql('postgres', "UPDATE sharded_agent SET e = '$query' WHERE id IN (1, 2, 3, 4, 5, 6)");
is($_->safe_psql('postgres', "SELECT string_agg(id::text, ' ' ORDER BY id) FROM nearest_agents('$query', 6) WHERE distance = 0"), '1 2 3 4 5 6',
	$_->name . ': rows written through another server are found') foreach @nodes;

# A transaction over shards that fails leaves nothing on any of them; a shard that is down is an error, never a shorter answer.
$nodes[0]->psql('postgres', 'BEGIN; DELETE FROM sharded_agent; SELECT 1/0; COMMIT');
is($nodes[1]->safe_psql('postgres', 'SELECT count(*) FROM sharded_agent'), 3000, 'a failed transaction has deleted nothing');
$nodes[2]->stop;
my ($rc, $out, $err) = $nodes[0]->psql('postgres', $ask);
isnt($rc, 0, 'a shard that is down makes the search fail');
like($err, qr/could not connect to server "shard_2"/, 'and its name is told');

$_->stop foreach @nodes[0, 1];
done_testing();
