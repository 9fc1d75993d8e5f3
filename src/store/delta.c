/*
 * delta.c
 *		Chunks stored as what differs from another one (delta.h).
 *
 * A row names its base, the leaves that differ as bits of a mask, and holds
 * those leaves, as they are or XORed with the base's, packed as chunks are. Its
 * checksum covers the hash of the base, the mask and the leaves as they are in
 * the content; the checksum of the base's own row covers the rest.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "math/shuffle.h"
#include "port/pg_crc32c.h"
#include "store/delta.h"
#include "store/doom.h"
#include "store/table.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#define TABLE "chunk_delta"

static GaStatement find_delta = {
	"SELECT nbytes::pg_catalog.int4, base::pg_catalog.bytea, leaves::pg_catalog.int4 "
	"FROM gpuagent_store.chunk_delta WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement load_delta = {
	"SELECT nbytes::pg_catalog.int4, base::pg_catalog.bytea, leaves::pg_catalog.int4, mode::pg_catalog.int2, "
	"codec::pg_catalog.int2, width::pg_catalog.int2, data::pg_catalog.bytea, crc::pg_catalog.int4 "
	"FROM gpuagent_store.chunk_delta WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement find_base = {
	"SELECT c.nbytes::pg_catalog.int4, pg_catalog.octet_length(c.data::pg_catalog.bytea) FROM gpuagent_store.chunk c "
	"WHERE c.hash OPERATOR(pg_catalog.=) $1 AND NOT EXISTS "
	"(SELECT FROM gpuagent_store.chunk_delta d WHERE d.hash OPERATOR(pg_catalog.=) $1)", 1, {BYTEAOID}
};
static GaStatement count_deltas = {
	"SELECT pg_catalog.count(*), COALESCE(pg_catalog.sum(pg_catalog.octet_length(d.data)), 0)::pg_catalog.int8 "
	"FROM (SELECT data::pg_catalog.bytea FROM gpuagent_store.chunk_delta WHERE base OPERATOR(pg_catalog.=) $1 LIMIT 64) d",
	1, {BYTEAOID}
};
static GaStatement insert_delta = {
	"INSERT INTO gpuagent_store.chunk_delta (hash, nbytes, base, leaves, mode, codec, width, crc, data) "
	"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
	9, {BYTEAOID, INT4OID, BYTEAOID, INT4OID, INT2OID, INT2OID, INT2OID, INT4OID, BYTEAOID}
};

bool
ga_delta_ready(void)
{
	Oid			schema = get_namespace_oid("gpuagent_store", true);

	return OidIsValid(schema) && OidIsValid(get_relname_relid(TABLE, schema));
}

static size_t
leaf_bytes(size_t nbytes, int leaf)
{
	size_t		begin = (size_t) leaf * GA_LEAF_SIZE;

	return begin >= nbytes ? 0 : Min(GA_LEAF_SIZE, nbytes - begin);
}

size_t
ga_delta_bytes(size_t nbytes, uint16 leaves)
{
	size_t		total = 0;

	for (int i = 0; i < GA_CHUNK_LEAVES; i++)
		if (leaves & (1 << i))
			total += leaf_bytes(nbytes, i);
	return total;
}

/* Leaves of a chunk of so many bytes. */
static uint16
all_leaves(size_t nbytes)
{
	return (uint16) (((uint32) 1 << ((nbytes + GA_LEAF_SIZE - 1) / GA_LEAF_SIZE)) - 1);
}

uint32
ga_delta_checksum(const GaHash *base, uint16 leaves, const char *data, size_t size)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, base, sizeof(GaHash));
	COMP_CRC32C(crc, &leaves, sizeof leaves);
	COMP_CRC32C(crc, data, size);
	FIN_CRC32C(crc);
	return crc;
}

