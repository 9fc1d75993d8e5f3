/*
 * map_query.c
 *		map_query() and map_agents(): the vectors of a query as one matrix in mapped
 *		memory.
 *
 * How many rows there are is known when the query has ended, so that their bytes
 * are collected in pieces first, which never move, and the region is made in the
 * size they have. The query runs once: a second pass might see something else.
 *
 * map_agents() of states on a GPU uses the device tier of the agent cache: the
 * query tells of each row which version it sees, and versions that the tier has
 * are copied there instead of being read and sent. Where that turns out to be
 * impossible afterwards the query runs again, under the same snapshot.
 */
#include "base/compat.h"

#include <sys/statvfs.h>

#include "base/guc.h"
#include "base/names.h"
#include "base/shared.h"
#include "catalog/pg_type.h"
#include "device/mapping.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "cache/cache_device.h"
#include "live/map.h"
#include "store/plan.h"
#include "tensor/tensor.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"

#define PIECE ((uint64) 16 * 1024 * 1024)

/* Rows in between that are on the device already are sent along rather than divide a transfer. */
#define SMALL_GAP ((uint64) 1024 * 1024)

typedef struct AgentsQuery AgentsQuery;

typedef struct Collector
{
	DestReceiver pub;
	const GaMapPlace *place;
	bool		agents;			/* rows are (id, exists, value) */
	const char *what;			/* of the values, for messages */
	MemoryContext context;
	MemoryContext row_context;
	int			column;			/* 1-based, of the values */
	bool		any;			/* dtype and shape are known */
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];	/* of a value */
	int64		rows;
	uint64		nbytes;
	int			npieces;
	char	  **pieces;

	/* map_agents with the device tier of the cache: what it found, with room for it in the pieces, and what it may take */
	const AgentsQuery *again;	/* the query; NULL: no tier */
	GaDeviceRow file;			/* what all names of rows have in common */
	uint64		nhits;
	uint64		maxhits;
	GaDeviceHit *hits;
	uint32		nnames;
	uint32		maxnames;
	GaDeviceRow *names;
} Collector;

/* ---- rows ---- */

static bool
is_vector_type(Oid type)
{
	type = getBaseType(type);
	return type == ga_type_oid("embedding") || type == ga_type_oid("agent_state") || type == ga_type_oid("swarm_tensor");
}

/* The shape that a result without rows has, as far as the column's type says. */
static void
shape_of_type(Collector *collector, Form_pg_attribute attr)
{
	bool		embedding = getBaseType(attr->atttypid) == ga_type_oid("embedding");
	int32		typmod = attr->atttypmod;

	collector->dtype = typmod > 0 ? ga_typmod_dtype(typmod) : 0;
	if (collector->dtype == 0)
		collector->dtype = GA_F32;
	if (embedding && typmod > 0 && GA_TYPMOD_DIM(typmod) > 0)
	{
		collector->ndim = 1;
		collector->dims[0] = GA_TYPMOD_DIM(typmod);
	}
}

static void
startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	Collector  *collector = (Collector *) self;
	Form_pg_attribute attr;

	if (typeinfo->natts == 0 || !is_vector_type(TupleDescAttr(typeinfo, typeinfo->natts - 1)->atttypid))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the last column of the query must be an embedding, agent_state or swarm_tensor"),
				 typeinfo->natts == 0 ? 0 :
				 errdetail("It is of type %s.", format_type_be(TupleDescAttr(typeinfo, typeinfo->natts - 1)->atttypid))));
	collector->column = typeinfo->natts;
	attr = TupleDescAttr(typeinfo, typeinfo->natts - 1);
	shape_of_type(collector, attr);
}

static void
report_missing(const Collector *collector, TupleTableSlot *slot)
{
	bool		isnull;
	char	   *id;

	if (!collector->agents)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the vector of row " INT64_FORMAT " is NULL", collector->rows + 1),
				 errhint("Leave such rows out with a WHERE.")));
	(void) slot_getattr(slot, 1, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("agent id must not be NULL")));
	id = TextDatumGetCString(slot_getattr(slot, 1, &isnull));
	if (!DatumGetBool(slot_getattr(slot, 2, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("agent \"%s\" does not exist", id)));
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("the %s of agent \"%s\" is NULL", collector->what, id)));
}

