-- Distances, norms, arithmetic, shape and parts, with values worked out by hand.
SET extra_float_digits = 1;

-- 3-4-5, and the four metrics of (1,2,3) and (4,6,3): differences -3, -4, 0; products 4 + 12 + 9 = 25; norms^2 14 and 61
SELECT '[0,0]'::embedding <-> '[3,4]' AS l2, '[1,2,3]'::embedding <-> '[4,6,3]' AS l2_5, '[1,2,3]'::embedding <#> '[4,6,3]' AS nip_25,
    '[1,2,3]'::embedding <+> '[4,6,3]' AS l1_7, '[1,2,3]'::embedding <=> '[4,6,3]' AS cosine, 1 - 25 / sqrt(14::float8 * 61) AS cosine_by_hand;
SELECT l2_distance('[1,2,3]'::embedding, '[4,6,3]'), inner_product('[1,2,3]'::embedding, '[4,6,3]'), negative_inner_product('[1,2,3]'::embedding, '[4,6,3]'),
    cosine_distance('[1,0]'::embedding, '[0,2]'), l1_distance('[1,2,3]'::embedding, '[4,6,3]');
-- 16 lanes and a tail: sum of 1..33 = 561, of squares 12529
SELECT n, e <+> z AS l1, e <#> e AS nip, (e <-> z)^2 AS l2_squared, l2_norm(e)^2 AS norm_squared
FROM (SELECT n, array_agg(i)::embedding AS e, array_agg(0)::embedding AS z FROM generate_series(15, 33, 6) n, generate_series(1, n) i GROUP BY n) v ORDER BY n;

