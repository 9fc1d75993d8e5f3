/*
 * knn_impl.h
 *		What the files of the nearest-neighbour kernels share. Private to src/math.
 */
#ifndef GA_KNN_IMPL_H
#define GA_KNN_IMPL_H

#include "distance_impl.h"
#include "knn.h"

#include <math.h>

/* Queries have zeros up to a multiple of this: the widest step of a kernel. */
#define GA_KNN_PAD 64

/*
 * What an F32 sum of a kernel rounds at most, from an element's product to the
 * end: in lanes, then among lanes. Longer vectors go by segments, whose sums are
 * added in F64.
 */
#define GA_KNN_ROUNDINGS 32

/* Exponents of F16 rows, as flags hold them: the largest element has exponent 15 where this range lets it. */
#define GA_KNN_EXPONENT_SHIFT 8
#define GA_KNN_EXPONENT_BIAS 126

static inline size_t
ga_knn_element_bytes(GaKnnStorage storage)
{
	return storage == GA_KNN_F32 ? 4 : storage == GA_KNN_F16 ? 2 : 1;
}

/* An int8 row has its scale before its elements, an F32. */
static inline const char *
ga_knn_elements(GaKnnStorage storage, const GaKnnRow *row)
{
	return (const char *) (row + 1) + (storage == GA_KNN_INT8 ? sizeof(float) : 0);
}

/* What the elements are to be multiplied by: it and its products with them have at most 24 bits. */
static inline double
ga_knn_scale(GaKnnStorage storage, const GaKnnRow *row)
{
	float		scale = 1;

	if (storage == GA_KNN_F16)
		return ldexp(1.0, (row->flags >> GA_KNN_EXPONENT_SHIFT) - GA_KNN_EXPONENT_BIAS);
	if (storage == GA_KNN_INT8)
		memcpy(&scale, row + 1, sizeof(scale));
	return scale;
}

typedef enum GaKnnSum
{
	GA_KNN_SUM_L2,				/* (row * ratio - query)^2 */
	GA_KNN_SUM_L1,				/* |row * ratio - query| */
	GA_KNN_SUM_DOT				/* row * query */
} GaKnnSum;

/*
 * Sum over n elements of a row, which may end with its memory, and an F32 query
 * padded with zeros. Where no intermediate result overflows or underflows,
 * each term differs from the exact one by at most GA_KNN_ROUNDINGS + 3 factors
 * 1 + d with |d| <= 2^-24, and n with |d| <= 2^-53.
 */
typedef double (*GaKnnKernel) (const void *row, const float *query, float ratio, size_t n);

/* How elements are stored: x * factor (cosine: 1 / norm) in units; up = 1 / unit. */
typedef struct GaKnnScale
{
	double		factor;
	double		unit;
	double		up;
} GaKnnScale;

typedef struct GaKnnLost GaKnnLost;

typedef void (*GaKnnStore) (const double *x, size_t n, const GaKnnScale *scale, void *out, GaKnnLost *lost);

/* Sums over a row's elements, in lanes. */
struct GaKnnLost
{
	double		squares[GA_LANES];	/* of what storing lost */
	double		sum[GA_LANES];		/* its magnitudes */
	double		stored[GA_LANES];	/* squares of what is stored */
};

/* Rows and queries whose products are computed together; rows whose bounds are. */
#define GA_KNN_TILE_ROWS 4
#define GA_KNN_TILE_QUERIES 6
#define GA_KNN_TERMS 64

/* As GA_KNN_ROUNDINGS, for a tile: its lanes are WIDTH, not WIDTH * VECTORS. */
#define GA_KNN_TILE_ROUNDINGS 140

/* What bounds take from the rows, in the units of knn_bounds.c. */
typedef struct GaKnnTerms
{
	double		scale[GA_KNN_TERMS];	/* of the kernel's product */
	double		loss[GA_KNN_TERMS];
	double		length[GA_KNN_TERMS];	/* at least |x| and |h| */
	double		square[GA_KNN_TERMS];	/* at most |h|^2 */
} GaKnnTerms;

/*
 * What they take from the query. With p the kernel's product and s the scale:
 *		a = start - product s p - length row.length - scale s;
 *		root: a = sqrt(a + row.square, or 0) factor;
 *		bound = a - loss row.loss - rest, within least .. most
 */
typedef struct GaKnnFinish
{
	bool		root;
	double		start;
	double		product;
	double		length;
	double		scale;
	double		factor;
	double		loss;
	double		rest;
	double		least;
	double		most;
} GaKnnFinish;

/* Products of GA_KNN_TILE_ROWS rows of F32 or F16 and GA_KNN_TILE_QUERIES queries padded with zeros. */
typedef void (*GaKnnTile) (const char *const *rows, const float *const *queries, size_t n,
						   double (*sums)[GA_KNN_TILE_ROWS]);

typedef struct GaKnnKernels
{
	GaKnnKernel sum[3][3];		/* by GaKnnStorage and GaKnnSum; of int8 for L1 only */
	GaKnnTile	tile[2];		/* by GaKnnStorage */

	/* Unless NULL: rows of F16 are to be widened for tile[GA_KNN_F32], and there is no other. */
	void		(*widen_half) (const uint16_t *p, size_t n, float *out);

	/* Of GA_KNN_TERMS products makes bounds. */
	void		(*finish) (const GaKnnTerms *terms, const GaKnnFinish *how, double *bounds);

	/* Of elements widened to F64, none NaN, padded with zeros to a multiple of GA_LANES: */
	double		(*largest) (const double *x, size_t n);
	GaKnnStore	store_half;
	GaKnnStore	store_bytes;
} GaKnnKernels;

