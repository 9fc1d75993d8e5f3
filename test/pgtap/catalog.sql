-- Rules that every object of the extension keeps: comments, labels, argument types, rights, fixed search_path.
-- Each test lists the offenders, so that a failure names them.
BEGIN;
SELECT plan(20);

-- What the extension owns, as (classid, objid), and its functions with what the rules need.
CREATE TEMP VIEW member AS
SELECT d.classid, d.objid
FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = 'gpuagent';

CREATE TEMP VIEW func AS
SELECT p.*, p.oid::regprocedure::text AS signature, l.lanname
FROM pg_proc p
JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
JOIN pg_language l ON l.oid = p.prolang;

-- Functions that nobody calls by name: behind types, casts, operators, aggregates, access methods.
CREATE TEMP VIEW support AS
SELECT unnest(ARRAY[typinput, typoutput, typreceive, typsend, typmodin, typmodout]::oid[]) AS oid FROM pg_type
UNION SELECT castfunc FROM pg_cast
UNION SELECT oprcode FROM pg_operator
UNION SELECT unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn]::oid[]) FROM pg_aggregate
UNION SELECT amproc FROM pg_amproc
UNION SELECT amhandler FROM pg_am;

CREATE TEMP VIEW ours AS
SELECT oid FROM pg_type WHERE oid IN ('gpuagent.embedding'::regtype, 'gpuagent.agent_state'::regtype, 'gpuagent.swarm_tensor'::regtype);

SELECT cmp_ok((SELECT count(*) FROM func), '>', 100::bigint, 'the extension has its functions');

SELECT is_empty($$SELECT signature FROM func WHERE obj_description(oid, 'pg_proc') IS NULL$$,
	'every function has a comment');
SELECT is_empty($$SELECT objid::regtype FROM member JOIN pg_type t ON t.oid = objid
	WHERE classid = 'pg_type'::regclass AND typtype <> 'p' AND typelem = 0 AND typrelid = 0 AND obj_description(objid, 'pg_type') IS NULL$$,
	'every type has a comment');
SELECT is_empty($$SELECT objid::regclass FROM member
	WHERE classid = 'pg_class'::regclass AND obj_description(objid, 'pg_class') IS NULL$$,
	'every view has a comment');
SELECT is_empty($$SELECT objid::regoperator FROM member
	WHERE classid = 'pg_operator'::regclass AND obj_description(objid, 'pg_operator') IS NULL$$,
	'every operator has a comment');
SELECT is_empty($$SELECT opcname FROM member JOIN pg_opclass o ON o.oid = objid
	WHERE classid = 'pg_opclass'::regclass AND obj_description(objid, 'pg_opclass') IS NULL$$,
	'every operator class has a comment');
SELECT is_empty($$SELECT amname FROM member JOIN pg_am a ON a.oid = objid
	WHERE classid = 'pg_am'::regclass AND obj_description(objid, 'pg_am') IS NULL$$,
	'every access method has a comment');
SELECT is_empty($$SELECT nspname FROM pg_namespace
	WHERE nspname IN ('gpuagent', 'gpuagent_store') AND obj_description(oid, 'pg_namespace') IS NULL$$,
	'both schemas have a comment');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c
	WHERE c.relkind IN ('r', 'p') AND relnamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace)
		AND obj_description(c.oid, 'pg_class') IS NULL$$,
	'every table of setup() has a comment');

SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
	WHERE c.relkind IN ('r', 'p', 'S')$$,
	'no table is a member of the extension');
SELECT is_empty($$SELECT signature FROM func WHERE prosecdef$$,
	'no function runs with its owner''s rights');
SELECT is_empty($$SELECT signature FROM func WHERE provolatile = 'i' AND proparallel <> 's' AND prosrc !~ '\mEXCEPTION\s+WHEN'$$,
	'immutable functions are parallel safe, but for those that open a subtransaction');
SELECT is_empty($$SELECT signature FROM func WHERE provolatile = 'v' AND proparallel = 's' AND oid NOT IN (SELECT oid FROM support)$$,
	'volatile functions are not parallel safe');
SELECT is_empty($$SELECT signature FROM func
	WHERE lanname = 'plpgsql' AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)$$,
	'every PL/pgSQL function has a fixed search_path');
SELECT is_empty($$SELECT signature FROM func
	WHERE EXISTS (SELECT FROM unnest(proconfig) setting WHERE setting LIKE 'search_path=%' AND setting <> 'search_path=pg_catalog, pg_temp')$$,
	'no function has another search_path');

SELECT is_empty($$SELECT signature FROM func
	WHERE pronamespace = 'gpuagent'::regnamespace AND oid NOT IN (SELECT oid FROM support)
		AND NOT proargtypes::oid[] <@ (SELECT array_agg(t) FROM (
			SELECT oid FROM ours
			UNION SELECT unnest('{text,int8,float8,bool,jsonb,bytea,interval,timestamptz,regclass,regrole,uuid,record}'::regtype[])::oid
			UNION SELECT unnest('{text[],int8[],float8[],bool[],bytea[],uuid[]}'::regtype[])::oid) allowed (t))$$,
	'functions take only types that drivers send as they are');

SELECT is_empty($$SELECT proname FROM func
	WHERE pronamespace = 'gpuagent'::regnamespace AND oid NOT IN (SELECT oid FROM support)
	GROUP BY proname
	HAVING count(DISTINCT array(SELECT CASE WHEN t IN (SELECT oid FROM ours) THEN 0 ELSE t END FROM unnest(proargtypes) WITH ORDINALITY u (t, i) ORDER BY i)) > 1$$,
	'no overloads but those of the math over the three types');

SELECT is_empty($$SELECT signature FROM func
	WHERE pronamespace = 'gpuagent'::regnamespace AND oid NOT IN (SELECT oid FROM support)
		AND pronargs > 1 AND proargnames IS NULL AND NOT EXISTS (SELECT FROM unnest(proargtypes) t WHERE t IN (SELECT oid FROM ours))$$,
	'functions name their arguments');

SELECT is_empty($$SELECT signature FROM func
	WHERE has_function_privilege('public', oid, 'EXECUTE') AND provolatile <> 'i'
		AND oid NOT IN (SELECT oid FROM support) AND proname <> 'version'$$,
	'PUBLIC may execute nothing but the math');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
	WHERE a.grantee = 0 AND c.relnamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace)$$,
	'PUBLIC may read no table and no view');

SELECT * FROM finish();
ROLLBACK;
