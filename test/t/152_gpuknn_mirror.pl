# Mirrors of gpuknn indexes on the emulated device: what the device finds is what a sequential scan sorts, whatever
# happens to rows, to the index and to the device; and that it was the device that found it.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dim = 512;
my $rows = 9000;
my $node = new_node('mirror', setup => 0, allows_streaming => 1, conf => device_conf(1)
	  . "autovacuum = off\nfsync = off\ngpuagent.cache_size = '64MB'\ngpuagent.device_timeout = '5min'\nsearch_path = 'public, gpuagent'\n");
$node->safe_psql('postgres', 'CREATE EXTENSION gpuagent');
wait_for_service($node);
$node->safe_psql('postgres', qq{
	CREATE FUNCTION vector(i bigint) RETURNS embedding LANGUAGE sql IMMUTABLE AS \$\$
		SELECT array_agg(hashint8extended(i * 10000 + k, 7) / 9223372036854775808.0)::real[]::embedding FROM generate_series(1, $dim) k
	\$\$;
	CREATE TABLE item (id bigint, e embedding($dim));
	INSERT INTO item SELECT i, vector(i) FROM generate_series(1, $rows) i;
	ALTER TABLE item ALTER e SET STORAGE plain;
	CREATE INDEX item_l2 ON item USING gpuknn (e embedding_l2_ops);
	CREATE INDEX item_cosine ON item USING gpuknn (e embedding_cosine_ops) WITH (storage = int8);
	-- The ids and distances of the n nearest by the index, and whether a sort finds the same distances, and the same rows among those.
	CREATE FUNCTION nearest(operator text, query embedding, n bigint, OUT total bigint, OUT same boolean) LANGUAGE plpgsql AS \$\$
	DECLARE
		ask text := format('SELECT array_agg(d), array_agg(id ORDER BY d, id) FILTER (WHERE d < greatest_d) FROM
			(SELECT id, d, max(d) OVER () AS greatest_d FROM (SELECT id, e %s \$1 AS d FROM item ORDER BY e %s \$1 LIMIT \$2) a) b', operator, operator);
		distances float8[]; ids bigint[];
		reference float8[]; reference_ids bigint[];
	BEGIN
		SET LOCAL enable_seqscan = off;
		SET LOCAL enable_sort = off;
		EXECUTE ask INTO distances, ids USING query, n;
		RESET enable_seqscan;
		RESET enable_sort;
		SET LOCAL enable_indexscan = off;
		EXECUTE ask INTO reference, reference_ids USING query, n;
		RESET enable_indexscan;
		same := distances IS NOT DISTINCT FROM reference AND ids IS NOT DISTINCT FROM reference_ids;
		total := coalesce(cardinality(distances), 0);
	END \$\$;
});

my $counts = sub { $node->safe_psql('postgres', "SELECT scans_device, scans_host, fallbacks FROM stat_index WHERE index = '$_[0]'::regclass") };

# The n nearest to a few vectors are right, and so many scans ran on the device.
sub right
{
	my ($name, %o) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $server = $o{node} // $node;
	my $operator = $o{operator} // '<->';
	my $index = $operator eq '<->' ? 'item_l2' : 'item_cosine';
	my $by = $o{by} // 'device';
	my $n = $o{n} // 10;
	my ($result, @before, @after);

	@before = split /\|/, $server->safe_psql('postgres', "SELECT scans_device, scans_host FROM stat_index WHERE index = '$index'::regclass");
	$result = $server->safe_psql('postgres',
		"SELECT count(*), bool_and(same), min(total) FROM unnest('{7,77,9999999}'::bigint[]) i, nearest('$operator', vector(i), $n)");
	@after = split /\|/, $server->safe_psql('postgres', "SELECT scans_device, scans_host FROM stat_index WHERE index = '$index'::regclass");
	like($result, qr/^3\|t\|/, $name);
	return if $by eq 'any';
	is($after[0] - $before[0], $by eq 'device' ? 3 : 0, "$name: scans by the device");
	is($after[1] - $before[1], $by eq 'device' ? 0 : 3, "$name: scans by the host");
}

# ---- the device finds what a sort finds ----

is_value($node, q{SELECT index, "table", metric, storage, dim, rows, index_bytes > 0, resident, device, lag_rows, scans_device FROM stat_index ORDER BY index::text},
	"item_cosine|item|cosine|int8|$dim|$rows|t|f|||0\nitem_l2|item|l2|f16|$dim|$rows|t|f|||0", 'nothing is copied before the first scan');
right('the first scan');
is_value($node, q{SELECT resident, device, device_bytes > 9000000, lag_rows, fallbacks, last_fallback_reason FROM stat_index WHERE index = 'item_l2'::regclass},
	't|cuda:0|t|0|0|', 'stat_index has the copy');
is_value($node, q{SELECT device, object, database, used_bytes > 9000000, last_used_at > resident_since FROM stat_memory WHERE kind = 'mirror' AND object LIKE '%l2'},
	'cuda:0|public.item_l2|postgres|t|t', 'so has stat_memory');
right('int8', operator => '<=>', n => 100);
right('all rows, in several passes', n => 100_000);
is_value($node, q{SET enable_seqscan = off; SET enable_sort = off; SELECT count(*) FROM (SELECT FROM item ORDER BY e <-> vector(7) LIMIT 10) s;
	SELECT index, device, rows, batch >= 1, queue_ms >= 0, catchup_ms >= 0, device_ms > 0, rechecks BETWEEN 10 AND 128, fallback_reason FROM last_query()},
	"10\nitem_l2|cuda:0|$rows|t|t|t|t|t|", 'last_query()');

# ---- rows come, go and change ----

$node->safe_psql('postgres', q{INSERT INTO item SELECT i, vector(i) FROM generate_series(10001, 10200) i; INSERT INTO item SELECT i, vector(7) FROM generate_series(20001, 20020) i});
is_value($node, q{SELECT lag_rows FROM stat_index WHERE index = 'item_l2'::regclass}, '220', 'what was appended is not there yet');
right('after inserts');
is_value($node, q{SELECT lag_rows, resident FROM stat_index WHERE index = 'item_l2'::regclass}, '0|t', 'now it is');
$node->safe_psql('postgres', q{DELETE FROM item WHERE id % 20 = 7; UPDATE item SET e = vector(id + 1) WHERE id % 50 = 3});
right('after deletes and updates', n => 300);
$node->safe_psql('postgres', 'VACUUM item');
is_value($node, q{SELECT lag_rows > 100 FROM stat_index WHERE index = 'item_l2'::regclass}, 't', 'slots were freed');
right('after a vacuum', n => 300);
$node->safe_psql('postgres', q{INSERT INTO item SELECT i, vector(i * 3) FROM generate_series(30001, 30100) i; INSERT INTO item VALUES (0, NULL), (-1, NULL)});
right('slots are used again', n => 300);
is_value($node, q{SELECT lag_rows, resident FROM stat_index WHERE index = 'item_l2'::regclass}, '0|t', 'without a new copy');
$node->safe_psql('postgres', q{DELETE FROM item WHERE id % 5 = 1});
$node->safe_psql('postgres', 'VACUUM item');
right('more slots changed than the meta page remembers', n => 300);
$node->safe_psql('postgres', q{INSERT INTO item SELECT i, vector(i) FROM generate_series(40001, 44000) i});
right('an index that outgrows its copy', n => 300);
is_value($node, q{SELECT count(*) FROM stat_memory WHERE kind = 'mirror' AND object = 'public.item_l2'}, '1', 'there is one copy');

# An old snapshot, and what a transaction wrote itself.
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $before = $old->query_safe(q{SELECT same FROM nearest('<->', vector(40001), 50)});
$node->safe_psql('postgres', q{DELETE FROM item WHERE id BETWEEN 40001 AND 40010; INSERT INTO item SELECT i, vector(40001) FROM generate_series(50001, 50010) i; VACUUM item});
right('a newer snapshot', n => 300);
is($old->query_safe(q{SELECT same FROM nearest('<->', vector(40001), 50)}), $before, 'the old snapshot');
$old->query_safe('COMMIT; BEGIN; INSERT INTO item SELECT i, vector(40005) FROM generate_series(60001, 60010) i');
is($old->query_safe(q{SELECT same FROM nearest('<->', vector(40005), 50)}), 't', 'what the transaction wrote itself');
$old->query_safe('ROLLBACK');
right('after a rollback', n => 50);

# ---- the index is made anew, or goes ----

$node->safe_psql('postgres', 'REINDEX INDEX item_l2');
right('after REINDEX');
$old->query_safe('BEGIN; TRUNCATE item; INSERT INTO item SELECT i, vector(i) FROM generate_series(1, 5000) i');
is($old->query_safe(q{SELECT same FROM nearest('<->', vector(40005), 50)}), 't', 'after a TRUNCATE of the transaction itself');
$old->query_safe('ROLLBACK');
right('which is rolled back');
$old->query_safe('BEGIN; CREATE INDEX item_ip ON item USING gpuknn (e embedding_ip_ops)');
is($old->query_safe(q{SELECT same FROM nearest('<#>', vector(40005), 50)}), 't', 'an index that is not committed');
is_value($node, q{SELECT count(*) FROM stat_memory WHERE kind = 'mirror'}, '3', 'is copied');
$old->query_safe('ROLLBACK');
$old->quit;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM stat_memory WHERE kind = 'mirror'}), 'and gone when it is rolled back');

