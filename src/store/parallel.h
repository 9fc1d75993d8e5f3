/*
 * parallel.h
 *		Tensors of the store read by several processes at once: a leader, which is
 *		the session itself, and parallel workers where some are free.
 *
 * Workers run under the leader's snapshot and transaction, so they also see
 * what it has not committed yet, and with its rights. What a worker throws is
 * thrown by the leader. Nobody may write to tables meanwhile.
 *
 * How work is divided is up to the work: it claims ranges of chunks until none
 * is left, or finds chunks by number in an order of its own.
 */
#ifndef GA_PARALLEL_H
#define GA_PARALLEL_H

#include "store/store.h"

/* A tensor to be read, and its raw bytes; those of no bytes are passed over. */
typedef struct GaParallelTensor
{
	GaHash		hash;
	uint64		nbytes;
} GaParallelTensor;

/* Chunks [first, first + count) of one tensor; the reader is good until the next range is asked for. */
typedef struct GaParallelRange
{
	int			tensor;			/* index among the tensors of the run */
	uint64		first;
	uint64		count;
	GaReader   *reader;
} GaParallelRange;

/* A run as one of its processes sees it. */
typedef struct GaParallel
{
	bool		leader;
	int			participants;	/* leader and workers, as planned: workers that are not free do not come */
	int			ntensors;		/* as many as were given */
	uint64		nchunks;		/* of all tensors */
	void	   *shared;			/* memory of all participants */
	void	   *arg;			/* of the leader alone, which sets it */
	struct GaParallelState *state;
} GaParallel;

/* What every participant does, once. Exported by this library, and connected to SPI. */
typedef void (*GaParallelWork) (GaParallel *run);

/* Workers that are worth their start for so many chunks: at most max_parallel_maintenance_workers, 0 where none may be started. */
extern int	ga_parallel_workers(uint64 nchunks);

/*
 * Prepares a run: `work` is the name of a GaParallelWork, `size` the bytes of shared memory, which the caller fills in
 * before it executes the run. With workers > 0 the transaction is in parallel mode until the run is ended.
 */
extern GaParallel *ga_parallel_prepare(const char *work, int workers, const GaParallelTensor *tensors, int ntensors,
									   Size size);

/* Does the work, in the leader too, and waits for all. */
extern void ga_parallel_execute(GaParallel *run);

/* Ends a run, also one that was not executed; its shared memory is gone. */
extern void ga_parallel_end(GaParallel *run);

/* Claims the next chunks, at most as many as a node has; false when all are claimed. */
extern bool ga_parallel_claim(GaParallel *run, GaParallelRange *range);

/* Chunk number n of all tensors in their order. */
extern void ga_parallel_find(GaParallel *run, uint64 n, GaParallelRange *range);

#endif							/* GA_PARALLEL_H */
