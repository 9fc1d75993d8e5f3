-- TAP of gpuagent_pgvector; run by pgvector.sh in an empty database.
\set QUIET on
SET client_min_messages = warning;
CREATE EXTENSION vector;
CREATE EXTENSION gpuagent;
CREATE EXTENSION gpuagent_pgvector;
SET search_path = public, gpuagent;
CREATE SEQUENCE tests;
CREATE FUNCTION is(got anyelement, wanted anyelement, name text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN got IS NOT DISTINCT FROM wanted THEN format('ok %s - %s', nextval('tests'), name)
		ELSE format(E'not ok %s - %s\n# got %s\n# wanted %s', nextval('tests'), name, left(got::text, 300), left(wanted::text, 300)) END
$$;
CREATE FUNCTION error_of(query text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE query;
	RETURN 'none';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END $$;

-- Casts.
SELECT is('[1,-0.5,3e-45]'::vector::embedding::text, '[1,-0.5,3e-45]', 'vector to embedding, F32');
SELECT is('[1,2]'::vector::embedding(2,F16)::text, 'F16:[1,2]', 'with a type modifier');
SELECT is('[1,2.5]'::halfvec::agent_state::text, 'F16:[1,2.5]', 'halfvec to agent_state, F16');
SELECT is('[1,2,3]'::vector::swarm_tensor::text, '[1,2,3]'::swarm_tensor::text, 'vector to swarm_tensor');
SELECT is('[1,2.5]'::embedding::vector::text, '[1,2.5]', 'embedding to vector');
SELECT is('[1.0001,2.5]'::embedding::halfvec(2)::text, '[1,2.5]', 'embedding to halfvec, rounded');
SELECT is('[[1,2],[3,4]]'::swarm_tensor::vector(4)::text, '[1,2,3,4]', 'row-major');
SELECT is(error_of($$SELECT '[1,2]'::embedding::vector(3)$$), '22000 expected 3 dimensions, not 2', 'the target''s type modifier holds');
SELECT is(left(error_of($$SELECT '[NaN]'::agent_state::vector$$), 5), '22003', 'NaN does not fit');
SELECT is(left(error_of($$SELECT '[70000]'::embedding::halfvec$$), 5), '22003', 'nor what F16 cannot hold');
SELECT is(left(error_of($$SELECT 'F32[0]:raw:'::agent_state::vector$$), 5), '54000', 'nor nothing at all');
SELECT is(left(error_of($$SELECT tensor('U8', '{16001}', decode(repeat('00', 16001), 'hex'))::vector$$), 5), '54000', 'nor too many');
CREATE TABLE assigned (e embedding(3));
INSERT INTO assigned VALUES ('[1,2,3]'::vector), ('[1,2,3]'::halfvec);
SELECT is(count(*), 2::bigint, 'columns take them') FROM assigned WHERE e = '[1,2,3]';
SELECT is(bool_and(amvalidate(oid)), true, 'operator classes are valid') FROM pg_opclass WHERE opcmethod = (SELECT oid FROM pg_am WHERE amname = 'gpuknn');

-- Answers. Distances of the k nearest equal those of the scan, in order; rows nearer than the last are the same.
CREATE FUNCTION nearest(source text, op text, query text, k int, filter text, OUT distances float8[], OUT ids int[]) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT array_agg(d ORDER BY n), array_agg(id ORDER BY id) FILTER (WHERE d < last OR last = ''NaN'' AND d <> ''NaN'' OR last IS NULL)
		FROM (SELECT id, d, row_number() OVER () AS n, max(d) OVER () AS last FROM (SELECT id, e %1$s %2$L AS d FROM %3$s WHERE %5$s ORDER BY e %1$s %2$L LIMIT %4$s) s) s',
		op, query, source, k, filter) INTO distances, ids;
END $$;
CREATE FUNCTION compare(source text, op text, queries text, k int, filter text DEFAULT 'true') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	query text;
	plan text := '';
	line text;
	ours record;
	scan record;
	n int := 0;
BEGIN
	FOR query IN EXECUTE format('SELECT e::text FROM (%s) q (e)', queries) LOOP
		PERFORM set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'on', true);
		plan := '';
		FOR line IN EXECUTE format('EXPLAIN SELECT id FROM %s WHERE %s ORDER BY e %s %L LIMIT %s', source, filter, op, query, k) LOOP
			plan := plan || line;
		END LOOP;
		IF plan NOT LIKE '%Index Scan using%' THEN
			RETURN 'not ok ' || nextval('tests') || ' - the index is used: ' || plan;
		END IF;
		SELECT * INTO ours FROM nearest(source, op, query, k, filter);
		PERFORM set_config('enable_seqscan', 'on', true), set_config('enable_indexscan', 'off', true);
		SELECT * INTO scan FROM nearest(source, op, query, k, filter);
		IF ours.distances IS DISTINCT FROM scan.distances OR ours.ids IS DISTINCT FROM scan.ids THEN
			RETURN format(E'not ok %s - %s %s k=%s %s\n# query %s\n# got    %s\n# wanted %s', nextval('tests'), source, op, k, filter, left(query, 200),
				left(ours.distances::text, 300), left(scan.distances::text, 300));
		END IF;
		n := n + 1;
	END LOOP;
	RETURN CASE WHEN n > 0 THEN 'ok ' ELSE 'not ok ' END || nextval('tests') || format(' - %s %s, k = %s, %s, %s queries', source, op, k, filter, n);
