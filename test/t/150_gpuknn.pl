# gpuknn indexes where only real servers show it: crashes in the middle of writes, vacuum and builds; unlogged tables; a
# hot standby with replay checked page by page; dumps; writers, vacuum and scans at once; cancels.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $long = $ENV{GA_TEST_LONG};
my $primary = new_node('primary', setup => 0, allows_streaming => 1,
	conf => "autovacuum = off\nfsync = off\nwal_consistency_checking = 'generic'\nmax_wal_size = 1GB\nsearch_path = 'public, gpuagent'\n");

$primary->safe_psql('postgres', q{
	CREATE EXTENSION gpuagent;
	-- 40 dimensions in F32: slots of 176 bytes, of which many cross pages. 9000 in F16: five pages a slot.
	CREATE TABLE item (id bigint, e embedding(40));
	CREATE TABLE wide (id bigint, e embedding(9000));
	CREATE FUNCTION vector(i bigint, n int) RETURNS embedding LANGUAGE sql IMMUTABLE AS $$
		SELECT array_agg(hashint8extended(i * 10000 + k, 7) / 9223372036854775808.0)::real[]::embedding FROM generate_series(1, n) k
	$$;
	CREATE INDEX item_e ON item USING gpuknn (e embedding_l2_ops) WITH (storage = f32);
	CREATE INDEX wide_e ON wide USING gpuknn (e embedding_ip_ops);
	-- Whether an index and a sequential scan find different distances, in their order, or different rows.
	CREATE FUNCTION different(tab regclass, operator text, n int) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		query text := format($q$SELECT array_agg(d), array_agg(concat(id, ' ', d) ORDER BY id, d)
			FROM (SELECT id, e %s %L::embedding AS d FROM %s ORDER BY e %s %L) s$q$, operator, vector(77, n), tab, operator, vector(77, n));
		one record;
		two record;
	BEGIN
		SET LOCAL enable_seqscan = off;
		SET LOCAL enable_sort = off;
		EXECUTE query INTO one;
		RESET enable_seqscan;
		RESET enable_sort;
		SET LOCAL enable_indexscan = off;
		EXECUTE query INTO two;
		RESET enable_indexscan;
		RETURN (one IS DISTINCT FROM two)::int;
	END $$;
	INSERT INTO item SELECT i, vector(i, 40) FROM generate_series(1, 2000) i;
	INSERT INTO wide SELECT i, vector(i, 9000) FROM generate_series(1, 5) i;
});

my $sound = q{SELECT different('item', '<->', 40), different('wide', '<#>', 9000), gpuagent_store.check_gpuknn('item_e') > 0, gpuagent_store.check_gpuknn('wide_e') > 0};

# ---- crashes ----

# Run SQL again and again in a session until the server is stopped under it.
sub crash_during
{
	my ($delay, @scripts) = @_;
	my @sessions;

	foreach my $script (@scripts)
	{
		my %s = (in => "SELECT 'begun';\n" . ($script x 200), out => '', err => '');
		$s{psql} = IPC::Run::start([ 'psql', '-XAtq', '-d', $primary->connstr('postgres') ], '<', \$s{in}, '>', \$s{out}, '2>', \$s{err});
		push @sessions, \%s;
	}
	foreach my $s (@sessions)
	{
		my $until = Time::HiRes::time() + 60;
		while ($s->{out} !~ /begun/ && Time::HiRes::time() < $until)
		{
			$s->{psql}->pump_nb;
			usleep(1000);
		}
	}
	usleep(1000 * $delay);
	$primary->stop('immediate');
	$_->{psql}->finish foreach @sessions;
	$primary->start;
}

my $write = q{
	INSERT INTO item SELECT i, vector(i, 40) FROM generate_series(3000, 3100) i;
	INSERT INTO wide SELECT i, vector(i, 9000) FROM generate_series(10, 11) i;
	INSERT INTO item SELECT 1, NULL FROM generate_series(1, 40);
	BEGIN; INSERT INTO item SELECT i, vector(i, 40) FROM generate_series(4000, 4050) i; ROLLBACK;
};
my $delete = q{
	DELETE FROM item WHERE id IN (SELECT id FROM item WHERE id > 1000 ORDER BY random() LIMIT 60) OR e IS NULL AND random() < 0.3;
	DELETE FROM wide WHERE id = 10;
	VACUUM (INDEX_CLEANUP on) item;
	VACUUM (INDEX_CLEANUP on) wide;
};
my $build = q{CREATE INDEX item_b ON item USING gpuknn (e embedding_cosine_ops); DROP INDEX item_b; REINDEX INDEX CONCURRENTLY wide_e;};

