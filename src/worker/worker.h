/*
 * worker.h
 *		Background workers: the launcher, which knows which databases have the
 *		extension, one maintenance worker in each of those, and workers that run jobs.
 */
#ifndef GA_WORKER_H
#define GA_WORKER_H

#include "base/compat.h"
#include "base/workers.h"

/* Registers the launcher and the hooks that notice and give way; only while preloading. */
extern void ga_launcher_register(void);
extern void ga_watch_install(void);

/* Entry points of processes. */
extern PGDLLEXPORT void ga_launcher_main(Datum argument);
extern PGDLLEXPORT void ga_probe_main(Datum argument);
extern PGDLLEXPORT void ga_maintenance_main(Datum argument);
extern PGDLLEXPORT void ga_job_main(Datum argument);

/* Whether this database has the extension; in a transaction. */
extern GaFinding ga_extension_state(void);

/* Nothing that a database or role sets for its sessions makes work fail or see other objects; after connecting. */
extern void ga_worker_override_settings(const char *application_name);

/*
 * From here on the caller works as that role, restricted as a REFRESH of a
 * materialized view is, and what is set is reset by leaving. An error leaves it to
 * the end of the transaction.
 */
typedef struct GaRoleScope
{
	Oid			user;
	int			context;
	int			nest;
} GaRoleScope;

extern GaRoleScope ga_worker_enter_role(Oid role);
extern void ga_worker_leave_role(GaRoleScope before);

/* ---- maintenance tasks ---- */

/*
 * A task calls a function without arguments in a transaction of its own, as the
 * owner of the tables that it writes or reads, and restricted as a REFRESH of a
 * materialized view is: tables can carry triggers, policies and defaults that
 * users wrote. All of `tables` have one owner or the task fails: what the
 * triggers of one do would run with the rights of another. (The store's tables
 * need not be listed: what is inserted there is inserted as their owner.) A task
 * is left out while its function or a table does not exist.
 */
#define GA_TASK_TABLES 16

typedef struct GaTask
{
	const char *function;		/* in schema gpuagent_store */
	const char *tables[GA_TASK_TABLES]; /* in schema gpuagent */
	int			(*interval) (void);	/* ms from end to start; 0: once, when the worker has started */
	bool		on_standby;
	bool		at_exit;		/* also when the worker is asked to end, unless in a hurry */
	bool		(*wanted) (void);	/* cheap, without a transaction; NULL: always. See ga_workers_wake */
} GaTask;

extern const GaTask ga_tasks[];
extern const int ga_ntasks;

#endif							/* GA_WORKER_H */
