/*
 * doom.h
 *		What writers owe garbage collection (collect.c has the protocol and its
 *		proof). In short: who will refer to a row of the store that is there
 *		already gets its transaction id first, then looks whether the hash is
 *		doomed, then whether the row is there. What is doomed counts as absent.
 */
#ifndef GA_DOOM_H
#define GA_DOOM_H

#include "base/compat.h"
#include "store/store.h"

/*
 * True when the hash is doomed, under the newest snapshot. Takes a transaction id, except where nothing can be written.
 * SPI is connected.
 */
extern bool ga_doomed(const GaHash *hash);

/* False when nothing is doomed, nor will be before this transaction has ended. Takes a transaction id as ga_doomed does. */
extern bool ga_doom_pending(void);

/*
 * Makes a stored tensor safe to be referred to by this transaction: what of it is doomed is copied. False when the store
 * does not have it (any more). SPI is connected.
 */
extern bool ga_tensor_keep(const GaHash *tensor);

/* The same; 42704 when the store does not have it. */
extern void ga_tensor_require(const GaHash *tensor);

/* The same for a chunk, in whatever form; its raw size, 0 when it is missing. */
extern size_t ga_chunk_keep(const GaHash *chunk);

/* Notes that a client has been told that these are there: they stay for gpuagent.collect_grace. Best effort where nothing can be written. */
extern void ga_upload_note(const GaHash *hash);

#endif							/* GA_DOOM_H */
