# Exports of checkpoints against crashes, cancels and errors, and a tree that another server reads.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{GA_TEST_LONG} ? 12 : 3;
my $node = new_node('files');
(my $tree = $node->data_dir) =~ s{/[^/]+$}{};
$tree .= '/gpu_storage-' . $node->port;

sub hidden { return scalar(my @found = glob("$tree/nvme_storage/.tmp-*")); }

# Where the tree may be.
foreach my $case (
	[ $node->data_dir . '/tree', '55000', 'a tree inside the data directory' ],
	[ $node->data_dir, '55000', 'the data directory itself' ],
	[ "$tree/absent/tree", '58P01', 'a tree whose parent is absent' ])
{
	my ($path, $sqlstate, $name) = @$case;
	$node->append_conf('postgresql.conf', "gpuagent.storage_path = '$path'");
	$node->restart;
	fails_with($node, q{SELECT gpuagent_store.replace_text('x', 'x')}, $sqlstate, "$name is refused");
}
my $link = PostgreSQL::Test::Utils::tempdir() . '/link';
symlink $node->data_dir, $link;
$node->append_conf('postgresql.conf', "gpuagent.storage_path = '$link/tree'");
$node->restart;
fails_with($node, q{SELECT gpuagent_store.replace_text('x', 'x')}, '55000', 'a tree inside the data directory by a link is refused');
$node->append_conf('postgresql.conf', "gpuagent.storage_path = '$tree'");
$node->restart;

# Something of everything: agents with awkward bits, a graph, a swarm of several chunks, an expert with
# biases and rank 0, metrics.
$node->safe_psql('postgres', q{
	SET search_path = gpuagent, public;
	SELECT store_agents(array_agg('a' || to_char(i, 'FM00000') ORDER BY i),
		stack(ARRAY[i, '-0'::real, 1.0::real / i, 'NaN'::real]::agent_state ORDER BY i),
		stack(ARRAY[i * 0.5]::real[]::agent_state ORDER BY i), 1, array_agg(sin(i) ORDER BY i))
	FROM generate_series(1, 1000) i;
	SELECT store_agent('halves', 'F16:[1,65504,6e-8]', NULL, 2, NULL, '{"kind": "odd"}');
	SELECT store_nodes('graph', ARRAY['x', 'y', 'z', 'alone'], '[[1,0,0],[0,1,0],[0.6,0.8,0],[0,0,1]]', '[{"n": 1}, {"n": 2}, {}, {}]');
	SELECT store_edges('graph', ARRAY['x', 'y'], ARRAY['y', 'z'], ARRAY['next', 'next'], ARRAY[0.5, 2.5]);
	SELECT store_swarm('swarm', (SELECT stack((ARRAY(SELECT (i * 0.001 + j)::real FROM generate_series(1, 256) j))::agent_state
		ORDER BY i) FROM generate_series(1, 3000) i), '{"note": "first"}');
	SELECT store_weights('expert', 'layer.0', '[[1,2],[3,4]]', '[0.5,-0.5]');
	SELECT store_weights('expert', 'step', 'F64:7');
	SELECT store_expert_config('expert', 'testing', 6, 0.001, '{"layers": 1}');
	SELECT store_metrics('run', '{"loss": 0.25, "accuracy": 1}', 3);
	SELECT create_checkpoint('first')});
is_value($node, 'SELECT state FROM gpuagent.export_checkpoint()', 'done', 'a checkpoint is exported');

# Descriptors: a thousand errors leave none; the server itself may open a relation or two in between.
my $count = q{CREATE OR REPLACE FUNCTION descriptors() RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE n bigint;
	BEGIN
		CREATE TEMP TABLE IF NOT EXISTS c (n bigint);
		TRUNCATE c;
		EXECUTE format('COPY c FROM PROGRAM %L', 'ls /proc/' || pg_backend_pid() || '/fd | wc -l');
		SELECT c.n INTO n FROM c;
		RETURN n;
	END $$;};
my $errors = q{DO $$ BEGIN
	FOR i IN 1 .. 250 LOOP
		BEGIN PERFORM gpuagent_store.read_states('nvme_storage/' || rtrim(gpuagent_store.read_text('nvme_storage/latest'), E'\n') || '/agents-1.safetensors', 'absent'); EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN PERFORM gpuagent_store.read_lines('nvme_storage/' || rtrim(gpuagent_store.read_text('nvme_storage/latest'), E'\n') || '/agents-1.safetensors'); EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN PERFORM gpuagent_store.write_lines(gpuagent_store.temp_create('nvme_storage') || '/x', 'SELECT 1/0'); EXCEPTION WHEN OTHERS THEN NULL; END;
		BEGIN PERFORM gpuagent_store.read_text('nvme_storage'); EXCEPTION WHEN OTHERS THEN NULL; END;
	END LOOP;
END $$;};
my ($before, $after) = split /\n/, $node->safe_psql('postgres', "$count $errors SELECT descriptors(); $errors SELECT descriptors();");
cmp_ok($after, '<=', $before + 5, 'errors leave no descriptors open');
is(hidden(), 0, 'errors leave no private folders');

