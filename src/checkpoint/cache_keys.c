/*
 * cache_keys.c
 *		The ids of cached agents in the tree, cache/agents-<database>: written now and
 *		then and when the server stops, read when it has started. doc/formats.md has
 *		the format. The maintenance worker calls both as the tables' owner; since the
 *		path is fixed and nothing of the file is shown, EXECUTE is all they ask for.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/names.h"
#include "checkpoint/tree.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "cache/cache.h"
#include "cache/cache_fill.h"
#include "tensor/tensor.h"
#include "utils/memutils.h"

#define MAGIC "GAKEYS01"
#define MAX_FILE ((uint64) 1024 * 1024 * 1024)

/* All numbers little-endian, as the machine's. */
typedef struct KeysHeader
{
	char		magic[8];
	uint64		count;
	uint32		crc;			/* CRC-32C of what follows */
	int32		encoding;		/* of the database, as the server numbers them */
} KeysHeader;

static char *
keys_path(void)
{
	return psprintf("cache/agents-%u", MyDatabaseId);
}

/* The header of the file that is there; false when there is none, or nothing that looks like one. */
static bool
read_header(const char *path, KeysHeader *header, GaFile **file)
{
	if (!ga_path_exists(path))
		return false;
	*file = ga_file_open(path);
	if (ga_file_size(*file) < sizeof(KeysHeader) || ga_file_size(*file) > MAX_FILE)
	{
		ga_file_close(*file);
		return false;
	}
	ga_file_read(*file, 0, header, sizeof(KeysHeader));
	return true;
}

/* save_cache_keys(): ids written, hottest first; 0 when nothing is cached, then the file stays as it is */
PG_FUNCTION_INFO_V1(ga_save_cache_keys);
Datum
ga_save_cache_keys(PG_FUNCTION_ARGS)
{
	char	   *path = keys_path();
	KeysHeader	header = {0};
	KeysHeader	old;
	uint64		nbytes;
	uint8		sha256[GA_SHA256_LEN];
	char	   *ids;
	char	   *temp;
	char	   *draft;
	GaFile	   *file;

	if (!ga_cache_ready())
		PG_RETURN_INT64(0);
	ids = ga_cache_ids(MyDatabaseId, ga_cache_incarnation(), &nbytes, &header.count);
	if (header.count == 0)
		PG_RETURN_INT64(0);
	memcpy(header.magic, MAGIC, sizeof(header.magic));
	header.crc = ga_crc32c(ids, nbytes);
	header.encoding = GetDatabaseEncoding();
	if (read_header(path, &old, &file))
	{
		bool		same = memcmp(&old, &header, sizeof(header)) == 0 && ga_file_size(file) == sizeof(header) + nbytes;

		ga_file_close(file);
		if (same)
			PG_RETURN_INT64(header.count);
	}
	temp = ga_temp_create("cache");
	draft = psprintf("%s/keys", temp);
	file = ga_file_create(draft, sizeof(header) + nbytes);
	ga_file_write(file, &header, sizeof(header));
	ga_file_write(file, ids, nbytes);
	(void) ga_file_finish(file, sha256);
	ga_file_publish(draft, path, true);
	ga_temp_remove(temp);
	PG_RETURN_INT64(header.count);
}

typedef struct Keys
{
	const char *next;
	const char *end;
} Keys;

/* Ids are looked up, no more, so one that is none is as harmless as an agent that is gone; but it ends the list. */
static bool
next_key(void *arg, const char **id, int *id_len)
{
	Keys	   *keys = arg;
	int			len;

	if (keys->next >= keys->end)
		return false;
	len = (uint8) *keys->next++;
	if (len > keys->end - keys->next || !ga_name_is_valid(keys->next, len) || !pg_verifymbstr(keys->next, len, true))
		return false;
	*id = keys->next;
	*id_len = len;
	keys->next += len;
	return true;
}

/* prewarm_cache(): agents of the file that are cached now; takes room that is free and evicts nothing */
PG_FUNCTION_INFO_V1(ga_prewarm_cache);
Datum
ga_prewarm_cache(PG_FUNCTION_ARGS)
{
	char	   *path = keys_path();
	KeysHeader	header;
	GaFile	   *file;
	uint64		nbytes;
	char	   *ids;
	Keys		keys;

	if (!ga_cache_ready() || !read_header(path, &header, &file))
		PG_RETURN_INT64(0);
	nbytes = ga_file_size(file) - sizeof(header);
	ids = palloc_extended(nbytes + 1, MCXT_ALLOC_HUGE);
	ga_file_read(file, sizeof(header), ids, nbytes);
	ga_file_close(file);
	if (memcmp(header.magic, MAGIC, sizeof(header.magic)) != 0 || header.encoding != GetDatabaseEncoding() ||
		header.crc != ga_crc32c(ids, nbytes))
	{
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("\"%s\" is not a list of cached agents of this database", path),
				 errdetail("The cache is not pre-warmed from it.")));
		PG_RETURN_INT64(0);
	}
	keys.next = ids;
	keys.end = ids + nbytes;
	PG_RETURN_INT64(ga_cache_fill(next_key, &keys, false));
}
