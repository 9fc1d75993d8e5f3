# Jobs run as who queued them, restricted: neither forged rows nor what owners hang on tables gain rights; who may cancel
# and see what; nothing runs on a standby before its promotion.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', setup => 0, allows_streaming => 1, conf => "gpuagent.max_jobs = 2\nautovacuum = off\ngpuagent.launcher_interval = 1s\n");

sub ends
{
	my ($job, $state, $name, $on) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(($on // $node)->safe_psql('postgres', "SELECT gpuagent.wait_for_job($job, '180 s')"), $state, $name);
}

sub queue
{
	my ($role, $arguments) = @_;
	return $node->safe_psql('postgres', "SET ROLE $role; SELECT gpuagent_store.queue_job('probe', NULL, '$arguments')");
}

sub error { my ($job) = @_; return $node->safe_psql('postgres', "SELECT error FROM gpuagent_store.job WHERE job = $job") }

# mallory owns the tables and has no rights beside; alice and bob use them.
$node->safe_psql('postgres', q{
	CREATE ROLE mallory; CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE carol; CREATE ROLE dave IN ROLE alice; CREATE ROLE gone;
	CREATE EXTENSION gpuagent;
	GRANT CREATE, USAGE ON SCHEMA gpuagent, gpuagent_store, public TO mallory;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gpuagent, gpuagent_store TO mallory;
	SET ROLE mallory;
	SELECT gpuagent.setup();
	RESET ROLE;
	SELECT gpuagent.grant_access('alice', 'admin'), gpuagent.grant_access('bob', 'write'), gpuagent.grant_access('carol'), gpuagent.grant_access('dave'),
		gpuagent.grant_access('gone', 'write');
	CREATE TABLE public.seen (place text, who text, how text);
	GRANT ALL ON public.seen TO PUBLIC;
	CREATE FUNCTION public.try(place text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		statement text;
		result text;
	BEGIN
		FOREACH statement IN ARRAY '{ALTER ROLE mallory SUPERUSER,RESET ROLE,RESET SESSION AUTHORIZATION,SET ROLE postgres,SET SESSION AUTHORIZATION postgres,
			CREATE TEMP TABLE hidden (i int),SET search_path = public,SET session_replication_role = replica,SELECT pg_read_file($f$PG_VERSION$f$)}'::text[] LOOP
			BEGIN
				result := 'refused';
				EXECUTE statement;
				result := 'done';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			INSERT INTO public.seen VALUES (place, current_user, statement || ': ' || result);
		END LOOP;
	END $$;
	CREATE FUNCTION public.hostile() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM public.try('trigger on ' || TG_TABLE_NAME); RETURN NEW; END$$;
	CREATE FUNCTION gpuagent_store.run_probe(job bigint, arguments jsonb, carry jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep((arguments ->> 'sleep')::float8);
		INSERT INTO public.seen VALUES ('ran', current_user, job::text || ' ' || current_setting('search_path') || ' ' || (arguments ->> 'x'));
		IF arguments ? 'try' THEN
			PERFORM public.try('job');
			INSERT INTO gpuagent.agent (id) VALUES ('by job ' || job) ON CONFLICT DO NOTHING;
		END IF;
		RETURN jsonb_build_object('done', carry IS NOT NULL OR NOT arguments ? 'twice', 'secret', 'result');
	END $$;
	REVOKE EXECUTE ON FUNCTION gpuagent_store.run_probe FROM PUBLIC;
	GRANT EXECUTE ON FUNCTION gpuagent_store.run_probe TO alice, bob, gone, mallory;
	CREATE TRIGGER hostile BEFORE INSERT OR UPDATE ON gpuagent.agent FOR EACH ROW EXECUTE FUNCTION public.hostile();
	CREATE TRIGGER hostile BEFORE INSERT OR UPDATE ON gpuagent_store.job FOR EACH ROW EXECUTE FUNCTION public.hostile();
	ALTER ROLE alice SET search_path = public;
});

# As whom.
my $job = queue('alice', '{"try": 1, "x": "alice"}');
ends($job, 'done', 'a job of a role');
is_value($node, q{SELECT who || ' ' || how FROM public.seen WHERE place = 'ran'}, "alice $job pg_catalog, pg_temp alice", 'runs as that role, with nobody\'s settings');
is_value($node, q{SELECT string_agg(DISTINCT place || ' ' || who, ', ' ORDER BY place || ' ' || who) FROM public.seen WHERE place <> 'ran'},
	'job alice, trigger on agent alice, trigger on job mallory', 'triggers run as the role, and those on jobs as the owner of the table');
is_value($node, q{SELECT string_agg(DISTINCT how, ' ') FROM public.seen WHERE how ~ 'ROLE|AUTHORIZATION|TEMP|replica|file' AND how !~ 'refused'}, '',
	'and none did what it may not');
is_value($node, q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}, 'f', 'mallory is what she was');
$node->safe_psql('postgres', q{
	DROP TRIGGER hostile ON gpuagent_store.job; DROP TRIGGER hostile ON gpuagent.agent; TRUNCATE public.seen;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON gpuagent.agent DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.hostile()});
$job = queue('alice', '{"try": 1}');
ends($job, 'failed', 'a deferred trigger, which would run as the worker,');
like(error($job), qr/^42501: cannot fire deferred trigger within security-restricted operation/, 'is refused');
is_value($node, q{SELECT count(*) FROM public.seen WHERE place ~ 'trigger'}, 0, 'it did not run');
$node->safe_psql('postgres', q{DROP TRIGGER late ON gpuagent.agent; TRUNCATE public.seen});

# Rows that the owner of the table writes, changes or repeats.
foreach my $forged (q{INSERT INTO gpuagent_store.job (kind, role, arguments) VALUES ('probe', 'postgres', '{"x": "forged"}') RETURNING job},
	q{INSERT INTO gpuagent_store.job (kind, role, arguments, signature) SELECT kind, 'postgres', arguments, signature FROM gpuagent_store.job WHERE state = 'done' LIMIT 1 RETURNING job},
	q{UPDATE gpuagent_store.job SET state = 'queued', arguments = '{"x": "forged"}' WHERE state = 'done' RETURNING job})
{
	$job = (split /\n/, $node->safe_psql('postgres', "SET ROLE mallory; $forged"))[0];
	$node->safe_psql('postgres', q{BEGIN; SELECT gpuagent_store.queue_job('probe', 'wakes a worker', '{}'); COMMIT});
	ends($job, 'failed', 'a forged row');
	like(error($job), qr/^42501: the job was not queued in this database by role/, 'is not run');
}
$job = queue('alice', '{"x": "once"}');
ends($job, 'done', 'a job that ends');
$node->safe_psql('postgres', qq{SET ROLE mallory; UPDATE gpuagent_store.job SET state = 'queued' WHERE job = $job});
$node->safe_psql('postgres', q{SELECT gpuagent_store.queue_job('probe', 'wakes a worker', '{}')});
ends($job, 'failed', 'does not run again, though its row is as it was');
like(error($job), qr/^42501: the job was not queued in this database by role/, 'for an end takes the signature');
is_value($node, "SELECT count(*) FROM public.seen WHERE place = 'ran' AND how ~ 'once'", 1, 'it ran once');
my $busy = queue('bob', '{"sleep": 600}');
my $busy2 = queue('bob', '{"sleep": 600}');
$node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM gpuagent.stat_progress WHERE phase = 'starting'});
$job = queue('alice', '{"x": "real", "twice": 1}');
$node->safe_psql('postgres', qq{SET ROLE mallory; UPDATE gpuagent_store.job SET carry = '{"forged": 1}' WHERE job = $job});
my $renamed = queue('gone', '{}');
$node->safe_psql('postgres', q{DROP OWNED BY gone; DROP ROLE gone; CREATE ROLE gone; SELECT gpuagent.grant_access('gone', 'write')});
my $revoked = queue('alice', '{}');
$node->safe_psql('postgres', q{REVOKE EXECUTE ON FUNCTION gpuagent_store.run_probe FROM alice});

