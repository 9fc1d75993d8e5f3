/*
 * publish.c
 *		Exported folders appear under their names when their transaction commits.
 *
 * Just before the commit record is written each folder of the transaction is
 * noted in the journal, renamed, its parent synced, and "latest" replaced; after
 * the commit the journal says that it is over. So whoever finds a folder finds a
 * whole one, a rollback leaves none, and what a crash leaves between the rename
 * and the commit is known to the journal. An error after the rename takes it
 * back; when even that fails, the journal keeps it open.
 *
 * The folder is locked (flock on its descriptor) from its making to the commit.
 * Leases are the same lock: shared for who reads a folder, exclusive for who
 * removes it.
 *
 * What runs after a commit or in an abort uses nothing that throws.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "checkpoint/journal.h"
#include "checkpoint/publish.h"
#include "checkpoint/tree.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#define LATEST "latest"
#define FOLDER_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* A folder that is to be published at commit, or one that is there and is to be latest. */
typedef struct Pending
{
	struct Pending *next;		/* the one that was asked for before */
	SubTransactionId subid;
	char	   *temp;			/* its private path; NULL: it has its name */
	char	   *target;
	int			parent;			/* nvme_storage */
	int			fd;				/* of the folder, locked; -1 without temp */
	bool		to_latest;
	bool		renamed;
	bool		pointed;
	GaJournalRecord record;		/* serial 0: not in the journal yet */
} Pending;

/* A record of the journal that the commit of this transaction ends. */
typedef struct Ending
{
	struct Ending *next;
	SubTransactionId subid;
	uint64		serial;
} Ending;

typedef struct Lease
{
	struct Lease *next;
	int			fd;
	int			manifest;		/* of an exclusive one; else -1 */
	bool		exclusive;
	char	   *path;
} Lease;

static Pending *pending = NULL;
static Ending *ending = NULL;
static Lease *leases = NULL;

/* ---- the file "latest" ---- */

bool
ga_latest_get(int dir, char name[GA_JOURNAL_NAME + 1])
{
	int			fd = openat(dir, LATEST, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	ssize_t		len = fd < 0 ? -1 : read(fd, name, GA_JOURNAL_NAME);

	if (fd >= 0)
		close(fd);
	name[Max(len, 0)] = '\0';
	name[strcspn(name, "\r\n")] = '\0';
	return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL;
}

static bool
write_name(int fd, const char *name)
{
	char		line[GA_JOURNAL_NAME + 2];
	int			len = snprintf(line, sizeof(line), "%s\n", name);

	return ga_write_all(fd, line, len, 0) && pg_fsync(fd) == 0;
}

bool
ga_latest_put(int dir, const char *name)
{
	bool		done = false;
	bool		swept = true;

	if (name == NULL)
		return (unlinkat(dir, LATEST, 0) == 0 || errno == ENOENT) && pg_fsync(dir) == 0;
	/* Tries again when a sweeper took the draft between its creation and its lock. */
	for (int attempt = 0; swept && attempt < 100; attempt++)
	{
		char		draft[64];
		int			fd;

		if (!ga_temp_name(draft, sizeof(draft)))
			return false;
		fd = openat(dir, draft, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return false;
		done = flock(fd, LOCK_EX | LOCK_NB) == 0 && write_name(fd, name) && renameat(dir, draft, dir, LATEST) == 0;
		swept = !done && (errno == EWOULDBLOCK || errno == ENOENT);
		if (!done)
		{
			int			saved = errno;

			(void) unlinkat(dir, draft, 0);
			errno = saved;
		}
		ga_close_keeping_errno(fd);
	}
	return done && pg_fsync(dir) == 0;
}

/* ---- what waits for the commit ---- */

const char *
ga_publish_redirect(const char *path)
{
	for (Pending *p = pending; p != NULL; p = p->next)
	{
		size_t		len = strlen(p->target);

		if (p->temp != NULL && !p->renamed && strncmp(path, p->target, len) == 0 && (path[len] == '\0' || path[len] == '/'))
			return psprintf("%s%s", p->temp, path + len);
	}
	return path;
}

const char *
ga_publish_latest(void)
{
	for (Pending *p = pending; p != NULL; p = p->next)
		if (p->to_latest)
			return p->record.name;
	return NULL;
}

static const char *
last_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash == NULL ? path : slash + 1;
}

static void
publish_failed(const Pending *p, const char *what)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s \"%s\": %m", what, p->target)));
}

