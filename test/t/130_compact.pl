# The server is stopped as by a crash, or its worker killed, in the middle of compacting, beside writers. After the
# restart every version reads back as it was stored, the base of every delta is there, and the job goes on by itself.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{GA_TEST_LONG} ? 20 : 2;
my $node = new_node('compact', allows_streaming => 1, conf => "max_wal_size = 1GB\nrestart_after_crash = on\ngpuagent.io_rate_limit = 30MB\n");

# Versions of 3 MiB that do not compress, each a step from the one before. They are uploaded raw, so that there is work to do.
$node->safe_psql('postgres', q{
	CREATE FUNCTION content(i bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
		SELECT string_agg(set_byte(sha256(int4send(k)), 3, ((get_byte(sha256(int4send(k)), 3) + i * (k % 7)) % 256)::integer), '' ORDER BY k)
		FROM generate_series(1, 98304) k
	$$;
	CREATE TABLE truth (i bigint PRIMARY KEY, digest bytea);
	CREATE FUNCTION upload(swarm text, i bigint) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		data bytea := content(i);
	BEGIN
		INSERT INTO truth VALUES (i, sha256(data));
		RETURN gpuagent.store_swarm_ref(swarm, gpuagent.store_tensor('F32', '{786432}', ARRAY(
			SELECT gpuagent.store_chunk(gpuagent.tensor('F32', '{262144}', substring(data FROM n * 1048576 + 1 FOR 1048576)))
			FROM generate_series(0, 2) n)), jsonb_build_object('i', i));
	END
	$$;
	CREATE FUNCTION wrong() RETURNS text LANGUAGE sql AS $$
		SELECT string_agg(w, ', ') FROM (
			SELECT v.swarm || ' ' || v.version AS w FROM gpuagent.swarm_version v
				WHERE sha256(gpuagent.tensor_bytes(gpuagent_store.get_tensor(v.tensor))) IS DISTINCT FROM
					(SELECT digest FROM truth WHERE i = (v.metadata ->> 'i')::bigint)
			UNION ALL SELECT 'a delta without its base' FROM gpuagent_store.chunk_delta d
				WHERE NOT EXISTS (SELECT FROM gpuagent_store.chunk c WHERE c.hash = d.base)) x
	$$;
	INSERT INTO gpuagent.swarm (swarm, keep_versions) VALUES ('s', 1000);
	ALTER DATABASE postgres SET gpuagent.compression = off;
});

my $version = 0;
sub upload
{
	my ($n) = @_;
	$node->safe_psql('postgres', join(';', map { $version++; "SELECT upload('s', $version)" } 1 .. $n));
}

# Every result of the job is that of one piece or of the whole, so the server may stop anywhere.
for my $round (1 .. $rounds)
{
	upload(3);
	# So slow that no machine is done before it is stopped.
	$node->safe_psql('postgres', q{ALTER SYSTEM SET gpuagent.io_rate_limit = '1MB'; SELECT pg_reload_conf()});
	my $job = $node->safe_psql('postgres', q{SET gpuagent.compression = on; SELECT gpuagent.compact_storage(wait => false)});
	my $worker = "SELECT pid FROM gpuagent.stat_progress WHERE job = $job AND pid IS NOT NULL";
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($worker) w"), "round $round: a worker is at it");
	usleep(1000 * (30 + 60 * ($round % 4)));
	if ($round % 2)
	{
		$node->stop('immediate');
		$node->start;
	}
	else
	{
		kill_and_recover($node, $node->safe_psql('postgres', $worker));
	}
	$node->safe_psql('postgres', q{ALTER SYSTEM RESET gpuagent.io_rate_limit; SELECT pg_reload_conf()});
	is($node->safe_psql('postgres', 'SELECT wrong()'), '', "round $round: all versions are what they were after the crash");
	is($node->safe_psql('postgres', "SELECT gpuagent.wait_for_job($job, '180 s')"), 'done', "round $round: the job was taken up again");
	is($node->safe_psql('postgres', 'SELECT wrong()'), '', "round $round: and when it was done");
}

# Nothing is left over: no row that waits, no chunk twice, and few rows whole.
$node->safe_psql('postgres', q{SET gpuagent.compression = on; SELECT gpuagent.compact_storage() FROM generate_series(1, 3)});
is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM gpuagent_store.compact_pending), (SELECT count(*) FROM (
	SELECT FROM gpuagent_store.chunk GROUP BY hash HAVING count(*) > 1) d), (SELECT count(*) FROM gpuagent_store.chunk JOIN gpuagent_store.chunk_delta USING (hash))}),
	'0|0|0', 'nothing is left over');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM gpuagent_store.chunk_delta'), '>=', 3 * ($version - $version / 3), 'most versions are deltas');
my ($stored, $raw) = split /\|/, $node->safe_psql('postgres', q{SELECT stored_bytes, raw_bytes FROM gpuagent.stat_storage WHERE kind = 'swarms'});
cmp_ok($stored, '<', $raw / 2, 'and take less than half');

# A standby reads them, too; it compacts nothing.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->safe_psql('postgres', 'CREATE TABLE last ()');
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT wrong()'), '', 'a standby reads every version');
fails_with($standby, 'SELECT gpuagent.compact_storage()', '25006', 'and does not compact');

done_testing();
