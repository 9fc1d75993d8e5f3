/*
 * mapping.c
 *		The run directory and the shared mapping in it (mapping.h).
 *
 * The directory's name is made from the identity of the data directory, which
 * the postmaster has locked: no other server on the machine uses the same. What
 * is found in it was left by a predecessor that could not clean up, and goes.
 */
#include "base/compat.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/guc.h"
#include "base/shared.h"
#include "common/hashfn.h"
#include "device/region.h"
#include "device/state.h"
#include "math/fingerprint.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#define MEGABYTE ((uint64) 1024 * 1024)
#define SMALLEST_ARENA (16 * MEGABYTE)
#define SMALLEST_MAPPING (32 * MEGABYTE)	/* of arena and cache */

static char run_directory[MAXPGPATH];
static GaHeader *header = NULL;
static GaDeviceState *state = NULL;
static LWLockPadded *state_locks = NULL;
static pid_t remover = 0;		/* the process that removes the directory when it exits */

GaHeader *
ga_mapping(void)
{
	return header;
}

const char *
ga_run_directory(void)
{
	return run_directory;
}

const uint8 *
ga_fingerprint_key(void)
{
	return (const uint8 *) ga_mapping_at(header->key_offset);
}

GaDeviceState *
ga_device_state(void)
{
	return state;
}

LWLock *
ga_device_state_lock(void)
{
	return &state_locks[0].lock;
}

/* ---- the directory ---- */

static void
name_directory(void)
{
	struct stat st;
	uint64		identity[2];
	int			length;

	if (stat(DataDir, &st) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not stat directory \"%s\": %m", DataDir)));
	identity[0] = st.st_dev;
	identity[1] = st.st_ino;
	length = snprintf(run_directory, sizeof(run_directory), "%s/gpuagent-%016llx", ga_shared_memory_dir,
					  (unsigned long long) hash_bytes_extended((const unsigned char *) identity, sizeof(identity), 0));

	/* The address of a socket has room for so much, and clients have to reach it by name. */
	if (length + sizeof("/" GA_SOCKET_NAME) > sizeof(((struct sockaddr_un *) 0)->sun_path))
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"gpuagent.shared_memory_dir\" is too long"),
				 errdetail("The name of a socket below it would have %d bytes, at most %d are possible.",
						   (int) (length + sizeof("/" GA_SOCKET_NAME) - 1), (int) sizeof(((struct sockaddr_un *) 0)->sun_path) - 1)));
}

/* Makes or takes over the directory; fd of it. */
static int
open_directory(void)
{
	struct stat st;
	int			fd;

	if (mkdir(run_directory, S_IRWXU) != 0 && errno != EEXIST)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", run_directory),
				 errhint("Set gpuagent.shared_memory_dir to a directory of a memory file system that the server may write.")));
	fd = open(run_directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not open directory \"%s\": %m", run_directory),
				 errhint("Remove it, or set gpuagent.shared_memory_dir to another directory.")));
	if (fstat(fd, &st) != 0 || st.st_uid != geteuid())
		ereport(FATAL,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("directory \"%s\" belongs to another user", run_directory),
				 errhint("Remove it, or set gpuagent.shared_memory_dir to another directory.")));
	if (fchmod(fd, S_IRWXU) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not set permissions of directory \"%s\": %m", run_directory)));
	return fd;
}

void
ga_expire_region_file(const char *path)
{
	int			fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	uint32		epoch;

	if (fd < 0)
		return;
	if (pread(fd, &epoch, sizeof(epoch), offsetof(GaControl, epoch)) == sizeof(epoch) && !(epoch & GA_EPOCH_EXPIRED))
	{
		epoch |= GA_EPOCH_EXPIRED;
		(void) !pwrite(fd, &epoch, sizeof(epoch), offsetof(GaControl, epoch));
	}
	close(fd);
}

/* Removes what is in the directory; false, with errno, when something cannot be removed. */
static bool
empty_directory(int fd)
{
	DIR		   *dir;
	struct dirent *entry;
	bool		done = true;
	int			own = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (own < 0 || (dir = fdopendir(own)) == NULL)
		return false;
	while ((entry = readdir(dir)) != NULL)
	{
		char		path[MAXPGPATH + 256];

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", run_directory, entry->d_name);
		if (strncmp(entry->d_name, GA_REGION_PREFIX, strlen(GA_REGION_PREFIX)) == 0 && strchr(entry->d_name, '.') == NULL)
			ga_expire_region_file(path);
		done = unlinkat(fd, entry->d_name, 0) == 0 && done;
	}
	closedir(dir);
	return done;
}

static void
remove_directory(int code, Datum arg)
{
	int			fd;

	if (getpid() != remover)
		return;
	fd = open(run_directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	if (!empty_directory(fd) || rmdir(run_directory) != 0)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove directory \"%s\": %m", run_directory)));
	close(fd);
}

/* ---- the mapping ---- */

static uint64
arena_bytes(uint64 total)
{
	return TYPEALIGN_DOWN(GA_ARENA_BLOCK, Max(SMALLEST_ARENA, total / 4));
}

