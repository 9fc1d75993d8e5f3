/*
 * chunk.c
 *		Rows of the store's tables chunk, node and tensor.
 *
 * Rows are immutable and named by the hash of their content, which is computed
 * here and never taken from a caller. There is no unique key on hash: a writer
 * looks for a visible row and else inserts its own. Two transactions that write
 * the same chunk at once both insert it; neither waits for, deadlocks with or
 * fails the other, and readers take any of the rows.
 *
 * Writes run as the owner of the table (as the server's own referential
 * integrity queries do), so that no role needs INSERT on the store: what lands
 * there always has its hash. Reads run as the caller.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "base/names.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/*
 * A statement that is prepared once in a backend. What is read is cast, and NULLs are refused: the tables are
 * their owner's to alter, and no altered table may crash a server.
 */
typedef struct Statement
{
	const char *sql;
	int			nargs;
	Oid			argtypes[6];
	SPIPlanPtr	plan;
} Statement;

static Statement find_chunk = {
	"SELECT nbytes::pg_catalog.int4 FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static Statement load_chunk = {
	"SELECT nbytes::pg_catalog.int4, codec::pg_catalog.int2, width::pg_catalog.int2, data::pg_catalog.bytea, crc::pg_catalog.int4 "
	"FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static Statement insert_chunk = {
	"INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, data, crc) VALUES ($1, $2, $3, $4, $5, $6)",
	6, {BYTEAOID, INT4OID, INT2OID, INT2OID, BYTEAOID, INT4OID}
};
static Statement load_node = {
	"SELECT children::pg_catalog.bytea FROM gpuagent_store.node WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static Statement insert_node = {
	"INSERT INTO gpuagent_store.node (hash, nbytes, children) VALUES ($1, $2, $3)", 3, {BYTEAOID, INT8OID, BYTEAOID}
};
static Statement load_tensor = {
	"SELECT dtype::pg_catalog.text, shape::pg_catalog.int8[], nbytes::pg_catalog.int8, root::pg_catalog.bytea "
	"FROM gpuagent_store.tensor WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static Statement insert_tensor = {
	"INSERT INTO gpuagent_store.tensor (hash, dtype, shape, nbytes, root) VALUES ($1, $2, $3, $4, $5)",
	5, {BYTEAOID, TEXTOID, INT8ARRAYOID, INT8OID, BYTEAOID}
};

/*
 * Runs a statement; returns the number of rows, at most one, which are in SPI_tuptable.
 * 42P01 when the tables are not there, or not there any more.
 */
static uint64
execute(Statement *stmt, Datum *args, bool read_only)
{
	int			rc;

	ga_setup_check();
	if (stmt->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(stmt->sql, stmt->nargs, stmt->argtypes, CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		stmt->plan = plan;
	}
	rc = SPI_execute_plan(stmt->plan, args, NULL, read_only, 1);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

/*
 * Looks up a row, under the active snapshot or, for writers, under a fresh one that also sees what this command
 * inserted a moment ago.
 *
 * The plan is made once, often while the table is empty and a scan of it looks cheap, and then serves a transaction
 * that fills it with a million rows no statistics know of. So scans of the whole table are not offered.
 */
static bool
fetch(Statement *stmt, const GaHash *hash, bool fresh)
{
	Datum		arg = ga_hash_to_datum(hash);
	int			level = NewGUCNestLevel();
	bool		found;

	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	found = execute(stmt, &arg, !fresh) > 0;
	AtEOXact_GUC(true, level);
	pfree(DatumGetPointer(arg));
	return found;
}

static void
report_damaged(const char *what, const GaHash *hash, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("%s %s of the store is damaged", what, ga_hash_text(hash)),
			 errdetail("%s", detail),
			 errhint("Store or import the same content again, after deleting a damaged row; "
					 "gpuagent.verify_integrity('full') finds all damage.")));
}

/* A column of the row that fetch() found; ERROR XX001 for NULL. */
static Datum
column(int n, const char *what, const GaHash *hash)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n, &isnull);

	if (isnull)
		report_damaged(what, hash, "Its row has a NULL.");
	return value;
}

static Oid
table_owner(const char *table)
{
	Oid			relid = get_relname_relid(table, get_namespace_oid("gpuagent_store", false));
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ga_setup_check();
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "table gpuagent_store.%s does not exist", table);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Inserts unless `probe` finds the row, both as the table's owner. An ERROR
 * inside leaves the user id to the (sub)transaction's abort, which restores it.
 */
static bool
insert_as_owner(const char *table, Statement *probe, Statement *insert, const GaHash *hash, Datum *args)
{
	Oid			user;
	int			context;
	bool		found = false;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(table_owner(table),
						   context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	if (probe != NULL)
	{
		found = fetch(probe, hash, true);
		SPI_freetuptable(SPI_tuptable);
	}
	if (!found && args != NULL)
		execute(insert, args, false);
	SetUserIdAndSecContext(user, context);
	return !found;
}

static Datum
make_bytea(const void *data, size_t len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), data, len);
	return PointerGetDatum(result);
}

size_t
ga_chunk_store(const char *data, size_t nbytes, int width, const GaHash *hash)
{
	bytea	   *packed;
	size_t		size = 0;
	Datum		args[6];

	/* Probe first: compressing what is already there would be the larger part of the work. */
	if (!insert_as_owner("chunk", &find_chunk, NULL, hash, NULL))
		return 0;

	packed = palloc(VARHDRSZ + nbytes);
	if (ga_compression)
		size = ga_compress(data, nbytes, width, ga_compression_level, VARDATA(packed));
	args[2] = Int16GetDatum(size > 0 ? 1 : 0);
	if (size == 0)
	{
		memcpy(VARDATA(packed), data, nbytes);
		size = nbytes;
	}
	SET_VARSIZE(packed, VARHDRSZ + size);
	args[0] = ga_hash_to_datum(hash);
	args[1] = Int32GetDatum(nbytes);
	args[3] = Int16GetDatum(width);
	args[4] = PointerGetDatum(packed);
	args[5] = Int32GetDatum((int32) ga_crc32c(data, nbytes));
	insert_as_owner("chunk", NULL, &insert_chunk, hash, args);
	pfree(packed);
	pfree(DatumGetPointer(args[0]));
	return size;
}

