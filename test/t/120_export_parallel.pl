# Exports by several processes: none are free, one is cancelled, ended or killed, a chunk is damaged; and file systems
# that cannot be written past the page cache.
use strict;
use warnings;

use Digest::SHA ();
use GpuAgentTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('export', conf => "max_parallel_maintenance_workers = 3\nmax_parallel_workers = 8\nautovacuum = off\nrestart_after_crash = on\n");
(my $tree = $node->data_dir) =~ s{/[^/]+$}{};
$tree .= '/gpu_storage-' . $node->port;

# 40 MB in an odd place of the file: after a tensor whose size is no multiple of a block.
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_weights('model', 'a.bias', gpuagent.tensor('F64', '{3}', decode(repeat('0123456789abcdef', 3), 'hex')));
	SELECT gpuagent.store_weights('model', 'b.weight', gpuagent.tensor('U8', '{40000000}',
		(SELECT substr(string_agg(sha512(i::text::bytea), '' ORDER BY i), 1, 40000000) FROM generate_series(1, 625000) i)))});
my $export = q{SELECT sha256 FROM gpuagent.export_safetensors('model', 'm/model', overwrite => true)};
my $whole = $node->safe_psql('postgres', "SET max_parallel_maintenance_workers = 0; $export");
is(Digest::SHA->new(256)->addfile("$tree/m/model.safetensors", 'b')->hexdigest, $whole, 'one process writes the file');

sub untouched
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_deeply([ glob("$tree/m/{.tmp-*,*}") ], ["$tree/m/model.safetensors"], "$name: nothing is left");
	is(Digest::SHA->new(256)->addfile("$tree/m/model.safetensors", 'b')->hexdigest, $whole, "$name: the file is the old one");
}

# Runs an export at a rate that gives the test time; its parallel workers, two for so many chunks, are there when this returns.
sub slow_export
{
	my ($out, $err) = @_;
	my $session = IPC::Run::start([ 'psql', '-XqAt', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres'), '-c',
		"SET gpuagent.io_rate_limit = '1MB'", '-c', $export ], '>', $out, '2>', $err);
	$node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'parallel worker'}) or die 'no workers';
	return $session;
}

unlink "$tree/m/model.safetensors";
is_value($node, $export, $whole, 'several write the same');
is(Digest::SHA->new(256)->addfile("$tree/m/model.safetensors", 'b')->hexdigest, $whole, 'and report what is on disk');
is_value($node, "SET max_parallel_workers = 0; $export", $whole, 'workers are planned and none is free');
is_value($node, "SET max_parallel_maintenance_workers = 1024; $export", $whole, 'more are wanted than there can be');

# Cancel and timeout.
my ($out, $err) = ('', '');
my ($rc, $stdout, $stderr) = $node->psql('postgres', "SET gpuagent.io_rate_limit = '1MB'; SET statement_timeout = '700ms'; $export");
like($stderr, qr/canceling statement due to statement timeout/, 'a timeout ends an export');
untouched('timeout');
my $session = slow_export(\$out, \$err);
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%export_safe%' AND pid <> pg_backend_pid() AND leader_pid IS NULL});
$session->finish;
like($err, qr/57014/, 'a cancel ends an export');
untouched('cancel');
is_value($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'}, '0', 'its workers are gone');

# A worker that is ended.
($out, $err) = ('', '');
$session = slow_export(\$out, \$err);
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'parallel worker' LIMIT 1});
$session->finish;
like($err, qr/ERROR:  57P01/, 'the end of a worker is the end of the export');
untouched('worker ended');

# A worker that is killed: the server goes through recovery.
($out, $err) = ('', '');
$session = slow_export(\$out, \$err);
kill_and_recover($node, $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'parallel worker' LIMIT 1}));
$session->finish;
isnt($err, '', 'the death of a worker ends the export');
is_value($node, $export, $whole, 'and the next one is whole');
untouched('worker killed, and exported again');

