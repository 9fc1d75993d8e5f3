/*
 * gpuknn_mirror_fill.c
 *		Copies slots of an index to its mirror: all of them, or those that changed
 *		and those that were appended.
 *
 * The meta page is read before the slots. So the mirror holds what it says, or
 * later; what changes while slots are read is noted after that, and copied by
 * who needs it. Why half a slot does no harm is told in gpuknn.h.
 */
#include "base/compat.h"

#include "device/mapping.h"
#include "device/region.h"
#include "index/gpuknn_mirror_shared.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/* A mirror has room for an eighth more slots than there are, and for so many bytes at least. */
#define SPARE_BYTES ((uint64) 1024 * 1024)

/* Who waits for more than so many bytes had better read the pages. */
#define LONG_FILL_BYTES ((uint64) 64 * 1024 * 1024)

typedef struct Fill
{
	Relation	index;
	size_t		record_bytes;
	uint32		stride;
	GaUpload	upload;
	size_t		piece_slots;
	BufferAccessStrategy strategy;
} Fill;

static void
begin(Fill *fill, Relation index, const MirrorEntry *entry, uint64 slots)
{
	fill->index = index;
	fill->record_bytes = entry->record_bytes;
	fill->stride = mirror_stride(fill->record_bytes);
	gpuknn_mirror_at_device = true;
	ga_upload_begin(&fill->upload, entry->region, entry->device, Max(slots, 1) * fill->stride);
	gpuknn_mirror_at_device = false;
	fill->piece_slots = fill->upload.piece / fill->stride;
	fill->strategy = gpuknn_end_block(fill->record_bytes, slots) > NBuffers / 4 ? GetAccessStrategy(BAS_BULKREAD) : NULL;
}

static void
end(Fill *fill)
{
	gpuknn_mirror_at_device = true;
	ga_upload_end(&fill->upload);
	gpuknn_mirror_at_device = false;
	if (fill->strategy != NULL)
		FreeAccessStrategy(fill->strategy);
}

/* Takes n bytes that follow those `done`: slots are further apart there, with zeros between them. */
static void
put_bytes(Fill *fill, uint64 *done, const char *bytes, size_t n)
{
	char	   *piece = ga_upload_buffer(&fill->upload);

	if (fill->stride == fill->record_bytes)
	{
		memcpy(piece + *done, bytes, n);
		*done += n;
		return;
	}
	while (n > 0)
	{
		size_t		at = *done % fill->record_bytes;
		size_t		some = Min(n, fill->record_bytes - at);

		char	   *slot = piece + *done / fill->record_bytes * fill->stride;

		memcpy(slot + at, bytes, some);
		memset(slot + fill->record_bytes, 0, fill->stride - fill->record_bytes);
		*done += some;
		bytes += some;
		n -= some;
	}
}

/* Reads n slots into the buffer. */
static void
read_slots(Fill *fill, uint64 first, uint64 n)
{
	BlockNumber block = gpuknn_block(fill->record_bytes, first, 0);
	size_t		offset = gpuknn_offset(fill->record_bytes, first, 0);
	uint64		done = 0;
	uint64		all = n * fill->record_bytes;

	for (; done < all; block++, offset = 0)
	{
		Buffer		buffer;

		CHECK_FOR_INTERRUPTS();
		buffer = gpuknn_buffer(fill->index, block, BUFFER_LOCK_SHARE, fill->strategy);
		put_bytes(fill, &done, gpuknn_bytes(BufferGetPage(buffer)) + offset, Min(GPUKNN_PAGE_BYTES - offset, all - done));
		UnlockReleaseBuffer(buffer);
	}
}

static void
copy_slots(Fill *fill, uint64 first, uint64 end_slot)
{
	for (uint64 n; first < end_slot; first += n)
	{
		n = Min(fill->piece_slots, end_slot - first);
		read_slots(fill, first, n);
		gpuknn_mirror_at_device = true;
		ga_upload_send(&fill->upload, first * fill->stride, n * fill->stride);
		gpuknn_mirror_at_device = false;
	}
}

