/*
 * type.h
 *		Helpers shared by the SQL functions of the three types.
 *
 * A function whose result type is the argument's type exists once per type in
 * C, because a value does not say which of the three types it belongs to.
 * GA_PER_KIND makes the three entry points around one static worker.
 */
#ifndef GA_TYPE_H
#define GA_TYPE_H

#include "base/compat.h"
#include "tensor/tensor.h"

#define GA_ENTRY(type, name, worker) \
	PG_FUNCTION_INFO_V1(type##_##name); \
	Datum type##_##name(PG_FUNCTION_ARGS) { return worker(fcinfo, &ga_kind_##type); } \
	extern int	ga_entry_dummy

#define GA_PER_KIND(name, worker) \
	GA_ENTRY(embedding, name, worker); \
	GA_ENTRY(agent_state, name, worker); \
	GA_ENTRY(swarm_tensor, name, worker)

/* Throws 22000 unless the value has the dim and dtype of the typmod; converts the dtype where that is allowed. */
extern GaTensor *ga_coerce(const GaKind *kind, const GaView *view, int32 typmod);

/* Throws 22000 when the two do not have the same number of elements. */
extern void ga_same_length(const GaView *a, const GaView *b);

#endif							/* GA_TYPE_H */
