/*
 * leaves.c
 *		The file of a leaf table (leaves.h): header, fingerprints, SHA-256, chunks.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/guard.h"
#include "device/ops.h"
#include "live/leaves.h"

#define LEAVES_MAGIC 0x5641454cu	/* "LEAV" */

static uint64
prints_offset(void)
{
	return MAXALIGN(sizeof(GaLeafHeader));
}

static uint64
hashes_offset(uint64 nleaves)
{
	return prints_offset() + nleaves * sizeof(GaFingerprint);
}

static uint64
chunks_offset(uint64 nleaves)
{
	return hashes_offset(nleaves) + nleaves * sizeof(GaHash);
}

/* Numbers and offsets for a tensor of so many bytes at an address. */
static void
lay_out(GaLeaves *leaves, uint64 nbytes, char *address)
{
	leaves->nleaves = (nbytes + GA_LEAF_SIZE - 1) / GA_LEAF_SIZE;
	leaves->nchunks = (nbytes + GA_CHUNK_SIZE - 1) / GA_CHUNK_SIZE;
	leaves->bytes = chunks_offset(leaves->nleaves) + leaves->nchunks * sizeof(GaLeafChunk);
	if (address == NULL)
		return;
	leaves->header = (GaLeafHeader *) address;
	leaves->prints = (GaFingerprint *) (address + prints_offset());
	leaves->hashes = (GaHash *) (address + hashes_offset(leaves->nleaves));
	leaves->chunks = (GaLeafChunk *) (address + chunks_offset(leaves->nleaves));
}

static void
map_file(int fd, const char *path, uint64 nbytes, GaLeaves *leaves)
{
	char	   *address = ga_guard_map(fd, leaves->bytes);

	close(fd);
	if (address == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not map file \"%s\"", path)));
	lay_out(leaves, nbytes, address);
}

void
ga_leaves_create(uint64 region, uint64 nbytes, GaLeaves *leaves)
{
	char		path[MAXPGPATH];
	int			fd;
	int			rc;

	memset(leaves, 0, sizeof *leaves);
	lay_out(leaves, nbytes, NULL);
	ga_region_path(path, sizeof path, region, ".leaves");
	unlink(path);
	fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create file \"%s\": %m", path)));
	do
		rc = posix_fallocate(fd, 0, (off_t) leaves->bytes);
	while (rc == EINTR);
	if (rc != 0)
	{
		close(fd);
		unlink(path);
		ereport(ERROR,
				(errcode(rc == ENOSPC || rc == ENOMEM ? ERRCODE_DISK_FULL : ERRCODE_IO_ERROR),
				 errmsg("could not allocate %zu bytes for file \"%s\"", leaves->bytes, path),
				 errhint("Unmap what is not needed any more, or make the file system of gpuagent.shared_memory_dir larger.")));
	}
	map_file(fd, path, nbytes, leaves);
	leaves->header->magic = LEAVES_MAGIC;
	leaves->header->nbytes = nbytes;
}

void
ga_leaves_open(uint64 region, uint64 nbytes, GaLeaves *leaves)
{
	char		path[MAXPGPATH];
	struct stat st;
	int			fd;

	memset(leaves, 0, sizeof *leaves);
	lay_out(leaves, nbytes, NULL);
	ga_region_path(path, sizeof path, region, ".leaves");
	fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	if (fstat(fd, &st) != 0 || (uint64) st.st_size < leaves->bytes)
	{
		close(fd);
		return;
	}
	map_file(fd, path, nbytes, leaves);
	if (leaves->header->magic != LEAVES_MAGIC || leaves->header->nbytes != nbytes)
		ga_leaves_close(leaves);
}

void
ga_leaves_copy(const GaLeaves *from, GaLeaves *to)
{
	char	   *address = palloc_extended(from->bytes, MCXT_ALLOC_HUGE);

	memcpy(address, from->header, from->bytes);
	lay_out(to, from->header->nbytes, address);
}

void
ga_leaves_close(GaLeaves *leaves)
{
	if (leaves->header != NULL)
		ga_guard_unmap(leaves->header);
	leaves->header = NULL;
}

void
ga_leaves_set_tensor(GaLeaves *leaves, GaReader *reader)
{
	for (uint64 i = 0; i < leaves->nchunks; i++)
	{
		memset(&leaves->chunks[i], 0, sizeof(GaLeafChunk));
		ga_reader_chunk_hash(reader, i, &leaves->chunks[i].hash);
	}
	leaves->header->tensor = reader->tensor;
}
