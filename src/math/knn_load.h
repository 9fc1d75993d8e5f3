/*
 * knn_load.h
 *		Loading stored elements as F32, included once by each instruction set.
 *
 * The including file defines
 *		TARGET			the function attribute that enables the instructions
 *		WIDTH			elements in a Vec of floats
 *		vec_load, vec_half, vec_byte	WIDTH elements of F32, F16, int8
 *		vec_load_some, vec_half_some, vec_byte_some		fewer, then zeros; they read nothing behind them
 */

static GA_FORCE_INLINE TARGET Vec
load(GaKnnStorage storage, const char *p)
{
	if (storage == GA_KNN_F16)
		return vec_half((const uint16_t *) p);
	return storage == GA_KNN_INT8 ? vec_byte((const int8_t *) p) : vec_load((const float *) p);
}

static GA_FORCE_INLINE TARGET Vec
load_some(GaKnnStorage storage, const char *p, size_t n)
{
	if (storage == GA_KNN_F16)
		return vec_half_some((const uint16_t *) p, n);
	return storage == GA_KNN_INT8 ? vec_byte_some((const int8_t *) p, n) : vec_load_some((const float *) p, n);
}
