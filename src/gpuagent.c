/*
 * gpuagent.c
 *		Module entry: _PG_init and nothing else.
 */
#include "base/compat.h"

#include "base/guc.h"
#include "math/distance.h"

GA_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	ga_math_init();
	ga_guc_init();
}
