/*
 * file.c
 *		Files of the tree: written once with a running SHA-256, or read at offsets.
 *
 * A descriptor belongs to the memory context its GaFile was made in, which
 * closes it when it goes, after an error too.
 *
 * Large files are written past the page cache where the file system can do
 * that: their bytes are read again by others, if at all, and what they would
 * push out of memory is the database's (doc/performance.md has the numbers).
 * Then everything that is written begins and ends at a block, also in memory.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/progress.h"
#include "base/throttle.h"
#include "checkpoint/tree.h"
#include "common/cryptohash.h"
#include "miscadmin.h"
#include "storage/fd.h"

#define FILE_MODE 0600
#define BUFFER_SIZE (1024 * 1024)
#define SMALL_BUFFER_SIZE (64 * 1024)
#define READ_SIZE (1024 * 1024)

/* Write-back of less is not started piece by piece. */
#define FLUSH_MIN (128 * 1024)

/* Files of less go through the page cache, of which they take little. */
#define DIRECT_MIN (4 * 1024 * 1024)

#ifdef O_DIRECT
#define DIRECT_FLAG O_DIRECT
#else
#define DIRECT_FLAG 0
#endif

struct GaFile
{
	int			fd;
	char	   *path;
	uint64		size;			/* of the file, or appended so far */
	bool		direct;			/* past the page cache */
	pg_cryptohash_ctx *sha;		/* while appending */
	char	   *buffer;			/* the end of what was appended, not yet on disk */
	size_t		room;
	size_t		buffered;
	size_t		hashed;			/* bytes of the buffer that the SHA-256 has seen */
	MemoryContextCallback release;
};

static void
file_release(void *arg)
{
	GaFile	   *file = arg;

	if (file->fd >= 0)
	{
		close(file->fd);
		file->fd = -1;
		ReleaseExternalFD();
	}
}

/* Takes room for a descriptor before it is opened. */
static GaFile *
file_new(const char *path)
{
	GaFile	   *file = palloc0(sizeof(GaFile));

	file->fd = -1;
	file->path = pstrdup(path);
	file->release.func = file_release;
	file->release.arg = file;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &file->release);
	return file;
}

static void
file_adopt(GaFile *file, int fd)
{
	file->fd = fd;
	ReserveExternalFD();
}

/* Opens a file to write, past the page cache when asked to and where that can be done. */
static void
open_to_write(GaFile *file, int flags, bool direct)
{
	const char *name;
	int			parent = ga_path_open_parent(file->path, (flags & O_CREAT) != 0, &name);
	int			fd = -1;
	int			saved;

	if (direct && DIRECT_FLAG != 0)
		fd = openat(parent, name, flags | O_NOFOLLOW | O_CLOEXEC | DIRECT_FLAG, FILE_MODE);
	file->direct = fd >= 0;
	if (fd < 0)
	{
		/* A file system that refuses the flag may have made the file nevertheless. */
		if (direct && errno == EINVAL)
			flags &= ~O_EXCL;
		fd = openat(parent, name, flags | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
	}
	saved = errno;
	close(parent);
	errno = saved;
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not %s file \"%s\": %m", flags & O_CREAT ? "create" : "open", file->path)));
	file_adopt(file, fd);
}

GaFile *
ga_file_create(const char *path, uint64 nbytes)
{
	GaFile	   *file = file_new(path);

	open_to_write(file, O_RDWR | O_CREAT | O_EXCL, nbytes >= DIRECT_MIN);
	if (nbytes > 0)
	{
		int			status = posix_fallocate(file->fd, 0, nbytes);

		if (status == ENOSPC || status == EFBIG || status == EDQUOT)
		{
			errno = status;
			ereport(ERROR,
					(errcode(status == EFBIG ? ERRCODE_PROGRAM_LIMIT_EXCEEDED : ERRCODE_DISK_FULL),
					 errmsg("could not reserve " UINT64_FORMAT " bytes for file \"%s\": %m", nbytes, path)));
		}
	}
	file->room = nbytes > 0 && nbytes < SMALL_BUFFER_SIZE ? SMALL_BUFFER_SIZE : BUFFER_SIZE;
	file->buffer = (char *) TYPEALIGN(GA_FILE_BLOCK, palloc(file->room + GA_FILE_BLOCK));
	file->sha = pg_cryptohash_create(PG_SHA256);
	if (file->sha == NULL || pg_cryptohash_init(file->sha) < 0)
		elog(ERROR, "could not initialize SHA-256");
	return file;
}

