/*
 * region.h
 *		The registry of mapped regions and of the leases on them, in the server's
 *		main shared memory. It knows nothing of what is in a region.
 *
 * A region is created LOADING by one backend, becomes READY, and lives while it
 * has leases. Leases belong to a role, not to a connection or transaction.
 * Expired leases and regions without leases are removed by the reaper (the
 * supervisor, ga_regions_reap). A removed region that a client still holds is
 * EXPIRED: no new lease, its bytes stay counted until the client lets go.
 *
 * A region of what its transaction wrote itself is private: other backends do
 * not find it until the transaction commits, and it ends with all its leases
 * when the (sub)transaction that made it aborts.
 *
 * ga_region_lock protects all of it. It is an LWLock: nothing that throws,
 * waits or does I/O happens under it; it is the last lock to be taken. Backends
 * that want the same contents take ga_region_exclude first, a lock that the
 * deadlock detector knows, so that one of them loads and the others join it.
 */
#ifndef GA_REGION_H
#define GA_REGION_H

#include "base/compat.h"
#include "base/names.h"
#include "datatype/timestamp.h"
#include "device/device.h"
#include "math/dtype.h"
#include "storage/lwlock.h"
#include "utils/uuid.h"

typedef enum GaRegionKind
{
	GA_KIND_SHM,				/* a file that np.memmap opens */
	GA_KIND_CUDA_FD,
	GA_KIND_CUDA_IPC
} GaRegionKind;

typedef enum GaRegionState
{
	GA_REGION_UNUSED = 0,
	GA_REGION_LOADING,
	GA_REGION_READY,
	GA_REGION_LOST,				/* the device lost its contents */
	GA_REGION_EXPIRED			/* no leases, but a client holds it */
} GaRegionState;

#define GA_CONTENT_LEN 32
#define GA_OBJECT_MAX (GA_NAME_MAX + 16)	/* "swarm:" + name, with a final zero */

typedef struct GaRegion
{
	GaRegionState state;
	uint64		id;				/* never used again while the server runs */
	Oid			database;
	char		object[GA_OBJECT_MAX];	/* "swarm:pop", "agents", "query" */
	int64		version;		/* of a swarm, as loaded or last synced; 0 for others */
	uint8		content[GA_CONTENT_LEN];	/* hash of the tensor of that version: numbers of versions come again after a deletion */
	bool		writable;
	int			private_pid;	/* not committed: the only process that finds it; 0: everybody does */
	bool		autosync;
	GaRegionKind kind;
	int			device;
	uint32		device_epoch;	/* of the device process when it was made or restored */
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];
	uint64		nbytes;
	uint64		size_bytes;		/* taken */
	uint8		ipc_handle[64];
	int			loader_pid;		/* until it has a lease itself: who; that process gone means nobody will finish it */
	int			leases;
	TimestampTz resident_since;
	TimestampTz last_used_at;

	/* write-back (live/live.c) */
	int64		synced_step;	/* of the control block at the last sync */
	TimestampTz last_sync_at;
	char		last_sync_error[GA_ERROR_LEN];
} GaRegion;

typedef struct GaLease
{
	bool		used;
	pg_uuid_t	handle;
	uint64		region;			/* id */
	Oid			owner;			/* role */
	bool		write;
	int			client_pid;		/* of the backend that mapped it */
	TimestampTz granted_at;
	TimestampTz expires_at;
} GaLease;

/* Set in the epoch of the control page once the region is EXPIRED. */
#define GA_EPOCH_EXPIRED 0x80000000u

/* Fourth field of advisory locks: those of users have 1 and 2. */
#define GA_LOCKTAG_REGION 0x6761

extern void ga_region_register(void);	/* shared area; gpuagent.max_handles regions and as many leases */
extern LWLock *ga_region_lock(void);

/*
 * Keeps others out who want to load the same object, waiting for them as for
 * any lock of the server; until ga_region_admit or the transaction's end.
 */
extern void ga_region_exclude(const char *object, bool writable);
extern void ga_region_admit(const char *object, bool writable);

/*
 * A new LOADING region with the caller's values in `wanted` (id and state are
 * set here) and the id; 53400 when all are taken. Removed again when the
 * caller's (sub)transaction aborts or it exits before the first lease.
 */
extern uint64 ga_region_begin(const GaRegion *wanted);

/* The id of a region that its maker looks after himself, outside of the registry. */
extern uint64 ga_region_new_id(void);
extern void ga_region_ready(uint64 id, uint64 size_bytes, const uint8 *ipc_handle);

/* Copy of a region; false when there is none with this id. */
extern bool ga_region_get(uint64 id, GaRegion *copy);

/*
 * The READY region of an object in this database; false when there is none. version < 0: any; content NULL: any.
 * Of several, the newest version.
 */
extern bool ga_region_find(const char *object, bool writable, int64 version, const uint8 *content, GaRegion *copy);

/* The same among those on a device, or GA_DEVICE_ANY; those that others can write whatever the mode (cuda_ipc) only when asked for. */
#define GA_DEVICE_ANY (-2)
extern bool ga_region_find_on(int device, bool ipc, const char *object, bool writable, int64 version, const uint8 *content,
							  GaRegion *copy);

/* Calls back under the lock in shared mode, for views and for autosync: do little. */
extern void ga_regions_each(void (*each) (const GaRegion *region, void *arg), void *arg);
extern void ga_leases_each(void (*each) (const GaLease *lease, const GaRegion *region, void *arg), void *arg);

/* Changes a region under the lock in exclusive mode; false when it is gone. */
extern bool ga_region_update(uint64 id, void (*change) (GaRegion *region, void *arg), void *arg);

/*
 * Leases. False when the region is not there any more: look for it again; 53400
 * when all handles are taken.
 */
extern bool ga_lease_grant(uint64 region, bool write, TimestampTz expires_at, GaLease *lease);

/* Only members of the owner's role renew or end a lease of this database; others find nothing (false). */
extern bool ga_lease_renew(const pg_uuid_t *handle, TimestampTz expires_at);
extern bool ga_lease_end(const pg_uuid_t *handle);

/* Takes back a lease that nobody was told of; never throws, as while an error is on its way. */
extern void ga_lease_cancel(const pg_uuid_t *handle);
extern int64 ga_leases_end(const char *object);	/* own ones; their number */

/*
 * Ends expired leases, removes regions that nobody leases or holds, and those
 * that a dead loader left; all of a database when it is given (DROP DATABASE).
 * Never throws. Called by the supervisor about once a second, and after an end.
 */
extern void ga_regions_reap(Oid dropped_database);

#endif							/* GA_REGION_H */
