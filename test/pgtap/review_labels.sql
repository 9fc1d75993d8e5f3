-- Labels that the planner believes: no function promises more than what it calls. What setup_steps() returns is text.
BEGIN;
SELECT plan(3);
CREATE TEMP VIEW f AS
SELECT p.oid, p.oid::regprocedure AS signature, p.proname, p.proparallel, p.provolatile, l.lanname,
    regexp_replace(regexp_replace(regexp_replace(p.prosrc, '\$ga\$.*?\$ga\$', '', 'g'), '--[^\n]*', '', 'g'), '''[^'']*''', '', 'g') AS code
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace IN ('gpuagent'::regnamespace, 'gpuagent_store'::regnamespace);
CREATE TEMP VIEW calls AS
SELECT a.signature AS caller, a.proparallel AS caller_parallel, a.provolatile AS caller_volatile, b.signature AS callee, b.proparallel, b.provolatile
FROM f a JOIN f b ON a.code ~ ('\mgpuagent(_store)?\.' || b.proname || '\(') WHERE a.lanname IN ('sql', 'plpgsql') AND a.proname <> 'setup_steps';
SELECT is_empty($$SELECT signature FROM f WHERE code ~ '\mEXCEPTION\s+WHEN' AND proparallel <> 'u'$$,
    'no subtransaction where there may be a parallel operation');
SELECT is_empty($$SELECT caller, callee FROM calls WHERE caller_parallel = 's' AND proparallel <> 's' OR caller_parallel = 'r' AND proparallel = 'u'$$,
    'parallel safety is that of what is called');
SELECT is_empty($$SELECT caller, callee FROM calls WHERE caller_volatile = 'i' AND provolatile <> 'i' OR caller_volatile = 's' AND provolatile = 'v'$$,
    'and so is volatility');
SELECT * FROM finish();
ROLLBACK;
