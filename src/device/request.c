/*
 * request.c
 *		Requests to gpuagent_device (request.h, protocol.h): slot, doorbell,
 *		connection, and the wait for the answer.
 *
 * Nobody waits for ever: when the process dies or hangs, the supervisor ends the
 * requests of all slots, and the connection is at its end.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "access/xact.h"
#include "base/shared.h"
#include "device/request.h"
#include "device/state.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/s_lock.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

/* A request on an idle device is answered sooner than a sleep and a wake-up take; with few cores it needs ours. */
#define SPIN_NS 30000
#define SPIN_FEW_CORES_NS 3000
#define FEW_CORES 2

#define ABANDONED_WAIT_MS 1000	/* for a request given up before */
#define CONNECT_WAIT_MS 1000	/* while too many others connect */
#define LOST_POLL_MS 5			/* until the supervisor has noticed what we have */

static GaSlot *slot = NULL;
static GaSlot answer;			/* of the last request */
static bool outstanding = false;
static bool registered = false;
static int64 spin_ns = 0;

static int	connection = -1;
static uint32 connection_epoch = 0;
static bool connection_ended = false;
static WaitEventSet *wait_set = NULL;

static int64
monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

static uint32
event_of_wait(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = ga_wait_event("GpuAgentDevice");
	return event;
}

static void
sleep_ms(long milliseconds)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, event_of_wait());
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static uint32
slot_state(void)
{
	return __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST);
}

static bool
change_state(uint32 from, uint32 to)
{
	return __atomic_compare_exchange_n(&slot->state, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static uint32
current_epoch(void)
{
	return __atomic_load_n(&ga_mapping()->epoch, __ATOMIC_SEQ_CST);
}

/* ---- the end of requests ---- */

void
ga_request_abandon(void)
{
	if (!outstanding)
		return;
	outstanding = false;
	__atomic_store_n(&slot->waiting, 0, __ATOMIC_SEQ_CST);
	if (!change_state(GA_SLOT_READY, GA_SLOT_FREE) && !change_state(GA_SLOT_RUNNING, GA_SLOT_ABANDONED))
		(void) change_state(GA_SLOT_DONE, GA_SLOT_FREE);
}

void
ga_request_abandon_making(uint64 region)
{
	if (outstanding && slot->op == GA_OP_REGION_CREATE && slot->arg[0] == region)
		ga_request_abandon();
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
		ga_request_abandon();
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId self, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		ga_request_abandon();
}

static void
at_exit(int code, Datum arg)
{
	ga_request_abandon();
}

static void
find_slot(int device)
{
	if (ga_process_number() >= (int) ga_mapping()->nslots)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("device \"%s\" does not serve this process", ga_device_name(device)),
				 errdetail("It serves the first %u processes of the server.", ga_mapping()->nslots)));
	slot = &ga_slots(ga_mapping())[ga_process_number()];
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
	before_shmem_exit(at_exit, 0);
	spin_ns = sysconf(_SC_NPROCESSORS_ONLN) <= FEW_CORES ? SPIN_FEW_CORES_NS : SPIN_NS;
	registered = true;
}

/* ---- the connection ---- */

static void
disconnect(void)
{
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	if (connection >= 0)
	{
		close(connection);
		ReleaseExternalFD();
	}
	connection = -1;
}

static void
no_service(int device)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("device \"%s\" does not serve", ga_device_name(device)),
			 errhint("See gpuagent.check_setup() and the server's log.")));
}

/* Connects the new socket; false when nobody listens. */
static bool
reach_service(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	GaHello		hello = {
		.magic = GA_PROTOCOL_MAGIC,
		.version = GA_PROTOCOL_VERSION,
		.kind = GA_HELLO_BACKEND,
		.slot = ga_process_number(),
	};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/" GA_SOCKET_NAME, ga_run_directory());
	for (int waited = 0; connect(connection, (struct sockaddr *) &address, sizeof(address)) != 0; waited++)
	{
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN || waited >= CONNECT_WAIT_MS)
			return false;
		sleep_ms(1);
	}
	return send(connection, &hello, sizeof(hello), MSG_NOSIGNAL) == sizeof(hello);
}

/* A connection to the process of this epoch. */
static void
connect_service(int device, uint32 epoch)
{
	if (connection >= 0 && connection_epoch == epoch && !connection_ended)
		return;
	disconnect();
	ReserveExternalFD();
	connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (connection < 0)
	{
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket: %m")));
	}
	if (!reach_service())
	{
		disconnect();
		no_service(device);
	}
	connection_epoch = epoch;
	connection_ended = false;
}

static void
make_wait_set(void)
{
	wait_set = ga_wait_event_set(3);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, connection, NULL, NULL);
}

