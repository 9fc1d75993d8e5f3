/*
 * memory.c
 *		Allocations of several megabytes (memory.h).
 *
 * Systems whose transparent huge pages are set to "madvise" give them only to
 * who asks; with "always" and "never" the question changes nothing.
 */
#include "base/compat.h"

#include <sys/mman.h>

#include "base/memory.h"

#define HUGE_PAGE ((uintptr_t) 2 * 1024 * 1024)

/* Below this there is hardly a whole huge page inside. */
#define WORTH_ASKING (2 * HUGE_PAGE)

/* Only whole huge pages: neighbours of the allocation are not ours. A refusal is no error. */
static void *
ask_for_huge_pages(void *pointer, Size size)
{
#ifdef MADV_HUGEPAGE
	if (size >= WORTH_ASKING)
	{
		uintptr_t	begin = TYPEALIGN(HUGE_PAGE, (uintptr_t) pointer);
		uintptr_t	end = TYPEALIGN_DOWN(HUGE_PAGE, (uintptr_t) pointer + size);

		(void) madvise((void *) begin, end - begin, MADV_HUGEPAGE);
	}
#endif
	return pointer;
}

void *
ga_palloc_large(Size size)
{
	return ask_for_huge_pages(palloc(size), size);
}

void *
ga_repalloc_large(void *pointer, Size size)
{
	return ask_for_huge_pages(repalloc(pointer, size), size);
}
