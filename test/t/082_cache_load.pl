# Readers compare the cache with the table in one snapshot while writers, VACUUM and evictions go on in a cache that is too
# small; every read is counted once. Then sessions are cancelled, terminated and killed in the middle of it.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seconds = $ENV{GA_TEST_LONG} ? 60 : 3;
my $node = new_node('main', conf => "gpuagent.host_cache_size = 32MB\nautovacuum_naptime = 1s\nrestart_after_crash = on\nlog_statement = none\n");

# 400 agents of 100 kB in 16 MB, and 200 small ones, some of which are written all the time.
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET search_path = public, gpuagent});
$node->safe_psql('postgres', q{
	CREATE FUNCTION body(i bigint, version bigint, size bigint) RETURNS gpuagent.agent_state LANGUAGE sql AS $$
		SELECT gpuagent.tensor('U8', ARRAY[size * 16], convert_to(repeat(lpad(i || '.' || version, 16), size::int), 'UTF8'))::gpuagent.agent_state
	$$;
	INSERT INTO gpuagent.agent (id, state) SELECT 'a' || i, body(i, 1, CASE WHEN i <= 200 THEN 8 ELSE 6400 END) FROM generate_series(1, 600) i;
	CREATE FUNCTION check_agent(i bigint) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		same boolean;
	BEGIN
		SELECT c IS NOT DISTINCT FROM (SELECT a.state FROM gpuagent.agent a WHERE a.id = 'a' || i) INTO same FROM gpuagent.cached_state('a' || i) c;
		IF NOT same THEN
			RAISE EXCEPTION 'agent % is stale', i;
		END IF;
		PERFORM FROM gpuagent.retrieve_agent_cached('a' || i) r LEFT JOIN gpuagent.agent a USING (id)
			WHERE (r.state, r.version, r.updated_at, r.metadata) IS DISTINCT FROM (a.state, a.version, a.updated_at, a.metadata);
		IF FOUND THEN
			RAISE EXCEPTION 'the row of agent % is stale', i;
		END IF;
	END
	$$;
});

my %script = (
	read => "\\set i random_zipfian(1, 600, 1.1)\nSELECT check_agent(:i);\nSELECT check_agent(1 + :i % 5);\n",
	old => "\\set i random(1, 20)\nBEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT check_agent(:i);\n\\sleep 2 ms\nSELECT check_agent(:i);\nSELECT check_agent(1 + :i % 5);\nCOMMIT;\n",
	write => "\\set i random(1, 20)\n\\set j random(201, 600)\nBEGIN;\nUPDATE gpuagent.agent SET state = body(:i, version + 1, 8), version = version + 1 WHERE id = 'a' || :i;\n" .
		"SELECT check_agent(:i);\nSAVEPOINT s;\nDELETE FROM gpuagent.agent WHERE id = 'a' || :j;\nSELECT check_agent(:j);\nROLLBACK TO s;\nSELECT check_agent(:j);\nCOMMIT;\n",
	evict => "\\set i random(1, 600)\nSELECT gpuagent.evict_agents(ARRAY['a' || :i]);\nSELECT gpuagent.cache_agents(prefix => 'a' || :i);\nVACUUM gpuagent.agent;\n");
my %file;
foreach my $name (keys %script)
{
	$file{$name} = $node->basedir . "/$name.sql";
	append_to_file($file{$name}, $script{$name});
}
my %reads = (read => 4, old => 6, write => 6, evict => 0);

# Run all of it for a time; returns how many reads there were, by pgbench's account of the transactions.
sub load
{
	my ($time) = @_;
	my @runs;
	foreach my $name (sort keys %script)
	{
		my ($out, $err) = ('', '');
		my $handle = IPC::Run::start(
			[ 'pgbench', '-n', '-c', ($name eq 'read' ? 4 : 2), '-T', $time, '-f', $file{$name}, '-h', $node->host, '-p', $node->port, 'postgres' ],
			'>', \$out, '2>', \$err);
		push @runs, [ $name, $handle, \$out, \$err ];
	}
	return \@runs;
}

