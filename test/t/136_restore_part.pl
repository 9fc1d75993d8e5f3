# Restores of a part, under a prefix, by roles of few rights; restore_latest_valid past checkpoints that were damaged by hand
# in each place where damage can be.
use strict;
use warnings;

use GpuAgentTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('parts', conf => "autovacuum = off\n");
sub sql { return $node->safe_psql('postgres', $_[0]); }

# An independent digest of all live tables but what counts versions: everything, or what a pattern of names leaves.
sub state_of
{
	my ($like) = @_;
	$like //= '.*';
	return sql(qq{
		SELECT string_agg(l, E'\\n' ORDER BY l COLLATE "C") FROM (
			SELECT 'agent ' || id || md5(ROW(state::gpuagent.swarm_tensor, memory::gpuagent.swarm_tensor, generation, fitness, metadata, version, created_at, updated_at, origin)::text) FROM gpuagent.agent
			UNION ALL SELECT 'graph ' || graph || ' ' || ROW(dim, metric, metadata, created_at)::text FROM gpuagent.graph
			UNION ALL SELECT 'graph ' || graph || ' node ' || md5(ROW(id, embedding, metadata, created_at)::text) FROM gpuagent.graph_node
			UNION ALL SELECT 'graph ' || graph || ' edge ' || md5(ROW(source, target, edge_type, weight, metadata, created_at)::text) FROM gpuagent.graph_edge
			UNION ALL SELECT 'swarm ' || s.swarm || ' ' || v.tensor || v.metadata || coalesce(v.step, -1) || s.keep_versions || s.metadata FROM gpuagent.swarm s JOIN gpuagent.swarm_version v ON v.swarm = s.swarm AND v.version = s.current
			UNION ALL SELECT 'expert ' || expert || ' ' || ROW(domain, parameter_count, learning_rate, architecture, metadata, activation_count, success_rate, memory_usage)::text FROM gpuagent.expert
			UNION ALL SELECT 'expert ' || e.expert || ' layer ' || w.layer || ' ' || gpuagent.tensor_hash(w.weights) || coalesce(gpuagent.tensor_hash(w.biases), '') FROM gpuagent.expert e, gpuagent.load_weights(e.expert) w
			UNION ALL SELECT 'run ' || run || ' ' || metadata || status FROM gpuagent.run
			UNION ALL SELECT 'metric ' || run || ' ' || ROW(key, step, value, object, recorded_at)::text FROM gpuagent.metric) x (l)
		WHERE l ~ \$p\$$like\$p\$});
}

sub change_everything
{
	sql(q{
		UPDATE gpuagent.agent SET fitness = coalesce(fitness, 0) + 1, metadata = '{"changed": 1}';
		SELECT gpuagent.delete_agent('run1/a3');
		SELECT gpuagent.store_agent('run1/born', '[1]'), gpuagent.store_agent('run10/born', '[1]');
		UPDATE gpuagent.graph_node SET embedding = '[9,9,9]' WHERE id = 'n1';
		DELETE FROM gpuagent.graph_node WHERE id = 'n2';
		INSERT INTO gpuagent.graph_node (graph, id) SELECT graph, 'born' FROM gpuagent.graph ON CONFLICT DO NOTHING;
		INSERT INTO gpuagent.graph_edge (graph, source, target) SELECT graph, 'n1', 'born' FROM gpuagent.graph ON CONFLICT DO NOTHING;
		SELECT gpuagent.store_swarm(swarm, '[[5]]') FROM gpuagent.swarm;
		SELECT gpuagent.store_weights(expert, 'w', '[5]'), gpuagent.store_weights(expert, 'born', '[6]'), gpuagent.store_expert_state(expert, 77) FROM gpuagent.expert;
		INSERT INTO gpuagent.metric (run, key, value) SELECT run, 'born', 1 FROM gpuagent.run;
		UPDATE gpuagent.run SET status = 'changed'});
	return;
}

