/*
 * findings.c
 *		What check_setup() says of devices and of the shared mapping.
 */
#include "base/compat.h"

#include "base/findings.h"
#include "base/guc.h"
#include "base/shared.h"
#include "device/device.h"
#include "device/mapping.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#define MEGABYTE ((uint64) 1024 * 1024)

static void
put_device(ReturnSetInfo *rsinfo)
{
	const GaHeader *header = ga_mapping();

	if (ga_devices == GA_DEVICES_HOST)
	{
		ga_add_finding(rsinfo, "device", "ok", "the host, as gpuagent.device says", NULL);
		return;
	}
	switch ((GaServiceState) __atomic_load_n(&header->service, __ATOMIC_ACQUIRE))
	{
		case GA_SERVICE_READY:
			ga_add_finding(rsinfo, "device", "ok", psprintf("%u GPUs, the first is %s", header->ndevices, ga_device_infos(ga_mapping())[0].name),
				NULL);
			break;
		case GA_SERVICE_NO_DEVICE:
			ga_add_finding(rsinfo, "device", "ok", "the host: gpuagent_device is not installed or found no GPU", NULL);
			break;
		case GA_SERVICE_STARTING:
			ga_add_finding(rsinfo, "device", "warning", "gpuagent_device is starting", NULL);
			break;
		case GA_SERVICE_BACKOFF:
			ga_add_finding(rsinfo, "device", "warning", "gpuagent_device ended and will be started again",
				"The server's log says why it ended.");
			break;
		case GA_SERVICE_STOPPED:
			ga_add_finding(rsinfo, "device", "error", "there is no process that would start gpuagent_device",
				"Increase max_worker_processes and restart the server.");
			break;
	}
}

/* The server had to be content with less than was configured. */
static void
put_memory(ReturnSetInfo *rsinfo)
{
	uint64		taken = (ga_mapping()->arena_bytes + ga_mapping()->cache_bytes) / MEGABYTE;

	if (taken < (uint64) ga_host_cache_size)
		ga_add_finding(rsinfo, "shared_memory", "warning",
			psprintf("%llu MB instead of %d MB: there was no more room", (unsigned long long) taken, ga_host_cache_size),
			"Make the file system of gpuagent.shared_memory_dir larger, or decrease gpuagent.host_cache_size.");
	else
		ga_add_finding(rsinfo, "shared_memory", "ok", psprintf("%llu MB for cached agents and transfers", (unsigned long long) taken), NULL);
}

PG_FUNCTION_INFO_V1(ga_device_findings);
Datum
ga_device_findings(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	if (!ga_shared_ready())
		return (Datum) 0;
	put_device(rsinfo);
	put_memory(rsinfo);
	return (Datum) 0;
}
