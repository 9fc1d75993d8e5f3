# A database with the extension has one maintenance worker, as soon as the extension is committed and until it is gone,
# within gpuagent.max_databases and max_worker_processes; workers and the launcher come back when they are ended, cost
# nothing while idle, and do not delay a shutdown.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('main', setup => 0, conf => "gpuagent.max_databases = 2\n");
my $pid_of = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance' AND datname = };
my $launcher = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'gpuagent launcher'};

sub log_count
{
	my ($pattern) = @_;
	my $log = slurp_file($node->logfile);
	return scalar(() = $log =~ /$pattern/g);
}

sub databases
{
	my ($database) = @_;
	return $node->safe_psql($database, q{SELECT status FROM gpuagent.check_setup() WHERE item = 'workers'});
}

# Coming and going.
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(a b c);
is_served($node, '', 'no extension, no worker');
$node->safe_psql('a', 'BEGIN; CREATE EXTENSION gpuagent; ROLLBACK');
$node->append_conf('postgresql.conf', "gpuagent.launcher_interval = 1d\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('gpuagent.launcher_interval') = '1d'});
is_served($node, '', 'the launcher has looked');
$node->safe_psql('a', 'CREATE EXTENSION gpuagent');
is_served($node, 'a', 'a database that gets the extension gets a worker before the launcher looks by itself');
$node->append_conf('postgresql.conf', "gpuagent.launcher_interval = 10s\n");
$node->reload;
my $pid = $node->safe_psql('postgres', "$pid_of 'a'");
$node->safe_psql('a', 'BEGIN; DROP EXTENSION gpuagent CASCADE; ROLLBACK');
$node->safe_psql('a', 'SELECT gpuagent.setup()');
is($node->safe_psql('postgres', "$pid_of 'a'"), $pid, 'a drop that is rolled back changes nothing');
$node->safe_psql('a', 'DROP SCHEMA gpuagent CASCADE');
is_served($node, '', 'without the extension the worker goes, even when it is a cascade that drops it');
$node->safe_psql('a', 'DROP SCHEMA IF EXISTS gpuagent_store CASCADE');
$node->safe_psql('a', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
$node->safe_psql('b', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
is_served($node, 'a b', 'two databases have one each');

# The limit.
$node->safe_psql('c', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
$node->poll_query_until('c', q{SELECT status = 'warning' FROM gpuagent.check_setup() WHERE item = 'workers'});
is(databases('a') . databases('c'), 'okwarning', 'check_setup() warns where no worker can be had');
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
is_served($node, 'a b', 'there are no more than gpuagent.max_databases');
is(log_count(qr/database "c" gets no maintenance worker/), 1, 'the log says so once');
$node->safe_psql('postgres', 'ALTER DATABASE a ALLOW_CONNECTIONS false; SELECT pg_reload_conf()');
is_served($node, 'b c', 'a database that allows no connections loses its worker to the one that waits');
is(databases('c'), 'ok', 'and check_setup() is content');
$node->safe_psql('postgres', 'ALTER DATABASE a ALLOW_CONNECTIONS true; SELECT pg_reload_conf()');
$node->safe_psql('postgres', 'DROP DATABASE b');
is_served($node, 'a c', 'as does one that is dropped');

# Ended by somebody; a start of a new launcher keeps the workers that run.
$pid = $node->safe_psql('postgres', "$pid_of 'a'");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($pid_of 'a' AND pid <> $pid) s"), 'a worker that was ended comes back');
$pid = $node->safe_psql('postgres', "$pid_of 'a'");
my $first = $node->safe_psql('postgres', $launcher);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($first)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($launcher AND pid <> $first) s"), 'so does the launcher');
$node->safe_psql('postgres', 'CREATE DATABASE d');
$node->safe_psql('postgres', 'DROP DATABASE c');
$node->safe_psql('d', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
is_served($node, 'a d', 'it goes on from there');
is($node->safe_psql('postgres', "$pid_of 'a'"), $pid, 'with the worker that it found');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($pid_of 'a' AND pid <> $pid) s"), 'and sees it end');

# Idle: no snapshot, no transaction, hardly a wake-up.
is_value($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^gpuagent (launcher|maintenance)' AND
	(backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR xact_start IS NOT NULL OR state <> 'idle')}, 0, 'idle workers hold back no VACUUM');
$pid = $node->safe_psql('postgres', "$pid_of 'a'");
if (-e "/proc/$pid/status")
{
	my $wakeups = sub { slurp_file("/proc/$_[0]/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m; return $1; };
	$first = $node->safe_psql('postgres', $launcher);
	# Once they have done what there was to do.
	my ($of_worker, $of_launcher);
	becomes_true(sub {
		my ($before, $before_launcher) = ($wakeups->($pid), $wakeups->($first));
		sleep 2;
		($of_worker, $of_launcher) = ($wakeups->($pid) - $before, $wakeups->($first) - $before_launcher);
		return $of_worker <= 3 && $of_launcher <= 8;
	}, 'an idle worker and an idle launcher sleep') or diag "woken up $of_worker and $of_launcher times";
}

# A failing task costs itself a pause, not the worker; a long one shows itself, and a shutdown does not wait for it.
set_task($node, 'a', 'prewarm_cache', q{RAISE EXCEPTION 'this task fails'});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($pid_of 'a' AND pid <> $pid) s"), 'the worker is back');
$pid = $node->safe_psql('postgres', "$pid_of 'a'");
becomes_true(sub { log_count(qr/this task fails/) >= 2 }, 'a task that fails is logged and tried again');
like(slurp_file($node->logfile), qr/maintenance task "prewarm_cache"/, 'by its name');
is($node->safe_psql('postgres', "$pid_of 'a'"), $pid, 'and the worker lives');
set_task($node, 'a', 'prewarm_cache', 'PERFORM pg_sleep(600)');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active'
	AND query = 'SELECT gpuagent_store.prewarm_cache()' AND application_name = 'gpuagent maintenance'}), 'a task is seen in pg_stat_activity');
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 120, 'a fast shutdown does not wait for a task');	# of ten minutes

# Restarted, with too few processes, and for an upgrade.
$node->start;
is_served($node, 'a d', 'after a restart all are served again');
# Supervisor, launcher and the server's own launcher of logical replication leave no process, or one, for two databases.
$node->append_conf('postgresql.conf', "max_worker_processes = 3\n");
$node->restart;
becomes_true(sub { databases('a') . databases('d') =~ /warning/ }, 'check_setup() tells of a lack of processes');
is(log_count(qr/no background worker is free for database/), 1, 'the log once');
$node->append_conf('postgresql.conf', "max_worker_processes = 1\n");
$node->restart;
is(databases('a'), 'warning', 'and when not even the launcher runs');
$node->append_conf('postgresql.conf', "max_worker_processes = 12\n");
$node->stop;
$node->command_ok(['pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, '-o', '-b', 'start'], 'started as pg_upgrade does');
is_value($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^gpuagent (launcher|maintenance)'}, 0, 'there are no workers then');
$node->command_ok(['pg_ctl', '-w', '-D', $node->data_dir, 'stop'], 'stopped');
$node->start;
is_served($node, 'a d', 'and with enough processes all are served');
$node->stop;

# Not preloaded.
my $bare = new_node('bare', preload => 0);
is(served($bare), '', 'without preloading there are no workers');
is_value($bare, q{SELECT count(*) FROM gpuagent.check_setup() WHERE item = 'workers'}, 0, 'and check_setup() speaks of preloading only');
$bare->safe_psql('postgres', 'CREATE DATABASE x; ');
$bare->safe_psql('postgres', 'DROP DATABASE x');
$bare->stop;

done_testing();
