/*
 * socket.c
 *		The dispatcher: connections of backends and clients, and the supervisor's socket.
 *
 * Only this thread accepts, reads and closes. Workers write wake-ups to the
 * connection of a slot, under the lock of that slot's stripe, so that a number
 * is not closed, and given to another file, under their hands.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define HELLO_SECONDS 5
#define MAX_SILENT 256			/* connections without a hello */
#define STRIPES 64
#define EVENTS 64

typedef enum Kind
{
	KIND_LISTEN,
	KIND_KEEPER,
	KIND_SILENT,				/* no hello so far */
	KIND_BACKEND,
	KIND_CLIENT,
	KIND_EXITING,				/* a pidfd: the owner of a slot closed its connection */
	KIND_NUDGE,					/* an eventfd: workers have left something to look after */
	KIND_CLOSED
} Kind;

typedef struct Connection
{
	Kind		kind;
	int			fd;
	pid_t		pid;
	uint32_t	slot;			/* BACKEND, EXITING */
	uint64_t	deadline_ns;	/* SILENT */
	GaServerRegion *held;		/* CLIENT */
	struct Connection *previous;	/* SILENT: in the list, oldest first */
	struct Connection *next;	/* and CLOSED */
} Connection;

static int	epoll_fd = -1;
static int	spare_fd = -1;		/* given up for a moment when there are no more descriptors */
static Connection listener = {.kind = KIND_LISTEN};
static Connection keeper = {.kind = KIND_KEEPER, .fd = GA_KEEPER_FD};
static Connection nudge = {.kind = KIND_NUDGE};
static Connection silent = {.previous = &silent, .next = &silent};
static uint32_t nsilent;
static Connection *closed;		/* freed when no event can speak of them any more */

static pthread_mutex_t stripes[STRIPES];
static Connection *of_slot[GA_MAX_SLOTS];	/* under the stripe's lock */
static Connection *exiting[GA_MAX_SLOTS];

/* ----- the supervisor ----- */

static ssize_t
keeper_receive(GaKeeper *message, int *fd, int flags)
{
	struct iovec part = {.iov_base = message, .iov_len = sizeof(*message)};
	union
	{
		struct cmsghdr header;
		char		room[CMSG_SPACE(sizeof(int))];
	}			control;
	struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *c;
	ssize_t		n;

	*fd = -1;
	do
		n = recvmsg(GA_KEEPER_FD, &packet, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		for (c = CMSG_FIRSTHDR(&packet); c != NULL; c = CMSG_NXTHDR(&packet, c))
			if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
				memcpy(fd, CMSG_DATA(c), sizeof(int));
	return n;
}

static void
keeper_send(uint32_t kind, uint64_t id, int device, const GaServerRegion *region)
{
	GaKeeper	message = {.magic = GA_PROTOCOL_MAGIC, .kind = kind, .region = id, .device = device};
	struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
	union
	{
		struct cmsghdr header;
		char		room[CMSG_SPACE(sizeof(int))];
	}			control = {{0}};
	struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
	ssize_t		n;

	if (region != NULL)
	{
		message.bytes = region->bytes;
		message.size = region->block.size;
		packet.msg_control = &control;
		packet.msg_controllen = sizeof(control);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &region->block.fd, sizeof(int));
	}
	do
		n = sendmsg(GA_KEEPER_FD, &packet, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		ga_die("the supervisor does not listen: %s", strerror(errno));
}

void
ga_keeper_keep(const GaServerRegion *region)
{
	keeper_send(GA_KEEPER_KEEP, region->id, region->device, region);
}

void
ga_keeper_drop(uint64_t id, int device)
{
	keeper_send(GA_KEEPER_DROP, id, device, NULL);
}

void
ga_keeper_restore(void)
{
	GaWorker	workers[GA_MAX_DEVICES];
	bool		started[GA_MAX_DEVICES] = {false};

	for (;;)
	{
		GaKeeper	message;
		int			fd;
		ssize_t		n = keeper_receive(&message, &fd, 0);
		int			d = message.device;

		if (n == 0)
			_exit(0);
		if (n != sizeof(message) || message.magic != GA_PROTOCOL_MAGIC)
			ga_die("the supervisor said something else than RESTORE and START");
		if (message.kind == GA_KEEPER_START)
			return;
		if (message.kind != GA_KEEPER_RESTORE || fd < 0)
			ga_die("the supervisor said something else than RESTORE and START");
		if (d >= 0 && d < ga_server.ndevices)
		{
			if (!started[d])
			{
				memset(&workers[d], 0, sizeof(workers[d]));
				workers[d].device = d;
				if (ga_backend_worker(&workers[d]) != GA_STATUS_OK)
					ga_die("device %d: %s", d, workers[d].error);
				started[d] = true;
			}
			if (ga_regions_restore(&workers[d], &message, fd))
				continue;
			if (workers[d].broken)
				ga_die("device %d: %s", d, workers[d].error);
			ga_log("region %llu is lost: %s", (unsigned long long) message.region, workers[d].error);
		}
		else
			close(fd);
		ga_keeper_drop(message.region, d);
	}
}

/* ----- connections ----- */

static void
watch(Connection *connection)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) != 0)
		ga_die("epoll: %s", strerror(errno));
}

