/*
 * functions.c
 *		Devices in SQL: stat_device, last_query(), and what developers need.
 */
#include "base/compat.h"

#include <sys/statvfs.h>

#include "base/guc.h"
#include "base/shared.h"
#include "device/request.h"
#include "device/state.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define STATUS_COLUMNS 11

/* Microseconds since the Unix epoch. */
static Datum
time_datum(int64 unix_us)
{
	return TimestampTzGetDatum(unix_us - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
}

static void
put_gpu(ReturnSetInfo *rsinfo, int number)
{
	GaHeader   *header = ga_mapping();
	GaDeviceInfo *info = &ga_device_infos(header)[number];
	bool		serves = ga_device_serves();
	int64		last_error_at = info->last_error_at;
	char		last_error[GA_ERROR_LEN];
	Datum		values[STATUS_COLUMNS];
	bool		nulls[STATUS_COLUMNS] = {false};

	strlcpy(last_error, info->last_error, sizeof(last_error));
	values[0] = CStringGetTextDatum(ga_device_name(number));
	values[1] = CStringGetTextDatum(info->name);
	values[2] = Int64GetDatum(info->total_bytes);
	values[3] = Int64GetDatum(info->context_bytes + info->used_bytes + info->lost_bytes);
	values[4] = Int32GetDatum(header->service_pid);
	values[5] = time_datum(header->started_at);
	values[6] = Int64GetDatum(header->restarts);
	values[7] = Int64GetDatum(info->requests);
	values[8] = (Datum) 0;
	values[9] = CStringGetTextDatum(last_error);
	values[10] = time_datum(last_error_at);
	nulls[3] = nulls[4] = nulls[5] = !serves;
	nulls[8] = true;
	nulls[9] = nulls[10] = last_error_at == 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_host(ReturnSetInfo *rsinfo)
{
	GaDeviceState *state = ga_device_state();
	struct statvfs fs;
	Datum		values[STATUS_COLUMNS] = {0};
	bool		nulls[STATUS_COLUMNS];

	memset(nulls, true, sizeof(nulls));
	nulls[0] = nulls[1] = nulls[3] = nulls[7] = nulls[8] = false;
	values[0] = CStringGetTextDatum(ga_device_name(GA_DEVICE_HOST));
	values[1] = CStringGetTextDatum("shared memory");
	if (statvfs(ga_run_directory(), &fs) == 0)
	{
		values[2] = Int64GetDatum((int64) fs.f_blocks * fs.f_frsize);
		nulls[2] = false;
	}
	values[3] = Int64GetDatum(ga_mapping()->file_bytes + pg_atomic_read_u64(&state->host_bytes));
	values[7] = Int64GetDatum(pg_atomic_read_u64(&state->host_requests));
	values[8] = Int64GetDatum(pg_atomic_read_u64(&state->fallbacks));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A row for each GPU and one for the host; none when the library is not preloaded. */
PG_FUNCTION_INFO_V1(ga_device_status_sql);
Datum
ga_device_status_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (ga_mapping() == NULL)
		return (Datum) 0;
	for (int i = 0; i < (int) Min(ga_mapping()->ndevices, GA_MAX_DEVICES); i++)
		put_gpu(rsinfo, i);
	put_host(rsinfo);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ga_reset_device_stats_sql);
Datum
ga_reset_device_stats_sql(PG_FUNCTION_ARGS)
{
	GaHeader   *header = ga_mapping();

	if (header == NULL)
		PG_RETURN_VOID();
	for (int i = 0; i < GA_MAX_DEVICES; i++)
	{
		GaDeviceInfo *info = &ga_device_infos(header)[i];

		__atomic_store_n(&info->requests, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&info->errors, 0, __ATOMIC_RELAXED);
		info->last_error_at = 0;
	}
	header->restarts = 0;
	pg_atomic_write_u64(&ga_device_state()->host_requests, 0);
	pg_atomic_write_u64(&ga_device_state()->fallbacks, 0);
	PG_RETURN_VOID();
}

/* One row, or none before the first request of the session. */
PG_FUNCTION_INFO_V1(ga_last_query_sql);
Datum
ga_last_query_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const GaLastRequest *last = &ga_last_request;
	Datum		values[9] = {0};
	bool		is_scan = OidIsValid(last->index);
	bool		nulls[9] = {!is_scan, false, false, false, false, !is_scan, false, !is_scan, false};

	InitMaterializedSRF(fcinfo, 0);
	if (last->batch == 0)
		return (Datum) 0;
	values[0] = ObjectIdGetDatum(last->index);
	values[1] = CStringGetTextDatum(ga_device_name(last->device));
	values[2] = Int64GetDatum(last->rows);
	values[3] = Int64GetDatum(last->batch);
	values[4] = Float8GetDatum(last->queue_ms);
	values[5] = Float8GetDatum(last->catchup_ms);
	values[6] = Float8GetDatum(last->device_ms);
	values[7] = Int64GetDatum(last->rechecks);
	nulls[8] = last->fallback_reason == NULL;
	if (last->fallback_reason)
		values[8] = CStringGetTextDatum(last->fallback_reason);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* ---- for developers ---- */

/* Microseconds of n round trips that do nothing. */
PG_FUNCTION_INFO_V1(ga_device_ping_sql);
Datum
ga_device_ping_sql(PG_FUNCTION_ARGS)
{
	int64		n = PG_GETARG_INT64(0);
	int			device = PG_GETARG_INT64(1);
	instr_time	start;
	instr_time	end;

	if (n < 1 || n > 100000 || device < 0 || device >= GA_MAX_DEVICES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n or device is out of range")));
	INSTR_TIME_SET_CURRENT(start);
	for (int64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		ga_request_begin(GA_OP_PING, device)->arg[0] = i;
		ga_request_submit();
		if (ga_request_finish()->result[0] != i)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the device answered another request")));
	}
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_MICROSEC(end));
}

static GaFault
fault_by_name(const char *name)
{
	static const struct
	{
		const char *name;
		GaFault		fault;
	}			faults[] = {{"sticky", GA_FAULT_STICKY}, {"hang", GA_FAULT_HANG}, {"exit", GA_FAULT_EXIT}, {"slow", GA_FAULT_SLOW}};

	for (int i = 0; i < lengthof(faults); i++)
		if (strcmp(name, faults[i].name) == 0)
			return faults[i].fault;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown fault \"%s\"", name),
			 errhint("Use sticky, hang, exit or slow.")));
}

