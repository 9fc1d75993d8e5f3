/*
 * knn.h
 *		Exact nearest neighbours: rows as the index stores them, and lower bounds
 *		of distances computed from them. Plain C: nothing here knows of PostgreSQL.
 *
 * A record is a GaKnnRow and the vector behind it, in F32, F16 or int8. What
 * storing lost is known: record.loss. So a bound is never above the value that
 * the operator gives for the original vector (doc/architecture.md, knn_bounds.c
 * has the derivation), and an exact value is that value, bit for bit.
 *
 * "The operator's value" is ga_distance() of the original row and query, as
 * float8: for the inner product 0.0 - ga_distance(). Where the operator is
 * another one that sums in F32 in any order (pgvector's), say so to
 * ga_knn_prepare(): bounds allow for it and no value counts as exact.
 */
#ifndef GA_KNN_H
#define GA_KNN_H

#include "distance.h"

typedef enum GaKnnStorage
{
	GA_KNN_F32,			/* values as they are: exact but for rows of F64 */
	GA_KNN_F16,			/* over a power of two for each row; cosine stores the direction */
	GA_KNN_INT8			/* whole numbers of -127 .. 127 times a scale for each row; cosine stores the direction */
} GaKnnStorage;

typedef enum GaKnnSums
{
	GA_KNN_SUMS_CANONICAL,		/* the operator is ga_distance() */
	GA_KNN_SUMS_F32				/* the operator sums in F32, in whatever order */
} GaKnnSums;

/* Flags of a record: bits of the index's own, and those of ga_knn_encode(). */
#define GA_KNN_INDEX_FLAGS	0x000f
#define GA_KNN_NAN			0x0010	/* the distance to every query is NaN */
#define GA_KNN_WIDE			0x0020	/* the row's dtype is F64 */

/* In front of each stored vector, in the byte order of the machine. */
typedef struct GaKnnRow
{
	uint8_t		tid[6];			/* the index's own; ga_knn_encode() leaves it alone */
	uint16_t	flags;			/* GA_KNN_*; the high byte is the exponent of an F16 row's scale */
	float		loss;			/* at least the norm (L1: the L1 norm) of what storing lost; infinite: nothing is known */
	float		norm;			/* L2 norm of the stored vector, for cosine of the original one; nearest F32 */
} GaKnnRow;

/* Bytes of a record: a multiple of 8. */
extern size_t ga_knn_record_bytes(GaKnnStorage storage, size_t dim);

/*
 * Writes a record of ga_knn_record_bytes(), aligned to 8 bytes, but for its tid
 * and the index's flags, which become 0. dtype among F64 F32 F16 BF16; a row of
 * any other is at NaN from everything. The same bytes on every machine.
 */
extern void ga_knn_encode(GaMetric metric, GaKnnStorage storage, int dtype, const void *data, size_t dim,
						  GaKnnRow *record);

/* What a scan needs of its query. Opaque; it holds pointers into itself and cannot be moved. */
typedef struct GaKnnQuery GaKnnQuery;

/* Bytes that ga_knn_prepare() needs, aligned to 8. */
extern size_t ga_knn_query_bytes(int dtype, size_t dim);
extern void ga_knn_prepare(GaKnnQuery *query, GaMetric metric, GaKnnStorage storage, GaKnnSums sums, int dtype,
						   const void *data, size_t dim);

/*
 * Bounds of n records, the first at `records`, each `stride` bytes after the one
 * before it (a multiple of 8, at least ga_knn_record_bytes()). bounds[i] is at
 * most the operator's value, and NaN only where that is NaN; where exact[i] it
 * is the operator's value, bit for bit. exact may be NULL. NaN sorts last.
 *
 * Bounds above `threshold` are of no use to the caller: a row that could give an
 * exact value may get such a bound instead, which is quicker. NaN: all are of
 * use. So is every value up to the threshold of a GaKnnTop.
 */
extern void ga_knn_bounds(const GaKnnQuery *query, const void *records, size_t stride, int n, double threshold,
						  double *bounds, bool *exact);

/*
 * The same of nq queries of one metric, storage and dimension: bounds[q * n + i].
 * These are lower bounds, never exact but where NaN; they are a little lower
 * than those of ga_knn_bounds(). Quickest with 6 queries or more and records of
 * a multiple of 64 rows.
 */
extern void ga_knn_bounds_batch(const GaKnnQuery *const *queries, int nq, const void *records, size_t stride, int n,
								double *bounds);

/* ----- the smallest of many bounds ----- */

typedef struct GaKnnPair
{
	double		bound;
	uint64_t	row:63;
	uint64_t	exact:1;		/* for whoever reads the pair: no part of the order */
} GaKnnPair;

/*
 * Keeps the `capacity` smallest pairs of all that were pushed, ordered by bound,
 * NaN after all others, then by row.
 */
typedef struct GaKnnTop
{
	GaKnnPair  *pairs;
	size_t		capacity;
	size_t		count;
	double		threshold;		/* a pair with a greater bound cannot enter; NaN: any may */
	bool		has_after;
	GaKnnPair	after;
} GaKnnTop;

/* memory for `capacity` (1 or more) pairs. Unless NULL, only pairs greater than `after` enter: for later passes. */
extern void ga_knn_top_init(GaKnnTop *top, GaKnnPair *memory, size_t capacity, const GaKnnPair *after);

extern void ga_knn_top_enter(GaKnnTop *top, double bound, uint64_t row, bool exact);

static inline void
ga_knn_top_push(GaKnnTop *top, double bound, uint64_t row, bool exact)
{
	if (!(bound > top->threshold))
		ga_knn_top_enter(top, bound, row, exact);
}

/* Pushes rows first .. first + n - 1; exact may be NULL: none is. */
extern void ga_knn_top_push_many(GaKnnTop *top, const double *bounds, const bool *exact, int n, uint64_t first);

/*
 * Sorts ascending, from the greatest pair down: pairs from `end` on (at first
 * count) are in their places, and up to `steps` more get there. Returns the new
 * end; all are sorted when it is 1 or 0. Nothing may be pushed once it began.
 */
extern size_t ga_knn_top_sort(GaKnnTop *top, size_t end, size_t steps);

/* The order of pairs: < 0, 0, > 0. */
extern int	ga_knn_pair_compare(const GaKnnPair *a, const GaKnnPair *b);

#endif							/* GA_KNN_H */