foreach my $round (1 .. ($long ? 20 : 4))
{
	crash_during(20 + 150 * rand(), $write, $write, $delete, $round % 2 ? $build : ());
	is_value($primary, $sound, '0|0|t|t', "after crash $round the pages agree, and index and table");
	# What a crash left of a concurrent rebuild.
	$primary->safe_psql('postgres', $_) foreach split /\n/,
		$primary->safe_psql('postgres', q{SELECT format('DROP INDEX %s', indexrelid::regclass) FROM pg_index WHERE NOT indisvalid});
}
$primary->safe_psql('postgres', $write);
$primary->safe_psql('postgres', $_) foreach grep { /\S/ } split /\n/, $delete;
is_value($primary, $sound, '0|0|t|t', 'and so they do after more writes');

# ---- an unlogged table ----

$primary->safe_psql('postgres', q{
	CREATE UNLOGGED TABLE fleeting (id bigint, e embedding(3));
	INSERT INTO fleeting SELECT i, ARRAY[i, 1, 2]::real[] FROM generate_series(1, 1000) i;
	CREATE INDEX fleeting_e ON fleeting USING gpuknn (e embedding_l2_ops);
	INSERT INTO fleeting SELECT i, ARRAY[i, 1, 2]::real[] FROM generate_series(1001, 1100) i;
});
$primary->restart;
is_value($primary, q{SELECT gpuagent_store.check_gpuknn('fleeting_e')}, '1100', 'an unlogged index survives a clean restart');
is_value($primary, q{SET enable_seqscan = off; SELECT id FROM fleeting ORDER BY e <-> '[1050,1,2]' LIMIT 1}, '1050', 'and answers');
$primary->stop('immediate');
$primary->start;
is_value($primary, q{SELECT gpuagent_store.check_gpuknn('fleeting_e')}, '0', 'after a crash it is as empty as its table');
$primary->safe_psql('postgres', q{INSERT INTO fleeting VALUES (7, '[1,2,3]'), (8, NULL)});
is_value($primary, q{SET enable_seqscan = off; SELECT array_agg(id) FROM (SELECT id FROM fleeting ORDER BY e <-> '[0,0,0]') s}, '{7,8}', 'and is used again');

# ---- a hot standby; replay compares each page with the primary's ----

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "max_standby_streaming_delay = -1\nhot_standby_feedback = off\n");
$standby->start;
foreach my $round (1 .. 3)
{
	$primary->safe_psql('postgres', $write);
	$primary->safe_psql('postgres', $_) foreach grep { /\S/ } split /\n/, $delete;
	$primary->safe_psql('postgres', q{REINDEX INDEX item_e}) if $round == 2;
	$primary->wait_for_catchup($standby);
	is_value($standby, $sound =~ s/different\('(\w+)', '(\S+)', (\d+)\)/different('$1', '$2', $3)/gr, '0|0|t|t', "round $round: a standby's index is the primary's");
}

# A scan of the standby that is under way sees what its snapshot saw, while the primary removes and reuses.
my $reader = $standby->background_psql('postgres');
$reader->query_safe(q{SET enable_seqscan = off});
$reader->query_safe(q{BEGIN ISOLATION LEVEL REPEATABLE READ});
my $before = $reader->query_safe(q{SELECT count(*), sum(id) FROM item});
$reader->query_safe(q{DECLARE c CURSOR FOR SELECT id FROM item ORDER BY e <-> vector(5, 40)});
$reader->query_safe(q{MOVE 10 FROM c});
$primary->safe_psql('postgres', q{INSERT INTO item SELECT i, vector(i, 40) FROM generate_series(9000, 9200) i});
$primary->wait_for_catchup($standby);
is($reader->query_safe(q{SELECT count(*), sum(id) FROM (SELECT id FROM item ORDER BY e <-> vector(5, 40)) s}), $before, 'a snapshot of the standby does not see what comes later');
$reader->query_safe(q{COMMIT});
$reader->quit;
$standby->promote;
$standby->safe_psql('postgres', $write);
is_value($standby, $sound, '0|0|t|t', 'and it is written to after a promotion');
$standby->stop;

