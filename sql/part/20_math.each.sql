
-- @T@: shape and parts
CREATE FUNCTION gpuagent.shape(gpuagent.@T@) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'ga_shape' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.shape(gpuagent.@T@) IS 'dimensions, outermost first; {} for rank 0';
CREATE FUNCTION gpuagent.ndim(gpuagent.@T@) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_ndim' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.ndim(gpuagent.@T@) IS 'number of dimensions';
CREATE FUNCTION gpuagent.dtype(gpuagent.@T@) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_dtype' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.dtype(gpuagent.@T@) IS 'element type, by its safetensors name';
CREATE FUNCTION gpuagent.nbytes(gpuagent.@T@) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_nbytes' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.nbytes(gpuagent.@T@) IS 'bytes of the raw elements';
CREATE FUNCTION gpuagent.vector_dims(gpuagent.@T@) RETURNS bigint
    AS 'MODULE_PATHNAME', 'ga_vector_dims' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.vector_dims(gpuagent.@T@) IS 'number of elements';
CREATE FUNCTION gpuagent.has_nonfinite(gpuagent.@T@) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_has_nonfinite_sql' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.has_nonfinite(gpuagent.@T@) IS 'true when an element is NaN or infinite';
CREATE FUNCTION gpuagent.element(gpuagent.@T@, VARIADIC "position" bigint[]) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_element' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.element(gpuagent.@T@, bigint[]) IS 'one element by 1-based positions, one per dimension; NULL outside';
CREATE FUNCTION gpuagent.subvector(gpuagent.@T@, start bigint, count bigint) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_subvector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.subvector(gpuagent.@T@, bigint, bigint) IS 'count elements of a vector from 1-based start, clipped';
CREATE FUNCTION gpuagent.slice(gpuagent.@T@, start bigint, count bigint) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_slice' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.slice(gpuagent.@T@, bigint, bigint) IS 'count rows of dimension 0 from 1-based start, clipped';
CREATE FUNCTION gpuagent.astype(gpuagent.@T@, dtype text) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_astype' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.astype(gpuagent.@T@, text) IS 'the value with another dtype, rounded to nearest even; 22003 when an element does not fit';
CREATE FUNCTION gpuagent.reshape(gpuagent.@T@, shape bigint[]) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_reshape' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.reshape(gpuagent.@T@, bigint[]) IS 'the same elements in another shape; one -1 is inferred';

-- @T@: norms and distances. One canonical summation: the same bits on every machine.
CREATE FUNCTION gpuagent.l2_norm(gpuagent.@T@) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_l2_norm' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.l2_norm(gpuagent.@T@) IS 'Euclidean norm';
CREATE FUNCTION gpuagent.l2_normalize(gpuagent.@T@) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_l2_normalize' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.l2_normalize(gpuagent.@T@) IS 'the value divided by its Euclidean norm; a zero vector stays as it is';
CREATE FUNCTION gpuagent.l2_distance(gpuagent.@T@, gpuagent.@T@) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_l2_distance' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.l2_distance(gpuagent.@T@, gpuagent.@T@) IS 'Euclidean distance, the operator <->; 22000 for different lengths';
CREATE FUNCTION gpuagent.inner_product(gpuagent.@T@, gpuagent.@T@) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_inner_product' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.inner_product(gpuagent.@T@, gpuagent.@T@) IS 'inner product; the operator <#> is its negative';
CREATE FUNCTION gpuagent.negative_inner_product(gpuagent.@T@, gpuagent.@T@) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_negative_inner_product' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.negative_inner_product(gpuagent.@T@, gpuagent.@T@) IS 'inner product times -1, the operator <#>, so that nearer is smaller';
CREATE FUNCTION gpuagent.cosine_distance(gpuagent.@T@, gpuagent.@T@) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_cosine_distance' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.cosine_distance(gpuagent.@T@, gpuagent.@T@) IS '1 - cosine similarity, 0..2, the operator <=>; NaN when a vector is zero';
CREATE FUNCTION gpuagent.l1_distance(gpuagent.@T@, gpuagent.@T@) RETURNS double precision
    AS 'MODULE_PATHNAME', 'ga_l1_distance' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.l1_distance(gpuagent.@T@, gpuagent.@T@) IS 'sum of absolute differences, the operator <+>';

