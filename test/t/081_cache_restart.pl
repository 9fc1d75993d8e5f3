# Agents that were cached are cached again after a restart, the hottest first, as far as there is room; files that are not
# what was written are left alone.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "gpuagent.discard_grace = 1\n");
my $cached = q{SELECT agents FROM gpuagent.cache_stats() WHERE tier = 'host'};

$node->safe_psql('postgres', q{INSERT INTO gpuagent.agent (id, state) SELECT 'a' || i, '[1,2]' FROM generate_series(1, 500) i});
is_value($node, q{SELECT gpuagent.cache_agents(prefix => 'a1')}, '111', 'some are cached');
$node->safe_psql('postgres', q{SELECT gpuagent.cached_state('a100') FROM generate_series(1, 3)});

# By the maintenance worker, when the server stops, whatever it does then, and when the server has started.
is_served($node, 'postgres', 'the database has its worker');
$node->safe_psql('postgres', 'CREATE TABLE public.slow ()');
set_task($node, 'postgres', 'maintain_exports', q{WHILE to_regclass('public.slow') IS NOT NULL LOOP PERFORM pg_sleep(0.1); END LOOP});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance' AND wait_event = 'PgSleep'})
	or die 'the task does not run';
my $logged = -s $node->logfile;
$node->restart;
unlike(slurp_file($node->logfile, $logged), qr/canceling statement/, 'a task that ends with the server is no failure');
$node->safe_psql('postgres', 'DROP TABLE public.slow');
ok($node->poll_query_until('postgres', q{SELECT agents = 111 FROM gpuagent.cache_stats() WHERE tier = 'host'}), 'they are again after a restart');
is_value($node, q{SELECT gpuagent_store.reset_cache_stats(); SELECT count(gpuagent.cached_state('a' || i)) FROM generate_series(1, 500) i; SELECT hits, misses FROM gpuagent.cache_stats() WHERE tier = 'host'},
	"\n500\n111|389", 'and they are those');
is_value($node, q{SELECT gpuagent.evict_agents(); } . $cached, "500\n0", 'evicted');

# What the file is like.
my $base = $node->safe_psql('postgres', q{SELECT gpuagent_store.storage_path()});
my $file = "$base/cache/agents-" . $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
ok(-f $file, 'the file is there');
is((stat $file)[2] & 07777, 0600, 'and private');
my $good = slurp_file($file);
like($good, qr/^GAKEYS01.{16}\x04a100/s, 'the hottest is the first');
is_value($node, q{SELECT gpuagent_store.save_cache_keys()}, '0', 'an empty cache saves nothing');
is(slurp_file($file), $good, 'and leaves the file');
is_value($node, q{SELECT gpuagent_store.prewarm_cache(); } . $cached, "111\n111", 'it can be called');

# Who is told twice to end, as a quick child of the postmaster is, saves all the same.
my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance' AND datname = 'postgres'};
my $saver = $node->safe_psql('postgres', $worker);
$node->safe_psql('postgres', 'CREATE TABLE public.saved (pid int); CREATE TABLE public.slow_save AS SELECT 1; GRANT ALL ON public.saved, public.slow_save TO PUBLIC');
my $save = $node->safe_psql('postgres', q{SELECT pg_get_functiondef('gpuagent_store.save_cache_keys()'::regprocedure)});
set_task($node, 'postgres', 'save_cache_keys',
	q{WHILE EXISTS (SELECT FROM public.slow_save) LOOP PERFORM pg_sleep(0.1); END LOOP; INSERT INTO public.saved VALUES (pg_backend_pid())});
$node->safe_psql('postgres', "SELECT pg_terminate_backend($saver)");
$node->poll_query_until('postgres', qq{SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $saver AND wait_event = 'PgSleep'})
	or die 'it saves nothing';
$node->safe_psql('postgres', "SELECT pg_terminate_backend($saver)");
$node->safe_psql('postgres', 'SELECT pg_sleep(0.3); DELETE FROM public.slow_save');
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $saver"), 'a worker that is told twice ends');
is_value($node, 'SELECT count(*) FROM public.saved WHERE pid = ' . $saver, '1', 'and has saved');
$node->safe_psql('postgres', $save);
is_served($node, 'postgres', 'the next one comes');

# Hostile files: none of them crashes, fills or loops.
sub write_file
{
	my ($content) = @_;
	unlink $file;
	open(my $handle, '>:raw', $file) or die;
	print $handle $content;
	close $handle;
}
my @bad = (
	'', 'GAKEYS01', substr($good, 0, 23), substr($good, 0, 24), substr($good, 0, length($good) - 1), $good . 'x',
	"\x00" x 100, 'x' x 5000, 'GAKEYS02' . substr($good, 8), substr($good, 0, 24) . ("\xff" x 1000),
	substr($good, 0, 20) . pack('l', 1) . substr($good, 24));
