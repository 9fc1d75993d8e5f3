-- Step 6: exported folders whose checkpoint was deleted, until the maintenance worker has removed them.
CREATE TABLE gpuagent_store.discard (
    uid uuid PRIMARY KEY,
    path text NOT NULL,
    discarded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE gpuagent_store.discard IS
    'folders of exports whose checkpoint was deleted; the maintenance worker removes them after gpuagent.discard_grace';
COMMENT ON COLUMN gpuagent_store.discard.uid IS 'of the checkpoint';
COMMENT ON COLUMN gpuagent_store.discard.path IS 'of the folder, below gpuagent.storage_path';
COMMENT ON COLUMN gpuagent_store.discard.discarded_at IS 'when the checkpoint was deleted';
