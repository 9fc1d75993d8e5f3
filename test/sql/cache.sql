-- The agent cache answers as the table does, whatever happened in between. Every trap first makes sure that the old row
-- is cached; agree() compares with plain SQL.
SET client_min_messages = warning;
SET search_path = public, gpuagent;
SELECT gpuagent.setup();

CREATE FUNCTION agree(ids text[]) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	this text;
	bad text[] := '{}';
BEGIN
	FOREACH this IN ARRAY ids LOOP
		IF cached_state(this) IS DISTINCT FROM (SELECT a.state FROM gpuagent.agent a WHERE a.id = this)
			OR EXISTS (SELECT * FROM retrieve_agent_cached(this) EXCEPT ALL SELECT * FROM retrieve_agent(this))
			OR EXISTS (SELECT * FROM retrieve_agent(this) EXCEPT ALL SELECT * FROM retrieve_agent_cached(this)) THEN
			bad := bad || this;
		END IF;
	END LOOP;
	RETURN CASE bad WHEN '{}' THEN 'agree' ELSE 'different: ' || bad::text END;
END
$$;

-- What f gave since the last call: hits and misses.
CREATE TEMP TABLE seen AS SELECT hits, misses, evictions FROM cache_stats() WHERE tier = 'host';
CREATE FUNCTION since() RETURNS text LANGUAGE sql VOLATILE AS $$
	WITH now AS (SELECT * FROM cache_stats() WHERE tier = 'host'), old AS (SELECT * FROM seen),
	set_ AS (UPDATE seen SET hits = now.hits, misses = now.misses, evictions = now.evictions FROM now)
	SELECT format('hits %s, misses %s, evictions %s', now.hits - old.hits, now.misses - old.misses, now.evictions - old.evictions) FROM now, old
$$;

-- 1. What it gives, and what it counts
SELECT evict_agents() >= 0 AS emptied;
SELECT store_agents('{c/1,c/2,c/3}', '[[1,2],[3,4],[5,6]]', '[[1],[2],[3]]', 1, '{1,NULL,3}', '[{"a":1},null,{}]');
SELECT store_agent('c/null', metadata => '{"state": null}');
SELECT since();
SELECT cached_state('c/1'), cached_state('c/none'), cached_state(NULL), cached_state('c/null');
SELECT since();
SELECT cached_state('c/1'), cached_state('c/none'), cached_state('c/null');
SELECT since();
SELECT id, state, memory, generation, fitness, metadata, version FROM retrieve_agent_cached('c/2');
SELECT id, state, memory, generation, fitness, metadata, version FROM retrieve_agent_cached('c/2');
SELECT count(*) FROM retrieve_agent_cached('c/none');
SELECT count(*) FROM retrieve_agent_cached(NULL);
SELECT since();
SELECT cache_agent('c/1'), cache_agent('c/3'), cache_agent('c/none');
SELECT cache_agents(ids => '{c/3,c/none,c/2}'), cache_agents(prefix => 'c/'), cache_agents(generation => 1), cache_agents(best => 1),
	cache_agents('{}');
SELECT since();
SELECT agents, used_bytes = (SELECT sum((64 + pg_column_size(a) + 63) / 64 * 64) FROM gpuagent.agent a WHERE id LIKE 'c/%') AS exact,
	used_bytes < budget_bytes AS below FROM cache_stats() WHERE tier = 'host';
SELECT agree('{c/1,c/2,c/3,c/null,c/none}');
-- a commit that has not reached the disk leaves no hint in the row
SET synchronous_commit = off;
SELECT store_agent('c/async', '[1]');
SELECT since() IS NOT NULL AS ok;
SELECT cached_state('c/async'), cached_state('c/async');
SELECT cached_state('c/async');
RESET synchronous_commit;
SELECT since();
SELECT delete_agent('c/async'), evict_agents('{c/async}');
SELECT evict_agents('{c/1,c/none,c/1}'), evict_agents('{}');
SELECT agents FROM stat_cache WHERE tier = 'host';
SELECT since();
SELECT evict_agents(), evict_agents();
SELECT agents, used_bytes FROM cache_stats() WHERE tier = 'host';
SELECT gpuagent_store.reset_cache_stats();
SELECT hits, misses, evictions, hit_ratio FROM stat_cache WHERE tier = 'host';
SELECT cached_state('c/1') = cached_state('c/1') AS equal, stats_reset > now() - interval '1 hour' AS reset, hit_ratio
	FROM stat_cache WHERE tier = 'host';
