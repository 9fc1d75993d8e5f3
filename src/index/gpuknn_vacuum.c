/*
 * gpuknn_vacuum.c
 *		Slots of dead rows become free. Page by page: tids are collected under a
 *		share lock, then asked about without any, for the answer may wait. What was
 *		a record or a tid stays so meanwhile, as only vacuum frees, and one vacuum
 *		runs at a time; what inserts put elsewhere is not dead.
 */
#include "base/compat.h"

#include "commands/vacuum.h"
#include "index/gpuknn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

typedef struct Vacuum
{
	Relation	index;
	GpuknnShape shape;
	BufferAccessStrategy strategy;
	IndexBulkDeleteCallback callback;
	void	   *callback_state;
	IndexBulkDeleteResult *stats;
	uint64		length;
	uint32		generation;
} Vacuum;

/* A slot, or an entry of a slot of tids, and the tid there. */
typedef struct Found
{
	uint64		number;
	uint64		tid;
} Found;

#define MAX_SLOTS (GPUKNN_PAGE_BYTES / 24 + 1)
#define MAX_WORDS (GPUKNN_PAGE_BYTES / 8)

static uint64 *
word(Page page, const GpuknnShape *shape, uint64 slot, size_t i)
{
	return (uint64 *) (gpuknn_bytes(page) + gpuknn_offset(shape->record_bytes, slot, i * 8));
}

/* Leaves the dead ones of the items. */
static int
keep_dead(Vacuum *vacuum, Found *items, int n)
{
	int			dead = 0;

	for (int i = 0; i < n; i++)
	{
		ItemPointerData tid;

		gpuknn_unpack_tid(items[i].tid, &tid);
		if (vacuum->callback(&tid, vacuum->callback_state))
			items[dead++] = items[i];
	}
	vacuum->stats->tuples_removed += dead;
	vacuum->stats->num_index_tuples += n - dead;
	return dead;
}

static void
push_free(GpuknnMeta *meta, GaKnnRow *row, uint64 slot)
{
	row->flags = GPUKNN_FREE;
	gpuknn_put48(row->tid, meta->free_head);
	meta->free_head = slot;
	meta->free++;
	gpuknn_note_change(meta, slot);
}

/* Frees slots that begin on one page. */
static void
free_slots(Vacuum *vacuum, BlockNumber block, const Found *dead, int n)
{
	Buffer		meta_buffer = gpuknn_buffer(vacuum->index, GPUKNN_META_BLOCK, BUFFER_LOCK_EXCLUSIVE, NULL);
	Buffer		buffer = gpuknn_buffer(vacuum->index, block, BUFFER_LOCK_EXCLUSIVE, vacuum->strategy);
	GenericXLogState *state = GenericXLogStart(vacuum->index);
	GpuknnMeta *meta = gpuknn_meta(GenericXLogRegisterBuffer(state, meta_buffer, 0));
	Page		page = GenericXLogRegisterBuffer(state, buffer, 0);

	/* Backwards, so that inserts take them in order. */
	while (n-- > 0)
	{
		GaKnnRow   *row = (GaKnnRow *) word(page, &vacuum->shape, dead[n].number, 0);

		meta->vectors--;
		push_free(meta, row, dead[n].number);
	}
	GenericXLogFinish(state);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(meta_buffer);
}

/* ----- slots of tids ----- */

/* Takes dead entries of a slot, all on one page, away. */
static void
clear_entries(Vacuum *vacuum, BlockNumber block, uint64 slot, const Found *dead, int n)
{
	Buffer		meta_buffer = gpuknn_buffer(vacuum->index, GPUKNN_META_BLOCK, BUFFER_LOCK_EXCLUSIVE, NULL);
	Buffer		buffer = gpuknn_buffer(vacuum->index, block, BUFFER_LOCK_EXCLUSIVE, vacuum->strategy);
	GenericXLogState *state = GenericXLogStart(vacuum->index);
	GpuknnMeta *meta = gpuknn_meta(GenericXLogRegisterBuffer(state, meta_buffer, 0));
	Page		page = GenericXLogRegisterBuffer(state, buffer, 0);

	for (int i = 0; i < n; i++)
		*word(page, &vacuum->shape, slot, GPUKNN_TIDS_WORD + dead[i].number) = 0;
	meta->nulls -= n;
	gpuknn_note_change(meta, slot);
	GenericXLogFinish(state);
	UnlockReleaseBuffer(buffer);
	UnlockReleaseBuffer(meta_buffer);
}

