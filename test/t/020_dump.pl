# pg_dump in its three formats, parallel where it can be: the restored database equals the original in every table, and
# what users added to our tables (an index, a policy, a column, a trigger, a publication) is there, too.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('dump', conf => "autovacuum = off\nwal_level = logical\n");
my $dir = PostgreSQL::Test::Utils::tempdir;

# Something in every table, users' additions, values that text could bend: -0, NaN payloads, shortest floats, empty tensors.
$node->safe_psql('postgres', q{
	CREATE ROLE tenant_a;
	CREATE ROLE tenant_b;
	SELECT gpuagent.store_agent('a' || i, ARRAY[i, -0.0, 'NaN', 1e-45, 0.1]::real[]::gpuagent.agent_state, 'F64[2]:raw:AQAAAAAA+P8BAAAAAAD4fw==',
		i % 3, CASE WHEN i % 5 > 0 THEN i / 7.0 END, jsonb_build_object('i', i)) FROM generate_series(1, 500) i;
	SELECT gpuagent.store_agent('infinite', fitness => '-Infinity');
	INSERT INTO gpuagent.graph (graph) VALUES ('g');
	INSERT INTO gpuagent.graph_node (graph, id, embedding) SELECT 'g', 'n' || i, ARRAY[i, i / 3.0, -0.0]::real[] FROM generate_series(1, 300) i;
	INSERT INTO gpuagent.graph_edge (graph, source, target, edge_type, weight) SELECT 'g', 'n' || i, 'n' || i + 1, 'next', i / 3.0 FROM generate_series(1, 299) i;
	UPDATE gpuagent.graph SET dim = 3;
	SELECT gpuagent.index_knowledge_graph('g', 'l2', 'f32');
	SELECT gpuagent.store_swarm('s', gpuagent.tensor('U8', '{3,1000000}', convert_to(repeat('0123456789', 300000), 'UTF8')));
	SELECT gpuagent.store_swarm_rows('s', 2, gpuagent.tensor('U8', '{1,1000000}', convert_to(repeat('abcdefghij', 100000), 'UTF8')));
	SET gpuagent.compression = off;
	SELECT gpuagent.store_swarm('raw', gpuagent.tensor('F32', '{65536}', (SELECT string_agg(sha256(int4send(i)), '') FROM generate_series(1, 8192) i)));
	RESET gpuagent.compression;
	SELECT gpuagent.store_swarm('empty', gpuagent.tensor('BF16', '{0,7}', ''));
	SELECT gpuagent.store_weights('e', 'w' || i, gpuagent.tensor('F4', '{2,3}', '\x0f1e2d'), 'F16:[1,2]', '{"k": [1, null]}') FROM generate_series(1, 9) i;
	SELECT gpuagent.store_weights('e', 'w1', '7'), gpuagent.delete_weights('e', 'w2');
	INSERT INTO gpuagent.run (run) VALUES ('r');
	INSERT INTO gpuagent.metric (run, key, step, value) SELECT 'r', 'loss', i, CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' ELSE 1.0 / i END FROM generate_series(1, 100) i;
	SELECT gpuagent.create_checkpoint('one');
	SELECT gpuagent.store_agent('a1', fitness => 99);
	DELETE FROM gpuagent.graph_edge WHERE source = 'n7';
	SELECT gpuagent.set_checkpoint_alias('good', gpuagent.create_checkpoint('two', metadata => '{"x": 1}'));

	CREATE INDEX users_index ON gpuagent.agent ((metadata ->> 'i')) WHERE generation = 1;
	ALTER TABLE gpuagent.agent ADD COLUMN tenant text DEFAULT 'tenant_a';
	UPDATE gpuagent.agent SET tenant = 'tenant_b' WHERE generation = 2;
	ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY;
	CREATE POLICY tenants ON gpuagent.agent USING (tenant = current_user);
	GRANT USAGE ON SCHEMA gpuagent TO tenant_a, tenant_b;
	GRANT SELECT ON gpuagent.agent TO tenant_a, tenant_b;
	CREATE TABLE audit (who text);
	CREATE FUNCTION note_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (NEW.swarm); RETURN NEW; END';
	CREATE TRIGGER users_trigger AFTER INSERT ON gpuagent.swarm FOR EACH ROW EXECUTE FUNCTION note_it();
	CREATE STATISTICS gpuagent.users_statistics ON generation, fitness FROM gpuagent.agent;
	CREATE PUBLICATION users_publication FOR TABLE gpuagent.agent WHERE (id < 'b');
	COMMENT ON COLUMN gpuagent.agent.tenant IS 'whose';
});
my $original = digest($node);
cmp_ok(scalar(grep { !/^0 / } values %$original), '>=', 19, 'nearly every table has rows');

# The rows as psql shows them are what digest() compares; the elements, too, must be equal bit for bit.
my $bits = q{
	SELECT md5(string_agg(b, ',' ORDER BY b)) FROM (
		SELECT 'a' || id || gpuagent.tensor_bytes(state)::text || gpuagent.tensor_bytes(memory)::text FROM gpuagent.agent WHERE state IS NOT NULL
		UNION ALL SELECT 'n' || id || gpuagent.tensor_bytes(embedding)::text FROM gpuagent.graph_node
		UNION ALL SELECT 's' || swarm || version || gpuagent.tensor_hash(gpuagent.retrieve_swarm(swarm, version))::text FROM gpuagent.swarm_version
		UNION ALL SELECT 'w' || layer || version || gpuagent.tensor_hash(weights)::text FROM gpuagent.load_weights('e')
		UNION ALL SELECT 'c' || c.id || gpuagent.tensor_hash(gpuagent.retrieve_swarm('s', checkpoint => c.id))::text FROM gpuagent.checkpoint c) v(b)};
