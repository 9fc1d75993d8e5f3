/*
 * gpuknn_insert.c
 *		A row of the table enters the index. The meta page stays locked from the
 *		choice of a slot to its publication, so writers come one after the other.
 */
#include "base/compat.h"

#include "index/gpuknn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

/* Pages of a record of WAL, one of which is the meta page in the one that publishes. */
#define PAGES_WITH_META (MAX_GENERIC_XLOG_PAGES - 1)

/* Where a slot comes from. */
typedef struct Slot
{
	uint64		number;
	bool		append;
	uint64		next_free;
} Slot;

/* A list goes to a slot that does not belong there, or goes round. */
pg_noreturn static void
wrong_list(Relation index, uint64 slot)
{
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("slot " UINT64_FORMAT " of index \"%s\" is in a list where it does not belong",
					slot, RelationGetRelationName(index)),
			 errhint("Rebuild the index with REINDEX.")));
}

static Slot
choose_slot(Relation index, const GpuknnShape *shape, const GpuknnMeta *meta)
{
	Slot		slot = {meta->length, true, GPUKNN_NONE};
	Buffer		buffer;
	const GaKnnRow *row;

	if (meta->free_head == GPUKNN_NONE)
		return slot;
	slot.number = meta->free_head;
	slot.append = false;
	if (slot.number >= meta->length)
		wrong_list(index, slot.number);
	buffer = gpuknn_buffer(index, gpuknn_block(shape->record_bytes, slot.number, 0), BUFFER_LOCK_SHARE, NULL);
	row = (const GaKnnRow *) (gpuknn_bytes(BufferGetPage(buffer)) + gpuknn_offset(shape->record_bytes, slot.number, 0));
	if (!(row->flags & GPUKNN_FREE))
		wrong_list(index, slot.number);
	slot.next_free = gpuknn_get48(row->tid);
	UnlockReleaseBuffer(buffer);
	return slot;
}

/* Makes the file long enough for a slot that is appended. A crash may have left pages there. */
static void
extend_file(Relation index, const GpuknnShape *shape, uint64 slot, BlockNumber last)
{
	BlockNumber length;

	if (last >= MaxBlockNumber)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("index \"%s\" would have more than %u pages", RelationGetRelationName(index), MaxBlockNumber)));
	length = RelationGetNumberOfBlocks(index);
	if (length < gpuknn_end_block(shape->record_bytes, slot))
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" has %u pages, too few for its " UINT64_FORMAT " slots",
						RelationGetRelationName(index), length, slot),
				 errhint("Rebuild the index with REINDEX.")));
	while (length <= last)
	{
		Buffer		buffer;

		LockRelationForExtension(index, ExclusiveLock);
		buffer = ReadBufferExtended(index, MAIN_FORKNUM, P_NEW, RBM_NORMAL, NULL);
		UnlockRelationForExtension(index, ExclusiveLock);
		length = BufferGetBlockNumber(buffer) + 1;
		ReleaseBuffer(buffer);
	}
}

/* Registers one page of a slot and copies its part of the slot's bytes. */
static Buffer
put_page(GenericXLogState *state, Relation index, const GpuknnShape *shape, const Slot *slot, const char *bytes, BlockNumber block)
{
	uint64		start = slot->number * shape->record_bytes;
	uint64		page_start = (uint64) (block - 1) * GPUKNN_PAGE_BYTES;
	uint64		from = Max(start, page_start);
	uint64		to = Min(start + shape->record_bytes, page_start + GPUKNN_PAGE_BYTES);
	/* Whatever is on a page at whose beginning a slot is appended was never published. */
	bool		fresh = slot->append && from == page_start;
	Buffer		buffer;
	Page		page;

	if (fresh)
	{
		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_ZERO_AND_LOCK, NULL);
		page = GenericXLogRegisterBuffer(state, buffer, GENERIC_XLOG_FULL_IMAGE);
		gpuknn_init_page(page, false);
	}
	else
	{
		buffer = gpuknn_buffer(index, block, BUFFER_LOCK_EXCLUSIVE, NULL);
		page = GenericXLogRegisterBuffer(state, buffer, 0);
	}
	memcpy(gpuknn_bytes(page) + (from - page_start), bytes + (from - start), to - from);
	return buffer;
}

