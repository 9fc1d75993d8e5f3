/*
 * server.h
 *		What the files of the server share.
 *
 * One dispatcher thread owns the sockets (socket.c). It, and workers that have
 * just finished a request, take READY slots (server.c). What needs no device is
 * answered by the thread that took it, the rest by the workers of the device
 * (request.c). Regions, their holders and grants are in region.c.
 */
#ifndef GA_SERVER_H
#define GA_SERVER_H

#include "backend.h"

#include <pthread.h>
#include <sys/types.h>
#include <time.h>

#define GA_WORKERS_MAX 16
#define GA_PATH 4096

/* What its slot said when it was taken. */
typedef struct GaQueued
{
	uint32_t	slot;
	bool		nearest;		/* a request for nearest rows */
	uint64_t	region;
} GaQueued;

typedef struct GaDevice
{
	GaDeviceInfo *info;			/* in the mapping */
	uint64_t	budget;
	GaWorker	worker[GA_WORKERS_MAX];

	/*
	 * Slots that wait for a worker, in a ring: each slot is in it at most once. Requests for nearest rows wait while
	 * GA_KNN_PASSES are under way, so that those behind them join the next pass.
	 */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	GaQueued	ring[GA_MAX_SLOTS];
	uint32_t	first;
	uint32_t	queued;			/* changed under the lock, read without */
	uint32_t	idle;			/* workers that wait on `wake` */
	uint32_t	passes;			/* over rows, under way */
} GaDevice;

/*
 * Offsets and sizes are copies: whoever writes nonsense over the header of the
 * mapping can stop the service, but not make it touch memory elsewhere.
 */
typedef struct GaServer
{
	char		directory[GA_PATH];
	GaHeader   *header;
	char	   *base;			/* the same */
	GaSlot	   *slots;
	uint32_t	nslots;
	uint32_t	epoch;
	uint64_t	file_bytes;
	uint64_t	arena_offset;
	uint64_t	arena_bytes;
	uint64_t	cache_offset;
	uint64_t	cache_bytes;
	const uint8_t *key;

	bool		allow_faults;
	uint64_t	budget;			/* 0: all of the card */
	uint64_t	spin_ns;
	int			nworkers;		/* of each device */
	int			ndevices;
	GaDevice   *devices;
} GaServer;

extern GaServer ga_server;

typedef struct GaRequest
{
	uint32_t	slot;
	uint32_t	op;
	int32_t		device;
	uint64_t	arg[8];
	uint8_t		extra[64];		/* in and out */
	uint64_t	result[4];
	char		error[GA_ERROR_LEN];
} GaRequest;

/* ---- main.c ---- */

/* A line in the server's log. */
extern void ga_log(const char *format,...) __attribute__((format(printf, 1, 2)));

/* Log and exit(1): the supervisor starts another. */
extern void ga_die(const char *format,...) __attribute__((format(printf, 1, 2), noreturn));

extern uint64_t ga_now_ns(void);

/* Path of a file of the run directory, in the caller's GA_PATH bytes. */
extern void ga_path(char *path, const char *name);

/* Microseconds since the Unix epoch. */
extern int64_t ga_wall_us(void);

/* ---- server.c ---- */

extern void ga_server_map(void);
extern void ga_server_start_workers(void);

/*
 * Takes READY slots until nothing has come for `spin_ns`; returns whether
 * there were any. When it returns and nobody else polls, `sleeping` is set and
 * was set before the last look.
 */
extern bool ga_server_poll(void);

/* ---- request.c ---- */

/* True when it needs a worker of its device. */
extern bool ga_request_needs_worker(const GaRequest *request);

/* Worker NULL: for a request that needs none. */
extern GaStatus ga_request_run(GaRequest *request, GaWorker *worker);

/* Requests for nearest rows of one region, the first one's: up to GA_KNN_TOGETHER. */
extern void ga_request_run_nearest(GaRequest *requests, int n, GaWorker *worker, GaStatus *statuses);

/* ---- region.c ---- */

typedef struct GaServerRegion
{
	struct GaServerRegion *next;	/* in its bucket, or in the list of lost ones */
	uint64_t	id;
	int			device;
	uint64_t	bytes;			/* as asked for */
	GaBlock		block;
	int			users;			/* requests that use the block, and 1 for the table */
	int			holders;		/* connections of clients */
	int			file;			/* its file, to look for locks of clients; -1 when not open */
} GaServerRegion;

extern GaStatus ga_regions_create(GaWorker *worker, uint64_t id, uint64_t bytes, bool by_handle, uint8_t *handle, uint64_t *size);
extern void ga_regions_free(GaWorker *worker, uint64_t id);

/* NULL when the device has no such region; to be released by the worker that uses it. */
extern GaServerRegion *ga_regions_use(uint64_t id, int device);
extern void ga_regions_release(GaWorker *worker, GaServerRegion *region);

/* Puts back what the supervisor kept. */
extern bool ga_regions_restore(GaWorker *worker, const GaKeeper *kept, int fd);

extern GaStatus ga_grants_add(uint64_t id, int device, uint64_t mode, uint64_t expires_ns, const uint64_t *name,
							  const uint8_t *token, char *error);
extern void ga_grants_revoke(const uint64_t *name);

/*
 * What a client's token allows: it becomes a holder of the region, and the
 * answer and two fds, the caller's to close, are filled in. NULL with the
 * status in the answer when it is refused.
 */
extern GaServerRegion *ga_grants_take(const uint8_t *token, GaMemory *answer, int *fds);
extern void ga_regions_unhold(GaServerRegion *region);

/* Looks again whether clients hold regions that were freed; returns whether some still do. */
extern bool ga_regions_sweep_lost(void);

/* ---- knn.c ---- */

/* Requests for nearest rows of one region that one worker takes together; passes over rows of a device at once. */
#define GA_KNN_TOGETHER 16
#define GA_KNN_PASSES 2

typedef struct GaKnnJob
{
	GaRequest  *request;
	const char *asked;			/* of the size that the request's arguments say */
	char	   *out;			/* the same */
	GaStatus	status;			/* INVALID without words */
	int			share;			/* knn.c's: the job whose pass it is part of */
} GaKnnJob;

/* Up to GA_KNN_TOGETHER of them; their words, if any, are the worker's. */
extern void ga_knn_run(GaKnnJob *jobs, int n, GaWorker *worker, const GaServerRegion *region);

/* ---- socket.c ---- */

/* Reads what was kept, until START. */
extern void ga_keeper_restore(void);
extern void ga_keeper_keep(const GaServerRegion *region);
extern void ga_keeper_drop(uint64_t id, int device);

extern void ga_socket_listen(void);

/* Serves until the supervisor is gone. */
extern void ga_socket_loop(void) __attribute__((noreturn));

/* Wakes the owner of a slot. */
extern void ga_socket_wake(uint32_t slot);

/* Has the dispatcher look after regions that clients hold though they were freed. */
extern void ga_socket_nudge(void);

#endif							/* GA_SERVER_H */
