/*
 * client.c
 *		Operations on regions of GPUs, by requests to gpuagent_device.
 *
 * What comes from or goes to memory outside of the mapping passes through the
 * arena in pieces, by two buffers in turn: one is copied here while the device
 * copies the other.
 */
#include "base/compat.h"

#include <time.h>

#include "device/ops.h"
#include "device/request.h"
#include "device/state.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#define LARGEST_PIECE ((uint64) 4 * 1024 * 1024)
#define LEAVES_PER_LIST (GA_ARENA_BLOCK / sizeof(uint32))
#define PAIRS_PER_LIST (GA_ARENA_BLOCK / (2 * sizeof(uint64)))
#define SHA_LEN 32

/* So much at a time that a GPU is done with it in milliseconds. */
#define LEAVES_PER_FINGERPRINT 262144
#define LEAVES_PER_SHA256 16384

#define FREE_WAIT_MS 1000
#define MAKE_ROOM_TIMES 8		/* others may take what was given up for this */

/* ---- helpers ---- */

static void
operation_begins(int device, uint64 rows)
{
	ga_last_request = (GaLastRequest) {.device = device, .rows = rows, .batch = 1};
}

/* True for memory that the device reaches itself: arena and cache. */
static bool
in_mapping(const void *data, uint64 nbytes)
{
	const GaHeader *header = ga_mapping();
	const char *begin = (const char *) header + header->arena_offset;
	const char *end = (const char *) header + header->file_bytes;

	return (const char *) data >= begin && (const char *) data + nbytes <= end;
}

/* So large that a buffer of this and one more find room beside those of a few others. */
static uint64
piece_bytes(void)
{
	uint64		piece = TYPEALIGN_DOWN(GA_ARENA_BLOCK, ga_arena_limit() / 8);

	return Min(Max(piece, GA_ARENA_BLOCK), LARGEST_PIECE);
}

static void
submit_transfer(GaOp op, int device, uint64 region, uint64 offset, const char *memory, uint64 nbytes)
{
	GaSlot	   *slot = ga_request_begin(op, device);

	slot->arg[0] = region;
	slot->arg[1] = offset;
	slot->arg[2] = ga_mapping_offset(memory);
	slot->arg[3] = nbytes;
	ga_request_submit();
}

/* ---- life of a region ---- */

void
ga_wake_supervisor(void)
{
	int			number = ga_device_state()->supervisor;

	if (number > 0)
		SetLatch(&ProcGlobal->allProcs[number - 1].procLatch);
}

bool
ga_slot_is_abandoned(int number, uint32 generation)
{
	const GaSlot *slot = &ga_slots(ga_mapping())[number];

	return __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == GA_SLOT_ABANDONED && slot->generation == generation;
}

/* Lets the supervisor free it; never throws. */
static void
free_later(uint64 region, int device)
{
	GaDeviceState *state = ga_device_state();
	GaFreeRegion entry = {.region = region, .device = device, .slot = -1};
	int			self = ga_process_number();
	bool		full;

	if (self < (int) ga_mapping()->nslots && ga_slots(ga_mapping())[self].state == GA_SLOT_ABANDONED)
	{
		entry.slot = self;
		entry.generation = ga_slots(ga_mapping())[self].generation;
	}
	LWLockAcquire(ga_device_state_lock(), LW_EXCLUSIVE);
	full = state->nfree == GA_FREE_QUEUE;
	if (!full)
		state->free_queue[state->nfree++] = entry;
	LWLockRelease(ga_device_state_lock());
	ga_wake_supervisor();
	if (full)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("memory of region %llu stays taken on device \"%s\"", (unsigned long long) region, ga_device_name(device)),
				 errdetail("The queue of memory that is to be freed is full.")));
}

