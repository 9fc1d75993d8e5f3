/*
 * export.c
 *		Tensors of the store, query results and text into files. Everything
 *		streams in pieces; nobody holds a tensor or a file whole.
 *
 * A file appears under its name complete or not at all (tree.h). SQL decides
 * what is exported and under which names.
 */
#include "base/compat.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "checkpoint/export.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/stream.h"
#include "checkpoint/tree.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#define SUFFIX ".safetensors"
#define INDEX_SUFFIX ".safetensors.index.json"
#define MAX_TENSORS_PER_FILE 100000

/* What a file's tensor is made of: a tensor of the store, or the one column of a query. */
typedef struct Source
{
	GaHash		hash;
	char	   *query;			/* NULL: the hash counts */
} Source;

/* One file of an export. */
typedef struct Shard
{
	char	   *name;			/* without folders */
	GaStTensor *tensors;
	int			ntensors;
	GaFile	   *file;			/* while it is written */
	uint64		nbytes;
	uint8		sha256[GA_SHA256_LEN];
} Shard;

/* ---- parameters ---- */

/* Elements of a one-dimensional array argument; ERROR 22004 for a NULL among them unless nulls is given. */
static int
array_elements(FunctionCallInfo fcinfo, int arg, Oid type, Datum **values, bool **nulls)
{
	bool	   *isnull;
	int			count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), type, -1, false, TYPALIGN_INT, values, &isnull, &count);
	for (int i = 0; nulls == NULL && i < count; i++)
		if (isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("array element %d must not be NULL", i + 1)));
	if (nulls != NULL)
		*nulls = isnull;
	return count;
}

static void
require_count(int count, int expected)
{
	if (count != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arrays have %d and %d elements", expected, count)));
}

/* Metadata from two text[] arguments of keys and values. */
static GaStPair *
metadata_argument(FunctionCallInfo fcinfo, int arg, int *npairs)
{
	Datum	   *keys;
	Datum	   *values;
	GaStPair   *pairs;

	*npairs = array_elements(fcinfo, arg, TEXTOID, &keys, NULL);
	require_count(array_elements(fcinfo, arg + 1, TEXTOID, &values, NULL), *npairs);
	pairs = palloc(sizeof(GaStPair) * Max(*npairs, 1));
	for (int i = 0; i < *npairs; i++)
	{
		pairs[i].key = TextDatumGetCString(keys[i]);
		pairs[i].value = TextDatumGetCString(values[i]);
	}
	return pairs;
}

/* dtype and shape of a stored tensor. */
static void
describe(const GaHash *hash, GaStTensor *tensor)
{
	GaReader   *reader = ga_reader_open(hash);

	tensor->dtype = reader->dtype;
	tensor->ndim = reader->ndim;
	memcpy(tensor->dims, reader->dims, sizeof(tensor->dims));
	tensor->nbytes = reader->nbytes;
	ga_reader_close(reader);
}

/* Tensors and their sources from the arguments names text[], tensors bytea[]. Connected to SPI. */
static GaStTensor *
tensor_arguments(FunctionCallInfo fcinfo, int arg, Source **sources, int *count)
{
	Datum	   *names;
	Datum	   *hashes;
	GaStTensor *tensors;

	*count = array_elements(fcinfo, arg, TEXTOID, &names, NULL);
	require_count(array_elements(fcinfo, arg + 1, BYTEAOID, &hashes, NULL), *count);
	if (*count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there are no tensors to export")));
	tensors = palloc0(sizeof(GaStTensor) * *count);
	*sources = palloc0(sizeof(Source) * *count);
	for (int i = 0; i < *count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		tensors[i].name = TextDatumGetCString(names[i]);
		tensors[i].source = i;
		ga_hash_from_datum(hashes[i], &(*sources)[i].hash);
		describe(&(*sources)[i].hash, &tensors[i]);
	}
	return tensors;
}

/* ---- streams ---- */

/* True for embedding, agent_state and swarm_tensor. */
static bool
is_tensor_type(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_type) GETSTRUCT(tuple);
	result = form->typnamespace == get_namespace_oid("gpuagent", true) &&
		(strcmp(NameStr(form->typname), "embedding") == 0 ||
		 strcmp(NameStr(form->typname), "agent_state") == 0 ||
		 strcmp(NameStr(form->typname), "swarm_tensor") == 0);
	ReleaseSysCache(tuple);
	return result;
}

/* Writes one row of a query, as the bytes of the tensor's elements; returns their number. */
static uint64
write_value(GaFile *file, const GaStTensor *tensor, Oid type, Datum value, bool isnull)
{
	if (type == FLOAT8OID && tensor->dtype == GA_F64)
	{
		/* NULL is the quiet NaN of all zeros below: our tables hold no NaN where NULL is allowed. */
		uint64		bits = UINT64CONST(0x7FF8000000000000);
		float8		number = isnull ? 0 : DatumGetFloat8(value);

		ga_file_write(file, isnull ? (void *) &bits : (void *) &number, sizeof(number));
		return sizeof(number);
	}
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the query of tensor \"%s\" gives NULL", tensor->name)));
	if (type == INT8OID && tensor->dtype == GA_I64)
	{
		int64		number = DatumGetInt64(value);

		ga_file_write(file, &number, sizeof(number));
		return sizeof(number);
	}
	if (type == BYTEAOID)
	{
		bytea	   *bytes = DatumGetByteaPP(value);

		ga_file_write(file, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
		return VARSIZE_ANY_EXHDR(bytes);
	}
	if (is_tensor_type(type))
	{
		GaView		view;

		ga_view(value, &view);
		if (view.dtype != tensor->dtype)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("the query of tensor \"%s\" gives %s instead of %s", tensor->name,
							ga_dtype_name(view.dtype), ga_dtype_name(tensor->dtype))));
		ga_file_write(file, view.data, view.nbytes);
		return view.nbytes;
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("the query of tensor \"%s\" gives type %s, which is not stored as %s", tensor->name,
					format_type_be(type), ga_dtype_name(tensor->dtype))));
	return 0;
}

