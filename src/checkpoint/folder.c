/*
 * folder.c
 *		What happens to whole names in the tree: published, renamed, removed, listed.
 *
 * No descriptor is held where an error could leak it.
 */
#include "base/compat.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/guc.h"
#include "checkpoint/tree.h"
#include "miscadmin.h"
#include "storage/fd.h"

bool
ga_path_exists(const char *path)
{
	const char *name;
	struct stat st;
	int			parent;
	bool		found;

	ga_path_check(path);
	/* A missing base, or folder on the way, means no, without an error. */
	if (stat(ga_storage_path(), &st) < 0 && errno == ENOENT)
		return false;
	for (const char *slash = strchr(path, '/'); slash != NULL; slash = strchr(slash + 1, '/'))
	{
		parent = ga_path_open_parent(pnstrdup(path, slash - path), false, &name);
		found = fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
		close(parent);
		if (!found)
			return false;
	}
	parent = ga_path_open_parent(path, false, &name);
	found = fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
	close(parent);
	return found;
}

static void
rename_failed(const char *from, const char *to)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not rename \"%s\" to \"%s\": %m", from, to)));
}

void
ga_file_publish(const char *from, const char *to, bool replace)
{
	const char *from_name;
	const char *to_name;
	int			from_dir;
	int			to_dir;
	int			status;

	/* Checks both paths and makes folders before a descriptor is held that an error would leak. */
	ga_path_check(from);
	close(ga_path_open_parent(to, true, &to_name));
	from_dir = ga_path_open_parent(from, false, &from_name);
	to_dir = ga_path_open_parent(to, false, &to_name);
	if (replace)
		status = renameat(from_dir, from_name, to_dir, to_name);
	else
	{
		status = linkat(from_dir, from_name, to_dir, to_name, 0);
		if (status == 0)
			status = unlinkat(from_dir, from_name, 0);
	}
	ga_close_keeping_errno(from_dir);
	if (status < 0)
	{
		ga_close_keeping_errno(to_dir);
		rename_failed(from, to);
	}
	ga_folder_sync(to_dir, to);
}

void
ga_path_rename(const char *from, const char *to)
{
	const char *from_name;
	const char *to_name;
	struct stat st;
	int			from_dir;
	int			to_dir;
	int			status;

	ga_path_check(from);
	close(ga_path_open_parent(to, true, &to_name));
	from_dir = ga_path_open_parent(from, false, &from_name);
	to_dir = ga_path_open_parent(to, false, &to_name);
	status = fstatat(to_dir, to_name, &st, AT_SYMLINK_NOFOLLOW);
	if (status == 0)
	{
		errno = EEXIST;
		status = -1;
	}
	else
		status = renameat(from_dir, from_name, to_dir, to_name);
	ga_close_keeping_errno(from_dir);
	if (status < 0)
	{
		ga_close_keeping_errno(to_dir);
		rename_failed(from, to);
	}
	ga_folder_sync(to_dir, to);
}

void
ga_temp_publish(const char *from, const char *to)
{
	ga_temp_sync(from);
	ga_path_rename(from, to);
	ga_temp_release(from);
}

bool
ga_file_remove(const char *path)
{
	const char *name;
	int			parent = ga_path_open_parent(path, false, &name);
	int			status = unlinkat(parent, name, 0);

	if (status < 0 && errno == ENOENT)
	{
		close(parent);
		return false;
	}
	if (status < 0)
	{
		ga_close_keeping_errno(parent);
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
	}
	ga_folder_sync(parent, path);
	return true;
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Names in an open folder, without those beginning with a dot. */
static char **
read_names(DIR *dir, int *count)
{
	int			room = 64;
	char	  **names = palloc(sizeof(char *) * room);
	struct dirent *entry;

	while ((entry = readdir(dir)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (entry->d_name[0] == '.')
			continue;
		if (*count == room)
		{
			room *= 2;
			names = repalloc_huge(names, sizeof(char *) * room);
		}
		names[(*count)++] = pstrdup(entry->d_name);
	}
	return names;
}

char **
ga_dir_list(const char *path, int *count)
{
	char	  **volatile names = NULL;
	int			fd;
	DIR		   *dir;

	*count = 0;
	if (path[0] != '\0' && !ga_path_exists(path))
		return NULL;
	fd = ga_folder_open(path);
	dir = fdopendir(fd);
	if (dir == NULL)
	{
		ga_close_keeping_errno(fd);
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read folder \"%s\": %m", path)));
	}
	PG_TRY();
	{
		names = read_names(dir, count);
	}
	PG_FINALLY();
	{
		closedir(dir);
	}
	PG_END_TRY();
	if (*count > 1)
		qsort(names, *count, sizeof(char *), compare_names);
	return names;
}
