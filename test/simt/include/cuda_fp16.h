/*
 * cuda_fp16.h
 *		In place of CUDA's: F16 values to F32 and back.
 */
#ifndef SIMT_CUDA_FP16_H
#define SIMT_CUDA_FP16_H

#include "cuda_runtime.h"

extern "C" float ga_half_to_float(uint16_t h);
extern "C" uint16_t ga_float_to_half(float f);

struct __half
{
	uint16_t	bits;
};
struct alignas(4) __half2
{
	__half		x, y;
};

static inline float
__half2float(__half h)
{
	return ga_half_to_float(h.bits);
}

static inline __half
__float2half_rn(float f)
{
	return {ga_float_to_half(f)};
}

static inline float2
__half22float2(__half2 h)
{
	return {__half2float(h.x), __half2float(h.y)};
}

#endif							/* SIMT_CUDA_FP16_H */
