/*
 * gpuknn_build.c
 *		CREATE INDEX and REINDEX: the table's rows in one pass, written to a new
 *		file past the buffers.
 */
#include "base/compat.h"

#include "access/tableam.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "commands/progress.h"
#include "index/gpuknn_build.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufpage.h"
#include "storage/smgr.h"
#include "utils/memutils.h"

/* Pages that are logged and written at once. */
#define WRITER_PAGES 32

/* Writes a stream of bytes to the pages from 1 on, and the meta page at the end. */
typedef struct Writer
{
	Relation	index;
	ForkNumber	fork;
	bool		wal;
	char	   *pages;			/* WRITER_PAGES */
	BlockNumber first;			/* block of pages[0] */
	int			npages;			/* begun */
	size_t		used;			/* bytes of the last one */
} Writer;

typedef struct Build
{
	GpuknnClass class;
	GpuknnShape shape;
	Writer		writer;
	GpuknnMeta	counts;			/* length, vectors, nulls, tids_head */
	GaKnnRow   *record;
	uint64	   *tids;			/* slot of tids that is being filled */
	size_t		ntids;
	MemoryContext row_context;
} Build;

static void
write_pages(Writer *writer, BlockNumber first, char *pages, int npages, bool extend)
{
	SMgrRelation file = RelationGetSmgr(writer->index);

	if (writer->wal)
	{
		BlockNumber blocks[WRITER_PAGES];
		Page		images[WRITER_PAGES];

		for (int i = 0; i < npages; i++)
		{
			blocks[i] = first + i;
			images[i] = pages + (size_t) i * BLCKSZ;
		}
		log_newpages(&ga_rel_locator(writer->index), writer->fork, npages, blocks, images, true);
	}
	for (int i = 0; i < npages; i++)
	{
		char	   *page = pages + (size_t) i * BLCKSZ;

		PageSetChecksumInplace(page, first + i);
		if (extend)
			smgrextend(file, writer->fork, first + i, page, true);
		else
			smgrwrite(file, writer->fork, first + i, page, true);
	}
}

static void
writer_begin(Writer *writer, Relation index, ForkNumber fork)
{
	writer->index = index;
	writer->fork = fork;
	writer->wal = RelationNeedsWAL(index) || fork == INIT_FORKNUM;
	/* Direct I/O of newer servers wants pages at multiples of a device's block. */
	writer->pages = (char *) TYPEALIGN(4096, palloc0((WRITER_PAGES + 1) * BLCKSZ));
	writer->npages = 0;
	writer->first = 1;

	/* The meta page's place: what belongs there is known at the end. */
	gpuknn_init_page(writer->pages, true);
	write_pages(writer, GPUKNN_META_BLOCK, writer->pages, 1, true);
}

static void
writer_flush(Writer *writer)
{
	CHECK_FOR_INTERRUPTS();
	write_pages(writer, writer->first, writer->pages, writer->npages, true);
	writer->first += writer->npages;
	writer->npages = 0;
}

static void
writer_append(Writer *writer, const void *bytes, size_t n)
{
	while (n > 0)
	{
		size_t		some;

		if (writer->npages == 0 || writer->used == GPUKNN_PAGE_BYTES)
		{
			if (writer->npages == WRITER_PAGES)
				writer_flush(writer);
			if (writer->first + writer->npages == MaxBlockNumber)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("index \"%s\" would have more than %u pages", RelationGetRelationName(writer->index), MaxBlockNumber)));
			gpuknn_init_page(writer->pages + (size_t) writer->npages++ * BLCKSZ, false);
			writer->used = 0;
		}
		some = Min(n, GPUKNN_PAGE_BYTES - writer->used);
		memcpy(gpuknn_bytes(writer->pages + (size_t) (writer->npages - 1) * BLCKSZ) + writer->used, bytes, some);
		writer->used += some;
		bytes = (const char *) bytes + some;
		n -= some;
	}
}

