# gpuagent.job_nice: workers of jobs and their parallel workers lower their priority, sessions and theirs never.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# The rate keeps exports at work until they are cancelled.
my $node = new_node('nice', conf => "max_parallel_maintenance_workers = 2\nmax_parallel_workers = 8\ngpuagent.io_rate_limit = 256kB\ngpuagent.job_nice = 19\n");

# Of a process, or of its group of processes where the kernel has such groups; undef when it has ended.
sub nice_of
{
	my ($pid) = @_;
	open my $stat, '<', "/proc/$pid/stat" or return;
	my @fields = split ' ', (split /\) /, <$stat> // return)[-1];
	return $fields[16];
}

sub group_nice_of
{
	my ($pid) = @_;
	open my $group, '<', "/proc/$pid/autogroup" or return;
	return (<$group> // '') =~ /nice (-?\d+)/ ? $1 : undef;
}

(my $postmaster) = split ' ', slurp_file($node->data_dir . '/postmaster.pid');
my $base = nice_of($postmaster);
my $low = $base + 19 > 19 ? 19 : $base + 19;

# What the group of a new session of processes has after it was asked for that value, on this kernel and with what we may do here.
sub group_nice_after
{
	my ($nice) = @_;
	my $pid = open(my $child, '-|') // die "fork: $!";
	if ($pid == 0)
	{
		POSIX::setsid();
		for (my $i = 0; $i < 600; $i++)
		{
			open my $group, '>', '/proc/self/autogroup' or last;
			my $written = syswrite $group, "$nice\n";
			last if defined $written || !$!{EAGAIN};
			usleep(20_000);
		}
		print group_nice_of($$) // 'gone';
		close STDOUT;
		POSIX::_exit(0);
	}
	my $answer = <$child>;
	waitpid $pid, 0;
	return $answer;
}

sub pids
{
	my ($where) = @_;
	return split /\n/, $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $where");
}

# Until a leader and two parallel workers are there and each has what is expected; what they have then.
sub becomes
{
	my ($leader, $of, $expected) = @_;
	my @found;
	for (my $i = 0; $i < 600; $i++)
	{
		my @pids = pids("(backend_type = 'parallel worker' OR $leader)");
		@found = map { $of->($_) // 'gone' } @pids;
		return "@found" if @found == 3 && !grep { $_ ne $expected } @found;
		usleep(50_000);
	}
	return "@found";
}

$node->safe_psql('postgres', q{
	SELECT gpuagent.store_swarm('big', gpuagent.tensor('U8', '{48000000}',
		(SELECT substr(string_agg(sha512(i::text::bytea), '' ORDER BY i), 1, 48000000) FROM generate_series(1, 750000) i)));
	SELECT gpuagent.create_checkpoint('big')});

is_value($node, q{SELECT boot_val FROM pg_settings WHERE name = 'gpuagent.job_nice'}, '19', 'jobs give way by default');

# A job.
my $queue = q{SELECT job FROM gpuagent.export_checkpoint(wait => false)};
my $job = $node->safe_psql('postgres', $queue);
is(becomes(q{backend_type = 'gpuagent job'}, \&nice_of, $low), "$low $low $low", 'a job and its parallel workers have a low priority');
my $grouped = group_nice_after($low);
is(becomes(q{backend_type = 'gpuagent job'}, \&group_nice_of, $grouped), "$grouped $grouped $grouped", 'and so have their groups, where there are such');
my %others = map { nice_of($_) // $base => 1 } $postmaster, pids(q{backend_type NOT IN ('parallel worker', 'gpuagent job')});
is_deeply([ keys %others ], [$base], 'nobody else has');
is_value($node, "SELECT gpuagent.cancel_job($job), gpuagent.wait_for_job($job)", 't|cancelled', 'the job is cancelled');

# A session that exports by itself.
my ($out, $err) = ('', '');
my $session = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', q{SET application_name = 'exporter'},
	'-c', 'SELECT gpuagent.export_checkpoint()' ], '>', \$out, '2>', \$err);
my $exporter = q{(backend_type = 'client backend' AND application_name = 'exporter')};
is(becomes($exporter, \&nice_of, $base), "$base $base $base", 'a session and its parallel workers keep theirs');
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE $exporter");
$session->finish;
like($err, qr/canceling statement/, 'the session is cancelled');

# Other values.
fails_with($node, 'SET gpuagent.job_nice = 0', '55P02', 'no session has it otherwise');
$node->safe_psql('postgres', 'ALTER SYSTEM SET gpuagent.job_nice = 0');
$node->reload;
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'gpuagent job'});
$job = $node->safe_psql('postgres', $queue);
is(becomes(q{backend_type = 'gpuagent job'}, \&nice_of, $base), "$base $base $base", 'with 0 a job keeps its priority');
is_value($node, "SELECT gpuagent.cancel_job($job), gpuagent.wait_for_job($job)", 't|cancelled', 'it is cancelled, too');
$node->stop;

done_testing();
