/*
 * merge.h
 *		How nodes agree on the value of a key: a hybrid logical clock, the heads of
 *		a set of facts, and the winner among them. Plain C: nothing here knows of
 *		PostgreSQL.
 *
 * A fact is what one node wrote about one key, once and for all; it names the
 * facts of that key that its writer saw as heads (parents). Nodes exchange facts
 * in any order, some of them more than once, until all have the same set. So
 * everything here is a function of the set:
 *
 *	- a fact is superseded when a later fact of the key (by clock, origin, number)
 *	  names it as a parent, and a head otherwise. Several heads are a conflict:
 *	  writes that did not know of each other;
 *	- the winner is the head that is last in the total order of the strategy.
 *
 * The union of sets is commutative, associative and idempotent, and so is what is
 * computed from it. Clocks decide which write wins, never whether nodes agree.
 *
 * All facts of a transaction have one time, so that of two transactions that write
 * the same keys at once, such as the layers of a model, one wins all of them.
 */
#ifndef GA_MERGE_H
#define GA_MERGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GA_ORIGIN_LEN 16

/*
 * A time of the hybrid logical clock: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16 that
 * carries into them. Positive, so it is ordered as a signed number, too.
 */
#define GA_HLC_COUNTER_BITS 16
#define GA_HLC_MAX INT64_MAX

/* The time of a write at now_ms whose writer has seen facts up to `seen`: greater than that, or GA_HLC_MAX. */
extern int64_t ga_hlc_tick(int64_t seen, int64_t now_ms);

/* The time that a fact gets for something that was written at that moment, without the clock. */
extern int64_t ga_hlc_of(int64_t ms);

/* Names are in doc/reference.md; the codes are nowhere stored. */
typedef enum GaStrategy
{
	GA_LATEST_TIMESTAMP,
	GA_HIGHEST_VERSION,
	GA_HIGHEST_FITNESS,
	GA_ORIGIN_PRIORITY,
	GA_KEEP_BOTH,				/* the latest; the others get keys of their own (keep_branches()) */
	GA_MANUAL					/* the earliest, until somebody decides */
} GaStrategy;

/* False when there is no strategy of that name. */
extern bool ga_strategy_parse(const char *name, size_t len, GaStrategy *strategy);

typedef struct GaFactId
{
	uint8_t		origin[GA_ORIGIN_LEN];	/* the node that wrote it */
	int64_t		seq;			/* unique there */
} GaFactId;

extern int	ga_fact_id_compare(const GaFactId *a, const GaFactId *b);

typedef struct GaFact
{
	GaFactId	id;
	int64_t		hlc;
	int64_t		version;
	double		fitness;		/* NaN: there is none, which is below -infinity */
	int64_t		priority;		/* of its origin, the same on all nodes */
	const GaFactId *parents;
	int			nparents;
	bool		superseded;		/* set by ga_merge */
} GaFact;

/* Total order of a strategy: negative, 0 for the same fact, positive when b loses to a. */
extern int	ga_fact_compare(GaStrategy strategy, const GaFact *a, const GaFact *b);

/*
 * Sorts facts of one key by id, marks those that are superseded (and all but one of those that are there more than
 * once), and returns the position of the winner; -1 for no facts.
 *
 * Who remembers the heads of a set need not come with all of it when facts arrive: with the heads, the new facts, and
 * all facts whose time is not below the least of these. What is left out is superseded, and supersedes none of them.
 */
extern int	ga_merge(GaStrategy strategy, GaFact *facts, int n);

#endif							/* GA_MERGE_H */
