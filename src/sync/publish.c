/*
 * publish.c
 *		What is written into users' tables becomes facts: triggers per statement,
 *		which exist only on a node that has, or had, a peer.
 *
 * Everything runs as the owner of the tables, in the transaction of the write:
 * facts are committed with it or not at all. All facts of a transaction have one
 * time of the clock (merge.h), which is above that of all facts it could see.
 *
 * A node is a database of a server. A copy of it (a restored dump, another
 * database made from it) has the row that says so, but not the server and the
 * database it names, and publishes nothing until it is made a node of its own.
 * In a copy of the whole server nothing may be written before peers have
 * confirmed that it is the node now (identity.c, write_beat()).
 */
#include "base/compat.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "base/guc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "store/store.h"
#include "store/table.h"
#include "sync/merge.h"
#include "sync/sync.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

bool		ga_sync_following = false;

/* A class of facts: of which table (NULL: it is not there that they come from), and its rows as items (object, part, deleted, version, fitness, hlc, body, parts). */
typedef struct Class
{
	const char *name;
	const char *table;
	bool	   *enabled;
	const char *insert;			/* items of new_rows */
	const char *update;			/* of new_rows and old_rows */
	const char *delete;			/* of old_rows; NULL: rows of this table do not go by themselves */
	const char *existing;		/* of the table: what has no fact yet, at the time when it was written */
	bool		tensors;		/* its parts are hashes of tensors */
} Class;

/*
 * Statements of this file are planned once in a backend: planning them takes longer than running them. Not for many rows,
 * though, for which another plan may be the right one.
 */
#define FEW_ROWS 100

typedef struct Plans
{
	SPIPlanPtr	insert;
	SPIPlanPtr	update;
	SPIPlanPtr	delete;
} Plans;

#define NOT_YET(class, object, part) \
	" WHERE NOT EXISTS (SELECT FROM gpuagent_store.head h WHERE h.class = '" class "' AND h.object = " object " AND h.part = " part ")"

#define AGENT(source, hlc) \
	"SELECT n.id AS object, ''::text AS part, false AS deleted, n.version, n.fitness, " hlc " AS hlc, " \
	"jsonb_build_object('generation', n.generation, 'metadata', n.metadata, 'state', gpuagent_store.value_shape(n.state), " \
	"'memory', gpuagent_store.value_shape(n.memory)) AS body, " \
	"ARRAY[gpuagent.tensor_bytes(n.state), gpuagent.tensor_bytes(n.memory)] AS parts FROM " source

#define CONFIG(source, hlc) \
	"SELECT n.expert AS object, ''::text AS part, false AS deleted, n.version, NULL::float8 AS fitness, " hlc " AS hlc, " \
	"jsonb_build_object('domain', n.domain, 'parameter_count', n.parameter_count, 'learning_rate', n.learning_rate::text, " \
	"'architecture', n.architecture, 'metadata', n.metadata) AS body, NULL::bytea[] AS parts FROM " source

/* An expert that was only made for its weights says nothing of its configuration. */
#define CONFIGURED \
	"(n.domain IS NOT NULL OR n.parameter_count IS NOT NULL OR n.learning_rate IS NOT NULL OR n.architecture IS NOT NULL OR n.metadata <> '{}')"

#define WEIGHT(source, hlc) \
	"SELECT n.expert AS object, n.layer AS part, n.deleted, n.version, NULL::float8 AS fitness, " hlc " AS hlc, " \
	"jsonb_build_object('metadata', n.metadata) AS body, ARRAY[n.weights, n.biases] AS parts FROM " source

/* The newest row of a layer is its value. */
#define NEWEST \
	"NOT EXISTS (SELECT FROM gpuagent.weight_version v WHERE v.expert = n.expert AND v.layer = n.layer AND v.version > n.version)"

#define GONE(object, part, version, source) \
	"SELECT " object " AS object, " part " AS part, true AS deleted, " version " AS version, NULL::float8 AS fitness, " \
	"NULL::bigint AS hlc, '{}'::jsonb AS body, NULL::bytea[] AS parts FROM " source

