# Clients that break the file that they have mapped, or write without a step, under sessions that use it; and who maps while
# others make versions.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{GA_TEST_LONG} ? 30 : 2;
my $node = new_node('map_damage', conf => "gpuagent.device = host\n");
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_swarm('s', gpuagent.tensor('U8', '{5000000}', decode(repeat('07', 5000000), 'hex')));
	CREATE TABLE errors (message text);
	CREATE TABLE handles (handle uuid);
	CREATE PROCEDURE attempt(statement text) LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE statement;
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO errors VALUES (SQLSTATE || ' ' || SQLERRM);
	END$$;
});
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

# ---- who maps while others sync: there is always memory to join, or a version to load ----

$node->safe_psql('postgres', q{INSERT INTO handles SELECT handle FROM gpuagent.map_swarm('s', 'r+')});
my $until = "clock_timestamp() + '$seconds s'";
my @sessions;
foreach my $work (
	q{CALL attempt(format('SELECT gpuagent_store.mapped_write(%L, %s, %L)', h, i % 5000000, '\x' || lpad(to_hex(i % 251), 2, '0')));
	  CALL attempt($q$SELECT gpuagent.sync_swarm('s')$q$)},
	q{CALL attempt($q$SELECT gpuagent.unmap_handle((gpuagent.map_swarm('s', 'r+')).handle)$q$)},
	q{CALL attempt($q$SELECT gpuagent.unmap_handle((gpuagent.map_swarm('s', 'r+')).handle)$q$)})
{
	push @sessions, IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', qq{
		DO \$do\$ DECLARE until timestamptz := $until; i bigint := 0; h uuid := (SELECT handle FROM handles); BEGIN
		WHILE clock_timestamp() < until OR i < 5 LOOP i := i + 1; $work; COMMIT; END LOOP; END\$do\$} ]);
}
ok(IPC::Run::finish($_), 'a session ends well') foreach @sessions;
is($node->safe_psql('postgres', 'SELECT message, count(*) FROM errors GROUP BY 1'), '', 'nobody who maps is refused because another makes versions');
cmp_ok($node->safe_psql('postgres', q{SELECT current FROM gpuagent.swarm}), '>', 2, 'versions were made');
$node->safe_psql('postgres', q{TRUNCATE errors; SELECT gpuagent.unmap_swarm('s')});

# ---- files that are shortened and made longer while sessions read them ----

my $folder = $node->safe_psql('postgres', q{SELECT regexp_replace(path, '/[^/]*$', '') FROM gpuagent.map_swarm('s')});
@sessions = ();
foreach my $work (
	q{CALL attempt($q$SELECT gpuagent_store.mapped_write(handle, 5, '\x01') FROM gpuagent.map_swarm('s', 'r+')$q$);
	  CALL attempt($q$SELECT gpuagent.sync_swarm('s')$q$)},
	q{CALL attempt($q$SELECT gpuagent_store.mapped_tensor(handle) FROM gpuagent.map_swarm('s')$q$);
	  CALL attempt($q$SELECT count(step) FROM gpuagent.stat_handle$q$)},
	q{CALL attempt($q$SELECT gpuagent.revert_swarm('s')$q$);
	  CALL attempt($q$SELECT gpuagent.store_swarm('s', gpuagent.retrieve_swarm('s'))$q$);
	  CALL attempt($q$SELECT gpuagent.unmap_swarm('s')$q$)})
{
	push @sessions, IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', qq{
		DO \$do\$ DECLARE until timestamptz := $until; BEGIN
		WHILE clock_timestamp() < until LOOP $work; COMMIT; END LOOP; END\$do\$} ]);
}
for (my ($end, $cuts) = (time + $seconds, 0); time < $end; $cuts++)
{
	foreach my $file (grep { /region-\d+$/ } glob("$folder/region-*"))
	{
		truncate($file, (0, 3000, 5000, 1000000)[$cuts % 4]);
		usleep(300);
		truncate($file, 5005312) if $cuts % 3;
	}
	usleep(500);
}
ok(IPC::Run::finish($_), 'a session ends well') foreach @sessions;
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'the server is the same');
unlike(slurp_file($node->logfile), qr/terminated by signal|reinitializing/, 'no session was killed by a signal');
is($node->safe_psql('postgres', q{SELECT DISTINCT message FROM errors WHERE message !~ '^(55000|42704|40P01) '}), '', 'all that failed says why');
$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('s')});
is($node->safe_psql('postgres', q{SELECT status || ' ' || count(*) FROM gpuagent.verify_integrity('full') WHERE status <> 'ok' GROUP BY status}), '', 'the store is whole');
is($node->safe_psql('postgres', q{SELECT gpuagent_store.mapped_tensor(handle) OPERATOR(gpuagent.=) gpuagent.retrieve_swarm('s') FROM gpuagent.map_swarm('s', 'r+')}), 't', 'who maps afterwards has the newest version');
$node->stop;

# ---- clients that write outside of their steps: errors, but nothing that is not what its hash says ----

$node = new_node('map_rude', conf => device_conf(1));
wait_for_service($node);
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_swarm('d', gpuagent.tensor('U8', '{8388608}', decode(repeat('07', 8388608), 'hex')));
	SELECT count(*) FROM gpuagent.map_swarm('d', 'r+', device => 'cuda:0');
	CREATE TABLE results (message text);
});
my $pid = $node->safe_psql('postgres', q{SELECT DISTINCT service_pid FROM gpuagent.stat_device WHERE service_pid IS NOT NULL});
my @memory = grep { (readlink($_) // "") =~ m{memfd} && -s $_ == 8388608 } glob("/proc/$pid/fd/*");
ok(@memory > 0, 'the memory is found');
my $session = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', qq{
	DO \$do\$ DECLARE until timestamptz := $until; BEGIN
	WHILE clock_timestamp() < until LOOP
		BEGIN
			PERFORM gpuagent.sync_swarm('d');
			INSERT INTO results VALUES ('synced');
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO results VALUES (SQLSTATE || ' ' || SQLERRM);
		END;
		COMMIT;
	END LOOP; END\$do\$} ]);
open(my $file, '+<', $memory[0]) or die "$memory[0]: $!";
for (my ($end, $turn) = (time + $seconds, 0); time < $end; $turn++)
{
	# Random enough that no two chunks are alike, now and then with a pause, in which a sync can succeed.
	for (my $leaf = 0; $leaf < 128; $leaf++)
	{
		sysseek($file, $leaf * 65536, 0);
		syswrite($file, pack('NN', $turn, $leaf) x 8192);
	}
	usleep(20000) if $turn % 8 == 0;
}
close($file);
ok(IPC::Run::finish($session), 'the session that syncs ends well');
is_value($node, q{SELECT DISTINCT message FROM results WHERE message NOT LIKE '%writes mapped memory without the step lock' AND message <> 'synced'}, '',
	'a sync succeeds, or says that a client does not keep to its steps');
is_value($node, q{SELECT string_agg(object || ' ' || found, ', ') FROM gpuagent.verify_integrity('full') WHERE status <> 'ok'}, '', 'every chunk has its hash');
$node->safe_psql('postgres', q{SELECT gpuagent.sync_swarm('d')});
is_value($node, q{SELECT gpuagent_store.mapped_tensor(handle) OPERATOR(gpuagent.=) gpuagent.retrieve_swarm('d') FROM gpuagent.stat_handle}, 't',
	'what is there in the end is the newest version');
$node->stop;
done_testing();
