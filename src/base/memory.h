/*
 * memory.h
 *		Allocations of several megabytes.
 */
#ifndef GA_MEMORY_H
#define GA_MEMORY_H

#include "base/compat.h"

/*
 * As palloc and repalloc; asks the system for huge pages where that pays. Fresh
 * memory costs a page fault per 4 kB otherwise, which for a matrix that is
 * written once and sent is more than all other work on it.
 */
extern void *ga_palloc_large(Size size);
extern void *ga_repalloc_large(void *pointer, Size size);

#endif							/* GA_MEMORY_H */
