/*
 * distance.c
 *		Choice of kernels, the portable kernels, and what follows the sums.
 *
 * Every metric is symmetric in all its bits (a difference only changes sign,
 * a product commutes), so kernels exist for one order of each pair of dtypes.
 * The sum of squares is the inner product of a vector with itself.
 */
#include "distance_impl.h"
#include "knn_impl.h"

#include <math.h>

#ifdef GA_X86_KERNELS
#include <cpuid.h>
#endif

/* ----- the portable kernels ----- */

#define TARGET
#define WIDTH 1
#define KERNEL_TABLE static const GaKernelTable kernels_portable

typedef double Wide;
typedef float Narrow;

static GA_FORCE_INLINE Narrow
narrow_load(int dtype, const char *p)
{
	float		f;
	uint16_t	h;

	if (dtype == GA_F32)
	{
		memcpy(&f, p, sizeof(f));
		return f;
	}
	memcpy(&h, p, sizeof(h));
	return dtype == GA_F16 ? ga_widen_half(h) : ga_widen_bfloat(h);
}

static GA_FORCE_INLINE Narrow
narrow_sub(Narrow x, Narrow y)
{
	return x - y;
}

static GA_FORCE_INLINE Wide
narrow_widen(Narrow x)
{
	return x;
}

static GA_FORCE_INLINE Wide
wide_load(int dtype, const char *p)
{
	double		d;

	if (dtype != GA_F64)
		return narrow_load(dtype, p);
	memcpy(&d, p, sizeof(d));
	return d;
}

static GA_FORCE_INLINE Wide
wide_zero(void)
{
	return 0.0;
}

static GA_FORCE_INLINE Wide
wide_sub(Wide x, Wide y)
{
	return x - y;
}

static GA_FORCE_INLINE Wide
wide_add(Wide x, Wide y)
{
	return x + y;
}

static GA_FORCE_INLINE Wide
wide_abs(Wide x)
{
	return fabs(x);
}

static GA_FORCE_INLINE Wide
wide_fma(Wide x, Wide y, Wide acc)
{
	return x * y + acc;
}

static GA_FORCE_INLINE Wide
wide_mul_add(Wide x, Wide y, Wide acc)
{
	Wide		product = x * y;

	GA_ROUNDED(product);
	return product + acc;
}

static GA_FORCE_INLINE double
reduce(const Wide *acc)
{
	double		lane[GA_LANES];

	memcpy(lane, acc, sizeof(lane));
	for (int half = GA_LANES / 2; half > 0; half /= 2)
		for (int i = 0; i < half; i++)
			lane[i] += lane[i + half];
	return lane[0];
}

#include "distance_kernels.h"

/* ----- the choice ----- */

static const GaKernelTable *kernels = &kernels_portable;
static const char *isa_name = "portable";

#ifdef GA_X86_KERNELS
static bool
cpu_has_f16c(void)
{
	unsigned int eax;
	unsigned int ebx;
	unsigned int ecx;
	unsigned int edx;

	/* "avx" also tells that the operating system saves the registers. */
	return __builtin_cpu_supports("avx") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

static bool
cpu_has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && cpu_has_f16c();
}

static bool
cpu_has_avx512(void)
{
	return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		   __builtin_cpu_supports("avx512vl");
}

#ifdef GA_AVX_VNNI
static bool
cpu_has_avx_vnni(void)
{
	unsigned int eax;
	unsigned int ebx;
	unsigned int ecx;
	unsigned int edx;

	return cpu_has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4) != 0;
}
#endif
#endif

static void
use_kernels(const char *name, const GaKernelTable *table, const GaKnnKernels *knn, const GaKnnBytes *bytes, bool f16c)
{
	isa_name = name;
	kernels = table;
	ga_knn_kernels = knn;
	ga_knn_bytes = bytes;
	ga_widen_use_f16c(f16c);
}

bool
ga_math_force_isa(const char *isa)
{
	if (strcmp(isa, "portable") == 0)
	{
		use_kernels("portable", &kernels_portable, &ga_knn_kernels_portable, &ga_knn_bytes_portable, false);
		return true;
	}
#ifdef GA_X86_KERNELS
	if (strcmp(isa, "avx2") == 0 && cpu_has_avx2())
	{
		use_kernels("avx2", &ga_kernels_avx2, &ga_knn_kernels_avx2, &ga_knn_bytes_avx2, true);
		return true;
	}
#ifdef GA_AVX_VNNI
	if (strcmp(isa, "avx_vnni") == 0 && cpu_has_avx_vnni())
	{
		use_kernels("avx_vnni", &ga_kernels_avx2, &ga_knn_kernels_avx2, &ga_knn_bytes_avx_vnni, true);
		return true;
	}
#endif
	if (strcmp(isa, "avx512") == 0 && cpu_has_avx512())
	{
		use_kernels("avx512", &ga_kernels_avx512, &ga_knn_kernels_avx512, &ga_knn_bytes_avx512, true);
		return true;
	}
	if (strcmp(isa, "avx512_vnni") == 0 && cpu_has_avx512() && __builtin_cpu_supports("avx512vnni"))
	{
		use_kernels("avx512_vnni", &ga_kernels_avx512, &ga_knn_kernels_avx512, &ga_knn_bytes_avx512_vnni, true);
		return true;
	}
#endif
	return false;
}

