/*
 * driver.h
 *		The other side of gpuagent_device for its tests: the supervisor (a Rig),
 *		backends (Owners) and clients, written from doc/formats.md and protocol.h
 *		alone.
 */
#ifndef DRIVER_H
#define DRIVER_H

#include "device/protocol.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define RIG_SLOTS 128
#define RIG_ARENA (UINT64_C(48) << 20)
#define RIG_CACHE (UINT64_C(4) << 20)
#define RIG_CANARY 4096			/* pages before, between and after arena and cache that nobody may touch */
#define RIG_KEPT 64

typedef struct Kept
{
	GaKeeper	message;
	int			fd;
} Kept;

typedef struct Rig
{
	char		directory[128];
	GaHeader   *header;
	uint64_t	bytes;			/* of the mapping */
	pid_t		pid;			/* of the process, 0: none */
	int			keeper;			/* our end of its socket */
	Kept		kept[RIG_KEPT];
	int			nkept;
} Rig;

/* The program under test: $GA_DEVICE_PROGRAM, else the emulated one beside the test. */
extern bool rig_is_emulated(void);

/* The mapping in a new directory. */
extern void rig_make(Rig *rig);
extern void rig_remove(Rig *rig);

/* Starts the process with options (NULL-terminated, after --directory), a new epoch and what is kept; true when it is READY. */
extern bool rig_start(Rig *rig, const char *const *options);

/* Reads KEEP and DROP. */
extern void rig_listen(Rig *rig);

/* The exit status, or -signal; waits LONG_ENOUGH, then -1000. Cleans up slots and epoch as a supervisor does. */
extern int	rig_reap(Rig *rig);
extern int	rig_kill(Rig *rig, int signal_number);

/* Open descriptors of the process. */
extern int	rig_descriptors(const Rig *rig);

/* True when no more than so many are open before LONG_ENOUGH is over. */
extern bool rig_lets_go(const Rig *rig, int descriptors);

static inline char *
rig_arena(const Rig *rig)
{
	return (char *) rig->header + rig->header->arena_offset;
}

static inline uint64_t
rig_offset(const Rig *rig, const void *place)
{
	return (uint64_t) ((const char *) place - (const char *) rig->header);
}

static inline GaDeviceInfo *
rig_info(const Rig *rig, int device)
{
	return &ga_device_infos(rig->header)[device];
}

/* True while the canary pages are as they were made. */
extern bool rig_canaries_live(const Rig *rig);

typedef struct Owner
{
	Rig		   *rig;
	GaSlot	   *slot;
	uint32_t	number;
	int			fd;
	int			spin;			/* looks at the slot before it sleeps */
	long		slept;			/* how often it did */
} Owner;

extern bool owner_open(Owner *owner, Rig *rig, uint32_t number);
extern void owner_close(Owner *owner);

/* Fills the slot, sets it READY and rings. */
extern void owner_submit(Owner *owner, GaOp op, int device, int nargs, const uint64_t *args);

/* Waits at most `seconds`; false when the slot is not DONE then. */
extern bool owner_wait(Owner *owner, double seconds);

/* Submits and waits; the status, -1 when there was none. The slot is FREE again, its results can be read. */
extern int	owner_request(Owner *owner, GaOp op, int device, int nargs, const uint64_t *args);

#define REQUEST(owner, op, device, ...) \
	owner_request((owner), (op), (device), (int) (sizeof((uint64_t[]) {__VA_ARGS__}) / 8), (const uint64_t[]) {__VA_ARGS__})
#define SUBMIT(owner, op, device, ...) \
	owner_submit((owner), (op), (device), (int) (sizeof((uint64_t[]) {__VA_ARGS__}) / 8), (const uint64_t[]) {__VA_ARGS__})

/* Gives up as a backend does; true when the slot is FREE at once. */
extern bool owner_give_up(Owner *owner);

/* A connection to the socket, -1 when there is none. */
extern int	client_connect(const Rig *rig);

/* Sends a hello; with a CLIENT's, receives the answer and fds (-1 without). False when the connection was cut. */
extern bool client_hello(int fd, uint32_t kind, uint32_t slot, const uint8_t *token);
extern bool client_memory(int fd, GaMemory *answer, int *fds);

/* True when the other side closes within `seconds`. */
extern bool client_is_cut(int fd, double seconds);

/* The file of a region with its control page. */
extern void region_file(const Rig *rig, uint64_t id, bool make);
extern int	region_open(const Rig *rig, uint64_t id);

extern uint64_t now_ns(void);
extern void sleep_us(double us);

/* Seconds; what others are to do is waited for so long, which only failures take. */
#define LONG_ENOUGH 60.0

/* True when a counter has a value before LONG_ENOUGH is over. */
extern bool counter_becomes(const uint64_t *counter, uint64_t value);

#endif							/* DRIVER_H */
