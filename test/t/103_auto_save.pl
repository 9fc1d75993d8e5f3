# Automatic checkpoints: one for each change, whatever changed and however; none, and no WAL, when nothing did; they push
# out only each other; exported when asked; failures are shown and tried again.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => qq{
	autovacuum = off
	gpuagent.auto_save_interval = 1s
	gpuagent.max_checkpoints = 2
	gpuagent.max_jobs = 2
	max_prepared_transactions = 2
});
my $count = q{SELECT count(*) FROM gpuagent.checkpoint WHERE kind = 'auto'};
my $newest = q{SELECT COALESCE(max(id), 0) FROM gpuagent.checkpoint};

# A statement's change is in a checkpoint before long.
sub is_saved
{
	my ($statement, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $last = $node->safe_psql('postgres', $newest);
	$node->safe_psql('postgres', $statement);
	return ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM gpuagent.checkpoint WHERE kind = 'auto' AND id > $last AND
		NOT EXISTS (SELECT FROM gpuagent.checkpoint_diff(id) WHERE object = 'agents')"), $name);
}

# Nothing is written for more than an interval; what was under way may end first. Where each interval wrote, there would be
# no such time. VACUUM sets every hint bit: where pages have checksums, which is what 18 does unless told otherwise, the
# first reader after a checkpoint would write a page for each.
sub is_idle
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(sub { written(1.2) == 0 }, $name);
}

sub written
{
	my ($seconds) = @_;
	my $where = q{SELECT pg_current_wal_insert_lsn()};
	$node->safe_psql('postgres', $_) for 'VACUUM', 'CHECKPOINT';
	select(undef, undef, undef, 0.3);
	my $before = $node->safe_psql('postgres', $where);
	select(undef, undef, undef, $seconds);
	return $node->safe_psql('postgres', "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$before')");
}

select(undef, undef, undef, 1.2);
is_value($node, $newest, 0, 'nothing is saved where there is nothing');

# Each kind of change.
is_saved(q{SELECT gpuagent.store_agent('a', '[1]')}, 'an agent is stored');
is_saved(q{DELETE FROM gpuagent.agent}, 'deleted');
is_saved(q{SELECT gpuagent.store_agents('{a,b}', '[[1],[2]]'), gpuagent.store_swarm('s', '[1,2]'), gpuagent.store_weights('e', 'w', '[1]'),
	gpuagent.store_knowledge_graph('g', '{"nodes": [{"id": "a"}]}'), gpuagent.store_metrics('r', '{"x": 1}')}, 'everything at once');
is_value($node, q{SELECT count(DISTINCT split_part(object, ':', 1)) FROM gpuagent.checkpoint_diff((SELECT min(id) FROM gpuagent.checkpoint), (SELECT max(id) FROM gpuagent.checkpoint))}, 5,
	'as it is');
is_saved(q{BEGIN; SELECT gpuagent.store_agent('prepared', '[3]'); PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'}, 'a prepared transaction');
is_saved(q{TRUNCATE gpuagent.agent}, 'TRUNCATE');
is_saved(q{INSERT INTO gpuagent.agent (id) SELECT 'x' || i FROM generate_series(1, 10) i}, 'plain rows');
is_value($node, $count, 2, 'gpuagent.max_checkpoints of them stay');

# Nothing changed.
my $last = $node->safe_psql('postgres', $newest);
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM gpuagent_store.job WHERE state IN ('queued', 'running')});
my $jobs = $node->safe_psql('postgres', q{SELECT count(*) FROM gpuagent_store.job});
$node->safe_psql('postgres', q{BEGIN; SELECT gpuagent.store_agent('rolled back', '[1]'); ROLLBACK; UPDATE gpuagent.agent SET generation = generation});
select(undef, undef, undef, 2.2);
is_value($node, $newest, $last, 'what was rolled back, or stays as it was, makes no checkpoint');
ok($node->poll_query_until('postgres', "SELECT count(*) = $jobs FROM gpuagent_store.job"), 'and leaves no job');
is_idle('where nothing changed nothing is written');
$node->safe_psql('postgres', q{SELECT pg_stat_reset()});
select(undef, undef, undef, 1.2);
is_value($node, $newest, $last, 'statistics that are reset make none either');

