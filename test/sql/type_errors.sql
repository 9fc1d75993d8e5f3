-- What the types refuse, each with SQLSTATE, message, detail and hint.

\pset format unaligned

-- text that is no tensor
SELECT input, error_of('embedding', input) FROM unnest(ARRAY['', ' ', '[', ']', '[]', '[,1]', '[1,]', '[1,,2]', '[1 2]', '[1', '1]', '[[1]',
    '[1]]', '[1] x', '(1)', '{1,2}', '[a]', '[1e]', '[e5]', '[+-1]', '[--1]', '[- 1]', '[.]', '[1.2.3]', '[0x10]', '[1_000]', '[1,2;3]',
    '[null]', '[nan(123)]', '[NaN]', '[inf]', '[infinit]', '[infinity1]', '[nano]', '[1e400]', '[1e-400]', '[1e39]', '[1e-50]',
    '[''1'']', '[1]:', 'F32:', 'F32: ', 'F32:[', 'F99:[1]', 'f32 :[1]', ':[1]', 'F32', '[１]', '[1,é]', E'[1,\u00a02]']) input;
SELECT input, error_of('agent_state', input) FROM unnest(ARRAY['', 'x', '1 2', '1,2', 'nan x', 'F16', 'F16:', 'BOOL:[2]', 'BOOL:[-1]', 'BOOL:[yes]',
    'BOOL:[truee]', 'U8:[256]', 'U8:[-1]', 'U8:[1.5]', 'U8:[1e2]', 'U8:[]x', 'I8:[128]', 'I8:[-129]', 'U16:[65536]', 'I16:[32768]', 'U32:[4294967296]',
    'I32:[2147483648]', 'I32:[-2147483649]', 'U64:[18446744073709551616]', 'U64:[-1]', 'I64:[9223372036854775808]', 'I64:[-9223372036854775809]',
    'I64:[99999999999999999999999999999]', 'I64:[+]', 'I64:[nan]', 'F16:[65520]', 'F16:[-1e30]', 'BF16:[3.4e38]', 'F64:[1e309]', 'C64:[1]', 'F4:[1]',
    'F8_E4M3:1']) input;
-- the unusual that is accepted: -0 of unsigned, a sign, leading zeros, underflow of a narrow float to 0, white space of all sorts
SELECT 'U8:[-0,+1,007]'::agent_state, 'F16:[1e-30]'::agent_state, E'\t[1\n,\r2\f,\x0b3 ]\n'::agent_state, '-nan'::agent_state;

-- ragged and too deep
SELECT input, error_of('agent_state', input) FROM unnest(ARRAY['[1,[2]]', '[[1],2]', '[[1,2],[3]]', '[[1],[2,3]]', '[[],[1]]', '[[1],[]]', '[[],1]',
    '[[[]],[]]', '[[],[[]]]', '[[[1]],[2]]', '[[1,[2]]]', '[[[[[[[[[1]]]]]]]]]', '[[[[[[[[[']) input;
SELECT error_of('embedding', '[[1,2]]'), error_of('embedding', '5');

-- the compact form
SELECT input, error_of('agent_state', input) FROM unnest(ARRAY['F32[', 'F32[1', 'F32[1]', 'F32[1]:', 'F32[1]:raw', 'F32[1]:gzip:', 'F32[1]:raw:', 'F32[1]:raw:AAA',
    'F32[1]:raw:AACAPw', 'F32[1]:raw:AACAPw==AAAA', 'F32[1]:raw:AACAP*==', 'F32[1]:raw:AACA Pw==', 'F32[1]:raw:====', 'F32[2]:raw:AACAPw==', 'F32[-1]:raw:', 'F32[+1]:raw:AACAPw==',
    'F32[1,]:raw:AACAPw==', 'F32[,1]:raw:AACAPw==', 'F32[ 1]:raw:AACAPw==', 'F32[1]x:raw:AACAPw==', 'F32[1,1,1,1,1,1,1,1,1]:raw:AACAPw==', 'F99[1]:raw:AACAPw==',
    'F32[9223372036854775808]:raw:', 'F32[9223372036854775807]:raw:', 'F32[4294967296,4294967296]:raw:', 'F32[99999999999999999999]:raw:', 'F4[1]:raw:AA==',
    'F32[16]:zstd:', 'F32[16]:zstd:AAAA', 'F32[16]:zstd:KLUv/SAA', 'U8[64]:zstd:KLUv/SBBBQ==']) input;
