# Write-back under clients that write without a pause, die in their steps, take long, or break the rules; autosync; crashes
# of the server. Whatever happens, a version is a state that a client has published: its steps write their number into
# all of the memory.
use strict;
use warnings;

use Fcntl qw(:DEFAULT SEEK_SET);
use GpuAgentTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

use constant { F_OFD_SETLKW => 38, LOCK_STEP => 1, SEQUENCE => 24, STEP => 32, LEAF => 65536 };

# Clients write into the file, so this is of the host; test/python/test_sync.py has clients of GPUs as well.
my $node = new_node('sync', conf => "gpuagent.device = host\ngpuagent.sync_interval = 20ms\n");
my $floats = 2 * 1048576 / 4 + 5 * LEAF / 4 + 3;

sub map_writable
{
	my ($swarm, $autosync) = @_;
	my @columns = split /\|/, $node->safe_psql('postgres',
		"SELECT handle, path, data_offset, nbytes FROM gpuagent.map_swarm('$swarm', 'r+', autosync => " . ($autosync ? 'true' : 'false') . ')');
	open my $file, '+<:raw', $columns[1] or die "open: $!";
	return { handle => $columns[0], file => $file, offset => $columns[2], nbytes => $columns[3] };
}

sub put
{
	my ($map, $offset, $bytes) = @_;
	sysseek $map->{file}, $offset, SEEK_SET;
	syswrite($map->{file}, $bytes) == length $bytes or die "write: $!";
}

sub get
{
	my ($map, $offset) = @_;
	my $bytes;
	sysseek $map->{file}, $offset, SEEK_SET;
	sysread $map->{file}, $bytes, 8;
	return unpack 'Q<', $bytes;
}

sub lock_step
{
	my ($map, $kind) = @_;
	my $lock = pack('s s x4 q q l x4', $kind, SEEK_SET, LOCK_STEP, 1, 0);
	fcntl($map->{file}, F_OFD_SETLKW, $lock) or die "lock: $!";
}

# One step, which writes its number everywhere; $middle is called when half of it is there.
sub step
{
	my ($map, $middle) = @_;
	lock_step($map, F_WRLCK) unless $map->{rude};
	my ($sequence, $step) = (get($map, SEQUENCE), get($map, STEP) + 1);
	my $leaf = pack('f<', $step) x (LEAF / 4);
	my $nleaves = int(($map->{nbytes} + LEAF - 1) / LEAF);
	put($map, SEQUENCE, pack('Q<', $sequence + 1));
	foreach my $i (0 .. $nleaves - 1)
	{
		my $left = $map->{nbytes} - $i * LEAF;
		put($map, $map->{offset} + $i * LEAF, $left < LEAF ? substr($leaf, 0, $left) : $leaf);
		$middle->() if $middle && $i == $nleaves / 2;
	}
	put($map, STEP, pack('Q<', $step));
	put($map, SEQUENCE, pack('Q<', $sequence + 2));
	lock_step($map, F_UNLCK) unless $map->{rude};
}

# A process of its own, with a file description of its own.
sub client
{
	my ($map, $code) = @_;
	my $pid = fork;
	if ($pid == 0)
	{
		open my $file, '+<:raw', "/proc/self/fd/" . fileno($map->{file});
		$code->({ %$map, file => $file });
		kill 'KILL', $$;
	}
	return $pid;
}

sub stop
{
	kill 'KILL', $_[0];
	waitpid $_[0], 0;
}

# Versions whose floats are not all the number of their step.
sub mixed
{
	my ($swarm) = @_;
	return $node->safe_psql('postgres', qq{
		SELECT count(*), count(*) FILTER (WHERE gpuagent.tensor_bytes(t) IS DISTINCT FROM
			decode(repeat(encode(substr(gpuagent.tensor_bytes(t), 1, 4), 'hex'), $floats), 'hex')
			OR gpuagent.element(t, 1) <> step)
		FROM (SELECT step, gpuagent.retrieve_swarm(swarm, version) t FROM gpuagent.swarm_version WHERE swarm = '$swarm' AND step IS NOT NULL) v});
}

