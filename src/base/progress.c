/*
 * progress.c
 *		Records of what processes are doing (progress.h), and the functions behind
 *		stat_progress.
 */
#include "base/compat.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "base/names.h"
#include "base/progress.h"
#include "base/shared.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Commands within each other; deeper ones are not counted, so that their ends are not seen either. */
#define MAX_DEPTH 16

typedef struct Shown
{
	int			pid;			/* 0: nothing to show */
	Oid			database;
	int64		job;			/* 0: none */
	char		command[NAMEDATALEN];
	char		object[GA_NAME_MAX + 33];
	char		phase[NAMEDATALEN];
	TimestampTz started_at;
	TimestampTz phase_at;
	uint64		items_total;
	uint64		bytes_total;
} Shown;

typedef struct Record
{
	slock_t		lock;			/* of what follows; written by its process only */
	Shown		shown;
	pg_atomic_uint64 items_done;
	pg_atomic_uint64 bytes_done;
} Record;

static Record *records = NULL;
static int	depth = 0;			/* commands begun in this transaction */
static int	levels[MAX_DEPTH];	/* nest level of the subtransaction in which each began */
static bool of_job = false;		/* the record is a job's */
static bool installed = false;	/* this process's callbacks */

static Size
records_size(void)
{
	return mul_size(ga_process_slots(), sizeof(Record));
}

static void
init_records(void *area)
{
	Record	   *all = area;

	for (int i = 0; i < ga_process_slots(); i++)
	{
		SpinLockInit(&all[i].lock);
		pg_atomic_init_u64(&all[i].items_done, 0);
		pg_atomic_init_u64(&all[i].bytes_done, 0);
	}
}

void
ga_progress_register(void)
{
	static const GaSharedArea area = {"gpuagent progress", records_size, NULL, init_records, (void **) &records, NULL};

	ga_shared_register(&area);
}

static Record *
mine(void)
{
	return &records[ga_process_number()];
}

/* Where this process counts. */
static Record *
counted(void)
{
	if (IsParallelWorker() && MyProc->lockGroupLeader != NULL)
		return &records[ga_number_of(MyProc->lockGroupLeader)];
	return mine();
}

static void
copy_name(char *target, Size size, const char *name)
{
	int			len = name ? pg_mbcliplen(name, strlen(name), size - 1) : 0;

	memcpy(target, name ? name : "", len);
	target[len] = '\0';
}

static void
clear(void)
{
	Record	   *record = mine();

	SpinLockAcquire(&record->lock);
	record->shown.pid = 0;
	SpinLockRelease(&record->lock);
}

static void
clear_at_exit(int code, Datum arg)
{
	if (MyProc != NULL && (depth > 0 || of_job))
		clear();
	depth = 0;
	of_job = false;
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (depth == 0 || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	depth = 0;
	if (!of_job)
		clear();
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine_id, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (depth == 0)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = 0; i < depth; i++)
			levels[i] = Min(levels[i], level - 1);
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (depth > 0 && levels[depth - 1] >= level)
			depth--;
		if (depth == 0 && !of_job)
			clear();
	}
}

static void
show(int64 job, const char *command, const char *object)
{
	Shown		shown = {.pid = MyProcPid, .database = MyDatabaseId, .job = job, .started_at = GetCurrentTimestamp()};
	Record	   *record = mine();

	if (!installed)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		RegisterSubXactCallback(at_subtransaction_end, NULL);
		before_shmem_exit(clear_at_exit, (Datum) 0);
		installed = true;
	}
	shown.phase_at = shown.started_at;
	copy_name(shown.command, sizeof(shown.command), command);
	copy_name(shown.object, sizeof(shown.object), object);
	pg_atomic_write_u64(&record->items_done, 0);
	pg_atomic_write_u64(&record->bytes_done, 0);
	SpinLockAcquire(&record->lock);
	record->shown = shown;
	SpinLockRelease(&record->lock);
}

void
ga_progress_begin(const char *command, const char *object)
{
	if (records == NULL || IsParallelWorker())
		return;
	if (depth == 0 && !of_job)
		show(0, command, object);
	if (depth < MAX_DEPTH)
		levels[depth++] = GetCurrentTransactionNestLevel();
}

void
ga_progress_end(void)
{
	if (depth == 0)
		return;
	if (--depth == 0 && !of_job)
		clear();
}

void
ga_progress_begin_job(int64 job, const char *kind, const char *object)
{
	if (records == NULL)
		return;
	of_job = true;
	show(job, kind, object);
}

void
ga_progress_end_job(void)
{
	if (!of_job)
		return;
	of_job = false;
	clear();
}

/* Totals and phase of this process's record; the counters are set unless they go on. */
static void
set_phase(const char *phase, uint64 items_total, uint64 bytes_total)
{
	Record	   *record = mine();
	char		name[NAMEDATALEN];
	TimestampTz now = GetCurrentTimestamp();

	copy_name(name, sizeof(name), phase);
	pg_atomic_write_u64(&record->items_done, 0);
	pg_atomic_write_u64(&record->bytes_done, 0);
	SpinLockAcquire(&record->lock);
	memcpy(record->shown.phase, name, sizeof(name));
	record->shown.phase_at = now;
	record->shown.items_total = items_total;
	record->shown.bytes_total = bytes_total;
	SpinLockRelease(&record->lock);
}

