-- Casts of arrays, bytea and among the three types; type modifiers; resolution of operators.

-- arrays to embedding: F32 whatever the array is
SELECT ARRAY[1,2.5,3]::real[]::embedding, ARRAY[1,2.5]::float8[]::embedding, ARRAY[1,2]::embedding,
    ARRAY[1,2]::bigint[]::embedding, ARRAY[0.1,2.5]::numeric[]::embedding, '{-1,2}'::smallint[]::embedding;
-- to agent_state and swarm_tensor: the dtype of the array
SELECT dtype(ARRAY[1]::real[]::agent_state), dtype(ARRAY[1]::float8[]::agent_state), dtype(ARRAY[1]::agent_state),
    dtype(ARRAY[1]::bigint[]::agent_state), dtype(ARRAY[1]::numeric[]::agent_state), '{-1,32767}'::smallint[]::agent_state;
SELECT ARRAY[[1,2],[3,4]]::agent_state, shape(ARRAY[[[1,2,3]]]::swarm_tensor), '{}'::real[]::agent_state;
SELECT ARRAY[1,2]::real[]::swarm_tensor, '[0:1]={5,6}'::int[]::agent_state AS bounds_do_not_matter;
SELECT 'I64:[9007199254740993]'::agent_state::bigint[], '{9007199254740993}'::bigint[]::agent_state AS exact;

-- an array goes to the dtype of the modifier with one rounding: 1 + 2^-11 + 1e-12 is above a tie of F16, in F32 it is the tie
SELECT ARRAY[1.00048828125 + 1e-12]::float8[]::embedding(1, F16) AS rounded_once;
-- but of a literal the server applies the modifier after it was read as F32; the prefix says the dtype at once
SELECT '[1.000488281251]'::embedding(1, F16), 'F16:[1.000488281251]'::embedding(1, F16), '[0.1]'::agent_state(F64), 'F64:[0.1]'::agent_state(F64);
-- so does COPY
CREATE TEMP TABLE copied (e embedding(1, F16), a agent_state(F64), i swarm_tensor(I64));
COPY copied FROM STDIN;
[1.000488281251]	[0.1]	[9007199254740993]
\.
SELECT e, a, i::bigint[] FROM copied;
SELECT ARRAY[0.1]::numeric[]::agent_state(F64), ARRAY[0.1]::numeric[]::agent_state(F16), ARRAY[16777217]::numeric[]::agent_state(I64);
SELECT ARRAY[1,2]::agent_state(BF16), ARRAY[1,2]::float8[]::agent_state(U8), ARRAY[16777217]::agent_state(F64);
SELECT error_of($$SELECT ARRAY[9007199254740993]::numeric[]::agent_state(I64)$$);
SELECT error_of($$SELECT ARRAY[1.5]::numeric[]::agent_state(I64)$$);
SELECT error_of($$SELECT ARRAY[1]::agent_state(F8_E4M3)$$);
SELECT error_of($$SELECT ARRAY[1,NULL]::real[]::embedding$$);
SELECT error_of($$SELECT '{}'::real[]::embedding$$);
SELECT error_of($$SELECT ARRAY[[1,2]]::real[]::embedding$$);
SELECT error_of($$SELECT ARRAY['NaN']::real[]::embedding$$);
SELECT error_of($$SELECT ARRAY[1e39]::float8[]::embedding$$);
SELECT error_of($$SELECT ARRAY['1e50']::numeric[]::embedding$$);
SELECT error_of($$SELECT ARRAY[65520]::embedding(1, F16)$$), ARRAY[65519]::embedding(1, F16);
SELECT error_of($$SELECT ARRAY['a']::embedding$$);

-- and back
SELECT '[1,2.5]'::embedding::real[], 'F16:[1,2.5]'::embedding::float8[], '[1,2]'::embedding::int[], '[1,2]'::embedding::bigint[];
SELECT '[[1,2],[3,4]]'::agent_state::int[], '7'::agent_state::real[], '[]'::agent_state::real[], '[[],[]]'::agent_state::real[];
SELECT 'BOOL:[1,0]'::agent_state::real[], 'U64:[18446744073709551615]'::agent_state::float8[], 'U8:[255]'::agent_state::bigint[];
SELECT '[-0,NaN,inf]'::agent_state::float8[];
SELECT error_of($$SELECT 'F64:[1e39]'::agent_state::real[]$$);
SELECT error_of($$SELECT '[1.5]'::agent_state::int[]$$), error_of($$SELECT '[NaN]'::agent_state::int[]$$);
SELECT error_of($$SELECT 'I64:[2147483648]'::agent_state::int[]$$), 'I64:[-2147483648]'::agent_state::int[];
SELECT error_of($$SELECT 'U64:[9223372036854775808]'::agent_state::bigint[]$$);
SELECT error_of($$SELECT '[[[[[[[1]]]]]]]'::agent_state::real[]$$);
SELECT error_of($$SELECT 'F8_E4M3[1]:raw:OA=='::agent_state::real[]$$);

