/*
 * arena.c
 *		Who uses which blocks of the arena (mapping.h).
 *
 * Waiters queue: only the first of them takes blocks, or large requests would
 * starve; who holds blocks already goes before them, or they could wait for each
 * other. Blocks that are released while the owner's request runs on without it
 * (the slot is ABANDONED) stay taken until the device has let go of the slot.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/guc.h"
#include "base/shared.h"
#include "device/request.h"
#include "device/state.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* Nobody tells when an abandoned request has ended. */
#define LOOK_AGAIN_MS 20

/* After so long, who waits while it holds blocks gives up: another may do the same. */
#define HOLD_AND_WAIT_MS 10000

typedef struct GaArenaBlock
{
	int32		owner;			/* process number + 1; 0: free */
	uint32		run;			/* length of the allocation, in its first block; else 0 */
	int32		level;			/* nesting level of the transaction that it belongs to */
	bool		abandoned;		/* released, but in use until the slot's request is not this one */
	uint32		generation;
} GaArenaBlock;

typedef struct GaArena
{
	ConditionVariable freed;
	uint32		nblocks;
	uint32		nqueued;
	/* then GaArenaBlock[nblocks], and int32[processes]: the queue of process numbers */
} GaArena;

static GaArena *arena = NULL;
static LWLockPadded *arena_locks = NULL;

/* Of this process: blocks that it holds, and whether it stands in the queue. */
static uint32 held = 0;
static bool queued = false;
static bool registered = false;

#define arena_lock (&arena_locks[0].lock)

static GaArenaBlock *
blocks_of_arena(void)
{
	return (GaArenaBlock *) (arena + 1);
}

static int32 *
queue_of_arena(void)
{
	return (int32 *) (blocks_of_arena() + arena->nblocks);
}

/* ---- releasing; the lock is held exclusively ---- */

static void
release_run(uint32 first)
{
	GaArenaBlock *blocks = blocks_of_arena();
	int			number = blocks[first].owner - 1;
	uint32		generation = number < (int) ga_mapping()->nslots ? ga_slots(ga_mapping())[number].generation : 0;
	bool		in_use = number < (int) ga_mapping()->nslots && ga_slot_is_abandoned(number, generation);

	for (uint32 i = first, end = first + blocks[first].run; i < end; i++)
	{
		held--;
		if (in_use)
		{
			blocks[i].abandoned = true;
			blocks[i].generation = generation;
		}
		else
			memset(&blocks[i], 0, sizeof(blocks[i]));
	}
}

/* Frees what requests used that have ended since they were abandoned. */
static void
reclaim(void)
{
	GaArenaBlock *blocks = blocks_of_arena();

	for (uint32 i = 0; i < arena->nblocks; i++)
		if (blocks[i].abandoned && !ga_slot_is_abandoned(blocks[i].owner - 1, blocks[i].generation))
			memset(&blocks[i], 0, sizeof(blocks[i]));
}

static void
leave_queue(void)
{
	int32	   *queue = queue_of_arena();
	int32		self = ga_process_number();
	uint32		n = 0;

	for (uint32 i = 0; i < arena->nqueued; i++)
		if (queue[i] != self)
			queue[n++] = queue[i];
	arena->nqueued = n;
	queued = false;
}

/* Frees what this process holds from a nesting level on, and takes it out of the queue. */
static void
release_level(int level)
{
	GaArenaBlock *blocks = blocks_of_arena();

	if (held == 0 && !queued)
		return;

	/* Before its blocks go: what the device still works on must be known to be in use. */
	ga_request_abandon();
	LWLockAcquire(arena_lock, LW_EXCLUSIVE);
	if (queued)
		leave_queue();
	for (uint32 i = 0; held > 0 && i < arena->nblocks; i++)
		if (blocks[i].owner == ga_process_number() + 1 && blocks[i].run > 0 && !blocks[i].abandoned &&
			blocks[i].level >= level)
			release_run(i);
	LWLockRelease(arena_lock);
	ConditionVariableBroadcast(&arena->freed);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PARALLEL_COMMIT || event == XACT_EVENT_PREPARE ||
		event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
		release_level(0);
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId self, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		release_level(level);
	else if (event == SUBXACT_EVENT_COMMIT_SUB && held > 0)
	{
		GaArenaBlock *blocks = blocks_of_arena();

		LWLockAcquire(arena_lock, LW_EXCLUSIVE);
		for (uint32 i = 0; i < arena->nblocks; i++)
			if (blocks[i].owner == ga_process_number() + 1 && !blocks[i].abandoned && blocks[i].level == level)
				blocks[i].level = level - 1;
		LWLockRelease(arena_lock);
	}
}

static void
at_exit(int code, Datum arg)
{
	release_level(0);
}

/* ---- taking ---- */

/* Takes the first place that is large enough; nblocks when there is none. */
static uint32
take_run(uint32 wanted)
{
	GaArenaBlock *blocks = blocks_of_arena();
	uint32		n = 0;

	for (uint32 i = 0; i < arena->nblocks; i++)
	{
		n = blocks[i].owner == 0 ? n + 1 : 0;
		if (n < wanted)
			continue;
		i -= wanted - 1;
		blocks[i].run = wanted;
		for (uint32 j = i; j < i + wanted; j++)
		{
			blocks[j].owner = ga_process_number() + 1;
			blocks[j].level = GetCurrentTransactionNestLevel();
		}
		held += wanted;
		return i;
	}
	return arena->nblocks;
}

