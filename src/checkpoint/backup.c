/*
 * backup.c
 *		What backups need of C: tables on one snapshot as files of lines, chunks in
 *		packs, and both back. A pack is a safetensors file of some 64 MiB whose tensors
 *		are packed chunks under their hashes (doc/formats.md).
 *
 * Packs and rows that are read are hostile until their hashes were computed here.
 */
#include "base/compat.h"

#include "base/progress.h"
#include "base/throttle.h"
#include "catalog/pg_type.h"
#include "checkpoint/export.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tree.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/delta.h"
#include "store/store.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define PACK_BYTES (64 * 1024 * 1024)
#define PACK_CHUNKS 4096
#define BATCH 64				/* chunks that a cursor is asked for at a time */

static void
check_interrupts_and_reset(MemoryContext context)
{
	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(context);
}

/* ---- tables ---- */

/* Elements of an array argument without NULLs. */
static Datum *
elements(FunctionCallInfo fcinfo, int arg, Oid type, int expected, int *count)
{
	bool		byval = type == INT8OID;
	Datum	   *values;
	bool	   *nulls;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), type, byval ? sizeof(int64) : -1, byval ? FLOAT8PASSBYVAL : false,
					  byval ? TYPALIGN_DOUBLE : TYPALIGN_INT, &values, &nulls, count);
	if (expected >= 0 && *count != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arrays have %d and %d elements", expected, *count)));
	for (int i = 0; i < *count; i++)
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("array element %d must not be NULL", i + 1)));
	return values;
}

/*
 * write_tables(paths, queries) writes the rows of each query of one text column
 * into a new file, a line each, all on one snapshot, which is taken here. A row per file.
 */
PG_FUNCTION_INFO_V1(ga_write_tables);
Datum
ga_write_tables(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			count;
	Datum	   *paths;
	Datum	   *queries;

	ga_files_require_write();
	InitMaterializedSRF(fcinfo, 0);
	paths = elements(fcinfo, 0, TEXTOID, -1, &count);
	queries = elements(fcinfo, 1, TEXTOID, count, &count);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	for (int i = 0; i < count; i++)
	{
		char	   *path = TextDatumGetCString(paths[i]);
		GaFile	   *file = ga_file_create(path, 0);
		uint64		rows = ga_export_lines(file, TextDatumGetCString(queries[i]));
		uint8		sha256[GA_SHA256_LEN];
		uint64		nbytes = ga_file_finish(file, sha256);

		ga_progress_add(rows, nbytes);
		ga_put_file_row(rsinfo, path, rows, nbytes, sha256);
	}
	SPI_finish();
	PopActiveSnapshot();
	PG_RETURN_NULL();
}

/* ---- chunks into packs ---- */

typedef struct Entry
{
	GaHash		hash;
	size_t		at;				/* in the buffer */
	size_t		stored;
	size_t		nbytes;
	int			codec;
	int			width;
} Entry;

typedef struct Packer
{
	ReturnSetInfo *rsinfo;
	const char *temp;			/* private folder */
	const char *folder;			/* of packs */
	GaFile	   *index;
	uint64		indexed;
	Entry	   *entries;
	int			count;
	char	   *buffer;			/* packed chunks, one after the other */
	size_t		filled;
	char	   *raw;			/* content of one */
	MemoryContext scratch;
} Packer;

/* Header of the pack; gives the entries in the order of their data, and where it begins. */
static uint64
pack_header(Packer *packer, StringInfo header, GaStTensor **tensors)
{
	GaStPair   *pairs = palloc(sizeof(GaStPair) * packer->count);

	*tensors = palloc0(sizeof(GaStTensor) * packer->count);
	for (int i = 0; i < packer->count; i++)
	{
		Entry	   *entry = &packer->entries[i];
		GaStTensor *tensor = &(*tensors)[i];

		tensor->name = ga_hash_text(&entry->hash);
		tensor->dtype = GA_U8;
		tensor->ndim = 1;
		tensor->dims[0] = entry->stored;
		tensor->nbytes = entry->stored;
		tensor->source = i;
		pairs[i].key = tensor->name;
		pairs[i].value = psprintf("%zu %d %d", entry->nbytes, entry->codec, entry->width);
	}
	initStringInfo(header);
	(void) ga_st_build(header, *tensors, packer->count, pairs, packer->count);
	return header->len;
}

