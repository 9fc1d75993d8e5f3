/*
 * sync.c
 *		sync_swarm: what a client changed in a mapped swarm becomes a version.
 *
 * Order: the region is excluded from others until the transaction ends; a
 * snapshot of the changed leaves is taken (snapshot.c); only when there are any
 * the swarm's row is locked and everything written. So a sync that finds nothing
 * writes nothing and takes no transaction id. The snapshot may be older than
 * the row's lock: it is a state that the client published, of a region that is
 * based on the version that is still the current one.
 *
 * A chunk with few changed leaves is stored as a delta of the chunk that it was,
 * or of that one's base. What of it did not change is known by its SHA-256 from
 * the table; where that is not known yet, or where contents are needed, they
 * are read from the region, which is believed when the fingerprint is that of
 * the table, else from the store.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "base/guc.h"
#include "base/names.h"
#include "catalog/pg_type.h"
#include "device/mapping.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "store/delta.h"
#include "store/doom.h"
#include "live/live.h"
#include "math/shuffle.h"
#include "store/plan.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Changed chunks that are worked on at a time. */
#define BATCH 16

/* A delta with the base's bytes XORed away must be this much smaller than one without: reading the base costs time. */
#define XOR_PAYS(xored, plain) ((xored) < (plain) / 2)

/* Versions of live swarms do not live long: they are compressed when that saves a quarter of what is written. */
#define COMPRESSION_PAYS(packed, raw) ((packed) <= (raw) - (raw) / 4)

/* One chunk of as many is tried both ways. */
#define SAMPLE 32

/* A changed chunk. */
typedef struct Chunk
{
	uint64		number;
	size_t		nbytes;
	uint32		first;			/* of its leaves in the list of dirty ones */
	uint16		dirty;
	uint16		needed;			/* leaves that are in `data` */
	GaLeafChunk info;			/* as in the table, then as stored now */
	GaHash	   *hashes;			/* of its leaves, in the table */
	char	   *data;			/* GA_CHUNK_SIZE; where it is whole, contents at their place */
} Chunk;

typedef struct Sync
{
	const GaRegion *region;
	const GaLeaves *table;
	bool		committed;		/* the table is that of the region, not a copy with what this transaction has synced */
	const GaSnapshot *snapshot;
	GaReader   *reader;			/* of the tensor that the table describes */
	int			width;
	GaLiveChange *change;
	uint64		nchunks;		/* done */
	int			until_xor;		/* deltas until XOR is tried again */
	bool		xor;
	int			until_compress;	/* chunks and deltas until compression is tried again */
	bool		compress;
	char	   *buffer;			/* BATCH chunks */
	char	   *scratch;		/* one */
} Sync;

static uint16
mask_of(size_t nbytes)
{
	return (uint16) (((uint32) 1 << ((nbytes + GA_LEAF_SIZE - 1) / GA_LEAF_SIZE)) - 1);
}

static size_t
leaf_size(size_t nbytes, int leaf)
{
	return Min(GA_LEAF_SIZE, nbytes - (size_t) leaf * GA_LEAF_SIZE);
}

/* ---- contents of a batch ---- */

/* Looks up how the chunk is stored that was there before. */
static void
find_base(Sync *sync, Chunk *chunk)
{
	GaLeafChunk *info = &sync->table->chunks[chunk->number];

	if (!info->known)
	{
		/* First as a delta: a chunk that has both rows is becoming one, and may not be a base. */
		if (!ga_delta_find(&info->hash, &info->base, &info->differ))
		{
			info->base = info->hash;
			info->differ = 0;
		}
		info->known = 1;
	}
	chunk->info = *info;
}

/*
 * A chunk that is changed in a leaf again and again is written with one leaf, with two, and so on, until it is
 * written whole: least in all when that is after the fifth.
 */
static bool
is_small(const Chunk *chunk)
{
	return 3 * ga_delta_bytes(chunk->nbytes, chunk->info.differ | chunk->dirty) <= chunk->nbytes;
}

