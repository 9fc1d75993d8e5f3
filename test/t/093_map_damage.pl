# Clients that break the file that they have mapped, under sessions that use it; and who maps while others make versions.
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
		WHILE clock_timestamp() < until LOOP i := i + 1; $work; COMMIT; END LOOP; END\$do\$} ]);
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
done_testing();
