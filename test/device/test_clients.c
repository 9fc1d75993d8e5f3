/*
 * test_clients.c
 *		Who gets memory: tokens, peers, what clients hold, connections that misbehave.
 */
#define _GNU_SOURCE
#include "driver.h"

#include "../unit/unit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static Rig rig;
static Owner owner;

static void
make_token(uint8_t *token)
{
	for (int i = 0; i < GA_TOKEN_LEN; i++)
		token[i] = (uint8_t) next_random();
}

static int
grant(uint64_t id, uint64_t mode, double seconds, const uint8_t *token)
{
	uint64_t	name[2];

	memcpy(name, token, sizeof(name));
	memcpy(owner.slot->extra, token, GA_TOKEN_LEN);
	return REQUEST(&owner, GA_OP_GRANT, 0, id, mode, now_ns() + (uint64_t) (int64_t) (seconds * 1e9), name[0], name[1]);
}

static int
take_back(const uint8_t *token)
{
	uint64_t	name[2];

	memcpy(name, token, sizeof(name));
	return REQUEST(&owner, GA_OP_REVOKE, 0, name[0], name[1]);
}

/* Connects and asks; the connection stays open when the answer is OK. */
static int
fetch(const uint8_t *token, int *connection, GaMemory *answer, int *fds)
{
	*connection = client_connect(&rig);
	if (*connection < 0 || !client_hello(*connection, GA_HELLO_CLIENT, 0, token) || !client_memory(*connection, answer, fds))
		return -1;
	if (answer->magic != GA_PROTOCOL_MAGIC)
		return -2;
	if (answer->status != GA_STATUS_OK)
	{
		bool		cut = client_is_cut(*connection, LONG_ENOUGH);

		close(*connection);
		return cut && fds[0] < 0 ? (int) answer->status : -3;
	}
	return GA_STATUS_OK;
}

static void
let_go(int connection, int *fds)
{
	close(fds[0]);
	close(fds[1]);
	close(connection);
}

/* ----- tokens ----- */

static void
test_tokens(void)
{
	uint8_t		token[GA_TOKEN_LEN];
	uint8_t		other[GA_TOKEN_LEN];
	GaMemory	answer;
	int			connection;
	int			fds[2];
	struct stat control;
	bool		good;

	make_token(token);
	good = fetch(token, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	result(good, "a token that nobody granted");

	good = grant(1, 1, 10, token) == GA_STATUS_OK;
	for (int i = 0; i < GA_TOKEN_LEN; i++)
	{
		memcpy(other, token, sizeof(other));
		other[i] ^= 1;
		good &= fetch(other, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	}
	result(good, "tokens that differ in one bit");

	good = fetch(token, &connection, &answer, fds) == GA_STATUS_OK;
	good &= answer.bytes >= 3 * MIB && answer.mode == 1 && answer.device == 0 && fds[0] >= 0 && fds[1] >= 0;
	good &= memcmp(answer.uuid, rig_info(&rig, 0)->uuid, 16) == 0;
	good &= fstat(fds[1], &control) == 0 && control.st_size == GA_PAGE;
	good &= (fcntl(fds[1], F_GETFL) & O_ACCMODE) == O_RDWR;
	result(good, "the right one gets the memory and its control page");
	if (rig_is_emulated())
	{
		char	   *memory = mmap(NULL, answer.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);

		good = memory != MAP_FAILED;
		if (good)
		{
			memcpy(memory + 2 * MIB, "written by a client", 20);
			good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 1, 2 * MIB, rig.header->arena_offset, 20) == GA_STATUS_OK;
			good &= strcmp(rig_arena(&rig), "written by a client") == 0;
			munmap(memory, answer.bytes);
		}
		result(good, "what a client writes is in the region");
	}
	let_go(connection, fds);
	good = fetch(token, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	result(good, "a token is good for one time");

	make_token(token);
	good = grant(1, 0, -1, token) == GA_STATUS_OK && fetch(token, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	make_token(token);
	good &= grant(1, 0, 0.05, token) == GA_STATUS_OK;
	sleep_us(60000);
	good &= fetch(token, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	result(good, "a token is good for its time");

	/* More than the process keeps at a time: what was revoked takes no place. */
	good = true;
	for (int i = 0; i < 70000 && good; i++)
	{
		make_token(token);
		good = grant(1, 0, 1000, token) == GA_STATUS_OK && take_back(token) == GA_STATUS_OK;
	}
	good &= take_back(token) == GA_STATUS_OK && fetch(token, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	result(good, "a token is good until it is revoked");

	make_token(token);
	good = grant(1, 0, 10, token) == GA_STATUS_OK && fetch(token, &connection, &answer, fds) == GA_STATUS_OK;
	good &= answer.mode == 0 && (fcntl(fds[1], F_GETFL) & O_ACCMODE) == O_RDONLY;
	let_go(connection, fds);
	result(good, "for reading, the control page is for reading");

	good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 2, MIB, GA_REGION_IPC) == GA_STATUS_OK;
	make_token(token);
	good &= grant(2, 0, 10, token) == GA_STATUS_INVALID && grant(99, 0, 10, token) == GA_STATUS_UNKNOWN;
	good &= grant(1, 2, 10, token) == GA_STATUS_INVALID;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 2) == GA_STATUS_OK;
	result(good, "what cannot be granted");

	/* Freed meanwhile. A region of the same number is another one. */
	good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 3, MIB, 0) == GA_STATUS_OK;
	region_file(&rig, 3, true);
	make_token(token);
	good &= grant(3, 0, 10, token) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 3) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 3, MIB, 0) == GA_STATUS_OK;
	good &= fetch(token, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	region_file(&rig, 3, false);
	make_token(token);
	good &= grant(3, 0, 10, token) == GA_STATUS_OK && fetch(token, &connection, &answer, fds) == GA_STATUS_UNKNOWN;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 3) == GA_STATUS_OK;
	result(good, "a grant ends with its region, and needs its file");

	good = true;
	for (int i = 0; i < 1000; i++)
	{
		make_token(token);
		good &= grant(1, 0, i % 2 == 0 ? 0.001 : 10, token) == GA_STATUS_OK;
	}
	good &= fetch(token, &connection, &answer, fds) == GA_STATUS_OK;
	let_go(connection, fds);
	result(good, "many grants at once");
}

