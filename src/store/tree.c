/*
 * tree.c
 *		The tree between a tensor and its chunks: fanout 64, so that a new version
 *		of a 10 GB tensor with one dirty chunk writes a handful of rows.
 *
 * The shape of the tree follows from the number of bytes alone: level 0 are the
 * chunks, entry i of level l covers chunks [i * 64^l, (i + 1) * 64^l), and the
 * level with one entry is the last.
 */
#include "base/compat.h"

#include "store/store.h"

uint64
ga_tree_span(uint64 nbytes, int level, uint64 i)
{
	/* One entry of the last possible level covers more than 64 bits can count. */
	uint64		span = level < GA_MAX_LEVELS - 1 ? (uint64) GA_CHUNK_SIZE << (6 * level) : PG_UINT64_MAX;

	return Min(span, nbytes - i * span);
}

void
ga_spine_begin(GaSpine *spine, uint64 nbytes, bool store)
{
	memset(spine->done, 0, sizeof spine->done);
	memset(spine->npending, 0, sizeof spine->npending);
	spine->nbytes = nbytes;
	spine->store = store;
}

static void push(GaSpine *spine, int level, const GaHash *hash);

/* Makes a node of the pending entries of a level. */
static void
close_node(GaSpine *spine, int level)
{
	uint64		span = ga_tree_span(spine->nbytes, level + 1, spine->done[level + 1]);
	GaHash		node;

	ga_hash_node(span, spine->npending[level], spine->pending[level], &node);
	if (spine->store)
		ga_node_store(span, spine->npending[level], spine->pending[level], &node);
	spine->npending[level] = 0;
	push(spine, level + 1, &node);
}

static void
push(GaSpine *spine, int level, const GaHash *hash)
{
	Assert(level < GA_MAX_LEVELS);
	spine->pending[level][spine->npending[level]++] = *hash;
	spine->done[level]++;
	if (spine->npending[level] == GA_NODE_FANOUT)
		close_node(spine, level);
}

void
ga_spine_push(GaSpine *spine, const GaHash *chunk)
{
	push(spine, 0, chunk);
}

void
ga_spine_finish(GaSpine *spine, GaHash *root)
{
	int			level = 0;

	if (spine->done[0] == 0)
	{
		ga_hash_chunk(NULL, 0, root);
		return;
	}
	while (spine->done[level] > 1)
	{
		if (spine->npending[level] > 0)
			close_node(spine, level);
		level++;
	}
	*root = spine->pending[level][0];
}
