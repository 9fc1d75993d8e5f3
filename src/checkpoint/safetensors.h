/*
 * safetensors.h
 *		Headers of safetensors files: a strict parser and a builder. Both work on
 *		memory and know nothing of files.
 *
 * A file is: header length N (8 bytes, little-endian), N bytes of JSON, data.
 * Offsets count from the start of the data.
 */
#ifndef GA_SAFETENSORS_H
#define GA_SAFETENSORS_H

#include "base/compat.h"
#include "lib/stringinfo.h"
#include "math/dtype.h"

#define GA_ST_PREFIX 8
#define GA_ST_MAX_HEADER 100000000
#define GA_ST_ALIGN 4096

typedef struct GaStTensor
{
	char	   *name;			/* in the server's encoding */
	int			dtype;
	int			ndim;
	int64		dims[GA_MAX_RANK];
	uint64		begin;
	uint64		nbytes;
	int			source;			/* the builder's caller may number its tensors; they get sorted */
} GaStTensor;

/* A key and value of __metadata__, in the server's encoding. */
typedef struct GaStPair
{
	char	   *key;
	char	   *value;
} GaStPair;

typedef struct GaStHeader
{
	MemoryContext context;		/* holds this and all it points to */
	int			ntensors;
	GaStTensor *tensors;		/* in the order of their data */
	int			npairs;
	GaStPair   *pairs;			/* in the order of the file */
	uint64		data_bytes;
} GaStHeader;

/*
 * Length N of the header from the first 8 bytes of a file of file_bytes. ERROR
 * XX001, the detail says why, when the file cannot be a safetensors file.
 */
extern uint64 ga_st_header_length(const char *prefix, uint64 file_bytes);

/*
 * Parses the N bytes of JSON of a file with data_bytes of data behind it. What
 * violates the format is ERROR XX001 with the exact reason in the detail.
 */
extern GaStHeader *ga_st_parse(const char *json, size_t len, uint64 data_bytes);
extern void ga_st_free(GaStHeader *header);

/*
 * Sorts tensors by element width descending, then name, sets begin and nbytes,
 * and appends prefix and JSON to buf, so padded that data starts at a multiple
 * of GA_ST_ALIGN. Returns the bytes of data. ERROR 54000 when the header would
 * be longer than readers accept, 22023 for names that cannot stand in one.
 */
extern uint64 ga_st_build(StringInfo buf, GaStTensor *tensors, int ntensors,
						  const GaStPair *pairs, int npairs);

/* Appends text of the server's encoding as a JSON string in UTF-8. */
extern void ga_st_append_string(StringInfo buf, const char *text);

#endif							/* GA_SAFETENSORS_H */
