/*
 * shim.c
 *		Faults of files, for tests: a library to be preloaded into a server. It
 *		counts the calls that change something below a path and, at the n-th, kills
 *		the process or fails the call.
 *
 * What is synced is only counted: killed processes lose nothing that they wrote,
 * and a test need not wait for the disk.
 *
 * Told by the file that GA_FAULT_CONTROL names, which tests map or write and all
 * processes share:
 *
 *	offset	bytes
 *	0		4	action, see below
 *	4		4	1: the calls after the n-th fail as well (ENOSPC: those that need room)
 *	8		8	n, from 1
 *	16		8	calls so far
 *	24		4	only this process; 0: all
 *	28		4	killed together with the process: the postmaster, say; 0: nobody
 *	32		4	calls that were hit
 *	64		960 the path, ending in a zero byte
 *	1024	512 the first call that was hit: its name and path
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum
{
	OFF,
	COUNT,
	KILL,
	FAIL_ENOSPC,
	FAIL_EIO,
	SHORT_WRITE					/* half of the bytes; other calls as if nothing were */
};

typedef struct Control
{
	uint32_t	action;
	uint32_t	sticky;
	uint64_t	n;
	uint64_t	calls;
	uint32_t	pid;
	uint32_t	also;
	uint32_t	hits;
	char		unused[28];
	char		path[960];
	char		first[512];
} Control;

static Control *control;

