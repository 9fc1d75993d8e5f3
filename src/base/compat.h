/*
 * compat.h
 *		The only file that looks at PG_VERSION_NUM. Code uses the newest spelling;
 *		shims here make older servers understand it. Include it right after
 *		postgres.h.
 */
#ifndef GA_COMPAT_H
#define GA_COMPAT_H

#include "postgres.h"
#include "fmgr.h"

#if PG_VERSION_NUM < 150000
#error "gpuagent needs PostgreSQL 15 or newer"
#endif

/* 16 moved the varlena macros out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 16 brought soft errors: an input function may return instead of throwing. */
#if PG_VERSION_NUM >= 160000
#include "nodes/miscnodes.h"
#define GA_ESCONTEXT(fcinfo) ((fcinfo)->context)
#else
#define GA_ESCONTEXT(fcinfo) NULL
#define ereturn(escontext, dummy_value, ...) \
	do { (void) (escontext); ereport(ERROR, __VA_ARGS__); return dummy_value; } while (0)
#define SOFT_ERROR_OCCURRED(escontext) ((void) (escontext), false)
#endif

/* 16 made the callbacks of the JSON parser return a status; 17 lets the caller allocate the lexer. */
#if PG_VERSION_NUM >= 160000
#define GaJsonStatus JsonParseErrorType
#define GA_JSON_DONE return JSON_SUCCESS
#else
#define GaJsonStatus void
#define GA_JSON_DONE return
#endif
#if PG_VERSION_NUM >= 170000
#define ga_json_lexer(json, len, encoding) makeJsonLexContextCstringLen(NULL, (json), (len), (encoding), true)
#else
#define ga_json_lexer(json, len, encoding) makeJsonLexContextCstringLen((char *) (json), (int) (len), (encoding), true)
#endif

/* 18 lets a module carry its name and version. */
#if PG_VERSION_NUM >= 180000
#define GA_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "gpuagent", .version = GA_VERSION)
#else
#define GA_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#endif							/* GA_COMPAT_H */