sub make_swarm
{
	my ($swarm) = @_;
	$node->safe_psql('postgres', qq{
		SELECT gpuagent.store_swarm('$swarm', gpuagent.tensor('F32', '{$floats}', decode(repeat('00000000', $floats), 'hex')));
		UPDATE gpuagent.swarm SET keep_versions = 1000});
}

# ---- a client that never pauses ----
make_swarm('busy');
my $busy = map_writable('busy');
my $writer = client($busy, sub { step($_[0]) while 1 });
$node->poll_query_until('postgres', "SELECT step > 3 FROM gpuagent.stat_handle WHERE object = 'swarm:busy'");
my $before = get($busy, STEP);
my $sync = "SELECT gpuagent.sync_swarm('busy');\n";
my ($versions, $bad);
becomes_true(sub {
	$node->safe_psql('postgres', $sync x 15);
	($versions, $bad) = split /\|/, mixed('busy');
	return $versions >= 3 && get($busy, STEP) > $before + 2;
}, 'syncs make versions, and the client goes on meanwhile');
is($bad, 0, 'each of a moment between two steps');
# What is too large to be copied is stored while the client waits.
my ($more, $still_bad);
becomes_true(sub {
	$node->safe_psql('postgres', "SET maintenance_work_mem = '1MB';\nSET gpuagent.compression = off;\n" . $sync x 5);
	($more, $still_bad) = split /\|/, mixed('busy');
	return $more > $versions;
}, 'the same without a copy');
is($still_bad, 0, 'also of a moment');
# The server crashes in the middle of it.
my $syncing = fork;
if ($syncing == 0)
{
	open STDERR, '>', '/dev/null';
	eval { $node->psql('postgres', $sync x 2000) };
	kill 'KILL', $$;			# without the END blocks, which would stop the server
}
sleep 1;
$node->stop('immediate');
waitpid $syncing, 0;
stop($writer);
$node->start;
($more, $still_bad) = split /\|/, mixed('busy');
cmp_ok($more, '>', $versions, 'after a crash the versions are there');
is($still_bad, 0, 'and whole');
is_value($node, "SELECT status FROM gpuagent.verify_integrity('full') WHERE object = 'total'", 'ok', 'with all that they need');

# ---- a client that dies in its step ----
make_swarm('torn');
my $torn = map_writable('torn');
step($torn);
is_value($node, "SELECT version, changed FROM gpuagent.sync_swarm('torn')", '2|t', 'a step is synced');
my $dying = client($torn, sub { step($_[0], sub { kill 'KILL', $$ }) });
waitpid $dying, 0;
is(get($torn, SEQUENCE) % 2, 1, 'a client ends inside a step');
fails_with($node, "SELECT gpuagent.sync_swarm('torn')", '55000', 'its swarm is not synced');
is_value($node, "SELECT gpuagent.revert_swarm('torn')", '2', 'it can be reverted');
is_value($node, "SELECT changed FROM gpuagent.sync_swarm('torn')", 'f', 'and is as it was');
waitpid client($torn, sub { step($_[0], sub { kill 'KILL', $$ }) }), 0;
fails_with($node, "SELECT gpuagent.sync_swarm('torn')", '55000', 'torn again');
is_value($node, "SELECT version, changed FROM gpuagent.sync_swarm('torn', force => true)", '3|t', 'stored as it is, when told so');
step($torn);
is_value($node, "SELECT version, changed FROM gpuagent.sync_swarm('torn')", '4|t', 'and the next step is an ordinary one');

