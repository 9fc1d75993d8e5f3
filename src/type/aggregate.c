/*
 * aggregate.c
 *		sum, avg, stack and unstack.
 *
 * sum and avg accumulate in F64 and round once at the end; all inputs must have
 * one shape and dtype. stack makes rows of dimension 0 in input order: write
 * stack(x ORDER BY id).
 */
#include "base/compat.h"

#include "funcapi.h"
#include "libpq/pqformat.h"
#include "type/type.h"

typedef struct SumState
{
	int64		count;
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];
	uint64		nelem;
	double		acc[FLEXIBLE_ARRAY_MEMBER];
} SumState;

static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called outside an aggregate");
	return context;
}

static void
require_same_shape(int dtype, int ndim, const int64 *dims, const GaView *view)
{
	if (dtype != view->dtype || ndim != view->ndim || memcmp(dims, view->dims, sizeof(int64) * ndim) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("cannot aggregate %s%s with %s%s", ga_dtype_name(dtype), ga_shape_text(ndim, dims),
						ga_dtype_name(view->dtype), ga_shape_text(view->ndim, view->dims))));
}

/* A state of zeros; 54000 when the sums in F64 would not fit one allocation. */
static SumState *
new_sum(MemoryContext context, int dtype, int ndim, const int64 *dims, uint64 nelem)
{
	SumState   *state;

	/* Also what a partial sum of a parallel worker is serialised to. */
	if (nelem > (MaxAllocSize - VARHDRSZ - offsetof(SumState, acc)) / sizeof(double))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot aggregate tensors of " UINT64_FORMAT " elements", nelem),
				 errdetail("Sums are kept in F64 and must fit 1 GB."),
				 errhint("Aggregate parts, taken with gpuagent.slice().")));
	state = MemoryContextAllocZero(context, offsetof(SumState, acc) + sizeof(double) * nelem);
	state->dtype = dtype;
	state->ndim = ndim;
	memcpy(state->dims, dims, sizeof(int64) * ndim);
	state->nelem = nelem;
	return state;
}

/* Adds n elements from position first on; the first value is copied, because 0 + -0 is 0. Only F64 can overflow. */
static void
accumulate(SumState *state, uint64 first, const double *x, size_t n)
{
	double	   *acc = state->acc + first;

	if (state->count == 0)
	{
		memcpy(acc, x, sizeof(double) * n);
		return;
	}
	for (size_t i = 0; i < n; i++)
	{
		double		sum = acc[i] + x[i];

		if (unlikely(isinf(sum)) && isfinite(acc[i]) && isfinite(x[i]))
			ga_report_overflow(state->dtype, first + i, sum);
		acc[i] = sum;
	}
}

