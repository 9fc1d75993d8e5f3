/*
 * request.h
 *		One request of this process to gpuagent_device at a time, in the slot of its
 *		process number. For the files of this room.
 */
#ifndef GA_REQUEST_H
#define GA_REQUEST_H

#include "base/compat.h"
#include "device/device.h"
#include "device/mapping.h"

/*
 * Takes the slot and fills it but for arguments; 55000 when the device does not
 * serve, or is still busy with a request that this process gave up.
 */
extern GaSlot *ga_request_begin(GaOp op, int device);

/* Hands it over. */
extern void ga_request_submit(void);

/*
 * Waits, interruptibly. On return the slot is free again; what it had been
 * answered is in the copy until the next request. Adds its times to
 * ga_last_request. The second throws as device.h says when the answer is not OK.
 */
extern const GaSlot *ga_request_wait(void);
extern const GaSlot *ga_request_finish(void);

/* True when a submitted request has been answered: ga_request_wait will not wait. */
extern bool ga_request_is_done(void);

/* Gives up a submitted request, if there is one; never throws. At abort and exit by itself. */
extern void ga_request_abandon(void);

/* The same, if it is the one that makes this region. */
extern void ga_request_abandon_making(uint64 region);

/* Throws for a status other than OK. */
extern void ga_request_check(const GaSlot *answer);

#endif							/* GA_REQUEST_H */
