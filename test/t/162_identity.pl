# Old states and copies of nodes: nothing that they write comes under the node's name, and a new one makes them a node that
# has everything. Files that were only moved are confirmed by the peers. A clock that is ahead stops writing, too.
use strict;
use warnings;

use File::Path qw(rmtree);
use GpuAgentPeers;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;

my $beats = "gpuagent.heartbeat_interval = 1s\n";
my ($a, $b) = map { new_peer_node($_, allows_streaming => 'logical', conf => $beats) } qw(a b);
my $write = q{SELECT gpuagent.store_agent('refused', '[1]')};
my $problem = q{SELECT problem FROM gpuagent_store.site};

sub becomes
{
	my ($node, $query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(sub { $node->safe_psql('postgres', $query) eq $expected }, $name);
}

sub copy_files { my ($from, $to) = @_; rmtree($to); system_or_bail('cp', '-a', $from, $to); return; }

link_peers($a, $b);
my $of_a = $a->safe_psql('postgres', 'SELECT gpuagent_store.this_node()');
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('k1', '[1]'), gpuagent.store_agent('k2', '[1]'), gpuagent.store_weights('e', 'w', '[1,2]')});
$b->safe_psql('postgres', q{SELECT gpuagent.store_agent('k3', '[1]')});
in_step('two nodes', $a, $b);
becomes($b, q{SELECT count(*) FROM gpuagent_store.heartbeat WHERE acks <> '{}'}, '2', 'they acknowledge');

# Files that were moved are others, and the peer knows of nothing newer.
my $saved = $PostgreSQL::Test::Utils::tmp_check . '/saved';
$a->stop;
copy_files($a->data_dir, $saved);
copy_files($saved, $a->data_dir);
$b->safe_psql('postgres', q{ALTER SUBSCRIPTION } . $b->safe_psql('postgres', 'SELECT subscription FROM gpuagent.peer') . ' DISABLE');
$b->append_conf('postgresql.conf', 'gpuagent.heartbeat_interval = 3600s');
$b->reload;
wait_until(sub { $b->safe_psql('postgres', 'SHOW gpuagent.heartbeat_interval') eq '1h' });
$a->start;
fails_with($a, $write, '55000', 'moved files are not trusted');
fails_with($a, q{DELETE FROM gpuagent.agent}, '55000', 'by no statement');
becomes($a, $problem, 'copy', 'which the worker finds, too');
is_value($a, q{SELECT count(*) FROM gpuagent.agent}, '3', 'reading goes on');
$b->append_conf('postgresql.conf', 'gpuagent.heartbeat_interval = 1s');
$b->reload;
$b->safe_psql('postgres', q{ALTER SUBSCRIPTION } . $b->safe_psql('postgres', 'SELECT subscription FROM gpuagent.peer') . ' ENABLE');
becomes($a, q{SELECT problem IS NULL AND files = gpuagent_store.files_identity() FROM gpuagent_store.site}, 't', 'beats of the peer confirm them');
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('k2', '[2]'), gpuagent.store_weights('e', 'w', '[3,4]'), gpuagent.delete_agent('k1'), gpuagent.store_agent('k4', '[4]')});
in_step('after a move', $a, $b);
are_equal('after a move', $a, $b);