GaFile *
ga_file_join(const char *path, bool direct)
{
	GaFile	   *file = file_new(path);

	open_to_write(file, O_WRONLY, direct);
	return file;
}

bool
ga_file_is_direct(const GaFile *file)
{
	return file->direct;
}

/* True when a file system that took the flag refuses to write that way; then it is not asked again. */
static bool
gives_up_direct(GaFile *file)
{
	if (!file->direct || errno != EINVAL || fcntl(file->fd, F_SETFL, 0) < 0)
		return false;
	file->direct = false;
	return true;
}

void
ga_file_put(GaFile *file, uint64 offset, const char *data, size_t nbytes)
{
	uint64		begin = offset;
	size_t		total = nbytes;

	ga_throttle(nbytes);
	while (nbytes > 0)
	{
		ssize_t		written;

		CHECK_FOR_INTERRUPTS();
		errno = 0;
		written = pwrite(file->fd, data, nbytes, offset);
		if (written < 0 && (errno == EINTR || gives_up_direct(file)))
			continue;
		if (written <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", file->path)));
		}
		/* What follows part of a block goes through the page cache. */
		if (file->direct && written < nbytes && written % GA_FILE_BLOCK != 0 && fcntl(file->fd, F_SETFL, 0) == 0)
			file->direct = false;
		data += written;
		nbytes -= written;
		offset += written;
	}
	/* Write-back starts now, so that the fsync at the end has little left to wait for. */
	if (!file->direct && total >= FLUSH_MIN)
		pg_flush_data(file->fd, begin, total);
	ga_progress_add(0, total);
}

static void
hash_bytes(GaFile *file, const char *data, size_t nbytes)
{
	if (pg_cryptohash_update(file->sha, (const uint8 *) data, nbytes) < 0)
		elog(ERROR, "could not update SHA-256");
}

static void
hash_buffer(GaFile *file)
{
	hash_bytes(file, file->buffer + file->hashed, file->buffered - file->hashed);
	file->hashed = file->buffered;
}

static void
flush_buffer(GaFile *file)
{
	hash_buffer(file);
	ga_file_put(file, file->size - file->buffered, file->buffer, file->buffered);
	file->buffered = file->hashed = 0;
}

void
ga_file_write(GaFile *file, const void *data, size_t nbytes)
{
	const char *p = data;

	while (nbytes > 0)
	{
		size_t		take = Min(nbytes, file->room - file->buffered);

		memcpy(file->buffer + file->buffered, p, take);
		file->buffered += take;
		file->size += take;
		p += take;
		nbytes -= take;
		if (file->buffered == file->room)
			flush_buffer(file);
	}
}

/* Appends bytes that the SHA-256 has seen. */
static void
append_hashed(GaFile *file, const char *data, size_t nbytes)
{
	hash_buffer(file);
	while (nbytes > 0)
	{
		size_t		take = Min(nbytes, file->room - file->buffered);

		memcpy(file->buffer + file->buffered, data, take);
		file->buffered += take;
		file->hashed = file->buffered;
		file->size += take;
		data += take;
		nbytes -= take;
		if (file->buffered == file->room)
			flush_buffer(file);
	}
}

size_t
ga_file_share(GaFile *file, char *head)
{
	size_t		rest = file->buffered % GA_FILE_BLOCK;

	hash_buffer(file);
	memcpy(head, file->buffer + file->buffered - rest, rest);
	if (file->buffered > rest)
		ga_file_put(file, file->size - file->buffered, file->buffer, file->buffered - rest);
	file->buffered = file->hashed = 0;
	return rest;
}

