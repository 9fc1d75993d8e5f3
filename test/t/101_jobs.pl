# Jobs: parts in transactions of their own with what the last one left, several at once, cancelled, waited for, notified;
# taken up again after their worker was killed, ended or the server restarted; out of the way of DROP DATABASE.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('main', conf => "gpuagent.max_jobs = 2\nautovacuum = off\nrestart_after_crash = on\n");

# A kind whose parts say what they saw: arguments parts (3), sleep (seconds of each), fail (part); the second part of
# those that hang does so until there is a row in go, of those that die always.
my $kind = q{
	CREATE TABLE public.go ();
	CREATE TABLE public.seen (job bigint, part bigint, xid xid8, who text, pid int);
	CREATE FUNCTION gpuagent_store.run_probe(job bigint, arguments jsonb, carry jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	DECLARE
		n bigint := COALESCE((carry ->> 'n')::bigint, 0) + 1;
	BEGIN
		INSERT INTO public.seen VALUES ($1, n, pg_current_xact_id(), current_user, pg_backend_pid());
		PERFORM gpuagent_store.progress('part', n, COALESCE((arguments ->> 'parts')::bigint, 3));
		PERFORM pg_sleep((arguments ->> 'sleep')::float8);
		PERFORM pg_sleep(600) WHERE n = 2 AND (arguments ? 'die' OR arguments ? 'hang' AND NOT EXISTS (SELECT FROM public.go));
		IF n = (arguments ->> 'fail')::bigint THEN
			RAISE EXCEPTION 'part % fails', n USING ERRCODE = '22012', DETAIL = 'As it should.', HINT = 'Leave it.';
		END IF;
		RETURN jsonb_build_object('n', n, 'done', n >= COALESCE((arguments ->> 'parts')::bigint, 3));
	END $$;
};
$node->safe_psql('postgres', $kind);

sub queue
{
	my ($arguments, $database) = @_;
	return $node->safe_psql($database // 'postgres', "SELECT gpuagent_store.queue_job('probe', 'it', '$arguments')");
}

sub runs
{
	my ($job) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM gpuagent.stat_progress WHERE job = $job AND pid IS NOT NULL AND phase = 'part'");
}

# A job's worker sleeps in its second part.
sub hangs
{
	my ($job) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM gpuagent.stat_progress p JOIN pg_stat_activity a USING (pid)
		WHERE p.job = $job AND p.items_done = 2 AND a.wait_event = 'PgSleep'");
}

# From now on nothing hangs; with an argument: from now on it does.
sub go { my ($stop) = @_; return $node->safe_psql('postgres', $stop ? 'TRUNCATE public.go' : 'INSERT INTO public.go DEFAULT VALUES') }

sub ends
{
	my ($job, $state, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_value($node, "SELECT gpuagent.wait_for_job($job, '180 s')", $state, $name);
}

sub row { my ($job, $columns) = @_; return "SELECT $columns FROM gpuagent_store.job WHERE job = $job" }

# Parts, carry and result; what listeners are told.
my ($in, $out, $err) = ('', '', '');
my $listener = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "LISTEN gpuagent_job;\nSELECT 'listens';\n";
$listener->pump until $out =~ /listens/;
my $job = queue('{}');
ends($job, 'done', 'a job is done');
is_value($node, "SELECT string_agg(part::text, ' ' ORDER BY xid), count(DISTINCT xid), count(DISTINCT pid) FROM public.seen WHERE job = $job", '1 2 3|3|1',
	'part after part, each in a transaction of its own');
is_value($node, row($job, q{state, carry IS NULL, result, attempts, error IS NULL, role, started_at >= created_at, finished_at >= started_at}),
	qq{done|t|{"n": 3, "done": true}|1|t|postgres|t|t}, 'its row has the result');
my $failed = queue('{"fail": 2}');
ends($failed, 'failed', 'an error ends a job');
is_value($node, row($failed, 'error'), "22012: part 2 fails\nDETAIL:  As it should.\nHINT:  Leave it.", 'and is in its row');
is_value($node, "SELECT max(part) FROM public.seen WHERE job = $failed", 1, 'the part that failed left nothing');
# psql tells with the next result; the server sends after the commit that the wait has seen.
wait_until(sub {
	$in .= "SELECT 1;\n";
	$listener->pump until $in eq '';
	$listener->pump_nb;
	return $out =~ /failed.*\n/;
});
like($out, qr/"gpuagent_job" with payload "\{"job": $job, "kind": "probe", "state": "done", "object": "it"\}"/, 'its end is notified');
like($out, qr/"gpuagent_job" with payload "\{"job": $failed, "kind": "probe", "state": "failed", "object": "it"\}"/, 'and so is a failure');
fails_with($node, q{SELECT gpuagent_store.queue_job('absent', NULL, NULL)}, '22023', 'an unknown kind is refused');
fails_with($node, q{SELECT gpuagent_store.queue_job(NULL, NULL, NULL)}, '22004', 'and none');
fails_with($node, q{SELECT gpuagent.wait_for_job(99)}, '42704', 'no such job to wait for');
fails_with($node, q{SELECT gpuagent.cancel_job(99)}, '42704', 'or to cancel');
fails_with($node, q{SELECT gpuagent.wait_for_job(gpuagent_store.queue_job('probe', NULL, '{}'))}, '55000', 'one that is not committed is not waited for');
is_value($node, q{BEGIN; SELECT gpuagent_store.queue_job('probe', 'rolled back', '{}') > 0; ROLLBACK; SELECT count(*) FROM gpuagent_store.job WHERE object = 'rolled back'},
	"t\n0", 'a job that is rolled back is not there');

# Several at once; progress; cancelling; waiting.
my @jobs = map { queue('{"sleep": 600}') } 1 .. 4;
runs($_) for @jobs[0, 1];
is_value($node, "SELECT string_agg(phase || ' ' || COALESCE(items_done::text, '-') || ' ' || COALESCE(items_total::text, '-'), ', ' ORDER BY job) FROM gpuagent.stat_progress",
	'part 1 3, part 1 3, queued 0 -, queued 0 -', 'two run and two are queued');
is_value($node, "SELECT count(DISTINCT pid) FROM gpuagent.stat_progress p JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'gpuagent job' AND p.command = 'probe' AND p.object = 'it'", 2,
	'in workers of their own');
is_value($node, "SELECT gpuagent.wait_for_job($jobs[0], '0.3 s') IS NULL", 't', 'a wait has an end');
fails_with($node, "SET statement_timeout = '200ms'; SELECT gpuagent.wait_for_job($jobs[0])", '57014', 'and is cancelled');
fails_with($node, "SELECT gpuagent.wait_for_job($jobs[0], '-1 s')", '22023', 'a negative one is refused');
is_value($node, "SELECT gpuagent.cancel_job($jobs[2])", 't', 'a queued job is cancelled');
ends($jobs[2], 'cancelled', 'and never runs');
is_value($node, "BEGIN; SELECT gpuagent.cancel_job($jobs[3]); ROLLBACK; " . row($jobs[3], 'state'), "t\nqueued", 'unless that is rolled back');
is_value($node, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT state FROM gpuagent_store.job WHERE job = $jobs[0]; SELECT gpuagent.cancel_job($jobs[0]);
	SELECT gpuagent.wait_for_job($jobs[0], '180 s'); SELECT state FROM gpuagent_store.job WHERE job = $jobs[0]; COMMIT", "running\nt\ncancelled\nrunning",
	'a running job is interrupted; the end is seen from within an old snapshot');
runs($jobs[3]);
is_value($node, "SELECT count(*) FROM public.seen WHERE job = $jobs[0]", 0, 'it left nothing');
is_value($node, "SELECT gpuagent.cancel_job($jobs[0])", 'f', 'what has ended is not cancelled');
is_value($node, "SELECT gpuagent.cancel_job(j) FROM unnest('{$jobs[1],$jobs[3]}'::bigint[]) j", "t\nt", 'the others are');
ends($_, 'cancelled', "job $_") for @jobs[1, 3];
is_value($node, 'SELECT count(*) FROM gpuagent.stat_progress', 0, 'no progress is left');

# Many short ones: no part is done twice or left out.
$node->safe_psql('postgres', q{SELECT gpuagent_store.queue_job('probe', 'many', '{"parts": 2}') FROM generate_series(1, 100)});
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM gpuagent_store.job WHERE state IN ('queued', 'running')});
is_value($node, q{SELECT count(*), count(DISTINCT (job, part)) FROM public.seen JOIN gpuagent_store.job USING (job) WHERE object = 'many' AND state = 'done'}, '200|200',
	'two workers share many jobs');

# A worker that is ended hands its job back; one that is killed loses it, up to three times.
$job = queue('{"hang": 1}');
hangs($job);
go();
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM gpuagent.stat_progress WHERE job = $job");
ends($job, 'done', 'a job whose worker was ended goes on');
is_value($node, row($job, 'attempts'), 1, 'that was no attempt');
is_value($node, "SELECT string_agg(part::text, ' ' ORDER BY xid) FROM public.seen WHERE job = $job", '1 2 3', 'with its last part');
go('stop');

sub kill_worker
{
	my ($job) = @_;
	hangs($job);
	go();
	return kill_and_recover($node, $node->safe_psql('postgres', "SELECT pid FROM gpuagent.stat_progress WHERE job = $job AND pid IS NOT NULL"));
}

$job = queue('{"hang": 1}');
my $doomed = queue('{"die": 1}');
hangs($doomed);
kill_worker($job);
ends($job, 'done', 'a job whose worker was killed is taken up again');
is_value($node, row($job, 'attempts'), 2, 'which is an attempt');
is_value($node, "SELECT string_agg(part::text, ' ' ORDER BY xid) FROM public.seen WHERE job = $job", '1 2 3', 'from its last part');
kill_worker($doomed) for 1 .. 2;
ends($doomed, 'failed', 'one that kills its workers fails in the end');
is_value($node, row($doomed, 'error'), 'its worker ended 3 times before the job did', 'and says why');
$listener->kill_kill;

# A restart of the server.
go('stop');
$job = queue('{"hang": 1}');
hangs($job);
go();
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 120, 'a fast shutdown does not wait for a job');		# of ten minutes
$node->start;
ends($job, 'done', 'it goes on afterwards');
is_value($node, row($job, 'attempts'), 1, 'which is not an attempt');

