/*
 * dtype.h
 *		Element types of tensors. Plain C: nothing here knows of PostgreSQL.
 *
 * Names are those of the safetensors format. The codes are stored on disk and
 * sent on the wire (doc/formats.md), so a code is never reused or renumbered.
 */
#ifndef GA_DTYPE_H
#define GA_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GA_MAX_RANK 8

typedef enum GaDtype
{
	GA_F32 = 1,
	GA_F16 = 2,
	GA_BF16 = 3,
	GA_F64 = 4,
	GA_BOOL = 5,
	GA_U8 = 6,
	GA_I8 = 7,
	GA_U16 = 8,
	GA_I16 = 9,
	GA_U32 = 10,
	GA_I32 = 11,
	GA_U64 = 12,
	GA_I64 = 13,
	GA_C64 = 14,
	GA_F8_E5M2 = 15,
	GA_F8_E4M3 = 16,
	GA_F8_E8M0 = 17,
	GA_F8_E4M3FNUZ = 18,
	GA_F8_E5M2FNUZ = 19,
	GA_F4 = 20,
	GA_F6_E2M3 = 21,
	GA_F6_E3M2 = 22
} GaDtype;

#define GA_DTYPE_MAX 22

typedef enum GaDtypeClass
{
	GA_CLASS_FLOAT,		/* F64 F32 F16 BF16: arithmetic and distances */
	GA_CLASS_SIGNED,	/* I8 .. I64 */
	GA_CLASS_UNSIGNED,	/* U8 .. U64 */
	GA_CLASS_BOOL,
	GA_CLASS_OPAQUE		/* stored and moved, never interpreted */
} GaDtypeClass;

typedef struct GaDtypeInfo
{
	const char *name;	/* safetensors spelling, upper case */
	uint8_t		bits;	/* bits an element takes; 4 and 6 are packed */
	uint8_t		width;	/* whole bytes an element takes, 1 for packed ones: the stride of the byte shuffle */
	GaDtypeClass cls;
} GaDtypeInfo;

/* NULL for a code that no version of the format defines. */
extern const GaDtypeInfo *ga_dtype_info(int code);

/* Code of a name, in any letter case; 0 when there is no such dtype. */
extern int	ga_dtype_lookup(const char *name, size_t len);

/*
 * Elements and bytes of a shape. False when the dtype is unknown, the rank is
 * not 0 .. GA_MAX_RANK, a dimension is negative, a count leaves the range of
 * int64, or packed elements do not fill whole bytes. An empty dimension gives 0
 * bytes whatever the others are; rank 0 gives one element.
 */
extern bool ga_shape_size(int dtype, int ndim, const int64_t *dims, uint64_t *nelem, uint64_t *nbytes);

/*
 * Conversions; narrowing rounds to nearest even, as IEEE 754 and PyTorch do, and
 * overflows to infinity. A NaN keeps its sign and the top of its payload and
 * becomes quiet, except that BF16 to F32 changes no bit.
 */
extern float ga_half_to_float(uint16_t h);
extern uint16_t ga_float_to_half(float f);
extern uint16_t ga_double_to_half(double d);	/* one rounding, not two */
extern float ga_bfloat_to_float(uint16_t b);
extern uint16_t ga_float_to_bfloat(float f);
extern uint16_t ga_double_to_bfloat(double d);	/* one rounding, not two */

/* Widens n elements of F32, F16 or BF16 to F32; of any of the four float dtypes to F64. Exact; NaNs from other dtypes. */
extern void ga_widen_f32(int dtype, const void *src, float *dst, size_t n);
extern void ga_widen_f64(int dtype, const void *src, double *dst, size_t n);

#endif							/* GA_DTYPE_H */
