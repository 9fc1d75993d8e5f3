/*
 * client.c
 *		Operations on regions of GPUs, by requests to gpuagent_device.
 */
#include "base/compat.h"

#include "device/ops.h"

static void
require_service(int device)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("device \"%s\" does not serve", ga_device_name(device)),
			 errhint("See gpuagent.check_setup() and the server's log.")));
}

uint64
ga_client_create(uint64 region, int device, uint64 nbytes, bool ipc, uint8 *ipc_handle)
{
	require_service(device);
	return 0;
}

void
ga_client_remove(uint64 region, int device)
{
	ga_region_file_remove(region);
}

void
ga_client_upload(uint64 region, int device, uint64 offset, const char *data, uint64 nbytes)
{
	require_service(device);
}

void
ga_client_download(uint64 region, int device, uint64 offset, char *data, uint64 nbytes)
{
	require_service(device);
}

void
ga_client_copy(int device, uint64 source, uint64 target, uint64 nbytes)
{
	require_service(device);
}

void
ga_client_fingerprint(uint64 region, int device, uint64 nbytes, GaFingerprint *out)
{
	require_service(device);
}

void
ga_client_gather(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, char *out)
{
	require_service(device);
}

void
ga_client_sha256(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, uint8 *out)
{
	require_service(device);
}

void
ga_client_gather_rows(int device, uint64 source, uint64 target, const uint64 (*pairs)[2], uint32 n, uint32 row_bytes)
{
	require_service(device);
}

void
ga_client_grant(uint64 region, int device, bool write, const uint8 *token, TimestampTz expires)
{
	require_service(device);
}
