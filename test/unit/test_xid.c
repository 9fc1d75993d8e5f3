/*
 * test_xid.c
 *		Tests of src/checkpoint/xid.h. The reference knows the whole transaction
 *		id of the writer, of which a row keeps 32 bits.
 */
#include "unit.h"
#include "checkpoint/xid.h"

#define EPOCH ((uint64_t) UINT32_MAX + 1)

/* A row of writer `full`, seen when `next` is the next id: never called unchanged when it is not, exact within an epoch. */
static bool
check(uint64_t full, uint64_t next, uint64_t horizon)
{
	bool		changed = ga_xid_changed_since((uint32_t) full, next, horizon);
	bool		truth = full >= horizon;

	if (truth && !changed)
		return differ("missed: written by %llx, next %llx, horizon %llx", (unsigned long long) full,
					  (unsigned long long) next, (unsigned long long) horizon);
	if (!truth && changed && next - full <= EPOCH)
		return differ("taken for changed: written by %llx, next %llx, horizon %llx", (unsigned long long) full,
					  (unsigned long long) next, (unsigned long long) horizon);
	return true;
}

/* Writers, next ids and horizons around the ends of epochs, all combinations that can be. */
static void
test_edges(void)
{
	static const int64_t steps[] = {-3, -2, -1, 0, 1, 2, 3, 4, 5, 1000, 0x7fffffff, 0x80000000LL, 0xfffffffeLL};
	uint64_t	ids[4 * LENGTH(steps)];
	int			n = 0;
	bool		good = true;

	for (int epoch = 0; epoch < 4; epoch++)
		for (size_t i = 0; i < LENGTH(steps); i++)
			if (epoch > 0 || steps[i] >= 3)
				ids[n++] = epoch * EPOCH + steps[i];
	for (int w = 0; w < n; w++)
		for (int x = 0; x < n; x++)
			for (int h = 0; h < n; h++)
				if (ids[w] < ids[x] && ids[h] <= ids[x] && (uint32_t) ids[w] >= 3)
					good &= check(ids[w], ids[x], ids[h]);
	result(good, "around the ends of epochs");
}

static void
test_random(void)
{
	bool		good = true;

	for (int i = 0; i < 1000000; i++)
	{
		uint64_t	next = 4 + next_random() % (8 * EPOCH);
		uint64_t	full = 3 + next_random() % (next - 3);
		uint64_t	horizon = next_random() % 4 ? full + next_random() % 3 - 1 : next_random() % (next + 1);

		if ((uint32_t) full >= 3 && horizon <= next)
			good &= check(full, next, horizon);
	}
	result(good, "random writers, horizons and next ids");
}

static void
test_special(void)
{
	bool		good = true;

	for (uint32_t xmin = 0; xmin < 3; xmin++)
		good &= ga_xid_changed_since(xmin, 5 * EPOCH, 5 * EPOCH);
	result(good, "permanent ids say nothing about age");
	result(ga_xid_changed_since(5000, 1000, 900) && ga_xid_changed_since(1000, 1000, 1000),
		   "in the first epoch, ids that do not exist yet count as changed");
	result(!ga_xid_changed_since(999, EPOCH + 10, EPOCH + 5) && !ga_xid_changed_since(UINT32_MAX, EPOCH + 10, EPOCH),
		   "after a wrap-around, ids of the epoch before are old");
}

int
main(void)
{
	test_edges();
	test_random();
	test_special();
	return finish();
}