int64
ga_delta_store(const GaHash *hash, size_t nbytes, const GaHash *base, uint16 leaves, const char *data,
			   const char *base_data, int width, bool compress, size_t limit)
{
	size_t		size = ga_delta_bytes(nbytes, leaves);
	char	   *difference = NULL;
	bytea	   *packed;
	int			codec;
	int64		stored = -1;
	GaTableUser owner;

	Assert(leaves != 0 && (leaves & ~all_leaves(nbytes)) == 0);
	if (!ga_delta_ready())
		return -1;
	if (ga_chunk_exists(hash, nbytes))
		return 0;
	owner = ga_table_enter_owner(TABLE);
	if (base_data != NULL)
	{
		difference = palloc(size);
		ga_xor(difference, data, base_data, size);
	}
	packed = ga_chunk_pack(difference ? difference : data, size, width, compress, &codec);
	if (VARSIZE(packed) - VARHDRSZ < limit)
	{
		Datum		args[9];

		args[0] = ga_hash_to_datum(hash);
		args[1] = Int32GetDatum(nbytes);
		args[2] = ga_hash_to_datum(base);
		args[3] = Int32GetDatum(leaves);
		args[4] = Int16GetDatum(difference ? GA_DELTA_XOR : GA_DELTA_REPLACE);
		args[5] = Int16GetDatum(codec);
		args[6] = Int16GetDatum(width);
		args[7] = Int32GetDatum((int32) ga_delta_checksum(base, leaves, data, size));
		args[8] = PointerGetDatum(packed);
		stored = VARSIZE(packed) - VARHDRSZ;
		ga_table_insert(TABLE, NULL, &insert_delta, hash, args);
		pfree(DatumGetPointer(args[0]));
		pfree(DatumGetPointer(args[2]));
	}
	ga_table_leave_owner(owner);
	pfree(packed);
	if (difference)
		pfree(difference);
	return stored;
}

size_t
ga_delta_base_size(const GaHash *base, size_t nbytes)
{
	GaTableUser before;
	size_t		size = 0;

	if (!ga_delta_ready() || ga_doomed(base))
		return 0;
	before = ga_table_enter_owner(TABLE);
	PushActiveSnapshot(GetLatestSnapshot());
	if (ga_table_fetch(&find_base, base, false) && DatumGetInt32(ga_table_column(1, "chunk", base)) == nbytes)
		size = DatumGetInt32(ga_table_column(2, "chunk", base));
	SPI_freetuptable(SPI_tuptable);
	PopActiveSnapshot();
	ga_table_leave_owner(before);
	return size;
}

int
ga_delta_count(const GaHash *base, uint64 *bytes)
{
	GaTableUser before = ga_table_enter_owner(TABLE);
	int			n = 0;

	*bytes = 0;
	if (ga_table_fetch(&count_deltas, base, true))
	{
		n = DatumGetInt64(ga_table_column(1, "chunk", base));
		*bytes = DatumGetInt64(ga_table_column(2, "chunk", base));
	}
	SPI_freetuptable(SPI_tuptable);
	ga_table_leave_owner(before);
	return n;
}

uint16
ga_delta_mask(const char *a, const char *b, size_t nbytes)
{
	uint16		mask = 0;

	for (int i = 0; leaf_bytes(nbytes, i) > 0; i++)
		if (memcmp(a + (size_t) i * GA_LEAF_SIZE, b + (size_t) i * GA_LEAF_SIZE, leaf_bytes(nbytes, i)) != 0)
			mask |= 1 << i;
	return mask;
}

size_t
ga_delta_leaves(const char *data, size_t nbytes, uint16 leaves, char *out)
{
	size_t		at = 0;

	for (int i = 0; i < GA_CHUNK_LEAVES; i++)
		if (leaves & (1 << i))
		{
			memcpy(out + at, data + (size_t) i * GA_LEAF_SIZE, leaf_bytes(nbytes, i));
			at += leaf_bytes(nbytes, i);
		}
	return at;
}