void
ga_math_init(void)
{
	static const char *const widest_first[] = {"avx512_vnni", "avx512", "avx_vnni", "avx2", "portable"};

	for (int i = 0; !ga_math_force_isa(widest_first[i]); i++)
		;
}

const char *
ga_math_isa(void)
{
	return isa_name;
}

/* ----- the distances ----- */

/* Machines differ in the sign and payload of the NaN they make. */
static double
one_nan(double x)
{
	return isnan(x) ? (double) NAN : x;
}

/*
 * The product of the norms as the root of one product, so that a vector is at
 * 0 from itself and from its multiples by powers of two. Only F64 sums can make
 * that product leave the normal range; then of two roots.
 */
static double
cosine_distance(double ab, double aa, double bb)
{
	double		product = aa * bb;
	double		norms;
	double		distance;

	/* Also catches NaN. */
	if (!(aa > 0 && aa <= DBL_MAX && bb > 0 && bb <= DBL_MAX))
		return NAN;

	norms = product >= DBL_MIN && product <= DBL_MAX ? sqrt(product) : sqrt(aa) * sqrt(bb);
	distance = 1.0 - ab / norms;
	return distance < 0 ? 0 : distance > 2 ? 2 : distance;
}

static bool
is_float(int dtype)
{
	return dtype >= GA_F32 && dtype <= GA_F64;
}

double
ga_distance(GaMetric metric, int dtype_a, const void *a, int dtype_b, const void *b, size_t n)
{
	double		sums[3];

	if (!is_float(dtype_a) || !is_float(dtype_b))
		return NAN;

	if (dtype_a <= dtype_b)
		(*kernels)[metric][dtype_a - 1][dtype_b - 1](a, b, n, sums);
	else
		(*kernels)[metric][dtype_b - 1][dtype_a - 1](b, a, n, sums);

	switch (metric)
	{
		case GA_METRIC_L2:
			return one_nan(sqrt(sums[0]));
		case GA_METRIC_COSINE:
			return one_nan(cosine_distance(sums[0], sums[1], sums[2]));
		case GA_METRIC_IP:
		case GA_METRIC_L1:
			break;
	}
	return one_nan(sums[0]);
}

double
ga_sum_squares(int dtype, const void *a, size_t n)
{
	return ga_distance(GA_METRIC_IP, dtype, a, dtype, a, n);
}

/* Adding the lowest exponent bit carries into the sign bit where all exponent bits are set. */
static bool
words_nonfinite(const char *p, size_t size, uint64_t exponent, uint64_t low, uint64_t sign)
{
	uint64_t	found = 0;
	uint64_t	w;

	for (; size >= 256; size -= 256)
	{
		for (int i = 0; i < 32; i++)
		{
			memcpy(&w, p, sizeof(w));
			found |= (w & exponent) + low;
			p += sizeof(w);
		}
		if (found & sign)
			return true;
	}
	while (size > 0)
	{
		size_t		step_size = size < sizeof(w) ? size : sizeof(w);

		w = 0;
		memcpy(&w, p, step_size);
		found |= (w & exponent) + low;
		p += step_size;
		size -= step_size;
	}
	return (found & sign) != 0;
}

bool
ga_has_nonfinite(int dtype, const void *a, size_t n)
{
	switch (dtype)
	{
		case GA_F32:
			return words_nonfinite(a, n * 4, 0x7f8000007f800000, 0x0080000000800000, 0x8000000080000000);
		case GA_F16:
			return words_nonfinite(a, n * 2, 0x7c007c007c007c00, 0x0400040004000400, 0x8000800080008000);
		case GA_BF16:
			return words_nonfinite(a, n * 2, 0x7f807f807f807f80, 0x0080008000800080, 0x8000800080008000);
		case GA_F64:
			return words_nonfinite(a, n * 8, 0x7ff0000000000000, 0x0010000000000000, 0x8000000000000000);
		default:
			return false;
	}
}
