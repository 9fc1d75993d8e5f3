/*
 * region.c
 *		Regions of this process, what clients hold of them, and grants.
 *
 * A region's memory is used by requests and exported to clients. When it is
 * freed it leaves the table at once; its memory is unmapped when the last
 * request is through, and its bytes count as lost until no client holds it:
 * no connection that fetched it is open, and nobody has the lock GA_LOCK_HOLD
 * of its file.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUCKETS 1024
#define MAX_GRANTS 65536
#define MAX_BYTES (UINT64_C(1) << 46)

typedef struct Grant
{
	uint8_t		token[GA_TOKEN_LEN];
	uint64_t	name[2];		/* by which it is revoked */
	uint64_t	region;
	int			device;
	uint32_t	mode;
	uint64_t	expires_ns;
} Grant;

/* Protects all of this file; nothing that waits or asks the device happens under it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static GaServerRegion *buckets[BUCKETS];
static GaServerRegion *lost;	/* freed, but held */
static Grant *grants;
static uint32_t ngrants;
static uint32_t grants_room;

/* ----- the table ----- */

static GaServerRegion **
place(uint64_t id)
{
	GaServerRegion **at = &buckets[id * UINT64_C(0x9E3779B97F4A7C15) >> 54];

	while (*at != NULL && (*at)->id != id)
		at = &(*at)->next;
	return at;
}

static void
count(uint64_t *counter, int64_t nbytes)
{
	__atomic_fetch_add(counter, (uint64_t) nbytes, __ATOMIC_RELAXED);
}

/* Takes bytes of a device's budget; false when it has too few. */
static bool
reserve_once(int device, uint64_t nbytes)
{
	GaDeviceInfo *info = ga_server.devices[device].info;
	uint64_t	budget = ga_server.devices[device].budget;
	uint64_t	used;
	bool		good;

	pthread_mutex_lock(&lock);
	used = __atomic_load_n(&info->used_bytes, __ATOMIC_RELAXED) + __atomic_load_n(&info->lost_bytes, __ATOMIC_RELAXED);
	good = used <= budget && nbytes <= budget - used;
	if (good)
		count(&info->used_bytes, (int64_t) nbytes);
	pthread_mutex_unlock(&lock);
	return good;
}

static bool
reserve(int device, uint64_t nbytes)
{
	if (reserve_once(device, nbytes))
		return true;

	/* A client may have let go of a region since the last look. */
	ga_regions_sweep_lost();
	return reserve_once(device, nbytes);
}

static void
unreserve(int device, uint64_t nbytes)
{
	count(&ga_server.devices[device].info->used_bytes, -(int64_t) nbytes);
}

static GaServerRegion *
new_region(uint64_t id, int device, uint64_t bytes)
{
	GaServerRegion *region = calloc(1, sizeof(*region));

	if (region == NULL)
		ga_die("out of memory");
	region->id = id;
	region->device = device;
	region->bytes = bytes;
	region->block.fd = -1;
	region->users = 1;
	region->file = -1;
	return region;
}

/* False when there is one of this id. */
static bool
enter(GaServerRegion *region)
{
	GaServerRegion **at;

	pthread_mutex_lock(&lock);
	at = place(region->id);
	if (*at != NULL)
	{
		pthread_mutex_unlock(&lock);
		return false;
	}
	*at = region;
	pthread_mutex_unlock(&lock);
	return true;
}

static int
open_file(uint64_t id, bool write)
{
	char		path[GA_PATH];
	char		name[40];

	snprintf(name, sizeof(name), GA_REGION_PREFIX "%llu", (unsigned long long) id);
	ga_path(path, name);
	return open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
}

static bool
has_lock(int file)
{
	struct flock request = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = GA_LOCK_HOLD, .l_len = 1};

	return file >= 0 && fcntl(file, F_OFD_GETLK, &request) == 0 && request.l_type != F_UNLCK;
}

static void
destroy(GaServerRegion *region)
{
	if (region->file >= 0)
		close(region->file);
	free(region);
}

/* Under the lock: moves lost regions that nobody holds any more to a list. */
static GaServerRegion *
collect_unheld(void)
{
	GaServerRegion *done = NULL;
	GaServerRegion **at = &lost;

	while (*at != NULL)
	{
		GaServerRegion *region = *at;

		if (region->holders > 0 || region->users > 0 || has_lock(region->file))
		{
			at = &region->next;
			continue;
		}
		count(&ga_server.devices[region->device].info->lost_bytes, -(int64_t) region->block.size);
		*at = region->next;
		region->next = done;
		done = region;
	}
	return done;
}

bool
ga_regions_sweep_lost(void)
{
	GaServerRegion *done;
	bool		some;

	pthread_mutex_lock(&lock);
	done = collect_unheld();
	some = lost != NULL;
	pthread_mutex_unlock(&lock);
	while (done != NULL)
	{
		GaServerRegion *next = done->next;

		destroy(done);
		done = next;
	}
	return some;
}