-- every pair of float types gives the same for values that all of them hold; symmetric
SELECT count(*) AS pairs, bool_and(a <-> b = 5) AND bool_and(b <-> a = 5) AS l2, bool_and((a <#> b) = -25) AS ip, bool_and(a <+> b = 7) AS l1,
    count(DISTINCT a <=> b) AS cosines
FROM unnest('{F64,F32,F16,BF16}'::text[]) da, unnest('{F64,F32,F16,BF16}'::text[]) db,
    LATERAL (SELECT (da || ':[1,2,3]')::agent_state, (db || ':[4,6,3]')::agent_state) v (a, b);
-- F32 differences are rounded to F32, F64 ones are not: 16777217 - 1e-3
SELECT 'F64:[16777217]'::agent_state <-> 'F64:[0.001]' AS f64, '[16777216]'::agent_state <-> '[0.001]' AS f32;
-- all three types; swarm_tensor compressed or not
SELECT '[1,2]'::agent_state <-> '[4,6]' AS state, '[[1,2]]'::swarm_tensor <-> '[4,6]' AS swarm_shapes_may_differ,
    compress(array_fill(1::real, ARRAY[64])::swarm_tensor) <-> array_fill(2::real, ARRAY[64])::swarm_tensor AS compressed_8;

-- the edges: zero vectors, opposite vectors, empty tensors, NaN and infinities, overflow of an F32 difference, no -0, no NaN sign
SELECT '[0,0]'::embedding <=> '[1,0]' AS zero, '[1,0]'::embedding <=> '[-2,0]' AS opposite, '[3,4]'::embedding <=> '[3,4]' AS same,
    '[]'::agent_state <-> '[]' AS empty_l2, '[]'::agent_state <#> '[]' AS empty_ip, '[]'::agent_state <=> '[]' AS empty_cosine;
SELECT '[NaN]'::agent_state <-> '[1]' AS nan, '[inf]'::agent_state <-> '[1]' AS inf, '[inf]'::agent_state <-> '[inf]' AS inf_inf,
    '[inf]'::agent_state <#> '[0]' AS inf_zero, '[3e38]'::embedding <-> '[-3e38]' AS overflow, '[inf]'::agent_state <=> '[1]' AS inf_cosine;
SELECT '[0]'::embedding <#> '[5]' AS no_minus_0, '[-0]'::embedding <#> '[5]' AS no_minus_0, '[1,1]'::embedding <#> '[1,-1]' AS no_minus_0,
    '[-0]'::embedding <+> '[0]' AS zero, float8send('[NaN]'::agent_state <#> '[1]') AS positive_nan;
SELECT '[1e-45]'::embedding <+> '[0]' AS denormal_counts, '[1e-38]'::embedding <-> '[1.1e-38]' > 0 AS denormal_difference;

-- norms
SELECT l2_norm('[3,4]'::embedding), l2_norm('[]'::agent_state), l2_norm('[[3],[4]]'::swarm_tensor), l2_norm('[NaN]'::agent_state), l2_norm('[inf,1]'::agent_state);
-- F64 squares leave the range, the norm does not
SELECT l2_norm('F64:[3e200,4e200]'::agent_state) / 5e200 BETWEEN 0.999999999999999 AND 1.000000000000001 AS large,
    l2_norm('F64:[3e-200,4e-200]'::agent_state) / 5e-200 BETWEEN 0.999999999999999 AND 1.000000000000001 AS small, l2_norm('F64:[5e-324]'::agent_state) AS least;
SELECT l2_normalize('[3,4]'::embedding), l2_normalize('[0,-0]'::embedding), l2_normalize('F16:[0,5]'::embedding), l2_normalize('[[0],[2]]'::agent_state);
SELECT l2_normalize('F64:[0,2e200]'::agent_state), l2_normalize('F64:[0,5e-324]'::agent_state), l2_normalize('[inf,1]'::agent_state);

-- arithmetic: one rounding, shape and dtype kept
SELECT '[1,2]'::embedding + '[3,4.5]' AS plus, '[1,2]'::embedding - '[3,4.5]' AS minus, '[1,2]'::embedding * '[3,4.5]' AS times;
SELECT '[[1,2],[3,4]]'::agent_state + '[[1,1],[1,1]]', '1.5'::agent_state * '2', '[]'::agent_state + '[]', ('[1]'::swarm_tensor - '[3]')::agent_state;
SELECT 'F16:[2048]'::embedding + 'F16:[1]' AS tie_to_even, 'F16:[2050]'::embedding + 'F16:[1]' AS tie_up, 'BF16:[256]'::embedding + 'BF16:[1]' AS bf16;
SELECT '[16777216]'::embedding + '[1]' AS f32, 'F64:[9007199254740992]'::agent_state + 'F64:[1]' AS f64, '[1]'::embedding - '[1]' AS zero, '[-0]'::embedding + '[-0]' AS minus_zero;
-- infinities go through, overflow of finite values does not (type_errors); the NaN that comes out is the one of "NaN"
SELECT '[inf,inf]'::agent_state + '[1,-inf]', '[inf]'::agent_state * '[0]', 'F16:[inf]'::agent_state - 'F16:[inf]', 'F32[1]:raw:AQDA/w=='::agent_state + '[1]' AS payload;

-- shape, dtype, sizes
SELECT shape(v), ndim(v), dtype(v), nbytes(v), vector_dims(v), has_nonfinite(v)
FROM unnest(ARRAY['[1,2]', '[[1],[2],[3]]', '5', '[]', 'F32[2,0,3]:raw:', 'F64:[1,inf]', 'F16:[NaN]', 'U8:[1,2]', 'BOOL:[1]', 'I64:[[1,2]]']::agent_state[]) v;
SELECT shape(v), nbytes(v) FROM unnest(ARRAY['F4[4]:raw:ISE=', 'F6_E2M3[4]:raw:AQID', 'C64[1]:raw:AACAPwAAAEA=']::agent_state[]) v;
SELECT shape(e), ndim(e), dtype(e), nbytes(e), vector_dims(e), has_nonfinite(e) FROM (VALUES ('F16:[1,2,3]'::embedding)) v (e);

-- elements by position, 1-based, row-major
SELECT element('[[1,2,3],[4,5,6]]'::agent_state, 2, 1) AS four, element('[7,8]'::embedding, 2) AS eight, element('5'::agent_state, VARIADIC '{}') AS rank_0,
    element('[7,8]'::embedding, 3) AS outside, element('[7,8]'::embedding, 0) AS outside, element('[7,8]'::embedding, -9223372036854775808) AS outside;
SELECT element('U64:[18446744073709551615]'::agent_state, 1), element('BOOL:[true]'::agent_state, 1), element('F16:[0.1]'::agent_state, 1), element('I8:[-5]'::agent_state, 1);

-- rows and parts, clipped as substring clips
SELECT slice('[[1,2],[3,4],[5,6]]'::agent_state, 2, 2), slice('[[1,2],[3,4]]'::agent_state, 2, 99), slice('[[1,2],[3,4]]'::agent_state, 0, 2), slice('[1,2,3]'::embedding, -1, 3);
SELECT slice('[1,2]'::agent_state, 3, 1), slice('[1,2]'::agent_state, 1, 0), slice('[1,2]'::agent_state, 9223372036854775807, 9223372036854775807),
    slice('[1,2]'::agent_state, -9223372036854775808, 5), slice('[1,2]'::agent_state, 1, 9223372036854775807);
SELECT slice('F32[9223372036854775807,0]:raw:'::agent_state, 2, 9223372036854775807), slice('F32[3,0]:raw:'::agent_state, 2, 5), slice('F4[2,4]:raw:AQIDBA=='::agent_state, 2, 1);
SELECT subvector('[1,2,3,4]'::embedding, 2, 2), subvector('F16:[1,2,3]'::agent_state, 3, 9), subvector('I64:[5,6]'::swarm_tensor, 2, 1)::agent_state;

-- dtypes: to nearest even, exact between integers
SELECT astype('[1.5,2.5,-0.1]'::agent_state, 'F16'), astype('F64:[0.1,1e-46,1e-320]'::agent_state, 'f32'), astype('F16:[65504]'::agent_state, 'BF16');
SELECT astype('[1,0,-0]'::agent_state, 'BOOL'), astype('BOOL:[true,false]'::agent_state, 'F32'), astype('U64:[18446744073709551615]'::agent_state, 'F32'), astype('I64:[-9223372036854775808]'::agent_state, 'F64');
SELECT astype('I64:[9007199254740993]'::agent_state, 'U64'), astype('[-128,127]'::agent_state, 'I8'), astype('[255]'::agent_state, 'U8'), astype('[inf,NaN]'::agent_state, 'F16'), astype('F4[2]:raw:IQ=='::agent_state, 'F4');
SELECT astype('[1,2]'::embedding, 'BF16'), astype('[[1,2]]'::swarm_tensor, 'I32')::agent_state;
-- rounding an integer once: 2^24 + 1 is a tie of F32, 2^63 + 2^39 + 1 is just above one
SELECT astype('I64:[16777217,16777219]'::agent_state, 'F32'), astype('U64:[9223372586610589697]'::agent_state, 'F32') = astype('U64:[9223373136366403584]'::agent_state, 'F32') AS up,
    astype('U64:[9223372586610589696]'::agent_state, 'F32') = astype('U64:[9223372036854775808]'::agent_state, 'F32') AS tie_to_even;

-- reshape
SELECT reshape('[1,2,3,4]'::agent_state, '{2,2}'), reshape('[[1,2],[3,4]]'::agent_state, '{-1}'), reshape('[1]'::agent_state, '{}'), reshape('5'::agent_state, '{1,1}'), reshape('[]'::agent_state, '{3,0}');
SELECT shape(reshape('[1,2,3,4,5,6]'::swarm_tensor, '{3,-1,1}')), reshape('[1,2]'::embedding, '{-1}');

-- compress changes how a value is held, not what it is
SELECT compress(t) = t AS equal, pg_column_size(compress(t)) < pg_column_size(t) / 10 AS smaller, compress(compress(t)) = t AS again, pg_column_size(compress(r)) = pg_column_size(r) AS no_gain_no_change
FROM (SELECT array_fill(0.5::real, ARRAY[1000])::swarm_tensor, '[1,2,3]'::swarm_tensor) v (t, r);

-- NULL in, NULL out
SELECT '[1]'::embedding <-> NULL, l2_norm(NULL::embedding), slice(NULL::agent_state, 1, 1), NULL::embedding + '[1]', NULL::real[]::embedding, '[1]'::embedding <-> NULL::real[];

-- the math may stand in generated columns, constraints and indexes; the text that depends on a setting may not
CREATE TEMP TABLE derived (e embedding(2) CHECK (l2_norm(e) > 0), norm float8 GENERATED ALWAYS AS (l2_norm(e)) STORED,
    half embedding(2, F16) GENERATED ALWAYS AS (e) STORED, label text GENERATED ALWAYS AS (e::text) STORED);
CREATE INDEX derived_distance ON derived ((e <-> '[0,1]'));
INSERT INTO derived VALUES ('[3,4]'), (ARRAY[0.1, 0]);
SELECT * FROM derived ORDER BY norm;
SELECT error_of($$INSERT INTO derived VALUES ('[0,-0]')$$);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT e FROM derived ORDER BY e <-> '[0,1]';
EXPLAIN (COSTS OFF) SELECT e FROM derived WHERE e <-> ARRAY[0,1] < 2;
RESET enable_seqscan;
SELECT error_of('CREATE TEMP TABLE t (a agent_state, b text GENERATED ALWAYS AS (a::text) STORED)');
