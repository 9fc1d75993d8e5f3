/*
 * driver.c
 *		See driver.h.
 */
#define _GNU_SOURCE
#include "driver.h"

#include "math/fingerprint.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void
give_up(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

void
sleep_us(double us)
{
	struct timespec t = {.tv_sec = (time_t) (us / 1e6), .tv_nsec = (long) (us * 1e3) % 1000000000};

	nanosleep(&t, NULL);
}

/* ----- supervisor ----- */

static const char *
program(void)
{
	const char *named = getenv("GA_DEVICE_PROGRAM");
	static char beside[4096];
	ssize_t		n;

	if (named != NULL && *named != '\0')
		return named;
	n = readlink("/proc/self/exe", beside, sizeof(beside) - 40);
	if (n < 0)
		give_up("readlink");
	beside[n] = '\0';
	strcpy(strrchr(beside, '/') + 1, "gpuagent_device_emulated");
	return beside;
}

bool
rig_is_emulated(void)
{
	return strstr(program(), "emulated") != NULL;
}

/* The canary pages, as offsets. */
static void
canaries(const Rig *rig, uint64_t *at)
{
	at[0] = rig->header->arena_offset - RIG_CANARY;
	at[1] = rig->header->arena_offset + RIG_ARENA;
	at[2] = rig->header->cache_offset + RIG_CACHE;
}

bool
rig_canaries_live(const Rig *rig)
{
	uint64_t	at[3];

	canaries(rig, at);
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < RIG_CANARY; j++)
			if (((const uint8_t *) rig->header)[at[i] + (uint64_t) j] != 0xca)
				return false;
	return true;
}

void
rig_make(Rig *rig)
{
	const char *parent = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	uint64_t	slots = GA_SLOTS_OFFSET;
	uint64_t	key = slots + RIG_SLOTS * sizeof(GaSlot);
	uint64_t	arena = (key + GA_FINGERPRINT_KEY_BYTES + GA_PAGE - 1) / GA_PAGE * GA_PAGE + RIG_CANARY;
	uint64_t	cache = arena + RIG_ARENA + RIG_CANARY;
	char		path[200];
	uint64_t	at[3];
	int			fd;

	memset(rig, 0, sizeof(*rig));
	rig->keeper = -1;
	snprintf(rig->directory, sizeof(rig->directory), "%s/gpuagent-test-XXXXXX", parent);
	if (mkdtemp(rig->directory) == NULL)
		give_up("mkdtemp");
	rig->bytes = cache + RIG_CACHE + RIG_CANARY;
	snprintf(path, sizeof(path), "%s/" GA_MAPPING_NAME, rig->directory);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t) rig->bytes) != 0)
		give_up(path);
	rig->header = mmap(NULL, rig->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (rig->header == MAP_FAILED)
		give_up("mmap");
	close(fd);

	rig->header->magic = GA_PROTOCOL_MAGIC;
	rig->header->version = GA_PROTOCOL_VERSION;
	rig->header->file_bytes = rig->bytes;
	rig->header->nslots = RIG_SLOTS;
	rig->header->slot_bytes = sizeof(GaSlot);
	rig->header->slots_offset = slots;
	rig->header->key_offset = key;
	rig->header->arena_offset = arena;
	rig->header->arena_bytes = RIG_ARENA;
	rig->header->cache_offset = cache;
	rig->header->cache_bytes = RIG_CACHE;
	for (int i = 0; i < GA_FINGERPRINT_KEY_BYTES; i++)
		((uint8_t *) rig->header)[key + (uint64_t) i] = (uint8_t) (i * 131 + i / 251);
	canaries(rig, at);
	for (int i = 0; i < 3; i++)
		memset((char *) rig->header + at[i], 0xca, RIG_CANARY);
}

void
rig_remove(Rig *rig)
{
	char		command[200];

	if (rig->pid > 0)
		rig_kill(rig, SIGKILL);
	for (int i = 0; i < rig->nkept; i++)
		close(rig->kept[i].fd);
	munmap(rig->header, rig->bytes);
	snprintf(command, sizeof(command), "rm -rf '%s'", rig->directory);
	if (system(command) != 0)
		give_up(command);
}

