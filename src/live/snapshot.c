/*
 * snapshot.c
 *		The changed leaves of a mapped region, all of one moment (live.h).
 *
 * A client's step makes the sequence of the control page odd and then even
 * again. What is read while the sequence is the same even number before and
 * after is of one moment, and costs the client nothing. A client whose steps
 * follow closely leaves no such time: after some attempts its step lock is
 * taken, which lets it wait for the next step until the leaves are copied. Under
 * that lock an odd sequence means that a writer died in its step: the contents
 * are torn.
 *
 * Copies take memory of the size of what changed, up to four times
 * maintenance_work_mem. More than that is stored straight from the region, while
 * the client waits.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <unistd.h>

#include "device/mapping.h"
#include "device/ops.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "live/live.h"
#include "utils/wait_event.h"

#define COPY_LIMIT ((uint64) 4 * 1024 * maintenance_work_mem)
#define FREE_ATTEMPTS 3			/* without the step lock; with it, one must do */
#define POLL_US 100				/* for the step lock: it may be free for moments only */
#define IMPATIENT_POLLS 1000
#define PATIENT_AFTER 20000		/* polls of one step, then once a millisecond */
#define HASH_ON_DEVICE 64		/* as many leaves as make that faster */
#define GATHER 256				/* leaves at a time */
#define ARENA_SHARE 4			/* of the arena that a table of fingerprints may take for a moment */

/* ---- the step lock ---- */

/* A region whose lease ended in the meantime, or that its device lost, is not waited for. */
static void
require_ready(uint64 region)
{
	GaRegion	now;

	if (!ga_region_get(region, &now) || now.state != GA_REGION_READY)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mapped memory is gone"),
				 errhint("Map the swarm again.")));
}

int
ga_step_lock(const GaRegion *region, const GaControl *control, bool patient)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = GA_LOCK_STEP, .l_len = 1};
	char		path[MAXPGPATH];
	uint64		sequence = 0;
	uint64		polls = 0;
	int			left = IMPATIENT_POLLS;
	int			fd;

	ga_region_path(path, sizeof path, region->id, "");
	fd = OpenTransientFile(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		ga_region_open_failed(path);
	while (fcntl(fd, F_OFD_SETLK, &lock) != 0)
	{
		uint64		now = __atomic_load_n(&control->sequence, __ATOMIC_RELAXED);

		if (errno != EAGAIN && errno != EACCES && errno != EINTR)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not lock file \"%s\": %m", path)));
		CHECK_FOR_INTERRUPTS();
		if (!patient && left-- == 0)
		{
			CloseTransientFile(fd);
			return -1;
		}
		polls = now == sequence ? polls + 1 : 1;
		sequence = now;
		if (polls % 1000 == 0)
			require_ready(region->id);
		if (polls < PATIENT_AFTER)
			pg_usleep(POLL_US);
		else
		{
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1, ga_wait_event("GpuAgentStep"));
			ResetLatch(MyLatch);
		}
	}
	return fd;
}

void
ga_step_unlock(int fd)
{
	CloseTransientFile(fd);
}

/* ---- snapshots ---- */

static void
report_torn(const GaRegion *region)
{
	const char *swarm = strchr(region->object, ':') + 1;

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("swarm \"%s\" is torn", swarm),
			 errdetail("A client ended inside a step: the mapped memory has half of it."),
			 errhint("gpuagent.revert_swarm() brings back the newest version; sync_swarm(.., force => true) stores it as it is.")));
}

static void
report_unlocked(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a client writes mapped memory without the step lock"),
			 errhint("Write inside the steps of the client library.")));
}

/* The leaves whose fingerprints are not those of the table. */
static void
compare(const GaLeaves *table, const GaFingerprint *prints, GaSnapshot *s)
{
	s->ndirty = 0;
	for (uint64 i = 0; i < table->nleaves; i++)
		if (memcmp(&prints[i], &table->prints[i], sizeof(GaFingerprint)) != 0)
			s->dirty[s->ndirty++] = (uint32) i;
}

/*
 * Fingerprints of a GPU come through the arena and are compared there: when nothing has changed they are not needed
 * any more, and memory that this process touches for the first time would cost more than the comparison.
 */
static void
find_dirty(const GaLeaves *table, GaSnapshot *s)
{
	Size		bytes = table->nleaves * sizeof(GaFingerprint);
	char	   *arena = NULL;

	if (s->device != GA_DEVICE_HOST && bytes <= ga_arena_limit() / ARENA_SHARE)
		arena = ga_arena_alloc(bytes);
	else if (s->prints == NULL)
		s->prints = palloc_extended(bytes, MCXT_ALLOC_HUGE);
	ga_region_fingerprint(s->region, s->device, s->nbytes, arena ? (GaFingerprint *) arena : s->prints);
	compare(table, arena ? (const GaFingerprint *) arena : s->prints, s);
	if (arena == NULL)
		return;
	if (s->ndirty > 0)
	{
		if (s->prints == NULL)
			s->prints = palloc_extended(bytes, MCXT_ALLOC_HUGE);
		memcpy(s->prints, arena, bytes);
	}
	ga_arena_free(arena);
}

