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

#include <math.h>

#include "tensor/tensor.h"

#define GA_ENTRY(type, name, worker) \
	PG_FUNCTION_INFO_V1(type##_##name); \
	Datum type##_##name(PG_FUNCTION_ARGS) { return worker(fcinfo, &ga_kind_##type); } \
	extern int	ga_entry_dummy

#define GA_PER_KIND(name, worker) \
	GA_ENTRY(embedding, name, worker); \
	GA_ENTRY(agent_state, name, worker); \
	GA_ENTRY(swarm_tensor, name, worker)

/* True when a shape has the dim of the typmod; else 22000, softly. */
extern bool ga_check_dim(const GaKind *kind, int ndim, const int64 *dims, int32 typmod, Node *escontext);

/* Throws 22000 unless the value has the dim and dtype of the typmod; converts the dtype where that is allowed. */
extern GaTensor *ga_coerce(const GaKind *kind, const GaView *view, int32 typmod);

/* Throws 22003: a result of finite operands at element i (from 0) is not finite in its dtype. */
extern void ga_report_overflow(int dtype, uint64 i, double value);

/* Throws 22000 when the two do not have the same number of elements. */
extern void ga_same_length(const GaView *a, const GaView *b);

/* Element as a double, for float dtypes. */
static inline double
ga_load_float(int dtype, const char *data, uint64 i)
{
	switch (dtype)
	{
		case GA_F32:
			return ((const float *) data)[i];
		case GA_F64:
			return ((const double *) data)[i];
		case GA_F16:
			return ga_half_to_float(((const uint16 *) data)[i]);
		default:
			return ga_bfloat_to_float(((const uint16 *) data)[i]);
	}
}

/* Rounds once. Machines differ in the sign and payload of the NaN they make: the positive quiet one is stored. */
static inline void
ga_store_float(int dtype, char *data, uint64 i, double value)
{
	if (isnan(value))
		value = NAN;
	switch (dtype)
	{
		case GA_F32:
			((float *) data)[i] = (float) value;
			break;
		case GA_F64:
			((double *) data)[i] = value;
			break;
		case GA_F16:
			((uint16 *) data)[i] = ga_double_to_half(value);
			break;
		default:
			((uint16 *) data)[i] = ga_double_to_bfloat(value);
			break;
	}
}

#endif							/* GA_TYPE_H */
