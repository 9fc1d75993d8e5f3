# Backups: everything comes back in another cluster, table by table and bit by bit; a second backup writes what is new; a
# crash half-way leaves the ones before; what is damaged or made by somebody else is refused with the reason.
use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use File::Copy qw(copy);
use File::Path qw(rmtree);
use GpuAgentTest;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('backup', allows_streaming => 1, conf => "autovacuum = off\nrestart_after_crash = on\n");
my $other = new_node('elsewhere', conf => "autovacuum = off\n");
my ($tree, $tree2) = map { (my $d = $_->data_dir) =~ s{/[^/]+$}{}; "$d/gpu_storage-" . $_->port } $node, $other;

# Something in every table; values that text could bend: -0, NaN payloads, denormals, empty tensors, odd names.
$node->safe_psql('postgres', q{
	SELECT gpuagent.store_agent('a' || i, ARRAY[i, -0.0, 'NaN', 1e-45, 0.1]::real[]::gpuagent.agent_state, 'F64[2]:raw:AQAAAAAA+P8BAAAAAAD4fw==',
		i % 3, CASE WHEN i % 5 > 0 THEN i / 7.0 END, jsonb_build_object('i', i, 'text', U&'\005c " \20ac')) FROM generate_series(1, 300) i;
	SELECT gpuagent.store_agent('infinite', fitness => '-Infinity'), gpuagent.store_agent('empty', 'F32[0,3]:raw:', 'F16:3.5');
	SELECT gpuagent.store_agent(U&'\00fc/" \005c', 'U8:[255]');
	INSERT INTO gpuagent.graph (graph, dim, metric) VALUES ('g', 3, 'cosine'), ('none', NULL, NULL);
	INSERT INTO gpuagent.graph_node (graph, id, embedding) SELECT 'g', 'n' || i, CASE WHEN i % 7 > 0 THEN ARRAY[i, i / 3.0, -0.0]::real[] END FROM generate_series(1, 100) i;
	INSERT INTO gpuagent.graph_edge (graph, source, target, edge_type, weight) SELECT 'g', 'n' || i, 'n' || i + 1, 'next', CASE i WHEN 5 THEN 'NaN' ELSE i / 3.0 END FROM generate_series(1, 99) i;
	SELECT gpuagent.store_swarm('s', gpuagent.tensor('U8', '{3,1000000}', convert_to(repeat('0123456789', 300000), 'UTF8')), '{"m": [1]}');
	SELECT gpuagent.store_swarm_rows('s', 2, gpuagent.tensor('U8', '{1,1000000}', convert_to(repeat('abcdefghij', 100000), 'UTF8')));
	SET gpuagent.compression = off;
	SELECT gpuagent.store_swarm('raw', gpuagent.tensor('F32', '{655360}', (SELECT string_agg(sha256(int4send(i)), '') FROM generate_series(1, 81920) i)));
	RESET gpuagent.compression;
	SELECT gpuagent.store_swarm('empty', gpuagent.tensor('BF16', '{0,7}', ''));
	SELECT gpuagent.store_weights('e', 'w' || i, gpuagent.tensor('F4', '{2,3}', '\x0f1e2d'), 'F16:[1,2]', '{"k": [1, null]}') FROM generate_series(1, 9) i;
	SELECT gpuagent.store_weights('e', 'w1', '7'), gpuagent.delete_weights('e', 'w2');
	SELECT gpuagent.store_expert_config('e', 'Reasoning', 12, 1e-5, '{"layers": 9}'), gpuagent.store_expert_state('e', 3, 0.25, 99);
	INSERT INTO gpuagent.run (run) VALUES ('r');
	INSERT INTO gpuagent.metric (run, key, step, value) SELECT 'r', 'loss', i, CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' ELSE 1.0 / i END FROM generate_series(1, 50) i;
	SELECT gpuagent.create_checkpoint('one');
	SELECT gpuagent.store_agent('a1', fitness => 99);
	DELETE FROM gpuagent.graph_edge WHERE source = 'n7';
	SELECT gpuagent.store_swarm('raw', '[1]'), gpuagent.prune_swarm('raw', 1);
	SELECT gpuagent.set_checkpoint_alias('good', gpuagent.create_checkpoint('two', metadata => '{"x": 1}'));
	SELECT gpuagent.create_checkpoint('part', '{agents:a2,swarm:s}');
	ALTER TABLE gpuagent.agent ADD COLUMN tenant text DEFAULT 'nobody';
	UPDATE gpuagent.agent SET tenant = id WHERE id < 'a2';
});