# Databases: dropped and copied in the middle of jobs.
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', "CREATE EXTENSION gpuagent; SELECT gpuagent.setup(); $kind");
$job = queue('{"sleep": 600}', 'source');
$node->poll_query_until('source', "SELECT count(*) = 1 FROM gpuagent.stat_progress WHERE job = $job AND pid IS NOT NULL");
is($node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE source'), '', 'a database with a running job is copied');
is($node->safe_psql('copy', "SELECT gpuagent.wait_for_job($job, '180 s')"), 'failed', 'its copy does not run the job');
like($node->safe_psql('copy', row($job, 'error')), qr/^42501: the job was not queued in this database/, 'since it was queued elsewhere');
ok($node->poll_query_until('source', "SELECT count(*) = 1 FROM gpuagent.stat_progress WHERE job = $job AND pid IS NOT NULL"), 'where it runs again');
is($node->safe_psql('postgres', 'DROP DATABASE source'), '', 'and is dropped in the middle of it');

# A rate, an export that waits for nobody, and old jobs.
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_swarm('big', gpuagent.tensor('U8', '{2097152}', string_agg(sha256(int4send(i)), ''))) FROM generate_series(1, 65536) i;
	ALTER SYSTEM SET gpuagent.io_rate_limit = '12MB';
	SELECT pg_reload_conf();
	UPDATE gpuagent_store.job SET finished_at = now() - interval '8 days' WHERE state = 'failed';
});
# Bytes a second that a session gets, in calls of some sizes; the first tenth of a second is free.
foreach my $size (8192, 1048576)
{
	my $calls = 6 * 1048576 / $size;
	my @seconds;
	# Never less; and not more, but for what else the machine does: some time it does not.
	becomes_true(sub {
		push @seconds, $node->safe_psql('postgres', qq{SELECT extract(epoch FROM clock_timestamp() - statement_timestamp())
			FROM (SELECT count(gpuagent_store.throttle($size)) FROM generate_series(1, $calls)) s});
		return $seconds[-1] < 0.6;
	}, "6 MB in calls of $size at 12 MB/s take half a second, but for the first tenth");
	cmp_ok(min(@seconds), '>', 0.35, 'and not less') or diag "@seconds";
}
fails_with($node, q{SET statement_timeout = '300ms'; SELECT gpuagent_store.throttle(1000000000)}, '57014', 'a pause is cancelled');
$node->safe_psql('postgres', q{
	ALTER SYSTEM SET gpuagent.io_rate_limit = '256kB';
	SELECT pg_reload_conf();
	SELECT gpuagent.store_swarm('big/' || i, gpuagent.tensor('U8', '{2097152}', string_agg(sha256(int8send(i * 1000000 + j)), '')))
	FROM generate_series(1, 4) i, generate_series(1, 65536) j GROUP BY i});
