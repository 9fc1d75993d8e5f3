# The journal of exports and what the server does with it: each state that a crash can leave is made by hand and found
# again after a start, or by the next export; torn, foreign and damaged journals; folders that do not verify; latest that
# names nothing; databases that share a tree.
#
# Defects of earlier systems that would show here: a write-ahead log that nobody replays, without checksums; half-written
# checkpoints found at resume; a whole one without its marker deleted; valid ones taken for temporary.
use strict;
use warnings;

use Digest::SHA;
use GpuAgentFaults;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('journal', conf => "gpuagent.discard_grace = 3600\n");
my $tree = tree($node);
my $exports = "$tree/nvme_storage";
my $source = $node->safe_psql('postgres', 'SELECT gpuagent_store.xid_source()');
my ($system, $database) = split m{/}, $source;
my $journal = sprintf "%s/wal/exports-%016x-%d", $tree, $system, $database;

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

my %uid;
sub uid_of { my ($id) = @_; return $uid{$id} //= sql("SELECT uid FROM gpuagent.checkpoint WHERE id = $id"); }

sub checkpoint
{
	my ($label) = @_;
	my $id = sql("SELECT gpuagent.store_agent('$label', ARRAY[random()]::real[]::gpuagent.agent_state); SELECT gpuagent.create_checkpoint('$label')") =~ s/.*\n//r;
	uid_of($id);
	return $id;
}

sub exported { my ($id) = @_; return sql("SELECT split_part(path, '/', 2) FROM gpuagent.export_checkpoint($id)"); }

# A second implementation of the journal's bytes.
sub crc32c
{
	my ($data) = @_;
	my $crc = 0xFFFFFFFF;
	foreach my $byte (unpack 'C*', $data)
	{
		$crc ^= $byte;
		$crc = ($crc >> 1) ^ ($crc & 1 ? 0x82F63B78 : 0) foreach 1 .. 8;
	}
	return $crc ^ 0xFFFFFFFF;
}

sub header
{
	my ($of_system, $of_database) = @_;
	my $bytes = 'GAJRNL01' . pack('QLQ', $of_system, $of_database, 0);
	return $bytes . pack('L', crc32c($bytes));
}

sub record
{
	my (%r) = @_;
	my $rest = pack('LLQqq', $r{kind}, $r{flags} // 0, $r{serial}, $r{checkpoint} // 0, 0)
		. pack('H32', ($r{uid} // '0' x 32) =~ s/-//gr) . pack('LLQ', length($r{name} // ''), length($r{previous} // ''), 0)
		. ($r{name} // '') . ($r{previous} // '');
	my $length = pack('L', 8 + length $rest);
	return $length . pack('L', crc32c($length . $rest)) . $rest;
}

sub write_file
{
	my ($path, $bytes) = @_;
	open(my $file, '>:raw', $path) or die "$path: $!";
	print $file $bytes;
	close $file;
	return;
}

sub set_latest { my ($name) = @_; write_file("$exports/latest", "$name\n"); return; }
sub open_records { return sql("SELECT count(*) FROM gpuagent_store.journal_intents()"); }

# What the server's log says since the last start.
my $log_at = 0;
sub log_since { my $log = slurp_file($node->logfile, $log_at); return $log; }

# A crash, something done to the files, a start, and the worker's first look.
sub crash_and
{
	my ($change) = @_;
	$node->stop('immediate');
	$change->();
	$log_at = -s $node->logfile;
	$node->start;
	$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance'
		AND state = 'idle' AND query ~ '(check|maintain)_exports|(follow|repair)_peers|beat|prune|_cache'}) or die 'the worker does not look';
	return;
}

my $one = checkpoint('one');
my $first = exported($one);
is(folder_problem("$exports/$first"), undef, 'an export is whole');
my $bytes = slurp_file($journal);
is($bytes, header($system, $database) . substr($bytes, 32), 'the journal begins as it should');
my $found = record(kind => 1, flags => 1, serial => 1, checkpoint => $one, uid => uid_of($one), name => $first);
is(length $bytes, 32 + length($found) + length(record(kind => 3, serial => 1)), 'it has an intent and its end');
substr($bytes, 32 + 32, 8) = "\0" x 8;				# the time
substr($found, 4, 4) = substr($bytes, 36, 4);		# and so its checksum
is(substr($bytes, 32, length $found), $found, 'the intent says what was exported');

# The crash came after the rename, before the commit: "latest" not yet, or already replaced.
my $two = checkpoint('two');
my $second = exported($two);
my $head = header($system, $database);
my $intent = record(kind => 1, flags => 1, serial => 1, checkpoint => $two, uid => uid_of($two), name => $second, previous => $first);
foreach my $latest ($first, $second)
{
	sql("UPDATE gpuagent.checkpoint SET exported_path = NULL, exported_at = NULL WHERE id = $two");
	crash_and(sub { write_file($journal, $head . $intent); set_latest($latest); });
	is(open_records(), 0, 'an export that was about to commit is ended');
	is(sql("SELECT exported_path FROM gpuagent.checkpoint WHERE id = $two"), "nvme_storage/$second", 'it is entered in the catalogue');
	is(latest_of($node), $second, 'latest names it');
	is(folder_problem("$exports/$second"), undef, 'it is whole');
}

# Its checkpoint was made by the transaction that did not commit: the folder is nobody's.
my $lost = '01234567-89ab-cdef-0123-456789abcdef';
sub make_lost
{
	my ($name) = @_;
	system_or_bail('cp', '-R', "$exports/$second", "$exports/$name");
	my @line = split /\n/, slurp_file("$exports/$name/MANIFEST.json");
	my $uid = uid_of($two);
	$line[1] =~ s/$uid/$lost/ or die;
	write_file("$exports/$name/MANIFEST.json", "$line[0]\n$line[1]\n,\"sha256\":\"" . Digest::SHA::sha256_hex($line[1]) . "\"}\n");
	return;
}
crash_and(sub {
	make_lost('ckpt-0000000099-01234567');
	set_latest('ckpt-0000000099-01234567');
	write_file($journal, $head . record(kind => 1, flags => 1, serial => 1, checkpoint => 99, uid => $lost, name => 'ckpt-0000000099-01234567', previous => $second));
});
ok(!-e "$exports/ckpt-0000000099-01234567", 'the export of a checkpoint that was never committed is removed');
is(latest_of($node), $second, 'latest names what it did before');
is(open_records(), 0, 'and that is the end of it');

# The same folder without an intent was not written by a transaction of ours that failed: it stays, whoever brought it.
crash_and(sub { make_lost('ckpt-0000000099-01234567'); });
ok(-e "$exports/ckpt-0000000099-01234567", 'a whole export that the catalogue does not know, and the journal neither, stays');
is(sql("SELECT gpuagent.import_checkpoint('ckpt-0000000099-01234567') > 0"), 't', 'and can be imported');
sql(q{SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint WHERE kind = 'import'});
system_or_bail('rm', '-r', "$exports/ckpt-0000000099-01234567");

# What the rename gave its name is not whole after all.
my $three = checkpoint('three');
my $third = exported($three);
sql("UPDATE gpuagent.checkpoint SET exported_path = NULL, exported_at = NULL WHERE id = $three");
crash_and(sub {
	truncate("$exports/$third/items.jsonl", 10);
	write_file($journal, $head . record(kind => 1, flags => 1, serial => 1, checkpoint => $three, uid => uid_of($three), name => $third, previous => $second));
});
ok(!-e "$exports/$third", 'an unfinished export that does not verify has lost its name');
my ($aside) = glob("$exports/quarantine-$third-*");
ok($aside && -e "$aside/MANIFEST.json", 'it is put aside with all its files');
is(latest_of($node), $second, 'latest names the one before');
is(sql("SELECT coalesce(exported_path, 'none') FROM gpuagent.checkpoint WHERE id = $three"), 'none', 'the catalogue does not say that it was exported');
like(log_since(), qr/put "nvme_storage\/$third" aside as "nvme_storage\/quarantine-.*\n.*items.jsonl is damaged/, 'the log says why');
is(sql(q{SELECT status FROM gpuagent.check_setup() WHERE item = 'exports'}), 'warning', 'check_setup() tells of it');
is(exported($three), $third, 'the checkpoint can be exported again');
is(latest_of($node), $third, 'and is the latest then');
system_or_bail('rm', '-r', $aside);
is(sql(q{SELECT status FROM gpuagent.check_setup() WHERE item = 'exports'}), 'ok', 'without what was put aside all is well');

# Damaged while the server was down, without any intent: found at the start. One that is on its way here is left alone.
crash_and(sub {
	unlink("$exports/$third/metrics.jsonl") or die;
	mkdir "$exports/ckpt-0000000777-copying" or die;
	write_file("$exports/ckpt-0000000777-copying/items.jsonl", 'half');
	mkdir "$exports/ckpt-0000000778-oldhalf" or die;
	write_file("$exports/ckpt-0000000778-oldhalf/items.jsonl", 'half');
	mkdir "$exports/.tmp-0123456789abcdef";
	write_file("$exports/.tmp-0123456789abcdef/x", 'remains');
	write_file("$exports/.tmp-0123456789abcdee", 'remains of latest');
});
ok(!-e "$exports/$third" && glob("$exports/quarantine-$third-*"), 'an export that lost a file is put aside');
is(sql("SELECT coalesce(exported_path, 'none') FROM gpuagent.checkpoint WHERE id = $three"), 'none', 'the catalogue knows');
is(latest_of($node), $second, 'latest names the newest that is whole');
ok(-e "$exports/ckpt-0000000777-copying", 'what changed a moment ago and is not ours may be on its way here: it stays');
is(join(' ', private_of($node)), '', 'private remains are swept');
system_or_bail('sh', '-c', "rm -r $exports/quarantine-* $exports/ckpt-*7-copying $exports/ckpt-*8-oldhalf");

# A torn tail, a journal of somebody else, nonsense: none of it stops exports.
my $four = checkpoint('four');
write_file($journal, $head . $intent . record(kind => 3, serial => 1) . substr($intent, 0, 50));
my $fourth = exported($four);
is(open_records(), 0, 'a torn tail is ignored');
$bytes = slurp_file($journal);
is(length($bytes), 32 + length($intent) + 2 * length(record(kind => 3, serial => 1)) + length(record(kind => 1, serial => 2, name => $fourth, previous => $second)),
	'and cut off before the next record');
foreach my $case ([ 'of another database', header($system, $database + 1) . $intent ], [ 'of nonsense', 'nonsense' x 20 ],
	[ 'of zeros', "\0" x 200 ], [ 'cut in its header', substr($head, 0, 17) ], [ 'empty', '' ])
{
	my ($what, $content) = @$case;
	write_file($journal, $content);
	is(open_records(), 0, "a journal $what has nothing open");
	my $next = exported(checkpoint('next'));
	is(folder_problem("$exports/$next"), undef, 'and the next export goes on');
	is(latest_of($node), $next, 'to the end');
	is(substr(slurp_file($journal), 0, 32), $head, 'with a journal of its own');
}
is(scalar(my @kept = glob("$journal.damaged-*")), 3, 'what was in the place of a journal is kept');

# It stays small: what is over goes.
write_file($journal, $head . join('', map { record(kind => 1, serial => $_, name => 'ckpt-x') . record(kind => 3, serial => $_) } 1 .. 200));
exported(checkpoint('small'));
cmp_ok(-s $journal, '<', 1000, 'a journal that has grown is written anew');
write_file($journal, $head . record(kind => 1, serial => 1, name => 'ckpt-gone', previous => '../../etc') . join('', map { record(kind => 1, serial => $_, name => '../hostile') . record(kind => 3, serial => $_) } 2 .. 20));
exported(checkpoint('hostile'));
is(open_records(), 0, 'names that cannot be folders are refused, and their records end');

# "latest" that names nothing, or is none.
foreach my $content ("ckpt-absent\n", '', "../../../etc/passwd\n", "\0\0\0\n", 'x' x 5000)
{
	write_file("$exports/latest", $content);
	my $id = sql(q{SELECT max(id) FROM gpuagent.checkpoint});
	my $name = exported($id);
	is(latest_of($node), $name, 'a broken latest is repaired by the next export, even of what is there');
}
crash_and(sub { unlink "$exports/latest"; });
is(latest_of($node), sql(q{SELECT split_part(exported_path, '/', 2) FROM gpuagent.checkpoint ORDER BY id DESC LIMIT 1}), 'and by a start');

# Two databases, one tree: each its own journal, nobody removes or hides what is the other's.
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup(); SELECT gpuagent.create_checkpoint()');
my $before = join ' ', exports_of($node);
my $theirs = $node->safe_psql('other', q{SELECT split_part(path, '/', 2) FROM gpuagent.export_checkpoint()});
is(latest_of($node), $theirs, 'latest is the newest export of the database that exported last');
is(scalar(my @journals = grep { !/damaged/ } glob("$tree/wal/exports-*")), 2, 'each database has a journal');
is(sql('SELECT gpuagent_store.check_exports()'), 0, 'one finds nothing wrong with what is the other\'s');
is(join(' ', sort(split(/ /, $before), $theirs)), join(' ', exports_of($node)), 'all exports are there');
# The same number and the same first digits of the uuid, by chance: the other's stays, ours gets a longer name.
my $ours = checkpoint('chance');
my $uid = $node->safe_psql('other', 'SELECT uid FROM gpuagent.checkpoint');
my $twin = substr($uid, 0, 9) . '0000-0000-0000-000000000000';
sql("UPDATE gpuagent.checkpoint SET uid = '$twin' WHERE id = $ours");
$node->safe_psql('other', 'UPDATE gpuagent.checkpoint SET exported_path = NULL');
my $taken = sprintf 'ckpt-%010d-%s', $ours, substr($uid, 0, 8);
system_or_bail('mv', "$exports/$theirs", "$exports/$taken");
is(exported($ours), sprintf('ckpt-%010d-%s', $ours, $twin), 'an export whose name another database has taken gets a longer one');
is(folder_problem("$exports/$taken"), undef, 'that one stays whole and in its place');
is(scalar(my @none = glob("$exports/quarantine-*")), 0, 'nothing is put aside');

# Rolled back, in a savepoint, prepared: nothing appears, latest stays.
my $latest = latest_of($node);
$before = join ' ', exports_of($node);
my $last = checkpoint('last');
sql("BEGIN; SELECT gpuagent.export_checkpoint($last); ROLLBACK");
sql("BEGIN; SAVEPOINT s; SELECT gpuagent.export_checkpoint($last); ROLLBACK TO s; COMMIT");
is(join(' ', exports_of($node)), $before, 'what is rolled back leaves no export');
is(latest_of($node), $latest, 'and latest as it was');
$node->append_conf('postgresql.conf', "max_prepared_transactions = 2\n");
$node->restart;
fails_with($node, "BEGIN; SELECT gpuagent.export_checkpoint($last); PREPARE TRANSACTION 'x'", '0A000', 'an export cannot be prepared');
is(join(' ', exports_of($node)), $before, 'and leaves nothing');
# One that fails after its rename takes it back.
mkdir "$exports/latest.dir";
rename "$exports/latest", "$exports/latest.saved";
rename "$exports/latest.dir", "$exports/latest";
fails_with($node, "SELECT gpuagent.export_checkpoint($last)", '42809', 'latest cannot be replaced: the export fails');
is(join(' ', exports_of($node)), $before, 'its folder, which had its name already, is gone again');
is(open_records(), 0, 'and the journal knows');
rmdir "$exports/latest";
rename "$exports/latest.saved", "$exports/latest";
is(latest_of($node), $latest, 'latest is as it was');
# Within its transaction it is found under its name.
is(sql(qq{BEGIN; SELECT count(*) FROM gpuagent.export_checkpoint($last); SELECT object, status FROM gpuagent.verify_integrity('full', checkpoint => $last);
	SELECT gpuagent.import_checkpoint() = $last; COMMIT}), "1\ntotal|ok\nt", 'a transaction finds what it exports before it commits');
is(latest_of($node), sql("SELECT split_part(exported_path, '/', 2) FROM gpuagent.checkpoint WHERE id = $last"), 'latest follows at the commit');
# What others write into the table and the folder is no reason for the worker's tasks to fail.
sql(q{INSERT INTO gpuagent.checkpoint (label, exported_path) VALUES ('hostile', 'nvme_storage/ckpt-a b'), ('hostile', 'nvme_storage/ckpt-' || repeat('x', 300))});
mkdir "$exports/$_" or die $! foreach 'ckpt-a b', "ckpt-\xff";
set_latest('ckpt-gone');
is(sql('SELECT gpuagent_store.check_exports()'), 0, 'names that are none of exports are passed over');
is(latest_of($node), sql("SELECT split_part(exported_path, '/', 2) FROM gpuagent.checkpoint WHERE id = $last"), 'latest is found all the same');
$node->stop;
done_testing();