SELECT hits, misses, hit_ratio FROM stat_cache WHERE tier = 'host';
\set VERBOSITY sqlstate
SELECT cache_agents('{{c/1},{c/2}}');
SELECT cache_agents(best => -1);
SELECT evict_agents('{NULL}');
\set VERBOSITY default

-- 2. Own changes, rollback, savepoints, exceptions
SELECT cache_agents(prefix => 'c/');
BEGIN;
SELECT store_agent('c/1', '[10]');
SELECT cached_state('c/1'), agree('{c/1,c/2}');
SAVEPOINT a;
SELECT store_agent('c/1', '[11]'), delete_agent('c/2');
SELECT cached_state('c/1'), cached_state('c/2'), cache_agent('c/1'), agree('{c/1,c/2}');
ROLLBACK TO a;
SELECT cached_state('c/1'), cached_state('c/2'), agree('{c/1,c/2}');
RELEASE a;
ROLLBACK;
SELECT cached_state('c/1'), cached_state('c/2'), agree('{c/1,c/2}');
DO $$
BEGIN
	BEGIN
		PERFORM store_agent('c/1', '[12]');
		IF cached_state('c/1') <> '[12]' THEN RAISE WARNING 'own change not seen'; END IF;
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		IF cached_state('c/1') <> '[1,2]' THEN RAISE WARNING 'an aborted change is seen'; END IF;
	END;
END
$$;
-- a lock of an aborted subtransaction is taken again
BEGIN;
SAVEPOINT a;
SELECT cached_state('c/1');
ROLLBACK TO a;
SELECT count(*) FROM pg_locks WHERE relation = 'gpuagent.agent'::regclass AND pid = pg_backend_pid();
SELECT cached_state('c/1');
SELECT count(*) > 0 AS locked FROM pg_locks WHERE relation = 'gpuagent.agent'::regclass AND pid = pg_backend_pid();
COMMIT;

-- 3. Prepared transactions
BEGIN;
SELECT store_agent('c/1', '[13]');
PREPARE TRANSACTION 'cache';
SELECT cached_state('c/1'), agree('{c/1}');
COMMIT PREPARED 'cache';
SELECT cached_state('c/1'), agree('{c/1}');
BEGIN;
SELECT store_agent('c/1', '[14]');
PREPARE TRANSACTION 'cache';
SELECT cached_state('c/1'), agree('{c/1}');
ROLLBACK PREPARED 'cache';
SELECT cached_state('c/1'), agree('{c/1}');

-- 4. The same tid again, both rows frozen: the plain accessor gives xmin 2 for both
DELETE FROM gpuagent.agent;
VACUUM (FREEZE) gpuagent.agent;
SELECT store_agent('c/f', '[1]');
VACUUM (FREEZE) gpuagent.agent;
SELECT cached_state('c/f'), cached_state('c/f');
SELECT ctid AS first FROM gpuagent.agent WHERE id = 'c/f' \gset
DELETE FROM gpuagent.agent WHERE id = 'c/f';
INSERT INTO gpuagent.agent (id, state) SELECT 'c/fill' || i, '[0]' FROM generate_series(1, 3) i;
VACUUM (INDEX_CLEANUP on, TRUNCATE off) gpuagent.agent;
SELECT store_agent('c/f', '[2]');
VACUUM (FREEZE) gpuagent.agent;
SELECT ctid = :'first' AS same_tid, cached_state('c/f'), agree('{c/f}') FROM gpuagent.agent WHERE id = 'c/f';