-- white space is allowed around it and nowhere in it
SELECT ' F32[1]:raw:AACAPw== '::agent_state;
SELECT error_of('embedding', 'F32[0]:raw:'), error_of('embedding', 'F32[1]:raw:AADAfw=='), error_of('embedding', 'F64[1]:raw:AAAAAAAA8D8=');
SELECT error_of('embedding', 'F32[65536]:zstd:AAAA'), error_of('embedding', 'F16:[65520]');

-- sizes: refused from the shape, before anything is allocated
SELECT error_of('agent_state', 'F32[4194305]:zstd:AAAA');
SELECT error_of('swarm_tensor', 'U8[268435457]:zstd:AAAA');
SELECT error_of('embedding', '[' || repeat('1,', 65535) || '1]'), nbytes(('[' || repeat('1,', 65534) || '1]')::embedding);
SELECT error_of('embedding', 'F16:[' || repeat('1,', 65535) || '1]');
SELECT error_of($$SELECT array_fill(0, ARRAY[65536])::embedding$$), error_of($$SELECT array_fill(0, ARRAY[4194305])::agent_state$$);
SELECT error_of($$SELECT astype(array_fill(0, ARRAY[4194304])::agent_state, 'F64')$$);
SELECT error_of($$SELECT tensor('F64', '{9223372036854775807}', '')$$), error_of($$SELECT tensor('U8', '{9223372036854775807,2}', '')$$);

-- long input is quoted by its beginning, cut at a character
SELECT error_of('embedding', '[1,' || repeat('é', 100) || ']');

-- the wire format: COPY of hostile bytes
CREATE TEMP TABLE wire (a agent_state, e embedding);
\getenv abs_builddir PG_ABS_BUILDDIR
\set file :abs_builddir '/results/type_errors.copy'
-- A binary COPY file of one row: signature, flags and extension, 1 column, the value, end.
CREATE FUNCTION pg_temp.copy_file(file text, value bytea) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    object oid := lo_from_bytea(0, '\x5047434f50590aff0d0a00' || '\x0000000000000000'::bytea || '\x0001' || int4send(length(value)) || value || '\xffff');
BEGIN
    PERFORM lo_export(object, file);
    PERFORM lo_unlink(object);
