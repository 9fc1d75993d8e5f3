/*
 * device.c
 *		Which device does it (device.h).
 */
#include "base/compat.h"

#include "base/shared.h"
#include "device/ops.h"
#include "device/state.h"
#include "portability/instr_time.h"

GaLastRequest ga_last_request = {.device = GA_DEVICE_HOST};

/* ---- choice ---- */

bool
ga_device_serves(void)
{
	return ga_mapping() != NULL &&
		__atomic_load_n(&ga_mapping()->service, __ATOMIC_ACQUIRE) == GA_SERVICE_READY;
}

/* The number of a GPU by its name; -1 for other names. */
static int
gpu_by_name(const char *name)
{
	unsigned long number;
	char	   *end;

	if (strcmp(name, "cuda") == 0)
		return 0;
	if (strncmp(name, "cuda:", 5) != 0 || name[5] < '0' || name[5] > '9')
		return -1;
	errno = 0;
	number = strtoul(name + 5, &end, 10);
	return *end == '\0' && errno == 0 && number < GA_MAX_DEVICES ? (int) number : -1;
}

int
ga_device_choose(const char *name)
{
	int			gpu;

	if (name == NULL || strcmp(name, "auto") == 0)
		return ga_device_serves() ? 0 : GA_DEVICE_HOST;
	if (strcmp(name, "host") == 0)
		return GA_DEVICE_HOST;
	gpu = gpu_by_name(name);
	if (gpu < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown device \"%s\"", name),
				 errhint("Use host, cuda, the number of a GPU as in cuda:0, or auto.")));
	ga_shared_require();
	if (!ga_device_serves())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("device \"%s\" does not serve", name),
				 errhint("See gpuagent.check_setup() and the server's log.")));
	if (gpu >= (int) ga_mapping()->ndevices)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("device \"%s\" does not exist", name),
				 errdetail("The server has %u.", ga_mapping()->ndevices)));
	return gpu;
}

const char *
ga_device_name(int device)
{
	static char names[GA_MAX_DEVICES][12];

	if (device < 0 || device >= GA_MAX_DEVICES)
		return "host";
	if (names[device][0] == '\0')
		snprintf(names[device], sizeof(names[device]), "cuda:%d", device);
	return names[device];
}

/* ---- what the last request did ---- */

void
ga_device_fallback(const char *reason)
{
	if (ga_device_state())
		pg_atomic_fetch_add_u64(&ga_device_state()->fallbacks, 1);
	ga_last_request.fallback_reason = reason;
}

/* A request that this process works off itself. */
static instr_time
host_begins(void)
{
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	return start;
}

static void
host_ends(instr_time start, uint64 rows)
{
	instr_time	end;

	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	ga_last_request = (GaLastRequest) {
		.device = GA_DEVICE_HOST,
		.rows = rows,
		.batch = 1,
		.device_ms = INSTR_TIME_GET_MILLISEC(end),
	};
	pg_atomic_fetch_add_u64(&ga_device_state()->host_requests, 1);
}

static uint64
leaves_of(uint64 nbytes)
{
	return (nbytes + GA_LEAF - 1) / GA_LEAF;
}

/* ---- regions ---- */

void
ga_region_create(uint64 region, int device, uint64 nbytes, bool ipc, uint8 *ipc_handle, uint64 *size)
{
	if (device == GA_DEVICE_HOST)
		*size = ga_host_create(region, nbytes, true);
	else
		*size = ga_client_create(region, device, nbytes, ipc, ipc_handle, false);
}

void
ga_region_create_to_fill(uint64 region, int device, uint64 nbytes, bool ipc, uint8 *ipc_handle, uint64 *size)
{
	if (device == GA_DEVICE_HOST)
		*size = ga_host_create(region, nbytes, false);
	else
		*size = ga_client_create(region, device, nbytes, ipc, ipc_handle, false);
}

bool
ga_region_try_create(uint64 region, int device, uint64 nbytes, uint64 *size)
{
	*size = ga_client_create(region, device, nbytes, false, NULL, true);
	return *size > 0;
}

void
ga_region_remove(uint64 region, int device)
{
	if (device == GA_DEVICE_HOST)
		ga_host_remove(region);
	else
		ga_client_remove(region, device);
}

void
ga_region_upload(uint64 region, int device, uint64 offset, const char *data, uint64 nbytes)
{
	instr_time	start = host_begins();

	if (device != GA_DEVICE_HOST)
	{
		ga_client_upload(region, device, offset, data, nbytes);
		return;
	}
	ga_host_upload(region, offset, data, nbytes);
	host_ends(start, leaves_of(nbytes));
}

void
ga_region_download(uint64 region, int device, uint64 offset, char *data, uint64 nbytes)
{
	instr_time	start = host_begins();

	if (device != GA_DEVICE_HOST)
	{
		ga_client_download(region, device, offset, data, nbytes);
		return;
	}
	ga_host_download(region, offset, data, nbytes);
	host_ends(start, leaves_of(nbytes));
}

void
ga_region_copy(int device, uint64 source, uint64 target, uint64 nbytes)
{
	instr_time	start = host_begins();

	if (device != GA_DEVICE_HOST)
	{
		ga_client_copy(device, source, target, nbytes);
		return;
	}
	ga_host_copy(source, target, nbytes);
	host_ends(start, leaves_of(nbytes));
}

void
ga_region_fingerprint(uint64 region, int device, uint64 nbytes, GaFingerprint *out)
{
	instr_time	start = host_begins();

	if (device != GA_DEVICE_HOST)
	{
		ga_client_fingerprint(region, device, nbytes, out);
		return;
	}
	ga_host_fingerprint(region, nbytes, out);
	host_ends(start, leaves_of(nbytes));
}

void
ga_region_gather(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, char *out)
{
	instr_time	start = host_begins();

	if (device != GA_DEVICE_HOST)
	{
		ga_client_gather(region, device, nbytes, leaves, n, out);
		return;
	}
	ga_host_gather(region, nbytes, leaves, n, out);
	host_ends(start, n);
}

void
ga_region_sha256(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, uint8 *out)
{
	instr_time	start = host_begins();

	if (device != GA_DEVICE_HOST)
	{
		ga_client_sha256(region, device, nbytes, leaves, n, out);
		return;
	}
	ga_host_sha256(region, nbytes, leaves, n, out);
	host_ends(start, n);
}

void
ga_region_gather_rows(int device, uint64 source, uint64 target, const uint64 (*pairs)[2], uint32 n, uint32 row_bytes)
{
	instr_time	start = host_begins();

	if (device != GA_DEVICE_HOST)
	{
		ga_client_gather_rows(device, source, target, pairs, n, row_bytes);
		return;
	}
	ga_host_gather_rows(source, target, pairs, n, row_bytes);
	host_ends(start, n);
}

void
ga_region_grant(uint64 region, int device, bool write, const uint8 *name, const uint8 *token, TimestampTz expires)
{
	if (device != GA_DEVICE_HOST)
		ga_client_grant(region, device, write, name, token, expires);
}

void
ga_region_revoke(int device, const uint8 *name)
{
	if (device != GA_DEVICE_HOST)
		ga_client_revoke(device, name);
}
