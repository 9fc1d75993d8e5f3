/*
 * test_journal.c
 *		The journal of exports: its bytes against those of another implementation
 *		(the test vector of doc/formats.md), and journals that are torn or hostile.
 */
#include "unit.h"
#include "checkpoint/journal_format.h"

static size_t checksummed = 0;

/* Bit by bit: not the server's. */
uint32_t
ga_journal_crc(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *bytes = data;

	checksummed += len;
	crc = ~crc;
	for (size_t i = 0; i < len; i++)
	{
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
	}
	return ~crc;
}

static const char *const vector_header =
	"47414a524e4c3031080706050403020105000000000000000000000051ab37cf";
static const char *const vector_export =
	"54000000c000873701000000010000000100000000000000070000000000000040420f00000000000001020304050607"
	"08090a0b0c0d0e0f06000000060000000000000000000000636b70742d37636b70742d30";
static const char *const vector_end =
	"480000009993322303000000000000000100000000000000000000000000000080841e00000000000000000000000000"
	"000000000000000000000000000000000000000000000000";

static char journal[256 * 1024];
static size_t journal_len;
static char seen[512];

static void
add(GaJournalRecord record)
{
	journal_len += ga_journal_put(journal + journal_len, &record);
}

static GaJournalRecord
export_of(uint64_t serial, const char *name)
{
	GaJournalRecord record = {.kind = GA_JOURNAL_EXPORT,.flags = GA_JOURNAL_WROTE,.serial = serial,.checkpoint = 7,.at = 1000000};

	for (int i = 0; i < 16; i++)
		record.uid[i] = (uint8_t) i;
	strcpy(record.name, name);
	strcpy(record.previous, "ckpt-0");
	return record;
}

static GaJournalRecord
end_of(uint64_t serial)
{
	return (GaJournalRecord) {.kind = GA_JOURNAL_END,.serial = serial,.at = 2000000};
}

static void
start(void)
{
	journal_len = GA_JOURNAL_HEADER;
	ga_journal_put_header(journal, 0x0102030405060708ull, 5);
}

static bool
collect(const GaJournalRecord *record, void *arg)
{
	(void) arg;
	snprintf(seen + strlen(seen), sizeof(seen) - strlen(seen), "%d:%d:%s ", (int) record->kind, (int) record->serial, record->name);
	return true;
}

/* Open records as text, "kind:serial:name " each. */
static const char *
open_of(size_t len, size_t *end)
{
	uint64_t	last;

	seen[0] = '\0';
	(void) ga_journal_open_records(journal, len, collect, NULL, end, &last);
	return seen;
}

static bool
is_hex(const char *bytes, size_t len, const char *hex)
{
	if (strlen(hex) != 2 * len)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		two[3];

		snprintf(two, sizeof(two), "%02x", (uint8_t) bytes[i]);
		if (memcmp(two, hex + 2 * i, 2) != 0)
			return false;
	}
	return true;
}

static void
test_vector(void)
{
	GaJournalRecord record;
	size_t		first;

	start();
	result(is_hex(journal, journal_len, vector_header), "a header is that of the vector");
	result(ga_journal_header_is(journal, journal_len, 0x0102030405060708ull, 5) && !ga_journal_header_is(journal, journal_len, 1, 5) &&
		   !ga_journal_header_is(journal, journal_len, 0x0102030405060708ull, 6) &&
		   !ga_journal_header_is(journal, journal_len - 1, 0x0102030405060708ull, 5), "it is known for its server and database alone");
	add(export_of(1, "ckpt-7"));
	first = journal_len - GA_JOURNAL_HEADER;
	result(is_hex(journal + GA_JOURNAL_HEADER, first, vector_export), "so is the record of an export");
	add(end_of(1));
	result(is_hex(journal + GA_JOURNAL_HEADER + first, journal_len - GA_JOURNAL_HEADER - first, vector_end), "and that of its end");
	result(ga_journal_get(journal + GA_JOURNAL_HEADER, first, &record) == first && record.kind == GA_JOURNAL_EXPORT && record.flags == GA_JOURNAL_WROTE &&
		   record.serial == 1 && record.checkpoint == 7 && record.at == 1000000 && record.uid[15] == 15 &&
		   strcmp(record.name, "ckpt-7") == 0 && strcmp(record.previous, "ckpt-0") == 0, "which is read as it was written");
}

static void
test_open(void)
{
	size_t		end;
	uint64_t	last;

	start();
	result(strcmp(open_of(journal_len, &end), "") == 0 && end == journal_len, "a new journal has nothing open");
	add(export_of(1, "a"));
	add(export_of(2, "b"));
	add(end_of(1));
	add(export_of(3, "c"));
	add(end_of(9));
	result(strcmp(open_of(journal_len, &end), "1:2:b 1:3:c ") == 0 && end == journal_len, "what no record ends is open");
	result(ga_journal_open_records(journal, journal_len, NULL, NULL, &end, &last) == 2 && last == 9, "the highest serial is known, too");
	add(end_of(3));
	add(end_of(2));
	result(strcmp(open_of(journal_len, &end), "") == 0, "in whatever order they end");
}

