/*
 * check.c
 *		Does a device what it should? Every operation on data that is known here,
 *		compared with plain loops: for tests under load, and for a doubtful machine.
 */
#include "base/compat.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "device/mapping.h"
#include "device/region.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define ROW_BYTES 100

typedef struct Check
{
	int			device;
	uint64		nbytes;
	uint64		nleaves;
	uint64		source;			/* region */
	uint64		target;
	char	   *data;			/* what the source holds */
	char	   *result;			/* room for all leaves */
	uint32	   *leaves;			/* some of them, in no order */
	uint32		n;
	uint64		state;			/* of the random numbers */
} Check;

/* splitmix64 */
static uint64
next_random(Check *c)
{
	uint64		z = (c->state += UINT64CONST(0x9E3779B97F4A7C15));

	z = (z ^ (z >> 30)) * UINT64CONST(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64CONST(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

static void
expect(bool right, const char *what)
{
	if (!right)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the device computes wrong: %s", what)));
}

static uint64
make_region(Check *c)
{
	GaRegion	wanted = {.object = "check", .writable = true, .device = c->device, .nbytes = c->nbytes};
	uint64		size;
	uint64		id;

	wanted.kind = c->device == GA_DEVICE_HOST ? GA_KIND_SHM : GA_KIND_CUDA_FD;
	id = ga_region_begin(&wanted);
	ga_region_create(id, c->device, c->nbytes, false, NULL, &size);
	ga_region_ready(id, size, NULL);
	return id;
}

static void
prepare(Check *c)
{
	c->nleaves = (c->nbytes + GA_LEAF - 1) / GA_LEAF;
	c->data = MemoryContextAllocHuge(CurrentMemoryContext, c->nbytes + sizeof(uint64));
	c->result = MemoryContextAllocHuge(CurrentMemoryContext, Max(c->nleaves, 1) * GA_LEAF);
	c->leaves = palloc((c->nleaves + 1) * sizeof(uint32));
	for (uint64 i = 0; i < c->nbytes; i += sizeof(uint64))
	{
		uint64		r = next_random(c);

		memcpy(c->data + i, &r, sizeof(r));
	}
	for (uint64 i = 0; i < c->nleaves; i++)
		if (next_random(c) % 3 != 0)
			c->leaves[c->n++] = c->nleaves - 1 - i;
}

static void
check_transfers(Check *c)
{
	ga_region_download(c->target, c->device, 0, c->result, c->nbytes);
	for (uint64 i = 0; i < c->nbytes; i++)
		expect(c->result[i] == 0, "new memory is not zeroed");
	ga_region_upload(c->source, c->device, 0, c->data, c->nbytes);
	ga_region_copy(c->device, c->source, c->target, c->nbytes);
	ga_region_download(c->target, c->device, 0, c->result, c->nbytes);
	expect(memcmp(c->result, c->data, c->nbytes) == 0, "copies differ");
	if (c->nbytes > 1000)
	{
		ga_region_download(c->source, c->device, 333, c->result, c->nbytes - 1000);
		expect(memcmp(c->result, c->data + 333, c->nbytes - 1000) == 0, "a part differs");
	}
}

static void
check_fingerprints(Check *c)
{
	GaFingerprint *wanted = palloc((c->nleaves + 1) * sizeof(GaFingerprint));
	GaFingerprint *got = palloc((c->nleaves + 1) * sizeof(GaFingerprint));

	ga_fingerprint_portable(ga_fingerprint_key(), c->data, c->nbytes, wanted);
	ga_region_fingerprint(c->source, c->device, c->nbytes, got);
	expect(memcmp(wanted, got, c->nleaves * sizeof(GaFingerprint)) == 0, "fingerprints differ");
}

static void
check_leaves(Check *c)
{
	uint8	   *hashes = palloc((c->n + 1) * PG_SHA256_DIGEST_LENGTH);
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);

	ga_region_gather(c->source, c->device, c->nbytes, c->leaves, c->n, c->result);
	ga_region_sha256(c->source, c->device, c->nbytes, c->leaves, c->n, hashes);
	for (uint32 i = 0; i < c->n; i++)
	{
		const char *leaf = c->data + (uint64) c->leaves[i] * GA_LEAF;
		const char *got = c->result + (uint64) i * GA_LEAF;
		uint64		bytes = Min(GA_LEAF, c->nbytes - (uint64) c->leaves[i] * GA_LEAF);
		uint8		hash[PG_SHA256_DIGEST_LENGTH];

		expect(memcmp(leaf, got, bytes) == 0, "a leaf differs");
		for (uint64 j = bytes; j < GA_LEAF; j++)
			expect(got[j] == 0, "the end of the last leaf is not zeroed");
		if (pg_cryptohash_init(ctx) < 0 || pg_cryptohash_update(ctx, (const uint8 *) leaf, bytes) < 0 ||
			pg_cryptohash_final(ctx, hash, sizeof(hash)) < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not compute SHA-256")));
		expect(memcmp(hash, hashes + i * PG_SHA256_DIGEST_LENGTH, sizeof(hash)) == 0, "a SHA-256 differs");
	}
	pg_cryptohash_free(ctx);
}

/* Rows to the target in another order; the target held a copy of the source. */
static void
check_rows(Check *c)
{
	uint32		n = c->nbytes / ROW_BYTES;
	uint64		(*pairs)[2] = palloc((n + 1) * sizeof(pairs[0]));

	for (uint32 i = 0; i < n; i++)
	{
		pairs[i][0] = next_random(c) % n * ROW_BYTES;
		pairs[i][1] = (uint64) i * ROW_BYTES;
	}
	ga_region_gather_rows(c->device, c->source, c->target, (const uint64 (*)[2]) pairs, n, ROW_BYTES);
	ga_region_download(c->target, c->device, 0, c->result, c->nbytes);
	for (uint32 i = 0; i < n; i++)
		expect(memcmp(c->result + pairs[i][1], c->data + pairs[i][0], ROW_BYTES) == 0, "a row differs");
	expect(memcmp(c->result + (uint64) n * ROW_BYTES, c->data + (uint64) n * ROW_BYTES, c->nbytes - (uint64) n * ROW_BYTES) == 0,
		   "something else than rows was written");
}

static void
wait_for(double seconds)
{
	TimestampTz until = GetCurrentTimestamp() + (TimestampTz) (seconds * USECS_PER_SEC);
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

PG_FUNCTION_INFO_V1(ga_check_device_sql);
Datum
ga_check_device_sql(PG_FUNCTION_ARGS)
{
	char	   *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		nbytes = PG_ARGISNULL(1) ? 1000000 : PG_GETARG_INT64(1);
	double		seconds = PG_ARGISNULL(2) ? 0 : PG_GETARG_FLOAT8(2);
	Check		check = {.nbytes = nbytes, .state = (uint64) GetCurrentTimestamp()};

	if (nbytes < 0 || nbytes > MaxAllocHugeSize / 4)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("nbytes is out of range")));
	check.device = ga_device_choose(name);
	check.source = make_region(&check);
	check.target = make_region(&check);
	prepare(&check);
	check_transfers(&check);
	wait_for(seconds);
	check_fingerprints(&check);
	check_leaves(&check);
	check_rows(&check);
	PG_RETURN_VOID();
}
