/*
 * server.h
 *		As much of a server as the fuzzed files need: memory, errors and strings.
 *		They are compiled against the server's headers and linked with server.c.
 */
#ifndef FUZZ_SERVER_H
#define FUZZ_SERVER_H

#include <setjmp.h>
#include <stdbool.h>

/* An ereport(ERROR) within FUZZ_TRY goes on at FUZZ_CATCH; outside, it is a failure. */
extern jmp_buf *fuzz_escape;

#define FUZZ_TRY \
	do { \
		jmp_buf		escape; \
		fuzz_escape = &escape; \
		if (setjmp(escape) == 0) \
		{
#define FUZZ_CATCH \
			fuzz_escape = NULL; \
		} \
		else \
		{ \
			fuzz_escape = NULL;
#define FUZZ_END \
		} \
	} while (0)

/* True when the last error has one of these SQLSTATEs. */
extern bool fuzz_is_refusal(const char *sqlstates);

#endif							/* FUZZ_SERVER_H */
