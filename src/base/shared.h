/*
 * shared.h
 *		Areas of the server's main shared memory, requested and initialised in the
 *		order of their registration. They exist only when the library is in
 *		shared_preload_libraries.
 */
#ifndef GA_SHARED_H
#define GA_SHARED_H

#include "base/compat.h"
#include "storage/lwlock.h"

typedef struct GaSharedArea
{
	const char *name;			/* also of the tranche of its locks */
	Size		(*size) (void);
	int			(*nlocks) (void);	/* NULL: none */

	/*
	 * Fills the zeroed area; at server start and again after each crash of a
	 * backend, in the postmaster, while nothing else runs.
	 */
	void		(*init) (void *area);
	void	  **area;			/* where to leave its address */
	LWLockPadded **locks;		/* and that of its locks */
} GaSharedArea;

/* Only while preloading, from _PG_init. The struct must be static. */
extern void ga_shared_register(const GaSharedArea *area);

/* Installs the hooks; after the last ga_shared_register. */
extern void ga_shared_install(void);

/* True when the library was preloaded, in every process of such a server. */
extern bool ga_shared_ready(void);

/* Throws 55000 with a hint unless ga_shared_ready(). */
extern void ga_shared_require(void);

/* Process numbers are below this; ga_process_number() is that of the caller, which must have a PGPROC. */
extern int	ga_process_slots(void);

#endif							/* GA_SHARED_H */
