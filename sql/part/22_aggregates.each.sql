
CREATE AGGREGATE gpuagent.sum(gpuagent.@T@) (
    SFUNC = gpuagent.sum_step, STYPE = internal, FINALFUNC = gpuagent.@T@_sum_final,
    COMBINEFUNC = gpuagent.sum_combine, SERIALFUNC = gpuagent.sum_serialize, DESERIALFUNC = gpuagent.sum_deserialize,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE gpuagent.sum(gpuagent.@T@) IS 'element-wise sum, accumulated in F64; one shape and dtype';
CREATE AGGREGATE gpuagent.avg(gpuagent.@T@) (
    SFUNC = gpuagent.sum_step, STYPE = internal, FINALFUNC = gpuagent.@T@_avg_final,
    COMBINEFUNC = gpuagent.sum_combine, SERIALFUNC = gpuagent.sum_serialize, DESERIALFUNC = gpuagent.sum_deserialize,
    PARALLEL = SAFE);
COMMENT ON AGGREGATE gpuagent.avg(gpuagent.@T@) IS 'element-wise mean, accumulated in F64; one shape and dtype';
CREATE AGGREGATE gpuagent.stack(gpuagent.@T@) (
    SFUNC = gpuagent.stack_step, STYPE = internal, FINALFUNC = gpuagent.stack_final, PARALLEL = SAFE);
COMMENT ON AGGREGATE gpuagent.stack(gpuagent.@T@) IS
    'values as rows of one tensor, in input order: write stack(x ORDER BY id); 22004 when some but not all are NULL';