static void
unlist_silent(Connection *connection)
{
	connection->previous->next = connection->next;
	connection->next->previous = connection->previous;
	nsilent--;
}

static void
drop(Connection *connection)
{
	if (connection->kind == KIND_SILENT)
		unlist_silent(connection);
	if (connection->kind == KIND_EXITING)
		exiting[connection->slot] = NULL;
	if (connection->kind == KIND_BACKEND)
	{
		pthread_mutex_lock(&stripes[connection->slot % STRIPES]);
		if (of_slot[connection->slot] == connection)
			of_slot[connection->slot] = NULL;
		close(connection->fd);
		pthread_mutex_unlock(&stripes[connection->slot % STRIPES]);
	}
	else
		close(connection->fd);
	if (connection->held != NULL)
		ga_regions_unhold(connection->held);
	connection->kind = KIND_CLOSED;
	connection->next = closed;
	closed = connection;
}

static void
free_closed(void)
{
	while (closed != NULL)
	{
		Connection *next = closed->next;

		free(closed);
		closed = next;
	}
}

void
ga_socket_nudge(void)
{
	(void) !write(nudge.fd, &(uint64_t) {1}, sizeof(uint64_t));
}

void
ga_socket_wake(uint32_t slot)
{
	pthread_mutex_lock(&stripes[slot % STRIPES]);
	if (of_slot[slot] != NULL)
		(void) !send(of_slot[slot]->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	pthread_mutex_unlock(&stripes[slot % STRIPES]);
}

/* The process that owned a slot is gone: what it asked for is of no use. */
static void
clean_slot(uint32_t number, pid_t pid)
{
	GaSlot	   *slot = &ga_server.slots[number];
	static const uint32_t moves[][2] = {{GA_SLOT_READY, GA_SLOT_FREE}, {GA_SLOT_RUNNING, GA_SLOT_ABANDONED},
	{GA_SLOT_DONE, GA_SLOT_FREE}};

	/* Twice, as it may go from RUNNING to DONE under our eyes. */
	for (int i = 0; i < 6 && slot->owner_pid == pid; i++)
	{
		uint32_t	expected = moves[i % 3][0];

		if (__atomic_compare_exchange_n(&slot->state, &expected, moves[i % 3][1], false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return;
	}
}

/*
 * The connection of a slot ended. A living owner that hung up has cleaned up; a
 * dying one closes its files before it is gone, so that is waited for.
 */
static void
owner_left(Connection *connection)
{
	uint32_t	number = connection->slot;
	pid_t		pid = connection->pid;
	uint32_t	state = __atomic_load_n(&ga_server.slots[number].state, __ATOMIC_SEQ_CST);
	int			fd;

	drop(connection);
	if (ga_server.slots[number].owner_pid != pid || state == GA_SLOT_FREE || state == GA_SLOT_ABANDONED)
		return;
	fd = (int) syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
	{
		if (errno == ESRCH)
			clean_slot(number, pid);
		return;
	}
	connection = calloc(1, sizeof(*connection));
	if (connection == NULL)
		ga_die("out of memory");
	if (exiting[number] != NULL)
		drop(exiting[number]);
	exiting[number] = connection;
	connection->kind = KIND_EXITING;
	connection->fd = fd;
	connection->pid = pid;
	connection->slot = number;
	watch(connection);
}

static void
accept_one(void)
{
	int			fd = accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t	size = sizeof(peer);
	Connection *connection;
	static uint64_t said;

	if (fd < 0)
	{
		/* Without this the one that waits would wake us for ever. */
		if (errno == EMFILE || errno == ENFILE)
		{
			close(spare_fd);
			fd = accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC);
			if (fd >= 0)
				close(fd);
			spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
			if (ga_now_ns() - said > 10 * UINT64_C(1000000000))
			{
				ga_log("too many connections: some are cut off");
				said = ga_now_ns();
			}
		}
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || (peer.uid != geteuid() && peer.uid != 0))
	{
		close(fd);
		return;
	}
	if (nsilent >= MAX_SILENT)
		drop(silent.next);
	connection = calloc(1, sizeof(*connection));
	if (connection == NULL)
		ga_die("out of memory");
	connection->kind = KIND_SILENT;
	connection->fd = fd;
	connection->pid = peer.pid;
	connection->deadline_ns = ga_now_ns() + HELLO_SECONDS * UINT64_C(1000000000);
	connection->previous = silent.previous;
	connection->next = &silent;
	silent.previous->next = connection;
	silent.previous = connection;
	nsilent++;
	watch(connection);
}

static void
greet_backend(Connection *connection, uint32_t number)
{
	GaSlot	   *slot = &ga_server.slots[number];

	unlist_silent(connection);
	if (exiting[number] != NULL)
		drop(exiting[number]);
	connection->kind = KIND_BACKEND;
	connection->slot = number;
	pthread_mutex_lock(&stripes[number % STRIPES]);
	of_slot[number] = connection;
	pthread_mutex_unlock(&stripes[number % STRIPES]);

	/* Its request may have been done before there was a connection to wake it by. */
	if (__atomic_load_n(&slot->waiting, __ATOMIC_SEQ_CST) &&
		__atomic_load_n(&slot->state, __ATOMIC_SEQ_CST) == GA_SLOT_DONE)
		ga_socket_wake(number);
}

static bool
send_memory(int fd, const GaMemory *answer, const int *fds, int nfds)
{
	struct iovec part = {.iov_base = (void *) answer, .iov_len = sizeof(*answer)};
	union
	{
		struct cmsghdr header;
		char		room[CMSG_SPACE(2 * sizeof(int))];
	}			control = {{0}};
	struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};

	if (nfds > 0)
	{
		packet.msg_control = &control;
		packet.msg_controllen = CMSG_SPACE((size_t) nfds * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN((size_t) nfds * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, (size_t) nfds * sizeof(int));
	}
	return sendmsg(fd, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t) sizeof(*answer);
}

static void
greet_client(Connection *connection, const uint8_t *token)
{
	GaMemory	answer = {.magic = GA_PROTOCOL_MAGIC};
	int			fds[2];
	bool		sent;

	unlist_silent(connection);
	connection->kind = KIND_CLIENT;
	connection->held = ga_grants_take(token, &answer, fds);
	sent = send_memory(connection->fd, &answer, fds, connection->held != NULL ? 2 : 0);
	if (connection->held != NULL)
	{
		close(fds[0]);
		close(fds[1]);
	}
	if (connection->held == NULL || !sent)
		drop(connection);
}

static void
greet(Connection *connection, const GaHello *hello, ssize_t n)
{
	if (n != sizeof(*hello) || hello->magic != GA_PROTOCOL_MAGIC || hello->version != GA_PROTOCOL_VERSION)
		drop(connection);
	else if (hello->kind == GA_HELLO_BACKEND && hello->slot < ga_server.nslots)
		greet_backend(connection, hello->slot);
	else if (hello->kind == GA_HELLO_CLIENT)
		greet_client(connection, hello->token);
	else
		drop(connection);
}

/* ----- events ----- */

static void
hear(Connection *connection)
{
	GaHello		packet;
	ssize_t		n;

	if (connection->kind == KIND_CLOSED)
		return;
	if (connection->kind == KIND_EXITING)
	{
		clean_slot(connection->slot, connection->pid);
		drop(connection);
		return;
	}

	/* Wake-ups pile up while we are busy; the slots are looked at once. */
	for (int i = 0; i < 16; i++)
	{
		n = recv(connection->fd, &packet, sizeof(packet), MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n > 0 && connection->kind == KIND_SILENT)
		{
			greet(connection, &packet, n);
			return;
		}
		if (n <= 0)
		{
			if (connection->kind == KIND_BACKEND)
				owner_left(connection);
			else
				drop(connection);
			return;
		}
	}
}

static void
hear_keeper(void)
{
	GaKeeper	message;
	int			fd;
	ssize_t		n = keeper_receive(&message, &fd, MSG_DONTWAIT);

	/* It says nothing after START. */
	if (fd >= 0)
		close(fd);
	if (n == 0 || (n < 0 && errno != EAGAIN))
	{
		ga_log("the supervisor is gone");
		_exit(0);
	}
}

void
ga_socket_listen(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			directory = open(ga_server.directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	char		path[GA_PATH];

	/* By the directory's descriptor: a path may be longer than an address. */
	ga_path(path, GA_SOCKET_NAME);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" GA_SOCKET_NAME, directory);
	listener.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	if (directory < 0 || listener.fd < 0 || bind(listener.fd, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		chmod(path, 0600) != 0 || listen(listener.fd, 1024) != 0)
		ga_die("could not listen on \"%s\": %s", path, strerror(errno));
	close(directory);

	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	nudge.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (epoll_fd < 0 || spare_fd < 0 || nudge.fd < 0)
		ga_die("epoll: %s", strerror(errno));
	for (int i = 0; i < STRIPES; i++)
		pthread_mutex_init(&stripes[i], NULL);
	watch(&listener);
	watch(&keeper);
	watch(&nudge);
}

void
ga_socket_loop(void)
{
	struct epoll_event events[EVENTS];
	bool		lost = false;

	for (;;)
	{
		bool		busy = ga_server_poll();
		int			n = epoll_wait(epoll_fd, events, EVENTS, busy ? 0 : nsilent > 0 || lost ? 1000 : -1);
		uint64_t	nudges;

		for (int i = 0; i < n; i++)
		{
			Connection *connection = events[i].data.ptr;

			if (connection->kind == KIND_LISTEN)
				accept_one();
			else if (connection->kind == KIND_KEEPER)
				hear_keeper();
			else if (connection->kind == KIND_NUDGE)
				lost |= read(nudge.fd, &nudges, sizeof(nudges)) > 0;
			else
				hear(connection);
		}
		while (nsilent > 0 && silent.next->deadline_ns <= ga_now_ns())
			drop(silent.next);
		free_closed();
		if (lost && n <= 0 && !busy)
			lost = ga_regions_sweep_lost();
	}
}