PG_FUNCTION_INFO_V1(ga_device_fault_sql);
Datum
ga_device_fault_sql(PG_FUNCTION_ARGS)
{
	GaFault		fault = fault_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	int64		microseconds = PG_GETARG_INT64(1);
	int			device = PG_GETARG_INT64(2);
	GaSlot	   *slot;

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to make the device fail")));
	if (!ga_device_faults)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("faults are not allowed"),
				 errhint("Set gpuagent.device_faults, for tests only, and restart the server.")));
	if (microseconds < 0 || device < 0 || device >= GA_MAX_DEVICES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("microseconds or device is out of range")));
	slot = ga_request_begin(GA_OP_FAULT, device);
	slot->arg[0] = fault;
	slot->arg[1] = microseconds;
	ga_request_submit();
	(void) ga_request_finish();
	PG_RETURN_VOID();
}

/* Slots of the server that are in use; 0 when nothing is asked for. */
PG_FUNCTION_INFO_V1(ga_device_slots_sql);
Datum
ga_device_slots_sql(PG_FUNCTION_ARGS)
{
	int64		n = 0;

	for (uint32 i = 0; ga_mapping() && i < ga_mapping()->nslots; i++)
		n += __atomic_load_n(&ga_slots(ga_mapping())[i].state, __ATOMIC_ACQUIRE) != GA_SLOT_FREE;
	PG_RETURN_INT64(n);
}

/* What a test wants to wait for: ready, starting, backoff, no_device, stopped. */
PG_FUNCTION_INFO_V1(ga_device_service_sql);
Datum
ga_device_service_sql(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"stopped", "starting", "ready", "no_device", "backoff"};
	uint32		service;

	if (ga_mapping() == NULL)
		PG_RETURN_NULL();
	service = __atomic_load_n(&ga_mapping()->service, __ATOMIC_ACQUIRE);
	PG_RETURN_TEXT_P(cstring_to_text(service < lengthof(names) ? names[service] : "unknown"));
}