bool
ga_delta_find(const GaHash *hash, GaHash *base, uint16 *leaves)
{
	bool		found;

	if (!ga_delta_ready())
		return false;
	found = ga_table_fetch(&find_delta, hash, true);
	if (found)
	{
		ga_hash_from_datum(ga_table_column(2, "chunk", hash), base);
		*leaves = DatumGetInt32(ga_table_column(3, "chunk", hash));
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

size_t
ga_delta_size(const GaHash *hash)
{
	size_t		nbytes = 0;
	GaHash		base;

	if (!ga_delta_ready())
		return 0;
	if (ga_table_fetch(&find_delta, hash, true))
	{
		nbytes = DatumGetInt32(ga_table_column(1, "chunk", hash));
		ga_hash_from_datum(ga_table_column(2, "chunk", hash), &base);
	}
	SPI_freetuptable(SPI_tuptable);
	return nbytes > 0 && ga_chunk_row_size(&base, NULL) == nbytes ? nbytes : 0;
}

bool
ga_delta_exists(const GaHash *hash, size_t nbytes)
{
	GaTableUser before;
	bool		exists;
	GaHash		base;

	if (!ga_delta_ready())
		return false;
	before = ga_table_enter_owner(TABLE);
	exists = ga_table_present(&find_delta, hash);
	if (exists)
		ga_hash_from_datum(ga_table_column(2, "chunk", hash), &base);
	SPI_freetuptable(SPI_tuptable);
	exists = exists && ga_chunk_row_size(&base, NULL) == nbytes;
	ga_table_leave_owner(before);
	return exists;
}

bool
ga_delta_load(const GaHash *hash, size_t nbytes, char *dst)
{
	GaHash		base;
	int			leaves,
				mode;
	uint32		crc;
	size_t		size,
				at = 0;
	char	   *data;
	const char *problem;

	if (!ga_delta_ready())
		return false;
	if (!ga_table_fetch(&load_delta, hash, false))
	{
		SPI_freetuptable(SPI_tuptable);
		return false;
	}
	if (DatumGetInt32(ga_table_column(1, "chunk", hash)) != nbytes)
		ga_table_damaged("chunk", hash, "It does not have the size that its tensor asks for.");
	ga_hash_from_datum(ga_table_column(2, "chunk", hash), &base);
	leaves = DatumGetInt32(ga_table_column(3, "chunk", hash));
	mode = DatumGetInt16(ga_table_column(4, "chunk", hash));
	if (leaves <= 0 || (leaves & ~(int) all_leaves(nbytes)) != 0)
		ga_table_damaged("chunk", hash, "It replaces leaves that it does not have.");
	if (mode != GA_DELTA_REPLACE && mode != GA_DELTA_XOR)
		ga_table_damaged("chunk", hash, "Its kind of delta is not known to this version.");
	size = ga_delta_bytes(nbytes, leaves);
	data = palloc(size);
	problem = ga_chunk_unpack(ga_table_column(7, "chunk", hash), DatumGetInt16(ga_table_column(5, "chunk", hash)),
							  DatumGetInt16(ga_table_column(6, "chunk", hash)), data, size);
	if (problem != NULL)
		ga_table_damaged("chunk", hash, problem);
	crc = (uint32) DatumGetInt32(ga_table_column(8, "chunk", hash));
	SPI_freetuptable(SPI_tuptable);

	if (!ga_chunk_load_row(&base, nbytes, dst))
		ga_table_damaged("chunk", hash, psprintf("It is stored as a delta of chunk %s, which is missing.", ga_hash_text(&base)));
	for (int i = 0; i < GA_CHUNK_LEAVES; i++)
	{
		size_t		n = leaves & (1 << i) ? leaf_bytes(nbytes, i) : 0;
		char	   *place = dst + (size_t) i * GA_LEAF_SIZE;

		if (n == 0)
			continue;
		if (mode == GA_DELTA_XOR)
			ga_xor(data + at, data + at, place, n);
		memcpy(place, data + at, n);
		at += n;
	}
	if (ga_delta_checksum(&base, leaves, data, size) != crc)
		ga_table_damaged("chunk", hash, "Its checksum does not match.");
	pfree(data);
	return true;
}
