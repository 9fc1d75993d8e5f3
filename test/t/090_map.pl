# Mapped swarms beyond SQL: files and their rights, clients that hold memory, leases that run out, workers, cancelled and
# killed loaders, a full file system, limits, dropped databases, restarts, standbys, and nothing left behind.
use strict;
use warnings;

use Fcntl qw(:DEFAULT :mode SEEK_SET);
use File::Basename qw(dirname);
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use constant { F_OFD_SETLK => 37, LOCK_HOLD => 0 };

my $node = new_node('map', allows_streaming => 1, conf => "gpuagent.device = host\nlog_min_messages = debug1\nmax_prepared_transactions = 2\n");
my $regions = q{SELECT count(*) FROM gpuagent.stat_memory WHERE object IS NOT NULL};

# A lock as clients hold one, of the whole open file: struct flock of 64-bit Linux.
sub hold
{
	my ($file) = @_;
	my $lock = pack('s s x4 q q l x4', F_RDLCK, SEEK_SET, LOCK_HOLD, 1, 0);
	return fcntl($file, F_OFD_SETLK, $lock);
}

sub mapped
{
	my ($query) = @_;
	my @columns = split /\|/, $node->safe_psql('postgres', "SELECT handle, path, data_offset, nbytes FROM $query");
	return { handle => $columns[0], path => $columns[1], offset => $columns[2], nbytes => $columns[3] };
}

sub contents
{
	my ($map) = @_;
	my $bytes;
	open my $file, '<:raw', $map->{path} or return undef;
	sysseek $file, $map->{offset}, SEEK_SET;
	sysread $file, $bytes, $map->{nbytes};
	return $bytes;
}

sub comes_true
{
	my ($query, $name, $database) = @_;
	return ok($node->poll_query_until($database // 'postgres', $query), $name);
}

# ---- files ----
$node->safe_psql('postgres', q{SELECT gpuagent.store_swarm('pop', '[[1,2],[3,4]]')});
my $map = mapped(q{gpuagent.map_swarm('pop', 'r+')});
my $run = dirname($map->{path});
is(contents($map), pack('f<4', 1 .. 4), 'the file has the swarm at data_offset');
is(sprintf('%o %o', S_IMODE((stat $map->{path})[2]), S_IMODE((stat $run)[2])), '600 700', 'the file is 0600, its directory 0700');
is((stat $map->{path})[4], $>, 'and ours');

# A client writes in place, and others see it.
open my $client, '+<:raw', $map->{path} or die "open: $!";
sysseek $client, $map->{offset} + 4, SEEK_SET;
syswrite $client, pack('f<', 7);
is_value($node, "SELECT gpuagent_store.mapped_tensor('$map->{handle}')::real[]", '{{1,7},{3,4}}', 'what a client writes is there for others');
is_value($node, q{SELECT gpuagent.retrieve_swarm('pop')::real[]}, '{{1,2},{3,4}}', 'and not in the tables');

# ---- leases ----
ok(hold($client), 'the client holds the memory');
is_value($node, "SELECT gpuagent.unmap_handle('$map->{handle}')", 't', 'the lease is ended');
is_value($node, $regions, '1', 'what a client holds stays counted');
is_value($node, q{SELECT count(*) FROM gpuagent.stat_handle}, '0', 'without a handle');
my $epoch;
sysseek $client, 40, SEEK_SET;
sysread $client, $epoch, 4;
isnt(unpack('L', $epoch), 0, 'the client is told by the epoch');
my $next = mapped(q{gpuagent.map_swarm('pop', 'r+')});
isnt($next->{path}, $map->{path}, 'who maps now gets other memory');
is(contents($next), pack('f<4', 1 .. 4), 'with what is stored');
close $client;
comes_true("SELECT ($regions) = 1", 'when the client lets go, the memory is freed');
ok(!-e $map->{path}, 'and its file gone');
is_value($node, q{SELECT gpuagent.unmap_swarm('pop')}, '1', 'the other one');
is_value($node, $regions, '0', 'is freed at once');

$map = mapped(q{gpuagent.map_swarm('pop', lease => '1 h')});
my $renewed = mapped(q{gpuagent.map_swarm('pop', lease => '20 s')});
is($renewed->{path}, $map->{path}, 'readers share a file');
$node->safe_psql('postgres', "SELECT gpuagent.renew_handle('$renewed->{handle}', '1 h')");
$node->safe_psql('postgres', "SELECT gpuagent.renew_handle('$map->{handle}', '1 s')");
comes_true(q{SELECT count(*) = 1 FROM gpuagent.stat_handle}, 'a lease runs out');
fails_with($node, "SELECT gpuagent.renew_handle('$map->{handle}')", '42704', 'and cannot be renewed then');
is_value($node, $regions, '1', 'another one on the same memory keeps it');
is_value($node, "SELECT gpuagent.renew_handle('$renewed->{handle}', '10 ms') IS NOT NULL", 't', 'a lease can be made short');
comes_true("SELECT ($regions) = 0", 'and the reaper frees the memory');
ok(!-e $map->{path}, 'with its file');

$map = mapped(q{gpuagent.map_swarm('pop', 'r+')});
open $client, '+<:raw', $map->{path} or die "open: $!";
ok(hold($client), 'a client holds memory');
$node->safe_psql('postgres', "SELECT gpuagent.renew_handle('$map->{handle}', '500 ms')");
comes_true(q{SELECT count(*) = 0 FROM gpuagent.stat_handle}, 'whose lease runs out');
is_value($node, $regions, '1', 'its bytes stay counted');
is(contents($map), pack('f<4', 1 .. 4), 'and stay there');
close $client;
comes_true("SELECT ($regions) = 0", 'until it lets go');

# ---- a large swarm: workers, and what may interrupt them ----
$node->safe_psql('postgres', q{
	SELECT gpuagent.append_swarm('large', gpuagent.tensor('U8', ARRAY[1048576], string_agg(sha256((i + n * 40000)::text::bytea), '')))
	FROM generate_series(0, 32) n, generate_series(1, 32768) i GROUP BY n;
});
my $expected = $node->safe_psql('postgres', q{SELECT tensor FROM gpuagent.swarm_version WHERE swarm = 'large'});
foreach my $workers (0, 2)
{
	my $log = -s $node->logfile;
	is_value($node, qq{SET max_parallel_maintenance_workers = $workers;
		SELECT gpuagent.tensor_hash(gpuagent_store.mapped_tensor(handle)) FROM gpuagent.map_swarm('large')}, $expected, "loaded with $workers workers");
	my $started = () = slurp_file($node->logfile, $log) =~ /starting background worker process "parallel worker/g;
	is($started, $workers, "$workers workers were started");
	$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('large')});
}
is_value($node, q{BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT gpuagent.tensor_hash(gpuagent_store.mapped_tensor(handle)) FROM gpuagent.map_swarm('large');
	SELECT gpuagent.unmap_swarm('large'); COMMIT}, "$expected\n1", 'in a serializable transaction');