# Who may do and see what, while two run and three are queued.
fails_with($node, q{SET ROLE carol; SELECT gpuagent_store.queue_job('probe', NULL, '{}')}, '42501', 'readers queue nothing');
fails_with($node, q{SET ROLE alice; SELECT gpuagent_store.queue_job('probe', NULL, '{}')}, '42501', 'nor whoever may not call the kind\'s function');
fails_with($node, q{SET ROLE alice; INSERT INTO gpuagent_store.job (kind, role) VALUES ('probe', 'alice')}, '42501', 'nobody but the owner writes rows');
fails_with($node, q{SET ROLE bob; SELECT gpuagent.create_checkpoint('x', export => true)}, '42501', 'who may not export does not by a job');
fails_with($node, q{SET ROLE alice; SELECT * FROM gpuagent.export_checkpoint(wait => false)}, '42704', 'nor what is not there');
$node->safe_psql('postgres', q{SELECT gpuagent.store_swarm('s', '[1]'), gpuagent.create_checkpoint('c')});
fails_with($node, q{SET ROLE alice; SELECT * FROM gpuagent.export_checkpoint(wait => false)}, '42501', 'nor without rights to files');
is_value($node, q{SET ROLE carol; SELECT count(*) FILTER (WHERE pid IS NOT NULL), count(*) FILTER (WHERE phase = 'queued') FROM gpuagent.stat_progress}, '2|3',
	'readers see what runs and what is queued');
