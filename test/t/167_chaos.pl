# Chaos: three nodes are written to at once, under common keys, while processes and whole servers are killed, links are
# disabled and slots dropped. After each round all nodes have the same facts and values, and all that was acknowledged.
# The short form is a few rounds; "make chaos ROUNDS=n SEED=s" does more of them.
use strict;
use warnings;

use GpuAgentPeers;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $rounds = $ENV{GA_CHAOS_ROUNDS} || 3;
my $seed = $ENV{GA_CHAOS_SEED} || 1;
my @nodes = map { new_peer_node($_) } qw(a b c);
my $log = $PostgreSQL::Test::Utils::tmp_check . '/acknowledged';

note "$rounds rounds, seed $seed";
srand($seed);

sub one_of { return $_[ int(rand(scalar @_)) ]; }
sub other_than { my ($node) = @_; return one_of(grep { $_ != $node } @nodes); }
sub nap { usleep(rand(600_000)); return; }

# A query that may have to be tried again, for the server may be starting.
sub patiently
{
	my ($node, $query) = @_;
	my $last;
	wait_until(sub { my ($rc, $out, $err) = $node->psql('postgres', $query); $last = $err; return $rc == 0; }) or die $node->name . ": $query: $last";
	return;
}

sub answers { my ($node) = @_; return wait_until(sub { ($node->psql('postgres', 'SELECT true'))[0] == 0 }) || die $node->name . ' does not answer'; }

# What was acknowledged and is not there.
sub lost
{
	my ($node) = @_;
	my %there = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{SELECT substr(id, 4) FROM gpuagent.agent WHERE id LIKE 'of %'});
	my @acknowledged = map { split /\n/, slurp_file($_) } glob("$log.*[0-9]");

	note scalar(@acknowledged) . ' transactions were acknowledged, ' . keys(%there) . ' are there';
	return grep { !$there{$_} } @acknowledged;
}

my %action = (
	# Of any process; the server restarts by itself.
	kill_process => sub {
		my $node = one_of(@nodes);
		my $kind = one_of('walsender', 'logical replication worker', 'gpuagent maintenance', 'client backend', 'checkpointer', 'walwriter', 'logical replication launcher');
		my ($rc, $pid) = $node->psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$kind' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
		return 'nobody' unless $pid;
		kill 'KILL', $pid;
		usleep(100_000);
		return $node->name . ": $kind";
	},
	kill_postmaster => sub {
		my $node = one_of(@nodes);
		my $pid = $node->{_pid};
		$node->kill9;
		nap();
		# Until somebody has waited for it, it holds the data directory.
		wait_until(sub { !kill 0, $pid }) or die 'the postmaster stays';
		wait_until(sub { $node->start(fail_ok => 1) }) or die 'the server does not start';
		return $node->name;
	},
	stop => sub {
		my $node = one_of(@nodes);
		my $mode = one_of('fast', 'immediate');
		answers($node);
		$node->stop($mode);
		nap();
		$node->start;
		return $node->name . " $mode";
	},
	lose_slot => sub {
		my $node = one_of(@nodes);
		my ($rc, $slot) = $node->psql('postgres', q{SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'gpuagent%' ORDER BY random() LIMIT 1});
		return 'none' unless $slot;
		# Before its next user is there.
		my ($refused) = $node->psql('postgres', qq{
			DO \$\$
			BEGIN
				PERFORM pg_terminate_backend(s.active_pid) FROM pg_replication_slots s WHERE s.slot_name = '$slot';
				FOR i IN 1 .. 100 LOOP
					BEGIN
						PERFORM pg_drop_replication_slot('$slot');
						RETURN;
					EXCEPTION WHEN object_in_use THEN
						PERFORM pg_sleep(0.002);
					END;
				END LOOP;
				RAISE 'it is in use';
			END
			\$\$});
		return $node->name . ($refused ? ' keeps it' : '');
	},
	disable_link => sub {
		my $node = one_of(@nodes);
		my $other = other_than($node);
		foreach my $what ('DISABLE', 'ENABLE')
		{
			patiently($node, sprintf(q{DO $$BEGIN EXECUTE format('ALTER SUBSCRIPTION %%I %s', (SELECT subscription FROM gpuagent.peer WHERE peer = '%s')); END$$},
				$what, $other->name));
			nap();
			nap();
		}
		return $node->name . ' from ' . $other->name;
	});

link_peers(@nodes);
my $writers = 0;
foreach my $round (1 .. $rounds)
{
	my @writers = map { start_writer($_, "$round." . ++$writers, $seed * 1000 + $writers, "$log.$writers") } (@nodes, @nodes[ 0, 1 ]);
	my @did;

	nap();
	foreach (1 .. 1 + int(rand(3)))
	{
		my $name = one_of(sort keys %action);
		my $on = $action{$name}->();

		push @did, "$name ($on)";
		nap();
	}
	stop_writer($_) foreach @writers;
	answers($_) foreach @nodes;
	last unless in_step("round $round: in step after " . join(', ', @did), @nodes);
	are_equal("round $round: all nodes are equal", @nodes);
	# Equal on all, so one tells.
	last unless is(join(' ', lost($nodes[0])), '', "round $round: all that was acknowledged is there");
}

done_testing();
