/*
 * agent_query.h
 *		Selecting agents by the arguments that retrieve_agents and its kin share.
 */
#ifndef GA_AGENT_QUERY_H
#define GA_AGENT_QUERY_H

#include "base/compat.h"
#include "executor/spi.h"

/*
 * Ids of the agents that meet the conditions in arguments 0 to 3 (ids, generation,
 * prefix, best), in the order of retrieve_agents: one column, in memory of SPI,
 * to which the caller is connected. Errors as retrieve_agents.
 */
extern SPITupleTable *ga_agent_ids(FunctionCallInfo fcinfo);

#endif							/* GA_AGENT_QUERY_H */
