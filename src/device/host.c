/*
 * host.c
 *		Regions in files of the run directory, and the operations on them in place.
 *
 * A process maps a region's file on first use and keeps the mapping over
 * transactions: faulting a gigabyte in again costs more than reading it. So that
 * an idle session does not keep the memory of a removed region, who removes it
 * gives the memory back, under the mapping, which the session drops later. For
 * this nobody may be using the data: clients hold a lock as long as they do
 * (GA_LOCK_HOLD), and so do processes of the server, from their first operation
 * on the data to the end of the transaction.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "access/xact.h"
#include "base/shared.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "device/guard.h"
#include "device/ops.h"
#include "device/state.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#define KEPT_FILES 64
#define STRETCH ((uint64) 64 * 1024 * 1024)	/* of work between looks at interrupts */

typedef struct GaMapped
{
	uint64		region;
	char	   *address;
	uint64		bytes;
	ino_t		inode;
	uint64		removals;		/* the counter's value when the file was last seen */
	int			hold;			/* descriptor with the lock, not that of the mapping; -1: none */
} GaMapped;

static GaMapped *mapped = NULL;
static int	nmapped = 0;
static int	mapped_size = 0;

/* ---- files ---- */

void
ga_region_path(char *path, size_t size, uint64 region, const char *suffix)
{
	snprintf(path, size, "%s/" GA_REGION_PREFIX "%llu%s", ga_run_directory(), (unsigned long long) region, suffix);
}

static void
report_gone(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the mapped memory is gone"),
			 errhint("Map the object again.")));
}

void
ga_region_open_failed(const char *path)
{
	if (errno == ENOENT)
		report_gone();
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not open file \"%s\": %m", path)));
}

static void
report_no_room(const char *path, uint64 bytes, int why)
{
	bool		full = why == ENOSPC || why == ENOMEM;

	errno = why;
	ereport(ERROR,
			(errcode(full ? ERRCODE_DISK_FULL : ERRCODE_IO_ERROR),
			 errmsg("could not allocate %llu bytes for file \"%s\": %m", (unsigned long long) bytes, path),
			 full ?
			 errhint("Unmap what is not needed any more, or make the file system of gpuagent.shared_memory_dir larger.") : 0));
}

/* Takes the memory in stretches: a signal ends fallocate early, and it may take seconds. */
static void
allocate_file(int fd, const char *path, uint64 bytes)
{
	for (uint64 done = 0; done < bytes;)
	{
		uint64		n = Min(STRETCH, bytes - done);
		int			rc = posix_fallocate(fd, (off_t) done, (off_t) n);

		CHECK_FOR_INTERRUPTS();
		if (rc == EINTR)
			continue;
		if (rc != 0)
			report_no_room(path, bytes, rc);
		done += n;
	}
}

/* Before others run out of memory for what cannot succeed. A file system without a limit says that it has no blocks. */
static void
check_room(int fd, const char *path, uint64 bytes)
{
	struct statvfs fs;

	if (fstatvfs(fd, &fs) == 0 && fs.f_blocks > 0 && bytes > (uint64) fs.f_bavail * fs.f_frsize)
		report_no_room(path, bytes, ENOSPC);
}

uint64
ga_region_file_create(uint64 region, uint64 data_bytes, uint64 nbytes, bool allocate)
{
	GaControl	control = {
		.magic = GA_CONTROL_MAGIC,
		.version = GA_PROTOCOL_VERSION,
		.region = region,
		.data_bytes = data_bytes,
	};
	uint64		bytes = TYPEALIGN(GA_PAGE, GA_PAGE + nbytes);
	char		path[MAXPGPATH];
	int			fd;

	ga_shared_require();
	ga_region_path(path, sizeof(path), region, "");
	fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	PG_TRY();
	{
		if (allocate)
			allocate_file(fd, path, bytes);
		else
			check_room(fd, path, bytes);
		if ((!allocate && ftruncate(fd, (off_t) bytes) != 0) || pwrite(fd, &control, sizeof(control), 0) != sizeof(control))
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not write file \"%s\": %m", path)));
	}
	PG_CATCH();
	{
		close(fd);
		unlink(path);
		PG_RE_THROW();
	}
	PG_END_TRY();
	close(fd);
	return bytes;
}

/* ---- mappings of this process ---- */

