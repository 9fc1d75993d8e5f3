-- Defects of earlier systems of this kind that concern files, each with a test that would have caught it. More of them
-- are in t/115_faults.pl, t/116_journal.pl and t/117_discard.pl.
\set VERBOSITY terse
\pset format unaligned
SET client_min_messages = warning;
DROP DATABASE IF EXISTS ga_defects;
CREATE DATABASE ga_defects;
\c ga_defects
SET client_min_messages = warning;
CREATE EXTENSION gpuagent;
SELECT FROM gpuagent.setup();
SET search_path = public, gpuagent;
SELECT gpuagent_store.storage_path() AS base \gset
\set clean 'rm -rf ' :base '/defects ' :base '/agent/defects'
COPY (SELECT 1 WHERE false) TO PROGRAM :'clean';

-- "only the top folders are made, so writing agent/X fails": folders are made as they are needed
SELECT FROM store_weights('defects', 'w', '[[1,2],[3,4]]');
SELECT file, tensors FROM export_safetensors('defects', 'agent/defects/some/where/model');

-- "written in place without truncation: a shorter value leaves the old tail", "readers of the old file are corrupted":
-- the same name is a new file; whoever has the old one keeps it
SELECT FROM store_weights('defects', 'w', tensor('F32', '{64,64}', decode(repeat('00000040', 4096), 'hex')));
SELECT nbytes AS long FROM export_safetensors('defects', 'defects/model') \gset
\set link 'ln ' :base '/defects/model.safetensors ' :base '/defects/reader.safetensors'
COPY (SELECT 1 WHERE false) TO PROGRAM :'link';
SELECT gpuagent_store.file_sha256('defects/reader.safetensors') AS old \gset
SELECT FROM store_weights('defects', 'w', '[7]');
SELECT nbytes < :long AS shorter, gpuagent_store.file_size(file) = nbytes AS no_tail, gpuagent_store.file_sha256(file) = sha256 AS as_said
    FROM export_safetensors('defects', 'defects/model', overwrite => true);
SELECT gpuagent_store.file_size('defects/reader.safetensors') = :long AND gpuagent_store.file_sha256('defects/reader.safetensors') = :'old' AS reader_keeps_it;

-- "ids with a resolution of a second collide", "order by a random UUID": numbers, also within one transaction
BEGIN;
SELECT create_checkpoint('defects 1') AS a, create_checkpoint('defects 2') AS b, create_checkpoint('defects 3') AS c \gset
SELECT count(DISTINCT created_at) AS times, count(DISTINCT id) AS ids, count(DISTINCT uid) AS uids FROM gpuagent.checkpoint WHERE id IN (:a, :b, :c);
SELECT count(DISTINCT path) FROM (SELECT (export_checkpoint(k)).path FROM unnest(ARRAY[:b, :c, :a]) k) x;
COMMIT;
SELECT gpuagent_store.latest_name() = split_part(exported_path, '/', 2) AS latest_is_the_newest FROM gpuagent.checkpoint WHERE id = :c;

-- "the list of keys is not recursive, so what was stored does not exist": what is exported is found by every path to it
SELECT count(*) FROM gpuagent_store.list_exports() e JOIN gpuagent.checkpoint k ON k.exported_path = 'nvme_storage/' || e WHERE k.id IN (:a, :b, :c);
SELECT import_checkpoint(exported_path) = id AS by_path, import_checkpoint(split_part(exported_path, '/', 2)) = id AS by_name FROM gpuagent.checkpoint WHERE id = :b;

-- "validate returns one boolean", "verify says true": a changed byte and a missing file are told one by one
SELECT exported_path AS folder FROM gpuagent.checkpoint WHERE id = :a \gset
SELECT status, expected, found FROM verify_integrity('full', checkpoint => :a) WHERE object = 'total';
\set damage 'cd ' :base '/' :folder ' && printf X | dd of=items.jsonl bs=1 seek=3 conv=notrunc 2>/dev/null && rm -f metrics.jsonl'
COPY (SELECT 1 WHERE false) TO PROGRAM :'damage';
SELECT replace(object, :'folder', 'FOLDER') AS object, status FROM verify_integrity('full', checkpoint => :a) WHERE object ~ 'items.jsonl|metrics.jsonl|total' ORDER BY 1;

-- removal takes the files of these, not of others
SELECT exported_path AS kept FROM gpuagent.checkpoint WHERE id = :b \gset
SELECT delete_checkpoint(:a), delete_checkpoint(:c);
SELECT count(*) FROM gpuagent_store.discard WHERE path IN (:'folder');
UPDATE gpuagent_store.discard SET discarded_at = '-infinity';
SELECT gpuagent_store.maintain_exports() >= 0 AS ran;
SELECT gpuagent_store.path_exists(:'folder') AS removed_is_there, gpuagent_store.path_exists(:'kept') AS kept_is_there, 'nvme_storage/' || gpuagent_store.latest_name() = :'kept' AS latest_moved;
SELECT delete_checkpoint(:b), delete_expert('defects');
COPY (SELECT 1 WHERE false) TO PROGRAM :'clean';
\c postgres
DROP DATABASE ga_defects;
