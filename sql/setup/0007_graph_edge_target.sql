-- Step 7: edges into a node are read from the index alone, in order of their sources, as those out of it from the primary key.
DROP INDEX IF EXISTS gpuagent.graph_edge_target;
CREATE INDEX graph_edge_target ON gpuagent.graph_edge (graph, target, source, edge_type);
