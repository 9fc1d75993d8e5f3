/*
 * gpuknn_pass.c
 *		Passes of a scan over the pages. Only one page is locked at a time, but
 *		for slots of tids: a slot that is freed and used again while its pages are
 *		read one by one could show elements of a vector as tids, so the first page
 *		stays locked, which keeps the slot what it is.
 */
#include "base/compat.h"

#include "index/gpuknn_scan.h"
#include "miscadmin.h"
#include "storage/buf_internals.h"

/* Strategy of a pass: an index that takes more than a quarter of the buffers goes through a few of them. */
static BufferAccessStrategy
pass_strategy(Relation index, BlockNumber blocks)
{
	return blocks > NBuffers / 4 ? GetAccessStrategy(BAS_BULKREAD) : NULL;
}

/*
 * Pins a page of the stream. Where the session remembers its buffer, or guesses
 * it, as pages that were read one after the other are in buffers one after the
 * other, this saves the search for the buffer, which misses the CPU's caches for
 * each page. A guess that hits does not count as a use of the buffer; so each
 * pass searches for every eighth, others than the pass before.
 */
static Buffer
pin_page(Relation index, BlockNumber block, Buffer previous, uint32 turn, BufferAccessStrategy strategy)
{
	Buffer		guess = gpuknn_recent_buffer(index, block);
	Buffer		buffer;

	if (guess == InvalidBuffer && previous < NBuffers)
		guess = previous + 1;
	if (previous > 0 && guess > 0 && (block + turn) % 8 != 0 &&
		ReadRecentBuffer(ga_rel_locator(index), MAIN_FORKNUM, block, guess))
		buffer = guess;
	else
		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, strategy);
	gpuknn_remember_buffer(index, block, buffer);
	return buffer;
}

/*
 * What is asked for early: the descriptor of the buffer of a page so far ahead;
 * a byte or two of a nearer one, for the translation of its addresses; all bytes
 * of the next one.
 */
#define DESCRIPTORS_AHEAD 6
#define TRANSLATIONS_AHEAD 3

/* Bytes are asked for in so many parts, between records, so that the CPU does not wait for all of them at once. */
#define PARTS 4

static inline void
prefetch_ahead(Relation index, BlockNumber block)
{
	Buffer		guess = gpuknn_recent_buffer(index, block + DESCRIPTORS_AHEAD);

	if (guess > 0)
		__builtin_prefetch(GetBufferDescriptor(guess - 1), 1, 3);
	guess = gpuknn_recent_buffer(index, block + TRANSLATIONS_AHEAD);
	if (guess > 0)
	{
		__builtin_prefetch(BufferGetPage(guess), 0, 3);
		__builtin_prefetch(BufferGetPage(guess) + BLCKSZ / 2, 0, 3);
	}
}

/* Asks for a part of a page's bytes before they are needed. */
static inline void
prefetch(Buffer buffer, int part, int parts)
{
	const char *page = BufferGetPage(buffer);

	for (int at = BLCKSZ / parts * part; at < BLCKSZ / parts * (part + 1); at += 64)
		__builtin_prefetch(page + at, 0, 3);
}

/*
 * Finds those of n records that may be near enough, on a page that is locked.
 * Most are too far away, so what they are is looked at last.
 */
static inline void
find(GpuknnScan *scan, const char *records, int n)
{
	size_t		stride = scan->shape.record_bytes;

	ga_knn_bounds(scan->query, records, stride, n, scan->top.threshold, scan->bounds, scan->exact);
	for (int i = 0; i < n; i++)
	{
		const GaKnnRow *row;

		if (scan->bounds[i] > scan->top.threshold)
			continue;
		row = (const GaKnnRow *) (records + i * stride);
		if ((row->flags & GA_KNN_INDEX_FLAGS) == 0)
			scan->found[scan->nfound++] = (GaKnnPair) {scan->bounds[i], gpuknn_get48(row->tid), scan->exact[i]};
	}
}

/* Offers what was found to the top: bounds as they are, or the values of those that the executor was not given as bounds. */
static void
offer(IndexScanDesc scan, GpuknnScan *state)
{
	for (int i = 0; i < state->nfound; i++)
	{
		GaKnnPair	pair = state->found[i];

		if (state->left && !gpuknn_device_admit(state, &pair))
			continue;
		if (state->phase == GPUKNN_SELECT)
		{
			if (pair.bound > state->top.threshold ||
				(state->any_handed && ga_knn_pair_compare(&pair, &state->handed) <= 0))
				continue;
			CHECK_FOR_INTERRUPTS();
			if (!gpuknn_value(scan, state, &pair))
				continue;
		}
		ga_knn_top_push(&state->top, pair.bound, pair.row, pair.exact);
	}
	state->nfound = 0;
}

