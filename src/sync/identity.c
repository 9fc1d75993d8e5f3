/*
 * identity.c
 *		Whether this database is the node that it says it is, and may write as one.
 *
 * Facts are numbered by their node. Were an old state of a node put back, or a
 * copy of it started beside it, the numbers that it gives out would have been
 * given out before, and its peers would pass over what it writes. So a node knows
 * the files that it lives in: they are others in every copy of a server, made with
 * or without the server's help, and in a standby. A server that finds other files
 * writes no facts before its peers have confirmed that they know of nothing newer
 * (write_beat()), which those of an old state never do.
 *
 * The file is base/OID/PG_VERSION, which nothing writes to after the database was
 * made: its number in the file system, and where that is known the time of its
 * birth, for numbers are used again. A file system that is put back below a server
 * shows neither; the acknowledgements of peers do, at their next beat.
 */
#include "base/compat.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "sync/sync.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* is_this_node(system identifier, database) */
PG_FUNCTION_INFO_V1(ga_is_this_node);
Datum
ga_is_this_node(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL((uint64) PG_GETARG_INT64(0) == GetSystemIdentifier() && PG_GETARG_OID(1) == MyDatabaseId);
}

static void
stat_failed(const char *path)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not stat file \"%s\": %m", path)));
}

static char *
identity_of(const char *path)
{
#ifdef STATX_BTIME
	struct statx x;

	if (statx(AT_FDCWD, path, 0, STATX_INO | STATX_BTIME, &x) != 0)
		stat_failed(path);
	if (x.stx_mask & STATX_BTIME)
		return psprintf(UINT64_FORMAT " " INT64_FORMAT ".%09u", (uint64) x.stx_ino, (int64) x.stx_btime.tv_sec, x.stx_btime.tv_nsec);
	return psprintf(UINT64_FORMAT, (uint64) x.stx_ino);
#else
	struct stat s;

	if (stat(path, &s) != 0)
		stat_failed(path);
	return psprintf(UINT64_FORMAT, (uint64) s.st_ino);
#endif
}

/* files_identity(): cannot change while the server runs, so each process looks once. */
PG_FUNCTION_INFO_V1(ga_files_identity);
Datum
ga_files_identity(PG_FUNCTION_ARGS)
{
	static char *identity = NULL;

	if (identity == NULL)
		identity = MemoryContextStrdup(TopMemoryContext, identity_of(psprintf("%s/PG_VERSION", DatabasePath)));
	PG_RETURN_TEXT_P(cstring_to_text(identity));
}

void
ga_node_require_sound(const char *problem, const pg_uuid_t *origin)
{
	const char *node;

	if (problem == NULL)
		return;
	node = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(origin)));
	if (strcmp(problem, "clock") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the clock of this node is ahead of those of its peers"),
				 errdetail("It is more than gpuagent.max_clock_offset ahead: what it wrote now would win over later writes of others."),
				 errhint("Set the server's clock; heartbeats show then that it is right. gpuagent.stat_peer has the differences.")));
	if (strcmp(problem, "old") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is an old state of a node"),
				 errdetail("Peers have facts or heartbeats of node %s that are not here.", node),
				 errhint("Make it a new node with SELECT gpuagent.new_incarnation().")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this database may be a copy of a node, or an old state of one"),
			 errdetail("Its files are not those of node %s, and not all of its peers have confirmed that they know of nothing newer.", node),
			 errhint("Wait for the heartbeats of its peers, or make it a new node with SELECT gpuagent.new_incarnation().")));
}
