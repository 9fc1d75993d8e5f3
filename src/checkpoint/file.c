/*
 * file.c
 *		Files of the tree: written once with a running SHA-256, or read at offsets.
 *
 * A descriptor belongs to the memory context its GaFile was made in, which
 * closes it when it goes, after an error too.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/tree.h"
#include "common/cryptohash.h"
#include "miscadmin.h"
#include "storage/fd.h"

#define FILE_MODE 0600
#define BUFFER_SIZE (256 * 1024)
#define READ_SIZE (1024 * 1024)

struct GaFile
{
	int			fd;
	char	   *path;
	uint64		size;			/* of the file, or written so far */
	pg_cryptohash_ctx *sha;		/* while writing */
	char	   *buffer;
	size_t		buffered;
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

GaFile *
ga_file_create(const char *path, uint64 nbytes)
{
	GaFile	   *file = file_new(path);
	const char *name;
	int			parent = ga_path_open_parent(path, true, &name);
	int			fd = openat(parent, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);

	if (fd < 0)
	{
		int			saved = errno;

		close(parent);
		errno = saved;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	}
	close(parent);
	file_adopt(file, fd);
	if (nbytes > 0)
	{
		int			status = posix_fallocate(fd, 0, nbytes);

		if (status == ENOSPC || status == EFBIG || status == EDQUOT)
		{
			errno = status;
			ereport(ERROR,
					(errcode(status == EFBIG ? ERRCODE_PROGRAM_LIMIT_EXCEEDED : ERRCODE_DISK_FULL),
					 errmsg("could not reserve " UINT64_FORMAT " bytes for file \"%s\": %m", nbytes, path)));
		}
	}
	file->buffer = palloc(BUFFER_SIZE);
	file->sha = pg_cryptohash_create(PG_SHA256);
	if (file->sha == NULL || pg_cryptohash_init(file->sha) < 0)
		elog(ERROR, "could not initialize SHA-256");
	return file;
}

/* Appends to the file, past the buffer. */
static void
file_append(GaFile *file, const char *data, size_t nbytes)
{
	if (pg_cryptohash_update(file->sha, (const uint8 *) data, nbytes) < 0)
		elog(ERROR, "could not update SHA-256");
	while (nbytes > 0)
	{
		ssize_t		written;

		CHECK_FOR_INTERRUPTS();
		errno = 0;
		written = pwrite(file->fd, data, nbytes, file->size);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", file->path)));
		}
		data += written;
		nbytes -= written;
		file->size += written;
	}
}

void
ga_file_write(GaFile *file, const void *data, size_t nbytes)
{
	if (file->buffered + nbytes > BUFFER_SIZE)
	{
		file_append(file, file->buffer, file->buffered);
		file->buffered = 0;
	}
	if (nbytes >= BUFFER_SIZE)
		file_append(file, data, nbytes);
	else
	{
		memcpy(file->buffer + file->buffered, data, nbytes);
		file->buffered += nbytes;
	}
}

uint64
ga_file_finish(GaFile *file, uint8 sha256[GA_SHA256_LEN])
{
	file_append(file, file->buffer, file->buffered);
	file->buffered = 0;
	if (pg_cryptohash_final(file->sha, sha256, GA_SHA256_LEN) < 0)
		elog(ERROR, "could not finish SHA-256");
	pg_cryptohash_free(file->sha);
	file->sha = NULL;
	if (pg_fsync(file->fd) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fsync file \"%s\": %m", file->path)));
	ga_file_close(file);
	return file->size;
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
