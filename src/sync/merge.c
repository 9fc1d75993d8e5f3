/*
 * merge.c
 *		Clock, heads and winners of facts (merge.h).
 */
#include "sync/merge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t
ga_hlc_of(int64_t ms)
{
	if (ms < 0)
		return 0;
	if (ms > GA_HLC_MAX >> GA_HLC_COUNTER_BITS)
		return GA_HLC_MAX;
	return ms << GA_HLC_COUNTER_BITS;
}

int64_t
ga_hlc_tick(int64_t seen, int64_t now_ms)
{
	int64_t		now = ga_hlc_of(now_ms);

	if (now > seen)
		return now;
	return seen < GA_HLC_MAX ? seen + 1 : GA_HLC_MAX;
}

bool
ga_strategy_parse(const char *name, size_t len, GaStrategy *strategy)
{
	static const char *const names[] = {
		[GA_LATEST_TIMESTAMP] = "latest_timestamp",
		[GA_HIGHEST_VERSION] = "highest_version",
		[GA_HIGHEST_FITNESS] = "highest_fitness",
		[GA_ORIGIN_PRIORITY] = "origin_priority",
		[GA_KEEP_BOTH] = "keep_both",
		[GA_MANUAL] = "manual",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
		{
			*strategy = (GaStrategy) i;
			return true;
		}
	return false;
}

static int
compare_integers(int64_t a, int64_t b)
{
	return a < b ? -1 : a > b;
}

/* NaN first; zeros of both signs are one value. */
static int
compare_fitness(double a, double b)
{
	if (isnan(a) || isnan(b))
		return isnan(b) - isnan(a);
	return a < b ? -1 : a > b;
}

int
ga_fact_id_compare(const GaFactId *a, const GaFactId *b)
{
	int			order = memcmp(a->origin, b->origin, GA_ORIGIN_LEN);

	return order != 0 ? order : compare_integers(a->seq, b->seq);
}

int
ga_fact_compare(GaStrategy strategy, const GaFact *a, const GaFact *b)
{
	int			order = 0;

	switch (strategy)
	{
		case GA_LATEST_TIMESTAMP:
		case GA_KEEP_BOTH:
			break;
		case GA_HIGHEST_VERSION:
			order = compare_integers(a->version, b->version);
			break;
		case GA_HIGHEST_FITNESS:
			order = compare_fitness(a->fitness, b->fitness);
			break;
		case GA_ORIGIN_PRIORITY:
			order = compare_integers(a->priority, b->priority);
			break;
		case GA_MANUAL:
			order = compare_integers(b->hlc, a->hlc);
			break;
	}
	if (order == 0)
		order = compare_integers(a->hlc, b->hlc);
	return order != 0 ? order : ga_fact_id_compare(&a->id, &b->id);
}

static int
compare_facts(const void *a, const void *b)
{
	return ga_fact_id_compare(&((const GaFact *) a)->id, &((const GaFact *) b)->id);
}

/* The first fact with that id in what ga_merge has sorted; NULL: there is none. */
static GaFact *
find_fact(GaFact *facts, int n, const GaFactId *id)
{
	int			low = 0;
	int			high = n;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (ga_fact_id_compare(&facts[middle].id, id) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n && ga_fact_id_compare(&facts[low].id, id) == 0 ? &facts[low] : NULL;
}

int
ga_merge(GaStrategy strategy, GaFact *facts, int n)
{
	int			winner = -1;

	if (n > 1)
		qsort(facts, n, sizeof(GaFact), compare_facts);
	for (int i = 0; i < n; i++)
		facts[i].superseded = i > 0 && compare_facts(&facts[i - 1], &facts[i]) == 0;
	for (int i = 0; i < n; i++)
		for (int p = 0; p < facts[i].nparents; p++)
		{
			GaFact	   *parent = find_fact(facts, n, &facts[i].parents[p]);

			if (parent != NULL && ga_fact_compare(GA_LATEST_TIMESTAMP, parent, &facts[i]) < 0)
				parent->superseded = true;
		}
	for (int i = 0; i < n; i++)
		if (!facts[i].superseded && (winner < 0 || ga_fact_compare(strategy, &facts[i], &facts[winner]) > 0))
			winner = i;
	return winner;
}
