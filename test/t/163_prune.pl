# Pruning: facts that all nodes have and that later ones supersede go, on all nodes, whoever wrote them, in any order of the
# nodes; values, heads and conflicts stay, also for a node that joins meanwhile. Tombstones go after their grace.
use strict;
use warnings;

use GpuAgentPeers;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = "gpuagent.heartbeat_interval = 1s\ngpuagent.prune_interval = 1s\n";
my ($a, $b) = map { new_peer_node($_, conf => $conf) } qw(a b);

sub becomes
{
	my ($node, $query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(sub { $node->safe_psql('postgres', $query) eq $expected }, $name);
}

sub set_on
{
	my ($name, $value, @nodes) = @_;
	foreach my $node (@nodes)
	{
		$node->safe_psql('postgres', "ALTER SYSTEM SET gpuagent.$name = '$value'");
		$node->reload;
		wait_until(sub { $node->safe_psql('postgres', "SELECT current_setting('gpuagent.$name')::interval = replace('$value', 'd', ' days')::interval") eq 't' });
	}
	return;
}

sub facts { my ($object) = @_; return "SELECT count(*) FROM gpuagent_store.change WHERE object = '$object'"; }
sub link_state
{
	my ($node, $what) = @_;
	return $node->safe_psql('postgres', sprintf 'ALTER SUBSCRIPTION %s %s', $node->safe_psql('postgres', 'SELECT subscription FROM gpuagent.peer LIMIT 1'), $what);
}

# The number of beats of a node that have come back acknowledged.
sub beat { my ($node) = @_; return $node->safe_psql('postgres', 'SELECT n FROM gpuagent_store.heartbeat WHERE node = gpuagent_store.this_node()'); }

link_peers($a, $b);

# Of one node, and of two in turn: a chain that neither could remove alone.
$a->safe_psql('postgres', qq{SELECT gpuagent.store_agent('own', fitness => $_)}) foreach (1 .. 20);
foreach my $i (1 .. 3)
{
	$a->safe_psql('postgres', qq{SELECT gpuagent.store_agent('both', fitness => $i)});
	in_step("turn $i of a", $a, $b);
	$b->safe_psql('postgres', qq{SELECT gpuagent.store_agent('both', fitness => 10 * $i)});
	in_step("turn $i of b", $a, $b);
}
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('last')});
$b->safe_psql('postgres', q{SELECT gpuagent.store_agent('last of b')});
foreach my $node ($a, $b)
{
	becomes($node, facts('own'), '1', 'what one node wrote over is gone on ' . $node->name);
	becomes($node, facts('both'), '1', 'what two nodes wrote over is gone on ' . $node->name);
	is_value($node, q{SELECT string_agg(id || ' ' || fitness, ', ' ORDER BY id) FROM gpuagent.agent WHERE id IN ('own', 'both')}, 'both 30, own 20', 'values stay on ' . $node->name);
	is_value($node, q{SELECT count(*), count(*) FILTER (WHERE winner) FROM gpuagent_store.head h JOIN gpuagent_store.change USING (origin, seq) WHERE h.object IN ('own', 'both')}, '2|2', 'and heads on ' . $node->name);
}

# What a node may lack stays: beats go on, but one of them acknowledges none.
link_state($b, 'DISABLE');
$a->safe_psql('postgres', qq{SELECT gpuagent.store_agent('own', fitness => 20 + $_)}) foreach (1 .. 3);
$b->safe_psql('postgres', q{SELECT gpuagent.store_agent('own', fitness => 50)});
my $at = beat($a);
becomes_true(sub { beat($a) > $at + 3 }, 'a beats on');
is_value($a, q{SELECT count(*) FROM gpuagent_store.change WHERE object = 'own' AND origin = gpuagent_store.this_node()}, '4', 'nothing goes that a peer has not');
link_state($b, 'ENABLE');
in_step('linked again', $a, $b);
# Two branches: their heads stay, what is below goes.
becomes($_, facts('own'), '2', 'heads of a conflict stay on ' . $_->name) foreach ($a, $b);
is_value($_, q{SELECT heads FROM gpuagent.conflict WHERE object = 'own'}, '2', 'it is still one on ' . $_->name) foreach ($a, $b);

# Deleted: known for as long as is said, then forgotten.
$a->safe_psql('postgres', q{SELECT gpuagent.delete_agent('both'), gpuagent.store_agent('after')});
in_step('deleted', $a, $b);
becomes($_, facts('both'), '1', 'a tombstone stays on ' . $_->name) foreach ($a, $b);
$at = beat($a);
becomes_true(sub { beat($a) > $at + 1 }, 'for a while');
is_value($a, facts('both'), '1', 'for its grace');
set_on('tombstone_grace', '0', $a, $b);
becomes($_, q{SELECT (SELECT count(*) FROM gpuagent_store.change WHERE object = 'both') + (SELECT count(*) FROM gpuagent_store.head WHERE object = 'both')}, '0',
	'and goes on ' . $_->name) foreach ($a, $b);
becomes($_, q{SELECT count(*) FROM gpuagent_store.waiting}, '0', 'nothing waits on ' . $_->name) foreach ($a, $b);
set_on('tombstone_grace', '7 d', $a, $b);

# Under conflicting writes, while a node joins.
my $log = $PostgreSQL::Test::Utils::tmp_check . '/acknowledged';
my @writers = map { start_writer($_, 'w' . $_->name, 1, $log) } ($a, $b);
my $c = new_peer_node('c', conf => $conf);
foreach my $node ($a, $b)
{
	add_peer($c, $node);
	add_peer($node, $c);
}
push @writers, start_writer($c, 'wc', 3, $log);
$at = beat($c) || 0;
becomes_true(sub { (beat($c) || 0) > $at + 1 }, 'the third node beats');
stop_writer($_) foreach @writers;
in_step('three nodes', $a, $b, $c);
# Nothing is left to remove, on any of them: then they are equal, facts included.
my $superseded = q{SELECT count(*) FROM gpuagent_store.change c WHERE NOT EXISTS (SELECT FROM gpuagent_store.head h WHERE h.origin = c.origin AND h.seq = c.seq)};
foreach my $node ($a, $b, $c)
{
	becomes_true(sub { $node->safe_psql('postgres', $superseded) eq '0' }, $node->name . ' has only heads');
}
set_on('prune_interval', '0', $a, $b, $c);
in_step('all pruned', $a, $b, $c);
are_equal('all pruned', $a, $b, $c);
is_value($a, q{SELECT count(*) > 0 FROM gpuagent.agent WHERE id LIKE 'of %'}, 't', 'something was written');

done_testing();
