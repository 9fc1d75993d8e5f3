/*
 * reader.c
 *		Reads ranges of a stored tensor. The path from the root to the chunk at
 *		hand is kept, so that a sequential read loads every node once and a read
 *		of one row loads one node per level.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "store/store.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

typedef struct PathNode
{
	uint64		index;			/* which entry of its level; valid when nchildren > 0 */
	int			nchildren;
	GaHash		children[GA_NODE_FANOUT];
} PathNode;

typedef struct GaReaderState
{
	GaHash		root;
	int			top;			/* level of the root; 0 when it is a chunk */
	PathNode   *path[GA_MAX_LEVELS];	/* [l] is the node at level l */
	char	   *buffer;			/* the decoded chunk of a partial read */
	uint64		buffered;		/* its index, or UINT64_MAX */
	bool		buffer_verified;
} GaReaderState;

GaReader *
ga_reader_open(const GaHash *tensor)
{
	GaReader   *reader = palloc0(sizeof(GaReader));
	GaReaderState *state = palloc0(sizeof(GaReaderState));

	reader->tensor = *tensor;
	reader->state = state;
	state->buffered = PG_UINT64_MAX;
	if (!ga_tensor_row_load(tensor, &reader->dtype, &reader->ndim, reader->dims, &reader->nbytes, &state->root))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("tensor %s does not exist", ga_hash_text(tensor)),
				 errhint("Store its chunks and then call gpuagent.store_tensor().")));
	reader->nchunks = (reader->nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE;
	for (uint64 n = reader->nchunks; n > 1; n = (n + GA_NODE_FANOUT - 1) / GA_NODE_FANOUT)
		state->top++;
	return reader;
}

void
ga_reader_root(GaReader *reader, GaHash *root)
{
	*root = reader->state->root;
}

/* Node `index` of a level, from the path or the store. */
static const PathNode *
node_at(GaReader *reader, int level, uint64 index)
{
	PathNode   *node = reader->state->path[level];
	GaHash		hash;

	if (node == NULL)
		node = reader->state->path[level] = MemoryContextAllocZero(GetMemoryChunkContext(reader), sizeof(PathNode));
	if (node->nchildren == 0 || node->index != index)
	{
		node->nchildren = 0;
		ga_reader_entry_hash(reader, level, index, &hash);
		node->nchildren = ga_node_load(&hash, ga_tree_span(reader->nbytes, level, index), node->children);
		node->index = index;
	}
	return node;
}

void
ga_reader_entry_hash(GaReader *reader, int level, uint64 i, GaHash *hash)
{
	const PathNode *node;

	if (level == reader->state->top)
	{
		*hash = reader->state->root;
		return;
	}
	node = node_at(reader, level + 1, i / GA_NODE_FANOUT);
	if (i % GA_NODE_FANOUT >= node->nchildren)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("tensor %s of the store is damaged", ga_hash_text(&reader->tensor)),
				 errdetail("A node has too few children.")));
	*hash = node->children[i % GA_NODE_FANOUT];
}

int
ga_reader_children(GaReader *reader, int level, uint64 i, GaHash *children)
{
	const PathNode *node = node_at(reader, level, i);

	memcpy(children, node->children, sizeof(GaHash) * node->nchildren);
	return node->nchildren;
}

void
ga_reader_chunk_hash(GaReader *reader, uint64 i, GaHash *hash)
{
	Assert(i < reader->nchunks);
	ga_reader_entry_hash(reader, 0, i, hash);
}

void
ga_reader_read(GaReader *reader, uint64 offset, uint64 nbytes, char *dst, bool verify)
{
	GaReaderState *state = reader->state;

	Assert(offset <= reader->nbytes && nbytes <= reader->nbytes - offset);
	while (nbytes > 0)
	{
		uint64		i = offset / GA_CHUNK_SIZE;
		size_t		size = ga_tree_span(reader->nbytes, 0, i);
		size_t		skip = offset % GA_CHUNK_SIZE;
		size_t		take = Min(size - skip, nbytes);
		GaHash		hash;

		if (state->buffered == i && (state->buffer_verified || !verify))
			memcpy(dst, state->buffer + skip, take);
		else if (take == size)
		{
			ga_reader_chunk_hash(reader, i, &hash);
			ga_chunk_load(&hash, size, dst, verify);
		}
		else
		{
			if (state->buffer == NULL)
				state->buffer = MemoryContextAlloc(GetMemoryChunkContext(reader), GA_CHUNK_SIZE);
			ga_reader_chunk_hash(reader, i, &hash);
			state->buffered = PG_UINT64_MAX;
			ga_chunk_load(&hash, size, state->buffer, verify);
			state->buffered = i;
			state->buffer_verified = verify;
			memcpy(dst, state->buffer + skip, take);
		}
		offset += take;
		dst += take;
		nbytes -= take;
	}
}

void
ga_reader_close(GaReader *reader)
{
	for (int l = 0; l < GA_MAX_LEVELS; l++)
		if (reader->state->path[l])
			pfree(reader->state->path[l]);
	if (reader->state->buffer)
		pfree(reader->state->buffer);
	pfree(reader->state);
	pfree(reader);
}

/* Reads every chunk with its hash checked, or (!contents) looks only whether it has a row of its size; throws XX001 or 42704. */
static void
verify_tensor(const GaHash *tensor, bool contents)
{
	GaReader   *reader = ga_reader_open(tensor);
	char	   *buffer = palloc(GA_CHUNK_SIZE);

	for (uint64 i = 0; i < reader->nchunks; i++)
	{
		uint64		size = ga_tree_span(reader->nbytes, 0, i);
		GaHash		hash;

		if (contents)
		{
			ga_reader_read(reader, i * GA_CHUNK_SIZE, size, buffer, true);
			continue;
		}
		ga_reader_chunk_hash(reader, i, &hash);
		if (ga_chunk_size(&hash) != size)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("chunk %s of the store is missing or has another size", ga_hash_text(&hash))));
	}
	pfree(buffer);
	ga_reader_close(reader);
}

/* A subtransaction turns damage into an answer. Anything else (cancel, I/O) is passed on. */
char *
ga_store_attempt(void (*work) (void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "gpuagent attempt", ALLOCSET_DEFAULT_SIZES);
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile problem = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		/* Our subtransaction is over before this goes on, or a handler further out would end it instead of its own. */
		if (error->sqlerrcode != ERRCODE_DATA_CORRUPTED && error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT)
			ReThrowError(error);
		problem = error->detail ? psprintf("%s: %s", error->message, error->detail) : error->message;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	MemoryContextDelete(scratch);
	return problem;
}

typedef struct Verification
{
	const GaHash *tensor;
	bool		contents;
} Verification;

static void
verify(void *arg)
{
	const Verification *v = arg;

	verify_tensor(v->tensor, v->contents);
}

char *
ga_tensor_problem(const GaHash *tensor, bool contents)
{
	Verification v = {tensor, contents};

	return ga_store_attempt(verify, &v);
}