/* The layout of protocol.h for arena and cache of `total` bytes together. */
static GaHeader
plan_layout(uint64 total)
{
	GaHeader	plan = {
		.magic = GA_PROTOCOL_MAGIC,
		.version = GA_PROTOCOL_VERSION,
		.nslots = Min(ga_process_slots(), GA_MAX_SLOTS),
		.slot_bytes = sizeof(GaSlot),
		.slots_offset = GA_SLOTS_OFFSET,
		.arena_bytes = arena_bytes(total),
	};

	StaticAssertStmt(sizeof(GaHeader) <= GA_DEVICES_OFFSET, "the header fits its page");
	StaticAssertStmt(GA_DEVICES_OFFSET + GA_MAX_DEVICES * sizeof(GaDeviceInfo) <= GA_SLOTS_OFFSET, "the devices fit theirs");
	StaticAssertStmt(sizeof(GaSlot) == 512, "a slot has its size");
	plan.cache_bytes = total - plan.arena_bytes;
	plan.key_offset = TYPEALIGN(GA_PAGE, plan.slots_offset + (uint64) plan.nslots * sizeof(GaSlot));
	plan.arena_offset = TYPEALIGN(GA_PAGE, plan.key_offset + GA_FINGERPRINT_KEY_BYTES);
	plan.cache_offset = plan.arena_offset + plan.arena_bytes;
	plan.file_bytes = plan.cache_offset + plan.cache_bytes;
	return plan;
}

/* A file that has all its memory; -1 with errno ENOSPC or ENOMEM when there is not so much. */
static int
allocate_file(const char *path, uint64 bytes)
{
	int			fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
	int			rc;

	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	do
		rc = posix_fallocate(fd, 0, (off_t) bytes);
	while (rc == EINTR);
	if (rc == 0)
		return fd;
	close(fd);
	unlink(path);
	errno = rc;
	return -1;
}

/* Makes the file as large as configured, or as there is room for. */
static int
make_file(const char *path, GaHeader *plan)
{
	uint64		total = (uint64) ga_host_cache_size * MEGABYTE;
	uint64		wanted = total;
	int			fd;

	for (;;)
	{
		*plan = plan_layout(total);
		fd = allocate_file(path, plan->file_bytes);
		if (fd >= 0)
			break;
		if ((errno != ENOSPC && errno != ENOMEM) || total == SMALLEST_MAPPING)
			ereport(FATAL,
					(errcode_for_file_access(),
					 errmsg("could not allocate %llu bytes for file \"%s\": %m", (unsigned long long) plan->file_bytes, path),
					 errhint("Make room there, or set gpuagent.shared_memory_dir to another memory file system.")));
		total = TYPEALIGN_DOWN(MEGABYTE, Max(total / 2, SMALLEST_MAPPING));
	}
	if (total < wanted)
		ereport(WARNING,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("gpuagent takes %llu MB of shared memory instead of %d MB",
						(unsigned long long) (total / MEGABYTE), ga_host_cache_size),
				 errdetail("The file system of \"%s\" has no more room.", path),
				 errhint("Make it larger, or decrease gpuagent.host_cache_size.")));
	return fd;
}

static void
make_mapping(void)
{
	char		path[MAXPGPATH + sizeof(GA_MAPPING_NAME) + 1];
	GaHeader	plan;
	int			fd;

	snprintf(path, sizeof(path), "%s/%s", run_directory, GA_MAPPING_NAME);
	fd = make_file(path, &plan);
	header = mmap(NULL, plan.file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (header == MAP_FAILED)
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map file \"%s\": %m", path)));
	close(fd);
	*header = plan;
	if (!pg_strong_random(ga_mapping_at(plan.key_offset), GA_FINGERPRINT_KEY_BYTES))
		ereport(FATAL,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random key")));
}

/* ---- the shared area ---- */

static Size
state_size(void)
{
	return offsetof(GaDeviceState, free_queue) + GA_FREE_QUEUE * sizeof(GaFreeRegion);
}

static int
state_nlocks(void)
{
	return 1;
}

/* At server start, and after a crash, when every process that used the old mapping is gone. */
static void
state_init(void *area)
{
	GaDeviceState *new = area;
	int			fd;

	if (header != NULL)
	{
		munmap(header, header->file_bytes);
		header = NULL;
	}
	name_directory();
	fd = open_directory();
	if (remover == 0)
	{
		remover = getpid();
		on_proc_exit(remove_directory, 0);
	}
	if (!empty_directory(fd))
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not empty directory \"%s\": %m", run_directory)));
	close(fd);
	make_mapping();
	pg_atomic_init_u64(&new->removals, 0);
	pg_atomic_init_u64(&new->host_bytes, 0);
	pg_atomic_init_u64(&new->host_requests, 0);
	pg_atomic_init_u64(&new->fallbacks, 0);
}

void
ga_mapping_register(void)
{
	static const GaSharedArea area = {
		.name = "gpuagent device",
		.size = state_size,
		.nlocks = state_nlocks,
		.init = state_init,
		.area = (void **) &state,
		.locks = &state_locks,
	};

	ga_shared_register(&area);
	ga_arena_register();
}
