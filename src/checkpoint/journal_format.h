/*
 * journal_format.h
 *		Bytes of the journal of exports and removals (doc/formats.md). Plain C, on
 *		memory; knows nothing of files and trusts nothing that it reads.
 *
 * A file is a header and records. A record counts when its length is possible
 * and its checksum right; the first that does not ends the journal: it is what
 * a crash left of a write.
 */
#ifndef GA_JOURNAL_FORMAT_H
#define GA_JOURNAL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GA_JOURNAL_HEADER 32
#define GA_JOURNAL_FIXED 72		/* bytes of a record before its names */
#define GA_JOURNAL_NAME 255		/* longest name */
#define GA_JOURNAL_RECORD (GA_JOURNAL_FIXED + 2 * GA_JOURNAL_NAME)

typedef enum GaJournalKind
{
	GA_JOURNAL_EXPORT = 1,		/* name is about to appear, with this checkpoint in it */
	GA_JOURNAL_REMOVAL = 2,		/* name is about to go */
	GA_JOURNAL_END = 3			/* what the record of this serial announced has come to its end */
} GaJournalKind;

#define GA_JOURNAL_WROTE 1		/* flag of an export: the folder is given its name by it; else it was there */

typedef struct GaJournalRecord
{
	uint32_t	kind;
	uint32_t	flags;
	uint64_t	serial;
	int64_t		checkpoint;
	int64_t		at;				/* microseconds since 1970 */
	uint8_t		uid[16];		/* of the checkpoint */
	char		name[GA_JOURNAL_NAME + 1];	/* of a folder in nvme_storage */
	char		previous[GA_JOURNAL_NAME + 1];	/* what "latest" named before; empty: nothing, or it is left alone */
} GaJournalRecord;

/* CRC-32C of what came before (0: nothing) and of these bytes. Of whoever links this: the server's, or a test's. */
extern uint32_t ga_journal_crc(uint32_t crc, const void *data, size_t len);

extern void ga_journal_put_header(char *dst, uint64_t system, uint32_t database);
extern bool ga_journal_header_is(const char *src, size_t len, uint64_t system, uint32_t database);

/* Writes a record to dst, which has room for GA_JOURNAL_RECORD bytes; its length. Names are cut at GA_JOURNAL_NAME. */
extern size_t ga_journal_put(char *dst, const GaJournalRecord *record);

/* The record at src: its length, or 0 when there is none that is whole. */
extern size_t ga_journal_get(const char *src, size_t len, GaJournalRecord *record);

/*
 * Calls each record that no other one ends, in order, until the callback (which
 * may be NULL) says false; how many there are. *end is where the whole records
 * stop, *last the highest serial.
 */
extern size_t ga_journal_open_records(const char *src, size_t len, bool (*each) (const GaJournalRecord *, void *),
									  void *arg, size_t *end, uint64_t *last);

#endif							/* GA_JOURNAL_FORMAT_H */
