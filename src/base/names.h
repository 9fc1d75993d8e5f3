/*
 * names.h
 *		Names of objects, and the check that setup() ran.
 */
#ifndef GA_NAMES_H
#define GA_NAMES_H

#include "base/compat.h"

#define GA_NAME_MAX 255			/* bytes */

/* 1..255 bytes without ASCII control characters. */
extern bool ga_name_is_valid(const char *name, size_t len);

/* Throws 22023 for an invalid name; kind ("agent id", "swarm") is for the message. */
extern void ga_name_check(const char *kind, const char *name, size_t len);

/* Throws 42P01 with a hint that names setup() when the tables are missing. */
extern void ga_setup_check(void);

#endif							/* GA_NAMES_H */