/* ----- what clients hold ----- */

static bool
lock_hold(int file, short type)
{
	struct flock request = {.l_type = type, .l_whence = SEEK_SET, .l_start = GA_LOCK_HOLD, .l_len = 1};

	return fcntl(file, F_OFD_SETLK, &request) == 0;
}

static void
test_holders(void)
{
	GaDeviceInfo *info = rig_info(&rig, 0);
	uint64_t	used = info->used_bytes;
	uint8_t		token[GA_TOKEN_LEN];
	GaMemory	answer;
	int			connection[2];
	int			fds[2][2];
	bool		good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 10, 40 * MIB, 0) == GA_STATUS_OK;

	region_file(&rig, 10, true);
	for (int i = 0; i < 2; i++)
	{
		make_token(token);
		good &= grant(10, 1, 10, token) == GA_STATUS_OK && fetch(token, &connection[i], &answer, fds[i]) == GA_STATUS_OK;
	}
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 10) == GA_STATUS_OK;
	region_file(&rig, 10, false);
	good &= info->used_bytes == used && info->lost_bytes == 40 * MIB;
	good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 10, 0, rig.header->arena_offset, 10) == GA_STATUS_UNKNOWN;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 11, 40 * MIB, 0) == GA_STATUS_BUDGET;
	result(good, "freed memory that clients hold is lost, and counts");

	close(connection[0]);
	sleep_us(20000);
	good = info->lost_bytes == 40 * MIB;
	close(connection[1]);
	good &= counter_becomes(&info->lost_bytes, 0);
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 11, 40 * MIB, 0) == GA_STATUS_OK;
	result(good, "until the last of them hangs up");
	for (int i = 0; i < 2; i++)
	{
		close(fds[i][0]);
		close(fds[i][1]);
	}

	/* The lock of the file says the same, and outlives the connection. */
	region_file(&rig, 11, true);
	for (int i = 0; i < 2; i++)
	{
		make_token(token);
		good &= grant(11, 1, 10, token) == GA_STATUS_OK && fetch(token, &connection[i], &answer, fds[i]) == GA_STATUS_OK;
		good &= lock_hold(fds[i][1], F_RDLCK);
	}
	good &= !lock_hold(fds[0][1], F_WRLCK);
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 11) == GA_STATUS_OK;
	region_file(&rig, 11, false);
	let_go(connection[0], fds[0]);
	close(connection[1]);
	sleep_us(50000);
	good &= info->lost_bytes == 40 * MIB;
	result(good, "each client has a lock of its own on the control page; it keeps the memory counted");
	close(fds[1][0]);
	close(fds[1][1]);
	result(counter_becomes(&info->lost_bytes, 0), "until it goes");

	/* Memory by handle has no connection; only the lock tells of its clients. */
	region_file(&rig, 13, true);
	good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 13, 10 * MIB, GA_REGION_IPC) == GA_STATUS_OK;
	fds[0][1] = region_open(&rig, 13);
	good &= lock_hold(fds[0][1], F_RDLCK) && REQUEST(&owner, GA_OP_REGION_FREE, 0, 13) == GA_STATUS_OK;
	region_file(&rig, 13, false);
	good &= info->lost_bytes == 10 * MIB;
	close(fds[0][1]);
	good &= counter_becomes(&info->lost_bytes, 0);
	result(good, "memory by handle counts as long as somebody has the lock");

	/* A client that survives the process. */
	good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 12, 10 * MIB, 0) == GA_STATUS_OK;
	region_file(&rig, 12, true);
	make_token(token);
	good &= grant(12, 0, 10, token) == GA_STATUS_OK && fetch(token, &connection[0], &answer, fds[0]) == GA_STATUS_OK;
	good &= lock_hold(fds[0][1], F_RDLCK);
	good &= rig_kill(&rig, SIGKILL) == -SIGKILL && client_is_cut(connection[0], LONG_ENOUGH);
	good &= rig_start(&rig, (const char *const[]) {NULL});
	owner_close(&owner);
	good &= owner_open(&owner, &rig, 4);
	make_token(token);
	good &= fetch(token, &connection[1], &answer, fds[1]) == GA_STATUS_UNKNOWN;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 12) == GA_STATUS_OK && info->lost_bytes == 10 * MIB;
	region_file(&rig, 12, false);
	let_go(connection[0], fds[0]);
	good &= counter_becomes(&info->lost_bytes, 0);
	result(good, "a client that outlives the process still counts");
}