is_value($node, "SET ROLE carol; SELECT role, state FROM gpuagent_store.job WHERE job = $job", 'alice|queued', 'and by whom');
fails_with($node, "SET ROLE carol; SELECT $_ FROM gpuagent_store.job", '42501', "but no $_") for qw(arguments carry result error signature);
is_value($node, "SET ROLE alice; SELECT arguments ->> 'x' FROM gpuagent_store.job WHERE job = $job", 'real', 'as administrators do');
is_value($node, "SET ROLE carol; SELECT gpuagent.wait_for_job($job, '0.1 s') IS NULL", 't', 'who reads may wait');
fails_with($node, "SET ROLE carol; SELECT gpuagent.cancel_job($busy)", '42501', 'not cancel');
fails_with($node, "SET ROLE bob; SELECT gpuagent.cancel_job($job)", '42501', 'nor those who only store what others queued');
fails_with($node, "SET ROLE bob; SELECT gpuagent_store.cancel_any_job($job)", '42501', 'in whatever way');
is_value($node, "SET ROLE bob; SELECT gpuagent.cancel_job($busy)", 't', 'but their own');
is_value($node, "SET ROLE alice; SELECT gpuagent.cancel_job($busy2)", 't', 'and administrators any');
ends($_, 'cancelled', "job $_") for ($busy, $busy2);
ends($job, 'failed', 'a job whose carry was forged');
ends($renamed, 'failed', 'one whose role is another of the same name');
ends($revoked, 'failed', 'one whose role lost its right');
like(error($job) . error($renamed), qr/^42501: the job was not queued.*42501: the job was not queued/s, 'do not run');
like(error($revoked), qr/^42501: permission denied for function run_probe/, 'and say why');
is_value($node, q{SELECT count(*) FROM public.seen WHERE place = 'ran' AND (how ~ 'forged|real' OR who = 'gone')}, 0, 'none of them did');
$job = queue('bob', '{"sleep": 600}');
$node->safe_psql('postgres', q{GRANT bob TO dave});
is_value($node, "SET ROLE dave; SELECT gpuagent.cancel_job($job)", 't', 'members of a role cancel its jobs');

# A standby.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$job = queue('bob', '{"sleep": 600}');
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM gpuagent_store.job WHERE job = $job AND state = 'running'");
my $done = queue('bob', '{}');
ends($done, 'done', 'a job on the primary');
ends($done, 'done', 'is done on the standby', $standby);
fails_with($standby, q{SELECT gpuagent_store.queue_job('probe', NULL, '{}')}, '25006', 'where none is queued');
fails_with($standby, "SELECT gpuagent.cancel_job($job)", '25006', 'or cancelled');
is_value($standby, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'gpuagent job'}, 0, 'or run');
is_value($standby, "SELECT phase FROM gpuagent.stat_progress WHERE job = $job", 'queued', 'though they are seen');
$node->stop('immediate');
$standby->promote;
ok($standby->poll_query_until('postgres', "SELECT count(*) = 1 FROM gpuagent.stat_progress WHERE job = $job AND pid IS NOT NULL"), 'promoted, it takes up what ran');
is_value($standby, "SELECT gpuagent.cancel_job($job)", 't', 'as its own');
ends($job, 'cancelled', 'and ends it', $standby);
$standby->stop;

done_testing();
