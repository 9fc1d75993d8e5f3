# Many sessions store common chunks, versions of one swarm and layers of one expert at once, at two isolation levels, read
# what they stored, and verify it. Nobody fails, deadlocks or reads anything else; every acknowledged version is there.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{GA_TEST_LONG} ? 60 : 2;
my $node = new_node('concurrent', conf => "deadlock_timeout = '100ms'\n");

$node->safe_psql('postgres', q{
	INSERT INTO gpuagent.swarm (swarm, keep_versions) VALUES ('common', 1000000);
	-- 200,000 bytes, of eight kinds
	CREATE FUNCTION part(i integer) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
		SELECT convert_to(repeat(substr('abcdefghijklmnopqrstuvwxyz', i + 1, 16) || '0123456789', 7693), 'UTF8')::bytea
	$$;
	-- six chunks in any order, each of five kinds of a part or one of them
	CREATE FUNCTION any_tensor() RETURNS gpuagent.swarm_tensor LANGUAGE plpgsql AS $$
	DECLARE
		bytes bytea := '';
	BEGIN
		FOR n IN 1 .. 5 LOOP
			bytes := bytes || substring(part((random() * 7)::integer) || part(3) || part(4) || part(5) || part(6) || part(7) FROM 1 FOR 1048576);
		END LOOP;
		RETURN gpuagent.tensor('U8', ARRAY[octet_length(bytes)], bytes);
	END
	$$;
	CREATE FUNCTION store_and_read() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		t gpuagent.swarm_tensor := any_tensor();
		h bytea := gpuagent_store.put_tensor(t);
	BEGIN
		IF h <> gpuagent.tensor_hash(t) OR gpuagent_store.get_tensor(h) OPERATOR(gpuagent.<>) t OR gpuagent_store.tensor_problem(h) IS NOT NULL THEN
			RAISE EXCEPTION 'not what was stored';
		END IF;
	END
	$$;
});

sub processed
{
	my ($stdout) = @_;
	return $stdout =~ /number of transactions actually processed: (\d+)/ ? $1 : 0;
}

my $dir = PostgreSQL::Test::Utils::tempdir;
foreach my $level ('READ COMMITTED', 'REPEATABLE READ')
{
	append_to_file("$dir/$level.sql", "BEGIN ISOLATION LEVEL $level;\nSELECT store_and_read();\nSELECT store_and_read();\nCOMMIT;\n");
	my ($stdout, $stderr) = run_command([ 'pgbench', '-n', '-c6', '-j2', "-T$seconds", '-f', "$dir/$level.sql", $node->connstr('postgres') ]);
	unlike($stderr, qr/error|aborted/i, "$level: no session failed") or diag($stderr);
	cmp_ok(processed($stdout), '>', 0, "$level: transactions were done");
}
is_value($node, 'SELECT count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor', '0', 'every tensor is whole');
is_value($node, 'SELECT count(DISTINCT hash) FROM gpuagent_store.chunk', '8', 'of eight contents');

# One swarm and one expert: as many versions as transactions, and the last of each is what the last one wrote.
append_to_file("$dir/swarm.sql", q{SELECT gpuagent.store_swarm('common', any_tensor());} . "\n");
append_to_file("$dir/append.sql", q{SELECT gpuagent.append_swarm('common', '[1,2,3]');} . "\n");
append_to_file("$dir/weights.sql", "BEGIN;\nSELECT gpuagent.store_weights('e', 'a', ARRAY[:client_id]::gpuagent.swarm_tensor);\n"
	. "SELECT gpuagent.store_weights('e', 'b', ARRAY[:client_id]::gpuagent.swarm_tensor);\nCOMMIT;\n");
foreach my $script ('swarm', 'append', 'weights')
{
	my ($stdout, $stderr) = run_command([ 'pgbench', '-n', '-c6', '-j2', "-T$seconds", '-f', "$dir/$script.sql", $node->connstr('postgres') ]);
	unlike($stderr, qr/error|aborted/i, "$script: no session failed") or diag($stderr);
	my $done = processed($stdout);
	my $query = $script eq 'weights' ? q{SELECT count(*), max(version), count(DISTINCT version) FROM gpuagent.weight_version WHERE layer = 'a'}
		: q{SELECT count(*), max(version), max(s.current) FROM gpuagent.swarm_version JOIN gpuagent.swarm s USING (swarm)};
	is_value($node, $query, "$done|$done|$done", "$script: a version for each of its $done transactions");
	$node->safe_psql('postgres', q{DELETE FROM gpuagent.swarm_version; UPDATE gpuagent.swarm SET current = 0});
}
is_value($node, q{SELECT count(*) FROM gpuagent.weight_version a JOIN gpuagent.weight_version b USING (expert, version)
	WHERE a.layer = 'a' AND b.layer = 'b' AND a.weights <> b.weights}, '0', 'both layers of a version are of one transaction');

done_testing();
