/*
 * doom.c
 *		The writers' side of garbage collection (doom.h, collect.c).
 */
#include "base/compat.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/guc.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "store/delta.h"
#include "store/doom.h"
#include "store/table.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Doomed, and without a row of a transaction that is not older than this one, nor than the doom as far as that is noted. */
static GaStatement find_doomed = {
	"SELECT 1 FROM gpuagent_store.doomed d LEFT JOIN gpuagent_store.doom b ON b.batch OPERATOR(pg_catalog.=) d.batch "
	"WHERE d.hash OPERATOR(pg_catalog.=) $1 AND NOT EXISTS (SELECT FROM ("
	"SELECT t.xmin FROM gpuagent_store.tensor t WHERE t.hash OPERATOR(pg_catalog.=) $1 "
	"UNION ALL SELECT n.xmin FROM gpuagent_store.node n WHERE n.hash OPERATOR(pg_catalog.=) $1 "
	"UNION ALL SELECT c.xmin FROM gpuagent_store.chunk c WHERE c.hash OPERATOR(pg_catalog.=) $1 "
	"UNION ALL SELECT e.xmin FROM gpuagent_store.chunk_delta e WHERE e.hash OPERATOR(pg_catalog.=) $1) r "
	"WHERE gpuagent_store.changed_since(r.xmin, "
	"LEAST(b.below, pg_catalog.pg_current_xact_id_if_assigned(), gpuagent_store.next_xid())))", 1, {BYTEAOID}
};
static GaStatement find_tensor = {
	"SELECT root::pg_catalog.bytea, nbytes::pg_catalog.int8 FROM gpuagent_store.tensor WHERE hash OPERATOR(pg_catalog.=) $1",
	1, {BYTEAOID}
};
static GaStatement find_node = {
	"SELECT children::pg_catalog.bytea FROM gpuagent_store.node WHERE hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement copy_tensor = {
	"INSERT INTO gpuagent_store.tensor (hash, dtype, shape, nbytes, root) SELECT hash, dtype, shape, nbytes, root "
	"FROM gpuagent_store.tensor WHERE hash OPERATOR(pg_catalog.=) $1 LIMIT 1", 1, {BYTEAOID}
};
static GaStatement copy_node = {
	"INSERT INTO gpuagent_store.node (hash, nbytes, children) SELECT hash, nbytes, children "
	"FROM gpuagent_store.node WHERE hash OPERATOR(pg_catalog.=) $1 LIMIT 1", 1, {BYTEAOID}
};
static GaStatement copy_chunk = {
	"INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, crc, data) SELECT hash, nbytes, codec, width, crc, data "
	"FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1 LIMIT 1", 1, {BYTEAOID}
};
static GaStatement copy_chunk_level = {
	"INSERT INTO gpuagent_store.chunk (hash, nbytes, codec, width, crc, data, level) SELECT hash, nbytes, codec, width, crc, data, level "
	"FROM gpuagent_store.chunk WHERE hash OPERATOR(pg_catalog.=) $1 LIMIT 1", 1, {BYTEAOID}
};
static GaStatement find_whole = {
	"SELECT d.nbytes::pg_catalog.int4, d.width::pg_catalog.int2 FROM gpuagent_store.chunk_delta d "
	"JOIN gpuagent_store.chunk c ON c.hash OPERATOR(pg_catalog.=) d.base WHERE d.hash OPERATOR(pg_catalog.=) $1", 1, {BYTEAOID}
};
static GaStatement insert_upload = {
	"INSERT INTO gpuagent_store.upload (hash) VALUES ($1)", 1, {BYTEAOID}
};

