# The device tier of the agent cache, with the emulated device: what map_agents() puts into mapped memory is what a plain
# SELECT of the same snapshot reads, wherever the rows come from, and where they come from is counted.
use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('cache_device', conf => device_conf(1) . "autovacuum = off\ngpuagent.cache_size = '24MB'\ngpuagent.device_timeout = '5min'\n");
wait_for_service($node);

my $client = <<'PY';
import hashlib, mmap, socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.sendall(struct.pack("<IIII", 0x56454447, 1, 2, 0) + bytes.fromhex(sys.argv[2][2:]))
data, fds, flags, address = socket.recv_fds(s, 4096, 2)
magic, status, nbytes, uuid, mode, device = struct.unpack("<IIQ16sIi", data)
assert status == 0, status
print(hashlib.md5(mmap.mmap(fds[0], nbytes, prot=mmap.PROT_READ)[:int(sys.argv[3])]).hexdigest())
PY

my $stats = q{SELECT agents, hits, misses, evictions FROM gpuagent.cache_stats() WHERE tier = 'device'};
my $reset = q{SELECT gpuagent_store.reset_cache_stats()};
my $evict = q{SELECT gpuagent.evict_agents() >= 0};
my ($agents, $hits, $misses, $evictions);

sub counted
{
	my ($expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', $stats), $expected, $name);
	$node->safe_psql('postgres', $reset);
}

# The mapped memory and the SELECT of a session (or of new ones) have the same bytes; returns the SELECT's states.
sub same_as_select
{
	my ($name, $ids, $session) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $run = sub { $session ? $session->query_safe($_[0]) : $node->safe_psql('postgres', $_[0]) };
	my $array = join ',', map { "'$_'" } @$ids;
	my $map = $run->("SELECT handle, path, token, nbytes FROM gpuagent.map_agents(ids => ARRAY[$array], device => 'cuda')");
	my $states = $run->("SELECT state FROM unnest(ARRAY[$array]) WITH ORDINALITY u(id, n) JOIN gpuagent.agent USING (id) ORDER BY n");
	my ($handle, $path, $token, $nbytes) = split /\|/, $map;
	my ($out, $err);

	IPC::Run::run([ 'python3', '-c', $client, $path, $token, $nbytes ], '>', \$out, '2>', \$err) || diag $err;
	chomp $out;
	is($out, md5_hex(pack 'f<*', $states =~ /[-0-9.e]+/g), $name);
	$node->safe_psql('postgres', "SELECT gpuagent.unmap_handle('$handle')");
	return $states;
}

sub values_of
{
	my ($first, $last, $value) = @_;
	return "SELECT 'a' || i, ('[' || array_to_string(array(SELECT $value + i * 10 + j FROM generate_series(1, 4) j), ',') || ']')::gpuagent.agent_state FROM generate_series($first, $last) i";
}

my @ids = map { "a$_" } 1 .. 20;
$node->safe_psql('postgres', 'INSERT INTO gpuagent.agent (id, state) ' . values_of(1, 2000, 0));
is_value($node, q{SELECT agents, hits, misses, evictions, used_bytes, budget_bytes FROM gpuagent.stat_cache WHERE tier = 'device'},
	'0|0|0|0|0|' . 24 * 1024 * 1024, 'nothing is there');
is_value($node, q{SELECT gpuagent.cached_state('a1'); } . $stats, "[11,12,13,14]\n0|0|0|0", 'reading states does not fill it');

# ---- hits, misses ----

same_as_select('not cached', \@ids);
counted('20|0|20|0', 'misses, which are cached on the way');
same_as_select('cached', \@ids);
counted('20|20|0|0', 'hits');
same_as_select('some are cached, in another order, one twice', [ 'a25', reverse(@ids[3 .. 8]), 'a24', 'a24', 'a1' ]);
counted('22|7|3|0', 'hits among misses');
is_value($node, q{SELECT gpuagent.evict_agents('{a1,a2,a3,nobody}') <= 3; } . $stats, "t\n19|0|0|0", 'evicted by id');
same_as_select('evicted', \@ids);
counted('22|17|3|0', 'the others were there');
$node->safe_psql('postgres', $evict);
is_value($node, q{SELECT agents, used_bytes FROM gpuagent.cache_stats() WHERE tier = 'device'}, '0|0', 'evicted all');
is_value($node, q{SELECT gpuagent.cache_agents(ids => array(SELECT 'a' || i FROM generate_series(1, 2000) i)); } . $stats, "2000\n2000|0|0|0", 'cache_agents fills it');
same_as_select('all of them', [ map { "a$_" } 1 .. 2000 ]);
counted('2000|2000|0|0', 'were there');
is_value($node, q{SELECT used_bytes > 0 FROM gpuagent.stat_memory WHERE kind = 'cache' AND device = 'cuda:0'}, 't', 'stat_memory has it');

# ---- what a snapshot sees ----

my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
like(same_as_select('an old snapshot', \@ids, $old), qr/^\[11,/, 'has the first values');
$node->safe_psql('postgres', q{UPDATE gpuagent.agent SET state = '[5,6,7,8]' WHERE id IN ('a1', 'a7')});
like(same_as_select('after an update', \@ids), qr/^\[5,6,7,8\]/, 'has the new values');
like(same_as_select('the old snapshot', \@ids, $old), qr/^\[11,/, 'still has the first values');
like(same_as_select('and a new one', \@ids), qr/^\[5,6,7,8\]/, 'the new ones');
$old->query_safe('COMMIT');

$node->safe_psql('postgres', $reset);
my $own = $node->background_psql('postgres');
$own->query_safe(q{BEGIN; SAVEPOINT s; UPDATE gpuagent.agent SET state = '[0,0,0,1]' WHERE id = 'a2'});
like(same_as_select('what the transaction wrote itself', ['a2'], $own), qr/^\[0,0,0,1\]/, 'is what it sees');
$own->query_safe(q{RELEASE s});
same_as_select('in a subtransaction that has ended', ['a2'], $own);
is_value($node, q{SELECT hits, misses FROM gpuagent.cache_stats() WHERE tier = 'device'}, '0|2', 'and is not served from the cache');
$own->query_safe('ROLLBACK');
like(same_as_select('after a rollback', ['a2']), qr/^\[21,/, 'has the old value');
counted('2000|1|0|0', 'from the cache') if $node->safe_psql('postgres', $reset . '; ' . $evict . '; SELECT gpuagent.cache_agents(); ') && same_as_select('once more', ['a2']);

# A tid that is used again, and frozen: the last one of a file without holes.
$node->safe_psql('postgres', 'VACUUM FULL gpuagent.agent');
my ($last, $tid) = split /\|/, $node->safe_psql('postgres', q{SELECT id, ctid FROM gpuagent.agent ORDER BY ctid DESC LIMIT 1});
same_as_select('the last row', [$last]);
$node->safe_psql('postgres', $_) foreach (
	qq{DELETE FROM gpuagent.agent WHERE id = '$last'},
	q{VACUUM (INDEX_CLEANUP on, TRUNCATE off) gpuagent.agent},
	qq{INSERT INTO gpuagent.agent (id, state) VALUES ('$last', '[9,9,9,9]')},
	q{VACUUM (FREEZE) gpuagent.agent});
is_value($node, qq{SELECT ctid FROM gpuagent.agent WHERE id = '$last'}, $tid, 'the tid is used again');
like(same_as_select('a tid that is used again', [ $last, 'a4' ]), qr/^\[9,9,9,9\]/, 'is another row');

# A file that is emptied in place: tids and xmin come again within it.
$node->safe_psql('postgres', q{BEGIN; TRUNCATE gpuagent.agent; INSERT INTO gpuagent.agent (id, state) VALUES ('a1', '[1,0,0,0]');} .
	q{SELECT gpuagent.map_agents(ids => '{a1}', device => 'cuda'); TRUNCATE gpuagent.agent; INSERT INTO gpuagent.agent (id, state) VALUES ('a1', '[2,0,0,0]'); COMMIT});
like(same_as_select('TRUNCATE twice', ['a1']), qr/^\[2,0,0,0\]/, 'has the last value') for 1, 2;

# ---- shapes, errors ----

$node->safe_psql('postgres', q{INSERT INTO gpuagent.agent (id, state) VALUES ('s1', '[1,2,3]'), ('s2', NULL), ('s3', '[[1,2],[3,4]]')});
same_as_select('another shape', ['s1']) for 1, 2;
same_as_select('of two dimensions', ['s3']) for 1, 2;
fails_with($node, q{SELECT gpuagent.map_agents(ids => '{a1,s1}', device => 'cuda')}, '22000', 'shapes differ, with cached rows too');
fails_with($node, q{SELECT gpuagent.map_agents(ids => '{a1,s2}', device => 'cuda')}, '22004', 'NULL among cached rows');
fails_with($node, q{SELECT gpuagent.map_agents(ids => '{a1,gone}', device => 'cuda')}, '42704', 'absent among cached rows');
is_value($node, q{DO $$ BEGIN FOR i IN 1 .. 3 LOOP BEGIN PERFORM gpuagent.map_agents(ids => '{a1,s2}', device => 'cuda'); EXCEPTION WHEN null_value_not_allowed THEN NULL; END; END LOOP; END $$; SELECT gpuagent.evict_agents() >= 0; SELECT used_bytes FROM gpuagent.cache_stats() WHERE tier = 'device'},
	"t\n0", 'errors leave nothing pinned');

# ---- the device process dies ----

$node->safe_psql('postgres', 'INSERT INTO gpuagent.agent (id, state) ' . values_of(2, 2000, 0));
same_as_select('before the device process dies', \@ids);
my $pid = $node->safe_psql('postgres', q{SELECT service_pid FROM gpuagent.stat_device WHERE device = 'cuda:0'});
kill 'KILL', $pid;
$node->poll_query_until('postgres', "SELECT service_pid <> $pid FROM gpuagent.stat_device WHERE device = 'cuda:0'");
wait_for_service($node);
$node->safe_psql('postgres', $reset);
same_as_select('after that', \@ids);
counted('20|0|20|0', 'nothing of before is used');
same_as_select('and again', \@ids);
counted('20|20|0|0', 'it fills again');

# A map that may be on any device, of cached rows, when the process hangs: the host takes it, and reads the rows again.
same_as_select('cached before the process hangs', \@ids);
$node->safe_psql('postgres', $reset);
my $any = $node->background_psql('postgres');
$any->query_safe('SET client_min_messages = error');
$node->append_conf('postgresql.conf', "gpuagent.device_timeout = '2s'\n");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('gpuagent.device_timeout') = '2s'});
$pid = $node->safe_psql('postgres', q{SELECT service_pid FROM gpuagent.stat_device WHERE device = 'cuda:0'});
kill 'STOP', $pid;
my ($kind, $path, $offset, $nbytes) = split /\|/, $any->query_safe(q{SELECT kind, path, data_offset, nbytes FROM gpuagent.map_agents(ids => array(SELECT 'a' || i FROM generate_series(1, 20) i ORDER BY i))});
is($kind, 'shm', 'mapped on the host');
is(md5_hex(substr(slurp_file($path), $offset, $nbytes)), md5_hex(pack 'f<*', $any->query_safe(q{SELECT state FROM gpuagent.agent WHERE id IN (SELECT 'a' || i FROM generate_series(1, 20) i) ORDER BY substr(id, 2)::int}) =~ /[-0-9.e]+/g), 'with the same rows');
$any->quit;
$node->append_conf('postgresql.conf', "gpuagent.device_timeout = '5min'\n");
$node->reload;
$node->poll_query_until('postgres', "SELECT service_pid <> $pid FROM gpuagent.stat_device WHERE device = 'cuda:0'");
wait_for_service($node);

# ---- a database that is dropped ----

$node->safe_psql('postgres', $evict);
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', $_) foreach ('CREATE EXTENSION gpuagent', 'SELECT gpuagent.setup()', q{INSERT INTO gpuagent.agent (id, state) VALUES ('a1', '[7,7,7,7]')},
	q{SELECT gpuagent.cache_agent('a1')});
counted('1|0|0|0', 'another database has its own');
like(same_as_select('an agent of the same id', ['a1']), qr/^\[2,0,/, 'is another one');
$node->safe_psql('postgres', $evict);
is_value($node, q{SELECT agents, used_bytes > 0 FROM gpuagent.cache_stats() WHERE tier = 'device'}, '1|t', 'evicting leaves other databases alone');
$node->safe_psql('postgres', 'DROP DATABASE other');
is_value($node, q{SELECT agents, used_bytes FROM gpuagent.cache_stats() WHERE tier = 'device'}, '0|0', 'DROP DATABASE frees it');

# ---- many sessions ----

# Writers, mappers and whoever evicts at once.
my $writer = $node->basedir . '/writer.sql';
append_to_file($writer, q{\set i random(1, 20)
\set j random(1, 1000000)
UPDATE gpuagent.agent SET state = ('[' || :i || ',' || :j || ',2,3]')::gpuagent.agent_state WHERE id = 'a' || :i;
});
my $mapper = $node->basedir . '/mapper.sql';
append_to_file($mapper, q{BEGIN;
SELECT gpuagent.unmap_handle(handle) FROM gpuagent.map_agents(ids => array(SELECT 'a' || i FROM generate_series(1, 20) i), device => 'cuda');
\set n random(1, 10)
\if :n = 1
SELECT gpuagent.evict_agents();
\endif
END;
});
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '3', '-T', '3', '-h', $node->host, '-p', $node->port, '-f', "$writer\@1", '-f', "$mapper\@2", 'postgres' ],
	'>', \my $pgbench, '2>', \my $pgbench_err);
