-- The index access method gpuknn: options, errors, plans, what comes last, vacuum and reuse.
SET client_min_messages = warning;
SET search_path = public, gpuagent;
CREATE SCHEMA gpuknn_test;
SET search_path = gpuknn_test, public, gpuagent;

-- What the method says about itself
SELECT opcname, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod WHERE amname = 'gpuknn' ORDER BY 1;
SELECT p, pg_indexam_has_property(a.oid, p)
FROM pg_am a, unnest('{can_order,can_unique,can_multi_col,can_exclude,can_include}'::text[]) p WHERE amname = 'gpuknn';

-- Options and their errors
CREATE TABLE item (id int, e embedding(3), free embedding, state agent_state, note text);
CREATE INDEX ON item USING gpuknn (e);
CREATE INDEX ON item USING gpuknn (note);
CREATE INDEX ON item USING gpuknn (e embedding_l2_ops, free embedding_l2_ops);
CREATE UNIQUE INDEX ON item USING gpuknn (e embedding_l2_ops);
CREATE INDEX ON item USING gpuknn (e embedding_l2_ops) WITH (storage = 'f8');
CREATE INDEX ON item USING gpuknn (e embedding_l2_ops) WITH (dim = 4);
CREATE INDEX ON item USING gpuknn (e embedding_l2_ops) WITH (dim = 0);
CREATE INDEX ON item USING gpuknn (e embedding_l2_ops) WITH (dim = 65536);
CREATE INDEX ON item USING gpuknn (e embedding_l2_ops) WITH (lists = 4);
CREATE INDEX ON item USING gpuknn (free embedding_l2_ops);
CREATE INDEX ON item USING gpuknn (state agent_state_l2_ops);
CREATE INDEX item_e ON item USING gpuknn (e embedding_l2_ops) WITH (dim = 3, storage = f32);
CREATE INDEX item_free ON item USING gpuknn (free embedding_cosine_ops) WITH (dim = 2);
CREATE INDEX item_state ON item USING gpuknn (state agent_state_l1_ops) WITH (dim = 2);
SELECT pg_get_indexdef('item_e'::regclass);
SELECT pg_index_column_has_property('item_e'::regclass, 1, 'distance_orderable') AS distance_orderable,
	pg_index_column_has_property('item_e'::regclass, 1, 'orderable') AS orderable;

-- Vectors of other dimensions, values that have no distance
INSERT INTO item (free) VALUES ('[1,2,3]');
INSERT INTO item (state) VALUES ('[1,2,3]');
INSERT INTO item (state) VALUES ('I32:[1,2]');
INSERT INTO item (id, state) VALUES (0, '[[1,2]]'), (0, 'F64:[1e300,2]'), (0, '[NaN,1]');
SELECT state FROM item ORDER BY state <+> '[1,2]'::agent_state;
DELETE FROM item;
DROP INDEX item_free, item_state;
INSERT INTO item (free, state) VALUES ('[1,2,3]', '[1]'), ('[1,2]', '[1]');
CREATE INDEX ON item USING gpuknn (free embedding_l2_ops) WITH (dim = 2);
CREATE INDEX ON item USING gpuknn (state agent_state_l2_ops) WITH (dim = 2);
DELETE FROM item;
DROP INDEX item_e;

-- Plans: with the order, not without; WHERE is a filter
INSERT INTO item (id, e) SELECT i, ARRAY[i, i % 7, i % 11]::real[] FROM generate_series(1, 1000) i;
INSERT INTO item (id, e) SELECT i, NULL FROM generate_series(1001, 1010) i;
CREATE INDEX item_e ON item USING gpuknn (e embedding_l2_ops);
ANALYZE item;
-- From 18 on EXPLAIN says which nodes a setting disables.
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		IF line !~ '^ *Disabled: ' THEN
			RETURN NEXT line;
		END IF;
	END LOOP;
