/*
 * safetensors.h
 *		Headers of safetensors files: the parser of st_header.h for the server, and
 *		a builder. Both work on memory and know nothing of files; names are in the
 *		server's encoding.
 */
#ifndef GA_SAFETENSORS_H
#define GA_SAFETENSORS_H

#include "base/compat.h"
#include "checkpoint/st_header.h"
#include "lib/stringinfo.h"

#define GA_ST_ALIGN 4096

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
