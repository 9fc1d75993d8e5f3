/*
 * device.h
 *		What the rest of the extension sees of devices: memory of regions and
 *		operations on it, the same on a GPU (client.c, by requests to
 *		gpuagent_device) and on the host (host.c, in place by the backend).
 *
 * A device is GA_DEVICE_HOST or the 0-based number of a GPU. Regions have a
 * number that is unique until the server is restarted (region.h).
 *
 * Errors: 22023 unknown device name; 55000 the device does not serve, or was
 * restarted meanwhile; 53400 over budget; 58000 CUDA failed. Every wait is
 * interruptible and ends when the device process dies or hangs.
 */
#ifndef GA_DEVICE_H
#define GA_DEVICE_H

#include "base/compat.h"
#include "device/protocol.h"
#include "math/fingerprint.h"
#include "datatype/timestamp.h"

#define GA_DEVICE_HOST (-1)

/* ---- choice ---- */

/*
 * NULL or 'auto': the first GPU that serves, else the host. 'host', 'cuda' (the
 * first), 'cuda:1'. 22023 for other names, 55000 for a GPU that does not serve.
 */
extern int	ga_device_choose(const char *name);

/* "host", "cuda:0"; static. */
extern const char *ga_device_name(int device);

/* True while gpuagent_device serves. */
extern bool ga_device_serves(void);

/* ---- memory of regions ---- */

/*
 * Address of a region's file in this process, mapped on first use and kept:
 * control page, then, on the host, the data, which only operations below may
 * touch: they keep it from being freed. NULL when the file is gone, or a client
 * has destroyed it. The mapping of a freed region goes away at the end of a
 * transaction.
 */
extern GaControl *ga_region_control(uint64 region);

/* False when the file is gone, or not what it was: a client may have opened it with mode w+, which shortens it to nothing. */
extern bool ga_region_is_whole(uint64 region, int device, uint64 nbytes);

#define GA_REGION_DATA_OFFSET GA_PAGE

/*
 * Makes the file with its control page (0600, exclusively) and the memory,
 * zeroed; *size gets the bytes taken. On the host they are in the file
 * (posix_fallocate, so that a full /dev/shm is 53100 and not a SIGBUS). On a
 * GPU with `ipc`, ipc_handle gets 64 bytes. Nothing is left behind on ERROR.
 */
extern void ga_region_create(uint64 region, int device, uint64 nbytes, bool ipc, uint8 *ipc_handle, uint64 *size);

/*
 * The same for who uploads all of it before it is used: on the host the memory
 * is taken by the upload, where 53100 is thrown then, and so by many processes at once.
 */
extern void ga_region_create_to_fill(uint64 region, int device, uint64 nbytes, bool ipc, uint8 *ipc_handle, uint64 *size);

/* The same on a GPU for memory that is good to have: false when there is none within the budget. */
extern bool ga_region_try_create(uint64 region, int device, uint64 nbytes, uint64 *size);

/* Called when memory that is needed exceeds the budget: gives up what it can do without; how many regions. */
extern int	(*ga_device_make_room) (int device, uint64 nbytes);

/* Removes file and memory; never throws (from abort callbacks and the reaper). */
extern void ga_region_remove(uint64 region, int device);

/* True while a client holds the memory (GA_LOCK_HOLD of the file). */
extern bool ga_region_is_held(uint64 region);

/* True while a client is in a step whose owner lives (GA_LOCK_STEP of the file). */
extern bool ga_region_in_step(uint64 region);

/* ---- operations; offsets and sizes in bytes of the region's data ---- */

/* Between a region and any memory of this process; on a GPU through the arena, pieces of it overlapped where `data` is no arena. */
extern void ga_region_upload(uint64 region, int device, uint64 offset, const char *data, uint64 nbytes);
extern void ga_region_download(uint64 region, int device, uint64 offset, char *data, uint64 nbytes);

/*
 * Uploads to a GPU of what the caller produces in place: he fills a buffer while
 * the device copies the one before, and does nothing else with devices meanwhile.
 */
typedef struct GaUpload
{
	uint64		region;
	int			device;
	uint64		piece;			/* bytes of a buffer */
	char	   *buffers;		/* two */
	int			turn;
	bool		pending;
} GaUpload;

/* Buffers for so many bytes, or a few MB at most. */
extern void ga_upload_begin(GaUpload *upload, uint64 region, int device, uint64 nbytes);
extern char *ga_upload_buffer(GaUpload *upload);
extern void ga_upload_send(GaUpload *upload, uint64 offset, uint64 nbytes);
extern void ga_upload_end(GaUpload *upload);

/* From region to region of one device. */
extern void ga_region_copy(int device, uint64 source, uint64 target, uint64 nbytes);

/* One per leaf of the first nbytes bytes. */
extern void ga_region_fingerprint(uint64 region, int device, uint64 nbytes, GaFingerprint *out);

/* 64 KiB per listed leaf (missing bytes of the last leaf are zero), in list order; and SHA-256 of each leaf (32 bytes each). */
extern void ga_region_gather(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, char *out);
extern void ga_region_sha256(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, uint8 *out);

/* Rows from one region to another: pairs of (source offset, target offset). */
extern void ga_region_gather_rows(int device, uint64 source, uint64 target, const uint64 (*pairs)[2], uint32 n, uint32 row_bytes);

/*
 * The rows with the smallest lower bounds of their distances to each of
 * ask->nqueries queries, of a region of a GPU that holds records (protocol.h);
 * ask->nqueries and flags are otherwise filled in here. `after`, unless NULL, is
 * an array of one for each query; `queries` their elements, each padded to a
 * multiple of 8 bytes. pairs: ask->limit for each query, of which counts[i] are
 * filled in, ascending.
 */
extern void ga_region_knn(uint64 region, int device, const GaKnnAsk *ask, const GaKnnDevicePair *after, const void *queries,
						  GaKnnDevicePair *pairs, uint64 *counts);

/*
 * Lets one client fetch the memory of a GPU region with this token until the time given, or until it is revoked by its
 * name, 16 bytes. A process that does not serve has nothing to revoke: that is no error.
 */
extern void ga_region_grant(uint64 region, int device, bool write, const uint8 *name, const uint8 *token, TimestampTz expires);
extern void ga_region_revoke(int device, const uint8 *name);

/* ---- what the last request of this backend did: gpuagent.last_query() and counters ---- */

typedef struct GaLastRequest
{
	int			device;			/* GA_DEVICE_HOST when it ran, or fell back, there */
	uint64		rows;			/* leaves or rows that it went over */
	uint64		batch;			/* requests that it took */
	double		queue_ms;
	double		device_ms;
	const char *fallback_reason;	/* static; NULL: none */

	/* of a scan of an index */
	Oid			index;			/* InvalidOid: none, and nothing of the below */
	double		catchup_ms;		/* bringing its copy up to date, or making it */
	uint64		rechecks;		/* rows whose distance had to be computed from the table's */
} GaLastRequest;

extern GaLastRequest ga_last_request;

/* Counts a fallback in stat_device and remembers the reason, a static string, for last_query(). */
extern void ga_device_fallback(const char *reason);

/* ---- supervisor ---- */

/* Called about once a second, without a transaction: gives up what belongs to nothing any more. Never throws. */
extern void (*ga_device_sweep) (void);

/* Registers the background worker; only while preloading. */
extern void ga_supervisor_register(void);

#endif							/* GA_DEVICE_H */
