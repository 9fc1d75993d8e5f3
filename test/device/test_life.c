/*
 * test_life.c
 *		Requests that are given up, owners and processes that die, faults.
 */
#include "driver.h"

#include "../unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static Rig rig;
static Owner owner;

static const char *const faults[] = {"--allow-faults", "--threads", "2", NULL};

static bool
restart(void)
{
	bool		good = rig_start(&rig, faults);

	if (owner.fd > 0)
		owner_close(&owner);
	return owner_open(&owner, &rig, 3) && good;
}

static bool
slot_becomes(GaSlot *slot, GaSlotState state, double seconds)
{
	uint64_t	until = now_ns() + (uint64_t) (seconds * 1e9);

	while (__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) != state && now_ns() < until)
		sleep_us(100);
	return __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == state;
}

/* ----- giving up ----- */

static bool
is_running(Owner *busy)
{
	return __atomic_load_n(&busy->slot->state, __ATOMIC_SEQ_CST) == GA_SLOT_RUNNING;
}

/*
 * Two workers are busy; a third request waits and is given up, its slot used again.  Where a machine is so slow that they
 * are not busy any more when the ping has been answered, they are for longer the next time.
 */
static void
test_giving_up(void)
{
	GaDeviceInfo *info = rig_info(&rig, 0);
	Owner		busy[3];
	bool		good = true;
	bool		meanwhile = false;
	bool		freed = true;

	for (int i = 0; i < 3; i++)
		good &= owner_open(&busy[i], &rig, 20 + (uint32_t) i);
	for (uint64_t us = 300000; good && !meanwhile && us < 30000000; us *= 4)
	{
		SUBMIT(&busy[0], GA_OP_FAULT, 0, GA_FAULT_SLOW, us);
		SUBMIT(&busy[1], GA_OP_FAULT, 0, GA_FAULT_SLOW, us / 2);
		SUBMIT(&busy[2], GA_OP_FAULT, 0, GA_FAULT_SLOW, 120000000);
		good &= slot_becomes(busy[2].slot, GA_SLOT_RUNNING, LONG_ENOUGH);
		while (info->busy_since_ns == 0 && is_running(&busy[0]))
			sleep_us(100);
		meanwhile = info->busy_since_ns != 0;
		good &= REQUEST(&owner, GA_OP_PING, 0, 1) == GA_STATUS_OK;
		meanwhile &= is_running(&busy[0]) && is_running(&busy[1]);

		/* Its two minutes are not waited for. */
		freed &= !owner_give_up(&busy[2]) && slot_becomes(busy[2].slot, GA_SLOT_FREE, LONG_ENOUGH);
		for (int i = 0; i < 2; i++)
		{
			GaSlot	   *slot = busy[i].slot;

			good &= owner_wait(&busy[i], LONG_ENOUGH);
			good &= slot->finished_ns - slot->started_ns >= (i == 0 ? us : us / 2) * 1000 && slot->queued_ns <= slot->started_ns;
			slot->state = GA_SLOT_FREE;
		}
	}
	result(good && meanwhile, "a ping is answered while all workers are busy");
	result(good && freed, "a request that was given up while it waited for a worker is not begun");
	result(good && counter_becomes(&info->busy_since_ns, 0), "the others go on, with their times; then the device is idle");
	for (int i = 0; i < 3; i++)
		owner_close(&busy[i]);
}

/* Gives up at every moment of a request's life; nothing may get stuck or answer the wrong request. */
static void
test_giving_up_races(void)
{
	bool		good = true;
	int			early = 0;
	int			late = 0;
	int			done = 0;

	for (int i = 0; i < 3000 && good; i++)
	{
		uint64_t	tag = next_random();

		if (i % 2 == 0)
			SUBMIT(&owner, GA_OP_FAULT, 0, GA_FAULT_SLOW, i % 60);
		else
			SUBMIT(&owner, GA_OP_PING, 0, tag);
		if (next_random() % 8 != 0)
			sleep_us((double) (next_random() % 90));
		if (__atomic_load_n(&owner.slot->state, __ATOMIC_SEQ_CST) == GA_SLOT_DONE)
			done++;
		if (owner_give_up(&owner))
			early++;
		else
		{
			late++;
			good &= slot_becomes(owner.slot, GA_SLOT_FREE, LONG_ENOUGH);
		}
		tag = next_random();
		if (REQUEST(&owner, GA_OP_PING, 0, tag) != GA_STATUS_OK || owner.slot->result[0] != tag)
			good = differ("ping after request %d", i);
	}
	printf("# gave up %d times in time, %d times in the middle; %d requests were done before\n", early - done, late, done);
	result(good && late > 0, "giving up at any moment");
}

