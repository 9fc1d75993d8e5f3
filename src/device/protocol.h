/*
 * protocol.h
 *		What the server and gpuagent_device share: the mapping with its request
 *		slots and arena, the messages on their sockets, and the control block of a
 *		mapped swarm. Plain C without PostgreSQL or CUDA; also read by C++.
 *		doc/formats.md describes the same for other programs.
 *
 * All integers are in native byte order: both sides run on one machine. Fields
 * marked "atomic" are accessed with __atomic builtins only.
 *
 * The mapping is the file <run directory>/mapping, made by the postmaster:
 *
 *		GaHeader			one page
 *		GaSlot[nslots]		one per process number of the server
 *		key					GA_FINGERPRINT_KEY_BYTES, random
 *		arena				blocks of GA_ARENA_BLOCK, page aligned, registered with CUDA: transfers
 *		cache				page aligned, registered with CUDA: host tier of the agent cache
 *
 * Life of a slot:
 *
 *		FREE --owner--> READY --device--> RUNNING --device--> DONE --owner--> FREE
 *		READY --owner gives up--> FREE			(compare-and-swap: the device may just have taken it)
 *		RUNNING --owner gives up--> ABANDONED --device has finished--> FREE
 *
 * A slot that is ABANDONED still uses its arena blocks. When the device process
 * is gone (and reaped), the supervisor moves READY and RUNNING to DONE with
 * GA_STATUS_LOST and ABANDONED to FREE, then starts the next one with a new epoch.
 *
 * Wake-up towards the device: the owner sets its bit in ready[], increments
 * doorbell, and when `sleeping` is set sends one byte on its connection. Towards
 * the owner: the device sets DONE and, when `waiting` is set, sends one byte. Both
 * sides set their flag first and look again before they sleep; both may spin before.
 */
#ifndef GA_PROTOCOL_H
#define GA_PROTOCOL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GA_PROTOCOL_MAGIC 0x56454447u	/* "GDEV" */
#define GA_PROTOCOL_VERSION 1u
#define GA_PAGE 4096
#define GA_MAX_DEVICES 16
#define GA_MAX_SLOTS 16384
#define GA_ARENA_BLOCK (1024 * 1024)
#define GA_LEAF 65536
#define GA_TOKEN_LEN 32
#define GA_ERROR_LEN 160

/* Names below the run directory, <shared_memory_dir>/gpuagent-<16 hex digits>, mode 0700. */
#define GA_MAPPING_NAME "mapping"
#define GA_SOCKET_NAME "device.sock"
#define GA_REGION_PREFIX "region-"		/* + id in decimal: control page, then data of host regions */

/* ---- requests ---- */

typedef enum GaOp
{
	GA_OP_NONE = 0,
	GA_OP_PING,					/* result[0] = arg[0] */

	/*
	 * arg: region id, bytes, flags. Memory of the device, zeroed, of at least
	 * that size; result[0] = bytes taken. GA_REGION_IPC: extra = the 64-byte
	 * handle of cudaIpcGetMemHandle. BUDGET when it does not fit the device's budget.
	 */
	GA_OP_REGION_CREATE,
	GA_OP_REGION_FREE,			/* arg: id. Counted as lost while a client still holds it. OK when unknown. */

	/* arg: id, offset in the region, offset in the mapping, bytes. Between region and mapping (arena or cache). */
	GA_OP_UPLOAD,
	GA_OP_DOWNLOAD,
	GA_OP_COPY,					/* arg: source id, offset, target id, offset, bytes */

	/*
	 * arg: id, data bytes, first leaf, number of leaves, offset of the result in
	 * the mapping. Fingerprints (16 bytes each) of the leaves of the first
	 * `data bytes` bytes; the last leaf may be short.
	 */
	GA_OP_FINGERPRINT,

	/*
	 * arg: id, data bytes, offset of a uint32 list of leaves in the mapping, their
	 * number, offset of the result. GATHER: 64 KiB per leaf, the last leaf's
	 * missing bytes are zero. SHA256: 32 bytes per leaf.
	 */
	GA_OP_GATHER,
	GA_OP_SHA256,

	/*
	 * arg: source id, offset of a list of pairs of uint64 (source offset, target offset)
	 * in the mapping, number of pairs, bytes of each row, target id. Rows from one region to another.
	 */
	GA_OP_GATHER_ROWS,

	/*
	 * arg: id, mode (0 read, 1 write), expiry in CLOCK_MONOTONIC ns, two words that name the grant; extra = token. One
	 * client may fetch the memory once.
	 */
	GA_OP_GRANT,
	GA_OP_REVOKE,				/* arg: the two words. A grant that was not used ends. OK when unknown. */

	/* arg: GaFault. Only when the process was started with --allow-faults. */
	GA_OP_FAULT,

	/*
	 * arg: id, offset of a GaKnnAsk in the mapping, bytes of it with what follows, offset of the answer, bytes of that.
	 * The rows with the smallest lower bounds of their distances to queries. result[0] = rows gone over, result[1] =
	 * requests that shared the pass over them.
	 */
	GA_OP_KNN,
	GA_OP_COUNT
} GaOp;