/* Writes the rows of a query of one column, one after another; they must fill the tensor exactly. */
static void
write_query(GaFile *file, const GaStTensor *tensor, const char *query)
{
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "exported row", ALLOCSET_DEFAULT_SIZES);
	Portal		portal = ga_export_cursor(query);
	Oid			type = TupleDescAttr(portal->tupDesc, 0)->atttypid;
	uint64		total = 0;

	SPI_tuptable = NULL;
	while (ga_export_fetch(portal))
	{
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bool		isnull;
			Datum		value = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
			MemoryContext previous = MemoryContextSwitchTo(row);

			total += write_value(file, tensor, type, value, isnull);
			MemoryContextSwitchTo(previous);
			MemoryContextReset(row);
			if (total > tensor->nbytes)
				break;
		}
		if (total > tensor->nbytes)
			break;
	}
	if (total != tensor->nbytes)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of tensor \"%s\" gives " UINT64_FORMAT " bytes%s instead of " UINT64_FORMAT,
						tensor->name, total, total > tensor->nbytes ? " or more" : "", tensor->nbytes)));
	SPI_cursor_close(portal);
	MemoryContextDelete(row);
}

/* Begins a safetensors file: makes it, with room for all of it, and writes the header. */
static GaFile *
begin_safetensors(const char *path, GaStTensor *tensors, int ntensors, const GaStPair *pairs, int npairs)
{
	StringInfoData header;
	GaFile	   *file;
	uint64		nbytes;

	initStringInfo(&header);
	nbytes = ga_st_build(&header, tensors, ntensors, pairs, npairs);
	file = ga_file_create(path, nbytes + header.len);
	ga_file_write(file, header.data, header.len);
	pfree(header.data);
	return file;
}

/* Writes the data of a safetensors file, and closes it. Returns its size. */
static uint64
finish_safetensors(GaFile *file, const char *path, const GaStTensor *tensors, int ntensors, const Source *sources, uint8 *sha256)
{
	GaParallelTensor *stored = palloc_extended(sizeof(GaParallelTensor) * Max(ntensors, 1), MCXT_ALLOC_HUGE);
	int			nstored = 0;

	for (int i = 0; i < ntensors; i++)
	{
		const Source *source = &sources[tensors[i].source];

		if (source->query == NULL)
			stored[nstored++] = (GaParallelTensor) {source->hash, tensors[i].nbytes};
		if (nstored > 0 && (source->query != NULL || i == ntensors - 1))
		{
			ga_stream_tensors(file, path, stored, nstored);
			nstored = 0;
		}
		if (source->query != NULL)
			write_query(file, &tensors[i], source->query);
	}
	pfree(stored);
	return ga_file_finish(file, sha256);
}

