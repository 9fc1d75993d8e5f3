# Mapped swarms in device memory, with the emulated device: what a client fetches with its token, memory that is held,
# budget, the death of the device process, fallback to the host, legacy handles.
use strict;
use warnings;

use Fcntl qw(S_IMODE);
use GpuAgentTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('map_device', conf => device_conf(1) . "gpuagent.cache_size = '80MB'\ngpuagent.host_cache_size = '64MB'\n");
wait_for_service($node);

my $regions = q{(SELECT count(*) FROM gpuagent.stat_memory WHERE object IS NOT NULL)};
my $lost = q{(SELECT sum(used_bytes) FROM gpuagent.stat_memory WHERE kind = 'lost')};
my @columns = qw(handle kind device path token data_offset nbytes);

sub mapped
{
	my ($query) = @_;
	my %map;
	@map{@columns} = split /\|/, $node->safe_psql('postgres', 'SELECT ' . join(', ', @columns) . " FROM $query"), -1;
	return \%map;
}

# A client: fetches memory by socket and token, prints status, mode and floats, writes the floats that it is given, and ends
# with its input. Commands: a line of floats, "hold", "print".
my $client = <<'PY';
import fcntl, mmap, os, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.sendall(struct.pack("<IIII", 0x56454447, int(sys.argv[3]), 2, 0) + bytes.fromhex(sys.argv[2]))
data, fds, flags, address = socket.recv_fds(s, 4096, 2)
if len(data) == 0:
    print("closed", flush=True)
    sys.exit()
magic, status, nbytes, uuid, mode, device = struct.unpack("<IIQ16sIi", data)
print("status", status, "mode", mode, "fds", len(fds), flush=True)
if status:
    sys.exit()
memory = mmap.mmap(fds[0], nbytes)
for line in sys.stdin:
    if line.strip() == "hold":
        fcntl.fcntl(fds[1], 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 1, 0))
        print("held", flush=True)
    elif line.strip() == "epoch":
        print("epoch", struct.unpack_from("<I", os.pread(fds[1], 4096, 0), 40)[0] != 0, flush=True)
    elif line.strip() == "print":
        print(*struct.unpack_from("<4f", memory, 0), flush=True)
    else:
        floats = [float(f) for f in line.split()]
        struct.pack_into("<%df" % len(floats), memory, 0, *floats)
        print("written", flush=True)
PY