/* Writes what was gathered as a pack named by its SHA-256, and its lines of the index. */
static void
flush_pack(Packer *packer)
{
	MemoryContext previous = MemoryContextSwitchTo(packer->scratch);
	char	   *draft = psprintf("%s/pack", packer->temp);
	StringInfoData header;
	GaStTensor *tensors;
	uint64		first = pack_header(packer, &header, &tensors);
	GaFile	   *file = ga_file_create(draft, header.len + packer->filled);
	uint8		sha256[GA_SHA256_LEN];
	char	   *name;
	uint64		nbytes;

	ga_file_write(file, header.data, header.len);
	for (int i = 0; i < packer->count; i++)
		ga_file_write(file, packer->buffer + packer->entries[tensors[i].source].at, tensors[i].nbytes);
	nbytes = ga_file_finish(file, sha256);
	name = psprintf("%s.safetensors", ga_hash_text((const GaHash *) sha256));
	for (int i = 0; i < packer->count; i++)
	{
		Entry	   *entry = &packer->entries[tensors[i].source];
		char	   *line = psprintf("{\"hash\":\"%s\",\"nbytes\":%zu,\"codec\":%d,\"width\":%d,\"file\":\"%s\",\"first\":" UINT64_FORMAT ",\"stored\":%zu}\n",
									tensors[i].name, entry->nbytes, entry->codec, entry->width, name,
									first + tensors[i].begin, entry->stored);

		ga_file_write(packer->index, line, strlen(line));
	}
	packer->indexed += packer->count;
	/* A pack of this name has these contents; what a crash left may stand there. */
	ga_file_publish(draft, psprintf("%s/%s", packer->folder, name), true);
	ga_put_file_row(packer->rsinfo, name, packer->count, nbytes, sha256);
	packer->count = 0;
	packer->filled = 0;
	MemoryContextSwitchTo(previous);
	check_interrupts_and_reset(packer->scratch);
}

static void
add_chunk(Packer *packer, const GaHash *hash)
{
	MemoryContext previous = MemoryContextSwitchTo(packer->scratch);
	Entry	   *entry = &packer->entries[packer->count];
	bytea	   *packed;

	entry->hash = *hash;
	packed = ga_chunk_fetch_packed(hash, packer->raw, &entry->nbytes, &entry->codec, &entry->width);
	entry->stored = VARSIZE_ANY_EXHDR(packed);
	entry->at = packer->filled;
	memcpy(packer->buffer + packer->filled, VARDATA_ANY(packed), entry->stored);
	packer->filled += entry->stored;
	packer->count++;
	MemoryContextSwitchTo(previous);
	ga_progress_add(1, entry->stored);
	ga_throttle(entry->stored);
	check_interrupts_and_reset(packer->scratch);
	if (packer->count == PACK_CHUNKS || packer->filled + GA_CHUNK_SIZE > PACK_BYTES)
		flush_pack(packer);
}

/* Puts the chunks into packs whose hashes a query gives. Looking up a chunk takes SPI's result, so hashes are copied first. */
static void
add_chunks(Packer *packer, const char *query)
{
	Portal		portal = ga_export_cursor(query);
	GaHash		hashes[BATCH];

	for (;;)
	{
		int			n;

		SPI_cursor_fetch(portal, true, BATCH);
		n = SPI_processed;
		for (int i = 0; i < n; i++)
		{
			bool		isnull;
			Datum		value = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

			if (isnull)
				elog(ERROR, "a chunk without a hash");
			ga_hash_from_datum(value, &hashes[i]);
		}
		SPI_freetuptable(SPI_tuptable);
		if (n == 0)
			break;
		for (int i = 0; i < n; i++)
			add_chunk(packer, &hashes[i]);
	}
	SPI_cursor_close(portal);
	if (packer->count > 0)
		flush_pack(packer);
}

