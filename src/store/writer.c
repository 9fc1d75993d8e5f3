/*
 * writer.c
 *		Streams a tensor into the store, 1 MiB at a time.
 */
#include "base/compat.h"

#include "miscadmin.h"
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
	GaHash	   *chunks;			/* of the full chunks so far */
	uint64		nchunks;
	GaTree		base;			/* nlevels 0: none */
	size_t		fill;
	char	   *buffer;			/* GA_CHUNK_SIZE */
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
	return w;
}

static void
push_hash(GaWriter *w, const GaHash *hash)
{
	/* Grown as chunks arrive: a shape alone must not reserve memory. */
	if (w->chunks == NULL)
		w->chunks = MemoryContextAlloc(w->context, sizeof(GaHash) * 64);
	else if (w->nchunks >= 64 && (w->nchunks & (w->nchunks - 1)) == 0)
		w->chunks = repalloc_huge(w->chunks, sizeof(GaHash) * w->nchunks * 2);
	w->chunks[w->nchunks++] = *hash;
}

static void
store_piece(GaWriter *w, const char *data, size_t nbytes)
{
	GaHash		hash;

	CHECK_FOR_INTERRUPTS();
	ga_hash_chunk(data, nbytes, &hash);
	w->new_bytes += ga_chunk_store(data, nbytes, ga_dtype_info(w->dtype)->width, &hash);
	push_hash(w, &hash);
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
	if (w->nchunks == 0)
		ga_hash_chunk(NULL, 0, &root);
	else
		ga_tree_store(w->nbytes, w->chunks, w->base.nlevels ? &w->base : NULL, &root);
	ga_hash_tensor(w->dtype, w->ndim, w->dims, &root, tensor);
	ga_tensor_row_store(w->dtype, w->ndim, w->dims, w->nbytes, &root, tensor);
	if (w->buffer)
		pfree(w->buffer);
	w->buffer = NULL;
}

uint64
ga_writer_new_bytes(const GaWriter *w)
{
	return w->new_bytes;
}

GaWriter *
ga_writer_append(const GaHash *base, const int64 *dims)
{
	GaReader   *reader = ga_reader_open(base);
	GaWriter   *w = ga_writer_begin(reader->dtype, reader->ndim, dims);
	size_t		tail = reader->nbytes % GA_CHUNK_SIZE;

	if (reader->nbytes > 0)
	{
		GaHash		root;

		ga_reader_root(reader, &root);
		ga_tree_load(&root, reader->nbytes, &w->base);
		for (uint64 i = 0; i < reader->nbytes / GA_CHUNK_SIZE; i++)
			push_hash(w, &w->base.hash[0][i]);
		if (tail > 0)
		{
			w->buffer = palloc(GA_CHUNK_SIZE);
			ga_reader_read(reader, reader->nbytes - tail, tail, w->buffer, false);
			w->fill = tail;
		}
		w->written = reader->nbytes;
	}
	ga_reader_close(reader);
	return w;
}

void
ga_store_patch(const GaHash *base, uint64 offset, const char *data, uint64 nbytes, GaHash *tensor)
{
	GaReader   *reader = ga_reader_open(base);
	GaTree		tree;
	GaHash		root;
	GaHash	   *chunks;
	char	   *buffer;

	if (offset > reader->nbytes || nbytes > reader->nbytes - offset)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("bytes " UINT64_FORMAT " to " UINT64_FORMAT " are outside a tensor of " UINT64_FORMAT " bytes",
						offset, offset + nbytes, reader->nbytes)));
	ga_reader_root(reader, &root);
	if (nbytes > 0)
	{
		ga_tree_load(&root, reader->nbytes, &tree);
		chunks = palloc_extended(sizeof(GaHash) * tree.count[0], MCXT_ALLOC_HUGE);
		memcpy(chunks, tree.hash[0], sizeof(GaHash) * tree.count[0]);
		buffer = palloc(GA_CHUNK_SIZE);
		for (uint64 i = offset / GA_CHUNK_SIZE; i <= (offset + nbytes - 1) / GA_CHUNK_SIZE; i++)
		{
			uint64		begin = i * GA_CHUNK_SIZE;
			size_t		size = ga_tree_span(reader->nbytes, 0, i);
			uint64		from = Max(begin, offset);
			uint64		to = Min(begin + size, offset + nbytes);

			if (to - from < size)
				ga_chunk_load(&chunks[i], size, buffer, false);
			memcpy(buffer + (from - begin), data + (from - offset), to - from);
			ga_hash_chunk(buffer, size, &chunks[i]);
			ga_chunk_store(buffer, size, ga_dtype_info(reader->dtype)->width, &chunks[i]);
		}
		ga_tree_store(reader->nbytes, chunks, &tree, &root);
		pfree(buffer);
	}
	ga_hash_tensor(reader->dtype, reader->ndim, reader->dims, &root, tensor);
	ga_tensor_row_store(reader->dtype, reader->ndim, reader->dims, reader->nbytes, &root, tensor);
	ga_reader_close(reader);
}
