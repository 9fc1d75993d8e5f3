/*
 * point_read.c
 *		Rows by key over libpq, prepared, with binary results: two statements in
 *		turns on the same connections.
 *
 *	point_read CLIENTS ROUNDS SECONDS KEYS STATEMENT STATEMENT
 *
 * Each statement takes the key "agent/NNNNN" as $1 and must give one row. Prints
 * the transactions per second of both, one line per round. libpq's environment
 * names the database. The first round is not printed.
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

/* Transactions per second of all clients with one statement. */
static double
run_slice(Client *clients, int n, const char *statement, double seconds)
{
	struct timespec pause = {(time_t) seconds, (long) ((seconds - (time_t) seconds) * 1e9)};
	double		start = now();
	long		done = 0;

	atomic_store(&stop, false);
	for (int i = 0; i < n; i++)
	{
		clients[i].statement = statement;
		clients[i].done = 0;
		pthread_create(&clients[i].thread, NULL, read_points, &clients[i]);
	}
	nanosleep(&pause, NULL);
	atomic_store(&stop, true);
	for (int i = 0; i < n; i++)
	{
		pthread_join(clients[i].thread, NULL);
		done += clients[i].done;
	}
	return done / (now() - start);
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
		double		first = run_slice(clients, n, odd ? "b" : "a", atof(argv[3]));
		double		second = run_slice(clients, n, odd ? "a" : "b", atof(argv[3]));

		if (round > 0)
			printf("%.1f %.1f\n", odd ? second : first, odd ? first : second);
	}
	for (int i = 0; i < n; i++)
		PQfinish(clients[i].conn);
	return 0;
}
