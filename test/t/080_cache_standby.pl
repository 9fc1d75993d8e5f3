# The agent cache where only real servers show it: a hot standby, before and after promotion; a server that did not
# preload the library; a database whose OID and files come again; transaction ids that come round.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $count = q{SELECT hits, misses FROM gpuagent.cache_stats() WHERE tier = 'host'};

# ---- a standby ----

my $primary = new_node('primary', allows_streaming => 1, conf => "autovacuum = off\n");
$primary->safe_psql('postgres', q{SELECT gpuagent.store_agents('{a,b,c}', '[[1],[2],[3]]')});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

is($standby->safe_psql('postgres', q{SELECT gpuagent.cache_agents(), gpuagent.cached_state('a'), gpuagent.cached_state('b')}),
	'3|[1]|[2]', 'a standby caches');
is($standby->safe_psql('postgres', $count), '2|0', 'and serves from its cache');

# What replay does to rows that are cached: a new version, the same tid again and frozen, pages cut off, a rewrite.
$primary->safe_psql('postgres', q{SELECT gpuagent.store_agent('a', '[11]')});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT gpuagent.cached_state('a'), gpuagent.cached_state('a')}), '[11]|[11]', 'an update is seen');
my $tid = $primary->safe_psql('postgres', q{SELECT ctid FROM gpuagent.agent WHERE id = 'c'});
$primary->safe_psql('postgres', $_) foreach (
	q{DELETE FROM gpuagent.agent WHERE id <> 'b'},
	q{VACUUM (INDEX_CLEANUP on, TRUNCATE off) gpuagent.agent},
	q{INSERT INTO gpuagent.agent (id, state) SELECT id, '[9]' FROM unnest('{x1,x2,c,x4}'::text[]) id},
	q{DELETE FROM gpuagent.agent WHERE id LIKE 'x%'},
	q{VACUUM (FREEZE) gpuagent.agent});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT gpuagent.cached_state('a') IS NULL, gpuagent.cached_state('b'), gpuagent.cached_state('c')}),
	't|[2]|[9]', 'a tid that is used again is another row');
$primary->safe_psql('postgres', q{INSERT INTO gpuagent.agent (id, state) SELECT 'w' || i, '[7]' FROM generate_series(1, 2000) i});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT gpuagent.cache_agents(prefix => 'w')}), '2000', 'many are cached');
$primary->safe_psql('postgres', $_) foreach (q{DELETE FROM gpuagent.agent WHERE id LIKE 'w%' AND id <> 'w1'}, q{VACUUM gpuagent.agent});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT gpuagent.cached_state('w2000') IS NULL, gpuagent.cached_state('w1')}), 't|[7]', 'pages are cut off');
$primary->safe_psql('postgres', q{
	BEGIN;
	TRUNCATE gpuagent.agent;
	INSERT INTO gpuagent.agent (id, state) VALUES ('a', '[21]');
	TRUNCATE gpuagent.agent;
	INSERT INTO gpuagent.agent (id, state) VALUES ('a', '[22]');
	COMMIT;});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT gpuagent.cached_state('a'), gpuagent.cached_state('a'), gpuagent.cached_state('b') IS NULL}),
	'[22]|[22]|t', 'and emptied in place');

# A query of the standby that holds its snapshot while the primary goes on.
my $old = $standby->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($old->query_safe(q{SELECT gpuagent.cached_state('a')}), '[22]', 'an old snapshot');
$primary->safe_psql('postgres', q{SELECT gpuagent.store_agent('a', '[23]')});
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT gpuagent.cached_state('a')}), '[23]', 'a new one sees the update');
is($old->query_safe(q{SELECT gpuagent.cached_state('a')}), '[22]', 'the old one does not');
$old->quit;

# ---- a database of the same OID with files of the same names: replay calls no hook ----

