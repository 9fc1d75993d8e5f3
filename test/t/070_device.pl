# gpuagent_device dies, fails and hangs under load, and so do its clients: no session is lost, no answer is wrong, and
# afterwards every slot and every block of the arena is free and the memory of the device given back.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $rounds = $ENV{GA_TEST_LONG} ? 40 : 5;
my $node = new_node('device', conf => device_conf() . "gpuagent.device_faults = on\ngpuagent.device_timeout = 10s\nrestart_after_crash = on\n");

sub postmaster_pid { return slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/ ? $1 : die 'no postmaster' }
sub service_pid { return $node->safe_psql('postgres', q{SELECT service_pid FROM gpuagent.stat_device WHERE device = 'cuda:0'}) }

# Everything that requests take is free again, at once or after what was given up has ended.
sub nothing_leaks
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for_service($node);
	ok($node->poll_query_until('postgres', qq{
		SELECT gpuagent_store.device_slots() = 0
			AND (SELECT sum(used_bytes) = 0 FROM gpuagent.stat_memory WHERE kind = 'arena')
			AND $only_context}), "$name: nothing leaks")
		or diag($node->safe_psql('postgres', 'SELECT gpuagent_store.device_slots(); TABLE gpuagent.stat_memory; TABLE gpuagent.stat_device'));
	return;
}

# A session in the background that runs a query; its output is in ->{out} after ->{psql}->finish.
sub start_query
{
	my ($query) = @_;
	my $session = { out => '' };

	$session->{psql} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $query ], '>', \$session->{out}, '2>&1');
	return $session;
}

# A session that checks the device again and again until it is told to stop, counting its failures by SQLSTATE.
sub start_session
{
	my ($nbytes) = @_;

	$node->safe_psql('postgres', 'CREATE TABLE IF NOT EXISTS stop (now boolean); CREATE SEQUENCE IF NOT EXISTS checked');
	return start_query(qq{
		DO \$\$
		DECLARE
			checks bigint := 0;
			failures jsonb := '{}';
		BEGIN
			WHILE NOT EXISTS (SELECT FROM stop) LOOP
				BEGIN
					PERFORM gpuagent_store.check_device('cuda', $nbytes + checks % 7);
					checks := checks + 1;
					PERFORM nextval('checked');
				EXCEPTION WHEN OTHERS THEN
					failures := jsonb_set(failures, ARRAY[SQLSTATE], to_jsonb(coalesce((failures ->> SQLSTATE)::bigint, 0) + 1));
					PERFORM pg_sleep(0.01);
				END;
				COMMIT;
			END LOOP;
			RAISE NOTICE 'session: % %', checks, failures;
		END
		\$\$});
}

# Ends the sessions; what they say.
sub end_sessions
{
	my @sessions = @_;
	my @said;

	$node->safe_psql('postgres', 'INSERT INTO stop VALUES (true)');
	foreach my $session (@sessions)
	{
		$session->{psql}->finish;
		push @said, $session->{out} =~ /session: (\d+) (\{.*\})/ ? [ $1, $2 ] : [ 0, $session->{out} ];
	}
	$node->safe_psql('postgres', 'DELETE FROM stop');
	return @said;
}

# ---- set-up: what is where, and for whom

wait_for_service($node);
my ($directory) = map { m{(/dev/shm/gpuagent-[0-9a-f]{16})/mapping$} } slurp_file("/proc/" . postmaster_pid() . "/maps") =~ /^.*$/mg;
ok($directory, 'the server has a run directory');
is(sprintf('%o', (stat $directory)[2] & 07777), '700', 'of which others see nothing');
is(sprintf('%o', (stat "$directory/mapping")[2] & 07777), '600', 'nor of the mapping');
is(sprintf('%o', (stat "$directory/device.sock")[2] & 07777), '600', 'nor of the socket');
like(slurp_file($node->logfile), qr/LOG:  gpuagent_device \(PID \d+\) serves cuda:0, \S/, 'the log names the device');

$node->safe_psql('postgres', "SELECT gpuagent_store.check_device('cuda', n) FROM unnest('{0,1,65536,65537,3000000,20000000}'::bigint[]) n");
nothing_leaks('operations of any size');
is_value($node, q{SELECT gpuagent_store.check_device('cuda', 300000); SELECT device, rows > 0, batch, device_ms > 0, fallback_reason IS NULL FROM gpuagent.last_query()},
	"\ncuda:0|t|1|t|t", 'last_query() tells of it');