-- 5. Pages that VACUUM cut off
INSERT INTO gpuagent.agent (id, state) SELECT 'c/w' || i, '[7]' FROM generate_series(1, 1000) i;
SELECT cache_agents(prefix => 'c/w');
DELETE FROM gpuagent.agent WHERE id LIKE 'c/w%' AND id <> 'c/w1';
VACUUM (TRUNCATE on, INDEX_CLEANUP on) gpuagent.agent;
SELECT pg_relation_size('gpuagent.agent') <= 16384 AS cut;
SELECT cached_state('c/w1000'), cached_state('c/w1'), agree('{c/w1,c/w500,c/w1000}');

-- 6. Files emptied in place: tid and xmin come again
BEGIN;
TRUNCATE gpuagent.agent;
INSERT INTO gpuagent.agent (id, state) VALUES ('c/t', '[1]');
SELECT cached_state('c/t'), ctid, cache_agent('c/t') FROM gpuagent.agent;
TRUNCATE gpuagent.agent;
INSERT INTO gpuagent.agent (id, state) VALUES ('c/t', '[2]');
SELECT cached_state('c/t'), ctid, agree('{c/t}') FROM gpuagent.agent;
SAVEPOINT a;
TRUNCATE gpuagent.agent;
INSERT INTO gpuagent.agent (id, state) VALUES ('c/t', '[3]');
SELECT cached_state('c/t'), ctid, agree('{c/t}') FROM gpuagent.agent;
ROLLBACK TO a;
SELECT cached_state('c/t'), ctid, agree('{c/t}') FROM gpuagent.agent;
COMMIT;
SELECT cached_state('c/t'), agree('{c/t}');
BEGIN;
ALTER TABLE gpuagent.agent RENAME TO agent_old;
CREATE TABLE gpuagent.agent (LIKE gpuagent.agent_old INCLUDING ALL);
INSERT INTO gpuagent.agent (id, state) VALUES ('c/t', '[4]');
SELECT cached_state('c/t'), agree('{c/t}');
TRUNCATE gpuagent.agent;
INSERT INTO gpuagent.agent (id, state) VALUES ('c/t', '[5]');
SELECT cached_state('c/t'), agree('{c/t}');
ROLLBACK;
SELECT cached_state('c/t'), agree('{c/t}');

-- 7. Rewrites
SELECT store_agents('{c/1,c/2,c/3}', '[[1],[2],[3]]');
DELETE FROM gpuagent.agent WHERE id = 'c/t';
SELECT cache_agents(prefix => 'c/');
-- in the new file c/3, of the same xmin, has the tid that c/1 had
SELECT ctid AS first FROM gpuagent.agent WHERE id = 'c/1' \gset
DELETE FROM gpuagent.agent WHERE id = 'c/1';
VACUUM FULL gpuagent.agent;
SELECT ctid = :'first' AS same_tid, cached_state('c/1'), agree('{c/1,c/2,c/3,c/t}') FROM gpuagent.agent WHERE id = 'c/3';
SELECT store_agent('c/1', '[1]');
SELECT cache_agents(prefix => 'c/'), agree('{c/1,c/2,c/3,c/t}');
BEGIN;
CLUSTER gpuagent.agent USING agent_pkey;
SELECT agree('{c/1,c/2,c/3,c/t}'), store_agent('c/2', '[22]');
SELECT cached_state('c/2'), agree('{c/1,c/2,c/3,c/t}');
ROLLBACK;
SELECT cached_state('c/2'), agree('{c/1,c/2,c/3,c/t}');
ALTER TABLE gpuagent.agent ADD COLUMN extra uuid DEFAULT gen_random_uuid();
SELECT agree('{c/1,c/2,c/3,c/t}');
SELECT cache_agents(prefix => 'c/'), agree('{c/1,c/2,c/3,c/t}');
ALTER TABLE gpuagent.agent DROP COLUMN extra;
SELECT since() IS NOT NULL AS ok, cached_state('c/1');
SELECT since();

