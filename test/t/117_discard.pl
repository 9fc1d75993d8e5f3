# Exports of deleted checkpoints: they go after the commit and a grace, not before; latest moves on first and never names
# what is gone; readers with a lock keep them; what another database wrote, and what somebody else brought, stays.
#
# Defects of earlier systems that would show here: random checkpoints pruned because a UUID was taken for a time; old ones
# removed before the new one was durable; valid ones pruned while something needs them; exports that nobody ever removes.
use strict;
use warnings;

use Fcntl qw(:flock O_RDONLY);
use GpuAgentFaults;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_node('discard', conf => "gpuagent.discard_grace = 3600\n");
my $tree = tree($node);
my $exports = "$tree/nvme_storage";

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

# Makes and exports n checkpoints; names by number.
my %name;
sub exported
{
	my ($n) = @_;
	my @ids;
	foreach (1 .. $n)
	{
		my ($id, $name) = split /\|/, sql(q{SELECT FROM gpuagent.store_agent('a', ARRAY[random()]::real[]::gpuagent.agent_state);
			SELECT c, split_part(path, '/', 2) FROM gpuagent.create_checkpoint() c, gpuagent.export_checkpoint(c)}) =~ s/^\n//r;
		$name{$id} = $name;
		push @ids, $id;
	}
	return @ids;
}

# The worker looks each second without a grace, each minute with one; round() looks at once, so that a test need not wait.
sub grace
{
	my ($seconds) = @_;
	$node->append_conf('postgresql.conf', "gpuagent.discard_grace = $seconds");
	$node->reload;
	return;
}
my $only_worker = 0;
sub there { my ($id) = @_; return -e "$exports/$name{$id}/MANIFEST.json" ? 1 : 0; }
sub wait_gone
{
	my ($id) = @_;
	wait_until(sub { round() unless $only_worker; return !there($id); });
	return !-e "$exports/$name{$id}";
}
sub round { return sql('SELECT gpuagent_store.maintain_exports()'); }

my ($a, $b, $c, $d) = exported(4);
is(latest_of($node), $name{$d}, 'latest is the newest');

# Rolled back: nothing. Committed: the grace.
sql("BEGIN; SELECT gpuagent.delete_checkpoint($b); ROLLBACK");
is(sql('SELECT count(*) FROM gpuagent_store.discard'), 0, 'a deletion that is rolled back discards nothing');
sql("SELECT gpuagent.delete_checkpoint($b)");
is(sql('SELECT path FROM gpuagent_store.discard'), "nvme_storage/$name{$b}", 'one that commits does');
round();
ok(there($b), 'within the grace the export stays');
is(folder_problem("$exports/$name{$b}"), undef, 'whole');

# The newest is deleted: latest moves back at once, its files go after the grace.
sql("SELECT gpuagent.delete_checkpoint($d)");
is(folder_problem("$exports/" . latest_of($node)), undef, 'until the worker looks, latest may name what was deleted, and is whole');
round();
is(latest_of($node), $name{$c}, 'then the newest that exists');
ok(there($d), 'and the files stay for the grace');

# Readers: a shared lock on the folder or on its manifest.
open(my $manifest, '<', "$exports/$name{$b}/MANIFEST.json") or die;
flock($manifest, LOCK_SH | LOCK_NB) or die 'lock';
grace(0);
$only_worker = 1;
ok(wait_gone($d), 'after the grace it goes, by the worker');
$only_worker = 0;
ok(there($b), 'but not what somebody reads');
round();
is(folder_problem("$exports/$name{$b}"), undef, 'which stays whole');
close $manifest;
ok(wait_gone($b), 'until the reader has done');
is(join(' ', exports_of($node)), join(' ', sort @name{$a, $c}), 'the others are there');
is(sql('SELECT count(*) FROM gpuagent_store.discard'), 0, 'nothing is left to be removed');
is(sql('SELECT count(*) FROM gpuagent_store.journal_intents()'), 0, 'and no record open');
is(join(' ', private_of($node)), '', 'nor anything private');
sysopen(my $handle, "$exports/$name{$a}", O_RDONLY) or die;
flock($handle, LOCK_SH | LOCK_NB) or die 'lock';
sql("SELECT gpuagent.delete_checkpoint($a)");
round();
ok(there($a), 'a lock on the folder serves as well');
close $handle;
ok(wait_gone($a), 'as long as it is held');

