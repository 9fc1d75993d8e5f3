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

fill($node);
is_value($node, 'SELECT state FROM gpuagent.export_checkpoint()', 'done', 'a checkpoint is exported');

# Descriptors: as many after a thousand errors as before.
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
cmp_ok($after, '<=', $before, 'errors leave no descriptors open');
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
