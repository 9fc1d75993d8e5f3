/*
 * tend.c
 *		What recovery and removal do to exported folders: for the maintenance worker,
 *		which works as the tables' owner, who may have no right to files.
 *
 * So EXECUTE is all that these ask for, and each is safe by itself: they know
 * only names of exports in nvme_storage and find out from the files whether what
 * they are told to do is right. A folder that verifies is not put aside, one of
 * another database is not removed, "latest" names nothing that is not whole.
 */
#include "base/compat.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "base/findings.h"
#include "base/guc.h"
#include "catalog/pg_type.h"
#include "checkpoint/journal.h"
#include "checkpoint/publish.h"
#include "checkpoint/tree.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#define DEEPEST 8				/* folders below the base that are looked through for private ones */

/*
 * Calls a function of this extension that checks rights to files, without that check. Text or NULL. Nothing in the query
 * may be looked up in the caller's search_path: a domain called text would run his code, unchecked as well.
 */
static char *
trusted_text(const char *query, int nargs, Oid *types, Datum *args, const char *nulls)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *volatile result = NULL;

	ga_files_trust(true);
	PG_TRY();
	{
		char	   *value;

		SPI_connect();
		if (SPI_execute_with_args(query, nargs, types, args, nulls, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
			elog(ERROR, "unexpected result of %s", query);
		value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		if (value != NULL)
			result = MemoryContextStrdup(caller, value);
		SPI_finish();
	}
	PG_FINALLY();
	{
		ga_files_trust(false);
	}
	PG_END_TRY();
	return result;
}

/* Seconds since anything in a folder changed that one can see without reading it. */
static int64
quiet_since(const char *path)
{
	int			fd = ga_folder_open(path);
	DIR		   *dir = fdopendir(fd);
	struct dirent *entry;
	struct stat st;
	time_t		newest = 0;

	if (dir == NULL)
	{
		close(fd);
		return 0;
	}
	while ((entry = readdir(dir)) != NULL)
		if (strcmp(entry->d_name, "..") != 0 && fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			newest = Max(newest, Max(st.st_mtime, st.st_ctime));
	closedir(dir);
	return time(NULL) - newest;
}

/*
 * tend_export(name, uid, level, quiet): NULL when the folder is a whole export
 * (of the checkpoint uid, when given), by that level of verification; 'absent';
 * 'young' when it is not whole and something in it changed within `quiet`
 * seconds; else it was put aside, and this is why.
 */
PG_FUNCTION_INFO_V1(ga_tend_export);
Datum
ga_tend_export(PG_FUNCTION_ARGS)
{
	char	   *path;
	Oid			types[3] = {TEXTOID, UUIDOID, TEXTOID};
	Datum		args[3];
	char	   *why;

	ga_tree_require_own();
	ga_require_arguments(fcinfo, 0, 0);
	ga_require_arguments(fcinfo, 2, 3);
	path = ga_export_path(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	args[0] = CStringGetTextDatum(path);
	args[1] = PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1);
	args[2] = PG_GETARG_DATUM(2);
	if (!ga_path_exists(path))
		PG_RETURN_TEXT_P(cstring_to_text("absent"));
	why = trusted_text("SELECT gpuagent_store.export_problem($1, $2, $3)", 3, types, args,
					   PG_ARGISNULL(1) ? " n " : NULL);
	if (why == NULL)
		PG_RETURN_NULL();
	if (quiet_since(path) < PG_GETARG_INT64(3))
		PG_RETURN_TEXT_P(cstring_to_text("young"));
	args[1] = CStringGetTextDatum(why);
	types[1] = TEXTOID;
	(void) trusted_text("SELECT gpuagent_store.put_aside($1, $2)", 2, types, args, NULL);
	PG_RETURN_TEXT_P(cstring_to_text(why));
}

static bool
latest_name(char name[GA_JOURNAL_NAME + 1])
{
	bool		found;
	int			fd;

	name[0] = '\0';
	if (!ga_path_exists(GA_EXPORTS))
		return false;
	fd = ga_folder_open(GA_EXPORTS);
	found = ga_latest_get(fd, name);
	close(fd);
	return found;
}

/* What latest names, for this transaction; NULL when there is nothing that it could. */
PG_FUNCTION_INFO_V1(ga_latest_name);
Datum
ga_latest_name(PG_FUNCTION_ARGS)
{
	char		name[GA_JOURNAL_NAME + 1];

	if (ga_publish_latest() != NULL)
		PG_RETURN_TEXT_P(cstring_to_text(ga_publish_latest()));
	if (!latest_name(name))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

/* Server, database and checkpoint of what latest names, for this transaction; NULL when there is no such folder or it has no manifest. */
PG_FUNCTION_INFO_V1(ga_latest_origin);
Datum
ga_latest_origin(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {TEXTOID};
	Datum		args[1];
	char		name[GA_JOURNAL_NAME + 1];
	char	   *origin = NULL;

	if (ga_publish_latest() != NULL)
		strlcpy(name, ga_publish_latest(), sizeof(name));
	else
		(void) latest_name(name);
	if (strncmp(name, "ckpt-", 5) == 0)
	{
		args[0] = CStringGetTextDatum(psprintf(GA_EXPORTS "/%s", name));
		origin = trusted_text("SELECT gpuagent_store.export_origin($1)", 1, types, args, NULL);
	}
	if (origin == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(origin));
}

/*
 * point_latest(name, instead_of): latest names another folder, which has to be
 * whole (NULL: there is no latest any more), unless somebody has changed it; true
 * when it does.
 */
PG_FUNCTION_INFO_V1(ga_point_latest);
Datum
ga_point_latest(PG_FUNCTION_ARGS)
{
	char		now[GA_JOURNAL_NAME + 1];
	char	   *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *expected = PG_ARGISNULL(1) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	bool		done;
	int			fd;

	ga_tree_require_own();
	if (name != NULL)
	{
		Oid			types[1] = {TEXTOID};
		Datum		args[1] = {CStringGetTextDatum(ga_export_path(name))};

		if (!ga_path_exists(TextDatumGetCString(args[0])) ||
			trusted_text("SELECT gpuagent_store.export_problem($1, NULL::pg_catalog.uuid, 'quick'::pg_catalog.text)", 1, types, args, NULL) != NULL)
			PG_RETURN_BOOL(false);
	}
	if (!ga_path_exists(GA_EXPORTS))
		PG_RETURN_BOOL(false);
	fd = ga_folder_open(GA_EXPORTS);
	if (!ga_latest_get(fd, now))
		now[0] = '\0';
	if (strcmp(now, expected) != 0)
	{
		close(fd);
		PG_RETURN_BOOL(false);
	}
	done = ga_latest_put(fd, name);
	ga_close_keeping_errno(fd);
	if (!done)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not replace \"" GA_EXPORTS "/latest\": %m")));
	PG_RETURN_BOOL(true);
}

