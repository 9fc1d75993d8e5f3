/*
 * graph_walk.c
 *		Numbered names and arguments of walks over knowledge graphs (graph_walk.h).
 *
 * A walk meets most of its nodes again and again, so that it knows them by
 * numbers: what it keeps of a node lies in arrays, and its name once in one
 * piece of memory.
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "port/pg_bswap.h"
#include "store/graph_walk.h"
#include "store/plan.h"
#include "store/rows.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

typedef struct Ref
{
	uint64		at;				/* of its bytes */
	uint32		len;
	uint32		hash;
} Ref;

/*
 * Most names are that short, so that a slot, half a line of a processor's cache,
 * tells by itself whether it is the name: what lies elsewhere is not in the
 * cache while a walk meets its nodes in no order.
 */
#define HEAD 20

typedef struct SlotKey
{
	uint32		number;
	uint32		hash;
	char		head[HEAD];		/* the first bytes, then zeros, which no text has */
} SlotKey;

typedef struct Slot
{
	SlotKey		key;
	char		status;
} Slot;

StaticAssertDecl(sizeof(Slot) == 32, "a slot of the table of names has 32 bytes");

struct GaNames
{
	struct slots_hash *slots;
	char	   *bytes;
	uint64		used;
	uint64		size;
	Ref		   *refs;
	uint32		count;
	uint32		capacity;		/* more than count after place() */
};

static bool same_tail(const GaNames *names, uint32 a, uint32 b);

static inline bool
same_name(const GaNames *names, const SlotKey *a, const SlotKey *b)
{
	return memcmp(a->head, b->head, HEAD) == 0 &&
		(a->head[HEAD - 1] == '\0' || same_tail(names, a->number, b->number));
}

#define SH_PREFIX slots
#define SH_ELEMENT_TYPE Slot
#define SH_KEY_TYPE SlotKey
#define SH_KEY key
#define SH_HASH_KEY(tb, key) ((key).hash)
#define SH_EQUAL(tb, a, b) same_name((const GaNames *) (tb)->private_data, &(a), &(b))
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) (a)->key.hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static bool
same_tail(const GaNames *names, uint32 a, uint32 b)
{
	const Ref  *x = &names->refs[a];
	const Ref  *y = &names->refs[b];

	return x->len == y->len && memcmp(names->bytes + x->at, names->bytes + y->at, x->len) == 0;
}

static SlotKey
key_of(GaName name, uint32 number, uint32 hash)
{
	SlotKey		key = {number, hash};

	memcpy(key.head, name.bytes, Min(name.len, HEAD));
	return key;
}

GaNames *
ga_names_create(void)
{
	GaNames    *names = palloc0(sizeof(GaNames));

	names->size = 4096;
	names->bytes = palloc(names->size);
	names->capacity = 64;
	names->refs = palloc(sizeof(Ref) * names->capacity);
	names->slots = slots_create(CurrentMemoryContext, 64, names);
	return names;
}

uint32
ga_names_count(const GaNames *names)
{
	return names->count;
}

GaName
ga_name(const GaNames *names, uint32 number)
{
	const Ref  *ref = &names->refs[number];

	return (GaName) {names->bytes + ref->at, ref->len};
}

/* Puts a name behind the others, where it can be compared with them. */
static void
place(GaNames *names, GaName name, uint32 hash)
{
	Ref		   *ref;

	if (names->used + name.len > names->size)
	{
		names->size = Max(2 * names->size, names->used + name.len);
		names->bytes = repalloc_huge(names->bytes, names->size);
	}
	if (names->count == names->capacity)
	{
		names->capacity *= 2;
		names->refs = repalloc_huge(names->refs, sizeof(Ref) * (Size) names->capacity);
	}
	ref = &names->refs[names->count];
	ref->at = names->used;
	ref->len = name.len;
	ref->hash = hash;
	memcpy(names->bytes + ref->at, name.bytes, name.len);
}

uint32
ga_names_find(GaNames *names, GaName name, uint32 *hash)
{
	Slot	   *slot;

	*hash = hash_bytes((const unsigned char *) name.bytes, name.len);
	if (name.len >= HEAD)
		place(names, name, *hash);
	slot = slots_lookup_hash(names->slots, key_of(name, names->count, *hash), *hash);
	return slot == NULL ? GA_NO_NAME : slot->key.number;
}