sub fetch
{
	my ($map, $token) = @_;
	my %c = (in => '', out => '', err => '');
	($token = $token // $map->{token}) =~ s/^\\x//;
	$c{h} = IPC::Run::start([ 'python3', '-c', $client, $map->{path}, $token, 1 ], \$c{in}, \$c{out}, \$c{err}, my $t = IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	$c{h}->pump until $c{out} =~ /\n/ || !$c{h}->pumpable;
	return \%c;
}

sub command
{
	my ($c, $line) = @_;
	$c->{out} = '';
	$c->{in} .= "$line\n";
	$c->{h}->pump until $c->{out} =~ /\n/;
	chomp(my $answer = $c->{out});
	return $answer;
}

# A condition that comes true by the work of others.
sub comes_true
{
	my ($query, $name) = @_;
	return ok($node->poll_query_until('postgres', "SELECT $query"), $name) || diag($node->safe_psql('postgres', 'SELECT * FROM gpuagent.stat_memory; SELECT * FROM gpuagent.stat_device'));
}

sub device_pid
{
	my $pid = $node->safe_psql('postgres', q{SELECT service_pid FROM gpuagent.stat_device WHERE device = 'cuda:0'});
	return $pid || die 'there is no device process';
}

# ---- what a client fetches ----
$node->safe_psql('postgres', q{SELECT gpuagent.store_swarm('pop', '[[1,2],[3,4]]')});
my $map = mapped(q{gpuagent.map_swarm('pop', 'r+')});
is("$map->{kind} $map->{device} $map->{data_offset} $map->{nbytes}", 'cuda_fd cuda:0 0 16', 'the handle is one of device memory');
is(sprintf('%o', S_IMODE((stat $map->{path})[2])), '600', 'its socket is 0600');
like($map->{token}, qr/^\\x[0-9a-f]{64}$/, 'its token has 32 bytes');
my $one = fetch($map);
is($one->{out}, "status 0 mode 1 fds 2\n", 'the token opens it to write');
is(command($one, 'print'), '1.0 2.0 3.0 4.0', 'with what is stored');
isnt(fetch($map)->{out}, "status 0 mode 1 fds 2\n", 'once');
isnt(fetch($map, '00' x 32)->{out}, "status 0 mode 1 fds 2\n", 'and no other token does');
is(command($one, '5 6'), 'written', 'the client writes');
is_value($node, "SELECT gpuagent_store.mapped_tensor('$map->{handle}')::real[]", '{{5,6},{3,4}}', 'and others see it');
my $two = mapped(q{gpuagent.map_swarm('pop', 'r+')});
isnt($two->{token}, $map->{token}, 'another handle has another token');
my $other = fetch($two);
is(command($other, 'print'), '5.0 6.0 3.0 4.0', 'of the same memory');
my $reader = fetch(mapped(q{gpuagent.map_swarm('pop')}));
is($reader->{out}, "status 0 mode 0 fds 2\n", 'a reader is told that it may not write');
is(command($reader, 'print'), '1.0 2.0 3.0 4.0', 'and has what is stored');
$_->{h}->finish for $other, $reader;

# ---- memory that is held ----
is(command($one, 'hold'), 'held', 'a client holds the memory');
is_value($node, q{SELECT gpuagent.unmap_swarm('pop')}, '3', 'all leases end');
is_value($node, "SELECT $regions", '1', 'what is held stays counted');
is(command($one, 'epoch'), 'epoch True', 'the client is told');
is(command($one, 'print'), '5.0 6.0 3.0 4.0', 'and its memory is there');
$one->{h}->finish;
comes_true("$regions = 0", 'until it ends');
$map = mapped(q{gpuagent.map_swarm('pop')});
$one = fetch($map);
is_value($node, q{SELECT gpuagent.unmap_swarm('pop')}, '1', 'a lease ends while a client is connected');
comes_true("$regions = 0 AND $lost > 0", 'its bytes count as lost');
$one->{h}->finish;
comes_true("$lost = 0", 'until it is gone');

# ---- places ----
$map = mapped(q{gpuagent.map_swarm('pop', device => 'host')});
is($map->{kind}, 'shm', 'a swarm can be mapped on the host');
is(mapped(q{gpuagent.map_swarm('pop')})->{kind}, 'shm', 'who does not mind shares what is there');
is(mapped(q{gpuagent.map_swarm('pop', device => 'cuda')})->{kind}, 'cuda_fd', 'who does has its own');
is_value($node, "SELECT $regions", '2', 'of each one');
is(mapped(q{gpuagent.map_swarm('pop', 'r+', device => 'host')})->{kind}, 'shm', 'mapped on the host to write');
fails_with($node, q{SELECT gpuagent.map_swarm('pop', 'r+', device => 'cuda:0')}, '55000', 'it is nowhere else');
fails_with($node, q{SELECT gpuagent.map_swarm('pop', device => 'cuda:9')}, '55000', 'a device that is not there');
fails_with($node, q{SELECT gpuagent.map_swarm('pop', device => 'cuda/ipc')}, '55000', 'legacy handles are off');
$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('pop')});