-- bytea: raw little-endian elements
SELECT '\x0000803f00000040'::bytea::embedding, '\x003c0040'::bytea::embedding(2, F16), '\x0000803f'::bytea::agent_state(I32);
SELECT '[1,2]'::embedding::bytea, 'F64:1'::agent_state::bytea, tensor_bytes('I16:[[1],[-1]]'::swarm_tensor), ''::bytea::agent_state;
SELECT tensor('F16', '{2,2}', '\x003c004000420044')::agent_state, shape(tensor('U8', '{}', '\x07')), tensor('f32', '{0,3}', '')::text;
SELECT error_of($$SELECT '\x000080'::bytea::embedding$$);
SELECT error_of($$SELECT '\x0000c07f'::bytea::embedding$$);
SELECT error_of($$SELECT '\x0000803f00000040'::bytea::embedding(3)$$);
SELECT error_of($$SELECT tensor('F32', '{2}', '\x00')$$);
SELECT error_of($$SELECT tensor('F33', '{2}', '\x00')$$);
SELECT error_of($$SELECT tensor('F32', '{-1}', '\x00')$$);
SELECT error_of($$SELECT tensor('F32', '{1,NULL}', '\x00')$$);
SELECT error_of($$SELECT tensor('F32', '{{1}}', '\x00000000')$$);
SELECT error_of($$SELECT tensor('F32', '{1,1,1,1,1,1,1,1,1}', '\x00000000')$$);
SELECT error_of($$SELECT tensor('F4', '{3}', '\x0000')$$);

-- among the types: dtype and shape stay, the target's limits hold
SELECT '[1,2]'::embedding::agent_state, 'F16:[1,2]'::embedding::swarm_tensor::agent_state::embedding;
SELECT 'F64:[0.1,2]'::agent_state::embedding(2) AS by_modifier, 'I64:[1,2]'::swarm_tensor::embedding(2, BF16);
SELECT error_of($$SELECT 'F64:[1,2]'::agent_state::embedding$$);
SELECT error_of($$SELECT '[[1,2]]'::agent_state::embedding$$);
SELECT error_of($$SELECT '[[1,2]]'::agent_state::embedding(2)$$);
SELECT error_of($$SELECT '[NaN]'::agent_state::embedding$$);
SELECT error_of($$SELECT 'F64:[1e39]'::agent_state::embedding(1)$$);