sql(q{
	SELECT gpuagent.store_agent(p || 'a' || i, ARRAY[i, -0.0, 'NaN']::real[]::gpuagent.agent_state, '[1]', i, i / 3.0, '{"k": 1}')
		FROM generate_series(1, 5) i, (VALUES ('run1/'), ('run10/'), ('')) v (p);
	INSERT INTO gpuagent.graph (graph, dim, metric) VALUES ('g', 3, 'cosine'), ('g2', NULL, NULL);
	INSERT INTO gpuagent.graph_node (graph, id, embedding) SELECT g, 'n' || i, ARRAY[i, i / 3.0, -0.0]::real[] FROM generate_series(1, 5) i, (VALUES ('g'), ('g2')) v (g);
	INSERT INTO gpuagent.graph_edge (graph, source, target, edge_type, weight) SELECT g, 'n' || i, 'n' || j, 't', i / 3.0 FROM generate_series(1, 5) i, generate_series(1, 5) j, (VALUES ('g'), ('g2')) v (g);
	SELECT gpuagent.store_swarm(s, '[[1,2],[3,4]]') FROM (VALUES ('s'), ('s2')) v (s);
	SELECT gpuagent.store_weights(e, l, ('[' || length(e) || ',2]')::gpuagent.swarm_tensor, '[0.5]') FROM (VALUES ('e1'), ('e10'), ('e2')) v (e), (VALUES ('w'), ('v')) l (l);
	SELECT gpuagent.store_metrics(r, '{"loss": 0.5, "acc": 0.25}', i) FROM generate_series(1, 3) i, (VALUES ('r1'), ('r2')) v (r)});
my $first = sql(q{SELECT gpuagent.create_checkpoint('first')});
my $then = state_of();

# ---- parts: what they name is what it was, and all else stays ----
my %parts = (
	'agents' => '^agent ', 'agents:run1/' => '^agent run1/', 'agents:run1' => '^agent run1', 'experts' => '^expert ', 'expert:e1' => '^expert e1 ',
	'graphs' => '^graph ', 'graph:g' => '^graph g ', 'swarms' => '^swarm ', 'swarm:s' => '^swarm s ', 'metrics' => '^(run|metric) ');
foreach my $part (sort keys %parts)
{
	my ($inside, $outside) = ($parts{$part}, "^(?!" . ($parts{$part} =~ s/^\^//r) . ')');
	change_everything();
	my $rest = state_of($outside);
	my $plan = sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, '{$part}', dry_run => true)});
	is(sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, '{$part}', safety => false)}), $plan, "$part: does what dry_run says");
	is(state_of($inside), join("\n", grep { /$inside/ } split /\n/, $then), "$part: is what it was");
	is(state_of($outside), $rest, "$part: nothing else has changed");
	unlike(sql(qq{SELECT action FROM gpuagent.restore_checkpoint($first, '{$part}', safety => false)}), qr/insert|update|delete/, "$part: a second time, all is kept");
}
sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, safety => false)});
is(state_of(), $then, 'all of it');
sql(q{SELECT gpuagent.delete_expert('e10'), gpuagent.delete_swarm('s'), gpuagent.delete_knowledge_graph('g')});
sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, '{expert:e10,graph:g,swarm:s}')});
is(state_of(), $then, 'what was deleted, by name');
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, '{expert:e3}')", '42704', 'what it does not have');
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, '{expert:}')", '22023', 'no name');
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, '{run:r1}')", '22023', 'one run of many is no address');

