/*
 * gpuknn_check.c
 *		check_gpuknn(index): whether the pages of an index agree with each other.
 *		Writers wait meanwhile.
 */
#include "base/compat.h"

#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "index/gpuknn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

typedef struct Check
{
	Relation	index;
	GpuknnMeta	meta;
	size_t		record_bytes;
	size_t		entries;		/* of a slot of tids */
	uint16	   *kinds;			/* of each slot: index flags, and SEEN */
	uint64	   *links;			/* of each slot that is not a record: the next one in its list */
	uint64	   *tids;			/* of all records and slots of tids */
	uint64		ntids;
	uint64		vectors;
	uint64		nulls;
	uint64		free;
} Check;

#define SEEN 0x8000

PG_FUNCTION_INFO_V1(gpuknn_check);

pg_noreturn static void
report(Check *check, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INDEX_CORRUPTED),
			 errmsg("index \"%s\" is damaged", RelationGetRelationName(check->index)),
			 errdetail_internal("%s", detail),
			 errhint("Rebuild the index with REINDEX.")));
}

/* Copies a slot, page by page. */
static void
read_slot(Check *check, uint64 slot, char *to)
{
	for (size_t at = 0; at < check->record_bytes;)
	{
		size_t		offset = gpuknn_offset(check->record_bytes, slot, at);
		size_t		some = Min(check->record_bytes - at, GPUKNN_PAGE_BYTES - offset);
		Buffer		buffer = gpuknn_buffer(check->index, gpuknn_block(check->record_bytes, slot, at), BUFFER_LOCK_SHARE, NULL);

		memcpy(to + at, gpuknn_bytes(BufferGetPage(buffer)) + offset, some);
		UnlockReleaseBuffer(buffer);
		at += some;
	}
}

static void
add_tid(Check *check, uint64 slot, uint64 tid)
{
	ItemPointerData pointer;

	gpuknn_unpack_tid(tid, &pointer);
	if (!ItemPointerIsValid(&pointer))
		report(check, psprintf("Slot " UINT64_FORMAT " names no row.", slot));
	if (check->ntids == check->meta.vectors + check->meta.nulls)
		report(check, psprintf("It holds more than the " UINT64_FORMAT " rows that it counts.", check->ntids));
	check->tids[check->ntids++] = tid;
}

static void
check_slot(Check *check, uint64 slot, const char *bytes)
{
	const GaKnnRow *row = (const GaKnnRow *) bytes;
	const uint64 *words = (const uint64 *) bytes;
	uint16		kind = row->flags & GA_KNN_INDEX_FLAGS;

	check->kinds[slot] = kind;
	check->links[slot] = gpuknn_get48(row->tid);
	if (kind == 0)
	{
		check->vectors++;
		add_tid(check, slot, gpuknn_get48(row->tid));
	}
	else if (kind == GPUKNN_FREE)
		check->free++;
	else if (kind == GPUKNN_TIDS)
	{
		for (size_t i = 0; i < check->entries; i++)
		{
			if (words[GPUKNN_TIDS_WORD + i] != 0)
			{
				check->nulls++;
				add_tid(check, slot, words[GPUKNN_TIDS_WORD + i]);
			}
		}
	}
	else
		report(check, psprintf("Slot " UINT64_FORMAT " has flags %04x.", slot, row->flags));
}

/* Follows a list of slots of one kind; its length. */
static uint64
check_list(Check *check, uint64 head, uint16 kind)
{
	uint64		n = 0;

	for (uint64 slot = head; slot != GPUKNN_NONE; slot = check->links[slot])
	{
		if (slot >= check->meta.length || check->kinds[slot] != kind)
			report(check, psprintf("Slot " UINT64_FORMAT " does not belong into the list of kind %d, or is there twice.", slot, kind));
		check->kinds[slot] |= SEEN;
		n++;
	}
	return n;
}

static int
compare(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

static void
check_all(Check *check)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *bytes;

	if (check->record_bytes != ga_knn_record_bytes(check->meta.storage, check->meta.dim))
		report(check, psprintf("Its slots have " UINT64_FORMAT " bytes.", check->meta.record_bytes));
	if (RelationGetNumberOfBlocks(check->index) < gpuknn_end_block(check->record_bytes, check->meta.length))
		report(check, psprintf("It has %u pages, too few for " UINT64_FORMAT " slots.",
							   RelationGetNumberOfBlocks(check->index), check->meta.length));
	check->entries = check->record_bytes / 8 - GPUKNN_TIDS_WORD;
	check->kinds = MemoryContextAllocHuge(context, Max(check->meta.length, 1) * sizeof(uint16));
	check->links = MemoryContextAllocHuge(context, Max(check->meta.length, 1) * sizeof(uint64));
	check->tids = MemoryContextAllocHuge(context, Max(check->meta.vectors + check->meta.nulls, 1) * sizeof(uint64));
	bytes = palloc(check->record_bytes);
	for (uint64 slot = 0; slot < check->meta.length; slot++)
	{
		CHECK_FOR_INTERRUPTS();
		read_slot(check, slot, bytes);
		check_slot(check, slot, bytes);
	}
	if (check->vectors != check->meta.vectors || check->nulls != check->meta.nulls || check->free != check->meta.free)
		report(check, psprintf("It holds " UINT64_FORMAT " vectors, " UINT64_FORMAT " NULLs and " UINT64_FORMAT " free slots, and counts "
							   UINT64_FORMAT ", " UINT64_FORMAT ", " UINT64_FORMAT ".", check->vectors, check->nulls, check->free,
							   check->meta.vectors, check->meta.nulls, check->meta.free));
	if (check_list(check, check->meta.free_head, GPUKNN_FREE) != check->free)
		report(check, "A free slot is in no list.");
	check_list(check, check->meta.tids_head, GPUKNN_TIDS);
	qsort(check->tids, check->ntids, sizeof(uint64), compare);
	for (uint64 i = 1; i < check->ntids; i++)
		if (check->tids[i] == check->tids[i - 1])
			report(check, psprintf("Row (%u,%u) is there twice.", (unsigned) (check->tids[i] >> 16), (unsigned) (check->tids[i] & 0xffff)));
}

Datum
gpuknn_check(PG_FUNCTION_ARGS)
{
	Oid			oid = PG_GETARG_OID(0);
	LOCKMODE	mode = RecoveryInProgress() ? AccessShareLock : ShareLock;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "gpuknn check", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	Check		check = {0};
	/* The table first, as everybody does who locks both. */
	Oid			table = IndexGetRelation(oid, true);
	Relation	heap = OidIsValid(table) ? try_relation_open(table, mode) : NULL;

	check.index = heap != NULL ? try_relation_open(oid, mode) : NULL;
	if (check.index == NULL || check.index->rd_rel->relkind != RELKIND_INDEX || check.index->rd_indam->ambuild != gpuknn_build)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("relation %u is not a gpuknn index", oid)));
	old = MemoryContextSwitchTo(context);
	gpuknn_read_meta(check.index, &check.meta);
	check.record_bytes = check.meta.record_bytes;
	check_all(&check);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	relation_close(check.index, mode);
	relation_close(heap, mode);
	PG_RETURN_INT64(check.vectors + check.nulls);
}
