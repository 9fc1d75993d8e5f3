# GpuAgentTest - helpers of the TAP tests, on top of PostgreSQL::Test::Cluster.
#
#   use lib 'test/perl';
#   use GpuAgentTest;
#   my $node = new_node('main');                        # started, extension and tables in place
#   my $node = new_node('main', preload => 0, allows_streaming => 1, conf => "wal_level = logical\n");
#   is_value($node, 'SELECT 1', '1', 'one');            # psql -At text of a query
#   my $digest = digest($node);                         # name => digest of each table of the extension
#   is_served($node, 'a b', 'both have a worker');      # databases with a maintenance worker, soon
#   set_task($node, 'a', 'prewarm_cache', 'PERFORM pg_sleep(600)');      # what a task of a database's worker does
#   my $node = new_node('main', conf => device_conf());  # with a device process: an emulated one, or of $GA_DEVICE_PROGRAM
#   wait_for_service($node);                            # until it serves, or is in another state
#   becomes_true(sub { -e $file }, 'a file appears');      # a condition that others make true, however slow the machine
#   kill_and_recover($node, $pid);                      # kill -9 of a process of the server, which has started anew afterwards
package GpuAgentTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Time::HiRes qw(usleep time);

our @EXPORT = qw($only_context new_node is_value fails_with digest device_conf wait_for_service served is_served set_task
	wait_until becomes_true is_gone kill_and_recover);

# SQL: no memory of the first GPU is taken but that of the context.
our $only_context = q{(SELECT d.memory_used_bytes = m.used_bytes FROM gpuagent.stat_device d JOIN gpuagent.stat_memory m USING (device)
	WHERE d.device = 'cuda:0' AND m.kind = 'context')};

# Make and start a cluster with the extension and its tables in database postgres.  Options: preload (default 1),
# setup (default 1), conf (lines of postgresql.conf), and those of PostgreSQL::Test::Cluster's init.
sub new_node
{
	my ($name, %option) = @_;
	my $preload = delete $option{preload} // 1;
	my $setup = delete $option{setup} // 1;
	my $conf = delete $option{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%option);
	$node->append_conf('postgresql.conf', "jit = off\n");
	$node->append_conf('postgresql.conf', "gpuagent.auto_save_interval = 0\n");
	$node->append_conf('postgresql.conf', "gpuagent.job_nice = 0\n");	# tests wait for jobs, whatever else the machine does
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'gpuagent'\n") if $preload;
	$node->append_conf('postgresql.conf', $conf) if $conf;
	$node->start;
	if ($setup)
	{
		$node->safe_psql('postgres', 'CREATE EXTENSION gpuagent');
		$node->safe_psql('postgres', 'SELECT gpuagent.setup()');
	}
	return $node;
}

# A query's text result is as expected.
sub is_value
{
	my ($node, $query, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($node->safe_psql('postgres', $query), $expected, $name);
}

# A query fails with an SQLSTATE.
sub fails_with
{
	my ($node, $query, $sqlstate, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY sqlstate\n$query");
	return like($stderr, qr/ERROR:  \Q$sqlstate\E/, $name);
}

# Digest each table of the extension as its owner sees it, in the order of its rows' text, so that two databases
# hold the same exactly when their digests are equal.  Returns a hash reference: table => "rows md5".
sub digest
{
	my ($node, $database) = @_;
	$database //= 'postgres';
	my %result;
	my @tables = split /\n/, $node->safe_psql($database, q{
		SELECT c.oid::regclass FROM pg_class c
		WHERE c.relkind IN ('r', 'p') AND c.relnamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace)
		ORDER BY 1::text COLLATE "C"});
	foreach my $table (@tables)
	{
		$result{$table} = $node->safe_psql($database, qq{
			SELECT pg_catalog.count(*) || ' ' || pg_catalog.md5(pg_catalog.string_agg(pg_catalog.md5(t::text), '' ORDER BY pg_catalog.md5(t::text)))
			FROM $table t});
	}
	return \%result;
}

# Wait until code returns true: as long as the server's own tests wait for something, which only failures do. False after that.
sub wait_until
{
	my ($condition, $seconds) = @_;
	my $end = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);

	until ($condition->())
	{
		return 0 if time > $end;
		usleep(20_000);
	}
	return 1;
}

# A condition comes true by the work of others: a test.
sub becomes_true
{
	my ($condition, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_until($condition), $name);
}

# A process is gone, though nobody may have asked for its exit status.
sub is_gone
{
	my ($pid, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(sub { (eval { slurp_file("/proc/$pid/stat") } // ') Z ') =~ /\) Z / }, $name);
}

# Kill a process of a server that restarts after a crash, and wait until it has: not until it answers, which it does before
# it has noticed.
sub kill_and_recover
{
	my ($node, $pid) = @_;
	my $log = -s $node->logfile;

	die 'no process to be killed' unless $pid;
	kill 'KILL', $pid;
	wait_until(sub { slurp_file($node->logfile, $log) =~ /all server processes terminated; reinitializing/ }) or die 'the server does not notice';
	return $node->poll_query_until('postgres', 'SELECT true') || die 'the server does not come back';
}

# Databases that have a maintenance worker, in order of their names.
sub served
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{
		SELECT string_agg(datname, ' ' ORDER BY datname COLLATE "C") FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance'});
}

# These databases, and no others, have a maintenance worker before long.
sub is_served
{
	my ($node, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $served;

	wait_until(sub { ($served = served($node)) eq $expected });
	return is($served, $expected, $name);
}

# Replace the function of a maintenance task by PL/pgSQL of the test's own; a running worker calls it when it is due.
sub set_task
{
	my ($node, $database, $function, $body) = @_;
	$node->safe_psql($database, qq{
		DO \$do\$
		DECLARE
			result text := COALESCE(pg_get_function_result(to_regprocedure('gpuagent_store.$function()')), 'void');
		BEGIN
			EXECUTE format('CREATE OR REPLACE FUNCTION gpuagent_store.$function() RETURNS %s LANGUAGE plpgsql AS %L',
				result, 'BEGIN ' || \$body\$$body\$body\$ || '; RETURN' || CASE WHEN result <> 'void' THEN ' NULL' ELSE '' END || '; END');
		END
		\$do\$});
}

# Lines of postgresql.conf that give a server a device process; with a true argument, always the emulated one.
sub device_conf
{
	my ($emulated) = @_;
	my $name = $emulated ? 'GA_DEVICE_EMULATED' : 'GA_DEVICE_PROGRAM';
	my $program = $ENV{$name} // die "$name is not set: the path of build/device/gpuagent_device_emulated";

	return "gpuagent.device = cuda\ngpuagent.device_program = '$program'\n";
}

# Wait until the device process is in a state: ready, starting, backoff, no_device or stopped.
sub wait_for_service
{
	my ($node, $state) = @_;
	$state //= 'ready';
	return $node->poll_query_until('postgres', "SELECT gpuagent_store.device_service() = '$state'")
		|| die "the device process is not $state";
}

1;
