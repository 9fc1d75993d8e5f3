# Settings: contexts, check hooks, and environment variables as defaults that postgresql.conf overrides.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('settings');
my $data = $node->data_dir;
my $port = $node->port;
(my $beside = $data) =~ s{/[^/]+$}{};

# Defaults: the development profile stores beside the data directory.
is_value($node, 'SHOW gpuagent.profile', 'development', 'the profile is development');
is_value($node, 'SELECT gpuagent_store.storage_path()', "$beside/gpu_storage-$port", 'the tree lies beside the data directory');
is_value($node, 'SHOW gpuagent.compression', 'on', 'compression is on');
is_value($node, 'SHOW gpuagent.compression_level', '1', 'at level 1');
is_value($node, q{SELECT context, string_agg(substr(name, 10), ' ' ORDER BY name) FROM pg_settings WHERE name LIKE 'gpuagent.%' GROUP BY 1 ORDER BY 1},
	join("\n",
		'postmaster|cache_size device device_faults device_program host_cache_size max_databases max_handles max_jobs profile shared_memory_dir storage_path',
		'sighup|allow_ipc_handles auto_export auto_save_interval cache_max_age collect_interval device_timeout discard_grace enable_agent_sync enable_config_sync enable_weight_sync heartbeat_interval job_nice launcher_interval max_checkpoints max_clock_offset peer_sync_interval peer_timeout prune_interval sync_interval tombstone_grace',
		'superuser|collect_grace io_rate_limit',
		'user|compression compression_level'),
	'each setting has its context');

# What a session may not do
fails_with($node, q{SET gpuagent.storage_path = '/tmp'}, '55P02', 'no session moves the tree');
fails_with($node, q{SET gpuagent.profile = 'production'}, '55P02', 'nor changes the profile');
fails_with($node, 'SET gpuagent.compression_level = 20', '22023', 'a level out of range is refused');
fails_with($node, 'SET gpuagent.unheard_of = 1', '42602', 'an unknown setting of ours is refused');
$node->safe_psql('postgres', q{CREATE ROLE plain LOGIN; SELECT gpuagent.grant_access('plain')});
fails_with($node, q{SET ROLE plain; SHOW gpuagent.storage_path}, '42501', 'the path is for those who may read all settings');

# What the server does not take from its file: as with any setting of a library, a warning and the default.
foreach my $bad ('relative/path', '/tmp/../etc', '/tmp/./x')
{
	my $before = -s $node->logfile;
	$node->append_conf('postgresql.conf', "gpuagent.storage_path = '$bad'\n");
	$node->restart;
	is_value($node, 'SELECT gpuagent_store.storage_path()', "$beside/gpu_storage-$port", "storage_path \"$bad\" is not taken");
	like(slurp_file($node->logfile, $before), qr/WARNING:  invalid value for parameter "gpuagent.storage_path"/, '... with a warning');
	$node->adjust_conf('postgresql.conf', 'gpuagent.storage_path', undef);
}

# The environment replaces the built-in default ...
{
	local $ENV{EXORUST_GPU_STORAGE_PATH} = '/tmp/from_environment/';
	local $ENV{EXORUST_STORAGE_COMPRESSION} = 'false';
	$node->restart;
	is_value($node, 'SELECT gpuagent_store.storage_path()', '/tmp/from_environment', 'EXORUST_GPU_STORAGE_PATH is the default');
	is_value($node, 'SHOW gpuagent.compression', 'off', 'EXORUST_STORAGE_COMPRESSION is the default');
	is_value($node, 'RESET gpuagent.compression; SHOW gpuagent.compression', 'off', 'also after RESET');

	# ... and postgresql.conf wins over it.
	$node->append_conf('postgresql.conf', "gpuagent.storage_path = '/tmp/from_file'\ngpuagent.compression = on\n");
	$node->restart;
	is_value($node, 'SELECT gpuagent_store.storage_path()', '/tmp/from_file', 'postgresql.conf wins over the environment: path');
	is_value($node, 'SHOW gpuagent.compression', 'on', 'postgresql.conf wins over the environment: compression');
}
$node->adjust_conf('postgresql.conf', 'gpuagent.storage_path', undef);
$node->adjust_conf('postgresql.conf', 'gpuagent.compression', undef);

# A variable that makes no sense warns and is ignored.
{
	local $ENV{EXORUST_GPU_STORAGE_PATH} = 'relative';
	local $ENV{EXORUST_STORAGE_COMPRESSION} = 'maybe';
	$node->restart;
	is_value($node, 'SELECT gpuagent_store.storage_path()', "$beside/gpu_storage-$port", 'a relative path from the environment is ignored');
	is_value($node, 'SHOW gpuagent.compression', 'on', 'so is a word that is not a boolean');
	my $log = slurp_file($node->logfile);
	like($log, qr/environment variable EXORUST_GPU_STORAGE_PATH is not an absolute path: "relative"/, 'with a warning for the path');
	like($log, qr/environment variable EXORUST_STORAGE_COMPRESSION is not a boolean: "maybe"/, 'and one for the boolean');
}

$node->append_conf('postgresql.conf', "gpuagent.profile = 'production'\n");
$node->restart;
is_value($node, 'SELECT gpuagent_store.storage_path()', '/magikdev/gpu', 'the production profile has its path');
$node->adjust_conf('postgresql.conf', 'gpuagent.profile', undef);

# A tree inside the data directory is an error that check_setup() names.
$node->append_conf('postgresql.conf', "gpuagent.storage_path = '$data/gpu'\n");
$node->restart;
is_value($node, q{SELECT status FROM gpuagent.check_setup() WHERE item = 'storage_path'}, 'error', 'a tree inside the data directory is an error');
$node->adjust_conf('postgresql.conf', 'gpuagent.storage_path', undef);
$node->stop;

# Without preloading, the same names follow the configuration file and no user can set them.
my $bare = new_node('bare', preload => 0, conf => "gpuagent.storage_path = '/tmp/from_file'\n");
is_value($bare, q{SELECT gpuagent.version() IS NOT NULL; SELECT gpuagent_store.storage_path()}, "t\n/tmp/from_file",
	'not preloaded: the path comes from postgresql.conf');
fails_with($bare, q{SELECT gpuagent.version(); SET gpuagent.storage_path = '/etc'}, '55P02', 'not preloaded: no session moves the tree');
$bare->safe_psql('postgres', q{CREATE ROLE plain LOGIN});
is_value($bare, q{SET ROLE plain; SET gpuagent.storage_path = '/etc'; SELECT gpuagent.version() IS NOT NULL; RESET ROLE;
	SELECT gpuagent_store.storage_path()}, "t\n/tmp/from_file", 'not preloaded: what was set before the library came does not count');
is_value($bare, q{SELECT status FROM gpuagent.check_setup() WHERE item = 'preload'}, 'warning', 'check_setup() warns');
$bare->stop;

done_testing();
