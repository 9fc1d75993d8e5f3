/*
 * checkpoint.c
 *		What checkpoints need that SQL cannot do: several statements on ONE
 *		snapshot, dirty tracking by transaction ids, digests of rows.
 */
#include "base/compat.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "base/progress.h"
#include "catalog/pg_type.h"
#include "checkpoint/xid.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "port/pg_bswap.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

/*
 * changed_since(xmin xid, horizon xid8): see ga_xid_changed_since. The next transaction id is read once per query:
 * every row that a query sees was written by a transaction that had its id before the query took its snapshot, or by
 * the query's own transaction, which had it as well.
 */
PG_FUNCTION_INFO_V1(ga_changed_since);
Datum
ga_changed_since(PG_FUNCTION_ARGS)
{
	uint64	   *next = (uint64 *) fcinfo->flinfo->fn_extra;

	if (next == NULL)
	{
		next = (uint64 *) MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(uint64));
		*next = U64FromFullTransactionId(ReadNextFullTransactionId());
		fcinfo->flinfo->fn_extra = next;
	}
	PG_RETURN_BOOL(ga_xid_changed_since(PG_GETARG_TRANSACTIONID(0), *next,
										U64FromFullTransactionId(PG_GETARG_FULLTRANSACTIONID(1))));
}

/* xid_source(): "system identifier/database oid", the place whose transaction ids a horizon compares with. */
PG_FUNCTION_INFO_V1(ga_xid_source);
Datum
ga_xid_source(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), MyDatabaseId)));
}

/* What digest() knows of an argument, looked up once per query. */
typedef struct DigestColumn
{
	Oid			type;
	FmgrInfo	send;			/* not used for text and jsonb */
} DigestColumn;

static DigestColumn *
digest_columns(FunctionCallInfo fcinfo)
{
	DigestColumn *columns = (DigestColumn *) fcinfo->flinfo->fn_extra;

	if (columns == NULL)
	{
		columns = (DigestColumn *) MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(DigestColumn) * PG_NARGS());
		for (int i = 0; i < PG_NARGS(); i++)
		{
			Oid			send;
			bool		varlena;

			columns[i].type = get_fn_expr_argtype(fcinfo->flinfo, i);
			if (!OidIsValid(columns[i].type))
				elog(ERROR, "could not determine the type of argument %d", i + 1);
			getTypeBinaryOutputInfo(columns[i].type, &send, &varlena);
			fmgr_info_cxt(send, &columns[i].send, fcinfo->flinfo->fn_mcxt);
		}
		fcinfo->flinfo->fn_extra = columns;
	}
	return columns;
}

/* Adds one value to a digest: its length as int64 in network order (-1 for NULL), then its bytes. */
static void
digest_bytes(pg_cryptohash_ctx *hash, const char *data, int64 nbytes)
{
	uint64		length = pg_hton64((uint64) nbytes);

	if (pg_cryptohash_update(hash, (uint8 *) &length, sizeof(length)) < 0 ||
		(nbytes > 0 && pg_cryptohash_update(hash, (const uint8 *) data, nbytes) < 0))
		elog(ERROR, "SHA-256 failed: %s", pg_cryptohash_error(hash));
}