# ---- a large one, through the arena ----
$node->safe_psql('postgres', q{
	SELECT gpuagent.append_swarm('large', gpuagent.tensor('U8', ARRAY[1048576], string_agg(sha256((i + n * 40000)::text::bytea), '')))
	FROM generate_series(0, 34) n, generate_series(1, 32768) i GROUP BY n;
});
my $expected = $node->safe_psql('postgres', q{SELECT tensor FROM gpuagent.swarm_version WHERE swarm = 'large'});
foreach my $workers (0, 2)
{
	is_value($node, qq{SET max_parallel_maintenance_workers = $workers; SELECT kind, gpuagent.tensor_hash(gpuagent_store.mapped_tensor(handle))
		FROM gpuagent.map_swarm('large')}, "cuda_fd|$expected", "loaded with $workers workers");
	$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('large')}) if $workers == 0;
}
is_value($node, q{SELECT count(*) FROM gpuagent.map_swarm('large', 'r+')}, '1', 'a second region of it fits');
fails_with($node, q{SELECT gpuagent.map_query('SELECT data FROM gpuagent.swarm_chunks(''large'') WHERE start < 33554432')}, '53400', 'a third does not');
is_value($node, q{SELECT kind FROM gpuagent.map_query('SELECT data FROM gpuagent.swarm_chunks(''large'') WHERE start < 16777216', 'host')}, 'shm', 'but on the host');
is_value($node, q{SELECT count(gpuagent.unmap_handle(handle)) FROM gpuagent.stat_handle WHERE object = 'query'}, '1', 'where it is ended');
is_value($node, "SELECT $regions", '2', 'and nothing is left of either');

# ---- the device process dies ----
my $before = device_pid();
$map = mapped(q{gpuagent.map_swarm('pop', 'r+')});
$one = fetch($map);
command($one, '8 9');
kill 'KILL', $before;
comes_true(qq{service_pid <> $before FROM gpuagent.stat_device WHERE device = 'cuda:0'}, 'killed, it is started again');
wait_for_service($node);
is_value($node, "SELECT gpuagent_store.mapped_tensor('$map->{handle}')::real[]", '{{8,9},{3,4}}', 'and has the memory that clients write to');
command($one, '10');
is_value($node, "SELECT gpuagent_store.mapped_tensor('$map->{handle}')::real[]", '{{10,9},{3,4}}', 'the same');
$other = fetch(mapped(q{gpuagent.map_swarm('pop', 'r+')}));
is(command($other, 'print'), '10.0 9.0 3.0 4.0', 'a new client opens it, too');
$_->{h}->finish for $one, $other;
is_value($node, q{SELECT gpuagent.tensor_hash(gpuagent_store.mapped_tensor(handle)) FROM gpuagent.map_swarm('large')}, $expected, 'readers join what was loaded');
$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('large'), gpuagent.unmap_swarm('pop')});
comes_true("$regions = 0 AND $lost = 0", 'and nothing is left');

# ---- it hangs: who does not mind gets host memory ----
$node->append_conf('postgresql.conf', "gpuagent.device_timeout = '700ms'\n");
$node->reload;
comes_true(q{current_setting('gpuagent.device_timeout') = '700ms'}, 'little patience');
my $fallbacks = $node->safe_psql('postgres', q{SELECT fallbacks FROM gpuagent.stat_device WHERE device = 'host'});
my $pid = device_pid();
kill 'STOP', $pid;
is(mapped(q{gpuagent.map_swarm('pop')})->{kind}, 'shm', 'a device that hangs is not waited for for ever');
is_value($node, qq{SELECT fallbacks > $fallbacks FROM gpuagent.stat_device WHERE device = 'host'}, 't', 'which is counted');
comes_true(qq{service_pid <> $pid FROM gpuagent.stat_device WHERE device = 'cuda:0'}, 'and it is started again');
wait_for_service($node);
$pid = device_pid();
kill 'STOP', $pid;
fails_with($node, q{SELECT gpuagent.map_swarm('pop', device => 'cuda')}, '55000', 'who asked for the device gets an error');
comes_true(qq{service_pid <> $pid FROM gpuagent.stat_device WHERE device = 'cuda:0'}, 'once more');
wait_for_service($node);
$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('pop')});
comes_true("$regions = 0 AND $lost = 0", 'nothing is left of either');
comes_true(q{memory_used_bytes = 0 FROM gpuagent.stat_device WHERE device = 'cuda:0'}, 'nor on the device');

