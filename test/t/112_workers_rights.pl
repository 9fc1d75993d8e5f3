# Maintenance runs as the owner of the tables, restricted: what an owner without rights hangs on its tables (triggers,
# defaults, policies) gets no more rights by it and leaves nothing behind in the worker.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', setup => 0);
my $pid_of = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance'};

# Wait until the log has a text, from a position on.
sub logged
{
	my ($pattern, $name) = @_;
	return becomes_true(sub { slurp_file($node->logfile) =~ $pattern }, $name);
}

# End the worker, so that it starts with its tasks anew.
sub restart_worker
{
	my $pid = $node->safe_psql('postgres', $pid_of);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM ($pid_of AND pid <> $pid) s");
}

$node->safe_psql('postgres', q{
	CREATE ROLE mallory;
	CREATE EXTENSION gpuagent;
	GRANT CREATE, USAGE ON SCHEMA gpuagent, gpuagent_store, public TO mallory;
	GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gpuagent, gpuagent_store TO mallory;
	SET ROLE mallory;
	SELECT gpuagent.setup();
	CREATE TABLE public.seen (place text, who text, how text);
	CREATE FUNCTION public.try(place text) RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE
		statement text;
		result text;
	BEGIN
		FOREACH statement IN ARRAY '{ALTER ROLE mallory SUPERUSER,RESET ROLE,RESET SESSION AUTHORIZATION,SET ROLE postgres,SET SESSION AUTHORIZATION postgres,
			CREATE TEMP TABLE hidden (i int),SET search_path = public,SET application_name = evil,SET session_replication_role = replica,
			SELECT pg_read_file($f$PG_VERSION$f$)}'::text[] LOOP
			BEGIN
				result := 'refused';
				EXECUTE statement;
				result := 'done';
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
			INSERT INTO public.seen VALUES (place, current_user, statement || ': ' || result);
		END LOOP;
		RETURN true;
	END $$;
	CREATE FUNCTION public.hostile() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM public.try('trigger'); RETURN NEW; END$$;
	CREATE FUNCTION public.hostile_default() RETURNS jsonb LANGUAGE sql AS $$SELECT pg_catalog.jsonb_build_object('x', public.try('default'))$$;
	CREATE TRIGGER hostile BEFORE INSERT ON gpuagent.agent FOR EACH ROW EXECUTE FUNCTION public.hostile();
	ALTER TABLE gpuagent.agent ALTER metadata SET DEFAULT public.hostile_default();
	ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY;
	ALTER TABLE gpuagent.agent FORCE ROW LEVEL SECURITY;
	CREATE POLICY hostile ON gpuagent.agent USING (public.try('policy')) WITH CHECK (public.try('policy'));
});
is_served($node, 'postgres', 'there is a worker');

set_task($node, 'postgres', 'prewarm_cache', q{INSERT INTO gpuagent.agent (id) VALUES ('by the worker') ON CONFLICT (id) DO NOTHING});
restart_worker();
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM gpuagent.agent}), 'the task ran');
is_value($node, q{SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM public.seen}, 'default policy trigger', 'and code of the owner with it');
is_value($node, q{SELECT string_agg(DISTINCT who, ' ') FROM public.seen}, 'mallory', 'as its owner');
is_value($node, q{SELECT string_agg(DISTINCT how, ' ') FROM public.seen WHERE how ~ 'ROLE|AUTHORIZATION|TEMP|replica|file' AND how !~ 'refused'}, '',
	'which did none of what its owner may not');
is_value($node, q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}, 'f', 'and is what it was');
is_value($node, q{SELECT count(*) > 0 FROM public.seen WHERE how ~ 'application_name.*done'}, 't', 'what it may set');
is_value($node, $pid_of =~ s/pid/application_name/r, 'gpuagent maintenance', 'is as it was after the task');

# The cache's list of agents is in a file, to which an owner has no right of its own.
$node->safe_psql('postgres', 'SELECT gpuagent.cache_agents()');
restart_worker();
is_value($node, q{SET ROLE mallory; SELECT gpuagent_store.save_cache_keys()}, $node->safe_psql('postgres', q{SELECT agents FROM gpuagent.cache_stats() WHERE tier = 'host'}),
	'it is saved for an owner without rights to files');
unlike(slurp_file($node->logfile), qr/permission denied to use files/, 'by the worker, too');

# What waits for the end of the transaction would run as the worker.
$node->safe_psql('postgres', q{
	SET ROLE mallory;
	CREATE CONSTRAINT TRIGGER late AFTER INSERT ON gpuagent.agent DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.hostile();
});
set_task($node, 'postgres', 'prewarm_cache', q{INSERT INTO gpuagent.agent (id) VALUES ('late') ON CONFLICT (id) DO NOTHING});
$node->safe_psql('postgres', 'TRUNCATE public.seen');
restart_worker();
logged(qr/cannot fire deferred trigger within security-restricted operation/, 'a deferred trigger is refused');
is_value($node, q{SELECT count(*) FROM gpuagent.agent WHERE id = 'late'}, 0, 'and the task with it');
is_value($node, q{SELECT count(*) FROM public.seen WHERE who <> 'mallory'}, 0, 'it never ran as the worker');

# Tables of one task with several owners: what hangs on one would run as the other's owner.
$node->safe_psql('postgres', q{
	DROP TRIGGER late ON gpuagent.agent;
	ALTER TABLE gpuagent.swarm_version OWNER TO postgres;
	SELECT gpuagent.store_swarm('s', '[1,2]');
	SELECT handle FROM gpuagent.map_swarm('s', 'r+', autosync => true);
});
logged(qr/tables "swarm" and "swarm_version" have different owners.*maintenance task "autosync"/s, 'a task does not run on tables of several owners');
$node->safe_psql('postgres', q{
	ALTER TABLE gpuagent.swarm_version OWNER TO mallory;
	CREATE TABLE synced (who text);
	GRANT INSERT ON synced TO mallory;
});
set_task($node, 'postgres', 'autosync', q{INSERT INTO public.synced VALUES (current_user)});
ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM synced}), 'with one owner it is taken up again');
is_value($node, q{SELECT DISTINCT who FROM synced}, 'mallory', 'as that owner');
$node->stop;

done_testing();