my $original_bits = $node->safe_psql('postgres', $bits);

my %formats = (
	plain => [ [ 'pg_dump', '-f', "$dir/plain.sql", '-d', $node->connstr('postgres') ],
		sub { [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/plain.sql", '-d', $_[0] ] } ],
	custom => [ [ 'pg_dump', '-Fc', '-f', "$dir/custom.dump", '-d', $node->connstr('postgres') ],
		sub { [ 'pg_restore', '-e', '-j2', '-d', $_[0], "$dir/custom.dump" ] } ],
	directory => [ [ 'pg_dump', '-Fd', '-j2', '-f', "$dir/directory", '-d', $node->connstr('postgres') ],
		sub { [ 'pg_restore', '-e', '-j2', '-d', $_[0], "$dir/directory" ] } ],
	inserts => [ [ 'pg_dump', '--column-inserts', '--rows-per-insert=50', '-f', "$dir/inserts.sql", '-d', $node->connstr('postgres') ],
		sub { [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/inserts.sql", '-d', $_[0] ] } ],
);

foreach my $format (sort keys %formats)
{
	my ($dump, $restore) = @{ $formats{$format} };

	command_ok($dump, "$format: dumped");
	$node->safe_psql('postgres', "CREATE DATABASE $format");
	command_ok($restore->($node->connstr($format)), "$format: restored");
	is_deeply(digest($node, $format), $original, "$format: every table is equal");
	is($node->safe_psql($format, $bits), $original_bits, "$format: every element is equal");
	is($node->safe_psql($format, q{
			SELECT (SELECT indexdef FROM pg_indexes WHERE indexname = 'users_index'), (SELECT qual FROM pg_policies WHERE policyname = 'tenants'),
				(SELECT relrowsecurity FROM pg_class WHERE oid = 'gpuagent.agent'::regclass),
				(SELECT count(*) FROM pg_trigger WHERE tgname = 'users_trigger'), (SELECT count(*) FROM pg_statistic_ext WHERE stxname = 'users_statistics'),
				(SELECT rowfilter FROM pg_publication_tables WHERE pubname = 'users_publication')}),
		$node->safe_psql('postgres', q{
			SELECT (SELECT indexdef FROM pg_indexes WHERE indexname = 'users_index'), (SELECT qual FROM pg_policies WHERE policyname = 'tenants'),
				(SELECT relrowsecurity FROM pg_class WHERE oid = 'gpuagent.agent'::regclass),
				(SELECT count(*) FROM pg_trigger WHERE tgname = 'users_trigger'), (SELECT count(*) FROM pg_statistic_ext WHERE stxname = 'users_statistics'),
				(SELECT rowfilter FROM pg_publication_tables WHERE pubname = 'users_publication')}),
		"$format: index, policy, trigger, statistics and publication are there");
	is($node->safe_psql($format, q{
			SELECT pg_get_indexdef(node_index::regclass) ~ 'gpuknn .embedding gpuagent.embedding_l2_ops. WITH .storage=f32, dim=.3.. WHERE',
				(SELECT string_agg(node, ' ') FROM gpuagent.search_knowledge_graph('g', '[7,2,0]', 3)), gpuagent.index_knowledge_graph('g', storage => 'f32')::text = node_index
			FROM gpuagent.graph}),
		't|n7 n6 n8|t', "$format: the index of a graph is there");
	is($node->safe_psql($format, q{
			SET ROLE tenant_b;
			SELECT count(*), min(generation), max(generation), min(tenant) FROM gpuagent.agent}),
		'167|2|2|tenant_b', "$format: the policy is in force");

	# the restored database goes on: constraints, sequences, versions, deduplication, the trigger
	is($node->safe_psql($format, q{
			SELECT gpuagent.setup();
			SELECT count(*) FROM gpuagent_store.chunk \gset
			SELECT gpuagent.store_swarm('s', gpuagent.retrieve_swarm('s', 1)), gpuagent.store_weights('e', 'w1', '8'), gpuagent.store_swarm('new', '[1]'),
				gpuagent.create_checkpoint('three'), gpuagent.delete_agent('a3');
			SELECT count(*) - :count, (SELECT who FROM audit) FROM gpuagent_store.chunk;
			SELECT gpuagent.store_agent('a4', fitness => 1, expected_version => 1)}),
		"\n3|3|1|3|t\n2|new\n2", "$format: it goes on");
	like(($node->psql($format, q{INSERT INTO gpuagent.swarm_version (swarm, version, tensor) VALUES ('absent', 1, '\x00')}))[2],
		qr/foreign key/, "$format: foreign keys hold");
	is($node->safe_psql($format, q{
			SELECT count(*) FROM gpuagent.restore_checkpoint(1, safety => false) \gset
			SELECT (SELECT fitness FROM gpuagent.retrieve_agent('a1')), (SELECT count(*) FROM gpuagent.graph_edge), gpuagent.agent_exists('a3')}),
		'0.14285714285714285|299|t', "$format: and back to a checkpoint that came with it");
	$node->safe_psql('postgres', "DROP DATABASE $format");
}

done_testing();