END $$;
EXPLAIN (COSTS OFF) SELECT id FROM item ORDER BY e <-> '[1,2,3]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM item WHERE id > 500 ORDER BY '[1,2,3]' <-> e LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM item ORDER BY e <=> '[1,2,3]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM item ORDER BY e <-> '[1,2,3]' DESC LIMIT 5;
-- Two distances, either of which it knows, but not both at once
SET enable_seqscan = off;
SELECT plan($$SELECT id FROM item ORDER BY e <-> '[1,2,3]', e <-> '[0,0,0]' LIMIT 5$$);
SELECT plan($$SELECT a.id FROM item a JOIN item b USING (id) ORDER BY a.e <-> '[1,2,3]', a.e <-> '[0,0,0]' LIMIT 5$$);
SELECT a.id FROM item a JOIN item b USING (id) ORDER BY a.e <-> '[1,2,3]', a.e <-> '[0,0,0]' LIMIT 2;
RESET enable_seqscan;
SET enable_seqscan = off;
SELECT plan($$SELECT count(*) FROM item$$);
SELECT plan($$SELECT id FROM item WHERE e = '[1,1,1]'$$);
RESET enable_seqscan;
SELECT id, e <-> '[1,2,3]' AS d FROM item ORDER BY e <-> '[1,2,3]' LIMIT 5;
SELECT id FROM item WHERE id > 500 ORDER BY '[1,2,3]' <-> e LIMIT 5;

-- Short names of this page: the same rows in the same order, by the index and without
CREATE FUNCTION by_index(query text) RETURNS SETOF text LANGUAGE plpgsql SET enable_seqscan = off SET enable_sort = off AS $$
BEGIN RETURN QUERY EXECUTE query; END $$;
CREATE FUNCTION by_sort(query text) RETURNS SETOF text LANGUAGE plpgsql SET enable_indexscan = off AS $$
BEGIN RETURN QUERY EXECUTE query; END $$;
CREATE FUNCTION same(query text) RETURNS boolean LANGUAGE sql AS $$
	SELECT array(SELECT by_index(query)) = array(SELECT by_sort(query))
$$;

-- All rows, NULLs last
SELECT count(*), count(d), bool_and(i > 1000 OR d IS NOT NULL)
FROM (SELECT row_number() OVER () AS i, e <-> '[5,5,5]' AS d FROM item ORDER BY e <-> '[5,5,5]') s;
SELECT same($$SELECT (e <-> '[5,5,5]')::text FROM item ORDER BY e <-> '[5,5,5]'$$);

-- A query that is NULL: all rows
PREPARE nearest(embedding) AS SELECT count(*) FROM (SELECT id FROM item ORDER BY e <-> $1 LIMIT 2000) s;
SET plan_cache_mode = force_generic_plan;
EXECUTE nearest(NULL);
EXECUTE nearest('[1,2,3]');
RESET plan_cache_mode;

-- A query of other dimensions: the operator's error; none for a table without rows
SELECT id FROM item ORDER BY e <-> '[1,2]' LIMIT 1;
CREATE TABLE bare (e embedding(3));
CREATE INDEX ON bare USING gpuknn (e embedding_l2_ops);
SET enable_seqscan = off;
SELECT e FROM bare ORDER BY e <-> '[1,2]' LIMIT 1;
SELECT e FROM bare ORDER BY e <-> '[1,2,3]' LIMIT 1;
INSERT INTO bare VALUES (NULL), (NULL);
SELECT e FROM bare ORDER BY e <-> '[1,2]';
RESET enable_seqscan;

-- Zero vectors under cosine: NaN, after all numbers and before NULL
CREATE TABLE zero (id int, e embedding(2));
INSERT INTO zero VALUES (1, NULL), (2, '[0,0]'), (3, '[-1,0]'), (4, '[1,0]'), (5, '[0,0]'), (6, '[0,1]');
CREATE INDEX zero_e ON zero USING gpuknn (e embedding_cosine_ops);
SET enable_seqscan = off;
SELECT e, e <=> '[1,0]' AS d FROM zero ORDER BY e <=> '[1,0]';
SELECT count(*), count(d), min(d) FROM (SELECT e <=> '[0,0]' AS d FROM zero ORDER BY e <=> '[0,0]') s;
RESET enable_seqscan;

