/*
 * live.c
 *		Regions as a transaction knows them (live.h): what becomes true of them
 *		when it commits, and what is forgotten when it does not.
 *
 * Callbacks at the end of a transaction only copy memory that was prepared
 * before: they neither allocate nor throw. They run before the transaction's
 * locks are released, so that whoever waits for a region finds it up to date.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <unistd.h>

#include "access/xact.h"
#include "base/shared.h"
#include "device/guard.h"
#include "device/mapping.h"
#include "device/ops.h"
#include "miscadmin.h"
#include "live/live.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define HASH_BATCH 16384		/* leaves in one request */

static GaLive *lives = NULL;
static SubTransactionId syncing = InvalidSubTransactionId;	/* the one that stores the version of a sync */

/* ---- tables ---- */

/* All SHA-256, where that is so fast that it need not wait until somebody asks for them. */
static void
hash_on_device(uint64 region, int device, GaLeaves *leaves)
{
	uint32		list[HASH_BATCH];

	for (uint64 i = 0; i < leaves->nleaves; i += HASH_BATCH)
	{
		uint32		n = Min(HASH_BATCH, leaves->nleaves - i);

		for (uint32 k = 0; k < n; k++)
			list[k] = (uint32) (i + k);
		ga_region_sha256(region, device, leaves->header->nbytes, list, n, (uint8 *) &leaves->hashes[i]);
	}
	for (uint64 i = 0; i < leaves->nleaves; i++)
		leaves->chunks[i / GA_CHUNK_LEAVES].hashed |= 1 << (i % GA_CHUNK_LEAVES);
}

void
ga_live_begin(uint64 region, int device, const GaHash *tensor)
{
	GaReader   *reader = ga_reader_open(tensor);
	GaLeaves	leaves;

	ga_leaves_create(region, reader->nbytes, &leaves);
	PG_TRY();
	{
		ga_leaves_set_tensor(&leaves, reader);
		if (reader->nbytes > 0)
			ga_region_fingerprint(region, device, reader->nbytes, leaves.prints);
		if (device != GA_DEVICE_HOST)
			hash_on_device(region, device, &leaves);
		leaves.header->valid = 1;
	}
	PG_FINALLY();
	{
		ga_leaves_close(&leaves);
	}
	PG_END_TRY();
	ga_reader_close(reader);
}

static void
apply_change(const GaLiveChange *change, GaLeaves *leaves)
{
	leaves->header->valid = 0;
	for (uint64 i = 0; i < change->nchunks; i++)
		leaves->chunks[change->chunk_numbers[i]] = change->chunks[i];
	for (uint64 i = 0; i < change->nleaves; i++)
	{
		leaves->prints[change->leaf_numbers[i]] = change->prints[i];
		leaves->hashes[change->leaf_numbers[i]] = change->hashes[i];
	}
	leaves->header->tensor = change->tensor;
	leaves->header->valid = 1;
}

/* ---- ends of transactions ---- */

static void
note_synced(GaRegion *region, void *arg)
{
	const GaLiveChange *change = arg;

	region->version = change->version;
	memcpy(region->content, &change->tensor, sizeof region->content);
	region->synced_step = (int64) change->step;
	region->last_sync_at = GetCurrentTimestamp();
	region->last_sync_error[0] = '\0';
}

