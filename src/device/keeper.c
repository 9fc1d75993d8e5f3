/*
 * keeper.c
 *		Start of gpuagent_device, and the descriptors that are kept for it (keeper.h).
 */
#include "base/compat.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "device/keeper.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define LAST_SIGNAL 64

typedef struct Kept
{
	GaKeeper	message;		/* as it came */
	int			fd;
	bool		restored;		/* sent to the process that runs */
} Kept;

static Kept *kept = NULL;
static int	nkept = 0;
static int	kept_size = 0;
static bool begun = false;		/* START was sent */

static int	keeper = -1;
static bool ended = false;		/* the other end is closed */

/* ---- start ---- */

static void
close_from(int first)
{
#ifdef SYS_close_range
	if (syscall(SYS_close_range, first, ~0U, 0) == 0)
		return;
#endif
	for (int fd = first, end = (int) sysconf(_SC_OPEN_MAX); fd < end; fd++)
		close(fd);
}

/*
 * The rest of the child's life in this program. It shares memory with the
 * server: only system calls here, and no handler of the server may run.
 */
static void
become_program(const char *program, char *const argv[], int socket, pid_t parent)
{
	sigset_t	none;
	int			null;

	for (int i = 1; i <= LAST_SIGNAL; i++)
	{
		struct sigaction action = {.sa_handler = SIG_DFL};

		(void) sigaction(i, &action, NULL);
	}
	setsid();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	if (socket == GA_KEEPER_FD ? fcntl(socket, F_SETFD, 0) < 0 : dup2(socket, GA_KEEPER_FD) < 0)
		_exit(1);
	close_from(GA_KEEPER_FD + 1);
	null = open("/dev/null", O_RDONLY);
	if (null >= 0 && null != STDIN_FILENO)
	{
		dup2(null, STDIN_FILENO);
		close(null);
	}
	dup2(STDERR_FILENO, STDOUT_FILENO);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv(program, argv);
	_exit(errno == ENOENT ? 127 : 126);
}

/* Room for the descriptors of many regions. */
static void
raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max)
	{
		limit.rlim_cur = limit.rlim_max;
		(void) setrlimit(RLIMIT_NOFILE, &limit);
	}
}

bool
ga_keeper_start(const char *program, char *const argv[], pid_t *child)
{
	pid_t		parent = getpid();
	sigset_t	all;
	sigset_t	before;
	int			pair[2];
	pid_t		pid;

	raise_file_limit();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
	{
		ereport(LOG,
				(errcode_for_socket_access(),
				 errmsg("could not create a socket: %m")));
		return false;
	}
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		become_program(program, argv, pair[1], parent);
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(pair[1]);
	if (pid < 0)
	{
		close(pair[0]);
		ereport(LOG,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not fork gpuagent_device: %m")));
		return false;
	}
	keeper = pair[0];
	ended = false;
	begun = false;
	for (int i = 0; i < nkept; i++)
		kept[i].restored = false;
	*child = pid;
	return true;
}

int
ga_keeper_socket(void)
{
	return ended ? -1 : keeper;
}

/* ---- kept descriptors ---- */

static int
find(uint64 region)
{
	for (int i = 0; i < nkept; i++)
		if (kept[i].message.region == region)
			return i;
	return -1;
}

bool
ga_keeper_keeps(uint64 region)
{
	return find(region) >= 0;
}

void
ga_keeper_drop(uint64 region)
{
	int			i = find(region);

	if (i < 0)
		return;
	close(kept[i].fd);
	kept[i] = kept[--nkept];
}

static void
keep(const GaKeeper *message, int fd)
{
	ga_keeper_drop(message->region);
	if (nkept == kept_size)
	{
		int			size = Max(2 * kept_size, 64);

		kept = kept ? repalloc(kept, size * sizeof(Kept)) : MemoryContextAlloc(TopMemoryContext, size * sizeof(Kept));
		kept_size = size;
	}
	kept[nkept++] = (Kept) {.message = *message, .fd = fd};
}

/* ---- messages ---- */

static bool
send_message(const GaKeeper *message, int fd)
{
	union
	{
		struct cmsghdr align;
		char		bytes[CMSG_SPACE(sizeof(int))];
	}			control;
	struct iovec part = {.iov_base = (void *) message, .iov_len = sizeof(*message)};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0)
	{
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		header.msg_control = &control;
		header.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&header);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	return sendmsg(keeper, &header, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(*message);
}

bool
ga_keeper_restore(void)
{
	GaKeeper	start = {.magic = GA_PROTOCOL_MAGIC, .kind = GA_KEEPER_START};

	if (keeper < 0 || ended || begun)
		return true;
	for (int i = 0; i < nkept; i++)
	{
		GaKeeper	message = kept[i].message;

		message.kind = GA_KEEPER_RESTORE;
		if (!kept[i].restored && !send_message(&message, kept[i].fd))
			return false;
		kept[i].restored = true;
	}
	begun = send_message(&start, -1);
	return begun;
}

/* The descriptor that came with a message; -1 for none. */
static int
descriptor_of(struct msghdr *header)
{
	int			fd = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c != NULL; c = CMSG_NXTHDR(header, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(&fd, CMSG_DATA(c), sizeof(int));
	return fd;
}

/* One message; false when none has come. */
static bool
receive_message(void)
{
	union
	{
		struct cmsghdr align;
		char		bytes[CMSG_SPACE(sizeof(int))];
	}			control;
	GaKeeper	message;
	struct iovec part = {.iov_base = &message, .iov_len = sizeof(message)};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	ssize_t		n = recvmsg(keeper, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int			fd;

	/* A process that ended before it had read all is told first, what it had sent comes after that. */
	if (n < 0 && (errno == EINTR || errno == ECONNRESET))
		return true;
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return false;
	if (n <= 0)
	{
		ended = true;
		return false;
	}
	fd = descriptor_of(&header);
	if (n == sizeof(message) && message.magic == GA_PROTOCOL_MAGIC && message.kind == GA_KEEPER_KEEP && fd >= 0)
	{
		keep(&message, fd);
		return true;
	}
	if (n == sizeof(message) && message.magic == GA_PROTOCOL_MAGIC && message.kind == GA_KEEPER_DROP)
		ga_keeper_drop(message.region);
	if (fd >= 0)
		close(fd);
	return true;
}

void
ga_keeper_receive(void)
{
	while (keeper >= 0 && !ended && receive_message())
		;
}

void
ga_keeper_end(void)
{
	ga_keeper_receive();
	if (keeper >= 0)
		close(keeper);
	keeper = -1;
	ended = true;
}