static void
take_wakeups(void)
{
	char		bytes[16];
	ssize_t		n;

	while ((n = recv(connection, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
		;
	if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
		connection_ended = true;
}

/* ---- a request ---- */

/* Waits a little for the end of a request that this process, or the one that had its number before, gave up. */
static void
wait_for_slot(int device)
{
	ga_request_abandon();
	for (int waited = 0; slot_state() != GA_SLOT_FREE; waited++)
	{
		/* An answer that nobody took: the process ended between the supervisor's verdict and its own clean-up. */
		if (change_state(GA_SLOT_DONE, GA_SLOT_FREE))
			return;
		if (waited >= ABANDONED_WAIT_MS)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("device \"%s\" is still busy with a request that was given up", ga_device_name(device)),
					 errhint("Try again.")));
		sleep_ms(1);
	}
}

GaSlot *
ga_request_begin(GaOp op, int device)
{
	uint32		epoch;

	ga_shared_require();
	/* Answers that come while it spins leave no other occasion. */
	CHECK_FOR_INTERRUPTS();
	if (!registered)
		find_slot(device);
	epoch = current_epoch();
	if (!ga_device_serves() || device >= (int) ga_mapping()->ndevices)
		no_service(device);
	connect_service(device, epoch);
	wait_for_slot(device);
	slot->generation++;
	slot->owner_pid = MyProcPid;
	slot->epoch = epoch;
	slot->op = op;
	slot->device = device;
	slot->status = GA_STATUS_OK;
	memset(slot->arg, 0, sizeof(slot->arg));
	memset(slot->result, 0, sizeof(slot->result));
	slot->started_ns = slot->finished_ns = 0;
	slot->error[0] = '\0';
	return slot;
}

void
ga_request_submit(void)
{
	GaHeader   *header = ga_mapping();
	int			number = ga_process_number();

	slot->queued_ns = monotonic_ns();
	__atomic_store_n(&slot->waiting, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&slot->state, GA_SLOT_READY, __ATOMIC_SEQ_CST);
	outstanding = true;

	/* The process may have died before it could see this, and the supervisor have looked at the slots before. */
	if ((!ga_device_serves() || current_epoch() != slot->epoch) && change_state(GA_SLOT_READY, GA_SLOT_FREE))
	{
		outstanding = false;
		slot->status = GA_STATUS_LOST;
		ga_request_check(slot);
	}
	__atomic_fetch_or(&header->ready[number / 64], UINT64CONST(1) << (number % 64), __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&header->doorbell, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&header->sleeping, __ATOMIC_SEQ_CST))
		(void) !send(connection, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool
ga_request_is_done(void)
{
	return outstanding && slot_state() == GA_SLOT_DONE;
}

static bool
spin(void)
{
	int64		until = monotonic_ns() + spin_ns;

	do
	{
		for (int i = 0; i < 16; i++)
		{
			if (slot_state() == GA_SLOT_DONE)
				return true;
			SPIN_DELAY();
		}
	} while (monotonic_ns() < until);
	return false;
}

static void
sleep_until_answered(void)
{
	for (;;)
	{
		WaitEvent	event;

		__atomic_store_n(&slot->waiting, 1, __ATOMIC_SEQ_CST);
		if (slot_state() == GA_SLOT_DONE)
			break;
		if (connection_ended)
		{
			sleep_ms(LOST_POLL_MS);
			continue;
		}
		if (wait_set == NULL)
			make_wait_set();
		if (WaitEventSetWait(wait_set, -1, &event, 1, event_of_wait()) == 0)
			continue;
		if (event.events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		else if (event.events & WL_SOCKET_MASK)
			take_wakeups();
		CHECK_FOR_INTERRUPTS();
	}
	__atomic_store_n(&slot->waiting, 0, __ATOMIC_SEQ_CST);
}

const GaSlot *
ga_request_wait(void)
{
	if (!spin())
		sleep_until_answered();
	answer = *slot;
	outstanding = false;
	__atomic_store_n(&slot->state, GA_SLOT_FREE, __ATOMIC_SEQ_CST);
	answer.error[GA_ERROR_LEN - 1] = '\0';
	if (answer.started_ns >= answer.queued_ns && answer.finished_ns >= answer.started_ns)
	{
		ga_last_request.queue_ms += (answer.started_ns - answer.queued_ns) / 1e6;
		ga_last_request.device_ms += (answer.finished_ns - answer.started_ns) / 1e6;
	}
	return &answer;
}

void
ga_request_check(const GaSlot *a)
{
	const char *name = ga_device_name(a->device);

	switch ((GaStatus) a->status)
	{
		case GA_STATUS_OK:
			return;
		case GA_STATUS_BUDGET:
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("not enough memory on device \"%s\"", name),
					 a->error[0] ? errdetail("%s.", a->error) : 0,
					 errhint("Unmap what is not needed any more, or increase gpuagent.cache_size.")));
			break;
		case GA_STATUS_UNKNOWN:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the mapped memory on device \"%s\" is gone", name),
					 errhint("Map the object again.")));
			break;
		case GA_STATUS_INVALID:
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("device \"%s\" refused a request", name),
					 a->error[0] ? errdetail("%s.", a->error) : 0));
			break;
		case GA_STATUS_FAILED:
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("device \"%s\" failed", name),
					 a->error[0] ? errdetail("%s.", a->error) : 0));
			break;
		case GA_STATUS_LOST:
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("device \"%s\" was lost during the request", name),
			 errhint("Try again: gpuagent_device is started anew.")));
}

const GaSlot *
ga_request_finish(void)
{
	const GaSlot *a = ga_request_wait();

	ga_request_check(a);
	return a;
}