/* Takes memory for a copy of what is dirty; false when that is too much to be copied. */
static bool
reserve_copy(GaSnapshot *s)
{
	uint64		bytes = (uint64) s->ndirty * GA_LEAF_SIZE;

	if (s->data != NULL && s->data_bytes < bytes)
	{
		pfree(s->data);
		s->data = NULL;
	}
	if (s->data == NULL)
	{
		if (bytes <= COPY_LIMIT)
			s->data = palloc_extended(bytes, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
		if (s->data == NULL)
			return false;
		s->data_bytes = bytes;
	}
	return true;
}

static void
copy_dirty(GaSnapshot *s)
{
	for (uint32 i = 0; i < s->ndirty; i += GATHER)
		ga_region_gather(s->region, s->device, s->nbytes, s->dirty + i, Min(GATHER, s->ndirty - i),
						 s->data + (uint64) i * GA_LEAF_SIZE);
}

/* SHA-256 of the dirty leaves, where the device does that better than this process. */
static void
hash_dirty(GaSnapshot *s)
{
	if (s->device == GA_DEVICE_HOST || s->ndirty < HASH_ON_DEVICE)
		return;
	s->hashes = palloc_extended((Size) s->ndirty * sizeof(GaHash), MCXT_ALLOC_HUGE);
	ga_region_sha256(s->region, s->device, s->nbytes, s->dirty, s->ndirty, (uint8 *) s->hashes);
}

/* One attempt; true when all was read between the same even (or, torn, odd) sequence. */
static bool
attempt(const GaLeaves *table, GaSnapshot *s)
{
	s->step = s->control->step;
	find_dirty(table, s);
	if (s->ndirty > 0)
	{
		bool		copied = reserve_copy(s);

		if (!copied && s->lock < 0)
			return false;
		if (s->hashes != NULL)
			pfree(s->hashes);
		s->hashes = NULL;

		/* Between fingerprints and copies, which are compared: so it is of the same contents. */
		hash_dirty(s);
		if (copied)
			copy_dirty(s);
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return __atomic_load_n(&s->control->sequence, __ATOMIC_ACQUIRE) == s->sequence;
}

/* What differs is too much to be copied: only under the lock does it stay as it is. */
static bool
too_much(const GaSnapshot *s)
{
	return s->ndirty > 0 && s->data == NULL;
}

bool
ga_snapshot_take(const GaRegion *region, const GaControl *control, const GaLeaves *table, bool force, bool nowait,
				 GaSnapshot *s)
{
	memset(s, 0, sizeof *s);
	s->region = region->id;
	s->device = region->device;
	s->nbytes = region->nbytes;
	s->control = control;
	s->lock = -1;
	if (table->nleaves == 0)
	{
		s->step = control->step;
		return true;
	}
	s->dirty = palloc_extended(table->nleaves * sizeof(uint32), MCXT_ALLOC_HUGE);

	for (int i = 0; i < FREE_ATTEMPTS; i++)
	{
		s->sequence = __atomic_load_n(&control->sequence, __ATOMIC_ACQUIRE);
		if (s->sequence % 2 != 0)
		{
			if (nowait)
			{
				ga_snapshot_end(s);
				return false;
			}
			break;
		}
		if (attempt(table, s))
			return true;
		if (too_much(s))
			break;
	}
	s->lock = ga_step_lock(region, control, !nowait);
	if (s->lock < 0)
	{
		ga_snapshot_end(s);
		return false;
	}
	s->sequence = __atomic_load_n(&control->sequence, __ATOMIC_ACQUIRE);
	s->torn = s->sequence % 2 != 0;
	if (s->torn && !force)
		report_torn(region);
	if (!attempt(table, s))
		report_unlocked();
	if (!too_much(s) && !s->torn)
	{
		ga_step_unlock(s->lock);
		s->lock = -1;
	}
	return true;
}

void
ga_snapshot_check(const GaSnapshot *s)
{
	if (s->lock >= 0 && __atomic_load_n(&s->control->sequence, __ATOMIC_ACQUIRE) != s->sequence)
		report_unlocked();
}

void
ga_snapshot_read(const GaSnapshot *s, uint32 first, uint32 n, char *out)
{
	if (s->data != NULL)
		memcpy(out, s->data + (uint64) first * GA_LEAF_SIZE, (uint64) n * GA_LEAF_SIZE);
	else
		ga_region_gather(s->region, s->device, s->nbytes, s->dirty + first, n, out);

	/* The table will say that these are the contents of the version, and the device may have their SHA-256. */
	for (uint32 i = 0; i < n; i++)
	{
		uint32		leaf = s->dirty[first + i];
		uint64		size = Min((uint64) GA_LEAF_SIZE, s->nbytes - (uint64) leaf * GA_LEAF_SIZE);
		GaFingerprint print;

		ga_fingerprint(ga_fingerprint_key(), out + (uint64) i * GA_LEAF_SIZE, size, &print);
		if (memcmp(&print, &s->prints[leaf], sizeof print) != 0)
			report_unlocked();
	}
}

void
ga_snapshot_end(GaSnapshot *s)
{
	if (s->lock >= 0)
		ga_step_unlock(s->lock);
	s->lock = -1;
	if (s->data != NULL)
		pfree(s->data);
	if (s->hashes != NULL)
		pfree(s->hashes);
	if (s->prints != NULL)
		pfree(s->prints);
	if (s->dirty != NULL)
		pfree(s->dirty);
	memset(s, 0, sizeof *s);
	s->lock = -1;
}
