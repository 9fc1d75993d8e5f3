# Strategies that throw no write away: keep_both makes the writes that are not the value objects of their own, manual
# leaves the earliest write until somebody decides.
use strict;
use warnings;

use GpuAgentPeers;
use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($a, $b) = map { new_peer_node($_) } qw(a b);

# Both write without knowing of each other, b after a.
sub write_apart
{
	my ($of_a, $of_b) = @_;
	my %link = map { $_->name => $_->safe_psql('postgres', 'SELECT subscription FROM gpuagent.peer') } ($a, $b);

	$_->safe_psql('postgres', "ALTER SUBSCRIPTION $link{$_->name} DISABLE") foreach ($a, $b);
	$a->safe_psql('postgres', $of_a);
	$b->safe_psql('postgres', q{SELECT pg_sleep(0.01)});
	$b->safe_psql('postgres', $of_b);
	$_->safe_psql('postgres', "ALTER SUBSCRIPTION $link{$_->name} ENABLE") foreach ($a, $b);
	return;
}

# Branches are written when facts are followed, and then have to cross.
sub settled
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	in_step($name, $a, $b);
	in_step("$name, and branches", $a, $b);
	are_equal("$name: the same", $a, $b);
	return;
}

$a->safe_psql('postgres', q{SELECT gpuagent.store_agent('k', '[0]', fitness => 0)});
link_peers($a, $b);
my %origin = map { $_->name => $_->safe_psql('postgres', 'SELECT gpuagent_store.this_node()') } ($a, $b);
$a->safe_psql('postgres', q{SELECT gpuagent.set_conflict_strategy(c, 'keep_both') FROM unnest('{agent,weight}'::text[]) c});
settled('at first');

write_apart(
	q{SELECT gpuagent.store_agent('k', '[1]', fitness => 1), gpuagent.store_weights('e', 'v', '[1,1]'), gpuagent.store_weights('e', 'w', '[1,2]');
		SELECT gpuagent.store_agent('same', '[7]', fitness => 7, metadata => '{}')},
	q{SELECT gpuagent.store_agent('k', '[2]', fitness => 2), gpuagent.store_weights('e', 'v', '[2,1]'), gpuagent.store_weights('e', 'w', '[2,2]');
		SELECT gpuagent.store_agent('same', '[7]', fitness => 7, metadata => '{}')});
settled('keep_both');
my $prefix = substr($origin{a}, 0, 8);
foreach my $node ($a, $b)
{
	my $name = $node->name;
	is_value($node, q{SELECT string_agg(split_part(id, '~', 1) || '~' || split_part(id, '~', 2) || ' ' || fitness, ', ' ORDER BY id) FROM gpuagent.agent},
		"k~ 2, k~$prefix 1, same~ 7", "$name: the later write is the value, the earlier an agent of its own; equal ones are one");
	is_value($node, q{SELECT gpuagent.element(weights, 1), gpuagent.element(weights, 2) FROM gpuagent.load_weights('e') ORDER BY layer}, "2|1\n2|2",
		"$name: so with layers");
	is_value($node, qq{SELECT count(DISTINCT x.expert), string_agg(l.layer || gpuagent.element(l.weights, 1), ' ' ORDER BY l.layer)
		FROM gpuagent.expert x, gpuagent.load_weights(x.expert) l WHERE x.expert LIKE 'e~$prefix~%'}, '1|v1 w1', "$name: those of one transaction are one expert");
	is_value($node, q{SELECT count(*), count(*) FILTER (WHERE winner), string_agg(fitness::text, ' ') FROM gpuagent.conflict_head WHERE object = 'k'}, '2|1|1 2',
		"$name: the conflict lists both writes");
}

# The branch is an object like others; it is made once, and follows no later write of its key.
$b->safe_psql('postgres', q{SELECT gpuagent.delete_agent(id) FROM gpuagent.agent WHERE id LIKE 'k~%'; SELECT gpuagent.store_agent('k', fitness => 3)});
settled('a branch is deleted');
is_value($_, q{SELECT string_agg(id || ' ' || fitness, ', ' ORDER BY id) FROM gpuagent.agent}, 'k 3, same 7', 'it stays deleted') foreach ($a, $b);
is_value($_, q{SELECT count(*) FROM gpuagent.conflict_head WHERE object = 'k'}, '0', 'the next write ends the conflict') foreach ($a, $b);

# A deletion against a write keeps the write.
write_apart(q{SELECT gpuagent.store_agent('k', fitness => 4)}, q{SELECT gpuagent.delete_agent('k')});
settled('deleted and written');
is_value($_, q{SELECT string_agg(split_part(id, '~', 2) || ' ' || fitness, ', ') FROM gpuagent.agent WHERE id ^@ 'k'}, "$prefix 4", 'the write is kept') foreach ($a, $b);

$b->safe_psql('postgres', q{SELECT gpuagent.set_conflict_strategy('agent', 'manual')});
settled('manual');
write_apart(q{SELECT gpuagent.store_agent('m', '[1]', fitness => 1)}, q{SELECT gpuagent.store_agent('m', '[2]', fitness => 2)});
settled('a decision is due');
is_value($_, q{SELECT (SELECT fitness FROM gpuagent.agent WHERE id = 'm'), (SELECT string_agg(object || heads, ' ') FROM gpuagent.conflict
	WHERE strategy = 'manual' AND object = 'm')}, '1|m2', 'the earliest write is the value meanwhile') foreach ($a, $b);
$a->safe_psql('postgres', q{SELECT gpuagent.resolve_conflict(origin, seq) FROM gpuagent.conflict_head WHERE object = 'm' AND fitness = 2});
settled('decided');
is_value($_, q{SELECT (SELECT fitness FROM gpuagent.agent WHERE id = 'm'), (SELECT count(*) FROM gpuagent.conflict WHERE object = 'm')}, '2|0',
	'what was decided is the value everywhere') foreach ($a, $b);
my ($rc, $out, $err) = $a->psql('postgres', q{\set VERBOSITY sqlstate
	SELECT gpuagent.set_conflict_strategy('agent', 'both')});
like($err, qr/22023/, 'an unknown strategy is refused');

done_testing();
