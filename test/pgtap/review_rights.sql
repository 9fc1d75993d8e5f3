-- Rights that a hostile reader of the code tried: granting without owning, row security around checkpoints.
BEGIN;
SELECT plan(20);
SET LOCAL client_min_messages = error;
CREATE ROLE ga_review_owner;
CREATE ROLE ga_review_admin;
CREATE ROLE ga_review_read;
DELETE FROM gpuagent.agent;
SELECT gpuagent.store_agents('{review/a,review/b,hidden/c}', '[[1],[2],[3]]');
SELECT gpuagent.create_checkpoint('review rights', '{agents}');
SELECT gpuagent.grant_access('ga_review_admin', 'admin'), gpuagent.grant_access('ga_review_read');
SET LOCAL ROLE ga_review_admin;
SELECT throws_ok($$SELECT gpuagent.grant_access('ga_review_owner')$$, '42501', 'permission denied to grant access',
    'who does not own the functions cannot grant them, and is told so');
RESET ROLE;

-- A policy on agent: who is subject to it neither makes nor restores checkpoints of part of the agents by mistake.
ALTER TABLE gpuagent.agent ENABLE ROW LEVEL SECURITY;
CREATE POLICY review ON gpuagent.agent USING (starts_with(id, 'review/'));
SET LOCAL ROLE ga_review_admin;
SELECT is((SELECT ids FROM gpuagent.retrieve_population()), '{review/a,review/b}', 'a policy filters populations');
SELECT is((SELECT count(*) FROM gpuagent.retrieve_agents(ARRAY['hidden/c'])), 0::bigint, 'and agents');
SELECT is(gpuagent.agent_exists('hidden/c'), false, 'and whether one exists');
SELECT is(gpuagent.delete_agents('{hidden/c}'), 0::bigint, 'and what is deleted');
SELECT throws_ok($$SELECT gpuagent.store_agent('hidden/d', '[1]')$$, '42501', NULL, 'and what may be stored');
SELECT throws_ok($$SELECT gpuagent.create_checkpoint('part', '{agents}')$$, '42501', NULL, 'no checkpoint of what is visible only');
SELECT throws_ok($$SELECT gpuagent.restore_checkpoint(gpuagent.resolve_checkpoint('review rights'))$$, '42501', NULL, 'no restore over what is hidden');
SELECT throws_ok($$SELECT gpuagent.checkpoint_diff(gpuagent.resolve_checkpoint('review rights'))$$, '42501', NULL, 'no diff with what is hidden');

-- Contents of checkpoints are tables with policies of their own.
RESET ROLE;
ALTER TABLE gpuagent_store.checkpoint_agent ENABLE ROW LEVEL SECURITY;
CREATE POLICY review ON gpuagent_store.checkpoint_agent USING (starts_with(id, 'review/'));
SET LOCAL ROLE ga_review_read;
SELECT is((SELECT ids FROM gpuagent.retrieve_population(checkpoint => gpuagent.resolve_checkpoint('review rights'))), '{review/a,review/b}',
    'a policy on checkpoint_agent filters populations of checkpoints');
RESET ROLE;
SELECT is((SELECT ids FROM gpuagent.retrieve_population(checkpoint => gpuagent.resolve_checkpoint('review rights'))), '{hidden/c,review/a,review/b}',
    'not for its owner');

-- Column privileges: enough for what is asked, no more.
CREATE ROLE ga_review_column;
GRANT USAGE ON SCHEMA gpuagent TO ga_review_column;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA gpuagent TO ga_review_column;
GRANT SELECT (id) ON gpuagent.agent TO ga_review_column;
SET LOCAL ROLE ga_review_column;
SELECT throws_ok($$SELECT * FROM gpuagent.retrieve_agent('review/a')$$, '42501', NULL, 'a column that may not be read is not read');
SELECT throws_ok($$SELECT * FROM gpuagent.retrieve_population()$$, '42501', NULL, 'nor in a population');
RESET ROLE;

-- What functions keep for admin, tables do not give to write.
CREATE ROLE ga_review_write;
SELECT gpuagent.grant_access('ga_review_write', 'write');
ALTER TABLE gpuagent.agent DISABLE ROW LEVEL SECURITY;
ALTER TABLE gpuagent_store.checkpoint_agent DISABLE ROW LEVEL SECURITY;
SET LOCAL ROLE ga_review_write;
SELECT lives_ok($$SELECT gpuagent.store_agents('{review/a}', '[[9]]'), gpuagent.delete_agents('{review/b}'), gpuagent.store_metrics('review', '{"x": 1}'),
        gpuagent.store_weights('review', 'w', '[1]'), gpuagent.delete_weights('review'), gpuagent.store_expert_state('review', 1),
        gpuagent.store_knowledge_graph('review', '{"nodes": [{"id": "a"}, {"id": "b"}], "edges": [{"source": "a", "target": "b"}]}'),
        gpuagent.store_knowledge_graph('review', '{"nodes": [{"id": "a"}]}', 'replace'), gpuagent.delete_nodes('review', '{a}')$$, 'write stores');
SELECT lives_ok($$SELECT gpuagent.store_swarm('review', '[[1]]')$$, 'a version of a swarm');
SELECT is(gpuagent.create_checkpoint('by a writer') > gpuagent.resolve_checkpoint('review rights'), true, 'write makes checkpoints');
SELECT throws_ok('DELETE FROM gpuagent_store.checkpoint_agent', '42501', NULL, 'but removes no contents of them');
SELECT throws_ok($$UPDATE gpuagent_store.checkpoint_agent SET state = '[666]'$$, '42501', NULL, 'nor changes them');
SELECT throws_ok($$UPDATE gpuagent.checkpoint SET status = 'damaged'$$, '42501', NULL, 'nor what is known of them');
SELECT throws_ok('DELETE FROM gpuagent.swarm', '42501', NULL, 'and removes no whole object');
RESET ROLE;
SELECT * FROM finish();
ROLLBACK;