typedef enum GaFault
{
	GA_FAULT_STICKY = 1,		/* an illegal address in a kernel: every later CUDA call fails */
	GA_FAULT_HANG,				/* a kernel that does not end */
	GA_FAULT_EXIT,				/* _exit(1) at once */
	GA_FAULT_SLOW				/* the request takes arg[1] microseconds */
} GaFault;

/*
 * Nearest rows of a region that holds records as src/math/knn.h has them, one
 * each `stride` bytes. What follows the GaKnnAsk: with GA_KNN_AFTER a
 * GaKnnDevicePair for each query, then the queries' elements, each query padded
 * to a multiple of 8 bytes. The answer has for each query a GaKnnAnswer and room
 * for `limit` pairs. Pairs are ordered by bound, NaN last, then by tid; `after`
 * leaves out that pair and those before it.
 */
typedef struct GaKnnAsk
{
	uint64_t	rows;			/* the first so many of the region */
	uint32_t	stride;			/* a multiple of 16 */
	uint32_t	dim;
	uint8_t		storage;		/* GaKnnStorage */
	uint8_t		metric;			/* GaMetric */
	uint8_t		sums;			/* GaKnnSums */
	uint8_t		dtype;			/* of the queries: F64, F32, F16 or BF16 */
	uint32_t	nqueries;
	uint32_t	limit;			/* pairs for each query */
	uint32_t	flags;			/* GA_KNN_AFTER */
	uint64_t	reserved[4];
} GaKnnAsk;						/* 64 bytes */

#define GA_KNN_AFTER 1u
#define GA_KNN_MAX_LIMIT 16384
#define GA_KNN_MAX_QUERIES 1024

typedef struct GaKnnDevicePair
{
	double		bound;
	uint64_t	tid;			/* the record's 48 bits: three 16-bit words, the first the highest */
} GaKnnDevicePair;

typedef struct GaKnnAnswer
{
	uint64_t	count;			/* pairs that follow, ascending */
	uint64_t	reserved;
} GaKnnAnswer;

#define GA_REGION_IPC 1u		/* legacy memory that cudaIpcOpenMemHandle opens, instead of an exportable fd */

typedef enum GaStatus
{
	GA_STATUS_OK = 0,
	GA_STATUS_BUDGET,			/* would exceed the budget or the device's memory */
	GA_STATUS_UNKNOWN,			/* no such region or device */
	GA_STATUS_INVALID,			/* arguments out of bounds */
	GA_STATUS_FAILED,			/* CUDA said no; error has its words */
	GA_STATUS_LOST				/* the process died; its regions may or may not be there again */
} GaStatus;

typedef enum GaSlotState
{
	GA_SLOT_FREE = 0,
	GA_SLOT_READY,
	GA_SLOT_RUNNING,
	GA_SLOT_DONE,
	GA_SLOT_ABANDONED
} GaSlotState;