my $checkpoint = $node->safe_psql('postgres', q{SELECT gpuagent.create_checkpoint('big', '{swarms}')});
($job, my $state) = split /\n/, $node->safe_psql('postgres', qq{SELECT job FROM gpuagent.export_checkpoint($checkpoint, wait => false) \\gset
	\\echo :job
	SELECT state FROM gpuagent_store.job WHERE job = :job});
like($state, qr/^(queued|running)$/, 'an export that is queued returns at once');
$node->poll_query_until('postgres', "SELECT carry ->> 'after' > '' FROM gpuagent_store.job WHERE job = $job");
is_value($node, "SELECT jsonb_array_length(carry -> 'sections') BETWEEN 1 AND 4 FROM gpuagent_store.job WHERE job = $job", 't', 'it is written in parts');
is_value($node, q{SELECT count(*) FROM gpuagent_store.list_folder('nvme_storage') f WHERE f LIKE 'ckpt%'}, 0, 'nothing has a name yet');
my $next = $node->safe_psql('postgres', 'SELECT pg_current_xact_id()');
ok($node->poll_query_until('postgres', "SELECT state = 'running' FROM gpuagent_store.job WHERE job = $job AND NOT EXISTS (
	SELECT FROM pg_stat_activity WHERE backend_type = 'gpuagent job' AND backend_xmin::text::bigint <= $next)"),
	'while it runs, a part does not keep the snapshot of the one before');