static void
read_dirty(Sync *sync, Chunk *chunk)
{
	uint32		n = pg_popcount32(chunk->dirty);
	uint32		at = chunk->first;

	for (int i = 0; n > 0 && i < GA_CHUNK_LEAVES;)
	{
		int			run = 0;

		while (i + run < GA_CHUNK_LEAVES && chunk->dirty & (1 << (i + run)))
			run++;
		if (run > 0)
			ga_snapshot_read(sync->snapshot, at, run, chunk->data + (size_t) i * GA_LEAF_SIZE);
		at += run;
		i += run + 1;
	}
}

/* Clean leaves that are wanted of a batch, from the region where it still has them, else from the store. */
static void
read_clean(Sync *sync, Chunk *chunks, int n, const uint16 *wanted)
{
	uint32		list[BATCH * GA_CHUNK_LEAVES];
	uint32		nlist = 0,
				at = 0;
	char	   *out;

	for (int c = 0; c < n; c++)
		for (int i = 0; i < GA_CHUNK_LEAVES; i++)
			if (wanted[c] & (1 << i))
				list[nlist++] = chunks[c].number * GA_CHUNK_LEAVES + i;
	if (nlist == 0)
		return;
	out = palloc((Size) nlist * GA_LEAF_SIZE);
	ga_region_gather(sync->region->id, sync->region->device, sync->region->nbytes, list, nlist, out);
	for (int c = 0; c < n; c++)
	{
		bool		loaded = false;

		for (int i = 0; i < GA_CHUNK_LEAVES; i++)
		{
			size_t		size;
			char	   *place = chunks[c].data + (size_t) i * GA_LEAF_SIZE;
			GaFingerprint print;

			if (!(wanted[c] & (1 << i)))
				continue;
			size = leaf_size(chunks[c].nbytes, i);
			ga_fingerprint(ga_fingerprint_key(), out + (Size) at * GA_LEAF_SIZE, size, &print);
			if (memcmp(&print, &sync->table->prints[list[at]], sizeof print) == 0)
				memcpy(place, out + (Size) at * GA_LEAF_SIZE, size);
			else
			{
				if (!loaded)
					ga_reader_read(sync->reader, chunks[c].number * GA_CHUNK_SIZE, chunks[c].nbytes, sync->scratch, false);
				loaded = true;
				memcpy(place, sync->scratch + (size_t) i * GA_LEAF_SIZE, size);
			}
			at++;
		}
		chunks[c].needed |= wanted[c];
	}
	pfree(out);
}

/* ---- one chunk ---- */

static void
hash_chunk(Sync *sync, Chunk *chunk)
{
	GaLeafChunk *old = &sync->table->chunks[chunk->number];
	GaHash		leaves[GA_CHUNK_LEAVES];
	uint32		at = chunk->first;
	GaLiveChange *change = sync->change;

	for (int i = 0; i < GA_CHUNK_LEAVES && (size_t) i * GA_LEAF_SIZE < chunk->nbytes; i++)
	{
		const char *data = chunk->data + (size_t) i * GA_LEAF_SIZE;

		if (chunk->dirty & (1 << i))
		{
			if (sync->snapshot->hashes != NULL)
				leaves[i] = sync->snapshot->hashes[at];
			else
				ga_hash_leaves(data, leaf_size(chunk->nbytes, i), &leaves[i]);
			change->hashes[at++] = leaves[i];
			continue;
		}
		if (old->hashed & (1 << i))
		{
			leaves[i] = chunk->hashes[i];
			continue;
		}
		ga_hash_leaves(data, leaf_size(chunk->nbytes, i), &leaves[i]);
		if (sync->committed)
		{
			/* True of the table as it is, so it need not wait for the commit. */
			chunk->hashes[i] = leaves[i];
			old->hashed |= 1 << i;
		}
	}
	chunk->info.hashed = old->hashed | chunk->dirty;
	ga_hash_chunk_of_leaves(chunk->nbytes, leaves, &chunk->info.hash);
}

