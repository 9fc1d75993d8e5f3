/*
 * knn_portable.c
 *		Nearest-neighbour kernels without instructions of their own: vectors of four
 *		floats, which GCC and clang make of what there is.
 */
#include "knn_impl.h"

#define TARGET
#define WIDTH 4
#define VECTORS 4
#define SEGMENT 256
#define TILE_PART 2
#define WIDEN_FIRST
#define DOUBLES 1
#define KERNEL_TABLE const GaKnnKernels ga_knn_kernels_portable

typedef float Vec __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(8)));
typedef double Wide;

static GA_FORCE_INLINE Vec
vec_zero(void)
{
	return (Vec) {0};
}

static GA_FORCE_INLINE Vec
vec_set(float x)
{
	return (Vec) {x, x, x, x};
}

static GA_FORCE_INLINE Vec
vec_load(const float *p)
{
	Vec			x;

	memcpy(&x, p, sizeof(x));
	return x;
}

static GA_FORCE_INLINE void
vec_save(float *p, Vec x)
{
	memcpy(p, &x, sizeof(x));
}

/* As ga_widen_half(), but that a NaN may stay signalling. */
static GA_FORCE_INLINE Vec
vec_half(const uint16_t *p)
{
	Halves		halves;
	Bits		bits;
	Bits		sign;
	Bits		magnitude;

	memcpy(&halves, p, sizeof(halves));
	bits = __builtin_convertvector(halves, Bits);
	magnitude = bits & 0x7fff;
	sign = (bits ^ magnitude) << 16;
	bits = (Bits) ((Vec) (magnitude << 13) * 0x1p112f);
	return (Vec) (bits | ((Bits) (magnitude >= 0x7c00) & 0x7f800000) | sign);
}

static GA_FORCE_INLINE Vec
vec_byte(const int8_t *p)
{
	Ints		ints = {p[0], p[1], p[2], p[3]};

	return __builtin_convertvector(ints, Vec);
}

static GA_FORCE_INLINE Vec
vec_load_some(const float *p, size_t n)
{
	float		some[WIDTH] = {0};

	memcpy(some, p, n * sizeof(*p));
	return vec_load(some);
}

static GA_FORCE_INLINE Vec
vec_half_some(const uint16_t *p, size_t n)
{
	uint16_t	some[WIDTH] = {0};

	memcpy(some, p, n * sizeof(*p));
	return vec_half(some);
}

static GA_FORCE_INLINE Vec
vec_byte_some(const int8_t *p, size_t n)
{
	int8_t		some[WIDTH] = {0};

	memcpy(some, p, n);
	return vec_byte(some);
}

static GA_FORCE_INLINE Vec
vec_add(Vec x, Vec y)
{
	return x + y;
}

static GA_FORCE_INLINE Vec
vec_abs(Vec x)
{
	return (Vec) ((Bits) x & 0x7fffffff);
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
fold(Vec x)
{
	return (x[0] + x[2]) + (x[1] + x[3]);
}

static GA_FORCE_INLINE double
vec_reduce(const Vec *acc)
{
	return fold((acc[0] + acc[2]) + (acc[1] + acc[3]));
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
		sums[r] += fold(acc[r]);
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