$node->safe_psql('postgres', q{ALTER SYSTEM SET gpuagent.io_rate_limit = '2560kB'; SELECT pg_reload_conf()});
ends($job, 'done', 'and is done');
is_value($node, row($job, q{result ->> 'path' = (SELECT exported_path FROM gpuagent.checkpoint WHERE label = 'big')}), 't', 'with the path as result');
my $seconds = $node->safe_psql('postgres', row($job, 'extract(epoch FROM finished_at - started_at)'));
cmp_ok($seconds, '>', 3.2, sprintf '10 MB at no more than 2.5 MB/s take 4 s or more (%.2f)', $seconds);
is_value($node, "SELECT state FROM gpuagent.export_checkpoint($checkpoint)", 'present', 'the export is whole');
is_value($node, q{SELECT count(*) FROM gpuagent_store.list_folder('nvme_storage') f WHERE f !~ '^(ckpt|latest)'}, 0, 'and nothing else is left');
is_value($node, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}, 0, 'nor a lock');
$job = $node->safe_psql('postgres', q{SELECT job FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('again'), wait => false)});
$node->poll_query_until('postgres', "SELECT carry ->> 'after' > '' FROM gpuagent_store.job WHERE job = $job");
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM gpuagent.stat_progress WHERE job = $job");
$node->safe_psql('postgres', q{ALTER SYSTEM RESET gpuagent.io_rate_limit; SELECT pg_reload_conf()});
ends($job, 'done', 'an export whose worker was ended begins anew');
is_value($node, q{SELECT count(*) FROM gpuagent.verify_integrity('full') WHERE status <> 'ok'}, 0, 'and is whole');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM gpuagent_store.job WHERE state = 'failed'}), 'jobs that ended more than a week ago are removed');

# Without workers.
$node->append_conf('postgresql.conf', "gpuagent.max_jobs = 0\n");
$node->restart;
fails_with($node, q{SELECT gpuagent_store.queue_job('probe', NULL, '{}')}, '55000', 'without workers nothing is queued');
fails_with($node, q{SELECT * FROM gpuagent.export_checkpoint(wait => false)}, '55000', 'nor an export');
is_value($node, q{SELECT gpuagent.create_checkpoint('here', '{swarm:big}', export => true) > 0}, 't', 'create_checkpoint() exports');
is_value($node, q{SELECT exported_path IS NOT NULL FROM gpuagent.checkpoint WHERE label = 'here'}, 't', 'by itself then');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
fails_with($node, q{SELECT gpuagent_store.queue_job('probe', NULL, '{}')}, '55000', 'nor without preloading');
is_value($node, q{SELECT count(*) FROM gpuagent.stat_progress}, 0, 'where there is no progress');
$node->stop;

done_testing();