typedef struct GaSlot
{
	uint32_t	state;			/* atomic; GaSlotState */
	uint32_t	generation;		/* incremented by the owner for each request */
	uint32_t	waiting;		/* atomic; the owner sleeps on its connection */
	int32_t		owner_pid;
	uint32_t	epoch;			/* of the process that the request is for */
	uint32_t	op;				/* GaOp */
	int32_t		device;			/* 0-based */
	uint32_t	status;			/* GaStatus, valid in DONE */
	uint64_t	arg[8];
	uint64_t	result[4];
	uint64_t	queued_ns;		/* CLOCK_MONOTONIC; set by the owner */
	uint64_t	started_ns;		/* set by the device */
	uint64_t	finished_ns;
	uint8_t		extra[64];		/* token in, IPC handle out */
	char		error[GA_ERROR_LEN];
	char		pad[136];
} GaSlot;						/* 512 bytes */

typedef struct GaDeviceInfo
{
	char		name[64];
	uint8_t		uuid[16];
	int32_t		compute_major;
	int32_t		compute_minor;
	uint64_t	total_bytes;	/* of the card */
	uint64_t	budget_bytes;	/* of this server: gpuagent.cache_size */
	uint64_t	context_bytes;	/* what the context took */
	uint64_t	used_bytes;		/* atomic; in regions */
	uint64_t	lost_bytes;		/* atomic; in regions that were freed while a client holds them */
	uint64_t	requests;		/* atomic */
	uint64_t	errors;			/* atomic */
	uint64_t	busy_since_ns;	/* atomic; start of the oldest running request, 0 when idle: the supervisor kills a hung process */
	int64_t		last_error_at;	/* microseconds since the Unix epoch; 0: none */
	char		last_error[GA_ERROR_LEN];
} GaDeviceInfo;

/* What the supervisor knows of the process. */
typedef enum GaServiceState
{
	GA_SERVICE_STOPPED = 0,		/* gpuagent.device = host, or not started yet */
	GA_SERVICE_STARTING,
	GA_SERVICE_READY,			/* set by the process when it serves */
	GA_SERVICE_NO_DEVICE,		/* no program, no driver or no GPU: not tried again */
	GA_SERVICE_BACKOFF			/* died; will be started again */
} GaServiceState;

typedef struct GaHeader
{
	uint32_t	magic;
	uint32_t	version;
	uint64_t	file_bytes;
	uint32_t	nslots;
	uint32_t	slot_bytes;		/* sizeof(GaSlot) */
	uint64_t	slots_offset;
	uint64_t	key_offset;
	uint64_t	arena_offset;
	uint64_t	arena_bytes;
	uint64_t	cache_offset;
	uint64_t	cache_bytes;

	uint32_t	service;		/* atomic; GaServiceState */
	uint32_t	epoch;			/* atomic; incremented by the supervisor at each start */
	int32_t		service_pid;
	uint32_t	restarts;
	int64_t		started_at;		/* microseconds since the Unix epoch */
	uint32_t	ndevices;		/* written by the process before it is READY */
	uint32_t	sleeping;		/* atomic; the dispatcher waits on its sockets */
	uint64_t	doorbell;		/* atomic */
	uint64_t	ready[GA_MAX_SLOTS / 64];	/* atomic; bit per slot that became READY */
} GaHeader;						/* GaDeviceInfo[GA_MAX_DEVICES] follows at GA_DEVICES_OFFSET */

#define GA_DEVICES_OFFSET GA_PAGE
#define GA_SLOTS_OFFSET (GA_PAGE + 2 * GA_PAGE)

static inline GaDeviceInfo *
ga_device_infos(GaHeader *header)
{
	return (GaDeviceInfo *) ((char *) header + GA_DEVICES_OFFSET);
}

static inline GaSlot *
ga_slots(GaHeader *header)
{
	return (GaSlot *) ((char *) header + header->slots_offset);
}

/* ---- the socket <run directory>/device.sock, SOCK_SEQPACKET, 0600 ---- */

