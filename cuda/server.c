/*
 * server.c
 *		The mapping, taking slots that are READY, and the workers.
 *
 * Any number of threads may take slots at once: the ready bits of a word are
 * taken by one exchange, a slot by compare-and-swap. `taken` is private and says
 * that a slot is in a queue or being worked on, whatever its owner writes to it.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint8_t taken[GA_MAX_SLOTS]; /* atomic */
static uint32_t pollers;		/* atomic: threads inside ga_server_poll or the like */
static uint32_t max_pollers;

/* ----- the mapping ----- */

static bool
fits(uint64_t offset, uint64_t nbytes, uint64_t limit)
{
	return offset <= limit && nbytes <= limit - offset;
}

void
ga_server_map(void)
{
	GaServer   *s = &ga_server;
	GaHeader   *header;
	char		path[GA_PATH];
	struct stat st;
	int			fd;

	ga_path(path, GA_MAPPING_NAME);
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) != 0)
		ga_die("could not open \"%s\": %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || (uint64_t) st.st_size < GA_SLOTS_OFFSET)
		ga_die("\"%s\" is not a mapping", path);
	header = mmap(NULL, (size_t) st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (header == MAP_FAILED)
		ga_die("could not map \"%s\": %s", path, strerror(errno));
	close(fd);

	s->header = header;
	s->base = (char *) header;
	s->file_bytes = (uint64_t) st.st_size;
	s->nslots = header->nslots;
	s->slots = ga_slots(header);
	s->arena_offset = header->arena_offset;
	s->arena_bytes = header->arena_bytes;
	s->cache_offset = header->cache_offset;
	s->cache_bytes = header->cache_bytes;
	s->key = (const uint8_t *) s->base + header->key_offset;
	s->epoch = __atomic_load_n(&header->epoch, __ATOMIC_SEQ_CST);
	if (header->magic != GA_PROTOCOL_MAGIC || header->version != GA_PROTOCOL_VERSION ||
		header->file_bytes > s->file_bytes || header->slot_bytes != sizeof(GaSlot) ||
		s->nslots < 1 || s->nslots > GA_MAX_SLOTS || header->slots_offset % GA_PAGE != 0 ||
		!fits(header->slots_offset, s->nslots * sizeof(GaSlot), s->file_bytes) ||
		!fits(header->key_offset, GA_FINGERPRINT_KEY_BYTES, s->file_bytes) ||
		!fits(s->arena_offset, s->arena_bytes, s->file_bytes) || s->arena_offset % GA_PAGE != 0 ||
		!fits(s->cache_offset, s->cache_bytes, s->file_bytes) || s->cache_offset % GA_PAGE != 0)
		ga_die("\"%s\" is of another version or damaged", path);
}

/* ----- the life of a request ----- */

static void
finish(GaRequest *request, GaStatus status, uint64_t started)
{
	GaSlot	   *slot = &ga_server.slots[request->slot];
	uint32_t	expected = GA_SLOT_RUNNING;

	slot->status = status;
	memcpy(slot->result, request->result, sizeof(slot->result));
	memcpy(slot->extra, request->extra, sizeof(slot->extra));
	memcpy(slot->error, request->error, sizeof(slot->error));
	slot->started_ns = started;
	slot->finished_ns = ga_now_ns();

	/* Before its owner can make it READY again. */
	__atomic_store_n(&taken[request->slot], 0, __ATOMIC_SEQ_CST);
	if (!__atomic_compare_exchange_n(&slot->state, &expected, GA_SLOT_DONE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
	{
		/* ABANDONED; whatever else would be nonsense. */
		__atomic_store_n(&slot->state, GA_SLOT_FREE, __ATOMIC_SEQ_CST);
		return;
	}
	if (__atomic_load_n(&slot->waiting, __ATOMIC_SEQ_CST))
		ga_socket_wake(request->slot);
}

/* The oldest of the running requests of a device. */
static void
show_busy(GaDevice *device)
{
	uint64_t	oldest = 0;

	pthread_mutex_lock(&device->lock);
	for (int i = 0; i < ga_server.nworkers; i++)
	{
		uint64_t	since = __atomic_load_n(&device->worker[i].started_ns, __ATOMIC_SEQ_CST);

		if (since != 0 && (oldest == 0 || since < oldest))
			oldest = since;
	}
	__atomic_store_n(&device->info->busy_since_ns, oldest, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&device->lock);
}

static void
count_failure(GaDevice *device, const char *error)
{
	pthread_mutex_lock(&device->lock);
	__atomic_fetch_add(&device->info->errors, 1, __ATOMIC_RELAXED);
	snprintf(device->info->last_error, sizeof(device->info->last_error), "%s", error);
	device->info->last_error_at = ga_wall_us();
	pthread_mutex_unlock(&device->lock);
}

/* Copies a request out of its slot: its owner may write to it at any time. */
static void
read_request(uint32_t number, GaRequest *request)
{
	GaSlot	   *slot = &ga_server.slots[number];

	request->slot = number;
	request->op = slot->op;
	request->device = slot->device;
	memcpy(request->arg, slot->arg, sizeof(request->arg));
	memcpy(request->extra, slot->extra, sizeof(request->extra));
	memset(request->result, 0, sizeof(request->result));
	request->error[0] = '\0';
}

/* A request that needs no worker. */
static void
run_here(GaRequest *request)
{
	uint64_t	started = ga_now_ns();

	if (ga_server.slots[request->slot].epoch != ga_server.epoch)
		finish(request, GA_STATUS_LOST, started);
	else
		finish(request, ga_request_run(request, NULL), started);
}

/* ----- queues ----- */

/* `mine`: the caller looks at the queue next, so that nobody need be woken for the only one in it. */
static void
enqueue(const GaRequest *request, bool mine)
{
	GaDevice   *device = &ga_server.devices[request->device];

	pthread_mutex_lock(&device->lock);
	device->ring[(device->first + device->queued) % GA_MAX_SLOTS] =
		(GaQueued) {.slot = request->slot, .nearest = request->op == GA_OP_KNN, .region = request->arg[0]};
	__atomic_store_n(&device->queued, device->queued + 1, __ATOMIC_SEQ_CST);
	if (device->idle > 0 && !(mine && device->queued == 1))
		pthread_cond_signal(&device->wake);
	pthread_mutex_unlock(&device->lock);
}

/* Number i of those that wait; the lock is held. */
static GaQueued *
waiting(GaDevice *device, uint32_t i)
{
	return &device->ring[(device->first + i) % GA_MAX_SLOTS];
}

/* Takes number i out; the lock is held. */
static GaQueued
take_out(GaDevice *device, uint32_t i)
{
	GaQueued	taken_out = *waiting(device, i);

	for (; i > 0; i--)
		*waiting(device, i) = *waiting(device, i - 1);
	device->first = (device->first + 1) % GA_MAX_SLOTS;
	__atomic_store_n(&device->queued, device->queued - 1, __ATOMIC_SEQ_CST);
	return taken_out;
}

/* The first slot that may go on, -1 when there is none; the lock is held. */
static int
first_ready(GaDevice *device)
{
	for (uint32_t i = 0; i < device->queued; i++)
		if (!waiting(device, i)->nearest || device->passes < GA_KNN_PASSES)
			return (int) i;
	return -1;
}

/*
 * The first slot that waits and may go on, -1 for none; with `wait`, there is always one in the end. A request for
 * nearest rows counts as a pass from now on: *pass.
 */
static int
dequeue(GaDevice *device, bool wait, bool *pass)
{
	GaQueued	found;
	int			i;

	*pass = false;
	if (!wait && __atomic_load_n(&device->queued, __ATOMIC_SEQ_CST) == 0)
		return -1;
	pthread_mutex_lock(&device->lock);
	while ((i = first_ready(device)) < 0 && wait)
	{
		device->idle++;
		pthread_cond_wait(&device->wake, &device->lock);
		device->idle--;
	}
	if (i >= 0)
	{
		found = take_out(device, (uint32_t) i);
		*pass = found.nearest;
		device->passes += found.nearest;
	}
	pthread_mutex_unlock(&device->lock);
	return i >= 0 ? (int) found.slot : -1;
}

/* Slots of more requests for nearest rows of a region, at most as many; they join a pass. */
static int
dequeue_nearest(GaDevice *device, uint64_t region, uint32_t *slots, int most)
{
	int			n = 0;

	pthread_mutex_lock(&device->lock);
	for (uint32_t i = 0; i < device->queued && n < most;)
	{
		if (waiting(device, i)->nearest && waiting(device, i)->region == region)
			slots[n++] = take_out(device, i).slot;
		else
			i++;
	}
	pthread_mutex_unlock(&device->lock);
	return n;
}

/* For what is in the queue, if there are both. */
static void
wake_worker(GaDevice *device)
{
	pthread_mutex_lock(&device->lock);
	if (device->idle > 0 && device->queued > 0)
		pthread_cond_signal(&device->wake);
	pthread_mutex_unlock(&device->lock);
}

/* Somebody else may have to start the next pass: who ends this one may take another kind of request. */
static void
end_pass(GaDevice *device)
{
	pthread_mutex_lock(&device->lock);
	device->passes--;
	pthread_mutex_unlock(&device->lock);
	wake_worker(device);
}

/* ----- taking slots ----- */

/* True when the slot was READY and is now the caller's to run. */
static bool
take(uint32_t number)
{
	GaSlot	   *slot = &ga_server.slots[number];

	do
	{
		uint32_t	expected = GA_SLOT_READY;

		if (__atomic_exchange_n(&taken[number], 1, __ATOMIC_SEQ_CST) != 0)
			return false;
		if (__atomic_compare_exchange_n(&slot->state, &expected, GA_SLOT_RUNNING, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return true;
		__atomic_store_n(&taken[number], 0, __ATOMIC_SEQ_CST);

		/* Made READY meanwhile; who saw its bit may have seen our mark and left it to us. */
	} while (__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == GA_SLOT_READY);
	return false;
}

/*
 * Takes all slots that are READY: runs what needs no worker, queues the rest.
 * The first that the given worker can run goes to *mine instead, if that is -1.
 */
static bool
take_ready(GaWorker *worker, int *mine)
{
	uint64_t   *ready = ga_server.header->ready;
	bool		left = false;	/* something in the queue that nobody was woken for */
	bool		any = false;

	for (uint32_t w = 0; w < (ga_server.nslots + 63) / 64; w++)
	{
		uint64_t	bits;

		if (__atomic_load_n(&ready[w], __ATOMIC_SEQ_CST) == 0)
			continue;
		bits = __atomic_exchange_n(&ready[w], 0, __ATOMIC_SEQ_CST);
		for (; bits != 0; bits &= bits - 1)
		{
			uint32_t	number = w * 64 + (uint32_t) __builtin_ctzll(bits);
			GaRequest	request;

			if (number >= ga_server.nslots || !take(number))
				continue;
			any = true;
			read_request(number, &request);
			if (ga_server.slots[number].epoch != ga_server.epoch || !ga_request_needs_worker(&request))
				run_here(&request);
			else if (worker != NULL && *mine < 0 && request.device == worker->device && request.op != GA_OP_KNN)
				*mine = (int) number;
			else
			{
				left = worker != NULL && *mine < 0 && request.device == worker->device;
				enqueue(&request, left);
			}
		}
	}
	if (left && *mine >= 0)
		wake_worker(&ga_server.devices[worker->device]);
	return any;
}

static inline void
relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* False when enough others poll. */
static bool
enter_poll(void)
{
	if (__atomic_add_fetch(&pollers, 1, __ATOMIC_SEQ_CST) > max_pollers)
	{
		if (__atomic_sub_fetch(&pollers, 1, __ATOMIC_SEQ_CST) > 0)
			return false;
		__atomic_add_fetch(&pollers, 1, __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&ga_server.header->sleeping, 0, __ATOMIC_SEQ_CST);
	return true;
}

/* The last one out asks for wake-ups, then looks once more. */
static bool
leave_poll(GaWorker *worker, int *mine)
{
	if (__atomic_sub_fetch(&pollers, 1, __ATOMIC_SEQ_CST) > 0)
		return false;
	__atomic_store_n(&ga_server.header->sleeping, 1, __ATOMIC_SEQ_CST);
	return take_ready(worker, mine);
}

/*
 * Polls until the worker has a request or nothing has come for spin_ns, but no
 * longer than 10 times that: the dispatcher must look after its sockets.
 */
static bool
poll_slots(GaWorker *worker, int *mine, bool *pass)
{
	uint64_t	seen = 0;
	uint64_t	begin = ga_now_ns();
	uint64_t	until = begin + ga_server.spin_ns;
	bool		found = false;
	bool		first = true;

	do
	{
		uint64_t	doorbell = __atomic_load_n(&ga_server.header->doorbell, __ATOMIC_SEQ_CST);

		if (first || doorbell != seen)
		{
			seen = doorbell;
			first = false;
			if (take_ready(worker, mine))
			{
				found = true;
				until = ga_now_ns() + ga_server.spin_ns;
			}
		}
		if (worker != NULL && *mine < 0)
			*mine = dequeue(&ga_server.devices[worker->device], false, pass);
		if (mine != NULL && *mine >= 0)
			return true;
		for (int i = 0; i < 8; i++)
			relax();
	} while (ga_now_ns() < (until < begin + 10 * ga_server.spin_ns ? until : begin + 10 * ga_server.spin_ns));
	return found;
}

bool
ga_server_poll(void)
{
	bool		found;

	if (!enter_poll())
		return take_ready(NULL, NULL);
	found = poll_slots(NULL, NULL, NULL);
	return leave_poll(NULL, NULL) || found;
}

/* ----- workers ----- */

/* Requests that a worker runs together: one, or more that share a pass. */
typedef struct Batch
{
	int			n;
	bool		pass;
	GaRequest	request[GA_KNN_TOGETHER];
	GaStatus	status[GA_KNN_TOGETHER];
} Batch;

/* Fills in the request of a slot and those that go with it. */
static void
gather(Batch *batch, int slot, bool pass, GaWorker *worker)
{
	uint32_t	others[GA_KNN_TOGETHER];

	read_request((uint32_t) slot, &batch->request[0]);
	batch->n = 1;
	batch->pass = pass;
	if (pass)
		batch->n += dequeue_nearest(&ga_server.devices[worker->device], batch->request[0].arg[0], others, GA_KNN_TOGETHER - 1);
	for (int i = 1; i < batch->n; i++)
		read_request(others[i - 1], &batch->request[i]);

	/* What the owners wrote meanwhile may be for another device, or something else. */
	for (int i = 0; i < batch->n; i++)
	{
		batch->request[i].device = worker->device;
		batch->status[i] = GA_STATUS_INVALID;
		if (pass && batch->n > 1 &&
			(batch->request[i].op != GA_OP_KNN || batch->request[i].arg[0] != batch->request[0].arg[0]))
		{
			finish(&batch->request[i], GA_STATUS_INVALID, ga_now_ns());
			batch->request[i--] = batch->request[--batch->n];
		}
	}
}

/* Returns whether the thread polls from now on. */
static bool
run(Batch *batch, GaWorker *worker)
{
	GaDevice   *device = &ga_server.devices[worker->device];
	uint64_t	started = ga_now_ns();
	bool		polls;

	__atomic_store_n(&worker->started_ns, started, __ATOMIC_SEQ_CST);
	show_busy(device);

	if (batch->n > 1)
		ga_request_run_nearest(batch->request, batch->n, worker, batch->status);
	/* Given up while it waited for a worker: not begun. */
	else if (batch->n == 1 &&
			 __atomic_load_n(&ga_server.slots[batch->request[0].slot].state, __ATOMIC_SEQ_CST) == GA_SLOT_RUNNING)
		batch->status[0] = ga_request_run(&batch->request[0], worker);
	__atomic_fetch_add(&device->info->requests, (uint64_t) batch->n, __ATOMIC_RELAXED);
	for (int i = 0; i < batch->n; i++)
		if (batch->status[i] == GA_STATUS_FAILED)
			count_failure(device, batch->request[i].error);
	__atomic_store_n(&worker->started_ns, 0, __ATOMIC_SEQ_CST);
	show_busy(device);
	if (batch->pass)
		end_pass(device);

	/* First, so that an owner with another request need not wake the dispatcher. */
	polls = ga_server.spin_ns > 0 && !worker->broken && enter_poll();
	for (int i = 0; i < batch->n; i++)
		finish(&batch->request[i], batch->status[i], started);
	if (worker->broken)
		ga_die("device %d does not work any more: %s", worker->device, worker->error);
	return polls;
}

static void *
work(void *arg)
{
	GaWorker   *worker = arg;
	GaDevice   *device = &ga_server.devices[worker->device];

	if (ga_backend_worker(worker) != GA_STATUS_OK)
		ga_die("device %d: %s", worker->device, worker->error);
	for (;;)
	{
		bool		pass = false;
		int			slot = dequeue(device, true, &pass);

		while (slot >= 0)
		{
			Batch		batch;
			bool		polls;

			gather(&batch, slot, pass, worker);
			polls = run(&batch, worker);
			slot = dequeue(device, false, &pass);
			if (polls)
			{
				if (slot < 0)
					poll_slots(worker, &slot, &pass);
				leave_poll(worker, &slot);
			}
		}
	}
	return NULL;
}

void
ga_server_start_workers(void)
{
	long		cores = sysconf(_SC_NPROCESSORS_ONLN);

	max_pollers = cores >= 16 ? 4 : cores >= 4 ? 2 : 1;
	for (int d = 0; d < ga_server.ndevices; d++)
		for (int i = 0; i < ga_server.nworkers; i++)
		{
			GaWorker   *worker = &ga_server.devices[d].worker[i];
			pthread_t	thread;

			worker->device = d;
			if (pthread_create(&thread, NULL, work, worker) != 0)
				ga_die("could not start a thread");
			pthread_detach(thread);
		}
}