#define NOW "NULL::bigint"
#define AT(column) "gpuagent_store.clock_at(" column ")"

static const Class classes[] = {
	{
		.name = "agent",.table = "agent",.enabled = &ga_enable_agent_sync,
		.insert = AGENT("new_rows n", NOW),
		.update = AGENT("new_rows n", NOW)
		" UNION ALL " GONE("o.id", "''", "o.version + 1", "old_rows o WHERE NOT EXISTS (SELECT FROM new_rows n WHERE n.id = o.id)"),
		.delete = GONE("o.id", "''", "o.version + 1", "old_rows o"),
		.existing = AGENT("gpuagent.agent n", AT("n.updated_at")) NOT_YET("agent", "n.id", "''"),
	},
	{
		.name = "config",.table = "expert",.enabled = &ga_enable_config_sync,
		.insert = CONFIG("new_rows n WHERE " CONFIGURED, NOW),
		.update = CONFIG("new_rows n WHERE NOT EXISTS (SELECT FROM old_rows o WHERE o.expert = n.expert "
						 "AND (o.domain, o.parameter_count, o.learning_rate, o.architecture, o.metadata) IS NOT DISTINCT FROM "
						 "(n.domain, n.parameter_count, n.learning_rate, n.architecture, n.metadata))", NOW)
		" UNION ALL " GONE("o.expert", "''", "o.version + 1", "old_rows o WHERE NOT EXISTS (SELECT FROM new_rows n WHERE n.expert = o.expert)"),
		.delete = GONE("o.expert", "''", "o.version + 1", "old_rows o"),
		.existing = CONFIG("gpuagent.expert n", AT("n.updated_at")) NOT_YET("config", "n.expert", "''") " AND " CONFIGURED,
	},
	{
		.name = "weight",.table = "weight_version",.enabled = &ga_enable_weight_sync,
		.insert = WEIGHT("new_rows n WHERE " NEWEST, NOW),
		.update = WEIGHT("new_rows n WHERE " NEWEST, NOW),
		/* Versions that are pruned are no news; those of an expert that is gone are. */
		.delete = GONE("o.expert", "o.layer", "max(o.version) + 1",
					   "old_rows o WHERE NOT EXISTS (SELECT FROM gpuagent.expert e WHERE e.expert = o.expert) GROUP BY o.expert, o.layer"),
		.existing = WEIGHT("gpuagent.weight_version n", AT("n.created_at")) NOT_YET("weight", "n.expert", "n.layer")
		" AND NOT n.deleted AND " NEWEST,
		.tensors = true,
	},
};

/*
 * Items become facts: $1 class, $2 origin, $3 the time of this transaction, $4 whether the tables have them. What they
 * supersede is no head any more.
 */
#define WRITE_BEFORE "WITH item AS ("
#define WRITE_AFTER \
	"), gone AS (" \
	"DELETE FROM gpuagent_store.head h USING item i WHERE h.class = $1 AND h.object = i.object AND h.part = i.part " \
	"RETURNING h.object, h.part, h.origin, h.seq, h.hlc), " \
	"before AS (" \
	"SELECT g.object, g.part, string_agg(uuid_send(g.origin) || int8send(g.seq), ''::bytea ORDER BY g.origin, g.seq) AS parents, " \
	/* Something later was followed since this transaction got its time. */ \
	"max(g.hlc) FILTER (WHERE g.hlc > $3 OR (g.hlc = $3 AND g.origin > $2)) AS later FROM gone g GROUP BY g.object, g.part), " \
	"fact AS (" \
	"INSERT INTO gpuagent_store.change (origin, seq, hlc, class, object, part, deleted, version, fitness, parents, body, parts) " \
	"SELECT $2, nextval('gpuagent_store.change_seq'), COALESCE(i.hlc, b.later + 1, $3), $1, i.object, i.part, i.deleted, " \
	"i.version, i.fitness, COALESCE(b.parents, ''), i.body, i.parts FROM item i LEFT JOIN before b USING (object, part) " \
	"RETURNING object, part, seq, hlc) " \
	"INSERT INTO gpuagent_store.head (class, object, part, origin, seq, hlc, winner) " \
	"SELECT $1, f.object, f.part, $2, f.seq, f.hlc, $4 FROM fact f"