static void
check_shape(Collector *collector, const GaView *view)
{
	if (!collector->any)
	{
		if (view->ndim == GA_MAX_RANK)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("cannot stack tensors of %d dimensions", GA_MAX_RANK)));
		collector->any = true;
		collector->dtype = view->dtype;
		collector->ndim = view->ndim;
		memcpy(collector->dims, view->dims, sizeof(int64) * view->ndim);
		if (view->nelem > 0 && view->nbytes * 8 != view->nelem * ga_dtype_info(view->dtype)->bits)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("rows of dtype %s that do not fill whole bytes cannot be stacked", ga_dtype_name(view->dtype))));
	}
	else if (view->dtype != collector->dtype || view->ndim != collector->ndim ||
			 memcmp(view->dims, collector->dims, sizeof(int64) * view->ndim) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the %s of row " INT64_FORMAT " is %s%s, that of others is %s%s", collector->what,
						collector->rows + 1, ga_dtype_name(view->dtype), ga_shape_text(view->ndim, view->dims),
						ga_dtype_name(collector->dtype), ga_shape_text(collector->ndim, collector->dims))));
}

/* Before the server's memory is filled with what no device will take. */
static void
check_room(const Collector *collector)
{
	uint64		wanted = (uint64) (collector->npieces + 1) * PIECE;
	struct statvfs fs;

	if (collector->place->device != GA_DEVICE_HOST && wanted > ga_device_budget() + PIECE)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("the query's vectors exceed the " UINT64_FORMAT " bytes of a device", ga_device_budget()),
				 errhint("Increase gpuagent.cache_size, or map them with device => 'host'.")));
	if (collector->place->device == GA_DEVICE_HOST && statvfs(ga_run_directory(), &fs) == 0 && fs.f_blocks > 0 &&
		wanted > (uint64) fs.f_bavail * fs.f_frsize + PIECE)
		ereport(ERROR,
				(errcode(ERRCODE_DISK_FULL),
				 errmsg("the query's vectors exceed the free space of \"%s\"", ga_run_directory()),
				 errhint("Unmap what is not needed any more, or make the file system of gpuagent.shared_memory_dir larger.")));
}

/* Without data: only their room. */
static void
append(Collector *collector, const char *data, uint64 nbytes)
{
	while (nbytes > 0)
	{
		uint64		used = collector->nbytes % PIECE;
		uint64		take = Min(nbytes, PIECE - used);

		if (used == 0)
		{
			MemoryContext old = MemoryContextSwitchTo(collector->context);

			check_room(collector);
			if (collector->npieces % 64 == 0)
				collector->pieces = collector->npieces == 0 ? palloc(sizeof(char *) * 64) :
					repalloc_huge(collector->pieces, sizeof(char *) * (collector->npieces + 64));
			collector->pieces[collector->npieces++] = palloc(PIECE);
			MemoryContextSwitchTo(old);
		}
		if (data != NULL)
		{
			memcpy(collector->pieces[collector->npieces - 1] + used, data, take);
			data += take;
		}
		collector->nbytes += take;
		nbytes -= take;
	}
}

/* ---- the device tier ---- */

static void *
enlarged(Collector *collector, void *array, uint64 *max, size_t width)
{
	*max = Max(2 * *max, 1024);
	return array == NULL ? MemoryContextAllocHuge(collector->context, *max * width) : repalloc_huge(array, *max * width);
}

