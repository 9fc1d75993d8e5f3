/*
 * rows.h
 *		Aligned array arguments of the bulk functions: ids, values, metadata and
 *		the rows of a matrix.
 */
#ifndef GA_ROWS_H
#define GA_ROWS_H

#include "base/compat.h"
#include "tensor/tensor.h"

/* One id of a text[], by reference into the array. */
typedef struct GaIdRef
{
	const char *bytes;
	int			len;
	int			row;			/* 0-based position in the array */
	Datum		datum;
} GaIdRef;

/* Order of text COLLATE "C". */
extern int	ga_bytes_cmp(const char *a, int alen, const char *b, int blen);

/*
 * The elements of a one-dimensional text[] in input order. Throws 22023 for more
 * dimensions and bad names, 22004 for NULLs; what ("agent id") is for messages.
 */
extern GaIdRef *ga_ids(Datum array, const char *what, int *count);

/* The same in id order, so that concurrent statements lock rows in one order; 21000 for duplicates. */
extern GaIdRef *ga_sorted_ids(Datum array, const char *what, int *count);

/* The id as a C string, for messages. */
extern char *ga_id_text(const GaIdRef *id);

/* Elements of an array that is aligned to n ids; 22023 when it has another length. */
extern void ga_aligned_array(Datum array, Oid type, const char *what, int n, Datum **values, bool **nulls);

/*
 * Metadata of rows: an object is for all of them, an array has one object, or
 * null for an empty one, per row. The check throws 22023 for anything else.
 */
extern void ga_metadata_check(Datum metadata, int n);
extern Datum ga_metadata_row(Datum metadata, int row);

/* Rows of dimension 0 of a matrix, one at a time in one reused buffer. */
typedef struct GaSlices
{
	const GaKind *kind;
	GaView		view;
	uint64		row_bytes;
	GaTensor   *row;
	char	   *data;
} GaSlices;

/* Memory is taken from the current context. 22023 when the matrix does not have n rows; 54000 for rows too large for kind. */
extern void ga_slices_begin(GaSlices *slices, Datum matrix, const GaKind *kind, const char *what, int n);

/* A value of the kind that is valid until the next call; 22003 when the kind refuses its elements. */
extern Datum ga_slices_row(GaSlices *slices, int row);

#endif							/* GA_ROWS_H */
