# GpuAgentPeers - helpers of the tests of peers.
#
#   my @nodes = map { new_peer_node($_) } qw(a b c);    # started, with the settings that links need
#   link_peers(@nodes);                                 # each of them to each other one
#   in_step('written', @nodes);                         # what all have committed is on all, and in their tables
#   are_equal('written', @nodes);                       # and it is the same: facts, contents, values
#   my $writer = start_writer($node, $name, $seed, $log);    # conflicting writes; $log gets what was acknowledged
#   stop_writer($writer);
package GpuAgentPeers;

use strict;
use warnings;

use Exporter 'import';
use GpuAgentTest;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(new_peer_node conninfo_of add_peer link_peers in_step differences are_equal start_writer stop_writer);

sub new_peer_node
{
	my ($name, %option) = @_;
	my $conf = "wal_level = logical\nmax_worker_processes = 24\nmax_logical_replication_workers = 12\nmax_wal_senders = 20\n"
		. "max_replication_slots = 20\nwal_retrieve_retry_interval = 200ms\ngpuagent.peer_sync_interval = 1s\ngpuagent.prune_interval = 0\nrestart_after_crash = on\n";

	return new_node($name, %option, conf => $conf . ($option{conf} // ''));
}

sub conninfo_of { return $_[0]->connstr('postgres') . ' user=' . (getpwuid($<))[0]; }

sub add_peer
{
	my ($node, $other) = @_;
	return $node->safe_psql('postgres', sprintf("SELECT gpuagent.add_peer('%s', \$\$%s\$\$)", $other->name, conninfo_of($other)));
}

sub link_peers
{
	my @nodes = @_;
	foreach my $node (@nodes)
	{
		add_peer($node, $_) foreach grep { $_ != $node } @nodes;
	}
	return;
}

# Until all that these nodes have committed is on all of them, and in their tables. False when that takes too long.
sub are_in_step
{
	my ($seconds, @nodes) = @_;

	foreach my $round (1 .. 2)
	{
		foreach my $node (@nodes)
		{
			my ($rc, $out) = $node->psql('postgres', "SELECT gpuagent.wait_for_sync(timeout => '$seconds s')");
			return 0 if $rc != 0 || $out ne 't';
		}
	}
	# What a session had locked when facts were followed is tried again by the worker.
	foreach my $node (@nodes)
	{
		wait_until(sub { $node->safe_psql('postgres', 'SELECT gpuagent_store.follow_peers(); SELECT count(*) FROM gpuagent_store.waiting') eq "0\n0" }, $seconds)
			or return 0;
	}
	return 1;
}

sub in_step
{
	my ($name, @nodes) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(are_in_step($PostgreSQL::Test::Utils::timeout_default, @nodes), $name);
}

# What has to be equal: facts and contents; heads and winners; values, without what each node counts by itself.
my %equal = (
	facts => q{SELECT origin, seq, hlc, class, object, part, deleted, version, fitness, parents, body, parts FROM gpuagent_store.change},
	contents => q{SELECT DISTINCT hash, origin, kind, nbytes, dtype, shape, md5(data) FROM gpuagent_store.payload},
	heads => q{SELECT * FROM gpuagent_store.head},
	conflicts => q{SELECT * FROM gpuagent.conflict},
	agents => q{SELECT id, gpuagent.tensor_bytes(state), gpuagent.shape(state), gpuagent.tensor_bytes(memory), generation, fitness, metadata FROM gpuagent.agent},
	experts => q{SELECT expert, domain, parameter_count, learning_rate, architecture, metadata FROM gpuagent.expert},
	weights => q{SELECT e.expert, l.layer, gpuagent.tensor_hash(l.weights), gpuagent.tensor_hash(l.biases) FROM gpuagent.expert e, gpuagent.load_weights(e.expert) l},
);

# What differs between nodes: "what: node".
sub differences
{
	my ($first, @others) = @_;
	my @found;

	foreach my $what (sort keys %equal)
	{
		my $query = "SELECT count(*) || ' ' || COALESCE(md5(string_agg(md5(r::text), '' ORDER BY md5(r::text))), '') FROM ($equal{$what}) r";
		my $expected = $first->safe_psql('postgres', $query);

		foreach my $node (@others)
		{
			my $got = $node->safe_psql('postgres', $query);
			push @found, "$what: $got on " . $node->name . ", $expected on " . $first->name if $got ne $expected;
		}
	}
	return @found;
}

sub are_equal
{
	my ($name, @nodes) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(join("\n", differences(@nodes)), '', $name);
}

# One transaction of a writer: it writes keys that others write, and one of its own that tells of it. psql prints that
# when the commit is acknowledged.
sub transaction
{
	my ($token) = @_;
	my $key = 'k' . int(rand(8));
	my $value = int(rand(1000));
	my @kinds = (
		qq{gpuagent.store_agent('$key', '[$value]', fitness => $value, metadata => '{"of": "$token"}')},
		qq{gpuagent.store_agents(ARRAY['k1', 'k2', 'k3'], fitness => ARRAY[$value, $value, $value]::float8[])},
		qq{gpuagent.delete_agent('$key')},
		qq{gpuagent.store_weights('$key', 'w', '[$value,1]'), gpuagent.store_weights('$key', 'v', '[$value,2]')},
		qq{gpuagent.store_expert_config('$key', '$token')},
		qq{gpuagent.delete_expert('$key')});
	my $kind = $kinds[ (0, 0, 0, 1, 1, 2, 3, 3, 3, 4, 4, 5)[ int(rand(12)) ] ];

	return qq{SELECT '$token', gpuagent.store_agent('of $token', metadata => '{}'), $kind;\n};
}

# A process that writes to a node for as long as it is let, whatever happens to the server.
sub start_writer
{
	my ($node, $name, $seed, $log) = @_;
	my @command = ($node->installed_command('psql'), '-XAtq', '-h', $node->host, '-p', $node->port, '-o', "$log.last", '-d', 'postgres');
	my $pid = fork // die "fork: $!";

	return $pid if $pid;
	my $stop = 0;
	local $SIG{TERM} = sub { $stop = 1 };
	srand($seed);
	open(STDERR, '>>', "$log.err");
	for (my $n = 1; !$stop;)
	{
		my $script = '';

		for (1 .. 10) { $script .= transaction("$name " . $n++) . 'SELECT pg_sleep(' . rand(0.02) . ");\n"; }
		unlink "$log.last";
		if (open(my $psql, '|-', @command))
		{
			local $SIG{PIPE} = 'IGNORE';
			print $psql $script;
			close($psql);
		}
		if (-e "$log.last")
		{
			open(my $in, '<', "$log.last");
			open(my $out, '>>', $log);
			print $out map { /^([^|]+)\|/ ? "$1\n" : () } <$in>;
			close($out);
		}
		usleep(50_000);
	}
	POSIX::_exit(0);
}

sub stop_writer
{
	my ($pid) = @_;
	kill 'TERM', $pid;
	waitpid($pid, 0);
	return;
}

1;
