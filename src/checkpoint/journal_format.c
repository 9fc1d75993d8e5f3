/*
 * journal_format.c
 *		Bytes of the journal of exports and removals.
 */
#include "checkpoint/journal_format.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC "GAJRNL01"

static void
put(char *dst, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		dst[i] = (char) (value >> (8 * i));
}

static uint64_t
get(const char *src, int bytes)
{
	uint64_t	value = 0;

	for (int i = 0; i < bytes; i++)
		value |= (uint64_t) (uint8_t) src[i] << (8 * i);
	return value;
}

void
ga_journal_put_header(char *dst, uint64_t system, uint32_t database)
{
	memset(dst, 0, GA_JOURNAL_HEADER);
	memcpy(dst, MAGIC, 8);
	put(dst + 8, system, 8);
	put(dst + 16, database, 4);
	put(dst + 28, ga_journal_crc(0, dst, 28), 4);
}

bool
ga_journal_header_is(const char *src, size_t len, uint64_t system, uint32_t database)
{
	char		wanted[GA_JOURNAL_HEADER];

	ga_journal_put_header(wanted, system, database);
	return len >= GA_JOURNAL_HEADER && memcmp(src, wanted, GA_JOURNAL_HEADER) == 0;
}

/*
 * A record: length of the whole (4), CRC-32C of all but itself (4), kind (4),
 * flags (4), serial (8), checkpoint (8), time (8), uid (16), lengths of the two
 * names (4 each), 8 zeros, the names.
 */
size_t
ga_journal_put(char *dst, const GaJournalRecord *record)
{
	size_t		name = strnlen(record->name, GA_JOURNAL_NAME);
	size_t		previous = strnlen(record->previous, GA_JOURNAL_NAME);
	size_t		len = GA_JOURNAL_FIXED + name + previous;

	memset(dst, 0, GA_JOURNAL_FIXED);
	put(dst, len, 4);
	put(dst + 8, record->kind, 4);
	put(dst + 12, record->flags, 4);
	put(dst + 16, record->serial, 8);
	put(dst + 24, (uint64_t) record->checkpoint, 8);
	put(dst + 32, (uint64_t) record->at, 8);
	memcpy(dst + 40, record->uid, 16);
	put(dst + 56, name, 4);
	put(dst + 60, previous, 4);
	memcpy(dst + GA_JOURNAL_FIXED, record->name, name);
	memcpy(dst + GA_JOURNAL_FIXED + name, record->previous, previous);
	put(dst + 4, ga_journal_crc(ga_journal_crc(0, dst, 4), dst + 8, len - 8), 4);
	return len;
}

size_t
ga_journal_get(const char *src, size_t len, GaJournalRecord *record)
{
	size_t		whole;
	size_t		name;
	size_t		previous;

	if (len < GA_JOURNAL_FIXED)
		return 0;
	whole = get(src, 4);
	if (whole < GA_JOURNAL_FIXED || whole > GA_JOURNAL_RECORD || whole > len)
		return 0;
	if (get(src + 4, 4) != ga_journal_crc(ga_journal_crc(0, src, 4), src + 8, whole - 8))
		return 0;
	name = get(src + 56, 4);
	previous = get(src + 60, 4);
	if (name > GA_JOURNAL_NAME || previous > GA_JOURNAL_NAME || GA_JOURNAL_FIXED + name + previous != whole)
		return 0;
	memset(record, 0, sizeof(*record));
	record->kind = (uint32_t) get(src + 8, 4);
	record->flags = (uint32_t) get(src + 12, 4);
	record->serial = get(src + 16, 8);
	record->checkpoint = (int64_t) get(src + 24, 8);
	record->at = (int64_t) get(src + 32, 8);
	memcpy(record->uid, src + 40, 16);
	memcpy(record->name, src + GA_JOURNAL_FIXED, name);
	memcpy(record->previous, src + GA_JOURNAL_FIXED + name, previous);
	return whole;
}

/* That a record at this place ends the one of this serial. */
typedef struct End
{
	uint64_t	serial;
	size_t		at;
} End;

static int
compare_ends(const void *a, const void *b)
{
	const End  *x = a;
	const End  *y = b;

	if (x->serial != y->serial)
		return x->serial < y->serial ? -1 : 1;
	return (x->at > y->at) - (x->at < y->at);
}

/* The records that end others, by serial and place; without memory for them none, so that all count as open. */
static End *
find_ends(const char *src, size_t len, size_t *count)
{
	size_t		room = (len - GA_JOURNAL_HEADER) / GA_JOURNAL_FIXED;
	End		   *ends = malloc((room + 1) * sizeof(End));
	GaJournalRecord record;
	size_t		whole;

	*count = 0;
	if (ends == NULL)
		return NULL;
	for (size_t at = GA_JOURNAL_HEADER; (whole = ga_journal_get(src + at, len - at, &record)) > 0; at += whole)
		if (record.kind == GA_JOURNAL_END)
			ends[(*count)++] = (End) {record.serial, at};
	qsort(ends, *count, sizeof(End), compare_ends);
	return ends;
}

/* True when a record behind `at` ends the one of this serial. */
static bool
is_ended(const End *ends, size_t count, uint64_t serial, size_t at)
{
	size_t		low = 0;
	size_t		high = count;

	while (low < high)
	{
		size_t		middle = low + (high - low) / 2;

		if (compare_ends(&ends[middle], &(End) {serial, at}) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && ends[low].serial == serial;
}

size_t
ga_journal_open_records(const char *src, size_t len, bool (*each) (const GaJournalRecord *, void *), void *arg,
						size_t *end, uint64_t *last)
{
	size_t		count = 0;
	bool		more = true;
	size_t		at = GA_JOURNAL_HEADER;
	GaJournalRecord record;
	size_t		whole;
	End		   *ends;
	size_t		nends;

	*last = 0;
	*end = 0;
	if (len < GA_JOURNAL_HEADER)
		return 0;
	ends = find_ends(src, len, &nends);
	for (; (whole = ga_journal_get(src + at, len - at, &record)) > 0; at += whole)
	{
		if (record.serial > *last)
			*last = record.serial;
		if ((record.kind != GA_JOURNAL_EXPORT && record.kind != GA_JOURNAL_REMOVAL) ||
			is_ended(ends, nends, record.serial, at))
			continue;
		count++;
		if (more && each != NULL)
			more = each(&record, arg);
	}
	free(ends);
	*end = at;
	return count;
}