__attribute__((constructor))
static void
start(void)
{
	const char *name = getenv("GA_FAULT_CONTROL");
	int			fd = name == NULL ? -1 : open(name, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	control = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		control = NULL;
	close(fd);
}

/* The path of a descriptor, and of a name below it. */
static void
full_path(int dir, const char *name, char *path, size_t size)
{
	char		link[64];
	ssize_t		len = 0;

	path[0] = '\0';
	if (name == NULL || name[0] != '/')
	{
		if (dir == AT_FDCWD)
			strcpy(link, "/proc/self/cwd");
		else
			snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
		len = readlink(link, path, size - 1);
		path[len < 0 ? 0 : len] = '\0';
		if (len < 0)
			return;
	}
	if (name != NULL)
		snprintf(path + len, size - len, "%s%s", len > 0 ? "/" : "", name);
}

/* What is to happen with a call: 0: it is made, an errno, or -1 for a short write. needs_room: it can meet a full disk. */
static int
fault(const char *what, int dir, const char *name, int needs_room)
{
	char		path[PATH_MAX * 2];
	uint64_t	number;
	int			saved = errno;
	int			result = 0;

	if (control == NULL || control->action == OFF || (control->pid != 0 && control->pid != (uint32_t) getpid()))
		return 0;
	full_path(dir, name, path, sizeof(path));
	errno = saved;
	if (strncmp(path, control->path, strlen(control->path)) != 0)
		return 0;
	number = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
	if (control->action == COUNT || number < control->n || (number > control->n && !control->sticky))
		return 0;
	switch (control->action)
	{
		case KILL:
			break;
		case FAIL_ENOSPC:
			result = needs_room ? ENOSPC : 0;
			break;
		case FAIL_EIO:
			result = EIO;
			break;
		case SHORT_WRITE:
			result = -1;
			break;
	}
	if (__atomic_add_fetch(&control->hits, 1, __ATOMIC_SEQ_CST) == 1)
		snprintf(control->first, sizeof(control->first), "%s %.450s", what, path);
	if (control->action == KILL)
	{
		if (control->also != 0)
			kill((pid_t) control->also, SIGKILL);
		kill(getpid(), SIGKILL);
		for (;;)
			pause();
	}
	return result;
}

#define REAL(type, name, ...) \
	static type (*real) (__VA_ARGS__); \
	if (real == NULL) \
		real = (type (*) (__VA_ARGS__)) dlsym(RTLD_NEXT, #name)

#define CHECK(what, dir, path, room) \
	do { \
		int failed = fault(what, dir, path, room); \
		if (failed > 0) \
		{ \
			errno = failed; \
			return -1; \
		} \
	} while (0)

#define CHECK_WRITE(what, fd, len) \
	do { \
		int failed = fault(what, fd, NULL, 1); \
		if (failed > 0) \
		{ \
			errno = failed; \
			return -1; \
		} \
		if (failed < 0 && len > 1) \
			len /= 2; \
	} while (0)

/* Opening counts where it may make a file. */
static int
open_mode(int flags, va_list args)
{
	return flags & O_CREAT ? va_arg(args, int) : 0;
}

int
openat(int dir, const char *name, int flags,...)
{
	REAL(int, openat, int, const char *, int,...);
	va_list		args;
	int			mode;

	va_start(args, flags);
	mode = open_mode(flags, args);
	va_end(args);
	if (flags & O_CREAT)
		CHECK("openat", dir, name, 1);
	return real(dir, name, flags, mode);
}

int
openat64(int dir, const char *name, int flags,...)
{
	REAL(int, openat64, int, const char *, int,...);
	va_list		args;
	int			mode;

	va_start(args, flags);
	mode = open_mode(flags, args);
	va_end(args);
	if (flags & O_CREAT)
		CHECK("openat", dir, name, 1);
	return real(dir, name, flags, mode);
}

ssize_t
write(int fd, const void *data, size_t len)
{
	REAL(ssize_t, write, int, const void *, size_t);
	CHECK_WRITE("write", fd, len);
	return real(fd, data, len);
}

ssize_t
pwrite(int fd, const void *data, size_t len, off_t at)
{
	REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
	CHECK_WRITE("pwrite", fd, len);
	return real(fd, data, len, at);
}

ssize_t
pwrite64(int fd, const void *data, size_t len, off64_t at)
{
	REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
	CHECK_WRITE("pwrite", fd, len);
	return real(fd, data, len, at);
}

ssize_t
pwritev(int fd, const struct iovec *data, int count, off_t at)
{
	REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
	CHECK("pwritev", fd, NULL, 1);
	return real(fd, data, count, at);
}

ssize_t
writev(int fd, const struct iovec *data, int count)
{
	REAL(ssize_t, writev, int, const struct iovec *, int);
	CHECK("writev", fd, NULL, 1);
	return real(fd, data, count);
}

int
fsync(int fd)
{
	REAL(int, fsync, int);
	CHECK("fsync", fd, NULL, 1);
	return control != NULL ? 0 : real(fd);
}

int
fdatasync(int fd)
{
	REAL(int, fdatasync, int);
	CHECK("fdatasync", fd, NULL, 1);
	return control != NULL ? 0 : real(fd);
}

int
ftruncate(int fd, off_t size)
{
	REAL(int, ftruncate, int, off_t);
	CHECK("ftruncate", fd, NULL, 1);
	return real(fd, size);
}

int
ftruncate64(int fd, off64_t size)
{
	REAL(int, ftruncate64, int, off64_t);
	CHECK("ftruncate", fd, NULL, 1);
	return real(fd, size);
}

int
posix_fallocate(int fd, off_t at, off_t len)
{
	REAL(int, posix_fallocate, int, off_t, off_t);
	int			failed = fault("posix_fallocate", fd, NULL, 1);

	return failed > 0 ? failed : real(fd, at, len);
}

int
posix_fallocate64(int fd, off64_t at, off64_t len)
{
	REAL(int, posix_fallocate64, int, off64_t, off64_t);
	int			failed = fault("posix_fallocate", fd, NULL, 1);

	return failed > 0 ? failed : real(fd, at, len);
}

int
rename(const char *from, const char *to)
{
	REAL(int, rename, const char *, const char *);
	CHECK("rename", AT_FDCWD, to, 1);
	return real(from, to);
}

int
renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	REAL(int, renameat, int, const char *, int, const char *);
	CHECK("renameat", to_dir, to, 1);
	return real(from_dir, from, to_dir, to);
}

int
linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
	REAL(int, linkat, int, const char *, int, const char *, int);
	CHECK("linkat", to_dir, to, 1);
	return real(from_dir, from, to_dir, to, flags);
}

int
unlink(const char *path)
{
	REAL(int, unlink, const char *);
	CHECK("unlink", AT_FDCWD, path, 0);
	return real(path);
}

int
unlinkat(int dir, const char *name, int flags)
{
	REAL(int, unlinkat, int, const char *, int);
	CHECK("unlinkat", dir, name, 0);
	return real(dir, name, flags);
}

int
mkdir(const char *path, mode_t mode)
{
	REAL(int, mkdir, const char *, mode_t);
	CHECK("mkdir", AT_FDCWD, path, 1);
	return real(path, mode);
}

int
mkdirat(int dir, const char *name, mode_t mode)
{
	REAL(int, mkdirat, int, const char *, mode_t);
	CHECK("mkdirat", dir, name, 1);
	return real(dir, name, mode);
}