/* Writes pages [from, to] of a slot in one record of WAL, with the meta page when there is one. */
static void
put_pages(Relation index, const GpuknnShape *shape, const Slot *slot, const char *bytes, BlockNumber from, BlockNumber to,
		  Buffer meta_buffer, bool is_tids)
{
	GenericXLogState *state = GenericXLogStart(index);
	Buffer		buffers[MAX_GENERIC_XLOG_PAGES];
	int			n = 0;

	if (BufferIsValid(meta_buffer))
	{
		GpuknnMeta *meta = gpuknn_meta(GenericXLogRegisterBuffer(state, meta_buffer, 0));

		if (slot->append)
			meta->length++;
		else
		{
			meta->free_head = slot->next_free;
			meta->free--;
			gpuknn_note_change(meta, slot->number);
		}
		if (is_tids)
		{
			meta->nulls++;
			if (((const GpuknnTids *) (bytes + 8))->listed != 0)
				meta->tids_head = slot->number;
		}
		else
			meta->vectors++;
	}
	for (BlockNumber block = from; block <= to; block++)
		buffers[n++] = put_page(state, index, shape, slot, bytes, block);
	GenericXLogFinish(state);
	while (n > 0)
		UnlockReleaseBuffer(buffers[--n]);
}

/* Puts bytes into a slot and publishes it. The meta page is locked. */
static void
put_slot(Relation index, const GpuknnShape *shape, Buffer meta_buffer, const char *bytes, bool is_tids)
{
	Slot		slot = choose_slot(index, shape, gpuknn_meta(BufferGetPage(meta_buffer)));
	BlockNumber first = gpuknn_block(shape->record_bytes, slot.number, 0);
	BlockNumber last = gpuknn_block(shape->record_bytes, slot.number, shape->record_bytes - 1);

	if (slot.append && (last > first || gpuknn_offset(shape->record_bytes, slot.number, 0) == 0))
		extend_file(index, shape, slot.number, last);
	if (last - first < PAGES_WITH_META)
		put_pages(index, shape, &slot, bytes, first, last, meta_buffer, is_tids);
	else
	{
		for (BlockNumber from = first + 1; from <= last; from += MAX_GENERIC_XLOG_PAGES)
			put_pages(index, shape, &slot, bytes, from, Min(from + MAX_GENERIC_XLOG_PAGES - 1, last), InvalidBuffer, is_tids);
		put_pages(index, shape, &slot, bytes, first, first, meta_buffer, is_tids);
	}
}

/* ----- tids of rows without a vector ----- */

/* The word of a slot, on its page, which is locked. */
static uint64 *
word(Page page, const GpuknnShape *shape, uint64 slot, size_t i)
{
	return (uint64 *) (gpuknn_bytes(page) + gpuknn_offset(shape->record_bytes, slot, i * 8));
}

static BlockNumber
word_block(const GpuknnShape *shape, uint64 slot, size_t i)
{
	return gpuknn_block(shape->record_bytes, slot, i * 8);
}

/* The first entry from `from` on that holds no tid; the capacity when all do. */
static size_t
find_room(Relation index, const GpuknnShape *shape, uint64 slot, size_t from)
{
	size_t		capacity = gpuknn_tids_capacity(shape);
	size_t		i = from;

	while (i < capacity)
	{
		BlockNumber block = word_block(shape, slot, GPUKNN_TIDS_WORD + i);
		Buffer		buffer = gpuknn_buffer(index, block, BUFFER_LOCK_SHARE, NULL);
		bool		found = false;

		for (; i < capacity && word_block(shape, slot, GPUKNN_TIDS_WORD + i) == block; i++)
		{
			found = *word(BufferGetPage(buffer), shape, slot, GPUKNN_TIDS_WORD + i) == 0;
			if (found)
				break;
		}
		UnlockReleaseBuffer(buffer);
		if (found)
			break;
	}
	return i;
}

static GpuknnTids
read_tids_state(Relation index, const GpuknnShape *shape, uint64 slot)
{
	Buffer		buffer = gpuknn_buffer(index, word_block(shape, slot, 1), BUFFER_LOCK_SHARE, NULL);
	GpuknnTids	state = *(GpuknnTids *) word(BufferGetPage(buffer), shape, slot, 1);

	UnlockReleaseBuffer(buffer);
	return state;
}

/*
 * Puts a tid into entry i of the slot at the head of the list, and takes the
 * slot off the list when that was its last room; i is the capacity when it had
 * none.
 */
