# Heartbeats: beats cross and are acknowledged; stat_peer tells who is there, how long the way is and how far clocks differ.
use strict;
use warnings;

use GpuAgentPeers;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($a, $b) = map { new_peer_node($_, conf => "gpuagent.heartbeat_interval = 1s\n") } qw(a b);

sub set_on
{
	my ($node, $name, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET gpuagent.$name = '$value'");
	$node->reload;
	return wait_until(sub { $node->safe_psql('postgres', "SELECT current_setting('gpuagent.$name')::interval = '$value'::interval") eq 't' });
}

sub becomes
{
	my ($node, $query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(sub { $node->safe_psql('postgres', $query) eq $expected }, $name);
}

is_value($a, 'SELECT count(*) FROM gpuagent_store.heartbeat', '0', 'who has no peer does not beat');
is_value($a, 'SELECT count(*) FROM gpuagent.stat_peer', '0', 'and sees none');
set_on($_, 'peer_timeout', '1h') foreach ($a, $b);

# One direction: beats come, but nobody says what came of ours.
add_peer($a, $b);
my ($of_a, $of_b) = map { $_->safe_psql('postgres', 'SELECT gpuagent_store.this_node()') } ($a, $b);
becomes($a, qq{SELECT count(*) FROM gpuagent_store.heartbeat WHERE node = '$of_b' AND n > 1}, '1', 'beats of the peer come');
becomes($a, q{SELECT peer, state, last_heartbeat_at <= now(), lag IS NULL, clock_offset IS NULL FROM gpuagent.stat_peer}, 'b|active|t|t|t', 'so it is active');
is_value($b, 'SELECT string_agg(node::text, $$,$$) FROM gpuagent_store.heartbeat', $of_b, 'they go one way');

# Both: the acknowledgement is of something that was sent.
add_peer($b, $a);
becomes($a, qq{SELECT count(*) FROM gpuagent_store.heartbeat mine, gpuagent_store.heartbeat theirs WHERE mine.node = '$of_a' AND theirs.node = '$of_b'
	AND (theirs.acks #>> '{$of_a,n}')::bigint BETWEEN 2 AND mine.n}, '1', 'beats are acknowledged');
# The clock is the same one, so the difference is not more than the way makes uncertain.
becomes($_, q{SELECT state, lag > '0', abs(extract(epoch FROM clock_offset)) <= extract(epoch FROM lag) FROM gpuagent.stat_peer}, 'active|t|t', $_->name . ' measures the way') foreach ($a, $b);

# What a beat acknowledges is there: facts before a beat come before it.
$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('x', '[1]')});
my $sent = $a->safe_psql('postgres', qq{SELECT n + 1 FROM gpuagent_store.heartbeat WHERE node = '$of_a'});
becomes($a, qq{SELECT (acks #>> '{$of_a,n}')::bigint >= $sent FROM gpuagent_store.heartbeat WHERE node = '$of_b'}, 't', 'the next beat is acknowledged');
is_value($b, qq{SELECT count(*) FROM gpuagent_store.change WHERE origin = '$of_a' AND object = 'x'}, '1', 'and what was written before it is there');

# No beats for a while, or longer.
my $link = $a->safe_psql('postgres', 'SELECT subscription FROM gpuagent.peer');
$a->safe_psql('postgres', "ALTER SUBSCRIPTION $link DISABLE");
becomes($a, q{SELECT state, lag >= '3 s' FROM gpuagent.stat_peer}, 'late|t', 'without beats a peer is late');
set_on($a, 'peer_timeout', '2s');
becomes($a, q{SELECT state FROM gpuagent.stat_peer}, 'lost', 'and after the timeout lost');
set_on($a, 'peer_timeout', '1h');
$a->safe_psql('postgres', "ALTER SUBSCRIPTION $link ENABLE");
becomes($a, q{SELECT state FROM gpuagent.stat_peer}, 'active', 'it comes back');

# A copy that is made again finds the beat that is there; an older one changes nothing.
my $reached = $a->safe_psql('postgres', qq{SELECT n FROM gpuagent_store.heartbeat WHERE node = '$of_b'});
$a->safe_psql('postgres', q{SELECT gpuagent.drop_peer('b')});
is_value($a, qq{SELECT count(*) FROM gpuagent_store.heartbeat WHERE node = '$of_b'}, '0', 'a peer that is dropped has no beat');
add_peer($a, $b);
becomes($a, qq{SELECT n >= $reached FROM gpuagent_store.heartbeat WHERE node = '$of_b'}, 't', 'one that is added again has one');
becomes($_, q{SELECT state FROM gpuagent.stat_peer}, 'active', $_->name . ' sees its peer') foreach ($a, $b);
in_step('in step', $a, $b);
is_value($a, qq{BEGIN; SET LOCAL session_replication_role = replica;
	UPDATE gpuagent_store.heartbeat SET n = 1 WHERE node = '$of_b';
	INSERT INTO gpuagent_store.heartbeat VALUES ('$of_b', 1, now());
	SELECT n >= $reached FROM gpuagent_store.heartbeat WHERE node = '$of_b'; COMMIT}, 't', 'beats do not go back');

# The worker goes on after a crash.
my $n = $b->safe_psql('postgres', qq{SELECT n FROM gpuagent_store.heartbeat WHERE node = '$of_b'});
$b->stop('immediate');
$b->start;
becomes($a, qq{SELECT n > $n + 1 FROM gpuagent_store.heartbeat WHERE node = '$of_b'}, 't', 'beats go on after a crash');

# Known times: sent at 0 s, there at 3605 s by its clock, sent back at 3606 s, here at 11 s. Its clock is an hour ahead or so, and a way takes 5 s.
set_on($_, 'heartbeat_interval', '3600s') foreach ($a, $b);
$b->stop('fast');
$a->safe_psql('postgres', qq{
	UPDATE gpuagent_store.heartbeat h SET received_at = t, sent_at = t - interval '11 s' + interval '3606 s',
		acks = jsonb_build_object('$of_a', jsonb_build_object('n', 1, 'sent_at', t - interval '11 s', 'received_at', t - interval '11 s' + interval '3605 s'))
	FROM (SELECT now() AS t) t WHERE node = '$of_b'});
is_value($a, q{SELECT state, clock_offset, lag FROM gpuagent.stat_peer}, 'active|01:00:00|00:00:05', 'clock and way of known times');
$b->start;

# A hot standby shows what its node knew; nobody else may write beats.
$a->safe_psql('postgres', q{CREATE ROLE plain LOGIN; SELECT gpuagent.grant_access('plain', 'write')});
fails_with($a, q{SET ROLE plain; UPDATE gpuagent_store.heartbeat SET n = 1}, '42501', 'beats are the server\'s');
fails_with($a, q{SET ROLE plain; SELECT gpuagent_store.beat()}, '42501', 'also by its function');

done_testing();