/* The leaves of a mask, one after the other. */
static void
pack_leaves(const char *from, size_t nbytes, uint16 mask, char *to)
{
	for (int i = 0; i < GA_CHUNK_LEAVES; i++)
		if (mask & (1 << i))
		{
			memcpy(to, from + (size_t) i * GA_LEAF_SIZE, leaf_size(nbytes, i));
			to += leaf_size(nbytes, i);
		}
}

static bool
xor_pays(const char *payload, const char *base, size_t size, int width)
{
	char	   *difference = palloc(size);
	size_t		plain,
				xored;
	int			codec;

	ga_xor(difference, payload, base, size);
	plain = VARSIZE(ga_chunk_pack(payload, size, width, true, &codec));
	xored = VARSIZE(ga_chunk_pack(difference, size, width, true, &codec));
	pfree(difference);
	return XOR_PAYS(xored, plain);
}

/* The base's leaves of a mask when XOR with them pays, as a sample says; else NULL. */
static char *
leaves_to_xor(Sync *sync, const Chunk *chunk, uint16 mask, const char *payload)
{
	size_t		size = ga_delta_bytes(chunk->nbytes, mask);
	bool		sample = sync->until_xor == 0;
	char	   *leaves;

	sync->until_xor = sample ? SAMPLE : sync->until_xor - 1;
	if (!ga_compression || (!sample && !sync->xor) ||
		!ga_chunk_load_row(&chunk->info.base, chunk->nbytes, sync->scratch))
		return NULL;
	leaves = palloc(size);
	pack_leaves(sync->scratch, chunk->nbytes, mask, leaves);
	if (sample)
		sync->xor = xor_pays(payload, leaves, size, sync->width);
	if (sync->xor)
		return leaves;
	pfree(leaves);
	return NULL;
}

static bool
try_compression(Sync *sync)
{
	return sync->compress || sync->until_compress == 0;
}

static void
note_compression(Sync *sync, size_t stored, size_t raw)
{
	if (sync->until_compress > 0)
		sync->until_compress--;
	else if (stored > 0)
	{
		sync->compress = COMPRESSION_PAYS(stored, raw);
		sync->until_compress = SAMPLE;
	}
}

/* Stores the chunk as a delta; false when that does not make it smaller than its base is. */
static bool
store_delta(Sync *sync, Chunk *chunk)
{
	uint16		mask = chunk->info.differ | chunk->dirty;
	size_t		size = ga_delta_bytes(chunk->nbytes, mask);
	size_t		limit;
	char	   *payload;
	char	   *to_xor;
	int64		stored;

	/* The base must be one, whatever was known: a delta of a delta could not be read, nor one of garbage. */
	limit = ga_delta_base_size(&chunk->info.base, chunk->nbytes);
	if (limit == 0)
		return false;
	payload = palloc(size);
	pack_leaves(chunk->data, chunk->nbytes, mask, payload);
	to_xor = leaves_to_xor(sync, chunk, mask, payload);
	stored = ga_delta_store(&chunk->info.hash, chunk->nbytes, &chunk->info.base, mask, payload, to_xor, sync->width,
							to_xor != NULL || try_compression(sync), limit);
	if (to_xor)
		pfree(to_xor);
	else
		note_compression(sync, Max(stored, 0), size);
	pfree(payload);
	chunk->info.differ = mask;
	chunk->info.known = stored > 0;
	return stored >= 0;
}

static void
store_chunk(Sync *sync, Chunk *chunk)
{
	uint16		rest;
	size_t		stored;

	if (is_small(chunk) && store_delta(sync, chunk))
		return;
	rest = mask_of(chunk->nbytes) & ~chunk->needed;
	if (rest != 0)
		read_clean(sync, chunk, 1, &rest);
	stored = ga_chunk_store_packed(chunk->data, chunk->nbytes, sync->width, &chunk->info.hash, try_compression(sync));
	note_compression(sync, stored, chunk->nbytes);
	chunk->info.known = stored > 0;
	chunk->info.base = chunk->info.hash;
	chunk->info.differ = 0;
}

