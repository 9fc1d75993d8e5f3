/*
 * absent.c
 *		What only some versions of the server have. Not compiled against the
 *		server's headers, so that no prototypes are needed.
 */
#include <stdbool.h>

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
