# Bytes of stored values that changed on disk: reading fails with XX001, the server and the other rows live on.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Utils;
use Test::More;

# From 18 on pages have checksums unless told otherwise, which would hide what the values' own checks find.
my $node = new_node('damage', setup => 0, conf => "ignore_checksum_failure = on\n");
$node->safe_psql('postgres', q{
	CREATE EXTENSION gpuagent;
	CREATE TABLE t (id int PRIMARY KEY, s gpuagent.swarm_tensor, a gpuagent.agent_state);
	ALTER TABLE t ALTER s SET STORAGE plain, ALTER a SET STORAGE plain;
	CREATE FUNCTION bytes(n bigint) RETURNS bytea LANGUAGE sql AS $$
		SELECT string_agg(sha256(int8send(i)), '')::bytea FROM generate_series(1, n / 32) i $$;
	-- The length of each value is its own, so that the test finds it in the file.
	INSERT INTO t SELECT i, gpuagent.tensor('U8', ARRAY[1024 + 32 * i], bytes(1024 + 32 * i)) FROM generate_series(1, 4) i;
	INSERT INTO t SELECT i, gpuagent.compress(gpuagent.tensor('U8', ARRAY[1024 + 32 * i], bytes(512 + 32 * i) || decode(repeat('00', 512), 'hex')))
		FROM generate_series(5, 7) i;
	INSERT INTO t (id, a) SELECT i, gpuagent.tensor('U8', ARRAY[1024 + 32 * i], bytes(1024 + 32 * i))::gpuagent.agent_state FROM generate_series(8, 10) i;
});
my $sum = 'SELECT count(*), sum(length(coalesce(s::bytea, a::bytea))) FROM t';
is_value($node, $sum, '10|12000', 'ten values');
my $file = $node->data_dir . '/' . $node->safe_psql('postgres', q{SELECT pg_relation_filepath('t')});

# What to change in which row: offset from the version byte, and the new byte's XOR.
my @damage = (
	# id, codec, offset, what
	[1, 1, 12 + 16 + 700, 'an element'],
	[2, 1, 12 + 8, 'the checksum'],
	[3, 1, 4, 'a dimension'],
	[5, 2, 12 + 16 + 100, 'the compressed frame'],
	[6, 2, 12, 'the raw size'],
	[8, 0, 1, 'the dtype'],
	[9, 0, 5, 'a dimension without a checksum'],);

$node->stop;
open(my $heap, '+<:raw', $file) or die $!;
my $content = do { local $/; <$heap> };
foreach my $damage (@damage)
{
	my ($id, $codec, $offset) = @$damage;
	my $at = index($content, pack('C4 Q<', 1, 6, 1, $codec, 1024 + 32 * $id));
	die "value $id is not in the file" if $at < 0;
	substr($content, $at + $offset, 1) ^= "\x40";
}
seek($heap, 0, 0);
print $heap $content;
close($heap);
$node->start;

foreach my $damage (@damage)
{
	my ($id, $codec, $offset, $what) = @$damage;
	fails_with($node, "SELECT length(coalesce(s::bytea, a::bytea)) FROM t WHERE id = $id", 'XX001', "changed on disk: $what");
	fails_with($node, "SELECT coalesce(s::text, a::text) FROM t WHERE id = $id", 'XX001', "and as text: $what");
}
is_value($node, "$sum WHERE id IN (4, 7, 10)", '3|3744', 'the other values are whole');
fails_with($node, q{SELECT gpuagent.dtype(a) FROM t WHERE id = 8}, 'XX001', 'functions of the header see its damage');
is_value($node, q{SELECT gpuagent.shape(s) FROM t WHERE id = 1}, '{1056}', 'and do not read what is behind it');

done_testing();
