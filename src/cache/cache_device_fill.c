/*
 * cache_device_fill.c
 *		Filling the device tier of the agent cache, and giving its memory up.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "device/region.h"
#include "miscadmin.h"
#include "cache/cache_device_shared.h"

/* ---- room ---- */

bool
ga_cache_device_spares(int device, uint64 nbytes)
{
	GaDeviceInfo *info = &ga_device_infos(ga_mapping())[device];
	uint64		taken = __atomic_load_n(&info->used_bytes, __ATOMIC_RELAXED) +
		__atomic_load_n(&info->lost_bytes, __ATOMIC_RELAXED);

	return taken + TYPEALIGN(SMALLEST_BLOCK, Max(nbytes, 1)) <= info->budget_bytes;
}

/* Gives up unpinned blocks, in turn, of at least so many bytes; how many. `but`: not those of this matrix. */
static int
give_up(int device, uint64 nbytes, const GaDeviceFill *but)
{
	uint64		freed = 0;
	int			n = 0;

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	n += ga_device_cache_doom_lost();
	for (int i = 0; i < shared->nblocks && freed < nbytes; i++)
	{
		Block	   *block = &shared->blocks[shared->hand++ % shared->nblocks];

		shared->hand %= shared->nblocks;
		if (block->region == 0 || block->doomed || block->device != device || pg_atomic_read_u32(&block->pins) > 0 ||
			(but != NULL && block->database == MyDatabaseId && block->dtype == but->dtype && block->ndim == but->ndim &&
			 memcmp(block->dims, but->dims, sizeof(int64) * but->ndim) == 0))
			continue;
		freed += block->size;
		shared->evictions += block->valid;
		ga_device_cache_doom(block);
		n++;
	}
	ga_device_cache_unlock();
	return n;
}

/* Mapped memory goes first. */
int
ga_device_cache_make_room(int device, uint64 nbytes)
{
	return shared != NULL && shared->nblocks > 0 ? give_up(device, nbytes, NULL) : 0;
}

/* ---- filling ---- */

static bool
is_of_matrix(const Block *block, const GaDeviceFill *fill)
{
	return block->region != 0 && !block->doomed && block->nslots > 0 && block->device == fill->device &&
		block->database == MyDatabaseId && block->epoch == device_epoch() && block->dtype == fill->dtype &&
		block->ndim == fill->ndim && memcmp(block->dims, fill->dims, sizeof(int64) * fill->ndim) == 0;
}

/* A block with slots that were never used, or with freed ones that nobody reads; -1: none. */
static int
block_with_room(const GaDeviceFill *fill)
{
	for (int i = 0; i < shared->nblocks; i++)
	{
		Block	   *block = &shared->blocks[i];

		if (is_of_matrix(block, fill) && (block->touched < block->nslots ||
										  (block->live < block->touched && pg_atomic_read_u32(&block->pins) == 0)))
			return i;
	}
	return -1;
}

/* A block that nobody reads, with slots that the clock's hand has freed; -1: none. */
static int
sweep(const GaDeviceFill *fill, uint32 wanted)
{
	for (int i = 0; i < shared->nblocks; i++)
	{
		int			number = shared->hand++ % shared->nblocks;
		Block	   *block = &shared->blocks[number];
		uint32		freed = 0;

		shared->hand %= shared->nblocks;
		if (!is_of_matrix(block, fill) || pg_atomic_read_u32(&block->pins) > 0)
			continue;
		for (uint32 steps = 0; steps < 2 * block->nslots && freed < Min(wanted, block->nslots); steps++)
		{
			uint32		position = number * BLOCK_SLOTS + block->hand++ % block->nslots;
			Slot	   *slot = slot_at(position);

			block->hand %= block->nslots;
			if (slot->state == SLOT_VALID && slot->used == 0)
			{
				ga_device_cache_unlink_slot(position);
				shared->evictions++;
				freed++;
			}
			slot->used = 0;
		}
		if (freed > 0)
			return number;
	}
	return -1;
}

static uint32
slots_of_matrix(const GaDeviceFill *fill)
{
	uint32		n = 0;

	for (int i = 0; i < shared->nblocks; i++)
		if (is_of_matrix(&shared->blocks[i], fill))
			n += shared->blocks[i].nslots;
	return n;
}

/* A new block of the matrix; false when there is no memory. waits: some is being freed. */
static bool
add_block(const GaDeviceFill *fill, bool waits)
{
	uint32		nslots = (uint32) Min(Max(BLOCK_BYTES / fill->row_bytes, 1), BLOCK_SLOTS);
	uint64		nbytes = nslots * fill->row_bytes;
	uint64		region;
	uint64		size = 0;
	Block	   *block = NULL;
	bool		made;

	/* Small budgets are not filled by one shape. */
	while (nbytes > SMALLEST_BLOCK && nbytes > ga_device_budget() / 8 && nslots > 1)
	{
		nslots /= 2;
		nbytes = nslots * fill->row_bytes;
	}
	if (!waits && !ga_cache_device_spares(fill->device, nbytes))
		return false;
	region = ga_region_new_id();
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nblocks && block == NULL; i++)
		if (shared->blocks[i].region == 0)
			block = &shared->blocks[i];
	if (block != NULL)
	{
		block->region = region;
		block->size = block->nslots = block->touched = block->live = block->valid = block->hand = 0;
		block->database = MyDatabaseId;
		block->device = fill->device;
		block->epoch = device_epoch();
		block->doomed = false;
		block->dtype = fill->dtype;
		block->ndim = fill->ndim;
		memset(block->dims, 0, sizeof block->dims);
		memcpy(block->dims, fill->dims, sizeof(int64) * fill->ndim);
		block->row_bytes = fill->row_bytes;
		ga_device_cache_loading = (int) (block - shared->blocks);
		ga_device_cache_pin(ga_device_cache_loading);
	}
	LWLockRelease(table_lock);
	if (block == NULL)
		return false;
	made = ga_region_try_create(region, fill->device, nbytes, &size);
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	block->size = size;
	if (made)
	{
		block->nslots = nslots;
		ga_device_cache_loading = -1;
	}
	LWLockRelease(table_lock);
	ga_device_cache_unpin();
	return made;
}