for (1 .. 12)
{
	my $session = $node->background_psql('postgres');
	$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	same_as_select("while others write and map, $_", \@ids, $session);
	$session->quit;
}
ok($load->finish, 'they all end well') || diag $pgbench_err;

# ---- the budget ----

$node->safe_psql('postgres', $evict);
$node->safe_psql('postgres', q{INSERT INTO gpuagent.agent (id, state) SELECT 'b' || i, ('[' || array_to_string(array(SELECT i * 1000 + j FROM generate_series(1, 16384) j), ',') || ']')::gpuagent.agent_state FROM generate_series(1, 320) i});
$node->safe_psql('postgres', $reset);
same_as_select("rows $_ of 64 KiB", [ map { "b$_" } ($_ * 80 + 1 .. $_ * 80 + 80) ]) foreach (0 .. 3, 3);
is_value($node, q{SELECT evictions > 0 AND agents < 320 AND hits + misses = 400 AND hits >= 80 AND used_bytes <= budget_bytes FROM gpuagent.cache_stats() WHERE tier = 'device'},
	't', 'less than all is kept');
is_value($node, q{SELECT nbytes FROM gpuagent.map_query($$SELECT state FROM gpuagent.agent WHERE id LIKE 'b%'$$, device => 'cuda')}, 320 * 65536, 'mapped memory takes the place of the cache');
is_value($node, q{SELECT agents FROM gpuagent.cache_stats() WHERE tier = 'device'}, '0', 'which is given up');

done_testing();