is_value($node, 'SELECT count(*) FROM gpuagent.last_query()', '0', 'and of nothing in a fresh session');
is_value($node, q{SELECT gpuagent_store.check_device('host', 300000); SELECT device FROM gpuagent.last_query()}, "\nhost", 'the host is there, too');
fails_with($node, q{SELECT gpuagent_store.check_device('cuda:1')}, '55000', 'no second device');
fails_with($node, q{SELECT gpuagent_store.check_device('gpu')}, '22023', 'no device of that name');
fails_with($node, q{SELECT gpuagent_store.check_device('cuda', 5000000000)}, '53400', 'no more than gpuagent.cache_size');
nothing_leaks('a refused region');

# ---- the process is killed at random moments under load; memory that sessions hold survives

# It holds memory between two requests; kills come in that time, on a slow machine fewer.
my $hold = 2 * $rounds + 5;
my $holder = start_query("SELECT gpuagent_store.check_device('cuda', 2000000, $hold), 'held'");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%held%' AND pid <> pg_backend_pid()
	AND wait_event_type = 'Extension' AND gpuagent_store.device_slots() = 0}) or die 'nobody holds memory';
my $until = time + $hold - 4;
my @sessions = map { start_session($_) } (100, 400_000, 3_000_000, 5_000_000, 9_000_000);		# more than the arena holds at a time
my $kills = 0;
while ($kills < $rounds && time < $until)
{
	# While it works: something was right since the last time.
	my $checked = $node->safe_psql('postgres', 'SELECT last_value FROM checked');
	$node->poll_query_until('postgres', "SELECT last_value > $checked FROM checked") or die 'the device does nothing';
	usleep(rand(300_000));
	my $pid = service_pid();
	last if time > $until;
	kill 'KILL', $pid;
	$kills++;
	# A process that has a GPU takes its time to go.
	$node->poll_query_until('postgres', "SELECT service_pid <> $pid FROM gpuagent.stat_device WHERE device = 'cuda:0'") or die 'not restarted';
	wait_for_service($node);
}
$holder->{psql}->finish;
is($holder->{out}, "|held\n", 'what a session had on the device is still right after all of it');
my $checks = 0;
foreach my $said (end_sessions(@sessions))
{
	$checks += $said->[0];
	like($said->[1], qr/^\{("55000": \d+)?\}$/, "a session lived on: $said->[0] checks, failed: $said->[1]");
}
cmp_ok($kills, '>', 0, "the device was killed $kills times");
cmp_ok($checks, '>', $kills, 'and used all the time');
cmp_ok($node->safe_psql('postgres', 'SELECT max(restarts) FROM gpuagent.stat_device'), '>=', $kills, 'restarts are counted');
nothing_leaks('killed again and again');

# ---- failures that only a new process cures

$node->safe_psql('postgres', 'SELECT gpuagent.reset_stats()');
is_value($node, q{SELECT max(restarts) FROM gpuagent.stat_device}, '0', 'counters can be set to zero');
fails_with($node, q{SELECT gpuagent_store.device_fault('sticky')}, '58000', 'a sticky CUDA error is an error of the request');
ok($node->poll_query_until('postgres', 'SELECT max(restarts) = 1 FROM gpuagent.stat_device'), '... and the process is started again');
wait_for_service($node);
$node->safe_psql('postgres', q{SELECT gpuagent_store.check_device('cuda')});
like($node->safe_psql('postgres', q{SELECT last_error FROM gpuagent.stat_device WHERE device = 'cuda:0' AND last_error_at > now() - interval '1 minute'}),
	qr/illegal/, '... stat_device remembers the error');
fails_with($node, q{SELECT gpuagent_store.device_fault('exit')}, '55000', 'a process that exits is an error of the request');
nothing_leaks('failures');

# ---- a hung kernel

