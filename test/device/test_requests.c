/*
 * test_requests.c
 *		Every operation against what the CPU makes of the same bytes; bounds; budget.
 */
#include "driver.h"
#include "sha256.h"

#include "../unit/unit.h"
#include "math/fingerprint.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (3 * 1024 * 1024 + 777)	/* 48 full leaves and a short one */
#define LEAVES (SIZE / GA_LEAF + 1)

#define PAIRS (1024 * 1024)		/* where test_bounds() has its list of rows in the arena */

static Rig rig;
static Owner owner;
static char *shadow;			/* what region 1 must hold */

static const char *const faults[] = {"--allow-faults", NULL};

static void
fill(char *p, size_t n)
{
	size_t		i = 0;

	for (; i + 8 <= n; i += 8)
	{
		uint64_t	r = next_random();

		memcpy(p + i, &r, 8);
	}
	for (; i < n; i++)
		p[i] = (char) next_random();
}

static void
test_transfers(void)
{
	char	   *arena = rig_arena(&rig);
	uint64_t	at = rig_offset(&rig, arena);
	bool		good;

	good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 1, SIZE, 0) == GA_STATUS_OK;
	good &= owner.slot->result[0] >= SIZE && rig_info(&rig, 0)->used_bytes == owner.slot->result[0];
	result(good, "a region is created and its memory counted");

	memset(arena, 0x55, SIZE);
	good = REQUEST(&owner, GA_OP_DOWNLOAD, 0, 1, 0, at, SIZE) == GA_STATUS_OK;
	result(good && memcmp(arena, shadow, SIZE) == 0, "its memory is zero");

	fill(shadow, SIZE);
	memcpy(arena, shadow, SIZE);
	good = REQUEST(&owner, GA_OP_UPLOAD, 0, 1, 0, at, SIZE) == GA_STATUS_OK;
	for (int i = 0; i < 300; i++)
	{
		uint64_t	offset = next_random() % SIZE;
		uint64_t	n = next_random() % 4 == 0 ? SIZE - offset : next_random() % (SIZE - offset + 1) % 5000;
		char	   *place = arena + next_random() % (RIG_ARENA - SIZE);

		if (i % 2 == 0)
		{
			fill(place, n);
			memcpy(shadow + offset, place, n);
			good &= REQUEST(&owner, GA_OP_UPLOAD, 0, 1, offset, rig_offset(&rig, place), n) == GA_STATUS_OK;
			continue;
		}
		memset(place, 0x55, n);
		good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 1, offset, rig_offset(&rig, place), n) == GA_STATUS_OK;
		if (memcmp(place, shadow + offset, n) != 0)
			good = differ("download of %llu bytes at %llu", (unsigned long long) n, (unsigned long long) offset);
	}
	result(good, "uploads and downloads of any range");

	memcpy((char *) rig.header + rig.header->cache_offset, shadow, 100000);
	good = REQUEST(&owner, GA_OP_UPLOAD, 0, 1, 500, rig.header->cache_offset, 100000) == GA_STATUS_OK;
	memcpy(shadow + 500, (char *) rig.header + rig.header->cache_offset, 100000);
	good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 1, 0, at, SIZE) == GA_STATUS_OK;
	result(good && memcmp(arena, shadow, SIZE) == 0, "transfers from the cache");
}