END $$;

SELECT setseed(0.25);
CREATE FUNCTION normals(n int, scale float8 DEFAULT 1) RETURNS real[] LANGUAGE sql VOLATILE AS $$
	SELECT array_agg((scale * sqrt(-2 * ln(1 - random())) * cos(6.283185307179586 * random()))::real) FROM generate_series(1, n)
$$;
CREATE TABLE raw (id int, kind text, e real[]);
INSERT INTO raw SELECT i, 'normal', normals(96) FROM generate_series(1, 3000) i;
INSERT INTO raw SELECT i, 'near tie', (SELECT array_agg(x + 1e-7 * i) FROM unnest(base) x) FROM generate_series(3001, 3500) i, (SELECT normals(96) AS base) b;
INSERT INTO raw SELECT i, 'same', base FROM generate_series(3501, 3700) i, (SELECT normals(96) AS base) b;
INSERT INTO raw SELECT i, 'tiny', normals(96, 1e-40) FROM generate_series(3701, 3800) i;
INSERT INTO raw SELECT i, 'huge', normals(96, 1e37) FROM generate_series(3801, 3900) i;
INSERT INTO raw SELECT i, 'zero', array_fill(0::real, ARRAY[96]) FROM generate_series(3901, 3910) i;
INSERT INTO raw SELECT i, 'null', NULL FROM generate_series(3911, 3930) i;
CREATE TABLE vectors AS SELECT id, kind, e::vector(96) AS e FROM raw;
CREATE TABLE halves AS SELECT id, kind, e::vector::halfvec(96) AS e FROM raw WHERE kind <> 'huge' ;
INSERT INTO halves SELECT id, kind, (SELECT array_agg(x / 1e33) FROM unnest(e) x)::vector::halfvec(96) FROM raw WHERE kind = 'huge';
ALTER TABLE vectors ALTER e TYPE vector(96);
ALTER TABLE halves ALTER e TYPE halfvec(96);

\set queries_v 'SELECT e FROM (SELECT DISTINCT ON (kind) e FROM vectors WHERE e IS NOT NULL ORDER BY kind, id) s UNION ALL SELECT normals(96)::vector'
\set queries_h 'SELECT e FROM (SELECT DISTINCT ON (kind) e FROM halves WHERE e IS NOT NULL ORDER BY kind, id) s UNION ALL SELECT normals(96)::vector::halfvec'
CREATE PROCEDURE reindex_as(source text, class text, storage text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('DROP INDEX IF EXISTS nearest_of_%s', source);
	EXECUTE format('CREATE INDEX nearest_of_%s ON %s USING gpuknn (e %s) WITH (storage = %s)', source, source, class, storage);
END $$;

SELECT format('CALL reindex_as(''vectors'', ''vector_%s_ops'', %L);', class, storage) ||
	string_agg(format('SELECT compare(''vectors'', %L, %L, %s, %L);', op, :'queries_v', k, filter), '')
FROM (VALUES ('l2', '<->'), ('ip', '<#>'), ('cosine', '<=>'), ('l1', '<+>')) m (class, op), (VALUES ('f16'), ('f32')) s (storage),
	(VALUES (1, 'true'), (10, 'true'), (10, 'id % 97 = 0'), (5000, 'true')) t (k, filter)
GROUP BY class, op, storage ORDER BY class, storage
\gexec
SELECT format('CALL reindex_as(''halves'', ''halfvec_%s_ops'', %L);', class, storage) ||
	string_agg(format('SELECT compare(''halves'', %L, %L, %s, %L);', op, :'queries_h', k, filter), '')
FROM (VALUES ('l2', '<->'), ('ip', '<#>'), ('cosine', '<=>'), ('l1', '<+>')) m (class, op), (VALUES ('f16'), ('f32')) s (storage),
	(VALUES (1, 'true'), (10, 'true'), (10, 'id % 97 = 0'), (5000, 'true')) t (k, filter)
GROUP BY class, op, storage ORDER BY class, storage
\gexec

-- An existing table keeps its column; changes after the build count.
DELETE FROM vectors WHERE id % 3 = 0;
VACUUM vectors;
INSERT INTO vectors SELECT 10000 + i, 'late', normals(96)::vector FROM generate_series(1, 1500) i;
UPDATE vectors SET e = l2_normalize(e) WHERE kind = 'normal' AND id % 5 = 0;
SELECT compare('vectors', '<->', :'queries_v', 50);
SELECT is(error_of($$SET LOCAL enable_seqscan = off; SELECT id FROM vectors ORDER BY e <-> '[1,2]' LIMIT 1$$), '22000 different vector dimensions 96 and 2', 'in pgvector''s words');
CREATE TABLE loose (e vector);
SELECT is(left(error_of('CREATE INDEX ON loose USING gpuknn (e vector_l2_ops)'), 5), '22023', 'a column without dimensions needs the option dim');
SELECT is(error_of('CREATE INDEX ON loose USING gpuknn (e vector_l2_ops) WITH (dim = 3)'), 'none', 'and takes it');
SELECT is(left(error_of($$INSERT INTO loose VALUES ('[1,2]')$$), 5), '22000', 'which holds');
SELECT is(error_of('DROP EXTENSION gpuagent_pgvector'), '2BP01 cannot drop extension gpuagent_pgvector because other objects depend on it', 'indexes keep the extension');
SELECT '1..84';
