/*
 * pgvector.h
 *		Values of pgvector's types vector and halfvec, read and built without its
 *		code. Their layout is that of pgvector's vector.h and halfvec.h, which
 *		dumps in binary and pg_upgrade keep as it is.
 */
#ifndef GA_PGVECTOR_H
#define GA_PGVECTOR_H

#include "base/compat.h"

#define GA_PGVECTOR_MAX_DIM 16000

typedef struct GaPgvector
{
	int32		vl_len_;
	int16		dim;
	int16		unused;			/* zero */
	char		elements[FLEXIBLE_ARRAY_MEMBER];	/* F32, or F16 for halfvec */
} GaPgvector;

/* One of the two types. */
typedef struct GaPgvectorKind
{
	const char *name;
	int			dtype;
	size_t		width;
} GaPgvectorKind;

extern const GaPgvectorKind ga_pgvector_vector;
extern const GaPgvectorKind ga_pgvector_halfvec;

/* Detoasts a value, in the datum or in the current memory context; XX001 when it is not one of that type. */
extern const GaPgvector *ga_pgvector_get(Datum value, const GaPgvectorKind *kind);

#endif							/* GA_PGVECTOR_H */