/* Adds a value in its wire format; text stays in the server's encoding, whatever the client's is. */
static void
digest_value(pg_cryptohash_ctx *hash, DigestColumn *column, Datum value)
{
	if (column->type == TEXTOID)
	{
		text	   *string = DatumGetTextPP(value);

		digest_bytes(hash, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
		if ((Pointer) string != DatumGetPointer(value))
			pfree(string);
	}
	else if (column->type == JSONBOID)
	{
		Jsonb	   *jsonb = DatumGetJsonbP(value);
		StringInfoData wire;

		initStringInfo(&wire);
		appendStringInfoChar(&wire, 1);	/* version of the format, as jsonb_send has it */
		(void) JsonbToCString(&wire, &jsonb->root, VARSIZE(jsonb));
		digest_bytes(hash, wire.data, wire.len);
		pfree(wire.data);
	}
	else
	{
		bytea	   *wire = SendFunctionCall(&column->send, value);

		digest_bytes(hash, VARDATA(wire), VARSIZE(wire) - VARHDRSZ);
		pfree(wire);
	}
}

/* digest(VARIADIC "any"): SHA-256 over the wire format of each argument; the same in every database of an encoding. */
PG_FUNCTION_INFO_V1(ga_digest);
Datum
ga_digest(PG_FUNCTION_ARGS)
{
	DigestColumn *columns;
	pg_cryptohash_ctx *hash;
	bytea	   *result = (bytea *) palloc(VARHDRSZ + PG_SHA256_DIGEST_LENGTH);

	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("digest() does not take its arguments as an array")));
	columns = digest_columns(fcinfo);
	hash = pg_cryptohash_create(PG_SHA256);	/* freed with the resource owner when a send function throws */
	if (hash == NULL || pg_cryptohash_init(hash) < 0)
		elog(ERROR, "could not start SHA-256");
	for (int i = 0; i < PG_NARGS(); i++)
	{
		if (PG_ARGISNULL(i))
			digest_bytes(hash, NULL, -1);
		else
			digest_value(hash, &columns[i], PG_GETARG_DATUM(i));
	}
	if (pg_cryptohash_final(hash, (uint8 *) VARDATA(result), PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "SHA-256 failed: %s", pg_cryptohash_error(hash));
	pg_cryptohash_free(hash);
	SET_VARSIZE(result, VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	PG_RETURN_BYTEA_P(result);
}

/*
 * Plans of steps, kept for the session: a checkpoint of little costs less than planning it would. Entries are found
 * by their text and parameter types; a text is a constant of an installed function, so there are few.
 */
typedef struct StepPlan
{
	struct StepPlan *next;
	SPIPlanPtr	plan;
	int			nargs;
	Oid			argtypes[FUNC_MAX_ARGS + 2];
	char		text[FLEXIBLE_ARRAY_MEMBER];
} StepPlan;

#define STEP_PLANS_MAX 256

static StepPlan *step_plans = NULL;
static int	step_plan_count = 0;

/* The plan of a step; generic, because parameters decide no join order. Caller is connected to SPI. */
static SPIPlanPtr
step_plan(const char *text, int nargs, Oid *argtypes)
{
	StepPlan   *entry;
	SPIPlanPtr	plan;

	for (entry = step_plans; entry != NULL; entry = entry->next)
		if (entry->nargs == nargs && memcmp(entry->argtypes, argtypes, sizeof(Oid) * nargs) == 0 &&
			strcmp(entry->text, text) == 0)
			return entry->plan;

	plan = SPI_prepare_cursor(text, nargs, argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare a step: %s", SPI_result_code_string(SPI_result));
	if (step_plan_count < STEP_PLANS_MAX)
	{
		entry = (StepPlan *) MemoryContextAllocZero(TopMemoryContext, offsetof(StepPlan, text) + strlen(text) + 1);
		SPI_keepplan(plan);
		entry->plan = plan;
		entry->nargs = nargs;
		memcpy(entry->argtypes, argtypes, sizeof(Oid) * nargs);
		strcpy(entry->text, text);
		entry->next = step_plans;
		step_plans = entry;
		step_plan_count++;
	}
	return plan;
}

/* A number that a step returned in its only row, 1-based; `missing` when absent or NULL. Of an array, its elements. */
static int64
step_number(int column, int64 missing)
{
	bool		isnull;
	Datum		value;

	if (SPI_processed != 1 || SPI_tuptable->tupdesc->natts < column)
		return missing;
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &isnull);
	if (isnull)
		return missing;
	switch (SPI_gettypeid(SPI_tuptable->tupdesc, column))
	{
		case INT8OID:
			return DatumGetInt64(value);
		case TIDARRAYOID:
			return ArrayGetNItems(ARR_NDIM(DatumGetArrayTypeP(value)), ARR_DIMS(DatumGetArrayTypeP(value)));
	}
	elog(ERROR, "a step must return columns of type bigint or tid[]");
	return 0;
}

/* The state that steps hand on: parameters, the last two of which are kept here. */
typedef struct StepRun
{
	int			nargs;			/* of the caller; two more follow */
	Oid			argtypes[FUNC_MAX_ARGS + 2];
	Datum		values[FUNC_MAX_ARGS + 2];
	char		nulls[FUNC_MAX_ARGS + 2];
	int64	   *numbers;		/* two a step */
	int			first;			/* index of the group's first number */
	int64		expected;		/* rows that its table had before; -1 when that is not known */
	MemoryContext context;		/* outlives SPI */
} StepRun;

/*
 * What the text of a step may begin with. Steps of candidates and of what is gone look up rows one by one, by tid or
 * key; steps of items join small tables that may have become large.
 */
#define STEP_OF_CANDIDATES "/* candidates */"
#define STEP_OF_GONE "/* gone */"
#define STEP_OF_ITEMS "/* items */"

static bool
step_has_mark(const char *text, const char *mark)
{
	return strncmp(text, mark, strlen(mark)) == 0;
}

/* Turns a setting of the planner off until the GUC nest level ends. */
static void
planner_without(const char *setting)
{
	(void) set_config_option(setting, "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Steers the planner for a step. Plans are kept, and tables that were small or empty when a step was planned grow, even
 * during the step: a sequential scan for each candidate, or a nested loop over items, would be quadratic then. JIT
 * compilation is off because the price that the planner puts on what is disabled would call for it.
 */
static void
step_steer_planner(const char *text)
{
	planner_without("jit");
	if (step_has_mark(text, STEP_OF_CANDIDATES) || step_has_mark(text, STEP_OF_GONE))
		planner_without("enable_seqscan");
	else if (step_has_mark(text, STEP_OF_ITEMS))
		planner_without("enable_nestloop");
}

/* True when what the group did so far leaves nothing for this step to find. */
static bool
step_is_idle(const StepRun *run, int i, const char *text)
{
	const int64 *group = run->numbers + run->first;

	if (step_has_mark(text, STEP_OF_CANDIDATES))
		return run->nulls[run->nargs + 1] == 'n';
	if (step_has_mark(text, STEP_OF_GONE) && 2 * i >= run->first + 6)
		return run->expected >= 0 && group[0] == run->expected - group[2] + group[4];
	return false;
}

/* Sets the parameters that follow the caller's: the group's numbers, and the tids of a step that begins one. */
static void
step_hand_on(StepRun *run, int count, bool begins)
{
	Datum	   *numbers = (Datum *) palloc(sizeof(Datum) * (count - run->first));
	MemoryContext caller = MemoryContextSwitchTo(run->context);

	for (int i = run->first; i < count; i++)
		numbers[i - run->first] = Int64GetDatum(run->numbers[i]);
	run->values[run->nargs] = PointerGetDatum(construct_array(numbers, count - run->first, INT8OID, sizeof(int64),
															  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	run->nulls[run->nargs] = ' ';
	if (begins)
	{
		bool		isnull;
		Datum		tids = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);

		if (run->nulls[run->nargs + 1] == ' ')
			pfree(DatumGetPointer(run->values[run->nargs + 1]));
		run->values[run->nargs + 1] = isnull ? (Datum) 0 : PointerGetDatum(DatumGetArrayTypePCopy(tids));
		run->nulls[run->nargs + 1] = isnull ? 'n' : ' ';
	}
	MemoryContextSwitchTo(caller);
}

/* Executes step number i on the snapshot, unless it is idle. */
static void
step_execute(StepRun *run, int i, const char *text, Snapshot snapshot)
{
	int			rc;
	int			nestlevel;
	bool		begins;

	run->numbers[2 * i] = run->numbers[2 * i + 1] = 0;
	if (step_is_idle(run, i, text))
		return;
	nestlevel = NewGUCNestLevel();
	step_steer_planner(text);
	rc = SPI_execute_snapshot(step_plan(text, run->nargs + 2, run->argtypes), run->values, run->nulls, snapshot,
							  InvalidSnapshot, false, true, 0);
	AtEOXact_GUC(true, nestlevel);
	if (rc < 0)
		elog(ERROR, "a step failed: %s", SPI_result_code_string(rc));
	begins = rc == SPI_OK_SELECT && SPI_processed == 1 && SPI_tuptable->tupdesc->natts == 3 &&
		SPI_gettypeid(SPI_tuptable->tupdesc, 2) == TIDARRAYOID;
	if (begins)
	{
		run->first = 2 * i;
		run->expected = step_number(3, -1);
	}
	run->numbers[2 * i] = rc == SPI_OK_SELECT ? step_number(1, 0) : (int64) SPI_processed;
	run->numbers[2 * i + 1] = rc == SPI_OK_SELECT ? step_number(2, 0) : 0;
	step_hand_on(run, 2 * (i + 1), begins);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * run_on_snapshot(steps text[], VARIADIC "any"): executes the statements in order, each with the remaining arguments
 * as $1, $2, ..., with the caller's rights. All of them read one snapshot, taken here, plus what earlier steps wrote.
 * Each gives two numbers: the first two columns (bigint) of the row that a SELECT returned, or rows processed and 0.
 *
 * A step that returns (bigint, tid[], bigint) begins a group: rows of a table, candidates among them, rows expected.
 * Later steps get the numbers of the group so far and the candidates as two more parameters. One whose text begins
 * with STEP_OF_CANDIDATES is left out when there are none, and its numbers are 0. So is one that begins with
 * STEP_OF_GONE when, of the expected rows, the second step of the group took away and the third added so many that
 * the table's rows are all there. STEP_OF_ITEMS only steers the planner. Returns all numbers.
 */
PG_FUNCTION_INFO_V1(ga_run_on_snapshot);
Datum
ga_run_on_snapshot(PG_FUNCTION_ARGS)
{
	StepRun		run = {.nargs = PG_NARGS() - 1,.context = CurrentMemoryContext};
	Datum	   *steps;
	bool	   *missing;
	int			nsteps;
	Snapshot	snapshot;

	if (PG_ARGISNULL(0) || get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("run_on_snapshot() needs steps, and parameters as separate arguments")));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &steps, &missing, &nsteps);
	for (int i = 0; i < run.nargs; i++)
	{
		run.argtypes[i] = get_fn_expr_argtype(fcinfo->flinfo, i + 1);
		run.nulls[i] = PG_ARGISNULL(i + 1) ? 'n' : ' ';
		run.values[i] = PG_ARGISNULL(i + 1) ? (Datum) 0 : PG_GETARG_DATUM(i + 1);
	}
	run.argtypes[run.nargs] = INT8ARRAYOID;
	run.argtypes[run.nargs + 1] = TIDARRAYOID;
	run.nulls[run.nargs] = run.nulls[run.nargs + 1] = 'n';
	run.numbers = (int64 *) palloc0(sizeof(int64) * (2 * nsteps + 1));

	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	ga_progress_phase("capturing", nsteps, 0);
	for (int i = 0; i < nsteps; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (missing[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("a step must not be NULL")));
		step_execute(&run, i, TextDatumGetCString(steps[i]), snapshot);
		ga_progress_add(1, 0);
	}
	SPI_finish();
	UnregisterSnapshot(snapshot);
	run.first = 0;
	step_hand_on(&run, 2 * nsteps, false);
	PG_RETURN_DATUM(run.values[run.nargs]);
}
