/*
 * supervisor.c
 *		The background worker that starts, watches and restarts gpuagent_device,
 *		and looks after what processes and clients left behind.
 *
 * It is the only parent of the device process, which dies with it. After the
 * death of the device process it ends the requests of all slots before it starts
 * the next one under a new epoch. It runs no transactions and never waits for a
 * request.
 */
#include "base/compat.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/guc.h"
#include "base/shared.h"
#include "device/keeper.h"
#include "device/ops.h"
#include "device/region.h"
#include "device/request.h"
#include "device/state.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define SHORTEST_DELAY_MS 100
#define LONGEST_DELAY_MS 30000
#define LONG_LIFE_MS 60000		/* after so long a life the delay begins anew */
#define START_LIMIT_MS 120000	/* for a process that does not become ready */
#define STOP_LIMIT_MS 500		/* each of SIGTERM and SIGKILL */
#define LOOK_MS 1000
#define SOON_MS 5				/* while something is on its way */

extern PGDLLEXPORT void ga_supervisor_main(Datum arg);

static pid_t child = 0;			/* 0: none */
static bool announced = false;	/* that it serves */
static bool killed = false;
static int64 started_ns = 0;
static int64 next_start_ns = 0;
static int	delay_ms = SHORTEST_DELAY_MS;
void		(*ga_device_sweep) (void) = NULL;
static bool freeing = false;	/* a request for the first of the free queue is under way */

static int64
now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

static int64
age_ms(int64 since_ns)
{
	return (now_ns() - since_ns) / 1000000;
}

static uint32
service(void)
{
	return __atomic_load_n(&ga_mapping()->service, __ATOMIC_SEQ_CST);
}

static void
set_service(GaServiceState state)
{
	__atomic_store_n(&ga_mapping()->service, state, __ATOMIC_SEQ_CST);
}

/* ---- death ---- */

/* The process is gone: nobody else changes a slot that is not its owner's. */
static void
end_requests(void)
{
	GaHeader   *header = ga_mapping();
	GaSlot	   *slots = ga_slots(header);

	for (uint32 i = 0; i < header->nslots; i++)
	{
		uint32		state = __atomic_load_n(&slots[i].state, __ATOMIC_SEQ_CST);

		if (state == GA_SLOT_READY || state == GA_SLOT_RUNNING)
		{
			slots[i].status = GA_STATUS_LOST;
			(void) __atomic_compare_exchange_n(&slots[i].state, &state, GA_SLOT_DONE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		}

		/* Given up while we were looking? */
		state = GA_SLOT_ABANDONED;
		(void) __atomic_compare_exchange_n(&slots[i].state, &state, GA_SLOT_FREE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&slots[i].waiting, __ATOMIC_SEQ_CST))
			SetLatch(&ProcGlobal->allProcs[i].procLatch);
	}
	for (uint32 i = 0; i < lengthof(header->ready); i++)
		__atomic_store_n(&header->ready[i], 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&header->sleeping, 0, __ATOMIC_SEQ_CST);
	for (int i = 0; i < GA_MAX_DEVICES; i++)
		__atomic_store_n(&ga_device_infos(header)[i].busy_since_ns, 0, __ATOMIC_SEQ_CST);
}

static void
log_death(int status, bool again)
{
	char	   *reason = wait_result_to_str(status);

	if (again)
		ereport(LOG,
				(errmsg("gpuagent_device (PID %d): %s", (int) child, reason),
				 errdetail("It will be started again in %d ms; its requests are lost.", delay_ms)));
	else
		ereport(LOG,
				(errmsg("gpuagent_device (PID %d): %s", (int) child, reason)));
	pfree(reason);
}