/* ----- owners that die ----- */

static void
test_dead_owners(void)
{
	bool		good = true;

	for (int i = 0; i < 6; i++)
	{
		uint32_t	number = 40 + (uint32_t) i;
		pid_t		child;

		fflush(stdout);
		child = fork();
		if (child == 0)
		{
			Owner		mine;

			/* Dies with a request running, waiting, or done, by itself or not. */
			if (!owner_open(&mine, &rig, number))
				_exit(1);
			SUBMIT(&mine, GA_OP_FAULT, 0, GA_FAULT_SLOW, i % 3 == 2 ? 0 : 100000);
			sleep_us(i % 3 == 0 ? 0 : 20000);
			if (i < 3)
				raise(SIGKILL);
			_exit(0);
		}
		waitpid(child, NULL, 0);
		if (!slot_becomes(&ga_slots(rig.header)[number], GA_SLOT_FREE, LONG_ENOUGH))
			good = differ("owner %d left its slot in state %u", i, ga_slots(rig.header)[number].state);
	}
	result(good, "slots of owners that died become free");
}

/* An owner that hangs up and comes back with a request keeps it. */
static void
test_reconnecting(void)
{
	bool		good = true;

	for (int i = 0; i < 300 && good; i++)
	{
		owner_close(&owner);
		if (!owner_open(&owner, &rig, 3))
			good = differ("no connection %d", i);
		if (i % 3 == 0)
			owner.spin = 0;
		if (REQUEST(&owner, GA_OP_PING, 0, (uint64_t) i) != GA_STATUS_OK || owner.slot->result[0] != (uint64_t) i)
			good = differ("no answer %d", i);
	}
	result(good, "an owner that reconnects is woken by its new connection");
}

/* ----- the process dies ----- */

static void
test_kill(void)
{
	char	   *arena = rig_arena(&rig);
	uint64_t	at = rig.header->arena_offset;
	Owner		stuck;
	bool		good = owner_open(&stuck, &rig, 60);
	uint64_t	used;

	for (uint64_t i = 0; i < 5 * MIB; i++)
		arena[i] = (char) (i * 7 + i / 1000);
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 1, 5 * MIB, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 2, MIB, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 3, MIB, GA_REGION_IPC) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_UPLOAD, 0, 1, 0, at, 5 * MIB) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 2) == GA_STATUS_OK;
	SUBMIT(&stuck, GA_OP_FAULT, 0, GA_FAULT_SLOW, 120000000);
	sleep_us(20000);
	used = rig_info(&rig, 0)->used_bytes;
	good &= rig_kill(&rig, SIGKILL) == -SIGKILL;
	good &= stuck.slot->state == GA_SLOT_DONE && stuck.slot->status == GA_STATUS_LOST;
	result(good && rig.nkept == 1 && rig.kept[0].message.region == 1 && rig.kept[0].message.bytes == 5 * MIB,
		   "after kill -9 the supervisor has what was exported and not freed");
	good = client_is_cut(owner.fd, LONG_ENOUGH);
	stuck.slot->state = GA_SLOT_FREE;
	owner_close(&stuck);

	good &= restart();
	memset(arena, 0, 5 * MIB);
	good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 1, 0, at, 5 * MIB) == GA_STATUS_OK;
	for (uint64_t i = 0; i < 5 * MIB; i++)
		good &= arena[i] == (char) (i * 7 + i / 1000);
	result(good, "its contents survive");
	good = REQUEST(&owner, GA_OP_DOWNLOAD, 0, 3, 0, at, MIB) == GA_STATUS_UNKNOWN;
	good &= rig_info(&rig, 0)->used_bytes == used - 2 * MIB && rig_info(&rig, 0)->lost_bytes == 0;
	result(good, "memory that was exported by handle is gone, and so is its count");

	/* A request for the process before. */
	owner_submit(&owner, GA_OP_NONE, 0, 0, NULL);
	good = owner_wait(&owner, LONG_ENOUGH) && owner.slot->status == GA_STATUS_INVALID;
	owner.slot->state = GA_SLOT_FREE;
	rig.header->epoch--;
	good &= REQUEST(&owner, GA_OP_PING, 0, 1) == GA_STATUS_LOST;
	good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 1, 0, at, 1) == GA_STATUS_LOST;
	rig.header->epoch++;
	good &= REQUEST(&owner, GA_OP_PING, 0, 1) == GA_STATUS_OK;
	result(good, "requests for an earlier process are answered with LOST");

	good = REQUEST(&owner, GA_OP_REGION_FREE, 0, 1) == GA_STATUS_OK;
	rig_listen(&rig);
	result(good && rig.nkept == 0 && rig_info(&rig, 0)->used_bytes == 0, "a restored region can be freed");
}

