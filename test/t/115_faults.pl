# An export of a small checkpoint while the n-th change of the tree fails, for want of room or by an error of the disk,
# or its process is killed there: afterwards the server recovers by itself, latest names a folder that verifies in full
# (Perl says so, not the server), the earlier export is whole, nothing that is hidden stays, the next export works.
# The short form takes some n, GA_TEST_LONG all, and kills the postmaster too.
#
# Defects of earlier systems that would show here: files written in place, with the tail of a longer one before them;
# latest advanced before what it names is durable; remains that nobody removes; half a checkpoint under its name.
use strict;
use warnings;

use GpuAgentFaults;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $long = $ENV{GA_TEST_LONG};
my $node = new_faulty_node('faults', conf => "gpuagent.discard_grace = 0\n");
something_of_everything($node);
my $first = $node->safe_psql('postgres', 'SELECT path FROM gpuagent.export_checkpoint()') =~ s{.*/}{}r;
$node->safe_psql('postgres', q{SELECT gpuagent.set_checkpoint_alias('pinned', 1)});
my $tree = tree($node) . '/nvme_storage';
is(folder_problem("$tree/$first"), undef, 'the first export is whole');
is(latest_of($node), $first, 'latest names it');

# A session does one thing, then another one with a fault that is for its process alone.
sub try_with_fault
{
	my ($before, $then, %fault) = @_;
	my ($in, $out, $err) = ('', '', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=0', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	$in .= "SELECT 'pid ' || pg_backend_pid();\n$before\n\\echo ready\n";
	$psql->pump until $out =~ /ready\n/;
	my ($pid) = $out =~ /pid (\d+)/;
	my ($id) = $out =~ /checkpoint (\d+)/;
	arm($node, pid => $pid, %fault);
	$in .= "$then\n\\q\n";
	eval { $psql->finish };
	# Once the server has seen the end of the process it answers nobody until it has recovered.
	wait_until(sub { !kill(0, $pid) });
	my ($calls, $hit) = (calls($node), first_hit($node));
	disarm($node);
	my ($path) = $out =~ m{exported nvme_storage/(\S+)};
	return { id => $id, calls => $calls, hit => $hit, err => $err, out => $out, path => $path };
}

# One more checkpoint, and its export.
my $make = q{SELECT gpuagent.store_agent('step', ARRAY[extract(epoch FROM clock_timestamp())]::float8[]::real[]::gpuagent.agent_state);
	SELECT gpuagent.create_checkpoint('next') AS id \gset
	\echo checkpoint :id};
sub try_export { return try_with_fault($make, q{SELECT 'exported ' || path FROM gpuagent.export_checkpoint(:id);}, @_); }

my %deleted;					# exports whose checkpoint is gone; the worker removes them while other things happen

# What has to hold after each fault: an empty list of complaints.
sub complaints
{
	my ($try) = @_;
	my @wrong;
	my $state = '';

	push @wrong, 'the server does not answer'
		unless wait_until(sub { IPC::Run::run([ 'psql', '-XAtq', '-c', 'SELECT 1', '-d', $node->connstr('postgres') ], '>', \my $out, '2>', \my $err) });
	push @wrong, 'the journal stays open: ' . $node->safe_psql('postgres', 'SELECT string_agg(kind || name, $$,$$) FROM gpuagent_store.journal_intents()')
		unless wait_until(sub { $node->safe_psql('postgres', 'SELECT count(*) FROM gpuagent_store.journal_intents()') eq '0' });
	push @wrong, 'left behind: ' . join(' ', private_of($node)) unless wait_until(sub { !private_of($node) });
	my $latest = latest_of($node);
	my $problem = folder_problem("$tree/$latest");
	push @wrong, "latest: $problem" if $problem && latest_of($node) eq $latest;
	push @wrong, 'the first export: ' . folder_problem("$tree/$first") if folder_problem("$tree/$first");
	my $exported = $node->safe_psql('postgres', "SELECT split_part(exported_path, '/', 2) FROM gpuagent.checkpoint WHERE id = $try->{id}");
	push @wrong, "$try->{path} was acknowledged and is not in the catalogue" if $try->{path} && $try->{path} ne $exported;
	push @wrong, 'in the catalogue: ' . folder_problem("$tree/$exported") if $exported && folder_problem("$tree/$exported");
	push @wrong, "latest names $latest" unless $exported ? $latest eq $exported : $latest eq $first || $deleted{$latest};
	foreach my $folder (exports_of($node))
	{
		push @wrong, "visible: $folder" unless $folder eq $first || $folder eq $exported || $deleted{$folder};
	}
	push @wrong, 'put aside: ' . join(' ', glob("$tree/quarantine-*")) if glob("$tree/quarantine-*");
	my $next = $node->safe_psql('postgres', "SELECT split_part(path, '/', 2) FROM gpuagent.export_checkpoint($try->{id})");
	push @wrong, 'the next export: ' . folder_problem("$tree/$next") if folder_problem("$tree/$next");
	push @wrong, "latest does not name the next export" if latest_of($node) ne $next;
	$node->safe_psql('postgres', "SELECT gpuagent.delete_checkpoint($try->{id})");
	$deleted{$next} = 1;
	return map { "$_ (after $try->{hit})" } @wrong;
}

my $count = try_export(action => 'count');
my $n = $count->{calls};
is($count->{err}, '', 'an export succeeds');
is(join("\n", complaints($count)), '', 'and nothing is wrong afterwards');
cmp_ok($n, '>', 40, "it makes $n changes");

# Calls that fail once, and from the n-th on, which the abort meets as well.
foreach my $case ([ 'enospc', 0, 10, 1 ], [ 'eio', 0, 12, 3 ], [ 'eio', 1, 24, 2 ], [ 'enospc', 1, 24, 9 ], [ 'short', 0, 24, 7 ])
{
	my ($action, $sticky, $step, $from) = @$case;
	my @wrong;
	my ($failed, $tried) = (0, 0);
	# The last ones, from the journal to the rename and latest, always.
	foreach my $at (grep { $long || $_ % $step == $from % $step || ($_ > $n - 8 && $action eq 'eio' && !$sticky) } 1 .. $n)
	{
		my $try = try_export(action => $action, sticky => $sticky, n => $at);
		$tried++;
		$failed++ unless $try->{path};
		push @wrong, map { "$action at $at: $_" } complaints($try);
	}
	my $name = "$action" . ($sticky ? ' from then on' : '');
	is(join("\n", @wrong), '', "$name: $tried times, $failed exports failed, all is well afterwards");
	cmp_ok($failed, '>', $tried / 2, "$name: most exports fail") unless $action eq 'short';
	is($failed, 0, 'a short write is continued') if $action eq 'short';
}

# The process is killed, and with it all of the server's.
my @at = grep { $long || $_ % 14 == 5 || $_ > $n - 8 } 1 .. $n;
my @wrong;
foreach my $at (@at)
{
	my $try = try_export(action => 'kill', n => $at);
	push @wrong, "kill at $at: not hit" unless $try->{hit};
	push @wrong, map { "kill at $at: $_" } complaints($try);
}
is(join("\n", @wrong), '', 'killed at ' . @at . ' points, all is well afterwards');

if ($long)
{
	@wrong = ();
	foreach my $at (1 .. $n)
	{
		my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
		my $try = try_export(action => 'kill', n => $at, also => $postmaster);
		$node->kill9;
		start_faulty($node);
		push @wrong, map { "kill of all at $at: $_" } complaints($try);
	}
	is(join("\n", @wrong), '', 'the postmaster killed at each point, all is well after a start');
}

# The removal of an export, and latest moved back from it. Where the worker is faster there is nothing to fail.
sub try_removal
{
	my (%fault) = @_;
	my $try = try_with_fault($make . q{
		SELECT split_part(path, '/', 2) AS name FROM gpuagent.export_checkpoint(:id) \gset
		\echo name :name
		SELECT gpuagent.delete_checkpoint(:id);}, 'SELECT gpuagent_store.maintain_exports();', %fault);
	my ($name) = $try->{out} =~ /name (\S+)/;
	my @bad;
	my $latest = latest_of($node);
	my $problem = folder_problem("$tree/$latest");
	push @bad, "latest: $problem" if $problem && latest_of($node) eq $latest;	# the worker may have moved it on
	push @bad, 'half of it is left under its name' if -e "$tree/$name" && folder_problem("$tree/$name") && -e "$tree/$name";
	push @bad, 'the server does not answer' unless wait_until(sub { IPC::Run::run([ 'psql', '-XAtq', '-c', 'SELECT 1', '-d', $node->connstr('postgres') ], '>', \my $out, '2>', \my $err) });
	push @bad, 'it is not removed' unless wait_until(sub { !-e "$tree/$name" });
	push @bad, 'left behind: ' . join(' ', private_of($node)) unless wait_until(sub { !private_of($node) });
	push @bad, 'the journal stays open' unless wait_until(sub { $node->safe_psql('postgres', 'SELECT count(*) FROM gpuagent_store.journal_intents()') eq '0' });
	push @bad, 'latest names ' . latest_of($node) if latest_of($node) ne $first;
	push @bad, 'the first export: ' . folder_problem("$tree/$first") if folder_problem("$tree/$first");
	$try->{wrong} = [ map { "$_ (after $try->{hit})" } @bad ];
	return $try;
}
ok(wait_until(sub { join(' ', exports_of($node)) eq $first }), 'the exports of deleted checkpoints go');
my $removal;
ok(wait_until(sub { $removal = try_removal(action => 'count'); $removal->{calls} > 15 }), "a removal that the worker leaves to the session makes $removal->{calls} changes");
foreach my $action (qw(enospc eio kill))
{
	@wrong = ();
	foreach my $at (grep { $long || $_ % 10 == { enospc => 6, eio => 2, kill => 8 }->{$action} } 1 .. $removal->{calls})
	{
		my $try = try_removal(action => $action, n => $at);
		push @wrong, map { "$action at $at: $_" } @{ $try->{wrong} };
	}
	is(join("\n", @wrong), '', "a removal that meets $action is finished by the worker");
}

# The list of cached agents: the old one or the new one, never half of one.
my $keys = tree($node) . '/cache';
my $cache = q{SELECT gpuagent.cache_agents(prefix => 'a');};
$node->safe_psql('postgres', "$cache SELECT gpuagent_store.save_cache_keys()");
my ($list) = glob("$keys/agents-*");
my $saved = -s $list;
my $count_keys = try_with_fault("$cache SELECT gpuagent.store_agent('b', '[1]'); SELECT gpuagent.cache_agent('b');", 'SELECT gpuagent_store.save_cache_keys();', action => 'count')->{calls};
cmp_ok($count_keys, '>', 4, "saving the ids of cached agents makes $count_keys changes");
@wrong = ();
foreach my $at (1 .. $count_keys)
{
	foreach my $action (qw(enospc eio), $long ? 'kill' : ())
	{
		my $name = "c$action$at";
		my $before = -s $list;
		my $try = try_with_fault("$cache SELECT gpuagent.store_agent('$name', '[1]'); SELECT gpuagent.cache_agent('$name');",
			'SELECT gpuagent_store.save_cache_keys();', action => $action, n => $at);
		wait_until(sub { IPC::Run::run([ 'psql', '-XAtq', '-c', 'SELECT 1', '-d', $node->connstr('postgres') ], '>', \my $out, '2>', \my $err) });
		my ($rc, $out, $err) = $node->psql('postgres', 'SELECT gpuagent_store.prewarm_cache()');
		push @wrong, "$action at $at: $err" if $err ne '';
		push @wrong, "$action at $at: the list is empty" if -s $list < $saved;
		push @wrong, "$action at $at: left behind" unless wait_until(sub { !private_of($node) });
	}
}
is(join("\n", @wrong), '', 'the list of cached agents is whole after each fault');
is(latest_of($node), $first, 'and latest names what is left');
is_value($node, q{SELECT status FROM gpuagent.verify_integrity('full')}, 'ok', 'all verifies in the end');
is_value($node, q{SELECT exported_path FROM gpuagent.checkpoint WHERE id = 1}, "nvme_storage/$first", 'what was pinned is there');
$node->stop;
done_testing();
