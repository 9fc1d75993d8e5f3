/*
 * main.c
 *		gpuagent_device: the process that owns GPUs for a server. Command line and start.
 */
#include "server.h"

#include "math/distance.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

GaServer	ga_server;

static void
log_line(const char *format, va_list args)
{
	char		line[1024];
	int			n = snprintf(line, sizeof(line), "gpuagent_device[%d]: ", (int) getpid());

	vsnprintf(line + n, sizeof(line) - (size_t) n, format, args);
	fprintf(stderr, "%s\n", line);
}

void
ga_log(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	log_line(format, args);
	va_end(args);
}

void
ga_die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	log_line(format, args);
	va_end(args);

	/* No handlers: a broken driver may block in them. */
	_exit(1);
}

uint64_t
ga_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

void
ga_path(char *path, const char *name)
{
	/* The directory leaves room, see parse(). */
	memcpy(path, ga_server.directory, sizeof(ga_server.directory));
	strcat(path, "/");
	strncat(path, name, 62);
}

int64_t
ga_wall_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t) t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void
usage(void)
{
	fprintf(stderr,
			"gpuagent_device owns the GPUs of a PostgreSQL server with gpuagent, which starts it.\n\n"
			"usage: gpuagent_device --directory RUN_DIRECTORY [--budget BYTES] [--threads N] [--spin MICROSECONDS] [--allow-faults]\n\n"
			"  --directory     absolute path of the directory with the shared mapping\n"
			"  --budget        bytes of each GPU that regions may take; 0, the default: all\n"
			"  --threads       workers of each GPU, 1 to %d\n"
			"  --spin          how long to look for more requests after one, before sleeping\n"
			"  --allow-faults  obey requests to fail, for tests\n", GA_WORKERS_MAX);
	exit(2);
}

static uint64_t
number(const char *text, uint64_t max)
{
	char	   *end;
	unsigned long long value;

	errno = 0;
	value = text == NULL ? 0 : strtoull(text, &end, 10);
	if (text == NULL || *text < '0' || *text > '9' || *end != '\0' || errno != 0 || value > max)
		usage();
	return value;
}

static void
parse(int argc, char **argv)
{
	long		cores = sysconf(_SC_NPROCESSORS_ONLN);

	ga_server.nworkers = cores >= 8 ? 4 : 2;

	/* With few cores, who spins keeps those from running that it waits for. */
	ga_server.spin_ns = cores >= 4 ? 20000 : 0;
	for (int i = 1; i < argc; i++)
	{
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strcmp(argv[i], "--allow-faults") == 0)
		{
			ga_server.allow_faults = true;
			continue;
		}
		if (strcmp(argv[i], "--directory") == 0 && value != NULL && value[0] == '/' &&
			strlen(value) < sizeof(ga_server.directory) - 64)
			strcpy(ga_server.directory, value);
		else if (strcmp(argv[i], "--budget") == 0)
			ga_server.budget = number(value, UINT64_MAX);
		else if (strcmp(argv[i], "--threads") == 0)
			ga_server.nworkers = (int) number(value, GA_WORKERS_MAX);
		else if (strcmp(argv[i], "--spin") == 0)
			ga_server.spin_ns = number(value, 1000000) * 1000;
		else
			usage();
		i++;
	}
	if (ga_server.directory[0] == '\0' || ga_server.nworkers < 1)
		usage();
}

/* Everything ends with the server: its memory is kept by the supervisor, its files by the server. */
static void
stop(int signal_number)
{
	(void) signal_number;
	_exit(0);
}

static void
set_up_process(void)
{
	struct rlimit files;
	struct sigaction action = {.sa_handler = stop};
	struct stat keeper;

	/* A parent that died before this line shows as the end of the keeper's socket. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fstat(GA_KEEPER_FD, &keeper) != 0 || !S_ISSOCK(keeper.st_mode))
	{
		fprintf(stderr, "gpuagent_device: descriptor %d is not the supervisor's socket\n", GA_KEEPER_FD);
		usage();
	}
	umask(077);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGQUIT, &action, NULL);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max)
	{
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static void
set_up_devices(void)
{
	char		error[GA_ERROR_LEN] = "";

	ga_math_init();
	ga_server.ndevices = ga_backend_start(error);
	if (ga_server.ndevices <= 0)
	{
		ga_log("no device: %s", error);
		exit(GA_EXIT_NO_DEVICE);
	}
	if (ga_server.ndevices > GA_MAX_DEVICES)
		ga_server.ndevices = GA_MAX_DEVICES;
	ga_server.devices = calloc((size_t) ga_server.ndevices, sizeof(GaDevice));
	if (ga_server.devices == NULL)
		ga_die("out of memory");
	for (int d = 0; d < ga_server.ndevices; d++)
	{
		GaDevice   *device = &ga_server.devices[d];
		GaDeviceInfo *info = &ga_device_infos(ga_server.header)[d];

		/* Counters and the last error of a process before this one stay. */
		ga_backend_info(d, info);
		device->info = info;
		device->budget = ga_server.budget > 0 ? ga_server.budget : info->total_bytes;
		info->budget_bytes = device->budget;
		__atomic_store_n(&info->used_bytes, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&info->lost_bytes, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&info->busy_since_ns, 0, __ATOMIC_RELAXED);
		pthread_mutex_init(&device->lock, NULL);
		pthread_cond_init(&device->wake, NULL);
	}
	ga_backend_key(ga_server.key);
	if ((ga_server.arena_bytes > 0 &&
		 !ga_backend_register(ga_server.base + ga_server.arena_offset, ga_server.arena_bytes, error)) ||
		(ga_server.cache_bytes > 0 &&
		 !ga_backend_register(ga_server.base + ga_server.cache_offset, ga_server.cache_bytes, error)))
		ga_log("transfers will be slow: %s", error);
}

int
main(int argc, char **argv)
{
	parse(argc, argv);
	set_up_process();
	ga_server_map();
	set_up_devices();
	ga_keeper_restore();
	ga_socket_listen();
	ga_server_start_workers();

	ga_server.header->ndevices = (uint32_t) ga_server.ndevices;
	__atomic_store_n(&ga_server.header->service, GA_SERVICE_READY, __ATOMIC_SEQ_CST);
	ga_socket_loop();
}
