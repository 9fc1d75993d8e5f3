/*
 * gpuknn.h
 *		The index access method gpuknn: exact nearest neighbours.
 *
 * Page 0 is the meta page. The pages after it hold one stream of bytes, cut
 * into slots of one size: slot r begins at byte r * record_bytes, so slots may
 * cross pages. A slot holds the record of a row (math/knn.h), or tids of rows
 * whose vector is NULL, or is free. A slot consists of words of 8 bytes, and no
 * word crosses a page.
 *
 * Locks: the content lock of the meta page serialises all writers, and is taken
 * before those of other pages; of several other pages the lower one comes first.
 *
 * Writing. Everything that changes goes through generic WAL, which covers four
 * pages a record. What a slot is to hold is written first, and becomes true by
 * the last record, which covers the slot's first word and the meta page: its
 * length for a slot behind the last, its list of free slots for one that was
 * free. Until then a crash leaves bytes behind that nobody reads.
 *
 * Reading. A scan takes the length once, after its snapshot was taken. Slots
 * never move, and the slot of a row that the snapshot may see does not change
 * while it may: vacuum frees a slot only when its row is dead to everybody, and
 * what is put there then, as what is appended, belongs to transactions that the
 * snapshot does not see. So a scan locks only one page at a time, and whatever
 * else it reads meanwhile, even a slot that is half written, costs it nothing
 * but a tid that its snapshot rejects. That holds for tids of the table, too,
 * which vacuum releases only after it freed their slots. It does not hold for
 * other than MVCC snapshots: those are refused.
 *
 * A copy of the slots on a device (gpuknn_mirror.h) is read in the same manner:
 * it has been brought up to date since the scan took the length, so it holds
 * what the pages held then, or later. A slot that is copied while it is replaced
 * belongs to no row that any such scan sees, and will be copied again, as the
 * meta page notes it after that.
 *
 * On a hot standby, the table's own record of the pruning of a row comes before
 * the records here, and has waited for or cancelled whoever could see the row.
 */
#ifndef GA_GPUKNN_H
#define GA_GPUKNN_H

#include "base/compat.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/generic_xlog.h"
#include "math/knn.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "utils/rel.h"

#define GPUKNN_MAX_DIM 65535

/* ----- operator classes ----- */

/* Strategy 1 orders by distance. Both support functions take an internal (GpuknnClass *) and fill in their part. */
#define GPUKNN_STRATEGY_DISTANCE 1
#define GPUKNN_PROC_METRIC 1
#define GPUKNN_PROC_TYPE 2
#define GPUKNN_NPROCS 2

typedef struct GpuknnVector
{
	int			dtype;			/* F64, F32, F16 or BF16 */
	size_t		dim;
	const void *data;			/* aligned to 8 bytes */
} GpuknnVector;

typedef struct GpuknnClass
{
	/* of the metric */
	GaMetric	metric;
	GaKnnSums	sums;

	/* of the type: a value's elements, in the datum or in the current memory context */
	void		(*vector) (Datum value, GpuknnVector *vector);
	/* dimensions by a column's type modifier, 0 when it does not tell */
	int			(*typmod_dim) (int32 typmod);
	/* throws what the type's operators throw for vectors of different dimensions */
	void		(*mismatch) (size_t column, size_t query);
} GpuknnClass;

extern void gpuknn_class(Relation index, GpuknnClass *class);

/* ----- pages ----- */

#define GPUKNN_META_BLOCK 0
#define GPUKNN_MAGIC 0x6b6e6e31
#define GPUKNN_VERSION 2
#define GPUKNN_PAGE_ID 0xff9b

typedef struct GpuknnOpaque
{
	uint32		reserved;		/* zero */
	uint16		is_meta;
	uint16		page_id;		/* GPUKNN_PAGE_ID, for whoever looks at files */
} GpuknnOpaque;

/* Bytes of the stream on a page. */
#define GPUKNN_PAGE_BYTES (BLCKSZ - MAXALIGN(SizeOfPageHeaderData) - MAXALIGN(sizeof(GpuknnOpaque)))