/* The version that a row (id, exists, ctid, xmin, value) is. */
static void
name_row(const Collector *collector, TupleTableSlot *slot, GaDeviceRow *row)
{
	bool		isnull;
	text	   *id = DatumGetTextPP(slot_getattr(slot, 1, &isnull));

	*row = collector->file;
	row->hash = ga_cache_hash(MyDatabaseId, row->incarnation, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	row->tid = *(ItemPointer) DatumGetPointer(slot_getattr(slot, 3, &isnull));
	row->xmin = DatumGetTransactionId(slot_getattr(slot, 4, &isnull));
	row->at = collector->nbytes;
}

/* True when the device has the row, which then is as good as collected. Else remembers it, to be cached. */
static bool
take_from_tier(Collector *collector, TupleTableSlot *slot)
{
	GaDeviceRow row;
	GaView		view;

	name_row(collector, slot, &row);
	if (!ga_cache_device_may(row.xmin))
		return false;
	if (collector->nhits == collector->maxhits)
		collector->hits = enlarged(collector, collector->hits, &collector->maxhits, sizeof(GaDeviceHit));
	if (ga_cache_device_find(collector->place->device, &row, ga_cache_now(), &collector->hits[collector->nhits], &view))
	{
		check_shape(collector, &view);
		collector->hits[collector->nhits++].at = collector->nbytes;
		append(collector, NULL, view.nbytes);
		return true;
	}
	if (collector->nnames == GA_DEVICE_CACHE_SLOTS)
		return false;
	if (collector->nnames == collector->maxnames)
	{
		uint64		max = collector->maxnames;

		collector->names = enlarged(collector, collector->names, &max, sizeof(GaDeviceRow));
		collector->maxnames = (uint32) max;
	}
	collector->names[collector->nnames++] = row;
	return false;
}

static bool
receive(TupleTableSlot *slot, DestReceiver *self)
{
	Collector  *collector = (Collector *) self;
	MemoryContext old;
	GaView		view;
	bool		isnull;
	Datum		value = slot_getattr(slot, collector->column, &isnull);

	CHECK_FOR_INTERRUPTS();
	if (isnull)
		report_missing(collector, slot);
	old = MemoryContextSwitchTo(collector->row_context);
	if (collector->again == NULL || !take_from_tier(collector, slot))
	{
		ga_view(value, &view);
		check_shape(collector, &view);
		append(collector, view.data, view.nbytes);
	}
	collector->rows++;
	MemoryContextSwitchTo(old);
	MemoryContextReset(collector->row_context);
	return true;
}

static void
nothing(DestReceiver *self)
{
}

static Collector *
begin_collector(const GaMapPlace *place, bool agents, const char *what)
{
	Collector  *collector = palloc0(sizeof(Collector));

	collector->pub.receiveSlot = receive;
	collector->pub.rStartup = startup;
	collector->pub.rShutdown = nothing;
	collector->pub.rDestroy = nothing;
	collector->pub.mydest = DestNone;
	collector->place = place;
	collector->agents = agents;
	collector->what = what;
	collector->context = AllocSetContextCreate(CurrentMemoryContext, "gpuagent mapped rows", ALLOCSET_DEFAULT_SIZES);
	collector->row_context = AllocSetContextCreate(collector->context, "gpuagent mapped row", ALLOCSET_DEFAULT_SIZES);
	return collector;
}

/* ---- the region ---- */

static void run_agents(const AgentsQuery *query, Collector *collector);

static void
upload_range(const GaRegion *region, const Collector *collector, uint64 begin, uint64 end)
{
	while (begin < end)
	{
		uint64		n = Min(end - begin, PIECE - begin % PIECE);

		ga_region_upload(region->id, region->device, begin, collector->pieces[begin / PIECE] + begin % PIECE, n);
		begin += n;
	}
}

/* What the tier does not have; hits are in the order of their rows. */
static void
upload_misses(const GaRegion *region, const Collector *collector, uint64 row_bytes)
{
	uint64		begin = 0;
	uint64		end = 0;
	uint64		at = 0;

	for (uint64 i = 0; i <= collector->nhits; i++)
	{
		uint64		next = i < collector->nhits ? collector->hits[i].at : collector->nbytes;

		if (next > at)
		{
			if (end > begin && at - end > SMALL_GAP)
			{
				upload_range(region, collector, begin, end);
				begin = at;
			}
			else if (end == begin)
				begin = at;
			end = next;
		}
		at = next + row_bytes;
	}
	upload_range(region, collector, begin, end);
}

/* Runs the query again, without the tier. */
static void
collect_again(Collector *collector)
{
	const AgentsQuery *query = collector->again;

	ga_cache_device_release();
	collector->again = NULL;
	collector->rows = 0;
	collector->nbytes = 0;
	collector->nhits = collector->nnames = 0;
	collector->any = false;
	for (int i = 0; i < collector->npieces; i++)
		pfree(collector->pieces[i]);
	collector->npieces = 0;
	collector->pieces = NULL;
	run_agents(query, collector);
}

static void
fill_from_tier(const GaRegion *region, Collector *collector)
{
	uint64		row_bytes = collector->rows > 0 ? collector->nbytes / collector->rows : 0;
	GaDeviceFill fill = {
		.device = region->device,
		.dtype = collector->dtype,
		.ndim = collector->ndim,
		.dims = collector->dims,
		.row_bytes = row_bytes,
		.source = region->id,
		.rows = collector->names,
		.n = collector->nnames,
		.now = ga_cache_now(),
	};

	upload_misses(region, collector, row_bytes);
	ga_cache_device_gather(region->device, collector->hits, collector->nhits, region->id, (uint32) row_bytes);
	ga_cache_device_release();
	ga_cache_device_fill(&fill);
	ga_cache_device_count(collector->nhits, collector->rows - collector->nhits);
}

static void
fill_from_pieces(const GaRegion *region, void *arg)
{
	Collector  *collector = arg;

	/* Where the GPU did not take it the host does. */
	if (collector->again != NULL && region->device != collector->place->device)
		collect_again(collector);
	if (collector->again != NULL)
		fill_from_tier(region, collector);
	else
		upload_range(region, collector, 0, collector->nbytes);
}

static Datum
finish(FunctionCallInfo fcinfo, Collector *collector, const char *object)
{
	GaRegion	wanted = {
		.dtype = collector->dtype,
		.ndim = collector->ndim + 1,
		.nbytes = collector->nbytes,
	};
	GaRegion	region;
	Datum		handle;

	/* The cache makes room for what is mapped, but for what it would be copied from. */
	if (collector->nhits > 0 && !ga_cache_device_spares(collector->place->device, collector->nbytes))
	{
		ga_cache_device_count(0, collector->rows);
		collect_again(collector);
	}
	strlcpy(wanted.object, object, sizeof wanted.object);
	wanted.dims[0] = collector->rows;
	memcpy(wanted.dims + 1, collector->dims, sizeof(int64) * collector->ndim);
	ga_map_make(&wanted, collector->place, fill_from_pieces, collector, &region);
	MemoryContextDelete(collector->context);
	if (!ga_map_handle(fcinfo, &region, false, collector->place->lease, &handle))
		ga_map_report_lost();
	return handle;
}

/* ---- map_query ---- */

/* One SELECT that changes and locks nothing by itself. */
static void
check_query(SPIPlanPtr plan)
{
	List	   *sources = plan != NULL ? SPI_plan_get_plan_sources(plan) : NIL;
	CachedPlanSource *source = list_length(sources) == 1 && SPI_is_cursor_plan(plan) ? linitial(sources) : NULL;
	Query	   *query = source != NULL && source->commandTag == CMDTAG_SELECT ? linitial_node(Query, source->query_list) : NULL;

	if (query == NULL || query->hasModifyingCTE || query->rowMarks != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("query must be one SELECT that changes nothing")));
}

