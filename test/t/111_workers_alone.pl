# Statements that need a database without other sessions are neither delayed nor failed by maintenance workers, idle or
# in the middle of a task, and keep new ones out until they end, however they end.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', setup => 0, conf => "allow_in_place_tablespaces = on\n");
my $rounds = $ENV{GA_TEST_LONG} ? 100 : 20;

# Seconds that a statement takes on a connection that is there already.
sub seconds
{
	my ($statement) = @_;
	my $out = $node->safe_psql('postgres', "\\timing on\nSET client_min_messages = warning;\n$statement");
	my ($ms) = (reverse split /\n/, $out)[0] =~ /([0-9.]+) ms/;
	return $ms / 1000;
}

# What a statement that fails says.
sub done { my ($statement) = @_; return ($node->psql('postgres', "SET client_min_messages = warning;\n$statement"))[2]; }

sub busy
{
	my ($database) = @_;
	return $node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE datname = '$database' AND query ~ 'prewarm_cache' AND state = 'active'});
}

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
is_served($node, 'source', 'there is a worker');

# A copy of a database with a worker is one with a worker; both are in a task when the copy is dropped and made again. What
# copies and drops take without workers says how fast the machine is; a statement that fails has waited for five seconds.
my ($copies, $drops, $copied, $dropped) = (0, 0, 0, 0);
my ($copies_alone, $drops_alone) = (0, 0);
set_task($node, 'source', 'prewarm_cache', 'PERFORM pg_sleep(600)');
for my $i (1 .. $rounds)
{
	my $strategy = $i % 5 == 0 ? ' STRATEGY file_copy' : '';
	$copies_alone += seconds('CREATE DATABASE alone TEMPLATE template0' . $strategy);
	$drops_alone += seconds('DROP DATABASE alone');
	$copies += seconds('CREATE DATABASE copy TEMPLATE source' . $strategy);
	# Every second one is dropped while its worker, or the probe, is just starting.
	$copied += busy('copy') && busy('source') if $i % 2;
	$drops += seconds('DROP DATABASE copy');
	$dropped += $node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'copy'}) eq '0';
}
is($copied, $rounds / 2, 'workers of source and copy are in a task again and again');
is($dropped, $rounds, 'all copies were dropped');
cmp_ok($copies, '<', 5 * $copies_alone + $rounds, sprintf 'copies took %.2f s, and %.2f s without workers', $copies, $copies_alone);
cmp_ok($drops, '<', 5 * $drops_alone + $rounds, sprintf 'drops took %.2f s, and %.2f s without workers', $drops, $drops_alone);

# The other statements.
$node->safe_psql('postgres', q{CREATE TABLESPACE space LOCATION ''});
busy('source');
is(done('ALTER DATABASE source RENAME TO renamed'), '', 'a database is renamed');
is_served($node, 'renamed', 'and served under its new name');
busy('renamed');
is(done('ALTER DATABASE renamed SET TABLESPACE space'), '', 'moved to another tablespace');
busy('renamed');
is(done('ALTER DATABASE renamed SET TABLESPACE pg_default'), '', 'and back');
busy('renamed');
is(done('CREATE DATABASE forced TEMPLATE renamed'), '', 'copied');
busy('forced');
is(done('DROP DATABASE forced WITH (FORCE)'), '', 'dropped by force');
$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE renamed RENAME TO source; ROLLBACK');
is_served($node, 'renamed', 'a rename that is rolled back leaves it served');

# Without the right, or in vain, nothing happens to the worker for long.
busy('renamed');
my $pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance'});
$node->safe_psql('postgres', 'CREATE ROLE nobody; CREATE ROLE maker CREATEDB');
foreach my $statement ('DROP DATABASE renamed', 'ALTER DATABASE renamed RENAME TO x', 'CREATE DATABASE x TEMPLATE renamed',
	'ALTER DATABASE renamed SET TABLESPACE space')
{
	fails_with($node, "SET ROLE nobody;\n$statement", '42501', "refused: $statement");
}
fails_with($node, "SET ROLE maker;\nCREATE DATABASE x TEMPLATE renamed", '42501', 'refused: a copy of what is no template');
is_value($node, q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance'}, $pid, 'the worker did not have to go');
fails_with($node, 'ALTER DATABASE renamed RENAME TO postgres', '42P04', 'a rename to a name that is taken');
is_served($node, 'renamed', 'and the worker is back');
fails_with($node, 'DROP DATABASE absent', '3D000', 'no such database');

# While another session keeps the statement waiting, by a lock, which has no end, no worker starts; when its backend is ended, one does.
my ($in, $out, $err) = ('', '', '');
my $other = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "BEGIN; COMMENT ON DATABASE renamed IS 'kept'; SELECT 'there';\n";
$other->pump until $out =~ /there/;
my $dropper = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'DROP DATABASE renamed' ], '>', \my $text, '2>', \$err);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'DROP DATABASE renamed' AND wait_event_type = 'Lock'});
is_served($node, '', 'a statement that waits for others ends workers');
$node->safe_psql('postgres', 'SELECT pg_reload_conf(); SELECT pg_sleep(0.5)');
is(served($node), '', 'and keeps them out');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'DROP DATABASE renamed'});
$dropper->finish;
is_served($node, 'renamed', 'they are back when its session was ended');
$in .= "\\q\n";
$other->finish;

# Databases whose template is the default one.
$node->safe_psql('template1', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
is_served($node, 'renamed template1', 'the template has a worker');
is(done('CREATE DATABASE of_template'), '', 'a database like the default template');
is_served($node, 'of_template renamed template1', 'has one, too');
$node->stop;

done_testing();
