/*
 * request.c
 *		Requests: arguments are checked, then the backend is called.
 *
 * Arguments are copies; lists are copied from the mapping before they are
 * looked at. Nothing that others can change is used after it was checked.
 */
#include "server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static GaStatus
refuse(GaRequest *request, GaStatus status, const char *reason)
{
	snprintf(request->error, sizeof(request->error), "%s", reason);
	return status;
}

static GaStatus
invalid(GaRequest *request)
{
	return refuse(request, GA_STATUS_INVALID, "arguments are out of bounds");
}

/* The backend's verdict, with its words. */
static GaStatus
verdict(GaRequest *request, GaWorker *worker, GaStatus status)
{
	if (status != GA_STATUS_OK)
		snprintf(request->error, sizeof(request->error), "%s", worker->error);
	return status;
}

static bool
fits(uint64_t offset, uint64_t nbytes, uint64_t limit)
{
	return offset <= limit && nbytes <= limit - offset;
}

/* Address of n items in the arena or the cache, NULL when they are not there. */
static char *
mapped(uint64_t offset, uint64_t n, uint64_t item_bytes)
{
	GaServer   *s = &ga_server;

	if (n > s->file_bytes / item_bytes)
		return NULL;
	if ((offset >= s->arena_offset && fits(offset - s->arena_offset, n * item_bytes, s->arena_bytes)) ||
		(offset >= s->cache_offset && fits(offset - s->cache_offset, n * item_bytes, s->cache_bytes)))
		return s->base + offset;
	return NULL;
}

static GaServerRegion *
use(GaRequest *request, uint64_t id)
{
	GaServerRegion *region = ga_regions_use(id, request->device);

	if (region == NULL)
		snprintf(request->error, sizeof(request->error), "device %d has no region %llu", request->device,
				 (unsigned long long) id);
	return region;
}

/* ----- one function per kind of request; the region is in use meanwhile ----- */

static GaStatus
transfer(GaRequest *request, GaWorker *worker, GaServerRegion *region)
{
	uint64_t	offset = request->arg[1];
	uint64_t	nbytes = request->arg[3];
	char	   *memory = mapped(request->arg[2], nbytes, 1);

	if (memory == NULL || !fits(offset, nbytes, region->bytes))
		return invalid(request);
	if (nbytes == 0)
		return GA_STATUS_OK;
	if (request->op == GA_OP_UPLOAD)
		return ga_backend_upload(worker, region->block.address + offset, memory, nbytes);
	return ga_backend_download(worker, memory, region->block.address + offset, nbytes);
}

static GaStatus
copy(GaRequest *request, GaWorker *worker, GaServerRegion *source)
{
	uint64_t	from = request->arg[1];
	uint64_t	to = request->arg[3];
	uint64_t	nbytes = request->arg[4];
	GaServerRegion *target = use(request, request->arg[2]);
	GaStatus	status;

	if (target == NULL)
		return GA_STATUS_UNKNOWN;
	if (!fits(from, nbytes, source->bytes) || !fits(to, nbytes, target->bytes) ||
		(source == target && (from < to ? to - from : from - to) < nbytes))
		status = invalid(request);
	else if (nbytes == 0)
		status = GA_STATUS_OK;
	else
		status = ga_backend_copy(worker, target->block.address + to, source->block.address + from, nbytes);
	ga_regions_release(worker, target);
	return status;
}

static uint64_t
leaves_of(uint64_t nbytes)
{
	return nbytes / GA_LEAF + (nbytes % GA_LEAF != 0);
}

static GaStatus
fingerprint(GaRequest *request, GaWorker *worker, GaServerRegion *region)
{
	uint64_t	nbytes = request->arg[1];
	uint64_t	first = request->arg[2];
	uint64_t	n = request->arg[3];
	char	   *out = mapped(request->arg[4], n, sizeof(GaFingerprint));

	if (out == NULL || request->arg[4] % sizeof(uint64_t) != 0 || nbytes > region->bytes || !fits(first, n, leaves_of(nbytes)))
		return invalid(request);
	if (n == 0)
		return GA_STATUS_OK;
	return ga_backend_fingerprint(worker, region->block.address, nbytes, first, n, (GaFingerprint *) out);
}

