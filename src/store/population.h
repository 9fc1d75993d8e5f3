/*
 * population.h
 *		Collects rows of agents from the executor, without copying them as rows,
 *		into aligned arrays and stacked matrices.
 */
#ifndef GA_POPULATION_H
#define GA_POPULATION_H

#include "base/compat.h"
#include "access/tupdesc.h"
#include "tcop/dest.h"

typedef enum GaPopulationOrder
{
	GA_POPULATION_AS_READ,
	GA_POPULATION_BY_ID,
	GA_POPULATION_BY_ORDINAL
} GaPopulationOrder;

typedef struct GaPopulation GaPopulation;

/* Memory is taken from the current context, also what comes later. */
extern GaPopulation *ga_population_begin(GaPopulationOrder order);

/* Takes rows (id, state, memory, generation, fitness, version, ordinal). 22000 for rows that cannot be stacked. */
extern DestReceiver *ga_population_receiver(GaPopulation *population);

/*
 * The row (ids, states, memories, generations, fitness, versions). A matrix is
 * NULL when every row's value is; 22004 names an agent when only some are.
 */
extern Datum ga_population_finish(GaPopulation *population, TupleDesc tupdesc);

#endif							/* GA_POPULATION_H */
