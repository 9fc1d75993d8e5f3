/*
 * findings.h
 *		Rows of check_setup(): each room reports what it alone can know.
 */
#ifndef GA_FINDINGS_H
#define GA_FINDINGS_H

#include "base/compat.h"
#include "funcapi.h"

/* Adds a row to a materialized result; status is ok, warning or error; hint may be NULL. */
extern void ga_add_finding(ReturnSetInfo *rsinfo, const char *item, const char *status, const char *detail, const char *hint);

#endif							/* GA_FINDINGS_H */