/* ----- making, using, freeing ----- */

GaStatus
ga_regions_create(GaWorker *worker, uint64_t id, uint64_t bytes, bool by_handle, uint8_t *handle, uint64_t *size)
{
	uint64_t	unit = ga_backend_granularity(worker->device);
	GaServerRegion *region;
	GaStatus	status;
	bool		known;

	pthread_mutex_lock(&lock);
	known = *place(id) != NULL;
	pthread_mutex_unlock(&lock);
	if (known || bytes > MAX_BYTES)
	{
		snprintf(worker->error, sizeof(worker->error), known ? "region %llu exists" : "region %llu is too large",
				 (unsigned long long) id);
		return GA_STATUS_INVALID;
	}

	region = new_region(id, worker->device, bytes);
	region->block.size = bytes == 0 ? unit : (bytes + unit - 1) / unit * unit;
	if (!reserve(worker->device, region->block.size))
	{
		snprintf(worker->error, sizeof(worker->error), "%llu bytes exceed the budget of device %d",
				 (unsigned long long) region->block.size, worker->device);
		destroy(region);
		return GA_STATUS_BUDGET;
	}
	status = ga_backend_create(worker, by_handle, &region->block);
	if (status == GA_STATUS_OK && !enter(region))
	{
		snprintf(worker->error, sizeof(worker->error), "region %llu exists", (unsigned long long) id);
		ga_backend_free(worker, &region->block);
		status = GA_STATUS_INVALID;
	}
	if (status != GA_STATUS_OK)
	{
		unreserve(worker->device, region->block.size);
		destroy(region);
		return status;
	}
	*size = region->block.size;

	/* Clients of memory with a descriptor come by the socket; the locks of others are all there is to see. */
	if (by_handle)
	{
		region->file = open_file(id, false);
		memcpy(handle, region->block.handle, sizeof(region->block.handle));
	}
	else
		ga_keeper_keep(region);
	return GA_STATUS_OK;
}

bool
ga_regions_restore(GaWorker *worker, const GaKeeper *kept, int fd)
{
	GaServerRegion *region = new_region(kept->region, worker->device, kept->bytes);
	GaDeviceInfo *info = ga_server.devices[worker->device].info;

	region->block.fd = fd;
	region->block.size = kept->size;
	if (kept->bytes > kept->size || kept->size > MAX_BYTES || kept->size % ga_backend_granularity(worker->device) != 0)
	{
		snprintf(worker->error, sizeof(worker->error), "its size makes no sense");
		close(fd);
	}
	else if (ga_backend_import(worker, &region->block) == GA_STATUS_OK)
	{
		/* Clients may still hold it from the process before; its memory is in use whatever the budget is now. */
		region->file = open_file(kept->region, false);
		if (enter(region))
		{
			count(&info->used_bytes, (int64_t) region->block.size);
			return true;
		}
		snprintf(worker->error, sizeof(worker->error), "it was restored before");
		ga_backend_free(worker, &region->block);
	}
	destroy(region);
	return false;
}

GaServerRegion *
ga_regions_use(uint64_t id, int device)
{
	GaServerRegion *region;

	pthread_mutex_lock(&lock);
	region = *place(id);
	if (region != NULL && region->device != device)
		region = NULL;
	if (region != NULL)
		region->users++;
	pthread_mutex_unlock(&lock);
	return region;
}

void
ga_regions_release(GaWorker *worker, GaServerRegion *region)
{
	GaDeviceInfo *info = ga_server.devices[region->device].info;
	bool		last;

	pthread_mutex_lock(&lock);
	last = region->users == 1;
	if (!last)
		region->users--;
	pthread_mutex_unlock(&lock);
	if (!last)
		return;

	/* Nobody finds it any more, so the count stays as it is. */
	ga_backend_free(worker, &region->block);
	pthread_mutex_lock(&lock);
	region->users = 0;
	count(&info->used_bytes, -(int64_t) region->block.size);
	count(&info->lost_bytes, (int64_t) region->block.size);
	region->next = lost;
	lost = region;
	pthread_mutex_unlock(&lock);
	if (ga_regions_sweep_lost())
		ga_socket_nudge();
}

static void
remove_grants(uint64_t id)
{
	for (uint32_t i = 0; i < ngrants;)
	{
		if (grants[i].region == id)
			grants[i] = grants[--ngrants];
		else
			i++;
	}
}

void
ga_regions_free(GaWorker *worker, uint64_t id)
{
	GaServerRegion **at;
	GaServerRegion *region;

	pthread_mutex_lock(&lock);
	at = place(id);
	region = *at;
	if (region != NULL && region->device == worker->device)
	{
		*at = region->next;
		remove_grants(id);
	}
	else
		region = NULL;
	pthread_mutex_unlock(&lock);
	if (region == NULL)
		return;
	if (region->block.fd >= 0)
		ga_keeper_drop(id, region->device);
	ga_regions_release(worker, region);
}

