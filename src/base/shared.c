/*
 * shared.c
 *		Areas of the server's main shared memory (shared.h).
 */
#include "base/compat.h"

#include "base/shared.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#define MAX_AREAS 16

static const GaSharedArea *areas[MAX_AREAS];
static int	nareas = 0;
static bool installed = false;
static shmem_request_hook_type previous_request = NULL;
static shmem_startup_hook_type previous_startup = NULL;

void
ga_shared_register(const GaSharedArea *area)
{
	if (nareas == MAX_AREAS)
		elog(ERROR, "too many shared areas");
	areas[nareas++] = area;
}

static void
request(void)
{
	if (previous_request)
		previous_request();
	for (int i = 0; i < nareas; i++)
	{
		RequestAddinShmemSpace(areas[i]->size());
		if (areas[i]->nlocks)
			RequestNamedLWLockTranche(areas[i]->name, areas[i]->nlocks());
	}
}

static void
startup(void)
{
	if (previous_startup)
		previous_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < nareas; i++)
	{
		const GaSharedArea *area = areas[i];
		Size		size = area->size();
		bool		found;

		*area->area = ShmemInitStruct(area->name, size, &found);
		if (area->nlocks)
			*area->locks = GetNamedLWLockTranche(area->name);
		if (!found)
		{
			memset(*area->area, 0, size);
			area->init(*area->area);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

void
ga_shared_install(void)
{
	previous_request = shmem_request_hook;
	shmem_request_hook = request;
	previous_startup = shmem_startup_hook;
	shmem_startup_hook = startup;
	installed = true;
}

bool
ga_shared_ready(void)
{
	return installed;
}

void
ga_shared_require(void)
{
	if (!installed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("gpuagent was not loaded at server start"),
				 errhint("Add gpuagent to shared_preload_libraries and restart the server.")));
}

int
ga_process_slots(void)
{
	return MaxBackends + NUM_AUXILIARY_PROCS;
}
