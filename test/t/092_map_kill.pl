# Many sessions map, write, read, sync and unmap a few swarms, host and device, while clients are killed and sessions are
# terminated at random. Nobody sees anything but what was stored, and in the end nothing is left.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# As long as a GPU takes, or hardly any session would end while its memory is being made.
$ENV{GA_EMULATED_DELAY} = 5000;
my $seconds = $ENV{GA_TEST_LONG} ? 60 : 4;
my $node = new_node('map_kill', conf => device_conf() . "max_connections = 60\ngpuagent.max_handles = 20000\n");
wait_for_service($node);

# Rows of a swarm are equal in every version, so that a mixture of two would show.
$node->safe_psql('postgres', q{
	CREATE FUNCTION uniform(i integer) RETURNS gpuagent.swarm_tensor LANGUAGE sql IMMUTABLE AS
		$$SELECT gpuagent.tensor('U8', '{300000}', decode(repeat(lpad(to_hex(i % 256), 2, '0'), 300000), 'hex'))$$;
	SELECT gpuagent.store_swarm('s' || i, uniform(i)) FROM generate_series(0, 3) i;
	CREATE FUNCTION look(swarm text, mode text, device text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		m gpuagent.handle;
		data bytea;
	BEGIN
		m := gpuagent.map_swarm(swarm, mode, device => device, lease => '2 s');
		data := gpuagent.tensor_bytes(gpuagent_store.mapped_tensor(m.handle));
		IF mode = 'r' AND data <> decode(repeat(encode(substr(data, 1, 1), 'hex'), 300000), 'hex') THEN
			RAISE EXCEPTION 'mixture' USING ERRCODE = 'data_corrupted';
		END IF;
		IF mode = 'r+' THEN
			PERFORM gpuagent_store.mapped_write(m.handle, 0, '\x07');
		END IF;
		IF random() < 0.7 THEN
			PERFORM gpuagent.unmap_handle(m.handle);
		END IF;
	EXCEPTION WHEN object_not_in_prerequisite_state OR undefined_object OR configuration_limit_exceeded THEN
		NULL;	-- stored meanwhile, mapped elsewhere, or the device is being started; slower than the lease; more versions than there is room
	END
	$$;
});
my $dir = PostgreSQL::Test::Utils::tempdir;
append_to_file("$dir/look.sql", q{\set n random(0, 3)
\set w random(0, 2)
\set d random(0, 2)
SELECT look('s' || :n, CASE :w WHEN 0 THEN 'r+' ELSE 'r' END, CASE :d WHEN 0 THEN 'host' WHEN 1 THEN 'cuda' END);
});
append_to_file("$dir/store.sql", q{\set n random(0, 3)
\set i random(0, 255)
SELECT gpuagent.store_swarm('s' || :n, uniform(:i));
});

sub processed
{
	my ($stdout) = @_;
	return $stdout =~ /number of transactions actually processed: (\d+)/ ? $1 : 0;
}

# Quietly, first.
my ($stdout, $stderr) = run_command([ 'pgbench', '-n', '-c12', '-j2', '-T', $seconds / 2, '-f', "$dir/look.sql\@9", '-f', "$dir/store.sql\@1", $node->connstr('postgres') ]);
unlike($stderr, qr/error|aborted/i, 'no session failed') or diag($stderr);
cmp_ok(processed($stdout), '>', 0, 'swarms were mapped');

# Then with clients killed, sessions terminated and the device process killed.
my $until = time + $seconds;
my $kills = 0;
my $log = -s $node->logfile;
while (time < $until || $kills < 2)
{
	my ($in, $out, $err) = ('', '', '');
	my $h = IPC::Run::start([ 'pgbench', '-n', '-c12', '-T60', '-f', "$dir/look.sql\@9", '-f', "$dir/store.sql\@1", $node->connstr('postgres') ], \$in, \$out, \$err);
	sleep(0.3 + rand 0.5);
	$node->safe_psql('postgres', q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < 0.3}) if rand() < 0.5;
	if (rand() < 0.2)
	{
		my $pid = $node->safe_psql('postgres', q{SELECT service_pid FROM gpuagent.stat_device WHERE device = 'cuda:0' AND service_pid IS NOT NULL});
		kill 'KILL', $pid if $pid;
	}
	$h->kill_kill(grace => 0);
	$kills++;
}
cmp_ok($kills, '>', 1, 'clients were killed');
ok(slurp_file($node->logfile, $log) !~ qr/PANIC|mixture|(server process|worker) .* was terminated|TRAP/, 'no server process died, nobody read a mixture');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()}), 'their sessions are gone');
$node->safe_psql('postgres', q{SELECT count(gpuagent.unmap_handle(handle)) FROM gpuagent.stat_handle});
wait_for_service($node);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 AND (SELECT sum(used_bytes) = 0 FROM gpuagent.stat_memory WHERE kind IN ('arena', 'lost'))
	FROM gpuagent.stat_memory WHERE object IS NOT NULL}), 'no memory is left');
ok($node->poll_query_until('postgres', "SELECT $only_context"), 'nor on the device');
is_value($node, q{SELECT count(*) FROM generate_series(0, 3) i, gpuagent.map_swarm('s' || i, 'r+') m
	WHERE gpuagent.tensor_hash(gpuagent_store.mapped_tensor(m.handle)) = (SELECT v.tensor FROM gpuagent.swarm_version v WHERE v.swarm = 's' || i AND v.version = m.version)}, '4',
	'and swarms are mapped as they are stored');

done_testing();
