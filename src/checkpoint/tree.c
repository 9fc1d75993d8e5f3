/*
 * tree.c
 *		The tree of files below gpuagent.storage_path: paths, folders, private folders.
 *
 * Descriptors that outlive a call belong to a private folder, which the end of
 * its (sub)transaction closes and removes. All others are closed before anything
 * can throw.
 */
#include "base/compat.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/parallel.h"
#include "access/xact.h"
#include "base/guc.h"
#include "catalog/pg_authid.h"
#include "checkpoint/publish.h"
#include "checkpoint/tree.h"
#include "common/cryptohash.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "store/store.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#define DIR_MODE 0700
#define MAX_COMPONENT 255
#define TEMP_PREFIX ".tmp-"
#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* A private folder of this transaction. Its descriptor holds a lock that tells others its owner lives. */
typedef struct TempDir
{
	struct TempDir *next;
	char	   *path;
	int			parent;			/* descriptor of the folder it is in */
	int			fd;
	SubTransactionId subid;
	bool		keep;			/* this transaction's commit leaves it to the next one */
} TempDir;

static TempDir *temp_dirs = NULL;
static int	trusted = 0;		/* depth of ga_files_trust */

/* In a parallel worker, a file in a private folder of the leader. */
static const char *joined_path = NULL;

/* ---- rights and paths ---- */

void
ga_files_trust(bool begin)
{
	trusted += begin ? 1 : -1;
}

static void
require_role(Oid role, const char *name)
{
	if (trusted == 0 && !has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to use files of the server"),
				 errdetail("Only roles with privileges of the \"%s\" role may do this.", name)));
}

void
ga_files_require_read(void)
{
	require_role(ROLE_PG_READ_SERVER_FILES, "pg_read_server_files");
}

void
ga_files_require_write(void)
{
	require_role(ROLE_PG_WRITE_SERVER_FILES, "pg_write_server_files");
}

void
ga_files_require_any(void)
{
	if (trusted == 0 && !has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES))
		ga_files_require_read();
}

static bool
is_safe(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		c == '.' || c == '-';
}

bool
ga_temp_is_own(const char *path)
{
	for (TempDir *dir = temp_dirs; dir != NULL; dir = dir->next)
	{
		size_t		len = strlen(dir->path);

		if (strncmp(path, dir->path, len) == 0 && (path[len] == '\0' || path[len] == '/'))
			return true;
	}
	return joined_path != NULL && strcmp(path, joined_path) == 0;
}

void
ga_temp_join(const char *path)
{
	Assert(IsParallelWorker());
	joined_path = MemoryContextStrdup(TopMemoryContext, path);
}

static void
refuse_path(const char *path, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid path \"%s\"", path),
			 errdetail("%s", why),
			 errhint("Paths are relative to gpuagent.storage_path, with \"/\" between names of letters, digits, \".\", \"_\" and \"-\".")));
}

