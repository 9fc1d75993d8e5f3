-- Manifests that are whole by their own SHA-256 but say what no export writes: 'damaged' (XX001) or a refused path, never another error.
SET client_min_messages = warning;
BEGIN;
SELECT gpuagent.store_agents('{review/a}', '[[1,2]]') > 0, gpuagent.store_swarm('review', '[[1,2]]') > 0;
CREATE TEMP TABLE export AS
SELECT gpuagent_store.read_manifest(x.path) AS manifest, x.path
FROM gpuagent.create_checkpoint('review import', '{agents:review/,swarm:review}') c, gpuagent.export_checkpoint(c) x;
SELECT gpuagent.delete_checkpoint(gpuagent.resolve_checkpoint('review import'));
CREATE FUNCTION pg_temp.import_of(manifest jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    folder text := gpuagent_store.temp_create('nvme_storage');
BEGIN
    PERFORM gpuagent_store.write_text(folder || '/MANIFEST.json', concat('{"manifest":', E'\n', manifest, E'\n', ',"sha256":"',
        encode(sha256(convert_to(manifest::text, 'UTF8')), 'hex'), '"}', E'\n'));
    RETURN split_part(public.error_of(format('SELECT gpuagent.import_checkpoint(%L, verify => ''quick'')', folder)), ' | ', 1);
END
$$;
SELECT hostile AS at, value, pg_temp.import_of(jsonb_set(manifest, hostile, value)) AS sqlstate FROM export,
    unnest(ARRAY['{sections}', '{sections,0}', '{sections,0,object}', '{sections,0,files}', '{sections,0,files,0}', '{sections,0,files,0,name}', '{sections,0,files,0,nbytes}',
        '{sections,0,files,0,sha256}', '{sections,0,tensors}', '{checkpoint}', '{checkpoint,uid}', '{format}', '{format_version}']::text[]) WITH ORDINALITY p (path_text, n),
    LATERAL (SELECT path_text::text[]) h (hostile), unnest(ARRAY['null', '-1', '"../../../etc/passwd"', '{}', '[[1]]', '"agents"']::jsonb[]) WITH ORDINALITY v (value, m)
WHERE pg_temp.import_of(jsonb_set(manifest, hostile, value)) <> 'XX001';
SELECT pg_temp.import_of(manifest) AS without_its_files FROM export;
-- Digests of text are those of an encoding: JSON objects even order their keys by the bytes of it.
SELECT pg_temp.import_of(manifest || '{"encoding": "EUC_JP"}') AS of_another_encoding, manifest ->> 'encoding' = getdatabaseencoding() AS of_this FROM export;
-- Nothing of all that was imported; the true one still is.
SELECT count(*) FROM gpuagent.checkpoint WHERE label = 'review import';
SELECT gpuagent.import_checkpoint(path) > 0 AS imported FROM export;
SELECT k.label, k.status, p.ids, p.states::real[] FROM gpuagent.checkpoint k, gpuagent.retrieve_population(checkpoint => k.id) p WHERE k.label = 'review import';
ROLLBACK;