# A full disk is found before anything is written.
$node->safe_psql('postgres', q{SELECT gpuagent.create_checkpoint('huge', '{expert:model}'); UPDATE gpuagent.checkpoint SET raw_bytes = 1e18});
($rc, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT gpuagent.export_checkpoint()");
like($stderr, qr/53100: could not reserve 1000000000000000000 bytes/, 'more than the disk has is refused');
is_deeply([ glob("$tree/nvme_storage/{.tmp-*,ckpt-*}") ], [], 'and nothing was written');
$node->safe_psql('postgres', q{SELECT gpuagent.delete_checkpoint(id) FROM gpuagent.checkpoint});

# Values that are not finite are counted once, whoever meets them.
$node->safe_psql('postgres', q{SELECT gpuagent.store_swarm('odd', gpuagent.tensor('F32', '{10000000}',
	decode(repeat('0000c07f' || repeat('0000803f', 9998) || '000080ff', 1000), 'hex')))});
foreach my $workers (0, 3)
{
	is_value($node, qq{SET max_parallel_maintenance_workers = $workers;
		SELECT string_agg(concat_ws('|', object, status, found), ' ') FROM gpuagent.verify_integrity('deep', '{swarms}')},
		'swarm:odd version 1|nonfinite|2000 values total|ok|0 problems in 1 tensors and 0 exports', "values that are not finite, $workers workers");
}
$node->safe_psql('postgres', q{SELECT gpuagent.delete_swarm('odd')});

# A damaged chunk in the middle, whoever meets it.
$node->safe_psql('postgres', q{
	CREATE TABLE damaged AS SELECT ctid AS place, hash, data FROM gpuagent_store.chunk WHERE nbytes = 1048576 ORDER BY hash LIMIT 1;
	UPDATE gpuagent_store.chunk c SET data = set_byte(c.data, 1000, get_byte(c.data, 1000) # 16) FROM damaged d WHERE c.hash = d.hash});
my $hash = $node->safe_psql('postgres', q{SELECT encode(hash, 'hex') FROM damaged});
foreach my $workers (0, 3)
{
	($rc, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\nSET max_parallel_maintenance_workers = $workers;\n$export");
	like($stderr, qr/XX001: chunk $hash of the store is damaged/, "a damaged chunk is named, $workers workers");
	untouched("damaged chunk, $workers workers");
	is_value($node, qq{SET max_parallel_maintenance_workers = $workers;
		SELECT string_agg(concat_ws('|', object, status, left(found, 76)), ' ') FROM gpuagent.verify_integrity('full')},
		"expert:model layer b.weight version 2|damaged|chunk $hash of th"
			. ' total|damaged|1 problems in 2 tensors and 0 exports', "verification names it, $workers workers");
}
$node->safe_psql('postgres', 'DELETE FROM gpuagent_store.chunk c USING damaged d WHERE c.hash = d.hash');
($rc, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n$export");
like($stderr, qr/XX001: chunk $hash of the store is damaged/, 'a missing chunk is named');
untouched('missing chunk');
$node->safe_psql('postgres', q{INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, data, crc)
	SELECT hash, 1048576, 0, 1, data, 0 FROM damaged});
($rc, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\n$export");
like($stderr, qr/Its checksum does not match/, 'a wrong checksum is found');

# Content and checksum changed together, as nobody but an owner of the tables can: exports, like all reads, look at checksums.
# Whatever looks at hashes finds it: verification, of the file too, restores, and imports of what was exported.
sub crc32c
{
	my ($data) = @_;
	my @table = map { my $c = $_; $c = $c & 1 ? ($c >> 1) ^ 0x82F63B78 : $c >> 1 for 1 .. 8; $c } 0 .. 255;
	my $crc = 0xFFFFFFFF;
	$crc = ($crc >> 8) ^ $table[ ($crc ^ $_) & 0xFF ] foreach unpack('C*', $data);
	return unpack('l', pack('L', $crc ^ 0xFFFFFFFF));
}
is(crc32c('123456789'), -486108541, 'the checksum of the test is CRC-32C');
my $forged = $node->safe_psql('postgres', q{SELECT encode(set_byte(data, 1000, get_byte(data, 1000) # 16), 'hex') FROM damaged});
my $crc = crc32c(pack('H*', $forged));
$node->safe_psql('postgres', "UPDATE gpuagent_store.chunk c SET data = decode('$forged', 'hex'), crc = $crc FROM damaged d WHERE c.hash = d.hash");
my $number = $node->safe_psql('postgres', q{SELECT gpuagent.create_checkpoint('forged')});
my $exported = $node->safe_psql('postgres', 'SELECT path FROM gpuagent.export_checkpoint()');
isnt(Digest::SHA->new(256)->addfile("$tree/$exported/expert-model.safetensors", 'b')->hexdigest, $whole, 'what nobody hashes is exported');
is_value($node, q{SELECT string_agg(concat_ws('|', object, status), ' ') FROM gpuagent.verify_integrity('full')},
	'expert:model layer b.weight version 2|damaged total|damaged', 'full verification finds it in the store');
like($node->safe_psql('postgres', "SELECT concat_ws('|', object, status) FROM gpuagent.verify_integrity('deep', checkpoint => $number)"),
	qr/b\.weight.*\|damaged/, 'deep verification finds it in the file');
($rc, $stdout, $stderr) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT gpuagent.restore_checkpoint($number)");
like($stderr, qr/ERROR:  XX001/, 'a restore refuses it');
$node->safe_psql('postgres', 'CREATE DATABASE reader');
$node->safe_psql('reader', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
($rc, $stdout, $stderr) = $node->psql('reader', "\\set VERBOSITY verbose\nSELECT gpuagent.import_checkpoint('$exported', verify => 'quick')");
like($stderr, qr/ERROR:  XX001/, 'an import refuses it at any level');

# A file system in memory.
my $memory = "/dev/shm/gpuagent-export-$$";
$node->append_conf('postgresql.conf', "gpuagent.storage_path = '$memory'");
$node->restart;
$node->safe_psql('postgres', q{SELECT gpuagent.store_weights('other', 'w', gpuagent.tensor('U8', '{25000001}',
	(SELECT substr(string_agg(sha512(('other' || i)::bytea), '' ORDER BY i), 1, 25000001) FROM generate_series(1, 390626) i)))});
my $sha256 = $node->safe_psql('postgres', q{SELECT sha256 FROM gpuagent.export_safetensors('other', 'o')});
is(Digest::SHA->new(256)->addfile("$memory/o.safetensors", 'b')->hexdigest, $sha256, 'a file in memory has its SHA-256');
is(-s "$memory/o.safetensors", 25000001 + 4096, 'and its size');
system_or_bail('rm', '-r', $memory);

$node->stop;
done_testing();
