/*
 * guard.h
 *		Mappings of files that clients may shorten under them. What a process then
 *		touches would end it by SIGBUS, and with it every session of the server;
 *		here it reads zeros instead, and is told.
 */
#ifndef GA_GUARD_H
#define GA_GUARD_H

#include "base/compat.h"

/* Maps the first nbytes of a file, shared, for reading and writing; NULL, with errno, when that fails. */
extern void *ga_guard_map(int fd, size_t nbytes);
extern void ga_guard_unmap(void *address);

/* True when something was touched that the file does not have: the rest of the mapping is not the file any more. */
extern bool ga_guard_is_broken(const void *address);

#endif							/* GA_GUARD_H */
