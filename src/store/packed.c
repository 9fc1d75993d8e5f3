/*
 * packed.c
 *		Chunks as rows hold them, for who copies them from store to store: neither
 *		side compresses again what is compressed.
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "store/delta.h"
#include "store/table.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

static GaStatement load_row = {
	"SELECT nbytes::pg_catalog.int4, codec::pg_catalog.int2, width::pg_catalog.int2, data::pg_catalog.bytea "
	"FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement insert_row = {
	"INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, data, crc) VALUES ($1, $2, $3, $4, $5, $6)",
	6, {BYTEAOID, INT4OID, INT2OID, INT2OID, BYTEAOID, INT4OID}
};

size_t
ga_chunk_store_as_is(const GaHash *hash, const char *data, size_t nbytes, bytea *packed, int codec, int width)
{
	Datum		args[6];

	if (ga_chunk_exists(hash, nbytes))
		return 0;
	args[0] = ga_hash_to_datum(hash);
	args[1] = Int32GetDatum(nbytes);
	args[2] = Int16GetDatum(codec);
	args[3] = Int16GetDatum(width);
	args[4] = PointerGetDatum(packed);
	args[5] = Int32GetDatum((int32) ga_crc32c(data, nbytes));
	ga_table_insert("chunk", NULL, &insert_row, hash, args);
	pfree(DatumGetPointer(args[0]));
	return VARSIZE(packed) - VARHDRSZ;
}

/* Width of the elements of a chunk that is stored as a delta: that of its base's row. */
static int
delta_width(const GaHash *hash)
{
	GaHash		base;
	uint16		leaves;
	int			width = 1;

	if (ga_delta_find(hash, &base, &leaves))
	{
		if (ga_table_fetch(&load_row, &base, false))
			width = DatumGetInt16(ga_table_column(3, "chunk", &base));
		SPI_freetuptable(SPI_tuptable);
	}
	return width;
}

/* The chunk of a row that was found, decoded into raw and checked. */
static bytea *
unpack_row(const GaHash *hash, char *raw, size_t *nbytes, int *codec, int *width)
{
	bytea	   *packed = DatumGetByteaPCopy(ga_table_column(4, "chunk", hash));
	int			size = DatumGetInt32(ga_table_column(1, "chunk", hash));
	const char *problem;
	GaHash		found;

	*codec = DatumGetInt16(ga_table_column(2, "chunk", hash));
	*width = DatumGetInt16(ga_table_column(3, "chunk", hash));
	if (size < 1 || size > GA_CHUNK_SIZE)
		ga_table_damaged("chunk", hash, "Its size is impossible.");
	*nbytes = size;
	problem = ga_chunk_unpack(PointerGetDatum(packed), *codec, *width, raw, *nbytes);
	if (problem != NULL)
		ga_table_damaged("chunk", hash, problem);
	ga_hash_chunk(raw, *nbytes, &found);
	if (memcmp(&found, hash, sizeof found) != 0)
		ga_table_damaged("chunk", hash, psprintf("Its content has the hash %s.", ga_hash_text(&found)));
	return packed;
}

bytea *
ga_chunk_fetch_packed(const GaHash *hash, char *raw, size_t *nbytes, int *codec, int *width)
{
	MemoryContext caller = CurrentMemoryContext;
	bytea	   *packed = NULL;
	bool		found;

	CHECK_FOR_INTERRUPTS();
	/* SPI leaves its own context current. */
	found = ga_table_fetch(&load_row, hash, false);
	MemoryContextSwitchTo(caller);
	if (found)
		packed = unpack_row(hash, raw, nbytes, codec, width);
	SPI_freetuptable(SPI_tuptable);
	if (packed != NULL)
		return packed;

	*nbytes = ga_delta_size(hash);
	if (*nbytes == 0)
		ga_table_damaged("chunk", hash, "It is missing.");
	ga_chunk_load(hash, *nbytes, raw, true);
	*width = delta_width(hash);
	MemoryContextSwitchTo(caller);
	return ga_chunk_pack(raw, *nbytes, *width, true, codec);
}