/*
 * Contents of the tensors that the transaction's facts of a class name, $1 origin, $2 from this number on, unless this
 * node has published them before. Who has a tensor or node has all below it.
 */
static const char *const publish_contents =
"WITH RECURSIVE wanted AS ("
"SELECT DISTINCT p.hash FROM gpuagent_store.change c CROSS JOIN LATERAL unnest(c.parts) p(hash) "
"WHERE c.origin = $1 AND c.seq >= $2 AND p.hash IS NOT NULL "
/* Not by the index of keys, which has all facts of the class. */
"AND c.class || '' = 'weight' "
"AND NOT EXISTS (SELECT FROM gpuagent_store.payload y WHERE y.hash = p.hash AND y.origin = $1)), "
"root AS (SELECT DISTINCT ON (t.hash) t.hash, t.dtype, t.shape, t.nbytes, t.root FROM gpuagent_store.tensor t JOIN wanted w ON w.hash = t.hash), "
"tree(hash, dtype) AS ("
"SELECT r.root, min(r.dtype) FROM root r WHERE r.nbytes > 0 GROUP BY r.root "
"UNION SELECT k.child, t.dtype FROM tree t CROSS JOIN LATERAL ("
"SELECT gpuagent_store.child_hashes(n.children) AS child FROM gpuagent_store.node n WHERE n.hash = t.hash LIMIT 64) k "
"WHERE NOT EXISTS (SELECT FROM gpuagent_store.payload y WHERE y.hash = t.hash AND y.origin = $1)), "
"fresh AS (SELECT t.hash, min(t.dtype) AS dtype FROM tree t "
"WHERE NOT EXISTS (SELECT FROM gpuagent_store.payload y WHERE y.hash = t.hash AND y.origin = $1) GROUP BY t.hash) "
"INSERT INTO gpuagent_store.payload (hash, origin, kind, nbytes, dtype, shape, data) "
"SELECT f.hash, $1, CASE WHEN n.children IS NULL THEN 'chunk' ELSE 'node' END, n.nbytes, f.dtype, NULL, "
"COALESCE(n.children, gpuagent_store.chunk_bytes(f.hash)) FROM fresh f LEFT JOIN LATERAL ("
"SELECT m.children, m.nbytes FROM gpuagent_store.node m WHERE m.hash = f.hash LIMIT 1) n ON true "
"UNION ALL SELECT r.hash, $1, 'tensor', r.nbytes, r.dtype, r.shape, r.root FROM root r";

/* ---- the node and the time of a transaction ---- */

static struct
{
	LocalTransactionId xact;
	bool		node;			/* this database is one */
	Datum		origin;
	pg_uuid_t	uuid;
	int64		hlc;
}			writer;