/* map_query(query text, device text, lease interval) handle */
PG_FUNCTION_INFO_V1(ga_map_query);
Datum
ga_map_query(PG_FUNCTION_ARGS)
{
	GaMapPlace	place;
	Collector  *collector;
	SPIPlanPtr	plan;
	SPIExecuteOptions options = {.read_only = true};
	int			rc;

	ga_shared_require();
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("query must not be NULL")));
	ga_map_place(fcinfo, 1, 2, &place);
	collector = begin_collector(&place, false, "vector");
	options.dest = &collector->pub;
	SPI_connect();
	plan = SPI_prepare_cursor(text_to_cstring(PG_GETARG_TEXT_PP(0)), 0, NULL, CURSOR_OPT_PARALLEL_OK);
	check_query(plan);
	rc = SPI_execute_plan_extended(plan, &options);
	if (rc < 0)
		elog(ERROR, "could not run the query: %s", SPI_result_code_string(rc));
	SPI_finish();
	return finish(fcinfo, collector, "query");
}

/* ---- map_agents ---- */

enum
{
	BY_IDS,
	BY_GENERATION,
	BY_PREFIX,
	BY_BEST,
	N_CONDITIONS
};

static const Oid condition_types[N_CONDITIONS] = {TEXTARRAYOID, INT8OID, TEXTOID, INT8OID};