StaticAssertDecl(GPUKNN_PAGE_BYTES % 8 == 0, "words would cross pages");

/* No slot: the end of a list. Slot numbers fit into the 48 bits of a tid. */
#define GPUKNN_NONE UINT64CONST(0xffffffffffff)

/* Numbers of slots that changed lately: a power of two. */
#define GPUKNN_RING 512

typedef struct GpuknnMeta
{
	uint32		magic;
	uint32		version;
	uint8		storage;		/* GaKnnStorage */
	uint8		metric;			/* GaMetric: what a record is depends on it */
	uint16		reserved;
	uint32		dim;
	uint64		record_bytes;
	uint64		length;			/* slots */
	uint64		vectors;		/* slots that hold a record */
	uint64		nulls;			/* tids of rows without a vector */
	uint64		free;			/* free slots */
	uint64		free_head;		/* list of them */
	uint64		tids_head;		/* list of slots of tids that have room */
	uint64		generation;		/* vacuums */
	uint64		incarnation;	/* random, of each build: what was copied from another one is of no use */

	/*
	 * For copies of the slots: those that changed after they were published,
	 * oldest first; the last at (changes - 1) % GPUKNN_RING. A copy of `length`
	 * slots as of `changes` is brought up to date by reading these and the slots
	 * behind its own, unless more than GPUKNN_RING changed.
	 */
	uint64		changes;
	uint64		changed[GPUKNN_RING];
} GpuknnMeta;

/* What does not change as long as the index's file lives. */
typedef struct GpuknnShape
{
	GaKnnStorage storage;
	GaMetric	metric;
	size_t		dim;
	size_t		record_bytes;
} GpuknnShape;

/* Bits of a record's flags that are the index's own. */
#define GPUKNN_FREE 0x0001		/* tid: next free slot */
#define GPUKNN_TIDS 0x0002		/* tid: next slot of tids with room */

/* Word 1 of a slot of tids; the tids are in the words from 2 on, 0 where there is none. */
typedef struct GpuknnTids
{
	uint32		hint;			/* no room before it, but for what a vacuum that did not end cleared */
	uint32		listed;			/* generation (its low bits) in whose list the slot is; 0: in none */
} GpuknnTids;

#define GPUKNN_TIDS_WORD 2

static inline size_t
gpuknn_tids_capacity(const GpuknnShape *shape)
{
	return shape->record_bytes / 8 - GPUKNN_TIDS_WORD;
}

static inline BlockNumber
gpuknn_block(size_t record_bytes, uint64 slot, size_t at)
{
	return (BlockNumber) (1 + (slot * record_bytes + at) / GPUKNN_PAGE_BYTES);
}

static inline size_t
gpuknn_offset(size_t record_bytes, uint64 slot, size_t at)
{
	return (slot * record_bytes + at) % GPUKNN_PAGE_BYTES;
}

/* The first slot that begins on a page of the stream or behind it. */
static inline uint64
gpuknn_first_slot(size_t record_bytes, BlockNumber block)
{
	return ((uint64) (block - 1) * GPUKNN_PAGE_BYTES + record_bytes - 1) / record_bytes;
}

/* The pages that `length` slots cover are those below this one. */
static inline BlockNumber
gpuknn_end_block(size_t record_bytes, uint64 length)
{
	return length == 0 ? 1 : gpuknn_block(record_bytes, length, 0) + (gpuknn_offset(record_bytes, length, 0) > 0);
}

#define gpuknn_bytes(page) ((char *) (page) + MAXALIGN(SizeOfPageHeaderData))
#define gpuknn_meta(page) ((GpuknnMeta *) gpuknn_bytes(page))

/* A tid, or the number of a slot, in the 48 bits that a record has for it. */
static inline uint64
gpuknn_get48(const uint8 *bytes)
{
	uint16		part[3];

	memcpy(part, bytes, sizeof(part));
	return (uint64) part[0] << 32 | (uint64) part[1] << 16 | part[2];
}

