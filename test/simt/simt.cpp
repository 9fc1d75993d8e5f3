/*
 * simt.cpp
 *		Runs kernels of cuda/ on the CPU, thread by thread, and the memory that they
 *		work on. It finds wrong answers, and what a GPU would only sometimes show:
 *
 *	- a thread goes on until it waits, those of a block in ascending order in one
 *	  launch and in descending order in the next. What needs a __syncthreads() that
 *	  is not there reads what was not written yet;
 *	- threads that wait for each other for ever, such as lanes of a warp of which
 *	  some have left it, end the program;
 *	- memory on the device ends at a page that cannot be touched.
 *
 * It does not run threads at once: what is atomic on a GPU only by accident is
 * not found, nor what caches, alignment of more than 16 bytes, or F32 division do.
 */
#include "device.cuh"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <deque>
#include <vector>

#define LANES 32
#define MOST_THREADS 1024
#define STACK ((size_t) 128 << 10)
#define SHARED ((size_t) 228 << 10)
#define PAGE ((size_t) 4096)

dim3		threadIdx, blockIdx, blockDim, gridDim;
char	   *simt_dynamic_shared;

/* ----- threads of a block ----- */

typedef enum State
{
	READY, IN_WARP, IN_BLOCK, DONE
} State;

typedef struct Thread
{
	jmp_buf		context;
	State		state;
	uint64_t	turn;			/* of the warp or the block: it waits until this is over */
} Thread;

typedef struct Warp
{
	uint64_t	turn;
	unsigned int arrived;
	uint64_t	values[2][LANES];	/* of this turn, and of the one before */
} Warp;

static Thread threads[MOST_THREADS];
static Warp warps[MOST_THREADS / LANES];
static const std::function<void()> *running;
static jmp_buf scheduler;
static Thread *current;
static unsigned int alive;
static unsigned int waiting;	/* in simt_sync_block */
static uint64_t block_turn;

static void
fail(const char *what)
{
	printf("Bail out! simt: block %u of %u, thread %u: %s\n", blockIdx.x, gridDim.x, threadIdx.x, what);
	exit(1);
}

static void
pause(State state, uint64_t turn)
{
	current->state = state;
	current->turn = turn;
	if (_setjmp(current->context) == 0)
		_longjmp(scheduler, 1);
}

/* All threads that have not ended are in the call, or ended before it. */
static void
end_block_turn(void)
{
	waiting = 0;
	block_turn++;
}

void
simt_sync_block(void)
{
	uint64_t	turn = block_turn;

	if (++waiting == alive)
		end_block_turn();
	else
		pause(IN_BLOCK, turn);
}

const uint64_t *
simt_exchange(unsigned int mask, uint64_t value)
{
	Warp	   *warp = &warps[threadIdx.x / LANES];
	uint64_t	turn = warp->turn;
	unsigned int me = 1u << threadIdx.x % LANES;

	if (!(mask & me))
		fail("a lane exchanges values among others");
	warp->values[turn % 2][threadIdx.x % LANES] = value;
	warp->arrived |= me;
	if ((warp->arrived & mask) == mask)
	{
		warp->arrived = 0;
		warp->turn++;
	}
	else
		pause(IN_WARP, turn);
	return warp->values[turn % 2];
}

/* ----- copies to shared memory ----- */

typedef struct Copy
{
	void	   *to;
	const void *from;
	int			nbytes;
} Copy;

/* Of each thread: groups that are under way, and the one that is not complete yet. */
static std::deque<std::vector<Copy>> groups[MOST_THREADS];
static std::vector<Copy> copies[MOST_THREADS];

void
simt_copy(void *shared, const void *global, int nbytes)
{
	if (((uintptr_t) shared | (uintptr_t) global) % 16 != 0 || nbytes < 0 || nbytes > 16)
		fail("such a copy is not possible");
	copies[threadIdx.x].push_back({shared, global, nbytes});
}

void
simt_copy_commit(void)
{
	groups[threadIdx.x].push_back(std::move(copies[threadIdx.x]));
	copies[threadIdx.x].clear();
}

