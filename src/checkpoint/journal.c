/*
 * journal.c
 *		The file of the journal: locked, read, cut after its last whole record,
 *		appended to, synced.
 *
 * There is a file for each server and database, since nobody else can tell which
 * checkpoints exist there. Whoever changes it holds a lock on it (flock), so
 * that two servers that were copied from each other do not mix their records.
 * The part that may run after a commit uses nothing that throws.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "checkpoint/journal.h"
#include "checkpoint/tree.h"
#include "miscadmin.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#define MAX_FILE (1024 * 1024)
#define COMPACT_AT (256 * 1024) /* what is over goes when the file has grown to this */
#define EMPTY_AT (16 * 1024)	/* when nothing is open: already here */
#define PATIENCE_MS 10000
#define PATIENCE_AT_END_MS 500

static int	folder = -1;		/* wal/, while this transaction uses the journal */

uint32
ga_journal_crc(uint32 crc, const void *data, size_t len)
{
	pg_crc32c	state = ~crc;

	COMP_CRC32C(state, data, len);
	FIN_CRC32C(state);
	return state;
}

/* Name of this database's file. */
static void
file_name(char *name, size_t size)
{
	snprintf(name, size, "exports-%016" PRIx64 "-%u", GetSystemIdentifier(), MyDatabaseId);
}

void
ga_journal_attach(void)
{
	const char *last;

	if (folder >= 0)
		return;
	folder = ga_path_open_parent("wal/x", true, &last);
	ReserveExternalFD();
}

void
ga_journal_detach(void)
{
	if (folder < 0)
		return;
	close(folder);
	folder = -1;
	ReleaseExternalFD();
}

/* Opens and locks a file that still has its name; -1 with errno, EWOULDBLOCK after too long a wait. */
static int
open_locked(int dir, const char *name, int patience)
{
	for (int waited = 0;; waited += 5)
	{
		int			fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		struct stat mine;
		struct stat named;

		if (fd < 0)
			return -1;
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		{
			if (fstat(fd, &mine) == 0 && fstatat(dir, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
				mine.st_ino == named.st_ino && mine.st_dev == named.st_dev)
				return fd;
			errno = EWOULDBLOCK;	/* it was replaced while we waited */
		}
		ga_close_keeping_errno(fd);
		if (errno != EWOULDBLOCK || waited >= patience)
			return -1;
		pg_usleep(5000);
	}
}

/* Reads a whole file of at most MAX_FILE bytes; the number of bytes, -1 with errno. */
static ssize_t
read_all(int fd, char **data)
{
	struct stat st;
	ssize_t		have = 0;

	*data = NULL;
	if (fstat(fd, &st) < 0)
		return -1;
	if (st.st_size > MAX_FILE)
	{
		errno = EFBIG;
		return -1;
	}
	*data = malloc(st.st_size + 1);
	if (*data == NULL)
		return -1;
	while (have < st.st_size)
	{
		ssize_t		got = pread(fd, *data + have, st.st_size - have, have);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -1;
		if (got == 0)
			break;
		have += got;
	}
	return have;
}

typedef struct Rewrite
{
	char	   *data;
	size_t		len;
} Rewrite;

static bool
add_needed(const GaJournalRecord *record, void *arg)
{
	*(size_t *) arg += GA_JOURNAL_FIXED + strlen(record->name) + strlen(record->previous);
	return true;
}

static bool
keep_record(const GaJournalRecord *record, void *arg)
{
	Rewrite    *rewrite = arg;

	rewrite->len += ga_journal_put(rewrite->data + rewrite->len, record);
	return true;
}

/* Puts a file that holds only open records in the place of the journal. */
static bool
compact(int dir, const char *name, const char *data, size_t len)
{
	Rewrite		rewrite = {.data = malloc(len + GA_JOURNAL_HEADER),.len = GA_JOURNAL_HEADER};
	char		draft[80];
	size_t		end;
	uint64_t	last;
	int			fd = -1;
	bool		done = false;

	snprintf(draft, sizeof(draft), "%s.new", name);
	if (rewrite.data != NULL)
	{
		memcpy(rewrite.data, data, GA_JOURNAL_HEADER);
		(void) ga_journal_open_records(data, len, keep_record, &rewrite, &end, &last);
		(void) unlinkat(dir, draft, 0);
		fd = openat(dir, draft, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		done = fd >= 0 && ga_write_all(fd, rewrite.data, rewrite.len, 0) && pg_fsync(fd) == 0 &&
			renameat(dir, draft, dir, name) == 0 && pg_fsync(dir) == 0;
	}
	if (fd >= 0)
		ga_close_keeping_errno(fd);
	free(rewrite.data);
	return done;
}

/* Starts a file, or one that is not a journal of this database anew; what was there is kept aside. */
static bool
start_file(int dir, const char *name, int fd, size_t len)
{
	char		header[GA_JOURNAL_HEADER];

	if (len >= GA_JOURNAL_HEADER)
	{
		char		aside[96];

		snprintf(aside, sizeof(aside), "%s.damaged-%" PRIx64, name, (uint64) GetCurrentTimestamp());
		if (renameat(dir, name, dir, aside) < 0)
			return false;
		errno = EWOULDBLOCK;	/* the next attempt makes a new file */
		return false;
	}
	ga_journal_put_header(header, GetSystemIdentifier(), MyDatabaseId);
	return ga_write_all(fd, header, sizeof(header), 0) && ftruncate(fd, sizeof(header)) == 0 &&
		pg_fsync(fd) == 0 && pg_fsync(dir) == 0;
}

/* Appends to the open and locked file; a record that begins something gets its serial. */
static bool
append_locked(int dir, const char *name, int fd, GaJournalRecord *record)
{
	char		bytes[GA_JOURNAL_RECORD];
	char	   *data;
	ssize_t		len = read_all(fd, &data);
	size_t		end;
	size_t		open;
	size_t		needed = GA_JOURNAL_HEADER; /* by what is open */
	bool		full;
	uint64_t	last;
	size_t		size;
	bool		done;

	if (len < 0)
	{
		free(data);
		return false;
	}
	if (!ga_journal_header_is(data, len, GetSystemIdentifier(), MyDatabaseId))
	{
		free(data);
		if (!start_file(dir, name, fd, len))
			return false;
		return append_locked(dir, name, fd, record);
	}
	open = ga_journal_open_records(data, len, add_needed, &needed, &end, &last);
	/* There has to be room for the ends of all that are open; a file above MAX_FILE nobody would read. */
	full = end + GA_JOURNAL_RECORD + (open + 1) * GA_JOURNAL_FIXED > MAX_FILE;
	if (record->kind != GA_JOURNAL_END &&
		((end > COMPACT_AT && 2 * needed < end) || (open == 0 && end > EMPTY_AT) || (full && needed < end)))
	{
		done = compact(dir, name, data, end);
		free(data);
		if (done)
			errno = EWOULDBLOCK;	/* the next attempt finds the new file */
		return false;
	}
	free(data);
	if (record->kind != GA_JOURNAL_END && full)
	{
		errno = EFBIG;
		return false;
	}
	if (record->kind != GA_JOURNAL_END)
		record->serial = last + 1;
	size = ga_journal_put(bytes, record);
	done = (end == (size_t) len || ftruncate(fd, end) == 0) && ga_write_all(fd, bytes, size, end) && pg_fsync(fd) == 0;
	if (!done)
	{
		int			saved = errno;

		(void) !ftruncate(fd, end);
		errno = saved;
	}
	return done;
}

/* Appends, trying again where the file was replaced meanwhile. Never throws; false with errno. */
static bool
append(GaJournalRecord *record, int patience)
{
	char		name[64];

	record->at = GetCurrentTimestamp() + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	file_name(name, sizeof(name));
	for (int attempt = 0; attempt < 3; attempt++)
	{
		int			fd = open_locked(folder, name, patience);
		bool		done;

		if (fd < 0)
			return false;
		done = append_locked(folder, name, fd, record);
		ga_close_keeping_errno(fd);
		if (done || errno != EWOULDBLOCK)
			return done;
	}
	return false;
}

uint64
ga_journal_begin(GaJournalRecord *record)
{
	ga_journal_attach();
	if (append(record, PATIENCE_MS))
		return record->serial;
	/* What makes room on a full disk goes on without a record: its remains are private, and swept. */
	if (record->kind == GA_JOURNAL_REMOVAL && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG))
		return record->serial = 0;
	if (errno == EFBIG)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the journal of exports is full"),
				 errhint("Export fewer checkpoints in one transaction.")));
	if (errno == EWOULDBLOCK)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not lock the journal of exports"),
				 errdetail("Another process keeps it locked; it is in the folder \"wal\" below gpuagent.storage_path.")));
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not write the journal of exports: %m"),
			 errdetail("It is in the folder \"wal\" below gpuagent.storage_path.")));
	return 0;
}

