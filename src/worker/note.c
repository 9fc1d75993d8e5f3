/*
 * note.c
 *		A text that a session keeps for itself from one transaction to a later one:
 *		what a maintenance task has seen when it last did its work.
 */
#include "base/compat.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

static char *kept = NULL;
static char *pending = NULL;	/* kept if this transaction commits */
static bool installed = false;

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (pending == NULL || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	if (event == XACT_EVENT_COMMIT)
	{
		if (kept)
			pfree(kept);
		kept = pending;
	}
	else
		pfree(pending);
	pending = NULL;
}

PG_FUNCTION_INFO_V1(ga_keep_note);
Datum
ga_keep_note(PG_FUNCTION_ARGS)
{
	char	   *note = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (!installed)
		RegisterXactCallback(at_transaction_end, NULL);
	installed = true;
	if (pending)
		pfree(pending);
	pending = MemoryContextStrdup(TopMemoryContext, note ? note : "");
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ga_kept_note);
Datum
ga_kept_note(PG_FUNCTION_ARGS)
{
	if (kept == NULL || kept[0] == '\0')
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(kept));
}
