# Writers move amounts between agents, nodes and their graph, with savepoints, and put agents aside and back, while others
# make, remove and restore checkpoints. Sums are the same in every snapshot, so they are in every checkpoint; and what
# the last checkpoint has is what is there, so that no write between two of them was missed.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $transactions = $ENV{GA_TEST_LONG} ? 10000 : 400;
my $node = new_node('writers', conf => "fsync = off\nautovacuum_naptime = 1\n");

$node->safe_psql('postgres', q{
	INSERT INTO gpuagent.agent (id) SELECT 'a/' || i FROM generate_series(1, 300) i;
	INSERT INTO gpuagent.graph (graph, metadata) VALUES ('g', '{"n": 0}');
	INSERT INTO gpuagent.graph_node (graph, id, metadata) SELECT 'g', i::text, '{"n": 0}' FROM generate_series(1, 50) i;
	-- What a checkpoint has that must not be: sums other than 0.
	CREATE FUNCTION wrong(c bigint) RETURNS text LANGUAGE sql AS $$
		SELECT concat_ws(', ', 'agents ' || nullif(agents, 0), 'graph ' || nullif(nodes + graph, 0))
		FROM (SELECT sum(generation) FROM gpuagent_store.checkpoint_agent WHERE from_seq <= c AND (to_seq IS NULL OR c < to_seq)) a (agents),
			(SELECT sum((metadata ->> 'n')::bigint) FROM gpuagent_store.checkpoint_node WHERE from_seq <= c AND (to_seq IS NULL OR c < to_seq)) n (nodes),
			(SELECT (body -> 'metadata' ->> 'n')::bigint FROM gpuagent.checkpoint_item
				WHERE object = 'graph:g' AND from_seq <= c AND (to_seq IS NULL OR c < to_seq)) g (graph)
	$$;
	CREATE TABLE problem (checkpoint bigint, problem text);
	CREATE TABLE made (checkpoint bigint);
	SELECT gpuagent.create_checkpoint('begin');
});

# Writers take the tables in the order in which a restore locks them.
$node->pgbench("-n -t $transactions -c 5", 0, [qr/processed: [1-9]/], [qr/^$/], 'writers and checkpoints', {
	'001_move@60' => q{
		\set a random(1, 300)
		\set b random(1, 300)
		\set n random(1, 50)
		\set d random(-5, 5)
		BEGIN;
		UPDATE gpuagent.agent SET generation = generation - :d WHERE id = 'a/' || least(:a, :b);
		SAVEPOINT s;
		UPDATE gpuagent.agent SET generation = generation + :d WHERE id = 'a/' || greatest(:a, :b);
		RELEASE s;
		SAVEPOINT t;
		UPDATE gpuagent.agent SET generation = 1000000 WHERE id = 'a/' || greatest(:a, :b);
		ROLLBACK TO t;
		UPDATE gpuagent.graph SET metadata = jsonb_build_object('n', (metadata ->> 'n')::bigint - :d) WHERE graph = 'g';
		UPDATE gpuagent.graph_node SET metadata = jsonb_build_object('n', (metadata ->> 'n')::bigint + :d) WHERE graph = 'g' AND id = (:n)::text;
		COMMIT;
	},
	'002_aside@20' => q{
		\set a random(1, 50)
		BEGIN;
		DELETE FROM gpuagent.agent WHERE id = 'z/' || :a;
		INSERT INTO gpuagent.agent (id) SELECT 'z/' || :a WHERE :a % 3 > 0 ON CONFLICT DO NOTHING;
		COMMIT;
	},
	'003_make@10' => q{
		\set r random(1, 5)
		SELECT gpuagent.create_checkpoint(CASE WHEN :r > 1 THEN 'labelled' END, CASE WHEN :r > 2 THEN ARRAY['agents', 'graph:g'] END) AS c \gset
		INSERT INTO made VALUES (:c);
		-- Not when another session has removed it already: its rows are gone with it.
		INSERT INTO problem SELECT id, w FROM gpuagent.checkpoint, wrong(id) w WHERE id = :c AND w <> '';
	},
	'004_prune@2' => q{
		SELECT count(*) FROM gpuagent.prune_checkpoints(keep_last => 15);
		INSERT INTO problem SELECT id, w FROM gpuagent.checkpoint, wrong(id) w WHERE w <> '';
	},
	'005_restore@1' => q{
		SELECT count(*) FROM gpuagent.restore_checkpoint();
	},
});
is_value($node, 'SELECT * FROM problem LIMIT 5', '', 'every checkpoint is of one snapshot');
is_value($node, 'SELECT count(DISTINCT checkpoint) > 10 FROM made', 't', 'there were many');
is_value($node, q{SELECT sum(generation) FROM gpuagent.agent}, '0', 'restores put back what belongs together');
$node->safe_psql('postgres', q{SELECT gpuagent.create_checkpoint('end')});
is_value($node, q{SELECT count(*) FROM gpuagent.checkpoint_diff(gpuagent.resolve_checkpoint('end'))}, '0', 'no write was missed');
is_value($node, q{SELECT count(*) FROM gpuagent_store.checkpoint_agent o WHERE NOT EXISTS (
	SELECT FROM gpuagent.checkpoint k WHERE o.from_seq <= k.id AND (o.to_seq IS NULL OR k.id < o.to_seq))}, '0', 'no row is left over');
$node->stop;
done_testing();