/* True when it is this process's turn; takes a place in the queue otherwise. */
static bool
my_turn(void)
{
	int32	   *queue = queue_of_arena();

	if (arena->nqueued == 0 || held > 0 || queue[0] == ga_process_number())
		return true;
	if (!queued)
		queue[arena->nqueued++] = ga_process_number();
	queued = true;
	return false;
}

/* One attempt; nblocks when it has to wait, and then it stands in the queue. */
static uint32
attempt(uint32 wanted)
{
	uint32		first = arena->nblocks;
	bool		wake = false;

	LWLockAcquire(arena_lock, LW_EXCLUSIVE);
	if (my_turn())
	{
		first = take_run(wanted);
		if (first == arena->nblocks)
		{
			reclaim();
			first = take_run(wanted);
		}
		if (first == arena->nblocks && !queued)
		{
			queue_of_arena()[arena->nqueued++] = ga_process_number();
			queued = true;
		}
		if (first < arena->nblocks && queued)
		{
			leave_queue();
			wake = arena->nqueued > 0;
		}
	}
	LWLockRelease(arena_lock);
	if (wake)
		ConditionVariableBroadcast(&arena->freed);
	return first;
}

static void
register_once(void)
{
	if (registered)
		return;
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
	before_shmem_exit(at_exit, 0);
	registered = true;
}

char *
ga_arena_alloc(uint64 nbytes)
{
	uint32		wanted = Max((nbytes + GA_ARENA_BLOCK - 1) / GA_ARENA_BLOCK, 1);
	static uint32 wait_event = 0;
	uint32		first;
	TimestampTz since;

	ga_shared_require();
	if (nbytes > ga_arena_limit())
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("a transfer of %llu bytes is larger than the memory for transfers", (unsigned long long) nbytes),
				 errdetail("It has %llu bytes.", (unsigned long long) ga_arena_limit()),
				 errhint("Increase gpuagent.host_cache_size.")));
	register_once();
	first = attempt(wanted);
	if (first < arena->nblocks)
		return ga_mapping_at(ga_mapping()->arena_offset) + (uint64) first * GA_ARENA_BLOCK;

	if (wait_event == 0)
		wait_event = ga_wait_event("GpuAgentArena");
	since = GetCurrentTimestamp();
	ConditionVariablePrepareToSleep(&arena->freed);
	while ((first = attempt(wanted)) == arena->nblocks)
	{
		ConditionVariableTimedSleep(&arena->freed, LOOK_AGAIN_MS, wait_event);
		if (held > 0 && TimestampDifferenceExceeds(since, GetCurrentTimestamp(), HOLD_AND_WAIT_MS))
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("the memory for transfers is in use"),
					 errhint("Try again, or increase gpuagent.host_cache_size.")));
	}
	ConditionVariableCancelSleep();
	return ga_mapping_at(ga_mapping()->arena_offset) + (uint64) first * GA_ARENA_BLOCK;
}

void
ga_arena_free(char *memory)
{
	uint32		first = (memory - ga_mapping_at(ga_mapping()->arena_offset)) / GA_ARENA_BLOCK;

	LWLockAcquire(arena_lock, LW_EXCLUSIVE);
	Assert(blocks_of_arena()[first].owner == ga_process_number() + 1 && blocks_of_arena()[first].run > 0);
	release_run(first);
	LWLockRelease(arena_lock);
	ConditionVariableBroadcast(&arena->freed);
}

uint32
ga_arena_held(void)
{
	return held;
}

void
ga_arena_release(void)
{
	release_level(0);
}

uint64
ga_arena_limit(void)
{
	return (uint64) arena->nblocks * GA_ARENA_BLOCK;
}

uint64
ga_arena_used(void)
{
	uint64		used = 0;

	if (arena == NULL)
		return 0;
	LWLockAcquire(arena_lock, LW_EXCLUSIVE);
	reclaim();
	for (uint32 i = 0; i < arena->nblocks; i++)
		used += blocks_of_arena()[i].owner != 0;
	LWLockRelease(arena_lock);
	return used * GA_ARENA_BLOCK;
}

/* ---- the shared area ---- */

/* At least as many as the mapping will have. */
static uint32
most_blocks(void)
{
	return Max(ga_host_cache_size / 4, 16);
}

static Size
arena_size(void)
{
	return sizeof(GaArena) + most_blocks() * sizeof(GaArenaBlock) + ga_process_slots() * sizeof(int32);
}

static int
arena_nlocks(void)
{
	return 1;
}

static void
arena_init(void *area)
{
	GaArena    *new = area;

	new->nblocks = Min(ga_mapping()->arena_bytes / GA_ARENA_BLOCK, most_blocks());
	ConditionVariableInit(&new->freed);
}

void
ga_arena_register(void)
{
	static const GaSharedArea area = {
		.name = "gpuagent arena",
		.size = arena_size,
		.nlocks = arena_nlocks,
		.init = arena_init,
		.area = (void **) &arena,
		.locks = &arena_locks,
	};

	ga_shared_register(&area);
}