# ---- a dump ----

my $dump = $primary->basedir . '/dump';
command_ok([ 'pg_dump', '-Fc', '-f', $dump, $primary->connstr('postgres') ], 'a dump');
$primary->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'pg_restore', '-j2', '-d', $primary->connstr('restored'), $dump ], 'is restored');
is($primary->safe_psql('restored', $sound), '0|0|t|t', 'with its indexes');
is($primary->safe_psql('restored', q{SELECT indexdef FROM pg_indexes WHERE indexname = 'item_e'}),
	'CREATE INDEX item_e ON public.item USING gpuknn (e embedding_l2_ops) WITH (storage=f32)', 'and their options');

# ---- writers, vacuum and scans at once ----

$primary->safe_psql('postgres', q{
	TRUNCATE item;
	CREATE TABLE problem (what text);
	-- Rows 1 to 300 move, but are always there.
	INSERT INTO item SELECT i, vector(i, 40) FROM generate_series(1, 300) i;
});
my $seconds = $long ? 60 : 5;
$primary->pgbench("-n -T $seconds -c 6", 0, [qr/processed: [1-9]/], [qr/^$/], 'writers, vacuum and scans', {
	'001_move@20' => q{
		\set a random(1, 300)
		\set b random(1, 1000000)
		UPDATE item SET e = CASE WHEN :b % 10 = 0 THEN NULL ELSE vector(:b, 40) END WHERE id = :a;
	},
	'002_come_and_go@20' => q{
		\set a random(1000, 1100)
		\set b random(1, 1000000)
		DELETE FROM item WHERE id = :a;
		INSERT INTO item SELECT :a, vector(:b, 40) WHERE :b % 3 > 0;
	},
	'003_vacuum@5' => q{
		VACUUM (INDEX_CLEANUP on) item;
	},
	'004_scan@20' => q{
		\set b random(1, 1000000)
		BEGIN ISOLATION LEVEL REPEATABLE READ;
		SET LOCAL work_mem = '64kB';
		INSERT INTO problem SELECT 'different' FROM different('item', '<->', 40) n WHERE n > 0;
		SET LOCAL enable_seqscan = off;
		INSERT INTO problem SELECT 'rows: ' || count(*) || ' ' || count(DISTINCT id)
			FROM (SELECT id FROM item ORDER BY e <-> vector(:b, 40)) s WHERE id <= 300 HAVING count(*) <> 300 OR count(DISTINCT id) <> 300;
		COMMIT;
	}});
is_value($primary, q{SELECT count(*), min(what) FROM problem}, '0|', 'each scan saw each row once');
is_value($primary, q{SELECT different('item', '<->', 40), gpuagent_store.check_gpuknn('item_e') > 0}, '0|t', 'the index is sound afterwards');

# ---- cancels ----

$primary->safe_psql('postgres', q{
	TRUNCATE item;
	INSERT INTO item SELECT 1, e FROM (SELECT vector(1, 40) AS e) v, generate_series(1, 200000);
});
foreach my $case (
	[ 'a build', q{CREATE INDEX item_c ON item USING gpuknn (e embedding_l1_ops)} ],
	[ 'a scan', q{SET enable_seqscan = off; SET enable_sort = off; SELECT count(*) FROM (SELECT id FROM item ORDER BY e <-> vector(5, 40)) a, (SELECT id FROM item ORDER BY e <-> vector(6, 40)) b} ])
{
	my ($name, $query) = @$case;
	fails_with($primary, "SET statement_timeout = '5ms'; $query", '57014', "$name ends at a timeout");
}
is_value($primary, q{SELECT gpuagent_store.check_gpuknn('item_e')}, '200000', 'the index is as before');
$primary->stop;

done_testing();