# Damage in a chunk that only a worker may meet surfaces with its SQLSTATE.
$node->safe_psql('postgres', q{CREATE TABLE saved AS SELECT * FROM gpuagent_store.chunk; UPDATE gpuagent_store.chunk SET crc = crc + 1});
fails_with($node, q{SET max_parallel_maintenance_workers = 2; SELECT gpuagent.map_swarm('large')}, 'XX001', 'a damaged chunk is reported');
is_value($node, $regions, '0', 'and leaves nothing');
$node->safe_psql('postgres', q{UPDATE gpuagent_store.chunk SET crc = crc - 1; DROP TABLE saved});

# Cancelled and terminated while loading: the loader waits for a row security policy that sleeps.
$node->safe_psql('postgres', q{
	CREATE ROLE mapper LOGIN;
	SELECT gpuagent.grant_access('mapper', 'map');
	CREATE FUNCTION slowly() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(600); RETURN true; END$$;
	ALTER TABLE gpuagent_store.chunk ENABLE ROW LEVEL SECURITY;
	CREATE POLICY slow ON gpuagent_store.chunk USING (slowly());
});
foreach my $end ('pg_cancel_backend', 'pg_terminate_backend')
{
	my ($in, $out, $err) = ('', '', '');
	my $h = IPC::Run::start([ 'psql', '-X', '-U', 'mapper', '-d', $node->connstr('postgres'), '-c', q{SELECT gpuagent.map_swarm('large')} ], \$in, \$out, \$err);
	comes_true("SELECT ($regions) = 1", "$end: it loads");
	is_value($node, q{SELECT count(*) FROM gpuagent.stat_handle}, '0', '... and has no handle');
	$node->safe_psql('postgres', "SELECT $end(pid) FROM pg_stat_activity WHERE usename = 'mapper' AND backend_type = 'client backend'");
	IPC::Run::finish($h);
	like($err, qr/canceling statement|terminating connection/, '... was ended');
	comes_true("SELECT ($regions) = 0", '... and nothing is left');
}
$node->safe_psql('postgres', q{ALTER TABLE gpuagent_store.chunk DISABLE ROW LEVEL SECURITY; DROP POLICY slow ON gpuagent_store.chunk});