/*
 * Gives a slot with room back: to the free ones when it is empty, else to the
 * list that inserts take room from. They may have taken it again meanwhile, so
 * it is looked at once more with the meta page locked.
 */
static void
list_tids(Vacuum *vacuum, uint64 slot)
{
	const GpuknnShape *shape = &vacuum->shape;
	size_t		capacity = gpuknn_tids_capacity(shape);
	Buffer		meta_buffer = gpuknn_buffer(vacuum->index, GPUKNN_META_BLOCK, BUFFER_LOCK_EXCLUSIVE, NULL);
	BlockNumber first = gpuknn_block(shape->record_bytes, slot, 0);
	BlockNumber second = gpuknn_block(shape->record_bytes, slot, 8);
	size_t		used = 0;
	size_t		hint = capacity;
	Buffer		buffers[2];
	GenericXLogState *state;
	GpuknnMeta *meta;
	Page		page;
	GaKnnRow   *row;
	GpuknnTids *tids;

	for (size_t i = 0; i < capacity;)
	{
		BlockNumber block = gpuknn_block(shape->record_bytes, slot, (GPUKNN_TIDS_WORD + i) * 8);
		Buffer		buffer = gpuknn_buffer(vacuum->index, block, BUFFER_LOCK_SHARE, vacuum->strategy);

		for (; i < capacity && gpuknn_block(shape->record_bytes, slot, (GPUKNN_TIDS_WORD + i) * 8) == block; i++)
		{
			if (*word(BufferGetPage(buffer), shape, slot, GPUKNN_TIDS_WORD + i) != 0)
				used++;
			else
				hint = Min(hint, i);
		}
		UnlockReleaseBuffer(buffer);
	}
	if (used == capacity)
	{
		UnlockReleaseBuffer(meta_buffer);
		return;
	}

	state = GenericXLogStart(vacuum->index);
	meta = gpuknn_meta(GenericXLogRegisterBuffer(state, meta_buffer, 0));
	buffers[0] = gpuknn_buffer(vacuum->index, first, BUFFER_LOCK_EXCLUSIVE, vacuum->strategy);
	buffers[1] = second != first ? gpuknn_buffer(vacuum->index, second, BUFFER_LOCK_EXCLUSIVE, vacuum->strategy) : InvalidBuffer;
	page = GenericXLogRegisterBuffer(state, buffers[0], 0);
	row = (GaKnnRow *) word(page, shape, slot, 0);
	if (second != first)
		page = GenericXLogRegisterBuffer(state, buffers[1], 0);
	tids = (GpuknnTids *) word(page, shape, slot, 1);
	if (tids->listed == vacuum->generation)
		tids->hint = Min(tids->hint, hint);
	else if (used == 0)
		push_free(meta, row, slot);
	else
	{
		tids->hint = hint;
		tids->listed = vacuum->generation;
		gpuknn_put48(row->tid, meta->tids_head);
		meta->tids_head = slot;
	}
	GenericXLogFinish(state);
	if (second != first)
		UnlockReleaseBuffer(buffers[1]);
	UnlockReleaseBuffer(buffers[0]);
	UnlockReleaseBuffer(meta_buffer);
}

static void
vacuum_tids(Vacuum *vacuum, uint64 slot)
{
	const GpuknnShape *shape = &vacuum->shape;
	size_t		capacity = gpuknn_tids_capacity(shape);
	Found	   *items = palloc(sizeof(Found) * MAX_WORDS);

	for (size_t i = 0; i < capacity;)
	{
		BlockNumber block = gpuknn_block(shape->record_bytes, slot, (GPUKNN_TIDS_WORD + i) * 8);
		Buffer		buffer = gpuknn_buffer(vacuum->index, block, BUFFER_LOCK_SHARE, vacuum->strategy);
		int			n = 0;

		for (; i < capacity && gpuknn_block(shape->record_bytes, slot, (GPUKNN_TIDS_WORD + i) * 8) == block; i++)
		{
			uint64		tid = *word(BufferGetPage(buffer), shape, slot, GPUKNN_TIDS_WORD + i);

			if (tid != 0)
				items[n++] = (Found) {i, tid};
		}
		UnlockReleaseBuffer(buffer);
		n = keep_dead(vacuum, items, n);
		if (n > 0)
			clear_entries(vacuum, block, slot, items, n);
	}
	list_tids(vacuum, slot);
	pfree(items);
}

