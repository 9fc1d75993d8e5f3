# Links that logical replication does not get over by itself: a slot that is gone, or that lost its log, and a copy of a table
# whose slot went while the node crashed. Nobody does anything about them; nothing is missing afterwards.
use strict;
use warnings;

use GpuAgentPeers;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($a, $b) = map { new_peer_node($_) } qw(a b);
my $subscription = q{(SELECT p.subscription FROM gpuagent.peer p)};
my $number = 0;

sub write_some
{
	my ($node) = @_;
	$number++;
	$node->safe_psql('postgres', qq{
		SELECT gpuagent.store_agents(array_agg('a' || i), fitness => array_agg(i * ${number}.0::float8)) FROM generate_series(1, 50) i;
		SELECT gpuagent.store_weights('expert', 'w$number', '[$number,2,3]'), gpuagent.store_agent('of $number')});
	return;
}

sub all_here
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	in_step($name, $a, $b);
	are_equal("$name: the same", $a, $b);
	is_value($_, "SELECT count(*) FROM gpuagent.agent WHERE id LIKE 'of %'", $number, "$name: nothing is missing") foreach ($a, $b);
	return;
}

$a->safe_psql('postgres', q{SELECT gpuagent.store_expert_config('expert')});
link_peers($a, $b);
write_some($a);
write_some($b);
all_here('at first');

# The slot of b on a goes while b is away, and facts of a with it.
my $slot = $b->safe_psql('postgres', q{SELECT p.slot FROM gpuagent.peer p});
$b->stop;
wait_until(sub { $a->safe_psql('postgres', "SELECT active FROM pg_replication_slots WHERE slot_name = '$slot'") eq 'f' }) or die;
write_some($a);
$a->safe_psql('postgres', "SELECT pg_drop_replication_slot('$slot'); SELECT pg_switch_wal()");
write_some($a);
$b->start;
write_some($b);
ok($a->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = '$slot' AND active"), 'a lost slot is made anew');
all_here('a lost slot');

# While b runs: its process is ended, and the slot dropped before the next one.
$b->safe_psql('postgres', 'ALTER SYSTEM SET wal_retrieve_retry_interval = 5000; SELECT pg_reload_conf()');
$a->safe_psql('postgres', "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '$slot'");
ok(wait_until(sub { ($a->psql('postgres', "SELECT pg_drop_replication_slot('$slot')"))[0] == 0 }), 'a slot is dropped');
$b->safe_psql('postgres', 'ALTER SYSTEM RESET wal_retrieve_retry_interval; SELECT pg_reload_conf()');
write_some($a);
all_here('and another one');

# A slot that was left behind for too long.
$b->stop;
$a->safe_psql('postgres', q{ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'; SELECT pg_reload_conf()});
write_some($a);
$a->safe_psql('postgres', q{SELECT pg_switch_wal(); CREATE TABLE filler AS SELECT 1 AS i; SELECT pg_switch_wal(); DROP TABLE filler; SELECT pg_switch_wal()}) foreach 1 .. 2;
$a->safe_psql('postgres', 'CHECKPOINT');
is_value($a, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = '$slot'", 'lost', 'a slot has lost its log');
$a->safe_psql('postgres', q{ALTER SYSTEM RESET max_slot_wal_keep_size; SELECT pg_reload_conf()});
$b->start;
write_some($b);
ok($a->poll_query_until('postgres', "SELECT wal_status <> 'lost' AND active FROM pg_replication_slots WHERE slot_name = '$slot'"), 'it is made anew');
all_here('a slot without its log');

# As a crash between the end of a copy, there, and its commit, here, leaves a table: copied, and no slot to go on with.
$b->safe_psql('postgres', qq{
	SET allow_system_table_mods = on;
	UPDATE pg_subscription_rel SET srsubstate = 'f' WHERE srsubid = (SELECT oid FROM pg_subscription WHERE subname = $subscription)
		AND srrelid = 'gpuagent_store.change'::regclass});
$b->restart;
write_some($a);
all_here('a copy that cannot go on');
is_value($b, q{SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'}, '0', 'is made anew');

# What is well is left alone; who may not ask peers, does not.
is_value($_, 'SELECT gpuagent_store.repair_peers()', '0', 'nothing is to be done') foreach ($a, $b);
$b->safe_psql('postgres', 'CREATE ROLE owner; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gpuagent_store TO owner; GRANT USAGE ON SCHEMA gpuagent, gpuagent_store TO owner');
is_value($b, 'SET ROLE owner; SELECT gpuagent_store.repair_peers()', '0', 'nothing without rights');
fails_with($b, q{SET ROLE owner; SELECT gpuagent_store.copy_again(1, 1)}, '42501', 'nor is anything copied');
is_value($b, q{SELECT gpuagent_store.copy_again(1, 1)}, 'f', 'no table of a subscription');
$_->stop foreach ($a, $b);
done_testing();
