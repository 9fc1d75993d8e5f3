/*
 * chunk.c
 *		Rows of the store's tables chunk, node and tensor (table.h says how rows
 *		are written and read). A chunk may also be stored as a delta (delta.c):
 *		readers of chunks never notice.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "store/delta.h"
#include "store/doom.h"
#include "store/table.h"
#include "utils/builtins.h"

static GaStatement find_chunk = {
	"SELECT nbytes::pg_catalog.int4, pg_catalog.octet_length(data::pg_catalog.bytea) "
	"FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement load_chunk = {
	"SELECT nbytes::pg_catalog.int4, codec::pg_catalog.int2, width::pg_catalog.int2, data::pg_catalog.bytea, crc::pg_catalog.int4 "
	"FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement insert_chunk = {
	"INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, data, crc) VALUES ($1, $2, $3, $4, $5, $6)",
	6, {BYTEAOID, INT4OID, INT2OID, INT2OID, BYTEAOID, INT4OID}
};
static GaStatement insert_chunk_level = {
	"INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, data, crc, level) VALUES ($1, $2, $3, $4, $5, $6, "
	"CASE WHEN $7 OPERATOR(pg_catalog.>) 0 THEN $7 END)",
	7, {BYTEAOID, INT4OID, INT2OID, INT2OID, BYTEAOID, INT4OID, INT2OID}
};
static GaStatement load_node = {
	"SELECT children::pg_catalog.bytea FROM gpuagent_store.node WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement insert_node = {
	"INSERT INTO gpuagent_store.node (hash, nbytes, children) VALUES ($1, $2, $3)", 3, {BYTEAOID, INT8OID, BYTEAOID}
};
static GaStatement load_tensor = {
	"SELECT dtype::pg_catalog.text, shape::pg_catalog.int8[], nbytes::pg_catalog.int8, root::pg_catalog.bytea "
	"FROM gpuagent_store.tensor WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement insert_tensor = {
	"INSERT INTO gpuagent_store.tensor (hash, dtype, shape, nbytes, root) VALUES ($1, $2, $3, $4, $5)",
	5, {BYTEAOID, TEXTOID, INT8ARRAYOID, INT8OID, BYTEAOID}
};

size_t
ga_chunk_store(const char *data, size_t nbytes, int width, const GaHash *hash)
{
	return ga_chunk_store_packed(data, nbytes, width, hash, true);
}

size_t
ga_chunk_store_packed(const char *data, size_t nbytes, int width, const GaHash *hash, bool compress)
{
	bytea	   *packed;
	int			codec;
	Datum		args[7];
	size_t		size;

	/* Probe first: compressing what is already there would be the larger part of the work. */
	if (ga_chunk_exists(hash, nbytes))
		return 0;

	packed = ga_chunk_pack(data, nbytes, width, compress, &codec);
	size = VARSIZE(packed) - VARHDRSZ;
	args[0] = ga_hash_to_datum(hash);
	args[1] = Int32GetDatum(nbytes);
	args[2] = Int16GetDatum(codec);
	args[3] = Int16GetDatum(width);
	args[4] = PointerGetDatum(packed);
	args[5] = Int32GetDatum((int32) ga_crc32c(data, nbytes));
	args[6] = Int16GetDatum(compress && ga_compression ? ga_compression_level : 0);
	ga_table_insert("chunk", NULL, ga_table_has_column("chunk", "level") ? &insert_chunk_level : &insert_chunk, hash, args);
	pfree(packed);
	pfree(DatumGetPointer(args[0]));
	return size;
}

bool
ga_chunk_exists(const GaHash *hash, size_t nbytes)
{
	GaTableUser before = ga_table_enter_owner("chunk");
	bool		found = false;

	if (!ga_doomed(hash))
	{
		found = ga_table_present(&find_chunk, hash);
		SPI_freetuptable(SPI_tuptable);
		found = found || ga_delta_exists(hash, nbytes);
	}
	ga_table_leave_owner(before);
	return found;
}

