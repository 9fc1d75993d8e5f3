/*
 * writer.c
 *		Streams a tensor into the store, 1 MiB at a time.
 */
#include "base/compat.h"

#include "miscadmin.h"
#include "store/delta.h"
#include "store/doom.h"
#include "store/store.h"

struct GaWriter
{
	MemoryContext context;
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];
	uint64		nbytes;			/* of the whole tensor */
	uint64		written;
	uint64		new_bytes;
	GaSpine		spine;
	size_t		fill;
	char	   *buffer;			/* GA_CHUNK_SIZE */
	GaPrevious *previous;
};

GaWriter *
ga_writer_begin(int dtype, int ndim, const int64 *dims)
{
	GaWriter   *w = palloc0(sizeof(GaWriter));
	uint64		nelem;

	if (!ga_shape_size(dtype, ndim, dims, &nelem, &w->nbytes) || w->nbytes > PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid shape %s for dtype %s", ga_shape_text(ndim, dims), ga_dtype_name(dtype))));
	w->context = CurrentMemoryContext;
	w->dtype = dtype;
	w->ndim = ndim;
	memcpy(w->dims, dims, sizeof(int64) * ndim);
	ga_spine_begin(&w->spine, w->nbytes, true);
	return w;
}

void
ga_writer_previous(GaWriter *w, const GaHash *tensor)
{
	MemoryContext old = MemoryContextSwitchTo(w->context);

	w->previous = tensor ? ga_previous_open(tensor) : NULL;
	MemoryContextSwitchTo(old);
}

static void
store_piece(GaWriter *w, const char *data, size_t nbytes)
{
	GaHash		hash;

	CHECK_FOR_INTERRUPTS();
	ga_hash_chunk(data, nbytes, &hash);
	w->new_bytes += ga_previous_store(w->previous, w->spine.done[0], data, nbytes, ga_dtype_info(w->dtype)->width, &hash);
	ga_spine_push(&w->spine, &hash);
}

void
ga_writer_write(GaWriter *w, const char *data, size_t nbytes)
{
	if (nbytes > w->nbytes - w->written)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("more than " UINT64_FORMAT " bytes were given for %s%s", w->nbytes,
						ga_dtype_name(w->dtype), ga_shape_text(w->ndim, w->dims))));
	w->written += nbytes;
	while (nbytes > 0)
	{
		size_t		take;

		if (w->fill == 0 && nbytes >= GA_CHUNK_SIZE)
		{
			store_piece(w, data, GA_CHUNK_SIZE);
			data += GA_CHUNK_SIZE;
			nbytes -= GA_CHUNK_SIZE;
			continue;
		}
		if (w->buffer == NULL)
			w->buffer = MemoryContextAlloc(w->context, GA_CHUNK_SIZE);
		take = Min(nbytes, GA_CHUNK_SIZE - w->fill);
		memcpy(w->buffer + w->fill, data, take);
		w->fill += take;
		data += take;
		nbytes -= take;
		if (w->fill == GA_CHUNK_SIZE)
		{
			store_piece(w, w->buffer, GA_CHUNK_SIZE);
			w->fill = 0;
		}
	}
}

void
ga_writer_finish(GaWriter *w, GaHash *tensor)
{
	GaHash		root;

	if (w->written != w->nbytes)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(UINT64_FORMAT " bytes were given, %s%s takes " UINT64_FORMAT, w->written,
						ga_dtype_name(w->dtype), ga_shape_text(w->ndim, w->dims), w->nbytes)));
	if (w->fill > 0)
		store_piece(w, w->buffer, w->fill);
	ga_spine_finish(&w->spine, &root);
	ga_hash_tensor(w->dtype, w->ndim, w->dims, &root, tensor);
	ga_tensor_row_store(w->dtype, w->ndim, w->dims, w->nbytes, &root, tensor);
	if (w->buffer)
		pfree(w->buffer);
	w->buffer = NULL;
	ga_previous_close(w->previous);
	w->previous = NULL;
}

uint64
ga_writer_new_bytes(const GaWriter *w)
{
	return w->new_bytes;
}

GaWriter *
ga_writer_append(const GaHash *base, const int64 *dims)
{
	GaReader   *reader;
	GaWriter   *w;
	size_t		tail;
	uint64		whole;

	ga_tensor_require(base);
	reader = ga_reader_open(base);
	w = ga_writer_begin(reader->dtype, reader->ndim, dims);
	tail = reader->nbytes % GA_CHUNK_SIZE;
	whole = reader->nbytes / GA_CHUNK_SIZE;

	/* Entries of full size stay; of each level, those that share a node with the first one that does not. */
	for (int l = 0; whole > 0; l++, whole /= GA_NODE_FANOUT)
	{
		w->spine.done[l] = whole;
		w->spine.npending[l] = whole % GA_NODE_FANOUT;
		for (int i = 0; i < w->spine.npending[l]; i++)
			ga_reader_entry_hash(reader, l, whole - w->spine.npending[l] + i, &w->spine.pending[l][i]);
	}
	if (tail > 0)
	{
		w->buffer = palloc(GA_CHUNK_SIZE);
		ga_reader_read(reader, reader->nbytes - tail, tail, w->buffer, false);
		w->fill = tail;
	}
	w->written = reader->nbytes;
	ga_reader_close(reader);
	return w;
}