/* Gives a folder its name and "latest" the folder's; the journal first. */
static void
publish(Pending *p)
{
	struct stat st;

	/* A part of the export may have failed to remove a private folder of its own. */
	if (p->temp != NULL && !ga_temp_sweep(p->fd))
		ereport(ERROR,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("could not remove private files from the folder to become \"%s\"", p->target)));
	if (p->temp != NULL && pg_fsync(p->fd) < 0 && errno != EBADF && errno != EINVAL)
		publish_failed(p, "fsync the folder to become");
	if (p->to_latest)
		(void) ga_latest_get(p->parent, p->record.previous);
	p->record.flags = p->temp != NULL ? GA_JOURNAL_WROTE : 0;
	(void) ga_journal_begin(&p->record);
	if (p->temp != NULL)
	{
		if (fstatat(p->parent, p->record.name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		{
			errno = EEXIST;
			publish_failed(p, "publish");
		}
		if (renameat(p->parent, last_name(p->temp), p->parent, p->record.name) < 0)
			publish_failed(p, "publish");
		p->renamed = true;
		if (pg_fsync(p->parent) < 0 && errno != EBADF && errno != EINVAL)
			publish_failed(p, "fsync the folder of");
	}
	if (p->to_latest)
	{
		p->pointed = true;
		if (!ga_latest_put(p->parent, p->record.name))
			publish_failed(p, "replace \"" GA_EXPORTS "/" LATEST "\" by the name of");
	}
}

/* Takes back what publish did; true when nothing of it is left. Never throws. */
static bool
take_back(Pending *p)
{
	char		now[GA_JOURNAL_NAME + 1];
	bool		done = true;

	if (p->pointed && ga_latest_get(p->parent, now) && strcmp(now, p->record.name) == 0)
		done = ga_latest_put(p->parent, p->record.previous[0] == '\0' ? NULL : p->record.previous);
	if (p->temp == NULL)
		return done;
	if (p->renamed)
	{
		if (!done || renameat(p->parent, p->record.name, p->parent, last_name(p->temp)) < 0)
			return false;
		done = pg_fsync(p->parent) == 0;
	}
	ga_tree_remove(p->parent, last_name(p->temp));
	return done;
}

/* Never throws. */
static void
pending_free(Pending *p)
{
	if (p->fd >= 0)
	{
		close(p->fd);
		ReleaseExternalFD();
	}
	close(p->parent);
	ReleaseExternalFD();
	if (p->temp != NULL)
		pfree(p->temp);
	pfree(p->target);
	pfree(p);
}

/* ---- end of transactions ---- */

static void
publish_all(Pending *p)
{
	if (p == NULL)
		return;
	publish_all(p->next);
	publish(p);
}

static void
leases_end(void)
{
	while (leases != NULL)
	{
		Lease	   *lease = leases;

		leases = lease->next;
		close(lease->fd);
		ReleaseExternalFD();
		if (lease->manifest >= 0)
		{
			close(lease->manifest);
			ReleaseExternalFD();
		}
		pfree(lease->path);
		pfree(lease);
	}
}

static void
xact_over(bool committed)
{
	while (pending != NULL)
	{
		Pending    *p = pending;
		bool		over = committed || take_back(p);

		if (over && p->record.serial > 0)
			ga_journal_end(p->record.serial);
		pending = p->next;
		pending_free(p);
	}
	while (ending != NULL)
	{
		Ending	   *e = ending;

		if (committed)
			ga_journal_end(e->serial);
		ending = e->next;
		pfree(e);
	}
	leases_end();
	ga_journal_detach();
}

static void
xact_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			/* "latest" and the journal must not be ahead of the catalogue after a crash. */
			if (pending != NULL || ending != NULL)
				ForceSyncCommit();
			publish_all(pending);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (pending != NULL || ending != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has exported a checkpoint")));
			break;
		case XACT_EVENT_COMMIT:
			xact_over(true);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			xact_over(false);
			break;
		default:
			break;
	}
}

static void
subxact_event(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (Pending **link = &pending; *link != NULL;)
	{
		Pending    *p = *link;

		if (p->subid == subid && event == SUBXACT_EVENT_COMMIT_SUB)
			p->subid = parent;
		if (p->subid == subid && event == SUBXACT_EVENT_ABORT_SUB)
		{
			*link = p->next;
			(void) take_back(p);
			pending_free(p);
		}
		else
			link = &p->next;
	}
	for (Ending **link = &ending; *link != NULL;)
	{
		Ending	   *e = *link;

		if (e->subid == subid && event == SUBXACT_EVENT_COMMIT_SUB)
			e->subid = parent;
		if (e->subid == subid && event == SUBXACT_EVENT_ABORT_SUB)
		{
			*link = e->next;
			pfree(e);
		}
		else
			link = &e->next;
	}
}

static void
register_callbacks(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(xact_event, NULL);
	RegisterSubXactCallback(subxact_event, NULL);
	registered = true;
}

/* ---- for SQL ---- */