/* Gives a folder a private name and removes it, between two records of the journal. */
static void
remove_folder(const char *name, const pg_uuid_t *uid)
{
	GaJournalRecord record = {.kind = GA_JOURNAL_REMOVAL};
	char		temp[64];
	bool		done;
	int			dir;

	memcpy(record.uid, uid->data, UUID_LEN);
	strlcpy(record.name, name, sizeof(record.name));
	(void) ga_journal_begin(&record);
	dir = ga_folder_open(GA_EXPORTS);
	done = ga_temp_name(temp, sizeof(temp)) && renameat(dir, name, dir, temp) == 0 && pg_fsync(dir) == 0;
	if (done)
	{
		/* The lease's lock goes with the folder, so no sweeper comes between. */
		ga_tree_remove(dir, temp);
		(void) pg_fsync(dir);
	}
	ga_close_keeping_errno(dir);
	if (!done)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove the export \"" GA_EXPORTS "/%s\": %m", name)));
	ga_journal_end(record.serial);
}

/* True when there is such an export, and its manifest says that this database wrote it, of this checkpoint. */
static bool
is_own(const char *name, const pg_uuid_t *uid)
{
	char	   *path = ga_export_path(name);
	char	   *mine = psprintf(UINT64_FORMAT "/%u %s ", GetSystemIdentifier(), MyDatabaseId,
								DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uid))));
	Oid			types[1] = {TEXTOID};
	Datum		args[1] = {CStringGetTextDatum(path)};
	char	   *origin;

	if (!ga_path_exists(path))
		return false;
	origin = trusted_text("SELECT gpuagent_store.export_origin($1)", 1, types, args, NULL);
	return origin != NULL && strncmp(origin, mine, strlen(mine)) == 0;
}

/* own_export(name, uid): see is_own. */
PG_FUNCTION_INFO_V1(ga_own_export);
Datum
ga_own_export(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_own(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_UUID_P(1)));
}

/*
 * remove_export(name, uid) removes the export of a checkpoint of this database
 * on which this transaction has an exclusive lease: 'removed', 'foreign' (there
 * is none, another database wrote it, or it is another checkpoint), 'latest',
 * 'leased'.
 */