void
simt_copy_wait(int most)
{
	std::deque<std::vector<Copy>> &mine = groups[threadIdx.x];

	for (; mine.size() > (size_t) most; mine.pop_front())
		for (const Copy &copy : mine.front())
		{
			memset(copy.to, 0, 16);
			memcpy(copy.to, copy.from, (size_t) copy.nbytes);
		}
}

/* ----- running them ----- */

/* What a thread's stack begins with: one kernel after the other. */
static void
thread_main(void)
{
	for (;;)
	{
		(*running)();
		groups[threadIdx.x].clear();
		copies[threadIdx.x].clear();
		alive--;
		if (alive > 0 && waiting == alive)
			end_block_turn();
		pause(DONE, 0);
	}
}

static void
make_thread(Thread *thread)
{
	static ucontext_t back;
	static ucontext_t context;
	char	   *stack = (char *) mmap(NULL, PAGE + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (stack == MAP_FAILED || mprotect(stack, PAGE, PROT_NONE) < 0 || getcontext(&context) < 0)
		fail("no stack");
	context.uc_stack.ss_sp = stack + PAGE;
	context.uc_stack.ss_size = STACK;
	context.uc_link = NULL;
	makecontext(&context, thread_main, 0);
	current = thread;
	if (_setjmp(scheduler) == 0)
		swapcontext(&back, &context);
}

static bool
may_run(const Thread *thread, const Warp *warp)
{
	switch (thread->state)
	{
		case IN_WARP:
			return warp->turn != thread->turn;
		case IN_BLOCK:
			return block_turn != thread->turn;
		case DONE:
			return false;
		default:
			return true;
	}
}

/* Lets a thread go on until it waits or ends. */
static void
resume(unsigned int index, bool fresh)
{
	current = &threads[index];
	threadIdx = dim3(index);
	if (fresh)
		make_thread(current);
	else if (_setjmp(scheduler) == 0)
		_longjmp(current->context, 1);
}

/* Runs a warp until none of its lanes can go on; whether any did. */
static bool
run_warp(unsigned int first, bool descending)
{
	static bool made[MOST_THREADS];
	bool		any = false;
	bool		again;

	do
	{
		again = false;
		for (unsigned int i = 0; i < LANES; i++)
		{
			unsigned int index = first + (descending ? LANES - 1 - i : i);

			if (index >= blockDim.x || !may_run(&threads[index], &warps[first / LANES]))
				continue;
			threads[index].state = READY;
			resume(index, !made[index]);
			made[index] = true;
			again = any = true;
		}
	} while (again);
	return any;
}

static void
run_block(bool descending)
{
	unsigned int nwarps = (blockDim.x + LANES - 1) / LANES;

	alive = blockDim.x;
	waiting = 0;
	memset(warps, 0, sizeof(warps));
	for (unsigned int i = 0; i < blockDim.x; i++)
		threads[i].state = READY;
	while (alive > 0)
	{
		bool		any = false;

		for (unsigned int w = 0; w < nwarps; w++)
			any |= run_warp((descending ? nwarps - 1 - w : w) * LANES, descending);
		if (!any)
			fail("threads wait for each other for ever");
	}
}

void
simt_launch(dim3 grid, dim3 block, size_t shared, cudaStream_t, const std::function<void()> &kernel)
{
	static bool descending = false;

	if (block.x == 0 || block.x > MOST_THREADS || grid.x == 0 || grid.y == 0 || grid.y > 65535 || shared > SHARED)
		fail("such a launch is not possible");
	if (simt_dynamic_shared == NULL)
		simt_dynamic_shared = (char *) aligned_alloc(PAGE, SHARED);
	gridDim = grid;
	blockDim = block;
	running = &kernel;
	for (unsigned int y = 0; y < grid.y; y++)
		for (unsigned int x = 0; x < grid.x; x++)
		{
			blockIdx = dim3(x, y);
			memset(simt_dynamic_shared, 0x5a, shared);
			run_block(descending);
		}
	descending = !descending;
}

/* ----- cuda/backend.h ----- */

CudaDriver	ga_driver;
int			ga_cuda_multiprocessors[GA_MAX_DEVICES] = {3};
bool		ga_cuda_filters[GA_MAX_DEVICES] = {true};
const uint4 *ga_cuda_key[GA_MAX_DEVICES];

/* Memory, of a file or not (-1), that ends, up to 15 bytes, at a page that cannot be touched. */
static char *
map(size_t nbytes, int fd, size_t *mapped)
{
	size_t		whole = (nbytes + PAGE - 1) / PAGE * PAGE;
	char	   *base = (char *) mmap(NULL, whole + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED || mmap(base, whole, PROT_READ | PROT_WRITE, MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED),
								   fd, 0) == MAP_FAILED)
		fail("out of memory");
	*mapped = whole + PAGE;
	return base + (whole - (nbytes + 15) / 16 * 16);
}

