/*
 * hash.c
 *		Identities of chunks, nodes and tensors: SHA-256 through the server's own
 *		crypto API. Test vectors are in doc/formats.md.
 *
 *	leaf	= SHA256(raw bytes)							64 KiB each, the last may be shorter
 *	chunk	= SHA256("gpuagent/chunk/1" nbytes leaf...)	1 MiB each, the last may be shorter
 *	node	= SHA256("gpuagent/node/1" nbytes child...)	up to 64 children, nbytes of raw data below
 *	tensor	= SHA256("gpuagent/tensor/1" dtype ndim dim... root)
 *
 * Integers are unsigned 64-bit little-endian; dtype is its name, padded with
 * zeros to 16 bytes. The root is the chunk of a tensor of up to 1 MiB, else the
 * topmost node; an empty tensor has the chunk of no bytes, which is not stored.
 */
#include "base/compat.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "store/store.h"

typedef struct Hasher
{
	pg_cryptohash_ctx *ctx;
} Hasher;

static void
hasher_failed(Hasher *h)
{
	pg_cryptohash_free(h->ctx);
	ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not compute SHA-256")));
}

static void
hasher_create(Hasher *h)
{
	h->ctx = pg_cryptohash_create(PG_SHA256);
	if (h->ctx == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
}

static void
hasher_start(Hasher *h, const char *tag)
{
	if (pg_cryptohash_init(h->ctx) < 0 ||
		(tag && pg_cryptohash_update(h->ctx, (const uint8 *) tag, strlen(tag)) < 0))
		hasher_failed(h);
}

static void
hasher_add(Hasher *h, const void *data, size_t len)
{
	if (pg_cryptohash_update(h->ctx, data, len) < 0)
		hasher_failed(h);
}

static void
hasher_end(Hasher *h, GaHash *hash)
{
	if (pg_cryptohash_final(h->ctx, hash->bytes, GA_HASH_LEN) < 0)
		hasher_failed(h);
}

void
ga_hash_leaves(const char *data, size_t nbytes, GaHash *leaves)
{
	Hasher		h;

	hasher_create(&h);
	for (size_t offset = 0; offset < nbytes; offset += GA_LEAF_SIZE)
	{
		hasher_start(&h, NULL);
		hasher_add(&h, data + offset, Min(GA_LEAF_SIZE, nbytes - offset));
		hasher_end(&h, leaves++);
	}
	pg_cryptohash_free(h.ctx);
}

void
ga_hash_chunk_of_leaves(size_t nbytes, const GaHash *leaves, GaHash *hash)
{
	uint64		length = nbytes;
	Hasher		h;

	Assert(nbytes <= GA_CHUNK_SIZE);
	hasher_create(&h);
	hasher_start(&h, "gpuagent/chunk/1");
	hasher_add(&h, &length, sizeof length);
	hasher_add(&h, leaves, (nbytes + GA_LEAF_SIZE - 1) / GA_LEAF_SIZE * sizeof(GaHash));
	hasher_end(&h, hash);
	pg_cryptohash_free(h.ctx);
}

void
ga_hash_chunk(const char *data, size_t nbytes, GaHash *hash)
{
	GaHash		leaves[GA_CHUNK_LEAVES];

	Assert(nbytes <= GA_CHUNK_SIZE);
	ga_hash_leaves(data, nbytes, leaves);
	ga_hash_chunk_of_leaves(nbytes, leaves, hash);
}

void
ga_hash_node(uint64 nbytes, int nchildren, const GaHash *children, GaHash *hash)
{
	Hasher		h;

	hasher_create(&h);
	hasher_start(&h, "gpuagent/node/1");
	hasher_add(&h, &nbytes, sizeof nbytes);
	hasher_add(&h, children, nchildren * sizeof(GaHash));
	hasher_end(&h, hash);
	pg_cryptohash_free(h.ctx);
}

void
ga_hash_tensor(int dtype, int ndim, const int64 *dims, const GaHash *root, GaHash *hash)
{
	char		name[16] = {0};
	uint64		rank = ndim;
	Hasher		h;

	strlcpy(name, ga_dtype_name(dtype), sizeof name);
	hasher_create(&h);
	hasher_start(&h, "gpuagent/tensor/1");
	hasher_add(&h, name, sizeof name);
	hasher_add(&h, &rank, sizeof rank);
	hasher_add(&h, dims, ndim * sizeof(int64));
	hasher_add(&h, root, sizeof(GaHash));
	hasher_end(&h, hash);
	pg_cryptohash_free(h.ctx);
}

void
ga_hash_from_datum(Datum value, GaHash *hash)
{
	bytea	   *bytes = DatumGetByteaPP(value);

	if (VARSIZE_ANY_EXHDR(bytes) != GA_HASH_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a hash has %d bytes, not %zu", GA_HASH_LEN, VARSIZE_ANY_EXHDR(bytes))));
	memcpy(hash->bytes, VARDATA_ANY(bytes), GA_HASH_LEN);
}

Datum
ga_hash_to_datum(const GaHash *hash)
{
	bytea	   *result = palloc(VARHDRSZ + GA_HASH_LEN);

	SET_VARSIZE(result, VARHDRSZ + GA_HASH_LEN);
	memcpy(VARDATA(result), hash->bytes, GA_HASH_LEN);
	return PointerGetDatum(result);
}

char *
ga_hash_text(const GaHash *hash)
{
	char	   *text = palloc(2 * GA_HASH_LEN + 1);

	for (int i = 0; i < GA_HASH_LEN; i++)
		sprintf(text + 2 * i, "%02x", hash->bytes[i]);
	return text;
}
