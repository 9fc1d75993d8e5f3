/*
 * test_wakeups.c
 *		No wake-up is lost in either direction, whatever the moment; many owners at once.
 *
 * Short by default; with GA_TEST_LONG 20 times as much.
 */
#include "driver.h"

#include "../unit/unit.h"
#include "math/fingerprint.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define OWNERS 64
#define REGION 300000
#define SHARE (512 * 1024)		/* of the arena, for each owner */

static Rig rig;

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

/* Round trips with pauses around the time that the other side spins; true when each is answered. */
static void
test_round_trips(int rounds, int spin, double pause, const char *name)
{
	Owner		owner;
	double	   *us = malloc((size_t) rounds * sizeof(*us));
	bool		good = owner_open(&owner, &rig, 1);

	owner.spin = spin;
	for (int i = 0; i < rounds && good; i++)
	{
		uint64_t	start;
		uint64_t	until;

		if (pause > 0 && next_random() % 2 == 0)
		{
			/* Busy, for short ones: a sleep takes 50 us and more. */
			until = now_ns() + (uint64_t) (pause * 1000 * (double) (next_random() % 1000) / 1000);
			while (now_ns() < until)
				;
		}
		else if (pause > 0)
			sleep_us((double) (next_random() % 20));
		start = now_ns();
		if (i % 4 == 0)
			SUBMIT(&owner, GA_OP_FAULT, 0, GA_FAULT_SLOW, next_random() % 40);
		else
			SUBMIT(&owner, GA_OP_PING, 0, (uint64_t) i);
		if (!owner_wait(&owner, LONG_ENOUGH))
			good = differ("round trip %d was not answered: state %u, sleeping %u, ready %llx", i, owner.slot->state,
						  rig.header->sleeping, (unsigned long long) rig.header->ready[0]);
		else if (i % 4 != 0 && owner.slot->result[0] != (uint64_t) i)
			good = differ("round trip %d got the answer of another", i);
		__atomic_store_n(&owner.slot->state, GA_SLOT_FREE, __ATOMIC_SEQ_CST);
		us[i] = (double) (now_ns() - start) / 1000;
	}
	qsort(us, (size_t) rounds, sizeof(*us), compare);
	printf("# %s: p50 %.1f us, p99 %.1f us; slept in %ld of %d\n", name, us[rounds / 2], us[rounds * 99 / 100], owner.slept, rounds);
	result(good, name);
	owner_close(&owner);
	free(us);
}

static void
mix(uint64_t *state)
{
	random_state = *state;
	*state = next_random();
}

/* One owner: a region of its own, whose contents it follows. */
static int
live(uint32_t number, int rounds)
{
	Owner		owner;
	char	   *place = rig_arena(&rig) + (uint64_t) number % (RIG_ARENA / SHARE) * SHARE;
	char	   *shadow = calloc(1, REGION);
	uint64_t	at = rig_offset(&rig, place);
	uint64_t	id = 100 + number;
	const uint8_t *key = (const uint8_t *) rig.header + rig.header->key_offset;
	GaFingerprint expected[REGION / GA_LEAF + 1];
	uint64_t	state = number + 1;

	mix(&state);
	if (!owner_open(&owner, &rig, number))
		return 2;
	owner.spin = number % 2 == 0 ? 0 : 300;
	if (REQUEST(&owner, GA_OP_REGION_CREATE, 0, id, REGION, 0) != GA_STATUS_OK)
		return 3;
	for (int i = 0; i < rounds; i++)
	{
		uint64_t	n = next_random() % 40000 + 1;
		uint64_t	offset = next_random() % (REGION - n);

		for (uint64_t j = 0; j < n; j++)
			place[j] = shadow[offset + j] = (char) (state >> j % 57);
		mix(&state);
		if (REQUEST(&owner, GA_OP_UPLOAD, 0, id, offset, at, n) != GA_STATUS_OK)
			return 4;
		if (next_random() % 8 == 0)
		{
			/* Something that it does not wait for. */
			SUBMIT(&owner, GA_OP_FAULT, 0, GA_FAULT_SLOW, next_random() % 200);
			if (!owner_give_up(&owner))
				while (__atomic_load_n(&owner.slot->state, __ATOMIC_SEQ_CST) != GA_SLOT_FREE)
					sleep_us(20);
		}
		if (REQUEST(&owner, GA_OP_FINGERPRINT, 0, id, REGION, 0, REGION / GA_LEAF + 1, at) != GA_STATUS_OK)
			return 5;
		ga_fingerprint(key, shadow, REGION, expected);
		if (memcmp(place, expected, sizeof(expected)) != 0)
			return 6;
	}
	if (REQUEST(&owner, GA_OP_REGION_FREE, 0, id) != GA_STATUS_OK)
		return 7;
	free(shadow);
	return 0;
}

static void
test_many_owners(int rounds)
{
	static pid_t children[OWNERS];
	int			alive = 0;
	bool		good = true;

	/* Their parts of the arena are shared by none: as many as fit. */
	fflush(stdout);
	for (uint32_t i = 0; i < OWNERS; i++)
	{
		children[i] = fork();
		if (children[i] == 0)
			_exit(live(10 + i, rounds));
		alive++;
	}
	while (alive > 0)
	{
		int			status;
		pid_t		child = waitpid(-1, &status, WNOHANG);

		rig_listen(&rig);
		if (child == 0)
		{
			sleep_us(1000);
			continue;
		}
		alive--;
		if (status != 0)
			good = differ("an owner ended with %d", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
	}
	rig_listen(&rig);
	good &= rig.nkept == 0 && rig_info(&rig, 0)->used_bytes == 0 && rig_info(&rig, 0)->busy_since_ns == 0;
	for (int i = 0; i < RIG_SLOTS; i++)
		good &= ga_slots(rig.header)[i].state == GA_SLOT_FREE;
	result(good && rig_canaries_live(&rig), "64 owners at once; their regions hold what they wrote; nothing is left");
}

int
main(void)
{
	static const char *const usual[] = {"--allow-faults", "--budget", "268435456", "--spin", "20", NULL};
	static const char *const no_spin[] = {"--allow-faults", "--spin", "0", "--threads", "1", NULL};
	static const char *const much_spin[] = {"--allow-faults", "--spin", "2000", "--threads", "4", NULL};
	int			times = getenv("GA_TEST_LONG") != NULL && *getenv("GA_TEST_LONG") != '\0' ? 20 : 1;

	ga_fingerprint_init();
	rig_make(&rig);
	result(rig_start(&rig, usual), "the process serves");
	test_round_trips(5000 * times, 2000, 60, "an owner that spins, with pauses");
	test_round_trips(5000 * times, 0, 60, "an owner that sleeps, with pauses");
	test_round_trips(10000 * times, 300, 0, "one request after another");
	test_many_owners(40 * times);
	rig_kill(&rig, SIGTERM);

	result(rig_start(&rig, no_spin), "without spinning");
	test_round_trips(5000 * times, 0, 30, "nobody spins");
	test_round_trips(5000 * times, 300, 30, "only the owner spins");
	rig_kill(&rig, SIGTERM);

	result(rig_start(&rig, much_spin), "with much spinning");
	test_round_trips(5000 * times, 0, 30, "only the process spins");
	test_round_trips(5000 * times, 1000000, 0, "both spin");
	rig_kill(&rig, SIGTERM);
	rig_remove(&rig);
	return finish();
}
