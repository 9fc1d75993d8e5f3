/*
 * guc.c
 *		Settings. Server-wide ones are fixed at server start when the library is
 *		preloaded; loaded into a session only, the same names follow the
 *		configuration file (SIGHUP), so that no user can set them.
 *
 * EXORUST_* environment variables replace the built-in default at server start;
 * postgresql.conf wins over them.
 */
#include "base/compat.h"

#include <limits.h>
#include <sys/stat.h>

#include "base/guc.h"
#include "miscadmin.h"
#include "postmaster/postmaster.h"
#include "utils/builtins.h"
#include "utils/guc.h"

typedef enum GaProfile
{
	GA_PROFILE_DEVELOPMENT,
	GA_PROFILE_PRODUCTION
} GaProfile;

static const struct config_enum_entry profiles[] = {
	{"development", GA_PROFILE_DEVELOPMENT, false},
	{"production", GA_PROFILE_PRODUCTION, false},
	{NULL, 0, false}
};

static const struct config_enum_entry devices[] = {
	{"auto", GA_DEVICES_AUTO, false},
	{"cuda", GA_DEVICES_CUDA, false},
	{"host", GA_DEVICES_HOST, false},
	{NULL, 0, false}
};

#define PRODUCTION_PATH "/magikdev/gpu"

/* MB of device memory by profile; -1 of the setting stands for them. */
#define DEVELOPMENT_CACHE 1024
#define PRODUCTION_CACHE 2048

bool		ga_compression = true;
int			ga_max_checkpoints = 10;
int			ga_auto_save_interval = 300;
bool		ga_auto_export = false;
int			ga_discard_grace = 600;
int			ga_compression_level = 1;
int			ga_devices = GA_DEVICES_AUTO;
int			ga_host_cache_size = 64;
int			ga_cache_max_age = 1 << 30;
int			ga_sync_interval = 50;
int			ga_device_timeout = 10000;
int			ga_max_handles = 256;
int			ga_launcher_interval = 10;
int			ga_collect_interval = 60;
int			ga_collect_grace = 3600;
int			ga_max_databases = 8;
int			ga_max_jobs = 2;
int			ga_job_nice = 19;
int			ga_io_rate_limit = 0;
bool		ga_enable_agent_sync = true;
bool		ga_enable_config_sync = true;
bool		ga_enable_weight_sync = true;
int			ga_peer_sync_interval = 30;
int			ga_heartbeat_interval = 10;
int			ga_peer_timeout = 60;
int			ga_max_clock_offset = 500;
int			ga_prune_interval = 60;
int			ga_tombstone_grace = 604800;
bool		ga_allow_ipc_handles = false;
bool		ga_device_faults = false;
char	   *ga_shared_memory_dir = NULL;
char	   *ga_device_program = NULL;
static int	cache_size = -1;
static int	profile = GA_PROFILE_DEVELOPMENT;
static char *storage_path = NULL;

/* An absolute path without "." or ".." components, or empty for the profile's default. */
static bool
check_storage_path(char **newval, void **extra, GucSource source)
{
	const char *path = *newval;

	if (path == NULL || path[0] == '\0')
		return true;
	if (!is_absolute_path(path))
	{
		GUC_check_errdetail("\"gpuagent.storage_path\" must be an absolute path.");
		return false;
	}
	for (const char *p = path; (p = strchr(p, '/')) != NULL; p++)
	{
		size_t		len = strcspn(p + 1, "/");

		if ((len == 1 && p[1] == '.') || (len == 2 && p[1] == '.' && p[2] == '.'))
		{
			GUC_check_errdetail("\"gpuagent.storage_path\" must not contain \".\" or \"..\".");
			return false;
		}
	}
	return true;
}

/* A boolean environment variable, or the default when it is unset or not a boolean. */
static bool
env_bool(const char *name, bool fallback)
{
	const char *value = getenv(name);
	bool		result;

	if (value == NULL)
		return fallback;
	if (!parse_bool(value, &result))
	{
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("environment variable %s is not a boolean: \"%s\"", name, value)));
		return fallback;
	}
	return result;
}

/* Megabytes from an environment variable, or the default when it is unset or not a number in range. */
static int
env_megabytes(const char *name, int fallback)
{
	const char *value = getenv(name);
	int			result;
	const char *hint = NULL;

	if (value == NULL)
		return fallback;
	if (!parse_int(value, &result, 0, &hint) || result < 0 || result > MAX_KILOBYTES)
	{
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("environment variable %s is not a number of megabytes: \"%s\"", name, value)));
		return fallback;
	}
	return result;
}

