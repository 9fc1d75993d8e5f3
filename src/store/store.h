/*
 * store.h
 *		The content-addressed tensor store (schema gpuagent_store): streaming
 *		writer and reader. A tensor passes through in pieces of 1 MiB; nobody
 *		ever holds it whole.
 *
 * All access goes through SPI; callers are connected to SPI (SPI_connect).
 * Rows are inserted as the owner of the store's tables, after the content hash
 * was computed here, so a caller needs no INSERT right on them. Reads run with
 * the caller's own rights.
 */
#ifndef GA_STORE_H
#define GA_STORE_H

#include "base/compat.h"
#include "tensor/tensor.h"

#define GA_HASH_LEN 32
#define GA_LEAF_SIZE (64 * 1024)
#define GA_CHUNK_SIZE (1024 * 1024)
#define GA_NODE_FANOUT 64

typedef struct GaHash
{
	uint8		bytes[GA_HASH_LEN];
} GaHash;

/* ---- hash.c: identities; test vectors are in doc/formats.md ---- */

extern void ga_hash_chunk(const char *data, size_t nbytes, GaHash *hash);
extern void ga_hash_node(uint64 nbytes, int nchildren, const GaHash *children, GaHash *hash);
extern void ga_hash_tensor(int dtype, int ndim, const int64 *dims, const GaHash *root, GaHash *hash);

/* ---- writer.c ---- */

typedef struct GaWriter GaWriter;

/*
 * Begins a tensor of known dtype and shape. Memory is taken from the current
 * context. Bytes may arrive in pieces of any size; finish() fails (22023) when
 * their number is not what the shape says.
 */
extern GaWriter *ga_writer_begin(int dtype, int ndim, const int64 *dims);
extern void ga_writer_write(GaWriter *writer, const char *data, size_t nbytes);
extern void ga_writer_finish(GaWriter *writer, GaHash *tensor);

/* Chunk bytes that were new to the store, as stored (after compression). */
extern uint64 ga_writer_new_bytes(const GaWriter *writer);

/* ---- reader.c ---- */

typedef struct GaReader
{
	GaHash		tensor;
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];
	uint64		nbytes;
	uint64		nchunks;
	struct GaReaderState *state;
} GaReader;

/* Opens a tensor; ERROR 42704 when the store does not have it. */
extern GaReader *ga_reader_open(const GaHash *tensor);

/*
 * Copies raw bytes [offset, offset + nbytes) to dst. Every chunk read is checked against
 * its length; with `verify` also against its hash (XX001).
 */
extern void ga_reader_read(GaReader *reader, uint64 offset, uint64 nbytes, char *dst, bool verify);
extern void ga_reader_close(GaReader *reader);

/* Parameters: bytea of exactly 32 bytes (22023). */
extern void ga_hash_from_datum(Datum value, GaHash *hash);
extern Datum ga_hash_to_datum(const GaHash *hash);

#endif							/* GA_STORE_H */
