/*
 * knn_bytes.h
 *		The body of the kernels for int8 rows and queries of 16-bit whole numbers,
 *		included once for each way to multiply and add.
 *
 * The including file defines
 *		TARGET			the function attribute that enables the instructions
 *		NAME(x)			x with a suffix of its own
 *		STEP			elements in a vector of 16-bit numbers, a divisor of GA_KNN_PAD
 *		TILE_PART		as for knn_tile.h
 *		Whole			STEP 16-bit, or half as many 32-bit numbers
 *		whole_zero, whole_query (STEP 16-bit numbers), whole_row (STEP int8), whole_add (of 32 bits)
 *		whole_row_some	fewer, then zeros; it reads nothing behind them
 *		whole_multiply_add	the sums of two products each, added to acc
 *		whole_reduce	the sum
 *		whole_reduce_rows	the sums of GA_KNN_TILE_ROWS vectors, added to as many doubles
 * and undefines what the next inclusion defines anew. x86 only.
 *
 * Every sum is exact. The magnitude of a product is below 2^22, and a 32-bit
 * number takes the sum of at most 512 of them; SEGMENT elements in two lanes or
 * more, as the reductions have them, stay below that.
 */
#define SEGMENT 1024

/* Keeps a sum in the register that it is in: compilers otherwise move and spill most of a tile's. */
#define KEEP(x) __asm__("" : "+v" (x))

static GA_FORCE_INLINE TARGET int64_t
NAME(dot_segment) (const int8_t *row, const int16_t *query, size_t n)
{
	Whole		acc[4];

#pragma GCC unroll 4
	for (int v = 0; v < 4; v++)
		acc[v] = whole_zero();
	for (; n >= 4 * STEP; n -= 4 * STEP)
	{
#pragma GCC unroll 4
		for (int v = 0; v < 4; v++)
		{
			acc[v] = whole_multiply_add(acc[v], whole_row(row + v * STEP), whole_query(query + v * STEP));
			KEEP(acc[v]);
		}
		row += 4 * STEP;
		query += 4 * STEP;
	}
	for (; n >= STEP; n -= STEP)
	{
		acc[0] = whole_multiply_add(acc[0], whole_row(row), whole_query(query));
		row += STEP;
		query += STEP;
	}
	if (n > 0)
		acc[1] = whole_multiply_add(acc[1], whole_row_some(row, n), whole_query(query));
	return whole_reduce(whole_add(whole_add(acc[0], acc[1]), whole_add(acc[2], acc[3])));
}

static TARGET double
NAME(dot) (const int8_t *row, const int16_t *query, size_t n)
{
	int64_t		total = 0;

	for (; n > SEGMENT; n -= SEGMENT)
	{
		total += NAME(dot_segment) (row, query, SEGMENT);
		row += SEGMENT;
		query += SEGMENT;
	}
	return (double) (total + NAME(dot_segment) (row, query, n));
}

/* Up to STEP elements: each row that is loaded serves TILE_PART queries. */
static GA_FORCE_INLINE TARGET void
NAME(tile_step) (const int8_t *const *rows, const int16_t *const *queries, size_t i, size_t n,
				 Whole (*acc)[GA_KNN_TILE_ROWS])
{
	Whole		query[TILE_PART];

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
		query[q] = whole_query(queries[q] + i);
#pragma GCC unroll 4
	for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
	{
		Whole		row = n == STEP ? whole_row(rows[r] + i) : whole_row_some(rows[r] + i, n);

#pragma GCC unroll 6
		for (int q = 0; q < TILE_PART; q++)
		{
			acc[q][r] = whole_multiply_add(acc[q][r], row, query[q]);
			KEEP(acc[q][r]);
		}
	}
}

/* Adds products of n elements from start on: up to SEGMENT, by whole steps, or fewer than one. */
static GA_FORCE_INLINE TARGET void
NAME(tile_segment) (const int8_t *const *rows, const int16_t *const *queries, size_t start, size_t n,
					bool rest, double (*sums)[GA_KNN_TILE_ROWS])
{
	Whole		acc[TILE_PART][GA_KNN_TILE_ROWS];

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
#pragma GCC unroll 4
		for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
			acc[q][r] = whole_zero();

	if (rest)
		NAME(tile_step) (rows, queries, start, n, acc);
	else
		for (size_t i = start; i < start + n; i += STEP)
			NAME(tile_step) (rows, queries, i, STEP, acc);

#pragma GCC unroll 6
	for (int q = 0; q < TILE_PART; q++)
		whole_reduce_rows(acc[q], sums[q]);
}

static TARGET void
NAME(tile) (const int8_t *const *rows, const int16_t *const *queries, size_t n, double (*sums)[GA_KNN_TILE_ROWS])
{
	size_t		rest = n % STEP;
	size_t		end = n - rest;

	memset(sums, 0, sizeof(*sums) * GA_KNN_TILE_QUERIES);
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q += TILE_PART)
	{
		for (size_t start = 0; start < end; start += SEGMENT)
			NAME(tile_segment) (rows, queries + q, start, end - start < SEGMENT ? end - start : SEGMENT, false,
								sums + q);
		if (rest > 0)
			NAME(tile_segment) (rows, queries + q, end, rest, true, sums + q);
	}
}

const GaKnnBytes NAME(ga_knn_bytes) = {.dot = NAME(dot), .tile = NAME(tile)};

#undef SEGMENT
#undef KEEP