static inline void
gpuknn_put48(uint8 *bytes, uint64 value)
{
	uint16		part[3] = {(uint16) (value >> 32), (uint16) (value >> 16), (uint16) value};

	memcpy(bytes, part, sizeof(part));
}

static inline uint64
gpuknn_pack_tid(ItemPointer tid)
{
	return (uint64) ItemPointerGetBlockNumber(tid) << 16 | ItemPointerGetOffsetNumber(tid);
}

static inline void
gpuknn_unpack_tid(uint64 packed, ItemPointer tid)
{
	ItemPointerSet(tid, (BlockNumber) (packed >> 16), (OffsetNumber) (packed & 0xffff));
}

/* The same of a tid that a scan goes to; XX002 when it names no row. */
extern void gpuknn_row_tid(Relation index, uint64 packed, ItemPointer tid);

extern void gpuknn_init_page(Page page, bool is_meta);
extern void gpuknn_init_meta(Page page, const GpuknnShape *shape);

/* Pins and locks a page of the stream or the meta page; XX002 when it is none. */
extern Buffer gpuknn_buffer(Relation index, BlockNumber block, int lock, BufferAccessStrategy strategy);

/* XX002 unless it is such a page. */
extern void gpuknn_check_page(Relation index, BlockNumber block, Page page);

extern GpuknnShape gpuknn_shape(Relation index);

/*
 * The buffer that a page was in when this session saw it last; InvalidBuffer
 * when it does not know. What is remembered is a guess: ReadRecentBuffer() tells.
 */
extern Buffer gpuknn_recent_buffer(Relation index, BlockNumber block);
extern void gpuknn_remember_buffer(Relation index, BlockNumber block, Buffer buffer);

/* Makes room for remembering the buffers of pages below `end`. */
extern void gpuknn_remember_buffers(Relation index, BlockNumber end);

/* What the meta page counts, at one moment; `changed` is filled in when asked for. */
extern void gpuknn_read_meta(Relation index, GpuknnMeta *meta);
extern void gpuknn_read_meta_and_changes(Relation index, GpuknnMeta *meta);

/* Notes for copies that a published slot changes. */
extern void gpuknn_note_change(GpuknnMeta *meta, uint64 slot);

/* ----- options ----- */
extern void ga_gpuknn_init(void);
extern bytea *gpuknn_options(Datum reloptions, bool validate);
extern void gpuknn_options_shape(Relation index, const GpuknnClass *class, GpuknnShape *shape);

/* ----- callbacks ----- */
/* Subphases of a build, after the server's own. */
#define GPUKNN_PHASE_SCAN 2

extern IndexBuildResult *gpuknn_build(Relation heap, Relation index, struct IndexInfo *info);
extern void gpuknn_build_empty(Relation index);
extern bool gpuknn_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
						  IndexUniqueCheck check, bool unchanged, struct IndexInfo *info);
extern IndexBulkDeleteResult *gpuknn_bulk_delete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats,
												 IndexBulkDeleteCallback callback, void *callback_state);
extern IndexBulkDeleteResult *gpuknn_vacuum_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats);
extern void gpuknn_cost_estimate(struct PlannerInfo *root, struct IndexPath *path, double loop_count,
								 Cost *startup_cost, Cost *total_cost, Selectivity *selectivity,
								 double *correlation, double *pages);
extern bool gpuknn_validate(Oid opclass);
extern IndexScanDesc gpuknn_begin_scan(Relation index, int nkeys, int norderbys);
extern void gpuknn_rescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys);
extern bool gpuknn_next(IndexScanDesc scan, ScanDirection direction);
extern void gpuknn_end_scan(IndexScanDesc scan);

/* Encodes a row's value as a record but for its tid, in `record`; throws when its dimensions are not those of the index. */
extern void gpuknn_encode(const GpuknnClass *class, const GpuknnShape *shape, Datum value, GaKnnRow *record);

#endif							/* GA_GPUKNN_H */
