# Defects of earlier systems that only a restart shows (test/DEFECTS.md has them all): what is deleted stays deleted
# after a crash, and checkpoints made before a restart are pruned after it, the oldest first.
use strict;
use warnings;

use GpuAgentTest;
use Test::More;

my $node = new_node('defects');

$node->safe_psql('postgres', q{
	SET search_path = gpuagent, public;
	SELECT store_agents(ARRAY['kept', 'gone'], '[[1,2],[3,4]]');
	SELECT store_swarm('gone', '[1,2]'), store_weights('gone', 'a', '[1]'), store_nodes('gone', '{x}');
	SELECT create_checkpoint('all');
	SELECT delete_agent('gone'), delete_swarm('gone'), delete_expert('gone'), delete_knowledge_graph('gone')});
$node->stop('immediate');
$node->start;
is_value($node, q{SELECT string_agg(id, ',') FROM gpuagent.agent}, 'kept', 'a deletion outlives a crash');
is_value($node, q{SELECT (SELECT count(*) FROM gpuagent.swarm) + (SELECT count(*) FROM gpuagent.expert) + (SELECT count(*) FROM gpuagent.graph)}, '0',
	'of swarms, experts and graphs, too');
is_value($node, q{SELECT count(*) FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('all')) WHERE action = 'insert'}, '4', 'and is undone by a restore');

foreach my $i (1 .. 8)
{
	$node->safe_psql('postgres', "SELECT gpuagent.store_agent('kept', '[$i]'); SELECT gpuagent.create_checkpoint('number $i')");
	$node->restart if $i == 4 || $i == 8;
}
my @folders = map { $node->safe_psql('postgres', "SELECT path FROM gpuagent.export_checkpoint(gpuagent.resolve_checkpoint('number $_'))") } (3, 7);
$node->restart;
is_value($node, q{SELECT count(*) > 4 FROM gpuagent.prune_checkpoints(keep_last => 3) WHERE action <> 'keep'}, 't', 'what was made before a restart is pruned after it');
is_value($node, q{SELECT string_agg(label, ',' ORDER BY id) FROM gpuagent.checkpoint WHERE kind = 'manual'}, 'number 6,number 7,number 8', 'and the newest stay');
is_value($node, q{SELECT count(*) FROM gpuagent.verify_integrity('deep') WHERE status <> 'ok'}, '0', 'all of it is well');
$node->stop;
done_testing();
