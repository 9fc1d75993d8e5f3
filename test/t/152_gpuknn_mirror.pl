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

$node->safe_psql('postgres', 'DROP INDEX item_l2');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM stat_memory WHERE kind = 'mirror' AND object IS DISTINCT FROM 'public.item_cosine'}), 'no memory is left of an index that is dropped');
$node->stop;
done_testing();