/* Waits until the supervisor has freed what was removed before. */
static void
wait_for_frees(void)
{
	for (int waited = 0; waited < FREE_WAIT_MS; waited++)
	{
		bool		empty;

		LWLockAcquire(ga_device_state_lock(), LW_SHARED);
		empty = ga_device_state()->nfree == 0;
		LWLockRelease(ga_device_state_lock());
		if (empty)
			return;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
}

int			(*ga_device_make_room) (int device, uint64 nbytes) = NULL;

static const GaSlot *
request_create(uint64 region, int device, uint64 nbytes, bool ipc)
{
	GaSlot	   *slot = ga_request_begin(GA_OP_REGION_CREATE, device);

	slot->arg[0] = region;
	slot->arg[1] = nbytes;
	slot->arg[2] = ipc ? GA_REGION_IPC : 0;
	ga_request_submit();
	return ga_request_wait();
}

uint64
ga_client_create(uint64 region, int device, uint64 nbytes, bool ipc, uint8 *ipc_handle, bool optional)
{
	volatile uint64 size = 0;

	operation_begins(device, 0);
	ga_region_file_create(region, nbytes, 0, true);
	PG_TRY();
	{
		const GaSlot *answer = request_create(region, device, nbytes, ipc);

		/* What was removed just before may not have been freed. */
		if (answer->status == GA_STATUS_BUDGET)
		{
			wait_for_frees();
			answer = request_create(region, device, nbytes, ipc);
		}
		for (int i = 0; i < MAKE_ROOM_TIMES && answer->status == GA_STATUS_BUDGET && !optional && ga_device_make_room != NULL &&
			 ga_device_make_room(device, nbytes) > 0; i++)
		{
			wait_for_frees();
			answer = request_create(region, device, nbytes, ipc);
		}
		if (answer->status == GA_STATUS_BUDGET && optional)
			ga_client_remove(region, device);
		else
		{
			ga_request_check(answer);
			size = answer->result[0];
		}
		if (ipc)
			memcpy(ipc_handle, answer->extra, sizeof(answer->extra));
	}
	PG_CATCH();
	{
		ga_client_remove(region, device);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return size;
}

void
ga_client_remove(uint64 region, int device)
{
	/* The memory must not be freed before it is made. Other requests go on: the supervisor's may be freeing something. */
	ga_request_abandon_making(region);
	ga_region_file_remove(region);
	free_later(region, device);
}

void
ga_client_grant(uint64 region, int device, bool write, const uint8 *name, const uint8 *token, TimestampTz expires)
{
	GaSlot	   *slot = ga_request_begin(GA_OP_GRANT, device);
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	slot->arg[0] = region;
	slot->arg[1] = write;
	slot->arg[2] = now.tv_sec * UINT64CONST(1000000000) + now.tv_nsec +
		Max(expires - GetCurrentTimestamp(), 0) * UINT64CONST(1000);
	memcpy(&slot->arg[3], name, 2 * sizeof(uint64));
	memcpy(slot->extra, token, GA_TOKEN_LEN);
	operation_begins(device, 0);
	ga_request_submit();
	(void) ga_request_finish();
}

void
ga_client_revoke(int device, const uint8 *name)
{
	MemoryContext context = CurrentMemoryContext;

	if (!ga_device_serves())
		return;
	PG_TRY();
	{
		memcpy(ga_request_begin(GA_OP_REVOKE, device)->arg, name, 2 * sizeof(uint64));
		ga_request_submit();
		(void) ga_request_finish();
	}
	PG_CATCH();
	{
		/* With the process its grants are gone; a grant that nobody uses ends by itself. */
		if (geterrcode() != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		ga_request_abandon();
	}
	PG_END_TRY();
}

/* ---- transfers ---- */

void
ga_client_upload(uint64 region, int device, uint64 offset, const char *data, uint64 nbytes)
{
	uint64		piece = piece_bytes();
	char	   *buffers;

	operation_begins(device, (nbytes + GA_LEAF - 1) / GA_LEAF);
	if (nbytes == 0)
		return;
	if (in_mapping(data, nbytes))
	{
		submit_transfer(GA_OP_UPLOAD, device, region, offset, data, nbytes);
		(void) ga_request_finish();
		return;
	}
	buffers = ga_arena_alloc(Min(2 * piece, nbytes));
	for (uint64 done = 0, i = 0; done < nbytes; done += piece, i++)
	{
		char	   *buffer = buffers + i % 2 * piece;
		uint64		n = Min(piece, nbytes - done);

		memcpy(buffer, data + done, n);
		if (i > 0)
			(void) ga_request_finish();
		submit_transfer(GA_OP_UPLOAD, device, region, offset + done, buffer, n);
	}
	(void) ga_request_finish();
	ga_arena_free(buffers);
}

void
ga_upload_begin(GaUpload *upload, uint64 region, int device, uint64 nbytes)
{
	Assert(device >= 0);
	*upload = (GaUpload) {.region = region,.device = device,.piece = Min(piece_bytes(), TYPEALIGN(64, nbytes))};
	operation_begins(device, (nbytes + GA_LEAF - 1) / GA_LEAF);
	upload->buffers = ga_arena_alloc(2 * upload->piece);
}

char *
ga_upload_buffer(GaUpload *upload)
{
	return upload->buffers + upload->turn * upload->piece;
}

void
ga_upload_send(GaUpload *upload, uint64 offset, uint64 nbytes)
{
	if (upload->pending)
		(void) ga_request_finish();
	submit_transfer(GA_OP_UPLOAD, upload->device, upload->region, offset, ga_upload_buffer(upload), nbytes);
	upload->pending = true;
	upload->turn = 1 - upload->turn;
}

void
ga_upload_end(GaUpload *upload)
{
	if (upload->pending)
		(void) ga_request_finish();
	ga_arena_free(upload->buffers);
}

void
ga_client_download(uint64 region, int device, uint64 offset, char *data, uint64 nbytes)
{
	uint64		piece = piece_bytes();
	char	   *buffers;

	operation_begins(device, (nbytes + GA_LEAF - 1) / GA_LEAF);
	if (nbytes == 0)
		return;
	if (in_mapping(data, nbytes))
	{
		submit_transfer(GA_OP_DOWNLOAD, device, region, offset, data, nbytes);
		(void) ga_request_finish();
		return;
	}
	buffers = ga_arena_alloc(Min(2 * piece, nbytes));
	submit_transfer(GA_OP_DOWNLOAD, device, region, offset, buffers, Min(piece, nbytes));
	for (uint64 done = 0, i = 0; done < nbytes; done += piece, i++)
	{
		uint64		next = done + piece;

		(void) ga_request_finish();
		if (next < nbytes)
			submit_transfer(GA_OP_DOWNLOAD, device, region, offset + next, buffers + (i + 1) % 2 * piece,
							Min(piece, nbytes - next));
		memcpy(data + done, buffers + i % 2 * piece, Min(piece, nbytes - done));
	}
	ga_arena_free(buffers);
}

void
ga_client_copy(int device, uint64 source, uint64 target, uint64 nbytes)
{
	GaSlot	   *slot;

	operation_begins(device, (nbytes + GA_LEAF - 1) / GA_LEAF);
	if (nbytes == 0)
		return;
	slot = ga_request_begin(GA_OP_COPY, device);
	slot->arg[0] = source;
	slot->arg[1] = 0;
	slot->arg[2] = target;
	slot->arg[3] = 0;
	slot->arg[4] = nbytes;
	ga_request_submit();
	(void) ga_request_finish();
}

/* ---- leaves ---- */

void
ga_client_fingerprint(uint64 region, int device, uint64 nbytes, GaFingerprint *out)
{
	uint64		nleaves = (nbytes + GA_LEAF - 1) / GA_LEAF;
	bool		direct = in_mapping(out, nleaves * sizeof(GaFingerprint));
	uint64		most = direct ? LEAVES_PER_FINGERPRINT : Min(piece_bytes() / sizeof(GaFingerprint), LEAVES_PER_FINGERPRINT);
	char	   *buffer;

	operation_begins(device, nleaves);
	if (nleaves == 0)
		return;
	buffer = direct ? (char *) out : ga_arena_alloc(Min(nleaves, most) * sizeof(GaFingerprint));
	for (uint64 first = 0; first < nleaves; first += most)
	{
		uint64		n = Min(most, nleaves - first);
		GaSlot	   *slot = ga_request_begin(GA_OP_FINGERPRINT, device);

		slot->arg[0] = region;
		slot->arg[1] = nbytes;
		slot->arg[2] = first;
		slot->arg[3] = n;
		slot->arg[4] = ga_mapping_offset(direct ? (char *) (out + first) : buffer);
		ga_request_submit();
		(void) ga_request_finish();
		if (!direct)
			memcpy(out + first, buffer, n * sizeof(GaFingerprint));
	}
	if (!direct)
		ga_arena_free(buffer);
}

/* Something of `width` bytes for each leaf of a list: in pieces, each list through one block of the arena. */
static void
per_leaf(GaOp op, uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, char *out, uint32 width)
{
	bool		direct = in_mapping(out, (uint64) n * width);
	uint64		most = op == GA_OP_SHA256 ? LEAVES_PER_SHA256 : LEAVES_PER_LIST;
	char	   *list;
	char	   *buffer;

	operation_begins(device, n);
	if (n == 0)
		return;
	if (!direct)
		most = Min(most, piece_bytes() / width);
	list = ga_arena_alloc(GA_ARENA_BLOCK + (direct ? 0 : Min(n, most) * width));
	buffer = list + GA_ARENA_BLOCK;
	for (uint64 done = 0; done < n; done += most)
	{
		uint64		count = Min(most, n - done);
		GaSlot	   *slot = ga_request_begin(op, device);

		memcpy(list, leaves + done, count * sizeof(uint32));
		slot->arg[0] = region;
		slot->arg[1] = nbytes;
		slot->arg[2] = ga_mapping_offset(list);
		slot->arg[3] = count;
		slot->arg[4] = ga_mapping_offset(direct ? out + done * width : buffer);
		ga_request_submit();
		(void) ga_request_finish();
		if (!direct)
			memcpy(out + done * width, buffer, count * width);
	}
	ga_arena_free(list);
}

void
ga_client_gather(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, char *out)
{
	per_leaf(GA_OP_GATHER, region, device, nbytes, leaves, n, out, GA_LEAF);
}

void
ga_client_sha256(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, uint8 *out)
{
	per_leaf(GA_OP_SHA256, region, device, nbytes, leaves, n, (char *) out, SHA_LEN);
}

void
ga_client_gather_rows(int device, uint64 source, uint64 target, const uint64 (*pairs)[2], uint32 n, uint32 row_bytes)
{
	char	   *list;

	operation_begins(device, n);
	if (n == 0)
		return;
	list = ga_arena_alloc(GA_ARENA_BLOCK);
	for (uint64 done = 0; done < n; done += PAIRS_PER_LIST)
	{
		uint64		count = Min(PAIRS_PER_LIST, n - done);
		GaSlot	   *slot = ga_request_begin(GA_OP_GATHER_ROWS, device);

		memcpy(list, pairs + done, count * sizeof(pairs[0]));
		slot->arg[0] = source;
		slot->arg[1] = ga_mapping_offset(list);
		slot->arg[2] = count;
		slot->arg[3] = row_bytes;
		slot->arg[4] = target;
		ga_request_submit();
		(void) ga_request_finish();
	}
	ga_arena_free(list);
}