char *
ga_export_path(const char *name)
{
	char	   *path = psprintf(GA_EXPORTS "/%s", name);

	ga_path_check(path);
	if (strchr(name, '/') != NULL || strncmp(name, "ckpt-", 5) != 0 || strlen(name) > GA_JOURNAL_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of an exported checkpoint", name)));
	return path;
}

void
ga_require_arguments(FunctionCallInfo fcinfo, int first, int last)
{
	for (int i = first; i <= last; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d must not be NULL", i + 1)));
}

/*
 * publish_export(temp, name, checkpoint, uid, to_latest): at commit, the private
 * folder becomes nvme_storage/name (temp NULL: it is there already), and latest
 * names it.
 */
PG_FUNCTION_INFO_V1(ga_publish_export);
Datum
ga_publish_export(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *path;
	Pending    *p;

	ga_tree_require_own();
	ga_files_require_write();
	ga_require_arguments(fcinfo, 1, 4);
	name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	path = ga_export_path(name);
	register_callbacks();
	p = MemoryContextAllocZero(TopMemoryContext, sizeof(Pending));
	p->target = MemoryContextStrdup(TopMemoryContext, path);
	p->fd = -1;
	p->to_latest = PG_GETARG_BOOL(4);
	p->subid = GetCurrentSubTransactionId();
	p->record.kind = GA_JOURNAL_EXPORT;
	p->record.checkpoint = PG_GETARG_INT64(2);
	memcpy(p->record.uid, PG_GETARG_UUID_P(3)->data, UUID_LEN);
	strlcpy(p->record.name, name, sizeof(p->record.name));
	if (PG_ARGISNULL(0))
	{
		p->parent = ga_folder_open(GA_EXPORTS);
		ReserveExternalFD();
	}
	else
	{
		p->temp = MemoryContextStrdup(TopMemoryContext, text_to_cstring(PG_GETARG_TEXT_PP(0)));
		ga_temp_take(p->temp, &p->parent, &p->fd);
	}
	p->next = pending;
	pending = p;
	PG_RETURN_VOID();
}

/* journal_intents(): what was begun and is not over. */
PG_FUNCTION_INFO_V1(ga_journal_intents);
Datum
ga_journal_intents(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	GaJournalRecord *records;
	int			count;

	InitMaterializedSRF(fcinfo, 0);
	records = ga_journal_read(&count);
	for (int i = 0; i < count; i++)
	{
		pg_uuid_t	uid;
		Datum		values[7];
		bool		nulls[7] = {false};

		memcpy(uid.data, records[i].uid, UUID_LEN);
		values[0] = Int64GetDatum(records[i].serial);
		values[1] = CStringGetTextDatum(records[i].kind == GA_JOURNAL_EXPORT ? "export" : "removal");
		values[2] = BoolGetDatum((records[i].flags & GA_JOURNAL_WROTE) != 0);
		values[3] = Int64GetDatum(records[i].checkpoint);
		values[4] = UUIDPGetDatum(&uid);
		values[5] = CStringGetTextDatum(records[i].name);
		values[6] = CStringGetTextDatum(records[i].previous);
		nulls[6] = records[i].previous[0] == '\0';
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}

/* journal_close(serial): the commit of this transaction ends the record. */
PG_FUNCTION_INFO_V1(ga_journal_close);
Datum
ga_journal_close(PG_FUNCTION_ARGS)
{
	Ending	   *e;

	register_callbacks();
	ga_journal_attach();
	e = MemoryContextAllocZero(TopMemoryContext, sizeof(Ending));
	e->serial = PG_GETARG_INT64(0);
	e->subid = GetCurrentSubTransactionId();
	e->next = ending;
	ending = e;
	PG_RETURN_VOID();
}

bool
ga_lease_held(const char *path, bool exclusive)
{
	for (Lease *lease = leases; lease != NULL; lease = lease->next)
		if (strcmp(lease->path, path) == 0 && (lease->exclusive || !exclusive))
			return true;
	return false;
}

/*
 * lease_folder(path, exclusive): until the end of the transaction nobody removes
 * the folder (exclusive: nobody reads it); false when others keep it from that,
 * or there is none.
 */
PG_FUNCTION_INFO_V1(ga_lease_folder);
Datum
ga_lease_folder(PG_FUNCTION_ARGS)
{
	char	   *path = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		exclusive = PG_GETARG_BOOL(1);
	int			how = (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB;
	Lease	   *lease;
	int			fd;
	int			manifest = -1;

	ga_path_check(path);
	if (ga_lease_held(path, exclusive) || ga_temp_is_own(path) || ga_publish_redirect(path) != path)
		PG_RETURN_BOOL(true);
	if (!ga_path_exists(path))
		PG_RETURN_BOOL(false);
	register_callbacks();
	lease = MemoryContextAllocZero(TopMemoryContext, sizeof(Lease));
	lease->path = MemoryContextStrdup(TopMemoryContext, path);
	fd = ga_folder_open(path);
	if (exclusive)
		manifest = openat(fd, "MANIFEST.json", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (flock(fd, how) < 0 || (manifest >= 0 && flock(manifest, how) < 0))
	{
		close(fd);
		if (manifest >= 0)
			close(manifest);
		PG_RETURN_BOOL(false);
	}
	ReserveExternalFD();
	if (manifest >= 0)
		ReserveExternalFD();
	lease->fd = fd;
	lease->manifest = manifest;
	lease->exclusive = exclusive;
	lease->next = leases;
	leases = lease;
	PG_RETURN_BOOL(true);
}
