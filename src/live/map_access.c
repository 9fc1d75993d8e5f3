/*
 * map_access.c
 *		Mapped memory from SQL: what a client reads and writes through its own
 *		mapping, for tests and for a look at what is there.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/shared.h"
#include "device/mapping.h"
#include "device/ops.h"
#include "miscadmin.h"
#include "live/map.h"
#include "tensor/tensor.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

typedef struct Wanted
{
	const pg_uuid_t *handle;
	bool		found;
	GaLease		lease;
	GaRegion	region;
} Wanted;

static void
look_at_lease(const GaLease *lease, const GaRegion *region, void *arg)
{
	Wanted	   *wanted = arg;

	if (region->database != MyDatabaseId || memcmp(&lease->handle, wanted->handle, sizeof(pg_uuid_t)) != 0)
		return;
	wanted->found = true;
	wanted->lease = *lease;
	wanted->region = *region;
}

/* An own lease that has not run out, and its region; 42704. */
static void
find_handle(Datum handle, Wanted *wanted)
{
	ga_shared_require();
	memset(wanted, 0, sizeof *wanted);
	wanted->handle = DatumGetUUIDP(handle);
	ga_leases_each(look_at_lease, wanted);
	if (!wanted->found || wanted->lease.expires_at <= GetCurrentTimestamp() ||
		!has_privs_of_role(GetUserId(), wanted->lease.owner))
		ga_map_report_unknown(handle);
	if (wanted->region.state != GA_REGION_READY ||
		!ga_region_is_whole(wanted->region.id, wanted->region.device, wanted->region.nbytes))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mapped memory is gone"),
				 errhint("Map the object again.")));
}

/* mapped_tensor(handle uuid) swarm_tensor */
PG_FUNCTION_INFO_V1(ga_mapped_tensor);
Datum
ga_mapped_tensor(PG_FUNCTION_ARGS)
{
	Wanted		wanted;
	GaTensor   *tensor;
	char	   *data;

	find_handle(PG_GETARG_DATUM(0), &wanted);
	tensor = ga_tensor_new(&ga_kind_swarm_tensor, wanted.region.dtype, wanted.region.ndim, wanted.region.dims, &data);
	if (wanted.region.nbytes > 0)
		ga_region_download(wanted.region.id, wanted.region.device, 0, data, wanted.region.nbytes);
	GA_RETURN(&ga_kind_swarm_tensor, tensor);
}

/* The region's file with the lock of a step, which other clients wait for. */
static int
lock_step(const GaRegion *region)
{
	struct flock lock = {.l_type = F_WRLCK,.l_whence = SEEK_SET,.l_start = GA_LOCK_STEP,.l_len = 1};
	char		path[MAXPGPATH];
	int			fd;

	ga_region_path(path, sizeof(path), region->id, "");
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		ga_region_open_failed(path);
	PG_TRY();
	{
		while (fcntl(fd, F_OFD_SETLK, &lock) != 0)
		{
			if (errno != EAGAIN && errno != EACCES && errno != EINTR)
				ereport(ERROR,
						(errcode_for_file_access(),
						 errmsg("could not lock file \"%s\": %m", path)));
			pg_usleep(1000);
			CHECK_FOR_INTERRUPTS();
		}
	}
	PG_CATCH();
	{
		close(fd);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return fd;
}

/* An error on the way leaves the sequence odd: the region is torn, as by any client that dies there. */
static void
write_step(const GaRegion *region, GaControl *control, uint64 position, const char *data, uint64 nbytes)
{
	uint64		sequence = __atomic_load_n(&control->sequence, __ATOMIC_SEQ_CST);

	if (sequence % 2 != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mapped memory is torn"),
				 errdetail("A client ended in the middle of a step.")));
	__atomic_store_n(&control->sequence, sequence + 1, __ATOMIC_SEQ_CST);
	if (nbytes > 0)
		ga_region_upload(region->id, region->device, position, data, nbytes);
	__atomic_fetch_add(&control->step, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&control->sequence, sequence + 2, __ATOMIC_SEQ_CST);
}

/* mapped_write(handle uuid, position bigint, data bytea) bigint */
PG_FUNCTION_INFO_V1(ga_mapped_write);
Datum
ga_mapped_write(PG_FUNCTION_ARGS)
{
	int64		position = PG_GETARG_INT64(1);
	bytea	   *data = PG_GETARG_BYTEA_PP(2);
	uint64		nbytes = VARSIZE_ANY_EXHDR(data);
	Wanted		wanted;
	GaControl  *control;
	int			fd;

	find_handle(PG_GETARG_DATUM(0), &wanted);
	if (!wanted.lease.write)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the handle is of mode r")));
	if (position < 0 || position > wanted.region.nbytes || nbytes > wanted.region.nbytes - position)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("bytes " INT64_FORMAT " to " INT64_FORMAT " are outside of " UINT64_FORMAT " bytes",
						position, position + (int64) nbytes, wanted.region.nbytes)));
	control = ga_region_control(wanted.region.id);
	if (control == NULL)
		ga_map_report_unknown(PG_GETARG_DATUM(0));
	fd = lock_step(&wanted.region);
	PG_TRY();
	{
		write_step(&wanted.region, control, position, VARDATA_ANY(data), nbytes);
	}
	PG_FINALLY();
	{
		close(fd);
	}
	PG_END_TRY();
	PG_RETURN_INT64(__atomic_load_n(&control->step, __ATOMIC_SEQ_CST));
}