/* ---- one model: plain file, or shards with an index ---- */

static int
compare_tensor_names(const void *a, const void *b)
{
	return strcmp(((const GaStTensor *) a)->name, ((const GaStTensor *) b)->name);
}

/* Cuts the tensors, in order of their names, into files of at most limit bytes of data. */
static Shard *
plan_shards(const char *stem, GaStTensor *tensors, int count, uint64 limit, int *nshards)
{
	Shard	   *shards = palloc0(sizeof(Shard) * count);
	int			n = 0;
	uint64		filled = 0;

	qsort(tensors, count, sizeof(GaStTensor), compare_tensor_names);
	for (int i = 0; i < count; i++)
	{
		if (n == 0 || shards[n - 1].ntensors == MAX_TENSORS_PER_FILE ||
			(filled > 0 && filled + tensors[i].nbytes > limit))
		{
			shards[n++].tensors = &tensors[i];
			filled = 0;
		}
		shards[n - 1].ntensors++;
		filled += tensors[i].nbytes;
	}
	for (int i = 0; i < n; i++)
		shards[i].name = n == 1 ? psprintf("%s" SUFFIX, stem) :
			psprintf("%s-%05d-of-%05d" SUFFIX, stem, i + 1, n);
	*nshards = n;
	return shards;
}

/* The index of shards, as other writers of such files make it. */
static uint64
write_index(const char *path, const Shard *shards, int nshards, uint8 *sha256)
{
	StringInfoData buf;
	uint64		total = 0;
	GaFile	   *file;

	for (int s = 0; s < nshards; s++)
		for (int i = 0; i < shards[s].ntensors; i++)
			total += shards[s].tensors[i].nbytes;
	initStringInfo(&buf);
	appendStringInfo(&buf, "{\"metadata\":{\"total_size\":" UINT64_FORMAT "},\"weight_map\":{", total);
	for (int s = 0; s < nshards; s++)
		for (int i = 0; i < shards[s].ntensors; i++)
		{
			appendStringInfoString(&buf, s == 0 && i == 0 ? "\n" : ",\n");
			ga_st_append_string(&buf, shards[s].tensors[i].name);
			appendStringInfo(&buf, ":\"%s\"", shards[s].name);
		}
	appendStringInfoString(&buf, "}}\n");

	file = ga_file_create(path, buf.len);
	ga_file_write(file, buf.data, buf.len);
	return ga_file_finish(file, sha256);
}

/* True for STEM.safetensors, its index, and STEM-00001-of-00002.safetensors. */
static bool
belongs_to(const char *name, const char *stem)
{
	const char *digits = "0123456789";
	size_t		len = strlen(stem);

	if (strncmp(name, stem, len) != 0)
		return false;
	name += len;
	if (strcmp(name, SUFFIX) == 0 || strcmp(name, INDEX_SUFFIX) == 0)
		return true;
	return name[0] == '-' && strspn(name + 1, digits) == 5 && strncmp(name + 6, "-of-", 4) == 0 &&
		strspn(name + 10, digits) == 5 && strcmp(name + 15, SUFFIX) == 0;
}

/* Path of a name in a folder; the folder may be the base, "". */
static char *
join(const char *folder, const char *name)
{
	return folder[0] == '\0' ? pstrdup(name) : psprintf("%s/%s", folder, name);
}

/* Files of an earlier export of the same name that this one did not replace. */
static void
remove_stale(const char *folder, const char *stem, const Shard *shards, int nshards, const char *index)
{
	char	  **names;
	int			count;

	names = ga_dir_list(folder, &count);
	for (int i = 0; i < count; i++)
	{
		bool		current = nshards > 1 && strcmp(names[i], index) == 0;

		for (int s = 0; s < nshards && !current; s++)
			current = strcmp(names[i], shards[s].name) == 0;
		if (!current && belongs_to(names[i], stem))
			(void) ga_file_remove(join(folder, names[i]));
	}
}