-- storage = 'f32' has no ties that are open: (distance, tid)
CREATE TABLE tie (id int, e embedding(2));
INSERT INTO tie SELECT i, ARRAY[i % 3, 0]::real[] FROM generate_series(1, 12) i;
CREATE INDEX ON tie USING gpuknn (e embedding_ip_ops) WITH (storage = 'f32');
SET enable_seqscan = off;
SELECT array_agg(id) FROM (SELECT id FROM tie ORDER BY e <#> '[1,1]' LIMIT 7) s;
DELETE FROM tie WHERE id IN (1, 2, 4);
VACUUM tie;
INSERT INTO tie VALUES (13, '[2,0]'), (14, '[0,0]'), (15, '[2,0]');
SELECT array_agg((id, ctid)::text) FROM (SELECT id, ctid FROM tie ORDER BY e <#> '[1,1]' LIMIT 7) s;
RESET enable_seqscan;

-- With little memory all rows by the index take many passes, and a sort is cheaper; the first rows are not
CREATE TABLE many (id int, e embedding(64));
INSERT INTO many SELECT i, array_fill((i % 173)::real, ARRAY[64]) FROM generate_series(1, 20000) i;
CREATE INDEX ON many USING gpuknn (e embedding_l2_ops);
ANALYZE many;
SET max_parallel_workers_per_gather = 0;
SET work_mem = '64kB';
PREPARE all_rows(embedding) AS SELECT id FROM many ORDER BY e <-> $1;
PREPARE first_rows(embedding) AS SELECT id FROM many ORDER BY e <-> $1 LIMIT 10;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE all_rows(NULL);
EXPLAIN (COSTS OFF) EXECUTE first_rows(NULL);
RESET plan_cache_mode;
RESET work_mem;
RESET max_parallel_workers_per_gather;

-- Partial and expression indexes
CREATE INDEX item_late ON item USING gpuknn (e embedding_l1_ops) WHERE id > 500;
CREATE INDEX item_note ON item USING gpuknn ((note::embedding(2)) embedding_l2_ops);
EXPLAIN (COSTS OFF) SELECT id FROM item WHERE id > 500 ORDER BY e <+> '[1,2,3]' LIMIT 3;
SELECT same($$SELECT (e <+> '[1,2,3]')::text FROM item WHERE id > 500 ORDER BY e <+> '[1,2,3]'$$);
SET enable_seqscan = off;
SELECT plan($$SELECT id FROM item WHERE id > 500$$);
RESET enable_seqscan;
INSERT INTO item (id, note) VALUES (2000, '[3,4]'), (2001, '[30,40]');
EXPLAIN (COSTS OFF) SELECT id FROM item ORDER BY note::embedding(2) <-> '[0,0]' LIMIT 2;
SELECT id, note::embedding(2) <-> '[0,0]' AS d FROM item ORDER BY note::embedding(2) <-> '[0,0]' LIMIT 3;
INSERT INTO item (id, note) VALUES (2002, '[1,2,3]');
DROP INDEX item_note;

-- Updates, deletes, vacuum and reuse of slots; little memory, so that several passes are needed
SET work_mem = '64kB';
SELECT same($$SELECT (e <-> '[500,5,5]')::text FROM item ORDER BY e <-> '[500,5,5]'$$);
DELETE FROM item WHERE id % 3 = 0;
UPDATE item SET e = '[1,2,3]' WHERE id % 10 = 1;
SELECT same($$SELECT (e <-> '[500,5,5]')::text FROM item ORDER BY e <-> '[500,5,5]'$$);
SELECT pg_relation_size('item_e') AS size \gset
VACUUM item;
INSERT INTO item (id, e) SELECT i, ARRAY[i % 900, i % 7, i % 11]::real[] FROM generate_series(3001, 3300) i;
INSERT INTO item (id, e) SELECT i, NULL FROM generate_series(4001, 4020) i;
SELECT pg_relation_size('item_e') = :size AS reused;
SELECT same($$SELECT (e <-> '[500,5,5]')::text FROM item ORDER BY e <-> '[500,5,5]'$$);
SELECT same($$SELECT (e <+> '[500,5,5]')::text FROM item WHERE id > 500 ORDER BY e <+> '[500,5,5]'$$);
REINDEX INDEX item_e;
SELECT same($$SELECT (e <-> '[500,5,5]')::text FROM item ORDER BY e <-> '[500,5,5]'$$);
TRUNCATE item;
INSERT INTO item (id, e) VALUES (1, '[1,2,3]');
SELECT by_index($$SELECT id::text FROM item ORDER BY e <-> '[500,5,5]'$$);

-- Other storage by REINDEX
ALTER INDEX item_e SET (storage = 'f32');
REINDEX INDEX item_e;
SELECT by_index($$SELECT id::text FROM item ORDER BY e <-> '[500,5,5]'$$);

-- Operator classes that are wrong
CREATE OPERATOR CLASS wrong_ops FOR TYPE embedding USING gpuknn AS OPERATOR 2 <-> (embedding, embedding) FOR ORDER BY float_ops;
CREATE OPERATOR CLASS wrong_ops FOR TYPE embedding USING gpuknn AS
	OPERATOR 1 = (embedding, embedding), FUNCTION 1 (embedding) gpuagent_store.gpuknn_metric_l2(internal);
SELECT amvalidate(oid) FROM pg_opclass WHERE opcname = 'wrong_ops';

DROP SCHEMA gpuknn_test CASCADE;
