/*
 * verify.c
 *		Checks of stored tensors: whether all their rows are there, and how many
 *		values are NaN or infinite. Contents are checked by tensor_problem().
 */
#include "base/compat.h"

#include <math.h>

#include "executor/spi.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/builtins.h"

#define BLOCK 4096				/* values widened at a time */

/* tensor_gap(tensor): NULL when every row of a tensor is there, with the size it should have; reads no contents. */
PG_FUNCTION_INFO_V1(ga_tensor_gap);
Datum
ga_tensor_gap(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	GaHash		hash;
	char	   *problem;
	text	   *result = NULL;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	SPI_connect();
	problem = ga_tensor_problem(&hash, false);
	if (problem != NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(caller);

		result = cstring_to_text(problem);
		MemoryContextSwitchTo(previous);
	}
	SPI_finish();
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* Values of a piece of a float tensor that are NaN or infinite. */
static uint64
count_nonfinite(int dtype, const char *data, size_t nbytes)
{
	size_t		width = ga_dtype_info(dtype)->width;
	uint64		count = 0;
	double		wide[BLOCK];

	for (size_t at = 0; at < nbytes; at += BLOCK * width)
	{
		size_t		n = Min(BLOCK, (nbytes - at) / width);

		ga_widen_f64(dtype, data + at, wide, n);
		for (size_t i = 0; i < n; i++)
			count += !isfinite(wide[i]);
	}
	return count;
}

/* tensor_nonfinite(tensor): number of NaN and infinite values; NULL for a dtype that is not F64, F32, F16 or BF16. */
PG_FUNCTION_INFO_V1(ga_tensor_nonfinite);
Datum
ga_tensor_nonfinite(PG_FUNCTION_ARGS)
{
	GaHash		hash;
	GaReader   *reader;
	char	   *buffer;
	uint64		count = 0;
	bool		is_float;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	SPI_connect();
	reader = ga_reader_open(&hash);
	is_float = ga_dtype_info(reader->dtype)->cls == GA_CLASS_FLOAT;
	buffer = palloc(GA_CHUNK_SIZE);
	for (uint64 at = 0; is_float && at < reader->nbytes; at += GA_CHUNK_SIZE)
	{
		uint64		piece = Min(GA_CHUNK_SIZE, reader->nbytes - at);

		CHECK_FOR_INTERRUPTS();
		ga_reader_read(reader, at, piece, buffer, false);
		count += count_nonfinite(reader->dtype, buffer, piece);
	}
	ga_reader_close(reader);
	SPI_finish();
	if (!is_float)
		PG_RETURN_NULL();
	PG_RETURN_INT64(count);
}