/* The process has ended and was reaped. */
static void
after_death(int status)
{
	int			code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	bool		useless = code == GA_EXIT_NO_DEVICE || code == 126 || code == 127;

	set_service(GA_SERVICE_BACKOFF);
	ga_mapping()->service_pid = 0;
	ga_keeper_end();
	end_requests();
	if (freeing)
		ga_request_abandon();
	freeing = false;
	if (age_ms(started_ns) >= LONG_LIFE_MS)
		delay_ms = SHORTEST_DELAY_MS;
	if (useless && ga_devices == GA_DEVICES_AUTO)
	{
		set_service(GA_SERVICE_NO_DEVICE);
		ereport(LOG,
				(errmsg("gpuagent uses the host: %s", code == GA_EXIT_NO_DEVICE ? "there is no GPU" : "gpuagent_device is not installed")));
	}
	else
	{
		log_death(status, true);
		next_start_ns = now_ns() + delay_ms * INT64CONST(1000000);
		if (!ga_device_faults)
			delay_ms = Min(2 * delay_ms, LONGEST_DELAY_MS);
	}
	child = 0;
}

static void
reap(void)
{
	int			status;

	if (child != 0 && waitpid(child, &status, WNOHANG) == child)
		after_death(status);
}

static void
kill_child(const char *why)
{
	if (killed)
		return;
	ereport(LOG,
			(errmsg("gpuagent_device (PID %d) is killed: %s", (int) child, why)));
	set_service(GA_SERVICE_BACKOFF);
	kill(child, SIGKILL);
	killed = true;
}

/* ---- start ---- */

/* "$libdir/" at the start of the setting stands for the directory of libraries. */
static char *
program_path(void)
{
	if (strncmp(ga_device_program, "$libdir/", 8) == 0)
		return psprintf("%s/%s", pkglib_path, ga_device_program + 8);
	return pstrdup(ga_device_program);
}

static void
start_child(void)
{
	GaHeader   *header = ga_mapping();
	char	   *program = program_path();
	char	   *budget = psprintf("%llu", (unsigned long long) ga_device_budget());
	char	   *socket = psprintf("%s/" GA_SOCKET_NAME, ga_run_directory());
	char	   *argv[] = {"gpuagent_device", "--directory", (char *) ga_run_directory(), "--budget", budget,
	ga_device_faults ? "--allow-faults" : NULL, NULL};

	unlink(socket);
	__atomic_fetch_add(&header->epoch, 1, __ATOMIC_SEQ_CST);
	set_service(GA_SERVICE_STARTING);
	started_ns = now_ns();
	announced = killed = false;
	if (ga_keeper_start(program, argv, &child))
	{
		header->service_pid = child;
		if (header->epoch > 1)
			header->restarts++;
		header->started_at = GetCurrentTimestamp() + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	}
	else
	{
		set_service(GA_SERVICE_BACKOFF);
		next_start_ns = now_ns() + LONGEST_DELAY_MS * INT64CONST(1000000);
	}
	pfree(socket);
	pfree(budget);
	pfree(program);
}

/* Regions of GPUs from before the process that serves now. */
typedef struct Candidates
{
	int			n;
	uint64	   *ids;
} Candidates;

static void
add_candidate(const GaRegion *region, void *arg)
{
	Candidates *candidates = arg;

	if (region->state == GA_REGION_READY && region->device != GA_DEVICE_HOST &&
		region->device_epoch != ga_mapping()->epoch && candidates->n < ga_max_handles)
		candidates->ids[candidates->n++] = region->id;
}

static void
set_epoch(GaRegion *region, void *arg)
{
	region->device_epoch = ga_mapping()->epoch;
}

static void
set_lost(GaRegion *region, void *arg)
{
	if (region->state == GA_REGION_READY)
		region->state = GA_REGION_LOST;
}

/* Regions whose memory was kept go on; others are lost, which their clients see in the control page. */
static void
sort_out_regions(void)
{
	Candidates	candidates = {.ids = palloc(ga_max_handles * sizeof(uint64))};

	ga_regions_each(add_candidate, &candidates);
	for (int i = 0; i < candidates.n; i++)
	{
		char		path[MAXPGPATH];
		uint64		id = candidates.ids[i];

		if (ga_keeper_keeps(id))
			ga_region_update(id, set_epoch, NULL);
		else if (ga_region_update(id, set_lost, NULL))
		{
			ga_region_path(path, sizeof(path), id, "");
			ga_expire_region_file(path);
		}
	}
	pfree(candidates.ids);
}

