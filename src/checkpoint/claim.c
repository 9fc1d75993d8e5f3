/*
 * claim.c
 *		One server writes into a tree. A copy of a server (a base backup, a standby)
 *		has the settings and the system identifier of the original; were it to tend
 *		the same tree, it would take the original's exports for its own remains.
 *
 * The launcher of a server locks the file .server in the base (flock) for as long
 * as it lives. Who finds it locked writes nothing there, and its workers leave
 * the tree alone; it may read. It does not take the tree over when the other
 * server stops, which may only be restarting; its own restart or promotion lets it
 * look again. Servers without a launcher are not seen.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "base/guc.h"
#include "base/shared.h"
#include "checkpoint/tree.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "utils/wait_event.h"

#define LOCK_FILE ".server"

/* How long one waits for the launcher to look, in steps of milliseconds: a server whose launcher cannot start works, too. */
#define AWAIT_STEP 10
#define AWAIT_STEPS 500

typedef struct Claim
{
	pg_atomic_uint32 others;	/* 1: another server has the tree */
	pg_atomic_uint32 looked;	/* 1: the launcher has looked who has it */
	Latch	   *launcher;		/* of a process that may be gone, which does not mind; NULL: not started yet */
} Claim;

static Claim *claim = NULL;
static int	held = -1;			/* of the launcher: the lock file */

static Size
claim_size(void)
{
	return sizeof(Claim);
}

static void
claim_init(void *area)
{
	Claim	   *new = area;

	pg_atomic_init_u32(&new->others, 0);
	pg_atomic_init_u32(&new->looked, IsBinaryUpgrade || ga_max_databases == 0);
	new->launcher = NULL;
}

void
ga_tree_claim_register(void)
{
	static const GaSharedArea area = {"gpuagent tree", claim_size, NULL, claim_init, (void **) &claim, NULL};

	ga_shared_register(&area);
}

/* True when the held lock is still that of the file that has the name. */
static bool
still_held(int base)
{
	struct stat mine;
	struct stat there;

	return held >= 0 && fstat(held, &mine) == 0 && fstatat(base, LOCK_FILE, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
		mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

void
ga_tree_claim(void)
{
	static bool refused_on_standby = false;
	bool		others = false;
	int			base;

	claim->launcher = MyLatch;
	if (ga_tree_is_others() && (!refused_on_standby || RecoveryInProgress()))
		return;
	base = open(ga_storage_path(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (base < 0)
		return;					/* nothing there to be claimed; looked for again */
	if (!still_held(base))
	{
		if (held >= 0)
			close(held);
		held = openat(base, LOCK_FILE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (held >= 0 && flock(held, LOCK_EX | LOCK_NB) < 0)
		{
			others = errno == EWOULDBLOCK;
			close(held);
			held = -1;
		}
		if (others != (pg_atomic_read_u32(&claim->others) != 0))
		{
			if (others)
				ereport(WARNING,
						(errmsg("another server has the tree \"%s\"", ga_storage_path()),
						 errdetail("This one writes nothing there."),
						 errhint("Set gpuagent.storage_path to a directory of its own.")));
			else
				ereport(LOG,
						(errmsg("the tree \"%s\" is this server's now", ga_storage_path())));
			refused_on_standby = others && RecoveryInProgress();
			pg_atomic_write_u32(&claim->others, others);
		}
	}
	close(base);
	pg_atomic_write_u32(&claim->looked, 1);
}

/* Waits until the launcher has looked, interruptibly. The base is there. */
static void
await_claim(void)
{
	uint32		event = ga_wait_event("GpuAgentTreeClaim");

	if (claim == NULL || !IsUnderPostmaster)
		return;
	for (int i = 0; i < AWAIT_STEPS && pg_atomic_read_u32(&claim->looked) == 0; i++)
	{
		if (claim->launcher != NULL)
			SetLatch(claim->launcher);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, AWAIT_STEP, event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	pg_atomic_write_u32(&claim->looked, 1);
}

bool
ga_tree_is_others(void)
{
	return claim != NULL && pg_atomic_read_u32(&claim->others) != 0;
}

void
ga_tree_require_own(void)
{
	if (claim != NULL && pg_atomic_read_u32(&claim->looked) == 0 && access(ga_storage_path(), F_OK) == 0)
		await_claim();
	if (ga_tree_is_others())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another server has the tree \"%s\"", ga_storage_path()),
				 errhint("Set gpuagent.storage_path to a directory of its own.")));
}