static void
keeper_send(Rig *rig, const GaKeeper *message, int fd)
{
	struct iovec part = {.iov_base = (void *) message, .iov_len = sizeof(*message)};
	union
	{
		struct cmsghdr header;
		char		room[CMSG_SPACE(sizeof(int))];
	}			control = {{0}};
	struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0)
	{
		packet.msg_control = &control;
		packet.msg_controllen = sizeof(control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	if (sendmsg(rig->keeper, &packet, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
		give_up("sendmsg");
}

void
rig_listen(Rig *rig)
{
	for (;;)
	{
		GaKeeper	message;
		struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
		union
		{
			struct cmsghdr header;
			char		room[CMSG_SPACE(sizeof(int))];
		}			control;
		struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
		ssize_t		n = recvmsg(rig->keeper, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		int			i = 0;

		if (n != sizeof(message))
			return;
		while (i < rig->nkept && rig->kept[i].message.region != message.region)
			i++;
		if (message.kind == GA_KEEPER_KEEP && i == rig->nkept && i < RIG_KEPT && CMSG_FIRSTHDR(&packet) != NULL)
		{
			rig->kept[i].message = message;
			memcpy(&rig->kept[i].fd, CMSG_DATA(CMSG_FIRSTHDR(&packet)), sizeof(int));
			rig->nkept++;
		}
		else if (message.kind == GA_KEEPER_DROP && i < rig->nkept)
		{
			close(rig->kept[i].fd);
			rig->kept[i] = rig->kept[--rig->nkept];
		}
		else
		{
			printf("Bail out! the keeper got kind %u of region %llu\n", message.kind, (unsigned long long) message.region);
			exit(1);
		}
	}
}

bool
rig_start(Rig *rig, const char *const *options)
{
	const char *argv[32] = {program(), "--directory", rig->directory, "--budget", "67108864"};
	int			n = 5;
	int			pair[2];
	uint64_t	until = now_ns() + UINT64_C(60000000000);
	GaKeeper	start = {.magic = GA_PROTOCOL_MAGIC, .kind = GA_KEEPER_START};

	while (options != NULL && *options != NULL && n < 31)
		argv[n++] = *options++;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		give_up("socketpair");
	__atomic_store_n(&rig->header->service, GA_SERVICE_STARTING, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&rig->header->epoch, 1, __ATOMIC_SEQ_CST);
	fflush(stdout);
	rig->pid = fork();
	if (rig->pid == 0)
	{
		/* Its complaints are comments of our TAP. */
		dup2(open("/dev/null", O_RDWR), 0);
		if (getenv("GA_TEST_SHOW_LOG") == NULL)
			dup2(0, 2);
		dup2(pair[1], GA_KEEPER_FD);
		execv(argv[0], (char *const *) argv);
		_exit(127);
	}
	close(pair[1]);
	if (rig->keeper >= 0)
		close(rig->keeper);
	rig->keeper = pair[0];
	for (int i = 0; i < rig->nkept; i++)
	{
		rig->kept[i].message.kind = GA_KEEPER_RESTORE;
		keeper_send(rig, &rig->kept[i].message, rig->kept[i].fd);
	}
	keeper_send(rig, &start, -1);
	while (__atomic_load_n(&rig->header->service, __ATOMIC_SEQ_CST) != GA_SERVICE_READY && now_ns() < until)
	{
		if (waitid(P_PID, (id_t) rig->pid, &(siginfo_t) {0}, WEXITED | WNOHANG | WNOWAIT) == 0 && kill(rig->pid, 0) == 0)
		{
			siginfo_t	info = {0};

			waitid(P_PID, (id_t) rig->pid, &info, WEXITED | WNOHANG | WNOWAIT);
			if (info.si_pid == rig->pid)
				return false;
		}
		sleep_us(300);
	}
	return __atomic_load_n(&rig->header->service, __ATOMIC_SEQ_CST) == GA_SERVICE_READY;
}

int
rig_reap(Rig *rig)
{
	uint64_t	until = now_ns() + (uint64_t) (LONG_ENOUGH * 1e9);
	int			status = 0;
	pid_t		got;

	while ((got = waitpid(rig->pid, &status, WNOHANG)) == 0 && now_ns() < until)
		sleep_us(500);
	if (got != rig->pid)
		return -1000;
	rig->pid = 0;
	rig_listen(rig);
	__atomic_store_n(&rig->header->service, GA_SERVICE_BACKOFF, __ATOMIC_SEQ_CST);
	for (int i = 0; i < RIG_SLOTS; i++)
	{
		GaSlot	   *slot = &ga_slots(rig->header)[i];

		if (slot->state == GA_SLOT_READY || slot->state == GA_SLOT_RUNNING)
		{
			slot->status = GA_STATUS_LOST;
			slot->state = GA_SLOT_DONE;
		}
		else if (slot->state == GA_SLOT_ABANDONED)
			slot->state = GA_SLOT_FREE;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int
rig_kill(Rig *rig, int signal_number)
{
	kill(rig->pid, signal_number);
	return rig_reap(rig);
}

int
rig_descriptors(const Rig *rig)
{
	char		command[100];
	FILE	   *pipe;
	int			n = -1;

	snprintf(command, sizeof(command), "ls /proc/%d/fd | wc -l", (int) rig->pid);
	pipe = popen(command, "r");
	if (pipe == NULL || fscanf(pipe, "%d", &n) != 1)
		give_up(command);
	pclose(pipe);
	return n;
}

bool
rig_lets_go(const Rig *rig, int descriptors)
{
	uint64_t	until = now_ns() + (uint64_t) (LONG_ENOUGH * 1e9);
	int			n = rig_descriptors(rig);

	while (n > descriptors && now_ns() < until)
	{
		sleep_us(10000);
		n = rig_descriptors(rig);
	}
	printf("# %d descriptors, then %d\n", descriptors, n);
	return n <= descriptors;
}

bool
counter_becomes(const uint64_t *counter, uint64_t value)
{
	uint64_t	until = now_ns() + (uint64_t) (LONG_ENOUGH * 1e9);

	while (__atomic_load_n(counter, __ATOMIC_SEQ_CST) != value && now_ns() < until)
		sleep_us(1000);
	return __atomic_load_n(counter, __ATOMIC_SEQ_CST) == value;
}

/* ----- connections ----- */

int
client_connect(const Rig *rig)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%.90s/" GA_SOCKET_NAME, rig->directory);
	if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

bool
client_hello(int fd, uint32_t kind, uint32_t slot, const uint8_t *token)
{
	GaHello		hello = {.magic = GA_PROTOCOL_MAGIC, .version = GA_PROTOCOL_VERSION, .kind = kind, .slot = slot};

	if (token != NULL)
		memcpy(hello.token, token, GA_TOKEN_LEN);
	return send(fd, &hello, sizeof(hello), MSG_NOSIGNAL) == (ssize_t) sizeof(hello);
}

bool
client_memory(int fd, GaMemory *answer, int *fds)
{
	struct iovec part = {.iov_base = answer, .iov_len = sizeof(*answer)};
	union
	{
		struct cmsghdr header;
		char		room[CMSG_SPACE(2 * sizeof(int))];
	}			control;
	struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct pollfd event = {.fd = fd, .events = POLLIN};

	fds[0] = fds[1] = -1;
	if (poll(&event, 1, (int) (LONG_ENOUGH * 1000)) != 1 || recvmsg(fd, &packet, MSG_CMSG_CLOEXEC) != (ssize_t) sizeof(*answer))
		return false;
	if (CMSG_FIRSTHDR(&packet) != NULL)
		memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&packet)), CMSG_FIRSTHDR(&packet)->cmsg_len - CMSG_LEN(0));
	return true;
}

bool
client_is_cut(int fd, double seconds)
{
	struct pollfd event = {.fd = fd, .events = POLLIN};
	char		byte;

	return poll(&event, 1, (int) (seconds * 1000)) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) <= 0;
}

void
region_file(const Rig *rig, uint64_t id, bool make)
{
	char		path[200];
	int			fd;

	snprintf(path, sizeof(path), "%s/" GA_REGION_PREFIX "%llu", rig->directory, (unsigned long long) id);
	if (!make)
	{
		unlink(path);
		return;
	}
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, GA_PAGE) != 0)
		give_up(path);
	close(fd);
}

