/*
 * ops.h
 *		The two implementations of the operations of device.h, for device.c: in
 *		place by this process (host.c), and by requests to gpuagent_device (client.c).
 */
#ifndef GA_OPS_H
#define GA_OPS_H

#include "base/compat.h"
#include "device/device.h"

/* ---- host.c ---- */

/* Path of a region's file or, with a suffix, of one beside it. */
extern void ga_region_path(char *path, size_t size, uint64 region, const char *suffix);

/* Reports by errno why such a file could not be opened: 55000 when it is gone, since any session may remove a region that nobody holds. */
pg_noreturn extern void ga_region_open_failed(const char *path);

/* The file with its control page and `nbytes` of data, which may be none, with their memory if asked; bytes that it has or will have. */
extern uint64 ga_region_file_create(uint64 region, uint64 data_bytes, uint64 nbytes, bool allocate);

/* Removes it; its size, 0 when there was none. Never throws. */
extern uint64 ga_region_file_remove(uint64 region);

extern uint64 ga_host_create(uint64 region, uint64 nbytes, bool allocate);
extern void ga_host_remove(uint64 region);
extern void ga_host_upload(uint64 region, uint64 offset, const char *data, uint64 nbytes);
extern void ga_host_download(uint64 region, uint64 offset, char *data, uint64 nbytes);
extern void ga_host_copy(uint64 source, uint64 target, uint64 nbytes);
extern void ga_host_fingerprint(uint64 region, uint64 nbytes, GaFingerprint *out);
extern void ga_host_gather(uint64 region, uint64 nbytes, const uint32 *leaves, uint32 n, char *out);
extern void ga_host_sha256(uint64 region, uint64 nbytes, const uint32 *leaves, uint32 n, uint8 *out);
extern void ga_host_gather_rows(uint64 source, uint64 target, const uint64 (*pairs)[2], uint32 n, uint32 row_bytes);

/* ---- client.c ---- */

/* optional: 0 instead of an error when it would exceed the budget. */
extern uint64 ga_client_create(uint64 region, int device, uint64 nbytes, bool ipc, uint8 *ipc_handle, bool optional);
extern void ga_client_remove(uint64 region, int device);
extern void ga_client_upload(uint64 region, int device, uint64 offset, const char *data, uint64 nbytes);
extern void ga_client_download(uint64 region, int device, uint64 offset, char *data, uint64 nbytes);
extern void ga_client_copy(int device, uint64 source, uint64 target, uint64 nbytes);
extern void ga_client_fingerprint(uint64 region, int device, uint64 nbytes, GaFingerprint *out);
extern void ga_client_gather(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, char *out);
extern void ga_client_sha256(uint64 region, int device, uint64 nbytes, const uint32 *leaves, uint32 n, uint8 *out);
extern void ga_client_gather_rows(int device, uint64 source, uint64 target, const uint64 (*pairs)[2], uint32 n, uint32 row_bytes);
extern void ga_client_grant(uint64 region, int device, bool write, const uint8 *name, const uint8 *token, TimestampTz expires);
extern void ga_client_revoke(int device, const uint8 *name);

#endif							/* GA_OPS_H */