/* Once in the life of a process, when it begins to serve. */
static void
announce(void)
{
	GaHeader   *header = ga_mapping();

	if (announced || service() != GA_SERVICE_READY)
		return;
	announced = true;

	/* What it could not restore it dropped before it was ready. */
	ga_keeper_receive();
	sort_out_regions();
	for (uint32 i = 0; i < header->ndevices && i < GA_MAX_DEVICES; i++)
		ereport(LOG,
				(errmsg("gpuagent_device (PID %d) serves cuda:%u, %s", (int) child, i, ga_device_infos(header)[i].name)));
}

/* ---- watching ---- */

/* A request runs too long, or one is not even taken up. */
static bool
is_hung(void)
{
	GaHeader   *header = ga_mapping();
	int64		now = now_ns();
	int64		limit = ga_device_timeout * INT64CONST(1000000);

	for (uint32 i = 0; i < header->ndevices && i < GA_MAX_DEVICES; i++)
	{
		int64		since = __atomic_load_n(&ga_device_infos(header)[i].busy_since_ns, __ATOMIC_SEQ_CST);

		if (since != 0 && now - since > limit)
			return true;
	}
	for (uint32 i = 0; i < header->nslots; i++)
	{
		const GaSlot *slot = &ga_slots(header)[i];

		if (__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == GA_SLOT_READY && slot->epoch == header->epoch &&
			now - (int64) slot->queued_ns > limit)
			return true;
	}
	return false;
}

static void
watch(void)
{
	if (child == 0 || killed)
		return;
	if (service() == GA_SERVICE_READY)
	{
		if (is_hung())
			kill_child("a request did not end within gpuagent.device_timeout");
	}
	else if (age_ms(started_ns) > START_LIMIT_MS)
		kill_child("it did not become ready");
}

/* ---- memory of removed regions ---- */

static bool
first_to_free(GaFreeRegion *first)
{
	bool		any;

	LWLockAcquire(ga_device_state_lock(), LW_SHARED);
	any = ga_device_state()->nfree > 0;
	if (any)
		*first = ga_device_state()->free_queue[0];
	LWLockRelease(ga_device_state_lock());
	return any;
}

static void
first_is_free(void)
{
	GaDeviceState *state = ga_device_state();

	LWLockAcquire(ga_device_state_lock(), LW_EXCLUSIVE);
	state->nfree--;
	memmove(state->free_queue, state->free_queue + 1, state->nfree * sizeof(state->free_queue[0]));
	LWLockRelease(ga_device_state_lock());
}

/* One step; true when there may be another at once. Errors are those of a process that is dying. */
static bool
free_step(void)
{
	GaFreeRegion first;
	volatile bool more = false;
	MemoryContext context = CurrentMemoryContext;

	if (!first_to_free(&first))
		return false;
	if (freeing)
	{
		if (!ga_request_is_done())
			return false;
		if (ga_request_wait()->status != GA_STATUS_LOST)
			first_is_free();
		freeing = false;
		return true;
	}
	if (first.slot >= 0 && ga_slot_is_abandoned(first.slot, first.generation))
		return false;
	if (child == 0)
	{
		/* Without the descriptor it ended with the process. */
		ga_keeper_drop(first.region);
		first_is_free();
		return true;
	}
	if (service() != GA_SERVICE_READY)
		return false;
	PG_TRY();
	{
		ga_request_begin(GA_OP_REGION_FREE, first.device)->arg[0] = first.region;
		ga_request_submit();
		freeing = more = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		ga_request_abandon();
	}
	PG_END_TRY();
	return more;
}