# ---- limits ----
my $many = $node->safe_psql('postgres', q{SELECT count(DISTINCT (gpuagent.map_swarm('pop', CASE i % 2 WHEN 0 THEN 'r' ELSE 'r+' END)).handle) FROM generate_series(1, 256) i});
is($many, '256', '256 handles');
fails_with($node, q{SELECT gpuagent.map_swarm('pop')}, '53400', 'and no more');
is_value($node, $regions, '2', 'on two regions');
is_value($node, q{SELECT gpuagent.unmap_swarm('pop')}, '256', 'they end together');
is_value($node, q{SELECT count(*) FROM (SELECT gpuagent.map_query('SELECT gpuagent.tensor(''F32'', ''{1}'', ''\x00000000'')') FROM generate_series(1, 100)) q}, '100', '100 copies');
is_value($node, q{SELECT count(*), sum(leases) FROM gpuagent.stat_memory WHERE kind = 'query'}, '100|100', 'are 100 regions');
is_value($node, q{SELECT count(*) FROM (SELECT gpuagent.unmap_handle(handle) FROM gpuagent.stat_handle) u}, '100', 'are ended');
is_value($node, $regions, '0', 'and gone');

# ---- databases ----
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION gpuagent; SELECT gpuagent.setup(); SELECT gpuagent.store_swarm('pop', '[5]')});
my $other = $node->safe_psql('other', q{SELECT path FROM gpuagent.map_swarm('pop', 'r+')});
$map = mapped(q{gpuagent.map_swarm('pop', 'r+')});
is(contents($map), pack('f<4', 1 .. 4), 'databases do not share swarms');
is_value($node, q{SELECT count(*) FROM gpuagent.stat_handle}, '1', 'nor show handles');
is_value($node, q{SELECT string_agg(database || ' ' || object, ', ' ORDER BY database) FROM gpuagent.stat_memory WHERE object IS NOT NULL},
	'other swarm:pop, postgres swarm:pop', 'but memory is that of the server');
$node->safe_psql('postgres', 'DROP DATABASE other');
is_value($node, $regions, '1', 'a dropped database gives up its memory');
ok(!-e $other, 'and its files');
ok(-e $map->{path}, 'others keep theirs');

# ---- what becomes of handles ----
$node->stop('immediate');
$node->start;
is_value($node, $regions, '0', 'a restarted server has no regions');
ok(!-e $map->{path}, 'nor files');
is_value($node, q{SELECT gpuagent.unmap_swarm('pop')}, '0', 'nor handles');
$map = mapped(q{gpuagent.map_swarm('pop', 'r+')});
is(contents($map), pack('f<4', 1 .. 4), 'and maps again');
$node->stop;
ok(!-e $run, 'a stopped server leaves no directory');
$node->start;

# ---- a hot standby ----
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('map_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is_value($standby, q{SELECT gpuagent_store.mapped_tensor(handle)::real[] FROM gpuagent.map_swarm('pop')}, '{{1,2},{3,4}}', 'a standby maps to read');
is_value($standby, q{SET max_parallel_maintenance_workers = 2; SELECT gpuagent.tensor_hash(gpuagent_store.mapped_tensor(handle)) FROM gpuagent.map_swarm('large')}, $expected, 'with workers');
fails_with($standby, q{SELECT gpuagent.map_swarm('pop', 'r+')}, '25006', 'not to write');
is_value($standby, q{SELECT count(*) FROM gpuagent.stat_handle}, '2', 'its handles are its own');
is_value($node, q{SELECT count(*) FROM gpuagent.stat_handle}, '0', 'and the primary has none');
$standby->stop;

# ---- without preloading ----
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', q{''});
$node->restart;
fails_with($node, q{SELECT gpuagent.map_swarm('pop')}, '55000', 'without preloading nothing is mapped');
fails_with($node, q{SELECT gpuagent.map_query('SELECT 1')}, '55000', 'nor a query');
fails_with($node, q{SELECT gpuagent.unmap_swarm('pop')}, '55000', 'nor unmapped');
is_value($node, q{SELECT count(*) FROM gpuagent.stat_handle}, '0', 'the views are empty');
is_value($node, q{SELECT count(*) FROM gpuagent.stat_memory}, '0', 'both of them');

done_testing();