void
ga_path_check(const char *path)
{
	const char *p = path;
	bool		own = ga_temp_is_own(path);

	if (strlen(path) >= MAXPGPATH)
		refuse_path(path, "The path is too long.");
	if (path[0] == '/')
		refuse_path(path, "An absolute path is refused.");
	for (;;)
	{
		size_t		len = strcspn(p, "/");

		if (len == 0)
			refuse_path(path, "A component is empty.");
		if (len > MAX_COMPONENT)
			refuse_path(path, "A component is longer than 255 bytes.");
		if (p[0] == '.' && !(own && strncmp(p, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0))
			refuse_path(path, "A component begins with a dot.");
		for (size_t i = 0; i < len; i++)
			if (!is_safe(p[i]) && p[i] != '_')
				refuse_path(path, "A character is not allowed.");
		if (p[len] == '\0')
			return;
		p += len + 1;
	}
}

/* SHA-256 of a text, in hexadecimal. */
static char *
hash_text(const char *data, size_t len)
{
	uint8		hash[GA_SHA256_LEN];
	pg_cryptohash_ctx *sha = pg_cryptohash_create(PG_SHA256);

	if (sha == NULL || pg_cryptohash_init(sha) < 0 ||
		pg_cryptohash_update(sha, (const uint8 *) data, len) < 0 ||
		pg_cryptohash_final(sha, hash, sizeof(hash)) < 0)
		elog(ERROR, "could not compute SHA-256");
	pg_cryptohash_free(sha);
	return ga_hash_text((const GaHash *) hash);
}

char *
ga_path_encode(const char *name)
{
	StringInfoData buf;
	const int	longest = 150;	/* room for endings that callers add */

	initStringInfo(&buf);
	for (const char *p = name; *p != '\0'; p++)
	{
		if (is_safe(*p) && !(*p == '.' && p == name))
			appendStringInfoChar(&buf, *p);
		else
			appendStringInfo(&buf, "_%02x", (unsigned char) *p);
	}
	if (buf.len > longest)
	{
		/* "_x" cannot begin an escape, so no short name comes out like this. */
		buf.len = longest - (2 + 2 * GA_SHA256_LEN);
		buf.data[buf.len] = '\0';
		appendStringInfo(&buf, "_x%s", hash_text(name, strlen(name)));
	}
	return buf.data;
}

/* ---- descriptors ---- */

void
ga_close_keeping_errno(int fd)
{
	int			saved = errno;

	close(fd);
	errno = saved;
}

/* True for a path that is, or whose folder is, in the data directory, links followed. */
static bool
in_data_directory(const char *base)
{
	char	   *folder = pstrdup(base);
	char		real[PATH_MAX];
	char		data[PATH_MAX];
	size_t		len;

	if (realpath(DataDir, data) == NULL)
		return false;
	if (realpath(base, real) == NULL)
	{
		get_parent_directory(folder);
		if (realpath(folder, real) == NULL)
			return false;
	}
	len = strlen(data);
	return strncmp(real, data, len) == 0 && (real[len] == '/' || real[len] == '\0');
}

/* Opens the base folder of the tree; with `create` makes it, 0700, but never inside the data directory. */
static int
open_base(bool create)
{
	char	   *base = ga_storage_path();
	int			fd;

	if (create)
		ga_tree_require_own();
	if (create && in_data_directory(base))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("gpuagent.storage_path lies inside the data directory"),
				 errdetail("Base backups would copy the files and pg_rewind would remove some of them."),
				 errhint("Set gpuagent.storage_path to a directory outside of it.")));
	fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && create)
	{
		if (mkdir(base, DIR_MODE) < 0 && errno != EEXIST)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not create the storage directory \"%s\": %m", base),
					 errhint("Create it for the server's operating system user, or change gpuagent.storage_path.")));
		ga_tree_require_own();	/* the first time asked before there was a base that somebody could have */
		fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open the storage directory \"%s\": %m", base)));
	return fd;
}

void
ga_path_open_failed(int parent, const char *name, const char *path)
{
	int			saved = errno;
	struct stat st;
	bool		is_link = fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);

	close(parent);
	errno = saved;
	if (is_link)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" of path \"%s\" is a symbolic link", name, path),
				 errhint("Links below gpuagent.storage_path are not followed.")));
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not open \"%s\" of path \"%s\": %m", name, path)));
}

int
ga_path_open_parent(const char *path, bool create, const char **last)
{
	const char *p;
	const char *slash;
	int			fd;

	ga_path_check(path);
	p = path = ga_publish_redirect(path);
	fd = open_base(create);
	while ((slash = strchr(p, '/')) != NULL)
	{
		char		name[MAX_COMPONENT + 1];
		int			child;

		memcpy(name, p, slash - p);
		name[slash - p] = '\0';
		child = openat(fd, name, DIR_FLAGS);
		if (child < 0 && errno == ENOENT && create)
		{
			if (mkdirat(fd, name, DIR_MODE) == 0)
				(void) pg_fsync(fd);
			else if (errno != EEXIST)
				ga_path_open_failed(fd, name, path);
			child = openat(fd, name, DIR_FLAGS);
		}
		if (child < 0)
			ga_path_open_failed(fd, name, path);
		close(fd);
		fd = child;
		p = slash + 1;
	}
	*last = p;
	return fd;
}