/* A lock on one byte of a file, by a description of its own; false when somebody else's is in the way. */
static bool
lock_byte(int fd, short type, off_t byte)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

	return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/* True when the region's file is still the one that is mapped. */
static bool
is_current(GaMapped *m)
{
	uint64		removals = pg_atomic_read_u64(&ga_device_state()->removals);
	char		path[MAXPGPATH];
	struct stat st;

	if (ga_guard_is_broken(m->address))
		return false;
	if (m->removals == removals)
		return true;
	ga_region_path(path, sizeof(path), m->region, "");
	if (stat(path, &st) != 0 || st.st_ino != m->inode)
		return false;
	m->removals = removals;
	return true;
}

static void
close_hold(GaMapped *m)
{
	if (m->hold < 0)
		return;
	close(m->hold);
	ReleaseExternalFD();
	m->hold = -1;
}

/* What this process does with a region does not keep itself from removing it. */
static void
release_hold(uint64 region)
{
	for (int i = 0; i < nmapped; i++)
		if (mapped[i].region == region)
			close_hold(&mapped[i]);
}

/* Gives up locks, and mappings but the youngest whose files are there. */
static void
drop_mappings(void)
{
	int			surplus = nmapped - KEPT_FILES;
	int			n = 0;

	for (int i = 0; i < nmapped; i++)
	{
		close_hold(&mapped[i]);
		if (i < surplus || !is_current(&mapped[i]))
			ga_guard_unmap(mapped[i].address);
		else
			mapped[n++] = mapped[i];
	}
	nmapped = n;
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (nmapped > 0 &&
		(event == XACT_EVENT_COMMIT || event == XACT_EVENT_PARALLEL_COMMIT || event == XACT_EVENT_PREPARE ||
		 event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT))
		drop_mappings();
}

static GaMapped *
room_for_mapping(void)
{
	if (mapped == NULL)
	{
		mapped_size = 16;
		mapped = MemoryContextAlloc(TopMemoryContext, mapped_size * sizeof(GaMapped));
		RegisterXactCallback(at_transaction_end, NULL);
	}
	else if (nmapped == mapped_size)
	{
		mapped = repalloc(mapped, 2 * mapped_size * sizeof(GaMapped));
		mapped_size *= 2;
	}
	return &mapped[nmapped];
}

/* The region's mapping; NULL when its file is gone. */
static GaMapped *
map_region(uint64 region)
{
	GaMapped   *m;
	struct stat st;
	char		path[MAXPGPATH];
	int			fd;

	ga_shared_require();
	for (int i = nmapped - 1; i >= 0; i--)
		if (mapped[i].region == region)
			return is_current(&mapped[i]) ? &mapped[i] : NULL;

	m = room_for_mapping();
	m->region = region;
	m->removals = pg_atomic_read_u64(&ga_device_state()->removals);
	ga_region_path(path, sizeof(path), region, "");
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return NULL;
	if (fd < 0 || fstat(fd, &st) != 0)
	{
		int			save_errno = errno;

		if (fd >= 0)
			close(fd);
		errno = save_errno;
		ga_region_open_failed(path);
	}
	m->bytes = st.st_size;
	m->inode = st.st_ino;
	m->hold = -1;
	m->address = m->bytes >= GA_PAGE ? ga_guard_map(fd, m->bytes) : NULL;
	close(fd);
	if (m->bytes < GA_PAGE)
		return NULL;
	if (m->address == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map file \"%s\"", path)));
	nmapped++;
	return m;
}

GaControl *
ga_region_control(uint64 region)
{
	GaMapped   *m = map_region(region);
	GaControl  *control = m ? (GaControl *) m->address : NULL;

	return control != NULL && control->magic == GA_CONTROL_MAGIC && control->region == region ? control : NULL;
}

bool
ga_region_is_whole(uint64 region, int device, uint64 nbytes)
{
	uint64		bytes = TYPEALIGN(GA_PAGE, GA_PAGE + (device == GA_DEVICE_HOST ? nbytes : 0));
	char		path[MAXPGPATH];
	struct stat st;
	GaControl	control;
	bool		whole;
	int			fd;

	ga_region_path(path, sizeof(path), region, "");
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	whole = fstat(fd, &st) == 0 && (uint64) st.st_size >= bytes &&
		pread(fd, &control, sizeof(control), 0) == sizeof(control) &&
		control.magic == GA_CONTROL_MAGIC && control.version == GA_PROTOCOL_VERSION && control.region == region;
	close(fd);
	return whole;
}

