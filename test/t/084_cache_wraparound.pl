# A row that was frozen long ago may be cached shortly before its xmin is given out again, to a new row in the same place.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "autovacuum = off\ngpuagent.max_databases = 0\n");
my $next = q{(pg_snapshot_xmax(pg_current_snapshot())::text::bigint)};

sub set_next
{
	my ($epoch, $xid) = @_;
	$node->stop;
	command_ok([ 'pg_resetwal', '-e', $epoch, '-x', $xid, '-D', $node->data_dir ], "next transaction id $epoch:$xid");
	my $segment = sprintf('%s/pg_xact/%04X', $node->data_dir, $xid >> 20);
	append_to_file($segment, "\0" x 262144) unless -e $segment;
	$node->start;
}

sub freeze
{
	$node->safe_psql('postgres', "VACUUM (FREEZE)");
	$node->safe_psql('template1', "VACUUM (FREEZE)");
	$node->safe_psql('template0', "VACUUM (FREEZE)");
}

# Uses transaction ids up to one, not including it.
sub burn
{
	my ($to) = @_;
	$node->safe_psql('postgres', "DO \$\$ BEGIN WHILE $next % 4294967296 < $to LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END \$\$");
}

sub hits_of
{
	my ($query) = @_;
	my $before = $node->safe_psql('postgres', 'SELECT hits FROM gpuagent.cache_stats()');
	$node->safe_psql('postgres', $query);
	return $node->safe_psql('postgres', 'SELECT hits FROM gpuagent.cache_stats()') - $before;
}

$node->safe_psql('postgres', 'ALTER DATABASE template0 ALLOW_CONNECTIONS true');
burn(3000);
$node->safe_psql('postgres', q{INSERT INTO gpuagent.agent (id, state) VALUES ('a', '[1]')});
my $xmin = $node->safe_psql('postgres', 'SELECT xmin FROM gpuagent.agent');
freeze();
foreach my $quarter (1 .. 3)
{
	set_next(0, $quarter << 30);
	freeze();
}

# Far from it the row is cached as any other is, and forgotten in time.
my $read = q{SELECT gpuagent.cached_state('a')};
set_next(0, 4294967296 + $xmin - (1 << 24) - 64);
$node->safe_psql('postgres', $read);
is(hits_of($read), 1, 'a row that was frozen long ago is cached');
burn(4294967296 + $xmin - (1 << 24) + 64);
is(hits_of($read), 0, 'but forgotten before its xmin comes round');

set_next(1, $xmin - 100);
$node->safe_psql('postgres', $read) foreach 1 .. 2;
$node->safe_psql('postgres', 'DELETE FROM gpuagent.agent');
$node->safe_psql('postgres', 'VACUUM (FREEZE, INDEX_CLEANUP on, TRUNCATE off) gpuagent.agent') foreach 1 .. 2;
burn($xmin);
$node->safe_psql('postgres', q{INSERT INTO gpuagent.agent (id, state) VALUES ('a', '[2]')});
is($node->safe_psql('postgres', 'SELECT ctid, xmin, state FROM gpuagent.agent'), "(0,1)|$xmin|[2]", 'another row of the same name');
is($node->safe_psql('postgres', $read), '[2]', 'is what the cache gives');
is(hits_of($read), 1, 'from then on');

done_testing();