static bool
shows(void)
{
	return records != NULL && (depth > 0 || of_job);
}

void
ga_progress_phase(const char *phase, uint64 items_total, uint64 bytes_total)
{
	if (shows())
		set_phase(phase, items_total, bytes_total);
}

void
ga_progress_add(uint64 items, uint64 bytes)
{
	Record	   *record;

	if (records == NULL || !(shows() || IsParallelWorker()))
		return;
	record = counted();
	if (items)
		pg_atomic_fetch_add_u64(&record->items_done, items);
	if (bytes)
		pg_atomic_fetch_add_u64(&record->bytes_done, bytes);
}

/* ---- SQL ---- */

PG_FUNCTION_INFO_V1(ga_progress_begin_sql);
Datum
ga_progress_begin_sql(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0))
		ga_progress_begin(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ga_progress_end_sql);
Datum
ga_progress_end_sql(PG_FUNCTION_ARGS)
{
	ga_progress_end();
	PG_RETURN_VOID();
}

static uint64
number(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? 0 : Max(PG_GETARG_INT64(n), 0);
}

/* progress(phase, items_done, items_total, bytes_done, bytes_total): a phase of another name is a new one. */
PG_FUNCTION_INFO_V1(ga_progress_sql);
Datum
ga_progress_sql(PG_FUNCTION_ARGS)
{
	Record	   *record;
	char	   *phase;

	if (!shows())
		PG_RETURN_VOID();
	record = mine();
	phase = PG_ARGISNULL(0) ? record->shown.phase : text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (strncmp(phase, record->shown.phase, NAMEDATALEN - 1) != 0)
		set_phase(phase, 0, 0);
	SpinLockAcquire(&record->lock);
	record->shown.items_total = number(fcinfo, 2);
	record->shown.bytes_total = number(fcinfo, 4);
	SpinLockRelease(&record->lock);
	pg_atomic_write_u64(&record->items_done, number(fcinfo, 1));
	pg_atomic_write_u64(&record->bytes_done, number(fcinfo, 3));
	PG_RETURN_VOID();
}

/* Of what is done in `elapsed` µs, when will the rest be done? False when that cannot be told. */
static bool
estimate(uint64 done, uint64 total, int64 elapsed, TimestampTz now, TimestampTz *eta)
{
	double		left;

	if (done == 0 || total < done || elapsed <= 0)
		return false;
	left = (double) elapsed * (double) (total - done) / (double) done;
	if (left > 1e15)
		return false;
	*eta = now + (TimestampTz) left;
	return true;
}

#define COLUMNS 12

static void
add_row(ReturnSetInfo *rsinfo, const Shown *shown, uint64 items, uint64 bytes)
{
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS] = {0};
	TimestampTz now = GetCurrentTimestamp();
	int64		elapsed = now - shown->phase_at;
	TimestampTz eta = 0;

	values[0] = Int64GetDatum(shown->pid);
	values[1] = Int64GetDatum(shown->job);
	nulls[1] = shown->job == 0;
	values[2] = CStringGetTextDatum(shown->command);
	values[3] = CStringGetTextDatum(shown->object);
	nulls[3] = shown->object[0] == '\0';
	values[4] = CStringGetTextDatum(shown->phase[0] ? shown->phase : "starting");
	values[5] = Int64GetDatum(items);
	values[6] = Int64GetDatum(shown->items_total);
	nulls[6] = shown->items_total == 0;
	values[7] = Int64GetDatum(bytes);
	values[8] = Int64GetDatum(shown->bytes_total);
	nulls[8] = shown->bytes_total == 0;
	values[9] = Int64GetDatum(elapsed > 0 ? (int64) ((double) bytes * 1e6 / (double) elapsed) : 0);
	nulls[9] = bytes == 0 || elapsed <= 0;
	values[10] = TimestampTzGetDatum(shown->started_at);
	nulls[11] = !estimate(bytes, shown->bytes_total, elapsed, now, &eta) && !estimate(items, shown->items_total, elapsed, now, &eta);
	values[11] = TimestampTzGetDatum(eta);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(ga_progress_records);
Datum
ga_progress_records(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; records != NULL && i < ga_process_slots(); i++)
	{
		Shown		shown;

		if (records[i].shown.pid == 0)
			continue;
		SpinLockAcquire(&records[i].lock);
		shown = records[i].shown;
		SpinLockRelease(&records[i].lock);
		if (shown.pid != 0 && shown.database == MyDatabaseId)
			add_row(rsinfo, &shown, pg_atomic_read_u64(&records[i].items_done), pg_atomic_read_u64(&records[i].bytes_done));
	}
	return (Datum) 0;
}
