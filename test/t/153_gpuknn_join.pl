# knn_join() with mirrors on the emulated device: what it finds is what sequential scans sort, and the device found it;
# also when rows change, with little memory, and with more queries than a request takes; and on the host, on a standby, when
# the device dies, and after a cancel.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dim = 512;
my $node = new_node('join', setup => 0, allows_streaming => 1, conf => device_conf(1)
	  . "autovacuum = off\nfsync = off\ngpuagent.device_timeout = '5min'\nsearch_path = 'public, gpuagent'\n");
$node->safe_psql('postgres', 'CREATE EXTENSION gpuagent');
wait_for_service($node);
$node->safe_psql('postgres', qq{
	CREATE FUNCTION vector(i bigint) RETURNS embedding LANGUAGE sql IMMUTABLE AS \$\$
		SELECT array_agg(hashint8extended(i * 10000 + k, 7) / 9223372036854775808.0)::real[]::embedding FROM generate_series(1, $dim) k
	\$\$;
	CREATE TABLE item (id bigint, e embedding($dim));
	INSERT INTO item SELECT i, vector(i % 5000) FROM generate_series(1, 6000) i;
	ALTER TABLE item ALTER e SET STORAGE plain;
	CREATE INDEX item_l2 ON item USING gpuknn (e embedding_l2_ops);
	CREATE INDEX item_cosine ON item USING gpuknn (e embedding_cosine_ops) WITH (storage = int8);
	CREATE FUNCTION same(operator text, index regclass, first bigint, n bigint, k bigint) RETURNS boolean LANGUAGE plpgsql
		SET enable_indexscan = off AS \$\$
	DECLARE
		queries text := format('SELECT i - %s + 1 AS query, vector(i) AS q FROM generate_series(%s, %s) i', first, first, first + n - 1);
		answer boolean;
	BEGIN
		EXECUTE format('WITH queries AS MATERIALIZED (%1\$s),
			found AS (SELECT * FROM knn_join(%2\$L, (SELECT stack(q::swarm_tensor ORDER BY query) FROM queries), %3\$s)),
			wanted AS (SELECT query, n.* FROM queries, LATERAL (SELECT ctid AS tid, e %4\$s q AS d FROM item ORDER BY e %4\$s q, ctid LIMIT %3\$s) n)
			SELECT (SELECT count(*) FROM wanted) > 0 AND NOT EXISTS (TABLE found EXCEPT ALL TABLE wanted) AND NOT EXISTS (TABLE wanted EXCEPT ALL TABLE found)',
			queries, index, k, operator) INTO answer;
		RETURN answer;
	END \$\$;
});

sub scans { return $node->safe_psql('postgres', "SELECT scans_device || ' ' || scans_host FROM stat_index WHERE index = '$_[0]'::regclass") }

sub right
{
	my ($name, $n, $k, $by) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $case (['<->', 'item_l2'], ['<=>', 'item_cosine'])
	{
		my ($operator, $index) = @$case;
		my @before = split / /, scans($index);
		is_value($node, "SELECT same('$operator', '$index', 5990, $n, $k)", 't', "$name: $index, $n queries, $k rows");
		my @after = split / /, scans($index);
		is_deeply([$after[0] - $before[0], $after[1] - $before[1]], $by eq 'device' ? [1, 0] : [0, 1], "... by the $by");
	}
}

right('at first', 3, 10, 'device');
right('again', 20, 10, 'device');
right('many rows of each', 2, 2000, 'device');
$node->safe_psql('postgres', q{
	INSERT INTO item SELECT i, vector(i) FROM generate_series(5990, 6010) i;
	DELETE FROM item WHERE id % 9 = 0;
	UPDATE item SET id = -id WHERE id % 10 = 1});
right('rows changed', 12, 10, 'device');
$node->safe_psql('postgres', q{VACUUM (INDEX_CLEANUP on) item; INSERT INTO item SELECT i, vector(i) FROM generate_series(6000, 6200) i});
right('slots used again', 12, 10, 'device');
$node->safe_psql('postgres', q{ALTER SYSTEM SET work_mem = '64kB'; SELECT pg_reload_conf()});
right('in blocks', 20, 10, 'device');
$node->safe_psql('postgres', q{ALTER SYSTEM RESET work_mem; SELECT pg_reload_conf()});

# More queries than one request takes: those at the seams, each as by itself.
is_value($node, q{
	SET enable_indexscan = off;
	WITH numbers AS MATERIALIZED (SELECT query, (query * 37) % 7000 AS i FROM generate_series(1, 1100) query),
		found AS MATERIALIZED (SELECT * FROM knn_join('item_l2', (SELECT stack(vector(i)::swarm_tensor ORDER BY query) FROM numbers), 3)),
		wanted AS (SELECT query, n.* FROM numbers, LATERAL (SELECT ctid AS tid, e <-> vector(i) AS d FROM item ORDER BY e <-> vector(i), ctid LIMIT 3) n
			WHERE query IN (1, 512, 1023, 1024, 1025, 1100))
	SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM wanted), (SELECT count(*) FROM (TABLE wanted EXCEPT ALL TABLE found) e)},
	'3300|18|0', 'more queries than a request takes');

# ---- a device that does not answer, and one that dies ----

my $waiting = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT same%' AND wait_event IS NOT NULL AND state = 'active' AND backend_type = 'client backend'};
my $join = q{SELECT same('<->', 'item_l2', 5990, 12, 10)};
sub device_pid { return $node->safe_psql('postgres', q{SELECT service_pid FROM stat_device WHERE device = 'cuda:0'}) }

my $pid = device_pid();
kill 'STOP', $pid;
fails_with($node, "SET statement_timeout = '500ms'; $join", '57014', 'a timeout ends the wait for an answer');
kill 'CONT', $pid;
right('after a cancel', 12, 10, 'device');

my $session = $node->background_psql('postgres');
kill 'STOP', $pid;
$session->query_until(qr/start/, "\\echo start\n$join;\n\\echo done\n");
ok($node->poll_query_until('postgres', $waiting), 'a join waits for the device');
kill 'KILL', $pid;
pump_until($session->{run}, $session->{timeout}, \$session->{stdout}, qr/done/);
like($session->{stdout}, qr/^t$/m, 'which dies: the answer is right');
$session->quit;
ok($node->poll_query_until('postgres', q{SELECT same('<->', 'item_l2', 7, 12, 10); SELECT resident FROM stat_index WHERE index = 'item_l2'::regclass}, "t\nt"), 'the copy comes back');
ok($node->poll_query_until('postgres', q{SELECT same('<=>', 'item_cosine', 7, 12, 10); SELECT resident FROM stat_index WHERE index = 'item_cosine'::regclass}, "t\nt"), 'that of the other index, too');
right('when it is back', 12, 10, 'device');

# ---- a standby ----

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "gpuagent.storage_path = '" . $standby->basedir . "/tree'\n");
$standby->start;
$node->safe_psql('postgres', q{INSERT INTO item SELECT i, vector(i) FROM generate_series(5980, 5995) i});
$node->wait_for_catchup($standby);
is_value($standby, $join, 't', 'on a standby');
$standby->stop;
$node->append_conf('postgresql.conf', "gpuagent.device = 'host'\n");
$node->restart;
right('on the host', 12, 10, 'host');
$node->stop;
done_testing();