bytea *
ga_chunk_pack(const char *data, size_t nbytes, int width, bool compress, int *codec)
{
	bytea	   *packed = palloc(VARHDRSZ + nbytes);
	size_t		size = 0;

	if (compress && ga_compression)
		size = ga_compress(data, nbytes, width, ga_compression_level, VARDATA(packed));
	*codec = size > 0 ? 1 : 0;
	if (size == 0)
	{
		memcpy(VARDATA(packed), data, nbytes);
		size = nbytes;
	}
	SET_VARSIZE(packed, VARHDRSZ + size);
	return packed;
}

const char *
ga_chunk_unpack(Datum packed, int codec, int width, char *dst, size_t nbytes)
{
	Pointer		stored = DatumGetPointer(packed);
	bytea	   *data = DatumGetByteaPP(packed);
	size_t		size = VARSIZE_ANY_EXHDR(data);
	const char *problem = NULL;

	if (codec == 0)
	{
		if (size == nbytes)
			memcpy(dst, VARDATA_ANY(data), nbytes);
		else
			problem = "Its bytes do not have the size that the row names.";
	}
	else if (codec != 1)
		problem = "Its codec is not known to this version.";
	else if (!ga_decompress(VARDATA_ANY(data), size, width, dst, nbytes))
		problem = "Its compressed bytes do not decode.";
	if ((Pointer) data != stored)
		pfree(data);
	return problem;
}

size_t
ga_chunk_size(const GaHash *hash)
{
	size_t		nbytes = ga_chunk_row_size(hash, NULL);

	return nbytes > 0 ? nbytes : ga_delta_size(hash);
}

size_t
ga_chunk_row_size(const GaHash *hash, size_t *stored)
{
	size_t		nbytes = 0;

	if (ga_table_fetch(&find_chunk, hash, true))
	{
		nbytes = DatumGetInt32(ga_table_column(1, "chunk", hash));
		if (stored != NULL)
			*stored = DatumGetInt32(ga_table_column(2, "chunk", hash));
	}
	SPI_freetuptable(SPI_tuptable);
	return nbytes;
}

/* Decodes the chunk's own row into dst and gives the checksum that the content should have; false when there is no row. */
static bool
decode_row(const GaHash *hash, size_t nbytes, char *dst, uint32 *crc)
{
	const char *problem;

	if (!ga_table_fetch(&load_chunk, hash, false))
	{
		SPI_freetuptable(SPI_tuptable);
		return false;
	}
	if (DatumGetInt32(ga_table_column(1, "chunk", hash)) != nbytes)
		ga_table_damaged("chunk", hash, "It does not have the size that its tensor asks for.");
	*crc = (uint32) DatumGetInt32(ga_table_column(5, "chunk", hash));
	problem = ga_chunk_unpack(ga_table_column(4, "chunk", hash), DatumGetInt16(ga_table_column(2, "chunk", hash)),
							  DatumGetInt16(ga_table_column(3, "chunk", hash)), dst, nbytes);
	if (problem != NULL)
		ga_table_damaged("chunk", hash, problem);
	SPI_freetuptable(SPI_tuptable);
	return true;
}

static void
check_crc(const GaHash *hash, const char *data, size_t nbytes, uint32 crc)
{
	if (ga_crc32c(data, nbytes) != crc)
		ga_table_damaged("chunk", hash, "Its checksum does not match.");
}

bool
ga_chunk_load_row(const GaHash *hash, size_t nbytes, char *dst)
{
	uint32		crc;

	if (!decode_row(hash, nbytes, dst, &crc))
		return false;
	check_crc(hash, dst, nbytes, crc);
	return true;
}

