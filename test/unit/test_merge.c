/*
 * test_merge.c
 *		The merge core: clock, order and heads against their definitions, and a
 *		simulator of nodes that write, exchange facts over links that delay, repeat
 *		and reorder, crash and join. 10^5 schedules; with GA_TEST_LONG, 10^6. A
 *		schedule is a function of its seed, which is printed when it fails; with
 *		GA_SEED only that one runs.
 */
#include "unit.h"
#include "sync/merge.h"

static const char *const strategy_names[] = {"latest_timestamp", "highest_version", "highest_fitness", "origin_priority", "keep_both", "manual"};

static int
below(int n)
{
	return next_random() % n;
}

/* ---- clock ---- */

static void
test_clock(void)
{
	bool		good = true;
	int64_t		ms = INT64_C(1790000000000);

	good &= ga_hlc_of(ms) == ms * 65536 && ga_hlc_of(-1) == 0 && ga_hlc_of(INT64_MAX) == INT64_MAX;
	good &= ga_hlc_tick(0, ms) == ms * 65536;
	good &= ga_hlc_tick(ms * 65536, ms) == ms * 65536 + 1;
	good &= ga_hlc_tick(ms * 65536 + 65535, ms) == (ms + 1) * 65536;
	good &= ga_hlc_tick(ms * 65536 + 7, ms + 1) == (ms + 1) * 65536;
	good &= ga_hlc_tick(ms * 65536 + 7, ms - 3600000) == ms * 65536 + 8;
	good &= ga_hlc_tick(INT64_MAX, ms) == INT64_MAX && ga_hlc_tick(INT64_MAX - 1, 0) == INT64_MAX;
	result(good, "the clock follows the time, and what was seen when time does not");
}

static void
test_names(void)
{
	bool		good = true;
	GaStrategy	strategy;

	for (size_t i = 0; i < LENGTH(strategy_names); i++)
		good &= ga_strategy_parse(strategy_names[i], strlen(strategy_names[i]), &strategy) && strategy == (GaStrategy) i;
	good &= !ga_strategy_parse("latest", 6, &strategy) && !ga_strategy_parse("", 0, &strategy) &&
		!ga_strategy_parse("latest_timestampx", 17, &strategy);
	result(good, "strategies have names");
}

/* ---- order ---- */

static const double fitnesses[] = {NAN, -HUGE_VAL, -1, -0.0, 0, 1, HUGE_VAL};

static GaFact
random_fact(int spread)
{
	GaFact		fact = {0};

	fact.id.origin[below(2) ? 0 : 15] = (uint8_t) (below(2) ? 200 : 1);
	fact.id.seq = below(spread) - 1;
	fact.hlc = 1 + below(spread);
	fact.version = below(spread) - 1;
	fact.fitness = fitnesses[below(LENGTH(fitnesses))];
	fact.priority = below(spread) - 1;
	return fact;
}

/* Place of a fitness in the order, another way: 0 for none, then by value. */
static int
fitness_place(double fitness)
{
	static const double places[] = {-HUGE_VAL, -1, 0, 1, HUGE_VAL};

	for (size_t i = 0; i < LENGTH(places); i++)
		if (fitness == places[i])
			return (int) i + 1;
	return 0;
}

static int
reference_compare(int strategy, const GaFact *a, const GaFact *b)
{
	long		keys[5][2] = {
		{strategy == 1 ? a->version : strategy == 2 ? fitness_place(a->fitness) : strategy == 3 ? a->priority : strategy == 5 ? -a->hlc : 0,
		strategy == 1 ? b->version : strategy == 2 ? fitness_place(b->fitness) : strategy == 3 ? b->priority : strategy == 5 ? -b->hlc : 0},
		{a->hlc, b->hlc},
		{a->id.origin[0], b->id.origin[0]},
		{a->id.origin[15], b->id.origin[15]},
		{a->id.seq, b->id.seq}
	};

	for (int i = 0; i < 5; i++)
		if (keys[i][0] != keys[i][1])
			return keys[i][0] < keys[i][1] ? -1 : 1;
	return 0;
}