$node->append_conf('postgresql.conf', "gpuagent.device_timeout = 300ms\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('gpuagent.device_timeout') = '300ms'});
wait_for_service($node);
@sessions = (start_session(100), start_session(400000));
fails_with($node, q{SELECT gpuagent_store.device_fault('hang')}, '55000', 'a hung kernel ends with the process');
wait_for_service($node);
foreach my $said (end_sessions(@sessions))
{
	like($said->[1], qr/^\{("55000": \d+)?\}$/, "a session lived on: $said->[0] checks, failed: $said->[1]");
}
like(slurp_file($node->logfile), qr/is killed: a request did not end within gpuagent.device_timeout/, 'the log says so');
nothing_leaks('a hung kernel');
$node->append_conf('postgresql.conf', "gpuagent.device_timeout = 5min\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('gpuagent.device_timeout') = '5min'});

# ---- clients that give up, by cancel and by death

my $psql = $node->background_psql('postgres', on_error_stop => 0);
is($psql->query_safe(q{SET statement_timeout = '100ms'; SELECT 'set'}), 'set', 'a session with a timeout');
$psql->query(q{SELECT gpuagent_store.device_fault('slow', 5000000);});
is($psql->query(q{SET statement_timeout = 0; SELECT gpuagent_store.device_slots()}), 1, 'a cancelled request is not waited for');
is_value($node, q{SELECT gpuagent_store.check_device('cuda', 100000)}, '', 'others go on meanwhile');
ok($node->poll_query_until('postgres', 'SELECT gpuagent_store.device_slots() = 0'), 'the device is free in the end');
is($psql->query(q{SELECT gpuagent_store.check_device('cuda', 100000), 'right'}), '|right', 'and the session itself goes on');
nothing_leaks('cancelled');

for my $victim ('slow', 'check')
{
	my $query = $victim eq 'slow' ? q{SELECT gpuagent_store.device_fault('slow', 5000000)} : q{SELECT gpuagent_store.check_device('cuda', 30000000, 60)};
	my $session = start_query($query);

	$node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT gpuagent_store.%' AND pid <> pg_backend_pid() AND state = 'active'});
	$node->poll_query_until('postgres', 'SELECT gpuagent_store.device_slots() = 1') if $victim eq 'slow';
	$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT gpuagent_store.%' AND pid <> pg_backend_pid() AND state = 'active'});
	$session->{psql}->finish;
	like($session->{out}, qr/terminating connection/, "a session is terminated: $victim");
	nothing_leaks("terminated: $victim");
}
$psql->quit;

# ---- the server crashes and stops

my $pid = service_pid();
my $old = (stat "$directory/mapping")[1];
my $backend = $node->background_psql('postgres', on_error_stop => 0);
ok(kill_and_recover($node, $backend->query_safe('SELECT pg_backend_pid()')), 'a backend is killed: the server starts anew');
eval { $backend->quit };
wait_for_service($node);
isnt((stat "$directory/mapping")[1], $old, '... with a fresh mapping');
isnt(service_pid(), $pid, '... and another process');
is_gone($pid, '... the old one is gone');
$node->safe_psql('postgres', q{SELECT gpuagent_store.check_device('cuda')});
nothing_leaks('a crash');

$pid = service_pid();
my ($supervisor) = slurp_file("/proc/$pid/stat") =~ /\) \S (\d+) /;
kill 'TERM', $supervisor;
ok($node->poll_query_until('postgres', qq{SELECT gpuagent_store.device_service() = 'ready' AND (SELECT service_pid <> $pid FROM gpuagent.stat_device WHERE device = 'cuda:0')}),
	'a terminated supervisor comes back, and starts the process');
is_gone($pid, '... the old one is gone');
$pid = service_pid();

my $hung = start_query(q{SELECT gpuagent_store.device_fault('hang')});
$node->poll_query_until('postgres', 'SELECT gpuagent_store.device_slots() = 1');
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 120, 'a hung device does not delay the end of the server');	# for gpuagent.device_timeout
$hung->{psql}->finish;
is_gone($pid, 'the process is gone');
ok(!-e $directory, 'so is the run directory');

# A server that could not clean up leaves nothing that its successor minds.
$node->start;
wait_for_service($node);
$pid = service_pid();
$node->stop('immediate');
is_gone($pid, 'after an immediate stop the process is gone, too');
mkdir $directory, 0755;
append_to_file("$directory/$_", 'left') foreach ('mapping', 'device.sock', 'region-7', 'region-7.leaves', 'else');
$node->start;
wait_for_service($node);
is(join(' ', sort map { m{([^/]*)$} } glob("$directory/*")), 'device.sock mapping', 'what was left of another server is removed');
is(sprintf('%o', (stat $directory)[2] & 07777), '700', '... and the directory is closed to others');
$node->safe_psql('postgres', q{SELECT gpuagent_store.check_device('cuda')});
$node->stop;
ok(!-e $directory, 'a clean end');

done_testing();
