/*
 * tree.h
 *		The tree of files below gpuagent.storage_path: path policy and primitives.
 *
 * Paths are relative to the base, their components of [A-Za-z0-9._-], not
 * beginning with a dot. Links are never followed: each component is opened
 * relative to its parent with O_NOFOLLOW. Folders are 0700, files 0600.
 *
 * A file appears under its name only when it is complete: it is written in a
 * private folder (.tmp-*), flushed, and then renamed. Private folders go with
 * their transaction; those of dead processes are swept.
 */
#ifndef GA_CHECKPOINT_TREE_H
#define GA_CHECKPOINT_TREE_H

#include "base/compat.h"

#define GA_SHA256_LEN 32

/* ERROR 42501 without pg_read_server_files, pg_write_server_files. */
extern void ga_files_require_read(void);
extern void ga_files_require_write(void);

/* ERROR 42501 without one of the two; for names, sizes and hashes of files. */
extern void ga_files_require_any(void);

/*
 * Between true and false the three above let everybody pass: for calls of this
 * extension's own functions on paths that the caller cannot choose.
 */
extern void ga_files_trust(bool begin);

/* ERROR 22023 for a path that the policy refuses. Every function below checks its paths itself. */
extern void ga_path_check(const char *path);

/* A name of an object as one component of a path: other bytes than letters, digits, "." and "-" as "_xx". */
extern char *ga_path_encode(const char *name);

/*
 * Opens the folder that holds the last component of a path, which it gives; with
 * `create` makes missing folders. The caller closes it before it throws.
 */
extern int	ga_path_open_parent(const char *path, bool create, const char **last);

/* Reports by errno why name in folder parent could not be opened; closes parent. */
extern void ga_path_open_failed(int parent, const char *name, const char *path);

/* Opens a folder, "" for the base. */
extern int	ga_folder_open(const char *path);

/* Makes the entries of an open folder durable; some file systems cannot sync folders and need not. Closes fd. */
extern void ga_folder_sync(int fd, const char *path);

extern void ga_close_keeping_errno(int fd);

/* Writes all of it at an offset, in several pieces where the system takes less. Never throws; false with errno. */
extern bool ga_write_all(int fd, const char *data, size_t len, off_t at);

/* Makes a private folder in folder `parent`, to be removed with the transaction. Sweeps leftovers of dead processes. */
extern char *ga_temp_create(const char *parent);
extern void ga_temp_remove(const char *path);

/* Lets a private folder of this process outlive the commit of this transaction, until the end of the next one; false when it is none. */
extern bool ga_temp_keep(const char *path);

/* In a parallel worker: path is a file in a private folder of the leader, which this process may use. */
extern void ga_temp_join(const char *path);

/* True below a private folder of this transaction, and for such a folder itself. */
extern bool ga_temp_is_own(const char *path);

/* Syncs a private folder; lets it go on under another name. */
extern void ga_temp_sync(const char *path);
extern void ga_temp_release(const char *path);

/* Takes over a private folder: it is the caller's business from now on, with the two descriptors that ReserveExternalFD counts. */
extern void ga_temp_take(const char *path, int *parent, int *fd);

/* A random name of a private file or folder; false without randomness. */
extern bool ga_temp_name(char *name, size_t size);

/* Removes what is private in an open folder and nobody holds a lock on: its owner died. True when nothing private is left. Never throws. */
extern bool ga_temp_sweep(int parent);

/* Removes a file, or a folder with all in it. Never throws; leaves what it cannot remove. */
extern void ga_tree_remove(int parent, const char *name);

/* ---- claim.c: one server writes into a tree ---- */

extern void ga_tree_claim_register(void);	/* shared area; only while preloading */

/* For the launcher, every now and then: takes or keeps the tree for this server. */
extern void ga_tree_claim(void);

/* True when another server has it. */
extern bool ga_tree_is_others(void);

/* ERROR 55006 when another server has it. Every function that writes calls it. */
extern void ga_tree_require_own(void);

/* ---- file.c ---- */

typedef struct GaFile GaFile;

/*
 * Creates a file, which must not exist, and its folders. Closed when the current memory context
 * goes. nbytes, when known (else 0), is reserved, so that a full disk is found at once.
 */
extern GaFile *ga_file_create(const char *path, uint64 nbytes);
extern void ga_file_write(GaFile *file, const void *data, size_t nbytes);

/*
 * Several processes may write one file: between ga_file_share() and ga_file_unshare() whoever has opened it puts whole
 * blocks where they belong, from memory that is aligned as they are, and its maker gives the SHA-256 their bytes in order.
 * ga_file_share() hands over the last bytes so far, fewer than a block, which are hashed but not written: the first block
 * that others put begins with them. ga_file_unshare() says how large the file is now, and has those bytes at its end that
 * nobody put, beginning with a block; they are hashed, too.
 */
#define GA_FILE_BLOCK 4096

extern size_t ga_file_share(GaFile *file, char *head);
extern void ga_file_hash_shared(GaFile *file, const char *data, size_t nbytes);
extern void ga_file_unshare(GaFile *file, uint64 size, const char *tail, size_t nbytes);

/* Opens a file that another process has made (direct: as ga_file_is_direct() said there), to put blocks into it. */
extern GaFile *ga_file_join(const char *path, bool direct);
extern bool ga_file_is_direct(const GaFile *file);
extern void ga_file_put(GaFile *file, uint64 offset, const char *data, size_t nbytes);

/* Flushes, syncs and closes; gives the SHA-256 of what was written. Returns the size. */
extern uint64 ga_file_finish(GaFile *file, uint8 sha256[GA_SHA256_LEN]);

/* Opens a regular file to read; ERROR 58P01 when there is none, 42809 for a link or anything else. */
extern GaFile *ga_file_open(const char *path);
extern uint64 ga_file_size(const GaFile *file);

/* Exactly nbytes at offset; ERROR XX001 when the file ends before. */
extern void ga_file_read(GaFile *file, uint64 offset, void *dst, size_t nbytes);
extern void ga_file_close(GaFile *file);

/* SHA-256 of a file's contents, its size. */
extern uint64 ga_file_hash(const char *path, uint8 sha256[GA_SHA256_LEN]);

/* ---- folder.c ---- */

/* Moves a file over the old one, or (!replace) to a name that must be free: ERROR 58P02. Synced. */
extern void ga_file_publish(const char *from, const char *to, bool replace);

/* Moves a whole private folder to a name that must be free: ERROR 58P02. Its files were synced before. */
extern void ga_temp_publish(const char *from, const char *to);

/* Renames a file or folder to a name that must be free. Synced. */
extern void ga_path_rename(const char *from, const char *to);

/* Removes a file; false when there is none. */
extern bool ga_file_remove(const char *path);

/* True when a file or folder has this path. */
extern bool ga_path_exists(const char *path);

/* Names in a folder ("": the base), without those beginning with a dot, sorted; a folder that does not exist is empty. */
extern char **ga_dir_list(const char *path, int *count);

#endif							/* GA_CHECKPOINT_TREE_H */