/* What ga_store_replace does but for the tensor's row; gives the root. */
static void
replace_chunks(GaReader *reader, uint64 *numbers, GaHash *hashes, uint64 n, GaHash *root)
{
	GaHash		children[GA_NODE_FANOUT];
	uint64		count = reader->nchunks;

	for (int l = 1; count > 1; l++, count = (count + GA_NODE_FANOUT - 1) / GA_NODE_FANOUT)
	{
		uint64		parents = 0;

		for (uint64 i = 0; i < n;)
		{
			uint64		parent = numbers[i] / GA_NODE_FANOUT;
			int			nchildren = ga_reader_children(reader, l, parent, children);
			uint64		span = ga_tree_span(reader->nbytes, l, parent);
			GaHash		before,
						after;

			for (; i < n && numbers[i] / GA_NODE_FANOUT == parent; i++)
				children[numbers[i] % GA_NODE_FANOUT] = hashes[i];
			ga_hash_node(span, nchildren, children, &after);
			ga_reader_entry_hash(reader, l, parent, &before);
			if (memcmp(&after, &before, sizeof before) != 0)
				ga_node_store(span, nchildren, children, &after);
			/* In place: the entries that later nodes need lie further on. */
			numbers[parents] = parent;
			hashes[parents++] = after;
		}
		n = parents;
	}
	*root = hashes[0];
}

static void
store_with_root(const GaReader *reader, const GaHash *root, GaHash *tensor)
{
	ga_hash_tensor(reader->dtype, reader->ndim, reader->dims, root, tensor);
	ga_tensor_row_store(reader->dtype, reader->ndim, reader->dims, reader->nbytes, root, tensor);
}

void
ga_store_replace(GaReader *reader, uint64 *numbers, GaHash *hashes, uint64 n, GaHash *tensor)
{
	GaHash		root;

	if (n > 0)
		replace_chunks(reader, numbers, hashes, n, &root);
	else
		ga_reader_root(reader, &root);
	store_with_root(reader, &root, tensor);
}

void
ga_store_patch(const GaHash *base, uint64 offset, const char *data, uint64 nbytes, GaHash *tensor)
{
	GaReader   *reader;
	GaHash		root;

	ga_tensor_require(base);
	reader = ga_reader_open(base);
	if (offset > reader->nbytes || nbytes > reader->nbytes - offset)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("bytes " UINT64_FORMAT " to " UINT64_FORMAT " are outside a tensor of " UINT64_FORMAT " bytes",
						offset, offset + nbytes, reader->nbytes)));
	ga_reader_root(reader, &root);
	if (nbytes > 0)
	{
		uint64		first = offset / GA_CHUNK_SIZE;
		uint64		last = (offset + nbytes - 1) / GA_CHUNK_SIZE;
		GaHash	   *hashes = palloc_extended(sizeof(GaHash) * (last - first + 1), MCXT_ALLOC_HUGE);
		uint64	   *numbers = palloc_extended(sizeof(uint64) * (last - first + 1), MCXT_ALLOC_HUGE);
		char	   *buffer = palloc(GA_CHUNK_SIZE);
		GaPrevious *previous = ga_previous_open(base);

		for (uint64 i = first; i <= last; i++)
		{
			uint64		begin = i * GA_CHUNK_SIZE;
			size_t		size = ga_tree_span(reader->nbytes, 0, i);
			uint64		from = Max(begin, offset);
			uint64		to = Min(begin + size, offset + nbytes);
			GaHash	   *hash = &hashes[i - first];

			if (to - from < size)
				ga_reader_read(reader, begin, size, buffer, false);
			memcpy(buffer + (from - begin), data + (from - offset), to - from);
			ga_hash_chunk(buffer, size, hash);
			ga_previous_store(previous, i, buffer, size, ga_dtype_info(reader->dtype)->width, hash);
			numbers[i - first] = i;
		}
		replace_chunks(reader, numbers, hashes, last - first + 1, &root);
		ga_previous_close(previous);
		pfree(numbers);
		pfree(buffer);
		pfree(hashes);
	}
	store_with_root(reader, &root, tensor);
	ga_reader_close(reader);
}