void
ga_journal_end(uint64 serial)
{
	GaJournalRecord record = {.kind = GA_JOURNAL_END,.serial = serial};

	if (folder >= 0 && serial > 0)
		(void) append(&record, PATIENCE_AT_END_MS);
}

typedef struct Found
{
	GaJournalRecord *records;
	int			count;
} Found;

static bool
add_record(const GaJournalRecord *record, void *arg)
{
	Found	   *found = arg;

	found->records[found->count++] = *record;
	return true;
}

/* The open records of a journal's bytes, in the current context. */
static Found
open_records(const char *data, size_t len)
{
	Found		found = {0};
	size_t		end;
	uint64_t	last;
	size_t		count;

	if (!ga_journal_header_is(data, len, GetSystemIdentifier(), MyDatabaseId))
		return found;
	count = ga_journal_open_records(data, len, NULL, NULL, &end, &last);
	found.records = palloc_extended(sizeof(GaJournalRecord) * Max(count, 1), MCXT_ALLOC_HUGE);
	(void) ga_journal_open_records(data, len, add_record, &found, &end, &last);
	return found;
}

GaJournalRecord *
ga_journal_read(int *count)
{
	char		name[64];
	char	   *volatile data = NULL;
	char	   *bytes;
	const char *last;
	volatile Found found = {0};
	ssize_t		len;
	int			parent;
	int			fd;

	*count = 0;
	file_name(name, sizeof(name));
	if (!ga_path_exists(psprintf("wal/%s", name)))
		return NULL;
	parent = ga_path_open_parent(psprintf("wal/%s", name), false, &last);
	fd = openat(parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	ga_close_keeping_errno(parent);
	len = fd < 0 ? -1 : read_all(fd, &bytes);
	if (fd >= 0)
	{
		data = bytes;
		ga_close_keeping_errno(fd);
	}
	if (len < 0)
	{
		int			saved = errno;

		free(data);
		errno = saved;
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the journal of exports \"wal/%s\": %m", name)));
	}
	PG_TRY();
	{
		Found		all = open_records(data, len);

		found.records = all.records;
		found.count = all.count;
	}
	PG_FINALLY();
	{
		free(data);
	}
	PG_END_TRY();
	*count = found.count;
	return found.records;
}