static void
test_copies(void)
{
	char	   *arena = rig_arena(&rig);
	uint64_t	at = rig_offset(&rig, arena);
	char	   *second = calloc(1, SIZE);
	bool		good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 2, SIZE, 0) == GA_STATUS_OK;

	for (int i = 0; i < 50; i++)
	{
		uint64_t	n = next_random() % SIZE;
		uint64_t	from = next_random() % (SIZE - n);
		uint64_t	to = next_random() % (SIZE - n);

		good &= REQUEST(&owner, GA_OP_COPY, 0, 1, from, 2, to, n) == GA_STATUS_OK;
		memcpy(second + to, shadow + from, n);
	}
	good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 2, 0, at, SIZE) == GA_STATUS_OK;
	result(good && memcmp(arena, second, SIZE) == 0, "copies between regions");

	good = REQUEST(&owner, GA_OP_COPY, 0, 1, 0, 1, 1000, 1000) == GA_STATUS_OK;
	memcpy(shadow + 1000, shadow, 1000);
	good &= REQUEST(&owner, GA_OP_COPY, 0, 1, 0, 1, 999, 1000) == GA_STATUS_INVALID;
	result(good, "copies within a region, unless they overlap");

	/* Rows of every alignment. */
	good = true;
	for (int round = 0; round < 40; round++)
	{
		static const uint64_t widths[] = {1, 3, 4, 8, 12, 16, 48, 100, 1536, 4096, 6144, 10001};
		uint64_t	width = widths[round % LENGTH(widths)];
		uint64_t	align = round % 3 == 0 ? 16 : round % 3 == 1 ? 4 : 1;
		uint64_t	n = next_random() % 200 + 1;
		uint64_t	(*pairs)[2] = (uint64_t (*)[2]) arena;
		uint64_t	step = (width + align - 1) / align * align;

		for (uint64_t i = 0; i < n; i++)
		{
			pairs[i][0] = next_random() % (SIZE - width) / align * align;
			pairs[i][1] = i * step;
			memcpy(second + pairs[i][1], shadow + pairs[i][0], width);
		}
		good &= REQUEST(&owner, GA_OP_GATHER_ROWS, 0, 1, at, n, width, 2) == GA_STATUS_OK;
	}
	good &= REQUEST(&owner, GA_OP_DOWNLOAD, 0, 2, 0, at, SIZE) == GA_STATUS_OK;
	result(good && memcmp(arena, second, SIZE) == 0, "rows of every width and alignment");
	result(REQUEST(&owner, GA_OP_REGION_FREE, 0, 2) == GA_STATUS_OK, "a region is freed");
	free(second);
}

static void
test_leaves(void)
{
	char	   *arena = rig_arena(&rig);
	uint32_t   *list = (uint32_t *) arena;
	char	   *out = arena + GA_PAGE;
	uint64_t	list_at = rig_offset(&rig, list);
	uint64_t	out_at = rig_offset(&rig, out);
	const uint8_t *key = (const uint8_t *) rig.header + rig.header->key_offset;
	GaFingerprint *expected = malloc(LEAVES * sizeof(*expected));
	bool		good = true;

	for (int i = 0; i < 60; i++)
	{
		uint64_t	nbytes = i < 3 ? SIZE : next_random() % SIZE + 1;
		uint64_t	leaves = (nbytes + GA_LEAF - 1) / GA_LEAF;
		uint64_t	first = i < 3 ? 0 : next_random() % leaves;
		uint64_t	n = i < 3 ? leaves : next_random() % (leaves - first + 1);

		ga_fingerprint_portable(key, shadow, nbytes, expected);
		memset(out, 0x55, (n + 1) * sizeof(*expected));
		good &= REQUEST(&owner, GA_OP_FINGERPRINT, 0, 1, nbytes, first, n, out_at) == GA_STATUS_OK;
		if (memcmp(out, expected + first, n * sizeof(*expected)) != 0 || out[n * sizeof(*expected)] != 0x55)
			good = differ("fingerprints of %llu leaves from %llu of %llu bytes", (unsigned long long) n,
						  (unsigned long long) first, (unsigned long long) nbytes);
	}
	result(good, "fingerprints are those of the CPU");

	good = true;
	for (int i = 0; i < 40; i++)
	{
		uint64_t	nbytes = i % 2 == 0 ? SIZE : SIZE - 70000 - next_random() % GA_LEAF;
		uint64_t	leaves = (nbytes + GA_LEAF - 1) / GA_LEAF;
		uint32_t	n = i < 4 ? (uint32_t) leaves : (uint32_t) (next_random() % leaves + 1);
		uint32_t	first = n == leaves ? 0 : (uint32_t) (next_random() % (leaves - n));
		uint8_t		hash[32];

		/* Consecutive ones, and any, some twice. */
		for (uint32_t j = 0; j < n; j++)
			list[j] = i % 3 == 0 ? first + j : (uint32_t) (next_random() % leaves);
		good &= REQUEST(&owner, GA_OP_GATHER, 0, 1, nbytes, list_at, n, out_at) == GA_STATUS_OK;
		for (uint32_t j = 0; j < n; j++)
		{
			size_t		size = nbytes - (size_t) list[j] * GA_LEAF < GA_LEAF ? nbytes - (size_t) list[j] * GA_LEAF : GA_LEAF;

			if (memcmp(out + (size_t) j * GA_LEAF, shadow + (size_t) list[j] * GA_LEAF, size) != 0)
				good = differ("leaf %u of %llu bytes", list[j], (unsigned long long) nbytes);
			for (size_t k = size; k < GA_LEAF; k++)
				if (out[(size_t) j * GA_LEAF + k] != 0)
					good = differ("leaf %u of %llu bytes is not padded", list[j], (unsigned long long) nbytes);
		}
		good &= REQUEST(&owner, GA_OP_SHA256, 0, 1, nbytes, list_at, n, out_at) == GA_STATUS_OK;
		for (uint32_t j = 0; j < n; j++)
		{
			size_t		size = nbytes - (size_t) list[j] * GA_LEAF < GA_LEAF ? nbytes - (size_t) list[j] * GA_LEAF : GA_LEAF;

			sha256(shadow + (size_t) list[j] * GA_LEAF, size, hash);
			if (memcmp(out + 32 * j, hash, 32) != 0)
				good = differ("hash of leaf %u of %llu bytes", list[j], (unsigned long long) nbytes);
		}
	}
	result(good, "gathered leaves and their hashes are those of the CPU");

	/* Around the ends of blocks of SHA-256. */
	good = true;
	for (uint64_t nbytes = 1; nbytes < 200; nbytes++)
	{
		uint8_t		hash[32];

		list[0] = 0;
		good &= REQUEST(&owner, GA_OP_SHA256, 0, 1, nbytes, list_at, 1, out_at) == GA_STATUS_OK;
		sha256(shadow, nbytes, hash);
		if (memcmp(out, hash, 32) != 0)
			good = differ("hash of %llu bytes", (unsigned long long) nbytes);
	}
	result(good, "hashes of short leaves");
	free(expected);
}