static void
unmap(char *address, size_t mapped)
{
	munmap((char *) ((uintptr_t) address / PAGE * PAGE), mapped);
}

int
ga_backend_start(char *)
{
	return 1;
}

void
ga_backend_info(int, GaDeviceInfo *info)
{
	snprintf(info->name, sizeof(info->name), "simt");
}

uint64_t
ga_backend_granularity(int)
{
	return 16;
}

bool
ga_backend_register(void *, size_t, char *)
{
	return true;
}

void
ga_backend_key(const uint8_t *key)
{
	ga_cuda_key[0] = (const uint4 *) key;
}

GaStatus
ga_backend_worker(GaWorker *worker)
{
	static CudaWorker cuda;

	worker->state = &cuda;
	return GA_STATUS_OK;
}

void *
ga_backend_staging(GaWorker *, size_t nbytes)
{
	static char *memory;
	static size_t mapped;

	if (memory)
		unmap(memory, mapped);
	return memory = map(nbytes, -1, &mapped);
}

/* What was there before is gone, and what is there is nothing to work with. */
char *
ga_cuda_scratch(GaWorker *, size_t nbytes)
{
	static char *memory;
	static size_t mapped;

	if (memory)
		unmap(memory, mapped);
	memory = map(nbytes, -1, &mapped);
	memset(memory, 0xa5, nbytes);
	return memory;
}

GaStatus
ga_backend_create(GaWorker *, bool by_handle, GaBlock *block)
{
	size_t		mapped;

	block->fd = by_handle ? -1 : memfd_create("simt", MFD_CLOEXEC);
	if (block->fd >= 0 && ftruncate(block->fd, (off_t) ((block->size + PAGE - 1) / PAGE * PAGE)) < 0)
		fail("out of memory");
	block->address = map(block->size, block->fd, &mapped);
	return GA_STATUS_OK;
}

GaStatus
ga_backend_import(GaWorker *, GaBlock *block)
{
	size_t		mapped;

	block->address = map(block->size, block->fd, &mapped);
	return GA_STATUS_OK;
}

void
ga_backend_free(GaWorker *, GaBlock *block)
{
	unmap(block->address, (block->size + PAGE - 1) / PAGE * PAGE + PAGE);
	if (block->fd >= 0)
		close(block->fd);
}

GaStatus
ga_backend_upload(GaWorker *, char *to, const char *from, uint64_t nbytes)
{
	memcpy(to, from, nbytes);
	return GA_STATUS_OK;
}

GaStatus
ga_backend_download(GaWorker *, char *to, const char *from, uint64_t nbytes)
{
	memcpy(to, from, nbytes);
	return GA_STATUS_OK;
}

GaStatus
ga_backend_copy(GaWorker *, char *to, const char *from, uint64_t nbytes)
{
	memcpy(to, from, nbytes);
	return GA_STATUS_OK;
}

GaStatus
ga_cuda_check(GaWorker *, cudaError_t, const char *)
{
	return GA_STATUS_OK;
}

GaStatus
ga_cuda_finish(GaWorker *, const char *)
{
	return GA_STATUS_OK;
}