void
ga_file_hash_shared(GaFile *file, const char *data, size_t nbytes)
{
	hash_bytes(file, data, nbytes);
}

void
ga_file_unshare(GaFile *file, uint64 size, const char *tail, size_t nbytes)
{
	Assert(file->buffered == 0 && (size - nbytes) % GA_FILE_BLOCK == 0);
	file->size = size - nbytes;
	append_hashed(file, tail, nbytes);
}

uint64
ga_file_finish(GaFile *file, uint8 sha256[GA_SHA256_LEN])
{
	size_t		rest = file->buffered % GA_FILE_BLOCK;
	uint64		size = file->size;

	hash_buffer(file);
	if (file->direct && rest > 0)
	{
		/* A whole block is written, and what is too much of it cut off. */
		memset(file->buffer + file->buffered, 0, GA_FILE_BLOCK - rest);
		file->buffered = file->hashed += GA_FILE_BLOCK - rest;
		file->size += GA_FILE_BLOCK - rest;
	}
	flush_buffer(file);
	if (file->size != size && ftruncate(file->fd, size) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not truncate file \"%s\": %m", file->path)));
	file->size = size;
	if (pg_cryptohash_final(file->sha, sha256, GA_SHA256_LEN) < 0)
		elog(ERROR, "could not finish SHA-256");
	pg_cryptohash_free(file->sha);
	file->sha = NULL;
	if (pg_fsync(file->fd) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", file->path)));
	ga_file_close(file);
	return size;
}

GaFile *
ga_file_open(const char *path)
{
	GaFile	   *file = file_new(path);
	const char *name;
	int			parent = ga_path_open_parent(path, false, &name);
	int			fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		ga_path_open_failed(parent, name, path);
	close(parent);
	file_adopt(file, fd);
	if (fstat(fd, &st) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not stat file \"%s\": %m", path)));
	if (!S_ISREG(st.st_mode))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a regular file", path)));
	file->size = st.st_size;
	return file;
}

uint64
ga_file_size(const GaFile *file)
{
	return file->size;
}

void
ga_file_read(GaFile *file, uint64 offset, void *dst, size_t nbytes)
{
	char	   *p = dst;

	while (nbytes > 0)
	{
		ssize_t		got;

		CHECK_FOR_INTERRUPTS();
		got = pread(file->fd, p, nbytes, offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", file->path)));
		if (got == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("file \"%s\" ends early", file->path),
					 errdetail(UINT64_FORMAT " bytes are missing at " UINT64_FORMAT ".", (uint64) nbytes, offset)));
		p += got;
		nbytes -= got;
		offset += got;
	}
}

void
ga_file_close(GaFile *file)
{
	file_release(file);
}

uint64
ga_file_hash(const char *path, uint8 sha256[GA_SHA256_LEN])
{
	GaFile	   *file = ga_file_open(path);
	pg_cryptohash_ctx *sha = pg_cryptohash_create(PG_SHA256);
	char	   *buffer = palloc(READ_SIZE);

	if (sha == NULL || pg_cryptohash_init(sha) < 0)
		elog(ERROR, "could not initialize SHA-256");
	for (uint64 at = 0; at < file->size; at += READ_SIZE)
	{
		size_t		piece = Min(READ_SIZE, file->size - at);

		ga_file_read(file, at, buffer, piece);
		if (pg_cryptohash_update(sha, (const uint8 *) buffer, piece) < 0)
			elog(ERROR, "could not update SHA-256");
	}
	if (pg_cryptohash_final(sha, sha256, GA_SHA256_LEN) < 0)
		elog(ERROR, "could not finish SHA-256");
	pg_cryptohash_free(sha);
	pfree(buffer);
	ga_file_close(file);
	return file->size;
}