# A cancel in the middle.
my ($rc, $stdout, $stderr) = $node->psql('postgres', q{
	SET statement_timeout = '300ms';
	SELECT gpuagent_store.write_lines(gpuagent_store.temp_create('nvme_storage') || '/x', 'SELECT repeat(i::text, 1000) FROM generate_series(1, 1000000000) i')});
like($stderr, qr/canceling statement/, 'an export is cancelled');
is(hidden(), 0, 'a cancelled export leaves no private folder');

# A private folder stays while its owner lives, and goes with the next export after.
my ($in, $out, $err) = ("BEGIN;\nSELECT gpuagent_store.temp_create('nvme_storage');\n", '', '');
my $owner = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$owner->pump until $out =~ /tmp-/;
mkdir "$tree/nvme_storage/.tmp-0123456789abcdef";
append_to_file("$tree/nvme_storage/.tmp-0123456789abcdef/x", 'remains');
is_value($node, q{SELECT gpuagent_store.replace_text('nvme_storage/note', 'x')}, '', 'a file is written');
is(hidden(), 1, 'remains of the dead are swept, not what a living session holds');
$in .= "COMMIT;\n\\q\n";
$owner->finish;
is(hidden(), 0, 'the end of its transaction removes a private folder');

# A crash in the middle of exports.
my $acknowledged = 1;
foreach my $round (1 .. $rounds)
{
	my $statements = join '', map { qq{
		SELECT gpuagent.store_swarm('crash', gpuagent.tensor('U8', '{4000000}', convert_to(repeat(lpad('$round.$_', 20), 200000), 'UTF8')));
		SELECT gpuagent.create_checkpoint('$round.$_');
		SELECT path FROM gpuagent.export_checkpoint();} } 1 .. 100;
	my ($out, $err) = ('', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$statements, '>', \$out, '2>', \$err);
	$psql->pump until $out =~ /ckpt/;
	usleep(20000 + 37000 * $round);
	$node->stop('immediate');
	$psql->finish;
	$node->start;
	my @told = $out =~ /(nvme_storage\/ckpt-\S+)/g;
	# One that was committed, but not told, may be there as well.
	my $exported = $node->safe_psql('postgres', 'SELECT count(*) FROM gpuagent.checkpoint WHERE exported_path IS NOT NULL');
	cmp_ok($exported, '>=', $acknowledged + @told, 'each acknowledged export is in the catalogue');
	is_value($node, q{SELECT count(*) FROM gpuagent_store.list_folder('nvme_storage') f,
		LATERAL gpuagent_store.verify_files('nvme_storage/' || f, gpuagent_store.read_manifest('nvme_storage/' || f), 'deep')
		WHERE f LIKE 'ckpt-%'}, '0', 'each visible folder is whole');
	is_value($node, q{SELECT gpuagent_store.read_manifest('nvme_storage/' || rtrim(gpuagent_store.read_text('nvme_storage/latest'), E'\n')) ->> 'format'},
		'gpuagent checkpoint', 'latest names one');
	is_value($node, q{SELECT gpuagent.create_checkpoint('after') IS NOT NULL AND (SELECT state FROM gpuagent.export_checkpoint()) IN ('done', 'present')},
		't', 'exports go on');
	$acknowledged = $node->safe_psql('postgres', 'SELECT count(*) FROM gpuagent.checkpoint WHERE exported_path IS NOT NULL');
	is(hidden(), 0, 'what the crash left is swept');
}
is_value($node, q{SELECT status FROM gpuagent.verify_integrity('full')}, 'ok', 'all of it verifies');

# Another server, with nothing but the files.
my $other = new_node('other');
(my $copy = $other->data_dir) =~ s{/[^/]+$}{};
$copy .= '/gpu_storage-' . $other->port;
system_or_bail('cp', '-R', $tree, $copy);
my $original = digest($node);
is_value($other, q{SELECT gpuagent.import_checkpoint(restore => true, verify => 'deep') IS NOT NULL}, 't', 'another server imports and restores the newest');
my $restored = digest($other);
is($restored->{$_}, $original->{$_}, "$_ is restored bit for bit") foreach qw(gpuagent.agent gpuagent.graph gpuagent.graph_node gpuagent.graph_edge gpuagent.metric gpuagent.run);
foreach my $query (
	q{SELECT s.swarm, v.tensor, s.metadata FROM gpuagent.swarm s JOIN gpuagent.swarm_version v ON v.swarm = s.swarm AND version = current ORDER BY 1},
	q{SELECT layer, weights, biases FROM gpuagent.load_weights('expert')},
	q{SELECT expert, domain, parameter_count, learning_rate, architecture, metadata, created_at, updated_at FROM gpuagent.expert ORDER BY expert})
{
	is_value($other, $query, $node->safe_psql('postgres', $query), 'swarms and weights are restored bit for bit');
}
$node->stop;
$other->stop;
done_testing();
