/*
 * gpuknn_pages.c
 *		Pages of a gpuknn index (gpuknn.h has their layout and rules).
 */
#include "base/compat.h"

#include "index/gpuknn.h"
#include "utils/memutils.h"

void
gpuknn_init_page(Page page, bool is_meta)
{
	GpuknnOpaque *opaque;

	PageInit(page, BLCKSZ, sizeof(GpuknnOpaque));
	opaque = (GpuknnOpaque *) PageGetSpecialPointer(page);
	opaque->is_meta = is_meta;
	opaque->page_id = GPUKNN_PAGE_ID;

	/* No hole: WAL keeps all bytes. */
	((PageHeader) page)->pd_lower = ((PageHeader) page)->pd_upper;
}

void
gpuknn_init_meta(Page page, const GpuknnShape *shape)
{
	GpuknnMeta *meta = gpuknn_meta(page);

	gpuknn_init_page(page, true);
	meta->magic = GPUKNN_MAGIC;
	meta->version = GPUKNN_VERSION;
	meta->storage = shape->storage;
	meta->metric = shape->metric;
	meta->dim = shape->dim;
	meta->record_bytes = shape->record_bytes;
	meta->free_head = meta->tids_head = GPUKNN_NONE;
	meta->generation = 1;
	if (!pg_strong_random(&meta->incarnation, sizeof(meta->incarnation)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
}

StaticAssertDecl(sizeof(GpuknnMeta) <= GPUKNN_PAGE_BYTES, "the meta page is too small");

/* Whether what the meta page says can be: nobody divides by, or goes to, what cannot. */
static bool
meta_is_sound(const GpuknnMeta *meta)
{
	size_t		entries;

	if (meta->storage > GA_KNN_INT8 || meta->metric > GA_METRIC_L1 || meta->dim < 1 || meta->dim > GPUKNN_MAX_DIM ||
		meta->record_bytes != ga_knn_record_bytes(meta->storage, meta->dim))
		return false;
	entries = meta->record_bytes / 8 - GPUKNN_TIDS_WORD;
	return meta->length <= (uint64) MaxBlockNumber * GPUKNN_PAGE_BYTES / meta->record_bytes &&
		meta->vectors <= meta->length && meta->free <= meta->length && meta->nulls <= meta->length * entries;
}

void
gpuknn_row_tid(Relation index, uint64 packed, ItemPointer tid)
{
	gpuknn_unpack_tid(packed, tid);
	if (!BlockNumberIsValid(ItemPointerGetBlockNumberNoCheck(tid)) || ItemPointerGetOffsetNumberNoCheck(tid) == InvalidOffsetNumber)
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" names a row that cannot be", RelationGetRelationName(index)),
				 errhint("Rebuild the index with REINDEX.")));
}

void
gpuknn_check_page(Relation index, BlockNumber block, Page page)
{
	const GpuknnOpaque *opaque = (const GpuknnOpaque *) PageGetSpecialPointer(page);

	if (PageIsNew(page) || PageGetSpecialSize(page) != MAXALIGN(sizeof(GpuknnOpaque)) || opaque->page_id != GPUKNN_PAGE_ID ||
		opaque->is_meta != (block == GPUKNN_META_BLOCK))
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("block %u of index \"%s\" is not a page of it", block, RelationGetRelationName(index)),
				 errhint("Rebuild the index with REINDEX.")));
	if (block == GPUKNN_META_BLOCK && (gpuknn_meta(page)->magic != GPUKNN_MAGIC || gpuknn_meta(page)->version != GPUKNN_VERSION))
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("index \"%s\" has version %u of the format, where this library knows %u",
						RelationGetRelationName(index), gpuknn_meta(page)->version, GPUKNN_VERSION),
				 errhint("Rebuild the index with REINDEX.")));
	if (block == GPUKNN_META_BLOCK && !meta_is_sound(gpuknn_meta(page)))
		ereport(ERROR,
				(errcode(ERRCODE_INDEX_CORRUPTED),
				 errmsg("the meta page of index \"%s\" is damaged", RelationGetRelationName(index)),
				 errhint("Rebuild the index with REINDEX.")));
}

Buffer
gpuknn_buffer(Relation index, BlockNumber block, int lock, BufferAccessStrategy strategy)
{
	Buffer		buffer = ReadBufferExtended(index, MAIN_FORKNUM, block, RBM_NORMAL, strategy);

	LockBuffer(buffer, lock);
	gpuknn_check_page(index, block, BufferGetPage(buffer));
	return buffer;
}

/* rd_amcache, which may go whenever messages about the catalogs are read. */
typedef struct Cache
{
	GpuknnShape shape;
	BlockNumber nbuffers;
	Buffer		buffers[FLEXIBLE_ARRAY_MEMBER];
} Cache;

static Cache *
new_cache(Relation index, const GpuknnShape *shape, BlockNumber nbuffers)
{
	Cache	   *cache = MemoryContextAllocExtended(index->rd_indexcxt, offsetof(Cache, buffers) + sizeof(Buffer) * (Size) nbuffers,
												   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);

	cache->shape = *shape;
	cache->nbuffers = nbuffers;
	return cache;
}

GpuknnShape
gpuknn_shape(Relation index)
{
	if (index->rd_amcache == NULL)
	{
		GpuknnMeta	meta;
		GpuknnShape shape;

		gpuknn_read_meta(index, &meta);
		shape.storage = meta.storage;
		shape.metric = meta.metric;
		shape.dim = meta.dim;
		shape.record_bytes = meta.record_bytes;
		index->rd_amcache = new_cache(index, &shape, 0);
	}
	return ((Cache *) index->rd_amcache)->shape;
}

void
gpuknn_remember_buffers(Relation index, BlockNumber end)
{
	GpuknnShape shape = gpuknn_shape(index);
	Cache	   *old = (Cache *) index->rd_amcache;
	Cache	   *cache;

	if (old->nbuffers >= end)
		return;
	/* An index that grows is not copied for each of its pages. */
	cache = new_cache(index, &shape, (BlockNumber) Min((uint64) end + end / 8, MaxBlockNumber));
	memcpy(cache->buffers, old->buffers, sizeof(Buffer) * (Size) old->nbuffers);
	index->rd_amcache = cache;
	pfree(old);
}

Buffer
gpuknn_recent_buffer(Relation index, BlockNumber block)
{
	const Cache *cache = (const Cache *) index->rd_amcache;

	return cache != NULL && block < cache->nbuffers ? cache->buffers[block] : InvalidBuffer;
}

void
gpuknn_remember_buffer(Relation index, BlockNumber block, Buffer buffer)
{
	Cache	   *cache = (Cache *) index->rd_amcache;

	if (cache != NULL && block < cache->nbuffers)
		cache->buffers[block] = buffer;
}

static void
read_meta(Relation index, GpuknnMeta *meta, size_t nbytes)
{
	Buffer		buffer = gpuknn_buffer(index, GPUKNN_META_BLOCK, BUFFER_LOCK_SHARE, NULL);

	memcpy(meta, gpuknn_meta(BufferGetPage(buffer)), nbytes);
	UnlockReleaseBuffer(buffer);
}

void
gpuknn_read_meta(Relation index, GpuknnMeta *meta)
{
	read_meta(index, meta, offsetof(GpuknnMeta, changed));
}

void
gpuknn_read_meta_and_changes(Relation index, GpuknnMeta *meta)
{
	read_meta(index, meta, sizeof(*meta));
}

void
gpuknn_note_change(GpuknnMeta *meta, uint64 slot)
{
	meta->changed[meta->changes++ % GPUKNN_RING] = slot;
}
