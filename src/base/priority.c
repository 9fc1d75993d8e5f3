/*
 * priority.c
 *		Lower priority on the processor for background work (priority.h).
 *
 * Each process of the server is a session of its own to the operating system. Where
 * Linux groups processes by session (sysctl kernel.sched_autogroup_enabled), the
 * nice value counts among those of one session only, and that of the group, in
 * /proc/self/autogroup, counts among groups: so both are set. The latter is
 * taken once in 100 ms from all processes together, unless they are root's.
 *
 * All this is of use, not needed: what fails is not tried again and hurts nobody.
 */
#include "base/compat.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/priority.h"
#include "portability/instr_time.h"

#define LOWEST 19

/* Between attempts at the group's value. */
#define RETRY_US 20000

static int	began_with = 0;
static int	lowered = 0;
static bool group_pending = false;
static uint64 group_tried;

static uint64
now_us(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MICROSEC(now);
}

/* The group is lowered as far as the process; pending when the kernel says that it is too early. */
static void
lower_group(void)
{
	char		text[16];
	int			length = snprintf(text, sizeof(text), "%d\n", Min(began_with + lowered, LOWEST));
	int			fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);

	group_pending = fd >= 0 && write(fd, text, length) < 0 && (errno == EAGAIN || errno == EINTR);
	group_tried = now_us();
	if (fd >= 0)
		close(fd);
}

void
ga_priority_lower(int steps)
{
	if (steps <= lowered)
		return;
	if (lowered == 0)
		began_with = getpriority(PRIO_PROCESS, 0);
	if (setpriority(PRIO_PROCESS, 0, Min(began_with + steps, LOWEST)) < 0)
		return;
	lowered = steps;
	if (getsid(0) == getpid())	/* nobody else is in the group */
		lower_group();
}

int
ga_priority_lowered(void)
{
	return lowered;
}

void
ga_priority_settle(void)
{
	if (group_pending && now_us() - group_tried >= RETRY_US)
		lower_group();
}
