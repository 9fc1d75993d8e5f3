/*
 * keeper.h
 *		The supervisor's end of the keeper's socket: descriptors of the memory of
 *		regions, which so outlives gpuagent_device. For the supervisor only.
 */
#ifndef GA_KEEPER_H
#define GA_KEEPER_H

#include "base/compat.h"
#include "device/protocol.h"

/* Starts the program with the other end of a new socket; false, after a message, when that is not possible. */
extern bool ga_keeper_start(const char *program, char *const argv[], pid_t *child);

/* Socket to wait on for reading; -1 when there is none, or the other end is closed. */
extern int	ga_keeper_socket(void);

/* Sends what remains of RESTORE and START; true when all is sent. */
extern bool ga_keeper_restore(void);

/* Takes what has come. */
extern void ga_keeper_receive(void);

/* After the process is gone: takes what it had sent, and closes the socket. */
extern void ga_keeper_end(void);

extern bool ga_keeper_keeps(uint64 region);
extern void ga_keeper_drop(uint64 region);

#endif							/* GA_KEEPER_H */
