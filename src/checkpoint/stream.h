/*
 * stream.h
 *		Stored tensors into a file of the tree, by several processes.
 */
#ifndef GA_CHECKPOINT_STREAM_H
#define GA_CHECKPOINT_STREAM_H

#include "checkpoint/tree.h"
#include "store/parallel.h"

/*
 * Appends the raw bytes of tensors, one after another, with the checksum of every chunk checked but not its hash: the
 * file's own SHA-256 is computed over the same bytes, and a second one would cost half of the rest. No other process may
 * have the file open, and path is the one that it was created with. Connected to SPI.
 */
extern void ga_stream_tensors(GaFile *file, const char *path, const GaParallelTensor *tensors, int ntensors);

#endif							/* GA_CHECKPOINT_STREAM_H */