# Whose checkpoints go.
my $manual = $node->safe_psql('postgres', q{SELECT gpuagent.create_checkpoint('mine')});
my $named = $node->safe_psql('postgres', q{SELECT max(id) FROM gpuagent.checkpoint WHERE kind = 'auto'});
$node->safe_psql('postgres', "SELECT gpuagent.set_checkpoint_alias('keep', $named)");
is_saved("SELECT gpuagent.store_agent('n', '[$_]')", "change $_") for 1 .. 2;
is_value($node, "SELECT count(*) FROM gpuagent.checkpoint WHERE id = $manual", 1, 'a checkpoint that somebody made stays');
is_value($node, "SELECT count(*) FROM gpuagent.checkpoint WHERE id = $named", 1, 'and one with an alias');
is_value($node, "$count AND id <> $named", 2, 'beside the newest automatic ones');
is_value($node, q{SELECT count(*) FROM gpuagent.verify_integrity('full') WHERE status <> 'ok'}, 0, 'all are intact');

# Exported when asked.
is_value($node, q{SELECT count(*) FROM gpuagent.checkpoint WHERE exported_path IS NOT NULL}, 0, 'none was exported');
$node->append_conf('postgresql.conf', "gpuagent.auto_export = on\n");
$node->reload;
is_saved(q{SELECT gpuagent.store_agent('exported', '[1]')}, 'a change');
ok($node->poll_query_until('postgres', q{SELECT exported_path IS NOT NULL FROM gpuagent.checkpoint ORDER BY id DESC LIMIT 1}), 'is exported with gpuagent.auto_export');
is_value($node, q{SELECT string_agg(DISTINCT kind || ' ' || state, ', ') FROM gpuagent_store.job}, 'auto_save done, export done', 'by jobs');
$node->append_conf('postgresql.conf', "gpuagent.auto_export = off\n");
$node->reload;

# A failure is shown, and tried again.
$node->safe_psql('postgres', q{
	CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no checkpoints today$$; END';
	CREATE TRIGGER refuse BEFORE INSERT ON gpuagent.checkpoint FOR EACH ROW WHEN (NEW.kind = 'auto') EXECUTE FUNCTION public.refuse();
	SELECT gpuagent.store_agent('refused', '[1]')});
ok($node->poll_query_until('postgres', q{SELECT count(*) >= 2 FROM gpuagent_store.job WHERE kind = 'auto_save' AND state = 'failed'}), 'what fails is tried again');
like($node->safe_psql('postgres', q{SELECT status || ' ' || detail FROM gpuagent.check_setup() WHERE item = 'auto_save'}),
	qr/^warning the last automatic checkpoint failed at .*no checkpoints today/, 'check_setup() tells');
$node->safe_psql('postgres', q{CREATE ROLE reader; SELECT gpuagent.grant_access('reader')});
is_value($node, q{SET ROLE reader; SELECT status || ' ' || (detail ~ 'today')::text FROM gpuagent.check_setup() WHERE item = 'auto_save'}, 'warning false',
	'readers not what they may not read');
is_saved(q{DROP TRIGGER refuse ON gpuagent.checkpoint}, 'until it succeeds');
is_value($node, q{SELECT status FROM gpuagent.check_setup() WHERE item = 'auto_save'}, 'ok', 'and check_setup() is content');

# Without workers for jobs, and not at all.
$node->append_conf('postgresql.conf', "gpuagent.max_jobs = 0\n");
$node->restart;
is_saved(q{SELECT gpuagent.store_agent('inline', '[1]')}, 'without workers for jobs maintenance makes them');
is_idle('when something changed');
$node->append_conf('postgresql.conf', "gpuagent.auto_save_interval = 0\n");
$node->reload;
$last = $node->safe_psql('postgres', $newest);
$node->safe_psql('postgres', q{SELECT gpuagent.store_agent('off', '[1]')});
select(undef, undef, undef, 1.2);
is_value($node, $newest, $last, 'with an interval of 0 there are none');
is_value($node, q{SELECT detail FROM gpuagent.check_setup() WHERE item = 'auto_save'}, 'automatic checkpoints are switched off', 'and check_setup() says so');
$node->stop;

done_testing();
