# The extension installs, makes its tables, and says its version, with and without being preloaded.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Utils;
use Test::More;

foreach my $preload (1, 0)
{
	my $with = $preload ? 'preloaded' : 'not preloaded';
	my $node = new_node("start$preload", preload => $preload, setup => 0);

	is_value($node, 'CREATE EXTENSION gpuagent', '', "$with: the extension is created");
	fails_with($node, q{SELECT gpuagent.store_agent('a')}, '42P01', "$with: without tables storing fails");
	is_value($node, 'SELECT gpuagent.setup()', '', "$with: the tables are made");
	is_value($node, 'SELECT gpuagent.setup()', '', "$with: making them again changes nothing");
	is_value($node,
		q{SELECT gpuagent.version() LIKE 'gpuagent ' || extversion || ', %' FROM pg_extension WHERE extname = 'gpuagent'},
		't', "$with: version() names the extension's version");
	is_value($node, q{SELECT gpuagent.store_agent('a', '[1,2]')}, '1', "$with: an agent is stored");
	$node->restart;
	is_value($node, q{SELECT id, state::text, version FROM gpuagent.retrieve_agent('a')},
		'a|[1,2]|1', "$with: the agent survives a restart");
	$node->stop;
}

done_testing();
