/*
 * st_header.h
 *		Headers of safetensors files, read strictly. Plain C: nothing here knows of
 *		PostgreSQL, so that test/fuzz can do its worst to it.
 *
 * A file is: header length N (8 bytes, little-endian), N bytes of JSON, data.
 * Offsets count from the start of the data.
 */
#ifndef GA_ST_HEADER_H
#define GA_ST_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "math/dtype.h"

#define GA_ST_PREFIX 8
#define GA_ST_MAX_HEADER 100000000
#define GA_ST_MAX_NESTING 64	/* of values under keys that the format does not define */
#define GA_ST_SHOWN_NAME 100	/* bytes of a name in a message */
#define GA_ST_REASON 512		/* bytes of a message, its end included */

typedef struct GaStTensor
{
	char	   *name;
	int			dtype;
	int			ndim;
	int64_t		dims[GA_MAX_RANK];
	uint64_t	begin;
	uint64_t	nbytes;
	int			source;			/* the builder's caller may number its tensors; they get sorted */
} GaStTensor;

/* A key and value of __metadata__. */
typedef struct GaStPair
{
	char	   *key;
	char	   *value;
} GaStPair;

typedef struct GaStHeader
{
	void	   *context;		/* for whoever parsed; the parser leaves it alone */
	int			ntensors;
	GaStTensor *tensors;		/* in the order of their data */
	int			npairs;
	GaStPair   *pairs;			/* in the order of the file */
	uint64_t	data_bytes;
	char	   *strings;		/* all names, keys and values */
} GaStHeader;

/* As realloc(), but never gives NULL: it may leave by longjmp(), as nothing has to be released here. */
typedef void *(*GaStAllocate) (void *pointer, size_t nbytes);

/*
 * Length N of the header from the first 8 bytes of a file of file_bytes. False,
 * and why, when the file cannot be a safetensors file.
 */
extern bool ga_st_read_length(const char *prefix, uint64_t file_bytes, uint64_t *length, char reason[GA_ST_REASON]);

/*
 * Reads the N bytes of JSON of a file with data_bytes of data behind it; names
 * are in UTF-8. False, and exactly why, for what violates the format: whatever
 * its reference reader refuses, and duplicate keys and metadata that are not
 * strings too. Memory comes from allocate, about N bytes and the two arrays.
 */
extern bool ga_st_read_header(const char *json, size_t len, uint64_t data_bytes, GaStAllocate allocate,
							  GaStHeader *header, char reason[GA_ST_REASON]);

/* Bytes of a name to show in a message: at most GA_ST_SHOWN_NAME, whole characters of UTF-8. */
extern size_t ga_st_shown_bytes(const char *name);

/* A name that two tensors, or a key that two pairs have; NULL when there is none. */
extern const char *ga_st_duplicate_tensor(const GaStTensor *tensors, int count, GaStAllocate allocate);
extern const char *ga_st_duplicate_pair(const GaStPair *pairs, int count, GaStAllocate allocate);

#endif							/* GA_ST_HEADER_H */