$primary->safe_psql('postgres', q{CREATE DATABASE one});
$primary->safe_psql('one', q{CREATE EXTENSION gpuagent});
$primary->safe_psql('one', q{SELECT gpuagent.setup()});
$primary->safe_psql('postgres', q{CREATE DATABASE two TEMPLATE one});
my $oid = $primary->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'one'});
my $insert = q{INSERT INTO gpuagent.agent (id, state) VALUES ('db', '[%d]')};
$primary->safe_psql('one', sprintf($insert, 1));
$primary->safe_psql('two', sprintf($insert, 2));
$primary->wait_for_catchup($standby);
foreach my $node ($primary, $standby)
{
	is($node->safe_psql('one', q{SELECT gpuagent.cached_state('db'), gpuagent.cached_state('db')}), '[1]|[1]', 'cached in ' . $node->name);
}
my $agents = $primary->safe_psql('postgres', q{SELECT agents FROM gpuagent.cache_stats() WHERE tier = 'host'});
# "two" was made from "one", so their tables are files of one name, and so are those of the next "one".
$primary->safe_psql('postgres', q{DROP DATABASE one});
is($primary->safe_psql('postgres', q{SELECT agents FROM gpuagent.cache_stats() WHERE tier = 'host'}), $agents - 1, 'DROP DATABASE frees what was cached of it');
$primary->safe_psql('postgres', "CREATE DATABASE one OID $oid TEMPLATE two");
$primary->wait_for_catchup($standby);
foreach my $node ($primary, $standby)
{
	is($node->safe_psql('one', q{SELECT gpuagent.cached_state('db'), gpuagent.cached_state('db')}), '[2]|[2]', 'the new database in ' . $node->name);
}

# ---- promotion ----

$standby->promote;
is($standby->safe_psql('postgres', q{SELECT gpuagent.cached_state('a')}), '[23]', 'promoted, it still serves');
$standby->safe_psql('postgres', q{SELECT gpuagent.store_agent('a', '[30]')});
is($standby->safe_psql('postgres', q{SELECT gpuagent.cached_state('a'), gpuagent.cached_state('a')}), '[30]|[30]', 'and sees what is written now');

# ---- transaction ids ----

$standby->safe_psql('postgres', q{SELECT gpuagent.cache_agent('a')});
$standby->safe_psql('postgres', q{ALTER SYSTEM SET gpuagent.cache_max_age = 5});
$standby->reload;
$standby->poll_query_until('postgres', q{SELECT current_setting('gpuagent.cache_max_age') = '5'});
my $session = q{SELECT gpuagent_store.reset_cache_stats(); SELECT gpuagent.cached_state('a'); } . $count;
is($standby->safe_psql('postgres', q{SELECT gpuagent.evict_agents() > 0; SELECT gpuagent.cache_agent('a'); } . $session), "t\nt\n\n[30]\n1|0", 'young');
$standby->safe_psql('postgres', q{SELECT pg_current_xact_id()}) for 1 .. 6;
is($standby->safe_psql('postgres', $session), "\n[30]\n0|1", 'six transactions later it is read again');
is($standby->safe_psql('postgres', $session), "\n[30]\n1|0", 'and young again');

# ---- without preloading ----

my $plain = new_node('plain', preload => 0);
$plain->safe_psql('postgres', q{SELECT gpuagent.store_agents('{a,b}', '[[1],[2]]')});
is($plain->safe_psql('postgres', q{SELECT gpuagent.cached_state('a'), gpuagent.cached_state('x') IS NULL}), '[1]|t', 'not preloaded, SQL answers');
is($plain->safe_psql('postgres', q{SELECT id, state FROM gpuagent.retrieve_agent_cached('b')}), 'b|[2]', 'with rows too');
fails_with($plain, q{SELECT gpuagent.cache_agent('a')}, '55000', 'nothing can be cached');
fails_with($plain, q{SELECT gpuagent.cache_agents()}, '55000', 'nor several');
fails_with($plain, q{SELECT gpuagent.evict_agents()}, '55000', 'nor evicted');
is($plain->safe_psql('postgres', q{SELECT agents, hits, misses, used_bytes, budget_bytes, stats_reset IS NULL, hit_ratio IS NULL FROM gpuagent.stat_cache WHERE tier = 'host'}),
	'0|0|0|0|0|t|t', 'statistics say that there is no cache');
is($plain->safe_psql('postgres', q{SELECT gpuagent_store.save_cache_keys(), gpuagent_store.prewarm_cache()}), '0|0', 'there is nothing to save or to warm');

done_testing();