-- 8. Columns that mean something else
BEGIN;
SELECT store_agent('c/2', memory => '[222]');
COMMIT;
SELECT cached_state('c/2'), cached_state('c/2');
ALTER TABLE gpuagent.agent RENAME state TO x;
ALTER TABLE gpuagent.agent RENAME memory TO state;
ALTER TABLE gpuagent.agent RENAME x TO memory;
SELECT cached_state('c/2'), state FROM retrieve_agent_cached('c/2');
ALTER TABLE gpuagent.agent RENAME state TO x;
ALTER TABLE gpuagent.agent RENAME memory TO state;
ALTER TABLE gpuagent.agent RENAME x TO memory;
SELECT cached_state('c/2'), agree('{c/2}');
BEGIN;
ALTER TABLE gpuagent.agent DROP COLUMN state;
\set VERBOSITY sqlstate
SELECT cached_state('c/2');
ROLLBACK;
BEGIN;
ALTER TABLE gpuagent.agent DROP COLUMN state, ADD COLUMN state gpuagent.agent_state DEFAULT '[8]';
SELECT cached_state('c/2');
ROLLBACK;
\set VERBOSITY default
SELECT cached_state('c/2'), agree('{c/2}');

-- 9. Children
CREATE TABLE gpuagent.agent_child () INHERITS (gpuagent.agent);
INSERT INTO gpuagent.agent_child (id, state) VALUES ('c/child', '[9]');
SELECT cached_state('c/child'), agree('{c/1,c/child}'), cache_agent('c/child');
DROP TABLE gpuagent.agent_child;
SELECT cached_state('c/child'), agree('{c/1,c/child}');
BEGIN;
ALTER TABLE gpuagent.agent RENAME TO agent_old;
CREATE TABLE gpuagent.agent (LIKE gpuagent.agent_old INCLUDING DEFAULTS) PARTITION BY LIST (id);
CREATE TABLE gpuagent.agent_all PARTITION OF gpuagent.agent DEFAULT;
INSERT INTO gpuagent.agent (id, state) VALUES ('c/1', '[11]');
SELECT cached_state('c/1'), cached_state('c/1'), agree('{c/1,c/2}');
ROLLBACK;

