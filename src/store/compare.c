/*
 * compare.c
 *		Which chunks of a tensor differ from those at the same place of another.
 */
#include "base/compat.h"

#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

/* True when both have a whole node from chunk i on, and the same one. */
static bool
same_node(GaReader *a, GaReader *b, uint64 i)
{
	GaHash		x,
				y;

	if (i % GA_NODE_FANOUT != 0 || i + GA_NODE_FANOUT > Min(a->nchunks, b->nchunks) || Min(a->nchunks, b->nchunks) == 1)
		return false;
	ga_reader_entry_hash(a, 1, i / GA_NODE_FANOUT, &x);
	ga_reader_entry_hash(b, 1, i / GA_NODE_FANOUT, &y);
	return memcmp(&x, &y, sizeof x) == 0;
}

static void
put_pair(ReturnSetInfo *rsinfo, uint64 i, const GaHash *hash, const GaHash *before)
{
	Datum		values[3] = {Int64GetDatum(i), ga_hash_to_datum(hash), ga_hash_to_datum(before)};
	bool		nulls[3] = {false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * changed_chunks(tensor bytea, previous bytea, start bigint, count bigint): up to count chunks from 0-based start on whose
 * counterpart has the same size and another hash: (number, hash, before), in order. Fewer: that was the end.
 */
PG_FUNCTION_INFO_V1(ga_changed_chunks);
Datum
ga_changed_chunks(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		i = Max(PG_GETARG_INT64(2), 0);
	int64		left = PG_GETARG_INT64(3);
	GaHash		hash,
				before;
	GaReader   *a,
			   *b;
	uint64		n;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	a = ga_reader_open(&hash);
	ga_hash_from_datum(PG_GETARG_DATUM(1), &hash);
	b = ga_reader_open(&hash);
	for (n = Min(a->nchunks, b->nchunks); i < n && left > 0; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (same_node(a, b, i))
		{
			i += GA_NODE_FANOUT - 1;
			continue;
		}
		ga_reader_chunk_hash(a, i, &hash);
		ga_reader_chunk_hash(b, i, &before);
		if (memcmp(&hash, &before, sizeof hash) == 0 || ga_tree_span(a->nbytes, 0, i) != ga_tree_span(b->nbytes, 0, i))
			continue;
		put_pair(rsinfo, i, &hash, &before);
		left--;
	}
	ga_reader_close(a);
	ga_reader_close(b);
	SPI_finish();
	return (Datum) 0;
}