int
ga_folder_open(const char *path)
{
	const char *last;
	int			parent;
	int			fd;

	if (path[0] == '\0')
		return open_base(false);
	parent = ga_path_open_parent(path, false, &last);
	fd = openat(parent, last, DIR_FLAGS);
	if (fd < 0)
		ga_path_open_failed(parent, last, path);
	close(parent);
	return fd;
}

bool
ga_write_all(int fd, const char *data, size_t len, off_t at)
{
	while (len > 0)
	{
		ssize_t		written;

		errno = 0;
		written = pwrite(fd, data, len, at);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			return false;
		}
		data += written;
		len -= written;
		at += written;
	}
	return true;
}

void
ga_folder_sync(int fd, const char *path)
{
	int			result = pg_fsync(fd);

	ga_close_keeping_errno(fd);
	if (result < 0 && errno != EBADF && errno != EINVAL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync the folder of \"%s\": %m", path)));
}

/* ---- private folders ---- */

void
ga_tree_remove(int parent, const char *name)
{
	int			fd = openat(parent, name, DIR_FLAGS);
	DIR		   *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (dir == NULL)
	{
		if (fd >= 0)
			close(fd);
		(void) unlinkat(parent, name, 0);
		return;
	}
	while ((entry = readdir(dir)) != NULL)
	{
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(dir), entry->d_name, 0) < 0 && (errno == EISDIR || errno == EPERM))
			ga_tree_remove(dirfd(dir), entry->d_name);
	}
	closedir(dir);
	(void) unlinkat(parent, name, AT_REMOVEDIR);
}

/* Takes a private folder off the list; its descriptors stay open. */
static void
temp_unlink(TempDir *temp)
{
	TempDir   **link = &temp_dirs;

	while (*link != temp)
		link = &(*link)->next;
	*link = temp->next;
	pfree(temp->path);
	pfree(temp);
}

/* Forgets a private folder; with `remove` its files go too. Never throws. */
static void
temp_forget(TempDir *temp, bool remove)
{
	if (remove)
	{
		const char *slash = strrchr(temp->path, '/');

		ga_tree_remove(temp->parent, slash == NULL ? temp->path : slash + 1);
	}
	close(temp->fd);
	close(temp->parent);
	ReleaseExternalFD();
	ReleaseExternalFD();
	temp_unlink(temp);
}

static void
temp_xact_end(XactEvent event, void *arg)
{
	TempDir    *next;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	for (TempDir *temp = temp_dirs; temp != NULL; temp = next)
	{
		next = temp->next;
		if (event != XACT_EVENT_COMMIT || !temp->keep)
			temp_forget(temp, true);
		else
			temp->keep = false;
	}
}

static void
temp_subxact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	TempDir    *next;

	for (TempDir *temp = temp_dirs; temp != NULL; temp = next)
	{
		next = temp->next;
		if (temp->subid != subid)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			temp->subid = parent;
		else if (event == SUBXACT_EVENT_ABORT_SUB)
			temp_forget(temp, true);
	}
}