void
gpuknn_pass(IndexScanDesc scan, GpuknnScan *state)
{
	Relation	index = scan->indexRelation;
	size_t		record_bytes = state->shape.record_bytes;
	BlockNumber end = gpuknn_end_block(record_bytes, state->length);
	BufferAccessStrategy strategy = pass_strategy(index, end);
	static uint32 turn = 0;
	uint64		slot = 0;
	size_t		assembled = 0;	/* bytes there of a record that began on a page before */
	Buffer		following = InvalidBuffer;

	turn++;
	gpuknn_remember_buffers(index, end);
	for (BlockNumber block = 1; block < end; block++)
	{
		Buffer		buffer = following;
		const char *bytes;
		size_t		at = 0;
		uint64		n;

		CHECK_FOR_INTERRUPTS();
		if (block == 1)
			buffer = pin_page(index, block, InvalidBuffer, turn, strategy);
		if (block + 1 < end)
		{
			prefetch_ahead(index, block);
			following = pin_page(index, block + 1, buffer, turn, strategy);
			prefetch(following, 0, PARTS);
		}
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		gpuknn_check_page(index, block, BufferGetPage(buffer));
		ga_test_old_snapshot(scan->xs_snapshot, index, BufferGetPage(buffer));
		bytes = gpuknn_bytes(BufferGetPage(buffer));
		if (assembled > 0)
		{
			at = Min(record_bytes - assembled, GPUKNN_PAGE_BYTES);
			memcpy(state->assembled + assembled, bytes, at);
			assembled += at;
			if (assembled == record_bytes)
			{
				find(state, state->assembled, 1);
				assembled = 0;
				slot++;
			}
		}
		n = Min((GPUKNN_PAGE_BYTES - at) / record_bytes, state->length - slot);
		for (int part = 1; part <= PARTS; part++)
		{
			uint64		some = part < PARTS ? n / PARTS : n - n / PARTS * (PARTS - 1);

			if (some > 0)
				find(state, bytes + at, (int) some);
			at += some * record_bytes;
			slot += some;
			if (part < PARTS && block + 1 < end)
				prefetch(following, part, PARTS);
		}
		if (at < GPUKNN_PAGE_BYTES && slot < state->length && assembled == 0)
		{
			assembled = GPUKNN_PAGE_BYTES - at;
			memcpy(state->assembled, bytes + at, assembled);
		}
		UnlockReleaseBuffer(buffer);
		if (state->nfound > 0)
			offer(scan, state);
	}
	if (strategy != NULL)
		FreeAccessStrategy(strategy);
}

static void
add_tid(Relation index, GpuknnScan *state, uint64 tid)
{
	if (state->ntids == state->capacity)
	{
		state->capacity *= 2;
		state->tids = repalloc(state->tids, sizeof(ItemPointerData) * state->capacity);
	}
	gpuknn_row_tid(index, tid, &state->tids[state->ntids++]);
}

/* The tids of a slot of them, whose first page is locked. */
static void
add_tids(IndexScanDesc scan, GpuknnScan *state, uint64 slot, Page first_page, BlockNumber first)
{
	Relation	index = scan->indexRelation;
	size_t		record_bytes = state->shape.record_bytes;
	size_t		words = record_bytes / 8;

	for (size_t i = GPUKNN_TIDS_WORD; i < words;)
	{
		BlockNumber block = gpuknn_block(record_bytes, slot, i * 8);
		Buffer		buffer = block == first ? InvalidBuffer : gpuknn_buffer(index, block, BUFFER_LOCK_SHARE, NULL);
		const char *bytes = gpuknn_bytes(block == first ? first_page : BufferGetPage(buffer));

		if (BufferIsValid(buffer))
			ga_test_old_snapshot(scan->xs_snapshot, index, BufferGetPage(buffer));
		for (; i < words && gpuknn_block(record_bytes, slot, i * 8) == block; i++)
		{
			uint64		tid = *(const uint64 *) (bytes + gpuknn_offset(record_bytes, slot, i * 8));

			if (tid != 0)
				add_tid(index, state, tid);
		}
		if (BufferIsValid(buffer))
			UnlockReleaseBuffer(buffer);
	}
}

bool
gpuknn_drain(IndexScanDesc scan, GpuknnScan *state)
{
	Relation	index = scan->indexRelation;
	size_t		record_bytes = state->shape.record_bytes;
	BlockNumber block = state->block;
	uint64		slot = gpuknn_first_slot(record_bytes, block);
	uint64		end = Min(gpuknn_first_slot(record_bytes, block + 1), state->length);
	Buffer		buffer;
	Page		page;

	CHECK_FOR_INTERRUPTS();
	state->ntids = state->next_tid = 0;
	if (block >= gpuknn_end_block(record_bytes, state->length))
		return false;
	state->block++;
	if (slot >= end)
		return true;
	buffer = gpuknn_buffer(index, block, BUFFER_LOCK_SHARE, NULL);
	page = BufferGetPage(buffer);
	ga_test_old_snapshot(scan->xs_snapshot, index, page);
	for (; slot < end; slot++)
	{
		const GaKnnRow *row = (const GaKnnRow *) (gpuknn_bytes(page) + gpuknn_offset(record_bytes, slot, 0));

		if (row->flags & GPUKNN_TIDS)
			add_tids(scan, state, slot, page, block);
		else if (state->all && !(row->flags & GPUKNN_FREE))
			add_tid(index, state, gpuknn_get48(row->tid));
	}
	UnlockReleaseBuffer(buffer);
	return true;
}