/* A table of the fourth step of setup(), which a database may not have had: then nothing is collected. */
static Oid
table_oid(const char *name)
{
	Oid			schema = get_namespace_oid("gpuagent_store", true);

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

static bool
can_write(void)
{
	return !XactReadOnly && !RecoveryInProgress() && !IsInParallelMode();
}

bool
ga_doom_pending(void)
{
	Oid			relid = table_oid("doomed");
	Relation	rel;
	bool		empty;

	/* First: from here on whoever dooms waits for this transaction. */
	if (can_write())
		(void) GetTopTransactionId();
	if (!OidIsValid(relid))
		return false;

	/* A table without a page has no row that is committed, or will be before a later transaction id is given out. */
	rel = table_open(relid, AccessShareLock);
	empty = rel->rd_rel->relkind == RELKIND_RELATION && RelationGetNumberOfBlocks(rel) == 0;
	table_close(rel, NoLock);
	return !empty;
}

bool
ga_doomed(const GaHash *hash)
{
	GaTableUser before;
	bool		doomed;

	if (!ga_doom_pending())
		return false;
	before = ga_table_enter_owner("doomed");
	doomed = ga_table_fetch_latest(&find_doomed, hash);
	SPI_freetuptable(SPI_tuptable);
	ga_table_leave_owner(before);
	return doomed;
}

/* As the owner of the table, who alone may insert. */
static bool
copy(const char *table, GaStatement *stmt, const GaHash *hash)
{
	GaTableUser before = ga_table_enter_owner(table);
	bool		copied = ga_table_run_latest(stmt, hash);

	ga_table_leave_owner(before);
	return copied;
}

/* The first column, a hash or hashes, of the row under the newest snapshot; NULL when there is none. */
static GaHash *
hashes_of(const char *table, GaStatement *stmt, const GaHash *hash, int *n)
{
	GaTableUser before = ga_table_enter_owner(table);
	GaHash	   *hashes = NULL;

	if (ga_table_fetch_latest(stmt, hash))
	{
		bytea	   *data = DatumGetByteaPP(ga_table_column(1, table, hash));
		int			count = VARSIZE_ANY_EXHDR(data) / sizeof(GaHash);

		*n = Min(count, GA_NODE_FANOUT);
		hashes = palloc(sizeof(GaHash) * Max(*n, 1));
		memcpy(hashes, VARDATA_ANY(data), sizeof(GaHash) * *n);
	}
	SPI_freetuptable(SPI_tuptable);
	ga_table_leave_owner(before);
	return hashes;
}

/*
 * A delta is stored whole. Copied it would need its base: a row of chunk that stays, which is more than that the base's
 * hash is not doomed, or has a young row, for that may be a delta itself; and whoever deletes the base, as garbage or
 * since it is a delta, too, does not wait for transactions that came after that was decided.
 */
static bool
keep_chunk(const GaHash *hash)
{
	GaTableUser before;
	bool		found;

	if (copy("chunk", ga_table_has_column("chunk", "level") ? &copy_chunk_level : &copy_chunk, hash))
		return true;
	if (!ga_delta_ready())
		return false;
	before = ga_table_enter_owner("chunk_delta");
	PushActiveSnapshot(GetLatestSnapshot());
	found = ga_table_fetch(&find_whole, hash, false);
	if (found)
	{
		size_t		nbytes = DatumGetInt32(ga_table_column(1, "chunk", hash));
		int			width = DatumGetInt16(ga_table_column(2, "chunk", hash));
		char	   *data;

		SPI_freetuptable(SPI_tuptable);
		if (nbytes < 1 || nbytes > GA_CHUNK_SIZE)
			ga_table_damaged("chunk", hash, "Its size is not one of a chunk.");
		data = palloc(nbytes);
		ga_chunk_load(hash, nbytes, data, true);
		(void) ga_chunk_store(data, nbytes, width, hash);
		pfree(data);
	}
	else
		SPI_freetuptable(SPI_tuptable);
	PopActiveSnapshot();
	ga_table_leave_owner(before);
	return found;
}

/* A node or chunk, with all that is doomed below. What is not doomed has nothing below that would be deleted. */
static bool
keep_below(const GaHash *hash)
{
	GaHash	   *children;
	int			n;
	bool		kept = true;

	CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	if (!ga_doomed(hash))
		return true;
	children = hashes_of("node", &find_node, hash, &n);
	if (children == NULL)
		return keep_chunk(hash);
	for (int i = 0; i < n && kept; i++)
		kept = keep_below(&children[i]);
	pfree(children);
	return kept && copy("node", &copy_node, hash);
}

bool
ga_tensor_keep(const GaHash *tensor)
{
	GaTableUser before;
	GaHash	   *root;
	int			n;
	uint64		nbytes = 0;
	bool		doomed = ga_doomed(tensor);
	bool		found;

	before = ga_table_enter_owner("tensor");
	found = ga_table_present(&find_tensor, tensor);
	if (found)
		nbytes = DatumGetInt64(ga_table_column(2, "tensor", tensor));
	SPI_freetuptable(SPI_tuptable);
	ga_table_leave_owner(before);
	if (!doomed || !found)
		return found;
	root = hashes_of("tensor", &find_tensor, tensor, &n);
	if (root == NULL || n != 1)
		return false;
	return (nbytes == 0 || keep_below(root)) && copy("tensor", &copy_tensor, tensor);
}

void
ga_tensor_require(const GaHash *tensor)
{
	if (!ga_tensor_keep(tensor))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tensor %s does not exist", ga_hash_text(tensor)),
				 errhint("Store its chunks and then call gpuagent.store_tensor().")));
}

size_t
ga_chunk_keep(const GaHash *chunk)
{
	bool		doomed = ga_doomed(chunk);
	size_t		nbytes = ga_chunk_size(chunk);

	if (nbytes == 0)
		return 0;
	if (doomed)
		return keep_chunk(chunk) ? nbytes : 0;
	if (IsolationUsesXactSnapshot() && !ga_chunk_exists(chunk, nbytes))
		return 0;
	return nbytes;
}

void
ga_upload_note(const GaHash *hash)
{
	GaTableUser before;

	if (ga_collect_grace == 0 || !can_write() || !OidIsValid(table_oid("upload")))
		return;
	before = ga_table_enter_owner("upload");
	(void) ga_table_run_latest(&insert_upload, hash);
	ga_table_leave_owner(before);
}