-- type modifiers
SELECT format_type('embedding'::regtype, t), t >> 17 AS dtype, t & x'1ffff'::int AS dim
FROM unnest(ARRAY[embedding_typmod_in('{3}'), embedding_typmod_in('{65535,f16}'), embedding_typmod_in('{1,BF16}')]) t;
CREATE TEMP TABLE typed (a embedding(3), b embedding(3, F16), c embedding(3, bf16), d agent_state(BF16), e swarm_tensor(F64));
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'typed'::regclass AND attnum > 0 ORDER BY attnum;
INSERT INTO typed VALUES ('[1.1,2,3]', '[1.1,2,3]', '[1.1,2,3]', '[1.1,2]', '[1.1,2]');
INSERT INTO typed VALUES ('F16:[1.1,2,3]', ARRAY[1.1,2,3], 'F16:[1.1,2,3]', ARRAY[[1.1]], ARRAY[1,2]);
INSERT INTO typed SELECT x, x, x, x, x FROM (VALUES ('[1.1,2,3]'::embedding)) v (x);
SELECT a, b, c, d, e::agent_state FROM typed;
SELECT error_of($$INSERT INTO typed (a) VALUES ('[1,2]')$$);
SELECT error_of($$INSERT INTO typed (a) SELECT '[1,2]'::embedding$$);
SELECT error_of($$INSERT INTO typed (a) VALUES (ARRAY[1,2,3,4])$$);
SELECT error_of($$INSERT INTO typed (b) VALUES ('[1,2,65520]')$$);
SELECT error_of($$UPDATE typed SET a = subvector(a, 1, 2)$$);
SELECT error_of($$INSERT INTO typed (d) VALUES ('F4[2]:raw:IQ==')$$);
ALTER TABLE typed ALTER a TYPE embedding(3, F16);
SELECT a FROM typed;
SELECT error_of($$ALTER TABLE typed ALTER a TYPE embedding(4)$$);
CREATE FUNCTION pg_temp.three() RETURNS embedding LANGUAGE sql AS $$ SELECT '[1,2,3]'::embedding(3, F16) $$;
SELECT pg_temp.three()::embedding(3, BF16), pg_temp.three()::embedding AS no_modifier_no_change;
CREATE DOMAIN pg_temp.unit AS embedding(2) CHECK (l2_norm(VALUE) BETWEEN 0.999 AND 1.001);
SELECT '[0.6,0.8]'::pg_temp.unit, error_of($$SELECT '[1,2]'::pg_temp.unit$$);
SELECT error_of('CREATE TEMP TABLE t (x embedding(0))'), error_of('CREATE TEMP TABLE t (x embedding(65536))');
SELECT error_of('CREATE TEMP TABLE t (x embedding(3, F64))'), error_of('CREATE TEMP TABLE t (x embedding(3, F16, 1))');
SELECT error_of('CREATE TEMP TABLE t (x embedding(F16))'), error_of('CREATE TEMP TABLE t (x embedding(''''))');
SELECT error_of('CREATE TEMP TABLE t (x agent_state(3))'), error_of('CREATE TEMP TABLE t (x swarm_tensor(F16, F32))');

-- an array beside an embedding, whatever its type; inlined into the operator of two embeddings, which indexes serve
CREATE TEMP TABLE item (id int, e embedding(3));
INSERT INTO item VALUES (1, '[1,2,3]'), (2, '[1,2,4]'), (3, '[3,2,1]');
SELECT id, e <-> ARRAY[1,2,3] AS int, e <-> '{1,2,3}'::smallint[] AS smallint, e <-> '{1,2,3}'::float8[] AS float8, e <-> ARRAY[1,2,3.5] AS numeric,
    e <#> '{1,2,3}'::real[] AS real, e <=> '{2,4,6}'::bigint[] AS bigint, ARRAY[1,2,3] <+> e AS left,
    l2_distance(e, ARRAY[1,2,3]), l1_distance(ARRAY[1,2,3], e), cosine_distance(e, ARRAY[2,4,6])
FROM item;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM item ORDER BY e <-> ARRAY[1,2,3];
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM item ORDER BY '{1,2,3}'::float8[] <=> e;
PREPARE nearest (float8[]) AS SELECT id FROM item ORDER BY e <-> $1 LIMIT 1;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (VERBOSE, COSTS OFF) EXECUTE nearest('{3,2,1}');
EXECUTE nearest('{3,2,1}');
RESET plan_cache_mode;
SELECT error_of($$SELECT e <-> ARRAY['a'] FROM item$$);
SELECT error_of($$SELECT e <-> ARRAY[1,2] FROM item$$);

-- ordinary arrays keep their operators while gpuagent is in the search_path
SELECT ARRAY[1,2] = ARRAY[1,2] AS eq, '{1,2}'::real[] < '{1,3}' AS lt, ARRAY[1.5] <> ARRAY[1.5] AS ne, ARRAY[1] || 2 AS cat,
    ARRAY[1,2] @> ARRAY[2] AS contains, 1 = ANY (ARRAY[1]) AS any, ARRAY[1.5::float8] IS DISTINCT FROM ARRAY[1.5::float8] AS dist;
SELECT error_of('SELECT ARRAY[1] + ARRAY[2]');
-- a type has no operators outside the search_path, whatever the casts
SET search_path = public;
SELECT public.error_of($$SELECT '[1]'::gpuagent.embedding <-> '[2]'::gpuagent.embedding$$);
SELECT '[1]'::gpuagent.embedding OPERATOR(gpuagent.<->) '[2]' AS qualified, gpuagent.l2_distance('[1]'::gpuagent.embedding, '[3]') AS by_name;
RESET search_path;

-- everybody may use the types and their math
CREATE ROLE regress_gpuagent_math;
SET ROLE regress_gpuagent_math;
SELECT '[1,2]'::embedding <-> ARRAY[1,3] AS array, '[1,2]'::embedding <=> '[1,2]' AS embedding, agent_state_out('[1]'),
    (SELECT sum(e) FROM (VALUES ('[1]'::embedding), ('[2]')) v (e)), '[1,2]'::swarm_tensor::text::agent_state;
RESET ROLE;
DROP ROLE regress_gpuagent_math;