-- 10. Rights
CREATE ROLE regress_cache_reader;
GRANT USAGE ON SCHEMA gpuagent, gpuagent_store TO regress_cache_reader;
GRANT EXECUTE ON FUNCTION cached_state(text), retrieve_agent_cached(text), cache_agent(text) TO regress_cache_reader;
SELECT cache_agents(prefix => 'c/');
SET ROLE regress_cache_reader;
\set VERBOSITY sqlstate
SELECT cached_state('c/1');
SELECT * FROM retrieve_agent_cached('c/1');
RESET ROLE;
GRANT SELECT ON gpuagent.agent TO regress_cache_reader;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1');
RESET ROLE;
REVOKE SELECT ON gpuagent.agent FROM regress_cache_reader;
GRANT SELECT (id, state) ON gpuagent.agent TO regress_cache_reader;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1');
SELECT state FROM retrieve_agent_cached('c/1');
RESET ROLE;
REVOKE SELECT (id, state) ON gpuagent.agent FROM regress_cache_reader;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1');
RESET ROLE;
-- through membership, and out of it again
CREATE ROLE regress_cache_group;
GRANT SELECT ON gpuagent.agent TO regress_cache_group;
GRANT regress_cache_group TO regress_cache_reader;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1');
RESET ROLE;
REVOKE regress_cache_group FROM regress_cache_reader;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1');
RESET ROLE;
-- a function that runs as another user, in the middle of a query
GRANT SELECT ON gpuagent.agent TO regress_cache_reader;
CREATE FUNCTION as_owner(id text) RETURNS gpuagent.agent_state LANGUAGE plpgsql STABLE SECURITY DEFINER AS 'BEGIN RETURN gpuagent.cached_state(id); END';
REVOKE SELECT ON gpuagent.agent FROM regress_cache_reader;
SET ROLE regress_cache_reader;
SELECT as_owner('c/1');
SELECT as_owner('c/1'), cached_state('c/1');
RESET ROLE;
DROP FUNCTION as_owner(text);
-- row security
GRANT SELECT ON gpuagent.agent TO regress_cache_reader;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1'), cached_state('c/2');
RESET ROLE;
CREATE POLICY one ON gpuagent.agent USING (id = 'c/2');
ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1'), cached_state('c/2'), cache_agent('c/2');
SELECT count(*) FROM retrieve_agent_cached('c/1');
RESET ROLE;
SELECT cached_state('c/1'), agree('{c/1,c/2}');
ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY;
DROP POLICY one ON gpuagent.agent;
SET ROLE regress_cache_reader;
SELECT cached_state('c/1'), cached_state('c/2');
RESET ROLE;
-- the schema
REVOKE USAGE ON SCHEMA gpuagent FROM regress_cache_reader, PUBLIC;
CREATE FUNCTION public.reach(id text) RETURNS gpuagent.agent_state AS '$libdir/gpuagent', 'ga_cached_state' LANGUAGE C STABLE STRICT;
SET ROLE regress_cache_reader;
SELECT public.reach('c/1');
RESET ROLE;
\set VERBOSITY default
GRANT USAGE ON SCHEMA gpuagent TO PUBLIC;
DROP FUNCTION public.reach(text);
DROP OWNED BY regress_cache_reader, regress_cache_group;
DROP ROLE regress_cache_reader, regress_cache_group;

-- 11. search_path
CREATE SCHEMA hostile;
CREATE TABLE hostile.agent (id text, state gpuagent.agent_state);
INSERT INTO hostile.agent VALUES ('c/1', '[666]');
CREATE FUNCTION hostile.eq(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.eq);
SET search_path = hostile, pg_catalog, public;
SELECT gpuagent.evict_agents() > 0 AS evicted, gpuagent.cached_state('c/1'), gpuagent.cached_state('c/1'), gpuagent.cached_state('c/none');
SET search_path = public, gpuagent;
DROP SCHEMA hostile CASCADE;

-- 12. Without the key it is as right
BEGIN;
ALTER TABLE gpuagent.agent DROP CONSTRAINT agent_pkey;
SELECT agree('{c/1,c/2,c/none}'), evict_agents() > 0 AS evicted;
SELECT agree('{c/1,c/2,c/none}');
ROLLBACK;

-- 13. Values out of line, compressed, and larger than the cache takes
SELECT store_agent('c/long', gpuagent.tensor('U8', '{1000000}', convert_to(repeat('0123456789', 100000), 'UTF8'))::gpuagent.agent_state,
	metadata => jsonb_build_object('text', repeat('x', 5000)));
SELECT since() IS NOT NULL AS ok, gpuagent.nbytes(cached_state('c/long')), gpuagent.nbytes(cached_state('c/long'));
SELECT since();
SELECT agree('{c/long}');
-- decoded: not a pointer to values that VACUUM removes
SELECT cache_agent('c/long'), used_bytes > 1000000 AS decoded FROM cache_stats() WHERE tier = 'host';
SELECT store_agent('c/longest', gpuagent.tensor('U8', '{16777216}', convert_to(repeat('0123456789abcdef', 1048576), 'UTF8'))::gpuagent.agent_state);
SELECT cache_agents(prefix => 'c/') > 1 AS cached, agents AS before FROM cache_stats() WHERE tier = 'host' \gset
SELECT cache_agent('c/longest'), gpuagent.nbytes(cached_state('c/longest')), agree('{c/longest}');
SELECT agents >= :before AS still_there FROM cache_stats() WHERE tier = 'host';
SELECT delete_agent('c/longest'), agree('{c/longest,c/long}');

