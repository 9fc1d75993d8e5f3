# On a standby maintenance workers read only; they do not hold up the replay of DROP DATABASE, and after promotion they write.
use strict;
use warnings;

use GpuAgentTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', allows_streaming => 1, conf => "autovacuum = off\n");
is_served($primary, 'postgres', 'the primary has a worker');

# Tasks that show whether they ran: one only reads, the other, at the end of the worker, writes.
$primary->safe_psql('postgres', 'CREATE TABLE public.written (i int)');
set_task($primary, 'postgres', 'save_cache_keys', 'INSERT INTO public.written VALUES (1)');
set_task($primary, 'postgres', 'prewarm_cache', q{RAISE LOG 'pre-warming in database %, recovery %', current_database(), pg_is_in_recovery()});
$primary->safe_psql('postgres', 'CREATE DATABASE other TEMPLATE postgres');
set_task($primary, 'other', 'prewarm_cache', 'PERFORM pg_sleep(600)');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
is_served($standby, 'other postgres', 'the standby has workers');
ok($standby->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'other' AND query ~ 'prewarm_cache' AND state = 'active'}),
	'one of them in a task');
becomes_true(sub { slurp_file($standby->logfile) =~ /pre-warming in database postgres, recovery t/ }, 'which the other has done');

$primary->safe_psql('postgres', 'DROP DATABASE other');
$primary->wait_for_catchup($standby);
is_served($standby, 'postgres', 'DROP DATABASE is replayed in the middle of a task');

my $end_worker = q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'gpuagent maintenance'};
my $count = $primary->safe_psql('postgres', 'SELECT count(*) FROM public.written');
$standby->safe_psql('postgres', $end_worker);
is_served($standby, 'postgres', 'the worker comes back');
unlike(slurp_file($standby->logfile), qr/cannot execute/, 'none tried to write');

$standby->promote;
$standby->safe_psql('postgres', $end_worker);
ok($standby->poll_query_until('postgres', "SELECT count(*) > $count FROM public.written"), 'promoted, they write');
$standby->safe_psql('postgres', 'CREATE DATABASE new');
$standby->safe_psql('new', 'CREATE EXTENSION gpuagent');
is_served($standby, 'new postgres', 'and new databases are served');
$standby->stop;
$primary->stop;

done_testing();