/* Killed at random moments while it works: what was answered with OK is true. */
static void
test_kill_loop(void)
{
	char	   *arena = rig_arena(&rig);
	uint64_t	at = rig.header->arena_offset;
	uint64_t	id = 1000;
	bool		good = true;
	int			lost = 0;

	for (int round = 0; round < 8 && good; round++)
	{
		pid_t		killer;
		uint64_t	value = 0;
		int			status = GA_STATUS_OK;
		double		after = (double) (next_random() % 30000);

		fflush(stdout);
		killer = fork();
		if (killer == 0)
		{
			sleep_us(after);
			kill(rig.pid, SIGKILL);
			_exit(0);
		}
		status = REQUEST(&owner, GA_OP_REGION_CREATE, 0, ++id, MIB, 0);
		while (status == GA_STATUS_OK)
		{
			memset(arena, (int) (value + 1), MIB);
			SUBMIT(&owner, GA_OP_UPLOAD, 0, id, 0, at, MIB);
			status = owner_wait(&owner, 2) ? (int) owner.slot->status : -1;
			if (status == GA_STATUS_OK)
				value++;
			owner.slot->state = status < 0 ? owner.slot->state : GA_SLOT_FREE;
		}
		lost++;
		waitpid(killer, NULL, 0);
		good &= rig_reap(&rig) == -SIGKILL;
		owner.slot->state = GA_SLOT_FREE;
		good &= restart();
		status = REQUEST(&owner, GA_OP_DOWNLOAD, 0, id, 0, at, MIB);

		/* The one that was cut off may have been done or not, or in part. */
		if (value > 0 && (status != GA_STATUS_OK || ((uint8_t) arena[0] != (uint8_t) value && (uint8_t) arena[0] != (uint8_t) (value + 1))))
			good = differ("round %d: status %d, %u instead of %u", round, status, (uint8_t) arena[0], (uint8_t) value);
		good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, id) == GA_STATUS_OK;
		rig_listen(&rig);
		if (rig.nkept != 0 || rig_info(&rig, 0)->used_bytes != 0)
			good = differ("round %d: %d regions are left, %llu bytes", round, rig.nkept,
						  (unsigned long long) rig_info(&rig, 0)->used_bytes);
	}
	result(good && lost > 0, "killed at random moments, restarted, nothing lost and nothing left");
}

/* ----- faults ----- */

static void
test_faults(void)
{
	GaDeviceInfo *info = rig_info(&rig, 0);
	uint64_t	errors = info->errors;
	uint64_t	since;
	Owner		other;
	bool		good;

	good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 5, MIB, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_FAULT, 0, GA_FAULT_STICKY) == GA_STATUS_FAILED;
	good &= strlen(owner.slot->error) > 0;
	printf("# %s\n", owner.slot->error);
	good &= rig_reap(&rig) == 1;
	good &= info->errors == errors + 1 && strlen(info->last_error) > 0 && info->last_error_at > INT64_C(1700000000000000);
	result(good, "an error that stays is answered, and the process ends with 1");
	good = restart() && info->errors == errors + 1 && strlen(info->last_error) > 0;
	good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 5, 0, rig.header->arena_offset, MIB) == GA_STATUS_OK;
	result(good, "its successor works, and still knows of the error");

	SUBMIT(&owner, GA_OP_FAULT, 0, GA_FAULT_EXIT);
	good = rig_reap(&rig) == 1 && owner.slot->state == GA_SLOT_DONE && owner.slot->status == GA_STATUS_LOST;
	owner.slot->state = GA_SLOT_FREE;
	result(good && restart(), "an exit");

	good = owner_open(&other, &rig, 61);
	SUBMIT(&other, GA_OP_FAULT, 0, GA_FAULT_HANG);
	for (uint64_t until = now_ns() + (uint64_t) (LONG_ENOUGH * 1e9); info->busy_since_ns == 0 && now_ns() < until;)
		sleep_us(1000);
	since = info->busy_since_ns;
	good &= since != 0 && now_ns() - since < (uint64_t) (LONG_ENOUGH * 1e9);
	good &= REQUEST(&owner, GA_OP_PING, 0, 1) == GA_STATUS_OK;
	if (rig_is_emulated())
	{
		/* With CUDA, others may or may not get through. */
		good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 5, 0, rig.header->arena_offset, MIB) == GA_STATUS_OK;
	}
	sleep_us(50000);
	good &= info->busy_since_ns == since;
	result(good, "a hung request is seen by busy_since, whatever other workers do");
	good = !owner_give_up(&other) && rig_kill(&rig, SIGKILL) == -SIGKILL && other.slot->state == GA_SLOT_FREE;
	owner_close(&other);
	good &= restart();
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 5) == GA_STATUS_OK;
	result(good, "killed and restarted after that");
}

