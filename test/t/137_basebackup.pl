# pg_basebackup: the copy has the database and not the tree; started beside its original with the same settings, it leaves
# the original's tree alone, by its workers and by its functions; with a tree of its own it goes on by itself.
use strict;
use warnings;

use Fcntl ':flock';
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tree = PostgreSQL::Test::Utils::tempdir() . '/tree';
my $node = new_node('original', allows_streaming => 1,
	conf => "autovacuum = off\ngpuagent.storage_path = '$tree'\ngpuagent.launcher_interval = 1\ngpuagent.discard_grace = 0\n");
sub sql { my ($which, $query) = @_; return $which->safe_psql('postgres', $query); }

# Names and contents of all files of the tree but that of the lock.
sub files
{
	return join("\n", map { chomp; $_ } grep { !/\.server/ } split /\n/, `cd '$tree' && find . -type f -not -path './cache/*' -exec sha256sum {} + | sort -k2`);
}

sql($node, q{
	SELECT gpuagent.store_agents(ARRAY['a', 'b'], '[[1,2],[3,4]]'), gpuagent.store_swarm('s', gpuagent.tensor('U8', '{3,1000000}', convert_to(repeat('0123456789', 300000), 'UTF8')));
	SELECT * FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('one'));
	SELECT gpuagent.create_backup('backups/b')});
open(my $lock, '<', "$tree/.server") or die "$tree/.server: $!";
ok(!flock($lock, LOCK_EX | LOCK_NB), 'who makes a tree has it at once');
close $lock;
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM gpuagent_store.path_exists('nvme_storage/latest') x WHERE x});
$node->backup('base');
is(scalar(my @inside = `find '@{[ $node->backup_dir ]}/base' -name '*.safetensors' -o -name MANIFEST.json`), 0, 'a base backup has nothing of the tree');
# What the copy knows of the tree is soon old: these came after it, and the first checkpoint is gone from the original.
sql($node, q{SELECT gpuagent.store_agent('a', '[9]');
	SELECT * FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('two'));
	SELECT * FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('three', '{agents}'))});

my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'base');
$copy->append_conf('postgresql.conf', "gpuagent.auto_save_interval = 1\ngpuagent.max_checkpoints = 1\n");
my $before = files();
$copy->start;
is(sql($copy, 'SELECT gpuagent_store.xid_source()'), sql($node, 'SELECT gpuagent_store.xid_source()'), 'the copy has the identity of the original');
ok($copy->poll_query_until('postgres', q{SELECT count(*) = 1 FROM gpuagent.check_setup() WHERE item = 'tree' AND status = 'error'}), 'check_setup() says that the tree is another server\'s');
like(slurp_file($copy->logfile), qr/WARNING:  another server has the tree/, 'so does the log');
is(sql($node, q{SELECT count(*) FROM gpuagent.check_setup() WHERE item = 'tree'}), 0, 'not that of the original');
foreach my $query (q{SELECT * FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint())}, q{SELECT gpuagent.create_backup('backups/b')}, q{SELECT * FROM gpuagent.export_safetensors('e', 'x')},
	q{SELECT gpuagent_store.replace_text('nvme_storage/latest', 'x')})
{
	sql($copy, q{SELECT gpuagent.store_weights('e', 'w', '[1]')});
	fails_with($copy, $query, '55006', "refused: $query");
}
# It deletes what the original has exported; its workers have time to act on that.
sql($copy, q{SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint WHERE label = 'one'; SELECT gpuagent.store_agent('c', '[1]')});
sleep 3;
is(files(), $before, 'nothing in the tree has changed');
is(sql($copy, q{SELECT count(*) > 2 FROM gpuagent.restore_backup('backups/b', dry_run => true)}), 't', 'it may read there');
is(sql($node, q{SELECT status FROM gpuagent.verify_integrity('full')}), 'ok', 'the original finds all of it whole');
is(sql($node, q{SELECT state FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('four'))}), 'done', 'and goes on');

# When the original restarts, the tree is still its own.
$node->restart;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'gpuagent launcher'}), 'the original restarts');
is(sql($node, q{SELECT state FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('five', '{swarms}'))}), 'done', 'and still has its tree');
fails_with($copy, q{SELECT gpuagent.create_backup('backups/b')}, '55006', 'which the copy has not taken over');

# With a tree of its own, the copy is a server like any other.
$copy->append_conf('postgresql.conf', "gpuagent.storage_path = '$tree-2'\n");
$copy->restart;
is(sql($copy, q{SELECT state FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('own'))}), 'done', 'with a tree of its own, it exports');
is(sql($copy, q{SELECT gpuagent.create_backup('backups/b')}), 1, 'and makes backups');
is(sql($copy, q{SELECT count(*) FROM gpuagent.verify_integrity('full') WHERE status = 'damaged' AND object NOT LIKE 'nvme_storage/%' AND object <> 'total'}), 0, 'its database is whole');
$copy->stop;
$node->stop;
$copy->append_conf('postgresql.conf', "gpuagent.storage_path = '$tree'\n");
$copy->start;
ok($copy->poll_query_until('postgres', q{SELECT gpuagent_store.path_exists('nvme_storage/latest')}), 'where the original is gone, the copy may have its tree');
is(sql($copy, q{SELECT state FROM gpuagent.export_checkpoint(gpuagent.create_checkpoint('heir'))}), 'done', 'and write there');

done_testing();