bool
ga_temp_sweep(int parent)
{
	int			fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR		   *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	bool		clean = true;

	if (dir == NULL)
	{
		if (fd >= 0)
			ga_close_keeping_errno(fd);
		return false;
	}
	while ((entry = readdir(dir)) != NULL)
	{
		int			child;
		struct stat st;

		if (strncmp(entry->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) != 0)
			continue;
		child = openat(parent, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (child >= 0 && flock(child, LOCK_EX | LOCK_NB) == 0)
			ga_tree_remove(parent, entry->d_name);
		if (child >= 0)
			close(child);
		clean &= fstatat(parent, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
	}
	closedir(dir);
	return clean;
}

bool
ga_temp_name(char *name, size_t size)
{
	uint64		number;

	if (!pg_strong_random(&number, sizeof(number)))
		return false;
	snprintf(name, size, TEMP_PREFIX "%016" PRIx64, number);
	return true;
}

/*
 * Makes and locks a new folder with a random name in parent. Its descriptor, or
 * -1 with errno; tries again when a sweeper took it between the two steps.
 */
static int
make_locked(int parent, char *name, size_t size)
{
	for (int attempt = 0; attempt < 100; attempt++)
	{
		struct stat st;
		int			fd;

		if (!ga_temp_name(name, size))
			return -1;
		if (mkdirat(parent, name, DIR_MODE) < 0)
		{
			if (errno == EEXIST)
				continue;
			return -1;
		}
		fd = openat(parent, name, DIR_FLAGS);
		if (fd < 0)
			continue;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno != EWOULDBLOCK)
		{
			ga_close_keeping_errno(fd);
			(void) unlinkat(parent, name, AT_REMOVEDIR);
			return -1;
		}
		if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_nlink > 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		close(fd);
	}
	errno = EEXIST;
	return -1;
}

char *
ga_temp_create(const char *parent)
{
	static bool registered = false;
	char	   *probe = parent[0] == '\0' ? pstrdup("x") : psprintf("%s/x", parent);
	char	   *path = MemoryContextAllocZero(TopMemoryContext, strlen(parent) + 64);
	TempDir    *temp = MemoryContextAllocZero(TopMemoryContext, sizeof(TempDir));
	char		name[64];
	const char *last;
	int			dir = ga_path_open_parent(probe, true, &last);
	int			fd;

	(void) ga_temp_sweep(dir);
	fd = make_locked(dir, name, sizeof(name));
	if (fd < 0)
	{
		ga_close_keeping_errno(dir);
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a private folder in \"%s\": %m", parent)));
	}
	ReserveExternalFD();
	ReserveExternalFD();
	if (!registered)
	{
		RegisterXactCallback(temp_xact_end, NULL);
		RegisterSubXactCallback(temp_subxact_end, NULL);
		registered = true;
	}
	sprintf(path, "%s%s%s", parent, parent[0] == '\0' ? "" : "/", name);
	temp->parent = dir;
	temp->fd = fd;
	temp->subid = GetCurrentSubTransactionId();
	temp->path = path;
	temp->next = temp_dirs;
	temp_dirs = temp;
	return pstrdup(temp->path);
}

/* The private folder of exactly this path; ERROR 22023 when it is not one of this transaction. */
static TempDir *
find_temp(const char *path)
{
	for (TempDir *temp = temp_dirs; temp != NULL; temp = temp->next)
		if (strcmp(temp->path, path) == 0)
			return temp;
	refuse_path(path, "It is not a private folder of this transaction.");
	return NULL;
}

bool
ga_temp_keep(const char *path)
{
	for (TempDir *temp = temp_dirs; temp != NULL; temp = temp->next)
		if (strcmp(temp->path, path) == 0)
			return temp->keep = true;
	return false;
}

void
ga_temp_remove(const char *path)
{
	temp_forget(find_temp(path), true);
}

void
ga_temp_sync(const char *path)
{
	if (pg_fsync(find_temp(path)->fd) < 0 && errno != EBADF && errno != EINVAL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync folder \"%s\": %m", path)));
}

void
ga_temp_release(const char *path)
{
	temp_forget(find_temp(path), false);
}

void
ga_temp_take(const char *path, int *parent, int *fd)
{
	TempDir    *temp = find_temp(path);

	*parent = temp->parent;
	*fd = temp->fd;
	temp_unlink(temp);
}