# ---- copies ----
sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, new_prefix => 'c/')});
is(state_of(), join("\n", sort { $a cmp $b } split(/\n/, $then), map { s/^(\w+) /$1 c\//r } split(/\n/, $then)), 'copies of everything equal the originals, which stay');
is(sql(q{SELECT count(*) FROM gpuagent.graph_edge WHERE graph = 'c/g'}), 25, 'graphs with their edges');
is(sql(q{SELECT count(*), count(DISTINCT id) FROM gpuagent.metric WHERE run LIKE 'c/%'}), '12|12', 'metrics under numbers of their own');
my $with_copies = state_of();
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, new_prefix => 'c/')", '42710', 'not over copies');
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, '{agents:run1/}', 'c/')", '42710', 'not over some of them');
sql(q{SELECT gpuagent.store_agent('xrun1/a4', '[1]')});
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, new_prefix => 'x')", '42710', 'not over one object that has such a name');
sql(q{SELECT gpuagent.delete_agent('xrun1/a4'); SELECT gpuagent.store_metrics('xr1', '{"k": 1}')});
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, new_prefix => 'x')", '42710', 'nor over a run');
sql(q{DELETE FROM gpuagent.run WHERE run = 'xr1'});
my $long = 'p' x 249;
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, new_prefix => '$long')", '22023', 'names of over 255 bytes');
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, new_prefix => E'a\\nb')", '22023', 'control characters');
fails_with($node, "SELECT gpuagent.restore_checkpoint($first, new_prefix => '')", '22023', 'no prefix is no prefix');
is(state_of(), $with_copies, 'what was refused changed nothing');
sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, '{swarm:s}', '${long}12345')});
is(sql(qq{SELECT gpuagent.retrieve_swarm('${long}12345s')::real[]}), '{{1,2},{3,4}}', 'names of 255 bytes are names');
sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, '{expert:e1}', E'\\\\1\\\\&%_')});
is(sql(q{SELECT count(*) FROM gpuagent.load_weights(E'\\\\1\\\\&%_e1')}), 2, 'a prefix that would mean something to a pattern');
sql(q{SELECT gpuagent.delete_swarm(swarm) FROM gpuagent.swarm WHERE swarm LIKE 'ppp%'; SELECT gpuagent.delete_expert(E'\\\\1\\\\&%_e1')});
# Copies are in no way tied to their originals.
sql(q{SELECT gpuagent.store_swarm('c/s', '[1]'), gpuagent.store_weights('c/e1', 'w', '[1]'), gpuagent.delete_knowledge_graph('c/g'), gpuagent.delete_agents(prefix => 'c/')});
is(state_of('^(?!\w+ c/)'), $then, 'and go their own ways');
sql(q{SELECT gpuagent.delete_expert(expert) FROM gpuagent.expert WHERE expert LIKE 'c/%'; SELECT gpuagent.delete_swarm(swarm) FROM gpuagent.swarm WHERE swarm LIKE 'c/%';
	SELECT gpuagent.delete_knowledge_graph(graph) FROM gpuagent.graph WHERE graph LIKE 'c/%'; DELETE FROM gpuagent.run WHERE run LIKE 'c/%'});
is(state_of(), $then, 'nothing is left of them');

# ---- mapped swarms ----
my $map = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \(my $in = "SELECT path, control_offset FROM gpuagent.map_swarm('s', 'r+');\n"), '>', \(my $out = ''), '2>', \(my $err = ''));
$map->pump until $out =~ /\n/ || $err;
my ($path, $offset) = $out =~ /^(.*)\|(\d+)$/m;
sub epoch { open(my $f, '<:raw', $path) || die "$path: $!"; seek($f, $offset + 40, 0); read($f, my $bytes, 4); return unpack('L', $bytes); }
my $before = epoch();
sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, safety => false)});
is(epoch(), $before, 'a restore that changes nothing leaves the epoch of mapped memory');
sql(q{SELECT gpuagent.store_swarm('s', '[[8,8],[8,8]]')});
isnt(my $after = epoch(), $before, 'a version changes it');
sql(qq{BEGIN; SELECT * FROM gpuagent.restore_checkpoint($first, safety => false); ROLLBACK});
is(epoch(), $after, 'a restore that is rolled back does not');
sql(qq{SELECT * FROM gpuagent.restore_checkpoint($first, '{swarm:s}', safety => false)});
isnt(epoch(), $after, 'a restore does');
$in .= "\\q\n";
$map->finish;

# ---- rights ----
change_everything();
my $changed = state_of();
sql(q{CREATE ROLE restorer; SELECT gpuagent.grant_access('restorer', 'write');
	DO $$ DECLARE f record; BEGIN FOR f IN SELECT p.oid::regprocedure AS s FROM pg_proc p WHERE pronamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace)
		AND proname LIKE '%restore%' LOOP EXECUTE 'GRANT EXECUTE ON FUNCTION ' || f.s || ' TO restorer'; END LOOP; END $$});
