# The server is stopped as by a crash in the middle of storing, checkpointing and exporting. After the restart what was
# acknowledged is there, what is there is whole and equals what was given, and nothing is there by half.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{GA_TEST_LONG} ? 12 : 3;
my $node = new_node('crash', conf => "autovacuum = off\nmax_prepared_transactions = 2\n");
(my $tree = $node->data_dir) =~ s{/[^/]+$}{};
$tree .= '/gpu_storage-' . $node->port;

# What version i of everything holds: 6 MiB in 7 rows, of which no 1 MiB piece is found twice within or between versions.
$node->safe_psql('postgres', q{
	CREATE FUNCTION content(i bigint) RETURNS gpuagent.swarm_tensor LANGUAGE sql IMMUTABLE AS $$
		SELECT gpuagent.tensor('U8', ARRAY[7, 900000], substring(convert_to(repeat(
			(SELECT string_agg(chr((33 + (k * k + i * 7 + k * i) % 90)::integer), '') FROM generate_series(1, 251) k) || i, 26000), 'UTF8') FROM 1 FOR 6300000))
	$$;
	CREATE FUNCTION identity(i bigint) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$ SELECT gpuagent.tensor_hash(content(i)) $$;
	INSERT INTO gpuagent.swarm (swarm, keep_versions) VALUES ('s', 10000), ('a', 10000), ('r', 10000), ('c', 10000);
});

# Run statements one by one in a session until the server is stopped under it after some milliseconds; returns what
# followed "ack " in their results before. (A result that psql has when the connection ends it prints, \gset or not.)
sub crash_during
{
	my ($delay, @statements) = @_;
	my ($out, $err) = ('', '');
	my $script = $node->basedir . '/crash.sql';

	unlink $script;
	append_to_file($script, join("\n", @statements) . "\n");
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', $script ], '>', \$out, '2>', \$err);
	my $until = Time::HiRes::time() + $PostgreSQL::Test::Utils::timeout_default;

	# Something was acknowledged first, so that each round has a past and a present.
	while ($out !~ /^ack .*\n/m && Time::HiRes::time() < $until)
	{
		$psql->pump_nb;
		usleep(1000);
	}
	usleep(1000 * $delay);
	$node->stop('immediate');
	$psql->finish;
	like($err, qr/server closed the connection|terminating connection|connection to server was lost/, 'the session was in the middle');
	$node->start;
	return $out =~ /^ack (.*)\n/mg;
}

# Each version row of a swarm names a whole tensor, and from 1 on each number has one.
sub swarm_is_whole
{
	my ($swarm, $acknowledged) = @_;
	my ($count, $max, $current, $damaged) = split /\|/, $node->safe_psql('postgres', qq{
		SELECT count(version), COALESCE(max(version), 0), s.current, count(gpuagent_store.tensor_problem(v.tensor))
		FROM gpuagent.swarm s LEFT JOIN gpuagent.swarm_version v USING (swarm) WHERE s.swarm = '$swarm' GROUP BY s.current});

	cmp_ok($max, '>=', $acknowledged, "swarm $swarm: what was acknowledged is there");
	is("$count $current $damaged", "$max $max 0", "swarm $swarm: each version is there and whole");
	return $max;
}

sub nothing_half
{
	is_value($node, q{
		SELECT count(*) FROM gpuagent_store.node n, generate_series(1, octet_length(children), 32) i, substring(children FROM i FOR 32) h
		WHERE NOT EXISTS (SELECT FROM gpuagent_store.chunk WHERE hash = h) AND NOT EXISTS (SELECT FROM gpuagent_store.node WHERE hash = h)},
		'0', 'every node has its children');
	is_value($node, 'SELECT count(gpuagent_store.tensor_problem(hash)) FROM gpuagent_store.tensor', '0', 'every tensor is whole');
}

my $stored = 0;
my $appended = 0;
my $checkpoints = 0;
my $exported = 0;