# ---- the device dies ----

right('before', by => 'device');
kill 'KILL', $node->safe_psql('postgres', q{SELECT service_pid FROM stat_device WHERE device = 'cuda:0'});
right('right after a kill of the device process', by => 'any');
ok($node->poll_query_until('postgres', q{
	SELECT same FROM nearest('<->', vector(7), 10);
	SELECT resident FROM stat_index WHERE index = 'item_l2'::regclass}, "t\nt"), 'the copy comes back');
right('when it is back');

# While answers of 128 and more pairs are fetched one by one, the device goes: nothing is lost, nothing comes twice.
my $cursor = $node->background_psql('postgres');
$cursor->query_safe('BEGIN; SET enable_seqscan = off; SET enable_sort = off; DECLARE c CURSOR FOR SELECT id, e <-> vector(7) AS d FROM item ORDER BY e <-> vector(7)');
my $found = $cursor->query_safe('FETCH 20 FROM c');
kill 'KILL', $node->safe_psql('postgres', q{SELECT service_pid FROM stat_device WHERE device = 'cuda:0'});
$found .= "\n" . $cursor->query_safe('FETCH ALL FROM c');
like($cursor->query_safe('SELECT fallback_reason FROM last_query()'), qr/device/, 'the scan left the device');
$cursor->query_safe('COMMIT');
$cursor->quit;
my $reference = $node->safe_psql('postgres', 'SET enable_indexscan = off; SELECT id, e <-> vector(7) AS d FROM item ORDER BY d');
is(join("\n", map { (split /\|/)[1] // '' } split /\n/, $found), join("\n", map { (split /\|/)[1] // '' } split /\n/, $reference), 'distances in order');
is(join("\n", sort split /\n/, $found), join("\n", sort split /\n/, $reference), 'all rows once');

# ---- a device that does not answer ----

sub device_pid { return $node->safe_psql('postgres', q{SELECT service_pid FROM stat_device WHERE device = 'cuda:0'}) }
my $by_index = 'SET enable_seqscan = off; SET enable_sort = off; ';

$node->poll_query_until('postgres', q{SELECT same FROM nearest('<->', vector(7), 10); SELECT resident FROM stat_index WHERE index = 'item_l2'::regclass}, "t\nt");
my $pid = device_pid();
kill 'STOP', $pid;
fails_with($node, $by_index . q{SET statement_timeout = '300ms'; SELECT id FROM item ORDER BY e <-> vector(7) LIMIT 10}, '57014', 'a timeout ends the wait for an answer');
kill 'CONT', $pid;
right('after that', by => 'device');
$node->safe_psql('postgres', 'REINDEX INDEX item_l2');
kill 'STOP', $pid;
fails_with($node, $by_index . q{SET statement_timeout = '300ms'; SELECT id FROM item ORDER BY e <-> vector(7) LIMIT 10}, '57014', 'and the wait for a copy');
right('others do not wait for it', by => 'host');
kill 'CONT', $pid;
ok($node->poll_query_until('postgres', q{SELECT same FROM nearest('<->', vector(7), 10); SELECT resident FROM stat_index WHERE index = 'item_l2'::regclass}, "t\nt"),
	'the copy is made later');

# ---- writers, vacuum, scans, and kills of the device, all at once ----

my $dir = $node->basedir;
append_to_file("$dir/check.sql", q{
\set n random(1, 9000)
\set k random(1, 300)
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 1 / same::int FROM nearest('<->', vector(:n), :k);
COMMIT;
});
append_to_file("$dir/write.sql", q{
\set n random(1, 9000)
\set m random(1, 30)
BEGIN;
DELETE FROM item WHERE ctid = ANY (ARRAY(SELECT ctid FROM item OFFSET :n LIMIT :m));
INSERT INTO item SELECT i, vector(i) FROM generate_series(:n, :n + :m - 1) i;
COMMIT;
});
append_to_file("$dir/vacuum.sql", "VACUUM (TRUNCATE off) item;\n");
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 6, '-t', $ENV{GA_TEST_LONG} ? 1000 : 40, '-h', $node->host, '-p', $node->port,
		'-f', "$dir/check.sql\@12", '-f', "$dir/write.sql\@4", '-f', "$dir/vacuum.sql\@1", 'postgres' ], '>', \my $pgbench, '2>', \my $pgbench_err);
while ($load->pumpable)
{
	$pid = device_pid();
	kill 'KILL', $pid if $pid;
	my $until = time + 1;
	$load->pump_nb, select(undef, undef, undef, 0.02) while $load->pumpable && time <= $until;
}
ok($load->finish, 'all answers are right, and no query fails') || diag $pgbench_err;
ok($node->poll_query_until('postgres', q{SELECT same FROM nearest('<->', vector(7), 10); SELECT resident FROM stat_index WHERE index = 'item_l2'::regclass}, "t\nt"),
	'the copy comes back');
ok($node->safe_psql('postgres', q{SELECT gpuagent_store.check_gpuknn('item_l2') > 0}), 'the index is whole');
right('and after all that');

# ---- a standby, and a server whose device has little memory ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
wait_for_service($standby);
right('a standby', node => $standby);
$node->safe_psql('postgres', $_) foreach (q{DELETE FROM item WHERE id % 30 = 7}, 'VACUUM item', q{INSERT INTO item SELECT i, vector(i) FROM generate_series(70001, 70200) i});
$node->wait_for_catchup($standby);
right('a standby that has replayed changes', node => $standby, n => 300);
$node->safe_psql('postgres', 'REINDEX INDEX item_l2');
$node->wait_for_catchup($standby);
right('and a rebuild', node => $standby, n => 300);
$standby->promote;
$standby->safe_psql('postgres', q{INSERT INTO item SELECT i, vector(i) FROM generate_series(80001, 80100) i});
right('and was promoted', node => $standby, n => 300);
$standby->stop;

my $small = PostgreSQL::Test::Cluster->new('small');
$small->init_from_backup($node, 'base');
my $bytes = $node->safe_psql('postgres', q{SELECT greatest(index_bytes * 5 / 4 + 4000000, 8000000) / 1048576 FROM stat_index WHERE index = 'item_l2'::regclass});
$small->append_conf('postgresql.conf', "gpuagent.cache_size = '${bytes}MB'\n");
$small->start;
wait_for_service($small);
right('one copy fits', node => $small);
ok($small->poll_query_until('postgres', q{SELECT same FROM nearest('<=>', vector(7), 10);
	SELECT string_agg(resident::text, ' ' ORDER BY index::text) FROM stat_index}, "t\ntrue false"), 'another one takes its memory once it was not in use for a while');
ok($small->poll_query_until('postgres', q{SELECT same FROM nearest('<->', vector(7), 10);
	SELECT string_agg(resident::text, ' ' ORDER BY index::text) FROM stat_index}, "t\nfalse true"), 'and the other way round');
$small->safe_psql('postgres', q{SELECT gpuagent.setup(); SELECT gpuagent.store_swarm('pop', (SELECT array_agg(i)::real[]::swarm_tensor FROM generate_series(1, 2000000) i))});
is_value($small, q{SELECT device FROM gpuagent.map_swarm('pop', device => 'cuda')}, 'cuda:0', 'mapped memory');
is_value($small, q{SELECT count(*) FROM stat_memory WHERE kind = 'mirror'}, '0', 'goes before a copy');
right('which then cannot be made', node => $small, by => 'host');
is_value($small, q{SELECT last_fallback_reason FROM stat_index WHERE index = 'item_l2'::regclass}, 'the index could not be copied to the device', 'the reason');
$small->stop;

# ---- who may look ----

$node->safe_psql('postgres', q{CREATE ROLE reader; SELECT gpuagent.setup(); SELECT gpuagent.grant_access('reader', 'read')});
right('once more, after the rebuild');
is_value($node, q{SET ROLE reader; SELECT count(*) FROM stat_index; SELECT count(*) FROM stat_memory WHERE kind = 'mirror' AND object = 'public.item_l2'}, "2\n1", 'a role with level read sees indexes and copies');

# ---- what goes ----

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', $_) foreach ('CREATE EXTENSION gpuagent', q{
	CREATE TABLE item AS SELECT i AS id, (SELECT array_agg(sin(i * k))::real[]::embedding FROM generate_series(1, 1000) k) AS e FROM generate_series(1, 2500) i;
	CREATE INDEX ON item USING gpuknn (e embedding_l2_ops) WITH (dim = 1000)});
is($node->safe_psql('other', 'SET enable_seqscan = off; SET enable_sort = off; SELECT id FROM item ORDER BY e <-> (SELECT e FROM item WHERE id = 70) LIMIT 1'), '70', 'another database');
is_value($node, q{SELECT object IS NULL FROM stat_memory WHERE kind = 'mirror' AND database = 'other'}, 't', 'whose names are its own');
$node->safe_psql('postgres', 'DROP DATABASE other');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM stat_memory WHERE kind = 'mirror' AND database IS DISTINCT FROM 'postgres'}), 'no memory is left of a database that is dropped');
$node->safe_psql('postgres', 'DROP INDEX item_l2');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM stat_memory WHERE kind = 'mirror' AND object IS DISTINCT FROM 'public.item_cosine'}), 'no memory is left of an index that is dropped');
$node->stop;
done_testing();