/* Runs a statement, planned the first time; transition tables that it reads are registered. Returns the rows processed. */
static uint64
run(SPIPlanPtr *plan, const char *query, int nargs, Oid *types, Datum *args)
{
	int			rc;

	if (*plan == NULL)
	{
		SPIPlanPtr	fresh = SPI_prepare_cursor(query, nargs, types, CURSOR_OPT_GENERIC_PLAN);

		if (fresh == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(fresh);
		*plan = fresh;
	}
	rc = SPI_execute_plan(*plan, args, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "facts cannot be written: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

/* First value of the first row of a query without parameters; false for none, or a NULL. */
static bool
fetch(SPIPlanPtr *plan, const char *query, int64 *number, pg_uuid_t *uuid)
{
	bool		isnull = true;
	Datum		value = (Datum) 0;

	run(plan, query, 0, NULL, NULL);
	if (SPI_processed > 0)
		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		return false;
	if (number)
		*number = DatumGetInt64(value);
	if (uuid)
		memcpy(uuid, DatumGetUUIDP(value), sizeof(*uuid));
	return true;
}

/* Sets `writer` for the current transaction. Connected to SPI, as the owner. */
static void
begin_transaction(void)
{
	static SPIPlanPtr find_site = NULL;
	static SPIPlanPtr find_clock = NULL;

	if (writer.xact == ga_local_xid())
		return;
	writer.node = fetch(&find_site, "SELECT s.origin, CASE WHEN s.problem IS NOT NULL THEN s.problem "
						"WHEN s.files <> gpuagent_store.files_identity() THEN 'copy' END "
						"FROM gpuagent_store.site s WHERE gpuagent_store.is_this_node(s.system_identifier, s.database)",
						NULL, &writer.uuid);
	if (writer.node)
		ga_node_require_sound(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2), &writer.uuid);
	writer.origin = UUIDPGetDatum(&writer.uuid);
	writer.hlc = 0;
	if (writer.node)
	{
		int64		seen = 0;
		int64		ms = GetCurrentTimestamp() / 1000 + INT64CONST(1000) * SECS_PER_DAY * (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE);

		fetch(&find_clock, "SELECT max(c.hlc) FROM gpuagent_store.change c", &seen, NULL);
		writer.hlc = ga_hlc_tick(seen, ms);
	}
	writer.xact = ga_local_xid();
}

/* What others set for their sessions neither changes what names mean nor how numbers look. */
static int
enter_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"extra_float_digits", "3"},
		{"DateStyle", "ISO, MDY"},
	};
	int			nest = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest;
}

/* The number that facts of this statement have at least; others draw numbers meanwhile. */
static int64
first_number(void)
{
	static SPIPlanPtr plan = NULL;
	int64		next = 0;

	fetch(&plan, "SELECT nextval('gpuagent_store.change_seq')", &next, NULL);
	return next;
}

/* Makes facts of a class out of items. Connected to SPI, as the owner, with a node. */
static void
write_facts(const Class *class, SPIPlanPtr *plan, const char *items)
{
	Oid			types[4] = {TEXTOID, UUIDOID, INT8OID, BOOLOID};
	Datum		args[4] = {CStringGetTextDatum(class->name), writer.origin, Int64GetDatum(writer.hlc), BoolGetDatum(class->table != NULL)};
	int64		first = class->tensors ? first_number() : 0;
	char	   *query = *plan ? NULL : psprintf(WRITE_BEFORE "%s" WRITE_AFTER, items);

	if (run(plan, query, 4, types, args) > 0 && class->tensors)
	{
		static SPIPlanPtr contents = NULL;
		Oid			content_types[2] = {UUIDOID, INT8OID};
		Datum		content_args[2] = {writer.origin, Int64GetDatum(first)};

		run(&contents, publish_contents, 2, content_types, content_args);
	}
}

/* The same, of items that are written once. */
static void
write_facts_once(const Class *class, const char *items)
{
	SPIPlanPtr	plan = NULL;

	write_facts(class, &plan, items);
	SPI_freeplan(plan);
}

static const Class *
class_of_table(const char *table)
{
	for (int i = 0; i < lengthof(classes); i++)
		if (strcmp(classes[i].table, table) == 0)
			return &classes[i];
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("table \"%s\" has no facts", table)));
}