for my $round (1 .. $rounds)
{
	my $delay = int(rand(250));

	note("round $round, $delay ms");

	# whole versions, and rows of them
	my @ack = crash_during($delay, map { "SELECT 'ack ' || gpuagent.store_swarm('s', content($_));" } $stored + 1 .. $stored + 1000);
	$stored = swarm_is_whole('s', $ack[-1]);
	is_value($node, q{SELECT count(*) FROM gpuagent.swarm_version WHERE swarm = 's' AND tensor <> identity(version)}, '0',
		'each version is what was stored');

	# a version in several calls of one transaction: all of its rows, or no version
	@ack = crash_during($delay, map { ("BEGIN;", (map { "SELECT gpuagent.append_swarm('a', content($_)) AS n \\gset" } 1 .. 3), "COMMIT;",
			"SELECT 'ack ' || current FROM gpuagent.swarm WHERE swarm = 'a';") } 1 .. 500);
	cmp_ok($ack[-1], '>', $appended, 'a version is new');
	$appended = swarm_is_whole('a', $ack[-1]);
	is_value($node, q{SELECT count(*) FROM gpuagent.swarm_version v JOIN gpuagent_store.tensor t ON t.hash = v.tensor WHERE swarm = 'a' AND shape <> '{21,900000}'},
		'0', 'no version has a part of its rows');

	# checkpoints, each of a version and a layer stored in the same transaction
	@ack = crash_during($delay, map { ("BEGIN;", "SELECT gpuagent.store_swarm('c', content($_)), gpuagent.store_weights('e', 'w', content($_)) \\gset",
			"SELECT gpuagent.create_checkpoint('c$_', metadata => jsonb_build_object('hash', encode(identity($_), 'hex'))) AS id \\gset", "COMMIT;",
			"SELECT 'ack ' || :id;") } 1 .. 500);
	swarm_is_whole('c', 0);
	my ($count, $last) = split /\|/, $node->safe_psql('postgres', 'SELECT count(*), max(id) FROM gpuagent.checkpoint');
	cmp_ok($last, '>=', $ack[-1], 'each acknowledged checkpoint is there');
	cmp_ok($count, '>=', $checkpoints + scalar @ack, 'with all before it');
	$checkpoints = $count;
	is_value($node, q{
		SELECT count(*) FROM gpuagent.checkpoint c WHERE c.status <> 'valid'
			OR gpuagent.tensor_hash(gpuagent.retrieve_swarm('c', checkpoint => c.id)) <> decode(metadata ->> 'hash', 'hex')
			OR label LIKE 'c%' AND (SELECT gpuagent.tensor_hash(w.weights) FROM gpuagent.load_weights('e', 'w', checkpoint => c.id) w) IS DISTINCT FROM decode(metadata ->> 'hash', 'hex')},
		'0', 'and holds what it was taken of');

	# files: those that have their name are whole
	@ack = crash_during($delay, map { "SELECT 'ack ' || file FROM gpuagent.export_safetensors('e', 'r$round-$_');" } 1 .. 1000);
	my @files = map { m{([^/]*)\.safetensors$} } glob("$tree/*.safetensors");
	cmp_ok(scalar @files, '>=', $exported + scalar @ack, 'each acknowledged file is there');
	$exported = @files;
	foreach my $file (grep { /^r$round-/ } @files)
	{
		is_value($node, qq{
			BEGIN;
			DO \$\$ BEGIN PERFORM gpuagent.import_safetensors('copy', '$file'); END \$\$;
			SELECT gpuagent.tensor_hash(c.weights) = gpuagent.tensor_hash(e.weights) FROM gpuagent.load_weights('copy', 'w') c, gpuagent.load_weights('e', 'w') e;
			ROLLBACK}, 't', "$file is whole");
	}

	# exported checkpoints: a folder that has its name is whole, and `latest` names one
	@ack = crash_during($delay, map { ("BEGIN;", "SELECT gpuagent.store_swarm('c', content($_)) \\gset",
			"SELECT gpuagent.create_checkpoint('x$_', objects => '{swarm:c}', metadata => jsonb_build_object('hash', encode(identity($_), 'hex'))) AS id \\gset", "COMMIT;",
			"SELECT 'ack ' || path FROM gpuagent.export_checkpoint(:id);") } 1 .. 500);
	my @folders = map { m{([^/]*)$} } grep { -d } glob("$tree/nvme_storage/ckpt-*");
	my %found = map { $_ => 1 } @folders;
	is(join(' ', grep { !$found{ (split m{/}, $_)[-1] } } @ack), '', 'each acknowledged folder is there');
	my $latest = -e "$tree/nvme_storage/latest" ? slurp_file("$tree/nvme_storage/latest") : '';
	chomp $latest;
	ok($found{$latest}, 'latest names one');
	$node->safe_psql('postgres', 'CREATE DATABASE imported');
	$node->safe_psql('imported', 'CREATE EXTENSION gpuagent; SELECT gpuagent.setup()');
	foreach my $folder (sort @folders)
	{
		is($node->safe_psql('imported', qq{
				SELECT gpuagent.import_checkpoint('$folder') AS id \\gset
				SELECT gpuagent.tensor_hash(gpuagent.retrieve_swarm('c', checkpoint => :id)) = decode(metadata ->> 'hash', 'hex')
				FROM gpuagent.checkpoint WHERE id = :id}), 't', "$folder is whole");
	}
	$node->safe_psql('postgres', 'DROP DATABASE imported');
	nothing_half();
	is_value($node, q{SELECT string_agg(object || ' ' || status, ', ') FROM gpuagent.verify_integrity('full')}, 'total ok', 'and the extension finds nothing');
}

# And all of it goes on working.
is_value($node, q{SELECT gpuagent.store_swarm('s', content(1000)) = current + 1 FROM gpuagent.swarm WHERE swarm = 's'}, 't', 'the next version is stored');
is_value($node, q{SELECT count(*) > 0 FROM gpuagent.restore_checkpoint((SELECT max(id) FROM gpuagent.checkpoint WHERE label LIKE 'x%'))}, 't', 'the latest checkpoint is restored');
is_value($node, q{SELECT gpuagent.tensor_hash(gpuagent.retrieve_swarm('c')) = decode(metadata ->> 'hash', 'hex')
	FROM gpuagent.checkpoint WHERE label LIKE 'x%' ORDER BY id DESC LIMIT 1}, 't', 'to what it was taken of');

# A prepared transaction outlives a crash with what it stored, and keeps its version to itself until its end.
$node->safe_psql('postgres', q{
	BEGIN;
	SELECT gpuagent.store_swarm('p', content(2000)), gpuagent.store_weights('p', 'w', content(2001));
	PREPARE TRANSACTION 'store'});
$node->stop('immediate');
$node->start;
fails_with($node, q{SELECT gpuagent.retrieve_swarm('p')}, '42704', 'prepared, it is not seen');
fails_with($node, q{SET lock_timeout = '100ms'; SELECT gpuagent.store_weights('p', 'w', '[1]')}, '55P03', 'others wait for its end');
$node->safe_psql('postgres', q{COMMIT PREPARED 'store'});
is_value($node, q{SELECT gpuagent.tensor_hash(gpuagent.retrieve_swarm('p')) = identity(2000), gpuagent.store_swarm('p', '[1]'), gpuagent.store_weights('p', 'w', '[1]')},
	't|2|2', 'committed, it is there, and the next versions follow');
nothing_half();

done_testing();
