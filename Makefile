# gpuagent: PGXS build. `make demo` and `make test` do all the set-up by themselves (README.md).
EXTENSION = gpuagent
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" gpuagent.control)
MODULE_big = gpuagent

# Every C file below src is part of the module; its folders are the rooms of doc/architecture.md.
OBJS := $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))

# The install script is its sections in reading order; the setup steps are embedded as an SQL function.
SQL_PARTS := $(sort $(wildcard sql/part/*.sql))
SETUP_STEPS := $(sort $(wildcard sql/setup/*.sql))
EXTENSION_SCRIPT = sql/$(EXTENSION)--$(EXTVERSION).sql
DATA_built = $(EXTENSION_SCRIPT)
EXTRA_CLEAN = $(EXTENSION_SCRIPT) $(wildcard src/*/*.d src/*.d)

PG_CPPFLAGS = -I$(srcdir)/src -DGA_VERSION='"$(EXTVERSION)"' -MMD -MP
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare -ffp-contract=off $(if $(WERROR),-Werror)
SHLIB_LINK = -lzstd

# Bitcode would let the server's JIT inline our functions; the kernels are reached through pointers, so nothing gains.
override with_llvm = no

# For "make installcheck" on a running server that has the extension installed.
REGRESS = $(shell sed -n 's/^test: *//p' test/schedule)
REGRESS_OPTS = --inputdir=test --load-extension=$(EXTENSION)
ISOLATION = $(shell sed -n 's/^test: *//p' test/isolation_schedule)
ISOLATION_OPTS = --inputdir=test --outputdir=. --load-extension=$(EXTENSION)

# The targets that set everything up work before PostgreSQL is there, so without PGXS.
include test/harness/targets.mk
ifneq ($(filter-out $(HARNESS_GOALS),$(or $(MAKECMDGOALS),all)),)
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
endif

$(EXTENSION_SCRIPT): $(SQL_PARTS) $(SETUP_STEPS) sql/assemble.sh gpuagent.control
	bash sql/assemble.sh > $@.tmp && mv $@.tmp $@

-include $(wildcard src/*/*.d src/*.d)
