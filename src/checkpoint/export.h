/*
 * export.h
 *		What the SQL functions that write files share.
 */
#ifndef GA_EXPORT_H
#define GA_EXPORT_H

#include "base/compat.h"
#include "checkpoint/tree.h"
#include "executor/spi.h"
#include "nodes/execnodes.h"

/* A cursor over a query with the caller's rights and snapshot; read-only. Connected to SPI. */
extern Portal ga_export_cursor(const char *query);

/* Fetches some rows into SPI_tuptable and frees the ones before; false at the end. SPI_tuptable is NULL at the start. */
extern bool ga_export_fetch(Portal portal);

/* Appends the rows of a query of one text column to a file, a line each. Returns their number. */
extern uint64 ga_export_lines(GaFile *file, const char *query);

/* Adds a result row (file, items, nbytes, sha256). */
extern void ga_put_file_row(ReturnSetInfo *rsinfo, const char *name, uint64 items, uint64 nbytes, const uint8 *sha256);

#endif							/* GA_EXPORT_H */
