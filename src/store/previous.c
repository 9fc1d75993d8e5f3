/*
 * previous.c
 *		Chunks of a new version as deltas of the version before (delta.h).
 *
 * A training step changes every element a little: XORed with what was there,
 * signs, exponents and upper bits of mantissas become zeros. Where that pays, a
 * version costs less to store so than whole, since less is written than the
 * base costs to be read; where it does not, looking costs one chunk of SAMPLE.
 *
 * The first version of a chain is the base of all, so that a read takes two
 * rows, whatever the chain's length. A base is given up when the next delta
 * would be larger than what the chain has taken per version so far, base
 * included: of chains whose deltas grow, that one has the least average.
 *
 * What came before may be damaged, pruned or gone: then the chunk is stored
 * whole, as without it.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "common/hashfn.h"
#include "store/delta.h"
#include "store/table.h"
#include "utils/memutils.h"

/* A delta takes two reads where a chunk of its own takes one: it must be a quarter smaller. */
#define PAYS(whole) ((whole) - (whole) / 4)

/* When a chunk did not pay, the next is tried after as many times its bytes. */
#define SAMPLE 31

struct GaPrevious
{
	GaReader   *reader;
	bool		useless;		/* damaged or gone */
	struct Experience *known;
	char	   *base;			/* GA_CHUNK_SIZE each */
	char	   *leaves;
	char	   *base_leaves;
};

/* Of this session, since tensors may be of one chunk: by dtype and size, as a layer keeps both. */
typedef struct Experience
{
	uint64		skip;			/* bytes that are stored whole before a delta is tried again */
	double		whole_ratio;	/* bytes that chunks take whole, of raw ones; 0: not known */
} Experience;

#define EXPERIENCES 1024
static Experience experiences[EXPERIENCES];

/* What a look into the past is after. */
typedef struct Look
{
	GaPrevious *previous;
	const GaHash *tensor;
	uint64		number;
	size_t		nbytes;
	GaHash		base;
	size_t		base_size;		/* bytes of its row, 0: nothing to be used */
} Look;

static void
open_reader(void *arg)
{
	Look	   *look = arg;
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(look->previous));
	GaTableUser user = ga_table_enter_owner("chunk_delta");

	look->previous->reader = ga_reader_open(look->tensor);
	ga_table_leave_owner(user);
	MemoryContextSwitchTo(old);
}

GaPrevious *
ga_previous_open(const GaHash *tensor)
{
	GaPrevious *previous;
	Look		look = {.tensor = tensor};

	if (!ga_compression || !ga_delta_ready())
		return NULL;
	previous = look.previous = palloc0(sizeof(GaPrevious));
	if (ga_store_attempt(open_reader, &look) != NULL)
	{
		pfree(previous);
		return NULL;
	}
	previous->known = &experiences[murmurhash32((uint32) previous->reader->nbytes ^ (uint32) previous->reader->dtype << 24) %
								   EXPERIENCES];
	return previous;
}

void
ga_previous_close(GaPrevious *previous)
{
	if (previous == NULL)
		return;
	ga_reader_close(previous->reader);
	if (previous->base)
	{
		pfree(previous->base);
		pfree(previous->leaves);
		pfree(previous->base_leaves);
	}
	pfree(previous);
}

/* The chunk that stood at this place or, where that is a delta, its base; decodes it. */
static void
find_base(Look *look)
{
	GaPrevious *previous = look->previous;
	uint16		leaves;
	GaHash		before;

	ga_reader_chunk_hash(previous->reader, look->number, &before);
	if (!ga_delta_find(&before, &look->base, &leaves))
		look->base = before;
	look->base_size = ga_delta_base_size(&look->base, look->nbytes);
	if (look->base_size == 0)
		return;
	if (previous->base == NULL)
	{
		MemoryContext context = GetMemoryChunkContext(previous);

		previous->base = MemoryContextAlloc(context, GA_CHUNK_SIZE);
		previous->leaves = MemoryContextAlloc(context, GA_CHUNK_SIZE);
		previous->base_leaves = MemoryContextAlloc(context, GA_CHUNK_SIZE);
	}
	if (!ga_chunk_load_row(&look->base, look->nbytes, previous->base))
		look->base_size = 0;
}

/* As the owner of the tables: a writer needs no right to read them. */
static void
load_base(void *arg)
{
	GaTableUser user = ga_table_enter_owner("chunk_delta");

	find_base(arg);
	ga_table_leave_owner(user);
}

/* Bytes that the chunk takes whole, as the last one says that was stored so. */
static size_t
whole_size(GaPrevious *previous, const char *data, size_t nbytes, int width)
{
	if (previous->known->whole_ratio == 0)
	{
		int			codec;
		bytea	   *packed = ga_chunk_pack(data, nbytes, width, true, &codec);

		previous->known->whole_ratio = (double) (VARSIZE(packed) - VARHDRSZ) / nbytes;
		pfree(packed);
	}
	return previous->known->whole_ratio * nbytes;
}

static size_t
store_whole(GaPrevious *previous, const char *data, size_t nbytes, int width, const GaHash *hash)
{
	size_t		size = ga_chunk_store(data, nbytes, width, hash);

	if (size > 0)
	{
		previous->known->whole_ratio = (double) size / nbytes;
		previous->known->skip -= Min(previous->known->skip, nbytes);
	}
	return size;
}

/* Stores the chunk as a delta of what look found; what ga_delta_store returns. */
static int64
store_delta(const Look *look, const char *data, int width, const GaHash *hash)
{
	GaPrevious *previous = look->previous;
	size_t		nbytes = look->nbytes;
	uint16		mask = ga_delta_mask(data, previous->base, nbytes);
	size_t		pays = PAYS(whole_size(previous, data, nbytes, width));
	uint64		chain;
	int			n = ga_delta_count(&look->base, &chain);
	uint64		average = (look->base_size + chain) / (n + 1);
	int64		stored;

	if (n >= GA_DELTA_MAX || mask == 0)
		return -1;
	(void) ga_delta_leaves(data, nbytes, mask, previous->leaves);
	(void) ga_delta_leaves(previous->base, nbytes, mask, previous->base_leaves);
	stored = ga_delta_store(hash, nbytes, &look->base, mask, previous->leaves, previous->base_leaves, width, true,
							Min(pays, average));
	/* From a chain that has only become too long nothing follows for other chunks. */
	if (stored < 0 && pays <= average)
		previous->known->skip = (SAMPLE + 1) * nbytes;
	return stored;
}

size_t
ga_previous_store(GaPrevious *previous, uint64 number, const char *data, size_t nbytes, int width, const GaHash *hash)
{
	Look		look = {.previous = previous,.number = number,.nbytes = nbytes};
	int64		stored;

	if (previous == NULL || previous->useless || number >= previous->reader->nchunks ||
		ga_tree_span(previous->reader->nbytes, 0, number) != nbytes)
		return ga_chunk_store(data, nbytes, width, hash);
	if (previous->known->skip > 0)
		return store_whole(previous, data, nbytes, width, hash);
	if (ga_chunk_exists(hash, nbytes))
		return 0;
	if (ga_store_attempt(load_base, &look) != NULL)
		previous->useless = true;
	else if (look.base_size > 0 && (stored = store_delta(&look, data, width, hash)) >= 0)
		return stored;
	return store_whole(previous, data, nbytes, width, hash);
}
