/*
 * gpuknn_mirror_ask.c
 *		Scans ask mirrors: the way of a question to the device, and why it may have
 *		to be answered from the pages.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "device/mapping.h"
#include "device/request.h"
#include "index/gpuknn_mirror_shared.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/*
 * The host goes over so many bytes in the time that a question to the device
 * takes, some 0.1 ms with the copies of its arguments and answers.
 */
#define SMALLEST_MIRROR ((uint64) 4 * 1024 * 1024)

typedef enum Step
{
	STEP_ASK,					/* the mirror is up to date, and pinned */
	STEP_FILL,					/* this process makes it or brings it up to date */
	STEP_WAIT,					/* another one does */
	STEP_HOST
} Step;

bool
gpuknn_mirror_may(Relation index, GaKnnStorage storage)
{
	/* F32 promises values in the order of (distance, tid), which bounds of a device do not give. */
	return mirrors != NULL && ga_devices != GA_DEVICES_HOST && storage != GA_KNN_F32 && !RelationUsesLocalBuffers(index) &&
		!ga_old_snapshots_end();
}

/* Whether there was a device since the server started. */
static bool
is_wanted(Relation index, const GpuknnAsk *ask)
{
	return gpuknn_mirror_may(index, ask->shape.storage) && ga_mapping()->ndevices > 0 &&
		ask->length * ask->shape.record_bytes * Max(ask->nqueries, 1) >= SMALLEST_MIRROR;
}

static bool
is_up_to_date(MirrorEntry *entry, const GpuknnAsk *ask)
{
	return entry->ready && pg_atomic_read_u32(&entry->asked) <= MIRROR_FAILURES && entry->incarnation == ask->incarnation && entry->length >= ask->length &&
		entry->changes >= ask->changes && entry->epoch == __atomic_load_n(&ga_mapping()->epoch, __ATOMIC_SEQ_CST);
}

/* The lock is held exclusively. */
static Step
decide(Relation index, const GpuknnAsk *ask, MirrorEntry **found, const char **reason)
{
	MirrorEntry *entry = gpuknn_mirror_enter(index);

	*found = entry;
	*reason = NULL;
	if (entry == NULL)
		*reason = "too many indexes are in use";
	else if (is_up_to_date(entry, ask))
	{
		gpuknn_mirror_pin(entry);
		return STEP_ASK;
	}
	else if (entry->filler != 0 && (entry->filling_all || entry->region == 0))
		*reason = "the index is being copied to the device";
	else if (entry->filler != 0)
		return STEP_WAIT;
	if (*reason != NULL)
		return STEP_HOST;

	if (entry->region != 0 && (pg_atomic_read_u32(&entry->asked) > MIRROR_FAILURES || entry->incarnation != ask->incarnation ||
							   entry->epoch != __atomic_load_n(&ga_mapping()->epoch, __ATOMIC_SEQ_CST)))
		gpuknn_mirror_doom(entry);
	if (entry->region != 0 && !entry->doomed)
	{
		gpuknn_mirror_begin_fill(entry);
		return STEP_FILL;
	}
	if (entry->retry_at > GetCurrentTimestamp())
		*reason = "the index could not be copied to the device";
	else if (entry->doomed && pg_atomic_read_u32(&entry->pins) > 0)
		*reason = "the copy on the device is being given up";
	return *reason != NULL ? STEP_HOST : STEP_FILL;
}

static Step
next_step(Relation index, const GpuknnAsk *ask, MirrorEntry **found, const char **reason)
{
	Step		step;

	/* Most of the time it is there. */
	LWLockAcquire(mirrors_lock, LW_SHARED);
	*found = gpuknn_mirror_find(MyDatabaseId, RelationGetRelid(index));
	if (*found != NULL && is_up_to_date(*found, ask))
	{
		gpuknn_mirror_pin(*found);
		LWLockRelease(mirrors_lock);
		return STEP_ASK;
	}
	LWLockRelease(mirrors_lock);

	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	step = decide(index, ask, found, reason);
	gpuknn_mirror_unlock();
	return step;
}

/* Makes a new mirror this process's to fill, once what was there is gone. */
static bool
take_empty(MirrorEntry *entry, Relation index)
{
	bool		taken;

	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	taken = gpuknn_mirror_enter(index) == entry && entry->region == 0 && entry->filler == 0 &&
		pg_atomic_read_u32(&entry->pins) == 0;
	if (taken)
		gpuknn_mirror_begin_fill(entry);
	gpuknn_mirror_unlock();
	return taken;
}

static void
ask_device(MirrorEntry *entry, const GpuknnAsk *ask, GaKnnDevicePair *pairs, uint64 *counts)
{
	GaKnnAsk	question = {
		.rows = ask->length,
		.stride = mirror_stride(ask->shape.record_bytes),
		.dim = (uint32) ask->shape.dim,
		.storage = ask->shape.storage,
		.metric = ask->shape.metric,
		.sums = ask->sums,
		.dtype = ask->dtype,
		.nqueries = ask->nqueries,
		.limit = ask->limit,
	};

	pg_atomic_write_u64(&entry->last_used, (uint64) GetCurrentTimestamp());
	pg_atomic_fetch_add_u32(&entry->asked, 1);
	gpuknn_mirror_at_device = true;
	ga_region_knn(entry->region, entry->device, &question, ask->after, ask->queries, pairs, counts);
	gpuknn_mirror_at_device = false;
	pg_atomic_write_u32(&entry->asked, 0);
	if (entry->failures != 0)
		entry->failures = 0;
	gpuknn_mirror_unpin();
}

