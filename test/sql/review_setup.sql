-- DROP EXTENSION, DROP TABLE and set-up again, all in one session that has plans for the old tables and types.
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.use_all() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM gpuagent.store_agent('setup/a', '[1,2]', fitness => 1), gpuagent.store_agents('{setup/b}', '[[3,4]]');
    PERFORM gpuagent.store_swarm('setup', '[[1,2],[3,4]]'), gpuagent.store_weights('setup', 'w', '[1]');
    PERFORM gpuagent.store_knowledge_graph('setup', '{"nodes": [{"id": "x", "embedding": [1,2]}]}');
    PERFORM gpuagent.create_checkpoint('setup', '{agents:setup/,swarm:setup,expert:setup,graph:setup}');
    PERFORM gpuagent.delete_agents(prefix => 'setup/');
    PERFORM FROM gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('setup'));
    RETURN (SELECT ids::text || states::text FROM gpuagent.retrieve_population(prefix => 'setup/')) || gpuagent.retrieve_swarm('setup')
        || (SELECT string_agg(node || distance, ',') FROM gpuagent.search_knowledge_graph('setup', '[1,2]'));
END
$$;
BEGIN;
SELECT pg_temp.use_all();
SAVEPOINT before_drop;
DROP EXTENSION gpuagent CASCADE;
CREATE EXTENSION gpuagent;
-- What is left of the tables has lost its columns of our types; setup() does not build on it.
SELECT public.error_of('SELECT gpuagent.setup()');
DROP SCHEMA gpuagent CASCADE;
CREATE EXTENSION gpuagent;
SELECT public.error_of('SELECT pg_temp.use_all()');
SELECT gpuagent.setup();
SELECT gpuagent.setup();
SELECT pg_temp.use_all();
-- Columns of users, before and behind ours.
ALTER TABLE gpuagent.agent ADD COLUMN tenant text NOT NULL DEFAULT 'me';
ALTER TABLE gpuagent.graph_node ADD COLUMN tenant text DEFAULT 'me';
SELECT pg_temp.use_all();
ALTER TABLE gpuagent.agent ALTER COLUMN metadata TYPE jsonb USING metadata || '{}';
ALTER TABLE gpuagent.agent ALTER COLUMN state TYPE gpuagent.agent_state('F64');
SELECT gpuagent.store_agent('setup/a', '[1,2]'), state FROM gpuagent.retrieve_agent('setup/a');
DROP TABLE gpuagent.checkpoint_item;
SELECT left(public.error_of('SELECT pg_temp.use_all()'), 60);
ROLLBACK TO before_drop;
SELECT pg_temp.use_all();
ROLLBACK;