/* ---- all chunks ---- */

static void
store_batch(Sync *sync, Chunk *chunks, int n)
{
	uint16		wanted[BATCH] = {0};
	GaLiveChange *change = sync->change;

	for (int c = 0; c < n; c++)
	{
		uint16		all = mask_of(chunks[c].nbytes);
		uint16		unknown;

		chunks[c].data = sync->buffer + (Size) c * GA_CHUNK_SIZE;
		chunks[c].hashes = &sync->table->hashes[chunks[c].number * GA_CHUNK_LEAVES];
		find_base(sync, &chunks[c]);
		read_dirty(sync, &chunks[c]);
		chunks[c].needed = chunks[c].dirty;
		unknown = all & ~sync->table->chunks[chunks[c].number].hashed;
		wanted[c] = (is_small(&chunks[c]) ? unknown | chunks[c].info.differ : all) & ~chunks[c].dirty;
	}
	read_clean(sync, chunks, n, wanted);
	for (int c = 0; c < n; c++)
	{
		CHECK_FOR_INTERRUPTS();
		hash_chunk(sync, &chunks[c]);
		store_chunk(sync, &chunks[c]);
		change->chunk_numbers[sync->nchunks] = chunks[c].number;
		change->chunks[sync->nchunks++] = chunks[c].info;
	}
}

/* Number of chunks that the dirty leaves are in. */
static uint64
count_chunks(const GaSnapshot *s)
{
	uint64		n = 0;

	for (uint32 i = 0; i < s->ndirty; i++)
		if (i == 0 || s->dirty[i] / GA_CHUNK_LEAVES != s->dirty[i - 1] / GA_CHUNK_LEAVES)
			n++;
	return n;
}

/* Stores all that changed; the change describes it. */
static void
store_changes(Sync *sync)
{
	const GaSnapshot *s = sync->snapshot;
	GaLiveChange *change = sync->change;
	Chunk		chunks[BATCH];
	int			n = 0;
	uint64	   *numbers;
	GaHash	   *hashes;

	for (uint32 i = 0; i < s->ndirty; i++)
	{
		uint64		number = s->dirty[i] / GA_CHUNK_LEAVES;

		change->leaf_numbers[i] = s->dirty[i];
		change->prints[i] = s->prints[s->dirty[i]];
		if (n == 0 || chunks[n - 1].number != number)
		{
			if (n == BATCH)
			{
				store_batch(sync, chunks, n);
				n = 0;
			}
			memset(&chunks[n], 0, sizeof(Chunk));
			chunks[n].number = number;
			chunks[n].nbytes = ga_tree_span(sync->reader->nbytes, 0, number);
			chunks[n].first = i;
			n++;
		}
		chunks[n - 1].dirty |= 1 << (s->dirty[i] % GA_CHUNK_LEAVES);
	}
	store_batch(sync, chunks, n);

	/* Two equal chunks of the tensor may have been stored once: what is known of each is its own. */
	numbers = palloc_extended(change->nchunks * sizeof(uint64), MCXT_ALLOC_HUGE);
	hashes = palloc_extended(change->nchunks * sizeof(GaHash), MCXT_ALLOC_HUGE);
	for (uint64 i = 0; i < change->nchunks; i++)
	{
		numbers[i] = change->chunk_numbers[i];
		hashes[i] = change->chunks[i].hash;
	}
	ga_store_replace(sync->reader, numbers, hashes, change->nchunks, &change->tensor);
	pfree(numbers);
	pfree(hashes);
}

/* ---- the swarm's rows ---- */

typedef enum SwarmQuery
{
	READ_CURRENT,
	LOCK_TABLE,
	LOCK_CURRENT,
	NEXT_VERSION,
	SET_VERSION
} SwarmQuery;

static GaPlan plans[5];