static void
apply_changes(GaLive *live)
{
	GaLiveChange *oldest_first = NULL;
	GaLiveChange *newest = live->changes;

	while (live->changes != NULL)
	{
		GaLiveChange *change = live->changes;

		live->changes = change->older;
		change->older = oldest_first;
		oldest_first = change;
	}
	for (GaLiveChange *change = oldest_first; change != NULL; change = change->older)
	{
		if (live->leaves.header != NULL)
			apply_change(change, &live->leaves);
		/* What was torn is a version now. */
		if (change->torn_sequence != 0)
			__atomic_compare_exchange_n(&live->control->sequence, &change->torn_sequence, change->torn_sequence + 1,
										false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	}
	if (newest != NULL)
	{
		live->control->base_version = newest->version;
		(void) ga_region_update(live->region, note_synced, newest);
	}
	if (live->stale != InvalidSubTransactionId)
		__atomic_fetch_add(&live->control->epoch, 1, __ATOMIC_ACQ_REL);
}

static void
close_lives(void)
{
	for (GaLive *live = lives; live != NULL; live = live->next)
	{
		ga_leaves_close(&live->leaves);
		ga_guard_unmap(live->control);
	}
	lives = NULL;				/* its memory goes with the transaction */
}

static void
at_xact_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			for (GaLive *live = lives; live != NULL; live = live->next)
				if (live->changes != NULL)
					ereport(ERROR,
							(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							 errmsg("cannot PREPARE a transaction that has synced a mapped swarm"),
							 errhint("Commit it, or sync after it.")));
			break;
		case XACT_EVENT_COMMIT:
			for (GaLive *live = lives; live != NULL; live = live->next)
				apply_changes(live);
			close_lives();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			close_lives();
			break;
		default:
			break;
	}
	if (event == XACT_EVENT_ABORT)
		syncing = InvalidSubTransactionId;
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	/* Not when a trigger catches an error of its own. */
	if (event == SUBXACT_EVENT_ABORT_SUB && syncing == subid)
		syncing = InvalidSubTransactionId;
	for (GaLive *live = lives; live != NULL; live = live->next)
	{
		if (event == SUBXACT_EVENT_ABORT_SUB)
		{
			/* Its changes are the newest. */
			while (live->changes != NULL && live->changes->subid == subid)
			{
				live->changes = live->changes->older;
				live->overlay.header = NULL;
			}
			if (live->stale == subid)
				live->stale = InvalidSubTransactionId;
			continue;
		}
		for (GaLiveChange *change = live->changes; change != NULL && change->subid == subid; change = change->older)
			change->subid = parent;
		if (live->stale == subid)
			live->stale = parent;
	}
}

/* ---- state of a region in this transaction ---- */

static GaControl *
map_control(uint64 region)
{
	char		path[MAXPGPATH];
	void	   *page;
	int			fd;

	ga_region_path(path, sizeof path, region, "");
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	page = ga_guard_map(fd, GA_PAGE);
	close(fd);
	if (page == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map file \"%s\"", path)));
	return page;
}

static GaLive *
find_live(uint64 region)
{
	static bool registered = false;
	GaLive	   *live;
	GaControl  *control;

	if (!registered)
	{
		RegisterXactCallback(at_xact_end, NULL);
		RegisterSubXactCallback(at_subxact_end, NULL);
		registered = true;
	}
	for (live = lives; live != NULL; live = live->next)
		if (live->region == region)
			return live;
	live = MemoryContextAllocZero(TopTransactionContext, sizeof(GaLive));
	control = map_control(region);
	if (control == NULL)
		return NULL;
	live->region = region;
	live->control = control;
	live->next = lives;
	lives = live;
	return live;
}

static void
set_lost(GaRegion *region, void *arg)
{
	if (region->state == GA_REGION_READY)
		region->state = GA_REGION_LOST;
}

bool
ga_live_lose(const GaRegion *region)
{
	if (ga_region_is_whole(region->id, region->device, region->nbytes))
		return false;
	(void) ga_region_update(region->id, set_lost, NULL);
	return true;
}

void
ga_live_report_lost(const char *swarm)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a client has destroyed the mapped memory of swarm \"%s\"", swarm),
			 errdetail("Its file was shortened or overwritten, as opening it with mode w+ does."),
			 errhint("Map the swarm again.")));
}

GaLive *
ga_live_open(const GaRegion *region)
{
	GaLive	   *live = find_live(region->id);

	if (live != NULL && live->leaves.header == NULL)
		ga_leaves_open(region->id, region->nbytes, &live->leaves);
	return live;
}

bool
ga_live_is_stale(uint64 region)
{
	for (GaLive *live = lives; live != NULL; live = live->next)
		if (live->region == region)
			return live->stale != InvalidSubTransactionId;
	return false;
}

GaLiveChange *
ga_live_change(uint64 nchunks, uint64 nleaves)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	GaLiveChange *change = palloc0(sizeof(GaLiveChange));

	change->nchunks = nchunks;
	change->chunk_numbers = palloc_extended(nchunks * sizeof(uint64), MCXT_ALLOC_HUGE);
	change->chunks = palloc_extended(nchunks * sizeof(GaLeafChunk), MCXT_ALLOC_HUGE);
	change->nleaves = nleaves;
	change->leaf_numbers = palloc_extended(nleaves * sizeof(uint32), MCXT_ALLOC_HUGE);
	change->prints = palloc_extended(nleaves * sizeof(GaFingerprint), MCXT_ALLOC_HUGE);
	change->hashes = palloc_extended(nleaves * sizeof(GaHash), MCXT_ALLOC_HUGE);
	MemoryContextSwitchTo(old);
	return change;
}

