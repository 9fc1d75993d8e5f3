-- Schemas. gpuagent holds what people type and is created by the control file's schema setting;
-- gpuagent_store holds plumbing: tables of the store and internal functions.
CREATE SCHEMA gpuagent_store;
COMMENT ON SCHEMA gpuagent IS 'what users of gpuagent type: types, operators, functions, views, and the tables that setup() makes';
COMMENT ON SCHEMA gpuagent_store IS 'plumbing of gpuagent: the content-addressed store and internal functions';
