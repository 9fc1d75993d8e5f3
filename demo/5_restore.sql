-- In an empty database: the files come back and everything is restored from them.
\set QUIET on
\pset footer off
SELECT gpuagent.import_checkpoint('latest') AS checkpoint;
SELECT object, action, rows, pg_size_pretty(nbytes) AS size
FROM gpuagent.restore_checkpoint(safety => false) WHERE rows > 0 ORDER BY object, action;