/* Numbers of another program: byte i of the leaf is i mod 251. */
static void
test_vectors(void)
{
	static const struct
	{
		uint64_t	n;
		uint8_t		hash[32];
	}			vectors[] = {
		{1, {0x6e, 0x34, 0x0b, 0x9c, 0xff, 0xb3, 0x7a, 0x98, 0x9c, 0xa5, 0x44, 0xe6, 0xbb, 0x78, 0x0a, 0x2c, 0x78, 0x90, 0x1d, 0x3f, 0xb3, 0x37, 0x38, 0x76, 0x85, 0x11, 0xa3, 0x06, 0x17, 0xaf, 0xa0, 0x1d}},
		{55, {0x46, 0x3e, 0xb2, 0x8e, 0x72, 0xf8, 0x2e, 0x0a, 0x96, 0xc0, 0xa4, 0xcc, 0x53, 0x69, 0x0c, 0x57, 0x12, 0x81, 0x13, 0x1f, 0x67, 0x2a, 0xa2, 0x29, 0xe0, 0xd4, 0x5a, 0xe5, 0x9b, 0x59, 0x8b, 0x59}},
		{56, {0xda, 0x2a, 0xe4, 0xd6, 0xb3, 0x67, 0x48, 0xf2, 0xa3, 0x18, 0xf2, 0x3e, 0x7a, 0xb1, 0xdf, 0xdf, 0x45, 0xac, 0xdc, 0x9d, 0x04, 0x9b, 0xd8, 0x0e, 0x59, 0xde, 0x82, 0xa6, 0x08, 0x95, 0xf5, 0x62}},
		{63, {0x29, 0xaf, 0x26, 0x86, 0xfd, 0x53, 0x37, 0x4a, 0x36, 0xb0, 0x84, 0x66, 0x94, 0xcc, 0x34, 0x21, 0x77, 0xe4, 0x28, 0xd1, 0x64, 0x75, 0x15, 0xf0, 0x78, 0x78, 0x4d, 0x69, 0xcd, 0xb9, 0xe4, 0x88}},
		{64, {0xfd, 0xea, 0xb9, 0xac, 0xf3, 0x71, 0x03, 0x62, 0xbd, 0x26, 0x58, 0xcd, 0xc9, 0xa2, 0x9e, 0x8f, 0x9c, 0x75, 0x7f, 0xcf, 0x98, 0x11, 0x60, 0x3a, 0x8c, 0x44, 0x7c, 0xd1, 0xd9, 0x15, 0x11, 0x08}},
		{65, {0x4b, 0xfd, 0x2c, 0x8b, 0x6f, 0x1e, 0xec, 0x7a, 0x2a, 0xfe, 0xb4, 0x8b, 0x93, 0x4e, 0xe4, 0xb2, 0x69, 0x41, 0x82, 0x02, 0x7e, 0x6d, 0x0f, 0xc0, 0x75, 0x07, 0x4f, 0x2f, 0xab, 0xb3, 0x17, 0x81}},
		{119, {0xda, 0x18, 0x79, 0x7e, 0xd7, 0xc3, 0xa7, 0x77, 0xf0, 0x84, 0x7f, 0x42, 0x97, 0x24, 0xa2, 0xd8, 0xcd, 0x51, 0x38, 0xe6, 0xed, 0x28, 0x95, 0xc3, 0xfa, 0x1a, 0x6d, 0x39, 0xd1, 0x8f, 0x7e, 0xc6}},
		{1000, {0x4e, 0x4c, 0x29, 0x4b, 0x33, 0x1f, 0x7a, 0x20, 0x99, 0xa3, 0x79, 0xbe, 0xc3, 0x4b, 0x9f, 0x9f, 0xc0, 0x3d, 0xc4, 0x6a, 0xb4, 0x65, 0xd9, 0x98, 0xf4, 0xd6, 0x83, 0xda, 0x53, 0x48, 0x7e, 0x6d}},
		{65535, {0xdd, 0xa4, 0x02, 0xa2, 0xc0, 0x28, 0xf0, 0xcb, 0xbd, 0xbc, 0x5c, 0x6e, 0xba, 0xe9, 0x65, 0xee, 0xd9, 0xc7, 0x5f, 0x71, 0x23, 0x6e, 0x70, 0x22, 0xb0, 0x38, 0x6d, 0x34, 0x55, 0xd5, 0xae, 0x2f}},
		{65536, {0x4b, 0x64, 0x0d, 0x85, 0xab, 0x3b, 0xa3, 0x0f, 0xd0, 0x2c, 0x9f, 0xc9, 0xdb, 0x4a, 0x89, 0x28, 0xf4, 0x16, 0x32, 0x2a, 0xd2, 0x70, 0x22, 0xea, 0x58, 0xa6, 0x5a, 0xae, 0xe6, 0x8a, 0x4d, 0xf2}}
	};
	char	   *arena = rig_arena(&rig);
	uint64_t	at = rig_offset(&rig, arena);
	bool		good = true;

	for (int i = 0; i < GA_LEAF; i++)
		arena[i] = (char) (i % 251);
	good &= REQUEST(&owner, GA_OP_UPLOAD, 0, 1, 0, at, GA_LEAF) == GA_STATUS_OK;
	memcpy(shadow, arena, GA_LEAF);
	for (size_t i = 0; i < LENGTH(vectors); i++)
	{
		memset(arena, 0, 100);
		good &= REQUEST(&owner, GA_OP_SHA256, 0, 1, vectors[i].n, at, 1, at + 64) == GA_STATUS_OK;
		if (memcmp(arena + 64, vectors[i].hash, 32) != 0)
			good = differ("hash of %llu bytes", (unsigned long long) vectors[i].n);
	}
	result(good, "hashes that another program computed");
}

