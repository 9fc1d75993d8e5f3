/*
 * absent.c
 *		What the fuzzed files refer to but no target reaches. Not compiled against
 *		the server's headers, so that no prototypes are needed; also what only
 *		some versions of the server have.
 */
#include <stdbool.h>
#include <stdlib.h>

#define ABSENT(name) void name(void); void name(void) { abort(); }

ABSENT(array_contains_nulls)
ABSENT(construct_array)
ABSENT(construct_array_builtin)
ABSENT(cstring_to_text)
ABSENT(pg_detoast_datum_slice)
ABSENT(ga_hash_chunk)
ABSENT(ga_hash_node)
ABSENT(ga_hash_tensor)
ABSENT(ga_table_bytea)
ABSENT(ga_table_enter_owner)
ABSENT(ga_table_insert)
ABSENT(ga_table_leave_owner)

bool		errstart(int elevel, const char *domain);
void		errfinish(const char *filename, int lineno, const char *funcname);
bool		errsave_start(void *context, const char *domain);
void		errsave_finish(void *context, const char *filename, int lineno, const char *funcname);

/* Soft errors, from 16 on: without a context they are errors like others (level 21). */
bool
errsave_start(void *context, const char *domain)
{
	(void) context;
	return errstart(21, domain);
}

void
errsave_finish(void *context, const char *filename, int lineno, const char *funcname)
{
	(void) context;
	errfinish(filename, lineno, funcname);
}
