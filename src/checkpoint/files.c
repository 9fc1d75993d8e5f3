/*
 * files.c
 *		SQL access to the tree of files: text in and out, private folders, names.
 *		Every function checks the right to use files of the server.
 */
#include "base/compat.h"

#include <sys/statvfs.h>

#include "base/guc.h"
#include "checkpoint/export.h"
#include "checkpoint/tree.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#define PIECE (1024 * 1024)
#define MAX_TEXT_FILE (256 * 1024 * 1024)
#define MAX_LINE (512 * 1024 * 1024)
#define FETCH_ROWS 64

Portal
ga_export_cursor(const char *query)
{
	SPIPlanPtr	plan = SPI_prepare(query, 0, NULL);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return SPI_cursor_open(NULL, plan, NULL, NULL, true);
}

bool
ga_export_fetch(Portal portal)
{
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
	CHECK_FOR_INTERRUPTS();
	SPI_cursor_fetch(portal, true, FETCH_ROWS);
	return SPI_processed > 0;
}

void
ga_put_file_row(ReturnSetInfo *rsinfo, const char *name, uint64 items, uint64 nbytes, const uint8 *sha256)
{
	Datum		values[4] = {
		CStringGetTextDatum(name), Int64GetDatum(items), Int64GetDatum(nbytes),
		CStringGetTextDatum(ga_hash_text((const GaHash *) sha256))
	};
	bool		nulls[4] = {false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* ---- text into files ---- */

uint64
ga_export_lines(GaFile *file, const char *query)
{
	Portal		portal = ga_export_cursor(query);
	uint64		rows = 0;

	SPI_tuptable = NULL;
	while (ga_export_fetch(portal))
	{
		rows += SPI_processed;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			char	   *line = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
			char	   *utf8;

			if (line == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						 errmsg("the query of a file of lines gives NULL")));
			utf8 = pg_server_to_any(line, strlen(line), PG_UTF8);
			ga_file_write(file, utf8, strlen(utf8));
			ga_file_write(file, "\n", 1);
			if (utf8 != line)
				pfree(utf8);
			pfree(line);
		}
	}
	SPI_cursor_close(portal);
	return rows;
}

/* write_lines(path, query): the rows of one text column, a line each. */
PG_FUNCTION_INFO_V1(ga_write_lines);
Datum
ga_write_lines(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *query = text_to_cstring(PG_GETARG_TEXT_PP(1));
	uint8		sha256[GA_SHA256_LEN];
	GaFile	   *file;
	uint64		rows;
	uint64		nbytes;

	ga_files_require_write();
	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	file = ga_file_create(path, 0);
	rows = ga_export_lines(file, query);
	nbytes = ga_file_finish(file, sha256);
	ga_put_file_row(rsinfo, path, rows, nbytes, sha256);
	SPI_finish();
	PG_RETURN_NULL();
}

/* write_text(path, content), in UTF-8. */
PG_FUNCTION_INFO_V1(ga_write_text);
Datum
ga_write_text(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *content = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *utf8 = pg_server_to_any(content, strlen(content), PG_UTF8);
	uint8		sha256[GA_SHA256_LEN];
	GaFile	   *file;
	uint64		nbytes;

	ga_files_require_write();
	InitMaterializedSRF(fcinfo, 0);
	file = ga_file_create(path, 0);
	ga_file_write(file, utf8, strlen(utf8));
	nbytes = ga_file_finish(file, sha256);
	ga_put_file_row(rsinfo, path, 1, nbytes, sha256);
	PG_RETURN_NULL();
}