/* The statement for the conditions given; ids without agent come as rows, to be reported. */
static char *
agents_statement(const bool *nulls, const char *column, bool versions)
{
	bool		ids = !nulls[BY_IDS];
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s, a.id IS NOT NULL, %sa.%s FROM ", ids ? "u.id" : "a.id",
					 versions ? "a.ctid, a.xmin, " : "", column);
	if (ids)
		appendStringInfo(&sql, "ROWS FROM (pg_catalog.unnest($%d)) WITH ORDINALITY u(id, ordinal) LEFT JOIN"
						 " gpuagent.agent a ON a.id OPERATOR(pg_catalog.=) u.id", BY_IDS + 1);
	else
		appendStringInfoString(&sql, "gpuagent.agent a");
	appendStringInfo(&sql, " WHERE (%s", ids ? "a.id IS NULL OR (true" : "(true");
	if (!nulls[BY_GENERATION])
		appendStringInfo(&sql, " AND a.generation OPERATOR(pg_catalog.=) $%d", BY_GENERATION + 1);
	if (!nulls[BY_PREFIX])
		appendStringInfo(&sql, " AND pg_catalog.starts_with(a.id, $%d)", BY_PREFIX + 1);
	appendStringInfoString(&sql, ")) ORDER BY ");
	if (!nulls[BY_BEST])
		appendStringInfo(&sql, "%sa.fitness DESC NULLS LAST, a.id LIMIT $%d", ids ? "a.id IS NULL DESC, " : "", BY_BEST + 1);
	else
		appendStringInfoString(&sql, ids ? "u.ordinal" : "a.id");
	return sql.data;
}

struct AgentsQuery
{
	const char *column;
	const Datum *values;
	const bool *nulls;
};

static void
run_agents(const AgentsQuery *query, Collector *collector)
{
	GaPlan		plan = {0};

	SPI_connect();
	ga_plan_prepare(&plan, agents_statement(query->nulls, query->column, collector->again != NULL), N_CONDITIONS,
					condition_types, 0);
	ga_plan_run(&plan, (Datum *) query->values, (bool *) query->nulls, true, &collector->pub);
	SPI_freeplan(plan.plan);
	SPI_finish();
}

/* Where the cache may serve the caller, it does; ga_cache_open keeps the table's file as it is. */
static void
use_tier(const AgentsQuery *query, Collector *collector)
{
	Relation	rel;
	GaCacheKey	key;

	if (strcmp(query->column, "state") != 0 || !ga_cache_device_serves(collector->place->device))
		return;
	rel = ga_cache_open();
	if (rel == NULL)
		return;
	ga_cache_key_file(rel, &key);
	collector->file.incarnation = ga_cache_incarnation();
	collector->file.tablespace = key.tablespace;
	collector->file.file = key.file;
	collector->again = query;
	RelationClose(rel);
}

static const char *
column_argument(FunctionCallInfo fcinfo, int arg)
{
	char	   *name = PG_ARGISNULL(arg) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(arg));

	if (strcmp(name, "state") != 0 && strcmp(name, "memory") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown column_name \"%s\"", name),
				 errhint("Use state or memory.")));
	return name;
}

/* map_agents(ids, generation, prefix, best, column_name, device, lease) handle */
PG_FUNCTION_INFO_V1(ga_map_agents);
Datum
ga_map_agents(PG_FUNCTION_ARGS)
{
	GaMapPlace	place;
	AgentsQuery query;
	Datum		values[N_CONDITIONS];
	bool		nulls[N_CONDITIONS];
	const char *column;
	Collector  *collector;

	ga_shared_require();
	ga_setup_check();
	column = column_argument(fcinfo, 4);
	ga_map_place(fcinfo, 5, 6, &place);
	for (int i = 0; i < N_CONDITIONS; i++)
	{
		nulls[i] = PG_ARGISNULL(i);
		values[i] = nulls[i] ? (Datum) 0 : PG_GETARG_DATUM(i);
	}
	if (!nulls[BY_IDS] && ARR_NDIM(DatumGetArrayTypeP(values[BY_IDS])) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("ids must be a one-dimensional array")));
	if (!nulls[BY_BEST] && DatumGetInt64(values[BY_BEST]) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("best must not be negative")));
	collector = begin_collector(&place, true, column);
	query = (AgentsQuery) {.column = column,.values = values,.nulls = nulls};
	use_tier(&query, collector);
	run_agents(&query, collector);
	return finish(fcinfo, collector, "agents");
}