void
ga_chunk_load(const GaHash *hash, size_t nbytes, char *dst, bool verify)
{
	uint32		crc = 0;
	bool		own_row;

	CHECK_FOR_INTERRUPTS();
	own_row = decode_row(hash, nbytes, dst, &crc);
	if (!own_row && !ga_delta_load(hash, nbytes, dst))
		ga_table_damaged("chunk", hash, "It is missing.");
	if (verify)
	{
		GaHash		found;

		ga_hash_chunk(dst, nbytes, &found);
		if (memcmp(&found, hash, sizeof found) != 0)
			ga_table_damaged("chunk", hash, psprintf("Its content has the hash %s.", ga_hash_text(&found)));
	}
	if (own_row)
		check_crc(hash, dst, nbytes, crc);
}

void
ga_node_store(uint64 nbytes, int nchildren, const GaHash *children, const GaHash *hash)
{
	Datum		args[3];

	args[0] = ga_hash_to_datum(hash);
	args[1] = Int64GetDatum(nbytes);
	args[2] = ga_table_bytea(children, nchildren * sizeof(GaHash));
	ga_table_insert("node", &load_node, &insert_node, hash, args);
	pfree(DatumGetPointer(args[0]));
	pfree(DatumGetPointer(args[2]));
}

int
ga_node_load(const GaHash *hash, uint64 nbytes, GaHash *children)
{
	bytea	   *data;
	int			n;
	GaHash		found;

	CHECK_FOR_INTERRUPTS();
	if (!ga_table_fetch(&load_node, hash, false))
		ga_table_damaged("node", hash, "It is missing.");
	data = DatumGetByteaPP(ga_table_column(1, "node", hash));
	n = VARSIZE_ANY_EXHDR(data) / sizeof(GaHash);
	if (n > GA_NODE_FANOUT)
		ga_table_damaged("node", hash, "It has too many children.");
	memcpy(children, VARDATA_ANY(data), n * sizeof(GaHash));
	SPI_freetuptable(SPI_tuptable);

	/* Cheap (2 KiB), and a wrong child would give wrong data without any other sign. */
	ga_hash_node(nbytes, n, children, &found);
	if (memcmp(&found, hash, sizeof found) != 0)
		ga_table_damaged("node", hash, "Its children do not have its hash.");
	return n;
}

bool
ga_tensor_row_store(int dtype, int ndim, const int64 *dims, uint64 nbytes, const GaHash *root, const GaHash *hash)
{
	Datum		args[5];

	args[0] = ga_hash_to_datum(hash);
	args[1] = CStringGetTextDatum(ga_dtype_name(dtype));
	args[2] = ga_shape_to_array(ndim, dims);
	args[3] = Int64GetDatum(nbytes);
	args[4] = ga_hash_to_datum(root);
	return ga_table_insert("tensor", &load_tensor, &insert_tensor, hash, args);
}

bool
ga_tensor_row_load(const GaHash *hash, int *dtype, int *ndim, int64 *dims, uint64 *nbytes, GaHash *root)
{
	text	   *name;
	uint64		nelem,
				expected;
	GaHash		found;

	if (!ga_table_fetch(&load_tensor, hash, false))
	{
		SPI_freetuptable(SPI_tuptable);
		return false;
	}
	name = DatumGetTextPP(ga_table_column(1, "tensor", hash));
	*dtype = ga_dtype_lookup(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	*ndim = ga_shape_from_array(ga_table_column(2, "tensor", hash), dims);
	*nbytes = DatumGetInt64(ga_table_column(3, "tensor", hash));
	ga_hash_from_datum(ga_table_column(4, "tensor", hash), root);
	SPI_freetuptable(SPI_tuptable);

	if (*dtype == 0 || !ga_shape_size(*dtype, *ndim, dims, &nelem, &expected) || expected != *nbytes)
		ga_table_damaged("tensor", hash, "Its dtype, shape and size do not fit together.");
	ga_hash_tensor(*dtype, *ndim, dims, root, &found);
	if (memcmp(&found, hash, sizeof found) != 0)
		ga_table_damaged("tensor", hash, "Its row does not have its hash.");
	return true;
}