# ---- a client that takes its time ----
pipe(my $in_step, my $tell_step);
pipe(my $go_on, my $tell_on);
my $slow = client($torn, sub {
	step($_[0], sub { syswrite $tell_step, 'x'; sysread $go_on, my $told, 1 });
	step($_[0]);
});
sysread $in_step, my $told, 1;
fails_with($node, "SET statement_timeout = '300ms';\nSELECT gpuagent.sync_swarm('torn')", '57014', 'a sync waits for a step, and can be cancelled');
my ($waited, $failed) = ('', '');
my $waiting = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SELECT changed FROM gpuagent.sync_swarm('torn')" ], '>', \$waited, '2>', \$failed);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^SELECT changed FROM' AND state = 'active'});
sleep 0.3;
is_value($node, q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT changed FROM' AND state = 'active'}, 1, 'another waits for its end');
syswrite $tell_on, 'x';
$waiting->finish;
is($waited, "t\n", 'and comes when the step ends') or diag $failed;
waitpid $slow, 0;
$node->safe_psql('postgres', "SELECT gpuagent.sync_swarm('torn')");
is($node->safe_psql('postgres', qq{SELECT count(*) FROM gpuagent.swarm_version WHERE swarm = 'torn' AND version > 3
	AND gpuagent.element(gpuagent.retrieve_swarm(swarm, version), 1) <> gpuagent.element(gpuagent.retrieve_swarm(swarm, version), $floats)}),
	'0', 'with the contents of whole steps');

# ---- a client that does not lock ----
my $rude = client({ %$torn, rude => 1 }, sub { step($_[0]) while 1 });
my ($refused, $accepted) = (0, 0);
foreach my $try (1 .. 10)
{
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY sqlstate\nSELECT gpuagent.sync_swarm('torn')");
	$rc == 0 ? $accepted++ : $err =~ /ERROR:  55000/ ? $refused++ : diag($err);
}
stop($rude);
is($refused + $accepted, 10, 'contents that change under the lock are refused, or were of a moment');
is($node->safe_psql('postgres', qq{SELECT count(*) FROM gpuagent.swarm_version WHERE swarm = 'torn' AND version > 3
	AND gpuagent.element(gpuagent.retrieve_swarm(swarm, version), 1) <> gpuagent.element(gpuagent.retrieve_swarm(swarm, version), $floats)}),
	'0', 'no version has two steps');

# ---- autosync ----
make_swarm('auto');
$node->safe_psql('postgres', "UPDATE gpuagent.swarm SET keep_versions = 5 WHERE swarm = 'auto'");
my $auto = map_writable('auto', 1);
step($auto);
ok($node->poll_query_until('postgres', "SELECT current = 2 FROM gpuagent.swarm WHERE swarm = 'auto'"), 'a step becomes a version by itself');
ok($node->poll_query_until('postgres', "SELECT version = 2 AND last_sync_at IS NOT NULL AND last_sync_error IS NULL FROM gpuagent.stat_handle WHERE object = 'swarm:auto'"),
	'which stat_handle shows');
my $steps = 1;
becomes_true(sub {
	for (1 .. 30) { step($auto); $steps++; sleep 0.03 }
	return $node->safe_psql('postgres', "SELECT current > 5 FROM gpuagent.swarm WHERE swarm = 'auto'") eq 't';
}, 'more steps become more versions');
my $last = get($auto, STEP);
ok($node->poll_query_until('postgres', "SELECT step = $last FROM gpuagent.swarm s JOIN gpuagent.swarm_version v ON v.swarm = s.swarm AND v.version = s.current WHERE s.swarm = 'auto'"),
	'the last step, too');
my $current = $node->safe_psql('postgres', "SELECT current FROM gpuagent.swarm WHERE swarm = 'auto'");
cmp_ok($current, '<=', $steps + 1, "of $steps steps $current versions were made");
sleep 0.3;
is_value($node, "SELECT current FROM gpuagent.swarm WHERE swarm = 'auto'", $current, 'without steps there are no more');
is((split /\|/, mixed('auto'))[1], 0, 'all whole');
is_value($node, "SELECT count(*) FROM gpuagent.swarm_version WHERE swarm = 'auto'", 5, 'and as many kept as the swarm says');
$node->safe_psql('postgres', "SELECT gpuagent.store_swarm_rows('auto', 1, '[7]')");
step($auto);
ok($node->poll_query_until('postgres', "SELECT last_sync_error ~ 'changed by another' FROM gpuagent.stat_handle WHERE object = 'swarm:auto'"),
	'what cannot be synced says why');
is_value($node, "SELECT current FROM gpuagent.swarm WHERE swarm = 'auto'", $current + 1, 'and is not');
$node->safe_psql('postgres', "SELECT gpuagent.revert_swarm('auto')");
step($auto);
ok($node->poll_query_until('postgres', "SELECT current > $current + 1 FROM gpuagent.swarm WHERE swarm = 'auto'"), 'after a revert it goes on');
$node->stop;
done_testing();
