
-- Distances of an embedding and an array of numbers: a driver sends a list as an array. They are inlined into the
-- operator of two embeddings, so that indexes serve them.
CREATE FUNCTION gpuagent.l2_distance(gpuagent.embedding, anyarray) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1 OPERATOR(gpuagent.<->) $2::gpuagent.embedding';
COMMENT ON FUNCTION gpuagent.l2_distance(gpuagent.embedding, anyarray) IS 'Euclidean distance; the array must be one that casts to embedding';
CREATE FUNCTION gpuagent.l2_distance(anyarray, gpuagent.embedding) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1::gpuagent.embedding OPERATOR(gpuagent.<->) $2';
COMMENT ON FUNCTION gpuagent.l2_distance(anyarray, gpuagent.embedding) IS 'Euclidean distance; the array must be one that casts to embedding';
CREATE OPERATOR gpuagent.<-> (LEFTARG = gpuagent.embedding, RIGHTARG = anyarray, FUNCTION = gpuagent.l2_distance, COMMUTATOR = OPERATOR(gpuagent.<->));
COMMENT ON OPERATOR gpuagent.<-> (gpuagent.embedding, anyarray) IS 'Euclidean distance';
CREATE OPERATOR gpuagent.<-> (LEFTARG = anyarray, RIGHTARG = gpuagent.embedding, FUNCTION = gpuagent.l2_distance, COMMUTATOR = OPERATOR(gpuagent.<->));
COMMENT ON OPERATOR gpuagent.<-> (anyarray, gpuagent.embedding) IS 'Euclidean distance';
CREATE FUNCTION gpuagent.negative_inner_product(gpuagent.embedding, anyarray) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1 OPERATOR(gpuagent.<#>) $2::gpuagent.embedding';
COMMENT ON FUNCTION gpuagent.negative_inner_product(gpuagent.embedding, anyarray) IS 'negative inner product; the array must be one that casts to embedding';
CREATE FUNCTION gpuagent.negative_inner_product(anyarray, gpuagent.embedding) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1::gpuagent.embedding OPERATOR(gpuagent.<#>) $2';
COMMENT ON FUNCTION gpuagent.negative_inner_product(anyarray, gpuagent.embedding) IS 'negative inner product; the array must be one that casts to embedding';
CREATE OPERATOR gpuagent.<#> (LEFTARG = gpuagent.embedding, RIGHTARG = anyarray, FUNCTION = gpuagent.negative_inner_product, COMMUTATOR = OPERATOR(gpuagent.<#>));
COMMENT ON OPERATOR gpuagent.<#> (gpuagent.embedding, anyarray) IS 'negative inner product';
CREATE OPERATOR gpuagent.<#> (LEFTARG = anyarray, RIGHTARG = gpuagent.embedding, FUNCTION = gpuagent.negative_inner_product, COMMUTATOR = OPERATOR(gpuagent.<#>));
COMMENT ON OPERATOR gpuagent.<#> (anyarray, gpuagent.embedding) IS 'negative inner product';
CREATE FUNCTION gpuagent.cosine_distance(gpuagent.embedding, anyarray) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1 OPERATOR(gpuagent.<=>) $2::gpuagent.embedding';
COMMENT ON FUNCTION gpuagent.cosine_distance(gpuagent.embedding, anyarray) IS 'cosine distance; the array must be one that casts to embedding';
CREATE FUNCTION gpuagent.cosine_distance(anyarray, gpuagent.embedding) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1::gpuagent.embedding OPERATOR(gpuagent.<=>) $2';
COMMENT ON FUNCTION gpuagent.cosine_distance(anyarray, gpuagent.embedding) IS 'cosine distance; the array must be one that casts to embedding';
CREATE OPERATOR gpuagent.<=> (LEFTARG = gpuagent.embedding, RIGHTARG = anyarray, FUNCTION = gpuagent.cosine_distance, COMMUTATOR = OPERATOR(gpuagent.<=>));
COMMENT ON OPERATOR gpuagent.<=> (gpuagent.embedding, anyarray) IS 'cosine distance';
CREATE OPERATOR gpuagent.<=> (LEFTARG = anyarray, RIGHTARG = gpuagent.embedding, FUNCTION = gpuagent.cosine_distance, COMMUTATOR = OPERATOR(gpuagent.<=>));
COMMENT ON OPERATOR gpuagent.<=> (anyarray, gpuagent.embedding) IS 'cosine distance';
CREATE FUNCTION gpuagent.l1_distance(gpuagent.embedding, anyarray) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1 OPERATOR(gpuagent.<+>) $2::gpuagent.embedding';
COMMENT ON FUNCTION gpuagent.l1_distance(gpuagent.embedding, anyarray) IS 'L1 distance; the array must be one that casts to embedding';
CREATE FUNCTION gpuagent.l1_distance(anyarray, gpuagent.embedding) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT $1::gpuagent.embedding OPERATOR(gpuagent.<+>) $2';
COMMENT ON FUNCTION gpuagent.l1_distance(anyarray, gpuagent.embedding) IS 'L1 distance; the array must be one that casts to embedding';
CREATE OPERATOR gpuagent.<+> (LEFTARG = gpuagent.embedding, RIGHTARG = anyarray, FUNCTION = gpuagent.l1_distance, COMMUTATOR = OPERATOR(gpuagent.<+>));
COMMENT ON OPERATOR gpuagent.<+> (gpuagent.embedding, anyarray) IS 'L1 distance';
CREATE OPERATOR gpuagent.<+> (LEFTARG = anyarray, RIGHTARG = gpuagent.embedding, FUNCTION = gpuagent.l1_distance, COMMUTATOR = OPERATOR(gpuagent.<+>));
COMMENT ON OPERATOR gpuagent.<+> (anyarray, gpuagent.embedding) IS 'L1 distance';
