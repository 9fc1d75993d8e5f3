/*
 * delta.h
 *		Chunks stored as what differs from another one: rows of the table
 *		chunk_delta. Its base is a row of chunk, never a delta, and of the same
 *		size. Deltas never leave the node: the hash is that of the content, so
 *		whoever reads a chunk does not notice how it is stored.
 *
 * A delta needs its base for as long as it is needed itself.
 */
#ifndef GA_DELTA_H
#define GA_DELTA_H

#include "base/compat.h"
#include "store/store.h"

/* ---- chunk.c ---- */

/* Bytes as a row has them: codec 1 compressed, when that is wanted, allowed and gains, else codec 0. */
extern bytea *ga_chunk_pack(const char *data, size_t nbytes, int width, bool compress, int *codec);

/* ga_chunk_store, with a choice. */
extern size_t ga_chunk_store_packed(const char *data, size_t nbytes, int width, const GaHash *hash, bool compress);

/* For writers (doom.h): true when the chunk is there in some form and may be referred to. */
extern bool ga_chunk_exists(const GaHash *hash, size_t nbytes);

/* Stores a chunk whose row has these packed bytes, of which data is the content, unless it is there in some form. */
extern size_t ga_chunk_store_as_is(const GaHash *hash, const char *data, size_t nbytes, bytea *packed, int codec, int width);

/*
 * A chunk as a row of its own holds it, or would hold it; its content, checked against its hash, in raw (GA_CHUNK_SIZE).
 * ERROR XX001 when it is missing or damaged.
 */
extern bytea *ga_chunk_fetch_packed(const GaHash *hash, char *raw, size_t *nbytes, int *codec, int *width);

/* The inverse; NULL, or what is wrong with them. */
extern const char *ga_chunk_unpack(Datum packed, int codec, int width, char *dst, size_t nbytes);

/* Raw size of a chunk that has a row of its own, 0 when there is none; *stored: bytes that the row takes. */
extern size_t ga_chunk_row_size(const GaHash *hash, size_t *stored);

/* Decodes the chunk's own row and checks its checksum; false when there is none. */
extern bool ga_chunk_load_row(const GaHash *hash, size_t nbytes, char *dst);

/* ---- delta.c ---- */

typedef enum GaDeltaMode
{
	GA_DELTA_REPLACE = 0,		/* data is the leaves that differ */
	GA_DELTA_XOR = 1			/* data is those, XORed with the base's */
} GaDeltaMode;

/* False in a database that has not had the step of setup() that makes the table: it has no deltas. */
extern bool ga_delta_ready(void);

/* Bytes of the leaves of a mask in a chunk of so many bytes; bit i stands for leaf i. */
extern size_t ga_delta_bytes(size_t nbytes, uint16 leaves);

/*
 * Stores a chunk as a delta unless it is there in some form. data: the leaves of the mask, one after the other;
 * base_data: those of the base, for mode XOR, else NULL. Returns the bytes that the new row holds, 0 when the chunk was
 * there already, -1 when the row would take `limit` bytes or more and was not stored. The caller knows from ga_delta_base_size,
 * asked in this transaction, that the base may be one.
 */
extern int64 ga_delta_store(const GaHash *hash, size_t nbytes, const GaHash *base, uint16 leaves, const char *data,
							const char *base_data, int width, bool compress, size_t limit);

/* What a delta is made of; false when the chunk is not stored as one. */
extern bool ga_delta_find(const GaHash *hash, GaHash *base, uint16 *leaves);

/* Raw size of a chunk that is stored as a delta and whose base is there, else 0. */
extern size_t ga_delta_size(const GaHash *hash);

/* For writers, as the owner of the table: true when the chunk is stored as a delta and its base is there (see ga_table_present). */
extern bool ga_delta_exists(const GaHash *hash, size_t nbytes);

/*
 * For writers: bytes that the chunk's own row holds when it may become the base of a delta, else 0. It must have a row of
 * that size, no row as a delta (it may be about to lose its own one), and must not be doomed (doom.h). Assigns a transaction id
 * before it looks, under a snapshot of now, so that who removes rows waits for what is found here (compact.c).
 */
extern size_t ga_delta_base_size(const GaHash *base, size_t nbytes);

/* Deltas that name a base, at most GA_DELTA_MAX, and the bytes of their rows. */
#define GA_DELTA_MAX 64
extern int	ga_delta_count(const GaHash *base, uint64 *bytes);

/* Checksum of a row: of its base, its mask and the leaves as they are in the content. */
extern uint32 ga_delta_checksum(const GaHash *base, uint16 leaves, const char *data, size_t size);

/* Leaves that differ, as a mask. */
extern uint16 ga_delta_mask(const char *a, const char *b, size_t nbytes);

/* The leaves of a mask, one after the other; returns their bytes. */
extern size_t ga_delta_leaves(const char *data, size_t nbytes, uint16 leaves, char *out);

/* Decodes a chunk that is stored as a delta; false when it is not; ERROR XX001 when it or its base is damaged. */
extern bool ga_delta_load(const GaHash *hash, size_t nbytes, char *dst);

/* ---- previous.c: chunks of a tensor as deltas of those at the same place of another ---- */

typedef struct GaPrevious GaPrevious;

/* Memory of the current context; NULL when there is nothing to be had from that tensor. */
extern GaPrevious *ga_previous_open(const GaHash *tensor);
extern void ga_previous_close(GaPrevious *previous);

/* As ga_chunk_store, for chunk `number` of the tensor; previous may be NULL. */
extern size_t ga_previous_store(GaPrevious *previous, uint64 number, const char *data, size_t nbytes, int width,
								const GaHash *hash);

#endif							/* GA_DELTA_H */
