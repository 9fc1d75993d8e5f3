/*
 * disk_write.c
 *		The disk's own rate: disk_write direct|cached MEGABYTES FILE writes so much that cannot
 *		be compressed into a new file, reserved first, with fsync, removes it, and
 *		prints the seconds without making the data.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PIECE ((size_t) 1 << 20)
#define PIECES 64

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}

int
main(int argc, char **argv)
{
	uint64_t   *data;
	uint64_t	x = 88172645463325252;
	long		megabytes;
	double		start;
	int			fd;

	if (argc != 4 || posix_memalign((void **) &data, 4096, PIECES * PIECE) != 0)
		return 2;
	megabytes = atol(argv[2]);
	for (size_t i = 0; i < PIECES * PIECE / sizeof(*data); i++)
	{
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = x;
	}
	start = now();
	fd = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | (strcmp(argv[1], "direct") == 0 ? O_DIRECT : 0), 0600);
	if (fd < 0 || posix_fallocate(fd, 0, megabytes * (off_t) PIECE) != 0)
	{
		perror(argv[3]);
		return 1;
	}
	for (long i = 0; i < megabytes; i++)
	{
		uint64_t   *piece = data + (size_t) (i % PIECES) * (PIECE / sizeof(*data));

		piece[0] = (uint64_t) i;
		if (write(fd, piece, PIECE) != (ssize_t) PIECE)
		{
			perror(argv[3]);
			return 1;
		}
	}
	if (fsync(fd) < 0)
		return 1;
	printf("%.6f\n", now() - start);
	close(fd);
	return unlink(argv[3]);
}