static void
refuse_existing(const char *folder, const char *stem)
{
	const char *names[] = {psprintf("%s" SUFFIX, stem), psprintf("%s" INDEX_SUFFIX, stem)};

	for (int i = 0; i < 2; i++)
		if (ga_path_exists(join(folder, names[i])))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_FILE),
					 errmsg("file \"%s\" already exists", join(folder, names[i])),
					 errhint("Use overwrite => true to replace it.")));
}

/* Folder and stem of a path, without the ending .safetensors. */
static void
split_path(const char *path, char **folder, char **stem)
{
	const char *slash = strrchr(path, '/');
	size_t		len;

	ga_path_check(path);
	*folder = slash == NULL ? pstrdup("") : pnstrdup(path, slash - path);
	*stem = pstrdup(slash == NULL ? path : slash + 1);
	len = strlen(*stem);
	if (len > strlen(SUFFIX) && strcmp(*stem + len - strlen(SUFFIX), SUFFIX) == 0)
		(*stem)[len - strlen(SUFFIX)] = '\0';
	ga_path_check(*stem);
}

/*
 * export_tensors(path, names, tensors, keys, values, overwrite, shard_bytes)
 * writes stored tensors under names into PATH.safetensors, or into shards with
 * an index when they have more than shard_bytes. A row per file.
 */
PG_FUNCTION_INFO_V1(ga_export_tensors);
Datum
ga_export_tensors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		overwrite = PG_GETARG_BOOL(5);
	int64		limit = PG_GETARG_INT64(6);
	char	   *folder;
	char	   *stem;
	char	   *index;
	char	   *temp;
	GaStPair   *pairs;
	int			npairs;
	GaStTensor *tensors;
	Source	   *sources;
	int			count;
	Shard	   *shards;
	int			nshards;

	ga_files_require_write();
	InitMaterializedSRF(fcinfo, 0);
	split_path(text_to_cstring(PG_GETARG_TEXT_PP(0)), &folder, &stem);
	index = psprintf("%s" INDEX_SUFFIX, stem);
	pairs = metadata_argument(fcinfo, 3, &npairs);
	SPI_connect();
	tensors = tensor_arguments(fcinfo, 1, &sources, &count);
	shards = plan_shards(stem, tensors, count, limit, &nshards);
	temp = ga_temp_create(folder);
	if (!overwrite)
		refuse_existing(folder, stem);

	/* Room for all shards first: a full disk is found before anything is written. */
	for (int s = 0; s < nshards; s++)
		shards[s].file = begin_safetensors(join(temp, shards[s].name), shards[s].tensors, shards[s].ntensors, pairs, npairs);
	for (int s = 0; s < nshards; s++)
	{
		shards[s].nbytes = finish_safetensors(shards[s].file, join(temp, shards[s].name), shards[s].tensors,
											  shards[s].ntensors, sources, shards[s].sha256);
		ga_put_file_row(rsinfo, join(folder, shards[s].name), shards[s].ntensors, shards[s].nbytes, shards[s].sha256);
	}
	if (nshards > 1)
	{
		uint8		sha256[GA_SHA256_LEN];
		uint64		nbytes = write_index(join(temp, index), shards, nshards, sha256);

		ga_put_file_row(rsinfo, join(folder, index), 0, nbytes, sha256);
	}
	for (int s = 0; s < nshards; s++)
		ga_file_publish(join(temp, shards[s].name), join(folder, shards[s].name), overwrite);
	if (nshards > 1)
		ga_file_publish(join(temp, index), join(folder, index), overwrite);
	if (overwrite)
		remove_stale(folder, stem, shards, nshards, index);
	ga_temp_remove(temp);
	SPI_finish();
	PG_RETURN_NULL();
}

/*
 * pack_tensors(names, tensors, keys, values) gives the same file as one bytea.
 * ERROR 54000 when it would not fit.
 */