static void
test_starts(void)
{
	static const char *const none[] = {NULL};
	static const char *const small[] = {"--budget", "4194304", NULL};
	bool		good;

	rig_kill(&rig, SIGTERM);
	good = rig_start(&rig, none);
	owner_close(&owner);
	good &= owner_open(&owner, &rig, 3);
	good &= REQUEST(&owner, GA_OP_FAULT, 0, GA_FAULT_EXIT) == GA_STATUS_INVALID;
	result(good, "without --allow-faults there are none");

	close(rig.keeper);
	rig.keeper = -1;
	result(rig_reap(&rig) == 0, "it ends with its supervisor");

	rig.header->version++;
	good = !rig_start(&rig, none) && rig_reap(&rig) == 1;
	rig.header->version--;
	rig.header->arena_bytes += UINT64_C(1) << 40;
	good &= !rig_start(&rig, none) && rig_reap(&rig) == 1;
	rig.header->arena_bytes -= UINT64_C(1) << 40;
	result(good, "a mapping of another version or with impossible numbers is refused");

	good = rig_start(&rig, small);
	owner_close(&owner);
	good &= owner_open(&owner, &rig, 3);
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 1, 5 * MIB, 0) == GA_STATUS_BUDGET;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 1, 4 * MIB, 0) == GA_STATUS_OK;
	result(good, "another budget");
	rig_kill(&rig, SIGTERM);
	rig_listen(&rig);

	if (!rig_is_emulated())
		return;
	setenv("GA_EMULATED_DEVICES", "0", 1);
	good = !rig_start(&rig, none) && rig_reap(&rig) == GA_EXIT_NO_DEVICE;
	result(good, "without a device it ends with 3");

	setenv("GA_EMULATED_DEVICES", "3", 1);
	good = rig_start(&rig, faults) && rig.header->ndevices == 3;
	owner_close(&owner);
	good &= owner_open(&owner, &rig, 3);
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 2, 7, 60 * MIB, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 1, 8, 60 * MIB, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_UPLOAD, 1, 7, 0, rig.header->arena_offset, 10) == GA_STATUS_UNKNOWN;
	good &= REQUEST(&owner, GA_OP_UPLOAD, 2, 7, 0, rig.header->arena_offset, 10) == GA_STATUS_OK;
	good &= rig_info(&rig, 2)->used_bytes == 60 * MIB && rig_info(&rig, 0)->used_bytes == 4 * MIB;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 1, 7) == GA_STATUS_OK && rig_info(&rig, 2)->used_bytes == 60 * MIB;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 2, 7) == GA_STATUS_OK && rig_info(&rig, 2)->used_bytes == 0;
	result(good, "three devices, each with its own regions and budget");
	setenv("GA_EMULATED_DEVICES", "1", 1);
	rig_kill(&rig, SIGTERM);
	good = rig_start(&rig, faults);
	rig_listen(&rig);
	result(good && rig.nkept == 1, "regions of devices that are gone are dropped");
	rig_kill(&rig, SIGTERM);
}

int
main(void)
{
	int			descriptors;

	rig_make(&rig);
	result(restart() && REQUEST(&owner, GA_OP_PING, 0, 1) == GA_STATUS_OK, "the process serves");
	sleep_us(20000);
	descriptors = rig_descriptors(&rig);
	test_giving_up();
	test_giving_up_races();
	test_dead_owners();
	test_reconnecting();
	result(rig_lets_go(&rig, descriptors), "no descriptors are left of all this");
	test_kill();
	test_kill_loop();
	test_faults();
	test_starts();
	rig_remove(&rig);
	return finish();
}
