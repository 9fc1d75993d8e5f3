/*
 * fuzz_journal.c
 *		The journal of exports. An input writes one and then damages it:
 *
 *		byte 0		bits 0-4: number of records, bit 7: whoever did the damage fits the checksums
 *		4 a record	kind, serial, length of its name, length of the previous one
 *		3 a change	offset (16 bits), what is XORed to the byte there
 *
 * An input is accepted when the whole journal is read. Records that are read are
 * compared with a second reading, that of this file.
 */
#include "checkpoint/journal_format.h"
#include "fuzz.h"

#include <string.h>

#define MAX_RECORDS 31

const char	fuzz_name[] = "journal";

const FuzzSeed fuzz_seeds[] = {
	SEED("\0"),
	SEED("\x01\x01\x01\x10\x00"),
	SEED("\x03\x01\x01\x10\x10\x02\x02\xff\x00\x03\x01\x00\x00"),
	SEED("\x05\x01\x01\x19\x19\x01\x02\x19\x19\x03\x02\x00\x00\x02\x03\x19\x00\x03\x03\x00\x00"),
	SEED("\x82\x01\x01\x10\x00\x01\x02\x10\x00\x30\x00\x02"),
	{NULL, 0}
};

const FuzzSeed fuzz_tokens[] = {
	SEED("\x01\x01\xff\xff"), SEED("\x02\x01\x00\x00"), SEED("\x03\x01\x00\x00"), SEED("\x20\x00\xff"), SEED("\x21\x00\x01"), SEED("\x58\x00\x80"), SEED("\x5c\x00\xff"), SEED("\x84"),
	{NULL, 0}
};

/* Bit by bit: not the server's. */
uint32_t
ga_journal_crc(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *bytes = data;

	crc = ~crc;
	for (size_t i = 0; i < len; i++)
	{
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
	}
	return ~crc;
}

/* The format once more: the checksum covers the length and all behind itself. */
static uint32_t
checksum(const char *record, size_t len)
{
	return ga_journal_crc(ga_journal_crc(0, record, 4), record + 8, len - 8);
}

static uint32_t
number(const char *src)
{
	uint32_t	value;

	memcpy(&value, src, 4);
	return value;
}

static size_t
write_journal(char *journal, const uint8_t *script, int count)
{
	size_t		at = GA_JOURNAL_HEADER;

	ga_journal_put_header(journal, 7, 8);
	for (int i = 0; i < count; i++, script += 4)
	{
		GaJournalRecord record = {.kind = script[0],.serial = script[1],.checkpoint = i,.at = -i};

		memset(record.name, 'n', script[2]);
		memset(record.previous, 'p', script[3]);
		at += ga_journal_put(journal + at, &record);
	}
	return at;
}

static void
fit_checksums(char *journal, size_t len)
{
	for (size_t at = GA_JOURNAL_HEADER; at + GA_JOURNAL_FIXED <= len;)
	{
		uint32_t	whole = number(journal + at);
		uint32_t	crc;

		if (whole < GA_JOURNAL_FIXED || whole > len - at)
			return;
		crc = checksum(journal + at, whole);
		memcpy(journal + at + 4, &crc, 4);
		at += whole;
	}
}

static bool
see(const GaJournalRecord *record, void *arg)
{
	GaJournalRecord *seen = arg;

	FUZZ_CHECK(strlen(record->name) <= GA_JOURNAL_NAME && strlen(record->previous) <= GA_JOURNAL_NAME);
	seen[0].serial++;
	seen[seen[0].serial] = *record;
	return true;
}

bool
fuzz_run(const uint8_t *data, size_t size)
{
	int			count = size > 0 ? data[0] & MAX_RECORDS : 0;
	char	   *journal = fuzz_allocate(NULL, GA_JOURNAL_HEADER + MAX_RECORDS * GA_JOURNAL_RECORD);
	GaJournalRecord *seen = fuzz_allocate(NULL, sizeof(GaJournalRecord) * (8 * MAX_RECORDS + 1));
	GaJournalRecord *read = fuzz_allocate(NULL, sizeof(GaJournalRecord) * (8 * MAX_RECORDS + 1));
	char	   *exact;
	size_t		len;
	size_t		end;
	size_t		at = GA_JOURNAL_HEADER;
	size_t		nread = 0;
	size_t		nopen = 0;
	uint64_t	last;
	uint64_t	highest = 0;

	if (size < 1 + 4 * (size_t) count)
		return false;
	len = write_journal(journal, data + 1, count);
	for (size_t i = 1 + 4 * (size_t) count; i + 3 <= size; i += 3)
		journal[(data[i] | data[i + 1] << 8) % len] ^= data[i + 2];
	if (data[0] & 0x80)
		fit_checksums(journal, len);
	exact = fuzz_allocate(NULL, len);
	memcpy(exact, journal, len);

	seen[0].serial = 0;
	FUZZ_CHECK(ga_journal_open_records(exact, len, see, seen, &end, &last) == seen[0].serial);
	FUZZ_CHECK(end >= GA_JOURNAL_HEADER && end <= len);

	/* All records, by the second reading; then those that none behind them ends. */
	while (len - at >= GA_JOURNAL_FIXED)
	{
		uint32_t	whole = number(exact + at);
		uint32_t	name = number(exact + at + 56);
		uint32_t	previous = number(exact + at + 60);

		if (whole < GA_JOURNAL_FIXED || whole > len - at || name > GA_JOURNAL_NAME || previous > GA_JOURNAL_NAME ||
			GA_JOURNAL_FIXED + name + previous != whole || number(exact + at + 4) != checksum(exact + at, whole))
			break;
		FUZZ_CHECK(ga_journal_get(exact + at, whole, &read[nread]) == whole);
		FUZZ_CHECK(ga_journal_get(exact + at, whole - 1, &read[nread]) == 0);
		FUZZ_CHECK(memcmp(read[nread].name, exact + at + GA_JOURNAL_FIXED, name) == 0 && read[nread].name[name] == '\0');
		FUZZ_CHECK(memcmp(read[nread].previous, exact + at + GA_JOURNAL_FIXED + name, previous) == 0 && read[nread].previous[previous] == '\0');
		highest = read[nread].serial > highest ? read[nread].serial : highest;
		nread++;
		at += whole;
	}
	FUZZ_CHECK(at == end && last == highest);
	for (size_t i = 0; i < nread; i++)
	{
		bool		ended = read[i].kind != GA_JOURNAL_EXPORT && read[i].kind != GA_JOURNAL_REMOVAL;

		for (size_t k = i + 1; k < nread; k++)
			ended |= read[k].kind == GA_JOURNAL_END && read[k].serial == read[i].serial;
		if (!ended)
			FUZZ_CHECK(memcmp(&seen[++nopen], &read[i], sizeof(GaJournalRecord)) == 0);
	}
	FUZZ_CHECK(nopen == seen[0].serial);
	return end == len && ga_journal_header_is(exact, len, 7, 8);
}
