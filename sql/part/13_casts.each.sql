
-- @T@: casts from arrays and bytea, and back
CREATE FUNCTION gpuagent.to_@T@(real[], integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_from_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_@T@(real[], integer, boolean) IS 'cast from real[]: dtype F32 unless the type modifier says otherwise';
CREATE FUNCTION gpuagent.to_@T@(double precision[], integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_from_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_@T@(double precision[], integer, boolean) IS 'cast from double precision[]: dtype F64 (F32 for embedding) unless the type modifier says otherwise';
CREATE FUNCTION gpuagent.to_@T@(smallint[], integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_from_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_@T@(smallint[], integer, boolean) IS 'cast from smallint[], which drivers make of small integers: dtype I16 (F32 for embedding) unless the type modifier says otherwise';
CREATE FUNCTION gpuagent.to_@T@(integer[], integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_from_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_@T@(integer[], integer, boolean) IS 'cast from integer[]: dtype I32 (F32 for embedding) unless the type modifier says otherwise';
CREATE FUNCTION gpuagent.to_@T@(bigint[], integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_from_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_@T@(bigint[], integer, boolean) IS 'cast from bigint[]: dtype I64 (F32 for embedding) unless the type modifier says otherwise';
CREATE FUNCTION gpuagent.to_@T@(numeric[], integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_from_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_@T@(numeric[], integer, boolean) IS 'cast from numeric[]: dtype F32 unless the type modifier says otherwise';
CREATE FUNCTION gpuagent.to_@T@(bytea, integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME', '@T@_from_bytea' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_@T@(bytea, integer, boolean) IS 'cast from bytea: little-endian elements of the type modifier''s dtype, F32 without one; one dimension';

CREATE FUNCTION gpuagent.to_float4(gpuagent.@T@) RETURNS real[]
    AS 'MODULE_PATHNAME', 'ga_to_float4_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_float4(gpuagent.@T@) IS 'elements as real[] of the same shape (at most 6 dimensions); 22003 out of range';
CREATE FUNCTION gpuagent.to_float8(gpuagent.@T@) RETURNS double precision[]
    AS 'MODULE_PATHNAME', 'ga_to_float8_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_float8(gpuagent.@T@) IS 'elements as double precision[] of the same shape (at most 6 dimensions)';
CREATE FUNCTION gpuagent.to_int4(gpuagent.@T@) RETURNS integer[]
    AS 'MODULE_PATHNAME', 'ga_to_int4_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_int4(gpuagent.@T@) IS 'elements as integer[]; 22003 for a fraction, NaN or a value out of range';
CREATE FUNCTION gpuagent.to_int8(gpuagent.@T@) RETURNS bigint[]
    AS 'MODULE_PATHNAME', 'ga_to_int8_array' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.to_int8(gpuagent.@T@) IS 'elements as bigint[]; 22003 for a fraction, NaN or a value out of range';
CREATE FUNCTION gpuagent.tensor_bytes(gpuagent.@T@) RETURNS bytea
    AS 'MODULE_PATHNAME', 'ga_to_bytea' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.tensor_bytes(gpuagent.@T@) IS 'raw elements, row-major, little-endian';

CREATE CAST (gpuagent.@T@ AS real[]) WITH FUNCTION gpuagent.to_float4(gpuagent.@T@) AS ASSIGNMENT;
CREATE CAST (gpuagent.@T@ AS double precision[]) WITH FUNCTION gpuagent.to_float8(gpuagent.@T@) AS ASSIGNMENT;
CREATE CAST (gpuagent.@T@ AS integer[]) WITH FUNCTION gpuagent.to_int4(gpuagent.@T@) AS ASSIGNMENT;
CREATE CAST (gpuagent.@T@ AS bigint[]) WITH FUNCTION gpuagent.to_int8(gpuagent.@T@) AS ASSIGNMENT;
CREATE CAST (gpuagent.@T@ AS bytea) WITH FUNCTION gpuagent.tensor_bytes(gpuagent.@T@) AS ASSIGNMENT;
CREATE CAST (bytea AS gpuagent.@T@) WITH FUNCTION gpuagent.to_@T@(bytea, integer, boolean) AS ASSIGNMENT;