CREATE OPERATOR gpuagent.<-> (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.l2_distance, COMMUTATOR = OPERATOR(gpuagent.<->));
COMMENT ON OPERATOR gpuagent.<-> (gpuagent.@T@, gpuagent.@T@) IS 'Euclidean distance';
CREATE OPERATOR gpuagent.<#> (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.negative_inner_product, COMMUTATOR = OPERATOR(gpuagent.<#>));
COMMENT ON OPERATOR gpuagent.<#> (gpuagent.@T@, gpuagent.@T@) IS 'negative inner product';
CREATE OPERATOR gpuagent.<=> (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.cosine_distance, COMMUTATOR = OPERATOR(gpuagent.<=>));
COMMENT ON OPERATOR gpuagent.<=> (gpuagent.@T@, gpuagent.@T@) IS 'cosine distance';
CREATE OPERATOR gpuagent.<+> (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.l1_distance, COMMUTATOR = OPERATOR(gpuagent.<+>));
COMMENT ON OPERATOR gpuagent.<+> (gpuagent.@T@, gpuagent.@T@) IS 'L1 distance';

-- @T@: element-wise arithmetic
CREATE FUNCTION gpuagent.@T@_add(gpuagent.@T@, gpuagent.@T@) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_add(gpuagent.@T@, gpuagent.@T@) IS 'element-wise sum of equal shapes and dtypes, the operator +';
CREATE FUNCTION gpuagent.@T@_sub(gpuagent.@T@, gpuagent.@T@) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_sub(gpuagent.@T@, gpuagent.@T@) IS 'element-wise difference of equal shapes and dtypes, the operator -';
CREATE FUNCTION gpuagent.@T@_mul(gpuagent.@T@, gpuagent.@T@) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_mul(gpuagent.@T@, gpuagent.@T@) IS 'element-wise product of equal shapes and dtypes, the operator *';
CREATE OPERATOR gpuagent.+ (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_add, COMMUTATOR = OPERATOR(gpuagent.+));
COMMENT ON OPERATOR gpuagent.+ (gpuagent.@T@, gpuagent.@T@) IS 'element-wise sum';
CREATE OPERATOR gpuagent.- (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_sub);
COMMENT ON OPERATOR gpuagent.- (gpuagent.@T@, gpuagent.@T@) IS 'element-wise difference';
CREATE OPERATOR gpuagent.* (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_mul, COMMUTATOR = OPERATOR(gpuagent.*));
COMMENT ON OPERATOR gpuagent.* (gpuagent.@T@, gpuagent.@T@) IS 'element-wise product';

-- @T@: comparison
CREATE FUNCTION gpuagent.@T@_eq(gpuagent.@T@, gpuagent.@T@) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_eq(gpuagent.@T@, gpuagent.@T@) IS 'implementation of the operator =';
CREATE FUNCTION gpuagent.@T@_ne(gpuagent.@T@, gpuagent.@T@) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_ne(gpuagent.@T@, gpuagent.@T@) IS 'implementation of the operator <>';
CREATE FUNCTION gpuagent.@T@_lt(gpuagent.@T@, gpuagent.@T@) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_lt(gpuagent.@T@, gpuagent.@T@) IS 'implementation of the operator <';
CREATE FUNCTION gpuagent.@T@_le(gpuagent.@T@, gpuagent.@T@) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_le(gpuagent.@T@, gpuagent.@T@) IS 'implementation of the operator <=';
CREATE FUNCTION gpuagent.@T@_gt(gpuagent.@T@, gpuagent.@T@) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_gt(gpuagent.@T@, gpuagent.@T@) IS 'implementation of the operator >';
CREATE FUNCTION gpuagent.@T@_ge(gpuagent.@T@, gpuagent.@T@) RETURNS boolean
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_ge(gpuagent.@T@, gpuagent.@T@) IS 'implementation of the operator >=';
CREATE FUNCTION gpuagent.@T@_cmp(gpuagent.@T@, gpuagent.@T@) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_cmp(gpuagent.@T@, gpuagent.@T@) IS 'btree order: -1, 0 or 1';
CREATE FUNCTION gpuagent.@T@_hash(gpuagent.@T@) RETURNS integer
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_hash(gpuagent.@T@) IS 'hash of what = compares';
CREATE FUNCTION gpuagent.@T@_hash_extended(gpuagent.@T@, bigint) RETURNS bigint
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_hash_extended(gpuagent.@T@, bigint) IS 'seeded 64-bit hash of what = compares';

