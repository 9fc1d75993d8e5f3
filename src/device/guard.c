/*
 * guard.c
 *		Mappings that outlive their file's bytes (guard.h).
 *
 * SIGBUS comes at the instruction that touches a page which its file does not
 * have, or for which the file system has no memory. The handler puts anonymous
 * memory there, up to the end of the mapping, and the instruction is run again.
 * Whoever uses the mapping asks afterwards. A signal elsewhere is for whom it
 * was before. The handler reads a list that changes only while nobody is
 * touching a mapping.
 */
#include "base/compat.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/guard.h"
#include "utils/memutils.h"

typedef struct Guard
{
	char	   *address;
	size_t		nbytes;
	volatile bool broken;
} Guard;

static Guard *guards = NULL;
static int	nguards = 0;
static int	max_guards = 0;
static bool installed = false;
static struct sigaction previous;

static Guard *
find(const void *address)
{
	for (int i = 0; i < nguards; i++)
		if ((const char *) address >= guards[i].address && (const char *) address < guards[i].address + guards[i].nbytes)
			return &guards[i];
	return NULL;
}

/* Only system calls. */
static bool
replace(Guard *guard, char *touched)
{
	char	   *from = (char *) TYPEALIGN_DOWN(sysconf(_SC_PAGESIZE), touched);

	guard->broken = true;
	return mmap(from, guard->address + guard->nbytes - from, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static void
on_sigbus(int signo, siginfo_t *info, void *context)
{
	int			save_errno = errno;
	Guard	   *guard = info->si_code > 0 ? find(info->si_addr) : NULL;

	if (guard == NULL || !replace(guard, info->si_addr))
	{
		if (previous.sa_flags & SA_SIGINFO)
			previous.sa_sigaction(signo, info, context);
		else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN)
			previous.sa_handler(signo);
		else
			(void) sigaction(SIGBUS, &previous, NULL);
	}
	errno = save_errno;
}

static void
install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_RESTART};

	sigemptyset(&action.sa_mask);
	if (!installed && sigaction(SIGBUS, &action, &previous) == 0)
		installed = true;
}

void *
ga_guard_map(int fd, size_t nbytes)
{
	void	   *address;

	install();
	if (nguards == max_guards)
	{
		int			more = Max(2 * max_guards, 16);

		guards = guards == NULL ? MemoryContextAlloc(TopMemoryContext, more * sizeof(Guard)) :
			repalloc(guards, more * sizeof(Guard));
		max_guards = more;
	}
	address = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (address == MAP_FAILED)
		return NULL;
	guards[nguards++] = (Guard) {.address = address, .nbytes = nbytes};
	return address;
}

void
ga_guard_unmap(void *address)
{
	Guard	   *guard = find(address);

	if (guard == NULL)
		return;
	munmap(guard->address, guard->nbytes);
	*guard = guards[--nguards];
}

bool
ga_guard_is_broken(const void *address)
{
	const Guard *guard = find(address);

	return guard == NULL || guard->broken;
}
