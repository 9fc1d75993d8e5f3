/*
 * publish.h
 *		Exported folders get their names when their transaction commits, and lose
 *		them when nobody needs them.
 */
#ifndef GA_PUBLISH_H
#define GA_PUBLISH_H

#include "base/compat.h"
#include "checkpoint/journal_format.h"

/*
 * The path under which this transaction finds what it will publish: the private
 * folder instead of the name that it is going to have. Other paths as they are.
 */
extern const char *ga_publish_redirect(const char *path);

/* The folder that "latest" names once this transaction has committed; NULL when it leaves that alone. */
extern const char *ga_publish_latest(void);

#define GA_EXPORTS "nvme_storage"

/* The path of an exported folder by its name alone; ERROR 22023 for what cannot be one. */
extern char *ga_export_path(const char *name);

/* What "latest" in the open folder names; false when there is none or it names nothing that could be a folder. Never throws. */
extern bool ga_latest_get(int dir, char name[GA_JOURNAL_NAME + 1]);

/* Replaces "latest", or removes it (name NULL), durably. Never throws; false with errno. */
extern bool ga_latest_put(int dir, const char *name);

/* True for a folder on which this transaction has a lease, an exclusive one if so asked. */
extern bool ga_lease_held(const char *path, bool exclusive);

/* ERROR 22004 when one of the arguments first..last of an SQL function that is not strict is NULL. */
extern void ga_require_arguments(FunctionCallInfo fcinfo, int first, int last);

#endif							/* GA_PUBLISH_H */