foreach my $i (0 .. $#bad)
{
	write_file($bad[$i]);
	is_value($node, q{SELECT gpuagent.evict_agents() >= 0; SELECT gpuagent_store.prewarm_cache(); } . $cached, "t\n0\n0", "hostile file $i");
}
# A checksum is no signature: lists that a program could have written.
sub crc32c
{
	my ($data) = @_;
	my $crc = 0xFFFFFFFF;
	foreach my $byte (unpack 'C*', $data)
	{
		$crc ^= $byte;
		$crc = ($crc >> 1) ^ (0x82F63B78 & -($crc & 1)) & 0xFFFFFFFF for 1 .. 8;
	}
	return $crc ^ 0xFFFFFFFF;
}
sub list
{
	my ($ids) = @_;
	return 'GAKEYS01' . pack('Q', 3) . pack('L', crc32c($ids)) . substr($good, 20, 4) . $ids;
}
my %lists = (
	"\x02a1\x04nope\x02a2" => 2, "\x02a1\xffa2" => 1, "\x00\x02a1" => 0, "\x02a1\x03\x01\x02\x03\x02a2" => 1,
	"\x02a1\x02\xff\xfe\x02a2" => 1, ("\x02a1" x 1000) => 1000, "\x02a1\x05" => 1);
foreach my $ids (sort keys %lists)
{
	write_file(list($ids));
	is_value($node, q{SELECT gpuagent.evict_agents() >= 0; SELECT gpuagent_store.prewarm_cache(); }, "t\n$lists{$ids}", 'a list of ' . unpack('H*', substr($ids, 0, 12)));
}
unlink $file;
symlink('/etc/passwd', $file);
fails_with($node, q{SELECT gpuagent_store.prewarm_cache()}, '42809', 'a link is not followed');
unlink $file;
write_file($good);

# The owner of the tables needs no rights on the server's files.
$node->safe_psql('postgres', q{CREATE ROLE warm_owner; GRANT USAGE, CREATE ON SCHEMA gpuagent TO warm_owner; ALTER TABLE gpuagent.agent OWNER TO warm_owner});
$node->safe_psql('postgres', q{SELECT gpuagent.grant_access('warm_owner', 'admin')});
is_value($node, q{SELECT gpuagent.evict_agents() >= 0; SET ROLE warm_owner; SELECT gpuagent_store.prewarm_cache(), gpuagent_store.save_cache_keys()}, "t\n111|111", 'the owner warms');
$node->safe_psql('postgres', q{CREATE ROLE nobody; GRANT USAGE ON SCHEMA gpuagent, gpuagent_store TO nobody});
fails_with($node, "SET ROLE nobody; SELECT gpuagent_store.$_()", '42501', "$_ is not for everybody") foreach qw(save_cache_keys prewarm_cache);

# Only as much as there is room for, and nothing is evicted for it.
$node->append_conf('postgresql.conf', "gpuagent.host_cache_size = 32MB\n");
$node->restart;
$node->safe_psql('postgres', q{
	INSERT INTO gpuagent.agent (id, state) SELECT 'big' || i, gpuagent.tensor('U8', '{1000000}', convert_to(repeat('0123456789', 100000), 'UTF8'))::gpuagent.agent_state FROM generate_series(1, 40) i});
my $ids = join '', map { pack('C', length "big$_") . "big$_" } 1 .. 40;
write_file(list($ids));
my $warm = $node->safe_psql('postgres', q{SELECT gpuagent.evict_agents() >= 0; SELECT gpuagent.cache_agents(ids => '{a1,a2,a3}'); SELECT gpuagent_store.prewarm_cache(); SELECT agents, evictions FROM gpuagent.cache_stats() WHERE tier = 'host'});
like($warm, qr/^t\n3\n1[0-9]\n1[0-9]\|0$/, 'as many as fit');

# After a crash the cache is empty, the server is as it was, and the list of before is used.
$node->safe_psql('postgres', q{SELECT gpuagent.evict_agents() >= 0; SELECT gpuagent.cache_agents(ids => '{a1,a2,a3}'), gpuagent_store.save_cache_keys()});
$node->stop('immediate');
$node->start;
ok($node->poll_query_until('postgres', q{SELECT agents = 3 FROM gpuagent.cache_stats() WHERE tier = 'host'}), 'pre-warmed after a crash');

done_testing();