static void
put_tid(Relation index, const GpuknnShape *shape, Buffer meta_buffer, uint64 slot, size_t i, uint64 tid)
{
	GenericXLogState *state = GenericXLogStart(index);
	GpuknnMeta *meta = gpuknn_meta(GenericXLogRegisterBuffer(state, meta_buffer, 0));
	size_t		capacity = gpuknn_tids_capacity(shape);
	size_t		next = Min(i + 1, capacity);
	size_t		words[] = {0, 1, GPUKNN_TIDS_WORD + Min(i, capacity - 1)};
	uint64	   *at[lengthof(words)];
	Buffer		buffers[lengthof(words)];
	Page		page = NULL;
	int			n = 0;

	/* At most three pages: word 0 and word 1 may be on two, the entry on another. */
	for (int w = 0; w < lengthof(words); w++)
	{
		BlockNumber block = word_block(shape, slot, words[w]);

		if (n == 0 || BufferGetBlockNumber(buffers[n - 1]) != block)
		{
			buffers[n] = gpuknn_buffer(index, block, BUFFER_LOCK_EXCLUSIVE, NULL);
			page = GenericXLogRegisterBuffer(state, buffers[n++], 0);
		}
		at[w] = word(page, shape, slot, words[w]);
	}
	if (i < capacity)
	{
		*at[2] = tid;
		meta->nulls++;
		gpuknn_note_change(meta, slot);
	}
	((GpuknnTids *) at[1])->hint = next;
	if (next == capacity)
	{
		((GpuknnTids *) at[1])->listed = 0;
		meta->tids_head = gpuknn_get48(((GaKnnRow *) at[0])->tid);
	}
	GenericXLogFinish(state);
	while (n > 0)
		UnlockReleaseBuffer(buffers[--n]);
}

/* A new slot with one tid. */
static void
put_tids_slot(Relation index, const GpuknnShape *shape, Buffer meta_buffer, uint64 tid)
{
	uint64	   *words = palloc0(shape->record_bytes);
	GaKnnRow   *first = (GaKnnRow *) words;
	GpuknnTids *state = (GpuknnTids *) (words + 1);

	gpuknn_put48(first->tid, GPUKNN_NONE);
	first->flags = GPUKNN_TIDS;
	state->hint = 1;
	if (gpuknn_tids_capacity(shape) > 1)
		state->listed = (uint32) gpuknn_meta(BufferGetPage(meta_buffer))->generation;
	words[GPUKNN_TIDS_WORD] = tid;
	put_slot(index, shape, meta_buffer, (const char *) words, true);
	pfree(words);
}

static void
insert_null(Relation index, const GpuknnShape *shape, Buffer meta_buffer, uint64 tid)
{
	const GpuknnMeta *meta = gpuknn_meta(BufferGetPage(meta_buffer));

	while (meta->tids_head != GPUKNN_NONE)
	{
		uint64		slot = meta->tids_head;
		GpuknnTids	state;
		size_t		i;

		/* A slot leaves the list when it is full, so a list that goes round ends here. */
		if (slot >= meta->length)
			wrong_list(index, slot);
		state = read_tids_state(index, shape, slot);
		if (state.listed != (uint32) meta->generation)
			wrong_list(index, slot);
		i = find_room(index, shape, slot, state.hint);
		put_tid(index, shape, meta_buffer, slot, i, tid);
		if (i < gpuknn_tids_capacity(shape))
			return;
	}
	put_tids_slot(index, shape, meta_buffer, tid);
}

bool
gpuknn_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
			  IndexUniqueCheck check, bool unchanged, struct IndexInfo *info)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "gpuknn insert", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	GpuknnShape shape = gpuknn_shape(index);
	GaKnnRow   *record = NULL;
	Buffer		meta_buffer;

	if (!isnull[0])
	{
		GpuknnClass class;

		gpuknn_class(index, &class);
		record = palloc0(shape.record_bytes);
		gpuknn_encode(&class, &shape, values[0], record);
		gpuknn_put48(record->tid, gpuknn_pack_tid(tid));
	}

	meta_buffer = gpuknn_buffer(index, GPUKNN_META_BLOCK, BUFFER_LOCK_EXCLUSIVE, NULL);
	if (record != NULL)
		put_slot(index, &shape, meta_buffer, (const char *) record, false);
	else
		insert_null(index, &shape, meta_buffer, gpuknn_pack_tid(tid));
	UnlockReleaseBuffer(meta_buffer);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return false;
}