PG_FUNCTION_INFO_V1(ga_pack_tensors);
Datum
ga_pack_tensors(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	GaStPair   *pairs;
	int			npairs;
	GaStTensor *tensors;
	Source	   *sources;
	int			count;
	StringInfoData header;
	uint64		nbytes;
	bytea	   *result;

	pairs = metadata_argument(fcinfo, 2, &npairs);
	SPI_connect();
	tensors = tensor_arguments(fcinfo, 0, &sources, &count);
	initStringInfo(&header);
	nbytes = ga_st_build(&header, tensors, count, pairs, npairs);
	if (nbytes + header.len + VARHDRSZ > MaxAllocSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a safetensors file of " UINT64_FORMAT " bytes does not fit into a bytea", nbytes + header.len),
				 errhint("Use gpuagent.export_safetensors() or gpuagent.tensor_chunks().")));
	result = MemoryContextAlloc(caller, VARHDRSZ + header.len + nbytes);
	SET_VARSIZE(result, VARHDRSZ + header.len + nbytes);
	memcpy(VARDATA(result), header.data, header.len);
	for (int i = 0; i < count; i++)
	{
		GaReader   *reader = ga_reader_open(&sources[tensors[i].source].hash);

		ga_reader_read(reader, 0, reader->nbytes, VARDATA(result) + header.len + tensors[i].begin, true);
		ga_reader_close(reader);
	}
	SPI_finish();
	PG_RETURN_BYTEA_P(result);
}

/* ---- parts of a checkpoint, written into a private folder ---- */

/* A shape from the text form of a bigint[]. */
static int
shape_from_text(Datum shape, int64 *dims)
{
	Oid			input;
	Oid			param;

	getTypeInputInfo(INT8ARRAYOID, &input, &param);
	return ga_shape_from_array(OidInputFunctionCall(input, TextDatumGetCString(shape), param, -1), dims);
}

/*
 * write_safetensors(path, names, tensors, dtypes, shapes, queries, keys, values):
 * tensor i is tensors[i] of the store, or, where that is NULL, the rows of the
 * one column of queries[i], which fill dtypes[i] of shapes[i].
 */
PG_FUNCTION_INFO_V1(ga_write_safetensors);
Datum
ga_write_safetensors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum	   *names, *hashes, *dtypes, *shapes, *queries;
	bool	   *no_hash, *no_dtype, *no_shape, *no_query;
	int			count;
	GaStTensor *tensors;
	Source	   *sources;
	GaStPair   *pairs;
	int			npairs;
	uint8		sha256[GA_SHA256_LEN];
	uint64		nbytes;

	ga_files_require_write();
	InitMaterializedSRF(fcinfo, 0);
	count = array_elements(fcinfo, 1, TEXTOID, &names, NULL);
	require_count(array_elements(fcinfo, 2, BYTEAOID, &hashes, &no_hash), count);
	require_count(array_elements(fcinfo, 3, TEXTOID, &dtypes, &no_dtype), count);
	require_count(array_elements(fcinfo, 4, TEXTOID, &shapes, &no_shape), count);
	require_count(array_elements(fcinfo, 5, TEXTOID, &queries, &no_query), count);
	pairs = metadata_argument(fcinfo, 6, &npairs);

	SPI_connect();
	tensors = palloc0(sizeof(GaStTensor) * Max(count, 1));
	sources = palloc0(sizeof(Source) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		tensors[i].name = TextDatumGetCString(names[i]);
		tensors[i].source = i;
		if (!no_hash[i])
		{
			ga_hash_from_datum(hashes[i], &sources[i].hash);
			describe(&sources[i].hash, &tensors[i]);
		}
		else if (no_dtype[i] || no_shape[i] || no_query[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("tensor \"%s\" has neither a hash nor a query with dtype and shape", tensors[i].name)));
		else
		{
			char	   *dtype = TextDatumGetCString(dtypes[i]);

			tensors[i].dtype = ga_dtype_from_text(dtype, strlen(dtype));
			tensors[i].ndim = shape_from_text(shapes[i], tensors[i].dims);
			sources[i].query = TextDatumGetCString(queries[i]);
		}
	}
	nbytes = finish_safetensors(begin_safetensors(path, tensors, count, pairs, npairs), path, tensors, count, sources, sha256);
	ga_put_file_row(rsinfo, path, count, nbytes, sha256);
	SPI_finish();
	PG_RETURN_NULL();
}