int
region_open(const Rig *rig, uint64_t id)
{
	char		path[200];

	snprintf(path, sizeof(path), "%s/" GA_REGION_PREFIX "%llu", rig->directory, (unsigned long long) id);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* ----- backends ----- */

bool
owner_open(Owner *owner, Rig *rig, uint32_t number)
{
	memset(owner, 0, sizeof(*owner));
	owner->rig = rig;
	owner->number = number;
	owner->slot = &ga_slots(rig->header)[number];
	owner->spin = 200;
	owner->fd = client_connect(rig);
	return owner->fd >= 0 && client_hello(owner->fd, GA_HELLO_BACKEND, number, NULL);
}

void
owner_close(Owner *owner)
{
	close(owner->fd);
	owner->fd = -1;
}

void
owner_submit(Owner *owner, GaOp op, int device, int nargs, const uint64_t *args)
{
	GaSlot	   *slot = owner->slot;
	GaHeader   *header = owner->rig->header;

	slot->generation++;
	slot->owner_pid = getpid();
	slot->epoch = __atomic_load_n(&header->epoch, __ATOMIC_SEQ_CST);
	slot->op = op;
	slot->device = device;
	memset(slot->arg, 0, sizeof(slot->arg));
	memcpy(slot->arg, args, (size_t) nargs * sizeof(*args));
	slot->queued_ns = now_ns();
	__atomic_store_n(&slot->state, GA_SLOT_READY, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&header->ready[owner->number / 64], UINT64_C(1) << owner->number % 64, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&header->doorbell, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&header->sleeping, __ATOMIC_SEQ_CST))
		send(owner->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool
is_done(Owner *owner)
{
	return __atomic_load_n(&owner->slot->state, __ATOMIC_SEQ_CST) == GA_SLOT_DONE;
}

bool
owner_wait(Owner *owner, double seconds)
{
	uint64_t	until = now_ns() + (uint64_t) (seconds * 1e9);
	char		bytes[64];

	for (int i = 0; i < owner->spin; i++)
		if (is_done(owner))
			return true;
	__atomic_store_n(&owner->slot->waiting, 1, __ATOMIC_SEQ_CST);
	while (!is_done(owner) && now_ns() < until)
	{
		struct pollfd event = {.fd = owner->fd, .events = POLLIN};

		owner->slept++;
		if (poll(&event, 1, (int) ((until - now_ns()) / 1000000) + 1) == 1 &&
			recv(owner->fd, bytes, sizeof(bytes), MSG_DONTWAIT) <= 0)
			break;
	}
	__atomic_store_n(&owner->slot->waiting, 0, __ATOMIC_SEQ_CST);
	return is_done(owner);
}

int
owner_request(Owner *owner, GaOp op, int device, int nargs, const uint64_t *args)
{
	int			status;

	owner_submit(owner, op, device, nargs, args);
	if (!owner_wait(owner, LONG_ENOUGH))
		return -1;
	status = (int) owner->slot->status;
	__atomic_store_n(&owner->slot->state, GA_SLOT_FREE, __ATOMIC_SEQ_CST);
	return status;
}

bool
owner_give_up(Owner *owner)
{
	uint32_t	ready = GA_SLOT_READY;
	uint32_t	running = GA_SLOT_RUNNING;

	if (__atomic_compare_exchange_n(&owner->slot->state, &ready, GA_SLOT_FREE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		return true;
	if (__atomic_compare_exchange_n(&owner->slot->state, &running, GA_SLOT_ABANDONED, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		return false;

	/* DONE meanwhile. */
	__atomic_store_n(&owner->slot->state, GA_SLOT_FREE, __ATOMIC_SEQ_CST);
	return true;
}