static void
writer_end(Writer *writer, const GpuknnShape *shape, const GpuknnMeta *counts)
{
	GpuknnMeta *meta = gpuknn_meta(writer->pages);

	writer_flush(writer);
	gpuknn_init_meta(writer->pages, shape);
	meta->length = counts->length;
	meta->vectors = counts->vectors;
	meta->nulls = counts->nulls;
	meta->tids_head = counts->tids_head;
	write_pages(writer, GPUKNN_META_BLOCK, writer->pages, 1, false);

	/* A checkpoint would not write what went past the buffers. Without WAL, the commit syncs files that it must. */
	if (writer->wal || writer->index->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		smgrimmedsync(RelationGetSmgr(writer->index), writer->fork);
}

static void
append_slot(Build *build, const void *slot)
{
	writer_append(&build->writer, slot, build->shape.record_bytes);
	build->counts.length++;
}

/* Writes the slot of tids; a slot with room is the one that inserts go on with. */
static void
flush_tids(Build *build)
{
	GaKnnRow   *first = (GaKnnRow *) build->tids;
	GpuknnTids *state = (GpuknnTids *) (build->tids + 1);

	if (build->ntids == 0)
		return;
	gpuknn_put48(first->tid, GPUKNN_NONE);
	first->flags = GPUKNN_TIDS;
	state->hint = build->ntids;
	if (build->ntids < gpuknn_tids_capacity(&build->shape))
	{
		build->counts.tids_head = build->counts.length;
		state->listed = 1;
	}
	append_slot(build, build->tids);
	memset(build->tids, 0, build->shape.record_bytes);
	build->ntids = 0;
}

static void
count_rows(const Build *build)
{
	pgstat_progress_update_param(PROGRESS_CREATEIDX_TUPLES_DONE, build->counts.vectors + build->counts.nulls);
}

static void
add_record(void *state, const GaKnnRow *record)
{
	Build	   *build = (Build *) state;

	append_slot(build, record);
	build->counts.vectors++;
	count_rows(build);
}

static void
add_null(void *state, uint64 tid)
{
	Build	   *build = (Build *) state;

	build->tids[GPUKNN_TIDS_WORD + build->ntids++] = tid;
	build->counts.nulls++;
	if (build->ntids == gpuknn_tids_capacity(&build->shape))
		flush_tids(build);
	count_rows(build);
}

static void
add_row(Relation index, ItemPointer tid, Datum *values, bool *isnull, bool alive, void *state)
{
	Build	   *build = (Build *) state;
	MemoryContext old;

	if (isnull[0])
	{
		add_null(build, gpuknn_pack_tid(tid));
		return;
	}
	old = MemoryContextSwitchTo(build->row_context);
	gpuknn_encode(&build->class, &build->shape, values[0], build->record);
	gpuknn_put48(build->record->tid, gpuknn_pack_tid(tid));
	MemoryContextSwitchTo(old);
	MemoryContextReset(build->row_context);
	add_record(build, build->record);
}

IndexBuildResult *
gpuknn_build(Relation heap, Relation index, struct IndexInfo *info)
{
	Build		build = {0};
	GpuknnSink	sink = {add_record, add_null, &build};
	IndexBuildResult *result = palloc0(sizeof(*result));

	if (RelationGetNumberOfBlocks(index) != 0)
		elog(ERROR, "index \"%s\" already contains data", RelationGetRelationName(index));
	gpuknn_class(index, &build.class);
	gpuknn_options_shape(index, &build.class, &build.shape);
	build.counts.tids_head = GPUKNN_NONE;
	build.record = palloc0(build.shape.record_bytes);
	build.tids = palloc0(build.shape.record_bytes);
	build.row_context = AllocSetContextCreate(CurrentMemoryContext, "gpuknn row of a build", ALLOCSET_DEFAULT_SIZES);
	writer_begin(&build.writer, index, MAIN_FORKNUM);

	pgstat_progress_update_param(PROGRESS_CREATEIDX_SUBPHASE, GPUKNN_PHASE_SCAN);
	result->heap_tuples = gpuknn_parallel_scan(heap, index, info, &build.shape, &sink);
	if (result->heap_tuples < 0)
		result->heap_tuples = table_index_build_scan(heap, index, info, true, true, add_row, &build, NULL);
	flush_tids(&build);
	writer_end(&build.writer, &build.shape, &build.counts);
	MemoryContextDelete(build.row_context);
	result->index_tuples = build.counts.vectors + build.counts.nulls;
	return result;
}

/* An unlogged index as it is after a crash. */
void
gpuknn_build_empty(Relation index)
{
	GpuknnClass class;
	GpuknnShape shape;
	GpuknnMeta	counts = {.tids_head = GPUKNN_NONE};
	Writer		writer = {0};

	gpuknn_class(index, &class);
	gpuknn_options_shape(index, &class, &shape);
	writer_begin(&writer, index, INIT_FORKNUM);
	writer_end(&writer, &shape, &counts);
}
