-- Step 8: who may make checkpoints does not write rows of others' numbers and kinds.
CREATE TRIGGER check_new_checkpoint BEFORE INSERT ON gpuagent.checkpoint
    FOR EACH ROW EXECUTE FUNCTION gpuagent_store.check_new_checkpoint();