/* ----- grants ----- */

static void
remove_expired_grants(void)
{
	uint64_t	now = ga_now_ns();

	for (uint32_t i = 0; i < ngrants;)
	{
		if (grants[i].expires_ns <= now)
			grants[i] = grants[--ngrants];
		else
			i++;
	}
}

static bool
make_room_for_grant(void)
{
	uint32_t	room = grants_room == 0 ? 64 : 2 * grants_room;
	Grant	   *larger;

	if (ngrants < grants_room)
		return true;
	remove_expired_grants();
	if (ngrants < grants_room)
		return true;
	if (room > MAX_GRANTS || (larger = realloc(grants, room * sizeof(*grants))) == NULL)
		return false;
	grants = larger;
	grants_room = room;
	return true;
}

GaStatus
ga_grants_add(uint64_t id, int device, uint64_t mode, uint64_t expires_ns, const uint64_t *name, const uint8_t *token,
			  char *error)
{
	GaStatus	status = GA_STATUS_OK;
	GaServerRegion *region;

	pthread_mutex_lock(&lock);
	region = *place(id);
	if (region == NULL || region->device != device)
	{
		snprintf(error, GA_ERROR_LEN, "device %d has no region %llu", device, (unsigned long long) id);
		status = GA_STATUS_UNKNOWN;
	}
	else if (region->block.fd < 0 || mode > 1)
	{
		snprintf(error, GA_ERROR_LEN, mode > 1 ? "mode is neither 0 nor 1" : "the region is exported by handle");
		status = GA_STATUS_INVALID;
	}
	else if (!make_room_for_grant())
	{
		snprintf(error, GA_ERROR_LEN, "too many grants wait for their clients");
		status = GA_STATUS_BUDGET;
	}
	else
	{
		Grant	   *grant = &grants[ngrants++];

		memcpy(grant->token, token, GA_TOKEN_LEN);
		memcpy(grant->name, name, sizeof(grant->name));
		grant->region = id;
		grant->device = device;
		grant->mode = (uint32_t) mode;
		grant->expires_ns = expires_ns;
	}
	pthread_mutex_unlock(&lock);
	return status;
}

void
ga_grants_revoke(const uint64_t *name)
{
	pthread_mutex_lock(&lock);
	for (uint32_t i = 0; i < ngrants; i++)
		if (memcmp(grants[i].name, name, sizeof(grants[i].name)) == 0)
		{
			grants[i] = grants[--ngrants];
			break;
		}
	pthread_mutex_unlock(&lock);
}

/* Takes as long wherever they differ. */
static bool
same_token(const uint8_t *a, const uint8_t *b)
{
	volatile uint8_t different = 0;

	for (int i = 0; i < GA_TOKEN_LEN; i++)
		different = (uint8_t) (different | (a[i] ^ b[i]));
	return different == 0;
}

/* Under the lock: the grant of a token, which is used up by this. */
static bool
take_grant(const uint8_t *token, Grant *taken)
{
	bool		found = false;

	remove_expired_grants();
	for (uint32_t i = 0; i < ngrants; i++)
		if (same_token(grants[i].token, token))
		{
			*taken = grants[i];
			grants[i] = grants[--ngrants];
			found = true;
			break;
		}
	return found;
}

GaServerRegion *
ga_grants_take(const uint8_t *token, GaMemory *answer, int *fds)
{
	GaServerRegion *region = NULL;
	GaStatus	status = GA_STATUS_UNKNOWN;
	Grant		grant;

	pthread_mutex_lock(&lock);
	if (take_grant(token, &grant))
		region = *place(grant.region);
	if (region != NULL)
	{
		/* A file description of the client's own: locks of two clients must not be one. */
		int			own = open_file(region->id, grant.mode == 1);

		fds[0] = own < 0 ? -1 : fcntl(region->block.fd, F_DUPFD_CLOEXEC, 0);
		if (fds[0] >= 0)
		{
			if (region->file < 0)
				region->file = open_file(region->id, false);
			region->holders++;
			fds[1] = own;
			answer->bytes = region->block.size;
			answer->mode = grant.mode;
			answer->device = region->device;
			memcpy(answer->uuid, ga_server.devices[region->device].info->uuid, sizeof(answer->uuid));
			status = GA_STATUS_OK;
		}
		else
		{
			status = errno == ENOENT ? GA_STATUS_UNKNOWN : GA_STATUS_FAILED;
			if (own >= 0)
				close(own);
			region = NULL;
		}
	}
	pthread_mutex_unlock(&lock);
	answer->status = status;
	return region;
}

void
ga_regions_unhold(GaServerRegion *region)
{
	pthread_mutex_lock(&lock);
	region->holders--;
	pthread_mutex_unlock(&lock);
	if (ga_regions_sweep_lost())
		ga_socket_nudge();
}