/*
 * write_packs(temp, folder, index, kept, wanted) puts the chunks whose hashes query wanted gives into new packs of a
 * folder, and their places into a new file of lines, after the lines that query kept gives. Rows: packs by name, then the index.
 */
PG_FUNCTION_INFO_V1(ga_write_packs);
Datum
ga_write_packs(PG_FUNCTION_ARGS)
{
	Packer		packer = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	char	   *index = text_to_cstring(PG_GETARG_TEXT_PP(2));
	uint8		sha256[GA_SHA256_LEN];
	uint64		nbytes;

	ga_files_require_write();
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	packer.temp = text_to_cstring(PG_GETARG_TEXT_PP(0));
	packer.folder = text_to_cstring(PG_GETARG_TEXT_PP(1));
	packer.index = ga_file_create(index, 0);
	packer.entries = palloc(sizeof(Entry) * PACK_CHUNKS);
	packer.buffer = palloc(PACK_BYTES);
	packer.raw = palloc(GA_CHUNK_SIZE);
	packer.scratch = AllocSetContextCreate(CurrentMemoryContext, "chunk of a backup", ALLOCSET_DEFAULT_SIZES);
	packer.indexed = ga_export_lines(packer.index, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	add_chunks(&packer, text_to_cstring(PG_GETARG_TEXT_PP(4)));
	nbytes = ga_file_finish(packer.index, sha256);
	ga_put_file_row(packer.rsinfo, index, packer.indexed, nbytes, sha256);
	SPI_finish();
	PG_RETURN_NULL();
}

/* ---- and back ---- */

static void
bad_entry(const char *path, const GaHash *hash, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("chunk %s of file \"%s\" is damaged", ga_hash_text(hash), path),
			 errdetail("%s", why)));
}

/* Reads, decodes and checks one chunk; its packed bytes. */
static bytea *
read_chunk(GaFile *file, const char *path, const Entry *entry, char *raw)
{
	bytea	   *packed = palloc(VARHDRSZ + entry->stored);
	const char *problem;
	GaHash		found;

	ga_file_read(file, entry->at, VARDATA(packed), entry->stored);
	SET_VARSIZE(packed, VARHDRSZ + entry->stored);
	problem = ga_chunk_unpack(PointerGetDatum(packed), entry->codec, entry->width, raw, entry->nbytes);
	if (problem != NULL)
		bad_entry(path, &entry->hash, problem);
	ga_hash_chunk(raw, entry->nbytes, &found);
	if (memcmp(&found, &entry->hash, sizeof(found)) != 0)
		bad_entry(path, &entry->hash, psprintf("Its content has the hash %s.", ga_hash_text(&found)));
	return packed;
}

/* An entry of the index, whose numbers anybody may have written. */
static void
check_entry(const char *path, uint64 size, const GaHash *hash, int64 first, int64 stored, int64 nbytes, int64 codec, int64 width)
{
	if (nbytes < 1 || nbytes > GA_CHUNK_SIZE || stored < 1 || stored > nbytes)
		bad_entry(path, hash, psprintf("It would have " INT64_FORMAT " bytes in " INT64_FORMAT ".", nbytes, stored));
	if (first < 0 || first > size || stored > size - first)
		bad_entry(path, hash, psprintf("Bytes " INT64_FORMAT " and " INT64_FORMAT " more are not in a file of " UINT64_FORMAT ".",
									   first, stored, size));
	if (codec < 0 || codec > 1 || width < 1 || width > 64)
		bad_entry(path, hash, psprintf("Codec " INT64_FORMAT " and width " INT64_FORMAT " are not known.", codec, width));
}

/*
 * load_pack(path, hashes, first, stored, nbytes, codecs, widths, store) checks chunks of a pack against
 * their hashes, and stores those that the store does not have. Returns the bytes that it did store.
 */
