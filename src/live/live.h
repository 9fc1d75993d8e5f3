/*
 * live.h
 *		Swarms that are mapped for writing, and how what a client changed becomes
 *		a version (sync_swarm).
 *
 * What is known of the contents that a region was loaded with or last synced to
 * is its leaf table (leaves.h). A table that does not describe the version that
 * the region is based on is never believed: it is made again from the store.
 *
 * Everything a sync finds out is kept with the transaction and becomes true of
 * the region when that commits: the leaf table, the region's version, the
 * control page. A transaction or savepoint that is rolled back leaves the region
 * as dirty as it was.
 */
#ifndef GA_LIVE_H
#define GA_LIVE_H

#include "base/compat.h"
#include "device/device.h"
#include "device/region.h"
#include "live/leaves.h"
#include "store/store.h"

/* ---- load.c ---- */

/*
 * Reads a stored tensor into a region, with as many parallel workers as the
 * server grants (max_parallel_maintenance_workers), each decompressing and, for
 * a GPU, sending while others do the one or the other.
 * Throws as ga_reader_read does. The caller is connected to SPI.
 */
extern void ga_region_load(uint64 region, int device, const GaHash *tensor);

/* ---- live.c ---- */

/* Makes the leaf table of a region that holds the tensor and that nobody writes yet. The caller is connected to SPI. */
extern void ga_live_begin(uint64 region, int device, const GaHash *tensor);

/* What one sync_swarm stored. */
typedef struct GaLiveChange
{
	struct GaLiveChange *older;
	SubTransactionId subid;
	int64		version;
	GaHash		tensor;
	uint64		step;
	uint64		torn_sequence;	/* of torn contents that were synced by force, else 0 */
	uint64		nchunks;
	uint64	   *chunk_numbers;
	GaLeafChunk *chunks;
	uint64		nleaves;
	uint32	   *leaf_numbers;
	GaFingerprint *prints;
	GaHash	   *hashes;
} GaLiveChange;

/* A region as this transaction knows it. */
typedef struct GaLive
{
	struct GaLive *next;
	uint64		region;
	GaControl  *control;		/* a mapping of our own, until the transaction ends */
	GaLeaves	leaves;			/* as committed */
	GaLiveChange *changes;		/* newest first */
	GaLeaves	overlay;		/* a copy of `leaves` with the changes applied, when there are any; made when asked for */
	SubTransactionId stale;		/* subtransaction that gave the swarm another version, 0: none */
} GaLive;

/* The region's state in this transaction, with control page and leaf table mapped; NULL when its memory is gone. */
extern GaLive *ga_live_open(const GaRegion *region);

/* True when a client has destroyed the memory, which is nobody's to join then. */
extern bool ga_live_lose(const GaRegion *region);
extern void ga_live_report_lost(const char *swarm);

/* True when this transaction has given the swarm of the region a version otherwise. */
extern bool ga_live_is_stale(uint64 region);

/* A change that takes effect at commit; the caller fills it. Memory is of the transaction. */
extern GaLiveChange *ga_live_change(uint64 nchunks, uint64 nleaves);
extern void ga_live_push(GaLive *live, GaLiveChange *change);

/*
 * The table of what the region holds as far as this transaction knows: the region's own one, made anew from the store
 * when it is of something else, or a copy of it with the changes.
 */
extern const GaLeaves *ga_live_table(GaLive *live, const GaRegion *region);

/* Lets the caller's active snapshot see what was committed while it waited for a lock. */
extern void ga_live_refresh(void);

/* Versions that are stored in between are those of a sync: they do not make the region stale. */
extern void ga_live_syncing(bool on);

/* ---- snapshot.c ---- */

/* The changed leaves of a region, all of one moment between two steps of its client. */
typedef struct GaSnapshot
{
	uint64		region;
	int			device;
	uint64		nbytes;
	const GaControl *control;
	uint64		sequence;
	uint64		step;
	bool		torn;			/* contents of a step whose writer died; only with force */
	GaFingerprint *prints;		/* of all leaves */
	uint32		ndirty;
	uint32	   *dirty;			/* numbers, ascending */
	GaHash	   *hashes;			/* SHA-256 of those, or NULL */
	char	   *data;			/* 64 KiB each, or NULL: they are read from the region while it is locked */
	size_t		data_bytes;
	int			lock;			/* fd of the region's file while its step lock is held, else -1 */
} GaSnapshot;

/*
 * Takes a snapshot of what differs from the table. Waits while a client is in
 * its step, or with nowait soon gives up and returns false. 55000 for torn contents
 * unless forced. ga_snapshot_end must follow; an ERROR ends it too.
 */
extern bool ga_snapshot_take(const GaRegion *region, const GaControl *control, const GaLeaves *table, bool force,
							 bool nowait, GaSnapshot *snapshot);

/* Copies dirty leaves [first, first + n) of the list. */
extern void ga_snapshot_read(const GaSnapshot *snapshot, uint32 first, uint32 n, char *out);

/* 55000 when what was read from the region itself was not of one moment. */
extern void ga_snapshot_check(const GaSnapshot *snapshot);
extern void ga_snapshot_end(GaSnapshot *snapshot);

/*
 * Keeps clients out of their steps: waits for a running one, or (!patient) for about 0.1 s, after which it gives -1. Else
 * an fd for ga_step_unlock, which an ERROR closes as well.
 */
extern int	ga_step_lock(const GaRegion *region, const GaControl *control, bool patient);
extern void ga_step_unlock(int fd);

/* ---- sync.c ---- */

typedef struct GaSyncResult
{
	int64		version;
	bool		changed;
	int64		dirty_bytes;
	int64		step;
} GaSyncResult;

/*
 * Makes the contents of a swarm's region a version. With nowait, false when a
 * client is in its step. The caller is connected to SPI with a fresh snapshot.
 */
extern bool ga_sync(const char *swarm, Datum metadata, bool has_metadata, bool force, bool nowait, GaSyncResult *result);

/* ---- revert.c ---- */

/* Reads the newest version into the swarm's region; the version. The caller is connected as for ga_sync. */
extern int64 ga_revert(const char *swarm);

#endif							/* GA_LIVE_H */
