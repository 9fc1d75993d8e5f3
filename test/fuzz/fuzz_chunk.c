/*
 * fuzz_chunk.c
 *		Chunks as the tables chunk and chunk_delta have them: raw or compressed, of
 *		their own or as leaves over a base. An input is a description of the rows:
 *
 *		byte 0		bit 0: a row of the chunk, 1: a delta, 2: a base, 3: checksums fit where they can,
 *					4: a row names another size than its tensor asks for
 *		byte 1-3	size that is asked for, less one, modulo 1 MiB
 *		byte 4-5	mask of the delta's leaves
 *		byte 6		low half: kind of delta, high half: codec of all
 *		byte 7		width of all
 *		rest		the bytes of all rows
 *
 * Bytes of an accepted raw row are the chunk's.
 */
#include "base/compat.h"

#include "fuzz.h"
#include "server.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "store/delta.h"
#include "store/table.h"
#include "utils/lsyscache.h"

const char	fuzz_name[] = "chunk";

#define ZSTD_4096 "\x28\xb5\x2f\xfd\x00\x48\x4d\x00\x00\x10\x00\x00\x01\x00\xfb\xf7\x01\x16"	/* 4096 zeros */

const FuzzSeed fuzz_seeds[] = {
	SEED("\x09\x04\0\0\0\0\x00\x01hello"),
	SEED("\x09\x04\0\0\0\0\x00\x04hello"),
	SEED("\x01\xff\x0f\0\0\0\x10\x01" ZSTD_4096),
	SEED("\x01\xff\x0f\0\0\0\x10\x04" ZSTD_4096),
	SEED("\x01\xff\x0f\0\0\0\x10\x03" ZSTD_4096),
	SEED("\x0e\x04\0\0\x01\0\x00\x01hello"),
	SEED("\x0e\x04\0\0\x01\0\x01\x04world"),
	SEED("\x0e\xff\x0f\0\x01\0\x11\x04" ZSTD_4096),
	{NULL, 0}
};

const FuzzSeed fuzz_tokens[] = {
	SEED("\x28\xb5\x2f\xfd"), SEED(ZSTD_4096), SEED("\0\0\0"), SEED("\xff\xff\x0f"), SEED("\xff\xff"), SEED("\0\0"), SEED("\x01"), SEED("\x10"), SEED("\x11"), SEED("\x0e"),
	{NULL, 0}
};

static struct
{
	uint8_t		flags;
	size_t		nbytes;
	int			leaves;
	int			mode;
	int			codec;
	int			width;
	const uint8_t *data;
	size_t		size;
}			rows;

static const GaHash the_chunk = {{1}};
static const GaHash the_base = {{2}};

/* ---- the tables ---- */

SPITupleTable *SPI_tuptable;

static const char *fetched;		/* "c" of the chunk, "d" its delta, "b" its base */

void
SPI_freetuptable(SPITupleTable *tuptable)
{
	(void) tuptable;
}

Oid
get_namespace_oid(const char *nspname, bool missing_ok)
{
	(void) nspname;
	(void) missing_ok;
	return 1;
}

Oid
get_relname_relid(const char *relname, Oid relnamespace)
{
	(void) relname;
	(void) relnamespace;
	return 1;
}

bool
ga_table_fetch(GaStatement *stmt, const GaHash *hash, bool fresh)
{
	bool		is_delta = strstr(stmt->sql, "chunk_delta") != NULL;

	(void) fresh;
	fetched = is_delta ? "d" : memcmp(hash, &the_base, sizeof *hash) == 0 ? "b" : "c";
	return rows.flags & (is_delta ? 2 : fetched[0] == 'b' ? 4 : 1);
}

static Datum
packed_bytes(void)
{
	bytea	   *value = palloc(VARHDRSZ + rows.size);

	SET_VARSIZE(value, VARHDRSZ + rows.size);
	memcpy(VARDATA(value), rows.data, rows.size);
	return PointerGetDatum(value);
}

