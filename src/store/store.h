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
#define GA_CHUNK_LEAVES (GA_CHUNK_SIZE / GA_LEAF_SIZE)
#define GA_NODE_FANOUT 64

typedef struct GaHash
{
	uint8		bytes[GA_HASH_LEN];
} GaHash;

/* ---- hash.c: identities; test vectors are in doc/formats.md ---- */

extern void ga_hash_chunk(const char *data, size_t nbytes, GaHash *hash);

/* SHA-256 of consecutive leaves, and the chunk of so many bytes that has these leaves. */
extern void ga_hash_leaves(const char *data, size_t nbytes, GaHash *leaves);
extern void ga_hash_chunk_of_leaves(size_t nbytes, const GaHash *leaves, GaHash *hash);
extern void ga_hash_node(uint64 nbytes, int nchildren, const GaHash *children, GaHash *hash);
extern void ga_hash_tensor(int dtype, int ndim, const int64 *dims, const GaHash *root, GaHash *hash);

/* Lower-case hexadecimal, for messages. */
extern char *ga_hash_text(const GaHash *hash);

/* Parameters: bytea of exactly 32 bytes (22023). */
extern void ga_hash_from_datum(Datum value, GaHash *hash);
extern Datum ga_hash_to_datum(const GaHash *hash);

/* ---- chunk.c: rows of the tables chunk, node and tensor ---- */

/*
 * Stores a chunk (1 byte to 1 MiB) unless a committed or own one is visible.
 * width is the stride of the byte shuffle. Returns the bytes that the new row
 * holds, 0 when nothing was inserted.
 */
extern size_t ga_chunk_store(const char *data, size_t nbytes, int width, const GaHash *hash);

/* Raw size of a stored chunk, 0 when it is missing. A chunk that is stored as a delta (delta.h) counts, with its base. */
extern size_t ga_chunk_size(const GaHash *hash);

/*
 * Decodes a chunk into dst, which takes nbytes. ERROR XX001 when it is missing, has another size,
 * does not decode, does not have its checksum or (verify) its hash.
 */
extern void ga_chunk_load(const GaHash *hash, size_t nbytes, char *dst, bool verify);

extern void ga_node_store(uint64 nbytes, int nchildren, const GaHash *children, const GaHash *hash);

/* Children of a node, their number; ERROR XX001 when it is missing or covers another size. */
extern int	ga_node_load(const GaHash *hash, uint64 nbytes, GaHash *children);

/* True when it was not there. */
extern bool ga_tensor_row_store(int dtype, int ndim, const int64 *dims, uint64 nbytes,
								const GaHash *root, const GaHash *hash);

/* False when the store does not have the tensor. */
extern bool ga_tensor_row_load(const GaHash *hash, int *dtype, int *ndim, int64 *dims, uint64 *nbytes, GaHash *root);

/* ---- tree.c: chunk hashes of a tensor as a tree of fanout 64 ---- */

#define GA_MAX_LEVELS 9			/* 64^8 MiB is beyond the 2^63 bytes of a shape */

/* Raw bytes below entry i of a level; level 0 = chunks. */
extern uint64 ga_tree_span(uint64 nbytes, int level, uint64 i);

/* A tree that is built from left to right: of each level, the entries that no node holds yet. */
typedef struct GaSpine
{
	uint64		nbytes;			/* of the whole tensor */
	bool		store;			/* store nodes as they become full */
	uint64		done[GA_MAX_LEVELS];	/* entries so far */
	int			npending[GA_MAX_LEVELS];
	GaHash		pending[GA_MAX_LEVELS][GA_NODE_FANOUT];
} GaSpine;

extern void ga_spine_begin(GaSpine *spine, uint64 nbytes, bool store);
extern void ga_spine_push(GaSpine *spine, const GaHash *chunk);

/* The root, once every chunk was pushed; of none, the chunk of no bytes. */
extern void ga_spine_finish(GaSpine *spine, GaHash *root);

/* ---- writer.c ---- */

typedef struct GaWriter GaWriter;

/*
 * Begins a tensor of known dtype and shape. Memory is taken from the context
 * that is current now, whatever is current later. Bytes may arrive in pieces of any size; finish() fails (22023) when
 * their number is not what the shape says.
 */
extern GaWriter *ga_writer_begin(int dtype, int ndim, const int64 *dims);
extern void ga_writer_write(GaWriter *writer, const char *data, size_t nbytes);
extern void ga_writer_finish(GaWriter *writer, GaHash *tensor);

/*
 * Names a tensor, such as the version before, that the one being written may differ little from: its chunks may then be
 * stored as deltas of that one's (previous.c). Nothing has to be true of it; NULL: there is none.
 */
extern void ga_writer_previous(GaWriter *writer, const GaHash *tensor);
/* Whoever continues or changes a stored tensor relies on its rows: both functions below make it safe first (doom.h). */

/* Continues a stored tensor: its rows stay, dims[0] grows; only its last chunk and one node per level are read again. */
extern GaWriter *ga_writer_append(const GaHash *base, const int64 *dims);

/* A tensor equal to base but for the raw bytes [offset, offset + nbytes). */
extern void ga_store_patch(const GaHash *base, uint64 offset, const char *data, uint64 nbytes, GaHash *tensor);

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

/* Opens a tensor, in the current memory context; ERROR 42704 when the store does not have it. */
extern GaReader *ga_reader_open(const GaHash *tensor);

/*
 * Copies raw bytes [offset, offset + nbytes) to dst. Every chunk read is checked against
 * its length and checksum; with `verify` also against its hash (XX001).
 */
extern void ga_reader_read(GaReader *reader, uint64 offset, uint64 nbytes, char *dst, bool verify);
extern void ga_reader_close(GaReader *reader);

/* Root hash of the tensor. */
extern void ga_reader_root(GaReader *reader, GaHash *root);

/* Hash of entry i (0-based) of a level of the tensor's tree. */
extern void ga_reader_entry_hash(GaReader *reader, int level, uint64 i, GaHash *hash);

/* Children of node i of a level >= 1; their number. */
extern int	ga_reader_children(GaReader *reader, int level, uint64 i, GaHash *children);

/* Hash of the i-th chunk (0-based). */
extern void ga_reader_chunk_hash(GaReader *reader, uint64 i, GaHash *hash);

/*
 * writer.c: replaces n chunks of the reader's tensor, by number in ascending order, whose new hashes these are, and stores the
 * nodes above them that are new, and the tensor. Overwrites both arrays. The caller has called ga_tensor_require (doom.h).
 */
extern void ga_store_replace(GaReader *reader, uint64 *numbers, GaHash *hashes, uint64 n, GaHash *tensor);

/*
 * Runs work(arg) in a subtransaction, so that damage (XX001) and what is missing (42704) are answers and not errors:
 * NULL, or what is wrong. What it allocates in the current context stays only when it says so by an older context.
 */
extern char *ga_store_attempt(void (*work) (void *arg), void *arg);

/*
 * NULL when every row below the tensor is present and, with `contents`, decodes
 * and has its hash; else what is wrong.
 */
extern char *ga_tensor_problem(const GaHash *tensor, bool contents);

#endif							/* GA_STORE_H */