/* Products of int8 rows and 16-bit queries padded with zeros, of magnitudes below 2^15: exact. */
typedef struct GaKnnBytes
{
	double		(*dot) (const int8_t *row, const int16_t *query, size_t n);
	void		(*tile) (const int8_t *const *rows, const int16_t *const *queries, size_t n,
						 double (*sums)[GA_KNN_TILE_ROWS]);
} GaKnnBytes;

extern const GaKnnKernels ga_knn_kernels_portable;
extern const GaKnnBytes ga_knn_bytes_portable;
#ifdef GA_X86_KERNELS
extern const GaKnnKernels ga_knn_kernels_avx2;
extern const GaKnnKernels ga_knn_kernels_avx512;
extern const GaKnnBytes ga_knn_bytes_avx2;
extern const GaKnnBytes ga_knn_bytes_avx_vnni;
extern const GaKnnBytes ga_knn_bytes_avx512;
extern const GaKnnBytes ga_knn_bytes_avx512_vnni;
#endif

/* Those of the instruction set in use: distance.c chooses for all. */
extern const GaKnnKernels *ga_knn_kernels;
extern const GaKnnBytes *ga_knn_bytes;

/* What is known of the query. */
typedef enum GaKnnReach
{
	GA_KNN_ORDINARY,
	GA_KNN_NOWHERE,				/* every distance is NaN */
	GA_KNN_UNBOUNDED			/* beyond F32: only exact values are of use */
} GaKnnReach;

/* The query is near `values` or `codes` * `unit`; see knn_bounds.c for what the rest means. */
struct GaKnnQuery
{
	GaMetric	metric;
	GaKnnStorage storage;
	GaKnnSums	sums;
	GaKnnReach	reach;
	int			dtype;
	size_t		dim;
	const void *data;			/* the original query, a copy */
	const float *values;		/* padded with zeros to a multiple of GA_KNN_PAD, aligned to 64 bytes; or NULL */
	const int16_t *codes;		/* the same for int8 rows but under L1: whole numbers of -32767 .. 32767; else NULL */
	double		unit;			/* a power of two; for codes with 24 bits */
	double		norm;			/* at least the L2 norm of the query (cosine: of its direction) and of values * unit */
	double		length;			/* L2 norm of the original query, for cosine */
	double		loss;			/* at least the norm (L1: L1 norm) of query - values * unit */
	double		square;			/* at most the square of |values * unit| */
	double		sum_factor;		/* at most true root or sum over computed one */
	double		value_factor;	/* at most operator's value over true distance */
	double		value_tiny;		/* what underflow may take from the operator's value beyond that */
	double		slack;			/* IP, cosine: at least the error of kernel and operator over the product of norms */
	double		tile_slack;		/* the same of a tile and the operator */
	double		tile_error;		/* of a tile alone */
};

/* Elements that are widened at a time: a multiple of GA_LANES. */
#define GA_KNN_BLOCK 512

/* A vector as the caller has it, of a float dtype, and a block of its elements as F64. */
typedef struct GaKnnSource
{
	int			dtype;
	const char *data;
	size_t		dim;
	size_t		next;			/* first element behind the block */
	size_t		count;			/* elements in the block, without the zeros behind them */
	size_t		padded;			/* a multiple of GA_LANES */
	double		block[GA_KNN_BLOCK];
} GaKnnSource;

static inline void
ga_knn_rewind(GaKnnSource *source)
{
	source->next = 0;
}

static inline void
ga_knn_source(GaKnnSource *source, int dtype, const void *data, size_t dim)
{
	source->dtype = dtype;
	source->data = data;
	source->dim = dim;
	ga_knn_rewind(source);
}

/* Fills the next block; false when there is none. */
extern bool ga_knn_next_block(GaKnnSource *source);

/* Both read the vector from its beginning. The largest magnitude is that of a vector without NaN. */
extern bool ga_knn_has_nan(GaKnnSource *source);
extern double ga_knn_largest(GaKnnSource *source);

/* What rows and queries need to have for F32 products that neither overflow nor lose all to underflow. */
static inline bool
ga_knn_norm_in_range(double norm)
{
	return norm >= 0x1p-40 && norm <= 0x1p60;
}

/* The bound of one row, or its exact value if that can be had and the bound is not above the threshold. */
extern double ga_knn_bound_row(const GaKnnQuery *query, const GaKnnRow *row, double threshold, bool *exact);

/* A row's stored vector (for cosine: its direction) is elements * scale, off by `loss` at most. */
typedef struct GaKnnStored
{
	double		scale;
	double		loss;
} GaKnnStored;

/*
 * An F32 index over cosine has the vector itself: its direction is off by 2 |x - h| / |h| at
 * most (Dunkl and Williams, Amer. Math. Monthly 71, 1964), and the norm, which is not below
 * FLT_MIN here, by a part in 2^24.
 */
static inline GaKnnStored
ga_knn_stored(GaMetric metric, GaKnnStorage storage, const GaKnnRow *row)
{
	GaKnnStored stored = {ga_knn_scale(storage, row), row->loss};

	if (metric == GA_METRIC_COSINE && storage == GA_KNN_F32)
	{
		stored.scale = 1.0 / row->norm;
		stored.loss = 2.0 * row->loss / row->norm * (1 + 0x1p-22) + 0x1p-22;
	}
	return stored;
}

/* At most |h|^2, where norm is not that of the original: norm is within a part in 2^24 of |h|. */
static inline double
ga_knn_square(const GaKnnRow *row)
{
	double		low = row->norm * (1 - 0x1p-23);

	return low * low * (1 - 0x1p-46);
}

/* A little more than a sum of a few F64 operations on positive numbers that should round up. */
#define GA_KNN_UP (1.0 + 0x1p-48)

#endif							/* GA_KNN_IMPL_H */