/* Trigger after a statement on agent, expert or weight_version, with its rows as new_rows and old_rows. */
PG_FUNCTION_INFO_V1(ga_publish);
Datum
ga_publish(PG_FUNCTION_ARGS)
{
	static Plans plans[lengthof(classes)];
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const Class *class;
	const char *items;
	Plans	   *known;
	SPIPlanPtr *plan;
	int64		rows = 0;
	GaTableUser before;
	int			nest;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) || TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("publish() must be called by a trigger after a statement")));
	class = class_of_table(RelationGetRelationName(trigger->tg_relation));
	items = TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ? class->insert :
		TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? class->update : class->delete;
	known = &plans[class - classes];
	plan = TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ? &known->insert :
		TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? &known->update : &known->delete;
	if (trigger->tg_newtable)
		rows = tuplestore_tuple_count(trigger->tg_newtable);
	if (trigger->tg_oldtable)
		rows = Max(rows, tuplestore_tuple_count(trigger->tg_oldtable));
	if (ga_sync_following || !*class->enabled || rows == 0)
		return PointerGetDatum(NULL);

	nest = enter_settings();
	SPI_connect();
	if (SPI_register_trigger_data(trigger) != SPI_OK_TD_REGISTER)
		elog(ERROR, "rows of a statement cannot be read");
	before = ga_table_enter_owner("change");
	begin_transaction();
	if (writer.node && rows > FEW_ROWS)
		write_facts_once(class, items);
	else if (writer.node)
		write_facts(class, plan, items);
	ga_table_leave_owner(before);
	SPI_finish();
	AtEOXact_GUC(false, nest);
	return PointerGetDatum(NULL);
}

/* publish_existing(): facts of what is there and has none, with the times at which it was written. */
PG_FUNCTION_INFO_V1(ga_publish_existing);
Datum
ga_publish_existing(PG_FUNCTION_ARGS)
{
	GaTableUser before;
	int			nest = enter_settings();

	SPI_connect();
	before = ga_table_enter_owner("change");
	begin_transaction();
	for (int i = 0; i < lengthof(classes); i++)
		if (writer.node && *classes[i].enabled)
			write_facts_once(&classes[i], classes[i].existing);
	ga_table_leave_owner(before);
	SPI_finish();
	AtEOXact_GUC(false, nest);
	PG_RETURN_VOID();
}

/* publish_fact(class, object, body): one that does not come from a table. */
PG_FUNCTION_INFO_V1(ga_publish_fact);
Datum
ga_publish_fact(PG_FUNCTION_ARGS)
{
	Class		class = {.name = text_to_cstring(PG_GETARG_TEXT_PP(0))};
	char	   *object = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *body = DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(2)));
	GaTableUser before;
	int			nest = enter_settings();

	SPI_connect();
	before = ga_table_enter_owner("change");
	begin_transaction();
	if (writer.node)
		write_facts_once(&class, psprintf("SELECT %s::text AS object, ''::text AS part, false AS deleted, 0::bigint AS version, "
									 "NULL::float8 AS fitness, " NOW " AS hlc, %s::jsonb AS body, NULL::bytea[] AS parts",
									 quote_literal_cstr(object), quote_literal_cstr(body)));
	ga_table_leave_owner(before);
	SPI_finish();
	AtEOXact_GUC(false, nest);
	PG_RETURN_BOOL(writer.node);
}

/* publish_again(origin, seq, class, object): that fact as a new one of this node about that object, later than all heads of its key. */
PG_FUNCTION_INFO_V1(ga_publish_again);
Datum
ga_publish_again(PG_FUNCTION_ARGS)
{
	char	   *origin = DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0)));
	char	   *class_name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	Class		class = {.name = class_name,.tensors = strcmp(class_name, "weight") == 0};
	GaTableUser before;
	int			nest = enter_settings();

	SPI_connect();
	before = ga_table_enter_owner("change");
	begin_transaction();
	if (writer.node)
		write_facts_once(&class, psprintf("SELECT %s::text AS object, c.part, c.deleted, c.version, c.fitness, " NOW " AS hlc, c.body, c.parts "
									 "FROM gpuagent_store.change c WHERE c.origin = '%s' AND c.seq = " INT64_FORMAT,
									 quote_literal_cstr(text_to_cstring(PG_GETARG_TEXT_PP(3))), origin, PG_GETARG_INT64(1)));
	ga_sync_notify_at_commit();
	ga_table_leave_owner(before);
	SPI_finish();
	AtEOXact_GUC(false, nest);
	PG_RETURN_BOOL(writer.node);
}

