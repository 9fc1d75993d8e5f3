# gpuagent.device = auto, cuda and host with and without a program that finds a GPU; several servers on one machine; what
# the process is given.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = $ENV{GA_DEVICE_PROGRAM};

sub finding
{
	my ($node, $item) = @_;
	return $node->safe_psql('postgres', "SELECT status || ': ' || detail FROM gpuagent.check_setup() WHERE item = '$item'");
}

# Other values of settings; undef: the default.
sub set_conf
{
	my ($node, %setting) = @_;

	foreach my $name (sort keys %setting)
	{
		$node->adjust_conf('postgresql.conf', "gpuagent.$name", undef);
		$node->append_conf('postgresql.conf', "gpuagent.$name = $setting{$name}") if defined $setting{$name};
	}
	return;
}

sub restart_with
{
	my ($node, @setting) = @_;

	set_conf($node, @setting);
	$node->restart;
	return;
}

# A program in place of gpuagent_device.
sub script
{
	my ($name, $text) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . "/$name";

	append_to_file($path, "#!/bin/sh\n$text\n");
	chmod 0755, $path;
	return $path;
}

# ---- two servers at a time, each with a process and a directory of its own

my $one = new_node('one', conf => device_conf());
my $two = new_node('two', conf => device_conf());
wait_for_service($_) foreach ($one, $two);
my %pid = map { $_->name => $_->safe_psql('postgres', q{SELECT service_pid FROM gpuagent.stat_device WHERE device = 'cuda:0'}) } ($one, $two);
isnt($pid{one}, $pid{two}, 'each of two servers has a device process');
$_->safe_psql('postgres', q{SELECT gpuagent_store.check_device('cuda')}) foreach ($one, $two);
kill 'KILL', $pid{one};
$two->safe_psql('postgres', q{SELECT gpuagent_store.check_device('cuda')});
is_value($two, q{SELECT service_pid, restarts FROM gpuagent.stat_device WHERE device = 'cuda:0'}, "$pid{two}|0", 'and nothing of what happens to the other');
$one->poll_query_until('postgres', q{SELECT restarts = 1 AND gpuagent_store.device_service() = 'ready' FROM gpuagent.stat_device WHERE device = 'cuda:0'});
$one->safe_psql('postgres', q{SELECT gpuagent_store.check_device('cuda')});
like(finding($one, 'device'), qr/^ok: 1 GPUs, the first is \S/, 'check_setup() names the device');
like(finding($one, 'shared_memory'), qr/^ok: 64 MB/, 'and the memory');
$two->stop;

# ---- modes

is_value($one, q{SELECT gpuagent_store.check_device(); SELECT device FROM gpuagent.last_query()}, "\ncuda:0", 'auto takes the GPU that serves');
restart_with($one, device => 'host');
is_value($one, q{SELECT gpuagent_store.device_service()}, 'stopped', 'device = host starts no process');
is_value($one, q{SELECT gpuagent_store.check_device(); SELECT device FROM gpuagent.last_query()}, "\nhost", '... and works');
is_value($one, q{SELECT string_agg(device, ' ') FROM gpuagent.stat_device}, 'host', '... which stat_device shows');
fails_with($one, q{SELECT gpuagent_store.check_device('cuda')}, '55000', 'a GPU is not to be had');
like(finding($one, 'device'), qr/^ok: the host/, 'check_setup() knows');

# Memory of the host that is unmapped is free at once, though a session that used it has it mapped; not while it uses it.
{
	my $idle = $one->background_psql('postgres');
	my $rss = sub { return slurp_file("/proc/$_[0]/smaps") =~ m{/region-\d+[^\n]*\n(?:.*\n)*?Rss: +(\d+)} ? $1 : 0 };
	my $pid = $idle->query_safe('SELECT pg_backend_pid()');
	my $look = sub { return $idle->query_safe("SELECT gpuagent.nbytes(gpuagent_store.mapped_tensor('$_[0]'))") };

	$one->safe_psql('postgres', q{SELECT gpuagent.store_swarm('s', gpuagent.tensor('U8', ARRAY[5, 1000000], convert_to(repeat('0123456789', 500000), 'UTF8')))});
	my $handle = $one->safe_psql('postgres', q{SELECT handle FROM gpuagent.map_swarm('s', device => 'host')});
	is($look->($handle), 5000000, 'a session uses memory of the host');
	cmp_ok($rss->($pid), '>', 4000, '... and keeps it mapped');
	$idle->query_safe('BEGIN');
	$look->($handle);
	$one->safe_psql('postgres', "SELECT gpuagent.unmap_handle('$handle')");
	cmp_ok($rss->($pid), '>', 4000, 'memory that a transaction has used is not free when it is unmapped');
	$idle->query_safe('COMMIT');
	ok($one->poll_query_until('postgres', q{SELECT count(*) = 0 FROM gpuagent.stat_memory WHERE object = 'swarm:s'}), '... but soon after the transaction');
	$handle = $one->safe_psql('postgres', q{SELECT handle FROM gpuagent.map_swarm('s', device => 'host')});
	$look->($handle);
	cmp_ok($rss->($pid), '>', 4000, 'again');
	$one->safe_psql('postgres', "SELECT gpuagent.unmap_handle('$handle')");
	cmp_ok($rss->($pid), '<', 100, 'memory is free at once when the session that has it mapped is idle');
	$idle->quit;
}