static int
sign(int n)
{
	return (n > 0) - (n < 0);
}

static void
test_order(void)
{
	bool		good = true;

	for (int round = 0; round < 400000; round++)
	{
		int			strategy = below(LENGTH(strategy_names));
		GaFact		a = random_fact(3);
		GaFact		b = random_fact(3);
		int			order = sign(ga_fact_compare(strategy, &a, &b));

		if (order != reference_compare(strategy, &a, &b) || order != -sign(ga_fact_compare(strategy, &b, &a)))
			good = differ("order of strategy %d, round %d", strategy, round);
	}
	result(good, "facts are in the order of each strategy, then of clock, origin and number");
}

/* ---- heads: any order, any repetition ---- */

#define MAX_FACTS 64

static bool
reference_head(const GaFact *facts, int n, int i)
{
	for (int j = 0; j < n; j++)
		for (int p = 0; p < facts[j].nparents; p++)
			if (reference_compare(0, &facts[j], &facts[i]) > 0 && facts[j].parents[p].seq == facts[i].id.seq &&
				memcmp(facts[j].parents[p].origin, facts[i].id.origin, GA_ORIGIN_LEN) == 0)
				return false;
	return true;
}

static void
test_heads(void)
{
	static GaFactId parents[MAX_FACTS][3];
	bool		good = ga_merge(GA_LATEST_TIMESTAMP, NULL, 0) == -1;

	for (int round = 0; round < 20000; round++)
	{
		GaFact		facts[12];
		GaFact		shuffled[24];
		int			n = 1 + below(12);
		int			repeated = n;
		int			strategy = below(LENGTH(strategy_names));
		int			winner = -1;
		int			heads = 0;
		int			found;

		for (int i = 0; i < n; i++)
		{
			facts[i] = random_fact(6);
			facts[i].id.seq = i;
			facts[i].parents = parents[i];
			facts[i].nparents = below(3);
			/* Of any number and clock: of facts that are not there, of itself, in circles. */
			for (int p = 0; p < facts[i].nparents; p++)
			{
				parents[i][p] = random_fact(6).id;
				parents[i][p].seq = below(n + 1);
			}
		}
		for (int i = 0; i < n; i++)
			if (reference_head(facts, n, i))
			{
				heads++;
				if (winner < 0 || reference_compare(strategy, &facts[i], &facts[winner]) > 0)
					winner = i;
			}
		memcpy(shuffled, facts, n * sizeof(GaFact));
		for (int extra = below(n + 1); extra > 0; extra--)
			shuffled[repeated++] = facts[below(n)];
		for (int i = repeated - 1; i > 0; i--)
		{
			int			j = below(i + 1);
			GaFact		swap = shuffled[i];

			shuffled[i] = shuffled[j];
			shuffled[j] = swap;
		}
		found = ga_merge(strategy, shuffled, repeated);
		if (found < 0 || ga_fact_id_compare(&shuffled[found].id, &facts[winner].id) != 0)
			good = differ("round %d: another winner", round);
		for (int i = 0; i < repeated; i++)
			heads -= !shuffled[i].superseded;
		if (heads != 0)
			good = differ("round %d: other heads", round);
	}
	result(good, "heads and winner are those of the definition, in any order and repetition");
}

/* ---- the simulator ---- */

#define NODES 5
#define KEYS 3
#define LOG 40					/* facts of a schedule */

/* What was written, by number; `of` lists the numbers that an origin wrote, which is the order in which links carry them. */
static struct
{
	GaFact		fact[LOG];
	GaFactId	parents[LOG][8];
	int			key[LOG];
	int			n;
	int			of[NODES][LOG];
	int			nof[NODES];
}			world;

typedef struct SimNode
{
	bool		joined;
	int64_t		skew;
	bool		known[LOG];
	bool		followed[LOG];	/* what the heads take into account */
	int			got[NODES];		/* position in each origin's log */
	int			heads[KEYS][LOG];
	int			nheads[KEYS];
	int			winner[KEYS];
	int64_t		hlc;			/* of its transaction; 0: none is open */
} SimNode;