/* GATHER and SHA256. */
static GaStatus
listed_leaves(GaRequest *request, GaWorker *worker, GaServerRegion *region)
{
	bool		gather = request->op == GA_OP_GATHER;
	uint64_t	nbytes = request->arg[1];
	uint64_t	n = request->arg[3];
	char	   *list = mapped(request->arg[2], n, sizeof(uint32_t));
	char	   *out = mapped(request->arg[4], n, gather ? GA_LEAF : 32);
	uint64_t	leaves = leaves_of(nbytes);
	uint32_t   *copied;

	if (list == NULL || out == NULL || nbytes > region->bytes)
		return invalid(request);
	if (n == 0)
		return GA_STATUS_OK;
	copied = ga_backend_staging(worker, n * sizeof(uint32_t));
	if (copied == NULL)
		return GA_STATUS_FAILED;
	memcpy(copied, list, n * sizeof(uint32_t));
	for (uint64_t i = 0; i < n; i++)
		if (copied[i] >= leaves)
			return invalid(request);
	if (gather)
		return ga_backend_gather(worker, region->block.address, nbytes, copied, n, out);
	return ga_backend_sha256(worker, region->block.address, nbytes, copied, n, (uint8_t *) out);
}

static GaStatus
gather_rows(GaRequest *request, GaWorker *worker, GaServerRegion *source)
{
	uint64_t	n = request->arg[2];
	uint64_t	row_bytes = request->arg[3];
	char	   *list = mapped(request->arg[1], n, 2 * sizeof(uint64_t));
	GaServerRegion *target = use(request, request->arg[4]);
	GaStatus	status = GA_STATUS_OK;
	uint64_t	(*pairs)[2];

	if (target == NULL)
		return GA_STATUS_UNKNOWN;
	if (list == NULL || row_bytes == 0)
		status = invalid(request);
	else if (n > 0 && (pairs = ga_backend_staging(worker, n * sizeof(*pairs))) == NULL)
		status = GA_STATUS_FAILED;
	else if (n > 0)
	{
		memcpy(pairs, list, n * sizeof(*pairs));
		for (uint64_t i = 0; i < n && status == GA_STATUS_OK; i++)
			if (!fits(pairs[i][0], row_bytes, source->bytes) || !fits(pairs[i][1], row_bytes, target->bytes))
				status = invalid(request);
		if (status == GA_STATUS_OK)
			status = ga_backend_gather_rows(worker, source->block.address, target->block.address,
											(const uint64_t (*)[2]) pairs, n, row_bytes);
	}
	ga_regions_release(worker, target);
	return status;
}

static GaStatus
create(GaRequest *request, GaWorker *worker)
{
	if (request->arg[2] & ~(uint64_t) GA_REGION_IPC)
		return invalid(request);
	return ga_regions_create(worker, request->arg[0], request->arg[1], (request->arg[2] & GA_REGION_IPC) != 0,
							 request->extra, &request->result[0]);
}

static GaStatus
fault(GaRequest *request, GaWorker *worker)
{
	if (!ga_server.allow_faults)
		return refuse(request, GA_STATUS_INVALID, "this process was started without --allow-faults");
	switch (request->arg[0])
	{
		case GA_FAULT_EXIT:
			_exit(1);
		case GA_FAULT_SLOW:
			{
				uint64_t	until = ga_now_ns() + request->arg[1] * 1000;

				while (ga_now_ns() < until)
					usleep(request->arg[1] < 1000 ? 10 : 500);
				return GA_STATUS_OK;
			}
		case GA_FAULT_STICKY:
		case GA_FAULT_HANG:
			return ga_backend_fault(worker, (GaFault) request->arg[0]);
		default:
			return invalid(request);
	}
}

/* ----- what is called from outside ----- */