my $none = script('none', 'exit 3');
restart_with($one, device => 'auto', device_program => "'$none'");
wait_for_service($one, 'no_device');
is_value($one, q{SELECT gpuagent_store.check_device(); SELECT device FROM gpuagent.last_query()}, "\nhost", 'auto without a GPU is the host');
fails_with($one, q{SELECT gpuagent_store.check_device('cuda')}, '55000', '... and cuda an error');
like(finding($one, 'device'), qr/^ok: the host: .* no GPU/, '... check_setup() says why');
restart_with($one, device_program => "'/nowhere/gpuagent_device'");
wait_for_service($one, 'no_device');
like(slurp_file($one->logfile), qr/gpuagent uses the host: gpuagent_device is not installed/, 'so is auto without the program');
restart_with($one, device_program => undef);
ok($one->poll_query_until('postgres', q{SELECT gpuagent_store.device_service() IN ('ready', 'no_device')}), 'and with the program where it is installed, if it is');

# cuda wants a GPU: tried again, each time later
restart_with($one, device => 'cuda', device_program => "'$none'");
my $log = '';
wait_until(sub { ($log = slurp_file($one->logfile)) =~ /again in 800 ms/ });
like($log, qr/exited with exit code 3.*again in 100 ms.*again in 200 ms.*again in 400 ms.*again in 800 ms/s, 'device = cuda without a GPU: tried again, each time later');
like(finding($one, 'device'), qr/^warning: /, '... check_setup() warns');
is_value($one, q{SELECT gpuagent_store.check_device('host')}, '', '... the host works');

# ---- what the process is given

my $arguments = $one->data_dir . '/arguments';
my $tell = script('tell', "echo \"\$@\" > $arguments; ls /proc/self/fd | wc -w >> $arguments; exec $program \"\$@\"");
{
	local $ENV{EXORUST_GPU_CACHE_SIZE_MB} = 77;
	restart_with($one, device_program => "'$tell'");
	wait_for_service($one);
	my ($line, $fds) = split /\n/, slurp_file($arguments);
	like($line, qr{^--directory /dev/shm/gpuagent-[0-9a-f]{16} --budget 80740352$}, 'EXORUST_GPU_CACHE_SIZE_MB is the budget');
	is($fds, 5, 'the process inherits no files of the server');
	fails_with($one, q{SELECT gpuagent_store.check_device('cuda', 50000000)}, '53400', '... beyond which there is nothing');
	is_value($one, q{SELECT gpuagent_store.check_device('cuda', 30000000)}, '', '... until there is');
	fails_with($one, q{SELECT gpuagent_store.device_fault('exit')}, '55000', 'nobody makes the device fail');
}
$one->safe_psql('postgres', q{CREATE ROLE plain LOGIN; SELECT gpuagent.grant_access('plain', 'admin')});
fails_with($one, q{SET ROLE plain; SELECT gpuagent_store.device_fault('exit')}, '42501', '... least of all who is no superuser');
is_value($one, q{SET ROLE plain; SELECT count(*) FROM gpuagent.stat_device}, '2', 'members of access levels read stat_device');

# ---- memory

restart_with($one, host_cache_size => '256MB', device_program => "'$program'");
wait_for_service($one);
like(finding($one, 'shared_memory'), qr/^ok: 256 MB/, 'gpuagent.host_cache_size is taken');
$one->safe_psql('postgres', q{SELECT gpuagent_store.check_device('cuda', 10000000)});
$one->stop;
set_conf($one, host_cache_size => undef);
set_conf($one, shared_memory_dir => "'/tmp/" . 'x' x 90 . "'");
is($one->start(fail_ok => 1), 0, 'a name that no socket can have stops the start');
like(slurp_file($one->logfile), qr/FATAL:  "gpuagent.shared_memory_dir" is too long/, '... and says so');
set_conf($one, shared_memory_dir => "'/nowhere'");
is($one->start(fail_ok => 1), 0, 'so does a directory that is not there');
like(slurp_file($one->logfile), qr/FATAL:  could not create directory "\/nowhere/, '... and says so');

done_testing();
