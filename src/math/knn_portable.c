/*
 * knn_portable.c
 *		Nearest-neighbour kernels without instructions of their own.
 */
#include "knn_impl.h"

#define TARGET
#define WIDTH 1
#define VECTORS 16
#define SEGMENT 128
#define TILE_PART 6
#define DOUBLES 1
#define KERNEL_TABLE const GaKnnKernels ga_knn_kernels_portable

typedef float Vec;
typedef double Wide;

static GA_FORCE_INLINE Vec
vec_zero(void)
{
	return 0.0f;
}

static GA_FORCE_INLINE Vec
vec_set(float x)
{
	return x;
}

static GA_FORCE_INLINE Vec
vec_half(const uint16_t *p)
{
	return ga_widen_half(*p);
}

static GA_FORCE_INLINE Vec
vec_half_some(const uint16_t *p, size_t n)
{
	return n > 0 ? ga_widen_half(*p) : 0.0f;
}

static GA_FORCE_INLINE Vec
vec_load(const float *p)
{
	return *p;
}

static GA_FORCE_INLINE Vec
vec_load_some(const float *p, size_t n)
{
	return n > 0 ? *p : 0.0f;
}

static GA_FORCE_INLINE Vec
vec_byte(const int8_t *p)
{
	return *p;
}

static GA_FORCE_INLINE Vec
vec_byte_some(const int8_t *p, size_t n)
{
	return n > 0 ? *p : 0.0f;
}

static GA_FORCE_INLINE Vec
vec_add(Vec x, Vec y)
{
	return x + y;
}

static GA_FORCE_INLINE Vec
vec_abs(Vec x)
{
	return fabsf(x);
}

static GA_FORCE_INLINE Vec
vec_fma(Vec x, Vec y, Vec z)
{
	return x * y + z;
}

static GA_FORCE_INLINE Vec
vec_fms(Vec x, Vec y, Vec z)
{
	return x * y - z;
}

static GA_FORCE_INLINE double
vec_reduce(const Vec *acc)
{
	Vec			lane[VECTORS];

	memcpy(lane, acc, sizeof(lane));
	for (int half = VECTORS / 2; half > 0; half /= 2)
		for (int i = 0; i < half; i++)
			lane[i] += lane[i + half];
	return lane[0];
}

static GA_FORCE_INLINE Wide
wide_set(double x)
{
	return x;
}

static GA_FORCE_INLINE Wide
wide_load(const double *p)
{
	return *p;
}

static GA_FORCE_INLINE void
wide_save(double *p, Wide x)
{
	*p = x;
}

static GA_FORCE_INLINE Wide
wide_add(Wide x, Wide y)
{
	return x + y;
}

static GA_FORCE_INLINE Wide
wide_sub(Wide x, Wide y)
{
	return x - y;
}

static GA_FORCE_INLINE Wide
wide_mul(Wide x, Wide y)
{
	return x * y;
}

static GA_FORCE_INLINE Wide
wide_abs(Wide x)
{
	return fabs(x);
}

static GA_FORCE_INLINE Wide
wide_max(Wide x, Wide y)
{
	return x > y ? x : y;
}

static GA_FORCE_INLINE Wide
wide_to_half(Wide x, float up, uint16_t *out)
{
	*out = ga_float_to_half((float) x * up);
	return ga_widen_half(*out);
}

static GA_FORCE_INLINE void
wide_to_byte(Wide x, int8_t *out)
{
	*out = (int8_t) x;
}

#include "knn_load.h"
#include "knn_store.h"

static GA_FORCE_INLINE Wide
wide_sqrt(Wide x)
{
	return sqrt(x);
}

static GA_FORCE_INLINE Wide
wide_min(Wide x, Wide y)
{
	return x < y ? x : y;
}

static GA_FORCE_INLINE void
vec_reduce_rows(const Vec *acc, double *sums)
{
	for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
		sums[r] += acc[r];
}

#include "knn_tile.h"
#include "knn_kernels.h"

/* ----- int8 rows ----- */

/* Elements whose products are added in 32 bits; a loop of a fixed length is one that compilers make vectors of. */
#define FIXED 128

static double
dot(const int8_t *row, const int16_t *query, size_t n)
{
	int64_t		total = 0;
	int32_t		some = 0;

	for (; n >= FIXED; n -= FIXED)
	{
		int32_t		products = 0;

		for (int i = 0; i < FIXED; i++)
			products += row[i] * query[i];
		total += products;
		row += FIXED;
		query += FIXED;
	}
	for (size_t i = 0; i < n; i++)
		some += row[i] * query[i];
	return (double) (total + some);
}

static void
tile_bytes(const int8_t *const *rows, const int16_t *const *queries, size_t n, double (*sums)[GA_KNN_TILE_ROWS])
{
	for (int q = 0; q < GA_KNN_TILE_QUERIES; q++)
		for (int r = 0; r < GA_KNN_TILE_ROWS; r++)
			sums[q][r] = dot(rows[r], queries[q], n);
}

const GaKnnBytes ga_knn_bytes_portable = {.dot = dot, .tile = tile_bytes};