/* clock_at(timestamptz): the clock's time of something that was written then. */
PG_FUNCTION_INFO_V1(ga_clock_at);
Datum
ga_clock_at(PG_FUNCTION_ARGS)
{
	TimestampTz at = Min(PG_GETARG_TIMESTAMPTZ(0), GetCurrentTimestamp());

	if (TIMESTAMP_IS_NOBEGIN(at))
		PG_RETURN_INT64(0);
	PG_RETURN_INT64(ga_hlc_of(at / 1000 + INT64CONST(1000) * SECS_PER_DAY * (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)));
}

/* chunk_bytes(hash): raw bytes of a stored chunk; NULL when it is missing. */
PG_FUNCTION_INFO_V1(ga_chunk_bytes);
Datum
ga_chunk_bytes(PG_FUNCTION_ARGS)
{
	GaHash		hash;
	size_t		nbytes;
	bytea	   *result = NULL;
	MemoryContext context = CurrentMemoryContext;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	SPI_connect();
	nbytes = ga_chunk_size(&hash);
	if (nbytes > 0)
	{
		result = MemoryContextAlloc(context, VARHDRSZ + nbytes);
		SET_VARSIZE(result, VARHDRSZ + nbytes);
		ga_chunk_load(&hash, nbytes, VARDATA(result), false);
	}
	SPI_finish();
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(result);
}

/* load_chunk(hash, dtype, data) */
PG_FUNCTION_INFO_V1(ga_load_chunk);
Datum
ga_load_chunk(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(1);
	int			dtype = ga_dtype_from_text(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	bytea	   *data = PG_GETARG_BYTEA_PP(2);
	GaHash		hash;
	GaHash		found;

	ga_hash_from_datum(PG_GETARG_DATUM(0), &hash);
	ga_hash_chunk(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), &found);
	if (memcmp(&found, &hash, sizeof(hash)) != 0 || VARSIZE_ANY_EXHDR(data) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("chunk %s is damaged", ga_hash_text(&hash)),
				 errdetail("Its content has the hash %s.", ga_hash_text(&found))));
	SPI_connect();
	ga_chunk_store(VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data), Max(ga_dtype_info(dtype)->bits / 8, 1), &hash);
	SPI_finish();
	PG_RETURN_VOID();
}

/* make_node(make) */
PG_FUNCTION_INFO_V1(ga_make_node);
Datum
ga_make_node(PG_FUNCTION_ARGS)
{
	static const char *const forget[] = {"site", "stability", "prunable", "heartbeat", "head", "waiting", "strategy", "payload", "change"};
	bool		make = PG_GETARG_BOOL(0);
	MemoryContext context = CurrentMemoryContext;
	pg_uuid_t  *uuid = NULL;
	GaTableUser before;
	int			nest = enter_settings();

	SPI_connect();
	before = ga_table_enter_owner("change");
	for (int i = 0; i < lengthof(forget); i++)
		if (SPI_execute(psprintf("DELETE FROM gpuagent_store.%s", forget[i]), false, 0) < 0)
			elog(ERROR, "facts cannot be forgotten");
	if (make)
	{
		bool		isnull;

		if (SPI_execute(psprintf("INSERT INTO gpuagent_store.site (origin, system_identifier, database, files) "
								 "VALUES (gen_random_uuid(), " INT64_FORMAT ", %u, gpuagent_store.files_identity()) RETURNING origin",
								 (int64) GetSystemIdentifier(), MyDatabaseId), false, 0) != SPI_OK_INSERT_RETURNING || SPI_processed != 1)
			elog(ERROR, "a node cannot be made");
		uuid = MemoryContextAlloc(context, sizeof(*uuid));
		memcpy(uuid, DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)), sizeof(*uuid));
	}
	writer.xact = InvalidLocalTransactionId;
	ga_table_leave_owner(before);
	SPI_finish();
	AtEOXact_GUC(false, nest);
	ga_sync_notify_at_commit();
	if (uuid == NULL)
		PG_RETURN_NULL();
	PG_RETURN_UUID_P(uuid);
}
