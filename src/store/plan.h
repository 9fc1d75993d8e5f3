/*
 * plan.h
 *		SQL statements that C functions run under their caller's rights: prepared
 *		once per session, through SPI, with every name and operator qualified.
 */
#ifndef GA_PLAN_H
#define GA_PLAN_H

#include "base/compat.h"
#include "executor/spi.h"

#define GA_PLAN_MAX_PARAMS 8

/* A saved statement. Zero-initialised static storage is an empty one. */
typedef struct GaPlan
{
	SPIPlanPtr	plan;
	int			nparams;
	Oid			types[GA_PLAN_MAX_PARAMS];
} GaPlan;

/*
 * True when the statement is prepared for these parameter types. Types of the
 * extension change their OID when it is dropped and created again.
 */
extern bool ga_plan_ready(const GaPlan *plan, int nparams, const Oid *types);

/* Prepares and saves; replaces what was there. cursor_options as in SPI_prepare_cursor. */
extern void ga_plan_prepare(GaPlan *plan, const char *sql, int nparams, const Oid *types, int cursor_options);

/*
 * Runs it; returns the number of rows processed. With dest, rows go there; else
 * rows of SELECT and RETURNING are in SPI_tuptable. nulls may be NULL.
 */
extern uint64 ga_plan_run(const GaPlan *plan, const Datum *values, const bool *nulls, bool read_only,
						  DestReceiver *dest);

/*
 * Makes the generic plan of a statement with joins restricted to nested loops
 * over indexes, so that an outer side that streams keeps its order. The settings
 * are not in force while the statement runs, so triggers plan as ever.
 */
extern void ga_plan_nested(const GaPlan *plan);

/* OID of a type of schema gpuagent. */
extern Oid	ga_type_oid(const char *name);

#endif							/* GA_PLAN_H */
