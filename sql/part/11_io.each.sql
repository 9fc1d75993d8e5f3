
-- @T@: input, output, storage
CREATE FUNCTION gpuagent.@T@_in(cstring, oid, integer) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_in(cstring, oid, integer) IS 'text input of @T@: nested lists or the compact form';
CREATE FUNCTION gpuagent.@T@_out(gpuagent.@T@) RETURNS cstring
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_out(gpuagent.@T@) IS 'text output of @T@, exact to the bit';
CREATE FUNCTION gpuagent.@T@_recv(internal, oid, integer) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_recv(internal, oid, integer) IS 'binary input of @T@ (doc/formats.md)';
CREATE FUNCTION gpuagent.@T@_send(gpuagent.@T@) RETURNS bytea
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_send(gpuagent.@T@) IS 'binary output of @T@ (doc/formats.md)';

CREATE TYPE gpuagent.@T@ (
    INPUT = gpuagent.@T@_in,
    OUTPUT = gpuagent.@T@_out,
    RECEIVE = gpuagent.@T@_recv,
    SEND = gpuagent.@T@_send,
    TYPMOD_IN = gpuagent.@T@_typmod_in,
    TYPMOD_OUT = gpuagent.@T@_typmod_out,
    STORAGE = external,
    ALIGNMENT = double
);

CREATE FUNCTION gpuagent.@T@_coerce(gpuagent.@T@, integer, boolean) RETURNS gpuagent.@T@
    AS 'MODULE_PATHNAME' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION gpuagent.@T@_coerce(gpuagent.@T@, integer, boolean) IS
    'applies a type modifier: checks the length, converts the dtype; 22000 for another length, 22003 out of range';
CREATE CAST (gpuagent.@T@ AS gpuagent.@T@)
    WITH FUNCTION gpuagent.@T@_coerce(gpuagent.@T@, integer, boolean) AS IMPLICIT;
