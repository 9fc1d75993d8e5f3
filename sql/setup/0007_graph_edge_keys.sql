-- Step 7: walks over a graph read its edges from the keys alone, those into a node in order of their sources.
ALTER TABLE gpuagent.graph_edge
    DROP CONSTRAINT graph_edge_pkey,
    ADD CONSTRAINT graph_edge_pkey PRIMARY KEY (graph, source, target, edge_type) INCLUDE (weight);
DROP INDEX IF EXISTS gpuagent.graph_edge_target;
CREATE INDEX graph_edge_target ON gpuagent.graph_edge (graph, target, source, edge_type) INCLUDE (weight);