# Each agent once, twice over: more than fits. A slow machine would not come to that by itself.
$node->safe_psql('postgres', q{SELECT gpuagent_store.reset_cache_stats(); SELECT count(*) FROM generate_series(1, 600) i, check_agent(i)});
my $runs = load($seconds);
my $expected = 600 * 2;
foreach my $run (@$runs)
{
	my ($name, $handle, $out, $err) = @$run;
	$handle->finish;
	unlike($$err, qr/stale|ERROR|aborted/, "$name: every answer was right");
	my ($transactions) = $$out =~ /transactions actually processed: (\d+)/;
	cmp_ok($transactions // 0, '>', 0, "$name: it did something");
	$expected += ($transactions // 0) * $reads{$name};
}
is_value($node, q{SELECT hits + misses FROM gpuagent.cache_stats() WHERE tier = 'host'}, $expected, 'every read was counted once');
is_value($node, q{SELECT hits > 0 AND misses > 0 AND evictions > 0 AND used_bytes <= budget_bytes AND agents <= 600 FROM gpuagent.cache_stats() WHERE tier = 'host'}, 't', 'with hits, misses and evictions');
is_value($node, q{SELECT count(*) FROM generate_series(1, 600) i, check_agent(i)}, '600', 'and at rest all is right');
is_value($node, q{
	SELECT gpuagent.evict_agents() > 0;
	SELECT agents, used_bytes FROM gpuagent.cache_stats() WHERE tier = 'host'}, "t\n0|0", 'nothing is left when all is evicted');

# Twelve agents of 3 MB, of which five fit: while one is copied out, its place is taken. Each has one byte throughout.
$node->safe_psql('postgres', q{INSERT INTO gpuagent.agent (id, state)
	SELECT 'one' || i, gpuagent.tensor('U8', '{3000000}', convert_to(repeat(chr(64 + i::int), 3000000), 'UTF8'))::gpuagent.agent_state FROM generate_series(1, 12) i});
my $torn = $node->basedir . '/torn.sql';
append_to_file($torn, "\\set i random(1, 12)\nSELECT 1 / (ARRAY[element(s, 1), element(s, 1000000), element(s, 2000000), element(s, 3000000)] = " .
	"array_fill(64.0::float8 + :i, ARRAY[4]))::int FROM (SELECT cached_state('one' || :i) AS s OFFSET 0) x;\n");
$node->command_checks_all([ 'pgbench', '-n', '-c', 6, '-t', 100, '-f', $torn, '-h', $node->host, '-p', $node->port, 'postgres' ],
	0, [qr/actually processed: 600\/600$/m], [qr/^(?!.*ERROR)/s], 'no copy is torn');
$node->safe_psql('postgres', q{DELETE FROM gpuagent.agent WHERE id LIKE 'one%'});

# Cancelled and terminated at random. psql goes on after an error.
my $lines = $node->basedir . '/lines.sql';
append_to_file($lines, join '', map { sprintf("SELECT check_agent(%d), gpuagent.cache_agent('a%d'), gpuagent.evict_agents('{a%d}');\n",
	1 + int rand 600, 1 + int rand 600, 1 + int rand 600) } 1 .. 20000);
$runs = load($seconds);
foreach my $i (1 .. 4)
{
	my $log = $node->basedir . "/psql$i.log";
	push @$runs, [ "psql $i", IPC::Run::start([ 'psql', '-X', '-q', '-f', $lines, '-h', $node->host, '-p', $node->port, 'postgres' ], '>', '/dev/null', '2>', $log), $log ];
}
my $end = time + $seconds - 1;
my $disturbed = 0;
# As long as there are enough to be disturbed, which is a minute at least.
while (time < $end || ($disturbed <= 5 && time < $end + 60))
{
	my $done = $node->safe_psql('postgres', q{SELECT CASE WHEN random() < 0.95 THEN pg_cancel_backend(pid) ELSE pg_terminate_backend(pid) END
		FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
	$disturbed++ if $done eq 't';
	sleep 0.02;
}
foreach my $run (@$runs)
{
	my ($name, $handle, $out, $err) = @$run;
	if ($name =~ /psql/)
	{
		$handle->kill_kill;
		$err = \slurp_file($out);
	}
	else
	{
		eval { $handle->finish };
	}
	unlike($$err, qr/stale/, "$name: no wrong answer between cancelled and terminated sessions");
}
cmp_ok($disturbed, '>', 5, 'there were such');
is_value($node, q{SELECT count(*) FROM generate_series(1, 600) i, check_agent(i)}, '600', 'all is right afterwards');
$node->safe_psql('postgres', q{VACUUM (FREEZE) gpuagent.agent});
is_value($node, q{SELECT count(*) FROM generate_series(1, 600) i, check_agent(i)}, '600', 'and after VACUUM, which no pin keeps from its pages');
unlike(slurp_file($node->logfile), qr/leak|PANIC|TRAP/, 'nothing leaked');

# Killed: the server starts again, the cache is empty or pre-warmed, and right.
$runs = load(30);
my $victim = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND query ~ 'check_agent' AND pid <> pg_backend_pid() LIMIT 1};
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($victim) s");
ok(kill_and_recover($node, $node->safe_psql('postgres', $victim)), 'the server is back');
foreach my $run (@$runs)
{
	eval { $run->[1]->finish };
	unlike(${ $run->[3] }, qr/stale/, "$run->[0]: no wrong answer until then");
}
is_value($node, q{SELECT count(*) FROM generate_series(1, 600) i, check_agent(i)}, '600', 'all is right after a crash');

done_testing();