static int
compare(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Slots that changed since `changes`, of the first `length`; neighbours go together. */
static void
copy_changed(Fill *fill, const GpuknnMeta *meta, uint64 changes, uint64 length)
{
	uint64		slots[GPUKNN_RING];
	int			n = 0;

	for (uint64 i = changes; i < meta->changes; i++)
		if (meta->changed[i % GPUKNN_RING] < length)
			slots[n++] = meta->changed[i % GPUKNN_RING];
	qsort(slots, n, sizeof(uint64), compare);
	for (int first = 0, next; first < n; first = next)
	{
		for (next = first + 1; next < n && slots[next] <= slots[next - 1] + 1;)
			next++;
		copy_slots(fill, slots[first], slots[next - 1] + 1);
	}
}

/* The device with the most room. */
static int
choose_device(void)
{
	int			best = 0;
	int64		most = PG_INT64_MIN;

	for (int i = 0; i < (int) Min(ga_mapping()->ndevices, GA_MAX_DEVICES); i++)
	{
		const GaDeviceInfo *info = &ga_device_infos(ga_mapping())[i];
		int64		room = (int64) info->budget_bytes - (int64) __atomic_load_n(&info->used_bytes, __ATOMIC_RELAXED);

		if (room > most)
		{
			most = room;
			best = i;
		}
	}
	return best;
}

/* Memory for so many slots, and some more. */
static bool
make_region(MirrorEntry *entry, const GpuknnMeta *meta)
{
	uint32		stride = mirror_stride(meta->record_bytes);
	uint64		capacity = meta->length + Max(meta->length / 8, SPARE_BYTES / stride + 1);
	int			device = choose_device();
	uint64		region = ga_region_new_id();
	uint64		size = 0;
	bool		made;

	gpuknn_mirror_at_device = true;
	made = ga_region_try_create(region, device, capacity * stride, &size);
	for (int i = 0; i < 2 && !made && gpuknn_mirror_make_way(device, capacity * stride); i++)
		made = ga_region_try_create(region, device, capacity * stride, &size);
	gpuknn_mirror_at_device = false;
	if (!made)
		return false;
	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	entry->region = region;
	entry->device = device;
	entry->size = size;
	entry->epoch = __atomic_load_n(&ga_mapping()->epoch, __ATOMIC_SEQ_CST);
	entry->incarnation = meta->incarnation;
	entry->record_bytes = meta->record_bytes;
	entry->capacity = capacity;
	entry->length = entry->changes = 0;
	pg_atomic_write_u32(&entry->asked, 0);
	entry->resident_since = GetCurrentTimestamp();
	LWLockRelease(mirrors_lock);
	return true;
}

/* What the fill has brought is there; who waits looks again. */
static void
publish(MirrorEntry *entry, const GpuknnMeta *meta, int64 load_us)
{
	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	if (meta != NULL && !entry->doomed)
	{
		entry->ready = true;
		entry->length = meta->length;
		entry->changes = meta->changes;
		if (load_us > 0)
			entry->load_us = load_us;
	}
	gpuknn_mirror_end_fill();
	LWLockRelease(mirrors_lock);
	gpuknn_mirror_unpin();
	ConditionVariableBroadcast(&mirrors->filled);
}

/* The mirror is of no use any more, or cannot be made: nobody tries for a while. */
static void
give_up_fill(MirrorEntry *entry, int64 pause_ms)
{
	LWLockAcquire(mirrors_lock, LW_EXCLUSIVE);
	gpuknn_mirror_doom(entry);
	entry->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause_ms);
	gpuknn_mirror_end_fill();
	gpuknn_mirror_unlock();
	gpuknn_mirror_unpin();
	ConditionVariableBroadcast(&mirrors->filled);
}

const char *
gpuknn_mirror_fill(Relation index, MirrorEntry *entry)
{
	GpuknnMeta *meta = palloc(sizeof(GpuknnMeta));
	TimestampTz started = GetCurrentTimestamp();
	bool		is_new = entry->region == 0;
	bool		all;
	Fill		fill;

	gpuknn_read_meta_and_changes(index, meta);
	if (!is_new && meta->length > entry->capacity)
	{
		/* Outgrown: the next scan makes a larger one. */
		give_up_fill(entry, 0);
		return NULL;
	}
	if (is_new && !make_region(entry, meta))
	{
		give_up_fill(entry, 5000);
		return "there is no memory for the index on the device";
	}
	all = is_new || meta->changes - entry->changes > GPUKNN_RING;
	entry->filling_all = all || (meta->length - entry->length) * meta->record_bytes > LONG_FILL_BYTES;
	begin(&fill, index, entry, all ? meta->length : meta->length - entry->length + (meta->changes - entry->changes));
	if (!all)
		copy_changed(&fill, meta, entry->changes, entry->length);
	copy_slots(&fill, all ? 0 : entry->length, meta->length);
	end(&fill);
	publish(entry, meta, all ? GetCurrentTimestamp() - started : 0);
	pfree(meta);
	return NULL;
}