static void
wait_for_fill(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = ga_wait_event("GpuAgentMirror");
	(void) ConditionVariableTimedSleep(&mirrors->filled, 1000, event);
}

/* NULL, or why the device does not answer. */
static const char *
answer(Relation index, const GpuknnAsk *ask, GaKnnDevicePair *pairs, uint64 *counts)
{
	const char *reason = NULL;
	instr_time	start;
	instr_time	now;
	MirrorEntry *entry;

	INSTR_TIME_SET_CURRENT(start);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!ga_device_serves())
			return "the device does not serve";
		switch (next_step(index, ask, &entry, &reason))
		{
			case STEP_ASK:
				INSTR_TIME_SET_CURRENT(now);
				INSTR_TIME_SUBTRACT(now, start);
				ask_device(entry, ask, pairs, counts);
				ga_last_request.index = RelationGetRelid(index);
				ga_last_request.catchup_ms = INSTR_TIME_GET_MILLISEC(now);
				return NULL;
			case STEP_FILL:
				if (entry->filler != MyProcPid && !take_empty(entry, index))
					break;
				reason = gpuknn_mirror_fill(index, entry);
				if (reason != NULL)
					return reason;
				break;
			case STEP_WAIT:
				wait_for_fill();
				break;
			case STEP_HOST:
				return reason;
		}
	}
}

/* Errors that the device, its memory or the way there may give; those of reading pages are not looked at. */
static bool
is_of_device(int sqlstate)
{
	return sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE || sqlstate == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED ||
		sqlstate == ERRCODE_SYSTEM_ERROR || sqlstate == ERRCODE_DISK_FULL || sqlstate == ERRCODE_INTERNAL_ERROR;
}

bool
gpuknn_mirror_ask(Relation index, const GpuknnAsk *ask, GaKnnDevicePair *pairs, uint64 *counts, const char **reason)
{
	MemoryContext context = CurrentMemoryContext;
	const char *volatile why = NULL;
	bool		holds = mirrors != NULL && ga_arena_held() > 0;

	*reason = NULL;
	if (!is_wanted(index, ask))
		return false;
	PG_TRY();
	{
		why = answer(index, ask, pairs, counts);
	}
	PG_CATCH();
	{
		bool		of_device = gpuknn_mirror_at_device && is_of_device(geterrcode());

		gpuknn_mirror_at_device = false;
		gpuknn_mirror_release(of_device);
		ConditionVariableCancelSleep();
		if (!of_device)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		ga_request_abandon();
		if (!holds)
			ga_arena_release();
		why = "the device failed";
	}
	PG_END_TRY();
	ConditionVariableCancelSleep();
	if (why == NULL)
		return true;
	*reason = why;
	gpuknn_mirror_count_fallback(index, why);
	ga_device_fallback(why);
	return false;
}

/* ----- counting ----- */

void
gpuknn_mirror_count_scan(Relation index, bool by_device)
{
	MirrorEntry *entry;

	if (mirrors == NULL || RelationUsesLocalBuffers(index))
		return;
	LWLockAcquire(mirrors_lock, LW_SHARED);
	entry = gpuknn_mirror_find(MyDatabaseId, RelationGetRelid(index));
	if (entry != NULL)
		pg_atomic_fetch_add_u64(by_device ? &entry->scans_device : &entry->scans_host, 1);
	LWLockRelease(mirrors_lock);
	if (entry != NULL)
		return;
	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	entry = gpuknn_mirror_enter(index);
	if (entry != NULL)
		pg_atomic_fetch_add_u64(by_device ? &entry->scans_device : &entry->scans_host, 1);
	gpuknn_mirror_unlock();
}

void
gpuknn_mirror_count_fallback(Relation index, const char *reason)
{
	MirrorEntry *entry;

	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	entry = gpuknn_mirror_enter(index);
	if (entry != NULL)
	{
		pg_atomic_fetch_add_u64(&entry->fallbacks, 1);
		strlcpy(entry->last_reason, reason, sizeof(entry->last_reason));
	}
	gpuknn_mirror_unlock();
}

bool
gpuknn_mirror_is_resident(Oid index)
{
	const MirrorEntry *entry;
	bool		resident;

	if (mirrors == NULL || !ga_device_serves())
		return false;
	LWLockAcquire(mirrors_lock, LW_SHARED);
	entry = gpuknn_mirror_find(MyDatabaseId, index);
	resident = entry != NULL && entry->ready && entry->epoch == __atomic_load_n(&ga_mapping()->epoch, __ATOMIC_SEQ_CST);
	LWLockRelease(mirrors_lock);
	return resident;
}