CREATE OPERATOR gpuagent.= (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_eq,
    COMMUTATOR = OPERATOR(gpuagent.=), NEGATOR = OPERATOR(gpuagent.<>), RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
COMMENT ON OPERATOR gpuagent.= (gpuagent.@T@, gpuagent.@T@) IS 'equal';
CREATE OPERATOR gpuagent.<> (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_ne,
    COMMUTATOR = OPERATOR(gpuagent.<>), NEGATOR = OPERATOR(gpuagent.=), RESTRICT = neqsel, JOIN = neqjoinsel);
COMMENT ON OPERATOR gpuagent.<> (gpuagent.@T@, gpuagent.@T@) IS 'not equal';
CREATE OPERATOR gpuagent.< (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_lt,
    COMMUTATOR = OPERATOR(gpuagent.>), NEGATOR = OPERATOR(gpuagent.>=), RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
COMMENT ON OPERATOR gpuagent.< (gpuagent.@T@, gpuagent.@T@) IS 'less than';
CREATE OPERATOR gpuagent.<= (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_le,
    COMMUTATOR = OPERATOR(gpuagent.>=), NEGATOR = OPERATOR(gpuagent.>), RESTRICT = scalarlesel, JOIN = scalarlejoinsel);
COMMENT ON OPERATOR gpuagent.<= (gpuagent.@T@, gpuagent.@T@) IS 'less than or equal';
CREATE OPERATOR gpuagent.>= (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_ge,
    COMMUTATOR = OPERATOR(gpuagent.<=), NEGATOR = OPERATOR(gpuagent.<), RESTRICT = scalargesel, JOIN = scalargejoinsel);
COMMENT ON OPERATOR gpuagent.>= (gpuagent.@T@, gpuagent.@T@) IS 'greater than or equal';
CREATE OPERATOR gpuagent.> (LEFTARG = gpuagent.@T@, RIGHTARG = gpuagent.@T@, FUNCTION = gpuagent.@T@_gt,
    COMMUTATOR = OPERATOR(gpuagent.<), NEGATOR = OPERATOR(gpuagent.<=), RESTRICT = scalargtsel, JOIN = scalargtjoinsel);
COMMENT ON OPERATOR gpuagent.> (gpuagent.@T@, gpuagent.@T@) IS 'greater than';

CREATE OPERATOR CLASS gpuagent.@T@_ops DEFAULT FOR TYPE gpuagent.@T@ USING btree AS
    OPERATOR 1 gpuagent.<, OPERATOR 2 gpuagent.<=, OPERATOR 3 gpuagent.=, OPERATOR 4 gpuagent.>=, OPERATOR 5 gpuagent.>,
    FUNCTION 1 gpuagent.@T@_cmp(gpuagent.@T@, gpuagent.@T@);
CREATE OPERATOR CLASS gpuagent.@T@_hash_ops DEFAULT FOR TYPE gpuagent.@T@ USING hash AS
    OPERATOR 1 gpuagent.=,
    FUNCTION 1 gpuagent.@T@_hash(gpuagent.@T@),
    FUNCTION 2 gpuagent.@T@_hash_extended(gpuagent.@T@, bigint);
COMMENT ON OPERATOR CLASS gpuagent.@T@_ops USING btree IS 'btree order of @T@';
COMMENT ON OPERATOR CLASS gpuagent.@T@_hash_ops USING hash IS 'hash of @T@';
COMMENT ON OPERATOR FAMILY gpuagent.@T@_ops USING btree IS 'btree order of @T@';
COMMENT ON OPERATOR FAMILY gpuagent.@T@_hash_ops USING hash IS 'hash of @T@';

-- @T@: aggregates
CREATE FUNCTION gpuagent.sum_step(internal, gpuagent.@T@) RETURNS internal
    AS 'MODULE_PATHNAME', 'ga_sum_step' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.sum_step(internal, gpuagent.@T@) IS 'transition function of sum and avg';
CREATE FUNCTION gpuagent.@T@_sum_final(internal) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_sum_final(internal) IS 'final function of sum';
CREATE FUNCTION gpuagent.@T@_avg_final(internal) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_avg_final(internal) IS 'final function of avg';
CREATE FUNCTION gpuagent.stack_step(internal, gpuagent.@T@) RETURNS internal
    AS 'MODULE_PATHNAME', 'ga_stack_step' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.stack_step(internal, gpuagent.@T@) IS 'transition function of stack';