fails_with($node, "SET ROLE restorer; SELECT count(*) FROM gpuagent.restore_checkpoint($first)", '42501', 'level write and the right on the function are not enough');
is(state_of(), $changed, 'and nothing has changed');
foreach my $case ([ 'INSERT', 'gpuagent.weight_version' ], [ 'INSERT', 'gpuagent.graph_edge' ], [ 'UPDATE', 'gpuagent.agent' ], [ 'SELECT', 'gpuagent_store.checkpoint_agent' ],
	[ 'UPDATE', 'gpuagent_store.checkpoint_head' ])
{
	my ($right, $table) = @$case;
	sql(qq{SELECT gpuagent.grant_access('restorer', 'admin'); REVOKE $right ON $table FROM restorer});
	fails_with($node, "SET ROLE restorer; SELECT count(*) FROM gpuagent.restore_checkpoint($first)", '42501', "without $right on $table");
	is(state_of(), $changed, '... nothing has changed');
}
sql(q{SELECT gpuagent.grant_access('restorer', 'admin'); ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON gpuagent.agent USING (id LIKE 'run1/%')});
fails_with($node, "SET ROLE restorer; SELECT count(*) FROM gpuagent.restore_checkpoint($first)", '42501', 'where a policy hides rows, nobody restores what he does not see');
fails_with($node, "SET ROLE restorer; SELECT count(*) FROM gpuagent.restore_checkpoint($first, '{agents:run1/}')", '42501', '... not even what he does see');
fails_with($node, "SET ROLE restorer; SELECT count(*) FROM gpuagent.restore_latest_valid()", '42501', '... by whatever function');
is(state_of(), $changed, '... nothing has changed');
sql(q{DROP POLICY p ON gpuagent.agent; ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY});
is(sql(qq{SET ROLE restorer; SELECT count(*) > 5 FROM gpuagent.restore_checkpoint($first)}), 't', 'level admin restores');
is(state_of(), $then, '... all of it');