# What removes looks again by itself.
my $uid = sql("SELECT uid FROM gpuagent.checkpoint WHERE id = $c");
is(sql("SELECT gpuagent_store.remove_export('$name{$c}', '$uid')"), 'leased', 'nothing is removed without a lease');
is(sql("BEGIN; SELECT gpuagent_store.lease_folder('nvme_storage/$name{$c}', true); SELECT gpuagent_store.remove_export('$name{$c}', '$uid')"), "t\nlatest",
	'nor what latest names');
is(folder_problem("$exports/$name{$c}"), undef, 'it is whole');

# The last one that is exported stays until there is another one to name.
sql("SELECT gpuagent.create_checkpoint()");
sql("SELECT gpuagent.delete_checkpoint($c)");
round();
is(latest_of($node), $name{$c}, 'latest is not taken away');
is(folder_problem("$exports/$name{$c}"), undef, 'nor what it names, while there is nothing else');
my ($e) = exported(1);
is(latest_of($node), $name{$e}, 'the next export is the latest');
ok(wait_gone($c), 'and then it goes');

# Prune removes in order of number, whatever the uuid says, keeps aliases, and discards what it removes.
my @many = exported(6);
sql("UPDATE gpuagent.checkpoint SET created_at = now() - interval '1 year' WHERE id = $many[5]");
sql("SELECT gpuagent.set_checkpoint_alias('pinned', $many[0])");
sql('SELECT gpuagent.prune_checkpoints(keep_last => 2)');
ok(wait_gone($_), "$_ is pruned") foreach $e, @many[1 .. 3];
is(join(' ', exports_of($node)), join(' ', sort @name{ @many[0, 4, 5] }), 'the pinned one and the two newest stay');
is(folder_problem("$exports/$name{$_}"), undef, 'whole') foreach @many[0, 4, 5];
is(latest_of($node), $name{ $many[5] }, 'latest, too');