/* The first packet of every connection; others than the server's user and root are cut off (SO_PEERCRED). */
typedef struct GaHello
{
	uint32_t	magic;			/* GA_PROTOCOL_MAGIC */
	uint32_t	version;
	uint32_t	kind;			/* GaHelloKind */
	uint32_t	slot;			/* BACKEND: whose */
	uint8_t		token[GA_TOKEN_LEN];	/* CLIENT: as the handle row has it; valid once, for the time of its grant */
} GaHello;

typedef enum GaHelloKind
{
	GA_HELLO_BACKEND = 1,		/* afterwards single bytes in both directions are wake-ups */
	GA_HELLO_CLIENT				/* answered by GaMemory; the connection holds the memory until it is closed */
} GaHelloKind;

/* Answer to a client, with SCM_RIGHTS: the memory's fd, then that of the region's file (its control page). */
typedef struct GaMemory
{
	uint32_t	magic;
	uint32_t	status;			/* GaStatus; without fds unless OK */
	uint64_t	bytes;			/* to be mapped: a multiple of the allocation granularity */
	uint8_t		uuid[16];		/* of the GPU */
	uint32_t	mode;			/* 0 read, 1 write */
	int32_t		device;			/* 0-based, as this process counts */
} GaMemory;

/* ---- the socket between supervisor and process, inherited as fd GA_KEEPER_FD, SOCK_SEQPACKET ---- */

#define GA_KEEPER_FD 3

/*
 * The supervisor keeps the fds of all exportable regions, so that their memory
 * outlives the process. After each start it sends RESTORE for each and then
 * START; the process sends KEEP before it answers REGION_CREATE, and DROP.
 */
typedef enum GaKeeperKind
{
	GA_KEEPER_KEEP = 1,			/* process -> supervisor, with the fd */
	GA_KEEPER_DROP,
	GA_KEEPER_RESTORE,			/* supervisor -> process, with the fd */
	GA_KEEPER_START				/* the last of them */
} GaKeeperKind;

typedef struct GaKeeper
{
	uint32_t	magic;
	uint32_t	kind;			/* GaKeeperKind */
	uint64_t	region;
	uint64_t	bytes;			/* as created */
	uint64_t	size;			/* as allocated */
	int32_t		device;
	uint32_t	pad;
} GaKeeper;

/*
 * Command line: gpuagent_device --directory RUN_DIRECTORY --budget BYTES [--allow-faults]
 * with the keeper's socket as fd GA_KEEPER_FD. RUN_DIRECTORY is absolute; BYTES
 * is for each GPU. A process whose parent is not the one that started it exits.
 * It serves slots of its own epoch only and answers others with LOST. It does
 * not remove files when it exits: a successor may have made them anew.
 */

/* Exit status of the process. */
#define GA_EXIT_NO_DEVICE 3		/* no driver or no GPU: do not try again */

/* ---- the control page of a mapped swarm: the first page of its file ---- */

/*
 * A client that writes takes the open-file-description lock (F_OFD_SETLKW,
 * exclusive) on byte GA_LOCK_STEP of the file, makes `sequence` odd, writes,
 * makes its work visible (cudaStreamSynchronize), makes it even again, and
 * unlocks. sequence odd and the lock free: its owner died in the middle, the
 * region is torn. While it uses the memory it holds a shared lock on byte
 * GA_LOCK_HOLD; the server counts memory as held as long as somebody does.
 */
#define GA_CONTROL_MAGIC 0x4C525443u	/* "CTRL" */
#define GA_LOCK_HOLD 0
#define GA_LOCK_STEP 1

typedef struct GaControl
{
	uint32_t	magic;
	uint32_t	version;		/* GA_PROTOCOL_VERSION */
	uint64_t	region;
	uint64_t	data_bytes;
	uint64_t	sequence;		/* atomic; odd while a step is being written */
	uint64_t	step;			/* steps so far, written by the client inside its step */
	uint32_t	epoch;			/* atomic; a client that finds it changed must map again: the region is stale or gone */
	uint32_t	reserved;
	int64_t		base_version;	/* version that the region was loaded from or last synced to */
} GaControl;

#ifdef __cplusplus
}
#endif

#endif							/* GA_PROTOCOL_H */