# ---- damage, and walking back past it ----
# Each checkpoint has something of its own that gets damaged: a chunk's bytes, a chunk that is gone, a node, a tensor's row, an agent,
# an edge, an item.
my $root = q{(SELECT t.root FROM gpuagent_store.tensor t JOIN gpuagent.checkpoint_item i ON i.tensor = t.hash WHERE i.object = '%s' AND i.from_seq = CHECKPOINT)};
my @damage = (
	[ 'bytes of a chunk', q{SELECT gpuagent.store_swarm('s', gpuagent.tensor('U8', '{1,100000}', convert_to(repeat('NUMBER byt', 10000), 'UTF8')))},
		q{UPDATE gpuagent_store.chunk SET data = set_byte(data, 9, get_byte(data, 9) # 1) WHERE hash = } . sprintf($root, 'swarm:s') ],
	[ 'a chunk', q{SELECT gpuagent.store_weights('e1', 'w', gpuagent.tensor('U8', '{70000}', convert_to(repeat('NUMBERchun', 7000), 'UTF8')))},
		q{DELETE FROM gpuagent_store.chunk WHERE hash = } . sprintf($root, 'expert:e1') ],
	[ 'a node', q{SELECT gpuagent.store_swarm('s2', gpuagent.tensor('U8', '{3,1000000}', convert_to(repeat('NUMBER', 500000), 'UTF8')))},
		q{UPDATE gpuagent_store.node SET children = overlay(children PLACING sha256('') FROM 1 FOR 32) WHERE hash = } . sprintf($root, 'swarm:s2') ],
	[ 'a tensor', q{SELECT gpuagent.store_weights('e2', 'v', '[NUMBER]')},
		q{DELETE FROM gpuagent_store.tensor WHERE hash = (SELECT tensor FROM gpuagent.checkpoint_item WHERE object = 'expert:e2' AND part = 'layer:v' AND from_seq = CHECKPOINT)} ],
	[ 'an agent', q{SELECT gpuagent.store_agent('run1/a1', '[NUMBER]')},
		q{UPDATE gpuagent_store.checkpoint_agent SET state = '[6]' WHERE id = 'run1/a1' AND from_seq = CHECKPOINT} ],
	[ 'an edge', q{UPDATE gpuagent.graph_edge SET weight = NUMBER WHERE source = 'n1'},
		q{UPDATE gpuagent_store.checkpoint_edge SET weight = 3 WHERE source = 'n1' AND target = 'n2' AND graph = 'g' AND from_seq = CHECKPOINT} ],
	[ 'an item', q{SELECT gpuagent.store_expert_config('e10', 'domain NUMBER')},
		q{UPDATE gpuagent.checkpoint_item SET body = '{}' WHERE object = 'expert:e10' AND part = 'config' AND from_seq = CHECKPOINT} ]);
my %was;
my $good = sql(q{SELECT gpuagent.create_checkpoint('good')});
my $number = 100000;
foreach my $case (@damage)
{
	$number++;
	sql($case->[1] =~ s/NUMBER/$number/r);
	$was{ sql(q{SELECT gpuagent.create_checkpoint('next')}) } = $case;
	# The next one is not damaged by the same: it has contents of its own there.
	$number++;
	sql($case->[1] =~ s/NUMBER/$number/r);
}
# Digests become plain columns that a trigger fills at insertion, or PostgreSQL would compute them anew and there would be no damage.
foreach my $table (qw(gpuagent_store.checkpoint_agent gpuagent_store.checkpoint_edge gpuagent.checkpoint_item))
{
	my $expression = sql(qq{SELECT regexp_replace(pg_get_expr(d.adbin, d.adrelid), '([(,] ?)(\\w+)(?=[,)])', '\\1NEW.\\2', 'g')
		FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = '$table'::regclass AND a.attname = 'digest'});
	(my $name = $table) =~ s/.*\.//;
	sql(qq{ALTER TABLE $table ALTER digest DROP EXPRESSION;
		CREATE FUNCTION public.$name() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.digest := $expression; RETURN NEW; END';
		CREATE TRIGGER digest BEFORE INSERT ON $table FOR EACH ROW EXECUTE FUNCTION public.$name()});
}
foreach my $id (keys %was)
{
	like(sql(($was{$id}[2] =~ s/CHECKPOINT/$id/gr) . ' RETURNING 1'), qr/^1/, "$was{$id}[0]: harmed");
}
foreach my $id (sort { $a <=> $b } keys %was)
{
	my $what = $was{$id}[0];
	is(sql("SELECT count(*) > 0 FROM gpuagent_store.verify_checkpoint($id, 'full')"), 't', "$what: found by verification");
	fails_with($node, "SELECT count(*) FROM gpuagent.restore_checkpoint($id)", 'XX001', "$what: not restored");
}
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'SELECT count(*) > 5 FROM gpuagent.restore_latest_valid(dry_run => true)');
is($stdout, 't', 'a dry run finds the newest that is whole');
is(scalar(my @warned = $stderr =~ /WARNING:  checkpoint \d+ is damaged/g), scalar(@damage), '... past each that is not');
is(sql(q{SELECT count(*) FROM gpuagent.checkpoint WHERE status <> 'valid'}), 0, '... and marks none');
($rc, $stdout, $stderr) = $node->psql('postgres', 'SELECT count(*) > 5 FROM gpuagent.restore_latest_valid()');
is($stdout, 't', 'the newest that is whole is restored') || diag($stderr);
is(join(',', $stderr =~ /WARNING:  checkpoint (\d+) is damaged/g), join(',', sort { $b <=> $a } keys %was), '... past each that is not, newest first');
is(sql(q{SELECT string_agg(id::text, ',' ORDER BY id DESC) FROM gpuagent.checkpoint WHERE status = 'damaged'}), join(',', sort { $b <=> $a } keys %was), '... which are marked');
is(state_of(), $then, '... bit by bit');
is(sql(qq{SELECT gpuagent.resolve_checkpoint('latest-valid') = $good}), 't', 'latest-valid is that one, too');
fails_with($node, 'SELECT gpuagent.export_checkpoint(' . (sort keys %was)[0] . ')', '55000', 'damaged ones are not exported');

done_testing();
