/*
 * table.h
 *		Statements on the store's tables, for the files that own their rows.
 *
 * Rows are immutable and named by the hash of their content, which is computed
 * in C and never taken from a caller. There is no unique key on hash: a writer
 * looks for a visible row and else inserts its own. Two transactions that write
 * the same content at once both insert it; neither waits for, deadlocks with or
 * fails the other, and readers take any of the rows.
 *
 * Writes run as the owner of the table (as the server's own referential
 * integrity queries do), so that no role needs INSERT on the store: what lands
 * there always has its hash. Reads run as the caller.
 */
#ifndef GA_TABLE_H
#define GA_TABLE_H

#include "base/compat.h"
#include "executor/spi.h"
#include "store/store.h"

/*
 * A statement that is prepared once in a backend. What is read is cast, and NULLs are refused: the tables are
 * their owner's to alter, and no altered table may crash a server.
 */
typedef struct GaStatement
{
	const char *sql;
	int			nargs;
	Oid			argtypes[9];
	SPIPlanPtr	plan;
} GaStatement;

/*
 * Looks up a row by its hash, the only argument, under the active snapshot or, for writers, under a fresh one that
 * also sees what this command inserted a moment ago. The row is in SPI_tuptable, to be freed by the caller, found or not.
 */
extern bool ga_table_fetch(GaStatement *stmt, const GaHash *hash, bool fresh);

/* The same under the newest snapshot that there is, whatever the isolation level. */
extern bool ga_table_fetch_latest(GaStatement *stmt, const GaHash *hash);

/*
 * For writers that will refer to the row: under a fresh snapshot, and with REPEATABLE READ also under the newest one, for
 * what the transaction sees may have been deleted. As ga_table_fetch else.
 */
extern bool ga_table_present(GaStatement *stmt, const GaHash *hash);

/* Runs a statement that writes, and reads under the newest snapshot; true when it has written a row. */
extern bool ga_table_run_latest(GaStatement *stmt, const GaHash *hash);

/* A column of the row that was found; ERROR XX001 for NULL. */
extern Datum ga_table_column(int n, const char *what, const GaHash *hash);

/*
 * Inserts unless `probe` (may be NULL) finds the row, both as the owner of the table; args NULL: only looks. A doomed row
 * (doom.h) is not found. True when there was no row.
 */
extern bool ga_table_insert(const char *table, GaStatement *probe, GaStatement *insert, const GaHash *hash, Datum *args);

/* False also without the table: later steps of setup() add columns, and a database may not have had them. */
extern bool ga_table_has_column(const char *table, const char *column);

/* Goes on as the owner of the table, until ga_table_leave_owner or the end of the (sub)transaction. */
typedef struct GaTableUser
{
	Oid			user;
	int			context;
} GaTableUser;

extern GaTableUser ga_table_enter_owner(const char *table);
extern void ga_table_leave_owner(GaTableUser before);

/* ERROR XX001: what ("chunk", "node", "tensor") of the store is damaged, and how. */
extern void ga_table_damaged(const char *what, const GaHash *hash, const char *detail);

extern Datum ga_table_bytea(const void *data, size_t len);

#endif							/* GA_TABLE_H */
