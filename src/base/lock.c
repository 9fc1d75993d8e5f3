/*
 * lock.c
 *		Advisory locks of a class of their own, for functions of this extension.
 *
 * Any role can take any of pg_advisory_lock()'s, and keep it; who took the one of
 * exports would stop them, and the maintenance worker with them. These have a
 * fourth field that no function of the server gives, so only take_lock() takes them,
 * which asks for EXECUTE. The deadlock detector and pg_locks see them as any lock.
 */
#include "base/compat.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"

/* Those of users have 1 and 2, those of regions GA_LOCKTAG_REGION. */
#define LOCKTAG_CLASS 0x6762

/* take_lock(key, wait, session): until the end of the transaction or session; false when others hold it and wait is false. */
PG_FUNCTION_INFO_V1(ga_take_lock);
Datum
ga_take_lock(PG_FUNCTION_ARGS)
{
	int64		key = PG_GETARG_INT64(0);
	bool		wait = PG_GETARG_BOOL(1);
	bool		session = PG_GETARG_BOOL(2);
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) ((uint64) key >> 32), (uint32) key, LOCKTAG_CLASS);
	PG_RETURN_BOOL(LockAcquire(&tag, ExclusiveLock, session, !wait) != LOCKACQUIRE_NOT_AVAIL);
}