static const char *
env_path(const char *name)
{
	const char *value = getenv(name);

	if (value == NULL || value[0] == '\0')
		return "";
	if (!is_absolute_path(value))
	{
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("environment variable %s is not an absolute path: \"%s\"", name, value)));
		return "";
	}
	return strdup(value);		/* lives as long as the setting's boot value */
}

static void
define_device_settings(GucContext server)
{
	DefineCustomEnumVariable("gpuagent.device",
							 "Where the working set lives.",
							 "auto: on the GPUs that gpuagent_device finds, else in shared memory; cuda: on GPUs, tried again when "
							 "there is none; host: in shared memory.",
							 &ga_devices, GA_DEVICES_AUTO, devices, server, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.cache_size",
							"Memory of each GPU that this server may take, beyond that of the CUDA context.",
							"-1: 1GB, or 2GB with gpuagent.profile = production.",
							&cache_size, env_megabytes("EXORUST_GPU_CACHE_SIZE_MB", -1), -1, MAX_KILOBYTES, server,
							GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.host_cache_size",
							"Shared memory for cached agents and for transfers.",
							"A quarter, at least 16MB, is for transfers.",
							&ga_host_cache_size, 64, 32, MAX_KILOBYTES / 1024, server, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.cache_max_age",
							"Transactions after which a cached agent is read from its table again.",
							"A safeguard against transaction ids that come round; a lower value is of use to tests only.",
							&ga_cache_max_age, 1 << 30, 1, 1 << 30, PGC_SIGHUP, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("gpuagent.shared_memory_dir",
							   "Directory of shared mappings and of the device's socket.",
							   NULL, &ga_shared_memory_dir, "/dev/shm", server, GUC_SUPERUSER_ONLY,
							   check_storage_path, NULL, NULL);
	DefineCustomStringVariable("gpuagent.device_program",
							   "The program that owns the GPUs.",
							   NULL, &ga_device_program, "$libdir/gpuagent_device", server, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.max_handles",
							"Regions of memory that can be mapped at a time, and handles on them.",
							NULL, &ga_max_handles, 256, 1, 65536, server, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.device_timeout",
							"Time after which a request that a GPU does not finish costs the device process its life.",
							"Sessions then go on without it until it has been started again.",
							&ga_device_timeout, 10000, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.sync_interval",
							"How often swarms that were mapped with autosync are looked at.",
							NULL, &ga_sync_interval, 50, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("gpuagent.allow_ipc_handles",
							 "Hands out legacy CUDA IPC handles (kind cuda_ipc).",
							 "Such a handle is a bearer token: any user of the machine who has it can read and write the memory.",
							 &ga_allow_ipc_handles, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("gpuagent.device_faults",
							 "Lets a superuser make the device process fail, for tests.",
							 "It is then always started again after the same short time.", &ga_device_faults, false, server, GUC_SUPERUSER_ONLY | GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}

static void
define_collect_settings(void)
{
	DefineCustomIntVariable("gpuagent.collect_interval",
							"How often the store is searched for chunks, nodes and tensors that nothing refers to.",
							"0: never by itself. While no table has changed nothing is searched.",
							&ga_collect_interval, 60, 0, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.collect_grace",
							"How long what was stored, or found by missing_chunks(), stays without being referred to.",
							"A client that uploads in several transactions has so long from its first chunk to the commit of what refers to it.",
							&ga_collect_grace, 3600, 0, 604800, PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

static void
define_peer_settings(void)
{
	DefineCustomBoolVariable("gpuagent.enable_agent_sync",
							 "Agents that are written here become facts for peers.",
							 "Without peers it means nothing, and costs nothing.",
							 &ga_enable_agent_sync, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("gpuagent.enable_config_sync",
							 "Configurations of experts that are written here become facts for peers.",
							 "Without peers it means nothing, and costs nothing.",
							 &ga_enable_config_sync, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("gpuagent.enable_weight_sync",
							 "Weights that are written here become facts for peers, with their contents.",
							 "Without peers it means nothing, and costs nothing.",
							 &ga_enable_weight_sync, true, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.peer_sync_interval",
							"How often tables are brought to what facts say without being told that some arrived.",
							"What arrives is followed at once.",
							&ga_peer_sync_interval, 30, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.heartbeat_interval",
							"How often a node that has peers tells them that it is there.",
							"A peer of which three beats in a row are missing is late. Set it alike on all nodes.",
							&ga_heartbeat_interval, 10, 1, 3600, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.peer_timeout",
							"How long no beat has come from a peer when it counts as lost.",
							NULL,
							&ga_peer_timeout, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.prune_interval",
							"How often facts that all peers have, and that later ones have superseded, are removed.",
							"0: never.",
							&ga_prune_interval, 60, 0, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.tombstone_grace",
							"How long it stays known that something was deleted.",
							"A node that joins with data older than that brings it back.",
							&ga_tombstone_grace, 604800, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.max_clock_offset",
							"How far this server's clock may be ahead of those of its peers before it writes no facts.",
							"0: however far.",
							&ga_max_clock_offset, 500, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

static void
define_worker_settings(GucContext server)
{
	DefineCustomIntVariable("gpuagent.max_databases",
							"Databases that get a maintenance worker.",
							"0: none. Each takes one of max_worker_processes, as do the launcher and the supervisor.",
							&ga_max_databases, 8, 0, 1024, server, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.auto_save_interval",
							"How often a checkpoint is made by itself, when something changed.",
							"0: never.",
							&ga_auto_save_interval, 300, 0, 2000000, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("gpuagent.auto_export",
							 "Exports automatic checkpoints.",
							 "The owner of the tables needs the rights to read and write files of the server.",
							 &ga_auto_export, false, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.max_jobs",
							"Background workers that run jobs at a time, in all databases together.",
							"0: none. Each takes one of max_worker_processes while it runs.",
							&ga_max_jobs, 2, 0, 1024, server, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.job_nice",
							"Steps that jobs lower their priority on the processor (nice), with their parallel workers.",
							"0: none. It holds for jobs that are taken up afterwards.",
							&ga_job_nice, 19, 0, 19, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.io_rate_limit",
							"Bytes a second that an export or other bulk work reads or writes at most.",
							"0: no limit. It holds for each session and each job, with their parallel workers.",
							&ga_io_rate_limit, 0, 0, INT_MAX, PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.launcher_interval",
							"How often the launcher looks for databases.",
							"Changes that sessions make are noticed at once.",
							&ga_launcher_interval, 10, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

void
ga_guc_init(void)
{
	GucContext	server = process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP;

	DefineCustomEnumVariable("gpuagent.profile",
							 "Selects the defaults of a production or a development machine.",
							 "production stores the tree at " PRODUCTION_PATH
							 "; development beside the data directory.",
							 &profile, GA_PROFILE_DEVELOPMENT, profiles, server, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("gpuagent.storage_path",
							   "Base directory of exported checkpoints, caches and journals.",
							   "Empty: chosen by gpuagent.profile. Must not lie inside the data directory.",
							   &storage_path, env_path("EXORUST_GPU_STORAGE_PATH"), server,
							   GUC_SUPERUSER_ONLY, check_storage_path, NULL, NULL);
	DefineCustomBoolVariable("gpuagent.compression",
							 "Compresses stored chunks and the text form of tensors (byte shuffle + zstd).",
							 NULL, &ga_compression, env_bool("EXORUST_STORAGE_COMPRESSION", true),
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.compression_level",
							"zstd level of compression.",
							"After the byte shuffle, level 1 compresses weights as well as level 3 does.",
							&ga_compression_level, 1, 1, 19, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.max_checkpoints",
							"Automatic checkpoints that are kept, and checkpoints of all kinds that prune_checkpoints() keeps without rules.",
							NULL, &ga_max_checkpoints, 10, 1, 1000000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("gpuagent.discard_grace",
							"Time for which the exported folder of a deleted checkpoint stays.",
							"Who has just read its name from \"latest\" can still open it.",
							&ga_discard_grace, 600, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	define_device_settings(server);
	define_worker_settings(server);
	define_collect_settings();
	define_peer_settings();
	MarkGUCPrefixReserved("gpuagent");
}

uint64
ga_device_budget(void)
{
	int			megabytes = cache_size;

	if (megabytes < 0)
		megabytes = profile == GA_PROFILE_PRODUCTION ? PRODUCTION_CACHE : DEVELOPMENT_CACHE;
	return (uint64) megabytes * 1024 * 1024;
}

char *
ga_storage_path(void)
{
	char	   *path;

	if (storage_path != NULL && storage_path[0] != '\0')
		path = pstrdup(storage_path);
	else if (profile == GA_PROFILE_PRODUCTION)
		path = pstrdup(PRODUCTION_PATH);
	else
	{
		char	   *parent = pstrdup(DataDir);

		get_parent_directory(parent);
		path = psprintf("%s/gpu_storage-%d", parent, PostPortNumber);
	}
	canonicalize_path(path);
	return path;
}
