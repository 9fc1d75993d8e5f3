# gpuagent: a PGXS build, and targets that set everything up by themselves:
#
#	make demo			the main job, with visible progress (KEEP=1 keeps the cluster)
#	make test			every suite in its short form; make test-long: and what takes longer
#	make test-SUITE			one suite: check unit device regress isolation regress-cuda isolation-cuda pgtap tap python doc
#	make chaos			peers under conflicting writes while servers are killed and links break (ROUNDS=n SEED=s)
#	make bench			what things cost, against plain PostgreSQL (PARTS="agents swarms" picks some);
#					make bench-quick: fewer repetitions
EXTENSION = gpuagent gpuagent_pgvector
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" gpuagent.control)
MODULE_big = gpuagent

# Every C file below src is part of the module; its folders are the rooms of doc/architecture.md.
OBJS := $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))

# The install script is its sections in reading order; the setup steps are embedded as an SQL function.
SQL_PARTS := $(sort $(wildcard sql/part/*.sql))
SETUP_STEPS := $(sort $(wildcard sql/setup/*.sql))
EXTENSION_SCRIPT = sql/gpuagent--$(EXTVERSION).sql
DATA_built = $(EXTENSION_SCRIPT)
# Casts and operator classes for pgvector's types; the functions are in gpuagent's module.
DATA = $(wildcard sql/gpuagent_pgvector--*.sql)
EXTRA_CLEAN = $(EXTENSION_SCRIPT) $(wildcard src/*/*.d src/*.d)

PG_CPPFLAGS = -I$(srcdir)/src -DGA_VERSION='"$(EXTVERSION)"' -MMD -MP
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare -ffp-contract=off $(if $(WERROR),-Werror)
SHLIB_LINK = -lzstd

# Bitcode would let the server's JIT inline our functions; the kernels are reached through pointers, so nothing gains.
override with_llvm = no

# For "make installcheck" on a running server that has the extension installed.
REGRESS = $(shell sed -n 's/^test: *//p' test/schedule)
REGRESS_OPTS = --inputdir=test --load-extension=gpuagent
ISOLATION = $(shell sed -n 's/^test: *//p' test/isolation_schedule)
ISOLATION_OPTS = --inputdir=test --outputdir=. --load-extension=gpuagent

# These need bash and make only, so that they work before PostgreSQL is installed: without PGXS.
.DEFAULT_GOAL := all
SUITES = check unit device regress isolation regress-cuda isolation-cuda pgtap tap python doc
SETUP_GOALS = setup-packages demo bench bench-quick chaos test test-long $(addprefix test-,$(SUITES))
.PHONY: $(SETUP_GOALS)

setup-packages:
	@bash test/harness/packages.sh
demo:
	@bash demo/run.sh
test:
	@bash test/harness/run.sh
test-long:
	@bash test/harness/run.sh --long
$(addprefix test-,$(SUITES)): test-%:
	@bash test/harness/run.sh $*
chaos:
	@GA_TAP=167_chaos GA_CHAOS_ROUNDS=$(or $(ROUNDS),10) GA_CHAOS_SEED=$(or $(SEED),1) bash test/harness/run.sh tap
bench:
	@bash test/bench/run.sh $(PARTS)
bench-quick:
	@bash test/bench/run.sh --quick $(PARTS)

ifneq ($(filter-out $(SETUP_GOALS),$(or $(MAKECMDGOALS),all)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

$(EXTENSION_SCRIPT): $(SQL_PARTS) $(SETUP_STEPS) sql/assemble.sh gpuagent.control
	bash sql/assemble.sh > $@.tmp && mv $@.tmp $@

-include $(wildcard src/*/*.d src/*.d)

# gpuagent_device, the process that owns GPUs: built where CUDA's compiler is, left out without a word where it is not
# (NVCC= leaves it out in any case). It knows nothing of PostgreSQL, so it is built once for all servers.
NVCC ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
ifneq ($(NVCC),)
DEVICE_BUILD = build/device
DEVICE_PROGRAM = $(DEVICE_BUILD)/gpuagent_device
DEVICE_OBJS = $(patsubst %.c,$(DEVICE_BUILD)/%.o,$(notdir $(wildcard cuda/*.c src/math/*.c))) \
	$(patsubst cuda/%.cu,$(DEVICE_BUILD)/%.cu.o,$(wildcard cuda/*.cu))
DEVICE_FLAGS = -O2 -g -Isrc -Icuda
CUDA_ARCHITECTURES = -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=[sm_90,compute_90]

all: $(DEVICE_PROGRAM)

$(DEVICE_BUILD):
	mkdir -p $@
$(DEVICE_BUILD)/%.o: cuda/%.c | $(DEVICE_BUILD)
	$(CC) -std=gnu11 -Wall -Wextra $(if $(WERROR),-Werror) $(DEVICE_FLAGS) -MMD -MP -c -o $@ $<
$(DEVICE_BUILD)/%.o: src/math/%.c | $(DEVICE_BUILD)
	$(CC) -std=gnu11 -Wall -Wextra $(if $(WERROR),-Werror) $(DEVICE_FLAGS) -ffp-contract=off -MMD -MP -c -o $@ $<
$(DEVICE_BUILD)/%.cu.o: cuda/%.cu | $(DEVICE_BUILD)
	$(NVCC) -std=c++17 -Xcompiler -Wall,-Wextra $(if $(WERROR),-Werror all-warnings) $(CUDA_ARCHITECTURES) $(DEVICE_FLAGS) \
		-MMD -MP -c -o $@ $<
$(DEVICE_PROGRAM): $(DEVICE_OBJS)
	$(NVCC) -cudart static $(CUDA_ARCHITECTURES) -o $@ $^ -lpthread

install: install-device
install-device: $(DEVICE_PROGRAM)
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)'
	$(INSTALL_PROGRAM) $(DEVICE_PROGRAM) '$(DESTDIR)$(pkglibdir)/gpuagent_device'
uninstall: uninstall-device
uninstall-device:
	rm -f '$(DESTDIR)$(pkglibdir)/gpuagent_device'
clean: clean-device
clean-device:
	rm -rf $(DEVICE_BUILD)
.PHONY: install-device uninstall-device clean-device

-include $(wildcard $(DEVICE_BUILD)/*.d)
endif
