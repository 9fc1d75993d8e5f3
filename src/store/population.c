/*
 * population.c
 *		Aligned arrays and matrices out of rows of agents (population.h).
 *
 * Rows arrive in whatever order the cheapest plan gives, and their order is
 * sorted here; the wide values move once more only when that changes it.
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/population.h"
#include "store/rows.h"
#include "tensor/tensor.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/expandedrecord.h"
#include "utils/memutils.h"

/* Values of one column so far, all of one dtype and shape, as rows of a tensor with room for more. */
typedef struct Matrix
{
	const char *name;
	int64		nulls;
	GaTensor   *tensor;			/* NULL before the first value */
	GaView		row;			/* dtype and shape of a value */
	int64		capacity;		/* rows */
	char	   *data;			/* row i at i * row.nbytes; rows that are NULL are not written */
} Matrix;

typedef struct Row
{
	GaIdRef		id;				/* datum is ours; row is the position in the matrices */
	int64		ordinal;
	int64		generation;
	int64		version;
	double		fitness;
	bool		fitness_null;
	bool		state_null;
	bool		memory_null;
} Row;

struct GaPopulation
{
	DestReceiver pub;
	MemoryContext context;
	GaPopulationOrder order;
	int			count;
	int			capacity;
	Row		   *rows;
	Matrix		state;
	Matrix		memory;
};

static int
compare_rows_by_id(const void *a, const void *b)
{
	const Row  *x = a;
	const Row  *y = b;

	return ga_bytes_cmp(x->id.bytes, x->id.len, y->id.bytes, y->id.len);
}

static int
compare_rows_by_ordinal(const void *a, const void *b)
{
	const Row  *x = a;
	const Row  *y = b;

	return (x->ordinal > y->ordinal) - (x->ordinal < y->ordinal);
}

static void
check_same_shape(const Matrix *matrix, const GaView *view, const Row *row)
{
	const GaView *first = &matrix->row;

	if (first->dtype != view->dtype || first->ndim != view->ndim ||
		memcmp(first->dims, view->dims, sizeof(int64) * view->ndim) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the %s of agent \"%s\" is %s%s, that of others is %s%s", matrix->name, ga_id_text(&row->id),
						ga_dtype_name(view->dtype), ga_shape_text(view->ndim, view->dims),
						ga_dtype_name(first->dtype), ga_shape_text(first->ndim, first->dims)),
				 errhint("Retrieve agents of one shape at a time, or rows with gpuagent.retrieve_agents().")));
}

/* A matrix for rows like the view. */
static void
begin_matrix(Matrix *matrix, const GaView *view, int64 rows)
{
	int64		dims[GA_MAX_RANK];

	if (view->ndim == GA_MAX_RANK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot stack tensors of %d dimensions", GA_MAX_RANK)));
	matrix->row = *view;
	dims[0] = matrix->capacity = rows;
	memcpy(dims + 1, view->dims, sizeof(int64) * view->ndim);
	matrix->tensor = ga_tensor_new(&ga_kind_swarm_tensor, view->dtype, view->ndim + 1, dims, &matrix->data);
}

/* Makes room for more rows; 54000 beyond what a swarm_tensor holds. */
static void
grow_matrix(Matrix *matrix, int64 rows)
{
	uint64		most = ga_kind_swarm_tensor.max_bytes / Max(matrix->row.nbytes, 1);

	if (rows > most)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the population exceeds the " UINT64_FORMAT " bytes of a swarm_tensor",
						ga_kind_swarm_tensor.max_bytes),
				 errhint("Retrieve it in parts, by ids, generation or prefix.")));
	matrix->capacity = Min(Max(rows, matrix->capacity * 2), most);
	matrix->tensor = ga_tensor_set_rows(&ga_kind_swarm_tensor, matrix->tensor, matrix->capacity, &matrix->data);
}

static void
add_value(GaPopulation *population, Matrix *matrix, Datum value, bool isnull, const Row *row)
{
	GaView		view;

	if (isnull)
	{
		matrix->nulls++;
		return;
	}
	ga_view(value, &view);
	if (matrix->tensor == NULL)
		begin_matrix(matrix, &view, Max(row->id.row + 1, Min(1024, 256 * 1024 / Max(view.nbytes, 1))));
	else
		check_same_shape(matrix, &view, row);
	if (row->id.row >= matrix->capacity)
		grow_matrix(matrix, row->id.row + 1);
	if (view.nbytes > 0)
		memcpy(matrix->data + view.nbytes * row->id.row, view.data, view.nbytes);
	ga_view_release(&view);
}

static Row *
new_row(GaPopulation *population)
{
	Row		   *row;

	if (population->count == population->capacity)
	{
		population->capacity *= 2;
		population->rows = repalloc_huge(population->rows, sizeof(Row) * population->capacity);
	}
	row = &population->rows[population->count];
	row->id.row = population->count++;
	return row;
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	GaPopulation *population = (GaPopulation *) self;
	MemoryContext old;
	Row		   *row;
	text	   *id;

	CHECK_FOR_INTERRUPTS();
	slot_getallattrs(slot);
	old = MemoryContextSwitchTo(population->context);
	row = new_row(population);
	id = DatumGetTextPCopy(slot->tts_values[0]);
	row->id.datum = PointerGetDatum(id);
	row->id.bytes = VARDATA(id);
	row->id.len = VARSIZE(id) - VARHDRSZ;
	row->generation = DatumGetInt64(slot->tts_values[3]);
	row->fitness_null = slot->tts_isnull[4];
	row->fitness = row->fitness_null ? 0 : DatumGetFloat8(slot->tts_values[4]);
	row->version = DatumGetInt64(slot->tts_values[5]);
	row->ordinal = DatumGetInt64(slot->tts_values[6]);
	row->state_null = slot->tts_isnull[1];
	row->memory_null = slot->tts_isnull[2];
	add_value(population, &population->state, slot->tts_values[1], row->state_null, row);
	add_value(population, &population->memory, slot->tts_values[2], row->memory_null, row);
	MemoryContextSwitchTo(old);
	return true;
}