size_t
ga_chunk_size(const GaHash *hash)
{
	size_t		nbytes = 0;

	if (fetch(&find_chunk, hash, true))
		nbytes = DatumGetInt32(column(1, "chunk", hash));
	SPI_freetuptable(SPI_tuptable);
	return nbytes;
}

void
ga_chunk_load(const GaHash *hash, size_t nbytes, char *dst, bool verify)
{
	bytea	   *data;
	Pointer		stored;
	size_t		size;
	uint32		crc;

	CHECK_FOR_INTERRUPTS();
	if (!fetch(&load_chunk, hash, false))
		report_damaged("chunk", hash, "It is missing.");
	if (DatumGetInt32(column(1, "chunk", hash)) != nbytes)
		report_damaged("chunk", hash, "It does not have the size that its tensor asks for.");
	crc = (uint32) DatumGetInt32(column(5, "chunk", hash));
	stored = DatumGetPointer(column(4, "chunk", hash));
	data = DatumGetByteaPP(PointerGetDatum(stored));
	size = VARSIZE_ANY_EXHDR(data);
	switch (DatumGetInt16(column(2, "chunk", hash)))
	{
		case 0:
			if (size != nbytes)
				report_damaged("chunk", hash, "Its bytes do not have the size that the row names.");
			memcpy(dst, VARDATA_ANY(data), nbytes);
			break;
		case 1:
			if (!ga_decompress(VARDATA_ANY(data), size,
							   DatumGetInt16(column(3, "chunk", hash)), dst, nbytes))
				report_damaged("chunk", hash, "Its compressed bytes do not decode.");
			break;
		default:
			report_damaged("chunk", hash, "Its codec is not known to this version.");
	}
	if ((Pointer) data != stored)
		pfree(data);
	SPI_freetuptable(SPI_tuptable);
	if (verify)
	{
		GaHash		found;

		ga_hash_chunk(dst, nbytes, &found);
		if (memcmp(&found, hash, sizeof found) != 0)
			report_damaged("chunk", hash, psprintf("Its content has the hash %s.", ga_hash_text(&found)));
	}
	if (ga_crc32c(dst, nbytes) != crc)
		report_damaged("chunk", hash, "Its checksum does not match.");
}

void
ga_node_store(uint64 nbytes, int nchildren, const GaHash *children, const GaHash *hash)
{
	Datum		args[3];

	args[0] = ga_hash_to_datum(hash);
	args[1] = Int64GetDatum(nbytes);
	args[2] = make_bytea(children, nchildren * sizeof(GaHash));
	insert_as_owner("node", &load_node, &insert_node, hash, args);
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
	if (!fetch(&load_node, hash, false))
		report_damaged("node", hash, "It is missing.");
	data = DatumGetByteaPP(column(1, "node", hash));
	n = VARSIZE_ANY_EXHDR(data) / sizeof(GaHash);
	if (n > GA_NODE_FANOUT)
		report_damaged("node", hash, "It has too many children.");
	memcpy(children, VARDATA_ANY(data), n * sizeof(GaHash));
	SPI_freetuptable(SPI_tuptable);

	/* Cheap (2 KiB), and a wrong child would give wrong data without any other sign. */
	ga_hash_node(nbytes, n, children, &found);
	if (memcmp(&found, hash, sizeof found) != 0)
		report_damaged("node", hash, "Its children do not have its hash.");
	return n;
}

void
ga_tensor_row_store(int dtype, int ndim, const int64 *dims, uint64 nbytes, const GaHash *root, const GaHash *hash)
{
	Datum		args[5];

	args[0] = ga_hash_to_datum(hash);
	args[1] = CStringGetTextDatum(ga_dtype_name(dtype));
	args[2] = ga_shape_to_array(ndim, dims);
	args[3] = Int64GetDatum(nbytes);
	args[4] = ga_hash_to_datum(root);
	insert_as_owner("tensor", &load_tensor, &insert_tensor, hash, args);
}

bool
ga_tensor_row_load(const GaHash *hash, int *dtype, int *ndim, int64 *dims, uint64 *nbytes, GaHash *root)
{
	text	   *name;
	uint64		nelem,
				expected;
	GaHash		found;

	if (!fetch(&load_tensor, hash, false))
	{
		SPI_freetuptable(SPI_tuptable);
		return false;
	}
	name = DatumGetTextPP(column(1, "tensor", hash));
	*dtype = ga_dtype_lookup(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	*ndim = ga_shape_from_array(column(2, "tensor", hash), dims);
	*nbytes = DatumGetInt64(column(3, "tensor", hash));
	ga_hash_from_datum(column(4, "tensor", hash), root);
	SPI_freetuptable(SPI_tuptable);

	if (*dtype == 0 || !ga_shape_size(*dtype, *ndim, dims, &nelem, &expected) || expected != *nbytes)
		report_damaged("tensor", hash, "Its dtype, shape and size do not fit together.");
	ga_hash_tensor(*dtype, *ndim, dims, root, &found);
	if (memcmp(&found, hash, sizeof found) != 0)
		report_damaged("tensor", hash, "Its row does not have its hash.");
	return true;
}