void
ga_live_push(GaLive *live, GaLiveChange *change)
{
	change->subid = GetCurrentSubTransactionId();
	change->older = live->changes;
	live->changes = change;
	if (live->overlay.header != NULL)
		apply_change(change, &live->overlay);
}

/* Fingerprints of what the store has, when nobody knows what the region has. */
static void
make_from_store(GaLive *live, const GaRegion *region)
{
	GaHash		tensor;
	GaReader   *reader;
	char	   *buffer = palloc(GA_CHUNK_SIZE);

	memcpy(&tensor, region->content, sizeof tensor);
	reader = ga_reader_open(&tensor);
	ga_leaves_close(&live->leaves);
	ga_leaves_create(region->id, region->nbytes, &live->leaves);
	ga_leaves_set_tensor(&live->leaves, reader);
	for (uint64 i = 0; i < reader->nchunks; i++)
	{
		size_t		size = ga_tree_span(reader->nbytes, 0, i);

		ga_reader_read(reader, i * GA_CHUNK_SIZE, size, buffer, false);
		ga_fingerprint(ga_fingerprint_key(), buffer, size, live->leaves.prints + i * GA_CHUNK_LEAVES);
	}
	live->leaves.header->valid = 1;
	ga_reader_close(reader);
	pfree(buffer);
}

const GaLeaves *
ga_live_table(GaLive *live, const GaRegion *region)
{
	MemoryContext old;
	GaLiveChange **list;
	int			n = 0;

	if (live->leaves.header == NULL || !live->leaves.header->valid ||
		memcmp(&live->leaves.header->tensor, region->content, sizeof(GaHash)) != 0)
		make_from_store(live, region);
	if (live->changes == NULL)
		return &live->leaves;
	if (live->overlay.header != NULL)
		return &live->overlay;

	old = MemoryContextSwitchTo(TopTransactionContext);
	ga_leaves_copy(&live->leaves, &live->overlay);
	MemoryContextSwitchTo(old);
	for (GaLiveChange *change = live->changes; change != NULL; change = change->older)
		n++;
	list = palloc(sizeof(GaLiveChange *) * n);
	n = 0;
	for (GaLiveChange *change = live->changes; change != NULL; change = change->older)
		list[n++] = change;
	while (n > 0)
		apply_change(list[--n], &live->overlay);
	pfree(list);
	return &live->overlay;
}

void
ga_live_refresh(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
ga_live_syncing(bool on)
{
	syncing = on ? GetCurrentSubTransactionId() : InvalidSubTransactionId;
}

/* ---- versions that others store ---- */

typedef struct Wanted
{
	char		object[GA_OBJECT_MAX];
	int			n;
	int			max;
	uint64	   *ids;
} Wanted;

static void
collect(const GaRegion *region, void *arg)
{
	Wanted	   *wanted = arg;

	if (region->state == GA_REGION_READY && region->writable && region->database == MyDatabaseId &&
		wanted->n < wanted->max && strcmp(region->object, wanted->object) == 0)
		wanted->ids[wanted->n++] = region->id;
}

/*
 * swarm_changed(swarm text): the transaction gives the swarm a version that its mapped regions do not have. Their
 * clients shall know when it commits.
 */
PG_FUNCTION_INFO_V1(ga_swarm_changed);
Datum
ga_swarm_changed(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);
	uint64		ids[16];
	Wanted		wanted = {.max = lengthof(ids),.ids = ids};

	if (syncing != InvalidSubTransactionId || !ga_shared_ready())
		PG_RETURN_VOID();
	snprintf(wanted.object, sizeof wanted.object, "swarm:%.*s", (int) VARSIZE_ANY_EXHDR(name), VARDATA_ANY(name));
	ga_regions_each(collect, &wanted);
	for (int i = 0; i < wanted.n; i++)
	{
		GaLive	   *live = find_live(ids[i]);

		if (live != NULL && live->stale == InvalidSubTransactionId)
			live->stale = GetCurrentSubTransactionId();
	}
	PG_RETURN_VOID();
}