/* ----- the walk ----- */

/* The slots that begin on a page. */
static void
vacuum_page(Vacuum *vacuum, BlockNumber block)
{
	const GpuknnShape *shape = &vacuum->shape;
	uint64		slot = gpuknn_first_slot(shape->record_bytes, block);
	uint64		end = Min(gpuknn_first_slot(shape->record_bytes, block + 1), vacuum->length);
	Found		items[MAX_SLOTS];
	uint64		tids[MAX_SLOTS];
	int			nitems = 0;
	int			ntids = 0;
	Buffer		buffer;

	if (slot >= end)
		return;
	buffer = gpuknn_buffer(vacuum->index, block, BUFFER_LOCK_SHARE, vacuum->strategy);
	for (; slot < end; slot++)
	{
		const GaKnnRow *row = (const GaKnnRow *) word(BufferGetPage(buffer), shape, slot, 0);

		if (row->flags & GPUKNN_FREE)
			continue;
		if (row->flags & GPUKNN_TIDS)
			tids[ntids++] = slot;
		else
			items[nitems++] = (Found) {slot, gpuknn_get48(row->tid)};
	}
	UnlockReleaseBuffer(buffer);

	nitems = keep_dead(vacuum, items, nitems);
	if (nitems > 0)
		free_slots(vacuum, block, items, nitems);
	for (int i = 0; i < ntids; i++)
		vacuum_tids(vacuum, tids[i]);
}

/* A new generation, in which no slot of tids is listed: those that have room are found on the way. */
static void
begin_generation(Vacuum *vacuum)
{
	Buffer		buffer = gpuknn_buffer(vacuum->index, GPUKNN_META_BLOCK, BUFFER_LOCK_EXCLUSIVE, NULL);
	GenericXLogState *state = GenericXLogStart(vacuum->index);
	GpuknnMeta *meta = gpuknn_meta(GenericXLogRegisterBuffer(state, buffer, 0));

	/* 0 stands for no list. */
	if ((uint32) ++meta->generation == 0)
		meta->generation++;
	meta->tids_head = GPUKNN_NONE;
	vacuum->generation = (uint32) meta->generation;
	vacuum->length = meta->length;
	GenericXLogFinish(state);
	UnlockReleaseBuffer(buffer);
}

static void
fill_stats(Relation index, IndexBulkDeleteResult *stats)
{
	GpuknnMeta	meta;

	gpuknn_read_meta(index, &meta);
	stats->num_pages = RelationGetNumberOfBlocks(index);
	stats->pages_free = (BlockNumber) (meta.free * meta.record_bytes / GPUKNN_PAGE_BYTES);
}

IndexBulkDeleteResult *
gpuknn_bulk_delete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback, void *callback_state)
{
	Vacuum		vacuum = {.index = info->index, .shape = gpuknn_shape(info->index), .strategy = info->strategy,
		.callback = callback, .callback_state = callback_state};
	BlockNumber end;

	if (stats == NULL)
		stats = palloc0(sizeof(*stats));
	/* A vacuum with little memory comes here several times: the last time tells what is left. */
	stats->num_index_tuples = 0;
	vacuum.stats = stats;
	begin_generation(&vacuum);
	end = gpuknn_end_block(vacuum.shape.record_bytes, vacuum.length);
	for (BlockNumber block = 1; block < end; block++)
	{
		ga_vacuum_delay_point();
		vacuum_page(&vacuum, block);
	}
	fill_stats(info->index, stats);
	return stats;
}

IndexBulkDeleteResult *
gpuknn_vacuum_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
	GpuknnMeta	meta;

	if (info->analyze_only)
		return stats;
	if (stats == NULL)
	{
		gpuknn_read_meta(info->index, &meta);
		stats = palloc0(sizeof(*stats));
		stats->num_index_tuples = meta.vectors + meta.nulls;
	}
	fill_stats(info->index, stats);
	return stats;
}
