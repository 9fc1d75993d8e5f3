/*
 * gpuknn_scan.h
 *		A scan, its passes over the stream of slots, and values that it computes
 *		from the table's rows.
 */
#ifndef GA_GPUKNN_SCAN_H
#define GA_GPUKNN_SCAN_H

#include "access/relscan.h"
#include "index/gpuknn.h"

/* Pairs of the first pass: more than what a LIMIT usually asks for. Later ones use half of work_mem. */
#define GPUKNN_FIRST_PAIRS 1000

/* The same by a device, which sorts them all; a few more rows than asked for must be looked at. */
#define GPUKNN_FIRST_DEVICE_PAIRS 128

typedef enum GpuknnPhase
{
	GPUKNN_START,
	GPUKNN_BOUNDS,				/* pairs of one pass after the other, ascending: the executor checks */
	GPUKNN_VALUES,				/* the same, but the scan itself computes values and keeps them back */
	GPUKNN_SELECT,				/* too many to keep back: each pass selects the next by value */
	GPUKNN_DRAIN,				/* rows in any order: all for a NULL query, else those without a vector */
	GPUKNN_DONE
} GpuknnPhase;

/* How the scan reads rows of the table: gpuknn_values.c. */
typedef struct GpuknnTable GpuknnTable;

typedef struct GpuknnScan
{
	GpuknnClass class;
	GpuknnShape shape;
	GpuknnPhase phase;

	/* what the index held when the scan began */
	uint64		length;
	uint64		vectors;
	uint64		nulls;
	uint64		changes;
	uint64		incarnation;

	/* passes by the device (gpuknn_device.c), of which there are none but in BOUNDS */
	bool		by_device;		/* the last one was */
	GpuknnVector vector;		/* the query */
	char	   *question;		/* its elements, padded */
	uint64	   *given;			/* tids that were handed out before the scan left the device, sorted then */
	size_t		ngiven;
	size_t		max_given;
	bool		left;			/* rows that were given do not come again, and bounds are at least `floor` */
	double		floor;
	const char *fallback;		/* why pages are read; NULL: no device was to be had */

	/* passes */
	GaKnnQuery *query;
	char	   *assembled;		/* a record that crosses pages */
	double	   *bounds;
	bool	   *exact;
	GaKnnPair  *found;			/* of one page */
	int			nfound;
	GaKnnTop	top;
	size_t		next;			/* of top.count */
	uint64		passes;
	uint64		checks;			/* pairs that the executor had to check */

	/* VALUES and SELECT */
	GpuknnTable *table;
	GaKnnPair	handed;			/* the last pair of BOUNDS */
	bool		any_handed;
	GaKnnPair  *kept;			/* values kept back: a heap, its root the smallest */
	size_t		nkept;
	size_t		max_kept;
	GaKnnPair	emitted;		/* the last value */
	bool		any_emitted;

	/* DRAIN */
	bool		all;			/* vectors, too */
	BlockNumber block;			/* to be read next */
	ItemPointerData *tids;
	int			ntids;
	int			capacity;
	int			next_tid;

	MemoryContext context;		/* of one rescan */
} GpuknnScan;

/* Pairs that half of work_mem holds. */
extern size_t gpuknn_pairs_of_memory(void);

/* One pass over all records: those that are not too far away for scan->top go into it, as bounds or, in SELECT, as values. */
extern void gpuknn_pass(IndexScanDesc scan, GpuknnScan *state);

/* The next pairs by the device, as scan->top; false: the pages must be read. */
extern bool gpuknn_device_pass(IndexScanDesc scan, GpuknnScan *state, size_t limit, const GaKnnPair *after);

/* Notes a row that is handed out as the device found it. */
extern void gpuknn_device_give(GpuknnScan *state, const GaKnnPair *pair);

/* From here on, pages are read from the first one. */
extern void gpuknn_device_leave(GpuknnScan *state);

/* After gpuknn_device_leave(): false for a row that was given; else its bound is made at least those. */
extern bool gpuknn_device_admit(const GpuknnScan *state, GaKnnPair *pair);

/* The tids of the slots that begin on the next page; false when there is none. */
extern bool gpuknn_drain(IndexScanDesc scan, GpuknnScan *state);

/* Replaces a bound by the operator's value; false when the snapshot sees no row there. */
extern bool gpuknn_value(IndexScanDesc scan, GpuknnScan *state, GaKnnPair *pair);

/* The same of any pair, and which row the snapshot sees: an update may have put it at another tid than the index has. */
extern bool gpuknn_visible_value(IndexScanDesc scan, GpuknnScan *state, GaKnnPair *pair, ItemPointer tid);

/* Ends what they hold. */
extern void gpuknn_close_table(GpuknnScan *state);

#endif							/* GA_GPUKNN_SCAN_H */
