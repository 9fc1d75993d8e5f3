
-- THE STORE: content-addressed tensors, and the multi-part path for those that no value can hold
CREATE FUNCTION gpuagent_store.put_tensor(data gpuagent.swarm_tensor, previous bytea DEFAULT NULL) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_put_tensor' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.put_tensor(gpuagent.swarm_tensor, bytea) IS
    'stores a tensor; returns its hash; chunks that differ little from those of previous, a tensor''s hash, are stored as what differs';

CREATE FUNCTION gpuagent_store.append_tensor(base bytea, data gpuagent.swarm_tensor, previous bytea DEFAULT NULL) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_append_tensor' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.append_tensor(bytea, gpuagent.swarm_tensor, bytea) IS
    'stores base with the rows of data added at its end (base NULL: just data); returns the new hash; only the last chunk is read again; previous as in put_tensor';

CREATE FUNCTION gpuagent_store.patch_tensor(base bytea, start bigint, data gpuagent.swarm_tensor) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_patch_tensor' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.patch_tensor(bytea, bigint, gpuagent.swarm_tensor) IS
    'stores base with rows from 1-based start replaced by those of data; costs what changed; 22023 outside';

CREATE FUNCTION gpuagent_store.get_tensor(tensor bytea, start bigint DEFAULT 1, count bigint DEFAULT NULL) RETURNS gpuagent.swarm_tensor
    AS 'MODULE_PATHNAME', 'ga_get_tensor' LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent_store.get_tensor(bytea, bigint, bigint) IS
    'reads a stored tensor, or count rows of dimension 0 from 1-based start, clipped; 54000 above 256 MiB, 42704 when it does not exist';

CREATE FUNCTION gpuagent_store.tensor_pieces(tensor bytea, start bigint DEFAULT 1, count bigint DEFAULT NULL)
    RETURNS TABLE (start_row bigint, data gpuagent.swarm_tensor)
    AS 'MODULE_PATHNAME', 'ga_tensor_pieces' LANGUAGE C STABLE PARALLEL SAFE ROWS 100;
COMMENT ON FUNCTION gpuagent_store.tensor_pieces(bytea, bigint, bigint) IS
    'rows of a stored tensor in pieces of about 8 MiB, with the 1-based number of their first row';

CREATE FUNCTION gpuagent_store.tensor_problem(tensor bytea) RETURNS text
    AS 'MODULE_PATHNAME', 'ga_tensor_problem_sql' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.tensor_problem(bytea) IS
    'reads all of a stored tensor and checks every hash: NULL when it is whole, else what is wrong';

CREATE FUNCTION gpuagent_store.tensor_problems(tensors bytea[], nbytes bigint[], deep boolean,
    OUT tensor bytea, OUT problem text, OUT nonfinite bigint) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'ga_tensor_problems' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION gpuagent_store.tensor_problems(bytea[], bigint[], boolean) IS
    'checks the contents of stored tensors, in several processes: a row for each that is damaged or missing, with what is wrong, and, with deep, for each that has NaN or infinite values, with their number; nbytes: raw bytes, 0 where unknown';

CREATE FUNCTION gpuagent.tensor_hash(data gpuagent.swarm_tensor) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_tensor_hash' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.tensor_hash(gpuagent.swarm_tensor) IS
    'identity that the store gives a tensor: SHA-256 over dtype, shape and content (doc/formats.md)';

CREATE FUNCTION gpuagent.store_chunk(data gpuagent.swarm_tensor) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_store_chunk' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.store_chunk(gpuagent.swarm_tensor) IS
    'stores a piece of a large tensor: the bytes of data, 1 MiB, fewer for the last piece; returns the hash of the chunk; shape does not matter, dtype only helps compression';

CREATE FUNCTION gpuagent.missing_chunks(hashes bytea[]) RETURNS SETOF bytea
    AS 'MODULE_PATHNAME', 'ga_missing_chunks' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION gpuagent.missing_chunks(bytea[]) IS
    'those of the chunk hashes that the store does not have, in input order; the others stay for gpuagent.collect_grace, unless the transaction is read-only';

CREATE FUNCTION gpuagent.store_tensor(dtype text, shape bigint[], chunks bytea[]) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_store_tensor' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent.store_tensor(text, bigint[], bytea[]) IS
    'makes a tensor of stored chunks (store_chunk); returns its hash; 42704 for a missing chunk, 22023 for one of another size';

CREATE FUNCTION gpuagent_store.keep_tensor(tensor bytea) RETURNS boolean
    AS 'MODULE_PATHNAME', 'ga_keep_tensor' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION gpuagent_store.keep_tensor(bytea) IS
    'for whoever will refer to a stored tensor in this transaction: garbage collection will not remove it before; false when it does not exist';

CREATE FUNCTION gpuagent_store.tensor_chunk_rows(tensor bytea, start bigint, count bigint)
    RETURNS TABLE (ordinal bigint, data gpuagent.swarm_tensor)
    AS 'MODULE_PATHNAME', 'ga_tensor_chunks' LANGUAGE C STABLE PARALLEL SAFE ROWS 100;
COMMENT ON FUNCTION gpuagent_store.tensor_chunk_rows(bytea, bigint, bigint) IS 'implementation of tensor_chunks';

-- A set-returning function in the select list streams; in FROM the executor would spool every row to disk first.
-- These wrappers are inlined, so that a reader of SELECT * FROM tensor_chunks(..) streams as well.
CREATE FUNCTION gpuagent.tensor_chunks(tensor bytea, start bigint DEFAULT 1, count bigint DEFAULT NULL)
    RETURNS TABLE (ordinal bigint, data gpuagent.swarm_tensor)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100 AS $$
    SELECT (s.piece).ordinal, (s.piece).data
    FROM (SELECT gpuagent_store.tensor_chunk_rows($1, $2, $3) AS piece OFFSET 0) s
$$;
COMMENT ON FUNCTION gpuagent.tensor_chunks(bytea, bigint, bigint) IS
    'chunks of a stored tensor from 1-based start: vectors of its dtype (U8 for packed dtypes) of 1 MiB, fewer bytes for the last';