uint32
ga_names_add(GaNames *names, GaName name, uint32 hash)
{
	bool		found;

	if (names->count == PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a walk over a graph cannot visit more than %d nodes", PG_INT32_MAX)));
	place(names, name, hash);
	slots_insert_hash(names->slots, key_of(name, names->count, hash), hash, &found);
	Assert(!found);
	names->used += name.len;
	return names->count++;
}

uint32
ga_names_number(GaNames *names, GaName name)
{
	uint32		hash;
	uint32		number = ga_names_find(names, name, &hash);

	return number != GA_NO_NAME ? number : ga_names_add(names, name, hash);
}

void
ga_names_truncate(GaNames *names, uint32 count)
{
	if (count >= names->count)
		return;
	for (uint32 i = count; i < names->count; i++)
		slots_delete(names->slots, key_of(ga_name(names, i), i, names->refs[i].hash));
	names->used = names->refs[count].at;
	names->count = count;
}

/* ---- order ---- */

int
ga_name_cmp(GaName a, GaName b)
{
	return ga_bytes_cmp(a.bytes, a.len, b.bytes, b.len);
}

/* Eight bytes of a name, as a number of the same order, decide most comparisons. */
typedef struct SortKey
{
	uint64		prefix;
	uint32		number;
} SortKey;

static inline int
compare_keys(const SortKey *a, const SortKey *b, const GaNames *names)
{
	if (a->prefix != b->prefix)
		return a->prefix < b->prefix ? -1 : 1;
	return ga_name_cmp(ga_name(names, a->number), ga_name(names, b->number));
}

#define ST_SORT sort_keys
#define ST_ELEMENT_TYPE SortKey
#define ST_COMPARE(a, b, names) compare_keys(a, b, names)
#define ST_COMPARE_ARG_TYPE const GaNames
#define ST_CHECK_FOR_INTERRUPTS
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* How many bytes all of these names begin with. */
static int
common_prefix(const GaNames *names, const uint32 *numbers, uint32 count)
{
	GaName		first = ga_name(names, numbers[0]);
	int			common = first.len;

	for (uint32 i = 1; i < count && common > 0; i++)
	{
		GaName		name = ga_name(names, numbers[i]);

		common = Min(common, name.len);
		while (memcmp(name.bytes, first.bytes, common) != 0)
			common--;
	}
	return common;
}

void
ga_names_sort(const GaNames *names, uint32 *numbers, uint32 count)
{
	SortKey    *keys;
	int			common;

	if (count < 2)
		return;
	keys = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(SortKey) * (Size) count);
	common = common_prefix(names, numbers, count);
	for (uint32 i = 0; i < count; i++)
	{
		GaName		name = ga_name(names, numbers[i]);
		uint64		prefix = 0;

		memcpy(&prefix, name.bytes + common, Min(name.len - common, 8));
		keys[i].prefix = pg_ntoh64(prefix);
		keys[i].number = numbers[i];
	}
	sort_keys(keys, count, names);
	for (uint32 i = 0; i < count; i++)
		numbers[i] = keys[i].number;
	pfree(keys);
}

GaName
ga_name_of(Datum text_value)
{
	text	   *t = DatumGetTextPP(text_value);

	return (GaName) {VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)};
}

Datum
ga_name_datum(GaName name)
{
	return PointerGetDatum(cstring_to_text_with_len(name.bytes, name.len));
}

char *
ga_name_text(GaName name)
{
	return pnstrdup(name.bytes, name.len);
}

/* ---- arguments ---- */

void
ga_walk_argument(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what)));
}

int64
ga_walk_bounded(FunctionCallInfo fcinfo, int arg, const char *what, int64 least)
{
	if (PG_ARGISNULL(arg) || PG_GETARG_INT64(arg) < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be at least " INT64_FORMAT, what, least)));
	return PG_GETARG_INT64(arg);
}

/* One statement over indexes tells whether all is there; what is not is said by require_walk(). */
void
ga_walk_require_nodes(Datum graph, Datum ids)
{
	static GaPlan check;
	static GaPlan complain;
	static const Oid types[] = {TEXTOID, TEXTARRAYOID};
	Datum		values[] = {graph, ids};

	if (!ga_plan_ready(&check, 2, types))
	{
		ga_plan_prepare(&check,
						"SELECT FROM gpuagent.graph g WHERE g.graph OPERATOR(pg_catalog.=) $1 AND NOT EXISTS ("
						"SELECT FROM pg_catalog.unnest($2) u(id) WHERE NOT EXISTS (SELECT FROM gpuagent.graph_node n"
						" WHERE n.graph OPERATOR(pg_catalog.=) $1 AND n.id OPERATOR(pg_catalog.=) u.id OFFSET 0))",
						2, types, CURSOR_OPT_GENERIC_PLAN);
		ga_plan_nested(&check);
	}
	if (ga_plan_run(&check, values, NULL, true, NULL) == 1)
		return;
	if (!ga_plan_ready(&complain, 2, types))
		ga_plan_prepare(&complain, "SELECT gpuagent_store.require_walk($1, $2)", 2, types, 0);
	ga_plan_run(&complain, values, NULL, true, NULL);
}