PG_FUNCTION_INFO_V1(ga_sum_step);
Datum
ga_sum_step(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	SumState   *state = PG_ARGISNULL(0) ? NULL : (SumState *) PG_GETARG_POINTER(0);
	GaView		view;
	double		block[256];

	if (PG_ARGISNULL(1))
	{
		if (state == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(state);
	}
	GA_GETARG_VIEW(1, &view);
	ga_require_float(view.dtype, "an aggregate");
	if (state == NULL)
		state = new_sum(context, view.dtype, view.ndim, view.dims, view.nelem);
	else
		require_same_shape(state->dtype, state->ndim, state->dims, &view);
	for (uint64 i = 0; i < view.nelem; i += lengthof(block))
	{
		size_t		m = Min(lengthof(block), view.nelem - i);

		ga_widen_f64(view.dtype, view.data + i * ga_dtype_info(view.dtype)->width, block, m);
		accumulate(state, i, block, m);
	}
	CHECK_FOR_INTERRUPTS();
	state->count++;
	ga_view_release(&view);
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(ga_sum_combine);
Datum
ga_sum_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	SumState   *a = PG_ARGISNULL(0) ? NULL : (SumState *) PG_GETARG_POINTER(0);
	SumState   *b = PG_ARGISNULL(1) ? NULL : (SumState *) PG_GETARG_POINTER(1);

	if (b == NULL)
	{
		if (a == NULL)
			PG_RETURN_NULL();
		PG_RETURN_POINTER(a);
	}
	if (a == NULL)
		a = new_sum(context, b->dtype, b->ndim, b->dims, b->nelem);
	else
	{
		GaView		view = {.dtype = b->dtype,.ndim = b->ndim};

		memcpy(view.dims, b->dims, sizeof(view.dims));
		require_same_shape(a->dtype, a->ndim, a->dims, &view);
	}
	accumulate(a, 0, b->acc, a->nelem);
	a->count += b->count;
	PG_RETURN_POINTER(a);
}

/* Between processes of one server: native bytes. */
PG_FUNCTION_INFO_V1(ga_sum_serialize);
Datum
ga_sum_serialize(PG_FUNCTION_ARGS)
{
	SumState   *state = (SumState *) PG_GETARG_POINTER(0);
	Size		size = offsetof(SumState, acc) + sizeof(double) * state->nelem;
	bytea	   *result = palloc(VARHDRSZ + size);

	aggregate_context(fcinfo);
	SET_VARSIZE(result, VARHDRSZ + size);
	memcpy(VARDATA(result), state, size);
	PG_RETURN_BYTEA_P(result);
}

PG_FUNCTION_INFO_V1(ga_sum_deserialize);
Datum
ga_sum_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	Size		size = VARSIZE_ANY_EXHDR(bytes);
	SumState   *state;

	aggregate_context(fcinfo);
	state = palloc(Max(size, sizeof(SumState)));
	memcpy(state, VARDATA_ANY(bytes), size);
	PG_RETURN_POINTER(state);
}

static Datum
finish_sum(FunctionCallInfo fcinfo, const GaKind *kind, bool average)
{
	SumState   *state = PG_ARGISNULL(0) ? NULL : (SumState *) PG_GETARG_POINTER(0);
	double		divisor;
	GaTensor   *tensor;
	char	   *data;

	if (state == NULL)
		PG_RETURN_NULL();
	divisor = average ? state->count : 1;
	tensor = ga_tensor_new(kind, state->dtype, state->ndim, state->dims, &data);
	for (uint64 i = 0; i < state->nelem; i++)
	{
		double		value = state->acc[i] / divisor;

		GA_CHECK_INTERRUPTS(i);
		ga_store_float(state->dtype, data, i, value);
		if (isfinite(value) && isinf(ga_load_float(state->dtype, data, i)))
			ga_report_overflow(state->dtype, i, value);
	}
	GA_RETURN(kind, tensor);
}

static Datum
sum_final(FunctionCallInfo fcinfo, const GaKind *kind)
{
	return finish_sum(fcinfo, kind, false);
}

static Datum
avg_final(FunctionCallInfo fcinfo, const GaKind *kind)
{
	return finish_sum(fcinfo, kind, true);
}

GA_PER_KIND(sum_final, sum_final);
GA_PER_KIND(avg_final, avg_final);

/* ---- stack ---- */

/* The rows so far; the final function writes them behind a header once. */
typedef struct StackState
{
	int64		rows;
	int64		nulls;
	int			dtype;
	int			ndim;			/* of a row */
	int64		dims[GA_MAX_RANK];
	uint64		row_bytes;
	uint64		used;
	uint64		capacity;
	char	   *data;
} StackState;

static void
reserve(StackState *state, MemoryContext context, uint64 nbytes)
{
	uint64		need = state->used + nbytes;

	if (need > ga_kind_swarm_tensor.max_bytes)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("stack would exceed the " UINT64_FORMAT " bytes of a swarm_tensor",
						ga_kind_swarm_tensor.max_bytes),
				 errhint("Stack fewer rows, or append them with gpuagent.append_swarm().")));
	if (need <= state->capacity)
		return;
	state->capacity = Min(Max(need, Max(state->capacity * 2, 64 * 1024)), ga_kind_swarm_tensor.max_bytes);
	if (state->data == NULL)
		state->data = MemoryContextAlloc(context, state->capacity);
	else
		state->data = repalloc(state->data, state->capacity);
}