PG_FUNCTION_INFO_V1(ga_load_pack);
Datum
ga_load_pack(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		store = PG_GETARG_BOOL(7);
	int			n;
	Datum	   *hashes = elements(fcinfo, 1, BYTEAOID, -1, &n);
	Datum	   *numbers[5];
	MemoryContext scratch;
	GaFile	   *file;
	char	   *raw;
	int64		total = 0;

	ga_files_require_read();
	for (int i = 0; i < lengthof(numbers); i++)
		numbers[i] = elements(fcinfo, 2 + i, INT8OID, n, &n);
	SPI_connect();
	file = ga_file_open(path);
	raw = palloc(GA_CHUNK_SIZE);
	scratch = AllocSetContextCreate(CurrentMemoryContext, "chunk of a backup", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < n; i++)
	{
		MemoryContext previous = MemoryContextSwitchTo(scratch);
		Entry		entry;
		bytea	   *packed;

		ga_hash_from_datum(hashes[i], &entry.hash);
		check_entry(path, ga_file_size(file), &entry.hash, DatumGetInt64(numbers[0][i]), DatumGetInt64(numbers[1][i]),
					DatumGetInt64(numbers[2][i]), DatumGetInt64(numbers[3][i]), DatumGetInt64(numbers[4][i]));
		entry.at = DatumGetInt64(numbers[0][i]);
		entry.stored = DatumGetInt64(numbers[1][i]);
		entry.nbytes = DatumGetInt64(numbers[2][i]);
		entry.codec = DatumGetInt64(numbers[3][i]);
		entry.width = DatumGetInt64(numbers[4][i]);
		packed = read_chunk(file, path, &entry, raw);
		if (store)
			total += ga_chunk_store_as_is(&entry.hash, raw, entry.nbytes, packed, entry.codec, entry.width);
		MemoryContextSwitchTo(previous);
		ga_progress_add(1, entry.stored);
		ga_throttle(entry.stored);
		check_interrupts_and_reset(scratch);
	}
	ga_file_close(file);
	SPI_finish();
	PG_RETURN_INT64(total);
}

/* Children of a node as a bytea. ERROR XX001 when they do not have its hash. */
PG_FUNCTION_INFO_V1(ga_load_node);
Datum
ga_load_node(PG_FUNCTION_ARGS)
{
	bytea	   *children = PG_GETARG_BYTEA_PP(2);
	size_t		size = VARSIZE_ANY_EXHDR(children);
	int64		nbytes = PG_GETARG_INT64(1);
	GaHash		hash;
	GaHash		list[GA_NODE_FANOUT];
	GaHash		found;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	if (size == 0 || size % sizeof(GaHash) != 0 || size > sizeof(list) || nbytes < 1)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("a node cannot have " INT64_FORMAT " bytes below %zu bytes of children", nbytes, size)));
	memcpy(list, VARDATA_ANY(children), size);
	ga_hash_node(nbytes, size / sizeof(GaHash), list, &found);
	if (memcmp(&found, &hash, sizeof(hash)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("node %s is damaged", ga_hash_text(&hash)),
				 errdetail("Its children have the hash %s.", ga_hash_text(&found))));
	SPI_connect();
	ga_node_store(nbytes, size / sizeof(GaHash), list, &hash);
	SPI_finish();
	PG_RETURN_VOID();
}

/* load_tensor(hash, dtype, shape, root): ERROR XX001 when they do not have that hash. */
PG_FUNCTION_INFO_V1(ga_load_tensor);
Datum
ga_load_tensor(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(1);
	int			dtype = ga_dtype_from_text(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	int64		dims[GA_MAX_RANK];
	int			ndim = ga_shape_from_array(PG_GETARG_DATUM(2), dims);
	uint64		nelem,
				nbytes;
	GaHash		hash,
				root,
				found;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	ga_hash_from_datum(PG_GETARG_DATUM(3), &root);
	if (!ga_shape_size(dtype, ndim, dims, &nelem, &nbytes))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("invalid shape %s for dtype %s", ga_shape_text(ndim, dims), ga_dtype_name(dtype))));
	ga_hash_tensor(dtype, ndim, dims, &root, &found);
	if (memcmp(&found, &hash, sizeof(hash)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("tensor %s is damaged", ga_hash_text(&hash)),
				 errdetail("Its dtype, shape and root have the hash %s.", ga_hash_text(&found))));
	SPI_connect();
	ga_tensor_row_store(dtype, ndim, dims, nbytes, &root, &hash);
	SPI_finish();
	PG_RETURN_VOID();
}