-- 14. More than fits: everything is counted, the rest is right
SELECT evict_agents() >= 0 AS emptied;
INSERT INTO gpuagent.agent (id, state)
	SELECT 'big/' || i, gpuagent.tensor('U8', '{100000}', convert_to(repeat(lpad(i::text, 10), 10000), 'UTF8'))::gpuagent.agent_state
	FROM generate_series(1, 1000) i;
SELECT since() IS NOT NULL AS ok;
SELECT count(*), count(DISTINCT s) FROM (SELECT cached_state('big/' || i) AS s FROM generate_series(1, 1000) i) x;
SELECT s.misses - o.misses AS misses, s.hits - o.hits AS hits, s.evictions - o.evictions + s.agents AS filled, s.used_bytes <= s.budget_bytes AS within,
	s.used_bytes > s.budget_bytes / 2 AS used, s.used_bytes = s.agents * 100160 AS exact FROM cache_stats() s, seen o WHERE tier = 'host';
SELECT agree(array_agg('big/' || i)) FROM generate_series(1, 1000, 37) i;
-- what is used stays
SELECT evict_agents() > 0 AS emptied;
SELECT count(cached_state('big/1')) FROM generate_series(1, 4);
SELECT bool_and(cached_state('big/' || i) IS NOT NULL AND cached_state('big/1') IS NOT NULL) FROM generate_series(2, 1000) i;
SELECT since() IS NOT NULL AS ok, gpuagent.nbytes(cached_state('big/1'));
SELECT since();
SELECT cache_agents(prefix => 'big/') < 1000 AS as_many_as_fit;
DELETE FROM gpuagent.agent WHERE id LIKE 'big/%';
SELECT agree(array_agg('big/' || i)) FROM generate_series(1, 1000, 37) i;
VACUUM gpuagent.agent;

-- 15. Many versions of one agent
DO $$
BEGIN
	FOR i IN 1..20 LOOP
		PERFORM store_agent('c/many', ('[' || i || ']')::gpuagent.agent_state);
		COMMIT;
		IF cached_state('c/many') <> ('[' || i || ']')::gpuagent.agent_state THEN
			RAISE WARNING 'stale at %', i;
		END IF;
	END LOOP;
END
$$;
SELECT agree('{c/many}');

-- 16. Parallel workers
SELECT evict_agents() >= 0 AS emptied;
INSERT INTO gpuagent.agent (id, state) SELECT 'p/' || i, ('[' || i || ']')::gpuagent.agent_state FROM generate_series(1, 2000) i;
ANALYZE gpuagent.agent;
CREATE TABLE p AS SELECT 'p/' || i AS id FROM generate_series(1, 2000) i;
ANALYZE p;
BEGIN;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL min_parallel_table_scan_size = 0;
SET LOCAL parallel_leader_participation = off;
SET LOCAL max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT count(cached_state(id)), sum(l2_norm(cached_state(id))) FROM p;
SELECT since() IS NOT NULL AS ok;
SELECT count(cached_state(id)), sum(l2_norm(cached_state(id))) = 2000 * 2001 / 2 AS right_ FROM p;
-- every read of a worker is counted, and workers do not fill
SELECT since();
SELECT cache_agents(prefix => 'p/');
SELECT count(cached_state(id)), sum(l2_norm(cached_state(id))) = 2000 * 2001 / 2 AS right_ FROM p;
SELECT since();
UPDATE gpuagent.agent SET state = '[0]' WHERE id = 'p/7';
SELECT count(cached_state(id)), sum(l2_norm(cached_state(id))) = 2000 * 2001 / 2 - 7 AS right_ FROM p;
ROLLBACK;
DROP TABLE p;

DELETE FROM gpuagent.agent WHERE id LIKE 'c/%' OR id LIKE 'p/%';
SELECT evict_agents() > 0 AS evicted;
DROP FUNCTION agree(text[]), since();