/* Clients that come and go while their region is freed. */
static void
test_races(void)
{
	GaDeviceInfo *info = rig_info(&rig, 0);
	uint64_t	used = info->used_bytes;
	bool		good = true;

	for (int i = 0; i < 150 && good; i++)
	{
		uint64_t	id = 2000 + (uint64_t) i;
		uint8_t		tokens[3][GA_TOKEN_LEN];
		pid_t		children[3];

		good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, id, MIB, 0) == GA_STATUS_OK;
		region_file(&rig, id, true);
		for (int c = 0; c < 3; c++)
		{
			make_token(tokens[c]);
			good &= grant(id, 0, 10, tokens[c]) == GA_STATUS_OK;
		}
		fflush(stdout);
		for (int c = 0; c < 3; c++)
		{
			children[c] = fork();
			if (children[c] == 0)
			{
				GaMemory	answer;
				int			connection;
				int			fds[2];
				int			status = fetch(tokens[c], &connection, &answer, fds);

				_exit(status == GA_STATUS_OK || status == GA_STATUS_UNKNOWN ? 0 : status + 10);
			}
		}
		sleep_us((double) (next_random() % 1500));
		good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, id) == GA_STATUS_OK;
		rig_listen(&rig);
		region_file(&rig, id, false);
		for (int c = 0; c < 3; c++)
		{
			int			status;

			waitpid(children[c], &status, 0);
			if (status != 0)
				good = differ("round %d: a client got %d", i, WEXITSTATUS(status) - 10);
		}
	}
	good &= counter_becomes(&info->lost_bytes, 0) && info->used_bytes == used;
	result(good, "clients that come while their region is freed");
}

/* ----- connections that misbehave ----- */

/* How many are cut off; waits until they are so many, or long enough. */
static int
cut_off(const int *connections, int n, int enough)
{
	uint64_t	until = now_ns() + (uint64_t) (LONG_ENOUGH * 1e9);
	int			cut;

	do
	{
		sleep_us(1000);
		cut = 0;
		for (int i = 0; i < n; i++)
			cut += connections[i] < 0 || client_is_cut(connections[i], 0);
	} while (cut < enough && now_ns() < until);
	return cut;
}