PG_FUNCTION_INFO_V1(ga_remove_export);
Datum
ga_remove_export(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	pg_uuid_t  *uid = PG_GETARG_UUID_P(1);
	char		latest[GA_JOURNAL_NAME + 1];

	ga_tree_require_own();
	if (!is_own(name, uid))
		PG_RETURN_TEXT_P(cstring_to_text("foreign"));
	if (!ga_lease_held(ga_export_path(name), true))
		PG_RETURN_TEXT_P(cstring_to_text("leased"));
	if (latest_name(latest) && strcmp(latest, name) == 0)
		PG_RETURN_TEXT_P(cstring_to_text("latest"));
	remove_folder(name, uid);
	PG_RETURN_TEXT_P(cstring_to_text("removed"));
}

/* True when ga_export_path takes the name; a folder of another is nobody's of ours. */
static bool
is_export_name(const char *name)
{
	size_t		len = strlen(name);

	return strncmp(name, "ckpt-", 5) == 0 && len <= GA_JOURNAL_NAME &&
		strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

/* Names of exports, and the number of those put aside; the caller needs no right to files. */
static char **
export_names(int *count, int *aside)
{
	int			all;
	char	  **names = ga_dir_list(GA_EXPORTS, &all);

	*count = *aside = 0;
	for (int i = 0; i < all; i++)
	{
		if (is_export_name(names[i]))
			names[(*count)++] = names[i];
		else if (strncmp(names[i], "quarantine-", 11) == 0)
			(*aside)++;
	}
	return names;
}

/* list_exports(): names of the folders in nvme_storage that are exports. */
PG_FUNCTION_INFO_V1(ga_list_exports);
Datum
ga_list_exports(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	  **names;
	int			count;
	int			aside;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	names = export_names(&count, &aside);
	for (int i = 0; i < count; i++)
	{
		Datum		value = CStringGetTextDatum(names[i]);
		bool		isnull = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
	}
	PG_RETURN_NULL();
}

/* ---- private folders ---- */

/* Sweeps an open folder and, down to a depth, those in it that are no exports. Closes fd. */
static void
sweep_folder(int fd, int depth)
{
	DIR		   *dir;
	struct dirent *entry;

	(void) ga_temp_sweep(fd);
	dir = depth > 0 ? fdopendir(fd) : NULL;
	if (dir == NULL)
	{
		close(fd);
		return;
	}
	while ((entry = readdir(dir)) != NULL)
	{
		int			child;

		if (entry->d_name[0] == '.' || strncmp(entry->d_name, "ckpt-", 5) == 0 || strncmp(entry->d_name, "quarantine-", 11) == 0)
			continue;
		child = openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (child >= 0)
			sweep_folder(child, depth - 1);
	}
	closedir(dir);
}

/* sweep_tree(deep): removes private files and folders of dead processes, in the folders of the tree or anywhere below. */
PG_FUNCTION_INFO_V1(ga_sweep_tree);
Datum
ga_sweep_tree(PG_FUNCTION_ARGS)
{
	struct stat st;

	ga_tree_require_own();
	if (stat(ga_storage_path(), &st) == 0)
		sweep_folder(ga_folder_open(""), PG_GETARG_BOOL(0) ? DEEPEST : 1);
	PG_RETURN_VOID();
}

/* What check_setup() says of the tree's contents. */
PG_FUNCTION_INFO_V1(ga_tree_findings);
Datum
ga_tree_findings(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	struct stat st;
	int			exports;
	int			aside;

	InitMaterializedSRF(fcinfo, 0);
	if (stat(ga_storage_path(), &st) < 0 || access(ga_storage_path(), R_OK | X_OK) < 0)
		PG_RETURN_NULL();
	if (ga_tree_is_others())
		ga_add_finding(rsinfo, "tree", "error", psprintf("another server has %s, so this one writes nothing there", ga_storage_path()),
					   "Set gpuagent.storage_path to a directory of its own.");
	(void) export_names(&exports, &aside);
	if (aside > 0)
		ga_add_finding(rsinfo, "exports", "warning",
					   psprintf("%d in the tree, and %d folders that do not verify, put aside as nvme_storage/quarantine-*", exports, aside),
					   "The server's log says why. Keep what you need of them and remove them.");
	else
		ga_add_finding(rsinfo, "exports", "ok", psprintf("%d in the tree", exports), NULL);
	PG_RETURN_NULL();
}
