/*
 * journal.h
 *		The journal of this database's exports and removals, wal/exports-*: what is
 *		begun is written and synced before it is done, so that a crash in between
 *		leaves a note for who comes next.
 */
#ifndef GA_JOURNAL_H
#define GA_JOURNAL_H

#include "base/compat.h"
#include "checkpoint/journal_format.h"

/*
 * Notes what is about to be done and gives its serial, which the record gets as
 * well. ERROR when that cannot be made durable, 55P03 when others keep the
 * journal locked. 0, without a record, for a removal that the disk has no room to
 * note.
 */
extern uint64 ga_journal_begin(GaJournalRecord *record);

/*
 * Notes that it is over. Never throws and waits for a moment at most, so that it
 * may be called after a commit: what cannot be noted is found out again by who
 * replays. To be called in the transaction of ga_journal_begin or
 * ga_journal_attach, or its end.
 */
extern void ga_journal_end(uint64 serial);

/* Makes ga_journal_end possible for records of others. */
extern void ga_journal_attach(void);

/* What was begun and is not over, in order; an array in the current context, its length in *count. */
extern GaJournalRecord *ga_journal_read(int *count);

/* At the end of the transaction, when ga_journal_end is not called any more. Never throws. */
extern void ga_journal_detach(void);

#endif							/* GA_JOURNAL_H */
