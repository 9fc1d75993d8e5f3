/*
 * throttle.c
 *		A rate limit by the time up to which bytes are paid for (throttle.h).
 *
 * That time is one number, which a process and its parallel workers advance
 * together: by the bytes' share of a second, from now on when it lies further
 * back than a burst. Who has advanced it into the future sleeps until then.
 */
#include "base/compat.h"

#include "access/parallel.h"
#include "base/guc.h"
#include "base/priority.h"
#include "base/shared.h"
#include "base/throttle.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "storage/proc.h"

#define BURST_US 100000

static pg_atomic_uint64 *shared = NULL; /* µs of the monotonic clock, by process number */
static pg_atomic_uint64 local;
static bool local_ready = false;

static Size
times_size(void)
{
	return mul_size(ga_process_slots(), sizeof(pg_atomic_uint64));
}

static void
init_times(void *area)
{
	pg_atomic_uint64 *times = area;

	for (int i = 0; i < ga_process_slots(); i++)
		pg_atomic_init_u64(&times[i], 0);
}

void
ga_throttle_register(void)
{
	static const GaSharedArea area = {"gpuagent throttle", times_size, NULL, init_times, (void **) &shared, NULL};

	ga_shared_register(&area);
}

static pg_atomic_uint64 *
paid_until(void)
{
	if (shared != NULL)
		return &shared[IsParallelWorker() && MyProc->lockGroupLeader != NULL ? ga_number_of(MyProc->lockGroupLeader) : ga_process_number()];
	if (!local_ready)
		pg_atomic_init_u64(&local, 0);
	local_ready = true;
	return &local;
}

static uint64
now_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MICROSEC(now);
}

static uint64
pay(uint64 price)
{
	pg_atomic_uint64 *until = paid_until();
	uint64		old = pg_atomic_read_u64(until);
	uint64		new;

	do
	{
		uint64		now = now_us();

		new = Max(old, now > BURST_US ? now - BURST_US : 0) + price;
	} while (!pg_atomic_compare_exchange_u64(until, &old, new));
	return new;
}

static void
sleep_until(uint64 until)
{
	static uint32 wait_event = 0;
	uint64		now;

	if (wait_event == 0)
		wait_event = ga_wait_event("GpuAgentThrottle");
	while ((now = now_us()) < until)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (until - now + 999) / 1000, wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* In pieces, so that what is owed, also by whoever gives up, is never much: a successor has the same number. */
void
ga_throttle(uint64 bytes)
{
	ga_priority_settle();
	while (bytes > 0 && ga_io_rate_limit > 0)
	{
		double		rate = (double) ga_io_rate_limit * 1024 / 1e6;	/* bytes a µs */
		uint64		piece = Min(bytes, (uint64) (rate * BURST_US));

		sleep_until(pay((uint64) ((double) piece / rate)));
		bytes -= piece;
	}
}

PG_FUNCTION_INFO_V1(ga_throttle_sql);
Datum
ga_throttle_sql(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0) && PG_GETARG_INT64(0) > 0)
		ga_throttle((uint64) PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}