# ---- handles that end before a client has fetched them ----

my $unused = mapped(q{gpuagent.map_swarm('pop', 'r', device => 'cuda')});
my $used = mapped(q{gpuagent.map_swarm('pop', 'r', device => 'cuda')});
is($node->safe_psql('postgres', "SELECT gpuagent.unmap_handle('$unused->{handle}')"), 't', 'a handle ends, its memory has another one');
like(fetch($unused)->{out}, qr/^status 2 /, '... and its token with it');
my $fetched = fetch($used);
like($fetched->{out}, qr/^status 0 /, '... not that of the other');
$fetched->{h}->finish;
$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('pop')});

# ---- a cancel while the device does not listen is what it is, at once, and leaves no lease ----

$node->append_conf('postgresql.conf', "gpuagent.device_timeout = '5min'\n");
$node->reload;
comes_true(q{current_setting('gpuagent.device_timeout') = '5min'}, 'much patience');
$node->safe_psql('postgres', q{SELECT count(*) FROM gpuagent.map_swarm('pop', device => 'cuda')});
$pid = device_pid();
kill 'STOP', $pid;
fails_with($node, q{SET statement_timeout = '200ms'; SELECT gpuagent.map_swarm('pop', device => 'cuda')}, '57014', 'who joins is cancelled');
kill 'CONT', $pid;
is_value($node, q{SELECT count(*) FROM gpuagent.stat_handle WHERE object = 'swarm:pop'}, '1', '... and has no lease');
is(device_pid(), $pid, '... nor was the device killed for it');
$node->safe_psql('postgres', q{SELECT gpuagent.unmap_swarm('pop')});

# ---- legacy handles ----
$node->append_conf('postgresql.conf', "gpuagent.allow_ipc_handles = on\n");
$node->reload;
comes_true(q{current_setting('gpuagent.allow_ipc_handles') = 'on'}, 'legacy handles are allowed');
$map = mapped(q{gpuagent.map_swarm('pop', device => 'cuda:0/ipc')});
is($map->{kind}, 'cuda_ipc', 'the handle is a legacy one');
like($map->{token}, qr/^\\x[0-9a-f]{128}$/, 'of 64 bytes');
is_value($node, "SELECT gpuagent_store.mapped_tensor('$map->{handle}')::real[]", '{{1,2},{3,4}}', 'on the swarm');
is(mapped(q{gpuagent.map_swarm('pop')})->{kind}, 'cuda_fd', 'readers do not share what its holder can write');
mapped(q{gpuagent.map_swarm('pop', device => 'cuda/ipc')});
is_value($node, "SELECT $regions", '3', 'nor do two of its kind');
is_value($node, q{SELECT gpuagent.unmap_swarm('pop')}, '3', 'they end as others');
comes_true("$regions = 0 AND $lost = 0", 'and leave nothing');


# ---- memory that dies with the device process ----
$map = mapped(q{gpuagent.map_swarm('pop', 'r+', device => 'cuda/ipc')});
$pid = device_pid();
kill 'KILL', $pid;
comes_true(qq{service_pid <> $pid FROM gpuagent.stat_device WHERE device = 'cuda:0'}, 'killed with memory that nobody keeps');
wait_for_service($node);
fails_with($node, "SELECT gpuagent_store.mapped_tensor('$map->{handle}')", '55000', 'it is lost');
is(mapped(q{gpuagent.map_swarm('pop', 'r+')})->{kind}, 'cuda_fd', 'and who maps gets other memory');
is_value($node, q{SELECT gpuagent.unmap_swarm('pop')}, '2', 'handles on either end');
comes_true("$regions = 0 AND $lost = 0", 'and nothing is left');

done_testing();
