/*
 * xid.h
 *		32-bit transaction ids against 64-bit horizons. Plain C.
 */
#ifndef GA_XID_H
#define GA_XID_H

#include <stdbool.h>
#include <stdint.h>

/*
 * True unless the row version with this raw xmin was certainly written by a transaction below `horizon`. `next` is
 * the next full transaction id to be given out. The epoch of xmin is not stored: it is taken to be the newest that
 * fits, so an old (frozen) row may be taken for a recent one, never the other way round. Permanent ids (0..2), which
 * say nothing about age, and ids that do not exist yet count as changed.
 */
static inline bool
ga_xid_changed_since(uint32_t xmin, uint64_t next, uint64_t horizon)
{
	uint64_t	full = (next & ~(uint64_t) UINT32_MAX) | xmin;

	if (xmin < 3)
		return true;
	if (full >= next)
	{
		if (next <= UINT32_MAX)
			return true;
		full -= (uint64_t) UINT32_MAX + 1;
	}
	return full >= horizon;
}

#endif							/* GA_XID_H */