# An old state: what it wrote afterwards is at the peer only.
$a->stop;
copy_files($saved, $a->data_dir);
$a->start;
fails_with($a, $write, '55000', 'nothing is written by an old state');
becomes($a, $problem, 'old', 'that it is one is found out');
fails_with($a, $write, '55000', 'and nothing written afterwards');
is_value($b, q{SELECT count(*) FROM gpuagent_store.change WHERE object = 'refused'}, '0', 'not a fact of it was sent');
# Not fast: the peer's subscription asks for a position that this server has not reached, and a shutdown waits for it.
$a->stop('immediate');
$a->start;
fails_with($a, $write, '55000', 'a restart changes nothing');
fails_with($a, q{CREATE ROLE plain LOGIN; SELECT gpuagent.grant_access('plain', 'admin'); SET ROLE plain; SELECT gpuagent.new_incarnation()}, '42501', 'a superuser decides');
my $new = $a->safe_psql('postgres', 'SELECT gpuagent.new_incarnation()');
isnt($new, $of_a, 'it gets a new name');
is_value($a, q{SELECT gpuagent_store.this_node()}, $new, 'under which it is a node');
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('k5', '[5]')});
# The peer takes it as the new node that it is.
$b->safe_psql('postgres', q{SELECT gpuagent.drop_peer('a')});
add_peer($b, $a);
in_step('a new incarnation', $a, $b);
are_equal('a new incarnation', $a, $b);
is_value($a, q{SELECT string_agg(id || ' ' || gpuagent.element(state, 1), ', ' ORDER BY id) FROM gpuagent.agent}, 'k2 2, k3 1, k4 4, k5 5', 'what it had written came back');
is_value($a, q{SELECT gpuagent.element(weights, 1) FROM gpuagent.load_weights('e')}, '3', 'with weights');
is_value($a, q{SELECT count(*) FROM gpuagent.conflict}, '0', 'and nothing is in conflict');
becomes($_, q{SELECT peer, state FROM gpuagent.stat_peer}, ($_ == $a ? 'b' : 'a') . '|active', $_->name . ' sees its peer') foreach ($a, $b);
$b->safe_psql('postgres', q{SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active});

# Who joins later gets what the node that is gone wrote, from those that have it.
my $c = new_peer_node('c', conf => $beats);
foreach my $node ($a, $b)
{
	add_peer($c, $node);
	add_peer($node, $c);
}
in_step('a third node', $a, $b, $c);
are_equal('a third node', $a, $b, $c);
isnt($c->safe_psql('postgres', qq{SELECT count(*) FROM gpuagent_store.change WHERE origin = '$of_a'}), '0', 'with the facts of the node that is gone');
$c->safe_psql('postgres', q{SELECT gpuagent.drop_peer('a'), gpuagent.drop_peer('b')});
$_->safe_psql('postgres', q{SELECT gpuagent.drop_peer('c')}) foreach ($a, $b);
$c->stop;

# A copy that runs beside the node, of a moment ago: refused, though nobody knows of anything newer.
$a->backup('beside');
my $d = PostgreSQL::Test::Cluster->new('d');
$d->init_from_backup($a, 'beside', has_streaming => 0);
$d->append_conf('postgresql.conf', 'gpuagent.storage_path = ' . "'" . $d->basedir . "/tree'");
$d->start;
fails_with($d, $write, '55000', 'a copy beside the node writes nothing');
is_value($a, q{SELECT gpuagent.store_agent('k6', '[6]') IS NULL}, 'f', 'the node does');
$d->safe_psql('postgres', q{SELECT gpuagent.drop_peer('b')});
is_value($b, q{SELECT count(*) FROM pg_replication_slots WHERE database = 'postgres'}, '1', 'what it gives up stays the node\'s');
$d->safe_psql('postgres', $write);
is_value($d, q{SELECT gpuagent_store.this_node() IS NULL}, 't', 'without peers it is no node and may be written to');
$d->stop;
in_step('after the copy', $a, $b);

# The clock. Known times: our beat was sent an hour after it came there.
sub clock_ahead
{
	my ($node, $by) = @_;
	return $node->safe_psql('postgres', qq{
		UPDATE gpuagent_store.heartbeat h SET received_at = now(), acks = jsonb_build_object(gpuagent_store.this_node(),
			jsonb_build_object('n', 1, 'sent_at', now(), 'received_at', now() - interval '$by')) WHERE node <> gpuagent_store.this_node();
		SELECT gpuagent_store.beat()});
}
$b->stop;
clock_ahead($a, '3600 s');
fails_with($a, $write, '55000', 'with a clock that is ahead nothing is written');
is_value($a, $problem, 'clock', 'because of the clock');
clock_ahead($a, '400 ms');
is_value($a, qq{$write IS NULL}, 'f', 'a little is allowed');
clock_ahead($a, '-3600 s');
is_value($a, qq{$write IS NULL}, 'f', 'behind does no harm');
$a->append_conf('postgresql.conf', 'gpuagent.max_clock_offset = 0');
$a->reload;
wait_until(sub { $a->safe_psql('postgres', 'SHOW gpuagent.max_clock_offset') eq '0' });
clock_ahead($a, '3600 s');
is_value($a, qq{$write IS NULL}, 'f', 'or any, if so set');

done_testing();
