/*
 * tree.c
 *		The tree between a tensor and its chunks: fanout 64, so that a new version
 *		of a 10 GB tensor with one dirty chunk writes a handful of rows.
 *
 * The shape of the tree follows from the number of bytes alone: level 0 are the
 * chunks, entry i of level l covers chunks [i * 64^l, (i + 1) * 64^l).
 */
#include "base/compat.h"

#include "store/store.h"

uint64
ga_tree_span(uint64 nbytes, int level, uint64 i)
{
	uint64		span = (uint64) GA_CHUNK_SIZE << (6 * level);

	return Min(span, nbytes - i * span);
}

/* Number of levels and of entries of each. An empty tensor has one level with one (virtual) chunk. */
static void
tree_shape(uint64 nbytes, GaTree *tree)
{
	uint64		n = Max((nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE, 1);

	tree->nbytes = nbytes;
	tree->nlevels = 0;
	for (;;)
	{
		Assert(tree->nlevels < GA_MAX_LEVELS);
		tree->count[tree->nlevels++] = n;
		if (n == 1)
			break;
		n = (n + GA_NODE_FANOUT - 1) / GA_NODE_FANOUT;
	}
}

void
ga_tree_load(const GaHash *root, uint64 nbytes, GaTree *tree)
{
	int			top;

	tree_shape(nbytes, tree);
	for (int l = 0; l < tree->nlevels; l++)
		tree->hash[l] = palloc_extended(sizeof(GaHash) * tree->count[l], MCXT_ALLOC_HUGE);
	top = tree->nlevels - 1;
	tree->hash[top][0] = *root;
	for (int l = top; l > 0; l--)
		for (uint64 i = 0; i < tree->count[l]; i++)
		{
			uint64		first = i * GA_NODE_FANOUT;
			int			expected = Min(GA_NODE_FANOUT, tree->count[l - 1] - first);
			GaHash		children[GA_NODE_FANOUT];

			if (ga_node_load(&tree->hash[l][i], ga_tree_span(nbytes, l, i), children) != expected)
				ereport(ERROR,
						(errcode(ERRCODE_DATA_CORRUPTED),
						 errmsg("node %s of the store is damaged", ga_hash_text(&tree->hash[l][i])),
						 errdetail("It should have %d children.", expected)));
			memcpy(&tree->hash[l - 1][first], children, sizeof(GaHash) * expected);
		}
}

void
ga_tree_store(uint64 nbytes, const GaHash *chunks, const GaTree *base, GaHash *root)
{
	GaTree		tree;
	const GaHash *below = chunks;

	tree_shape(nbytes, &tree);
	for (int l = 1; l < tree.nlevels; l++)
	{
		tree.hash[l] = palloc_extended(sizeof(GaHash) * tree.count[l], MCXT_ALLOC_HUGE);
		for (uint64 i = 0; i < tree.count[l]; i++)
		{
			uint64		first = i * GA_NODE_FANOUT;
			int			n = Min(GA_NODE_FANOUT, tree.count[l - 1] - first);
			uint64		span = ga_tree_span(nbytes, l, i);

			ga_hash_node(span, n, below + first, &tree.hash[l][i]);
			if (base == NULL || l >= base->nlevels || i >= base->count[l] ||
				memcmp(&tree.hash[l][i], &base->hash[l][i], sizeof(GaHash)) != 0)
				ga_node_store(span, n, below + first, &tree.hash[l][i]);
		}
		below = tree.hash[l];
	}
	*root = below[0];
}