# Rows of every table by every column but those that mean nothing elsewhere, and the elements of every tensor.
sub content
{
	my ($which, $database) = @_;
	my %result;
	my @tables = split /\n/, $which->safe_psql($database, q{
		SELECT c.oid::regclass || ' ' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attname)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relkind = 'r' AND c.relnamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace)
			AND a.attname NOT IN ('version_xact', 'version_at', 'exported_path', 'exported_at')
			AND c.oid::regclass::text ~ '^gpuagent\.(agent|graph|graph_node|graph_edge|swarm|swarm_version|expert|weight_version|run|metric|checkpoint.*)$|^gpuagent_store\.checkpoint'
		GROUP BY c.oid ORDER BY 1});
	foreach my $line (@tables)
	{
		my ($table, $columns) = split / /, $line, 2;
		$result{$table} = $which->safe_psql($database, qq{
			SELECT count(*) || ' ' || md5(string_agg(t::text, '' ORDER BY t::text)) FROM (SELECT $columns FROM $table) t});
	}
	$result{elements} = $which->safe_psql($database, q{
		SELECT md5(string_agg(b, ',' ORDER BY b)) FROM (
			SELECT 'a' || id || gpuagent.tensor_bytes(state)::text || coalesce(gpuagent.tensor_bytes(memory)::text, '') FROM gpuagent.agent WHERE state IS NOT NULL
			UNION ALL SELECT 'n' || id || gpuagent.tensor_bytes(embedding)::text FROM gpuagent.graph_node WHERE embedding IS NOT NULL
			UNION ALL SELECT 's' || swarm || version || md5(gpuagent.tensor_bytes(gpuagent.retrieve_swarm(swarm, version))) FROM gpuagent.swarm_version
			UNION ALL SELECT 'w' || layer || version || gpuagent.tensor_hash(weights)::text FROM gpuagent.load_weights('e')
			UNION ALL SELECT 'c' || c.id || md5(gpuagent.tensor_bytes(gpuagent.retrieve_swarm('s', checkpoint => c.id))) FROM gpuagent.checkpoint c
			UNION ALL SELECT 'r' || md5(gpuagent.tensor_bytes(gpuagent.retrieve_swarm('raw', checkpoint => 1)))) v(b)});
	return \%result;
}