static SimNode nodes[NODES];
static int	nnodes;
static int	strategy;
static int64_t now;

/*
 * As the maintenance worker does it: of one key, the heads that are remembered, the facts that arrived, and what is known
 * from their least clock on.
 */
static void
follow(SimNode *node, int key)
{
	GaFact		facts[LOG];
	int			number[LOG];
	int			n = 0;
	int64_t		least = GA_HLC_MAX;
	bool		arrived = false;
	int			winner;

	for (int i = 0; i < world.n; i++)
		if (world.key[i] == key && node->known[i] && !node->followed[i])
		{
			arrived = true;
			if (world.fact[i].hlc < least)
				least = world.fact[i].hlc;
		}
	node->hlc = 0;
	if (!arrived)
		return;
	for (int h = 0; h < node->nheads[key]; h++)
		if (world.fact[node->heads[key][h]].hlc < least)
			least = world.fact[node->heads[key][h]].hlc;
	for (int i = 0; i < world.n; i++)
		if (world.key[i] == key && node->known[i] && world.fact[i].hlc >= least)
		{
			node->followed[i] = true;
			facts[n++] = world.fact[i];
		}
	winner = ga_merge(strategy, facts, n);
	node->nheads[key] = 0;
	for (int i = 0; i < n; i++)
	{
		for (number[i] = 0; ga_fact_id_compare(&world.fact[number[i]].id, &facts[i].id) != 0;)
			number[i]++;
		if (!facts[i].superseded)
			node->heads[key][node->nheads[key]++] = number[i];
	}
	node->winner[key] = number[winner];
}

/*
 * A write supersedes the heads that its writer has followed; what has arrived since is not known to it. Writes of one
 * transaction have one time.
 */
static void
write_fact(int writer)
{
	SimNode    *node = &nodes[writer];
	GaFact	   *fact = &world.fact[world.n];
	int			key = below(KEYS);
	int64_t		seen = 0;

	if (world.n == LOG || node->nheads[key] > 8)
		return;
	for (int i = 0; i < world.n; i++)
		if (node->known[i] && world.fact[i].hlc > seen)
			seen = world.fact[i].hlc;
	memset(fact, 0, sizeof(*fact));
	fact->id.origin[0] = (uint8_t) (7 * writer);
	fact->id.seq = world.nof[writer];
	if (node->hlc == 0 || below(2))
		node->hlc = ga_hlc_tick(seen, now + node->skew);
	fact->hlc = node->hlc;
	fact->version = below(4);
	fact->fitness = fitnesses[below(LENGTH(fitnesses))];
	fact->priority = 3 * writer % 4;
	fact->parents = world.parents[world.n];
	for (int h = 0; h < node->nheads[key]; h++)
		world.parents[world.n][fact->nparents++] = world.fact[node->heads[key][h]].id;
	world.key[world.n] = key;
	world.of[writer][world.nof[writer]++] = world.n;
	node->known[world.n] = node->followed[world.n] = true;
	node->got[writer] = world.nof[writer];
	node->heads[key][0] = node->winner[key] = world.n;
	node->nheads[key] = 1;
	world.n++;
}

/* The next facts of a log; a link that was broken begins again before where it was. */
static void
deliver(int from, int to, int count)
{
	SimNode    *node = &nodes[to];

	if (from == to || !node->joined)
		return;
	if (below(4) == 0)
		node->got[from] = below(node->got[from] + 1);
	while (count-- > 0 && node->got[from] < world.nof[from])
		node->known[world.of[from][node->got[from]++]] = true;
}

/* What is committed stays; how far facts were followed may be that of before, and then some are followed again. */
static void
restart(SimNode *node)
{
	for (int i = 0; i < world.n; i++)
		if (below(2))
			node->followed[i] = false;
	node->skew += (int64_t) below(20000) - 10000;
}