static bool
free_memory(void)
{
	GaFreeRegion first;

	while (free_step())
		if (freeing)
		{
			/* Most are answered at once. */
			for (int i = 0; i < 20 && !ga_request_is_done(); i++)
				pg_usleep(10);
			if (!ga_request_is_done())
				break;
		}
	return first_to_free(&first);
}

/* ---- the worker ---- */

static void
on_child_signal(SIGNAL_ARGS)
{
	int			save_errno = errno;

	SetLatch(MyLatch);
	errno = save_errno;
}

/* The server or this worker stops: so does the process, at once if it does not obey. */
static void
stop_child(int code, Datum arg)
{
	static const int signals[] = {SIGTERM, SIGKILL};

	ga_device_state()->supervisor = 0;
	set_service(GA_SERVICE_STOPPED);
	ga_mapping()->service_pid = 0;
	for (int i = 0; child != 0 && i < lengthof(signals); i++)
	{
		int64		since = now_ns();

		kill(child, signals[i]);
		while (child != 0 && age_ms(since) < STOP_LIMIT_MS)
		{
			if (waitpid(child, NULL, WNOHANG) == child)
				child = 0;
			else
				pg_usleep(2000);
		}
	}
	end_requests();
}

static long
wait_time(bool busy)
{
	long		time = LOOK_MS;

	if (busy)
		return SOON_MS;
	if (child != 0 && service() == GA_SERVICE_READY)
		time = Min(time, Max(ga_device_timeout / 4, 25));
	else if (child != 0)
		time = 20;
	else if (service() == GA_SERVICE_BACKOFF)
		time = Min(time, Max((next_start_ns - now_ns()) / 1000000 + 1, 1));
	return time;
}

static void
wait_for_something(long timeout)
{
	int			socket = child != 0 ? ga_keeper_socket() : -1;
	int			events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
	static uint32 event = 0;

	if (event == 0)
		event = ga_wait_event("GpuAgentSupervisor");
	if (socket >= 0)
		(void) WaitLatchOrSocket(MyLatch, events | WL_SOCKET_READABLE, socket, timeout, event);
	else
		(void) WaitLatch(MyLatch, events, timeout, event);
	ResetLatch(MyLatch);
}

static void
take_signals(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ShutdownRequestPending)
		proc_exit(1);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

void
ga_supervisor_main(Datum arg)
{
	MemoryContext context;
	int64		reaped_ns = 0;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGCHLD, on_child_signal);
	before_shmem_exit(stop_child, 0);
	BackgroundWorkerUnblockSignals();
	context = AllocSetContextCreate(TopMemoryContext, "gpuagent supervisor", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	/* A supervisor before this one ended what it had; its successor need not wait. */
	set_service(ga_devices == GA_DEVICES_HOST ? GA_SERVICE_STOPPED : GA_SERVICE_BACKOFF);
	ga_device_state()->supervisor = ga_process_number() + 1;
	for (;;)
	{
		bool		busy;

		take_signals();
		reap();
		ga_keeper_receive();
		if (child == 0 && service() == GA_SERVICE_BACKOFF && now_ns() >= next_start_ns)
			start_child();
		busy = !ga_keeper_restore();
		announce();
		watch();
		if (age_ms(reaped_ns) >= LOOK_MS)
		{
			ga_regions_reap(InvalidOid);
			if (ga_device_sweep != NULL)
				ga_device_sweep();
			reaped_ns = now_ns();
		}
		busy = free_memory() || busy;
		wait_for_something(wait_time(busy));
		MemoryContextReset(context);
	}
}

void
ga_supervisor_register(void)
{
	BackgroundWorker worker = {
		.bgw_name = "gpuagent supervisor",
		.bgw_type = "gpuagent supervisor",
		.bgw_flags = BGWORKER_SHMEM_ACCESS,
		.bgw_start_time = BgWorkerStart_ConsistentState,
		.bgw_restart_time = 1,
		.bgw_library_name = "gpuagent",
		.bgw_function_name = "ga_supervisor_main",
	};

	if (!IsBinaryUpgrade)
		RegisterBackgroundWorker(&worker);
}