sub sql { my ($which, $query, $database) = @_; return $which->safe_psql($database // 'postgres', $query); }
sub latest { my ($at) = @_; chomp(my $name = slurp_file("$at/latest")); return "$at/$name"; }
sub packs { my ($at) = @_; return scalar(my @found = glob("$at/data/*.safetensors")); }
sub new_bytes { return decode_json((split /\n/, slurp_file(latest($_[0]) . '/MANIFEST.json'))[1])->{new_bytes}; }

# A fresh database on the other cluster.
my $made = 0;
sub empty_database
{
	my $name = 'd' . ++$made;
	sql($other, "CREATE DATABASE $name");
	$other->safe_psql($name, 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
	return $name;
}

# ---- a round trip into another cluster ----
my $original = content($node, 'postgres');
cmp_ok(scalar(grep { !/^0 / } values %$original), '>=', 18, 'every table has rows');
is(sql($node, q{SELECT gpuagent.create_backup('backups/b')}), 1, 'the first backup');
system_or_bail('cp', '-a', "$tree/backups", "$tree2-x");
mkdir $tree2;
rename "$tree2-x", "$tree2/backups";

my $db = empty_database();
fails_with_in($db, q{SELECT * FROM gpuagent.restore_backup('backups/b')}, '42703', 'a column that users added is missing');
$other->safe_psql($db, q{ALTER TABLE gpuagent.agent ADD COLUMN tenant text});
my $report = sql($other, q{SELECT * FROM gpuagent.restore_backup('backups/b', dry_run => true)}, $db);
is(sql($other, 'SELECT count(*) FROM gpuagent.agent', $db), 0, 'dry_run only reports');
is(sql($other, q{SELECT * FROM gpuagent.restore_backup('backups/b')}, $db), $report, 'a restore reports what dry_run did');
like($report, qr/^agents\|insert\|303\|.*^swarm:s\|insert\|3\|6000000$/ms, 'rows and bytes by object');
is_deeply(content($other, $db), $original, 'every table and every element is equal');
is(sql($other, q{SELECT status FROM gpuagent.verify_integrity('full')}, $db), 'ok', 'and verifies');
is(sql($other, q{SELECT count(*) FROM gpuagent_store.chunk}, $db), sql($other, q{SELECT count(DISTINCT hash) FROM gpuagent_store.chunk}, $db), 'each chunk once');
fails_with_in($db, q{SELECT * FROM gpuagent.restore_backup('backups/b')}, '55000', 'not into a database that has something');
is(sql($other, q{
		SELECT gpuagent.store_swarm('s', '[1]'), gpuagent.store_weights('e', 'w1', '8'), gpuagent.create_checkpoint('three'), gpuagent.resolve_checkpoint('@good');
		INSERT INTO gpuagent.metric (run, key, value) VALUES ('r', 'k', 1) RETURNING id}, $db), "3|3|4|2\n51", 'it goes on: versions, checkpoints, sequences');
is(sql($other, q{SELECT count(*) > 5 FROM gpuagent.restore_checkpoint(1); SELECT fitness FROM gpuagent.retrieve_agent('a1')}, $db),
	"t\n0.14285714285714285", 'and back to a checkpoint that came with it');

# ---- the second backup writes what is new ----
my $before = packs("$tree/backups/b");
is(sql($node, q{SELECT gpuagent.create_backup('backups/b')}), 2, 'the second backup');
is(packs("$tree/backups/b"), $before, 'with nothing changed, no chunk is written');
is(new_bytes("$tree/backups/b"), 0, 'and the manifest says so');
sql($node, q{SELECT gpuagent.store_swarm_rows('s', 3, gpuagent.tensor('U8', '{1,1000000}', convert_to(repeat('ABCDEFGHIJ', 100000), 'UTF8')))});
is(sql($node, q{SELECT gpuagent.create_backup('backups/b')}), 3, 'the third');
is(packs("$tree/backups/b"), $before + 1, 'with a row changed, one pack more');
cmp_ok(new_bytes("$tree/backups/b"), '<', 100_000, 'of few bytes');
(my $damaged = latest("$tree/backups/b")) =~ s{.*/}{};
append_to_file("$tree/backups/b/$damaged/chunk.jsonl", 'x');
like(($node->psql('postgres', q{SELECT gpuagent.create_backup('backups/b')}))[2], qr/WARNING:  the backup .*$damaged.*DETAIL:  chunk.jsonl/s,
	'a damaged backup is not what the next one relies on');
is(new_bytes("$tree/backups/b") > 0, 1, 'so it writes what only that one had');

# A standby can make backups, too: they write nothing into the database.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is(sql($standby, q{SELECT gpuagent.create_backup('backups/s')}), 1, 'a standby makes a backup');
fails_with($standby, q{SELECT * FROM gpuagent.restore_backup('backups/s')}, '25006', 'but restores none');
is(sql($standby, q{SELECT count(*) > 5 FROM gpuagent.restore_backup('backups/s', dry_run => true)}), 't', 'it can verify one');
$standby->stop;

# ---- rights, paths, transactions ----
fails_with($node, q{SELECT gpuagent.create_backup('nvme_storage/b')}, '22023', 'a folder that has another use');
fails_with($node, q{SELECT gpuagent.create_backup('../b')}, '22023', 'no path out of the tree');
foreach my $call (q{SELECT gpuagent.create_backup('../b')}, q{SELECT gpuagent.create_backup('../b', wait => false)}, q{SELECT * FROM gpuagent.restore_backup('../b')})
{
	my ($rc, $out, $err) = $node->psql('postgres', $call);
	like($err, qr{invalid path "\.\./b"}, 'which says the path that was given');
}
fails_with($node, q{SELECT gpuagent.create_backup('/tmp/b')}, '22023', 'nor an absolute one');
fails_with($node, q{SELECT gpuagent.create_backup(NULL)}, '22004', 'nor none');
fails_with($node, q{SELECT * FROM gpuagent.restore_backup('absent')}, '58P01', 'no backup there');
fails_with($other, q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM gpuagent.restore_backup('backups/b')}, '25001', 'READ COMMITTED only');
sql($node, q{CREATE ROLE keeper; SELECT gpuagent.grant_access('keeper', 'admin'); CREATE ROLE writer; SELECT gpuagent.grant_access('writer', 'write')});
fails_with($node, q{SET ROLE keeper; SELECT gpuagent.create_backup('backups/k')}, '42501', 'needs the right to write files');
fails_with($node, q{SET ROLE writer; SELECT gpuagent.create_backup('backups/k')}, '42501', 'and level admin');
is(sql($node, q{GRANT pg_write_server_files, pg_read_server_files TO keeper; SET ROLE keeper; SELECT gpuagent.create_backup('backups/k')}), 1, 'with both, any role');
sql($node, q{ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY; CREATE POLICY tenants ON gpuagent.agent USING (id < 'b')});
fails_with($node, q{SET ROLE keeper; SELECT gpuagent.create_backup('backups/k')}, '42501', 'a backup never leaves out rows that the role may not see');
sql($node, q{DROP POLICY tenants ON gpuagent.agent; ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY});
is(sql($node, q{BEGIN; SELECT gpuagent.store_swarm('mine', '[1]'), gpuagent.create_backup('backups/x'); ROLLBACK;
		SELECT object FROM gpuagent.restore_backup('backups/x', true) WHERE object = 'swarm:mine'}), "1|1\nswarm:mine", 'a backup shows what its transaction did');

is(sql($node, q{SELECT gpuagent.create_backup('backups/job', wait => false) AS job \gset
		SELECT gpuagent.wait_for_job(:job), (SELECT count(*) > 5 FROM gpuagent.restore_backup('backups/job', true))}), 'done|t', 'in the background');
fails_with($node, q{SET ROLE writer; SELECT gpuagent.create_backup('backups/job', wait => false)}, '42501', 'with the same rights');
fails_with($node, q{SELECT gpuagent.create_backup('wal/x', wait => false)}, '22023', 'and the same paths');

# ---- one snapshot ----
# Each transaction writes one number into five tables; whatever moment a backup shows, they agree.
sql($node, q{CREATE DATABASE busy}, 'postgres');
sql($node, q{CREATE EXTENSION gpuagent; SELECT gpuagent.setup(); CREATE PROCEDURE write_on() LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. 100000 LOOP
			PERFORM gpuagent.store_metrics('r', jsonb_build_object('n', i), i), gpuagent.store_swarm('s', ARRAY[i]::real[]::gpuagent.swarm_tensor),
				gpuagent.store_agent('a', generation => i), gpuagent.store_expert_state('e', i);
			PERFORM FROM gpuagent.store_knowledge_graph('g', jsonb_build_object('nodes', jsonb_build_array(jsonb_build_object('id', 'n', 'metadata', jsonb_build_object('n', i)))));
			COMMIT;
		END LOOP;
	END $$; SELECT gpuagent.store_expert_config('e')}, 'busy');
my $writer = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('busy'), '-c', 'CALL write_on()' ], '<', \'', '>', \my $told, '2>', \my $failed);
$node->poll_query_until('busy', q{SELECT count(*) > 3 FROM gpuagent.metric});
my %seen;
foreach my $round (1 .. 100)
{
	last if $round > 6 && keys %seen > 2;
	sql($node, q{SELECT gpuagent.create_backup('backups/busy')}, 'busy');
	my $folder = latest("$tree/backups/busy");
	my %number = map { my $table = $_; $table => [ map { decode_json($_) } split /\n/, slurp_file("$folder/gpuagent.$table.jsonl") ] } qw(agent metric expert graph_node swarm_version);
	my @numbers = ($number{agent}[0]{generation}, scalar @{ $number{metric} }, $number{expert}[0]{activation_count}, decode_json($number{graph_node}[0]{metadata})->{n});
	push @numbers, (sort { $b <=> $a } map { $_->{version} } @{ $number{swarm_version} })[0];
	is(scalar(my @different = grep { $_ != $numbers[0] } @numbers), 0, "all of one moment: @numbers");
	$seen{ $numbers[0] } = 1;
}
cmp_ok(scalar keys %seen, '>', 2, 'while there were many');
$writer->signal('INT');
$writer->finish;