static void
test_bounds(void)
{
	uint64_t	arena = rig.header->arena_offset;
	uint64_t	end = arena + RIG_ARENA;
	uint64_t	cache = rig.header->cache_offset;
	uint32_t   *list = (uint32_t *) rig_arena(&rig);
	uint64_t   *pairs = (uint64_t *) (rig_arena(&rig) + PAIRS);
	uint64_t	max = UINT64_MAX;
	struct
	{
		GaOp		op;
		int			device;
		GaStatus	status;
		uint64_t	arg[5];
	}			cases[] = {
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 0, arena, SIZE + 1}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, SIZE, arena, 1}},
		{GA_OP_UPLOAD, 0, GA_STATUS_OK, {1, SIZE, arena, 0}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, SIZE + 1, arena, 0}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, max, arena, 2}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 2, arena, max}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 0, arena - 1, 10}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 0, end - 9, 10}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 0, end, 1}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 0, cache + RIG_CACHE - 1, 2}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 0, max - 4, 10}},
		{GA_OP_UPLOAD, 0, GA_STATUS_INVALID, {1, 0, 0, 10}},
		{GA_OP_UPLOAD, 0, GA_STATUS_UNKNOWN, {77, 0, arena, 10}},
		{GA_OP_UPLOAD, 99, GA_STATUS_UNKNOWN, {1, 0, arena, 10}},
		{GA_OP_UPLOAD, -1, GA_STATUS_UNKNOWN, {1, 0, arena, 10}},
		{GA_OP_DOWNLOAD, 0, GA_STATUS_INVALID, {1, 0, arena - 4096, 4096}},
		{GA_OP_DOWNLOAD, 0, GA_STATUS_INVALID, {1, 0, rig.header->slots_offset, 4096}},
		{GA_OP_DOWNLOAD, 0, GA_STATUS_INVALID, {1, 0, end - 100, 200}},
		{GA_OP_COPY, 0, GA_STATUS_INVALID, {1, 0, 1, SIZE - 10, 11}},
		{GA_OP_COPY, 0, GA_STATUS_INVALID, {1, max, 1, 0, 11}},
		{GA_OP_COPY, 0, GA_STATUS_INVALID, {1, 0, 1, 0, max}},
		{GA_OP_COPY, 0, GA_STATUS_UNKNOWN, {1, 0, 78, 0, 11}},
		{GA_OP_FINGERPRINT, 0, GA_STATUS_INVALID, {1, SIZE + 1, 0, 1, arena}},
		{GA_OP_FINGERPRINT, 0, GA_STATUS_INVALID, {1, SIZE, 0, LEAVES + 1, arena}},
		{GA_OP_FINGERPRINT, 0, GA_STATUS_INVALID, {1, SIZE, 1, LEAVES, arena}},
		{GA_OP_FINGERPRINT, 0, GA_STATUS_INVALID, {1, SIZE, max, 2, arena}},
		{GA_OP_FINGERPRINT, 0, GA_STATUS_INVALID, {1, SIZE, 0, max / 8, arena}},
		{GA_OP_FINGERPRINT, 0, GA_STATUS_INVALID, {1, SIZE, 0, 2, end - 31}},
		{GA_OP_FINGERPRINT, 0, GA_STATUS_INVALID, {1, SIZE, 0, 2, arena + 4}},
		{GA_OP_GATHER, 0, GA_STATUS_INVALID, {1, SIZE, arena, 5, arena + GA_PAGE}},
		{GA_OP_GATHER, 0, GA_STATUS_OK, {1, SIZE, arena, 4, arena + GA_PAGE}},
		{GA_OP_GATHER, 0, GA_STATUS_INVALID, {1, SIZE - 777, arena, 4, arena + GA_PAGE}},
		{GA_OP_GATHER, 0, GA_STATUS_INVALID, {1, SIZE, arena, 4, end - 3 * GA_LEAF}},
		{GA_OP_GATHER, 0, GA_STATUS_INVALID, {1, SIZE, end - 15, 4, arena}},
		{GA_OP_GATHER, 0, GA_STATUS_INVALID, {1, SIZE, arena, UINT64_C(1) << 62, arena}},
		{GA_OP_SHA256, 0, GA_STATUS_INVALID, {1, SIZE, arena, 5, arena + GA_PAGE}},
		{GA_OP_SHA256, 0, GA_STATUS_INVALID, {1, SIZE, arena, 4, end - 127}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_OK, {1, arena + PAIRS, 1, 10, 1}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_INVALID, {1, arena + PAIRS, 2, 10, 1}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_INVALID, {1, arena + PAIRS + 32, 1, 10, 1}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_INVALID, {1, arena + PAIRS + 48, 1, 10, 1}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_INVALID, {1, arena + PAIRS, 1, 0, 1}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_INVALID, {1, arena + PAIRS, 1, max, 1}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_INVALID, {1, arena, max / 16, 10, 1}},
		{GA_OP_GATHER_ROWS, 0, GA_STATUS_UNKNOWN, {1, arena + PAIRS, 1, 10, 79}},
		{GA_OP_REGION_CREATE, 0, GA_STATUS_INVALID, {1, 4096, 0}},
		{GA_OP_REGION_CREATE, 0, GA_STATUS_INVALID, {3, 4096, 8}},
		{GA_OP_REGION_CREATE, 0, GA_STATUS_INVALID, {3, max, 0}},
		{GA_OP_REGION_CREATE, 0, GA_STATUS_INVALID, {3, max - 4096, 0}},
		{GA_OP_REGION_FREE, 0, GA_STATUS_OK, {80}},
		{GA_OP_GRANT, 0, GA_STATUS_UNKNOWN, {80, 0, max}},
		{GA_OP_GRANT, 0, GA_STATUS_INVALID, {1, 2, max}},
		{GA_OP_FAULT, 0, GA_STATUS_INVALID, {99}},
		{GA_OP_NONE, 0, GA_STATUS_INVALID, {0}},
		{GA_OP_COUNT, 0, GA_STATUS_INVALID, {0}},
		{(GaOp) 1000000, 0, GA_STATUS_INVALID, {0}},
	};
	bool		good = true;

	list[0] = 0;
	list[1] = LEAVES - 1;
	list[2] = 1;
	list[3] = LEAVES - 1;
	list[4] = LEAVES;
	memcpy(pairs, (uint64_t[]) {0, 100, SIZE - 9, 0, max - 1, 0, 0, SIZE - 9}, 8 * sizeof(*pairs));
	for (size_t i = 0; i < LENGTH(cases); i++)
	{
		int			status = owner_request(&owner, cases[i].op, cases[i].device, 5, cases[i].arg);

		if (status != (int) cases[i].status)
			good = differ("case %zu, op %d: status %d, expected %d (%s)", i, cases[i].op, status, cases[i].status, owner.slot->error);
		if (status != GA_STATUS_OK && owner.slot->error[0] == '\0')
			good = differ("case %zu: no words", i);
	}
	result(good, "arguments out of bounds are refused, with a reason");
	result(rig_canaries_live(&rig), "memory around arena and cache is untouched");

	good = REQUEST(&owner, GA_OP_DOWNLOAD, 0, 1, 0, arena, SIZE) == GA_STATUS_OK;
	memcpy(shadow + 100, shadow, 10);
	result(good && memcmp(rig_arena(&rig), shadow, SIZE) == 0, "and so is the region");
}