/* temp_create(parent) gives the path of a private folder that goes with the transaction. */
PG_FUNCTION_INFO_V1(ga_temp_create_sql);
Datum
ga_temp_create_sql(PG_FUNCTION_ARGS)
{
	ga_files_require_write();
	PG_RETURN_TEXT_P(cstring_to_text(ga_temp_create(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
}

PG_FUNCTION_INFO_V1(ga_temp_keep_sql);
Datum
ga_temp_keep_sql(PG_FUNCTION_ARGS)
{
	ga_files_require_write();
	PG_RETURN_BOOL(ga_temp_keep(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

/* temp_publish(from, to) renames a whole private folder to its name; 58P02 when that is taken. */
PG_FUNCTION_INFO_V1(ga_temp_publish_sql);
Datum
ga_temp_publish_sql(PG_FUNCTION_ARGS)
{
	ga_files_require_write();
	ga_temp_publish(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

/* replace_text(path, content): a small file, renamed over the old one. */
PG_FUNCTION_INFO_V1(ga_replace_text);
Datum
ga_replace_text(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *content = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *utf8 = pg_server_to_any(content, strlen(content), PG_UTF8);
	const char *slash = strrchr(path, '/');
	char	   *temp;
	char	   *draft;
	uint8		sha256[GA_SHA256_LEN];
	GaFile	   *file;

	ga_files_require_write();
	ga_path_check(path);
	temp = ga_temp_create(slash == NULL ? "" : pnstrdup(path, slash - path));
	draft = psprintf("%s/%s", temp, slash == NULL ? path : slash + 1);
	file = ga_file_create(draft, 0);
	ga_file_write(file, utf8, strlen(utf8));
	(void) ga_file_finish(file, sha256);
	ga_file_publish(draft, path, true);
	ga_temp_remove(temp);
	PG_RETURN_VOID();
}

/* path_rename(from, to): moves a file or folder to a free name. */
PG_FUNCTION_INFO_V1(ga_path_rename_sql);
Datum
ga_path_rename_sql(PG_FUNCTION_ARGS)
{
	ga_files_require_write();
	ga_path_rename(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

/* path_encode(name): a name of an object as a component of a path. */
PG_FUNCTION_INFO_V1(ga_path_encode_sql);
Datum
ga_path_encode_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ga_path_encode(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
}

/* ---- text from files ---- */

/* Text of a file in the server's encoding. */
static text *
text_from_file(const char *path, char *bytes, size_t nbytes)
{
	char	   *converted;

	if (memchr(bytes, '\0', nbytes) != NULL || pg_encoding_verifymbstr(PG_UTF8, bytes, nbytes) != nbytes)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("file \"%s\" is not text in UTF-8", path)));
	converted = pg_any_to_server(bytes, nbytes, PG_UTF8);
	return cstring_to_text_with_len(converted, converted == bytes ? nbytes : strlen(converted));
}

/* read_text(path): a text file of at most 256 MiB. */
PG_FUNCTION_INFO_V1(ga_read_text);
Datum
ga_read_text(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	GaFile	   *file;
	char	   *bytes;
	uint64		size;

	ga_files_require_read();
	file = ga_file_open(path);
	size = ga_file_size(file);
	if (size > MAX_TEXT_FILE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("text file \"%s\" has " UINT64_FORMAT " bytes, more than %d", path, size, MAX_TEXT_FILE)));
	bytes = palloc(size + 1);
	ga_file_read(file, 0, bytes, size);
	bytes[size] = '\0';
	ga_file_close(file);
	PG_RETURN_TEXT_P(text_from_file(path, bytes, size));
}

/* Puts the complete lines of buf; returns the bytes they took. */
static size_t
put_lines(ReturnSetInfo *rsinfo, MemoryContext scratch, const char *path, char *bytes, size_t nbytes)
{
	size_t		start = 0;
	char	   *end;

	while ((end = memchr(bytes + start, '\n', nbytes - start)) != NULL)
	{
		MemoryContext previous = MemoryContextSwitchTo(scratch);
		Datum		value;
		bool		isnull = false;

		*end = '\0';
		value = PointerGetDatum(text_from_file(path, bytes + start, end - bytes - start));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
		MemoryContextSwitchTo(previous);
		MemoryContextReset(scratch);
		start = end - bytes + 1;
	}
	return start;
}

/* read_lines(path): a row per line; the last line must be complete. */
PG_FUNCTION_INFO_V1(ga_read_lines);
Datum
ga_read_lines(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "line of a file", ALLOCSET_DEFAULT_SIZES);
	StringInfoData buf;
	GaFile	   *file;

	ga_files_require_read();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	file = ga_file_open(path);
	initStringInfo(&buf);
	for (uint64 at = 0; at < ga_file_size(file);)
	{
		size_t		piece = Min(PIECE, ga_file_size(file) - at);
		size_t		used;

		if (buf.len > MAX_LINE)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("a line of file \"%s\" is longer than %d bytes", path, MAX_LINE)));
		enlargeStringInfo(&buf, piece);
		ga_file_read(file, at, buf.data + buf.len, piece);
		buf.len += piece;
		at += piece;
		used = put_lines(rsinfo, scratch, path, buf.data, buf.len);
		memmove(buf.data, buf.data + used, buf.len - used);
		buf.len -= used;
	}
	ga_file_close(file);
	if (buf.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the last line of file \"%s\" is not complete", path)));
	PG_RETURN_NULL();
}

/* ---- names ---- */

/* path_exists(path): true for a file or folder. */
PG_FUNCTION_INFO_V1(ga_path_exists_sql);
Datum
ga_path_exists_sql(PG_FUNCTION_ARGS)
{
	ga_files_require_any();
	PG_RETURN_BOOL(ga_path_exists(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

/* list_folder(path): names in a folder, sorted, without hidden ones; none when there is no such folder. */
PG_FUNCTION_INFO_V1(ga_list_folder);
Datum
ga_list_folder(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	  **names;
	int			count;

	ga_files_require_any();
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	names = ga_dir_list(text_to_cstring(PG_GETARG_TEXT_PP(0)), &count);
	for (int i = 0; i < count; i++)
	{
		Datum		value = CStringGetTextDatum(names[i]);
		bool		isnull = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
	}
	PG_RETURN_NULL();
}

/* file_size(path): bytes of a regular file. */
PG_FUNCTION_INFO_V1(ga_file_size_sql);
Datum
ga_file_size_sql(PG_FUNCTION_ARGS)
{
	GaFile	   *file;
	uint64		size;

	ga_files_require_any();
	file = ga_file_open(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	size = ga_file_size(file);
	ga_file_close(file);
	PG_RETURN_INT64(size);
}

/* require_space(path, nbytes): ERROR 53100 when the file system of a folder has fewer bytes left. */
PG_FUNCTION_INFO_V1(ga_require_space);
Datum
ga_require_space(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		nbytes = PG_GETARG_INT64(1);
	struct statvfs fs;
	int			fd;
	int			status;

	ga_files_require_write();
	fd = ga_folder_open(path);
	status = fstatvfs(fd, &fs);
	ga_close_keeping_errno(fd);
	if (status == 0 && (double) fs.f_bavail * fs.f_frsize < (double) nbytes)
	{
		errno = ENOSPC;
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("could not reserve " INT64_FORMAT " bytes in \"%s\": %m", nbytes, path),
				 errdetail("The file system has " UINT64_FORMAT " bytes left.", (uint64) fs.f_bavail * fs.f_frsize)));
	}
	PG_RETURN_VOID();
}

/* file_sha256(path): hash of a file's contents, in hexadecimal. */
PG_FUNCTION_INFO_V1(ga_file_sha256);
Datum
ga_file_sha256(PG_FUNCTION_ARGS)
{
	uint8		sha256[GA_SHA256_LEN];

	ga_files_require_any();
	(void) ga_file_hash(text_to_cstring(PG_GETARG_TEXT_PP(0)), sha256);
	PG_RETURN_TEXT_P(cstring_to_text(ga_hash_text((const GaHash *) sha256)));
}
