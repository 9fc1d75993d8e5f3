/*
 * driver.c
 *		Memory of targets, and without libFuzzer a main program that mutates the
 *		seeds of a target deterministically and prints TAP.
 *
 *	fuzz_NAME [INPUTS]		fuzz_NAME --seeds FOLDER	fuzz_NAME --dictionary
 */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUT (64 * 1024)

void
fuzz_failed(const char *file, int line, const char *condition)
{
	fprintf(stderr, "%s:%d: %s does not hold\n", file, line, condition);
	abort();
}

/* ---- memory ---- */

typedef struct Block
{
	struct Block *previous;
	struct Block *next;
	size_t		magic;
	size_t		size;
} Block;

#define MAGIC ((size_t) 0x6761667A)

static Block blocks = {&blocks, &blocks, 0, 0};

void *
fuzz_allocate(void *pointer, size_t size)
{
	Block	   *block = malloc(sizeof(Block) + size);

	if (block == NULL)
		fuzz_failed(__FILE__, __LINE__, "memory suffices");
	*block = (Block) {&blocks, blocks.next, MAGIC, size};
	block->next->previous = blocks.next = block;
	if (pointer != NULL)
	{
		Block	   *old = (Block *) pointer - 1;

		FUZZ_CHECK(old->magic == MAGIC);
		memcpy(block + 1, pointer, old->size < size ? old->size : size);
		fuzz_free(pointer);
	}
	return block + 1;
}

void
fuzz_free(void *pointer)
{
	Block	   *block = (Block *) pointer - 1;

	FUZZ_CHECK(block->magic == MAGIC);
	block->magic = 0;
	block->previous->next = block->next;
	block->next->previous = block->previous;
	free(block);
}

void
fuzz_free_all(void)
{
	while (blocks.next != &blocks)
		fuzz_free(blocks.next + 1);
}

#ifdef LIBFUZZER

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_run(data, size);
	fuzz_free_all();
	return 0;
}

#else

/* ---- mutations ---- */

static uint64_t random_state = 20261122;

static uint64_t
next_random(void)
{
	uint64_t	z = (random_state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static size_t
below(size_t n)
{
	return n == 0 ? 0 : next_random() % n;
}

static size_t
count(const FuzzSeed *list)
{
	size_t		n = 0;

	while (list[n].data != NULL)
		n++;
	return n;
}

/* Puts bytes in at a place; returns the new size. */
static size_t
insert(uint8_t *data, size_t size, size_t at, const void *bytes, size_t n)
{
	if (size + n > MAX_INPUT)
		return size;
	memmove(data + at + n, data + at, size - at);
	memcpy(data + at, bytes, n);
	return size + n;
}

static size_t
mutate_once(uint8_t *data, size_t size)
{
	const FuzzSeed *token = &fuzz_tokens[below(count(fuzz_tokens))];
	size_t		at = below(size + 1);
	size_t		n = below(16) + 1;
	uint8_t		copy[64];

	if (n > size - at)
		n = size - at;
	switch (below(7))
	{
		case 0:
			if (at < size)
				data[at] ^= 1 << below(8);
			return size;
		case 1:
			if (at < size)
				data[at] = below(256);
			return size;
		case 2:
			memmove(data + at, data + at + n, size - at - n);
			return size - n;
		case 3:
			return insert(data, size, at, token->data, token->size);
		case 4:
			if (token->size <= size - at)
				memcpy(data + at, token->data, token->size);
			return size;
		case 5:
			memcpy(copy, data + at, n);
			return insert(data, size, below(size + 1), copy, n);
		default:
			return below(4) == 0 ? at : size;
	}
}

/* The beginning of a seed and, now and then, the end of another, changed in up to five places. */
static size_t
make_input(uint8_t *data)
{
	const FuzzSeed *seed = &fuzz_seeds[below(count(fuzz_seeds))];
	const FuzzSeed *other = &fuzz_seeds[below(count(fuzz_seeds))];
	size_t		size = seed->size;

	memcpy(data, seed->data, size);
	if (below(8) == 0)
	{
		size_t		from = below(other->size + 1);

		size = below(size + 1);
		size = insert(data, size, size, (const char *) other->data + from, other->size - from);
	}
	for (size_t i = below(6); i > 0; i--)
		size = mutate_once(data, size);
	return size;
}

/* ---- the program ---- */

/* Runs an input in memory of exactly its size, so that a sanitizer sees what is read beyond it. */
static bool
run(const uint8_t *data, size_t size)
{
	uint8_t    *exact = malloc(size == 0 ? 1 : size);
	bool		accepted;

	memcpy(exact, data, size);
	accepted = fuzz_run(exact, size);
	free(exact);
	fuzz_free_all();
	return accepted;
}

static int
write_seeds(const char *folder)
{
	for (size_t i = 0; i < count(fuzz_seeds); i++)
	{
		char		path[4096];
		FILE	   *file;

		snprintf(path, sizeof path, "%s/seed%zu", folder, i);
		file = fopen(path, "wb");
		if (file == NULL || fwrite(fuzz_seeds[i].data, 1, fuzz_seeds[i].size, file) != fuzz_seeds[i].size || fclose(file) != 0)
			return 1;
	}
	return 0;
}

static int
print_dictionary(void)
{
	for (size_t i = 0; i < count(fuzz_tokens); i++)
	{
		printf("\"");
		for (size_t k = 0; k < fuzz_tokens[i].size; k++)
			printf("\\x%02X", ((const uint8_t *) fuzz_tokens[i].data)[k]);
		printf("\"\n");
	}
	return 0;
}

int
main(int argc, char **argv)
{
	static uint8_t data[MAX_INPUT];
	long		inputs = argc > 1 ? atol(argv[1]) : 20000;
	long		accepted = 0;
	bool		good = true;

	if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
		return write_seeds(argv[2]);
	if (argc == 2 && strcmp(argv[1], "--dictionary") == 0)
		return print_dictionary();

	for (size_t i = 0; i < count(fuzz_seeds); i++)
		if (!run(fuzz_seeds[i].data, fuzz_seeds[i].size))
		{
			printf("# seed %zu is refused\n", i);
			good = false;
		}
	printf("%sok 1 - %s: every seed is accepted\n", good ? "" : "not ", fuzz_name);
	for (long i = 0; i < inputs; i++)
		accepted += run(data, make_input(data));
	good &= accepted > inputs / 50 && accepted < inputs - inputs / 50;
	printf("%sok 2 - %s: of %ld inputs %ld are accepted, and hold what they must\n1..2\n", good ? "" : "not ", fuzz_name, inputs, accepted);
	return good ? 0 : 1;
}

#endif