PG_FUNCTION_INFO_V1(ga_stack_step);
Datum
ga_stack_step(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	StackState *state = PG_ARGISNULL(0) ? NULL : (StackState *) PG_GETARG_POINTER(0);
	GaView		view;

	if (state == NULL)
		state = MemoryContextAllocZero(context, sizeof(StackState));
	if (PG_ARGISNULL(1))
		state->nulls++;
	else
	{
		GA_GETARG_VIEW(1, &view);
		if (state->rows == 0)
		{
			if (view.ndim == GA_MAX_RANK)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("cannot stack tensors of %d dimensions", GA_MAX_RANK)));
			state->dtype = view.dtype;
			state->ndim = view.ndim;
			memcpy(state->dims, view.dims, sizeof(view.dims));
			state->row_bytes = view.nbytes;
		}
		else
			require_same_shape(state->dtype, state->ndim, state->dims, &view);
		reserve(state, context, view.nbytes);
		if (view.nbytes > 0)
			memcpy(state->data + state->used, view.data, view.nbytes);
		state->used += view.nbytes;
		state->rows++;
		ga_view_release(&view);
	}
	/* torch.stack has no missing rows either; silence would misalign rows and ids. */
	if (state->nulls > 0 && state->rows > 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("cannot stack NULL with other values"),
				 errhint("Leave rows out with FILTER (WHERE ... IS NOT NULL), on every aligned aggregate.")));
	PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(ga_stack_final);
Datum
ga_stack_final(PG_FUNCTION_ARGS)
{
	StackState *state = PG_ARGISNULL(0) ? NULL : (StackState *) PG_GETARG_POINTER(0);
	int64		dims[GA_MAX_RANK];
	GaTensor   *tensor;
	char	   *data;

	if (state == NULL || state->rows == 0)
		PG_RETURN_NULL();
	dims[0] = state->rows;
	memcpy(dims + 1, state->dims, sizeof(int64) * state->ndim);
	tensor = ga_tensor_new(&ga_kind_swarm_tensor, state->dtype, state->ndim + 1, dims, &data);
	if (state->used > 0)
		memcpy(data, state->data, state->used);
	GA_RETURN(&ga_kind_swarm_tensor, tensor);
}

/* unstack(swarm_tensor) TABLE(ordinal bigint, state agent_state) */
PG_FUNCTION_INFO_V1(ga_unstack);
Datum
ga_unstack(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	GaView	   *view;
	GaView		row;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		TupleDesc	tupdesc;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		funcctx->tuple_desc = BlessTupleDesc(tupdesc);
		view = palloc(sizeof(GaView));
		/* The argument may live in a shorter context than the scan. */
		ga_view(PointerGetDatum(PG_DETOAST_DATUM_COPY(PG_GETARG_DATUM(0))), view);
		if (view->ndim == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("a tensor of rank 0 has no rows")));
		funcctx->max_calls = view->dims[0];
		if (view->dims[0] > 0 && view->nelem / view->dims[0] * ga_dtype_info(view->dtype)->bits % 8 != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("rows of packed dtype %s do not fill whole bytes here", ga_dtype_name(view->dtype))));
		funcctx->user_fctx = view;
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	view = funcctx->user_fctx;
	if (funcctx->call_cntr >= funcctx->max_calls)
		SRF_RETURN_DONE(funcctx);

	row = *view;
	row.ndim = view->ndim - 1;
	memcpy(row.dims, view->dims + 1, sizeof(int64) * row.ndim);
	row.nelem = view->nelem / view->dims[0];
	row.nbytes = view->nbytes / view->dims[0];
	row.data = view->data + funcctx->call_cntr * row.nbytes;
	values[0] = Int64GetDatum(funcctx->call_cntr + 1);
	values[1] = PointerGetDatum(ga_tensor_from_view(&ga_kind_agent_state, &row));
	SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
}