/* Takes the lock that keeps the region's memory until the transaction ends; false when the region is gone. */
static bool
take_hold(GaMapped *m)
{
	char		path[MAXPGPATH];
	struct stat st;

	if (m->hold >= 0)
		return true;
	ga_region_path(path, sizeof(path), m->region, "");
	ReserveExternalFD();
	m->hold = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (m->hold < 0)
	{
		int			save_errno = errno;

		ReleaseExternalFD();
		if (save_errno == ENOENT)
			return false;
		errno = save_errno;
		ga_region_open_failed(path);
	}
	if (lock_byte(m->hold, F_RDLCK, GA_LOCK_HOLD) && fstat(m->hold, &st) == 0 && st.st_nlink > 0 && st.st_ino == m->inode)
		return true;
	close_hold(m);
	return false;
}

/* After an operation: what it has read is what the file had. */
static void
require_unbroken(const char *part)
{
	if (ga_guard_is_broken(part))
		report_gone();
}

/* Address of a part of a region's data; throws when the region is gone or smaller. */
static char *
part_of(uint64 region, uint64 offset, uint64 nbytes)
{
	GaMapped   *m = map_region(region);
	const GaControl *control;

	if (m == NULL || !take_hold(m))
		report_gone();
	control = (const GaControl *) m->address;
	if (control->magic != GA_CONTROL_MAGIC || m->bytes - GA_PAGE < control->data_bytes)
		report_gone();			/* a client has shortened it */
	if (offset > m->bytes - GA_PAGE || nbytes > m->bytes - GA_PAGE - offset)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("a request leaves its region"),
				 errdetail("Bytes %llu to %llu of %llu.", (unsigned long long) offset,
						   (unsigned long long) (offset + nbytes), (unsigned long long) (m->bytes - GA_PAGE))));
	return m->address + GA_PAGE + offset;
}

/* ---- locks, and the end of a region ---- */

static bool
is_locked(uint64 region, off_t byte)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
	char		path[MAXPGPATH];
	int			fd;
	bool		locked;

	ga_region_path(path, sizeof(path), region, "");
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return false;
	locked = fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
	close(fd);
	return locked;
}

bool
ga_region_is_held(uint64 region)
{
	release_hold(region);
	return is_locked(region, GA_LOCK_HOLD);
}

bool
ga_region_in_step(uint64 region)
{
	return is_locked(region, GA_LOCK_STEP);
}

uint64
ga_region_file_remove(uint64 region)
{
	char		path[MAXPGPATH];
	struct stat st;
	uint64		size = 0;
	int			fd;

	release_hold(region);
	ga_region_path(path, sizeof(path), region, ".leaves");
	unlink(path);
	ga_region_path(path, sizeof(path), region, "");
	ga_expire_region_file(path);
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, &st) == 0)
	{
		/* Who comes now does not get its lock, or finds afterwards that the file has no name any more. */
		bool		unused = lock_byte(fd, F_WRLCK, GA_LOCK_HOLD);

		if (unlink(path) == 0)
		{
			size = st.st_size;
			pg_atomic_fetch_add_u64(&ga_device_state()->removals, 1);
			if (unused && size > GA_PAGE)
				(void) fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, GA_PAGE, size - GA_PAGE);
		}
	}
	if (fd >= 0)
		close(fd);
	return size;
}

/* ---- operations ---- */

uint64
ga_host_create(uint64 region, uint64 nbytes, bool allocate)
{
	uint64		size = ga_region_file_create(region, nbytes, nbytes, allocate);

	pg_atomic_fetch_add_u64(&ga_device_state()->host_bytes, size);
	return size;
}

void
ga_host_remove(uint64 region)
{
	uint64		size = ga_region_file_remove(region);

	pg_atomic_fetch_sub_u64(&ga_device_state()->host_bytes, size);
}

static void
write_file(int fd, const char *path, const char *data, uint64 nbytes, uint64 offset)
{
	for (uint64 done = 0; done < nbytes;)
	{
		ssize_t		n = pwrite(fd, data + done, Min(STRETCH, nbytes - done), (off_t) (offset + done));

		CHECK_FOR_INTERRUPTS();
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			report_no_room(path, nbytes, n < 0 ? errno : ENOSPC);
		done += n;
	}
}