/* A journal of many records is read as often as there are records: each time its bytes are looked at a few times. */
static void
test_long(void)
{
	size_t		end;
	uint64_t	last;

	start();
	for (int i = 1; i <= 1000; i++)
		add(export_of(i, "many"));
	for (int i = 1000; i > 1; i--)
		add(end_of(i));
	checksummed = 0;
	result(ga_journal_open_records(journal, journal_len, NULL, NULL, &end, &last) == 1 && end == journal_len && last == 1000,
		   "a thousand that end in reverse order");
	result(checksummed <= 2 * journal_len, "take two readings of the bytes");
}

/* Cut at each byte, a journal says what its whole records say, and where they stop. */
static void
test_torn(void)
{
	size_t		ends[4] = {GA_JOURNAL_HEADER};
	const char *expected[4] = {"", "1:1:one ", "1:1:one 1:2:two ", "1:2:two "};
	bool		good = true;

	start();
	add(export_of(1, "one"));
	ends[1] = journal_len;
	add(export_of(2, "two"));
	ends[2] = journal_len;
	add(end_of(1));
	ends[3] = journal_len;
	for (size_t len = GA_JOURNAL_HEADER; len <= journal_len; len++)
	{
		size_t		end;
		int			whole = len >= ends[3] ? 3 : len >= ends[2] ? 2 : len >= ends[1] ? 1 : 0;

		if (strcmp(open_of(len, &end), expected[whole]) != 0 || end != ends[whole])
			good &= differ("cut at %zu: \"%s\", whole up to %zu", len, seen, end);
	}
	result(good, "a torn tail is ignored, wherever it is torn");
}

/* Any one bit changed anywhere in the second record: it and what follows do not count. */
static void
test_flipped(void)
{
	size_t		first;
	size_t		second;
	size_t		end;
	bool		good = true;

	start();
	add(export_of(1, "one"));
	first = journal_len;
	add(export_of(2, "two"));
	second = journal_len;
	add(end_of(1));
	for (size_t bit = first * 8; bit < second * 8; bit++)
	{
		journal[bit / 8] ^= 1 << bit % 8;
		if (strcmp(open_of(journal_len, &end), "1:1:one ") != 0 || end != first)
			good &= differ("bit %zu: \"%s\", whole up to %zu", bit, seen, end);
		journal[bit / 8] ^= 1 << bit % 8;
	}
	result(good, "no changed bit goes unnoticed");
}

static void
test_hostile(void)
{
	static const uint32_t lengths[] = {0, 1, 8, GA_JOURNAL_FIXED - 1, GA_JOURNAL_RECORD + 1, 0x7fffffff, 0x80000000, 0xffffffff};
	GaJournalRecord record;
	bool		good = true;
	char	   *exact;

	for (size_t i = 0; i < LENGTH(lengths); i++)
	{
		start();
		add(export_of(1, "one"));
		memcpy(journal + GA_JOURNAL_HEADER, &lengths[i], 4);
		good &= ga_journal_get(journal + GA_JOURNAL_HEADER, sizeof(journal) - GA_JOURNAL_HEADER, &record) == 0;
	}
	result(good, "impossible lengths are refused");

	/* On memory of exactly that size, so that the sanitizers see a byte too many. */
	good = true;
	for (int i = 0; i < 20000; i++)
	{
		size_t		len = next_random() % (3 * GA_JOURNAL_RECORD);
		size_t		end;
		uint64_t	last;

		exact = malloc(len + 1);
		start();
		while (journal_len < len)
			add(export_of(next_random() % 4, "name"));
		memcpy(exact, journal, len);
		for (int k = next_random() % 4; k > 0 && len > 0; k--)
			exact[next_random() % len] = (char) next_random();
		(void) ga_journal_open_records(exact, len, NULL, NULL, &end, &last);
		good &= end <= len;
		free(exact);
	}
	result(good, "random damage is read within bounds");
	record = export_of(1, "");
	memset(record.name, 'x', GA_JOURNAL_NAME);
	memset(record.previous, 'y', GA_JOURNAL_NAME);
	start();
	result(ga_journal_put(journal, &record) == GA_JOURNAL_RECORD && ga_journal_get(journal, GA_JOURNAL_RECORD, &record) == GA_JOURNAL_RECORD &&
		   strlen(record.name) == GA_JOURNAL_NAME && record.previous[GA_JOURNAL_NAME - 1] == 'y', "the longest names fit");
}

int
main(void)
{
	test_vector();
	test_open();
	test_long();
	test_torn();
	test_flipped();
	test_hostile();
	return finish();
}