static void
test_strangers(void)
{
	static int	silent[400];
	GaHello		hello = {.magic = GA_PROTOCOL_MAGIC, .version = GA_PROTOCOL_VERSION, .kind = GA_HELLO_BACKEND, .slot = RIG_SLOTS};
	bool		good = true;
	int			fd;
	int			cut;

	for (int i = 0; i < 6; i++)
	{
		GaHello		wrong = hello;
		size_t		n = sizeof(wrong);

		if (i == 0)
			wrong.magic++;
		else if (i == 1)
			wrong.version++;
		else if (i == 2)
			wrong.kind = 77;
		else if (i == 3)
			n--;
		else if (i == 4)
			n = 1;
		fd = client_connect(&rig);
		good &= fd >= 0 && send(fd, &wrong, n, MSG_NOSIGNAL) == (ssize_t) n;
		if (!client_is_cut(fd, LONG_ENOUGH))
			good = differ("hello %d is not refused", i);
		close(fd);
	}
	result(good, "wrong hellos, and slots that do not exist, are cut off");

	for (int i = 0; i < 400; i++)
		silent[i] = client_connect(&rig);
	good = REQUEST(&owner, GA_OP_PING, 0, 7) == GA_STATUS_OK;
	cut = cut_off(silent, 400, 100);
	good &= cut >= 100 && cut < 400 && REQUEST(&owner, GA_OP_PING, 0, 8) == GA_STATUS_OK;
	result(good, "who says nothing is cut off when there are many of them");

	/* The others after a while. */
	good = client_is_cut(silent[399], LONG_ENOUGH);
	for (int i = 0; i < 400; i++)
		close(silent[i]);
	result(good, "or after a time");
	result(REQUEST(&owner, GA_OP_PING, 0, 9) == GA_STATUS_OK, "and the others are served");
}

static void
test_other_users(void)
{
	char		path[200];
	uint8_t		token[GA_TOKEN_LEN];
	struct stat st;
	pid_t		child;
	int			status;
	bool		good;

	snprintf(path, sizeof(path), "%s/" GA_SOCKET_NAME, rig.directory);
	good = stat(path, &st) == 0 && (st.st_mode & 0777) == 0600;
	result(good, "the socket is the user's own");
	if (geteuid() != 0)
	{
		printf("# not root: a connection of another user cannot be tried\n");
		return;
	}

	/* Even where the files would let them. */
	good = chmod(path, 0666) == 0 && chmod(rig.directory, 0755) == 0;
	make_token(token);
	good &= grant(1, 0, 10, token) == GA_STATUS_OK;
	fflush(stdout);
	child = fork();
	if (child == 0)
	{
		GaMemory	answer;
		int			fds[2];
		int			fd;

		if (setgid(65534) != 0 || setuid(65534) != 0)
			_exit(2);
		fd = client_connect(&rig);
		if (fd < 0)
			_exit(3);
		client_hello(fd, GA_HELLO_CLIENT, 0, token);
		_exit(client_memory(fd, &answer, fds) ? 4 : 0);
	}
	waitpid(child, &status, 0);
	result(good && status == 0, "another user is cut off, token or not");
}

/* With few descriptors, new connections are refused and old ones served. */
static void
test_few_descriptors(void)
{
	static int	many[120];
	struct rlimit before;
	struct rlimit few;
	bool		good = prlimit(rig.pid, RLIMIT_NOFILE, NULL, &before) == 0;
	int			before_them = rig_descriptors(&rig);
	int			cut;

	few.rlim_cur = 64;
	few.rlim_max = before.rlim_max;
	good &= prlimit(rig.pid, RLIMIT_NOFILE, &few, NULL) == 0;

	for (int i = 0; i < 120; i++)
	{
		many[i] = client_connect(&rig);
		good &= many[i] >= 0 && client_hello(many[i], GA_HELLO_BACKEND, 100, NULL) | true;
	}
	good &= REQUEST(&owner, GA_OP_PING, 0, 1) == GA_STATUS_OK;
	cut = cut_off(many, 120, 51);
	for (int i = 0; i < 120; i++)
		close(many[i]);
	printf("# %d of 120 were cut off\n", cut);
	good &= rig_lets_go(&rig, before_them) && cut > 50 && REQUEST(&owner, GA_OP_PING, 0, 2) == GA_STATUS_OK;
	owner_close(&owner);
	good &= owner_open(&owner, &rig, 4) && REQUEST(&owner, GA_OP_PING, 0, 3) == GA_STATUS_OK;
	good &= prlimit(rig.pid, RLIMIT_NOFILE, &before, NULL) == 0;
	result(good, "out of descriptors: who is connected is served, then others again");
}

int
main(void)
{
	int			descriptors;

	rig_make(&rig);
	result(rig_start(&rig, NULL) && owner_open(&owner, &rig, 4), "the process serves");
	region_file(&rig, 1, true);
	result(REQUEST(&owner, GA_OP_REGION_CREATE, 0, 1, 3 * MIB, 0) == GA_STATUS_OK, "a region");
	sleep_us(20000);
	descriptors = rig_descriptors(&rig);
	test_tokens();
	test_holders();
	test_races();
	test_strangers();
	test_other_users();
	test_few_descriptors();

	/* One more is the file of the region that clients fetched. */
	result(rig_lets_go(&rig, descriptors + 1), "no descriptors are left of all this");
	rig_remove(&rig);
	return finish();
}
