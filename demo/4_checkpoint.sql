-- One consistent checkpoint of everything, a second one that finds nothing changed, and the files.
\set QUIET on
\pset footer off
SELECT gpuagent.create_checkpoint('demo', metadata => '{"by": "make demo"}') AS checkpoint;
SELECT gpuagent.create_checkpoint('nothing changed') AS checkpoint;
SELECT label, status, pg_size_pretty(raw_bytes) AS holds, pg_size_pretty(new_bytes) AS newly_stored
FROM gpuagent.checkpoint ORDER BY id;
SELECT kind, objects, versions, pg_size_pretty(raw_bytes) AS raw, pg_size_pretty(stored_bytes) AS stored, round(ratio::numeric, 2) AS ratio
FROM gpuagent.storage_stats();
SELECT state, path, files, pg_size_pretty(nbytes) AS size FROM gpuagent.export_checkpoint();
SELECT status, count(*) FROM gpuagent.verify_integrity('full') GROUP BY status;