# ---- damage of the original ----
sql($node, q{CREATE TABLE kept AS SELECT * FROM gpuagent_store.chunk WHERE nbytes = 1048576 AND codec = 0 LIMIT 1;
	UPDATE gpuagent_store.chunk c SET data = set_byte(c.data, 20, get_byte(c.data, 20) # 1) FROM kept k WHERE k.hash = c.hash});
fails_with($node, q{SELECT gpuagent.create_backup('backups/y')}, 'XX001', 'a damaged chunk is not backed up in silence');
sql($node, q{DELETE FROM gpuagent_store.chunk c USING kept k WHERE k.hash = c.hash});
fails_with($node, q{SELECT gpuagent.create_backup('backups/y')}, 'XX001', 'nor a missing one');
ok(!-e "$tree/backups/y/latest", 'and there is no backup');
sql($node, q{INSERT INTO gpuagent_store.chunk SELECT * FROM kept});
sql($node, q{SET session_replication_role = replica; ALTER TABLE gpuagent_store.checkpoint_agent ALTER digest DROP EXPRESSION;
	UPDATE gpuagent_store.checkpoint_agent SET digest = sha256('') WHERE id = 'a1' AND from_seq = 1});
sql($node, q{SELECT gpuagent.create_backup('backups/z')});
system_or_bail('cp', '-a', "$tree/backups/z", "$tree2/backups/z");
$db = empty_database();
$other->safe_psql($db, q{ALTER TABLE gpuagent.agent ADD COLUMN tenant text});
like(($other->psql($db, q{SELECT * FROM gpuagent.restore_backup('backups/z')}))[2], qr/WARNING:  a row of gpuagent_store.checkpoint_agent .*damaged before/, 'a damaged row of a checkpoint is reported');
is(sql($other, 'SELECT id, status FROM gpuagent.checkpoint ORDER BY id', $db), "1|damaged\n2|valid\n3|valid", 'and does not become whole by being written anew');

# ---- damage of the backup ----
my $from = latest("$tree2/backups/b");
$db = empty_database();
$other->safe_psql($db, q{ALTER TABLE gpuagent.agent ADD COLUMN tenant text});
my $manifest = (split /\n/, slurp_file("$from/MANIFEST.json"))[1];

sub refused
{
	my ($reason, $name) = @_;
	my ($rc, $out, $err) = $other->psql($db, q{\set VERBOSITY verbose
		SELECT * FROM gpuagent.restore_backup('backups/h');
		SELECT (SELECT count(*) FROM gpuagent.agent) + (SELECT count(*) FROM gpuagent.checkpoint) + (SELECT count(*) FROM gpuagent_store.chunk)}, on_error_stop => 0);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($err, qr/ERROR:  (XX001|42809|58P01|22023|42703).*$reason/s, "refused: $name");
	return is($out, 0, "and nothing is left: $name");
}

sub fails_with_in
{
	my ($database, $query, $sqlstate, $name) = @_;
	my ($rc, $out, $err) = $other->psql($database, "\\set VERBOSITY sqlstate\n$query");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($err, qr/ERROR:  \Q$sqlstate\E/, $name);
}

# A copy of the backup that the code changes; afterwards the manifest fits again when asked for.
sub mutated
{
	my ($change, $sign) = @_;
	my $to = "$tree2/backups/h";
	rmtree($to);
	system_or_bail('cp', '-al', "$tree2/backups/b", $to);
	(my $folder = latest($to)) =~ s{/$}{};
	my $content = decode_json($manifest);
	$change->($folder, $content);
	if ($sign)
	{
		foreach my $file (@{ $content->{files} })
		{
			next unless -f "$folder/$file->{name}";
			my $bytes = slurp_file("$folder/$file->{name}");
			$file->{nbytes} = length($bytes);
			$file->{sha256} = sha256_hex($bytes);
		}
		my $text = JSON::PP->new->canonical->utf8->encode($content);
		overwrite("$folder/MANIFEST.json", "{\"manifest\":\n$text\n,\"sha256\":\"" . sha256_hex($text) . "\"}\n");
	}
	return;
}

sub overwrite { my ($path, $bytes) = @_; unlink $path; open(my $f, '>:raw', $path) || die "$path: $!"; print $f $bytes; close($f); return; }

# Changes lines of a file of the folder: code gets a decoded line.
sub lines
{
	my ($folder, $file, $code) = @_;
	my $json = JSON::PP->new->canonical->utf8;
	my @lines = map { my $l = $json->decode($_); $code->($l); $json->encode($l) } split /\n/, slurp_file("$folder/$file");
	overwrite("$folder/$file", join('', map { "$_\n" } @lines));
	return;
}

mutated(sub { }, 1);
is(sql($other, q{SELECT count(*) > 5 FROM gpuagent.restore_backup('backups/h', dry_run => true)}, $db), 't', 'the tests themselves can sign a manifest');

# every file, a bit of it or its end
foreach my $file (map { s{.*/}{}r } glob("$from/*"))
{
	mutated(sub { my $b = slurp_file("$_[0]/$file"); substr($b, length($b) / 2, 1) ^= "\x01"; overwrite("$_[0]/$file", $b); });
	refused(qr/\Q$file\E|manifest/, "a bit of $file") if length(slurp_file("$from/$file"));
}
my ($pack) = map { s{.*/}{}r } glob("$tree2/backups/b/data/*.safetensors");
foreach my $case (
	[ 'a bit of a pack', qr/\Q$pack\E is damaged: expected [0-9a-f]{64}/, sub { my $p = "$_[0]/../data/$pack"; my $b = slurp_file($p); substr($b, -1, 1) ^= "\x80"; overwrite($p, $b); } ],
	[ 'the end of a pack', qr/\Q$pack\E is damaged: expected \d+ bytes, found/, sub { overwrite("$_[0]/../data/$pack", substr(slurp_file("$_[0]/../data/$pack"), 0, 5000)); } ],
	[ 'a missing pack', qr/\Q$pack\E is missing/, sub { unlink "$_[0]/../data/$pack"; } ],
	[ 'a missing table', qr/gpuagent.agent.jsonl is missing/, sub { unlink "$_[0]/gpuagent.agent.jsonl"; } ],
	[ 'no manifest', qr/MANIFEST/, sub { unlink "$_[0]/MANIFEST.json"; } ],
	[ 'a link instead of a file', qr/symbolic link|not a regular file/, sub { unlink "$_[0]/node.jsonl"; symlink "$from/node.jsonl", "$_[0]/node.jsonl"; } ],
	[ 'a folder that is a link', qr/symbolic link/, sub { rename "$_[0]/../data", "$_[0]/../elsewhere"; symlink "$tree2/backups/b/data", "$_[0]/../data"; } ],
	[ 'latest names something else', qr/does not name a backup/, sub { overwrite("$_[0]/../latest", "../../b\n"); } ],
	[ 'latest names a folder that is not there', qr{there is no backup "backups/h/backup-0000000099-01234567".*File "backups/h/latest" names it}s,
		sub { overwrite("$_[0]/../latest", "backup-0000000099-01234567\n"); } ])
{
	my ($name, $reason, $change) = @$case;
	mutated($change);
	refused($reason, $name);
}

# whole manifests of somebody else
foreach my $case (
	[ 'another format', qr/format is "x"/, sub { $_[1]->{format} = 'x'; } ],
	[ 'a later version', qr/version 2; this extension reads/, sub { $_[1]->{format_version} = 2; } ],
	[ 'a file outside', qr/lacks number, uid, files/, sub { $_[1]->{files}[0]{name} = '../../b/gpuagent.agent.jsonl'; } ],
	[ 'a pack outside', qr/lacks number, uid, files/, sub { $_[1]->{packs}[0]{name} = "../x/$pack"; } ],
	[ 'a table that is not in the manifest', qr/does not have "gpuagent.run.jsonl" once/, sub { $_[1]->{files} = [ grep { $_->{name} ne 'gpuagent.run.jsonl' } @{ $_[1]->{files} } ]; } ],
	[ 'a file twice', qr/once/, sub { push @{ $_[1]->{files} }, $_[1]->{files}[0]; } ],
	[ 'no columns', qr/does not have table gpuagent.run/, sub { $_[1]->{tables} = [ grep { $_->{name} ne 'gpuagent.run' } @{ $_[1]->{tables} } ]; } ],
	[ 'a column that is SQL', qr/column "x\) SELECT 1--" of table gpuagent.run does not exist/, sub { push @{ $_->{columns} }, 'x) SELECT 1--' for grep { $_->{name} eq 'gpuagent.run' } @{ $_[1]->{tables} }; } ],
	[ 'a chunk in no pack', qr/A chunk is in "\.\.\/\.\.\/x", which is no pack/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{file} = '../../x'; }); } ],
	[ 'a chunk beyond the end', qr/are not in a file of/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{first} += 4294967296; }); } ],
	[ 'a chunk before the start', qr/are not in a file of/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{first} = -1; }); } ],
	[ 'an offset that overflows', qr/are not in a file of/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{first} = 9223372036854775807; }); } ],
	[ 'an offset that is no number', qr/invalid input syntax/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{first} = 'x'; }); } ],
	[ 'a chunk of a gigabyte', qr/It would have 1073741824 bytes/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{nbytes} = 1073741824; }); } ],
	[ 'a chunk of no bytes', qr/It would have 0 bytes/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{nbytes} = 0; }); } ],
	[ 'a codec from nowhere', qr/Codec 7 and width/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{codec} = 7; }); } ],
	[ 'a width of 0', qr/and width 0 are not known/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{width} = 0; }); } ],
	[ 'a codec that does not fit', qr/do not decode|do not have the size/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{codec} = 1 - $_[0]{codec}; }); } ],
	[ 'a chunk with the hash of another', qr/content has the hash/, sub { my $h; lines($_[0], 'chunk.jsonl', sub { ($h, $_[0]{hash}) = ($_[0]{hash}, $h // $_[0]{hash}); }); } ],
	[ 'a hash that is none', qr/hash/, sub { lines($_[0], 'chunk.jsonl', sub { $_[0]{hash} = 'abcd'; }); } ],
	[ 'a chunk that is not there', qr/do not fit together: .*missing/, sub { overwrite("$_[0]/chunk.jsonl", (split /(?<=\n)/, slurp_file("$_[0]/chunk.jsonl"))[0]); } ],
	[ 'children in another order', qr/Its children have the hash/, sub { lines($_[0], 'node.jsonl', sub { $_[0]{children} =~ s/^(.{64})(.{64})/$2$1/; }); } ],
	[ 'a node of other bytes', qr/Its children have the hash/, sub { lines($_[0], 'node.jsonl', sub { $_[0]{nbytes}++; }); } ],
	[ 'a node without children', qr/cannot have/, sub { lines($_[0], 'node.jsonl', sub { $_[0]{children} = ''; }); } ],
	[ 'another shape', qr/have the hash|invalid shape/, sub { lines($_[0], 'tensor.jsonl', sub { $_[0]{shape} =~ s/\{(\d)/{1$1/; }); } ],
	[ 'a shape that overflows', qr/invalid shape|range/, sub { lines($_[0], 'tensor.jsonl', sub { $_[0]{shape} = '{4294967296,4294967296}'; }); } ],
	[ 'a dtype from nowhere', qr/F31/, sub { lines($_[0], 'tensor.jsonl', sub { $_[0]{dtype} = 'F31'; }); } ],
	[ 'a swarm of a tensor that is not there', qr/do not fit together: swarm:/, sub { lines($_[0], 'gpuagent.swarm_version.jsonl', sub { $_[0]{tensor} = '\x' . '00' x 32; }); } ],
	[ 'a swarm ahead of its versions', qr/has version 99 and no such row/, sub { lines($_[0], 'gpuagent.swarm.jsonl', sub { $_[0]{current} = '99'; }); } ],
	[ 'an expert behind its weights', qr/and newer weights/, sub { lines($_[0], 'gpuagent.expert.jsonl', sub { $_[0]{version} = '1'; }); } ],
	[ 'a row less', qr/do not fit together: \{"object"/, sub { overwrite("$_[0]/gpuagent.metric.jsonl", ''); } ],
	[ 'a name with a control character', qr/check constraint/, sub { lines($_[0], 'gpuagent.run.jsonl', sub { $_[0]{run} = "a\nb"; }); } ],
	[ 'a state that is no tensor', qr/do not fit together/, sub { lines($_[0], 'gpuagent.agent.jsonl', sub { $_[0]{state} = 'F32[99999999999]:raw:'; }); } ],
	[ 'a line that is no JSON', qr/do not fit together: invalid input syntax/, sub { overwrite("$_[0]/gpuagent.run.jsonl", "{\n"); } ],
	[ 'a line that does not end', qr/last line/, sub { overwrite("$_[0]/gpuagent.run.jsonl", '{}'); } ],
	[ 'two agents of one name', qr/unique constraint/, sub { my $b = slurp_file("$_[0]/gpuagent.agent.jsonl"); overwrite("$_[0]/gpuagent.agent.jsonl", $b . $b); } ],
	[ 'an edge of nodes that are not there', qr/foreign key/, sub { lines($_[0], 'gpuagent.graph_edge.jsonl', sub { $_[0]{target} = 'nowhere'; }); } ])
{
	my ($name, $reason, $change) = @$case;
	mutated($change, 1);
	refused($reason, $name);
}

# ---- a crash half-way ----
sql($node, q{SET gpuagent.compression = off;
	SELECT gpuagent.append_swarm('big', gpuagent.tensor('U8', '{1,1000000}', (SELECT string_agg(sha256(int8send(i * 31250 + j)), '') FROM generate_series(1, 31250) j))) FROM generate_series(1, 150) i;});
my $keep = latest("$tree/backups/b");
my ($in, $out, $err) = ("SELECT pg_backend_pid();\nSET gpuagent.io_rate_limit = '10MB';\nSELECT gpuagent.create_backup('backups/b');\n", '', '');
my $client = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$before = packs("$tree/backups/b");
wait_until(sub { $client->pump_nb; return packs("$tree/backups/b") > $before });
kill_and_recover($node, $out =~ /^(\d+)/);
$client->finish;
unlike($out, qr/^\d+\n\d/, 'it was in the middle');
is(latest("$tree/backups/b"), $keep, 'killed half-way, the latest backup is the one before');
is(sql($node, q{SELECT count(*) > 5 FROM gpuagent.restore_backup('backups/b', dry_run => true)}), 't', 'which is whole');
is(sql($node, q{SELECT gpuagent.create_backup('backups/b')}), 5, 'the next one succeeds');
is(scalar(my @hidden = glob("$tree/backups/b/.tmp-*")), 0, 'what the dead one left in private is gone');
is(sql($node, q{SELECT count(*) FROM gpuagent.restore_backup('backups/b', dry_run => true) WHERE object = 'swarm:big'}), 1, 'and has everything');

done_testing();