static const struct
{
	const char *sql;
	int			nargs;
	Oid			types[5];
}			queries[] = {
	{"SELECT s.current, v.tensor FROM gpuagent.swarm s LEFT JOIN gpuagent.swarm_version v "
		"ON v.swarm OPERATOR(pg_catalog.=) s.swarm AND v.version OPERATOR(pg_catalog.=) s.current "
	"WHERE s.swarm OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}},
	{"LOCK TABLE gpuagent.swarm IN ROW EXCLUSIVE MODE", 0, {InvalidOid}},
	{"SELECT s.current, (SELECT v.tensor FROM gpuagent.swarm_version v "
		"WHERE v.swarm OPERATOR(pg_catalog.=) s.swarm AND v.version OPERATOR(pg_catalog.=) s.current) "
	"FROM gpuagent.swarm s WHERE s.swarm OPERATOR(pg_catalog.=) $1 FOR UPDATE OF s", 1, {TEXTOID}},
	{"SELECT gpuagent_store.lock_swarm($1, NULL)", 1, {TEXTOID}},
	{"SELECT gpuagent_store.set_swarm_version($1, $2, $3, $4, $5)", 5, {TEXTOID, INT8OID, BYTEAOID, JSONBOID, INT8OID}}
};

static void
query(SwarmQuery q, const Datum *args, const bool *nulls)
{
	if (!ga_plan_ready(&plans[q], queries[q].nargs, queries[q].types))
		ga_plan_prepare(&plans[q], queries[q].sql, queries[q].nargs, queries[q].types, 0);
	(void) ga_plan_run(&plans[q], args, nulls, false, NULL);
}

/* True when the swarm's current version is this one, with this tensor. */
static bool
is_current(SwarmQuery q, const char *swarm, int64 version, const GaHash *tensor)
{
	Datum		name = CStringGetTextDatum(swarm);
	bool		same = false;

	/* The table before the row, as everybody does who writes it. */
	if (q == LOCK_CURRENT)
		query(LOCK_TABLE, NULL, NULL);
	query(q, &name, NULL);
	if (SPI_processed == 1)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		no_current,
					no_tensor;
		Datum		current = SPI_getbinval(row, desc, 1, &no_current);
		Datum		stored = SPI_getbinval(row, desc, 2, &no_tensor);

		if (!no_current && !no_tensor)
		{
			GaHash		hash;

			ga_hash_from_datum(stored, &hash);
			same = DatumGetInt64(current) == version && memcmp(&hash, tensor, sizeof hash) == 0;
		}
	}
	SPI_freetuptable(SPI_tuptable);
	return same;
}

/* The swarm has a version that the region is not based on. */
static void
report_stale(const char *swarm)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("swarm \"%s\" was changed by another than its mapped memory", swarm),
			 errdetail("Syncing would overwrite the newest version with contents that are not based on it."),
			 errhint("gpuagent.revert_swarm() brings the newest version into the mapped memory, or map the swarm again.")));
}

/* Locks the swarm's row. Clients of a region that is not based on the current version shall know. */
static void
require_current(const GaLive *live, const char *swarm, int64 version, const GaHash *tensor)
{
	if (is_current(LOCK_CURRENT, swarm, version, tensor))
		return;
	__atomic_fetch_add(&live->control->epoch, 1, __ATOMIC_ACQ_REL);
	report_stale(swarm);
}

static int64
store_version(const char *swarm, const GaLiveChange *change, Datum metadata, bool has_metadata)
{
	Datum		args[5] = {CStringGetTextDatum(swarm)};
	bool		nulls[5] = {false, false, false, !has_metadata, false};
	bool		isnull;
	int64		version;

	query(NEXT_VERSION, args, NULL);
	version = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	args[1] = Int64GetDatum(version);
	args[2] = ga_hash_to_datum(&change->tensor);
	args[3] = metadata;
	args[4] = Int64GetDatum((int64) change->step);
	ga_live_syncing(true);
	query(SET_VERSION, args, nulls);
	ga_live_syncing(false);
	return version;
}

/* ---- the whole ---- */

static void
note_clean(GaRegion *region, void *arg)
{
	region->synced_step = *(const int64 *) arg;
	region->last_sync_at = GetCurrentTimestamp();
	region->last_sync_error[0] = '\0';
}

