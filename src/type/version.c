/*
 * version.c
 *		What is loaded: the library's version, zstd's, and the instruction set of the distance kernels.
 */
#include "base/compat.h"

#include <zstd.h>

#include "math/distance.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(ga_version);
Datum
ga_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("gpuagent %s, zstd %s, %s kernels, device: host",
											  GA_VERSION, ZSTD_versionString(), ga_math_isa())));
}
