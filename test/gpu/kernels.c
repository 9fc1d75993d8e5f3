/*
 * kernels.c
 *		The functions of cuda/backend.h in one process, without server and sockets:
 *		against the CPU, for compute-sanitizer, and their speed.
 *
 *	usage: kernels [--small] [--bench GIB]
 *
 * Links with CUDA's backend or with the emulator.
 */
#include "programs.h"

#include "../device/sha256.h"

#include <unistd.h>

static uint8_t *key;

/* Everything over a region of nbytes. */
static bool
check_size(uint64_t nbytes, const char *data, const uint8_t *shadow, uint8_t *out)
{
	uint64_t	leaves = (nbytes + GA_LEAF - 1) / GA_LEAF;
	GaFingerprint *expected = malloc(leaves * sizeof(*expected));
	uint32_t	n = (uint32_t) (leaves < 100 ? leaves : 100);
	uint32_t   *list;
	bool		ok;

	ga_fingerprint_portable(key, shadow, nbytes, expected);
	memset(out, 0x55, leaves * sizeof(*expected));
	ok = good(ga_backend_fingerprint(&worker, data, nbytes, 0, leaves, (GaFingerprint *) out));
	if (memcmp(out, expected, leaves * sizeof(*expected)) != 0)
		ok = differ("fingerprints of %llu bytes", (unsigned long long) nbytes);
	free(expected);

	for (int kind = 0; kind < 3; kind++)
	{
		/* Scattered, one run, runs of 20. */
		list = ga_backend_staging(&worker, n * sizeof(*list));
		for (uint32_t i = 0; i < n; i++)
			list[i] = (uint32_t) (kind == 0 ? next_random() % leaves : kind == 1 ? leaves - n + i : (i / 20 * 37 + i % 20) % leaves);
		memset(out, 0x55, (size_t) n * GA_LEAF);
		ok &= good(ga_backend_gather(&worker, data, nbytes, list, n, (char *) out));
		for (uint32_t i = 0; i < n; i++)
		{
			uint64_t	at = (uint64_t) list[i] * GA_LEAF;
			size_t		size = nbytes - at < GA_LEAF ? nbytes - at : GA_LEAF;
			bool		same = memcmp(out + (size_t) i * GA_LEAF, shadow + at, size) == 0;

			for (size_t j = size; j < GA_LEAF; j++)
				same &= out[(size_t) i * GA_LEAF + j] == 0;
			if (!same)
				ok = differ("leaf %u of %llu bytes, kind %d", list[i], (unsigned long long) nbytes, kind);
		}
		ok &= good(ga_backend_sha256(&worker, data, nbytes, list, n, out));
		for (uint32_t i = 0; i < n && (i < 40 || kind == 0); i++)
		{
			uint64_t	at = (uint64_t) list[i] * GA_LEAF;
			uint8_t		hash[32];

			sha256(shadow + at, nbytes - at < GA_LEAF ? nbytes - at : GA_LEAF, hash);
			if (memcmp(out + 32 * i, hash, 32) != 0)
				ok = differ("hash of leaf %u of %llu bytes", list[i], (unsigned long long) nbytes);
		}
	}
	return ok;
}

static void
test_leaves(uint64_t most)
{
	uint8_t    *shadow = host_memory(most);
	uint8_t    *out = host_memory(100 * GA_LEAF + most / GA_LEAF * 16 + GA_LEAF);
	GaBlock		block = block_of(most);
	bool		ok = true;

	fill(shadow, most);
	ok &= good(ga_backend_upload(&worker, block.address, (char *) shadow, most));
	for (uint64_t nbytes = 1; nbytes < 300; nbytes += nbytes < 140 ? 1 : 13)
		ok &= check_size(nbytes, block.address, shadow, out);
	result(ok, "leaves of every short length");
	ok = true;
	for (int i = 0; i < 12; i++)
		ok &= check_size(next_random() % most + 1, block.address, shadow, out);
	ok &= check_size(GA_LEAF - 1, block.address, shadow, out) & check_size(GA_LEAF, block.address, shadow, out) &
		check_size(GA_LEAF + 1, block.address, shadow, out) & check_size(most, block.address, shadow, out);
	result(ok, "regions of any length");
	ga_backend_free(&worker, &block);
}

static void
test_rows(void)
{
	static const uint64_t widths[] = {1, 2, 4, 7, 16, 48, 100, 1536, 4099};
	size_t		size = 4 << 20;
	uint8_t    *source = host_memory(size);
	uint8_t    *target = host_memory(size);
	uint8_t    *expected = calloc(1, size);
	GaBlock		a = block_of(size);
	GaBlock		b = block_of(size);
	bool		ok = good(ga_backend_upload(&worker, a.address, (fill(source, size), (char *) source), size));

	for (size_t w = 0; w < LENGTH(widths); w++)
		for (uint64_t align = 1; align <= 16; align *= 4)
		{
			uint64_t	width = widths[w];
			uint64_t	step = (width + align - 1) / align * align;
			uint64_t	n = 500;
			uint64_t	(*pairs)[2] = ga_backend_staging(&worker, n * sizeof(*pairs));

			for (uint64_t i = 0; i < n; i++)
			{
				pairs[i][0] = next_random() % (size - width) / align * align;
				pairs[i][1] = i * step;
				memcpy(expected + pairs[i][1], source + pairs[i][0], width);
			}
			ok &= good(ga_backend_gather_rows(&worker, a.address, b.address, (const uint64_t (*)[2]) pairs, n, width));
		}
	ok &= good(ga_backend_download(&worker, (char *) target, b.address, size));
	result(ok && memcmp(target, expected, size) == 0, "rows of any width and place");
	ga_backend_free(&worker, &a);
	ga_backend_free(&worker, &b);
	free(expected);
}