/* What one step of a fill has taken. */
typedef struct Step
{
	int			block;
	uint32		n;
	uint32		slots[BLOCK_SLOTS];
	uint64		pairs[BLOCK_SLOTS][2];	/* where the bytes are, and where they go */
	const GaDeviceRow *rows[BLOCK_SLOTS];
} Step;

/* Slots of a block for the next rows that are not cached; the lock is held exclusively. */
static void
take_slots(const GaDeviceFill *fill, uint32 *done, Step *step)
{
	Block	   *block = &shared->blocks[step->block];
	uint32		first = (uint32) step->block * BLOCK_SLOTS;
	bool		unread = pg_atomic_read_u32(&block->pins) == 0;
	uint32		i = unread ? 0 : block->touched;

	while (*done < fill->n)
	{
		const GaDeviceRow *row = &fill->rows[*done];
		Slot	   *slot;

		if (ga_device_cache_find_slot(fill->device, row, fill->now) != 0)
		{
			++*done;
			continue;
		}
		while (i < block->touched && slot_at(first + i)->state != SLOT_FREE)
			i++;
		if (i == block->nslots)
			break;
		slot = slot_at(first + i);
		slot->state = SLOT_LOADING;
		slot->used = 0;
		slot->row = *row;
		slot->filled = fill->now;
		block->touched = Max(block->touched, i + 1);
		block->live++;
		step->slots[step->n] = first + i;
		step->pairs[step->n][0] = row->at;
		step->pairs[step->n][1] = i * block->row_bytes;
		step->rows[step->n++] = row;
		++*done;
		i++;
	}
}

/* Brings the bytes; rows that lie together go together. */
static void
transfer(const GaDeviceFill *fill, const Step *step, uint64 region)
{
	if (fill->source != 0)
	{
		ga_region_gather_rows(fill->device, fill->source, region, step->pairs, step->n, (uint32) fill->row_bytes);
		return;
	}
	for (uint32 first = 0, next; first < step->n; first = next)
	{
		for (next = first + 1; next < step->n && step->pairs[next][0] == step->pairs[next - 1][0] + fill->row_bytes &&
			 step->pairs[next][1] == step->pairs[next - 1][1] + fill->row_bytes;)
			next++;
		ga_region_upload(region, fill->device, step->pairs[first][1], fill->data + step->pairs[first][0],
						 (next - first) * fill->row_bytes);
	}
}

static void
publish(const GaDeviceFill *fill, const Step *step)
{
	Block	   *block = &shared->blocks[step->block];

	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	for (uint32 i = 0; i < step->n; i++)
	{
		Slot	   *slot = slot_at(step->slots[i]);

		if (block->doomed)
		{
			slot->state = SLOT_FREE;
			block->live--;
			continue;
		}
		ga_device_cache_unlink_agent(slot->row.hash, MyDatabaseId, fill->device);
		slot->state = SLOT_VALID;
		block->valid++;
		slot->next = *bucket_of(slot->row.hash);
		*bucket_of(slot->row.hash) = step->slots[i] + 1;
	}
	ga_device_cache_loading = -1;
	LWLockRelease(table_lock);
	ga_device_cache_unpin();
}

/* Slots for the next rows, in a block that stays pinned; false when there are none. */
static bool
take(const GaDeviceFill *fill, uint32 *done, uint32 filled, Step *step)
{
	step->n = 0;
	for (int attempt = 0; attempt < 3; attempt++)
	{
		LWLockAcquire(table_lock, LW_EXCLUSIVE);
		step->block = block_with_room(fill);
		if (step->block < 0 && attempt == 1 && filled < slots_of_matrix(fill))
			step->block = sweep(fill, fill->n - *done);
		if (step->block >= 0)
		{
			take_slots(fill, done, step);
			if (step->n > 0)
			{
				ga_device_cache_loading = step->block;
				ga_device_cache_pin(ga_device_cache_loading);
			}
		}
		LWLockRelease(table_lock);
		if (step->block >= 0)
			return step->n > 0;
		if (attempt == 0 && !add_block(fill, false))
			continue;
		if (attempt == 1)
		{
			if (slots_of_matrix(fill) > 0 || give_up(fill->device, Max(fill->row_bytes, SMALLEST_BLOCK), fill) == 0 ||
				!add_block(fill, true))
				return false;
		}
	}
	return false;
}

void
ga_cache_device_fill(const GaDeviceFill *fill)
{
	Step	   *step;
	uint32		done = 0;
	uint32		filled = 0;

	if (!ga_cache_device_serves(fill->device) || fill->row_bytes == 0 || fill->row_bytes > BLOCK_BYTES || fill->n == 0)
		return;
	ga_device_cache_enter();
	LWLockAcquire(table_lock, LW_EXCLUSIVE);
	(void) ga_device_cache_doom_lost();
	ga_device_cache_unlock();
	step = palloc(sizeof(Step));
	while (done < fill->n && take(fill, &done, filled, step))
	{
		CHECK_FOR_INTERRUPTS();
		transfer(fill, step, shared->blocks[step->block].region);
		publish(fill, step);
		filled += step->n;
	}
	pfree(step);
}
