/*
 * point_read.c
 *		Rows by key over libpq, prepared, with binary results: two statements in
 *		turns on the same connections.
 *
 *	point_read CLIENTS ROUNDS SECONDS KEYS STATEMENT STATEMENT
 *
 * Each statement takes the key "agent/NNNNN" as $1 and must give one row. Prints,
 * one line per round: transactions per second of both statements, and the CPU
 * seconds of a transaction in the server for both. libpq's environment names the
 * database. The first round is not printed.
 */
#include <libpq-fe.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define MAX_CLIENTS 64

typedef struct Client
{
	PGconn	   *conn;
	pthread_t	thread;
	const char *statement;
	unsigned	seed;
	long		done;
} Client;

static int	keys;
static atomic_bool stop;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void
fail(PGconn *conn)
{
	fprintf(stderr, "point_read: %s", PQerrorMessage(conn));
	exit(1);
}

static void *
read_points(void *arg)
{
	Client	   *client = arg;

	while (!atomic_load_explicit(&stop, memory_order_relaxed))
	{
		char		key[32];
		const char *params[1] = {key};
		PGresult   *result;

		snprintf(key, sizeof key, "agent/%05d", rand_r(&client->seed) % keys);
		result = PQexecPrepared(client->conn, client->statement, 1, params, NULL, NULL, 1);
		if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
			fail(client->conn);
		PQclear(result);
		client->done++;
	}
	return NULL;
}

/* CPU seconds that a server process has used so far; 0 where the system does not tell. */
static double
server_cpu(const Client *client)
{
	char		path[64];
	FILE	   *file;
	double		ns = 0;

	snprintf(path, sizeof path, "/proc/%d/schedstat", PQbackendPID(client->conn));
	file = fopen(path, "r");
	if (file != NULL)
	{
		if (fscanf(file, "%lf", &ns) != 1)
			ns = 0;
		fclose(file);
	}
	return ns * 1e-9;
}

typedef struct Slice
{
	double		rate;			/* transactions per second of all clients */
	double		cpu;			/* seconds of the server for each */
} Slice;

static Slice
run_slice(Client *clients, int n, const char *statement, double seconds)
{
	struct timespec pause = {(time_t) seconds, (long) ((seconds - (time_t) seconds) * 1e9)};
	double		start = now();
	double		cpu = 0;
	long		done = 0;

	atomic_store(&stop, false);
	for (int i = 0; i < n; i++)
	{
		clients[i].statement = statement;
		clients[i].done = 0;
		cpu -= server_cpu(&clients[i]);
		pthread_create(&clients[i].thread, NULL, read_points, &clients[i]);
	}
	nanosleep(&pause, NULL);
	atomic_store(&stop, true);
	for (int i = 0; i < n; i++)
	{
		pthread_join(clients[i].thread, NULL);
		done += clients[i].done;
		cpu += server_cpu(&clients[i]);
	}
	return (Slice) {done / (now() - start), cpu / done};
}

int
main(int argc, char **argv)
{
	static Client clients[MAX_CLIENTS];
	int			n = argc == 7 ? atoi(argv[1]) : 0;
	int			rounds = argc == 7 ? atoi(argv[2]) : 0;

	if (n < 1 || n > MAX_CLIENTS)
	{
		fprintf(stderr, "usage: point_read CLIENTS ROUNDS SECONDS KEYS STATEMENT STATEMENT\n");
		return 2;
	}
	keys = atoi(argv[4]);
	for (int i = 0; i < n; i++)
	{
		clients[i].conn = PQconnectdb("");
		clients[i].seed = i + 1;
		if (PQstatus(clients[i].conn) != CONNECTION_OK)
			fail(clients[i].conn);
		for (int s = 0; s < 2; s++)
		{
			PGresult   *result = PQprepare(clients[i].conn, s == 0 ? "a" : "b", argv[5 + s], 0, NULL);

			if (PQresultStatus(result) != PGRES_COMMAND_OK)
				fail(clients[i].conn);
			PQclear(result);
		}
	}
	for (int round = 0; round <= rounds; round++)
	{
		int			odd = round % 2;
		Slice		slice[2];

		slice[odd] = run_slice(clients, n, odd ? "b" : "a", atof(argv[3]));
		slice[!odd] = run_slice(clients, n, odd ? "a" : "b", atof(argv[3]));
		if (round > 0)
			printf("%.1f %.1f %.9f %.9f\n", slice[0].rate, slice[1].rate, slice[0].cpu, slice[1].cpu);
	}
	for (int i = 0; i < n; i++)
		PQfinish(clients[i].conn);
	return 0;
}