# While one is exported it is neither deleted nor pruned, and nobody waits for it.
my ($in, $out, $err) = ("BEGIN;\nSELECT state FROM gpuagent.export_checkpoint($many[4]);\n", '', '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$session->pump until $out =~ /present/;
fails_with($node, "SELECT gpuagent.delete_checkpoint($many[4])", '55006', 'a checkpoint that is being exported is not deleted');
is(sql("SELECT action || ' ' || reason FROM gpuagent.prune_checkpoints(keep_last => 1) WHERE checkpoint = $many[4]"), 'keep being exported', 'nor pruned');
is(sql("SET lock_timeout = '180s'; SELECT gpuagent.create_checkpoint() > 0"), 't', 'checkpoints are made meanwhile');
$in .= "COMMIT;\n\\q\n";
$session->finish;

# Removed while it was written: the export finds out.
my $doomed = sql("SELECT gpuagent.create_checkpoint('doomed')");
($in, $out, $err) = ("\\set VERBOSITY verbose\nBEGIN;\nSELECT 'temp ' || gpuagent_store.write_export($doomed);\n", '', '');
$session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$session->pump until $out =~ /temp/;
sql("SELECT gpuagent.delete_checkpoint($doomed)");
$in .= "SELECT gpuagent.export_checkpoint($doomed);\nCOMMIT;\n\\q\n";
$session->finish;
like($err, qr/42704.*checkpoint $doomed does not exist/, 'a checkpoint that is gone is not exported');
is(join(' ', private_of($node)), '', 'and nothing of it stays');

# An import keeps what it reads; a checkpoint that came back keeps its export.
grace(3600);
sql("SELECT gpuagent.set_checkpoint_alias('pinned', NULL); SELECT gpuagent.delete_checkpoint($many[0])");
($in, $out, $err) = ("BEGIN;\nSELECT 'imported ' || gpuagent.import_checkpoint('$name{$many[0]}');\n", '', '');
$session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$session->pump until $out =~ /imported (\d+)/;
my ($import) = $out =~ /imported (\d+)/;
grace(0);
usleep(100000);
round();
ok(there($many[0]), 'an import that has not committed keeps its folder');
$in .= "COMMIT;\n\\q\n";
$session->finish;
becomes_true(sub { sql('SELECT count(*) FROM gpuagent_store.discard') eq '0' }, 'after its commit it is nobody\'s to remove');
ok(there($many[0]), 'and is there');
is(sql("SELECT exported_path FROM gpuagent.checkpoint WHERE id = $import"), "nvme_storage/$name{$many[0]}", 'as the export of the checkpoint that came back');

# What others wrote: another server's tree, imported and deleted here, and another database's.
my $other = new_node('other');
system_or_bail('rm', '-rf', tree($other));
system_or_bail('cp', '-R', $tree, tree($other));
my $foreign = $other->safe_psql('postgres', "SELECT gpuagent.import_checkpoint('$name{$many[5]}')");
$other->safe_psql('postgres', "SELECT gpuagent.create_checkpoint()");
$other->append_conf('postgresql.conf', 'gpuagent.discard_grace = 0');
$other->reload;
$other->safe_psql('postgres', "SELECT gpuagent.delete_checkpoint($foreign)");
ok($other->poll_query_until('postgres', 'SELECT count(*) = 0 FROM gpuagent_store.discard'), 'the import of another server\'s export is deleted');
my $there = tree($other) . "/nvme_storage/$name{$many[5]}";
is(folder_problem($there), undef, 'its folder is not ours to remove');
$other->stop;

# Rows that a role without rights could have written name nothing that is removed.
foreach my $path ("nvme_storage/$name{$many[5]}", 'nvme_storage/ckpt-../../wal', "nvme_storage/latest", 'wal', '/etc', 'nvme_storage/ckpt-absent')
{
	sql("INSERT INTO gpuagent_store.discard (uid, path, discarded_at) VALUES (gen_random_uuid(), '$path', '-infinity')");
	round();
}
is(folder_problem("$exports/$name{$many[5]}"), undef, 'an entry for another checkpoint removes nothing');
ok(-e "$tree/wal" && -e "$exports/latest", 'nor do hostile paths');
sql("DELETE FROM gpuagent_store.discard");
sql(q{CREATE ROLE writer; SELECT gpuagent.grant_access('writer', 'write')});
fails_with($node, q{SET ROLE writer; INSERT INTO gpuagent_store.discard (uid, path) VALUES (gen_random_uuid(), 'x')}, '42501', 'who may write makes no such entries');

# Without the tree's file system nothing is forgotten.
my ($kept, $last) = exported(2);
sql("SELECT gpuagent.delete_checkpoint($kept)");
rename $exports, "$exports.away" or die;
mkdir $exports;
round();
is(sql('SELECT count(*) FROM gpuagent_store.discard'), 1, 'what is to be removed is remembered while the tree is away');
rmdir $exports;
rename "$exports.away", $exports or die;
ok(wait_gone($kept), 'and removed when it is back');

# A newer export that is in the catalogue only, as after a restore of a dump, does not hold latest back.
my ($older) = exported(1);
my $newer = sql('SELECT gpuagent.create_checkpoint($$newer$$)');
sql("UPDATE gpuagent.checkpoint SET exported_path = 'nvme_storage/ckpt-elsewhere' WHERE id = $newer");
system_or_bail('rm', '-r', "$exports/$name{$older}");
is(sql("SELECT state FROM gpuagent.export_checkpoint($older)"), 'done', 'an export that somebody removed is made again');
is(latest_of($node), $name{$older}, 'and is the latest');

# A database that has not had the step: checkpoints are deleted, files stay.
sql('DROP TABLE gpuagent_store.discard');
my ($old, $new) = exported(2);
sql("SELECT gpuagent.delete_checkpoint($old)");
is(round(), 0, 'the worker does without the table');
ok(there($old), 'and removes nothing');
$node->stop;
done_testing();