/* Leaf 0 of a raw delta over a raw base of the same bytes, as delta.c computes it; what others have is not known here. */
static uint32
fitting_checksum(bool is_delta)
{
	char	   *content = palloc(sizeof(GaHash) + 2 + rows.size);
	uint16		leaves = rows.leaves;

	if (!(rows.flags & 8) || rows.codec != 0)
		return 0;
	if (!is_delta)
		return ga_crc32c((const char *) rows.data, rows.size);
	memcpy(content, &the_base, sizeof(GaHash));
	memcpy(content + sizeof(GaHash), &leaves, 2);
	for (size_t i = 0; i < rows.size; i++)
		content[sizeof(GaHash) + 2 + i] = rows.mode == GA_DELTA_XOR ? 0 : rows.data[i];
	return ga_crc32c(content, sizeof(GaHash) + 2 + rows.size);
}

Datum
ga_table_column(int n, const char *what, const GaHash *hash)
{
	bool		is_delta = fetched[0] == 'd';

	(void) what;
	(void) hash;
	if (n == 1)
		return Int32GetDatum(rows.nbytes + (rows.flags >> 4 & 1));
	if (is_delta && n <= 4)
		return n == 2 ? ga_hash_to_datum(&the_base) : n == 3 ? Int32GetDatum(rows.leaves) : Int16GetDatum(rows.mode);
	switch (is_delta ? n - 3 : n)
	{
		case 2:
			return Int16GetDatum(rows.codec);
		case 3:
			return Int16GetDatum(rows.width);
		case 4:
			return packed_bytes();
		default:
			return Int32GetDatum(fitting_checksum(is_delta));
	}
}

void
ga_table_damaged(const char *what, const GaHash *hash, const char *detail)
{
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("%s %02x", what, hash->bytes[0]), errdetail("%s", detail)));
}

char *
ga_hash_text(const GaHash *hash)
{
	return psprintf("%02x", hash->bytes[0]);
}

Datum
ga_hash_to_datum(const GaHash *hash)
{
	return PointerGetDatum(hash);
}

void
ga_hash_from_datum(Datum value, GaHash *hash)
{
	memcpy(hash, DatumGetPointer(value), sizeof *hash);
}

/* Of rows of the table tensor, which no target reads. */
int
ga_shape_from_array(Datum array, int64 *dims)
{
	(void) array;
	(void) dims;
	abort();
}

Datum
ga_shape_to_array(int ndim, const int64 *dims)
{
	(void) ndim;
	(void) dims;
	abort();
}

/* ---- the target ---- */

bool
fuzz_run(const uint8_t *data, size_t size)
{
	char	   *volatile dst = NULL;
	volatile bool accepted = false;

	if (size < 8)
		return false;
	rows.flags = data[0];
	rows.nbytes = (data[1] | data[2] << 8 | (data[3] & 0x0F) << 16) + 1;
	rows.leaves = data[4] | data[5] << 8;
	rows.mode = data[6] & 0x0F;
	rows.codec = data[6] >> 4;
	rows.width = data[7];
	rows.data = data + 8;
	rows.size = size - 8;
	dst = fuzz_allocate(NULL, rows.nbytes);
	FUZZ_TRY
	{
		ga_chunk_load(&the_chunk, rows.nbytes, dst, false);
		accepted = true;
	}
	FUZZ_CATCH
	{
		FUZZ_CHECK(fuzz_is_refusal("XX001"));
		/* Compressed bytes may be right, and only their checksum unknown here. */
		accepted = rows.codec == 1 && ga_decompress((const char *) rows.data, rows.size, rows.width, dst, rows.nbytes);
	}
	FUZZ_END;
	if (accepted && rows.codec == 0 && (rows.flags & 1))
		FUZZ_CHECK(rows.size == rows.nbytes && memcmp(dst, rows.data, rows.nbytes) == 0);
	return accepted;
}