static void
copy_bytes(char *target, const char *source, uint64 nbytes)
{
	for (uint64 done = 0; done < nbytes; done += STRETCH)
	{
		CHECK_FOR_INTERRUPTS();
		memcpy(target + done, source + done, Min(STRETCH, nbytes - done));
	}
}

void
ga_host_upload(uint64 region, uint64 offset, const char *data, uint64 nbytes)
{
	char		path[MAXPGPATH];
	int			fd;

	/* By the file and not the mapping: pages that it does not have yet cost no fault and no zeroing, and a full file system is an error. */
	(void) part_of(region, offset, nbytes);
	ga_region_path(path, sizeof(path), region, "");
	fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		ga_region_open_failed(path);
	PG_TRY();
	{
		write_file(fd, path, data, nbytes, GA_PAGE + offset);
	}
	PG_FINALLY();
	{
		close(fd);
	}
	PG_END_TRY();
}

void
ga_host_download(uint64 region, uint64 offset, char *data, uint64 nbytes)
{
	const char *part = part_of(region, offset, nbytes);

	copy_bytes(data, part, nbytes);
	if (nbytes > 0)
		require_unbroken(part);
}

void
ga_host_copy(uint64 source, uint64 target, uint64 nbytes)
{
	/* Mapping the second may move the array of mappings, but not the first one's address. */
	const char *from = part_of(source, 0, nbytes);
	char	   *to = part_of(target, 0, nbytes);

	copy_bytes(to, from, nbytes);
	if (nbytes > 0)
	{
		require_unbroken(from);
		require_unbroken(to);
	}
}

void
ga_host_fingerprint(uint64 region, uint64 nbytes, GaFingerprint *out)
{
	const char *data = part_of(region, 0, nbytes);

	for (uint64 done = 0; done < nbytes; done += STRETCH)
	{
		CHECK_FOR_INTERRUPTS();
		ga_fingerprint(ga_fingerprint_key(), data + done, Min(STRETCH, nbytes - done), out + done / GA_LEAF);
		require_unbroken(data);
	}
}

/* Bytes of a leaf of the first nbytes; throws when it has none. */
static uint64
leaf_bytes(uint64 nbytes, uint32 leaf)
{
	uint64		start = (uint64) leaf * GA_LEAF;

	if (start >= nbytes)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("leaf %u is outside of a tensor of %llu bytes", leaf, (unsigned long long) nbytes)));
	return Min(GA_LEAF, nbytes - start);
}

void
ga_host_gather(uint64 region, uint64 nbytes, const uint32 *leaves, uint32 n, char *out)
{
	const char *data = part_of(region, 0, nbytes);

	for (uint32 i = 0; i < n; i++, out += GA_LEAF)
	{
		uint64		bytes = leaf_bytes(nbytes, leaves[i]);

		CHECK_FOR_INTERRUPTS();
		memcpy(out, data + (uint64) leaves[i] * GA_LEAF, bytes);
		memset(out + bytes, 0, GA_LEAF - bytes);
		require_unbroken(data);
	}
}

void
ga_host_sha256(uint64 region, uint64 nbytes, const uint32 *leaves, uint32 n, uint8 *out)
{
	const char *data = part_of(region, 0, nbytes);
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);

	if (ctx == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	for (uint32 i = 0; i < n; i++, out += PG_SHA256_DIGEST_LENGTH)
	{
		uint64		bytes = leaf_bytes(nbytes, leaves[i]);

		CHECK_FOR_INTERRUPTS();
		if (pg_cryptohash_init(ctx) < 0 ||
			pg_cryptohash_update(ctx, (const uint8 *) data + (uint64) leaves[i] * GA_LEAF, bytes) < 0 ||
			pg_cryptohash_final(ctx, out, PG_SHA256_DIGEST_LENGTH) < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not compute SHA-256")));
	}
	pg_cryptohash_free(ctx);
	if (n > 0)
		require_unbroken(data);
}

void
ga_host_gather_rows(uint64 source, uint64 target, const uint64 (*pairs)[2], uint32 n, uint32 row_bytes)
{
	for (uint32 i = 0; i < n; i++)
	{
		const char *from = part_of(source, pairs[i][0], row_bytes);
		char	   *to = part_of(target, pairs[i][1], row_bytes);

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		memcpy(to, from, row_bytes);
		require_unbroken(from);
		require_unbroken(to);
	}
}