bool
ga_request_needs_worker(const GaRequest *request)
{
	if (request->device < 0 || request->device >= ga_server.ndevices)
		return false;
	return request->op != GA_OP_PING && request->op != GA_OP_GRANT && request->op != GA_OP_REVOKE &&
		request->op > GA_OP_NONE && request->op < GA_OP_COUNT;
}

static GaStatus
run_on_region(GaRequest *request, GaWorker *worker)
{
	GaServerRegion *region = use(request, request->arg[0]);
	GaStatus	status;

	if (region == NULL)
		return GA_STATUS_UNKNOWN;
	switch (request->op)
	{
		case GA_OP_COPY:
			status = copy(request, worker, region);
			break;
		case GA_OP_FINGERPRINT:
			status = fingerprint(request, worker, region);
			break;
		case GA_OP_GATHER:
		case GA_OP_SHA256:
			status = listed_leaves(request, worker, region);
			break;
		case GA_OP_GATHER_ROWS:
			status = gather_rows(request, worker, region);
			break;
		default:
			status = transfer(request, worker, region);
			break;
	}
	ga_regions_release(worker, region);
	return status;
}

void
ga_request_run_nearest(GaRequest *requests, int n, GaWorker *worker, GaStatus *statuses)
{
	GaServerRegion *region = use(&requests[0], requests[0].arg[0]);
	GaKnnJob	jobs[GA_KNN_TOGETHER];
	int			which[GA_KNN_TOGETHER];
	int			njobs = 0;

	worker->error[0] = '\0';
	for (int i = 0; i < n; i++)
	{
		GaRequest  *request = &requests[i];
		const char *asked = mapped(request->arg[1], request->arg[2], 1);
		char	   *out = mapped(request->arg[3], request->arg[4], 1);

		if (region == NULL)
			statuses[i] = i == 0 ? GA_STATUS_UNKNOWN : refuse(request, GA_STATUS_UNKNOWN, "the device has no such region");
		else if (asked == NULL || out == NULL || request->arg[3] % sizeof(uint64_t) != 0)
			statuses[i] = invalid(request);
		else
		{
			which[njobs] = i;
			jobs[njobs++] = (GaKnnJob) {.request = request, .asked = asked, .out = out};
		}
	}
	if (region == NULL)
		return;
	ga_knn_run(jobs, njobs, worker, region);
	for (int j = 0; j < njobs; j++)
		statuses[which[j]] = jobs[j].status == GA_STATUS_INVALID ? invalid(jobs[j].request) :
			verdict(jobs[j].request, worker, jobs[j].status);
	ga_regions_release(worker, region);
}

GaStatus
ga_request_run(GaRequest *request, GaWorker *worker)
{
	GaStatus	status;

	if (request->device < 0 || request->device >= ga_server.ndevices)
		return refuse(request, GA_STATUS_UNKNOWN, "there is no such device");
	if (request->op == GA_OP_PING)
	{
		request->result[0] = request->arg[0];
		return GA_STATUS_OK;
	}
	if (request->op == GA_OP_GRANT)
		return ga_grants_add(request->arg[0], request->device, request->arg[1], request->arg[2], request->arg + 3,
							 request->extra, request->error);
	if (request->op == GA_OP_REVOKE)
	{
		ga_grants_revoke(request->arg);
		return GA_STATUS_OK;
	}
	if (worker == NULL || request->op <= GA_OP_NONE || request->op >= GA_OP_COUNT)
		return refuse(request, GA_STATUS_INVALID, "there is no such operation");

	worker->error[0] = '\0';
	switch (request->op)
	{
		case GA_OP_REGION_CREATE:
			status = create(request, worker);
			break;
		case GA_OP_REGION_FREE:
			ga_regions_free(worker, request->arg[0]);
			status = GA_STATUS_OK;
			break;
		case GA_OP_FAULT:
			status = fault(request, worker);
			break;
		case GA_OP_KNN:
			ga_request_run_nearest(request, 1, worker, &status);
			break;
		default:
			status = run_on_region(request, worker);
			break;
	}
	if (request->error[0] != '\0')
		return status;
	return verdict(request, worker, status);
}
