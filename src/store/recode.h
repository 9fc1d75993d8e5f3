/*
 * recode.h
 *		Other encodings of stored chunks, computed by parallel workers and not yet
 *		written: what compact.c then inserts and deletes.
 *
 * Every content that is read is checked against its hash, and every encoding is
 * decoded again and compared, before anybody may rely on it.
 */
#ifndef GA_RECODE_H
#define GA_RECODE_H

#include "base/compat.h"
#include "storage/itemptr.h"
#include "store/store.h"

typedef enum GaRecodeKind
{
	GA_RECODE_ROW,				/* rows of chunk: which is good, and the content packed as the settings say now */
	GA_RECODE_WHOLE,			/* a chunk that is stored as a delta: its content packed the same way */
	GA_RECODE_DELTA,			/* a row of chunk: its difference from `base`, which has one */
	GA_RECODE_CHECK				/* nothing but reading the chunk as a delta */
} GaRecodeKind;

typedef struct GaRecode
{
	/* asked for */
	GaRecodeKind kind;
	GaHash		hash;
	GaHash		base;

	/* found */
	bool		good;			/* false: missing or damaged, nothing below says anything */
	uint32		nbytes;			/* raw */
	uint32		stored;			/* bytes of the row that was read */
	ItemPointerData row;		/* of kind ROW: a row that has the content, the smallest such */
	int			width;
	int			codec;			/* of `packed` */
	uint16		leaves;			/* of kind DELTA */
	uint32		crc;			/* of the new row */
	uint32		size;			/* of `packed` */
	char	   *packed;			/* memory of the context that ga_recode was called in; NULL for CHECK */
} GaRecode;

/* Tasks that are worth a call. */
#define GA_RECODE_BATCH 32

/*
 * Works on n tasks, at most GA_RECODE_BATCH, with up to max_parallel_maintenance_workers workers. Counts progress and keeps to the rate.
 * The caller is connected to SPI and has an active snapshot under which it wants to read.
 */
extern void ga_recode(GaRecode *tasks, int n);

#endif							/* GA_RECODE_H */
