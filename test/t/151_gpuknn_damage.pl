# gpuknn indexes whose pages changed on disk: XX001 or XX002 from whoever reads them, never a crash, a loop or a file
# that grows.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Utils;
use Test::More;

# From 18 on pages have checksums unless told otherwise, which would hide what the method checks itself.
my $node = new_node('damage', setup => 0, conf => "autovacuum = off\nignore_checksum_failure = on\nsearch_path = 'public, gpuagent'\n");

# 24 bytes a slot: 16 of the record, 4 of elements, 4 of padding. Slot 10 is of tids, the others are vectors; three are free.
$node->safe_psql('postgres', q{
	CREATE EXTENSION gpuagent;
	CREATE PROCEDURE make(name text) LANGUAGE plpgsql AS $$ BEGIN
		EXECUTE format('CREATE TABLE %I (id int, e embedding(2))', name);
		EXECUTE format('CREATE INDEX %I ON %I USING gpuknn (e embedding_l2_ops)', name || '_e', name);
		EXECUTE format('INSERT INTO %I SELECT i, CASE WHEN i <> 11 THEN ARRAY[i, 1]::real[]::embedding END FROM generate_series(1, 400) i', name);
		EXECUTE format('DELETE FROM %I WHERE id IN (3, 4, 5)', name);
	END $$;
});

my $header = 24;
my %meta = (storage => 8, metric => 9, dim => 12, record_bytes => 16, length => 24, vectors => 32, nulls => 40, free_head => 56, tids_head => 64);
my $page1 = 8192 + $header;
my %queries = (
	scan => q{SET enable_seqscan = off; SET enable_sort = off; SELECT count(*) FROM (SELECT id FROM item ORDER BY e <-> '[1,2]') s},
	null_scan => q{SET enable_seqscan = off; SET enable_sort = off; SET plan_cache_mode = force_generic_plan;
		PREPARE p(embedding) AS SELECT count(*) FROM (SELECT id FROM item ORDER BY e <-> $1) s; EXECUTE p(NULL)},
	insert => q{INSERT INTO item SELECT i, '[1,2]' FROM generate_series(1, 10) i},
	insert_null => q{INSERT INTO item VALUES (1000, NULL), (1000, NULL)},
	check => q{SELECT gpuagent_store.check_gpuknn('item_e')},
	vacuum => q{DELETE FROM item WHERE id = 7; VACUUM (INDEX_CLEANUP on) item});

# What changes at which offset, and what then fails.
my @damage = (
	[ 'no storage', $meta{storage}, "\x07", 'XX002', qw(scan insert vacuum check) ],
	[ 'no metric', $meta{metric}, "\x09", 'XX002', qw(scan insert vacuum check) ],
	[ 'no dimensions', $meta{dim}, pack('V', 0), 'XX002', qw(scan insert vacuum check) ],
	[ 'slots of no bytes', $meta{record_bytes}, pack('Q<', 0), 'XX002', qw(scan insert vacuum check) ],
	[ 'more slots than fit', $meta{length}, pack('Q<', 1 << 62), 'XX002', qw(scan insert vacuum check) ],
	[ 'more slots than the file has', $meta{length}, pack('Q<', 1_000_000), 'XX001', qw(scan insert vacuum) ],
	[ 'more slots than the file has', $meta{length}, pack('Q<', 1_000_000), 'XX002', qw(check) ],
	[ 'more rows than slots', $meta{vectors}, pack('Q<', 1 << 61), 'XX002', qw(scan check) ],
	[ 'more NULLs than there can be', $meta{nulls}, pack('Q<', 1 << 61), 'XX002', qw(scan check) ],
	[ 'a free list that leaves the index', $meta{free_head}, pack('Q<', 0xfffffffffff), 'XX002', qw(insert check) ],
	[ 'a free list to a slot in use', $meta{free_head}, pack('Q<', 20), 'XX002', qw(insert check) ],
	[ 'a list of tids that leaves the index', $meta{tids_head}, pack('Q<', 0xfffffffffff), 'XX002', qw(insert_null check) ],
	[ 'a list of tids to a vector', $meta{tids_head}, pack('Q<', 20), 'XX002', qw(insert_null check) ],
	[ 'a page of something else', 8192 + 8190 - $header, "\x00\x00", 'XX002', qw(scan null_scan vacuum check) ],
	[ 'a tid of no block', 8192, "\xff\xff\xff\xff\x01\x00", 'XX002', qw(scan null_scan) ],
	[ 'a tid of no row', 8192, "\x00\x00\x00\x00\x00\x00", 'XX002', qw(scan null_scan check) ]);

$node->safe_psql('postgres', "CALL make('item$_')") foreach 0 .. $#damage;
$node->safe_psql('postgres', "VACUUM (INDEX_CLEANUP on) item$_") foreach 0 .. $#damage;
my @paths = map { $node->safe_psql('postgres', qq{SELECT pg_relation_filepath('item${_}_e')}) } 0 .. $#damage;
$node->stop;
foreach my $i (0 .. $#damage)
{
	open(my $file, '+<:raw', $node->data_dir . "/$paths[$i]") or die $!;
	seek($file, $header + $damage[$i][1], 0);
	print $file $damage[$i][2];
	close($file);
}
$node->start;

foreach my $i (0 .. $#damage)
{
	my ($what, $offset, $bytes, $sqlstate, @fail) = @{ $damage[$i] };
	my $size = $node->safe_psql('postgres', "SELECT pg_relation_size('item$i') + pg_relation_size('item${i}_e')");

	fails_with($node, $queries{$_} =~ s/item/item$i/gr, $sqlstate, "$what: $_") foreach @fail;
	is_value($node, "SELECT pg_relation_size('item$i') + pg_relation_size('item${i}_e')", $size, 'and no file grew');
	$node->safe_psql('postgres', "REINDEX INDEX item${i}_e");
	is_value($node, "SELECT gpuagent_store.check_gpuknn('item${i}_e') >= 396", 't', 'REINDEX makes it whole');
}

$node->stop;
done_testing();