static void
write_back(const char *swarm, GaRegion *region, GaLive *live, const GaLeaves *table, const GaSnapshot *snapshot,
		   Datum metadata, bool has_metadata, GaSyncResult *result)
{
	GaHash		tensor = table->header->tensor;
	Sync		sync;

	ga_tensor_require(&tensor);
	sync = (Sync) {
		.region = region,
		.table = table,
		.committed = live->changes == NULL,
		.snapshot = snapshot,
		.reader = ga_reader_open(&tensor),
		.width = ga_dtype_info(region->dtype)->width,
		.change = ga_live_change(count_chunks(snapshot), snapshot->ndirty),
		.buffer = palloc((Size) BATCH * GA_CHUNK_SIZE),
		.scratch = palloc(GA_CHUNK_SIZE)
	};

	store_changes(&sync);
	ga_snapshot_check(snapshot);
	sync.change->step = snapshot->step;
	sync.change->torn_sequence = snapshot->torn ? snapshot->sequence : 0;
	result->version = sync.change->version = store_version(swarm, sync.change, metadata, has_metadata);
	result->changed = true;
	result->dirty_bytes = 0;
	for (uint32 i = 0; i < snapshot->ndirty; i++)
		result->dirty_bytes += Min((uint64) GA_LEAF_SIZE, region->nbytes - (uint64) snapshot->dirty[i] * GA_LEAF_SIZE);
	ga_live_push(live, sync.change);
	ga_reader_close(sync.reader);
	pfree(sync.buffer);
	pfree(sync.scratch);
}

bool
ga_sync(const char *swarm, Datum metadata, bool has_metadata, bool force, bool nowait, GaSyncResult *result)
{
	char		object[GA_OBJECT_MAX];
	GaRegion	region;
	GaLive	   *live = NULL;
	const GaLeaves *table;
	GaSnapshot	snapshot;
	int64		base_version;
	GaHash		base;

	ga_setup_check();
	ga_name_check("swarm", swarm, strlen(swarm));
	snprintf(object, sizeof object, "swarm:%s", swarm);
	/* Holding the swarm's row, it would wait in a circle with one that holds the region; and it fails anyway. */
	if (ga_region_find(object, true, -1, NULL, &region) && ga_live_is_stale(region.id))
		report_stale(swarm);
	ga_region_exclude(object, true);
	ga_live_refresh();
	if (ga_region_find(object, true, -1, NULL, &region))
		live = ga_live_open(&region);
	if (live == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("swarm \"%s\" is not mapped for writing", swarm),
				 errhint("Map it with gpuagent.map_swarm(.., mode => 'r+').")));
	if (ga_live_lose(&region))
		ga_live_report_lost(swarm);
	base_version = live->changes ? live->changes->version : region.version;
	if (live->changes)
		base = live->changes->tensor;
	else
		memcpy(&base, region.content, sizeof base);

	/* Not yet under the row's lock. What is another version in an old snapshot may be the current one under the lock. */
	if (!is_current(READ_CURRENT, swarm, base_version, &base))
		require_current(live, swarm, base_version, &base);
	table = ga_live_table(live, &region);
	if (!ga_snapshot_take(&region, live->control, table, force, nowait, &snapshot))
		return false;
	if (ga_live_lose(&region))
		ga_live_report_lost(swarm);
	result->version = base_version;
	result->changed = false;
	result->dirty_bytes = 0;
	result->step = (int64) snapshot.step;
	if (snapshot.ndirty > 0)
	{
		require_current(live, swarm, base_version, &base);
		write_back(swarm, &region, live, table, &snapshot, metadata, has_metadata, result);
	}
	else if (live->changes == NULL)
	{
		(void) ga_region_update(region.id, note_clean, &result->step);
		if (snapshot.torn)		/* the writer died before it changed anything */
			__atomic_store_n(&live->control->sequence, snapshot.sequence + 1, __ATOMIC_RELEASE);
	}
	ga_snapshot_end(&snapshot);
	return true;
}