END
$$;
CREATE FUNCTION pg_temp.received(file text, type text, value bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.copy_file(file, value);
    RETURN public.error_of(format('COPY wire (%s) FROM %L (FORMAT binary)', CASE type WHEN 'embedding' THEN 'e' ELSE 'a' END, file));
END
$$;
SELECT what, pg_temp.received(:'file', 'agent_state', decode(bytes, 'hex')) FROM (VALUES
    ('fine', '4741010101000000 0100000000000000 0000803f'),
    ('nothing', ''), ('one byte', '47'), ('header cut', '47410101010000'), ('not GA', '5741010101000000'), ('version 2', '4741020101000000'),
    ('dtype 0', '4741010000000000'), ('dtype 23', '4741011700000000'), ('dtype 255', '474101ff00000000'), ('rank 9', '4741010109000000'), ('rank 255', '47410101ff000000'),
    ('reserved byte 5', '4741010100010000 0000803f'), ('reserved byte 7', '4741010100000001 0000803f'),
    ('no dims', '4741010101000000'), ('dims cut', '4741010102000000 0100000000000000 00'), ('negative dim', '4741010101000000 ffffffffffffffff'),
    ('too few bytes', '4741010101000000 0200000000000000 0000803f'), ('too many bytes', '4741010101000000 0000000000000000 00'),
    ('absurd dim', '4741010101000000 ffffffffffffff7f'), ('product overflows', '4741010102000000 0000000001000000 0000000001000000'),
    ('over the limit', '4741010101000000 0100400000000000'), ('empty and absurd', '4741010102000000 0000000000000000 ffffffffffffff7f'),
    ('half an element of F4', '4741011401000000 0100000000000000 00')) v (what, bytes);
SELECT what, pg_temp.received(:'file', 'embedding', decode(bytes, 'hex')) FROM (VALUES
    ('fine', '4741010101000000 0100000000000000 0000803f'),
    ('NaN', '4741010101000000 0100000000000000 0000c07f'), ('infinity', '4741010201000000 0100000000000000 007c'),
    ('rank 0', '4741010100000000 0000803f'), ('rank 2', '4741010102000000 0100000000000000 0100000000000000 0000803f'),
    ('F64', '4741010401000000 0100000000000000 000000000000f03f'), ('empty', '4741010101000000 0000000000000000'),
    ('65536 elements', '4741010101000000 0000010000000000')) v (what, bytes);
SELECT * FROM wire;

-- functions
SELECT error_of($$SELECT astype('[1]'::agent_state, 'F17')$$);
SELECT error_of($$SELECT astype('[1.5]'::agent_state, 'I8')$$), error_of($$SELECT astype('I16:[300]'::agent_state, 'U8')$$), error_of($$SELECT astype('[-1]'::agent_state, 'U8')$$);
SELECT error_of($$SELECT astype('[2]'::agent_state, 'BOOL')$$), error_of($$SELECT astype('F4[2]:raw:IQ=='::agent_state, 'F32')$$);
SELECT error_of($$SELECT astype('[1]'::embedding, 'F64')$$);
SELECT error_of($$SELECT '[1,2]'::embedding <-> '[1]'$$), error_of($$SELECT l1_distance('I8:[1]'::agent_state, '[1]')$$), error_of($$SELECT '[1]'::agent_state <=> 'C64[1]:raw:AACAPwAAAEA='$$);
SELECT error_of($$SELECT '[1,2]'::agent_state + '[1]'$$), error_of($$SELECT '[[1,2]]'::agent_state - '[1,2]'$$), error_of($$SELECT '[1]'::agent_state * 'F16:[1]'$$);
SELECT error_of($$SELECT '[3e38]'::agent_state + '[3e38]'$$), error_of($$SELECT 'F16:[60000]'::embedding * 'F16:[2]'$$), error_of($$SELECT 'I8:[1]'::agent_state + 'I8:[1]'$$);
SELECT error_of($$SELECT element('[1,2]'::embedding, 1, 1)$$), error_of($$SELECT element('[1,2]'::embedding, NULL)$$), error_of($$SELECT element('F4[2]:raw:IQ=='::agent_state, 1)$$);
SELECT error_of($$SELECT slice('[1,2]'::agent_state, 1, -1)$$), error_of($$SELECT slice('1'::agent_state, 1, 1)$$), error_of($$SELECT subvector('[[1]]'::agent_state, 1, 1)$$);
SELECT error_of($$SELECT slice('[1,2]'::embedding, 3, 1)$$), error_of($$SELECT slice('F4[2,3]:raw:AQID'::agent_state, 2, 1)$$);
SELECT error_of($$SELECT reshape('[1,2,3]'::agent_state, '{2,2}')$$), error_of($$SELECT reshape('[1,2]'::agent_state, '{-1,-1}')$$), error_of($$SELECT reshape('[1,2]'::agent_state, '{-2}')$$),
    error_of($$SELECT reshape('[]'::agent_state, '{0,-1}')$$), error_of($$SELECT reshape('[1]'::agent_state, '{9223372036854775807,2}')$$);
SELECT error_of($$SELECT l2_norm('I8:[1]'::agent_state)$$), error_of($$SELECT has_nonfinite('F8_E4M3[1]:raw:OA=='::agent_state)$$);