/* Slots full of nonsense, also while the process looks at them. */
static void
test_nonsense(void)
{
	static const uint64_t values[] = {0, 1, 2, 3, 4096, GA_LEAF, SIZE, SIZE - 1, UINT64_MAX, UINT64_MAX / 2, UINT64_C(1) << 32};
	Owner		other;
	bool		good = owner_open(&other, &rig, 9);
	pid_t		child;

	fflush(stdout);
	child = fork();
	if (child == 0)
	{
		/* Writes over slot 9 all the time. */
		for (;;)
		{
			GaSlot	   *slot = other.slot;

			slot->arg[next_random() % 8] = next_random();
			slot->op = (uint32_t) (next_random() % 14);
			slot->device = (int32_t) (next_random() % 3) - 1;
			if (next_random() % 16 == 0)
				__atomic_store_n(&slot->state, (uint32_t) next_random() % 7, __ATOMIC_SEQ_CST);
			__atomic_fetch_or(&rig.header->ready[0], UINT64_C(1) << 9, __ATOMIC_SEQ_CST);
			__atomic_fetch_or(&rig.header->ready[next_random() % LENGTH(rig.header->ready)], next_random(), __ATOMIC_SEQ_CST);
			__atomic_fetch_add(&rig.header->doorbell, 1, __ATOMIC_SEQ_CST);
		}
	}
	for (int i = 0; i < 4000; i++)
	{
		uint64_t	arg[8];
		GaOp		op = (GaOp) (next_random() % (GA_OP_COUNT + 2));

		if (op == GA_OP_FAULT || op == GA_OP_REGION_FREE || op == GA_OP_REGION_CREATE)
			continue;
		for (int j = 0; j < 8; j++)
			switch (next_random() % 4)
			{
				case 0:
					arg[j] = values[next_random() % LENGTH(values)];
					break;
				case 1:
					arg[j] = rig.header->arena_offset + next_random() % (2 * RIG_ARENA);
					break;
				case 2:
					arg[j] = 1;
					break;
				default:
					arg[j] = next_random() >> next_random() % 64;
			}
		if (owner_request(&owner, op, (int) (next_random() % 20 == 0), 8, arg) < 0)
		{
			good = differ("request %d, op %d was not answered", i, op);
			break;
		}
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	memset(&ga_slots(rig.header)[9], 0, sizeof(GaSlot));
	good &= REQUEST(&owner, GA_OP_PING, 0, 12345) == GA_STATUS_OK && owner.slot->result[0] == 12345;
	result(good, "nonsense in slots, also while they are read, is answered");
	result(rig_canaries_live(&rig), "memory around arena and cache is untouched still");
	owner_close(&other);
}

static void
test_budget(void)
{
	uint64_t	mib = 1 << 20;
	GaDeviceInfo *info;
	bool		good;

	REQUEST(&owner, GA_OP_REGION_FREE, 0, 1);
	info = rig_info(&rig, 0);
	result(info->used_bytes == 0 && info->lost_bytes == 0, "nothing is used when all regions are freed");

	good = REQUEST(&owner, GA_OP_REGION_CREATE, 0, 11, 40 * mib, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 12, 30 * mib, 0) == GA_STATUS_BUDGET;
	good &= strlen(owner.slot->error) > 0;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 12, 24 * mib, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 13, 1, 0) == GA_STATUS_BUDGET;
	good &= info->used_bytes == 64 * mib && info->budget_bytes == 64 * mib;
	good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, 11) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 13, 0, 0) == GA_STATUS_OK;
	good &= REQUEST(&owner, GA_OP_REGION_CREATE, 0, 14, 20 * mib, GA_REGION_IPC) == GA_STATUS_OK;
	good &= owner.slot->extra[0] != 0 || owner.slot->extra[1] != 0;
	for (uint64_t id = 12; id <= 14; id++)
		good &= REQUEST(&owner, GA_OP_REGION_FREE, 0, id) == GA_STATUS_OK;
	good &= info->used_bytes == 0;
	result(good, "the budget holds and is given back");

	good = info->requests > 100 && info->errors == 0 && info->busy_since_ns == 0 && info->total_bytes > 64 * mib && info->name[0] != '\0';
	result(good, "the device's counters and description");
}

int
main(void)
{
	shadow = calloc(1, SIZE);
	rig_make(&rig);
	result(rig_start(&rig, faults) && owner_open(&owner, &rig, 5), "the process serves");
	result(REQUEST(&owner, GA_OP_PING, 0, 42) == GA_STATUS_OK && owner.slot->result[0] == 42, "ping");
	test_transfers();
	test_copies();
	test_leaves();
	test_vectors();
	test_bounds();
	test_nonsense();
	test_budget();
	rig_listen(&rig);
	result(rig.nkept == 0, "the supervisor keeps nothing in the end");
	result(rig_kill(&rig, SIGTERM) == 0, "it ends when asked to");
	rig_remove(&rig);
	free(shadow);
	return finish();
}