/* Memory that outlives its mapping through its descriptor. */
static void
test_export(void)
{
	GaBlock		block = block_of(1 << 20);
	GaBlock		again = {.size = block.size};
	char	   *memory = host_memory(GA_PAGE);
	bool		ok;

	strcpy(memory, "kept");
	ok = good(ga_backend_upload(&worker, block.address + 70000, memory, 5));
	again.fd = dup(block.fd);
	ga_backend_free(&worker, &block);
	memset(memory, 0, GA_PAGE);
	ok &= good(ga_backend_import(&worker, &again));
	ok &= good(ga_backend_download(&worker, memory, again.address + 70000, 5));
	result(ok && strcmp(memory, "kept") == 0, "memory outlives its mapping by its descriptor");
	ga_backend_free(&worker, &again);

	block.size = ga_backend_granularity(worker.device);
	ok = good(ga_backend_create(&worker, true, &block)) && block.fd == -1;
	result(ok, "memory exported by handle");
	ga_backend_free(&worker, &block);
}

/* ----- speed ----- */

static void
bench(double gib)
{
	uint64_t	size = (uint64_t) (gib * 1024) << 20;
	uint64_t	leaves = size / GA_LEAF;
	uint64_t	percent = leaves / 100;
	size_t		piece = 256 << 20;
	char	   *host = host_memory(piece);
	char	   *out = host_memory(leaves * 32 > percent * GA_LEAF ? leaves * 32 : percent * GA_LEAF);
	uint32_t   *list;
	GaBlock		block;

	started = now();
	block = block_of(size);
	best = now() - started;
	say("create and zero", (double) size);
	fill((uint8_t *) host, piece);
	for (uint64_t at = 0; at < size; at += piece)
		good(ga_backend_upload(&worker, block.address + at, host, size - at < piece ? size - at : piece));

	for (BEST_OF(5))
		good(ga_backend_upload(&worker, block.address, host, piece));
	say("upload 256 MiB", (double) piece);
	for (BEST_OF(5))
		good(ga_backend_download(&worker, host, block.address, piece));
	say("download 256 MiB", (double) piece);
	for (BEST_OF(200))
		good(ga_backend_download(&worker, host, block.address, 1024));
	say("download 1 KiB", 1024);
	for (BEST_OF(5))
		good(ga_backend_copy(&worker, block.address + size / 2, block.address, size / 2));
	say("copy half of it (bytes read and written)", (double) size);
	for (BEST_OF(10))
		good(ga_backend_fingerprint(&worker, block.address, size, 0, leaves, (GaFingerprint *) out));
	say("fingerprints, with their download", (double) size);
	for (BEST_OF(50))
		good(ga_backend_fingerprint(&worker, block.address, 16 << 20, 0, 256, (GaFingerprint *) out));
	say("fingerprints of 16 MiB", 16 << 20);

	list = ga_backend_staging(&worker, leaves * sizeof(*list));
	for (uint64_t i = 0; i < leaves; i++)
		list[i] = (uint32_t) i;
	for (BEST_OF(3))
		good(ga_backend_sha256(&worker, block.address, size, list, leaves, (uint8_t *) out));
	say("SHA-256 of all leaves", (double) size);
	for (BEST_OF(5))
		good(ga_backend_gather(&worker, block.address, size, list, percent, out));
	say("gather 1 % in one stretch", (double) percent * GA_LEAF);
	for (uint64_t i = 0; i < percent; i++)
		list[i] = (uint32_t) (i * 97 % leaves);
	for (BEST_OF(5))
		good(ga_backend_sha256(&worker, block.address, size, list, percent, (uint8_t *) out));
	say("SHA-256 of 1 %, scattered", (double) percent * GA_LEAF);
	for (BEST_OF(5))
		good(ga_backend_gather(&worker, block.address, size, list, percent, out));
	say("gather 1 %, scattered", (double) percent * GA_LEAF);
	started = now();
	ga_backend_free(&worker, &block);
	best = now() - started;
	say("free", (double) size);
}

int
main(int argc, char **argv)
{
	uint64_t	most = (40 << 20) + 12345;
	GaDeviceInfo info = {0};
	double		gib = 0;

	for (int i = 1; i < argc; i++)
	{
		if (strcmp(argv[i], "--small") == 0)
			most = (3 << 20) + 12345;
		else if (strcmp(argv[i], "--bench") == 0 && i + 1 < argc)
			gib = atof(argv[++i]);
	}
	ga_fingerprint_init();
	started = now();
	key = start_backend();
	ga_backend_info(0, &info);
	printf("# %s, compute %d.%d, %.1f GiB, context %.0f MiB, started in %.0f ms\n", info.name, info.compute_major,
		   info.compute_minor, (double) info.total_bytes / (1 << 30), (double) info.context_bytes / (1 << 20), (now() - started) * 1e3);
	test_leaves(most);
	test_rows();
	test_export();
	if (gib > 0)
		bench(gib);
	return finish();
}