/* Heads and winner of a key by definition, of all that was written; false when a node has others. */
static bool
converged(int key)
{
	GaFact		facts[LOG];
	int			number[LOG];
	int			n = 0;
	int			winner = -1;
	bool		good = true;

	for (int i = 0; i < world.n; i++)
		if (world.key[i] == key)
		{
			facts[n] = world.fact[i];
			number[n++] = i;
		}
	for (int i = 0; i < n; i++)
	{
		bool		head = reference_head(facts, n, i);

		if (head && (winner < 0 || reference_compare(strategy, &facts[i], &facts[winner]) > 0))
			winner = i;
		for (int node = 0; node < nnodes; node++)
		{
			bool		has = false;

			for (int h = 0; h < nodes[node].nheads[key]; h++)
				has |= nodes[node].heads[key][h] == number[i];
			good &= has == head;
		}
	}
	for (int node = 0; node < nnodes && winner >= 0; node++)
		good &= nodes[node].winner[key] == number[winner];
	return good;
}

static bool
schedule(uint64_t seed)
{
	bool		good = true;
	int			steps;

	random_state = seed;
	memset(&world, 0, sizeof(world));
	memset(nodes, 0, sizeof(nodes));
	nnodes = 2 + below(NODES - 1);
	strategy = below(LENGTH(strategy_names));
	now = INT64_C(1790000000000);
	for (int i = 0; i < nnodes; i++)
	{
		nodes[i].joined = i < 2 || below(2);
		nodes[i].skew = below(3) ? 0 : (int64_t) below(7200000) - 3600000;
	}
	steps = 10 + below(120);
	while (steps-- > 0)
	{
		int			who = below(nnodes);

		now += below(3);
		switch (below(12))
		{
			case 0:
			case 1:
			case 2:
				/* One that has not joined writes, too: it has data of its own. */
				write_fact(who);
				break;
			case 3:
			case 4:
			case 5:
				follow(&nodes[who], below(KEYS));
				break;
			case 6:
				restart(&nodes[who]);
				break;
			case 7:
				nodes[who].joined = true;
				break;
			default:
				deliver(below(nnodes), who, 1 + below(4));
		}
	}
	for (int to = 0; to < nnodes; to++)
	{
		nodes[to].joined = true;
		for (int from = 0; from < nnodes; from++)
			deliver(from, to, LOG);
		for (int from = 0; from < nnodes; from++)
			while (nodes[to].got[from] < world.nof[from])
				deliver(from, to, LOG);
		for (int key = 0; key < KEYS; key++)
			follow(&nodes[to], key);
		for (int i = 0; i < world.n; i++)
			good &= nodes[to].known[i];
	}
	for (int key = 0; key < KEYS; key++)
		good &= converged(key);
	/* A write is later than what its writer had seen, whatever its clock said. */
	for (int i = 0; i < world.n; i++)
		for (int p = 0; p < world.fact[i].nparents; p++)
			for (int j = 0; j < world.n; j++)
				if (ga_fact_id_compare(&world.fact[j].id, &world.fact[i].parents[p]) == 0)
					good &= reference_compare(0, &world.fact[j], &world.fact[i]) < 0;
	return good;
}

static void
test_schedules(void)
{
	const char *one = getenv("GA_SEED");
	uint64_t	first = one ? strtoull(one, NULL, 10) : 1;
	uint64_t	last = one ? first : getenv("GA_TEST_LONG") && *getenv("GA_TEST_LONG") ? 1000000 : 100000;
	uint64_t	conflicts = 0;
	bool		good = true;

	for (uint64_t seed = first; seed <= last; seed++)
	{
		if (!schedule(seed * UINT64_C(0x9e3779b97f4a7c15)))
			good = differ("seed %llu: %d nodes differ, %s", (unsigned long long) seed, nnodes, strategy_names[strategy]);
		for (int key = 0; key < KEYS; key++)
			conflicts += nodes[0].nheads[key] > 1;
	}
	result(good, "nodes have the same heads and winners after any schedule");
	result(one || conflicts > (last - first) / 10, "and there were conflicts");
}

int
main(void)
{
	test_clock();
	test_names();
	test_order();
	test_heads();
	test_schedules();
	return finish();
}
