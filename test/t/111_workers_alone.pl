# Statements that need a database without other sessions are neither delayed nor failed by maintenance workers, idle or
# in the middle of a task, and keep new ones out until they end, however they end.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

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

sub busy
{
	my ($database) = @_;
	return $node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE datname = '$database' AND query ~ 'prewarm_cache' AND state = 'active'});
}

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
is_served($node, 'source', 'there is a worker');

# A copy of a database with a worker is one with a worker; both are in a task when the copy is dropped and made again.
my ($slowest_copy, $slowest_drop, $copied, $dropped) = (0, 0, 0, 0);
set_task($node, 'source', 'prewarm_cache', 'PERFORM pg_sleep(600)');
for my $i (1 .. $rounds)
{
	my $copy = seconds('CREATE DATABASE copy TEMPLATE source' . ($i % 5 == 0 ? ' STRATEGY file_copy' : ''));
	$slowest_copy = $copy if $copy > $slowest_copy;
	# Every second one is dropped while its worker, or the probe, is just starting.
	$copied += busy('copy') && busy('source') if $i % 2;
	my $drop = seconds('DROP DATABASE copy');
	$slowest_drop = $drop if $drop > $slowest_drop;
	$dropped += $node->safe_psql('postgres', q{SELECT count(*) FROM pg_database WHERE datname = 'copy'}) eq '0';
}
is($copied, $rounds / 2, 'workers of source and copy are in a task again and again');
is($dropped, $rounds, 'all copies were dropped');
cmp_ok($slowest_copy, '<', 2, sprintf 'the slowest copy took %.2f s', $slowest_copy);
cmp_ok($slowest_drop, '<', 1, sprintf 'the slowest drop took %.2f s', $slowest_drop);

# The other statements.
$node->safe_psql('postgres', q{CREATE TABLESPACE space LOCATION ''});
busy('source');
cmp_ok(seconds('ALTER DATABASE source RENAME TO renamed'), '<', 1, 'a database is renamed');
is_served($node, 'renamed', 'and served under its new name');
busy('renamed');
cmp_ok(seconds('ALTER DATABASE renamed SET TABLESPACE space'), '<', 2, 'moved to another tablespace');
busy('renamed');
cmp_ok(seconds('ALTER DATABASE renamed SET TABLESPACE pg_default'), '<', 2, 'and back');
busy('renamed');
cmp_ok(seconds('CREATE DATABASE forced TEMPLATE renamed'), '<', 2, 'copied');
busy('forced');
cmp_ok(seconds('DROP DATABASE forced WITH (FORCE)'), '<', 1, 'dropped by force');
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

# While another session keeps the statement waiting, no worker starts; when its backend is ended, one does.
my ($in, $out, $err) = ('', '', '');
my $other = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('renamed') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "SELECT 'there';\n";
$other->pump until $out =~ /there/;
my $dropper = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'DROP DATABASE renamed' ], '>', \my $text, '2>', \$err);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query = 'DROP DATABASE renamed'});
$node->safe_psql('postgres', 'SELECT pg_reload_conf(); SELECT pg_sleep(0.5)');
is(served($node), '', 'a statement that waits for others keeps workers out');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'DROP DATABASE renamed'});
$dropper->finish;
is_served($node, 'renamed', 'they are back when its session was ended');
$in .= "\\q\n";
$other->finish;

# Databases whose template is the default one.
$node->safe_psql('template1', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
is_served($node, 'renamed template1', 'the template has a worker');
cmp_ok(seconds('CREATE DATABASE of_template'), '<', 2, 'a database like the default template');
is_served($node, 'of_template renamed template1', 'has one, too');
$node->stop;

done_testing();