static void
startup_receiver(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	Assert(typeinfo->natts == 7);
}

static void
shutdown_receiver(DestReceiver *self)
{
}

GaPopulation *
ga_population_begin(GaPopulationOrder order)
{
	GaPopulation *population = palloc0(sizeof(GaPopulation));

	population->pub.receiveSlot = receive_row;
	population->pub.rStartup = startup_receiver;
	population->pub.rShutdown = shutdown_receiver;
	population->pub.rDestroy = shutdown_receiver;
	population->pub.mydest = DestNone;
	population->context = CurrentMemoryContext;
	population->order = order;
	population->capacity = 256;
	population->rows = palloc(sizeof(Row) * population->capacity);
	population->state.name = "state";
	population->memory.name = "memory";
	return population;
}

DestReceiver *
ga_population_receiver(GaPopulation *population)
{
	return &population->pub;
}

/* Names the first agent in the order of the result whose value is missing. */
static void
report_null(const GaPopulation *population, const Matrix *matrix)
{
	const Row  *row = population->rows;

	while (matrix == &population->state ? !row->state_null : !row->memory_null)
		row++;
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("the %s of agent \"%s\" is NULL, that of others is not", matrix->name, ga_id_text(&row->id)),
			 errhint("Retrieve them apart, or as rows with gpuagent.retrieve_agents().")));
}

/* The column in the order of the rows; false when every value is NULL. */
static bool
finish_matrix(GaPopulation *population, Matrix *matrix, Datum *result)
{
	uint64		row_bytes = matrix->row.nbytes;
	char	   *from = matrix->data;
	bool		in_place = true;

	if (matrix->tensor == NULL)
		return false;
	if (matrix->nulls > 0)
		report_null(population, matrix);
	for (int i = 0; i < population->count && in_place; i++)
		in_place = population->rows[i].id.row == i;
	if (in_place)
		matrix->tensor = ga_tensor_set_rows(&ga_kind_swarm_tensor, matrix->tensor, population->count, &matrix->data);
	else
	{
		GaTensor   *as_read = matrix->tensor;

		begin_matrix(matrix, &matrix->row, population->count);
		for (int i = 0; i < population->count && row_bytes > 0; i++)
			memcpy(matrix->data + row_bytes * i, from + row_bytes * population->rows[i].id.row, row_bytes);
		pfree(as_read);
	}
	*result = PointerGetDatum(ga_tensor_seal(&ga_kind_swarm_tensor, matrix->tensor, NULL));
	return true;
}

static Datum
bigint_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* A row that refers to its values: a tuple would hold a copy of the matrices. */
static Datum
make_row(TupleDesc tupdesc, const Datum *values, const bool *nulls)
{
	ExpandedRecordHeader *row = make_expanded_record_from_tupdesc(tupdesc, CurrentMemoryContext);

	deconstruct_expanded_record(row);
	memcpy(row->dvalues, values, sizeof(Datum) * tupdesc->natts);
	memcpy(row->dnulls, nulls, sizeof(bool) * tupdesc->natts);
	return ExpandedRecordGetRODatum(row);
}

Datum
ga_population_finish(GaPopulation *population, TupleDesc tupdesc)
{
	int			n = population->count;
	Row		   *rows = population->rows;
	Datum		values[6] = {0};
	bool		nulls[6] = {false};
	Datum	   *elems = palloc(sizeof(Datum) * Max(n, 1));
	bool	   *elem_nulls = palloc(sizeof(bool) * Max(n, 1));
	int			dims[1] = {n};
	int			lower[1] = {1};

	if (population->order != GA_POPULATION_AS_READ)
		qsort(rows, n, sizeof(Row),
			  population->order == GA_POPULATION_BY_ID ? compare_rows_by_id : compare_rows_by_ordinal);

	for (int i = 0; i < n; i++)
		elems[i] = rows[i].id.datum;
	values[0] = PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT));
	nulls[1] = !finish_matrix(population, &population->state, &values[1]);
	nulls[2] = !finish_matrix(population, &population->memory, &values[2]);
	for (int i = 0; i < n; i++)
		elems[i] = Int64GetDatum(rows[i].generation);
	values[3] = bigint_array(elems, n);
	for (int i = 0; i < n; i++)
	{
		elems[i] = Float8GetDatum(rows[i].fitness);
		elem_nulls[i] = rows[i].fitness_null;
	}
	values[4] = PointerGetDatum(n == 0 ? construct_empty_array(FLOAT8OID) :
								construct_md_array(elems, elem_nulls, 1, dims, lower, FLOAT8OID,
												   sizeof(double), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	for (int i = 0; i < n; i++)
		elems[i] = Int64GetDatum(rows[i].version);
	values[5] = bigint_array(elems, n);
	return make_row(tupdesc, values, nulls);
}
